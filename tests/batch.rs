//! Batches: many requests in one, each through its own route and policies, as the caller of the batch.

use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Response, SECRET_YAML, Signal, Signer, answer, claims, streamed};

const ROUTES: &str = "
    - name: batch
      match: {path: /batch, methods: [POST]}
      batch: {items_max: 5, concurrency: 2, item_body_max: 1KiB, item_answer_max: 2KiB, answer_max: 6KiB, ndjson: true}
    - name: limited
      match: {path: /limited}
      policies: {body_limit: {max: 10B}}
      proxy: {upstream: app}
    - name: local
      match: {path: /local}
      policies: {cors: {origins: ['https://shop.example.com']}}
      respond: {body: here}
    - name: rest
      match: {path: '/{rest...}'}
      proxy: {upstream: app}
";

fn config(backend: &Backend) -> Config {
    Config::to(backend).routes(ROUTES)
}

async fn post(armiger: &Armiger, headers: &[(&str, &str)], body: &str) -> Response {
    let mut request = Request::post("/batch");
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    armiger.request(request.body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()))).unwrap()).await
}

#[track_caller]
fn entries(response: &Response) -> Vec<Value> {
    response
        .assert_status(200)
        .assert_header("content-type", "application/json")
        .assert_header("cache-control", "no-store");
    response.json().as_array().expect("an array").clone()
}

