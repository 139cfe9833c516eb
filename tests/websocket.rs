//! WebSocket end to end: who may, what a valid answer is, and a tunnel that loses nothing.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use super::harness::{
    Armiger, Authority, Backend, Config, Files, Front, SECRET_YAML, Script, Signer, claims, now, within,
};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A back end that sends every message back, and says goodbye when it is asked to.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

async fn dial(armiger: &Armiger) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(armiger.address()).await.unwrap();
    let url = format!("ws://{}/chat", armiger.address());
    within("the handshake", client_async(url, stream)).await.expect("the upgrade is granted").0
}

async fn next<S>(socket: &mut WebSocketStream<S>) -> Message
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    within("a message", socket.next()).await.expect("the conversation goes on").expect("a message")
}

#[tokio::test]
async fn messages_pass_both_ways_and_the_exchange_lasts_until_the_close() {
    let armiger = Armiger::with(Config::to_url(&echo().await)).await;
    let mut socket = dial(&armiger).await;
    for round in 0..200 {
        socket.send(Message::text(format!("message {round}"))).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text(format!("message {round}")));
    }
    let large = Message::binary(vec![7; 3_000_000]);
    let (mut sink, mut stream) = socket.split();
    let (sent, got) = tokio::join!(sink.send(large.clone()), stream.next());
    sent.unwrap();
    assert_eq!(got.unwrap().unwrap(), large);
    armiger.until_metric(r#"armiger_http_requests_in_flight{route="everything"}"#, 1.0).await;

    let mut socket = sink.reunite(stream).unwrap();
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "bye".into() })).await.unwrap();
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    drop(socket);
    let line = armiger.logged(|line| line["status"] == 101).await;
    assert_eq!(line["complete"], json!(true), "{line}");
    assert!(
        line["bytes_in"].as_u64().unwrap() > 3_000_000 && line["bytes_out"].as_u64().unwrap() > 3_000_000,
        "{line}"
    );
    armiger.until_metric(r#"armiger_http_requests_in_flight{route="everything"}"#, 0.0).await;
}

#[tokio::test]
async fn bytes_right_behind_the_handshake_are_not_lost_on_either_side() {
    let answer = [GRANTED.as_bytes(), b"\x82\x05early"].concat();
    let backend = Backend::raw(Script::new().request().write(answer).hang()).await;
    let armiger = Armiger::with(Config::to(&backend)).await;
    let mut client = TcpStream::connect(armiger.address()).await.unwrap();
    client.write_all(&[HANDSHAKE.as_bytes(), b"\x82\x80\0\0\0\0"].concat()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"early") {
        assert!(within("the frame", client.read_buf(&mut got)).await.unwrap() > 0, "{}", got.escape_ascii());
    }
    let text = String::from_utf8_lossy(&got).to_lowercase();
    assert!(text.starts_with("http/1.1 101 ") && text.contains("upgrade: websocket"), "{text}");
    assert!(!text.contains("content-length") && !text.contains("transfer-encoding"), "{text}");
    let seen = backend.arrived(1).await;
    assert_eq!((seen[0].header("upgrade"), seen[0].header("connection")), ("websocket", "upgrade"));
    assert_eq!(seen[0].header("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
}

#[tokio::test]
async fn what_is_no_websocket_handshake_loses_its_upgrade() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend)).await;
    let without = |line: &str| HANDSHAKE.replace(line, "");
    for handshake in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
            .to_owned(),
        HANDSHAKE.replace("websocket", "websocket, h2c"),
        HANDSHAKE.replace("GET", "POST").replace("Host: a", "Host: a\r\nContent-Length: 0"),
        without("Sec-WebSocket-Version: 13\r\n"),
        without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        HANDSHAKE.replace("keep-alive, Upgrade", "keep-alive"),
    ] {
        armiger.raw(handshake).await.answer().await.assert_status(200);
    }
    let forbidden = Armiger::with(
        Config::to(&backend)
            .routes("- {name: x, match: {path: \"/{rest...}\"}, proxy: {upstream: app, websocket: false}}"),
    )
    .await;
    forbidden.raw(HANDSHAKE).await.answer().await.assert_status(200);
    for seen in backend.requests() {
        assert!(!seen.has("upgrade") && !seen.has("http2-settings"), "{}", seen.head_text());
    }
    assert_eq!(backend.count(), 7);
    let last = backend.requests().pop().expect("the seventh");
    assert!(!last.head_text().to_ascii_lowercase().contains("sec-websocket"), "{}", last.head_text());
}

