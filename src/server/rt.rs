//! hyper's needs of a runtime that hyper-util does not meet: tasks that stay on their thread, and bytes put back.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Outgoing;

/// Spawns on the worker's own thread. The tasks are streams of one HTTP/2 connection and end with it, or when their
/// client has taken nothing of the answer for too long.
#[derive(Clone)]
pub(super) struct LocalExecutor {
    /// The answer of the stream that hyper spawns next: it asks the service for a future and spawns it at once.
    pub(super) next: Rc<Cell<Option<Rc<Outgoing>>>>,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        let outgoing = self.next.take();
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            poll_fn(|cx| match future.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => outgoing.as_ref().map_or(Poll::Pending, |outgoing| outgoing.poll(cx)),
            })
            .await;
        });
    }
}

/// A stream with bytes in front that were read before.
pub(super) struct Rewound<S> {
    prefix: Vec<u8>,
    given: usize,
    written: u64,
    is_stuck: bool,
    io: S,
}

impl<S> Rewound<S> {
    pub(super) fn new(io: S, prefix: Vec<u8>) -> Self {
        Self { prefix, given: 0, written: 0, is_stuck: false, io }
    }
}

impl<S> Rewound<S> {
    pub(super) fn get_ref(&self) -> &S {
        &self.io
    }

    /// Bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether it took nothing of what was to be written last.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    fn note(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.is_stuck = written.is_pending();
        if let Poll::Ready(Ok(length)) = &written {
            self.written += *length as u64;
        }
        written
    }

    /// The stream, without the bytes in front.
    pub(super) fn into_inner(self) -> S {
        self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = &this.prefix[this.given..];
        if rest.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        this.given += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.note(written)
    }
}

/// A stream lent to hyper, which does not give back what it is given.
pub(super) struct Lent<S>(pub(super) Rc<RefCell<S>>);

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)
    }
}
