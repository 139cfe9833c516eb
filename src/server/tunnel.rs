//! A tunnel: what follows a 101. Bytes both ways, each as fast as its reader takes it, until both sides have ended, nothing
//! moves for too long, or armiger ends.
//!
//! Nothing is held of a tunnel that rests: bytes are read only where they can go out, and what the reader does not take at
//! once is kept until it does.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::drain::Phase;
use super::worker::Shared;
use crate::http::body::Tunnel;
use crate::http::tunnel::{Duplex, Gone};
use crate::http::websocket::{FrameFollower, Goodbye};
use crate::telemetry::finish::Finish;
use crate::telemetry::record::CutBy;
use crate::timer::Timer;

/// What is read at once.
const CHUNK: usize = 16 * 1024;

/// How many chunks one side may have in a row before others get their turn.
const TURN: usize = 16;

/// Over how long the goodbyes of all tunnels are spread when armiger ends, so that clients do not come back all at once.
const GOODBYES: Duration = Duration::from_secs(1);

/// How long both sides have to answer a goodbye.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long one side may go on, silent, after the other has ended.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// How a tunnel came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides ended it, or took the goodbye of an armiger that ends.
    Over,
    /// It was ended with a word to both sides, and that is not what they wanted.
    Ended(CutBy),
    /// It was cut.
    Cut(CutBy),
    /// It was cut by an armiger that ends.
    GivenUp,
}

impl End {
    /// Writes down how it ended.
    pub(super) fn tell(self, finish: &mut Finish) {
        match self {
            Self::Over => finish.ended(None),
            Self::Ended(by) | Self::Cut(by) => finish.ended(Some(by)),
            Self::GivenUp => finish.given_up(),
        }
    }

    /// Whether both sides had a word, and none shall see a reset.
    pub(super) fn is_told(self) -> bool {
        matches!(self, Self::Over | Self::Ended(_))
    }
}

