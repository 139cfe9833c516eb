//! Who is believed, and what nobody is told.

use super::*;

const FORGED: [(&str, &str); 11] = [
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-user", "root"),
    ("forwarded", "for=203.0.113.7"),
    ("x-real-ip", "203.0.113.7"),
    ("true-client-ip", "203.0.113.7"),
    ("x-original-url", "/admin"),
    ("x-request-id", "chosen-by-the-client"),
];

#[tokio::test]
async fn a_stranger_cannot_say_where_a_request_came_from() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let lines: String = FORGED.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();

    let answer = armiger.raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await.answer().await;

    let seen = backend.only().await;
    for (name, value) in FORGED {
        assert!(seen.headers.get_all(name).iter().all(|found| found != value), "{name} of {}", seen.head_text());
    }
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!((seen.header("x-forwarded-host"), seen.header("x-forwarded-proto")), ("a", "http"));
    for name in ["x-forwarded-prefix", "x-forwarded-user", "x-real-ip", "true-client-ip", "x-original-url"] {
        assert!(!seen.has(name), "{name} of {}", seen.head_text());
    }
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
    let line = armiger.logged(|line| line["request_id"] == answer.header("x-request-id")).await;
    assert_eq!(line["client"], "127.0.0.1", "{line:#}");
}

#[tokio::test]
async fn a_trusted_proxy_says_where_a_request_came_from() {
    let backend = strict().await;
    let routes = r#"
    - {name: blocked, match: {path: /blocked}, policies: {ip_filter: {deny: [203.0.113.7]}}, proxy: {upstream: app}}
    - {name: everything, match: {path: "/{rest...}"}, proxy: {upstream: app}}
    "#;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]").routes(routes)).await;

    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
                   X-Request-Id: from-the-edge.1\r\nForwarded: for=198.51.100.2\r\n\r\n";
    let answer = armiger.raw(request).await.answer().await;

    answer.assert_status(200).assert_header("x-request-id", "from-the-edge.1");
    let seen = backend.only().await;
    assert_eq!(seen.header("x-forwarded-for"), "198.51.100.1, 203.0.113.7, 127.0.0.1");
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-request-id")), ("https", "from-the-edge.1"));
    // The header that nobody was told to read could say something else.
    assert!(!seen.has("forwarded"), "{}", seen.head_text());
    let blocked = request.replace("GET /", "GET /blocked");
    armiger.raw(blocked).await.answer().await.assert_problem(403, "address-blocked");
    // What stands left of it was said by a stranger, and counts for nothing.
    let forged = "GET /blocked HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n\r\n";
    armiger.raw(forged).await.answer().await.assert_status(200);
}

#[tokio::test]
async fn a_request_id_that_is_none_is_replaced_whoever_sends_it() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;

    let long = "x".repeat(129);
    for id in ["", "a b", "a\"b", "<script>", "a,b", "\u{e9}", long.as_str()] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
        let answer = armiger.raw(request).await.answer().await;
        assert_ne!(answer.assert_status(200).header("x-request-id"), id);
    }
}

#[tokio::test]
async fn a_refusal_says_nothing_of_what_stands_behind() {
    let mut backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;
    let address = backend.address();
    backend.stop();

    let request = Request::get("/x?token=secret").header("host", "shop.example.com").body(Full::<Bytes>::default());
    let refusal = armiger.request(request.unwrap()).await;

    refusal.assert_problem(502, "upstream-connect");
    let said = format!("{:?} {}", refusal.headers, refusal.text());
    for secret in [&address.to_string(), &address.port().to_string(), "127.0.0.1", "secret"] {
        assert!(!said.contains(secret), "{secret} stands in {said}");
    }
}

/// Whoever writes it believes that addresses are taken from the header; without trust none is.
#[tokio::test]
async fn a_client_address_that_nobody_is_trusted_to_name_is_a_mistake() {
    let backend = Backend::replies("ok").await;

    let refused = Armiger::try_with(Config::to(&backend).listener("client_address: {hops: 2}")).await;

    let report = refused.err().expect("the configuration is refused");
    assert!(report.contains("none is trusted"), "{report}");
}
