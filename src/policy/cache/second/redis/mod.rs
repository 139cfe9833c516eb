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
//! to be read is bounded, and whoever was away for long misses nothing. Here it is gone at once. Others are told a tenth of a second later and read it within another, and so
//! does this itself, which costs one more fetch; a response that they find on the second level is good only if nothing of its
//! place was told since it was asked for.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderName;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Script, ScriptInvocation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use super::value::{self, Stored};
use super::{Found, Ground, Second, Wanted, Work};
use crate::config::cache::Cache as Section;
use crate::config::redis::Redis as Settings;
use crate::config::{Issues, KeyPath};
use crate::keep::{Identity, Keeper};
use crate::policy::cache::entry::Entry;
use crate::policy::cache::invalid::{self, Digest, PLACES, Place};
use crate::policy::cache::key::Target;
use crate::policy::cache::purge::{Fate, Purges, RECORDS_MAX, What};
use crate::policy::cache::store::Store;
use crate::redis_client::{self, Away, Client};
use crate::telemetry::metrics::{Metrics, SecondMetrics};
use crate::timer::Wheel;
use crate::upstream::background::{self, Background, Desk, Ticket};

/// How far what is kept here may be behind the log.
const FOLLOW: Duration = Duration::from_millis(100);

/// Purges that are read at once.
const BATCH: usize = 500;

/// Places that are told at once, and twice as many are read: those that were told at one time are read whole.
const PLACES_TOLD: usize = 500;

/// Targets that may wait to be told of. More becomes one purge of all, which hardly takes more than so many places do.
const CHANGES_MAX: usize = PLACES;

/// How long a response is kept at most.
const KEEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// After so long without a word, what time it is there is not known any more.
const CLOCK_MAX: Duration = Duration::from_secs(5);

/// What may wait to be told. More becomes one purge of all.
const UNTOLD_MAX: usize = 4096;

/// How long a purge waits until all others are told.
const TELL_WAIT: Duration = Duration::from_secs(1);

/// Times of telling that are kept at least. Who knows none of them was away for long, and begins another life.
const TIMES_MAX: usize = 16_384;

/// The longest list of names of headers.
const NAMES_MAX: usize = 4096;

/// What several armigers keep together. Kept over reloads.
pub(super) struct Shared {
    ticket: Ticket,
    client: Arc<Client>,
    plan: ArcSwap<Plan>,
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
    /// What is kept here, which the purges of others are about too.
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

/// What is known of the shared memory.
#[derive(Clone, Copy)]
struct Clock {
    /// Places are by it too, so that it is told to no client.
    life: u128,
    /// All purges up to this one are known.
    purges: u64,
    /// All places that were told of up to this time are known; in microseconds.
    changes: u64,
    /// Its time, in milliseconds, when it was read here.
    time: u64,
    read: Instant,
}

/// The last that is known to have been told, here or by others.
#[derive(Clone, Copy)]
struct Witness {
    life: u128,
    /// When, in microseconds.
    told: u64,
    /// It is of a memory that was left.
    is_of_another: bool,
}

/// What is known of it, as scripts are told.
#[derive(Clone, Copy)]
struct Known {
    witness: Option<Witness>,
    clock: Option<Clock>,
}

/// A memory that a reload left, with what it was not told.
struct Left {
    memory: Memory,
    known: Known,
    connection: Option<Arc<MultiplexedConnection>>,
    purges: VecDeque<(What, bool)>,
    changed: Vec<(Digest, bool)>,
    metrics: SecondMetrics,
}

/// Targets to tell the others of. Not their places: those are by a secret that may not be known yet.
#[derive(Default)]
struct Changed {
    waiting: BTreeSet<(Digest, bool)>,
    /// On their way, and told again if that fails.
    leaving: BTreeSet<(Digest, bool)>,
}

/// A purge in the log.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    by: String,
    soft: bool,
    what: What,
}

/// What comes of following: the time there, its life, when something was last told, the number of the last purge, and up to when
/// places are known; purges with their numbers; places, each with its time, and whether there are more.
type Followed = ((u64, String, u64, u64, u64), Vec<(String, Vec<u8>)>, Vec<(u32, u64)>, bool);

/// What comes of telling: life, and when it was told. Nothing: there is something to be read first.
type Told = Option<(String, u64)>;

/// When a place was told of: invalid, and stale.
type ToldAt = (Option<u64>, Option<u64>);

