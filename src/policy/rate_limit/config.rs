//! What the user writes under `rate_limit`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::key::OnMissing;
use super::{Guard, Weaker};
use crate::config::rate::HumanRate;
use crate::config::value::{HumanDuration, Mode};

/// How many requests callers may make: a list of limits, all of which must agree. Others get a 429 (`rate-limited`) that
/// says after how many seconds the next request **is** granted.
///
/// A request that is refused by one limit draws from none. Limits that need no identity are asked before the caller is, so
/// that a flood costs no signature check; those by a claim are asked after. A request that passed the first and then proves
/// nothing (401) did happen, and counts for the first.
///
/// Levels are kept over a reload: another rate fills the same bucket from then on.
///
/// ```yaml
/// rate_limit:
///   - {name: per-address, rate: 50/s, burst: 100, by: [client_ip]}
///   - {name: per-caller, rate: 1000/m, burst: 50, by: ["claim:sub"], mode: shadow}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "RateLimitPolicy")]
pub struct Config(pub Vec<Limit>);

impl Config {
    /// Writes how many tokens buckets hold of which that was left out.
    pub(in crate::policy) fn fill(&mut self) {
        for limit in &mut self.0 {
            limit.burst.get_or_insert(limit.rate.count());
            for other in limit.overrides.iter_mut().flat_map(|overrides| overrides.rates.values_mut()) {
                other.burst.get_or_insert(other.rate.count());
            }
        }
    }
}

/// A limit: a bucket of tokens for each key, from which each request takes some.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimit")]
pub struct Limit {
    /// What clients, logs and metrics call it. Its buckets are kept over reloads by it.
    pub name: String,
    /// How fast the bucket fills.
    pub rate: HumanRate,
    /// How many tokens it holds, and so how many requests may come at once. Default: the number of `rate`.
    ///
    /// The trap: with `1000/h` and no `burst` a caller may make all 1000 in the first second.
    #[serde(default)]
    pub burst: Option<u64>,
    /// What tells callers apart: `client_ip`, `claim:NAME` (or a JSON Pointer, `claim:/a/b`), `header:NAME`,
    /// `cookie:NAME`, `path:NAME` (a parameter of the route's path), `route`, or `constant` for all together. Several make
    /// one key.
    ///
    /// The trap: who may choose a header or cookie may choose a new bucket with each request. Behind a load balancer
    /// `client_ip` is the balancer unless `trusted_proxies` names it.
    #[serde(default = "by")]
    pub by: Vec<String>,
    /// What happens to a request that lacks a part of the key.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// How many bits of an IPv6 address count: whoever has one address has its whole network.
    #[serde(default = "ipv6_prefix")]
    pub ipv6_prefix: u8,
    /// Tokens that a request takes: a number, or an expression such as `size(claims.orders) + 1`. `0` only looks: it is
    /// told in headers, and never refused; an expression over what callers write should not come to it. Where one is less than
    /// nothing, or cannot be told, since a claim is not there, it is `1`. What costs more than the bucket ever holds is a 413 (`cost-too-high`). `parts` is as many as the
    /// route's aggregate has parts, or its saga steps, and `1` elsewhere: each request of a batch is counted by its own route.
    #[serde(default)]
    pub cost: Cost,
    /// Whether routes that name the limit count together.
    #[serde(default)]
    pub scope: Counts,
    /// Other rates for callers with a certain claim.
    #[serde(default)]
    pub overrides: Option<Overrides>,
    /// Who keeps hitting the limit is kept out for a while: 429 (`banned`). Default: nobody is.
    #[serde(default)]
    pub ban: Option<Ban>,
    /// Keys whose bucket is not full, at most; each takes 16 to 48 bytes. When there are more, only full buckets make
    /// room, and keys that find none share one bucket between them (`armiger_limit_hits_total`,
    /// `limit="rate_limit.keys_max"`).
    #[serde(default = "keys_max")]
    pub keys_max: u32,
    /// Where the buckets are.
    #[serde(default)]
    pub store: Where,
    /// What happens while Redis does not answer, of `store: redis`.
    #[serde(default)]
    pub on_error: OnError,
    /// How much of rate and burst each armiger grants by itself meanwhile, of `on_error: local`: with four replicas, `0.25`.
    #[serde(default = "whole")]
    pub local_share: f64,
    /// Whether it is enforced. In `shadow` it has buckets of its own.
    #[serde(default)]
    pub mode: Mode,
}

