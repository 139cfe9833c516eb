//! The breaker of an upstream, of an endpoint or of a route's calls: one for all workers, kept over reloads.
//!
//! `machine.rs` decides; this is the lock around it, and what the world learns of its decisions. The lock is held for
//! counting only.

mod judge;
mod machine;
mod overdue;
#[cfg(test)]
mod tests;
mod window;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::response::Parts;
use serde_json::{Value, json};

pub use judge::Judge;
pub use machine::{Cause, Change, Force, Outcome, Refusal, Rules, State};
use machine::{Machine, Ticket};

use super::error::Kind;
use super::sync::{Mutex, MutexGuard};
use crate::config::breaker::Scope;
use crate::telemetry::metrics::{BreakerMetrics, Metrics};

/// What the breakers of an upstream go by.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What has one of its own.
    pub scope: Scope,
    /// When they open, and for how long.
    pub rules: Arc<Rules>,
    /// What counts as failure.
    pub judge: Arc<Judge>,
}

/// What a breaker is of.
#[derive(Clone, Debug)]
pub enum Of {
    /// The whole upstream.
    All,
    /// The endpoint of this label.
    Endpoint(Arc<str>),
    /// What the route of this name sends there.
    Route(Arc<str>),
}

impl Of {
    /// The endpoint, if it is of one.
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Endpoint(label) => Some(label),
            Self::All | Self::Route(_) => None,
        }
    }

    /// The route, if it is of one.
    pub fn route(&self) -> Option<&str> {
        match self {
            Self::Route(name) => Some(name),
            Self::All | Self::Endpoint(_) => None,
        }
    }
}

/// A breaker.
pub struct Breaker {
    upstream: Arc<str>,
    of: Of,
    machine: Mutex<Machine>,
    refused: AtomicU64,
    metrics: BreakerMetrics,
}

impl Breaker {
    /// A closed one.
    pub fn new(upstream: &str, of: Of, rules: &Rules, metrics: &Metrics, now: Instant) -> Self {
        let metrics = metrics.breaker(upstream, of.endpoint().unwrap_or(""), of.route().unwrap_or(""));
        let machine = Machine::new(rules, now, fastrand::u64(..));
        metrics.state(machine.holds().number(), false);
        Self { upstream: upstream.into(), of, machine: Mutex::new(machine), refused: AtomicU64::new(0), metrics }
    }

    /// What it is of.
    pub fn of(&self) -> &Of {
        &self.of
    }

