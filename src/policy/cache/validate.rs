//! Conditions and ranges: what a client that has something already gets, and what the upstream is asked (RFC 9110 §13, §14,
//! RFC 9111 §4.3).

use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::freshness::single_date;
use crate::http::decimal::Decimal;

/// How much later than `Last-Modified` a response must be for its date to be a strong validator (RFC 9110 §8.8.2.2).
const STRONG_AFTER: Duration = Duration::from_secs(1);

/// The longest `Range` that is looked at.
const RANGE_BYTES_MAX: usize = 128;

/// Conditions that only the upstream can judge (RFC 9110 §13.1.1, §13.1.4).
pub const FOR_UPSTREAM: [HeaderName; 2] = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];

/// Headers that are about what the client has, and so have no place in a request whose answer is for others too.
pub const OF_THE_CLIENT: [HeaderName; 4] =
    [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE];

/// What a client has already, or wants a part of.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    none_match: Vec<HeaderValue>,
    modified_since: Option<HeaderValue>,
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
}

/// What a client gets of a response that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// 304.
    NotModified,
    /// 206, these bytes.
    Bytes(Range<usize>),
    /// 416.
    OutOfRange,
}

impl Conditions {
    /// Those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        Self {
            none_match: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
            modified_since: one(headers, &header::IF_MODIFIED_SINCE),
            range: one(headers, &header::RANGE).filter(|range| range.len() <= RANGE_BYTES_MAX),
            if_range: one(headers, &header::IF_RANGE),
        }
    }

    /// There are none: the response as it is.
    pub fn are_none(&self) -> bool {
        self.none_match.is_empty() && self.modified_since.is_none() && self.range.is_none()
    }

    /// What the client gets of a response with this head, whose body has `length` bytes if that is known, and which was
    /// received at `received`.
    pub fn part(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<usize>,
        received: SystemTime,
        is_get: bool,
    ) -> Part {
        // RFC 9110 §13.2.1, §14.2: they are about a representation.
        if status != StatusCode::OK || self.are_none() {
            return Part::Whole;
        }
        if self.is_known(headers, received) {
            return Part::NotModified;
        }
        match (&self.range, length) {
            (Some(range), Some(length)) if is_get && self.is_for_this(headers) => bytes(range.as_bytes(), length),
            _ => Part::Whole,
        }
    }

    /// RFC 9110 §13.2.2: dates count only where there are no entity tags.
    fn is_known(&self, headers: &HeaderMap, received: SystemTime) -> bool {
        if !self.none_match.is_empty() {
            let own = headers.get(header::ETAG).map(|tag| opaque(tag.as_bytes()));
            return self.none_match.iter().any(|line| {
                line.as_bytes().trim_ascii() == b"*"
                    || own.is_some_and(|own| tags(line.as_bytes()).any(|tag| tag == own))
            });
        }
        let Some(since) = self.modified_since.as_ref().and_then(date) else { return false };
        let changed = single_date(headers, &header::LAST_MODIFIED).or_else(|| single_date(headers, &header::DATE));
        changed.unwrap_or(received) <= since
    }

    /// Whether the part that the client wants is one of this response (RFC 9110 §13.1.5): only a strong validator tells.
    fn is_for_this(&self, headers: &HeaderMap) -> bool {
        let Some(wanted) = &self.if_range else { return true };
        let bytes = wanted.as_bytes().trim_ascii();
        if bytes.first() == Some(&b'"') {
            return headers.get(header::ETAG).is_some_and(|own| own.as_bytes() == bytes);
        }
        let modified = headers.get(header::LAST_MODIFIED);
        let is_same = modified.is_some_and(|modified| modified.as_bytes() == bytes);
        let made = single_date(headers, &header::DATE);
        let is_strong = single_date(headers, &header::LAST_MODIFIED)
            .zip(made)
            .is_some_and(|(modified, made)| made.duration_since(modified).is_ok_and(|after| after >= STRONG_AFTER));
        is_same && is_strong
    }
}

/// A header that is there once.
fn one(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).cloned()
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// What weak comparison looks at (RFC 9110 §8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The entity tags of a list, without what makes them weak. Commas within quotes belong to the tag.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let start = rest.iter().position(|byte| *byte == b'"')?;
        let length = rest[start + 1..].iter().position(|byte| *byte == b'"')?;
        let tag = &rest[start..start + length + 2];
        rest = &rest[start + length + 2..];
        Some(tag)
    })
}

