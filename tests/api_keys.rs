//! API keys: who may call by one, where it stands, and that the configuration holds none.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Files, Response, SECRET_YAML, Signer, claims};

const KEY: &str = "a-key-that-nobody-could-guess-1234567890";

/// What `armiger token hash` makes of a key.
fn hash(key: &str) -> String {
    armiger::identity::api_key::hash(key)
}

fn section(more: &str) -> String {
    format!("identity: {{machines: {{api_keys: {{{more}}}}}}}")
}

async fn with(backend: &Backend, section: &str, policies: &str) -> Armiger {
    Armiger::with(Config::to(backend).top(section).policies(policies)).await
}

async fn call(armiger: &Armiger, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    armiger.request(request.body(Empty::<Bytes>::new()).expect("a valid request")).await
}

async fn cause(armiger: &Armiger, response: &Response) -> Value {
    let id = response.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    let rows = line["verdicts"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["policy"] == "identity").map_or(Value::Null, |row| row["cause"].clone())
}

#[tokio::test]
async fn a_key_is_known_by_its_hash_and_tells_who_calls() {
    let backend = Backend::replies("ok").await;
    let keys = format!(
        "keys: [{{hash: \"{}\", subject: billing, roles: [reports], scopes: [read], claims: {{plan: paid}}}}, \
         {{hash: \"{}\", subject: old, expires: 2020-01-31T00:00:00Z}}, {{hash: \"{}\", subject: guest}}]",
        hash(KEY),
        hash("an-old-key-that-nobody-could-guess"),
        hash("a-guest-key-that-nobody-could-guess"),
    );
    let policies = "identity: {providers: [machines], credential: strip}
rules: [{allow: \"'reports' in roles && 'read' in scopes && claims.plan == 'paid'\"}]
headers: {request: {set: {x-caller: \"${identity.subject}\"}}}";
    let armiger = with(&backend, &section(&keys), policies).await;
    call(&armiger, &[("X-API-Key", KEY), ("authorization", "Bearer of-the-back-end")]).await.assert_status(200);
    let seen = backend.requests().pop().expect("a request");
    assert_eq!((seen.header("x-caller"), seen.header("authorization")), ("billing", "Bearer of-the-back-end"));
    assert!(!seen.headers.contains_key("x-api-key"));

    call(&armiger, &[("x-api-key", "a-guest-key-that-nobody-could-guess")]).await.assert_problem(403, "forbidden");
    call(&armiger, &[("authorization", &format!("Bearer {KEY}"))]).await.assert_problem(401, "token-missing");
    for (key, expected) in [
        ("an-old-key-that-nobody-could-guess", "api_key_expired"),
        ("a-key-that-nobody-could-guess-123456789", "api_key_unknown"),
        ("", "api_key_unknown"),
        (&hash(KEY), "api_key_unknown"),
        (&"a".repeat(4096), "api_key_unknown"),
    ] {
        let response = call(&armiger, &[("x-api-key", key)]).await;
        response.assert_problem(401, "token-invalid");
        assert_eq!(cause(&armiger, &response).await, expected, "{key}");
    }
    call(&armiger, &[("x-api-key", KEY), ("x-api-key", KEY)]).await.assert_problem(400, "credential-ambiguous");
    let response = armiger.admin().get("/config").await;
    let shown = response.text();
    assert!(!shown.contains(KEY), "{shown}");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn keys_and_tokens_stand_side_by_side() {
    let backend = Backend::replies("ok").await;
    let section = format!(
        "identity:
  machines: {{api_keys: {{header: x-machine, bearer: true, keys: [{{hash: \"{}\", subject: billing}}]}}}}
  staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}",
        hash(KEY)
    );
    let armiger = with(&backend, &section, "identity: {providers: [staff, machines]}").await;
    let token = format!("Bearer {}", Signer::secret("HS256").token(&claims(json!({}))));
    let key = format!("Bearer {KEY}");
    for headers in [&[("authorization", token.as_str())][..], &[("authorization", &key)], &[("x-machine", KEY)]] {
        call(&armiger, headers).await.assert_status(200);
    }
    call(&armiger, &[("authorization", "Bearer a.b.c")]).await.assert_problem(401, "token-invalid");
    let both = [("authorization", token.as_str()), ("x-machine", KEY)];
    call(&armiger, &both).await.assert_problem(400, "credential-ambiguous");
}

#[tokio::test]
async fn keys_come_from_a_file_and_mistakes_are_told() {
    let backend = Backend::replies("ok").await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("keys.yaml");
    let list = |keys: &[&str]| {
        keys.iter().map(|key| format!("- {{hash: \"{}\", subject: s}}\n", hash(key))).collect::<String>()
    };
    std::fs::write(&file, list(&[KEY])).expect("a temporary file");
    let section = section(&format!("file: \"${{file:{}}}\"", file.display()));
    let config = Config::to(&backend).top(&section).policies("identity: {providers: [machines]}");
    let armiger = Armiger::with(config.clone()).await;
    call(&armiger, &[("x-api-key", KEY)]).await.assert_status(200);
    std::fs::write(&file, list(&["another-key-that-nobody-could-guess"])).expect("a temporary file");
    let armiger = Armiger::with(config).await;
    call(&armiger, &[("x-api-key", KEY)]).await.assert_problem(401, "token-invalid");
    call(&armiger, &[("x-api-key", "another-key-that-nobody-could-guess")]).await.assert_status(200);

    let told = async |section: String| {
        let config = Config::to(&backend).top(&section).policies("identity: {providers: [machines]}");
        Armiger::try_with(config).await.err().expect("must be refused")
    };
    std::fs::write(&file, format!("{}- {{hash: {KEY}, subject: s}}\n", list(&[KEY, KEY]))).expect("a temporary file");
    let report = told(section.clone()).await;
    assert!(report.contains("entry 2: the same key stands here twice"), "{report}");
    assert!(report.contains("entry 3: is no hash of a key") && !report.contains(KEY), "{report}");
    std::fs::write(&file, format!("- {{hash: {KEY}\n  x: [\n")).expect("a temporary file");
    let report = told(section.clone()).await;
    assert!(report.contains("is no list of keys: line ") && !report.contains(KEY), "{report}");
    let entry = |more: &str| format!("- {{hash: \"{}\", {more}}}\n", hash(KEY));
    let wrong = [
        entry("subjct: a"),
        entry("subject: b"),
        entry("subject: c, roles: hunter2"),
        format!("- {KEY}\n"),
        "- {subject: d}\n".into(),
    ];
    std::fs::write(&file, wrong.concat()).expect("a temporary file");
    let report = told(section.clone()).await;
    for part in [
        "line 1: unknown key `***`",
        "line 3: expected a list, found `***`",
        "line 4: expected a mapping",
        "line 5: the key \"hash\" is missing",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    assert!(!report.contains("hunter2") && !report.contains(KEY), "{report}");
    for (more, part) in [
        ("keys: []", "lists no key"),
        ("header: authorization, keys: []", "is no header that a key could stand in"),
        ("header: \"off\", keys: []", "leaves no place for a key"),
        ("keys: [{hash: \"sha256:0\", subject: s}]", "is no hash of a key"),
        ("file: \"- {hash: x}\"", "a secret stands in the file"),
    ] {
        let report = told(self::section(more)).await;
        assert!(report.contains(part), "{part}\n{report}");
    }
    let entry = format!("keys: [{{hash: \"{}\", subject: \"\", expires: soon}}]", hash(KEY));
    let report = told(self::section(&entry)).await;
    assert!(report.contains("the key is nobody's") && report.contains("is no time"), "{report}");
}

/// A key where its hash should stand is a mistake that is told without it, however it is written.
#[tokio::test]
async fn a_key_in_the_place_of_its_hash_is_never_shown() {
    let backend = Backend::replies("ok").await;
    for entry in [
        format!("{{hash: {KEY}, subject: s}}"),
        format!("{{hash: \"{KEY}\", subject: s}}"),
        format!("{{hash: \"sha256:{KEY}\", subject: s}}"),
        format!("{{hash: [{KEY}], subject: s}}"),
        format!("{{hash: {{key: {KEY}}}, subject: s}}"),
        format!("{{hash: \"${{env:ARMIGER_TEST_NOT_SET:-{KEY}}}\", subject: s}}"),
        format!("{{key: {KEY}, subject: s}}"),
        format!("{{hsah: {KEY}, subject: s}}"),
        format!("{{subject: s, value: {KEY}}}"),
    ] {
        let config = Config::to(&backend)
            .top(&section(&format!("keys: [{entry}]")))
            .policies("identity: {providers: [machines]}");
        let files = Files::of(config);
        for format in ["text", "json", "github"] {
            let told = Armiger::binary(&["check", "--config", &files.config(), "--format", format]);
            assert!(!told.assert_code(1).stdout.contains(KEY), "{entry}\n{}", told.stdout);
            assert!(!told.stderr.contains(KEY), "{entry}\n{}", told.stderr);
        }
    }
    let number = "123456789012345678901234567890";
    let config = Config::to(&backend)
        .top(&section(&format!("keys: [{{hash: {number}, subject: s}}]")))
        .policies("identity: {providers: [machines]}");
    let report = Armiger::try_with(config).await.err().expect("must be refused");
    assert!(report.contains("is no hash of a key") && !report.contains(number), "{report}");
}

#[tokio::test]
async fn who_may_call_by_keys_or_certificates_alone_is_not_asked_for_a_bearer_token() {
    let backend = Backend::replies("ok").await;
    let keys = format!("keys: [{{hash: \"{}\", subject: billing}}]", hash(KEY));
    let armiger = with(&backend, &section(&keys), "identity: {providers: [machines]}").await;
    let challenge = "ApiKey realm=\"armiger\", header=\"x-api-key\"";
    call(&armiger, &[]).await.assert_problem(401, "token-missing").assert_header("www-authenticate", challenge);
    let refused = call(&armiger, &[("x-api-key", "a-key-that-nobody-could-guess-123456789")]).await;
    refused.assert_problem(401, "token-invalid").assert_header("www-authenticate", challenge);
    let optional = "identity: {providers: [machines], caller: optional}\nroles: {any: [x]}";
    let armiger = with(&backend, &section(&keys), optional).await;
    call(&armiger, &[]).await.assert_problem(401, "token-missing").assert_header("www-authenticate", challenge);

    let jwt = format!("{{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}");
    let both = format!("identity: {{machines: {{api_keys: {{{keys}}}}}, staff: {{jwt: {jwt}}}}}");
    let armiger = with(&backend, &both, "identity: {providers: [staff, machines]}").await;
    for (headers, error) in [
        (&[][..], ""),
        (&[("authorization", "Bearer a.b.c")], ", error=\"invalid_token\""),
        (&[("x-api-key", "a-key-that-nobody-could-guess-123456789")], ""),
    ] {
        let refused = call(&armiger, headers).await;
        let told: Vec<_> = refused.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(told, [&*format!("Bearer realm=\"armiger\"{error}"), challenge]);
    }

    let mesh = "identity: {mesh: {mtls: {}}}";
    let armiger = with(&backend, mesh, "identity: {providers: [mesh]}").await;
    let refused = call(&armiger, &[]).await;
    refused.assert_problem(401, "token-missing").assert_header("www-authenticate", "Certificate realm=\"armiger\"");
}
