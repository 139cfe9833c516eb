//! One HTTP/2 connection with prior knowledge: many exchanges at a time, each on a stream.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::bench::{Bench, Room};
use super::client::Failure;
use super::error::Error;
use super::http1::{Age, Open, broke_off, ended};
use super::link::Wire;
use super::parting::Partings;
use super::state::Stay;
use crate::http::body::{Body, BodyError, Lease, cause};
use crate::http::headers::name;
use crate::http::tunnel::{Peer, Sender, StreamTunnel};
use crate::http::websocket::Wish;
use crate::telemetry::metrics::InFlight;

/// What hyper makes of a request.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<Body>>>;

/// What may arrive on a stream ahead of who reads it: the most, and the least, which is what HTTP/2 begins with (RFC 9113 §6.9.2).
const STREAM_WINDOW: u32 = 256 * 1024;
const STREAM_WINDOW_LEAST: u32 = 65_535;

/// Streams on one connection, whatever the peer allows: more of them open another connection.
const STREAMS_MAX: usize = 128;

/// What may arrive on a stream, and on all streams of a connection together: enough for each of them, so that those whose readers
/// are slow leave the others theirs. It bounds what a connection holds, too: half of its streams, read by nobody, hold as
/// much as large answers may over HTTP/1.1.
fn windows(large_reads: usize) -> (u32, u32) {
    let stream = u32::try_from(large_reads / (STREAMS_MAX / 2)).unwrap_or(u32::MAX);
    let stream = stream.clamp(STREAM_WINDOW_LEAST, STREAM_WINDOW);
    (stream, stream * STREAMS_MAX as u32)
}

/// Whether the peer takes streams that become tunnels (RFC 8441 §3), as far as its SETTINGS were seen.
#[derive(Default)]
struct Tunnels {
    are_taken: Cell<bool>,
    /// It has said so, or has had the time to.
    is_settled: Cell<bool>,
    /// Has the connection's task look. hyper does not wake it for SETTINGS.
    look: RefCell<Option<Waker>>,
}

/// How often to look for SETTINGS that somebody waits for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// An HTTP/2 connection. Closes when it is out of the bench and its last stream is over.
pub(super) struct Connection {
    sender: RefCell<SendRequest<Body>>,
    spawns: LocalExec,
    task: AbortHandle,
    bench: Rc<Bench>,
    _room: Room,
    streams: Cell<usize>,
    /// Streams that the peer's SETTINGS allow, as far as they were seen.
    allowed: Rc<Cell<usize>>,
    tunnels: Rc<Tunnels>,
    partings: Rc<Partings>,
    /// Streams that it took without refusing one. It may refuse before its SETTINGS arrive, and beyond them.
    borne: Cell<usize>,
    age: Age,
    /// What hyper was told, for good.
    header_bytes_max: usize,
    idle_since: Cell<Instant>,
    is_spent: Cell<bool>,
    /// Counts it as active or as idle.
    counted: Cell<InFlight>,
}

impl Connection {
    /// Speaks HTTP/2 over `wire`.
    pub(super) async fn start(room: Room, wire: Wire) -> Result<Rc<Self>, hyper::Error> {
        let bench = room.bench().clone();
        let header_bytes_max = bench.terms().heads.bytes_max;
        let spawns = LocalExec::default();
        let (stream_window, connection_window) = windows(bench.worker().large_reads.get());
        let mut builder = http2::Builder::new(spawns.clone());
        builder
            .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window);
        let is_read = wire.is_read();
        let (sender, connection) = builder.handshake(TokioIo::new(wire)).await?;
        is_read.set(true);
        let now = bench.worker().wheel.now();
        let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
        let tunnels = Rc::<Tunnels>::default();
        let partings = Rc::<Partings>::default();
        Ok(Rc::new_cyclic(|this| Self {
            sender: RefCell::new(sender),
            spawns,
            task: tokio::task::spawn_local(run(
                connection,
                allowed.clone(),
                tunnels.clone(),
                partings.clone(),
                this.clone(),
                Open::count(&bench.worker().open),
            ))
            .abort_handle(),
            age: Age::since(now),
            header_bytes_max,
            counted: Cell::new(bench.metrics().idle()),
            bench,
            _room: room,
            streams: Cell::new(0),
            allowed,
            tunnels,
            partings,
            borne: Cell::new(usize::MAX),
            idle_since: Cell::new(now),
            is_spent: Cell::new(false),
        }))
    }

    /// One more exchange on it.
    pub(super) fn stream(self: &Rc<Self>) -> Rc<Stream> {
        if self.streams.replace(self.streams.get() + 1) == 0 {
            self.counted.set(self.bench.metrics().active());
        }
        Rc::new(Stream { connection: self.clone(), stay: Cell::default(), tunnel: Cell::default() })
    }

    /// Whether the peer takes another stream.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.allowed.get().min(self.borne.get()).min(STREAMS_MAX)
    }

    /// Whether new streams may go to it, by the terms that hold now.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        let terms = self.bench.terms();
        let is_outdated = self.header_bytes_max != terms.heads.bytes_max || self.age.is_over(now, terms.age_max);
        let is_idle_too_long = self.is_idle() && now.saturating_duration_since(self.idle_since.get()) >= terms.idle;
        !self.is_spent.get() && !is_outdated && !is_idle_too_long && !self.sender.borrow().is_closed()
    }

    /// Whether it serves nobody.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One exchange on a [`Connection`]. Dropping it ends the stream; the connection stays.
