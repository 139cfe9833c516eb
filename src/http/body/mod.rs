//! The one body type of armiger: what a client sends upstream and what goes back, streamed and never spooled.

use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http::encoded::Encoded;
use crate::http::tunnel::Duplex;
use crate::timer::Timer;

mod received;
mod replay;
mod reply;
mod resumed;

pub use received::{Arriving, Inbound, Received, Recode};
pub use replay::Replay;
pub use reply::{Channel, Feed, Lease, Reply};

/// A request or response body.
///
/// An enum and not a boxed trait object: the two streaming kinds are what every exchange uses.
#[derive(Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// Bytes that are all here.
    Full(Bytes),
    /// A request body as the client sends it.
    Received(Received),
    /// A response body as the upstream sends it.
    Reply(Reply),
    /// A response body from elsewhere, such as one that several exchanges read.
    Other(Box<dyn Source>),
    /// A response body in a content coding.
    Encoded(Box<Encoded>),
    /// No body: the connection leaves HTTP with this answer.
    Tunnel(Box<Tunnel>),
}

/// Where a response body comes from that is none of the usual kinds.
pub trait Source: http_body::Body<Data = Bytes, Error = BodyError> + Unpin {}

impl<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin> Source for B {}

/// The far side of a tunnel: what an upstream's connection became by a 101.
pub struct Tunnel {
    /// The connection.
    pub io: Box<dyn Duplex>,
    /// What came of it behind the 101.
    pub ahead: Bytes,
    /// How long it may be silent both ways.
    pub idle: Duration,
    /// When it ends at the latest, if it does; armed.
    pub end: Option<Timer>,
    /// Holds what the exchange holds of its upstream.
    pub lease: Rc<dyn Lease>,
    /// The far side was told of the end. Before, it sees a cut.
    pub is_over: bool,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.is_over {
            self.io.cut();
        }
    }
}

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The request body is longer than allowed.
    #[error("the request body is longer than allowed")]
    TooLarge,
    /// The client sent nothing for too long.
    #[error("the client sent nothing for too long")]
    ClientSlow,
    /// The client sends, and too slowly.
    #[error("the client sends too slowly")]
    ClientTooSlow,
    /// The client broke the framing of its body.
    #[error("the client broke the framing of its body")]
    ClientMalformed,
    /// The client went away within its body.
    #[error("the client went away within its body")]
    ClientCut,
    /// The upstream sent nothing for too long.
    #[error("the upstream sent nothing for too long")]
    UpstreamSlow,
    /// What the caller proved has ended, and an answer without an end of its own with it.
    #[error("the caller's credential has ended")]
    CredentialEnded,
    /// The client fell too far behind others that read the same answer.
    #[error("the client fell too far behind others that read the same answer")]
    Outrun,
    /// The upstream broke off, or broke its framing.
    #[error("the upstream broke off within its answer")]
    UpstreamCut,
}

impl Body {
    /// A body of these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Received(received) => received.poll_frame(cx),
            Self::Reply(reply) => reply.poll_frame(cx),
            Self::Other(source) => Pin::new(source).poll_frame(cx),
            Self::Encoded(encoded) => encoded.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Received(received) => received.is_end_stream(),
            Self::Reply(reply) => reply.is_end_stream(),
            Self::Other(source) => source.is_end_stream(),
            Self::Encoded(encoded) => encoded.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Received(received) => received.size_hint(),
            Self::Reply(reply) => reply.size_hint(),
            Self::Other(source) => source.size_hint(),
            Self::Encoded(encoded) => encoded.size_hint(),
        }
    }
}

/// Ready when a pause, which begins with the first call after `timer` was disarmed, has lasted `max`.
fn pause_over(timer: &mut Timer, max: Duration, cx: &mut Context<'_>) -> Poll<()> {
    // Asked before it is armed: a timer that expired counts as unarmed.
    let polled = timer.poll_expired(cx);
    if polled.is_pending() && !timer.is_armed() {
        timer.arm(max);
    }
    polled
}

/// Looks for a cause of type `T` in an error and what is behind it.
pub fn cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
