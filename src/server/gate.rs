//! The read side of a client's HTTP/1 connection, its timeouts, and its end: no request is made of a head before the whole
//! head has been found lawful, and none of the next head before the present exchange is over.
//!
//! The gate knows by [`framing`](crate::http::framing) where every message ends. `http1` answers the requests
//! that it lets pass.
//!
//! - A violation in a head ends the connection: [`Gate::poll_head`] tells of no request, [`GateState::refusal`] names it, and
//!   the owner sends its own answer with [`Gate::refuse`].
//! - A violation in a body reaches whoever reads it, by its [`Feed`]. The answer should say `Connection: close`, for nothing
//!   can be read behind it.
//! - While an exchange is in flight and its body is over, the socket is read only to notice that the client went away. The
//!   gate keeps the bytes that come then, up to the limit of a head. A client that shuts down its write side while it waits
//!   counts as gone, as with nginx and HAProxy.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::answer::Asked;
use crate::http::framing::{BodyFraming, ChunkFollower, Head, HeadLimits, HeadScanner, Violation};
use crate::http::head::{self, parse_trailers};
use crate::http::inflow::{Feed, Inflow, inflow};
use crate::http::pace::{Pace, Rate};
use crate::timer::{Timer, Wheel};

/// How long a closing connection waits for the client to stop sending, so that it reads our answer and not a reset
/// (RFC 9112 §9.6).
pub(super) const LINGER_TIME: Duration = Duration::from_secs(2);

/// How much is read and thrown away in that time: more than both kernels hold of what a client had sent before it could know.
pub(super) const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What one read may bring at most.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Heads share a piece of memory of this size: a long exchange that holds one of them holds no more than this.
const HEADS_BYTES: usize = 4 * 1024;

/// Empty header maps that a worker keeps for the next heads.
const SPARE_MAPS: usize = 8;

/// The most headers that a map which is kept has room for.
const SPARE_HEADERS_MAX: usize = 64;

/// The most room of a buffer that is kept.
const SPARE_BYTES_MAX: usize = 64 * 1024;

/// The rest of a body that nobody read is thrown away up to this much; beyond that the connection ends.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// The answer to `Expect: 100-continue` once somebody reads the body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct GateTimeouts {
    /// From the first byte of a head to its end; for the first request of a connection from [`Gate::new`].
    pub request_headers: Duration,
    /// The longest pause within a request body, and the longest time without progress in writing.
    pub body_idle: Duration,
    /// The least that a client must take of an answer while it is waited for.
    pub rate: Rate,
    /// The longest time between two requests.
    pub keep_alive: Duration,
}

/// What the connections of a worker use in turn: bytes stay in it only within one poll, so a waiting connection owns none.
#[derive(Clone)]
pub struct Scratch(Rc<Shelf>);

struct Shelf {
    read: RefCell<Box<[u8]>>,
    heads: RefCell<BytesMut>,
    maps: RefCell<Vec<HeaderMap>>,
    out: Cell<Vec<u8>>,
    date: RefCell<Date>,
}

/// The time of day as HTTP writes it, made once per second.
struct Date {
    text: HeaderValue,
    until: Option<Instant>,
}

impl Scratch {
    /// A read buffer of 64 KiB, and little else. Make one per worker and clone it.
    pub fn new() -> Self {
        Self(Rc::new(Shelf {
            read: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            heads: RefCell::default(),
            maps: RefCell::default(),
            out: Cell::default(),
            date: RefCell::new(Date { text: HeaderValue::from_static(""), until: None }),
        }))
    }

    /// A head as bytes that its values may be parts of.
    fn keep(&self, head: &[u8]) -> Bytes {
        let mut heads = self.0.heads.borrow_mut();
        if heads.capacity() < head.len() {
            heads.reserve(head.len().max(HEADS_BYTES));
        }
        heads.extend_from_slice(head);
        heads.split().freeze()
    }

