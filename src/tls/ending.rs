//! When operators are told that a certificate ends, or a list of those that were taken back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often operators are told again while armiger runs.
const TOLD_AGAIN: i64 = 12 * 3600;

/// How often it is looked whether there is something to tell.
pub const LOOK: Duration = Duration::from_secs(60);

/// How long before a certificate's end operators are told.
pub const EXPIRES_SOON: i64 = 14 * 24 * 3600;

/// The time of day, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "certificates end by the time of day")]
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed())
}

/// Seconds since 1970 as people read them.
pub fn moment(end: i64) -> Option<String> {
    jiff::Timestamp::from_second(end).ok().map(|at| at.to_string())
}

/// Knows when to tell again what is still so, and at once what has just ended.
#[derive(Debug)]
pub struct Reminder {
    looked_at: i64,
    told_at: i64,
}

impl Reminder {
    /// Of what was told at `now`.
    pub fn new(now: i64) -> Self {
        Self { looked_at: now, told_at: now }
    }

    /// Whether something has ended since the last look, or it is time to repeat.
    pub fn is_due(&mut self, mut ends: impl Iterator<Item = i64>, now: i64) -> bool {
        let has_ended = ends.any(|end| self.looked_at < end && end <= now);
        self.looked_at = now;
        let is_due = has_ended || now.saturating_sub(self.told_at) >= TOLD_AGAIN;
        if is_due {
            self.told_at = now;
        }
        is_due
    }
}

/// What operators are told of an end.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing yet.
    Later,
    /// That it ends soon.
    Soon {
        /// In so many whole days.
        days: i64,
    },
    /// That it has ended.
    Over,
}

impl Ending {
    /// Of what ends at `end`, since 1970 as `now` is, when operators are told so long before it.
    pub fn of(end: i64, ahead: i64, now: i64) -> Self {
        match end.saturating_sub(now) {
            ..=0 => Self::Over,
            left if left <= ahead => Self::Soon { days: left / (24 * 3600) },
            _ => Self::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_of_a_certificates_end_from_two_weeks_before_it_and_for_good() {
        const DAY: i64 = 24 * 3600;
        let now = 1_800_000_000_i64;
        for (left, told) in [
            (EXPIRES_SOON + 1, Ending::Later),
            (i64::MAX, Ending::Later),
            (EXPIRES_SOON, Ending::Soon { days: 14 }),
            (2 * DAY - 1, Ending::Soon { days: 1 }),
            (1, Ending::Soon { days: 0 }),
            (0, Ending::Over),
            (-1, Ending::Over),
            (i64::MIN, Ending::Over),
        ] {
            assert_eq!(Ending::of(now.saturating_add(left), EXPIRES_SOON, now), told, "{left} seconds before");
        }
        // Told again and again, it is told on each day.
        let told: Vec<_> =
            (0..=28).map(|round| Ending::of(now + EXPIRES_SOON, EXPIRES_SOON, now + round * TOLD_AGAIN)).collect();
        let days: Vec<_> =
            told.iter().filter_map(|told| if let Ending::Soon { days } = told { Some(*days) } else { None }).collect();
        assert_eq!((days.first(), days.last(), told.last()), (Some(&14), Some(&0), Some(&Ending::Over)));
        assert!(days.windows(2).all(|pair| pair[0] - pair[1] <= 1), "{days:?}");
    }

    #[test]
    fn what_ends_is_told_at_the_next_look_and_then_from_time_to_time() {
        let mut reminder = Reminder { looked_at: 1_000, told_at: 1_000 };
        let mut is_due = |end: i64, now| reminder.is_due([end, i64::MAX].into_iter(), now);
        assert!(!is_due(1_000, 1_060), "it had ended when it was announced");
        assert!(!is_due(1_121, 1_120));
        assert!(is_due(1_121, 1_180));
        assert!(!is_due(1_121, 1_180 + TOLD_AGAIN - 1));
        assert!(is_due(1_121, 1_180 + TOLD_AGAIN));
    }
}
