//! What all workers share of an upstream's endpoints: who is in flight there, and whether calls may go there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::background;
use super::breaker::{Breaker, Of, Rules};
use super::endpoint::Endpoint;
use super::health::{Health, Round};
use super::plan::Plan;
use crate::config::breaker::Scope;
use crate::config::health::Start;
use crate::keep::{Fate, Identity, Keeper, What};
use crate::telemetry::metrics::{EndpointMetrics, Metrics};

/// What reports of reloads call a breaker.
const BREAKER: &str = "breaker";
/// The least share of its weight that an endpoint gets while it starts slowly.
const SHARE_MIN: f64 = 0.1;

/// What is known of an upstream's endpoints, and the breaker of all of them together.
#[derive(Default)]
pub struct Standings {
    /// Of the upstream as a whole.
    pub breaker: Option<Arc<Breaker>>,
    /// Of each endpoint, in the order of the plan.
    pub endpoints: Box<[Standing]>,
    /// Of each route that has a breaker of its own.
    pub(super) of_routes: Arc<OfRoutes>,
    /// Ejections happen one after the other, or two at once could take out more than may be.
    ejecting: Arc<Mutex<()>>,
}

/// The breakers of an upstream's routes, told while their snapshot is compiled.
#[derive(Default)]
pub struct OfRoutes(Mutex<Vec<(Arc<str>, Arc<Breaker>)>>);

impl OfRoutes {
    /// All of them, with the routes that they are of.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Arc<Breaker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, route: &str, breaker: &Arc<Breaker>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|(_, known)| Arc::ptr_eq(known, breaker)) {
            all.push((route.into(), breaker.clone()));
        }
    }
}

/// What is known of an endpoint.
#[derive(Clone)]
pub struct Standing {
    /// Its own breaker.
    pub breaker: Option<Arc<Breaker>>,
    /// What outlives configurations of it.
    pub live: Arc<Live>,
    /// Tells it from others, for consistent hashing: the same in each armiger.
    pub(super) label: u64,
    pub(super) metrics: EndpointMetrics,
}

/// What is known of an endpoint behind a name, over answers and configurations.
pub(super) struct Known {
    live: Arc<Live>,
    breaker: Option<Arc<Breaker>>,
    metrics: EndpointMetrics,
}

impl Known {
    /// That its breaker ends, if it has one.
    pub(super) fn dropped(&self, name: &str, label: &str) -> Option<Fate> {
        let loss = self.breaker.as_ref()?.loss(Instant::now());
        Some(Fate { kind: BREAKER, name: format!("{name} {label}"), what: What::Dropped, loss })
    }

    /// No configuration that is in force has breakers of endpoints.
    pub(super) fn without_breaker(&mut self) {
        self.breaker = None;
    }
}

/// What outlives configurations of an endpoint.
pub struct Live {
    origin: Instant,
    in_flight: AtomicUsize,
    failures_in_row: AtomicU32,
    /// Until when it is out, and since when it is not, in milliseconds since `origin`.
    ejected_until: AtomicU64,
    fit_since: AtomicU64,
    ejections: AtomicU32,
    /// Health checks say so.
    is_ill: AtomicBool,
    /// Health checks said anything.
    is_known: AtomicBool,
}

/// When endpoints are ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// After so many failures in a row.
    pub consecutive: u32,
    /// For how long at first, and at most.
    pub base: Duration,
    /// The most that this grows to.
    pub max: Duration,
    /// The share of endpoints that may be out.
    pub share_max: f64,
}