#[tokio::test]
async fn only_a_whole_101_is_a_tunnel_and_any_other_answer_passes_as_it_is() {
    for bad in [
        GRANTED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "AAAALMBiTxaQ9kYGzzhZRbK+xOo="),
        GRANTED.replace("Upgrade: websocket", "Upgrade: h2c"),
        GRANTED.replace("Connection: Upgrade\r\n", ""),
        "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
    ] {
        let backend = Backend::raw(Script::new().request().write(bad).hang()).await;
        let armiger = Armiger::with(Config::to(&backend)).await;
        armiger.raw(HANDSHAKE).await.answer().await.assert_problem(502, "upstream-protocol");
    }
    let refuses = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
    let backend = Backend::raw(Script::new().request().write(refuses).again()).await;
    let armiger = Armiger::with(Config::to(&backend)).await;
    let mut conversation = armiger.raw(HANDSHAKE).await;
    for _ in 0..2 {
        let answer = conversation.answer().await;
        assert_eq!((answer.status, answer.text()), (403, "no"));
        conversation.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
}

#[tokio::test]
async fn policies_are_asked_of_the_handshake() {
    let backend = Backend::raw(Script::new().request().write(GRANTED).hang()).await;
    let staff =
        format!("identity: {{staff: {{jwt: {{issuer: a, any_audience: true, keys: {{secret: {SECRET_YAML}}}}}}}}}");
    let config = Config::to(&backend).top(&staff).policies("identity: {providers: [staff]}");
    let armiger = Armiger::with(config).await;
    armiger.raw(HANDSHAKE).await.answer().await.assert_problem(401, "token-missing");
    assert_eq!(backend.connections(), 0);
}

/// A place in flight is held for as long as the tunnel stands, and not only for its handshake.
#[tokio::test]
async fn a_tunnel_holds_its_place_in_flight_until_it_ends() {
    let limit = "in_flight: [{name: one, max: 1}]";
    let config = Config::to_url(&echo().await).listener("http2_websocket: true").policies(limit);
    let armiger = Armiger::with(config).await;
    let mut socket = dial(&armiger).await;
    socket.send(Message::text("hi")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::text("hi"));
    armiger.raw(HANDSHAKE).await.answer().await.assert_problem(429, "too-many-in-flight");
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    drop(socket);
    armiger.logged(|line| line["status"] == 101).await;

    // The same of a tunnel in a stream of HTTP/2, whose client goes away.
    let mut client = extended(&armiger).await;
    let (answer, sender) = client.send_request(connect(), false).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    armiger.raw(HANDSHAKE).await.answer().await.assert_problem(429, "too-many-in-flight");
    drop((answer, sender, client));
    within("the place to be free", async {
        while armiger.get("/").await.status == 429 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await;
}

/// The credential by which a tunnel was opened ends, and the tunnel with it: said, and for both sides.
#[tokio::test]
async fn a_tunnel_ends_with_the_credential() {
    let staff = format!(
        "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], leeway: 0s, keys: {{secret: \
         {SECRET_YAML}}}}}}}}}"
    );
    let config = Config::to_url(&echo().await)
        .top(&staff)
        .listener("http2_websocket: true")
        .policies("identity: {providers: [staff], caller: optional}");
    let armiger = Armiger::with(config).await;
    let token = |seconds: i64| {
        let token = Signer::secret("HS256").token(&claims(json!({"exp": now() + seconds})));
        http::HeaderValue::try_from(format!("Bearer {token}")).unwrap()
    };
    let stream = TcpStream::connect(armiger.address()).await.unwrap();
    let mut request = format!("ws://{}/chat", armiger.address()).into_client_request().unwrap();
    request.headers_mut().insert("authorization", token(2));
    let mut socket = within("the handshake", client_async(request, stream)).await.expect("the upgrade is granted").0;
    let mut other = extended(&armiger).await;
    let mut asked = connect();
    asked.headers_mut().insert("authorization", token(2));
    let (answer, mut sender) = other.send_request(asked, false).unwrap();
    let mut body = within("the answer", answer).await.unwrap().into_body();

    let Message::Close(Some(goodbye)) = next(&mut socket).await else { panic!("a close with a reason") };
    assert_eq!(goodbye.code, CloseCode::Policy);
    let frame = within("the goodbye", body.data()).await.unwrap().unwrap();
    assert_eq!((frame[0], &frame[2..4]), (0x88, &[3, 0xf0][..]));
    sender.send_data(bytes::Bytes::new(), true).unwrap();
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    while let Some(Ok(_)) = within("the end", body.data()).await {}
    for protocol in ["HTTP/1.1", "HTTP/2"] {
        let line = armiger.logged(|line| line["status"] == 101 && line["protocol"] == protocol).await;
        assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("credential")), "{line}");
    }
}

