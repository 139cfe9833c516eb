//! Calls that are still out: how many of them are late, without a timer for any.
//!
//! A back end that hangs ends no call, so a breaker that only counts ends learns of it when the first deadline passes,
//! and until then lets everybody in. Here the calls that began within one slice of time are a number; it becomes so many
//! failures when the slice is late, and a call that ends before leaves it again.

use std::time::{Duration, Instant};

/// Slices that a call may go through before it is late.
const SLICES: u32 = 8;

/// Room for the slices that are not late yet, and then some.
const ROOM: usize = 16;

/// The calls that are out.
#[derive(Debug)]
pub(super) struct Overdue {
    after: Duration,
    width: Duration,
    origin: Instant,
    /// The first slice that is not late.
    first: u64,
    counts: [u32; ROOM],
}

impl Overdue {
    /// Calls are late once they are out for `after`.
    pub(super) fn new(after: Duration, now: Instant) -> Self {
        let width = (after / SLICES).max(Duration::from_nanos(1));
        Self { after, width, origin: now, first: 0, counts: [0; ROOM] }
    }

    pub(super) fn after(&self) -> Duration {
        self.after
    }

    /// A call goes out. Gives its slice. To be asked only after [`Self::late`] at the same `now`.
    pub(super) fn start(&mut self, now: Instant) -> u64 {
        let slice = self.slice(now).max(self.first);
        self.counts[place(slice)] += 1;
        slice
    }

    /// A call of this slice ended. Says whether it is the first that is heard of it: it was not late yet.
    pub(super) fn end(&mut self, slice: u64) -> bool {
        if slice < self.first {
            return false;
        }
        let count = &mut self.counts[place(slice)];
        *count = count.saturating_sub(1);
        true
    }

    /// How many calls became late since this was asked last.
    pub(super) fn late(&mut self, now: Instant) -> u32 {
        let Some(since) = now.saturating_duration_since(self.origin).checked_sub(self.after) else { return 0 };
        // The slices whose last moment is so long ago.
        let end = u64::try_from(since.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX);
        let mut late = 0;
        for slice in self.first..end.min(self.first + ROOM as u64) {
            late += std::mem::take(&mut self.counts[place(slice)]);
        }
        self.first = self.first.max(end);
        late
    }

    fn slice(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin).as_nanos() / self.width.as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1)
    }
}

fn place(slice: u64) -> usize {
    (slice % ROOM as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_late_once_and_soon_after_its_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut overdue = Overdue::new(Duration::from_millis(80), start);
        let slices: Vec<_> = [0, 5, 12, 40].map(|millis| (overdue.late(at(millis)), overdue.start(at(millis)))).into();
        assert_eq!(slices, [(0, 0), (0, 0), (0, 1), (0, 4)]);
        assert!(overdue.end(0), "it was not late");
        assert_eq!(overdue.late(at(89)), 0);
        assert_eq!(overdue.late(at(90)), 1);
        assert!(!overdue.end(0), "it has counted already");
        assert_eq!(overdue.late(at(99)), 0);
        assert_eq!(overdue.late(at(100)), 1);
        assert_eq!(overdue.late(at(1_000_000)), 1);
        assert_eq!(overdue.late(at(2_000_000)), 0);
    }

    #[test]
    fn no_slice_is_taken_for_another_however_long_the_pauses() {
        let start = Instant::now();
        let mut overdue = Overdue::new(Duration::from_millis(80), start);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut now, mut out, mut late) = (start, Vec::new(), 0_u32);
        let mut began = 0_u32;
        let mut ended = 0_u32;
        for _ in 0..20_000 {
            now += Duration::from_millis(random.u64(0..60));
            late += overdue.late(now);
            if random.bool() {
                out.push(overdue.start(now));
                began += 1;
            } else if !out.is_empty() {
                let slice = out.swap_remove(random.usize(0..out.len()));
                ended += u32::from(overdue.end(slice));
            }
        }
        late += overdue.late(now + Duration::from_secs(1));
        assert_eq!(began, late + ended);
    }
}
