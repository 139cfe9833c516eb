//! What the user wrote: the document, its types, and the way from a YAML file to it.
//!
//! This folder knows nothing of the runtime. It reads text, reports every mistake of it at once, and yields a
//! [`Document`]. `snapshot/compile` turns a document into the plan that requests run on.
//!
//! The document is generic over the policy section `P`, so that a policy's configuration lives beside its code and
//! this folder names no policy.

pub mod address;
pub mod aggregate;
pub mod balance;
pub mod batch;
pub mod breaker;
pub mod bundle;
pub mod cache;
pub mod discovery;
pub mod files;
pub(crate) mod foreign;
pub mod health;
pub mod identity;
mod in_force;
pub mod include;
pub mod issue;
pub mod limits;
pub mod listener;
pub mod load;
mod lookalike;
pub mod observe;
pub mod operate;
pub mod ordered;
pub mod rate;
pub mod redis;
pub mod reference;
pub mod retry;
pub mod route;
pub mod saga;
pub mod tls;
pub mod upstream;
pub mod value;
pub mod yaml;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use cache::Cache;
use discovery::Dns;
pub use issue::{Issue, Issues, KeyPath};
use limits::RateLimits;
use listener::{Limits, Listener};
pub use load::{Loaded, load, load_str};
use observe::AccessLog;
use operate::{Admin, Drain, Log, Probes};
use route::{Defaults, Route};
use upstream::Upstream;
use value::ByteSize;

use crate::machine::Machine;

/// The whole file: where armiger listens, what stands behind it, and which request goes where under which policies.
///
/// ```yaml
/// listeners:
///   - {name: http, address: 127.0.0.1:8080}
/// upstreams:
///   app: {endpoints: [http://127.0.0.1:3000]}
/// routes:
///   - name: everything
///     match: {path: "/{rest...}"}
///     proxy: {upstream: app}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "P: Default + Serialize + serde::de::DeserializeOwned")]
#[schemars(bound = "P: Default + Serialize + JsonSchema", title = "armiger configuration")]
pub struct Document<P> {
    /// More files: paths, or patterns such as `conf.d/*.yaml`. Each may have `listeners`, `upstreams` and `routes`, which
    /// are added to those of this file, and nothing else.
    ///
    /// Paths start from the directory of this file; the entries are taken in the order given, the files of a pattern in
    /// the order of their names, and no file twice. `*`, `?` and `[…]` stand for parts of a file's name, not of a
    /// directory's, and never for files whose names begin with `.` or `#` or end in `~`, `.swp` or `.swo`. A path that is
    /// not there is a mistake; a pattern may fit nothing. At most 200 files, 1 MiB each and 8 MiB together.
    ///
    /// The trap: names must differ across all files, a mistake in one file refuses all of them, `&anchors` hold within
    /// their own file only, and `${file:…}` starts from the directory of the file that it stands in.
    ///
    /// ```yaml
    /// include: [upstreams.yaml, "conf.d/*.yaml"]
    /// ```
    #[serde(default)]
    pub include: Vec<String>,
    /// Addresses that armiger accepts connections on. At least one.
    pub listeners: Vec<Listener>,
    /// The listener for operators: probes, metrics and the running configuration. Never the one that clients use.
    #[serde(default)]
    pub admin: Admin,
    /// Probes and metrics once more, for those who must not reach `admin`.
    #[serde(default)]
    pub probes: Option<Probes>,
    /// How armiger ends.
    #[serde(default)]
    pub drain: Drain,
    /// armiger's own messages.
    #[serde(default)]
    pub log: Log,
    /// One line per exchange.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Named services behind armiger. Routes refer to them by name.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Upstream>,
    /// How the addresses of `dns:` endpoints are found.
    #[serde(default)]
    pub dns: Dns,
    /// Who may vouch for callers, by name. Routes refer to them in their policy `identity`.
    #[serde(default)]
    pub identity: BTreeMap<String, identity::Provider>,
    /// What all policies `rate_limit` have in common.
    #[serde(default)]
    pub rate_limits: RateLimits,
    /// What all caches of routes share.
    #[serde(default)]
    pub cache: Cache,
    /// What every route starts from. A route's own block replaces the default's block of the same policy whole;
    /// `off` switches it off.
    #[serde(default)]
    pub defaults: Defaults<P>,
    /// Which request goes where. The order in the file does not matter (except among regular expressions): the
    /// most specific match wins.
    pub routes: Vec<Route<P>>,
}

impl<P> Document<P> {
    /// Puts what this machine can carry in the place of bounds that were left out, so that whoever reads the document
    /// from then on, an operator at `/config` too, sees what is in force.
    pub fn fit(&mut self, machine: &Machine) {
        let left_out = |listener: &&mut Listener| listener.limits.connections_max.is_none();
        let count = self.listeners.iter_mut().filter(left_out).count();
        for listener in self.listeners.iter_mut().filter(left_out) {
            listener.limits.connections_max = Some(machine.connections_max(Limits::CONNECTIONS_MAX, count));
        }
        if self.cache.memory.is_none() {
            self.cache.memory = Some(ByteSize::bytes(machine.cache_bytes(Cache::MEMORY.get())));
        }
    }
}
