//! What clients are told of their limits: the header fields of draft-ietf-httpapi-ratelimit-headers-11, and the three that
//! came before them. The draft is unfinished: all that knows its form is in this file.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::limits::{Fields, RateLimits, Theirs};
use crate::http::decimal::Decimal;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// All of them.
static NAMES: [HeaderName; 5] = [POLICY, LIMIT, LEGACY_LIMIT, LEGACY_REMAINING, LEGACY_RESET];

/// The problem type of a refusal by a limit (the draft, "Quota Exceeded").
pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// The problem type of a ban (the draft, "Abnormal Usage Detected").
pub const ABNORMAL_USAGE: &str = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected";

/// The member of the problem document that names the limits that refused.
pub const VIOLATED: &str = "violated-policies";

/// What is told of a limit, whatever its level.
#[derive(Debug)]
pub struct Told {
    /// The limit's name.
    pub name: Box<str>,
    burst: u64,
    /// Its member of `RateLimit-Policy`, and the field if that is the only one.
    policy: Box<str>,
    alone: HeaderValue,
    settings: RateLimits,
}

impl Told {
    /// Of a limit that grants `burst` at once and is full again after `window` seconds. The name is of letters, digits,
    /// `-`, `_` and `.`.
    pub fn new(name: &str, burst: u64, window: u64, settings: &RateLimits) -> Self {
        let policy = format!("\"{name}\";q={burst};w={window}");
        let alone = HeaderValue::try_from(&policy).unwrap_or(HeaderValue::from_static(""));
        Self {
            name: name.into(),
            burst,
            policy: policy.into(),
            alone,
            settings: RateLimits { redis: None, ..settings.clone() },
        }
    }
}

/// The level of a bucket, as a client is told.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Of which limit.
    pub told: Arc<Told>,
    /// Whole tokens that are left.
    pub remaining: u64,
    /// Seconds: until the request would fit if it was refused, else until the bucket is full.
    pub reset: u64,
    /// It refused.
    pub is_denied: bool,
}

/// Writes what the readings say into the headers of an answer, which may be an upstream's.
pub fn write(readings: &mut [Reading], headers: &mut HeaderMap) {
    // The tightest comes first.
    readings.sort_by_key(|reading| (!reading.is_denied, reading.remaining));
    let Some(tightest) = readings.first() else { return };
    let RateLimits { headers: fields, upstream_headers: theirs, .. } = tightest.told.settings;
    // One walk, for hardly any answer has one of them, and each look-up costs as much.
    let has_any = headers.keys().any(is_one);
    let goes_out = has_any
        && match theirs {
            Theirs::Keep => has_theirs(headers),
            Theirs::Smaller => theirs_remaining(headers).is_some_and(|remaining| remaining < tightest.remaining),
            Theirs::Replace | Theirs::Drop => false,
        };
    if goes_out || (fields == Fields::Off && theirs != Theirs::Drop) {
        return;
    }
    if has_any {
        for name in &NAMES {
            headers.remove(name);
        }
    }
    if matches!(fields, Fields::Ietf | Fields::Both) {
        ietf(readings, headers);
    }
    if matches!(fields, Fields::Legacy | Fields::Both) {
        headers.insert(LEGACY_LIMIT, tightest.told.burst.into());
        headers.insert(LEGACY_REMAINING, tightest.remaining.into());
        headers.insert(LEGACY_RESET, tightest.reset.into());
    }
}

fn ietf(readings: &[Reading], headers: &mut HeaderMap) {
    let mut limit = Vec::new();
    for Reading { told, remaining, reset, .. } in readings {
        let (remaining, reset) = (Decimal::of(*remaining), Decimal::of(*reset));
        let separator: &[u8] = if limit.is_empty() { b"\"" } else { b", \"" };
        // Just so much: of one limit, which is the usual case, no copy is made then.
        let numbers = remaining.as_bytes().len() + reset.as_bytes().len();
        limit.reserve_exact(separator.len() + told.name.len() + "\";r=;t=".len() + numbers);
        limit.extend_from_slice(separator);
        limit.extend_from_slice(told.name.as_bytes());
        limit.extend_from_slice(b"\";r=");
        limit.extend_from_slice(remaining.as_bytes());
        limit.extend_from_slice(b";t=");
        limit.extend_from_slice(reset.as_bytes());
    }
    let policy = match readings {
        [only] => Ok(only.told.alone.clone()),
        several => {
            let members: Vec<&str> = several.iter().map(|reading| &*reading.told.policy).collect();
            HeaderValue::try_from(members.join(", "))
        }
    };
    if let (Ok(policy), Ok(limit)) = (policy, HeaderValue::from_maybe_shared(Bytes::from(limit))) {
        headers.insert(POLICY, policy);
        headers.insert(LIMIT, limit);
    }
}

