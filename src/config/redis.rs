//! `redis`: a server that several armigers share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{HumanDuration, Secret};

/// A Redis that several armigers share. It takes one connection to each armiger.
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
    /// The trap: of a cluster, name the node that has the slot of `{prefix}`. All keys are in that one slot, since several
    /// of them are asked for at once.
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
    /// How long a request waits for it. Then it does without (a limit says how by `on_error`, a cache by what it has itself), and
    /// after three such in a row Redis is not asked again until it has answered.
    #[serde(default = "timeout")]
    pub timeout: HumanDuration,
    /// What its keys begin with: armigers that have it in common count together, and share what their caches hold.
    #[serde(default = "prefix")]
    pub prefix: String,
}

fn timeout() -> HumanDuration {
    HumanDuration::millis(20)
}

fn prefix() -> String {
    "armiger".into()
}
