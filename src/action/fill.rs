//! Values filled into the requests of parts and steps: `{path.id}`, `{parts.user.body.id}`. Escaped for the place where they stand;
//! what cannot stand there fails the part.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::shape::Path;
use crate::action::json::{self, Json, Kind, View};
use crate::exchange::Exchange;
use crate::exchange::identity::{ClaimPath, query_pairs};
use crate::exchange::template::Params;
use crate::http::path;

/// What a part said, for the parts that come after it.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    /// The document, before it got its shape.
    pub(super) body: View<'a>,
    /// The status; none of a fixed value.
    pub(super) status: Option<http::StatusCode>,
    /// The headers.
    pub(super) headers: Option<&'a HeaderMap>,
}

/// What values are taken from.
pub(super) struct Known<'a> {
    pub(super) exchange: &'a Exchange,
    /// The request's body, if a value is to come from it.
    pub(super) request_body: Option<&'a Json>,
    /// What the part at this place said, if it did.
    pub(super) said: &'a dyn Fn(usize) -> Option<Said<'a>>,
    /// The entry of `foreach`.
    pub(super) item: Option<View<'a>>,
    /// The id of the saga.
    pub(super) saga: Option<&'a str>,
}

/// Why a request cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfilled {
    /// A value is missing.
    Missing,
    /// A value cannot stand where it should.
    Unplaceable,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Param(usize),
    Query(Box<str>),
    Header(HeaderName),
    Claim(ClaimPath),
    RequestId,
    RequestMethod,
    RequestHost,
    RequestPath,
    RequestBody(Path),
    ClientAddress,
    RouteName,
    PartBody(usize, Path),
    PartStatus(usize),
    PartHeader(usize, HeaderName),
    Item(Path),
    SagaId,
}

/// A value, as it comes.
enum Value<'a> {
    Text(Cow<'a, str>),
    /// A piece of the request's path, percent-encoded and in normal form.
    Encoded(&'a str),
    Json(View<'a>),
}

impl<'a> Value<'a> {
    /// As text; what has none cannot be placed.
    fn text(self) -> Result<Cow<'a, str>, Unfilled> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Encoded(text) => percent_decode(text).map(Cow::Owned).ok_or(Unfilled::Unplaceable),
            Self::Json(view) => view.text().ok_or(Unfilled::Unplaceable),
        }
    }
}

impl Source {
    /// What it is for this exchange. `null` is no value.
    fn find<'a>(&self, known: &Known<'a>) -> Option<Value<'a>> {
        let exchange = known.exchange;
        let text = |text: &'a str| Some(Value::Text(text.into()));
        let inside =
            |view: View<'a>, path: &Path| path.find(view).filter(|view| view.kind() != Kind::Null).map(Value::Json);
        match self {
            Self::Param(place) => Some(exchange.param(*place)).filter(|text| !text.is_empty()).map(Value::Encoded),
            Self::Query(name) => query_pairs(exchange.request.uri().query().unwrap_or(""))
                .find(|(key, _)| key.as_deref() == Some(name))
                .and_then(|(_, value)| value)
                .map(Value::Text),
            Self::Header(name) => header_text(exchange.headers(), name).and_then(text),
            Self::Claim(path) => {
                let identity = &exchange.caller.as_ref()?.identity;
                match path.find(&identity.claims)? {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(claim) => text(claim),
                    other @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                        Some(Value::Text(other.to_string().into()))
                    }
                    // Made for this one use: claims that are objects are rare, and have no place but in a body.
                    _ => None,
                }
            }
            Self::RequestId => text(exchange.request_id()),
            Self::RequestMethod => text(exchange.request.method().as_str()),
            Self::RequestHost => text(exchange.host()),
            Self::RequestPath => text(exchange.path()),
            Self::ClientAddress => Some(Value::Text(exchange.client.address.to_string().into())),
            Self::RouteName => text(exchange.route_name()),
            Self::RequestBody(path) => inside(known.request_body?.view(), path),
            Self::PartBody(part, path) => inside((known.said)(*part)?.body, path),
            Self::PartStatus(part) => {
                (known.said)(*part)?.status.map(|status| Value::Text(status.as_str().to_owned().into()))
            }
            Self::PartHeader(part, name) => header_text((known.said)(*part)?.headers?, name).and_then(text),
            Self::Item(path) => inside(known.item?, path),
            Self::SagaId => text(known.saga?),
        }
    }

    /// The part that it waits for.
    pub(super) fn part(&self) -> Option<usize> {
        match self {
            Self::PartBody(part, _) | Self::PartStatus(part) | Self::PartHeader(part, _) => Some(*part),
            _ => None,
        }
    }

    /// A list for `foreach`, if it is one.
    pub(super) fn list<'a>(&self, known: &Known<'a>) -> Result<View<'a>, Unfilled> {
        match self.find(known).ok_or(Unfilled::Missing)? {
            Value::Json(view) if view.kind() == Kind::Array => Ok(view),
            _ => Err(Unfilled::Unplaceable),
        }
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

