//! An exchange over a pipe: framing both ways, and how each of its ends is told.

use super::*;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use http_body::SizeHint;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

use crate::http::body::{Arriving, Received};
use crate::http::framing::{HeadLimits, Violation};
use crate::http::inflow::Inflow;
use crate::server::gate::{GateState, GateTimeouts, Scratch};
use crate::timer::Wheel;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(50);
const NEVER: GateTimeouts = GateTimeouts {
    request_headers: HOUR,
    body_idle: HOUR,
    rate: crate::http::pace::Rate { min: 0, over: HOUR },
    keep_alive: HOUR,
};

/// The most of a body that is read for the sake of the connection.
const DRAINED: usize = 64 * 1024;

const GET: &str = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";

/// A response body that cannot fail.
struct Answer(Full<Bytes>, Rc<Seen>);

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.1.taken.set(self.1.taken.get() + 1);
        Pin::new(&mut self.0).poll_frame(cx).map_err(|never: Infallible| match never {})
    }
    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// What the service and the owner of the connection saw.
#[derive(Default)]
struct Seen {
    requests: RefCell<Vec<String>>,
    /// How often a body of an answer was asked for a part of it.
    taken: Cell<u32>,
    aborted: Cell<u32>,
    body_violation: Cell<Option<Violation>>,
    go: Notify,
}

struct Abort<'a>(&'a Seen, bool);

impl Drop for Abort<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.aborted.set(self.0.aborted.get() + 1);
        }
    }
}

async fn answer(request: Request<Option<Inflow>>, seen: Rc<Seen>, state: Rc<GateState>) -> Response<Answer> {
    let mut unless_dropped = Abort(&seen, false);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    seen.requests.borrow_mut().push(format!("{} {path}", parts.method));
    let mut response = Response::builder();
    let text = match path.as_str() {
        "/early" => {
            response = response.status(403);
            drop(body);
            "early".to_owned()
        }
        "/wait" => {
            seen.go.notified().await;
            "waited".to_owned()
        }
        "/big" => "x".repeat(1 << 20),
        "/upgrade" => {
            state.become_tunnel();
            response = response.status(101).header("connection", "upgrade").header("upgrade", "x");
            String::new()
        }
        _ => match collect(body, &state).await {
            Ok(collected) => {
                let trailers = collected.trailers().map_or(0, http::HeaderMap::len);
                format!("{} {trailers}", String::from_utf8_lossy(&collected.to_bytes()))
            }
            Err(violation) => {
                seen.body_violation.set(violation);
                let status = violation.map_or(499, Violation::status);
                response = response.status(status).header("connection", "close");
                "bad body".to_owned()
            }
        },
    };
    unless_dropped.1 = true;
    response.body(Answer(Full::from(text), seen.clone())).unwrap()
}

/// The whole body and its trailers, or the violation that it ended with.
async fn collect(
    body: Option<Inflow>,
    state: &GateState,
) -> Result<http_body_util::Collected<Bytes>, Option<Violation>> {
    let body = crate::http::body::Body::Received(Received::new(body.map_or(Arriving::None, Arriving::Http1), u64::MAX));
    body.collect().await.map_err(|_| state.violation())
}

struct Client {
    io: DuplexStream,
    unread: Vec<u8>,
    seen: Rc<Seen>,
    state: Rc<GateState>,
    server: JoinHandle<(Result<(), Broken>, Gate<DuplexStream>)>,
}

impl Client {
    fn connect(timeouts: GateTimeouts) -> Self {
        Self::connect_with(timeouts, 1 << 16, "")
    }

