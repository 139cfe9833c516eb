//! Tokens, good and forged, and the keys that sign them.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsBigEndian, AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A secret that is long enough for every hash.
pub const SECRET: &str = "a-secret-for-tests-that-is-long-enough-for-the-longest-of-hashes";

/// As it stands in a configuration.
pub const SECRET_YAML: &str =
    "\"${env:ARMIGER_TEST_NOT_SET:-a-secret-for-tests-that-is-long-enough-for-the-longest-of-hashes}\"";

/// A private key, and the algorithm that it signs with.
pub struct Signer {
    algorithm: &'static str,
    key: Private,
}

enum Private {
    Shared(Box<hmac::Key>),
    Rsa(RsaKeyPair, &'static signature::RsaSignatureEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// [`SECRET`], for `HS256`, `HS384` or `HS512`.
    pub fn secret(algorithm: &'static str) -> Self {
        Self::shared(algorithm, SECRET.as_bytes())
    }

    /// Any bytes as a secret.
    pub fn shared(algorithm: &'static str, secret: &[u8]) -> Self {
        let hash = match algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            other => panic!("{other} needs no secret"),
        };
        Self { algorithm, key: Private::Shared(Box::new(hmac::Key::new(hash, secret))) }
    }

    /// A new key pair.
    pub fn new(algorithm: &'static str) -> Self {
        let rsa = |encoding| {
            let pair = rsa::KeyPair::generate(KeySize::Rsa2048).expect("a new key");
            Private::Rsa(pair, encoding)
        };
        let ec = |kind: &'static EcdsaSigningAlgorithm| Private::Ec(EcdsaKeyPair::generate(kind).expect("a new key"));
        let key = match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            "EdDSA" => Private::Ed(Ed25519KeyPair::generate().expect("a new key")),
            other => panic!("{other} is no algorithm of key pairs"),
        };
        Self { algorithm, key }
    }

    /// A token of these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.signed(&json!({"alg": self.algorithm, "typ": "JWT"}).to_string(), &claims.to_string())
    }

    /// A token of these claims that names its key.
    pub fn token_by(&self, id: &str, claims: &Value) -> String {
        self.signed(&json!({"alg": self.algorithm, "kid": id}).to_string(), &claims.to_string())
    }

    /// A token of these texts, whatever they are.
    pub fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The signature of a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Private::Shared(key) => hmac::sign(key, message).as_ref().to_vec(),
            Private::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).expect("signs");
                signature
            }
            Private::Ec(pair) => pair.sign(&random, message).expect("signs").as_ref().to_vec(),
            Private::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key in DER (`SubjectPublicKeyInfo`).
    pub fn der(&self) -> Vec<u8> {
        let der = |key: &dyn AsDer<PublicKeyX509Der<'static>>| key.as_der().expect("DER").as_ref().to_vec();
        match &self.key {
            Private::Shared(_) => panic!("a secret has no public key"),
            Private::Rsa(pair, _) => der(pair.public_key()),
            Private::Ec(pair) => der(pair.public_key()),
            Private::Ed(pair) => der(pair.public_key()),
        }
    }

    /// The public key in PEM.
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.der());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The private key in PEM (PKCS #8).
    pub fn private_pem(&self) -> String {
        let der = |key: &dyn AsDer<Pkcs8V1Der<'static>>| key.as_der().expect("DER").as_ref().to_vec();
        let der = match &self.key {
            Private::Shared(_) => panic!("a secret is no key pair"),
            Private::Rsa(pair, _) => der(pair),
            Private::Ec(pair) => pair.to_pkcs8v1().expect("DER").as_ref().to_vec(),
            Private::Ed(pair) => pair.to_pkcs8v1().expect("DER").as_ref().to_vec(),
        };
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }

    /// The public key as a JWK of this name.
    pub fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.key {
            Private::Shared(_) => panic!("a secret is not published"),
            Private::Rsa(pair, _) => {
                let key = pair.public_key();
                let (n, e) = (key.modulus().big_endian_without_leading_zero(), key.exponent());
                json!({"kty": "RSA", "kid": id, "alg": self.algorithm, "use": "sig", "n": text(n),
                    "e": text(e.big_endian_without_leading_zero())})
            }
            Private::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let half = (point.len() - 1) / 2;
                let curve = match self.algorithm {
                    "ES256" => "P-256",
                    "ES384" => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "kid": id, "crv": curve, "x": text(&point[1..=half]), "y": text(&point[half + 1..])})
            }
            Private::Ed(pair) => {
                json!({"kty": "OKP", "kid": id, "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        }
    }
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "tokens are judged by the time of day")]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("before the year 292 billion")
}

/// The claims that the tests' providers accept, with these changes. `"absent"` takes one out.
pub fn claims(changes: Value) -> Value {
    let mut claims = json!({"iss": "https://id.test", "aud": "api", "sub": "ada", "iat": now(), "exp": now() + 600});
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        match value.as_str() {
            Some("absent") => drop(claims.as_object_mut().expect("an object").remove(&name)),
            _ => claims[name] = value,
        }
    }
    claims
}
