//! Keys at a URL: how they are fetched, what an issuer's outage does, and what attacks on the fetching come to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Armiger, Authority, Backend, Config, Files, Front, Issuer, Response, Script, Signal, Signer, answer,
    claims, within,
};

/// A set of these keys.
fn set(keys: &[(&str, &Signer)]) -> String {
    json!({"keys": keys.iter().map(|(id, signer)| signer.jwk(id)).collect::<Vec<_>>()}).to_string()
}

/// Everything is guarded by a provider `staff`, whose section has this for keys.
fn guarded(backend: &Backend, keys: &str) -> Config {
    let staff = format!("{{issuer: \"https://id.test\", audiences: [api], keys: {{{keys}}}}}");
    Config::to(backend)
        .top(&format!("identity: {{staff: {{jwt: {staff}}}}}"))
        .policies("identity: {providers: [staff]}")
}

fn url(issuer: &Backend) -> String {
    format!("jwks_url: \"{}/keys\"", issuer.url())
}

async fn call(armiger: &Armiger, token: &str) -> Response {
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    armiger.request(request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a valid request")).await
}

/// A token that nobody has seen before.
fn token(signer: &Signer, id: &str) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    signer.token_by(id, &claims(json!({"jti": NUMBER.fetch_add(1, Ordering::Relaxed)})))
}

async fn cause(armiger: &Armiger, response: &Response) -> Value {
    let id = response.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    line["verdicts"][0]["cause"].clone()
}

async fn refresh(armiger: &Armiger, status: u16) {
    armiger.admin().post("/jwks/refresh", "").await.assert_status(status);
}

async fn state(armiger: &Armiger) -> Value {
    armiger.admin().get("/state/identity").await.assert_status(200).json()["rows"][0].clone()
}

