//! Makes tokens, for tests and tours: the other side of `verify.rs`. Nothing of it runs while armiger serves.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

use super::key::{secret_bytes, shared};
use crate::config::identity::{Algorithm, Encoding};

/// What signs tokens.
pub struct Signer {
    algorithm: Algorithm,
    key: Private,
}

enum Private {
    Shared(Box<hmac::Key>),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ec(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

impl Signer {
    /// A secret, with the first of `accepted` that is for secrets.
    pub fn secret(text: &str, encoding: Encoding, accepted: &[Algorithm]) -> Option<Self> {
        let bytes = secret_bytes(text, encoding)?;
        let fits = |algorithm: &Algorithm| {
            Some((*algorithm, shared(*algorithm).filter(|(_, least)| bytes.len() >= *least)?.0))
        };
        let (algorithm, hash) = accepted.iter().find_map(fits)?;
        Some(Self { algorithm, key: Private::Shared(Box::new(hmac::Key::new(hash, &bytes))) })
    }

    /// A private key in PKCS #8 PEM form, with the first of `accepted` that it can do.
    pub fn pem(text: &str, accepted: &[Algorithm]) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
        accepted.iter().find_map(|algorithm| {
            let key = private(*algorithm, der.secret_pkcs8_der())?;
            Some(Self { algorithm: *algorithm, key })
        })
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A token of these claims. `id`: the name of the key.
    pub fn token(&self, id: Option<&str>, claims: &Map<String, Value>) -> Option<String> {
        let mut header = json!({"alg": self.algorithm.name(), "typ": "JWT"});
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        let parts = [header.to_string(), Value::Object(claims.clone()).to_string()];
        let message = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.sign(message.as_bytes())?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.key {
            Private::Shared(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Private::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Private::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Private::Ed(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn private(algorithm: Algorithm, der: &[u8]) -> Option<Private> {
    let rsa = |encoding| Some(Private::Rsa(RsaKeyPair::from_pkcs8(der).ok()?.into(), encoding));
    let ec = |kind| Some(Private::Ec(EcdsaKeyPair::from_pkcs8(kind, der).ok()?.into()));
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => None,
        Algorithm::RS256 => rsa(&signature::RSA_PKCS1_SHA256),
        Algorithm::RS384 => rsa(&signature::RSA_PKCS1_SHA384),
        Algorithm::RS512 => rsa(&signature::RSA_PKCS1_SHA512),
        Algorithm::PS256 => rsa(&signature::RSA_PSS_SHA256),
        Algorithm::PS384 => rsa(&signature::RSA_PSS_SHA384),
        Algorithm::PS512 => rsa(&signature::RSA_PSS_SHA512),
        Algorithm::ES256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::ES512 => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        Algorithm::EdDSA => Some(Private::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?.into())),
    }
}

/// What a token says, unverified: its header and its claims, each as far as it can be read.
pub fn peek(text: &str) -> (Value, Value) {
    let mut parts = text.split('.').map(|part| {
        let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    });
    (parts.next().unwrap_or(Value::Null), parts.next().unwrap_or(Value::Null))
}
