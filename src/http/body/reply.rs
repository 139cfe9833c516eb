//! A response body as the upstream sends it, and the connection that it holds meanwhile.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::{BodyError, pause_over};
use crate::timer::Timer;

/// What a response body holds while it is read, and gives back when it has been read to its end: the connection that
/// it comes from. Dropped unread, the lease is dropped and its connection closes.
pub trait Lease {
    /// The body was read to its end.
    fn give_back(self: Rc<Self>);

    /// The upstream broke the body off, or sent no more of it.
    fn broke_off(&self) {}

    /// These fields came after the body.
    fn ended(&self, _trailers: &HeaderMap) {}

    /// Nobody reads `rest` of the body, of which nothing but its end is to come.
    fn part(self: Rc<Self>, _rest: Incoming) {}
}

/// A connection that carries one exchange at a time, as the body of its answer sees it.
pub trait Channel: Lease {
    /// What comes next of the body.
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;

    /// Whether nothing more comes.
    fn is_end_stream(&self) -> bool;

    /// How long the rest is, as far as that is known.
    fn size_hint(&self) -> SizeHint;
}

/// Where the body of an upstream's answer comes from, and the connection that it holds.
pub enum Feed {
    /// A connection that carries nothing else meanwhile.
    Channel(Rc<dyn Channel>),
    /// A stream of an HTTP/2 connection.
    Stream(Incoming, Rc<dyn Lease>),
}

impl Feed {
    fn lease(&self) -> &dyn Lease {
        match self {
            Self::Channel(channel) => &**channel,
            Self::Stream(_, lease) => &**lease,
        }
    }

    /// The body was read to its end.
    pub fn give_back(self) {
        match self {
            Self::Channel(channel) => channel.give_back(),
            Self::Stream(_, lease) => lease.give_back(),
        }
    }

    /// What comes next of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let incoming = match self {
            Self::Channel(channel) => return channel.poll_frame(cx),
            Self::Stream(incoming, _) => incoming,
        };
        Poll::Ready(match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            // hyper takes a stream that is reset with NO_ERROR for one that is over (RFC 9113 §8.1), also where its end
            // had not come.
            None if !incoming.is_end_stream() => Some(Err(BodyError::UpstreamCut)),
            None => None,
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => {
                tracing::debug!(%error, "upstream body broke off");
                Some(Err(BodyError::UpstreamCut))
            }
        })
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Channel(channel) => channel.is_end_stream(),
            Self::Stream(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Channel(channel) => channel.size_hint(),
            Self::Stream(incoming, _) => incoming.size_hint(),
        }
    }
}

/// A response body as the upstream sends it.
pub struct Reply {
    /// None once the body was read to its end or broke off: the connection is somebody else's then.
    feed: Option<Feed>,
    is_whole: bool,
    idle: Timer,
    idle_max: Duration,
    end: Option<Timer>,
}

impl Reply {
    /// Reads `feed`. A pause longer than `idle_max` is an error.
    pub fn new(feed: Feed, idle: Timer, idle_max: Duration) -> Self {
        let is_whole = feed.is_end_stream();
        let mut reply = Self { feed: Some(feed), is_whole, idle, idle_max, end: None };
        if is_whole {
            reply.finish();
        }
        reply
    }

    /// Breaks it off when `end`, which is armed, expires.
    pub fn ends_with(&mut self, end: Timer) {
        self.end = Some(end);
    }

    fn finish(&mut self) {
        self.is_whole = true;
        self.end = None;
        self.idle.disarm();
        if let Some(feed) = self.feed.take() {
            feed.give_back();
        }
    }

    fn break_off(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.lease().broke_off();
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_whole || self.feed.as_ref().is_some_and(Feed::is_end_stream)
    }

    /// Whether all that was announced of it was read.
    fn is_read(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.feed {
            Some(feed) => feed.size_hint(),
            None if self.is_whole => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.end.as_mut().is_some_and(|end| end.poll_expired(cx).is_ready()) {
            (self.end, self.feed) = (None, None);
            return Poll::Ready(Some(Err(BodyError::CredentialEnded)));
        }
        let Some(feed) = &mut self.feed else {
            return Poll::Ready(if self.is_whole { None } else { Some(Err(BodyError::UpstreamCut)) });
        };
        match feed.poll_frame(cx) {
            Poll::Pending => {
                ready!(pause_over(&mut self.idle, self.idle_max, cx));
                self.break_off();
                Poll::Ready(Some(Err(BodyError::UpstreamSlow)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.disarm();
                if let Some(trailers) = frame.trailers_ref() {
                    feed.lease().ended(trailers);
                }
                // Nobody asks for more after trailers.
                if frame.is_trailers() || feed.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.break_off();
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Where a length was announced nobody waits for an end that comes in a frame of its own, and that breaks nothing off.
        if self.is_read()
            && let Some(Feed::Stream(rest, lease)) = self.feed.take()
        {
            lease.part(rest);
        }
    }
}
