//! The hostile back end: garbage, lies and silence end in one clear answer, and a cut answer never looks complete.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{Armiger, Backend, Broken, Chunks, Config, Response, Script, Signal, answer, streamed};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A back end that answers each connection's first request with this, then says nothing more and waits for the end.
async fn answers(bytes: impl AsRef<[u8]>) -> Backend {
    Backend::raw(Script::new().request().write(bytes).hang()).await
}

fn grpc(path: &str) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("content-type", "application/grpc+proto").header("te", "trailers");
    request.body(Full::from("\0\0\0\0\x02hi")).unwrap()
}

/// Fails unless this is a complete answer of armiger's own, for that reason, that gives nothing away.
#[track_caller]
fn assert_local(response: &Response, status: u16, slug: &str, error: &str, upstream: Option<SocketAddr>) {
    response.assert_problem(status, slug).assert_header("cache-control", "no-store");
    response.assert_header("proxy-status", &format!("armiger; error={error}"));
    assert_eq!(response.json()["request_id"], response.header("x-request-id"));
    let said = format!("{:?} {}", response.headers, response.text());
    assert!(!said.contains("127.0.0.1"), "{said}");
    if let Some(upstream) = upstream {
        assert!(!said.contains(&upstream.port().to_string()), "{upstream} stands in {said}");
    }
}

// === the head ===

#[tokio::test]
async fn the_log_tells_what_is_wrong_with_an_answer() {
    for (bytes, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", "Content-Length"),
        // The first frame of HTTP/2.
        ("\0\0\0\x04\0\0\0\0\0\r\n\r\n", "HTTP/2"),
        ("HTTP/1.1 200 OK\r\nx-secret: \x01s3cret\r\n\r\n", "field"),
    ] {
        let backend = answers(bytes).await;
        let armiger = Armiger::proxying(&backend).await;
        let response = armiger.get("/").await;
        assert_local(&response, 502, "upstream-protocol", "http_protocol_error", Some(backend.address()));
        let line = armiger.logged(|line| line["status"] == 502).await;
        let cause = line["attempts"][0]["cause"].as_str().unwrap_or_else(|| panic!("{line:#}"));
        assert!(cause.contains(expected) && !cause.contains("s3cret"), "{cause}");
        assert!(line["attempts"][0].get("status").is_none(), "{line:#}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_a_502() {
    for bytes in [
        // No HTTP at all, or the HTTP of 1991.
        "<html>hello</html>\r\n\r\n",
        "hello\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.0\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        // Statuses (RFC 9110 §15).
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 \r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 2OO OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1 99 Early\r\n\r\n",
        "HTTP/1.1 099 Early\r\n\r\n",
        "HTTP/1.1 000 Nothing\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 600 Late\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 999 Late\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 1000 Late\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        // Upgrades that nobody asked for.
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\ntunnelled",
        // Header lines.
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: no name\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: y\r\n folded\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx(y): z\r\ncontent-length: 0\r\n\r\n",
        // Framing (RFC 9112 §6.3).
        "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2.0\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551617\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: \r\n\r\nok",
    ] {
        let backend = answers(bytes).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw(format!("{GET}GET /healthy HTTP/1.1\r\nHost: a\r\n\r\n")).await;

        let refusal = conversation.try_answer().await.unwrap_or_else(|why| panic!("{bytes:?}: {why:?}"));
        assert_eq!(refusal.status, 502, "{bytes:?}: {refusal:#?}");
        assert_local(&refusal, 502, "upstream-protocol", "http_protocol_error", Some(backend.address()));
        // Its connection is never used again, and the client's goes on.
        assert_eq!(conversation.answer().await.status, 502, "{bytes:?}");
        backend.closed(2).await;
        assert_eq!((backend.connections(), backend.count()), (2, 2), "{bytes:?}");
        armiger.logged(|line| line["reason"] == "upstream-protocol" && line["attempts"].is_array()).await;
    }
}

#[tokio::test]
async fn an_answer_that_ends_before_it_began_is_a_502() {
    for (bytes, is_reset, error) in [
        ("", false, "connection_terminated"),
        ("", true, "connection_terminated"),
        ("HTTP/1.1 200", false, "http_response_incomplete"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", false, "http_response_incomplete"),
        ("HTTP/1.1 100 Continue\r\n\r\n", false, "http_response_incomplete"),
    ] {
        let script = Script::new().request().write(bytes);
        let backend = Backend::raw(if is_reset { script.reset() } else { script }).await;
        let armiger = Armiger::proxying(&backend).await;

        let refusal = armiger.get("/").await;

        assert_local(&refusal, 502, "upstream-reset", error, Some(backend.address()));
        // Nobody knows what the back end did with it: it is not asked again.
        assert_eq!(backend.count(), 1, "{bytes:?}");
    }
}

#[tokio::test]
async fn the_head_of_an_answer_is_bounded() {
    let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok", "x: y\r\n".repeat(count - 1));
    let long = |bytes: usize| format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "y".repeat(bytes));
    let limits = "limits: {headers_max: 20, header_bytes_max: 16KiB}";

    for (limits, bytes, fits) in [
        ("", many(100), true),
        ("", many(101), false),
        ("", long(60 * 1024), true),
        ("", long(70 * 1024), false),
        ("", "HTTP/1.1 200 OK\r\nx: ".to_owned() + &"y".repeat(1 << 20), false),
        ("", "HTTP/1.1 200 ".to_owned() + &"y".repeat(1 << 20), false),
        ("", "HTTP/1.1 200 OK\r\n".to_owned() + &"x: y\r\n".repeat(50_000), false),
        (limits, many(20), true),
        (limits, many(21), false),
        (limits, long(15 * 1024), true),
        (limits, long(17 * 1024), false),
    ] {
        let backend = answers(&bytes).await;
        let armiger = Armiger::with(Config::to(&backend).upstream(limits)).await;

        let response = armiger.raw(GET).await.answer().await;

        let shown = format!("{} bytes under {limits:?}", bytes.len());
        if fits {
            assert_eq!(response.status, 200, "{shown}: {response:#?}");
        } else {
            assert_eq!(response.status, 502, "{shown}: {response:#?}");
            let error = "http_response_header_section_size";
            assert_local(&response, 502, "upstream-protocol", error, Some(backend.address()));
            backend.closed(1).await;
        }
    }
}

#[tokio::test]
async fn interim_answers_are_never_taken_for_the_final_one() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 199 Odd\r\ncontent-length: 5\r\n\r\n",
    ] {
        let backend = Backend::raw(Script::new().request().write(interim).write(OK).again()).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw(format!("{GET}{GET}")).await;

        // Passed or dropped, as each hop likes (RFC 9110 §15.2).
        for _ in 0..2 {
            let mut answer = conversation.answer().await;
            while answer.status < 200 {
                answer = conversation.answer().await;
            }
            assert_eq!((answer.status, answer.text()), (200, "ok"), "{interim:?}");
        }
        assert_eq!(backend.connections(), 1, "{interim:?}");
    }
}

