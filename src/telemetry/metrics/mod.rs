//! The metrics of armiger: every family, and the handles that the hot path counts with.
//!
//! All use of the `prometheus` crate stays in this folder. [`Metrics`] owns a registry of its own, so two armigers in one
//! process share nothing. Handles ([`RouteMetrics`], [`UpstreamMetrics`], ...) are resolved once, when a snapshot is
//! compiled; counting through them takes no name lookup and no lock.
//!
//! Handles of one name share their series: a new snapshot that has the same route goes on counting where the old one
//! is. When the last handle of a name is dropped, its series leave the exposition.
//!
//! Label values are names from the configuration and words from the code, never anything a client sends. Methods of gRPC
//! are named by the services that have them, and are bounded in number.

mod limits;
mod reference;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use prometheus::core::{Collector, Desc, Metric};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use crate::http::grpc;
use crate::telemetry::record::{Enforcement, VerdictWord};
use limits::{LimitFamilies, LimitSeries};

pub use limits::{LimitMetrics, SecondMetrics, StoreMetrics};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the duration histograms, in seconds: half a millisecond to half a minute.
const DURATION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The methods that are told apart; every other one counts as `other`, for a client can make up as many as it likes.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "other"];

/// The status classes, by the first digit; `none` where the exchange ended before a status was sent.
const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The most methods of gRPC that are told apart.
const GRPC_METHODS_MAX: usize = 256;

/// The most words told apart under one label of one series; the rest counts as `other`.
const SLUGS_MAX: usize = 48;

// === Families ===

/// A kind of value a family is made of.
trait Kind: Metric + Clone + 'static {
    const TYPE: MetricType;
    fn make(opts: Opts) -> prometheus::Result<Self>;
}

impl Kind for IntCounter {
    const TYPE: MetricType = MetricType::COUNTER;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        IntCounter::with_opts(opts)
    }
}

impl Kind for Counter {
    const TYPE: MetricType = MetricType::COUNTER;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        Counter::with_opts(opts)
    }
}

impl Kind for IntGauge {
    const TYPE: MetricType = MetricType::GAUGE;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        IntGauge::with_opts(opts)
    }
}

impl Kind for Gauge {
    const TYPE: MetricType = MetricType::GAUGE;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        Gauge::with_opts(opts)
    }
}

impl Kind for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;
    fn make(opts: Opts) -> prometheus::Result<Self> {
        Histogram::with_opts(HistogramOpts { common_opts: opts, buckets: DURATION_BUCKETS.to_vec() })
    }
}

/// What is registered, and what the reference tells of it.
#[derive(Default)]
struct Catalogue {
    registry: Registry,
    entries: Vec<Entry>,
}

/// What is known of a family.
struct Entry {
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    /// Empty where there is none.
    unit: &'static str,
    help: &'static str,
}

/// All series of one name, found by their label values.
///
/// In place of the crate's own vectors, which find a series by a hash over its label values run together: the values
/// `a`, `bc` and `ab`, `c` would be one series there, and names from a configuration are free to be like that.
struct Family<K: Kind>(Arc<FamilyInner<K>>);

struct FamilyInner<K> {
    desc: Desc,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<Vec<String>, K>>,
}

impl<K: Kind> Clone for Family<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Kind> Family<K> {
    fn register(
        catalogue: &mut Catalogue,
        name: &'static str,
        labels: &'static [&'static str],
        unit: &'static str,
        help: &'static str,
    ) -> Self {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())
            .expect("family and label names are valid literals");
        let family = Self(Arc::new(FamilyInner { desc, labels, series: Mutex::new(BTreeMap::new()) }));
        catalogue.registry.register(Box::new(family.clone())).expect("each family is registered once");
        catalogue.entries.push(Entry { name, kind: K::TYPE, labels, unit, help });
        family
    }

    /// The series with these label values, made if need be.
    fn series(&self, values: &[&str]) -> K {
        debug_assert_eq!(values.len(), self.0.labels.len());
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut series = lock(&self.0.series);
        series
            .entry(key)
            .or_insert_with_key(|key| {
                let labels = self.0.labels.iter().map(|label| (*label).to_owned()).zip(key.iter().cloned()).collect();
                K::make(Opts::new(self.0.desc.fq_name.clone(), self.0.desc.help.clone()).const_labels(labels))
                    .expect("label names are valid literals and any label value is")
            })
            .clone()
    }

    /// Makes this series the only one.
    fn only(&self, values: &[&str]) -> K {
        // Made first: a scrape in between sees one too many rather than none.
        let new = self.series(values);
        lock(&self.0.series).retain(|key, _| key.iter().map(String::as_str).eq(values.iter().copied()));
        new
    }

    /// Takes every series whose first label values are `prefix` out of the exposition.
    fn remove(&self, prefix: &[&str]) {
        let from: Vec<String> = prefix.iter().map(|value| (*value).to_owned()).collect();
        let mut series = lock(&self.0.series);
        // Keys are in order, so these stand together: a walk over all of them would make dropping a snapshot quadratic.
        let gone: Vec<Vec<String>> = series
            .range(from.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&from))
            .cloned()
            .collect();
        for key in &gone {
            series.remove(key);
        }
    }
}

impl<K: Kind> Collector for Family<K> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(K::TYPE);
        family.set_metric(lock(&self.0.series).values().map(Metric::metric).collect());
        vec![family]
    }
}

