//! Asks the policies, acts, and lets the policies have their last word.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{Method, Request, Response};

use super::{Inlet, Worker, batch, errand, saga};
use crate::action::{Action, Fallback};
use crate::exchange::{Exchange, Followups, Reason, Rejection};
use crate::http::body::Body;
use crate::http::forwarded;
use crate::http::headers::{self, name};
use crate::policy::chain::Asked;
use crate::snapshot::Route;
use crate::telemetry::trace::RequestId;
use crate::timer::Wheel;

/// Runs one exchange on its route.
///
/// Follow-ups run on every response, refusals included: a browser must see CORS headers on a 401.
pub(super) async fn run(
    route: &Arc<Route>,
    exchange: &mut Exchange,
    worker: &Rc<Worker>,
    inlet: &Rc<Inlet>,
) -> Response<Body> {
    let mut followups = Followups::default();
    let deadline = exchange.deadline;
    let outcome = if deadline <= exchange.started {
        // Nobody waits for what would be done now.
        Err(Reason::DeadlineExceeded.into())
    } else {
        in_time(&worker.wheel, deadline, pin!(walk(route, exchange, worker, inlet, &mut followups))).await
    };
    let mut response = match outcome {
        Ok(response) if grants_nothing(exchange, &response) => exchange.refuse(no_tunnel(exchange)),
        Ok(response) => response,
        // All containers of a pod are told to stop at the same time, and the back end may be the first to go: that is no
        // fault of the service, and another pod has the answer.
        Err(rejection) if rejection.reason == Reason::UpstreamConnect && worker.is_draining.get() => {
            exchange.refuse(Rejection { reason: Reason::Draining, ..rejection })
        }
        Err(rejection) => match fixed(route, exchange, rejection) {
            Ok(response) => response,
            Err(rejection) => exchange.refuse(rejection),
        },
    };
    super::label(&mut response, exchange);
    exchange.allowance.write_to(response.headers_mut());
    followups.run(&mut response);
    response
}

/// Whether an answer to who asks for a tunnel on a stream would look like one: any 2xx does (RFC 8441 §5), and only a 101
/// becomes one here.
fn grants_nothing(exchange: &Exchange, response: &Response<Body>) -> bool {
    // No other CONNECT gets so far.
    response.status().is_success() && exchange.closing.record.method == Method::CONNECT
}

fn no_tunnel(exchange: &Exchange) -> Rejection {
    let is_asked = !exchange.closing.record.attempts.is_empty();
    Rejection::from(if is_asked { Reason::UpstreamProtocol } else { Reason::NotImplemented })
        .detail("What answers does not speak WebSocket.")
}

/// Does `work` until the deadline. What is still going on then is dropped, and so ended.
pub(super) async fn in_time<T>(
    wheel: &Wheel,
    deadline: Instant,
    mut work: Pin<&mut impl Future<Output = Result<T, Rejection>>>,
) -> Result<T, Rejection> {
    let mut timer = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        // Made only now: an answer that needs no waiting costs no timer.
        let timer = timer.get_or_insert_with(|| {
            let mut timer = wheel.timer();
            timer.arm_at(deadline);
            timer
        });
        timer.poll_expired(cx).map(|()| Err(Reason::DeadlineExceeded.into()))
    })
    .await
}