pub(super) struct Stream {
    connection: Rc<Connection>,
    stay: Cell<Option<Stay>>,
    /// Where it is asked to become a tunnel: what sends on it then.
    tunnel: Cell<Option<Sender>>,
}

impl Stream {
    /// Sends `request` and waits for the head of its answer.
    pub(super) fn send(&self, mut request: Request<Body>) -> impl Future<Output = Sent> + use<> {
        // What no two requests have in common would fill the table of HPACK, and be compared with all that is in it.
        for name in [&name::X_REQUEST_ID, &name::TRACEPARENT] {
            if let Some(value) = request.headers_mut().get_mut(name) {
                value.set_sensitive(true);
            }
        }
        self.connection.sender.borrow_mut().try_send_request(request)
    }

    /// Whether the peer takes streams that become tunnels. Its SETTINGS say so, which are waited for once, and no longer
    /// than `patience`.
    pub(super) async fn becomes_tunnel(&self, patience: Duration) -> bool {
        let tunnels = &self.connection.tunnels;
        let wheel = &self.connection.bench.worker().wheel;
        let (until, mut timer) = (wheel.now() + patience, wheel.timer());
        while !tunnels.is_settled.get() {
            if let Some(look) = &*tunnels.look.borrow() {
                look.wake_by_ref();
            }
            timer.arm(LOOK_EVERY);
            timer.expired().await;
            if wheel.now() >= until {
                tunnels.is_settled.set(true);
            }
        }
        tunnels.are_taken.get()
    }

    /// Makes of `request` the one that asks for a tunnel.
    pub(super) fn ask_for_tunnel(&self, request: &mut Request<Body>) {
        Wish::name_protocol(request);
        let sender = Sender::default();
        self.tunnel.set(Some(sender.clone()));
        *request.body_mut() = Body::Other(Box::new(Asking { sender, spawns: self.connection.spawns.clone() }));
    }

    /// The tunnel that was granted.
    pub(super) fn tunnel(&self, granted: Upgraded) -> Option<StreamTunnel> {
        StreamTunnel::new(granted, &self.tunnel.take()?, Peer::Server)
    }

    /// The peer bore this stream.
    pub(super) fn answered(&self) {
        let connection = &self.connection;
        connection.borne.set(connection.borne.get().saturating_add(1));
    }

    /// Why there was no answer.
    pub(super) fn failure(&self, mut error: TrySendError<Request<Body>>) -> Failure {
        let is_alone = self.connection.streams.get() == 1;
        if let Some(mut request) = error.take_message() {
            if self.tunnel.take().is_some() {
                *request.body_mut() = Body::Empty;
            }
            let error = Error::from_exchange(error.into_error());
            return Failure::Unsent { request: Box::new(request), error, is_alone };
        }
        let hyper = error.into_error();
        let h2 = cause::<h2::Error>(&hyper);
        // Whoever reset it, be it hyper for a body that broke off: it is one stream, and the others go on.
        let is_reset = h2.is_some_and(h2::Error::is_reset);
        let is_refused = is_reset
            && h2.is_some_and(h2::Error::is_remote)
            && h2.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM);
        // RFC 9113 §6.8: of streams above the last identifier in a GOAWAY nothing was processed. Only those see it as
        // their error.
        let is_left_out = h2.is_some_and(|h2| h2.is_go_away() && h2.is_remote());
        let error = Error::from_exchange(hyper);
        if is_left_out {
            self.spend();
            Failure::Refused { error, is_alone }
        } else if is_refused {
            // RFC 9113 §8.7: nothing of it was processed.
            self.connection.borne.set((self.connection.streams.get() - 1).max(1));
            Failure::Refused { error, is_alone }
        } else if is_reset {
            Failure::Ended { error }
        } else {
            self.spend();
            Failure::Broken { error, head: None }
        }
    }

    /// No new streams on its connection: what was sent on it came to nothing.
    pub(super) fn spend(&self) {
        self.connection.is_spent.set(true);
    }

    /// Holds `stay` until the exchange is over.
    pub(super) fn occupy(&self, stay: Stay) {
        self.stay.set(Some(stay));
    }
}

