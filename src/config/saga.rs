//! `saga_in_memory`: several upstreams changed in turn, and what was done undone if one of them fails.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ordered::Ordered;
use super::value::{ByteSize, HumanDuration, Setting, Statuses};

/// Change several upstreams in turn, and undo what was done if one of them fails.
///
/// Steps go one after the other, in the order of the file. If one fails, those before it are compensated, the last one
/// first; so is a step of which nobody knows whether it was done: one that timed out, broke off, or answered 500 or more. The
/// answer says what became of each step. A client that leaves, and the `deadline`, end the steps, never their compensation.
///
/// **The trap: all of this is in memory.** If armiger is killed in the midst, nobody compensates; the log of what was cut
/// (`saga cut`) tells by which keys to look. What must not be lost that way belongs to a workflow engine.
///
/// Each request has an `Idempotency-Key` of its own, the same for every try of it: `{saga.id}-STEP`, and
/// `{saga.id}-STEP-compensate`. Upstreams must heed it, and so must a compensation that comes before the step that it is for:
/// after a timeout that may happen. One that asks for what was never done may answer 404 or 410.
///
/// ```yaml
/// match: {path: /checkout, methods: [POST]}
/// saga_in_memory:
///   steps:
///     reserve:
///       upstream: stock
///       path: /reservations
///       body: {id: "{saga.id}", items: "{request.body.items}"}
///       compensate: {method: DELETE, path: "/reservations/{saga.id}"}
///     pay:
///       upstream: payments
///       path: /charges
///       body: {reservation: "{steps.reserve.body.id}"}
///       compensate: {path: /refunds, body: {charge: "{saga.id}-pay"}}
/// ```
///
/// `{…}` takes what it takes in `aggregate`, with `{steps.NAME.body.PATH}`, `{steps.NAME.status}` and
/// `{steps.NAME.headers.NAME}` of earlier steps in the place of parts, and `{saga.id}`, which is new for each saga.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Saga {
    /// When steps that are not over count as failed. Default: half of the route's `timeout`, so that what was done can be undone
    /// before the client is answered. A client that cannot be told the end in time is told that it is under way
    /// (`saga-compensating`).
    #[serde(default)]
    pub deadline: Option<HumanDuration>,
    /// What to do, by name, in this order.
    pub steps: Ordered<Step>,
    /// How what was done is undone.
    #[serde(default)]
    pub compensation: Compensation,
    /// Headers of the client that each request gets. Default: none. Trace, request id, `Via` and `X-Forwarded-*` go along
    /// always; `authorization` and `cookie` only if they stand here.
    #[serde(default)]
    pub forward: Vec<String>,
    /// How many sagas of this route may be under way on all workers, those included that are being undone while nobody waits for them. More
    /// are refused (503, `route-busy`) before anything is done.
    #[serde(default = "one_thousand")]
    pub in_flight_max: u32,
    /// The longest request body that `{request.body…}` is looked up in. Longer is a 413.
    #[serde(default = "one_mib")]
    pub request_body_max: ByteSize,
}

impl Saga {
    /// When steps that are not over count as failed, on a route with this timeout.
    pub fn deadline(&self, timeout: Duration) -> Duration {
        self.deadline.unwrap_or_else(|| HumanDuration::rounded(timeout / 2)).get()
    }
}

/// A step of a saga.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The name of an upstream.
    pub upstream: String,
    /// Method.
    #[serde(default = "post")]
    pub method: String,
    /// Path and query, with values in `{…}`.
    pub path: String,
    /// Headers, with values in `{…}`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers of the client that this step gets, in place of the saga's `forward`.
    #[serde(default)]
    pub forward: Option<Vec<String>>,
    /// The JSON body to send, with values in `{…}`.
    #[serde(default)]
    pub body: Option<Value>,
    /// Statuses that count as done, such as `409` or `200-299`. Default: 200 to 299.
    #[serde(default)]
    pub accept: Vec<Statuses>,
    /// Statuses of this step that the client gets as they are, such as 409.
    #[serde(default)]
    pub pass_status: Vec<u16>,
    /// How long this step may take. Default: until the saga's deadline.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
    /// The longest answer that is read. A longer one is one without a body.
    #[serde(default = "one_mib")]
    pub body_max: ByteSize,
    /// The request that undoes it. A step that changes something needs one; `off`: it need not be undone.
    #[serde(default, skip_serializing_if = "Setting::is_inherit")]
    pub compensate: Setting<Compensate>,
}

/// The request that undoes a step.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compensate {
    /// The name of an upstream. Default: the step's.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Method.
    #[serde(default = "post")]
    pub method: String,
    /// Path and query, with values in `{…}`: of this step and those before it.
    ///
    /// The trap: of a step that timed out there is no answer to take a value from. Name it by `{saga.id}` instead, or give a
    /// default.
    pub path: String,
    /// Headers, with values in `{…}`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers of the client that it gets, in place of the saga's `forward`.
    #[serde(default)]
    pub forward: Option<Vec<String>>,
    /// The JSON body to send, with values in `{…}`.
    #[serde(default)]
    pub body: Option<Value>,
    /// Statuses that mean that nothing of the step is left. Default: 200 to 299, 404 and 410.
    #[serde(default)]
    pub accept: Vec<Statuses>,
}

/// How what was done is undone. Each step has these tries and this time to itself.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compensation {
    /// How often one is tried. Tried again after no answer, and after 408, 409, 425, 429 and 500 or more.
    pub attempts: u8,
    /// How long one try may take.
    pub per_try: HumanDuration,
    /// The wait before the second try. It doubles with each further one, up to 5s.
    pub backoff: HumanDuration,
    /// How long the compensation of one step may take, with all its tries.
    pub timeout: HumanDuration,
}

impl Default for Compensation {
    fn default() -> Self {
        Self {
            attempts: 5,
            per_try: HumanDuration::seconds(5),
            backoff: HumanDuration::millis(200),
            timeout: HumanDuration::seconds(15),
        }
    }
}

fn post() -> String {
    "POST".into()
}

fn one_thousand() -> u32 {
    1000
}

fn one_mib() -> ByteSize {
    ByteSize::mib(1)
}
