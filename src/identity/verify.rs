//! What must hold of a token besides its signature.
//!
//! Everything that is checked is checked here, in one order, and every failure has a name of its own ([`Defect`]).

use serde_json::{Map, Value};

use super::Defect;
use super::key::KeySet;
use super::token::Token;
use crate::config::identity::Algorithm;
use crate::exchange::identity::{ClaimPath, Identity};

/// The demands of a provider.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What `iss` may be.
    pub issuers: Vec<String>,
    /// What `aud` must have one of. `None`: anything will do.
    pub audiences: Option<Vec<String>>,
    /// What `alg` may be.
    pub algorithms: Vec<Algorithm>,
    /// What `typ` may be, in lower case and without `application/`.
    pub types: Vec<String>,
    /// How far clocks may differ, in seconds.
    pub leeway: i64,
    /// Whether there must be an `exp`.
    pub expires: bool,
    /// From `iat` to `exp`, at most, in seconds.
    pub max_lifetime: Option<i64>,
    /// Since `iat`, at most, in seconds.
    pub max_age: Option<i64>,
    /// Claims that must be there.
    pub required: Vec<ClaimPath>,
    /// Where the roles stand.
    pub roles: ClaimPath,
    /// Where the scopes stand: the first of these that is there.
    pub scopes: Vec<ClaimPath>,
}

impl Rules {
    /// Whether tokens of this issuer are for these rules.
    pub fn is_issuer(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|known| known == issuer)
    }

    /// The algorithm of a token, if it is one that is accepted.
    pub(super) fn algorithm(&self, token: &Token<'_>) -> Result<Algorithm, Defect> {
        Algorithm::named(&token.header.algorithm)
            .filter(|named| self.algorithms.contains(named))
            .ok_or(Defect::Algorithm)
    }

    /// Checks a token at `now`, in seconds since 1970, and tells who calls.
    pub(super) fn verify(
        &self,
        provider: &std::sync::Arc<str>,
        token: Token<'_>,
        keys: &KeySet,
        now: i64,
    ) -> Result<Identity, Defect> {
        let algorithm = self.algorithm(&token)?;
        keys.verify(token.header.key.as_deref(), algorithm, token.signed, &token.signature)?;
        // From here on the issuer speaks, and not whoever holds the token.
        self.rest(provider, token, now)
    }

    /// Checks all but the signature, which nobody has checked then: for those who look at a token, and let nobody in by it.
    pub(super) fn unsigned(
        &self,
        provider: &std::sync::Arc<str>,
        token: Token<'_>,
        now: i64,
    ) -> Result<Identity, Defect> {
        self.algorithm(&token)?;
        self.rest(provider, token, now)
    }

    fn rest(&self, provider: &std::sync::Arc<str>, token: Token<'_>, now: i64) -> Result<Identity, Defect> {
        let claims = &token.claims;
        if !text(claims, "iss")?.is_some_and(|issuer| self.is_issuer(issuer)) {
            return Err(Defect::Issuer);
        }
        self.kind(token.header.kind.as_deref())?;
        self.accept(provider, token.claims, now)
    }

    /// Checks what somebody who may be believed says of a caller.
    pub(super) fn accept(
        &self,
        provider: &std::sync::Arc<str>,
        claims: Map<String, Value>,
        now: i64,
    ) -> Result<Identity, Defect> {
        self.audience(&claims)?;
        let expires = self.times(&claims, now)?;
        if self.required.iter().any(|path| path.find(&claims).is_none_or(Value::is_null)) {
            return Err(Defect::ClaimMissing);
        }
        let subject = text(&claims, "sub")?.unwrap_or_default().into();
        let roles = words(self.roles.find(&claims))?;
        let scopes = words(self.scopes.iter().find_map(|path| path.find(&claims)))?;
        Ok(Identity { provider: provider.clone(), subject, roles, scopes, claims, expires })
    }

    fn audience(&self, claims: &Map<String, Value>) -> Result<(), Defect> {
        let Some(accepted) = &self.audiences else { return Ok(()) };
        let is_accepted = |value: &Value| match value {
            Value::String(text) => Ok(accepted.contains(text)),
            _ => Err(Defect::ClaimType),
        };
        // One text or a list of them (RFC 7519 §4.1.3).
        let found = match claims.get("aud") {
            None => false,
            Some(Value::Array(list)) => {
                let mut found = false;
                for item in list {
                    found |= is_accepted(item)?;
                }
                found
            }
            Some(one) => is_accepted(one)?,
        };
        if found { Ok(()) } else { Err(Defect::Audience) }
    }

    /// Until when the token is good.
    fn times(&self, claims: &Map<String, Value>, now: i64) -> Result<Option<i64>, Defect> {
        let (expires, from, issued) = (time(claims, "exp")?, time(claims, "nbf")?, time(claims, "iat")?);
        let mut until = i64::MAX;
        match expires {
            Some(expires) => until = expires.saturating_add(self.leeway),
            None if self.expires => return Err(Defect::ExpiryMissing),
            None => {}
        }
        // RFC 7519 §4.1.4: on or after `exp` it is over.
        if now >= until {
            return Err(Defect::Expired);
        }
        let ahead = now.saturating_add(self.leeway);
        if from.is_some_and(|from| from > ahead) {
            return Err(Defect::NotYet);
        }
        if issued.is_some_and(|issued| issued > ahead) {
            return Err(Defect::IssuedInFuture);
        }
        if let Some(most) = self.max_lifetime {
            let lifetime = expires.zip(issued).map(|(expires, issued)| expires.saturating_sub(issued));
            if lifetime.is_none_or(|lifetime| lifetime > most) {
                return Err(Defect::LifetimeTooLong);
            }
        }
        if let Some(most) = self.max_age {
            let end = issued.ok_or(Defect::TooOld)?.saturating_add(most).saturating_add(self.leeway);
            if now >= end {
                return Err(Defect::TooOld);
            }
            until = until.min(end);
        }
        Ok((until < i64::MAX).then_some(until))
    }

    fn kind(&self, kind: Option<&str>) -> Result<(), Defect> {
        // What does not say is a JWT like any other (RFC 7519 §5.1), where those are accepted.
        let kind = kind.map_or_else(|| "jwt".to_owned(), short_type);
        if self.types.contains(&kind) { Ok(()) } else { Err(Defect::Type) }
    }
}

