//! What `Cache-Control` and its kin say, in responses and in requests (RFC 9111 §5.2, RFC 9213, RFC 5861).
//!
//! Whatever cannot be read is taken in the sense that stores less and serves less.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

/// The longest time that is told apart, in seconds (RFC 9111 §1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// The most field names that `private` and `no-cache` may list; more count as all of them.
const FIELDS_MAX: usize = 32;

static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// `private` or `no-cache`, which may be about some header fields only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scoped {
    /// Not there.
    #[default]
    Absent,
    /// About these header fields.
    Fields(Vec<HeaderName>),
    /// About the whole response.
    Whole,
}

impl Scoped {
    fn add(&mut self, value: Option<&[u8]>) {
        // A form that cannot be read is about everything.
        let listed = value.and_then(|value| {
            let mut names = Vec::new();
            for name in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
                names.push(HeaderName::from_bytes(name).ok()?);
            }
            (!names.is_empty()).then_some(names)
        });
        match (listed, &mut *self) {
            (Some(names), Self::Absent) => *self = Self::Fields(names),
            (Some(names), Self::Fields(known)) => known.extend(names),
            _ => *self = Self::Whole,
        }
        if let Self::Fields(known) = self
            && known.len() > FIELDS_MAX
        {
            *self = Self::Whole;
        }
    }

    /// The header fields that it is about, if it is about some only.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Absent | Self::Whole => &[],
        }
    }
}

/// What a response says about its storing and use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `no-store`, or something that cannot be read.
    pub no_store: bool,
    /// `must-understand`: `no-store` does not count for who understands the status (RFC 9111 §5.2.2.3).
    pub must_understand: bool,
    /// `private`.
    pub private: Scoped,
    /// `no-cache`.
    pub no_cache: Scoped,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `max-age`, in seconds.
    pub max_age: Option<u64>,
    /// `s-maxage`, in seconds.
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate`, in seconds (RFC 5861 §3).
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error`, in seconds (RFC 5861 §4).
    pub stale_if_error: Option<u64>,
    /// It comes from a field that is meant for caches like this one, so `Expires` does not count (RFC 9213 §2.1).
    pub is_targeted: bool,
}

impl Control {
    /// What the response of these headers says.
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(targeted) = targeted(headers) {
            return targeted;
        }
        let (mut control, mut is_sound) = (Self::default(), true);
        for line in headers.get_all(header::CACHE_CONTROL) {
            is_sound &= directives(line.as_bytes(), |name, value| control.note(name, value));
        }
        if !is_sound {
            (control.no_store, control.must_understand) = (true, false);
        }
        control
    }

    fn note(&mut self, name: &[u8], value: Option<&[u8]>) {
        match name {
            b"no-store" => self.no_store = true,
            b"must-understand" => self.must_understand = true,
            b"private" => self.private.add(value),
            b"no-cache" => self.no_cache.add(value),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"max-age" => lifetime(&mut self.max_age, value),
            b"s-maxage" => lifetime(&mut self.s_maxage, value),
            b"stale-while-revalidate" => lifetime(&mut self.stale_while_revalidate, value),
            b"stale-if-error" => lifetime(&mut self.stale_if_error, value),
            _ => {}
        }
    }

    /// Whether the response says in so many words that it may be used for others than who asked (RFC 9111 §3.5).
    pub fn is_for_all(&self) -> bool {
        self.public || self.s_maxage.is_some() || self.must_revalidate
    }

    /// Whether it must never be used stale: what does so for shared caches (RFC 9111 §4.2.4), and `no-cache`.
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.s_maxage.is_some() || self.no_cache == Scoped::Whole
    }
}

/// What `CDN-Cache-Control` says. It is a dictionary of structured fields, and if it is not, it is not there (RFC 9213
/// §2.1).
fn targeted(headers: &HeaderMap) -> Option<Control> {
    let mut lines = headers.get_all(&CDN_CACHE_CONTROL).iter().peekable();
    lines.peek()?;
    let mut control = Control { is_targeted: true, ..Control::default() };
    let mut is_sound = true;
    for line in lines {
        // Keys of a dictionary are in lower case, and seconds are integers, not strings.
        is_sound &= !line.as_bytes().iter().any(|byte| byte.is_ascii_uppercase() || *byte == b'"');
        is_sound &= directives(line.as_bytes(), |name, value| {
            let is_number = value.is_none_or(|value| value.iter().all(u8::is_ascii_digit) && !value.is_empty());
            is_sound &= is_number && is_key(name);
            control.note(name, value);
        });
    }
    is_sound.then_some(control)
}

/// The key of a member of a dictionary (RFC 8941 §3.1.2).
fn is_key(name: &[u8]) -> bool {
    let begins = name.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'*');
    let goes_on = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(byte);
    begins && name.iter().all(goes_on)
}

/// Two values that differ, and one that is no number, make the response stale from the start (RFC 9111 §4.2.1).
fn lifetime(known: &mut Option<u64>, value: Option<&[u8]>) {
    let seconds = value.and_then(seconds).unwrap_or(0);
    *known = Some(match *known {
        Some(other) if other != seconds => 0,
        _ => seconds,
    });
}

