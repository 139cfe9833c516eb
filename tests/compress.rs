//! The policy `compress`: what is compressed, for whom, and that nothing is held back or changed on the way.

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncReadExt;

use super::harness::{Answer, Armiger, Backend, Config, Response, Script, answer, streamed, within};

/// Text that compresses well, and is long enough.
fn text() -> String {
    "all work and no play makes jack a dull boy\n".repeat(1000)
}

type Headers = Vec<(&'static str, &'static str)>;

fn with(mut answer: Answer, headers: &[(&'static str, &str)]) -> Answer {
    for (name, value) in headers {
        answer.headers_mut().append(*name, value.parse().unwrap());
    }
    answer
}

async fn ask(armiger: &Armiger, accept: &str) -> Response {
    ask_with(armiger, "GET", accept).await
}

async fn ask_with(armiger: &Armiger, method: &str, accept: &str) -> Response {
    let request = Request::builder().method(method).uri("/").header("accept-encoding", accept);
    armiger.request(request.body(Full::default()).unwrap()).await
}

async fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => GzipDecoder::new(bytes).read_to_end(&mut out).await,
        "br" => BrotliDecoder::new(bytes).read_to_end(&mut out).await,
        "zstd" => ZstdDecoder::new(bytes).read_to_end(&mut out).await,
        other => panic!("no such coding: {other}"),
    }
    .expect("the answer is whole");
    out
}

#[tokio::test]
async fn an_answer_goes_out_in_the_coding_that_the_client_likes_best() {
    let backend = Backend::with(|_| {
        with(
            answer(200, text()),
            &[
                ("content-type", "text/plain; charset=utf-8"),
                ("etag", "\"x\""),
                ("accept-ranges", "bytes"),
                ("vary", "origin"),
                ("content-digest", "sha-256=:AAAA:"),
            ],
        )
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).policies("compress: {}")).await;
    for (accept, coding) in [("gzip", "gzip"), ("br, gzip", "br"), ("zstd;q=1, br;q=0.1", "zstd")] {
        let answer = ask(&armiger, accept).await;
        answer.assert_status(200).assert_header("content-encoding", coding).assert_header("etag", "W/\"x\"");
        answer.assert_no_header("content-length").assert_no_header("accept-ranges").assert_no_header("content-digest");
        let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["origin", "accept-encoding"]);
        assert!(answer.body.len() < text().len() / 10);
        assert_eq!(decoded(coding, &answer.body).await, text().as_bytes());
    }
    for accept in ["identity", "deflate", "gzip;q=0", ""] {
        let answer = ask(&armiger, accept).await;
        answer.assert_no_header("content-encoding").assert_header("etag", "\"x\"");
        assert_eq!((answer.text(), answer.headers.get_all("vary").iter().count()), (&*text(), 2));
    }
    let head = ask_with(&armiger, "HEAD", "gzip").await;
    head.assert_no_header("content-encoding").assert_header("content-length", &text().len().to_string());
}

