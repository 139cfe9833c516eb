//! One HTTP/1.1 connection: one exchange at a time, and back to the bench when that is over cleanly.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::bench::{Bench, Room, Told};
use super::client::{Failure, Sent};
use super::link::{Link, Wire};
use super::pool::HeadBounds;
use super::state::Stay;
use crate::http::body::{Body, Lease};
use crate::http::headers::name;
use crate::telemetry::metrics::InFlight;

/// hyper parses this many header fields without an allocation; any other bound costs one per answer.
const HEADERS_INLINE: usize = 100;

/// What hyper reads and writes at most at once.
const BUFFER_MAX: usize = 256 * 1024;

/// An HTTP/1.1 connection.
///
/// hyper's end of it runs in a task of its own, which nobody waits for: it ends when the peer closes, or when this is
/// dropped. Dropping it closes the connection at once, whatever it was doing.
pub(super) struct Connection {
    sender: RefCell<SendRequest<Body>>,
    link: Rc<Link>,
    /// How many bytes had been received when the last request was sent.
    sent_at: Cell<u64>,
    /// See [`Bell`].
    is_at_rest: Arc<AtomicBool>,
    task: AbortHandle,
    bench: Rc<Bench>,
    room: Cell<Option<Room>>,
    stay: Cell<Option<Stay>>,
    /// Counts it as active or as idle.
    counted: Cell<InFlight>,
    age: Age,
    idle_since: Cell<Instant>,
    /// How long the peer keeps it unused, if it says so.
    announced: Cell<Option<Duration>>,
    /// What the endpoint was told of it.
    told: Option<Told>,
    /// What hyper was told, for good.
    heads: HeadBounds,
    is_spent: Cell<bool>,
    /// What hyper left behind when it ended.
    left: Cell<Option<Left>>,
    has_left: Notify,
}

/// A connection that hyper has left: by a 101 for something else, or because it is over.
struct Left {
    io: Option<(Wire, Bytes)>,
}

impl Connection {
    /// Speaks HTTP/1.1 over `wire`, which is the far end of `link`.
    pub(super) async fn start(
        room: Room,
        link: Rc<Link>,
        wire: Wire,
        told: Option<Told>,
    ) -> Result<Rc<Self>, hyper::Error> {
        let bench = room.bench().clone();
        let heads = bench.terms().heads;
        let (sender, connection) = builder(heads).handshake(TokioIo::new(wire)).await?;
        let now = bench.worker().wheel.now();
        let is_at_rest = Arc::<AtomicBool>::default();
        Ok(Rc::new_cyclic(|this| Self {
            sender: RefCell::new(sender),
            task: tokio::task::spawn_local(run(
                connection,
                link.clone(),
                is_at_rest.clone(),
                this.clone(),
                TaskCount::start(&bench.worker().tasks),
            ))
            .abort_handle(),
            link,
            sent_at: Cell::new(0),
            is_at_rest,
            age: Age::since(now),
            idle_since: Cell::new(now),
            announced: Cell::default(),
            told,
            heads,
            counted: Cell::new(bench.metrics().active()),
            bench,
            room: Cell::new(Some(room)),
            stay: Cell::default(),
            is_spent: Cell::new(false),
            left: Cell::default(),
            has_left: Notify::new(),
        }))
    }

    /// What the endpoint was told of it, which says for whom it is good.
    pub(super) fn told(&self) -> Option<Told> {
        self.told
    }

    /// Sends `request` and waits for the head of its answer.
    pub(super) fn send(&self, request: Request<Body>) -> impl Future<Output = Sent> + use<> {
        self.sent_at.set(self.link.read());
        self.link.expect_head();
        self.is_at_rest.store(false, Ordering::Relaxed);
        self.sender.borrow_mut().try_send_request(request)
    }

    /// Why there was no answer to what was sent last.
    pub(super) fn failure(&self, mut error: TrySendError<Request<Body>>) -> Failure {
        match error.take_message() {
            Some(request) => Failure::Unsent { request: Box::new(request), error: error.into_error() },
            None => {
                let began = self.link.read() > self.sent_at.get();
                let head = if began { None } else { self.link.head().map(Box::new) };
                Failure::Broken { error: error.into_error(), began, head }
            }
        }
    }

    /// When the socket last took bytes of the request.
    pub(super) fn written_at(&self) -> Instant {
        self.link.written_at()
    }

    /// Takes note of an answer's head: what it says of the connection.
    pub(super) fn heed(&self, version: http::Version, headers: &HeaderMap, is_first: bool) {
        // hyper would keep a connection of HTTP/1.0 that says `keep-alive`, and then send HTTP/1.0 itself, which drops
        // every body of unknown length.
        if version != http::Version::HTTP_11 {
            self.is_spent.set(true);
        }
        if is_first
            && let Some(announced) = headers.get(&name::KEEP_ALIVE).and_then(|value| announced_idle(value.as_bytes()))
        {
            self.announced.set(Some(announced));
        }
    }

    /// What the connection became by a 101, with what came behind it. None if it broke.
    pub(super) async fn upgraded(&self) -> Option<(Wire, Bytes)> {
        self.is_spent.set(true);
        loop {
            if let Some(left) = self.left.take() {
                return left.io;
            }
            self.has_left.notified().await;
        }
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
        !self.is_over(now) && self.is_at_rest() && self.link.is_quiet()
    }