    fn connect_with(timeouts: GateTimeouts, pipe: usize, prefix: &str) -> Self {
        let (io, server_io) = duplex(pipe);
        let seen = Rc::new(Seen::default());
        let state = Rc::new(GateState::default());
        let wheel = Wheel::new();
        spawn_local(wheel.clone().run());
        let limits = HeadLimits::default();
        let gate =
            Gate::new(server_io, prefix.as_bytes().to_vec(), limits, timeouts, &wheel, &Scratch::new(), state.clone());
        let (service_seen, service_state) = (seen.clone(), state.clone());
        let server = spawn_local(async move {
            let mut gate = gate;
            let mut place = Box::pin(None);
            let result = loop {
                let Some(entered) = poll_fn(|cx| gate.poll_head(cx)).await else { break Ok(()) };
                gate.feed_early();
                let mut exchange = Exchange::new(entered.asked);
                place.set(Some(answer(entered.request, service_seen.clone(), service_state.clone())));
                match poll_fn(|cx| exchange.poll(cx, &mut gate, place.as_mut())).await {
                    Ok(Ended::Again) => {}
                    Ok(Ended::Last) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if let Some(violation) = service_state.refusal() {
                let text = format!("HTTP/1.1 {} refused\r\nContent-Length: 0\r\n\r\n", violation.status());
                let _ = gate.refuse(text.as_bytes()).await;
            } else if result.is_ok() && !service_state.is_tunnel() {
                let is_sending = gate.is_sending();
                let _ = gate.close(is_sending).await;
            }
            (result, gate)
        });
        Self { io, unread: Vec::new(), seen, state, server }
    }

    async fn send(&mut self, text: &str) {
        soon(self.io.write_all(text.as_bytes())).await.unwrap();
    }

    async fn send_in_bytes(&mut self, text: &str) {
        for byte in text.as_bytes() {
            self.io.write_all(&[*byte]).await.unwrap();
            settle().await;
        }
    }

    /// Status and body of the next response.
    async fn response(&mut self) -> (u16, String) {
        loop {
            let text = String::from_utf8_lossy(&self.unread).into_owned();
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let status = head[9..12].parse().unwrap();
                let length = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap()))
                    .unwrap_or(0_usize);
                if rest.len() >= length {
                    let body = rest[..length].to_owned();
                    self.unread.drain(..head.len() + 4 + length);
                    return (status, body);
                }
            }
            let mut more = [0; 4096];
            let n = soon(self.io.read(&mut more)).await.unwrap();
            assert_ne!(n, 0, "the connection ended with {text:?}");
            self.unread.extend_from_slice(&more[..n]);
        }
    }

    /// Waits for the end of the connection and answers what came before it.
    async fn end(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.unread);
        let _ = soon(self.io.read_to_end(&mut rest)).await;
        String::from_utf8(rest).unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.seen.requests.borrow().clone()
    }
}

/// Only so that a fault is a failed test and not one that hangs.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this happens soon")
}

/// Lets every task do what it can do.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn run<F: Future>(test: F) -> F::Output {
    // The clock stands still while anybody has something to do, and then jumps to the next deadline.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn post_chunked(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    run(async {
        let mut client = Client::connect(NEVER);
        for _ in 0..3 {
            client.send(GET).await;
            assert_eq!(client.response().await, (200, " 0".to_owned()));
            client.send(&post("/echo", "hello")).await;
            assert_eq!(client.response().await, (200, "hello 0".to_owned()));
            client.send(&post_chunked("/echo", "2\r\nab\r\n1;x\r\nc\r\n0\r\nT: v\r\n\r\n")).await;
            assert_eq!(client.response().await, (200, "abc 1".to_owned()));
        }
        assert_eq!(client.state.requests(), 9);
        assert!(!client.state.in_flight());
        assert!(client.state.bytes_written() > 0);
        drop(client.io);
        assert!(client.server.await.unwrap().0.is_ok());
    });
}

#[test]
fn an_answer_that_was_waited_for_goes_out_once_the_others_that_are_ready_have_read() {
    run(async {
        for (path, is_at_once) in [("/wait", false), ("/early", true)] {
            let mut client = Client::connect_with(NEVER, 1 << 16, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            yield_now().await;
            client.seen.go.notify_one();
            let (state, seen) = (client.state.clone(), client.seen.clone());
            // It comes behind the connection, which is ready before.
            let other = spawn_local(async move { (seen.taken.get(), state.bytes_written() > 0) });
            // Where its body arrived is free for what the others read.
            assert_eq!(other.await.unwrap(), (1, is_at_once), "{path}");
            assert!(client.response().await.1.contains(if is_at_once { "early" } else { "waited" }));
        }
    });
}

#[test]
fn a_connection_that_waits_holds_no_buffer() {
    run(async {
        let (mut client, io) = duplex(1024);
        client.write_all(&GET.as_bytes()[20..]).await.unwrap();
        let (limits, state) = (HeadLimits::default(), Rc::new(GateState::default()));
        let prefix = GET.as_bytes()[..20].to_vec();
        let mut gate = Gate::new(io, prefix, limits, NEVER, &Wheel::new(), &Scratch::new(), state);
        let entered = poll_fn(|cx| gate.poll_head(cx)).await.unwrap();
        assert_eq!(entered.request.uri(), "/echo");
        assert_eq!(gate.held_capacity(), 0);
    });
}

#[test]
fn bytes_that_were_read_before_count_and_are_served() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1 << 16, &GET[..10]);
        client.send(&GET[10..]).await;
        assert_eq!(client.response().await.0, 200);
        assert_eq!(client.state.bytes_read(), GET.len() as u64);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let stream = [
        &post("/echo", "one"),
        "\r\n",
        GET,
        &post_chunked("/echo", "3\r\ntwo\r\n0\r\n\r\n"),
        &post("/echo", "three"),
        GET,
    ]
    .concat();
    let bodies = ["one 0", " 0", "two 0", "three 0", " 0"];
    run(async {
        for split in 0..stream.len() {
            let mut client = Client::connect(NEVER);
            client.send(&stream[..split]).await;
            settle().await;
            client.send(&stream[split..]).await;
            for body in bodies {
                assert_eq!(client.response().await, (200, body.to_owned()), "split at {split}");
            }
        }
        let mut client = Client::connect(NEVER);
        client.send_in_bytes(&stream).await;
        for body in bodies {
            assert_eq!(client.response().await, (200, body.to_owned()), "byte by byte");
        }
    });
}

