//! An HTTP/2 connection: hyper's, with bounds of ours on what its client may hold and how long.

mod goodbye;
mod idle;
mod stream;
mod windows;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::door::Door;
use super::drain::Phase;
use super::farewell::{Lookout, part, reset_on_close};
use super::rt::{Lent, LocalExecutor, Rewound};
use super::tunnel;
use super::wire::Wire;
use super::worker::Shared;
use crate::http::body::{Arriving, Body, Tunnel, cause};
use crate::http::headers::name;
use crate::http::tunnel::{Peer, Sender, StreamTunnel};
use crate::http::websocket::Wish;
use crate::proxy;
use crate::telemetry::finish::Finish;
use goodbye::Goodbye;
use idle::{Idle, Wait};
use stream::{Outbound, Stream, Streams};
pub(super) use windows::Windows;

pub(super) use stream::Outgoing;

/// Streams that a client may open and reset before we have seen them: more is an attack (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;

/// Streams that a client may make us reset (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 64;

/// What is kept of an answer, per stream, for an HTTP/2 client that is slow to take it. hyper's own bound of 400 KiB is a
/// lot times the streams of a connection.
pub(super) const SEND_BUFFER_MAX: usize = 64 * 1024;

/// How many times `header_bytes_max` h2 may hold of a head. Beyond, it answers a bare 431 of its own, of which armiger hears
/// nothing; what is between the two is refused like any other request, with its reason, its log line and its count.
const HEAD_ROOM: u64 = 2;

/// How long an HTTP/2 client may leave a ping unanswered.
const PING_WAIT: Duration = Duration::from_secs(20);

