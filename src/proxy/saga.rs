//! Runs sagas, each as a task of the worker: what was done must be undone also when its client is gone.
//!
//! A task ends by itself: its steps at the saga's deadline or when the client leaves, each compensation after its own time.
//! There are no more of them than `in_flight_max`, and the worker's end waits for them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Response;
use tokio::sync::oneshot;

use super::Worker;
use crate::action::Action;
use crate::action::Json;
use crate::action::saga::run::Course;
use crate::action::saga::{Account, Saga};
use crate::exchange::{Exchange, Reason, Rejection};
use crate::http::body::Body;
use crate::http::problem::Form;
use crate::snapshot::Route;
use crate::telemetry::finish::Occupied;
use crate::upstream::Unfinished;

/// Runs a saga and answers what came of it, or that this cannot be told yet.
pub(super) async fn run(
    saga: &Saga,
    route: &Arc<Route>,
    exchange: &mut Exchange,
    worker: &Rc<Worker>,
) -> Result<Response<Body>, Rejection> {
    if Form::of(exchange.headers()) == Form::Grpc {
        return Err(Rejection::from(Reason::NotImplemented).detail("This route answers with JSON, and speaks no gRPC."));
    }
    let Some(place) = saga.enter() else {
        return Err(Rejection { limit: Some("routes.saga_in_memory.in_flight_max"), ..Reason::RouteBusy.into() });
    };
    let request_body = saga.request_body(exchange).await?;
    exchange.remember_form();
    let now = Instant::now();
    let mut closing = worker.log.begin_untold(now, worker.wall(now));
    closing.on_errand(&route.name, &route.generation);
    closing.record.request_id = exchange.closing.record.request_id.clone();
    let request = exchange.bare_request();
    let own = exchange.errand(request, closing, now);
    let id = worker.ids.borrow_mut().make(worker.wall(now));
    let account = Rc::new(saga.account(id.as_str()));
    let (reply, mut ended) = oneshot::channel();
    let task = Task {
        route: route.clone(),
        exchange: own,
        request_body,
        worker: worker.clone(),
        account: account.clone(),
        reply,
        _guards: (place, worker.unfinished.begin()),
    };
    tokio::task::spawn_local(task.run());
    let mut timer = exchange.wheel.timer();
    timer.arm_at(exchange.started + saga.patience);
    let is_alive = std::future::poll_fn(|cx| match std::pin::Pin::new(&mut ended).poll(cx) {
        std::task::Poll::Ready(word) => std::task::Poll::Ready(word.is_ok()),
        std::task::Poll::Pending => timer.poll_expired(cx).map(|()| true),
    })
    .await;
    account.tell(&mut exchange.closing.record);
    // Nothing is known of a task that panicked.
    if is_alive { saga.answer(&account, exchange) } else { Err(Reason::Internal.into()) }
}

/// A saga under way.
struct Task {
    route: Arc<Route>,
    exchange: Exchange,
    request_body: Option<Json>,
    worker: Rc<Worker>,
    account: Rc<Account>,
    reply: oneshot::Sender<()>,
    _guards: (Occupied, Unfinished),
}

impl Task {
    async fn run(self) {
        let Self { route, exchange, request_body, worker, account, mut reply, _guards } = self;
        let Action::Saga(saga) = &route.action else { return };
        let course = Course { exchange: &exchange, request_body, pools: &worker.pools, account: &account };
        saga.run(course, |cx| reply.poll_closed(cx)).await;
        // Fails when the client has gone meanwhile.
        let _ = reply.send(());
    }
}
