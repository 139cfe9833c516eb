//! An exchange over a pipe: framing both ways, and how each of its ends is told.

mod bodies;
mod ends;
mod time;
mod turns;

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

use super::*;
use crate::http::body::{Arriving, Received};
use crate::http::framing::{HeadLimits, Violation};
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
struct Text(Full<Bytes>, Rc<Seen>);

impl super::Answer for Text {
    fn written(&mut self) {}
    fn lost(&mut self, bytes: usize) {
        self.1.lost.set(Some(bytes));
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.1.ended.set(self.1.ended.get() + 1);
    }
}

impl Body for Text {
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
    /// How much of an answer never left, where it had begun.
    lost: Cell<Option<usize>>,
    /// How many answers are over.
    ended: Cell<u32>,
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

async fn answer(request: Request<Arriving>, seen: Rc<Seen>, state: Rc<GateState>) -> Response<Text> {
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
    response.body(Text(Full::from(text), seen.clone())).unwrap()
}

/// The whole body and its trailers, or the violation that it ended with.
async fn collect(body: Arriving, state: &GateState) -> Result<http_body_util::Collected<Bytes>, Option<Violation>> {
    let body = crate::http::body::Body::Received(Received::new(body, u64::MAX));
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
        let gate = Gate::new(
            server_io,
            prefix.as_bytes().to_vec(),
            limits,
            timeouts,
            &wheel,
            &Scratch::default(),
            state.clone(),
        );
        let (service_seen, service_state) = (seen.clone(), state.clone());
        let server = spawn_local(async move {
            let mut gate = gate;
            let mut place = Box::pin(None);
            let result = loop {
                let Some(entered) = poll_fn(|cx| gate.poll_head(cx)).await else { break Ok(()) };
                gate.feed_early();
                let mut exchange = Exchange::new(entered.asked);
                place.set(Some(answer(
                    (*entered.request).map(|_| entered.body),
                    service_seen.clone(),
                    service_state.clone(),
                )));
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
