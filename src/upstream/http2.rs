//! One HTTP/2 connection with prior knowledge: many exchanges at a time, each on a stream.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Instant;

use http::{HeaderMap, Request};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::bench::{Bench, Room};
use super::client::{Failure, Sent};
use super::http1::{Age, TaskCount, broke_off, ended};
use super::link::Wire;
use super::state::Stay;
use crate::http::body::{Body, Lease, cause};
use crate::telemetry::metrics::InFlight;

/// What may arrive on a stream ahead of who reads it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Streams on one connection, whatever the peer allows: more of them open another connection.
const STREAMS_MAX: usize = 128;

/// What may arrive on all streams together: enough for each of them, so that those whose readers are slow leave the
/// others theirs. It bounds what a connection holds, too.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;

/// An HTTP/2 connection. Closes when it is out of the bench and its last stream is over.
pub(super) struct Connection {
    sender: RefCell<SendRequest<Body>>,
    task: AbortHandle,
    bench: Rc<Bench>,
    _room: Room,
    streams: Cell<usize>,
    /// Streams that the peer's SETTINGS allow, as far as they were seen.
    allowed: Rc<Cell<usize>>,
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
        let mut builder = http2::Builder::new(LocalExec);
        builder
            .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(TokioIo::new(wire)).await?;
        let now = bench.worker().wheel.now();
        let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
        Ok(Rc::new_cyclic(|this| Self {
            sender: RefCell::new(sender),
            task: tokio::task::spawn_local(run(
                connection,
                allowed.clone(),
                this.clone(),
                TaskCount::start(&bench.worker().tasks),
            ))
            .abort_handle(),
            age: Age::since(now),
            header_bytes_max,
            counted: Cell::new(bench.metrics().idle()),
            bench,
            _room: room,
            streams: Cell::new(0),
            allowed,
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
        Rc::new(Stream { connection: self.clone(), stay: Cell::default() })
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
}

impl Stream {
    /// Sends `request` and waits for the head of its answer.
    pub(super) fn send(&self, request: Request<Body>) -> impl Future<Output = Sent> + use<> {
        self.connection.sender.borrow_mut().try_send_request(request)
    }

    /// The peer bore this stream.
    pub(super) fn answered(&self) {
        let connection = &self.connection;
        connection.borne.set(connection.borne.get().saturating_add(1));
    }

    /// Why there was no answer.
    pub(super) fn failure(&self, mut error: TrySendError<Request<Body>>) -> Failure {
        if let Some(request) = error.take_message() {
            return Failure::Unsent { request: Box::new(request), error: error.into_error() };
        }
        let error = error.into_error();
        match cause::<h2::Error>(&error) {
            // RFC 9113 §6.8: of streams above the last identifier in a GOAWAY nothing was processed. Only those see it
            // as their error.
            Some(h2) if h2.is_go_away() && h2.is_remote() => {
                self.spend();
                Failure::Refused { error }
            }
            // RFC 9113 §8.7: nothing of it was processed.
            Some(h2) if h2.is_reset() && h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                self.connection.borne.set((self.connection.streams.get() - 1).max(1));
                Failure::Refused { error }
            }
            Some(h2) if h2.is_reset() && h2.is_remote() => Failure::Ended { error },
            _ => {
                self.spend();
                Failure::Broken { error, began: false, head: None }
            }
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
        broke_off(&self.stay);
    }

    fn ended(&self, trailers: &HeaderMap) {
        ended(&self.stay, trailers);
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

/// Spawns hyper's tasks on the worker that the connection belongs to.
#[derive(Clone)]
pub(super) struct LocalExec;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn run(
    mut connection: http2::Connection<TokioIo<Wire>, Body, LocalExec>,
    allowed: Rc<Cell<usize>>,
    handle: Weak<Connection>,
    count: TaskCount,
) {
    let end = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        allowed.set(connection.current_max_send_streams());
        polled
    });
    if let Err(error) = end.await {
        tracing::debug!(%error, "upstream connection failed");
    }
    drop(count);
    if let Some(connection) = handle.upgrade() {
        connection.is_spent.set(true);
        // Takes it out, and lets another be opened for who waits.
        connection.bench.share_streams();
    }
}
