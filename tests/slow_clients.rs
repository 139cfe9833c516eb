//! Clients that send or take less than they could: refused where armiger waits for them, and only there.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::harness::{Armiger, Backend, Config, within};

const SLOW: &str = "limits: {body_rate_min: 100KiB}\ntimeouts: {body_rate: 200ms}";
const HITS: &str = "armiger_limit_hits_total{limit=\"body_rate_min\"}";

type Piece = Result<Frame<Bytes>, Infallible>;

/// A body that the test sends piece by piece.
fn piecewise() -> (mpsc::Sender<Piece>, StreamBody<impl futures_util::Stream<Item = Piece> + Send + 'static>) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    (sender, StreamBody::new(pieces))
}

/// Sends a byte now and then, and never an end.
fn dribble() -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let (sender, body) = piecewise();
    tokio::spawn(async move {
        while sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    body
}

#[tokio::test]
async fn an_upload_that_dribbles_is_refused_although_it_never_pauses() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener(SLOW)).await;
    for is_http2 in [false, true] {
        let mut connection = if is_http2 { armiger.connect_h2c().await } else { armiger.connect().await };
        let answer = connection.request(Request::post("/").body(dribble()).unwrap()).await;
        answer.assert_problem(408, "request-too-slow");
    }
    armiger.until_metric(HITS, 2.0).await;
    armiger.logged(|line| line["reason"] == "request-too-slow").await;
}

#[tokio::test]
async fn an_upload_that_dribbles_behind_its_answer_ends_that() {
    for protocol in ["http1", "h2c"] {
        let backend = Backend::echo().await;
        let config = Config::to(&backend).upstream(&format!("protocol: {protocol}")).listener(SLOW);
        let armiger = Armiger::with(config).await;
        for is_http2 in [false, true] {
            let mut connection = if is_http2 { armiger.connect_h2c().await } else { armiger.connect().await };
            let answer = connection.open(Request::post("/").body(dribble()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(within("the cut", answer.into_body().collect()).await.is_err());
        }
        let line = armiger.logged(|line| line["complete"] == false).await;
        assert_eq!(line["cut_by"], "client");
        armiger.until_metric(HITS, 2.0).await;
    }
}

#[tokio::test]
async fn a_client_is_not_slow_while_the_upstream_does_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let armiger = Armiger::with(Config::to_url(&url).listener(SLOW)).await;
    let mut connection = armiger.connect().await;
    let asked = tokio::spawn(async move { connection.post("/", vec![0; 8 << 20]).await.status });
    let (mut upstream, _) = within("a connection", listener.accept()).await.unwrap();
    // Ten times as long as a slow client has.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut left = 8 << 20;
    let mut bytes = vec![0; 64 * 1024];
    while left > 0 {
        left -= within("the body", upstream.read(&mut bytes)).await.unwrap().min(left);
    }
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let status = within("the answer", asked).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(armiger.metric(HITS).await, 0.0);
}

#[tokio::test]
async fn a_caller_of_grpc_may_be_silent_for_as_long_as_its_call_goes_on() {
    let backend = Backend::echo().await;
    let listener = "limits: {body_rate_min: 1MiB}\ntimeouts: {body_rate: 50ms, body_idle: 100ms}";
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c").listener(listener)).await;
    let mut connection = armiger.connect_h2c().await;
    let (sender, body) = piecewise();
    let request = Request::post("/a.B/C").header("content-type", "application/grpc").body(body).unwrap();
    let asked = tokio::spawn(async move { connection.request(request).await });
    for _ in 0..4 {
        sender.send(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    drop(sender);
    let answer = within("the answer", asked).await.unwrap();
    assert_eq!(answer.assert_status(200).body.len(), 20);
}

/// Connects with as small a receive buffer as there is.
async fn narrow(armiger: &Armiger) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&armiger.address().into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

#[tokio::test]
async fn an_answer_that_is_taken_in_sips_is_ended() {
    let backend = Backend::replies(vec![b'x'; 64 << 20]).await;
    let listener = "limits: {body_rate_min: 1GiB}\ntimeouts: {body_rate: 200ms}";
    let armiger = Armiger::with(Config::to(&backend).listener(listener)).await;
    let mut client = narrow(&armiger).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut sip = [0; 16 * 1024];
    let sipping = async {
        loop {
            match client.read(&mut sip).await {
                Ok(0) | Err(_) => return,
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    within("the end of the answer", sipping).await;
    armiger.until_metric(HITS, 1.0).await;
    let line = armiger.logged(|line| line["complete"] == false).await;
    assert_eq!(line["cut_by"], "client");
}

#[tokio::test]
async fn who_keeps_up_and_who_is_let_take_its_time_is_served() {
    let backend = Backend::replies(vec![b'x'; 4 << 20]).await;
    for listener in ["limits: {body_rate_min: 1B}\ntimeouts: {body_rate: 1ms}", "limits: {body_rate_min: 0B}"] {
        let armiger = Armiger::with(Config::to(&backend).listener(listener)).await;
        let (sender, body) = piecewise();
        let sending = tokio::spawn(async move {
            for _ in 0..20 {
                sender.send(Ok(Frame::data(Bytes::from_static(b"xxxxxxxx")))).await.ok();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut connection = armiger.connect().await;
        let answer = connection.open(Request::post("/").body(body).unwrap()).await.unwrap();
        let whole = within("the answer", answer.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(whole.len(), 4 << 20);
        within("the body", sending).await.unwrap();
        assert_eq!(armiger.metric(HITS).await, 0.0);
    }
}
