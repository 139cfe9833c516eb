//! What operators see of the requests that a variant is for. What may tell who asks is no more than a digest, by a secret of
//! this process: enough to tell variants apart, and no way back to the value.

use http::header::{self, HeaderName};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::key::{Codings, KeyPlan, may_be_credential};

/// How much is shown of a value.
const VALUE_MAX: usize = 100;

/// The headers that chose a variant, with their values. `null`: without it.
pub fn request(plan: &KeyPlan, names: &[HeaderName], variant: &[u8], secret: u128) -> Value {
    let (mut shown, mut rest) = (Map::new(), variant);
    for name in names.iter().filter(|name| !plan.hidden.contains(name)) {
        let Some(value) = next(name, &mut rest, secret) else { break };
        shown.insert(name.as_str().to_owned(), value);
    }
    Value::Object(shown)
}

/// Takes the next one, as [`KeyPlan::variant`] has written it.
fn next(name: &HeaderName, rest: &mut &[u8], secret: u128) -> Option<Value> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    if *name == header::ACCEPT_ENCODING {
        return Some(Codings::read(*first).words().map_or(Value::Null, Value::from));
    }
    if *first == 0 {
        return Some(Value::Null);
    }
    let (length, after) = rest.split_first_chunk()?;
    let (value, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = after;
    // Each element ends with a comma.
    let value = value.strip_suffix(b",").unwrap_or(value);
    // What refers here may have queries, which are shown nowhere.
    if may_be_credential(name) != Some(false) || *name == header::REFERER {
        return Some(json!({"hash": hash(name.as_str().as_bytes(), value, secret)}));
    }
    let text: String = String::from_utf8_lossy(value).chars().take(VALUE_MAX).collect();
    Some(text.into())
}

/// What stands for something that is not shown.
pub fn hash(kind: &[u8], value: &[u8], secret: u128) -> String {
    let mut hash = Sha256::new();
    hash.update(secret.to_le_bytes());
    hash.update(kind);
    hash.update([0]);
    hash.update(value);
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn shown(names: &[&'static str], request: &[(&'static str, &str)]) -> Value {
        let plan = KeyPlan { hidden: vec![HeaderName::from_static("x-gone")], ..KeyPlan::default() };
        let names: Vec<HeaderName> = names.iter().map(|name| HeaderName::from_static(name)).collect();
        let headers: HeaderMap =
            request.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        super::request(&plan, &names, &plan.variant(&names, &headers), 7)
    }

    #[test]
    fn what_chose_a_variant_is_told_in_words_where_it_says_nothing_of_who_asks() {
        let names = ["accept-encoding", "accept-language", "origin", "x-gone"];
        let told =
            shown(&names, &[("accept-encoding", "gzip, br;q=0.5"), ("accept-language", "de , en"), ("x-gone", "a")]);
        assert_eq!(told, json!({"accept-encoding": "br, gzip", "accept-language": "de,en", "origin": null}));
        assert_eq!(shown(&names, &[])["accept-encoding"], Value::Null);
        assert_eq!(shown(&names, &[("accept-encoding", "identity")])["accept-encoding"], "identity");
        assert_eq!(shown(&names, &[("accept-encoding", "gzip, *;q=0")])["accept-encoding"], "gzip, identity;q=0");
        let long = shown(&["accept"], &[("accept", &"x".repeat(1000))]);
        assert_eq!(long["accept"].as_str().map(str::len), Some(VALUE_MAX));
    }

    #[test]
    fn what_may_say_who_asks_is_a_digest_that_differs_where_it_does() {
        for name in ["cookie", "authorization", "x-api-key", "x-plan", "referer"] {
            let of = |value| shown(&[name], &[(name, value)]);
            let (one, other) = (of("gold"), of("iron"));
            assert!(!one.to_string().contains("gold") && one != other && one == of("gold"), "{name}: {one}");
            assert_eq!(one[name]["hash"].as_str().map(str::len), Some(8));
        }
        assert_ne!(hash(b"a", b"b", 1), hash(b"a", b"b", 2), "by a secret");
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let names = [HeaderName::from_static("x-a")];
        for variant in [&[][..], &[1], &[1, 9, 0, 0, 0, b'a'], &[1, 255, 255, 255, 255]] {
            assert_eq!(super::request(&KeyPlan::default(), &names, variant, 7), json!({}));
        }
    }
}
