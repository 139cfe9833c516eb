//! API keys: known by their hashes alone.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;
use sha2::{Digest as _, Sha256};

use super::cache::Digest;
use super::provider::Refusal;
use crate::config::value::KeyHash;
use crate::exchange::Identity;
use crate::telemetry::metrics::IdentityMetrics;

/// The fewest characters that a key may have. SHA-256 is fast: only what nobody can guess is safe behind it.
pub const LEAST: usize = 24;

/// The most characters that are looked at.
pub const MOST: usize = 512;

/// The cause of a key that nobody was given.
pub const UNKNOWN: &str = "api_key_unknown";

/// A new key, of 256 random bits. `None`: the system gives none.
pub fn generate() -> Option<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// The hash of a key, as it stands in a configuration.
pub fn hash(key: &str) -> String {
    let hex = Sha256::digest(key).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("{}{hex}", KeyHash::PREFIX)
}

/// Those who may call by an API key.
pub struct ApiKeyProvider {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The header that keys stand in.
    pub header: Option<HeaderName>,
    /// Whether they may stand in `Authorization: Bearer` too.
    pub bearer: bool,
    /// Whose key it is, by its hash. A look-up by hash tells nothing of a key by the time that it takes.
    pub callers: HashMap<Digest, Arc<Identity>>,
    /// Where its words are counted.
    pub metrics: IdentityMetrics,
}

impl ApiKeyProvider {
    /// Whose key it is.
    ///
    /// # Errors
    /// It is nobody's, or has expired.
    pub fn find(&self, digest: &Digest, now: i64) -> Result<Arc<Identity>, Refusal> {
        let found = match self.callers.get(digest) {
            None => Err(UNKNOWN),
            Some(identity) if identity.expires.is_some_and(|until| now >= until) => Err("api_key_expired"),
            Some(identity) => Ok(identity.clone()),
        };
        self.metrics.judged(found.as_ref().map_or_else(|cause| *cause, |_| "verified"));
        found.map_err(Refusal::invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let key = generate().unwrap();
        assert!(key.len() >= LEAST && generate().unwrap() != key);
        let text = hash(&key);
        let parse = |text: &str| KeyHash::new(text).digest();
        assert_eq!(parse(&text), Some(Sha256::digest(&key).into()));
        assert_eq!(hash("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        for bad in [
            "",
            "sha256:",
            &text[7..],
            &text[..70],
            &text.to_uppercase(),
            &format!("{text}0"),
            &text.replace("sha256", "md5"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
