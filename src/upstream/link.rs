//! The socket of an upstream connection as hyper sees it, and what else must be known of it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;
use super::head;
use crate::timer::Wheel;

/// Writes of several pieces up to this size go out as one.
const FLATTEN_MAX: usize = 4 * 1024;

/// The room for a head that a connection keeps.
const HEAD_KEPT: usize = 1024;

/// A worker's buffer in which small pieces are put together. One for all connections: it is in use only while a write
/// lasts.
#[derive(Clone)]
pub(super) struct Scratch(Rc<RefCell<[u8; FLATTEN_MAX]>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new([0; FLATTEN_MAX])))
    }
}

/// A socket and what is known of it beside hyper. Shared by the pool and the [`Wire`] that hyper owns.
#[derive(Debug)]
pub(super) struct Link {
    stream: RefCell<Stream>,
    read: Cell<u64>,
    written_at: Cell<Instant>,
    is_broken: Cell<bool>,
    /// Who is woken when there is something to read, if not whoever reads.
    reader: RefCell<Option<Waker>>,
    /// The head of the request that was sent last, as hyper wrote it.
    head: RefCell<Vec<u8>>,
    /// The next write begins with a head.
    is_head_due: Cell<bool>,
}

impl Link {
    pub(super) fn new(stream: Stream, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(stream),
            read: Cell::new(0),
            written_at: Cell::new(now),
            is_broken: Cell::new(false),
            reader: RefCell::default(),
            head: RefCell::default(),
            is_head_due: Cell::new(false),
        })
    }

    /// Wakes `reader` from now on when there is something to read.
    pub(super) fn read_by(&self, reader: &Waker) {
        self.reader.replace(Some(reader.clone()));
    }

    /// Wakes whoever reads, from now on.
    pub(super) fn read_by_anyone(&self) {
        self.reader.replace(None);
    }

    /// A request is about to be written: keeps its head.
    pub(super) fn expect_head(&self) {
        self.is_head_due.set(true);
    }

    /// The head of the request that was sent last, if hyper has come to write it.
    pub(super) fn head(&self) -> Option<Parts> {
        if self.is_head_due.get() { None } else { head::read(&self.head.borrow()) }
    }

    /// hyper offers a head whole, as its first piece, before the socket has taken any of it.
    fn keep_head(&self, first: &[u8]) {
        if self.is_head_due.replace(false) {
            let mut head = self.head.borrow_mut();
            head.clear();
            head.shrink_to(HEAD_KEPT);
            head.extend_from_slice(first);
        }
    }

    /// Bytes received so far.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// When the socket last took bytes of a request.
    pub(super) fn written_at(&self) -> Instant {
        self.written_at.get()
    }

    /// Whether reading or writing failed.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Whether the socket is open and has nothing to read: the one state in which a request may be sent.
    ///
    /// Asks the kernel. tokio and hyper learn of a close, or of bytes that nobody asked for, only when the reactor
    /// turns next, and until then a request would go into a dead connection, or take those bytes for its answer.
    pub(super) fn is_quiet(&self) -> bool {
        if self.is_broken.get() {
            return false;
        }
        self.stream.borrow_mut().is_quiet()
    }
}

/// hyper's end of a [`Link`], by way of hyper-util's adaptor: it lets the socket read straight into hyper's buffer.
pub(super) struct Wire {
    link: Rc<Link>,
    wheel: Wheel,
    scratch: Scratch,
}

impl Wire {
    pub(super) fn new(link: Rc<Link>, wheel: Wheel, scratch: Scratch) -> Self {
        Self { link, wheel, scratch }
    }

    fn after_write(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match ready!(outcome) {
            Ok(length) => {
                self.link.written_at.set(self.wheel.now());
                Poll::Ready(Ok(length))
            }
            Err(error) => {
                // hyper would throw everything away. But an upstream that refuses a body early answers first and
                // closes then, so its answer may wait to be read: the read side decides. It wakes the connection,
                // because a socket that cannot be written to any more was reset.
                tracing::debug!(%error, "write to upstream failed");
                self.link.is_broken.set(true);
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let reader = self.link.reader.borrow();
        let mut cx = reader.as_ref().map_or(Context::from_waker(cx.waker()), Context::from_waker);
        if let Err(error) = ready!(self.link.stream.borrow_mut().poll_read(&mut cx, buffer)) {
            self.link.is_broken.set(true);
            return Poll::Ready(Err(error));
        }
        self.link.read.set(self.link.read.get() + (buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link.keep_head(bytes);
        if self.link.is_broken.get() {
            return Poll::Pending;
        }
        let outcome = self.link.stream.borrow_mut().poll_write(cx, bytes);
        self.after_write(outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        if let [first, ..] = slices {
            self.link.keep_head(first);
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length > FLATTEN_MAX {
            if self.link.is_broken.get() {
                return Poll::Pending;
            }
            let outcome = self.link.stream.borrow_mut().poll_write_vectored(cx, slices);
            return self.after_write(outcome);
        }
        let scratch = self.scratch.clone();
        let mut scratch = scratch.0.borrow_mut();
        let mut end = 0;
        for slice in slices {
            scratch[end..end + slice.len()].copy_from_slice(slice);
            end += slice.len();
        }
        self.poll_write(cx, &scratch[..end])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_broken.get() {
            return Poll::Pending;
        }
        let Some(flushed) = self.link.stream.borrow_mut().poll_flush(cx) else {
            return Poll::Ready(Ok(()));
        };
        self.after_write(flushed.map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.stream.borrow_mut().poll_shutdown(cx)
    }
}
