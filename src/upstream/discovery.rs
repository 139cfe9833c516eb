//! Endpoints behind names: asked for in the background, again when an answer is over, and the last good one kept.
//!
//! A snapshot's [`Upstream`] with names has beside it what it is with the addresses of now, which is an `Upstream` as any
//! other: requests run on that, and pools follow it as they follow a reload. So an address that is gone serves what is in
//! flight there, and a new one starts slowly where that is wanted.

use std::collections::HashMap;
use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::background::{self, Awaited, Background, Desk, Ticket};
use super::certificate;
use super::connect;
use super::endpoint::Endpoint;
use super::error::{Error, Kind};
use super::health::{Health, Round};
use super::name::{Question, proportions};
pub use super::resolver::Settings;
use super::resolver::{Resolver, Told, Trouble};
use super::standing::Known;
use super::{Plan, Upstream};
use crate::config::breaker::Scope;
use crate::keep::{Fate, Identity, Keeper};
use crate::telemetry::metrics::Metrics;
use crate::timer::{Timer, Wheel};

/// What is known of an upstream's names. Outlives configurations.
pub struct Discovery {
    upstream: Arc<str>,
    ticket: Ticket,
    shelf: Mutex<Shelf>,
    course: watch::Sender<Option<Arc<Course>>>,
    /// How often anything was heard.
    heard: watch::Sender<u64>,
}

/// What the names of the newest snapshot are asked by, and who is told.
pub struct Course {
    upstream: Weak<Upstream>,
    settings: Settings,
    health: Option<Arc<Health>>,
    metrics: Metrics,
    questions: Box<[Question]>,
}

#[derive(Default)]
struct Shelf {
    heard: HashMap<Question, Heard>,
    /// What is known of the endpoints, by label.
    known: HashMap<Arc<str>, Known>,
    /// Answers that made a difference.
    answers: u64,
}

/// What came of asking for one name.
struct Heard {
    /// The last good answer.
    told: Option<Told>,
    at: Instant,
    /// Lookups in a row that brought nothing.
    failures: u32,
    trouble: Option<Trouble>,
}

impl Heard {
    /// When to ask again.
    fn due(&self, settings: &Settings) -> Instant {
        self.at + holds(self.told.as_ref().map(|told| told.ttl), self.failures, settings)
    }
}

/// How long to wait before a name is asked for again: after an answer of that TTL, or after so many failures in a row.
fn holds(ttl: Option<Duration>, failures: u32, settings: &Settings) -> Duration {
    let (min, max) = (settings.ttl_min, settings.ttl_max.max(settings.ttl_min));
    match ttl {
        Some(ttl) if failures == 0 => ttl.clamp(min, max),
        _ => min.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max),
    }
}

/// What an upstream is with the addresses of now.
pub(super) struct Behind {
    now: ArcSwap<Upstream>,
    discovery: Arc<Discovery>,
}

impl Behind {
    pub(super) fn now(&self) -> Arc<Upstream> {
        self.now.load_full()
    }

    /// What it is now, once there is an endpoint. Waits for the first answer, but no longer than for a connection.
    pub(super) async fn in_time(&self, timer: &mut Timer) -> Result<Arc<Upstream>, Error> {
        let now = self.now();
        if !now.plan.endpoints.is_empty() {
            return Ok(now);
        }
        let mut heard = self.discovery.heard.subscribe();
        let first = async {
            loop {
                heard.borrow_and_update();
                let now = self.now();
                if !now.plan.endpoints.is_empty() {
                    return Some(now);
                }
                if now.plan.names.iter().all(|name| self.discovery.is_heard(&name.question)) {
                    return None;
                }
                heard.changed().await.ok()?;
            }
        };
        timer.arm(now.plan.connect);
        connect::within(timer, Box::pin(first)).await.flatten().ok_or_else(|| Error::new(Kind::Dns))
    }

