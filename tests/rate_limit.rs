//! Rate limits: who is counted, what a refusal looks like, what a reload keeps.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Files, Response, SECRET_YAML, Signer, answer, claims};

fn request(target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

/// Every request is from 127.0.0.1, which may say whom it stands for.
async fn from(armiger: &Armiger, address: &str) -> Response {
    armiger.request(request("/", &[("x-forwarded-for", address)])).await
}

async fn by_token(armiger: &Armiger, token: &str) -> Response {
    armiger.request(request("/", &[("authorization", &format!("Bearer {token}"))])).await
}

fn limited(backend: &Backend, limits: &str) -> Config {
    Config::to(backend).listener("trusted_proxies: [127.0.0.0/8]").policies(&format!("rate_limit: [{limits}]"))
}

/// With callers who prove who they are.
fn known(backend: &Backend, limits: &str) -> Config {
    let jwt = format!("{{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}");
    limited(backend, limits)
        .top(&format!("identity: {{staff: {{jwt: {jwt}}}}}"))
        .policies("identity: {providers: [staff]}")
}

fn token_of(subject: &str, plan: &str) -> String {
    Signer::secret("HS256").token(&claims(json!({"sub": subject, "plan": plan})))
}

#[track_caller]
fn assert_limited(response: &Response, names: &[&str]) {
    response.assert_status(429).assert_header("content-type", "application/problem+json");
    let problem = response.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded", "{problem:#}");
    assert_eq!(problem["violated-policies"], json!(names), "{problem:#}");
    let seconds: u64 = response.header("retry-after").parse().expect("whole seconds");
    assert!(seconds >= 1, "{seconds}");
}

// === who is counted ===

#[tokio::test]
async fn the_third_request_of_a_burst_of_two_is_refused() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(limited(&backend, "{name: few, rate: 1/h, burst: 2}")).await;
    for _ in 0..2 {
        armiger.get("/").await.assert_status(200);
    }

    let refused = armiger.get("/").await;

    assert_limited(&refused, &["few"]);
    refused.assert_header("cache-control", "no-store");
    assert_eq!(backend.count(), 2);
    let line = armiger.logged(|line| line["status"] == 429).await;
    assert_eq!(line["reason"], "rate-limited");
    let decisions = "armiger_rate_limit_decisions_total{mode=\"enforce\",name=\"few\",outcome=\"denied\"}";
    armiger.until_metric(decisions, 1.0).await;
}

#[tokio::test]
async fn each_address_has_its_bucket_and_a_network_of_ipv6_has_one() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(limited(&backend, "{name: few, rate: 1/h, burst: 1}")).await;
    for (address, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.2", 200),
        ("192.0.2.1", 429),
        ("::ffff:192.0.2.2", 429),
        ("2001:db8::1", 200),
        ("2001:db8::ffff:2", 429),
        ("2001:db8:0:1::1", 200),
    ] {
        from(&armiger, address).await.assert_status(status);
    }
}