impl Live {
    fn new(is_ill: bool, now: Instant) -> Self {
        Self {
            origin: now,
            in_flight: AtomicUsize::new(0),
            failures_in_row: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            fit_since: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            is_ill: AtomicBool::new(is_ill),
            is_known: AtomicBool::new(false),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// Requests in flight there, over all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it is out.
    pub fn is_ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until > 0 && until > self.millis(now)
    }

    /// Whether health checks find it ill, or did when it was last asked: ask [`Upstream::is_ill`](super::Upstream::is_ill)
    /// whether that counts.
    fn is_ill(&self) -> bool {
        self.is_ill.load(Ordering::Relaxed)
    }

    /// Whether health checks found it well.
    pub fn is_known_well(&self) -> bool {
        self.is_known.load(Ordering::Relaxed) && !self.is_ill()
    }

    /// Its health is asked for anew: what was found before is long ago.
    pub(super) fn is_unasked(&self) {
        self.is_known.store(false, Ordering::Relaxed);
        self.is_ill.store(false, Ordering::Relaxed);
    }

    /// Health checks say how it is.
    pub fn is_found(&self, is_well: bool, now: Instant) {
        self.is_known.store(true, Ordering::Relaxed);
        if self.is_ill.swap(!is_well, Ordering::Relaxed) && is_well {
            self.fit_since.store(self.millis(now), Ordering::Relaxed);
            // It may have been out for what is over now.
            self.ejected_until.store(0, Ordering::Relaxed);
            self.failures_in_row.store(0, Ordering::Relaxed);
        }
    }

    /// The share of its weight that it gets while it starts slowly.
    pub(super) fn share(&self, slow_start: Option<Duration>, now: Instant) -> f64 {
        let Some(slow_start) = slow_start else { return 1.0 };
        let since = self.fit_since.load(Ordering::Relaxed).max(self.ejected_until.load(Ordering::Relaxed));
        let passed = Duration::from_millis(self.millis(now).saturating_sub(since));
        (passed.as_secs_f64() / slow_start.as_secs_f64()).clamp(SHARE_MIN, 1.0)
    }
}

/// A place among the requests in flight at an endpoint, given back on drop.
pub(super) struct Seat(Arc<Live>);

impl Seat {
    pub(super) fn take(live: &Arc<Live>) -> Self {
        live.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(live.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Standings {
    /// What was known before of the upstream of this name, as far as `plan` goes on with it.
    pub fn keep(name: &str, plan: &Plan, keeper: &mut Keeper<'_>, metrics: &Metrics) -> Self {
        let now = Instant::now();
        let rules =
            |scope| plan.breaker.as_ref().filter(|breaker| breaker.scope == scope).map(|breaker| &breaker.rules);
        let breaker = rules(Scope::Upstream).map(|rules| {
            keeper.keep(identity(name.to_owned(), rules), || Breaker::new(name, Of::All, rules, metrics, now))
        });
        let starts_ill = starts_ill(plan);
        let standing = |endpoint: &Endpoint| {
            let label = &endpoint.label;
            let breaker = rules(Scope::Endpoint).map(|rules| {
                keeper.keep(identity(format!("{name} {label}"), rules), || {
                    Breaker::new(name, Of::Endpoint(label.clone()), rules, metrics, now)
                })
            });
            let live = Identity::of("endpoint", format!("{name} {label}")).untold();
            let live = keeper.keep(live, || Live::new(starts_ill, now));
            let metrics = shown(&live, metrics.endpoint(name, label), starts_ill);
            Standing::of(label, breaker, live, metrics)
        };
        let endpoints: Box<[_]> = plan.endpoints.iter().map(standing).collect();
        let all = Self { breaker, endpoints, ..Self::default() };
        if let Some(round) = Round::of(plan, &all) {
            let health = Health::keep(name, keeper);
            background::employ(keeper, &health, round);
        }
        let ejecting = keeper.keep(Identity::of("ejecting", name).untold(), Mutex::default);
        Self { ejecting, ..all }
    }

    /// The same for these endpoints of `plan`: first those that it has, then others, of which `known` tells what is known.
    /// Of new ones it learns.
    pub(super) fn with(
        &self,
        name: &str,
        plan: &Plan,
        endpoints: &[Endpoint],
        known: &mut HashMap<Arc<str>, Known>,
        metrics: &Metrics,
    ) -> Self {
        let now = Instant::now();
        let rules = plan.breaker.as_ref().filter(|breaker| breaker.scope == Scope::Endpoint);
        let others = endpoints.iter().skip(self.endpoints.len()).map(|endpoint| {
            let label = &endpoint.label;
            let known = known.entry(label.clone()).or_insert_with(|| {
                let live = Arc::new(Live::new(starts_ill(plan), now));
                let metrics = shown(&live, metrics.endpoint(name, label), starts_ill(plan));
                Known { live, breaker: None, metrics }
            });
            // Where there are none, what was seen stays: this may come of a configuration that is refused in the end.
            let breaker = rules.map(|plan| {
                let of = || Of::Endpoint(label.clone());
                let make = || Arc::new(Breaker::new(name, of(), &plan.rules, metrics, now));
                known.breaker.get_or_insert_with(make).clone()
            });
            Standing::of(label, breaker, known.live.clone(), known.metrics.clone())
        });
        let endpoints = self.endpoints.iter().cloned().chain(others).collect();
        Self { endpoints, ..self.again(self.breaker.clone()) }
    }

    /// The same for the calls of a route, where each route has a breaker of its own.
    pub(super) fn of_route(
        &self,
        name: &str,
        route: &str,
        plan: &Plan,
        keeper: &mut Keeper<'_>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let rules = &plan.breaker.as_ref().filter(|breaker| breaker.scope == Scope::Route)?.rules;
        let breaker = keeper.keep(identity(format!("{name} route {route}"), rules), || {
            Breaker::new(name, Of::Route(route.into()), rules, metrics, Instant::now())
        });
        self.of_routes.add(route, &breaker);
        Some(self.again(Some(breaker)))
    }

    fn again(&self, breaker: Option<Arc<Breaker>>) -> Self {
        let Self { endpoints, of_routes, ejecting, .. } = self;
        Self { breaker, endpoints: endpoints.clone(), of_routes: of_routes.clone(), ejecting: ejecting.clone() }
    }

    /// Of something that is no upstream of the configuration: nothing is known before, and nothing is counted.
    pub fn apart(plan: &Plan) -> Self {
        Self::keep("", plan, &mut Keeper::fresh(), &Metrics::new())
    }

    /// Whether the last word of health checks on the endpoint at `place` was that it is ill.
    pub(super) fn was_ill(&self, place: usize) -> bool {
        self.endpoints.get(place).is_some_and(|one| one.live.is_ill())
    }

    /// Every breaker: of the upstream, of its routes, of its endpoints.
    pub fn breakers(&self) -> impl Iterator<Item = Arc<Breaker>> {
        let of_routes = self.of_routes.all().into_iter().map(|(_, breaker)| breaker);
        let of_endpoints = self.endpoints.iter().filter_map(|standing| standing.breaker.clone());
        self.breaker.iter().cloned().chain(of_routes).chain(of_endpoints)
    }

    /// A call to the endpoint at `place` ended well.
    pub(super) fn succeeded(&self, place: usize) {
        let row = &self.endpoints[place].live.failures_in_row;
        if row.load(Ordering::Relaxed) > 0 {
            row.store(0, Ordering::Relaxed);
        }
    }

    /// A call to the endpoint at `place` failed. Says whether that took it out.
    pub(super) fn failed(&self, place: usize, ejection: &Ejection, now: Instant) -> bool {
        let live = &self.endpoints[place].live;
        if live.failures_in_row.fetch_add(1, Ordering::Relaxed) + 1 < ejection.consecutive {
            return false;
        }
        // Nothing in here panics half-way, and it is short.
        let _one = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let out = self.endpoints.iter().filter(|standing| standing.live.is_ejected(now)).count();
        let count = self.endpoints.len();
        let most = ((count as f64 * ejection.share_max) as usize).min(count.saturating_sub(1));
        if live.is_ejected(now) || out >= most {
            return false;
        }
        let last = live.ejected_until.load(Ordering::Relaxed);
        let is_long_ago = last + u64::try_from(ejection.max.as_millis()).unwrap_or(u64::MAX) < live.millis(now);
        let times = if is_long_ago { 1 } else { live.ejections.load(Ordering::Relaxed).saturating_add(1) };
        let lasts = ejection.base.saturating_mul(times).min(ejection.max);
        live.ejections.store(times, Ordering::Relaxed);
        live.failures_in_row.store(0, Ordering::Relaxed);
        live.ejected_until.store(live.millis(now + lasts).max(1), Ordering::Relaxed);
        self.endpoints[place].metrics.ejected();
        true
    }
}

/// What an endpoint is taken for before anybody asked.
fn starts_ill(plan: &Plan) -> bool {
    plan.health.as_ref().is_some_and(|health| health.start == Start::Ill)
}

/// The metrics of an endpoint, which show one that starts ill as ill until it was found well.
fn shown(live: &Live, metrics: EndpointMetrics, starts_ill: bool) -> EndpointMetrics {
    if starts_ill && live.is_ill() {
        metrics.health(false);
    }
    metrics
}

impl Standing {
    fn of(label: &str, breaker: Option<Arc<Breaker>>, live: Arc<Live>, metrics: EndpointMetrics) -> Self {
        let mut hasher = DefaultHasher::new();
        label.hash(&mut hasher);
        Self { breaker, live, label: hasher.finish(), metrics }
    }

    /// What operators see of it.
    pub(super) fn shown(&self, label: &str, in_flight: usize, is_ill: bool, now: Instant) -> Value {
        let live = &self.live;
        let left = live.ejected_until.load(Ordering::Relaxed).saturating_sub(live.millis(now));
        json!({
            "endpoint": label,
            "in_flight": in_flight,
            "is_ill": is_ill,
            "failures_in_row": live.failures_in_row.load(Ordering::Relaxed),
            "ejected_for_seconds": (left > 0).then_some(left as f64 / 1000.0),
            "breaker": self.breaker.as_ref().map(|breaker| breaker.shown(now)),
        })
    }
}

/// Thresholds may change freely: what a breaker has seen stays true.
fn identity(name: String, rules: &Rules) -> Identity {
    let told = |number: Option<String>| number.unwrap_or_else(|| "none".into());
    Identity::of(BREAKER, name)
        .setting("trip.consecutive", told(rules.consecutive.map(|most| most.to_string())))
        .setting("trip.ratio", told(rules.ratio.map(|most| most.to_string())))
        .setting("trip.min_requests", rules.min_requests)
        .setting("window.length", format_args!("{:?}", rules.window))
        .setting("window.buckets", rules.buckets)
        .setting("open_for.base", format_args!("{:?}", rules.open_for))
        .setting("open_for.max", format_args!("{:?}", rules.open_for_max))
        .setting("half_open.max_requests", rules.probes)
        .setting("failure.slow_call", told(rules.slow_call.map(|slow| format!("{slow:?}"))))
        .loss(|state| state.downcast_ref::<Breaker>()?.loss(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standings(count: usize, now: Instant) -> Standings {
        let metrics = Metrics::new();
        let endpoints = (0..count).map(|place| Standing {
            breaker: None,
            live: Arc::new(Live::new(false, now)),
            label: place as u64,
            metrics: metrics.endpoint("app", &place.to_string()),
        });
        Standings { endpoints: endpoints.collect(), ..Standings::default() }
    }

    const EJECTION: Ejection =
        Ejection { consecutive: 2, base: Duration::from_secs(10), max: Duration::from_secs(25), share_max: 1.0 };

    fn fail(standings: &Standings, place: usize, now: Instant) -> bool {
        (0..2).any(|_| standings.failed(place, &EJECTION, now))
    }

    #[test]
    fn the_last_endpoint_is_never_taken_out_nor_more_than_the_share() {
        let now = Instant::now();
        for count in 1..6 {
            let all = standings(count, now);
            let out = (0..count).filter(|place| fail(&all, *place, now)).count();
            assert_eq!(out, count - 1, "of {count}");
        }
        for (share_max, most) in [(0.0, 0), (0.19, 0), (0.2, 1), (0.5, 2), (0.6, 3)] {
            let all = standings(5, now);
            let ejection = Ejection { share_max, consecutive: 1, ..EJECTION };
            let out = (0..5).filter(|place| all.failed(*place, &ejection, now)).count();
            assert_eq!(out, most, "{share_max} of 5");
        }
    }

    #[test]
    fn two_that_fail_at_once_do_not_slip_past_the_bound() {
        let now = Instant::now();
        for _ in 0..50 {
            let all = standings(8, now);
            let ejection = Ejection { share_max: 0.5, consecutive: 1, ..EJECTION };
            let out = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for place in 0..8 {
                    let (all, out, ejection) = (&all, &out, &ejection);
                    scope.spawn(move || {
                        out.fetch_add(usize::from(all.failed(place, ejection, now)), Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(out.load(Ordering::Relaxed), 4);
        }
    }

    #[test]
    fn each_time_is_longer_and_a_success_between_failures_saves_it() {
        let start = Instant::now() + Duration::from_secs(100);
        let all = standings(3, start - Duration::from_secs(100));
        assert!(!all.failed(0, &EJECTION, start));
        all.succeeded(0);
        assert!(!all.failed(0, &EJECTION, start));
        let mut now = start;
        for lasts in [10, 20, 25] {
            assert!(fail(&all, 0, now));
            let live = &all.endpoints[0].live;
            assert!(live.is_ejected(now + Duration::from_millis(lasts * 1000 - 1)), "{lasts}");
            now += Duration::from_secs(lasts);
            assert!(!live.is_ejected(now), "{lasts}");
        }
        now += Duration::from_secs(26);
        assert!(fail(&all, 0, now));
        assert!(!all.endpoints[0].live.is_ejected(now + Duration::from_secs(10)), "the past is forgotten");
    }

    #[test]
    fn an_endpoint_that_is_back_starts_slowly() {
        let start = Instant::now();
        let live = Live::new(false, start);
        let (slow, at) = (Some(Duration::from_secs(10)), |seconds| start + Duration::from_secs(seconds));
        assert_eq!(live.share(None, start), 1.0);
        assert_eq!((live.share(slow, start), live.share(slow, at(5)), live.share(slow, at(10))), (0.1, 0.5, 1.0));
        live.is_found(false, at(20));
        live.is_found(true, at(30));
        live.is_found(true, at(32));
        assert_eq!((live.share(slow, at(35)), live.share(slow, at(60))), (0.5, 1.0));
    }
}
