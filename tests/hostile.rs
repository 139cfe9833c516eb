//! The hostile client: what two readers could read in two ways reaches no upstream, and nobody is waited for for ever.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::harness::{Armiger, Backend, Broken, Config, RawConversation, Script, Signal, answer, streamed, within};

/// What must never be answered, and never be seen by a back end.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A back end that reads strictly, fails its test on whatever is ambiguous, and answers everything with `ok`.
async fn strict() -> Backend {
    Backend::raw(Script::new().request().write(OK).again()).await
}

/// Writes byte by byte, each in a packet of its own as far as the kernel cares.
async fn dribble(conversation: &mut RawConversation, bytes: impl AsRef<[u8]>) {
    for byte in bytes.as_ref().chunks(1) {
        conversation.write(byte).await;
        tokio::task::yield_now().await;
    }
}

/// Fails unless the one thing the back end ever sees is the request that this sends now.
async fn assert_untouched(armiger: &Armiger, backend: &Backend) {
    armiger.get("/witness").await.assert_status(200);
    assert_eq!(backend.only().await.target, "/witness");
}

/// Fails unless the request is refused so, and the connection closed.
async fn assert_refused(conversation: &mut RawConversation, shown: &str, status: u16, slug: &str) {
    let refusal = match conversation.try_answer().await {
        Ok(refusal) => refusal,
        Err(why) => panic!("no refusal but {why:?} to {shown:?}"),
    };
    assert_eq!(refusal.status, status, "{shown:?}: {refusal:#?}");
    refusal
        .assert_problem(status, slug)
        .assert_header("connection", "close")
        .assert_header("cache-control", "no-store");
    assert_eq!(refusal.json()["request_id"], refusal.header("x-request-id"), "{shown:?}");
    let rest = conversation.rest().await;
    assert!(rest.is_empty(), "{shown:?} is followed by {:?}", String::from_utf8_lossy(&rest));
}

