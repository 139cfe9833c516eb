//! How long a response is fresh, how old it is, and what of it may be used when it is not (RFC 9111 §4.2).
//!
//! Points in time are arguments. Lifetimes come from the response or from the route's configuration; nothing is guessed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderName};
use http::{HeaderMap, StatusCode};

use super::control::{Control, Demand, Scoped, seconds};

/// Lifetimes that a route gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ttl {
    /// Where the response says nothing, and its status is one of those that may be stored by default.
    pub default: Option<Duration>,
    /// The same, for this status.
    pub by_status: BTreeMap<u16, Duration>,
    /// The least, of a response that is fresh at all.
    pub min: Option<Duration>,
    /// The most.
    pub max: Option<Duration>,
    /// What is given here counts also where the response says something else.
    pub overrides: bool,
}

/// Statuses that a lifetime of `ttl.default` is for.
const BY_DEFAULT: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// Statuses that are understood, and so may be stored where somebody names their lifetime (RFC 9111 §3).
const UNDERSTOOD: [u16; 24] = [
    200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 414, 415, 421, 422, 451, 500, 501, 502, 503,
    504,
];

/// Whether a response of this status may be stored at all.
pub fn is_understood(status: StatusCode) -> bool {
    UNDERSTOOD.contains(&status.as_u16())
}

impl Ttl {
    /// What the route gives a response of this status.
    fn given(&self, status: StatusCode) -> Option<Duration> {
        let status = status.as_u16();
        self.by_status.get(&status).copied().or(self.default.filter(|_| BY_DEFAULT.contains(&status)))
    }

    /// How long a response is fresh, counted from its origin. `None`: nobody says.
    pub fn lifetime(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        control: &Control,
        received: SystemTime,
    ) -> Option<Duration> {
        let given = self.given(status);
        if self.overrides
            && let Some(given) = given
        {
            return Some(given);
        }
        if control.no_cache == Scoped::Whole {
            return Some(Duration::ZERO);
        }
        let named = control.s_maxage.or(control.max_age).map(Duration::from_secs);
        let lifetime =
            named.or_else(|| if control.is_targeted { None } else { expires(headers, received) }).or(given)?;
        // What is not fresh for a moment is not to be made fresh.
        if lifetime.is_zero() {
            return Some(lifetime);
        }
        let lifetime = self.min.map_or(lifetime, |min| lifetime.max(min));
        Some(self.max.map_or(lifetime, |max| lifetime.min(max)))
    }
}

/// `Expires - Date` (RFC 9111 §4.2.1). Several, and what is no date, are in the past (§5.3).
fn expires(headers: &HeaderMap, received: SystemTime) -> Option<Duration> {
    headers.get(header::EXPIRES)?;
    let until = single_date(headers, &header::EXPIRES);
    let from = single_date(headers, &header::DATE).unwrap_or(received);
    Some(until.and_then(|until| until.duration_since(from).ok()).unwrap_or_default())
}

/// The date in a header that is there once.
pub fn single_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// How old a response was when it was received at `received`, having been asked for `delay` before (RFC 9111 §4.2.3).
pub fn initial_age(headers: &HeaderMap, received: SystemTime, delay: Duration) -> Duration {
    let apparent = single_date(headers, &header::DATE).and_then(|date| received.duration_since(date).ok());
    // Of several, the first counts (RFC 9111 §5.1). What is no number says nothing.
    let told = headers.get(header::AGE).and_then(|age| seconds(age.as_bytes().split(|byte| *byte == b',').next()?));
    let corrected = Duration::from_secs(told.unwrap_or(0)) + delay;
    corrected.max(apparent.unwrap_or_default())
}

/// What a stored response may be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long it is fresh, counted from its origin.
    pub lifetime: Duration,
    /// How long after that it may be used while it is being refreshed.
    pub while_revalidate: Duration,
    /// How long after its freshness it may be used where the upstream fails.
    pub if_error: Duration,
    /// It must not be used stale, whoever asks.
    pub forbids_stale: bool,
    /// It says of itself that it is for everybody.
    pub is_for_all: bool,
}

impl Terms {
    /// What a response may be used for. `while_revalidate` and `if_error` are the route's word, which counts where the
    /// response has none.
    pub fn new(control: &Control, lifetime: Duration, while_revalidate: Duration, if_error: Duration) -> Self {
        let forbids_stale = control.forbids_stale();
        let window = |said: Option<u64>, given: Duration| match forbids_stale {
            true => Duration::ZERO,
            false => said.map_or(given, Duration::from_secs),
        };
        Self {
            lifetime,
            while_revalidate: window(control.stale_while_revalidate, while_revalidate),
            if_error: window(control.stale_if_error, if_error),
            forbids_stale,
            is_for_all: control.is_for_all(),
        }
    }

