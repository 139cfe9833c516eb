//! How tunnels come to an end: what one side does to it is what the other sees, whichever version each speaks (RFC 8441 §5).

use std::io::ErrorKind;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::accept_async;

use crate::harness::{Armiger, Config, within};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One side of a tunnel.
enum Side {
    Tcp(TcpStream),
    Stream(RecvStream, SendStream<Bytes>),
}

/// How a tunnel looks from one side when the other has gone.
#[derive(Debug, PartialEq)]
enum End {
    /// By FIN, or END_STREAM.
    Told,
    /// By a reset.
    Cut,
}

impl Side {
    async fn say(&mut self, bytes: &'static [u8]) {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await.unwrap(),
            Self::Stream(_, sender) => sender.send_data(Bytes::from_static(bytes), false).unwrap(),
        }
    }

    /// Reads until so much has come.
    async fn hears(&mut self, bytes: &[u8]) {
        let mut heard = Vec::new();
        while heard.len() < bytes.len() {
            match self {
                Self::Tcp(stream) => {
                    assert!(within("words", stream.read_buf(&mut heard)).await.unwrap() > 0, "an end before the words");
                }
                Self::Stream(receiver, _) => {
                    let data = within("words", receiver.data()).await.expect("no end before the words").unwrap();
                    receiver.flow_control().release_capacity(data.len()).unwrap();
                    heard.extend_from_slice(&data);
                }
            }
        }
        assert_eq!(heard.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    }

    async fn end(&mut self) {
        match self {
            Self::Tcp(stream) => stream.shutdown().await.unwrap(),
            Self::Stream(_, sender) => sender.send_data(Bytes::new(), true).unwrap(),
        }
    }

    fn cut(self) {
        match self {
            Self::Tcp(stream) => stream.set_zero_linger().unwrap(),
            Self::Stream(_, mut sender) => sender.send_reset(Reason::CANCEL),
        }
    }

    async fn sees(&mut self) -> End {
        match self {
            Self::Tcp(stream) => match within("the end", stream.read(&mut [0; 64])).await {
                Ok(0) => End::Told,
                Ok(_) => panic!("more was said"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    End::Cut
                }
            },
            Self::Stream(receiver, _) => loop {
                match within("the end", receiver.data()).await {
                    None => return End::Told,
                    // Of the frame that has END_STREAM.
                    Some(Ok(data)) => assert!(data.is_empty(), "more was said"),
                    Some(Err(error)) => {
                        assert_eq!((error.reason(), error.is_reset()), (Some(Reason::CANCEL), true), "{error}");
                        return End::Cut;
                    }
                }
            },
        }
    }
}

/// A back end that grants each tunnel and hands it over.
async fn back_end(is_http2: bool) -> (String, mpsc::Receiver<Side>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, tunnels) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                if !is_http2 {
                    let Ok(socket) = accept_async(stream).await else { return };
                    return sender.send(Side::Tcp(socket.into_inner())).await.unwrap();
                }
                let mut builder = h2::server::Builder::new();
                let mut connection = builder.enable_connect_protocol().handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.method(), "CONNECT");
                    let stream = respond.send_response(Response::new(()), false).unwrap();
                    sender.send(Side::Stream(request.into_body(), stream)).await.unwrap();
                }
            });
        }
    });
    (url, tunnels)
}

/// Clients that speak one version.
enum Clients {
    Http1,
    Http2 {
        client: h2::client::SendRequest<Bytes>,
        connection: JoinHandle<()>,
        pings: h2::PingPong,
        /// The same as the connection's.
        socket: TcpStream,
    },
}

