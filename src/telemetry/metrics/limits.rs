//! What is counted about limits: decisions, and the keys that are not at rest.

use std::fmt;
use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::family::{Catalogue, Family, Held, Series, SlugCounters};
use crate::telemetry::record::Enforcement;

/// The families.
pub(super) struct LimitFamilies {
    decisions: Family<IntCounter>,
    keys: Family<IntGauge>,
    store: Family<IntCounter>,
    store_up: Family<IntGauge>,
    cache_store: Family<IntCounter>,
    cache_store_up: Family<IntGauge>,
    cache_looks: Family<IntCounter>,
    cache_kept: Family<IntCounter>,
    cache_untold: Family<IntCounter>,
}

impl LimitFamilies {
    pub(super) fn register(catalogue: &mut Catalogue) -> Self {
        Self {
            decisions: Family::register(
                catalogue,
                "armiger_rate_limit_decisions_total",
                &["name", "mode", "outcome"],
                "requests",
                "What limits said, in requests; in shadow mode it changed nothing.",
            ),
            keys: Family::register(
                catalogue,
                "armiger_rate_limit_keys",
                &["name", "mode"],
                "keys",
                "Keys whose bucket is not full, or was not when it was last looked at, in keys; `keys_max` bounds them.",
            ),
            store: Family::register(
                catalogue,
                "armiger_rate_limit_store_requests_total",
                &["outcome"],
                "requests",
                "Round trips to the store that limits share, in requests; `unavailable` was not sent at all.",
            ),
            store_up: Family::register(
                catalogue,
                "armiger_rate_limit_store_up",
                &[],
                "",
                "1 if the store that limits share answers, 0 if limits do without it; absent where there is none.",
            ),
            cache_store: Family::register(
                catalogue,
                "armiger_cache_store_requests_total",
                &["outcome"],
                "requests",
                "Round trips to the store that caches share, in requests; `unavailable` was not sent at all.",
            ),
            cache_store_up: Family::register(
                catalogue,
                "armiger_cache_store_up",
                &[],
                "",
                "1 if the store that caches share answers, 0 if caches do without it; absent where there is none.",
            ),
            cache_looks: Family::register(
                catalogue,
                "armiger_cache_shared_lookups_total",
                &["outcome"],
                "requests",
                "Looks for an answer that another armiger has fetched, in requests: `hit`, `miss`, `dead` (purged or invalid), \
                 `behind` or `untold` (whether it was purged cannot be told yet), `foreign` (damaged, or nobody's), `unavailable`; \
                 `gap` for purges that may have been missed, `lost` for a Redis that forgot what it was \
                 told, and `away` where more was told while this was away than Redis keeps times of.",
            ),
            cache_kept: Family::register(
                catalogue,
                "armiger_cache_shared_stores_total",
                &["outcome"],
                "answers",
                "Answers that other armigers could use, in answers: `stored`, `short` (of too short a life), `too_long`, `unavailable`.",
            ),
            cache_untold: Family::register(
                catalogue,
                "armiger_cache_shared_untold_total",
                &[],
                "purges",
                "Purges, and URLs that unsafe requests made invalid, in purges, of which a Redis was not told when a reload left it: \
                 armigers that stay with it may not know of them.",
            ),
        }
    }
}

/// What is counted about a limit.
#[derive(Clone)]
pub struct LimitMetrics(Arc<Held<LimitSeries>>);

pub(super) struct LimitSeries {
    key: [String; 2],
    metrics: Metrics,
    decisions_family: Family<IntCounter>,
    keys_family: Family<IntGauge>,
    decisions: SlugCounters,
    keys: IntGauge,
}

impl Series for LimitSeries {
    fn leave(&self) {
        let key = [self.key[0].as_str(), self.key[1].as_str()];
        self.decisions_family.remove(&key);
        self.keys_family.remove(&key);
    }
}