async fn ready(armiger: &Armiger) {
    let is_ready = async {
        while armiger.admin().get("/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    within("armiger to be ready", is_ready).await;
}

const FETCHES: &str = "armiger_identity_fetches_total";

// === keys that are there ===

#[tokio::test]
async fn keys_are_fetched_once_before_anybody_needs_them() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    let armiger = Armiger::with_workers(2, guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    for _ in 0..50 {
        call(&armiger, &token(&signer, "one")).await.assert_status(200);
    }
    let fetch = issuer.only().await;
    assert_eq!((fetch.method.as_str(), fetch.target.as_str()), ("GET", "/keys"));
    assert_eq!(fetch.header("host"), issuer.address().to_string());
    assert!(fetch.header("user-agent").starts_with("armiger/") && !fetch.has("authorization"));
    let row = state(&armiger).await;
    assert_eq!(row["keys"], json!([{"id": "one", "algorithms": ["ES256"]}]));
    assert_eq!((&row["failures"], &row["last_error"]), (&json!(0), &Value::Null));
    assert!((400..=480).contains(&row["next_fetch_seconds"].as_u64().expect("a number")), "{row}");
    armiger.until_metric("armiger_identity_keys{provider=\"staff\"}", 1.0).await;
    armiger.until_metric(&format!("{FETCHES}{{outcome=\"ok\",provider=\"staff\"}}"), 1.0).await;
    assert!(armiger.admin().get("/readyz?verbose").await.text().contains("[+] keys staff: 1 in use"));
}

#[tokio::test]
async fn a_key_that_is_taken_out_of_the_set_is_good_for_nothing() {
    let (backend, old, new) = (Backend::replies("ok").await, Signer::new("ES256"), Signer::new("ES256"));
    let issuer = Issuer::says(200, set(&[("old", &old)])).await;
    let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    let (first, second) = (token(&old, "old"), token(&new, "new"));
    call(&armiger, &first).await.assert_status(200);
    // Both for a while, then the new one alone.
    issuer.now_says(200, set(&[("old", &old), ("new", &new)]));
    refresh(&armiger, 200).await;
    call(&armiger, &first).await.assert_status(200);
    call(&armiger, &second).await.assert_status(200);
    issuer.now_says(200, set(&[("new", &new)]));
    refresh(&armiger, 200).await;
    call(&armiger, &second).await.assert_status(200);
    let revoked = call(&armiger, &first).await;
    revoked.assert_problem(401, "token-invalid");
    assert_eq!(cause(&armiger, &revoked).await, "jwt_kid_unknown");
}

#[tokio::test]
async fn a_token_by_a_new_key_has_the_keys_fetched_and_waits_for_them() {
    let (backend, old, new) = (Backend::replies("ok").await, Signer::new("ES256"), Signer::new("RS256"));
    let issuer = Issuer::says(200, set(&[("old", &old)])).await;
    let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    issuer.now_says(200, set(&[("old", &old), ("new", &new)]));
    call(&armiger, &token(&new, "new")).await.assert_status(200);
    assert_eq!(issuer.count(), 2);
}

#[tokio::test]
async fn unchanged_keys_cost_the_issuer_nothing_and_forget_no_token() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(404, "").await;
    let keys = set(&[("one", &signer)]);
    issuer.now_replies(move |seen| {
        let mut answer = match seen.headers.get("if-none-match") {
            Some(tag) if tag == "\"7\"" => answer(304, ""),
            _ => answer(200, keys.clone()),
        };
        answer.headers_mut().insert("etag", "\"7\"".parse().expect("a field"));
        answer.headers_mut().insert("cache-control", "max-age=100".parse().expect("a field"));
        answer
    });
    let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    let known = token(&signer, "one");
    call(&armiger, &known).await.assert_status(200);
    refresh(&armiger, 200).await;
    call(&armiger, &known).await.assert_status(200);
    assert!(issuer.received(2).await[1].has("if-none-match"));
    armiger.until_metric(&format!("{FETCHES}{{outcome=\"unchanged\",provider=\"staff\"}}"), 1.0).await;
    // The token is known still.
    armiger.until_metric("armiger_identity_credentials_total{outcome=\"known\",provider=\"staff\"}", 1.0).await;
    let next = state(&armiger).await["next_fetch_seconds"].as_u64().expect("a number");
    assert!((65..=80).contains(&next), "the issuer says 100 seconds: {next}");
}

// === outages ===

/// An answer that is an outage, what it is, and the word for the metric.
type Outage = (&'static str, Box<dyn Fn() -> Answer + Send + Sync>, &'static str);

/// Answers that are an outage.
fn outages(signer: &Signer, elsewhere: &str) -> Vec<Outage> {
    let good = set(&[("one", signer)]);
    let mut secret: Value = serde_json::from_str(&good).expect("a set");
    secret["keys"] = json!([{"kty": "oct", "kid": "one", "k": "c2VjcmV0"}]);
    let plain = |body: String| move || answer(200, body.clone());
    let with = |status: u16, name: &'static str, value: String, body: String| {
        move || {
            let mut answer = answer(status, body.clone());
            answer.headers_mut().insert(name, value.parse().expect("a field"));
            answer
        }
    };
    let many: Vec<_> = (0..101).map(|number| signer.jwk(&number.to_string())).collect();
    vec![
        ("an error", Box::new(|| answer(500, "")), "status"),
        ("not found", Box::new(|| answer(404, "")), "status"),
        ("a redirect", Box::new(with(302, "location", elsewhere.into(), String::new())), "redirect"),
        ("a redirect with keys", Box::new(with(301, "location", elsewhere.into(), good.clone())), "redirect"),
        ("a page of HTML", Box::new(plain("<html>login</html>".into())), "invalid"),
        ("an empty set", Box::new(plain(r#"{"keys":[]}"#.into())), "invalid"),
        ("an empty answer", Box::new(plain(String::new())), "invalid"),
        ("a published secret", Box::new(plain(secret.to_string())), "invalid"),
        ("101 keys", Box::new(plain(json!({"keys": many}).to_string())), "invalid"),
        ("a member twice", Box::new(plain(good.replacen('{', r#"{"keys":[],"#, 1))), "invalid"),
        ("a coding", Box::new(with(200, "content-encoding", "gzip".into(), good.clone())), "invalid"),
        ("a hundred megabytes", Box::new(|| answer(200, vec![b' '; 100 << 20])), "too_large"),
        ("unasked: not modified", Box::new(|| answer(304, "")), "redirect"),
    ]
}

#[tokio::test]
async fn an_outage_at_the_start_is_a_503_and_never_a_401() {
    let (backend, signer, elsewhere) =
        (Backend::replies("ok").await, Signer::new("ES256"), Backend::replies("never asked").await);
    for (outage, reply, word) in outages(&signer, &elsewhere.url()) {
        let issuer = Issuer::says(500, "").await;
        issuer.now_replies(move |_| reply());
        let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
        armiger.until_metric(&format!("{FETCHES}{{outcome=\"{word}\",provider=\"staff\"}}"), 1.0).await;
        let response = call(&armiger, &token(&signer, "one")).await;
        response.assert_problem(503, "identity-unavailable");
        assert!(response.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{outage}");
        assert_eq!(cause(&armiger, &response).await, "jwks_unavailable", "{outage}");
        let readiness = armiger.admin().get("/readyz?verbose").await;
        assert!(
            readiness.assert_status(503).text().contains("[-] keys staff: its answer")
                || readiness.text().contains("[-] keys staff: it answered"),
            "{outage}: {}",
            readiness.text()
        );
    }
    assert_eq!((elsewhere.count(), backend.count()), (0, 0));
}

#[tokio::test]
async fn known_keys_serve_through_an_outage() {
    let (backend, signer, elsewhere) =
        (Backend::replies("ok").await, Signer::new("ES256"), Backend::replies("never asked").await);
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    for (outage, reply, _) in outages(&signer, &elsewhere.url()) {
        issuer.now_replies(move |_| reply());
        refresh(&armiger, 502).await;
        call(&armiger, &token(&signer, "one")).await.assert_status(200);
        armiger.admin().get("/readyz").await.assert_status(200);
        armiger.until_metric("armiger_identity_keys_stale{provider=\"staff\"}", 1.0).await;
        assert!(state(&armiger).await["last_error"].is_string(), "{outage}");
    }
    issuer.now_says(200, set(&[("one", &signer)]));
    refresh(&armiger, 200).await;
    assert_eq!(armiger.metric("armiger_identity_keys_stale{provider=\"staff\"}").await, 0.0);
    assert_eq!((state(&armiger).await["last_error"].clone(), elsewhere.count()), (Value::Null, 0));
}

#[tokio::test]
async fn an_issuer_that_comes_up_late_is_tried_again_without_being_asked_for() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let keys = set(&[("one", &signer)]);
    let good = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{keys}", keys.len());
    let issuer = Backend::raw_each(move |number| match number {
        0 => Script::new().reset(),
        _ => Script::new().request().write(&good),
    })
    .await;
    let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
    armiger.admin().get("/readyz").await.assert_status(503);
    ready(&armiger).await;
    call(&armiger, &token(&signer, "one")).await.assert_status(200);
    assert!(issuer.connections() <= 3);
}

#[tokio::test]
async fn keys_that_were_not_confirmed_for_too_long_are_used_no_longer() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    let armiger = Armiger::with(guarded(&backend, &format!("{}, max_stale: 1s", url(&issuer)))).await;
    ready(&armiger).await;
    let known = token(&signer, "one");
    call(&armiger, &known).await.assert_status(200);
    issuer.now_says(500, "");
    armiger.until_metric("armiger_identity_keys{provider=\"staff\"}", 0.0).await;
    call(&armiger, &known).await.assert_problem(503, "identity-unavailable");
}

#[tokio::test]
async fn an_endless_answer_is_given_up_and_a_slow_one_holds_up_nobody_for_long() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let chunk = format!("200000\r\n{}\r\n", " ".repeat(0x20_0000));
    let endless = Script::new().request().write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").write(chunk);
    for (what, script, more, word) in [
        ("endless", endless.hang(), "", "too_large"),
        ("silent", Script::new().request().hang(), ", timeout: 50ms", "timeout"),
        (
            "never done",
            Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").hang(),
            ", timeout: 50ms",
            "timeout",
        ),
    ] {
        let issuer = Backend::raw(script).await;
        let keys = format!("{}, wait: 10ms{more}", url(&issuer));
        let armiger = Armiger::with(guarded(&backend, &keys)).await;
        armiger.until_metric(&format!("{FETCHES}{{outcome=\"{word}\",provider=\"staff\"}}"), 1.0).await;
        issuer.closed(1).await;
        call(&armiger, &token(&signer, "one")).await.assert_problem(503, "identity-unavailable");
        assert_eq!(armiger.stop().await.cut, 0, "{what}");
    }
}

/// Nobody listens there, or the name is nobody's: requests are told to come back, and operators why.
#[tokio::test]
async fn an_issuer_that_cannot_be_reached_is_a_503_and_a_line_in_the_log() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    for (url, word) in
        [(format!("http://{free}/keys"), "unreachable"), ("http://nobody.invalid/keys".to_owned(), "unreachable")]
    {
        let keys = format!("jwks_url: \"{url}\", insecure: true, wait: 10ms, timeout: 20s");
        let armiger = Armiger::with(guarded(&backend, &keys)).await;
        armiger.until_metric(&format!("{FETCHES}{{outcome=\"{word}\",provider=\"staff\"}}"), 1.0).await;
        call(&armiger, &token(&signer, "one")).await.assert_problem(503, "identity-unavailable");
        let row = state(&armiger).await;
        assert!(row["last_error"].as_str().is_some_and(|told| told.starts_with("it cannot be reached")), "{row}");
        assert_eq!(row["keys"], json!([]));
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn requests_wait_a_moment_for_the_first_keys_and_readiness_no_longer_than_it_was_told() {
    let (backend, signer, gate) = (Backend::replies("ok").await, Signer::new("ES256"), Signal::new());
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    issuer.waits_for(&gate);
    let armiger = Armiger::with(guarded(&backend, &format!("{}, wait: 20ms, start_wait: 200ms", url(&issuer)))).await;
    issuer.arrived(1).await;
    armiger.admin().get("/readyz?verbose").await.assert_status(503);
    let begun = Instant::now();
    call(&armiger, &token(&signer, "one")).await.assert_problem(503, "identity-unavailable");
    assert!(begun.elapsed() < Duration::from_secs(4), "it waits for 20ms");
    ready(&armiger).await;
    assert!(armiger.admin().get("/readyz?verbose").await.text().contains("[i] keys staff: not fetched yet"));
    gate.send();
    armiger.until_metric("armiger_identity_keys{provider=\"staff\"}", 1.0).await;
    call(&armiger, &token(&signer, "one")).await.assert_status(200);

    // Whoever does not need them at the start says so.
    let silent = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(guarded(&backend, &format!("{}, required_at_start: false", url(&silent)))).await;
    armiger.admin().get("/readyz").await.assert_status(200);
}

// === floods ===

#[tokio::test]
async fn ten_thousand_made_up_keys_cost_one_fetch() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    let armiger = Armiger::with_workers(2, guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    let signature = "A".repeat(86);
    let begun = Instant::now();
    let mut clients: Vec<_> = Vec::new();
    for _ in 0..8 {
        clients.push(armiger.connect().await);
    }
    let floods = clients.into_iter().enumerate().map(|(place, mut client)| {
        let signature = signature.clone();
        async move {
            for number in 0..1250 {
                let token = forged(&format!("{place}-{number}"), &signature);
                let request = Request::get("/").header("authorization", format!("Bearer {token}"));
                let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a valid request");
                client.request(request).await.assert_problem(401, "token-invalid");
            }
        }
    });
    futures(floods.collect()).await;
    // One at the start, one for the flood, and one more for each ten seconds that a slow machine takes for it.
    let most = 2 + begun.elapsed().as_secs() as usize / 10;
    assert!((2..=most).contains(&issuer.count()), "{} fetches in {:?}", issuer.count(), begun.elapsed());
    call(&armiger, &token(&signer, "one")).await.assert_status(200);
    assert_eq!(backend.count(), 1);
}

/// A token whose signature is nobody's.
fn forged(id: &str, signature: &str) -> String {
    use base64::Engine;
    let text = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", text(json!({"alg": "ES256", "kid": id})), text(claims(json!({}))))
}

#[tokio::test]
async fn a_thousand_at_once_wait_for_the_same_fetch() {
    let (backend, old, new, gate) =
        (Backend::replies("ok").await, Signer::new("ES256"), Signer::new("ES256"), Signal::new());
    let issuer = Issuer::says(200, set(&[("old", &old)])).await;
    let config = guarded(&backend, &format!("{}, wait: 10s", url(&issuer))).upstream("pool: {queue_wait: 30s}");
    let armiger = Armiger::with_workers(2, config).await;
    ready(&armiger).await;
    issuer.now_says(200, set(&[("old", &old), ("new", &new)]));
    issuer.waits_for(&gate);
    let token = token(&new, "new");
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(armiger.connect_h2c().await);
    }
    let calls = clients.iter().flat_map(|client| {
        let token = &token;
        (0..100).map(move |_| {
            let mut client = client.share();
            let request = Request::get("http://armiger/").header("authorization", format!("Bearer {token}"));
            let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a valid request");
            async move { client.request(request).await.assert_status(200).status }
        })
    });
    let opened = async {
        issuer.arrived(2).await;
        gate.send();
    };
    tokio::join!(futures(calls.collect()), opened);
    assert_eq!((issuer.count(), backend.count()), (2, 1000));
}

/// Runs them at once.
async fn futures<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in all.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if all.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}

// === operators and reloads ===

#[tokio::test]
async fn keys_outlive_a_reload_and_go_with_their_address() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let (issuer, other) = (Issuer::says(200, set(&[("one", &signer)])).await, Issuer::says(500, "").await);
    let files = Files::of(guarded(&backend, &url(&issuer)));
    let armiger = Armiger::watching(files.config().into()).await;
    ready(&armiger).await;
    let known = token(&signer, "one");
    call(&armiger, &known).await.assert_status(200);

    files.replace("config.yaml", guarded(&backend, &format!("{}, refresh: 1h, wait: 100ms", url(&issuer))));
    armiger.in_force(2).await;
    call(&armiger, &known).await.assert_status(200);
    call(&armiger, &token(&signer, "one")).await.assert_status(200);
    let until = async {
        while state(&armiger).await["next_fetch_seconds"].as_u64() < Some(2500) {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    within("the new interval to hold", until).await;
    assert_eq!(issuer.count(), 1, "another interval fetches nothing");

    // Another address is another set of keys: nothing is carried over. But readiness is not lost by a reload.
    files.replace("config.yaml", guarded(&backend, &url(&other)));
    armiger.in_force(3).await;
    other.received(1).await;
    call(&armiger, &known).await.assert_problem(503, "identity-unavailable");
    armiger.admin().get("/readyz").await.assert_status(200);
    assert_eq!(issuer.count(), 1);
}

#[tokio::test]
async fn operators_have_keys_fetched_by_name() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    let armiger = Armiger::with(guarded(&backend, &url(&issuer))).await;
    ready(&armiger).await;
    let ask = |query: &'static str| {
        let admin = armiger.admin();
        async move { admin.post(&format!("/jwks/refresh{query}"), "").await }
    };
    assert_eq!(ask("?provider=staff").await.assert_status(200).text(), "staff: 1 keys in use\n");
    assert_eq!(issuer.count(), 2);
    ask("?provider=other").await.assert_status(404);
    issuer.now_says(503, "");
    let failed = ask("").await;
    assert_eq!(
        failed.assert_status(502).text(),
        "staff: 1 keys in use as before, for it answered with the status 503\n"
    );
    // A configuration in which nobody fetches.
    let armiger = Armiger::proxying(&backend).await;
    armiger.admin().post("/jwks/refresh", "").await.assert_status(404);
}

#[tokio::test]
async fn checking_a_configuration_asks_nobody() {
    let backend = Backend::replies("ok").await;
    let files = Files::of(guarded(&backend, &url(&backend)));
    Armiger::binary(&["check", "--config", &files.config()]).assert_code(0);
    assert_eq!(backend.connections(), 0);
}

// === the way there ===

#[tokio::test]
async fn an_issuer_must_prove_by_tls_who_it_is() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(200, set(&[("one", &signer)])).await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let front = Front::of(&issuer, authority.issue(&["127.0.0.1"]).server(&["http/1.1"], None)).await;
    let keys = |authority: &Authority| {
        let authority = serde_json::to_string(&authority.pem()).expect("text");
        guarded(&backend, &format!("jwks_url: \"{}/keys\", tls: {{ca: {authority}}}", front.url()))
    };
    let armiger = Armiger::with(keys(&authority)).await;
    ready(&armiger).await;
    call(&armiger, &token(&signer, "one")).await.assert_status(200);
    let asked = issuer.count();
    let armiger = Armiger::with(keys(&stranger)).await;
    armiger.until_metric(&format!("{FETCHES}{{outcome=\"unreachable\",provider=\"staff\"}}"), 1.0).await;
    call(&armiger, &token(&signer, "one")).await.assert_problem(503, "identity-unavailable");
    assert_eq!(issuer.count(), asked, "nothing is asked of a stranger");
}

#[tokio::test]
async fn what_cannot_be_meant_is_told_before_anything_starts() {
    let backend = Backend::replies("ok").await;
    for (keys, told) in [
        ("jwks_url: \"http://id.test/keys\"", "is plain `http://`"),
        ("jwks_url: \"https://me:secret@id.test/keys\"", "contains credentials"),
        ("jwks_url: keys", "is no URL"),
        ("jwks_url: \"https://id.test/keys\", discover: true", "has keys of 2 kinds: `jwks_url`, `discover`"),
        ("jwks_url: \"https://id.test/keys\", refresh: 0s", "0s is out of bounds"),
        ("jwks_url: \"https://id.test/keys\", wait: 1m", "60s is out of bounds"),
        ("jwks_url: \"https://id.test/keys\", bytes_max: 1GiB", "1GiB is out of bounds"),
        ("jwks_url: \"https://id.test/keys\", tls: {ca: nonsense}", "cannot be asked: `tls.ca`"),
        ("refresh: 5m", "names no key"),
    ] {
        let report = Armiger::try_with(guarded(&backend, keys)).await.map(|_| ()).unwrap_err();
        assert!(report.contains(told), "{keys}:\n{report}");
    }
    let discovered = guarded(&backend, "discover: true").to_string().replace("https://id.test", "partners");
    let report = Armiger::try_with(discovered).await.map(|_| ()).unwrap_err();
    assert!(report.contains("`issuer`, by which keys are to be discovered, is no URL"), "{report}");
    assert_eq!(backend.connections(), 0);
}

// === discovery ===

#[tokio::test]
async fn an_issuer_tells_where_its_keys_are_and_speaks_for_itself_only() {
    let (backend, signer) = (Backend::replies("ok").await, Signer::new("ES256"));
    let issuer = Issuer::says(404, "").await;
    let (name, keys) = (issuer.url(), set(&[("one", &signer)]));
    let document = move |issuer: &str, keys: &str| json!({"issuer": issuer, "jwks_uri": keys}).to_string();
    let tells = |document: String| {
        let keys = keys.clone();
        issuer.now_replies(move |seen| match seen.target.as_str() {
            "/.well-known/openid-configuration" => answer(200, document.clone()),
            "/certs" => answer(200, keys.clone()),
            _ => answer(404, ""),
        });
    };
    let section =
        format!("identity: {{staff: {{jwt: {{issuer: \"{name}\", audiences: [api], keys: {{discover: true}}}}}}}}");
    let config = || Config::to(&backend).top(&section).policies("identity: {providers: [staff]}");
    tells(document(&name, &format!("{name}/certs")));
    let armiger = Armiger::with(config()).await;
    ready(&armiger).await;
    let good = signer.token_by("one", &claims(json!({"iss": name.clone()})));
    call(&armiger, &good).await.assert_status(200);
    for (attack, document) in [
        ("the document of another issuer", document("https://evil.test", &format!("{name}/certs"))),
        ("a slash more", document(&format!("{name}/"), &format!("{name}/certs"))),
        ("keys in the clear from elsewhere", document(&name, "http://evil.test/certs")),
        ("keys from a file", document(&name, "file:///etc/passwd")),
        ("no document", "<html>".to_owned()),
    ] {
        tells(document);
        refresh(&armiger, 502).await;
        assert!(
            state(&armiger).await["last_error"].as_str().is_some_and(|told| told.contains("discovery document")),
            "{attack}"
        );
        let armiger = Armiger::with(config()).await;
        armiger.until_metric(&format!("{FETCHES}{{outcome=\"invalid\",provider=\"staff\"}}"), 1.0).await;
        call(&armiger, &good).await.assert_problem(503, "identity-unavailable");
    }
}
