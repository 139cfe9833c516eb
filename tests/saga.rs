//! Sagas: steps in their order, what was done undone in the reverse order, and an answer that tells what became of each.

use std::time::Duration;

use armiger::server::drain::Phase;
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Response, Seen, Signal, answer, within};

/// The route `/checkout/{id}` with three steps, of `/reserve`, `/pay` and `/ship`, each undone by a `DELETE`.
fn checkout(backend: &Backend, more: &str) -> Config {
    checkout_with(backend, "", more)
}

fn checkout_with(backend: &Backend, route: &str, more: &str) -> Config {
    let indent = |text: &str, by: usize| -> String {
        text.lines().map(|line| format!("{}{}\n", " ".repeat(by), line.trim_start())).collect()
    };
    let (route, more) = (indent(route, 2), indent(more, 4));
    Config::to(backend).routes(&format!(
        "- name: checkout
  match: {{path: \"/checkout/{{id}}\", methods: [POST]}}
{route}  saga_in_memory:
{more}    steps:
      reserve:
        upstream: app
        path: /reserve
        body: {{id: \"{{saga.id}}\", item: \"{{path.id}}\"}}
        compensate: {{method: DELETE, path: \"/reserve/{{saga.id}}\"}}
      pay:
        upstream: app
        path: \"/pay?for={{steps.reserve.body.id}}\"
        compensate: {{method: DELETE, path: \"/pay/{{steps.pay.body.id:-unknown}}\"}}
      ship:
        upstream: app
        path: /ship
        pass_status: [409]
        compensate: {{method: DELETE, path: /ship}}
"
    ))
}

/// A back end that says yes to all but these, by method and path.
async fn but(answers: &'static [(&'static str, u16)]) -> Backend {
    Backend::with(move |seen| {
        let asked = call(seen);
        match answers.iter().find(|(name, _)| asked.starts_with(name)) {
            Some((_, status)) => answer(*status, "{}"),
            None => answer(201, json!({"id": 12345678901234567890_u64, "path": path(seen)}).to_string()),
        }
    })
    .await
}

fn path(seen: &Seen) -> &str {
    seen.target.split('?').next().unwrap_or_default()
}

fn call(seen: &Seen) -> String {
    format!("{} {}", seen.method, path(seen))
}

/// What a back end was asked, ids of sagas left out.
fn asked(seen: &[Seen], saga: &str) -> Vec<String> {
    seen.iter().map(|seen| call(seen).replace(saga, "SAGA")).collect()
}

async fn buy(armiger: &Armiger) -> Response {
    armiger.post("/checkout/7", "{}").await
}

fn saga(response: &Response) -> (Value, String) {
    let document = response.json();
    let id = document["saga"].as_str().expect("an answer names its saga").to_owned();
    (document, id)
}

/// Steps as the client is told: `reserve done/done`, the second word being what became of the compensation.
fn steps(document: &Value) -> Vec<String> {
    let word = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    let rows = document["steps"].as_array().expect("a list of steps");
    rows.iter()
        .map(|row| format!("{} {}/{}", word(row, "step"), word(row, "outcome"), word(row, "compensation")))
        .collect()
}

#[tokio::test]
async fn steps_follow_each_other_and_know_what_was_said_before() {
    let backend = but(&[]).await;
    let armiger = Armiger::with(checkout(&backend, "")).await;

    let response = buy(&armiger).await;

    response
        .assert_status(200)
        .assert_header("cache-control", "no-store")
        .assert_header("content-type", "application/json");
    let (document, id) = saga(&response);
    assert_eq!(document["outcome"], "completed");
    assert!(
        response.text().contains(r#"{"step":"pay","outcome":"done","status":201,"body":{"id":12345678901234567890,"#)
    );
    let seen = backend.requests();
    assert_eq!(asked(&seen, &id), ["POST /reserve", "POST /pay", "POST /ship"]);
    assert_eq!(seen[0].body, format!(r#"{{"id":"{id}","item":"7"}}"#).into_bytes());
    assert_eq!(seen[1].target, "/pay?for=12345678901234567890");
    let keys: Vec<&str> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert_eq!(keys, [format!("{id}-reserve"), format!("{id}-pay"), format!("{id}-ship")]);
    armiger.until_metric(r#"armiger_sagas_total{outcome="completed",route="checkout"}"#, 1.0).await;
    let line = armiger.logged(|line| line["route"] == "checkout").await;
    assert_eq!(line["parts"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn what_was_done_is_undone_the_last_first_and_what_was_refused_is_not() {
    let backend = but(&[("POST /ship", 409)]).await;
    let armiger = Armiger::with(checkout(&backend, "")).await;

    let response = buy(&armiger).await;

    response.assert_problem(409, "saga-compensated");
    let (document, id) = saga(&response);
    assert_eq!(document["outcome"], "compensated");
    assert_eq!(steps(&document), ["reserve done/done", "pay done/done", "ship failed/-"]);
    let seen = backend.requests();
    let calls = asked(&seen, &id);
    let undone = ["DELETE /pay/12345678901234567890", "DELETE /reserve/SAGA"];
    assert_eq!(calls, [&["POST /reserve", "POST /pay", "POST /ship"], &undone[..]].concat());
    assert_eq!(seen[3].header("idempotency-key"), format!("{id}-pay-compensate"));
    for (series, expected) in [
        (r#"armiger_sagas_total{outcome="compensated",route="checkout"}"#, 1.0),
        (r#"armiger_saga_steps_total{outcome="failed",route="checkout",step="ship"}"#, 1.0),
        (r#"armiger_saga_compensations_total{outcome="done",route="checkout",step="pay"}"#, 1.0),
    ] {
        armiger.until_metric(series, expected).await;
    }
    let line = armiger.logged(|line| line["route"] == "checkout").await;
    assert_eq!((&line["reason"], line["parts"].as_array().map(Vec::len)), (&json!("saga-compensated"), Some(5)));
}

/// A step that answers 500, or not in time, may have been done.
#[tokio::test]
async fn what_nobody_knows_is_undone_too() {
    let backend = but(&[("POST /pay", 500)]).await;
    let armiger = Armiger::with(checkout(&backend, "")).await;

    let response = buy(&armiger).await;

    response.assert_problem(502, "saga-compensated");
    let (document, id) = saga(&response);
    assert_eq!(steps(&document), ["reserve done/done", "pay uncertain/done", "ship not_asked/-"]);
    let undone = ["POST /reserve", "POST /pay", "DELETE /pay/unknown", "DELETE /reserve/SAGA"];
    assert_eq!(asked(&backend.requests(), &id), undone);
}

#[tokio::test]
async fn a_step_that_is_late_is_undone_and_the_client_told_so_by_a_504() {
    let never = Signal::new();
    let held = never.clone();
    let backend = Backend::seen(move |seen| {
        let held = held.clone();
        async move {
            if call(&seen) == "POST /pay" {
                held.wait().await;
            }
            answer(201, r#"{"id":1}"#)
        }
    })
    .await;
    let armiger = Armiger::with(checkout(&backend, "deadline: 300ms")).await;

    let response = buy(&armiger).await;

    response.assert_problem(504, "saga-compensated");
    let (document, id) = saga(&response);
    assert_eq!(steps(&document), ["reserve done/done", "pay uncertain/done", "ship not_asked/-"]);
    assert_eq!(document["steps"][1]["reason"], "deadline-exceeded");
    assert_eq!(asked(&backend.requests(), &id)[2..], ["DELETE /pay/unknown", "DELETE /reserve/SAGA"]);
    never.send();
}

#[tokio::test]
async fn a_step_that_never_reached_its_upstream_needs_no_undoing() {
    let backend = but(&[]).await;
    let mut gone = Backend::replies("").await;
    let config = checkout(&backend, "").and("gone", &gone).to_string();
    let (before, after) = config.split_once("path: /ship").expect("a third step");
    let at = before.rfind("upstream: app").expect("it has an upstream");
    let config = format!("{}upstream: gone{}path: /ship{after}", &before[..at], &before[at + "upstream: app".len()..]);
    let armiger = Armiger::with(config).await;
    gone.stop();

    let response = buy(&armiger).await;

    response.assert_problem(502, "saga-compensated");
    let (document, _) = saga(&response);
    assert_eq!(steps(&document), ["reserve done/done", "pay done/done", "ship failed/-"]);
    assert_eq!(document["steps"][2]["reason"], "upstream-connect");
}

#[tokio::test]
async fn a_compensation_is_tried_again_under_the_same_key_and_404_means_that_nothing_is_left() {
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let backend = Backend::with(move |seen| match call(seen).as_str() {
        "POST /ship" => answer(400, "{}"),
        "DELETE /pay/1" if tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 => answer(503, ""),
        asked if asked.starts_with("DELETE /reserve") => answer(404, ""),
        _ => answer(200, r#"{"id":1}"#),
    })
    .await;
    let armiger = Armiger::with(checkout(&backend, "compensation: {attempts: 3, backoff: 1ms}")).await;

    let response = buy(&armiger).await;

    let (document, _) = saga(response.assert_problem(502, "saga-compensated"));
    assert_eq!(steps(&document), ["reserve done/done", "pay done/done", "ship failed/-"]);
    let seen = backend.requests();
    let keys: Vec<&str> =
        seen.iter().filter(|seen| call(seen) == "DELETE /pay/1").map(|seen| seen.header("idempotency-key")).collect();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn what_cannot_be_undone_is_said_and_does_not_keep_the_rest_from_it() {
    let backend = but(&[("POST /ship", 400), ("DELETE /pay", 403)]).await;
    let armiger = Armiger::with(checkout(&backend, "")).await;

    let response = buy(&armiger).await;

    response.assert_problem(500, "saga-compensation-failed");
    let (document, id) = saga(&response);
    assert_eq!(document["outcome"], "compensation_failed");
    assert_eq!(steps(&document), ["reserve done/done", "pay done/failed", "ship failed/-"]);
    assert_eq!(document["steps"][1]["compensation_reason"], "step-status");
    // A 403 stays one: asking again is for nothing.
    let calls = asked(&backend.requests(), &id);
    assert_eq!(calls[3..], ["DELETE /pay/12345678901234567890", "DELETE /reserve/SAGA"]);
    armiger.until_metric(r#"armiger_sagas_total{outcome="compensation_failed",route="checkout"}"#, 1.0).await;
}

/// Holds every request of one kind until the test lets it go.
async fn holding(which: &'static str) -> (Backend, Signal) {
    let gate = Signal::new();
    let held = gate.clone();
    let backend = Backend::seen(move |seen| {
        let held = held.clone();
        async move {
            if call(&seen).starts_with(which) {
                held.wait().await;
            }
            answer(if call(&seen) == "POST /ship" { 400 } else { 201 }, r#"{"id":1}"#)
        }
    })
    .await;
    (backend, gate)
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_steps_and_not_what_undoes_them() {
    let (backend, gate) = holding("POST /pay").await;
    let armiger = Armiger::with(checkout(&backend, "")).await;

    let raw = armiger.raw("POST /checkout/7 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}").await;
    backend.received(2).await;
    raw.reset();

    let seen = backend.received(4).await;
    let calls: Vec<String> = seen[2..].iter().map(|seen| seen.method.clone()).collect();
    assert_eq!(calls, ["DELETE", "DELETE"]);
    let line = armiger.logged(|line| line["route"] == "checkout").await;
    assert_eq!(line["reason"], "client-closed");
    let counted = async {
        while armiger.metric(r#"armiger_sagas_total{outcome="compensated",route="checkout"}"#).await != 1.0 {}
    };
    within("the saga to be over", counted).await;
    gate.send();
}

#[tokio::test]
async fn a_client_that_cannot_be_told_the_end_in_time_is_told_that_it_is_under_way() {
    let (backend, gate) = holding("DELETE").await;
    let armiger = Armiger::with(checkout_with(&backend, "timeout: 600ms", "")).await;

    let response = buy(&armiger).await;

    response.assert_problem(504, "saga-compensating");
    let (document, _) = saga(&response);
    assert_eq!(document["outcome"], "compensating");
    assert_eq!(steps(&document), ["reserve done/pending", "pay done/pending", "ship failed/-"]);
    gate.send();
    backend.received(5).await;
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_what_is_being_undone() {
    let (backend, gate) = holding("DELETE").await;
    let armiger = Armiger::with(checkout(&backend, "").top("drain: {delay: 0s}")).await;
    let raw = armiger.raw("POST /checkout/7 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}").await;
    backend.received(4).await;
    raw.reset();
    armiger.logged(|line| line["route"] == "checkout").await;
    let drain = armiger.running().drain().clone();
    let mut phases = drain.subscribe();

    drain.begin();
    let closing = phases.wait_for(|phase| *phase >= Phase::Closing);
    within("the drain", closing).await.expect("the drain lives as long as armiger");
    let over = drain.over();
    let mut over = std::pin::pin!(over);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut over).await.is_err(), "it is still being undone");
    gate.send();

    within("the end", over).await;
    assert_eq!((backend.count(), drain.cut()), (5, 0));
}

#[tokio::test]
async fn what_is_cut_in_the_midst_is_counted() {
    let (backend, gate) = holding("DELETE").await;
    let armiger = Armiger::with(checkout(&backend, "").top("drain: {delay: 0s}")).await;
    let raw = armiger.raw("POST /checkout/7 HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}").await;
    backend.received(4).await;
    raw.reset();
    armiger.logged(|line| line["route"] == "checkout").await;
    let drain = armiger.running().drain().clone();

    drain.begin();
    drain.hurry();

    within("the end", drain.over()).await;
    assert_eq!(drain.cut(), 1);
    gate.send();
}

#[tokio::test]
async fn there_are_so_many_at_once_and_a_further_one_does_nothing() {
    let (backend, gate) = holding("POST /reserve").await;
    let armiger = Armiger::with(checkout(&backend, "in_flight_max: 1")).await;

    let first = async {
        let response = buy(&armiger).await;
        response.assert_problem(502, "saga-compensated");
    };
    let second = async {
        backend.received(1).await;
        buy(&armiger).await.assert_problem(503, "route-busy");
        assert_eq!(backend.count(), 1);
        gate.send();
    };
    tokio::join!(first, second);

    buy(&armiger).await.assert_problem(502, "saga-compensated");
}

#[tokio::test]
async fn a_value_that_is_not_there_ends_the_saga_before_anything_is_sent() {
    let backend = Backend::with(|_| answer(200, r#"{"no":"id"}"#)).await;
    let armiger = Armiger::with(checkout(&backend, "")).await;

    let response = buy(&armiger).await;

    let (document, id) = saga(response.assert_problem(502, "saga-compensated"));
    assert_eq!(steps(&document), ["reserve done/done", "pay failed/-", "ship not_asked/-"]);
    assert_eq!(document["steps"][1]["reason"], "step-value-missing");
    assert_eq!(asked(&backend.requests(), &id), ["POST /reserve", "DELETE /reserve/SAGA"]);
}

#[tokio::test]
async fn what_can_be_known_to_be_wrong_is_told_before() {
    let backend = but(&[]).await;
    let route = |matches: &str, steps: &str| {
        Config::to(&backend)
            .routes(&format!("- name: s\n  match: {{path: /, {matches}}}\n  saga_in_memory:\n    steps: {steps}"))
    };
    let undo = "compensate: {path: /undo}";
    for (matches, steps, says) in [
        ("methods: [POST]", "{}".to_owned(), "names no step"),
        ("methods: [GET, POST]", format!("{{a: {{upstream: app, path: /a, {undo}}}}}"), "takes methods that must not"),
        ("methods: [POST]", "{a: {upstream: app, path: /a}}".to_owned(), "does not say how that is undone"),
        (
            "methods: [POST]",
            format!("{{a: {{upstream: app, path: \"/{{steps.b.body.id}}\", {undo}}}, b: {{upstream: app, path: \"/{{steps.a.body.id}}\", {undo}}}}}"),
            "there is no step `b` before this one",
        ),
        (
            "methods: [POST]",
            format!("{{a: {{upstream: app, path: \"/{{steps.a.body.id}}\", {undo}}}}}"),
            "there is no step `a` before this one",
        ),
        (
            "methods: [POST]",
            "{a: {upstream: app, path: /a, compensate: {path: \"/{steps.b.status}\"}}, b: {upstream: app, path: /b, compensate: off}}".to_owned(),
            "there is no step `b` before this one",
        ),
        (
            "methods: [POST]",
            format!("{{a: {{upstream: app, method: GET, path: /a, {undo}}}}}"),
            "changes nothing that could be undone",
        ),
        ("methods: [POST]", "{a: {upstream: nobody, path: /a, compensate: off}}".to_owned(), "nobody"),
        ("methods: [POST]", "{a: {upstream: app, path: \"/{parts.x.body}\", compensate: off}}".to_owned(), "is nothing that armiger knows"),
    ] {
        let Err(report) = Armiger::try_with(route(matches, &steps)).await else { panic!("{steps} is accepted") };
        assert!(report.contains(says), "{says} is not in:\n{report}");
    }
    let late = Config::to(&backend).routes(
        "- name: s\n  match: {path: /, methods: [POST]}\n  timeout: 1s\n  saga_in_memory:\n    deadline: 1s\n    steps: {a: {upstream: app, path: /a, compensate: off}}",
    );
    let Err(report) = Armiger::try_with(late).await else { panic!("it is accepted") };
    assert!(report.contains("leaves no time to undo"), "{report}");
}

/// A request of a batch is one like any other.
#[tokio::test]
async fn a_batch_may_hold_sagas() {
    let backend = but(&[("POST /ship", 409)]).await;
    let config = checkout(&backend, "").routes("- {name: batch, match: {path: /batch, methods: [POST]}, batch: {}}");
    let armiger = Armiger::with(config).await;

    let items = http_body_util::Full::from(r#"[{"method":"POST","path":"/checkout/7"}]"#);
    let request = http::Request::post("/batch").header("content-type", "application/json").body(items).unwrap();
    let response = armiger.request(request).await;

    let answers = response.assert_status(200).json();
    assert_eq!((&answers[0]["status"], &answers[0]["body"]["outcome"]), (&json!(409), &json!("compensated")));
}
