//! What is counted about upstreams, their endpoints and their breakers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::Metrics;
use super::exchanges::InFlight;
use super::family::{Family, Held, Series, SlugCounters};

impl Metrics {
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
                families.upstream_cut.clone(),
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
            cut: families.upstream_cut.series(&[name]),
            line: families.upstream_line.series(&[name]),
            bears: families.upstream_bears.clone(),
            endpoints: families.dns_endpoints.clone(),
            lookups: SlugCounters::new(&families.dns_lookups, &[name]),
        }))
    }

    /// The handle of the certificate that an upstream is shown.
    pub fn upstream_certificate(&self, upstream: &str) -> CertificateMetrics {
        let family = &self.0.families.upstream_certificate_end;
        CertificateMetrics(
            self.0
                .certificates
                .get(&[upstream], || CertificateSeries { upstream: upstream.to_owned(), end: family.clone() }),
        )
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
            states: [families.breaker_state.clone(), families.breaker_forced.clone()],
            ratios: families.breaker_ratio.clone(),
            state: families.breaker_state.series(&names),
            forced: families.breaker_forced.series(&names),
            refusals: SlugCounters::new(&families.breaker_refusals, &names),
            ratio: families.breaker_ratio.series(&names),
        }))
    }
}

/// What is counted about an upstream.
#[derive(Clone)]
pub struct UpstreamMetrics(Arc<Held<UpstreamSeries>>);

pub(super) struct UpstreamSeries {
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
    cut: IntCounter,
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

    /// Counts an answer that broke off behind its head.
    pub fn answer_cut(&self) {
        self.0.series.cut.inc();
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

/// What is shown of the certificate that an upstream is shown.
#[derive(Clone)]
pub struct CertificateMetrics(Arc<Held<CertificateSeries>>);

pub(super) struct CertificateSeries {
    upstream: String,
    end: Family<IntGauge>,
}

impl Series for CertificateSeries {
    fn leave(&self) {
        self.end.remove(&[&self.upstream]);
    }
}

impl CertificateMetrics {
    /// Shows when it ends.
    pub fn ends(&self, end: i64) {
        let Held { series, .. } = &*self.0;
        series.end.series(&[&series.upstream]).set(end);
    }
}

/// What is counted about an endpoint.
#[derive(Clone)]
pub struct EndpointMetrics(Arc<Held<EndpointSeries>>);

pub(super) struct EndpointSeries {
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

/// What is counted about a breaker.
#[derive(Clone)]
pub struct BreakerMetrics(Arc<Held<BreakerSeries>>);

pub(super) struct BreakerSeries {
    names: [String; 3],
    changes: Family<IntCounter>,
    counters: Vec<Family<IntCounter>>,
    states: [Family<IntGauge>; 2],
    ratios: Family<Gauge>,
    state: IntGauge,
    forced: IntGauge,
    refusals: SlugCounters,
    ratio: Gauge,
}

impl Series for BreakerSeries {
    fn leave(&self) {
        let names = self.names.each_ref().map(String::as_str);
        self.counters.iter().for_each(|family| family.remove(&names));
        self.states.iter().for_each(|family| family.remove(&names));
        self.ratios.remove(&names);
    }
}

impl fmt::Debug for BreakerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BreakerMetrics").field(&self.0.series.names).finish()
    }
}

impl BreakerMetrics {
    /// Shows what holds by its number, and whether it holds because an operator says so.
    pub fn state(&self, number: i64, is_forced: bool) {
        self.0.series.state.set(number);
        self.0.series.forced.set(i64::from(is_forced));
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
