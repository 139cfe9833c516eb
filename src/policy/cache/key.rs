//! What tells stored responses apart: the key of a request, and the variants below it.
//!
//! A key is made of typed parts, each with its length in front, so that no two requests that differ in a part have one key.
//! Host, path and query are the strings that were routed.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use super::control::elements;
use super::invalid;
use crate::exchange::identity::{ClaimPath, query_pairs};
use crate::exchange::{Exchange, Place};
use crate::http::headers::{is_cookie_name, is_credential, is_provenance, name};

/// A key, or what tells variants apart, before it is stored. Long enough for most on the stack.
pub type Bytes = SmallVec<[u8; INLINE]>;

const INLINE: usize = 256;

/// What is free of a key.
struct Rest<'b>(&'b mut [u8]);

impl<'b> Rest<'b> {
    fn put(&mut self, bytes: &[u8]) -> Option<&'b mut [u8]> {
        let (place, rest) = std::mem::take(&mut self.0).split_at_mut_checked(bytes.len())?;
        place.copy_from_slice(bytes);
        self.0 = rest;
        Some(place)
    }

    /// As [`push`] does.
    fn part(&mut self, bytes: &[u8]) -> Option<&'b mut [u8]> {
        self.put(&u32::try_from(bytes.len()).ok()?.to_le_bytes())?;
        self.put(bytes)
    }
}

/// Headers by which a request asks some back ends for something else than its method and target say. Nobody keys on them, so
/// such a request is none for a cache.
static OVERRIDES: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-original-url"),
];

/// Whether a header of this name asks for something that no key tells.
pub fn overrides(name: &HeaderName) -> bool {
    OVERRIDES.contains(name)
}

/// Headers that armiger writes anew for each request: what varies on one of them is never asked for twice.
static WRITTEN: [&str; 7] =
    ["via", "x-request-id", "traceparent", "tracestate", "x-forwarded-for", "x-real-ip", "forwarded"];

/// Which parameters of the query tell responses apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryRule {
    /// These do not.
    pub ignore: Vec<String>,
    /// Only these do, if any are named.
    pub only: Vec<String>,
    /// Their order does not.
    pub sort: bool,
}

/// A part of the key that the route names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The caller, as the provider calls it, with its roles and scopes.
    Subject,
    /// A claim of the caller.
    Claim(Box<str>, ClaimPath),
    /// A request header.
    Header(HeaderName),
    /// A cookie.
    Cookie(Box<str>),
}

impl Part {
    /// Reads `claim:sub`, `header:x-tenant`, `cookie:theme`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, what) = text.split_once(':')?;
        match kind {
            _ if what.is_empty() => None,
            "claim" if what == "sub" => Some(Self::Subject),
            "claim" => Some(Self::Claim(what.into(), ClaimPath::new(what))),
            "header" => HeaderName::from_bytes(what.as_bytes()).ok().map(Self::Header),
            "cookie" => is_cookie_name(what).then(|| Self::Cookie(what.into())),
            _ => None,
        }
    }
}

/// How a route makes keys.
#[derive(Clone, Debug, Default)]
pub struct KeyPlan {
    /// Which definition of a key this is: keys of another one are never met.
    pub id: u64,
    /// Which parameters count.
    pub query: QueryRule,
    /// Parts beyond the target.
    pub parts: Vec<Part>,
    /// The upstream sees nothing of a caller that is not in the key.
    pub covers_caller: bool,
    /// The route says that callers get the same.
    pub is_shared: bool,
    /// Request headers that the upstream never sees.
    pub hidden: Vec<HeaderName>,
    /// Request headers that the route writes.
    pub written: Vec<HeaderName>,
    /// Request headers that some provider looks for keys in, whatever they are called and whether or not this route asks it.
    pub credentials: Vec<HeaderName>,
}

/// Why a request has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey;