/// Unlawful heads with the status and the slug that they are refused with.
fn unlawful_heads() -> Vec<(String, u16, &'static str)> {
    let mut cases = Vec::new();
    let mut add = |head: &str, status, slug| cases.push((head.to_owned(), status, slug));

    // Line ends and control bytes (RFC 9112 §2.2, RFC 9110 §5.5).
    add("GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bad-framing");
    add("GET / HTTP/1.1\nHost: a\n\n", 400, "bad-framing");
    add("GET / HTTP/1.1\rHost: a\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nX: a\rb\r\nHost: a\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nX: a\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n", 400, "bad-framing");
    add("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-framing");
    add("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-framing");
    for control in ['\0', '\u{1}', '\u{8}', '\u{b}', '\u{c}', '\u{1b}', '\u{7f}'] {
        add(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: b{control}c\r\n\r\n"), 400, "bad-framing");
        add(&format!("GET / HTTP/1.1\r\nHost: a\r\nX{control}: b\r\n\r\n"), 400, "bad-framing");
        add(&format!("GET /{control} HTTP/1.1\r\nHost: a\r\n\r\n"), 400, "bad-framing");
        add(&format!("GET / HTTP/1.1\r\nHost: a{control}\r\n\r\n"), 400, "bad-host");
    }

    // Header lines (RFC 9112 §5).
    add("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", 400, "bad-framing");
    add("POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello", 400, "bad-framing");
    add("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tfolded\r\n\r\n", 400, "bad-framing");
    add("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\n X: first\r\nHost: a\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nX(Y): b\r\n\r\n", 400, "bad-framing");
    add("GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: b\r\n\r\n", 400, "bad-framing");

    // One length or one coding (RFC 9112 §6).
    for length in ["", "+5", "-5", "0x5", "5,5", "5, 5", "5 5", "5;", "5.0", "five", "\"5\"", "9223372036854775808"] {
        add(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nhello"), 400, "bad-framing");
    }
    add("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, "bad-framing");
    add("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 0\r\n\r\nhello", 400, "bad-framing");
    for pair in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 0"] {
        add(&format!("POST / HTTP/1.1\r\nHost: a\r\n{pair}\r\n\r\n0\r\n\r\n"), 400, "bad-framing");
    }
    for coding in [
        "",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity",
        "xchunked",
        "\"chunked\"",
        "chunked;a=b",
        "chunked\u{b}",
    ] {
        add(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"), 400, "bad-framing");
    }
    for second in ["chunked", "identity", ""] {
        let lines = format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: {second}");
        add(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n"), 400, "bad-framing");
    }
    add("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "not-implemented");
    add("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad-framing");

    // One valid host (RFC 9112 §3.2).
    add("GET / HTTP/1.1\r\n\r\n", 400, "bad-host");
    add("GET / HTTP/1.1\r\nX: b\r\n\r\n", 400, "bad-host");
    add("GET http://a/ HTTP/1.1\r\n\r\n", 400, "bad-host");
    add("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad-host");
    add("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400, "bad-host");
    let long = "a".repeat(300);
    for host in
        ["", "a b", "a,b", "a/b", "a\\b", "u@a", "a:", "a:b", "a:65536", "a:80:80", "[::1", "[a]", "a?b", "a#b", "<a>"]
            .into_iter()
            .chain(["a..b", ".", ".a", "..", "a..", "a!b", "a~b", long.as_str()])
    {
        add(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400, "bad-host");
    }

    // The request line (RFC 9112 §3).
    for line in [
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1 x",
        "GET / x HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/1.10",
        "GET / HTTP/11",
        "GET / HTTP/1.1\u{e9}",
        "G(T / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "GETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1",
        "GET a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET /<x> HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://u@a/ HTTP/1.1",
        "GET http://u:p@a/ HTTP/1.1",
        "GET http://a:b/ HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT a HTTP/1.1",
        "CONNECT http://a/ HTTP/1.1",
    ] {
        add(&format!("{line}\r\nHost: a\r\n\r\n"), 400, "bad-framing");
    }
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0"] {
        add(&format!("GET / {version}\r\nHost: a\r\n\r\n"), 505, "bad-version");
    }
    // A client that speaks TLS to a plain port is told at its first byte.
    add("\u{16}\u{3}\u{1}", 400, "bad-framing");
    cases
}

#[tokio::test]
async fn an_unlawful_head_is_refused_and_reaches_no_upstream() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for (head, status, slug) in unlawful_heads() {
        let mut conversation = armiger.raw(format!("{head}{SMUGGLED}")).await;
        assert_refused(&mut conversation, &head, status, slug).await;
    }

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn an_unlawful_head_is_refused_byte_by_byte_too() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for (head, status, slug) in unlawful_heads() {
        let mut conversation = armiger.raw("").await;
        dribble(&mut conversation, &head).await;
        assert_refused(&mut conversation, &head, status, slug).await;
    }

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn a_refused_head_is_logged_and_counted() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n").await;
    let id = conversation.answer().await.header("x-request-id").to_owned();

    let line = armiger.logged(|line| line["request_id"] == id).await;
    assert_eq!((&line["status"], &line["reason"]), (&400.into(), &"bad-framing".into()), "{line:#}");
    armiger.until_metric(r#"armiger_rejections_total{reason="bad-framing",route="(none)"}"#, 1.0).await;
}

#[tokio::test]
async fn an_unlawful_chunked_body_is_refused_and_reaches_no_upstream_whole() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let many = "a: b\r\n".repeat(65);

    for body in [
        // Sizes (RFC 9112 §7.1).
        "\r\n",
        "x\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        // Line ends.
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\n\rX",
        // Data that is longer or shorter than its size.
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        // Extensions (RFC 9112 §7.1.1).
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a=\r\nhello\r\n0\r\n\r\n",
        "5;=b\r\nhello\r\n0\r\n\r\n",
        "5;a=b c\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\r\n\"\r\nhello\r\n0\r\n\r\n",
        // Trailers (RFC 9112 §7.1.2, RFC 9110 §6.5.1).
        "0\r\nX : y\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\rZ: a\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\r\n folded\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        &format!("0\r\n{many}\r\n"),
        &format!("0\r\na: {}\r\n\r\n", "b".repeat(9000)),
        &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(9000)),
    ] {
        let head = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut at_once = armiger.raw(format!("{head}{body}{SMUGGLED}")).await;
        assert_refused(&mut at_once, body, 400, "bad-framing").await;
        let mut in_bytes = armiger.raw(head).await;
        dribble(&mut in_bytes, &body[..body.len().min(80)]).await;
        in_bytes.write(&body[body.len().min(80)..]).await;
        assert_refused(&mut in_bytes, body, 400, "bad-framing").await;
    }

    armiger.get("/witness").await.assert_status(200);
    let seen = backend.requests();
    let whole: Vec<_> = seen.iter().filter(|seen| seen.whole).map(|seen| seen.target.as_str()).collect();
    assert_eq!(whole, ["/witness"]);
    assert!(seen.iter().all(|seen| seen.target != "/smuggled"), "{seen:#?}");
}

#[tokio::test]
async fn a_head_is_bounded() {
    let backend = strict().await;
    let limits = "limits: {headers_max: 10, header_bytes_max: 4KiB, target_bytes_max: 1KiB}";
    let armiger = Armiger::with(Config::to(&backend).listener(limits)).await;
    let get = |target: usize, headers: usize, value: usize| {
        let lines = "x: y\r\n".repeat(headers - 2);
        format!("GET /{} HTTP/1.1\r\nhost: a\r\nbig: {}\r\n{lines}\r\n", "t".repeat(target - 1), "v".repeat(value))
    };
    let largest = 4096 - get(8, 2, 0).len();

    for (request, status, slug) in [
        (get(1025, 2, 0), 414, "target-too-long"),
        (get(1, 11, 0), 431, "headers-too-large"),
        (get(8, 2, largest + 1), 431, "headers-too-large"),
        // Neither needs an end to be too long.
        (format!("GET /{}", "t".repeat(6000)), 414, "target-too-long"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "v".repeat(6000)), 431, "headers-too-large"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}", "x: y\r\n".repeat(20)), 431, "headers-too-large"),
        ("G".repeat(6000), 400, "bad-framing"),
    ] {
        let mut conversation = armiger.raw(&request).await;
        assert_refused(&mut conversation, &request, status, slug).await;
    }
    let long = format!("/{}", "t".repeat(1024));
    armiger.connect_h2c().await.get(&long).await.assert_problem(414, "target-too-long");
    assert_eq!(backend.count(), 0);
    for (limit, hits) in [("target_bytes_max", 3.0), ("headers_max", 2.0), ("header_bytes_max", 2.0)] {
        armiger.until_metric(&format!("armiger_limit_hits_total{{limit=\"{limit}\"}}"), hits).await;
    }

    for request in [get(1024, 2, 0), get(1, 10, 0), get(8, 2, largest)] {
        armiger.raw(&request).await.answer().await.assert_status(200);
    }
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn a_value_of_a_header_is_bounded_on_every_protocol() {
    let backend = strict().await;
    let limits = "limits: {header_value_bytes_max: 1KiB}";
    let armiger = Armiger::with(Config::to(&backend).listener(limits)).await;
    let mut http2 = armiger.connect_h2c().await;

    for (lengths, is_lawful) in [
        (&[1024][..], true),
        (&[1025], false),
        // Lines of a cookie become one.
        (&[511, 511], true),
        (&[511, 512], false),
    ] {
        let lines: String = lengths.iter().map(|length| format!("Cookie:  {}\t\r\n", "v".repeat(*length))).collect();
        let raw = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Other: {}\r\n{lines}\r\n", "v".repeat(1024));
        let mut request = Request::get("/").header("x-other", "v".repeat(1024));
        for length in lengths {
            request = request.header("cookie", "v".repeat(*length));
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        for answer in [armiger.raw(&raw).await.answer().await, http2.request(request).await] {
            if is_lawful {
                answer.assert_status(200);
                continue;
            }
            answer.assert_problem(431, "header-too-long");
            let id = answer.header("x-request-id");
            let line = armiger.logged(|line| line["request_id"] == *id).await;
            assert_eq!(line["reason"], "header-too-long", "{line:#}");
        }
    }
    assert_eq!(backend.count(), 4);
    armiger.until_metric("armiger_limit_hits_total{limit=\"header_value_bytes_max\"}", 4.0).await;
    assert_eq!(armiger.metric("armiger_limit_hits_total{limit=\"headers_max\"}").await, 0.0);
}

/// Without a word about it, one value may have 16 KiB, and where all together may have less, as much as those.
#[tokio::test]
async fn a_value_of_a_header_is_bounded_by_default() {
    let backend = strict().await;
    for (listener, most) in [("", 16_384), ("limits: {header_bytes_max: 64KiB}", 16_384)] {
        let armiger = Armiger::with(Config::to(&backend).listener(listener)).await;
        for (length, status) in [(most, 200), (most + 1, 431)] {
            let raw = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "v".repeat(length));
            armiger.raw(&raw).await.answer().await.assert_status(status);
        }
    }
    let refused = Armiger::try_with(
        Config::to(&backend).listener("limits: {header_bytes_max: 4KiB, header_value_bytes_max: 5KiB}"),
    );
    let report = refused.await.err().expect("the configuration is refused");
    assert!(report.contains("header_value_bytes_max") && report.contains("4KiB"), "{report}");
    let _ = Armiger::with(Config::to(&backend).listener("limits: {header_bytes_max: 4KiB}")).await;
}

#[tokio::test]
async fn what_may_come_once_and_comes_twice_is_refused_on_every_protocol() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let (mut http2, connection) =
        h2::client::handshake(TcpStream::connect(armiger.address()).await.unwrap()).await.unwrap();
    tokio::spawn(connection);

    for (name, value, slug) in [
        ("authorization", "Bearer x", "bad-header"),
        ("content-type", "text/plain", "bad-header"),
        ("host", "a", "bad-host"),
    ] {
        let host = if name == "host" { "" } else { "Host: a\r\n" };
        let raw = format!("GET / HTTP/1.1\r\n{host}{name}: {value}\r\n{name}: {value}\r\n\r\n");
        armiger.raw(&raw).await.answer().await.assert_problem(400, slug);
        let twice = Request::get("http://a/").header(name, value).header(name, value);
        let (answer, _) = http2.send_request(twice.body(()).unwrap(), true).unwrap();
        assert_eq!(within("the refusal", answer).await.unwrap().status(), 400, "{name}");
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_refused_head_is_told_with_the_method_it_asked_with() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    for (head, method) in [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", "POST"),
        ("\r\nDELETE / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "DELETE"),
        ("\u{16}\u{3}\u{1}", "-"),
        ("GETGETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\n\r\n", "-"),
    ] {
        let mut conversation = armiger.raw(head).await;
        let id = conversation.answer().await.assert_status(400).header("x-request-id").to_owned();
        let line = armiger.logged(|line| line["request_id"] == *id).await;
        assert_eq!(line["method"], method, "{head:?}: {line:#}");
    }
    for (method, count) in [("POST", 1.0), ("DELETE", 1.0), ("other", 2.0)] {
        let counted =
            format!("armiger_http_requests_total{{method=\"{method}\",route=\"(none)\",status_class=\"4xx\"}}");
        armiger.until_metric(&counted, count).await;
    }
}

#[tokio::test]
async fn a_head_of_http2_is_bounded_and_its_refusal_told() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {header_bytes_max: 4KiB}")).await;
    let mut connection = armiger.connect_h2c().await;
    let with =
        |length: usize| Request::get("/").header("x-big", "v".repeat(length)).body(Full::<Bytes>::default()).unwrap();

    connection.request(with(3500)).await.assert_status(200);
    let refusal = connection.request(with(5000)).await;
    refusal.assert_problem(431, "headers-too-large");
    let id = refusal.header("x-request-id");
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    assert_eq!((&line["status"], &line["reason"]), (&431.into(), &"headers-too-large".into()), "{line:#}");
    armiger.until_metric("armiger_limit_hits_total{limit=\"header_bytes_max\"}", 1.0).await;
    // Far above it, h2 holds nothing of it, and answers by itself.
    connection.request(with(20_000)).await.assert_status(431).assert_no_header("content-type");
    connection.request(with(10)).await.assert_status(200);
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn another_scheme_than_http_is_refused_on_http2_too() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let mut connection = armiger.connect_h2c().await;
    for (scheme, status) in [("http", 200), ("https", 200), ("HTTPS", 200), ("ftp", 400), ("ws", 400)] {
        let request = Request::get(format!("{scheme}://a/")).body(Full::<Bytes>::default()).unwrap();
        let response = connection.request(request).await;
        assert_eq!(response.status, status, "{scheme}: {response:#?}");
        if status == 400 {
            response.assert_problem(400, "bad-framing");
        }
    }
}

/// hyper has no way to say 100 on HTTP/2, and a client that waits for it without an end is not left without an answer.
#[tokio::test]
async fn a_client_of_http2_that_waits_to_be_asked_for_its_body_is_answered() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {body_idle: 200ms}")).await;
    let (_sender, body) = streamed(200);
    let request = Request::post("/").header("expect", "100-continue").body(body.into_body()).unwrap();
    armiger.connect_h2c().await.request(request).await.assert_problem(408, "request-timeout");
}

/// As with nginx and HAProxy: a client that waits for an answer keeps its side open.
#[tokio::test]
async fn a_client_that_ends_its_side_before_the_answer_counts_as_gone() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::proxying(&backend).await;
    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.arrived(1).await;
    conversation.finish().await;
    conversation.assert_closed().await;
    backend.closed(1).await;
    let line = armiger.logged(|_| true).await;
    assert_eq!((&line["reason"], &line["cut_by"]), (&"client-closed".into(), &"client".into()), "{line:#}");
}

/// What the gate refuses of HTTP/1.1 would reach an HTTP/1.1 upstream by another way.
#[tokio::test]
async fn a_query_that_is_not_encoded_is_refused_on_http2_too() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    armiger.raw("GET /q?\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await.assert_status(400);
    let mut connection = armiger.connect_h2c().await;
    connection.get("/q?\u{e9}").await.assert_problem(400, "bad-path");
    connection.get("/q?%C3%A9&{a}=[1]").await.assert_status(200);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn an_endless_head_is_cut_off_by_default_too() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n").await;
    conversation.write(format!("x: {}\r\n", "v".repeat(300 * 1024))).await;

    assert_refused(&mut conversation, "300 KiB of one header", 431, "headers-too-large").await;
    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn lawful_oddities_pass_and_are_written_anew() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    // The request; then as the back end gets it: target, host, body.
    for (request, target, host, body) in [
        ("\r\nGET /crlf HTTP/1.1\r\nHost: a\r\n\r\n", "/crlf", "a", ""),
        ("GET /blanks HTTP/1.1\r\nHost: \t a \t\r\nX:\r\nY:\t\t\r\n\r\n", "/blanks", "a", ""),
        ("GET /case HTTP/1.1\r\nhOsT: A.Example:8080\r\n\r\n", "/case", "A.Example:8080", ""),
        ("GET /v6 HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "/v6", "[::1]:8080", ""),
        ("GET http://b:81/abs?x=y HTTP/1.1\r\nHost: a\r\n\r\n", "/abs?x=y", "b:81", ""),
        ("GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", "/", "b", ""),
        ("GET https://b?q HTTP/1.1\r\nHost: a\r\n\r\n", "/?q", "b", ""),
        ("GET /old HTTP/1.0\r\nHost: a\r\n\r\n", "/old", "a", ""),
        ("POST /old HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "/old", "a", "hello"),
        ("POST /zeros HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello", "/zeros", "a", "hello"),
        ("GET /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "/body", "a", "hello"),
        ("GET /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "/body", "a", "x"),
        ("DELETE /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "/body", "a", "x"),
        ("POST /none HTTP/1.1\r\nHost: a\r\n\r\n", "/none", "a", ""),
        ("POST /empty HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "/empty", "a", ""),
        (
            "POST /te HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n00005\r\nhello\r\n000\r\n\r\n",
            "/te",
            "a",
            "hello",
        ),
        (
            "POST /ext HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             5;a;b=c ; d=\"e ; \\\" 0\"\r\nhello\r\nA;x\r\n, 10 bytes\r\n0;last\r\n\r\n",
            "/ext",
            "a",
            "hello, 10 bytes",
        ),
        (
            "POST /data HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "/data",
            "a",
            "0\r\n\r\n",
        ),
        ("M-SEARCH /method HTTP/1.1\r\nHost: a\r\n\r\n", "/method", "a", ""),
        ("get /method HTTP/1.1\r\nHost: a\r\n\r\n", "/method", "a", ""),
    ] {
        for is_split in [false, true] {
            let mut conversation = armiger.raw("").await;
            if is_split {
                dribble(&mut conversation, request).await;
            } else {
                conversation.write(request).await;
            }
            let answered = conversation.try_answer().await;

            let answer = answered.unwrap_or_else(|why| panic!("{request:?}: {why:?}"));
            assert_eq!(answer.status, 200, "{request:?}: {answer:#?}");
            let seen = backend.requests().pop().expect("somebody answered");
            let got = (seen.target.as_str(), seen.header("host"), String::from_utf8(seen.body.clone()).unwrap());
            assert_eq!(got, (target, host, body.to_owned()), "{request:?}");
            assert!(seen.head_text().lines().next().unwrap().ends_with(" HTTP/1.1"), "{request:?}");
        }
    }
}

#[tokio::test]
async fn trailers_pass() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let request = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";
    armiger.raw(request).await.answer().await.assert_status(200);

    let seen = backend.only().await;
    assert_eq!((seen.body.as_slice(), &seen.trailers["x-sum"]), (&b"hello"[..], &"7".parse().unwrap()));
}

#[tokio::test]
async fn a_request_of_http10_without_host_is_proxied_and_answered_in_its_own_way() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let backend = Backend::raw(Script::new().request().write(chunked).again()).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET /old HTTP/1.0\r\n\r\n").await;

    // HTTP/1.0 knows no chunks: such an answer ends with its connection.
    let answer = conversation.answer().await;
    assert_eq!(answer.assert_status(200).assert_no_header("transfer-encoding").text(), "hello");
    let seen = backend.only().await;
    assert_eq!(seen.header("host"), backend.address().to_string());
}

#[tokio::test]
async fn a_request_may_be_cut_into_packets_anywhere() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let request = "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nT: u\r\n\r\n\
                   POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /c HTTP/1.1\r\nHost: a\r\n\r\n";

    for cut in 1..request.len() {
        let mut conversation = armiger.raw(&request[..cut]).await;
        tokio::task::yield_now().await;
        conversation.write(&request[cut..]).await;
        conversation.answers(3).await;
        let seen = backend.received(cut * 3).await;
        let targets: Vec<_> = seen[cut * 3 - 3..].iter().map(|seen| (seen.target.as_str(), &seen.body[..])).collect();
        assert_eq!(targets, [("/a", &b"hello"[..]), ("/b", b"abc"), ("/c", b"")], "cut at {cut}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_after_the_other() {
    let signal = Signal::new();
    let script = Script::new().request().wait(&signal).write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst");
    let backend = Backend::raw(script.request().write(OK).again()).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation =
        armiger.raw(format!("{}{}", SMUGGLED.replace("smuggled", "1"), SMUGGLED.replace("smuggled", "2"))).await;
    backend.received(1).await;
    // Others are served meanwhile: this is not about armiger being stuck.
    armiger.until_metric("armiger_upstream_connections_opened_total{upstream=\"app\"}", 1.0).await;
    assert_eq!(backend.requests().len(), 1, "the second request overtook the first");
    signal.send();

    let answers = conversation.answers(2).await;
    assert_eq!((answers[0].text(), answers[1].text()), ("first", "ok"));
    let targets: Vec<_> = backend.received(2).await.into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/1", "/2"]);
}

#[tokio::test]
async fn a_lawful_request_before_an_unlawful_one_is_answered_first() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation =
        armiger.raw(format!("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost : a\r\n\r\n{SMUGGLED}")).await;

    conversation.answer().await.assert_status(200);
    assert_refused(&mut conversation, "the second", 400, "bad-framing").await;
    assert_eq!(backend.only().await.target, "/1");
}

#[tokio::test]
async fn a_body_that_looks_like_requests_is_a_body() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let inner = format!("0\r\n\r\n{SMUGGLED}{SMUGGLED}");

    let length = inner.len();
    let chunked = format!("{length:x}\r\n{inner}\r\n0\r\n\r\n");
    let request = format!(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}\
         GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    armiger.raw(&request).await.answers(3).await;
    let mut dribbled = armiger.raw("").await;
    dribble(&mut dribbled, &request).await;
    dribbled.answers(3).await;

    let seen = backend.received(6).await;
    let got: Vec<_> = seen.iter().map(|seen| (seen.target.as_str(), seen.body == inner.as_bytes())).collect();
    assert_eq!(got, [("/1", true), ("/2", true), ("/3", false), ("/1", true), ("/2", true), ("/3", false)]);
}

/// Routes that answer without a look at the body, and one that reads it.
fn early() -> &'static str {
    r#"
    - {name: next, match: {path: /next}, proxy: {upstream: app}}
    - {name: get, match: {path: /get, methods: [GET]}, proxy: {upstream: app}}
    - {name: small, match: {path: /small}, policies: {body_limit: {max: 8B}}, proxy: {upstream: app}}
    - {name: blocked, match: {path: /blocked}, policies: {ip_filter: {deny: [127.0.0.0/8]}}, proxy: {upstream: app}}
    - {name: fixed, match: {path: /fixed}, respond: {status: 200, body: fixed}}
    - {name: moved, match: {path: /moved}, redirect: {to: /next}}
    "#
}

const EARLY_ANSWERS: [(&str, &str, u16); 7] = [
    ("POST", "/nowhere", 404),
    ("POST", "/get", 405),
    ("POST", "/small", 413),
    ("POST", "/blocked", 403),
    ("POST", "/fixed", 200),
    ("POST", "/moved", 308),
    ("TRACE", "/next", 405),
];

/// Two readers of one length must read the same number.
#[tokio::test]
async fn a_length_with_zeros_in_front_goes_out_as_a_plain_number() {
    for protocol in ["http1", "h2c"] {
        let backend = Backend::echo().await;
        let armiger = Armiger::with(Config::to(&backend).upstream(&format!("protocol: {protocol}"))).await;
        for length in ["4", "04", "0004"] {
            let lines = format!("content-length: {length}\r\nconnection: close\r\n\r\ntrue");
            armiger.raw(format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}")).await.answer().await.assert_status(200);
            let request = Request::post("/").header("content-length", length).body(Full::<Bytes>::from("true"));
            armiger.connect_h2c().await.request(request.unwrap()).await.assert_status(200);
        }
        let told: Vec<_> =
            backend.received(6).await.iter().map(|seen| seen.header("content-length").to_owned()).collect();
        assert_eq!(told, ["4"; 6], "{protocol}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_read_is_never_taken_for_a_request() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).routes(early())).await;
    let next = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    for (method, path, status) in EARLY_ANSWERS {
        for padding in [0, 20_000, 3_000_000] {
            let body = format!("{SMUGGLED}{}{SMUGGLED}", "x".repeat(padding));
            let length = body.len();
            let lengthy = format!("Content-Length: {length}\r\n\r\n{body}");
            let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n");
            for (is_chunked, framed) in [(false, lengthy), (true, chunked)] {
                if is_chunked && path == "/small" {
                    // Its length is not known before it is read.
                    continue;
                }
                let shown = format!("{method} {path} with {length} bytes, chunked: {is_chunked}");
                let mut conversation =
                    armiger.raw(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{framed}{next}")).await;

                let first = conversation.try_answer().await;
                let first = match first {
                    Ok(first) => first,
                    // So much unread that the kernel may reset what was answered.
                    Err(Broken::Reset | Broken::CutInBody(_)) if padding > 1_000_000 => continue,
                    Err(why) => panic!("{shown}: {why:?}"),
                };
                assert_eq!(first.status, status, "{shown}: {first:#?}");
                match conversation.try_answer().await {
                    Ok(second) => assert_eq!((second.status, second.text()), (200, "ok"), "{shown}: {second:#?}"),
                    Err(Broken::Closed | Broken::Reset) => {}
                    Err(why) => panic!("{shown}: {why:?}"),
                }
                conversation.assert_closed().await;
            }
        }
    }

    let strange: Vec<_> = backend.requests().into_iter().filter(|seen| seen.target != "/next").collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

#[tokio::test]
async fn the_rest_of_a_body_that_comes_after_the_answer_is_never_taken_for_a_request() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).routes(early())).await;

    for (method, path, status) in EARLY_ANSWERS {
        let (head, rest) = ("xxxxx", SMUGGLED);
        let length = head.len() + rest.len();
        let mut conversation =
            armiger.raw(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{head}")).await;

        conversation.answer().await.assert_status(status);
        conversation.write(rest).await.write("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;

        match conversation.try_answer().await {
            Ok(second) => assert_eq!((second.status, second.text()), (200, "ok"), "{method} {path}: {second:#?}"),
            Err(Broken::Closed | Broken::Reset) => {}
            Err(why) => panic!("{method} {path}: {why:?}"),
        }
        conversation.assert_closed().await;
    }

    let strange: Vec<_> = backend.requests().into_iter().filter(|seen| seen.target != "/next").collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_refused_midway() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 1KiB}")).await;

    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let mut conversation =
        armiger.raw(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")).await;
    backend.arrived(1).await;
    conversation.write("1\r\nx\r\n0\r\n\r\n").await;

    conversation.answer().await.assert_problem(413, "body-too-large");
    backend.closed(1).await;
    assert!(backend.requests().iter().all(|seen| !seen.whole && seen.target == "/"), "{:#?}", backend.requests());

    // What the policy comes to say is known only then, and is said once.
    let mut short =
        armiger.raw("POST /short HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").await;
    short.answer().await.assert_status(200);
    let verdict = |line: &Value| (line["verdicts"][0]["verdict"].clone(), line["verdicts"][0]["reason"].clone());
    let line = armiger.logged(|line| line["status"] == 413).await;
    assert_eq!(verdict(&line), (json!("reject"), json!("body-too-large")), "{line:#}");
    assert_eq!(line["bytes_in"], 1025, "what was one too many came as well: {line:#}");
    let line = armiger.logged(|line| line["path"] == "/short").await;
    assert_eq!(verdict(&line), (json!("amend"), Value::Null), "{line:#}");
    for (verdict, count) in [("amend", 1.0), ("reject", 1.0), ("pass", 0.0)] {
        let series = format!(
            "armiger_policy_verdicts_total{{mode=\"enforce\",policy=\"body_limit\",route=\"everything\",verdict=\"{verdict}\"}}"
        );
        assert_eq!(armiger.metric(&series).await, count, "{verdict}");
    }
}

/// Where the listener's bound is the lower one, it is not the policy that refuses.
#[tokio::test]
async fn a_body_that_grows_too_long_for_its_listener_is_not_put_down_to_the_policy() {
    let backend = strict().await;
    let config = Config::to(&backend).listener("limits: {body_max: 8B}").policies("body_limit: {max: 8B}");
    let armiger = Armiger::with(config).await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nxxxxxxxxx\r\n0\r\n\r\n";
    armiger.raw(chunked).await.answer().await.assert_problem(413, "body-too-large");
    let line = armiger.logged(|line| line["status"] == 413).await;
    assert_eq!(line["verdicts"][0]["verdict"], "amend", "{line:#}");
}

#[tokio::test]
async fn an_answer_that_ends_the_connection_says_so_and_can_be_read() {
    let backend = strict().await;
    let listener = "limits: {body_rate_min: 100KiB}\ntimeouts: {body_rate: 100ms, body_idle: 300ms}";
    let config = Config::to(&backend).listener(listener).policies("body_limit: {max: 1KiB}");
    let armiger = Armiger::with(config).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";

    // Much more than is read for the sake of the connection, and all of it sent before the client looks for an answer.
    for framed in ["Content-Length: 8388608\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n800000\r\n"] {
        let mut conversation = armiger.raw(format!("{head}{framed}")).await;
        for _ in 0..128 {
            conversation.write("x".repeat(65536)).await;
        }
        conversation.answer().await.assert_problem(413, "body-too-large").assert_header("connection", "close");
        conversation.assert_closed().await;
    }
    // Whoever waits for a word, and is sent none, may never send the body.
    let mut waiting = armiger.raw(format!("{head}Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n")).await;
    waiting.answer().await.assert_problem(413, "body-too-large").assert_header("connection", "close");
    // A little is read, now or when it comes.
    let mut little = armiger.raw(format!("{head}Content-Length: 2000\r\n\r\nxxx")).await;
    little.answer().await.assert_problem(413, "body-too-large").assert_no_header("connection");
    little.write("x".repeat(1997)).await.write("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    little.answer().await.assert_status(200).assert_no_header("connection");

    // The client is silent, or sends too little.
    for framed in ["Content-Length: 900\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n384\r\nabc"] {
        let mut conversation = armiger.raw(format!("{head}{framed}")).await;
        conversation.answer().await.assert_problem(408, "request-timeout").assert_header("connection", "close");
        conversation.assert_closed().await;
        let mut conversation = armiger.raw(format!("{head}{framed}")).await;
        let dribbling = async {
            loop {
                if let Ok(bytes) = tokio::time::timeout(Duration::from_millis(10), conversation.some()).await {
                    return bytes;
                }
                conversation.write("a").await;
            }
        };
        let told = within("a refusal", dribbling).await;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\r\nconnection: close\r\n"), "{told}");
        conversation.assert_closed().await;
    }
}

#[tokio::test]
async fn who_expects_100_gets_it_unless_refused() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 8B}")).await;
    let post =
        |length| format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n");

    let mut welcome = armiger.raw(post(5)).await;
    welcome.answer().await.assert_status(100);
    welcome.write("hello").await.answer().await.assert_status(200);
    let seen = backend.only().await;
    assert!(!seen.has("expect"), "{}", seen.head_text());

    let mut refused = armiger.raw(post(9)).await;
    refused.answer().await.assert_problem(413, "body-too-large");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn an_upgrade_that_no_policy_allows_is_dropped() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for (path, lines) in [
        ("/h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        ("/h2c-alone", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
        ("/h2c-and-more", "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("/tls", "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n"),
    ] {
        let mut conversation = armiger.raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;

        conversation.answer().await.assert_status(200).assert_no_header("upgrade");
        let seen = backend.requests().pop().expect("somebody answered");
        assert_eq!(seen.target, path);
        assert!(!["upgrade", "connection", "http2-settings"].iter().any(|name| seen.has(name)), "{}", seen.head_text());
    }
}

#[tokio::test]
async fn bytes_behind_an_upgrade_that_was_dropped_are_no_tunnel() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let upgrade = "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let mut conversation = armiger.raw(format!("{upgrade}{preface}")).await;

    conversation.answer().await.assert_status(200);
    let rest = conversation.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 505 "), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(backend.only().await.target, "/1");
}

#[tokio::test]
async fn naming_a_header_in_connection_takes_away_only_what_is_the_hops() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;
    let kept = [
        ("host", "a"),
        ("authorization", "Bearer x"),
        ("cookie", "c=d"),
        ("content-length", "5"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outside"),
        ("x-real-ip", "203.0.113.7"),
    ];
    let names: Vec<_> = kept.iter().map(|(name, _)| *name).collect();
    let lines: String = kept.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();

    let request = format!(
        "POST / HTTP/1.1\r\n{lines}X-Forwarded-For: 203.0.113.7\r\nX-Hop: mine\r\nX-Stays: here\r\nKeep-Alive: timeout=9\r\n\
         Connection: {}, x-forwarded-for, x-request-id, via, X-Hop\r\nConnection: close\r\n\r\nhello",
        names.join(", ")
    );
    armiger.raw(request).await.answer().await.assert_status(200);

    let seen = backend.only().await;
    for (name, value) in kept {
        assert_eq!(seen.header(name), value, "{}", seen.head_text());
    }
    assert_eq!(seen.header("x-forwarded-for"), "203.0.113.7, 127.0.0.1");
    assert_eq!((seen.header("x-stays"), seen.body.as_slice()), ("here", &b"hello"[..]));
    assert!(seen.has("via") && seen.has("x-request-id"), "{}", seen.head_text());
    assert!(!["x-hop", "connection", "keep-alive"].iter().any(|name| seen.has(name)), "{}", seen.head_text());
}

#[tokio::test]
async fn what_belongs_to_the_hop_stays_there() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let lines = "Keep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\
                 Proxy-Authenticate: Basic\r\nTE: gzip, trailers;q=0.5\r\nX_Forwarded_For: 203.0.113.7\r\n";
    armiger.raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await.answer().await.assert_status(200);

    let seen = backend.only().await;
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "x_forwarded_for"] {
        assert!(!seen.has(name), "{name} of {}", seen.head_text());
    }
    assert_eq!(seen.header("te"), "trailers");
}

#[tokio::test]
async fn a_header_that_may_stand_once_may_not_stand_twice() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for name in ["Authorization", "Content-Type"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\n{name}: y\r\n\r\n");
        armiger.raw(request).await.answer().await.assert_problem(400, "bad-header");
    }

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn a_head_must_arrive_in_time() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {request_headers: 100ms}")).await;

    let mut halted = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n").await;
    assert_refused(&mut halted, "half a head", 408, "request-timeout").await;

    // Bytes now and then do not help.
    let mut trickling = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
    let told = within("a refusal", async {
        loop {
            match tokio::time::timeout(Duration::from_millis(10), trickling.some()).await {
                Ok(bytes) => return bytes,
                Err(_) => trickling.write("y").await,
            };
        }
    });
    assert!(told.await.starts_with(b"HTTP/1.1 408 "));

    // The second request of a connection has no more time than the first.
    let mut second = armiger.raw("GET /witness HTTP/1.1\r\nHost: a\r\n\r\n").await;
    second.answer().await.assert_status(200);
    second.write("GET /2 HTTP/1.1\r\n").await;
    assert_refused(&mut second, "half a second head", 408, "request-timeout").await;

    // Who said nothing is told nothing.
    armiger.raw("").await.assert_closed().await;
    assert_eq!(backend.only().await.target, "/witness");
    assert!(armiger.metric("armiger_limit_hits_total{limit=\"request_headers\"}").await >= 3.0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {keep_alive: 100ms}")).await;

    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    conversation.answer().await.assert_status(200);

    conversation.assert_closed().await;
    armiger.until_metric("armiger_limit_hits_total{limit=\"keep_alive\"}", 1.0).await;
}

#[tokio::test]
async fn a_body_must_not_pause_for_too_long() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {body_idle: 100ms}")).await;

    for framed in ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n9\r\nabc"] {
        let mut conversation = armiger.raw(format!("POST / HTTP/1.1\r\nHost: a\r\n{framed}")).await;
        assert_refused(&mut conversation, framed, 408, "request-timeout").await;
    }

    backend.closed(2).await;
    assert!(backend.requests().iter().all(|seen| !seen.whole), "{:#?}", backend.requests());
    armiger.logged(|line| line["status"] == 408 && line["reason"] == "request-timeout").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_left() {
    let big = Bytes::from(vec![b'x'; 64 * 1024 * 1024]);
    let backend = Backend::with(move |_| answer(200, big.clone())).await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {body_idle: 100ms}")).await;

    let mut conversation = armiger.raw("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;

    // The back end is let go of as well.
    backend.closed(1).await;
    let line = armiger.logged(|line| line["path"] == "/big").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"client".into()), "{line:#}");
    // And who begins to read after all does not take what is left for the whole.
    let broken = conversation.try_answer().await;
    assert!(
        matches!(broken, Err(Broken::CutInBody(_) | Broken::Reset)),
        "{:?}",
        broken.map(|answer| answer.body.len())
    );
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let backend = Backend::raw(Script::new().head().hang()).await;
    let armiger = Armiger::proxying(&backend).await;

    for (number, request) in [
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        "POST /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
    ]
    .into_iter()
    .enumerate()
    {
        for (round, is_reset) in [false, true].into_iter().enumerate() {
            let before = number * 2 + round;
            let conversation = armiger.raw(request).await;
            backend.arrived(before + 1).await;
            if is_reset {
                conversation.reset()
            } else {
                drop(conversation)
            }
            backend.closed(before + 1).await;
        }
    }

    let lines = armiger.log_lines(8).await;
    assert!(lines.iter().all(|line| line["cut_by"] == "client" || line["reason"] == "client-closed"), "{lines:#?}");
}

/// docs/protocols.md: the FIN of a client that has closed its half is that of one that is gone.
#[tokio::test]
async fn a_client_that_closes_its_half_before_the_answer_has_gone() {
    let backend = Backend::raw(Script::new().head().hang()).await;
    let armiger = Armiger::proxying(&backend).await;
    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.arrived(1).await;

    conversation.finish().await;

    conversation.assert_closed().await;
    backend.closed(1).await;
    let line = armiger.logged(|line| line["path"] == "/").await;
    assert_eq!(
        (&line["reason"], &line["status"], &line["cut_by"]),
        (&"client-closed".into(), &0.into(), &"client".into())
    );
}

#[tokio::test]
async fn a_client_that_leaves_within_the_answer_ends_it() {
    let (chunks, body) = streamed(200);
    let body = std::sync::Mutex::new(Some(body));
    let backend = Backend::with(move |_| body.lock().unwrap().take().unwrap()).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    chunks.data("first").await;
    assert!(conversation.some().await.starts_with(b"HTTP/1.1 200 "));
    conversation.reset();

    chunks.unwanted().await;
    let line = armiger.logged(|line| line["path"] == "/stream").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"client".into()), "{line:#}");
}

