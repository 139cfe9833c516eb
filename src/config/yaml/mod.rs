//! From YAML text to typed values, with every mistake reported at its place.
//!
//! `tree` parses once into nodes that know their bytes in the file; `expand` puts environment and file values
//! into scalars, after parsing, so that no value can change the structure; `decode` reads the tree into the
//! document's types and goes on after a mistake. Words of the parser never reach a user: `syntax` translates them.

pub(crate) mod decode;
pub(crate) mod error;
pub(crate) mod expand;
pub(crate) mod scalar;
pub(crate) mod syntax;
pub(crate) mod tree;

pub use error::with_hint;
