//! Reads a compact JWS (RFC 7515 §7.1), strictly: what two readers could take differently is refused.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Defect;

/// A token taken apart, its signature unchecked.
#[derive(Debug)]
pub(super) struct Token<'t> {
    /// What was signed.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
}

/// What of a token's header is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) algorithm: String,
    pub(super) key: Option<String>,
    pub(super) kind: Option<String>,
}

impl<'t> Token<'t> {
    pub(super) fn read(text: &'t str, most: usize) -> Result<Self, Defect> {
        if text.len() > most {
            return Err(Defect::TooLarge);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Defect::Malformed);
        };
        let header = Header::read(object(&decode(header)?)?)?;
        Ok(Self {
            signed: &text.as_bytes()[..text.len() - signature.len() - 1],
            header,
            claims: object(&decode(claims)?)?,
            signature: decode(signature)?,
        })
    }
}

impl Header {
    fn read(mut members: Map<String, Value>) -> Result<Self, Defect> {
        if members.contains_key("crit") {
            return Err(Defect::Critical);
        }
        let mut text = |name: &str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Defect::Malformed),
        };
        Ok(Self { algorithm: text("alg")?.ok_or(Defect::Malformed)?, key: text("kid")?, kind: text("typ")? })
    }
}

/// Whether a text has the shape of a compact JWS: what has not is none of ours to judge.
pub(super) fn looks_signed(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn decode(part: &str) -> Result<Vec<u8>, Defect> {
    // Without padding, and refused if bits are set that stand for nothing: one token, one spelling.
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Defect::Malformed)
}

/// A JSON object in which, at any depth, no member stands twice.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Defect> {
    match serde_json::from_slice(bytes) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        Ok(_) => Err(Defect::Malformed),
        Err(error) if error.to_string().starts_with(TWICE) => Err(Defect::Duplicate),
        Err(_) => Err(Defect::Malformed),
    }
}

const TWICE: &str = "a member stands twice";

/// JSON whose objects have each member once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let Strict(value) = access.next_value()?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        [header, claims, "signature"].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    }

    #[track_caller]
    fn refuses(text: &str, defect: Defect) {
        assert_eq!(Token::read(text, 1000).expect_err(text), defect, "{text}");
    }

    #[test]
    fn a_token_is_taken_apart() {
        let text =
            token(r#"{"alg":"HS256","kid":"a","typ":"JWT","jku":"http://evil"}"#, r#"{"sub":"x","n":[1.5,null]}"#);
        let token = Token::read(&text, 1000).unwrap();
        assert_eq!(token.header, Header { algorithm: "HS256".into(), key: Some("a".into()), kind: Some("JWT".into()) });
        assert_eq!(Value::Object(token.claims), serde_json::json!({"sub": "x", "n": [1.5, null]}));
        assert_eq!(token.signature, b"signature");
        assert!(text.as_bytes().starts_with(token.signed) && text.as_bytes()[token.signed.len()] == b'.');
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        refuses(&token(r#"{"alg":"HS256","alg":"none"}"#, "{}"), Defect::Duplicate);
        refuses(&token(r#"{"alg":"HS256"}"#, r#"{"sub":"a","sub":"b"}"#), Defect::Duplicate);
        refuses(&token(r#"{"alg":"HS256"}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#), Defect::Duplicate);
        refuses(&token(r#"{"alg":"HS256","crit":["exp"]}"#, "{}"), Defect::Critical);
        refuses(&token(r#"{"alg":"HS256","crit":[]}"#, "{}"), Defect::Critical);
        for (header, claims) in [
            ("{}", "{}"),
            (r#"{"alg":7}"#, "{}"),
            (r#"{"alg":"HS256","kid":7}"#, "{}"),
            (r#"{"alg":"HS256","typ":null}"#, "{}"),
            (r#"{"alg":"HS256"} "#, "[]"),
            (r#"{"alg":"HS256"}x"#, "{}"),
            (r#"{"alg":"HS256"}"#, "{\"n\":1e400}"),
            (r#"{"alg":"HS256"}"#, "\u{feff}{}"),
        ] {
            refuses(&token(header, claims), Defect::Malformed);
        }
    }

    #[test]
    fn base64url_has_one_spelling() {
        let good = token(r#"{"alg":"HS256"}"#, r#"{"a":1}"#);
        assert!(Token::read(&good, 1000).is_ok());
        // "signature" ends in two bits that stand for nothing when one byte is cut off.
        let cut = good[..good.len() - 2].to_owned();
        for text in [
            format!("{good}="),
            format!("{good}\n"),
            format!(" {good}"),
            good.replace('.', ".."),
            format!("{good}.x"),
            format!("{cut}B"),
            good.replacen("eyJ", "eyJ+", 1),
            "a.b".into(),
            "..".into(),
            String::new(),
        ] {
            refuses(&text, Defect::Malformed);
        }
    }

    #[test]
    fn a_token_of_any_depth_or_length_costs_no_more_than_its_bounds() {
        refuses(&"a".repeat(1001), Defect::TooLarge);
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(300), "]".repeat(300));
        refuses(&token(r#"{"alg":"HS256"}"#, &deep), Defect::Malformed);
    }
}
