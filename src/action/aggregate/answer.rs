//! The head of an aggregated answer: how long it may be kept, what it varies by, and whether it is complete.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The longest time that is told apart, in seconds (RFC 9111 §1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// How long a document may be kept that is made of several answers: no longer, and by nobody else, than each of them.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    has_any: bool,
    no_store: bool,
    private: bool,
    must_revalidate: bool,
    /// An answer says nothing, or that it must be asked for each time.
    unknown: bool,
    max_age: Option<Duration>,
    shared_max_age: Option<Duration>,
    varies_by_all: bool,
    vary: Vec<HeaderName>,
}

impl Freshness {
    /// Takes one more answer into account.
    pub(super) fn add(&mut self, headers: &HeaderMap) {
        self.has_any = true;
        let (mut own, mut shared) = (None, None);
        let seconds = |value: Option<&str>| {
            let value = value?.trim().trim_matches('"');
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| Duration::from_secs(value.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX)))
        };
        for line in headers.get_all(header::CACHE_CONTROL) {
            let Ok(line) = line.to_str() else {
                self.no_store = true;
                continue;
            };
            for directive in line.split(',') {
                let (name, value) = match directive.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (directive, None),
                };
                match name.trim().to_ascii_lowercase().as_str() {
                    "no-store" => self.no_store = true,
                    "private" => self.private = true,
                    "no-cache" => self.unknown = true,
                    "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
                    // What cannot be read is no leave to keep it.
                    "max-age" => own = Some(seconds(value).unwrap_or_default()),
                    "s-maxage" => shared = Some(seconds(value).unwrap_or_default()),
                    _ => {}
                }
            }
        }
        // A cookie is somebody's.
        self.private |= headers.contains_key(header::SET_COOKIE);
        let age = seconds(headers.get(header::AGE).and_then(|age| age.to_str().ok())).unwrap_or_default();
        let least = |so_far: Option<Duration>, next: Duration| Some(so_far.map_or(next, |so_far| so_far.min(next)));
        match (own, shared.or(own)) {
            (None, None) => self.unknown = true,
            (own, shared) => {
                // Where only a shared cache is told how long, others must ask.
                self.max_age = least(self.max_age, own.unwrap_or_default().saturating_sub(age));
                self.shared_max_age = least(self.shared_max_age, shared.unwrap_or_default().saturating_sub(age));
            }
        }
        for line in headers.get_all(header::VARY) {
            for name in line.to_str().unwrap_or("*").split(',').map(str::trim).filter(|name| !name.is_empty()) {
                match HeaderName::from_bytes(name.as_bytes()) {
                    Ok(name) if name != "*" => self.varies_by(&name),
                    _ => self.varies_by_all = true,
                }
            }
        }
    }

    /// Takes what is known of another document into account, which becomes part of this one.
    pub(super) fn merge(&mut self, other: &Self) {
        let least = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.has_any |= other.has_any;
        self.no_store |= other.no_store;
        self.private |= other.private;
        self.must_revalidate |= other.must_revalidate;
        self.unknown |= other.unknown;
        self.max_age = least(self.max_age, other.max_age);
        self.shared_max_age = least(self.shared_max_age, other.shared_max_age);
        self.varies_by_all |= other.varies_by_all;
        other.vary.iter().for_each(|name| self.varies_by(name));
    }

    /// The document depends on this header of the request.
    pub(super) fn varies_by(&mut self, name: &HeaderName) {
        if !self.vary.contains(name) {
            self.vary.push(name.clone());
        }
    }

    /// The document is for one caller.
    pub(super) fn is_private(&mut self) {
        self.private = true;
    }

    /// Nobody may keep the document.
    pub(super) fn is_not_to_be_stored(&mut self) {
        self.no_store = true;
    }

    /// Writes `Cache-Control` and `Vary`.
    pub(super) fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, self.cache_control());
        if self.varies_by_all {
            headers.insert(header::VARY, HeaderValue::from_static("*"));
        } else if !self.vary.is_empty() {
            let names: Vec<&str> = self.vary.iter().map(HeaderName::as_str).collect();
            headers.extend(HeaderValue::try_from(names.join(", ")).ok().map(|names| (header::VARY, names)));
        }
    }

    fn cache_control(&self) -> HeaderValue {
        if self.no_store {
            return HeaderValue::from_static("no-store");
        }
        let own = self.max_age.unwrap_or_default().as_secs();
        let shared = self.shared_max_age.unwrap_or_default().as_secs();
        let mut text = String::new();
        if self.private {
            text.push_str("private, ");
        }
        if self.unknown || !self.has_any {
            text.push_str("no-cache");
        } else {
            text.push_str(&format!("max-age={own}"));
            if shared != own && !self.private {
                text.push_str(&format!(", s-maxage={shared}"));
            }
            if self.must_revalidate {
                text.push_str(", must-revalidate");
            }
        }
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("no-store"))
    }
}

