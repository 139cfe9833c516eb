//! What comes in: heads, bodies, and the end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Entered, Gate, Inbound, LINGER_BYTES_MAX, Left, Phase, Waiting, add};
use crate::http::body::Arriving;
use crate::http::framing::{BodyFraming, Head, Violation};
use crate::http::head::{self, parse_trailers};
use crate::http::inflow::inflow;

/// Where a body that nobody read has no more left than this, the answer does not say that the connection ends.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

impl<S> Gate<S> {
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
        let mut request = self.scratch.take_request();
        let arrived = head::parse(&text, &mut request)?;
        let (body, phase) = match head.body {
            BodyFraming::None => (Arriving::None, Phase::head()),
            BodyFraming::Length(length) => {
                let (feed, body) = inflow(Some(length));
                let inbound = Inbound { feed, left: Left::Length(length), expects: arrived.expects };
                (Arriving::Http1(body), Phase::Body(inbound))
            }
            BodyFraming::Chunked => {
                let (feed, body) = inflow(None);
                let inbound = Inbound { feed, left: Left::Chunks(Box::default()), expects: arrived.expects };
                (Arriving::Http1(body), Phase::Body(inbound))
            }
        };
        self.phase = phase;
        self.exchange_is_open = true;
        add(&self.state.requests, 1);
        self.wait_for(Waiting::No);
        Ok(Entered { request, body, asked: arrived.asked })
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
    pub(in crate::server) fn feed_early(&mut self) {
        if self.has_held() {
            self.feed_held();
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Waits for the next request. Ready with none when the connection is over: the client is gone or was silent for too
    /// long, or its head is refused ([`GateState::refusal`](super::GateState::refusal)).
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
            let mut scratch = scratch.for_reading();
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
                    self.state.rested.set(self.waiting == Waiting::Idle);
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

    /// Brings the present request's body to its reader, as far as that wants it. Ready when the client is gone, within its
    /// request or behind it.
    pub(in crate::server) fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = match &mut self.phase {
                Phase::Head(_) => return self.poll_gone(cx),
                Phase::Lost if self.is_eof && self.state.violation.get().is_none() => return Poll::Ready(()),
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
            let mut scratch = scratch.for_reading();
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
            let mut scratch = scratch.for_reading();
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
    /// was worth it. To be asked before the answer, of `status`, is written, which should say so. A body that its client
    /// brings too slowly is not waited for.
    pub(in crate::server) fn ends_unread(&mut self, cx: &mut Context<'_>, status: StatusCode) -> bool {
        match &self.phase {
            Phase::Head(_) => false,
            Phase::Lost => true,
            // An upstream that still reads it may come to its end; but hardly one that has refused it, or has not asked for it.
            Phase::Body(inbound) if inbound.feed.has_reader() => {
                let is_done = inbound.expects || status.is_client_error() || status.is_server_error();
                is_done && !self.rest_is_small() || self.rest_is_large()
            }
            Phase::Body(_) if self.rest_is_small() && status != StatusCode::REQUEST_TIMEOUT => false,
            Phase::Body(_) => {
                self.drain_body(cx, DRAIN_BYTES_MAX);
                !self.is_between()
            }
        }
    }

    /// Whether the rest of the body is known to be so small that it is read for the sake of the connection. A client that waits
    /// for a word before it sends may never send it.
    fn rest_is_small(&self) -> bool {
        let Phase::Body(inbound) = &self.phase else { return false };
        !inbound.expects && matches!(inbound.left, Left::Length(left) if left <= DRAIN_BYTES_MAX as u64)
    }

    /// Whether the rest of the body is known to be more than is thrown away for the sake of the connection.
    fn rest_is_large(&self) -> bool {
        let Phase::Body(inbound) = &self.phase else { return false };
        matches!(inbound.left, Left::Length(left) if left > self.rest_left as u64)
    }

    /// Throws the rest of a body away that nobody reads, and says whether the next head can be read behind it. The answer did not
    /// say that the connection ends, so its client may put a next request behind that rest, which is waited for: once for as long
    /// as a pause may last, and up to 16 MiB. A client that is cut off within its body has asked for nothing that would be lost.
    pub(in crate::server) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let waits = match &self.phase {
            Phase::Head(_) => return Poll::Ready(true),
            Phase::Lost => return Poll::Ready(false),
            Phase::Body(inbound) => !inbound.expects,
        };
        self.rest_left -= self.drain_body(cx, self.rest_left).min(self.rest_left);
        if self.is_between() {
            self.rest_left = LINGER_BYTES_MAX;
            return Poll::Ready(true);
        }
        if !waits || self.rest_left == 0 || self.is_eof || matches!(self.phase, Phase::Lost) {
            return Poll::Ready(false);
        }
        self.wait_for(Waiting::Rest);
        self.read_timer.poll_expired(cx).map(|()| false)
    }

    /// Whether a head is what comes next.
    fn is_between(&self) -> bool {
        matches!(self.phase, Phase::Head(_))
    }

    /// Throws away what is here of a body that nobody reads, until there were `most` bytes of it, and says how many.
    fn drain_body(&mut self, cx: &mut Context<'_>, most: usize) -> usize {
        let mut drained = self.held.len() - self.held_start;
        if drained > 0 {
            self.feed_held();
        }
        while matches!(self.phase, Phase::Body(_)) && drained < most && !self.is_eof {
            let scratch = self.scratch.clone();
            let mut scratch = scratch.for_reading();
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
        drained
    }

    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_eof && self.linger_left > 0 {
            let mut scratch = self.scratch.for_reading();
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
