//! The steps of a saga in their order, and, if one fails, the compensation of those before it in the reverse order.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, StatusCode};
use smallvec::SmallVec;

use super::account::{Account, End, Row, State, Undone};
use super::{Saga, Undo};
use crate::action::call::{self, Failed, Whose};
use crate::action::fill::{Known, Unfilled};
use crate::action::json::Json;
use crate::action::outgoing::Outgoing;
use crate::config::upstream::Class;
use crate::exchange::Exchange;
use crate::http::body::Body;
use crate::http::headers::name;
use crate::telemetry::record::{AttemptRow, PartRow};
use crate::upstream::{Kind, Pools, Tells};

/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Words for what went wrong, beside the slugs of upstreams.
mod word {
    pub(super) const OK: &str = "ok";
    pub(super) const STATUS: &str = "step-status";
    pub(super) const TIMEOUT: &str = "step-timeout";
    pub(super) const DEADLINE: &str = "deadline-exceeded";
    pub(super) const CLIENT_CLOSED: &str = "client-closed";
    pub(super) const VALUE_MISSING: &str = "step-value-missing";
    pub(super) const UNPLACEABLE: &str = "step-value-unplaceable";
    pub(super) const BODY: &str = "step-body";
}

/// What a saga runs on.
pub struct Course<'c> {
    /// An exchange of its own, with the headers that requests are made from.
    pub exchange: &'c Exchange,
    /// The client's body, if values are taken from it.
    pub request_body: Option<Json>,
    /// Connections to upstreams.
    pub pools: &'c Pools,
    /// What becomes of it.
    pub account: &'c Account,
}

/// Why a step was not let to its end.
enum Stopped {
    Deadline,
    Left,
}

/// Says so if the saga ends before its end: it was cut.
struct Watch<'w> {
    saga: &'w Saga,
    course: &'w Course<'w>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let (exchange, account) = (self.course.exchange, self.course.account);
        if account.book().end.is_some() {
            return;
        }
        self.saga.metrics.ended("cut");
        exchange.closing.work_cut();
        tracing::error!(
            route = exchange.route_name(),
            saga = &*account.id,
            request_id = exchange.request_id(),
            steps = account.book().summary(),
            "saga cut: what it did is not undone"
        );
    }
}

