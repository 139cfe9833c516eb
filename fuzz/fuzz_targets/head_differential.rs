//! What armiger forwards is read alike by another reader: no request reaches a back end that the strict reader of the
//! tests does not find in the client's bytes, and what reaches it can be read strictly.
//!
//! Two comparisons. In memory: a head that armiger's gate accepts is as long, and frames its body in the same way, for the
//! strict reader. Over sockets: the input is sent to a running armiger, and the requests that its back end gets must be
//! among those of the client, in order.

#![no_main]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use armiger::app::{Options, Running, Source};
use armiger::http::framing::{HeadLimits, check_head};
use armiger::http::path::normalise;
use libfuzzer_sys::fuzz_target;
use message::{Framing, Head, Reader, Unreadable};
use tokio::io::AsyncWriteExt;

#[path = "../../tests/harness/message.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod message;

/// Sent after each input, so that the connection ends when the input is framed well.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nhost: fuzz\r\nconnection: close\r\n\r\n";

/// A request as either side sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    method: String,
    /// Normalised. `None` where the target is no path.
    path: Option<String>,
    /// How many `Host` fields it has.
    hosts: usize,
    body: Vec<u8>,
}

fuzz_target!(|bytes: &[u8]| {
    // HTTP/2 has frames instead of text, and fuzz targets in its own crate.
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        return;
    }
    in_memory(bytes);
    over_sockets(bytes);
});

fn in_memory(bytes: &[u8]) {
    let Ok(Some(accepted)) = check_head(bytes, &HeadLimits::default()) else { return };
    // Empty lines before a request are skipped (RFC 9112 §2.2); the strict reader does not know them.
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let end = start + memchr::memmem::find(&bytes[start..], b"\r\n\r\n").expect("an accepted head has an end") + 4;
    let head =
        Head::parse(&bytes[start..end]).unwrap_or_else(|why| panic!("armiger accepts a head that breaks: {why}"));
    let framing = head.framing(Framing::None).unwrap_or_else(|why| panic!("armiger accepts ambiguous framing: {why}"));
    assert_eq!((accepted.start, accepted.end), (start, end), "the head begins or ends in two places");
    assert_eq!(accepted_framing(&accepted), normal(framing), "the body is framed in two ways");
    head.request_line().unwrap_or_else(|why| panic!("armiger accepts a request line that breaks: {why}"));
    let hosts = head.headers.get_all("host").iter().count();
    // Only HTTP/1.0 may leave it out; what armiger then sends has one all the same.
    assert!(hosts == 1 || hosts == 0 && head.line.ends_with("HTTP/1.0"), "armiger accepts {hosts} hosts");
}

fn accepted_framing(head: &armiger::http::framing::Head) -> Framing {
    use armiger::http::framing::BodyFraming;
    normal(match head.body {
        BodyFraming::None => Framing::None,
        BodyFraming::Length(length) => Framing::Length(length),
        BodyFraming::Chunked => Framing::Chunked,
    })
}

/// A body of no bytes is none.
fn normal(framing: Framing) -> Framing {
    if framing == Framing::Length(0) { Framing::None } else { framing }
}

fn over_sockets(bytes: &[u8]) {
    let site = site();
    site.received.lock().expect("no panic while it is held").clear();

    let mut stream = TcpStream::connect(site.address).expect("armiger listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket takes options");
    // armiger may answer and close within the input.
    let _ = stream.write_all(bytes).and_then(|()| stream.write_all(LAST));
    let mut answers = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answers) {
        let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(is_reset, "armiger leaves the connection open beyond its timeouts: {error}");
    }

    let received = site.received.lock().expect("no panic while it is held").clone();
    let (sent, is_clear) = strictly([bytes, LAST].concat());
    let mut sent = sent.into_iter();
    for message in received {
        let message = message.unwrap_or_else(|why| panic!("the back end cannot read what armiger sends: {why}"));
        assert_eq!(message.hosts, 1, "armiger sends a request without its one host");
        // Some are answered by armiger itself, so what arrives is a selection, in order.
        let is_found = sent.any(|sent| {
            sent.method == message.method
                && sent.body == message.body
                && (sent.path.is_none() || sent.path == message.path)
        });
        // Behind bytes that only the strict reader refuses (chunk extensions), it cannot tell.
        assert!(is_found || !is_clear, "the back end got a request that nobody sent: {message:?}");
    }
}

/// The requests in these bytes, and whether all of them could be read strictly.
fn strictly(bytes: Vec<u8>) -> (Vec<Message>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    runtime.block_on(async {
        let mut reader = Reader::new(bytes.as_slice());
        let mut messages = Vec::new();
        loop {
            match message(&mut reader).await {
                Ok(message) => messages.push(message),
                Err(Unreadable::Malformed(_)) => return (messages, false),
                Err(_) => return (messages, true),
            }
        }
    })
}

async fn message<S: tokio::io::AsyncRead + Unpin>(reader: &mut Reader<S>) -> Result<Message, Unreadable> {
    let head = reader.head().await?;
    let (method, target) = head.request_line().map_err(Unreadable::Malformed)?;
    let framing = head.framing(Framing::None).map_err(Unreadable::Malformed)?;
    let hosts = head.headers.get_all("host").iter().count();
    let body = reader.body(framing).await?.bytes;
    let path = target.split('?').next().filter(|path| path.starts_with('/'));
    let path = path.and_then(|path| normalise(path).ok()).map(|normal| normal.path.into_owned());
    Ok(Message { method, path, hosts, body })
}

// === armiger, and a back end that reads strictly ===

type Received = Arc<Mutex<Vec<Result<Message, String>>>>;

struct Site {
    address: SocketAddr,
    received: Received,
    _armiger: Running,
}

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let received = Received::default();
        let backend = start_backend(received.clone());
        let text = format!(
            r#"
admin: {{address: "127.0.0.1:0"}}
access_log: {{format: off}}
listeners:
  - name: http
    address: 127.0.0.1:0
    timeouts: {{request_headers: 50ms, body_idle: 50ms, keep_alive: 50ms}}
upstreams:
  app: {{endpoints: ["http://{backend}"]}}
routes:
  - name: everything
    match: {{path: "/{{rest...}}", path_allow: [encoded_slash, encoded_nul, backslash, semicolon]}}
    proxy: {{upstream: app}}
"#
        );
        let mut options = Options::new(Source::Text { name: "fuzz.yaml".into(), text });
        options.workers = 1;
        let armiger = Running::start(options).unwrap_or_else(|error| panic!("armiger does not start: {error:?}"));
        Site { address: armiger.address("http").expect("a listener `http`"), received, _armiger: armiger }
    })
}

fn start_backend(received: Received) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    listener.set_nonblocking(true).expect("a socket takes options");
    let address = listener.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
            loop {
                let (stream, _) = listener.accept().await.expect("connections come");
                tokio::spawn(serve(stream, received.clone()));
            }
        });
    });
    address
}

async fn serve(stream: tokio::net::TcpStream, received: Received) {
    let mut reader = Reader::new(stream);
    loop {
        let result = match message(&mut reader).await {
            Ok(message) => Ok(message),
            Err(Unreadable::Malformed(why)) => Err(why),
            // A client that breaks off within its body takes the upstream's request with it.
            Err(_) => return,
        };
        let is_over = result.is_err();
        received.lock().expect("no panic while it is held").push(result);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if is_over || reader.stream().write_all(answer).await.is_err() {
            return;
        }
    }
}
