//! What is forwarded and comes back: method, target, headers, body; the host, and rewritten paths.

use super::*;

// === what is forwarded ===

#[tokio::test]
async fn method_target_and_body_reach_the_backend_whatever_they_are() {
    let backend = Backend::with(|seen| answer(200, seen.method.clone())).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut connection = armiger.connect().await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
        let body = if method == "GET" { "" } else { "a body" };
        let sent = Request::builder().method(method).uri("/a/b?c=d&e=%20&f").body(Full::new(Bytes::from(body)));
        let response = connection.request(sent.unwrap()).await;

        assert_eq!(response.assert_status(200).text(), method);
        let seen = backend.requests().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, "/a/b?c=d&e=%20&f"));
        assert_eq!(seen.body, body.as_bytes());
    }
}

#[tokio::test]
async fn status_headers_and_body_of_the_answer_reach_the_client() {
    let backend = Backend::with(|_| {
        with_headers(answer(418, "short and stout"), &[("x-a", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=2")])
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger.get("/").await;

    response.assert_status(418).assert_header("x-a", "1");
    assert_eq!(response.text(), "short and stout");
    let cookies: Vec<_> = response.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[tokio::test]
async fn an_error_of_the_backend_is_passed_and_not_replaced() {
    let backend = Backend::with(|_| answer(503, "down for tea")).await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger.get("/").await;

    assert_eq!(response.assert_status(503).text(), "down for tea");
    response.assert_no_header("proxy-status");
}

#[tokio::test]
async fn the_path_is_forwarded_in_its_one_form_and_the_query_as_it_came() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    for (sent, forwarded) in [
        ("/a//b/./c/../d", "/a/b/d"),
        ("/%61%7Eb", "/a~b"),
        ("/a%2fb/../c", ""),
        ("/a%20b?x=%2F..%2F&y=a//b&", "/a%20b?x=%2F..%2F&y=a//b&"),
        ("/a?", "/a?"),
        ("/", "/"),
    ] {
        let response = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;

        if forwarded.is_empty() {
            response.assert_problem(400, "bad-path");
        } else {
            response.assert_status(200);
            assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
        }
    }
}

// === the host ===

#[tokio::test]
async fn the_host_is_kept_or_the_endpoints_or_a_literal_one() {
    for upstream in ["protocol: http1", "protocol: h2c"] {
        let backend = Backend::replies("ok").await;
        let endpoint = backend.address().to_string();
        for (host, expected) in [
            ("", "shop.example.com"),
            (", host: preserve", "shop.example.com"),
            (", host: upstream", endpoint.as_str()),
            (", host: {literal: \"app.internal:8080\"}", "app.internal:8080"),
        ] {
            let route = format!("- {{name: all, match: {{path: \"/{{rest...}}\"}}, proxy: {{upstream: app{host}}}}}");
            let armiger = Armiger::with(Config::to(&backend).upstream(upstream).routes(&route)).await;

            armiger.request(request("GET", "/", &[("host", "shop.example.com")])).await.assert_status(200);

            let seen = backend.requests().pop().unwrap();
            assert_eq!(seen.header("host"), expected, "{upstream}{host}");
            assert_eq!(seen.header("x-forwarded-host"), "shop.example.com", "{upstream}{host}");
        }
    }
}

#[tokio::test]
async fn an_absolute_target_counts_and_not_the_host_beside_it() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET http://real.example.com/a?b HTTP/1.1\r\nhost: other\r\n\r\n").await;

    conversation.answer().await.assert_status(200);
    let seen = backend.only().await;
    assert_eq!((seen.target.as_str(), seen.header("host")), ("/a?b", "real.example.com"));
}

// === rewrites ===

#[tokio::test]
async fn a_rewritten_path_has_the_matchs_parameters_and_the_query() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - {name: order, match: {path: \"/orders/{id}/{part}\"}, proxy: {upstream: app, rewrite: \"/v2/{part}/of/{id}\"}}
        - {name: files, match: {path: \"/files/{rest...}\"}, proxy: {upstream: app, rewrite: \"/{rest}\"}}
        - {name: fixed, match: {path_prefix: /old}, proxy: {upstream: app, rewrite: /new}}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (sent, forwarded) in [
        ("/orders/7/items?x=1&x=2", "/v2/items/of/7?x=1&x=2"),
        ("/orders/a%20b/%C3%BC", "/v2/%C3%BC/of/a%20b"),
        ("/files/a/b/c.txt", "/a/b/c.txt"),
        ("/files/", "/"),
        ("/files/a/../b?q", "/b?q"),
        ("/old/anything?a=/../b", "/new?a=/../b"),
    ] {
        armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await.assert_status(200);

        assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
    }
}

/// What a client sends never chooses another path than the one that the rewrite says.
#[tokio::test]
async fn a_rewrite_never_climbs_by_what_a_client_sent() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - {name: one, match: {path: \"/one/{id}\"}, proxy: {upstream: app, rewrite: \"/v1/{id}/open\"}}
        - name: cut
          match: {path_regex: \"/cut(?<a>[^/]*)/(?<b>.*)\"}
          proxy: {upstream: app, rewrite: \"/v1/{a}/.{b}\"}
        - name: slash
          match: {path_regex: \"/slash/(?<a>.)(?<b>..)(?<c>.*)\"}
          proxy: {upstream: app, rewrite: \"/v1/{a}2F{c}\"}
        - name: dots
          match: {path_regex: \"/dots/(?<a>.)(?<b>..)(?<c>.*)\"}
          proxy: {upstream: app, rewrite: \"/v1/{a}2e{a}2E/{c}\"}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (sent, answer) in [
        ("/one/%2e%2e", 404),
        ("/one/..", 404),
        ("/one/..%2fx", 400),
        ("/cut../x", 400),
        ("/cut%2e%2E/x", 400),
        ("/cut./x", 400),
        ("/cuta/.", 400),
        // Put together of two that are harmless.
        ("/slash/%3Bx", 400),
        ("/dots/%3Bx", 400),
    ] {
        let answered = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;
        answered.assert_status(answer);
    }
    assert!(backend.requests().is_empty());
    for (sent, forwarded) in [("/one/..a", "/v1/..a/open"), ("/cutb/c", "/v1/b/.c"), ("/cut/c", "/v1/.c")] {
        let answered = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;
        answered.assert_status(200);
        assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
    }
}
