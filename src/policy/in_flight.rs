//! `in_flight`: how many requests of a caller may be under way at once.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::key::{Found, Key, OnMissing};
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::value::{HumanDuration, Mode};
use crate::config::{Issue, KeyPath};
use crate::exchange::{Exceeded, Exchange, Reason, Rejection, Verdict};
use crate::keep::Identity;
use crate::limits::flight::{Asked, Flights, Permit};

/// How many requests may be under way at once: a list of limits, all of which must have a place. A place is held until the last
/// byte of the answer is out, or the client gone.
///
/// Of a limit that counts callers further ones get a 429 (`too-many-in-flight`), of one that counts all requests of a route
/// together a 503 (`route-busy`). They draw nothing from limits of `rate_limit`.
///
/// ```yaml
/// in_flight:
///   - {name: per-caller, max: 4, by: ["claim:sub"], queue: {max: 8, wait: 200ms}}
///   - {name: reports, max: 20, by: [route]}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "InFlightPolicy")]
pub struct Config(pub Vec<Limit>);

/// A bound on requests under way, for each key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "InFlightLimit")]
pub struct Limit {
    /// What logs call it. Routes that name the same limit count together, and must say the same of it.
    pub name: String,
    /// So many at once.
    pub max: u32,
    /// What tells requests apart, as in `rate_limit`. `route`: each route counts for itself; `constant`: all together.
    #[serde(default = "by")]
    pub by: Vec<String>,
    /// What happens to a request that lacks a part of the key.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// How many bits of an IPv6 address count.
    #[serde(default = "ipv6_prefix")]
    pub ipv6_prefix: u8,
    /// Requests that may wait for a place. Default: none may.
    #[serde(default)]
    pub queue: Option<Queue>,
    /// Whether it is enforced. In `shadow` it counts for itself, and nobody waits: who would have waited is counted
    /// with those who would have been refused.
    #[serde(default)]
    pub mode: Mode,
}

/// Requests that wait for a place. The longest wait comes first.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "InFlightQueue")]
pub struct Queue {
    /// So many for each key.
    pub max: u32,
    /// For so long, and never longer than the route's `timeout` leaves.
    pub wait: HumanDuration,
}

fn by() -> Vec<String> {
    vec!["client_ip".into()]
}

fn ipv6_prefix() -> u8 {
    64
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("callers may have as many requests under way as they like"),
    Guard::at("[]", Weaker::Gone, "callers may have as many requests under way as they like"),
    Guard::at(
        "[].mode",
        Weaker::When(|_, new| new != "enforce"),
        "callers may have as many requests under way as they like",
    ),
    Guard::at("[].max", Weaker::Higher, "callers may have more requests under way"),
    Guard::at("[].on_missing", Weaker::When(|_, new| new == "skip"), "requests without the key are not counted"),
];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        if self.0.is_empty() {
            scope.issue(
                Issue::new(path, "names no limit, so nothing would be limited")
                    .of_absence()
                    .hint("add one: `- {name: per-address, max: 20}`, or write `in_flight: off`"),
            );
            return;
        }
        let mut groups: [(Mode, Vec<Entry>); 2] = [(Mode::Enforce, Vec::new()), (Mode::Shadow, Vec::new())];
        for (place, limit) in self.0.iter().enumerate() {
            let path = path.index(place);
            if let Some(first) = self.0[..place].iter().position(|known| known.name == limit.name) {
                scope.issue(
                    Issue::new(path.key("name"), format!("another limit is called `{}`", limit.name))
                        .related(scope.path().index(first).key("name"), "first used here")
                        .hint("give each its own name"),
                );
                limit.key(&path, scope);
                continue;
            }
            let Some(entry) = limit.compile(&path, scope) else { continue };
            if let Some((_, entries)) = groups.iter_mut().find(|(mode, _)| *mode == limit.mode) {
                entries.push(entry);
            }
        }
        for (mode, mut entries) in groups {
            if entries.is_empty() {
                continue;
            }
            // All routes ask in one order, so that no two requests wait for one another.
            entries.sort_by(|one, other| one.name.cmp(&other.name));
            scope.add(Stage::Occupy, mode, InFlight { entries: entries.into() });
        }
    }
}

