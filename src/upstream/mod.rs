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
mod bulkhead;
mod certificate;
pub mod client;
mod connect;
pub mod discovery;
pub mod endpoint;
pub mod error;
mod gradient;
pub mod health;
mod hedge;
mod http1;
mod http2;
mod link;
mod lookup;
mod name;
mod parting;
mod pick;
pub mod plan;
pub mod pool;
mod progress;
mod resolver;
mod retry;
pub mod standing;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod tries;
mod turns;
mod unfinished;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use discovery::Behind;
pub use endpoint::{Address, Endpoint};
pub use error::{Error, Fault, Kind};
pub use plan::Plan;
pub use pool::{PoolState, Pools};
pub use progress::{Progress, Reached};
pub use standing::Standings;
pub use state::State;
pub use unfinished::{Count, Unfinished};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use serde_json::{Map, Value, json};
use smallvec::SmallVec;

use crate::config::upstream::Class;
use crate::http::forwarded;
use crate::http::grpc;
use crate::http::proxy_protocol::Ends;
use crate::keep::Keeper;
use crate::telemetry::metrics::{Metrics, UpstreamMetrics};
use crate::telemetry::record::AttemptRow;
use crate::tls;

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
    /// Where some of its endpoints stand behind names: what it is with the addresses that are known now.
    behind: Option<Arc<Behind>>,
    /// The how manyth answer of names it is made of. A pool follows the highest.
    answer: u64,
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
        Self { name, version, plan: Arc::new(plan), state, standings, metrics, behind: None, answer: 0 }
    }

    /// What it is now: with the addresses that its names have.
    pub fn now(&self) -> Now<'_> {
        match &self.behind {
            None => Now::Own(self),
            Some(behind) => Now::Found(behind.now()),
        }
    }

    /// What a route has of it: the upstream as it is, or one with the breaker that the route has of its own.
    pub fn of_route(self: &Arc<Self>, route: &str, keeper: &mut Keeper<'_>, metrics: &Metrics) -> Arc<Self> {
        let Self { name, version, plan, state, standings, metrics: own, behind, answer } = &**self;
        let Some(standings) = standings.of_route(name, route, plan, keeper, metrics) else { return self.clone() };
        let (name, plan, state) = (name.clone(), plan.clone(), state.clone());
        let (metrics, behind) = (own.clone(), behind.clone());
        Arc::new(Self { name, version: *version, plan, state, standings, metrics, behind, answer: *answer })
    }

    /// Of two of these, a pool follows the higher one.
    fn edition(&self) -> (u64, u64) {
        (self.version, self.answer)
    }

    /// What makes a request like others, where requests that are alike go to one endpoint.
    pub fn key<B>(&self, request: &Request<B>, client: IpAddr) -> Option<u64> {
        self.plan.balance.key(request, client)
    }

    /// What operators see of it.
    pub fn shown(&self, now: Instant) -> Value {
        let current = self.now();
        let endpoints = current.plan.endpoints.iter().zip(&current.standings.endpoints).enumerate();
        // All that is in flight is at the only endpoint, where nobody counts it again.
        let all = (current.plan.endpoints.len() == 1).then(|| self.in_flight());
        let endpoints = endpoints.map(|(place, (endpoint, standing))| {
            let in_flight = all.unwrap_or_else(|| standing.live.in_flight());
            standing.shown(&endpoint.label, in_flight, current.is_ill(place), now)
        });
        json!({
            "upstream": &*self.name,
            "in_flight": self.in_flight(),
            "in_flight_max": self.plan.bounds.in_flight_max,
            "in_flight_bound": self.state.bulkhead.bound(&self.plan.bounds),
            "waiting": self.state.bulkhead.waiting(),
            "breaker": self.standings.breaker.as_ref().map(|breaker| breaker.shown(now)),
            "breakers_of_routes": self.of_routes(now),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "certificate_not_after": self.plan.certificate_end.and_then(tls::ending::moment),
            "names": self.behind.as_ref().map(|behind| behind.shown(now)),
        })
    }

    fn of_routes(&self, now: Instant) -> Option<Map<String, Value>> {
        let all = self.standings.of_routes.all();
        let shown = |(route, breaker): &(Arc<str>, Arc<breaker::Breaker>)| (route.to_string(), breaker.shown(now));
        (!all.is_empty()).then(|| all.iter().map(shown).collect())
    }

    /// Requests in flight, over all workers: from [`Upstream::send`] to the end of the answer's body.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }
}

/// An upstream with the addresses that its names have now.
pub enum Now<'u> {
    /// It has no names.
    Own(&'u Upstream),
    /// What became of it with the last answers.
    Found(Arc<Upstream>),
}

impl Deref for Now<'_> {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        match self {
            Self::Own(upstream) => upstream,
            Self::Found(upstream) => upstream,
        }
    }
}

/// What a request to an upstream needs besides itself.
pub struct Call<'c> {
    /// The host it asks for.
    pub host: HostRule,
    /// When the caller gives up.
    pub deadline: Instant,
    /// When the time is over that the configuration gives. A caller that gives up sooner says nothing of the upstream.
    pub due: Instant,
    /// Whom the upstream turns away first.
    pub class: Class,
    /// Where each try is told how much of the time is left.
    pub tells: Tells<'c>,
    /// The client's connection, for upstreams that are told of it. None: it is for no client.
    pub ends: Option<Ends>,
    /// What makes it like others, where that decides which endpoint it goes to; see [`Upstream::key`].
    pub key: Option<u64>,
    /// What it knows of another try at the same time.
    side: hedge::Side<'c>,
    /// Gets a row for each try when it ends, also when [`Upstream::send`] is dropped. The outcome is `ok`, an error's
    /// slug, or `abandoned`.
    pub attempts: &'c mut SmallVec<[AttemptRow; 2]>,
}

impl<'c> Call<'c> {
    /// A call that has until `deadline`, of which the upstream is told nothing.
    pub fn new(
        host: HostRule,
        deadline: Instant,
        key: Option<u64>,
        attempts: &'c mut SmallVec<[AttemptRow; 2]>,
    ) -> Self {
        Self {
            host,
            deadline,
            due: deadline,
            class: Class::default(),
            tells: Tells::default(),
            ends: None,
            key,
            side: hedge::Side::default(),
            attempts,
        }
    }
}

impl<'c> Call<'c> {
    /// The same with what a route says of it.
    #[must_use]
    pub fn of_route(self, due: Instant, class: Class, tells: Tells<'c>) -> Self {
        Self { due, class, tells, ..self }
    }

    /// The same for an upstream that is told of the client's connection.
    #[must_use]
    pub fn of_client(self, ends: Ends) -> Self {
        // A client without an address is none that could be told.
        Self { ends: Some(ends).filter(|ends| ends.source.ip() != forwarded::NOWHERE), ..self }
    }
}

/// The headers that tell an upstream how long its caller waits still.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tells<'c> {
    /// `grpc-timeout`.
    pub grpc: bool,
    /// This one, in milliseconds.
    pub header: Option<&'c HeaderName>,
}

impl Tells<'_> {
    fn write(&self, headers: &mut HeaderMap, deadline: Instant, now: Instant) {
        if !self.grpc && self.header.is_none() {
            return;
        }
        let left = deadline.saturating_duration_since(now);
        if self.grpc {
            headers.insert(&grpc::GRPC_TIMEOUT, grpc::timeout_value(left));
        }
        if let Some(name) = self.header {
            // Rounded down, or the upstream would work for nobody; but 0 is what nobody waits for.
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
            headers.insert(name, HeaderValue::from(millis));
        }
    }
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
