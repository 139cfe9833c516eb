//! What no head may be, and how long.

use super::*;

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
async fn a_refused_head_is_told_with_the_method_and_path_it_asked_with() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;
    for (head, method, path) in [
        ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", "POST", "/a"),
        ("\r\nDELETE / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "DELETE", "/"),
        ("POST /\u{e9}`?token=s3cret\" HTTP/1.1\r\nhost: a\r\n\r\n", "POST", "/\u{e9}`"),
        ("POST /a#s3cret HTTP/1.1\r\nhost: a\r\n\r\n", "POST", "/a"),
        ("POST http://u:s3cret@a/ HTTP/1.1\r\nhost: a\r\n\r\n", "POST", ""),
        ("\u{16}\u{3}\u{1}", "-", ""),
        ("GETGETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\n\r\n", "-", ""),
    ] {
        let mut conversation = armiger.raw(head).await;
        let id = conversation.answer().await.assert_status(400).header("x-request-id").to_owned();
        let line = armiger.logged(|line| line["request_id"] == *id).await;
        assert_eq!((&line["method"], &line["path"]), (&json!(method), &json!(path)), "{head:?}: {line:#}");
        assert!(!line.to_string().contains("s3cret"), "{line:#}");
    }
    for (method, count) in [("POST", 4.0), ("DELETE", 1.0), ("other", 2.0)] {
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
async fn a_header_that_may_stand_once_may_not_stand_twice() {
    let backend = strict().await;
    let armiger = Armiger::proxying(&backend).await;

    for name in ["Authorization", "Content-Type"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: x\r\n{name}: y\r\n\r\n");
        armiger.raw(request).await.answer().await.assert_problem(400, "bad-header");
    }

    assert_untouched(&armiger, &backend).await;
}
