//! Early ends: answers before requests are over, clients that give up, answers that are cut.

use super::*;

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_over() {
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    let backend = Backend::raw(Script::new().head().write(head).hang()).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation =
        armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nthe beginning of it").await;
    let response = conversation.answer().await;

    assert_eq!(response.assert_status(403).text(), "no");
    conversation.assert_closed().await;
    // What the client still owes cannot come, so the upstream's connection is of no more use.
    backend.closed(1).await;
}

#[tokio::test]
async fn an_early_answer_ends_the_upload_of_an_http2_client_too() {
    let backend = Backend::serving(|_| async { answer(413, "too much") }).await;
    let armiger = Armiger::proxying(&backend).await;
    let (sender, body) = streamed(200);

    let mut connection = armiger.connect_h2c().await;
    let mut other = connection.share();
    let response = connection.open(Request::post("/").body(body.into_body()).unwrap()).await.unwrap();

    assert_eq!(response.status(), 413);
    let body = within("the rest of the answer", response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "too much");
    sender.unwanted().await;
    other.get("/").await.assert_status(413);
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_cancels_the_call() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::proxying(&backend).await;

    let conversation = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.received(1).await;
    drop(conversation);

    backend.closed(1).await;
    let line = armiger.logged(|line| line["path"] == "/").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"client".into()), "{line:#}");
}

#[tokio::test]
async fn a_client_that_gives_up_reading_cancels_the_call() {
    for protocol in ["http1", "h2c"] {
        let (chunks, body) = streamed(200);
        let body = Mutex::new(Some(body));
        let backend = Backend::with(move |_| body.lock().unwrap().take().unwrap()).await;
        let armiger = Armiger::with(Config::to(&backend).upstream(&format!("protocol: {protocol}"))).await;

        let mut connection = armiger.connect().await;
        let mut response = connection.open(request("GET", "/", &[])).await.unwrap();
        chunks.data("the first").await;
        within("the first chunk", response.body_mut().frame()).await.unwrap().unwrap();
        drop((response, connection));

        chunks.unwanted().await;
    }
}

#[tokio::test]
async fn a_reset_stream_cancels_its_call_and_no_other() {
    let signal = Signal::new();
    let wait = signal.clone();
    let (chunks, body) = streamed(200);
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::serving(move |request| {
        let (wait, body) = (wait.clone(), body.clone());
        async move {
            if *request.method() == Method::GET {
                return body.lock().unwrap().take().unwrap();
            }
            wait.wait().await;
            answer(200, "the other")
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;

    let mut connection = armiger.connect_h2c().await;
    let mut other = connection.share();
    let response = connection.open(request("GET", "/", &[])).await.unwrap();
    let (other, ()) = tokio::join!(other.post("/", "body"), async {
        backend.arrived(2).await;
        drop(response);
        chunks.unwanted().await;
        signal.send();
    });

    assert_eq!(other.assert_status(200).text(), "the other");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_never_looks_complete() {
    for head in ["content-length: 9\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let backend = Backend::raw(Script::new().request().write(format!("HTTP/1.1 200 OK\r\n{head}"))).await;
        let armiger = Armiger::proxying(&backend).await;

        let broken = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.try_answer().await;
        let by_h2 = armiger.connect_h2c().await.try_request(request("GET", "/", &[])).await;

        assert!(matches!(&broken, Err(Broken::CutInBody(response)) if response.body == "part"), "{broken:?}");
        assert!(by_h2.is_err(), "{by_h2:?}");
        let line = armiger.logged(|line| line["protocol"] == "HTTP/1.1").await;
        assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"upstream".into()), "{line:#}");
    }
}

/// A close with unread input makes a reset, which takes with it what the client has not read.
#[tokio::test]
async fn an_answer_that_is_cut_takes_none_before_it_along() {
    const LENGTH: usize = 300_000;
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n{}", "w".repeat(LENGTH));
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart";
    let backend = Backend::raw(Script::new().request().write(whole).request().write(cut)).await;
    let armiger = Armiger::proxying(&backend).await;
    let gets = ["/whole", "/cut"].map(|path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).concat();
    let post = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n{}", "p".repeat(70_000));

    let mut client = armiger.raw(gets + &post).await;
    armiger.logged(|line| line["path"] == "/cut").await;

    let whole = client.try_answer().await.is_ok_and(|whole| whole.body.len() == LENGTH);
    assert!(whole, "the answer ahead of it was lost");
    let broken = client.try_answer().await;
    assert!(matches!(&broken, Err(Broken::CutInBody(response)) if response.body == "part"), "{broken:?}");
}

/// An idle connection gives its room back after a second; its client must not notice.
#[tokio::test]
async fn a_connection_that_rested_serves_its_next_request() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {idle: 1500ms}")).await;
    let mut connection = armiger.connect().await;
    connection.get("/first").await.assert_status(200);

    // Rest has no outward sign; what is waited for is the idle connection to the back end being closed, which takes
    // longer than the second after which the client's connection rests.
    within("the idle upstream connection to close", backend.closed(1)).await;
    connection.get("/second").await.assert_status(200);

    assert_eq!(backend.received(2).await.len(), 2);
}
