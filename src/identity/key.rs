//! Keys that check signatures, each bound to what it may do: never to what a token says of it.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use smallvec::SmallVec;

use super::Defect;
use crate::config::identity::{Algorithm, Encoding};

/// How many keys a token without `kid`, or with one that several keys have, may be tried on.
const TRIES_MAX: usize = 8;

/// The sizes of RSA keys that are accepted, in bits (RFC 7518 §3.3; more costs too much to check).
pub(super) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A key and what it may check.
pub struct Key {
    id: Option<Box<str>>,
    checks: SmallVec<[(Algorithm, Check); 1]>,
}

enum Check {
    Shared(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Check {
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            // Compares in constant time.
            Self::Shared(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// The kinds of public keys, by what is needed to check with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Rsa, Self::P256, Self::P384, Self::P521, Self::Ed25519];

    /// What a key of this kind can do at all.
    pub(super) const fn algorithms(self) -> &'static [Algorithm] {
        use Algorithm::{ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            Self::Rsa => &[RS256, RS384, RS512, PS256, PS384, PS512],
            Self::P256 => &[ES256],
            Self::P384 => &[ES384],
            Self::P521 => &[ES512],
            Self::Ed25519 => &[EdDSA],
        }
    }
}

fn public(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        // JWS has the two numbers side by side and not in ASN.1 (RFC 7518 §3.4).
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::ES512 => &signature::ECDSA_P521_SHA512_FIXED,
        Algorithm::EdDSA => &signature::ED25519,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return None,
    })
}

/// The hash of a symmetric algorithm, and its length in bytes.
pub(super) const fn shared(algorithm: Algorithm) -> Option<(hmac::Algorithm, usize)> {
    match algorithm {
        Algorithm::HS256 => Some((hmac::HMAC_SHA256, 32)),
        Algorithm::HS384 => Some((hmac::HMAC_SHA384, 48)),
        Algorithm::HS512 => Some((hmac::HMAC_SHA512, 64)),
        _ => None,
    }
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

fn unfit(message: impl Into<String>, hint: &'static str) -> Unfit {
    Unfit { message: message.into(), hint }
}

impl Key {
    /// A secret, for those of `accepted` that it is long enough for (RFC 7518 §3.2).
    pub fn secret(text: &str, encoding: Encoding, accepted: &[Algorithm]) -> Result<Self, Unfit> {
        let bytes = secret_bytes(text, encoding)
            .ok_or_else(|| unfit("the secret is not base64", "leave `secret_encoding` out if it is plain text"))?;
        let hashes = accepted.iter().filter_map(|algorithm| Some((*algorithm, shared(*algorithm)?)));
        let mut checks = SmallVec::new();
        for (algorithm, (hash, least)) in hashes {
            if bytes.len() < least {
                return Err(unfit(
                    format!(
                        "a secret of {} bytes is too short for {}: its hash has {least}",
                        bytes.len(),
                        algorithm.name()
                    ),
                    "`openssl rand -hex 32` makes a good one, for all three; or name under `algorithms` what it is for",
                ));
            }
            checks.push((algorithm, Check::Shared(Box::new(hmac::Key::new(hash, &bytes)))));
        }
        Ok(Self { id: None, checks })
    }

    /// Public keys in PEM form, each for those of `accepted` that its kind can do.
    pub fn pem(text: &str, accepted: &[Algorithm]) -> Result<Vec<Self>, Unfit> {
        const MAKE: &str = "public keys begin with `-----BEGIN PUBLIC KEY-----`; `openssl pkey -pubout` makes one of a \
                            private key, `openssl x509 -pubkey -noout` of a certificate";
        if text.contains("PRIVATE KEY") {
            return Err(unfit("there is a private key in it, which armiger has no need of", MAKE));
        }
        let mut keys = Vec::new();
        for part in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()) {
            let part = part.map_err(|_| unfit("it is not PEM", MAKE))?;
            keys.push(Self::der(&part, accepted)?);
        }
        if keys.is_empty() { Err(unfit("there is no public key in it", MAKE)) } else { Ok(keys) }
    }

    /// A `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7): it says itself of what kind it is.
    fn der(der: &[u8], accepted: &[Algorithm]) -> Result<Self, Unfit> {
        let is = |kind: &Kind| {
            kind.algorithms()
                .first()
                .and_then(|algorithm| public(*algorithm))
                .is_some_and(|algorithm| ParsedPublicKey::new(algorithm, der).is_ok())
        };
        let size = rsa::PublicEncryptingKey::from_der(der).ok().map(|key| key.key_size_bits());
        if let Some(bits) = size.filter(|bits| !RSA_BITS.contains(bits)) {
            return Err(rsa_size(bits));
        }
        let Some(kind) = Kind::ALL.into_iter().find(is) else {
            return Err(unfit(
                "the key is of no kind that can be used",
                "RSA from 2048 bits, EC on P-256, P-384 or P-521, and Ed25519 can",
            ));
        };
        Self::public(None, kind, der, accepted)
    }

    /// A key of this kind for those of `accepted` that it can do. `bytes`: as aws-lc reads it, a bare point for EC.
    pub(super) fn public(
        id: Option<Box<str>>,
        kind: Kind,
        bytes: &[u8],
        accepted: &[Algorithm],
    ) -> Result<Self, Unfit> {
        let mut checks = SmallVec::new();
        for algorithm in kind.algorithms().iter().filter(|algorithm| accepted.contains(algorithm)) {
            let Some(verifier) = public(*algorithm) else { continue };
            let key = ParsedPublicKey::new(verifier, bytes)
                .map_err(|_| unfit("the key is not valid", "have it made anew: a point may not lie on its curve"))?;
            checks.push((*algorithm, Check::Public(key)));
        }
        if checks.is_empty() {
            let able: Vec<_> = kind.algorithms().iter().map(|algorithm| algorithm.name()).collect();
            return Err(unfit(
                format!("the key can check {}, and `algorithms` accepts none of it", able.join(", ")),
                "accept one of them, or remove the key",
            ));
        }
        Ok(Self { id, checks })
    }

    fn check(&self, algorithm: Algorithm) -> Option<&Check> {
        self.checks.iter().find(|(known, _)| *known == algorithm).map(|(_, check)| check)
    }
}

