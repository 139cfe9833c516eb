//! From a raw request to an exchange, or to the reason why it is none.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Version, header};

use super::Worker;
use crate::exchange::{Client, Exchange, Hop, Reason, Rejection};
use crate::http::body::{Arriving, Body, Received};
use crate::http::forwarded;
use crate::http::framing;
use crate::http::grpc;
use crate::http::headers::{self, Seen, name};
use crate::http::pace::Rate;
use crate::http::path::{self, Held};
use crate::http::problem::Form;
use crate::http::websocket::Wish;
use crate::snapshot::ListenerPlan;
use crate::telemetry::finish::Occupancy;
use crate::telemetry::trace::{RequestId, TraceContext};

/// Where requests come in: a connection of a listener.
pub struct Inlet {
    /// The listener's plan.
    pub plan: Arc<ListenerPlan>,
    /// Requests in flight on the listener, over all workers.
    pub in_flight: Arc<Occupancy>,
    /// What armiger tells the next hop about this one.
    pub hop: Rc<Hop>,
    /// Who opened the connection.
    pub peer: SocketAddr,
    /// Where that connection led to.
    pub reached: SocketAddr,
    /// The peer is a trusted proxy.
    pub is_trusted: bool,
    /// By what holds now, who opened the connection would not be let in again.
    pub is_barred: bool,
}

/// A request's body, bounded.
pub(super) fn body(worker: &Worker, inlet: &Inlet, request: &Request<Body>, incoming: Arriving) -> Body {
    if incoming.is_end_stream() {
        return Body::Empty;
    }
    let (limits, timeouts) = (&inlet.plan.config.limits, &inlet.plan.config.timeouts);
    let mut received = Received::new(incoming, limits.body_max.get());
    let is_http2 = request.version() == Version::HTTP_2;
    // A caller of gRPC may be silent for as long as its call lasts, which the deadline and the pauses of the answer bound;
    // whether it is there still, pings tell.
    let is_call = is_http2 && grpc::is_grpc(request.headers());
    if is_http2 {
        // On HTTP/1.1 the gate watches for pauses.
        received.watch(worker.wheel.timer(), if is_call { Duration::MAX } else { timeouts.body_idle.get() });
    }
    if !is_call {
        let rate = Rate { min: limits.body_rate_min.get(), over: timeouts.body_rate.get() };
        received.keep_pace(rate, worker.wheel.clone());
    }
    Body::Received(received)
}

/// The exchange of a request. There is always one, for refusals are logged and counted like anything else.
pub(super) fn begin(worker: &Worker, inlet: &Inlet, request: Box<Request<Body>>, now: Instant) -> Exchange {
    let inbound = match request.body() {
        Body::Received(received) => Some(received.inbound().clone()),
        _ => None,
    };
    Exchange {
        request,
        client: Client {
            peer: inlet.peer,
            reached: inlet.reached,
            address: inlet.peer.ip().to_canonical(),
            is_trusted: inlet.is_trusted,
        },
        normal_path: None,
        params: Default::default(),
        started: now,
        deadline: now,
        due: now,
        inbound,
        wheel: worker.wheel.clone(),
        trace: None,
        hop: inlet.hop.clone(),
        caller: None,
        allowance: Default::default(),
        websocket: None,
        form: None,
        closing: worker.begin(now, inlet),
    }
}