// === templates ===

/// Text with values in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Filling(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Source, Option<String>),
}

/// Why a template does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// The part that is not there, if that is why.
    pub(super) missing: Option<String>,
}

impl Mistake {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), missing: None }
    }
}

/// The names that may stand in braces.
pub(super) struct Names<'n> {
    pub(super) params: &'n Params,
    /// The parts, in their order, each with whether it is a list made by `foreach`.
    pub(super) parts: &'n [(&'n str, bool)],
    /// How parts are called: `parts` or [`STEPS`].
    pub(super) family: &'static str,
    pub(super) has_item: bool,
    pub(super) knows_caller: bool,
}

impl Names<'_> {
    /// What the words between braces stand for.
    pub(super) fn source(&self, words: &str) -> Result<Source, Mistake> {
        let place = |text: &str| Path::parse(text).map_err(|why| Mistake::new(format!("`{text}` {why}"), PLACE_HINT));
        let one = |text: &str| {
            let path = place(text)?;
            if path.is_many() {
                Err(Mistake::new(format!("`{text}` is not one value"), "use `foreach` for a list"))
            } else {
                Ok(path)
            }
        };
        let header = |name: &str| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Mistake::new(format!("`{name}` is no header name"), "write a name such as `x-tenant`"))
        };
        let (head, rest) = words.split_once('.').unwrap_or((words, ""));
        match (head, rest) {
            ("path", name) if !name.is_empty() => {
                let place = self.params.place(name).map_err(|error| Mistake {
                    message: error.message,
                    hint: error.hint,
                    missing: None,
                })?;
                return Ok(Source::Param(place));
            }
            ("query", name) if !name.is_empty() => return Ok(Source::Query(name.into())),
            ("headers", name) if !name.is_empty() => return header(name).map(Source::Header),
            ("claims", name) if !name.is_empty() => {
                if !self.knows_caller {
                    return Err(Mistake::new(
                        "claims are a caller's, and this route knows none",
                        "add the policy `identity` here or under `defaults`, enforced",
                    ));
                }
                return Ok(Source::Claim(ClaimPath::new(name)));
            }
            ("request", "id") => return Ok(Source::RequestId),
            ("request", "method") => return Ok(Source::RequestMethod),
            ("request", "host") => return Ok(Source::RequestHost),
            ("request", "path") => return Ok(Source::RequestPath),
            ("request", "body") => return one("").map(Source::RequestBody),
            ("request", rest) if rest.starts_with("body.") => return one(&rest[5..]).map(Source::RequestBody),
            ("client", "address") => return Ok(Source::ClientAddress),
            ("route", "name") => return Ok(Source::RouteName),
            ("saga", "id") if self.family == STEPS => return Ok(Source::SagaId),
            ("item", rest) if self.has_item => return one(rest).map(Source::Item),
            ("item", _) => {
                return Err(Mistake::new(
                    "`{item}` is an entry of `foreach`, which this part has not",
                    "add `foreach`",
                ));
            }
            (family, rest) if family == self.family => {
                let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
                let Some(place) = self.parts.iter().position(|(known, _)| *known == name) else {
                    let known = self.parts.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
                    let mistake = Mistake::new(
                        match family {
                            STEPS => format!("there is no step `{name}` before this one"),
                            _ => format!("there is no part `{name}`"),
                        },
                        if known.is_empty() { "there are no others".to_owned() } else { format!("there are {known}") },
                    );
                    return Err(Mistake { missing: Some(name.to_owned()), ..mistake });
                };
                let (head, rest) = rest.split_once('.').unwrap_or((rest, ""));
                match (head, rest) {
                    ("body", rest) => {
                        let path = one(rest)?;
                        if self.parts[place].1 && path.begins_with_a_key() {
                            return Err(Mistake::new(
                                format!("`{name}` has `foreach`, so its body is a list and has no key `{rest}`"),
                                "name an entry by its index, such as `body.0.id`",
                            ));
                        }
                        return Ok(Source::PartBody(place, path));
                    }
                    ("status", "") => return Ok(Source::PartStatus(place)),
                    ("headers", name) if !name.is_empty() => {
                        return header(name).map(|name| Source::PartHeader(place, name));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Err(Mistake::new(
            format!("`{{{words}}}` is nothing that armiger knows"),
            format!(
                "known are path.NAME, query.NAME, headers.NAME, claims.NAME, request.id, request.method, request.host, \
                 request.path, request.body.PATH, client.address, route.name, item.PATH, and {family}.NAME with \
                 body.PATH, status or headers.NAME; a brace itself is written `{{{{`",
                family = self.family
            ),
        ))
    }
}

/// How the steps of a saga are called. Those that may be named are the ones before.
pub(super) const STEPS: &str = "steps";

const PLACE_HINT: &str = "write a place such as `data.items.0.id`, or `/data/items/0/id`";

impl Filling {
    /// Reads a text with `{…}` in it: what could be read, and all that is wrong.
    pub(super) fn parse(text: &str, names: &Names<'_>) -> (Self, Vec<Mistake>) {
        let (mut pieces, mut mistakes) = (Self::default(), Vec::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            pieces.text(&rest[..at]);
            let brace = &rest[at..=at];
            if rest[at + 1..].starts_with(brace) {
                pieces.text(brace);
                rest = &rest[at + 2..];
                continue;
            }
            if rest[..at].ends_with('$') {
                let hint = "write `{path.id}`, or `{{` for a brace";
                mistakes.push(Mistake::new("`${` is written without `$` here", hint));
            }
            let inside = rest[at..].strip_prefix('{');
            // Another one that begins before its end: this one has none.
            let end = inside.and_then(|inside| inside.find('}').filter(|end| !inside[..*end].contains('{')));
            let Some(length) = end else {
                mistakes.push(Mistake::new(
                    format!("`{brace}` without its counterpart"),
                    "a brace itself is written twice: `{{`, `}}`",
                ));
                rest = &rest[at + 1..];
                continue;
            };
            let words = &rest[at + 1..=at + length];
            let (words, default) = match words.split_once(":-") {
                Some((words, default)) => (words, Some(default.to_owned())),
                None => (words, None),
            };
            match names.source(words.trim()) {
                Ok(source) => pieces.0.push(Piece::Value(source, default)),
                Err(mistake) => mistakes.push(mistake),
            }
            rest = &rest[at + length + 2..];
        }
        pieces.text(rest);
        (pieces, mistakes)
    }

    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.0.push(Piece::Text(text.into())),
        }
    }

    /// What it takes values from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Value(source, _) => Some(source),
            Piece::Text(_) => None,
        })
    }

    /// With `x` for each value: what can be checked before there are any.
    pub(super) fn sample(&self) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Value(..) => "x",
            })
            .collect()
    }

    /// Fills it in as a header value.
    pub(super) fn header(&self, known: &Known<'_>) -> Result<HeaderValue, Unfilled> {
        let mut out = String::new();
        self.write(
            known,
            |_, value, _| {
                let text = value.text()?;
                let fits = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
                if !text.bytes().all(fits) {
                    return Err(Unfilled::Unplaceable);
                }
                Ok(text)
            },
            &mut out,
        )?;
        HeaderValue::try_from(out).map_err(|_| Unfilled::Unplaceable)
    }

    /// Fills it in as a path and query.
    pub(super) fn target(&self, known: &Known<'_>) -> Result<Uri, Unfilled> {
        let mut out = String::new();
        let mut holds_params = false;
        self.write(
            known,
            |before: &str, value, is_default| {
                if before.contains('?') {
                    return value.text().map(|text| Cow::Owned(percent_encode(&text)));
                }
                if let Value::Encoded(text) = value {
                    // As the route took it: it may be several segments, and hold what the route allows.
                    holds_params = true;
                    return Ok(text.into());
                }
                let text = value.text()?;
                if text.is_empty() || text.bytes().any(|byte| matches!(byte, b'/' | b'\\') || byte.is_ascii_control()) {
                    return if is_default { Ok(text) } else { Err(Unfilled::Unplaceable) };
                }
                Ok(Cow::Owned(percent_encode(&text)))
            },
            &mut out,
        )?;
        let end = out.find('?').unwrap_or(out.len());
        let normal = path::normalise(&out[..end]).map_err(|_| Unfilled::Unplaceable)?;
        // A value that is `.` or `..`, or an empty one, would make another path of it.
        if normal.path != out[..end] || !(normal.held.is_empty() || holds_params) {
            return Err(Unfilled::Unplaceable);
        }
        PathAndQuery::try_from(out).map(Uri::from).map_err(|_| Unfilled::Unplaceable)
    }

    /// Writes it. `place` gets what was written before, the value, and whether it is the file's own.
    fn write<'a>(
        &self,
        known: &Known<'a>,
        mut place: impl FnMut(&str, Value<'a>, bool) -> Result<Cow<'a, str>, Unfilled>,
        out: &mut String,
    ) -> Result<(), Unfilled> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(source, default) => {
                    let text = match (source.find(known), default) {
                        (Some(value), _) => place(out, value, false)?,
                        (None, Some(default)) => place(out, Value::Text(default.clone().into()), true)?,
                        (None, None) => return Err(Unfilled::Missing),
                    };
                    out.push_str(&text);
                }
            }
        }
        Ok(())
    }
}

