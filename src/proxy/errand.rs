//! Errands: fetching a route's answer for more than the exchange that asked for it.
//!
//! An errand is a task of the worker. It has an exchange of its own, so that it can go on when the client of the first one
//! is gone; it ends at the route's timeout, or when nobody wants it any more. The worker's end waits for it, as for exchanges:
//! exchanges of other workers may wait for its answer. There are no more of them than exchanges that wait, and the refreshes
//! that the cache allows.

use std::any::Any;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{Request, Response};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{Worker, pipeline};
use crate::action::{Errands, PartCall};
use crate::exchange::{Arrival, Exchange, Fetch, Fill, Followups, Ranges, Reason, Rejection, Settled};
use crate::http::body::Body;
use crate::snapshot::Route;
use crate::telemetry::finish::Closing;
use crate::telemetry::record::AttemptRow;
use crate::upstream::Unfinished;

/// What the exchange that waits gets, and what its record is told.
struct Fetched {
    answer: Result<Response<Body>, Rejection>,
    upstream: Option<Arc<str>>,
    attempts: SmallVec<[AttemptRow; 2]>,
    /// What policies hold until the answer is out, where that is all that is left to do.
    held: Vec<Box<dyn Any>>,
}

/// Has a route's answer fetched, and gives what the exchange is answered.
pub(super) async fn fetch(
    route: &Arc<Route>,
    exchange: &mut Exchange,
    worker: &Rc<Worker>,
    fetch: Fetch,
) -> Result<Response<Body>, Rejection> {
    begin(route, exchange, worker, fetch, None).await
}

/// The errands of a route's parts.
pub(super) struct Parts<'r> {
    /// The route.
    pub(super) route: &'r Arc<Route>,
    /// Whose tasks they are.
    pub(super) worker: &'r Rc<Worker>,
}

impl Errands for Parts<'_> {
    fn exchange(&self, of: &Exchange, request: Request<Body>, until: Instant) -> Exchange {
        let now = Instant::now();
        let mut exchange = of.errand(request, untold(self.route, of, self.worker, now), now);
        // The target is the part's own, and so is the time.
        (exchange.normal_path, exchange.params) = (None, Ranges::new());
        (exchange.deadline, exchange.due) = (until, until);
        exchange
    }

    fn fetch<'f>(
        &'f self,
        exchange: &'f mut Exchange,
        fetch: Fetch,
        call: PartCall,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Rejection>> + 'f>> {
        Box::pin(begin(self.route, exchange, self.worker, fetch, Some(call)))
    }
}

/// The record of an errand.
fn untold(route: &Route, of: &Exchange, worker: &Worker, now: Instant) -> Closing {
    let mut closing = worker.log.begin_untold(now, worker.wall(now));
    closing.on_errand(&route.name, &route.generation);
    closing.record.request_id = of.closing.record.request_id.clone();
    closing
}

async fn begin(
    route: &Arc<Route>,
    exchange: &mut Exchange,
    worker: &Rc<Worker>,
    fetch: Fetch,
    call: Option<PartCall>,
) -> Result<Response<Body>, Rejection> {
    let now = Instant::now();
    let errand = |request, exchange: &Exchange| exchange.errand(request, untold(route, exchange, worker, now), now);
    if let Some(answer) = fetch.answer {
        // Who is about to end begins nothing that nobody waits for.
        if !worker.is_draining.get() {
            let errand = errand(exchange.bare_request(), exchange);
            let unfinished = worker.unfinished.begin();
            tokio::task::spawn_local(run(route.clone(), errand, fetch.fill, worker.clone(), None, call, unfinished));
        }
        return Ok(answer);
    }
    exchange.remember_form();
    let request = std::mem::take(&mut *exchange.request);
    let errand = errand(request, exchange);
    let (reply, answer) = oneshot::channel();
    let unfinished = worker.unfinished.begin();
    tokio::task::spawn_local(run(route.clone(), errand, fetch.fill, worker.clone(), Some(reply), call, unfinished));
    // Nothing comes of an errand that panicked.
    let Ok(fetched) = answer.await else { return Err(Reason::Internal.into()) };
    let record = &mut exchange.closing.record;
    (record.upstream, record.attempts) = (fetched.upstream, fetched.attempts);
    fetched.held.into_iter().for_each(|held| exchange.closing.hold(held));
    fetched.answer
}

async fn run(
    route: Arc<Route>,
    mut exchange: Exchange,
    mut fill: Box<dyn Fill>,
    worker: Rc<Worker>,
    mut reply: Option<oneshot::Sender<Fetched>>,
    call: Option<PartCall>,
    _unfinished: Unfinished,
) {
    fill.ask(&mut exchange.request);
    let mut followups = Followups::default();
    let (wheel, deadline) = (worker.wheel.clone(), exchange.deadline);
    let ready = match call {
        // A part's request is as it goes out.
        Some(_) => Ok(None),
        None => {
            let ready = pin!(pipeline::ready(&route, &mut exchange, &mut followups));
            pipeline::in_time(&wheel, deadline, ready).await
        }
    };
    let mut outcome = match ready {
        Err(rejection) => Err(rejection),
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => {
            fill.sent(exchange.headers());
            let parts = Parts { route: &route, worker: &worker };
            let act = pin!(async {
                match &call {
                    Some(call) => call.run(&mut exchange, &worker.pools).await,
                    None => route.action.run(&mut exchange, &worker.pools, &parts).await,
                }
            });
            let act = pin!(pipeline::in_time(&wheel, deadline, act));
            match while_wanted(&mut *fill, &mut reply, act).await {
                Some(outcome) => outcome,
                None => return,
            }
        }
    };
    if let Ok(response) = &mut outcome {
        followups.run(response);
    }
    let now = Instant::now();
    let delay = now.saturating_duration_since(exchange.started);
    let arrival = Arrival { now, time: worker.wall(now), delay, wheel: exchange.wheel.clone() };
    let Settled { answer, rest } = fill.settle(outcome, arrival);
    if let (Some(reply), Some(answer)) = (reply, answer) {
        let held = if rest.is_none() { exchange.closing.take_held() } else { Vec::new() };
        let record = &mut exchange.closing.record;
        // Fails when the client has gone meanwhile.
        let _ = reply.send(Fetched {
            answer,
            upstream: record.upstream.take(),
            attempts: std::mem::take(&mut record.attempts),
            held,
        });
    }
    if let Some(rest) = rest {
        rest.await;
    }
}

/// What comes of `act`, or nothing once nobody wants it any more.
async fn while_wanted<T>(
    fill: &mut dyn Fill,
    reply: &mut Option<oneshot::Sender<Fetched>>,
    mut act: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = act.as_mut().poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        if let Some(open) = reply
            && open.poll_closed(cx).is_ready()
        {
            *reply = None;
            fill.left();
        }
        fill.poll_unwanted(cx).map(|()| None)
    })
    .await
}
