//! gRPC-Web: calls as web pages make them, to a gRPC server that others wrote (tonic).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::grpc::Server;
use super::harness::{Armiger, Backend, Config, Response, within};

/// A message in gRPC's envelope.
fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn call(path: &str, kind: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "a")
        .header("content-type", kind)
        .header("x-grpc-web", "1")
        .header("origin", "https://shop.test")
        .body(Full::new(body.into()))
        .unwrap()
}

/// Text in pieces that each have their own padding.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|group| STANDARD.decode(group).expect("groups of base64")).collect()
}

/// The messages of an answer, and the trailers behind them.
#[track_caller]
fn read(answer: &Response) -> (Vec<Vec<u8>>, Vec<String>) {
    answer.assert_status(200);
    let is_text = answer.header("content-type").starts_with("application/grpc-web-text");
    assert!(answer.header("content-type").starts_with("application/grpc-web"), "{answer:?}");
    answer.assert_no_header("grpc-status");
    let body = if is_text { decoded(&answer.body) } else { answer.body.to_vec() };
    let (mut messages, mut rest) = (Vec::new(), &body[..]);
    loop {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let (flag, content) = (rest[0], &rest[5..5 + length]);
        rest = &rest[5 + length..];
        if flag == 0x80 {
            assert!(rest.is_empty(), "nothing follows the trailers");
            let block = String::from_utf8(content.to_vec()).unwrap();
            return (messages, block.lines().map(str::to_owned).collect());
        }
        assert_eq!(flag, 0);
        messages.push(content.to_vec());
    }
}

#[track_caller]
fn assert_ended(answer: &Response, status: u8) {
    let (_, trailers) = read(answer);
    assert!(trailers.contains(&format!("grpc-status:{status}")), "{trailers:?}");
}

async fn start(change: impl FnOnce(Config) -> Config) -> (Server, Armiger) {
    let (server, url) = Server::start().await;
    let config = Config::to_url(&url).upstream("protocol: h2c").policies("grpc_web: {}");
    (server, Armiger::with(change(config)).await)
}

#[tokio::test]
async fn a_page_calls_a_service_in_both_forms_and_over_either_version() {
    let (_, armiger) = start(|config| config).await;
    let hello = message(b"hello");
    for (kind, body) in [
        ("application/grpc-web+proto", hello.clone()),
        ("application/grpc-web", hello.clone()),
        ("application/grpc-web-text", STANDARD.encode(&hello).into_bytes()),
        (
            "application/grpc-web-text+proto",
            [STANDARD.encode(&hello[..4]), STANDARD.encode(&hello[4..])].concat().into(),
        ),
    ] {
        for is_http2 in [false, true] {
            let mut connection = if is_http2 { armiger.connect_h2c().await } else { armiger.connect().await };
            let mut request = call("/test.Echo/Unary", kind, body.clone());
            request.headers_mut().insert("x-told", "said".parse().unwrap());
            let answer = connection.request(request).await;
            // The kind of its messages is the service's to say.
            answer.assert_header("content-type", kind.trim_end_matches("+proto")).assert_header("x-told", "said");
            let (messages, trailers) = read(&answer);
            assert_eq!((messages, trailers.contains(&"grpc-status:0".to_owned())), (vec![b"hello".to_vec()], true));
        }
    }
    // In the form that it asks for.
    let mut request = call("/test.Echo/Unary", "application/grpc-web", hello);
    request.headers_mut().insert("accept", "application/grpc-web-text".parse().unwrap());
    armiger.request(request).await.assert_header("content-type", "application/grpc-web-text");
}

