//! When the certificates of a listener end, and the lists of those that were taken back, as operators are told.

use crate::snapshot::ListenerPlan;
use crate::tls::ending::{EXPIRES_SOON, Ending, Reminder, now};
use crate::tls::expiry::List;

/// Tells what there is to tell of a plan that comes in force.
pub(super) fn announce(plan: &ListenerPlan) {
    let metrics = &plan.state.metrics;
    metrics.certificates(certificates(plan).iter().map(|(name, end)| (&**name, *end)));
    metrics.lists(lists(plan).iter().map(|list| (&*list.authority, list.end)));
    warn(plan, now());
}

/// Tells again what is still so, and at once what has just ended.
pub(super) fn look(reminder: &mut Reminder, plan: &ListenerPlan) {
    let now = now();
    let ends = certificates(plan).iter().map(|(_, end)| *end).chain(lists(plan).iter().map(|list| list.end));
    if reminder.is_due(ends, now) {
        warn(plan, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_spoken_of_in_the_last_quarter_of_its_life() {
        const DAY: i64 = 24 * 3600;
        for (life, ahead) in [(DAY, DAY / 4), (7 * DAY, 7 * DAY / 4), (365 * DAY, EXPIRES_SOON), (-DAY, 0)] {
            assert_eq!(ahead_of_list(1_000, 1_000 + life), ahead, "of {life} seconds");
        }
        assert_eq!(ahead_of_list(i64::MIN, i64::MAX), EXPIRES_SOON);
    }
}