#[tokio::test]
async fn a_stream_that_is_reset_takes_its_request_with_it() {
    let backend = Backend::raw(Script::new().head().hang()).await;
    let armiger = Armiger::proxying(&backend).await;

    let connection = armiger.connect_h2c().await;
    let mut stream = connection.share();
    let asking = tokio::spawn(async move { stream.get("/").await });
    backend.arrived(1).await;
    asking.abort();

    backend.closed(1).await;
    armiger.logged(|line| line["cut_by"] == "client").await;
}

/// It would hold a connection of the upstream for as long as it likes, and answering pings is all it takes.
#[tokio::test]
async fn a_stream_that_its_client_does_not_read_is_let_go_alone() {
    let backend = Backend::replies(vec![b'x'; 16 << 20]).await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {body_idle: 300ms}")).await;

    let mut connection = armiger.connect_h2c().await;
    let request = || Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let unread = connection.open(request()).await.unwrap();
    let line = armiger.logged(|line| line["complete"] == false).await;
    assert_eq!(line["cut_by"], "client", "{line:#}");
    backend.closed(1).await;
    armiger.until_metric("armiger_limit_hits_total{limit=\"body_idle\"}", 1.0).await;

    // The connection serves on.
    drop(unread);
    connection.request(request()).await.assert_status(200);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_one_closes() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {connections_max: 2}")).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    let mut first = armiger.raw(get).await;
    first.answer().await.assert_status(200);
    let mut second = armiger.raw(get).await;
    second.answer().await.assert_status(200);
    let mut third = armiger.raw(get).await;
    // The two that are in are served as before.
    first.write(get).await.answer().await.assert_status(200);
    second.write(get).await.answer().await.assert_status(200);
    assert_eq!(backend.count(), 4);
    armiger.until_metric("armiger_limit_hits_total{limit=\"connections_max\"}", 1.0).await;
    armiger.until_metric("armiger_listener_connections{listener=\"http\"}", 2.0).await;

    drop(first);

    third.answer().await.assert_status(200);
}

