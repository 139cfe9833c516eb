//! `breaker` of an upstream: when calls are let in no more, and how it is found out that they may be again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{HumanDuration, Statuses};

/// Keeps calls from an upstream that fails, so that callers are told at once and the upstream can recover.
///
/// While it is closed, all calls go out. Once too many fail it opens: calls are refused with a 503 (`breaker-open`) that
/// says in `Retry-After` how long, and nothing reaches the upstream. After that time a few calls are let through as
/// probes: if all end well it closes, if one fails it opens again, for longer.
///
/// What clients do does not count: requests they give up, and answers of the class 4xx.
///
/// ```yaml
/// breaker:
///   trip: {consecutive: 5, ratio: 0.5, min_requests: 20}
///   failure: {slow_call: 300ms}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// What has a breaker of its own.
    pub scope: Scope,
    /// How much failure opens it. Without it: 5 failures in a row, or half of at least 20 calls. What is given here replaces all of
    /// that: `{ratio: 0.5}` counts no failures in a row.
    pub trip: Trip,
    /// How long calls are remembered.
    pub window: Window,
    /// How long it stays open.
    pub open_for: OpenFor,
    /// How it is tried whether the upstream is back.
    pub half_open: HalfOpen,
    /// What counts as failure.
    pub failure: Failure,
}

/// What has a breaker of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The upstream: its endpoints stand and fall together.
    #[default]
    Upstream,
    /// Each endpoint: calls go to those whose breakers let them in, and are refused if there is none.
    Endpoint,
    /// Each route: where one kind of requests fails, the others go on. The trap: an upstream that is down is found out by
    /// each route anew.
    Route,
}

/// How much failure opens a breaker. Where both `consecutive` and `ratio` are given, whichever comes first.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trip {
    /// So many failures in a row.
    #[serde(default)]
    pub consecutive: Option<u32>,
    /// This share of the calls in the window, from 0 to 1.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// The calls that must have ended within the window before `ratio` counts. At least 1.
    #[serde(default = "twenty")]
    pub min_requests: u32,
}

fn twenty() -> u32 {
    20
}

impl Default for Trip {
    fn default() -> Self {
        Self { consecutive: Some(5), ratio: Some(0.5), min_requests: twenty() }
    }
}

/// How long calls are remembered.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// How long.
    pub length: HumanDuration,
    /// The parts that it consists of; the oldest is forgotten when a new one begins. With `1` all is forgotten at once
    /// at the end of the window. At most 60.
    pub buckets: u8,
}

impl Default for Window {
    fn default() -> Self {
        Self { length: HumanDuration::seconds(30), buckets: 10 }
    }
}

/// How long a breaker stays open.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OpenFor {
    /// The first time. Too short a time turns a struggling upstream into a flapping one.
    pub base: HumanDuration,
    /// The most that it grows to.
    pub max: HumanDuration,
    /// What it is multiplied by each time that a probe fails, from 1 to 10.
    pub multiplier: f64,
    /// The share of the time that is added or taken at random, from 0 to 1, so that many armigers do not all ask at once.
    pub jitter: f64,
}

impl Default for OpenFor {
    fn default() -> Self {
        Self { base: HumanDuration::seconds(10), max: HumanDuration::seconds(120), multiplier: 2.0, jitter: 0.1 }
    }
}

/// How it is tried whether an upstream is back.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HalfOpen {
    /// The calls that are let through at once as probes; so many must end well before the breaker closes. What comes
    /// meanwhile is refused with a 503 (`breaker-probing`).
    pub max_requests: u32,
}

impl Default for HalfOpen {
    fn default() -> Self {
        Self { max_requests: 3 }
    }
}

/// What counts as failure.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Failure {
    /// Answers with these statuses.
    pub status: Vec<Statuses>,
    /// Answers of gRPC with these statuses, in the head or after the body.
    pub grpc: Vec<GrpcStatus>,
    /// That no connection comes about.
    pub connect: bool,
    /// That no answer begins in time.
    pub timeout: bool,
    /// That the upstream breaks off, before its answer or within it, or answers something that is not HTTP.
    pub reset: bool,
    /// Calls that take longer until the answer begins. They count as soon as they are late, not only when they end: of
    /// an upstream that hangs, nothing ends. Default: none does.
    ///
    /// A request whose body is still on its way when it goes out is timed from the end of that body, and while it hangs it
    /// does not count: until then it may be the client who is slow.
    /// The trap: a bound that lawful answers exceed opens the breaker on a healthy upstream.
    pub slow_call: Option<HumanDuration>,
}

impl Default for Failure {
    fn default() -> Self {
        Self {
            status: vec![Statuses::range(500, 500), Statuses::range(502, 504)],
            grpc: vec![
                GrpcStatus::Unavailable,
                GrpcStatus::Internal,
                GrpcStatus::DeadlineExceeded,
                GrpcStatus::DataLoss,
            ],
            connect: true,
            timeout: true,
            reset: true,
            slow_call: None,
        }
    }
}

/// A status of gRPC that may count as failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GrpcStatus {
    /// 1.
    Cancelled,
    /// 2.
    Unknown,
    /// 4.
    DeadlineExceeded,
    /// 8.
    ResourceExhausted,
    /// 10.
    Aborted,
    /// 13.
    Internal,
    /// 14.
    Unavailable,
    /// 15.
    DataLoss,
}

impl GrpcStatus {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Cancelled => 1,
            Self::Unknown => 2,
            Self::DeadlineExceeded => 4,
            Self::ResourceExhausted => 8,
            Self::Aborted => 10,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::DataLoss => 15,
        }
    }
}
