//! One request of a part or step, through the same door as a route's: pool, limits, breaker, retries and patience are the
//! upstream's.

use std::io::Cursor;
use std::time::Instant;

use async_compression::tokio::bufread;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::json::Json;
use super::proxy::reason;
use crate::config::upstream::Class;
use crate::exchange::{Client, Exchange, Reason, Rejection};
use crate::http::body::{Body, BodyError};
use crate::telemetry::record::AttemptRow;
use crate::upstream::{Call, HostRule, Kind, Pools, Upstream};

/// How many times its size a compressed answer may grow to, beyond a first piece that any may.
const RATIO_MAX: usize = 100;
const RATIO_FREE: usize = 64 * 1024;

/// The longest body that is read to its end only so that its connection can be used again.
const DRAIN_MAX: u64 = 16 * 1024;

/// An answer, whole.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The upstream gave no answer.
    Upstream(Kind),
    /// Its body broke off.
    Body(BodyError),
    /// Its body is too long, or grows too long.
    TooLarge,
    /// Its body is in a coding that nobody asked for and armiger does not know, or breaks the rules of its coding.
    Coding,
}

/// For whom a request is sent.
#[derive(Clone, Copy)]
pub(super) struct Whose {
    pub(super) client: Client,
    /// When nobody wants the answer any more.
    pub(super) deadline: Instant,
    /// The route's, which upstreams that have too much to do go by.
    pub(super) class: Class,
}

/// Sends a request and reads its answer, `max` bytes at most. Of statuses that are not `wanted` the body is left.
///
/// The one place where aggregates and sagas meet upstreams. What a part has in its cache stands in front of it.
pub(super) async fn send(
    upstream: &Upstream,
    pools: &Pools,
    Whose { client, deadline, class }: Whose,
    attempts: &mut SmallVec<[AttemptRow; 2]>,
    mut request: Request<Body>,
    max: usize,
    wanted: impl FnOnce(StatusCode) -> bool,
) -> Result<Reply, Failed> {
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let key = upstream.key(&request, client.address);
    let call = Call::new(HostRule::Endpoint, deadline, key, attempts).of_client(client.ends()).of_class(class);
    let sent = if upstream.hedges(&request) {
        Box::pin(upstream.hedge(pools, call, &mut request)).await
    } else {
        upstream.send(pools, call, &mut request).await
    };
    let response = sent.map_err(|error| {
        tracing::debug!(upstream = %upstream.name, error = &error as &dyn std::error::Error, "upstream failed");
        Failed::Upstream(error.kind())
    })?;
    let (head, body) = response.into_parts();
    if !wanted(head.status) {
        if body.size_hint().upper().is_some_and(|length| length <= DRAIN_MAX) {
            // What comes of it matters to nobody.
            let _ = read(body, DRAIN_MAX as usize).await;
        }
        return Ok(Reply { status: head.status, headers: head.headers, body: Bytes::new() });
    }
    let body = read(body, max).await?;
    let body = decode(&head.headers, body, max).await?;
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// The client's body, which values are taken from. `limit` is the key of `max`.
pub(super) async fn request_body(exchange: &mut Exchange, max: usize, limit: &'static str) -> Result<Json, Rejection> {
    exchange.remember_form();
    let body = std::mem::take(exchange.request.body_mut());
    let bytes = read(body, max).await.map_err(|failed| match failed {
        Failed::Body(error) => Rejection::from(reason(Kind::Client(error))),
        _ => Rejection { limit: Some(limit), ..Rejection::from(Reason::BodyTooLarge) },
    })?;
    Json::check(bytes).map_err(|_| Rejection::from(Reason::BadBody).detail("The body is no JSON document."))
}

/// Reads a body to its end.
pub(super) async fn read(mut body: Body, max: usize) -> Result<Bytes, Failed> {
    if body.size_hint().lower() > max as u64 {
        return Err(Failed::TooLarge);
    }
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Failed::Body)?.into_data() else { continue };
        if first.len() + more.len() + data.len() > max {
            return Err(Failed::TooLarge);
        }
        // Mostly there is one piece, and it is taken as it is.
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}

