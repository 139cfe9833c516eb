//! Health checks: each endpoint is asked from time to time, in the background, on connections of their own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Uri, Version, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::background::{self, Awaited, Background, Desk, Ticket};
use super::breaker::{self, Breaker};
use super::connect;
use super::endpoint::Endpoint;
use super::http2::LocalExec;
use super::link::{Scratch, Wire};
use super::lookup::Lookups;
use super::standing::{Live, OfRoutes};
use crate::config::health::{self, By, Start};
use crate::config::upstream::Protocol;
use crate::config::value::Statuses;
use crate::http::body::Body;
use crate::http::proxy_protocol;
use crate::keep::{Identity, Keeper};
use crate::telemetry::metrics::EndpointMetrics;
use crate::timer::Wheel;

/// The most of an answer that is read.
const ANSWER_MAX: usize = 64 * 1024;

/// What health checks go by.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) by: By,
    pub(super) target: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) statuses: Box<[Statuses]>,
    pub(super) service: Box<str>,
    pub(super) interval: Duration,
    pub(super) interval_ill: Duration,
    pub(super) timeout: Duration,
    pub(super) rise: u32,
    pub(super) fall: u32,
    pub(super) start: Start,
    pub(super) ready_wait: Option<Duration>,
}

impl Plan {
    /// As a configuration says, which was found good.
    pub(super) fn of(config: &health::Health) -> Self {
        Self {
            by: config.by,
            target: config.path.parse().unwrap_or_default(),
            host: config.host.as_ref().and_then(|host| HeaderValue::from_str(host).ok()),
            statuses: config.status.clone().into(),
            service: config.service.as_str().into(),
            interval: config.interval.get(),
            interval_ill: config.interval_ill.get().min(config.interval.get()),
            timeout: config.timeout.get(),
            rise: config.rise,
            fall: config.fall,
            start: config.start,
            ready_wait: config.ready_wait.map(|wait| wait.get()),
        }
    }
}

/// What is asked, and who is told.
pub struct Round {
    pub(super) plan: Plan,
    pub(super) protocol: Protocol,
    pub(super) proxy_protocol: Option<proxy_protocol::Version>,
    pub(super) breaker: Option<breaker::Plan>,
    pub(super) own: Option<Arc<Breaker>>,
    pub(super) of_routes: Arc<OfRoutes>,
    pub(super) patients: Vec<Patient>,
}

/// An endpoint that is asked.
pub struct Patient {
    pub(super) endpoint: Endpoint,
    pub(super) live: Arc<Live>,
    pub(super) breaker: Option<Arc<Breaker>>,
    pub(super) metrics: EndpointMetrics,
}

/// The checks of an upstream.
pub struct Health {
    upstream: Arc<str>,
    ticket: Ticket,
    round: Mutex<Option<Arc<Round>>>,
    changed: Arc<Notify>,
}

impl Health {
    /// Those of the upstream of this name.
    pub(super) fn keep(upstream: &str, keeper: &mut Keeper<'_>) -> Arc<Self> {
        keeper.keep(Identity::of("health", upstream), || Self::new(upstream))
    }

    fn new(upstream: &str) -> Self {
        Self { upstream: upstream.into(), ticket: Ticket::default(), round: Mutex::default(), changed: Arc::default() }
    }

    fn round(&self) -> Option<Arc<Round>> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Background for Health {
    type Plan = Round;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, plan: &Arc<Round>) {
        let before = self.round.lock().unwrap_or_else(PoisonError::into_inner).replace(plan.clone());
        if before.is_none() && plan.plan.start == Start::Well {
            plan.patients.iter().for_each(|patient| patient.live.is_unasked());
        }
        self.changed.notify_one();
    }

    async fn work(state: Weak<Self>, desk: Desk) {
        let lookups = Lookups::default();
        let mut asking = JoinSet::new();
        let mut known: HashSet<Arc<str>> = HashSet::new();
        loop {
            let Some((round, changed)) = state.upgrade().map(|health| (health.round(), health.changed.clone())) else {
                return;
            };
            for patient in round.iter().flat_map(|round| &round.patients) {
                let label = patient.endpoint.label.clone();
                if known.insert(label.clone()) {
                    let (state, wheel, lookups) = (state.clone(), desk.wheel.clone(), lookups.clone());
                    asking.spawn_local(async move {
                        background::anew(|| attend(&state, &label, &wheel, &lookups)).await;
                        label
                    });
                }
            }
            drop(round);
            tokio::select! {
                () = changed.notified() => {}
                Some(done) = asking.join_next(), if !asking.is_empty() => match done {
                    Ok(label) => drop(known.remove(&label)),
                    Err(error) => tracing::error!(%error, "health checks broke off"),
                },
            }
        }
    }

    fn awaited(&self, round: &Round) -> Option<Awaited> {
        let wait = round.plan.ready_wait?;
        // Behind names there may be others by now.
        let now = self.round();
        let round = now.as_deref().unwrap_or(round);
        let well = round.patients.iter().filter(|patient| patient.live.is_known_well()).count();
        Some(Awaited {
            name: format!("upstream {}", self.upstream),
            is_there: well > 0,
            wait,
            detail: format!("{well} of {} endpoints are well", round.patients.len()),
        })
    }
}

