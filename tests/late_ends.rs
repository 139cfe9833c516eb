//! Answers of HTTP/2 upstreams whose stream ends in a frame of its own, behind all that was announced.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{Armiger, Config, within};

/// How an upstream ends its streams, a while after their data.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Empty,
    Trailers,
    Never,
}

/// An upstream that answers `body` with its length. Tells of each stream how it ended: `None`, or why it was reset.
async fn upstream(body: &'static str, end: End) -> (String, mpsc::Receiver<Option<h2::Reason>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (ended, ends) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ended = ended.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let ended = ended.clone();
                    tokio::spawn(async move {
                        let head = Response::builder().header("content-length", body.len()).body(()).unwrap();
                        let mut stream = respond.send_response(head, false).unwrap();
                        if !body.is_empty() {
                            stream.send_data(Bytes::from_static(body.as_bytes()), false).unwrap();
                        }
                        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
                        let wait = if end == End::Never { Duration::from_secs(15) } else { Duration::from_millis(100) };
                        let reset = tokio::time::timeout(wait, reset).await.ok().map(Result::unwrap);
                        match end {
                            _ if reset.is_some() => {}
                            End::Trailers => {
                                let trailers = HeaderMap::from_iter(
                                    [("x-sum", HeaderValue::from_static("7"))]
                                        .map(|(name, value)| (http::HeaderName::from_static(name), value)),
                                );
                                stream.send_trailers(trailers).unwrap();
                            }
                            _ => stream.send_data(Bytes::new(), true).unwrap(),
                        }
                        ended.send(reset).await.unwrap();
                    });
                }
            });
        }
    });
    (url, ends)
}

async fn before(url: &str) -> Armiger {
    Armiger::with(Config::to_url(url).upstream("protocol: h2c")).await
}

#[tokio::test]
async fn an_answer_is_complete_once_all_that_was_announced_is_out() {
    for body in ["hello", ""] {
        for end in [End::Empty, End::Trailers] {
            let (url, mut ends) = upstream(body, end).await;
            let armiger = before(&url).await;
            let mut connection = armiger.connect().await;
            for _ in 0..3 {
                assert_eq!(connection.get("/").await.assert_status(200).text(), body);
            }
            for line in armiger.log_lines(3).await {
                assert_eq!((&line["complete"], &line["bytes_out"]), (&true.into(), &body.len().into()), "{line}");
                assert!(line.get("cut_by").is_none() && line.get("reason").is_none(), "{line}");
            }
            let cut = r#"armiger_answers_cut_total{reason="client-closed",route="everything"}"#;
            assert_eq!(armiger.metric(cut).await, 0.0);
            for _ in 0..3 {
                assert_eq!(within("an end", ends.recv()).await, Some(None), "the answer was wanted");
            }
        }
    }
}

#[tokio::test]
async fn a_client_of_http2_gets_what_follows_the_data() {
    let (url, mut ends) = upstream("hello", End::Trailers).await;
    let armiger = before(&url).await;
    let answer = armiger.connect_h2c().await.get("/").await;
    assert_eq!(answer.assert_status(200).text(), "hello");
    assert_eq!(answer.trailers["x-sum"], "7");
    assert_eq!(armiger.logged(|_| true).await["complete"], true);
    assert_eq!(within("an end", ends.recv()).await, Some(None));
}

#[tokio::test]
async fn an_end_that_does_not_come_is_not_waited_for_without_a_bound() {
    let (url, mut ends) = upstream("hello", End::Never).await;
    let armiger = before(&url).await;
    armiger.get("/").await.assert_status(200);
    assert_eq!(armiger.logged(|_| true).await["complete"], true);
    assert_eq!(within("the reset", ends.recv()).await, Some(Some(h2::Reason::CANCEL)));
}
