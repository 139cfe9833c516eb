//! Asking a second endpoint when the first one takes longer than most answers do.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body::Body as _;
use smallvec::SmallVec;

use super::error::Error;
use super::pool::Pools;
use super::retry;
use super::tries::{Tried, push};
use super::{Call, Upstream};
use crate::http::body::Body;
use crate::http::websocket::Wish;
use crate::telemetry::record::AttemptRow;

/// What hedging goes by.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The share of answers that come sooner than a second endpoint is asked.
    pub(super) percentile: f64,
    /// It is not asked sooner than this.
    pub(super) floor: Duration,
    /// The budget that it is asked from: that of retries.
    pub(super) purse: retry::Plan,
}

/// How long answers took of late, in steps, four to a doubling.
pub(super) struct Latency {
    steps: [AtomicU32; STEPS],
    total: AtomicU32,
}

const STEPS: usize = 96;

/// The end of the first step.
const LEAST: f64 = 0.000_1;

/// Before so many answers nobody knows what is late.
const SAMPLES_MIN: u32 = 50;

/// So many answers are remembered, then each counts half.
const SAMPLES_MAX: u32 = 2_000;

impl Default for Latency {
    fn default() -> Self {
        Self { steps: [const { AtomicU32::new(0) }; STEPS], total: AtomicU32::new(0) }
    }
}

impl Latency {
    /// An answer took this long.
    pub(super) fn note(&self, time: Duration) {
        let step = (time.as_secs_f64() / LEAST).max(1.0).log2() * 4.0;
        self.steps[(step as usize).min(STEPS - 1)].fetch_add(1, Ordering::Relaxed);
        // Whoever counts the last one sees to it that the past fades. What others add meanwhile may be halved too.
        if self.total.fetch_add(1, Ordering::Relaxed) + 1 == SAMPLES_MAX {
            let halved = |step: &AtomicU32| {
                let half = step.load(Ordering::Relaxed) / 2;
                step.store(half, Ordering::Relaxed);
                half
            };
            let left = self.steps.iter().map(halved).sum();
            self.total.store(left, Ordering::Relaxed);
        }
    }

    /// The time within which this share of answers came; none before enough of them did.
    pub(super) fn within(&self, share: f64) -> Option<Duration> {
        let counts: [u32; STEPS] = std::array::from_fn(|step| self.steps[step].load(Ordering::Relaxed));
        let total: u32 = counts.iter().sum();
        if total < SAMPLES_MIN {
            return None;
        }
        let wanted = f64::from(total) * share;
        let mut seen = 0.0;
        let step = counts.iter().position(|count| {
            seen += f64::from(*count);
            seen >= wanted
        });
        // The end of its step: rather late than for nothing.
        let end = LEAST * 2_f64.powf((step.unwrap_or(STEPS - 1) + 1) as f64 / 4.0);
        Some(Duration::from_secs_f64(end))
    }
}

/// What two tries at once know of each other.
#[derive(Clone, Copy, Default)]
pub(super) struct Side<'c> {
    /// Where the first one tells which endpoint it asks.
    pub(super) tells: Option<&'c Cell<Option<usize>>>,
    /// It is the second one, and the first asks this endpoint.
    pub(super) shuns: Option<usize>,
}

/// The rows of both, which stand in the exchange's record whatever becomes of it: those of who won last.
struct Rows<'c> {
    all: &'c mut SmallVec<[AttemptRow; 2]>,
    first: SmallVec<[AttemptRow; 2]>,
    second: SmallVec<[AttemptRow; 2]>,
    is_second_first: bool,
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        let (loser, winner) = if self.is_second_first {
            (&mut self.first, &mut self.second)
        } else {
            (&mut self.second, &mut self.first)
        };
        self.all.extend(loser.drain(..));
        self.all.extend(winner.drain(..));
    }
}

type Outcome = Result<Response<Body>, Error>;

impl Upstream {
    /// Whether a second endpoint may be asked for `request` too: such go by [`Upstream::hedge`].
    pub fn hedges(&self, request: &Request<Body>) -> bool {
        self.plan.hedge.is_some()
            && (*request.method() == Method::GET || *request.method() == Method::HEAD)
            && request.body().is_end_stream()
            && request.extensions().get::<Wish>().is_none()
    }

