//! JWK sets (RFC 7517): what an issuer publishes, and which of its keys can be used.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::key::{Key, KeySet, Kind, RSA_BITS, rsa_size};
use super::token::object;
use crate::config::identity::Algorithm;

/// How many keys a set may have.
pub const KEYS_MAX: usize = 100;

/// Why a text is no JWK set that could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Useless(pub String);

/// Reads a JWK set. Keys that cannot be used (for encryption, of an unknown kind, too short, secrets) are passed over, as
/// RFC 7517 §5 asks; `notes` gets a line for each. A set in which none can be used is no set: nobody's keys are revoked
/// by a broken answer.
pub fn read(text: &str, accepted: &[Algorithm], notes: &mut Vec<String>) -> Result<KeySet, Useless> {
    let mut set = object(text.as_bytes()).map_err(|_| Useless("it is no JSON object".into()))?;
    let Some(Value::Array(members)) = set.remove("keys") else {
        return Err(Useless("it has no list `keys`".into()));
    };
    if members.len() > KEYS_MAX {
        return Err(Useless(format!("it has {} keys, and the most is {KEYS_MAX}", members.len())));
    }
    let mut keys = Vec::new();
    for (place, member) in members.iter().enumerate() {
        let name =
            member.get("kid").and_then(Value::as_str).map_or_else(|| place.to_string(), |kid| format!("`{kid}`"));
        match member.as_object().ok_or_else(|| "is no object".to_owned()).and_then(|jwk| key(jwk, accepted)) {
            Ok(key) => keys.push(key),
            Err(reason) => notes.push(format!("key {name} {reason}")),
        }
    }
    if keys.is_empty() {
        let why = if notes.is_empty() { "it is empty".to_owned() } else { notes.join("; ") };
        return Err(Useless(format!("no key of it can be used: {why}")));
    }
    Ok(KeySet::named(keys, [text]))
}

fn key(jwk: &Map<String, Value>, accepted: &[Algorithm]) -> Result<Key, String> {
    let text = |name: &str| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("has a `{name}` that is no text")),
    };
    let need = |name: &str| text(name)?.ok_or_else(|| format!("has no `{name}`"));
    let bytes =
        |name: &str| URL_SAFE_NO_PAD.decode(need(name)?).map_err(|_| format!("has a `{name}` that is not base64url"));
    if text("use")?.is_some_and(|usage| usage != "sig") {
        return Err("is not for signatures (`use`)".into());
    }
    if let Some(operations) = jwk.get("key_ops") {
        let may = operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"));
        if !may {
            return Err("may not verify (`key_ops`)".into());
        }
    }
    let id = text("kid")?.map(Box::from);
    // What the key says it is for narrows what it may do, and never widens it.
    let said = text("alg")?;
    let accepted: Vec<Algorithm> =
        accepted.iter().copied().filter(|known| said.is_none_or(|said| known.name() == said)).collect();
    let (kind, material) = match need("kty")? {
        "RSA" => {
            let (modulus, exponent) = (bytes("n")?, bytes("e")?);
            (Kind::Rsa, rsa(&modulus, &exponent)?)
        }
        "EC" => {
            let (kind, length) = match need("crv")? {
                "P-256" => (Kind::P256, 32),
                "P-384" => (Kind::P384, 48),
                "P-521" => (Kind::P521, 66),
                _ => return Err("is on a curve that is not supported: `crv` is not P-256, P-384 or P-521".into()),
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            // RFC 7518 §6.2.1.2: the full length, leading zeros included.
            if x.len() != length || y.len() != length {
                return Err("has coordinates of the wrong length".into());
            }
            (kind, [&[4][..], &x, &y].concat())
        }
        "OKP" => match need("crv")? {
            "Ed25519" => (Kind::Ed25519, bytes("x")?),
            _ => return Err("is on a curve that is not supported: `crv` is not Ed25519".into()),
        },
        "oct" => return Err("is a secret, which nobody may publish".into()),
        // Not named: it may have come from the environment, or from anywhere.
        _ => return Err("is of a kind that is not supported: `kty` is not RSA, EC or OKP".into()),
    };
    Key::public(id, kind, &material, &accepted).map_err(|unfit| format!("cannot be used: {}", unfit.message))
}

/// `RSAPublicKey` (RFC 8017 §A.1.1) in DER.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, String> {
    let (modulus, exponent) = (trimmed(modulus), trimmed(exponent));
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("cannot be used: {}", rsa_size(bits).message));
    }
    // With the exponent 1 every message is its own signature.
    let is_odd = exponent.last().is_some_and(|last| last % 2 == 1);
    if !is_odd || exponent == [1] || exponent.len() > 4 {
        return Err("has an exponent that no RSA key should have".into());
    }
    let body = [integer(modulus), integer(exponent)].concat();
    Ok([&[0x30][..], &length(body.len()), &body].concat())
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn integer(number: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if number.first().is_some_and(|first| *first >= 0x80) { &[0] } else { &[] };
    [&[0x02][..], &length(sign.len() + number.len()), sign, number].concat()
}