async fn walk(
    route: &Arc<Route>,
    exchange: &mut Exchange,
    worker: &Rc<Worker>,
    inlet: &Rc<Inlet>,
    followups: &mut Followups,
) -> Result<Response<Body>, Rejection> {
    // What the requests of a batch inherit is what came, not what the batch's own policies make of it.
    let received = matches!(route.action, Action::Batch(_)).then(|| Box::new(exchange.headers().clone()));
    // Without `?`, which would move what came of it twice more.
    match route.chain.admit(exchange, followups).await {
        Ok(Asked::Passed) => {}
        Ok(Asked::Answered(answer)) => return Ok(answer),
        Err(rejection) => return Err(rejection),
        Ok(Asked::Fetched(fetch)) => {
            let spare = route.action.fallback().and_then(|fallback| fallback.spare(exchange));
            let outcome = Box::pin(errand::fetch(route, exchange, worker, fetch)).await;
            // What was drawn is this exchange's, and the errand knows nothing of it.
            if let Err(rejection) = &outcome
                && exchange.owes(rejection)
            {
                Box::pin(exchange.give_back(false)).await;
            }
            return match (route.action.fallback(), spare) {
                (Some(fallback), Some(spare)) if fallback.is_wanted(&outcome) => {
                    Box::pin(instead(route, fallback, exchange, worker, spare, outcome)).await
                }
                _ => outcome,
            };
        }
    }
    if let Some(answer) = ready(route, exchange, followups).await? {
        return Ok(answer);
    }
    if let Some(answer) = route.action.at_once(exchange) {
        return answer;
    }
    match (&route.action, received) {
        (Action::Batch(batch), Some(received)) => Box::pin(batch::run(batch, exchange, &received, worker, inlet)).await,
        (Action::Saga(saga), _) => Box::pin(saga::run(saga, route, exchange, worker)).await,
        (action, _) => {
            let spare = action.fallback().and_then(|fallback| fallback.spare(exchange));
            let outcome = action.run(exchange, &worker.pools, &errand::Parts { route, worker }).await;
            match (action.fallback(), spare) {
                (Some(fallback), Some(spare)) if fallback.is_wanted(&outcome) => {
                    exchange.request = spare;
                    Box::pin(fallback.run(exchange, &worker.pools, outcome)).await
                }
                _ => outcome,
            }
        }
    }
}

/// What stands in for an answer that an errand could not get. The exchange's own request was not made ready for anybody yet.
async fn instead(
    route: &Route,
    fallback: &Fallback,
    exchange: &mut Exchange,
    worker: &Worker,
    spare: Box<Request<Body>>,
    outcome: Result<Response<Body>, Rejection>,
) -> Result<Response<Body>, Rejection> {
    exchange.request = spare;
    let mut followups = Followups::default();
    let mut response = match ready(route, exchange, &mut followups).await? {
        Some(answer) => answer,
        None => fallback.run(exchange, &worker.pools, outcome).await?,
    };
    followups.run(&mut response);
    Ok(response)
}

/// What stands in once there is no time left to ask anybody.
fn fixed(route: &Route, exchange: &mut Exchange, rejection: Rejection) -> Result<Response<Body>, Rejection> {
    let is_late = rejection.reason == Reason::DeadlineExceeded;
    let is_safe = [Method::GET, Method::HEAD].contains(&exchange.closing.record.method);
    match route.action.fallback().filter(|_| is_late && is_safe) {
        Some(fallback) => {
            let outcome = Err(rejection);
            match (fallback.fixed(exchange, &outcome), outcome) {
                (Some(response), _) => Ok(response),
                (None, Err(rejection)) => Err(rejection),
                (None, Ok(response)) => Ok(response),
            }
        }
        None => Err(rejection),
    }
}

/// Makes the request ready for the action, unless a policy answers it.
pub(super) async fn ready(
    route: &Route,
    exchange: &mut Exchange,
    followups: &mut Followups,
) -> Result<Option<Response<Body>>, Rejection> {
    if route.action.forwards() {
        exchange.strip_credential(route.action.is_third_party());
        introduce(exchange);
    }
    Ok(match route.chain.prepare(exchange, followups).await? {
        Asked::Passed => None,
        Asked::Answered(answer) => Some(answer),
        // Asked at this stage nobody has anything fetched; what answers meanwhile is an answer all the same.
        Asked::Fetched(fetch) => fetch.answer,
    })
}

/// How many headers are added for the next hop, at most.
const INTRODUCED: usize = 7;

/// Writes what the next hop should know of this one: who asked, for what, and under which id.
fn introduce(exchange: &mut Exchange) {
    let id = exchange.closing.record.request_id.as_ref().map(RequestId::to_header_value);
    let version = exchange.request.version();
    let headers = exchange.request.headers_mut();
    // Room for all that is added here, or the map grows twice.
    headers.reserve(INTRODUCED);
    let host = headers::host(headers).cloned();
    forwarded::append(headers, &exchange.hop.forwarded, host.as_ref());
    if let Some(via) = &exchange.hop.via {
        via.append(headers, version);
    }
    if let Some(id) = id {
        headers.insert(&name::X_REQUEST_ID, id);
    }
    if let Some(trace) = &exchange.trace {
        trace.write_to(headers);
    }
}
