//! Requests that another route takes than before: a sample of what a route matches, asked of both routers.

use std::collections::BTreeMap;

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::super::Snapshot;
use super::super::pattern::{HostPattern, normalise_host};
use super::super::router::Query;
use crate::config::route::{Match, ValueMatch};
use crate::policy::Blocks;

/// What stands for a parameter, and for what a host has before a wildcard. No literal is probably like it.
const ANY: &str = "armiger-sample";

/// A request that a match is for.
pub(super) struct Sample {
    host: String,
    path: String,
    method: Method,
    headers: HeaderMap,
    query: String,
}

impl Sample {
    /// None where none is plain to see: of a regular expression, and of a value that would have to be encoded.
    pub(super) fn of(matches: &Match) -> Option<Self> {
        let pattern = matches.path.as_ref().or(matches.path_prefix.as_ref())?;
        let segments: Vec<&str> =
            pattern.split('/').map(|part| if part.starts_with('{') { ANY } else { part }).collect();
        let host = match matches.hosts.first().map(|text| HostPattern::parse(text)) {
            None => String::new(),
            Some(Ok(HostPattern::Exact(name))) => normalise_host(&name)?.into_owned(),
            Some(Ok(HostPattern::Suffix(name))) => format!("{ANY}.{name}"),
            Some(Err(_)) => return None,
        };
        let method = matches.methods.first().map_or(Some(Method::GET), |text| Method::from_bytes(text.as_bytes()).ok());
        let mut headers = HeaderMap::new();
        for (name, is) in &matches.headers {
            if let Some(value) = value(is)? {
                let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| *name != HOST)?;
                headers.insert(name, HeaderValue::from_str(value).ok()?);
            }
        }
        let list = |conditions: &BTreeMap<String, ValueMatch>, separator: &str| {
            let mut given = Vec::with_capacity(conditions.len());
            for (name, is) in conditions {
                if let Some(value) = value(is)? {
                    given.push(format!("{}={}", plain(name)?, plain(value)?));
                }
            }
            Some(given.join(separator))
        };
        let (query, cookies) = (list(&matches.query, "&")?, list(&matches.cookies, "; ")?);
        if !cookies.is_empty() {
            headers.insert(COOKIE, HeaderValue::from_str(&cookies).ok()?);
        }
        Some(Self { host, path: segments.join("/"), method: method?, headers, query })
    }

    fn query(&self) -> Query<'_> {
        Query {
            host: &self.host,
            path: &self.path,
            method: &self.method,
            headers: &self.headers,
            query: (!self.query.is_empty()).then_some(self.query.as_str()),
        }
    }
}

/// A value for which a condition holds; inside, none if it must be absent.
fn value(is: &ValueMatch) -> Option<Option<&str>> {
    match is {
        ValueMatch { exact: Some(text), .. } | ValueMatch { prefix: Some(text), .. } => Some(Some(text)),
        ValueMatch { present: Some(true), .. } => Some(Some(ANY)),
        ValueMatch { present: Some(false), .. } => Some(None),
        _ => None,
    }
}

/// A text that needs no encoding.
fn plain(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')).then_some(text)
}

/// Requests that went to one route and go to another.
pub(super) struct Takeover<'s> {
    /// The route that took them.
    pub(super) from: &'s str,
    /// The route that takes them.
    pub(super) to: &'s str,
    /// Policies that the first enforced and the second does not.
    pub(super) without: Vec<&'static str>,
}

/// Whether a request goes another way, and past policies that it met before.
pub(super) fn takeover<'s>(old: &'s Snapshot, new: &'s Snapshot, sample: &Sample) -> Option<Takeover<'s>> {
    let query = sample.query();
    let (from, to) = (old.router.find(&query).ok()?.target, new.router.find(&query).ok()?.target);
    let keys = Blocks::GUARDS.iter().map(|(key, _)| *key);
    let without: Vec<_> = keys.filter(|key| from.chain.enforces(key) && !to.chain.enforces(key)).collect();
    let passes = from.name != to.name && !without.is_empty();
    passes.then_some(Takeover { from: &from.name, to: &to.name, without })
}
