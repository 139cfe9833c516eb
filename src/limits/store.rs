//! The buckets of one limit, by key: bounded, shared by all workers, and kept over reloads.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

use smallvec::SmallVec;

use super::ban::Bans;
use super::bucket::{Drawn, Rate};
use super::names::Names;
use super::sync::{Mutex, MutexGuard};
use super::table::Table;
use crate::telemetry::metrics::LimitMetrics;

/// About how many keys go with one lock.
const KEYS_PER_SHARD: usize = 4096;

/// The most locks of a store.
const SHARDS_MAX: usize = 256;

/// The place of a key that found no room. The same for all of them.
const OVERFLOW: u64 = 1;

/// The buckets of one limit.
pub struct Store {
    /// Tells stores apart, and says in which order they are locked.
    order: u64,
    /// When time began for it.
    epoch: Instant,
    /// By the upper bits of the hash. The last one holds the one bucket of those that found no room.
    shards: Box<[Mutex<Shard>]>,
    keys_max: usize,
    hashing: RandomState,
    /// Who is kept out for a while.
    pub bans: Bans,
    /// What keys of late are called.
    pub names: Names,
    /// Where it is counted.
    pub metrics: LimitMetrics,
}

struct Shard {
    table: Table,
    /// The rate that levels are counted in, and the version of the configuration that it is from.
    rate: Rate,
    version: u64,
    /// From where they are counted, in microseconds since the epoch.
    base: u64,
}

/// The rate of a limit, as one version of the configuration has it.
#[derive(Debug)]
pub struct Plan {
    rate: Rate,
    version: u64,
    /// When it was first asked for, in microseconds since the store's epoch: until then the old rate counts.
    since: OnceLock<u64>,
}

impl Plan {
    /// This rate, from version `version` on.
    pub fn new(rate: Rate, version: u64) -> Self {
        Self { rate, version, since: OnceLock::new() }
    }

    /// The rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }
}

/// A request for tokens of one bucket.
pub struct Ask<'a> {
    /// Where it is.
    pub store: &'a Arc<Store>,
    /// How it fills.
    pub plan: &'a Plan,
    /// Whose it is: a hash that the store made.
    pub hash: u64,
    /// Tokens.
    pub cost: u64,
}

/// A bucket after it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// The rate that it is counted in.
    pub rate: Rate,
    /// Units that it lacks.
    pub lacks: u64,
    /// What came of the request. If any of those asked together is not granted, none is taken from.
    pub drawn: Drawn,
    /// Where it was taken from, to give it back.
    pub place: Place,
}

/// Which bucket of a store.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    shard: u32,
    hash: u64,
    /// When it would have been full without the draw, in microseconds since the epoch.
    from: u64,
}

impl Store {
    /// A store of `keys_max` buckets that are not full, at most.
    pub fn new(keys_max: usize, now: Instant, metrics: LimitMetrics) -> Self {
        static ORDER: AtomicU64 = AtomicU64::new(0);
        let count = (keys_max / KEYS_PER_SHARD).next_power_of_two().clamp(1, SHARDS_MAX);
        // Counted in anything until the first request says in what.
        let rate = Rate::new(1, std::time::Duration::from_secs(1), 1).expect("one a second can be counted");
        let shard = |_| Mutex::new(Shard { table: Table::default(), rate, version: 0, base: 0 });
        Self {
            order: ORDER.fetch_add(1, Ordering::Relaxed),
            epoch: now,
            shards: (0..=count).map(shard).collect(),
            keys_max: keys_max.div_ceil(count),
            hashing: RandomState::new(),
            bans: Bans::default(),
            names: Names::default(),
            metrics,
        }
    }

    /// What makes hashes of keys: seeded anew in each process, so that nobody outside can tell which keys share a place.
    pub fn hasher(&self) -> std::hash::DefaultHasher {
        self.hashing.build_hasher()
    }

