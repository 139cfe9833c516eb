//! `aggregate`: several upstreams asked at once, one JSON document answered. Start at `run.rs`.
//!
//! | File | What |
//! |---|---|
//! | `compile.rs` | from the configuration: the graph of parts, and everything that can be wrong with it |
//! | `run.rs` | all parts of one exchange, each as soon as those that it names are over, under one deadline |
//! | `part.rs` | one part: its requests, its fallback, what of its answer is taken |
//! | `merge.rs` | JSON, joined |
//! | `answer.rs` | the head of the answer |
//!
//! What it shares with sagas stands beside this folder: `outgoing.rs` (requests), `fill.rs` (values in them), `call.rs` (one of
//! them sent), `shape.rs` (JSON, cut).

mod answer;
mod compile;
pub mod merge;
mod part;
mod run;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::json::Json;
use super::outgoing::Outgoing;
use super::{fill, shape};
use crate::config::aggregate::{MergeMode, OnConflict};
use crate::config::upstream::Class;
use crate::config::value::Statuses;
use crate::exchange::fetch::Known;
use crate::expression::Condition;
use crate::telemetry::metrics::PartMetrics;
use crate::upstream::Upstream;

/// Asks several upstreams and answers with one document.
pub struct Aggregate {
    parts: Vec<Part>,
    /// Since the exchange began.
    deadline: Duration,
    mode: MergeMode,
    on_conflict: OnConflict,
    concurrency: usize,
    /// The key of the list of failures, in quotes.
    errors_key: Option<Vec<u8>>,
    body_max: usize,
    request_body_max: usize,
    reads_request_body: bool,
    /// Headers of the request that values are taken from.
    varies_by: Vec<HeaderName>,
    /// The document depends on who asks.
    is_private: bool,
    /// A part changes something.
    is_unsafe: bool,
    /// Whom the parts' upstreams turn away first.
    class: Class,
    /// Where they are told how much time is left.
    deadline_header: Option<HeaderName>,
}

/// A part, ready to be asked.
struct Part {
    name: Arc<str>,
    /// Its key in the document, in quotes.
    key: Option<Vec<u8>>,
    upstream: Arc<Upstream>,
    outgoing: Outgoing,
    /// The parts that it waits for, by their places.
    parents: Vec<usize>,
    /// Another part takes a value from its body.
    is_named: bool,
    when: Option<When>,
    required: bool,
    pass_status: Vec<StatusCode>,
    accept: Vec<Statuses>,
    timeout: Option<Duration>,
    body_max: usize,
    foreach: Option<Foreach>,
    cache: Option<Arc<dyn Known>>,
    fallback: Fallback,
    null_on_error: bool,
    shape: shape::Shape,
    hidden: bool,
    expose: Vec<HeaderName>,
    metrics: PartMetrics,
}

/// A condition, and the parts that it reads.
struct When {
    holds: Condition,
    parts: Vec<usize>,
}

struct Foreach {
    list: fill::Source,
    items_max: usize,
    concurrency: usize,
}

#[derive(Default)]
struct Fallback {
    /// What is stored of it, stale.
    stale: bool,
    upstream: Option<Arc<Upstream>>,
    fixed: Option<Json>,
    counts_as_complete: bool,
}
