//! The gate between a client's socket and hyper's HTTP/1 server: no byte of a request head reaches hyper before the whole
//! head has been found lawful, no byte of the next head before the present exchange is over.
//!
//! hyper parses leniently in a few places and keeps no time of its own. The gate owns the read side, knows by
//! [`framing`](crate::http::framing) where every message ends, and runs the connection's timeouts on the worker's timer wheel.
//!
//! How it fits hyper 1.x (`proto/h1`):
//! - hyper answers a *parse* error itself, but an `io::Error` before a head ends the connection without a word
//!   (`Conn::on_read_head_error`). So a violation in a head is an `io::Error` to hyper, the previous response is flushed,
//!   hyper's future ends (with `Ok`!), and the owner asks [`GateState::refusal`], takes the gate back with `into_parts` and
//!   sends its own answer with [`Gate::refuse`]. [`Gate`] keeps the socket open for that when hyper shuts it down.
//! - a violation in a body reaches the service as the error of its request body, see
//!   [`Violation::of`](crate::http::framing::Violation::of). The service answers; its answer should say
//!   `Connection: close`, for hyper closes after it.
//! - while an exchange is in flight hyper reads only to notice that the client went away (`Conn::mid_message_detect_eof`). The
//!   gate keeps the bytes that come then, up to the limit of a head, and reports only the end. A client that shuts down its
//!   write side while it waits counts as gone, as with nginx and HAProxy: set hyper's `half_close(false)`, its default.
//! - the exchange is over when the service has called [`GateState::exchange_finished`] *and* hyper has flushed. hyper does
//!   not come back to a read side that was pending before (`Conn::maybe_notify`), so the gate uses that flush to wake it for
//!   a pipelined head and to start the keep-alive time.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::framing::{BodyFraming, ChunkFollower, HeadLimits, HeadScanner, Violation};
use crate::timer::{Timer, Wheel};

/// How long a closing connection waits for the client to stop sending, so that it reads our answer and not a reset
/// (RFC 9112 §9.6).
pub(super) const LINGER_TIME: Duration = Duration::from_secs(2);

/// How much is read and thrown away in that time.
pub(super) const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// What one read may bring at most.
const SCRATCH_BYTES: usize = 64 * 1024;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct GateTimeouts {
    /// From the first byte of a head to its end; for the first request of a connection from [`Gate::new`].
    pub request_headers: Duration,
    /// The longest pause within a request body, and the longest time without progress in writing.
    pub body_idle: Duration,
    /// The longest time between two requests.
    pub keep_alive: Duration,
}

/// One read buffer for all gates of a worker: bytes stay in it only within one poll, so a waiting connection owns none.
#[derive(Clone)]
pub struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Scratch {
    /// A buffer of 64 KiB. Make one per worker and clone it.
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice())))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What the gate, the service on its connection and whoever watches the connection tell each other.
#[derive(Debug, Default)]
pub struct GateState {
    in_flight: Cell<bool>,
    is_tunnel: Cell<bool>,
    violation: Cell<Option<Violation>>,
    refusal: Cell<Option<Violation>>,
    says_close: Cell<bool>,
    idle_since: Cell<Option<Instant>>,
    requests: Cell<u64>,
    bytes_read: Cell<u64>,
    bytes_written: Cell<u64>,
}

impl GateState {
    /// Says that the present response has been handed to hyper to its end, or dropped.
    ///
    /// To be called in the connection's own task: by the service when the response has no body, else when hyper polls the
    /// last frame of the body or drops it. The gate lets the next head pass once hyper has flushed after this call. Without
    /// it the connection serves no second request. Not to be called when the answer is a 101.
    pub fn exchange_finished(&self) {
        self.in_flight.set(false);
    }

    /// Says that the present answer announces the end of the connection. The client is then waited for: it may have sent a
    /// next request before it knew, and unread bytes would make of the close a reset, which can take the answer with it
    /// (RFC 9112 §9.6).
    pub fn say_close(&self) {
        self.says_close.set(true);
    }

    /// Whether a complete request head has been handed to hyper whose exchange is not finished.
    pub fn in_flight(&self) -> bool {
        self.in_flight.get()
    }

    /// Says that the connection leaves HTTP with the present answer (101): what the client sends from now on is kept
    /// unread for [`Gate::into_parts`].
    pub fn become_tunnel(&self) {
        self.is_tunnel.set(true);
    }

    /// Whether [`GateState::become_tunnel`] was called. hyper ends in the same way after an upgrade that was refused, so only
    /// this tells that its end is a hand-over.
    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.get()
    }

    /// The violation that ended the read or the write side, if one did.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// A violation in a head, which hyper and the service know nothing of and which waits for [`Gate::refuse`].
    pub fn refusal(&self) -> Option<Violation> {
        self.refusal.get()
    }

    /// Since when, by the coarse clock, nothing has been going on: the last answer is out, and no byte of a next request
    /// in. hyper holds nothing of the connection then, and may be dropped until [`Gate::poll_wake`].
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// Requests whose heads were handed to hyper.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Bytes read from the client, those before [`Gate::new`] included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// Bytes written to the client.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.get()
    }
}

/// The part of the message that comes next on the read side.
enum Phase {
    /// A head, or the empty lines or the silence before it.
    Head(HeadScanner),
    /// This much of a head that was found lawful and did not fit hyper's buffer; then the body.
    RestOfHead(usize, BodyFraming),
    /// This much of a body, at least one byte.
    Length(u64),
    Chunked(ChunkFollower),
}

