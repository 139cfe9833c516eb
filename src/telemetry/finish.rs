//! The end of an exchange: exactly one line and one count each, when the last byte is out or the client is gone.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version, response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::Notify;

use super::access_log::LogBuffer;
use super::metrics::{self, MethodMetrics, Metrics, RouteMetrics};
use super::record::{CutBy, Record, VerdictWord};
use super::trace::RequestId;
use crate::http::body::{Body, BodyError, Inbound, Tunnel};
use crate::http::{grpc, grpc_web, headers};

/// The route label of exchanges that found no route. No route can be called so.
pub const NO_ROUTE: &str = "(none)";

/// Why an exchange has no answer whose client went away.
const CLIENT_CLOSED: &str = "client-closed";

/// Why one was cut that armiger's end did not wait for.
const DRAINING: &str = "draining";

/// The status of a call that ended without one.
const UNKNOWN_CALL: &str = "none";

/// How many records a worker keeps for reuse.
const SPARE_MAX: usize = 256;

/// A worker's access log, and what it writes down.
pub struct Logger {
    buffer: LogBuffer,
    unrouted: RouteMetrics,
    metrics: Metrics,
    #[expect(clippy::vec_box, reason = "facts that move are copied, and they are large")]
    spare: RefCell<Vec<Box<Facts>>>,
    /// Methods of gRPC that are counted by name, by their paths.
    methods: RefCell<HashMap<Box<str>, MethodMetrics>>,
    /// All others.
    other_methods: MethodMetrics,
    is_waiting: Cell<bool>,
    is_cutting: Cell<bool>,
    /// Why armiger gives up what ends now, if it does.
    given_up: Cell<Option<&'static str>>,
    cuts: Cell<u64>,
    written: Notify,
}

impl Logger {
    /// A logger that writes into `buffer` what the buffer's settings say.
    pub fn new(buffer: LogBuffer, metrics: &Metrics) -> Self {
        Self {
            buffer,
            unrouted: metrics.route(NO_ROUTE),
            metrics: metrics.clone(),
            spare: RefCell::default(),
            methods: RefCell::default(),
            other_methods: metrics.other_grpc_methods(),
            is_waiting: Cell::new(false),
            is_cutting: Cell::new(false),
            given_up: Cell::default(),
            cuts: Cell::new(0),
            written: Notify::new(),
        }
    }

    /// Begins the record of an exchange that arrived at `now`, which is `time` of day.
    pub fn begin(self: &Rc<Self>, now: Instant, time: SystemTime, listener: &Arc<str>) -> Closing {
        self.buffer.follow();
        let mut facts = self.spare.borrow_mut().pop().unwrap_or_else(|| Facts::new(now, &self.unrouted));
        facts.started = now;
        facts.record.time = time;
        facts.record.listener = Some(listener.clone());
        Closing { facts: Some(facts), logger: self.clone() }
    }

    /// Begins a record that nobody will see: of an errand, whose attempts the exchange that it is for may tell of.
    pub fn begin_untold(self: &Rc<Self>, now: Instant, time: SystemTime) -> Closing {
        let mut facts = self.spare.borrow_mut().pop().unwrap_or_else(|| Facts::new(now, &self.unrouted));
        facts.started = now;
        facts.record.time = time;
        facts.is_untold = true;
        Closing { facts: Some(facts), logger: self.clone() }
    }

    /// Keeps of the request what the log will show: its query and chosen headers.
    pub fn note<B>(&self, record: &mut Record, request: &Request<B>) {
        let settings = self.buffer.settings();
        if settings.keeps_query() {
            record.set_query(request.uri().query().map(str::as_bytes));
        }
        for name in settings.headers() {
            headers::each_line(request.headers(), name, |value| record.push_header(name, value.as_bytes()));
        }
    }

    fn note_response(&self, record: &mut Record, headers: &HeaderMap) {
        for name in self.buffer.settings().response_headers() {
            headers::each_line(headers, name, |value| record.push_response_header(name, value.as_bytes()));
        }
    }

