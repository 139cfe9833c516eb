//! Policies: cors, headers, ip_filter, body_limit; and each of them in `mode: shadow`, where it only tells.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{Empty, Full};
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Response, answer, streamed};

fn get(target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

fn preflight(origin: &str, method: &str, headers: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::options("/").header("origin", origin).header("access-control-request-method", method);
    if !headers.is_empty() {
        request = request.header("access-control-request-headers", headers);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

/// Every value of a list header, in lower case and in order.
fn list(response: &Response, name: &str) -> Vec<String> {
    let mut items: Vec<String> = response
        .headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.to_str().expect("a list is text").split(','))
        .map(|item| item.trim().to_ascii_lowercase())
        .collect();
    items.sort_unstable();
    items
}

/// The rows of one policy in a line of the access log: verdict, reason, mode.
fn verdicts(line: &Value, policy: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = line["verdicts"].as_array().cloned().unwrap_or_default();
    let rows = rows.iter().filter(|row| row["policy"] == policy);
    rows.map(|row| (text(&row["verdict"]), text(&row["reason"]), text(&row["mode"]))).collect()
}

fn row(verdict: &str, reason: &str, mode: &str) -> (String, String, String) {
    (verdict.into(), reason.into(), mode.into())
}

const SHOP: &str = "https://shop.example.com";

// === cors ===

#[tokio::test]
async fn a_preflight_is_answered_before_anything_else_is_asked() {
    let backend = Backend::replies("ok").await;
    let policies = "
        cors: {origins: [\"https://shop.example.com\"], methods: [GET, PUT], headers: [content-type, x-a], max_age: 90s}
        ip_filter: {deny: [127.0.0.0/8]}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    let response = armiger.request(preflight(SHOP, "PUT", "x-a")).await;

    response
        .assert_status(204)
        .assert_header("access-control-allow-origin", SHOP)
        .assert_header("access-control-allow-methods", "GET, PUT")
        .assert_header("access-control-allow-headers", "content-type, x-a")
        .assert_header("access-control-max-age", "90")
        .assert_no_header("access-control-allow-credentials");
    assert_eq!(list(&response, "vary"), ["origin"]);
    assert_eq!(backend.count(), 0);
    let line = armiger.logged(|line| line["method"] == "OPTIONS").await;
    assert_eq!(verdicts(&line, "cors"), [row("answer", "", "enforce")], "{line:#}");
    assert_eq!(verdicts(&line, "ip_filter"), [], "nothing further is asked: {line:#}");
}

#[tokio::test]
async fn a_preflight_of_another_origin_is_granted_nothing() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("cors: {origins: [\"https://shop.example.com\"]}")).await;

    for origin in ["https://evil.example", "http://shop.example.com", "https://shop.example.com.evil.example", "null"] {
        let response = armiger.request(preflight(origin, "GET", "")).await;

        response
            .assert_status(204)
            .assert_no_header("access-control-allow-origin")
            .assert_no_header("access-control-allow-methods");
        assert_eq!(list(&response, "vary"), ["origin"], "{origin}");
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn an_answer_tells_the_browser_whose_pages_may_read_it() {
    let backend = Backend::replies("ok").await;
    let policies = "cors: {origins: [\"https://*.example.com\"], expose: [x-total], credentials: true}";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    let granted = armiger.request(get("/", &[("origin", SHOP)])).await;
    let other = armiger.request(get("/", &[("origin", "https://evil.example")])).await;
    let none = armiger.get("/").await;

    granted
        .assert_status(200)
        .assert_header("access-control-allow-origin", SHOP)
        .assert_header("access-control-allow-credentials", "true")
        .assert_header("access-control-expose-headers", "x-total");
    for response in [&other, &none] {
        response
            .assert_status(200)
            .assert_no_header("access-control-allow-origin")
            .assert_no_header("access-control-allow-credentials")
            .assert_no_header("access-control-expose-headers");
    }
    for response in [&granted, &other, &none] {
        assert_eq!(list(response, "vary"), ["origin"], "a cache must not give one origin's answer to another");
    }
}

#[tokio::test]
async fn vary_names_the_origin_only_where_it_is_reflected() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("cors: {origins: [\"*\"]}")).await;

    let response = armiger.request(get("/", &[("origin", SHOP)])).await;
    let asked = armiger.request(preflight(SHOP, "POST", "")).await;

    response.assert_header("access-control-allow-origin", "*").assert_no_header("vary");
    asked.assert_status(204).assert_header("access-control-allow-origin", "*").assert_no_header("vary");
}

#[tokio::test]
async fn any_header_is_allowed_by_saying_what_was_asked_for() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("cors: {origins: [\"*\"], headers: [\"*\"]}")).await;

    let response = armiger.request(preflight(SHOP, "POST", "x-one, authorization")).await;

    response.assert_header("access-control-allow-headers", "x-one, authorization");
    assert_eq!(list(&response, "vary"), ["access-control-request-headers"]);
}