/// Takes a request in, under the id `within` if it is part of another. Tells whether it may go on, and what its path holds
/// that a route must allow.
pub(super) fn take_in(
    worker: &Worker,
    inlet: &Inlet,
    within: Option<RequestId>,
    exchange: &mut Exchange,
) -> Result<Held, Rejection> {
    let limits = &inlet.plan.config.limits;
    let inspected = headers::inspect_request(exchange.request.headers());
    identify(worker, inlet, exchange, inspected.as_ref().ok().map(|found| found.seen));
    // The gate has read the target, except of what came by HTTP/2 or within another request.
    let is_read = exchange.request.version() != Version::HTTP_2 && within.is_none();
    if within.is_some() {
        exchange.closing.record.request_id = within;
    }
    // Proven once, at the handshake; a connection may last longer than that holds.
    let is_over = inlet.hop.certificate.as_ref().is_some_and(|shown| shown.is_over(exchange.closing.record.time));
    if inlet.is_barred || is_over {
        return Err(Rejection::from(Reason::CertificateOver).detail("Connect anew, with a certificate that is good."));
    }
    let inspected = inspected
        .map_err(|fault| Rejection::from(Reason::BadHeader).detail(format!("The request is refused: {fault}.")))?;
    // The gate counted on HTTP/1.1; on HTTP/2 only the bytes of all headers together are counted below us.
    if inspected.count > usize::from(limits.headers_max) {
        return Err(Reason::HeadersTooLarge.into());
    }
    if exchange.request.version() == Version::HTTP_2 {
        let max = limits.header_bytes_max.get();
        if headers::list_size(&exchange.request) > max {
            let refusal = Rejection { limit: Some("header_bytes_max"), ..Reason::HeadersTooLarge.into() };
            return Err(refusal.detail("The request's header fields are longer than is allowed here."));
        }
        // As of an absolute target of HTTP/1.1: nothing else is spoken here, whatever is routed by it.
        if exchange.request.uri().scheme().is_some_and(|scheme| !is_http(scheme.as_str())) {
            return Err(Rejection::from(Reason::BadFraming).detail("`:scheme` is neither `http` nor `https`."));
        }
    }
    let target = exchange.request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target as u64 > limits.target_bytes_max.get() {
        return Err(Reason::TargetTooLong.into());
    }
    if inspected.seen.has(Seen::COOKIE_CRUMBS) {
        headers::join_cookies(exchange.request.headers_mut(), &inspected);
    }
    // Behind the joining: what is sent on is bounded.
    if !is_read || inspected.seen.has(Seen::COOKIE_CRUMBS) {
        let max = limits.header_value_bytes();
        if exchange.request.headers().values().any(|value| value.len() as u64 > max) {
            return Err(Reason::HeaderTooLong.into());
        }
    }
    if inspected.seen.has(Seen::VIA)
        && let Some(via) = &exchange.hop.via
        && via.loops(exchange.request.headers())
    {
        return Err(Reason::LoopDetected.into());
    }
    exchange.websocket = Wish::of(&exchange.request, inspected.upgrade.as_ref()).map(Box::new);
    headers::strip_request(exchange.request.headers_mut(), &inspected);
    if Wish::is_extended_connect(&exchange.request) {
        // The same wish in HTTP/2's words (RFC 8441 §5): from here on it is what it is of HTTP/1.1.
        *exchange.request.method_mut() = Method::GET;
        exchange.websocket = Some(Box::new(Wish::own(exchange.request.headers_mut())));
    }
    if !exchange.closing.occupy(&inlet.in_flight, limits.in_flight_max) {
        return Err(Reason::Overloaded.into());
    }
    host(exchange)?;
    // TRACE reflects credentials, and CONNECT opens a tunnel: neither is for a reverse proxy (RFC 9110 §9.3.8, §9.3.6).
    if matches!(*exchange.request.method(), Method::TRACE | Method::CONNECT) {
        if exchange.request.extensions().get::<hyper::ext::Protocol>().is_some() {
            // A stream that is to speak something else (RFC 9220 §3).
            return Err(Rejection::from(Reason::NotImplemented).detail("`:protocol` is not `websocket`."));
        }
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        return Err(Rejection::from(Reason::MethodNotAllowed).header(header::ALLOW, allowed));
    }
    if let Body::Received(received) = exchange.request.body()
        && received.announced().is_some_and(|length| length > limits.body_max.get())
    {
        return Err(Reason::BodyTooLarge.into());
    }
    if !is_read && exchange.request.uri().query().is_some_and(|query| !framing::is_query(query.as_bytes())) {
        return Err(Rejection::from(Reason::BadPath).detail("The query has bytes that must be percent-encoded."));
    }
    let held = normalise(exchange)?;
    if inspected.seen.has(Seen::MAX_FORWARDS)
        && *exchange.request.method() == Method::OPTIONS
        && !headers::spend_max_forwards(exchange.request.headers_mut())
    {
        // Whom it reaches last is who answers (RFC 9110 §7.6.2): the question is about armiger, as `OPTIONS *` is.
        exchange.normal_path = Some("*".to_owned());
    }
    Ok(held)
}