    /// Waits until a line waits for its flush.
    pub async fn written(&self) {
        self.written.notified().await;
    }

    /// What ends from now on without being complete was cut by armiger, which has stopped waiting.
    pub fn cut(&self) {
        self.is_cutting.set(true);
    }

    /// Gives up `work`, for the reason of this slug: no client has left the exchanges that end with it.
    pub fn give_up<W>(&self, reason: &'static str, work: W) {
        let before = self.given_up.replace(Some(reason));
        drop(work);
        self.given_up.set(before);
    }

    /// A bound was hit.
    pub fn limit_hit(&self, limit: &'static str) {
        self.metrics.limit_hit(limit);
    }

    /// Exchanges that were cut since [`Logger::cut`].
    pub fn cuts(&self) -> u64 {
        self.cuts.get()
    }

    fn was_cut(&self, record: &Record) {
        self.cuts.set(self.cuts.get() + 1);
        self.metrics.exchange_cut();
        tracing::warn!(
            route = record.route.as_deref().unwrap_or(NO_ROUTE),
            age = ?record.duration,
            request_id = record.request_id.as_ref().map_or("", RequestId::as_str),
            "exchange cut"
        );
    }

    /// Hands what was written to the writer's thread.
    pub fn flush(&self) {
        self.is_waiting.set(false);
        self.buffer.flush();
    }

    fn write(&self, record: &Record, is_failure: bool) {
        if self.buffer.settings().takes(is_failure, record.duration) {
            self.buffer.write(record);
            if !self.is_waiting.replace(true) {
                self.written.notify_one();
            }
        }
    }

    /// Counts a gRPC call by its method. Names that a client may have made up are not told.
    fn called(&self, record: &Record, status: &'static str) {
        let path = std::str::from_utf8(record.path()).unwrap_or("");
        if let Some(known) = self.methods.borrow().get(path) {
            return known.called(status);
        }
        let is_known = record.reason.is_none() && grpc::is_of_a_method(status);
        let Some(known) = is_known.then(|| self.metrics.grpc_method(path)).flatten() else {
            return self.other_methods.called(status);
        };
        known.called(status);
        self.methods.borrow_mut().insert(path.into(), known);
    }

    fn keep(&self, mut facts: Box<Facts>) {
        facts.record.clear();
        facts.route = self.unrouted.clone();
        (facts.status, facts.inbound, facts.in_flight, facts.occupied) = (None, None, None, None);
        (facts.generation, facts.members) = (None, None);
        facts.held.clear();
        (facts.is_failure, facts.is_untold, facts.call) = (false, false, None);
        (facts.outcome, facts.cut, facts.bound, facts.is_silent) = (None, None, None, false);
        // Behind all that: what is dropped may have a record of its own to give back.
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(facts);
        }
    }
}

/// What is logged and counted when an exchange is over, however it ends: its drop is the end.
pub struct Closing {
    /// Some until the drop. In a box that is used again, so that nothing large moves.
    facts: Option<Box<Facts>>,
    logger: Rc<Logger>,
}

/// The facts of an exchange, and what it holds until its end.
pub struct Facts {
    /// What the log shows.
    pub record: Record,
    /// More members of the problem document, if the exchange is refused. Here, since an exchange is moved about and this is not.
    pub members: Option<Box<serde_json::Map<String, serde_json::Value>>>,
    started: Instant,
    status: Option<StatusCode>,
    inbound: Option<Rc<Inbound>>,
    route: RouteMetrics,
    in_flight: Option<metrics::InFlight>,
    /// The snapshot that it is on, as one in use.
    generation: Option<Arc<metrics::InFlight>>,
    occupied: Option<Occupied>,
    /// What policies hold until its end.
    held: Vec<Box<dyn Any>>,
    /// Remarkable whatever its status: gRPC tells of failures under 200.
    is_failure: bool,
    /// An errand's: neither logged nor counted.
    is_untold: bool,
    /// What came of a gRPC call, as far as that is known. `None`: it is none.
    call: Option<&'static str>,
    /// Where that will be told of a call of gRPC-Web.
    outcome: Option<grpc_web::Outcome>,
    /// The slug of why the answer was cut, as far as that is known.
    cut: Option<&'static str>,
    /// The policy that refuses the request if its body grows too long: where its verdict stands and is counted.
    bound: Option<Bound>,
    /// The body of the answer, which goes before the rest does. Here for the same reason as the members.
    body: Body,
    /// The body must not go out. On HTTP/1.1 the codec sees to that, and still tells its length; on HTTP/2 hyper would
    /// send it (RFC 9110 §9.3.2).
    is_silent: bool,
}

