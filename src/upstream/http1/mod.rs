//! One HTTP/1.1 connection: one exchange at a time, and back to the bench when that is over cleanly.
//!
//! Nobody but its exchange looks after it: the task that asks sends the request, reads the head, and reads the body while it
//! passes it on. At rest a connection has neither task nor buffers.

mod head;
mod large;
mod receiving;
mod sending;
mod spare;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, response};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite;
use tokio::task::AbortHandle;

use super::bench::{Bench, Room, Told};
use super::client::{Failure, inbound_of};
use super::connect::Stream;
use super::error::Error;
use super::state::Stay;
use crate::http::body::{Body, BodyError, Channel, Inbound, Lease};
use crate::http::headers::name;
use crate::http::reply::{Asked, HeadBounds};
use crate::telemetry::metrics::InFlight;
pub(super) use large::LARGE_BYTES_MAX;
use receiving::Receiving;
use sending::Sending;
pub(super) use spare::Spare;

/// An HTTP/1.1 connection. Dropping it closes it at once, whatever it was doing.
pub(super) struct Connection {
    talk: RefCell<Talk>,
    bench: Rc<Bench>,
    room: Cell<Option<Room>>,
    stay: Cell<Option<Stay>>,
    /// Counts it as active or as idle.
    counted: Cell<InFlight>,
    age: Age,
    idle_since: Cell<Instant>,
    /// How long the peer keeps it unused, if it says so.
    announced: Cell<Option<Duration>>,
    /// What the endpoint was told of it, which says for whom it is good.
    told: Option<Told>,
    is_spent: Cell<bool>,
    /// Sends the rest of a request whose answer came before it was sent.
    rest: Cell<Option<Rest>>,
    _count: Open,
}

/// What is said on a connection, both ways.
struct Talk {
    /// None once it became something else.
    stream: Option<Stream>,
    sending: Sending,
    receiving: Receiving,
    bounds: HeadBounds,
}

impl Connection {
    /// Speaks HTTP/1.1 over `stream`.
    pub(super) fn new(room: Room, stream: Stream, told: Option<Told>) -> Rc<Self> {
        let bench = room.bench().clone();
        let now = bench.worker().wheel.now();
        let talk = Talk {
            stream: Some(stream),
            sending: Sending::new(now),
            receiving: Receiving::new(),
            bounds: bench.terms().heads,
        };
        Rc::new(Self {
            talk: RefCell::new(talk),
            age: Age::since(now),
            idle_since: Cell::new(now),
            announced: Cell::default(),
            told,
            counted: Cell::new(bench.metrics().active()),
            _count: Open::count(&bench.worker().open),
            bench,
            room: Cell::new(Some(room)),
            stay: Cell::default(),
            is_spent: Cell::new(false),
            rest: Cell::default(),
        })
    }

    /// What the endpoint was told of it.
    pub(super) fn told(&self) -> Option<Told> {
        self.told
    }