#[tokio::test]
async fn requests_in_flight_beyond_the_bound_are_refused_at_once() {
    let signal = Signal::new();
    let backend = Backend::raw(Script::new().request().wait(&signal).write(OK)).await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {in_flight_max: 1}")).await;

    let mut first = armiger.raw("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.received(1).await;
    armiger.get("/2").await.assert_problem(503, "overloaded");
    signal.send();

    first.answer().await.assert_status(200);
    armiger.get("/3").await.assert_status(200);
    let targets: Vec<_> = backend.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/1", "/3"]);
}

#[tokio::test]
async fn a_connection_serves_a_bounded_number_of_requests() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {requests_max: 2}")).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    let mut conversation = armiger.raw(format!("{get}{get}{SMUGGLED}")).await;
    conversation.answer().await.assert_status(200).assert_no_header("connection");
    conversation.answer().await.assert_status(200).assert_header("connection", "close");

    conversation.assert_closed().await;
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_path_has_one_spelling_or_is_refused() {
    let backend = strict().await;
    let routes = r#"
    - {name: secret, match: {path_prefix: /secret}, policies: {ip_filter: {deny: [127.0.0.0/8]}}, proxy: {upstream: app}}
    - {name: everything, match: {path: "/{rest...}"}, proxy: {upstream: app}}
    "#;
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (target, expected) in [
        // As the back end gets it.
        ("/", Ok("/")),
        ("/a/./b", Ok("/a/b")),
        ("/a/../b", Ok("/b")),
        ("/a/%2e%2e/b", Ok("/b")),
        ("/a/.%2E/b", Ok("/b")),
        ("//a///b", Ok("/a/b")),
        ("/%61", Ok("/a")),
        ("/a%c3%a9", Ok("/a%C3%A9")),
        ("/a%2520b", Ok("/a%2520b")),
        ("/a/%252e%252e/b", Ok("/a/%252e%252e/b")),
        ("/%252fa", Ok("/%252fa")),
        ("/a?b=/../c;%2f%00\\", Ok("/a?b=/../c;%2f%00\\")),
        ("//evil.example/x", Ok("/evil.example/x")),
        // Refused, whoever is asked.
        ("/..", Err((400, "bad-path"))),
        ("/../x", Err((400, "bad-path"))),
        ("/a/../../x", Err((400, "bad-path"))),
        ("/%2e%2e/x", Err((400, "bad-path"))),
        ("/%", Err((400, "bad-path"))),
        ("/%4", Err((400, "bad-path"))),
        ("/%zz", Err((400, "bad-path"))),
        ("/a/..;/b", Err((400, "bad-path"))),
        ("/a/..%2fb", Err((400, "bad-path"))),
        ("/a/..%5cb", Err((400, "bad-path"))),
        ("/a\\..\\b", Err((400, "bad-path"))),
        ("/a%2fb", Err((400, "bad-path"))),
        ("/a%2Fb", Err((400, "bad-path"))),
        ("/a%00b", Err((400, "bad-path"))),
        ("/a\\b", Err((400, "bad-path"))),
        ("/a%5cb", Err((400, "bad-path"))),
        ("/a;b=c", Err((400, "bad-path"))),
        // No spelling leads round a policy.
        ("/secret", Err((403, "address-blocked"))),
        ("/secret/x", Err((403, "address-blocked"))),
        ("/./secret", Err((403, "address-blocked"))),
        ("//secret", Err((403, "address-blocked"))),
        ("/x/../secret", Err((403, "address-blocked"))),
        ("/x/%2e%2e/secret", Err((403, "address-blocked"))),
        ("/%73ecret", Err((403, "address-blocked"))),
        ("http://a/secret", Err((403, "address-blocked"))),
        ("/x/..;/secret", Err((400, "bad-path"))),
        ("/x%2f..%2fsecret", Err((400, "bad-path"))),
        ("/secret;x", Err((400, "bad-path"))),
        ("/secret%2fx", Err((400, "bad-path"))),
    ] {
        let before = backend.count();
        let answer = armiger.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await.answer().await;
        match expected {
            Ok(seen) => {
                assert_eq!(answer.status, 200, "{target}: {answer:#?}");
                assert_eq!(backend.requests()[before].target, seen, "{target}");
            }
            Err((status, slug)) => {
                assert_eq!(answer.status, status, "{target}: {answer:#?}");
                answer.assert_problem(status, slug);
                assert_eq!(backend.count(), before, "{target}");
            }
        }
    }
}

#[tokio::test]
async fn a_route_may_allow_what_paths_hold() {
    let backend = strict().await;
    let allow = "path_allow: [encoded_slash, encoded_nul, backslash, semicolon]";
    let routes = format!(
        r#"
    - {{name: lax, match: {{path: "/lax/{{rest...}}", {allow}}}, proxy: {{upstream: app}}}}
    - {{name: everything, match: {{path: "/{{rest...}}"}}, proxy: {{upstream: app}}}}
    "#
    );
    let armiger = Armiger::with(Config::to(&backend).routes(&routes)).await;

    for (target, seen) in [
        ("/lax/a%2fb", "/lax/a%2Fb"),
        ("/lax/a%00b", "/lax/a%00b"),
        ("/lax/a\\b", "/lax/a%5Cb"),
        ("/lax/a;b=c", "/lax/a;b=c"),
    ] {
        let before = backend.count();
        armiger.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await.answer().await.assert_status(200);
        assert_eq!(backend.requests()[before].target, seen, "{target}");
    }
    let before = backend.count();
    // Allowed for one route is not allowed for another, and a dot segment for whoever splits there never is.
    for target in ["/strict/a%2fb", "/lax/..%2fb", "/lax/..;/b", "/lax%2fa", "/lax;/a"] {
        let answer = armiger.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await.answer().await;
        answer.assert_problem(400, "bad-path");
    }
    assert_eq!(backend.count(), before);
}

#[tokio::test]
async fn methods_that_reflect_or_tunnel_are_refused() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for request in [
        "TRACE / HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
    ] {
        let refusal = armiger.raw(request).await.answer().await;
        refusal.assert_problem(405, "method-not-allowed");
        assert!(!refusal.text().contains("secret"));
    }

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn bytes_behind_a_connect_that_was_refused_are_no_tunnel() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\u{16}\u{3}\u{1}tunnelled").await;

    conversation.answer().await.assert_problem(405, "method-not-allowed");
    let rest = conversation.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&rest));
    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn options_of_the_server_are_answered_here() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    armiger.raw("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await.answer().await.assert_status(204);

    assert_untouched(&armiger, &backend).await;
}