/// A policy whose verdict is known only when the body is.
struct Bound {
    metrics: metrics::PolicyMetrics,
    verdict: usize,
    /// The slug of its refusal.
    reason: &'static str,
}

impl Facts {
    fn new(started: Instant, unrouted: &RouteMetrics) -> Box<Self> {
        Box::new(Self {
            record: Record::new(),
            members: None,
            started,
            status: None,
            inbound: None,
            route: unrouted.clone(),
            in_flight: None,
            generation: None,
            occupied: None,
            held: Vec::new(),
            is_failure: false,
            is_untold: false,
            call: None,
            outcome: None,
            cut: None,
            bound: None,
            body: Body::Empty,
            is_silent: false,
        })
    }
}

impl Deref for Closing {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        self.facts.as_deref().expect("facts are there until the drop")
    }
}

impl DerefMut for Closing {
    fn deref_mut(&mut self) -> &mut Facts {
        self.facts.as_deref_mut().expect("facts are there until the drop")
    }
}

impl Closing {
    /// The exchange found its route.
    pub fn routed(&mut self, name: &Arc<str>, metrics: &RouteMetrics, generation: &Arc<metrics::InFlight>) {
        self.record.route = Some(name.clone());
        self.route = metrics.clone();
        self.in_flight = Some(metrics.enter());
        self.generation = Some(generation.clone());
    }

    /// It is a gRPC call, of whose outcome nothing is known yet.
    pub fn begins_call(&mut self) {
        self.call = Some(UNKNOWN_CALL);
    }

    /// The errand is on this snapshot.
    pub fn on_errand(&mut self, name: &Arc<str>, generation: &Arc<metrics::InFlight>) {
        self.record.route = Some(name.clone());
        self.generation = Some(generation.clone());
    }

    /// armiger refuses, with a status that gRPC may hide.
    pub fn rejected(&mut self, slug: &'static str, status: StatusCode) {
        self.record.reason = Some(slug);
        self.is_failure = status.is_server_error();
        self.route.rejected(slug);
    }

    /// The client left within its request: nobody is refused, and what is answered reaches nobody.
    pub fn left(&mut self) {
        self.record.reason = Some(CLIENT_CLOSED);
    }

    /// Something stood in for an upstream that failed.
    pub fn fell_back(&mut self, rung: &'static str) {
        self.record.fallback = Some(rung);
        self.route.fell_back(rung);
    }

    /// A bound was hit.
    pub fn limit_hit(&self, limit: &'static str) {
        self.logger.metrics.limit_hit(limit);
    }

    /// The verdict that was written down last is a refusal, for this reason, if the body proves too long.
    pub fn may_refuse_body(&mut self, metrics: &metrics::PolicyMetrics, reason: &'static str) {
        let verdict = self.record.verdicts.len().saturating_sub(1);
        self.bound = Some(Bound { metrics: metrics.clone(), verdict, reason });
    }

    /// Counts work that armiger cut since it has stopped waiting, which is not this exchange's end.
    pub fn work_cut(&self) {
        self.logger.cuts.set(self.logger.cuts.get() + 1);
        self.logger.metrics.exchange_cut();
    }

    /// Takes a place among those in flight until the end of the exchange, unless `max` are taken.
    pub fn occupy(&mut self, places: &Arc<Occupancy>, max: u32) -> bool {
        self.occupied = places.take(max);
        self.occupied.is_some()
    }