impl Limit {
    /// What tells requests apart, if nothing else of it is wrong either.
    fn key(&self, path: &KeyPath, scope: &mut Scope<'_>) -> Option<Key> {
        let key = Key::compile(&self.by, self.on_missing, self.ipv6_prefix, path, scope);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.name.is_empty() || self.name.len() > 100 || !self.name.bytes().all(fits) {
            scope.issue(
                Issue::new(path.key("name"), format!("`{}` is no limit name", self.name))
                    .hint("use 1 to 100 letters, digits, `-`, `_` and `.`"),
            );
        }
        if self.max == 0 {
            scope.issue(Issue::new(path.key("max"), "is 0, so no request could pass").hint("the least is 1"));
        }
        if let Some(queue) = &self.queue {
            if queue.max == 0 {
                scope.issue(
                    Issue::new(path.key("queue").key("max"), "is 0, so nobody could wait")
                        .hint("the least is 1, or leave `queue` out"),
                );
            }
            if queue.max > 100_000 {
                scope.issue(Issue::new(path.key("queue").key("max"), "is too many").hint("the most is 100000"));
            }
            if queue.wait.get().is_zero() {
                scope.issue(
                    Issue::new(path.key("queue").key("wait"), "is no time at all")
                        .hint("the least is 1ms, or leave `queue` out"),
                );
            }
        }
        key
    }

    fn compile(&self, path: &KeyPath, scope: &mut Scope<'_>) -> Option<Entry> {
        let key = self.key(path, scope)?;
        let is_shadow = self.mode == Mode::Shadow;
        let queue = self.queue.as_ref().filter(|_| !is_shadow);
        let (queue_max, wait) = queue.map_or((0, Duration::ZERO), |queue| (queue.max, queue.wait.get()));
        let kind = if is_shadow { "in flight in shadow" } else { "in flight" };
        let settings = serde_json::to_string(self).unwrap_or_default();
        let shared = scope.share(kind, &self.name, settings, path, |scope| {
            let identity = Identity::of(kind, &self.name)
                .shape("by", self.by.join(", "))
                .shape("ipv6_prefix", self.ipv6_prefix)
                .setting("max", self.max);
            scope.keeper.keep(identity, Flights::default)
        });
        let flights = match shared {
            Ok(flights) => Arc::clone(&*flights),
            Err(first) => {
                scope.issue(
                    Issue::new(path.clone(), format!("the limit `{}` says something else here", self.name))
                        .related(first.clone(), "first said here")
                        .goes_by(first)
                        .of_absence()
                        .hint("say the same, or give it another name"),
                );
                return None;
            }
        };
        let reason = if key.is_shared() { Reason::RouteBusy } else { Reason::TooManyInFlight };
        Some(Entry { name: self.name.as_str().into(), flights, key, max: self.max, queue_max, wait, reason })
    }
}

/// Lets so many requests through at once.
pub struct InFlight {
    entries: Box<[Entry]>,
}

struct Entry {
    name: Box<str>,
    flights: Arc<Flights>,
    key: Key,
    max: u32,
    queue_max: u32,
    wait: Duration,
    reason: Reason,
}

/// The places that a request holds.
pub type Places = SmallVec<[Permit; 2]>;

impl Policy for InFlight {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let mut places = Places::new();
        for entry in &self.entries {
            let mut hasher = entry.flights.hasher();
            let hash = match entry.key.feed(exchange, &mut hasher) {
                Found::Key => std::hash::Hasher::finish(&hasher),
                Found::Skip => continue,
                Found::Deny => return Err(Reason::LimitKeyMissing.into()),
            };
            let permit = match entry.flights.take(hash, entry.max, entry.queue_max) {
                Asked::Taken(permit) => Some(permit),
                Asked::Full => None,
                Asked::Queued(coming) => Box::pin(waited(coming, entry.wait, exchange)).await,
            };
            // What was taken before is given back by its drop.
            places.push(permit.ok_or_else(|| refused(entry.reason))?);
        }
        if places.is_empty() { Ok(Verdict::Pass) } else { Ok(Verdict::Hold(Box::new(places))) }
    }
}

/// The place, if it comes in time.
async fn waited(
    mut coming: tokio::sync::oneshot::Receiver<Permit>,
    wait: Duration,
    exchange: &Exchange,
) -> Option<Permit> {
    let mut timer = exchange.wheel.timer();
    timer.arm(wait);
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut coming).poll(cx) {
        Poll::Ready(permit) => Poll::Ready(permit.ok()),
        Poll::Pending => timer.poll_expired(cx).map(|()| None),
    })
    .await
}

fn refused(reason: Reason) -> Rejection {
    // Nobody can tell when a place is free; a second is polite.
    let exceeded = Exceeded { wait: Some(1_000_000), names: SmallVec::new(), readings: SmallVec::new() };
    Rejection { exceeded: Some(Box::new(exceeded)), limit: Some("in_flight.max"), ..reason.into() }
}