#[test]
fn a_large_head_passes() {
    run(async {
        let mut client = Client::connect(NEVER);
        let head = format!("GET /echo HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(7500)).repeat(4));
        client.send(&head).await;
        assert_eq!(client.response().await.0, 200);
        client.send_in_bytes(GET).await;
        assert_eq!(client.response().await.0, 200);
    });
}

#[test]
fn a_large_body_passes_and_the_request_behind_it_is_served() {
    run(async {
        let mut client = Client::connect_with(NEVER, 300_000, "");
        let body = "z".repeat(200_000);
        client.send(&format!("{}{GET}", post("/echo", &body))).await;
        assert_eq!(client.response().await.1.len(), 200_002);
        assert_eq!(client.response().await, (200, " 0".to_owned()));
    });
}

#[test]
fn the_next_head_waits_until_the_exchange_is_over() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send(&format!("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n{GET}BAD\0")).await;
        settle().await;
        assert_eq!(client.requests(), ["GET /wait"]);
        assert!(client.state.in_flight());
        assert_eq!(client.state.requests(), 1);
        assert_eq!(client.state.violation(), None, "what waits is not judged yet");
        client.seen.go.notify_one();
        assert_eq!(client.response().await, (200, "waited".to_owned()));
        assert_eq!(client.response().await, (200, " 0".to_owned()));
    });
}

#[test]
fn a_client_that_pipelines_without_end_is_not_read_without_end() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1024, "");
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let flood = GET.repeat(4000);
        let mut sent = 0;
        let mut fill = async || {
            while let Ok(n) = tokio::time::timeout(SOON, client.io.write(&flood.as_bytes()[sent..])).await {
                sent += n.unwrap();
            }
        };
        fill().await;
        assert!(client.state.bytes_read() < 40_000, "{}", client.state.bytes_read());
        client.seen.go.notify_one();
        assert_eq!(client.response().await.1, "waited");
        for _ in 0..100 {
            assert_eq!(client.response().await.1, " 0");
        }
    });
}

#[test]
fn a_client_that_goes_away_ends_its_exchange_at_once() {
    run(async {
        for more in ["", GET, "GET /ec"] {
            let mut client = Client::connect(NEVER);
            client.send(&format!("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n{more}")).await;
            settle().await;
            assert_eq!(client.seen.aborted.get(), 0);
            client.io.shutdown().await.unwrap();
            let (result, _) = soon(client.server).await.unwrap();
            assert!(matches!(result, Err(Broken::ClientGone)));
            assert_eq!(client.seen.aborted.get(), 1, "with {more:?} behind");
        }
    });
}

#[test]
fn an_early_answer_never_makes_a_request_of_the_body() {
    run(async {
        let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8000);
        let chunks = format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len());
        for request in [post("/early", &evil), post_chunked("/early", &chunks)] {
            for step in [request.len(), 100_000, 4096, 100] {
                let mut client = Client::connect(NEVER);
                for piece in request.as_bytes().chunks(step) {
                    // The server may have closed already.
                    if soon(client.io.write_all(piece)).await.is_err() {
                        break;
                    }
                }
                let _ = soon(client.io.write_all(GET.as_bytes())).await;
                assert_eq!(client.response().await, (403, "early".to_owned()));
                assert_eq!(client.end().await, "");
                assert_eq!(client.requests(), ["POST /early"], "in pieces of {step}");
            }
        }
    });
}