    /// Microseconds since time began for it.
    pub fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    fn shard_of(&self, hash: u64) -> usize {
        let count = self.shards.len() - 1;
        (hash >> 56) as usize & (count - 1)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        // What is done under the lock is whole or not begun.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many buckets are not full, about.
    pub fn len(&self) -> usize {
        (0..self.shards.len()).map(|shard| self.lock(shard).table.len()).sum()
    }

    /// Whether all are full.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the buckets take.
    pub fn bytes(&self) -> usize {
        (0..self.shards.len()).map(|shard| self.lock(shard).table.bytes() + size_of::<Mutex<Shard>>()).sum()
    }

    /// Units that the bucket of this hash lacks, and in which rate; `None`: it is full.
    pub fn look(&self, plan: &Plan, hash: u64, now: Instant) -> Option<(Rate, u64)> {
        let micros = self.micros(now);
        let mut shard = self.lock(self.shard_of(hash));
        let at = shard.ready(plan, micros);
        let lacks = shard.table.get(hash)?.saturating_sub(at);
        (lacks > 0).then_some((shard.rate, lacks))
    }

    /// Fills the bucket of this hash.
    pub fn reset(&self, hash: u64) -> bool {
        let was_there = self.lock(self.shard_of(hash)).table.remove(hash);
        if was_there {
            self.metrics.keys(-1);
        }
        was_there
    }

    /// The `most` buckets that lack most, each with its hash and the units that it lacks.
    pub fn hottest(&self, plan: &Plan, now: Instant, most: usize) -> Vec<(u64, Rate, u64)> {
        let micros = self.micros(now);
        let mut found: Vec<(u64, Rate, u64)> = Vec::new();
        for shard in 0..self.shards.len() {
            let mut shard = self.lock(shard);
            let at = shard.ready(plan, micros);
            let rate = shard.rate;
            found.extend(shard.table.iter().map(|(hash, full)| (hash, rate, full.saturating_sub(at))));
            drop(shard);
            if found.len() > most {
                found.sort_unstable_by_key(|(hash, _, lacks)| (std::cmp::Reverse(*lacks), *hash));
                found.truncate(most);
            }
        }
        found.retain(|(_, _, lacks)| *lacks > 0);
        found.sort_unstable_by_key(|(hash, _, lacks)| (std::cmp::Reverse(*lacks), *hash));
        found
    }

    /// Gives back what was drawn, since the request was refused elsewhere.
    pub fn give_back(&self, place: Place, cost: u64, now: Instant) {
        let micros = self.micros(now);
        let mut shard = self.lock(place.shard as usize);
        // Counted from another base since: what it was drawn from is reckoned anew.
        let (rate, base) = (shard.rate, shard.base);
        let Some(full) = shard.table.get(place.hash) else { return };
        let (at, from) = (rate.at(micros.saturating_sub(base)), rate.at(place.from.saturating_sub(base)));
        let full = rate.give_back(full, at, cost, from);
        shard.table.set(place.hash, full);
    }
}

impl Shard {
    /// Makes it count in the rate of `plan`, unless it counts in that of a later version. Gives the present, in units.
    fn ready(&mut self, plan: &Plan, micros: u64) -> u64 {
        if self.version < plan.version {
            let since = (*plan.since.get_or_init(|| micros)).clamp(self.base, micros.max(self.base));
            if self.rate != plan.rate {
                let (old, at) = (self.rate, self.rate.at(since - self.base));
                self.table.retain(|full| {
                    let lacks = plan.rate.settle(old, full.checked_sub(at).filter(|lacks| *lacks > 0)?);
                    (lacks > 0).then_some(lacks)
                });
                (self.rate, self.base) = (plan.rate, since);
            }
            self.version = plan.version;
        }
        let past = micros.saturating_sub(self.base);
        if past > self.rate.horizon() {
            let at = self.rate.at(past);
            self.table.retain(|full| full.checked_sub(at).filter(|lacks| *lacks > 0));
            self.base = micros;
            return 0;
        }
        self.rate.at(past)
    }
}

/// Levels of buckets that were asked together.
pub type Levels = SmallVec<[Level; 3]>;

/// Draws from all of these buckets, or from none: no other request comes in between.
///
/// Each store is asked once.
pub fn draw(asks: &[Ask<'_>], now: Instant) -> Levels {
    if let [ask] = asks {
        return [draw_one(ask, now)].into_iter().collect();
    }
    let mut places: SmallVec<[(usize, usize); 3]> =
        asks.iter().enumerate().map(|(place, ask)| (place, ask.store.shard_of(ask.hash))).collect();
    // Whoever locks several locks them in this order, so nobody waits for somebody who waits for it.
    places.sort_unstable_by_key(|(place, shard)| (asks[*place].store.order, *shard));
    loop {
        match attempt(asks, &places, now) {
            Ok(levels) => return levels,
            // No room for a new key: it shares a bucket with the others. That lock is the last one of its store.
            Err(full) => {
                let ask = &asks[places[full].0];
                places[full].1 = ask.store.shards.len() - 1;
                ask.store.metrics.bound_hit("rate_limit.keys_max");
            }
        }
    }
}

/// Draws from one bucket: the usual case, which needs no order and no second look.
fn draw_one(ask: &Ask<'_>, now: Instant) -> Level {
    let Ask { store, plan, hash, cost } = ask;
    let micros = store.micros(now);
    let last = store.shards.len() - 1;
    let (mut place, mut hash) = (store.shard_of(*hash), *hash);
    loop {
        let mut guard = store.lock(place);
        let shard = &mut *guard;
        let at = shard.ready(plan, micros);
        let known = shard.table.get(hash);
        let before = known.unwrap_or(0);
        let drawn = shard.rate.draw(before, at, *cost);
        let (mut lacks, mut since) = (before.saturating_sub(at), 0);
        if let Drawn::Granted { full, from } = drawn {
            // Rounded down: what is given back is never more than was taken.
            since = shard.base + from / shard.rate.units().0;
            if *cost > 0 {
                let is_in = match known {
                    Some(_) => shard.table.set(hash, full),
                    None => {
                        let count = shard.table.len();
                        let is_in = shard.table.insert(hash, full, at, store.keys_max);
                        store.metrics.keys(shard.table.len() as i64 - count as i64);
                        is_in
                    }
                };
                if !is_in && place != last {
                    // No room for a new key: it shares a bucket with the others.
                    (place, hash) = (last, OVERFLOW);
                    drop(guard);
                    store.metrics.bound_hit("rate_limit.keys_max");
                    continue;
                }
                lacks = full.saturating_sub(at);
            }
        }
        let place = Place { shard: place as u32, hash, from: since };
        return Level { rate: shard.rate, lacks, drawn, place };
    }
}

/// Draws, or tells which of `places` has no room.
fn attempt(asks: &[Ask<'_>], places: &[(usize, usize)], now: Instant) -> Result<Levels, usize> {
    let mut shards: SmallVec<[MutexGuard<'_, Shard>; 3]> = SmallVec::new();
    let mut levels: Levels = SmallVec::new();
    let mut is_granted = true;
    for (place, shard) in places {
        let Ask { store, plan, hash, cost } = &asks[*place];
        let mut guard = store.lock(*shard);
        let micros = store.micros(now);
        let at = guard.ready(plan, micros);
        let is_overflow = *shard == store.shards.len() - 1;
        let hash = if is_overflow { OVERFLOW } else { *hash };
        let full = guard.table.get(hash).unwrap_or(0);
        let drawn = guard.rate.draw(full, at, *cost);
        let from = match drawn {
            // Rounded down: what is given back is never more than was taken.
            Drawn::Granted { from, .. } => guard.base + from / guard.rate.units().0,
            Drawn::Wait(_) | Drawn::Never => 0,
        };
        is_granted &= matches!(drawn, Drawn::Granted { .. });
        levels.push(Level {
            rate: guard.rate,
            lacks: full.saturating_sub(at),
            drawn,
            place: Place { shard: *shard as u32, hash, from },
        });
        shards.push(guard);
    }
    if is_granted {
        // Room is made for all before anything is taken from one.
        for (index, ((place, _), shard)) in places.iter().zip(&mut shards).enumerate() {
            let Ask { store, cost, .. } = &asks[*place];
            let hash = levels[index].place.hash;
            let Drawn::Granted { full, .. } = levels[index].drawn else { continue };
            if *cost == 0 || shard.table.get(hash).is_some() {
                continue;
            }
            let (at, count) = (full - cost * shard.rate.units().1, shard.table.len());
            // A bucket that is as good as full stands for the new key until the tokens are taken.
            let is_in = shard.table.insert(hash, at + 1, at, store.keys_max);
            store.metrics.keys(shard.table.len() as i64 - count as i64);
            if !is_in {
                return Err(index);
            }
        }
        for (index, ((place, _), shard)) in places.iter().zip(&mut shards).enumerate() {
            let Drawn::Granted { full, .. } = levels[index].drawn else { continue };
            if asks[*place].cost > 0 {
                shard.table.set(levels[index].place.hash, full);
                let at = shard.rate.at(asks[*place].store.micros(now).saturating_sub(shard.base));
                levels[index].lacks = full.saturating_sub(at);
            }
        }
    }
    drop(shards);
    // In the order of the requests again.
    let mut sorted: SmallVec<[(usize, Level); 3]> = places.iter().map(|(place, _)| *place).zip(levels).collect();
    sorted.sort_unstable_by_key(|(place, _)| *place);
    Ok(sorted.into_iter().map(|(_, level)| level).collect())
}
