//! All parts of one exchange: each begins as soon as those that it names are over, and all end with the exchange.
//!
//! Parts are futures within the exchange's own. Whoever drops that one (a client that leaves, a deadline) drops them,
//! their connections and their permits; nothing of an aggregate outlives it.

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Aggregate;
use super::answer::{Freshness, completed};
use super::merge::{self, Share};
use super::part::{self, Failure, Outcome, word};
use crate::action::call;
use crate::action::errand::Errands;
use crate::action::fill;
use crate::action::json::{self, Json};
use crate::action::proxy::reason;
use crate::config::upstream::Class;
use crate::exchange::{Client, Exchange, Reason, Rejection};
use crate::expression::Fault;
use crate::http::body::Body;
use crate::http::headers::name;
use crate::http::problem::Form;
use crate::timer::Wheel;
use crate::upstream::Pools;

type Work<'w> = Pin<Box<dyn Future<Output = Outcome> + 'w>>;

/// What the parts of one exchange share.
pub(super) struct Run<'e> {
    pub(super) aggregate: &'e Aggregate,
    pub(super) pools: &'e Pools,
    pub(super) errands: &'e dyn Errands,
    pub(super) wheel: Wheel,
    /// Who sent the request.
    pub(super) client: Client,
    pub(super) class: Class,
    /// When the answer must be there.
    pub(super) until: Instant,
    /// When its caller gives up.
    pub(super) deadline: Instant,
    /// Borrowed for as long as a request is made, or a line of the log written, and never while anybody waits.
    pub(super) exchange: RefCell<&'e mut Exchange>,
    pub(super) request_body: Option<Json>,
    pub(super) turns: Semaphore,
    /// What is said of parts that end unfinished.
    pub(super) ending: Cell<&'static str>,
    outcomes: Vec<OnceCell<Outcome>>,
}

impl Run<'_> {
    /// What the part at this place said, if it did.
    pub(super) fn said(&self, place: usize) -> Option<fill::Said<'_>> {
        match self.outcomes[place].get()? {
            Outcome::Said(said) => {
                Some(fill::Said { body: said.raw.view(), status: Some(said.status), headers: Some(&said.headers) })
            }
            Outcome::Fixed(_) => {
                let fixed = self.aggregate.parts[place].fallback.fixed.as_ref()?;
                Some(fill::Said { body: fixed.view(), status: None, headers: None })
            }
            Outcome::Missing(_) | Outcome::NotAsked => None,
        }
    }

    /// Whether a part's condition holds.
    pub(super) fn wants(&self, part: &super::Part) -> Result<bool, Fault> {
        let Some(when) = &part.when else { return Ok(true) };
        let mut parts = serde_json::Map::new();
        for place in &when.parts {
            if let Some(said) = self.said(*place) {
                // It was checked when it came.
                let body: Value = serde_json::from_slice(said.body.bytes()).unwrap_or_default();
                let status = said.status.map(|status| status.as_u16());
                parts.insert(self.aggregate.parts[*place].name.to_string(), json!({"status": status, "body": body}));
            }
        }
        when.holds.holds_with(&self.exchange.borrow(), &[&Value::Object(parts)])
    }

    fn is_over(&self, place: usize) -> bool {
        self.outcomes[place].get().is_some()
    }
}

