//! One request of a part or step, through the same door as a route's: pool, limits, breaker, retries and patience are the
//! upstream's.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use smallvec::SmallVec;

use super::coding::{Coding, Sealed};
use super::json::Json;
use super::proxy::reason;
use crate::config::upstream::Class;
use crate::exchange::{Client, Exchange, Reason, Rejection};
use crate::http::body::{Body, BodyError};
use crate::telemetry::record::AttemptRow;
use crate::upstream::{Call, HostRule, Kind, Pools, Tells, Upstream};

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
pub(super) struct Whose<'w> {
    pub(super) client: Client,
    /// When nobody wants the answer any more.
    pub(super) deadline: Instant,
    /// When the time is over that the configuration gives.
    pub(super) due: Instant,
    /// Where each try is told how much of the time is left.
    pub(super) tells: Tells<'w>,
    /// The route's, which upstreams that have too much to do go by.
    pub(super) class: Class,
}

/// Sends a request and reads its answer, `max` bytes at most. Of statuses that are not `wanted` the body is left.
///
/// The one place where aggregates and sagas meet upstreams. What a part has in its cache stands in front of it.
pub(super) async fn send(
    upstream: &Upstream,
    pools: &Pools,
    Whose { client, deadline, due, tells, class }: Whose<'_>,
    attempts: &mut SmallVec<[AttemptRow; 2]>,
    mut request: Request<Body>,
    max: usize,
    wanted: impl FnOnce(StatusCode) -> bool,
) -> Result<Reply, Failed> {
    request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let key = upstream.key(&request, client.address);
    let call = Call::new(HostRule::Endpoint, deadline, key, attempts).of_client(client.ends());
    let call = call.of_route(due, class, tells);
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
    let coding = Coding::of(&head.headers).ok_or(Failed::Coding)?;
    let body = coding.open(body, max).await.map_err(|sealed| match sealed {
        Sealed::TooLarge => Failed::TooLarge,
        Sealed::Malformed => Failed::Coding,
    })?;
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// The client's body, which values are taken from. `limit` is the key of `max`.
pub(super) async fn request_body(exchange: &mut Exchange, max: usize, limit: &'static str) -> Result<Json, Rejection> {
    exchange.remember_form();
    let coding = Coding::of_request(exchange.headers())?;
    let body = std::mem::take(exchange.request.body_mut());
    let bytes = read(body, max).await.map_err(|failed| match failed {
        Failed::Body(error) => Rejection::from(reason(Kind::Client(error))),
        _ => Rejection { limit: Some(limit), ..Rejection::from(Reason::BodyTooLarge) },
    })?;
    let bytes = coding.open_request(bytes, max, limit).await?;
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
