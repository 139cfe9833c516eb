//! What the decoder says when a value does not fit: [`Error`], and the way a value type hands over a remedy.

use std::fmt::{self, Display};

use serde::de::{self, Expected, Unexpected};

use super::super::foreign;
use super::super::issue::{quote, suggest};
use super::tree::NodeId;

const HINT: &str = "\nhelp: ";

/// A message with a remedy, for `Error::custom` in a hand-written `Deserialize`:
/// `Err(E::custom(with_hint("`10` has no unit", "write `10s`")))`.
pub fn with_hint(message: impl Display, hint: impl Display) -> String {
    format!("{message}{HINT}{hint}")
}

/// A value that does not fit, and where it stands.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) problem: Problem,
    pub(crate) node: Option<NodeId>,
}

#[derive(Debug)]
pub(crate) enum Problem {
    /// Something to tell.
    Said { message: String, hint: Option<String> },
    /// A key that must be there is not.
    Missing {
        key: &'static str,
        /// All keys of the mapping that lacks it.
        known: &'static [&'static str],
    },
    /// What stands in for a key's value is none that its type takes.
    Refused {
        /// All keys of the mapping.
        keys: &'static [&'static str],
        key: &'static str,
    },
    /// Follows from something told already.
    Quiet,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<Option<String>>) -> Self {
        Self { problem: Problem::Said { message: message.into(), hint: hint.into() }, node: None }
    }

    pub(crate) fn quiet() -> Self {
        Self { problem: Problem::Quiet, node: None }
    }

    /// Says what else the mapping may have that lacks a key.
    pub(crate) fn among(mut self, all: &'static [&'static str]) -> Self {
        if let (Problem::Missing { known, .. }, None) = (&mut self.problem, self.node) {
            *known = all;
        }
        self
    }

    /// Says where, unless that is known more closely.
    pub(crate) fn at(mut self, node: NodeId) -> Self {
        self.node.get_or_insert(node);
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Said { message, .. } => f.write_str(message),
            Problem::Missing { key, .. } => write!(f, "the key `{key}` is missing"),
            Problem::Refused { .. } | Problem::Quiet => f.write_str("a value could not be read"),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: Display>(text: T) -> Self {
        let text = text.to_string();
        match text.split_once(HINT) {
            Some((message, hint)) => Self::new(message, Some(hint.to_owned())),
            None => Self::new(text, None),
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", words(expected), found(unexpected)), None)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {length} of them", words(expected)), None)
    }

    fn unknown_variant(name: &str, expected: &'static [&'static str]) -> Self {
        unknown("value", name, expected)
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        unknown("key", name, expected)
    }

    fn missing_field(key: &'static str) -> Self {
        Self { problem: Problem::Missing { key, known: &[] }, node: None }
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::new(format!("the key `{key}` stands here twice"), None)
    }
}

/// `unknown key `target``, with the nearest known name, or all of them when none is near.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    let hint = foreign::value(name, known).unwrap_or_else(|| match suggest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => known_names(what, known),
    });
    Error::new(format!("unknown {what} {}", quote(name)), Some(hint))
}

/// `the keys are `a`, `b` and `c``.
pub(crate) fn known_names(what: &str, known: &[&str]) -> String {
    match known {
        [] => format!("no {what} is known here"),
        [only] => format!("the only {what} here is `{only}`"),
        _ => format!("the {what}s here are {}", list(known, "and")),
    }
}

/// `a`, `b` and `c`, each in backticks.
pub(crate) fn list(names: &[&str], last: &str) -> String {
    match names {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [first @ .., end] => {
            let first: Vec<String> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("{} {last} `{end}`", first.join(", "))
        }
    }
}

/// What a visitor says it expects, without words of the programming language.
pub(crate) fn words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a string" | "a borrowed string" | "str" => "a text".into(),
        "a boolean" => "`true` or `false`".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        "unit" | "()" => "nothing".into(),
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => {
            "a whole number".into()
        }
        "f32" | "f64" => "a number".into(),
        "socket address" | "IPv4 socket address" | "IPv6 socket address" => {
            "an address such as `127.0.0.1:8080`".into()
        }
        "IP address" => "an IP address".into(),
        "IPv4 address" => "an IPv4 address".into(),
        "IPv6 address" => "an IPv6 address".into(),
        "path string" => "a path".into(),
        other if other.starts_with("a nonzero ") => "a whole number other than 0".into(),
        other if other.starts_with("struct ") || other.starts_with("struct variant ") => "a mapping".into(),
        other if other.starts_with("enum ") || other == "variant identifier" => "a known name".into(),
        other if other.starts_with("tuple ") || other.starts_with("a tuple ") || other.starts_with("an array ") => {
            "a list".into()
        }
        other => other.to_owned(),
    }
}

fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value}`"),
        Unexpected::Char(value) => quote(value.encode_utf8(&mut [0; 4])),
        Unexpected::Str(value) => quote(value),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a mapping".into(),
        _ => "something else".into(),
    }
}
