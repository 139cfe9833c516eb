//! Who calls: the one form that every way of proving it leads to.

use std::sync::Arc;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use serde_json::{Map, Value};

use super::{Exchange, Reason, Rejection};

/// A verified caller. Made by a provider, read by policies; nothing in it is taken on the caller's word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Identity {
    /// The name of the provider that vouches.
    pub provider: Arc<str>,
    /// `sub`: who it is, unique within the provider. Empty where the credential names nobody.
    pub subject: Box<str>,
    /// What it may be.
    pub roles: Box<[Box<str>]>,
    /// What it was allowed to do on somebody's behalf (RFC 6749 §3.3).
    pub scopes: Box<[Box<str>]>,
    /// Everything that was said of it.
    pub claims: Map<String, Value>,
    /// Until when it is proven, in seconds since 1970, with what clocks may differ. `None`: for ever.
    pub expires: Option<i64>,
}

impl Identity {
    /// Whether it has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| **held == *role)
    }

    /// Whether it has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| **held == *scope)
    }
}

/// Where a request carries its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer`.
    Bearer,
    /// A header of its own.
    Header(HeaderName),
    /// The cookie of this name.
    Cookie(Arc<str>),
    /// None: the client's certificate, by which the connection was opened.
    Connection,
    /// The query parameter of this name. It is always taken out before the request goes on.
    Query(Arc<str>),
}

/// A caller, and the credential by which it was told.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Where the request carries the credential.
    pub place: Place,
    /// Whether the upstream is not to see it. `None`: that depends on whose the upstream is.
    pub strips: Option<bool>,
    /// Whether endless answers end with the credential.
    pub ends_streams: bool,
}

impl Exchange {
    /// Takes note of who calls. A credential in the query is taken out: no log and no upstream sees it.
    pub fn identify(&mut self, caller: Caller) {
        if let Place::Query(name) = &caller.place
            && let Some(uri) = without(self.request.uri(), name)
        {
            self.closing.record.set_query(uri.query().map(str::as_bytes));
            *self.request.uri_mut() = uri;
        }
        self.caller = Some(caller);
    }

    /// Who calls.
    ///
    /// # Errors
    /// Nobody has proven it: a 401.
    pub fn identity(&self) -> Result<&Identity, Rejection> {
        self.caller.as_ref().map(|caller| &*caller.identity).ok_or_else(|| Reason::TokenMissing.into())
    }

    /// Takes the credential out of the request, if it is not for an upstream that is, or is not, a third party.
    pub fn strip_credential(&mut self, is_third_party: bool) {
        let Some(caller) = self.caller.as_ref().filter(|caller| caller.strips.unwrap_or(is_third_party)) else {
            return;
        };
        let headers = self.request.headers_mut();
        match &caller.place {
            Place::Bearer => {
                headers.remove(header::AUTHORIZATION);
            }
            Place::Header(name) => {
                headers.remove(name);
            }
            Place::Cookie(name) => remove_cookie(headers, name),
            Place::Query(_) | Place::Connection => {}
        }
    }
}

/// How callers may prove on a route who they are. Each 401 tells it (RFC 9110 §15.5.2).
///
/// Only bearer tokens have a registered scheme (RFC 6750 §3). The others are told by a scheme that says what is missing, and
/// that who does not know it passes over (RFC 9110 §11.6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges {
    has_bearer: bool,
    others: Vec<HeaderValue>,
}

impl Challenges {
    /// By a bearer token, in its header or in the query.
    pub fn bearer(&mut self) {
        self.has_bearer = true;
    }

    /// By a token in this cookie.
    pub fn cookie(&mut self, name: &str) {
        let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
        self.other(format!("Cookie realm=\"armiger\", cookie-name=\"{escaped}\""));
    }

    /// By an API key in this header.
    pub fn api_key(&mut self, header: &HeaderName) {
        self.other(format!("ApiKey realm=\"armiger\", header=\"{header}\""));
    }

    /// By a certificate.
    pub fn certificate(&mut self) {
        self.other("Certificate realm=\"armiger\"".to_owned());
    }