impl KeyPlan {
    /// The key of a request.
    ///
    /// # Errors
    /// It has none: a part of it is not there. Not to be asked of a request with a header that [`overrides`] its target.
    pub fn key(&self, exchange: &Exchange) -> Result<Bytes, NoKey> {
        let headers = exchange.headers();
        let query = exchange.request.uri().query();
        let (host, path) = (exchange.host(), exchange.path().as_bytes());
        // The upstream is told of both, and may build links of them.
        let (proto, port) = (exchange.hop.forwarded.proto(), exchange.hop.forwarded.port());
        let mut key = match query {
            None => self.short(host, [path, proto, port]).unwrap_or_default(),
            Some(_) => Bytes::new(),
        };
        if key.is_empty() {
            key.extend_from_slice(&self.id.to_le_bytes());
            push_lower(&mut key, host);
            push(&mut key, path);
            self.push_query(&mut key, query);
            push(&mut key, proto);
            push(&mut key, port);
        }
        if exchange.client.is_trusted {
            // What a trusted proxy says of the request, the upstream may build links of.
            for (name, value) in headers.iter().filter(|(name, _)| is_provenance(name) && !names_client(name)) {
                push(&mut key, name.as_str().as_bytes());
                push(&mut key, value.as_bytes());
            }
            for line in headers.get_all(header::FORWARDED) {
                for part in line.as_bytes().split(|byte| matches!(byte, b';' | b',')).map(<[u8]>::trim_ascii) {
                    let is = |name: &[u8]| part.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
                    if is(b"host=") || is(b"proto=") {
                        push(&mut key, part);
                    }
                }
            }
        }
        for part in &self.parts {
            self.push_part(&mut key, part, exchange)?;
        }
        Ok(key)
    }

    /// The beginning of a key without a query, if it is short: each piece in its place, for to append them one by one costs
    /// three times as much.
    fn short(&self, host: &str, [path, proto, port]: [&[u8]; 3]) -> Option<Bytes> {
        let mut bytes = [0; INLINE];
        let mut rest = Rest(&mut bytes);
        rest.put(&self.id.to_le_bytes())?;
        rest.part(host.as_bytes())?.make_ascii_lowercase();
        rest.part(path)?;
        // No query.
        rest.put(&[0])?;
        rest.part(proto)?;
        rest.part(port)?;
        let length = INLINE - rest.0.len();
        Some(Bytes::from_buf_and_len(bytes, length))
    }

    fn push_query(&self, key: &mut Bytes, query: Option<&str>) {
        let rule = &self.query;
        let Some(query) = query else { return key.push(0) };
        if rule.ignore.is_empty() && rule.only.is_empty() && !rule.sort {
            key.push(1);
            return push(key, query.as_bytes());
        }
        let named = |list: &[String], pair: &str| {
            // A name that cannot be decoded is none of those listed.
            let decoded = query_pairs(pair).next().and_then(|(name, _)| name);
            decoded.is_some_and(|decoded| list.iter().any(|name| **name == *decoded))
        };
        let is_unreadable = |pair: &str| query_pairs(pair).next().is_some_and(|(name, _)| name.is_none());
        // To some back ends a semicolon parts two parameters, of which the second one counts.
        let is_double = |pair: &str| pair.contains(';');
        let counts = |pair: &&str| {
            is_double(pair)
                || !named(&rule.ignore, pair)
                    && (rule.only.is_empty() || named(&rule.only, pair) || is_unreadable(pair))
        };
        let mut pairs: SmallVec<[&str; 16]> = query.split('&').filter(|pair| !pair.is_empty()).filter(counts).collect();
        if rule.sort {
            // Those of one name keep their order, which may have a meaning.
            pairs.sort_by_key(|pair| pair.split_once('=').map_or(*pair, |(name, _)| name));
        }
        if pairs.is_empty() {
            return key.push(0);
        }
        key.push(1);
        let length: usize = pairs.iter().map(|pair| pair.len() + 1).sum();
        push_length(key, length - 1);
        for (place, pair) in pairs.iter().enumerate() {
            if place > 0 {
                key.push(b'&');
            }
            key.extend_from_slice(pair.as_bytes());
        }
    }

