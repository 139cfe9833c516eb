//! One exchange of an HTTP/1 connection: the service answers what the [`Gate`] let in, and the answer goes out.
//!
//! What is small goes out in one write with the head. The body is asked for no more than what the socket takes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::answer::{self, Asked, Framing, Length};
use crate::http::body::BodyError;
use crate::server::gate::Gate;
use crate::turn::Turn;

/// How much of an answer is gathered before it is written.
const GATHERED_MAX: usize = 32 * 1024;

/// A part of a body of up to this size is copied behind the head, larger ones go out from where they are.
const COPIED_MAX: usize = 8 * 1024;

/// How an exchange came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The connection may serve another request.
    Again,
    /// The connection ends with it.
    Last,
}

/// Why an exchange broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the client went away before its answer was out")]
    ClientGone,
    #[error("the answer broke off")]
    Body(#[source] BodyError),
    #[error("the answer is shorter than it said")]
    TooShort,
    #[error("the answer could not be written")]
    Write(#[from] io::Error),
}

/// The body of an answer, which is told how it goes out.
pub(super) trait Answer: Body<Data = Bytes, Error = BodyError> + Unpin {
    /// All of it is written down.
    fn written(&mut self);

    /// The last bytes of the answer, so many, never left. They are its own, but for what the head or the end of a chunk has of
    /// them.
    fn lost(&mut self, bytes: usize);
}

/// An exchange on its way.
pub(super) struct Exchange<B> {
    asked: Asked,
    stage: Stage<B>,
    /// Comes between an answer that was waited for and its way out. One that is made at once goes out at once.
    turn: Turn,
    is_last: bool,
}

enum Stage<B> {
    /// The service works on it.
    Asked,
    /// The head of the answer is written down, and this of its body is still to be.
    Answered(B, Framing),
    /// All of it is written down, and is on its way out. The body stays to be told.
    Written(B),
    /// All of it is out.
    Out,
    /// What is written down of it is all that there is. It still goes out: who sees that an answer began does not take the
    /// request for one that nobody saw, to send it again.
    Broken(Option<Broken>),
}

impl<B: Answer> Exchange<B> {
    /// An exchange whose request is before the service.
    pub(super) fn new(asked: Asked) -> Self {
        Self { asked, stage: Stage::Asked, turn: Turn::mine(), is_last: false }
    }

    /// Takes it as far as it goes. `service` is the future of the answer, and is dropped once it has been given.
    pub(super) fn poll<S, F>(
        &mut self,
        cx: &mut Context<'_>,
        gate: &mut Gate<S>,
        mut service: Pin<&mut Option<F>>,
    ) -> Poll<Result<Ended, Broken>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = Response<B>>,
    {
        if let Some(working) = service.as_mut().as_pin_mut() {
            match working.poll(cx) {
                Poll::Ready(response) => {
                    service.set(None);
                    self.answer(cx, gate, response);
                    // What is there of the body is written down before others get their turn: the memory that it arrived in is
                    // free for what they read.
                    self.gather(cx, gate);
                }
                Poll::Pending => {
                    self.turn = Turn::behind_others();
                    let is_gone = gate.poll_inbound(cx).is_ready();
                    gate.say_continue(cx);
                    if is_gone {
                        return Poll::Ready(Err(Broken::ClientGone));
                    }
                    if gate.has_out()
                        && let Poll::Ready(Err(error)) = gate.poll_out(cx)
                    {
                        return Poll::Ready(Err(error.into()));
                    }
                    return Poll::Pending;
                }
            }
        }
        ready!(self.turn.poll(cx));
        let sent = self.poll_send(cx, gate);
        if sent.is_pending() && !gate.state().is_tunnel() && gate.poll_inbound(cx).is_ready() {
            self.lose(gate);
            return Poll::Ready(Err(Broken::ClientGone));
        }
        ready!(sent)?;
        if gate.state().is_tunnel() {
            return Poll::Ready(Ok(Ended::Last));
        }
        // What an upstream still reads of the request, though it has answered, it may read to the end.
        if gate.has_reader() {
            // Ready or not, what counts is whether there is still a reader.
            let _ = gate.poll_inbound(cx);
            if gate.has_reader() {
                return Poll::Pending;
            }
        }
        // Whoever ends the connection now cuts nothing, be it that there is a rest of the request to wait for.
        gate.answered();
        let is_understood = !self.is_last && ready!(gate.poll_drained(cx));
        Poll::Ready(Ok(if is_understood && !self.is_last { Ended::Again } else { Ended::Last }))
    }

    fn answer<S>(&mut self, cx: &mut Context<'_>, gate: &mut Gate<S>, response: Response<B>)
    where
        S: AsyncRead + Unpin,
    {
        let (mut head, body) = response.into_parts();
        if gate.ends_unread(cx, head.status) {
            // Nothing can be read behind the body, and the client is told (RFC 9112 §9.6).
            self.asked.keeps_alive = false;
            gate.state().say_close();
        }
        let length = if body.is_end_stream() {
            Length::None
        } else {
            body.size_hint().exact().map_or(Length::Unknown, Length::Known)
        };
        let date = gate.date();
        let (framing, is_last) = answer::write_head(gate.out(), &mut head, length, self.asked, &date);
        self.is_last = is_last;
        gate.scratch().spare_map(head.headers);
        let is_bodiless = framing == Framing::None;
        self.stage = Stage::Answered(body, framing);
        if is_bodiless {
            self.written();
        }
    }

    /// The answer is written down to its end.
    fn written(&mut self) {
        if let Stage::Answered(mut body, _) = std::mem::replace(&mut self.stage, Stage::Out) {
            body.written();
            self.stage = Stage::Written(body);
        }
    }

    /// What is written down of the answer goes out no more.
    pub(super) fn lose<S>(&mut self, gate: &Gate<S>) {
        if let Stage::Answered(body, _) | Stage::Written(body) = &mut self.stage {
            body.lost(gate.unsent());
        }
    }

    /// The body is over: writes down its end.
    fn end<S>(&mut self, gate: &mut Gate<S>) {
        match &self.stage {
            Stage::Answered(_, Framing::Length(left)) if *left > 0 => {
                return self.stage = Stage::Broken(Some(Broken::TooShort));
            }
            Stage::Answered(_, Framing::Chunked(_)) if gate.has_piece() => gate.put_after(b"\r\n0\r\n\r\n"),
            Stage::Answered(_, Framing::Chunked(_)) => answer::write_last_chunk(gate.out(), None, &[]),
            _ => {}
        }
        self.written();
    }

    /// Writes down what there is of the body, as much as goes out at once. Says whether more of it is waited for.
    fn gather<S>(&mut self, cx: &mut Context<'_>, gate: &mut Gate<S>) -> bool {
        while let Stage::Answered(body, framing) = &mut self.stage
            && !gate.is_full(GATHERED_MAX)
        {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return true,
                Poll::Ready(Some(Ok(frame))) => {
                    if put(gate, framing, frame) || body.is_end_stream() {
                        self.end(gate);
                    }
                }
                Poll::Ready(None) => self.end(gate),
                Poll::Ready(Some(Err(error))) => self.stage = Stage::Broken(Some(Broken::Body(error))),
            }
        }
        false
    }

    fn poll_send<S>(&mut self, cx: &mut Context<'_>, gate: &mut Gate<S>) -> Poll<Result<(), Broken>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let is_waiting = self.gather(cx, gate);
            if matches!(self.stage, Stage::Out) {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = ready!(gate.poll_out(cx)) {
                self.lose(gate);
                return Poll::Ready(Err(error.into()));
            }
            match &mut self.stage {
                // Whoever counts it may do so.
                Stage::Written(_) => self.stage = Stage::Out,
                Stage::Broken(broken) => return Poll::Ready(broken.take().map_or(Ok(()), Err)),
                _ if is_waiting => return Poll::Pending,
                _ => {}
            }
        }
    }
}

/// Writes down a part of a body, and says whether nothing can follow.
fn put<S>(gate: &mut Gate<S>, framing: &mut Framing, frame: Frame<Bytes>) -> bool {
    let mut data = match frame.into_data() {
        Ok(data) => data,
        Err(frame) => {
            if let (Framing::Chunked(announced), Ok(trailers)) = (&*framing, frame.into_trailers()) {
                answer::write_last_chunk(gate.out(), Some(&trailers), announced);
                *framing = Framing::None;
            }
            return true;
        }
    };
    if data.is_empty() {
        return false;
    }
    let after: &'static [u8] = match framing {
        Framing::Chunked(_) => {
            answer::write_chunk_size(gate.out(), data.len());
            b"\r\n"
        }
        Framing::Length(left) => {
            // More than was announced would be taken for the next answer.
            data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= data.len() as u64;
            b""
        }
        Framing::UntilClose | Framing::None => b"",
    };
    if data.len() > COPIED_MAX {
        gate.put_piece(data, after);
    } else {
        let out = gate.out();
        out.extend_from_slice(&data);
        out.extend_from_slice(after);
    }
    matches!(framing, Framing::Length(0))
}

#[cfg(test)]
mod tests;
