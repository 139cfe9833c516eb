//! Which failed tries are followed by another, when, and how many of them there may be over all requests.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{DATE, RETRY_AFTER};
use http::response::Parts;

use super::error::Kind;
use crate::config::retry::{Condition, GRPC, Retry};
use crate::config::value::Statuses;

/// What a last try is worth: with less time than this left there is none.
const TRY_MIN: Duration = Duration::from_millis(5);

/// The seconds whose worth of `min_per_second` may be saved up.
const SAVED: f64 = 10.0;

/// What retries go by.
#[derive(Clone, Debug)]
pub struct Plan {
    attempts: usize,
    connect: bool,
    reset: bool,
    timeout: bool,
    statuses: Box<[Statuses]>,
    /// A bit for each status of gRPC.
    grpc: u32,
    /// The longest that a try may take.
    pub per_try: Option<Duration>,
    backoff: Duration,
    backoff_max: Duration,
    ratio: f64,
    min_per_second: u32,
}

impl Plan {
    /// As a configuration says, which was found good.
    pub fn of(config: &Retry) -> Self {
        let has = |condition| config.when.contains(&condition);
        let statuses = config.when.iter().filter_map(|condition| match condition {
            Condition::Status(statuses) => Some(*statuses),
            _ => None,
        });
        let number = |condition: &Condition| match condition {
            Condition::Grpc(name) => GRPC.iter().find(|(known, _)| known == name).map_or(0, |(_, number)| 1 << number),
            _ => 0,
        };
        Self {
            attempts: usize::from(config.attempts),
            connect: has(Condition::Connect),
            reset: has(Condition::Reset),
            timeout: has(Condition::Timeout),
            statuses: statuses.collect(),
            grpc: config.when.iter().fold(0, |bits, condition| bits | number(condition)),
            per_try: config.per_try.map(|time| time.get()),
            backoff: config.backoff.base.get(),
            backoff_max: config.backoff.max.get(),
            ratio: config.budget.ratio,
            min_per_second: config.budget.min_per_second,
        }
    }

    /// Whether an answer with this head is one to try again for.
    pub(super) fn wants_head(&self, head: &Parts) -> bool {
        if self.statuses.iter().any(|some| some.contains(head.status.as_u16())) {
            return true;
        }
        if self.grpc == 0 {
            return false;
        }
        let status: Option<u32> = head.headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
        status.is_some_and(|status| self.grpc & 1_u32.checked_shl(status).unwrap_or(0) != 0)
    }

    /// Whether this error is one to try again for.
    pub(super) fn wants_error(&self, kind: Kind) -> bool {
        match kind {
            Kind::Timeout => self.timeout,
            Kind::Reset | Kind::Incomplete => self.reset,
            _ => self.connect && kind.is_connect(),
        }
    }
}

/// Why there is no other try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// All requests together have had too many.
    Budget,
    /// This one has had its tries or its time, or is asked to wait too long.
    Other,
}

/// How far a request has come with its tries.
pub(super) struct Course<'p> {
    plan: &'p Plan,
    budget: &'p Budget,
    deadline: Instant,
    tries: usize,
}

impl<'p> Course<'p> {
    pub(super) fn begin(plan: &'p Plan, budget: &'p Budget, deadline: Instant, now: Instant) -> Self {
        budget.deposit(plan, now);
        Self { plan, budget, deadline, tries: 1 }
    }

    /// Whether another try may be needed.
    pub(super) fn is_open(&self) -> bool {
        self.tries < self.plan.attempts
    }

    /// How long to wait before another try, if there is to be one. `is_elsewhere`: an endpoint is left that was not
    /// tried, so that nobody needs to wait.
    pub(super) fn next(
        &mut self,
        is_elsewhere: bool,
        asked: Option<Duration>,
        now: Instant,
    ) -> Result<Duration, Spent> {
        if !self.is_open() {
            return Err(Spent::Other);
        }
        let bound = self.plan.backoff.saturating_mul(1 << (self.tries - 1).min(16)).min(self.plan.backoff_max);
        let wait = match asked {
            _ if is_elsewhere => Duration::ZERO,
            Some(asked) if asked > self.plan.backoff_max => return Err(Spent::Other),
            Some(asked) => asked,
            None => bound.mul_f64(fastrand::f64()),
        };
        let left = self.deadline.saturating_duration_since(now);
        if left < wait + TRY_MIN {
            return Err(Spent::Other);
        }
        if !self.budget.withdraw(self.plan, now) {
            return Err(Spent::Budget);
        }
        self.tries += 1;
        Ok(wait)
    }
}

/// What an answer asks to wait for: seconds, or a point in time (RFC 9110 §10.2.3), which is counted from the answer's own
/// `Date`: two clocks need not agree.
pub(super) fn retry_after(head: &Parts) -> Option<Duration> {
    let text = head.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let date = httpdate::parse_http_date(head.headers.get(DATE)?.to_str().ok()?).ok()?;
    // What is over is no wait.
    Some(until.duration_since(date).unwrap_or_default())
}