    fn take_map(&self) -> HeaderMap {
        self.0.maps.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back a map that is no longer needed.
    pub fn spare_map(&self, mut map: HeaderMap) {
        let mut maps = self.0.maps.borrow_mut();
        if maps.len() < SPARE_MAPS && (1..=SPARE_HEADERS_MAX).contains(&map.capacity()) {
            map.clear();
            maps.push(map);
        }
    }

    pub(super) fn take_out(&self) -> Vec<u8> {
        self.0.out.take()
    }

    pub(super) fn spare_out(&self, mut out: Vec<u8>) {
        if out.capacity() <= SPARE_BYTES_MAX {
            out.clear();
            self.0.out.set(out);
        }
    }

    /// The time of day at `now`, at most a second behind.
    pub fn date(&self, now: Instant) -> HeaderValue {
        let mut date = self.0.date.borrow_mut();
        if date.until.is_none_or(|until| now >= until) {
            let time = wall_clock();
            let within = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            date.until = now.checked_add(Duration::from_secs(1) - Duration::from_nanos(within.into()));
            if let Ok(text) = HeaderValue::try_from(httpdate::fmt_http_date(time)) {
                date.text = text;
            }
        }
        date.text.clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "what `Date` shows is the time of day")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
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
    /// Says that the present answer has been taken to its end, or dropped.
    pub(super) fn exchange_finished(&self) {
        self.in_flight.set(false);
    }

    /// Says that the present answer announces the end of the connection. The client is then waited for: it may have sent a
    /// next request before it knew, and unread bytes would make of the close a reset, which can take the answer with it
    /// (RFC 9112 §9.6).
    pub fn say_close(&self) {
        self.says_close.set(true);
    }

    /// Whether a request was let in whose answer is not finished.
    pub fn in_flight(&self) -> bool {
        self.in_flight.get()
    }

    /// Says that the connection leaves HTTP with the present answer (101): what the client sends from now on is kept
    /// unread for [`Gate::into_parts`].
    pub fn become_tunnel(&self) {
        self.is_tunnel.set(true);
    }

    /// Whether [`GateState::become_tunnel`] was called.
    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.get()
    }

    /// The violation that ended the read or the write side, if one did.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// A violation in a head, which the service knows nothing of and which waits for [`Gate::refuse`].
    pub fn refusal(&self) -> Option<Violation> {
        self.refusal.get()
    }

    /// Since when, by the coarse clock, nothing has been going on: the last answer is out, and no byte of a next request
    /// in.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// Requests that were let in.
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

/// A request that was let in.
pub struct Entered {
    /// Its head, and its body if it has one.
    pub request: Request<Option<Inflow>>,
    /// How it is to be answered.
    pub asked: Asked,
}

/// The part of the message that comes next on the read side.
enum Phase {
    /// A head, or the empty lines or the silence before it.
    Head(HeadScanner),
    Body(Inbound),
    /// A body that was broken off: what comes behind it cannot be understood.
    Lost,
}

impl Phase {
    fn head() -> Self {
        Self::Head(HeadScanner::default())
    }
}

/// A request body on its way in.
struct Inbound {
    feed: Feed,
    left: Left,
    /// The client waits for a word before it sends it.
    expects: bool,
}

enum Left {
    /// So many bytes, at least one.
    Length(u64),
    Chunks(Box<Chunks>),
}

#[derive(Default)]
struct Chunks {
    follower: ChunkFollower,
    trailers: Vec<u8>,
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
    /// The rest of a body that nobody reads.
    Rest,
    /// The client's end of a connection that we closed.
    Linger,
}

/// What is to be written and has not gone out yet: some bytes, then a large piece of a body, then the end of its chunk.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    piece: Bytes,
    after: &'static [u8],
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len() && self.piece.is_empty() && self.after.is_empty()
    }

    fn advance(&mut self, mut by: usize) {
        let first = by.min(self.bytes.len() - self.written);
        self.written += first;
        by -= first;
        let second = by.min(self.piece.len());
        bytes::Buf::advance(&mut self.piece, second);
        by -= second;
        self.after = &self.after[by.min(self.after.len())..];
    }
}