impl Phase {
    fn head() -> Self {
        Self::Head(HeadScanner::default())
    }

    fn body(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None => Self::head(),
            BodyFraming::Length(length) => Self::Length(length),
            BodyFraming::Chunked => Self::Chunked(ChunkFollower::default()),
        }
    }
}

/// What the read timer runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Nothing: the client has no duty to send.
    No,
    /// The first head, since the connection was accepted.
    First,
    /// The first byte of a later head.
    Idle,
    /// The rest of a later head.
    Head,
    /// More of a body.
    Body,
    /// The client's end of a connection that we closed.
    Linger,
}

/// A client's connection as hyper sees it. See the module's description.
pub struct Gate<S> {
    io: S,
    state: Rc<GateState>,
    limits: HeadLimits,
    timeouts: GateTimeouts,
    wheel: Wheel,
    scratch: Scratch,
    phase: Phase,
    /// Bytes that were read and may not pass yet; live from `held_start` on. Empty most of the time.
    held: Vec<u8>,
    held_start: usize,
    /// From the hand-over of a head until the response to it is flushed.
    exchange_is_open: bool,
    is_eof: bool,
    failed: Option<Violation>,
    waiting: Waiting,
    read_timer: Timer,
    /// Made when the client first leaves us waiting with a write.
    write_timer: Option<Timer>,
    /// The client leaves us waiting, and the write timer runs or has run out.
    is_stalled: bool,
    /// Set when closing begins: whether the client may still be sending.
    lingers: Option<bool>,
    linger_left: usize,
    is_shut_down: bool,
}

impl<S> Gate<S> {
    /// A gate before `io`, of which `prefix` has been read already. The time for the first head begins now.
    pub fn new(
        io: S,
        prefix: Vec<u8>,
        limits: HeadLimits,
        timeouts: GateTimeouts,
        wheel: &Wheel,
        scratch: &Scratch,
        state: Rc<GateState>,
    ) -> Self {
        let mut read_timer = wheel.timer();
        arm(&mut read_timer, wheel, timeouts.request_headers);
        add(&state.bytes_read, prefix.len());
        Self {
            io,
            state,
            limits,
            timeouts,
            wheel: wheel.clone(),
            scratch: scratch.clone(),
            phase: Phase::head(),
            held: prefix,
            held_start: 0,
            exchange_is_open: false,
            is_eof: false,
            failed: None,
            waiting: Waiting::First,
            read_timer,
            write_timer: None,
            is_stalled: false,
            lingers: None,
            linger_left: LINGER_BYTES_MAX,
            is_shut_down: false,
        }
    }

    /// The state that this gate shares.
    pub fn state(&self) -> &Rc<GateState> {
        &self.state
    }