fn is_http(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Who asks, under which id, as part of which trace. Comes first, so that refusals are logged under it too. `seen` is what
/// the request has, if it was looked through to the end.
fn identify(worker: &Worker, inlet: &Inlet, exchange: &mut Exchange, seen: Option<Seen>) {
    // Asked of what one walk found, for each look-up costs as much as the walk.
    let may_have = |kind| seen.is_none_or(|seen| seen.has(kind));
    if !may_have(Seen::ACCEPT) && !may_have(Seen::CONTENT_TYPE) {
        exchange.form = Some(Form::Json);
    }
    let headers = exchange.request.headers_mut();
    let mut id = None;
    if inlet.is_trusted {
        let (address, scheme) = forwarded::client(inlet.peer.ip(), headers, &inlet.plan.trust);
        exchange.client.address = address;
        forwarded::clean_unvouched(headers, inlet.plan.trust.source);
        if let Some(scheme) = scheme {
            forwarded::tell_scheme(headers, scheme);
        }
        id = headers.get(&name::X_REQUEST_ID).and_then(RequestId::from_inbound);
    } else if may_have(Seen::PROVENANCE) || may_have(Seen::LOOKALIKE) {
        forwarded::clean(headers);
    }
    if may_have(Seen::TRACEPARENT) && headers.contains_key(&name::TRACEPARENT) {
        let mut trace = TraceContext::continue_or_start(headers);
        // A caller that sent a trace wants one, even if its header was broken. Without any header the back end decides:
        // a context of ours would override its sampler.
        trace.sampled |= !trace.continued;
        exchange.trace = Some(trace);
    }
    let record = &mut exchange.closing.record;
    record.request_id = Some(id.unwrap_or_else(|| worker.ids.borrow_mut().make(record.time)));
    record.trace_id = exchange.trace.map_or([0; 16], |trace| trace.trace_id);
    record.client = Some(exchange.client.address).filter(|address| *address != forwarded::NOWHERE);
    record.method = exchange.request.method().clone();
    record.version = exchange.request.version();
    let request = &exchange.request;
    record.set_host(crate::exchange::host_of(request.headers(), request.uri()).as_bytes());
    record.set_path(request.uri().path().as_bytes());
    worker.log.note(record, request);
    if request.version() == Version::HTTP_2 && may_have(Seen::CONTENT_TYPE) && grpc::is_grpc(request.headers()) {
        exchange.closing.begins_call();
    }
}

/// Exactly one host (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn host(exchange: &mut Exchange) -> Result<(), Rejection> {
    let (uri, headers) = (exchange.request.uri(), exchange.request.headers());
    let named = || headers.get(header::HOST);
    match uri.authority() {
        Some(authority) => {
            if exchange.request.version() == Version::HTTP_2
                && named().is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
            {
                return Err(Rejection::from(Reason::BadHost).detail("`:authority` and `host` differ."));
            }
            // The target's authority is what counts, and the upstream must see the same (RFC 9112 §3.2.2).
            let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadHost)?;
            exchange.request.headers_mut().insert(header::HOST, value);
            Ok(())
        }
        // Whether it is a valid name is found out where it is looked up. What cannot be read, and so is not in the record,
        // must not pass for no host there; on HTTP/1.1 the gate saw to that.
        None if !exchange.closing.record.host().is_empty() => Ok(()),
        // HTTP/1.0 knew no `Host`.
        None if exchange.request.version() == Version::HTTP_10 && named().is_none() => Ok(()),
        None => Err(Reason::BadHost.into()),
    }
}

/// Brings the path into its one form. What is routed is what policies see and upstreams get.
fn normalise(exchange: &mut Exchange) -> Result<Held, Rejection> {
    let raw = exchange.request.uri().path();
    if raw == "*" && *exchange.request.method() == Method::OPTIONS {
        return Ok(Held::NONE);
    }
    let normal = path::normalise(raw).map_err(|error| Rejection::from(Reason::BadPath).detail(error.detail()))?;
    let held = normal.held;
    if let std::borrow::Cow::Owned(path) = normal.path {
        exchange.closing.record.set_path(path.as_bytes());
        exchange.normal_path = Some(path);
    }
    Ok(held)
}