    /// Whether its time is over by the terms that hold now, or it is closed.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let idle = self.bench.terms().idle;
        let idle = self.announced.get().map_or(idle, |announced| announced.min(idle));
        self.is_outdated(now)
            || now.saturating_duration_since(self.idle_since.get()) >= idle
            || self.sender.borrow().is_closed()
    }

    /// Whether it is too old, or was opened for heads of another size than are taken now.
    fn is_outdated(&self, now: Instant) -> bool {
        let terms = self.bench.terms();
        self.heads != terms.heads || self.age.is_over(now, terms.age_max)
    }

    /// hyper asks for the next request only when both sides of the last exchange are over. An answer that came before
    /// the request was sent whole leaves the connection busy, and so does whatever follows an answer unasked.
    fn is_at_rest(&self) -> bool {
        !self.is_spent.get() && !self.link.is_broken() && self.sender.borrow().is_ready()
    }

    /// Puts it back, if it is fit for another exchange; else closes it.
    pub(super) fn put_back(self: Rc<Self>) {
        let now = self.bench.worker().wheel.now();
        if !self.is_outdated(now) && self.is_at_rest() {
            self.idle_since.set(now);
            self.counted.set(self.bench.metrics().idle());
            let bench = self.bench.clone();
            bench.put(self);
        }
    }

    /// Closes it and gives its room away.
    pub(super) fn close(self: Rc<Self>) -> Option<Room> {
        self.room.take()
    }
}

impl Lease for Connection {
    fn give_back(self: Rc<Self>) {
        drop(self.stay.take());
        self.put_back();
    }

    fn broke_off(&self) {
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
        // hyper alone would go on sending a request body after its answer is over.
        self.task.abort();
    }
}

fn builder(heads: HeadBounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_header_size(heads.bytes_max).max_buf_size(heads.bytes_max.max(BUFFER_MAX));
    if heads.fields_max != HEADERS_INLINE {
        builder.max_headers(heads.fields_max);
    }
    builder
}

/// Wakes hyper's end of a connection, but not while that rests.
///
/// hyper wakes it once more when the last piece of an answer was read, though it has done with the exchange by then: to
/// look and find nothing cost some 700 instructions per request. At rest there are two things that it waits for, and neither
/// comes by this bell: the next request, before which the rest is ended, and the socket, which has a [reader] of its own.
///
/// [reader]: Link::read_by
struct Bell {
    is_at_rest: Arc<AtomicBool>,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_at_rest.load(Ordering::Relaxed) {
            self.task.wake_by_ref();
        }
    }
}

async fn run(
    mut connection: http1::Connection<TokioIo<Wire>, Body>,
    link: Rc<Link>,
    is_at_rest: Arc<AtomicBool>,
    handle: Weak<Connection>,
    count: TaskCount,
) {
    // The task's own waker stays the same for as long as it lives.
    let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    link.read_by(&task);
    let bell = Waker::from(Arc::new(Bell { is_at_rest: is_at_rest.clone(), task }));
    let ended = poll_fn(|_| {
        // Whoever wakes the task while hyper looks is heard.
        is_at_rest.store(false, Ordering::Relaxed);
        let polled = Pin::new(&mut connection).poll(&mut Context::from_waker(&bell));
        let rests = handle.upgrade().is_some_and(|connection| connection.sender.borrow().is_ready());
        is_at_rest.store(rests, Ordering::Relaxed);
        polled
    });
    let ended = ended.await;
    if let Err(error) = &ended {
        tracing::debug!(%error, "upstream connection failed");
    }
    drop(count);
    link.read_by_anyone();
    if let Some(handle) = handle.upgrade() {
        handle.bench.forget_idle(&handle);
        let io = ended.is_ok().then(|| {
            let parts = connection.into_parts();
            (parts.io.into_inner(), parts.read_buf)
        });
        handle.left.set(Some(Left { io }));
        handle.has_left.notify_one();
    }
}

/// Counts a connection's task while it runs.
pub(super) struct TaskCount(Rc<Cell<usize>>);

impl TaskCount {
    pub(super) fn start(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for TaskCount {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_kept_shorter_than_the_peer_announces() {
        for (value, kept) in [
            ("timeout=5", Some(4000)),
            ("timeout=5, max=100", Some(4000)),
            ("max=100, Timeout = 2", Some(1000)),
            ("timeout=1", Some(500)),
            ("timeout=0", Some(0)),
            ("max=100", None),
            ("timeout=soon", None),
            ("", None),
        ] {
            assert_eq!(announced_idle(value.as_bytes()), kept.map(Duration::from_millis), "{value}");
        }
    }

    #[test]
    fn ages_differ_by_a_tenth_at_most_and_go_by_the_bound_that_holds_now() {
        let now = Instant::now();
        for _ in 0..1000 {
            let age = Age::since(now);
            for max in [Duration::from_secs(100), Duration::from_secs(10)] {
                assert!(!age.is_over(now + max.mul_f64(0.899), max), "{}", age.share);
                assert!(age.is_over(now + max.mul_f64(1.101), max), "{}", age.share);
            }
        }
    }
}
