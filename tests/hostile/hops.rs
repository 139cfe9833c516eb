//! What belongs to one hop, and what is no request for this one.

use super::*;

#[tokio::test]
async fn an_upgrade_that_no_policy_allows_is_dropped() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for (path, lines) in [
        ("/h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        ("/h2c-alone", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        ("/h2c-and-more", "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("/tls", "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n"),
    ] {
        let mut conversation = armiger.raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;

        conversation.answer().await.assert_status(200).assert_no_header("upgrade");
        let seen = backend.requests().pop().expect("somebody answered");
        assert_eq!(seen.target, path);
        assert!(!["upgrade", "connection", "http2-settings"].iter().any(|name| seen.has(name)), "{}", seen.head_text());
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_that_was_dropped_are_no_tunnel() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let upgrade = "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let mut conversation = armiger.raw(format!("{upgrade}{preface}")).await;

    conversation.answer().await.assert_status(200);
    let rest = conversation.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 505 "), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(backend.only().await.target, "/1");
}

#[tokio::test]
async fn naming_a_header_in_connection_takes_away_only_what_is_the_hops() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;
    let kept = [
        ("host", "a"),
        ("authorization", "Bearer x"),
        ("cookie", "c=d"),
        ("content-length", "5"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outside"),
        ("x-real-ip", "203.0.113.7"),
    ];
    let names: Vec<_> = kept.iter().map(|(name, _)| *name).collect();
    let lines: String = kept.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();

    let request = format!(
        "POST / HTTP/1.1\r\n{lines}X-Forwarded-For: 203.0.113.7\r\nX-Hop: mine\r\nX-Stays: here\r\nKeep-Alive: timeout=9\r\n\
         Connection: {}, x-forwarded-for, x-request-id, via, X-Hop\r\nConnection: close\r\n\r\nhello",
        names.join(", ")
    );
    armiger.raw(request).await.answer().await.assert_status(200);

    let seen = backend.only().await;
    for (name, value) in kept {
        assert_eq!(seen.header(name), value, "{}", seen.head_text());
    }
    assert_eq!(seen.header("x-forwarded-for"), "203.0.113.7, 127.0.0.1");
    assert_eq!((seen.header("x-stays"), seen.body.as_slice()), ("here", &b"hello"[..]));
    assert!(seen.has("via") && seen.has("x-request-id"), "{}", seen.head_text());
    assert!(!["x-hop", "connection", "keep-alive"].iter().any(|name| seen.has(name)), "{}", seen.head_text());
}

#[tokio::test]
async fn what_belongs_to_the_hop_stays_there() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let lines = "Keep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\
                 Proxy-Authenticate: Basic\r\nTE: gzip, trailers;q=0.5\r\nX_Forwarded_For: 203.0.113.7\r\n";
    armiger.raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await.answer().await.assert_status(200);

    let seen = backend.only().await;
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "x_forwarded_for"] {
        assert!(!seen.has(name), "{name} of {}", seen.head_text());
    }
    assert_eq!(seen.header("te"), "trailers");
}

#[tokio::test]
async fn methods_that_reflect_or_tunnel_are_refused() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for request in [
        "TRACE / HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
    ] {
        let refusal = armiger.raw(request).await.answer().await;
        refusal.assert_problem(405, "method-not-allowed");
        assert!(!refusal.text().contains("secret"));
    }

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn bytes_behind_a_connect_that_was_refused_are_no_tunnel() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\u{16}\u{3}\u{1}tunnelled").await;

    conversation.answer().await.assert_problem(405, "method-not-allowed");
    let rest = conversation.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&rest));
    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn options_of_the_server_are_answered_here() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    armiger.raw("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await.answer().await.assert_status(204);

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn a_request_that_was_here_before_is_refused() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("via: edge-7")).await;
    let get = |via: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{via}\r\n");

    for via in ["Via: 1.1 edge-7\r\n", "Via: 1.1 edge, 1.1 Edge-7 (x)\r\n", "Via: 2 edge\r\nVia: HTTP/1.1 edge-7\r\n"] {
        armiger.raw(get(via)).await.answer().await.assert_problem(508, "loop-detected");
    }
    assert_eq!(backend.count(), 0);

    armiger.raw(get("Via: 1.1 edge-7.example\r\n")).await.answer().await.assert_status(200);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_loop_through_armiger_itself_ends() {
    let mut backend = Backend::replies("never").await;
    let address = backend.address();
    backend.stop();
    // Its own upstream, on the port that the back end left.
    let yaml = Config::to_url(&format!("http://{address}")).listener(&format!("address: {address}"));
    let armiger = Armiger::with(yaml).await;

    armiger.get("/").await.assert_problem(508, "loop-detected");
}
