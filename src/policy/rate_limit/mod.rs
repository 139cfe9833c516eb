//! `rate_limit`: how many requests a caller may make.

mod compile;
mod config;
mod counted;

pub use config::Config;
pub(super) use config::GUARDS;

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::key::{Found, Key};
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::exchange::allowance::{Draw, Exceeded, Grant};
use crate::exchange::{Exchange, Reason, Rejection, Verdict};
use crate::limits::ban::Struck;
use crate::limits::bucket::Drawn;
use crate::limits::fields::Reading;
use crate::limits::store::{self, Ask, Level};
use counted::{Bucket, Counted};

/// The limits of a route that are asked together: they grant all or nothing.
pub struct RateLimit {
    entries: Box<[Entry]>,
}

/// One of them.
struct Entry {
    counted: Arc<Counted>,
    key: Key,
    cost: u64,
}

/// An entry that is asked, and whose bucket.
struct Asked<'e> {
    entry: &'e Entry,
    bucket: &'e Bucket,
    hash: u64,
}

type AllAsked<'e> = SmallVec<[Asked<'e>; 3]>;

impl Policy for RateLimit {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let now = exchange.started;
        let asked = self.asked(exchange)?;
        if asked.is_empty() {
            return Ok(Verdict::Pass);
        }
        banned(&asked, now)?;
        let asks: SmallVec<[Ask<'_>; 3]> = asked.iter().map(Asked::ask).collect();
        let levels = store::draw(&asks, now);
        let is_granted = levels.iter().all(|level| matches!(level.drawn, Drawn::Granted { .. }));
        if !is_granted {
            return Err(refused(&asked, &levels, exchange, now));
        }
        let mut grant = Box::<Grant>::default();
        for (asked, level) in asked.iter().zip(levels) {
            asked.bucket.store.metrics.decided("granted");
            let (store, place, cost) = (asked.bucket.store.clone(), level.place, asked.entry.cost);
            grant.draws.push(Draw { store, place, cost });
            grant.readings.push(asked.reading(&level));
        }
        Ok(Verdict::Grant(grant))
    }
}

impl RateLimit {
    /// The entries that count this request.
    fn asked(&self, exchange: &Exchange) -> Result<AllAsked<'_>, Rejection> {
        let mut asked = AllAsked::new();
        for entry in &self.entries {
            let bucket = entry.counted.bucket(exchange);
            match entry.key.hash(exchange, &bucket.store) {
                Ok(hash) => asked.push(Asked { entry, bucket, hash }),
                Err(Found::Deny) => {
                    bucket.store.metrics.decided("key_missing");
                    return Err(Reason::LimitKeyMissing.into());
                }
                Err(_) => bucket.store.metrics.decided("skipped"),
            }
        }
        Ok(asked)
    }
}

impl Asked<'_> {
    fn ask(&self) -> Ask<'_> {
        Ask { store: &self.bucket.store, plan: &self.bucket.plan, hash: self.hash, cost: self.entry.cost }
    }

    fn reading(&self, level: &Level) -> Reading {
        let reset = match level.drawn {
            Drawn::Wait(micros) => micros.div_ceil(1_000_000).max(1),
            Drawn::Granted { .. } | Drawn::Never => level.rate.micros(level.lacks).div_ceil(1_000_000),
        };
        Reading {
            told: self.bucket.told.clone(),
            remaining: level.rate.level(level.lacks, 0),
            reset,
            is_denied: !matches!(level.drawn, Drawn::Granted { .. }),
        }
    }
}

/// Refuses who is kept out.
fn banned(asked: &AllAsked<'_>, now: Instant) -> Result<(), Rejection> {
    for Asked { entry, bucket, hash } in asked {
        let micros = bucket.store.micros(now);
        if entry.counted.penalty.is_none() {
            continue;
        }
        if let Some(until) = bucket.store.bans.until(*hash, micros) {
            bucket.store.metrics.decided("banned");
            let (wait, names) = (Some(until - micros), [bucket.told.clone()].into_iter().collect());
            let exceeded = Exceeded { wait, names, readings: SmallVec::new() };
            return Err(Rejection { exceeded: Some(Box::new(exceeded)), ..Reason::Banned.into() });
        }
    }
    Ok(())
}

/// What a refusal says, and whom it is remembered of.
fn refused(asked: &AllAsked<'_>, levels: &[Level], exchange: &Exchange, now: Instant) -> Rejection {
    let mut exceeded = Exceeded { wait: Some(0), names: SmallVec::new(), readings: SmallVec::new() };
    for (asked, level) in asked.iter().zip(levels) {
        exceeded.readings.push(asked.reading(level));
        let metrics = &asked.bucket.store.metrics;
        match level.drawn {
            Drawn::Granted { .. } => continue,
            // The one that takes longest says when all of them grant it.
            Drawn::Wait(micros) => {
                metrics.decided("denied");
                exceeded.wait = exceeded.wait.map(|wait| wait.max(micros));
            }
            Drawn::Never => {
                metrics.decided("too_costly");
                exceeded.wait = None;
            }
        }
        exceeded.names.push(asked.bucket.told.clone());
        asked.remember(exchange, now);
    }
    let reason = if exceeded.wait.is_none() { Reason::CostTooHigh } else { Reason::RateLimited };
    let rejection = Rejection { exceeded: Some(Box::new(exceeded)), ..reason.into() };
    match rejection.exceeded.as_ref().and_then(|exceeded| exceeded.seconds()) {
        Some(seconds) => rejection.detail(format!("Try again in {seconds} s.")),
        None => rejection,
    }
}

impl Asked<'_> {
    /// Takes down who was refused: for operators, and for a ban.
    fn remember(&self, exchange: &Exchange, now: Instant) {
        let store = &self.bucket.store;
        store.names.note(self.hash, || self.entry.key.label(exchange));
        let Some(penalty) = self.entry.counted.penalty else { return };
        match store.bans.strike(self.hash, store.micros(now), penalty) {
            Struck::Counted => {}
            Struck::NoRoom => store.metrics.bound_hit("rate_limit.ban"),
            Struck::Banned => {
                let key = store.names.get(self.hash).unwrap_or_default();
                tracing::warn!(limit = %self.entry.counted.name, key, "a caller is banned");
            }
        }
    }
}