/// Counters of one family that differ in their last label, whose values are words of the code.
///
/// The list only ever grows, entry by entry, so reading takes no lock; its length bounds the number of series.
struct SlugCounters {
    family: Family<IntCounter>,
    prefix: Vec<String>,
    known: [OnceLock<(&'static str, IntCounter)>; SLUGS_MAX],
}

impl SlugCounters {
    fn new(family: &Family<IntCounter>, prefix: &[&str]) -> Self {
        Self {
            family: family.clone(),
            prefix: prefix.iter().map(|value| (*value).to_owned()).collect(),
            known: [const { OnceLock::new() }; SLUGS_MAX],
        }
    }

    fn add(&self, slug: &'static str, count: u64) {
        let (last, words) = self.known.split_last().expect("the list has room for a word");
        for cell in words {
            let (word, counter) = cell.get_or_init(|| self.make(slug));
            if *word == slug {
                return counter.inc_by(count);
            }
        }
        last.get_or_init(|| self.make("other")).1.inc_by(count);
    }

    fn make(&self, slug: &'static str) -> (&'static str, IntCounter) {
        let mut values: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        values.push(slug);
        (slug, self.family.series(&values))
    }
}

/// Every family there is.
struct Families {
    requests: Family<IntCounter>,
    request_duration: Family<Histogram>,
    requests_in_flight: Family<IntGauge>,
    request_bytes: Family<IntCounter>,
    response_bytes: Family<IntCounter>,
    grpc_calls: Family<IntCounter>,
    grpc_methods: Family<IntCounter>,
    mirrored: Family<IntCounter>,
    rejections: Family<IntCounter>,
    fallbacks: Family<IntCounter>,
    verdicts: Family<IntCounter>,
    rules: Family<IntCounter>,
    upstream_requests: Family<IntCounter>,
    upstream_duration: Family<Histogram>,
    upstream_connections: Family<IntGauge>,
    upstream_opened: Family<IntCounter>,
    upstream_reused: Family<IntCounter>,
    upstream_retries: Family<IntCounter>,
    upstream_retry_budget: Family<IntCounter>,
    endpoint_ejections: Family<IntCounter>,
    endpoint_healthy: Family<IntGauge>,
    upstream_queue_length: Family<IntGauge>,
    upstream_queue_wait: Family<Histogram>,
    upstream_queue_timeouts: Family<IntCounter>,
    upstream_shed: Family<IntCounter>,
    upstream_hedges: Family<IntCounter>,
    upstream_line: Family<IntGauge>,
    upstream_bears: Family<IntGauge>,
    dns_lookups: Family<IntCounter>,
    dns_endpoints: Family<IntGauge>,
    breaker_state: Family<IntGauge>,
    breaker_changes: Family<IntCounter>,
    breaker_refusals: Family<IntCounter>,
    breaker_ratio: Family<Gauge>,
    parts: Family<IntCounter>,
    part_duration: Family<Histogram>,
    sagas: Family<IntCounter>,
    saga_steps: Family<IntCounter>,
    saga_compensations: Family<IntCounter>,
    credentials: Family<IntCounter>,
    fetches: Family<IntCounter>,
    keys: Family<IntGauge>,
    keys_stale: Family<IntGauge>,
    keys_confirmed: Family<IntGauge>,
    cache_requests: Family<IntCounter>,
    cache_fills: Family<IntCounter>,
    listener_connections: Family<IntGauge>,
    listener_accepted: Family<IntCounter>,
    handshakes: Family<IntCounter>,
    proxy_headers: Family<IntCounter>,
    certificate_ends: Family<IntGauge>,
    worker_connections: Family<IntGauge>,
    worker_accepted: Family<IntCounter>,
    limits: LimitFamilies,
}

impl Families {
    fn register(catalogue: &mut Catalogue) -> Self {
        Self {
            requests: Family::register(
                catalogue,
                "armiger_http_requests_total",
                &["route", "method", "status_class"],
                "requests",
                "Exchanges that ended, in requests, by the class of the status sent; `none` if no status was sent.",
            ),
            request_duration: Family::register(
                catalogue,
                "armiger_http_request_duration_seconds",
                &["route"],
                "seconds",
                "Time from the request head to the end of the answer, in seconds.",
            ),
            requests_in_flight: Family::register(
                catalogue,
                "armiger_http_requests_in_flight",
                &["route"],
                "requests",
                "Exchanges that are in flight now, in requests.",
            ),
            request_bytes: Family::register(
                catalogue,
                "armiger_http_request_bytes_total",
                &["route"],
                "bytes",
                "Request body received from clients, in bytes, heads and framing left out.",
            ),
            response_bytes: Family::register(
                catalogue,
                "armiger_http_response_bytes_total",
                &["route"],
                "bytes",
                "Response body sent to clients, in bytes, heads and framing left out.",
            ),
            grpc_calls: Family::register(
                catalogue,
                "armiger_grpc_calls_total",
                &["route", "status"],
                "calls",
                "gRPC calls that ended, in calls, by the name of their status; `none` if they ended without one.",
            ),
            grpc_methods: Family::register(
                catalogue,
                "armiger_grpc_method_calls_total",
                &["service", "method", "status"],
                "calls",
                "gRPC calls that ended, in calls, by method and the name of their status. A method has a series once a \
                 service has shown that it has it; of others, and beyond 256, both names are `other`.",
            ),
            mirrored: Family::register(
                catalogue,
                "armiger_mirrored_requests_total",
                &["route", "outcome"],
                "requests",
                "Copies of requests for `mirror`, in requests: `answered`, `failed` and `timeout` were sent, `dropped_busy` \
                 and `dropped_body` were not.",
            ),
            rejections: Family::register(
                catalogue,
                "armiger_rejections_total",
                &["route", "reason"],
                "requests",
                "Requests that armiger itself refused or failed, in requests, by the slug of the reason.",
            ),
            fallbacks: Family::register(
                catalogue,
                "armiger_fallbacks_total",
                &["route", "rung"],
                "answers",
                "Answers that stood in for an upstream that failed, in answers; stale ones of a cache are its own.",
            ),
            verdicts: Family::register(
                catalogue,
                "armiger_policy_verdicts_total",
                &["route", "policy", "mode", "verdict"],
                "verdicts",
                "What policies said, in verdicts; `would_` words come from shadow mode and changed nothing.",
            ),
            rules: Family::register(
                catalogue,
                "armiger_rule_decisions_total",
                &["route", "rule", "decision"],
                "requests",
                "Requests that a rule of the policy `rules` decided, in requests: `allow`, `deny`, or `fault` where it \
                 could not be told.",
            ),
            parts: Family::register(
                catalogue,
                "armiger_aggregate_parts_total",
                &["route", "part", "outcome"],
                "parts",
                "Parts of aggregated answers, in parts, by what came of them; one with a fallback may count twice.",
            ),
            part_duration: Family::register(
                catalogue,
                "armiger_aggregate_part_duration_seconds",
                &["route", "part"],
                "seconds",
                "Time from the begin of a part of an aggregated answer to its end, in seconds.",
            ),
            sagas: Family::register(
                catalogue,
                "armiger_sagas_total",
                &["route", "outcome"],
                "sagas",
                "Sagas that are over, in sagas: `completed`, `compensated`, `compensation_failed` (somebody must look at it), or \
                 `cut` in the midst.",
            ),
            saga_steps: Family::register(
                catalogue,
                "armiger_saga_steps_total",
                &["route", "step", "outcome"],
                "steps",
                "Steps of sagas, in steps: `done`, `failed` without having changed anything, or `uncertain`.",
            ),
            saga_compensations: Family::register(
                catalogue,
                "armiger_saga_compensations_total",
                &["route", "step", "outcome"],
                "steps",
                "Steps of sagas to be undone, in steps: `done`, or `failed` after all tries.",
            ),
            upstream_requests: Family::register(
                catalogue,
                "armiger_upstream_requests_total",
                &["upstream", "outcome"],
                "attempts",
                "Attempts at an upstream, in attempts, by what came of them; one exchange may make several.",
            ),
            upstream_duration: Family::register(
                catalogue,
                "armiger_upstream_request_duration_seconds",
                &["upstream"],
                "seconds",
                "Time from sending a request to the head of the upstream's response, in seconds, per attempt.",
            ),
            upstream_connections: Family::register(
                catalogue,
                "armiger_upstream_connections",
                &["upstream", "state"],
                "connections",
                "Open connections to the upstream, in connections: `active` carries an exchange, `idle` waits.",
            ),
            upstream_opened: Family::register(
                catalogue,
                "armiger_upstream_connections_opened_total",
                &["upstream"],
                "connections",
                "Connections opened to the upstream, in connections.",
            ),
            upstream_reused: Family::register(
                catalogue,
                "armiger_upstream_connections_reused_total",
                &["upstream"],
                "attempts",
                "Attempts that went out on a connection that had served before, in attempts.",
            ),
            upstream_retries: Family::register(
                catalogue,
                "armiger_upstream_retries_total",
                &["upstream", "class"],
                "attempts",
                "Attempts repeated, in attempts: `unsent` never left armiger, `reused_no_byte` died unanswered on a \
                 reused connection, `policy` is the upstream's `retry`.",
            ),
            upstream_retry_budget: Family::register(
                catalogue,
                "armiger_upstream_retry_budget_spent_total",
                &["upstream"],
                "attempts",
                "Attempts that were not repeated since the budget for retries was spent, in attempts.",
            ),
            endpoint_ejections: Family::register(
                catalogue,
                "armiger_endpoint_ejections_total",
                &["upstream", "endpoint"],
                "ejections",
                "Times that an endpoint was taken out after failures in a row, in ejections.",
            ),
            endpoint_healthy: Family::register(
                catalogue,
                "armiger_endpoint_healthy",
                &["upstream", "endpoint"],
                "",
                "What health checks find of an endpoint: 1 well, 0 ill; 1 where none is made.",
            ),
            upstream_queue_length: Family::register(
                catalogue,
                "armiger_upstream_queue_length",
                &["upstream"],
                "requests",
                "Exchanges that wait for a connection of the upstream now, in requests.",
            ),
            upstream_queue_wait: Family::register(
                catalogue,
                "armiger_upstream_queue_wait_seconds",
                &["upstream"],
                "seconds",
                "Time exchanges waited for a connection of the upstream, in seconds; those that did not wait left out.",
            ),
            upstream_queue_timeouts: Family::register(
                catalogue,
                "armiger_upstream_queue_timeouts_total",
                &["upstream"],
                "requests",
                "Exchanges that waited for a connection of the upstream in vain, in requests.",
            ),
            upstream_shed: Family::register(
                catalogue,
                "armiger_upstream_shed_total",
                &["upstream", "class"],
                "requests",
                "Requests that an upstream was not given since it had too much to do, in requests, by their route's class.",
            ),
            upstream_hedges: Family::register(
                catalogue,
                "armiger_upstream_hedges_total",
                &["upstream", "race"],
                "attempts",
                "Second endpoints that were asked since the first took long, in attempts.",
            ),
            upstream_line: Family::register(
                catalogue,
                "armiger_upstream_waiting",
                &["upstream"],
                "requests",
                "Requests that wait until one in flight at the upstream is over, in requests.",
            ),
            upstream_bears: Family::register(
                catalogue,
                "armiger_upstream_in_flight_bound",
                &["upstream"],
                "requests",
                "What an upstream with `limits.adaptive` is thought to bear at once, in requests.",
            ),
            dns_lookups: Family::register(
                catalogue,
                "armiger_dns_lookups_total",
                &["upstream", "result"],
                "lookups",
                "Times that a name of `dns:` endpoints was asked for, in lookups.",
            ),
            dns_endpoints: Family::register(
                catalogue,
                "armiger_dns_endpoints",
                &["upstream"],
                "endpoints",
                "Endpoints that an upstream with `dns:` endpoints has now, in endpoints.",
            ),
            breaker_state: Family::register(
                catalogue,
                "armiger_breaker_state",
                &["upstream", "endpoint", "route"],
                "",
                "What a breaker is: 0 closed, 1 half-open, 2 open; `endpoint` and `route` are empty but for one of these.",
            ),
            breaker_changes: Family::register(
                catalogue,
                "armiger_breaker_transitions_total",
                &["upstream", "endpoint", "route", "from", "to", "cause"],
                "transitions",
                "Changes of a breaker's state, in transitions, by what it was, what it became, and why.",
            ),
            breaker_refusals: Family::register(
                catalogue,
                "armiger_breaker_refusals_total",
                &["upstream", "endpoint", "route", "reason"],
                "attempts",
                "Attempts that a breaker let not out, in attempts: `open`, or `probing` while all its probes were out.",
            ),
            breaker_ratio: Family::register(
                catalogue,
                "armiger_breaker_failure_ratio",
                &["upstream", "endpoint", "route"],
                "",
                "The share of failures among the calls in a breaker's window, from 0 to 1.",
            ),
            credentials: Family::register(
                catalogue,
                "armiger_identity_credentials_total",
                &["provider", "outcome"],
                "credentials",
                "Credentials that a provider judged, in credentials: `verified`, `known` from before, or why it was \
                 refused.",
            ),
            fetches: Family::register(
                catalogue,
                "armiger_identity_fetches_total",
                &["provider", "outcome"],
                "fetches",
                "Times a provider was asked for its keys or about a token, in fetches: `ok`, `unchanged`, or what went wrong.",
            ),
            keys: Family::register(
                catalogue,
                "armiger_identity_keys",
                &["provider"],
                "keys",
                "Keys from a URL that are in use, in keys. 0: requests are answered with 503.",
            ),
            keys_stale: Family::register(
                catalogue,
                "armiger_identity_keys_stale",
                &["provider"],
                "",
                "1 while the keys of a provider cannot be fetched, and those known serve on, else 0.",
            ),
            keys_confirmed: Family::register(
                catalogue,
                "armiger_identity_keys_confirmed_timestamp_seconds",
                &["provider"],
                "seconds",
                "When the keys of a provider were last fetched or found unchanged, in seconds since 1970. Their age is \
                 `time()` less this.",
            ),
            cache_requests: Family::register(
                catalogue,
                "armiger_cache_requests_total",
                &["route", "result"],
                "requests",
                "Requests that met a cache, in requests: `hit`, `stale`, `collapsed` into another's fetch, `miss`, or \
                 `bypass`.",
            ),
            cache_fills: Family::register(
                catalogue,
                "armiger_cache_fills_total",
                &["route", "outcome"],
                "responses",
                "Responses fetched for a cache, in responses: `stored`, `revalidated`, or why they were not stored.",
            ),
            listener_connections: Family::register(
                catalogue,
                "armiger_listener_connections",
                &["listener"],
                "connections",
                "Client connections open now, in connections.",
            ),
            listener_accepted: Family::register(
                catalogue,
                "armiger_listener_connections_accepted_total",
                &["listener"],
                "connections",
                "Client connections accepted, in connections.",
            ),
            handshakes: Family::register(
                catalogue,
                "armiger_tls_handshakes_total",
                &["listener", "outcome"],
                "handshakes",
                "TLS handshakes with clients that ended, in handshakes: `full`, `resumed`, `failed`, `timeout`.",
            ),
            proxy_headers: Family::register(
                catalogue,
                "armiger_proxy_headers_total",
                &["listener", "outcome"],
                "connections",
                "Connections of listeners with `proxy_protocol`, in connections: `v1`, `v2` and `local` were served, \
                 `untrusted`, `absent`, `malformed`, `too_long`, `timeout` and `cut` were closed.",
            ),
            certificate_ends: Family::register(
                catalogue,
                "armiger_tls_certificate_not_after_timestamp_seconds",
                &["listener", "certificate"],
                "seconds",
                "When a certificate that clients are shown ends, in seconds since 1970, by the first name in it.",
            ),
            worker_connections: Family::register(
                catalogue,
                "armiger_worker_connections",
                &["worker"],
                "connections",
                "Client connections a worker serves now, in connections; shows uneven workers.",
            ),
            worker_accepted: Family::register(
                catalogue,
                "armiger_worker_connections_accepted_total",
                &["worker"],
                "connections",
                "Client connections handed to a worker, in connections.",
            ),
            limits: LimitFamilies::register(catalogue),
        }
    }
}

// === Shared series ===

/// What a handle counts with, under one name.
trait Series {
    /// Takes the name's series out of the exposition.
    fn leave(&self);
}

type Key = Vec<String>;

/// The live series of one sort by their names.
struct Shelf<S: Series>(Arc<Mutex<HashMap<Key, Weak<Held<S>>>>>);

/// Series that leave when the last handle to them is dropped.
struct Held<S: Series> {
    series: S,
    key: Key,
    shelf: Shelf<S>,
}

impl<S: Series> Shelf<S> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn get(&self, key: &[&str], make: impl FnOnce() -> S) -> Arc<Held<S>> {
        let key: Key = key.iter().map(|part| (*part).to_owned()).collect();
        let mut shelf = lock(&self.0);
        if let Some(held) = shelf.get(&key).and_then(Weak::upgrade) {
            return held;
        }
        let held = Arc::new(Held { series: make(), key: key.clone(), shelf: Self(Arc::clone(&self.0)) });
        shelf.insert(key, Arc::downgrade(&held));
        held
    }
}

impl<S: Series> Drop for Held<S> {
    fn drop(&mut self) {
        let mut shelf = lock(&self.shelf.0);
        // Between the last handle's end and this lock the name may have been taken up again; its series then belong
        // to the successor, which found them still registered.
        if shelf.get(&self.key).is_some_and(|current| std::ptr::eq(current.as_ptr(), self)) {
            shelf.remove(&self.key);
            self.series.leave();
        }
    }
}

/// Nothing that panics runs under these locks, and a half-made count would be no reason to fail an exchange.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === Metrics ===

/// All metrics of one armiger. Cloning gives another handle to the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<MetricsInner>);

struct MetricsInner {
    catalogue: Catalogue,
    families: Families,
    routes: Shelf<RouteSeries>,
    upstreams: Shelf<UpstreamSeries>,
    endpoints: Shelf<EndpointSeries>,
    breakers: Shelf<BreakerSeries>,
    providers: Shelf<IdentitySeries>,
    key_sources: Shelf<KeysSeries>,
    caches: Shelf<CacheSeries>,
    listeners: Shelf<ListenerSeries>,
    policies: Shelf<PolicySeries>,
    rules: Shelf<RuleSeries>,
    rate_limits: Shelf<LimitSeries>,
    parts: Shelf<PartSeries>,
    sagas: Shelf<SagaSeries>,
    saga_steps: Shelf<SagaStepSeries>,
    limits: SlugCounters,
    reloads: SlugCounters,
    grpc_methods: Mutex<HashMap<Box<str>, MethodMetrics>>,
    access_log_dropped: IntCounter,
    reload_successful: IntGauge,
    reload_timestamp: Gauge,
    reload_duration: Histogram,
    config_info: Family<IntGauge>,
    generations: IntGauge,
    watch_errors: IntCounter,
    draining: IntGauge,
    exchanges_cut: IntCounter,
    memory_limit: Family<IntGauge>,
    process: Option<ProcessMetrics>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every family in a registry of its own.
    pub fn new() -> Self {
        let mut catalogue = Catalogue::default();
        let limits = Family::register(
            &mut catalogue,
            "armiger_limit_hits_total",
            &["limit"],
            "hits",
            "How often a bound was reached, in hits, by the bound's key in the configuration.",
        );
        let reloads = Family::register(
            &mut catalogue,
            "armiger_config_reloads_total",
            &["result"],
            "reloads",
            "Reloads of the configuration, in reloads, by what came of them.",
        );
        Family::<IntGauge>::register(
            &mut catalogue,
            "armiger_build_info",
            &["version"],
            "",
            "Always 1; the label says which version runs.",
        )
        .series(&[env!("CARGO_PKG_VERSION")])
        .set(1);
        let metrics = MetricsInner {
            families: Families::register(&mut catalogue),
            routes: Shelf::new(),
            upstreams: Shelf::new(),
            endpoints: Shelf::new(),
            breakers: Shelf::new(),
            providers: Shelf::new(),
            key_sources: Shelf::new(),
            caches: Shelf::new(),
            listeners: Shelf::new(),
            policies: Shelf::new(),
            rules: Shelf::new(),
            rate_limits: Shelf::new(),
            parts: Shelf::new(),
            sagas: Shelf::new(),
            saga_steps: Shelf::new(),
            limits: SlugCounters::new(&limits, &[]),
            reloads: SlugCounters::new(&reloads, &[]),
            grpc_methods: Mutex::default(),
            access_log_dropped: single(
                &mut catalogue,
                "armiger_access_log_dropped_total",
                "lines",
                "Access-log lines lost because the destination was slow or failed, in lines.",
            ),
            reload_successful: single(
                &mut catalogue,
                "armiger_config_last_reload_successful",
                "",
                "1 if the last load of the configuration was applied, 0 if it was refused and the old one stays.",
            ),
            reload_timestamp: single(
                &mut catalogue,
                "armiger_config_last_reload_success_timestamp_seconds",
                "seconds",
                "When a configuration was last applied, in seconds since the Unix epoch.",
            ),
            reload_duration: single(
                &mut catalogue,
                "armiger_config_reload_duration_seconds",
                "seconds",
                "Time from the begin of a reload until it was applied or refused, in seconds.",
            ),
            config_info: Family::register(
                &mut catalogue,
                "armiger_config_info",
                &["version", "hash"],
                "",
                "Always 1; the labels say which configuration is in force.",
            ),
            generations: single(
                &mut catalogue,
                "armiger_config_generations",
                "configurations",
                "Configurations in memory, in configurations: the one in force and old ones that exchanges still use.",
            ),
            watch_errors: single(
                &mut catalogue,
                "armiger_config_watch_errors_total",
                "failures",
                "Failures to watch or read the files of the configuration, in failures.",
            ),
            draining: single(&mut catalogue, "armiger_draining", "", "1 once armiger has begun to end, 0 before."),
            exchanges_cut: single(
                &mut catalogue,
                "armiger_exchanges_cut_total",
                "requests",
                "Exchanges cut because they were still in flight when the drain had to end, in requests.",
            ),
            memory_limit: Family::register(
                &mut catalogue,
                "armiger_memory_limit_bytes",
                &[],
                "bytes",
                "The memory that armiger may use, in bytes: the limit of its control group; absent where there is none.",
            ),
            process: ProcessMetrics::register(&mut catalogue),
            catalogue,
        };
        Self(Arc::new(metrics))
    }

