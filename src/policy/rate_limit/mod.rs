//! `rate_limit`: how many requests a caller may make.

mod compile;
mod config;
mod counted;
#[cfg(feature = "redis")]
mod redis;
mod remote;
mod shown;

pub use config::Config;
pub(super) use config::GUARDS;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, header};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::key::{Found, Key};
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::limits::RateLimits;
use crate::config::{Issues, KeyPath};
use crate::exchange::allowance::{Draw, Exceeded, From, Grant, give_back};
use crate::exchange::{Exchange, Reason, Rejection, Verdict};
use crate::expression::Number;
use crate::keep::Keeper;
use crate::limits::ban::Struck;
use crate::limits::bucket::{Drawn, Rate};
use crate::limits::fields::Reading;
use crate::limits::store::{self, Ask};
use crate::telemetry::metrics::Metrics;
use config::OnError;
use counted::{Bucket, Counted};
pub use remote::Remote;
use remote::{Away, RemoteAsk};
pub use shown::Shown;

/// Whoever keeps the buckets that several armigers share, if the section `rate_limits` names one.
pub fn remote(
    settings: &RateLimits,
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<Arc<dyn Remote>> {
    let settings = settings.redis.as_ref()?;
    let path = path.key("redis");
    #[cfg(feature = "redis")]
    return redis::compile(settings, &path, metrics, keeper, issues);
    #[cfg(not(feature = "redis"))]
    {
        let _ = (settings, metrics, keeper);
        issues.push(crate::config::Issue::new(path, "this armiger was built without Redis").hint("leave it out"));
        None
    }
}

/// The limits of a route that are asked together: they grant all or nothing.
pub struct RateLimit {
    entries: Box<[Entry]>,
    /// Whether some of their buckets are elsewhere.
    goes_out: bool,
}

/// One of them.
struct Entry {
    counted: Arc<Counted>,
    key: Arc<Key>,
    cost: Taken,
}

/// Tokens that a request takes.
enum Taken {
    /// Always so many.
    Always(u64),
    /// What this gives.
    Told(Number),
}

impl Taken {
    fn of(&self, exchange: &Exchange) -> u64 {
        match self {
            Self::Always(tokens) => *tokens,
            Self::Told(number) => match number.of(exchange) {
                // What is less than nothing, or cannot be told, costs what a request usually does: free would be a way around
                // the limit.
                Ok(tokens) => u64::try_from(tokens).unwrap_or(1),
                Err(_) => 1,
            },
        }
    }
}

/// An entry that is asked, and whose bucket.
struct Asked<'e> {
    entry: &'e Entry,
    bucket: &'e Bucket,
    hash: u64,
    cost: u64,
}

type AllAsked<'e> = SmallVec<[Asked<'e>; 3]>;

/// Some of them.
type SomeAsked<'a, 'e> = SmallVec<[&'a Asked<'e>; 3]>;

/// A bucket after it was asked, wherever it is.
struct Answer {
    rate: Rate,
    lacks: u64,
    drawn: Drawn,
}

/// What came of a draw elsewhere.
enum There {
    /// All was granted.
    Granted(Box<Grant>),
    /// A limit refuses.
    Refused(Rejection),
    /// Nobody answers.
    Away,
}

impl Policy for RateLimit {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let now = exchange.started;
        let asked = self.asked(exchange)?;
        if asked.is_empty() {
            return Ok(Verdict::Pass);
        }
        banned(&asked, now)?;
        if !self.goes_out {
            return draw_here(&asked.iter().collect::<SomeAsked<'_, '_>>(), exchange, now).map(Verdict::Grant);
        }
        // In a box, so that requests which stay here do not carry its future about.
        Box::pin(draw_everywhere(&asked, exchange, now)).await
    }
}

