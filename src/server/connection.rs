//! One connection: which protocol it speaks, and its exchanges until it ends.
//!
//! How armiger's end ([`Phase`]) comes to a connection, so that no request is lost:
//! - `LameDuck`: the next answer asks the client to close, by `Connection: close` or GOAWAY. An idle HTTP/1.1 connection
//!   is left alone, for a request may be on its way.
//! - `Closing`: the same, and a connection that is idle, or has never sent a byte, is closed after [`LAST_WAIT`] unless
//!   the kernel has bytes of it by then. Whoever closes then reads on for a while, so that the client sees an end and no
//!   reset. A request that crosses with that end cannot be served; HTTP/1.1 has no way to (RFC 9112 §9.5).
//! - `Forced`: cut, by a reset.
//!
//! A connection of a listener that was removed, or whose fixed settings have changed, ends in the same way with its next
//! answer; until then, and if none comes until its keep-alive time is over, it rests.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, UnixTime};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::task::JoinSet;

use super::drain::Phase;
use super::gate::{Entered, Gate, GateState, GateTimeouts, LINGER_BYTES_MAX, LINGER_TIME};
use super::handshake::{self, Agreed};
use super::http1::{Ended, Exchange};
use super::listener::{Accepted, Listening};
use super::proxied;
use super::rt::{Lent, LocalExecutor, Rewound};
use super::stream::{Outbound, Outgoing, Stream, Streams};
use super::tunnel::{self, End};
use super::wire::Wire;
use super::worker::Shared;
use crate::config::listener::Listener;
use crate::exchange::{Certificate, Hop};
use crate::http::body::{Arriving, Body, BodyError, Tunnel, cause};
use crate::http::forwarded::{self, Scheme};
use crate::http::framing::{HeadLimits, Violation};
use crate::http::headers::name;
use crate::http::inflow::Inflow;
use crate::http::pace::Rate;
use crate::http::proxy_protocol::Ends;
use crate::http::websocket::Wish;
use crate::proxy::{self, Inlet};
use crate::snapshot::ListenerPlan;
use crate::telemetry::finish::Finish;
use crate::timer::Timer;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams that a client may open and reset before we have seen them: more is an attack (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;

/// Streams that a client may make us reset (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 64;

/// What is kept of an answer, per stream, for an HTTP/2 client that is slow to take it. hyper's own bound of 400 KiB is a
/// lot times the streams of a connection.
pub(super) const SEND_BUFFER_MAX: usize = 64 * 1024;

/// What a client may send on a stream ahead of who reads it. A client that must wait for each window to be opened anew is as
/// slow as that is small: curl gets through about half of one in a millisecond.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// What all its streams together may hold, for each of them. It bounds what a connection holds, and leaves room for others
/// unless a good many streams with large bodies are read by nobody.
const STREAM_SHARE: u32 = 128 * 1024;

/// The most that a window may be (RFC 9113 §6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// How many times `header_bytes_max` h2 may hold of a head. Beyond, it answers a bare 431 of its own, of which armiger hears
/// nothing; what is between the two is refused like any other request, with its reason, its log line and its count.
const HEAD_ROOM: u64 = 2;

/// How long an HTTP/1.1 connection with nothing going on keeps the place of its exchanges.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long an HTTP/2 client may leave a ping unanswered.
const PING_WAIT: Duration = Duration::from_secs(20);

/// How long an HTTP/2 client without streams may keep a connection that we said goodbye to.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

/// How long an idle connection may still bring a request when armiger ends. Its client may have just had an answer that
/// did not ask it to close.
pub(super) const LAST_WAIT: Duration = Duration::from_millis(500);

/// Serves a connection until it ends.
pub(super) async fn serve(shared: &Rc<Shared>, accepted: Accepted) {
    let Accepted { stream, peer, listening, place } = accepted;
    // Without it a small answer may wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "connection could not be watched"),
    };
    let plan = listening.plan();
    // A socket that is gone has no address; it will be found out soon.
    let mut stream = stream;
    let reached = listening.address.tcp().unwrap_or(peer);
    let mut ends = Ends { source: peer, destination: stream.local_addr().unwrap_or(reached) };
    if let Some(from) = &plan.balancers {
        match Box::pin(proxied::ends(shared, &mut stream, ends, &plan, from)).await {
            Some(told) => ends = told,
            None => return,
        }
    }
    let (mut stream, agreed) = match &plan.tls {
        None => (Wire::Tcp(stream), None),
        Some(tls) => {
            let shaken = Box::pin(handshake::shake(shared, stream, &listening, &plan, &tls.config, ends.source)).await;
            let Some((stream, agreed)) = shaken else { return };
            (stream, Some(agreed))
        }
    };
    let door = Rc::new(Door::new(listening, ends, agreed.as_ref()));
    match open(shared, &mut stream, &plan, agreed).await {
        Some((Protocol::Http1, prefix)) => serve_http1(shared, stream, prefix, door).await,
        Some((Protocol::Http2, prefix)) => serve_http2(shared, stream, prefix, door).await,
        None => {}
    }
    drop(place);
}

