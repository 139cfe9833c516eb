//! A stored response, and what clients get of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use smallvec::SmallVec;

use super::control::Vary;
use super::freshness::Terms;
use super::invalid::Since;
use super::key::Target;
use super::purge::{Fate, Purges};
use super::status::Status;
use super::storable::Unstorable;
use super::validate::{Conditions, Part};
use crate::http::body::Body;
use crate::http::decimal::Decimal;
use crate::http::headers::name::X_REQUEST_ID;

/// `Cache-Status` (RFC 9211).
pub static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What an entry takes beside its bytes: itself, its shelf, their counts, and the cache's own books. Measured, see
/// `benches/README.md`.
const ENTRY_BYTES: usize = 1_200;

/// What a header takes beside its bytes.
const HEADER_BYTES: usize = 130;

/// The most variants of one key.
pub const VARIANTS_MAX: usize = 32;

/// The head of a response that others get too.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its headers as they go out, with places for `Age`, `Cache-Status` and `X-Request-Id`.
    pub headers: HeaderMap,
    /// How long its body is, if that is known.
    pub length: Option<usize>,
    /// Which request headers chose it.
    pub vary: Vec<HeaderName>,
    /// What tells it apart from other variants.
    pub variant: Box<[u8]>,
    /// What it may be used for.
    pub terms: Terms,
    /// How old it was when it was received.
    pub initial_age: Duration,
    /// When it was received.
    pub received: Instant,
    /// The same, by the time of day.
    pub received_at: SystemTime,
    /// The epoch of purges in which it was asked for.
    pub epoch: u64,
    /// The same, of unsafe requests.
    pub since: Since,
    /// Names by which it can be purged.
    pub tags: Box<[Box<str>]>,
    /// What hits say of it.
    pub said: Said,
}

/// What hits say at an age of so many seconds. Where they come often it is made once per second, and not for each.
#[derive(Debug, Default)]
pub struct Said {
    /// The age at the latest hit: what is hit less than once per second keeps nothing.
    latest: AtomicU64,
    kept: ArcSwapOption<(u64, Told)>,
}

/// `Age` and `Cache-Status`.
type Told = (HeaderValue, HeaderValue);

impl Said {
    fn at(&self, age: u64, make: impl FnOnce() -> Told) -> Told {
        if let Some(kept) = &*self.kept.load()
            && kept.0 == age
        {
            return kept.1.clone();
        }
        let told = make();
        if self.latest.swap(age, Ordering::Relaxed) == age {
            self.kept.store(Some(Arc::new((age, told.clone()))));
        }
        told
    }
}

impl Head {
    /// How old it is.
    pub fn age(&self, now: Instant) -> Duration {
        self.initial_age + now.saturating_duration_since(self.received)
    }

    /// How long it is fresh yet; below zero, for how long it has not been.
    pub fn ttl(&self, now: Instant) -> i64 {
        self.ttl_at(self.age(now))
    }

    fn ttl_at(&self, age: Duration) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        seconds(self.terms.lifetime) - seconds(age)
    }

    /// The answer to a request with these conditions, `body` being its whole.
    pub fn answer(&self, body: Whole, ask: &Ask<'_>, status: Status) -> Response<Body> {
        let part = match ask.conditions {
            Some(conditions) => {
                conditions.part(self.status, &self.headers, body.length(), self.received_at, !ask.is_head)
            }
            None => Part::Whole,
        };
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        let headers = response.headers_mut();
        let age = self.age(ask.now);
        let make = || (number(age.as_secs()), status.value(self.ttl_at(age)));
        let (age, status) = if status == Status::Hit { self.said.at(age.as_secs(), make) } else { make() };
        // Both have their places already: a walk of so small a map costs half of two look-ups.
        for (name, value) in headers.iter_mut() {
            if *name == header::AGE {
                value.clone_from(&age);
            } else if *name == CACHE_STATUS {
                value.clone_from(&status);
            }
        }
        match part {
            Part::Whole => {
                if ask.is_head {
                    if let Some(length) = self.length {
                        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                    }
                } else {
                    *response.body_mut() = body.into();
                }
            }
            Part::NotModified => {
                without_content(headers);
                *response.status_mut() = StatusCode::NOT_MODIFIED;
            }
            Part::Bytes(range) => {
                // Only what is here whole has a length that ranges are cut from.
                if let Whole::Here(bytes) = body {
                    let value = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
                    headers.extend(HeaderValue::try_from(value).ok().map(|value| (header::CONTENT_RANGE, value)));
                    *response.body_mut() = Body::full(bytes.slice(range));
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                }
            }
            Part::OutOfRange => {
                without_content(headers);
                // What is said of the response as a whole is not true of this one, least of all how long it may be stored.
                for name in [header::EXPIRES, header::ETAG, header::LAST_MODIFIED] {
                    headers.remove(name);
                }
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                let value = format!("bytes */{}", body.length().unwrap_or_default());
                headers.extend(HeaderValue::try_from(value).ok().map(|value| (header::CONTENT_RANGE, value)));
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            }
        }
        response
    }
}

