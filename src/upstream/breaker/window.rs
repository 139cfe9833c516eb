//! What came of the calls of the last while: a window that rolls bucket by bucket, or is emptied as a whole.

use std::time::{Duration, Instant};

/// What came of some calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that ended well.
    pub successes: u32,
    /// Calls that failed.
    pub failures: u32,
}

impl Tally {
    /// Calls that counted.
    pub fn calls(self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    /// The share of failures; 0 of no calls.
    pub fn ratio(self) -> f64 {
        if self.calls() == 0 { 0.0 } else { f64::from(self.failures) / f64::from(self.calls()) }
    }

    fn add(&mut self, other: Self) {
        self.successes = self.successes.saturating_add(other.successes);
        self.failures = self.failures.saturating_add(other.failures);
    }

    fn subtract(&mut self, other: Self) {
        self.successes = self.successes.saturating_sub(other.successes);
        self.failures = self.failures.saturating_sub(other.failures);
    }
}

/// The calls that ended within a while: in one bucket, which is emptied at its end, or in several, of which the oldest is
/// forgotten.
#[derive(Debug)]
pub(super) struct Window {
    buckets: Vec<Tally>,
    width: Duration,
    /// The bucket that counts now, and when it began.
    place: usize,
    since: Instant,
    total: Tally,
}

impl Window {
    pub(super) fn new(length: Duration, buckets: usize, now: Instant) -> Self {
        let buckets = buckets.max(1);
        Self {
            buckets: vec![Tally::default(); buckets],
            width: width(length, buckets),
            place: 0,
            since: now,
            total: Tally::default(),
        }
    }

    /// Takes another form. What was counted so far stays, as if it had come now.
    pub(super) fn reshape(&mut self, length: Duration, buckets: usize, now: Instant) {
        let buckets = buckets.max(1);
        if self.buckets.len() == buckets && self.width == width(length, buckets) {
            return;
        }
        let total = self.total;
        *self = Self::new(length, buckets, now);
        self.add(total);
    }

    /// Forgets what is too old at `now`. Says whether the one bucket of a window that does not roll was emptied.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed < self.width {
            return false;
        }
        let steps = passed.as_nanos() / self.width.as_nanos();
        let count = self.buckets.len();
        // Buckets keep their places in time, however long nobody asked.
        let into = u64::try_from(passed.as_nanos() % self.width.as_nanos()).unwrap_or(0);
        let since = now.checked_sub(Duration::from_nanos(into)).unwrap_or(now);
        if steps >= count as u128 {
            self.clear(since);
            return count == 1;
        }
        for _ in 0..steps {
            self.place = (self.place + 1) % count;
            self.total.subtract(std::mem::take(&mut self.buckets[self.place]));
        }
        self.since = since;
        false
    }

    pub(super) fn clear(&mut self, now: Instant) {
        self.buckets.fill(Tally::default());
        (self.place, self.since, self.total) = (0, now, Tally::default());
    }

    pub(super) fn add(&mut self, tally: Tally) {
        self.buckets[self.place].add(tally);
        self.total.add(tally);
    }

    /// The latest success was none.
    pub(super) fn take_back_success(&mut self) {
        let one = Tally { successes: 1, failures: 0 };
        if self.buckets[self.place].successes > 0 {
            self.buckets[self.place].subtract(one);
            self.total.subtract(one);
        }
    }

    pub(super) fn total(&self) -> Tally {
        self.total
    }
}

/// Never nothing: a bucket without a width has no place in time.
fn width(length: Duration, buckets: usize) -> Duration {
    (length / u32::try_from(buckets).unwrap_or(u32::MAX)).max(Duration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURE: Tally = Tally { successes: 0, failures: 1 };

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_rolling_window_forgets_bucket_by_bucket() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_millis(100), 10, start);
        for millis in [0, 5, 15, 95] {
            assert!(!window.advance(at(start, millis)));
            window.add(FAILURE);
        }
        for (millis, left) in [(99, 4), (100, 2), (109, 2), (110, 1), (189, 1), (190, 0), (9_999, 0)] {
            assert!(!window.advance(at(start, millis)));
            assert_eq!(window.total().failures, left, "{millis}");
        }
    }

    #[test]
    fn a_fixed_window_is_emptied_as_a_whole() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_millis(100), 1, start);
        window.add(FAILURE);
        assert!(!window.advance(at(start, 99)));
        window.add(FAILURE);
        assert_eq!(window.total().failures, 2);
        assert!(window.advance(at(start, 100)));
        assert_eq!(window.total().calls(), 0);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_changes_nothing() {
        let start = at(Instant::now(), 1000);
        let mut window = Window::new(Duration::from_millis(100), 10, start);
        window.add(FAILURE);
        assert!(!window.advance(start - Duration::from_millis(500)));
        assert_eq!(window.total().failures, 1);
    }

    #[test]
    fn what_was_counted_stays_in_another_form() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_millis(100), 10, start);
        window.add(FAILURE);
        window.reshape(Duration::from_millis(50), 1, at(start, 90));
        assert_eq!(window.total().failures, 1);
        assert!(window.advance(at(start, 140)));
        assert_eq!(window.total().failures, 0);
    }
}
