//! What is odd and lawful all the same.

use super::*;

/// hyper has no way to say 100 on HTTP/2, and a client that waits for it without an end is not left without an answer.
#[tokio::test]
async fn a_client_of_http2_that_waits_to_be_asked_for_its_body_is_answered() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("timeouts: {body_idle: 200ms}")).await;
    let (_sender, body) = streamed(200);
    let request = Request::post("/").header("expect", "100-continue").body(body.into_body()).unwrap();
    armiger.connect_h2c().await.request(request).await.assert_problem(408, "request-timeout");
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
