//! Opaque tokens: what the issuer is asked, how long its word holds, and what its silence comes to.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::harness::{
    Armiger, Backend, Config, Issuer, Response, SECRET_YAML, Script, Signal, Signer, answer, claims, now,
};

/// A provider that asks this issuer.
fn opaque(issuer: &Backend, more: &str) -> String {
    format!(
        "opaque: {{introspection: {{url: \"{}/introspect\", client_id: armiger, client_secret: {SECRET_YAML}, audiences: \
         [api]{more}}}}}",
        issuer.url()
    )
}

async fn guarded(backend: &Backend, issuer: &Backend, more: &str) -> Armiger {
    let top = format!("identity: {{{}}}", opaque(issuer, more));
    Armiger::with(Config::to(backend).top(&top).policies("identity: {providers: [opaque]}")).await
}

fn request(token: &str) -> Request<Empty<Bytes>> {
    let request = Request::get("http://armiger/").header("authorization", format!("Bearer {token}"));
    request.body(Empty::new()).expect("a valid request")
}

async fn call(armiger: &Armiger, token: &str) -> Response {
    armiger
        .request(
            Request::get("/")
                .header("authorization", format!("Bearer {token}"))
                .body(Empty::<Bytes>::new())
                .expect("a valid request"),
        )
        .await
}

async fn cause(armiger: &Armiger, response: &Response) -> Value {
    let id = response.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    line["verdicts"][0]["cause"].clone()
}

fn active(changes: Value) -> String {
    let mut word = json!({"active": true, "sub": "ada", "aud": "api", "scope": "read", "exp": now() + 600});
    for (name, value) in changes.as_object().expect("an object") {
        word[name] = value.clone();
    }
    word.to_string()
}

#[tokio::test]
async fn the_issuer_is_asked_once_about_a_token_and_its_word_holds() {
    let (backend, issuer) = (Backend::replies("ok").await, Issuer::says(200, active(json!({}))).await);
    let armiger = guarded(&backend, &issuer, "").await;
    for _ in 0..5 {
        call(&armiger, "an-opaque/token+with=").await.assert_status(200);
    }
    let question = issuer.only().await;
    assert_eq!((question.method.as_str(), question.target.as_str()), ("POST", "/introspect"));
    assert_eq!(question.body, b"token=an-opaque%2Ftoken%2Bwith%3D&token_type_hint=access_token");
    assert_eq!(question.header("content-type"), "application/x-www-form-urlencoded");
    assert!(question.header("authorization").starts_with("Basic YXJtaWdlcjph"));
    let known = "armiger_identity_credentials_total{outcome=\"known\",provider=\"opaque\"}";
    armiger.until_metric(known, 4.0).await;
    let row = armiger.admin().get("/state/identity").await.json()["rows"][0].clone();
    assert_eq!(
        (&row["kind"], &row["last_error"], &row["in_flight"]),
        (&json!("introspection"), &Value::Null, &json!(0))
    );
}

#[tokio::test]
async fn a_token_that_the_issuer_does_not_vouch_for_is_a_401_and_asked_about_once() {
    let backend = Backend::replies("ok").await;
    for (attack, word, expected) in [
        ("revoked", json!({"active": false}).to_string(), "token_inactive"),
        ("revoked, with claims", active(json!({"active": false})), "token_inactive"),
        ("ended", active(json!({"exp": now() - 60})), "jwt_expired"),
        ("not begun", active(json!({"nbf": now() + 60})), "jwt_not_yet_valid"),
        ("for another service", active(json!({"aud": ["other"]})), "jwt_audience"),
        ("for nobody", json!({"active": true, "sub": "ada"}).to_string(), "jwt_audience"),
        ("from another issuer", active(json!({"iss": "https://evil.test"})), "jwt_issuer"),
        ("from nobody", active(json!({})), "jwt_issuer"),
    ] {
        let issuer = Issuer::says(200, word).await;
        let armiger = guarded(&backend, &issuer, ", issuer: \"https://id.test\"").await;
        for _ in 0..3 {
            let response = call(&armiger, "opaque").await;
            response.assert_problem(401, "token-invalid");
            let expected =
                if attack.starts_with("from") || attack.starts_with("revoked") { expected } else { "jwt_issuer" };
            assert_eq!(cause(&armiger, &response).await, expected, "{attack}");
        }
        assert_eq!(issuer.count(), 1, "{attack}");
        let armiger = guarded(&backend, &issuer, "").await;
        let response = call(&armiger, "opaque").await;
        if expected != "jwt_issuer" {
            response.assert_problem(401, "token-invalid");
            assert_eq!(cause(&armiger, &response).await, expected, "{attack}");
        }
    }
}