    fn push_part(&self, key: &mut Bytes, part: &Part, exchange: &Exchange) -> Result<(), NoKey> {
        match part {
            Part::Subject | Part::Claim(..) => {
                let Some(caller) = &exchange.caller else {
                    key.push(0);
                    return Ok(());
                };
                let identity = &caller.identity;
                key.push(1);
                push(key, identity.provider.as_bytes());
                match part {
                    // Two callers without a name are not one caller.
                    Part::Subject if identity.subject.is_empty() => return Err(NoKey),
                    Part::Claim(_, path) => {
                        // With its type: "1" is not 1.
                        let value = path.find(&identity.claims).ok_or(NoKey)?;
                        push(key, value.to_string().as_bytes());
                    }
                    _ => {
                        push(key, identity.subject.as_bytes());
                        // The upstream may see these too, and they change while the caller stays.
                        for words in [&identity.roles, &identity.scopes] {
                            push_length(key, words.len());
                            words.iter().for_each(|word| push(key, word.as_bytes()));
                        }
                    }
                }
            }
            Part::Header(name) => push_values(key, exchange.headers(), name),
            Part::Cookie(name) => {
                let lines = exchange.headers().get_all(header::COOKIE).iter();
                let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
                for value in pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")) {
                    key.push(1);
                    push(key, value);
                }
                key.push(0);
            }
        }
        Ok(())
    }

    /// Whether the request has credentials that the upstream sees and the key does not tell apart.
    pub fn is_credentialed(&self, exchange: &Exchange) -> bool {
        if self.is_shared {
            return false;
        }
        let headers = exchange.headers();
        let keys_on = |name: &HeaderName| self.parts.iter().any(|part| *part == Part::Header(name.clone()));
        let shows = |name: &HeaderName| !self.hidden.contains(name) && !keys_on(name);
        let caller = exchange.caller.as_ref();
        // What a caller sent to prove itself tells no more than who it is.
        let is_proof = |name: &HeaderName| match caller.map(|caller| &caller.place) {
            Some(Place::Bearer) => *name == header::AUTHORIZATION,
            Some(Place::Header(place)) => name == place,
            Some(Place::Cookie(_) | Place::Query(_) | Place::Connection) | None => false,
        };
        caller.is_some() && !self.covers_caller
            || headers.keys().any(|name| {
                (names_credential(name) || self.credentials.contains(name)) && shows(name) && !is_proof(name)
            })
    }

    /// Whether a response may vary on this header: whether a request tells its value before it is sent on.
    pub fn foresees(&self, name: &HeaderName) -> bool {
        !self.written.contains(name) && !WRITTEN.contains(&name.as_str())
    }

    /// What tells apart, among variants, a request of these headers.
    pub fn variant(&self, names: &[HeaderName], headers: &HeaderMap) -> Bytes {
        let mut variant = Bytes::new();
        for name in names.iter().filter(|name| !self.hidden.contains(name)) {
            if *name == header::ACCEPT_ENCODING {
                variant.push(Codings::of(headers).0);
            } else {
                push_values(&mut variant, headers, name);
            }
        }
        variant
    }
}

/// Whether a header may say who asks. Those of every browser are known to be harmless; of others nobody knows.
pub fn may_be_credential(name: &HeaderName) -> Option<bool> {
    match name.as_str() {
        "accept"
        | "accept-encoding"
        | "accept-language"
        | "cache-control"
        | "content-type"
        | "content-length"
        | "dnt"
        | "forwarded"
        | "host"
        | "if-modified-since"
        | "if-none-match"
        | "if-range"
        | "origin"
        | "pragma"
        | "priority"
        | "range"
        | "referer"
        | "sec-fetch-dest"
        | "sec-fetch-mode"
        | "sec-fetch-site"
        | "sec-fetch-user"
        | "traceparent"
        | "tracestate"
        | "upgrade-insecure-requests"
        | "user-agent"
        | "via"
        | "x-forwarded-for"
        | "x-forwarded-host"
        | "x-forwarded-port"
        | "x-forwarded-proto"
        | "x-real-ip"
        | "x-request-id" => Some(false),
        "authorization" | "cookie" => Some(true),
        _ => None,
    }
}

/// The same; where nobody knows, by its name.
fn names_credential(name: &HeaderName) -> bool {
    may_be_credential(name).unwrap_or_else(|| is_credential(name.as_str()))
}

/// A header that tells of the client and not of the request.
fn names_client(name: &HeaderName) -> bool {
    *name == name::X_FORWARDED_FOR
        || *name == header::FORWARDED
        || matches!(name.as_str(), "x-real-ip" | "x-client-ip" | "true-client-ip")
}