    /// The handles of a route. Routes of one name share them.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let families = &self.0.families;
        RouteMetrics(self.0.routes.get(&[name], || RouteSeries {
            name: name.to_owned(),
            requests: [const { [const { OnceLock::new() }; STATUS_CLASSES.len()] }; METHODS.len()],
            requests_family: families.requests.clone(),
            duration_family: families.request_duration.clone(),
            in_flight_family: families.requests_in_flight.clone(),
            request_bytes_family: families.request_bytes.clone(),
            response_bytes_family: families.response_bytes.clone(),
            duration: families.request_duration.series(&[name]),
            in_flight: families.requests_in_flight.series(&[name]),
            request_bytes: families.request_bytes.series(&[name]),
            response_bytes: families.response_bytes.series(&[name]),
            rejections: SlugCounters::new(&families.rejections, &[name]),
            fallbacks: SlugCounters::new(&families.fallbacks, &[name]),
            calls: SlugCounters::new(&families.grpc_calls, &[name]),
            mirrored_family: families.mirrored.clone(),
            mirrored: SlugCounters::new(&families.mirrored, &[name]),
        }))
    }

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

    /// The handles of a rule on a route. Those of one name share them.
    pub fn rule(&self, route: &str, rule: &str) -> RuleMetrics {
        let key = [route, rule];
        RuleMetrics(self.0.rules.get(&key, || RuleSeries {
            key: key.map(str::to_owned),
            family: self.0.families.rules.clone(),
            decisions: [const { OnceLock::new() }; RuleWord::ALL.len()],
        }))
    }