#[tokio::test]
async fn a_key_may_be_a_header_a_cookie_a_parameter_or_all_together() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - name: parts
          match: {path: \"/{tenant}/x\"}
          policies: {rate_limit: [{name: parts, rate: 1/h, burst: 1, by: [\"path:tenant\", \"header:x-api-key\", \"cookie:c\"]}]}
          proxy: {upstream: app}
        - name: all
          match: {path: /all}
          policies: {rate_limit: [{name: all, rate: 1/h, burst: 1, by: [constant]}]}
          proxy: {upstream: app}
    ";
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]").routes(routes)).await;
    for (path, key, cookie, status) in [
        ("/a/x", "k", "c=1", 200),
        ("/a/x", "k", "c=1", 429),
        ("/b/x", "k", "c=1", 200),
        ("/a/x", "l", "c=1", 200),
        ("/a/x", "k", "b=1; c=2", 200),
        ("/a/x", "k", "b=2; c=2", 429),
    ] {
        let headers = [("x-api-key", key), ("cookie", cookie)];
        armiger.request(request(path, &headers)).await.assert_status(status);
    }
    armiger.request(request("/all", &[("x-forwarded-for", "192.0.2.1")])).await.assert_status(200);
    armiger.request(request("/all", &[("x-forwarded-for", "192.0.2.2")])).await.assert_status(429);
}

/// Which of two a back end goes by nobody knows: neither buys a new bucket.
#[tokio::test]
async fn a_decoy_beside_the_key_counts_as_no_key() {
    let backend = Backend::replies("ok").await;
    let limit = "{name: keyed, rate: 1/h, burst: 1, by: [\"KEY\"], on_missing: deny}";
    for key in ["cookie:c", "header:x-key"] {
        let armiger = Armiger::with(limited(&backend, &limit.replace("KEY", key))).await;
        let [same, one, other]: [&[(&str, &str)]; 3] = match key {
            "cookie:c" => {
                [&[("cookie", "c=1; c=1")], &[("cookie", "c=2; c=1")], &[("cookie", "c=3"), ("cookie", "c=1")]]
            }
            _ => [
                &[("x-key", "1"), ("x-key", "1")],
                &[("x-key", "2"), ("x-key", "1")],
                &[("x-key", "1"), ("x-key", "3")],
            ],
        };
        armiger.request(request("/", same)).await.assert_status(200);
        armiger.request(request("/", same)).await.assert_status(429);
        for decoy in [one, other] {
            let refused = armiger.request(request("/", decoy)).await;
            refused.assert_problem(403, "limit-key-missing");
        }
    }
}

/// No silent bucket that all who lack a key share.
#[tokio::test]
async fn a_request_without_the_key_is_counted_by_address_skipped_or_refused() {
    let backend = Backend::replies("ok").await;
    let limit = |on_missing: &str| {
        limited(&backend, &format!("{{name: keyed, rate: 1/h, burst: 1, by: [\"header:x-key\"]{on_missing}}}"))
    };
    let armiger = Armiger::with(limit("")).await;
    from(&armiger, "192.0.2.1").await.assert_status(200);
    from(&armiger, "192.0.2.2").await.assert_status(200);
    from(&armiger, "192.0.2.1").await.assert_status(429);
    // Who sends the bytes of an address as its key has another bucket than the address.
    armiger.request(request("/", &[("x-key", "192.0.2.1")])).await.assert_status(200);

    let armiger = Armiger::with(limit(", on_missing: skip")).await;
    for _ in 0..3 {
        armiger.get("/").await.assert_status(200).assert_no_header("ratelimit");
    }
    let armiger = Armiger::with(limit(", on_missing: deny")).await;
    armiger.get("/").await.assert_problem(403, "limit-key-missing");
}

#[tokio::test]
async fn callers_are_counted_by_claim_and_a_plan_has_its_own_rate() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: caller, rate: 1/h, burst: 1, by: [\"claim:sub\"], \
                  overrides: {claim: plan, rates: {gold: {rate: 10/h, burst: 3}}}}";
    let armiger = Armiger::with(known(&backend, limits)).await;
    for (subject, plan, expected) in [("a", "free", [200, 429, 429]), ("b", "gold", [200, 200, 200])] {
        let token = token_of(subject, plan);
        for status in expected {
            by_token(&armiger, &token).await.assert_status(status);
        }
    }
    let refused = by_token(&armiger, &token_of("b", "gold")).await;
    assert_limited(&refused, &["caller"]);
    refused.assert_header("ratelimit-policy", "\"caller\";q=3;w=1080");
    by_token(&armiger, &token_of("c", "free")).await.assert_status(200);
}

// === order, and all or nothing ===

/// A flood must not cost a signature check each.
#[tokio::test]
async fn limits_by_address_are_asked_before_the_caller_is() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(known(&backend, "{name: flood, rate: 1/h, burst: 2}")).await;
    // Whoever proves nothing is refused, and has been here all the same.
    for _ in 0..2 {
        by_token(&armiger, "no.such.token").await.assert_problem(401, "token-invalid");
    }
    assert_limited(&by_token(&armiger, "no.such.token").await, &["flood"]);
    assert_limited(&by_token(&armiger, &token_of("a", "free")).await, &["flood"]);
    let line = armiger.logged(|line| line["status"] == 429).await;
    let asked: Vec<&Value> = line["verdicts"].as_array().unwrap().iter().map(|row| &row["policy"]).collect();
    assert_eq!(asked, ["rate_limit"], "{line:#}");
}

#[tokio::test]
async fn a_request_that_one_limit_refuses_draws_from_none() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: address, rate: 1/h, burst: 10}, {name: pair, rate: 1/h, burst: 10, by: [constant]}, \
                  {name: caller, rate: 1/h, burst: 2, by: [\"claim:sub\"]}";
    let armiger = Armiger::with(known(&backend, limits)).await;
    let token = token_of("a", "free");
    by_token(&armiger, &token).await.assert_status(200);
    by_token(&armiger, &token).await.assert_status(200);
    for _ in 0..5 {
        let refused = by_token(&armiger, &token).await;
        assert_limited(&refused, &["caller"]);
        // Those of before the caller was known have got theirs back.
        let told = refused.header("ratelimit").to_owned();
        assert!(told.starts_with("\"caller\";r=0;t="), "{told}");
        assert!(told.contains("\"address\";r=8;") && told.contains("\"pair\";r=8;"), "{told}");
    }
    let other = by_token(&armiger, &token_of("b", "free")).await;
    other.assert_status(200);
    assert!(other.header("ratelimit").contains("\"address\";r=7;"), "{other:?}");
}

#[tokio::test]
async fn routes_that_name_a_limit_count_together_unless_each_has_its_own() {
    let backend = Backend::replies("ok").await;
    let config = |scope: &str| {
        let route = |name: &str| {
            format!(
                "- {{name: {name}, match: {{path: /{name}}}, proxy: {{upstream: app}}, policies: {{rate_limit: \
                 [{{name: shared, rate: 1/h, burst: 1{scope}}}]}}}}\n"
            )
        };
        Config::to(&backend).routes(&route("a")).routes(&route("b"))
    };
    let armiger = Armiger::with(config("")).await;
    armiger.get("/a").await.assert_status(200);
    armiger.get("/b").await.assert_status(429);

    let armiger = Armiger::with(config(", scope: route")).await;
    armiger.get("/a").await.assert_status(200);
    armiger.get("/b").await.assert_status(200);
    armiger.get("/b").await.assert_status(429);
}

/// What it costs may differ from route to route; a report must not depend on which of two texts is compiled first.
#[tokio::test]
async fn a_limit_that_two_routes_share_says_the_same_on_both() {
    let backend = Backend::replies("ok").await;
    let route = |name: &str, limit: &str| {
        format!(
            "- {{name: {name}, match: {{path: /{name}}}, proxy: {{upstream: app}}, policies: {{rate_limit: [{{name: shared, \
             {limit}}}]}}}}\n"
        )
    };
    let config = |one: &str, two: &str| Config::to(&backend).routes(&route("a", one)).routes(&route("b", two));
    let armiger = Armiger::with(config("rate: 1/h, burst: 5", "rate: 1/h, burst: 5, cost: 4")).await;
    armiger.get("/b").await.assert_status(200);
    armiger.get("/b").await.assert_status(429).assert_header("ratelimit", "\"shared\";r=1;t=10800");
    armiger.get("/a").await.assert_status(200);
    let told = Armiger::try_with(config("rate: 1/h, burst: 5", "rate: 2/h, burst: 5")).await.err().unwrap();
    assert!(told.contains("the limit `shared` says something else here") && told.contains("first said here"), "{told}");
}

#[tokio::test]
async fn a_request_that_costs_nothing_only_looks() {
    let backend = Backend::replies("ok").await;
    let route = |name: &str, cost: &str| {
        format!(
            "- {{name: {name}, match: {{path: /{name}}}, proxy: {{upstream: app}}, policies: {{rate_limit: [{{name: shared, \
             rate: 1/h, burst: 2{cost}}}]}}}}\n"
        )
    };
    let armiger =
        Armiger::with(Config::to(&backend).routes(&route("takes", "")).routes(&route("looks", ", cost: 0"))).await;
    for left in [2, 1, 0] {
        for _ in 0..3 {
            let looked = armiger.get("/looks").await;
            looked.assert_status(200);
            assert!(looked.header("ratelimit").starts_with(&format!("\"shared\";r={left}")), "{looked:?}");
        }
        armiger.get("/takes").await.assert_status(if left > 0 { 200 } else { 429 });
    }
}

#[tokio::test]
async fn a_limit_in_shadow_has_buckets_of_its_own_and_refuses_nobody() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: tried, rate: 1/h, burst: 1, mode: shadow}, {name: real, rate: 1/h, burst: 3}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    for _ in 0..3 {
        let response = armiger.get("/").await;
        response.assert_status(200);
        assert!(!response.header("ratelimit").contains("tried"), "{response:?}");
    }
    assert_limited(&armiger.get("/").await, &["real"]);
    let decided = async |name: &str, mode: &str, outcome: &str| {
        let labels = format!("mode=\"{mode}\",name=\"{name}\",outcome=\"{outcome}\"");
        armiger.metric(&format!("armiger_rate_limit_decisions_total{{{labels}}}")).await
    };
    assert_eq!(decided("tried", "shadow", "granted").await, 1.0);
    assert_eq!(decided("tried", "shadow", "denied").await, 2.0, "what is refused for real is not tried");
    assert_eq!(decided("real", "enforce", "denied").await, 1.0);
}

