//! The one body type of armiger: what a client sends upstream and what goes back, streamed and never spooled.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use super::encoded::Encoded;
use super::framing::Violation;
use super::headers::strip_trailers;
use super::inflow::Inflow;
use super::pace::{Pace, Rate};
use super::reserved::Reserved;
use super::resumed::Resumed;
use crate::timer::{Timer, Wheel};

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
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

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

/// A request body as it comes of the client's connection.
pub enum Arriving {
    /// There is none.
    None,
    /// Of an HTTP/1 connection.
    Http1(Inflow),
    /// Of a stream of HTTP/2.
    Http2(Incoming),
    /// Behind what came of it before.
    Resumed(Box<Resumed>),
}

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::None => Poll::Ready(None),
            Self::Http1(inflow) => inflow.poll_frame(cx).map_err(client_error),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(|_| BodyError::ClientCut),
            Self::Resumed(resumed) => resumed.rest.poll_frame(cx),
        }
    }

    /// Whether nothing comes any more.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Http1(inflow) => inflow.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Resumed(resumed) => resumed.is_end_stream(),
        }
    }

    /// Whether nothing of it is still to come from the client.
    pub(super) fn is_here(&self) -> bool {
        match self {
            Self::Http1(inflow) => inflow.is_here(),
            Self::Resumed(resumed) => resumed.rest.is_here(),
            incoming => incoming.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Http1(inflow) => inflow.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
            Self::Resumed(resumed) => resumed.size_hint(),
        }
    }
}

/// What is known of a request body while somebody else reads it. Shared by the exchange, which reports it, and the
/// [`Received`] body, which moved into the upstream's connection.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Bytes read so far.
    pub bytes: Cell<u64>,
    /// The body was read to its end.
    pub ended: Cell<bool>,
    /// When.
    pub ended_at: Cell<Option<Instant>>,
    /// Why it was not.
    pub error: Cell<Option<BodyError>>,
    /// Its reader waits for the client.
    pub waits: Cell<bool>,
    /// How fast the client must be.
    pace: RefCell<Option<(Pace, Wheel)>>,
}

impl Inbound {
    /// The body was read to its end.
    fn end(&self) {
        if !self.ended.replace(true) {
            self.ended_at.set(Some(Instant::now()));
        }
    }

    /// The client is not waited for, though it has sent nothing more.
    fn pause(&self) {
        self.waits.set(false);
        if let Some((pace, wheel)) = &mut *self.pace.borrow_mut() {
            pace.pause(wheel.now());
        }
    }

    /// Whether the client is fast enough, by what came of asking for more.
    fn keeps_pace(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) -> bool {
        let mut pace = self.pace.borrow_mut();
        let Some((pace, wheel)) = &mut *pace else { return true };
        match polled {
            Poll::Pending => {
                if !pace.is_waiting() {
                    pace.waits(wheel.now());
                }
                true
            }
            Poll::Ready(Some(Ok(frame))) => {
                pace.count(frame.data_ref().map_or(0, Bytes::len));
                !pace.is_waiting() || pace.resumes(wheel.now())
            }
            // It is over.
            Poll::Ready(_) => true,
        }
    }
}

/// Makes of a request body's bytes what they stand for.
pub trait Recode {
    /// What these bytes stand for, as far as it can be told; of the last ones, all.
    ///
    /// # Errors
    /// They stand for nothing.
    fn feed(&mut self, bytes: &[u8], is_last: bool) -> Result<Bytes, BodyError>;
}

/// A request body as the client sends it: bounded, counted, and kept for a second try while it is small.
pub struct Received {
    incoming: Arriving,
    left: u64,
    inbound: Rc<Inbound>,
    keep: Option<Rc<Replay>>,
    copy: Option<Rc<Replay>>,
    /// Given on HTTP/2.
    idle: Option<(Timer, Duration)>,
    /// Makes of what comes what is passed on.
    recode: Option<Box<dyn Recode>>,
    /// What its trailers must not bring.
    reserved: Option<Arc<Reserved>>,
}

impl Received {
    /// Reads `incoming` up to `max` bytes.
    pub fn new(incoming: Arriving, max: u64) -> Self {
        let inbound = Rc::<Inbound>::default();
        // A body that is over from the start is never polled.
        inbound.ended.set(incoming.is_end_stream());
        Self { incoming, left: max, inbound, keep: None, copy: None, idle: None, recode: None, reserved: None }
    }

