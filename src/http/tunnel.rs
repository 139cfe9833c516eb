//! The two sides of a tunnel. Whatever carries bytes for one says at its end whether it ended or was cut (RFC 8441 §5): on TCP
//! by FIN or a reset, on a stream of HTTP/2 by END_STREAM or RST_STREAM.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::cause;

/// How somebody went who is at the other end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// By a reset of the stream: what was still to come does not count.
    Reset,
    /// With the connection. What was said before, and its end, is as it was.
    Away,
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {
    /// Whether nobody hears any more, as far as that is known without telling anything.
    fn gone(&self) -> Option<Gone> {
        None
    }

    /// Whether what was written may still wait here for the peer, be it that the end was told: let go before the peer has
    /// ended, that is lost.
    fn may_hold(&self) -> bool {
        false
    }

    /// Goes on with what it was given, where nobody else does. To be asked whenever its task is woken.
    fn go_on(&mut self, _: &mut Context<'_>) {}

    /// Has it look cut to who is on the other side, and not ended, once it is let go.
    fn cut(&mut self);
}

type Sending = Pin<Box<dyn Future<Output = ()>>>;

/// What sends on a stream of HTTP/2 that becomes a tunnel, once hyper has given it out to be spawned.
///
/// As a task of its own it would take it for the end that the tunnel is let go, and it alone hears that the stream was reset.
#[derive(Clone, Default)]
pub struct Sender(Rc<Cell<Option<Sending>>>);

impl Sender {
    /// Here it is.
    pub fn put<F: Future + 'static>(&self, sending: F) {
        self.0.set(Some(Box::pin(async move {
            sending.await;
        })));
    }
}

/// Who is at the other end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Who asked for it.
    Client,
    /// Who granted it. After its end it may reset the stream with `NO_ERROR`: it hears no more, and nothing is amiss (RFC 9113
    /// §8.1).
    Server,
}

/// A stream of HTTP/2 that became a tunnel. Let go before its end was told, it is reset.
pub struct StreamTunnel {
    /// Until the end was told, or the stream was reset.
    sending: Option<Sending>,
    io: TokioIo<Upgraded>,
    peer: Peer,
    is_shut: bool,
    /// The peer hears no more: what it is told goes nowhere.
    is_let_go: bool,
    gone: Option<Gone>,
}

impl StreamTunnel {
    /// Of what hyper has made of the stream, and of what sends on it. None if that was not given out.
    pub fn new(upgraded: Upgraded, sender: &Sender, peer: Peer) -> Option<Self> {
        let sending = sender.0.take()?;
        Some(Self {
            sending: Some(sending),
            io: TokioIo::new(upgraded),
            peer,
            is_shut: false,
            is_let_go: false,
            gone: None,
        })
    }

    /// Hands to the connection what it takes.
    fn send(&mut self, cx: &mut Context<'_>) {
        if let Some(sending) = &mut self.sending
            && sending.as_mut().poll(cx).is_ready()
        {
            self.sending = None;
            if !self.is_shut && self.peer == Peer::Client {
                // hyper gives the error once, and after that all is as it would be anyway: nothing can be told.
                let error = Pin::new(&mut self.io).poll_shutdown(cx);
                self.gone = Some(match error {
                    Poll::Ready(Err(error)) if cause::<h2::Error>(&error).is_some_and(|h2| !h2.is_reset()) => {
                        Gone::Away
                    }
                    _ => Gone::Reset,
                });
            }
        }
    }

    /// Whether the peer has said that it hears no more, by what came of telling it something. hyper gives that error once.
    fn lets_go(&mut self, error: &io::Error) -> bool {
        self.is_let_go |= self.peer == Peer::Server
            && cause::<h2::Error>(error).and_then(h2::Error::reason) == Some(h2::Reason::NO_ERROR);
        self.is_let_go
    }
}

impl Duplex for StreamTunnel {
    fn gone(&self) -> Option<Gone> {
        self.gone
    }

    fn may_hold(&self) -> bool {
        true
    }

    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.send(cx);
    }

    fn cut(&mut self) {
        self.sending = None;
    }
}

impl AsyncRead for StreamTunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 && !self.is_shut {
            // hyper takes a stream that is reset with CANCEL for one that is over. What sends on it knows.
            self.send(cx);
            // To a stream that was reset the end changes nothing, and the error tells how it was, unless a write heard of it.
            if self.sending.is_none() && !self.is_let_go {
                match Pin::new(&mut self.io).poll_shutdown(cx) {
                    Poll::Ready(Err(error)) if self.lets_go(&error) => {}
                    _ => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamTunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.send(cx);
        if written.is_pending() {
            // There may be room by now.
            written = Pin::new(&mut self.io).poll_write(cx, bytes);
            self.send(cx);
        }
        match written {
            Poll::Ready(Err(error)) if self.lets_go(&error) => Poll::Ready(Ok(bytes.len())),
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send(cx);
        if self.gone.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Err(error)) if self.lets_go(&error) => Poll::Ready(Ok(())),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.is_shut = true;
        let mut shut = Pin::new(&mut self.io).poll_shutdown(cx);
        if shut.is_pending() {
            self.send(cx);
            shut = Pin::new(&mut self.io).poll_shutdown(cx);
        }
        match shut {
            // Who hears no more needs no end.
            Poll::Ready(Err(error)) if self.lets_go(&error) => Poll::Ready(Ok(())),
            shut => shut,
        }
    }
}
