//! What unsafe requests made invalid (RFC 9111 §4.4): for each of a fixed number of places, the epoch of the last one. A
//! target has a place by its hash; two that share one are invalid together, which costs a fetch and harms nobody.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use super::key::Target;

/// How many places there are.
const PLACES: usize = 16_384;

/// When what was stored of a target became invalid.
pub struct Invalid {
    places: Box<[AtomicU64]>,
    epoch: AtomicU64,
    hasher: foldhash::fast::RandomState,
}

impl Default for Invalid {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, epoch: AtomicU64::new(0), hasher: foldhash::fast::RandomState::default() }
    }
}

/// Where the epoch of a target stands, and which it was when it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    place: u32,
    epoch: u64,
}

impl Invalid {
    /// To be asked for before a fetch begins.
    pub fn since(&self, key: &[u8]) -> Since {
        Since {
            place: Target::of(key).map_or(0, |target| self.place(&target)),
            epoch: self.epoch.load(Ordering::Acquire),
        }
    }

    /// All that was asked for before is invalid.
    pub fn invalidate(&self, target: &Target<'_>) {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        self.places[self.place(target) as usize].fetch_max(epoch, Ordering::AcqRel);
    }

    /// Whether what was asked for then is valid.
    pub fn is_valid(&self, since: Since) -> bool {
        self.places.get(since.place as usize).is_some_and(|place| place.load(Ordering::Acquire) <= since.epoch)
    }

    fn place(&self, target: &Target<'_>) -> u32 {
        let hash = self.hasher.hash_one((target.host, target.path, target.query));
        (hash % PLACES as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_before_an_unsafe_request_is_invalid() {
        let invalid = Invalid::default();
        let target = |path| Target { host: "h", path, query: None };
        let since = |path| Since { place: invalid.place(&target(path)), epoch: invalid.epoch.load(Ordering::Acquire) };
        let before = since("/a");
        invalid.invalidate(&target("/a"));
        assert!(!invalid.is_valid(before) && invalid.is_valid(since("/a")));
        // One of these has another place, unless the hash is broken.
        let others: Vec<String> = (0..8).map(|number| format!("/{number}")).collect();
        let valid = others.iter().filter(|path| invalid.is_valid(Since { epoch: 0, ..since(path) })).count();
        assert!(valid > 0);
    }
}
