//! `admin`, `probes`, `drain` and `log`: how armiger is operated.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::HumanDuration;

/// The listener for operators: `/livez`, `/readyz`, `/metrics`, `/config`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// `IP:port`.
    ///
    /// The trap: it asks for no password, so keep it on loopback, or where only the kubelet and Prometheus reach it.
    pub address: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)) }
    }
}

/// A listener that has nothing but `/livez`, `/readyz` and `/metrics`, so that a kubelet and Prometheus reach them while
/// `admin` stays on loopback.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probes {
    /// `IP:port`, such as `0.0.0.0:9902`.
    pub address: SocketAddr,
}

/// How armiger ends on SIGTERM, Ctrl-C or `POST /drain`, so that no request is lost.
///
/// In order: `/readyz` fails at once; for `delay` connections are still accepted, while every answer asks its client to
/// close (`Connection: close`, GOAWAY); then listeners close, and what is in flight may finish within `timeout`; what is
/// left is cut and logged. A second signal cuts at once.
///
/// ```yaml
/// drain: {delay: 5s, timeout: 25s}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long connections are still accepted: the time that load balancers need to learn that armiger goes. `0s`
    /// where nobody has to learn it.
    ///
    /// The trap: Kubernetes kills a pod `terminationGracePeriodSeconds` after it began to end, and that is 30 s unless
    /// told otherwise: set it to at least `delay` + `timeout` + 5 s.
    pub delay: HumanDuration,
    /// How long requests in flight may take after that.
    pub timeout: HumanDuration,
    /// Exit with code 3 if anything had to be cut. `false`: with 0 all the same.
    pub strict: bool,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: HumanDuration::seconds(5), timeout: HumanDuration::seconds(25), strict: true }
    }
}

/// armiger's own messages, on standard error. Not the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What to show. Changes with a reload. `--log-level` overrules it.
    pub level: LogLevel,
}

/// What of armiger's own messages to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What needs somebody's attention now.
    Error,
    /// Also what may need it later.
    Warn,
    /// Also what an operator did: starts, reloads, drains.
    #[default]
    Info,
    /// Also each connection that broke.
    Debug,
    /// Everything.
    Trace,
}
