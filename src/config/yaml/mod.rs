//! From YAML text to typed values, with every mistake reported at its place.
//!
//! `tree` parses once into nodes that know their bytes in the file; `expand` puts environment and file values
//! into scalars, after parsing, so that no value can change the structure; `decode` reads the tree into the
//! document's types and goes on after a mistake, with `stand_in` in the place of what must be there and is not; `secrecy`
//! finds what of it must not be shown. Words of the parser never reach a user: `syntax` translates them.

pub(crate) mod decode;
pub(crate) mod error;
pub(crate) mod expand;
pub(crate) mod scalar;
pub(crate) mod secrecy;
mod stand_in;
pub(crate) mod syntax;
pub(crate) mod tree;
pub(crate) mod userinfo;

use serde::de::DeserializeOwned;

pub use error::with_hint;

/// Reads YAML that is itself a value: the text of a file with a list of its own.
///
/// # Errors
/// Where it goes wrong, as ` (line 3)`. Nothing of the text is told: it may be secret.
pub(crate) fn plain<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| match error.location() {
        Some(location) => format!(" (line {})", location.line()),
        None => String::new(),
    })
}
