//! A body in a content coding (RFC 9110 §8.4.1), made as it passes: what the other side has sent so far always goes out.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_compression::Level;
use async_compression::brotli::EncoderParams;
use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::body::{Body, BodyError};

/// What is handed on at once.
const CHUNK: usize = 8 * 1024;

/// The window of encoders, as a power of two: 256 KiB. Their own choice would be megabytes for each answer.
const WINDOW: u8 = 18;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// Its name in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// A body in a content coding.
pub struct Encoded {
    encoder: Encoder,
    is_over: bool,
    /// Held until the body is gone.
    _guard: Option<Box<dyn Any>>,
}

enum Encoder {
    Brotli(Box<BrotliEncoder<Source>>),
    Zstd(ZstdEncoder<Source>),
    Gzip(GzipEncoder<Source>),
}

impl Encoded {
    /// Encodes `body`. `guard` is dropped with it.
    pub fn new(body: Body, coding: Coding, guard: Option<Box<dyn Any>>) -> Self {
        let source = Source { body, chunk: Bytes::new(), trailers: None, error: None };
        let encoder = match coding {
            Coding::Brotli => {
                let params = EncoderParams::default().quality(Level::Precise(4)).window_size(WINDOW.into());
                Encoder::Brotli(Box::new(BrotliEncoder::with_params(source, params)))
            }
            Coding::Zstd => {
                let window = CParameter::window_log(WINDOW.into());
                Encoder::Zstd(ZstdEncoder::with_quality_and_params(source, Level::Precise(3), &[window]))
            }
            Coding::Gzip => Encoder::Gzip(GzipEncoder::with_quality(source, Level::Precise(6))),
        };
        Self { encoder, is_over: false, _guard: guard }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            let trailers = self.source().trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let mut out = BytesMut::zeroed(CHUNK);
        let mut buffer = ReadBuf::new(&mut out);
        let length = loop {
            let before = buffer.filled().len();
            match self.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                    self.is_over = true;
                    break before;
                }
                Poll::Ready(Ok(())) if buffer.remaining() > 0 => {}
                Poll::Ready(Ok(())) => break CHUNK,
                Poll::Ready(Err(_)) => {
                    let error = self.source().error.take().unwrap_or(BodyError::UpstreamCut);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending if before > 0 => break before,
                Poll::Pending => return Poll::Pending,
            }
        };
        if length == 0 {
            return self.poll_frame(cx);
        }
        out.truncate(length);
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_over && self.encoder.source().trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }

    /// The body that is encoded.
    pub fn body_mut(&mut self) -> &mut Body {
        &mut self.source().body
    }

    fn source(&mut self) -> &mut Source {
        match &mut self.encoder {
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.encoder {
            Encoder::Brotli(encoder) => Pin::new(encoder).poll_read(cx, buffer),
            Encoder::Zstd(encoder) => Pin::new(encoder).poll_read(cx, buffer),
            Encoder::Gzip(encoder) => Pin::new(encoder).poll_read(cx, buffer),
        }
    }
}

impl Encoder {
    fn source(&self) -> &Source {
        match self {
            Self::Brotli(encoder) => encoder.get_ref(),
            Self::Zstd(encoder) => encoder.get_ref(),
            Self::Gzip(encoder) => encoder.get_ref(),
        }
    }
}

/// What is encoded, as encoders read it. Trailers wait for the end, errors for who asks.
struct Source {
    body: Body,
    chunk: Bytes,
    trailers: Option<HeaderMap>,
    error: Option<BodyError>,
}

impl AsyncBufRead for Source {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.chunk.is_empty() && this.trailers.is_none() {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { break };
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => this.chunk = data,
                Ok(Err(frame)) => this.trailers = frame.into_trailers().ok(),
                Err(error) => {
                    this.error = Some(error);
                    return Poll::Ready(Err(io::Error::other(error)));
                }
            }
        }
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.chunk.advance(amount);
    }
}

impl AsyncRead for Source {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let here = ready!(self.as_mut().poll_fill_buf(cx))?;
        let length = here.len().min(buffer.remaining());
        buffer.put_slice(&here[..length]);
        self.consume(length);
        Poll::Ready(Ok(()))
    }
}
