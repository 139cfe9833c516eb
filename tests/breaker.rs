//! Breakers: what opens them, what callers are told meanwhile, what does not reach the upstream, and how they close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::harness::{Armiger, Backend, Config, Files, Script, answer, within};

/// Opens after three failures in a row and stays so until the test ends.
const THREE: &str = "breaker: {trip: {consecutive: 3}, open_for: {base: 1m}}";

/// A back end that answers with a status that can be changed.
async fn moody(status: u16) -> (Backend, Arc<AtomicU16>) {
    let mood = Arc::new(AtomicU16::new(status));
    let now = mood.clone();
    (Backend::with(move |_| answer(now.load(Ordering::Relaxed), "told")).await, mood)
}

#[tokio::test]
async fn who_would_hold_a_breaker_that_is_not_there_is_told_how_to_have_one() {
    let (backend, _) = moody(200).await;
    let armiger = Armiger::with(Config::to(&backend)).await;
    let asked = Request::post("/breakers/app?set=force-open").body(Full::<Bytes>::default()).unwrap();
    let answer = armiger.admin().request(asked).await;
    let told = "the upstream `app` has no breaker: write `breaker: {}` under `upstreams.app`, which needs no restart\n";
    assert_eq!(answer.assert_status(404).text(), told);
}

#[tokio::test]
async fn an_open_breaker_answers_at_once_and_nothing_reaches_the_upstream() {
    let (backend, _) = moody(500).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE)).await;
    for _ in 0..3 {
        armiger.get("/").await.assert_status(500);
    }

    let refusal = armiger.get("/").await;

    refusal.assert_problem(503, "breaker-open").assert_header("cache-control", "no-store");
    refusal.assert_header("proxy-status", "armiger; error=destination_unavailable");
    let retry_after: u64 = refusal.header("retry-after").parse().unwrap();
    assert!((50..=66).contains(&retry_after), "a minute, give or take a tenth: {retry_after}");
    assert_eq!(backend.count(), 3);
    let line = armiger.logged(|line| line["reason"] == "breaker-open").await;
    assert_eq!(line["attempts"], json!(null), "there was no attempt");
    armiger.until_metric(r#"armiger_breaker_state{endpoint="",route="",upstream="app"}"#, 2.0).await;
    let changes = r#"armiger_breaker_transitions_total{cause="consecutive",endpoint="",from="closed",route="",to="open",upstream="app"}"#;
    armiger.until_metric(changes, 1.0).await;
    let refusals = r#"armiger_breaker_refusals_total{endpoint="",reason="open",route="",upstream="app"}"#;
    armiger.until_metric(refusals, 1.0).await;
    let state = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(state["rows"][0]["breaker"]["state"], "open");
    assert_eq!(state["rows"][0]["breaker"]["refused"], 1);
}

#[tokio::test]
async fn callers_of_grpc_are_told_in_their_own_words() {
    let (backend, _) = moody(503).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE)).await;
    for _ in 0..3 {
        armiger.get("/").await;
    }
    let call = Request::post("/a.B/C").header("content-type", "application/grpc").body(Full::from("")).unwrap();

    let refusal = armiger.connect_h2c().await.request(call).await;

    refusal.assert_status(200).assert_header("grpc-status", "14");
}

#[tokio::test]
async fn what_clients_do_never_opens_it() {
    let (backend, _) = moody(404).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE)).await;

    for _ in 0..10 {
        armiger.get("/").await.assert_status(404);
    }

    assert_eq!(backend.count(), 10);
}

#[tokio::test]
async fn a_client_that_gives_up_is_no_failure_of_the_upstream() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE)).await;

    for n in 1..=5 {
        let conversation = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        backend.received(n).await;
        conversation.reset();
        backend.closed(n).await;
    }

    let state = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(state["rows"][0]["breaker"]["state"], "closed");
    assert_eq!(state["rows"][0]["breaker"]["requests"], 0);
}

#[tokio::test]
async fn an_upstream_that_hangs_until_the_routes_time_is_over_has_failed() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE).route("timeout: 30ms")).await;

    for _ in 0..3 {
        armiger.get("/").await.assert_problem(504, "deadline-exceeded");
    }

    armiger.get("/").await.assert_problem(503, "breaker-open");
}

