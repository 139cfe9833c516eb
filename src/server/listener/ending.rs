//! When the certificates of a listener end, and the lists of those that were taken back, as operators are told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::snapshot::ListenerPlan;
use crate::tls::expiry::List;

/// How often operators are told again while armiger runs.
const TOLD_AGAIN: i64 = 12 * 3600;

/// How often it is looked whether there is something to tell.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// How long before an end operators are told.
const EXPIRES_SOON: i64 = 14 * 24 * 3600;

/// Tells what there is to tell of a plan that comes in force.
pub(super) fn announce(plan: &ListenerPlan) {
    let metrics = &plan.state.metrics;
    metrics.certificates(certificates(plan).iter().map(|(name, end)| (&**name, *end)));
    metrics.lists(lists(plan).iter().map(|list| (&*list.authority, list.end)));
    warn(plan, now());
}

/// Tells again what is still so, and at once what has just ended.
pub(super) struct Reminder {
    looked_at: i64,
    told_at: i64,
}

impl Reminder {
    /// Of a plan that was announced just now.
    pub(super) fn new() -> Self {
        let now = now();
        Self { looked_at: now, told_at: now }
    }

    pub(super) fn look(&mut self, plan: &ListenerPlan) {
        let now = now();
        let ends = certificates(plan).iter().map(|(_, end)| *end).chain(lists(plan).iter().map(|list| list.end));
        if self.is_due(ends, now) {
            warn(plan, now);
        }
    }

    /// Whether something has ended since the last look, or it is time to repeat.
    fn is_due(&mut self, mut ends: impl Iterator<Item = i64>, now: i64) -> bool {
        let has_ended = ends.any(|end| self.looked_at < end && end <= now);
        self.looked_at = now;
        let is_due = has_ended || now.saturating_sub(self.told_at) >= TOLD_AGAIN;
        if is_due {
            self.told_at = now;
        }
        is_due
    }
}

fn certificates(plan: &ListenerPlan) -> &[(String, i64)] {
    plan.tls.as_ref().map_or(&[], |tls| &tls.ends)
}

fn lists(plan: &ListenerPlan) -> &[List] {
    plan.tls.as_ref().map_or(&[], |tls| &tls.lists)
}

fn warn(plan: &ListenerPlan, now: i64) {
    for (certificate, end) in certificates(plan) {
        match Ending::of(*end, EXPIRES_SOON, now) {
            Ending::Later => {}
            Ending::Soon { days } => {
                tracing::warn!(listener = %plan.name, %certificate, days, "certificate ends soon");
            }
            Ending::Over => tracing::warn!(listener = %plan.name, %certificate, "certificate is out of date"),
        }
    }
    for List { authority, since, end } in lists(plan) {
        let hours = end.saturating_sub(now) / 3600;
        match Ending::of(*end, ahead_of_list(*since, *end), now) {
            Ending::Later => {}
            Ending::Soon { .. } => {
                tracing::warn!(listener = %plan.name, %authority, hours, "`client_auth.crl` is soon out of date: renew it");
            }
            Ending::Over => tracing::warn!(
                listener = %plan.name,
                %authority,
                "`client_auth.crl` is out of date, and clients of its authority are refused: renew it"
            ),
        }
    }
}

/// How long before its end operators are told of a list: some live for a day, and are renewed long before.
fn ahead_of_list(since: i64, end: i64) -> i64 {
    (end.saturating_sub(since) / 4).clamp(0, EXPIRES_SOON)
}

#[expect(clippy::disallowed_methods, reason = "certificates end by the time of day")]
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed())
}

/// What operators are told of an end.
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
    /// Of what ends at `end`, since 1970 as `now` is, when operators are told so long before it.
    fn of(end: i64, ahead: i64, now: i64) -> Self {
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
    fn a_list_is_spoken_of_in_the_last_quarter_of_its_life() {
        const DAY: i64 = 24 * 3600;
        for (life, ahead) in [(DAY, DAY / 4), (7 * DAY, 7 * DAY / 4), (365 * DAY, EXPIRES_SOON), (-DAY, 0)] {
            assert_eq!(ahead_of_list(1_000, 1_000 + life), ahead, "of {life} seconds");
        }
        assert_eq!(ahead_of_list(i64::MIN, i64::MAX), EXPIRES_SOON);
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