/// Carries bytes between `client`, of which `held` has been read already, and the back end.
pub(super) async fn carry<C>(
    shared: &Shared,
    client: &mut C,
    held: Vec<u8>,
    mut tunnel: Tunnel,
    finish: &mut Finish,
) -> End
where
    C: Duplex,
{
    let wheel = &shared.worker.wheel;
    let mut up = Flow { waiting: held, ..Flow::default() };
    let mut down = Flow { waiting: tunnel.ahead.to_vec(), ..Flow::default() };
    up.frames.follow(&up.waiting);
    down.frames.follow(&down.waiting);
    (up.passed, down.passed) = (up.waiting.len() as u64, down.waiting.len() as u64);
    finish.carried(up.passed, down.passed);
    let mut timer = wheel.timer();
    let mut moved_at = wheel.now();
    let mut closing = pin!(async {
        shared.reached(Phase::Closing).await;
        let mut timer = wheel.timer();
        timer.arm(GOODBYES.mul_f64(fastrand::f64()));
        timer.expired().await;
    });
    let mut forced = pin!(shared.reached(Phase::Forced));
    let mut parting: Option<Parting> = None;
    let mut last = wheel.timer();
    let mut is_half = false;
    // The client hears no more.
    let mut is_unheard = false;
    let end = poll_fn(|cx| {
        if forced.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::GivenUp);
        }
        if parting.is_none() {
            let is_proven = tunnel.end.as_mut().is_none_or(|end| end.poll_expired(cx).is_pending());
            parting = match (is_proven, closing.as_mut().poll(cx)) {
                (false, _) => Some(Parting { goodbye: Goodbye::PolicyViolation, cut_by: Some(CutBy::Credential) }),
                (true, Poll::Ready(())) => Some(Parting { goodbye: Goodbye::GoingAway, cut_by: None }),
                (true, Poll::Pending) => None,
            };
            if let Some(parting) = parting {
                parting.begin(&mut up, &mut down, &mut last);
            }
        }
        client.go_on(cx);
        tunnel.io.go_on(cx);
        let before = (up.passed, down.passed);
        let upward = up.poll(cx, client, &mut tunnel.io);
        let downward = down.poll(cx, &mut tunnel.io, client);
        // At once: a connection that dies takes its tunnels with it.
        finish.carried(up.passed, down.passed);
        is_unheard |= client.gone().is_some();
        let may_wait = up.is_over && (upward.is_pending() || tunnel.io.may_hold());
        match (upward, downward) {
            // Who has said all is gone, and the back end takes its time: it still gets that, and the end.
            (Poll::Pending | Poll::Ready(Ok(())), Poll::Ready(Err(Broken { is_reader: false, .. }))) if may_wait => {
                is_unheard = true;
                if down.stays_unheard() {
                    cx.waker().wake_by_ref();
                }
            }
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) if is_unheard => {
                return Poll::Ready(End::Cut(CutBy::Client));
            }
            // Whoever fails to read or to write is the one that broke off.
            (Poll::Ready(Err(broken)), _) => return Poll::Ready(broken.end(CutBy::Client, CutBy::Upstream)),
            (_, Poll::Ready(Err(broken))) => return Poll::Ready(broken.end(CutBy::Upstream, CutBy::Client)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) if !is_unheard => {
                return Poll::Ready(parting.map_or(End::Over, |parting| parting.end(true)));
            }
            _ => {}
        }
        let is_done = up.is_shut && (down.is_over || !tunnel.io.may_hold());
        if is_unheard && (is_done || !up.is_over || client.gone() == Some(Gone::Reset)) {
            return Poll::Ready(End::Cut(CutBy::Client));
        }
        if let Some(parting) = parting {
            // Nobody is cut off within a message, unless it takes longer than that.
            // To whom the other side's end was told, there is nothing more to say.
            let is_said = !is_unheard && (down.is_shut || down.has_said_goodbye());
            return last.poll_expired(cx).map(|()| parting.end(is_said));
        }
        if before != (up.passed, down.passed) {
            moved_at = wheel.now();
        }
        if !is_half && (up.is_shut || down.is_shut || is_unheard) {
            // However long it rested before: the other side has heard of it only now.
            (is_half, moved_at) = (true, wheel.now());
            timer.disarm();
        }
        let idle = if is_half { tunnel.idle.min(HALF_CLOSED) } else { tunnel.idle };
        loop {
            if !timer.is_armed() {
                timer.arm_at(moved_at + idle);
            }
            ready!(timer.poll_expired(cx));
            if wheel.now() >= moved_at + idle {
                if is_unheard {
                    return Poll::Ready(End::Cut(CutBy::Client));
                }
                let silent = Parting { goodbye: Goodbye::GoingAway, cut_by: Some(CutBy::Deadline) };
                silent.begin(&mut up, &mut down, &mut last);
                parting = Some(silent);
                // It is said in the next round.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    })
    .await;
    // To a back end that had the goodbye this is no cut. What does not go out at once is not waited for.
    tunnel.is_over = up.is_shut || up.has_said_goodbye() && shut_at_once(&mut *tunnel.io).await;
    end
}

/// Tells the end, and whether it could be told at once.
async fn shut_at_once(io: &mut (impl AsyncWrite + Unpin + ?Sized)) -> bool {
    poll_fn(|cx| Poll::Ready(matches!(Pin::new(&mut *io).poll_shutdown(cx), Poll::Ready(Ok(()))))).await
}

/// The end that armiger makes of a tunnel.
#[derive(Clone, Copy)]
struct Parting {
    goodbye: Goodbye,
    /// What it is told as, unless nobody is cut by it who hears of it.
    cut_by: Option<CutBy>,
}

impl Parting {
    fn begin(self, up: &mut Flow, down: &mut Flow, last: &mut Timer) {
        up.ends_with(self.goodbye.to_server());
        down.ends_with(self.goodbye.to_client());
        last.arm(LAST_WORDS);
    }

    /// How the tunnel ends by it. `is_said`: the client got the goodbye whole, or the back end's end.
    fn end(self, is_said: bool) -> End {
        match self.cut_by {
            None if is_said => End::Over,
            None => End::GivenUp,
            Some(by) if is_said => End::Ended(by),
            Some(by) => End::Cut(by),
        }
    }
}

/// A side of a tunnel failed.
struct Broken {
    error: io::Error,
    is_reader: bool,
}

impl Broken {
    fn end(&self, from: CutBy, to: CutBy) -> End {
        tracing::debug!(error = %self.error, "tunnel broke");
        End::Cut(if self.is_reader { from } else { to })
    }
}

/// One direction of a tunnel.
#[derive(Default)]
struct Flow {
    /// Read, and not yet taken by the other side.
    waiting: Vec<u8>,
    written: usize,
    frames: FrameFollower,
    /// The last word, to be said between two frames.
    goodbye: Option<Vec<u8>>,
    has_parted: bool,
    is_unflushed: bool,
    is_over: bool,
    is_shut: bool,
    passed: u64,
}

impl Flow {
    fn ends_with(&mut self, goodbye: Vec<u8>) {
        self.goodbye = Some(goodbye);
    }

    /// What comes is thrown away from now on, up to its end. Says whether it was not before.
    fn stays_unheard(&mut self) -> bool {
        (self.waiting, self.written) = (Vec::new(), 0);
        !std::mem::replace(&mut self.has_parted, true)
    }

    fn has_said_goodbye(&self) -> bool {
        self.has_parted && self.waiting.is_empty()
    }

    /// Moves what can be moved. Ready when this direction has come to its end.
    fn poll<F, T>(&mut self, cx: &mut Context<'_>, from: &mut F, to: &mut T) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin + ?Sized,
        T: AsyncWrite + Unpin + ?Sized,
    {
        let reader = |error| Broken { error, is_reader: true };
        let writer = |error| Broken { error, is_reader: false };
        for _ in 0..TURN {
            while self.written < self.waiting.len() {
                let length =
                    ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting[self.written..])).map_err(writer)?;
                if length == 0 {
                    return Poll::Ready(Err(writer(io::ErrorKind::WriteZero.into())));
                }
                self.written += length;
                self.is_unflushed = true;
            }
            (self.waiting, self.written) = (Vec::new(), 0);
            if self.frames.is_between()
                && !self.is_over
                && let Some(goodbye) = self.goodbye.take()
            {
                (self.waiting, self.has_parted) = (goodbye, true);
                continue;
            }
            if self.is_over {
                if !self.is_shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(writer)?;
                    self.is_shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [MaybeUninit::uninit(); CHUNK];
            let mut read = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Pending => {
                    if self.is_unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(writer)?;
                        self.is_unflushed = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(reader(error))),
                Poll::Ready(Ok(())) => {}
            }
            let mut bytes = read.filled();
            if bytes.is_empty() {
                self.is_over = true;
                continue;
            }
            if self.has_parted {
                // After a close frame nothing counts any more (RFC 6455 §5.5.1), but the end does.
                continue;
            }
            if self.goodbye.is_some() {
                let rest = self.frames.to_end(bytes);
                bytes = &bytes[..rest];
            } else {
                self.frames.follow(bytes);
            }
            self.passed += bytes.len() as u64;
            while !bytes.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(writer(io::ErrorKind::WriteZero.into()))),
                    Poll::Ready(Ok(length)) => (bytes, self.is_unflushed) = (&bytes[length..], true),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(writer(error))),
                    Poll::Pending => {
                        self.waiting = bytes.to_vec();
                        return Poll::Pending;
                    }
                }
            }
        }
        // Others first; there may be more.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
