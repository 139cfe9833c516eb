//! Streams of HTTP/2 that are reset before their end, with codes that a library takes for an end: whole is what ended, and
//! nothing else, for whoever reads it.

use http::Request;
use http_body_util::{Empty, Full};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Armiger, Backend, Broken, Config, Response, Script, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// How an upstream ends its streams, without END_STREAM.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Reset(u32),
    /// GOAWAY that lets the stream go on, and the end of the connection.
    GoAway,
}

const CUTS: [Cut; 4] = [Cut::Reset(0), Cut::Reset(8), Cut::Reset(2), Cut::GoAway];

/// A field that stands in no table (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.as_bytes());
    bytes
}

/// An upstream that answers each request with the same part of an answer, all in one write.
async fn upstream(fields: Vec<u8>, part: String, cut: Cut) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (fields, part) = (fields.clone(), part.clone());
            tokio::spawn(async move { play(stream, &fields, &part, cut).await });
        }
    });
    url
}

async fn play(mut stream: TcpStream, fields: &[u8], part: &str, cut: Cut) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])].concat()).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] != HEADERS {
            continue;
        }
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        // `:status: 200`
        let mut answer = frame(HEADERS, 0x4, id, &[&[0x88], fields].concat());
        answer.extend(frame(DATA, 0, id, part.as_bytes()));
        match cut {
            Cut::Reset(code) => answer.extend(frame(RST_STREAM, 0, id, &code.to_be_bytes())),
            Cut::GoAway => answer.extend(frame(GOAWAY, 0, 0, &[id.to_be_bytes(), [0; 4]].concat())),
        }
        stream.write_all(&answer).await?;
        if matches!(cut, Cut::GoAway) {
            return Ok(());
        }
    }
}

const CUT: &str = r#"armiger_answers_cut_total{reason="upstream-cut",route="everything"}"#;

/// Fails if this looks whole. Half of an answer may have been seen, or nothing.
#[track_caller]
fn assert_cut(answer: Result<Response, Broken>, of: &str) {
    match answer {
        Err(Broken::CutInBody(_) | Broken::Reset | Broken::CutInHead(_) | Broken::Closed) => {}
        other => panic!("{of}: {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_before_its_end_is_a_cut_answer_for_every_client() {
    let get = |more: &str| format!("GET / HTTP/1.{more}Host: a\r\nAccept-Encoding: gzip\r\n\r\n");
    for cut in CUTS {
        for length in [false, true] {
            for policies in ["", "compress: {min: 1B}", "cache: {}"] {
                let mut fields = [field("content-type", "text/plain"), field("cache-control", "max-age=60")].concat();
                if length {
                    fields.extend(field("content-length", "9"));
                }
                let url = upstream(fields, "half".into(), cut).await;
                let config = Config::to_url(&url).upstream("protocol: h2c");
                let config = if policies.is_empty() { config } else { config.policies(policies) };
                let armiger = Armiger::with(config).await;
                let of = format!("{cut:?}, length: {length}, {policies}");

                for more in ["1\r\n", "0\r\n"] {
                    assert_cut(armiger.raw(get(more)).await.try_answer().await, &of);
                }
                let request = Request::get("/").header("accept-encoding", "gzip").body(Empty::<bytes::Bytes>::new());
                let answer = armiger.connect_h2c().await.try_request(request.unwrap()).await;
                assert!(answer.is_err(), "{of}: {answer:?}");

                for line in armiger.log_lines(3).await {
                    assert_eq!((&line["status"], &line["complete"]), (&json!(200), &json!(false)), "{of}: {line}");
                    let told = (&line["cut_by"], &line["reason"]);
                    assert_eq!(told, (&json!("upstream"), &json!("upstream-cut")), "{of}: {line}");
                }
                armiger.until_metric(CUT, 3.0).await;
            }
        }
    }
}

#[tokio::test]
async fn what_is_cut_is_no_part_of_an_aggregate() {
    for cut in CUTS {
        // What has come is a document of its own.
        let url = upstream(field("content-type", "application/json"), "{}".into(), cut).await;
        let armiger = Armiger::with(Config::to_url(&url).upstream("protocol: h2c").routes(
            "- name: page\n  match: {path: /page}\n  aggregate:\n    parts: {a: {upstream: app, path: /a, required: true}}\n",
        ))
        .await;
        let answer = armiger.get("/page").await;
        assert!(answer.status >= 500, "{cut:?}: {answer:?}");
    }
}

/// What the back end has of a request that its client reset is no request.
#[tokio::test]
async fn a_request_that_is_reset_before_its_end_never_looks_complete() {
    for code in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
        // Of HTTP/1.1: reads the whole request, and would answer.
        let backend = Backend::raw(Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
        let armiger = Armiger::with(Config::to(&backend).upstream("protocol: http1")).await;
        reset(&armiger, &backend, code).await;
        let line = armiger.logged(|_| true).await;
        assert_eq!((&line["reason"], &line["complete"]), (&json!("client-closed"), &json!(false)), "{code:?}: {line}");
        backend.closed(1).await;
        assert!(!backend.requests()[0].whole, "{code:?}: it took half a request for a whole one");

        let backend = Backend::seen(async |_| crate::harness::answer(200, "")).await;
        let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;
        reset(&armiger, &backend, code).await;
        let line = armiger.logged(|_| true).await;
        assert_eq!((&line["reason"], &line["complete"]), (&json!("client-closed"), &json!(false)), "{code:?}: {line}");
        armiger.connect_h2c().await.request(Request::post("/whole").body(Full::from("x")).unwrap()).await;
        let (half, whole) = (&backend.received(1).await[0], &backend.requests()[1]);
        assert!((half.target.as_str(), half.whole) == ("/half", false) && whole.whole, "{code:?}: {half:?}, {whole:?}");
    }
}

async fn reset(armiger: &Armiger, backend: &Backend, code: h2::Reason) {
    let socket = TcpStream::connect(armiger.address()).await.unwrap();
    let (mut http2, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://a/half").body(()).unwrap();
    let (answer, mut stream) = http2.send_request(request, false).unwrap();
    stream.send_data("half".into(), false).unwrap();
    backend.arrived(1).await;
    stream.send_reset(code);
    assert!(within("the end", answer).await.is_err());
}