#[tokio::test]
async fn an_upstream_whose_http2_takes_no_tunnels_is_not_asked() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c").listener("http2_websocket: true")).await;
    armiger.raw(HANDSHAKE).await.answer().await.assert_problem(501, "not-implemented");
    assert_eq!(backend.count(), 0);
    let mut client = extended(&armiger).await;
    let (answer, _sender) = client.send_request(connect(), false).unwrap();
    assert_eq!(within("the answer", answer).await.unwrap().status(), 501);
    // That it takes none says nothing of its health.
    armiger.get("/").await.assert_status(200);
}

/// What a back end was asked that speaks HTTP/2.
type Asked = std::sync::Arc<std::sync::Mutex<Vec<Request<()>>>>;

/// A back end that speaks WebSocket on streams of HTTP/2 and sends back what it is told. `/no` is refused, `/empty` no
/// acceptance.
async fn echo_on_streams() -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let note = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let note = note.clone();
            let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
                let upgrade = hyper::upgrade::on(&mut request);
                let is_asked = request.extensions().get::<hyper::ext::Protocol>().is_some();
                let status = match request.uri().path() {
                    "/no" => 403,
                    "/empty" => 204,
                    _ => 200,
                };
                note.lock().unwrap().push(request.map(|_| ()));
                if is_asked && status == 200 {
                    tokio::spawn(async move {
                        let stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
                        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                        while let Some(Ok(message)) = socket.next().await {
                            if message.is_text() && socket.send(message).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                let answer =
                    http::Response::builder().status(status).body(http_body_util::Empty::<bytes::Bytes>::new());
                std::future::ready(answer)
            });
            tokio::spawn(async move {
                let mut server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                server
                    .enable_connect_protocol()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_back_end_that_speaks_http2_gets_a_stream() {
    let (url, asked) = echo_on_streams().await;
    let config = Config::to_url(&url).upstream("protocol: h2c").listener("http2_websocket: true");
    let armiger = Armiger::with(config).await;
    // From HTTP/1.1, whose key armiger answers itself.
    let mut sockets = vec![dial(&armiger).await, dial(&armiger).await];
    for round in 0..5 {
        for (place, socket) in sockets.iter_mut().enumerate() {
            let words = Message::text(format!("{place} says {round} {}", "x".repeat(100_000)));
            socket.send(words.clone()).await.unwrap();
            assert_eq!(next(socket).await, words);
        }
    }
    for mut socket in sockets {
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = within("the end", socket.next()).await {}
    }
    // From HTTP/2, and through TLS it would be the same.
    let mut client = extended(&armiger).await;
    let (answer, mut sender) = client.send_request(connect(), false).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let mut body = answer.into_body();
    sender.send_data(text("hello").into(), false).unwrap();
    assert_eq!(within("an echo", body.data()).await.unwrap().unwrap()[..], b"\x81\x05hello"[..]);
    sender.send_data(vec![0x88, 0x80, 0, 0, 0, 0].into(), true).unwrap();
    while within("the end", body.data()).await.is_some() {}

    for asked in asked.lock().unwrap().iter().filter(|asked| asked.method() == "CONNECT") {
        assert_eq!(asked.uri().path(), "/chat");
        assert_eq!(asked.extensions().get::<hyper::ext::Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(asked.headers()["sec-websocket-version"], "13");
        for name in ["sec-websocket-key", "connection", "upgrade"] {
            assert!(!asked.headers().contains_key(name), "{name}");
        }
    }
    assert_eq!(armiger.log_lines(4).await.iter().filter(|line| line["status"] == 101).count(), 3);
    let refused = HANDSHAKE.replace("/chat", "/no");
    armiger.raw(refused).await.answer().await.assert_status(403);
}

#[tokio::test]
async fn a_drain_says_goodbye_to_a_back_end_that_speaks_http2_too() {
    let (url, _) = echo_on_streams().await;
    let config = Config::to_url(&url).upstream("protocol: h2c").top("drain: {delay: 10ms, timeout: 10s}");
    let armiger = Armiger::with(config).await;
    let mut socket = dial(&armiger).await;
    socket.send(Message::text("hello")).await.unwrap();
    next(&mut socket).await;
    let stopping = tokio::spawn(armiger.stop());
    let Message::Close(Some(frame)) = next(&mut socket).await else { panic!("no goodbye") };
    assert_eq!(frame.code, CloseCode::Away);
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    // Or armiger waits for a while, since it shall not be a reset that the client sees.
    drop(socket);
    assert_eq!(within("the end", stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_silent_tunnel_is_cut_and_one_that_moves_is_not() {
    let armiger = Armiger::with(Config::to_url(&echo().await).upstream("timeouts: {tunnel_idle: 300ms}")).await;
    let mut socket = dial(&armiger).await;
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..12 {
        pace.tick().await;
        socket.send(Message::text("still here")).await.unwrap();
        next(&mut socket).await;
    }
    let Message::Close(Some(goodbye)) = next(&mut socket).await else { panic!("a close with a reason") };
    assert_eq!(goodbye.code, CloseCode::Away);
    while let Some(message) = within("the end", socket.next()).await {
        message.expect("an end, and no reset");
    }
    let line = armiger.logged(|line| line["status"] == 101).await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("deadline")), "{line}");
}

/// A back end that begins a frame, and says no more until it is left.
async fn silent_within_a_frame() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let backend = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        // Behind the 101 the head of a frame of five bytes, and two of them.
        stream.write_all(&[GRANTED.as_bytes(), &[0x82, 5, 1, 2]].concat()).await.unwrap();
        while stream.read(&mut head).await.is_ok_and(|length| length > 0) {}
    });
    (url, backend)
}

/// A close frame within another frame would be taken for a part of it.
#[tokio::test]
async fn a_tunnel_that_is_silent_within_a_frame_is_cut_and_looks_so() {
    let (url, backend) = silent_within_a_frame().await;
    let armiger = Armiger::with(Config::to_url(&url).upstream("timeouts: {tunnel_idle: 50ms}")).await;
    let mut stream = TcpStream::connect(armiger.address()).await.unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let end = within("the end", stream.read_to_end(&mut got)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(got[got.len() - 4..], [0x82, 5, 1, 2], "and no goodbye");
    within("the back end", backend).await.unwrap();
    let line = armiger.logged(|line| line["status"] == 101).await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("deadline")), "{line}");
}

/// Nor can a drain say goodbye there: it cuts the tunnel then, and says so.
#[tokio::test]
async fn a_drain_cuts_a_tunnel_that_stays_within_a_frame_and_counts_it() {
    for timeout in ["10s", "100ms"] {
        let (url, backend) = silent_within_a_frame().await;
        let config = Config::to_url(&url).top(&format!("drain: {{delay: 0s, timeout: {timeout}}}"));
        let armiger = Armiger::with(config).await;
        let mut raw = armiger.raw(HANDSHAKE).await;
        raw.some().await;
        let lines = armiger.lines();
        assert_eq!(armiger.stop().await.cut, 1, "{timeout}");
        within("the back end", backend).await.unwrap();
        let lines = lines();
        let told = |line: &serde_json::Value| ["complete", "cut_by", "reason"].map(|key| line[key].clone());
        let expected = [json!(false), json!("deadline"), json!("draining")];
        assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), [expected], "{timeout}");
    }
}