/// `delta-seconds` (RFC 9111 §1.2.2): digits. More than can be told apart is the most.
pub fn seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let parsed = std::str::from_utf8(value).ok()?.parse::<u64>();
    Some(parsed.unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// What a request demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, or `Pragma: no-cache` where there is no `Cache-Control` (RFC 9111 §5.4).
    pub no_cache: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `max-age`: no older than so many seconds.
    pub max_age: Option<u64>,
    /// `min-fresh`: still fresh in so many seconds.
    pub min_fresh: Option<u64>,
    /// `max-stale`: stale by no more than so many seconds.
    pub max_stale: Option<u64>,
}

impl Demand {
    /// What the request of these headers demands.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut demand = Self::default();
        let mut lines = headers.get_all(header::CACHE_CONTROL).iter().peekable();
        if lines.peek().is_none() {
            let is_no_cache = |line: &HeaderValue| line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"no-cache");
            demand.no_cache = headers.get(header::PRAGMA).is_some_and(is_no_cache);
            return demand;
        }
        for line in lines {
            let is_sound = directives(line.as_bytes(), |name, value| {
                // What is no number demands the most.
                let least = || value.and_then(seconds).unwrap_or(0);
                match name {
                    b"no-store" => demand.no_store = true,
                    b"no-cache" => demand.no_cache = true,
                    b"only-if-cached" => demand.only_if_cached = true,
                    b"max-age" => demand.max_age = Some(demand.max_age.map_or(least(), |other| other.min(least()))),
                    b"min-fresh" => {
                        let most = value.and_then(seconds).unwrap_or(SECONDS_MAX);
                        demand.min_fresh = Some(demand.min_fresh.map_or(most, |other| other.max(most)));
                    }
                    // Without a value: however stale (RFC 9111 §5.2.1.2).
                    b"max-stale" => demand.max_stale = Some(value.map_or(SECONDS_MAX, |_| least())),
                    _ => {}
                }
            });
            demand.no_cache |= !is_sound;
        }
        demand
    }
}

/// Gives each directive, its name in lower case and its value without quotes. Whether all of it could be read.
fn directives(line: &[u8], mut note: impl FnMut(&[u8], Option<&[u8]>)) -> bool {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        while let [b',', after @ ..] = rest {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return true;
        }
        let length = rest.iter().position(|byte| matches!(byte, b',' | b'=')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        // No blank stands before an equals sign (RFC 9111 §5.2).
        let is_tight = after.first() != Some(&b'=') || name.trim_ascii_end().len() == name.len();
        let name: SmallVec<[u8; 32]> = name.trim_ascii().iter().map(u8::to_ascii_lowercase).collect();
        let is_token = is_tight && !name.is_empty() && HeaderName::from_bytes(&name).is_ok();
        rest = after;
        match rest {
            [b'=', b'"', quoted @ ..] => {
                let mut value = SmallVec::<[u8; 32]>::new();
                let mut bytes = quoted.iter().enumerate();
                let end = loop {
                    match bytes.next() {
                        None => return false,
                        Some((at, b'"')) => break at,
                        Some((_, b'\\')) => match bytes.next() {
                            Some((_, byte)) => value.push(*byte),
                            None => return false,
                        },
                        Some((_, byte)) => value.push(*byte),
                    }
                };
                note(&name, Some(&value));
                rest = quoted[end + 1..].trim_ascii_start();
                if !matches!(rest, [] | [b',', ..]) {
                    return false;
                }
            }
            [b'=', plain @ ..] => {
                let length = plain.iter().position(|byte| *byte == b',').unwrap_or(plain.len());
                let (value, after) = plain.split_at(length);
                note(&name, Some(value.trim_ascii_end()));
                rest = after;
            }
            _ => note(&name, None),
        }
        if !is_token {
            return false;
        }
    }
}

/// The elements of a comma-separated list over all lines of a header, empty ones left out.
pub fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).iter();
    let parts = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty())
}

/// Which request headers chose the response (RFC 9110 §12.5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vary {
    /// These, in alphabetical order. None of them: it is the same for everybody.
    On(Vec<HeaderName>),
    /// Something that no request header tells.
    Any,
}

/// The most headers that a response may vary on; more count as anything.
const VARY_MAX: usize = 16;

