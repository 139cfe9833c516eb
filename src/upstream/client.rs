//! Sending a request: which endpoint, which connection, and whether a failed try may be followed by another.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use http::{request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use smallvec::SmallVec;

use super::answer;
use super::bench::{Bench, Checkout, Line, Told};
use super::breaker::{self, Outcome, Watch};
use super::bulkhead::{Bulkhead, Place};
use super::endpoint::Endpoint;
use super::error::{Error, Kind};
use super::http1;
use super::http2;
use super::pick::Pick;
use super::plan::Plan;
use super::pool::Pools;
use super::progress::{Progress, Reached};
use super::retry::{self, Course};
use super::standing::Seat;
use super::state::Stay;
use super::tries::{Tries, push};
use super::turns::{self, Turns};
use super::{Call, HostRule, Upstream};
use crate::config::upstream::Protocol;
use crate::http::body::{Body, Duplex, Feed, Inbound, Lease, Replay, Reply, Tunnel};
use crate::http::headers::{self, name};
use crate::http::websocket::Wish;
use crate::telemetry::metrics::RetryClass;
use crate::telemetry::record::AttemptRow;
use crate::timer::Timer;
use crate::turn;

/// Why a connection gave no answer.
pub(super) enum Failure {
    /// Nothing of the request was sent, and here it is.
    Unsent { request: Box<Request<Body>>, error: Error },
    /// The upstream says that it looked at nothing of it.
    Refused { error: Error },
    /// It was sent, in part or whole, and the connection ended. The head of the request is given back where it was kept.
    Broken { error: Error, head: Option<Box<request::Parts>> },
    /// The upstream ended this one exchange: it saw the request and decided. Or the request broke off.
    Ended { error: Error },
    /// It did not answer in time.
    Late,
}

impl Failure {
    /// What went wrong; the request, if it can be sent again; and why it may be, whatever the plan for retries says. `may_race`: the
    /// connection may have ended for being idle, just as the request was sent.
    fn sort(self, copy: Option<Copy>, may_race: bool) -> (Error, Option<Request<Body>>, Option<RetryClass>) {
        let restore = |kept| copy.and_then(|copy| copy.restore(kept));
        match self {
            Self::Unsent { request, error } => (error, Some(*request), Some(RetryClass::Unsent)),
            Self::Refused { error } => (error, restore(None), Some(RetryClass::Unsent)),
            Self::Broken { error, head } => {
                let is_race = may_race && error.kind() == Kind::Reset;
                (error, restore(head), is_race.then_some(RetryClass::ReusedNoByte))
            }
            Self::Ended { error } => (error, restore(None), None),
            Self::Late => (Kind::Timeout.into(), restore(None), None),
        }
    }
}

/// The head of an answer, and its body where the line itself does not have it.
type Begun = (response::Parts, Option<Incoming>);

pin_project! {
    /// A request on its way. hyper's future has room for a whole request, and each `async fn` around it would have that
    /// room twice: what is awaited and what is given to be awaited do not share theirs.
    #[project = SendingOn]
    enum Sending<'l, F> {
        Http1 { answer: http1::Sent<'l> },
        Http2 { #[pin] answer: F, stream: &'l http2::Stream },
    }
}

impl<F: Future<Output = http2::Sent>> Future for Sending<'_, F> {
    type Output = Result<Begun, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            SendingOn::Http1 { answer } => ready!(Pin::new(answer).poll(cx)).map(|head| (head, None)),
            SendingOn::Http2 { answer, stream } => match ready!(answer.poll(cx)) {
                Ok(response) => {
                    stream.answered();
                    let (head, body) = response.into_parts();
                    Ok((head, Some(body)))
                }
                Err(error) => Err(stream.failure(error)),
            },
        })
    }
}

impl Line {
    fn send(&self, request: Request<Body>) -> impl Future<Output = Result<Begun, Failure>> {
        match self {
            Self::Http1(connection) => Sending::Http1 { answer: connection.send(request) },
            Self::Http2(stream) => Sending::Http2 { answer: stream.send(request), stream },
        }
    }