    /// What operators see of the names.
    pub(super) fn shown(&self, now: Instant) -> Value {
        let upstream = self.now();
        let shelf = self.discovery.shelf();
        let course = self.discovery.course.borrow();
        let rows = upstream.plan.names.iter().map(|name| {
            let heard = shelf.heard.get(&name.question);
            let due = heard.zip(course.as_ref()).map(|(heard, course)| heard.due(&course.settings));
            json!({
                "name": &*name.label,
                "addresses": heard.and_then(|heard| heard.told.as_ref()).map_or(0, |told| told.found.len()),
                "asked_seconds_ago": heard.map(|heard| now.saturating_duration_since(heard.at).as_secs_f64()),
                "asked_again_in_seconds": due.map(|due| due.saturating_duration_since(now).as_secs_f64()),
                "failures_in_row": heard.map_or(0, |heard| heard.failures),
                "trouble": heard.and_then(|heard| heard.trouble.as_ref()).map(Trouble::words),
            })
        });
        rows.collect()
    }
}

impl Discovery {
    fn new(upstream: &str) -> Self {
        Self {
            upstream: upstream.into(),
            ticket: Ticket::default(),
            shelf: Mutex::default(),
            course: watch::Sender::new(None),
            heard: watch::Sender::new(0),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing in here panics half-way.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything came of asking, be it good or bad.
    fn is_heard(&self, question: &Question) -> bool {
        self.shelf().heard.contains_key(question)
    }

    /// What `base` is with the addresses that are known.
    fn with_addresses(&self, base: &Upstream, metrics: &Metrics) -> Upstream {
        let mut shelf = self.shelf();
        let Shelf { heard, known, answers } = &mut *shelf;
        let mut endpoints = base.plan.endpoints.to_vec();
        let mut weights: Vec<f64> = base.plan.balance.weights().iter().map(|weight| f64::from(*weight)).collect();
        for name in &base.plan.names {
            let Some(told) = heard.get(&name.question).and_then(|heard| heard.told.as_ref()) else { continue };
            for (found, weight) in told.found.iter().zip(name.weights(&told.found)) {
                let endpoint = name.endpoint(*found);
                if !endpoints.iter().any(|other: &Endpoint| other.label == endpoint.label) {
                    endpoints.push(endpoint);
                    weights.push(weight);
                }
            }
        }
        let standings = base.standings.with(&base.name, &base.plan, &endpoints, known, metrics);
        *answers += 1;
        let answer = *answers;
        let plan = base.plan.with(endpoints, proportions(&weights));
        Upstream {
            name: base.name.clone(),
            version: base.version,
            plan: Arc::new(plan),
            state: base.state.clone(),
            standings,
            metrics: base.metrics.clone(),
            behind: None,
            answer,
        }
    }

    /// Has requests run on what is known now.
    fn settle(&self, course: &Course, is_new: bool) {
        let Some(upstream) = course.upstream.upgrade() else { return };
        let Some(behind) = &upstream.behind else { return };
        let next = self.with_addresses(&upstream, &course.metrics);
        let last = behind.now();
        let is_other = !is_alike(&last.plan, &next.plan);
        if !is_other && !is_new {
            return;
        }
        let next = if is_other { Arc::new(next) } else { last.clone() };
        if is_other {
            let labels = |plan: &Plan| plan.endpoints.iter().map(|one| one.label.clone()).collect::<Vec<_>>();
            tracing::info!(upstream = %self.upstream, before = ?labels(&last.plan), now = ?labels(&next.plan), "endpoints changed");
            behind.now.store(next.clone());
        }
        upstream.metrics.endpoints(next.plan.endpoints.len());
        if let Some(health) = &course.health
            && let Some(round) = Round::of(&next.plan, &next.standings)
        {
            health.follow(&Arc::new(round));
        }
        let mut shelf = self.shelf();
        shelf.known.retain(|label, known| {
            let stays = next.plan.endpoints.iter().any(|one| one.label == *label);
            if let Some(loss) = known.dropped(&self.upstream, label).and_then(|fate| fate.loss).filter(|_| !stays) {
                tracing::warn!(upstream = %self.upstream, endpoint = %label, "breaker dropped with its endpoint, {loss}");
            }
            if !has_breakers(&next.plan) {
                known.without_breaker();
            }
            stays
        });
        shelf.heard.retain(|question, _| course.questions.contains(question));
    }

    /// That the breakers of its endpoints end.
    fn dropped(&self) -> Vec<Fate> {
        let shelf = self.shelf();
        let mut fates: Vec<Fate> =
            shelf.known.iter().filter_map(|(label, known)| known.dropped(&self.upstream, label)).collect();
        fates.sort_by(|one, other| one.name.cmp(&other.name));
        fates
    }

    /// Takes down what came of asking.
    fn note(&self, question: &Question, answer: Result<Told, Trouble>, course: &Course, now: Instant) {
        let upstream = &self.upstream;
        let metrics = course.upstream.upgrade().map(|upstream| upstream.metrics.clone());
        let result = answer.as_ref().map_or_else(Trouble::slug, |_| "ok");
        if let Some(metrics) = metrics {
            metrics.looked_up(result);
        }
        let mut shelf = self.shelf();
        let heard =
            shelf.heard.entry(question.clone()).or_insert(Heard { told: None, at: now, failures: 0, trouble: None });
        heard.at = now;
        match answer {
            Ok(mut told) => {
                if told.found.len() > course.settings.addresses_max {
                    // The first of them in order: the same ones each time, and in each armiger.
                    told.found.truncate(course.settings.addresses_max);
                    course.metrics.limit_hit("dns.addresses_max");
                }
                if heard.failures > 0 {
                    tracing::info!(%upstream, ?question, "name is answered again");
                }
                (heard.told, heard.failures, heard.trouble) = (Some(told), 0, None);
            }
            Err(trouble) => {
                if heard.failures == 0 {
                    let last_holds = heard.told.is_some();
                    tracing::warn!(%upstream, ?question, error = trouble.words(), last_holds, "name is not answered");
                }
                heard.failures = heard.failures.saturating_add(1);
                heard.trouble = Some(trouble);
            }
        }
        drop(shelf);
        self.settle(course, false);
        self.heard.send_modify(|times| *times = times.wrapping_add(1));
    }

    fn due(&self, question: &Question, settings: &Settings) -> Option<Instant> {
        self.shelf().heard.get(question).map(|heard| heard.due(settings))
    }
}

/// Whether its endpoints have breakers of their own.
fn has_breakers(plan: &Plan) -> bool {
    plan.breaker.as_ref().is_some_and(|breaker| breaker.scope == Scope::Endpoint)
}

/// Whether requests would notice no difference.
fn is_alike(one: &Plan, other: &Plan) -> bool {
    let pairs = || one.endpoints.iter().zip(&other.endpoints);
    one.endpoints.len() == other.endpoints.len()
        && pairs().all(|(one, other)| one.is_same(other) && one.priority == other.priority)
        && one.balance.weights() == other.balance.weights()
}

impl Upstream {
    /// The upstream of a snapshot. Where `plan` has names, they are asked for once the snapshot is in force; what was
    /// heard before holds at once.
    pub fn keep(self, settings: &Settings, keeper: &mut Keeper<'_>, metrics: &Metrics) -> Arc<Self> {
        if let Some(end) = self.plan.certificate_end {
            certificate::watch(&self.name, end, keeper, metrics);
        }
        if self.plan.names.is_empty() {
            return Arc::new(self);
        }
        let name = self.name.clone();
        let identity = Identity::of("names", &*name).untold();
        let identity = identity.within(|state| state.downcast_ref().map_or_else(Vec::new, Discovery::dropped));
        let discovery = keeper.keep(identity, || Discovery::new(&name));
        if !has_breakers(&self.plan) {
            discovery.dropped().into_iter().for_each(|fate| keeper.tell(fate));
        }
        let now = Arc::new(discovery.with_addresses(&self, metrics));
        let questions = self.plan.names.iter().map(|name| name.question.clone()).collect();
        let health = self.plan.health.is_some().then(|| Health::keep(&name, keeper));
        let behind = Arc::new(Behind { now: ArcSwap::from(now), discovery: discovery.clone() });
        let upstream = Arc::new(Self { behind: Some(behind), ..self });
        let course = Course {
            upstream: Arc::downgrade(&upstream),
            settings: settings.clone(),
            health,
            metrics: metrics.clone(),
            questions,
        };
        background::employ(keeper, &discovery, course);
        upstream
    }
}

impl Background for Discovery {
    type Plan = Course;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, plan: &Arc<Course>) {
        let is_new = !self.course.borrow().as_ref().is_some_and(|last| Arc::ptr_eq(last, plan));
        if is_new {
            self.settle(plan, true);
            self.course.send_replace(Some(plan.clone()));
        }
    }

    async fn work(state: Weak<Self>, desk: Desk) {
        let Some(mut courses) = state.upgrade().map(|discovery| discovery.course.subscribe()) else { return };
        let mut asking = JoinSet::new();
        let mut known: HashSet<Question> = HashSet::new();
        loop {
            let course = courses.borrow_and_update().clone();
            for question in course.iter().flat_map(|course| &course.questions) {
                if known.insert(question.clone()) {
                    let (state, wheel, question) = (state.clone(), desk.wheel.clone(), question.clone());
                    let courses = courses.clone();
                    asking.spawn_local(async move {
                        attend(&state, &question, courses, &wheel).await;
                        question
                    });
                }
            }
            drop(course);
            tokio::select! {
                changed = courses.changed() => if changed.is_err() { return },
                Some(done) = asking.join_next(), if !asking.is_empty() => match done {
                    Ok(question) => drop(known.remove(&question)),
                    Err(error) => tracing::error!(%error, "asking for names broke off"),
                },
            }
        }
    }

    fn awaited(&self, course: &Course) -> Option<Awaited> {
        let heard = course.questions.iter().filter(|question| self.is_heard(question)).count();
        Some(Awaited {
            name: format!("names of upstream {}", self.upstream),
            is_there: heard == course.questions.len(),
            wait: course.settings.ready_wait,
            detail: format!("{heard} of {} names were answered", course.questions.len()),
        })
    }
}

/// Asks for one name, for as long as it is in the plan.
async fn attend(
    state: &Weak<Discovery>,
    question: &Question,
    mut courses: watch::Receiver<Option<Arc<Course>>>,
    wheel: &Wheel,
) {
    let mut resolver = Resolver::default();
    let mut timer = wheel.timer();
    loop {
        let is_named = |course: &Arc<Course>| course.questions.contains(question);
        let Some(course) = courses.borrow_and_update().clone().filter(is_named) else { return };
        let answer = resolver.ask(question, &course.settings).await;
        let Some(discovery) = state.upgrade() else { return };
        // Meanwhile another snapshot may be in force.
        let course = courses.borrow_and_update().clone().unwrap_or(course);
        discovery.note(question, answer, &course, Instant::now());
        drop((discovery, course));
        loop {
            let course = courses.borrow_and_update().clone();
            let Some(course) = course.filter(is_named) else { return };
            let Some(due) = state.upgrade().map(|discovery| discovery.due(question, &course.settings)) else { return };
            let left = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            drop(course);
            timer.arm(left);
            let is_over = tokio::select! {
                () = poll_fn(|cx| timer.poll_expired(cx)) => true,
                changed = courses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
            };
            timer.disarm();
            if is_over {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Issues, KeyPath};

    fn settings(config: serde_json::Value) -> Settings {
        let config = serde_json::from_value(config).unwrap();
        Settings::compile(&config, &KeyPath::root(), &mut Issues::new())
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds_and_failures_back_off() {
        let settings = settings(serde_json::json!({"ttl_min": "5s", "ttl_max": "1m"}));
        let of = |ttl: Option<u64>, failures| holds(ttl.map(Duration::from_secs), failures, &settings).as_secs();
        assert_eq!((of(Some(0), 0), of(Some(30), 0), of(Some(3600), 0)), (5, 30, 60));
        assert_eq!([1, 2, 3, 4, 5, 99].map(|failures| of(Some(30), failures)), [5, 10, 20, 40, 60, 60]);
        assert_eq!((of(None, 1), of(None, u32::MAX)), (5, 60));
    }
}
