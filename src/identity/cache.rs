//! Tokens that were found good, by their digest: a known token costs no signature check.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::exchange::Identity;

/// How long a token is remembered that nobody sends any more.
const IDLE: Duration = Duration::from_secs(300);

/// A token's digest. Of the whole token: of two that differ in their signature alone, one may be a forgery.
pub type Digest = [u8; 32];

/// The digest of a token.
pub fn digest(token: &str) -> Digest {
    Sha256::digest(token).into()
}

/// Tokens of one provider that were found good.
pub struct Known(Option<Cache<Digest, Entry, foldhash::fast::RandomState>>);

#[derive(Clone)]
struct Entry {
    identity: Arc<Identity>,
    stamp: u64,
    weight: u32,
}

impl Known {
    /// Room for this many bytes.
    pub fn new(bytes: u64) -> Self {
        let cache = || {
            Cache::builder()
                .max_capacity(bytes)
                .weigher(|_, entry: &Entry| entry.weight)
                .time_to_idle(IDLE)
                .build_with_hasher(foldhash::fast::RandomState::default())
        };
        Self((bytes > 0).then(cache))
    }

    /// Whose token it is, if it was found good by keys of this stamp and still is at `now`.
    pub fn find(&self, digest: &Digest, stamp: u64, now: i64) -> Option<Arc<Identity>> {
        let entry = self.0.as_ref()?.get(digest)?;
        let is_good = entry.stamp == stamp && entry.identity.expires.is_none_or(|until| now < until);
        is_good.then_some(entry.identity)
    }

    /// Remembers a token of `length` bytes.
    pub fn remember(&self, digest: Digest, length: usize, stamp: u64, identity: Identity) -> Arc<Identity> {
        let identity = Arc::new(identity);
        if let Some(cache) = &self.0 {
            // Parsed claims take several times the room of their text, and the cache's own books some more.
            let weight = u32::try_from(512 + 4 * length).unwrap_or(u32::MAX);
            cache.insert(digest, Entry { identity: identity.clone(), stamp, weight });
        }
        identity
    }
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
        let one = digest("a.b.c");
        known.remember(one, 5, 7, verified(100));
        assert_eq!(&*known.find(&one, 7, 99).unwrap().subject, "ada");
        assert!(known.find(&one, 7, 100).is_none(), "it has ended");
        assert!(known.find(&one, 8, 99).is_none(), "the keys have changed");
        assert!(known.find(&digest("a.b.d"), 7, 99).is_none(), "another signature is another token");
    }

    #[test]
    fn nothing_is_kept_where_there_is_no_room() {
        let known = Known::new(0);
        let one = digest("a.b.c");
        assert_eq!(&*known.remember(one, 5, 7, verified(100)).subject, "ada");
        assert!(known.find(&one, 7, 99).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded_by_its_weight() {
        let known = Known::new(64 << 10);
        for number in 0..1_000 {
            known.remember(digest(&number.to_string()), 512, 7, verified(100));
        }
        let cache = known.0.unwrap();
        cache.run_pending_tasks();
        assert!(cache.weighted_size() <= 64 << 10 && cache.entry_count() <= 25, "{}", cache.entry_count());
    }
}