    /// The handles of a part of a route's answer.
    pub fn part(&self, route: &str, part: &str) -> PartMetrics {
        let families = &self.0.families;
        let key = [route, part];
        PartMetrics(self.0.parts.get(&key, || PartSeries {
            key: key.map(str::to_owned),
            outcomes_family: families.parts.clone(),
            duration_family: families.part_duration.clone(),
            outcomes: SlugCounters::new(&families.parts, &key),
            duration: families.part_duration.series(&key),
        }))
    }

    /// The handle of a route's sagas.
    pub fn saga(&self, route: &str) -> SagaMetrics {
        let family = &self.0.families.sagas;
        SagaMetrics(self.0.sagas.get(&[route], || SagaSeries {
            route: route.to_owned(),
            family: family.clone(),
            outcomes: SlugCounters::new(family, &[route]),
        }))
    }

    /// The handles of a step of a route's sagas.
    pub fn saga_step(&self, route: &str, step: &str) -> SagaStepMetrics {
        let families = &self.0.families;
        let key = [route, step];
        SagaStepMetrics(self.0.saga_steps.get(&key, || SagaStepSeries {
            key: key.map(str::to_owned),
            families: [families.saga_steps.clone(), families.saga_compensations.clone()],
            steps: SlugCounters::new(&families.saga_steps, &key),
            compensations: SlugCounters::new(&families.saga_compensations, &key),
        }))
    }

