//! What operators may ask of a running armiger, and how it is answered.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::now;
use super::reload::{self, Ask, Wake};
use super::running::Parts;
use crate::config::address::ListenAddress;
use crate::identity::jwks::{Jwks, Refreshed};
use crate::policy::cache::view::Caches;
use crate::policy::rate_limit::Shown;
use crate::server::admin::operator::{
    BreakerOrder, Check, Later, LimitsAsk, NoLimit, Operator, Outcome, Readiness, Told,
};
use crate::server::drain::Phase;
use crate::snapshot::Snapshot;
use crate::tls::ending::moment;
use crate::tls::expiry::List;
use crate::upstream::background::{Awaited, Job};
use crate::upstream::breaker::{Breaker, Force};

/// The states that there are to see, each with what it is.
const STATES: &[(&str, &str)] = &[
    ("cache", "what is stored, over all routes and by route"),
    ("limits", "buckets of each limit, the hottest keys, who is banned"),
    ("listeners", "addresses, open connections, requests in flight, when certificates and CRLs end"),
    ("pools", "connections to each endpoint of each upstream, over all workers"),
    ("identity", "providers: their keys, how old those are, when they are fetched again, the last error"),
    ("upstreams", "requests in flight, and what is thought of each endpoint: breakers"),
];

/// Why nothing can be asked for any more.
const ENDING: &str = "armiger is ending: start it anew, and the files are in force";

/// Answers for the program.
pub(super) struct Operations {
    parts: Arc<Parts>,
    wakes: SyncSender<Wake>,
    /// Whether nothing is waited for any more.
    has_begun: AtomicBool,
}

impl Operations {
    pub(super) fn new(parts: Arc<Parts>, wakes: SyncSender<Wake>) -> Self {
        Self { parts, wakes, has_begun: AtomicBool::new(false) }
    }

    async fn ask(&self, ask: Ask) -> Outcome {
        let busy = || Outcome::Conflict(Told::message("too many are asking for another configuration already"));
        let (reply, answer) = oneshot::channel();
        match self.wakes.try_send(Wake::Ask(ask, reply)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return busy(),
            Err(TrySendError::Disconnected(_)) => return Outcome::Conflict(Told::message(ENDING)),
        }
        match answer.await {
            Ok(outcome) => told(outcome, now()),
            Err(_) => Outcome::Conflict(Told::message(ENDING)),
        }
    }
}

/// For the listener that asked, in both forms.
fn told(outcome: reload::Outcome, now: SystemTime) -> Outcome {
    match outcome {
        reload::Outcome::Applied(applied) => {
            let mut lines = vec![format!("applied: version {} is in force", applied.version)];
            lines.extend(applied.comparison.lines());
            Outcome::Applied(Told { text: lines.join("\n"), json: applied.json() })
        }
        reload::Outcome::Unchanged(applied) => {
            let (text, json) = applied.unchanged(now);
            Outcome::Unchanged(Told { text, json })
        }
        reload::Outcome::Refused(report) => {
            Outcome::Refused(Told { text: report.text(false), json: json!({"issues": report.json()}) })
        }
        reload::Outcome::Unknown(why) => Outcome::Unknown(Told::message(why)),
        reload::Outcome::Impossible(why) => Outcome::Conflict(Told::message(why)),
    }
}

impl Operator for Operations {
    fn live(&self) -> Arc<Snapshot> {
        self.parts.live.load()
    }

    fn readiness(&self) -> Readiness {
        let listeners = self.parts.listeners.addresses().len();
        let phase = self.parts.drain.phase();
        let is_refused = self.parts.status.is_refused();
        let snapshot = self.parts.live.load();
        let mut checks = vec![
            Check { name: "listeners".into(), ok: Some(listeners > 0), detail: format!("{listeners} listening") },
            Check { name: "draining".into(), ok: Some(phase == Phase::Serving), detail: word(phase).into() },
            Check {
                name: "config".into(),
                ok: Some(true),
                detail: format!("version {} is in force", snapshot.version),
            },
            Check {
                name: "last_reload".into(),
                ok: None,
                detail: if is_refused { "refused: see /config/status" } else { "applied" }.into(),
            },
        ];
        checks.extend(self.awaited(&snapshot));
        Readiness { ready: checks.iter().all(|check| check.ok != Some(false)), checks }
    }

    fn status(&self) -> Value {
        self.parts.status.json()
    }

    fn history(&self) -> Value {
        json!({ "versions": self.parts.history().shown() })
    }

