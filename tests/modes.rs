//! Every policy in each of its modes: enforced it does something, in shadow it tells of that alone, off it is not there.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::harness::{Answer, Armiger, Backend, Config, Response, SECRET_YAML, answer};

/// A policy, with what shows that it was at work.
struct Case {
    policy: &'static str,
    /// Its block, where `MODE` is to be filled in.
    yaml: &'static str,
    /// Other policies of the route.
    beside: &'static str,
    /// Whether the second of two like answers, and how many requests the back end got, show it.
    shows: fn(&Response, usize) -> bool,
    /// What the log says of it in shadow. Empty: nothing, for it is asked only of what it would have stored or made before.
    would: &'static str,
}

const IDENTITY: &str = "identity: {providers: [staff], caller: optional}";

fn cases() -> Vec<Case> {
    let case = |policy, yaml, beside, shows, would| Case { policy, yaml, beside, shows, would };
    vec![
        case("body_limit", "{max: 1B, mode: MODE}", "", |it, _| it.status == 413, "would_reject"),
        case("cache", "{ttl: {default: 1m}, mode: MODE}", "", |_, count| count == 1, ""),
        case("compress", "{mode: MODE}", "", |it, _| it.headers.contains_key("content-encoding"), ""),
        case(
            "cors",
            "{origins: [\"https://a.example\"], mode: MODE}",
            "",
            |it, _| it.headers.contains_key("access-control-allow-origin"),
            "would_amend",
        ),
        case(
            "headers",
            "{response: {set: {x-added: \"1\"}}, mode: MODE}",
            "",
            |it, _| it.headers.contains_key("x-added"),
            "would_amend",
        ),
        case("identity", "{providers: [staff], mode: MODE}", "", |it, _| it.status == 401, "would_reject"),
        case("ip_filter", "{deny: [127.0.0.0/8], mode: MODE}", "", |it, _| it.status == 403, "would_reject"),
        case(
            "rate_limit",
            "[{name: one, rate: 1/h, burst: 1, by: [constant], mode: MODE}]",
            "",
            |it, _| it.status == 429,
            "would_reject",
        ),
        case("roles", "{any: [admin], mode: MODE}", IDENTITY, |it, _| it.status == 401, "would_reject"),
        case(
            "rules",
            "[{allow: \"true\"}, {deny: \"method == 'GET'\", mode: MODE}]",
            "",
            |it, _| it.status == 403,
            "would_reject",
        ),
        case("scopes", "{all: [read], mode: MODE}", IDENTITY, |it, _| it.status == 401, "would_reject"),
    ]
}

async fn backend() -> Backend {
    Backend::with(|_| {
        let mut answer: Answer = answer(200, "x".repeat(8 << 10));
        answer.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        answer
    })
    .await
}

/// The second of two like answers, how many requests the back end got, and the line of the log.
async fn second(case: &Case, mode: &str) -> (Response, usize, Value) {
    let backend = backend().await;
    let provider =
        format!("identity: {{staff: {{jwt: {{issuer: i, audiences: [a], keys: {{secret: {SECRET_YAML}}}}}}}}}");
    let policies = format!("{}\n{}: {}", case.beside, case.policy, case.yaml.replace("MODE", mode));
    let armiger = Armiger::with(Config::to(&backend).top(&provider).policies(&policies)).await;
    let (method, body) = if case.policy == "body_limit" { ("POST", "hello") } else { ("GET", "") };
    let mut last = None;
    for _ in 0..2 {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("origin", "https://a.example")
            .header("accept-encoding", "gzip")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        last = Some(armiger.request(request).await);
    }
    let last = last.unwrap();
    let id = last.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    (last, backend.count(), line)
}

fn verdicts_of(line: &Value, policy: &str) -> Vec<(String, String)> {
    let rows = line["verdicts"].as_array().cloned().unwrap_or_default();
    let rows = rows.into_iter().filter(|row| row["policy"] == *policy);
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    rows.map(|row| (text(&row, "verdict"), text(&row, "mode"))).collect()
}

#[tokio::test]
async fn enforced_every_policy_does_something() {
    for case in cases() {
        let (response, count, _) = second(&case, "enforce").await;
        assert!((case.shows)(&response, count), "{}: {count} {response:#?}", case.policy);
    }
}

#[tokio::test]
async fn in_shadow_no_policy_does_anything_and_the_log_tells_what_it_would_have_done() {
    for case in cases() {
        let (response, count, line) = second(&case, "shadow").await;
        response.assert_status(200);
        assert!(!(case.shows)(&response, count), "{}: {count} {response:#?}", case.policy);
        let verdicts = verdicts_of(&line, case.policy);
        // Another rule of the same route has its word, which is none against it.
        assert!(verdicts.iter().all(|(word, mode)| mode == "shadow" || word == "pass"), "{}: {line:#}", case.policy);
        let told = verdicts.iter().any(|(verdict, _)| verdict == case.would);
        assert!(case.would.is_empty() || told, "{}: {line:#}", case.policy);
    }
}

#[tokio::test]
async fn off_no_policy_is_asked() {
    for case in cases() {
        let (response, count, line) = second(&case, "\"off\"").await;
        response.assert_status(200);
        assert!(!(case.shows)(&response, count), "{}: {count} {response:#?}", case.policy);
        let verdicts = verdicts_of(&line, case.policy);
        let is_other_rule = case.policy == "rules" && verdicts == [("pass".to_owned(), "enforce".to_owned())];
        assert!(verdicts.is_empty() || is_other_rule, "{}: {line:#}", case.policy);
    }
}

/// The order of evaluation: of two policies that refuse, the one whose place is earlier speaks, whatever their order in the
/// file, and what comes later is not asked.
#[tokio::test]
async fn of_policies_that_refuse_the_earlier_one_speaks() {
    let steps = [
        ("body_limit: {max: 1B}", 413, "body-too-large"),
        ("ip_filter: {deny: [127.0.0.0/8]}", 403, "address-blocked"),
        // One that asks nothing of the caller comes before it is known who that is.
        ("rate_limit: [{name: one, rate: 1/h, by: [\"header:x-none\"], on_missing: deny}]", 403, "limit-key-missing"),
        ("identity: {providers: [staff]}", 401, "token-missing"),
        ("rules: [{allow: \"true\"}, {deny: \"true\"}]", 403, "forbidden"),
    ];
    let backend = backend().await;
    let provider =
        format!("identity: {{staff: {{jwt: {{issuer: i, audiences: [a], keys: {{secret: {SECRET_YAML}}}}}}}}}");
    for (place, (first, status, slug)) in steps.iter().enumerate() {
        for (second, ..) in &steps[place + 1..] {
            for policies in [format!("{first}\n{second}"), format!("{second}\n{first}")] {
                let armiger = Armiger::with(Config::to(&backend).top(&provider).policies(&policies)).await;
                let response = armiger.post("/", "hello").await;
                assert_eq!(response.status, *status, "{policies}: {response:#?}");
                response.assert_problem(*status, slug);
            }
        }
    }
    assert_eq!(backend.count(), 0);
}