impl Clients {
    async fn of(armiger: &Armiger, is_http2: bool) -> Self {
        if !is_http2 {
            return Self::Http1;
        }
        let stream = TcpStream::connect(armiger.address()).await.unwrap().into_std().unwrap();
        let socket = TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let (client, mut connection) = within("the handshake", h2::client::handshake(stream)).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        within("settings", async {
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Self::Http2 { client, connection, pings, socket }
    }

    async fn open(&mut self, armiger: &Armiger) -> Side {
        match self {
            Self::Http1 => {
                let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
                stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
                let mut got = Vec::new();
                while !got.ends_with(b"\r\n\r\n") {
                    assert!(within("the 101", stream.read_buf(&mut got)).await.unwrap() > 0);
                }
                assert!(got.starts_with(b"HTTP/1.1 101 "), "{}", got.escape_ascii());
                Side::Tcp(stream)
            }
            Self::Http2 { client, .. } => {
                let mut request = Request::builder().method("CONNECT").uri("http://a/chat");
                request = request.header("sec-websocket-version", "13");
                request.extensions_mut().unwrap().insert(h2::ext::Protocol::from_static("websocket"));
                let (answer, sender) = client.send_request(request.body(()).unwrap(), false).unwrap();
                let answer = within("the answer", answer).await.unwrap();
                assert_eq!(answer.status(), 200);
                Side::Stream(answer.into_body(), sender)
            }
        }
    }
}

/// Which versions client and back end speak.
const VERSIONS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

async fn between(versions: (bool, bool)) -> (Armiger, Clients, mpsc::Receiver<Side>) {
    let (url, tunnels) = back_end(versions.1).await;
    let protocol = if versions.1 { "protocol: h2c" } else { "protocol: http1" };
    let config = Config::to_url(&url).upstream(protocol).listener("http2_websocket: true");
    let armiger = Armiger::with_workers(1, config).await;
    let clients = Clients::of(&armiger, versions.0).await;
    (armiger, clients, tunnels)
}

/// Opens a tunnel, and has each side hear the other.
async fn open(armiger: &Armiger, clients: &mut Clients, tunnels: &mut mpsc::Receiver<Side>) -> (Side, Side) {
    let mut near = clients.open(armiger).await;
    let mut far = within("the tunnel", tunnels.recv()).await.unwrap();
    talk(&mut near, &mut far).await;
    (near, far)
}

async fn open_three(armiger: &Armiger, clients: &mut Clients, tunnels: &mut mpsc::Receiver<Side>) -> Vec<(Side, Side)> {
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(open(armiger, clients, tunnels).await);
    }
    all
}

async fn talk(near: &mut Side, far: &mut Side) {
    near.say(b"\x81\x80\0\0\0\0").await;
    far.hears(b"\x81\x80\0\0\0\0").await;
    far.say(b"\x81\x02ho").await;
    near.hears(b"\x81\x02ho").await;
}

/// One line for each, all of which tell the same.
async fn told(armiger: Armiger, n: usize, complete: bool, cut_by: Value) {
    armiger.log_lines(n).await;
    let lines: Vec<_> = armiger.close_books().await.into_iter().filter(|line| line["status"] == 101).collect();
    assert_eq!(lines.len(), n);
    for line in lines {
        assert_eq!((&line["complete"], &line["cut_by"]), (&json!(complete), &cut_by), "{line}");
    }
}

/// One side cuts three tunnels, one after the other. The other side sees each, and what is left goes on.
async fn cut_three(is_client: bool) {
    for versions in VERSIONS {
        let (armiger, mut clients, mut tunnels) = between(versions).await;
        let mut all = open_three(&armiger, &mut clients, &mut tunnels).await;
        for left in (0..3).rev() {
            let (near, far) = all.remove(left / 2);
            let (one, mut other) = if is_client { (near, far) } else { (far, near) };
            one.cut();
            assert_eq!(other.sees().await, End::Cut, "{versions:?}");
            for (near, far) in &mut all {
                talk(near, far).await;
            }
        }
        told(armiger, 3, false, json!(if is_client { "client" } else { "upstream" })).await;
    }
}

#[tokio::test]
async fn a_client_that_cuts_its_tunnel_cuts_that_of_the_back_end_and_no_other() {
    cut_three(true).await;
}

#[tokio::test]
async fn a_back_end_that_cuts_its_tunnel_cuts_that_of_the_client_and_no_other() {
    cut_three(false).await;
}

#[tokio::test]
async fn a_connection_that_breaks_cuts_all_the_tunnels_on_it() {
    for is_http2 in [false, true] {
        let (armiger, mut clients, mut tunnels) = between((true, is_http2)).await;
        let mut all = open_three(&armiger, &mut clients, &mut tunnels).await;
        let Clients::Http2 { connection, socket, .. } = clients else { unreachable!() };
        socket.set_zero_linger().unwrap();
        drop(socket);
        connection.abort();
        for (_, far) in &mut all {
            assert_eq!(far.sees().await, End::Cut, "{is_http2}");
        }
        told(armiger, 3, false, json!("client")).await;
    }
}

/// A tunnel that both sides have ended is whole, even if its client closes the connection in the same breath.
#[tokio::test]
async fn a_connection_may_end_together_with_its_last_tunnel() {
    for is_http2 in [false, true] {
        let (armiger, mut clients, mut tunnels) = between((true, is_http2)).await;
        let (mut near, mut far) = open(&armiger, &mut clients, &mut tunnels).await;
        far.end().await;
        assert_eq!(near.sees().await, End::Told, "{is_http2}");
        let Clients::Http2 { client, connection, socket, .. } = clients else { unreachable!() };
        // What the kernel holds back goes out with the end of the connection.
        socket2::SockRef::from(&socket).set_tcp_cork(true).unwrap();
        near.say(b"\x88\x80\0\0\0\0").await;
        near.end().await;
        drop((client, near));
        within("the end of the connection", connection).await.unwrap();
        far.hears(b"\x88\x80\0\0\0\0").await;
        assert_eq!(far.sees().await, End::Told, "{is_http2}");
        told(armiger, 1, true, Value::Null).await;
    }
}

/// A back end that takes no more than a window of 16 KiB until it is read from.
async fn slow_back_end() -> (String, mpsc::Receiver<Side>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, tunnels) = mpsc::channel(8);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(16 * 1024);
        let mut connection = builder.enable_connect_protocol().handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let stream = respond.send_response(Response::new(()), false).unwrap();
            sender.send(Side::Stream(request.into_body(), stream)).await.unwrap();
        }
    });
    (url, tunnels)
}