#[tokio::test]
async fn an_issuer_that_gives_no_word_is_a_503_that_is_not_remembered() {
    let (backend, elsewhere) = (Backend::replies("ok").await, Backend::replies(active(json!({}))).await);
    let issuer = Issuer::says(500, "").await;
    let armiger = guarded(&backend, &issuer, ", answer_max: 1KiB").await;
    let target = elsewhere.url();
    let moved = move |status| {
        let mut answer = answer(status, "");
        answer.headers_mut().insert("location", target.parse().expect("a field"));
        answer
    };
    let outages: Vec<(&str, u16, String)> = vec![
        ("an error", 500, active(json!({}))),
        ("we are nobody", 401, active(json!({}))),
        ("HTML", 200, "<html>".into()),
        ("nothing", 200, String::new()),
        ("active as a text", 200, active(json!({"active": "true"}))),
        ("no active", 200, json!({"sub": "ada", "aud": "api"}).to_string()),
        ("a member twice", 200, active(json!({})).replacen('{', r#"{"active":false,"#, 1)),
        ("too much", 200, active(json!({"more": "x".repeat(2000)}))),
    ];
    let mut asked = 0;
    for (outage, status, body) in outages {
        issuer.now_says(status, body);
        let response = call(&armiger, "opaque").await;
        response.assert_problem(503, "identity-unavailable");
        assert!(response.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{outage}");
        assert_eq!(cause(&armiger, &response).await, "introspection_unavailable", "{outage}");
        asked += 1;
        assert_eq!(issuer.count(), asked, "{outage}");
    }
    issuer.now_replies(move |_| moved(307));
    call(&armiger, "opaque").await.assert_problem(503, "identity-unavailable");
    issuer.now_says(200, active(json!({})));
    call(&armiger, "opaque").await.assert_status(200);
    assert_eq!((elsewhere.count(), backend.count()), (0, 1));
}

#[tokio::test]
async fn an_issuer_that_is_silent_or_gone_lets_nobody_in() {
    let backend = Backend::replies("ok").await;
    let silent = Backend::raw(Script::new().request().hang()).await;
    let armiger = guarded(&backend, &silent, ", timeout: 50ms").await;
    call(&armiger, "opaque").await.assert_problem(503, "identity-unavailable");
    let mut gone = Backend::replies("").await;
    let armiger = guarded(&backend, &gone, "").await;
    gone.stop();
    call(&armiger, "opaque").await.assert_problem(503, "identity-unavailable");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn many_requests_with_one_token_are_one_question_and_too_many_questions_are_refused() {
    let (backend, issuer, gate) =
        (Backend::replies("ok").await, Issuer::says(200, active(json!({}))).await, Signal::new());
    issuer.waits_for(&gate);
    let armiger = guarded(&backend, &issuer, ", in_flight_max: 1, queue_max: 2, timeout: 30s").await;
    let mut client = armiger.connect_h2c().await;
    let same: Vec<_> = (0..90)
        .map(|_| {
            let mut client = client.share();
            tokio::task::spawn(async move { client.request(request("same")).await.status })
        })
        .collect();
    issuer.arrived(1).await;
    // One is asked, two may wait, and the others are told to come back.
    let others: Vec<_> = (0..9)
        .map(|number| {
            let mut client = client.share();
            tokio::task::spawn(async move { client.request(request(&format!("other-{number}"))).await.status })
        })
        .collect();
    armiger.until_metric("armiger_limit_hits_total{limit=\"identity.introspection.queue_max\"}", 7.0).await;
    gate.send();
    for call in same {
        assert_eq!(call.await.expect("a call"), 200);
    }
    let mut statuses = Vec::new();
    for call in others {
        statuses.push(call.await.expect("a call"));
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503, 503, 503, 503]);
    assert_eq!(issuer.count(), 3);
    client.request(request("same")).await.assert_status(200);
    assert_eq!(issuer.count(), 3);
}

#[tokio::test]
async fn no_word_holds_longer_than_the_token_or_than_was_said() {
    let backend = Backend::replies("ok").await;
    for (word, more) in [
        // Ends with the leeway.
        (active(json!({"exp": now() + 1})), ", leeway: 0s"),
        (active(json!({})), ", cache_for: 1s"),
        (json!({"active": false}).to_string(), ", cache_refused_for: 1s"),
    ] {
        let issuer = Issuer::says(200, word).await;
        let armiger = guarded(&backend, &issuer, more).await;
        let asked_again = async {
            while issuer.count() < 2 {
                call(&armiger, "opaque").await;
            }
        };
        crate::harness::within("the issuer to be asked again", asked_again).await;
    }
    let issuer = Issuer::says(200, active(json!({}))).await;
    let armiger = guarded(&backend, &issuer, ", cache_for: 0s").await;
    call(&armiger, "opaque").await.assert_status(200);
    call(&armiger, "opaque").await.assert_status(200);
    assert_eq!(issuer.count(), 2);
}

#[tokio::test]
async fn signed_tokens_of_a_known_issuer_are_judged_here_and_all_others_asked_about() {
    let (backend, issuer) = (Backend::replies("ok").await, Issuer::says(200, active(json!({}))).await);
    let top = format!(
        "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}, {}}}",
        opaque(&issuer, "")
    );
    let armiger =
        Armiger::with(Config::to(&backend).top(&top).policies("identity: {providers: [opaque, staff]}")).await;
    let signer = Signer::secret("HS256");
    call(&armiger, &signer.token(&claims(json!({})))).await.assert_status(200);
    let forged = Signer::shared("HS256", &[7; 32]).token(&claims(json!({})));
    call(&armiger, &forged).await.assert_problem(401, "token-invalid");
    let ended = signer.token(&claims(json!({"exp": now() - 60})));
    call(&armiger, &ended).await.assert_problem(401, "token-invalid");
    assert_eq!(issuer.count(), 0, "a forged token is nobody else's to judge");
    call(&armiger, &signer.token(&claims(json!({"iss": "https://other.test"})))).await.assert_status(200);
    call(&armiger, "opaque").await.assert_status(200);
    call(&armiger, "two.dots.only").await.assert_status(200);
    assert_eq!(issuer.count(), 3);
    for (attack, token) in
        [("too long", "a".repeat(9000)), ("no token at all", "a\"b".into()), ("nothing", String::new())]
    {
        call(&armiger, &token).await.assert_problem(401, "token-invalid");
        assert_eq!(issuer.count(), 3, "{attack}");
    }
}