/// DER's length (X.690 §8.1.3): short below 128, else the number of bytes and the bytes.
fn length(length: usize) -> Vec<u8> {
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => vec![short],
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = trimmed(&bytes);
            [&[0x80 | bytes.len() as u8], bytes].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn notes(keys: &str, accepted: &[Algorithm]) -> (Option<usize>, String) {
        let mut notes = Vec::new();
        let set = read(&format!(r#"{{"keys":[{keys}]}}"#), accepted, &mut notes);
        (set.ok().map(|set| set.len()), notes.join("; "))
    }

    #[test]
    fn what_a_key_says_of_itself_narrows_its_use() {
        let one = |more: &str, accepted: &[Algorithm]| notes(&format!("{{{P256}{more}}}"), accepted);
        assert_eq!(one("", &Algorithm::ALL), (Some(1), String::new()));
        assert_eq!(one(r#","alg":"ES256","use":"sig","key_ops":["verify"]"#, &Algorithm::ALL).0, Some(1));
        for (more, reason) in [
            (r#","use":"enc""#, "key 0 is not for signatures (`use`)"),
            (r#","kid":"k","key_ops":["sign"]"#, "key `k` may not verify (`key_ops`)"),
            (r#","key_ops":"verify""#, "key 0 may not verify (`key_ops`)"),
            (r#","alg":"RS256""#, "key 0 cannot be used: the key can check ES256, and `algorithms` accepts none of it"),
            (r#","alg":7"#, "key 0 has a `alg` that is no text"),
        ] {
            assert_eq!(one(more, &Algorithm::ALL), (None, reason.to_owned()), "{more}");
        }
        assert_eq!(one("", &[Algorithm::RS256, Algorithm::ES384]).0, None);
    }

    #[test]
    fn keys_that_cannot_be_used_are_passed_over_and_the_others_stay() {
        let wrong_length = P256.replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "f83O");
        let off_curve = P256.replace("x_FE", "x_FF");
        let small = URL_SAFE_NO_PAD.encode([0xc1; 128]);
        let large = URL_SAFE_NO_PAD.encode([0xc1; 256]);
        for (jwk, reason) in [
            (wrong_length, "has coordinates of the wrong length"),
            (off_curve, "cannot be used: the key is not valid"),
            (r#""kty":"oct","k":"AAAA""#.into(), "is a secret, which nobody may publish"),
            (
                r#""kty":"EC","crv":"secp256k1""#.into(),
                "is on a curve that is not supported: `crv` is not P-256, P-384 or P-521",
            ),
            (r#""kty":"AKP""#.into(), "is of a kind that is not supported: `kty` is not RSA, EC or OKP"),
            (
                format!(r#""kty":"RSA","e":"AQAB","n":"{small}""#),
                "cannot be used: an RSA key of 1024 bits is out of bounds",
            ),
            (format!(r#""kty":"RSA","e":"AQ","n":"{large}""#), "has an exponent that no RSA key should have"),
            (format!(r#""kty":"RSA","e":"Ag","n":"{large}""#), "has an exponent that no RSA key should have"),
            (r#""kty":"RSA","e":"AQAB","n":"a+b""#.into(), "has a `n` that is not base64url"),
            (String::new(), "has no `kty`"),
        ] {
            let keys = format!("{{{jwk}}},{{{P256}}}");
            assert_eq!(notes(&keys, &Algorithm::ALL), (Some(1), format!("key 0 {reason}")), "{jwk}");
        }
    }

    #[test]
    fn what_is_no_set_of_usable_keys_is_refused() {
        let refused = |text: &str| read(text, &Algorithm::ALL, &mut Vec::new()).err().expect(text).0;
        assert_eq!(refused("<html>"), "it is no JSON object");
        assert_eq!(refused("[]"), "it is no JSON object");
        assert_eq!(refused("{}"), "it has no list `keys`");
        assert_eq!(refused(r#"{"keys":[],"keys":[]}"#), "it is no JSON object");
        assert_eq!(refused(r#"{"keys":[]}"#), "no key of it can be used: it is empty");
        assert_eq!(refused(r#"{"keys":[7]}"#), "no key of it can be used: key 0 is no object");
        let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; KEYS_MAX + 1].join(","));
        assert_eq!(refused(&many), "it has 101 keys, and the most is 100");
    }

    #[test]
    fn der_lengths_are_of_the_least_bytes() {
        assert_eq!(length(127), [0x7f]);
        assert_eq!(length(128), [0x81, 0x80]);
        assert_eq!(length(270), [0x82, 0x01, 0x0e]);
    }
}
