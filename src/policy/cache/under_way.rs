//! What is under way: bytes on their way in, and refreshes. It outlives stores, so that what began before a reload gives another
//! room counts with what comes after it: the bounds are the process's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::keep::{Identity, Keep};

/// How much of it there is.
#[derive(Default)]
pub struct UnderWay {
    /// Bytes that are on their way in.
    filling: AtomicU64,
    /// Refreshes.
    refreshing: AtomicU64,
}

impl UnderWay {
    /// That of all routes. To be asked for with each snapshot, as `Fates` is.
    pub fn kept(keeper: &mut (dyn Keep + '_)) -> Arc<Self> {
        keeper.keep(Identity::of("cache_under_way", "all routes").untold(), Self::default)
    }

    /// Bytes that are on their way in.
    pub fn filling(&self) -> u64 {
        self.filling.load(Ordering::Relaxed)
    }

    /// Refreshes.
    pub fn refreshing(&self) -> u64 {
        self.refreshing.load(Ordering::Relaxed)
    }

    /// Room for a refresh, unless `max` are under way.
    pub fn refresh(self: &Arc<Self>, max: u64) -> Option<Refresh> {
        // Counted first and given back by the guard's drop: two that race for the last place cannot both have it.
        let refresh = Refresh(self.clone());
        (self.refreshing.fetch_add(1, Ordering::Relaxed) < max).then_some(refresh)
    }

    /// Room for what is on its way in, of at most `max` bytes in all.
    pub fn reserve(self: &Arc<Self>, max: u64) -> Reserved {
        Reserved { under_way: self.clone(), bytes: 0, max }
    }
}

/// Room for a refresh, given back on drop.
pub struct Refresh(Arc<UnderWay>);

impl Drop for Refresh {
    fn drop(&mut self) {
        self.0.refreshing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes on their way in, given back on drop.
pub struct Reserved {
    under_way: Arc<UnderWay>,
    bytes: u64,
    max: u64,
}

impl Reserved {
    /// Takes room for so many more bytes. Whether there is.
    pub fn grow(&mut self, by: u64) -> bool {
        self.bytes += by;
        self.under_way.filling.fetch_add(by, Ordering::Relaxed) + by <= self.max
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.under_way.filling.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;
    use crate::keep::Keeper;

    #[test]
    fn fills_and_refreshes_have_places_that_are_given_back() {
        let under_way = Arc::new(UnderWay::default());
        let (mut one, mut other) = (under_way.reserve(10), under_way.reserve(10));
        assert!(one.grow(6) && !other.grow(6));
        drop((one, other));
        assert!(under_way.reserve(10).grow(10));
        let first = under_way.refresh(1);
        assert!(first.is_some() && under_way.refresh(1).is_none());
        drop(first);
        assert!(under_way.refresh(1).is_some());
    }

    /// A reload that gives caches another room does not give what fills them room twice.
    #[test]
    fn a_store_and_the_one_after_it_have_one_bound() {
        let mut keeper = Keeper::fresh();
        let old = Store::kept(1 << 20, &mut keeper);
        let (kept, _) = keeper.finish();
        let (mut filling, refresh) = (old.under_way.reserve(10), old.under_way.refresh(1));
        assert!(filling.grow(6) && refresh.is_some());

        let new = Store::kept(2 << 20, &mut Keeper::after(&kept));

        assert!(!Arc::ptr_eq(&old, &new));
        assert!(!new.under_way.reserve(10).grow(6) && new.under_way.refresh(1).is_none());
        drop((filling, refresh));
        assert!(new.under_way.reserve(10).grow(10) && new.under_way.refresh(1).is_some());
    }
}