/// The one range that `bytes=…` asks for (RFC 9110 §14.1.2). What is something else counts as all.
fn bytes(range: &[u8], length: usize) -> Part {
    let whole = Part::Whole;
    let Some((unit, spec)) = range.split_at_checked(6) else { return whole };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return whole;
    }
    let spec = spec.trim_ascii();
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return whole };
    let (first, last) = (spec[..dash].trim_ascii(), spec[dash + 1..].trim_ascii());
    let number = |digits: &[u8]| match digits {
        [] => Some(None),
        digits if digits.iter().all(u8::is_ascii_digit) => {
            let text = std::str::from_utf8(digits).ok()?;
            Some(Some(text.parse::<usize>().unwrap_or(usize::MAX)))
        }
        _ => None,
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if last < first => whole,
        (Some(Some(first)), Some(_)) if first >= length => Part::OutOfRange,
        (Some(Some(first)), Some(last)) => {
            Part::Bytes(first..last.map_or(length, |last| last.saturating_add(1).min(length)))
        }
        (Some(None), Some(Some(0))) => Part::OutOfRange,
        (Some(None), Some(Some(_))) if length == 0 => Part::OutOfRange,
        (Some(None), Some(Some(last))) => Part::Bytes(length.saturating_sub(last)..length),
        _ => whole,
    }
}

/// The validators of a stored response, for the upstream (RFC 9111 §4.3.1). Whether there is any.
pub fn ask(stored: &HeaderMap, request: &mut HeaderMap) -> bool {
    let pairs = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    let mut is_asked = false;
    for (validator, condition) in pairs {
        if let Some(value) = stored.get(&validator) {
            request.insert(condition, value.clone());
            is_asked = true;
        }
    }
    is_asked
}

/// Whether there is something to ask the upstream by.
pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// Whether a 304 is about the stored response, as far as it tells (RFC 9111 §4.3.4). Back ends that code bodies write weak tags
/// beside those, and strong ones into a 304: the tag without what makes it weak is what was asked by.
pub fn is_about(stored: &HeaderMap, answer: &HeaderMap) -> bool {
    match (stored.get(header::ETAG), answer.get(header::ETAG)) {
        (Some(own), Some(named)) => opaque(own.as_bytes()) == opaque(named.as_bytes()),
        (None, Some(_)) => false,
        (_, None) => true,
    }
}

/// What the answer to a HEAD says of the stored response, `length` bytes long: that it is this one, that it is another, or nothing
/// (RFC 9111 §4.3.5).
pub fn confirms(stored: &HeaderMap, length: usize, answer: &HeaderMap) -> Option<bool> {
    let is_other =
        answer.get(header::CONTENT_LENGTH).is_some_and(|told| told.as_bytes() != Decimal::of(length as u64).as_bytes());
    let mut told =
        [header::ETAG, header::LAST_MODIFIED].into_iter().filter(|name| answer.contains_key(name)).peekable();
    let is_silent = told.peek().is_none();
    if is_other || told.any(|name| stored.get(&name) != answer.get(&name)) {
        return Some(false);
    }
    (!is_silent).then_some(true)
}

