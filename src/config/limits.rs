//! `rate_limits`: what all limits have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{HumanDuration, Secret};

/// What all policies `rate_limit` have in common.
///
/// ```yaml
/// rate_limits: {headers: both, upstream_headers: replace}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// What clients are told of their limits, on every answer of a route that has one. `Retry-After` always stands on a
    /// 429.
    pub headers: Fields,
    /// What becomes of such headers that the upstream sends, where armiger has a limit too.
    pub upstream_headers: Theirs,
    /// Where limits with `store: redis` are kept. Default: no limit has one.
    pub redis: Option<Redis>,
}

/// A Redis that several armigers share. It takes a connection to each armiger, one round trip for each stage of a request
/// that has limits in it, and a key for each bucket that is not full, which goes by itself once it is.
///
/// ```yaml
/// rate_limits:
///   redis: {url: "rediss://redis.internal:6379", password: "${env:REDIS_PASSWORD}"}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://HOST:PORT`, over TLS `rediss://HOST:PORT`, a socket `unix:///PATH`. A database comes after a slash:
    /// `redis://127.0.0.1:6379/1`.
    ///
    /// The trap: of a cluster, name the node that has the slot of `{prefix}`. All buckets are in that one slot, since a
    /// request draws from several of them at once.
    pub url: String,
    /// Who armiger is, of a server with users.
    #[serde(default)]
    pub username: Option<String>,
    /// How it proves that.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Certificates (PEM) of the authorities that may vouch for the server, of `rediss://`: `${file:redis-ca.pem}`.
    /// Default: those that browsers have.
    #[serde(default)]
    pub ca: Option<String>,
    /// How long a request waits for it. Then the limit's `on_error` says what happens, and after three such in a row it is
    /// not asked again until it has answered.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
    /// What its keys begin with: armigers that have it in common count together.
    #[serde(default = "prefix")]
    pub prefix: String,
}

fn timeout() -> HumanDuration {
    HumanDuration::millis(20)
}

fn prefix() -> String {
    "armiger".into()
}

/// Headers that tell of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fields {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), with a member for each limit, the
    /// tightest first.
    #[default]
    Ietf,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` (in seconds from now), of the tightest limit.
    Legacy,
    /// All of these.
    Both,
    /// None.
    Off,
}

/// What becomes of an upstream's headers that tell of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Theirs {
    /// They go out if the upstream leaves less than armiger does; else armiger's take their place.
    #[default]
    Smaller,
    /// They go out, and armiger's only where there are none.
    Keep,
    /// armiger's take their place, wherever armiger tells of any.
    Replace,
    /// They never go out.
    Drop,
}
