//! A request body as the client sends it: bounded, counted, and kept for a second try while it is small.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::replay::Replay;
use super::resumed::Resumed;
use super::{BodyError, pause_over};
use crate::http::framing::Violation;
use crate::http::headers::strip_trailers;
use crate::http::inflow::Inflow;
use crate::http::pace::{Pace, Rate};
use crate::http::reserved::Reserved;
use crate::timer::{Timer, Wheel};

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
    /// Who answered was done before all of it had gone out to there, and the rest never does.
    pub cut: Cell<bool>,
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

    /// Lowers the bound on what is still to come. Whether it was higher.
    pub fn limit(&mut self, max: u64) -> bool {
        let is_lower = max < self.left;
        self.left = self.left.min(max);
        is_lower
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

    /// The body with what has passed of it before what is still to come.
    pub(super) fn behind(mut self, ahead: Bytes) -> Self {
        let incoming = std::mem::replace(&mut self.incoming, Arriving::None);
        self.incoming = Resumed::behind(ahead, incoming);
        if self.is_end_stream() {
            self.inbound.end();
        }
        self
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
                // What is one too many came as well.
                self.inbound.bytes.set(self.inbound.bytes.get() + length);
                if length > self.left {
                    return Poll::Ready(Err(self.fail(BodyError::TooLarge)));
                }
                self.left -= length;
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

    pub(super) fn is_end_stream(&self) -> bool {
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
        if is_over || self.recode.is_some() || keep.is_overflowed() || Rc::strong_count(&keep) == 1 {
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
        keep.leave(rest);
    }
}

fn client_error(violation: Option<Violation>) -> BodyError {
    match violation {
        Some(violation) if violation.status() == 408 => BodyError::ClientSlow,
        Some(_) => BodyError::ClientMalformed,
        None => BodyError::ClientCut,
    }
}
