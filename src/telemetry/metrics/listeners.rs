//! What is counted about listeners and workers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::exchanges::InFlight;
use super::family::{Family, Held, Series, SlugCounters};

impl Metrics {
    /// The handles of a listener. Listeners of one name share them.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let families = &self.0.families;
        ListenerMetrics(self.0.listeners.get(&[name], || ListenerSeries {
            name: name.to_owned(),
            connections_family: families.listener_connections.clone(),
            accepted_family: families.listener_accepted.clone(),
            connections: families.listener_connections.series(&[name]),
            accepted: families.listener_accepted.series(&[name]),
            handshakes_family: families.handshakes.clone(),
            handshakes: SlugCounters::new(&families.handshakes, &[name]),
            proxy_headers_family: families.proxy_headers.clone(),
            proxy_headers: SlugCounters::new(&families.proxy_headers, &[name]),
            certificate_ends: families.certificate_ends.clone(),
            list_ends: families.list_ends.clone(),
        }))
    }

    /// The handles of a worker, by its number. Workers live as long as the process, so their series stay.
    pub fn worker(&self, index: usize) -> WorkerMetrics {
        let label = index.to_string();
        WorkerMetrics {
            connections: self.0.families.worker_connections.series(&[&label]),
            accepted: self.0.families.worker_accepted.series(&[&label]),
        }
    }
}

/// What is counted about a listener.
#[derive(Clone)]
pub struct ListenerMetrics(Arc<Held<ListenerSeries>>);

pub(super) struct ListenerSeries {
    name: String,
    connections_family: Family<IntGauge>,
    accepted_family: Family<IntCounter>,
    connections: IntGauge,
    accepted: IntCounter,
    handshakes_family: Family<IntCounter>,
    handshakes: SlugCounters,
    proxy_headers_family: Family<IntCounter>,
    proxy_headers: SlugCounters,
    certificate_ends: Family<IntGauge>,
    list_ends: Family<IntGauge>,
}

impl Series for ListenerSeries {
    fn leave(&self) {
        let name = [self.name.as_str()];
        self.connections_family.remove(&name);
        self.accepted_family.remove(&name);
        self.handshakes_family.remove(&name);
        self.proxy_headers_family.remove(&name);
        self.certificate_ends.remove(&name);
        self.list_ends.remove(&name);
    }
}

impl fmt::Debug for ListenerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListenerMetrics").field(&self.0.series.name).finish()
    }
}

impl ListenerMetrics {
    /// Counts an accepted connection, and as open until the guard is dropped.
    pub fn accepted(&self) -> InFlight {
        self.0.series.accepted.inc();
        InFlight::new(&self.0.series.connections)
    }

    /// Connections open now.
    pub fn connections(&self) -> i64 {
        self.0.series.connections.get()
    }

    /// Counts a TLS handshake, by how it ended.
    pub fn shaken(&self, outcome: &'static str) {
        self.0.series.handshakes.add(outcome, 1);
    }

    /// Counts a connection that was to begin with a PROXY header, by what came of it.
    pub fn proxied(&self, outcome: &'static str) {
        self.0.series.proxy_headers.add(outcome, 1);
    }

    /// Tells when the certificates end that are shown from now on, by a name of each.
    pub fn certificates<'a>(&self, ends: impl Iterator<Item = (&'a str, i64)>) {
        self.tell(&self.0.series.certificate_ends, ends);
    }

    /// Tells when the lists of certificates that were taken back end, by their authorities.
    pub fn lists<'a>(&self, ends: impl Iterator<Item = (&'a str, i64)>) {
        self.tell(&self.0.series.list_ends, ends);
    }

    /// Of several by one name what ends first is told: that is when somebody has to act.
    fn tell<'a>(&self, family: &Family<IntGauge>, ends: impl Iterator<Item = (&'a str, i64)>) {
        let name = self.0.series.name.as_str();
        let mut first = BTreeMap::new();
        for (label, end) in ends {
            first.entry(label).and_modify(|first: &mut i64| *first = end.min(*first)).or_insert(end);
        }
        family.remove(&[name]);
        for (label, end) in first {
            family.series(&[name, label]).set(end);
        }
    }
}

/// What is counted about a worker.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    connections: IntGauge,
    accepted: IntCounter,
}

impl WorkerMetrics {
    /// Counts a connection handed to the worker, and as served by it until the guard is dropped.
    pub fn accepted(&self) -> InFlight {
        self.accepted.inc();
        InFlight::new(&self.connections)
    }

    /// Connections the worker serves now.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }
}
