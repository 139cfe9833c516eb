//! Bringing a stored response up to date by what the upstream tells of it without its body: a 304, or the answer to a HEAD
//! (RFC 9111 §4.3.4, §4.3.5).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, header};

use super::control::{Control, Vary};
use super::entry::{Entry, Head, compact, foreseen, tags};
use super::fill::Rules;
use super::freshness::initial_age;
use super::invalid::Since;
use super::storable::{Asked, Unstorable, judge, strip};
use super::validate;

/// When the upstream was asked, and told it.
pub struct Told {
    /// Now.
    pub now: Instant,
    /// The same, by the time of day.
    pub time: SystemTime,
    /// How long ago it was asked.
    pub delay: Duration,
    /// The epoch of purges when it was asked.
    pub epoch: u64,
    /// The same, of unsafe requests.
    pub since: Since,
}

/// The stored response with what is told of it.
///
/// # Errors
/// It is not to be stored any more.
pub fn freshened(
    rules: &Rules,
    stored: &Entry,
    told: &HeaderMap,
    asked: Asked,
    when: &Told,
) -> Result<Arc<Entry>, Unstorable> {
    // What a caller is told with its credentials may be about itself: it is for others only if it says so itself, and not
    // because what is stored says so.
    if asked.is_credentialed && !Control::of(told).is_for_all() {
        return Err(Unstorable::Credentials);
    }
    let old = &stored.head;
    let mut told = told.clone();
    let told_tags = tags(&mut told, false);
    let mut headers = validate::refreshed(&old.headers, &told);
    let control = Control::of(&headers);
    strip(&mut headers, &control);
    judge(old.status, &headers, &control, &Vary::of(&headers), asked)?;
    if told.contains_key(header::VARY) {
        // What chose it is known of the requests that it was for, and of nothing else.
        let names = foreseen(Vary::of(&told)).ok_or(Unstorable::Vary)?;
        let is_same = names.iter().all(|name| old.vary.contains(name))
            && old.vary.iter().all(|name| *name == header::ACCEPT_ENCODING || names.contains(name));
        if !is_same {
            return Err(Unstorable::Vary);
        }
    }
    let terms = rules.terms(old.status, &headers, &control, when.time)?;
    let head = Head {
        status: old.status,
        headers: compact(&headers),
        length: old.length,
        vary: old.vary.clone(),
        variant: old.variant.clone(),
        terms,
        initial_age: initial_age(&told, when.time, when.delay),
        received: when.now,
        received_at: when.time,
        epoch: when.epoch,
        since: when.since,
        tags: if told_tags.is_empty() { old.tags.clone() } else { told_tags },
        said: Default::default(),
    };
    Ok(Arc::new(Entry::new(Arc::new(head), stored.body.clone())))
}
