//! An HTTP/1.1 connection: its exchanges one after the other, and its end.

mod exchange;
mod watch;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Frame, SizeHint};

use super::door::Door;
use super::drain::Phase;
use super::farewell::{Lookout, part, reset_on_close};
use super::gate::{Entered, Gate, GateState, GateTimeouts, LINGER_TIME};
use super::tunnel;
use super::wire::Wire;
use super::worker::Shared;
use crate::http::body::{Arriving, Body, BodyError, Tunnel};
use crate::http::framing::{HeadLimits, Violation};
use crate::http::pace::Rate;
use crate::proxy;
use crate::telemetry::finish::Finish;
use exchange::{Answer, Broken, Ended, Exchange};
use watch::Watch;

/// Serves a connection until it ends. `prefix` was read of it.
pub(super) async fn serve(shared: &Rc<Shared>, stream: Wire, prefix: Vec<u8>, door: Rc<Door>) {
    let plan = door.inlet().plan.clone();
    let (limits, timeouts) = (&plan.config.limits, &plan.config.timeouts);
    let state = Rc::new(GateState::default());
    let mut gate = Gate::new(
        stream,
        prefix,
        HeadLimits {
            headers_max: limits.headers_max.into(),
            value_max: limits.header_value_bytes() as usize,
            bytes_max: limits.header_bytes_max.get() as usize,
            target_max: limits.target_bytes_max.get() as usize,
        },
        GateTimeouts {
            request_headers: timeouts.request_headers.get(),
            body_idle: timeouts.body_idle.get(),
            rate: Rate { min: limits.body_rate_min.get(), over: timeouts.body_rate.get() },
            keep_alive: timeouts.keep_alive.get(),
        },
        &shared.worker.wheel,
        &shared.scratch,
        state.clone(),
    );
    let is_http10 = Cell::new(false);
    let tunnels = Rc::new(Cell::new(None));
    let service = |request: Box<Request<Body>>, body: Arriving| {
        is_http10.set(request.version() == Version::HTTP_10);
        let inlet = door.inlet();
        let (shared, state, door, tunnels) = (shared.clone(), state.clone(), door.clone(), tunnels.clone());
        async move {
            // Called in here: handed in, the future of the whole exchange would have its place twice.
            let mut response = proxy::handle(shared.worker.clone(), inlet, request, body).await;
            if response.body().is_tunnel() {
                state.become_tunnel();
                let (head, mut finish) = response.into_parts();
                tunnels.set(finish.take_tunnel().map(|tunnel| (tunnel, finish)));
                return Response::from_parts(head, Watched { body: None, state });
            }
            // The plan may have changed since the request came.
            door.look();
            let is_spent = state.requests() >= door.requests_max();
            if is_spent {
                shared.metrics.limit_hit("requests_max");
            }
            let is_last =
                is_spent || state.violation().is_some() || door.is_outdated() || shared.phase() >= Phase::LameDuck;
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                state.say_close();
            }
            response.map(|body| Watched { body: Some(body), state })
        }
    };
    let mut moved_on = pin!(shared.moved_on());
    let mut lookout = Lookout::new();
    let mut watch = Watch { rest: shared.worker.wheel.timer() };
    // Where the exchanges take place, one after the other; kept from one to the next, and not while the connection rests.
    let mut place = None;
    loop {
        let wakes = poll_fn(|cx| {
            let phase = lookout.poll(cx, shared, moved_on.as_mut());
            if phase == Phase::Forced {
                return Poll::Ready(Wake::Forced);
            }
            if let Poll::Ready(entered) = gate.poll_head(cx) {
                return Poll::Ready(entered.map_or(Wake::Over, Wake::Asked));
            }
            if phase == Phase::Closing && state.idle_since().is_some() {
                // The client of an answer that did not ask it to close may be about to ask again.
                return watch.poll_last(cx, shared, &gate).map(|()| Wake::Farewell);
            }
            if place.is_some() && watch.poll_rest(cx, shared, &state).is_ready() {
                place = None;
            }
            Poll::Pending
        });
        let entered = match wakes.await {
            Wake::Asked(entered) => entered,
            Wake::Forced => return,
            Wake::Over => break,
            Wake::Farewell => {
                tokio::select! {
                    // A client that is gone needs no goodbye.
                    _ = gate.close(true) => {}
                    () = shared.reached(Phase::Forced) => {}
                }
                return;
            }
        };
        gate.feed_early();
        let mut exchange = Exchange::new(entered.asked);
        let place = place.get_or_insert_with(|| Box::pin(None));
        place.set(Some(service(entered.request, entered.body)));
        let ended = poll_fn(|cx| match lookout.poll(cx, shared, moved_on.as_mut()) {
            Phase::Forced => Poll::Ready(None),
            // What it waits for is no more than the rest of a body that nobody reads.
            Phase::Closing if !gate.is_answering() => Poll::Ready(Some(Ok(Ended::Last))),
            _ => exchange.poll(cx, &mut gate, place.as_mut()).map(Some),
        })
        .await;
        match ended {
            Some(Ok(Ended::Again)) => {}
            Some(Ok(Ended::Last)) => break,
            Some(Err(error)) => {
                tracing::debug!(peer = %door.ends.source, %error, "connection broke");
                note_limit(shared, &state);
                if is_http10.get() {
                    // HTTP/1.0 has no chunks: the end of the connection is the end of the answer, and only a reset says
                    // that it was cut (RFC 9112 §8).
                    reset_on_close(gate.get_ref().socket());
                } else if matches!(error, Broken::Body(_) | Broken::TooShort) {
                    // Its end tells. A reset, as it comes of closing on what the client still sends, would take with it what
                    // went out before: answers to requests ahead of this one.
                    tokio::select! {
                        _ = gate.close(true) => {}
                        () = shared.reached(Phase::Forced) => {}
                    }
                }
                return;
            }
            None => {
                // It ends, and is counted, with its future or its body.
                exchange.lose(&gate);
                return cut(&gate);
            }
        }
    }
    if let Some((tunnel, mut finish)) = tunnels.take() {
        drop(place);
        let (mut client, held) = gate.into_parts();
        return pass_through(shared, &mut client, held, tunnel, &mut finish).await;
    }
    note_limit(shared, &state);
    drop(place);
    if let Some(violation) = state.refusal() {
        let response = proxy::refuse(&shared.worker, &door.inlet(), violation, gate.asked_method(), gate.asked_path());
        if let Err(error) = gate.refuse(&rendered(response)).await {
            tracing::debug!(peer = %door.ends.source, %error, "refusal was not read");
        }
        return;
    }
    let is_sending = gate.is_sending();
    tokio::select! {
        // A client that is gone needs no goodbye.
        _ = gate.close(is_sending) => {}
        () = shared.reached(Phase::Forced) => {}
    }
}