    /// Leave for one call, to be settled with its outcome. Dropped before, the call says nothing. One that is not
    /// `is_timed` has no time until `counts_from` gives it one, and is never slow before.
    ///
    /// # Errors
    /// It is open, or half-open with all its probes out.
    pub fn admit<'b>(self: &'b Arc<Self>, plan: &'b Plan, is_timed: bool, now: Instant) -> Result<Permit<'b>, Refusal> {
        let admitted = self.change(|machine| machine.admit(&plan.rules, is_timed, now));
        match admitted {
            Ok(ticket) => Ok(Permit { breaker: self, plan, ticket: Some(ticket) }),
            Err(refusal) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                self.metrics.refused(refusal.as_str());
                Err(refusal)
            }
        }
    }

    /// The answer of a call that had counted as a success broke off.
    pub(super) fn broke_off(&self, rules: &Rules, ticket: &Ticket, now: Instant) {
        self.change(|machine| ((), machine.broke_off(rules, ticket, now)));
    }

    /// A health check succeeded.
    pub fn hurry(&self, rules: &Rules, now: Instant) {
        self.change(|machine| ((), machine.hurry(rules, now)));
    }

    /// Whether calls pass as if nothing were wrong.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().state() == State::Closed
    }

    /// An operator overrides it for a while.
    pub fn force(&self, force: Force, lasts: Duration, now: Instant) {
        let word = force.as_str();
        self.change(|machine| (machine.override_until(force, now + lasts), None));
        let (endpoint, route) = (self.of.endpoint(), self.of.route());
        tracing::warn!(upstream = %self.upstream, endpoint, route, force = word, ?lasts, "breaker forced");
    }

    /// An operator lets it start afresh.
    pub fn reset(&self, now: Instant) {
        tracing::warn!(upstream = %self.upstream, endpoint = self.of.endpoint(), route = self.of.route(), "breaker reset");
        self.change(|machine| ((), machine.reset(now)));
    }

    /// What is lost with it that an operator gave it: nobody else would tell of that.
    pub(super) fn loss(&self, now: Instant) -> Option<String> {
        let (force, left) = self.change(|machine| (machine.sight(now), None)).forced?;
        Some(format!("with the override that held it {} for {}s more", force.as_str(), left.as_secs()))
    }

    /// What operators see of it.
    pub fn shown(&self, now: Instant) -> Value {
        let sight = self.change(|machine| (machine.sight(now), None));
        let forced =
            sight.forced.map(|(force, left)| json!({"state": force.as_str(), "seconds_left": left.as_secs_f64()}));
        json!({
            "state": sight.state.as_str(),
            "own_state": sight.own.as_str(),
            "for_seconds": sight.since.as_secs_f64(),
            "retry_after_seconds": sight.retry_after.map(|left| left.as_secs_f64()),
            "requests": sight.tally.calls(),
            "failures": sight.tally.failures,
            "failure_ratio": sight.tally.ratio(),
            "failures_in_row": sight.failures_in_row,
            "probing": sight.probing,
            "refused": self.refused.load(Ordering::Relaxed),
            "forced": forced,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // Nothing in there panics half-way.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the machine, and tells what became of it.
    fn change<T>(&self, act: impl FnOnce(&mut Machine) -> (T, Option<Change>)) -> T {
        let (result, change, lapsed, was, is) = {
            let mut machine = self.lock();
            let was = (machine.holds(), machine.is_forced());
            let (result, change) = act(&mut machine);
            (result, change, machine.take_lapsed(), was, (machine.holds(), machine.is_forced()))
        };
        let (holds, is_forced) = is;
        if was != is {
            self.metrics.state(holds.number(), is_forced);
        }
        if let Some(force) = lapsed {
            let (endpoint, route, force) = (self.of.endpoint(), self.of.route(), force.as_str());
            tracing::info!(upstream = %self.upstream, endpoint, route, force, now = holds.as_str(), "breaker no longer forced");
        }
        if let Some(change) = change {
            self.tell(&change);
        }
        result
    }

    fn tell(&self, change: &Change) {
        self.metrics.changed(change.from.as_str(), change.to.as_str(), change.cause.as_str());
        let (upstream, endpoint, route) = (&*self.upstream, self.of.endpoint(), self.of.route());
        let (from, to, cause) = (change.from.as_str(), change.to.as_str(), change.cause.as_str());
        let (requests, failures) = (change.tally.calls(), change.tally.failures);
        match change.to {
            State::Open => {
                let open_for = change.open_for;
                tracing::warn!(upstream, endpoint, route, from, cause, requests, failures, ?open_for, "breaker opened");
            }
            State::HalfOpen | State::Closed => {
                tracing::info!(upstream, endpoint, route, from, to, cause, requests, failures, "breaker changed");
            }
        }
    }
}

/// Leave for one call. Its drop frees its place: a call that was given up says nothing of the upstream.
pub struct Permit<'b> {
    breaker: &'b Arc<Breaker>,
    plan: &'b Plan,
    ticket: Option<Ticket>,
}

impl Permit<'_> {
    /// An answer began. Gives who is to hear how it goes on, unless it has failed already.
    pub(super) fn answered(self, head: &Parts, now: Instant) -> Option<Watch> {
        let outcome = self.plan.judge.of_head(head);
        let Plan { rules, judge, .. } = self.plan;
        let breaker = self.breaker;
        let ticket = self.settle(outcome, now)?;
        (outcome == Outcome::Success).then(|| Watch {
            breaker: breaker.clone(),
            rules: rules.clone(),
            judge: judge.clone(),
            ticket,
        })
    }

    /// The upstream's time of a call that was not timed from its begin begins at `at`.
    pub(super) fn counts_from(&mut self, at: Instant) {
        if let Some(ticket) = &mut self.ticket {
            ticket.counts_from(at);
        }
    }

    /// There was no answer.
    pub(super) fn failed(self, kind: Kind, now: Instant) {
        let outcome = self.plan.judge.of_error(kind);
        self.settle(outcome, now);
    }

    /// The call ended.
    pub fn settle(mut self, outcome: Outcome, now: Instant) -> Option<Ticket> {
        let mut ticket = self.ticket.take()?;
        self.breaker.settle(&self.plan.rules, &mut ticket, outcome, now);
        Some(ticket)
    }
}

impl Breaker {
    fn settle(&self, rules: &Rules, ticket: &mut Ticket, outcome: Outcome, now: Instant) {
        let ratio = self.change(|machine| {
            let change = machine.settle(rules, ticket, outcome, now);
            (machine.tally().ratio(), change)
        });
        self.metrics.ratio(ratio);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(mut ticket) = self.ticket.take() {
            self.breaker.settle(&self.plan.rules, &mut ticket, Outcome::Excluded, Instant::now());
        }
    }
}

/// The breaker of an exchange whose answer is still being read.
pub(super) struct Watch {
    pub(super) breaker: Arc<Breaker>,
    pub(super) rules: Arc<Rules>,
    pub(super) judge: Arc<Judge>,
    pub(super) ticket: Ticket,
}

impl Watch {
    /// The answer broke off, and it is the upstream's doing.
    pub(super) fn broke_off(&self) {
        if self.judge.counts_cuts() {
            self.breaker.broke_off(&self.rules, &self.ticket, Instant::now());
        }
    }

    /// The answer ended with these fields.
    pub(super) fn ended(&self, trailers: &HeaderMap) {
        if self.judge.fails(trailers) {
            self.breaker.broke_off(&self.rules, &self.ticket, Instant::now());
        }
    }
}
