//! A small table of what was found out lately and holds for a while. Never grows: a newer row takes an older one's place.

use std::time::Instant;

/// Rows, at most.
const ROWS: usize = 1024;

/// What was found out lately, by a hash that others cannot foresee.
pub struct Recent(Box<[Option<(u64, Instant)>]>);

impl Default for Recent {
    fn default() -> Self {
        Self(vec![None; ROWS].into())
    }
}

impl Recent {
    /// Notes it until then.
    pub fn note(&mut self, hash: u64, until: Instant) {
        self.0[place(hash)] = Some((hash, until));
    }

    /// Whether it was noted and still holds at `now`.
    pub fn holds(&self, hash: u64, now: Instant) -> bool {
        self.0[place(hash)].is_some_and(|(known, until)| known == hash && now < until)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.fill(None);
    }
}

fn place(hash: u64) -> usize {
    hash as usize % ROWS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_noted_holds_for_its_time_and_gives_way_to_what_is_newer() {
        let (now, mut recent) = (Instant::now(), Recent::default());
        let until = now + Duration::from_secs(30);
        recent.note(7, until);
        assert!(recent.holds(7, now) && !recent.holds(8, now) && !recent.holds(7, until));
        assert!(!recent.holds(7 + ROWS as u64, now), "a row of another hash is not this one's");
        for hash in 0..100 * ROWS as u64 {
            recent.note(hash, until);
        }
        assert!(!recent.holds(7, now) && recent.holds(99 * ROWS as u64 + 7, now));
        recent.clear();
        assert!(!recent.holds(99 * ROWS as u64 + 7, now));
    }
}
