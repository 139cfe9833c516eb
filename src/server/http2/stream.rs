//! A stream of an HTTP/2 client: how long its answer may wait for the client, and when its exchange is over, which is when
//! the last byte has left and not when hyper has it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};

use super::SEND_BUFFER_MAX;
use crate::http::body::BodyError;
use crate::telemetry::finish::Finish;
use crate::telemetry::metrics::Metrics;
use crate::timer::{Timer, Wheel};

/// How much a client must take within `body_idle`, or the rest of a piece: a byte now and then is no progress.
const PROGRESS_MIN: usize = 4 << 10;

/// The streams of a connection.
#[derive(Default)]
pub(super) struct Streams {
    open: Cell<usize>,
    /// Those of them whose answers hyper has not taken whole.
    answering: Cell<usize>,
    opened: Cell<u64>,
    /// Answers of which nothing but the end waits for the client, so that nobody asks them any more.
    leaving: RefCell<Vec<Weak<Outgoing>>>,
}

impl Streams {
    /// One more answer that hyper has whole.
    fn leaves(&self, answer: &Rc<Outgoing>) {
        let mut leaving = self.leaving.borrow_mut();
        // As many as are open, and as many that have left since.
        if leaving.len() >= 2 * self.open.get().max(8) {
            leaving.retain(|answer| answer.strong_count() > 0);
        }
        leaving.push(Rc::downgrade(answer));
    }

    /// Whether there is an answer that hyper has whole and the client has not.
    pub(super) fn is_leaving(&self) -> bool {
        self.open.get() > self.answering.get()
    }

    /// Ends the exchanges of answers whose client has taken too little for too long. What h2 has of them stays where it is:
    /// it holds nobody's place. Whether the connection is of use to nobody any more.
    pub(super) fn give_up(&self) -> bool {
        let before = self.open.get();
        let mut leaving = std::mem::take(&mut *self.leaving.borrow_mut());
        leaving.retain(|answer| answer.upgrade().is_some_and(|answer| !answer.gives_up()));
        self.leaving.borrow_mut().append(&mut leaving);
        before > 0 && self.open.get() == 0
    }
    /// How many there were.
    pub(super) fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Whether there is one that is being answered. Each has a clock of its own.
    pub(super) fn is_answering(&self) -> bool {
        self.answering.get() > 0
    }

    /// Whether there is one at all: of an answer that hyper has whole, bytes may wait for their client.
    pub(super) fn is_open(&self) -> bool {
        self.open.get() > 0
    }
}

/// An open stream.
pub(super) struct Stream {
    streams: Rc<Streams>,
    is_answering: Cell<bool>,
}

impl Stream {
    /// One more of a connection.
    pub(super) fn open(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.answering.set(streams.answering.get() + 1);
        streams.opened.set(streams.opened.get() + 1);
        Self { streams: streams.clone(), is_answering: Cell::new(true) }
    }

    /// hyper has the whole answer.
    fn answered(&self) {
        if self.is_answering.replace(false) {
            self.streams.answering.set(self.streams.answering.get() - 1);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.answered();
        self.streams.open.set(self.streams.open.get() - 1);
    }
}

/// An answer on its way to the client.
///
/// How long a piece of it has been waiting is not the body's to notice: hyper asks it for nothing as long as the piece
/// before has not gone out.
pub(in crate::server) struct Outgoing {
    /// When the client last took enough, while hyper has a piece.
    since: Cell<Option<Instant>>,
    /// What it took since then.
    taken: Cell<usize>,
    /// What has not left of the pieces that hyper has.
    held: Cell<usize>,
    /// Made when it first waits: what is taken at once costs no timer.
    timer: RefCell<Option<Timer>>,
    wheel: Wheel,
    max: Duration,
    metrics: Metrics,
    /// The exchange, as long as anything of its answer may still go out.
    exchange: RefCell<Option<(Finish, Stream)>>,
}

impl Outgoing {
    /// One of which a piece may wait for so long.
    pub(super) fn new(wheel: &Wheel, max: Duration, metrics: &Metrics) -> Rc<Self> {
        let (since, timer, exchange) = (Cell::default(), RefCell::default(), RefCell::default());
        let (taken, held) = (Cell::default(), Cell::default());
        Rc::new(Self { since, taken, held, timer, wheel: wheel.clone(), max, metrics: metrics.clone(), exchange })
    }

    /// hyper has got a piece.
    fn begin(&self) {
        self.since.set(Some(self.wheel.now()));
        self.taken.set(0);
    }

    /// Some of it has left.
    fn went_on(&self, count: usize) {
        self.held.set(self.held.get().saturating_sub(count));
        self.taken.set(self.taken.get().saturating_add(count));
        if self.since.get().is_some() && self.taken.get() >= PROGRESS_MIN {
            self.begin();
        }
    }

    /// Ends the exchange if the client has taken too little for too long, and tells whether it has ended.
    fn gives_up(&self) -> bool {
        let is_late = self.since.get().is_some_and(|since| since + self.max <= self.wheel.now());
        if is_late {
            self.metrics.limit_hit("body_idle");
            self.outwaited();
            self.lost(self.held.get());
            let exchange = self.exchange.take();
            drop(exchange);
        }
        is_late
    }

