//! Aggregates: several upstreams asked at once, one JSON document answered, honest about what is missing.

use std::collections::HashMap;
use std::sync::Arc;

use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{Empty, Full};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::{Armiger, Backend, Config, Response, Script, Signal, answer, streamed, within};

/// The route `/page/{id}` that aggregates; `yaml` is the action's content.
fn page(backend: &Backend, yaml: &str) -> Config {
    page_with(backend, "methods: [GET]", "", yaml)
}

fn page_with(backend: &Backend, matches: &str, route: &str, yaml: &str) -> Config {
    let block = |yaml: &str, by: usize| -> String {
        let lines: Vec<&str> = yaml.lines().filter(|line| !line.trim().is_empty()).collect();
        let common = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
        lines.iter().map(|line| format!("{}{}\n", " ".repeat(by), &line[common..])).collect()
    };
    let (route, yaml) = (block(route, 2), block(yaml, 4));
    Config::to(backend)
        .routes(&format!("- name: page\n  match: {{path: \"/page/{{id}}\", {matches}}}\n{route}  aggregate:\n{yaml}"))
}

/// A back end that answers `/a` with `{"path":"/a"}`, and so on.
async fn mirror() -> Backend {
    Backend::with(|seen| answer(200, json!({"path": seen.target}).to_string())).await
}

/// A back end that answers each path with fixed bytes, status 200.
async fn fixed(answers: &[(&str, &str)]) -> Backend {
    let answers: HashMap<String, Bytes> =
        answers.iter().map(|(path, body)| ((*path).to_owned(), Bytes::copy_from_slice(body.as_bytes()))).collect();
    Backend::with(move |seen| match answers.get(&seen.target) {
        Some(body) => answer(200, body.clone()),
        None => answer(404, "{}"),
    })
    .await
}

/// A back end whose answer for a path waits for the signal of that path.
async fn gated(gates: &[(&str, &Signal)]) -> Backend {
    let gates: Arc<HashMap<String, Signal>> =
        Arc::new(gates.iter().map(|(path, gate)| ((*path).to_owned(), (*gate).clone())).collect());
    Backend::serving(move |request: Request<_>| {
        let gates = gates.clone();
        async move {
            let path = request.uri().path().to_owned();
            if let Some(gate) = gates.get(&path) {
                gate.wait().await;
            }
            answer(200, json!({"path": path}).to_string())
        }
    })
    .await
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

#[track_caller]
fn complete(response: &Response) -> &str {
    response.assert_status(200).assert_header("x-armiger-completed", "true").text()
}

#[track_caller]
fn lacks<'r>(response: &'r Response, missing: &str) -> &'r str {
    response
        .assert_status(200)
        .assert_header("x-armiger-completed", &format!("false; missing=\"{missing}\""))
        .assert_header("cache-control", "no-store")
        .text()
}

// === who waits for whom ===

