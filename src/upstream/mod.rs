//! The services behind armiger: plans, connections, and the one place that decides whether a request is sent again.
//!
//! A [`Plan`] is an upstream's configuration, checked. An [`Upstream`] is what all workers share of it, and [`Pools`]
//! is what one worker has open. [`Upstream::send`] takes a request and gives the answer; its body holds the connection
//! until it was read.

mod answer;
pub mod client;
mod connect;
pub mod endpoint;
pub mod error;
mod http1;
mod http2;
mod link;
pub mod plan;
pub mod pool;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use endpoint::{Address, Endpoint};
pub use error::{Error, Fault, Kind};
pub use plan::Plan;
pub use pool::Pools;

use smallvec::SmallVec;

use crate::telemetry::metrics::UpstreamMetrics;
use crate::telemetry::record::AttemptRow;

/// A named service behind armiger. Shared by all workers, and unchanging but for its counters.
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its place in every worker's [`Pools`]. No two upstreams of a snapshot share one.
    pub slot: usize,
    /// What its requests run on.
    pub plan: Arc<Plan>,
    next: AtomicUsize,
    in_flight: Arc<AtomicUsize>,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream that runs on `plan`.
    pub fn new(name: Arc<str>, slot: usize, plan: Plan, metrics: UpstreamMetrics) -> Self {
        Self { name, slot, plan: Arc::new(plan), next: AtomicUsize::new(0), in_flight: Arc::default(), metrics }
    }

    /// Requests in flight, over all workers: from [`Upstream::send`] to the end of the answer's body.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn admit(&self) -> Result<Permit, Error> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.in_flight.clone());
        if before >= self.plan.in_flight_max { Err(Kind::InFlight.into()) } else { Ok(permit) }
    }

    /// The endpoint whose turn it is.
    fn turn(&self) -> usize {
        match self.plan.endpoints.len() {
            1 => 0,
            count => self.next.fetch_add(1, Ordering::Relaxed) % count,
        }
    }
}

/// Leave to be in flight, given back on drop.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request to an upstream needs besides itself.
pub struct Call<'c> {
    /// The host it asks for.
    pub host: HostRule,
    /// Gets a row for each try when it ends, also when [`Upstream::send`] is dropped. The outcome is `ok`, an error's
    /// slug, or `abandoned`.
    pub attempts: &'c mut SmallVec<[AttemptRow; 2]>,
}

/// The `Host` of a request to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostRule {
    /// What the request says.
    #[default]
    AsIs,
    /// The endpoint's own.
    Endpoint,
}
