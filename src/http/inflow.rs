//! A request body on HTTP/1.1, between the connection that reads it and whoever it is for.
//!
//! The connection alone reads its socket, and only as much as the reader asks for: what nobody wants stays with the kernel,
//! and with the client.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::framing::Violation;

/// The reader's side of a request body.
pub struct Inflow(Rc<Flow>);

/// The connection's side of it. Dropped before the end, it is a body that was cut.
pub struct Feed(Rc<Flow>);

struct Flow {
    /// Data that the reader has not taken yet.
    data: Cell<Option<Bytes>>,
    trailers: Cell<Option<HeaderMap>>,
    end: Cell<End>,
    /// What the reader has still to take, where the request told.
    left: Cell<Option<u64>>,
    is_wanted: Cell<bool>,
    has_reader: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    feeder: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Over,
    /// By a violation, or because the client went away.
    Broken(Option<Violation>),
}

/// A body of so many bytes, or of as many as there will be.
pub fn inflow(length: Option<u64>) -> (Feed, Inflow) {
    let flow = Rc::new(Flow {
        data: Cell::default(),
        trailers: Cell::default(),
        end: Cell::new(End::Open),
        left: Cell::new(length),
        is_wanted: Cell::new(false),
        has_reader: Cell::new(true),
        reader: RefCell::default(),
        feeder: RefCell::default(),
    });
    (Feed(flow.clone()), Inflow(flow))
}

impl Inflow {
    /// The next part. An error names the violation, or none if the client went away.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Option<Violation>>>> {
        let flow = &*self.0;
        if let Some(data) = flow.data.take() {
            flow.left.set(flow.left.get().map(|left| left.saturating_sub(data.len() as u64)));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = flow.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match flow.end.get() {
            End::Over => Poll::Ready(None),
            End::Broken(violation) => Poll::Ready(Some(Err(violation))),
            End::Open => {
                remember(&flow.reader, cx);
                // Told once for each piece. Most often both sides are one task, which would wake itself for ever.
                if !flow.is_wanted.replace(true) {
                    wake(&flow.feeder);
                }
                Poll::Pending
            }
        }
    }

    /// Whether the client has sent all of it, read or not.
    pub fn is_here(&self) -> bool {
        self.0.end.get() == End::Over
    }

    /// Whether nothing comes any more.
    pub fn is_end_stream(&self) -> bool {
        let flow = &*self.0;
        let (data, trailers) = (flow.data.take(), flow.trailers.take());
        let is_over = flow.end.get() == End::Over && data.is_none() && trailers.is_none();
        flow.data.set(data);
        flow.trailers.set(trailers);
        is_over
    }

    /// How much is still to come, if that is known.
    pub fn size_hint(&self) -> SizeHint {
        self.0.left.get().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        self.0.has_reader.set(false);
        self.0.is_wanted.set(false);
        self.0.data.take();
        wake(&self.0.feeder);
    }
}

impl Feed {
    /// Whether the reader waits for more. The task is woken once it does, or is gone.
    pub fn is_wanted(&self, cx: &mut Context<'_>) -> bool {
        remember(&self.0.feeder, cx);
        self.0.is_wanted.get()
    }

    /// Whether there is anybody to read it.
    pub fn has_reader(&self) -> bool {
        self.0.has_reader.get()
    }

    /// Gives data. To be called when it is wanted, and once before.
    pub fn push(&self, data: Bytes) {
        if self.has_reader() && !data.is_empty() {
            self.0.data.set(Some(data));
        }
        self.tell();
    }

    /// Nothing comes but these trailers.
    pub fn end(&self, trailers: Option<HeaderMap>) {
        if self.has_reader() {
            self.0.trailers.set(trailers);
        }
        self.0.end.set(End::Over);
        self.tell();
    }

    /// The body is broken off by a violation, or because the client is gone.
    pub fn fail(&self, violation: Option<Violation>) {
        if self.0.end.get() == End::Open {
            self.0.end.set(End::Broken(violation));
            self.tell();
        }
    }