/// The listener as a connection knows it: what holds for its requests is looked up anew whenever the plan has changed.
struct Door {
    listening: Arc<Listening>,
    ends: Ends,
    scheme: Scheme,
    certificate: Option<Rc<Certificate>>,
    /// The certificates that the client showed.
    shown: Box<[CertificateDer<'static>]>,
    version: Cell<u64>,
    inlet: RefCell<Rc<Inlet>>,
    is_outdated: Cell<bool>,
}

impl Door {
    fn new(listening: Arc<Listening>, ends: Ends, agreed: Option<&Agreed>) -> Self {
        let scheme = if agreed.is_some() { Scheme::Https } else { Scheme::Http };
        let certificate = agreed.and_then(|agreed| agreed.certificate.clone());
        let shown = agreed.map(|agreed| agreed.shown.clone()).unwrap_or_default();
        // The number before the plan: a change in between is then seen twice, and not never.
        let version = listening.news(0).unwrap_or(0);
        let inlet = RefCell::new(Rc::new(inlet(&listening, ends, scheme, certificate.clone())));
        let is_outdated = Cell::new(listening.is_removed());
        Self { listening, ends, scheme, certificate, shown, version: Cell::new(version), inlet, is_outdated }
    }

    /// What holds for a request that comes now.
    fn inlet(&self) -> Rc<Inlet> {
        self.look();
        self.inlet.borrow().clone()
    }

    /// Looks whether the plan has changed.
    fn look(&self) {
        let Some(version) = self.listening.news(self.version.get()) else { return };
        self.version.set(version);
        let mut inlet = inlet(&self.listening, self.ends, self.scheme, self.certificate.clone());
        inlet.is_barred = self.is_barred(&self.inlet.borrow(), &inlet);
        let inlet = Rc::new(inlet);
        let old = self.inlet.replace(inlet.clone());
        let is_other = fixed(&old.plan.config) != fixed(&inlet.plan.config);
        self.is_outdated.set(self.is_outdated.get() || is_other || self.listening.is_removed());
    }

    /// Whether the client, which came in by `old`, would not by `new`: whom we believe counts from the next request on.
    fn is_barred(&self, old: &Inlet, new: &Inlet) -> bool {
        let asked = |inlet: &Inlet| inlet.plan.config.tls.as_ref().and_then(|tls| tls.client_auth.clone());
        let Some(tls) = new.plan.tls.as_ref().filter(|_| asked(old) != asked(new)) else { return old.is_barred };
        !tls.lets_in(&self.shown, UnixTime::now())
    }

    /// How many requests the connection may bring, as of the last look.
    fn requests_max(&self) -> u64 {
        self.inlet.borrow().plan.config.limits.requests_max.into()
    }

    /// Whether, as of the last look, the listener is gone, or what the connection began with has changed or ended: it
    /// serves its present request and ends.
    #[expect(clippy::disallowed_methods, reason = "certificates end by the time of day")]
    fn is_outdated(&self) -> bool {
        self.is_outdated.get() || self.certificate.as_ref().is_some_and(|shown| shown.is_over(SystemTime::now()))
    }
}

fn inlet(listening: &Listening, ends: Ends, scheme: Scheme, certificate: Option<Rc<Certificate>>) -> Inlet {
    let (plan, peer) = (listening.plan(), ends.source);
    let port = listening.address.tcp().map_or(scheme.port(), |address| address.port());
    let told = forwarded::Hop::new(peer.ip(), scheme, port);
    Inlet {
        in_flight: plan.state.in_flight.clone(),
        hop: Rc::new(Hop {
            forwarded: if plan.config.writes_forwarded() { told.with_forwarded() } else { told },
            via: plan.via.clone(),
            certificate,
        }),
        peer,
        reached: ends.destination,
        is_trusted: plan.trust.trusts(peer.ip()),
        is_barred: false,
        plan,
    }
}

/// What a connection takes from its plan once, at its start.
fn fixed(config: &Listener) -> impl PartialEq + use<> {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    (
        (
            limits.headers_max,
            limits.header_bytes_max.get(),
            limits.header_value_bytes(),
            limits.target_bytes_max.get(),
            limits.streams_max,
            limits.body_rate_min.get(),
        ),
        (timeouts.request_headers.get(), timeouts.body_idle.get(), timeouts.body_rate.get(), timeouts.keep_alive.get()),
        config.http2_websocket,
        config.proxy_protocol.clone(),
        // A renewed certificate is for new connections; whom we believe counts for all.
        config.tls.as_ref().map(|tls| (tls.min_version, tls.client_auth.clone())),
    )
}

/// Whether bytes have come that nobody has read. The kernel is asked: the reactor may not have turned since.
fn has_unread(stream: &TcpStream) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|length| length > 0)
}

