//! What the user writes under `rate_limit`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Tokens that a request takes. `0` only looks: it is told in headers, and never refused.
    #[serde(default = "cost")]
    pub cost: u64,
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
    /// Whether it is enforced. In `shadow` it has buckets of its own.
    #[serde(default)]
    pub mode: Mode,
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

fn cost() -> u64 {
    1
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
    Guard::at("[].ban", Weaker::Gone, "who keeps hitting the limit is not kept out"),
    Guard::at("[].ban.after", Weaker::Higher, "more refusals until a ban"),
];

fn is_lower(old: &str, new: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    number(old).zip(number(new)).is_some_and(|(old, new)| new < old)
}