    /// Sends `request` and waits for the head of its answer. Takes its headers and its body.
    pub(super) fn send(self: &Rc<Self>, request: &mut Request<Body>) -> Sent<'_> {
        let mut talk = self.talk.borrow_mut();
        let talk = &mut *talk;
        talk.sending.give_room(self.bench.worker().spare.for_sending());
        talk.bounds = self.bench.terms().heads;
        if talk.sending.begin(request) {
            self.is_spent.set(true);
        }
        let asked = match *request.method() {
            Method::HEAD => Asked::Head,
            Method::CONNECT => Asked::Connect,
            _ => Asked::Other,
        };
        *request.extensions_mut() = Extensions::new();
        let mut headers = std::mem::take(request.headers_mut());
        headers.clear();
        talk.receiving.begin(asked, headers);
        Sent { connection: self, body: std::mem::take(request.body_mut()) }
    }

    /// When the socket last took bytes of the request.
    pub(super) fn written_at(&self) -> Instant {
        self.talk.borrow().sending.written_at
    }

    /// Takes note of what the head of the connection's first answer says of it.
    pub(super) fn heed(&self, headers: &HeaderMap) {
        if let Some(announced) = headers.get(&name::KEEP_ALIVE).and_then(|value| announced_idle(value.as_bytes())) {
            self.announced.set(Some(announced));
        }
    }

    /// What the connection became by a 101, with what came behind it. None if it did not become anything.
    pub(super) fn upgraded(&self) -> Option<(Stream, Bytes)> {
        self.is_spent.set(true);
        let mut talk = self.talk.borrow_mut();
        if !talk.sending.is_sent() {
            return None;
        }
        Some((talk.stream.take()?, talk.receiving.take_ahead()))
    }

    /// Holds `stay` until the exchange is over.
    pub(super) fn occupy(&self, stay: Stay) {
        self.stay.set(Some(stay));
    }

    /// Counts it as active.
    pub(super) fn activate(&self) {
        self.counted.set(self.bench.metrics().active());
    }

    /// Whether a request may be sent on it: it is open, its last exchange is over, it is not too old or too long idle,
    /// and nothing came in that nobody asked for.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        !self.is_over(now) && self.is_at_rest() && self.is_quiet()
    }

    /// Whether its time is over by the terms that hold now.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let terms = self.bench.terms();
        let idle = self.announced.get().map_or(terms.idle, |announced| announced.min(terms.idle));
        self.age.is_over(now, terms.age_max) || now.saturating_duration_since(self.idle_since.get()) >= idle
    }

    /// Whether something came while nobody uses it: most often its end.
    pub(super) fn has_ended(&self) -> bool {
        let has_news = self.talk.borrow().stream.as_ref().is_none_or(Stream::has_news);
        has_news && !self.is_quiet()
    }

    fn is_quiet(&self) -> bool {
        self.talk.borrow_mut().stream.as_mut().is_some_and(Stream::is_quiet)
    }

    /// Whether both sides of the last exchange are over, and it left the connection for another. An answer that came
    /// before the request was sent whole leaves it busy, and so does whatever follows an answer unasked.
    fn is_at_rest(&self) -> bool {
        let talk = self.talk.borrow();
        !self.is_spent.get() && talk.sending.is_sent() && talk.receiving.is_at_rest()
    }

    /// Puts it back, if it is fit for another exchange; else closes it.
    pub(super) fn put_back(self: Rc<Self>) {
        let now = self.bench.worker().wheel.now();
        if !self.is_at_rest() || self.age.is_over(now, self.bench.terms().age_max) {
            if let Some(rest) = self.rest.take() {
                if !self.talk.borrow().sending.is_sent() {
                    never_goes(rest.inbound.as_ref());
                }
                self.rest.set(Some(rest));
            }
            return;
        }
        let bench = self.bench.clone();
        let spare = &bench.worker().spare;
        {
            let mut talk = self.talk.borrow_mut();
            spare.sent(talk.sending.take_room());
            talk.receiving.give_room_to(spare);
        }
        self.idle_since.set(now);
        self.counted.set(bench.metrics().idle());
        bench.put(self);
    }

    /// Closes it and gives its room away.
    pub(super) fn close(self: Rc<Self>) -> Option<Room> {
        self.room.take()
    }

    /// Sends the rest of a request whose answer has come, beside whoever reads that: he may not look for long, while the
    /// peer waits for the request to go on.
    fn send_rest(self: &Rc<Self>, mut body: Body) {
        let connection = Rc::downgrade(self);
        let inbound = inbound_of(&body);
        let mut is_broken = false;
        let rest = tokio::task::spawn_local(poll_fn(move |cx| {
            let Some(connection) = connection.upgrade() else { return Poll::Ready(()) };
            let mut talk = connection.talk.borrow_mut();
            if !is_broken {
                let Err(error) = ready!(talk.poll_send(&mut body, &connection.bench, cx)) else {
                    return Poll::Ready(());
                };
                tracing::debug!(%error, "request broke off behind its answer");
                is_broken = true;
            }
            // Or the peer would wait for the rest, and whoever reads its answer with it.
            match &mut talk.stream {
                Some(stream) => Pin::new(stream).poll_shutdown(cx).map(drop),
                None => Poll::Ready(()),
            }
        }));
        self.rest.set(Some(Rest { sends: rest.abort_handle(), inbound }));
    }
}