    /// Holds something until the end of the exchange.
    pub fn hold(&mut self, held: Box<dyn Any>) {
        self.held.push(held);
    }

    /// Gives away what it holds: the exchange goes on elsewhere.
    pub fn take_held(&mut self) -> Vec<Box<dyn Any>> {
        std::mem::take(&mut self.held)
    }

    /// The head of the answer goes out with this status and these headers.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        let Self { facts, logger } = self;
        let facts = facts.as_deref_mut().expect("facts are there until the drop");
        facts.status = Some(status);
        facts.record.status = status.as_u16();
        logger.note_response(&mut facts.record, headers);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(mut facts) = self.facts.take() else { return };
        facts.body = Body::Empty;
        if facts.is_untold {
            return self.logger.keep(facts);
        }
        let Facts { record, started, status, inbound, route, is_failure, call, outcome, cut, bound, .. } = &mut *facts;
        record.duration = started.elapsed();
        if let Some(Bound { metrics, verdict, reason }) = bound.take() {
            let is_crossed = inbound.as_ref().is_some_and(|inbound| inbound.error.get() == Some(BodyError::TooLarge));
            if let Some(row) = record.verdicts.get_mut(verdict).filter(|_| is_crossed) {
                (row.verdict, row.reason) = (VerdictWord::Reject, Some(reason));
            }
            metrics.count(if is_crossed { VerdictWord::Reject } else { VerdictWord::Amend });
        }
        if let Some(inbound) = inbound {
            record.bytes_in = inbound.bytes.get();
            record.upload_cut = inbound.cut.get();
            // A refusal has counted it already.
            if inbound.error.get() == Some(BodyError::ClientTooSlow) && record.reason.is_none() {
                self.logger.metrics.limit_hit("body_rate_min");
            }
        }
        // Of an answer that has nobody to go to nothing was taken.
        record.complete &= status.is_some();
        if !record.complete && record.cut_by.is_none() {
            // Whoever panics has a defect, and no client that left.
            let given_up = self.logger.given_up.get().or(std::thread::panicking().then_some("internal"));
            let is_cutting = self.logger.is_cutting.get();
            record.cut_by = Some(if is_cutting || given_up.is_some() { CutBy::Deadline } else { CutBy::Client });
            if is_cutting {
                self.logger.was_cut(record);
            } else if let Some(reason) = given_up {
                *cut = Some(reason);
            }
            if status.is_none() {
                let reason = given_up.unwrap_or(if is_cutting { DRAINING } else { CLIENT_CLOSED });
                record.reason = Some(reason);
                if given_up.is_some() {
                    route.rejected(reason);
                }
            }
        }
        if let Some(outcome) = outcome {
            *call = Some(outcome.status().unwrap_or(UNKNOWN_CALL));
        }
        if let Some(status) = call {
            route.called(status);
            self.logger.called(record, status);
            record.grpc_status = Some(status);
            *is_failure |= grpc::is_failure(status);
        }
        if let Some(by) = record.cut_by.filter(|_| !record.complete && status.is_some()) {
            let reason = cut.unwrap_or_else(|| why_cut(by, self.logger.is_cutting.get()));
            route.cut(reason);
            // A refusal that was cut keeps its own.
            record.reason.get_or_insert(reason);
        }
        route.finished(&record.method, *status, record.duration, record.bytes_in, record.bytes_out);
        let is_failure = *is_failure || record.status >= 500 || !record.complete;
        self.logger.write(record, is_failure);
        self.logger.keep(facts);
    }
}

/// The slug of why an answer was cut behind its head, by who did it.
fn why_cut(by: CutBy, is_draining: bool) -> &'static str {
    match by {
        CutBy::Client => "client-closed",
        CutBy::Upstream => "upstream-cut",
        CutBy::Deadline if is_draining => DRAINING,
        // Of answers that go on without an end; a pause within any other is an error of its body.
        CutBy::Deadline => "idle",
        CutBy::Credential => "credential-ended",
    }
}

