//! Tries beyond the first: for what, how often, where to, and never where it could do harm. And how endpoints share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::json;

use crate::harness::{Armiger, Backend, Config, Script, answer};

const ROUTES: &str = "- {name: all, match: {path: \"/{rest...}\"}, proxy: {upstream: app}}";

/// armiger with an upstream of these endpoints and keys.
async fn before(backends: &[&Backend], keys: &str) -> Armiger {
    let endpoints: Vec<String> = backends.iter().map(|backend| backend.url()).collect();
    let top = format!("upstreams: {{app: {{endpoints: {}, {keys}}}}}", json!(endpoints));
    Armiger::with(Config::empty().top(&top).routes(ROUTES)).await
}

async fn says(status: u16) -> Backend {
    Backend::with(move |_| answer(status, "told")).await
}

// === retries ===

#[tokio::test]
async fn another_endpoint_answers_for_one_that_fails() {
    let (bad, good) = (says(503).await, says(200).await);
    let armiger = before(&[&bad, &good], "balance: round_robin, retry: {attempts: 2, when: [503]}").await;

    for _ in 0..4 {
        armiger.get("/").await.assert_status(200);
    }

    assert!(bad.count() >= 1);
    assert_eq!(good.count(), 4);
    let line = armiger.logged(|line| line["attempts"].as_array().is_some_and(|tries| tries.len() == 2)).await;
    let tries = line["attempts"].as_array().unwrap();
    let told: Vec<_> = tries.iter().map(|attempt| (&attempt["outcome"], &attempt["status"])).collect();
    assert_eq!(told, [(&json!("ok"), &json!(503)), (&json!("ok"), &json!(200))]);
    let second = good.requests().into_iter().find(|seen| seen.has("x-armiger-attempts")).unwrap();
    assert_eq!(second.header("x-armiger-attempts"), "2");
    let retries = armiger.metric(r#"armiger_upstream_retries_total{class="policy",upstream="app"}"#).await;
    assert_eq!(retries, bad.count() as f64);
}

#[tokio::test]
async fn the_answer_tells_how_often_it_was_tried_and_the_last_one_is_passed_on() {
    let bad = says(502).await;
    let armiger = before(&[&bad], "retry: {attempts: 3, when: [502], backoff: {base: 1ms}}").await;

    armiger.get("/").await.assert_status(502).assert_header("x-armiger-attempts", "3");

    assert_eq!(bad.count(), 3);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    let (status, cuts) = (says(503).await, Backend::raw(Script::new().request().reset()).await);
    for backend in [&status, &cuts] {
        let armiger = before(&[backend], "retry: {attempts: 3, when: [reset, 503], backoff: {base: 1ms}}").await;
        armiger.post("/", "pay").await.assert_no_header("x-armiger-attempts");
        assert_eq!(backend.count(), 1);

        // The client's own word for it.
        let request = Request::post("/").header("idempotency-key", "7").body(Full::<Bytes>::from("pay")).unwrap();
        armiger.request(request).await;
        assert_eq!(backend.count(), 4);
        assert!(backend.requests()[1..].iter().all(|seen| seen.body == b"pay"));
    }
}

#[tokio::test]
async fn a_body_that_is_not_kept_is_not_sent_again() {
    let bad = says(503).await;
    let keys = "retry: {attempts: 3, when: [503], backoff: {base: 1ms}}, limits: {replay_max: 1KiB}";
    let armiger = before(&[&bad], keys).await;

    armiger.request(Request::put("/").body(Full::<Bytes>::from(vec![0; 2048])).unwrap()).await.assert_status(503);

    assert_eq!(bad.count(), 1);
}

#[tokio::test]
async fn nothing_is_tried_again_once_an_answer_began() {
    let cut =
        Backend::raw(Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").reset()).await;
    let armiger = before(&[&cut], "retry: {attempts: 3, when: [reset, timeout]}").await;

    armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.rest().await;

    assert_eq!(cut.count(), 1);
}

#[tokio::test]
async fn a_try_at_an_endpoint_that_hangs_leaves_time_for_another() {
    let hangs = Backend::raw(Script::new().request().hang()).await;
    let good = says(200).await;
    let armiger =
        before(&[&hangs, &good], "balance: round_robin, retry: {attempts: 2, when: [timeout], per_try: 30ms}").await;

    for _ in 0..4 {
        armiger.get("/").await.assert_status(200);
    }

    assert!(hangs.count() >= 1);
}

#[tokio::test]
async fn retries_are_a_share_of_the_requests() {
    let bad = says(503).await;
    let keys = "retry: {attempts: 10, when: [503], backoff: {base: 1ms}, budget: {ratio: 0.1, min_per_second: 0}}";
    let armiger = before(&[&bad], keys).await;

    for _ in 0..50 {
        armiger.get("/").await.assert_status(503);
    }

    assert!((51..=55).contains(&bad.count()), "{}", bad.count());
    assert!(armiger.metric(r#"armiger_upstream_retry_budget_spent_total{upstream="app"}"#).await >= 40.0);
}

#[tokio::test]
async fn retry_after_is_obeyed_or_passed_on() {
    let asks = Arc::new(AtomicU16::new(0));
    let seconds = asks.clone();
    let backend = Backend::with(move |_| {
        let mut answer = answer(503, "busy");
        answer.headers_mut().insert("retry-after", HeaderValue::from(seconds.load(Ordering::Relaxed)));
        answer
    })
    .await;
    let armiger = before(&[&backend], "retry: {attempts: 2, when: [503], backoff: {base: 1ms, max: 50ms}}").await;

    armiger.get("/").await.assert_status(503);
    assert_eq!(backend.count(), 2);
    // Longer than the largest back-off: the client is told instead.
    asks.store(7, Ordering::Relaxed);
    armiger.get("/").await.assert_status(503).assert_header("retry-after", "7");
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn a_back_end_that_is_not_up_yet_is_waited_for() {
    let mut late = says(200).await;
    late.stop();
    let armiger = before(&[&late], "retry: {attempts: 3, when: [connect], backoff: {base: 1ms}}").await;

    armiger.post("/", "any method: nothing was sent").await.assert_problem(502, "upstream-connect");

    let line = armiger.logged(|line| line["reason"] == "upstream-connect").await;
    assert_eq!(line["attempts"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_breaker_that_opens_between_tries_does_not_hide_what_was_wrong() {
    let bad = says(503).await;
    let keys = "retry: {attempts: 5, when: [503], backoff: {base: 1ms}}, breaker: {trip: {consecutive: 2}}";
    let armiger = before(&[&bad], keys).await;

    armiger.get("/").await.assert_status(503).assert_header("x-armiger-attempts", "2");
    armiger.get("/").await.assert_problem(503, "breaker-open");

    assert_eq!(bad.count(), 2);
}

// === sharing ===

#[tokio::test]
async fn endpoints_share_by_weight() {
    let (one, two) = (says(200).await, says(200).await);
    let armiger = before(&[&one, &two], "balance: round_robin, weights: [3, 1]").await;

    for _ in 0..20 {
        armiger.get("/").await.assert_status(200);
    }

    assert_eq!((one.count(), two.count()), (15, 5));
}

#[tokio::test]
async fn requests_that_are_alike_go_to_one_endpoint() {
    let backends = [says(200).await, says(200).await, says(200).await];
    let all: Vec<&Backend> = backends.iter().collect();
    let armiger = before(&all, "balance: {hash: {header: x-user}}").await;

    for user in 0..8 {
        let before: Vec<usize> = backends.iter().map(Backend::count).collect();
        for _ in 0..3 {
            let request = Request::get("/").header("x-user", user.to_string()).body(Full::<Bytes>::default()).unwrap();
            armiger.request(request).await.assert_status(200);
        }
        let got: Vec<usize> = backends.iter().zip(before).map(|(backend, before)| backend.count() - before).collect();
        assert!(got.contains(&3), "user {user}: {got:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_shunned_without_any_setting() {
    let hangs = Backend::raw(Script::new().request().hang()).await;
    let (one, two) = (says(200).await, says(200).await);
    let armiger = before(&[&hangs, &one, &two], "timeouts: {first_byte: 5s}").await;
    let mut waiting = Vec::new();

    // One at a time: as soon as one hangs there, nobody follows.
    let answered = AtomicUsize::new(0);
    for _ in 0..100 {
        let mut caller = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = tokio::time::timeout(std::time::Duration::from_millis(500), caller.answer()).await;
        match answer {
            Ok(answer) => drop(answered.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed)),
            Err(_) => waiting.push(caller),
        }
    }

    assert!(waiting.len() <= 1 && hangs.count() <= 1, "{} wait", waiting.len());
    assert!(answered.load(Ordering::Relaxed) >= 99);
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_taken_out_but_never_the_last() {
    let (bad, good) = (says(500).await, says(200).await);
    let keys = "balance: round_robin, ejection: {consecutive: 2, base: 1m}";
    let armiger = before(&[&bad, &good], keys).await;
    for _ in 0..20 {
        armiger.get("/").await;
    }
    assert_eq!((bad.count(), good.count()), (2, 18));
    let ejections = format!(r#"armiger_endpoint_ejections_total{{endpoint="{}",upstream="app"}}"#, bad.address());
    armiger.until_metric(&ejections, 1.0).await;

    let (one, two) = (says(500).await, says(500).await);
    let armiger =
        before(&[&one, &two], "balance: round_robin, ejection: {consecutive: 2, base: 1m, share_max: 1.0}").await;
    for _ in 0..20 {
        armiger.get("/").await.assert_status(500);
    }
    assert_eq!(one.count() + two.count(), 20, "nothing is refused");
}
