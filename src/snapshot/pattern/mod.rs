//! What a rule says about a request: patterns of hosts, paths and values, and which requests two of them share.

mod host;
mod methods;
mod path;
mod value;

use std::fmt;

use regex::Regex;

pub use self::host::{HostPattern, normalise_host};
pub use self::methods::Methods;
pub(super) use self::path::{End, Segment};
pub use self::path::{PathPattern, SEGMENTS_MAX};
pub(super) use self::value::Coding;
pub use self::value::{Is, ValueMatch};

/// Why a pattern was refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    message: String,
    hint: String,
}

impl PatternError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }

    /// What is wrong, in one sentence without its full stop.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.hint)
    }
}

impl std::error::Error for PatternError {}

/// Compiles `text` so that it matches a whole text or not at all.
fn anchored(text: &str) -> Result<Regex, PatternError> {
    // Alone as well if it could close our group: `a)|(b` is wrong, although it would be right inside one.
    let alone = if text.contains(')') { Regex::new(text).map(|_| ()) } else { Ok(()) };
    alone.and_then(|()| Regex::new(&format!(r"\A(?:{text})\z"))).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            PatternError::new(format!("`{text}` is too large"), "use smaller repetitions")
        }
        anchored => {
            // What is wrong with it alone is easier to understand. The crate's text is a drawing of several lines; its
            // last one says what it is.
            let error = Regex::new(text).err().unwrap_or(anchored).to_string();
            let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            PatternError::new(
                format!("`{text}` is no regular expression: {cause}"),
                "there are no look-around and no back-references; `\\` takes a sign's meaning away",
            )
        }
    })
}