/// The same, by the error that its body ended with.
fn why_broken(error: BodyError) -> (CutBy, &'static str) {
    match error {
        BodyError::UpstreamSlow => (CutBy::Deadline, "upstream-idle"),
        BodyError::UpstreamCut => (CutBy::Upstream, "upstream-cut"),
        BodyError::CredentialEnded => (CutBy::Credential, "credential-ended"),
        BodyError::ClientSlow => (CutBy::Client, "request-timeout"),
        BodyError::ClientTooSlow => (CutBy::Client, "request-too-slow"),
        BodyError::TooLarge => (CutBy::Client, "body-too-large"),
        BodyError::ClientMalformed => (CutBy::Client, "bad-framing"),
        BodyError::Outrun => (CutBy::Client, "client-slow"),
        BodyError::ClientCut => (CutBy::Client, "client-closed"),
    }
}

/// A response body that knows when its exchange is over.
pub struct Finish(Closing);

impl Finish {
    /// Watches over `body`, which goes out behind `head`.
    pub fn new(mut closing: Closing, body: Body, head: &response::Parts, inbound: Option<Rc<Inbound>>) -> Self {
        let status = head.status;
        let is_http2 = closing.record.version == Version::HTTP_2;
        // A request that broke off on HTTP/2 is a stream that was reset: nothing goes out on it any more.
        let is_reset = |inbound: &Rc<Inbound>| is_http2 && inbound.error.get() == Some(BodyError::ClientCut);
        let is_gone = closing.record.reason == Some(CLIENT_CLOSED) || inbound.as_ref().is_some_and(is_reset);
        closing.inbound = inbound;
        if is_gone {
            return Self(closing);
        }
        closing.answered(status, &head.headers);
        let is_bodiless = closing.record.method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || body.is_end_stream();
        if is_http2 && grpc::is_grpc(&head.headers) {
            closing.call = Some(grpc::status(&head.headers).unwrap_or(UNKNOWN_CALL));
        }
        closing.record.complete = is_bodiless || closing.call.is_none() && is_out(&body);
        closing.outcome = head.extensions.get::<grpc_web::Outcome>().cloned();
        closing.is_silent = is_bodiless && is_http2;
        closing.body = body;
        Self(closing)
    }
}

/// Whether all that was announced of `body` is out. Whoever has that may leave, be it that the upstream ends its stream later.
fn is_out(body: &Body) -> bool {
    body.size_hint().exact() == Some(0)
}

impl Finish {
    /// The tunnel that begins with this answer, if one does. The exchange goes on until its end.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        let Body::Tunnel(tunnel) = std::mem::take(&mut self.0.body) else { return None };
        self.0.record.complete = false;
        Some(*tunnel)
    }

    /// Whether a tunnel begins with this answer.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.0.body, Body::Tunnel(_))
    }

    /// What a tunnel carried.
    pub fn carried(&mut self, from_client: u64, to_client: u64) {
        self.0.record.bytes_in = from_client;
        self.0.record.bytes_out = to_client;
    }

    /// Its body is over, and goes before the exchange does.
    pub fn let_body_go(&mut self) {
        self.0.body = Body::Empty;
    }

    /// So many bytes of the answer never left: it is not complete, whatever was read of it.
    pub fn lost(&mut self, bytes: u64) {
        let record = &mut self.0.record;
        record.complete = false;
        record.bytes_out = record.bytes_out.saturating_sub(bytes);
    }

    /// The client took too little of it for too long, and is not waited for.
    pub fn outwaited(&mut self) {
        self.0.cut = Some("client-slow");
    }

    /// armiger cuts it, since it ends itself.
    pub fn given_up(&mut self) {
        let facts = &mut *self.0;
        (facts.record.complete, facts.record.cut_by, facts.cut) = (false, Some(CutBy::Deadline), Some(DRAINING));
        facts.record.duration = facts.started.elapsed();
        self.0.logger.was_cut(&self.0.record);
    }

    /// The exchange has come to a good end, or was cut.
    pub fn ended(&mut self, cut_by: Option<CutBy>) {
        self.0.record.complete = cut_by.is_none();
        self.0.record.cut_by = cut_by;
    }
}