/// A number as a header's value.
fn number(number: u64) -> HeaderValue {
    let digits = Bytes::copy_from_slice(Decimal::of(number).as_bytes());
    HeaderValue::from_maybe_shared(digits).unwrap_or(HeaderValue::from_static("0"))
}

/// RFC 9110 §15.4.5: no more than what tells of the response as a whole.
fn without_content(headers: &mut HeaderMap) {
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LENGTH,
        header::ACCEPT_RANGES,
    ] {
        headers.remove(name);
    }
}

/// What of a request decides on its answer.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// What it has already. `None`: nothing.
    pub conditions: Option<&'a Conditions>,
    /// It wants the head only.
    pub is_head: bool,
    /// Now.
    pub now: Instant,
}

/// The whole body of a response.
pub enum Whole {
    /// All of it.
    Here(Bytes),
    /// As it comes.
    Coming(Body),
}

impl Whole {
    fn length(&self) -> Option<usize> {
        match self {
            Self::Here(bytes) => Some(bytes.len()),
            Self::Coming(_) => None,
        }
    }
}

impl From<Whole> for Body {
    fn from(whole: Whole) -> Self {
        match whole {
            Whole::Here(bytes) => Body::full(bytes),
            Whole::Coming(body) => body,
        }
    }
}

/// Headers that are written into each answer, with room for what limits say and one to spare: a map that is full grows.
const WRITTEN: usize = 6;

/// A head in as few bytes as it takes: values that share the buffer that they were read into would keep it.
pub fn compact(headers: &HeaderMap) -> HeaderMap {
    let length: usize = headers.values().map(HeaderValue::len).sum();
    let mut bytes = BytesMut::with_capacity(length);
    for value in headers.values() {
        bytes.extend_from_slice(value.as_bytes());
    }
    let mut bytes = bytes.freeze();
    // With places for what is written into each answer, so that no copy has to grow.
    let mut compact = HeaderMap::with_capacity(headers.len() + WRITTEN);
    for (name, value) in headers {
        let is_sensitive = value.is_sensitive();
        // They were values before.
        if let Ok(mut value) = HeaderValue::from_maybe_shared(bytes.split_to(value.len())) {
            value.set_sensitive(is_sensitive);
            compact.append(name.clone(), value);
        }
    }
    compact.insert(header::AGE, HeaderValue::from_static("0"));
    compact.insert(CACHE_STATUS.clone(), HeaderValue::from_static("armiger"));
    // Every answer has one of its own, which takes this one's place: a copy of a map has room for no more than is in it.
    compact.insert(&X_REQUEST_ID, HeaderValue::from_static("-"));
    compact
}

/// A response that is stored.
#[derive(Debug)]
pub struct Entry {
    /// Its head.
    pub head: Arc<Head>,
    /// Its body.
    pub body: Bytes,
    /// The epoch of purges up to which its fate is known.
    checked: AtomicU64,
    is_soft: AtomicBool,
}

impl Entry {
    /// One of these.
    pub fn new(head: Arc<Head>, body: Bytes) -> Self {
        let checked = AtomicU64::new(head.epoch);
        Self { head, body, checked, is_soft: AtomicBool::new(false) }
    }

    /// What purges made of it. Asked once per purge, whatever that was about.
    pub fn fate(&self, key: &[u8], purges: &Purges) -> Fate {
        let epoch = purges.epoch();
        if self.checked.load(Ordering::Acquire) < epoch {
            match purges.fate(self.head.epoch, Target::of(key).as_ref(), &self.head.tags) {
                Fate::Dead => return Fate::Dead,
                Fate::Stale => self.is_soft.store(true, Ordering::Release),
                Fate::Good => {}
            }
            self.checked.store(epoch, Ordering::Release);
        }
        if self.is_soft.load(Ordering::Acquire) { Fate::Stale } else { Fate::Good }
    }

    /// It counts as stale from now on.
    pub fn soften(&self) {
        self.is_soft.store(true, Ordering::Release);
    }

