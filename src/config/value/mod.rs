//! Values that a document writes in a form of its own: durations, sizes, secrets, modes, and settings that can be
//! switched off.

mod quantity;
mod secret;
mod setting;
mod statuses;

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error, Visitor};

pub use quantity::{ByteSize, HumanDuration};
pub use secret::{Hidden, KeyHash, Secret};
pub use setting::Setting;
pub use statuses::Statuses;

/// Whether what a policy says is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is done.
    #[default]
    Enforce,
    /// It is only counted and logged, to see what would happen.
    Shadow,
    /// The policy is not asked at all.
    Off,
}

/// Reads a text by a function whose error is a message.
pub(in crate::config) struct Parsed<T> {
    pub(in crate::config) expected: &'static str,
    pub(in crate::config) parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }
}
