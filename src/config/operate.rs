//! `admin`, `probes`, `drain` and `log`: how armiger is operated.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{ListenAddress, SocketAccess};
use super::value::{HumanDuration, Secret};

/// The listener for operators: probes, metrics, what is in force and how it fares, `POST /reload`, `POST /drain`. Each
/// page stands in `docs/admin.md`. Changes with a reload.
///
/// ```yaml
/// admin: {address: "unix:/run/armiger/admin.sock"}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// `IP:port`, or `unix:` and the absolute path of a socket, whose folder must be there.
    ///
    /// The trap: whoever reaches it sees the configuration and may end armiger. So other addresses than loopback serve
    /// nothing that changes anything unless there is a `token`.
    pub address: ListenAddress,
    /// Who may connect to a `unix:` socket, besides root.
    pub socket_access: SocketAccess,
    /// What `Authorization: Bearer …` must hold, at least 16 bytes. Asked for everything but `/livez` and `/readyz`.
    /// Default: nothing is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

impl Admin {
    /// Whether other machines reach it and nobody is asked for a token, so that it changes nothing.
    pub fn is_unprotected(&self) -> bool {
        self.address.is_exposed() && self.token.is_none()
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
            socket_access: SocketAccess::default(),
            token: None,
        }
    }
}

/// A listener that has nothing but `/livez`, `/readyz` and `/metrics`, and asks for no token, so that a kubelet and
/// Prometheus reach them while `admin` stays on loopback. Changes with a reload.
///
/// ```yaml
/// probes: {address: 0.0.0.0:9902}
/// ```
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

/// armiger's own messages, on standard error, written by a thread of their own: whoever reads them slowly holds up nothing. What there is
/// no room for is left out, and a line tells how much. Not the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What to show. Changes with a reload. `--log-level` (or `ARMIGER_LOG_LEVEL`), if given, overrules it.
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
