//! One connection: which protocol it speaks, and its exchanges until it ends.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::gate::{Gate, GateState, GateTimeouts};
use super::listener::Accepted;
use super::rt::{LocalExecutor, Rewound, Unread};
use super::worker::Shared;
use crate::exchange::Hop;
use crate::http::body::{Body, BodyError};
use crate::http::forwarded::{self, Scheme};
use crate::http::framing::{HeadLimits, Violation};
use crate::proxy::{self, Inlet};
use crate::telemetry::finish::Finish;
use crate::timer::Timer;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// hyper's read buffer grows up to this, so that long bodies come in few reads.
const READ_BUFFER_MAX: usize = 256 * 1024;

/// Streams that a client may open and reset before we have seen them: more is an attack (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;

/// Streams that a client may make us reset (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 64;

/// What is kept of an answer, per stream, for an HTTP/2 client that is slow to take it. hyper's own bound of 400 KiB is a
/// lot times the streams of a connection.
const SEND_BUFFER_MAX: usize = 64 * 1024;

/// How long an HTTP/1.1 connection keeps hyper's buffers with nothing going on.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long an HTTP/2 client may leave a ping unanswered.
const PING_WAIT: Duration = Duration::from_secs(20);

/// How long an HTTP/2 client without streams may keep a connection that we said goodbye to.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
pub(super) async fn serve(shared: &Rc<Shared>, accepted: Accepted) {
    let Accepted { stream, peer, listening, place } = accepted;
    // Without it a small answer may wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let mut stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "connection could not be watched"),
    };
    let plan = listening.plan.clone();
    let inlet = Rc::new(Inlet {
        in_flight: plan.state.in_flight.clone(),
        hop: Rc::new(Hop {
            forwarded: forwarded::Hop::new(peer.ip(), Scheme::Http, listening.address.port()),
            via: plan.via.clone(),
        }),
        peer,
        is_trusted: plan.trust.trusts(peer.ip()),
        plan,
    });
    match open(shared, &mut stream, &inlet).await {
        Some((Protocol::Http1, prefix)) => serve_http1(shared, stream, prefix, inlet).await,
        Some((Protocol::Http2, prefix)) => serve_http2(shared, stream, prefix, inlet, peer).await,
        None => {}
    }
    drop(place);
}

enum Protocol {
    Http1,
    Http2,
}