/// A client's connection. See the module's description.
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
    out: Outgoing,
    /// From the hand-over of a head until the response to it is flushed.
    exchange_is_open: bool,
    is_eof: bool,
    waiting: Waiting,
    read_timer: Timer,
    /// Made when the client first leaves us waiting with a write.
    write_timer: Option<Timer>,
    /// The client leaves us waiting, and the write timer runs or has run out.
    is_stalled: bool,
    pace: Pace,
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
            out: Outgoing::default(),
            exchange_is_open: false,
            is_eof: false,
            waiting: Waiting::First,
            read_timer,
            write_timer: None,
            is_stalled: false,
            pace: Pace::new(timeouts.rate),
            lingers: None,
            linger_left: LINGER_BYTES_MAX,
            is_shut_down: false,
        }
    }

    /// The state that this gate shares.
    pub fn state(&self) -> &Rc<GateState> {
        &self.state
    }

    /// What it shares with the other connections of its worker.
    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The time of day, for an answer that goes out now.
    pub(super) fn date(&self) -> HeaderValue {
        self.scratch.date(self.wheel.now())
    }

    /// Takes the socket back, with the bytes that were read from it and let nowhere: after a 101 they are the first of the
    /// tunnel.
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

    #[cfg(test)]
    pub(super) fn held_capacity(&self) -> usize {
        self.held.capacity()
    }

    fn has_held(&self) -> bool {
        self.held_start < self.held.len()
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held_start > 0 {
            self.held.drain(..self.held_start);
            self.held_start = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    /// So many of the bytes that are held have passed.
    fn release(&mut self, count: usize) {
        self.held_start += count;
        if !self.has_held() {
            // Given back whole: a connection that waits for its next request should cost nothing here.
            self.held = Vec::new();
            self.held_start = 0;
        }
    }

    /// How much may be read and kept beside what is held.
    fn room(&self) -> usize {
        // The scanner refuses a head before it fills this.
        self.limits.bytes_max.saturating_sub(self.held.len() - self.held_start).min(SCRATCH_BYTES)
    }

    /// A violation in a head.
    fn refuse_head(&mut self, violation: Violation) {
        self.state.violation.set(Some(violation));
        self.state.refusal.set(Some(violation));
    }

    /// The body is lost, and the connection with it: by a violation, or because the client is gone.
    fn lose_body(&mut self, violation: Option<Violation>) {
        if violation.is_some() {
            self.state.violation.set(violation);
        }
        if let Phase::Body(inbound) = std::mem::replace(&mut self.phase, Phase::Lost) {
            inbound.feed.fail(violation);
        }
    }

    /// Lets a request in whose head is at the beginning of `bytes`, behind empty lines.
    fn enter(&mut self, bytes: &[u8], head: Head) -> Result<Entered, Violation> {
        let text = self.scratch.keep(&bytes[head.start..head.end]);
        let arrived = head::parse(&text, self.scratch.take_map())?;
        let (body, phase) = match head.body {
            BodyFraming::None => (None, Phase::head()),
            BodyFraming::Length(length) => {
                let (feed, body) = inflow(Some(length));
                (Some(body), Phase::Body(Inbound { feed, left: Left::Length(length), expects: arrived.expects }))
            }
            BodyFraming::Chunked => {
                let (feed, body) = inflow(None);
                (
                    Some(body),
                    Phase::Body(Inbound { feed, left: Left::Chunks(Box::default()), expects: arrived.expects }),
                )
            }
        };
        self.phase = phase;
        self.exchange_is_open = true;
        self.state.in_flight.set(true);
        add(&self.state.requests, 1);
        self.wait_for(Waiting::No);
        Ok(Entered { request: arrived.request.map(|()| body), asked: arrived.asked })
    }

    /// Gives the body what of it is at the beginning of `bytes`, and says how much that was.
    fn feed(&mut self, bytes: &[u8]) -> usize {
        let Phase::Body(inbound) = &mut self.phase else { return 0 };
        inbound.expects = false;
        match &mut inbound.left {
            Left::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                inbound.feed.push(Bytes::copy_from_slice(&bytes[..here]));
                if *left == 0 {
                    inbound.feed.end(None);
                    self.phase = Phase::head();
                }
                here
            }
            Left::Chunks(chunks) => {
                let mut at = 0;
                let mut data = BytesMut::new();
                let ended = loop {
                    match chunks.follower.part(&bytes[at..], &mut chunks.trailers) {
                        Ok(part) => {
                            data.extend_from_slice(&bytes[at + part.data.start..at + part.data.end]);
                            at += part.consumed;
                            if part.is_done {
                                break Ok(true);
                            }
                            if at == bytes.len() {
                                break Ok(false);
                            }
                        }
                        Err(violation) => break Err(violation),
                    }
                };
                // What came before a fault goes first.
                if !data.is_empty() {
                    inbound.feed.push(data.freeze());
                }
                match ended {
                    Ok(false) => {}
                    Ok(true) if chunks.trailers.is_empty() => {
                        inbound.feed.end(None);
                        self.phase = Phase::head();
                    }
                    Ok(true) => match parse_trailers(&chunks.trailers) {
                        Some(trailers) => {
                            inbound.feed.end(Some(trailers));
                            self.phase = Phase::head();
                        }
                        None => self.lose_body(Some(Violation::Trailer)),
                    },
                    Err(violation) => self.lose_body(Some(violation)),
                }
                at
            }
        }
    }

    fn feed_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        let fed = self.feed(&held[self.held_start..]);
        self.held = held;
        self.release(fed);
    }

    /// Gives the body what of it came with the head, before anybody asks.
    pub(super) fn feed_early(&mut self) {
        if self.has_held() {
            self.feed_held();
        }
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
            Waiting::Body | Waiting::Rest => arm(&mut self.read_timer, &self.wheel, self.timeouts.body_idle),
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
            // The first head has its time from the start, whether it has begun or not.
            Phase::Head(_) if self.waiting == Waiting::First => Waiting::First,
            Phase::Head(_) if self.has_begun() => Waiting::Head,
            Phase::Head(_) => Waiting::Idle,
            _ => Waiting::Body,
        };
        self.wait_for(waiting);
        self.read_timer.poll_expired(cx)
    }

    /// Whether the client may be sending what nobody will read.
    pub(super) fn is_sending(&self) -> bool {
        !matches!(self.phase, Phase::Head(_)) || self.has_held() || self.state.says_close.get()
    }

    /// The answer is out: the next head may come.
    pub(super) fn answered(&mut self) {
        self.exchange_is_open = false;
    }

    /// Whether anybody may still read the body of the present request.
    pub(super) fn has_reader(&self) -> bool {
        matches!(&self.phase, Phase::Body(inbound) if inbound.feed.has_reader())
    }

    /// What is to be written next, to add to.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        if self.out.bytes.capacity() == 0 {
            self.out.bytes = self.scratch.take_out();
        }
        &mut self.out.bytes
    }

    /// Bytes that wait to be written.
    pub(super) fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes a large piece of a body and the end of its chunk behind what is to be written, which nothing may be added to
    /// until it is out.
    pub(super) fn put_piece(&mut self, piece: Bytes, after: &'static [u8]) {
        (self.out.piece, self.out.after) = (piece, after);
    }

    /// Replaces what goes out behind the large piece.
    pub(super) fn put_after(&mut self, after: &'static [u8]) {
        self.out.after = after;
    }

    /// Whether a large piece waits to be written.
    pub(super) fn has_piece(&self) -> bool {
        !self.out.piece.is_empty() || !self.out.after.is_empty()
    }

    /// Whether nothing should be added to what is to be written.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.has_piece() || self.out.bytes.len() >= most
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Waits for the next request. Ready with none when the connection is over: the client is gone or was silent for too
    /// long, or its head is refused ([`GateState::refusal`]).
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Entered>> {
        if !matches!(self.phase, Phase::Head(_)) || self.state.refusal.get().is_some() {
            return Poll::Ready(None);
        }
        loop {
            if self.has_held() {
                let held = std::mem::take(&mut self.held);
                let scanned = self.scan(&held[self.held_start..]);
                self.held = held;
                match scanned {
                    Ok(Some((entered, end))) => {
                        self.release(end);
                        return Poll::Ready(Some(entered));
                    }
                    Ok(None) => {}
                    Err(violation) => {
                        self.refuse_head(violation);
                        return Poll::Ready(None);
                    }
                }
            }
            if self.is_eof {
                return Poll::Ready(None);
            }
            let room = self.room();
            let scratch = self.scratch.clone();
            let mut scratch = scratch.0.read.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch[..room]);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    let bytes = read.filled();
                    add(&self.state.bytes_read, bytes.len());
                    if self.has_held() {
                        self.hold(bytes);
                        continue;
                    }
                    match self.scan(bytes) {
                        Ok(Some((entered, end))) => {
                            if end < bytes.len() {
                                self.hold(&bytes[end..]);
                            }
                            return Poll::Ready(Some(entered));
                        }
                        // Scanned on from where it stopped, once more has come.
                        Ok(None) => self.hold(bytes),
                        Err(violation) => {
                            self.hold(bytes);
                            self.refuse_head(violation);
                            return Poll::Ready(None);
                        }
                    }
                }
                Poll::Ready(_) => self.is_eof = true,
                Poll::Pending => {
                    drop(scratch);
                    ready!(self.poll_overdue(cx));
                    // Where nothing was asked nothing is answered.
                    if self.has_begun() {
                        self.refuse_head(Violation::HeadTimeout);
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// A request, if its head is whole, and where that ends.
    fn scan(&mut self, bytes: &[u8]) -> Result<Option<(Entered, usize)>, Violation> {
        let Phase::Head(scanner) = &mut self.phase else { return Ok(None) };
        match scanner.scan(bytes, &self.limits)? {
            Some(head) => Ok(Some((self.enter(bytes, head)?, head.end))),
            None => Ok(None),
        }
    }

    /// Brings the present request's body to its reader, as far as that wants it. Ready when the client is gone though its
    /// request had come whole.
    pub(super) fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = match &mut self.phase {
                Phase::Head(_) => return self.poll_gone(cx),
                Phase::Lost => return Poll::Pending,
                Phase::Body(inbound) => {
                    if !inbound.feed.is_wanted(cx) {
                        return Poll::Pending;
                    }
                    match &inbound.left {
                        Left::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX),
                        Left::Chunks(_) => usize::MAX,
                    }
                }
            };
            if self.has_held() {
                self.feed_held();
                continue;
            }
            if self.is_eof {
                self.lose_body(None);
                continue;
            }
            let scratch = self.scratch.clone();
            let mut scratch = scratch.0.read.borrow_mut();
            let room = left.min(scratch.len());
            let mut read = ReadBuf::new(&mut scratch[..room]);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    let bytes = read.filled();
                    add(&self.state.bytes_read, bytes.len());
                    self.wait_for(Waiting::No);
                    let fed = self.feed(bytes);
                    if fed < bytes.len() {
                        self.hold(&bytes[fed..]);
                    }
                }
                Poll::Ready(_) => self.is_eof = true,
                Poll::Pending => {
                    if self.poll_overdue(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.lose_body(Some(Violation::BodyTimeout));
                }
            }
        }
    }

    /// Reads on while the answer is awaited, to notice that the client is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_eof {
            let room = self.room();
            if room == 0 {
                // A client that pipelines more than a head's worth waits.
                return Poll::Pending;
            }
            let scratch = self.scratch.clone();
            let mut scratch = scratch.0.read.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch[..room]);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    add(&self.state.bytes_read, read.filled().len());
                    self.hold(read.filled());
                }
                _ => self.is_eof = true,
            }
        }
        Poll::Ready(())
    }

    /// Whether the connection ends with the present answer because nobody read the body of its request, or all of it that
    /// was worth it. To be asked before the answer is written, which should say so. A body that its client brings
    /// `too_slowly` is not waited for.
    pub(super) fn ends_unread(&mut self, cx: &mut Context<'_>, too_slowly: bool) -> bool {
        match &self.phase {
            Phase::Head(_) => false,
            Phase::Lost => true,
            // An upstream that still reads it may come to its end.
            Phase::Body(inbound) if inbound.feed.has_reader() => false,
            Phase::Body(_) if self.rest_is_small() && !too_slowly => false,
            Phase::Body(_) => !self.drain_body(cx),
        }
    }

    /// Whether the rest of the body is known to be so small that it is read for the sake of the connection. A client that waits
    /// for a word before it sends may never send it.
    fn rest_is_small(&self) -> bool {
        let Phase::Body(inbound) = &self.phase else { return false };
        !inbound.expects && matches!(inbound.left, Left::Length(left) if left <= DRAIN_BYTES_MAX as u64)
    }

    /// Throws the rest of a body away that nobody reads, and says whether the next head can be read behind it. A small rest is
    /// waited for, once for as long as a pause may last.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if matches!(self.phase, Phase::Head(_)) {
            return Poll::Ready(true);
        }
        let is_small = self.rest_is_small();
        if self.drain_body(cx) {
            return Poll::Ready(true);
        }
        if !is_small || self.is_eof || matches!(self.phase, Phase::Lost) {
            return Poll::Ready(false);
        }
        self.wait_for(Waiting::Rest);
        self.read_timer.poll_expired(cx).map(|()| false)
    }

    /// Throws away what is here of a body that nobody reads, and says whether that was the rest of it.
    fn drain_body(&mut self, cx: &mut Context<'_>) -> bool {
        let mut drained = self.held.len() - self.held_start;
        if drained > 0 {
            self.feed_held();
        }
        while matches!(self.phase, Phase::Body(_)) && drained < DRAIN_BYTES_MAX && !self.is_eof {
            let scratch = self.scratch.clone();
            let mut scratch = scratch.0.read.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    let bytes = read.filled();
                    add(&self.state.bytes_read, bytes.len());
                    drained += bytes.len();
                    let fed = self.feed(bytes);
                    if fed < bytes.len() {
                        self.hold(&bytes[fed..]);
                    }
                }
                Poll::Ready(_) => self.is_eof = true,
                Poll::Pending => break,
            }
        }
        matches!(self.phase, Phase::Head(_))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_eof && self.linger_left > 0 {
            let mut scratch = self.scratch.0.read.borrow_mut();
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
    /// Tells a client that waits for it to go on, once somebody wants the body.
    pub(super) fn say_continue(&mut self, cx: &mut Context<'_>) {
        if let Phase::Body(inbound) = &mut self.phase
            && inbound.expects
            && inbound.feed.is_wanted(cx)
        {
            inbound.expects = false;
            if !self.has_held() {
                self.out().extend_from_slice(CONTINUE);
            }
        }
    }

    /// Writes what is to be written, all of it.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let Outgoing { bytes, written, piece, after } = &self.out;
            let rest = &bytes[*written..];
            let poll = if piece.is_empty() && after.is_empty() {
                Pin::new(&mut self.io).poll_write(cx, rest)
            } else {
                let slices = [IoSlice::new(rest), IoSlice::new(piece), IoSlice::new(after)];
                Pin::new(&mut self.io).poll_write_vectored(cx, &slices[usize::from(rest.is_empty())..])
            };
            let count = ready!(self.poll_progress(cx, poll))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            add(&self.state.bytes_written, count);
            self.pace.count(count);
            self.out.advance(count);
        }
        let out = std::mem::take(&mut self.out);
        if out.bytes.capacity() > 0 {
            self.scratch.spare_out(out.bytes);
        }
        let poll = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_progress(cx, poll)
    }

    /// Sends `response`, rendered whole and with `Connection: close`, to a client whose head was refused, and closes so
    /// that the client can read it. To be called when [`GateState::refusal`] is some. Takes two seconds at most.
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

    /// Closes a connection that nothing is going on on; where the client `is_sending`, or may be, so that it sees an end and
    /// no reset. Takes two seconds at most.
    ///
    /// # Errors
    /// The client went away.
    pub async fn close(&mut self, is_sending: bool) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_close(cx, is_sending)).await
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
            if std::mem::take(&mut self.is_stalled) {
                if let Some(timer) = &mut self.write_timer {
                    timer.disarm();
                }
                if !self.pace.resumes(self.wheel.now()) {
                    self.state.violation.set(Some(Violation::WriteTooSlow));
                    return Poll::Ready(Err(Violation::WriteTooSlow.into()));
                }
            }
            return poll;
        }
        let timer = self.write_timer.get_or_insert_with(|| self.wheel.timer());
        if !std::mem::replace(&mut self.is_stalled, true) {
            arm(timer, &self.wheel, self.timeouts.body_idle);
            self.pace.waits(self.wheel.now());
        }
        ready!(timer.poll_expired(cx));
        self.state.violation.set(Some(Violation::WriteTimeout));
        Poll::Ready(Err(Violation::WriteTimeout.into()))
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
