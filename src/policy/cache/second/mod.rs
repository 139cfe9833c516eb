//! The second level: what several armigers keep together, behind what each keeps itself.
//!
//! `value.rs` is how a response is written down, `redis.rs` where. The identity rule, `Vary` and purges hold here as they do
//! for what is kept here: a key is a digest of the same bytes, and of the rules that it was stored by.

#[cfg(feature = "redis")]
mod redis;
pub mod value;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderName;

use super::entry::Entry;
use super::fates::Fates;
use super::invalid::Digest;
use super::key::Bytes;
use super::purge::{Fate, What};
use super::store::Store;
use super::under_way::UnderWay;
use crate::config::cache::Cache as Section;
use crate::config::{Issue, Issues, KeyPath};
use crate::keep::Keeper;
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;
use value::Stored;

/// Work that somebody waits for.
pub type Work<'w, T> = Pin<Box<dyn Future<Output = T> + 'w>>;

/// What is looked for.
pub struct Wanted<'w> {
    /// The rules that it was stored by.
    pub scope: &'w [u8; 32],
    /// The key.
    pub key: &'w [u8],
    /// What tells the request apart among variants that vary on these headers.
    pub variant: &'w dyn Fn(&[HeaderName]) -> Bytes,
}

/// What was found.
pub struct Found {
    /// It.
    pub stored: Stored,
    /// What purges made of it.
    pub fate: Fate,
}

/// As of when something was asked for, in the terms of what is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// Which life of the shared memory: what is from another one is not to be trusted.
    pub life: u128,
    /// The last purge that is known.
    pub purges: u64,
    /// The time, by its clock, in milliseconds. Rather too early.
    pub time: u64,
}

/// Whoever keeps it.
pub trait Second: Send + Sync {
    /// Looks for a response.
    fn get<'w>(&'w self, wanted: &'w Wanted<'w>, wheel: &'w Wheel) -> Work<'w, Option<Found>>;

    /// As of now, if that is known. To be asked for before a fetch begins.
    fn ground(&self, now: Instant) -> Option<Ground>;

    /// Keeps a response that was asked for as of `ground`.
    fn put<'w>(
        &'w self,
        scope: &'w [u8; 32],
        key: &'w [u8],
        entry: &'w Entry,
        ground: Ground,
        wheel: &'w Wheel,
    ) -> Work<'w, ()>;

    /// Tells all of a purge that was made here.
    fn purge(&self, what: What, is_soft: bool);

    /// Tells all that an unsafe request made what is of this target invalid; if nobody knows whether it did, stale.
    fn invalidate(&self, digest: Digest, is_soft: bool);

    /// Waits, for a moment, until all that was purged here is told. Whether it is.
    fn told(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// What operators see of it.
    fn shown(&self) -> serde_json::Value;
}

/// Whoever keeps what several armigers share, if the section `cache` names one.
pub fn second(
    section: &Section,
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<Arc<dyn Second>> {
    if section.refreshes_max == 0 {
        issues.push(
            Issue::new(path.key("refreshes_max"), "is 0, so what is stale would never be refreshed")
                .hint("the least is 1"),
        );
    }
    if section.redis.is_some() && section.redis_entry_max.get() == 0 {
        issues.push(
            Issue::new(path.key("redis_entry_max"), "is 0B, so nothing could be kept there")
                .hint("name a size such as `256KiB`, or leave `redis` out"),
        );
    }
    let fates = Fates::kept(keeper);
    UnderWay::kept(keeper);
    let settings = section.redis.as_ref()?;
    let path = path.key("redis");
    #[cfg(feature = "redis")]
    {
        let store = Store::kept(section.memory().get(), keeper);
        redis::compile(settings, section, &path, (store, fates), metrics, keeper, issues)
    }
    #[cfg(not(feature = "redis"))]
    {
        let _ = (settings, metrics, fates, Store::kept);
        issues.push(Issue::new(path, "this armiger was built without Redis").hint("leave it out"));
        None
    }
}