impl Aggregate {
    /// Asks the parts and answers with their document.
    pub(in crate::action) async fn run(
        &self,
        exchange: &mut Exchange,
        pools: &Pools,
        errands: &dyn Errands,
    ) -> Result<Response<Body>, Rejection> {
        if Form::of(exchange.headers()) == Form::Grpc {
            return Err(
                Rejection::from(Reason::NotImplemented).detail("This route answers with JSON, and speaks no gRPC.")
            );
        }
        let request_body = if self.reads_request_body {
            Some(call::request_body(exchange, self.request_body_max, "routes.aggregate.request_body_max").await?)
        } else {
            None
        };
        let wheel = exchange.wheel.clone();
        let mut deadline = wheel.timer();
        let until = exchange.started + self.deadline;
        let run = Run {
            aggregate: self,
            pools,
            errands,
            wheel,
            client: exchange.client,
            class: self.class,
            until,
            deadline: until.min(exchange.deadline),
            exchange: RefCell::new(exchange),
            request_body,
            turns: Semaphore::new(self.concurrency),
            ending: Cell::new(word::ABANDONED),
            outcomes: self.parts.iter().map(|_| OnceCell::new()).collect(),
        };
        {
            let mut running: Vec<Option<Work<'_>>> = self.parts.iter().map(|_| None).collect();
            std::future::poll_fn(|cx| {
                if self.advance(&run, &mut running, cx)? {
                    return Poll::Ready(Ok(()));
                }
                if !deadline.is_armed() {
                    deadline.arm_at(until);
                }
                if deadline.poll_expired(cx).is_pending() {
                    return Poll::Pending;
                }
                run.ending.set(word::DEADLINE);
                Poll::Ready(self.give_up(&run))
            })
            .await?;
        }
        self.answer(run)
    }

    /// Begins what can begin, and hears what has ended. Whether all is over; an error if a required part failed.
    fn advance<'r>(
        &'r self,
        run: &'r Run<'_>,
        running: &mut [Option<Work<'r>>],
        cx: &mut std::task::Context<'_>,
    ) -> Result<bool, Rejection> {
        loop {
            let (mut has_moved, mut waits) = (false, false);
            for (place, part) in self.parts.iter().enumerate() {
                if run.is_over(place) {
                    continue;
                }
                waits = true;
                let work = match &mut running[place] {
                    Some(work) => work,
                    None if part.parents.iter().all(|parent| run.is_over(*parent)) => {
                        running[place].insert(Box::pin(part::ask(run, part)))
                    }
                    None => continue,
                };
                if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                    running[place] = None;
                    has_moved = true;
                    let failure = match &outcome {
                        Outcome::Missing(failure) if part.required => Some(*failure),
                        Outcome::Said(said) if part.required => said.lacks,
                        _ => None,
                    };
                    if let Some(failure) = failure {
                        return Err(part.rejection(failure));
                    }
                    // Empty before: a part ends once.
                    let _ = run.outcomes[place].set(outcome);
                }
            }
            if !waits {
                return Ok(true);
            }
            if !has_moved {
                return Ok(false);
            }
        }
    }

    /// What is not there by the deadline is missing, if it was to be there.
    fn give_up(&self, run: &Run<'_>) -> Result<(), Rejection> {
        let is_next = |(place, part): &(usize, &super::Part)| {
            !run.is_over(*place) && part.parents.iter().all(|parent| run.is_over(*parent))
        };
        // Of what has not begun nobody has asked yet whether it is wanted: that may depend on what came of others.
        while let Some((place, part)) = self.parts.iter().enumerate().find(is_next) {
            let outcome = match run.wants(part) {
                Ok(false) => Outcome::NotAsked,
                Ok(true) => match part::stale(run, part) {
                    Some(said) => Outcome::Said(Box::new(said)),
                    None => part.without(Failure { is_late: true, ..Failure::of(word::DEADLINE) }),
                },
                Err(_) => part.without(Failure { is_late: true, ..Failure::of(word::CONDITION) }),
            };
            if let Outcome::Missing(failure) = outcome
                && part.required
            {
                return Err(part.rejection(failure));
            }
            let _ = run.outcomes[place].set(outcome);
        }
        Ok(())
    }

    fn answer(&self, run: Run<'_>) -> Result<Response<Body>, Rejection> {
        let mut freshness = Freshness::default();
        let mut response = Response::new(Body::Empty);
        let outcomes: Vec<Outcome> = run.outcomes.into_iter().filter_map(OnceCell::into_inner).collect();
        let null = Json::null();
        let (mut shares, mut missing, mut failures) =
            (Vec::with_capacity(self.parts.len() + 1), Vec::new(), Vec::new());
        let mut stale = Vec::new();
        for (part, outcome) in self.parts.iter().zip(&outcomes) {
            let (value, failure) = match outcome {
                Outcome::Said(said) => {
                    freshness.merge(&said.freshness);
                    if said.is_stale {
                        stale.push(&*part.name);
                    }
                    for name in &part.expose {
                        for value in said.headers.get_all(name) {
                            response.headers_mut().append(name, value.clone());
                        }
                    }
                    (Some(&said.shaped), said.lacks)
                }
                Outcome::Fixed(failure) => {
                    freshness.is_not_to_be_stored();
                    let is_lacking = !part.fallback.counts_as_complete;
                    (part.fallback.fixed.as_ref(), is_lacking.then_some(*failure))
                }
                Outcome::NotAsked => continue,
                Outcome::Missing(failure) => (part.null_on_error.then_some(&null), Some(*failure)),
            };
            if let Some(value) = value
                && !part.hidden
            {
                shares.push(Share { key: part.key.as_deref(), value: value.view() });
            }
            if let Some(failure) = failure {
                missing.push(&*part.name);
                failures.push((&*part.name, failure));
            }
        }
        if !missing.is_empty() || !stale.is_empty() || self.is_unsafe {
            freshness.is_not_to_be_stored();
        }
        let listed = Json::made(list(&failures));
        if let Some(key) = self.errors_key.as_deref().filter(|_| !failures.is_empty()) {
            shares.push(Share { key: Some(key), value: listed.view() });
        }
        if shares.iter().map(|share| share.value.bytes().len()).sum::<usize>() > self.body_max {
            return Err(Rejection {
                limit: Some("routes.aggregate.body_max"),
                ..Rejection::from(Reason::AggregateTooLarge)
            });
        }
        let document = merge::merge(self.mode, self.on_conflict, &shares).map_err(|_| Reason::MergeConflict)?;
        self.varies_by.iter().for_each(|name| freshness.varies_by(name));
        if self.is_private {
            freshness.is_private();
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(&name::X_ARMIGER_COMPLETED, completed(&missing, &stale));
        freshness.write_to(headers);
        *response.body_mut() = Body::full(document);
        Ok(response)
    }
}

