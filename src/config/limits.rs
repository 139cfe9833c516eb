//! `rate_limits`: what all limits have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::redis::Redis;

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
    /// Where limits with `store: redis` are kept: one round trip for each stage of a request that has limits in it, and a key for each
    /// bucket that is not full, which goes by itself once it is. Default: no limit has one.
    pub redis: Option<Redis>,
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