    /// Ends it at a pause longer than `max`, where nobody below watches for one.
    pub fn watch(&mut self, timer: Timer, max: Duration) {
        self.idle = Some((timer, max));
    }

    /// Ends it if its client is slower than this.
    pub fn keep_pace(&mut self, rate: Rate, wheel: Wheel) {
        if rate.min > 0 {
            self.inbound.pace.replace(Some((Pace::new(rate), wheel)));
        }
    }

    /// Passes on what `recode` makes of it. The bound counts what comes.
    pub fn recode(&mut self, recode: Box<dyn Recode>) {
        self.recode = Some(recode);
    }

    /// Takes these out of its trailers.
    pub fn reserve(&mut self, reserved: Arc<Reserved>) {
        self.reserved = Some(reserved);
    }

    /// Lowers the bound on what is still to come.
    pub fn limit(&mut self, max: u64) {
        self.left = self.left.min(max);
    }

    /// The length that the request announced, if it did.
    pub fn announced(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Whether nothing of it is still to come from the client.
    pub fn is_here(&self) -> bool {
        self.incoming.is_here()
    }

    /// What is known of it while it is read.
    pub fn inbound(&self) -> &Rc<Inbound> {
        &self.inbound
    }

    /// Keeps what passes, so that the body can be sent again as long as it fits `max` bytes.
    pub fn keep(&mut self, max: usize) -> Rc<Replay> {
        let replay = Replay::new(max);
        self.keep = Some(replay.clone());
        replay
    }

    /// Keeps what passes for somebody else, likewise.
    pub fn copy(&mut self, max: usize) -> Rc<Replay> {
        let replay = Replay::new(max);
        self.copy = Some(replay.clone());
        replay
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(frame) = ready!(self.poll_received(cx)?) else { return Poll::Ready(None) };
            // What makes nothing yet is no frame: an empty one would be taken for the end.
            if frame.data_ref().is_none_or(|data| !data.is_empty()) || self.recode.is_none() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.inbound.ended.get() {
                return Poll::Ready(None);
            }
        }
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        if let Arriving::Resumed(resumed) = &mut self.incoming
            && let Some(ahead) = resumed.take_ahead()
        {
            // It was counted when it came, and whoever else keeps it has it.
            if let Some(keep) = &self.keep {
                keep.push(&ahead);
            }
            self.inbound.waits.set(false);
            if self.incoming.is_end_stream() {
                self.inbound.end();
            }
            return Poll::Ready(Ok(Some(Frame::data(ahead))));
        }
        let polled = self.incoming.poll_frame(cx);
        self.inbound.waits.set(polled.is_pending());
        if !self.inbound.keeps_pace(&polled) {
            return Poll::Ready(Err(self.fail(BodyError::ClientTooSlow)));
        }
        if let Some((timer, max)) = &mut self.idle {
            if polled.is_ready() {
                timer.disarm();
            } else {
                ready!(pause_over(timer, *max, cx));
                return Poll::Ready(Err(self.fail(BodyError::ClientSlow)));
            }
        }
        let frame = match ready!(polled) {
            // On HTTP/2 a stream that its client reset with NO_ERROR seems over to hyper, where its end had not come.
            None if self.idle.is_some() && !self.incoming.is_end_stream() => {
                return Poll::Ready(Err(self.fail(BodyError::ClientCut)));
            }
            None => {
                self.recoded(&[], true)?;
                self.inbound.end();
                return Poll::Ready(Ok(None));
            }
            Some(Err(error)) => return Poll::Ready(Err(self.fail(error))),
            Some(Ok(frame)) => self.cleaned(frame),
        };
        // Nobody asks for more after trailers.
        let is_last = self.incoming.is_end_stream() || frame.is_trailers();
        let frame = match frame.into_data() {
            Ok(data) => {
                let length = data.len() as u64;
                if length > self.left {
                    return Poll::Ready(Err(self.fail(BodyError::TooLarge)));
                }
                self.left -= length;
                self.inbound.bytes.set(self.inbound.bytes.get() + length);
                let data = self.recoded(&data, is_last)?.unwrap_or(data);
                for replay in [&self.keep, &self.copy].into_iter().flatten() {
                    // Of no use to this side alone.
                    if Rc::strong_count(replay) > 1 {
                        replay.push(&data);
                    }
                }
                Frame::data(data)
            }
            Err(frame) => {
                self.recoded(&[], true)?;
                // Only bytes are kept, and without its trailers it would be another body.
                if let Some(keep) = &self.keep {
                    keep.overflow();
                }
                frame
            }
        };
        if is_last {
            self.inbound.end();
        }
        Poll::Ready(Ok(Some(frame)))
    }

