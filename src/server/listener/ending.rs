//! When the certificates of a listener end, as operators are told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::snapshot::ListenerPlan;

/// How often operators are told again while armiger runs.
pub(super) const TOLD_AGAIN: Duration = Duration::from_secs(12 * 3600);

/// How long before a certificate's end operators are told.
const EXPIRES_SOON: i64 = 14 * 24 * 3600;

/// Tells when the certificates of a plan that comes in force end.
#[expect(clippy::disallowed_methods, reason = "certificates end by the time of day")]
pub(super) fn announce(plan: &ListenerPlan) {
    let ends = plan.tls.as_ref().map_or(&[][..], |tls| &tls.ends);
    plan.state.metrics.certificates(ends);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
    for (certificate, end) in ends {
        match Ending::of(*end, now) {
            Ending::Later => {}
            Ending::Soon { days } => {
                tracing::warn!(listener = %plan.name, %certificate, days, "certificate ends soon");
            }
            Ending::Over => tracing::warn!(listener = %plan.name, %certificate, "certificate is out of date"),
        }
    }
}

/// What operators are told of a certificate's end.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing yet.
    Later,
    /// That it ends in so many whole days.
    Soon { days: i64 },
    /// That it has ended.
    Over,
}

impl Ending {
    /// Of a certificate whose last second is `end`, both since 1970.
    fn of(end: i64, now: i64) -> Self {
        match end.saturating_sub(now) {
            ..=0 => Self::Over,
            left @ ..=EXPIRES_SOON => Self::Soon { days: left / (24 * 3600) },
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
            assert_eq!(Ending::of(now.saturating_add(left), now), told, "{left} seconds before");
        }
        // Told again and again, it is told on each day.
        let again = i64::try_from(TOLD_AGAIN.as_secs()).unwrap();
        let told: Vec<_> = (0..=28).map(|round| Ending::of(now + EXPIRES_SOON, now + round * again)).collect();
        let days: Vec<_> =
            told.iter().filter_map(|told| if let Ending::Soon { days } = told { Some(*days) } else { None }).collect();
        assert_eq!((days.first(), days.last(), told.last()), (Some(&14), Some(&0), Some(&Ending::Over)));
        assert!(days.windows(2).all(|pair| pair[0] - pair[1] <= 1), "{days:?}");
    }
}
