//! What is used although it is stale, and how it is renewed.

use super::*;

/// RFC 9111 §5.1, RFC 9211.
#[tokio::test]
async fn a_stored_answer_tells_its_age_and_where_it_is_from() {
    let backend =
        Backend::counting(&[("cache-control", "max-age=60"), ("age", "7"), ("x-a", "b"), ("x-request-id", "theirs")])
            .await;
    let armiger = caching(&backend, "{}").await;

    let miss = armiger.get("/a").await;
    let hit = armiger.get("/a").await;
    let head = armiger.request(request("HEAD", "/a", &[])).await;

    assert_eq!(status(&miss), "armiger; fwd=uri-miss; stored; ttl=53");
    hit.assert_status(200)
        .assert_header("x-a", "b")
        .assert_header("content-length", "1")
        .assert_header("cache-control", "max-age=60");
    assert!(status(&hit).starts_with("armiger; hit; ttl=5"), "{}", status(&hit));
    assert!(["7", "8", "9"].contains(&hit.header("age")), "{}", hit.header("age"));
    assert_ne!(hit.header("x-request-id"), "theirs");
    assert_ne!(hit.header("x-request-id"), miss.header("x-request-id"), "each exchange has its own");
    assert_eq!((hit.text(), head.text(), head.header("content-length")), ("1", "", "1"));
    assert_eq!(backend.count(), 1);
}

/// RFC 9111 §4.3: validators are the cache's own, and a 304 refreshes what is stored.
#[tokio::test]
async fn a_stale_answer_is_asked_about_by_its_own_validators() {
    let backend = Backend::with(|seen| match seen.headers.get("if-none-match") {
        Some(tag) if tag == "\"a\"" => {
            reply(304, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("x-a", "2")], "")
        }
        _ => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=0"), ("x-a", "1")], "body"),
    })
    .await;
    let armiger = caching(&backend, "{}").await;

    let first = get(&armiger, "/", &[("if-none-match", "\"client\"")]).await;
    let second = get(&armiger, "/", &[("if-none-match", "\"client\"")]).await;
    let third = get(&armiger, "/", &[("if-none-match", "\"a\"")]).await;

    assert!(!backend.requests()[0].has("if-none-match"), "a client's own validator is not asked by");
    first.assert_status(200).assert_header("x-a", "1");
    second.assert_status(200).assert_header("x-a", "2");
    assert_eq!(
        (second.text(), status(&second).as_str()),
        ("body", "armiger; fwd=stale; fwd-status=304; stored; ttl=60")
    );
    third.assert_status(304).assert_no_header("content-type").assert_header("etag", "\"a\"");
    assert_eq!(backend.count(), 2);
}

/// A backend whose first answer is stale at once, and which takes its time for the others.
async fn renewing(go: &Signal) -> Backend {
    let answer = |number| match number {
        0 => reply(200, &[("cache-control", "max-age=0, stale-while-revalidate=60")], "old"),
        _ => reply(200, KEPT, "new"),
    };
    numbered(go, |number| number > 0, answer).await
}

async fn refreshing(backend: &Backend, drain: &str) -> Armiger {
    let armiger = Armiger::with(Config::to(backend).policies("cache: {}").top(&format!("drain: {drain}"))).await;
    armiger.get("/").await;
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 1.0).await;
    assert_eq!(armiger.get("/").await.text(), "old");
    backend.arrived(2).await;
    armiger
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_a_refresh() {
    let go = Signal::new();
    let backend = renewing(&go).await;
    let armiger = refreshing(&backend, "{delay: 0s, timeout: 1h}").await;
    armiger.running().drain().begin();
    let over = armiger.running().drain().over();
    let too_early = tokio::time::timeout(std::time::Duration::from_millis(300), over).await;
    assert!(too_early.is_err(), "armiger ended before the refresh was over");
    go.send();
    within("the end", armiger.running().drain().over()).await;
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_a_refresh_no_longer_than_for_exchanges() {
    let backend = renewing(&Signal::new()).await;
    let armiger = refreshing(&backend, "{delay: 0s, timeout: 100ms}").await;
    armiger.running().drain().begin();
    within("the end", armiger.running().drain().over()).await;
}

/// The worker that asks may have no connection of its own left.
#[tokio::test]
async fn at_the_end_nobody_is_left_without_the_answer_that_another_worker_asks_for() {
    let go = Signal::new();
    let wait = go.clone();
    let backend = Backend::serving(move |_| {
        let go = wait.clone();
        async move {
            go.wait().await;
            reply(200, &[("cache-control", "max-age=60")], "one for all")
        }
    })
    .await;
    let config = Config::to(&backend).policies("cache: {}").top("drain: {delay: 0s, timeout: 1h}");
    let armiger = Armiger::with_workers(2, config).await;
    let gauge = "armiger_http_requests_in_flight{route=\"everything\"}";
    let leader = armiger.raw("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    backend.arrived(1).await;
    let client = armiger.client();
    let follower = tokio::spawn(async move { client.request(request("GET", "/", &[("host", "h")])).await });
    armiger.until_metric(gauge, 2.0).await;
    leader.reset();
    armiger.until_metric(gauge, 1.0).await;

    armiger.running().drain().begin();

    let over = armiger.running().drain().over();
    let too_early = tokio::time::timeout(std::time::Duration::from_millis(300), over).await;
    assert!(too_early.is_err(), "somebody still waits");
    go.send();
    assert_eq!(follower.await.unwrap().assert_status(200).text(), "one for all");
    assert_eq!((armiger.stop().await.cut, backend.count()), (0, 1));
}

/// RFC 5861 §3: one refresh, behind the backs of all.
#[tokio::test]
async fn a_stale_answer_is_used_while_one_refresh_runs() {
    let go = Signal::new();
    let backend = renewing(&go).await;
    let armiger = caching(&backend, "{}").await;
    armiger.get("/").await;
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 1.0).await;

    for _ in 0..20 {
        let response = armiger.get("/").await;
        assert_eq!(response.text(), "old");
        assert!(status(&response).contains("detail=revalidating"), "{}", status(&response));
    }
    backend.arrived(2).await;
    assert_eq!(backend.count(), 2, "one refresh for all of them");
    go.send();
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 2.0).await;

    assert_eq!(armiger.get("/").await.text(), "new");
    assert_eq!(backend.count(), 2);
}

