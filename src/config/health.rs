//! `health` of an upstream: how its endpoints are asked whether they are well.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{HumanDuration, Statuses};

/// Asks each endpoint from time to time whether it is well. One that is ill gets no requests; if all are, callers get a 503
/// (`no-endpoint`).
///
/// The first check is made at once and its word counts alone; then `rise` and `fall` say how many in a row it takes. A
/// check that succeeds after one that failed also lets an open breaker try again at once.
///
/// ```yaml
/// health: {path: /healthz, interval: 5s, rise: 2, fall: 3}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// How it is asked.
    pub by: By,
    /// The path that is asked for, with `by: http`.
    pub path: String,
    /// The `Host` that is asked for, with `by: http`. Default: the endpoint's own.
    pub host: Option<String>,
    /// The statuses that say it is well, with `by: http`.
    pub status: Vec<Statuses>,
    /// The service that is asked about, with `by: grpc`. Empty: the server as a whole.
    pub service: String,
    /// How often, give or take a tenth.
    pub interval: HumanDuration,
    /// How often an endpoint is asked that is ill, whose last check failed, or whose breaker is not closed: how soon it is
    /// noticed that it is back.
    pub interval_ill: HumanDuration,
    /// How long an answer may take.
    pub timeout: HumanDuration,
    /// Checks in a row that must succeed before one that is ill is taken for well.
    pub rise: u32,
    /// Checks in a row that must fail before one that is well is taken for ill.
    pub fall: u32,
    /// What an endpoint is taken for before its first check.
    pub start: Start,
    /// At armiger's start `/readyz` waits until an endpoint is well, but no longer than this. Default: it does not wait.
    pub ready_wait: Option<HumanDuration>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            by: By::Http,
            path: "/healthz".into(),
            host: None,
            status: vec![Statuses::range(200, 299)],
            service: String::new(),
            interval: HumanDuration::seconds(5),
            interval_ill: HumanDuration::millis(250),
            timeout: HumanDuration::seconds(1),
            rise: 2,
            fall: 3,
            start: Start::Well,
            ready_wait: None,
        }
    }
}

/// How an endpoint is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A GET.
    #[default]
    Http,
    /// Whether a connection comes about, TLS included.
    Tcp,
    /// `grpc.health.v1.Health/Check`. For upstreams that speak HTTP/2.
    Grpc,
}

/// What an endpoint is taken for before its first check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// It gets requests.
    #[default]
    Well,
    /// It gets none.
    Ill,
}