impl Vary {
    /// What the response of these headers varies on. What is no name counts as anything.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for element in elements(headers, &header::VARY) {
            match HeaderName::from_bytes(element) {
                Ok(name) if element != b"*" => names.push(name),
                _ => return Self::Any,
            }
        }
        names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        if names.len() > VARY_MAX { Self::Any } else { Self::On(names) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (HeaderName::from_static(name), HeaderValue::from_static(line))).collect()
    }

    #[track_caller]
    fn control(lines: &[&'static str], expected: Control) {
        assert_eq!(Control::of(&headers("cache-control", lines)), expected, "{lines:?}");
    }

    #[test]
    fn response_directives_are_read_in_every_lawful_form() {
        let fields =
            |names: &[&'static str]| Scoped::Fields(names.iter().map(|name| HeaderName::from_static(name)).collect());
        let ages = |max_age, s_maxage| Control { max_age, s_maxage, ..Control::default() };
        control(&[], Control::default());
        control(&["max-age=10, s-maxage=20"], ages(Some(10), Some(20)));
        control(&["Max-Age=10", "S-MAXAGE=\"20\""], ages(Some(10), Some(20)));
        control(&[" , ,max-age=10 ,unknown=\"a,b\\\"c\", other=x"], ages(Some(10), None));
        control(&["max-age=99999999999999999999"], ages(Some(SECONDS_MAX), None));
        control(&["public,must-revalidate"], Control { public: true, must_revalidate: true, ..Control::default() });
        control(&["private"], Control { private: Scoped::Whole, ..Control::default() });
        control(
            &["private=\"Set-Cookie, x-a\""],
            Control { private: fields(&["set-cookie", "x-a"]), ..Control::default() },
        );
        control(&["private=\"x-a\", private"], Control { private: Scoped::Whole, ..Control::default() });
        control(
            &["no-cache=x-a", "no-cache=\"x-b\""],
            Control { no_cache: fields(&["x-a", "x-b"]), ..Control::default() },
        );
        control(
            &["stale-while-revalidate=5, stale-if-error=6, proxy-revalidate"],
            Control {
                stale_while_revalidate: Some(5),
                stale_if_error: Some(6),
                proxy_revalidate: true,
                ..Control::default()
            },
        );
    }

    /// RFC 9111 §4.2.1: invalid freshness is no freshness; and what is not understood must not be stored.
    #[test]
    fn what_cannot_be_read_stores_less() {
        for line in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age= 1", "max-age=x", "max-age=1 2"] {
            assert_eq!(Control::of(&headers("cache-control", &[line])).max_age, Some(0), "{line}");
        }
        assert_eq!(Control::of(&headers("cache-control", &["max-age=1, max-age=2"])).max_age, Some(0));
        assert_eq!(Control::of(&headers("cache-control", &["max-age=2", "max-age=2"])).max_age, Some(2));
        for line in
            ["max-age=\"10", "private=\"a\\", "a b=1", "=1", "max-age=\"1\"x", "max-age =9", "must-understand, a b"]
        {
            assert!(Control::of(&headers("cache-control", &[line])).no_store, "{line}");
        }
        for line in ["private=\"\"", "private=\"a b\"", "private="] {
            assert_eq!(Control::of(&headers("cache-control", &[line])).private, Scoped::Whole, "{line}");
        }
    }

    #[test]
    fn a_targeted_field_takes_the_place_of_the_general_one() {
        let of = |targeted: &'static str| {
            let mut all = headers("cache-control", &["no-store"]);
            all.extend(headers("cdn-cache-control", &[targeted]));
            Control::of(&all)
        };
        assert_eq!(of("max-age=5"), Control { max_age: Some(5), is_targeted: true, ..Control::default() });
        for invalid in
            ["max-age=\"5\"", "Max-Age=5", "max-age=5, &&&", "max-age =5", "max-age=x", "max-age=\"", "max-age="]
        {
            assert_eq!(of(invalid), Control { no_store: true, ..Control::default() }, "{invalid}");
        }
    }

    #[test]
    fn requests_demand() {
        let of = |lines: &[&'static str]| Demand::of(&headers("cache-control", lines));
        assert_eq!(of(&[]), Demand::default());
        assert_eq!(of(&["no-cache, No-Store"]), Demand { no_cache: true, no_store: true, ..Demand::default() });
        assert_eq!(of(&["max-age=5", "max-age=3"]).max_age, Some(3));
        assert_eq!(of(&["max-age=x"]).max_age, Some(0));
        assert_eq!(of(&["min-fresh=x"]).min_fresh, Some(SECONDS_MAX));
        assert_eq!(of(&["max-stale"]).max_stale, Some(SECONDS_MAX));
        assert_eq!(of(&["max-stale=7"]).max_stale, Some(7));
        assert_eq!(of(&["max-stale=x"]).max_stale, Some(0));
        assert!(of(&["only-if-cached"]).only_if_cached && of(&["\"broken"]).no_cache);
        assert!(Demand::of(&headers("pragma", &["no-cache"])).no_cache);
        let mut both = headers("pragma", &["no-cache"]);
        both.extend(headers("cache-control", &["max-age=5"]));
        assert!(!Demand::of(&both).no_cache);
    }

    #[test]
    fn vary_is_a_set_of_names_or_anything() {
        let of = |lines: &[&'static str]| Vary::of(&headers("vary", lines));
        let on = |names: &[&'static str]| Vary::On(names.iter().map(|name| HeaderName::from_static(name)).collect());
        assert_eq!(of(&[]), on(&[]));
        assert_eq!(of(&["Origin, accept-encoding", "ORIGIN,,"]), on(&["accept-encoding", "origin"]));
        for any in ["*", "origin, *", "a b"] {
            assert_eq!(of(&[any]), Vary::Any, "{any}");
        }
    }
}
