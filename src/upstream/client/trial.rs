//! One try at an endpoint, and who learns from how it ends.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::response;
use smallvec::SmallVec;

use crate::http::body::Inbound;
use crate::telemetry::record::AttemptRow;
use crate::upstream::Upstream;
use crate::upstream::bench::Bench;
use crate::upstream::breaker::{self, Outcome, Watch};
use crate::upstream::error::{Error, Kind};
use crate::upstream::turns;

/// One try, recorded when it ends, however it ends.
pub(super) struct Trial<'t, 'u> {
    pub(super) endpoint: &'t Arc<str>,
    pub(super) place: usize,
    pub(super) upstream: &'u Upstream,
    pub(super) bench: &'t Rc<Bench>,
    pub(super) is_queued: &'t Cell<bool>,
    pub(super) attempts: &'t mut SmallVec<[AttemptRow; 2]>,
    pub(super) began: Instant,
    pub(super) due: Instant,
    pub(super) leave: Option<breaker::Permit<'u>>,
    pub(super) inbound: Option<Rc<Inbound>>,
    pub(super) outcome: Option<&'static str>,
}

impl Trial<'_, '_> {
    /// An answer began. Gives who is to hear how it goes on.
    pub(super) fn answered(mut self, head: &response::Parts) -> Option<Watch> {
        let now = Instant::now();
        let uploaded = self.inbound.as_ref().and_then(|inbound| inbound.ended_at.get());
        let watch = self.leave.take().and_then(|mut leave| {
            if let Some(at) = uploaded {
                leave.counts_from(at);
            }
            leave.answered(head, now)
        });
        if self.upstream.plan.ejection.is_some() {
            match self.upstream.plan.judge.of_head(head) {
                Outcome::Failure => self.counts_against(now),
                Outcome::Success | Outcome::Answered => self.upstream.standings.succeeded(self.place),
                Outcome::Excluded => {}
            }
        }
        // How long the client took for its body is not the upstream's doing.
        if let Some(since) = turns::since(self.inbound.as_deref(), self.began) {
            self.took(since, now);
            if self.upstream.plan.hedge.is_some() {
                self.upstream.state.latency.note(now.saturating_duration_since(since));
            }
        }
        self.upstream.metrics.responded(now.saturating_duration_since(self.began));
        self.end("ok", Some(head.status.as_u16()), None, true, now);
        watch
    }

    /// Whether it waits for others to leave their connections, which is armiger's bound and not the endpoint's doing.
    pub(super) fn is_queued(&self) -> bool {
        self.is_queued.get() && !self.bench.is_coming()
    }

    /// There was no answer.
    pub(super) fn failed(&mut self, error: &Error) {
        let kind = error.kind();
        let now = Instant::now();
        if let Some(leave) = self.leave.take() {
            leave.failed(kind, now);
        }
        if self.upstream.plan.judge.of_error(kind) == Outcome::Failure {
            self.counts_against(now);
        }
        if kind == Kind::Timeout {
            self.took(turns::since(self.inbound.as_deref(), self.began).unwrap_or(self.began), now);
        }
        self.end(kind.slug(), None, error.cause(), !kind.asks_nobody(), now);
    }

    /// The connection had ended before it was used: that says nothing of the upstream.
    pub(super) fn is_race(&mut self, error: &Error) {
        drop(self.leave.take());
        self.end(error.slug(), None, error.cause(), true, Instant::now());
    }

    /// What is learnt of how much the upstream bears, whose turn it was since then.
    fn took(&self, since: Instant, now: Instant) {
        let Upstream { plan, state, metrics, .. } = self.upstream;
        if plan.bounds.adaptive.is_some() {
            state.bulkhead.took(&plan.bounds, now.saturating_duration_since(since), now, metrics);
        }
    }

    fn counts_against(&self, now: Instant) {
        let Upstream { name, plan, standings, .. } = self.upstream;
        if let Some(ejection) = &plan.ejection
            && standings.failed(self.place, ejection, now)
        {
            tracing::warn!(upstream = %name, endpoint = %self.endpoint, "endpoint ejected");
        }
    }

    fn end(
        &mut self,
        outcome: &'static str,
        status: Option<u16>,
        cause: Option<Cow<'static, str>>,
        was_asked: bool,
        now: Instant,
    ) {
        let duration = now.saturating_duration_since(self.began);
        self.outcome = Some(outcome);
        self.upstream.metrics.attempted(outcome);
        self.attempts.push(AttemptRow { addr: self.endpoint.clone(), outcome, status, cause, duration, was_asked });
    }
}

impl Drop for Trial<'_, '_> {
    fn drop(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let now = Instant::now();
        // Whoever gives up early says nothing of the upstream, be it by the deadline that it asked for; but if the time that
        // the configuration gives was over, it is the upstream that used it up, unless it waited for the client itself, or the
        // client had left it the lesser part.
        let inbound = self.inbound.as_deref();
        let is_clients = turns::is_clients(inbound)
            || turns::since(inbound, self.began).is_some_and(|since| {
                now.saturating_duration_since(since) < since.saturating_duration_since(self.began)
            });
        if now >= self.due && !is_clients && !self.is_queued() {
            if let Some(leave) = self.leave.take() {
                leave.failed(Kind::Timeout, now);
            }
            if self.upstream.plan.judge.of_error(Kind::Timeout) == Outcome::Failure {
                self.counts_against(now);
            }
        }
        self.end("abandoned", None, None, !self.is_queued(), now);
    }
}
