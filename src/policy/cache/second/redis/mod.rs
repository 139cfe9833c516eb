//! The second level in a Redis.
//!
//! Keys, all in one slot: `{PREFIX}:cache:clock` (which life this memory has, and the number of its last purge), `…:purges` (a
//! log of purges by their numbers), `…:e:NAME` (a response), `…:v:NAME` (which headers choose among the variants of a key),
//! `…:places` (when unsafe requests last made invalid what is of a place, see `invalid.rs`), `…:told` (the last times at which
//! anything was told).
//!
//! **A purge is never missed.** Whoever reads a response gets the clock with it, in one transaction, and takes the response
//! only if it knows all purges up to that number, and none of those since the response was asked for is about it. What each
//! armiger keeps itself follows the log, a tenth of a second behind. If the log has a gap, or the memory another life, nobody
//! can tell what was purged: then all that is kept here is purged. As long as something that was purged here is not told,
//! nothing of the second level is read here.
//!
//! **A memory that forgot something has another life** (a replica that took its leader's place, a restart with older data).
//! Each telling has a time of its own, and whoever reads or tells says up to which time it knows them all. Is that one not among
//! those that the memory knows, what was told then is lost: a new life begins there, and what is of the one before is read by
//! nobody any more. Until then who knows it reads nothing there. Lives are born one after the other, by the same clock: a life
//! that was born after all that somebody knows of another one is its heir, so that of all who notice one begins it, and the rest
//! takes it over.
//!
//! **What unsafe requests made invalid**, or stale where nobody knows what became of them, has no log. There are so many places
//! and no more, each with the time when it was told of last: however many requests there are, what is to be told, to be kept and
//! to be read is bounded, and whoever was away for long misses nothing. Here it is gone at once. Others are told a tenth of a
//! second later and read it within another; a response that they find on the second level is good only if nothing of its place
//! was told since it was asked for. Who told of it reads that too, and leaves it be: here it was gone before, and what has come
//! since is newer. Unless somebody else told of the place in between: then nothing but the last time is left of both.
//!
//! What is known of the memory stands in `known.rs`, what it is told in `tell.rs`, what is heard of it in `follow.rs`; `look.rs`
//! and `keep.rs` are what requests ask of it. `left.rs` is about a memory that a reload left. Two scripts run there; both begin
//! with `known.lua`.

mod follow;
mod keep;
mod known;
mod left;
mod look;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redis::{FromRedisValue, Script, ScriptInvocation};
use serde_json::json;
use tokio::sync::Notify;

use self::known::{Clock, Known, Witness, asking};
use self::left::Left;
use self::tell::Changed;
use super::{Found, Ground, Second, Wanted, Work};
use crate::config::cache::Cache as Section;
use crate::config::redis::Redis as Settings;
use crate::config::{Issues, KeyPath};
use crate::keep::{Identity, Keeper};
use crate::policy::cache::entry::Entry;
use crate::policy::cache::fates::Fates;
use crate::policy::cache::invalid::{Digest, PLACES};
use crate::policy::cache::purge::{Purges, What};
use crate::policy::cache::store::Store;
use crate::redis_client::{self, Away, Client};
use crate::telemetry::metrics::{Metrics, SecondMetrics};
use crate::timer::Wheel;
use crate::upstream::background::{self, Background, Desk, Ticket};

/// How far what is kept here may be behind the log.
const FOLLOW: Duration = Duration::from_millis(100);

/// Places that are told at once, and twice as many are read: those that were told at one time are read whole.
const PLACES_TOLD: usize = 500;

/// Targets that may wait to be told of. More becomes one purge of all, which hardly takes more than so many places do.
const CHANGES_MAX: usize = PLACES;

/// After so long without a word, what time it is there is not known any more.
const CLOCK_MAX: Duration = Duration::from_secs(5);

/// What may wait to be told. More becomes one purge of all.
const UNTOLD_MAX: usize = 4096;

/// How long a purge waits until all others are told.
const TELL_WAIT: Duration = Duration::from_secs(1);