// === bodies ===

/// A JSON body with values in its texts.
#[derive(Clone, Debug)]
pub(super) struct BodyFilling(Vec<BodyPiece>);

#[derive(Clone, Debug)]
enum BodyPiece {
    Json(Vec<u8>),
    /// A text that is one value, and becomes it.
    Whole(Source, Option<String>),
    /// A text with values in it.
    Text(Filling),
}

impl BodyFilling {
    /// Reads a value of the configuration: what could be read, and all that is wrong.
    pub(super) fn parse(value: &serde_json::Value, names: &Names<'_>) -> (Self, Vec<Mistake>) {
        let (mut pieces, mut mistakes) = (Self(Vec::new()), Vec::new());
        pieces.value(value, names, &mut mistakes);
        (pieces, mistakes)
    }

    fn json(&mut self, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(BodyPiece::Json(last)) => last.extend_from_slice(bytes),
            _ => self.0.push(BodyPiece::Json(bytes.to_vec())),
        }
    }

    fn value(&mut self, value: &serde_json::Value, names: &Names<'_>, mistakes: &mut Vec<Mistake>) {
        match value {
            serde_json::Value::String(text) => {
                let (mut filling, wrong) = Filling::parse(text, names);
                mistakes.extend(wrong);
                match filling.0.as_mut_slice() {
                    [] => self.json(b"\"\""),
                    [Piece::Text(text)] => {
                        let mut out = Vec::new();
                        json::write_text(&mut out, text);
                        self.json(&out);
                    }
                    [Piece::Value(source, default)] => self.0.push(BodyPiece::Whole(source.clone(), default.take())),
                    _ => self.0.push(BodyPiece::Text(filling)),
                }
            }
            serde_json::Value::Array(items) => {
                self.json(b"[");
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        self.json(b",");
                    }
                    self.value(item, names, mistakes);
                }
                self.json(b"]");
            }
            serde_json::Value::Object(members) => {
                self.json(b"{");
                for (place, (key, member)) in members.iter().enumerate() {
                    let mut out = Vec::new();
                    if place > 0 {
                        out.push(b',');
                    }
                    json::write_text(&mut out, key);
                    out.push(b':');
                    self.json(&out);
                    self.value(member, names, mistakes);
                }
                self.json(b"}");
            }
            other => self.json(other.to_string().as_bytes()),
        }
    }

    /// What it takes values from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().flat_map(|piece| {
            let (whole, text) = match piece {
                BodyPiece::Json(_) => (None, None),
                BodyPiece::Whole(source, _) => (Some(source), None),
                BodyPiece::Text(filling) => (None, Some(filling.sources())),
            };
            whole.into_iter().chain(text.into_iter().flatten())
        })
    }

    /// Fills it in.
    pub(super) fn render(&self, known: &Known<'_>) -> Result<Vec<u8>, Unfilled> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                BodyPiece::Json(bytes) => out.extend_from_slice(bytes),
                BodyPiece::Whole(source, default) => match (source.find(known), default) {
                    (Some(Value::Json(view)), _) => out.extend_from_slice(view.bytes()),
                    (Some(value), _) => json::write_text(&mut out, &value.text()?),
                    (None, Some(default)) => json::write_text(&mut out, default),
                    (None, None) => return Err(Unfilled::Missing),
                },
                BodyPiece::Text(filling) => {
                    let mut text = String::new();
                    filling.write(known, |_, value, _| value.text(), &mut text)?;
                    json::write_text(&mut out, &text);
                }
            }
        }
        Ok(out)
    }
}

// === percent-encoding ===

fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// None: what is decoded is no text.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
            bytes.push((digit(0)? * 16 + digit(1)?) as u8);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}