    fn occupy(&self, stay: Stay) {
        match self {
            Self::Http1(connection) => connection.occupy(stay),
            Self::Http2(stream) => stream.occupy(stay),
        }
    }

    /// The body of its answer, which is `incoming` where the line does not have it.
    fn into_feed(self, incoming: Option<Incoming>) -> Option<Feed> {
        match (self, incoming) {
            (Self::Http1(connection), _) => Some(Feed::Channel(connection)),
            (Self::Http2(stream), Some(incoming)) => Some(Feed::Stream(incoming, stream)),
            (Self::Http2(_), None) => None,
        }
    }
}

impl Upstream {
    /// Sends `request` and gives the head of its answer. The body of the answer holds the connection and gives it back
    /// when it was read to its end; dropped before, it closes the connection.
    ///
    /// A request is sent again only where that is safe: always if nothing of it was sent, or the upstream says it
    /// looked at nothing; once if it is idempotent (RFC 9110 §9.2.2), its body is still there, and a connection that
    /// had served before ended without a byte of an answer. Of idempotent ones, further tries are the plan's to allow.
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
        let Call { host, deadline, due, tells, ends, class, key, side, attempts } = call;
        let mut timer = pools.wheel().timer();
        let held = match Bulkhead::at_once(&self.state, &self.plan.bounds, class) {
            Some(place) => place,
            // In a box, for few have to wait.
            None => {
                let (bounds, metrics) = (&self.plan.bounds, &self.metrics);
                Box::pin(Bulkhead::wait(&self.state, bounds, class, deadline, &mut timer, metrics)).await?
            }
        };
        if !self.plan.protocol.is_http2() {
            // HTTP/2 gathers what goes out by itself. This comes before a connection is taken: between the look at it and its use
            // nothing must come in that would be taken for the answer.
            turn::others_first().await;
        }
        let found = match &self.behind {
            None => None,
            Some(behind) => Some(behind.in_time(&mut timer).await?),
        };
        let this = found.as_deref().unwrap_or(self);
        let plan = &*this.plan;
        let told = plan.proxy_protocol.map(|version| Told { version, ends });
        let lineup = pools.lineup(this);
        let mut limit = plan.retry.as_ref().and_then(|retry| retry.per_try).map(|_| pools.wheel().timer());
        prepare(request, plan.protocol);
        let wish = request.extensions_mut().remove::<Wish>();
        let is_stream = wish.is_some() && plan.protocol.is_http2();
        if is_stream {
            Wish::ask_for_stream(request);
        }
        let mut inbound = inbound_of(request.body());
        let mut tries = Tries::new(is_idempotent(request), side.shuns);
        // In a box, for it is rare and large.
        let mut last: Option<Box<Result<Came, Error>>> = None;
        loop {
            let now = Instant::now();
            if tries.course.is_none() && side.shuns.is_none() {
                tries.course = plan.retry.as_ref().map(|retry| Course::begin(retry, &this.state.budget, deadline, now));
            }
            // What it is with the addresses of now is the same for all routes; whose breaker counts is not.
            let own = self.standings.breaker.as_ref();
            let settled = tries.at.take();
            let Pick { place, leave, seat } = match this.pick(own, settled, &tries.tried, key, is_timed(request), now) {
                Ok(pick) => pick,
                // What came of the last try says more.
                Err(error) => {
                    return last.map_or(Err(error), |last| *last).map(|came| came.pass_on(held, timer, plan));
                }
            };
            if let Some(Ok(came)) = last.take().map(|last| *last) {
                came.discard();
            }
            if let Some(tells) = side.tells {
                tells.set(Some(place));
            }
            let endpoint = &plan.endpoints[place];
            let bench = lineup.bench(place);
            let is_queued = Cell::new(false);
            let mut trial = Trial {
                endpoint: &endpoint.label,
                place,
                upstream: this,
                bench,
                is_queued: &is_queued,
                attempts,
                began: now,
                due,
                leave,
                inbound: inbound.clone(),
                outcome: None,
            };
            if let (Some(limit), Some(per_try)) = (&mut limit, plan.retry.as_ref().and_then(|retry| retry.per_try)) {
                limit.arm(per_try);
            }
            let checkout = {
                let checkout = pin!(bench.checkout(tries.is_fresh, told, &is_queued, &mut timer));
                capped(limit.as_mut(), checkout).await
            };
            // A try that ended in armiger's own queue says nothing of the endpoint, but another may have room.
            let is_cut = checkout.is_none();
            let cut = || Err(if trial.is_queued() { Kind::QueueWait } else { Kind::ConnectTimeout }.into());
            let Checkout { line, is_reused } = match checkout.unwrap_or_else(cut) {
                Ok(checkout) => checkout,
                Err(error) => {
                    trial.failed(error.kind());
                    drop((trial, seat));
                    let Some(wait) = this.unreached(&mut tries, place, &error, is_cut) else { return Err(error) };
                    pause(&mut timer, wait).await;
                    last = Some(Box::new(Err(error)));
                    continue;
                }
            };
            if is_stream
                && let Line::Http2(stream) = &line
                && !Box::pin(stream.becomes_tunnel(plan.connect)).await
            {
                trial.failed(Kind::NoTunnel);
                return Err(Kind::NoTunnel.into());
            }
            // Whoever may have to send it again needs a copy: the connection takes the request for good.
            let may_be_refused = plan.protocol.is_http2();
            let may_try_again = tries.may_try_again();
            let copy = if may_be_refused || may_try_again || (is_reused && tries.may_repeat) {
                Copy::of(request, inbound.as_ref(), plan, may_be_refused || may_try_again)
            } else {
                None
            };
            address(request, endpoint, host, plan.protocol);
            if is_stream {
                Wish::name_protocol(request);
            }
            // What is left now, and not what there was when it came.
            tells.write(request.headers_mut(), deadline, now);
            if !tries.tried.is_empty() {
                request.headers_mut().insert(
                    &name::X_ARMIGER_ATTEMPTS,
                    HeaderValue::from(trial.attempts.len() + 1 + usize::from(side.shuns.is_some())),
                );
            }
            let progress = request.extensions().get::<Progress>().cloned();
            if let Some(progress) = &progress {
                progress.advance(Reached::Upstream);
            }
            let outcome = {
                let answer = pin!(line.send(std::mem::take(request)));
                patiently(&mut timer, limit.as_mut(), plan, &line, inbound.as_deref(), answer).await
            };
            let failure = match outcome {
                Some(Ok((mut head, body))) => {
                    if let Err(kind) = answer::check(&head, plan, wish.as_ref()) {
                        trial.failed(kind);
                        return Err(kind.into());
                    }
                    let watch = trial.answered(&head);
                    if let Some(progress) = &progress {
                        progress.advance(Reached::Answer);
                    }
                    if let (Line::Http1(connection), false) = (&line, is_reused) {
                        connection.heed(&head.headers);
                    }
                    if head.status == StatusCode::SWITCHING_PROTOCOLS {
                        let Line::Http1(connection) = line else { return Err(Kind::Protocol.into()) };
                        // How a tunnel ends says nothing of the upstream.
                        connection.occupy(Stay { _place: held, _seat: seat, watch: None });
                        let (io, ahead) = connection.upgraded().ok_or(Kind::Reset)?;
                        return Ok(tunnel(head, Box::new(io), ahead, plan, connection));
                    }
                    if let (Some(wish), Line::Http2(stream), StatusCode::OK) = (&wish, &line, head.status) {
                        let granted = head.extensions.remove::<OnUpgrade>().ok_or(Kind::Protocol)?;
                        stream.occupy(Stay { _place: held, _seat: seat, watch: None });
                        // It is there with the answer: this waits for nothing.
                        let io = granted.await.map_err(|_| Kind::Reset)?;
                        wish.grant_upgrade(&mut head);
                        return Ok(tunnel(head, Box::new(TokioIo::new(io)), Bytes::new(), plan, stream.clone()));
                    }
                    let came = Came { head, body, line, watch, seat };
                    let wants = |retry: &retry::Plan| may_try_again && retry.wants_head(&came.head);
                    if !plan.retry.as_ref().is_some_and(wants) {
                        return Ok(came.pass_on(held, timer, plan));
                    }
                    push(&mut tries.tried, place);
                    let restored = copy.and_then(|copy| copy.restore(None));
                    let asked = retry::retry_after(&came.head);
                    let again = restored.zip(this.again(&mut tries, asked, |_| true));
                    let Some((restored, wait)) = again else { return Ok(came.pass_on(held, timer, plan)) };
                    last = Some(Box::new(Ok(came)));
                    *request = restored;
                    inbound = inbound_of(request.body());
                    pause(&mut timer, wait).await;
                    continue;
                }
                Some(Err(failure)) => failure,
                None => {
                    if let Line::Http2(stream) = &line {
                        // Perhaps nobody is there any more. Its other streams may still prove the contrary.
                        stream.spend();
                    }
                    Failure::Late
                }
            };
            drop((line, seat));
            if plan.protocol.is_http2() {
                // Who sends its body has a task of its own, which hears of this too and gives the rest of the body back.
                turn::others_first().await;
            }
            if let Some(error) = inbound.as_ref().and_then(|inbound| inbound.error.get()) {
                let kind = Kind::Client(error);
                trial.failed(kind);
                return Err(kind.into());
            }
            let is_broken = matches!(failure, Failure::Broken { .. });
            let (error, again, class) = failure.sort(copy, is_reused && tries.may_repeat);
            tries.may_repeat &= !is_broken;
            match class {
                // The end of an idle connection says nothing of the upstream.
                Some(_) if again.is_some() => trial.is_race(error.kind()),
                _ => trial.failed(error.kind()),
            }
            drop(trial);
            let Some(again) = again else { return Err(error) };
            *request = again;
            inbound = inbound_of(request.body());
            let Some(wait) = this.unanswered(&mut tries, place, is_reused, &error, class) else { return Err(error) };
            tracing::debug!(upstream = %this.name, endpoint = %endpoint.label, %error, "request is sent again");
            last = Some(Box::new(Err(error)));
            pause(&mut timer, wait).await;
        }
    }
}

