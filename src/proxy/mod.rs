//! The walk of a request: intake, route, pipeline, finish. Short on purpose: read it to know armiger.

mod batch;
mod errand;
mod intake;
mod pipeline;
mod saga;
pub mod worker;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};

use crate::action::Action;
use crate::exchange::{self, Exchange, Reason, Rejection};
use crate::http::body::{Arriving, Body};
use crate::http::forwarded;
use crate::http::framing::Violation;
use crate::http::headers::{self, name};
use crate::http::problem::Form;
use crate::http::{grpc, grpc_web};
use crate::snapshot::Route;
use crate::snapshot::pattern::normalise_host;
use crate::snapshot::router::{Missed, Query};
use crate::telemetry::finish::Finish;
use crate::telemetry::record;
use crate::telemetry::trace::RequestId;
pub use intake::Inlet;
pub use worker::Worker;

/// Answers one request of a connection, whose body is on its way in.
// In line, so that the future is made where it will be: made elsewhere it is moved twice, which took 660 instructions.
#[inline]
pub fn handle(
    worker: Rc<Worker>,
    inlet: Rc<Inlet>,
    mut request: Box<Request<Body>>,
    incoming: Arriving,
) -> impl Future<Output = Response<Finish>> {
    *request.body_mut() = intake::body(&worker, &inlet, &request, incoming);
    answer(worker, inlet, request, None)
}

/// Answers one request: a connection's or, under the id that it has there, a batch's.
async fn answer(
    worker: Rc<Worker>,
    inlet: Rc<Inlet>,
    request: Box<Request<Body>>,
    within: Option<RequestId>,
) -> Response<Finish> {
    let now = Instant::now();
    let is_within = within.is_some();
    let mut exchange = intake::begin(&worker, &inlet, request, now);
    let taken = intake::take_in(&worker, &inlet, within, &mut exchange);
    let found = taken.and_then(|held| {
        if exchange.path() == "*" {
            return Ok(None);
        }
        let route = find(&worker, &mut exchange)?;
        if is_within && matches!(route.action, Action::Batch(_)) {
            return Err(Rejection::from(Reason::BadBody).detail("A batch has no batch within it."));
        }
        let refused = held.minus(route.path_allow);
        if refused.is_empty() {
            Ok(Some(route))
        } else {
            Err(Rejection::from(Reason::BadPath).detail(refused.detail()))
        }
    });
    let response = match found {
        Ok(Some(route)) => {
            exchange.due = now + route.timeout;
            exchange.deadline = now + patience(&exchange, &route);
            exchange.closing.routed(&route.name, &route.metrics, &route.generation);
            pipeline::run(&route, &mut exchange, &worker, &inlet).await
        }
        // `OPTIONS *` asks about armiger itself (RFC 9110 §9.3.7).
        Ok(None) => labelled(no_content(), &exchange),
        Err(rejection) => labelled(exchange.refuse(rejection), &exchange),
    };
    let Exchange { request, closing, inbound, .. } = exchange;
    worker.requests.give_back(request);
    let (head, body) = response.into_parts();
    let body = Finish::new(closing, body, &head, inbound);
    Response::from_parts(head, body)
}

/// How long the answer may take: the route's time, and no longer than the caller waits, be it a page, where it says so.
fn patience(exchange: &Exchange, route: &Route) -> Duration {
    let headers = exchange.headers();
    let asked = route.deadline_header.as_ref().and_then(|name| headers.get(name)).and_then(millis);
    let most = asked.map_or(route.timeout, |asked| asked.min(route.timeout));
    let is_call = || match exchange.request.version() {
        Version::HTTP_2 => grpc::is_grpc(headers) || grpc_web::Call::of(headers).is_some(),
        _ => grpc_web::Call::of(headers).is_some(),
    };
    let waits =
        if headers::has_rare(headers, &grpc::GRPC_TIMEOUT) && is_call() { grpc::timeout(headers) } else { None };
    waits.map_or(most, |waits| waits.min(most))
}

/// A number of milliseconds. What is none says nothing.
fn millis(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(Duration::from_millis(text.parse().unwrap_or(u64::MAX)))
}

