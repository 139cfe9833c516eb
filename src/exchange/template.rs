//! Values made of fixed text and facts of the exchange: `${path.id}`, `/v2/orders/{id}`.
//!
//! Compiled once; a request looks up nothing by name.

use std::borrow::Cow;

use super::Exchange;

/// A template, compiled.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Variable),
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
    pub fn value(text: &str, params: &Params) -> Result<Self, TemplateError> {
        let mut pieces = Pieces::default();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                pieces.text(&rest[..at]);
                pieces.text("{");
                rest = &rest[at + 2..];
                continue;
            }
            pieces.text(&rest[..at]);
            let Some(length) = rest[at..].find('}') else {
                return Err(TemplateError { message: "`${` without its `}`".into(), hint: None });
            };
            pieces.value(variable(&rest[at + 2..at + length], params)?);
            rest = &rest[at + length + 1..];
        }
        pieces.text(rest);
        Ok(Self { pieces: pieces.0 })
    }

    /// Compiles a path or URL: fixed text with `{NAME}` for the parameters of the route's path.
    pub fn path(text: &str, params: &Params) -> Result<Self, TemplateError> {
        let mut pieces = Pieces::default();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            pieces.text(&rest[..at]);
            let Some(length) = rest[at..].strip_prefix('{').and_then(|inside| inside.find('}')) else {
                return Err(TemplateError {
                    message: format!("`{}` without its counterpart", &rest[at..=at]),
                    hint: Some("write `{name}` for a parameter; other braces are written `%7B` and `%7D`".into()),
                });
            };
            pieces.value(param(&rest[at + 1..=at + length], params)?);
            rest = &rest[at + length + 2..];
        }
        pieces.text(rest);
        Ok(Self { pieces: pieces.0 })
    }

    /// The text, if nothing of it depends on the request.
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The value for this exchange.
    pub fn render(&self, exchange: &Exchange) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(variable) => out.push_str(&variable.of(exchange)),
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

    fn value(&mut self, variable: Variable) {
        self.0.push(Piece::Value(variable));
    }
}

fn variable(word: &str, params: &Params) -> Result<Variable, TemplateError> {
    if let Some(name) = word.strip_prefix("path.") {
        return param(name, params);
    }
    WORDS.iter().find(|(known, _)| *known == word).map(|(_, variable)| *variable).ok_or_else(|| TemplateError {
        message: format!("`${{{word}}}` is nothing that armiger knows"),
        hint: Some(format!(
            "known are path.NAME, {}; write `$${{` for the characters themselves",
            WORDS.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ")
        )),
    })
}

fn param(name: &str, params: &Params) -> Result<Variable, TemplateError> {
    params.place(name).map(Variable::Param)
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
    fn fails(result: Result<Template, TemplateError>, message: &str) {
        assert_eq!(result.expect_err("must not compile").message, message);
    }

    #[test]
    fn unknown_names_and_open_braces_do_not_compile() {
        fails(Template::value("${path.id}", &known(&[])), "the route's path has no parameter `id`");
        fails(Template::value("a ${request.id", &known(&[])), "`${` without its `}`");
        fails(Template::value("${claims}", &known(&[])), "`${claims}` is nothing that armiger knows");
        fails(Template::path("/a/{id}", &known(&["other"])), "the route's path has no parameter `id`");
        fails(Template::path("/a/{id", &known(&["id"])), "`{` without its counterpart");
        fails(Template::path("/a}/", &known(&[])), "`}` without its counterpart");
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
