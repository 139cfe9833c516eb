//! Server-sent events: each at once, for as long as they go on.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};

use super::harness::{Armiger, Backend, Chunks, Config, Connection, streamed, within};

/// A back end that sends the test's events to whoever asks first.
async fn events() -> (Chunks, Backend) {
    let (chunks, mut answer) = streamed(200);
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("x-accel-buffering", "no"),
        ("cache-control", "max-age=60"),
    ] {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = Mutex::new(Some(answer));
    let backend = Backend::with(move |_| answer.lock().unwrap().take().expect("asked once")).await;
    (chunks, backend)
}

fn ask() -> Request<Empty<Bytes>> {
    Request::get("/events")
        .header("accept", "text/event-stream")
        .header("accept-encoding", "gzip, br, zstd")
        .header("last-event-id", "41")
        .body(Empty::new())
        .unwrap()
}

async fn connections(armiger: &Armiger) -> [Connection; 2] {
    [armiger.connect().await, armiger.connect_h2c().await]
}

#[tokio::test]
async fn each_event_goes_out_at_once_and_as_it_is() {
    for version in 0..2 {
        let (chunks, backend) = events().await;
        let armiger =
            Armiger::with(Config::to(&backend).policies("compress: {types: [\"text/*\"], min: 1B}\ncache: {}")).await;
        let mut connection = connections(&armiger).await.into_iter().nth(version).unwrap();
        let answer = connection.open(ask()).await.unwrap();
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        assert!(!answer.headers().contains_key("content-encoding"));
        assert_eq!(backend.arrived(1).await[0].header("last-event-id"), "41");
        let mut body = answer.into_body();
        for id in 42..62 {
            let event = format!("id: {id}\ndata: hello\n\n");
            chunks.data(event.clone()).await;
            // Nothing follows until this one is here.
            let frame = within("the event", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
        }
        drop(chunks);
        assert!(within("the end", body.collect()).await.unwrap().to_bytes().is_empty());
    }
}

#[tokio::test]
async fn a_stream_outlasts_the_routes_timeout_and_silence_makes_no_client_slow() {
    for version in 0..2 {
        let (chunks, backend) = events().await;
        let armiger = Armiger::with(
            Config::to(&backend)
                .route("timeout: 200ms")
                .listener("limits: {body_rate_min: 1MiB}")
                .listener("timeouts: {body_rate: 50ms, body_idle: 100ms, keep_alive: 100ms}"),
        )
        .await;
        let mut connection = connections(&armiger).await.into_iter().nth(version).unwrap();
        let mut body = connection.open(ask()).await.unwrap().into_body();
        for _ in 0..4 {
            // A pause that is longer than every bound of a client, and all together longer than the route's timeout.
            tokio::time::sleep(Duration::from_millis(150)).await;
            chunks.data(": still here\n\n").await;
            within("the comment", body.frame()).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_service_that_is_silent_for_longer_than_it_may_be_is_cut_and_never_looks_complete() {
    let (_chunks, backend) = events().await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {body_idle: 100ms}")).await;
    let mut connection = armiger.connect().await;
    let mut body = connection.open(ask()).await.unwrap().into_body();
    assert!(within("the end", body.frame()).await.unwrap().is_err());
    armiger.logged(|line| line["cut_by"] == "deadline").await;
}

#[tokio::test]
async fn the_service_learns_that_its_reader_is_gone() {
    let (chunks, backend) = events().await;
    let armiger = Armiger::proxying(&backend).await;
    let mut connection = armiger.connect().await;
    let answer = connection.open(ask()).await.unwrap();
    drop((answer, connection));
    chunks.unwanted().await;
}