/// The longest list of names of headers.
const NAMES_MAX: usize = 4096;

/// What several armigers keep together. Kept over reloads.
pub(super) struct Shared {
    ticket: Ticket,
    client: Arc<Client>,
    plan: ArcSwap<Plan>,
    /// Of what is kept here, which what others tell is about too.
    fates: Arc<Fates>,
    /// Who this armiger is, in the log.
    own: String,
    follow: Script,
    tell: Script,
    clock: Mutex<Option<Clock>>,
    /// Not forgotten with the clock: what it is about may be lost there, and has to be noticed yet.
    witness: Mutex<Option<Witness>>,
    /// Purges by their numbers.
    purges: Purges,
    untold: Mutex<VecDeque<(What, bool)>>,
    changed: Mutex<Changed>,
    /// What another memory, which was used before, has to be told yet.
    left: Mutex<Option<Left>>,
    /// Rung when there is something to tell.
    bell: Arc<Notify>,
    /// Rung when all is told.
    all_told: Notify,
    metrics: SecondMetrics,
}

/// What of the configuration it goes by.
pub(super) struct Plan {
    memory: Memory,
    /// What is kept here, which has room for what is on its way there too.
    store: Arc<Store>,
    /// The longest value.
    value_max: usize,
    fills_max: u64,
}

/// Where it is.
#[derive(Clone, PartialEq, Eq)]
struct Memory {
    url: String,
    /// What keys begin with.
    prefix: String,
}