#[tokio::test]
async fn an_answer_that_is_cut_counts_though_its_head_was_good() {
    let script = Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal");
    let backend = Backend::raw(script).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE)).await;

    for n in 1..=3 {
        let mut conversation = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        conversation.rest().await;
        backend.closed(n).await;
    }

    armiger.get("/").await.assert_problem(503, "breaker-open");
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn a_failure_that_grpc_tells_after_the_body_counts() {
    let backend = Backend::serving(|_| async {
        let (chunks, mut answer) = crate::harness::streamed(200);
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        tokio::task::spawn_local(async move {
            chunks.data("\0\0\0\0\x02hi").await;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
            chunks.trailers(trailers).await;
        });
        answer
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c").upstream(THREE)).await;
    let mut client = armiger.connect_h2c().await;
    let call =
        || Request::post("/a.B/C").header("content-type", "application/grpc").body(Full::<Bytes>::from("")).unwrap();

    for _ in 0..3 {
        client.request(call()).await.assert_status(200);
    }

    client.request(call()).await.assert_status(200).assert_header("grpc-status", "14");
    assert_eq!(backend.count(), 3, "the fourth was refused by armiger");
}

/// The sidecar's own case: one back end, and it hangs.
#[tokio::test]
async fn callers_of_a_back_end_that_hangs_get_an_answer_soon() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(
        Config::to(&backend)
            .upstream("breaker: {trip: {consecutive: 5}, open_for: {base: 1m}, failure: {slow_call: 100ms}}"),
    )
    .await;
    let (address, let_in) = (armiger.address(), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let mut callers = tokio::task::JoinSet::new();

    let refused_after = loop {
        let mut caller = crate::harness::Client::to(address).raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(10), caller.answer()).await {
            answer.assert_problem(503, "breaker-open");
            break began.elapsed();
        }
        let_in.fetch_add(1, Ordering::Relaxed);
        callers.spawn(async move { caller.answer().await });
    };

    // Half a second in earnest; this machine may be slow, and the calls came ten milliseconds apart.
    assert!(refused_after < Duration::from_secs(2), "{refused_after:?}");
    assert_eq!(backend.count(), let_in.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_client_that_sends_slowly_says_nothing_of_the_upstream() {
    let backend = Backend::replies("ok").await;
    let breaker = "breaker: {trip: {consecutive: 2}, open_for: {base: 1m}, failure: {slow_call: 200ms}}";
    let armiger = Armiger::with(Config::to(&backend).upstream(breaker)).await;
    for _ in 0..3 {
        let mut client = armiger.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n").await;
        client.write("a").await;
        // The pace of a client that is slow on purpose.
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.write("b").await;
        client.answer().await.assert_status(200);
    }
    armiger.get("/").await.assert_status(200);
    assert_eq!(armiger.metric(r#"armiger_breaker_state{endpoint="",route="",upstream="app"}"#).await, 0.0);
}

#[tokio::test]
async fn probes_close_it_again_when_the_upstream_is_back() {
    let (backend, mood) = moody(502).await;
    let breaker =
        "breaker: {trip: {consecutive: 2}, open_for: {base: 50ms, jitter: 0.0}, half_open: {max_requests: 2}}";
    let armiger = Armiger::with(Config::to(&backend).upstream(breaker)).await;
    for _ in 0..2 {
        armiger.get("/").await.assert_status(502);
    }
    armiger.get("/").await.assert_header("retry-after", "1");
    mood.store(200, Ordering::Relaxed);

    let back = async {
        while armiger.get("/").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within("the breaker to try again", back).await;

    armiger.get("/").await.assert_status(200);
    let state = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(state["rows"][0]["breaker"]["state"], "closed");
}

#[tokio::test]
async fn of_two_endpoints_one_may_be_left_alone() {
    let (bad, _) = moody(503).await;
    let good = Backend::replies("good").await;
    let yaml = format!(
        "upstreams: {{app: {{endpoints: [\"{}\", \"{}\"], breaker: {{scope: endpoint, trip: {{consecutive: 2}}}}}}}}",
        bad.url(),
        good.url()
    );
    let routes = "- {name: all, match: {path: \"/{rest...}\"}, proxy: {upstream: app}}";
    let armiger = Armiger::with(Config::empty().top(&yaml).routes(routes)).await;

    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(armiger.get("/").await.status != 200);
    }

    assert_eq!((failed, bad.count()), (2, 2));
}

#[tokio::test]
async fn of_two_routes_one_may_be_left_alone() {
    let backend = Backend::with(|seen| answer(if seen.target == "/bad" { 500 } else { 200 }, "told")).await;
    let three = THREE.replace("breaker: {", "breaker: {scope: route, ");
    let route = |name: &str| format!("- {{name: {name}, match: {{path: /{name}}}, proxy: {{upstream: app}}}}");
    let config = Config::to(&backend).upstream(&three).routes(&route("good")).routes(&route("bad"));
    let armiger = Armiger::with(config).await;
    for _ in 0..3 {
        armiger.get("/bad").await.assert_status(500);
    }
    armiger.get("/bad").await.assert_problem(503, "breaker-open");
    armiger.get("/good").await.assert_status(200);

    armiger.until_metric(r#"armiger_breaker_state{endpoint="",route="bad",upstream="app"}"#, 2.0).await;
    assert_eq!(armiger.metric(r#"armiger_breaker_state{endpoint="",route="good",upstream="app"}"#).await, 0.0);
    let rows = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(rows["rows"][0]["breakers_of_routes"]["bad"]["state"], "open");
    assert_eq!(rows["rows"][0]["breakers_of_routes"]["good"]["requests"], 1);
    assert_eq!(backend.count(), 4);

    // Operators overrule that of one route, and no other.
    let order = async |query: &str| armiger.admin().post(&format!("/breakers/app?{query}"), "").await.status;
    assert_eq!(order("set=reset&route=bad").await, 200);
    assert_eq!(order("set=force-open&route=good").await, 200);
    armiger.get("/bad").await.assert_status(500);
    armiger.get("/good").await.assert_problem(503, "breaker-open");
    assert_eq!(order("set=reset&route=nobody").await, 404);
    assert_eq!(order("set=reset&route=good&endpoint=127.0.0.1:1").await, 400);
}

#[tokio::test]
async fn a_breaker_outlives_a_reload_and_takes_its_new_rules() {
    let (backend, _) = moody(500).await;
    let files = Files::of(Config::to(&backend).upstream(THREE));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    for _ in 0..3 {
        armiger.get("/").await.assert_status(500);
    }
    let other = Config::to(&backend).upstream("breaker: {trip: {consecutive: 7}, open_for: {base: 1m}}");
    files.replace("config.yaml", other);
    armiger.in_force(2).await;

    armiger.get("/").await.assert_problem(503, "breaker-open");

    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn an_operator_opens_closes_and_resets_it() {
    let (backend, mood) = moody(200).await;
    let files = Files::none();
    files.write("token", "0123456789abcdef\n");
    let token = files.path("token");
    let top = format!("admin: {{address: \"127.0.0.1:0\", token: \"${{file:{}}}\"}}", token.display());
    let armiger = Armiger::with(Config::to(&backend).top(&top).upstream(THREE)).await;
    let order = async |query: &str| {
        let request = Request::post(format!("/breakers/{query}")).header("authorization", "Bearer 0123456789abcdef");
        armiger.admin().request(request.body(Full::<Bytes>::default()).unwrap()).await.status
    };

    assert_eq!(order("app?set=force-open&for=2m").await, 200);
    let refusal = armiger.get("/").await;
    assert_eq!(refusal.assert_problem(503, "breaker-open").header("retry-after"), "120");
    assert_eq!(order("app?set=force-closed").await, 200);
    mood.store(500, Ordering::Relaxed);
    for _ in 0..10 {
        armiger.get("/").await.assert_status(500);
    }
    assert_eq!(order("app?set=reset").await, 200);
    for _ in 0..3 {
        armiger.get("/").await.assert_status(500);
    }
    armiger.get("/").await.assert_problem(503, "breaker-open");

    for (query, status) in [
        ("app?set=open", 400),
        ("app?set=reset&for=soon", 400),
        ("app?set=force-open&for=25h", 400),
        ("nobody?set=reset", 404),
        ("app?set=reset&endpoint=127.0.0.1:1", 404),
    ] {
        assert_eq!(order(query).await, status, "{query}");
    }
}

#[tokio::test]
async fn what_is_shown_of_an_overruled_breaker_is_what_callers_get() {
    let (backend, _) = moody(200).await;
    let armiger = Armiger::with(Config::to(&backend).upstream(THREE)).await;
    let order = async |query: &str| armiger.admin().post(&format!("/breakers/app?{query}"), "").await.status;
    let shown = async || armiger.admin().get("/state/upstreams").await.json()["rows"][0]["breaker"].clone();
    let metrics = async || {
        let series = |name: &str| format!(r#"armiger_breaker_{name}{{endpoint="",route="",upstream="app"}}"#);
        (armiger.metric(&series("state")).await, armiger.metric(&series("forced")).await)
    };

    assert_eq!(order("set=force-open&for=2m").await, 200);
    let held = shown().await;
    assert_eq!((&held["state"], &held["own_state"]), (&"open".into(), &"closed".into()), "{held}");
    assert_eq!(held["forced"]["state"], "open");
    assert!(held["retry_after_seconds"].as_f64().is_some_and(|left| left > 60.0 && left <= 120.0), "{held}");
    assert_eq!(metrics().await, (2.0, 1.0));
    assert_eq!(order("set=force-closed").await, 200);
    assert_eq!((shown().await["state"].clone(), metrics().await), ("closed".into(), (0.0, 1.0)));
    assert_eq!(order("set=reset").await, 200);
    assert_eq!(metrics().await, (0.0, 0.0));

    // It ends by itself.
    assert_eq!(order("set=force-open&for=1ms").await, 200);
    let over = async {
        while shown().await["forced"] != serde_json::Value::Null {
            tokio::task::yield_now().await;
        }
    };
    within("its end", over).await;
    assert_eq!((shown().await["state"].clone(), metrics().await), ("closed".into(), (0.0, 0.0)));

    let other = armiger.admin().post("/breakers/other?set=reset", "").await;
    assert!(other.status == 404 && other.text().contains("there is `app`"), "{}", other.text());
}