impl super::Part {
    /// What is in its place where it failed and nothing newer or older is to be had.
    pub(super) fn without(&self, failure: Failure) -> Outcome {
        if self.fallback.fixed.is_some() { Outcome::Fixed(failure) } else { Outcome::Missing(failure) }
    }

    /// What the client is told when there is no answer without this part. Names the part, and nothing of its upstream.
    fn rejection(&self, failure: Failure) -> Rejection {
        let name = &self.name;
        if let Some(status) = failure.status.filter(|status| self.pass_status.contains(status)) {
            let detail = format!("The part `{name}` answered {}.", status.as_u16());
            return Rejection { status: Some(status), ..Rejection::from(Reason::PartFailed) }.detail(detail);
        }
        let detail = format!("The part `{name}` failed: {}.", failure.outcome);
        if let Some(kind) = failure.kind {
            return Rejection {
                proxy_status: Some(kind.proxy_status()),
                limit: kind.limit(),
                ..Rejection::from(reason(kind))
            }
            .detail(detail);
        }
        Rejection::from(if failure.is_late { Reason::PartTimeout } else { Reason::PartFailed }).detail(detail)
    }
}

/// The failures as a JSON list.
fn list(failures: &[(&str, Failure)]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (place, (part, failure)) in failures.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"{\"part\":" } else { b",{\"part\":" });
        json::write_text(&mut out, part);
        out.extend_from_slice(b",\"reason\":");
        json::write_text(&mut out, failure.outcome);
        if let Some(status) = failure.status {
            out.extend_from_slice(b",\"status\":");
            out.extend_from_slice(status.as_str().as_bytes());
        }
        out.push(b'}');
    }
    out.push(b']');
    out
}