fn push_length(key: &mut Bytes, length: usize) {
    // Heads are bounded far below 4 GiB.
    key.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn push(key: &mut Bytes, bytes: &[u8]) {
    push_length(key, bytes.len());
    key.extend_from_slice(bytes);
}

fn push_lower(key: &mut Bytes, text: &str) {
    let start = key.len() + 4;
    push(key, text.as_bytes());
    key[start..].make_ascii_lowercase();
}

/// The values of a header as one list, without the blanks around its elements.
fn push_values(key: &mut Bytes, headers: &HeaderMap, name: &HeaderName) {
    if !headers.contains_key(name) {
        return key.push(0);
    }
    key.push(1);
    let start = key.len();
    push_length(key, 0);
    for element in elements(headers, name) {
        key.extend_from_slice(element);
        key.push(b',');
    }
    let length = u32::try_from(key.len() - start - 4).unwrap_or(u32::MAX).to_le_bytes();
    key[start..start + 4].copy_from_slice(&length);
}

/// Which content codings a request takes, of those that back ends use: `Accept-Encoding` in its shortest form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codings(u8);

impl Codings {
    const KNOWN: [(&'static [u8], u8); 5] = [(b"br", 1), (b"gzip", 2), (b"x-gzip", 2), (b"zstd", 4), (b"deflate", 8)];
    const ALL: u8 = 15;
    const NO_IDENTITY: u8 = 16;
    const UNSAID: u8 = 32;

    /// Those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        if !headers.contains_key(header::ACCEPT_ENCODING) {
            return Self(Self::UNSAID);
        }
        let (mut takes, mut named, mut any, mut identity) = (0, 0, None, None);
        for element in elements(headers, &header::ACCEPT_ENCODING) {
            let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let refuses = parts.any(|part| {
                part.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case(b"q="))
                    && part[2..].iter().all(|byte| matches!(byte, b'0' | b'.'))
            });
            match &*coding {
                b"*" => any = Some(!refuses),
                b"identity" => identity = Some(!refuses),
                coding => {
                    for (_, bit) in Self::KNOWN.iter().filter(|(known, _)| *known == coding) {
                        named |= bit;
                        takes |= if refuses { 0 } else { *bit };
                    }
                }
            }
        }
        if any == Some(true) {
            takes |= Self::ALL & !named;
        }
        let is_identity_fine = identity.unwrap_or(any != Some(false));
        Self(if is_identity_fine { takes } else { takes | Self::NO_IDENTITY })
    }

    /// As a variant has it.
    pub fn read(byte: u8) -> Self {
        Self(byte)
    }

    /// In the words of a request, if it said any.
    pub fn words(self) -> Option<String> {
        if self.0 & Self::UNSAID != 0 {
            return None;
        }
        let mut words: Vec<&str> = Vec::new();
        for (name, bit) in Self::KNOWN {
            if self.0 & bit != 0 && name != b"x-gzip" {
                words.extend(std::str::from_utf8(name));
            }
        }
        if self.0 & Self::NO_IDENTITY != 0 {
            words.push("identity;q=0");
        }
        if words.is_empty() {
            words.push("identity");
        }
        Some(words.join(", "))
    }

    /// Whether this is one of those that are told apart.
    pub fn are_told_apart(coding: &HeaderValue) -> bool {
        let coding = coding.as_bytes().trim_ascii();
        Self::KNOWN.iter().any(|(known, _)| known.eq_ignore_ascii_case(coding))
    }

    /// Whether a response of this coding is good for all who take these.
    pub fn take(self, coding: Option<&HeaderValue>) -> bool {
        let Some(coding) = coding else { return self.0 & Self::NO_IDENTITY == 0 };
        let coding = coding.as_bytes().trim_ascii().to_ascii_lowercase();
        self.0 & Self::UNSAID != 0 || Self::KNOWN.iter().any(|(known, bit)| *known == coding && self.0 & bit != 0)
    }
}

/// The target that a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'k> {
    /// The host, without port and final dot.
    pub host: &'k str,
    /// The path.
    pub path: &'k str,
    /// The query, as far as it counts.
    pub query: Option<&'k str>,
}