/// One that is asked after the caller is known refuses, or would: what one of before it granted in shadow is given back.
#[tokio::test]
async fn what_another_limit_refuses_is_not_counted_in_shadow_either() {
    let backend = Backend::replies("ok").await;
    for mode in ["enforce", "shadow"] {
        let limits = "{name: tried, rate: 1/h, burst: 2, mode: shadow}, \
                      {name: caller, rate: 1/h, burst: 1, by: [\"claim:sub\"], mode: MODE}";
        let armiger = Armiger::with(known(&backend, &limits.replace("MODE", mode))).await;
        let (one, other) = (token_of("a", "free"), token_of("b", "free"));
        for _ in 0..4 {
            by_token(&armiger, &one).await;
        }

        by_token(&armiger, &other).await.assert_status(200);

        let decided = async |outcome: &str| {
            let labels = format!("mode=\"shadow\",name=\"tried\",outcome=\"{outcome}\"");
            armiger.metric(&format!("armiger_rate_limit_decisions_total{{{labels}}}")).await
        };
        assert_eq!((decided("granted").await, decided("denied").await), (5.0, 0.0), "{mode}");
    }
}

#[tokio::test]
async fn racing_clients_are_granted_exactly_what_there_is() {
    let backend = Backend::replies("ok").await;
    let config =
        limited(&backend, "{name: few, rate: 1/h, burst: 40}, {name: more, rate: 1/h, burst: 45, by: [constant]}");
    let armiger = Armiger::with_workers(2, config).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let client = armiger.client();
        tasks.spawn(async move {
            let mut connection = client.connect().await;
            let mut granted = 0;
            for _ in 0..10 {
                granted += usize::from(connection.get("/").await.status == 200);
            }
            granted
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 40);
    assert_eq!(backend.count(), 40);
}

// === what clients are told ===

#[tokio::test]
async fn after_retry_after_the_next_request_is_granted() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(limited(&backend, "{name: one, rate: 1/s, burst: 1}")).await;
    let mut connection = armiger.connect().await;
    connection.get("/").await.assert_status(200);
    let refused = loop {
        let response = connection.get("/").await;
        if response.status == 429 {
            break response;
        }
    };
    let told_at = Instant::now();
    refused.assert_header("retry-after", "1").assert_header("ratelimit", "\"one\";r=0;t=1");
    // The wait that the client is told to make is what is tested.
    tokio::time::sleep_until((told_at + Duration::from_secs(1)).into()).await;
    connection.get("/").await.assert_status(200);
}