/// What comes of a look: clock, whether what is known stands among the times of telling, when the place was told of, names of headers,
/// value, and how long it is kept yet.
type Looked = (ClockThere, Vec<redis::Value>, Option<u64>, Option<u64>, Vec<u8>, Vec<u8>, i64);

/// Life, the number of the last purge, when something was last told, and when this life was born.
type ClockThere = (Option<String>, Option<u64>, Option<u64>, Option<u64>);

/// Compiles what the section says of it.
pub(super) fn compile(
    settings: &Settings,
    section: &Section,
    path: &KeyPath,
    store: Arc<Store>,
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
    let shared = keeper.keep(identity, || Shared::new(client, plan(), counts));
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
    fn new(client: Arc<Client>, plan: Plan, metrics: SecondMetrics) -> Self {
        Self {
            ticket: Ticket::default(),
            client,
            plan: ArcSwap::from_pointee(plan),
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

    fn store(&self) -> Arc<Store> {
        self.plan.load().store.clone()
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

    /// Whether what was told was heard. If not there is something to be read first.
    fn is_heard(&self, told: Told) -> Result<bool, Away> {
        let Some((life, told)) = told else { return Ok(false) };
        *locked(&self.witness) = Some(Witness { life: read_life(&life).ok_or(Away)?, told, is_of_another: false });
        Ok(true)
    }

    /// Tells what is untold, as far as it can.
    async fn tell_all(&self, wheel: &Wheel) -> Result<(), Away> {
        loop {
            let Some(purge) = locked(&self.untold).front().cloned() else { break };
            let told = self.run(&self.tell, wheel, |invocation| self.row(&purge, invocation));
            if !self.is_heard(told.await?)? {
                return Ok(());
            }
            // Only this tells, and what comes meanwhile stands behind; unless all of it became one purge.
            let mut untold = locked(&self.untold);
            if untold.front() == Some(&purge) {
                untold.pop_front();
            }
        }
        self.all_told.notify_waiters();
        loop {
            // As long as nobody has read what life it has nobody knows where they stand.
            let Some(Clock { life, .. }) = self.clock() else { return Ok(()) };
            let leaving: Vec<_> = {
                let mut changed = locked(&self.changed);
                let Changed { waiting, leaving } = &mut *changed;
                // What did not arrive the last time.
                waiting.append(leaving);
                while leaving.len() < PLACES_TOLD
                    && let Some((digest, is_soft)) = waiting.pop_first()
                {
                    leaving.insert((digest, is_soft));
                }
                leaving.iter().copied().collect()
            };
            if leaving.is_empty() {
                return Ok(());
            }
            let told = self.run(&self.tell, wheel, |invocation| places(life, &leaving, invocation));
            if !self.is_heard(told.await?)? {
                return Ok(());
            }
            locked(&self.changed).leaving.clear();
        }
    }

    fn row(&self, purge: &(What, bool), invocation: &mut ScriptInvocation<'_>) {
        let row = Row { by: self.own.clone(), soft: purge.1, what: purge.0.clone() };
        invocation.arg("purge").arg(serde_json::to_vec(&row).unwrap_or_default()).arg(RECORDS_MAX).arg(TIMES_MAX);
    }

    /// Leaves a memory for another one. What is not told yet is to be told to both.
    fn leave(&self, memory: &Memory) {
        let purges = locked(&self.untold).clone();
        let changed = {
            let Changed { waiting, leaving } = &mut *locked(&self.changed);
            waiting.append(leaving);
            waiting.iter().copied().collect()
        };
        let connection = self.client.leave();
        let left = Left {
            memory: memory.clone(),
            known: self.known(),
            connection,
            purges,
            changed,
            metrics: self.metrics.clone(),
        };
        if left.len() > 0 {
            *locked(&self.left) = Some(left);
        }
        // The witness stays: what was purged by way of the one must not be read from the other.
        if let Some(witness) = &mut *locked(&self.witness) {
            witness.is_of_another = true;
        }
        *locked(&self.clock) = None;
        self.bell.notify_one();
    }

    /// Tells a memory that was left what it was not told, as far as that takes no long time.
    async fn part(&self) {
        let Some(mut left) = locked(&self.left).take() else { return };
        // What is not told then is reported by its drop.
        let _ = tokio::time::timeout(TELL_WAIT, self.tell_left(&mut left)).await;
    }

    async fn tell_left(&self, left: &mut Left) -> Option<()> {
        let mut connection = left.connection.as_deref()?.clone();
        while let Some(purge) = left.purges.front() {
            let mut invocation = asking(&self.tell, &left.memory, left.known);
            self.row(purge, &mut invocation);
            invocation.invoke_async::<Told>(&mut connection).await.ok()??;
            left.purges.pop_front();
        }
        let life = left.known.clock?.life;
        while !left.changed.is_empty() {
            let rest = left.changed.len().saturating_sub(PLACES_TOLD);
            let mut invocation = asking(&self.tell, &left.memory, left.known);
            places(life, &left.changed[rest..], &mut invocation);
            invocation.invoke_async::<Told>(&mut connection).await.ok()??;
            left.changed.truncate(rest);
        }
        Some(())
    }

    /// Follows the log, and what is told of places, to the end. What this told itself counts too: of a place that another told of
    /// shortly before nothing but the last time is left.
    async fn catch_up(&self, wheel: &Wheel) -> Result<(), Away> {
        loop {
            let known = self.clock();
            let from = known.map_or(0, |clock| clock.purges) + 1;
            let (new, before) = (life(), *locked(&self.witness));
            let followed = self.run::<Followed>(&self.follow, wheel, |invocation| {
                invocation.arg(&new).arg(from).arg(BATCH);
                invocation.arg(known.map_or_else(|| "+inf".to_owned(), |clock| clock.changes.to_string()));
                invocation.arg(2 * PLACES_TOLD);
            });
            let ((time, born, told, last, changes), rows, places, are_more) = followed.await?;
            let read = Instant::now();
            if born == new && before.is_some_and(|witness| !witness.is_of_another) {
                tracing::warn!("redis lost what it was told: nothing is read of what it holds from before");
                self.metrics.came("lost");
            }
            let born = read_life(&born).ok_or(Away)?;
            *locked(&self.witness) = Some(Witness { life: born, told, is_of_another: false });
            if known.is_some_and(|known| known.life != born) {
                // Another memory than before: from its beginning.
                self.forget();
                continue;
            }
            let store = self.store();
            if known.is_none() {
                // In this order: whoever sees the purge sees the secret.
                store.invalid.reseed(born);
                // What others told before this listened is not known: what was kept here meanwhile may be purged.
                store.purges.purge(What::All, false);
            }
            store
                .invalid
                .invalidate(places.iter().map(|(member, _)| (*member as Place, *member > u32::from(Place::MAX))));
            let is_more = rows.len() == BATCH;
            let mut at = known.map(|known| known.purges);
            for (id, row) in rows {
                let number: u64 = id.split('-').next().and_then(|number| number.parse().ok()).ok_or(Away)?;
                match at {
                    Some(at) if at + 1 != number => self.lost(number - 1),
                    Some(_) => {}
                    None => self.purges.begin(number - 1),
                }
                self.apply(number, &row);
                at = Some(number);
            }
            let at = match at {
                // The log is shorter than it should be: something let go of it.
                Some(at) if !is_more && at < last => {
                    self.lost(last);
                    last
                }
                Some(at) => at,
                None => {
                    self.purges.begin(last);
                    last
                }
            };
            *locked(&self.clock) = Some(Clock { life: born, purges: at, changes, time, read });
            if !is_more && !are_more {
                return Ok(());
            }
        }
    }

    /// Takes a purge from the log.
    fn apply(&self, number: u64, row: &[u8]) {
        let Ok(row) = serde_json::from_slice::<Row>(row) else {
            // Of a version to come: what it is about cannot be told.
            return self.lost(number);
        };
        if row.by != self.own {
            self.store().purges.purge(row.what.clone(), row.soft);
        }
        self.purges.note_at(row.what, number, row.soft);
    }

    /// Purges up to this one may have been missed.
    fn lost(&self, number: u64) {
        tracing::warn!("purges of other armigers may have been missed: all that is cached here is purged");
        self.store().purges.purge(What::All, false);
        self.purges.begin(number);
        self.metrics.came("gap");
    }

    /// Another memory is there: what was purged in between is not known.
    fn forget(&self) {
        self.lost(0);
        *locked(&self.clock) = None;
    }

    /// Looks for a value, and whatever tells whether it is good, at one moment.
    async fn look(
        &self,
        name: &[u8; 32],
        (place, told): (Place, u64),
        index: &str,
        wheel: &Wheel,
    ) -> Result<Looked, &'static str> {
        let plan = self.plan.load_full();
        let prefix = &plan.memory.prefix;
        let entry = format!("{prefix}e:{}", hex(name));
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HMGET").arg(format!("{prefix}clock")).arg("life").arg("purges").arg("told").arg("born");
        pipe.cmd("XRANGE").arg(format!("{prefix}told")).arg(format!("{told}-0")).arg(format!("{told}-0"));
        for is_soft in [false, true] {
            pipe.cmd("ZSCORE").arg(format!("{prefix}places")).arg(member(place, is_soft));
        }
        // No more of it than may be: what others put there may be of any length.
        pipe.cmd("GETRANGE").arg(format!("{prefix}v:{index}")).arg(0).arg(NAMES_MAX);
        pipe.cmd("GETRANGE").arg(&entry).arg(0).arg(plan.value_max);
        pipe.cmd("PTTL").arg(&entry);
        let looked = self.client.ask(wheel, async |connection| match pipe.query_async::<Looked>(connection).await {
            // Somebody else's, of another type: the server is well.
            Err(error) if is_about_type(&error) => Ok(None),
            looked => looked.map(Some),
        });
        looked.await.map_err(|Away| "unavailable")?.ok_or("foreign")
    }

    async fn find(&self, wanted: &Wanted<'_>, wheel: &Wheel) -> Result<Found, &'static str> {
        if self.is_untold() {
            return Err("untold");
        }
        let target = Target::of(wanted.key).ok_or("miss")?;
        let digest = target.digest();
        if locked(&self.changed).has(digest) {
            return Err("untold");
        }
        let known = self.clock().ok_or("behind")?.life;
        let told = locked(&self.witness).filter(|witness| witness.life == known).ok_or("behind")?.told;
        let place = (invalid::place(known, digest), told);
        let index = hex(&value::name(wanted.scope, wanted.key, &[], b"vary"));
        let mut vary: Vec<HeaderName> = Vec::new();
        // A second look, where the first one tells that headers choose.
        for _ in 0..2 {
            let name = value::name(wanted.scope, wanted.key, &vary, &(wanted.variant)(&vary));
            let looked = self.look(&name, place, &index, wheel).await?;
            let ((life, purges, last, born), told_at, invalid_at, stale_at, names, bytes, left) = looked;
            let names = value::read_names(&names).ok_or("foreign")?;
            if names != vary {
                vary = names;
                continue;
            }
            if bytes.is_empty() {
                return Err("miss");
            }
            let mut stored = value::read(&name, Bytes::from(bytes)).ok_or("foreign")?;
            stored.vary = vary;
            let is_told = told_at.len() == 1 || [last, born].iter().any(|at| at.unwrap_or(0) == told);
            if life.and_then(|life| read_life(&life)) != Some(known) || !is_told {
                return Err("behind");
            }
            return self.judge(stored, (known, purges.unwrap_or(0)), (invalid_at, stale_at), left, &target);
        }
        Err("miss")
    }

    fn judge(
        &self,
        mut stored: Stored,
        (life, purges): (u128, u64),
        (invalid_at, stale_at): ToldAt,
        left: i64,
        target: &Target<'_>,
    ) -> Result<Found, &'static str> {
        let clock = self.clock().ok_or("behind")?;
        if life != clock.life || purges != clock.purges {
            return Err("behind");
        }
        let ground = stored.ground;
        if ground.life != clock.life || ground.purges > purges {
            return Err("dead");
        }
        let is_later = |at: Option<u64>| at.is_some_and(|at| at / 1000 >= ground.time);
        if is_later(invalid_at) {
            return Err("dead");
        }
        let least = if is_later(stale_at) { Fate::Stale } else { Fate::Good };
        let fate = self.purges.fate(ground.purges, Some(target), &stored.tags);
        if fate == Fate::Dead {
            return Err("dead");
        }
        let left = u64::try_from(left).map(Duration::from_millis).map_err(|_| "foreign")?;
        // How long it has been there, by the clock that all share.
        stored.age += stored.keep.checked_sub(left).ok_or("foreign")?;
        Ok(Found { stored, fate: fate.max(least) })
    }

    async fn keep(
        &self,
        (scope, key): (&[u8; 32], &[u8]),
        entry: &Entry,
        ground: Ground,
        wheel: &Wheel,
    ) -> Result<(), &'static str> {
        let (head, age) = (&entry.head, entry.head.age(Instant::now()));
        let longest = head.terms.lifetime + head.terms.while_revalidate.max(head.terms.if_error);
        let keep = longest.saturating_sub(age).min(KEEP_MAX);
        if keep < Duration::from_secs(1) {
            return Err("short");
        }
        let name = value::name(scope, key, &head.vary, &head.variant);
        let plan = self.plan.load_full();
        let mut room = plan.store.reserve(plan.fills_max);
        if entry.body.len() > plan.value_max || !room.grow(entry.body.len() as u64) {
            return Err("too_long");
        }
        let written = value::write(&name, entry, ground, age, keep);
        if written.len() > plan.value_max {
            return Err("too_long");
        }
        let prefix = &plan.memory.prefix;
        let index = format!("{prefix}v:{}", hex(&value::name(scope, key, &[], b"vary")));
        let millis = keep.as_millis() as u64;
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("SET").arg(format!("{prefix}e:{}", hex(&name))).arg(written);
        pipe.arg("PX").arg(millis).ignore();
        if head.vary.is_empty() {
            pipe.cmd("DEL").arg(index).ignore();
        } else {
            let names = value::write_names(&head.vary);
            if names.len() > NAMES_MAX {
                return Err("too_long");
            }
            pipe.cmd("SET").arg(index).arg(names).arg("PX").arg(millis).ignore();
        }
        let asked = self.client.ask(wheel, async |connection| pipe.query_async::<()>(connection).await);
        asked.await.map_err(|Away| "unavailable")
    }
}

fn is_about_type(error: &redis::RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
        || error.to_string().contains("WRONGTYPE")
        || error.kind() == redis::ErrorKind::UnexpectedReturnType
}

/// A script, and what is known.
fn asking<'s>(script: &'s Script, memory: &Memory, Known { witness, clock }: Known) -> ScriptInvocation<'s> {
    let mut invocation = script.prepare_invoke();
    for key in ["clock", "purges", "places", "told"] {
        invocation.key(format!("{}{key}", memory.prefix));
    }
    invocation.arg(witness.map(|witness| format!("{:032x}", witness.life)).unwrap_or_default());
    invocation.arg(witness.map_or(0, |witness| witness.told));
    invocation.arg(clock.map_or(0, |clock| clock.purges)).arg(clock.map_or(0, |clock| clock.changes));
    invocation
}