/// RFC 5861 §4, and RFC 9111 §4.2.4 for what forbids it.
#[tokio::test]
async fn a_stale_answer_takes_the_place_of_an_error() {
    for (control, is_covered) in [
        ("max-age=0, stale-if-error=60", true),
        ("max-age=0", true),
        ("max-age=0, must-revalidate", false),
        ("max-age=0, proxy-revalidate", false),
        ("s-maxage=0", false),
        ("no-cache", false),
    ] {
        let is_broken = Arc::new(AtomicBool::new(false));
        let broken = is_broken.clone();
        let mut backend = Backend::with(move |_| match broken.load(Ordering::SeqCst) {
            true => reply(503, &[], "broken"),
            false => reply(200, &[("cache-control", control), ("etag", "\"a\"")], "old"),
        })
        .await;
        let armiger = caching(&backend, "{stale_if_error: 10m}").await;
        armiger.get("/").await;
        is_broken.store(true, Ordering::SeqCst);

        let response = armiger.get("/").await;
        assert_eq!(response.status, if is_covered { 200 } else { 503 }, "{control}");
        backend.stop();
        let response = armiger.get("/").await;
        if is_covered {
            assert_eq!(response.text(), "old", "{control}");
            assert!(
                status(&response).contains("hit") && status(&response).contains("detail=error"),
                "{}",
                status(&response)
            );
        } else {
            response.assert_problem(502, "upstream-connect");
        }
    }
}

/// Nobody asks an upstream whose breaker is open, and what is stored serves on.
#[tokio::test]
async fn a_stale_answer_takes_the_place_of_an_upstream_whose_breaker_is_open() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = is_broken.clone();
    let backend = Backend::with(move |_| match broken.load(Ordering::SeqCst) {
        true => reply(503, &[], "broken"),
        false => reply(200, &[("cache-control", "max-age=0, stale-if-error=60")], "old"),
    })
    .await;
    let breaker = "breaker: {trip: {consecutive: 2}, open_for: {base: 1m}}";
    let armiger = Armiger::with(Config::to(&backend).upstream(breaker).policies("cache: {}")).await;
    armiger.get("/").await.assert_status(200);
    is_broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(armiger.get("/").await.assert_status(200).text(), "old");
    }
    let asked = backend.count();

    for _ in 0..3 {
        let response = armiger.get("/").await;
        assert_eq!((response.status, response.text()), (200, "old"));
        assert!(
            status(&response).contains("hit") && status(&response).contains("detail=error"),
            "{}",
            status(&response)
        );
    }
    armiger.get("/other").await.assert_problem(503, "breaker-open");
    assert_eq!((asked, backend.count()), (3, 3), "none of them reached it");
}

#[tokio::test]
async fn a_slow_upstream_is_an_error_too() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |_| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number > 0 {
                go.wait().await;
            }
            reply(200, &[("cache-control", "max-age=0, stale-if-error=60")], "old")
        }
    })
    .await;
    let config = Config::to(&backend).upstream("timeouts: {first_byte: 50ms}").policies("cache: {}");
    let armiger = Armiger::with(config).await;
    armiger.get("/").await;
    let response = armiger.get("/").await;
    assert_eq!((response.status, response.text()), (200, "old"));
    go.send();
}

/// A HEAD too has what is stored before what stands in for the upstream, and what a client has already it need not be told.
#[tokio::test]
async fn what_is_stored_covers_errors_for_a_head_as_for_a_get() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = is_broken.clone();
    let mut backend = Backend::with(move |_| match broken.load(Ordering::SeqCst) {
        true => reply(503, &[], "broken"),
        false => reply(200, &[("cache-control", "max-age=0"), ("etag", "\"a\"")], "body"),
    })
    .await;
    let route = "- {name: all, match: {path: \"/{rest...}\"}, policies: {cache: {stale_if_error: 1h}}, \
                 proxy: {upstream: app, fallback: {respond: {status: 200, body: fallback}}}}";
    let armiger = Armiger::with(Config::to(&backend).routes(route)).await;
    let host = ("host", "h.test");
    get(&armiger, "/a", &[host]).await.assert_status(200);
    is_broken.store(true, Ordering::SeqCst);
    for expected in ["armiger; fwd=stale; fwd-status=503; ttl=", "armiger; hit; ttl="] {
        for method in ["GET", "HEAD"] {
            let answer = armiger.request(request(method, "/a", &[host])).await;
            answer.assert_status(200).assert_header("etag", "\"a\"").assert_header("content-length", "4");
            assert!(status(&answer).starts_with(expected) && status(&answer).ends_with("detail=error"), "{answer:?}");
            let known = armiger.request(request(method, "/a", &[host, ("if-none-match", "\"a\"")])).await;
            known.assert_status(304).assert_header("etag", "\"a\"");
            let demanding = armiger.request(request(method, "/a", &[host, ("cache-control", "no-cache")])).await;
            demanding.assert_status(200).assert_no_header("etag");
            assert!(demanding.header("proxy-status").contains("fallback-respond"), "{demanding:?}");
        }
        backend.stop();
    }
}