#[tokio::test]
async fn a_request_that_was_here_before_is_refused() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("via: edge-7")).await;
    let get = |via: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{via}\r\n");

    for via in ["Via: 1.1 edge-7\r\n", "Via: 1.1 edge, 1.1 Edge-7 (x)\r\n", "Via: 2 edge\r\nVia: HTTP/1.1 edge-7\r\n"] {
        armiger.raw(get(via)).await.answer().await.assert_problem(508, "loop-detected");
    }
    assert_eq!(backend.count(), 0);

    armiger.raw(get("Via: 1.1 edge-7.example\r\n")).await.answer().await.assert_status(200);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_loop_through_armiger_itself_ends() {
    let mut backend = Backend::replies("never").await;
    let address = backend.address();
    backend.stop();
    // Its own upstream, on the port that the back end left.
    let yaml = Config::to_url(&format!("http://{address}")).listener(&format!("address: {address}"));
    let armiger = Armiger::with(yaml).await;

    armiger.get("/").await.assert_problem(508, "loop-detected");
}

const FORGED: [(&str, &str); 11] = [
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-user", "root"),
    ("forwarded", "for=203.0.113.7"),
    ("x-real-ip", "203.0.113.7"),
    ("true-client-ip", "203.0.113.7"),
    ("x-original-url", "/admin"),
    ("x-request-id", "chosen-by-the-client"),
];

