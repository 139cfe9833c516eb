//! What goes out, and the end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Gate, Phase, Waiting, add, arm};
use crate::http::framing::Violation;

/// The answer to `Expect: 100-continue` once somebody reads the body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is to be written and has not gone out yet: some bytes, then a large piece of a body, then the end of its chunk.
#[derive(Default)]
pub(super) struct Outgoing {
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

impl<S> Gate<S> {
    /// What is to be written next, to add to.
    pub(in crate::server) fn out(&mut self) -> &mut Vec<u8> {
        if self.out.bytes.capacity() == 0 {
            self.out.bytes = self.scratch.take_out();
        }
        &mut self.out.bytes
    }

    /// How many bytes wait to be written.
    pub(in crate::server) fn unsent(&self) -> usize {
        let Outgoing { bytes, written, piece, after } = &self.out;
        bytes.len() - written + piece.len() + after.len()
    }

    /// Whether bytes wait to be written.
    pub(in crate::server) fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes a large piece of a body and the end of its chunk behind what is to be written, which nothing may be added to
    /// until it is out.
    pub(in crate::server) fn put_piece(&mut self, piece: Bytes, after: &'static [u8]) {
        (self.out.piece, self.out.after) = (piece, after);
    }

    /// Replaces what goes out behind the large piece.
    pub(in crate::server) fn put_after(&mut self, after: &'static [u8]) {
        self.out.after = after;
    }

    /// Whether a large piece waits to be written.
    pub(in crate::server) fn has_piece(&self) -> bool {
        !self.out.piece.is_empty() || !self.out.after.is_empty()
    }

    /// Whether nothing should be added to what is to be written.
    pub(in crate::server) fn is_full(&self, most: usize) -> bool {
        self.has_piece() || self.out.bytes.len() >= most
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Tells a client that waits for it to go on, once somebody wants the body.
    pub(in crate::server) fn say_continue(&mut self, cx: &mut Context<'_>) {
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
    pub(in crate::server) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    /// that the client can read it. To be called when [`GateState::refusal`](super::GateState::refusal) is some. Takes two seconds at most.
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