/// What checks in a row come to.
#[derive(Debug, Default)]
struct Monitor {
    is_well: Option<bool>,
    /// Checks in a row that said otherwise.
    against: u32,
}

impl Monitor {
    /// What the endpoint is taken for from now on, if that changed.
    fn note(&mut self, is_good: bool, rise: u32, fall: u32) -> Option<bool> {
        if self.is_well == Some(is_good) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.is_well.is_some() && self.against < if is_good { rise } else { fall } {
            return None;
        }
        (self.is_well, self.against) = (Some(is_good), 0);
        self.is_well
    }

    /// Whether it is to be asked again soon.
    fn is_in_doubt(&self) -> bool {
        self.is_well != Some(true) || self.against > 0
    }
}

/// Says what became of an endpoint. That it is well, from the start or again, is no reason to wake anybody.
fn tell(upstream: Option<&str>, endpoint: &str, why: Option<&str>) {
    const WHAT: &str = "endpoint's health changed";
    match why {
        None => tracing::info!(upstream, endpoint, is_well = true, "{WHAT}"),
        Some(why) => tracing::warn!(upstream, endpoint, is_well = false, why, "{WHAT}"),
    }
}

/// Asks one endpoint, for as long as it is in the plan.
async fn attend(state: &Weak<Health>, label: &Arc<str>, wheel: &Wheel, lookups: &Lookups) {
    let mut monitor = Monitor::default();
    let mut last_was_good = true;
    let mut timer = wheel.timer();
    loop {
        let Some(round) = state.upgrade().and_then(|health| health.round()) else { return };
        let Some(patient) = round.patients.iter().find(|patient| patient.endpoint.label == *label) else { return };
        let found = ask(patient, &round, wheel, lookups).await;
        let (is_good, now) = (found.is_ok(), Instant::now());
        if let Some(is_well) = monitor.note(is_good, round.plan.rise, round.plan.fall) {
            patient.live.is_found(is_well, now);
            patient.metrics.health(is_well);
            let upstream = state.upgrade().map(|health| health.upstream.clone());
            tell(upstream.as_deref(), label, found.as_ref().err().map(String::as_str));
        }
        let of_routes = || round.of_routes.all().into_iter().map(|(_, breaker)| breaker);
        let breakers = || patient.breaker.iter().chain(&round.own).cloned().chain(of_routes());
        if is_good
            && !last_was_good
            && let Some(plan) = &round.breaker
        {
            breakers().for_each(|breaker| breaker.hurry(&plan.rules, now));
        }
        last_was_good = is_good;
        // A tenth more or less, so that many armigers do not all ask at once.
        let spread = |interval: Duration| interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        let due = now + spread(round.plan.interval);
        loop {
            timer.arm(spread(round.plan.interval_ill));
            std::future::poll_fn(|cx| timer.poll_expired(cx)).await;
            timer.disarm();
            let is_troubled = monitor.is_in_doubt() || breakers().any(|breaker| !breaker.is_closed());
            if is_troubled || Instant::now() >= due || Arc::strong_count(&round) == 1 {
                break;
            }
        }
    }
}

type Found = Result<(), String>;

async fn ask(patient: &Patient, round: &Round, wheel: &Wheel, lookups: &Lookups) -> Found {
    let mut timer = wheel.timer();
    let mut limit = wheel.timer();
    limit.arm(round.plan.timeout);
    let asked = Box::pin(ask_in_time(patient, round, lookups, &mut timer));
    connect::within(&mut limit, asked).await.unwrap_or_else(|| Err("no answer in time".into()))
}

async fn ask_in_time(patient: &Patient, round: &Round, lookups: &Lookups, timer: &mut crate::timer::Timer) -> Found {
    let (endpoint, plan) = (&patient.endpoint, &round.plan);
    let told = |error: super::Error| error.to_string();
    // As many as there are endpoints, and no client can make them more.
    let files = u64::MAX;
    let mut stream = connect::connect(&endpoint.address, lookups, files, plan.timeout, timer).await.map_err(told)?;
    if let Some(version) = round.proxy_protocol {
        connect::introduce(&mut stream, version, None, plan.timeout, timer).await.map_err(told)?;
    }
    if let Some(tls) = &endpoint.tls {
        stream = connect::secure(stream, tls, plan.timeout, round.protocol, timer).await.map_err(told)?;
    }
    let request = match plan.by {
        By::Tcp => return Ok(()),
        By::Http => question(endpoint, plan, round.protocol),
        By::Grpc => grpc_question(endpoint, plan),
    };
    let wire = TokioIo::new(Wire::new(stream, Scratch::default()));
    let broken = |error: hyper::Error| error.to_string();
    if round.protocol.is_http2() {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(LocalExec::default(), wire).await.map_err(broken)?;
        let driver = Driver(tokio::task::spawn_local(connection));
        let response = sender.send_request(request).await.map_err(broken)?;
        judge(response, plan, driver).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(wire).await.map_err(broken)?;
        let driver = Driver(tokio::task::spawn_local(connection));
        let response = sender.send_request(request).await.map_err(broken)?;
        judge(response, plan, driver).await
    }
}