/// Compiles what the section says of it.
pub(super) fn compile(
    settings: &Settings,
    section: &Section,
    path: &KeyPath,
    (store, fates): (Arc<Store>, Arc<Fates>),
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<Arc<dyn Second>> {
    let counts = metrics.cache_second();
    let client = redis_client::compile(settings, path, ("caches", "cache"), counts.store.clone(), keeper, issues)?;
    let value_max = usize::try_from(section.redis_entry_max.get()).unwrap_or(usize::MAX);
    let fills_max = section.fills_max.get();
    let identity = Identity::of("cache_second_level", "all routes")
        .setting("prefix", &settings.prefix)
        .setting("url", &settings.url)
        .setting("memory", section.memory().get())
        .setting("redis_entry_max", value_max)
        .setting("fills_max", fills_max);
    let memory = Memory { url: settings.url.clone(), prefix: format!("{{{}}}:cache:", settings.prefix) };
    let plan = || Plan { memory: memory.clone(), store: store.clone(), value_max, fills_max };
    let shared = keeper.keep(identity, || Shared::new(client, plan(), fates, counts));
    background::employ(keeper, &shared, plan());
    Some(shared)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Shared {
    fn new(client: Arc<Client>, plan: Plan, fates: Arc<Fates>, metrics: SecondMetrics) -> Self {
        Self {
            ticket: Ticket::default(),
            client,
            plan: ArcSwap::from_pointee(plan),
            fates,
            own: format!("{:032x}", fastrand::u128(..)),
            follow: Script::new(concat!(include_str!("known.lua"), include_str!("follow.lua"))),
            tell: Script::new(concat!(include_str!("known.lua"), include_str!("tell.lua"))),
            clock: Mutex::default(),
            witness: Mutex::default(),
            purges: Purges::default(),
            untold: Mutex::default(),
            changed: Mutex::default(),
            left: Mutex::default(),
            bell: Arc::default(),
            all_told: Notify::new(),
            metrics,
        }
    }

    fn clock(&self) -> Option<Clock> {
        *locked(&self.clock)
    }

    fn is_untold(&self) -> bool {
        !locked(&self.untold).is_empty()
    }

    fn known(&self) -> Known {
        Known { witness: *locked(&self.witness), clock: self.clock() }
    }

    /// Runs a script.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        wheel: &Wheel,
        fill: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<T, Away> {
        let memory = self.plan.load().memory.clone();
        let mut invocation = asking(script, &memory, self.known());
        fill(&mut invocation);
        let answer = self.client.ask(wheel, async |connection| invocation.invoke_async::<T>(connection).await).await?;
        // What one says that was left meanwhile counts for nothing.
        if self.plan.load().memory == memory { Ok(answer) } else { Err(Away) }
    }
}

impl Second for Shared {
    fn get<'w>(&'w self, wanted: &'w Wanted<'w>, wheel: &'w Wheel) -> Work<'w, Option<Found>> {
        Box::pin(async move {
            let found = self.find(wanted, wheel).await;
            self.metrics.came(found.as_ref().map_or_else(|word| *word, |_| "hit"));
            found.ok()
        })
    }

    fn ground(&self, now: Instant) -> Option<Ground> {
        let Clock { life, purges, time, read, .. } = self.clock()?;
        let since = now.saturating_duration_since(read);
        (since <= CLOCK_MAX).then(|| Ground { life, purges, time: time.saturating_add(since.as_millis() as u64) })
    }

    fn put<'w>(
        &'w self,
        scope: &'w [u8; 32],
        key: &'w [u8],
        entry: &'w Entry,
        ground: Ground,
        wheel: &'w Wheel,
    ) -> Work<'w, ()> {
        Box::pin(async move {
            let kept = self.keep((scope, key), entry, ground, wheel).await;
            self.metrics.kept(kept.err().unwrap_or("stored"));
        })
    }

    fn purge(&self, what: What, is_soft: bool) {
        let mut untold = locked(&self.untold);
        if untold.len() >= UNTOLD_MAX {
            untold.clear();
            untold.push_back((What::All, false));
        } else {
            untold.push_back((what, is_soft));
        }
        drop(untold);
        self.bell.notify_one();
    }

    fn invalidate(&self, digest: Digest, is_soft: bool) {
        let is_full = {
            let waiting = &mut locked(&self.changed).waiting;
            // Told with all that come in the same tenth of a second.
            waiting.insert((digest, is_soft));
            let is_full = waiting.len() > CHANGES_MAX;
            if is_full {
                waiting.clear();
            }
            is_full
        };
        if is_full {
            self.purge(What::All, false);
        }
    }

    fn told(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            let told = async {
                loop {
                    let mut told = std::pin::pin!(self.all_told.notified());
                    // Enabled before the look, so that what is told between the look and the wait is not missed.
                    told.as_mut().enable();
                    if !self.is_untold() {
                        return;
                    }
                    told.await;
                }
            };
            tokio::time::timeout(TELL_WAIT, told).await.is_ok()
        })
    }

    fn shown(&self) -> serde_json::Value {
        let changes = locked(&self.changed).len();
        json!({
            "up": self.client.is_up(),
            "purges": self.clock().map(|clock| clock.purges),
            "untold": locked(&self.untold).len() + changes,
        })
    }
}

impl Background for Shared {
    type Plan = Plan;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, plan: &Arc<Plan>) {
        let before = self.plan.swap(plan.clone());
        if before.memory != plan.memory {
            self.leave(&before.memory);
        }
    }

    async fn work(state: Weak<Self>, desk: Desk) {
        loop {
            let Some(shared) = state.upgrade() else { return };
            shared.part().await;
            if shared.client.is_up() {
                // What cannot be told or read now is so the next time.
                let _ = shared.tell_all(&desk.wheel).await;
                let _ = shared.catch_up(&desk.wheel).await;
            }
            let bell = shared.bell.clone();
            drop(shared);
            tokio::select! {
                () = tokio::time::sleep(FOLLOW) => {}
                () = bell.notified() => {}
            }
        }
    }

    async fn finish(state: Arc<Self>, desk: Desk) {
        state.part().await;
        // Twice: where places stand may have to be read first.
        for _ in 0..2 {
            let is_done = || !state.is_untold() && locked(&state.changed).len() == 0;
            if is_done() || state.tell_all(&desk.wheel).await.is_err() || is_done() {
                return;
            }
            if state.catch_up(&desk.wheel).await.is_err() {
                return;
            }
        }
    }
}
