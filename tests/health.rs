//! Health checks: who is asked, who gets requests, what callers are told if nobody is well, and how soon that ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use http::HeaderValue;
use http_body_util::BodyExt;

use crate::harness::{Armiger, Backend, Config, Signal, answer, within};

const ROUTES: &str = "- {name: all, match: {path: \"/{rest...}\"}, proxy: {upstream: app}}";

/// A back end whose health and whose answers can be changed.
async fn patient(health: u16, status: u16) -> (Backend, Arc<AtomicU16>, Arc<AtomicU16>) {
    let (health, status) = (Arc::new(AtomicU16::new(health)), Arc::new(AtomicU16::new(status)));
    let (its_health, its_status) = (health.clone(), status.clone());
    let backend = Backend::with(move |seen| {
        let which = if seen.target == "/healthz" { &its_health } else { &its_status };
        answer(which.load(Ordering::Relaxed), "told")
    })
    .await;
    (backend, health, status)
}

fn requests(backend: &Backend) -> usize {
    backend.requests().iter().filter(|seen| seen.target != "/healthz").count()
}

async fn before(backends: &[&Backend], keys: &str) -> Armiger {
    let endpoints: Vec<String> = backends.iter().map(|backend| backend.url()).collect();
    let top = format!("upstreams: {{app: {{endpoints: {}, {keys}}}}}", serde_json::json!(endpoints));
    Armiger::with(Config::empty().top(&top).routes(ROUTES)).await
}