/// A media type as `typ` has it: without `application/`, and whatever its case (RFC 7515 §4.1.9).
pub fn short_type(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
}

/// The issuer that a token names, unverified: only to find out who is to verify it.
pub(super) fn issuer<'c>(token: &'c Token<'_>) -> Result<&'c str, Defect> {
    text(&token.claims, "iss")?.ok_or(Defect::Issuer)
}

pub(super) fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, Defect> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Defect::ClaimType),
    }
}

/// A `NumericDate` (RFC 7519 §2): seconds since 1970, perhaps with a fraction. A text that looks like one is none.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Defect> {
    /// Seconds that a date may lie away from 1970: what a float holds exactly.
    const MOST: f64 = (1_i64 << 53) as f64;
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if value.is_number() && (0.0..=MOST).contains(&seconds) => Ok(Some(seconds.floor() as i64)),
        _ => Err(Defect::ClaimType),
    }
}

/// A list of texts, or one text with spaces between them. `null` is nothing.
pub(super) fn words(value: Option<&Value>) -> Result<Box<[Box<str>]>, Defect> {
    match value {
        None | Some(Value::Null) => Ok(Box::default()),
        Some(Value::String(text)) => Ok(text.split_ascii_whitespace().map(Box::from).collect()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(Box::from).ok_or(Defect::ClaimType)).collect()
        }
        Some(_) => Err(Defect::ClaimType),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::config::identity::Encoding;
    use crate::identity::key::Key;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: i64 = 1_800_000_000;

    fn rules() -> Rules {
        Rules {
            issuers: vec!["https://id".into()],
            audiences: Some(vec!["api".into(), "other".into()]),
            algorithms: vec![Algorithm::HS256],
            types: vec!["jwt".into(), "at+jwt".into()],
            leeway: 30,
            expires: true,
            max_lifetime: None,
            max_age: None,
            required: Vec::new(),
            roles: ClaimPath::new("roles"),
            scopes: vec![ClaimPath::new("scope"), ClaimPath::new("scp")],
        }
    }

    fn verify(rules: &Rules, header: Value, changes: Value) -> Result<Identity, Defect> {
        let mut claims = json!({"iss": "https://id", "aud": "api", "sub": "ada", "exp": NOW + 60});
        for (name, value) in changes.as_object().unwrap() {
            if value == "absent" {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes()));
        let text = format!("{signed}.{signature}");
        let keys = KeySet::unnamed(vec![Key::secret(SECRET, Encoding::Text, &[Algorithm::HS256]).unwrap()], [SECRET]);
        rules.verify(&Arc::from("staff"), Token::read(&text, 8192)?, &keys, NOW)
    }

    fn plain(changes: Value) -> Result<Identity, Defect> {
        verify(&rules(), json!({"alg": "HS256"}), changes)
    }

    #[test]
    fn a_good_token_tells_who_calls() {
        let identity = plain(json!({"roles": ["a", "b c"], "scope": "read write", "scp": ["x"]})).unwrap();
        assert_eq!((&*identity.provider, &*identity.subject), ("staff", "ada"));
        assert_eq!(identity.roles.iter().map(|role| &**role).collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(identity.scopes.iter().map(|scope| &**scope).collect::<Vec<_>>(), ["read", "write"]);
        assert_eq!(identity.expires, Some(NOW + 90));
    }

    #[test]
    fn each_claim_is_checked_by_its_rule() {
        use Defect::*;
        let cases = [
            (json!({"iss": "https://id/"}), Some(Issuer)),
            (json!({"iss": "absent"}), Some(Issuer)),
            (json!({"iss": ["https://id"]}), Some(ClaimType)),
            (json!({"aud": ["x", "other"]}), None),
            (json!({"aud": ["x"]}), Some(Audience)),
            (json!({"aud": []}), Some(Audience)),
            (json!({"aud": "absent"}), Some(Audience)),
            (json!({"aud": "API"}), Some(Audience)),
            (json!({"aud": ["api", 7]}), Some(ClaimType)),
            (json!({"exp": NOW - 29}), None),
            (json!({"exp": NOW - 30}), Some(Expired)),
            (json!({"exp": 0}), Some(Expired)),
            (json!({"exp": "absent"}), Some(ExpiryMissing)),
            (json!({"exp": NOW as f64 + 0.5}), None),
            (json!({"exp": (NOW + 60).to_string()}), Some(ClaimType)),
            (json!({"exp": -1}), Some(ClaimType)),
            (json!({"exp": 1e300}), Some(ClaimType)),
            (json!({"exp": u64::MAX}), Some(ClaimType)),
            (json!({"exp": null}), Some(ClaimType)),
            (json!({"exp": true}), Some(ClaimType)),
            (json!({"nbf": NOW + 30}), None),
            (json!({"nbf": NOW + 31}), Some(NotYet)),
            (json!({"nbf": "2099"}), Some(ClaimType)),
            (json!({"iat": NOW + 30}), None),
            (json!({"iat": NOW + 31}), Some(IssuedInFuture)),
            (json!({"sub": 7}), Some(ClaimType)),
            (json!({"sub": "absent"}), None),
            (json!({"roles": {"admin": true}}), Some(ClaimType)),
            (json!({"roles": ["a", 7]}), Some(ClaimType)),
            (json!({"roles": null}), None),
            (json!({"scope": 7}), Some(ClaimType)),
        ];
        for (changes, expected) in cases {
            assert_eq!(plain(changes.clone()).err(), expected, "{changes}");
        }
    }

    #[test]
    fn types_are_an_allow_list() {
        for (kind, good) in [
            ("JWT", true),
            ("jwt", true),
            ("at+jwt", true),
            ("application/AT+JWT", true),
            ("logout+jwt", false),
            ("dpop+jwt", false),
            ("", false),
        ] {
            let outcome = verify(&rules(), json!({"alg": "HS256", "typ": kind}), json!({}));
            assert_eq!(outcome.err(), (!good).then_some(Defect::Type), "{kind}");
        }
    }

    #[test]
    fn a_token_that_does_not_say_its_type_is_a_jwt_like_any_other() {
        assert!(verify(&rules(), json!({"alg": "HS256"}), json!({})).is_ok());
        let strict = Rules { types: vec!["at+jwt".into()], ..rules() };
        for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "typ": "JWT"})] {
            assert_eq!(verify(&strict, header.clone(), json!({})).err(), Some(Defect::Type), "{header}");
        }
        assert!(verify(&strict, json!({"alg": "HS256", "typ": "at+jwt"}), json!({})).is_ok());
    }

    #[test]
    fn algorithms_are_those_of_the_rules_and_the_key() {
        for name in ["none", "None", "NONE", "hs256", "HS512", "RS256", "ES256", ""] {
            assert_eq!(verify(&rules(), json!({"alg": name}), json!({})).err(), Some(Defect::Algorithm), "{name}");
        }
        // Accepted by the provider, but not what this key is for.
        let wide = Rules { algorithms: Algorithm::ALL.to_vec(), ..rules() };
        for name in ["HS512", "RS256", "ES256", "EdDSA"] {
            assert_eq!(verify(&wide, json!({"alg": name}), json!({})).err(), Some(Defect::KeyUnknown), "{name}");
        }
        assert_eq!(verify(&rules(), json!({"alg": "HS256", "kid": "../../etc/passwd"}), json!({})).err(), None);
    }

    #[test]
    fn age_and_lifetime_are_bounded_where_that_is_asked() {
        let old = Rules { max_age: Some(100), ..rules() };
        let check = |rules: &Rules, changes| verify(rules, json!({"alg": "HS256"}), changes);
        assert_eq!(check(&old, json!({"iat": NOW - 129})).unwrap().expires, Some(NOW + 1));
        assert_eq!(check(&old, json!({"iat": NOW - 130})).err(), Some(Defect::TooOld));
        assert_eq!(check(&old, json!({})).err(), Some(Defect::TooOld));
        let long = Rules { max_lifetime: Some(100), ..rules() };
        assert_eq!(check(&long, json!({"iat": NOW - 40})).err(), None);
        assert_eq!(check(&long, json!({"iat": NOW - 41})).err(), Some(Defect::LifetimeTooLong));
        assert_eq!(check(&long, json!({})).err(), Some(Defect::LifetimeTooLong));
        let endless = Rules { expires: false, ..rules() };
        assert_eq!(check(&endless, json!({"exp": "absent"})).unwrap().expires, None);
    }

    #[test]
    fn required_claims_and_roles_are_found_by_name_or_pointer() {
        let rules = Rules {
            required: vec![ClaimPath::new("https://example.com/tenant"), ClaimPath::new("/a/1")],
            roles: ClaimPath::new("/realm_access/roles"),
            ..rules()
        };
        let good = json!({"https://example.com/tenant": 1, "a": [0, 1], "realm_access": {"roles": ["x"]}});
        assert!(verify(&rules, json!({"alg": "HS256"}), good.clone()).unwrap().has_role("x"));
        for missing in ["https://example.com/tenant", "a"] {
            let mut bad = good.clone();
            bad[missing] = json!("absent");
            assert_eq!(verify(&rules, json!({"alg": "HS256"}), bad).err(), Some(Defect::ClaimMissing), "{missing}");
        }
    }
}
