//! Sending a request: which endpoint, which connection, and whether a failed try may be followed by another.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use pin_project_lite::pin_project;
use smallvec::SmallVec;

use super::answer;
use super::bench::{Checkout, Line};
use super::endpoint::Endpoint;
use super::error::{Error, Kind};
use super::http1;
use super::http2;
use super::plan::Plan;
use super::pool::Pools;
use super::state::Permit;
use super::{Call, HostRule, Upstream};
use crate::config::upstream::Protocol;
use crate::http::body::{Body, Inbound, Lease, Replay, Reply};
use crate::http::headers::name;
use crate::telemetry::metrics::{RetryClass, UpstreamMetrics};
use crate::telemetry::record::AttemptRow;
use crate::timer::Timer;

/// How often a request is sent again because nothing of it was processed. Bounds an HTTP/2 upstream that refuses every
/// stream.
const UNSENT_MAX: usize = 3;

/// Why a connection gave no answer.
pub(super) enum Failure {
    /// Nothing of the request was sent, and here it is.
    Unsent { request: Box<Request<Body>>, error: hyper::Error },
    /// The upstream says that it looked at nothing of it.
    Refused { error: hyper::Error },
    /// It was sent, in part or whole, and the connection ended. `began` if a byte of the answer had arrived. Its head is
    /// given back where it was kept.
    Broken { error: hyper::Error, began: bool, head: Option<Box<Parts>> },
    /// The upstream ended this one exchange: it saw the request and decided.
    Ended { error: hyper::Error },
}

/// What hyper makes of a request.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<Body>>>;

pin_project! {
    /// A request on its way. hyper's futures have room for a whole request, and each `async fn` around them would have that
    /// room twice: what is awaited and what is given to be awaited do not share theirs.
    #[project = SendingOn]
    enum Sending<'l, F1, F2> {
        Http1 { #[pin] answer: F1, connection: &'l http1::Connection },
        Http2 { #[pin] answer: F2, stream: &'l http2::Stream },
    }
}

impl<F1: Future<Output = Sent>, F2: Future<Output = Sent>> Future for Sending<'_, F1, F2> {
    type Output = Result<Response<Incoming>, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            SendingOn::Http1 { answer, connection } => {
                ready!(answer.poll(cx)).map_err(|error| connection.failure(error))
            }
            SendingOn::Http2 { answer, stream } => {
                let sent = ready!(answer.poll(cx));
                if sent.is_ok() {
                    stream.answered();
                }
                sent.map_err(|error| stream.failure(error))
            }
        })
    }
}

impl Line {
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        match self {
            Self::Http1(connection) => Sending::Http1 { answer: connection.send(request), connection },
            Self::Http2(stream) => Sending::Http2 { answer: stream.send(request), stream },
        }
    }

    fn occupy(&self, permit: Permit) {
        match self {
            Self::Http1(connection) => connection.occupy(permit),
            Self::Http2(stream) => stream.occupy(permit),
        }
    }

    fn into_lease(self) -> Rc<dyn Lease> {
        match self {
            Self::Http1(connection) => connection,
            Self::Http2(stream) => stream,
        }
    }
}