#[tokio::test]
async fn what_must_not_be_compressed_is_not() {
    let cases: Vec<(u16, usize, Headers)> = vec![
        (200, 43_000, vec![("content-type", "image/png")]),
        (200, 43_000, vec![]),
        (200, 43_000, vec![("content-type", "text/event-stream")]),
        (200, 43_000, vec![("content-type", "application/grpc+proto")]),
        (200, 43_000, vec![("content-type", "text/plain"), ("content-encoding", "br")]),
        (200, 43_000, vec![("content-type", "text/plain"), ("cache-control", "public, No-Transform")]),
        (206, 43_000, vec![("content-type", "text/plain"), ("content-range", "bytes 0-42999/100000")]),
        (200, 100, vec![("content-type", "text/plain")]),
        (204, 0, vec![("content-type", "text/plain")]),
        (304, 0, vec![("content-type", "text/plain")]),
    ];
    for (status, length, headers) in cases {
        let told = headers.clone();
        let backend = Backend::with(move |_| with(answer(status, vec![b'x'; length]), &told)).await;
        let armiger = Armiger::with(Config::to(&backend).policies("compress: {}")).await;
        let answer = ask(&armiger, "gzip, br, zstd").await;
        answer.assert_status(status);
        let coding = answer.headers.get("content-encoding").map(|value| value.to_str().unwrap());
        assert_eq!(coding, headers.iter().find(|(name, _)| *name == "content-encoding").map(|_| "br"), "{headers:?}");
        assert_eq!(answer.body.len(), length, "{headers:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_at_once_still_shows_that_it_began() {
    // A client that got nothing on a connection that it used before takes its request for unseen, and sends it again.
    for (framing, body) in [("transfer-encoding: chunked", "5\r\nhello\r\nzz"), ("content-length: 100", "hello")] {
        let script = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{framing}\r\n\r\n{body}");
        let backend = Backend::raw(Script::new().request().write(script)).await;
        let armiger = Armiger::with(Config::to(&backend).policies("compress: {min: 1B}")).await;

        let mut conversation =
            armiger.raw("POST / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nContent-Length: 0\r\n\r\n").await;
        let answer = conversation.rest().await;

        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("content-encoding: gzip"),
            "{framing}: {text:?}"
        );
        assert!(!text.ends_with("0\r\n\r\n"), "{framing}: a cut answer never looks complete");
    }
}

#[tokio::test]
async fn what_the_back_end_has_sent_goes_out_and_trailers_and_cuts_pass() {
    for coding in ["gzip", "br", "zstd"] {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let backend = Backend::with(move |_| {
            let (chunks, answer) = streamed(200);
            sender.send(chunks).unwrap();
            with(answer, &[("content-type", "application/x-ndjson"), ("trailer", "x-sum")])
        })
        .await;
        let armiger = Armiger::with(Config::to(&backend).policies("compress: {}")).await;
        let mut connection = armiger.connect().await;
        let request = Request::get("/").header("accept-encoding", coding).header("te", "trailers");
        let answer = connection.open(request.body(Full::<bytes::Bytes>::default()).unwrap()).await.unwrap();
        let chunks = receiver.recv().unwrap();
        let mut body = answer.into_body();
        let mut got = Vec::new();
        for line in ["{\"a\": 1}\n", "{\"b\": 2}\n"] {
            chunks.data(line).await;
            // Each line is there before the next one is sent.
            let frame = within("a line", body.frame()).await.unwrap().unwrap();
            got.extend_from_slice(frame.data_ref().expect("data"));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "2".parse().unwrap());
        chunks.trailers(trailers).await;
        drop(chunks);
        let rest = within("the rest", body.collect()).await.unwrap();
        assert_eq!(rest.trailers().unwrap()["x-sum"], "2", "{coding}");
        got.extend_from_slice(&rest.to_bytes());
        assert_eq!(decoded(coding, &got).await, b"{\"a\": 1}\n{\"b\": 2}\n", "{coding}");

        let answer = connection
            .open(Request::get("/").header("accept-encoding", coding).body(Full::<bytes::Bytes>::default()).unwrap())
            .await
            .unwrap();
        let chunks = receiver.recv().unwrap();
        chunks.data("{\"a\": 1}\n").await;
        let mut body = answer.into_body();
        within("a line", body.frame()).await.unwrap().unwrap();
        chunks.cut().await;
        assert!(within("the cut", body.collect()).await.is_err(), "a cut answer never looks complete");
    }
}

#[tokio::test]
async fn no_more_than_allowed_are_compressed_at_once_and_shadow_compresses_none() {
    let (sender, receiver) = std::sync::mpsc::sync_channel(9);
    let backend = Backend::with(move |_| {
        let (chunks, answer) = streamed(200);
        sender.send(chunks).unwrap();
        with(answer, &[("content-type", "text/plain")])
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).policies("compress: {at_once_max: 1}")).await;
    let open = async |armiger: &Armiger| {
        let mut connection = armiger.connect().await;
        let request =
            Request::get("/").header("accept-encoding", "gzip").body(Full::<bytes::Bytes>::default()).unwrap();
        let answer = connection.open(request).await.unwrap();
        (answer.headers().contains_key("content-encoding"), answer, connection)
    };
    let first = open(&armiger).await;
    let second = open(&armiger).await;
    assert!(first.0 && !second.0);
    drop(receiver);
    let shadow = Armiger::with(
        Config::to(&Backend::with(|_| with(answer(200, text()), &[("content-type", "text/plain")])).await)
            .policies("compress: {mode: shadow}"),
    )
    .await;
    ask(&shadow, "gzip").await.assert_no_header("content-encoding").assert_no_header("vary");
}

#[tokio::test]
async fn what_armiger_makes_itself_is_compressed_too() {
    let backend =
        Backend::with(|seen| answer(200, serde_json::json!({"of": seen.target, "text": text()}).to_string())).await;
    let routes = r#"
        - name: page
          match: {path: /page}
          policies: {compress: {}}
          aggregate: {parts: {a: {upstream: app, path: /a}, b: {upstream: app, path: /b}}}
        - name: order
          match: {path: /order, methods: [POST]}
          policies: {compress: {min: 16B}}
          saga_in_memory: {steps: {one: {upstream: app, path: /one, compensate: {method: DELETE, path: /one}}}}
        "#;
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;
    for (method, path) in [("GET", "/page"), ("POST", "/order")] {
        let request = |coding: &str| {
            let request = Request::builder().method(method).uri(path).header("accept-encoding", coding);
            request.body(Full::<bytes::Bytes>::default()).unwrap()
        };
        let plain = armiger.request(request("identity")).await;
        plain.assert_status(200).assert_no_header("content-encoding").assert_header("vary", "accept-encoding");
        for coding in ["gzip", "br", "zstd"] {
            let answer = armiger.request(request(coding)).await;
            answer.assert_status(200).assert_header("content-encoding", coding).assert_no_header("content-length");
            answer.assert_header("content-type", plain.header("content-type")).assert_header("vary", "accept-encoding");
            let read: serde_json::Value = serde_json::from_slice(&decoded(coding, &answer.body).await).unwrap();
            match path {
                "/page" => assert_eq!(read, plain.json()),
                // Each saga has a name of its own.
                _ => assert_eq!(read["steps"][0]["status"], plain.json()["steps"][0]["status"], "{read}"),
            }
        }
    }
}