    /// hyper asks for the next one.
    fn end(&self) {
        self.since.set(None);
        if let Some(timer) = &mut *self.timer.borrow_mut() {
            timer.disarm();
        }
    }

    /// Ready once the client has taken nothing for too long.
    pub(in crate::server) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.since.get() else { return Poll::Pending };
        let mut timer = self.timer.borrow_mut();
        let timer = timer.get_or_insert_with(|| self.wheel.timer());
        // Asked before it is armed: a timer that expired counts as unarmed.
        let mut polled = timer.poll_expired(cx);
        let end = since + self.max;
        if polled.is_ready() && end > self.wheel.now() || polled.is_pending() && !timer.is_armed() {
            timer.arm_at(end);
            polled = timer.poll_expired(cx);
        }
        if polled.is_ready() {
            self.metrics.limit_hit("body_idle");
            self.outwaited();
        }
        polled
    }

    /// Its client is waited for no longer.
    fn outwaited(&self) {
        if let Some((finish, _)) = &mut *self.exchange.borrow_mut() {
            finish.outwaited();
        }
    }

    /// So many bytes of it never leave.
    fn lost(&self, bytes: usize) {
        if bytes > 0
            && let Some((finish, _)) = &mut *self.exchange.borrow_mut()
        {
            finish.lost(bytes as u64);
        }
    }
}

/// A response body in pieces, which keep its exchange until they have left.
pub(super) struct Outbound {
    outgoing: Rc<Outgoing>,
    /// What is left of a frame that is too long for one piece.
    rest: Bytes,
    /// None is a stream that becomes a tunnel: its exchange is not over.
    is_tunnel: bool,
    is_over: bool,
}

impl Outbound {
    /// The body of `finish`, on `stream`.
    pub(super) fn new(outgoing: Rc<Outgoing>, finish: Finish, stream: Stream) -> Self {
        outgoing.exchange.replace(Some((finish, stream)));
        Self { outgoing, rest: Bytes::new(), is_tunnel: false, is_over: false }
    }

    /// What stands in place of a body where the stream becomes a tunnel.
    pub(super) fn tunnel(outgoing: Rc<Outgoing>) -> Self {
        Self { outgoing, rest: Bytes::new(), is_tunnel: true, is_over: false }
    }

    fn piece(&mut self, mut bytes: Bytes) -> Frame<Piece> {
        self.rest = if bytes.len() > SEND_BUFFER_MAX { bytes.split_off(SEND_BUFFER_MAX) } else { Bytes::new() };
        self.outgoing.begin();
        self.outgoing.held.set(self.outgoing.held.get() + bytes.len());
        Frame::data(Piece { bytes, of: self.outgoing.clone() })
    }
}

impl http_body::Body for Outbound {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let this = self.get_mut();
        this.outgoing.end();
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(this.piece(rest))));
        }
        let polled = match &mut *this.outgoing.exchange.borrow_mut() {
            Some((finish, _)) => Pin::new(finish).poll_frame(cx),
            None => Poll::Ready(None),
        };
        polled.map(|frame| match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(bytes) => this.piece(bytes),
                Err(frame) => {
                    this.is_over = frame.is_trailers();
                    this.outgoing.begin();
                    // Of what is no data there are only trailers.
                    Frame::trailers(frame.into_trailers().unwrap_or_default())
                }
            })),
            Some(Err(error)) => Some(Err(error)),
            None => {
                this.is_over = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // An answer that ended here would end the tunnel with it.
        let is_end = |(finish, _): &(Finish, Stream)| finish.is_end_stream();
        !self.is_tunnel && self.rest.is_empty() && self.outgoing.exchange.borrow().as_ref().is_none_or(is_end)
    }

    fn size_hint(&self) -> SizeHint {
        let exchange = self.outgoing.exchange.borrow();
        let hint = exchange.as_ref().map_or_else(SizeHint::default, |(finish, _)| finish.size_hint());
        let rest = self.rest.len() as u64;
        match hint.exact() {
            Some(length) => SizeHint::with_exact(length.saturating_add(rest)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.outgoing.lost(self.rest.len());
        if !self.is_over && !self.is_end_stream() {
            // Broken off: what hyper has of it is not waited for.
            self.outgoing.lost(self.outgoing.held.get());
            let exchange = self.outgoing.exchange.take();
            drop(exchange);
        } else if let Some((finish, stream)) = &mut *self.outgoing.exchange.borrow_mut() {
            // The last piece falls within h2, whose lock a body that is a stream of its own would want again.
            finish.let_body_go();
            self.outgoing.begin();
            stream.streams.leaves(&self.outgoing);
            stream.answered();
        }
    }
}

/// Bytes of an answer. Dropped before they have left, they are lost.
pub(super) struct Piece {
    bytes: Bytes,
    of: Rc<Outgoing>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.of.went_on(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.held.set(self.of.held.get().saturating_sub(self.bytes.len()));
        self.of.lost(self.bytes.len());
    }
}