fn healthy(backend: &Backend) -> String {
    format!(r#"armiger_endpoint_healthy{{endpoint="{}",upstream="app"}}"#, backend.address())
}

/// Asks until the answer has this status.
async fn until_status(armiger: &Armiger, status: u16) {
    let asked = async {
        while armiger.get("/").await.status != status {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("a {status}"), asked).await;
}

const OFTEN: &str = "interval: 20ms, interval_ill: 10ms";

#[tokio::test]
async fn an_endpoint_that_is_ill_gets_no_requests_until_it_is_well() {
    let (ill, health, _) = patient(500, 200).await;
    let (well, ..) = patient(200, 200).await;
    let keys = format!("balance: round_robin, health: {{{OFTEN}, rise: 2, fall: 2}}");
    let armiger = before(&[&ill, &well], &keys).await;
    armiger.until_metric(&healthy(&ill), 0.0).await;

    let asked = requests(&ill);
    for _ in 0..6 {
        armiger.get("/").await.assert_status(200);
    }
    assert_eq!(requests(&ill), asked);
    let seen = ill.requests().into_iter().find(|seen| seen.target == "/healthz").unwrap();
    assert_eq!((seen.method.as_str(), seen.header("user-agent")), ("GET", "armiger-health"));
    assert_eq!(seen.header("host"), ill.address().to_string());

    health.store(204, Ordering::Relaxed);
    armiger.until_metric(&healthy(&ill), 1.0).await;
    for _ in 0..6 {
        armiger.get("/").await.assert_status(200);
    }
    assert_eq!(requests(&ill), asked + 3);
}

#[tokio::test]
async fn if_nobody_is_well_callers_are_told_at_once() {
    let (backend, health, _) = patient(503, 200).await;
    let armiger = before(&[&backend], &format!("health: {{{OFTEN}, rise: 1, fall: 1}}")).await;
    armiger.until_metric(&healthy(&backend), 0.0).await;
    let asked = requests(&backend);

    let refusal = armiger.get("/").await;

    refusal.assert_problem(503, "no-endpoint").assert_header("retry-after", "1");
    refusal.assert_header("proxy-status", "armiger; error=destination_unavailable");
    assert_eq!(requests(&backend), asked);
    let state = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(state["rows"][0]["endpoints"][0]["is_ill"], true);
    health.store(200, Ordering::Relaxed);
    until_status(&armiger, 200).await;
}

#[tokio::test]
async fn what_starts_ill_is_shown_so_before_it_has_answered() {
    let asked = Signal::new();
    let backend = Backend::serving(move |_| {
        let asked = asked.clone();
        async move {
            asked.wait().await;
            answer(200, "")
        }
    })
    .await;
    let armiger = before(&[&backend], "health: {timeout: 1m, start: ill}").await;
    backend.arrived(1).await;
    assert_eq!(armiger.metric(&healthy(&backend)).await, 0.0);
    armiger.get("/").await.assert_problem(503, "no-endpoint");
}

#[tokio::test]
async fn readiness_waits_for_a_back_end_that_is_to_be_waited_for() {
    let (backend, health, _) = patient(503, 200).await;
    let keys = format!("health: {{{OFTEN}, start: ill, rise: 1, ready_wait: 1h}}");
    let armiger = before(&[&backend], &keys).await;
    armiger.get("/").await.assert_problem(503, "no-endpoint");
    armiger.admin().get("/readyz").await.assert_status(503);

    health.store(200, Ordering::Relaxed);

    let ready = async {
        while armiger.admin().get("/readyz").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within("armiger to be ready", ready).await;
    armiger.get("/").await.assert_status(200);
}

#[tokio::test]
async fn a_connection_may_be_all_that_is_asked_for() {
    let (mut backend, ..) = patient(500, 200).await;
    let keys = format!("health: {{by: tcp, {OFTEN}, start: ill, rise: 1, fall: 1}}");
    let armiger = before(&[&backend], &keys).await;
    until_status(&armiger, 200).await;

    backend.stop();

    armiger.until_metric(&healthy(&backend), 0.0).await;
    armiger.get("/").await.assert_problem(503, "no-endpoint");
}

#[tokio::test]
async fn a_server_of_grpc_is_asked_in_its_own_words() {
    let serving = Arc::new(AtomicU16::new(2));
    let says = serving.clone();
    let backend = Backend::serving(move |request| {
        let says = says.clone();
        async move {
            request.into_body().collect().await.ok();
            let (chunks, mut answer) = crate::harness::streamed(200);
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            tokio::task::spawn_local(async move {
                let status = u8::try_from(says.load(Ordering::Relaxed)).unwrap();
                chunks.data(vec![0, 0, 0, 0, 2, 8, status]).await;
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                chunks.trailers(trailers).await;
            });
            answer
        }
    })
    .await;
    let keys = format!("protocol: h2c, health: {{by: grpc, service: shop.Orders, {OFTEN}, rise: 1, fall: 1}}");
    let armiger = before(&[&backend], &keys).await;
    armiger.until_metric(&healthy(&backend), 0.0).await;
    let asked = backend.received(1).await.remove(0);
    assert_eq!(asked.target, "/grpc.health.v1.Health/Check");
    assert_eq!(asked.body, b"\0\0\0\0\x0d\x0a\x0bshop.Orders");

    serving.store(1, Ordering::Relaxed);

    armiger.until_metric(&healthy(&backend), 1.0).await;
}

#[tokio::test]
async fn a_check_that_succeeds_lets_an_open_breaker_try_at_once() {
    let (backend, health, status) = patient(200, 503).await;
    let keys = format!(
        "breaker: {{trip: {{consecutive: 2}}, open_for: {{base: 1h, max: 1h}}}}, health: {{{OFTEN}, fall: 1000, start: well}}"
    );
    let armiger = before(&[&backend], &keys).await;
    within("the breaker to open", async {
        while armiger.metric(r#"armiger_breaker_state{endpoint="",route="",upstream="app"}"#).await != 2.0 {
            armiger.get("/").await;
        }
    })
    .await;
    // Only a check that follows one that failed says that something is over.
    health.store(503, Ordering::Relaxed);
    backend.arrived(backend.count() + 3).await;

    status.store(200, Ordering::Relaxed);
    health.store(200, Ordering::Relaxed);

    until_status(&armiger, 200).await;
    let cause = r#"armiger_breaker_transitions_total{cause="healthy",endpoint="",from="open",route="",to="half_open",upstream="app"}"#;
    armiger.until_metric(cause, 1.0).await;
}

#[tokio::test]
async fn checks_end_with_their_configuration() {
    let (backend, ..) = patient(500, 200).await;
    let with = Config::to(&backend).upstream(&format!("health: {{{OFTEN}, fall: 1}}"));
    let files = crate::harness::Files::of(with);
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    armiger.until_metric(&healthy(&backend), 0.0).await;

    files.replace("config.yaml", Config::to(&backend));
    armiger.in_force(2).await;

    // Nobody says any more that it is ill.
    armiger.get("/").await.assert_status(200);
}

#[tokio::test]
async fn an_edit_that_is_refused_makes_nobody_well() {
    let (backend, ..) = patient(500, 200).await;
    let with = Config::to(&backend).upstream(&format!("health: {{{OFTEN}, fall: 1}}"));
    let files = crate::harness::Files::of(with);
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    armiger.until_metric(&healthy(&backend), 0.0).await;

    files.replace("config.yaml", Config::to(&backend).top("acess_log: {}"));
    armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;

    armiger.get("/").await.assert_problem(503, "no-endpoint");
    assert_eq!(requests(&backend), 0);
}
