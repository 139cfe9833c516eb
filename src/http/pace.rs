//! Whether a client keeps up a rate for as long as it is waited for.
//!
//! Only time in which armiger waits for the client counts: a client that could send or read more but is not let, because
//! the other side is slow or silent, is never too slow.

use std::time::{Duration, Instant};

/// The least that a client must move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second; 0 for any.
    pub min: u64,
    /// How long it is waited for, in sum, before it is asked.
    pub over: Duration,
}

/// What a client moves. It is asked whenever it was waited for long enough, and then anew.
#[derive(Debug)]
pub struct Pace {
    rate: Rate,
    waited: Duration,
    moved: u64,
    since: Option<Instant>,
}

impl Pace {
    /// Nothing was moved so far.
    pub fn new(rate: Rate) -> Self {
        Self { rate, waited: Duration::ZERO, moved: 0, since: None }
    }

    /// So much was moved.
    pub fn count(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes as u64);
    }

    /// The client is waited for.
    pub fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Whether the client is waited for.
    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// It is not waited for at present, whatever it sends: it is not asked.
    pub fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// It is waited for no longer. Says whether it keeps the rate up.
    pub fn resumes(&mut self, now: Instant) -> bool {
        self.pause(now);
        if self.waited < self.rate.over || self.rate.min == 0 {
            return true;
        }
        let due = u128::from(self.rate.min) * self.waited.as_millis() / 1000;
        let is_kept = u128::from(self.moved) >= due;
        (self.waited, self.moved) = (Duration::ZERO, 0);
        is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { min: 100, over: Duration::from_secs(10) };

    /// Waits so many seconds for each piece of so many bytes, and says after how many seconds it was too slow.
    fn asked(rate: Rate, pieces: impl IntoIterator<Item = (u64, usize)>) -> Option<u64> {
        let begin = Instant::now();
        let (mut pace, mut at) = (Pace::new(rate), 0);
        for (seconds, bytes) in pieces {
            pace.waits(begin + Duration::from_secs(at));
            at += seconds;
            pace.count(bytes);
            if !pace.resumes(begin + Duration::from_secs(at)) {
                return Some(at);
            }
        }
        None
    }

    #[test]
    fn who_dribbles_is_too_slow_and_who_keeps_up_is_not() {
        assert_eq!(asked(RATE, std::iter::repeat_n((1, 1), 100)), Some(10));
        assert_eq!(asked(RATE, std::iter::repeat_n((1, 100), 100)), None);
        assert_eq!(asked(RATE, std::iter::repeat_n((5, 499), 100)), Some(10));
        assert_eq!(asked(RATE, std::iter::repeat_n((25, 2500), 10)), None, "in pieces that are far apart");
        assert_eq!(asked(RATE, [(9, 0)]), None, "it has its time");
        assert_eq!(asked(Rate { min: 0, ..RATE }, std::iter::repeat_n((60, 1), 100)), None, "switched off");
    }

    #[test]
    fn haste_in_the_beginning_is_no_credit_for_ever() {
        let fast = std::iter::once((1, 1_000_000));
        assert_eq!(asked(RATE, fast.chain(std::iter::repeat_n((1, 1), 100))), Some(20));
    }

    #[test]
    fn a_pause_is_not_its_own_and_brings_no_judgement() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut pace = Pace::new(RATE);
        pace.waits(at(0));
        pace.pause(at(9));
        assert!(!pace.is_waiting());
        pace.waits(at(1000));
        assert!(pace.resumes(at(1000)), "it had nine seconds");
        pace.waits(at(2000));
        pace.pause(at(2001));
        assert!(!pace.resumes(at(3000)), "now it had ten, and sent nothing");
    }

    #[test]
    fn time_in_which_nobody_waits_for_it_is_not_its_own() {
        let begin = Instant::now();
        let mut pace = Pace::new(RATE);
        for hour in 0..100 {
            let at = begin + Duration::from_secs(hour * 3600);
            pace.waits(at);
            // Asked again while it waits: the first time counts.
            pace.waits(at + Duration::from_millis(9));
            pace.count(10);
            assert!(pace.resumes(at + Duration::from_millis(10)), "after {hour} hours");
            assert!(pace.resumes(at + Duration::from_secs(3000)), "nobody waits");
        }
    }
}
