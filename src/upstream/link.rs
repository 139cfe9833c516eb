//! The socket of an upstream connection as hyper sees it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;

/// Writes of several pieces up to this size go out as one.
pub(super) const FLATTEN_MAX: usize = 4 * 1024;

/// A worker's buffer in which small pieces are put together. One for all connections: it is in use only while a write
/// lasts.
#[derive(Clone)]
pub(super) struct Scratch(Rc<RefCell<[u8; FLATTEN_MAX]>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new([0; FLATTEN_MAX])))
    }
}

/// A socket that hyper owns, by way of hyper-util's adaptor: it lets the socket read straight into hyper's buffer.
pub(super) struct Wire {
    stream: Stream,
    scratch: Scratch,
    /// Whether writing failed.
    is_broken: bool,
    /// Whether anybody reads by now.
    is_read: Rc<Cell<bool>>,
}

impl Wire {
    pub(super) fn new(stream: Stream, scratch: Scratch) -> Self {
        Self { stream, scratch, is_broken: false, is_read: Rc::default() }
    }

    /// To be set once somebody reads.
    pub(super) fn is_read(&self) -> Rc<Cell<bool>> {
        self.is_read.clone()
    }

    fn after_write<T>(&mut self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match ready!(outcome) {
            Ok(done) => Poll::Ready(Ok(done)),
            // Or it would never end.
            Err(error) if !self.is_read.get() => Poll::Ready(Err(error)),
            Err(error) => {
                // hyper would throw everything away. But an upstream that refuses a body early answers first and
                // closes then, so its answer may wait to be read: the read side decides. It wakes the connection,
                // because a socket that cannot be written to any more was reset.
                tracing::debug!(%error, "write to upstream failed");
                self.is_broken = true;
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_broken {
            return Poll::Pending;
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.after_write(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length > FLATTEN_MAX {
            if self.is_broken {
                return Poll::Pending;
            }
            let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Pending;
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.after_write(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