    /// What is made of these bytes, where anything is.
    fn recoded(&mut self, bytes: &[u8], is_last: bool) -> Result<Option<Bytes>, BodyError> {
        let Some(recode) = &mut self.recode else { return Ok(None) };
        recode.feed(bytes, is_last).map(Some).map_err(|error| self.fail(error))
    }

    fn cleaned(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers);
                if let Some(reserved) = &self.reserved {
                    reserved.clean(&mut trailers);
                }
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }

    fn fail(&self, error: BodyError) -> BodyError {
        self.inbound.error.set(Some(error));
        error
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// How long it is, as far as that is known.
    pub fn size_hint(&self) -> SizeHint {
        if self.recode.is_some() { SizeHint::default() } else { self.incoming.size_hint() }
    }
}

impl Drop for Received {
    /// What is still to come is given back to whoever keeps what has passed.
    fn drop(&mut self) {
        let Some(keep) = self.keep.take() else { return };
        let is_over = self.inbound.ended.get() || self.inbound.error.get().is_some();
        // What is made of the bytes may be half of something.
        if is_over || self.recode.is_some() || keep.overflowed.get() || Rc::strong_count(&keep) == 1 {
            return;
        }
        // Nobody waits for the client until somebody reads on.
        self.inbound.pause();
        if let Some((timer, _)) = &mut self.idle {
            timer.disarm();
        }
        let rest = Self {
            incoming: std::mem::replace(&mut self.incoming, Arriving::None),
            left: self.left,
            inbound: self.inbound.clone(),
            keep: None,
            copy: self.copy.take(),
            idle: self.idle.take(),
            recode: None,
            reserved: self.reserved.take(),
        };
        keep.rest.replace(Some(Box::new(rest)));
    }
}

fn client_error(violation: Option<Violation>) -> BodyError {
    match violation {
        Some(violation) if violation.status() == 408 => BodyError::ClientSlow,
        Some(_) => BodyError::ClientMalformed,
        None => BodyError::ClientCut,
    }
}

/// The part of a request body that has passed, for a second try.
pub struct Replay {
    kept: RefCell<BytesMut>,
    max: usize,
    overflowed: Cell<bool>,
    /// What is still to come, once who read it is gone.
    rest: RefCell<Option<Box<Received>>>,
}

impl Replay {
    fn new(max: usize) -> Rc<Self> {
        let (kept, overflowed, rest) = (RefCell::new(BytesMut::new()), Cell::new(false), RefCell::default());
        Rc::new(Self { kept, max, overflowed, rest })
    }

    fn push(&self, data: &Bytes) {
        if self.overflowed.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        if kept.len() + data.len() > self.max {
            drop(kept);
            self.overflow();
        } else {
            kept.extend_from_slice(data);
        }
    }

    /// It cannot be had again.
    fn overflow(&self) {
        self.overflowed.set(true);
        self.kept.take();
    }

    /// The whole body, if it was read to its end and fitted.
    pub fn take(&self, inbound: &Inbound) -> Option<Bytes> {
        (inbound.ended.get() && !self.overflowed.get()).then(|| self.kept.take().freeze())
    }

    /// The body from its beginning, if what has passed fitted: all of it, or what has passed and then what is still to come, which
    /// whoever read it before reads no more.
    pub fn resume(&self, inbound: &Inbound) -> Option<Body> {
        if let Some(whole) = self.take(inbound) {
            return Some(Body::full(whole));
        }
        let mut rest = *self.rest.take().filter(|_| !self.overflowed.get())?;
        let incoming = std::mem::replace(&mut rest.incoming, Arriving::None);
        rest.incoming = Resumed::behind(self.kept.take().freeze(), incoming);
        if rest.is_end_stream() {
            inbound.end();
        }
        Some(Body::Received(rest))
    }
}

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

    fn is_end_stream(&self) -> bool {
        self.is_whole || self.feed.as_ref().is_some_and(Feed::is_end_stream)
    }

    /// Whether all that was announced of it was read.
    fn is_read(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.feed {
            Some(feed) => feed.size_hint(),
            None if self.is_whole => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
