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
mod balance;
mod bench;
pub mod breaker;
pub mod client;
mod connect;
pub mod endpoint;
pub mod error;
mod head;
pub mod health;
mod http1;
mod http2;
mod link;
mod pick;
pub mod plan;
pub mod pool;
mod retry;
pub mod standing;
mod state;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

pub use endpoint::{Address, Endpoint};
pub use error::{Error, Fault, Kind};
pub use plan::Plan;
pub use pool::{PoolState, Pools};
pub use standing::Standings;
pub use state::State;

use http::Request;
use serde_json::{Value, json};
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
    /// What it shares with them of its endpoints.
    pub standings: Standings,
    metrics: UpstreamMetrics,
}

impl Upstream {
    /// An upstream of the snapshot of this version that runs on `plan`.
    pub fn new(
        name: Arc<str>,
        version: u64,
        plan: Plan,
        state: Arc<State>,
        standings: Standings,
        metrics: UpstreamMetrics,
    ) -> Self {
        Self { name, version, plan: Arc::new(plan), state, standings, metrics }
    }

    /// What makes a request like others, where requests that are alike go to one endpoint.
    pub fn key<B>(&self, request: &Request<B>, client: IpAddr) -> Option<u64> {
        self.plan.balance.key(request, client)
    }

    /// What operators see of it.
    pub fn shown(&self, now: Instant) -> Value {
        let endpoints = self.plan.endpoints.iter().zip(&self.standings.endpoints);
        let endpoints = endpoints.map(|(endpoint, standing)| standing.shown(&endpoint.label, now));
        json!({
            "upstream": &*self.name,
            "in_flight": self.in_flight(),
            "in_flight_max": self.plan.in_flight_max,
            "breaker": self.standings.breaker.as_ref().map(|breaker| breaker.shown(now)),
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
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
    /// When the caller gives up.
    pub deadline: Instant,
    /// What makes it like others, where that decides which endpoint it goes to; see [`Upstream::key`].
    pub key: Option<u64>,
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
