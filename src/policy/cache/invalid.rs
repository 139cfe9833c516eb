//! What unsafe requests made invalid (RFC 9111 §4.4): for each of a fixed number of places, the epoch of the last one. Two
//! targets that share a place are invalid together, which costs a fetch. A target has its place by its digest and a secret, the
//! same at every armiger that shares a memory and no other: who may send unsafe requests for one URL cannot choose it so that
//! it shares the place of another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use sha2::{Digest as _, Sha256};

use super::key::Target;
use super::purge::Fate;

/// Where the epoch of a target stands.
pub type Place = u16;

/// What tells targets apart, in short.
pub type Digest = u128;

/// How many places there are.
pub const PLACES: usize = 1 << Place::BITS;

/// When what was stored of a target became invalid.
pub struct Invalid {
    /// Once there was an unsafe request: a megabyte, which many never need.
    places: OnceLock<Box<[Mark]>>,
    epoch: AtomicU64,
    secret: ArcSwap<u128>,
}

/// The epochs of the last unsafe requests of a place. Beside each other, for both are looked at together.
#[derive(Default)]
struct Mark {
    /// Of those that succeeded.
    dead: AtomicU64,
    /// Of those of which nobody knows what became of them.
    stale: AtomicU64,
}

impl Default for Invalid {
    fn default() -> Self {
        Self { places: OnceLock::new(), epoch: AtomicU64::new(0), secret: ArcSwap::from_pointee(secret()) }
    }
}

/// Where the epoch of a target stands, and which it was when it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    place: Place,
    epoch: u64,
}

/// A number that nobody can guess.
pub fn secret() -> u128 {
    let mut bytes = [0; 16];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u128::from_le_bytes(bytes),
        // No source of such numbers: then one that is hard to guess.
        Err(_) => fastrand::u128(..),
    }
}

/// Where a target stands among those of all who know the secret.
pub fn place(secret: u128, digest: Digest) -> Place {
    let mut hash = Sha256::new();
    hash.update(secret.to_le_bytes());
    hash.update(digest.to_le_bytes());
    hash.finalize().first_chunk().map_or(0, |bytes| Place::from_le_bytes(*bytes))
}

impl Invalid {
    /// To be asked for before a fetch begins, and after the epoch of purges.
    pub fn since(&self, key: &[u8]) -> Since {
        let place = Target::of(key).map_or(0, |target| place(**self.secret.load(), target.digest()));
        Since { place, epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// From now on places are by another secret. All that was asked for before must be purged then.
    pub fn reseed(&self, secret: u128) {
        self.secret.store(Arc::new(secret));
    }

    /// What is of this target and was asked for before is invalid; if that is not certain, stale.
    pub fn change(&self, digest: Digest, is_soft: bool) {
        loop {
            let secret = self.secret.load_full();
            self.invalidate([(place(*secret, digest), is_soft)]);
            if Arc::ptr_eq(&secret, &self.secret.load()) {
                return;
            }
        }
    }

    /// The same of all that is of these places.
    pub fn invalidate(&self, places: impl IntoIterator<Item = (Place, bool)>) {
        let marks = self.places.get_or_init(|| (0..PLACES).map(|_| Mark::default()).collect());
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        for (place, is_soft) in places {
            let mark = &marks[usize::from(place)];
            let mark = if is_soft { &mark.stale } else { &mark.dead };
            mark.fetch_max(epoch, Ordering::AcqRel);
        }
    }

    /// What became of what was asked for then.
    pub fn fate(&self, since: Since) -> Fate {
        let Some(marks) = self.places.get() else { return Fate::Good };
        let mark = &marks[usize::from(since.place)];
        if mark.dead.load(Ordering::Acquire) > since.epoch {
            Fate::Dead
        } else if mark.stale.load(Ordering::Acquire) > since.epoch {
            Fate::Stale
        } else {
            Fate::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_before_an_unsafe_request_is_invalid() {
        let invalid = Invalid::default();
        let since = |place| Since { place, epoch: invalid.epoch.load(Ordering::Acquire) };
        let (before, doubtful, other) = (since(7), since(5), since(8));
        invalid.invalidate([(7, false), (9, false), (5, true)]);
        let fates = [before, doubtful, other, since(7), since(5)].map(|since| invalid.fate(since));
        assert_eq!(fates, [Fate::Dead, Fate::Stale, Fate::Good, Fate::Good, Fate::Good]);
        invalid.invalidate([(7, true)]);
        assert_eq!(invalid.fate(before), Fate::Dead, "what is dead stays so");
    }

    #[test]
    fn places_are_by_a_secret_that_may_change() {
        let (one, other) = (Invalid::default(), Invalid::default());
        let place = |invalid: &Invalid, digest| place(**invalid.secret.load(), digest);
        assert!((0..4).any(|digest| place(&one, digest) != place(&other, digest)));
        other.reseed(**one.secret.load());
        assert!((0..4).all(|digest| place(&one, digest) == place(&other, digest)));
    }
}