impl Upstream {
    /// Sends `request` and gives the head of its answer. The body of the answer holds the connection and gives it back
    /// when it was read to its end; dropped before, it closes the connection.
    ///
    /// A request is sent again only where that is safe: always if nothing of it was sent, or the upstream says it
    /// looked at nothing; once if it is idempotent (RFC 9110 §9.2.2), its body is still there, and a connection that
    /// had served before ended without a byte of an answer; otherwise never.
    ///
    /// Has no deadline of its own over all tries: drop it to give up, which closes its connection and frees every
    /// permit. What is left of `request` is nobody's.
    ///
    /// # Errors
    ///
    /// What went wrong last. If the client broke off its body, that is the error.
    pub async fn send(
        &self,
        pools: &Pools,
        call: Call<'_>,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let plan = &*self.plan;
        let mut permit = Some(self.state.admit(plan.in_flight_max)?);
        let Call { host, attempts } = call;
        let lineup = pools.lineup(self);
        let mut timer = pools.wheel().timer();
        prepare(request, plan.protocol);
        let mut inbound = inbound_of(request.body());
        let mut place = self.state.turn(plan.endpoints.len());
        let (mut unreached, mut unsent) = (0, 0);
        let mut is_fresh = false;
        let mut may_repeat = is_idempotent(request);
        loop {
            let endpoint = &plan.endpoints[place];
            let mut trial = Trial::start(endpoint, attempts, &self.metrics);
            let Checkout { line, is_reused } = match lineup.bench(place).checkout(is_fresh, &mut timer).await {
                Ok(checkout) => checkout,
                Err(error) => {
                    trial.ends(error.slug());
                    unreached += 1;
                    if !error.kind().is_connect() || unreached >= plan.endpoints.len() {
                        return Err(error);
                    }
                    self.metrics.retried(RetryClass::Unsent);
                    place = (place + 1) % plan.endpoints.len();
                    continue;
                }
            };
            // Whoever may have to send it again needs a copy: hyper takes the request for good.
            let may_be_refused = plan.protocol.is_http2();
            let copy = if may_be_refused || (is_reused && may_repeat) {
                Copy::of(request, inbound.as_ref(), plan)
            } else {
                None
            };
            address(request, endpoint, host, plan.protocol);
            let outcome = {
                let answer = pin!(line.send(std::mem::take(request)));
                patiently(&mut timer, plan, &line, inbound.as_deref(), answer).await
            };
            let failure = match outcome {
                Some(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    if let Err(kind) = answer::check(&head, plan) {
                        trial.ends(kind.slug());
                        return Err(kind.into());
                    }
                    trial.ends(OK);
                    if let Line::Http1(connection) = &line {
                        connection.heed(head.version, &head.headers, !is_reused);
                    }
                    if let Some(permit) = permit.take() {
                        line.occupy(permit);
                    }
                    let is_http2 = matches!(line, Line::Http2(_));
                    let body = Body::Reply(Reply::new(body, line.into_lease(), timer, plan.body_idle, is_http2));
                    return Ok(Response::from_parts(head, body));
                }
                Some(Err(failure)) => failure,
                None => {
                    if let Line::Http2(stream) = &line {
                        // Perhaps nobody is there any more. Its other streams may still prove the contrary.
                        stream.spend();
                    }
                    trial.ends(Kind::Timeout.slug());
                    return Err(Kind::Timeout.into());
                }
            };
            drop(line);
            if let Some(error) = inbound.as_ref().and_then(|inbound| inbound.error.get()) {
                let kind = Kind::Client(error);
                trial.ends(kind.slug());
                return Err(kind.into());
            }
            let (error, again, class) = match failure {
                Failure::Unsent { request, error } => {
                    (Error::because(Kind::Reset, error), Some(*request), RetryClass::Unsent)
                }
                Failure::Refused { error } => {
                    let again = copy.and_then(|copy| copy.restore(None));
                    (Error::because(Kind::Reset, error), again, RetryClass::Unsent)
                }
                Failure::Broken { error, began, head } => {
                    let error = Error::from_exchange(error, began);
                    let is_close_race = is_reused && may_repeat && error.kind() == Kind::Reset;
                    may_repeat = false;
                    (
                        error,
                        copy.filter(|_| is_close_race).and_then(|copy| copy.restore(head)),
                        RetryClass::ReusedNoByte,
                    )
                }
                Failure::Ended { error } => (Error::from_exchange(error, false), None, RetryClass::ReusedNoByte),
            };
            trial.ends(error.slug());
            let Some(again) = again else { return Err(error) };
            if let RetryClass::Unsent = class {
                unsent += 1;
                if unsent > UNSENT_MAX {
                    return Err(error);
                }
                if !is_reused {
                    // Not even a new connection took it: as good as not reached.
                    place = (place + 1) % plan.endpoints.len();
                }
            }
            self.metrics.retried(class);
            tracing::debug!(upstream = %self.name, endpoint = %endpoint.label, %error, "request is sent again");
            *request = again;
            inbound = inbound_of(request.body());
            is_fresh = true;
        }
    }
}

/// The outcome of a try that brought an answer.
const OK: &str = "ok";

/// One try, recorded when it ends, however it ends.
struct Trial<'t> {
    endpoint: &'t Arc<str>,
    attempts: &'t mut SmallVec<[AttemptRow; 2]>,
    metrics: &'t UpstreamMetrics,
    began: Instant,
    outcome: &'static str,
}

impl<'t> Trial<'t> {
    fn start(
        endpoint: &'t Endpoint,
        attempts: &'t mut SmallVec<[AttemptRow; 2]>,
        metrics: &'t UpstreamMetrics,
    ) -> Self {
        Self { endpoint: &endpoint.label, attempts, metrics, began: Instant::now(), outcome: "abandoned" }
    }

    fn ends(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        self.metrics.attempted(self.outcome);
        if self.outcome == OK {
            self.metrics.responded(duration);
        }
        self.attempts.push(AttemptRow { addr: self.endpoint.clone(), outcome: self.outcome, duration });
    }
}

/// Waits for `answer`, but no longer than `first_byte` after the upstream got the request's last byte.
async fn patiently<F: Future>(
    timer: &mut Timer,
    plan: &Plan,
    line: &Line,
    inbound: Option<&Inbound>,
    mut answer: Pin<&mut F>,
) -> Option<F::Output> {
    let mut passed = 0;
    // A tick early does no harm: what is left is asked when it expires.
    timer.arm_coarsely(plan.first_byte);
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        // One timer per request: what moved since is asked only when it expires.
        loop {
            ready!(timer.poll_expired(cx));
            let left = line.left_of(plan.first_byte);
            let passes = inbound.map_or(0, |inbound| inbound.bytes.get());
            let is_clients_turn = inbound.is_some_and(|inbound| !inbound.ended.get() && inbound.waits.get());
            if let Some(left) = left {
                timer.arm(left);
            } else if is_clients_turn || (passes > passed && matches!(line, Line::Http2(_))) {
                timer.arm(plan.first_byte);
            } else {
                return Poll::Ready(None);
            }
            passed = passes;
        }
    })
    .await;
    timer.disarm();
    outcome
}

