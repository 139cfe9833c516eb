//! A token bucket in one number, and the arithmetic of its rate. Pure: time is an argument.
//!
//! The number is a point in time: when the bucket will be full again (the "theoretical arrival time" of the generic cell
//! rate algorithm). It is counted in **units** chosen so that neither a microsecond nor a token is a fraction of one:
//! 3/s gives 3 units to a microsecond and 1,000,000 to a token. So fractional rates neither drift nor round.

use std::time::Duration;

use crate::config::rate::HumanRate;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units that a microsecond gives.
    per_micro: u64,
    /// Units that a token is.
    per_token: u64,
    /// Tokens of a full bucket.
    burst: u64,
}

/// Units that a full bucket may be, so that sums of them do not overflow.
const CAPACITY_MAX: u64 = 1 << 61;

/// How far a level may be away from the base that it is counted from.
const HORIZON: u64 = 1 << 62;

/// A request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// It was granted. The bucket is full again at `full`; before it would have been at `from`.
    Granted {
        /// The new number.
        full: u64,
        /// When the bucket would have been full without this; the present, if it was.
        from: u64,
    },
    /// Not before so many microseconds have passed.
    Wait(u64),
    /// Never: it costs more than a full bucket has.
    Never,
}

impl Rate {
    /// So many tokens in so much time, up to `burst` of them. `None`: a full bucket cannot be counted.
    pub fn new(count: u64, period: Duration, burst: u64) -> Option<Self> {
        let micros = u64::try_from(period.as_micros()).ok()?;
        let divisor = gcd(count, micros);
        if divisor == 0 || count == 0 || micros == 0 || burst == 0 {
            return None;
        }
        let (per_micro, per_token) = (count / divisor, micros / divisor);
        let capacity = per_token.checked_mul(burst)?;
        (capacity <= CAPACITY_MAX && per_micro <= HORIZON / 1_000_000).then_some(Self { per_micro, per_token, burst })
    }

    /// As the user wrote it.
    pub fn of(rate: HumanRate, burst: u64) -> Option<Self> {
        Self::new(rate.count(), rate.period(), burst)
    }

    /// A share of it, in thousandths: at least one token.
    pub fn share(self, thousandths: u64) -> Self {
        let (count, period) = (self.per_micro.saturating_mul(thousandths), self.per_token.saturating_mul(1000));
        let divisor = gcd(count, period).max(1);
        let burst = (self.burst.saturating_mul(thousandths) / 1000).max(1);
        let shared = Self { per_micro: (count / divisor).max(1), per_token: period / divisor, burst };
        // Finer units that cannot be counted: then the whole, which is stricter than nothing.
        let fits = shared.per_token.checked_mul(burst).is_some_and(|capacity| capacity <= CAPACITY_MAX);
        if fits { shared } else { self }
    }

    /// Tokens of a full bucket.
    pub fn burst(self) -> u64 {
        self.burst
    }

    /// How long an empty bucket takes to be full, in whole seconds, rounded up.
    pub fn window(self) -> u64 {
        self.micros(self.capacity()).div_ceil(1_000_000)
    }

    /// Units of a full bucket.
    pub fn capacity(self) -> u64 {
        self.per_token * self.burst
    }

    /// Units that a microsecond gives, and that a token is.
    pub fn units(self) -> (u64, u64) {
        (self.per_micro, self.per_token)
    }

    /// A point in time, in units, from one in microseconds.
    pub fn at(self, micros: u64) -> u64 {
        micros.saturating_mul(self.per_micro)
    }

    /// How long so many units take, in microseconds, rounded up.
    pub fn micros(self, units: u64) -> u64 {
        units.div_ceil(self.per_micro)
    }

    /// From how many microseconds on a base is too long ago to count from.
    pub fn horizon(self) -> u64 {
        HORIZON / self.per_micro
    }

    /// Takes `cost` tokens at `now` from a bucket that is full at `full`, if they are there.
    pub fn draw(self, full: u64, now: u64, cost: u64) -> Drawn {
        let Some(units) = cost.checked_mul(self.per_token).filter(|units| *units <= self.capacity()) else {
            return Drawn::Never;
        };
        let from = full.max(now);
        let after = from + units;
        let latest = now + self.capacity();
        if after <= latest { Drawn::Granted { full: after, from } } else { Drawn::Wait(self.micros(after - latest)) }
    }