impl Talk {
    fn poll_send(&mut self, body: &mut Body, bench: &Bench, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.stream {
            Some(stream) => self.sending.poll(body, stream, &bench.worker().wheel, cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// A request on its way, up to the head of its answer.
pub(super) struct Sent<'c> {
    connection: &'c Rc<Connection>,
    body: Body,
}

impl Future for Sent<'_> {
    type Output = Result<response::Parts, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { connection, body } = self.get_mut();
        let mut talk = connection.talk.borrow_mut();
        let talk = &mut *talk;
        if talk.sending.is_under_way()
            && let Poll::Ready(Err(error)) = talk.poll_send(body, &connection.bench, cx)
        {
            return Poll::Ready(Err(Failure::Ended { error }));
        }
        let Talk { stream: Some(stream), sending, receiving, bounds } = talk else {
            return Poll::Ready(Err(Failure::Ended { error: Error::new(super::error::Kind::Reset) }));
        };
        Poll::Ready(match ready!(receiving.poll_head(stream, &connection.bench.worker().spare, *bounds, cx)) {
            Ok(head) => {
                if sending.is_under_way() {
                    connection.send_rest(std::mem::take(body));
                } else if !sending.is_sent() {
                    // It takes nothing more.
                    never_goes(inbound_of(body).as_ref());
                }
                Ok(head)
            }
            Err(error) => Err(match sending.unsent().filter(|_| !receiving.has_begun()) {
                Some(request) => Failure::Unsent { request: Box::new(request), error, is_alone: true },
                None => {
                    let kept = if receiving.has_begun() { None } else { sending.kept() };
                    Failure::Broken { error, head: kept.map(Box::new) }
                }
            }),
        })
    }
}

impl Channel for Connection {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut talk = self.talk.borrow_mut();
        let Talk { stream: Some(stream), receiving, .. } = &mut *talk else {
            return Poll::Ready(Some(Err(BodyError::UpstreamCut)));
        };
        receiving.poll_frame(stream, &self.bench.worker().spare, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.talk.borrow().receiving.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.talk.borrow().receiving.size_hint()
    }
}

impl Lease for Connection {
    fn give_back(self: Rc<Self>) {
        drop(self.stay.take());
        self.put_back();
    }

    fn broke_off(&self) {
        self.bench.metrics().answer_cut();
        broke_off(&self.stay);
    }

    fn ended(&self, trailers: &HeaderMap) {
        ended(&self.stay, trailers);
    }
}

/// The answer of the exchange that `stay` is of broke off.
pub(super) fn broke_off(stay: &Cell<Option<Stay>>) {
    if let Some(stay) = stay.take()
        && let Some(watch) = &stay.watch
    {
        watch.broke_off();
    }
}

/// The answer of the exchange that `stay` is of ended with these fields.
pub(super) fn ended(stay: &Cell<Option<Stay>>, trailers: &HeaderMap) {
    if let Some(held) = stay.take() {
        if let Some(watch) = &held.watch {
            watch.ended(trailers);
        }
        stay.set(Some(held));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody needs the rest of a request whose answer is over.
        if let Some(rest) = self.rest.take() {
            rest.sends.abort();
        }
    }
}

/// The rest of a request whose answer came before it was sent.
struct Rest {
    sends: AbortHandle,
    inbound: Option<Rc<Inbound>>,
}

/// What is left of a request never goes to the upstream, since that is done. What broke off by itself was not cut by that.
fn never_goes(inbound: Option<&Rc<Inbound>>) {
    if let Some(inbound) = inbound.filter(|inbound| inbound.error.get().is_none()) {
        inbound.cut.set(true);
    }
}

/// Counts a connection while it is open.
pub(super) struct Open(Rc<Cell<usize>>);

impl Open {
    pub(super) fn count(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// How old a connection is. Each has a bound of its own, give or take a tenth of what is asked for, so that connections
/// opened together do not end together.
pub(super) struct Age {
    since: Instant,
    /// The thousandths of the bound that are this one's.
    share: u32,
}

impl Age {
    pub(super) fn since(now: Instant) -> Self {
        Self { since: now, share: fastrand::u32(900..=1100) }
    }

    pub(super) fn is_over(&self, now: Instant, max: Duration) -> bool {
        now.saturating_duration_since(self.since) >= max.saturating_mul(self.share) / 1000
    }
}

/// How long the peer keeps the connection, by its `Keep-Alive: timeout=5`, less what a request takes to get there.
fn announced_idle(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    let seconds = text.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u32>().ok())?
    })?;
    Some(match seconds {
        0 | 1 => Duration::from_millis(u64::from(seconds) * 500),
        more => Duration::from_secs(u64::from(more) - 1),
    })
}