/// What tells of targets, by the life that their places are by.
fn places(life: u128, changed: &[(Digest, bool)], invocation: &mut ScriptInvocation<'_>) {
    invocation.arg("changed").arg(TIMES_MAX);
    for (digest, is_soft) in changed {
        invocation.arg(member(invalid::place(life, *digest), *is_soft));
    }
}

/// The life of a memory that has none yet.
fn life() -> String {
    format!("{:032x}", invalid::secret())
}

fn read_life(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}

/// What stands for a place among those that were told of.
fn member(place: Place, is_soft: bool) -> u32 {
    u32::from(place) + if is_soft { PLACES as u32 } else { 0 }
}

impl Left {
    fn len(&self) -> usize {
        self.purges.len() + self.changed.len()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        report(&self.memory, self.len(), &self.metrics);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let untold = locked(&self.untold).len() + locked(&self.changed).len();
        report(&self.plan.load().memory, untold, &self.metrics);
    }
}

/// Reports what a memory will not be told any more.
fn report(memory: &Memory, untold: usize, metrics: &SecondMetrics) {
    if untold > 0 {
        let url = &memory.url;
        tracing::warn!(
            url,
            untold,
            "redis was not told of all purges and unsafe requests: who stays with it may not know"
        );
        metrics.untold(untold);
    }
}

impl Changed {
    fn has(&self, digest: Digest) -> bool {
        [false, true].iter().any(|is_soft| {
            let change = (digest, *is_soft);
            self.waiting.contains(&change) || self.leaving.contains(&change)
        })
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.leaving.len()
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
        (since <= CLOCK_MAX).then(|| Ground { life, purges, time: time + since.as_millis() as u64 })
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
        if !Arc::ptr_eq(&before.store, &plan.store) {
            // What others told since it is in use went to the one before.
            if let Some(clock) = self.clock() {
                plan.store.invalid.reseed(clock.life);
            }
            plan.store.purges.purge(What::All, false);
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

#[cfg(test)]
mod tests;