#[tokio::test]
async fn interim_answers_without_end_are_no_answer() {
    let backend = answers("HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000)).await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {first_byte: 100ms}")).await;

    let refusal = armiger.get("/").await;

    assert_local(&refusal, 504, "upstream-timeout", "http_response_timeout", Some(backend.address()));
    backend.closed(1).await;
}

#[tokio::test]
async fn an_answer_that_has_no_body_by_its_kind_gets_none() {
    for (request, bytes) in [
        (GET, "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello"),
        (GET, "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello"),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    ] {
        let backend = Backend::raw_each(move |number| match number {
            0 => Script::new().request().write(bytes).hang(),
            _ => Script::new().request().write(OK).again(),
        })
        .await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw(request).await;
        let first = conversation.answer_to_head().await;
        let second = conversation.write(GET).await.answer().await;

        if first.status == 204 {
            // RFC 9110 §8.6, RFC 9112 §6.1.
            first.assert_no_header("content-length").assert_no_header("transfer-encoding");
        }
        // What followed the first answer unasked is nobody's.
        assert_eq!((second.status, second.text()), (200, "ok"), "{bytes:?}");
        assert_eq!(backend.connections(), 2, "{bytes:?}");
    }
}

#[tokio::test]
async fn what_belongs_to_the_upstreams_hop_stays_there() {
    let bytes = "HTTP/1.1 200 OK\r\nconnection: close, x-inner\r\nx-inner: 1\r\nkeep-alive: timeout=1\r\n\
                 proxy-authenticate: Basic\r\nupgrade: h2c\r\nx-outer: 2\r\nset-cookie: a\r\nset-cookie: b\r\n\
                 content-length: 2\r\n\r\nok";
    let backend = answers(bytes).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw(GET).await;
    let answer = conversation.answer().await;

    for name in ["connection", "x-inner", "keep-alive", "proxy-authenticate", "upgrade"] {
        answer.assert_no_header(name);
    }
    answer.assert_status(200).assert_header("x-outer", "2");
    assert_eq!(answer.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
    // The back end's connection closes; the client's is its own matter.
    backend.closed(1).await;
    conversation.write(GET).await.answer().await.assert_status(200);
}

// === the body ===

/// Answers that break off or break their framing, and what of their bodies came.
const CUT: [(&str, bool, &str); 20] = [
    ("content-length: 9\r\n\r\npart", false, "part"),
    ("content-length: 9\r\n\r\n", false, ""),
    ("content-length: 9\r\n\r\npart", true, "part"),
    ("transfer-encoding: chunked\r\n\r\n", false, ""),
    ("transfer-encoding: chunked\r\n\r\n9\r\npart", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n9\r\npart", true, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n", true, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n5", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n0", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\nx-sum: 7\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\nnonsense\r\n\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n-1\r\n\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n\r\n0\r\n\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart0\r\n\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\nfffffffffffffffff\r\n", false, "part"),
    ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\nno colon\r\n\r\n", false, "part"),
    // Its end is the connection's, so only a reset tells that it is none.
    ("connection: close\r\n\r\npart", true, "part"),
];

const CUT_OF_APP: &str = "armiger_upstream_answers_cut_total{upstream=\"app\"}";

fn cut(bytes: &str, is_reset: bool) -> Script {
    let script = Script::new().request().write(format!("HTTP/1.1 200 OK\r\n{bytes}"));
    if is_reset { script.reset() } else { script }
}

#[tokio::test]
async fn a_cut_answer_is_cut_for_a_client_of_http11() {
    for (bytes, is_reset, came) in CUT {
        let backend = Backend::raw(cut(bytes, is_reset)).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw(GET).await;

        match conversation.try_answer().await {
            Err(Broken::CutInBody(response)) => {
                assert_eq!(response.status, 200);
                assert!(came.starts_with(response.text()), "{bytes:?}: {response:#?}");
            }
            // The end may overtake what was sent before it.
            Err(Broken::Closed | Broken::Reset | Broken::CutInHead(_)) => {}
            Ok(response) if is_reset && response.status == 502 => {}
            other => panic!("{bytes:?}, reset: {is_reset}: {other:?}"),
        }
        conversation.assert_closed().await;
        let line = armiger.logged(|line| line["upstream"] == "app").await;
        assert!(line["complete"] == false && line["cut_by"] == "upstream" || line["status"] == 502, "{line:#}");
        if line["status"] == 200 {
            assert_eq!(line["reason"], "upstream-cut", "{line:#}");
            let counted = "armiger_answers_cut_total{reason=\"upstream-cut\",route=\"everything\"}";
            armiger.until_metric(counted, 1.0).await;
            // Whose answer it was.
            armiger.until_metric(CUT_OF_APP, 1.0).await;
        }
    }
}

#[tokio::test]
async fn a_cut_answer_is_cut_for_a_client_of_http10() {
    for (bytes, is_reset, _) in CUT {
        let backend = Backend::raw(cut(bytes, is_reset)).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;

        // Without a length the end of the connection is the end of the answer: only a reset says that it is none.
        match conversation.try_answer().await {
            Err(Broken::CutInBody(_) | Broken::Reset | Broken::CutInHead(_) | Broken::Closed) => {}
            Ok(response) if is_reset && response.status == 502 => {}
            other => panic!("{bytes:?}, reset: {is_reset}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_cut_answer_is_cut_for_a_client_of_http2() {
    for (bytes, is_reset, _) in CUT {
        let backend = Backend::raw_each(poisoned(cut(bytes, is_reset))).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut connection = armiger.connect_h2c().await;
        let mut healthy = connection.share();
        let broken = connection.try_request(Request::get("/").body(Full::<Bytes>::default()).unwrap()).await;

        if let Ok(response) = broken {
            assert!(is_reset && response.status == 502, "{bytes:?}, reset: {is_reset}: {response:#?}");
        }
        // The stream broke, not the connection.
        assert_eq!(healthy.get("/").await.text(), "ok", "{bytes:?}");
    }
}

#[tokio::test]
async fn a_whole_answer_is_whole_however_it_is_framed() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nwh\r\n3\r\nole\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwhole",
        "HTTP/1.1 200 OK\r\n\r\nwhole",
        "HTTP/1.0 200 OK\r\n\r\nwhole",
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nwhole",
        "HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nwhole",
        "HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nwhole",
    ] {
        let backend = Backend::raw(Script::new().request().write(bytes)).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw(GET).await;
        assert_eq!(conversation.answer().await.assert_status(200).text(), "whole", "{bytes:?}");
        assert_eq!(conversation.write(GET).await.answer().await.text(), "whole", "{bytes:?}");
        assert_eq!(armiger.connect_h2c().await.get("/").await.text(), "whole", "{bytes:?}");
    }
}

#[tokio::test]
async fn a_pause_within_an_answer_cuts_it() {
    for bytes in ["content-length: 9\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let backend = answers(format!("HTTP/1.1 200 OK\r\n{bytes}")).await;
        let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {body_idle: 100ms}")).await;

        let broken = armiger.raw(GET).await.try_answer().await;

        assert!(matches!(&broken, Err(Broken::CutInBody(response)) if response.text() == "part"), "{broken:?}");
        backend.closed(1).await;
        let line = armiger.logged(|line| line["complete"] == false).await;
        assert_eq!((&line["cut_by"], &line["reason"]), (&"deadline".into(), &"upstream-idle".into()), "{line:#}");
        let counted = "armiger_answers_cut_total{reason=\"upstream-idle\",route=\"everything\"}";
        armiger.until_metric(counted, 1.0).await;
        // Whose answer it was.
        armiger.until_metric(CUT_OF_APP, 1.0).await;
    }
}

// === bytes that nobody asked for ===

const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

fn poisoned(first: Script) -> impl Fn(usize) -> Script + Send + 'static {
    move |number| match number {
        0 => first.clone(),
        _ => Script::new().request().write(OK).again(),
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys_answer() {
    for extra in [POISON, "x", "\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let first = Script::new().request().write(format!("{OK}{extra}")).hang();
        let backend = Backend::raw_each(poisoned(first)).await;
        let armiger = Armiger::proxying(&backend).await;

        let mut conversation = armiger.raw(format!("{GET}{GET}")).await;

        let answers = conversation.answers(2).await;
        assert_eq!((answers[0].text(), answers[1].text()), ("ok", "ok"), "{extra:?}");
        backend.closed(1).await;
        assert_eq!(backend.connections(), 2, "{extra:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_with_unread_bytes_is_thrown_away() {
    let signal = Signal::new();
    let first = Script::new().request().write(OK).wait(&signal).write(POISON).hang();
    let backend = Backend::raw_each(poisoned(first)).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw(GET).await;
    conversation.answer().await.assert_status(200);
    signal.send();
    // armiger notices by itself, and closes.
    backend.closed(1).await;

    assert_eq!(conversation.write(GET).await.answer().await.text(), "ok");
    assert_eq!(armiger.get("/").await.text(), "ok");
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn the_fault_of_one_answer_is_not_anothers() {
    let signal = Signal::new();
    let slow = Script::new().request().wait(&signal).write(OK);
    let backend = Backend::raw_each(move |number| match number {
        0 => slow.clone(),
        _ => Script::new().request().write("garbage\r\n\r\n").hang(),
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let mut connection = armiger.connect_h2c().await;
    let mut other = connection.share();
    let slow = tokio::spawn(async move { connection.get("/slow").await });
    backend.received(1).await;
    for _ in 0..3 {
        other.get("/broken").await.assert_problem(502, "upstream-protocol");
    }
    signal.send();

    assert_eq!(slow.await.unwrap().assert_status(200).text(), "ok");
}

// === requests that are not read to their end ===

#[tokio::test]
async fn an_early_answer_is_passed_on_and_the_rest_of_the_request_is_not_sent() {
    let refusal = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
    for is_left_open in [true, false] {
        let script = Script::new().head().write(refusal);
        let backend = Backend::raw(if is_left_open { script.hang() } else { script }).await;
        // The last of a round was read to its end on both sides, and is kept for so long.
        let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {idle: 100ms}")).await;

        for framed in ["Content-Length: 1000000\r\n\r\npart", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"] {
            let before = backend.count();
            let mut conversation = armiger.raw(format!("POST / HTTP/1.1\r\nHost: a\r\n{framed}")).await;

            let answer = conversation.answer().await;
            // Nothing can be read behind a body that nobody takes (RFC 9112 §9.6).
            assert_eq!(answer.assert_status(413).assert_header("connection", "close").text(), "big", "{framed:?}");
            backend.closed(before + 1).await;

            // The connection is not used for anybody else.
            let next = armiger.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.answer().await;
            next.assert_status(413);
            assert_eq!(backend.connections(), before + 2, "{framed:?}");
            backend.closed(before + 2).await;
        }
    }
}

/// The client is waited for, so that it sees the end of the answer; the upstream has nothing to wait for.
#[tokio::test]
async fn a_refused_upload_leaves_its_upstream_at_once() {
    let early = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let too_much = "x".repeat(2048);
    for (answer, begun, rest) in [
        (early, "Content-Length: 1000000\r\n\r\npart", String::new()),
        (early, "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", String::new()),
        // armiger's own refusal, once too much has come.
        ("", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", format!("800\r\n{too_much}\r\n")),
    ] {
        let backend = Backend::raw(Script::new().head().write(answer).hang()).await;
        let body_max = if rest.is_empty() { "10MiB" } else { "1KiB" };
        let armiger = Armiger::with(Config::to(&backend).policies(&format!("body_limit: {{max: {body_max}}}"))).await;
        let mut conversation = armiger.raw(format!("POST / HTTP/1.1\r\nHost: a\r\n{begun}")).await;
        backend.arrived(1).await;
        conversation.write(rest).await.answer().await.assert_status(413);

        backend.closed(1).await;

        armiger.until_metric("armiger_listener_connections{listener=\"http\"}", 1.0).await;
    }
}

/// A client that is not told that its connection ends may put its next request behind the rest of its body.
#[tokio::test]
async fn an_early_answer_ends_the_connection_only_where_it_says_so() {
    const LENGTH: usize = 1_000_000;
    for status in ["200 OK", "202 Accepted", "303 See Other", "500 Internal Server Error"] {
        let backend = Backend::raw_each(move |number| match number {
            0 => Script::new().head().write(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok")).hang(),
            _ => Script::new().request().write("HTTP/1.1 204 No Content\r\n\r\n").hang(),
        })
        .await;
        let armiger = Armiger::proxying(&backend).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
        let mut conversation = armiger.raw(head).await;
        let answer = conversation.answer().await;
        if answer.headers.get("connection").is_some_and(|told| told == "close") {
            assert!(status.starts_with('5'), "{status}");
            conversation.assert_closed().await;
            continue;
        }
        for _ in 0..LENGTH / 1000 {
            conversation.write(&[b'x'; 1000]).await;
        }
        conversation.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        conversation.answer().await.assert_status(204);
        let lines = armiger.log_lines(2).await;
        assert_eq!(lines[0]["upload_cut"], true, "the service never had it all: {lines:#?}");
        assert!(lines[1].get("upload_cut").is_none(), "{lines:#?}");
    }
}

/// What has gone to the service before its answer ends is no upload that was cut.
#[tokio::test]
async fn an_upload_that_the_service_had_whole_behind_the_begin_of_its_answer_was_not_cut() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let armiger = Armiger::with(Config::to_url(&format!("http://{}", listener.local_addr().unwrap()))).await;
    let mut conversation = armiger.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab").await;
    let (mut service, _) = listener.accept().await.unwrap();
    service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await.unwrap();
    let begun = conversation.some().await;
    assert!(begun.starts_with(b"HTTP/1.1 200 "), "{}", begun.escape_ascii());
    conversation.write("cdef").await;
    let mut got = Vec::new();
    while !got.ends_with(b"abcdef") {
        assert!(service.read_buf(&mut got).await.unwrap() > 0, "{}", got.escape_ascii());
    }
    service.write_all(b"ay").await.unwrap();
    let line = armiger.logged(|_| true).await;
    assert!(line["bytes_in"] == 6 && line.get("upload_cut").is_none(), "{line}");
}

/// More than is thrown away is known beforehand where the length is.
#[tokio::test]
async fn an_early_answer_to_a_very_large_body_says_that_the_connection_ends() {
    let early = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let backend = Backend::raw(Script::new().head().write(early).hang()).await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {body_max: 64MiB}")).await;
    for (mib, is_told) in [(8, false), (32, true)] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\npart", mib << 20);
        let answer = armiger.raw(head).await.answer().await;
        assert_eq!(answer.headers.get("connection").is_some_and(|told| told == "close"), is_told, "{mib} MiB");
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_goes_on_sending() {
    let refusal = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let backend = Backend::raw(Script::new().head().write(refusal)).await;
    let armiger = Armiger::proxying(&backend).await;

    let body = Full::new(Bytes::from(vec![b'x'; 500_000]));
    let answer = armiger.connect_h2c().await.try_request(Request::post("/").body(body).unwrap()).await;

    assert_eq!(answer.unwrap().assert_status(413).text(), "big");
}

/// On HTTP/2 who wants no more resets the stream: as long as nobody does, the rest is wanted.
#[tokio::test]
async fn an_http2_service_that_ends_its_answer_first_may_read_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let armiger = Armiger::with(Config::to_url(&url).upstream("protocol: h2c")).await;
    let mut conversation = armiger.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab").await;
    let (stream, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    respond.send_response(http::Response::new(()), true).unwrap();
    conversation.answer().await.assert_status(200);
    armiger.logged(|line| line["complete"] == true && line.get("upload_cut").is_none()).await;

    conversation.write("cdef").await;

    let (mut body, mut got) = (request.into_body(), Vec::new());
    while let Some(data) = body.data().await {
        got.extend_from_slice(&data.unwrap());
    }
    assert_eq!(got, b"abcdef");
}

// === keep-alive races ===

/// Answers the first request of each connection, then takes the next one and closes without a word.
fn closes_on_the_second() -> Script {
    Script::new().request().write(OK).request()
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_only_if_that_is_safe() {
    for (second, is_repeated) in [
        ("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("HEAD /2 HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("OPTIONS /2 HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("DELETE /2 HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", true),
        ("PUT /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        ("POST /2 HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 7\r\nContent-Length: 5\r\n\r\nhello", true),
        ("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", false),
        ("POST /2 HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("PATCH /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", false),
    ] {
        let backend = Backend::raw(closes_on_the_second()).await;
        let armiger = Armiger::proxying(&backend).await;
        armiger.get("/1").await.assert_status(200);

        let mut conversation = armiger.raw(second).await;
        let answer =
            if second.starts_with("HEAD") { conversation.answer_to_head().await } else { conversation.answer().await };

        let seen = backend.requests();
        let asked: Vec<_> = seen.iter().filter(|seen| seen.target == "/2").collect();
        if is_repeated {
            assert_eq!(answer.status, 200, "{second:?}: {answer:#?}");
            assert_eq!(asked.len(), 2, "{second:?}");
            assert_eq!((&asked[0].body, &asked[0].method), (&asked[1].body, &asked[1].method), "{second:?}");
            assert_ne!(asked[0].connection, asked[1].connection, "{second:?}");
            let line = armiger.logged(|line| line["path"] == "/2").await;
            assert_eq!(line["attempts"].as_array().map(Vec::len), Some(2), "{line:#}");
        } else {
            assert_eq!(answer.status, 502, "{second:?}: {answer:#?}");
            assert_local(&answer, 502, "upstream-reset", "connection_terminated", Some(backend.address()));
            assert_eq!(asked.len(), 1, "{second:?} was sent twice");
        }
    }
}

#[tokio::test]
async fn a_request_is_not_sent_again_once_an_answer_began() {
    let script = Script::new().request().write(OK).request().write("H");
    let backend = Backend::raw(script).await;
    let armiger = Armiger::proxying(&backend).await;
    armiger.get("/1").await.assert_status(200);

    armiger.get("/2").await.assert_problem(502, "upstream-reset");

    assert_eq!(backend.requests().iter().filter(|seen| seen.target == "/2").count(), 1);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_never_sent_twice() {
    let backend = Backend::raw(closes_on_the_second()).await;
    let armiger = Armiger::with(Config::to(&backend).upstream("limits: {replay_max: 1KiB}")).await;
    armiger.get("/1").await.assert_status(200);

    let body = "x".repeat(1025);
    let put = format!("PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n{body}");
    armiger.raw(put).await.answer().await.assert_problem(502, "upstream-reset");

    assert_eq!(backend.requests().iter().filter(|seen| seen.target == "/2").count(), 1);
}

#[tokio::test]
async fn under_load_no_get_fails_and_no_post_is_done_twice_when_connections_close() {
    const CLIENTS: usize = 12;
    const ROUNDS: usize = 40;
    // Some close at once, some after a few answers, some without an answer.
    let backend = Backend::raw_each(|number| {
        let ok = || Script::new().request().write(OK);
        match number % 4 {
            0 => ok(),
            1 => ok().request().write(OK),
            2 => ok().request(),
            _ => ok().request().write(OK).request().reset(),
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("pool: {connections_max: 8, queue_wait: 5s}")).await;

    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let asking = armiger.client();
        clients.spawn(async move {
            let mut connection = asking.connect().await;
            let (mut gets, mut posts) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                gets.push(connection.get(&format!("/get/{client}/{round}")).await.status);
                let path = format!("/post/{client}/{round}");
                posts.push((connection.post(&path, "do it once").await.status, path));
            }
            (gets, posts)
        });
    }

    let mut posts = Vec::new();
    while let Some(done) = clients.join_next().await {
        let (gets, more) = done.unwrap();
        assert!(gets.iter().all(|status| *status == 200), "{gets:?}");
        posts.extend(more);
    }
    let mut times = HashMap::new();
    for seen in backend.requests() {
        *times.entry(seen.target).or_insert(0) += 1;
    }
    for (status, path) in &posts {
        assert!(matches!(status, 200 | 502), "{status} to {path}");
        let done = times.get(path).copied().unwrap_or(0);
        // One that the back end was sent just as it closed it never reads, and nobody but the back end can tell.
        assert!(done == 1 || (done == 0 && *status == 502), "{path} was answered {status}, and done {done} times");
    }
    // Without any of the races this test would say nothing.
    assert!(posts.iter().any(|(status, _)| *status == 502), "no request met a closing connection");
}

// === no connection, no answer ===

#[tokio::test]
async fn an_upstream_that_refuses_is_a_502() {
    let mut backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;
    let address = backend.address();
    backend.stop();

    let refusal = armiger.get("/").await;

    assert_local(&refusal, 502, "upstream-connect", "connection_refused", Some(address));
    let line = armiger.logged(|line| line["reason"] == "upstream-connect").await;
    assert_eq!(line["upstream"], "app", "{line:#}");
}

#[tokio::test]
async fn an_upstream_that_has_no_address_is_a_502() {
    let config = Config::to_url("http://nobody.invalid:3000").upstream("timeouts: {connect: 500ms}");
    let armiger = Armiger::with(config).await;

    let refusal = armiger.get("/").await;

    assert_local(&refusal, 502, "upstream-dns", "dns_error", None);
    assert!(!refusal.text().contains("nobody"), "{}", refusal.text());
}

#[tokio::test]
async fn an_upstream_that_accepts_nobody_is_a_502() {
    // A full queue of connections drops all that come.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue is never full");
    }
    let config = Config::to_url(&format!("http://{address}")).upstream("timeouts: {connect: 100ms}");
    let armiger = Armiger::with(config).await;

    let refusal = armiger.get("/").await;

    assert_local(&refusal, 502, "upstream-connect-timeout", "connection_timeout", Some(address));
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let mut gone = Backend::replies("gone").await;
    let here = Backend::replies("here").await;
    let config = Config::empty().routes("- {name: all, match: {path_prefix: /}, proxy: {upstream: app}}");
    let upstreams = format!("upstreams: {{app: {{endpoints: [\"{}\", \"{}\"]}}}}", gone.url(), here.url());
    let armiger = Armiger::with(config.top(&upstreams)).await;
    gone.stop();

    for _ in 0..4 {
        let answer = armiger.post("/", "once").await;
        assert_eq!(answer.assert_status(200).text(), "here");
    }

    assert_eq!(here.count(), 4);
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_a_504() {
    let backend = answers("").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {first_byte: 100ms}")).await;

    for request in [GET, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"] {
        let refusal = armiger.raw(request).await.answer().await;
        assert_local(&refusal, 504, "upstream-timeout", "http_response_timeout", Some(backend.address()));
    }

    // What is given up is closed, not kept for the next one, and not tried again.
    backend.closed(2).await;
    assert_eq!((backend.connections(), backend.count()), (2, 2));
}

#[tokio::test]
async fn a_request_has_a_deadline() {
    let backend = answers("").await;
    let armiger = Armiger::with(Config::to(&backend).route("timeout: 100ms")).await;

    let refusal = armiger.get("/").await;

    assert_local(&refusal, 504, "deadline-exceeded", "http_response_timeout", Some(backend.address()));
    backend.closed(1).await;
    armiger.logged(|line| line["reason"] == "deadline-exceeded" && line["status"] == 504).await;
}

#[tokio::test]
async fn a_deadline_is_over_the_wait_for_a_connection_too() {
    let backend = answers("").await;
    let config = Config::to(&backend).upstream("pool: {connections_max: 1, queue_wait: 10s}");
    let routes = r#"
    - {name: slow, match: {path: /slow}, proxy: {upstream: app}}
    - {name: quick, match: {path: /quick}, timeout: 100ms, proxy: {upstream: app}}
    "#;
    let armiger = Armiger::with(config.routes(routes)).await;
    let _slow = armiger.raw("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.received(1).await;

    armiger.get("/quick").await.assert_problem(504, "deadline-exceeded");

    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn the_answers_body_has_no_deadline() {
    let (chunks, body) = streamed(200);
    let body = std::sync::Mutex::new(Some(body));
    let backend = Backend::with(move |_| body.lock().unwrap().take().unwrap()).await;
    // Long enough for a head to come on a busy machine.
    let armiger = Armiger::with(Config::to(&backend).route("timeout: 1s")).await;

    let mut conversation = armiger.raw("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    chunks.data("early").await;
    conversation.some().await;
    // Another exchange, which begins later, runs into the same deadline meanwhile.
    let hanging = answers("").await;
    let other = Armiger::with(Config::to(&hanging).route("timeout: 1s")).await;
    other.get("/").await.assert_status(504);
    chunks.data("late").await;
    drop(chunks);

    // The head and each part of the body may come by themselves.
    let mut rest = Vec::new();
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        let more = conversation.some().await;
        assert!(!more.is_empty(), "the answer is cut: {rest:?}");
        rest.extend(more);
    }
    assert!(String::from_utf8_lossy(&rest).contains("late"), "{rest:?}");
    let line = armiger.logged(|line| line["path"] == "/stream").await;
    assert_eq!((&line["status"], line.get("cut_by")), (&200.into(), None), "{line:#}");
}

// === too much at once ===

#[tokio::test]
async fn who_finds_the_queue_full_is_told_at_once() {
    let signal = Signal::new();
    let backend = Backend::raw(Script::new().request().wait(&signal).write(OK).again()).await;
    let pool = "pool: {connections_max: 1, queue_max: 1, queue_wait: 30s}";
    let armiger = Armiger::with(Config::to(&backend).upstream(pool)).await;

    let mut first = armiger.raw("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.received(1).await;
    let mut queued = armiger.raw("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while armiger.metric(r#"armiger_upstream_queue_length{upstream="app"}"#).await < 1.0 {}
    let refusal = armiger.get("/3").await;
    signal.send();

    assert_local(&refusal, 503, "upstream-overloaded", "connection_limit_reached", Some(backend.address()));
    first.answer().await.assert_status(200);
    queued.answer().await.assert_status(200);
    let targets: Vec<_> = backend.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!((targets.as_slice(), backend.connections()), (&["/1".to_owned(), "/2".to_owned()][..], 1));
}

#[tokio::test]
async fn who_waits_too_long_for_a_connection_is_told() {
    let backend = answers("").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("pool: {connections_max: 1, queue_wait: 100ms}")).await;

    let _first = armiger.raw(GET).await;
    backend.received(1).await;
    let refusal = armiger.get("/").await;

    assert_local(&refusal, 503, "upstream-overloaded", "connection_limit_reached", Some(backend.address()));
    assert_eq!(backend.count(), 1);
    armiger.until_metric(r#"armiger_upstream_queue_timeouts_total{upstream="app"}"#, 1.0).await;
}

#[tokio::test]
async fn who_waits_and_leaves_leaves_the_queue() {
    let signal = Signal::new();
    let backend = Backend::raw(Script::new().request().wait(&signal).write(OK).again()).await;
    let pool = "pool: {connections_max: 1, queue_max: 1, queue_wait: 30s}";
    let armiger = Armiger::with(Config::to(&backend).upstream(pool)).await;
    let length = || armiger.metric(r#"armiger_upstream_queue_length{upstream="app"}"#);

    let mut first = armiger.raw("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.received(1).await;
    let leaving = armiger.raw("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while length().await < 1.0 {}
    leaving.reset();
    while length().await > 0.0 {}
    let mut third = armiger.raw("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while length().await < 1.0 {}
    signal.send();

    first.answer().await.assert_status(200);
    third.answer().await.assert_status(200);
    let targets: Vec<_> = backend.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/1", "/3"]);
}

#[tokio::test]
async fn requests_in_flight_to_an_upstream_are_bounded() {
    let signal = Signal::new();
    let backend = Backend::raw(Script::new().request().wait(&signal).write(OK).again()).await;
    let other = Backend::replies("other").await;
    let routes = r#"
    - {name: app, match: {path: "/app/{rest...}"}, proxy: {upstream: app}}
    - {name: other, match: {path: /other}, proxy: {upstream: other}}
    "#;
    let config = Config::to(&backend).upstream("limits: {in_flight_max: 1}").and("other", &other).routes(routes);
    let armiger = Armiger::with(config).await;

    let mut first = armiger.raw("GET /app/1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.received(1).await;
    let refusal = armiger.get("/app/2").await;
    let elsewhere = armiger.get("/other").await;
    signal.send();

    assert_local(&refusal, 503, "upstream-overloaded", "connection_limit_reached", Some(backend.address()));
    assert_eq!(elsewhere.text(), "other");
    first.answer().await.assert_status(200);
    // The place is free again.
    armiger.get("/app/3").await.assert_status(200);
}

// === callers that speak gRPC ===

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_way() {
    let garbage = answers("garbage\r\n\r\n").await;
    let silent = answers("").await;
    let closing = Backend::raw(Script::new().request()).await;
    let mut gone = Backend::replies("ok").await;
    let upstreams = format!(
        r#"
        upstreams:
          garbage: {{endpoints: ["{}"]}}
          silent: {{endpoints: ["{}"], timeouts: {{first_byte: 50ms}}}}
          closing: {{endpoints: ["{}"]}}
          gone: {{endpoints: ["{}"]}}
          nobody: {{endpoints: ["http://nobody.invalid:3000"], timeouts: {{connect: 500ms}}}}
        "#,
        garbage.url(),
        silent.url(),
        closing.url(),
        gone.url()
    );
    gone.stop();
    let routes = r#"
    - {name: garbage, match: {path: /garbage}, proxy: {upstream: garbage}}
    - {name: silent, match: {path: /silent}, proxy: {upstream: silent}}
    - {name: late, match: {path: /late}, timeout: 20ms, proxy: {upstream: silent}}
    - {name: closing, match: {path: /closing}, proxy: {upstream: closing}}
    - {name: gone, match: {path: /gone}, proxy: {upstream: gone}}
    - {name: nobody, match: {path: /nobody}, proxy: {upstream: nobody}}
    - {name: small, match: {path: /small}, policies: {body_limit: {max: 1B}}, proxy: {upstream: gone}}
    - {name: blocked, match: {path: /blocked}, policies: {ip_filter: {deny: [127.0.0.0/8]}}, proxy: {upstream: gone}}
    - {name: get, match: {path: /get, methods: [GET]}, proxy: {upstream: gone}}
    "#;
    let armiger = Armiger::with(Config::empty().top(&upstreams).routes(routes)).await;
    let mut connection = armiger.connect_h2c().await;

    // grpc/grpc doc/statuscodes.md.
    for (path, code, reason) in [
        ("/garbage", "14", "upstream-protocol"),
        ("/closing", "14", "upstream-reset"),
        ("/gone", "14", "upstream-connect"),
        ("/nobody", "14", "upstream-dns"),
        ("/silent", "4", "upstream-timeout"),
        ("/late", "4", "deadline-exceeded"),
        ("/small", "8", "body-too-large"),
        ("/blocked", "7", "address-blocked"),
        ("/nowhere", "12", "no-route"),
        ("/get", "12", "method-not-allowed"),
        ("/%zz", "13", "bad-path"),
    ] {
        let response = connection.request(grpc(path)).await;

        assert_eq!(response.status, 200, "{path}: {response:#?}");
        response.assert_header("content-type", "application/grpc").assert_header("grpc-status", code);
        let message = response.header("grpc-message").to_owned();
        assert!(!message.is_empty() && !message.contains("127.0.0.1"), "{path}: {message}");
        // Trailers-only: one block of headers, and the end.
        assert!(response.body.is_empty() && response.trailers.is_empty(), "{path}: {response:#?}");
        let id = response.header("x-request-id");
        let line = armiger.logged(|line| line["request_id"] == id).await;
        assert_eq!(line["reason"], reason, "{line:#}");
    }
}

#[tokio::test]
async fn a_call_whose_answer_is_cut_has_no_status() {
    let (chunks, body) = streamed(200);
    let body = std::sync::Mutex::new(Some(body));
    let backend = Backend::with(move |_| body.lock().unwrap().take().unwrap()).await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;

    let mut connection = armiger.connect_h2c().await;
    let answer = connection.open(grpc("/call")).await;
    chunks.data("\0\0\0\0\x02hi").await;
    chunks.cut().await;

    let collected = http_body_util::BodyExt::collect(answer.unwrap().into_body()).await;
    assert!(collected.is_err(), "{collected:?}");
}

#[tokio::test]
async fn an_upstream_of_another_protocol_is_a_502() {
    let speaks_http1 =
        Backend::raw(Script::new().write("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").hang()).await;
    let armiger = Armiger::with(Config::to(&speaks_http1).upstream("protocol: h2c")).await;

    let refusal = armiger.get("/").await;

    // What is told of it depends on whether the request was on its way already.
    let is_sent = refusal.json()["type"] == "urn:armiger:upstream-protocol";
    let (slug, error) = if is_sent {
        ("upstream-protocol", "http_protocol_error")
    } else {
        ("upstream-reset", "connection_terminated")
    };
    assert_local(&refusal, 502, slug, error, Some(speaks_http1.address()));
}

#[tokio::test]
async fn a_refusal_has_the_form_that_its_caller_reads() {
    let backend = answers("garbage\r\n\r\n").await;
    let armiger = Armiger::proxying(&backend).await;
    let get = |accept: &str| Request::get("/").header("accept", accept).body(Full::<Bytes>::default()).unwrap();

    armiger.request(get("text/html, */*;q=0.1")).await.assert_problem(502, "upstream-protocol");
    let text = armiger.request(get("text/html")).await;

    text.assert_status(502).assert_header("content-type", "text/plain; charset=utf-8");
    assert!(text.text().contains("upstream-protocol"), "{}", text.text());
}

#[tokio::test]
async fn a_fault_of_the_back_end_itself_is_passed_on_as_it_is() {
    let backend = Backend::with(|_| answer(503, "down for maintenance")).await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger.get("/").await;

    assert_eq!(response.assert_status(503).text(), "down for maintenance");
    response.assert_no_header("proxy-status").assert_no_header("cache-control");
    let line = armiger.logged(|line| line["status"] == 503).await;
    assert_eq!(line.get("reason"), None, "{line:#}");
}

#[tokio::test]
async fn readers_that_stop_do_not_stop_the_others_of_an_http2_upstream() {
    let (chunks, replies): (Vec<_>, Vec<_>) = (0..4).map(|_| streamed(200)).unzip();
    let replies = std::sync::Mutex::new(replies);
    let backend = Backend::with(move |seen| match seen.target.as_str() {
        "/much" => replies.lock().unwrap().pop().unwrap(),
        _ => answer(200, "ok"),
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;
    let mut readers = Vec::new();
    for number in 1..=chunks.len() {
        readers.push(armiger.raw("GET /much HTTP/1.1\r\nhost: a\r\n\r\n").await);
        backend.arrived(number).await;
    }
    futures_util::future::join_all(chunks.iter().map(Chunks::until_stuck)).await;

    for _ in 0..3 {
        assert_eq!(armiger.get("/").await.assert_status(200).text(), "ok");
    }
    assert_eq!(backend.connections(), 1);
}