    /// Gives `cost` tokens back at `now` that were drawn when the bucket would have been full at `from`.
    ///
    /// Never more than was taken: what the bucket would have gained meanwhile, were it not full, is lost. If nobody else
    /// drew in between, the level is what it would have been without the draw.
    pub fn give_back(self, full: u64, now: u64, cost: u64, from: u64) -> u64 {
        let units = cost.saturating_mul(self.per_token);
        full.saturating_sub(units.saturating_sub(now.saturating_sub(from)))
    }

    /// Whole tokens of a bucket at `now`.
    pub fn level(self, full: u64, now: u64) -> u64 {
        self.capacity().saturating_sub(full.saturating_sub(now)) / self.per_token
    }

    /// Units that a bucket lacks at `now`, at another rate than the one that it was counted in: its level stays, as far as
    /// it fits.
    pub fn settle(self, old: Rate, lacks: u64) -> u64 {
        let level = u128::from(old.capacity().saturating_sub(lacks));
        // Rounded down, so that no change of rate gives anything away.
        let level = level * u128::from(self.per_token) / u128::from(old.per_token);
        self.capacity() - u64::try_from(level).unwrap_or(u64::MAX).min(self.capacity())
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str, burst: u64) -> Rate {
        Rate::of(HumanRate::parse(text).unwrap(), burst).unwrap()
    }

    /// A bucket that is full at the beginning, asked at points in time in microseconds.
    struct Bucket {
        rate: Rate,
        full: u64,
    }

    impl Bucket {
        fn draw(&mut self, micros: u64, cost: u64) -> Drawn {
            let drawn = self.rate.draw(self.full, self.rate.at(micros), cost);
            if let Drawn::Granted { full, .. } = drawn {
                self.full = full;
            }
            drawn
        }

        fn takes(&mut self, micros: u64) -> bool {
            matches!(self.draw(micros, 1), Drawn::Granted { .. })
        }
    }

    const SECOND: u64 = 1_000_000;

    #[test]
    fn fractional_rates_neither_drift_nor_round() {
        // One a minute: not a microsecond before.
        let mut slow = Bucket { rate: rate("1/m", 1), full: 0 };
        assert!(slow.takes(0) && !slow.takes(60 * SECOND - 1) && slow.takes(60 * SECOND));
        // 7 a second for a day: exactly 7 × 86400 and the burst.
        let mut odd = Bucket { rate: rate("7/s", 3), full: 0 };
        let granted = (0..86_400 * 20).filter(|tick| odd.takes(tick * 50_000)).count();
        let granted = granted + (0..9).filter(|_| odd.takes(86_400 * SECOND)).count();
        assert_eq!(granted, 7 * 86_400 + 3);
        // More than one in a microsecond.
        let mut fast = Bucket { rate: rate("3000000/s", 1), full: 0 };
        assert!(fast.takes(0) && !fast.takes(0) && fast.takes(1) && !fast.takes(1));
    }