#[tokio::test]
async fn either_side_may_end_first_and_still_hear_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let backend = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        stream.write_all(GRANTED.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        stream.write_all(b"last words").await.unwrap();
        rest
    });
    let armiger = Armiger::with(Config::to_url(&url)).await;
    let mut client = TcpStream::connect(armiger.address()).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        within("the 101", client.read_buf(&mut got)).await.unwrap();
    }
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut words = Vec::new();
    within("the end", client.read_to_end(&mut words)).await.unwrap();
    assert_eq!(words, b"last words");
    assert_eq!(within("the back end", backend).await.unwrap(), b"hello");
}

/// How long a rest was says nothing of the half that goes on after it.
#[tokio::test]
async fn a_tunnel_that_rested_gives_the_other_side_time_to_end_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        stream.write_all(GRANTED.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        stream.write_all(b"\x82\x0alast words").await.unwrap();
    });
    let armiger = Armiger::with(Config::to_url(&url).upstream("timeouts: {tunnel_idle: 1200ms}")).await;
    let mut client = TcpStream::connect(armiger.address()).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        within("the 101", client.read_buf(&mut got)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    client.shutdown().await.unwrap();
    let mut words = Vec::new();
    within("the end", client.read_to_end(&mut words)).await.unwrap();
    assert_eq!(words.escape_ascii().to_string(), b"\x82\x0alast words".escape_ascii().to_string());
    let line = armiger.logged(|line| line["status"] == 101).await;
    assert_eq!(line["complete"], json!(true), "{line}");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_the_back_end_and_not_memory() {
    const FLOOD: usize = 64 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut written) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        stream.write_all(GRANTED.as_bytes()).await.unwrap();
        let chunk = vec![0; 64 << 10];
        while *sender.borrow() < FLOOD && stream.write_all(&chunk).await.is_ok() {
            sender.send_modify(|written| *written += chunk.len());
        }
    });
    let armiger = Armiger::with(Config::to_url(&url)).await;
    let mut client = TcpStream::connect(armiger.address()).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    // It comes to rest when the kernel's buffers on both sides are full.
    while tokio::time::timeout(Duration::from_millis(500), written.changed()).await.is_ok() {}
    assert!(*written.borrow() < FLOOD / 2, "{} bytes were taken", *written.borrow());
    let mut got = 0;
    let mut chunk = vec![0; 256 << 10];
    while got < FLOOD {
        got += within("the rest", client.read(&mut chunk)).await.unwrap();
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_to_both_sides_and_cuts_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let backend = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        socket.send(Message::text("welcome")).await.unwrap();
        let mut last = None;
        while let Some(Ok(message)) = socket.next().await {
            last = Some(message);
        }
        last
    });
    let config = Config::to_url(&url).top("drain: {delay: 10ms, timeout: 10s}");
    let armiger = Armiger::with(config).await;
    let mut socket = dial(&armiger).await;
    assert_eq!(next(&mut socket).await, Message::text("welcome"));
    let stopping = tokio::spawn(armiger.stop());
    let Message::Close(Some(frame)) = next(&mut socket).await else { panic!("no goodbye") };
    assert_eq!(frame.code, CloseCode::Away);
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    // Or armiger waits for a while, since it shall not be a reset that the client sees.
    drop(socket);
    let Some(Message::Close(Some(frame))) = within("the back end", backend).await.unwrap() else {
        panic!("no goodbye")
    };
    assert_eq!(frame.code, CloseCode::Away);
    assert_eq!(within("the end", stopping).await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_reload_leaves_it_alone_and_tls_on_both_sides_makes_no_difference() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    let front = Front::to(plain, authority.issue(&["127.0.0.1"]).server(&[], None)).await;
    let pair = authority.issue(&["a.test"]);
    let config = Config::to_url(&front.url())
        .upstream("tls: {ca: \"${file:ca.pem}\"}")
        .listener("tls: {certificates: [{certificate: \"${file:a.crt}\", key: \"${file:a.key}\"}]}");
    let files = Files::of(&config);
    for (name, text) in [("ca.pem", &authority.pem()), ("a.crt", &pair.certificate), ("a.key", &pair.key)] {
        files.write(name, text);
    }
    let armiger = Armiger::watching(files.config().into()).await;
    let stream = authority.dialler("a.test", &["http/1.1"], None).dial(armiger.address()).await.unwrap();
    let (mut socket, _) = within("the handshake", client_async("wss://a.test/chat", stream)).await.unwrap();
    for version in 1..4 {
        socket.send(Message::text(version.to_string())).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text(version.to_string()));
        files.replace("config.yaml", config.clone().upstream(&format!("limits: {{in_flight_max: {version}}}")));
        armiger.in_force(version + 1).await;
    }
}