    /// The handles of an upstream. Upstreams of one name share them.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        let families = &self.0.families;
        UpstreamMetrics(self.0.upstreams.get(&[name], || UpstreamSeries {
            name: name.to_owned(),
            counters: vec![
                families.upstream_requests.clone(),
                families.upstream_opened.clone(),
                families.upstream_reused.clone(),
                families.upstream_retries.clone(),
                families.upstream_retry_budget.clone(),
                families.upstream_queue_timeouts.clone(),
                families.dns_lookups.clone(),
                families.upstream_shed.clone(),
                families.upstream_hedges.clone(),
            ],
            gauges: vec![
                families.upstream_connections.clone(),
                families.upstream_queue_length.clone(),
                families.dns_endpoints.clone(),
                families.upstream_line.clone(),
                families.upstream_bears.clone(),
            ],
            histograms: vec![families.upstream_duration.clone(), families.upstream_queue_wait.clone()],
            outcomes: SlugCounters::new(&families.upstream_requests, &[name]),
            duration: families.upstream_duration.series(&[name]),
            active: families.upstream_connections.series(&[name, "active"]),
            idle: families.upstream_connections.series(&[name, "idle"]),
            opened: families.upstream_opened.series(&[name]),
            reused: families.upstream_reused.series(&[name]),
            retries: SlugCounters::new(&families.upstream_retries, &[name]),
            retry_budget: families.upstream_retry_budget.series(&[name]),
            queued: families.upstream_queue_length.series(&[name]),
            queue_wait: families.upstream_queue_wait.series(&[name]),
            queue_timeouts: families.upstream_queue_timeouts.series(&[name]),
            shed: SlugCounters::new(&families.upstream_shed, &[name]),
            hedges: SlugCounters::new(&families.upstream_hedges, &[name]),
            line: families.upstream_line.series(&[name]),
            bears: families.upstream_bears.clone(),
            endpoints: families.dns_endpoints.clone(),
            lookups: SlugCounters::new(&families.dns_lookups, &[name]),
        }))
    }

    /// The handles of an endpoint.
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        let families = &self.0.families;
        let names = [upstream, endpoint];
        EndpointMetrics(self.0.endpoints.get(&names, || {
            let healthy = families.endpoint_healthy.series(&names);
            healthy.set(1);
            EndpointSeries {
                names: names.map(str::to_owned),
                ejections_family: families.endpoint_ejections.clone(),
                healthy_family: families.endpoint_healthy.clone(),
                ejections: families.endpoint_ejections.series(&names),
                healthy,
            }
        }))
    }

    /// The handles of a breaker: of an endpoint, of a route or, where both are empty, of a whole upstream.
    pub fn breaker(&self, upstream: &str, endpoint: &str, route: &str) -> BreakerMetrics {
        let families = &self.0.families;
        let names = [upstream, endpoint, route];
        BreakerMetrics(self.0.breakers.get(&names, || BreakerSeries {
            names: names.map(str::to_owned),
            changes: families.breaker_changes.clone(),
            counters: vec![families.breaker_changes.clone(), families.breaker_refusals.clone()],
            states: families.breaker_state.clone(),
            ratios: families.breaker_ratio.clone(),
            state: families.breaker_state.series(&names),
            refusals: SlugCounters::new(&families.breaker_refusals, &names),
            ratio: families.breaker_ratio.series(&names),
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

    /// The handles of a listener. Listeners of one name share them.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let families = &self.0.families;
        ListenerMetrics(self.0.listeners.get(&[name], || ListenerSeries {
            name: name.to_owned(),
            connections_family: families.listener_connections.clone(),
            accepted_family: families.listener_accepted.clone(),
            connections: families.listener_connections.series(&[name]),
            accepted: families.listener_accepted.series(&[name]),
            handshakes_family: families.handshakes.clone(),
            handshakes: SlugCounters::new(&families.handshakes, &[name]),
            proxy_headers_family: families.proxy_headers.clone(),
            proxy_headers: SlugCounters::new(&families.proxy_headers, &[name]),
            certificate_ends: families.certificate_ends.clone(),
        }))
    }

    /// Where the calls of the gRPC method with this path are counted. None: by no name of its own, for it has none, or
    /// there are too many.
    pub fn grpc_method(&self, path: &str) -> Option<MethodMetrics> {
        let (service, method) = grpc::method(path)?;
        let mut known = lock(&self.0.grpc_methods);
        if let Some(known) = known.get(path) {
            return Some(known.clone());
        }
        if known.len() >= GRPC_METHODS_MAX {
            return None;
        }
        let metrics = MethodMetrics(Arc::new(SlugCounters::new(&self.0.families.grpc_methods, &[service, method])));
        known.insert(path.into(), metrics.clone());
        Some(metrics)
    }

    /// Where all other calls of gRPC are counted.
    pub fn other_grpc_methods(&self) -> MethodMetrics {
        MethodMetrics(Arc::new(SlugCounters::new(&self.0.families.grpc_methods, &["other", "other"])))
    }

    /// The handles of a worker, by its number. Workers live as long as the process, so their series stay.
    pub fn worker(&self, index: usize) -> WorkerMetrics {
        let label = index.to_string();
        WorkerMetrics {
            connections: self.0.families.worker_connections.series(&[&label]),
            accepted: self.0.families.worker_accepted.series(&[&label]),
        }
    }

    /// Counts that a bound was reached. `limit` is its key in the configuration: that of a listener alone, such as
    /// `connections_max`; that of an upstream with what it stands under, such as `upstreams.pool.queue_max`.
    pub fn limit_hit(&self, limit: &'static str) {
        self.0.limits.add(limit, 1);
    }

    /// Counts access-log lines that were lost.
    pub fn access_log_dropped(&self, lines: u64) {
        self.0.access_log_dropped.inc_by(lines);
    }

    /// How many access-log lines have been lost.
    pub fn access_log_dropped_total(&self) -> u64 {
        self.0.access_log_dropped.get()
    }

    /// Notes that the configuration of the start was applied at `now`.
    pub fn started(&self, now: SystemTime) {
        self.0.reload_successful.set(1);
        self.0.reload_timestamp.set(now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
    }

    /// Notes that a new configuration was applied at `now`.
    pub fn reload_applied(&self, now: SystemTime) {
        self.0.reloads.add("applied", 1);
        self.started(now);
    }

    /// Notes that a configuration that was refused is no longer there: its files are what is in force again.
    pub fn reload_mended(&self) {
        self.0.reload_successful.set(1);
    }

    /// Notes that a configuration was refused and the old one stays.
    pub fn reload_refused(&self) {
        self.0.reloads.add("refused", 1);
        self.0.reload_successful.set(0);
    }

    /// Notes that an earlier configuration was put in force again at `now`.
    pub fn reload_rolled_back(&self, now: SystemTime) {
        self.0.reloads.add("rolled_back", 1);
        self.started(now);
    }

    /// Notes how long a reload took, whatever came of it.
    pub fn reload_took(&self, duration: Duration) {
        self.0.reload_duration.observe(duration.as_secs_f64());
    }

    /// Notes which configuration is in force. The series of the one before leaves.
    pub fn config_in_force(&self, version: u64, hash: &str) {
        self.0.config_info.only(&[&version.to_string(), hash]).set(1);
    }

    /// Counts a configuration as in memory until the guard is dropped.
    pub fn generation(&self) -> InFlight {
        InFlight::new(&self.0.generations)
    }

    /// Counts that files of the configuration could not be watched or read.
    pub fn watch_failed(&self) {
        self.0.watch_errors.inc();
    }

    /// Notes whether armiger has begun to end.
    pub fn draining(&self, is_draining: bool) {
        self.0.draining.set(is_draining.into());
    }

    /// Counts an exchange that was cut because the drain had to end.
    pub fn exchange_cut(&self) {
        self.0.exchanges_cut.inc();
    }

    /// How many exchanges have been cut because the drain had to end.
    pub fn exchanges_cut_total(&self) -> u64 {
        self.0.exchanges_cut.get()
    }

    /// Notes how much memory armiger may use.
    pub fn memory_limit(&self, bytes: u64) {
        self.0.memory_limit.series(&[]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// `docs/metrics.md`: every metric with its type, unit, labels and meaning.
    pub fn reference(&self) -> String {
        reference::page(&self.0.catalogue.entries)
    }

    /// The exposition in Prometheus' text format; see [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        if let Some(process) = &self.0.process {
            process.refresh();
        }
        let mut text = String::new();
        // The encoder only fails on families without a name or a value, and none is registered like that.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0.catalogue.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        text
    }
}

/// A family without labels, and its one series.
fn single<K: Kind>(catalogue: &mut Catalogue, name: &'static str, unit: &'static str, help: &'static str) -> K {
    Family::register(catalogue, name, &[], unit, help).series(&[])
}

// === Route ===

/// What is counted about a route.
#[derive(Clone)]
pub struct RouteMetrics(Arc<Held<RouteSeries>>);

struct RouteSeries {
    name: String,
    requests_family: Family<IntCounter>,
    duration_family: Family<Histogram>,
    in_flight_family: Family<IntGauge>,
    request_bytes_family: Family<IntCounter>,
    response_bytes_family: Family<IntCounter>,
    /// By method and status class; made when first counted, or most of a route's sixty series would stay at zero.
    requests: [[OnceLock<IntCounter>; STATUS_CLASSES.len()]; METHODS.len()],
    duration: Histogram,
    in_flight: IntGauge,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    rejections: SlugCounters,
    fallbacks: SlugCounters,
    calls: SlugCounters,
    mirrored_family: Family<IntCounter>,
    mirrored: SlugCounters,
}

impl Series for RouteSeries {
    fn leave(&self) {
        let name = [self.name.as_str()];
        self.requests_family.remove(&name);
        self.duration_family.remove(&name);
        self.in_flight_family.remove(&name);
        self.request_bytes_family.remove(&name);
        self.response_bytes_family.remove(&name);
        self.mirrored_family.remove(&name);
        self.rejections.family.remove(&name);
        self.fallbacks.family.remove(&name);
        self.calls.family.remove(&name);
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteMetrics").field(&self.0.series.name).finish()
    }
}

impl RouteMetrics {
    /// Counts an exchange as in flight until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        InFlight::new(&self.0.series.in_flight)
    }

    /// Counts an exchange that ended. `status` is `None` if none was sent, the bytes are those of the bodies.
    pub fn finished(
        &self,
        method: &Method,
        status: Option<StatusCode>,
        duration: Duration,
        bytes_in: u64,
        bytes_out: u64,
    ) {
        let series = &self.0.series;
        let (method, class) = (method_index(method), status_class_index(status));
        series.requests[method][class]
            .get_or_init(|| series.requests_family.series(&[&series.name, METHODS[method], STATUS_CLASSES[class]]))
            .inc();
        series.duration.observe(duration.as_secs_f64());
        // Most requests have no body, and a shared counter is not free to touch.
        if bytes_in > 0 {
            series.request_bytes.inc_by(bytes_in);
        }
        if bytes_out > 0 {
            series.response_bytes.inc_by(bytes_out);
        }
    }

    /// Counts a refusal, by the slug of its reason.
    pub fn rejected(&self, reason: &'static str) {
        self.0.series.rejections.add(reason, 1);
    }

    /// Counts an answer that stood in for an upstream that failed.
    pub fn fell_back(&self, rung: &'static str) {
        self.0.series.fallbacks.add(rung, 1);
    }

    /// Counts a copy of a request, by what came of it.
    pub fn mirrored(&self, outcome: &'static str) {
        self.0.series.mirrored.add(outcome, 1);
    }

    /// Counts a gRPC call that ended, by the name of its status.
    pub fn called(&self, status: &'static str) {
        self.0.series.calls.add(status, 1);
    }
}

fn method_index(method: &Method) -> usize {
    const OTHER: usize = METHODS.len() - 1;
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::PATCH => 5,
        Method::OPTIONS => 6,
        Method::CONNECT => 7,
        Method::TRACE => 8,
        _ => OTHER,
    }
}

fn status_class_index(status: Option<StatusCode>) -> usize {
    let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
    // Statuses above 599 mean nothing to anyone; to a client they are failures of the server (RFC 9110 §15).
    class.min(STATUS_CLASSES.len() - 1)
}

/// Counts one thing as present until dropped.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl InFlight {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === Policy ===

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

struct RuleSeries {
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

struct PolicySeries {
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

// === Part ===

/// What is counted about a part of a route's answer.
#[derive(Clone)]
pub struct PartMetrics(Arc<Held<PartSeries>>);

struct PartSeries {
    /// Route and part.
    key: [String; 2],
    outcomes_family: Family<IntCounter>,
    duration_family: Family<Histogram>,
    outcomes: SlugCounters,
    duration: Histogram,
}

impl Series for PartSeries {
    fn leave(&self) {
        let key = [self.key[0].as_str(), self.key[1].as_str()];
        self.outcomes_family.remove(&key);
        self.duration_family.remove(&key);
    }
}

impl fmt::Debug for PartMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PartMetrics").field(&self.0.series.key).finish()
    }
}

impl PartMetrics {
    /// Counts a part that is over, by what came of it.
    pub fn ended(&self, outcome: &'static str, duration: Duration) {
        self.0.series.outcomes.add(outcome, 1);
        self.0.series.duration.observe(duration.as_secs_f64());
    }
}

// === Sagas ===

/// What is counted about the sagas of a route.
#[derive(Clone)]
pub struct SagaMetrics(Arc<Held<SagaSeries>>);

struct SagaSeries {
    route: String,
    family: Family<IntCounter>,
    outcomes: SlugCounters,
}

impl Series for SagaSeries {
    fn leave(&self) {
        self.family.remove(&[&self.route]);
    }
}

impl SagaMetrics {
    /// Counts a saga that is over.
    pub fn ended(&self, outcome: &'static str) {
        self.0.series.outcomes.add(outcome, 1);
    }
}

/// What is counted about a step of a route's sagas.
#[derive(Clone)]
pub struct SagaStepMetrics(Arc<Held<SagaStepSeries>>);

struct SagaStepSeries {
    /// Route and step.
    key: [String; 2],
    families: [Family<IntCounter>; 2],
    steps: SlugCounters,
    compensations: SlugCounters,
}

impl Series for SagaStepSeries {
    fn leave(&self) {
        let key = [self.key[0].as_str(), self.key[1].as_str()];
        self.families.iter().for_each(|family| family.remove(&key));
    }
}

impl SagaStepMetrics {
    /// Counts a step that was begun, by how far it came.
    pub fn ended(&self, outcome: &'static str) {
        self.0.series.steps.add(outcome, 1);
    }

    /// Counts what came of its compensation.
    pub fn compensated(&self, is_done: bool) {
        self.0.series.compensations.add(if is_done { "done" } else { "failed" }, 1);
    }
}

// === Upstream ===

/// What is counted about an upstream.
#[derive(Clone)]
pub struct UpstreamMetrics(Arc<Held<UpstreamSeries>>);

struct UpstreamSeries {
    name: String,
    counters: Vec<Family<IntCounter>>,
    gauges: Vec<Family<IntGauge>>,
    histograms: Vec<Family<Histogram>>,
    outcomes: SlugCounters,
    duration: Histogram,
    active: IntGauge,
    idle: IntGauge,
    opened: IntCounter,
    reused: IntCounter,
    retries: SlugCounters,
    retry_budget: IntCounter,
    queued: IntGauge,
    queue_wait: Histogram,
    queue_timeouts: IntCounter,
    shed: SlugCounters,
    hedges: SlugCounters,
    line: IntGauge,
    bears: Family<IntGauge>,
    endpoints: Family<IntGauge>,
    lookups: SlugCounters,
}

impl Series for UpstreamSeries {
    fn leave(&self) {
        let name = [self.name.as_str()];
        self.counters.iter().for_each(|family| family.remove(&name));
        self.gauges.iter().for_each(|family| family.remove(&name));
        self.histograms.iter().for_each(|family| family.remove(&name));
    }
}

impl fmt::Debug for UpstreamMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UpstreamMetrics").field(&self.0.series.name).finish()
    }
}