/// Counts the bound that ended a connection, if one did.
fn note_limit(shared: &Shared, state: &GateState) {
    if let Some(limit) = state.violation().and_then(limit_of).or(state.has_rested().then_some("keep_alive")) {
        shared.metrics.limit_hit(limit);
    }
}

/// What follows a 101, until its end.
async fn pass_through(shared: &Shared, client: &mut Wire, held: Vec<u8>, tunnel: Tunnel, finish: &mut Finish) {
    let end = Box::pin(tunnel::carry(shared, client, held, tunnel, finish)).await;
    end.tell(finish);
    if end.is_told() {
        part(shared, client, LINGER_TIME).await;
    } else {
        reset_on_close(client.socket());
    }
}

/// Why a connection no longer waits for its next request.
enum Wake {
    /// Here it is.
    Asked(Entered),
    /// There will be none: the client is gone or was silent for too long, or its head is refused.
    Over,
    /// armiger waits no longer.
    Forced,
    /// armiger ends, and the client has had its time to ask once more.
    Farewell,
}

/// Cuts a connection. What is cut must not look complete.
fn cut(gate: &Gate<Wire>) {
    if gate.is_answering() {
        reset_on_close(gate.get_ref().socket());
    }
}

/// The configured bound that a violation is about.
fn limit_of(violation: Violation) -> Option<&'static str> {
    match violation {
        Violation::HeadTimeout => Some("request_headers"),
        Violation::BodyTimeout | Violation::WriteTimeout => Some("body_idle"),
        Violation::WriteTooSlow => Some("body_rate_min"),
        Violation::TooManyHeaders => Some("headers_max"),
        Violation::HeaderTooLong => Some("header_value_bytes_max"),
        Violation::HeadTooLarge => Some("header_bytes_max"),
        Violation::TargetTooLong => Some("target_bytes_max"),
        _ => None,
    }
}

/// A refusal as bytes.
fn rendered(response: Response<Body>) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let body = match body {
        Body::Full(bytes) => bytes,
        _ => Bytes::new(),
    };
    let mut out = format!(
        "HTTP/1.1 {} {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        head.status.as_str(),
        head.status.canonical_reason().unwrap_or(""),
        body.len()
    )
    .into_bytes();
    for (name, value) in &head.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    out
}

/// A response body; none if a tunnel begins with the answer, whose exchange is then not over.
struct Watched {
    body: Option<Finish>,
    state: Rc<GateState>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Finish::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Finish::size_hint)
    }
}

impl Answer for Watched {
    fn written(&mut self) {
        // What it holds of an upstream others may use.
        if let Some(body) = &mut self.body {
            body.let_body_go();
        }
    }

    fn lost(&mut self, bytes: usize) {
        if let Some(body) = &mut self.body {
            body.lost(bytes as u64);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = &mut self.body
            && matches!(self.state.violation(), Some(Violation::WriteTimeout | Violation::WriteTooSlow))
        {
            body.outwaited();
        }
    }
}
