//! What unsafe requests made invalid (RFC 9111 §4.4): for each of a fixed number of places, the epoch of the last one. A
//! target has a place by its digest, the same at every armiger; two targets that share one are invalid together, which costs a
//! fetch and harms nobody.

use std::sync::atomic::{AtomicU64, Ordering};

use super::key::Target;

/// Where the epoch of a target stands.
pub type Place = u16;

/// How many places there are.
pub const PLACES: usize = 1 << Place::BITS;

/// When what was stored of a target became invalid.
pub struct Invalid {
    places: Box<[AtomicU64]>,
    epoch: AtomicU64,
}

impl Default for Invalid {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, epoch: AtomicU64::new(0) }
    }
}

/// Where the epoch of a target stands, and which it was when it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    place: Place,
    epoch: u64,
}

impl Invalid {
    /// To be asked for before a fetch begins.
    pub fn since(&self, key: &[u8]) -> Since {
        Since { place: Target::of(key).map_or(0, |target| target.place()), epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// All of these places that was asked for before is invalid.
    pub fn invalidate(&self, places: impl IntoIterator<Item = Place>) {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        for place in places {
            self.places[usize::from(place)].fetch_max(epoch, Ordering::AcqRel);
        }
    }

    /// Whether what was asked for then is valid.
    pub fn is_valid(&self, since: Since) -> bool {
        self.places[usize::from(since.place)].load(Ordering::Acquire) <= since.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_before_an_unsafe_request_is_invalid() {
        let invalid = Invalid::default();
        let since = |place| Since { place, epoch: invalid.epoch.load(Ordering::Acquire) };
        let (before, other) = (since(7), since(8));
        invalid.invalidate([7, 9]);
        assert!(!invalid.is_valid(before) && invalid.is_valid(since(7)) && invalid.is_valid(other));
    }
}