/// Why an attempt was repeated although the client will not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// The request never left armiger.
    Unsent,
    /// A reused connection died before a byte of the response came.
    ReusedNoByte,
    /// The upstream's `retry` says so.
    Policy,
}

impl RetryClass {
    /// The word in metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::ReusedNoByte => "reused_no_byte",
            Self::Policy => "policy",
        }
    }
}

impl UpstreamMetrics {
    /// Counts an attempt that ended, by the slug of its outcome.
    pub fn attempted(&self, outcome: &'static str) {
        self.0.series.outcomes.add(outcome, 1);
    }

    /// Notes how long the head of a response took.
    pub fn responded(&self, duration: Duration) {
        self.0.series.duration.observe(duration.as_secs_f64());
    }

    /// Counts a connection that was opened.
    pub fn opened(&self) {
        self.0.series.opened.inc();
    }

    /// Counts an attempt on a connection that had served before.
    pub fn reused(&self) {
        self.0.series.reused.inc();
    }

    /// Counts a connection as carrying an exchange until the guard is dropped.
    pub fn active(&self) -> InFlight {
        InFlight::new(&self.0.series.active)
    }

    /// Counts a connection as idle until the guard is dropped.
    pub fn idle(&self) -> InFlight {
        InFlight::new(&self.0.series.idle)
    }

    /// Counts an attempt that is repeated.
    pub fn retried(&self, class: RetryClass) {
        self.0.series.retries.add(class.as_str(), 1);
    }

    /// Counts an attempt that is not repeated since the budget is spent.
    pub fn retry_budget_spent(&self) {
        self.0.series.retry_budget.inc();
    }

    /// Counts an exchange as waiting for a connection until the guard is dropped.
    pub fn queued(&self) -> InFlight {
        InFlight::new(&self.0.series.queued)
    }

    /// Notes how long an exchange waited for a connection.
    pub fn queue_waited(&self, duration: Duration) {
        self.0.series.queue_wait.observe(duration.as_secs_f64());
    }

    /// Counts an exchange that waited for a connection in vain.
    pub fn queue_timed_out(&self) {
        self.0.series.queue_timeouts.inc();
    }

    /// Counts a request of this class that the upstream was not given.
    pub fn shed(&self, class: &'static str) {
        self.0.series.shed.add(class, 1);
    }

    /// Counts a second endpoint that was asked, by whether it won.
    pub fn hedged(&self, race: &'static str) {
        self.0.series.hedges.add(race, 1);
    }

    /// Counts a request as one that waits for its turn, while the guard lives.
    pub fn waits_for_place(&self) -> InFlight {
        InFlight::new(&self.0.series.line)
    }

    /// Shows what the upstream is thought to bear at once.
    pub fn bears(&self, bound: usize) {
        let Held { series, .. } = &*self.0;
        series.bears.series(&[&series.name]).set(i64::try_from(bound).unwrap_or(i64::MAX));
    }

    /// Counts that a name was asked for, by what came of it.
    pub fn looked_up(&self, result: &'static str) {
        self.0.series.lookups.add(result, 1);
    }

    /// Shows how many endpoints there are, where names tell.
    pub fn endpoints(&self, count: usize) {
        let Held { series, .. } = &*self.0;
        series.endpoints.series(&[&series.name]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

// === Endpoints ===

/// What is counted about an endpoint.
#[derive(Clone)]
pub struct EndpointMetrics(Arc<Held<EndpointSeries>>);

struct EndpointSeries {
    names: [String; 2],
    ejections_family: Family<IntCounter>,
    healthy_family: Family<IntGauge>,
    ejections: IntCounter,
    healthy: IntGauge,
}

impl Series for EndpointSeries {
    fn leave(&self) {
        let names = [self.names[0].as_str(), self.names[1].as_str()];
        self.ejections_family.remove(&names);
        self.healthy_family.remove(&names);
    }
}

impl fmt::Debug for EndpointMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EndpointMetrics").field(&self.0.series.names).finish()
    }
}

impl EndpointMetrics {
    /// Counts that it was taken out.
    pub fn ejected(&self) {
        self.0.series.ejections.inc();
    }

    /// Shows whether health checks find it well.
    pub fn health(&self, is_well: bool) {
        self.0.series.healthy.set(i64::from(is_well));
    }
}

// === Breakers ===

/// What is counted about a breaker.
#[derive(Clone)]
pub struct BreakerMetrics(Arc<Held<BreakerSeries>>);

struct BreakerSeries {
    names: [String; 3],
    changes: Family<IntCounter>,
    counters: Vec<Family<IntCounter>>,
    states: Family<IntGauge>,
    ratios: Family<Gauge>,
    state: IntGauge,
    refusals: SlugCounters,
    ratio: Gauge,
}

impl Series for BreakerSeries {
    fn leave(&self) {
        let names = self.names.each_ref().map(String::as_str);
        self.counters.iter().for_each(|family| family.remove(&names));
        self.states.remove(&names);
        self.ratios.remove(&names);
    }
}

impl fmt::Debug for BreakerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BreakerMetrics").field(&self.0.series.names).finish()
    }
}

impl BreakerMetrics {
    /// Shows a state by its number.
    pub fn state(&self, number: i64) {
        self.0.series.state.set(number);
    }

    /// Counts a change of state.
    pub fn changed(&self, from: &'static str, to: &'static str, cause: &'static str) {
        let series = &self.0.series;
        let [upstream, endpoint, route] = &series.names;
        series.changes.series(&[upstream, endpoint, route, from, to, cause]).inc();
    }

    /// Counts an attempt that was not let out.
    pub fn refused(&self, reason: &'static str) {
        self.0.series.refusals.add(reason, 1);
    }

    /// Shows the share of failures.
    pub fn ratio(&self, ratio: f64) {
        self.0.series.ratio.set(ratio);
    }
}

// === Identity ===

/// What is counted about a provider of identities.
#[derive(Clone)]
pub struct IdentityMetrics(Arc<Held<IdentitySeries>>);

struct IdentitySeries {
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

struct KeysSeries {
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

// === Cache ===

/// What is counted about a route's cache.
#[derive(Clone)]
pub struct CacheMetrics(Arc<Held<CacheSeries>>, Metrics);

/// What may come of a request.
const CACHE_RESULTS: [&str; 5] = ["hit", "stale", "collapsed", "miss", "bypass"];

struct CacheSeries {
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

// === Listener and worker ===

/// What is counted about a listener.
#[derive(Clone)]
pub struct ListenerMetrics(Arc<Held<ListenerSeries>>);

struct ListenerSeries {
    name: String,
    connections_family: Family<IntGauge>,
    accepted_family: Family<IntCounter>,
    connections: IntGauge,
    accepted: IntCounter,
    handshakes_family: Family<IntCounter>,
    handshakes: SlugCounters,
    proxy_headers_family: Family<IntCounter>,
    proxy_headers: SlugCounters,
    certificate_ends: Family<IntGauge>,
}

impl Series for ListenerSeries {
    fn leave(&self) {
        let name = [self.name.as_str()];
        self.connections_family.remove(&name);
        self.accepted_family.remove(&name);
        self.handshakes_family.remove(&name);
        self.proxy_headers_family.remove(&name);
        self.certificate_ends.remove(&name);
    }
}

impl fmt::Debug for ListenerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListenerMetrics").field(&self.0.series.name).finish()
    }
}

impl ListenerMetrics {
    /// Counts an accepted connection, and as open until the guard is dropped.
    pub fn accepted(&self) -> InFlight {
        self.0.series.accepted.inc();
        InFlight::new(&self.0.series.connections)
    }

    /// Connections open now.
    pub fn connections(&self) -> i64 {
        self.0.series.connections.get()
    }

    /// Counts a TLS handshake, by how it ended.
    pub fn shaken(&self, outcome: &'static str) {
        self.0.series.handshakes.add(outcome, 1);
    }

    /// Counts a connection that was to begin with a PROXY header, by what came of it.
    pub fn proxied(&self, outcome: &'static str) {
        self.0.series.proxy_headers.add(outcome, 1);
    }

    /// Tells when the certificates end that are shown from now on, by a name of each.
    pub fn certificates(&self, ends: &[(String, i64)]) {
        let ListenerSeries { name, certificate_ends, .. } = &self.0.series;
        certificate_ends.remove(&[name]);
        for (certificate, end) in ends {
            certificate_ends.series(&[name, certificate]).set(*end);
        }
    }
}

/// What is counted about a method of gRPC.
#[derive(Clone)]
pub struct MethodMetrics(Arc<SlugCounters>);

impl MethodMetrics {
    /// Counts a call that ended, by the name of its status.
    pub fn called(&self, status: &'static str) {
        self.0.add(status, 1);
    }
}

/// What is counted about a worker.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    connections: IntGauge,
    accepted: IntCounter,
}

impl WorkerMetrics {
    /// Counts a connection handed to the worker, and as served by it until the guard is dropped.
    pub fn accepted(&self) -> InFlight {
        self.accepted.inc();
        InFlight::new(&self.connections)
    }

    /// Connections the worker serves now.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }
}

// === Process ===

/// Figures about the process, read from `/proc` when scraped; absent where there is no `/proc`.
struct ProcessMetrics {
    cpu_seconds: Mutex<Counter>,
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
}

/// The unit of times in `/proc/*/stat`: Linux shows user space 100 ticks per second on every architecture in use.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

