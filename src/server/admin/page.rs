//! What a page of the admin listener is, and what it is given: a row of a table, and a call of it.

use std::str::FromStr;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::answer::{Answer, Refusal};
use super::guard::Who;
use super::operator::{Later, Operator};
use crate::telemetry::metrics::Metrics;

/// A row of the tables in `read.rs` and `change.rs`.
pub struct Page {
    /// `GET` (with which `HEAD` comes) or `POST`.
    pub method: Method,
    /// The path. One that ends with `{name}` takes any last segment.
    pub path: &'static str,
    /// One line.
    pub what: &'static str,
    /// Who may see it.
    pub(super) who: Who,
    /// The keys that its query may have. `None`: any, and none is looked at, since what probes the page adds its own.
    pub(super) keys: Option<&'static [&'static str]>,
    /// What it does.
    pub(super) run: for<'a> fn(&'a Call<'a>) -> Later<'a, Result<Answer, Refusal>>,
}

impl Page {
    /// The part of `path` that this page's `{name}` takes: nothing where it has none.
    pub(super) fn matches<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.split_once('{') {
            None => (path == self.path).then_some(""),
            Some((before, _)) => path.strip_prefix(before).filter(|rest| !rest.is_empty() && !rest.contains('/')),
        }
    }
}

/// What a page is given.
pub(super) struct Call<'a> {
    pub(super) operator: &'a dyn Operator,
    pub(super) metrics: &'a Metrics,
    pub(super) query: Query<'a>,
    /// What the page's `{name}` took.
    pub(super) name: &'a str,
    pub(super) body: Bytes,
    pub(super) wants_json: bool,
    /// Whether the caller may know details.
    pub(super) is_trusted: bool,
    /// Whether pages that change something are served here.
    pub(super) serves_changes: bool,
}

/// The query of a request. Values of these pages need no percent-encoding.
#[derive(Clone, Debug, Default)]
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    pub(super) fn parse(query: Option<&'a str>) -> Self {
        let parts = query.unwrap_or("").split('&').filter(|part| !part.is_empty());
        Self(parts.map(|part| part.split_once('=').unwrap_or((part, ""))).collect())
    }

    /// Refuses keys that the page does not know: a slip of the pen must not pass for the default.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), Refusal> {
        for (place, (key, _)) in self.0.iter().enumerate() {
            if !known.contains(key) {
                let hint = match known {
                    [] => "this page takes none".to_owned(),
                    known => format!("this page knows {}", known.join(" and ")),
                };
                return Err(bad(format!("unknown query key `{}`; {hint}", key.escape_default())));
            }
            if self.0[..place].iter().any(|(earlier, _)| earlier == key) {
                return Err(bad(format!("the query key `{key}` is there twice")));
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// A whole number within bounds.
    pub(super) fn number<N>(&self, key: &str, default: N, least: N, most: N) -> Result<N, Refusal>
    where
        N: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(text) = self.get(key) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| *number >= least && *number <= most);
        number.ok_or_else(|| bad(format!("`{key}` is a whole number from {least} to {most}")))
    }
}

/// 400.
pub(super) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_at_its_word() {
        for (query, known, expected) in [
            (None, &[][..], Ok(())),
            (Some(""), &[], Ok(())),
            (Some("page=2&limit=3"), &["limit", "page"], Ok(())),
            (Some("pgae=2"), &["limit", "page"], Err("unknown query key `pgae`; this page knows limit and page")),
            (Some("x"), &[], Err("unknown query key `x`; this page takes none")),
            (Some("page=2&page=2"), &["page"], Err("the query key `page` is there twice")),
        ] {
            let checked = Query::parse(query).check(known).map_err(|refusal| refusal.message);
            assert_eq!(checked, expected.map_err(str::to_owned), "{query:?}");
        }
    }

    #[test]
    fn a_number_has_bounds() {
        for (query, expected) in [
            ("", Some(100)),
            ("limit=1", Some(1)),
            ("limit=1000", Some(1000)),
            ("limit=0", None),
            ("limit=1001", None),
            ("limit=-1", None),
            ("limit=x", None),
            ("limit=", None),
            ("limit=99999999999999999999999", None),
        ] {
            assert_eq!(Query::parse(Some(query)).number("limit", 100_u32, 1, 1000).ok(), expected, "{query}");
        }
    }
}