/// An answer that is a connection of its own from now on.
fn tunnel(
    head: response::Parts,
    io: Box<dyn Duplex>,
    ahead: Bytes,
    plan: &Plan,
    lease: Rc<dyn Lease>,
) -> Response<Body> {
    let tunnel = Tunnel { io, ahead, idle: plan.tunnel_idle, end: None, lease };
    Response::from_parts(head, Body::Tunnel(Box::new(tunnel)))
}

/// Waits for `wait`.
async fn pause(timer: &mut Timer, wait: Duration) {
    if !wait.is_zero() {
        timer.arm(wait);
        poll_fn(|cx| timer.poll_expired(cx)).await;
        timer.disarm();
    }
}

/// Waits for `future`, but no longer than `limit` is armed for.
async fn capped<F: Future>(mut limit: Option<&mut Timer>, mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        match &mut limit {
            Some(limit) => limit.poll_expired(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// An answer whose head is here.
struct Came {
    head: response::Parts,
    /// Where the line does not have it.
    body: Option<Incoming>,
    line: Line,
    watch: Option<Watch>,
    seat: Option<Seat>,
}

impl Came {
    /// The answer as it goes on, with everything that it holds until its end.
    fn pass_on(self, held: Place, timer: Timer, plan: &Plan) -> Response<Body> {
        self.line.occupy(Stay { _place: held, _seat: self.seat, watch: self.watch });
        let body = match self.line.into_feed(self.body) {
            Some(feed) => Body::Reply(Reply::new(feed, timer, plan.body_idle)),
            None => Body::Empty,
        };
        Response::from_parts(self.head, body)
    }

    /// Nobody wants it. Its connection is saved if the rest of it is here.
    fn discard(self) {
        let Some(mut feed) = self.line.into_feed(self.body) else { return };
        let mut cx = Context::from_waker(Waker::noop());
        let mut left = DISCARD_MAX;
        while !feed.is_end_stream() {
            match feed.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    if length > left {
                        return;
                    }
                    left -= length;
                }
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
        feed.give_back();
    }
}

/// What is read of an answer that nobody wants.
const DISCARD_MAX: usize = 64 * 1024;

/// Whether it is the upstream that is slow if the answer is: an upload takes as long as its client does.
fn is_timed(request: &Request<Body>) -> bool {
    match request.body() {
        Body::Received(received) => received.is_here(),
        body => body.is_end_stream() || matches!(body, Body::Full(_)),
    }
}

/// One try, recorded when it ends, however it ends.
struct Trial<'t, 'u> {
    endpoint: &'t Arc<str>,
    place: usize,
    upstream: &'u Upstream,
    bench: &'t Rc<Bench>,
    is_queued: &'t Cell<bool>,
    attempts: &'t mut SmallVec<[AttemptRow; 2]>,
    began: Instant,
    due: Instant,
    leave: Option<breaker::Permit<'u>>,
    inbound: Option<Rc<Inbound>>,
    outcome: Option<&'static str>,
}

impl Trial<'_, '_> {
    /// An answer began. Gives who is to hear how it goes on.
    fn answered(mut self, head: &response::Parts) -> Option<Watch> {
        let now = Instant::now();
        let uploaded = self.inbound.as_ref().and_then(|inbound| inbound.ended_at.get());
        let watch = self.leave.take().and_then(|mut leave| {
            if let Some(at) = uploaded {
                leave.counts_from(at);
            }
            leave.answered(head, now)
        });
        if self.upstream.plan.ejection.is_some() {
            match self.upstream.plan.judge.of_head(head) {
                Outcome::Failure => self.counts_against(now),
                Outcome::Success | Outcome::Answered => self.upstream.standings.succeeded(self.place),
                Outcome::Excluded => {}
            }
        }
        // How long the client took for its body is not the upstream's doing.
        if let Some(since) = turns::since(self.inbound.as_deref(), self.began) {
            self.took(since, now);
            if self.upstream.plan.hedge.is_some() {
                self.upstream.state.latency.note(now.saturating_duration_since(since));
            }
        }
        self.upstream.metrics.responded(now.saturating_duration_since(self.began));
        self.end("ok", now);
        watch
    }

    /// Whether it waits for others to leave their connections, which is armiger's bound and not the endpoint's doing.
    fn is_queued(&self) -> bool {
        self.is_queued.get() && !self.bench.is_coming()
    }

    /// There was no answer.
    fn failed(&mut self, kind: Kind) {
        let now = Instant::now();
        if let Some(leave) = self.leave.take() {
            leave.failed(kind, now);
        }
        if self.upstream.plan.judge.of_error(kind) == Outcome::Failure {
            self.counts_against(now);
        }
        if kind == Kind::Timeout {
            self.took(turns::since(self.inbound.as_deref(), self.began).unwrap_or(self.began), now);
        }
        self.end(kind.slug(), now);
    }

    /// The connection had ended before it was used: that says nothing of the upstream.
    fn is_race(&mut self, kind: Kind) {
        drop(self.leave.take());
        self.end(kind.slug(), Instant::now());
    }

    /// What is learnt of how much the upstream bears, whose turn it was since then.
    fn took(&self, since: Instant, now: Instant) {
        let Upstream { plan, state, metrics, .. } = self.upstream;
        if plan.bounds.adaptive.is_some() {
            state.bulkhead.took(&plan.bounds, now.saturating_duration_since(since), now, metrics);
        }
    }

    fn counts_against(&self, now: Instant) {
        let Upstream { name, plan, standings, .. } = self.upstream;
        if let Some(ejection) = &plan.ejection
            && standings.failed(self.place, ejection, now)
        {
            tracing::warn!(upstream = %name, endpoint = %self.endpoint, "endpoint ejected");
        }
    }

    fn end(&mut self, outcome: &'static str, now: Instant) {
        let duration = now.saturating_duration_since(self.began);
        self.outcome = Some(outcome);
        self.upstream.metrics.attempted(outcome);
        self.attempts.push(AttemptRow { addr: self.endpoint.clone(), outcome, duration });
    }
}

impl Drop for Trial<'_, '_> {
    fn drop(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        let now = Instant::now();
        // Whoever gives up early says nothing of the upstream, be it by the deadline that it asked for; but if the time that
        // the configuration gives was over, it is the upstream that used it up, unless it waited for the client itself, or the
        // client had left it the lesser part.
        let inbound = self.inbound.as_deref();
        let is_clients = turns::is_clients(inbound)
            || turns::since(inbound, self.began).is_some_and(|since| {
                now.saturating_duration_since(since) < since.saturating_duration_since(self.began)
            });
        if now >= self.due && !is_clients && !self.is_queued() {
            if let Some(leave) = self.leave.take() {
                leave.failed(Kind::Timeout, now);
            }
            if self.upstream.plan.judge.of_error(Kind::Timeout) == Outcome::Failure {
                self.counts_against(now);
            }
        }
        self.end("abandoned", now);
    }
}

/// Waits for `answer`, but no longer than `first_byte` after the upstream got the request's last byte, or than `limit` is
/// armed for, which counts anew while the client's body is awaited.
async fn patiently<F: Future>(
    timer: &mut Timer,
    mut limit: Option<&mut Timer>,
    plan: &Plan,
    line: &Line,
    inbound: Option<&Inbound>,
    mut answer: Pin<&mut F>,
) -> Option<F::Output> {
    let mut passed = 0;
    let per_try = plan.retry.as_ref().and_then(|retry| retry.per_try).unwrap_or_default();
    let mut turns = Turns::of(line, inbound);
    // A tick early does no harm: what is left is asked when it expires.
    timer.arm_coarsely(plan.first_byte);
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        if let Some(limit) = limit.as_deref_mut() {
            while limit.poll_expired(cx).is_ready() {
                let Some(left) = turns.left(per_try) else { return Poll::Ready(None) };
                limit.arm(left);
            }
        }
        // One timer per request: what moved since is asked only when it expires.
        loop {
            ready!(timer.poll_expired(cx));
            let left = line.left_of(plan.first_byte);
            let passes = inbound.map_or(0, |inbound| inbound.bytes.get());
            if let Some(left) = left {
                timer.arm(left);
            } else if turns::is_clients(inbound) || (passes > passed && matches!(line, Line::Http2(_))) {
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
    pub(super) fn left_of(&self, patience: Duration) -> Option<Duration> {
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
    /// Where only the end of a reused HTTP/1.1 connection is feared, that connection keeps it.
    head: Option<Box<request::Parts>>,
    body: CopiedBody,
}

enum CopiedBody {
    Here(Bytes),
    Passing(Rc<Replay>, Rc<Inbound>),
}

impl Copy {
    /// None if the body cannot be had twice. Without a head, that which the connection keeps has to do.
    fn of(request: &mut Request<Body>, inbound: Option<&Rc<Inbound>>, plan: &Plan, with_head: bool) -> Option<Self> {
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
        let head = with_head.then(|| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.headers_mut() = request.headers().clone();
            Box::new(head.into_parts().0)
        });
        Some(Self { head, body })
    }

    /// The request with the head that was copied, or with the one that was `kept`.
    fn restore(self, kept: Option<Box<request::Parts>>) -> Option<Request<Body>> {
        let head = self.head.or(kept)?;
        let body = match self.body {
            CopiedBody::Here(bytes) => Body::full(bytes),
            CopiedBody::Passing(replay, inbound) => replay.resume(&inbound)?,
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
    // One walk, for hardly any has one of them, and each look-up costs as much.
    if length.is_some() && !headers.keys().any(|name| matches!(*name, TRANSFER_ENCODING | CONTENT_LENGTH)) {
        return;
    }
    headers.remove(TRANSFER_ENCODING);
    match length {
        Some(length) => {
            let told = headers.get(CONTENT_LENGTH);
            // `0010` is lawful and says the same; but not everybody reads it as a decimal number.
            if told.is_some_and(|told| !is_number(told.as_bytes(), length)) {
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

/// Whether these are the digits of `number`, and no more.
fn is_number(digits: &[u8], number: u64) -> bool {
    let value = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    value == Some(number) && (!matches!(digits[0], b'0' | b'+') || digits.len() == 1)
}

/// Addresses the request to `endpoint`: the form of its target, and `Host` or `:authority`.
fn address(request: &mut Request<Body>, endpoint: &Endpoint, rule: HostRule, protocol: Protocol) {
    let is_told = headers::host(request.headers()).is_some();
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
