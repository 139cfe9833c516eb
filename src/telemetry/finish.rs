//! The end of an exchange: exactly one line and one count each, when the last byte is out or the client is gone.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::Notify;

use super::access_log::LogBuffer;
use super::metrics::{self, Metrics, RouteMetrics};
use super::record::{CutBy, Record};
use crate::http::body::{Body, BodyError, Inbound};

/// The route label of exchanges that found no route. No route can be called so.
pub const NO_ROUTE: &str = "(none)";

/// How many records a worker keeps for reuse.
const SPARE_MAX: usize = 256;

/// A worker's access log, and what it writes down.
pub struct Logger {
    buffer: LogBuffer,
    keeps: RefCell<Keeps>,
    unrouted: RouteMetrics,
    metrics: Metrics,
    #[expect(clippy::vec_box, reason = "facts that move are copied, and they are large")]
    spare: RefCell<Vec<Box<Facts>>>,
    is_waiting: Cell<bool>,
    is_cutting: Cell<bool>,
    written: Notify,
}

/// What the access log keeps of an exchange.
#[derive(Clone, Debug, Default)]
pub struct Keeps {
    /// Nothing, if not.
    pub is_on: bool,
    /// The share of unremarkable exchanges.
    pub sample: f64,
    /// What takes longer is remarkable.
    pub slow: Duration,
    /// Request headers.
    pub headers: Vec<HeaderName>,
    /// Whether the query is kept, for its redacted form.
    pub query: bool,
}

impl Logger {
    /// A logger that writes into `buffer` what `keeps` says.
    pub fn new(buffer: LogBuffer, keeps: Keeps, metrics: &Metrics) -> Self {
        Self {
            buffer,
            keeps: RefCell::new(keeps),
            unrouted: metrics.route(NO_ROUTE),
            metrics: metrics.clone(),
            spare: RefCell::default(),
            is_waiting: Cell::new(false),
            is_cutting: Cell::new(false),
            written: Notify::new(),
        }
    }

    /// Begins the record of an exchange that arrived at `now`, which is `time` of day.
    pub fn begin(self: &Rc<Self>, now: Instant, time: SystemTime, listener: &Arc<str>) -> Closing {
        let mut facts = self.spare.borrow_mut().pop().unwrap_or_else(|| Facts::new(now, &self.unrouted));
        facts.started = now;
        facts.record.time = time;
        facts.record.listener = Some(listener.clone());
        Closing { facts: Some(facts), logger: self.clone() }
    }

    /// Keeps of the request what the log will show: its query and chosen headers.
    pub fn note<B>(&self, record: &mut Record, request: &Request<B>) {
        let keeps = self.keeps.borrow();
        if keeps.query {
            record.set_query(request.uri().query().map(str::as_bytes));
        }
        for name in &keeps.headers {
            for value in request.headers().get_all(name) {
                record.push_header(name, value.as_bytes());
            }
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

    /// Hands what was written to the writer's thread.
    pub fn flush(&self) {
        self.is_waiting.set(false);
        self.buffer.flush();
    }

    fn write(&self, record: &Record) {
        let keeps = self.keeps.borrow();
        let is_remarkable = record.status >= 500 || !record.complete || record.duration >= keeps.slow;
        if keeps.is_on && (is_remarkable || keeps.sample >= 1.0 || fastrand::f64() < keeps.sample) {
            self.buffer.write(record);
            if !self.is_waiting.replace(true) {
                self.written.notify_one();
            }
        }
    }

    fn keep(&self, mut facts: Box<Facts>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            facts.record.clear();
            facts.route = self.unrouted.clone();
            (facts.status, facts.inbound, facts.in_flight, facts.occupied) = (None, None, None, None);
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
    started: Instant,
    status: Option<StatusCode>,
    inbound: Option<Rc<Inbound>>,
    route: RouteMetrics,
    in_flight: Option<metrics::InFlight>,
    occupied: Option<Occupied>,
}

impl Facts {
    fn new(started: Instant, unrouted: &RouteMetrics) -> Box<Self> {
        Box::new(Self {
            record: Record::new(),
            started,
            status: None,
            inbound: None,
            route: unrouted.clone(),
            in_flight: None,
            occupied: None,
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
    pub fn routed(&mut self, name: &Arc<str>, metrics: &RouteMetrics) {
        self.record.route = Some(name.clone());
        self.route = metrics.clone();
        self.in_flight = Some(metrics.enter());
    }

    /// armiger refuses.
    pub fn rejected(&mut self, slug: &'static str) {
        self.record.reason = Some(slug);
        self.route.rejected(slug);
    }

    /// A bound was hit.
    pub fn limit_hit(&self, limit: &'static str) {
        self.logger.metrics.limit_hit(limit);
    }

    /// Takes a place among those in flight until the end of the exchange, unless `max` are taken.
    pub fn occupy(&mut self, places: &Arc<Occupancy>, max: u32) -> bool {
        self.occupied = places.take(max);
        self.occupied.is_some()
    }

    /// The head of the answer goes out with this status.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.record.status = status.as_u16();
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(mut facts) = self.facts.take() else { return };
        let Facts { record, started, status, inbound, route, .. } = &mut *facts;
        record.duration = started.elapsed();
        if let Some(inbound) = inbound {
            record.bytes_in = inbound.bytes.get();
        }
        if !record.complete && record.cut_by.is_none() {
            record.cut_by = Some(if self.logger.is_cutting.get() { CutBy::Deadline } else { CutBy::Client });
            if status.is_none() {
                record.reason = Some("client-closed");
            }
        }
        route.finished(&record.method, *status, record.duration, record.bytes_in, record.bytes_out);
        self.logger.write(record);
        self.logger.keep(facts);
    }
}

/// A response body that knows when its exchange is over.
pub struct Finish {
    body: Body,
    closing: Closing,
}

impl Finish {
    /// Watches over `body`, which goes out under `status`.
    pub fn new(mut closing: Closing, body: Body, status: StatusCode, inbound: Option<Rc<Inbound>>) -> Self {
        closing.answered(status);
        closing.inbound = inbound;
        let is_bodiless = closing.record.method == Method::HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || body.is_end_stream();
        closing.record.complete = is_bodiless;
        Self { body, closing }
    }
}

impl http_body::Body for Finish {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let record = &mut this.closing.record;
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => record.complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    record.bytes_out += data.len() as u64;
                }
                // hyper does not ask for more after trailers.
                record.complete = this.body.is_end_stream() || frame.is_trailers();
            }
            Poll::Ready(Some(Err(error))) => {
                record.cut_by = Some(match error {
                    BodyError::UpstreamSlow => CutBy::Deadline,
                    BodyError::UpstreamCut => CutBy::Upstream,
                    _ => CutBy::Client,
                });
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Places in flight, counted over all workers.
#[derive(Debug, Default)]
pub struct Occupancy(AtomicU32);

impl Occupancy {
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
    use super::*;

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
