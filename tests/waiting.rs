//! Whoever waits is woken by what it waits for, and costs nothing until then.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Armiger, Config, Files, Process, address_in, within};

/// What the client has sent, and how much the upstream has answered to it.
const WAITS: [(&str, &str); 9] = [
    // The upstream's turn.
    ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", ""),
    ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour"),
    ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n"),
    ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nfour", ""),
    // The client's.
    ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nfour", ""),
    ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n", ""),
    // Both have begun.
    ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nfour", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour"),
];

/// How long they are watched.
const WATCHED: Duration = Duration::from_millis(400);

/// The most processor time that they may take in that time: of what never rests it is the whole of it, or the share that other
/// programs leave.
const COST_MAX: Duration = Duration::from_millis(60);

async fn wait_on(process: &Process, upstream: &TcpListener, address: SocketAddr) {
    let mut held = Vec::new();
    for (asked, answered) in WAITS {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(asked.as_bytes()).await.unwrap();
        let (mut far, _) = within("the request's connection", upstream.accept()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let mut seen = Vec::new();
        // The head, and of the body what has been sent.
        let body = asked.split_once("\r\n\r\n").unwrap().1.trim_end_matches("\r\n");
        while !String::from_utf8_lossy(&seen).contains("\r\n\r\n") || !String::from_utf8_lossy(&seen).contains(body) {
            let read = within("the request", far.read(&mut bytes)).await.unwrap();
            assert!(read > 0, "{asked:?} came to an end");
            seen.extend_from_slice(&bytes[..read]);
        }
        far.write_all(answered.as_bytes()).await.unwrap();
        if !answered.is_empty() {
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains("four") {
                let read = within("the answer", client.read(&mut bytes)).await.unwrap();
                assert!(read > 0, "{answered:?} came to an end");
                seen.extend_from_slice(&bytes[..read]);
            }
        }
        let before = process.processor_time();
        // Not for anything to settle: this is the time that is measured.
        tokio::time::sleep(WATCHED).await;
        let took = process.processor_time().saturating_sub(before);
        assert!(took <= COST_MAX, "{asked:?}, answered by {answered:?}, took {took:?} in {WATCHED:?}");
        held.push((client, far));
    }
}

#[tokio::test]
async fn an_exchange_that_waits_takes_no_processor_time() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let files = Files::of(Config::to_url(&url));
    let mut process = Armiger::spawn(&["run", "--config", &files.config()]);
    let address = address_in(&process.stderr_line("listener"));
    wait_on(&process, &upstream, address).await;
}