#[tokio::test]
async fn parts_that_need_nothing_of_each_other_are_asked_at_once() {
    let gate = Signal::new();
    let backend = gated(&[("/a", &gate), ("/b", &gate), ("/c", &gate)]).await;
    let parts =
        "parts:\n  a: {upstream: app, path: /a}\n  b: {upstream: app, path: /b}\n  c: {upstream: app, path: /c}";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let asked = async {
        backend.arrived(3).await;
        gate.send();
    };
    let (response, ()) = tokio::join!(armiger.get("/page/1"), asked);

    assert_eq!(complete(&response), r#"{"a":{"path":"/a"},"b":{"path":"/b"},"c":{"path":"/c"}}"#);
    response
        .assert_header("content-type", "application/json")
        .assert_header("content-length", &response.body.len().to_string());
}

#[tokio::test]
async fn a_part_waits_for_the_parts_that_it_names_and_for_no_other() {
    let slow = Signal::new();
    let backend = gated(&[("/slow", &slow)]).await;
    let parts = "
        parts:
          second: {upstream: app, path: \"/of/{parts.first.status}/{parts.third.body.path}\"}
          slow: {upstream: app, path: /slow}
          first: {upstream: app, path: /first}
          third: {upstream: app, path: \"/third/{path.id}\", headers: {x-a: \"{parts.first.body.path}\"}, unwrap: path}
    ";
    let armiger =
        Armiger::with(page(&backend, &parts.replace("/{parts.third.body.path}", "?{parts.third.body.path}"))).await;

    let asked = async {
        let seen = backend.arrived(4).await;
        assert_eq!(seen.iter().find(|seen| seen.target == "/third/7").unwrap().header("x-a"), "/first");
        assert!(seen.iter().any(|seen| seen.target == "/of/200?%2Fthird%2F7"), "{seen:?}");
        slow.send();
    };
    let (response, ()) = tokio::join!(armiger.get("/page/7"), asked);

    assert_eq!(
        complete(&response),
        r#"{"second":{"path":"/of/200"},"slow":{"path":"/slow"},"first":{"path":"/first"},"third":"/third/7"}"#
    );
}

#[tokio::test]
async fn no_more_parts_are_asked_at_once_than_the_cap() {
    let gate = Signal::new();
    let backend = gated(&[("/a", &gate), ("/b", &gate), ("/c", &gate)]).await;
    let parts = "
        concurrency: 2
        parts: {a: {upstream: app, path: /a}, b: {upstream: app, path: /b}, c: {upstream: app, path: /c}}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let asked = async {
        backend.arrived(2).await;
        // Whoever asked for a third would have: both of the others wait.
        armiger.until_metric("armiger_upstream_connections{state=\"active\",upstream=\"app\"}", 2.0).await;
        assert_eq!(backend.count(), 2);
        gate.send();
    };
    let (response, ()) = tokio::join!(armiger.get("/page/1"), asked);

    complete(&response);
    assert_eq!(backend.count(), 3);
}

// === what is filled in ===

#[tokio::test]
async fn a_value_is_escaped_for_the_place_where_it_stands() {
    let said = r#"{"id":"a b/ü&=?#","n":9007199254740993,"o":{"k":[1.50]},"text":"say \"hi\"\n"}"#;
    let backend = Backend::with(move |seen| match seen.target.as_str() {
        "/first" => answer(200, said),
        _ => answer(200, json!({"target": seen.target, "body": String::from_utf8_lossy(&seen.body)}).to_string()),
    })
    .await;
    let config = "
        parts:
          first: {upstream: app, path: /first, hidden: true}
          query: {upstream: app, path: \"/q?a={parts.first.body.id}&n={parts.first.body.n}&q={query.q:-none}\"}
          segment: {upstream: app, path: \"/s/{parts.first.body.n}/{path.id}/x{query.s:-1}\"}
          body:
            upstream: app
            method: POST
            path: /b
            body: {n: \"{parts.first.body.n}\", o: \"{parts.first.body.o}\", t: \"<{parts.first.body.text}>\", p: \"{path.id}\", k: [1, true, \"{{}}\"]}
    ";
    let armiger = Armiger::with(page_with(&backend, "methods: [POST]", "", config)).await;

    let response = armiger.request(request("POST", "/page/7%20%3A?q=1%2B1&s=%25", &[])).await;

    complete(&response);
    let document = response.json();
    assert_eq!(document["query"]["target"], "/q?a=a%20b%2F%C3%BC%26%3D%3F%23&n=9007199254740993&q=1%2B1");
    assert_eq!(document["segment"]["target"], "/s/9007199254740993/7%20%3A/x%25");
    assert_eq!(
        document["body"]["body"],
        r#"{"n":9007199254740993,"o":{"k":[1.50]},"t":"<say \"hi\"\n>","p":"7 :","k":[1,true,"{}"]}"#
    );
    assert_eq!(document.get("first"), None, "a hidden part is not in the document");
    response.assert_header("cache-control", "no-store");
}

#[tokio::test]
async fn a_value_that_cannot_stand_in_its_place_fails_the_part() {
    for (value, placed) in [
        (json!(".."), "/p/{parts.first.body.v}"),
        (json!("a/b"), "/p/{parts.first.body.v}"),
        (json!("a\\b"), "/p/{parts.first.body.v}"),
        (json!(""), "/p/{parts.first.body.v}/x"),
        (json!("."), "/p/{parts.first.body.v}/x"),
        (json!("a\r\nb"), "/p/{parts.first.body.v}"),
        (json!({"a": 1}), "/p/{parts.first.body.v}"),
        (json!([1]), "/p?q={parts.first.body.v}"),
    ] {
        let body = json!({"v": value}).to_string();
        let backend = fixed(&[("/first", &body)]).await;
        let parts =
            format!("parts:\n  first: {{upstream: app, path: /first}}\n  next: {{upstream: app, path: \"{placed}\"}}");
        let armiger = Armiger::with(page(&backend, &parts)).await;

        let response = armiger.get("/page/1").await;

        lacks(&response, "next");
        assert_eq!(backend.count(), 1, "{value} in {placed}");
        let line = armiger.logged(|line| line["route"] == "page").await;
        assert_eq!(line["parts"][1]["outcome"], "part-value-unplaceable", "{line:#}");
    }
    let backend = fixed(&[("/first", r#"{"v":"a\r\nx-evil: 1"}"#)]).await;
    let parts = "
        parts:
          first: {upstream: app, path: /first}
          next: {upstream: app, path: /n, headers: {x-a: \"{parts.first.body.v}\"}}
    ";
    lacks(&Armiger::with(page(&backend, parts)).await.get("/page/1").await, "next");
}

#[tokio::test]
async fn a_part_whose_value_is_missing_is_not_asked_unless_there_is_a_default() {
    let backend = fixed(&[("/first", r#"{"v":null}"#), ("/n/0", "0")]).await;
    let parts = "
        parts:
          first: {upstream: app, path: /first}
          skipped: {upstream: app, path: \"/n/{parts.first.body.v}\"}
          after: {upstream: app, path: \"/n/{parts.skipped.body.id}\", null_on_error: true}
          filled: {upstream: app, path: \"/n/{parts.first.body.v:-0}\"}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.get("/page/1").await;

    assert_eq!(lacks(&response, "skipped, after"), r#"{"first":{"v":null},"after":null,"filled":0}"#);
    assert_eq!(backend.count(), 2);
}

// === what counts as an answer ===

#[tokio::test]
async fn bytes_pass_as_they_came_in_the_order_of_the_file() {
    let a = "{ \"z\" : 12345678901234567890123, \"a\":1.10,\"e\":1E400, \"u\":\"\\u00e4\\/\" }";
    let backend = fixed(&[("/a", a), ("/b", " [1,\n2] "), ("/c", "\"text\"")]).await;
    let parts = "parts:\n  c: {upstream: app, path: /c}\n  b: {upstream: app, path: /b}\n  a: {upstream: app, path: /a, as: \"the \\\"a\\\"\"}";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.get("/page/1").await;

    assert_eq!(complete(&response), format!("{{\"c\":\"text\",\"b\":[1,\n2],\"the \\\"a\\\"\":{a}}}"));
}

#[tokio::test]
async fn an_answer_is_an_accepted_status_with_json_within_bounds() {
    let deep = "[".repeat(65) + &"]".repeat(65);
    let backend = Backend::with(move |seen| match seen.target.as_str() {
        "/created" => answer(201, "{}"),
        "/none" => answer(204, ""),
        "/teapot" => answer(418, "{\"tea\":true}"),
        "/failed" => answer(500, "{}"),
        "/html" => answer(200, "<html>"),
        "/empty" => answer(200, ""),
        "/deep" => answer(200, deep.clone()),
        "/long" => answer(200, vec![b'1'; 2000]),
        _ => answer(404, ""),
    })
    .await;
    let parts = "
        errors_as: problems
        parts:
          created: {upstream: app, path: /created}
          none: {upstream: app, path: /none}
          teapot: {upstream: app, path: /teapot, accept: [418]}
          failed: {upstream: app, path: /failed}
          html: {upstream: app, path: /html}
          empty: {upstream: app, path: /empty}
          deep: {upstream: app, path: /deep}
          long: {upstream: app, path: /long, body_max: 1KiB}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.get("/page/1").await;

    lacks(&response, "failed, html, empty, deep, long");
    assert_eq!(
        response.json(),
        json!({
            "created": {}, "none": null, "teapot": {"tea": true},
            "problems": [
                {"part": "failed", "reason": "part-status", "status": 500},
                {"part": "html", "reason": "part-not-json", "status": 200},
                {"part": "empty", "reason": "part-not-json", "status": 200},
                {"part": "deep", "reason": "part-too-deep", "status": 200},
                {"part": "long", "reason": "part-too-large"},
            ],
        })
    );
}

#[tokio::test]
async fn a_compressed_answer_is_decoded_and_a_bomb_is_not() {
    let zip = |bytes: Vec<u8>| async move {
        let mut out = Vec::new();
        GzipEncoder::new(&*bytes).read_to_end(&mut out).await.unwrap();
        Bytes::from(out)
    };
    let (fine, bomb) = (zip(b"{\"a\":1}".to_vec()).await, zip(vec![b' '; 8 << 20]).await);
    let backend = Backend::with(move |seen| {
        let body = if seen.target == "/fine" { fine.clone() } else { bomb.clone() };
        let mut answer = answer(200, body);
        answer.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        answer
    })
    .await;
    let parts = "parts: {fine: {upstream: app, path: /fine}, bomb: {upstream: app, path: /bomb, body_max: 64MiB}}";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.request(request("GET", "/page/1", &[("accept-encoding", "gzip")])).await;

    assert_eq!(lacks(&response, "bomb"), r#"{"fine":{"a":1}}"#);
    assert!(backend.requests().iter().all(|seen| seen.header("accept-encoding") == "identity"));
}

#[tokio::test]
async fn what_is_taken_of_an_answer_is_unwrapped_picked_left_out_and_renamed() {
    let backend = fixed(&[(
        "/a",
        r#"{"data":{"items":[{"sku":1.0,"x":2,"y":3},{"sku":2.0}],"total":2,"secret":true},"meta":{}}"#,
    )])
    .await;
    let parts = "
        parts:
          a:
            upstream: app
            path: /a
            unwrap: data
            pick: [\"items.*.sku\", items.*.x, /total]
            omit: [items.*.x]
            rename: {items: articles, \"items.*.sku\": id}
            as: shop
          total: {upstream: app, path: \"/b?{parts.a.body.data.total}\", fallback: {static: {none: 1}, counts_as_complete: true}}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.get("/page/1").await;

    assert_eq!(complete(&response), r#"{"shop":{"articles":[{"id":1.0},{"id":2.0}],"total":2},"total":{"none":1}}"#);
    assert!(backend.requests().iter().any(|seen| seen.target == "/b?2"), "a part sees what the upstream sent");
}

#[tokio::test]
async fn a_list_is_asked_for_entry_by_entry_and_keeps_its_order() {
    let gate = Signal::new();
    let wait = gate.clone();
    let backend = Backend::serving(move |request: Request<_>| {
        let wait = wait.clone();
        async move {
            match request.uri().path() {
                "/list" => answer(200, r#"{"items":[{"id":1},{"id":"two"},{"id":3},{"id":4}]}"#),
                "/item/1" => {
                    wait.wait().await;
                    answer(200, r#"{"n":1}"#)
                }
                "/item/3" => answer(500, "{}"),
                path => answer(200, json!({"n": path}).to_string()),
            }
        }
    })
    .await;
    let each = "upstream: app, path: \"/item/{item.id}\", foreach: parts.list.body.items, items_concurrency: 2";
    let parts = format!(
        "parts:\n  list: {{upstream: app, path: /list, hidden: true}}\n  items: {{{each}, null_on_error: true, pick: [n]}}\n  \
         all: {{{each}}}\n  few: {{{each}, items_max: 3}}"
    );
    let armiger = Armiger::with(page(&backend, &parts)).await;

    let asked = async {
        // The first waits; the others go by in the second place.
        backend.arrived(5).await;
        gate.send();
    };
    let (response, ()) = tokio::join!(armiger.get("/page/1"), asked);

    assert_eq!(lacks(&response, "items, all, few"), r#"{"items":[{"n":1},{"n":"/item/two"},null,{"n":"/item/4"}]}"#);
}

// === merging ===

#[tokio::test]
async fn parts_lie_side_by_side_and_conflicts_are_decided_by_the_file() {
    let backend = fixed(&[("/a", r#"{"k":1,"o":{"x":1}}"#), ("/b", r#"{"k":2,"o":{"y":2}}"#), ("/list", "[1]")]).await;
    let config = |merge: &str| {
        page(
            &backend,
            &format!(
                "merge: {{{merge}}}\nparts: {{b: {{upstream: app, path: /b}}, a: {{upstream: app, path: /a}}, list: {{upstream: app, path: /list}}}}"
            ),
        )
    };
    let ask = async |merge: &str| Armiger::with(config(merge)).await.get("/page/1").await;

    ask("mode: flat").await.assert_problem(502, "merge-conflict");
    assert_eq!(lacks(&ask("mode: flat, on_conflict: last").await, "list"), r#"{"k":1,"o":{"x":1}}"#);
    assert_eq!(lacks(&ask("mode: deep, on_conflict: first").await, "list"), r#"{"k":2,"o":{"y":2,"x":1}}"#);
    assert_eq!(complete(&ask("mode: concat").await), r#"[{"k":2,"o":{"y":2}},{"k":1,"o":{"x":1}},1]"#);
}

// === failures ===

#[tokio::test]
async fn a_required_part_that_fails_ends_the_others_and_decides_the_status() {
    let never = Signal::new();
    let backend = gated(&[("/hangs", &never)]).await;
    let failing = Backend::with(|seen| match seen.target.as_str() {
        "/404" => answer(404, "{\"internal\":\"http://10.0.0.1/\"}"),
        _ => answer(500, "{}"),
    })
    .await;
    for (path, status, slug) in [("/404", 404, "part-failed"), ("/500", 502, "part-failed")] {
        let parts = format!(
            "parts:\n  hangs: {{upstream: app, path: /hangs}}\n  user: {{upstream: failing, path: {path}, required: true, pass_status: [404]}}"
        );
        let armiger = Armiger::with(page(&backend, &parts).and("failing", &failing)).await;
        let before = backend.connections();

        let response = armiger.get("/page/1").await;

        response.assert_problem(status, slug);
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("`user`") && !detail.contains("10.0.0.1"), "{detail}");
        // The part that was under way is gone, and its connection with it.
        if backend.connections() > before {
            backend.closed(backend.connections()).await;
        }
        let line = armiger.logged(|line| line["route"] == "page").await;
        assert_eq!(line["status"], status);
        assert!(line["parts"].as_array().unwrap().iter().any(|row| row["part"] == "user"), "{line:#}");
    }
}

#[tokio::test]
async fn a_required_part_that_cannot_be_reached_or_is_late_is_a_502_or_504() {
    let mut gone = Backend::replies("{}").await;
    gone.stop();
    let hangs = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(page(&gone, "parts: {a: {upstream: app, path: /, required: true}}")).await;
    let refused = armiger.get("/page/1").await;
    assert!(refused.assert_problem(502, "upstream-connect").text().contains("`a`"));

    let armiger =
        Armiger::with(page(&hangs, "parts: {a: {upstream: app, path: /, required: true, timeout: 20ms}}")).await;
    armiger.get("/page/1").await.assert_problem(504, "part-timeout");

    let armiger =
        Armiger::with(page(&hangs, "deadline: 20ms\nparts: {a: {upstream: app, path: /, required: true}}")).await;
    armiger.get("/page/1").await.assert_problem(504, "part-timeout");
    let line = armiger.logged(|line| line["route"] == "page").await;
    assert_eq!(line["parts"][0]["outcome"], "deadline-exceeded", "{line:#}");
}

#[tokio::test]
async fn what_is_not_there_by_the_deadline_is_missing() {
    let never = Signal::new();
    let backend = gated(&[("/slow", &never), ("/late", &never)]).await;
    let parts = "
        deadline: 100ms
        parts:
          fast: {upstream: app, path: /fast, required: true}
          slow: {upstream: app, path: /slow}
          late: {upstream: app, path: /late, timeout: 10ms, fallback: {static: {items: [], price: 1}}}
          after: {upstream: app, path: /after, after: [slow]}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.get("/page/1").await;

    assert_eq!(lacks(&response, "slow, late, after"), r#"{"fast":{"path":"/fast"},"late":{"items":[],"price":1}}"#);
    assert_eq!(backend.count(), 3);
    let ok = armiger.metric("armiger_aggregate_parts_total{outcome=\"ok\",part=\"fast\",route=\"page\"}").await;
    let late =
        armiger.metric("armiger_aggregate_parts_total{outcome=\"part-timeout\",part=\"late\",route=\"page\"}").await;
    let slow = armiger
        .metric("armiger_aggregate_parts_total{outcome=\"deadline-exceeded\",part=\"slow\",route=\"page\"}")
        .await;
    assert_eq!((ok, late, slow), (1.0, 1.0, 1.0));
}

#[tokio::test]
async fn a_fallback_upstream_answers_in_the_others_place() {
    let mut gone = Backend::replies("{}").await;
    let replica = mirror().await;
    gone.stop();
    let parts =
        "parts: {a: {upstream: app, path: \"/a?x=1\", required: true, fallback: {upstream: replica, static: 1}}}";
    let armiger = Armiger::with(page(&gone, parts).and("replica", &replica)).await;

    let response = armiger.get("/page/1").await;

    assert_eq!(complete(&response), r#"{"a":{"path":"/a?x=1"}}"#);
    let line = armiger.logged(|line| line["route"] == "page").await;
    let rows: Vec<_> =
        line["parts"].as_array().unwrap().iter().map(|row| (&row["upstream"], &row["outcome"])).collect();
    assert_eq!(rows, [(&json!("app"), &json!("upstream-connect")), (&json!("replica"), &json!("ok"))]);
}

// === heads ===

#[tokio::test]
async fn a_part_gets_the_headers_that_it_is_meant_to_have_and_no_other() {
    let backend = mirror().await;
    let parts = "
        forward: [accept-language, x-tenant]
        parts:
          plain: {upstream: app, path: /plain}
          trusted: {upstream: app, path: /trusted, forward: [authorization], headers: {x-of: \"{headers.x-tenant}\", accept: text/json}}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;
    let sent = [
        ("authorization", "Bearer t"),
        ("cookie", "a=b"),
        ("accept-language", "de"),
        ("x-tenant", "t1"),
        ("if-none-match", "\"x\""),
        ("range", "bytes=0-1"),
        ("content-type", "text/plain"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];

    let response = armiger.request(request("GET", "/page/1", &sent)).await;

    complete(&response);
    response.assert_header("vary", "x-tenant").assert_header("cache-control", "private, no-cache");
    let seen = backend.requests();
    let of = |target: &str| seen.iter().find(|seen| seen.target == target).unwrap();
    let (plain, trusted) = (of("/plain"), of("/trusted"));
    for seen in [plain, trusted] {
        assert_eq!(seen.header("x-request-id"), response.header("x-request-id"));
        assert!(seen.header("traceparent").starts_with("00-0af7651916cd43dd8448eb211c80319c"));
        assert!(seen.has("via") && seen.has("x-forwarded-for"));
        for name in ["cookie", "if-none-match", "range", "content-type", "content-length"] {
            assert!(!seen.has(name), "{name}");
        }
        assert_eq!(seen.header("host"), backend.address().to_string());
    }
    assert_eq!((plain.header("accept-language"), plain.header("x-tenant")), ("de", "t1"));
    assert!(!plain.has("authorization") && !trusted.has("x-tenant") && !trusted.has("accept-language"));
    assert_eq!((trusted.header("authorization"), trusted.header("x-of")), ("Bearer t", "t1"));
    assert_eq!((plain.header("accept"), trusted.header("accept")), ("application/json", "text/json"));
}

#[tokio::test]
async fn the_client_gets_no_header_of_a_part_but_what_is_listed() {
    let backend = Backend::with(|seen| {
        let mut answer = answer(200, "{}");
        let headers = answer.headers_mut();
        let cache = if seen.target == "/a" { "max-age=60" } else { "max-age=10" };
        headers.insert("cache-control", HeaderValue::from_static(cache));
        headers.insert("vary", HeaderValue::try_from(format!("x{}", seen.target.replace('/', "-"))).unwrap());
        headers.insert("x-total", HeaderValue::from_static("7"));
        headers.insert("etag", HeaderValue::from_static("\"e\""));
        if seen.target == "/c" {
            headers.insert("set-cookie", HeaderValue::from_static("s=1"));
        }
        answer
    })
    .await;
    let parts = "parts: {a: {upstream: app, path: /a, expose: [x-total]}, b: {upstream: app, path: /b}}";
    let armiger = Armiger::with(page(&backend, parts)).await;

    let response = armiger.get("/page/1").await;

    complete(&response);
    response
        .assert_header("cache-control", "max-age=10")
        .assert_header("vary", "x-a, x-b")
        .assert_header("x-total", "7")
        .assert_no_header("etag");

    let armiger = Armiger::with(page(&backend, "parts: {c: {upstream: app, path: /c}}")).await;
    armiger.get("/page/1").await.assert_no_header("set-cookie").assert_header("cache-control", "private, max-age=10");
}

#[tokio::test]
async fn a_head_has_the_head_of_a_get_and_grpc_is_told_that_it_is_not_spoken() {
    let backend = mirror().await;
    let armiger = Armiger::with(page(&backend, "parts: {a: {upstream: app, path: /a}}")).await;
    let get = armiger.get("/page/1").await;

    let mut raw = armiger.raw("HEAD /page/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = raw.answer_to_head().await;
    head.assert_status(200).assert_header("content-length", get.header("content-length"));
    assert_eq!(backend.requests().last().unwrap().method, "GET");

    let grpc = armiger.request(request("GET", "/page/1", &[("content-type", "application/grpc")])).await;
    grpc.assert_status(200).assert_header("grpc-status", "12");
    assert_eq!(backend.count(), 2);
}

// === bodies of requests ===

#[tokio::test]
async fn values_come_from_the_body_of_the_request_too() {
    let backend = Backend::with(|seen| answer(200, seen.body.clone())).await;
    let parts = "
        request_body_max: 1KiB
        parts:
          a: {upstream: app, method: POST, path: /a, body: {user: \"{request.body.user.id}\", all: \"{request.body}\"}}
          each: {upstream: app, method: PUT, path: \"/e/{item}\", foreach: request.body.ids, body: [\"{item}\"], after: [a]}
    ";
    let armiger = Armiger::with(page_with(&backend, "methods: [POST]", "", parts)).await;

    let response = armiger.post("/page/1", r#"{"user":{"id":1.0},"ids":[3,2]}"#).await;

    assert_eq!(complete(&response), r#"{"a":{"user":1.0,"all":{"user":{"id":1.0},"ids":[3,2]}},"each":[[3],[2]]}"#);
    armiger.post("/page/1", "no json").await.assert_problem(400, "bad-body");
    armiger.post("/page/1", vec![b'1'; 1025]).await.assert_problem(413, "body-too-large");
}

/// One document of many parts may be counted as the many requests that it is.
#[tokio::test]
async fn a_limit_takes_as_many_tokens_as_there_are_parts_where_it_says_so() {
    let backend = mirror().await;
    let parts = "parts: {a: {upstream: app, path: /a}, b: {upstream: app, path: /b}}";
    for (limit, passing) in [("burst: 5, cost: parts", 2), ("burst: 5", 5)] {
        let limit = format!("policies:\n  rate_limit: [{{name: l, rate: 1/h, {limit}}}]");
        let armiger = Armiger::with(page_with(&backend, "methods: [GET]", &limit, parts)).await;
        for _ in 0..passing {
            complete(&armiger.get("/page/1").await);
        }
        armiger.get("/page/1").await.assert_status(429);
    }
    let limit = "policies:\n  rate_limit: [{name: l, rate: 1/h, burst: 1, cost: parts}]";
    let small = page_with(&backend, "methods: [GET]", limit, parts);
    check(Armiger::try_with(small).await, &["2 is more than the bucket ever holds"]);
}

// === the end ===

/// Nothing of an aggregate outlives its client: no connection to an upstream, no request in flight.
#[tokio::test]
async fn a_client_that_leaves_takes_every_part_with_it() {
    let never = Signal::new();
    let backend = gated(&[("/a", &never), ("/b", &never), ("/c", &never)]).await;
    let parts = "
        parts:
          a: {upstream: app, path: /a}
          b: {upstream: app, path: /b, fallback: {upstream: app}}
          c: {upstream: app, path: \"/c?{item}\", foreach: parts.list.body}
          list: {upstream: list, path: /}
    ";
    let list = Backend::replies("[1,2]").await;
    let armiger = Armiger::with(page(&backend, parts).and("list", &list)).await;

    let raw = armiger.raw("GET /page/1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.arrived(4).await;
    raw.reset();

    backend.closed(4).await;
    let line = armiger.logged(|line| line["route"] == "page").await;
    assert_eq!((&line["reason"], &line["complete"]), (&json!("client-closed"), &json!(false)));
    let mut rows: Vec<_> =
        line["parts"].as_array().unwrap().iter().map(|row| format!("{} {}", row["part"], row["outcome"])).collect();
    rows.sort();
    assert_eq!(rows, [r#""a" "abandoned""#, r#""b" "abandoned""#, r#""c" "abandoned""#, r#""list" "ok""#]);
    armiger.until_metric("armiger_upstream_connections{state=\"active\",upstream=\"app\"}", 0.0).await;
    armiger.until_metric("armiger_http_requests_in_flight{route=\"page\"}", 0.0).await;
    assert_eq!(backend.count(), 4, "and no fallback was asked");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    let (chunks, cut) = streamed(200);
    let cut = std::sync::Mutex::new(Some(cut));
    let backend = Backend::with(move |_| cut.lock().unwrap().take().unwrap_or_else(|| answer(200, "{}"))).await;
    let armiger = Armiger::with(page(&backend, "parts: {a: {upstream: app, path: /a}}")).await;

    let broken = async {
        backend.arrived(1).await;
        chunks.data("{\"a\":").await;
        chunks.cut().await;
    };
    let (response, ()) = tokio::join!(armiger.get("/page/1"), broken);

    assert_eq!(lacks(&response, "a"), "{}");
}

// === conditions ===

#[tokio::test]
async fn a_part_is_asked_only_where_its_condition_holds() {
    let backend = fixed(&[("/user", r#"{"plan":"paid","n":3}"#), ("/ads", "1"), ("/more", "2"), ("/other", "3")]).await;
    let parts = "
        parts:
          ads: {upstream: app, path: /ads, when: \"parts.user.body.plan != 'paid'\", null_on_error: true}
          more: {upstream: app, path: /more, when: \"parts['user'].status == 200 && parts.user.body.n > 2 && path.id == '1'\"}
          user: {upstream: app, path: /user, hidden: true}
    ";
    let armiger = Armiger::with(page(&backend, parts)).await;

    assert_eq!(complete(&armiger.get("/page/1").await), r#"{"more":2}"#);
    assert_eq!(complete(&armiger.get("/page/2").await), "{}", "what is not wanted is not missing");
    assert_eq!(backend.count(), 3);
    armiger.until_metric("armiger_aggregate_parts_total{outcome=\"not-asked\",part=\"ads\",route=\"page\"}", 2.0).await;

    let unclear = "parts: {user: {upstream: app, path: /user, hidden: true}, other: {upstream: app, path: /other, when: \"parts.user.body.none == 1\"}}";
    let armiger = Armiger::with(page(&backend, unclear)).await;
    assert_eq!(lacks(&armiger.get("/page/1").await, "other"), "{}");
}

/// Whether a part is there tells what its condition read.
#[tokio::test]
async fn a_condition_decides_for_whom_the_document_is() {
    let backend = Backend::with(|_| {
        let mut answer = answer(200, "1");
        answer.headers_mut().insert("cache-control", http::HeaderValue::from_static("max-age=60"));
        answer
    })
    .await;
    for (when, forward, control, vary) in [
        ("headers['x-tenant'] == 'a'", "[]", "max-age=60", Some("x-tenant")),
        ("cookies.admin == 'yes'", "[]", "private", Some("cookie")),
        ("client_ip != '10.0.0.1'", "[]", "private", None),
        ("method == 'GET'", "[x-auth-token]", "private", None),
        ("method == 'GET'", "[]", "max-age=60", None),
    ] {
        let parts = format!("forward: {forward}\nparts: {{ads: {{upstream: app, path: /ads, when: \"{when}\"}}}}");
        let armiger = Armiger::with(page(&backend, &parts)).await;
        let sent = [("x-tenant", "a"), ("cookie", "admin=yes")];
        let response = armiger.request(request("GET", "/page/1", &sent)).await;
        assert_eq!(complete(&response), r#"{"ads":1}"#, "{when}");
        assert!(response.header("cache-control").contains(control), "{when}: {}", response.header("cache-control"));
        let told = response.headers.get("vary").map(|value| value.to_str().unwrap());
        assert_eq!(told, vary, "{when}");
    }
}

// === what is wrong with a configuration ===

#[track_caller]
fn check(report: Result<Armiger, String>, says: &[&str]) {
    let Err(report) = report else { panic!("is taken: {says:?}") };
    for text in says {
        assert!(report.contains(text), "no {text:?} in:\n{report}");
    }
}

#[tokio::test]
async fn what_can_be_known_to_be_wrong_is_told_before_it_runs() {
    let backend = mirror().await;
    let wrong = async |yaml: &str, says: &[&str]| check(Armiger::try_with(page(&backend, yaml)).await, says);
    let part = |yaml: &str| format!("parts: {{a: {{upstream: app, path: /a, {yaml}}}}}");

    wrong("parts: {}", &["names no part"]).await;
    wrong(
        "parts: {a: {upstream: app, path: \"/{parts.b.body.x}\"}, b: {upstream: app, path: \"/{parts.c.status}\"}, c: {upstream: app, path: /, after: [a]}}",
        &["`a` waits for `b`, which waits for `c`, which waits for the first"],
    )
    .await;
    wrong("parts: {a: {upstream: app, path: \"/{parts.a.body}\"}}", &["`a` waits for itself"]).await;
    wrong("parts: {a: {upstream: app, path: \"/{parts.x.body}\"}}", &["there is no part `x`", "there are a"]).await;
    wrong("parts: {a: {upstream: app, path: \"/{parts.a.what}\"}}", &["is nothing that armiger knows"]).await;
    wrong("parts: {a: {upstream: app, path: \"/{path.none}\"}}", &["no parameter `none`", "it has id"]).await;
    wrong("parts: {a: {upstream: app, path: \"/${path.id}\"}}", &["without `$` here"]).await;
    wrong("parts: {a: {upstream: app, path: \"/{claims.sub}\"}}", &["this route knows none"]).await;
    wrong("parts: {a: {upstream: app, path: \"/{item}\"}}", &["which this part has not"]).await;
    wrong("parts: {a: {upstream: app, path: a}}", &["does not begin with `/`"]).await;
    wrong("parts: {a: {upstream: app, path: /a/../b}}", &["is not in the one form"]).await;
    wrong("parts: {a: {upstream: ap, path: /a}}", &["upstream", "`app`"]).await;
    wrong("parts: {\"a.b\": {upstream: app, path: /a}}", &["is no part name"]).await;
    wrong("deadline: 1m\nparts: {a: {upstream: app, path: /a}}", &["later than the route's `timeout`"]).await;
    wrong(&part("after: [b]"), &["unknown part `b`"]).await;
    wrong(&part("method: post"), &["not in capitals"]).await;
    wrong(&part("method: POST"), &["changes something, and the route takes methods that must not"]).await;
    wrong(&part("body: {}"), &["a GET has no body"]).await;
    wrong(&part("pass_status: [404]"), &["without which there is no answer"]).await;
    wrong(&part("required: true, pass_status: [200]"), &["choose from 400 to 599"]).await;
    wrong(&part("headers: {host: x}"), &["`host` cannot stand here"]).await;
    wrong(&part("forward: [connection]"), &["`connection` cannot stand here"]).await;
    wrong(&part("fallback: {}"), &["says nothing"]).await;
    wrong(&part("fallback: {upstream: none}"), &["upstream"]).await;
    wrong(&part("unwrap: \"a.*\""), &["more than one place"]).await;
    wrong(&part("pick: [\"a..b\"]"), &["nothing between two dots"]).await;
    wrong(&part("foreach: path.id"), &["is no list"]).await;
    wrong(&part("when: \"parts.b.status == 1\""), &["there is no part `b`"]).await;
    wrong(&part("when: \"parts.a.status == 1\""), &["`a` waits for itself"]).await;
    wrong(&part("when: \"size(parts) == 1\""), &["names no part after `parts`"]).await;
    wrong(&part("when: \"'x' in roles\""), &["this route knows nobody"]).await;
    wrong(&part("when: \"1 +\""), &["when"]).await;
    wrong(&part("items_max: 0"), &["0 is out of bounds"]).await;
    wrong(
        "parts: {a: {upstream: app, path: /a, as: b}, b: {upstream: app, path: /b}}",
        &["would have the key `b` twice"],
    )
    .await;
    wrong("merge: {mode: concat}\nerrors_as: e\nparts: {a: {upstream: app, path: /a}}", &["a list has no keys"]).await;
    wrong(
        "merge: {mode: flat}\nparts: {a: {upstream: app, path: /a, fallback: {static: [1]}}}",
        &["only objects can lie side by side"],
    )
    .await;
    wrong(
        "parts: {l: {upstream: app, path: /, foreach: parts.a.body}, a: {upstream: app, path: /a}, b: {upstream: app, path: \"/{parts.l.body.id}\"}}",
        &["`l` has `foreach`, so its body is a list and has no key `id`"],
    )
    .await;
    // A list cannot lie among the keys of an object; under a key, or unseen, it can.
    for mode in ["flat", "deep"] {
        let list = |more: &str| {
            format!(
                "merge: {{mode: {mode}}}\nparts: {{a: {{upstream: app, path: /a}}, l: {{upstream: app, path: /, foreach: parts.a.body.x{more}}}}}"
            )
        };
        wrong(&list(""), &["makes a list", &format!("in `{mode}` only objects lie side by side"), "`as`"]).await;
        for good in [", as: l", ", hidden: true"] {
            assert!(Armiger::try_with(page(&backend, &list(good))).await.is_ok(), "{mode}{good}");
        }
    }
    let changing = page_with(
        &backend,
        "methods: [POST]",
        "",
        "parts: {a: {upstream: app, method: POST, path: /a}, b: {upstream: app, method: DELETE, path: /b}}",
    );
    check(Armiger::try_with(changing).await, &["change something, in no order", "after: [a]"]);
}

// === determinism ===

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any parts, in any order of completion, make one and the same document.
    #[test]
    fn the_document_does_not_depend_on_who_answers_first(
        values in prop::collection::vec(any::<i32>(), 1..7),
        seed in any::<u64>(),
        mode in prop::sample::select(vec!["group", "flat", "deep", "concat"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let (one, other) = local.block_on(&runtime, async {
            let gates: Vec<Signal> = values.iter().map(|_| Signal::new()).collect();
            let (held, said) = (gates.clone(), values.clone());
            let backend = Backend::serving(move |request: Request<_>| {
                let (held, said) = (held.clone(), said.clone());
                async move {
                    let place: usize = request.uri().path()[1..].parse().unwrap();
                    if request.uri().query().is_some() {
                        held[place].wait().await;
                    }
                    answer(200, json!({"k": said[place], format!("of{place}"): {"v": said[place]}}).to_string())
                }
            })
            .await;
            let parts: String = (0..values.len())
                .map(|place| format!("  p{place}: {{upstream: app, path: \"/{place}?{{query.q:-}}\"}}\n"))
                .collect();
            let yaml = format!("merge: {{mode: {mode}, on_conflict: last}}\nparts:\n{parts}");
            let plain = yaml.replace("?{query.q:-}", "");
            let armiger = Armiger::with(page(&backend, &yaml)).await;
            let unordered = Armiger::with(page(&backend, &plain)).await.get("/page/1").await;
            let mut order: Vec<usize> = (0..values.len()).collect();
            let mut random = fastrand::Rng::with_seed(seed);
            random.shuffle(&mut order);
            let release = async {
                backend.arrived(2 * values.len()).await;
                for place in order {
                    gates[place].send();
                    tokio::task::yield_now().await;
                }
            };
            let (ordered, ()) = tokio::join!(armiger.get("/page/1"), release);
            (unordered, ordered)
        });
        prop_assert_eq!(complete(&one), complete(&other));
        let document: Value = one.json();
        prop_assert!(document.is_object() || document.is_array());
    }
}

#[tokio::test]
async fn an_aggregate_goes_over_http_2_too() {
    let backend = mirror().await;
    let config =
        page(&backend, "parts: {a: {upstream: app, path: /a}, b: {upstream: app, path: /b}}").upstream("protocol: h2c");
    let armiger = Armiger::with(config).await;
    let mut connection = armiger.connect_h2c().await;

    let response = connection.request(Request::get("/page/1").body(Full::<Bytes>::default()).unwrap()).await;

    assert_eq!(complete(&response), r#"{"a":{"path":"/a"},"b":{"path":"/b"}}"#);
    within("nothing", async {}).await;
}
