//! A hash table of buckets that are not full: 16 bytes each, and it forgets by itself those that have become full.
//!
//! A full bucket is like one that was never there, so dropping it grants nothing; no other bucket is ever dropped. A
//! hand goes round the table, a few places with each new key, so that nothing has to be swept by a timer.

/// A table by hashes that are spread evenly already.
#[derive(Default)]
pub struct Table {
    /// Pairs of a hash and when the bucket will be full. A hash of 0 is a free place. Their number is a power of two.
    slots: Box<[(u64, u64)]>,
    len: usize,
    hand: usize,
}

/// The fewest places, once there is any.
const LEAST: usize = 16;

/// Places that the hand passes with each new key. More than one, so that it outruns growth.
const STEPS: usize = 4;

/// Places that the hand passes when there must be room.
const STEPS_MOST: usize = 64;

impl Table {
    /// How many buckets there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// When the bucket of this hash will be full. `None`: it is.
    pub fn get(&self, hash: u64) -> Option<u64> {
        self.find(hash).ok().map(|place| self.slots[place].1)
    }

    /// Changes the bucket of this hash, if it is there.
    pub fn set(&mut self, hash: u64, full: u64) -> bool {
        let Ok(place) = self.find(hash) else { return false };
        self.slots[place].1 = full;
        true
    }

    /// Puts a bucket in, unless there are `most` at `now` and none of those that are looked at is full.
    pub fn insert(&mut self, hash: u64, full: u64, now: u64, most: usize) -> bool {
        self.advance(STEPS, now);
        if self.len >= most {
            self.advance(STEPS_MOST, now);
        }
        if self.len >= most {
            return false;
        }
        // Three quarters: short ways to a place, and not much air.
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.retain(|full| (full > now).then_some(full));
            if (self.len + 1) * 2 > self.slots.len() {
                self.resize((self.slots.len() * 2).max(LEAST));
            }
        }
        match self.find(hash) {
            Ok(place) => self.slots[place].1 = full,
            Err(place) => {
                self.slots[place] = (key(hash), full);
                self.len += 1;
            }
        }
        true
    }

    /// Takes a bucket out.
    pub fn remove(&mut self, hash: u64) -> bool {
        let found = self.find(hash);
        if let Ok(place) = found {
            self.free(place);
        }
        found.is_ok()
    }

    /// Changes every bucket, or drops it.
    pub fn retain(&mut self, mut change: impl FnMut(u64) -> Option<u64>) {
        let slots = std::mem::take(&mut self.slots);
        let mut kept = vec![(0, 0); slots.len()].into_boxed_slice();
        self.len = 0;
        for (hash, full) in slots.iter().filter(|(hash, _)| *hash != 0) {
            if let Some(full) = change(*full) {
                put(&mut kept, *hash, full);
                self.len += 1;
            }
        }
        self.slots = kept;
    }

    /// Every bucket: its hash, and when it will be full.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.slots.iter().copied().filter(|(hash, _)| *hash != 0)
    }

    /// The place of a hash, or the free one where it would be.
    fn find(&self, hash: u64) -> Result<usize, usize> {
        let Some(mask) = self.slots.len().checked_sub(1) else { return Err(0) };
        let hash = key(hash);
        let mut place = home(hash, mask);
        // There is always a free place: a quarter of them at least.
        loop {
            match self.slots[place].0 {
                0 => return Err(place),
                held if held == hash => return Ok(place),
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// Moves the hand on, and drops full buckets that it comes by.
    fn advance(&mut self, steps: usize, now: u64) {
        for _ in 0..steps.min(self.slots.len()) {
            if self.hand >= self.slots.len() {
                self.hand = 0;
                if self.slots.len() > LEAST && self.len * 8 < self.slots.len() {
                    self.resize(self.slots.len() / 2);
                }
            }
            match self.slots[self.hand] {
                // Another one may come into its place, so the hand stays.
                (1.., full) if full <= now => self.free(self.hand),
                _ => self.hand += 1,
            }
        }
    }

    /// Frees a place, and closes the gap that others were put behind.
    fn free(&mut self, mut gap: usize) {
        let mask = self.slots.len() - 1;
        let mut place = gap;
        loop {
            place = (place + 1) & mask;
            let (hash, _) = self.slots[place];
            if hash == 0 {
                break;
            }
            // It may move into the gap if that is no further back than its home.
            let home = home(hash, mask);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(gap) & mask) {
                self.slots[gap] = self.slots[place];
                gap = place;
            }
        }
        self.slots[gap] = (0, 0);
        self.len -= 1;
    }

    fn resize(&mut self, places: usize) {
        let mut slots = vec![(0, 0); places].into_boxed_slice();
        for (hash, full) in self.iter() {
            put(&mut slots, hash, full);
        }
        self.slots = slots;
    }
}

/// 0 stands for a free place; whoever has it shares a bucket with 1.
fn key(hash: u64) -> u64 {
    hash.max(1)
}

fn home(hash: u64, mask: usize) -> usize {
    // The upper bits chose the table.
    hash as usize & mask
}

fn put(slots: &mut [(u64, u64)], hash: u64, full: u64) {
    let mask = slots.len() - 1;
    let mut place = home(hash, mask);
    while slots[place].0 != 0 {
        place = (place + 1) & mask;
    }
    slots[place] = (hash, full);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_full_buckets_make_room() {
        let mut table = Table::default();
        for hash in 1..=100 {
            assert!(table.insert(hash, 50, 10, 100));
        }
        assert!(!table.insert(101, 50, 49, 100), "none is full yet");
        assert!(table.insert(101, 90, 50, 100) && table.get(101) == Some(90));
    }

    #[test]
    fn a_table_gives_its_memory_back() {
        let mut table = Table::default();
        for hash in 1..=10_000 {
            table.insert(hash, 50, 10, usize::MAX);
        }
        let most = table.bytes();
        for hash in 0..100_000_u64 {
            table.insert(1 << 40 | hash, hash + 2, hash, usize::MAX);
        }
        assert!(table.bytes() * 8 < most && table.len() < 200, "{} {}", table.bytes(), table.len());
    }

    proptest! {
        /// Hashes that fall on one another, too.
        #[test]
        fn a_table_is_a_map(steps in prop::collection::vec((0_u8..4, 0_u64..40, 0_u64..100), 1..400)) {
            let (mut table, mut model, mut now) = (Table::default(), BTreeMap::new(), 0);
            for (what, hash, value) in steps {
                let hash = hash % 8 * 1024 + hash / 8 + 1;
                match what {
                    0 | 1 => {
                        prop_assert!(table.insert(hash, now + value, now, usize::MAX));
                        model.insert(hash, now + value);
                    }
                    2 => {
                        let was_full = model.remove(&hash).is_none_or(|full| full <= now);
                        prop_assert!(table.remove(hash) || was_full);
                    }
                    _ => now += value / 10,
                }
                for (hash, full) in &model {
                    let held = table.get(*hash);
                    prop_assert!(held == Some(*full) || (held.is_none() && *full <= now), "{} {:?} {}", hash, held, full);
                }
                prop_assert!(table.iter().all(|(hash, full)| model.get(&hash) == Some(&full)));
            }
        }
    }
}