/// Where buckets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// In this process: each replica counts for itself.
    #[default]
    Local,
    /// In the Redis of `rate_limits.redis`: all that share it count together.
    Redis,
}

/// What happens while Redis does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Each armiger counts for itself.
    #[default]
    Local,
    /// The limit is not asked.
    Allow,
    /// The request is refused with a 503 (`limit-unavailable`).
    Deny,
}

/// Tokens that a request takes: `3`, or an expression that gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// So many.
    Tokens(u64),
    /// What this gives.
    Expression(String),
}

impl Default for Cost {
    fn default() -> Self {
        Self::Tokens(1)
    }
}

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(tokens) => serializer.serialize_u64(*tokens),
            Self::Expression(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Cost;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of tokens, or an expression that gives one")
            }

            fn visit_u64<E: Error>(self, tokens: u64) -> Result<Cost, E> {
                Ok(Cost::Tokens(tokens))
            }

            fn visit_i64<E: Error>(self, tokens: i64) -> Result<Cost, E> {
                u64::try_from(tokens).map(Cost::Tokens).map_err(|_| E::custom(format!("{tokens} is less than nothing")))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Cost, E> {
                Ok(text.parse().map_or_else(|_| Cost::Expression(text.to_owned()), Cost::Tokens))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Cost {
    fn schema_name() -> Cow<'static, str> {
        "Cost".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "title": "cost",
            "description": "A whole number of tokens, or an expression that gives one.",
            "examples": [1, "size(claims.orders) + 1"],
        })
    }
}

/// Who counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// All routes that have the limit, by its name. They must say the same of it.
    #[default]
    Policy,
    /// Each route for itself.
    Route,
}

/// Other rates for some callers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// The claim that tells them apart, by name or JSON Pointer: `plan`.
    pub claim: String,
    /// By the value of the claim, which is a text. Other values: as if there were no overrides.
    pub rates: BTreeMap<String, Override>,
}

/// Another rate.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// How fast the bucket fills.
    pub rate: HumanRate,
    /// How many tokens it holds. Default: the number of `rate`.
    #[serde(default)]
    pub burst: Option<u64>,
}

/// When somebody is kept out. 10,000 callers are watched at most.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    /// After so many refusals by this limit.
    pub after: u32,
    /// In this time.
    #[serde(default = "within")]
    pub within: HumanDuration,
    /// For so long. The admin listener shows and lifts it: `/state/limits`.
    pub r#for: HumanDuration,
}

fn by() -> Vec<String> {
    vec!["client_ip".into()]
}

fn ipv6_prefix() -> u8 {
    64
}

fn whole() -> f64 {
    1.0
}

fn keys_max() -> u32 {
    250_000
}

fn within() -> HumanDuration {
    HumanDuration::seconds(60)
}

/// What of it protects.
pub(in super::super) const GUARDS: &[Guard] = &[
    Guard::gone("callers may make as many requests as they like"),
    Guard::at("[]", Weaker::Gone, "callers may make as many requests as they like"),
    Guard::at("[].mode", Weaker::When(|_, new| new != "enforce"), "callers may make as many requests as they like"),
    Guard::at("[].rate", Weaker::Higher, "callers may make more requests"),
    Guard::at("[].burst", Weaker::Higher, "callers may make more requests at once"),
    Guard::at("[].cost", Weaker::When(is_lower), "callers may make more requests"),
    Guard::at("[].on_missing", Weaker::When(|_, new| new == "skip"), "requests without the key are not counted"),
    Guard::at(
        "[].on_error",
        Weaker::When(|old, new| new == "allow" || old == "deny"),
        "more passes while Redis is away",
    ),
    Guard::at("[].local_share", Weaker::Higher, "more passes while Redis is away"),
    Guard::at("[].ban", Weaker::Gone, "who keeps hitting the limit is not kept out"),
    Guard::at("[].ban.after", Weaker::Higher, "more refusals until a ban"),
];

fn is_lower(old: &str, new: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    number(old).zip(number(new)).is_some_and(|(old, new)| new < old)
}