#[tokio::test]
async fn a_stranger_cannot_say_where_a_request_came_from() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    let lines: String = FORGED.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();

    let answer = armiger.raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await.answer().await;

    let seen = backend.only().await;
    for (name, value) in FORGED {
        assert!(seen.headers.get_all(name).iter().all(|found| found != value), "{name} of {}", seen.head_text());
    }
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!((seen.header("x-forwarded-host"), seen.header("x-forwarded-proto")), ("a", "http"));
    for name in ["x-forwarded-prefix", "x-forwarded-user", "x-real-ip", "true-client-ip", "x-original-url"] {
        assert!(!seen.has(name), "{name} of {}", seen.head_text());
    }
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
    let line = armiger.logged(|line| line["request_id"] == answer.header("x-request-id")).await;
    assert_eq!(line["client"], "127.0.0.1", "{line:#}");
}

#[tokio::test]
async fn a_trusted_proxy_says_where_a_request_came_from() {
    let backend = strict().await;
    let routes = r#"
    - {name: blocked, match: {path: /blocked}, policies: {ip_filter: {deny: [203.0.113.7]}}, proxy: {upstream: app}}
    - {name: everything, match: {path: "/{rest...}"}, proxy: {upstream: app}}
    "#;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]").routes(routes)).await;

    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
                   X-Request-Id: from-the-edge.1\r\nForwarded: for=198.51.100.2\r\n\r\n";
    let answer = armiger.raw(request).await.answer().await;

    answer.assert_status(200).assert_header("x-request-id", "from-the-edge.1");
    let seen = backend.only().await;
    assert_eq!(seen.header("x-forwarded-for"), "198.51.100.1, 203.0.113.7, 127.0.0.1");
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-request-id")), ("https", "from-the-edge.1"));
    // The header that nobody was told to read could say something else.
    assert!(!seen.has("forwarded"), "{}", seen.head_text());
    let blocked = request.replace("GET /", "GET /blocked");
    armiger.raw(blocked).await.answer().await.assert_problem(403, "address-blocked");
    // What stands left of it was said by a stranger, and counts for nothing.
    let forged = "GET /blocked HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n\r\n";
    armiger.raw(forged).await.answer().await.assert_status(200);
}