#[tokio::test]
async fn armigers_own_answers_carry_cors_headers_too() {
    let mut backend = Backend::replies("ok").await;
    let policies = "
        cors: {origins: [\"https://shop.example.com\"]}
        body_limit: {max: 1B}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;
    backend.stop();

    let post = Request::post("/").header("origin", SHOP).body(Full::new(Bytes::from("too long"))).unwrap();
    let refused = armiger.request(post).await;
    let failed = armiger.request(get("/", &[("origin", SHOP)])).await;

    refused.assert_problem(413, "body-too-large").assert_header("access-control-allow-origin", SHOP);
    failed.assert_problem(502, "upstream-connect").assert_header("access-control-allow-origin", SHOP);
}

#[tokio::test]
async fn cors_headers_of_the_upstream_are_replaced() {
    let backend = Backend::with(|_| {
        let mut answer = answer(200, "ok");
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-secret"),
            ("vary", "accept-encoding"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).policies("cors: {origins: [\"https://shop.example.com\"]}")).await;

    let granted = armiger.request(get("/", &[("origin", SHOP)])).await;
    let other = armiger.request(get("/", &[("origin", "https://evil.example")])).await;

    granted.assert_header("access-control-allow-origin", SHOP);
    other.assert_no_header("access-control-allow-origin");
    for response in [&granted, &other] {
        response.assert_no_header("access-control-allow-credentials").assert_no_header("access-control-expose-headers");
        assert_eq!(list(response, "vary"), ["accept-encoding", "origin"]);
    }
}

#[tokio::test]
async fn an_options_request_that_is_no_preflight_goes_to_the_backend() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("cors: {origins: [\"*\"]}")).await;

    let sent = Request::options("/").header("origin", SHOP).body(Empty::<Bytes>::new()).unwrap();
    let response = armiger.request(sent).await;

    response.assert_status(200).assert_header("access-control-allow-origin", "*");
    assert_eq!(backend.only().await.method, "OPTIONS");
}

/// Not even the route that a preflight takes changes: without `cors` it is an OPTIONS like any other.
#[tokio::test]
async fn cors_in_shadow_changes_no_answer_and_no_route() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - name: post
          match: {path: /, methods: [POST]}
          policies: {cors: {origins: [\"https://shop.example.com\"], methods: [POST], mode: shadow}}
          proxy: {upstream: app}
        - name: any
          match: {path: /any}
          policies: {cors: {origins: [\"https://shop.example.com\"], mode: shadow}}
          proxy: {upstream: app}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    armiger.request(preflight(SHOP, "POST", "")).await.assert_problem(405, "method-not-allowed");
    assert_eq!(backend.count(), 0);
    let mut asked = preflight(SHOP, "GET", "");
    *asked.uri_mut() = "/any".parse().unwrap();
    let passed = armiger.request(asked).await;
    let marked = armiger.request(get("/any", &[("origin", SHOP)])).await;

    for response in [&passed, &marked] {
        response.assert_status(200).assert_no_header("access-control-allow-origin").assert_no_header("vary");
    }
    assert_eq!(backend.received(2).await[0].method, "OPTIONS");
    let line = armiger.logged(|line| line["method"] == "OPTIONS" && line["route"] == "any").await;
    assert_eq!(verdicts(&line, "cors"), [row("would_answer", "", "shadow")], "{line:#}");
    let line = armiger.logged(|line| line["method"] == "GET").await;
    assert_eq!(verdicts(&line, "cors"), [row("would_amend", "", "shadow")], "{line:#}");
    let counted =
        "armiger_policy_verdicts_total{mode=\"shadow\",policy=\"cors\",route=\"any\",verdict=\"would_answer\"}";
    armiger.until_metric(counted, 1.0).await;
}

/// Whoever puts `cors` into shadow wants to know which pages would get no permission.
#[tokio::test]
async fn log_and_metric_tell_which_pages_cors_would_give_no_permission() {
    let shop = |method, headers| preflight(SHOP, method, headers);
    let cases = [
        (get("/", &[]), "", "no_origin"),
        (get("/", &[("origin", SHOP)]), "", "allowed"),
        (get("/", &[("origin", "https://evil.example")]), "origin_not_allowed", "origin_not_allowed"),
        // Its own site.
        (get("/", &[("origin", "https://api.test"), ("host", "api.test:443")]), "", "no_origin"),
        (
            get("/", &[("origin", "http://api.test"), ("host", "api.test:443")]),
            "origin_not_allowed",
            "origin_not_allowed",
        ),
        (shop("PUT", "X-A, content-type"), "", "allowed"),
        // Needs no permission.
        (shop("POST", ""), "", "allowed"),
        (preflight("https://evil.example", "PUT", "x-a"), "origin_not_allowed", "origin_not_allowed"),
        (shop("DELETE", "x-a"), "method_not_allowed", "method_not_allowed"),
        (shop("PUT", "x-a,x-b"), "header_not_allowed", "header_not_allowed"),
    ];
    for mode in ["shadow", "enforce"] {
        let backend = Backend::replies("ok").await;
        let policies =
            format!("cors: {{origins: [\"{SHOP}\"], methods: [PUT], headers: [content-type, x-a], mode: {mode}}}");
        let armiger = Armiger::with(Config::to(&backend).policies(&policies)).await;
        let mut counted = std::collections::BTreeMap::<&str, f64>::new();
        for (request, cause, outcome) in &cases {
            let response = armiger.request(request.clone()).await;
            let id = response.header("x-request-id").to_owned();
            let line = armiger.logged(|line| line["request_id"] == *id).await;
            let row = &line["verdicts"][0];
            assert_eq!(row["policy"], "cors", "{line:#}");
            assert_eq!(row["cause"].as_str().unwrap_or(""), *cause, "{mode} {request:?}: {line:#}");
            *counted.entry(*outcome).or_default() += 1.0;
        }
        for (outcome, count) in counted {
            let series =
                format!("armiger_cors_requests_total{{mode=\"{mode}\",outcome=\"{outcome}\",route=\"everything\"}}");
            armiger.until_metric(&series, count).await;
        }
    }
}

#[tokio::test]
async fn of_any_origin_and_any_header_cors_refuses_methods_alone() {
    let backend = Backend::replies("ok").await;
    let armiger =
        Armiger::with(Config::to(&backend).policies("cors: {origins: [\"*\"], headers: [\"*\"], mode: shadow}")).await;
    for (method, cause) in [("GET", ""), ("PUT", "method_not_allowed")] {
        let response = armiger.request(preflight(SHOP, method, "x-any")).await;
        let id = response.header("x-request-id").to_owned();
        let line = armiger.logged(|line| line["request_id"] == *id).await;
        assert_eq!(line["verdicts"][0]["cause"].as_str().unwrap_or(""), cause, "{method}: {line:#}");
    }
}

// === headers ===

#[tokio::test]
async fn request_headers_are_renamed_removed_set_and_added() {
    let backend = Backend::replies("ok").await;
    let policies = "
        headers:
          request:
            rename: {x-old: x-new}
            remove: [cookie, x-gone]
            set: {x-set: fixed}
            add: {x-list: last}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    let sent = get(
        "/",
        &[
            ("x-old", "1"),
            ("cookie", "a=b"),
            ("x-gone", "1"),
            ("x-set", "forged"),
            ("x-list", "first"),
            ("x-stays", "1"),
        ],
    );
    armiger.request(sent).await.assert_status(200);

    let seen = backend.only().await;
    assert_eq!((seen.header("x-new"), seen.header("x-set"), seen.header("x-stays")), ("1", "fixed", "1"));
    let values: Vec<_> = seen.headers.get_all("x-list").iter().collect();
    assert_eq!(values, ["first", "last"]);
    assert!(!seen.has("x-old") && !seen.has("cookie") && !seen.has("x-gone"), "{}", seen.head_text());
}

#[tokio::test]
async fn header_values_are_made_of_facts_of_the_request() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - name: order
          match: {path: \"/orders/{id}/{rest...}\"}
          policies:
            headers:
              request:
                set:
                  x-order: \"no. ${path.id}, ${path.rest}\"
                  x-facts: \"${request.method} ${request.host} ${request.path} ${client.address} ${route.name}\"
                  x-id: \"${request.id}\"
                  x-text: \"$${path.id} costs 1$\"
              response: {rename: {x-request-id: x-ticket}, set: {x-answer-to: \"${path.id}\"}}
          proxy: {upstream: app, rewrite: \"/{id}\"}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    let response = armiger.request(get("/x/../orders/7%2C8/a/b", &[("host", "Shop.example.com")])).await;

    let seen = backend.only().await;
    assert_eq!(seen.header("x-order"), "no. 7%2C8, a/b");
    assert_eq!(seen.header("x-facts"), "GET Shop.example.com /orders/7%2C8/a/b 127.0.0.1 order");
    assert_eq!(seen.header("x-id"), response.assert_no_header("x-request-id").header("x-ticket"));
    assert_eq!(seen.header("x-text"), "${path.id} costs 1$");
    response.assert_header("x-answer-to", "7%2C8");
}

#[tokio::test]
async fn response_headers_are_changed_on_refusals_too() {
    let mut backend = Backend::with(|_| {
        let mut answer = answer(200, "ok");
        answer.headers_mut().insert("server", HeaderValue::from_static("secret/1.0"));
        answer.headers_mut().insert("x-old", HeaderValue::from_static("1"));
        answer
    })
    .await;
    let policies = "
        headers:
          response:
            rename: {x-old: x-new}
            remove: [server]
            set: {x-frame-options: DENY}
            add: {x-by: armiger}
        body_limit: {max: 1B}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    let passed = armiger.get("/").await;
    let refused = armiger.post("/", "too long").await;
    backend.stop();
    let failed = armiger.get("/").await;

    passed.assert_status(200).assert_header("x-new", "1").assert_no_header("x-old").assert_no_header("server");
    refused.assert_problem(413, "body-too-large");
    failed.assert_problem(502, "upstream-connect");
    for response in [&passed, &refused, &failed] {
        response.assert_header("x-frame-options", "DENY").assert_header("x-by", "armiger");
    }
}

#[tokio::test]
async fn header_edits_have_the_last_word_over_armigers_own_headers() {
    let backend = Backend::replies("ok").await;
    let policies = "headers: {request: {remove: [x-forwarded-for, via], set: {x-forwarded-proto: https}}}";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    armiger.get("/").await.assert_status(200);

    let seen = backend.only().await;
    assert!(!seen.has("x-forwarded-for") && !seen.has("via"), "{}", seen.head_text());
    assert_eq!(seen.header("x-forwarded-proto"), "https");
}

#[tokio::test]
async fn headers_in_shadow_change_nothing() {
    let backend = Backend::replies("ok").await;
    let policies = "
        headers:
          request: {set: {x-set: fixed}, remove: [cookie]}
          response: {set: {x-answer: fixed}, remove: [date]}
          mode: shadow
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    let response = armiger.request(get("/", &[("cookie", "a=b")])).await;

    response.assert_status(200).assert_no_header("x-answer").header("date");
    let seen = backend.only().await;
    assert_eq!(seen.header("cookie"), "a=b");
    assert!(!seen.has("x-set"));
    let line = armiger.logged(|_| true).await;
    assert_eq!(
        line["verdicts"],
        json!([
            {"policy": "headers", "stage": "always", "verdict": "would_amend", "mode": "shadow"},
            {"policy": "headers", "stage": "prepare", "verdict": "would_amend", "mode": "shadow"},
        ]),
    );
    let counted = "armiger_policy_verdicts_total{mode=\"shadow\",policy=\"headers\",route=\"everything\",verdict=\"would_amend\"}";
    armiger.until_metric(counted, 2.0).await;
}

// === ip_filter ===

#[tokio::test]
async fn an_address_that_is_denied_or_not_allowed_is_refused() {
    let backend = Backend::replies("ok").await;
    for (filter, is_allowed) in [
        ("{allow: [127.0.0.1]}", true),
        ("{allow: [127.0.0.0/8]}", true),
        ("{allow: [10.0.0.0/8]}", false),
        ("{deny: [127.0.0.0/8]}", false),
        ("{deny: [10.0.0.0/8]}", true),
        ("{allow: [127.0.0.0/8], deny: [127.0.0.1]}", false),
    ] {
        let before = backend.count();
        let armiger = Armiger::with(Config::to(&backend).policies(&format!("ip_filter: {filter}"))).await;

        let response = armiger.get("/").await;

        if is_allowed {
            response.assert_status(200);
        } else {
            response.assert_problem(403, "address-blocked");
            assert_eq!(backend.count(), before, "{filter}");
        }
    }
}

#[tokio::test]
async fn the_address_is_the_clients_as_trusted_proxies_name_it() {
    let backend = Backend::replies("ok").await;
    let blocked = |forwarded: &'static str| get("/", &[("x-forwarded-for", forwarded)]);
    let policy = "ip_filter: {deny: [192.0.2.0/24]}";
    let believed = Config::to(&backend).policies(policy).listener("trusted_proxies: [127.0.0.1]");
    let believed = Armiger::with(believed).await;
    let doubted = Armiger::with(Config::to(&backend).policies(policy)).await;

    believed.request(blocked("192.0.2.7")).await.assert_problem(403, "address-blocked");
    believed.request(blocked("198.51.100.1, 192.0.2.7")).await.assert_problem(403, "address-blocked");
    // What the client itself wrote in front does not count.
    believed.request(blocked("192.0.2.7, 198.51.100.1")).await.assert_status(200);
    doubted.request(blocked("192.0.2.7")).await.assert_status(200);

    let line = believed.logged(|line| line["status"] == 403).await;
    assert_eq!(line["client"], "192.0.2.7");
}

#[tokio::test]
async fn an_ip_filter_in_shadow_refuses_nobody_and_tells_whom_it_would() {
    let backend = Backend::replies("ok").await;
    let policies = "
        ip_filter: {deny: [127.0.0.0/8], mode: shadow}
        headers: {request: {set: {x-later: asked}}}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    armiger.get("/").await.assert_status(200);

    assert_eq!(backend.only().await.header("x-later"), "asked", "policies after it are asked as ever");
    let line = armiger.logged(|_| true).await;
    assert_eq!(verdicts(&line, "ip_filter"), [row("would_reject", "address-blocked", "shadow")], "{line:#}");
    assert_eq!(line["reason"], Value::Null, "nobody was refused: {line:#}");
    let counted = "armiger_policy_verdicts_total{mode=\"shadow\",policy=\"ip_filter\",route=\"everything\",verdict=\"would_reject\"}";
    armiger.until_metric(counted, 1.0).await;
    let rejections = "armiger_rejections_total{reason=\"address-blocked\",route=\"everything\"}";
    assert_eq!(armiger.metric(rejections).await, 0.0);
}

// === body_limit ===

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_at_once() {
    let backend = Backend::echo().await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 4B}")).await;

    armiger.post("/", "1234").await.assert_status(200);
    armiger.post("/", "12345").await.assert_problem(413, "body-too-large");
    let unsent = armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n").await.answer().await;

    unsent.assert_problem(413, "body-too-large");
    assert_eq!(backend.count(), 1);
    armiger.until_metric("armiger_limit_hits_total{limit=\"body_max\"}", 2.0).await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_where_it_crosses_the_bound() {
    for is_h2 in [false, true] {
        // Answers only once the body is whole, which it never is.
        let backend = Backend::with(|_| answer(200, "whole")).await;
        let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 1KiB}")).await;
        let mut connection = if is_h2 { armiger.connect_h2c().await } else { armiger.connect().await };

        let (sender, body) = streamed(200);
        let sent = connection.request(Request::post("/").body(body.into_body()).unwrap());
        let (response, ()) = tokio::join!(sent, async {
            sender.data(vec![0; 1024]).await;
            backend.arrived(1).await;
            sender.data("!").await;
        });

        response.assert_problem(413, "body-too-large");
        assert!(!backend.requests()[0].whole, "what is cut must not look whole");
        let line = armiger.logged(|line| line["status"] == 413).await;
        assert_eq!(line["reason"], "body-too-large", "{line:#}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_within_the_bound_passes() {
    let backend = Backend::echo().await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 5B}")).await;

    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut conversation = armiger.raw(format!("{head}2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")).await;

    assert_eq!(conversation.answer().await.assert_status(200).text(), "abcde");
}

#[tokio::test]
async fn no_body_at_all_may_be_allowed() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 0B}")).await;

    armiger.get("/").await.assert_status(200);
    armiger.post("/", "").await.assert_status(200);
    armiger.post("/", "1").await.assert_problem(413, "body-too-large");
}

#[tokio::test]
async fn the_listeners_bound_holds_for_every_route() {
    let backend = Backend::replies("ok").await;
    let config = Config::to(&backend).listener("limits: {body_max: 4B}");
    let armiger = Armiger::with(config).await;

    armiger.post("/", "1234").await.assert_status(200);
    armiger.post("/", "12345").await.assert_problem(413, "body-too-large");
}

#[tokio::test]
async fn a_body_limit_in_shadow_cuts_nothing() {
    let backend = Backend::echo().await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 1B, mode: shadow}")).await;

    let announced = armiger.post("/announced", "longer than that").await;
    let (sender, body) = streamed(200);
    let request = Request::post("/streamed").body(body.into_body()).unwrap();
    let (unannounced, ()) = tokio::join!(armiger.request(request), async {
        sender.data("longer than that").await;
        drop(sender);
    });

    for response in [announced, unannounced] {
        assert_eq!(response.assert_status(200).text(), "longer than that");
    }
    let line = armiger.logged(|line| line["path"] == "/announced").await;
    assert_eq!(verdicts(&line, "body_limit"), [row("would_reject", "body-too-large", "shadow")], "{line:#}");
    assert_eq!(line["reason"], Value::Null, "{line:#}");
    let line = armiger.logged(|line| line["path"] == "/streamed").await;
    assert_eq!(verdicts(&line, "body_limit"), [row("would_amend", "", "shadow")], "{line:#}");
    let counted = "armiger_policy_verdicts_total{mode=\"shadow\",policy=\"body_limit\",route=\"everything\",verdict=\"would_reject\"}";
    armiger.until_metric(counted, 1.0).await;
    assert_eq!(armiger.metric("armiger_limit_hits_total{limit=\"body_max\"}").await, 0.0);
}

// === defaults and modes ===

#[tokio::test]
async fn a_route_takes_the_defaults_replaces_them_or_switches_them_off() {
    let config = Config::empty()
        .top(
            "
            defaults:
              policies:
                headers: {response: {set: {x-a: default, x-b: default}}}
            ",
        )
        .routes(
            "
            - {name: inherits, match: {path: /inherits}, respond: {}}
            - name: replaces
              match: {path: /replaces}
              policies: {headers: {response: {set: {x-a: own}}}}
              respond: {}
            - {name: none, match: {path: /none}, policies: {headers: off}, respond: {}}
            - name: mode
              match: {path: /mode}
              policies: {headers: {response: {set: {x-a: own}}, mode: \"off\"}}
              respond: {}
            ",
        );
    let armiger = Armiger::with(config).await;

    armiger.get("/inherits").await.assert_header("x-a", "default").assert_header("x-b", "default");
    // Whole, without anything of the default's: there is no merge to think about.
    armiger.get("/replaces").await.assert_header("x-a", "own").assert_no_header("x-b");
    armiger.get("/none").await.assert_no_header("x-a");
    armiger.get("/mode").await.assert_no_header("x-a");
    let line = armiger.logged(|line| line["path"] == "/mode").await;
    assert_eq!(line["verdicts"], Value::Null, "what is off is not asked");
}

#[tokio::test]
async fn policies_are_asked_in_a_fixed_order_whatever_the_file_says() {
    let backend = Backend::replies("ok").await;
    let policies = "
        ip_filter: {allow: [127.0.0.0/8]}
        headers: {request: {set: {x-a: b}}, response: {set: {x-a: b}}}
        cors: {origins: [\"*\"]}
        body_limit: {max: 1MiB}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    armiger.post("/", "body").await.assert_status(200);

    let line = armiger.logged(|_| true).await;
    let rows = line["verdicts"].as_array().unwrap();
    let asked: Vec<String> =
        rows.iter().map(|row| format!("{}/{}", row["stage"], row["policy"]).replace('"', "")).collect();
    assert_eq!(asked, ["always/headers", "preflight/cors", "admit/ip_filter", "admit/body_limit", "prepare/headers"],);
}

#[tokio::test]
async fn header_edits_of_the_response_also_reach_the_answer_to_a_preflight() {
    let backend = Backend::replies("ok").await;
    let policies = "
        cors: {origins: [\"https://shop.example.com\"]}
        headers: {response: {set: {x-answer: fixed}}}
    ";
    let armiger = Armiger::with(Config::to(&backend).policies(policies)).await;

    let asked = [("origin", "https://shop.example.com"), ("access-control-request-method", "GET")];
    let preflight = asked.iter().fold(Request::options("/"), |request, (name, value)| request.header(*name, *value));
    let response = armiger.request(preflight.body(Empty::<Bytes>::new()).unwrap()).await;

    response.assert_status(204).assert_header("x-answer", "fixed");
    assert_eq!(backend.count(), 0);
}
