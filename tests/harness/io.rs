//! The socket of a lawful back end: its first bytes given back, the heads of its requests kept as they came.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::message::HeadSplitter;

/// A socket whose first bytes were read already.
pub struct Noted {
    pub stream: TcpStream,
    pub ahead: Bytes,
    /// Where the heads go, if it speaks HTTP/1.
    pub heads: Option<Arc<Mutex<HeadSplitter>>>,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            buffer.put_slice(&this.ahead.split_to(this.ahead.len().min(buffer.remaining())));
        }
        if let Some(heads) = &this.heads {
            heads.lock().expect("no panic while heads are split").feed(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tasks that stay on a back end's thread.
#[derive(Clone, Copy)]
pub struct SpawnLocal;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for SpawnLocal {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