impl RateLimit {
    /// The entries that count this request.
    fn asked(&self, exchange: &Exchange) -> Result<AllAsked<'_>, Rejection> {
        let mut asked = AllAsked::new();
        for entry in &self.entries {
            let bucket = entry.counted.bucket(exchange);
            match entry.key.hash(exchange, &bucket.store) {
                Ok(hash) => asked.push(Asked { entry, bucket, hash, cost: entry.cost.of(exchange) }),
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

/// Draws from buckets of this process.
fn draw_here(asked: &[&Asked<'_>], exchange: &Exchange, now: Instant) -> Result<Box<Grant>, Rejection> {
    let asks: SmallVec<[Ask<'_>; 3]> = asked.iter().map(|asked| asked.ask()).collect();
    let levels = store::draw(&asks, now);
    let answer = |level: &store::Level| Answer { rate: level.rate, lacks: level.lacks, drawn: level.drawn };
    let answers: SmallVec<[Answer; 3]> = levels.iter().map(answer).collect();
    if answers.iter().any(|answer| !answer.is_granted()) {
        return Err(refused(asked, &answers, exchange, now));
    }
    let mut grant = Box::<Grant>::default();
    for ((asked, level), answer) in asked.iter().zip(levels).zip(&answers) {
        asked.bucket.store.metrics.decided("granted");
        grant.draws.push(asked.drew(From::Here(asked.bucket.store.clone(), level.place), answer));
        grant.readings.push(asked.reading(answer));
    }
    Ok(grant)
}

/// Draws from buckets of this process, and in one round trip from those that are elsewhere. What was drawn is given back
/// if another refuses.
async fn draw_everywhere(asked: &[Asked<'_>], exchange: &Exchange, now: Instant) -> Result<Verdict, Rejection> {
    let (there, here): (SomeAsked<'_, '_>, SomeAsked<'_, '_>) =
        asked.iter().partition(|asked| asked.bucket.elsewhere.is_some());
    let mut grant = draw_here(&here, exchange, now)?;
    let drawn = match draw_there(&there, exchange, now).await {
        There::Granted(more) => Ok(more),
        There::Refused(rejection) => Err(rejection),
        There::Away => without(&there, exchange, now),
    };
    match drawn {
        Ok(more) => {
            grant.draws.extend(more.draws);
            grant.readings.extend(more.readings);
            Ok(Verdict::Grant(grant))
        }
        Err(rejection) => {
            give_back(&grant.draws, Instant::now(), &exchange.wheel).await;
            Err(rejection)
        }
    }
}

/// Draws from buckets that are elsewhere.
async fn draw_there(asked: &[&Asked<'_>], exchange: &Exchange, now: Instant) -> There {
    let mut asks: SmallVec<[RemoteAsk; 3]> = SmallVec::new();
    let mut remote = None;
    for asked in asked {
        let Some(elsewhere) = &asked.bucket.elsewhere else { continue };
        remote = Some(&elsewhere.remote);
        let key = asked.key_of(&elsewhere.prefix, exchange);
        asks.push(RemoteAsk { key, rate: elsewhere.rate, cost: asked.cost });
    }
    let Some(remote) = remote else { return There::Granted(Box::default()) };
    let levels = match remote.draw(&asks, &exchange.wheel).await {
        Ok(levels) => levels,
        Err(Away) => return There::Away,
    };
    let answer = |(level, ask): (&remote::RemoteLevel, &RemoteAsk)| Answer {
        rate: ask.rate,
        lacks: level.lacks,
        drawn: level.drawn,
    };
    let answers: SmallVec<[Answer; 3]> = levels.iter().zip(&asks).map(answer).collect();
    if answers.iter().any(|answer| !answer.is_granted()) {
        return There::Refused(refused(asked, &answers, exchange, now));
    }
    let mut grant = Box::<Grant>::default();
    for ((asked, level), answer) in asked.iter().zip(levels).zip(&answers) {
        asked.bucket.store.metrics.decided("granted");
        grant.draws.push(asked.drew(From::Elsewhere(remote.clone().lender(), level.loan), answer));
        grant.readings.push(asked.reading(answer));
    }
    There::Granted(grant)
}

/// Does without those that are elsewhere, as each limit says.
fn without(asked: &[&Asked<'_>], exchange: &Exchange, now: Instant) -> Result<Box<Grant>, Rejection> {
    let mut stand_ins: SomeAsked<'_, '_> = SmallVec::new();
    for asked in asked {
        match asked.bucket.elsewhere.as_ref().map_or(OnError::Local, |elsewhere| elsewhere.on_error) {
            OnError::Local => stand_ins.push(asked),
            OnError::Allow => asked.bucket.store.metrics.decided("store_unavailable"),
            OnError::Deny => {
                asked.bucket.store.metrics.decided("store_unavailable");
                let rejection = Rejection::from(Reason::LimitUnavailable);
                return Err(rejection.header(header::RETRY_AFTER, HeaderValue::from_static("1")));
            }
        }
    }
    draw_here(&stand_ins, exchange, now)
}

impl Answer {
    fn is_granted(&self) -> bool {
        matches!(self.drawn, Drawn::Granted { .. })
    }
}

impl Asked<'_> {
    fn ask(&self) -> Ask<'_> {
        Ask { store: &self.bucket.store, plan: &self.bucket.plan, hash: self.hash, cost: self.cost }
    }

    /// What the bucket is called elsewhere: a digest, so that no caller's name or credential is kept there.
    fn key_of(&self, prefix: &str, exchange: &Exchange) -> Arc<str> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut digest = Sha256::new();
        self.entry.key.feed(exchange, &mut digest);
        let mut key = String::with_capacity(prefix.len() + 32);
        key.push_str(prefix);
        for byte in digest.finalize().iter().take(16) {
            key.push(char::from(HEX[usize::from(byte >> 4)]));
            key.push(char::from(HEX[usize::from(byte & 15)]));
        }
        key.into()
    }

    fn drew(&self, from: From, answer: &Answer) -> Draw {
        let micros = answer.rate.micros(self.cost.saturating_mul(answer.rate.units().1));
        Draw { from, cost: self.cost, micros }
    }

    fn reading(&self, answer: &Answer) -> Reading {
        let reset = match answer.drawn {
            Drawn::Wait(micros) => micros.div_ceil(1_000_000).max(1),
            Drawn::Granted { .. } | Drawn::Never => answer.rate.micros(answer.lacks).div_ceil(1_000_000),
        };
        Reading {
            told: self.bucket.told.clone(),
            remaining: answer.rate.level(answer.lacks, 0),
            reset,
            is_denied: !answer.is_granted(),
        }
    }
}

/// Refuses who is kept out.
fn banned(asked: &AllAsked<'_>, now: Instant) -> Result<(), Rejection> {
    for Asked { entry, bucket, hash, .. } in asked {
        if entry.counted.penalty.is_none() {
            continue;
        }
        let micros = bucket.store.micros(now);
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
fn refused(asked: &[&Asked<'_>], answers: &[Answer], exchange: &Exchange, now: Instant) -> Rejection {
    let mut exceeded = Exceeded { wait: Some(0), names: SmallVec::new(), readings: SmallVec::new() };
    for (asked, answer) in asked.iter().zip(answers) {
        exceeded.readings.push(asked.reading(answer));
        let metrics = &asked.bucket.store.metrics;
        match answer.drawn {
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
        None => rejection.detail("No limit ever has room for so much at once: ask for less."),
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