/// Takes the codings off a body, the last one first (RFC 9110 §8.4).
async fn decode(headers: &HeaderMap, mut body: Bytes, max: usize) -> Result<Bytes, Failed> {
    let mut codings: SmallVec<[&str; 2]> = SmallVec::new();
    for line in headers.get_all(header::CONTENT_ENCODING) {
        let line = line.to_str().map_err(|_| Failed::Coding)?;
        codings.extend(line.split(',').map(str::trim).filter(|coding| !coding.is_empty()));
    }
    // More than one is a way to grow by more than the ratio.
    if codings.len() > 1 {
        return Err(Failed::Coding);
    }
    for coding in codings.into_iter().rev() {
        let max = max.min(body.len().saturating_mul(RATIO_MAX).max(RATIO_FREE));
        let from = Cursor::new(body);
        body = match coding.to_ascii_lowercase().as_str() {
            "identity" => from.into_inner(),
            "gzip" | "x-gzip" => inflate(bufread::GzipDecoder::new(from), max).await?,
            "br" => inflate(bufread::BrotliDecoder::new(from), max).await?,
            "zstd" => inflate(bufread::ZstdDecoder::new(from), max).await?,
            // Two things under one name (RFC 9110 §8.4.1.2): first as the RFC says, then as some servers do.
            "deflate" => {
                let bytes = from.into_inner();
                match inflate(bufread::ZlibDecoder::new(Cursor::new(bytes.clone())), max).await {
                    Err(Failed::Coding) => inflate(bufread::DeflateDecoder::new(Cursor::new(bytes)), max).await?,
                    inflated => inflated?,
                }
            }
            _ => return Err(Failed::Coding),
        };
    }
    Ok(body)
}

async fn inflate(decoder: impl AsyncRead + Unpin, max: usize) -> Result<Bytes, Failed> {
    let mut out = BytesMut::new();
    // One byte more than allowed tells that there is more.
    let mut decoder = decoder.take(max as u64 + 1);
    while decoder.read_buf(&mut out).await.map_err(|_| Failed::Coding)? > 0 {}
    if out.len() > max { Err(Failed::TooLarge) } else { Ok(out.freeze()) }
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

    fn coded(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(coding))])
    }

    #[tokio::test]
    async fn a_coded_body_is_decoded_whatever_was_asked_for() {
        let text: &[u8] = br#"{"a": [1, 2, 3]}"#;
        let bodies = [
            ("gzip", all(GzipEncoder::new(text)).await),
            ("X-GZIP", all(GzipEncoder::new(text)).await),
            ("br", all(BrotliEncoder::new(text)).await),
            ("zstd", all(ZstdEncoder::new(text)).await),
            ("deflate", all(ZlibEncoder::new(text)).await),
            ("deflate", all(DeflateEncoder::new(text)).await),
            ("identity", Bytes::from_static(text)),
        ];
        for (coding, body) in bodies {
            assert_eq!(decode(&coded(coding), body, 100).await.expect("decodes"), text, "{coding}");
        }
        assert_eq!(decode(&coded("aes"), Bytes::from_static(text), 100).await, Err(Failed::Coding));
        assert_eq!(decode(&coded("gzip"), Bytes::from_static(text), 100).await, Err(Failed::Coding));
        let twice = all(GzipEncoder::new(&*all(GzipEncoder::new(text)).await)).await;
        assert_eq!(decode(&coded("gzip, gzip"), twice, 100).await, Err(Failed::Coding));
    }

    #[tokio::test]
    async fn a_bomb_goes_off_outside() {
        let zeros = vec![b'0'; 8 << 20];
        let bomb = all(GzipEncoder::new(&*zeros)).await;
        assert!(bomb.len() < 10_000);
        assert_eq!(decode(&coded("gzip"), bomb.clone(), 1 << 20).await, Err(Failed::TooLarge), "the cap");
        assert_eq!(decode(&coded("gzip"), bomb, 64 << 20).await, Err(Failed::TooLarge), "the ratio");
        let fine = all(GzipEncoder::new(&zeros[..RATIO_FREE])).await;
        assert_eq!(decode(&coded("gzip"), fine, 1 << 20).await.map(|body| body.len()), Ok(RATIO_FREE));
    }
}