/// Refuses a request whose head was never understood, so that there is no exchange; it is logged and counted all the
/// same. `method` and `path` are what it asked with, as far as that could be read.
pub fn refuse(
    worker: &Worker,
    inlet: &Inlet,
    violation: Violation,
    method: Option<Method>,
    path: Option<&[u8]>,
) -> Response<Body> {
    let reason = match (violation, violation.status()) {
        (Violation::HostMissing | Violation::HostRepeated | Violation::HostInvalid, _) => Reason::BadHost,
        (Violation::HeaderTooLong, _) => Reason::HeaderTooLong,
        (_, 408) => Reason::RequestTimeout,
        (_, 414) => Reason::TargetTooLong,
        (_, 431) => Reason::HeadersTooLarge,
        (_, 501) => Reason::NotImplemented,
        (_, 505) => Reason::BadVersion,
        _ => Reason::BadFraming,
    };
    let mut closing = worker.begin(Instant::now(), inlet);
    let id = RequestId::new(closing.record.time);
    closing.record.method = method.unwrap_or_else(record::unread_method);
    closing.record.set_path(path.unwrap_or_default());
    closing.record.client = Some(inlet.peer.ip().to_canonical()).filter(|address| *address != forwarded::NOWHERE);
    closing.rejected(reason.slug(), reason.status());
    closing.record.complete = true;
    let mut response = exchange::refusal(Rejection::from(reason).detail(violation.detail()), Form::Json, id.as_str());
    response.headers_mut().insert(&name::X_REQUEST_ID, id.to_header_value());
    closing.answered(response.status(), response.headers());
    closing.record.bytes_out = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    closing.record.request_id = Some(id);
    response
}

/// Tells the client the id under which its request is logged.
fn label(response: &mut Response<Body>, exchange: &Exchange) {
    if let Some(id) = &exchange.closing.record.request_id {
        response.headers_mut().insert(&name::X_REQUEST_ID, id.to_header_value());
    }
}

/// An answer of armiger's own, where there was no route to answer by.
fn labelled(mut response: Response<Body>, exchange: &Exchange) -> Response<Body> {
    label(&mut response, exchange);
    response
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Finds the route, and where its parameters stand.
fn find(worker: &Worker, exchange: &mut Exchange) -> Result<Arc<Route>, Rejection> {
    let mut reader = worker.reader.borrow_mut();
    let snapshot = reader.load();
    let router = &snapshot.router;
    if !snapshot.reserved.is_empty() {
        // Before anybody reads them, the router too.
        snapshot.reserved.clean(exchange.request.headers_mut());
        if let Body::Received(received) = exchange.request.body_mut() {
            received.reserve(snapshot.reserved.clone());
        }
    }
    // A request that names no host (HTTP/1.0) is routed by its path alone.
    let host = match exchange.host() {
        "" => Cow::Borrowed(""),
        named => normalise_host(named).ok_or(Reason::BadHost)?,
    };
    let mut query = Query {
        host: &host,
        path: exchange.path(),
        method: exchange.request.method(),
        headers: exchange.headers(),
        query: exchange.request.uri().query(),
    };
    // A preflight asks on behalf of another method, and is answered by the route which that method takes. In shadow
    // `cors` answers nobody, so there a preflight must not come to a route that it would not come to without.
    let asked =
        exchange.is_preflight().then(|| exchange.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)).flatten();
    if let Some(asked) = asked.and_then(|asked| Method::from_bytes(asked.as_bytes()).ok())
        && let Ok(found) = router.find(&Query { method: &asked, ..query })
        && found.target.answers_preflight
    {
        let (route, params) = (found.target.clone(), found.params);
        exchange.params = params;
        return Ok(route);
    }
    query.method = exchange.request.method();
    match router.find(&query) {
        Ok(found) => {
            let (route, params) = (found.target.clone(), found.params);
            exchange.params = params;
            Ok(route)
        }
        Err(Missed::NoRoute) => Err(Reason::NoRoute.into()),
        Err(Missed::Method(allowed)) => {
            let mut rejection = Rejection::from(Reason::MethodNotAllowed);
            if let Ok(allowed) = HeaderValue::try_from(allowed.to_string()) {
                rejection = rejection.header(header::ALLOW, allowed);
            }
            Err(rejection)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection that is busy has one. What is rare and large belongs in a box.
    #[test]
    fn the_future_of_an_exchange_stays_small() {
        let size = size(handle);
        assert!(size <= 5_600, "{size} bytes");
    }
}