/// Whether it is one of the names above.
fn is_one(name: &HeaderName) -> bool {
    // The length clears nearly every header of a comparison.
    matches!(name.as_str().len(), 9 | 16 | 17 | 21) && NAMES.contains(name)
}

fn has_theirs(headers: &HeaderMap) -> bool {
    headers.contains_key(&LIMIT) || headers.contains_key(&LEGACY_REMAINING) || headers.contains_key(&POLICY)
}

/// The least that an upstream says is left, in whatever form.
fn theirs_remaining(headers: &HeaderMap) -> Option<u64> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let members = headers.get_all(&LIMIT).iter().filter_map(text);
    let of_members = members.flat_map(|line| line.split([',', ';']).filter_map(remaining).collect::<Vec<_>>()).min();
    let legacy = headers.get(&LEGACY_REMAINING).and_then(text).and_then(|text| text.trim().parse().ok());
    of_members.into_iter().chain(legacy).min()
}

fn remaining(parameter: &str) -> Option<u64> {
    parameter.trim().strip_prefix("r=")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(name: &str, burst: u64, remaining: u64, reset: u64, settings: &RateLimits) -> Reading {
        let told = Arc::new(Told::new(name, burst, 2, settings));
        Reading { told, remaining, reset, is_denied: false }
    }

    fn written(settings: &RateLimits, theirs: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in theirs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        write(&mut [reading("slow", 50, 9, 1, settings), reading("fast", 100, 7, 3, settings)], &mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    const OURS: [&str; 2] =
        ["ratelimit-policy: \"fast\";q=100;w=2, \"slow\";q=50;w=2", "ratelimit: \"fast\";r=7;t=3, \"slow\";r=9;t=1"];

    #[test]
    fn the_tightest_limit_comes_first_in_every_form() {
        let with = |headers| RateLimits { headers, ..RateLimits::default() };
        assert_eq!(written(&with(Fields::Ietf), &[]), OURS);
        let legacy = ["x-ratelimit-limit: 100", "x-ratelimit-remaining: 7", "x-ratelimit-reset: 3"];
        assert_eq!(written(&with(Fields::Legacy), &[]), legacy);
        assert_eq!(written(&with(Fields::Both), &[]), [&OURS[..], &legacy].concat());
        assert!(written(&with(Fields::Off), &[]).is_empty());
    }

    #[test]
    fn a_limit_that_refuses_comes_before_one_that_has_less() {
        let settings = RateLimits::default();
        let mut headers = HeaderMap::new();
        let denied = Reading { is_denied: true, ..reading("costly", 9, 4, 2, &settings) };
        write(&mut [reading("tight", 9, 1, 1, &settings), denied], &mut headers);
        assert_eq!(headers["ratelimit"], "\"costly\";r=4;t=2, \"tight\";r=1;t=1");
    }

    #[test]
    fn an_upstreams_own_fields_are_kept_replaced_or_dropped() {
        let with = |headers, upstream_headers| RateLimits { headers, upstream_headers, redis: None };
        let more: &[_] = &[("ratelimit", "\"a\";r=8;t=5"), ("ratelimit-policy", "\"a\";q=9;w=9")];
        let less: &[_] = &[("ratelimit", "\"b\";r=90;t=5, \"a\"; r=6;t=5")];
        let legacy: &[_] = &[("x-ratelimit-remaining", "6")];
        for (upstream_headers, theirs, is_ours) in [
            (Theirs::Smaller, more, true),
            (Theirs::Smaller, less, false),
            (Theirs::Smaller, legacy, false),
            (Theirs::Keep, more, false),
            (Theirs::Keep, &[], true),
            (Theirs::Replace, less, true),
            (Theirs::Drop, less, true),
        ] {
            let lines = written(&with(Fields::Ietf, upstream_headers), theirs);
            assert_eq!(lines == OURS, is_ours, "{upstream_headers:?} {theirs:?}: {lines:?}");
        }
        assert!(written(&with(Fields::Off, Theirs::Drop), less).is_empty());
        assert_eq!(written(&with(Fields::Off, Theirs::Replace), legacy).len(), 1);
    }
}