    fn tell(&self) {
        self.0.is_wanted.set(false);
        wake(&self.0.reader);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.fail(None);
    }
}

fn remember(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut place = place.borrow_mut();
    match &*place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

fn wake(place: &RefCell<Option<Waker>>) {
    // Taken first: whom it wakes may come back here.
    let waker = place.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    fn poll(inflow: &mut Inflow) -> Poll<Option<Result<Frame<Bytes>, Option<Violation>>>> {
        inflow.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn is_wanted(feed: &Feed) -> bool {
        feed.is_wanted(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn nothing_is_asked_of_the_client_before_somebody_reads() {
        let (feed, mut inflow) = inflow(Some(2));
        assert!(!is_wanted(&feed));
        assert!(poll(&mut inflow).is_pending());
        assert!(is_wanted(&feed));
        feed.push(Bytes::from_static(b"ab"));
        feed.end(None);
        assert!(!is_wanted(&feed));
        assert!(!inflow.is_end_stream());
        assert_eq!(inflow.size_hint().exact(), Some(2));
        assert!(matches!(poll(&mut inflow), Poll::Ready(Some(Ok(frame))) if frame.data_ref().unwrap() == "ab"));
        assert!(inflow.is_end_stream());
        assert!(matches!(poll(&mut inflow), Poll::Ready(None)));
    }

    #[test]
    fn who_reads_and_feeds_in_one_task_does_not_wake_itself_while_the_client_is_silent() {
        struct Wakes(AtomicUsize);
        impl Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Waker::from(wakes.clone());
        let cx = &mut Context::from_waker(&waker);
        let (feed, mut inflow) = inflow(Some(4));
        let told = |feed: &Feed, inflow: &mut Inflow, cx: &mut Context<'_>| {
            (0..3).for_each(|_| {
                assert!(inflow.poll_frame(cx).is_pending());
                assert!(feed.is_wanted(cx));
            });
            wakes.0.swap(0, Ordering::Relaxed)
        };
        assert!(!feed.is_wanted(cx));
        assert_eq!(told(&feed, &mut inflow, cx), 1, "who feeds is told that somebody reads");
        feed.push(Bytes::from_static(b"ab"));
        assert_eq!(wakes.0.swap(0, Ordering::Relaxed), 1, "who reads is told that there is something");
        assert!(inflow.poll_frame(cx).is_ready());
        assert_eq!(told(&feed, &mut inflow, cx), 1, "and of the next piece again");
    }

    #[test]
    fn trailers_come_last() {
        let (feed, mut inflow) = inflow(None);
        feed.push(Bytes::from_static(b"ab"));
        feed.end(Some(HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))])));
        assert!(matches!(poll(&mut inflow), Poll::Ready(Some(Ok(frame))) if frame.is_data()));
        assert!(!inflow.is_end_stream());
        assert!(matches!(poll(&mut inflow), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
        assert!(matches!(poll(&mut inflow), Poll::Ready(None)));
    }

    #[test]
    fn a_connection_that_is_gone_is_no_end() {
        let (feed, mut inflow) = inflow(Some(5));
        feed.push(Bytes::from_static(b"ab"));
        drop(feed);
        assert!(matches!(poll(&mut inflow), Poll::Ready(Some(Ok(_)))));
        assert!(!inflow.is_end_stream());
        assert!(matches!(poll(&mut inflow), Poll::Ready(Some(Err(None)))));
    }

    #[test]
    fn the_connection_hears_of_a_reader_that_waits_no_longer() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let woken = std::sync::Arc::new(Woken(false.into()));
        let (feed, mut inflow) = inflow(Some(5));
        assert!(poll(&mut inflow).is_pending());
        assert!(feed.is_wanted(&mut Context::from_waker(&woken.clone().into())));
        drop(inflow);
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        assert!(!is_wanted(&feed));
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let (feed, inflow) = inflow(Some(5));
        drop(inflow);
        assert!(!feed.has_reader());
        feed.push(Bytes::from_static(b"ab"));
        assert!(feed.0.data.take().is_none());
    }
}