    fn other(&mut self, challenge: String) {
        self.others.extend(HeaderValue::try_from(challenge));
    }

    /// Tells it with a refusal. `refused`: where the credential stood that is not good, if there was one.
    pub fn tell(&self, rejection: &mut Rejection, refused: Option<&Place>) {
        if self.has_bearer || self.others.is_empty() {
            let is_refused = matches!(refused, Some(Place::Bearer | Place::Query(_)));
            let error = if is_refused { ", error=\"invalid_token\"" } else { "" };
            rejection.headers.extend(
                HeaderValue::try_from(format!("Bearer realm=\"armiger\"{error}"))
                    .map(|value| (header::WWW_AUTHENTICATE, value)),
            );
        }
        rejection.headers.extend(self.others.iter().map(|value| (header::WWW_AUTHENTICATE, value.clone())));
    }
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let Some(line) = headers.get(header::COOKIE) else { return };
    let is_other = |cookie: &&[u8]| {
        let rest = cookie.trim_ascii().strip_prefix(name.as_bytes());
        !rest.is_some_and(|rest| rest.starts_with(b"="))
    };
    let kept: Vec<&[u8]> =
        line.as_bytes().split(|byte| *byte == b';').filter(is_other).map(<[u8]>::trim_ascii).collect();
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(value) if !kept.is_empty() => headers.insert(header::COOKIE, value),
        _ => headers.remove(header::COOKIE),
    };
}

/// The parameters of a query, decoded as a form (WHATWG URL §5.1). `None`: what is decoded is no text.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (Option<Cow<'_, str>>, Option<Cow<'_, str>>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(name), form_decode(value))
    })
}

/// What percent-encoded text stands for. `None`: no text.
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    decode(text, false)
}

fn form_decode(text: &str) -> Option<Cow<'_, str>> {
    decode(text, true)
}

/// `is_form`: a plus sign is a space.
fn decode(text: &str, is_form: bool) -> Option<Cow<'_, str>> {
    let is_plain = |byte: u8| byte != b'%' && (byte != b'+' || !is_form);
    if text.bytes().all(is_plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = || Some((char::from(*tail.first()?).to_digit(16)?, char::from(*tail.get(1)?).to_digit(16)?));
        rest = tail;
        match (first, digits()) {
            (b'+', _) if is_form => bytes.push(b' '),
            (b'%', Some((high, low))) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// A target without the query parameter of this name, however it is written.
fn without(uri: &Uri, name: &str) -> Option<Uri> {
    let is_other = |pair: &&str| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        form_decode(key).is_none_or(|key| key != name)
    };
    let kept: Vec<&str> = uri.query()?.split('&').filter(is_other).collect();
    let target = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.try_into().ok()?);
    Uri::from_parts(parts).ok()
}

/// Where a claim stands: a plain name, which may be a URL, or a JSON Pointer (RFC 6901) such as `/realm_access/roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<Box<str>>);