/// How long an HTTP/2 client without streams may keep a connection that we said goodbye to.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. `prefix` was read of it.
pub(super) async fn serve(shared: &Rc<Shared>, stream: Wire, prefix: Vec<u8>, door: Rc<Door>) {
    let plan = door.inlet().plan.clone();
    let (limits, timeouts) = (&plan.config.limits, &plan.config.timeouts);
    let body_idle = timeouts.body_idle.get();
    let streams = Rc::new(Streams::default());
    let executor = LocalExecutor { next: Rc::default(), next_tunnel: Rc::default() };
    // They end with the connection at the latest.
    let tunnels = Rc::new(RefCell::new(JoinSet::new()));
    let service = service_fn({
        let (shared, door, streams, next) = (shared.clone(), door.clone(), streams.clone(), executor.next.clone());
        let (tunnels, next_tunnel) = (tunnels.clone(), executor.next_tunnel.clone());
        move |mut request: Request<Incoming>| {
            let (worker, inlet) = (shared.worker.clone(), door.inlet());
            let stream = Stream::open(&streams);
            let (shared, tunnels, next_tunnel) = (shared.clone(), tunnels.clone(), next_tunnel.clone());
            let outgoing = Outgoing::new(&shared.worker.wheel, body_idle, &shared.metrics);
            next.set(Some(outgoing.clone()));
            // Of a stream that its client reset before the answer was out.
            next_tunnel.take();
            async move {
                let upgrade = Wish::is_extended_connect(&request).then(|| hyper::upgrade::on(&mut request));
                // In a box, and made there: what hyper asks for it moves many times before it is polled.
                let mut place = Box::pin(None);
                let (head, body) = request.into_parts();
                let mut request = worker.requests.take();
                *request = Request::from_parts(head, Body::Empty);
                place.set(Some(proxy::handle(worker, inlet, request, Arriving::Http2(body))));
                let answered = poll_fn(|cx| match place.as_mut().as_pin_mut() {
                    Some(exchange) => exchange.poll(cx),
                    None => Poll::Pending,
                });
                let mut response = answered.await;
                drop(place);
                if let Some(upgrade) = upgrade.filter(|_| response.body().is_tunnel()) {
                    Wish::grant_stream(&mut response);
                    let (head, mut finish) = response.into_parts();
                    if let Some(tunnel) = finish.take_tunnel() {
                        let mut tunnels = tunnels.borrow_mut();
                        while tunnels.try_join_next().is_some() {}
                        let sender = Sender::default();
                        next_tunnel.set(Some(sender.clone()));
                        tunnels.spawn_local(stream_through(shared, upgrade, tunnel, finish, (stream, sender)));
                    }
                    return Ok(Response::from_parts(head, Outbound::tunnel(outgoing)));
                }
                shun_table(response.headers_mut(), &shared);
                Ok::<_, Infallible>(response.map(|body| Outbound::new(outgoing, body, stream)))
            }
        }
    });
    let stream = Rc::new(RefCell::new(Rewound::new(stream, prefix, shared.scratch.clone())));
    // Held until the connection is over.
    let windows = shared.windows.open(limits.streams_max);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_header_list_size(
            u32::try_from(limits.header_bytes_max.get().saturating_mul(HEAD_ROOM)).unwrap_or(u32::MAX),
        )
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .keep_alive_interval(body_idle)
        .keep_alive_timeout(PING_WAIT);
    if plan.config.http2_websocket {
        builder.enable_connect_protocol();
    }
    let ended = {
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Lent(stream.clone())), service));
        let mut moved_on = pin!(shared.moved_on());
        let mut lookout = Lookout::new();
        let mut idle = Idle { timer: shared.worker.wheel.timer(), waits: None };
        // Others may be answered, and pings may go to and fro, beside an answer that its client does not take.
        let mut leaving = shared.worker.wheel.timer();
        let mut goodbye = Goodbye::new(&shared.worker.wheel);
        let mut is_told = false;
        poll_fn(|cx| {
            let phase = lookout.poll(cx, shared, moved_on.as_mut());
            if phase == Phase::Forced {
                return Poll::Ready(None);
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if let Poll::Ready(Err(error)) = stream.borrow_mut().poll_out(cx) {
                tracing::debug!(peer = %door.ends.source, %error, "connection broke");
                return Poll::Ready(None);
            }
            if streams.is_leaving() {
                // Asked before it is armed: a timer that expired counts as unarmed.
                if leaving.poll_expired(cx).is_ready() && streams.give_up() {
                    return Poll::Ready(None);
                }
                if !leaving.is_armed() {
                    leaving.arm(body_idle);
                    let _ = leaving.poll_expired(cx);
                }
            } else {
                leaving.disarm();
            }
            let is_over = if streams.is_answering() {
                idle.end();
                false
            } else {
                let (written, is_stuck) = (stream.borrow().written(), stream.borrow().is_stuck());
                let (wait, max) = match streams.is_open() || is_stuck {
                    true => (Wait::Sending, body_idle),
                    false => (Wait::Resting, if is_told { GOODBYE_WAIT } else { timeouts.keep_alive.get() }),
                };
                let is_over = idle.poll(cx, wait, max, written).is_ready();
                if is_over && wait == Wait::Sending {
                    // The client took nothing of its answers for too long. What is cut must not look complete.
                    shared.metrics.limit_hit("body_idle");
                    return Poll::Ready(None);
                }
                is_over
            };
            if is_told {
                // A client that has seen GOAWAY and has no stream open closes at once. One that does not is left.
                return if is_over { Poll::Ready(Some(Ok(()))) } else { Poll::Pending };
            }
            // A client that has just connected must not be sent away before its first request: it would take that for
            // a failure.
            let is_ending = match phase {
                Phase::Serving => false,
                Phase::LameDuck => streams.opened() > 0,
                Phase::Closing | Phase::Forced => true,
            };
            let is_spent = streams.opened() >= door.requests_max();
            let is_leaving = is_ending || is_spent || door.is_outdated() && streams.opened() > 0;
            if is_over || is_leaving && goodbye.is_due(streams.is_open(), cx) {
                let hit = if is_over { Some("keep_alive") } else { is_spent.then_some("requests_max") };
                if let Some(limit) = hit {
                    shared.metrics.limit_hit(limit);
                }
                is_told = true;
                idle.end();
                connection.as_mut().graceful_shutdown();
                // Again at once, so that GOAWAY goes out and the wait for its effect begins.
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    };
    match ended {
        // Streams end, and are counted, with hyper.
        None => {
            if !tunnels.borrow().is_empty() {
                // A tunnel that has come to its own end with the last that was read is asked once more, before what is left
                // is cut.
                tokio::task::yield_now().await;
            }
            return reset_on_close(stream.borrow().get_ref().socket());
        }
        Some(Err(error)) => {
            tracing::debug!(peer = %door.ends.source, %error, "connection broke");
            let is_flood =
                |error: &h2::Error| error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
            if cause::<h2::Error>(&error).is_some_and(is_flood) {
                shared.metrics.limit_hit("http2_flood");
            }
        }
        // Streams that crossed with GOAWAY are lawfully ignored, but unread they would make of the close a reset.
        Some(Ok(())) => {
            if let Ok(stream) = Rc::try_unwrap(stream) {
                // A client that is slow says now and then how much more it takes.
                part(shared, &mut stream.into_inner().into_inner(), body_idle).await;
            }
        }
    }
    // Of tunnels, those go on whose clients had told their end: what waits for the back end is still brought there. Each has its
    // bounds, and the others see that their client is gone.
    let mut tunnels = tunnels.take();
    while tunnels.join_next().await.is_some() {}
}

/// Keeps what no two answers have in common out of the table of HPACK: h2 compares each field with all that the table holds
/// under its name, and these would fill it.
fn shun_table(headers: &mut HeaderMap, shared: &Shared) {
    let date = headers.entry(header::DATE).or_insert_with(|| shared.scratch.date(shared.worker.wheel.now()));
    date.set_sensitive(true);
    if let Some(id) = headers.get_mut(&name::X_REQUEST_ID) {
        id.set_sensitive(true);
    }
}

/// What follows on a stream that became a tunnel, until its end.
async fn stream_through(
    shared: Rc<Shared>,
    upgrade: OnUpgrade,
    tunnel: Tunnel,
    mut finish: Finish,
    (_stream, sender): (Stream, Sender),
) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "stream was gone before it became a tunnel"),
    };
    // hyper gives both at once.
    let Some(mut client) = StreamTunnel::new(upgraded, &sender, Peer::Client) else { return };
    let end = tunnel::carry(&shared, &mut client, Vec::new(), tunnel, &mut finish).await;
    end.tell(&mut finish);
    // A stream that is let go is reset.
    if end.is_told() {
        // A client that is gone needs no end.
        let _ = client.shutdown().await;
    }
}
