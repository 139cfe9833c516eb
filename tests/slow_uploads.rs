//! Clients that take their time to send a body: what that says of the upstream, which is nothing.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use hyper::body::Frame;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::{Armiger, Backend, Config, Connection, Response, Script, answer, within};

const ROUTES: &str = "- {name: all, match: {path: \"/{rest...}\"}, timeout: 20s, proxy: {upstream: app}}";

/// armiger with an upstream of these endpoints and keys.
async fn before(backends: &[&Backend], keys: &str) -> Armiger {
    let endpoints: Vec<String> = backends.iter().map(|backend| backend.url()).collect();
    let top = format!("upstreams: {{app: {{endpoints: {}, {keys}}}}}", serde_json::json!(endpoints));
    Armiger::with(Config::empty().top(&top).routes(ROUTES)).await
}

/// A body of a few bytes that comes within so long, and has an end then.
fn lasting(time: Duration) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    const PIECES: u32 = 10;
    http_body_util::StreamBody::new(futures_util::stream::unfold(0, move |sent| async move {
        if sent == PIECES {
            return None;
        }
        tokio::time::sleep(time / PIECES).await;
        Some((Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
    }))
}

/// What becomes of an upload that takes so long.
async fn upload(mut connection: Connection, time: Duration) -> Response {
    connection.request(Request::put("/up").body(lasting(time)).unwrap()).await
}

/// What becomes of so many at once.
async fn uploads(armiger: &Armiger, number: usize, is_http2: bool, time: Duration) -> Vec<Response> {
    let mut asked = JoinSet::new();
    for _ in 0..number {
        let connection = if is_http2 { armiger.connect_h2c().await } else { armiger.connect().await };
        asked.spawn(upload(connection, time));
    }
    within("the answers", asked.join_all()).await
}

#[tokio::test]
async fn a_try_has_its_time_from_when_the_body_is_there() {
    for protocol in ["http1", "h2c"] {
        let (one, other) = (Backend::replies("ok").await, Backend::replies("ok").await);
        let keys = format!(
            "protocol: {protocol}, retry: {{attempts: 2, when: [timeout], per_try: 150ms}}, \
             breaker: {{trip: {{consecutive: 2}}}}, ejection: {{consecutive: 2, share_max: 1.0}}"
        );
        let armiger = before(&[&one, &other], &keys).await;
        for is_http2 in [false, true] {
            for answer in uploads(&armiger, 5, is_http2, Duration::from_millis(600)).await {
                answer.assert_status(200).assert_no_header("x-armiger-attempts");
            }
        }
        armiger.get("/").await.assert_status(200);
        assert_eq!(armiger.metric(r#"armiger_breaker_state{upstream="app",endpoint="",route=""}"#).await, 0.0);
        assert_eq!(armiger.metric(r#"armiger_upstream_retries_total{class="policy",upstream="app"}"#).await, 0.0);
    }
}

#[tokio::test]
async fn a_try_that_hangs_behind_a_slow_upload_is_late_all_the_same() {
    let hangs = Backend::raw(Script::new().request().hang()).await;
    let good = Backend::with(|_| answer(200, "good")).await;
    let keys = "balance: round_robin, retry: {attempts: 2, when: [timeout], per_try: 150ms}";
    let armiger = before(&[&hangs, &good], keys).await;
    for _ in 0..2 {
        upload(armiger.connect().await, Duration::from_millis(400)).await.assert_status(200);
    }
    let line = armiger.logged(|line| line["attempts"].as_array().is_some_and(|tries| tries.len() == 2)).await;
    assert_eq!(line["attempts"][0]["outcome"], "upstream-timeout");
    assert!(line["attempts"][0]["ms"].as_f64().unwrap() >= 540.0, "{line}");
    assert!(good.requests().iter().all(|seen| seen.body == b"xxxxxxxxxx"));
}

#[tokio::test]
async fn an_upstream_that_does_not_take_the_body_is_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let keys = "retry: {attempts: 2, per_try: 200ms}";
    let armiger = Armiger::with(Config::to_url(&url).upstream(keys)).await;
    let began = Instant::now();
    armiger.post("/", vec![0; 8 << 20]).await.assert_problem(504, "upstream-timeout");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_used_up_the_time_is_told_by_what_each_had() {
    let slow = Backend::seen(async |seen| {
        if seen.method == "PUT" {
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        answer(200, "")
    })
    .await;
    let upstream = "breaker: {trip: {consecutive: 2}}\nejection: {consecutive: 2}";
    let armiger = Armiger::with(Config::to(&slow).upstream(upstream).route("timeout: 1s")).await;
    for answer in uploads(&armiger, 4, false, Duration::from_millis(800)).await {
        answer.assert_problem(504, "deadline-exceeded");
    }
    armiger.get("/").await.assert_status(200);
}

#[tokio::test]
async fn what_an_upstream_bears_is_not_learnt_from_slow_uploads() {
    let backend = Backend::replies("ok").await;
    let armiger = before(&[&backend], "limits: {in_flight_max: 64, adaptive: {min: 4, tolerance: 20.0}}").await;
    let bound = r#"armiger_upstream_in_flight_bound{upstream="app"}"#;
    // How long it takes when there is little to do.
    let began = Instant::now();
    let mut connection = armiger.connect().await;
    while began.elapsed() < Duration::from_millis(400) {
        connection.get("/").await.assert_status(200);
    }
    let before = armiger.metric(bound).await;
    for _ in 0..3 {
        uploads(&armiger, 12, false, Duration::from_millis(300)).await;
    }
    assert!(armiger.metric(bound).await >= before, "{before}, {}", armiger.metric(bound).await);
}

#[tokio::test]
async fn slow_uploads_do_not_put_off_the_second_endpoint() {
    let one = Backend::seen(async |seen| {
        if seen.target == "/slow" {
            std::future::pending::<()>().await;
        }
        answer(200, "one")
    })
    .await;
    let other = Backend::replies("other").await;
    let armiger = before(&[&one, &other], "balance: round_robin, hedge: {floor: 50ms}").await;
    uploads(&armiger, 60, false, Duration::from_millis(1500)).await;
    let began = Instant::now();
    for _ in 0..2 {
        armiger.get("/slow").await.assert_status(200);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