    /// How a response of this age may be used by a request with these demands.
    pub fn usable(&self, age: Duration, is_soft_purged: bool, demand: &Demand) -> Usable {
        // A response that was purged softly is stale from then on.
        let is_stale = is_soft_purged || age >= self.lifetime;
        let stale_for = age.saturating_sub(self.lifetime);
        if demand.no_cache || demand.max_age.is_some_and(|most| age > Duration::from_secs(most)) {
            return Usable::AfterValidation;
        }
        if !is_stale {
            let left = self.lifetime.saturating_sub(age);
            return match demand.min_fresh {
                Some(least) if left < Duration::from_secs(least) => Usable::AfterValidation,
                _ => Usable::Fresh,
            };
        }
        if self.forbids_stale || demand.min_fresh.is_some() {
            return Usable::AfterValidation;
        }
        if demand.max_stale.is_some_and(|most| stale_for <= Duration::from_secs(most)) && !is_soft_purged {
            return Usable::Stale;
        }
        if stale_for < self.while_revalidate { Usable::WhileRevalidating } else { Usable::AfterValidation }
    }

    /// Whether a response of this age may be used in the place of an error.
    pub fn covers_error(&self, age: Duration, demand: &Demand) -> bool {
        let stale_for = age.saturating_sub(self.lifetime);
        let is_old = demand.max_age.is_some_and(|most| age > Duration::from_secs(most));
        !self.forbids_stale && !demand.no_cache && !is_old && stale_for < self.if_error
    }
}

