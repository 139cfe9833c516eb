//! Requests in flight, by key: a bounded number at once, and a bounded queue of those who wait for a place.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, DefaultHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Locks. Few: a place is held much longer than a lock.
const SHARDS: usize = 16;

/// Places in flight of one limit, over all workers. There are no more keys than requests in flight.
#[derive(Default)]
pub struct Flights {
    shards: [Mutex<HashMap<u64, Slot>>; SHARDS],
    hashing: RandomState,
}

#[derive(Default)]
struct Slot {
    taken: u32,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// A place in flight, given back on drop: to whoever has waited longest.
pub struct Permit {
    flights: Option<Arc<Flights>>,
    hash: u64,
}

/// What came of asking for a place.
pub enum Asked {
    /// It is there.
    Taken(Permit),
    /// It may come.
    Queued(oneshot::Receiver<Permit>),
    /// All are taken, and as many wait as may.
    Full,
}

impl Flights {
    /// What makes hashes of keys.
    pub fn hasher(&self) -> DefaultHasher {
        self.hashing.build_hasher()
    }

    fn lock(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Slot>> {
        self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of `max` places of a key, or one in its queue of `queue_max`.
    pub fn take(self: &Arc<Self>, hash: u64, max: u32, queue_max: u32) -> Asked {
        let mut slots = self.lock(hash);
        let slot = slots.entry(hash).or_default();
        if slot.taken < max {
            slot.taken += 1;
            drop(slots);
            return Asked::Taken(Permit { flights: Some(self.clone()), hash });
        }
        // Those who gave up make room.
        slot.waiting.retain(|waiter| !waiter.is_closed());
        if slot.waiting.len() >= queue_max as usize {
            return Asked::Full;
        }
        let (sender, receiver) = oneshot::channel();
        slot.waiting.push_back(sender);
        Asked::Queued(receiver)
    }

    /// How many places of a key are taken.
    pub fn count(&self, hash: u64) -> u32 {
        self.lock(hash).get(&hash).map_or(0, |slot| slot.taken)
    }

    /// How many keys have a request in flight.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(flights) = self.flights.take() else { return };
        loop {
            let mut slots = flights.lock(self.hash);
            let Some(slot) = slots.get_mut(&self.hash) else { return };
            let Some(waiter) = slot.waiting.pop_front() else {
                slot.taken = slot.taken.saturating_sub(1);
                if slot.taken == 0 {
                    slots.remove(&self.hash);
                }
                return;
            };
            drop(slots);
            // The place changes hands. A permit that arrives nowhere is dropped there, and comes back here.
            match waiter.send(Permit { flights: Some(flights.clone()), hash: self.hash }) {
                Ok(()) => return,
                Err(mut unwanted) => unwanted.flights = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(asked: Asked) -> Permit {
        match asked {
            Asked::Taken(permit) => permit,
            _ => panic!("there was a place"),
        }
    }

    fn queued(asked: Asked) -> oneshot::Receiver<Permit> {
        match asked {
            Asked::Queued(receiver) => receiver,
            _ => panic!("there was a place in the queue"),
        }
    }

    #[test]
    fn places_are_bounded_by_key_and_leave_nothing_behind() {
        let flights = Arc::new(Flights::default());
        let (first, second) = (taken(flights.take(1, 2, 0)), taken(flights.take(1, 2, 0)));
        assert!(matches!(flights.take(1, 2, 0), Asked::Full));
        let other = taken(flights.take(2, 2, 0));
        drop(first);
        let third = taken(flights.take(1, 2, 0));
        drop((second, third, other));
        assert_eq!((flights.count(1), flights.keys()), (0, 0));
    }

    #[test]
    fn who_waits_longest_comes_first_and_who_gave_up_is_passed_over() {
        let flights = Arc::new(Flights::default());
        let first = taken(flights.take(1, 1, 2));
        let mut gone = queued(flights.take(1, 1, 2));
        let mut next = queued(flights.take(1, 1, 2));
        assert!(matches!(flights.take(1, 1, 2), Asked::Full));
        gone.close();
        let mut last = queued(flights.take(1, 1, 2));
        drop(first);
        let permit = next.try_recv().expect("it is its turn");
        assert!(last.try_recv().is_err());
        // It is dropped together with what was on its way to it.
        drop(permit);
        drop(last);
        assert_eq!(flights.keys(), 0);
    }

    #[test]
    fn racing_callers_never_have_more_places_than_there_are() {
        let flights = Arc::new(Flights::default());
        let most = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        match flights.take(7, 3, 2) {
                            Asked::Taken(permit) => {
                                most.fetch_max(flights.count(7), std::sync::atomic::Ordering::Relaxed);
                                drop(permit);
                            }
                            Asked::Queued(receiver) => drop(receiver.blocking_recv()),
                            Asked::Full => {}
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3);
        assert_eq!(flights.keys(), 0);
    }
}