impl Line {
    /// What is left of `patience` since the socket last took bytes. Streams of HTTP/2 share theirs, so it says nothing
    /// of one of them.
    fn left_of(&self, patience: Duration) -> Option<Duration> {
        match self {
            Self::Http1(connection) => {
                patience.checked_sub(connection.written_at().elapsed()).filter(|left| !left.is_zero())
            }
            Self::Http2(_) => None,
        }
    }
}

/// What is needed to send a request again.
struct Copy {
    /// On HTTP/1.1 the connection keeps it.
    head: Option<Box<Parts>>,
    body: CopiedBody,
}

enum CopiedBody {
    Here(Bytes),
    Passing(Rc<Replay>, Rc<Inbound>),
}

impl Copy {
    /// None if the body cannot be had twice.
    fn of(request: &mut Request<Body>, inbound: Option<&Rc<Inbound>>, plan: &Plan) -> Option<Self> {
        let max = plan.replay_max;
        let body = match (request.body_mut(), inbound) {
            (Body::Empty, _) => CopiedBody::Here(Bytes::new()),
            (Body::Full(bytes), _) => CopiedBody::Here(bytes.clone()),
            (Body::Received(received), Some(inbound)) => {
                if received.size_hint().lower() > max as u64 {
                    return None;
                }
                CopiedBody::Passing(received.keep(max), inbound.clone())
            }
            _ => return None,
        };
        let head = plan.protocol.is_http2().then(|| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.headers_mut() = request.headers().clone();
            Box::new(head.into_parts().0)
        });
        Some(Self { head, body })
    }

    /// The request with the head that was copied, or with the one that was `kept`.
    fn restore(self, kept: Option<Box<Parts>>) -> Option<Request<Body>> {
        let head = self.head.or(kept)?;
        let body = match self.body {
            CopiedBody::Here(bytes) => Body::full(bytes),
            CopiedBody::Passing(replay, inbound) => Body::full(replay.take(&inbound)?),
        };
        Some(Request::from_parts(*head, body))
    }
}

fn inbound_of(body: &Body) -> Option<Rc<Inbound>> {
    match body {
        Body::Received(received) => Some(received.inbound().clone()),
        _ => None,
    }
}

/// Whether doing it twice is as good as once (RFC 9110 §9.2.2), by its method or by the client's word.
fn is_idempotent(request: &Request<Body>) -> bool {
    request.method().is_idempotent() || request.headers().contains_key(&name::IDEMPOTENCY_KEY)
}

/// Gives the request the framing that its body has, whatever its headers say.
fn prepare(request: &mut Request<Body>, protocol: Protocol) {
    if request.body().is_end_stream() {
        *request.body_mut() = Body::Empty;
    }
    let length = request.body().size_hint().exact();
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    match length {
        Some(length) => {
            let told = headers.get(CONTENT_LENGTH);
            if told.is_some_and(|told| told.to_str().ok().and_then(|told| told.parse().ok()) != Some(length)) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            // hyper drops a body of unknown length from GET and HEAD unless it is told to send it.
            if protocol == Protocol::Http1 {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
    }
}

/// Addresses the request to `endpoint`: the form of its target, and `Host` or `:authority`.
fn address(request: &mut Request<Body>, endpoint: &Endpoint, rule: HostRule, protocol: Protocol) {
    let is_told = request.headers().contains_key(HOST);
    if rule == HostRule::Endpoint || !is_told {
        let host = match request.uri().authority() {
            Some(authority) if rule == HostRule::AsIs => HeaderValue::from_str(authority.as_str()).ok(),
            _ => None,
        };
        request.headers_mut().insert(HOST, host.unwrap_or_else(|| endpoint.host.clone()));
    }
    let path = || PathAndQuery::from_static("/");
    match protocol {
        Protocol::Http1 => {
            *request.version_mut() = Version::HTTP_11;
            if request.uri().authority().is_some() {
                let path = request.uri().path_and_query().cloned().unwrap_or_else(path);
                *request.uri_mut() = Uri::from(path);
            }
        }
        Protocol::H2c | Protocol::H2 => {
            *request.version_mut() = Version::HTTP_2;
            // RFC 9113 §8.3.1: `:authority` takes the place of `Host`.
            let host = request.headers_mut().remove(HOST);
            let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(if endpoint.is_https { Scheme::HTTPS } else { Scheme::HTTP });
            parts.authority = Some(authority.unwrap_or_else(|| endpoint.authority.clone()));
            parts.path_and_query.get_or_insert_with(path);
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
    }
}
