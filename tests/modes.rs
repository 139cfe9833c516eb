//! Every policy in each of its modes: enforced it does something, in shadow it tells of that alone, off it is not there.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::{Answer, Armiger, Backend, Config, Files, Response, SECRET_YAML, Signer, answer, now};

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
        case(
            "grpc_web",
            "{mode: MODE}",
            "",
            |it, _| it.header("content-type").starts_with("application/grpc-web"),
            "would_amend",
        ),
        case("identity", "{providers: [staff], mode: MODE}", "", |it, _| it.status == 401, "would_reject"),
        case(
            "in_flight",
            "[{name: one, max: 1, by: [\"header:x-none\"], on_missing: deny, mode: MODE}]",
            "",
            |it, _| it.status == 403,
            "would_reject",
        ),
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

/// Calls of gRPC are answered as such.
async fn backend() -> Backend {
    Backend::with(|seen| {
        let mut answer: Answer = answer(200, "x".repeat(8 << 10));
        let kind = if seen.has("te") { "application/grpc" } else { "text/plain" };
        answer.headers_mut().insert("content-type", HeaderValue::from_static(kind));
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
    let mut config = Config::to(&backend).top(&provider).policies(&policies);
    let (method, kind, body) = match case.policy {
        "body_limit" => ("POST", "text/plain", "hello"),
        "grpc_web" => {
            config = config.upstream("protocol: h2c");
            ("POST", "application/grpc-web+proto", "\0\0\0\0\0")
        }
        _ => ("GET", "text/plain", ""),
    };
    let armiger = Armiger::with(config).await;
    let mut last = None;
    for _ in 0..2 {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("content-type", kind)
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

/// A cache stores nothing in shadow, so that one that never was enforced has nothing to tell.
#[tokio::test]
async fn a_cache_that_goes_into_shadow_tells_what_it_would_have_answered_by_what_it_has() {
    let backend = backend().await;
    let config = |mode| Config::to(&backend).policies(&format!("cache: {{ttl: {{default: 1m}}, mode: {mode}}}"));
    let files = Files::of(config("enforce"));
    let armiger = Armiger::watching(files.config().into()).await;
    armiger.get("/").await.assert_status(200);

    files.replace("config.yaml", config("shadow"));
    armiger.in_force(2).await;

    for (target, count, expected) in [("/", 2, "would_answer"), ("/other", 3, "pass"), ("/other", 4, "pass")] {
        let response = armiger.get(target).await;
        response.assert_status(200).assert_no_header("age").assert_no_header("cache-status");
        let id = response.header("x-request-id").to_owned();
        let line = armiger.logged(|line| line["request_id"] == *id).await;
        assert_eq!(verdicts_of(&line, "cache"), [(expected.to_owned(), "shadow".to_owned())], "{target}: {line:#}");
        assert_eq!(backend.count(), count, "{target}");
    }
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

/// A provider, and a token of it.
fn staff() -> (String, String) {
    let provider =
        format!("identity: {{staff: {{jwt: {{issuer: i, audiences: [a], keys: {{secret: {SECRET_YAML}}}}}}}}}");
    let token = Signer::secret("HS256").token(&json!({"iss": "i", "aud": "a", "sub": "s", "exp": now() + 600}));
    (provider, token)
}

/// The order of evaluation: of two policies that refuse, the one whose place is earlier speaks, whatever their order in the
/// file, and what comes later is not asked.
#[tokio::test]
async fn of_policies_that_refuse_the_earlier_one_speaks() {
    const LACKS: &str = "[\"header:x-none\"], on_missing: deny";
    let steps = [
        ("ip_filter", "{deny: [127.0.0.0/8]}".to_owned(), 403, "address-blocked"),
        ("body_limit", "{max: 1B}".to_owned(), 413, "body-too-large"),
        // One that asks nothing of the caller comes before it is known who that is, and one that does comes after.
        ("rate_limit", format!("{{name: one, rate: 1/h, by: {LACKS}}}"), 403, "limit-key-missing"),
        ("identity", "{providers: [staff]}".to_owned(), 401, "token-missing"),
        ("rules", "[{allow: \"true\"}, {deny: \"true\"}]".to_owned(), 403, "forbidden"),
        (
            "rate_limit",
            "{name: two, rate: 1/h, burst: 1, by: [\"claim:sub\"], cost: \"9 * size(method)\"}".to_owned(),
            413,
            "cost-too-high",
        ),
        ("in_flight", format!("[{{name: one, max: 1, by: {LACKS}}}]"), 403, "limit-key-missing"),
    ];
    let backend = backend().await;
    let (provider, token) = staff();
    for (place, (first, one, status, slug)) in steps.iter().enumerate() {
        for (second, other, ..) in &steps[place + 1..] {
            for is_turned in [false, true] {
                let mut blocks = match first == second {
                    true if is_turned => vec![format!("{first}: [{other}, {one}]")],
                    true => vec![format!("{first}: [{one}, {other}]")],
                    false => [(first, one), (second, other)].map(|(key, block)| policy(key, block)).to_vec(),
                };
                // Who should be known is not known only where that is what is asked.
                let is_known = *first != "identity" && *second != "identity";
                if is_known {
                    blocks.push("identity: {providers: [staff]}".into());
                }
                if is_turned {
                    blocks.reverse();
                }
                let policies = blocks.join("\n");
                let armiger = Armiger::with(Config::to(&backend).top(&provider).policies(&policies)).await;
                let mut request = Request::post("/");
                if is_known {
                    request = request.header("authorization", format!("Bearer {token}"));
                }
                let response = armiger.request(request.body(Full::new(Bytes::from("hello"))).unwrap()).await;
                assert_eq!(response.status, *status, "{policies}: {response:#?}");
                response.assert_problem(*status, slug);
                let line = armiger.logged(|line| line["status"] == *status).await;
                let last = line["verdicts"].as_array().and_then(|rows| rows.last()).cloned().unwrap_or_default();
                assert_eq!(
                    (&last["policy"], &last["verdict"]),
                    (&json!(first), &json!("reject")),
                    "{policies}: {line:#}"
                );
            }
        }
    }
    assert_eq!(backend.count(), 0);
}

fn policy(key: &str, block: &str) -> String {
    // A limit of rates is an entry of a list.
    if key == "rate_limit" { format!("{key}: [{block}]") } else { format!("{key}: {block}") }
}

/// What is stored is for none who is refused, and takes nobody's place.
#[tokio::test]
async fn a_stored_answer_comes_after_all_that_refuse_and_before_the_places() {
    let (provider, token) = staff();
    let bearer = format!("Bearer {token}");
    let identity = "identity: {providers: [staff]}";
    // What passes at first, and then does not.
    for (policy, first, then, status) in [
        ("ip_filter: {deny: [192.0.2.0/24]}".to_owned(), vec![], vec![("x-forwarded-for", "192.0.2.1")], 403),
        (
            "rate_limit: [{name: one, rate: 1/h, by: [\"header:x-key\"], on_missing: deny}]".to_owned(),
            vec![("x-key", "a")],
            vec![],
            403,
        ),
        (identity.to_owned(), vec![("authorization", &*bearer)], vec![], 401),
        (
            format!("{identity}\nrules: [{{allow: \"true\"}}, {{deny: \"'x-key' in headers\"}}]"),
            vec![("authorization", &*bearer)],
            vec![("authorization", &*bearer), ("x-key", "a")],
            403,
        ),
        (
            format!("{identity}\nrate_limit: [{{name: two, rate: 1/h, burst: 1, by: [\"claim:sub\"]}}]"),
            vec![("authorization", &*bearer)],
            vec![("authorization", &*bearer)],
            429,
        ),
        (
            "in_flight: [{name: one, max: 1, by: [\"header:x-key\"], on_missing: deny}]".to_owned(),
            vec![("x-key", "a")],
            vec![],
            200,
        ),
    ] {
        for is_first in [true, false] {
            let cache = "cache: {ttl: {default: 1m}, shared_across_users: true}";
            let policies = if is_first { format!("{cache}\n{policy}") } else { format!("{policy}\n{cache}") };
            let backend = backend().await;
            let config = Config::to(&backend).top(&provider).listener("trusted_proxies: [127.0.0.0/8]");
            let armiger = Armiger::with(config.policies(&policies)).await;
            let ask = |headers: &[(&str, &str)]| {
                let request =
                    headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
                armiger.request(request.body(Full::new(Bytes::new())).unwrap())
            };
            ask(&first).await.assert_status(200);
            let second = ask(&then).await;
            second.assert_status(status);
            assert_eq!(second.headers.contains_key("age"), status == 200, "{policies}: {second:#?}");
            assert_eq!(backend.count(), 1, "{policies}");
        }
    }
}