/// The stored head, brought up to date by a 304 (RFC 9111 §3.2). What describes the stored bytes stays.
pub fn refreshed(stored: &HeaderMap, answer: &HeaderMap) -> HeaderMap {
    let keeps =
        [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_TYPE, header::CONTENT_RANGE, header::ETAG];
    let mut head = stored.clone();
    for name in answer.keys().filter(|name| !keeps.contains(name)) {
        head.remove(name);
        for value in answer.get_all(name) {
            head.append(name.clone(), value.clone());
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn part(stored: &[(&'static str, &'static str)], request: &[(&'static str, &'static str)]) -> Part {
        let conditions = Conditions::of(&headers(request));
        conditions.part(StatusCode::OK, &headers(stored), Some(10), SystemTime::UNIX_EPOCH, true)
    }

    /// RFC 9110 §13.1.2, §13.1.3, §13.2.2.
    #[test]
    fn a_client_that_has_it_gets_a_304() {
        let etag = ("etag", "\"a,b\"");
        for (stored, request, expected) in [
            (&[etag][..], &[("if-none-match", "\"a,b\"")][..], true),
            (&[etag], &[("if-none-match", "W/\"a,b\"")], true),
            (&[("etag", "W/\"a,b\"")], &[("if-none-match", "\"a,b\"")], true),
            (&[etag], &[("if-none-match", "\"x\", \"a,b\"")], true),
            (&[etag], &[("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")], true),
            (&[etag], &[("if-none-match", "*")], true),
            (&[etag], &[("if-none-match", "\"a\"")], false),
            (&[etag], &[("if-none-match", "a,b")], false),
            (&[], &[("if-none-match", "\"a\"")], false),
            (&[("last-modified", DATE)], &[("if-modified-since", DATE)], true),
            (&[("last-modified", DATE)], &[("if-modified-since", BEFORE)], false),
            (&[("last-modified", DATE)], &[("if-modified-since", "yesterday")], false),
            (&[("date", DATE)], &[("if-modified-since", DATE)], true),
            // Dates do not count beside entity tags.
            (&[etag, ("last-modified", DATE)], &[("if-none-match", "\"x\""), ("if-modified-since", DATE)], false),
        ] {
            assert_eq!(part(stored, request) == Part::NotModified, expected, "{stored:?} {request:?}");
        }
        let conditions = Conditions::of(&headers(&[("if-none-match", "*")]));
        let of = |status| conditions.part(status, &headers(&[etag]), None, SystemTime::UNIX_EPOCH, true);
        assert_eq!(of(StatusCode::NOT_FOUND), Part::Whole, "conditions are about a 200");
    }

    /// RFC 9110 §14.1.2, §14.2.
    #[test]
    fn one_range_is_cut_out() {
        for (range, expected) in [
            ("bytes=0-3", Part::Bytes(0..4)),
            ("Bytes=2-", Part::Bytes(2..10)),
            ("bytes=9-99", Part::Bytes(9..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=10-", Part::OutOfRange),
            ("bytes=10-11", Part::OutOfRange),
            ("bytes=-0", Part::OutOfRange),
            ("bytes=99999999999999999999999-", Part::OutOfRange),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes 0-1", Part::Whole),
            ("lines=0-1", Part::Whole),
        ] {
            assert_eq!(part(&[], &[("range", range)]), expected, "{range}");
        }
        let conditions = Conditions::of(&headers(&[("range", "bytes=0-1")]));
        let of =
            |length, is_get| conditions.part(StatusCode::OK, &headers(&[]), length, SystemTime::UNIX_EPOCH, is_get);
        assert_eq!(of(Some(0), true), Part::OutOfRange);
        assert_eq!(of(None, true), Part::Whole, "how long it is is not known yet");
        assert_eq!(of(Some(10), false), Part::Whole, "RFC 9110 §14.2: only GET has ranges");
    }

    /// RFC 9110 §13.1.5.
    #[test]
    fn a_range_holds_only_for_what_the_client_has() {
        let ranged = |stored: &[(&'static str, &'static str)], if_range| {
            part(stored, &[("range", "bytes=0-1"), ("if-range", if_range)]) == Part::Bytes(0..2)
        };
        let dated = [("last-modified", BEFORE), ("date", DATE)];
        assert!(ranged(&[("etag", "\"a\"")], "\"a\""));
        assert!(!ranged(&[("etag", "\"a\"")], "\"b\""));
        assert!(!ranged(&[("etag", "W/\"a\"")], "W/\"a\""), "a weak tag says nothing of bytes");
        assert!(!ranged(&[], "\"a\""));
        assert!(ranged(&dated, BEFORE));
        assert!(!ranged(&dated, DATE));
        assert!(!ranged(&[("last-modified", DATE), ("date", DATE)], DATE), "it may have changed within that second");
    }

    /// RFC 9111 §3.2, §4.3.3, §4.3.4.
    #[test]
    fn a_304_refreshes_the_head_and_leaves_what_describes_the_bytes() {
        let stored =
            headers(&[("etag", "\"a\""), ("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2"), ("x-b", "1")]);
        let answer = headers(&[("etag", "W/\"a\""), ("content-type", "x/y"), ("content-length", "0"), ("x-a", "3")]);
        let expected = headers(&[("etag", "\"a\""), ("content-type", "text/plain"), ("x-b", "1"), ("x-a", "3")]);
        assert!(is_about(&stored, &answer));
        assert_eq!(refreshed(&stored, &answer), expected);
        assert!(!is_about(&stored, &headers(&[("etag", "\"b\"")])));
        assert!(!is_about(&headers(&[]), &headers(&[("etag", "\"b\"")])));
        assert!(is_about(&stored, &headers(&[])));
    }

    /// RFC 9111 §4.3.5.
    #[test]
    fn a_head_confirms_what_is_stored_or_does_not() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", DATE)]);
        for (answer, expected) in [
            (&[("etag", "\"a\"")][..], Some(true)),
            (&[("etag", "\"a\""), ("last-modified", DATE), ("content-length", "4")], Some(true)),
            (&[("etag", "\"a\""), ("content-length", "5")], Some(false)),
            (&[("etag", "W/\"a\"")], Some(false)),
            (&[("etag", "\"a\""), ("last-modified", BEFORE)], Some(false)),
            (&[("content-length", "4")], None),
            (&[], None),
        ] {
            assert_eq!(confirms(&stored, 4, &headers(answer)), expected, "{answer:?}");
        }
    }

    #[test]
    fn the_upstream_is_asked_by_what_is_stored() {
        let mut request = headers(&[]);
        assert!(!ask(&headers(&[]), &mut request) && request.is_empty());
        assert!(ask(&headers(&[("etag", "\"a\""), ("last-modified", DATE)]), &mut request));
        assert_eq!(request, headers(&[("if-none-match", "\"a\""), ("if-modified-since", DATE)]));
    }
}
