//! A copy of requests for another upstream. Nobody waits for it, and nobody sees what comes of it.
//!
//! A copy is a task of the worker, whose end waits for it. It ends with its answer, at the route's timeout, or when what is
//! left is cut; there are no more of them at once than the route allows. It is made of what the upstream was sent, so only
//! of a body that was read whole.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use smallvec::SmallVec;

use super::Surroundings;
use super::outgoing::size;
use crate::config::upstream::Class;
use crate::config::{Issue, Issues, KeyPath, route};
use crate::exchange::Exchange;
use crate::http::body::{Body, Inbound, Replay};
use crate::http::headers::name;
use crate::http::proxy_protocol::Ends;
use crate::telemetry::finish::{Occupancy, Occupied};
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::timer::Wheel;
use crate::upstream::{Call, HostRule, Pools, Tells, Upstream};

/// What of an answer is read so that its connection can be used again.
const ANSWER_MAX: usize = 64 * 1024;

/// What copies run on.
pub(super) struct Mirror(Arc<Rules>);

struct Rules {
    upstream: Arc<Upstream>,
    share: f64,
    body_max: usize,
    in_flight_max: u32,
    timeout: Duration,
    places: Arc<Occupancy>,
    metrics: RouteMetrics,
    all: Metrics,
}

/// A copy that is to be sent.
pub(super) struct Copy {
    rules: Arc<Rules>,
    /// Taken until it is over.
    _place: Occupied,
    request: Request<Body>,
    host: HostRule,
    ends: Ends,
    key: Option<u64>,
    body: Source,
    wheel: Wheel,
}

/// Where a copy's body comes from.
enum Source {
    /// It is here.
    Here,
    /// It passes.
    Passing(Rc<Replay>, Rc<Inbound>),
}

impl Mirror {
    /// Compiles it, or reports what is wrong with it.
    pub(super) fn compile(
        config: &route::Mirror,
        around: &Surroundings<'_>,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        if !(config.share > 0.0 && config.share <= 1.0) {
            issues.push(
                Issue::new(path.key("share"), format!("{} is no share of the requests", config.share))
                    .hint("choose from above 0.0 up to 1.0, or leave `mirror` out"),
            );
        }
        if config.in_flight_max == 0 {
            issues.push(Issue::new(path.key("in_flight_max"), "`0` would send no copy").hint("leave `mirror` out"));
        }
        size(config.body_max.get(), path.key("body_max"), issues);
        let upstream = (around.upstream)(&config.upstream, path.key("upstream"), issues)?;
        if upstream.plan.third_party {
            issues.push(
                Issue::new(path.key("upstream"), "is somebody else's, and a copy has the credentials of callers")
                    .hint("name an upstream without `third_party`"),
            );
        }
        (issues.len() == before).then(|| {
            Self(Arc::new(Rules {
                upstream,
                share: config.share,
                body_max: usize::try_from(config.body_max.get()).unwrap_or(usize::MAX),
                in_flight_max: config.in_flight_max,
                timeout: around.timeout,
                places: around.copies.clone().unwrap_or_default(),
                metrics: around.metrics.route(around.route),
                all: around.metrics.clone(),
            }))
        })
    }

    /// A copy of this request, which is about to be sent, if there is to be one.
    pub(super) fn copy(&self, exchange: &mut Exchange, host: HostRule) -> Option<Box<Copy>> {
        let rules = &self.0;
        if rules.share < 1.0 && fastrand::f64() >= rules.share {
            return None;
        }
        let Some(place) = rules.places.take(rules.in_flight_max) else {
            rules.all.limit_hit("mirror.in_flight_max");
            rules.metrics.mirrored("dropped_busy");
            return None;
        };
        let key = rules.upstream.key(&exchange.request, exchange.client.address);
        let (body, source) = match exchange.request.body_mut() {
            Body::Empty => (Body::Empty, Source::Here),
            Body::Full(bytes) if bytes.len() <= rules.body_max => (Body::full(bytes.clone()), Source::Here),
            Body::Received(received) if received.size_hint().lower() <= rules.body_max as u64 => {
                let passing = Source::Passing(received.copy(rules.body_max), received.inbound().clone());
                (Body::Empty, passing)
            }
            _ => {
                rules.metrics.mirrored("dropped_body");
                return None;
            }
        };
        let mut request = exchange.bare_request();
        *request.body_mut() = body;
        request.headers_mut().insert(&name::X_ARMIGER_MIRROR, HeaderValue::from_static("1"));
        // In a box: few exchanges have one, and all would have its room.
        Some(Box::new(Copy {
            rules: rules.clone(),
            _place: place,
            request,
            host,
            ends: exchange.client.ends(),
            key,
            body: source,
            wheel: exchange.wheel.clone(),
        }))
    }
}

impl Copy {
    /// Whether it can be sent at once.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.body, Source::Here)
    }

    /// Sends it, in a task of its own. A body that was not read whole by now is not waited for.
    pub(super) fn send(mut self: Box<Self>, pools: &Rc<Pools>) {
        if let Source::Passing(replay, inbound) = &self.body {
            let Some(bytes) = replay.take(inbound) else { return self.rules.metrics.mirrored("dropped_body") };
            *self.request.body_mut() = Body::full(bytes);
        }
        let (pools, unfinished) = (pools.clone(), pools.unfinished().begin());
        tokio::task::spawn_local(async move {
            let _unfinished = unfinished;
            let mut timer = self.wheel.timer();
            timer.arm(self.rules.timeout);
            let rules = self.rules.clone();
            let outcome = {
                let asking = pin!(self.ask(&pools));
                tokio::select! {
                    biased;
                    outcome = asking => outcome,
                    () = timer.expired() => "timeout",
                }
            };
            rules.metrics.mirrored(outcome);
        });
    }

    async fn ask(mut self: Box<Self>, pools: &Pools) -> &'static str {
        let mut attempts = SmallVec::new();
        let deadline = Instant::now() + self.rules.timeout;
        // Where the mirror has too much to do, copies are the first to go.
        let call = Call::new(self.host, deadline, self.key, &mut attempts)
            .of_route(deadline, Class::Bulk, Tells::default())
            .of_client(self.ends);
        let answer = match self.rules.upstream.send(pools, call, &mut self.request).await {
            Ok(answer) => answer,
            Err(error) => {
                let upstream = &self.rules.upstream.name;
                tracing::debug!(%upstream, error = &error as &dyn std::error::Error, "copy of a request failed");
                return "failed";
            }
        };
        let mut body = answer.into_body();
        let mut left = ANSWER_MAX;
        // Read for the sake of its connection alone.
        while !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else { break };
            match left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        "answered"
    }
}