#[tokio::test]
async fn a_handshake_is_a_request_like_any_other_to_a_client_that_asks_for_none() {
    let backend = Backend::raw(Script::new().request().write(GRANTED).hang()).await;
    let armiger = Armiger::with(Config::to(&backend)).await;
    let request = Request::get("/").body(http_body_util::Full::default()).unwrap();
    armiger.request(request).await.assert_problem(502, "upstream-protocol");
}

// === over HTTP/2 ===

/// A frame of text as clients send it, with a mask of zeros.
fn text(words: &str) -> Vec<u8> {
    [&[0x81, 0x80 | words.len() as u8, 0, 0, 0, 0][..], words.as_bytes()].concat()
}

async fn extended(armiger: &Armiger) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = TcpStream::connect(armiger.address()).await.unwrap();
    let (client, connection) = within("the handshake", h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(async move { connection.await.ok() });
    let mut client = within("the connection", client.ready()).await.unwrap();
    // Settings come with the first answer at the latest.
    let (answer, _) = client.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
    within("an answer", answer).await.unwrap();
    client
}

fn connect() -> Request<()> {
    let mut request = Request::builder().method("CONNECT").uri("http://a/chat").header("sec-websocket-version", "13");
    request.extensions_mut().unwrap().insert(h2::ext::Protocol::from_static("websocket"));
    request.body(()).unwrap()
}

