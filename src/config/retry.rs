//! `retry` of an upstream: which failed tries are followed by another.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::value::{HumanDuration, Statuses};

/// Sends a request again that failed, at another endpoint if there is one.
///
/// Only where that is safe: requests of an idempotent method (GET, HEAD, OPTIONS, PUT, DELETE, TRACE) or with an
/// `Idempotency-Key`, whose body is kept (`limits.replay_max`); those of which nothing was sent, whatever the method. Never
/// once the client has got anything of an answer. Beside this, and without it, what a closing connection did not take is
/// always sent again.
///
/// ```yaml
/// retry: {attempts: 3, when: [connect, reset, timeout, 502-504], per_try: 500ms}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Tries in all, the first included. More than one shows in the log and in `X-Armiger-Attempts`. From 2 to 10.
    pub attempts: u8,
    /// What is tried again: `connect` (no connection), `reset` (the upstream broke off before its answer), `timeout` (no
    /// answer within `timeouts.first_byte` or `per_try`), statuses such as `503` or `502-504`, and those of gRPC, such as
    /// `UNAVAILABLE`.
    pub when: Vec<Condition>,
    /// The longest that one try may take until its answer begins. Default: `timeouts.first_byte` bounds it.
    ///
    /// It counts from when the client has sent its body: a slow client is bounded by the route's `timeout` alone, and
    /// says nothing of the upstream. An upstream that takes none of a body for as long is late.
    ///
    /// The trap: without it, a try at an endpoint that hangs uses up all of the route's time.
    pub per_try: Option<HumanDuration>,
    /// How long is waited before a try at an endpoint that was tried already.
    pub backoff: Backoff,
    /// How many tries beyond the first there may be, over all requests: retries must not add to an outage.
    pub budget: Budget,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            when: vec![
                Condition::Connect,
                Condition::Reset,
                Condition::Status(Statuses::range(502, 503)),
                Condition::Grpc("UNAVAILABLE"),
            ],
            per_try: None,
            backoff: Backoff::default(),
            budget: Budget::default(),
        }
    }
}

/// How long is waited before a try: a random time between nothing and a bound that doubles each time.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The first bound.
    pub base: HumanDuration,
    /// The largest bound. A `Retry-After` of the upstream that asks for no more than this is obeyed to the second; one
    /// that asks for more ends the tries, and is passed on.
    pub max: HumanDuration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: HumanDuration::millis(25), max: HumanDuration::seconds(1) }
    }
}

/// How many tries beyond the first there may be.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// As a share of the requests, from 0 to 1.
    pub ratio: f64,
    /// And so many per second, so that an upstream with few requests has some too.
    pub min_per_second: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 3 }
    }
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No connection came about.
    Connect,
    /// The upstream broke off before its answer.
    Reset,
    /// No answer began in time.
    Timeout,
    /// An answer with these statuses.
    Status(Statuses),
    /// An answer of gRPC with the status of this name.
    Grpc(&'static str),
}

/// The statuses of gRPC that may be worth another try, with their numbers.
pub const GRPC: [(&str, u32); 7] = [
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("DEADLINE_EXCEEDED", 4),
    ("RESOURCE_EXHAUSTED", 8),
    ("ABORTED", 10),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
];

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "connect" => return Ok(Self::Connect),
            "reset" => return Ok(Self::Reset),
            "timeout" => return Ok(Self::Timeout),
            _ => {}
        }
        if let Some((name, _)) = GRPC.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Grpc(name));
        }
        // Words of other proxies.
        let hint = match text.to_lowercase().replace('_', "-").as_str() {
            "connect-failure" | "refused-stream" | "error" | "conn-failure" => "write `connect`",
            "reset-before-request" | "empty-response" | "invalid-header" => "write `reset`",
            "response-timeout" | "per-try-timeout" | "junk-response" => "write `timeout`",
            "5xx" | "http-5xx" => "write `500-599`; most mean `502-504`",
            "gateway-error" => "write `502-504`",
            "http-502" | "http-503" | "http-504" | "retriable-status-codes" => {
                "write the status alone: `503`, `502-504`"
            }
            "unavailable" | "cancelled" | "deadline-exceeded" | "internal" | "resource-exhausted" | "aborted" => {
                "a status of gRPC is written in capitals: `UNAVAILABLE`"
            }
            _ if text.starts_with(|first: char| first.is_ascii_digit()) => {
                return Statuses::parse(text).map(Self::Status);
            }
            _ => {
                "write `connect`, `reset`, `timeout`, a status such as `503` or `502-504`, or one of gRPC such as \
                 `UNAVAILABLE`"
            }
        };
        Err(super::yaml::with_hint(format!("{} is nothing to try again for", super::issue::quote(text)), hint))
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Connect => serializer.serialize_str("connect"),
            Self::Reset => serializer.serialize_str("reset"),
            Self::Timeout => serializer.serialize_str("timeout"),
            Self::Status(statuses) => statuses.serialize(serializer),
            Self::Grpc(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("what is tried again, such as `connect` or `503`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Condition, E> {
                Condition::parse(text).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Condition, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Condition, E> {
                self.visit_str(&value.to_string())
            }
        }

        deserializer.deserialize_str(Word)
    }
}

impl JsonSchema for Condition {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "examples": ["connect", 503, "502-504", "UNAVAILABLE"] })
    }
}
/// Asks a second endpoint when the first takes longer than most answers did of late. GET and HEAD without a body only: what
/// comes first is the answer, and the other try is ended. It draws from the budget of `retry`, or from one like its default.
///
/// It needs a second endpoint that is fit, and some fifty answers to know what most is.
///
/// ```yaml
/// hedge: {percentile: 0.95, floor: 20ms}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hedge {
    /// The share of answers that are not late, from 0.5 to 0.999.
    pub percentile: f64,
    /// No sooner than after this, however fast answers are.
    pub floor: HumanDuration,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { percentile: 0.95, floor: HumanDuration::millis(20) }
    }
}