pub(super) fn rsa_size(bits: usize) -> Unfit {
    unfit(format!("an RSA key of {bits} bits is out of bounds"), "use 2048 to 8192 bits")
}

/// What a secret's text stands for.
pub(super) fn secret_bytes(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Text => Some(text.as_bytes().to_vec()),
        Encoding::Base64 => decode_base64(text),
    }
}

/// In either alphabet, padded or not.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [base64::alphabet::STANDARD, base64::alphabet::URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text.trim()).ok())
}

/// The keys of a provider at one time.
pub struct KeySet {
    keys: Vec<Key>,
    /// Whether keys go by their names: in a set that an issuer publishes they do, those that an operator gives have none.
    are_named: bool,
    /// Tells it from every other set of this process: what was found good by one is not good by another.
    stamp: u64,
}

impl KeySet {
    /// Keys that an operator gives. `source`: the texts that they were made of.
    pub fn unnamed<'s>(keys: Vec<Key>, source: impl IntoIterator<Item = &'s str>) -> Self {
        Self { keys, are_named: false, stamp: stamp(source) }
    }

    /// Keys that an issuer publishes.
    pub fn named<'s>(keys: Vec<Key>, source: impl IntoIterator<Item = &'s str>) -> Self {
        Self { keys, are_named: true, stamp: stamp(source) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The same for sets made of the same texts, another for others.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The names of its keys, as far as they have any, and what each may check.
    pub fn shown(&self) -> impl Iterator<Item = (Option<&str>, Vec<&'static str>)> {
        self.keys
            .iter()
            .map(|key| (key.id.as_deref(), key.checks.iter().map(|(algorithm, _)| algorithm.name()).collect()))
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        self.shown().map(|(id, algorithms)| json!({"id": id, "algorithms": algorithms})).collect()
    }

    /// Whether there is a key that `id` names and that may be used with `algorithm`.
    pub(super) fn has(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        let is_meant = |key: &&Key| !self.are_named || id.is_none_or(|id| key.id.as_deref() == Some(id));
        self.keys.iter().filter(is_meant).any(|key| key.check(algorithm).is_some())
    }

    /// Checks a signature by the key that `id` names and that may be used with `algorithm`.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Defect> {
        let is_meant = |key: &&Key| match id {
            Some(id) if self.are_named => key.id.as_deref() == Some(id),
            _ => true,
        };
        let mut checks = self.keys.iter().filter(is_meant).filter_map(|key| key.check(algorithm)).peekable();
        if checks.peek().is_none() {
            return Err(Defect::KeyUnknown);
        }
        if id.is_none() && self.are_named && checks.clone().nth(1).is_some() {
            return Err(Defect::KeyAmbiguous);
        }
        if checks.take(TRIES_MAX).any(|check| check.verify(message, signature)) {
            Ok(())
        } else {
            Err(Defect::Signature)
        }
    }
}

/// A hash with a key of this process's own, so that it tells nothing of a secret.
pub(super) fn stamp<'s>(source: impl IntoIterator<Item = &'s str>) -> u64 {
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    STATE.hash_one(source.into_iter().collect::<Vec<_>>())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn message(result: Result<impl Sized, Unfit>) -> String {
        result.err().expect("must not be taken").message
    }

    #[test]
    fn a_secret_is_as_long_as_its_hash() {
        let short = &LONG[..31];
        assert_eq!(
            message(Key::secret(short, Encoding::Text, &[Algorithm::HS256])),
            "a secret of 31 bytes is too short for HS256: its hash has 32"
        );
        assert!(Key::secret(&LONG[..32], Encoding::Text, &[Algorithm::HS256]).is_ok());
        assert!(Key::secret(&LONG[..32], Encoding::Text, &[Algorithm::HS256, Algorithm::HS512]).is_err());
        // 32 characters of base64 are 24 bytes.
        assert!(Key::secret(&LONG[..32], Encoding::Base64, &[Algorithm::HS256]).is_err());
        assert!(Key::secret("äöü", Encoding::Base64, &[Algorithm::HS256]).is_err());
        for text in ["_-_-", "/+/+", "/+/+AA==", "_-_-AA"] {
            assert!(decode_base64(text).is_some(), "{text}");
        }
    }

    #[test]
    fn pem_texts_without_a_public_key_are_refused() {
        assert_eq!(message(Key::pem("", &Algorithm::ALL)), "there is no public key in it");
        assert_eq!(
            message(Key::pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &Algorithm::ALL)),
            "there is a private key in it, which armiger has no need of"
        );
        assert_eq!(
            message(Key::pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &Algorithm::ALL)),
            "the key is of no kind that can be used"
        );
    }

    #[test]
    fn another_text_is_another_set() {
        let set = |texts: &[&'static str]| KeySet::unnamed(Vec::new(), texts.iter().copied()).stamp();
        assert_eq!(set(&["a", "b"]), set(&["a", "b"]));
        assert_ne!(set(&["a", "b"]), set(&["ab"]));
        assert_ne!(set(&["a"]), set(&[]));
    }
}