/// How a stored response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usable {
    /// As it is.
    Fresh,
    /// As it is, for the request takes it stale.
    Stale,
    /// As it is, while it is being refreshed.
    WhileRevalidating,
    /// Once the upstream has said that it is still good.
    AfterValidation,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + S(784_111_777)
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_lifetime_is_taken_from_whoever_has_the_say() {
        let ttl = Ttl { default: Some(S(7)), by_status: [(404, S(3)), (500, S(1))].into(), ..Ttl::default() };
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let later = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        for (status, list, expected) in [
            (200, &[("cache-control", "max-age=10, s-maxage=20"), date, later][..], Some(20)),
            (200, &[("cache-control", "max-age=10"), date, later], Some(10)),
            (200, &[date, later], Some(60)),
            (200, &[later], Some(60)),
            (200, &[date, ("expires", "0")], Some(0)),
            (200, &[date, later, later], Some(0)),
            (200, &[date, ("expires", "Sunday, 06-Nov-94 08:49:47 GMT")], Some(10)),
            (200, &[date, ("expires", "Sun Nov  6 08:49:47 1994")], Some(10)),
            (200, &[("date", "Sun, 06 Nov 1994 08:50:37 GMT"), ("expires", date.1)], Some(0)),
            (200, &[("cdn-cache-control", "max-age=5"), ("cache-control", "max-age=10")], Some(5)),
            (200, &[("cdn-cache-control", "public"), date, later], Some(7)),
            (200, &[("cache-control", "no-cache, max-age=10")], Some(0)),
            (200, &[], Some(7)),
            (404, &[], Some(3)),
            (500, &[], Some(1)),
            (302, &[], None),
            (302, &[("cache-control", "max-age=10")], Some(10)),
        ] {
            let headers = headers(list);
            let lifetime =
                ttl.lifetime(StatusCode::from_u16(status).unwrap(), &headers, &Control::of(&headers), noon());
            assert_eq!(lifetime, expected.map(S), "{status} {list:?}");
        }
    }

    #[test]
    fn lifetimes_are_clamped_and_overridden() {
        let of = |ttl: &Ttl, line: &'static str| {
            let headers = headers(&[("cache-control", line)]);
            ttl.lifetime(StatusCode::OK, &headers, &Control::of(&headers), noon()).unwrap()
        };
        let clamped = Ttl { min: Some(S(5)), max: Some(S(50)), ..Ttl::default() };
        assert_eq!(["max-age=1", "max-age=9", "max-age=99"].map(|line| of(&clamped, line)), [S(5), S(9), S(50)]);
        assert_eq!(of(&clamped, "max-age=0"), S(0), "what is not fresh is not made fresh");
        let overriding = Ttl { default: Some(S(7)), overrides: true, ..Ttl::default() };
        assert_eq!(["max-age=1", "no-cache"].map(|line| of(&overriding, line)), [S(7), S(7)]);
    }

    /// RFC 9111 §4.2.3.
    #[test]
    fn a_response_is_as_old_as_the_oldest_sign_says() {
        for (list, delay, expected) in [
            (&[][..], 0, 0),
            (&[], 2, 2),
            (&[("age", "5")], 2, 7),
            (&[("age", "5"), ("age", "50")], 0, 5),
            (&[("age", "5, 50")], 0, 5),
            (&[("age", "-5")], 0, 0),
            (&[("age", "99999999999")], 0, 1 << 31),
            (&[("date", "Sun, 06 Nov 1994 08:49:27 GMT")], 2, 10),
            (&[("date", "Sun, 06 Nov 1994 08:49:27 GMT"), ("age", "30")], 2, 32),
            (&[("date", "Sun, 06 Nov 1994 08:59:27 GMT")], 2, 2),
        ] {
            assert_eq!(initial_age(&headers(list), noon(), S(delay)), S(expected), "{list:?}");
        }
    }

    #[test]
    fn a_stale_response_is_used_only_where_it_may_be() {
        let terms = |line: &'static str| {
            let control = Control::of(&headers(&[("cache-control", line)]));
            Terms::new(&control, S(10), S(20), S(30))
        };
        let open = terms("max-age=10");
        let none = Demand::default();
        for (terms, age, demand, expected) in [
            (open, 9, none, Usable::Fresh),
            // RFC 9111 §4.2: fresh while its lifetime exceeds its age.
            (open, 10, none, Usable::WhileRevalidating),
            (open, 29, none, Usable::WhileRevalidating),
            (open, 30, none, Usable::AfterValidation),
            (terms("stale-while-revalidate=1"), 11, none, Usable::AfterValidation),
            (terms("must-revalidate"), 11, none, Usable::AfterValidation),
            (terms("proxy-revalidate"), 11, none, Usable::AfterValidation),
            (terms("s-maxage=10"), 11, none, Usable::AfterValidation),
            (terms("no-cache"), 11, none, Usable::AfterValidation),
            (open, 5, Demand { no_cache: true, ..none }, Usable::AfterValidation),
            (open, 5, Demand { max_age: Some(4), ..none }, Usable::AfterValidation),
            (open, 5, Demand { max_age: Some(5), ..none }, Usable::Fresh),
            (open, 5, Demand { min_fresh: Some(5), ..none }, Usable::Fresh),
            (open, 5, Demand { min_fresh: Some(6), ..none }, Usable::AfterValidation),
            (open, 15, Demand { min_fresh: Some(0), ..none }, Usable::AfterValidation),
            (open, 40, Demand { max_stale: Some(30), ..none }, Usable::Stale),
            (open, 41, Demand { max_stale: Some(30), ..none }, Usable::AfterValidation),
            (terms("must-revalidate"), 11, Demand { max_stale: Some(30), ..none }, Usable::AfterValidation),
        ] {
            assert_eq!(terms.usable(S(age), false, &demand), expected, "{terms:?} {age} {demand:?}");
        }
        assert_eq!(open.usable(S(1), true, &none), Usable::WhileRevalidating, "a soft purge makes it stale");
        assert_eq!(terms("must-revalidate").usable(S(1), true, &none), Usable::AfterValidation);
    }

    /// RFC 5861 §4.
    #[test]
    fn an_error_is_covered_for_a_while() {
        let terms = |line: &'static str| {
            let control = Control::of(&headers(&[("cache-control", line)]));
            Terms::new(&control, S(10), S(20), S(30))
        };
        let none = Demand::default();
        for (line, age, demand, expected) in [
            ("max-age=10", 39, none, true),
            ("max-age=10", 40, none, false),
            ("stale-if-error=5", 14, none, true),
            ("stale-if-error=5", 15, none, false),
            ("must-revalidate", 11, none, false),
            ("proxy-revalidate", 11, none, false),
            ("s-maxage=10", 11, none, false),
            ("no-cache", 11, none, false),
            ("max-age=10", 11, Demand { no_cache: true, ..none }, false),
            ("max-age=10", 11, Demand { max_age: Some(5), ..none }, false),
        ] {
            assert_eq!(terms(line).covers_error(S(age), &demand), expected, "{line} {age}");
        }
    }
}