#[test]
fn a_small_body_that_nobody_reads_is_drained_and_the_connection_goes_on() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send(&post("/early", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        client.send(GET).await;
        assert_eq!(client.response().await, (403, "early".to_owned()));
        assert_eq!(client.response().await, (200, " 0".to_owned()));
        assert_eq!(client.requests(), ["POST /early", "GET /echo"]);
    });
}

#[test]
fn the_small_rest_of_a_body_that_nobody_reads_is_waited_for_once() {
    run(async {
        let request = post("/early", &"x".repeat(1000));
        let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
        client.send(&request[..request.len() - 900]).await;
        assert_eq!(client.response().await, (403, "early".to_owned()));
        client.send(&request[request.len() - 900..]).await;
        client.send(GET).await;
        assert_eq!(client.response().await, (200, " 0".to_owned()));

        // A byte now and then makes that no longer.
        let began = tokio::time::Instant::now();
        client.send(&request[..request.len() - 900]).await;
        assert_eq!(client.response().await, (403, "early".to_owned()));
        for _ in 0..100 {
            let _ = client.io.write_all(b"x").await;
            tokio::time::sleep(SOON / 10).await;
        }
        assert_eq!(client.end().await, "");
        assert!(began.elapsed() < 20 * SOON, "{:?}", began.elapsed());
    });
}

#[test]
fn an_answer_behind_which_nothing_can_be_read_says_so() {
    let large = "x".repeat(DRAINED + 200);
    let expecting = "POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let ending = [&post("/early", &large)[..200], &post_chunked("/early", "5\r\nhello\r\n"), expecting];
    let going_on = [
        post("/early", "hello"),
        // Not here yet, and waited for.
        post("/early", "hello").replace("hello", ""),
        post_chunked("/early", "5\r\nhello\r\n0\r\n\r\n"),
    ];
    run(async {
        let answer = async |request: &str| {
            let mut client = Client::connect(NEVER);
            client.send(request).await;
            settle().await;
            let mut text = vec![0; 4096];
            let length = soon(client.io.read(&mut text)).await.unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        for request in ending {
            assert!(answer(request).await.contains("\r\nconnection: close\r\n"), "{request:?}");
        }
        for request in &going_on {
            assert!(!answer(request).await.contains("connection:"), "{request:?}");
        }
    });
}

#[test]
fn a_refused_head_is_answered_by_us_and_reaches_nobody() {
    let cases = [
        ("GET /echo HTTP/1.1\r\n\r\n", 400, Violation::HostMissing),
        ("GET /echo HTTP/1.1\nHost: a\n\n", 400, Violation::BareLineEnd),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, Violation::Version),
        ("\u{16}\u{3}\u{1}", 400, Violation::Method),
    ];
    run(async {
        for (text, status, violation) in cases {
            for before in ["", GET] {
                let mut client = Client::connect(NEVER);
                client.send(&format!("{before}{text}{GET}")).await;
                if !before.is_empty() {
                    assert_eq!(client.response().await.0, 200);
                }
                assert_eq!(client.end().await, format!("HTTP/1.1 {status} refused\r\nContent-Length: 0\r\n\r\n"));
                assert_eq!(client.state.violation(), Some(violation));
                assert_eq!(client.requests().len(), usize::from(!before.is_empty()));
            }
        }
    });
}

#[test]
fn a_response_is_delivered_whole_before_the_refusal_of_what_was_pipelined_behind_it() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1024, "");
        client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\nBAD\r\n\r\n").await;
        settle().await;
        assert_eq!(client.response().await.1.len(), 1 << 20);
        assert!(client.end().await.starts_with("HTTP/1.1 400 refused"));
    });
}

#[test]
fn a_refused_client_that_still_sends_is_drained() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1024, "");
        client.send(&format!("BAD\r\n\r\n{}", "x".repeat(500_000))).await;
        assert!(client.response().await.0 == 400);
        drop(client.io);
        soon(client.server).await.unwrap().0.unwrap();
    });
}