#[tokio::test]
async fn every_answer_tells_what_is_left() {
    let backend = Backend::with(|_| {
        let mut response = answer(200, "ok");
        response.headers_mut().insert("ratelimit", "\"theirs\";r=999;t=1".parse().unwrap());
        response.headers_mut().insert("ratelimit-policy", "\"theirs\";q=1000;w=1".parse().unwrap());
        response
    })
    .await;
    let limits = "{name: fast, rate: 100/s, burst: 5}, {name: slow, rate: 60/m, burst: 50, by: [constant]}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    let told = armiger.get("/").await;
    told.assert_header("ratelimit-policy", "\"fast\";q=5;w=1, \"slow\";q=50;w=50");
    told.assert_header("ratelimit", "\"fast\";r=4;t=1, \"slow\";r=49;t=1").assert_no_header("x-ratelimit-limit");

    let top = "rate_limits: {headers: both, upstream_headers: keep}";
    let armiger = Armiger::with(limited(&backend, limits).top(top)).await;
    armiger.get("/").await.assert_header("ratelimit", "\"theirs\";r=999;t=1").assert_no_header("x-ratelimit-limit");

    let armiger = Armiger::with(limited(&backend, limits).top("rate_limits: {headers: legacy}")).await;
    let told = armiger.get("/").await;
    told.assert_header("x-ratelimit-limit", "5").assert_header("x-ratelimit-remaining", "4");
    told.assert_header("x-ratelimit-reset", "1").assert_no_header("ratelimit");

    let top = "rate_limits: {headers: \"off\", upstream_headers: drop}";
    let armiger = Armiger::with(limited(&backend, "{name: one, rate: 1/h, burst: 1}").top(top)).await;
    armiger.get("/").await.assert_status(200).assert_no_header("ratelimit");
    let refused = armiger.get("/").await;
    refused.assert_status(429).assert_no_header("ratelimit").assert_header("retry-after", "3600");
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_words() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(limited(&backend, "{name: one, rate: 1/m, burst: 1}")).await;
    armiger.get("/").await.assert_status(200);
    let refused = armiger.request(request("/", &[("content-type", "application/grpc")])).await;
    refused.assert_status(200).assert_header("grpc-status", "8").assert_header("content-type", "application/grpc");
    let millis: u64 = refused.header("grpc-retry-pushback-ms").parse().unwrap();
    assert!((50_000..=60_000).contains(&millis), "{millis}");
}