/// A binary message of so many bytes in one frame.
fn message(length: usize) -> &'static [u8] {
    let mut bytes = vec![0x82, 0xff];
    bytes.extend((length as u64).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(vec![b'x'; length]);
    bytes.leak()
}

/// What waits for the back end when the client goes is still brought there, and then the end.
#[tokio::test]
async fn who_has_said_all_may_go_before_the_back_end_has_taken_it() {
    // Both sides have ended, or only the client.
    for (is_http2, is_answered) in [(true, true), (true, false), (false, false)] {
        let (url, mut tunnels) = slow_back_end().await;
        let config = Config::to_url(&url).upstream("protocol: h2c").listener("http2_websocket: true");
        let armiger = Armiger::with_workers(1, config).await;
        let mut clients = Clients::of(&armiger, is_http2).await;
        let (mut near, mut far) = open(&armiger, &mut clients, &mut tunnels).await;
        let message = message(if is_answered { 300_000 } else { 30_000 });
        if is_answered {
            far.end().await;
            assert_eq!(near.sees().await, End::Told);
        }
        near.say(message).await;
        near.end().await;
        if let Clients::Http2 { pings, .. } = &mut clients {
            // What was said before has come with the first, and the tunnel has its turn between two of them.
            for _ in 0..32 {
                within("a pong", pings.ping(h2::Ping::opaque())).await.unwrap();
            }
        }
        if !is_answered {
            // Once this is here, the client's end was read.
            far.say(b"\x81\x02hm").await;
        }
        match (clients, near) {
            (Clients::Http2 { client, connection, .. }, near) if is_answered => {
                drop((client, near));
                within("the end of the connection", connection).await.unwrap();
            }
            (Clients::Http2 { connection, .. }, mut near) => {
                near.hears(b"\x81\x02hm").await;
                // Without a word more: no stream is reset.
                connection.abort();
                assert!(within("the end", connection).await.is_err());
            }
            (Clients::Http1, Side::Tcp(stream)) => {
                within("a word", stream.peek(&mut [0; 1])).await.unwrap();
                // What it has not read makes of its close a reset, which the next word meets.
                drop(stream);
                far.say(b"\x81\x02hm").await;
            }
            (Clients::Http1, Side::Stream(..)) => unreachable!(),
        }
        far.hears(message).await;
        assert_eq!(far.sees().await, End::Told, "{is_http2} {is_answered}");
        if !is_answered {
            far.end().await;
        }
        let cut_by = if is_answered { Value::Null } else { json!("client") };
        told(armiger, 1, is_answered, cut_by).await;
    }
}