    fn weight(&self) -> usize {
        let head = &self.head;
        let headers: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum();
        let tags: usize = head.tags.iter().map(|tag| tag.len() + 16).sum();
        ENTRY_BYTES + self.body.len() + headers + tags + head.variant.len()
    }
}

/// All that is known under one key.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// Which request headers chose among the variants.
    pub vary: Vec<HeaderName>,
    /// The variants, the newest last.
    pub variants: SmallVec<[Arc<Entry>; 1]>,
    /// Until when nobody need wait for others, as the last response was none to store.
    pub pass_until: Option<Instant>,
    /// Why.
    pub why: Option<Unstorable>,
    /// What it takes in memory.
    pub weight: u32,
}

impl Shelf {
    /// The variant of this.
    pub fn find(&self, variant: &[u8]) -> Option<&Arc<Entry>> {
        self.variants.iter().find(|entry| *entry.head.variant == *variant)
    }

    /// With one more variant, which takes the place of what is of its kind.
    #[must_use]
    pub fn with(&self, entry: Arc<Entry>, key: &[u8]) -> Self {
        let mut variants: SmallVec<[Arc<Entry>; 1]> = SmallVec::new();
        // Another list of headers makes another index.
        if self.vary == entry.head.vary {
            variants.extend(self.variants.iter().filter(|other| other.head.variant != entry.head.variant).cloned());
        }
        while variants.len() >= VARIANTS_MAX {
            variants.remove(0);
        }
        let vary = entry.head.vary.clone();
        variants.push(entry);
        Self { vary, variants, pass_until: None, why: None, weight: 0 }.weighed(key)
    }

    /// Without this variant, and for a while without waiting.
    #[must_use]
    pub fn passing(&self, variant: Option<&Arc<Entry>>, until: Instant, why: Unstorable, key: &[u8]) -> Self {
        let mut shelf = self.clone();
        if let Some(variant) = variant {
            shelf.variants.retain(|entry| !Arc::ptr_eq(entry, variant));
        }
        (shelf.pass_until, shelf.why) = (Some(until), Some(why));
        shelf.weighed(key)
    }

    /// With a word on why nothing is stored.
    #[must_use]
    pub fn told(&self, why: Unstorable, key: &[u8]) -> Self {
        Self { why: Some(why), ..self.clone() }.weighed(key)
    }

    fn weighed(mut self, key: &[u8]) -> Self {
        let variants: usize = self.variants.iter().map(|entry| entry.weight()).sum();
        let least = if self.variants.is_empty() { ENTRY_BYTES / 2 } else { 0 };
        self.weight = u32::try_from(variants + least + 2 * key.len() + 32 * self.vary.len()).unwrap_or(u32::MAX);
        self
    }
}

/// The names that a response can be purged by, and its headers without them unless they are kept.
pub fn tags(headers: &mut HeaderMap, are_kept: bool) -> Box<[Box<str>]> {
    let mut tags: Vec<Box<str>> = Vec::new();
    for (name, separators) in [(&SURROGATE_KEY, &[' '][..]), (&CACHE_TAG, &[',', ' '][..])] {
        for line in headers.get_all(name).iter().filter_map(|line| line.to_str().ok()) {
            let words = line.split(separators).filter(|word| !word.is_empty() && word.len() <= TAG_BYTES_MAX);
            tags.extend(words.take(TAGS_MAX.saturating_sub(tags.len())).map(Box::from));
        }
        if !are_kept {
            headers.remove(name);
        }
    }
    tags.sort();
    tags.dedup();
    tags.into()
}

static SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
static CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// The most tags of a response; more are not heeded.
const TAGS_MAX: usize = 64;

/// The longest tag.
const TAG_BYTES_MAX: usize = 256;

/// Which request headers chose a response, if that is known when a request comes.
pub fn foreseen(vary: Vary) -> Option<Vec<HeaderName>> {
    match vary {
        // The host is part of every key.
        Vary::On(names) => Some(names.into_iter().filter(|name| *name != header::HOST).collect()),
        Vary::Any => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hits_say_is_made_anew_with_each_second() {
        let (said, mut made) = (Said::default(), 0);
        let mut at = |age| {
            let told = said.at(age, || {
                made += 1;
                (number(age), Status::Hit.value(60 - age as i64))
            });
            (told.0.to_str().unwrap().to_owned(), told.1.to_str().unwrap().to_owned())
        };
        for age in [1, 1, 1, 1, 2, 3, 2] {
            assert_eq!(at(age), (age.to_string(), format!("armiger; hit; ttl={}", 60 - age)));
        }
        assert_eq!(made, 5, "the second hit of a second keeps it, for as long as that second is");
    }
}
