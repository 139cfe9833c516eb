//! Tokens that were found good: a known token costs no signature check.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::exchange::Identity;

/// How long a token is remembered that nobody sends any more.
const IDLE: Duration = Duration::from_secs(300);

/// The digest of a credential, where only that is kept.
pub type Digest = [u8; 32];

/// The digest of a credential.
pub fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// Tokens of one provider that were found good.
///
/// A hash finds the place, and the whole token decides: of two that differ in their signature alone, one may be a forgery.
/// The hash is seeded anew in each process, so nobody can make two tokens share a place; if two do, the later one stays.
pub struct Known(Option<Places>);

struct Places {
    entries: Cache<u64, Arc<Entry>, foldhash::fast::RandomState>,
    hashing: foldhash::fast::RandomState,
}

struct Entry {
    token: Box<str>,
    identity: Arc<Identity>,
    stamp: u64,
}

impl Known {
    /// Room for this many bytes.
    pub fn new(bytes: u64) -> Self {
        let places = || Places {
            entries: Cache::builder()
                .max_capacity(bytes)
                .weigher(|_, entry: &Arc<Entry>| weight(&entry.token))
                .time_to_idle(IDLE)
                .build_with_hasher(foldhash::fast::RandomState::default()),
            hashing: foldhash::fast::RandomState::default(),
        };
        Self((bytes > 0).then(places))
    }

    /// Whose token it is, if it was found good by keys of this stamp and still is at `now`.
    pub fn find(&self, token: &str, stamp: u64, now: i64) -> Option<Arc<Identity>> {
        let places = self.0.as_ref()?;
        let entry = places.entries.get(&places.place(token))?;
        // In constant time, so that no answer's time tells how much of a guess was right.
        verify_slices_are_equal(entry.token.as_bytes(), token.as_bytes()).ok()?;
        let is_good = entry.stamp == stamp && entry.identity.expires.is_none_or(|until| now < until);
        is_good.then(|| entry.identity.clone())
    }

    /// Remembers a token.
    pub fn remember(&self, token: &str, stamp: u64, identity: Identity) -> Arc<Identity> {
        let identity = Arc::new(identity);
        if let Some(places) = &self.0 {
            let entry = Entry { token: token.into(), identity: identity.clone(), stamp };
            places.entries.insert(places.place(token), Arc::new(entry));
        }
        identity
    }
}

impl Places {
    fn place(&self, token: &str) -> u64 {
        self.hashing.hash_one(token.as_bytes())
    }
}

/// The token itself; its claims, which take several times the room of their text once they are parsed; and the cache's own
/// books.
fn weight(token: &str) -> u32 {
    u32::try_from(512 + 5 * token.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(until: i64) -> Identity {
        Identity { subject: "ada".into(), expires: Some(until), ..Identity::default() }
    }

    #[test]
    fn a_token_is_known_until_it_ends_and_by_the_keys_that_found_it_good() {
        let known = Known::new(1 << 20);
        known.remember("a.b.c", 7, verified(100));
        assert_eq!(&*known.find("a.b.c", 7, 99).unwrap().subject, "ada");
        assert!(known.find("a.b.c", 7, 100).is_none(), "it has ended");
        assert!(known.find("a.b.c", 8, 99).is_none(), "the keys have changed");
        assert!(known.find("a.b.d", 7, 99).is_none(), "another signature is another token");
    }

    #[test]
    fn a_token_at_the_place_of_another_is_not_known() {
        let known = Known::new(1 << 20);
        let places = known.0.as_ref().unwrap();
        let entry = Entry { token: "a.b.d".into(), identity: Arc::new(verified(100)), stamp: 7 };
        places.entries.insert(places.place("a.b.c"), Arc::new(entry));
        assert!(known.find("a.b.c", 7, 99).is_none());
    }

    #[test]
    fn nothing_is_kept_where_there_is_no_room() {
        let known = Known::new(0);
        assert_eq!(&*known.remember("a.b.c", 7, verified(100)).subject, "ada");
        assert!(known.find("a.b.c", 7, 99).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded_by_its_weight() {
        let known = Known::new(64 << 10);
        for number in 0..1_000 {
            known.remember(&format!("{number:0512}"), 7, verified(100));
        }
        let cache = known.0.unwrap().entries;
        cache.run_pending_tasks();
        assert!(cache.weighted_size() <= 64 << 10 && cache.entry_count() <= 25, "{}", cache.entry_count());
    }
}