/// The tries beyond the first that all requests of an upstream may still make: what retries and hedges share.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Purse>);

#[derive(Debug, Default)]
struct Purse {
    tries: f64,
    at: Option<Instant>,
}

impl Budget {
    /// A request came.
    pub(super) fn deposit(&self, plan: &Plan, now: Instant) {
        self.with(|purse| {
            purse.fill(plan, now);
            purse.tries = (purse.tries + plan.ratio).min(Purse::most(plan));
        });
    }

    /// Leave for a try, if one is left.
    pub(super) fn withdraw(&self, plan: &Plan, now: Instant) -> bool {
        self.with(|purse| {
            purse.fill(plan, now);
            let is_left = purse.tries >= 1.0;
            if is_left {
                purse.tries -= 1.0;
            }
            is_left
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Purse) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Purse {
    fn most(plan: &Plan) -> f64 {
        (f64::from(plan.min_per_second) * SAVED).max(10.0 * plan.ratio).max(1.0)
    }

    fn fill(&mut self, plan: &Plan, now: Instant) {
        let per_second = f64::from(plan.min_per_second);
        // At first it is full.
        let since = self.at.map_or(SAVED, |at| now.saturating_duration_since(at).as_secs_f64());
        self.tries = (self.tries + since * per_second).min(Self::most(plan));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::retry;

    fn plan(attempts: u8, budget: retry::Budget) -> Plan {
        Plan::of(&Retry { attempts, budget, ..Retry::default() })
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests_and_a_few_per_second() {
        let plan = plan(2, retry::Budget { ratio: 0.25, min_per_second: 1 });
        let (budget, now) = (Budget::default(), Instant::now());
        let withdrawn = |at: Instant| (0..1000).filter(|_| budget.withdraw(&plan, at)).count();
        assert_eq!(withdrawn(now), 10, "full at first");
        for _ in 0..16 {
            budget.deposit(&plan, now);
        }
        assert_eq!(withdrawn(now), 4);
        assert_eq!(withdrawn(now + Duration::from_secs(3)), 3);
        assert_eq!(withdrawn(now + Duration::from_secs(3600)), 10, "no more is saved up than that");
    }

    #[test]
    fn a_try_needs_attempts_time_and_budget() {
        let plan = plan(3, retry::Budget { ratio: 0.0, min_per_second: 100 });
        let (budget, now) = (Budget::default(), Instant::now());
        let course = |left| Course::begin(&plan, &budget, now + Duration::from_millis(left), now);
        let (none, at_once) = (Err(Spent::Other), Ok(Duration::ZERO));
        let mut tries = course(30_000);
        assert_eq!(tries.next(true, None, now), at_once);
        let wait = tries.next(false, None, now).unwrap();
        assert!(wait <= Duration::from_millis(50), "{wait:?}");
        assert_eq!(tries.next(true, None, now), none, "three in all");
        assert_eq!(course(4).next(true, None, now), none, "no time is left");
        let second = Duration::from_secs(1);
        assert_eq!(course(900).next(false, Some(second), now), none);
        assert_eq!(course(1_100).next(false, Some(second), now), Ok(second));
        assert_eq!(course(9_000).next(false, Some(second * 2), now), none, "that is asked too much");
        assert_eq!(course(9_000).next(true, Some(second * 2), now), at_once, "not of others");
        while budget.withdraw(&plan, now) {}
        assert_eq!(course(9_000).next(true, None, now), Err(Spent::Budget), "none is left for anybody");
    }

    #[test]
    fn an_answer_asks_for_seconds_or_for_a_point_in_time() {
        for (asked, date, expected) in [
            ("7", None, Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", None, None),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some("Sun, 06 Nov 1994 08:49:44 GMT"), Some(3)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(10)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some("soon"), None),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0)),
            ("soon", None, None),
            ("-1", None, None),
        ] {
            let mut response = http::Response::builder().header(RETRY_AFTER, asked);
            if let Some(date) = date {
                response = response.header(DATE, date);
            }
            let (head, ()) = response.body(()).unwrap().into_parts();
            assert_eq!(retry_after(&head).map(|wait| wait.as_secs()), expected, "{asked} {date:?}");
        }
    }

    #[test]
    fn conditions_are_told_apart() {
        let config = serde_json::json!({"when": ["timeout", "503", "520-529", "ABORTED"]});
        let plan = Plan::of(&serde_json::from_value(config).unwrap());
        assert!(plan.wants_error(Kind::Timeout) && !plan.wants_error(Kind::Reset) && !plan.wants_error(Kind::Refused));
        for (status, grpc, expected) in [
            (503, "", true),
            (502, "", false),
            (525, "", true),
            (200, "", false),
            (200, "10", true),
            (200, "14", false),
        ] {
            let mut response = http::Response::builder().status(status);
            if !grpc.is_empty() {
                response = response.header("grpc-status", grpc);
            }
            let (head, ()) = response.body(()).unwrap().into_parts();
            assert_eq!(plan.wants_head(&head), expected, "{status} {grpc}");
        }
    }
}
