//! Streams of an HTTP/2 connection whose answer is read, and whose end is to come: a peer may send that in a frame of its own.
//!
//! To reset such a stream would tell the peer that its answer was not wanted. So the connection's task awaits the end for a
//! while, for a bounded number of them.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body::Body as _;
use hyper::body::Incoming;

use super::http2::Stream;
use crate::timer::Timer;

/// How long an end is awaited. For that long the stream takes its place on the connection.
const WAIT: Duration = Duration::from_secs(1);

/// How many are awaited at once on a connection.
const PARTINGS_MAX: usize = 32;

/// One of them.
struct Parting {
    rest: Incoming,
    timer: Timer,
    _stream: Rc<Stream>,
}

/// Those of a connection.
#[derive(Default)]
pub(super) struct Partings {
    all: RefCell<Vec<Parting>>,
    /// Has the connection's task look.
    look: RefCell<Option<Waker>>,
    is_over: Cell<bool>,
}

impl Partings {
    /// One more. Beyond the bound, and on a connection that has ended, it is reset.
    pub(super) fn add(&self, rest: Incoming, stream: Rc<Stream>, mut timer: Timer) {
        if self.is_over.get() || self.all.borrow().len() >= PARTINGS_MAX {
            return;
        }
        timer.arm(WAIT);
        self.all.borrow_mut().push(Parting { rest, timer, _stream: stream });
        if let Some(look) = &*self.look.borrow() {
            look.wake_by_ref();
        }
    }

    /// Lets those go that are over. To be asked by the connection's task, which is woken for them.
    pub(super) fn poll(&self, cx: &mut Context<'_>) {
        {
            let mut look = self.look.borrow_mut();
            if !look.as_ref().is_some_and(|look| look.will_wake(cx.waker())) {
                *look = Some(cx.waker().clone());
            }
        }
        if self.all.borrow().is_empty() {
            return;
        }
        // Dropped where nothing of this is held: the last of a connection takes that along.
        let over: Vec<Parting> = self.all.borrow_mut().extract_if(.., |parting| parting.is_over(cx)).collect();
        drop(over);
    }

    /// The connection has ended.
    pub(super) fn end(&self) {
        self.is_over.set(true);
        let left = self.all.take();
        drop(left);
    }
}

impl Parting {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match Pin::new(&mut self.rest).poll_frame(cx) {
                // Data would be more than was announced, which h2 refuses; trailers come last.
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return self.timer.poll_expired(cx).is_ready(),
            }
        }
    }
}