    /// As [`Upstream::send`], and to another endpoint too if the answer is late. One answer is given; who comes second is
    /// ended.
    ///
    /// # Errors
    ///
    /// As of [`Upstream::send`]; of two that fail, what came of the first.
    pub async fn hedge(
        &self,
        pools: &Pools,
        call: Call<'_>,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let Some(plan) = &self.plan.hedge else { return self.send(pools, call, request).await };
        let budget = &self.state.budget;
        if self.plan.retry.is_none() {
            budget.deposit(&plan.purse, Instant::now());
        }
        let Some(late) = self.state.latency.within(plan.percentile) else {
            return self.send(pools, call, request).await;
        };
        let mut again = Request::new(Body::Empty);
        *again.method_mut() = request.method().clone();
        *again.uri_mut() = request.uri().clone();
        *again.headers_mut() = request.headers().clone();
        let asks = Cell::new(None);
        let Call { host, deadline, due, class, tells, ends, key, attempts, .. } = call;
        let mut rows = Rows { all: attempts, first: SmallVec::new(), second: SmallVec::new(), is_second_first: false };
        let side = Side { tells: Some(&asks), shuns: None };
        let call = Call { host, deadline, due, class, tells, ends, key, attempts: &mut rows.first, side };
        let mut first = pin!(self.send(pools, call, request));
        let mut timer = pools.wheel().timer();
        timer.arm(late.max(plan.floor));
        let early = poll_fn(|cx| {
            if let Poll::Ready(outcome) = first.as_mut().poll(cx) {
                return Poll::Ready(Some(outcome));
            }
            timer.poll_expired(cx).map(|()| None)
        });
        if let Some(outcome) = early.await {
            return outcome;
        }
        timer.disarm();
        // Who waits for a place, or has nobody else to ask, is not helped by asking twice.
        let Some(place) = asks.get().filter(|place| self.may_hedge(*place, plan)) else { return first.await };
        let side = Side { tells: None, shuns: Some(place) };
        let call = Call { host, deadline, due, class, tells, ends, key, attempts: &mut rows.second, side };
        let second = pin!(self.send(pools, call, &mut again));
        let (outcome, is_seconds) = race(first.as_mut(), second).await;
        self.metrics.hedged(if is_seconds { "won" } else { "lost" });
        rows.is_second_first = is_seconds;
        outcome
    }

    fn may_hedge(&self, place: usize, plan: &Plan) -> bool {
        let now = Instant::now();
        let current = self.now();
        let mut tried = Tried::new();
        push(&mut tried, place);
        let bulkhead = &self.state.bulkhead;
        let may = current.has_another(&tried, now)
            && bulkhead.waiting() == 0
            && bulkhead.taken() < bulkhead.bound(&self.plan.bounds);
        if may && !self.state.budget.withdraw(&plan.purse, now) {
            self.metrics.retry_budget_spent();
            return false;
        }
        may
    }
}

/// The first of both that is an answer and no failure; where neither is, what came of the first.
async fn race(
    mut first: Pin<&mut impl Future<Output = Outcome>>,
    mut second: Pin<&mut impl Future<Output = Outcome>>,
) -> (Outcome, bool) {
    let is_good = |outcome: &Outcome| outcome.as_ref().is_ok_and(|answer| !answer.status().is_server_error());
    let (mut firsts, mut seconds) = (None, None);
    poll_fn(|cx| {
        if firsts.is_none()
            && let Poll::Ready(outcome) = first.as_mut().poll(cx)
        {
            if is_good(&outcome) {
                return Poll::Ready((outcome, false));
            }
            firsts = Some(outcome);
        }
        if seconds.is_none()
            && let Poll::Ready(outcome) = second.as_mut().poll(cx)
        {
            if is_good(&outcome) {
                return Poll::Ready((outcome, true));
            }
            seconds = Some(outcome);
        }
        if seconds.is_some()
            && let Some(outcome) = firsts.take()
        {
            return Poll::Ready((outcome, false));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_known_from_enough_answers_and_follows_them() {
        let latency = Latency::default();
        let within = |share| latency.within(share).map(|time| time.as_secs_f64() * 1000.0);
        for _ in 0..SAMPLES_MIN - 1 {
            latency.note(Duration::from_millis(10));
        }
        assert_eq!(within(0.95), None);
        latency.note(Duration::from_secs(1));
        assert!((10.0..=12.0).contains(&within(0.95).unwrap()), "{:?}", within(0.95));
        assert!(within(1.0).unwrap() >= 1000.0);
        for _ in 0..20_000 {
            latency.note(Duration::from_millis(100));
        }
        assert!((100.0..=120.0).contains(&within(0.5).unwrap()), "{:?}", within(0.5));
        assert!((100.0..=120.0).contains(&within(0.999).unwrap()), "the past fades: {:?}", within(0.999));
        latency.note(Duration::ZERO);
        latency.note(Duration::from_secs(u64::MAX));
        assert!(within(1.0).is_some());
    }
}
