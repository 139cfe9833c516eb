//! What is counted about policies: verdicts, rules, credentials and keys, and what caches do.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus::{IntCounter, IntGauge};

use super::Metrics;
use super::family::{Family, Held, Series, SlugCounters};
use crate::telemetry::record::{Enforcement, VerdictWord};

impl Metrics {
    /// The handles of a policy on a route, for the mode it runs in.
    pub fn policy(&self, route: &str, policy: &str, mode: Enforcement) -> PolicyMetrics {
        let key = [route, policy, mode.as_str()];
        PolicyMetrics(self.0.policies.get(&key, || PolicySeries {
            key: key.map(str::to_owned),
            mode,
            family: self.0.families.verdicts.clone(),
            verdicts: [const { OnceLock::new() }; VerdictWord::ALL.len()],
        }))
    }

    /// The handles of `cors` on a route, for the mode it runs in.
    pub fn cors(&self, route: &str, mode: Enforcement) -> CorsMetrics {
        let key = [route, mode.as_str()];
        CorsMetrics(self.0.cors.get(&key, || CorsSeries {
            key: key.map(str::to_owned),
            family: self.0.families.cors.clone(),
            outcomes: [const { OnceLock::new() }; CorsWord::ALL.len()],
        }))
    }

    /// The handles of a rule on a route. Those of one name share them.
    pub fn rule(&self, route: &str, rule: &str) -> RuleMetrics {
        let key = [route, rule];
        RuleMetrics(self.0.rules.get(&key, || RuleSeries {
            key: key.map(str::to_owned),
            family: self.0.families.rules.clone(),
            decisions: [const { OnceLock::new() }; RuleWord::ALL.len()],
        }))
    }

    /// The handles of a provider of identities. Providers of one name share them.
    pub fn identity(&self, name: &str) -> IdentityMetrics {
        let families = &self.0.families;
        IdentityMetrics(self.0.providers.get(&[name], || IdentitySeries {
            name: name.to_owned(),
            family: families.credentials.clone(),
            known: families.credentials.series(&[name, "known"]),
            outcomes: SlugCounters::new(&families.credentials, &[name]),
            fetches: SlugCounters::new(&families.fetches, &[name]),
            fetches_family: families.fetches.clone(),
        }))
    }

    /// The handles of a provider whose keys are fetched.
    pub fn fetched_keys(&self, name: &str) -> KeysMetrics {
        let families = &self.0.families;
        KeysMetrics(self.0.key_sources.get(&[name], || KeysSeries {
            name: name.to_owned(),
            families: [&families.keys, &families.keys_stale, &families.keys_confirmed].map(Clone::clone),
            keys: families.keys.series(&[name]),
            stale: families.keys_stale.series(&[name]),
            confirmed: families.keys_confirmed.series(&[name]),
        }))
    }

    /// The handles of a route's cache.
    pub fn cache(&self, route: &str) -> CacheMetrics {
        let families = &self.0.families;
        CacheMetrics(
            self.0.caches.get(&[route], || CacheSeries {
                route: route.to_owned(),
                families: [families.cache_requests.clone(), families.cache_fills.clone()],
                results: CACHE_RESULTS.map(|word| families.cache_requests.series(&[route, word])),
                fills: SlugCounters::new(&families.cache_fills, &[route]),
            }),
            self.clone(),
        )
    }
}

/// What `cors` found of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorsWord {
    /// The page may.
    Allowed,
    /// No page of another site asks.
    NoOrigin,
    /// Pages of this origin may not.
    Origin,
    /// The origin's pages may, but not with the method that a preflight asks for.
    Method,
    /// Nor with one of its headers.
    Header,
}

impl CorsWord {
    const ALL: [&str; 5] = ["allowed", "no_origin", "origin_not_allowed", "method_not_allowed", "header_not_allowed"];

    /// Why a page gets no permission.
    pub fn cause(self) -> Option<&'static str> {
        (!matches!(self, Self::Allowed | Self::NoOrigin)).then(|| Self::ALL[self as usize])
    }
}

/// What is counted about `cors` on a route.
#[derive(Clone)]
pub struct CorsMetrics(Arc<Held<CorsSeries>>);

pub(super) struct CorsSeries {
    /// Route and mode.
    key: [String; 2],
    family: Family<IntCounter>,
    outcomes: [OnceLock<IntCounter>; CorsWord::ALL.len()],
}

impl CorsSeries {
    fn labels(&self) -> [&str; 2] {
        [&self.key[0], &self.key[1]]
    }
}

impl Series for CorsSeries {
    fn leave(&self) {
        self.family.remove(&self.labels());
    }
}

impl CorsMetrics {
    /// Counts a request.
    pub fn count(&self, word: CorsWord) {
        let series = &self.0.series;
        let outcome = word as usize;
        series.outcomes[outcome]
            .get_or_init(|| {
                let [route, mode] = series.labels();
                series.family.series(&[route, mode, CorsWord::ALL[outcome]])
            })
            .inc();
    }
}

/// What a rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleWord {
    /// The request passes.
    Allow,
    /// It does not.
    Deny,
    /// The rule could not be told.
    Fault,
}

impl RuleWord {
    const ALL: [&str; 3] = ["allow", "deny", "fault"];
}

/// What is counted about a rule on a route.
#[derive(Clone)]
pub struct RuleMetrics(Arc<Held<RuleSeries>>);

pub(super) struct RuleSeries {
    /// Route and rule.
    key: [String; 2],
    family: Family<IntCounter>,
    decisions: [OnceLock<IntCounter>; RuleWord::ALL.len()],
}