/// Nobody is waited for beyond that, whatever the back end says.
#[tokio::test]
async fn who_talks_to_a_client_that_is_gone_is_reset_in_the_end() {
    let (url, mut tunnels) = back_end(true).await;
    let config = Config::to_url(&url).upstream("protocol: h2c\ntimeouts: {tunnel_idle: 2s}");
    let armiger = Armiger::with_workers(1, config).await;
    let (mut near, mut far) = open(&armiger, &mut Clients::Http1, &mut tunnels).await;
    near.end().await;
    assert_eq!(far.sees().await, End::Told);
    far.say(b"\x81\x02hm").await;
    let (Side::Tcp(stream), Side::Stream(_, sender)) = (near, &mut far) else { unreachable!() };
    within("a word", stream.peek(&mut [0; 1])).await.unwrap();
    drop(stream);
    for _ in 0..3 {
        sender.send_data(Bytes::from_static(b"\x81\x02hm"), false).unwrap();
    }
    let reset = within("the reset", std::future::poll_fn(|cx| sender.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
    told(armiger, 1, false, json!("client")).await;
}

/// A back end that has ended may let go of the tunnel: its client sees the end, and may still tell its own.
#[tokio::test]
async fn a_back_end_that_goes_after_its_end_cuts_nobody() {
    for versions in VERSIONS {
        for (is_connection_over, answers) in [(false, false), (true, false), (false, true)] {
            let (armiger, mut clients, mut tunnels) = between(versions).await;
            let (mut near, mut far) = open(&armiger, &mut clients, &mut tunnels).await;
            far.say(b"\x88\0").await;
            far.end().await;
            // A socket that is closed answers what it hears with a reset; a stream is reset once, with `NO_ERROR`.
            let answers = answers && matches!(far, Side::Stream(..));
            drop(far);
            near.hears(b"\x88\0").await;
            assert_eq!(near.sees().await, End::Told, "{versions:?}");
            if answers {
                near.say(b"\x88\0").await;
            }
            match clients {
                Clients::Http2 { client, connection, socket, .. } if is_connection_over => {
                    socket2::SockRef::from(&socket).set_tcp_cork(true).unwrap();
                    near.end().await;
                    drop((client, near));
                    within("the end of the connection", connection).await.unwrap();
                }
                _ => near.end().await,
            }
            told(armiger, 1, true, Value::Null).await;
        }
    }
}

/// The same while its client has more to say than it takes: that goes nowhere, and cuts nobody.
#[tokio::test]
async fn a_back_end_that_goes_after_its_end_cuts_nobody_in_mid_sentence() {
    const MUCH: &[u8] = &[7; 3_000_000];
    for is_http2 in [false, true] {
        let (armiger, mut clients, mut tunnels) = between((is_http2, true)).await;
        let (mut near, mut far) = open(&armiger, &mut clients, &mut tunnels).await;
        let says = async {
            near.say(MUCH).await;
            assert_eq!(near.sees().await, End::Told, "{is_http2}");
            near.end().await;
        };
        let goes = async {
            let Side::Stream(receiver, _) = &mut far else { unreachable!() };
            within("its words", async {
                while receiver.flow_control().used_capacity() < 60_000 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            far.end().await;
            drop(far);
        };
        tokio::join!(says, goes);
        told(armiger, 1, true, Value::Null).await;
    }
}

/// A drain has nothing more to tell a client that has heard the end of the other side.
#[tokio::test]
async fn a_drain_cuts_nobody_who_has_heard_the_end() {
    for versions in VERSIONS {
        let (armiger, mut clients, mut tunnels) = between(versions).await;
        let (mut near, mut far) = open(&armiger, &mut clients, &mut tunnels).await;
        far.say(b"\x88\0").await;
        far.end().await;
        near.hears(b"\x88\0").await;
        assert_eq!(near.sees().await, End::Told, "{versions:?}");
        let lines = armiger.lines();
        assert_eq!(armiger.stop().await.cut, 0, "{versions:?}");
        let told = |line: &Value| ["complete", "cut_by", "reason"].map(|key| line[key].clone());
        assert_eq!(
            lines().iter().map(told).collect::<Vec<_>>(),
            [[json!(true), Value::Null, Value::Null]],
            "{versions:?}"
        );
        drop((near, far));
    }
}

#[tokio::test]
async fn each_side_ends_in_its_turn_and_nothing_looks_cut() {
    for versions in VERSIONS {
        for is_client_first in [false, true] {
            let (armiger, mut clients, mut tunnels) = between(versions).await;
            let (near, far) = open(&armiger, &mut clients, &mut tunnels).await;
            let (mut one, mut other) = if is_client_first { (near, far) } else { (far, near) };
            one.say(b"\x88\0").await;
            one.end().await;
            other.hears(b"\x88\0").await;
            assert_eq!(other.sees().await, End::Told, "{versions:?}");
            other.say(b"\x81\x03bye").await;
            other.end().await;
            one.hears(b"\x81\x03bye").await;
            assert_eq!(one.sees().await, End::Told, "{versions:?}");
            drop((one, other));
            told(armiger, 1, true, Value::Null).await;
        }
    }
}

/// What was said before is heard, also where it takes the other side's window to send it.
#[tokio::test]
async fn what_was_said_before_the_end_comes_through_small_windows() {
    const MUCH: &[u8] = &[7; 3_000_000];
    for versions in VERSIONS {
        let (armiger, mut clients, mut tunnels) = between(versions).await;
        let (mut near, mut far) = open(&armiger, &mut clients, &mut tunnels).await;
        for _ in 0..2 {
            let says = async {
                near.say(MUCH).await;
                near.end().await;
            };
            tokio::join!(says, async {
                far.hears(MUCH).await;
                assert_eq!(far.sees().await, End::Told, "{versions:?}");
            });
            (near, far) = (far, near);
        }
        drop((near, far));
        told(armiger, 1, true, Value::Null).await;
    }
}