impl Metrics {
    /// The handles of a limit, for the mode it runs in. Limits of one name share them.
    pub fn limit(&self, name: &str, mode: Enforcement) -> LimitMetrics {
        let families = &self.0.families.limits;
        let key = [name, mode.as_str()];
        LimitMetrics(self.0.rate_limits.get(&key, || LimitSeries {
            key: key.map(str::to_owned),
            metrics: self.clone(),
            decisions_family: families.decisions.clone(),
            keys_family: families.keys.clone(),
            decisions: SlugCounters::new(&families.decisions, &key),
            keys: families.keys.series(&key),
        }))
    }
}

impl fmt::Debug for LimitMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LimitMetrics").field(&self.0.series.key).finish()
    }
}

impl LimitMetrics {
    /// Counts what came of a request.
    pub fn decided(&self, outcome: &'static str) {
        self.0.series.decisions.add(outcome, 1);
    }

    /// So many keys more, or fewer.
    pub fn keys(&self, more: i64) {
        if more != 0 {
            self.0.series.keys.add(more);
        }
    }

    /// A bound of the limit was reached: its key in the configuration.
    pub fn bound_hit(&self, bound: &'static str) {
        self.0.series.metrics.limit_hit(bound);
    }
}

/// What is counted about a store that several armigers share.
#[derive(Clone)]
pub struct StoreMetrics {
    requests: Arc<SlugCounters>,
    up: IntGauge,
}

impl Metrics {
    /// The handles of the store that limits share.
    pub fn limit_store(&self) -> StoreMetrics {
        let families = &self.0.families.limits;
        let requests = Arc::new(SlugCounters::new(&families.store, &[]));
        StoreMetrics { requests, up: families.store_up.series(&[]) }
    }

    /// The handles of the second level of caches.
    pub fn cache_second(&self) -> SecondMetrics {
        let families = &self.0.families.limits;
        let counters = |family| Arc::new(SlugCounters::new(family, &[]));
        SecondMetrics {
            store: StoreMetrics { requests: counters(&families.cache_store), up: families.cache_store_up.series(&[]) },
            looks: counters(&families.cache_looks),
            kept: counters(&families.cache_kept),
            untold: families.cache_untold.series(&[]),
        }
    }
}

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

impl StoreMetrics {
    /// Counts a round trip.
    pub fn asked(&self, outcome: &'static str) {
        self.requests.add(outcome, 1);
    }

    /// Whether it answers.
    pub fn is_up(&self, is_up: bool) {
        self.up.set(is_up.into());
    }
}

/// What is counted about the second level of caches.
#[derive(Clone)]
pub struct SecondMetrics {
    /// Round trips.
    pub store: StoreMetrics,
    looks: Arc<SlugCounters>,
    kept: Arc<SlugCounters>,
    untold: IntCounter,
}

impl SecondMetrics {
    /// Counts what came of a look.
    pub fn came(&self, outcome: &'static str) {
        self.looks.add(outcome, 1);
    }

    /// Counts what a store was never told.
    pub fn untold(&self, count: usize) {
        self.untold.inc_by(count as u64);
    }

    /// Counts what came of an answer that was to be kept.
    pub fn kept(&self, outcome: &'static str) {
        self.kept.add(outcome, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_by_name_mode_and_outcome_and_leaves_with_its_last_handle() {
        let metrics = Metrics::new();
        let limit = metrics.limit("per-caller", Enforcement::Shadow);
        limit.decided("denied");
        limit.keys(3);
        limit.keys(-1);
        limit.bound_hit("rate_limit.keys_max");
        let page = metrics.render();
        for line in [
            r#"armiger_rate_limit_decisions_total{mode="shadow",name="per-caller",outcome="denied"} 1"#,
            r#"armiger_rate_limit_keys{mode="shadow",name="per-caller"} 2"#,
            r#"armiger_limit_hits_total{limit="rate_limit.keys_max"} 1"#,
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        drop(limit);
        assert!(!metrics.render().contains("per-caller"));
    }
}