impl Saga {
    /// Does the steps, and undoes them if one fails. `poll_left` is ready once the client is gone.
    pub async fn run(&self, course: Course<'_>, mut poll_left: impl FnMut(&mut Context<'_>) -> Poll<()>) {
        let watch = Watch { saga: self, course: &course };
        let account = course.account;
        let until = course.exchange.started + self.deadline;
        let mut end = End::Completed;
        for place in 0..self.steps.len() {
            if !self.step(place, &course, until, &mut poll_left).await {
                account.write().failed = Some(place);
                end = self.compensate(&course).await;
                break;
            }
        }
        account.write().end = Some(end);
        drop(watch);
        self.metrics.ended(end.word());
        let (exchange, steps) = (course.exchange, account.book().summary());
        let (route, request_id) = (exchange.route_name(), exchange.request_id());
        match end {
            End::Completed => tracing::debug!(route, saga = &*account.id, request_id, "saga completed"),
            End::Compensated => tracing::warn!(route, saga = &*account.id, request_id, steps, "saga undone"),
            End::Unresolved => {
                tracing::error!(
                    route,
                    saga = &*account.id,
                    request_id,
                    steps,
                    "saga not undone: somebody must look at it"
                );
            }
        }
    }

    /// Does a step. Whether it is done.
    async fn step(
        &self,
        place: usize,
        course: &Course<'_>,
        until: Instant,
        poll_left: &mut impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> bool {
        let Some(step) = self.steps.get(place) else { return false };
        let began = Instant::now();
        let own_until = step.timeout.map_or(until, |timeout| until.min(began + timeout));
        let stopped = |row: &mut Row, stopped: &Stopped| {
            (row.reason, row.is_late) = match stopped {
                Stopped::Deadline if own_until < until => (Some(word::TIMEOUT), true),
                Stopped::Deadline => (Some(word::DEADLINE), true),
                Stopped::Left => (Some(word::CLIENT_CLOSED), false),
            };
        };
        let mut timer = course.exchange.wheel.timer();
        timer.arm_at(own_until);
        let mut poll_stopped = |cx: &mut Context<'_>| {
            if timer.poll_expired(cx).is_ready() {
                return Poll::Ready(Stopped::Deadline);
            }
            poll_left(cx).map(|()| Stopped::Left)
        };
        // Nothing is begun that nobody waits for.
        let early = std::future::poll_fn(|cx| Poll::Ready(poll_stopped(cx))).await;
        if let Poll::Ready(why) = early {
            stopped(&mut course.account.write().rows[place], &why);
            return false;
        }
        let request = match course.request(&step.outgoing, &step.name) {
            Ok(request) => request,
            Err(why) => {
                let mut book = course.account.write();
                let row = &mut book.rows[place];
                (row.state, row.reason) = (State::Failed, Some(why));
                step.metrics.ended(row.state.word());
                return false;
            }
        };
        // As long as nobody says otherwise.
        course.account.write().rows[place].state = State::Uncertain;
        let mut attempts = SmallVec::new();
        let answer = {
            let whose = self.whose(course, own_until, self.class);
            let accepts = |status| step.accepts(status);
            let sent = call::send(&step.upstream, course.pools, whose, &mut attempts, request, step.body_max, accepts);
            let mut sent = pin!(sent);
            std::future::poll_fn(|cx| match sent.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                Poll::Pending => poll_stopped(cx).map(Err),
            })
            .await
        };
        let is_first_try = attempts.len() <= 1;
        let mut book = course.account.write();
        let row = &mut book.rows[place];
        match answer {
            Ok(Ok(reply)) if step.accepts(reply.status) => {
                (row.state, row.status, row.headers) = (State::Done, Some(reply.status), reply.headers);
                // It is done, whatever is to be read of it.
                row.body = Json::check(reply.body).unwrap_or_else(|_| Json::null());
            }
            Ok(Ok(reply)) => {
                (row.status, row.reason) = (Some(reply.status), Some(word::STATUS));
                // A second try that is refused may be so because the first was not.
                if is_first_try && reply.status.as_u16() < 500 {
                    row.state = State::Failed;
                }
            }
            Ok(Err(Failed::Upstream(kind))) => {
                (row.reason, row.is_late) = (Some(kind.slug()), matches!(kind, Kind::Timeout | Kind::ConnectTimeout));
                if is_first_try && kind.is_retryable() {
                    row.state = State::Failed;
                }
            }
            // Its status said that it is done.
            Ok(Err(Failed::Body(_) | Failed::TooLarge | Failed::Coding)) => {
                (row.state, row.reason) = (State::Done, Some(word::BODY));
            }
            Err(why) => stopped(row, &why),
        }
        let (state, part) = (row.state, (row.status, row.reason.unwrap_or(word::OK)));
        step.metrics.ended(state.word());
        book.log(&step.name, &step.upstream.name, part, began, attempts);
        state == State::Done
    }

    /// Undoes what was done, or may have been, the last first. One that fails does not keep the others from it.
    async fn compensate(&self, course: &Course<'_>) -> End {
        for (row, step) in course.account.write().rows.iter_mut().zip(&self.steps) {
            if row.state.may_be_done() && !step.outgoing.method.is_safe() {
                row.undone = if step.undo.is_some() { Undone::Pending } else { Undone::Off };
            }
        }
        let mut end = End::Compensated;
        for (place, step) in self.steps.iter().enumerate().rev() {
            if course.account.book().rows[place].undone != Undone::Pending {
                continue;
            }
            let Some(undo) = &step.undo else { continue };
            let undone = self.undo(undo, course).await;
            step.metrics.compensated(undone.is_ok());
            course.account.write().rows[place].undone = match undone {
                Ok(()) => Undone::Done,
                Err(why) => {
                    end = End::Unresolved;
                    Undone::Failed(why)
                }
            };
        }
        end
    }

    /// For whom a step is done, or undone.
    fn whose<'w>(&'w self, course: &Course<'_>, until: Instant, class: Class) -> Whose<'w> {
        let tells = Tells { grpc: false, header: self.deadline_header.as_ref() };
        Whose { client: course.exchange.client, deadline: until, due: until, tells, class }
    }

    /// Undoes a step, or tells why it cannot.
    async fn undo(&self, undo: &Undo, course: &Course<'_>) -> Result<(), &'static str> {
        let bounds = &self.compensation;
        let until = Instant::now() + bounds.timeout;
        let mut pause = bounds.backoff.min(BACKOFF_MAX);
        let mut timer = course.exchange.wheel.timer();
        for attempt in 1_u32.. {
            let request = course.request(&undo.outgoing, &undo.name)?;
            let began = Instant::now();
            let try_until = until.min(began + bounds.per_try);
            let mut attempts = SmallVec::new();
            let answer = {
                let whose = self.whose(course, try_until, Class::Critical);
                let sent = call::send(&undo.upstream, course.pools, whose, &mut attempts, request, 0, |_| false);
                let mut sent = pin!(sent);
                timer.arm_at(try_until);
                std::future::poll_fn(|cx| match sent.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                    Poll::Pending => timer.poll_expired(cx).map(|()| None),
                })
                .await
            };
            let (status, why, is_final) = match answer {
                Some(Ok(reply)) if undo.accepts(reply.status) => (Some(reply.status), word::OK, true),
                Some(Ok(reply)) => (Some(reply.status), word::STATUS, !may_pass(reply.status)),
                Some(Err(Failed::Upstream(kind))) => (None, kind.slug(), false),
                Some(Err(_)) => (None, word::BODY, false),
                None => (None, word::TIMEOUT, false),
            };
            course.account.write().log(&undo.name, &undo.upstream.name, (status, why), began, attempts);
            if why == word::OK {
                return Ok(());
            }
            let now = Instant::now();
            if is_final || attempt >= bounds.attempts || now + pause >= until {
                return Err(why);
            }
            timer.arm_at(now + pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            timer.expired().await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
        Err(word::TIMEOUT)
    }
}

/// Whether a refusal may pass, so that another try is worth it. A 409 tells that a request of the same key is not over yet.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

impl Course<'_> {
    /// Makes a request under the key that all of its tries have.
    fn request(&self, outgoing: &Outgoing, name: &str) -> Result<Request<Body>, &'static str> {
        let book = self.account.book();
        let said = |place| book.said(place);
        let known = Known {
            exchange: self.exchange,
            request_body: self.request_body.as_ref(),
            said: &said,
            item: None,
            saga: Some(&self.account.id),
        };
        let mut request = outgoing.request(&known).map_err(|unfilled| match unfilled {
            Unfilled::Missing => word::VALUE_MISSING,
            Unfilled::Unplaceable => word::UNPLACEABLE,
        })?;
        let key = HeaderValue::try_from(format!("{}-{name}", self.account.id)).map_err(|_| word::UNPLACEABLE)?;
        request.headers_mut().insert(&name::IDEMPOTENCY_KEY, key);
        Ok(request)
    }
}

impl super::account::Book {
    /// Writes down a request that is over.
    fn log(
        &mut self,
        part: &Arc<str>,
        upstream: &Arc<str>,
        (status, outcome): (Option<StatusCode>, &'static str),
        began: Instant,
        attempts: SmallVec<[AttemptRow; 2]>,
    ) {
        let (part, upstream) = (part.clone(), upstream.clone());
        let status = status.map(|status| status.as_u16());
        self.parts.push(PartRow { part, upstream, status, outcome, duration: began.elapsed() });
        self.attempts.extend(attempts);
    }
}