impl RuleSeries {
    fn labels(&self) -> [&str; 2] {
        [&self.key[0], &self.key[1]]
    }
}

impl Series for RuleSeries {
    fn leave(&self) {
        self.family.remove(&self.labels());
    }
}

impl RuleMetrics {
    /// Counts a decision.
    pub fn count(&self, word: RuleWord) {
        let series = &self.0.series;
        let decision = word as usize;
        series.decisions[decision]
            .get_or_init(|| {
                let [route, rule] = series.labels();
                series.family.series(&[route, rule, RuleWord::ALL[decision]])
            })
            .inc();
    }
}

/// What is counted about a policy on a route.
#[derive(Clone)]
pub struct PolicyMetrics(Arc<Held<PolicySeries>>);

pub(super) struct PolicySeries {
    /// Route, policy and mode.
    key: [String; 3],
    mode: Enforcement,
    family: Family<IntCounter>,
    verdicts: [OnceLock<IntCounter>; VerdictWord::ALL.len()],
}

impl PolicySeries {
    fn labels(&self) -> [&str; 3] {
        [&self.key[0], &self.key[1], &self.key[2]]
    }
}

impl Series for PolicySeries {
    fn leave(&self) {
        self.family.remove(&self.labels());
    }
}

impl fmt::Debug for PolicyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyMetrics").field(&self.0.series.key).finish()
    }
}

impl PolicyMetrics {
    /// Counts a verdict.
    pub fn count(&self, word: VerdictWord) {
        let series = &self.0.series;
        series.verdicts[word.index()]
            .get_or_init(|| {
                let [route, policy, mode] = series.labels();
                series.family.series(&[route, policy, mode, word.as_str(series.mode)])
            })
            .inc();
    }
}

/// What is counted about a provider of identities.
#[derive(Clone)]
pub struct IdentityMetrics(Arc<Held<IdentitySeries>>);

pub(super) struct IdentitySeries {
    name: String,
    family: Family<IntCounter>,
    known: IntCounter,
    outcomes: SlugCounters,
    fetches: SlugCounters,
    fetches_family: Family<IntCounter>,
}

impl Series for IdentitySeries {
    fn leave(&self) {
        self.family.remove(&[self.name.as_str()]);
        self.fetches_family.remove(&[self.name.as_str()]);
    }
}

/// What is counted about keys that are fetched.
#[derive(Clone)]
pub struct KeysMetrics(Arc<Held<KeysSeries>>);

pub(super) struct KeysSeries {
    name: String,
    families: [Family<IntGauge>; 3],
    keys: IntGauge,
    stale: IntGauge,
    confirmed: IntGauge,
}

impl Series for KeysSeries {
    fn leave(&self) {
        for family in &self.families {
            family.remove(&[self.name.as_str()]);
        }
    }
}

impl KeysMetrics {
    /// So many are in use.
    pub fn in_use(&self, keys: usize) {
        self.0.series.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    /// They were fetched, or found unchanged, at this time.
    pub fn confirmed(&self, seconds: i64) {
        self.0.series.confirmed.set(seconds);
        self.0.series.stale.set(0);
    }

    /// They cannot be fetched.
    pub fn stale(&self) {
        self.0.series.stale.set(1);
    }
}

impl fmt::Debug for IdentityMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdentityMetrics").field(&self.0.series.name).finish()
    }
}

impl IdentityMetrics {
    /// Counts a credential that was found good before.
    pub fn known(&self) {
        self.0.series.known.inc();
    }

    /// Counts that it was asked for keys or about a token, by what came of it.
    pub fn fetched(&self, outcome: &'static str) {
        self.0.series.fetches.add(outcome, 1);
    }

    /// Counts a credential that was judged, by what came of it.
    pub fn judged(&self, outcome: &'static str) {
        self.0.series.outcomes.add(outcome, 1);
    }
}

/// What is counted about a route's cache.
#[derive(Clone)]
pub struct CacheMetrics(Arc<Held<CacheSeries>>, Metrics);

/// What may come of a request.
pub(super) const CACHE_RESULTS: [&str; 5] = ["hit", "stale", "collapsed", "miss", "bypass"];

pub(super) struct CacheSeries {
    route: String,
    families: [Family<IntCounter>; 2],
    results: [IntCounter; CACHE_RESULTS.len()],
    fills: SlugCounters,
}

impl Series for CacheSeries {
    fn leave(&self) {
        self.families.iter().for_each(|family| family.remove(&[self.route.as_str()]));
    }
}

impl fmt::Debug for CacheMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheMetrics").field(&self.0.series.route).finish()
    }
}

impl CacheMetrics {
    /// Counts a request that was answered from what is stored, and fresh.
    pub fn hit(&self) {
        self.0.series.results[0].inc();
    }

    /// Counts a request that was answered from what is stored, and stale.
    pub fn stale(&self) {
        self.0.series.results[1].inc();
    }

    /// Counts a request that got what another one fetched.
    pub fn collapsed(&self) {
        self.0.series.results[2].inc();
    }

    /// Counts a request for which was fetched.
    pub fn missed(&self) {
        self.0.series.results[3].inc();
    }

    /// Counts a request that was passed on.
    pub fn bypassed(&self) {
        self.0.series.results[4].inc();
    }

    /// Counts a response that was fetched, by what came of it.
    pub fn filled(&self, outcome: &'static str) {
        self.0.series.fills.add(outcome, 1);
    }

    /// Counts that a bound was reached.
    pub fn limit_hit(&self, limit: &'static str) {
        self.1.limit_hit(limit);
    }

    /// What came of requests so far.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        CACHE_RESULTS.into_iter().zip(self.0.series.results.iter().map(IntCounter::get)).collect()
    }
}