impl Lease for Stream {
    fn give_back(self: Rc<Self>) {}

    fn broke_off(&self) {
        self.connection.bench.metrics().answer_cut();
        broke_off(&self.stay);
    }

    fn ended(&self, trailers: &HeaderMap) {
        ended(&self.stay, trailers);
    }

    fn part(self: Rc<Self>, rest: Incoming) {
        drop(self.stay.take());
        let connection = self.connection.clone();
        connection.partings.add(rest, self, connection.bench.worker().wheel.timer());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        if connection.is_idle() {
            connection.idle_since.set(connection.bench.worker().wheel.now());
            connection.counted.set(connection.bench.metrics().idle());
        }
        connection.bench.share_streams();
    }
}

/// Spawns hyper's tasks on the worker that the connection belongs to. What sends on a stream that becomes a tunnel is no task.
#[derive(Clone, Default)]
pub(super) struct LocalExec(Rc<Spawns>);

/// Which of what hyper spawns belongs to a tunnel.
#[derive(Default)]
struct Spawns {
    /// The tunnel whose request is being sent: what is spawned next waits for its answer. Of one that could not be sent, it
    /// waits for another's, which is no tunnel's.
    asked: Cell<Option<Sender>>,
    /// The tunnel whose answer may be here: what is spawned meanwhile sends on it.
    answered: Cell<Option<Sender>>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        if let Some(sender) = self.0.answered.take() {
            return sender.put(future);
        }
        let Some(sender) = self.0.asked.take() else {
            tokio::task::spawn_local(future);
            return;
        };
        let spawns = self.0.clone();
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                spawns.answered.set(Some(sender.clone()));
                let polled = future.as_mut().poll(cx);
                spawns.answered.take();
                polled
            })
            .await;
        });
    }
}

/// No body, of a request for a tunnel. hyper asks whether there is one when it sends the request, and spawns what waits for
/// the answer before it looks at another.
struct Asking {
    sender: Sender,
    spawns: LocalExec,
}

impl http_body::Body for Asking {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.spawns.0.asked.set(Some(self.sender.clone()));
        true
    }
}

async fn run(
    mut connection: http2::Connection<TokioIo<Wire>, Body, LocalExec>,
    allowed: Rc<Cell<usize>>,
    tunnels: Rc<Tunnels>,
    partings: Rc<Partings>,
    handle: Weak<Connection>,
    count: Open,
) {
    let end = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        let streams = connection.current_max_send_streams();
        tunnels.are_taken.set(connection.is_extended_connect_protocol_enabled());
        // The number changes with the peer's SETTINGS, mostly.
        if tunnels.are_taken.get() || streams != allowed.get() {
            tunnels.is_settled.set(true);
        }
        allowed.set(streams);
        partings.poll(cx);
        let mut look = tunnels.look.borrow_mut();
        if !look.as_ref().is_some_and(|look| look.will_wake(cx.waker())) {
            *look = Some(cx.waker().clone());
        }
        polled
    });
    if let Err(error) = end.await {
        tracing::debug!(%error, "upstream connection failed");
    }
    drop(count);
    partings.end();
    if let Some(connection) = handle.upgrade() {
        connection.is_spent.set(true);
        // Takes it out, and lets another be opened for who waits.
        connection.bench.share_streams();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_the_memory_and_leave_each_stream_its_own() {
        for (large_reads, stream) in [(16 << 20, 256 << 10), (4 << 20, 65_536), (0, 65_535), (usize::MAX, 256 << 10)] {
            assert_eq!(windows(large_reads), (stream, stream * STREAMS_MAX as u32), "{large_reads}");
        }
    }
}
