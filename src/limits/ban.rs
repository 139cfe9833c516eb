//! Callers who keep hitting a limit, and are kept out for a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// After how many refusals somebody is kept out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// Refusals.
    pub after: u32,
    /// Within this time.
    pub within: Duration,
    /// Kept out for this long.
    pub lasts: Duration,
}

/// Callers that are watched or kept out, at most. Further ones are refused by their limit alone.
pub const BANS_MAX: usize = 10_000;

/// Who was refused lately, and who is kept out. Points in time are microseconds since the store's epoch.
#[derive(Default)]
pub struct Bans {
    rows: Mutex<HashMap<u64, Row>>,
    /// How many rows there are, to be seen without the lock.
    count: AtomicUsize,
    /// Where there is no room: until when there can be none. A flood of callers does not have all rows looked at each time.
    full_until: AtomicU64,
}

#[derive(Clone, Copy)]
struct Row {
    refusals: u32,
    /// Until when refusals count together, or the ban lasts.
    until: u64,
    is_banned: bool,
}

/// What came of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Struck {
    /// It was counted.
    Counted,
    /// It was one too many: a ban begins.
    Banned,
    /// There is no room to watch one more.
    NoRoom,
}

impl Bans {
    fn rows(&self) -> MutexGuard<'_, HashMap<u64, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when this key is kept out; `None`: it is not.
    pub fn until(&self, hash: u64, now: u64) -> Option<u64> {
        // In quiet times there is nobody, and no lock is taken.
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.rows().get(&hash).filter(|row| row.is_banned && row.until > now).map(|row| row.until)
    }

    /// Counts a refusal.
    pub fn strike(&self, hash: u64, now: u64, penalty: Penalty) -> Struck {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut rows = self.rows();
        if rows.len() >= BANS_MAX && !rows.contains_key(&hash) {
            if now < self.full_until.load(Ordering::Relaxed) {
                return Struck::NoRoom;
            }
            rows.retain(|_, row| row.until > now);
            if rows.len() >= BANS_MAX {
                let first = rows.values().map(|row| row.until).min().unwrap_or(now);
                self.full_until.store(first, Ordering::Relaxed);
                return Struck::NoRoom;
            }
        }
        let fresh = Row { refusals: 0, until: now.saturating_add(micros(penalty.within)), is_banned: false };
        let row = rows.entry(hash).or_insert(fresh);
        if row.until <= now {
            *row = fresh;
        }
        row.refusals = row.refusals.saturating_add(1);
        let is_banned = row.refusals >= penalty.after && !row.is_banned;
        if is_banned {
            (row.is_banned, row.until) = (true, now.saturating_add(micros(penalty.lasts)));
        }
        self.count.store(rows.len(), Ordering::Relaxed);
        if is_banned { Struck::Banned } else { Struck::Counted }
    }

    /// Lets somebody in again.
    pub fn lift(&self, hash: u64) -> bool {
        let mut rows = self.rows();
        let row = rows.remove(&hash);
        self.count.store(rows.len(), Ordering::Relaxed);
        // Whoever takes the place may be watched for a shorter time than all others.
        self.full_until.store(0, Ordering::Relaxed);
        row.is_some_and(|row| row.is_banned)
    }

    /// Who is kept out at `now`, each with the end of it.
    pub fn all(&self, now: u64) -> Vec<(u64, u64)> {
        let is_banned = |(_, row): &(&u64, &Row)| row.is_banned && row.until > now;
        self.rows().iter().filter(is_banned).map(|(hash, row)| (*hash, row.until)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENALTY: Penalty =
        Penalty { after: 3, within: Duration::from_micros(100), lasts: Duration::from_micros(1000) };

    #[test]
    fn refusals_in_a_short_time_make_a_ban_that_ends() {
        let bans = Bans::default();
        assert_eq!(bans.strike(7, 0, PENALTY), Struck::Counted);
        assert_eq!(bans.strike(7, 50, PENALTY), Struck::Counted);
        assert_eq!(bans.until(7, 60), None);
        assert_eq!(bans.strike(7, 99, PENALTY), Struck::Banned);
        assert_eq!((bans.until(7, 100), bans.until(7, 1098), bans.until(7, 1099)), (Some(1099), Some(1099), None));
        assert_eq!(bans.until(8, 100), None);
        assert_eq!(bans.all(100), [(7, 1099)]);
        // It begins anew afterwards.
        assert_eq!(bans.strike(7, 1100, PENALTY), Struck::Counted);
    }

    #[test]
    fn refusals_that_are_far_apart_do_not_add_up() {
        let bans = Bans::default();
        for now in [0, 60, 120, 180, 240] {
            assert_eq!(bans.strike(7, now, PENALTY), Struck::Counted, "{now}");
        }
    }

    #[test]
    fn who_takes_the_place_of_a_lifted_ban_holds_it_no_longer_than_he_is_watched() {
        let bans = Bans::default();
        for hash in 0..BANS_MAX as u64 {
            assert_eq!(bans.strike(hash, 0, Penalty { after: 1, ..PENALTY }), Struck::Banned);
        }
        assert_eq!(bans.strike(1 << 40, 0, PENALTY), Struck::NoRoom);
        assert!(bans.lift(5));
        assert_eq!(bans.strike(1 << 40, 0, PENALTY), Struck::Counted);
        assert_eq!(bans.strike(2 << 40, 99, PENALTY), Struck::NoRoom);
        assert_eq!(bans.strike(2 << 40, 100, PENALTY), Struck::Counted);
    }

    #[test]
    fn a_ban_can_be_lifted_and_all_of_it_is_bounded() {
        let bans = Bans::default();
        let penalty = Penalty { after: 1, ..PENALTY };
        for hash in 0..BANS_MAX as u64 {
            assert_eq!(bans.strike(hash, 0, penalty), Struck::Banned);
        }
        assert_eq!(bans.strike(1 << 40, 0, penalty), Struck::NoRoom);
        assert!(bans.lift(5) && !bans.lift(5) && bans.until(5, 1).is_none());
        assert_eq!(bans.strike(1 << 40, 0, penalty), Struck::Banned);
        assert_eq!(bans.strike(2 << 40, 999, penalty), Struck::NoRoom);
        assert_eq!(bans.full_until.load(Ordering::Relaxed), 1000, "nobody has to look again before the first one ends");
        assert_eq!(bans.strike(2 << 40, 1000, penalty), Struck::Banned, "those that ended make room");
        assert_eq!(bans.count.load(Ordering::Relaxed), 1);
    }
}
