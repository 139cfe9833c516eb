//! Content codings of bodies that armiger reads itself (RFC 9110 §8.4): which one a body is in, and what is in it.

use std::io::Cursor;

use async_compression::tokio::bufread;
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::exchange::{Reason, Rejection};

/// How many times its size a compressed body may grow to, beyond a first piece that any may.
const RATIO_MAX: usize = 100;
const RATIO_FREE: usize = 64 * 1024;

/// The largest window of zstd, as a power of two: 8 MiB (RFC 9659 §3). Room for it is made before a byte comes out.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// What clients are told that they may send (RFC 7694).
const KNOWN: HeaderValue = HeaderValue::from_static("gzip, br, zstd, deflate");

/// The coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// None.
    Identity,
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
    /// `deflate`.
    Deflate,
}

/// Why a body cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    /// It is too long, or grows too much.
    TooLarge,
    /// It breaks the rules of its coding.
    Malformed,
}

impl Coding {
    /// The one that these headers tell. None: armiger does not know it, or there is more than one, which is a way to grow
    /// by more than the ratio.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut codings: SmallVec<[&str; 2]> = SmallVec::new();
        for line in headers.get_all(header::CONTENT_ENCODING) {
            codings.extend(line.to_str().ok()?.split(',').map(str::trim).filter(|coding| !coding.is_empty()));
        }
        let coding = match codings[..] {
            [] => return Some(Self::Identity),
            [one] => one,
            _ => return None,
        };
        let known = [
            ("identity", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
            ("deflate", Self::Deflate),
        ];
        known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(coding)).map(|(_, coding)| coding)
    }

    /// The same of a request.
    ///
    /// # Errors
    /// It is not one that can be read.
    pub fn of_request(headers: &HeaderMap) -> Result<Self, Rejection> {
        Self::of(headers).ok_or_else(|| {
            Rejection::from(Reason::UnsupportedMediaType)
                .detail("The body is in a content coding that is not taken here.")
                .header(header::ACCEPT_ENCODING, KNOWN)
        })
    }

    /// What is in the body of a request, `max` bytes at most. `limit` is the key of that.
    ///
    /// # Errors
    /// It is longer, grows too much, or breaks the rules of its coding.
    pub async fn open_request(self, body: Bytes, max: usize, limit: &'static str) -> Result<Bytes, Rejection> {
        self.open(body, max).await.map_err(|sealed| match sealed {
            Sealed::TooLarge => Rejection { limit: Some(limit), ..Rejection::from(Reason::BodyTooLarge) },
            Sealed::Malformed => {
                Rejection::from(Reason::BadBody).detail("The body is not in the content coding that it says.")
            }
        })
    }

    /// What is in a body, `max` bytes at most.
    pub(super) async fn open(self, body: Bytes, max: usize) -> Result<Bytes, Sealed> {
        let max = max.min(body.len().saturating_mul(RATIO_MAX).max(RATIO_FREE));
        let from = Cursor::new(body);
        match self {
            Self::Identity => Ok(from.into_inner()),
            Self::Gzip => inflate(bufread::GzipDecoder::new(from), max).await,
            Self::Brotli => inflate(bufread::BrotliDecoder::new(from), max).await,
            Self::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
                inflate(bufread::ZstdDecoder::with_params(from, &[window]), max).await
            }
            // Two things under one name (RFC 9110 §8.4.1.2): first as the RFC says, then as some do.
            Self::Deflate => {
                let bytes = from.into_inner();
                match inflate(bufread::ZlibDecoder::new(Cursor::new(bytes.clone())), max).await {
                    Err(Sealed::Malformed) => inflate(bufread::DeflateDecoder::new(Cursor::new(bytes)), max).await,
                    inflated => inflated,
                }
            }
        }
    }
}

async fn inflate(decoder: impl AsyncRead + Unpin, max: usize) -> Result<Bytes, Sealed> {
    let mut out = BytesMut::new();
    // One byte more than allowed tells that there is more.
    let mut decoder = decoder.take(max as u64 + 1);
    while decoder.read_buf(&mut out).await.map_err(|_| Sealed::Malformed)? > 0 {}
    if out.len() > max { Err(Sealed::TooLarge) } else { Ok(out.freeze()) }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};

    use super::*;

    async fn all(mut encoder: impl AsyncRead + Unpin) -> Bytes {
        let mut out = Vec::new();
        encoder.read_to_end(&mut out).await.expect("memory can be read");
        out.into()
    }

    fn coded(coding: &'static str) -> Option<Coding> {
        Coding::of(&HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(coding))]))
    }

    #[tokio::test]
    async fn a_window_beyond_the_rfcs_is_not_opened() {
        for (log, is_good) in [(23, true), (24, false)] {
            let window = [async_compression::zstd::CParameter::window_log(log)];
            let level = async_compression::Level::Default;
            let body = all(ZstdEncoder::with_quality_and_params(&b"[1]"[..], level, &window)).await;
            assert_eq!(Coding::Zstd.open(body, 100).await.is_ok(), is_good, "{log}");
        }
    }

    #[tokio::test]
    async fn a_coded_body_is_opened() {
        let text: &[u8] = br#"{"a": [1, 2, 3]}"#;
        let bodies = [
            ("gzip", all(GzipEncoder::new(text)).await),
            ("X-GZIP", all(GzipEncoder::new(text)).await),
            ("br", all(BrotliEncoder::new(text)).await),
            ("zstd", all(ZstdEncoder::new(text)).await),
            ("deflate", all(ZlibEncoder::new(text)).await),
            ("deflate", all(DeflateEncoder::new(text)).await),
            ("identity", Bytes::from_static(text)),
            (" , ", Bytes::from_static(text)),
        ];
        for (coding, body) in bodies {
            let coding = coded(coding).expect(coding);
            assert_eq!(coding.open(body, 100).await.expect("opens"), text, "{coding:?}");
        }
        assert_eq!(Coding::Gzip.open(Bytes::from_static(text), 100).await, Err(Sealed::Malformed));
        for unknown in ["aes", "gzip, gzip", "identity, gzip"] {
            assert_eq!(coded(unknown), None);
        }
    }

    #[tokio::test]
    async fn a_bomb_goes_off_outside() {
        let zeros = vec![b'0'; 8 << 20];
        let bomb = all(GzipEncoder::new(&*zeros)).await;
        assert!(bomb.len() < 10_000);
        assert_eq!(Coding::Gzip.open(bomb.clone(), 1 << 20).await, Err(Sealed::TooLarge), "the cap");
        assert_eq!(Coding::Gzip.open(bomb, 64 << 20).await, Err(Sealed::TooLarge), "the ratio");
        let fine = all(GzipEncoder::new(&zeros[..RATIO_FREE])).await;
        assert_eq!(Coding::Gzip.open(fine, 1 << 20).await.map(|body| body.len()), Ok(RATIO_FREE));
    }
}
