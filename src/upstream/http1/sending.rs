//! A request on its way out: its head and its body as one stream of bytes, sent as fast as the peer takes them.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::head::{self, Delimited};
use crate::http::body::Body;
use crate::http::trailers;
use crate::timer::Wheel;
use crate::upstream::connect::Stream;
use crate::upstream::error::{Error, Kind};
use crate::upstream::link::FLATTEN_MAX;

/// The room that a connection keeps for what it sends.
const ROOM_KEPT: usize = 2 * FLATTEN_MAX;

/// Behind the data of a chunk.
const CHUNK_END: &[u8] = b"\r\n";

/// Behind the data of the last chunk, where no fields follow.
const LAST_CHUNK_END: &[u8] = b"\r\n0\r\n\r\n";

/// The request that is being sent, or was sent last.
#[derive(Debug)]
pub(super) struct Sending {
    /// The head, which stays for a second try, and what follows it in small pieces.
    out: Vec<u8>,
    head: usize,
    /// How far `out` was written.
    at: usize,
    /// What follows `out`: data too large to be copied.
    data: Bytes,
    /// What follows that.
    tail: &'static [u8],
    delimited: Delimited,
    announced: Vec<HeaderName>,
    /// Nothing has to be added any more.
    is_whole: bool,
    state: State,
    /// Whether the socket took a byte of it.
    has_begun: bool,
    pub(super) written_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sending,
    Sent,
    /// The socket takes nothing any more, or the body broke off.
    Broken,
}

