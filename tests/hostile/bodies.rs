//! Where a body ends, and what is never taken for a request.

use super::*;

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