#[tokio::test]
async fn answers_stand_in_the_order_of_their_requests_each_with_its_own_status_headers_and_body() {
    let gate = Signal::new();
    let wait = gate.clone();
    let backend = Backend::serving(move |request: Request<_>| {
        let wait = wait.clone();
        async move {
            let path = request.uri().path().to_owned();
            if path == "/slow" {
                wait.wait().await;
            }
            let mut answer = match path.as_str() {
                "/text" => answer(200, "caf\u{e9}"),
                "/bytes" => answer(200, &b"\xff\x00"[..]),
                _ => answer(201, format!("{{\"path\":\"{path}\",\"n\":1.0}}")),
            };
            let kind = if path.len() == 5 && path != "/text" { "application/hal+json; a=b" } else { "text/plain" };
            answer.headers_mut().insert("content-type", HeaderValue::from_static(kind));
            answer.headers_mut().append("set-cookie", HeaderValue::from_static("a=1"));
            answer.headers_mut().append("set-cookie", HeaderValue::from_static("b=2"));
            answer
        }
    })
    .await;
    let armiger = Armiger::with(config(&backend)).await;

    let asked = async {
        backend.arrived(3).await;
        gate.send();
    };
    let body = r#"[{"id":"s","path":"/slow"},{"id":7,"path":"/text"},{"path":"/bytes"},{"path":"/local?x=1"}]"#;
    let (response, ()) = tokio::join!(post(&armiger, &[], body), asked);

    let entries = entries(&response);
    assert_eq!(entries.len(), 4);
    assert_eq!((&entries[0]["id"], &entries[0]["status"]), (&json!("s"), &json!(201)));
    assert!(response.text().contains(r#""body":{"path":"/slow","n":1.0}"#), "bytes pass: {}", response.text());
    assert_eq!(entries[0]["headers"]["set-cookie"], json!(["a=1", "b=2"]));
    assert_eq!((&entries[1]["id"], &entries[1]["body"]), (&json!(7), &json!("café")));
    assert_eq!((&entries[2]["body"], &entries[2]["encoding"]), (&json!("/wA="), &json!("base64")));
    assert_eq!((&entries[3]["status"], &entries[3]["body"], entries[3].get("id")), (&json!(200), &json!("here"), None));
}

#[tokio::test]
async fn each_request_takes_its_own_route_and_policies_and_is_logged() {
    let backend = Backend::with(|seen| answer(200, seen.body.clone())).await;
    let armiger = Armiger::with(config(&backend)).await;

    let body = r#"[{"method":"POST","path":"/limited","body":"12345678"},
                   {"method":"POST","path":"/limited","body":"123456789"},
                   {"method":"HEAD","path":"/local"},
                   {"path":"/a/../../b"},
                   {"path":"/local","headers":{"origin":"https://shop.example.com"}}]"#;
    let response = post(&armiger, &[], body).await;

    let entries = entries(&response);
    let statuses: Vec<_> = entries.iter().map(|entry| entry["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 413, 200, 400, 200], "{entries:#?}");
    assert_eq!(entries[1]["body"]["type"], "urn:armiger:body-too-large");
    assert_eq!(entries[2].get("body"), None, "HEAD");
    assert_eq!(entries[4]["headers"]["access-control-allow-origin"], "https://shop.example.com");
    let outer = response.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == format!("{outer}.1")).await;
    assert_eq!(
        (&line["route"], &line["status"], &line["reason"]),
        (&json!("limited"), &json!(413), &json!("body-too-large"))
    );
    assert_eq!(entries[1]["headers"]["x-request-id"], format!("{outer}.1"));
    armiger
        .until_metric("armiger_http_requests_total{method=\"POST\",route=\"limited\",status_class=\"2xx\"}", 1.0)
        .await;
    let seen = backend.only().await;
    assert_eq!((seen.header("content-type"), seen.header("content-length")), ("application/json", "10"));
}

#[tokio::test]
async fn a_request_is_asked_as_the_caller_of_the_batch_and_cannot_say_otherwise() {
    let backend = Backend::replies("{}").await;
    let routes = ROUTES.replace("policies: {body_limit: {max: 10B}}", "policies: {identity: {providers: [staff]}}");
    let top = format!(
        "identity:\n  staff:\n    jwt: {{issuer: \"https://id.test\", audiences: [api], algorithms: [HS256], keys: {{secret: {SECRET_YAML}}}}}"
    );
    let armiger = Armiger::with(Config::to(&backend).routes(&routes).top(&top)).await;
    let body = r#"[{"path":"/limited"},
                   {"path":"/limited","headers":{"Authorization":"Bearer x"}},
                   {"path":"/rest","headers":{"x-forwarded-for":"10.1.1.1"}},
                   {"path":"/rest","headers":{"host":"other"}},
                   {"path":"/rest","headers":{"x-tenant":"b"}}]"#;
    let statuses = |response: &Response| -> Vec<u64> {
        entries(response).iter().map(|entry| entry["status"].as_u64().unwrap()).collect()
    };

    let nobody = post(&armiger, &[], body).await;
    assert_eq!(statuses(&nobody), [401, 400, 400, 400, 200]);
    let token = Signer::secret("HS256").token(&claims(json!({})));
    let somebody = post(&armiger, &[("authorization", &format!("Bearer {token}"))], body).await;
    assert_eq!(statuses(&somebody)[0], 200, "{}", somebody.text());
    let tenant =
        post(&armiger, &[("x-tenant", "a"), ("accept-language", "de"), ("if-none-match", "\"x\"")], body).await;
    assert_eq!(statuses(&tenant), [401, 400, 400, 400, 400]);

    let seen = backend.requests();
    assert_eq!(seen.iter().filter(|seen| seen.target == "/rest").count(), 2);
    assert!(seen.iter().all(|seen| !seen.has("if-none-match")));
}

/// A batch's peer may be a proxy that is believed; what stands in the batch is never that proxy's word.
#[tokio::test]
async fn a_request_says_nothing_of_where_it_is_from_behind_a_trusted_proxy_either() {
    let backend = Backend::replies("{}").await;
    let armiger = Armiger::with(config(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;
    for name in [
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "x-forwarded-host",
        "x-original-url",
        "x-armiger-explain",
        "x_client_ip",
        "x-auth-request-user",
    ] {
        let body = format!(r#"[{{"path":"/rest","headers":{{"{name}":"10.1.1.1"}}}}]"#);
        assert_eq!(entries(&post(&armiger, &[], &body).await)[0]["status"], 400, "{name}");
    }
    assert_eq!(backend.count(), 0);
}

/// The body of one request is nothing that others get an answer to.
#[tokio::test]
async fn a_get_with_a_body_is_answered_past_the_cache() {
    let backend = Backend::with(|seen| {
        let mut answer = answer(200, seen.body.clone());
        answer.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
        answer
    })
    .await;
    let routes =
        ROUTES.replace("match: {path: '/{rest...}'}", "match: {path: '/{rest...}'}\n      policies: {cache: {}}");
    let armiger = Armiger::with(Config::to(&backend).routes(&routes)).await;

    let first = post(&armiger, &[], r#"[{"path":"/a","body":"evil"}]"#).await;
    assert_eq!(entries(&first)[0]["status"], 200);
    assert_eq!(armiger.get("/a").await.text(), "");
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn what_is_no_batch_is_refused_and_what_is_no_request_is_told_in_its_place() {
    let backend = Backend::replies("{}").await;
    let armiger = Armiger::with(config(&backend)).await;

    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"] {
        post(&armiger, &[("content-type", kind)], "[]").await.assert_problem(415, "unsupported-media-type");
    }
    post(&armiger, &[("content-type", "application/x+json; charset=utf-8")], "[]").await.assert_status(200);
    post(&armiger, &[], "{}").await.assert_problem(400, "bad-body");
    post(&armiger, &[], "[").await.assert_problem(400, "bad-body");
    post(&armiger, &[], &format!("[{}]", [r#"{"path":"/"}"#; 6].join(","))).await.assert_problem(413, "body-too-large");
    assert_eq!(entries(&post(&armiger, &[], "[]").await).len(), 0);
    let wrong =
        r#"[1,{"path":"x"},{"path":"/","method":"get"},{"path":"/","headers":{"a b":"c"}},{"path":"/","unknown":1}]"#;
    let response = post(&armiger, &[], wrong).await;
    assert!(entries(&response).iter().all(|entry| entry["status"] == 400), "{}", response.text());
    let nested = post(&armiger, &[], r#"[{"method":"POST","path":"/batch","body":[]}]"#).await;
    assert_eq!(entries(&nested)[0]["body"]["type"], "urn:armiger:bad-body");
    let long = format!(r#"[{{"method":"POST","path":"/","body":"{}"}}]"#, "x".repeat(1100));
    assert_eq!(entries(&post(&armiger, &[], &long).await)[0]["status"], 413);
    assert_eq!(backend.count(), 0);
    armiger.get("/batch").await.assert_status(200);
}

#[tokio::test]
async fn answers_are_bounded_one_by_one_and_together() {
    let (_open, endless) = streamed(200);
    let endless = std::sync::Mutex::new(Some(endless));
    let backend = Backend::with(move |seen| match seen.target.as_str() {
        "/long" => answer(200, vec![b'x'; 3000]),
        "/fits" => answer(200, vec![b'x'; 1900]),
        _ => endless.lock().unwrap().take().unwrap(),
    })
    .await;
    let routes = ROUTES.replace("items_max: 5", "deadline: 200ms, items_max: 5");
    let armiger = Armiger::with(Config::to(&backend).routes(&routes)).await;

    let fits = post(&armiger, &[], r#"[{"path":"/long"},{"path":"/fits"},{"path":"/fits"},{"path":"/fits"}]"#).await;
    let statuses: Vec<_> = entries(&fits).iter().map(|entry| entry["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [502, 200, 200, 502]);

    let late = post(&armiger, &[], r#"[{"path":"/endless"},{"path":"/fits"}]"#).await;
    assert_eq!(entries(&late)[0]["body"]["type"], "urn:armiger:deadline-exceeded");
    assert_eq!(entries(&late)[1]["status"], 200);
}

#[tokio::test]
async fn answers_go_out_one_by_one_to_those_who_ask_for_that() {
    let gate = Signal::new();
    let wait = gate.clone();
    let backend = Backend::serving(move |request: Request<_>| {
        let wait = wait.clone();
        async move {
            if request.uri().path() == "/slow" {
                wait.wait().await;
            }
            let mut answer = answer(200, "{\n\"a\":1}");
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
            answer
        }
    })
    .await;
    let armiger = Armiger::with(config(&backend)).await;
    let mut connection = armiger.connect().await;
    let request = Request::post("/batch")
        .header("accept", "application/x-ndjson")
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from_static(br#"[{"id":"s","path":"/slow"},{"path":"/fast"}]"#)))
        .unwrap();

    let mut response = connection.open(request).await.unwrap();

    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut line = async || {
        use http_body_util::BodyExt;
        let frame = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.ends_with(b"\n") && frame.iter().filter(|byte| **byte == b'\n').count() == 1, "{frame:?}");
        serde_json::from_slice::<Value>(&frame).unwrap()
    };
    // It is there while the other one still waits.
    let first = line().await;
    assert_eq!((&first["index"], &first["body"]), (&json!(1), &json!({"a": 1})));
    gate.send();
    let second = line().await;
    assert_eq!((&second["index"], &second["id"]), (&json!(0), &json!("s")));
}

/// Nothing of a batch outlives its client.
#[tokio::test]
async fn a_client_that_leaves_takes_every_request_with_it() {
    let never = Signal::new();
    let wait = never.clone();
    let backend = Backend::serving(move |_: Request<_>| {
        let wait = wait.clone();
        async move {
            wait.wait().await;
            answer(200, "{}")
        }
    })
    .await;
    let armiger = Armiger::with(config(&backend)).await;
    let body = r#"[{"path":"/a"},{"path":"/b"},{"path":"/c"}]"#;

    let raw = armiger
        .raw(format!(
            "POST /batch HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    backend.arrived(2).await;
    raw.reset();

    backend.closed(2).await;
    assert_eq!(armiger.log_lines(3).await.iter().filter(|line| line["reason"] == "client-closed").count(), 3);
    assert_eq!(backend.count(), 2);
    armiger.until_metric("armiger_http_requests_in_flight{route=\"rest\"}", 0.0).await;
}

/// What `encoder` makes of a text.
async fn packed(mut encoder: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut out = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut encoder, &mut out).await.unwrap();
    out
}

async fn post_packed(armiger: &Armiger, coding: &str, body: Vec<u8>) -> Response {
    let request = Request::post("/batch").header("content-type", "application/json").header("content-encoding", coding);
    armiger.request(request.body(Full::new(body.into())).unwrap()).await
}

#[tokio::test]
async fn a_batch_may_come_compressed() {
    use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder};

    let backend = Backend::with(|seen| answer(200, format!("{}", seen.has("content-encoding")))).await;
    let armiger = Armiger::with(config(&backend)).await;
    let text: &[u8] = br#"[{"path": "/local"}, {"path": "/a", "method": "POST", "body": {"b": 1}}]"#;
    for (coding, body) in [
        ("gzip", packed(GzipEncoder::new(text)).await),
        ("br", packed(BrotliEncoder::new(text)).await),
        ("zstd", packed(ZstdEncoder::new(text)).await),
        ("identity", text.to_vec()),
    ] {
        let answers = entries(&post_packed(&armiger, coding, body).await);
        assert_eq!(answers[0]["body"], "here", "{coding}");
        // What packed the batch says nothing of the requests in it.
        assert_eq!(answers[1]["body"], "false", "{coding}");
    }
}

#[tokio::test]
async fn a_batch_that_grows_too_much_or_is_packed_in_something_unknown_is_refused() {
    use async_compression::tokio::bufread::GzipEncoder;

    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(config(&backend)).await;
    let bomb = packed(GzipEncoder::new(&*vec![b' '; 64 << 20])).await;
    post_packed(&armiger, "gzip", bomb).await.assert_problem(413, "body-too-large");
    armiger.until_metric("armiger_limit_hits_total{limit=\"routes.batch.body_max\"}", 1.0).await;
    for coding in ["aes128gcm", "gzip, gzip"] {
        let refused = post_packed(&armiger, coding, b"x".to_vec()).await;
        refused.assert_problem(415, "unsupported-media-type");
        refused.assert_header("accept-encoding", "gzip, br, zstd, deflate");
    }
    post_packed(&armiger, "gzip", b"[]".to_vec()).await.assert_problem(400, "bad-body");
    assert_eq!(backend.count(), 0);
}
