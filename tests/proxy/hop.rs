//! Headers of the hop: what the next one is told, and what ends here.

use super::*;

#[tokio::test]
async fn the_backend_is_told_who_asked_and_how() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger
        .request(request(
            "GET",
            "/",
            &[
                ("host", "shop.example.com"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-prefix", "/x"),
                ("x_forwarded_for", "192.0.2.2"),
                ("forwarded", "for=192.0.2.3"),
                ("x-real-ip", "192.0.2.4"),
                ("true-client-ip", "192.0.2.5"),
            ],
        ))
        .await;

    response.assert_status(200).assert_header("via", "1.1 armiger");
    let seen = backend.only().await;
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-host"), "shop.example.com");
    assert_eq!(seen.header("x-forwarded-port"), armiger.address().port().to_string());
    assert_eq!(seen.header("via"), "1.1 armiger");
    for name in ["x-forwarded-prefix", "x_forwarded_for", "forwarded", "x-real-ip", "true-client-ip"] {
        assert!(!seen.has(name), "{name} of a client that nobody trusts: {seen:#?}");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_added_to() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;

    let sent = [
        ("host", "inner"),
        ("x-forwarded-for", "192.0.2.1, 192.0.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example.com"),
        ("via", "1.0 edge"),
    ];
    armiger.request(request("GET", "/", &sent)).await.assert_status(200);

    let seen = backend.only().await;
    assert_eq!(seen.header("x-forwarded-for"), "192.0.2.1, 192.0.2.2, 127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "https");
    assert_eq!(seen.header("x-forwarded-host"), "shop.example.com");
    let via: Vec<_> = seen.headers.get_all("via").iter().collect();
    assert_eq!(via, ["1.0 edge", "1.1 armiger"]);
}

#[tokio::test]
async fn a_listener_that_reads_forwarded_writes_it_too() {
    let backend = Backend::replies("ok").await;
    let reads = "client_address: {header: forwarded}\ntrusted_proxies: ";
    let host = ("host", "Shop.example.com:8080");
    let own = "for=127.0.0.1;proto=http;host=\"Shop.example.com:8080\"";
    for (listener, sent, told) in [
        // Of one that is trusted the list goes on.
        (
            format!("{reads}[127.0.0.0/8]"),
            "for=192.0.2.1;proto=https",
            Some(format!("for=192.0.2.1;proto=https, {own}")),
        ),
        (format!("{reads}[127.0.0.0/8]"), "for=192.0.2.1;proto=http", Some(format!("for=192.0.2.1;proto=http, {own}"))),
        (format!("{reads}[127.0.0.0/8]"), "", Some(own.to_owned())),
        // What nobody can read to its end would swallow what is written behind it.
        (format!("{reads}[127.0.0.0/8]"), "for=\"x, for=192.0.2.1", Some(format!("for=192.0.2.1, {own}"))),
        // A stranger's goes first.
        (format!("{reads}[10.0.0.0/8]"), "for=192.0.2.1", Some(own.to_owned())),
        // Reading and writing are two things.
        (format!("forwarded: false\n{reads}[127.0.0.0/8]"), "for=192.0.2.1", Some("for=192.0.2.1".to_owned())),
        ("forwarded: true".to_owned(), "for=192.0.2.1", Some(own.to_owned())),
        ("forwarded: true\ntrusted_proxies: [127.0.0.0/8]".to_owned(), "for=192.0.2.1", Some(own.to_owned())),
        (String::new(), "for=192.0.2.1", None),
    ] {
        let armiger = Armiger::with(Config::to(&backend).listener(&listener)).await;
        let headers = [host, ("forwarded", sent), ("x-forwarded-proto", "https")];
        armiger.request(request("GET", "/", &headers[..])).await.assert_status(200);

        let seen = backend.requests().pop().unwrap();
        let lines: Vec<_> = seen.headers.get_all("forwarded").iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(lines, Vec::from_iter(told.as_deref()), "{listener}: {sent}");
        // Back ends that know the other headers still have them.
        assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1", "{listener}");
        assert_eq!(seen.header("x-forwarded-host"), "Shop.example.com:8080", "{listener}");
        // By `Forwarded`, where it tells; `X-Forwarded-Proto` may be the client's own.
        let is_kept = listener.contains("[127.0.0.0/8]") && !sent.ends_with("proto=http");
        let proto = if is_kept || sent.contains("proto=https") { "https" } else { "http" };
        assert_eq!(seen.header("x-forwarded-proto"), proto, "{listener}");
    }
}

#[tokio::test]
async fn via_has_the_version_and_a_name_of_choice_or_is_off() {
    let backend = Backend::replies("ok").await;
    for (via, expected) in [("via: edge-7", Some("2 edge-7")), ("via: \"off\"", None)] {
        let armiger = Armiger::with(Config::to(&backend).listener(via)).await;

        let response = armiger.connect_h2c().await.get("/").await;

        let seen = backend.requests().pop().unwrap();
        assert_eq!(seen.headers.get("via").map(|via| via.to_str().unwrap()), expected);
        // The answer came by HTTP/1.1.
        assert_eq!(response.headers.get("via").map(|via| via.to_str().unwrap()), expected.map(|_| "1.1 edge-7"),);
    }

    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;
    armiger.get("/").await.assert_status(200).assert_header("via", "2 armiger");
}

#[tokio::test]
async fn a_request_that_has_been_here_before_is_refused() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("via: edge-7")).await;

    let response = armiger.request(request("GET", "/", &[("via", "1.1 edge, 1.1 edge-7")])).await;

    response.assert_problem(508, "loop-detected");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_gateway_and_a_sidecar_are_no_loop_and_a_loop_is_one() {
    let backend = Backend::replies("ok").await;
    let sidecar = Armiger::proxying(&backend).await;
    let gateway = Armiger::with(Config::to_url(&format!("http://{}", sidecar.address()))).await;

    gateway.get("/").await.assert_status(200);
    assert_eq!(backend.only().await.headers.get_all("via").iter().count(), 2);

    let round_and_round = ["1.1 armiger"; 8].join(", ");
    gateway.request(request("GET", "/", &[("via", &round_and_round)])).await.assert_problem(508, "loop-detected");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn what_belongs_to_a_hop_ends_with_it() {
    let backend = Backend::raw(Script::new().request().write(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\n\
         proxy-authenticate: Basic\r\nx-end: 2\r\n\r\nok",
    ))
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger
        .raw(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-own, authorization, x-forwarded-for\r\nx-own: 1\r\n\
             keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authorization: Basic eA==\r\nte: gzip\r\n\
             upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nauthorization: Bearer x\r\nx-end: 1\r\n\r\n",
        )
        .await;
    let response = conversation.answer().await;

    let seen = backend.only().await;
    for name in [
        "x-own",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        assert!(!seen.has(name), "{name} of the client reached the back end: {}", seen.head_text());
    }
    assert_eq!(seen.header("authorization"), "Bearer x", "`connection` cannot take this one away");
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1", "`connection` cannot take this one away");
    assert_eq!(seen.header("x-end"), "1");
    response.assert_status(200).assert_header("x-end", "2");
    for name in ["x-mine", "keep-alive", "proxy-authenticate", "connection"] {
        response.assert_no_header(name);
    }
}

#[tokio::test]
async fn cookie_crumbs_of_http2_become_one_line() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let sent = request("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    armiger.connect_h2c().await.request(sent).await.assert_status(200);

    assert_eq!(backend.only().await.header("cookie"), "a=1; b=2; c=3");
}