#[test]
fn a_bad_chunk_reaches_the_service_as_its_violation_and_ends_the_connection() {
    let cases = [
        ("5\nhello\r\n0\r\n\r\n", Violation::ChunkSize),
        ("5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd),
        ("0\r\nContent-Length: 5\r\n\r\n", Violation::Trailer),
    ];
    run(async {
        for (body, violation) in cases {
            for is_slow in [false, true] {
                let mut client = Client::connect(NEVER);
                let request = post_chunked("/echo", body);
                let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
                client.send(head).await;
                if is_slow {
                    settle().await;
                }
                client.send(&format!("{body}{GET}")).await;
                assert_eq!(client.response().await.0, 400);
                assert_eq!(client.end().await, "");
                assert_eq!(client.seen.body_violation.get(), Some(violation));
                assert_eq!(client.requests().len(), 1);
                assert_eq!(client.state.refusal(), None, "the service has answered");
            }
        }
    });
}

#[test]
fn a_body_that_is_cut_is_an_error_and_not_an_end() {
    run(async {
        for request in [post("/echo", "hello"), post_chunked("/echo", "5\r\nhello\r\n0\r\n\r\n")] {
            let mut client = Client::connect(NEVER);
            client.send(&request[..request.len() - 1]).await;
            client.io.shutdown().await.unwrap();
            let (result, _) = soon(client.server).await.unwrap();
            assert!(matches!(result, Err(Broken::ClientGone)), "it has gone");
            assert_eq!(client.seen.aborted.get(), 1);
        }
    });
}

#[test]
fn a_head_that_is_cut_ends_without_a_word() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send(&GET[..20]).await;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.end().await, "");
        assert!(client.requests().is_empty());
    });
}

#[test]
fn the_bytes_behind_an_upgrade_are_kept_unread_for_the_tunnel() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0\x01\n").await;
        let (result, gate) = soon(client.server).await.unwrap();
        result.unwrap();
        assert!(client.state.is_tunnel());
        let (mut io, rest) = gate.into_parts();
        assert_eq!(rest, b"\0\x01\n");
        client.io.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        io.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    });
}

#[test]
fn silence_ends_a_connection_without_a_word() {
    run(async {
        let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
        assert_eq!(client.end().await, "", "before the first request");
        assert_eq!(client.state.violation(), None);

        let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
        client.send("\r\n").await;
        assert_eq!(client.end().await, "", "an empty line is no request");

        let mut client = Client::connect(GateTimeouts { keep_alive: SOON, ..NEVER });
        client.send(GET).await;
        assert_eq!(client.response().await.0, 200);
        assert_eq!(client.end().await, "", "between two requests");
    });
}

#[test]
fn a_head_has_one_time_however_many_bytes_come() {
    run(async {
        for before in ["", GET] {
            let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
            client.send(before).await;
            if !before.is_empty() {
                assert_eq!(client.response().await.0, 200);
            }
            client.send("GET /").await;
            let mut ticks = tokio::time::interval(SOON / 10);
            while client.state.violation().is_none() {
                soon(ticks.tick()).await;
                let _ = client.io.write_all(b"x").await;
            }
            assert_eq!(client.state.violation(), Some(Violation::HeadTimeout));
            assert_eq!(client.response().await.0, 408);
            assert_eq!(client.requests().len(), usize::from(!before.is_empty()));
        }
    });
}

#[test]
fn a_body_that_pauses_is_a_timeout_for_the_service() {
    run(async {
        let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
        let request = post("/echo", "hello");
        client.send(&request[..request.len() - 1]).await;
        assert_eq!(client.response().await.0, 408);
        assert_eq!(client.seen.body_violation.get(), Some(Violation::BodyTimeout));
    });
}

#[test]
fn a_body_that_moves_may_take_as_long_as_it_wants() {
    run(async {
        let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
        let request = post("/echo", "slow but steady");
        let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
        client.send(head).await;
        for byte in body.as_bytes() {
            settle().await;
            tokio::time::advance(SOON / 2).await;
            client.io.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(client.response().await, (200, "slow but steady 0".to_owned()));
    });
}

#[test]
fn a_service_may_take_as_long_as_it_wants() {
    run(async {
        let mut client =
            Client::connect(GateTimeouts { request_headers: SOON, body_idle: SOON, keep_alive: SOON, ..NEVER });
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /ec").await;
        let waited = tokio::time::timeout(SOON * 4, client.response()).await;
        assert!(waited.is_err(), "{waited:?}");
        client.seen.go.notify_one();
        assert_eq!(client.response().await.1, "waited");
    });
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    run(async {
        let mut client = Client::connect_with(GateTimeouts { body_idle: SOON, ..NEVER }, 1024, "");
        client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (result, _) = soon(client.server).await.unwrap();
        assert_eq!(Violation::of(&result.unwrap_err()), Some(Violation::WriteTimeout));
        assert_eq!(client.state.violation(), Some(Violation::WriteTimeout));
        assert_eq!(client.state.refusal(), None);
    });
}