/// A browser must be able to read a 429 of another origin.
#[tokio::test]
async fn a_refusal_carries_the_headers_of_other_policies() {
    let backend = Backend::replies("ok").await;
    let config =
        limited(&backend, "{name: one, rate: 1/h, burst: 1}").policies("cors: {origins: [\"https://a.test\"]}");
    let armiger = Armiger::with(config).await;
    let headers = [("origin", "https://a.test")];
    armiger.request(request("/", &headers)).await.assert_status(200);
    let refused = armiger.request(request("/", &headers)).await;
    refused.assert_status(429).assert_header("access-control-allow-origin", "https://a.test");
}

// === bans ===

#[tokio::test]
async fn who_keeps_hitting_a_limit_is_kept_out() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: strict, rate: 1000/s, burst: 1, cost: 1, ban: {after: 3, within: 1h, for: 1h}}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    let mut connection = armiger.connect().await;
    let banned = loop {
        // At 1000 a second the bucket fills again and again: only refusals count.
        let response = connection.request(request("/", &[("x-forwarded-for", "192.0.2.7")])).await;
        if response.status == 429 && response.text().contains("abnormal-usage") {
            break response;
        }
    };
    assert_eq!(banned.json()["type"], "https://iana.org/assignments/http-problem-types#abnormal-usage-detected");
    banned.assert_header("retry-after", "3600");
    from(&armiger, "192.0.2.8").await.assert_status(200);
    let line = armiger.logged(|line| line["reason"] == "banned").await;
    assert_eq!(line["status"], 429);
}

// === reload ===

/// A reload must not hand everyone a fresh burst, or reloading becomes a bypass.
#[tokio::test]
async fn a_spent_bucket_stays_spent_after_the_rate_is_changed() {
    let backend = Backend::replies("ok").await;
    let files = Files::of(limited(&backend, "{name: few, rate: 1/h, burst: 3}"));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    for _ in 0..3 {
        armiger.get("/").await.assert_status(200);
    }

    files.write("config.yaml", limited(&backend, "{name: few, rate: 2/h, burst: 9}"));
    armiger.in_force(2).await;

    let refused = armiger.get("/").await;
    assert_limited(&refused, &["few"]);
    refused.assert_header("retry-after", "1800");
    let told = armiger.status().await["in_force"].to_string();
    assert!(told.contains("adjusted") && told.contains("limit") && told.contains("1/h"), "{told}");

    // Counted by something else it is another limit.
    files.write("config.yaml", limited(&backend, "{name: few, rate: 2/h, burst: 9, by: [constant]}"));
    armiger.in_force(3).await;
    armiger.get("/").await.assert_status(200).assert_header("ratelimit", "\"few\";r=8;t=1800");
}

