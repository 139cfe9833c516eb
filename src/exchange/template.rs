//! Values made of fixed text and facts of the exchange: `${path.id}`, `/v2/orders/{id}`.
//!
//! Compiled once; a request looks up nothing by name.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::identity::ClaimPath;
use super::{Exchange, Identity};

/// A template, compiled.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Variable),
    Claim(ClaimPath, Form),
    Identity(Part, Form),
}

/// What of a caller's identity a template may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Subject,
    Provider,
    Roles,
    Scopes,
}

/// The words that stand after `${identity.`, for messages.
const PARTS: &[(&str, Part)] =
    &[("subject", Part::Subject), ("provider", Part::Provider), ("roles", Part::Roles), ("scopes", Part::Scopes)];

/// How a claim is written where only printable ASCII may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Percent-encoded UTF-8: all but visible ASCII, and `%` itself.
    Percent,
    /// Base64url of UTF-8, without padding.
    Base64,
    /// As the value of an extended parameter: `UTF-8''…` (RFC 8187 §3.2).
    Extended,
    /// JSON, also of lists and maps, in ASCII.
    Json,
}

/// The words that stand after `|`, for messages.
const FORMS: &[(&str, Form)] =
    &[("percent", Form::Percent), ("base64url", Form::Base64), ("rfc8187", Form::Extended), ("json", Form::Json)];

/// A value that a template made of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// The value.
    Value(String),
    /// It names a claim that is not there, or that is no single value.
    Absent,
    /// It is longer than it may be.
    TooLong,
}

/// A fact of the exchange that a template may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    /// `path.NAME`, by its place among the route's parameters.
    Param(usize),
    RequestId,
    RequestMethod,
    RequestHost,
    RequestPath,
    ClientAddress,
    RouteName,
}

/// The words that stand after `${`, for messages.
const WORDS: &[(&str, Variable)] = &[
    ("request.id", Variable::RequestId),
    ("request.method", Variable::RequestMethod),
    ("request.host", Variable::RequestHost),
    ("request.path", Variable::RequestPath),
    ("client.address", Variable::ClientAddress),
    ("route.name", Variable::RouteName),
];

/// The names that a route's path gives.
#[derive(Clone, Debug, Default)]
pub struct Params {
    names: Vec<Box<str>>,
    are_known: bool,
}

impl Params {
    /// These names, in their order.
    pub fn known(names: &[Box<str>]) -> Self {
        Self { names: names.to_vec(), are_known: true }
    }

    /// Whatever they are: the path could not be read, which is reported already, and what refers to it is not at fault.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// The place of the one of this name.
    ///
    /// # Errors
    /// The path gives none of this name.
    pub fn place(&self, name: &str) -> Result<usize, TemplateError> {
        if !self.are_known {
            return Ok(0);
        }
        self.names.iter().position(|known| **known == *name).ok_or_else(|| TemplateError {
            message: format!("the route's path has no parameter `{name}`"),
            hint: Some(if self.names.is_empty() {
                "give the match a path with parameters, such as `/orders/{id}`".into()
            } else {
                format!("it has {}", self.names.join(", "))
            }),
        })
    }
}

