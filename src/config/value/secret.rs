//! Values that are never shown, and the hashes of keys.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::super::yaml::decode::{KEY_HASH, SECRET};
use super::super::yaml::with_hint;

/// A text that is never shown: not in messages, logs, or the running configuration. Comes from the environment or a
/// file, `${env:NAME}` or `${file:/path}`; in plain text in the configuration it is refused.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text itself. Whoever asks must not show it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Hidden(&self.0).serialize(serializer)
    }
}

/// A text that is written as `***`, into whatever form. For settings that may hold a credential.
///
/// It makes itself known by a name, so that two configurations can be compared by what is hidden in them.
pub struct Hidden<'t>(pub &'t str);

impl Serialize for Hidden<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(SECRET, &Stars(self.0))
    }
}

/// `***`; in its alternate form the SHA-256 of the text, by which a serializer can tell two of them apart without
/// holding either.
struct Stars<'t>(&'t str);

impl Serialize for Stars<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Stars<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return f.write_str("***");
        }
        Sha256::digest(self.0).iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Within;

        impl<'de> Visitor<'de> for Within {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret such as `${env:NAME}`")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                if text.is_empty() {
                    return Err(E::custom(with_hint("a secret is empty", "see that the variable or file holds it")));
                }
                Ok(Secret(text.to_owned()))
            }
        }

        deserializer.deserialize_newtype_struct(SECRET, Within)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "secret",
            "description": "A text that is never shown. From the environment or a file; in plain text it is refused.",
            "pattern": "\\$\\{(env|file):[^}]+\\}",
            "examples": ["${env:NAME}", "${file:/run/secrets/name}"],
        })
    }
}

/// The SHA-256 of a key that callers send: `sha256:` and 64 digits. What stands in its place and is none may be a key itself,
/// so that it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// What it begins with.
    pub const PREFIX: &str = "sha256:";

    /// Takes a text for one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hash itself. `None`: it is none.
    pub fn digest(&self) -> Option<[u8; 32]> {
        let hex = self.0.strip_prefix(Self::PREFIX)?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        if hex.len() != 64 {
            return None;
        }
        let mut digest = [0; 32];
        for (place, pair) in hex.chunks_exact(2).enumerate() {
            digest[place] = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(digest)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.digest().is_some() { &self.0 } else { "***" })
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.digest() {
            Some(_) => serializer.serialize_str(&self.0),
            None => Hidden(&self.0).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Within;

        impl<'de> Visitor<'de> for Within {
            type Value = KeyHash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the hash of a key, `sha256:` and 64 digits")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<KeyHash, D::Error> {
                deserializer.deserialize_str(self)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<KeyHash, E> {
                Ok(KeyHash::new(text))
            }
        }

        deserializer.deserialize_newtype_struct(KEY_HASH, Within)
    }
}

impl JsonSchema for KeyHash {
    fn schema_name() -> Cow<'static, str> {
        "KeyHash".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "hash of a key",
            "description": "`sha256:` and 64 digits, as `armiger token hash` prints it. Never the key itself.",
            "pattern": "^sha256:[0-9a-f]{64}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter2");
    }
}
