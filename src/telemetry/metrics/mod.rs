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

mod actions;
mod exchanges;
mod families;
mod family;
mod limits;
mod listeners;
mod policies;
mod process;
mod reference;
mod upstreams;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, TextEncoder};

use actions::{PartSeries, SagaSeries, SagaStepSeries};
use exchanges::RouteSeries;
use families::Families;
use family::{Catalogue, Family, Shelf, SlugCounters, single};
use limits::LimitSeries;
use listeners::ListenerSeries;
use policies::{CacheSeries, CorsSeries, IdentitySeries, KeysSeries, PolicySeries, RuleSeries};
use process::ProcessMetrics;
use upstreams::{BreakerSeries, CertificateSeries, EndpointSeries, UpstreamSeries};

pub use actions::{PartMetrics, SagaMetrics, SagaStepMetrics};
pub use exchanges::{InFlight, MethodMetrics, RouteMetrics};
pub use limits::{LimitMetrics, SecondMetrics, StoreMetrics};
pub use listeners::{ListenerMetrics, WorkerMetrics};
pub use policies::{
    CacheMetrics, CorsMetrics, CorsWord, IdentityMetrics, KeysMetrics, PolicyMetrics, RuleMetrics, RuleWord,
};
pub use upstreams::{BreakerMetrics, CertificateMetrics, EndpointMetrics, RetryClass, UpstreamMetrics};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of one armiger. Cloning gives another handle to the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<MetricsInner>);

struct MetricsInner {
    catalogue: Catalogue,
    families: Families,
    routes: Shelf<RouteSeries>,
    upstreams: Shelf<UpstreamSeries>,
    certificates: Shelf<CertificateSeries>,
    endpoints: Shelf<EndpointSeries>,
    breakers: Shelf<BreakerSeries>,
    providers: Shelf<IdentitySeries>,
    key_sources: Shelf<KeysSeries>,
    caches: Shelf<CacheSeries>,
    listeners: Shelf<ListenerSeries>,
    policies: Shelf<PolicySeries>,
    cors: Shelf<CorsSeries>,
    rules: Shelf<RuleSeries>,
    rate_limits: Shelf<LimitSeries>,
    parts: Shelf<PartSeries>,
    sagas: Shelf<SagaSeries>,
    saga_steps: Shelf<SagaStepSeries>,
    limits: SlugCounters,
    reloads: SlugCounters,
    grpc_methods: Mutex<HashMap<Box<str>, MethodMetrics>>,
    access_log_dropped: IntCounter,
    messages_dropped: IntCounter,
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
            certificates: Shelf::new(),
            endpoints: Shelf::new(),
            breakers: Shelf::new(),
            providers: Shelf::new(),
            key_sources: Shelf::new(),
            caches: Shelf::new(),
            listeners: Shelf::new(),
            policies: Shelf::new(),
            cors: Shelf::new(),
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
            messages_dropped: single(
                &mut catalogue,
                "armiger_messages_dropped_total",
                "messages",
                "armiger's own messages left out because nobody read standard error, or lost because it took none (a full disk), in messages.",
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

    /// Counts that a bound was reached. `limit` is its key in the configuration: that of a listener alone, such as
    /// `connections_max`; that of an upstream with what it stands under, such as `upstreams.pool.queue_max`.
    pub fn limit_hit(&self, limit: &'static str) {
        self.0.limits.add(limit, 1);
    }

    /// Counts access-log lines that were lost.
    pub fn access_log_dropped(&self, lines: u64) {
        self.0.access_log_dropped.inc_by(lines);
    }

    /// Counts messages of armiger's own that were left out.
    pub fn messages_dropped(&self, count: u64) {
        self.0.messages_dropped.inc_by(count);
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

#[cfg(test)]
mod tests;
