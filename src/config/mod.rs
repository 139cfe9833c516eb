//! What the user wrote: the document, its types, and the way from a YAML file to it.
//!
//! This folder knows nothing of the runtime. It reads text, reports every mistake of it at once, and yields a
//! [`Document`]. `snapshot/compile.rs` turns a document into the plan that requests run on.
//!
//! The document is generic over the policy section `P`, so that a policy's configuration lives beside its code and
//! this folder names no policy.

pub mod issue;
pub mod listener;
pub mod load;
pub mod observe;
pub mod operate;
pub mod reference;
pub mod route;
pub mod upstream;
pub mod value;
pub mod yaml;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use issue::{Issue, Issues, KeyPath};
use listener::Listener;
pub use load::{Loaded, load, load_str};
use observe::AccessLog;
use operate::{Admin, Drain, Log, Probes};
use route::{Defaults, Route};
use upstream::Upstream;

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
    /// More files, as paths or patterns such as `conf.d/*.yaml`, relative to this file. Each adds `listeners`,
    /// `upstreams` and `routes`; patterns are taken in the order given, and the files of one in the order of their names.
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
    /// What every route starts from. A route's own block replaces the default's block of the same policy whole;
    /// `off` switches it off.
    #[serde(default)]
    pub defaults: Defaults<P>,
    /// Which request goes where. The order in the file does not matter (except among regular expressions): the
    /// most specific match wins.
    pub routes: Vec<Route<P>>,
}
