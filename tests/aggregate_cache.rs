//! Parts of aggregates that keep their answers: what is asked for again, for whom, and what stands in for a part that fails.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::harness::{Answer, Armiger, Backend, Config, Response, SECRET_YAML, Signal, Signer, answer, claims};

/// The route `/page/{id}` whose parts are these.
fn page(backend: &Backend, policies: &str, parts: &str) -> Config {
    let policies = policies.replace('\n', "\n    ");
    Config::to(backend).routes(&format!(
        "- name: page\n  match: {{path: \"/page/{{id}}\", methods: [GET]}}\n  policies:\n    {policies}\n  aggregate:\n    deadline: 5s\n    parts:\n      {}",
        parts.trim().replace('\n', "\n      ")
    ))
}

fn reply(status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut reply = answer(status, body);
    for (name, value) in headers {
        reply.headers_mut().append(*name, value.parse().unwrap());
    }
    reply
}

async fn get(armiger: &Armiger, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::get(target).header("host", "h.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    armiger.request(request.body(Empty::<Bytes>::new()).unwrap()).await
}

// === what is kept ===

#[tokio::test]
async fn a_part_is_asked_again_only_when_its_answer_is_no_longer_fresh() {
    let backend = Backend::counting(&[]).await;
    let parts = "
kept: {upstream: app, path: \"/kept/{path.id}\", cache: {ttl: {default: 1m}}}
asked: {upstream: app, path: /asked}
not_fresh: {upstream: app, path: /old, cache: {}}";
    let armiger = Armiger::with(page(&backend, "{}", parts)).await;

    let texts = [
        get(&armiger, "/page/1", &[]).await.text().to_owned(),
        get(&armiger, "/page/1", &[]).await.text().to_owned(),
        get(&armiger, "/page/2", &[]).await.text().to_owned(),
    ];

    assert_eq!(
        texts,
        [
            r#"{"kept":1,"asked":1,"not_fresh":1}"#,
            r#"{"kept":1,"asked":2,"not_fresh":2}"#,
            r#"{"kept":1,"asked":3,"not_fresh":3}"#,
        ]
    );
    assert_eq!(backend.count(), 8);
    let rows = armiger.admin().get("/state/cache").await.json();
    let row = rows["rows"].as_array().unwrap().iter().find(|row| row["route"] == "page/kept").cloned().unwrap();
    assert_eq!((&row["hit"], &row["miss"]), (&json!(1), &json!(2)), "{rows:#}");
}

/// The upstream gets what it would get without a cache, and never what is the client's own.
#[tokio::test]
async fn a_part_with_a_cache_sends_what_one_without_sends() {
    let backend = Backend::counting(&[("cache-control", "max-age=0")]).await;
    let part = "upstream: app, path: \"/a?b={query.b}\", headers: {x-a: \"{headers.x-b}\"}";
    let parts = format!("a: {{{part}}}\nb: {{{part}, after: [a], cache: {{}}}}");
    let armiger = Armiger::with(page(&backend, "{}", &parts)).await;

    get(&armiger, "/page/1?b=%2F", &[("x-b", "c"), ("accept-language", "de"), ("if-none-match", "\"x\"")]).await;

    let seen = backend.received(2).await;
    let head = |place: usize| {
        let mut lines: Vec<String> = seen[place].head_text().lines().map(str::to_owned).collect();
        lines.retain(|line| !line.to_ascii_lowercase().starts_with("traceparent"));
        lines.sort();
        lines
    };
    assert_eq!(head(0), head(1));
    assert!(!seen[1].has("if-none-match"));
}

#[tokio::test]
async fn operators_purge_a_part_by_tag_path_and_its_upstreams_name() {
    for (order, is_gone) in [
        (json!({"tag": "t"}), true),
        (json!({"url": "http://app/a"}), true),
        (json!({"url": "http://h.test/a"}), false),
        (json!({"prefix": "/a"}), true),
        (json!({"all": true}), true),
    ] {
        let backend = Backend::counting(&[("cache-control", "max-age=60"), ("surrogate-key", "t")]).await;
        let armiger = Armiger::with(page(&backend, "{}", "a: {upstream: app, path: /a, cache: {}}")).await;
        get(&armiger, "/page/1", &[]).await;
        armiger.admin().post("/cache/purge", order.to_string()).await.assert_status(200);
        let response = get(&armiger, "/page/1", &[]).await;
        assert_eq!(response.text(), if is_gone { r#"{"a":2}"# } else { r#"{"a":1}"# }, "{order}");
    }
}

/// A document is as fresh as what it is made of: what is kept of a part is not made younger by being put into another.
#[tokio::test]
async fn a_document_is_no_fresher_than_the_kept_part_in_it() {
    let backend = Backend::counting(&[("cache-control", "max-age=60"), ("age", "50")]).await;
    let armiger = Armiger::with(page(&backend, "{}", "a: {upstream: app, path: /a, cache: {}}")).await;
    for _ in 0..2 {
        get(&armiger, "/page/1", &[]).await.assert_header("cache-control", "max-age=10");
    }
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn entries_of_a_list_are_kept_one_by_one() {
    let backend = Backend::counting(&[("cache-control", "max-age=60")]).await;
    let parts = "
list: {upstream: list, path: \"/list?{query.ids}\", hidden: true, unwrap: ids}
each: {upstream: app, path: \"/{item}\", foreach: parts.list.body.ids, cache: {}}";
    let list = Backend::with(|seen| {
        let ids = if seen.target.ends_with('2') { json!([2, 3]) } else { json!([1, 2]) };
        answer(200, json!({"ids": ids}).to_string())
    })
    .await;
    let armiger = Armiger::with(page(&backend, "{}", parts).and("list", &list)).await;
    get(&armiger, "/page/1?ids=1", &[]).await;
    let response = get(&armiger, "/page/1?ids=2", &[]).await;
    assert_eq!(response.text(), r#"{"each":[1,1]}"#);
    assert_eq!(backend.count(), 3, "of 1, 2 and 3");
}

// === for whom ===

fn identified(backend: &Backend, parts: &str) -> Config {
    page(backend, "identity: {providers: [staff]}", parts).top(&format!(
        "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}}}"
    ))
}

fn signed(sub: &str) -> String {
    format!("Bearer {}", Signer::secret("HS256").token(&claims(json!({"sub": sub, "plan": "free"}))))
}

/// What a part fills in tells its answers apart, wherever it stands.
#[tokio::test]
async fn what_is_filled_in_is_never_another_callers() {
    for part in [
        "path: \"/of/{claims.sub}\"",
        "path: \"/of?{claims.sub}\"",
        "path: /of, headers: {x-user: \"{claims.sub}\"}",
        "path: /of, headers: {authorization: \"{headers.authorization}\"}",
        "path: /of, forward: [authorization]",
    ] {
        let cache = if part.contains("forward") { "vary_by: [\"claim:sub\"], " } else { "" };
        let backend = Backend::with(|seen| {
            let user = seen.headers.get("x-user").map_or("", |value| value.to_str().unwrap());
            let token = seen.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
            answer(200, json!([seen.target, user, token]).to_string())
        })
        .await;
        let parts = format!("a: {{upstream: app, {part}, cache: {{{cache}ttl: {{default: 1m}}}}}}");
        let armiger = Armiger::with(identified(&backend, &parts)).await;
        let mut answers = Vec::new();
        let (ada, bob) = (signed("ada"), signed("bob"));
        for (sub, token) in [("ada", &ada), ("bob", &bob), ("ada", &ada), ("bob", &bob)] {
            let response = get(&armiger, "/page/1", &[("authorization", token)]).await;
            response.assert_header("x-armiger-completed", "true");
            assert!(
                response.text().contains(sub) || response.text().contains(token.as_str()),
                "{part}: {}",
                response.text()
            );
            answers.push(response.text().to_owned());
        }
        assert_eq!((&answers[0], &answers[1]), (&answers[2], &answers[3]), "{part}");
        assert_eq!(backend.count(), 2, "{part}");
    }
}

/// Where armiger knows nobody, somebody in front may, and say so in a header of his own.
#[tokio::test]
async fn a_forwarded_header_that_may_tell_who_asks_tells_answers_apart() {
    let backend = Backend::with(|seen| {
        answer(200, json!([seen.headers.get("x-user-id").map_or("", |value| value.to_str().unwrap())]).to_string())
    })
    .await;
    let parts = "a: {upstream: app, path: /a, forward: [x-user-id], cache: {ttl: {default: 1m}}}";
    let armiger = Armiger::with(page(&backend, "", parts)).await;
    for (user, asked) in [("ada", 1), ("bob", 2), ("ada", 2)] {
        let response = get(&armiger, "/page/1", &[("x-user-id", user)]).await;
        assert_eq!(response.text(), format!("{{\"a\":[\"{user}\"]}}"));
        assert_eq!(backend.count(), asked);
    }
}

/// What a service says of its own, such as that there is nothing any more, is no failure that what is stored stands in for.
#[tokio::test]
async fn a_refusal_of_the_service_is_not_covered_by_what_is_stored() {
    let status = Arc::new(AtomicU16::new(200));
    let says = status.clone();
    let backend = Backend::with(move |_| answer(says.load(Ordering::SeqCst), "[1]")).await;
    let parts = "a: {upstream: app, path: /a, cache: {ttl: {default: 1s}}, fallback: {stale: 1h, static: \"fixed\"}}";
    let armiger = Armiger::with(page(&backend, "", parts)).await;
    get(&armiger, "/page/1", &[]).await.assert_header("x-armiger-completed", "true");
    for (now, stale) in [(503, true), (403, false), (404, false), (410, false), (429, false)] {
        status.store(now, Ordering::SeqCst);
        // Until what is stored is no longer fresh.
        let completed = until_asked(&armiger, &backend).await;
        assert_eq!(completed.contains("stale"), stale, "{now}: {completed}");
    }
}

/// The next answer for which the back end was asked.
async fn until_asked(armiger: &Armiger, backend: &Backend) -> String {
    let before = backend.count();
    loop {
        let response = get(armiger, "/page/1", &[]).await;
        if backend.count() > before {
            return response.header("x-armiger-completed").to_owned();
        }
    }
}

/// The identity rule, as on a route: what the upstream sees of a caller is told apart, or said to be for all.
#[tokio::test]
async fn a_part_that_shows_who_calls_is_kept_only_where_somebody_says_for_whom() {
    let backend = Backend::replies("1").await;
    for (part, is_fine) in [
        ("cache: {ttl: {default: 10s}}", true),
        ("forward: [accept-language], cache: {ttl: {default: 10s}}", true),
        ("forward: [authorization], cache: {ttl: {default: 10s}}", false),
        ("forward: [cookie], cache: {ttl: {default: 10s}}", false),
        ("forward: [x-tenant], cache: {ttl: {default: 10s}}", false),
        ("forward: [x-tenant], cache: {ttl: {default: 10s}, vary_by: [\"header:x-tenant\"]}", true),
        ("forward: [authorization], cache: {ttl: {default: 10s}, vary_by: [\"claim:plan\"]}", false),
        ("forward: [authorization], cache: {ttl: {default: 10s}, vary_by: [\"claim:sub\"]}", true),
        ("forward: [authorization], cache: {ttl: {default: 10s}, shared_across_users: true}", true),
        ("forward: [authorization], cache: {}", true),
    ] {
        let started = Armiger::try_with(identified(&backend, &format!("a: {{upstream: app, path: /a, {part}}}"))).await;
        match started {
            Ok(_) => assert!(is_fine, "{part}"),
            Err(report) => {
                assert!(!is_fine, "{part}\n{report}");
                assert!(report.contains("would give one caller's answers to another"), "{report}");
                assert!(report.contains("parts › a › cache › ttl"), "{report}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_fetched_with_credentials_is_for_others_only_if_it_says_so() {
    for (control, calls) in [("max-age=60", 3), ("public, max-age=60", 1)] {
        let backend = Backend::with(move |_| reply(200, &[("cache-control", control)], "1")).await;
        let parts = "a: {upstream: app, path: /a, forward: [authorization, cookie], cache: {}}";
        let armiger = Armiger::with(page(&backend, "{}", parts)).await;
        for headers in [("authorization", "Basic YTpi"), ("cookie", "a=1"), ("cookie", "a=2")] {
            get(&armiger, "/page/1", &[headers]).await.assert_status(200);
        }
        assert_eq!(backend.count(), calls, "{control}");
    }
}

/// Headers that the route writes, and hosts that upstreams build links of, tell answers apart by themselves.
#[tokio::test]
async fn what_the_route_writes_and_the_host_tell_answers_apart() {
    let backend = Backend::with(|seen| {
        let (user, host) = (seen.header("x-user"), seen.header("x-forwarded-host"));
        reply(200, &[("cache-control", "max-age=60")], json!([user, host]).to_string())
    })
    .await;
    let parts = "a: {upstream: app, path: /a, forward: [x-user], cache: {}}";
    let config = page(
        &backend,
        "identity: {providers: [staff]}\nheaders: {request: {set: {x-user: \"${claims.sub}\"}}}",
        parts,
    )
    .top(&format!(
        "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}}}"
    ));
    let armiger = Armiger::with(config).await;
    for (sub, host) in [("ada", "one.test"), ("bob", "one.test"), ("ada", "two.test"), ("bob", "one.test")] {
        let request = Request::get("/page/1").header("host", host).header("authorization", signed(sub));
        let response = armiger.request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        assert_eq!(response.json()["a"], json!([sub, host]));
    }
    assert_eq!(backend.count(), 3);
}

/// Random callers, languages and purges against a model that knows only what nobody may ever get.
#[tokio::test]
async fn no_part_ever_reaches_another_caller() {
    let number = AtomicUsize::new(0);
    let backend = Backend::with(move |seen| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let control = ["max-age=60", "max-age=0", "private", "no-store", "max-age=0, stale-while-revalidate=60"];
        let control = control[fastrand::Rng::with_seed(number as u64).usize(..control.len())];
        let language = seen.headers.get("accept-language").map_or("", |value| value.to_str().unwrap());
        let body = json!([seen.header("x-user"), language, seen.target, number]);
        reply(200, &[("cache-control", control), ("vary", "accept-language")], body.to_string())
    })
    .await;
    let parts = "a: {upstream: app, path: \"/a/{path.id}\", headers: {x-user: \"{headers.x-caller}\"}, cache: {}}";
    let armiger = Armiger::with(page(&backend, "{}", parts)).await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut connection = armiger.connect().await;
    let (mut least, mut latest) = (0, 0);
    for _ in 0..400 {
        let (id, caller) = (random.u8(..3), format!("c{}", random.u8(..3)));
        let language = ["de", "en"][random.usize(..2)];
        if random.u8(..40) == 0 {
            armiger.admin().post("/cache/purge", json!({"all": true}).to_string()).await.assert_status(200);
            least = latest + 1;
        }
        let request = Request::get(format!("/page/{id}"))
            .header("host", "h.test")
            .header("x-caller", &caller)
            .header("accept-language", language);
        let response = connection.request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        let document = response.assert_header("x-armiger-completed", "true").json();
        let part: &Vec<Value> = document["a"].as_array().unwrap();
        assert_eq!(part[..3], [json!(caller), json!(language), json!(format!("/a/{id}"))]);
        let number = part[3].as_u64().unwrap();
        assert!(number >= least, "{number} is from before the purge at {least}");
        latest = latest.max(number);
    }
    assert!(backend.count() < 400, "nothing was ever stored");
}

// === what stands in ===

#[tokio::test]
async fn what_was_kept_stands_in_for_a_part_that_fails_and_says_so() {
    for (failing, is_covered) in [
        (reply(503, &[], "{}"), true),
        (reply(200, &[("cache-control", "max-age=60")], "no json"), true),
        (reply(200, &[], "[".repeat(100) + &"]".repeat(100)), true),
        (reply(404, &[], "{}"), false),
        (reply(403, &[], "{}"), false),
    ] {
        let said = format!("{failing:?}");
        let failing = Mutex::new(Some(failing));
        let count = AtomicUsize::new(0);
        let backend = Backend::with(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => reply(200, &[("cache-control", "max-age=0")], "\"old\""),
            _ => failing.lock().unwrap().take().unwrap_or_else(|| reply(500, &[], "")),
        })
        .await;
        let parts = "a: {upstream: app, path: /a, cache: {}, fallback: {stale: 1h}}";
        let armiger = Armiger::with(page(&backend, "{}", parts)).await;
        get(&armiger, "/page/1", &[]).await.assert_header("x-armiger-completed", "true");

        let response = get(&armiger, "/page/1", &[]).await;
        response.assert_status(200).assert_header("cache-control", "no-store");
        if is_covered {
            assert_eq!(response.text(), r#"{"a":"old"}"#, "{said}");
            response.assert_header("x-armiger-completed", "true; stale=\"a\"");
            let line = armiger.logged(|line| line["parts"][0]["outcome"] == "stale").await;
            assert_eq!(line["parts"][0]["part"], "a");
        } else {
            assert_eq!(response.text(), "{}", "{said}");
            response.assert_header("x-armiger-completed", "false; missing=\"a\"");
        }
    }
}

/// What forbids to be used stale is not used.
#[tokio::test]
async fn what_forbids_it_or_was_purged_stands_in_for_nothing() {
    for (control, purges) in [("max-age=0, must-revalidate", false), ("max-age=0", true)] {
        let is_broken = Arc::new(AtomicBool::new(false));
        let broken = is_broken.clone();
        let backend = Backend::with(move |_| match broken.load(Ordering::SeqCst) {
            true => reply(503, &[], "{}"),
            false => reply(200, &[("cache-control", control), ("etag", "\"a\"")], "\"old\""),
        })
        .await;
        let parts = "a: {upstream: app, path: /a, cache: {}, fallback: {stale: 1h, static: \"fixed\"}}";
        let armiger = Armiger::with(page(&backend, "{}", parts)).await;
        get(&armiger, "/page/1", &[]).await;
        is_broken.store(true, Ordering::SeqCst);
        if purges {
            armiger.admin().post("/cache/purge", json!({"all": true}).to_string()).await.assert_status(200);
        }
        let response = get(&armiger, "/page/1", &[]).await;
        assert_eq!(response.text(), r#"{"a":"fixed"}"#, "{control}");
    }
}

/// A part that is late has what was kept of it, be it late by its own time or by the aggregate's.
#[tokio::test]
async fn what_was_kept_stands_in_for_a_part_that_is_late() {
    let (go, count) = (Signal::new(), Arc::new(AtomicUsize::new(0)));
    let wait = go.clone();
    let backend = Backend::serving(move |request: Request<_>| {
        let (go, number) = (wait.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number > 1 {
                go.wait().await;
            }
            reply(200, &[("cache-control", "max-age=0")], format!("\"{}\"", request.uri().path()))
        }
    })
    .await;
    let parts = "
own: {upstream: app, path: /own, timeout: 60ms, cache: {}, fallback: {stale: 1h}}
whole: {upstream: app, path: /whole, cache: {}, fallback: {stale: 1h}}";
    let config = page(&backend, "{}", parts).to_string().replace("deadline: 5s", "deadline: 300ms");
    let armiger = Armiger::with(config).await;
    let first = get(&armiger, "/page/1", &[]).await.assert_header("x-armiger-completed", "true").text().to_owned();

    let response = get(&armiger, "/page/1", &[]).await;

    assert_eq!(response.text(), first);
    response.assert_header("x-armiger-completed", "true; stale=\"own, whole\"");
    go.send();
}

/// At the deadline too: what a condition keeps out, or nobody can tell, has not what was kept, and fails nothing.
#[tokio::test]
async fn what_was_kept_stands_in_for_no_part_that_is_not_wanted() {
    for (more, expected) in [
        ("when: \"parts.first.body == '/first'\"", Some("false; missing=\"first, second\"")),
        ("when: \"path.id == '1'\"", Some("false; missing=\"first\"")),
        ("when: \"path.id == '1'\", required: true", Some("false; missing=\"first\"")),
        ("when: \"parts.first.body == '/first'\", required: true", None),
    ] {
        let (go, is_late) = (Signal::new(), Arc::new(AtomicBool::new(false)));
        let (wait, late) = (go.clone(), is_late.clone());
        let backend = Backend::serving(move |request: Request<_>| {
            let (go, is_late) = (wait.clone(), late.load(Ordering::SeqCst));
            async move {
                if is_late {
                    go.wait().await;
                }
                reply(200, &[("cache-control", "max-age=0")], format!("\"{}\"", request.uri().path()))
            }
        })
        .await;
        let parts = format!(
            "first: {{upstream: app, path: /first}}\n\
             second: {{upstream: app, path: /second, after: [first], cache: {{}}, fallback: {{stale: 1h}}, {more}}}"
        );
        let config = page(&backend, "{}", &parts).to_string().replace("deadline: 5s", "deadline: 300ms");
        let armiger = Armiger::with(config).await;
        get(&armiger, "/page/1", &[]).await.assert_header("x-armiger-completed", "true");
        is_late.store(true, Ordering::SeqCst);

        let response = get(&armiger, "/page/2", &[]).await;

        match expected {
            Some(completed) => {
                assert_eq!(response.assert_header("x-armiger-completed", completed).text(), "{}", "{more}");
            }
            None => drop(response.assert_problem(504, "part-timeout")),
        }
        go.send();
    }
}

/// Good or not, what is asked about is asked by its validators, and what is still good is taken from what was kept.
#[tokio::test]
async fn what_is_no_longer_fresh_is_asked_about() {
    let backend = Backend::with(|seen| match seen.headers.get("if-none-match") {
        Some(_) => reply(304, &[("etag", "\"a\"")], ""),
        None => reply(200, &[("etag", "\"a\""), ("cache-control", "max-age=0")], "{\"k\":1}"),
    })
    .await;
    let armiger = Armiger::with(page(&backend, "{}", "a: {upstream: app, path: /a, cache: {}}")).await;
    for _ in 0..3 {
        let response = get(&armiger, "/page/1", &[]).await;
        response.assert_header("x-armiger-completed", "true");
        assert_eq!(response.text(), r#"{"a":{"k":1}}"#);
    }
    let seen = backend.received(3).await;
    assert_eq!(seen.iter().filter(|seen| seen.has("if-none-match")).count(), 2);
}

#[tokio::test]
async fn a_status_that_the_client_is_to_see_comes_from_the_cache_too() {
    let backend = Backend::with(|_| reply(404, &[], "{}")).await;
    let parts = "a: {upstream: app, path: /a, required: true, pass_status: [404], cache: {ttl: {404: 1m}}}";
    let armiger = Armiger::with(page(&backend, "{}", parts)).await;
    for _ in 0..2 {
        get(&armiger, "/page/1", &[]).await.assert_problem(404, "part-failed");
    }
    assert_eq!(backend.count(), 1);
}

/// A document that lacks something, or has something old, is for nobody else.
#[tokio::test]
async fn a_partial_document_is_not_kept_by_the_routes_own_cache() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = is_broken.clone();
    let backend = Backend::with(move |seen| match broken.load(Ordering::SeqCst) && seen.target == "/a" {
        true => reply(503, &[], "{}"),
        false => reply(200, &[("cache-control", "max-age=0")], "1"),
    })
    .await;
    let parts = "
a: {upstream: app, path: /a, cache: {}, fallback: {stale: 1h}}
b: {upstream: app, path: /b, cache: {ttl: {default: 1m}, ttl_overrides: true}}";
    let policy = "cache: {ttl: {default: 1m}, ttl_overrides: true}";
    let armiger = Armiger::with(page(&backend, policy, parts)).await;
    let completed = async |target: &str| get(&armiger, target, &[]).await.header("x-armiger-completed").to_owned();
    assert_eq!(completed("/page/1").await, "true");
    assert_eq!(completed("/page/1").await, "true");
    assert_eq!(backend.count(), 2, "the route's own cache has it");
    is_broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(completed("/page/2").await, "true; stale=\"a\"");
    }
    assert_eq!(backend.count(), 4, "asked each time; and the other part was kept");
}

// === who waits for whom ===

const CROWD: usize = 40;

/// All who want a cold part at once wait for one request, and it goes on when the client leaves that began it.
#[tokio::test]
async fn many_that_want_one_part_ask_for_it_once() {
    let go = Signal::new();
    let wait = go.clone();
    let backend = Backend::serving(move |_| {
        let go = wait.clone();
        async move {
            go.wait().await;
            reply(200, &[("cache-control", "max-age=60")], "1")
        }
    })
    .await;
    let armiger = Armiger::with(page(&backend, "{}", "a: {upstream: app, path: /a, cache: {}}")).await;
    let leader = armiger.raw("GET /page/0 HTTP/1.1\r\nhost: h.test\r\n\r\n").await;
    backend.arrived(1).await;
    let mut connection = armiger.connect_h2c().await;
    let tasks: Vec<_> = (0..CROWD)
        .map(|id| {
            let mut hand = connection.share();
            let request = Request::get(format!("/page/{id}")).header("host", "h.test");
            tokio::spawn(async move { hand.request(request.body(Empty::<Bytes>::new()).unwrap()).await })
        })
        .collect();
    let gauge = "armiger_http_requests_in_flight{route=\"page\"}";
    armiger.until_metric(gauge, (CROWD + 1) as f64).await;
    leader.reset();
    armiger.until_metric(gauge, CROWD as f64).await;
    go.send();

    for task in tasks {
        assert_eq!(task.await.unwrap().text(), r#"{"a":1}"#);
    }
    assert_eq!(backend.count(), 1);
    drop(connection.get("/page/1").await);
}

/// Nobody wants it any more: nothing of it is left.
#[tokio::test]
async fn a_fetch_of_a_part_ends_with_the_last_who_wants_it() {
    let backend = Backend::serving(|_| async { std::future::pending().await }).await;
    let armiger = Armiger::with(page(&backend, "{}", "a: {upstream: app, path: /a, cache: {}}")).await;
    let raw = armiger.raw("GET /page/1 HTTP/1.1\r\nhost: h.test\r\n\r\n").await;
    backend.arrived(1).await;
    raw.reset();

    backend.closed(1).await;
    armiger.until_metric("armiger_upstream_connections{state=\"active\",upstream=\"app\"}", 0.0).await;
    let rows = armiger.admin().get("/state/cache").await.json();
    assert!(rows["rows"].as_array().unwrap().iter().all(|row| row["flights"].as_u64().unwrap_or(0) == 0), "{rows:#}");
}

/// What a part that is required takes with it when it fails includes what is fetched for the cache.
#[tokio::test]
async fn a_required_part_that_fails_ends_what_is_fetched_for_the_others() {
    let backend = Backend::serving(|request: Request<_>| async move {
        if request.uri().path() == "/kept" {
            std::future::pending::<()>().await;
        }
        reply(500, &[], "{}")
    })
    .await;
    let parts = "
kept: {upstream: app, path: /kept, cache: {}}
needed: {upstream: app, path: /needed, required: true}";
    let armiger = Armiger::with(page(&backend, "{}", parts)).await;

    get(&armiger, "/page/1", &[]).await.assert_problem(502, "part-failed");

    armiger.until_metric("armiger_upstream_connections{state=\"active\",upstream=\"app\"}", 0.0).await;
}

/// A stale answer is used at once, and one fresh one is fetched behind it.
#[tokio::test]
async fn a_part_is_refreshed_behind_the_back_of_who_gets_it_stale() {
    let backend = Backend::counting(&[("cache-control", "max-age=0")]).await;
    let parts = "a: {upstream: app, path: /a, cache: {stale_while_revalidate: 1m}}";
    let armiger = Armiger::with(page(&backend, "{}", parts)).await;
    assert_eq!(get(&armiger, "/page/1", &[]).await.text(), r#"{"a":1}"#);
    assert_eq!(get(&armiger, "/page/1", &[]).await.text(), r#"{"a":1}"#);
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"page/a\"}", 2.0).await;
    assert_eq!(get(&armiger, "/page/1", &[]).await.text(), r#"{"a":2}"#);
}

// === mistakes ===

#[tokio::test]
async fn what_makes_no_sense_of_a_parts_cache_is_told_before_it_runs() {
    let backend = Backend::replies("1").await;
    let wrong = async |part: &str, says: &str| {
        let parts = format!("a: {{upstream: app, path: /a, {part}}}");
        match Armiger::try_with(page(&backend, "{}", &parts)).await {
            Ok(_) => panic!("is taken: {part}"),
            Err(report) => assert!(report.contains(says), "no {says:?} in:\n{report}"),
        }
    };
    wrong("fallback: {stale: 1h}", "is about what `cache` has, which is not there").await;
    wrong("cache: {}, fallback: {stale: 0s}", "is too short").await;
    wrong("cache: {vary_by: [sub]}", "is nothing that tells answers apart").await;
    wrong("cache: {vary_by: [\"claim:sub\"]}", "this route knows none").await;
    wrong("cache: {ttl: {499: 1s}}", "is no status that is stored").await;
    wrong("cache: {ttl_overrides: true}", "gives no lifetime").await;
    wrong("cache: {l2: redis}", "the section `cache` names no Redis").await;
    wrong("cache: {stale_if_error: 1s}", "stale_if_error").await;
    let posts = page(&backend, "{}", "a: {upstream: app, method: POST, path: /a, cache: {}}")
        .to_string()
        .replace("methods: [GET]", "methods: [POST]");
    let report = Armiger::try_with(posts).await.err().unwrap();
    assert!(report.contains("answers to POST are not stored"), "{report}");
}