impl http_body::Body for Finish {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let facts: &mut Facts = &mut self.get_mut().0;
        let polled = Pin::new(&mut facts.body).poll_frame(cx);
        let record = &mut facts.record;
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => record.complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    record.bytes_out += data.len() as u64;
                }
                // Nobody asks for more after trailers, and of a call they tell what came of it.
                let is_out = facts.body.is_end_stream() || facts.call.is_none() && is_out(&facts.body);
                facts.record.complete = is_out || frame.is_trailers();
                if let Some(trailers) = frame.trailers_ref()
                    && facts.call.is_some()
                {
                    facts.call = Some(grpc::status(trailers).unwrap_or(UNKNOWN_CALL));
                }
            }
            Poll::Ready(Some(Err(error))) => {
                // An upstream gives up a request that broke off.
                let client = facts.inbound.as_ref().and_then(|inbound| inbound.error.get());
                let error = client.filter(|_| *error == BodyError::UpstreamCut).unwrap_or(*error);
                let (by, why) = why_broken(error);
                facts.record.complete = false;
                (facts.record.cut_by, facts.cut) = (Some(by), Some(why));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_silent || self.0.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.size_hint()
    }
}

/// Places in flight, counted over all workers.
#[derive(Debug, Default)]
pub struct Occupancy(AtomicU32);

impl Occupancy {
    /// How many are taken. While somebody is being refused, that one counts.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a place, unless `max` are taken.
    pub fn take(self: &Arc<Self>, max: u32) -> Option<Occupied> {
        let taken = Occupied(self.clone());
        // Counted first and given back by the guard's drop: two that race for the last place cannot both have it.
        (self.0.fetch_add(1, Ordering::Relaxed) < max).then_some(taken)
    }
}

/// A place in flight, given back on drop.
#[derive(Debug)]
pub struct Occupied(Arc<Occupancy>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::access_log::{Settings, Writer};
    use super::*;

    fn logger(metrics: &Metrics) -> Rc<Logger> {
        let writer = Writer::start(Settings::default(), Box::new(std::io::sink()), metrics).unwrap();
        Rc::new(Logger::new(writer.buffer(), metrics))
    }

    fn begin(logger: &Rc<Logger>) -> Closing {
        logger.begin(Instant::now(), SystemTime::UNIX_EPOCH, &"http".into())
    }

    #[test]
    fn a_panic_is_put_down_to_armiger_and_whoever_leaves_is_refused_nothing() {
        let metrics = Metrics::new();
        let logger = logger(&metrics);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _closing = begin(&logger);
            panic!("a defect, as this test wants it");
        }));
        drop(begin(&logger));

        assert!(panicked.is_err());
        let page = metrics.render();
        assert!(page.contains(r#"armiger_rejections_total{reason="internal",route="(none)"} 1"#), "{page}");
        assert!(!page.contains(r#"reason="client-closed""#), "{page}");
    }

    #[test]
    fn what_is_given_up_is_put_down_to_the_reason_that_it_is_given_up_for() {
        let metrics = Metrics::new();
        let logger = logger(&metrics);
        let (mut answered, asked) = (begin(&logger), begin(&logger));
        answered.answered(StatusCode::OK, &HeaderMap::new());
        logger.give_up("answer-too-large", answered);
        logger.give_up("deadline-exceeded", asked);
        drop(begin(&logger));

        let page = metrics.render();
        assert!(page.contains(r#"armiger_answers_cut_total{reason="answer-too-large",route="(none)"} 1"#), "{page}");
        assert!(page.contains(r#"armiger_rejections_total{reason="deadline-exceeded",route="(none)"} 1"#), "{page}");
        assert!(!page.contains(r#"reason="client-closed""#), "{page}");
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Arc::new(Occupancy::default());
        let first = places.take(2);
        let second = places.take(2);
        assert!(first.is_some() && second.is_some() && places.take(2).is_none());
        drop(first);
        assert!(places.take(2).is_some());
    }
}