/// Closes so that a client that is still sending sees an end and no reset: waits for its end as long as it says something
/// every [`LINGER_TIME`], and no longer than `most`.
async fn part(shared: &Shared, stream: &mut Wire, most: Duration) {
    let mut timer = shared.worker.wheel.timer();
    let now = shared.worker.wheel.now();
    let end = now + most;
    timer.arm_at(end.min(now + LINGER_TIME));
    let shut_down = tokio::select! {
        biased;
        shut_down = stream.shutdown() => shut_down,
        // TLS has a word to say, and the client may not take it.
        () = timer.expired() => return,
        () = shared.reached(Phase::Forced) => return,
    };
    if shut_down.is_err() {
        return;
    }
    let mut left = LINGER_BYTES_MAX;
    let mut bytes = [0; 2048];
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut bytes) => read,
            () = timer.expired() => return,
            () = shared.reached(Phase::Forced) => return,
        };
        match read {
            Ok(length) if length > 0 => {
                left = left.saturating_sub(length);
                timer.arm_at(end.min(shared.worker.wheel.now() + LINGER_TIME));
            }
            _ => return,
        }
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Waits for the first bytes and tells from them what the client speaks. Nothing is allocated as long as it is silent.
async fn open(
    shared: &Shared,
    stream: &mut Wire,
    plan: &ListenerPlan,
    agreed: Option<Agreed>,
) -> Option<(Protocol, Vec<u8>)> {
    let mut timer = shared.worker.wheel.timer();
    timer.arm(plan.config.timeouts.request_headers.get());
    let mut prefix = Vec::new();
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            read = read_some(stream, &mut prefix) => if read.ok()? == 0 { return None },
            // A client that has connected is about to ask.
            () = shared.reached(Phase::Closing), if !is_closing => {
                is_closing = true;
                if prefix.is_empty() {
                    timer.arm(LAST_WAIT);
                }
                continue;
            }
            () = shared.reached(Phase::Forced), if is_closing => return None,
            () = timer.expired() => {
                if is_closing && has_unread(stream.socket()) {
                    timer.arm(LAST_WAIT);
                    continue;
                }
                if is_closing && prefix.is_empty() {
                    part(shared, stream, LINGER_TIME).await;
                    return None;
                }
                shared.metrics.limit_hit("request_headers");
                return None;
            }
        }
        match &agreed {
            Some(Agreed { is_http2: true, .. }) => return Some((Protocol::Http2, prefix)),
            Some(Agreed { is_http2: false, .. }) => return Some((Protocol::Http1, prefix)),
            None => {}
        }
        if prefix.starts_with(PREFACE) {
            return Some((Protocol::Http2, prefix));
        }
        if !PREFACE.starts_with(&prefix) {
            return Some((Protocol::Http1, prefix));
        }
    }
}