#[tokio::test]
async fn answers_stream_and_every_status_comes_behind_them() {
    let (_, armiger) = start(|config| config).await;
    for kind in ["application/grpc-web", "application/grpc-web-text"] {
        let of = |bytes: &[u8]| match kind {
            "application/grpc-web" => message(bytes),
            _ => STANDARD.encode(message(bytes)).into_bytes(),
        };
        let answer = armiger.request(call("/test.Echo/Count", kind, of(&[40]))).await;
        let (messages, trailers) = read(&answer);
        assert_eq!(messages.len(), 40);
        assert!(messages.iter().enumerate().all(|(place, message)| message == &vec![place as u8; 1000]));
        assert_eq!(trailers[0], "grpc-status:11", "{trailers:?}");
        // Without a message the status stands in the head of what the service answers.
        let answer = armiger.request(call("/test.Echo/Fail", kind, of(&[5]))).await;
        let (messages, trailers) = read(&answer);
        assert_eq!((messages.len(), trailers.contains(&"grpc-status:5".to_owned())), (0, true), "{trailers:?}");
        assert!(trailers.iter().any(|line| line == "grpc-message:weil%20%C3%BC%20und%20%25"), "{trailers:?}");
        assert_ended(&armiger.request(call("/test.Echo/Nothing", kind, of(b""))).await, 12);
    }
    for (status, count) in [("OUT_OF_RANGE", 2.0), ("NOT_FOUND", 2.0), ("UNIMPLEMENTED", 2.0)] {
        let series = format!(r#"armiger_grpc_calls_total{{route="everything",status="{status}"}}"#);
        within(&series, async { while armiger.metric(&series).await != count {} }).await;
    }
}

#[tokio::test]
async fn what_armiger_refuses_is_an_answer_of_grpc_web() {
    let (_, url) = Server::start().await;
    let armiger = Armiger::with(Config::to_url(&url).upstream("protocol: h2c").and_url("nobody", "http://127.0.0.1:1").top(
        "defaults: {policies: {grpc_web: {}, cors: {origins: [\"https://shop.test\"], headers: [content-type, x-grpc-web]}}}",
    ).routes(
        r#"
        - {name: down, match: {path: /test.Down/Call}, proxy: {upstream: nobody}}
        - name: small
          match: {path: /test.Echo/Unary}
          policies: {body_limit: {max: 1KiB}}
          proxy: {upstream: app}
        - name: blocked
          match: {path: /test.Blocked/Call}
          policies: {ip_filter: {deny: ["127.0.0.0/8"]}}
          proxy: {upstream: app}
        - name: often
          match: {path: /test.Often/Call}
          policies: {rate_limit: [{name: often, rate: 1/h, by: [client_ip]}]}
          respond: {status: 204}
        - {name: hang, match: {path: /test.Echo/Hang}, proxy: {upstream: app}}
        "#,
    ))
    .await;
    armiger.request(call("/test.Often/Call", "application/grpc-web", "")).await.assert_status(204);
    for (path, size, status) in [
        ("/test.Down/Call", 1, 14),
        ("/test.Blocked/Call", 1, 7),
        ("/test.Echo/Unary", 5000, 8),
        ("/test.Often/Call", 1, 8),
    ] {
        let answer = armiger.request(call(path, "application/grpc-web+proto", message(&vec![0; size]))).await;
        assert_ended(&answer, status);
        answer.assert_header("access-control-allow-origin", "https://shop.test");
    }
    let mut late = call("/test.Echo/Hang", "application/grpc-web", message(b""));
    late.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
    assert_ended(&armiger.request(late).await, 4);
    // No call: the HTTP status tells.
    armiger.request(call("/nowhere", "application/grpc-web", "")).await.assert_problem(404, "no-route");
    // A page asks first.
    let preflight = Request::options("/test.Echo/Unary")
        .header("host", "a")
        .header("origin", "https://shop.test")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-grpc-web")
        .body(Full::<Bytes>::default())
        .unwrap();
    armiger
        .request(preflight)
        .await
        .assert_status(204)
        .assert_header("access-control-allow-origin", "https://shop.test");
}

#[tokio::test]
async fn text_that_is_no_base64_is_no_call() {
    let (_, armiger) = start(|config| config).await;
    for body in ["AAAA=", "AAAAAAVoZWxsb", "not base64 at all"] {
        let answer = armiger.request(call("/test.Echo/Unary", "application/grpc-web-text", body)).await;
        assert_ended(&answer, 13);
        armiger.logged(|line| line["reason"] == "bad-framing").await;
    }
}

#[tokio::test]
async fn the_call_behind_ends_with_its_page() {
    let (server, armiger) = start(|config| config).await;
    let mut raw = armiger
        .raw("POST /test.Echo/Hang HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web\r\ncontent-length: 5\r\n\r\n")
        .await;
    raw.write(message(b"")).await;
    server.until_hanging(1).await;
    raw.reset();
    server.until_hanging(0).await;
}

#[tokio::test]
async fn what_is_no_call_and_what_no_policy_translates_passes_as_it_is() {
    let backend = Backend::echo().await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c").policies("grpc_web: {}")).await;
    armiger.post("/", "{}").await.assert_status(200);
    assert!(!backend.only().await.has("te"));
    for policies in ["grpc_web: {mode: shadow}", "body_limit: {max: 1MiB}"] {
        let backend = Backend::echo().await;
        let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c").policies(policies)).await;
        armiger.request(call("/", "application/grpc-web-text", "AAAA")).await.assert_status(200);
        let seen = backend.only().await;
        assert_eq!((seen.header("content-type"), &seen.body[..]), ("application/grpc-web-text", &b"AAAA"[..]));
    }
    // Nor an answer that is none of gRPC.
    let backend = Backend::replies("<html>").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c").policies("grpc_web: {}")).await;
    let answer = armiger.request(call("/", "application/grpc-web", message(b""))).await;
    assert_eq!(answer.assert_status(200).text(), "<html>");
}

#[tokio::test]
async fn an_upstream_that_speaks_no_http2_is_refused_where_a_route_asks_for_calls() {
    let config = Config::to_url("http://127.0.0.1:1").policies("grpc_web: {}");
    let report = Armiger::try_with(config).await.err().expect("a report");
    assert!(report.contains("the upstream speaks HTTP/1.1") && report.contains("h2c"), "{report}");
}

#[tokio::test]
async fn a_page_calls_a_service_whose_calls_are_mirrored_to_another() {
    let ((server, url), (mirror, mirror_url)) = (Server::start().await, Server::start().await);
    let armiger = Armiger::with(
        Config::to_url(&url)
            .upstream("protocol: h2c")
            .top("defaults: {policies: {grpc_web: {}}}")
            .routes("- {name: all, match: {path: \"/{rest...}\"}, proxy: {upstream: app, mirror: {upstream: next}}}")
            .and_h2c("next", &mirror_url),
    )
    .await;
    for (kind, body) in [
        ("application/grpc-web+proto", message(b"hello")),
        ("application/grpc-web-text", STANDARD.encode(message(b"hello")).into_bytes()),
    ] {
        let mut request = call("/test.Echo/Unary", kind, body);
        request.headers_mut().insert("grpc-timeout", "5S".parse().unwrap());
        let answer = armiger.request(request).await;
        let (messages, trailers) = read(&answer);
        assert_eq!((messages, trailers.contains(&"grpc-status:0".to_owned())), (vec![b"hello".to_vec()], true));
    }
    let answered = r#"armiger_mirrored_requests_total{outcome="answered",route="all"}"#;
    within("both copies", async { while armiger.metric(answered).await != 2.0 {} }).await;
    // A copy is a call as well, with its deadline.
    assert_eq!((server.deadlines(), mirror.deadlines()), (2, 2));
    let calls = r#"armiger_grpc_calls_total{route="all",status="OK"}"#;
    // A copy is nobody's call.
    armiger.until_metric(calls, 2.0).await;
}
