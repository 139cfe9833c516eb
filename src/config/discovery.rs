//! `dns`: how the addresses of `dns:` endpoints are found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::HumanDuration;

/// How the addresses of `dns:` endpoints are found. They are asked for in the background, again as soon as an answer's
/// TTL is over, and never by a request.
///
/// An answer that does not come, says that there is no such name, or names no address changes nothing: the last good one
/// holds.
///
/// ```yaml
/// dns: {servers: [10.96.0.10], ttl_min: 5s, ttl_max: 1m}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Who is asked: `10.96.0.10`, or with a port `127.0.0.1:5353`, by UDP and, where an answer is too long for that, by
    /// TCP. `system`, alone, and the default: the servers of `/etc/resolv.conf`, with its search list, and `/etc/hosts` before
    /// them.
    ///
    /// The trap: with servers of your own nothing is searched, so names must be written out:
    /// `orders.default.svc.cluster.local`.
    pub servers: Vec<String>,
    /// How long an answer holds at least, however short its TTL. After a lookup that failed the next comes after so long,
    /// then after twice of it, up to `ttl_max`.
    pub ttl_min: HumanDuration,
    /// How long it holds at most.
    pub ttl_max: HumanDuration,
    /// How long one server may take for one question. It is asked twice.
    pub timeout: HumanDuration,
    /// The most addresses that are taken of one name; the others are left alone.
    pub addresses_max: u16,
    /// At armiger's start `/readyz` waits until every name was answered, but no longer than this.
    pub ready_wait: HumanDuration,
}

impl Dns {
    /// The word for the servers of the system.
    pub const SYSTEM: &str = "system";
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min: HumanDuration::seconds(1),
            ttl_max: HumanDuration::seconds(60),
            timeout: HumanDuration::seconds(2),
            addresses_max: 100,
            ready_wait: HumanDuration::seconds(5),
        }
    }
}