/// Why a template does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Template {
    /// Compiles a header value: fixed text with `${path.NAME}`, `${request.id}`, `${client.address}` ... in it.
    /// `params` are the names that the route's path gives. `$${` stands for `${`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn value(text: &str, params: &Params) -> Result<Self, Vec<TemplateError>> {
        let (mut pieces, mut errors) = (Pieces::default(), Vec::new());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                pieces.text(&rest[..at]);
                pieces.text("{");
                rest = &rest[at + 2..];
                continue;
            }
            pieces.text(&rest[..at]);
            // Another one that begins before its end: this one has none.
            let end = rest[at..].find('}').filter(|end| !rest[at + 2..at + end].contains("${"));
            let Some(length) = end else {
                errors.push(TemplateError {
                    message: "`${` without its `}`".into(),
                    hint: Some("add the `}`; write `$${` for the characters themselves".into()),
                });
                rest = &rest[at + 2..];
                continue;
            };
            let word = &rest[at + 2..at + length];
            match caller(word).and_then(|piece| piece.map_or_else(|| variable(word, params).map(Piece::Value), Ok)) {
                Ok(piece) => pieces.0.push(piece),
                Err(error) => errors.push(error),
            }
            rest = &rest[at + length + 1..];
        }
        pieces.text(rest);
        if errors.is_empty() { Ok(Self { pieces: pieces.0 }) } else { Err(errors) }
    }

    /// Compiles a path or URL: fixed text with `{NAME}` for the parameters of the route's path.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn path(text: &str, params: &Params) -> Result<Self, Vec<TemplateError>> {
        let (mut pieces, mut errors) = (Pieces::default(), Vec::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            pieces.text(&rest[..at]);
            let inside = rest[at..].strip_prefix('{');
            let end = inside.and_then(|inside| inside.find('}').filter(|end| !inside[..*end].contains(['{', '/'])));
            let Some(length) = end else {
                errors.push(TemplateError {
                    message: format!("`{}` without its counterpart", &rest[at..=at]),
                    hint: Some("write `{name}` for a parameter; other braces are written `%7B` and `%7D`".into()),
                });
                rest = &rest[at + 1..];
                continue;
            };
            match param(&rest[at + 1..=at + length], params) {
                Ok(variable) => pieces.0.push(Piece::Value(variable)),
                Err(error) => errors.push(error),
            }
            rest = &rest[at + length + 2..];
        }
        pieces.text(rest);
        if errors.is_empty() { Ok(Self { pieces: pieces.0 }) } else { Err(errors) }
    }

    /// The text, if nothing of it depends on the request.
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The parts of it that do not depend on the request.
    pub fn fixed(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| if let Piece::Text(text) = piece { Some(text.as_str()) } else { None })
    }

    /// Whether it names who calls.
    pub fn asks_caller(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Claim(..) | Piece::Identity(..)))
    }

    /// The value for this exchange, of at most this many bytes.
    pub fn make(&self, exchange: &Exchange, most: usize) -> Made {
        let identity = exchange.caller.as_ref().map(|caller| &*caller.identity);
        let mut out = String::new();
        for piece in &self.pieces {
            let written = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    Some(())
                }
                Piece::Value(variable) => {
                    out.push_str(&variable.of(exchange));
                    Some(())
                }
                Piece::Claim(path, form) => identity
                    .and_then(|identity| path.find(&identity.claims))
                    .and_then(|claim| form.write(claim, &mut out)),
                Piece::Identity(part, form) => identity.and_then(|identity| part.write(identity, *form, &mut out)),
            };
            if written.is_none() {
                return Made::Absent;
            }
            if out.len() > most {
                return Made::TooLong;
            }
        }
        Made::Value(out)
    }

    /// The value for this exchange, of a template that does not name who calls.
    pub fn render(&self, exchange: &Exchange) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(variable) => out.push_str(&variable.of(exchange)),
                Piece::Claim(..) | Piece::Identity(..) => {}
            }
        }
        out
    }
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.0.push(Piece::Text(text.into())),
        }
    }
}

/// `claims.NAME`, `claims./pointer`, `identity.subject`, each perhaps with a form behind it: `claims.name|base64url`.
fn caller(word: &str) -> Result<Option<Piece>, TemplateError> {
    let (named, form) = match word.rsplit_once('|') {
        None => (word, Form::Percent),
        Some((named, form_word)) if named.starts_with("claims.") || named.starts_with("identity.") => {
            let form = FORMS.iter().find(|(known, _)| *known == form_word).map(|(_, form)| *form);
            let known: Vec<&str> = FORMS.iter().map(|(known, _)| *known).collect();
            (named, form.ok_or_else(|| unknown(&format!("`{form_word}` is no form of a claim"), &known))?)
        }
        Some(_) => return Ok(None),
    };
    if let Some(claim) = named.strip_prefix("claims.").filter(|claim| !claim.is_empty()) {
        return Ok(Some(Piece::Claim(ClaimPath::new(claim), form)));
    }
    let Some(part) = named.strip_prefix("identity.") else { return Ok(None) };
    let known: Vec<&str> = PARTS.iter().map(|(known, _)| *known).collect();
    let found = PARTS.iter().find(|(known, _)| *known == part).map(|(_, part)| *part);
    found
        .map(|part| Some(Piece::Identity(part, form)))
        .ok_or_else(|| unknown(&format!("an identity has no `{part}`"), &known))
}