impl ProcessMetrics {
    fn register(catalogue: &mut Catalogue) -> Option<Self> {
        let stat = ProcessStat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
        if let Some(boot) = boot_time(&fs::read_to_string("/proc/stat").ok()?) {
            let start: Gauge = single(
                catalogue,
                "process_start_time_seconds",
                "seconds",
                "When the process started, in seconds since the Unix epoch.",
            );
            start.set(boot + stat.start_ticks / CLOCK_TICKS_PER_SECOND);
        }
        Some(Self {
            cpu_seconds: Mutex::new(single(
                catalogue,
                "process_cpu_seconds_total",
                "seconds",
                "User and system CPU time spent, in seconds.",
            )),
            open_fds: single(catalogue, "process_open_fds", "descriptors", "Open file descriptors, in descriptors."),
            max_fds: single(
                catalogue,
                "process_max_fds",
                "descriptors",
                "The most file descriptors allowed, in descriptors.",
            ),
            resident_bytes: single(catalogue, "process_resident_memory_bytes", "bytes", "Resident memory, in bytes."),
            virtual_bytes: single(catalogue, "process_virtual_memory_bytes", "bytes", "Virtual memory, in bytes."),
        })
    }

    fn refresh(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| ProcessStat::parse(&text)) {
            let cpu = lock(&self.cpu_seconds);
            // A counter cannot be set; the lock keeps two scrapes from adding the same difference twice.
            cpu.inc_by((stat.cpu_ticks / CLOCK_TICKS_PER_SECOND - cpu.get()).max(0.0));
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory itself, open for this very count.
            self.open_fds.set(i64::try_from(fds.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
        if let Some(max) = fs::read_to_string("/proc/self/limits").ok().and_then(|text| max_fds(&text)) {
            self.max_fds.set(max);
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            for (key, gauge) in [("VmRSS:", &self.resident_bytes), ("VmSize:", &self.virtual_bytes)] {
                if let Some(bytes) = status_bytes(&status, key) {
                    gauge.set(bytes);
                }
            }
        }
    }
}

/// Fields of `/proc/self/stat` (proc_pid_stat(5)), in clock ticks.
#[derive(Debug, PartialEq)]
struct ProcessStat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl ProcessStat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in brackets and may hold anything, so count from its end.
        let (_, fields) = text.rsplit_once(") ")?;
        let field = |number: usize| fields.split_ascii_whitespace().nth(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of open files; `None` also where it is `unlimited`.
fn max_fds(limits: &str) -> Option<i64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn status_bytes(status: &str, key: &str) -> Option<i64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: i64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exposition's value of a series, spelt as it is exposed.
    fn value(metrics: &Metrics, series: &str) -> Option<String> {
        let text = metrics.render();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
    }

    #[track_caller]
    fn check(metrics: &Metrics, series: &str, want: &str) {
        assert_eq!(value(metrics, series).as_deref(), Some(want), "{series}\n{}", metrics.render());
    }

    fn finish(route: &RouteMetrics, method: &str, status: Option<u16>) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = status.map(|status| StatusCode::from_u16(status).unwrap());
        route.finished(&method, status, Duration::from_millis(2), 10, 20);
    }

    #[test]
    fn requests_are_counted_by_method_and_status_class() {
        for (method, status, labels) in [
            ("GET", Some(200), r#"method="GET",route="r",status_class="2xx""#),
            ("HEAD", Some(304), r#"method="HEAD",route="r",status_class="3xx""#),
            ("POST", Some(404), r#"method="POST",route="r",status_class="4xx""#),
            ("PUT", Some(503), r#"method="PUT",route="r",status_class="5xx""#),
            ("DELETE", Some(101), r#"method="DELETE",route="r",status_class="1xx""#),
            ("PATCH", None, r#"method="PATCH",route="r",status_class="none""#),
            ("OPTIONS", Some(999), r#"method="OPTIONS",route="r",status_class="5xx""#),
            ("CONNECT", Some(200), r#"method="CONNECT",route="r",status_class="2xx""#),
            ("TRACE", Some(405), r#"method="TRACE",route="r",status_class="4xx""#),
            ("PROPFIND", Some(200), r#"method="other",route="r",status_class="2xx""#),
            ("get", Some(200), r#"method="other",route="r",status_class="2xx""#),
        ] {
            let metrics = Metrics::new();
            let route = metrics.route("r");
            finish(&route, method, status);
            check(&metrics, &format!("armiger_http_requests_total{{{labels}}}"), "1");
            assert_eq!(metrics.render().matches("armiger_http_requests_total{").count(), 1, "{method}");
        }
    }

    #[test]
    fn an_exchange_leaves_duration_bytes_and_flight() {
        let metrics = Metrics::new();
        let route = metrics.route("r");
        let flight = route.enter();
        check(&metrics, r#"armiger_http_requests_in_flight{route="r"}"#, "1");
        finish(&route, "GET", Some(200));
        drop(flight);
        check(&metrics, r#"armiger_http_requests_in_flight{route="r"}"#, "0");
        check(&metrics, r#"armiger_http_request_bytes_total{route="r"}"#, "10");
        check(&metrics, r#"armiger_http_response_bytes_total{route="r"}"#, "20");
        check(&metrics, r#"armiger_http_request_duration_seconds_count{route="r"}"#, "1");
        check(&metrics, r#"armiger_http_request_duration_seconds_sum{route="r"}"#, "0.002");
        check(&metrics, r#"armiger_http_request_duration_seconds_bucket{route="r",le="0.001"}"#, "0");
        check(&metrics, r#"armiger_http_request_duration_seconds_bucket{route="r",le="0.0025"}"#, "1");
    }

    #[test]
    fn a_route_of_the_next_snapshot_goes_on_counting_and_the_last_one_takes_the_series_along() {
        let metrics = Metrics::new();
        let old = metrics.route("r");
        old.rejected("no-route");
        finish(&old, "GET", Some(200));
        let new = metrics.route("r");
        finish(&new, "GET", Some(200));
        drop(old);
        check(&metrics, r#"armiger_http_requests_total{method="GET",route="r",status_class="2xx"}"#, "2");
        check(&metrics, r#"armiger_rejections_total{reason="no-route",route="r"}"#, "1");
        let other = metrics.route("other");
        drop(new);
        let text = metrics.render();
        assert!(!text.contains(r#"route="r""#), "{text}");
        assert!(text.contains(r#"route="other""#), "{text}");
        drop(other);
        drop(metrics.route("r"));
        assert!(!metrics.render().contains("route="));
    }

    #[test]
    fn a_name_taken_up_while_it_is_dropped_stays() {
        let metrics = Metrics::new();
        let old = metrics.route("r");
        finish(&old, "GET", Some(200));
        // What a successor finds between the end of the last handle and the end of its drop: an entry that is dead.
        lock(&metrics.0.routes.0).insert(vec!["r".to_owned()], Weak::new());
        let new = metrics.route("r");
        drop(old);
        finish(&new, "GET", Some(200));
        check(&metrics, r#"armiger_http_requests_total{method="GET",route="r",status_class="2xx"}"#, "2");
        drop(new);
        assert!(!metrics.render().contains("route="));
        assert!(lock(&metrics.0.routes.0).is_empty());
    }

    #[test]
    fn threads_may_take_up_and_drop_a_name_at_once() {
        let metrics = Metrics::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(|_| metrics.route("r").rejected("no-route")));
            }
        });
        assert!(!metrics.render().contains("route="), "the last one takes the series along");
        assert!(lock(&metrics.0.routes.0).is_empty());
    }

    #[test]
    fn names_that_run_together_are_kept_apart() {
        let metrics = Metrics::new();
        let (one, two) =
            (metrics.policy("a", "bc", Enforcement::Enforce), metrics.policy("ab", "c", Enforcement::Enforce));
        one.count(VerdictWord::Pass);
        two.count(VerdictWord::Pass);
        two.count(VerdictWord::Pass);
        let series = |route, policy| {
            format!(
                r#"armiger_policy_verdicts_total{{mode="enforce",policy="{policy}",route="{route}",verdict="pass"}}"#
            )
        };
        check(&metrics, &series("a", "bc"), "1");
        check(&metrics, &series("ab", "c"), "2");
        drop(one);
        assert_eq!(value(&metrics, &series("a", "bc")), None);
        check(&metrics, &series("ab", "c"), "2");
    }

    #[test]
    fn every_verdict_has_its_series() {
        let metrics = Metrics::new();
        let policy = metrics.policy("r", "roles", Enforcement::Shadow);
        for word in VerdictWord::ALL {
            policy.count(word);
            let series = format!(
                r#"armiger_policy_verdicts_total{{mode="shadow",policy="roles",route="r",verdict="{}"}}"#,
                word.as_str(Enforcement::Shadow)
            );
            check(&metrics, &series, "1");
        }
    }

    #[test]
    fn hostile_names_are_escaped() {
        let metrics = Metrics::new();
        let _route = metrics.route("a\"b\\c\nd");
        check(&metrics, r#"armiger_http_requests_in_flight{route="a\"b\\c\nd"}"#, "0");
    }

    #[test]
    fn the_words_of_a_label_are_bounded() {
        let metrics = Metrics::new();
        let route = metrics.route("r");
        for count in 0..2 * SLUGS_MAX {
            // Each word is a leaked string, as good as a literal.
            route.rejected(format!("reason-{count}").leak());
        }
        route.rejected("reason-0");
        assert_eq!(metrics.render().matches("armiger_rejections_total{").count(), SLUGS_MAX);
        check(&metrics, r#"armiger_rejections_total{reason="reason-0",route="r"}"#, "2");
        check(&metrics, r#"armiger_rejections_total{reason="other",route="r"}"#, (SLUGS_MAX + 1).to_string().as_str());
    }

    #[test]
    fn an_upstream_counts_attempts_connections_retries_and_waits() {
        let metrics = Metrics::new();
        let upstream = metrics.upstream("app");
        upstream.attempted("ok");
        upstream.attempted("reset");
        upstream.attempted("ok");
        upstream.responded(Duration::from_millis(3));
        upstream.opened();
        upstream.reused();
        upstream.retried(RetryClass::Unsent);
        upstream.retried(RetryClass::ReusedNoByte);
        upstream.queue_waited(Duration::from_millis(3));
        upstream.queue_timed_out();
        let guards = [upstream.active(), upstream.idle(), upstream.idle(), upstream.queued()];
        for (series, want) in [
            (r#"armiger_upstream_requests_total{outcome="ok",upstream="app"}"#, "2"),
            (r#"armiger_upstream_requests_total{outcome="reset",upstream="app"}"#, "1"),
            (r#"armiger_upstream_request_duration_seconds_count{upstream="app"}"#, "1"),
            (r#"armiger_upstream_connections{state="active",upstream="app"}"#, "1"),
            (r#"armiger_upstream_connections{state="idle",upstream="app"}"#, "2"),
            (r#"armiger_upstream_connections_opened_total{upstream="app"}"#, "1"),
            (r#"armiger_upstream_connections_reused_total{upstream="app"}"#, "1"),
            (r#"armiger_upstream_retries_total{class="unsent",upstream="app"}"#, "1"),
            (r#"armiger_upstream_retries_total{class="reused_no_byte",upstream="app"}"#, "1"),
            (r#"armiger_upstream_queue_wait_seconds_count{upstream="app"}"#, "1"),
            (r#"armiger_upstream_queue_timeouts_total{upstream="app"}"#, "1"),
            (r#"armiger_upstream_queue_length{upstream="app"}"#, "1"),
        ] {
            check(&metrics, series, want);
        }
        drop(guards);
        check(&metrics, r#"armiger_upstream_connections{state="idle",upstream="app"}"#, "0");
        drop(upstream);
        assert!(!metrics.render().contains("upstream="));
    }

    #[test]
    fn listeners_and_workers_count_connections() {
        let metrics = Metrics::new();
        let (listener, worker) = (metrics.listener("http"), metrics.worker(1));
        let open = (listener.accepted(), worker.accepted());
        drop(listener.accepted());
        assert_eq!((listener.connections(), worker.connections()), (1, 1));
        check(&metrics, r#"armiger_listener_connections{listener="http"}"#, "1");
        check(&metrics, r#"armiger_listener_connections_accepted_total{listener="http"}"#, "2");
        check(&metrics, r#"armiger_worker_connections{worker="1"}"#, "1");
        check(&metrics, r#"armiger_worker_connections_accepted_total{worker="1"}"#, "1");
        drop((open, listener));
        assert!(!metrics.render().contains("listener="));
    }

    #[test]
    fn the_process_wide_figures_are_there() {
        let metrics = Metrics::new();
        metrics.limit_hit("connections_max");
        metrics.access_log_dropped(3);
        metrics.reload_applied(UNIX_EPOCH + Duration::from_millis(1_500));
        for (series, want) in [
            (r#"armiger_limit_hits_total{limit="connections_max"}"#, "1"),
            ("armiger_access_log_dropped_total", "3"),
            ("armiger_config_last_reload_successful", "1"),
            ("armiger_config_last_reload_success_timestamp_seconds", "1.5"),
            (r#"armiger_config_reloads_total{result="applied"}"#, "1"),
            ("armiger_draining", "0"),
            ("armiger_config_generations", "0"),
            (concat!("armiger_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), "1"),
        ] {
            check(&metrics, series, want);
        }
        metrics.reload_refused();
        check(&metrics, "armiger_config_last_reload_successful", "0");
        check(&metrics, "armiger_config_last_reload_success_timestamp_seconds", "1.5");
    }

    #[test]
    fn a_reload_leaves_its_result_its_duration_and_the_configuration_in_force() {
        let metrics = Metrics::new();
        let series = |version, hash| format!(r#"armiger_config_info{{hash="{hash}",version="{version}"}}"#);
        metrics.config_in_force(1, "abc");
        check(&metrics, &series(1, "abc"), "1");
        metrics.config_in_force(2, "def");
        metrics.config_in_force(2, "def");
        check(&metrics, &series(2, "def"), "1");
        assert_eq!(value(&metrics, &series(1, "abc")), None, "one configuration is in force");
        metrics.reload_refused();
        metrics.reload_rolled_back(UNIX_EPOCH + Duration::from_secs(9));
        metrics.reload_took(Duration::from_millis(20));
        metrics.watch_failed();
        let (old, new) = (metrics.generation(), metrics.generation());
        for (series, want) in [
            (r#"armiger_config_reloads_total{result="rolled_back"}"#, "1"),
            ("armiger_config_last_reload_successful", "1"),
            ("armiger_config_last_reload_success_timestamp_seconds", "9"),
            ("armiger_config_reload_duration_seconds_count", "1"),
            ("armiger_config_watch_errors_total", "1"),
            ("armiger_config_generations", "2"),
        ] {
            check(&metrics, series, want);
        }
        drop(old);
        check(&metrics, "armiger_config_generations", "1");
        drop(new);
    }

    #[test]
    fn the_end_and_the_means_of_the_process_are_told() {
        let metrics = Metrics::new();
        assert_eq!(value(&metrics, "armiger_memory_limit_bytes"), None, "no limit is no limit of 0");
        metrics.memory_limit(128 << 20);
        metrics.draining(true);
        metrics.exchange_cut();
        check(&metrics, "armiger_memory_limit_bytes", "134217728");
        check(&metrics, "armiger_draining", "1");
        check(&metrics, "armiger_exchanges_cut_total", "1");
        assert_eq!(metrics.exchanges_cut_total(), 1);
        metrics.draining(false);
        check(&metrics, "armiger_draining", "0");
    }

    #[test]
    fn two_armigers_share_nothing() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.access_log_dropped(1);
        assert_eq!((one.access_log_dropped_total(), two.access_log_dropped_total()), (1, 0));
    }

    /// The rules of `promtool check metrics` (prometheus/client_golang, testutil/promlint), and our own on units.
    #[test]
    fn every_family_keeps_the_naming_rules_and_says_its_unit_and_meaning() {
        let metrics = Metrics::new();
        let no_base_units = ["milliseconds", "ms", "microseconds", "us", "minutes", "hours", "days", "kb", "kib", "mb"];
        let types = ["counter", "gauge", "histogram", "summary"];
        for Entry { name, kind, labels, unit, help } in &metrics.0.catalogue.entries {
            assert!(help.ends_with('.') && help.len() > 20, "{name}: {help}");
            assert!(name.starts_with("armiger_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            let words: Vec<&str> = name.split('_').collect();
            assert!(!words.iter().any(|word| no_base_units.contains(word) || types.contains(word)), "{name}");
            let is_counter = *kind == MetricType::COUNTER;
            assert_eq!(words.ends_with(&["total"]), is_counter, "{name} is a {kind:?}");
            for suffix in ["_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(suffix), "{name}: a histogram would take the name");
            }
            for base in ["seconds", "bytes"] {
                let stem = name.strip_suffix("_total").unwrap_or(name);
                let of_process = *name == "process_start_time_seconds";
                assert_eq!(stem.ends_with(base), *unit == base || (of_process && base == "seconds"), "{name}: {unit}");
            }
            if name.ends_with("_info") || unit.is_empty() {
                assert_eq!(*kind, MetricType::GAUGE, "{name}");
            } else {
                assert!(help.contains(&format!("in {unit}")), "{name}: the help does not say `in {unit}`: {help}");
            }
            assert!(!labels.iter().any(|label| ["le", "quantile", "job", "instance"].contains(label)), "{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_measured() {
        let metrics = Metrics::new();
        for series in [
            "process_open_fds",
            "process_max_fds",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_start_time_seconds",
        ] {
            let figure: f64 = value(&metrics, series).expect(series).parse().unwrap();
            assert!(figure > 0.0, "{series} {figure}");
        }
        assert!(value(&metrics, "process_cpu_seconds_total").is_some());
    }

    #[test]
    fn proc_files_are_read_as_their_manual_says() {
        let stat = "7 (a) (b c) ) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 8 9 20 0 3 0 12345 100 200 18446744073709551615";
        assert_eq!(ProcessStat::parse(stat), Some(ProcessStat { cpu_ticks: 300.0, start_ticks: 12345.0 }));
        assert_eq!(ProcessStat::parse("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        let limits = |soft| format!("Limit  Soft\nMax open files            {soft}                524288   files\n");
        assert_eq!(max_fds(&limits("1024")), Some(1024));
        assert_eq!(max_fds(&limits("unlimited")), None);
        assert_eq!(status_bytes("VmSize:\t  10 kB\nVmRSS:\t     3 kB\n", "VmRSS:"), Some(3072));
        assert_eq!(status_bytes("VmRSS: many kB\n", "VmRSS:"), None);
    }
}