/// Waits for the first bytes and tells from them what the client speaks. Nothing is allocated as long as it is silent.
async fn open(shared: &Shared, stream: &mut TcpStream, inlet: &Inlet) -> Option<(Protocol, Vec<u8>)> {
    let mut timer = shared.worker.wheel.timer();
    timer.arm(inlet.plan.config.timeouts.request_headers.get());
    let mut prefix = Vec::new();
    loop {
        tokio::select! {
            biased;
            readable = stream.readable() => readable.ok()?,
            () = shared.stopped(), if prefix.is_empty() => return None,
            () = timer.expired() => {
                shared.metrics.limit_hit("request_headers");
                return None;
            }
        }
        let mut bytes = [0; 2048];
        match stream.try_read(&mut bytes) {
            Ok(0) => return None,
            Ok(length) => prefix.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if prefix.starts_with(PREFACE) {
            return Some((Protocol::Http2, prefix));
        }
        if !PREFACE.starts_with(&prefix) {
            return Some((Protocol::Http1, prefix));
        }
    }
}

// === HTTP/1.1 ===

async fn serve_http1(shared: &Rc<Shared>, stream: TcpStream, prefix: Vec<u8>, inlet: Rc<Inlet>) {
    let (limits, timeouts) = (&inlet.plan.config.limits, &inlet.plan.config.timeouts);
    let state = Rc::new(GateState::default());
    let mut gate = Gate::new(
        stream,
        prefix,
        HeadLimits {
            headers_max: limits.headers_max.into(),
            bytes_max: limits.header_bytes_max.get() as usize,
            target_max: limits.target_bytes_max.get() as usize,
        },
        GateTimeouts {
            request_headers: timeouts.request_headers.get(),
            body_idle: timeouts.body_idle.get(),
            keep_alive: timeouts.keep_alive.get(),
        },
        &shared.worker.wheel,
        &shared.scratch,
        state.clone(),
    );
    let requests_max = u64::from(limits.requests_max);
    let is_http10 = Cell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        is_http10.set(request.version() == Version::HTTP_10);
        let handled = proxy::handle(shared.worker.clone(), inlet.clone(), request);
        let (shared, state) = (shared.clone(), state.clone());
        async move {
            let mut response = handled.await;
            let is_last = state.requests() >= requests_max || state.violation().is_some() || shared.is_stopping();
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Watched { body, state }))
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_headers(limits.headers_max.into())
        .max_buf_size(READ_BUFFER_MAX.max(limits.header_bytes_max.get() as usize + 1));
    let mut stopped = pin!(shared.stopped());
    let mut watch = Watch { rest: shared.worker.wheel.timer(), is_watching: false, is_told: false };
    let (connection, ended) = loop {
        let mut connection = builder.serve_connection(gate, &service);
        let ended = poll_fn(|cx| {
            if watch.is_stopping(cx, shared, stopped.as_mut()) && !watch.is_told {
                watch.is_told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            match Pin::new(&mut connection).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending => watch.poll_rest(cx, shared, &state).map(|()| None),
            }
        })
        .await;
        if let Some(ended) = ended {
            break (connection, ended);
        }
        // At rest, hyper's buffers are all that the connection holds: without them it costs a tenth.
        gate = connection.into_parts().io;
        let is_awake = poll_fn(|cx| {
            if watch.is_stopping(cx, shared, stopped.as_mut()) { Poll::Ready(false) } else { gate.poll_wake(cx) }
        });
        if !is_awake.await {
            return;
        }
    };
    if let Err(error) = &ended {
        tracing::debug!(peer = %inlet.peer, %error, "connection broke");
    }
    if let Some(limit) = state.violation().and_then(limit_of) {
        shared.metrics.limit_hit(limit);
    }
    if let Some(violation) = state.refusal() {
        let response = proxy::refuse(&shared.worker, &inlet, violation);
        let mut gate = connection.into_parts().io;
        if let Err(error) = gate.refuse(&rendered(response)).await {
            tracing::debug!(peer = %inlet.peer, %error, "refusal was not read");
        }
    } else if ended.is_err() && is_http10.get() {
        // HTTP/1.0 has no chunks: the end of the connection is the end of the answer, and only a reset says that it
        // was cut (RFC 9112 §8).
        let (stream, _) = connection.into_parts().io.into_parts();
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// What an HTTP/1.1 connection is watched for beside its exchanges.
struct Watch {
    /// Goes off now and then, and asks whether the connection has been idle. Not armed anew for each exchange, which
    /// would cost each of them.
    rest: Timer,
    is_watching: bool,
    is_told: bool,
}

impl Watch {
    fn is_stopping(&mut self, cx: &mut Context<'_>, shared: &Shared, stopped: Pin<&mut impl Future>) -> bool {
        // Polled once, to be woken; after that the flag tells as well, and costs nothing.
        let is_stopping = if self.is_watching { shared.is_stopping() } else { stopped.poll(cx).is_ready() };
        self.is_watching = true;
        is_stopping
    }

    /// Ready once the connection has been idle for [`REST_AFTER`].
    fn poll_rest(&mut self, cx: &mut Context<'_>, shared: &Shared, state: &GateState) -> Poll<()> {
        if self.is_told {
            return Poll::Pending;
        }
        let now = shared.worker.wheel.now();
        if !self.rest.is_armed() {
            let idle_since = state.idle_since();
            if idle_since.is_some_and(|since| now >= since + REST_AFTER) {
                return Poll::Ready(());
            }
            self.rest.arm_at(idle_since.unwrap_or(now) + REST_AFTER);
        }
        if self.rest.poll_expired(cx).is_ready() {
            // Expired is no longer armed: looked at again at once.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The configured bound that a violation is about.
fn limit_of(violation: Violation) -> Option<&'static str> {
    match violation {
        Violation::HeadTimeout => Some("request_headers"),
        Violation::BodyTimeout | Violation::WriteTimeout => Some("body_idle"),
        Violation::TooManyHeaders => Some("headers_max"),
        Violation::HeadTooLarge => Some("header_bytes_max"),
        Violation::TargetTooLong => Some("target_bytes_max"),
        _ => None,
    }
}

/// A refusal as bytes. hyper has left the connection when it is sent.
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

/// A response body that tells the gate when the next request may come in.
struct Watched {
    body: Finish,
    state: Rc<GateState>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.exchange_finished();
    }
}

// === HTTP/2 ===

async fn serve_http2(shared: &Rc<Shared>, stream: TcpStream, prefix: Vec<u8>, inlet: Rc<Inlet>, peer: SocketAddr) {
    let (limits, timeouts) = (inlet.plan.config.limits.clone(), inlet.plan.config.timeouts.clone());
    let streams = Rc::new(Streams::default());
    let executor = LocalExecutor { next: Rc::default() };
    let service = service_fn({
        let (shared, inlet, streams, next) = (shared.clone(), inlet.clone(), streams.clone(), executor.next.clone());
        move |request: Request<Incoming>| {
            let handled = proxy::handle(shared.worker.clone(), inlet.clone(), request);
            let stream = Stream::open(&streams);
            let unread = Unread::new(&shared.worker.wheel, timeouts.body_idle.get(), &shared.metrics);
            next.set(Some(unread.clone()));
            async move { Ok::<_, Infallible>(handled.await.map(|body| Counted { body, unread, _stream: stream })) }
        }
    });
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max.get()).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .keep_alive_interval(timeouts.body_idle.get())
        .keep_alive_timeout(PING_WAIT)
        .serve_connection(TokioIo::new(Rewound::new(stream, prefix)), service);
    let mut connection = pin!(connection);
    let mut stopped = pin!(shared.stopped());
    let mut idle = Idle { timer: shared.worker.wheel.timer(), is_timed: false };
    let mut is_told = false;
    let ended = poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        if polled.is_ready() {
            return polled;
        }
        let wait = if is_told { GOODBYE_WAIT } else { timeouts.keep_alive.get() };
        let is_over = idle.poll(cx, streams.open.get(), wait).is_ready();
        if is_told {
            // A client that has seen GOAWAY and has no stream open closes at once. One that does not is left.
            return if is_over { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        if is_over || stopped.as_mut().poll(cx).is_ready() || streams.opened.get() >= u64::from(limits.requests_max) {
            is_told = true;
            idle.is_timed = false;
            connection.as_mut().graceful_shutdown();
            // Again at once, so that GOAWAY goes out and the wait for its effect begins.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection broke");
    }
}

/// Watches for a connection without streams.
struct Idle {
    timer: Timer,
    is_timed: bool,
}

impl Idle {
    /// Ready once there was no stream for so long.
    fn poll(&mut self, cx: &mut Context<'_>, streams: usize, wait: Duration) -> Poll<()> {
        if streams > 0 {
            self.timer.disarm();
            self.is_timed = false;
            return Poll::Pending;
        }
        if !self.is_timed {
            self.is_timed = true;
            self.timer.arm(wait);
        }
        self.timer.poll_expired(cx)
    }
}

/// The streams of a connection.
#[derive(Default)]
struct Streams {
    open: Cell<usize>,
    opened: Cell<u64>,
}

struct Stream(Rc<Streams>);

impl Stream {
    fn open(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.opened.set(streams.opened.get() + 1);
        Self(streams.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// A response body that counts as an open stream, whose client must read.
struct Counted {
    body: Finish,
    unread: Rc<Unread>,
    _stream: Stream,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.unread.end();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.unread.begin();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