    fn reload(&self) -> Later<'_, Outcome> {
        Box::pin(self.ask(Ask::Reload))
    }

    fn rollback(&self, version: u64) -> Later<'_, Outcome> {
        Box::pin(self.ask(Ask::Rollback(version)))
    }

    fn drain(&self) {
        if self.parts.drain.begin() {
            tracing::info!("drain asked for");
        }
    }

    fn draining(&self) -> Value {
        let snapshot = self.parts.live.load();
        let states = || snapshot.listeners.iter().map(|plan| &plan.state);
        json!({
            "phase": word(self.parts.drain.phase()),
            "connections": states().map(|state| state.metrics.connections()).sum::<i64>(),
            "in_flight": states().map(|state| state.in_flight.count()).sum::<u32>(),
            "cut": self.parts.drain.cut(),
        })
    }

    fn drained(&self) -> Later<'_, ()> {
        Box::pin(self.parts.drain.over())
    }

    fn breaker(&self, order: &BreakerOrder<'_>) -> Outcome {
        let snapshot = self.parts.live.load();
        let Some(upstream) = snapshot.upstreams.iter().find(|upstream| &*upstream.name == order.upstream) else {
            return Outcome::Unknown(Told::message(format!(
                "no upstream is called `{}`; there is {}",
                order.upstream.escape_default(),
                names(snapshot.upstreams.iter().map(|upstream| &*upstream.name))
            )));
        };
        let now = Instant::now();
        let current = upstream.now();
        let is_meant = |breaker: &Arc<Breaker>| match (order.endpoint, order.route) {
            (None, None) => true,
            (Some(endpoint), _) => breaker.of().endpoint() == Some(endpoint),
            (None, Some(route)) => breaker.of().route() == Some(route),
        };
        let mut count = 0;
        for breaker in current.standings.breakers().filter(is_meant) {
            match order.force {
                Some((force, lasts)) => breaker.force(force, lasts, now),
                None => breaker.reset(now),
            }
            count += 1;
        }
        if count == 0 {
            let name = &upstream.name;
            let all: Vec<Arc<Breaker>> = current.standings.breakers().collect();
            return Outcome::Unknown(Told::message(match (order.endpoint, order.route) {
                (Some(_), _) => format!(
                    "no endpoint of that address with a breaker of its own is in `{name}`; there is {}",
                    names(all.iter().filter_map(|breaker| breaker.of().endpoint()))
                ),
                (None, Some(_)) => format!(
                    "no route of that name has a breaker of its own for `{name}`; there is {}",
                    names(all.iter().filter_map(|breaker| breaker.of().route()))
                ),
                (None, None) => format!(
                    "the upstream `{name}` has no breaker: write `breaker: {{}}` under `upstreams.{name}`, which needs no restart"
                ),
            }));
        }
        let which = if count == 1 { "breaker" } else { "breakers" };
        let what = match order.force {
            Some((Force::Open, lasts)) => format!("held open for {lasts:?}"),
            Some((Force::Closed, lasts)) => format!("held closed for {lasts:?}"),
            None => "begun afresh".to_owned(),
        };
        Outcome::Applied(Told::message(format!("{count} {which} of `{}` {what}", upstream.name)))
    }

    fn limits<'a>(&'a self, ask: LimitsAsk) -> Later<'a, Result<Value, NoLimit>> {
        let snapshot = self.parts.live.load();
        Box::pin(async move {
            // Looking at every key of a limit takes its time, and `/livez` is answered on this thread.
            let looked = tokio::task::spawn_blocking(move || limits(&snapshot, &ask)).await;
            looked.unwrap_or_else(|_| Err(NoLimit::Unknown(Vec::new())))
        })
    }

    fn states(&self) -> &[(&'static str, &'static str)] {
        STATES
    }

    fn state<'a>(&'a self, what: &'a str) -> Later<'a, Option<Vec<Value>>> {
        Box::pin(async move {
            match what {
                "cache" => Some(Caches::of(&self.parts.live.load().kept).rows()),
                "listeners" => Some(self.listeners()),
                "upstreams" => {
                    let now = Instant::now();
                    Some(self.parts.live.load().upstreams.iter().map(|upstream| upstream.shown(now)).collect())
                }
                "pools" => Some(self.parts.workers.pools().await.iter().map(|pool| json!(pool)).collect()),
                "identity" => {
                    let (snapshot, now) = (self.parts.live.load(), Instant::now());
                    Some(snapshot.providers.iter().map(|provider| provider.shown(now)).collect())
                }
                _ => None,
            }
        })
    }

    fn refresh_keys<'a>(&'a self, provider: Option<&'a str>) -> Later<'a, Outcome> {
        Box::pin(async move {
            let snapshot = self.parts.live.load();
            let is_meant = |jwks: &&Arc<Jwks>| provider.is_none_or(|name| name == jwks.provider());
            let sources: Vec<_> =
                snapshot.providers.iter().filter_map(|provider| provider.jwks()).filter(is_meant).cloned().collect();
            drop(snapshot);
            if sources.is_empty() {
                return Outcome::Unknown(Told::message(match provider {
                    Some(name) => format!("no provider `{}` fetches keys", name.escape_default()),
                    None => "no provider fetches keys".to_owned(),
                }));
            }
            refreshed(all_of(sources.iter().map(|jwks| jwks.refresh())).await)
        })
    }
}

