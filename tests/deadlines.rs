//! Deadlines that callers bring: how long armiger waits, what upstreams are told of it, and what says nothing of them.

use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::Full;

use crate::harness::{Armiger, Backend, Config, Response, Signal, answer};

const HEADER: &str = "x-request-timeout-ms";

async fn ask(armiger: &Armiger, timeout: &str) -> Response {
    let request = Request::builder().method(Method::GET).uri("/").header("host", "app").header(HEADER, timeout);
    armiger.request(request.body(Full::new(bytes::Bytes::new())).unwrap()).await
}

fn before(backend: &Backend, timeout: &str) -> Config {
    Config::to(backend).route(&format!("timeout: {timeout}\ndeadline_header: {HEADER}"))
}

fn config(backend: &Backend) -> Config {
    before(backend, "20s")
}

fn told(seen: &crate::harness::Seen) -> u64 {
    seen.header(HEADER).parse().unwrap()
}

#[tokio::test]
async fn a_header_shortens_the_time_and_never_lengthens_it() {
    let never = Signal::new();
    let hangs = never.clone();
    let backend = Backend::seen(move |_| {
        let hangs = hangs.clone();
        async move {
            hangs.wait().await;
            answer(200, "")
        }
    })
    .await;
    let armiger = Armiger::with(before(&backend, "300ms")).await;
    for (timeout, least) in [("60", 50), ("99999999999999999999999", 290), ("soon", 290), ("-1", 290), ("1.5", 290)] {
        let began = Instant::now();
        ask(&armiger, timeout).await.assert_problem(504, "deadline-exceeded");
        assert!(began.elapsed() >= Duration::from_millis(least), "{timeout}: {:?}", began.elapsed());
    }
    never.send();
}

#[tokio::test]
async fn a_deadline_that_is_over_asks_nobody() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(config(&backend)).await;

    ask(&armiger, "0").await.assert_problem(504, "deadline-exceeded");

    assert_eq!(backend.count(), 0);
    ask(&armiger, "5000").await.assert_status(200);
}

#[tokio::test]
async fn each_try_is_told_what_is_left() {
    let backend = Backend::with(|_| answer(503, "")).await;
    let upstream = "retry: {attempts: 3, when: [503], backoff: {base: 40ms, max: 80ms}}";
    let armiger = Armiger::with(config(&backend).upstream(upstream)).await;

    ask(&armiger, "4000").await.assert_status(503);

    let left: Vec<u64> = backend.requests().iter().map(told).collect();
    assert!(left.len() == 3 && left[0] <= 4000 && left.is_sorted_by(|one, next| one >= next), "{left:?}");
    // Without a wish of the caller's it is the route's time.
    armiger.get("/").await.assert_status(503);
    let left = told(&backend.requests()[3]);
    assert!((15_000..=20_000).contains(&left), "{left}");
}

/// Of a part's own time, where that is shorter.
#[tokio::test]
async fn parts_of_an_aggregate_and_steps_of_a_saga_are_told_too() {
    let backend = Backend::with(|_| answer(200, "{}")).await;
    let routes = format!(
        "- name: page
  match: {{path: /page, methods: [GET]}}
  deadline_header: {HEADER}
  aggregate:
    deadline: 10s
    parts:
      brief: {{upstream: app, path: /brief, timeout: 2s}}
      long: {{upstream: app, path: /long}}
- name: order
  match: {{path: /order, methods: [POST]}}
  deadline_header: {HEADER}
  saga_in_memory:
    deadline: 10s
    steps:
      book: {{upstream: app, path: /book, timeout: 3s, compensate: off}}
"
    );
    let armiger = Armiger::with(Config::to(&backend).routes(&routes)).await;
    let of = |path: &str| told(backend.requests().iter().rfind(|seen| seen.target == path).expect("it was asked"));

    armiger.get("/page").await.assert_status(200);
    assert!((1000..=2000).contains(&of("/brief")) && (5000..=10_000).contains(&of("/long")));
    let hasty = Request::builder().uri("/page").header("host", "app").header(HEADER, "1500");
    armiger.request(hasty.body(Full::new(bytes::Bytes::new())).unwrap()).await.assert_status(200);
    assert!(of("/brief") <= 1500 && of("/long") <= 1500, "its caller waits no longer");
    armiger.post("/order", "").await.assert_status(200);
    assert!((1500..=3000).contains(&of("/book")));
}

#[tokio::test]
async fn a_caller_that_waits_too_briefly_says_nothing_of_the_upstream() {
    let release = Signal::new();
    let hangs = release.clone();
    let backend = Backend::seen(move |seen| {
        let hangs = hangs.clone();
        async move {
            if seen.has(HEADER) && told(&seen) < 1000 {
                hangs.wait().await;
            }
            answer(200, "")
        }
    })
    .await;
    let upstream = "breaker: {trip: {consecutive: 2}}\nejection: {consecutive: 2}";
    let armiger = Armiger::with(config(&backend).upstream(upstream)).await;

    for _ in 0..6 {
        ask(&armiger, "20").await.assert_problem(504, "deadline-exceeded");
    }

    ask(&armiger, "9000").await.assert_status(200);
    release.send();
}

#[tokio::test]
async fn a_name_that_cannot_be_such_a_header_is_refused() {
    for name in ["x y", "host", "grpc-timeout"] {
        let report = Armiger::try_with(Config::empty().route(&format!("deadline_header: \"{name}\"\nrespond: {{}}")));
        let Err(report) = report.await else { panic!("{name} was taken") };
        assert!(report.contains("no name for such a header"), "{report}");
    }
}
