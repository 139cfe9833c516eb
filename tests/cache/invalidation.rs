//! What requests that change something make invalid.

use super::*;

/// Nobody knows what became of it.
#[tokio::test]
async fn an_unsafe_request_whose_client_left_makes_its_url_invalid() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |asked| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if asked.method() == Method::POST {
                go.wait().await;
            }
            reply(200, &[("cache-control", "max-age=60")], number.to_string())
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let host = [("host", "h")];
    assert_eq!(get(&armiger, "/", &host).await.text(), "0");
    assert_eq!(get(&armiger, "/", &host).await.text(), "0");
    let client = armiger.raw("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    backend.arrived(2).await;
    client.reset();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 0.0).await;

    assert_eq!(get(&armiger, "/", &host).await.text(), "2");
    go.send();
}

/// Answers what is asked for safely, with a number, and nothing else before the signal.
async fn hesitant(go: &Signal, is_broken: &Arc<AtomicBool>) -> Backend {
    let (wait, broken, count) = (go.clone(), is_broken.clone(), Arc::new(AtomicUsize::new(0)));
    Backend::serving(move |asked| {
        let (go, is_broken) = (wait.clone(), broken.load(Ordering::SeqCst));
        let is_held = asked.method() == Method::POST || asked.uri().path() == "/held";
        let number = if is_held { 0 } else { count.fetch_add(1, Ordering::SeqCst) };
        async move {
            if is_held {
                go.wait().await;
            }
            match is_broken {
                true => reply(503, &[], "broken"),
                false => reply(200, &[("cache-control", "max-age=60, stale-if-error=60")], number.to_string()),
            }
        }
    })
    .await
}

/// It is not let go of what may be good: whoever may send such requests cannot take it from others.
#[tokio::test]
async fn what_may_have_changed_still_stands_in_for_an_error() {
    let (go, is_broken) = (Signal::new(), Arc::new(AtomicBool::new(false)));
    let backend = hesitant(&go, &is_broken).await;
    let armiger = caching(&backend, "{}").await;
    let host = [("host", "h")];
    assert_eq!(get(&armiger, "/", &host).await.text(), "0");
    let client = armiger.raw("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    backend.arrived(2).await;
    client.reset();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 0.0).await;
    is_broken.store(true, Ordering::SeqCst);

    let covered = get(&armiger, "/", &host).await;

    assert_eq!((covered.status, covered.text()), (200, "0"));
    go.send();
}

/// The upstream may have done what it was asked to, and then was too slow to say so.
#[tokio::test]
async fn an_unsafe_request_that_the_upstream_does_not_answer_makes_its_url_stale() {
    let go = Signal::new();
    let backend = hesitant(&go, &Arc::default()).await;
    let config = Config::to(&backend).upstream("timeouts: {first_byte: 100ms}").policies("cache: {}");
    let armiger = Armiger::with(config).await;
    let first = armiger.get("/").await.text().to_owned();

    armiger.post("/", "x").await.assert_status(504);

    assert_ne!(armiger.get("/").await.text(), first);
    go.send();
}

/// What reached no upstream changed nothing.
#[tokio::test]
async fn an_unsafe_request_that_nobody_was_asked_by_makes_nothing_invalid() {
    let go = Signal::new();
    let backend = hesitant(&go, &Arc::default()).await;
    let limits = "limits: {in_flight_max: 1, queue_max: 5, queue_wait: 20s}";
    let armiger = Armiger::with(Config::to(&backend).upstream(limits).policies("cache: {}")).await;
    let host = [("host", "h")];
    let first = get(&armiger, "/", &host).await.text().to_owned();
    let held = armiger.raw("GET /held HTTP/1.1\r\nhost: h\r\n\r\n").await;
    backend.arrived(2).await;
    let client = armiger.raw("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 2.0).await;
    client.reset();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 1.0).await;

    let second = get(&armiger, "/", &host).await;

    assert!(status(&second).starts_with("armiger; hit"), "{}", status(&second));
    assert_eq!((second.text(), backend.count()), (&*first, 2));
    drop(held);
    go.send();
}

/// What one caller is told says nothing to others, be it good or bad.
#[tokio::test]
async fn what_a_caller_with_credentials_is_told_takes_nothing_from_others() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = is_broken.clone();
    let backend = Backend::with(move |seen| match seen.headers.get("if-none-match") {
        _ if broken.load(Ordering::SeqCst) => reply(503, &[], "broken"),
        Some(_) => reply(304, &[("etag", "\"a\"")], ""),
        None => {
            let control = "public, max-age=0, stale-if-error=60";
            reply(200, &[("etag", "\"a\""), ("cache-control", control)], "old")
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let host = ("host", "h");
    assert_eq!(get(&armiger, "/", &[host]).await.text(), "old");

    let own = get(&armiger, "/", &[host, AUTH[0]]).await;

    assert_eq!(own.text(), "old");
    assert!(status(&own).contains("detail=credentials"), "{}", status(&own));
    is_broken.store(true, Ordering::SeqCst);
    let covered = get(&armiger, "/", &[host]).await;
    assert_eq!((covered.status, covered.text()), (200, "old"));
}

/// What a slow answer to a HEAD confirms may be another's past.
#[tokio::test]
async fn a_late_head_does_not_put_back_what_was_replaced() {
    let go = Signal::new();
    let (wait, count) = (go.clone(), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::serving(move |asked| {
        let (go, is_head) = (wait.clone(), asked.method() == Method::HEAD);
        let number = if is_head { 0 } else { count.fetch_add(1, Ordering::SeqCst) };
        async move {
            if is_head {
                go.wait().await;
            }
            match (is_head, number) {
                (true, _) => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=60")], ""),
                (_, 0) => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=0")], ""),
                _ => reply(200, &[("etag", "\"b\""), ("cache-control", "max-age=60")], "new"),
            }
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let host = [("host", "h")];
    get(&armiger, "/", &host).await.assert_header("etag", "\"a\"");
    let mut head = armiger.raw("HEAD / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    backend.arrived(2).await;
    assert_eq!(get(&armiger, "/", &host).await.text(), "new");
    go.send();
    assert!(head.rest().await.starts_with(b"HTTP/1.1 200"));

    assert_eq!(get(&armiger, "/", &host).await.text(), "new");
}

/// RFC 9111 §4.4.
#[tokio::test]
async fn an_unsafe_request_that_succeeds_makes_its_url_invalid() {
    let counts = AtomicUsize::new(0);
    let backend = Backend::with(move |seen| match (seen.method.as_str(), seen.target.as_str()) {
        ("POST", "/refused") => reply(403, &[], ""),
        ("POST", "/list") => reply(201, &[("location", "/list/7")], ""),
        ("POST", "/other") => reply(201, &[("location", "http://elsewhere.test/list")], ""),
        ("POST", _) => reply(204, &[], ""),
        _ => reply(200, &[("cache-control", "max-age=60")], counts.fetch_add(1, Ordering::Relaxed).to_string()),
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    for (posted, asked, is_gone) in [
        ("/a", "/a", true),
        ("/a", "/b", false),
        ("/refused", "/refused", false),
        ("/list", "/list/7", true),
        ("/other", "/list", false),
    ] {
        let before = armiger.get(asked).await;
        armiger.post(posted, "x").await;
        let after = armiger.get(asked).await;
        assert_eq!(before.text() != after.text(), is_gone, "POST {posted}, GET {asked}");
    }
}
