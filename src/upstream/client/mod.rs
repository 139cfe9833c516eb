//! Sending a request: which endpoint, which connection, and whether a failed try may be followed by another.

mod copy;
mod line;
mod outgoing;
mod trial;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http::{request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::answer;
use super::bench::{Checkout, Line, Told};
use super::breaker::Watch;
use super::bulkhead::{Bulkhead, Place};
use super::error::{Error, Kind};
use super::pick::Pick;
use super::plan::Plan;
use super::pool::Pools;
use super::progress::{Progress, Reached};
use super::retry::{self, Course};
use super::standing::Seat;
use super::state::Stay;
use super::tries::{Tries, push};
use super::{Call, Upstream};
use crate::http::body::{Body, Lease, Reply, Tunnel};
use crate::http::headers::name;
use crate::http::tunnel::Duplex;
use crate::http::websocket::Wish;
use crate::telemetry::metrics::RetryClass;
use crate::timer::Timer;
use crate::turn;
pub(super) use copy::inbound_of;
use copy::{Copy, is_idempotent};
use line::patiently;
use outgoing::{address, prepare};
use trial::Trial;

/// Why a connection gave no answer.
pub(super) enum Failure {
    /// Nothing of the request was sent, and here it is. `is_alone`: no other was on the connection.
    Unsent { request: Box<Request<Body>>, error: Error, is_alone: bool },
    /// The upstream says that it looked at nothing of it. `is_alone`: nor had it anything else on the connection.
    Refused { error: Error, is_alone: bool },
    /// It was sent, in part or whole, and the connection ended. The head of the request is given back where it was kept.
    Broken { error: Error, head: Option<Box<request::Parts>> },
    /// The upstream ended this one exchange: it saw the request and decided. Or the request broke off.
    Ended { error: Error },
    /// It did not answer in time.
    Late,
}

impl Failure {
    /// Whether nothing of the request was taken, where nothing else could be the reason: among others it may be one too
    /// many.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Unsent { is_alone: true, .. } | Self::Refused { is_alone: true, .. })
    }

    /// What went wrong; the request, if it can be sent again; and why it may be, whatever the plan for retries says. `may_race`: the
    /// connection may have ended for being idle, just as the request was sent.
    fn sort(self, copy: Option<Copy>, may_race: bool) -> (Error, Option<Request<Body>>, Option<RetryClass>) {
        let restore = |kept| copy.and_then(|copy| copy.restore(kept));
        match self {
            Self::Unsent { request, error, .. } => (error, Some(*request), Some(RetryClass::Unsent)),
            Self::Refused { error, .. } => (error, restore(None), Some(RetryClass::Unsent)),
            Self::Broken { error, head } => {
                let is_race = may_race && error.kind() == Kind::Reset;
                (error, restore(head), is_race.then_some(RetryClass::ReusedNoByte))
            }
            Self::Ended { error } => (error, restore(None), None),
            Self::Late => (Kind::Timeout.into(), restore(None), None),
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
                    trial.failed(&error);
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
                let error = Error::new(Kind::NoTunnel);
                trial.failed(&error);
                return Err(error);
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
            if let (true, Line::Http2(stream)) = (is_stream, &line) {
                stream.ask_for_tunnel(request);
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
                let answer = pin!(line.send(request));
                patiently(&mut timer, limit.as_mut(), plan, &line, inbound.as_deref(), answer).await
            };
            let failure = match outcome {
                Some(Ok((mut head, body))) => {
                    if let Err(error) = answer::check(&head, plan, wish.as_ref()) {
                        trial.failed(&error);
                        return Err(error);
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
                        let granted = granted.await.map_err(|_| Kind::Reset)?;
                        let io = stream.tunnel(granted).ok_or(Kind::Protocol)?;
                        wish.grant_upgrade(&mut head);
                        return Ok(tunnel(head, Box::new(io), Bytes::new(), plan, stream.clone()));
                    }
                    let came = Came { head, body, line, watch, seat };
                    let wants = |retry: &retry::Plan| may_try_again && retry.wants_head(&came.head);
                    if !plan.retry.as_ref().is_some_and(wants) {
                        return Ok(came.pass_on(held, timer, plan));
                    }
                    push(&mut tries.tried, place);
                    let restored = copy.and_then(|copy| copy.restore(None));
                    let asked = retry::retry_after(&came.head);
                    // Asked only where there is something to send: it takes from the budget.
                    let again =
                        restored.and_then(|restored| Some((restored, this.again(&mut tries, asked, |_| true)?)));
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
                if matches!(failure, Failure::Late) {
                    // Of that it hears from the task that waits for the answer.
                    turn::others_first().await;
                }
            }
            if let Some(error) = inbound.as_ref().and_then(|inbound| inbound.error.get()) {
                let error = Error::new(Kind::Client(error));
                trial.failed(&error);
                return Err(error);
            }
            let is_broken = matches!(failure, Failure::Broken { .. });
            let is_refusing = failure.is_refusal() && !tries.may_be_race(is_reused);
            let (error, again, class) = failure.sort(copy, is_reused && tries.may_repeat);
            tries.may_repeat &= !is_broken;
            match class {
                // The end of an idle connection says nothing of the upstream, nor does a stream that is one too many. An
                // endpoint that takes nothing is as good as one that cannot be reached.
                Some(_) if again.is_some() && !is_refusing => trial.is_race(&error),
                _ => trial.failed(&error),
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
    let tunnel = Tunnel { io, ahead, idle: plan.tunnel_idle, end: None, lease, is_over: false };
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
