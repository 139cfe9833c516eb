//! An answer on its way in: its head, and its body as fast as it is asked for.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, response};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncReadExt;

use super::large::Grant;
use super::spare::Spare;
use crate::http::body::BodyError;
use crate::http::reply::{Asked, BodyReader, Fault, HeadBounds, HeadReader, Piece};
use crate::upstream::connect::Stream;
use crate::upstream::error::{Error, Kind};

/// What is read at once, and grows while whole reads fill it, as far as there is [`Large`](super::large::Large) room.
pub(super) const READ: usize = 16 * 1024;
const READ_MAX: usize = 256 * 1024;

/// Room beyond this is not kept for others.
const GROWN: usize = 2 * READ;

/// How many interim answers are passed over before others get their turn.
const INTERIM_TURN: usize = 64;

/// The answer that is being read, or was read last.
#[derive(Debug)]
pub(super) struct Receiving {
    buffer: BytesMut,
    /// Whether `buffer` has room of the worker's. What is left of it may be nothing, and is still its own: whoever adds to it
    /// takes back what is gone.
    has_room: bool,
    /// Whether the room grew, be it for a large head.
    has_grown: bool,
    /// That the room may be larger than [`READ`] for the sake of a body.
    grant: Option<Arc<Grant>>,
    head: HeadReader,
    body: BodyReader,
    asked: Asked,
    /// A map of fields for the next head.
    spare: HeaderMap,
    /// What is read at once.
    read: usize,
    /// Whether a byte of it has come.
    has_begun: bool,
    /// Whether it said that the connection carries nothing after it.
    is_last: bool,
    /// Whether its body broke off.
    is_cut: bool,
}

impl Receiving {
    /// Of a connection that has received nothing.
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            has_room: false,
            has_grown: false,
            grant: None,
            head: HeadReader::default(),
            body: BodyReader::default(),
            asked: Asked::Other,
            spare: HeaderMap::new(),
            read: READ,
            has_begun: false,
            is_last: false,
            is_cut: false,
        }
    }

    /// Awaits the answer to what is asked for. `spare` is an empty map that its fields can have.
    pub(super) fn begin(&mut self, asked: Asked, spare: HeaderMap) {
        self.head.reset();
        (self.asked, self.spare, self.body) = (asked, spare, BodyReader::awaited());
        (self.has_begun, self.is_last, self.is_cut) = (false, false, false);
    }

    /// Whether a byte of the answer has come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether an answer is over, nothing came behind it, and it left the connection for another.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_over() && !self.is_last && self.buffer.is_empty()
    }

    /// Whether the answer is over.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_over()
    }

    /// How long the rest of the body is.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Reads the head of the answer; interim ones are passed over (RFC 9110 §15.2).
    ///
    /// # Errors
    /// The head breaks a rule, or the connection broke off.
    pub(super) fn poll_head(
        &mut self,
        stream: &mut Stream,
        spare: &Spare,
        bounds: HeadBounds,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Error>> {
        let mut interim = 0;
        loop {
            let head = self.head.read(&mut self.buffer, bounds, self.asked, &mut self.spare);
            let head = match head {
                Ok(head) => head,
                Err(fault) => {
                    return Poll::Ready(Err(match fault {
                        Fault::TooLarge => Error::because(Kind::HeadTooLarge, fault),
                        // A frame of settings, with which HTTP/2 begins (RFC 9113 §3.4): most likely `protocol` is wrong.
                        Fault::StatusLine if matches!(self.buffer[..], [0, 0, _, 4, ..]) => {
                            Error::because(Kind::Protocol, "the upstream speaks HTTP/2, and was spoken to in HTTP/1.1")
                        }
                        _ => Error::because(Kind::Protocol, fault),
                    }));
                }
            };
            if let Some(head) = head {
                let status = head.parts.status;
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    interim += 1;
                    if interim < INTERIM_TURN {
                        continue;
                    }
                    // Whoever sends them without end has only his own time.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.body = BodyReader::new(head.framing);
                self.is_last = head.is_last;
                return Poll::Ready(Ok(head.parts));
            }
            match ready!(self.poll_read(stream, spare, cx)) {
                Ok(0) => {
                    let kind = if self.has_begun { Kind::Incomplete } else { Kind::Reset };
                    return Poll::Ready(Err(Error::new(kind)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Error::from_io(error, self.has_begun))),
            }
        }
    }

    /// Reads what comes next of the body.
    pub(super) fn poll_frame(
        &mut self,
        stream: &mut Stream,
        spare: &Spare,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while !self.is_cut {
            match self.body.read(&mut self.buffer) {
                Ok(Piece::Data(data)) => {
                    let data = if let Some(grant) = &self.grant { grant.piece(data) } else { data };
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Piece::Trailers(fields)) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(error) => return self.cut(&error, cx),
            }
            match ready!(self.poll_read(stream, spare, cx)) {
                Ok(0) if self.body.end() => return Poll::Ready(None),
                Ok(0) => return self.cut(&"the connection ended", cx),
                Ok(_) => {}
                Err(error) => return self.cut(&error, cx),
            }
        }
        Poll::Ready(Some(Err(BodyError::UpstreamCut)))
    }

    /// The body broke off, which is told with the next call: hyper throws away what it has not sent yet when it hears of
    /// an error, and would do so with what came just before.
    fn cut<T>(&mut self, error: &dyn fmt::Display, cx: &mut Context<'_>) -> Poll<T> {
        tracing::debug!(%error, "upstream body broke off");
        self.is_cut = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once. 0 is the end of the connection.
    fn poll_read(&mut self, stream: &mut Stream, spare: &Spare, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.has_room, true) {
            self.buffer = spare.for_receiving();
        }
        if self.buffer.capacity() - self.buffer.len() < self.read / 2 {
            self.make_room(spare);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let Poll::Ready(length) = pin!(stream.read_buf(&mut self.buffer)).poll(cx) else {
            // What grew is filled again and again. And where somebody keeps pieces of it, the next ones join them: were they
            // spread over what others read into, each small piece would keep a room of its own.
            if self.buffer.is_empty() && !self.has_grown && (!self.has_begun || self.buffer.try_reclaim(READ)) {
                self.give_room_to(spare);
            }
            return Poll::Pending;
        };
        let length = length?;
        self.has_begun |= length > 0;
        if length == room && self.body.has_begun() {
            self.read = (self.read * 2).min(READ_MAX);
        }
        Poll::Ready(Ok(length))
    }

    fn make_room(&mut self, spare: &Spare) {
        // The room of what is gone, if nobody has it any more.
        if self.buffer.try_reclaim(self.read) {
            return;
        }
        self.grant = None;
        if self.read > READ {
            self.grant = spare.large.grant(self.read);
        }
        if self.grant.is_none() {
            self.read = READ;
        }
        if self.buffer.is_empty() {
            // A room that is too small is not made larger, which may come to twice what is asked for.
            self.buffer = BytesMut::with_capacity(self.read);
        } else {
            self.buffer.reserve(self.read);
        }
        self.has_grown |= self.buffer.capacity() > GROWN;
    }

    /// How much there is room for.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.buffer.capacity()
    }

    /// What came and was not asked for.
    pub(super) fn take_ahead(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// Gives the room away, which is needed only while something is there. None that grew for a large answer.
    pub(super) fn give_room_to(&mut self, spare: &Spare) {
        let room = std::mem::take(&mut self.buffer);
        if std::mem::replace(&mut self.has_room, false) && !self.has_grown {
            spare.received(room);
        }
        (self.read, self.has_grown, self.grant) = (READ, false, None);
    }
}
