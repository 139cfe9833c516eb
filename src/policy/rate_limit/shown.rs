//! A limit as operators see it: how many keys it has, which of them lack most, who is kept out.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::key::Key;
use super::config::{Limit, Where};
use super::counted::{Bucket, Counted};
use crate::limits::bucket::Rate;
use crate::limits::key::Label;
use crate::telemetry::record::Enforcement;

/// A limit for operators to find: attached to the snapshot.
pub struct Shown {
    pub(super) counted: Arc<Counted>,
    pub(super) key: Arc<Key>,
    pub(super) settings: Limit,
    pub(super) mode: Enforcement,
}

impl Shown {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.counted.name
    }

    /// What it is, without its keys.
    pub fn summary(&self) -> Value {
        let buckets: Vec<Value> = self
            .counted
            .all()
            .map(|(value, bucket)| {
                let mut row = json!({
                    "keys": bucket.store.len(),
                    "bytes": bucket.store.bytes(),
                    "burst": bucket.plan.rate().burst(),
                });
                if let Some(value) = value {
                    row["override"] = value.into();
                }
                row
            })
            .collect();
        json!({
            "name": self.name(),
            "mode": self.mode.as_str(),
            "by": self.settings.by,
            "rate": self.settings.rate,
            "store": if self.settings.store == Where::Redis { "redis" } else { "local" },
            "buckets": buckets,
        })
    }

    /// It, the `most` keys that lack most, and who is kept out. Looks at every key, so it takes its time.
    pub fn detail(&self, now: Instant, most: usize) -> Value {
        let mut told = self.summary();
        let mut hottest = Vec::new();
        let mut banned = Vec::new();
        for (value, bucket) in self.counted.all() {
            for (hash, rate, lacks) in bucket.store.hottest(&bucket.plan, now, most) {
                hottest.push((rate.micros(lacks), self.row(bucket, value, hash, Some((rate, lacks)), None, now)));
            }
            for (hash, _) in bucket.store.bans.all(bucket.store.micros(now)) {
                banned.push(self.row(bucket, value, hash, bucket.store.look(&bucket.plan, hash, now), None, now));
            }
        }
        hottest.sort_by_key(|(micros, _)| std::cmp::Reverse(*micros));
        told["hottest"] = hottest.into_iter().take(most).map(|(_, row)| row).collect();
        told["banned"] = banned.into_iter().take(most).collect();
        told
    }

    /// The buckets of one key, whose parts an operator wrote.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn look(&self, parts: &[String], now: Instant) -> Result<Value, String> {
        let rows = self.each(parts, |bucket, value, hash, label| {
            self.row(bucket, value, hash, bucket.store.look(&bucket.plan, hash, now), Some(label), now)
        })?;
        Ok(json!({"name": self.name(), "mode": self.mode.as_str(), "buckets": rows}))
    }

    /// Fills the buckets of one key, and lets it in again if it was kept out.
    ///
    /// # Errors
    /// What is wrong with its parts.
    pub fn reset(&self, parts: &[String]) -> Result<Value, String> {
        let rows = self.each(parts, |bucket, _, hash, label| {
            let (was_filled, was_lifted) = (bucket.store.reset(hash), bucket.store.bans.lift(hash));
            json!({"key": label, "was_full": !was_filled, "ban_lifted": was_lifted})
        })?;
        Ok(json!({"name": self.name(), "mode": self.mode.as_str(), "buckets": rows}))
    }

    fn each(
        &self,
        parts: &[String],
        mut row: impl FnMut(&Bucket, Option<&str>, u64, String) -> Value,
    ) -> Result<Vec<Value>, String> {
        let mut rows = Vec::new();
        for (value, bucket) in self.counted.all() {
            let (mut hasher, mut label) = (bucket.store.hasher(), Label::default());
            self.key.feed_texts(parts, &mut hasher)?;
            self.key.feed_texts(parts, &mut label)?;
            rows.push(row(bucket, value, hasher.finish(), label.into_text()));
        }
        Ok(rows)
    }

    fn row(
        &self,
        bucket: &Bucket,
        value: Option<&str>,
        hash: u64,
        level: Option<(Rate, u64)>,
        label: Option<String>,
        now: Instant,
    ) -> Value {
        let (rate, lacks) = level.unwrap_or((bucket.plan.rate(), 0));
        let mut row = json!({
            "key": label.or_else(|| bucket.store.names.get(hash)),
            "tokens": rate.level(lacks, 0),
            "burst": rate.burst(),
            "full_in_seconds": rate.micros(lacks) as f64 / 1e6,
        });
        if let Some(value) = value {
            row["override"] = value.into();
        }
        let micros = bucket.store.micros(now);
        if let Some(until) = bucket.store.bans.until(hash, micros) {
            row["banned_for_seconds"] = ((until - micros) as f64 / 1e6).into();
        }
        row
    }
}
