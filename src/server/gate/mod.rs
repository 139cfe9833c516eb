//! The read side of a client's HTTP/1 connection, its timeouts, and its end: no request is made of a head before the whole
//! head has been found lawful, and none of the next head before the present exchange is over.
//!
//! The gate knows by [`framing`] where every message ends. `http1` answers the requests
//! that it lets pass.
//!
//! - A violation in a head ends the connection: [`Gate::poll_head`] tells of no request, [`GateState::refusal`] names it, and
//!   the owner sends its own answer with [`Gate::refuse`].
//! - A violation in a body reaches whoever reads it, by its [`Feed`]. The answer should say `Connection: close`, for nothing
//!   can be read behind it.
//! - While an exchange is in flight and its body is over, the socket is read only to notice that the client went away. The
//!   gate keeps the bytes that come then, up to the limit of a head. A client that shuts down its write side while it waits
//!   counts as gone, as with nginx and HAProxy.

mod reading;
mod scratch;
mod state;
mod writing;

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Method, Request};

use crate::http::answer::Asked;
use crate::http::body::{Arriving, Body};
use crate::http::framing::{self, ChunkFollower, HeadLimits, HeadScanner};
use crate::http::inflow::Feed;
use crate::http::pace::{Pace, Rate};
use crate::timer::{Timer, Wheel};
use scratch::SCRATCH_BYTES;
pub use scratch::Scratch;
pub use state::GateState;
use writing::Outgoing;

/// How long a closing connection waits for the client to stop sending, so that it reads our answer and not a reset
/// (RFC 9112 §9.6).
pub(super) const LINGER_TIME: Duration = Duration::from_secs(2);

/// How much is read and thrown away in that time: more than both kernels hold of what a client had sent before it could know.
pub(super) const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

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

/// A request that was let in.
pub struct Entered {
    /// Its head.
    pub request: Box<Request<Body>>,
    /// Its body.
    pub body: Arriving,
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
    /// How much is still thrown away of a body that nobody reads, for the sake of the connection.
    rest_left: usize,
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
            rest_left: LINGER_BYTES_MAX,
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

    /// The method of a head that was refused, if as much of it could be read.
    pub(super) fn asked_method(&self) -> Option<Method> {
        framing::method_of(&self.held[self.held_start..]).and_then(|method| Method::from_bytes(method).ok())
    }

    /// The path of such a head, as it was sent.
    pub(super) fn asked_path(&self) -> Option<&[u8]> {
        framing::path_of(&self.held[self.held_start..])
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