#[tokio::test]
async fn a_stream_of_http2_is_bridged_to_an_upgrade() {
    let armiger = Armiger::with(Config::to_url(&echo().await).listener("http2_websocket: true")).await;
    let mut client = extended(&armiger).await;
    assert!(client.is_extended_connect_protocol_enabled());
    let mut conversations = Vec::new();
    for _ in 0..3 {
        let (answer, sender) = client.send_request(connect(), false).unwrap();
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
        conversations.push((answer.into_body(), sender));
    }
    for round in 0..5 {
        for (place, (body, sender)) in conversations.iter_mut().enumerate() {
            let words = format!("{place} says {round}");
            sender.send_data(text(&words).into(), false).unwrap();
            let mut got = Vec::new();
            while got.len() < words.len() + 2 {
                let data = within("an echo", body.data()).await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                got.extend_from_slice(&data);
            }
            assert_eq!(&got[2..], words.as_bytes());
        }
    }
    let (mut body, mut sender) = conversations.remove(0);
    sender.send_data(vec![0x88, 0x80, 0, 0, 0, 0].into(), true).unwrap();
    while within("the end", body.data()).await.is_some() {}
    armiger.logged(|line| line["status"] == 101 && line["complete"] == true).await;
}

#[tokio::test]
async fn it_is_offered_only_where_it_is_configured_and_granted_only_by_the_back_end() {
    let armiger = Armiger::with(Config::to_url(&echo().await)).await;
    assert!(!extended(&armiger).await.is_extended_connect_protocol_enabled());

    let bad = GRANTED.replace("s3pP", "AAAA");
    let backend = Backend::raw_each(move |number| {
        let script = Script::new().request();
        match number {
            0 => script.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            1 => script.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            _ => script.write(&bad).hang(),
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).listener("http2_websocket: true")).await;
    let mut client = extended(&armiger).await;
    for status in [403, 502] {
        let (answer, _sender) = client.send_request(connect(), false).unwrap();
        assert_eq!(within("the answer", answer).await.unwrap().status(), status);
    }
    let (answer, _sender) =
        client.send_request(Request::builder().method("CONNECT").uri("a:443").body(()).unwrap(), false).unwrap();
    assert_eq!(within("the answer", answer).await.unwrap().status(), 405, "a CONNECT of the old kind is none");
}

/// On a stream any 2xx says that it is a tunnel (RFC 8441 §5), and armiger has none to give.
#[tokio::test]
async fn a_2xx_that_grants_no_tunnel_is_none_to_a_client_of_http2() {
    let backend = Backend::raw_each(|number| {
        let script = Script::new().request();
        script.write(match number {
            0 => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            1 => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhaha",
            2 => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\nhaha\r\n0\r\n\r\n",
            _ => "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        })
    })
    .await;
    let config = Config::to(&backend).listener("http2_websocket: true").routes(
        "- {name: own, match: {path: /own}, respond: {status: 200, body: x}}\n- {name: all, match: {path: \"/{rest...}\"}, \
         proxy: {upstream: app}}",
    );
    let armiger = Armiger::with(config).await;
    let mut client = extended(&armiger).await;
    for _ in 0..3 {
        let (answer, _sender) = client.send_request(connect(), false).unwrap();
        assert_eq!(within("the answer", answer).await.unwrap().status(), 502);
    }
    let mut own = connect();
    *own.uri_mut() = "http://a/own".parse().unwrap();
    let (answer, _sender) = client.send_request(own, false).unwrap();
    assert_eq!(within("the answer", answer).await.unwrap().status(), 501, "nobody was asked");
    armiger.logged(|line| line["status"] == 502 && line["reason"] == "upstream-protocol").await;

    // The same of a back end that speaks HTTP/2.
    let (url, _) = echo_on_streams().await;
    let config = Config::to_url(&url).upstream("protocol: h2c").listener("http2_websocket: true");
    let armiger = Armiger::with(config).await;
    let mut client = extended(&armiger).await;
    let mut empty = connect();
    *empty.uri_mut() = "http://a/empty".parse().unwrap();
    let (answer, _sender) = client.send_request(empty, false).unwrap();
    assert_eq!(within("the answer", answer).await.unwrap().status(), 502);
}

/// HTTP/1.1 lets a server look past an upgrade (RFC 9110 §7.8). A request for a stream asks for nothing else.
#[tokio::test]
async fn who_asks_for_a_stream_where_none_is_to_be_had_is_told_so_and_the_service_is_not_asked() {
    let backend = Backend::replies("ok").await;
    let config = Config::to(&backend).listener("http2_websocket: true").routes(
        "- {name: all, match: {path: \"/{rest...}\"}, policies: {headers: {response: {set: {x-seen: \"1\"}}}}, \
         proxy: {upstream: app, websocket: false}}",
    );
    let armiger = Armiger::with(config).await;
    armiger.raw(HANDSHAKE).await.answer().await.assert_status(200);
    let mut client = extended(&armiger).await;
    let (answer, _sender) = client.send_request(connect(), false).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-seen"].as_bytes()), (501, &b"1"[..]));
    let line = armiger.logged(|line| line["status"] == 501).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&json!("not-implemented"), &json!(null)), "{line}");

    // Of protocols there are more (RFC 9220 §3).
    let mut other = connect();
    other.extensions_mut().insert(h2::ext::Protocol::from_static("connect-udp"));
    let (answer, _sender) = client.send_request(other, false).unwrap();
    assert_eq!(within("the answer", answer).await.unwrap().status(), 501);
}

/// A tunnel that was cut must not look as if it had ended.
#[tokio::test]
async fn a_tunnel_that_is_cut_is_a_stream_that_is_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(stream).await else { return };
                // The head of a frame of five bytes, and two of them.
                socket.get_mut().write_all(&[0x82, 5, 1, 2]).await.unwrap();
                while socket.get_mut().read(&mut [0; 64]).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    let config = Config::to_url(&url).listener("http2_websocket: true").upstream("timeouts: {tunnel_idle: 50ms}");
    let armiger = Armiger::with(config).await;
    let mut client = extended(&armiger).await;
    // The connection goes on.
    for _ in 0..2 {
        let (answer, _sender) = client.send_request(connect(), false).unwrap();
        let mut body = within("the answer", answer).await.unwrap().into_body();
        assert_eq!(within("a piece", body.data()).await.unwrap().unwrap()[..], [0x82, 5, 1, 2]);
        let end = within("the end", body.data()).await.expect("no end that looks whole").unwrap_err();
        assert_eq!(end.reason(), Some(h2::Reason::CANCEL));
    }
    let line = armiger.logged(|line| line["status"] == 101).await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("deadline")), "{line}");
}