impl<'k> Target<'k> {
    /// Reads it from a key.
    pub fn of(key: &'k [u8]) -> Option<Self> {
        let (_, rest) = key.split_at_checked(8)?;
        let (host, rest) = pull(rest)?;
        let (path, rest) = pull(rest)?;
        let query = match rest.split_first()? {
            (0, _) => None,
            (_, rest) => Some(pull(rest)?.0),
        };
        Some(Self { host: bare_host(host), path, query })
    }

    /// What tells it apart from others, in short: the same wherever it is asked.
    pub fn digest(&self) -> invalid::Digest {
        let mut hash = Sha256::new();
        for part in [Some(self.host), Some(self.path), self.query] {
            hash.update([u8::from(part.is_some())]);
            hash.update((part.map_or(0, str::len) as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().first_chunk().map_or(0, |bytes| invalid::Digest::from_le_bytes(*bytes))
    }
}

/// The definition of a key that this one is of.
pub fn definition(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|id| u64::from_le_bytes(*id))
}

/// A host without its port and the root's dot.
pub fn bare_host(host: &str) -> &str {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let host = host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host)
}

/// The query of a purge in the form that keys have it.
pub fn counted_query(plan: &KeyPlan, query: Option<&str>) -> Option<String> {
    let mut key = Bytes::new();
    plan.push_query(&mut key, query);
    let (0, rest) = key.split_first().map(|(flag, rest)| (usize::from(*flag == 0), rest))? else { return None };
    pull(rest).map(|(query, _)| query.to_owned())
}

fn pull(key: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn query(rule: &QueryRule, query: Option<&str>) -> Option<String> {
        counted_query(&KeyPlan { query: rule.clone(), ..KeyPlan::default() }, query)
    }

    #[test]
    fn a_short_key_is_the_same_as_one_made_piece_by_piece() {
        let plan = KeyPlan { id: 7, ..KeyPlan::default() };
        let long = "/".repeat(300);
        for (host, path) in [("API.example.com", "/a/B"), ("", "/"), ("a", &long)] {
            let mut key = Bytes::from_slice(&7_u64.to_le_bytes());
            push_lower(&mut key, host);
            push(&mut key, path.as_bytes());
            plan.push_query(&mut key, None);
            push(&mut key, b"https");
            push(&mut key, b"443");
            let short = plan.short(host, [path.as_bytes(), b"https", b"443"]);
            assert_eq!(short, (key.len() <= INLINE).then_some(key), "{host} {path}");
        }
    }

    #[test]
    fn a_query_counts_as_the_route_says() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let as_it_is = QueryRule::default();
        let ignoring = QueryRule { ignore: list(&["utm", "a b"]), ..QueryRule::default() };
        let only = QueryRule { only: list(&["id"]), ..QueryRule::default() };
        let sorted = QueryRule { sort: true, ..QueryRule::default() };
        for (rule, given, expected) in [
            (&as_it_is, None, None),
            (&as_it_is, Some(""), Some("")),
            (&as_it_is, Some("b=1&&a"), Some("b=1&&a")),
            (&ignoring, Some("utm=1&a=2&%75tm=3&a+b=4&utm"), Some("a=2")),
            (&ignoring, Some("utm=1"), None),
            (&ignoring, Some("utm=1;a=2"), Some("utm=1;a=2")),
            (&only, Some("x=1&id=2&%69d=3&idx=4"), Some("id=2&%69d=3")),
            (&only, Some("%ff=1"), Some("%ff=1")),
            (&only, Some("x=1;id=2"), Some("x=1;id=2")),
            (&sorted, Some("b=2&a=1&b=1"), Some("a=1&b=2&b=1")),
        ] {
            assert_eq!(query(rule, given).as_deref(), expected, "{rule:?} {given:?}");
        }
    }

    #[test]
    fn parts_are_read_as_they_are_written() {
        assert_eq!(Part::parse("claim:sub"), Some(Part::Subject));
        assert!(matches!(Part::parse("claim:/a/b"), Some(Part::Claim(..))));
        assert_eq!(Part::parse("header:X-Tenant"), Some(Part::Header(HeaderName::from_static("x-tenant"))));
        assert_eq!(Part::parse("cookie:theme"), Some(Part::Cookie("theme".into())));
        for wrong in ["sub", "claim:", "header:a b", "cookie:a=b", "ip:x", ""] {
            assert_eq!(Part::parse(wrong), None, "{wrong}");
        }
    }