#[tokio::test]
async fn a_request_id_that_is_none_is_replaced_whoever_sends_it() {
    let backend = strict().await;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;

    let long = "x".repeat(129);
    for id in ["", "a b", "a\"b", "<script>", "a,b", "\u{e9}", long.as_str()] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
        let answer = armiger.raw(request).await.answer().await;
        assert_ne!(answer.assert_status(200).header("x-request-id"), id);
    }
}

#[tokio::test]
async fn a_refusal_says_nothing_of_what_stands_behind() {
    let mut backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;
    let address = backend.address();
    backend.stop();

    let request = Request::get("/x?token=secret").header("host", "shop.example.com").body(Full::<Bytes>::default());
    let refusal = armiger.request(request.unwrap()).await;

    refusal.assert_problem(502, "upstream-connect");
    let said = format!("{:?} {}", refusal.headers, refusal.text());
    for secret in [&address.to_string(), &address.port().to_string(), "127.0.0.1", "secret"] {
        assert!(!said.contains(secret), "{secret} stands in {said}");
    }
}

/// Whoever writes it believes that addresses are taken from the header; without trust none is.
#[tokio::test]
async fn a_client_address_that_nobody_is_trusted_to_name_is_a_mistake() {
    let backend = Backend::replies("ok").await;

    let refused = Armiger::try_with(Config::to(&backend).listener("client_address: {hops: 2}")).await;

    let report = refused.err().expect("the configuration is refused");
    assert!(report.contains("none is trusted"), "{report}");
}