impl Sending {
    /// Of a connection that has sent nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            out: Vec::new(),
            head: 0,
            at: 0,
            data: Bytes::new(),
            tail: &[],
            delimited: Delimited::Length(0),
            announced: Vec::new(),
            is_whole: true,
            state: State::Sent,
            has_begun: false,
            written_at: now,
        }
    }

    /// Whether the request went out whole.
    pub(super) fn is_sent(&self) -> bool {
        self.state == State::Sent
    }

    /// Whether there is anything left to do for it.
    pub(super) fn is_under_way(&self) -> bool {
        self.state == State::Sending
    }

    /// Begins a request. Says whether it ends the connection.
    pub(super) fn begin(&mut self, request: &Request<Body>) -> bool {
        let body = request.body();
        self.delimited = match body.size_hint().exact() {
            _ if body.is_end_stream() => Delimited::Length(0),
            Some(length) => Delimited::Length(length),
            None => Delimited::Chunked,
        };
        self.out.clear();
        let said = head::write(&mut self.out, request, self.delimited);
        (self.head, self.at, self.data, self.tail) = (self.out.len(), 0, Bytes::new(), &[]);
        self.announced.clear();
        if said.has_trailer && self.delimited == Delimited::Chunked {
            self.announced = trailers::announced(request.headers());
        }
        self.is_whole = self.delimited == Delimited::Length(0);
        (self.state, self.has_begun) = (State::Sending, false);
        said.is_last
    }

    /// Sends on, as far as the body and the socket let it. Ready when there is nothing left to do, also where the socket
    /// takes nothing any more: then the read side says why.
    ///
    /// # Errors
    /// The body broke off, or is not as long as was said.
    pub(super) fn poll(
        &mut self,
        body: &mut Body,
        stream: &mut Stream,
        wheel: &Wheel,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        while self.state == State::Sending {
            let mut waits = false;
            // Small pieces go out together, the first of them with the head.
            while !self.is_whole && self.data.is_empty() && self.out.len() - self.at < FLATTEN_MAX {
                let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                    waits = true;
                    break;
                };
                let pushed = match frame {
                    Some(Ok(frame)) => self.push(frame),
                    Some(Err(error)) => Err(Error::because(Kind::Reset, error)),
                    None => self.finish(None),
                };
                let pushed = match pushed {
                    Ok(()) if !self.is_whole && body.is_end_stream() => self.finish(None),
                    pushed => pushed,
                };
                if let Err(error) = pushed {
                    self.state = State::Broken;
                    return Poll::Ready(Err(error));
                }
            }
            ready!(self.poll_flush(stream, wheel, cx));
            match self.state {
                State::Sending if self.is_whole => self.state = State::Sent,
                State::Sending if waits => return Poll::Pending,
                _ => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, frame: Frame<Bytes>) -> Result<(), Error> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.finish(frame.into_trailers().ok().as_ref()),
        };
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.delimited {
            Delimited::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(not_as_long_as_said)?;
                self.put(data, &[]);
            }
            Delimited::Chunked => {
                use std::io::Write;
                // Writing to memory does not fail.
                drop(write!(self.out, "{:x}\r\n", data.len()));
                self.put(data, CHUNK_END);
            }
        }
        Ok(())
    }

    fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if self.out.len() - self.at + data.len() + tail.len() > FLATTEN_MAX {
            (self.data, self.tail) = (data, tail);
        } else {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        }
    }

    /// The body is over.
    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Error> {
        self.is_whole = true;
        match self.delimited {
            Delimited::Length(0) => {}
            Delimited::Length(_) => return Err(not_as_long_as_said()),
            Delimited::Chunked if !self.data.is_empty() => self.tail = LAST_CHUNK_END,
            Delimited::Chunked => {
                self.out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    head::write_trailers(&mut self.out, trailers, &self.announced);
                }
                self.out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn poll_flush(&mut self, stream: &mut Stream, wheel: &Wheel, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = Pin::new(stream);
        loop {
            let rest = &self.out[self.at..];
            let outcome = if self.tail.is_empty() && self.data.is_empty() {
                if rest.is_empty() {
                    break;
                }
                stream.as_mut().poll_write(cx, rest)
            } else {
                let slices = [IoSlice::new(rest), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                stream.as_mut().poll_write_vectored(cx, &slices)
            };
            match ready!(outcome) {
                Ok(length) if length > 0 => {
                    self.has_begun = true;
                    self.written_at = wheel.now();
                    self.advance(length);
                }
                // An upstream that refuses a body early answers first and closes then, so its answer may wait to be read.
                outcome => {
                    tracing::debug!(?outcome, "write to upstream failed");
                    self.state = State::Broken;
                    return Poll::Ready(());
                }
            }
        }
        self.out.truncate(self.head);
        self.at = self.out.len();
        if let Err(error) = ready!(stream.poll_flush(cx)) {
            tracing::debug!(%error, "write to upstream failed");
            self.state = State::Broken;
        }
        Poll::Ready(())
    }

    fn advance(&mut self, mut written: usize) {
        let of_out = written.min(self.out.len() - self.at);
        self.at += of_out;
        written -= of_out;
        let of_data = written.min(self.data.len());
        // Not by way of `advance`, which keeps memory for what is gone.
        self.data = if of_data == self.data.len() { Bytes::new() } else { self.data.slice(of_data..) };
        written -= of_data;
        self.tail = &self.tail[written.min(self.tail.len())..];
    }

    /// The request, where the socket took nothing of it and all of it is here.
    pub(super) fn unsent(&self) -> Option<Request<Body>> {
        if self.has_begun || !self.is_whole || self.delimited == Delimited::Chunked {
            return None;
        }
        let body = [&self.out[self.head..], &self.data].concat();
        Some(Request::from_parts(self.kept()?, Body::full(body)))
    }

    /// The head of the request.
    pub(super) fn kept(&self) -> Option<Parts> {
        head::read(self.out.get(..self.head)?)
    }

    /// Gives the room away that it needs only while it sends.
    pub(super) fn take_room(&mut self) -> Vec<u8> {
        let mut room = std::mem::take(&mut self.out);
        (self.head, self.at) = (0, 0);
        room.clear();
        room.shrink_to(ROOM_KEPT);
        room
    }

    /// Gives it room.
    pub(super) fn give_room(&mut self, room: Vec<u8>) {
        self.out = room;
    }
}

fn not_as_long_as_said() -> Error {
    Error::because(Kind::Reset, "the body is not as long as was said")
}