#[tokio::test]
async fn what_a_tunnel_carried_is_counted_however_its_client_goes() {
    let armiger = Armiger::with(Config::to_url(&echo().await).listener("http2_websocket: true")).await;
    let stream = TcpStream::connect(armiger.address()).await.unwrap();
    let (client, connection) = within("the handshake", h2::client::handshake(stream)).await.unwrap();
    let connection = tokio::spawn(async move { connection.await.ok() });
    let mut client = within("the connection", client.ready()).await.unwrap();
    let (answer, _) = client.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
    within("an answer", answer).await.unwrap();
    let (answer, mut sender) = client.send_request(connect(), false).unwrap();
    let mut body = within("the answer", answer).await.unwrap().into_body();
    sender.send_data(text("hello").into(), false).unwrap();
    assert_eq!(within("an echo", body.data()).await.unwrap().unwrap()[..], b"\x81\x05hello"[..]);
    connection.abort();
    let line = armiger.logged(|line| line["status"] == 101).await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("client")), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(11), &json!(7)), "{line}");
}

#[tokio::test]
async fn a_drain_says_goodbye_on_streams_too() {
    let config =
        Config::to_url(&echo().await).listener("http2_websocket: true").top("drain: {delay: 10ms, timeout: 10s}");
    let armiger = Armiger::with(config).await;
    let mut client = extended(&armiger).await;
    let (answer, mut sender) = client.send_request(connect(), false).unwrap();
    let mut body = within("the answer", answer).await.unwrap().into_body();
    let stopping = tokio::spawn(armiger.stop());
    let frame = within("the goodbye", body.data()).await.unwrap().unwrap();
    assert_eq!(frame[..], [0x88, 2, 3, 0xe9]);
    sender.send_data(bytes::Bytes::new(), true).unwrap();
    assert_eq!(within("the end", stopping).await.unwrap().cut, 0);
}
