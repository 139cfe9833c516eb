//! Requests that are sent again while their body still comes: what has passed of it is kept, and the rest follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{Armiger, Backend, Config, Script, within};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The head of an upload and its body in two pieces.
fn pieces(is_chunked: bool) -> (&'static str, &'static str, &'static str) {
    if is_chunked {
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\n01234\r\n", "5\r\n56789\r\n0\r\n\r\n")
    } else {
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", "01234", "56789")
    }
}

#[tokio::test]
async fn an_upload_that_meets_a_closing_connection_is_sent_again_whatever_has_come_of_it() {
    for is_chunked in [false, true] {
        for begin in ["", "01234"] {
            let backend = Backend::raw_each(|_| Script::new().request().write(OK).head()).await;
            let armiger = Armiger::with_workers(1, Config::to(&backend)).await;
            armiger.get("/").await.assert_status(200);
            let (head, one, other) = pieces(is_chunked);
            let mut conversation = armiger.raw(head).await;
            if !begin.is_empty() {
                conversation.write(one).await;
            }
            backend.closed(1).await;
            if begin.is_empty() {
                conversation.write(one).await;
            }
            conversation.write(other).await;
            conversation.answer().await.assert_status(200);
            let seen = backend.requests();
            assert_eq!(seen.last().unwrap().body, b"0123456789", "{is_chunked} {begin}");
            assert_eq!(backend.connections(), 2);
            let line = armiger.logged(|line| line["method"] == "PUT").await;
            assert_eq!(line["bytes_in"], 10);
        }
    }
}

#[tokio::test]
async fn each_try_has_the_body_from_its_begin() {
    for is_chunked in [false, true] {
        let tries = |n| if n < 2 { Script::new().head().reset() } else { Script::new().request().write(OK) };
        let backend = Backend::raw_each(tries).await;
        let upstream = "retry: {attempts: 3, when: [reset], backoff: {base: 1ms}}";
        let armiger = Armiger::with(Config::to(&backend).upstream(upstream)).await;
        let (head, one, other) = pieces(is_chunked);
        let mut conversation = armiger.raw(format!("{head}{one}")).await;
        backend.arrived(3).await;
        conversation.write(other).await;
        conversation.answer().await.assert_status(200).assert_header("x-armiger-attempts", "3");
        assert_eq!(backend.requests().last().unwrap().body, b"0123456789", "{is_chunked}");
    }
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_not_sent_again_for_its_body_still_comes() {
    let backend = Backend::raw_each(|_| Script::new().request().write(OK).head()).await;
    let armiger = Armiger::with_workers(1, Config::to(&backend)).await;
    armiger.get("/").await.assert_status(200);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234";
    let mut conversation = armiger.raw(head).await;
    conversation.answer().await.assert_problem(502, "upstream-reset");
    assert_eq!(backend.connections(), 1);
}

/// Answers with the whole body.
async fn echo(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (mut body, mut echo) = (request.into_body(), Vec::new());
    while let Some(Ok(data)) = body.data().await {
        echo.extend_from_slice(&data);
    }
    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
    stream.send_data(echo.into(), true).unwrap();
}

/// An upstream of HTTP/2 that refuses the first stream of all, and tells of it. Others it echoes.
async fn refusing() -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (refused, refusals) = mpsc::channel(8);
    tokio::spawn(async move {
        let is_first = Arc::new(AtomicBool::new(true));
        while let Ok((stream, _)) = listener.accept().await {
            let (refused, is_first) = (refused.clone(), is_first.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if is_first.swap(false, Ordering::Relaxed) {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        refused.send(()).await.unwrap();
                        continue;
                    }
                    tokio::spawn(echo(request, respond));
                }
            });
        }
    });
    (url, refusals)
}

#[tokio::test]
async fn an_upload_on_a_stream_that_is_refused_goes_on_on_another() {
    for is_chunked in [false, true] {
        let (url, mut refusals) = refusing().await;
        let armiger = Armiger::with(Config::to_url(&url).upstream("protocol: h2c")).await;
        let (head, one, other) = pieces(is_chunked);
        let mut conversation = armiger.raw(format!("{}{one}", head.replace("PUT", "POST"))).await;
        within("the refusal", refusals.recv()).await;
        conversation.write(other).await;
        assert_eq!(conversation.answer().await.assert_status(200).text(), "0123456789");
    }
}

/// An upstream of HTTP/2 whose first connection takes nothing of a body, and whose others echo. It tells of each upload.
async fn taking_nothing() -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (upload, uploads) = mpsc::channel(8);
    tokio::spawn(async move {
        for window in std::iter::once(0).chain(std::iter::repeat(65_535)) {
            let (stream, _) = listener.accept().await.unwrap();
            let upload = upload.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.initial_window_size(window).handshake::<_, Bytes>(stream).await.unwrap();
                let mut waiting = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.method() == http::Method::GET {
                        respond.send_response(http::Response::new(()), true).unwrap();
                        continue;
                    }
                    upload.send(()).await.unwrap();
                    if window == 0 {
                        waiting.push((request, respond));
                        continue;
                    }
                    tokio::spawn(echo(request, respond));
                }
            });
        }
    });
    (url, uploads)
}

#[tokio::test]
async fn an_upload_that_a_stream_takes_nothing_of_goes_on_on_another() {
    for is_chunked in [false, true] {
        let (url, mut uploads) = taking_nothing().await;
        let retry = "retry: {attempts: 2, when: [timeout], per_try: 50ms, backoff: {base: 1ms}}";
        let armiger = Armiger::with_workers(1, Config::to_url(&url).upstream("protocol: h2c").upstream(retry)).await;
        // Before its SETTINGS came, a connection would take some.
        armiger.get("/").await.assert_status(200);
        let (head, one, other) = pieces(is_chunked);
        let mut conversation = armiger.raw(format!("{head}{one}")).await;
        within("the first try", uploads.recv()).await;
        within("the second try", uploads.recv()).await;
        conversation.write(other).await;
        let answer = conversation.answer().await;
        assert_eq!(answer.assert_status(200).assert_header("x-armiger-attempts", "2").text(), "0123456789");
    }
}