/// Runs a connection for as long as its answer is wanted.
struct Driver<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn question(endpoint: &Endpoint, plan: &Plan, protocol: Protocol) -> Request<Body> {
    let mut request = Request::new(Body::Empty);
    let host = plan.host.clone().unwrap_or_else(|| endpoint.host.clone());
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("armiger-health"));
    if protocol.is_http2() {
        let authority = host.to_str().ok().and_then(|host| host.parse().ok());
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::builder()
            .scheme(if endpoint.is_https { "https" } else { "http" })
            .authority(authority.unwrap_or_else(|| endpoint.authority.clone()))
            .path_and_query(plan.target.path_and_query().map_or("/", |target| target.as_str()))
            .build()
            .unwrap_or_default();
    } else {
        headers.insert(header::HOST, host);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        *request.uri_mut() = plan.target.clone();
    }
    request
}

/// A message of one field, the service's name, in gRPC's envelope.
fn grpc_question(endpoint: &Endpoint, plan: &Plan) -> Request<Body> {
    let service = plan.service.as_bytes();
    let mut message = Vec::with_capacity(service.len() + 2);
    if !service.is_empty() {
        // Field 1, of bytes; names of services are shorter than 128 bytes, as was checked.
        message.extend([0x0a, u8::try_from(service.len()).unwrap_or(0)]);
        message.extend(service);
    }
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend(message);
    let mut request = Request::new(Body::full(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    let uri = Uri::builder()
        .scheme(if endpoint.is_https { "https" } else { "http" })
        .authority(endpoint.authority.clone())
        .path_and_query("/grpc.health.v1.Health/Check")
        .build();
    *request.uri_mut() = uri.unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

async fn judge<T>(response: http::Response<hyper::body::Incoming>, plan: &Plan, driver: Driver<T>) -> Found {
    let status = response.status().as_u16();
    if plan.by == By::Http {
        let is_good = plan.statuses.iter().any(|some| some.contains(status));
        return if is_good { Ok(()) } else { Err(format!("status {status}")) };
    }
    let head = response.headers().get("grpc-status").cloned();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| error.to_string())?;
    let trailer = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    drop(driver);
    match trailer.or(head).as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(other) => return Err(format!("gRPC status {}", String::from_utf8_lossy(other).escape_default())),
        None => return Err("no gRPC status".into()),
    }
    if is_serving(body.to_bytes()) { Ok(()) } else { Err("it says that it is not serving".into()) }
}

/// Whether a HealthCheckResponse says SERVING: field 1, of a number, is 1.
fn is_serving(mut body: Bytes) -> bool {
    if body.len() < 5 {
        return false;
    }
    body.advance(5);
    *body == [0x08, 0x01]
}

impl Round {
    /// What is asked of these endpoints.
    pub(super) fn of(plan: &super::Plan, standings: &super::Standings) -> Option<Self> {
        let patients = plan.endpoints.iter().zip(&standings.endpoints).map(|(endpoint, standing)| Patient {
            endpoint: endpoint.clone(),
            live: standing.live.clone(),
            breaker: standing.breaker.clone(),
            metrics: standing.metrics.clone(),
        });
        Some(Self {
            plan: plan.health.clone()?,
            protocol: plan.protocol,
            proxy_protocol: plan.proxy_protocol,
            breaker: plan.breaker.clone(),
            own: standings.breaker.clone(),
            of_routes: standings.of_routes.clone(),
            patients: patients.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_check_counts_alone_and_then_it_takes_several_in_a_row() {
        let mut monitor = Monitor::default();
        let mut note = |is_good| monitor.note(is_good, 2, 3);
        assert_eq!(note(true), Some(true));
        assert_eq!([note(false), note(false), note(true)], [None, None, None], "one good one saves it");
        assert_eq!([note(false), note(false), note(false)], [None, None, Some(false)]);
        assert_eq!([note(true), note(false), note(true), note(true)], [None, None, None, Some(true)]);
        let mut monitor = Monitor::default();
        assert_eq!(monitor.note(false, 2, 3), Some(false));
    }

    #[test]
    fn what_is_in_doubt_is_asked_soon() {
        let mut monitor = Monitor::default();
        assert!(monitor.is_in_doubt());
        monitor.note(true, 1, 2);
        assert!(!monitor.is_in_doubt());
        monitor.note(false, 1, 2);
        assert!(monitor.is_in_doubt(), "once is not enough, but a reason to look");
        monitor.note(false, 1, 2);
        assert!(monitor.is_in_doubt());
    }

    #[test]
    fn an_answer_of_grpc_says_serving_in_one_way() {
        for (body, expected) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], true),
            (b"\0\0\0\0\x02\x08\x02", false),
            (b"\0\0\0\0\x00", false),
            (b"", false),
        ] {
            assert_eq!(is_serving(Bytes::from_static(body)), expected, "{body:?}");
        }
    }
}