#[tokio::test]
async fn an_edit_that_weakens_a_limit_says_so() {
    let backend = Backend::replies("ok").await;
    let limits =
        |first: &str| limited(&backend, &format!("{{name: few, {first}}}, {{name: tried, rate: 1/h, mode: shadow}}"));
    let files = Files::of(limits("rate: 100/m, burst: 3"));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    let edits = [
        ("rate: 2/s, burst: 3", "rate 100/m -> 2/s", true),
        ("rate: 2/s, burst: 2", "burst 3 -> 2", false),
        ("rate: 2/s, burst: 2, mode: shadow", "mode enforce -> shadow", true),
    ];
    for (version, (edit, change, is_weaker)) in edits.into_iter().enumerate() {
        files.write("config.yaml", limits(edit));
        armiger.in_force(version as u64 + 2).await;
        let changes = armiger.status().await["in_force"]["changes"].clone();
        let report = changes.to_string();
        let word = change.split(' ').next().unwrap();
        assert!(report.contains(&format!("rate_limit[few].{word}")), "{report}");
        assert_eq!(changes["weakens"] != 0, is_weaker, "{edit}: {report}");
    }
}

// === what check says ===

#[tokio::test]
async fn mistakes_are_told_at_once_and_with_a_remedy() {
    let backend = Backend::replies("ok").await;
    let told = async |limits: &str| {
        Armiger::try_with(limited(&backend, limits)).await.err().unwrap_or_else(|| panic!("must be refused: {limits}"))
    };
    let report = told(
        "{name: \"a b\", rate: 1/h, burst: 0}, {name: b, rate: 5/s, burst: 3, cost: 4}, {name: c, rate: 1/h, by: [ip]}, \
         {name: d, rate: 1/h, by: [\"path:id\"]}, {name: e, rate: 1/h, by: []}, {name: f, rate: 1/h, burst: 99999999999999}, \
         {name: g, rate: 1/h, by: [\"claim:sub\"]}, {name: h, rate: 1/h, ipv6_prefix: 16, keys_max: 0, ban: {after: 0, for: 0s}}",
    )
    .await;
    for part in [
        "no limit name",
        "is 0, so no request could pass",
        "4 is more than the bucket ever holds, which is 3",
        "`ip` is nothing to count by",
        "the route's path has no parameter `id`",
        "names nothing to count by",
        "takes too long to fill at 1/h",
        "a claim is a caller's, and this route knows none",
        "16 is out of bounds",
        "the least is 1: a ban with the first refusal",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    assert!(told("{name: a, rate: 100}").await.contains("`100/s`, `100/m` or `100/h`"));
    assert!(told("{name: a, rate: 1/h}, {name: a, rate: 1/s}").await.contains("another limit is called `a`"));
}

// === costs ===

#[tokio::test]
async fn what_a_request_costs_may_be_told_by_an_expression() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: work, rate: 1/h, burst: 10, cost: \"int(query.n)\"}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    armiger.get("/?n=4").await.assert_status(200).assert_header("ratelimit", "\"work\";r=6;t=14400");
    let refused = armiger.get("/?n=7").await;
    assert_limited(&refused, &["work"]);
    refused.assert_header("retry-after", "3600");
    armiger.get("/?n=6").await.assert_status(200);
    // More than there ever is: to come back later would not help.
    let never = armiger.get("/?n=11").await;
    never.assert_problem(413, "cost-too-high").assert_no_header("retry-after");
    assert_eq!(never.json()["violated-policies"], json!(["work"]));
    assert_eq!(never.json()["detail"], "No limit ever has room for so much at once: ask for less.");
    // Nothing only looks. Less than nothing, and what cannot be told, is 1: it would be a way around the limit.
    armiger.get("/?n=0").await.assert_status(200).assert_header("ratelimit", "\"work\";r=0;t=36000");
    for way_around in ["/?n=-5", "/?n=-9223372036854775808", "/?n=many", "/"] {
        assert_limited(&armiger.get(way_around).await, &["work"]);
    }
}

/// The example of docs/limits.md.
#[tokio::test]
async fn a_cost_that_callers_write_can_be_kept_from_being_nothing() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: work, rate: 1/h, burst: 10, cost: \"int(query.n) > 0 ? int(query.n) : 1\"}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    for (n, left) in [("4", 6), ("0", 5), ("-4", 4), ("many", 3)] {
        let told = format!("\"work\";r={left};t={}", 3600 * (10 - left));
        armiger.get(&format!("/?n={n}")).await.assert_status(200).assert_header("ratelimit", &told);
    }
}

