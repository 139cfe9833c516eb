//! What is counted about exchanges: by route, and calls of gRPC by method.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{Histogram, IntCounter, IntGauge};

use super::Metrics;
use super::family::{Family, Held, Series, SlugCounters, lock};
use crate::http::grpc;

/// The methods that are told apart; every other one counts as `other`, for a client can make up as many as it likes.
pub(super) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "other"];

/// The status classes, by the first digit; `none` where the exchange ended before a status was sent.
pub(super) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The most methods of gRPC that are told apart.
const GRPC_METHODS_MAX: usize = 256;

impl Metrics {
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
            cuts: SlugCounters::new(&families.cuts, &[name]),
            fallbacks: SlugCounters::new(&families.fallbacks, &[name]),
            calls: SlugCounters::new(&families.grpc_calls, &[name]),
            mirrored_family: families.mirrored.clone(),
            mirrored: SlugCounters::new(&families.mirrored, &[name]),
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
}

/// What is counted about a route.
#[derive(Clone)]
pub struct RouteMetrics(Arc<Held<RouteSeries>>);

pub(super) struct RouteSeries {
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
    cuts: SlugCounters,
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
        self.cuts.family.remove(&name);
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

    /// Counts an answer that was cut behind its head, by the slug of why.
    pub fn cut(&self, reason: &'static str) {
        self.0.series.cuts.add(reason, 1);
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

pub(super) fn method_index(method: &Method) -> usize {
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

pub(super) fn status_class_index(status: Option<StatusCode>) -> usize {
    let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
    // Statuses above 599 mean nothing to anyone; to a client they are failures of the server (RFC 9110 §15).
    class.min(STATUS_CLASSES.len() - 1)
}

/// Counts one thing as present until dropped.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl InFlight {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
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
