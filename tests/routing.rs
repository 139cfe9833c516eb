//! Routing: which route a request takes, by host, path, method, header, query and cookie.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;

use crate::harness::{Armiger, Backend, Config};

/// Routes that answer with their own name, so that the answer tells which one was taken.
fn naming(routes: &[(&str, &str)]) -> Config {
    let rows = routes
        .iter()
        .map(|(name, matches)| format!("- {{name: {name}, match: {matches}, respond: {{body: {name}}}}}\n"));
    Config::empty().routes(&rows.collect::<String>())
}

/// Asks with a request line and header lines, and gives the route's name, or the status if there was none.
async fn asked(armiger: &Armiger, line: &str, headers: &str) -> String {
    let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "host: a\r\n" };
    let mut conversation = armiger.raw(format!("{line} HTTP/1.1\r\n{host}{headers}\r\n")).await;
    let response =
        if line.starts_with("HEAD ") { conversation.answer_to_head().await } else { conversation.answer().await };
    match response.status {
        200 if line.starts_with("HEAD ") => "200".into(),
        200 => response.text().to_owned(),
        other => other.to_string(),
    }
}

/// Each row: request line, header lines, the route's name or the status.
async fn check(routes: &[(&str, &str)], rows: &[(&str, &str, &str)]) {
    let reversed: Vec<_> = routes.iter().rev().copied().collect();
    for routes in [routes, &reversed] {
        let armiger = Armiger::with(naming(routes)).await;
        for (line, headers, expected) in rows {
            assert_eq!(asked(&armiger, line, headers).await, *expected, "{line} {headers:?}, routes {routes:?}");
        }
    }
}