    /// RFC 9111 §4.1: whitespace and order of lines may be normalised where that changes no meaning.
    #[test]
    fn variants_are_told_apart_by_what_matters() {
        let plan = KeyPlan { hidden: vec![header::COOKIE], ..KeyPlan::default() };
        let of = |name: &'static str, list: &[(&'static str, &'static str)]| {
            plan.variant(&[HeaderName::from_static(name)], &headers(list)).to_vec()
        };
        let same = |name, one: &[(&'static str, &'static str)], other: &[(&'static str, &'static str)]| {
            of(name, one) == of(name, other)
        };
        let (a, x) = ("accept-encoding", "x-a");
        assert!(same(a, &[(a, "gzip, br")], &[(a, "br;q=0.5,GZIP , foo")]));
        assert!(same(a, &[(a, "gzip, br, zstd, deflate")], &[(a, "*")]));
        assert!(same(a, &[(a, "gzip;q=0.000")], &[(a, "identity")]));
        assert!(!same(a, &[(a, "gzip")], &[(a, "gzip, br")]));
        assert!(!same(a, &[], &[(a, "identity")]));
        assert!(!same(a, &[(a, "gzip, identity;q=0")], &[(a, "gzip")]));
        assert!(!same(a, &[(a, "gzip, *;q=0")], &[(a, "gzip")]));
        assert!(same(x, &[(x, "a ,b")], &[(x, "a"), (x, "b")]));
        assert!(!same(x, &[(x, "a")], &[(x, "A")]));
        assert!(!same(x, &[(x, "")], &[]));
        assert!(same("cookie", &[("cookie", "a=1")], &[]), "the upstream never sees it");
        let both = [HeaderName::from_static("x-a"), HeaderName::from_static("x-b")];
        let variant = |list: &[(&'static str, &'static str)]| plan.variant(&both, &headers(list)).to_vec();
        assert_ne!(variant(&[("x-a", "1"), ("x-b", "")]), variant(&[("x-a", ""), ("x-b", "1")]));
    }

    #[test]
    fn a_coded_response_is_for_those_who_take_its_coding() {
        let take = |accept: Option<&'static str>, coding: Option<&'static str>| {
            let headers = accept.map_or_else(HeaderMap::new, |accept| headers(&[("accept-encoding", accept)]));
            Codings::of(&headers).take(coding.map(HeaderValue::from_static).as_ref())
        };
        assert!(take(Some("gzip"), Some("gzip")) && take(Some("gzip"), Some("x-gzip")) && take(Some("gzip"), None));
        assert!(take(None, Some("gzip")) && take(None, None));
        assert!(!take(Some("foo"), Some("foo")), "others may not take what is not told apart");
        assert!(!take(Some("gzip"), Some("br")) && !take(Some("gzip"), Some("gzip, br")));
        assert!(!take(Some("gzip, identity;q=0"), None));
    }

    #[test]
    fn targets_that_differ_have_digests_that_differ() {
        let target = |host, path, query| Target { host, path, query };
        let digests = [
            target("h", "/a", None),
            target("h", "/a", Some("")),
            target("h/", "a", None),
            target("h", "/", Some("a")),
        ]
        .map(|target| target.digest());
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
        assert_eq!(digests[0], target("h", "/a", None).digest(), "and the same each time");
    }

    #[test]
    fn a_key_tells_its_target() {
        let mut key = Bytes::new();
        key.extend_from_slice(&7_u64.to_le_bytes());
        push_lower(&mut key, "API.example.com.:8080");
        push(&mut key, b"/a");
        KeyPlan::default().push_query(&mut key, Some("b=1"));
        push(&mut key, b"http");
        let target = Target { host: "api.example.com", path: "/a", query: Some("b=1") };
        assert_eq!((Target::of(&key), definition(&key)), (Some(target), Some(7)));
        assert_eq!(Target::of(&key[..20]), None);
        assert_eq!(["[::1]:80", "[::1]", "h:", "h"].map(bare_host), ["[::1]", "[::1]", "h", "h"]);
    }
}