/// Reads what has come, and says how much that was.
fn read_some(stream: &mut Wire, into: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>> {
    poll_fn(|cx| {
        let mut bytes = [0; 2048];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        into.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

// === HTTP/1.1 ===

async fn serve_http1(shared: &Rc<Shared>, stream: Wire, prefix: Vec<u8>, door: Rc<Door>) {
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
    let service = |request: Request<Option<Inflow>>| {
        is_http10.set(request.version() == Version::HTTP_10);
        let inlet = door.inlet();
        let (shared, state, door, tunnels) = (shared.clone(), state.clone(), door.clone(), tunnels.clone());
        async move {
            let request = request.map(|body| body.map_or(Arriving::None, Arriving::Http1));
            // Called in here: handed in, the future of the whole exchange would have its place twice.
            let mut response = proxy::handle(shared.worker.clone(), inlet, request).await;
            if response.body().is_tunnel() {
                state.become_tunnel();
                let (head, mut finish) = response.into_parts();
                tunnels.set(finish.take_tunnel().map(|tunnel| (tunnel, finish)));
                return Response::from_parts(head, Watched { body: None, state });
            }
            // The plan may have changed since the request came.
            door.look();
            let is_last = state.requests() >= door.requests_max()
                || state.violation().is_some()
                || door.is_outdated()
                || shared.phase() >= Phase::LameDuck;
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
        place.set(Some(service(entered.request)));
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
                }
                return;
            }
            None => {
                // The exchange ends, and is counted, with its future or its body.
                let is_counted = state.in_flight();
                return cut(shared, &gate, is_counted);
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
        let response = proxy::refuse(&shared.worker, &door.inlet(), violation, gate.asked_method());
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
    if let Some(limit) = state.violation().and_then(limit_of) {
        shared.metrics.limit_hit(limit);
    }
}

/// What follows a 101, until its end.
async fn pass_through(shared: &Shared, client: &mut Wire, held: Vec<u8>, tunnel: Tunnel, finish: &mut Finish) {
    match Box::pin(tunnel::carry(shared, client, held, tunnel, finish)).await {
        End::Over => {
            finish.ended(None);
            part(shared, client, LINGER_TIME).await;
        }
        End::Ended(by) => {
            finish.ended(Some(by));
            part(shared, client, LINGER_TIME).await;
        }
        End::Cut(by) => {
            finish.ended(Some(by));
            reset_on_close(client.socket());
        }
    }
}

/// Why a connection no longer waits for its next request.
#[expect(clippy::large_enum_variant, reason = "most are requests, and none is kept")]
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
fn cut(shared: &Shared, gate: &Gate<Wire>, is_counted: bool) {
    if gate.is_answering() {
        reset_on_close(gate.get_ref().socket());
        if !is_counted {
            shared.cut_unsent();
        }
    }
}

fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// What an HTTP/1.1 connection is watched for beside its exchanges.
struct Watch {
    /// Goes off now and then, and asks whether the connection has been idle. Not armed anew for each exchange, which
    /// would cost each of them.
    rest: Timer,
}

impl Watch {
    /// Ready once the connection has been idle for [`REST_AFTER`].
    fn poll_rest(&mut self, cx: &mut Context<'_>, shared: &Shared, state: &GateState) -> Poll<()> {
        let now = shared.worker.wheel.now();
        if !self.rest.is_armed() {
            let idle_since = state.idle_since();
            if idle_since.is_some_and(|since| now >= since + REST_AFTER) {
                return Poll::Ready(());
            }
            self.rest.arm_at(idle_since.unwrap_or(now) + REST_AFTER);
        }
        self.poll_timer(cx)
    }

    /// Ready once the connection has been idle for [`LAST_WAIT`], and no byte has come.
    fn poll_last(&mut self, cx: &mut Context<'_>, shared: &Shared, gate: &Gate<Wire>) -> Poll<()> {
        let now = shared.worker.wheel.now();
        let until = gate.state().idle_since().unwrap_or(now) + LAST_WAIT;
        if now < until {
            self.rest.arm_at(until);
            return self.poll_timer(cx);
        }
        if has_unread(gate.get_ref().socket()) {
            // The reactor is about to tell.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rest.poll_expired(cx).is_ready() {
            // Expired is no longer armed: looked at again at once.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// How far armiger's end has come, as far as a connection has looked.
struct Lookout {
    phase: Phase,
    is_looking: bool,
}

impl Lookout {
    fn new() -> Self {
        Self { phase: Phase::Serving, is_looking: false }
    }

    /// Looks, and is woken by the next change.
    fn poll<'s>(&mut self, cx: &mut Context<'_>, shared: &'s Shared, mut moved_on: Pin<&mut Notified<'s>>) -> Phase {
        let phase = shared.phase();
        // Polled once, to be woken; after that the flag tells as well, and costs nothing.
        if !self.is_looking || phase != self.phase {
            (self.phase, self.is_looking) = (phase, true);
            moved_on.set(shared.moved_on());
            // Nothing moves while this runs, so it is pending.
            let _ = moved_on.poll(cx);
        }
        phase
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

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = &mut self.body
            && matches!(self.state.violation(), Some(Violation::WriteTimeout | Violation::WriteTooSlow))
        {
            body.outwaited();
        }
    }
}

// === HTTP/2 ===

async fn serve_http2(shared: &Rc<Shared>, stream: Wire, prefix: Vec<u8>, door: Rc<Door>) {
    let plan = door.inlet().plan.clone();
    let (limits, timeouts) = (&plan.config.limits, &plan.config.timeouts);
    let body_idle = timeouts.body_idle.get();
    let streams = Rc::new(Streams::default());
    let executor = LocalExecutor { next: Rc::default() };
    // They end with the connection at the latest.
    let tunnels = Rc::new(RefCell::new(JoinSet::new()));
    let service = service_fn({
        let (shared, door, streams, next) = (shared.clone(), door.clone(), streams.clone(), executor.next.clone());
        let tunnels = tunnels.clone();
        move |mut request: Request<Incoming>| {
            let (worker, inlet) = (shared.worker.clone(), door.inlet());
            let stream = Stream::open(&streams);
            let (shared, tunnels) = (shared.clone(), tunnels.clone());
            let outgoing = Outgoing::new(&shared.worker.wheel, body_idle, &shared.metrics);
            next.set(Some(outgoing.clone()));
            async move {
                let upgrade = Wish::is_extended_connect(&request).then(|| hyper::upgrade::on(&mut request));
                // In a box, and made there: what hyper asks for it moves many times before it is polled.
                let mut place = Box::pin(None);
                place.set(Some(proxy::handle(worker, inlet, request.map(Arriving::Http2))));
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
                        tunnels.spawn_local(stream_through(shared, upgrade, tunnel, finish, stream));
                    }
                    return Ok(Response::from_parts(head, Outbound::tunnel(outgoing)));
                }
                shun_table(response.headers_mut(), &shared);
                Ok::<_, Infallible>(response.map(|body| Outbound::new(outgoing, body, stream)))
            }
        }
    });
    let stream = Rc::new(RefCell::new(Rewound::new(stream, prefix, shared.scratch.clone())));
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(
            STREAM_SHARE.saturating_mul(limits.streams_max).clamp(STREAM_WINDOW, WINDOW_MAX),
        )
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
            if is_over || is_ending || is_spent || door.is_outdated() && streams.opened() > 0 {
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
        None => reset_on_close(stream.borrow().get_ref().socket()),
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
            let Ok(stream) = Rc::try_unwrap(stream) else { return };
            // A client that is slow says now and then how much more it takes.
            part(shared, &mut stream.into_inner().into_inner(), body_idle).await;
        }
    }
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
async fn stream_through(shared: Rc<Shared>, upgrade: OnUpgrade, tunnel: Tunnel, mut finish: Finish, _stream: Stream) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "stream was gone before it became a tunnel"),
    };
    let mut client = TokioIo::new(upgraded);
    match tunnel::carry(&shared, &mut client, Vec::new(), tunnel, &mut finish).await {
        End::Over => {
            finish.ended(None);
            // A client that is gone needs no end.
            let _ = client.shutdown().await;
        }
        End::Ended(by) => {
            finish.ended(Some(by));
            let _ = client.shutdown().await;
        }
        End::Cut(by) => finish.ended(Some(by)),
    }
}

/// Watches for a connection that answers nobody.
struct Idle {
    timer: Timer,
    /// What is waited for, and how much had been written when that began.
    waits: Option<(Wait, u64)>,
}

/// What a connection that answers nobody waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// That its client takes what is left for it.
    Sending,
    /// Another request, or that the client closes.
    Resting,
}

impl Idle {
    /// Ready once nobody was answered for so long. As long as bytes leave for which a client is waited for, the time begins
    /// anew; pings that are sent while it rests are none.
    fn poll(&mut self, cx: &mut Context<'_>, wait: Wait, max: Duration, written: u64) -> Poll<()> {
        if self.waits.is_none_or(|(before, _)| before != wait) {
            self.waits = Some((wait, written));
            self.timer.arm(max);
        }
        ready!(self.timer.poll_expired(cx));
        if wait == Wait::Resting || self.waits.is_some_and(|(_, before)| before == written) {
            return Poll::Ready(());
        }
        self.waits = Some((wait, written));
        self.timer.arm(max);
        self.timer.poll_expired(cx)
    }

    /// Somebody is being answered.
    fn end(&mut self) {
        if self.waits.take().is_some() {
            self.timer.disarm();
        }
    }
}