    /// Takes the socket back, with the bytes that were read from it and not handed to hyper: after a 101 they are the
    /// first of the tunnel. hyper's `Parts::read_buf` has none of them.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.held.drain(..self.held_start);
        (self.io, self.held)
    }

    /// The socket.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Whether an answer is on its way that has not been flushed.
    pub fn is_answering(&self) -> bool {
        self.exchange_is_open
    }

    fn is_withheld(&self) -> bool {
        self.exchange_is_open || self.state.is_tunnel.get()
    }

    fn has_held(&self) -> bool {
        self.held_start < self.held.len()
    }

    /// Hands over as much of `input` as may pass and fits, and answers how much that was. `cursor` tells how much of it
    /// hyper has got: empty lines are dropped.
    fn pass(&mut self, input: &[u8], cursor: &mut ReadBufCursor<'_>) -> Result<usize, Violation> {
        let mut at = 0;
        while at < input.len() && cursor.remaining() > 0 {
            let rest = &input[at..];
            match &mut self.phase {
                Phase::Head(_) if self.exchange_is_open || self.state.is_tunnel.get() => break,
                Phase::Head(scanner) => {
                    let Some(head) = scanner.scan(rest, &self.limits)? else {
                        break;
                    };
                    at += head.start;
                    self.phase = Phase::RestOfHead(head.end - head.start, head.body);
                    self.exchange_is_open = true;
                    self.state.in_flight.set(true);
                    add(&self.state.requests, 1);
                    self.wait_for(Waiting::No);
                }
                Phase::RestOfHead(left, body) => {
                    let here = (*left).min(rest.len()).min(cursor.remaining());
                    cursor.put_slice(&rest[..here]);
                    at += here;
                    *left -= here;
                    if *left == 0 {
                        self.phase = Phase::body(*body);
                    }
                }
                Phase::Length(left) => {
                    let fits = rest.len().min(cursor.remaining());
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(fits);
                    cursor.put_slice(&rest[..here]);
                    at += here;
                    *left -= here as u64;
                    if *left == 0 {
                        self.phase = Phase::head();
                    }
                }
                Phase::Chunked(follower) => {
                    let fits = rest.len().min(cursor.remaining());
                    let step = follower.advance(&rest[..fits])?;
                    cursor.put_slice(&rest[..step.consumed]);
                    at += step.consumed;
                    if step.is_done {
                        self.phase = Phase::head();
                    }
                }
            }
        }
        Ok(at)
    }

    fn pass_held(&mut self, cursor: &mut ReadBufCursor<'_>) -> Result<(), Violation> {
        let held = std::mem::take(&mut self.held);
        let passed = self.pass(&held[self.held_start..], cursor);
        self.held = held;
        self.held_start += passed?;
        if !self.has_held() {
            // Given back whole: a connection that waits for its next request should cost nothing here.
            self.held = Vec::new();
            self.held_start = 0;
        }
        Ok(())
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held_start > 0 {
            self.held.drain(..self.held_start);
            self.held_start = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    /// How much may be read from the socket now, when `fits` bytes could be handed over.
    fn room(&self, fits: usize) -> usize {
        let held = self.held.len() - self.held_start;
        match &self.phase {
            // The scanner refuses a head before it fills this.
            Phase::Head(_) if self.is_withheld() || held > 0 => self.limits.bytes_max.saturating_sub(held),
            Phase::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(fits),
            _ => fits,
        }
    }

    fn fail(&mut self, violation: Violation) -> io::Error {
        self.failed = Some(violation);
        self.state.violation.set(Some(violation));
        if matches!(self.phase, Phase::Head(_)) {
            self.state.refusal.set(Some(violation));
        }
        violation.into()
    }

    fn wait_for(&mut self, waiting: Waiting) {
        if self.waiting == waiting {
            return;
        }
        self.waiting = waiting;
        self.state.idle_since.set((waiting == Waiting::Idle).then(|| self.wheel.now()));
        match waiting {
            Waiting::No => self.read_timer.disarm(),
            Waiting::First | Waiting::Head => arm(&mut self.read_timer, &self.wheel, self.timeouts.request_headers),
            Waiting::Idle => arm(&mut self.read_timer, &self.wheel, self.timeouts.keep_alive),
            Waiting::Body => arm(&mut self.read_timer, &self.wheel, self.timeouts.body_idle),
            Waiting::Linger => arm(&mut self.read_timer, &self.wheel, LINGER_TIME),
        }
    }

    fn has_begun(&self) -> bool {
        match &self.phase {
            Phase::Head(scanner) => self.held.len() - self.held_start > scanner.leading(),
            _ => true,
        }
    }

    /// Runs the time for what the client owes us while the socket has nothing. Ready when it is over.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = match &self.phase {
            Phase::Head(_) if self.is_withheld() => Waiting::No,
            // The first head has its time from the start, whether it has begun or not.
            Phase::Head(_) if self.waiting == Waiting::First => Waiting::First,
            Phase::Head(_) if self.has_begun() => Waiting::Head,
            Phase::Head(_) => Waiting::Idle,
            _ => Waiting::Body,
        };
        self.wait_for(waiting);
        match waiting {
            Waiting::No => Poll::Pending,
            _ => self.read_timer.poll_expired(cx),
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads what the socket has, hands over what may pass and holds the rest. Ready with the number of bytes, 0 at the end.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        cursor: &mut ReadBufCursor<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let scratch = self.scratch.clone();
        let mut scratch = scratch.0.borrow_mut();
        let room = room.min(scratch.len());
        let mut read = ReadBuf::new(&mut scratch[..room]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        add(&self.state.bytes_read, bytes.len());
        if self.waiting == Waiting::Body && !bytes.is_empty() {
            self.wait_for(Waiting::No);
        }
        if self.has_held() {
            self.hold(bytes);
        } else {
            let before = cursor.remaining();
            let passed = match self.pass(bytes, cursor) {
                Ok(passed) => passed,
                Err(violation) => {
                    let error = self.fail(violation);
                    // What passed before the fault goes first; the next read reports it.
                    return if cursor.remaining() < before {
                        Poll::Ready(Ok(bytes.len()))
                    } else {
                        Poll::Ready(Err(error))
                    };
                }
            };
            self.hold(&bytes[passed..]);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Waits in hyper's stead while the connection is idle: ready with `true` when the client sends something, with
    /// `false` when the connection is over, be it that it was idle for too long.
    pub fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let scratch = self.scratch.clone();
        let mut scratch = scratch.0.borrow_mut();
        let room = self.limits.bytes_max.min(scratch.len());
        let mut read = ReadBuf::new(&mut scratch[..room]);
        match Pin::new(&mut self.io).poll_read(cx, &mut read) {
            Poll::Pending => self.poll_overdue(cx).map(|()| false),
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                add(&self.state.bytes_read, read.filled().len());
                self.hold(read.filled());
                self.wait_for(if self.has_begun() { Waiting::Head } else { Waiting::Idle });
                Poll::Ready(true)
            }
            Poll::Ready(_) => Poll::Ready(false),
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_eof && self.linger_left > 0 {
            let mut scratch = self.scratch.0.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.linger_left = self.linger_left.saturating_sub(read.filled().len());
                }
                Poll::Ready(_) => self.is_eof = true,
                Poll::Pending => return self.read_timer.poll_expired(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Sends `response`, rendered whole and with `Connection: close`, to a client whose head was refused, and closes so
    /// that the client can read it. To be called when [`GateState::refusal`] is some and hyper is done. Takes two seconds at
    /// most.
    ///
    /// # Errors
    /// The client went away, or did not read.
    pub async fn refuse(&mut self, response: &[u8]) -> io::Result<()> {
        self.state.refusal.set(None);
        self.wait_for(Waiting::Linger);
        let mut rest = response;
        std::future::poll_fn(|cx| {
            while !rest.is_empty() {
                let written = ready!(self.poll_in_time(cx, |io, cx| io.poll_write(cx, rest)))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                add(&self.state.bytes_written, written);
                rest = &rest[written..];
            }
            self.poll_close(cx, true)
        })
        .await
    }

    /// Closes a connection that nothing is going on on, so that a client whose next request crosses with it sees an end
    /// and no reset. Takes two seconds at most.
    ///
    /// # Errors
    /// The client went away.
    pub async fn close(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_close(cx, true)).await
    }

    /// An operation of the write side before the linger time is over.
    fn poll_in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match operation(Pin::new(&mut self.io), cx) {
            Poll::Pending => self.read_timer.poll_expired(cx).map(|()| Err(Violation::WriteTimeout.into())),
            ready => ready,
        }
    }

    /// Shuts down the write side and waits a little if the client `is_sending`. The first call decides that: what was held is
    /// thrown away.
    fn poll_close(&mut self, cx: &mut Context<'_>, is_sending: bool) -> Poll<io::Result<()>> {
        let lingers = *self.lingers.get_or_insert(is_sending);
        self.wait_for(Waiting::Linger);
        self.held = Vec::new();
        self.held_start = 0;
        if !self.is_shut_down {
            ready!(self.poll_in_time(cx, |io, cx| io.poll_flush(cx)))?;
            ready!(self.poll_in_time(cx, |io, cx| io.poll_shutdown(cx)))?;
            self.is_shut_down = true;
        }
        if lingers {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Watches that the client reads: `poll` is what a write came to.
    fn poll_progress<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if std::mem::take(&mut self.is_stalled)
                && let Some(timer) = &mut self.write_timer
            {
                timer.disarm();
            }
            return poll;
        }
        let timer = self.write_timer.get_or_insert_with(|| self.wheel.timer());
        if !std::mem::replace(&mut self.is_stalled, true) {
            arm(timer, &self.wheel, self.timeouts.body_idle);
        }
        ready!(timer.poll_expired(cx));
        self.state.violation.set(Some(Violation::WriteTimeout));
        Poll::Ready(Err(Violation::WriteTimeout.into()))
    }

    fn poll_written(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &poll {
            add(&self.state.bytes_written, *written);
        }
        self.poll_progress(cx, poll)
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let fits = cursor.remaining();
        loop {
            if let Some(violation) = this.failed {
                return Poll::Ready(Err(violation.into()));
            }
            if this.has_held() {
                let passed = this.pass_held(&mut cursor);
                let error = passed.err().map(|violation| this.fail(violation));
                if cursor.remaining() < fits {
                    return Poll::Ready(Ok(()));
                }
                if let Some(error) = error {
                    return Poll::Ready(Err(error));
                }
            }
            if this.is_eof {
                return Poll::Ready(Ok(()));
            }
            let room = this.room(cursor.remaining());
            if room == 0 {
                // A client that pipelines more than a head's worth waits; the flush at the end of the exchange wakes us.
                return Poll::Pending;
            }
            match this.poll_fill(cx, &mut cursor, room) {
                Poll::Ready(Ok(0)) => this.is_eof = true,
                Poll::Ready(Ok(_)) if cursor.remaining() < fits => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    ready!(this.poll_overdue(cx));
                    match (this.waiting, this.has_begun()) {
                        // Nothing was asked, so nothing is answered.
                        (Waiting::Idle | Waiting::First, false) => this.is_eof = true,
                        (Waiting::Body, _) => return Poll::Ready(Err(this.fail(Violation::BodyTimeout))),
                        _ => return Poll::Ready(Err(this.fail(Violation::HeadTimeout))),
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write(cx, buf);
        this.poll_written(cx, poll)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_flush(cx);
        ready!(this.poll_progress(cx, poll))?;
        if this.exchange_is_open && !this.state.in_flight.get() {
            this.exchange_is_open = false;
            if matches!(this.phase, Phase::Head(_)) && !this.state.is_tunnel.get() {
                // hyper saw this read side pending and will not look again of its own accord.
                if this.has_held() || this.is_eof || this.poll_overdue(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.refusal().is_some() {
            // The owner takes the socket back to answer first.
            return Poll::Ready(Ok(()));
        }
        let is_sending = !matches!(this.phase, Phase::Head(_)) || this.has_held() || this.state.says_close.get();
        this.poll_close(cx, is_sending)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.poll_written(cx, poll)
    }
}

/// Arms by the coarse time, a tick early at most: no timeout here is so short that this is worth a clock read.
fn arm(timer: &mut Timer, wheel: &Wheel, after: Duration) {
    match wheel.now().checked_add(after) {
        Some(at) => timer.arm_at(at),
        None => timer.disarm(),
    }
}

fn add(counter: &Cell<u64>, more: usize) {
    counter.set(counter.get() + more as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::body::{Body, Frame, Incoming, SizeHint};
    use hyper::server::conn::http1;
    use hyper::{Request, Response};
    use std::future::{Future, poll_fn};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Notify;
    use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

    const HOUR: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(50);
    const NEVER: GateTimeouts = GateTimeouts { request_headers: HOUR, body_idle: HOUR, keep_alive: HOUR };

    const GET: &str = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";

    /// A response body that says when it is over, as the real service's does.
    struct Ending {
        body: Full<Bytes>,
        state: Rc<GateState>,
    }

    impl Body for Ending {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Pin::new(&mut self.body).poll_frame(cx)
        }
        fn is_end_stream(&self) -> bool {
            self.body.is_end_stream()
        }
        fn size_hint(&self) -> SizeHint {
            self.body.size_hint()
        }
    }

    impl Drop for Ending {
        fn drop(&mut self) {
            self.state.exchange_finished();
        }
    }

    /// What the service and the owner of the connection saw.
    #[derive(Default)]
    struct Seen {
        requests: RefCell<Vec<String>>,
        aborted: Cell<u32>,
        body_violation: Cell<Option<Violation>>,
        go: Notify,
    }

    struct Abort<'a>(&'a Seen, bool);

    impl Drop for Abort<'_> {
        fn drop(&mut self) {
            if !self.1 {
                self.0.aborted.set(self.0.aborted.get() + 1);
            }
        }
    }

    async fn answer(
        request: Request<Incoming>,
        seen: Rc<Seen>,
        state: Rc<GateState>,
    ) -> Result<Response<Ending>, std::convert::Infallible> {
        let mut unless_dropped = Abort(&seen, false);
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        seen.requests.borrow_mut().push(format!("{} {path}", parts.method));
        let mut response = Response::builder();
        let text = match path.as_str() {
            "/early" => {
                response = response.status(403);
                drop(body);
                "early".to_owned()
            }
            "/wait" => {
                seen.go.notified().await;
                "waited".to_owned()
            }
            "/big" => "x".repeat(1 << 20),
            "/upgrade" => {
                state.become_tunnel();
                response = response.status(101).header("connection", "upgrade").header("upgrade", "x");
                String::new()
            }
            _ => match body.collect().await {
                Ok(collected) => {
                    let trailers = collected.trailers().map_or(0, http::HeaderMap::len);
                    format!("{} {trailers}", String::from_utf8_lossy(&collected.to_bytes()))
                }
                Err(error) => {
                    let violation = Violation::of(&error);
                    seen.body_violation.set(violation);
                    let status = violation.map_or(499, Violation::status);
                    response = response.status(status).header("connection", "close");
                    "bad body".to_owned()
                }
            },
        };
        unless_dropped.1 = true;
        Ok(response.body(Ending { body: Full::from(text), state }).unwrap())
    }

    struct Client {
        io: DuplexStream,
        unread: Vec<u8>,
        seen: Rc<Seen>,
        state: Rc<GateState>,
        server: JoinHandle<(hyper::Result<()>, Gate<DuplexStream>)>,
    }

    impl Client {
        fn connect(timeouts: GateTimeouts) -> Self {
            Self::connect_with(timeouts, 1 << 16, "")
        }

        fn connect_with(timeouts: GateTimeouts, pipe: usize, prefix: &str) -> Self {
            let (io, server_io) = duplex(pipe);
            let seen = Rc::new(Seen::default());
            let state = Rc::new(GateState::default());
            let wheel = Wheel::new();
            spawn_local(wheel.clone().run());
            let limits = HeadLimits { bytes_max: 32 * 1024, headers_max: 100, target_max: 8 * 1024 };
            let gate = Gate::new(
                server_io,
                prefix.as_bytes().to_vec(),
                limits,
                timeouts,
                &wheel,
                &Scratch::new(),
                state.clone(),
            );
            let (service_seen, service_state) = (seen.clone(), state.clone());
            let service =
                hyper::service::service_fn(move |request| answer(request, service_seen.clone(), service_state.clone()));
            let owner_state = state.clone();
            let server = spawn_local(async move {
                let mut connection = http1::Builder::new().header_read_timeout(None).serve_connection(gate, service);
                let result = poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await;
                let parts = connection.into_parts();
                assert!(!owner_state.is_tunnel() || parts.read_buf.is_empty(), "hyper keeps bytes of the tunnel");
                let mut gate = parts.io;
                if let Some(violation) = owner_state.refusal() {
                    let text = format!("HTTP/1.1 {} refused\r\nContent-Length: 0\r\n\r\n", violation.status());
                    let _ = gate.refuse(text.as_bytes()).await;
                }
                (result, gate)
            });
            Self { io, unread: Vec::new(), seen, state, server }
        }

        async fn send(&mut self, text: &str) {
            soon(self.io.write_all(text.as_bytes())).await.unwrap();
        }

        async fn send_in_bytes(&mut self, text: &str) {
            for byte in text.as_bytes() {
                self.io.write_all(&[*byte]).await.unwrap();
                settle().await;
            }
        }

        /// Status and body of the next response.
        async fn response(&mut self) -> (u16, String) {
            loop {
                let text = String::from_utf8_lossy(&self.unread).into_owned();
                if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                    let status = head[9..12].parse().unwrap();
                    let length = head
                        .lines()
                        .find_map(|line| {
                            line.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap())
                        })
                        .unwrap_or(0_usize);
                    if rest.len() >= length {
                        let body = rest[..length].to_owned();
                        self.unread.drain(..head.len() + 4 + length);
                        return (status, body);
                    }
                }
                let mut more = [0; 4096];
                let n = soon(self.io.read(&mut more)).await.unwrap();
                assert_ne!(n, 0, "the connection ended with {text:?}");
                self.unread.extend_from_slice(&more[..n]);
            }
        }

        /// Waits for the end of the connection and answers what came before it.
        async fn end(&mut self) -> String {
            let mut rest = std::mem::take(&mut self.unread);
            let _ = soon(self.io.read_to_end(&mut rest)).await;
            String::from_utf8(rest).unwrap()
        }

        fn requests(&self) -> Vec<String> {
            self.seen.requests.borrow().clone()
        }
    }

    /// Only so that a fault is a failed test and not one that hangs.
    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("this happens soon")
    }

    /// Lets every task do what it can do.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    fn run<F: Future>(test: F) -> F::Output {
        // The clock stands still while anybody has something to do, and then jumps to the next deadline.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, test)
    }

    fn post(path: &str, body: &str) -> String {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn post_chunked(path: &str, body: &str) -> String {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    }

    #[test]
    fn a_connection_serves_one_request_after_the_other() {
        run(async {
            let mut client = Client::connect(NEVER);
            for _ in 0..3 {
                client.send(GET).await;
                assert_eq!(client.response().await, (200, " 0".to_owned()));
                client.send(&post("/echo", "hello")).await;
                assert_eq!(client.response().await, (200, "hello 0".to_owned()));
                client.send(&post_chunked("/echo", "2\r\nab\r\n1;x\r\nc\r\n0\r\nT: v\r\n\r\n")).await;
                assert_eq!(client.response().await, (200, "abc 1".to_owned()));
            }
            assert_eq!(client.state.requests(), 9);
            assert!(!client.state.in_flight());
            assert!(client.state.bytes_written() > 0);
            drop(client.io);
            assert!(client.server.await.unwrap().0.is_ok());
        });
    }

    /// A gate without hyper, with what it hands over at its first read.
    async fn read_once(prefix: &str, rest: &str) -> (Gate<DuplexStream>, DuplexStream, Vec<u8>) {
        let (mut client, io) = duplex(1024);
        client.write_all(rest.as_bytes()).await.unwrap();
        let (limits, state) = (HeadLimits::default(), Rc::new(GateState::default()));
        let mut gate = Gate::new(io, prefix.as_bytes().to_vec(), limits, NEVER, &Wheel::new(), &Scratch::new(), state);
        let passed = read(&mut gate).await;
        (gate, client, passed)
    }

    async fn read(gate: &mut Gate<DuplexStream>) -> Vec<u8> {
        let mut bytes = [0; 1024];
        let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
        poll_fn(|cx| hyper::rt::Read::poll_read(Pin::new(gate), cx, buffer.unfilled())).await.unwrap();
        buffer.filled().to_vec()
    }

    #[test]
    fn a_connection_that_waits_holds_no_buffer() {
        run(async {
            let (gate, _client, passed) = read_once(&GET[..20], &GET[20..]).await;
            assert_eq!(passed, GET.as_bytes());
            assert_eq!(gate.held.capacity(), 0);
        });
    }

    #[test]
    fn a_head_and_its_body_go_over_in_one_read_and_no_byte_more() {
        run(async {
            for request in [post("/echo", "hello"), post_chunked("/echo", "5\r\nhello\r\n0\r\n\r\n")] {
                let (gate, _client, passed) = read_once("\r\n", &format!("{request}{GET}")).await;
                assert_eq!(String::from_utf8(passed).unwrap(), request);
                assert_eq!(gate.into_parts().1, GET.as_bytes());
            }
        });
    }

    #[test]
    fn a_tunnels_bytes_are_never_taken_for_a_head() {
        run(async {
            let (mut gate, mut client, _) = read_once("", GET).await;
            gate.state().become_tunnel();
            gate.state().exchange_finished();
            poll_fn(|cx| hyper::rt::Write::poll_flush(Pin::new(&mut gate), cx)).await.unwrap();
            client.write_all(b"\0").await.unwrap();
            assert!(tokio::time::timeout(SOON, read(&mut gate)).await.is_err());
            assert_eq!(gate.state().violation(), None);
            assert_eq!(gate.into_parts().1, b"\0");
        });
    }

    #[test]
    fn bytes_that_were_read_before_count_and_are_served() {
        run(async {
            let mut client = Client::connect_with(NEVER, 1 << 16, &GET[..10]);
            client.send(&GET[10..]).await;
            assert_eq!(client.response().await.0, 200);
            assert_eq!(client.state.bytes_read(), GET.len() as u64);
        });
    }

    #[test]
    fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
        let stream = [
            &post("/echo", "one"),
            "\r\n",
            GET,
            &post_chunked("/echo", "3\r\ntwo\r\n0\r\n\r\n"),
            &post("/echo", "three"),
            GET,
        ]
        .concat();
        let bodies = ["one 0", " 0", "two 0", "three 0", " 0"];
        run(async {
            for split in 0..stream.len() {
                let mut client = Client::connect(NEVER);
                client.send(&stream[..split]).await;
                settle().await;
                client.send(&stream[split..]).await;
                for body in bodies {
                    assert_eq!(client.response().await, (200, body.to_owned()), "split at {split}");
                }
            }
            let mut client = Client::connect(NEVER);
            client.send_in_bytes(&stream).await;
            for body in bodies {
                assert_eq!(client.response().await, (200, body.to_owned()), "byte by byte");
            }
        });
    }

    #[test]
    fn a_head_larger_than_hypers_buffer_passes() {
        run(async {
            let mut client = Client::connect(NEVER);
            let head = format!("GET /echo HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(30_000));
            client.send(&head).await;
            assert_eq!(client.response().await.0, 200);
            client.send_in_bytes(GET).await;
            assert_eq!(client.response().await.0, 200);
        });
    }

    #[test]
    fn a_large_body_passes_and_the_request_behind_it_is_served() {
        run(async {
            let mut client = Client::connect_with(NEVER, 300_000, "");
            let body = "z".repeat(200_000);
            client.send(&format!("{}{GET}", post("/echo", &body))).await;
            assert_eq!(client.response().await.1.len(), 200_002);
            assert_eq!(client.response().await, (200, " 0".to_owned()));
        });
    }

    #[test]
    fn the_next_head_waits_until_the_exchange_is_over() {
        run(async {
            let mut client = Client::connect(NEVER);
            client.send(&format!("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n{GET}BAD\0")).await;
            settle().await;
            assert_eq!(client.requests(), ["GET /wait"]);
            assert!(client.state.in_flight());
            assert_eq!(client.state.requests(), 1);
            assert_eq!(client.state.violation(), None, "what waits is not judged yet");
            client.seen.go.notify_one();
            assert_eq!(client.response().await, (200, "waited".to_owned()));
            assert_eq!(client.response().await, (200, " 0".to_owned()));
        });
    }

    #[test]
    fn a_client_that_pipelines_without_end_is_not_read_without_end() {
        run(async {
            let mut client = Client::connect_with(NEVER, 1024, "");
            client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let flood = GET.repeat(4000);
            let mut sent = 0;
            let mut fill = async || {
                while let Ok(n) = tokio::time::timeout(SOON, client.io.write(&flood.as_bytes()[sent..])).await {
                    sent += n.unwrap();
                }
            };
            fill().await;
            assert!(client.state.bytes_read() < 40_000, "{}", client.state.bytes_read());
            client.seen.go.notify_one();
            assert_eq!(client.response().await.1, "waited");
            for _ in 0..100 {
                assert_eq!(client.response().await.1, " 0");
            }
        });
    }

    #[test]
    fn a_client_that_goes_away_ends_its_exchange_at_once() {
        run(async {
            for more in ["", GET, "GET /ec"] {
                let mut client = Client::connect(NEVER);
                client.send(&format!("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n{more}")).await;
                settle().await;
                assert_eq!(client.seen.aborted.get(), 0);
                client.io.shutdown().await.unwrap();
                let (result, _) = soon(client.server).await.unwrap();
                assert!(result.unwrap_err().is_incomplete_message());
                assert_eq!(client.seen.aborted.get(), 1, "with {more:?} behind");
            }
        });
    }

    #[test]
    fn an_early_answer_never_makes_a_request_of_the_body() {
        run(async {
            let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8000);
            let chunks = format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len());
            for request in [post("/early", &evil), post_chunked("/early", &chunks)] {
                for step in [request.len(), 100_000, 4096, 100] {
                    let mut client = Client::connect(NEVER);
                    for piece in request.as_bytes().chunks(step) {
                        // The server may have closed already.
                        if soon(client.io.write_all(piece)).await.is_err() {
                            break;
                        }
                    }
                    let _ = soon(client.io.write_all(GET.as_bytes())).await;
                    assert_eq!(client.response().await, (403, "early".to_owned()));
                    assert_eq!(client.end().await, "");
                    assert_eq!(client.requests(), ["POST /early"], "in pieces of {step}");
                }
            }
        });
    }

    #[test]
    fn a_small_body_that_nobody_reads_is_drained_and_the_connection_goes_on() {
        run(async {
            let mut client = Client::connect(NEVER);
            client.send(&post("/early", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            client.send(GET).await;
            assert_eq!(client.response().await, (403, "early".to_owned()));
            assert_eq!(client.response().await, (200, " 0".to_owned()));
            assert_eq!(client.requests(), ["POST /early", "GET /echo"]);
        });
    }

    #[test]
    fn a_refused_head_is_answered_by_us_and_reaches_nobody() {
        let cases = [
            ("GET /echo HTTP/1.1\r\n\r\n", 400, Violation::HostMissing),
            ("GET /echo HTTP/1.1\nHost: a\n\n", 400, Violation::BareLineEnd),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, Violation::Version),
            ("\u{16}\u{3}\u{1}", 400, Violation::Method),
        ];
        run(async {
            for (text, status, violation) in cases {
                for before in ["", GET] {
                    let mut client = Client::connect(NEVER);
                    client.send(&format!("{before}{text}{GET}")).await;
                    if !before.is_empty() {
                        assert_eq!(client.response().await.0, 200);
                    }
                    assert_eq!(client.end().await, format!("HTTP/1.1 {status} refused\r\nContent-Length: 0\r\n\r\n"));
                    assert_eq!(client.state.violation(), Some(violation));
                    assert_eq!(client.requests().len(), usize::from(!before.is_empty()));
                }
            }
        });
    }

    #[test]
    fn a_response_is_delivered_whole_before_the_refusal_of_what_was_pipelined_behind_it() {
        run(async {
            let mut client = Client::connect_with(NEVER, 1024, "");
            client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\nBAD\r\n\r\n").await;
            settle().await;
            assert_eq!(client.response().await.1.len(), 1 << 20);
            assert!(client.end().await.starts_with("HTTP/1.1 400 refused"));
        });
    }

    #[test]
    fn a_refused_client_that_still_sends_is_drained() {
        run(async {
            let mut client = Client::connect_with(NEVER, 1024, "");
            client.send(&format!("BAD\r\n\r\n{}", "x".repeat(500_000))).await;
            assert!(client.response().await.0 == 400);
            drop(client.io);
            soon(client.server).await.unwrap().0.unwrap();
        });
    }

    #[test]
    fn a_bad_chunk_reaches_the_service_as_its_violation_and_ends_the_connection() {
        let cases = [
            ("5\nhello\r\n0\r\n\r\n", Violation::ChunkSize),
            ("5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd),
            ("0\r\nContent-Length: 5\r\n\r\n", Violation::Trailer),
        ];
        run(async {
            for (body, violation) in cases {
                for is_slow in [false, true] {
                    let mut client = Client::connect(NEVER);
                    let request = post_chunked("/echo", body);
                    let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
                    client.send(head).await;
                    if is_slow {
                        settle().await;
                    }
                    client.send(&format!("{body}{GET}")).await;
                    assert_eq!(client.response().await.0, 400);
                    assert_eq!(client.end().await, "");
                    assert_eq!(client.seen.body_violation.get(), Some(violation));
                    assert_eq!(client.requests().len(), 1);
                    assert_eq!(client.state.refusal(), None, "the service has answered");
                }
            }
        });
    }

    #[test]
    fn a_body_that_is_cut_is_an_error_and_not_an_end() {
        run(async {
            for request in [post("/echo", "hello"), post_chunked("/echo", "5\r\nhello\r\n0\r\n\r\n")] {
                let mut client = Client::connect(NEVER);
                client.send(&request[..request.len() - 1]).await;
                client.io.shutdown().await.unwrap();
                assert_eq!(client.response().await.0, 499);
            }
        });
    }

    #[test]
    fn a_head_that_is_cut_ends_without_a_word() {
        run(async {
            let mut client = Client::connect(NEVER);
            client.send(&GET[..20]).await;
            client.io.shutdown().await.unwrap();
            assert_eq!(client.end().await, "");
            assert!(client.requests().is_empty());
        });
    }

    #[test]
    fn the_bytes_behind_an_upgrade_are_kept_unread_for_the_tunnel() {
        run(async {
            let mut client = Client::connect(NEVER);
            client.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0\x01\n").await;
            let (result, gate) = soon(client.server).await.unwrap();
            result.unwrap();
            assert!(client.state.is_tunnel());
            let (mut io, rest) = gate.into_parts();
            assert_eq!(rest, b"\0\x01\n");
            client.io.write_all(b"more").await.unwrap();
            let mut more = [0; 4];
            io.read_exact(&mut more).await.unwrap();
            assert_eq!(&more, b"more");
        });
    }

    #[test]
    fn silence_ends_a_connection_without_a_word() {
        run(async {
            let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
            assert_eq!(client.end().await, "", "before the first request");
            assert_eq!(client.state.violation(), None);

            let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
            client.send("\r\n").await;
            assert_eq!(client.end().await, "", "an empty line is no request");

            let mut client = Client::connect(GateTimeouts { keep_alive: SOON, ..NEVER });
            client.send(GET).await;
            assert_eq!(client.response().await.0, 200);
            assert_eq!(client.end().await, "", "between two requests");
        });
    }

    #[test]
    fn a_head_has_one_time_however_many_bytes_come() {
        run(async {
            for before in ["", GET] {
                let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
                client.send(before).await;
                if !before.is_empty() {
                    assert_eq!(client.response().await.0, 200);
                }
                client.send("GET /").await;
                let mut ticks = tokio::time::interval(SOON / 10);
                while client.state.violation().is_none() {
                    soon(ticks.tick()).await;
                    let _ = client.io.write_all(b"x").await;
                }
                assert_eq!(client.state.violation(), Some(Violation::HeadTimeout));
                assert_eq!(client.response().await.0, 408);
                assert_eq!(client.requests().len(), usize::from(!before.is_empty()));
            }
        });
    }

    #[test]
    fn a_body_that_pauses_is_a_timeout_for_the_service() {
        run(async {
            let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
            let request = post("/echo", "hello");
            client.send(&request[..request.len() - 1]).await;
            assert_eq!(client.response().await.0, 408);
            assert_eq!(client.seen.body_violation.get(), Some(Violation::BodyTimeout));
        });
    }

    #[test]
    fn a_body_that_moves_may_take_as_long_as_it_wants() {
        run(async {
            let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
            let request = post("/echo", "slow but steady");
            let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
            client.send(head).await;
            for byte in body.as_bytes() {
                settle().await;
                tokio::time::advance(SOON / 2).await;
                client.io.write_all(&[*byte]).await.unwrap();
            }
            assert_eq!(client.response().await, (200, "slow but steady 0".to_owned()));
        });
    }

    #[test]
    fn a_service_may_take_as_long_as_it_wants() {
        run(async {
            let mut client = Client::connect(GateTimeouts { request_headers: SOON, body_idle: SOON, keep_alive: SOON });
            client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /ec").await;
            let waited = tokio::time::timeout(SOON * 4, client.response()).await;
            assert!(waited.is_err(), "{waited:?}");
            client.seen.go.notify_one();
            assert_eq!(client.response().await.1, "waited");
        });
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go() {
        run(async {
            let mut client = Client::connect_with(GateTimeouts { body_idle: SOON, ..NEVER }, 1024, "");
            client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let (result, _) = soon(client.server).await.unwrap();
            assert_eq!(Violation::of(&result.unwrap_err()), Some(Violation::WriteTimeout));
            assert_eq!(client.state.violation(), Some(Violation::WriteTimeout));
            assert_eq!(client.state.refusal(), None);
        });
    }
}
