//! A rule's conditions: whether they hold, and what two rules' have in common.

use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName};
use memchr::memchr;

use super::Query;
use crate::snapshot::pattern::{Coding, Methods, PathPattern, ValueMatch};

/// A rule as it is asked at request time.
#[derive(Debug)]
pub(super) struct Compiled<T> {
    pub(super) methods: Option<Methods>,
    pub(super) headers: Box<[ValueMatch<HeaderName>]>,
    pub(super) query: Box<[ValueMatch]>,
    pub(super) cookies: Box<[ValueMatch]>,
    pub(super) path: PathPattern,
    pub(super) target: T,
}

/// What tells rules of the same host and path apart, as the module's text has it.
pub(super) type Rank = (bool, usize, usize, usize);

impl<T> Compiled<T> {
    pub(super) fn rank(&self) -> Rank {
        (self.methods.is_some(), self.headers.len(), self.query.len(), self.cookies.len())
    }

    pub(super) fn allows(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.allows(method))
    }

    pub(super) fn names_head(&self) -> bool {
        self.methods.as_ref().is_some_and(|methods| methods.names(&Method::HEAD))
    }

    /// Whether all but host, path and method fit.
    pub(super) fn conditions_hold(&self, query: &Query<'_>) -> bool {
        let header = |condition: &ValueMatch<HeaderName>| {
            let values = query.headers.get_all(&condition.name).into_iter();
            condition.is.holds(values.map(http::HeaderValue::as_bytes), Coding::Plain)
        };
        self.headers.iter().all(header)
            && self.query.iter().all(|condition| {
                condition.is.holds(query_values(query.query.unwrap_or_default(), &condition.name), Coding::Form)
            })
            && self
                .cookies
                .iter()
                .all(|condition| condition.is.holds(cookie_values(query.headers, &condition.name), Coding::Percent))
    }

    /// Whether no request satisfies the conditions of both, but for a `HEAD` that only one of them names: that one
    /// comes first.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        let methods_differ = match (&self.methods, &other.methods) {
            (Some(one), Some(two)) => !one.share(two),
            _ => false,
        };
        methods_differ
            || ValueMatch::are_disjoint(&self.headers, &other.headers)
            || ValueMatch::are_disjoint(&self.query, &other.query)
            || ValueMatch::are_disjoint(&self.cookies, &other.cookies)
    }

    /// Whether each request that satisfies the conditions of `other`, path aside, satisfies these too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let methods_cover = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(one), Some(two)) => one.cover(two),
        };
        methods_cover
            && ValueMatch::cover(&self.headers, &other.headers)
            && ValueMatch::cover(&self.query, &other.query)
            && ValueMatch::cover(&self.cookies, &other.cookies)
    }
}

/// The values of the query parameter `name`, still encoded.
fn query_values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a [u8]> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Coding::Form.is(key.as_bytes(), name).then_some(value.as_bytes())
    })
}

/// The values of the cookie `name`, still encoded, without their quotes (RFC 6265 §4.1.1).
fn cookie_values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let crumbs = headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    crumbs.filter_map(move |crumb| {
        let equals = memchr(b'=', crumb)?;
        let value = crumb[equals + 1..].trim_ascii();
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (crumb[..equals].trim_ascii() == name.as_bytes()).then_some(unquoted.unwrap_or(value))
    })
}