    #[test]
    fn ten_years_of_idling_neither_overflow_nor_give_more_than_a_burst() {
        let years = 10 * 366 * 86_400 * SECOND;
        for (text, burst) in [("1/h", 1), ("1000/m", 50), ("9973/s", 20)] {
            let mut bucket = Bucket { rate: rate(text, burst), full: 0 };
            assert!(bucket.takes(0));
            assert_eq!((0..burst + 5).filter(|_| bucket.takes(years)).count() as u64, burst, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_counted_is_refused_when_it_is_configured() {
        assert!(Rate::of(HumanRate::parse("1/h").unwrap(), 1 << 40).is_none());
        assert!(Rate::new(0, Duration::from_secs(1), 1).is_none());
        assert!(Rate::new(1, Duration::from_secs(1), 0).is_none());
    }

    #[test]
    fn a_share_is_of_rate_and_burst() {
        let quarter = rate("100/s", 100).share(250);
        assert_eq!((quarter.burst(), quarter.window()), (25, 1));
        assert_eq!(rate("1/h", 1).share(250).burst(), 1, "never nothing");
        assert_eq!(rate("1/h", 1).share(250).window(), 4 * 3600);
        assert_eq!(rate("7/s", 3).share(1000), rate("7/s", 3));
    }

    #[test]
    fn a_wait_is_honoured_exactly() {
        let mut bucket = Bucket { rate: rate("3/s", 2), full: 0 };
        assert!(bucket.takes(5) && bucket.takes(5));
        let Drawn::Wait(micros) = bucket.draw(5, 1) else { panic!("it was empty") };
        assert!(!bucket.takes(5 + micros - 1) && bucket.takes(5 + micros));
    }

    #[test]
    fn what_costs_more_than_a_burst_is_never_granted() {
        let mut bucket = Bucket { rate: rate("10/s", 5), full: 0 };
        assert_eq!(bucket.draw(0, 6), Drawn::Never);
        assert_eq!(bucket.draw(0, u64::MAX), Drawn::Never);
        assert!(matches!(bucket.draw(0, 5), Drawn::Granted { .. }));
        assert!(matches!(bucket.draw(0, 0), Drawn::Granted { .. }), "nothing is always there");
    }

    #[test]
    fn what_is_given_back_is_there_again_and_never_more() {
        let rate = rate("1/s", 10);
        for taken_at in [0, 3 * SECOND] {
            for (before, given_at) in [(0, 0), (0, 5 * SECOND), (8 * SECOND, 4 * SECOND), (8 * SECOND, 20 * SECOND)] {
                let given_at = taken_at + given_at;
                let Drawn::Granted { full, from } = rate.draw(before, taken_at, 2) else { panic!("it was there") };
                let after = rate.give_back(full, given_at, 2, from);
                assert_eq!(rate.level(after, given_at), rate.level(before, given_at), "{before} {taken_at} {given_at}");
                // Another draws in between: there is no more than if the first had never come.
                let between = (taken_at + given_at) / 2;
                let Drawn::Granted { full: other, .. } = rate.draw(full, between, 3) else { continue };
                let Drawn::Granted { full: alone, .. } = rate.draw(before, between, 3) else {
                    panic!("less was taken")
                };
                assert!(rate.give_back(other, given_at, 2, from) >= alone);
            }
        }
    }

    #[test]
    fn another_rate_keeps_the_level_as_far_as_it_fits() {
        let old = rate("10/s", 10);
        for (level, new, expected) in [
            (4, rate("1/h", 10), 4),
            (4, rate("1/h", 3), 3),
            (4, rate("1/h", 50), 4),
            (10, rate("1/h", 50), 10),
            (0, rate("1000/s", 5), 0),
        ] {
            let lacks = new.settle(old, old.capacity() - level * old.per_token);
            assert_eq!(new.level(lacks, 0), expected, "{level} {new:?}");
        }
    }

    proptest! {
        /// Against a model that a reader believes at once: tokens as a fraction, filled at each look.
        #[test]
        fn the_bucket_grants_what_the_model_grants(
            count in 1_u64..5000,
            period in prop::sample::select(vec![1_u64, 60, 3600]),
            burst in 1_u64..200,
            asks in prop::collection::vec((0_u64..2_000_000, 0_u64..5, 1_u32..1000), 1..200),
        ) {
            let rate = Rate::new(count, Duration::from_secs(period), burst).unwrap();
            let mut bucket = Bucket { rate, full: 0 };
            // In millionths of a token, times the period: count × µs of them come in.
            let one = u128::from(period) * 1_000_000;
            let (mut tokens, mut last, mut now) = (u128::from(burst) * one, 0_u64, 0_u64);
            for (pause, cost, scale) in asks {
                now += pause / u64::from(scale);
                tokens = (tokens + u128::from(now - last) * u128::from(count)).min(u128::from(burst) * one);
                last = now;
                let fits = tokens >= u128::from(cost) * one;
                let drawn = bucket.draw(now, cost);
                prop_assert_eq!(matches!(drawn, Drawn::Granted { .. }), fits);
                if fits {
                    tokens -= u128::from(cost) * one;
                }
                prop_assert_eq!(u128::from(rate.level(bucket.full, rate.at(now))), tokens / one);
                if let Drawn::Wait(micros) = drawn {
                    let lacks = u128::from(cost) * one - tokens;
                    prop_assert_eq!(u128::from(micros), lacks.div_ceil(u128::from(count)));
                }
            }
        }
    }
}