fn unknown(message: &str, known: &[&str]) -> TemplateError {
    TemplateError { message: message.into(), hint: Some(format!("known are {}", known.join(", "))) }
}

fn variable(word: &str, params: &Params) -> Result<Variable, TemplateError> {
    if let Some(name) = word.strip_prefix("path.") {
        return param(name, params);
    }
    WORDS.iter().find(|(known, _)| *known == word).map(|(_, variable)| *variable).ok_or_else(|| TemplateError {
        message: format!("`${{{word}}}` is nothing that armiger knows"),
        hint: Some(format!(
            "known are path.NAME, claims.NAME, identity.subject, {}; write `$${{` for the characters themselves",
            WORDS.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ")
        )),
    })
}

fn param(name: &str, params: &Params) -> Result<Variable, TemplateError> {
    params.place(name).map(Variable::Param)
}

impl Form {
    /// Writes a claim. `None`: it is nothing, or no single value where only one can be written.
    fn write(self, claim: &Value, out: &mut String) -> Option<()> {
        let text: Cow<'_, str> = match claim {
            Value::Null => return None,
            _ if self == Self::Json => {
                let json = claim.to_string();
                // Beyond ASCII there is an escape for everything (RFC 8259 §7), and within quotes only.
                for unit in json.encode_utf16() {
                    match u8::try_from(unit) {
                        Ok(byte @ b' '..=b'~') => out.push(char::from(byte)),
                        _ => out.push_str(&format!("\\u{unit:04x}")),
                    }
                }
                return Some(());
            }
            Value::String(text) => text.into(),
            Value::Bool(_) | Value::Number(_) => claim.to_string().into(),
            Value::Array(_) | Value::Object(_) => return None,
        };
        self.text(&text, |byte| byte.is_ascii_graphic() && byte != b'%', out);
        Some(())
    }

    /// Writes a text. `stays`: which bytes need no percent sign.
    fn text(self, text: &str, stays: impl Fn(u8) -> bool, out: &mut String) {
        match self {
            Self::Percent => percent(text, stays, out),
            Self::Base64 => URL_SAFE_NO_PAD.encode_string(text, out),
            Self::Extended => {
                out.push_str("UTF-8''");
                percent(text, |byte| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte), out);
            }
            Self::Json => out.push_str(&Value::from(text).to_string()),
        }
    }
}