/// `X-Armiger-Completed`: whether all that was asked for is there, what is not, and what is old since nothing newer could be had.
pub(super) fn completed(missing: &[&str], stale: &[&str]) -> HeaderValue {
    let is_complete = HeaderValue::from_static(if missing.is_empty() { "true" } else { "false" });
    if missing.is_empty() && stale.is_empty() {
        return is_complete;
    }
    let mut text = missing.is_empty().to_string();
    // Names are letters, digits, dashes and underscores: nothing to escape.
    for (word, names) in [("missing", missing), ("stale", stale)].into_iter().filter(|(_, names)| !names.is_empty()) {
        text.push_str(&format!("; {word}=\"{}\"", names.join(", ")));
    }
    HeaderValue::try_from(text).unwrap_or(is_complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[track_caller]
    fn check(answers: &[&[(&'static str, &'static str)]], cache_control: &str, vary: Option<&str>) {
        let mut freshness = Freshness::default();
        for pairs in answers {
            let mut one = Freshness::default();
            one.add(&headers(pairs));
            freshness.merge(&one);
        }
        let mut out = HeaderMap::new();
        freshness.write_to(&mut out);
        assert_eq!(out.get("cache-control").unwrap(), cache_control);
        assert_eq!(out.get("vary").map(|vary| vary.to_str().unwrap()), vary);
    }

    #[test]
    fn the_least_of_all_parts_holds() {
        check(&[&[("cache-control", "max-age=60")], &[("cache-control", "max-age=30, public")]], "max-age=30", None);
        check(&[&[("cache-control", "max-age=60"), ("age", "50")]], "max-age=10", None);
        check(&[&[("cache-control", "max-age=60"), ("age", "70")]], "max-age=0", None);
        for age in ["4294967296", "99999999999999999999"] {
            check(&[&[("cache-control", "max-age=60"), ("age", age)]], "max-age=0", None);
            check(&[&[("cache-control", "max-age=99999999999999999999"), ("age", age)]], "max-age=0", None);
        }
        check(&[&[("cache-control", "max-age=99999999999999999999")]], "max-age=2147483648", None);
        check(&[&[("cache-control", "max-age=+60")]], "max-age=0", None);
        check(
            &[&[("cache-control", "max-age=9, s-maxage=90")], &[("cache-control", "max-age=20")]],
            "max-age=9, s-maxage=20",
            None,
        );
        check(&[&[("cache-control", "max-age=60, must-revalidate")]], "max-age=60, must-revalidate", None);
    }

    #[test]
    fn one_part_that_forbids_it_is_enough() {
        check(&[&[("cache-control", "max-age=60")], &[("cache-control", "no-store")]], "no-store", None);
        check(&[&[("cache-control", "max-age=60")], &[]], "no-cache", None);
        check(
            &[&[("cache-control", "max-age=60")], &[("cache-control", "Private, max-age=5")]],
            "private, max-age=5",
            None,
        );
        check(&[&[("cache-control", "max-age=60"), ("set-cookie", "a=b")]], "private, max-age=60", None);
        check(&[&[("cache-control", "max-age=soon")]], "max-age=0", None);
        check(&[&[("cache-control", "no-cache, max-age=60")]], "no-cache", None);
        check(&[], "no-cache", None);
    }

    #[test]
    fn what_parts_vary_by_is_united() {
        check(
            &[
                &[("vary", "Accept-Language, x-a"), ("cache-control", "max-age=1")],
                &[("vary", "x-a,x-b"), ("cache-control", "max-age=1")],
            ],
            "max-age=1",
            Some("accept-language, x-a, x-b"),
        );
        check(&[&[("vary", "*")]], "no-cache", Some("*"));
    }
}