#[tokio::test]
async fn a_cost_that_depends_on_the_caller_is_asked_after_the_caller() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: work, rate: 1/h, burst: 10, cost: \"claims.plan == 'free' ? 5 : 1\"}";
    let armiger = Armiger::with(known(&backend, limits)).await;
    by_token(&armiger, &token_of("a", "free"))
        .await
        .assert_status(200)
        .assert_header("ratelimit", "\"work\";r=5;t=18000");
    by_token(&armiger, &token_of("b", "gold")).await.assert_header("ratelimit", "\"work\";r=4;t=21600");
    let told = Armiger::try_with(limited(&backend, limits)).await.err().unwrap();
    assert!(told.contains("what it costs depends on the caller"), "{told}");
    let told = Armiger::try_with(limited(&backend, "{name: a, rate: 1/h, cost: \"nonsense(\"}")).await.err().unwrap();
    assert!(told.contains("cost"), "{told}");
}

// === what operators see ===

#[tokio::test]
async fn operators_look_up_keys_list_the_hottest_and_reset_one() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: few, rate: 1/h, burst: 2, ban: {after: 2, within: 1h, for: 1h}}, \
                  {name: pair, rate: 1/h, burst: 9, by: [client_ip, \"header:x-key\"]}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.2", "192.0.2.2", "192.0.2.2"] {
        from(&armiger, address).await;
    }
    let look = async |query: &str| armiger.admin().get(&format!("/state/limits{query}")).await.json()["limits"].clone();

    let all = look("").await;
    assert_eq!(
        (&all[0]["name"], &all[0]["buckets"][0]["keys"], &all[1]["name"]),
        (&json!("few"), &json!(2), &json!("pair"))
    );

    let few = look("?name=few&most=1").await;
    let hottest = &few[0]["hottest"];
    assert_eq!(hottest.as_array().map(Vec::len), Some(1), "{few:#}");
    assert_eq!((&hottest[0]["key"], &hottest[0]["tokens"]), (&json!("client_ip=192.0.2.2"), &json!(0)), "{few:#}");
    assert_eq!(few[0]["banned"][0]["key"], "client_ip=192.0.2.2");

    let one = look("?name=few&key=192.0.2.1").await;
    assert_eq!((&one[0]["buckets"][0]["tokens"], &one[0]["buckets"][0]["burst"]), (&json!(1), &json!(2)), "{one:#}");
    let two = look("?name=few&key=192.0.2.2").await;
    assert!(two[0]["buckets"][0]["banned_for_seconds"].as_f64().is_some_and(|seconds| seconds > 3000.0), "{two:#}");

    from(&armiger, "192.0.2.2").await.assert_status(429);
    let reset = http::Request::post("/state/limits/reset?name=few&key=192.0.2.2").body(Empty::<Bytes>::new()).unwrap();
    let told = armiger.admin().request(reset).await;
    let told = told.assert_status(200).json();
    assert_eq!(told["limits"][0]["buckets"][0]["ban_lifted"], true, "{told:#}");
    from(&armiger, "192.0.2.2").await.assert_status(200);

    let refused = async |query: &str, status: u16, hint: &str| {
        let response = armiger.admin().get(&format!("/state/limits{query}")).await;
        assert!(response.assert_status(status).text().contains(hint), "{query}: {}", response.text());
    };
    refused("?name=none", 404, "there is few, pair").await;
    refused("?name=few&key=here", 400, "no address").await;
    refused("?name=pair&key=192.0.2.1", 400, "client_ip, header:x-key").await;
    refused("?key=192.0.2.1", 400, "say of which limit").await;
    let pair = look("?name=pair&key=%5B%22192.0.2.1%22,%22k%22%5D").await;
    assert!(pair[0]["buckets"][0]["key"].as_str().is_some_and(|key| key.contains("sha256:")), "{pair:#}");
    let encoded = look("?name=pair&key=%5B%22192.0.2.1%22,%22a%3Db%22%5D").await;
    assert_eq!(encoded, look("?name=pair&key=%5B%22192.0.2.1%22,%22a=b%22%5D").await);
}