impl ClaimPath {
    /// Reads it. What begins with `/` is a pointer.
    pub fn new(text: &str) -> Self {
        match text.strip_prefix('/') {
            None => Self(vec![text.into()]),
            Some(pointer) => {
                Self(pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~").into()).collect())
            }
        }
    }

    /// Puts a value there, in maps that are made where there are none.
    pub fn put(&self, claims: &mut Map<String, Value>, value: Value) {
        let Some((last, way)) = self.0.split_last() else { return };
        let mut at = claims;
        for step in way {
            let next = at.entry(step.to_string()).or_insert_with(|| Value::Object(Map::new()));
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            let Value::Object(members) = next else { return };
            at = members;
        }
        at.insert(last.to_string(), value);
    }

    /// What stands there.
    pub fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, step| match value {
            Value::Object(members) => members.get(&**step),
            Value::Array(items) => {
                let is_index = !step.starts_with('0') || **step == *"0";
                step.parse::<usize>()
                    .ok()
                    .filter(|_| is_index && !step.starts_with('+'))
                    .and_then(|place| items.get(place))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_credential_leaves_no_trace_in_the_query() {
        for (target, left) in [
            ("/a?token=x", "/a"),
            ("/a?b=1&token=x&c=2", "/a?b=1&c=2"),
            ("/a?%74oken=x&b", "/a?b"),
            ("/a?tokens=x", "/a?tokens=x"),
            ("/a?token", "/a"),
            ("http://h/a?token=x&b=+%2B", "http://h/a?b=+%2B"),
        ] {
            assert_eq!(without(&target.parse().unwrap(), "token").unwrap(), left, "{target}");
        }
    }

    #[test]
    fn a_refusal_tells_every_way_of_proving_it_and_what_was_wrong_with_the_one_that_was_taken() {
        let told = |challenges: &Challenges, refused: Option<&Place>| -> Vec<String> {
            let mut rejection = Reason::TokenInvalid.into();
            challenges.tell(&mut rejection, refused);
            rejection.headers.iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
        };
        let (mut tokens, mut others) = (Challenges::default(), Challenges::default());
        tokens.bearer();
        assert_eq!(told(&tokens, None), ["Bearer realm=\"armiger\""]);
        for place in [Place::Bearer, Place::Query("t".into())] {
            assert_eq!(told(&tokens, Some(&place)), ["Bearer realm=\"armiger\", error=\"invalid_token\""]);
        }
        others.api_key(&HeaderName::from_static("x-api-key"));
        others.cookie("session");
        others.certificate();
        let all = [
            "ApiKey realm=\"armiger\", header=\"x-api-key\"",
            "Cookie realm=\"armiger\", cookie-name=\"session\"",
            "Certificate realm=\"armiger\"",
        ];
        assert_eq!(told(&others, Some(&Place::Connection)), all);
        others.bearer();
        let key = Place::Header(HeaderName::from_static("x-api-key"));
        assert_eq!(told(&others, Some(&key)), [&["Bearer realm=\"armiger\""][..], &all].concat());
        assert_eq!(told(&Challenges::default(), None), ["Bearer realm=\"armiger\""], "a 401 has one at least");
    }

    #[test]
    fn the_other_cookies_stay() {
        for (line, left) in [
            ("session=x", None),
            ("a=1; session=x; b=2", Some("a=1; b=2")),
            ("session=x; sessions=y", Some("sessions=y")),
            ("a=session=x", Some("a=session=x")),
        ] {
            let mut headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(line))]);
            remove_cookie(&mut headers, "session");
            assert_eq!(headers.get(header::COOKIE).map(|value| value.to_str().unwrap()), left, "{line}");
        }
    }

    #[test]
    fn queries_are_decoded_as_forms() {
        let pairs: Vec<_> = query_pairs("a=1&&b&c=%41+%zz&%ff=x").collect();
        let text = |text: &'static str| Some(Cow::Borrowed(text));
        assert_eq!(pairs[0], (text("a"), text("1")));
        assert_eq!(pairs[1], (text("b"), text("")));
        assert_eq!(pairs[2], (text("c"), text("A %zz")));
        assert_eq!(pairs[3], (None, text("x")));
    }

    #[test]
    fn a_claim_is_found_by_name_or_pointer() {
        let claims = json!({
            "roles": ["a"], "https://x/roles": 1, "a/b": {"c~d": 2}, "list": [{"n": 3}], "": 4, "nested": {"": 5},
        });
        let claims = claims.as_object().unwrap();
        for (path, expected) in [
            ("roles", Some(json!(["a"]))),
            ("https://x/roles", Some(json!(1))),
            ("/a~1b/c~0d", Some(json!(2))),
            ("/list/0/n", Some(json!(3))),
            ("/list/00/n", None),
            ("/list/+0/n", None),
            ("/list/1", None),
            ("/list/-", None),
            ("/", Some(json!(4))),
            ("/nested/", Some(json!(5))),
            ("/roles/0/x", None),
            ("nested.x", None),
        ] {
            assert_eq!(ClaimPath::new(path).find(claims).cloned(), expected, "{path}");
        }
    }
}
