//! For how long, and for how many, armiger is there.

use super::*;

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
