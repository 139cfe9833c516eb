//! The services behind armiger: plans, connections, and the one place that decides whether a request is sent again.
//!
//! A [`Plan`] is an upstream's configuration, checked. An [`Upstream`] is what a snapshot has of it, [`State`] what all
//! workers and all snapshots share, and [`Pools`] what one worker has open. [`Upstream::send`] takes a request and gives
//! the answer; its body holds the connection until it was read.
//!
//! A reload leaves connections alone: a pool belongs to a [`State`], and takes over the plan of the newest snapshot that
//! it hears of. Exchanges of older snapshots go on with the endpoints of theirs.

mod answer;
pub mod background;
mod bench;
pub mod client;
mod connect;
pub mod endpoint;
pub mod error;
mod head;
mod http1;
mod http2;
mod link;
pub mod plan;
pub mod pool;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use endpoint::{Address, Endpoint};
pub use error::{Error, Fault, Kind};
pub use plan::Plan;
pub use pool::{PoolState, Pools};
pub use state::State;

use smallvec::SmallVec;

use crate::telemetry::metrics::UpstreamMetrics;
use crate::telemetry::record::AttemptRow;

/// A named service behind armiger, as a snapshot has it. Shared by all workers, and unchanging.
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The version of the snapshot that it belongs to. Of two plans, a pool follows the one of the higher version.
    pub version: u64,
    /// What its requests run on.
    pub plan: Arc<Plan>,
    /// What it shares with the upstream of that name in the snapshots before and after.
    pub state: Arc<State>,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream of the snapshot of this version that runs on `plan`.
    pub fn new(name: Arc<str>, version: u64, plan: Plan, state: Arc<State>, metrics: UpstreamMetrics) -> Self {
        Self { name, version, plan: Arc::new(plan), state, metrics }
    }

    /// Requests in flight, over all workers: from [`Upstream::send`] to the end of the answer's body.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
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