fn percent(text: &str, stays: impl Fn(u8) -> bool, out: &mut String) {
    for byte in text.bytes() {
        if stays(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl Part {
    /// Writes it: of a caller without roles, nothing. `None`: there is no such text.
    fn write(self, identity: &Identity, form: Form, out: &mut String) -> Option<()> {
        let (words, between) = match self {
            Self::Subject | Self::Provider => {
                let text = if self == Self::Subject { &*identity.subject } else { &*identity.provider };
                return if text.is_empty() { None } else { form.write(&Value::from(text), out) };
            }
            Self::Roles => (&identity.roles, ','),
            Self::Scopes => (&identity.scopes, ' '),
        };
        if form == Form::Json {
            return form.write(&words.iter().map(|word| Value::from(&**word)).collect(), out);
        }
        if form == Form::Base64 {
            let all: Vec<&str> = words.iter().map(|word| &**word).collect();
            return form.write(&Value::from(all.join(&between.to_string())), out);
        }
        for (place, word) in words.iter().enumerate() {
            if place > 0 {
                out.push(between);
            }
            form.text(word, |byte| byte.is_ascii_graphic() && byte != b'%' && byte != b',', out);
        }
        Some(())
    }
}

impl Variable {
    fn of(self, exchange: &Exchange) -> Cow<'_, str> {
        match self {
            Self::Param(place) => exchange.param(place).into(),
            Self::RequestId => exchange.request_id().into(),
            Self::RequestMethod => exchange.request.method().as_str().into(),
            Self::RequestHost => exchange.host().into(),
            Self::RequestPath => exchange.path().into(),
            Self::ClientAddress => exchange.client.address.to_string().into(),
            Self::RouteName => exchange.route_name().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str]) -> Params {
        Params::known(&names.iter().map(|name| Box::from(*name)).collect::<Vec<_>>())
    }

    #[track_caller]
    fn fails(result: Result<Template, Vec<TemplateError>>, messages: &str) {
        let errors = result.expect_err("must not compile");
        assert_eq!(errors.iter().map(|error| &*error.message).collect::<Vec<_>>().join("; "), messages);
    }

    #[test]
    fn unknown_names_and_open_braces_do_not_compile() {
        fails(Template::value("${path.id}", &known(&[])), "the route's path has no parameter `id`");
        fails(Template::value("a ${request.id", &known(&[])), "`${` without its `}`");
        fails(Template::value("${claims}", &known(&[])), "`${claims}` is nothing that armiger knows");
        fails(Template::value("${claims.a|hex}", &known(&[])), "`hex` is no form of a claim");
        fails(Template::value("${identity.name}", &known(&[])), "an identity has no `name`");
        fails(Template::path("/a/{id}", &known(&["other"])), "the route's path has no parameter `id`");
        fails(Template::path("/a/{id", &known(&["id"])), "`{` without its counterpart");
        fails(Template::path("/a}/", &known(&[])), "`}` without its counterpart");
        fails(
            Template::value("${path.id} ${claims} ${", &known(&[])),
            "the route's path has no parameter `id`; `${claims}` is nothing that armiger knows; `${` without its `}`",
        );
        fails(
            Template::value("${a ${claims} ${path.x", &known(&[])),
            "`${` without its `}`; `${claims}` is nothing that armiger knows; `${` without its `}`",
        );
        fails(
            Template::path("/a}/{b/{c}/{d", &known(&["b"])),
            "`}` without its counterpart; `{` without its counterpart; the route's path has no parameter `c`; `{` without \
             its counterpart",
        );
        fails(
            Template::path("/{a}/{b}/{c}", &known(&["b"])),
            "the route's path has no parameter `a`; the route's path has no parameter `c`",
        );
    }

    #[test]
    fn claims_are_written_in_printable_ascii_whatever_they_are() {
        let hostile = serde_json::json!("a b\r\nx-admin: 1\u{7f}%ö😀,");
        for (form, expected) in [
            (Form::Percent, "a%20b%0D%0Ax-admin:%201%7F%25%C3%B6%F0%9F%98%80,"),
            (Form::Base64, "YSBiDQp4LWFkbWluOiAxfyXDtvCfmIAs"),
            (Form::Extended, "UTF-8''a%20b%0D%0Ax-admin%3A%201%7F%25%C3%B6%F0%9F%98%80%2C"),
            (Form::Json, r#""a b\r\nx-admin: 1\u007f%\u00f6\ud83d\ude00,""#),
        ] {
            let mut out = String::new();
            assert_eq!(form.write(&hostile, &mut out), Some(()));
            assert_eq!(out, expected);
            assert!(http::HeaderValue::from_str(&out).is_ok() && out.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
        for (claim, plain, json) in [
            (serde_json::json!(7), Some("7"), "7"),
            (serde_json::json!(true), Some("true"), "true"),
            (serde_json::json!(["a"]), None, r#"["a"]"#),
            (serde_json::json!({"a": "ö"}), None, r#"{"a":"\u00f6"}"#),
        ] {
            let mut out = String::new();
            assert_eq!(Form::Percent.write(&claim, &mut out).map(|()| out.as_str()), plain);
            let mut out = String::new();
            assert_eq!(Form::Json.write(&claim, &mut out).map(|()| out.as_str()), Some(json));
        }
        assert_eq!(Form::Json.write(&Value::Null, &mut String::new()), None);
        let identity = Identity { roles: ["a,b", "c d"].map(Box::from).into(), ..Identity::default() };
        let mut out = String::new();
        assert_eq!(Part::Roles.write(&identity, Form::Percent, &mut out), Some(()));
        assert_eq!(out, "a%2Cb,c%20d");
        assert_eq!(Part::Subject.write(&identity, Form::Percent, &mut out), None, "nobody");
    }

    #[test]
    fn a_doubled_dollar_stands_for_itself() {
        assert_eq!(Template::value("a $${b}", &known(&[])).expect("compiles").constant(), Some("a ${b}"));
    }

    #[test]
    fn a_template_without_names_is_constant() {
        assert_eq!(Template::path("/v2/orders", &known(&[])).expect("compiles").constant(), Some("/v2/orders"));
        assert_eq!(Template::path("/v2/{id}", &known(&["id"])).expect("compiles").constant(), None);
    }
}
