//! `saga_in_memory`: several upstreams changed in turn, and what was done undone if one of them fails.
//!
//! | File | What |
//! |---|---|
//! | `compile.rs` | from the configuration, and what can be wrong with it |
//! | `run.rs` | the steps, and their compensation |
//! | `account.rs` | what became of each step, and how the client is told |
//!
//! `proxy/saga.rs` runs it: as a task of the worker, since compensation must not end with the client.

pub mod account;
mod compile;
pub mod run;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::errand::accepts;
use super::json::Json;
use super::outgoing::Outgoing;
use crate::config::upstream::Class;
use crate::config::value::Statuses;
use crate::exchange::{Exchange, Rejection};
use crate::telemetry::finish::{Occupancy, Occupied};
use crate::telemetry::metrics::{SagaMetrics, SagaStepMetrics};
use crate::upstream::Upstream;
pub use account::Account;

/// Changes several upstreams in turn.
pub struct Saga {
    steps: Vec<Step>,
    /// Since the saga began.
    deadline: Duration,
    /// Since the exchange began: when the client is told that the end cannot be told.
    pub patience: Duration,
    compensation: Compensation,
    places: Arc<Occupancy>,
    in_flight_max: u32,
    /// Whom the steps' upstreams turn away first. What undoes a step is `critical`, whatever it is.
    class: Class,
    /// Where all of them are told how much time is left.
    deadline_header: Option<HeaderName>,
    request_body_max: usize,
    reads_request_body: bool,
    metrics: SagaMetrics,
}

/// A step, ready to be done.
struct Step {
    name: Arc<str>,
    upstream: Arc<Upstream>,
    outgoing: Outgoing,
    accept: Vec<Statuses>,
    pass_status: Vec<StatusCode>,
    timeout: Option<Duration>,
    body_max: usize,
    undo: Option<Undo>,
    metrics: SagaStepMetrics,
}

/// The request that undoes a step.
struct Undo {
    /// The name in the log.
    name: Arc<str>,
    upstream: Arc<Upstream>,
    outgoing: Outgoing,
    accept: Vec<Statuses>,
}

struct Compensation {
    attempts: u32,
    per_try: Duration,
    backoff: Duration,
    timeout: Duration,
}

impl Saga {
    /// Leave to begin one, unless there are as many as may be.
    pub fn enter(&self) -> Option<Occupied> {
        self.places.take(self.in_flight_max)
    }

    /// The client's body, if values are taken from it.
    ///
    /// # Errors
    /// It is too long, no JSON document, or did not come.
    pub async fn request_body(&self, exchange: &mut Exchange) -> Result<Option<Json>, Rejection> {
        if !self.reads_request_body {
            return Ok(None);
        }
        let limit = "routes.saga_in_memory.request_body_max";
        super::call::request_body(exchange, self.request_body_max, limit).await.map(Some)
    }

    /// A book for a saga of this id, in which nothing stands.
    pub fn account(&self, id: &str) -> Account {
        Account::new(id, self.steps.iter().map(|step| step.name.clone()))
    }
}

impl Step {
    fn accepts(&self, status: StatusCode) -> bool {
        accepts(&self.accept, status)
    }
}

impl Undo {
    fn accepts(&self, status: StatusCode) -> bool {
        if self.accept.is_empty() {
            status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
        } else {
            accepts(&self.accept, status)
        }
    }
}
