//! hyper's needs of a runtime that hyper-util does not meet: tasks that stay on their thread, and bytes put back.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gate::Scratch;
use super::http2::Outgoing;
use crate::http::tunnel::Sender;

/// Spawns on the worker's own thread. The tasks are streams of one HTTP/2 connection and end with it, or when their
/// client has taken nothing of the answer for too long. What sends on a stream that becomes a tunnel is no task.
#[derive(Clone)]
pub(super) struct LocalExecutor {
    /// The answer of the stream that hyper spawns next: it asks the service for a future and spawns it at once.
    pub(super) next: Rc<Cell<Option<Rc<Outgoing>>>>,
    /// Whose is what hyper spawns next, of a stream that becomes a tunnel: it does so as soon as it has the answer.
    pub(super) next_tunnel: Rc<Cell<Option<Sender>>>,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        if let Some(sender) = self.next_tunnel.take() {
            return sender.put(future);
        }
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

/// How much is gathered before it is written: HTTP/2 hands over each frame by itself, of which most have 16 KiB.
const GATHERED_MAX: usize = 64 * 1024;

/// The stream of an HTTP/2 connection: bytes in front of it that were read before, and frames that go out together. What is
/// written or flushed stays here until [`Self::poll_out`] is called, or there is too much of it.
pub(super) struct Rewound<S> {
    prefix: Vec<u8>,
    given: usize,
    /// What is to be written, from `at` on. Without room unless something waits.
    out: Vec<u8>,
    at: usize,
    is_flushed: bool,
    scratch: Scratch,
    written: u64,
    is_stuck: bool,
    io: S,
}

impl<S> Rewound<S> {
    pub(super) fn new(io: S, prefix: Vec<u8>, scratch: Scratch) -> Self {
        let (out, is_flushed) = (Vec::new(), true);
        Self { prefix, given: 0, out, at: 0, is_flushed, scratch, written: 0, is_stuck: false, io }
    }

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

    /// Takes so many bytes of these to go out with what is there.
    fn gather(&mut self, slices: &[IoSlice<'_>]) -> usize {
        if self.out.capacity() == 0 {
            self.out = self.scratch.take_out();
        }
        let before = self.out.len();
        for slice in slices {
            let room = GATHERED_MAX - self.out.len();
            self.out.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.out.len() - before
    }

    /// The stream, without the bytes in front.
    pub(super) fn into_inner(self) -> S {
        self.io
    }
}

impl<S: AsyncWrite + Unpin> Rewound<S> {
    /// Writes what was gathered, and flushes it.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.out[self.at..]);
            match ready!(self.note(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.at += length,
            }
        }
        if self.out.capacity() > 0 {
            self.scratch.spare_out(std::mem::take(&mut self.out));
            self.at = 0;
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
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
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for behind each frame: whoever polls the connection does it behind all of them.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.out.len() + length > GATHERED_MAX {
            ready!(this.poll_out(cx))?;
        }
        this.is_flushed = false;
        if length > GATHERED_MAX {
            let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
            return this.note(written);
        }
        Poll::Ready(Ok(this.gather(slices)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what is written, and takes only so much.
    #[derive(Default)]
    struct Sink {
        writes: Vec<usize>,
        flushes: usize,
        room: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes.push(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn stream(room: usize) -> Rewound<Sink> {
        Rewound::new(Sink { room, ..Sink::default() }, Vec::new(), Scratch::default())
    }

    fn write(stream: &mut Rewound<Sink>, length: usize) -> Poll<usize> {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let bytes = vec![7; length];
        let written =
            Pin::new(&mut *stream).poll_write_vectored(cx, &[IoSlice::new(&bytes[..9]), IoSlice::new(&bytes[9..])]);
        let _ = Pin::new(stream).poll_flush(cx);
        written.map(Result::unwrap)
    }

    fn out(stream: &mut Rewound<Sink>) -> bool {
        stream.poll_out(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn frames_go_out_together_and_no_more_of_them_are_held_than_that() {
        let mut stream = stream(usize::MAX);
        for _ in 0..3 {
            assert_eq!(write(&mut stream, 16_393), Poll::Ready(16_393));
        }
        assert!(stream.io.writes.is_empty(), "not before all of them are there");
        assert!(out(&mut stream) && out(&mut stream));
        assert_eq!((&stream.io.writes[..], stream.io.flushes, stream.written()), (&[3 * 16_393][..], 1, 3 * 16_393));
        assert_eq!(stream.out.capacity(), 0, "at rest it has no room");

        for _ in 0..5 {
            assert_eq!(write(&mut stream, 16_393), Poll::Ready(16_393));
        }
        assert_eq!(stream.io.writes[1..], [3 * 16_393]);
        // What is too much by itself goes out at once, behind what was there.
        assert_eq!(write(&mut stream, 100_000), Poll::Ready(9));
        assert_eq!(stream.io.writes[1..], [3 * 16_393, 2 * 16_393, 9]);
        assert!(out(&mut stream));
    }

    #[test]
    fn who_takes_nothing_is_given_no_more_than_fits() {
        let mut stream = stream(10);
        for _ in 0..3 {
            assert_eq!(write(&mut stream, 16_393), Poll::Ready(16_393));
        }
        assert_eq!((write(&mut stream, 20_000), stream.is_stuck(), stream.written()), (Poll::Pending, true, 10));
        stream.io.room = 3 * 16_393;
        assert!(out(&mut stream) && !stream.is_stuck());
        assert_eq!((stream.written(), stream.out.capacity()), (3 * 16_393, 0));
    }
}