/// Waits for all, at once.
async fn all_of<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in pending.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if pending.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

/// What came of fetching keys. Where that failed, those known serve on.
fn refreshed(all: Vec<Refreshed>) -> Outcome {
    let line = |one: &Refreshed| match &one.trouble {
        None => format!("{}: {} keys in use", one.provider, one.keys),
        Some(trouble) => format!("{}: {} keys in use as before, for {trouble}", one.provider, one.keys),
    };
    let row = |one: &Refreshed| json!({"provider": &*one.provider, "keys": one.keys, "error": one.trouble});
    let told = Told {
        text: all.iter().map(line).collect::<Vec<_>>().join("\n"),
        json: json!({"providers": all.iter().map(row).collect::<Vec<_>>()}),
    };
    if all.iter().any(|one| one.trouble.is_some()) { Outcome::Failed(told) } else { Outcome::Applied(told) }
}

impl Operations {
    /// What armiger waits for at its start. Once all of it was there, or was waited for long enough, nothing of it makes
    /// armiger unready again: an outage is met where it counts, and a reload must not turn requests away.
    fn awaited(&self, snapshot: &Snapshot) -> Vec<Check> {
        let now = Instant::now();
        let awaited: Vec<_> = Job::all(&snapshot.kept).filter_map(|job| job.awaited(now)).collect();
        let mut has_begun = self.has_begun.load(Ordering::Relaxed);
        if !has_begun && awaited.iter().all(|(_, waits)| !waits) {
            has_begun = true;
            self.has_begun.store(true, Ordering::Relaxed);
        }
        let check = |(awaited, waits): (Awaited, bool)| Check {
            name: awaited.name.into(),
            ok: match (awaited.is_there, waits && !has_begun) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
            detail: awaited.detail,
        };
        awaited.into_iter().map(check).collect()
    }

    fn listeners(&self) -> Vec<Value> {
        let addresses = self.parts.listeners.addresses();
        let snapshot = self.parts.live.load();
        let shown = |(name, address): &(Arc<str>, ListenAddress)| {
            let plan = snapshot.listeners.iter().find(|plan| plan.name == *name);
            let tls = plan.and_then(|plan| plan.tls.as_ref());
            let certificates = tls.map(|tls| {
                let shown = |(name, end): &(String, i64)| json!({"name": name, "not_after": moment(*end)});
                tls.ends.iter().map(shown).collect::<Vec<_>>()
            });
            let lists = tls.map(|tls| {
                let shown = |list: &List| json!({"authority": list.authority, "next_update": moment(list.end)});
                tls.lists.iter().map(shown).collect::<Vec<_>>()
            });
            json!({
                "name": &**name,
                "address": address.to_string(),
                "connections": plan.map_or(0, |plan| plan.state.metrics.connections()),
                "in_flight": plan.map_or(0, |plan| plan.state.in_flight.count()),
                "certificates": certificates.unwrap_or_default(),
                "crls": lists.unwrap_or_default(),
            })
        };
        addresses.iter().map(shown).collect()
    }
}

fn limits(snapshot: &Snapshot, ask: &LimitsAsk) -> Result<Value, NoLimit> {
    let all = || snapshot.kept.attached::<Shown>();
    let now = Instant::now();
    // In shadow and in force two limits may have one name.
    let named = |name: &str| {
        let found: Vec<&Shown> = all().filter(|shown| shown.name() == name).collect();
        if found.is_empty() {
            Err(NoLimit::Unknown(all().map(|shown| shown.name().to_owned()).collect()))
        } else {
            Ok(found)
        }
    };
    let rows: Result<Vec<Value>, String> = match ask {
        LimitsAsk::All => Ok(all().map(Shown::summary).collect()),
        LimitsAsk::One(name, most) => Ok(named(name)?.into_iter().map(|shown| shown.detail(now, *most)).collect()),
        LimitsAsk::Key(name, parts) => named(name)?.into_iter().map(|shown| shown.look(parts, now)).collect(),
        LimitsAsk::Reset(name, parts) => named(name)?.into_iter().map(|shown| shown.reset(parts)).collect(),
    };
    rows.map(|rows| json!({ "limits": rows })).map_err(NoLimit::BadKey)
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::LameDuck => "lame_duck",
        Phase::Closing => "closing",
        Phase::Forced => "forced",
    }
}

/// The names that there are, for who asked for another.
fn names<'n>(known: impl Iterator<Item = &'n str>) -> String {
    /// More help nobody.
    const NAMES_MAX: usize = 20;
    let mut known = known.map(|name| format!("`{name}`"));
    let shown = known.by_ref().take(NAMES_MAX).collect::<Vec<_>>().join(", ");
    match (shown.is_empty(), known.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown,
        (false, more) => format!("{shown} and {more} more"),
    }
}
