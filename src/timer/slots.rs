//! The wheel without a runtime: entries, buckets and a time that is handed in.

use std::task::Waker;
use std::time::{Duration, Instant};

use super::{TICK, TICK_NANOS, TICKS_PER_SECOND};

/// Buckets of the wheel; 4,096 ticks are 41 s, so that the usual deadlines are looked at once.
pub(super) const BUCKETS: u64 = 4_096;

/// The index that stands for "no entry".
const NIL: u32 = u32::MAX;

/// The tick at which an unarmed timer is due.
pub(super) const UNARMED: u64 = u64::MAX;

/// The latest tick a timer can be armed for; stands for deadlines the clock cannot express.
pub(super) const FOREVER: u64 = u64::MAX - 1;

/// Entries that stay allocated when the last timer is gone; a burst's memory is given back.
const SPARE_ENTRIES: usize = 1_024;

/// One timer's place in the wheel.
pub(super) struct Entry {
    /// The tick at which the timer expires; `UNARMED` without a deadline.
    pub(super) due: u64,
    /// The tick whose bucket holds the entry; never later than `due`. Meaningful while `linked`.
    pub(super) queued: u64,
    previous: u32,
    /// The next entry of the bucket, or of the free list.
    next: u32,
    pub(super) linked: bool,
    pub(super) expired: bool,
    pub(super) waker: Option<Waker>,
}

impl Entry {
    const FREE: Entry =
        Entry { due: UNARMED, queued: 0, previous: NIL, next: NIL, linked: false, expired: false, waker: None };
}

/// The wheel without a runtime: entries, buckets and a time that is handed in.
pub(super) struct Slots {
    pub(super) epoch: Instant,
    /// Every tick up to this one has been worked off.
    pub(super) current: u64,
    /// The first entry of each bucket.
    heads: Box<[u32]>,
    pub(super) entries: Vec<Entry>,
    free: u32,
    live: usize,
    pub(super) armed: usize,
}

impl Slots {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            current: 0,
            heads: vec![NIL; BUCKETS as usize].into_boxed_slice(),
            entries: Vec::new(),
            free: NIL,
            live: 0,
            armed: 0,
        }
    }

    pub(super) fn entry(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }

    pub(super) fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// The first tick that is not before `at`: firing then is never early.
    pub(super) fn tick_at_or_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        let whole = since.as_secs().saturating_mul(TICKS_PER_SECOND);
        whole.saturating_add(u64::from(since.subsec_nanos().div_ceil(TICK_NANOS))).min(FOREVER)
    }

    /// The last tick that is not after `now`.
    fn tick_at_or_before(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        since.as_secs().saturating_mul(TICKS_PER_SECOND) + u64::from(since.subsec_nanos() / TICK_NANOS)
    }

    pub(super) fn time_of(&self, tick: u64) -> Instant {
        self.epoch + Duration::from_secs(tick / TICKS_PER_SECOND) + TICK * (tick % TICKS_PER_SECOND) as u32
    }

    pub(super) fn insert(&mut self) -> u32 {
        self.live += 1;
        if self.free == NIL {
            self.entries.push(Entry::FREE);
            return u32::try_from(self.entries.len() - 1).expect("fewer than four billion timers fit into memory");
        }
        let slot = self.free;
        self.free = std::mem::replace(&mut self.entry_mut(slot).next, NIL);
        slot
    }

    /// Frees the entry; the waker is the caller's to drop, outside of any borrow.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Waker> {
        self.disarm(slot);
        self.unlink(slot);
        let free = self.free;
        let gone = std::mem::replace(self.entry_mut(slot), Entry { next: free, ..Entry::FREE });
        self.free = slot;
        self.live -= 1;
        if self.live == 0 && self.entries.len() > SPARE_ENTRIES {
            self.entries = Vec::new();
            self.free = NIL;
        }
        gone.waker
    }

    /// Sets the deadline; gives the waker back if it has passed already.
    pub(super) fn arm(&mut self, slot: u32, due: u64) -> Option<Waker> {
        let (current, farthest) = (self.current, self.farthest());
        let entry = self.entry_mut(slot);
        let was_armed = entry.due != UNARMED;
        if due <= current {
            entry.due = UNARMED;
            entry.expired = true;
            let waker = entry.waker.take();
            self.armed -= usize::from(was_armed);
            return waker;
        }
        entry.due = due;
        entry.expired = false;
        let stays = entry.linked && entry.queued <= due;
        self.armed += usize::from(!was_armed);
        if !stays {
            self.unlink(slot);
            self.link(slot, due.min(farthest));
        }
        None
    }

    /// Takes the deadline back. The entry stays in its bucket, where the next arming most often finds it in place.
    pub(super) fn disarm(&mut self, slot: u32) {
        let entry = self.entry_mut(slot);
        let was_armed = std::mem::replace(&mut entry.due, UNARMED) != UNARMED;
        entry.expired = false;
        self.armed -= usize::from(was_armed);
    }

    /// The last tick that has a bucket of its own; later deadlines wait there and are moved on.
    fn farthest(&self) -> u64 {
        self.current.saturating_add(BUCKETS - 1)
    }

    fn link(&mut self, slot: u32, tick: u64) {
        let bucket = bucket_of(tick);
        let head = std::mem::replace(&mut self.heads[bucket], slot);
        if head != NIL {
            self.entry_mut(head).previous = slot;
        }
        let entry = self.entry_mut(slot);
        entry.queued = tick;
        entry.previous = NIL;
        entry.next = head;
        entry.linked = true;
    }

    fn unlink(&mut self, slot: u32) {
        let entry = self.entry_mut(slot);
        if !entry.linked {
            return;
        }
        entry.linked = false;
        let (previous, next, bucket) = (entry.previous, entry.next, bucket_of(entry.queued));
        if previous == NIL {
            self.heads[bucket] = next;
        } else {
            self.entry_mut(previous).next = next;
        }
        if next != NIL {
            self.entry_mut(next).previous = previous;
        }
    }

    /// Moves the time on, collecting the wakers of what expired. Visits each bucket at most once.
    pub(super) fn advance(&mut self, now: Instant, fired: &mut Vec<Waker>) {
        let target = self.tick_at_or_before(now);
        if target <= self.current {
            return;
        }
        let first = self.current + 1;
        let last = target.min(self.farthest());
        // Set before the walk, so that entries which move on are placed ahead of the new time.
        self.current = target;
        for tick in first..=last {
            // The list is taken off first: an entry that moves on may land in this very bucket.
            let mut slot = std::mem::replace(&mut self.heads[bucket_of(tick)], NIL);
            while slot != NIL {
                let farthest = self.farthest();
                let entry = self.entry_mut(slot);
                let next = entry.next;
                entry.linked = false;
                if entry.due <= target {
                    entry.due = UNARMED;
                    entry.expired = true;
                    fired.extend(entry.waker.take());
                    self.armed -= 1;
                } else if entry.due != UNARMED {
                    let due = entry.due;
                    self.link(slot, due.min(farthest));
                }
                slot = next;
            }
        }
    }

    /// The next tick whose bucket holds an entry.
    pub(super) fn next_occupied(&self) -> Option<u64> {
        let first = self.current.saturating_add(1);
        (first..=self.farthest()).find(|tick| self.heads[bucket_of(*tick)] != NIL)
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS) as usize
}