#[tokio::test]
async fn the_most_specific_path_wins_wherever_it_stands_in_the_file() {
    check(
        &[
            ("rest", "{path: \"/{rest...}\"}"),
            ("prefix", "{path_prefix: /orders}"),
            ("param", "{path: \"/orders/{id}\"}"),
            ("literal", "{path: /orders/latest}"),
            ("deeper", "{path: \"/orders/{id}/items\"}"),
            // Longer than any of the others, and still less specific: length does not count.
            ("long", "{path: \"/{a_very_long_name_of_a_parameter}/latest\"}"),
        ],
        &[
            ("GET /orders/latest", "", "literal"),
            ("GET /orders/7", "", "param"),
            ("GET /orders/7/items", "", "deeper"),
            ("GET /orders/7/other", "", "prefix"),
            ("GET /orders", "", "prefix"),
            ("GET /orders/", "", "prefix"),
            ("GET /users/latest", "", "long"),
            ("GET /", "", "rest"),
            ("GET /anything/else", "", "rest"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_prefix_ends_at_a_segment() {
    check(
        &[("api", "{path_prefix: /api}"), ("files", "{path: \"/files/{rest...}\"}")],
        &[
            ("GET /api", "", "api"),
            ("GET /api/x/y", "", "api"),
            ("GET /apix", "", "404"),
            ("GET /files/", "", "files"),
            ("GET /files/a/b", "", "files"),
            ("GET /filesystem", "", "404"),
            ("GET /API", "", "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_regular_expression_matches_the_whole_path_after_all_others() {
    check(
        &[("regex", "{path_regex: \"/orders/[0-9]+\"}"), ("literal", "{path: /orders/7}")],
        &[
            ("GET /orders/7", "", "literal"),
            ("GET /orders/8", "", "regex"),
            ("GET /orders/8/items", "", "404"),
            ("GET /x/orders/8", "", "404"),
        ],
    )
    .await;
    // Among themselves the order of the file counts.
    let armiger = Armiger::with(naming(&[("first", "{path_regex: \"/a.*\"}"), ("second", "{path_regex: \"/ab.*\"}")]));
    let first = armiger.await;
    assert_eq!(asked(&first, "GET /abc", "").await, "first");
}

#[tokio::test]
async fn the_most_specific_host_wins() {
    let path = "path: \"/{rest...}\"";
    let routes = [
        ("any", format!("{{{path}}}")),
        ("suffix", format!("{{hosts: [\"*.example.com\"], {path}}}")),
        ("longer", format!("{{hosts: [\"*.shop.example.com\"], {path}}}")),
        ("exact", format!("{{hosts: [shop.example.com, other.example], {path}}}")),
    ];
    let routes: Vec<(&str, &str)> = routes.iter().map(|(name, matches)| (*name, matches.as_str())).collect();
    check(
        &routes,
        &[
            ("GET /", "host: shop.example.com\r\n", "exact"),
            ("GET /", "host: SHOP.example.COM\r\n", "exact"),
            ("GET /", "host: shop.example.com.\r\n", "exact"),
            ("GET /", "host: shop.example.com:8080\r\n", "exact"),
            ("GET /", "host: other.example\r\n", "exact"),
            ("GET /", "host: a.shop.example.com\r\n", "longer"),
            ("GET /", "host: a.b.shop.example.com\r\n", "longer"),
            ("GET /", "host: www.example.com\r\n", "suffix"),
            ("GET /", "host: example.com\r\n", "any"),
            ("GET /", "host: wwwexample.com\r\n", "any"),
            ("GET http://shop.example.com/", "host: evil.example\r\n", "exact"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_host_goes_before_the_path_and_falls_through_to_any_host() {
    check(
        &[
            ("shop", "{hosts: [shop.example.com], path_prefix: /orders}"),
            ("any", "{path: /orders/latest}"),
            ("health", "{path: /healthz}"),
        ],
        &[
            ("GET /orders/latest", "host: shop.example.com\r\n", "shop"),
            ("GET /orders/latest", "host: else.example.com\r\n", "any"),
            ("GET /healthz", "host: shop.example.com\r\n", "health"),
        ],
    )
    .await;
}

#[tokio::test]
async fn http2_is_routed_by_its_authority() {
    let armiger = Armiger::with(naming(&[
        ("shop", "{hosts: [shop.example.com], path: \"/{rest...}\"}"),
        ("any", "{path: \"/{rest...}\"}"),
    ]))
    .await;

    let mut connection = armiger.connect_h2c().await;
    for (host, expected) in [("shop.example.com", "shop"), ("Shop.Example.com:80", "shop"), ("else", "any")] {
        let sent = Request::get("/").header("host", host).body(Empty::<Bytes>::new()).unwrap();

        assert_eq!(connection.request(sent).await.text(), expected, "{host}");
    }
}

#[tokio::test]
async fn methods_tell_routes_apart_and_a_405_names_them() {
    let routes = [
        ("read", "{path: /a, methods: [GET]}"),
        ("write", "{path: /a, methods: [PUT, POST]}"),
        ("any", "{path: /b}"),
        ("delete", "{path: /b, methods: [DELETE]}"),
    ];
    check(
        &routes,
        &[
            ("GET /a", "", "read"),
            ("HEAD /a", "", "200"),
            ("POST /a", "", "write"),
            ("DELETE /a", "", "405"),
            ("DELETE /b", "", "delete"),
            ("PATCH /b", "", "any"),
        ],
    )
    .await;

    let armiger = Armiger::with(naming(&routes)).await;
    let refused = armiger.raw("DELETE /a HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await;
    refused.assert_problem(405, "method-not-allowed");
    let mut allowed: Vec<&str> = refused.header("allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST", "PUT"]);
}

#[tokio::test]
async fn headers_query_and_cookies_tell_routes_apart() {
    check(
        &[
            ("plain", "{path: /a}"),
            ("header", "{path: /a, headers: {x-channel: {exact: beta}}}"),
            ("both", "{path: /a, headers: {x-channel: {exact: beta}, x-more: {present: true}}}"),
            ("prefix", "{path: /b, headers: {x-channel: {prefix: be}}}"),
            ("regex", "{path: /c, headers: {x-channel: {regex: \"b[a-z]+\"}}}"),
            ("absent", "{path: /d, headers: {x-channel: {present: false}}}"),
            ("query", "{path: /e, query: {v: {exact: \"2\"}}}"),
            ("cookie", "{path: /f, cookies: {session: {prefix: \"s-\"}}}"),
        ],
        &[
            ("GET /a", "", "plain"),
            ("GET /a", "x-channel: beta\r\n", "header"),
            ("GET /a", "X-Channel: beta\r\n", "header"),
            ("GET /a", "x-channel: BETA\r\n", "plain"),
            ("GET /a", "x-channel: beta\r\nx-more: 1\r\n", "both"),
            ("GET /b", "x-channel: beta\r\n", "prefix"),
            ("GET /b", "x-channel: alpha\r\n", "404"),
            ("GET /c", "x-channel: beta\r\n", "regex"),
            ("GET /c", "x-channel: beta2\r\n", "404"),
            ("GET /d", "", "absent"),
            ("GET /d", "x-channel: any\r\n", "404"),
            ("GET /e?v=2", "", "query"),
            ("GET /e?a=1&v=%32&b", "", "query"),
            ("GET /e?v=3", "", "404"),
            ("GET /e", "", "404"),
            ("GET /f", "cookie: a=1; session=s-1\r\n", "cookie"),
            ("GET /f", "cookie: session=x\r\n", "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_route_whose_conditions_do_not_hold_leaves_the_request_to_the_next() {
    check(
        &[
            ("literal", "{path: /orders/latest, methods: [POST]}"),
            ("param", "{path: \"/orders/{id}\", headers: {x-a: {present: true}}}"),
            ("rest", "{path: \"/{rest...}\"}"),
        ],
        &[
            ("POST /orders/latest", "", "literal"),
            ("GET /orders/latest", "x-a: 1\r\n", "param"),
            ("GET /orders/latest", "", "rest"),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_routed_is_the_normalised_path() {
    check(
        &[("secret", "{path: /secret}"), ("public", "{path: \"/public/{rest...}\"}")],
        &[
            ("GET /secret", "", "secret"),
            ("GET /public/../secret", "", "secret"),
            ("GET /public/%2e%2e/secret", "", "secret"),
            ("GET //secret", "", "secret"),
            ("GET /%73ecret", "", "secret"),
            ("GET /./secret", "", "secret"),
            ("GET /secret/", "", "404"),
            ("GET /public/..%2fsecret", "", "400"),
            ("GET /public/..;/secret", "", "400"),
            ("GET /public/..\\secret", "", "400"),
            ("GET /public/%00", "", "400"),
            ("GET /../secret", "", "400"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_route_may_allow_what_is_refused_elsewhere() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - {name: strict, match: {path: \"/strict/{rest...}\"}, proxy: {upstream: app}}
        - name: lax
          match: {path: \"/lax/{id}\", path_allow: [encoded_slash, semicolon]}
          proxy: {upstream: app, rewrite: \"/v1/{id}\"}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (sent, forwarded) in [
        ("/lax/a%2Fb", Some("/v1/a%2Fb")),
        ("/lax/a%2fb;v=1", Some("/v1/a%2Fb;v=1")),
        ("/lax/a%5Cb", None),
        ("/strict/a%2Fb", None),
        ("/strict/a;b", None),
    ] {
        let response = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;

        match forwarded {
            Some(forwarded) => {
                response.assert_status(200);
                assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
            }
            None => {
                response.assert_problem(400, "bad-path");
                assert!(
                    response.json()["detail"].as_str().is_some_and(|detail| detail.starts_with("The path ")),
                    "{sent}"
                );
            }
        }
    }
}

#[tokio::test]
async fn where_there_is_no_route_there_is_a_404() {
    let armiger = Armiger::with(naming(&[("a", "{path: /a}")])).await;

    let response = armiger.get("/b").await;

    response.assert_problem(404, "no-route").assert_header("cache-control", "no-store");
    armiger.until_metric("armiger_rejections_total{reason=\"no-route\",route=\"(none)\"}", 1.0).await;
}

#[tokio::test]
async fn a_preflight_takes_the_route_of_the_method_it_asks_for() {
    let routes = "
        - name: write
          match: {path: /a, methods: [PUT]}
          policies: {cors: {origins: [\"https://shop.example.com\"], methods: [PUT]}}
          respond: {}
        - {name: read, match: {path: /a, methods: [GET]}, respond: {}}
    ";
    let armiger = Armiger::with(Config::empty().routes(routes)).await;

    let ask = |method: &str| {
        let head = format!(
            "OPTIONS /a HTTP/1.1\r\nhost: a\r\norigin: https://shop.example.com\r\n\
             access-control-request-method: {method}\r\n\r\n"
        );
        async { armiger.raw(head).await.answer().await }
    };

    ask("PUT").await.assert_status(204).assert_header("access-control-allow-methods", "PUT");
    ask("GET").await.assert_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn routes_of_which_neither_is_more_specific_are_an_error() {
    for (first, second, word) in [
        ("{path: \"/a/{x}\"}", "{path: \"/a/{y}\"}", "neither is more specific"),
        ("{path: /a, methods: [GET, POST]}", "{path: /a, methods: [POST]}", "matches the same requests"),
        ("{path: \"/{rest...}\"}", "{path_regex: \"/a.*\"}", "never reached"),
    ] {
        let report = Armiger::try_with(naming(&[("first", first), ("second", second)])).await.err();

        let report = report.unwrap_or_else(|| panic!("{first} and {second} were taken"));
        assert!(report.contains(word), "{report}");
    }
}

/// A route of which a condition was lost is not the same as one that has none.
#[tokio::test]
async fn a_mistake_in_a_condition_is_the_only_one_that_is_told() {
    for condition in ["headers: {x: 1}", "headers: [x]", "query: {x: 1}", "cookies: [x]", "hosts: {a: b}"] {
        let routes = [("first", "{path: /a}"), ("second", &*format!("{{path: /a, {condition}}}"))];
        let report = Armiger::try_with(naming(&routes)).await.err().expect(condition);

        assert!(report.contains("1 issue") && !report.contains("matches the same requests"), "{condition}\n{report}");
    }
}

#[tokio::test]
async fn ten_thousand_routes_are_told_apart() {
    let rows = (0..10_000).map(|number| {
        format!("- {{name: r{number}, match: {{path: \"/r{number}/{{id}}\"}}, respond: {{body: r{number}}}}}\n")
    });
    let armiger = Armiger::with(Config::empty().routes(&rows.collect::<String>())).await;

    for name in ["r0", "r4999", "r9999"] {
        assert_eq!(asked(&armiger, &format!("GET /{name}/x"), "").await, name);
    }
    assert_eq!(asked(&armiger, "GET /r10000/x", "").await, "404");
}
