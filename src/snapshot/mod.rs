//! The running plan: immutable, replaced whole.

pub mod compile;
pub mod diff;
pub mod pattern;
pub mod router;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderName;

use crate::action::Action;
use crate::config::listener::Listener;
use crate::config::observe::AccessLog;
use crate::config::{self, KeyPath};
use crate::http::path::Held;
use crate::http::reserved::Reserved;
use crate::identity::Provider;
use crate::keep::Kept;
use crate::policy::{Blocks, Chain};
use crate::telemetry::finish::Occupancy;
use crate::telemetry::metrics::{InFlight, ListenerMetrics, RouteMetrics};
use crate::upstream::Upstream;
pub use compile::compile;
use router::Router;

/// What the user wrote, policies included.
pub type Document = config::Document<Blocks>;

/// What a request uses.
pub struct Snapshot {
    /// Counts up with each configuration that is applied.
    pub version: u64,
    /// Which route a request takes.
    pub router: Router<Arc<Route>>,
    /// Headers of requests that only armiger may write.
    pub reserved: Arc<Reserved>,
    /// What to listen on, in the order of the file.
    pub listeners: Vec<Arc<ListenerPlan>>,
    /// The services behind armiger, in the order of their names: what each worker's pools are to follow.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Who may vouch for callers, in the order of their names.
    pub providers: Vec<Arc<Provider>>,
    /// What is logged.
    pub access_log: AccessLog,
    /// Live state that the next snapshot may take over.
    pub kept: Kept,
    /// The hash of the files that it was made of, as operators see it.
    pub hash: String,
    /// The document that it was made of.
    pub document: Document,
    /// Values of it that came from the environment or a file, each with the reference that stands for it.
    pub outside: Vec<(String, String)>,
    /// Secrets that are the default of their reference, and so stand in the file.
    pub defaulted: Vec<KeyPath>,
}

impl Snapshot {
    /// The document as operators may see it: what is in force of it, secrets masked, and `${env:NAME}` in the place of what
    /// the environment gave.
    pub fn shown(&self) -> serde_json::Value {
        let mut shown = serde_json::to_value(self.document.in_force(Blocks::in_force)).unwrap_or_default();
        let references = self.outside.iter().map(|(value, reference)| (value.as_str(), reference.as_str())).collect();
        conceal(&mut shown, &references);
        shown
    }
}

fn conceal(value: &mut serde_json::Value, references: &HashMap<&str, &str>) {
    match value {
        serde_json::Value::String(text) => {
            if let Some(reference) = references.get(text.as_str()) {
                *text = (*reference).to_owned();
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| conceal(item, references)),
        serde_json::Value::Object(entries) => entries.values_mut().for_each(|entry| conceal(entry, references)),
        _ => {}
    }
}

/// A route, ready to run.
pub struct Route {
    /// What logs and metrics call it.
    pub name: Arc<str>,
    /// Its policies.
    pub chain: Chain,
    /// Whether a policy of its answers a browser's preflight.
    pub answers_preflight: bool,
    /// What it does.
    pub action: Action,
    /// How long until the head of the answer must be there.
    pub timeout: Duration,
    /// Where callers say how long they wait.
    pub deadline_header: Option<HeaderName>,
    /// What its paths may hold that is refused elsewhere.
    pub path_allow: Held,
    /// Where it is counted.
    pub metrics: RouteMetrics,
    /// Counts its snapshot as in use, for as long as an exchange is on it.
    pub generation: Arc<InFlight>,
}

/// A listener, ready to run.
pub struct ListenerPlan {
    /// As the user wrote it.
    pub config: Listener,
    /// What logs and metrics call it.
    pub name: Arc<str>,
    /// Whose word about the client's address is believed.
    pub trust: crate::http::forwarded::Trust,
    /// Whose PROXY header is believed, where connections begin with one.
    pub balancers: Option<crate::http::forwarded::Trust>,
    /// The pseudonym for `Via`; none to write no `Via`.
    pub via: Option<crate::http::forwarded::Via>,
    /// What TLS handshakes run on; none for clear text.
    pub tls: Option<crate::tls::server::Server>,
    /// What outlives a reload.
    pub state: Arc<ListenerState>,
}

/// What is counted of a listener, by its name, whatever its address.
pub struct ListenerState {
    /// Requests in flight, over all workers.
    pub in_flight: Arc<Occupancy>,
    /// Where its connections are counted.
    pub metrics: ListenerMetrics,
}

/// The snapshot that is in force.
pub struct Live(ArcSwap<Snapshot>);

impl Live {
    /// Puts a first snapshot in force.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self(ArcSwap::new(snapshot))
    }

    /// A reader's handle that looks at the shared pointer once per request and shares no counter with other workers.
    pub fn reader(self: &Arc<Self>) -> Reader {
        arc_swap::Cache::new(Handle(self.clone()))
    }

    /// Puts another snapshot in force. Exchanges that began on the old one end on it.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        self.0.store(snapshot);
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}

/// A worker's cached pointer to the snapshot in force.
pub type Reader = arc_swap::Cache<Handle, Arc<Snapshot>>;

/// A shared handle on [`Live`], in the form that a [`Reader`] needs.
pub struct Handle(Arc<Live>);

impl std::ops::Deref for Handle {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &ArcSwap<Snapshot> {
        &self.0.0
    }
}
