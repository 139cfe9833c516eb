//! Three tiny back ends for the demo: users, orders, and an app that is slow, fails, streams and breaks off on demand.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// What the back ends are called, in the order of their ports.
pub const NAMES: [&str; 3] = ["users", "orders", "app"];

/// The ports that `config.example.yaml` names.
pub const PORTS: [u16; 3] = [7001, 7002, 7003];

/// The longest that `/slow` may take: a demo's thread has no use for sleepers of days.
const SLOW_MAX: Duration = Duration::from_secs(60);

/// The longest answer of `/large`.
const LARGE_MAX: u64 = 1 << 30;

/// What `/large` repeats.
const LARGE_PIECE: &[u8; 64 * 1024] = &[b'.'; 64 * 1024];

/// How many events `/stream` sends, and how far apart.
const EVENTS: (u32, Duration) = (20, Duration::from_millis(200));

/// Three HTTP/1.1 servers on loopback, on a thread of their own. They stop when this is dropped.
#[derive(Debug)]
pub struct Backends {
    addresses: [SocketAddr; 3],
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Backends {
    /// Starts them on these ports of 127.0.0.1: users, orders, app. Port 0 takes a free one.
    ///
    /// # Errors
    /// If a port is taken; the message names it and what to do.
    pub fn start(ports: [u16; 3]) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(ports.len());
        for (name, port) in NAMES.into_iter().zip(ports) {
            let listener =
                StdListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| refused(name, port, &error))?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
        for (address, listener) in addresses.iter_mut().zip(&listeners) {
            *address = listener.local_addr()?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("demo-backends".into()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                for (name, listener) in NAMES.into_iter().zip(listeners) {
                    tokio::task::spawn_local(accept(name, listener));
                }
                // An error is a dropped sender, which means the same.
                stopped.await.ok();
            });
        })?;
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }

    /// Where users, orders and app listen.
    pub fn addresses(&self) -> [SocketAddr; 3] {
        self.addresses
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened; there is nothing left to stop.
            thread.join().ok();
        }
    }
}

fn refused(name: &str, port: u16, error: &io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("stop what listens there (`ss -ltnp 'sport = :{port}'` shows it) and start the demo again")
        }
        io::ErrorKind::PermissionDenied => "choose a port of 1024 or more".into(),
        _ => "see that the loopback interface is up".into(),
    };
    io::Error::new(
        error.kind(),
        format!("the demo's back end `{name}` cannot listen on 127.0.0.1:{port}: {error}; {remedy}"),
    )
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer, or none: the connection is then closed without one.
type Reply = Result<Response<Body>, io::Error>;

async fn accept(name: &'static str, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(name, %error, "the demo's back end cannot accept connections");
            return;
        }
    };
    let flaked = Rc::new(Cell::new(false));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(name, %error, "the demo's back end did not get a connection");
                // Out of file descriptors, most likely: asking again at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let flaked = flaked.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(name, request, flaked.clone()));
            // Broken connections are what this demo is about.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(name: &'static str, request: Request<Incoming>, flaked: Rc<Cell<bool>>) -> Reply {
    let uri = request.uri().clone();
    let query = Query::of(uri.query());
    let segments: Vec<&str> = uri.path().split('/').skip(1).collect();
    if segments == ["healthz"] {
        return Ok(text(StatusCode::OK, "ok\n"));
    }
    match name {
        "users" => Ok(users(&segments)),
        "orders" => Ok(orders(&segments, &query)),
        _ => app(&segments, &query, request, &flaked).await,
    }
}

// === users ===

/// Number, name, city.
const USERS: &[(&str, &str, &str)] =
    &[("1", "Ada Lovelace", "London"), ("2", "Grace Hopper", "New York"), ("7", "Radia Perlman", "Boston")];

fn user(id: &str) -> Option<Value> {
    USERS.iter().find(|(known, ..)| *known == id).map(|(id, name, city)| json!({"id": id, "name": name, "city": city}))
}

fn users(segments: &[&str]) -> Response<Body> {
    match segments {
        ["v1", "users"] => {
            let items: Vec<Value> = USERS.iter().filter_map(|(id, ..)| user(id)).collect();
            document(StatusCode::OK, &json!({"total": items.len(), "items": items}))
        }
        ["v1", "users", id] => match user(id) {
            Some(user) => document(StatusCode::OK, &user),
            None => missing("no such user"),
        },
        _ => missing("try /v1/users and /v1/users/7"),
    }
}

// === orders ===

/// Number, user, what, cents.
const ORDERS: &[(&str, &str, &str, u32)] = &[
    ("1001", "1", "punched cards, 500", 4_900),
    ("1002", "2", "moth tweezers", 1_250),
    ("1003", "1", "difference engine, used", 1_783_300),
    ("1004", "7", "spanning tree, potted", 2_100),
];

fn orders(segments: &[&str], query: &Query<'_>) -> Response<Body> {
    let shown = |(id, user, what, cents): &(&str, &str, &str, u32)| json!({"id": id, "user": user, "what": what, "cents": cents});
    match segments {
        ["orders"] => {
            let wanted = query.get("user");
            let chosen = ORDERS.iter().filter(|(_, user, ..)| wanted.is_none_or(|wanted| wanted == *user));
            let items: Vec<Value> = chosen.map(shown).collect();
            document(StatusCode::OK, &json!({"total": items.len(), "items": items}))
        }
        ["orders", id] => match ORDERS.iter().find(|(number, ..)| number == id) {
            Some(order) => document(StatusCode::OK, &shown(order)),
            None => missing("no such order"),
        },
        _ => missing("try /orders, /orders?user=1 and /orders/1001"),
    }
}

// === app ===

async fn app(segments: &[&str], query: &Query<'_>, request: Request<Incoming>, flaked: &Cell<bool>) -> Reply {
    Ok(match segments {
        [""] => text(StatusCode::OK, "hello from the app behind armiger\n"),
        ["echo"] => document(StatusCode::OK, &echo(&request)),
        ["echo-body"] => {
            let kind = request.headers().get(header::CONTENT_TYPE).cloned();
            let mut response = Response::new(request.into_body().map_err(io::Error::other).boxed_unsync());
            response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
            response
        }
        ["slow"] => {
            let delay = Duration::from_millis(query.number("ms").unwrap_or(1_000)).min(SLOW_MAX);
            tokio::time::sleep(delay).await;
            text(StatusCode::OK, format!("this took {} ms\n", delay.as_millis()))
        }
        ["fail"] => {
            let status = query.number("status").and_then(|status| u16::try_from(status).ok());
            // 1xx is no answer, and 204 and 304 have no body to tell of the failure.
            let status = status.filter(|status| (400..600).contains(status)).unwrap_or(503);
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            document(status, &json!({"error": "failed, as you asked", "status": status.as_u16()}))
        }
        ["flaky"] => {
            flaked.set(!flaked.get());
            if flaked.get() {
                return Err(io::Error::other("closed without an answer, as it does every other time"));
            }
            text(StatusCode::OK, "it worked this time\n")
        }
        ["stream"] => produced(Some("text/event-stream"), |sender| async move {
            let (events, gap) = EVENTS;
            for number in 1..=events {
                if number > 1 {
                    tokio::time::sleep(gap).await;
                }
                let event = format!("event: tick\nid: {number}\ndata: {{\"tick\": {number}}}\n\n");
                if sender.send(Ok(Frame::data(event.into()))).await.is_err() {
                    return;
                }
            }
        }),
        ["large"] => {
            let left = query.number("mib").unwrap_or(10).saturating_mul(1 << 20).min(LARGE_MAX);
            let mut response = Response::new(Repeated { left }.map_err(|never| match never {}).boxed_unsync());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            response
        }
        ["cut"] => {
            let mut response = produced(Some("text/plain; charset=utf-8"), |sender| async move {
                let part = Bytes::from_static(&LARGE_PIECE[..100]);
                if sender.send(Ok(Frame::data(part))).await.is_ok() {
                    // The channel holds one: this is taken once the hundred bytes are on their way.
                    sender.send(Err(io::Error::other("cut, as you asked"))).await.ok();
                }
            });
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("1000"));
            response
        }
        ["hang"] => std::future::pending().await,
        _ => missing("try / /echo /echo-body /slow /fail /flaky /stream /large /cut /hang /healthz"),
    })
}

/// The request as it came in, so that one sees what armiger made of it.
fn echo(request: &Request<Incoming>) -> Value {
    json!({
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "headers": headers(request.headers()),
    })
}

/// Name to value; to a list of values where a name stands several times.
fn headers(map: &HeaderMap) -> Value {
    let shown = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
    map.keys()
        .map(|name| {
            let mut values: Vec<Value> = map.get_all(name).iter().map(shown).collect();
            let value = if values.len() == 1 { values.swap_remove(0) } else { Value::from(values) };
            (name.as_str().to_owned(), value)
        })
        .collect()
}

// === answers ===

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    full(status, "text/plain; charset=utf-8", body.into())
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    full(status, "application/json", format!("{value:#}\n").into())
}

fn missing(what: &str) -> Response<Body> {
    document(StatusCode::NOT_FOUND, &json!({"error": what}))
}

fn full(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

type Sender = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

/// An answer whose body is made while it is sent. Its maker is told by the channel when nobody reads any more.
fn produced<F: Future<Output = ()> + 'static>(
    kind: Option<&'static str>,
    make: impl FnOnce(Sender) -> F,
) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_local(make(sender));
    let mut response = Response::new(Produced(receiver).boxed_unsync());
    response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind))));
    response
}

struct Produced(mpsc::Receiver<Result<Frame<Bytes>, io::Error>>);

impl hyper::body::Body for Produced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}

/// So many bytes, of which only one piece is ever in memory.
struct Repeated {
    left: u64,
}

impl hyper::body::Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = LARGE_PIECE.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&LARGE_PIECE[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A query's parameters; of equal names the last. Nothing is decoded: the demo's values need none of it.
struct Query<'a>(HashMap<&'a str, &'a str>);

impl<'a> Query<'a> {
    fn of(query: Option<&'a str>) -> Self {
        Self(query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('=')).collect())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as StdStream;

    use super::*;

    /// Which of the three.
    const USERS: usize = 0;
    const ORDERS: usize = 1;
    const APP: usize = 2;

    /// Sends a request whose connection is to be closed after it, and reads to the end.
    fn ask(backends: &Backends, which: usize, head: &str, body: &str) -> String {
        let mut stream = StdStream::connect(backends.addresses()[which]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = body.len();
        let request =
            format!("{head} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A cut answer may end in a reset; what came before it counts.
        stream.read_to_end(&mut answer).ok();
        String::from_utf8(answer).unwrap()
    }

    #[track_caller]
    fn check(which: usize, head: &str, status: &str, contains: &str) {
        let backends = Backends::start([0; 3]).unwrap();
        let answer = ask(&backends, which, head, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert!(answer.contains(contains), "{head}: no {contains:?} in {answer}");
    }

    #[test]
    fn each_back_end_has_its_answers() {
        check(USERS, "GET /v1/users", "200", "Grace Hopper");
        check(USERS, "GET /v1/users/7", "200", "\"name\": \"Radia Perlman\"");
        check(USERS, "GET /v1/users/nobody", "404", "no such user");
        check(ORDERS, "GET /orders", "200", "\"total\": 4");
        check(ORDERS, "GET /orders?user=1", "200", "\"total\": 2");
        check(ORDERS, "GET /orders/1002", "200", "moth tweezers");
        check(ORDERS, "GET /orders/1", "404", "no such order");
        check(APP, "GET /", "200", "hello");
        check(APP, "PUT /echo?a=b", "200", "\"method\": \"PUT\"");
        check(APP, "GET /slow?ms=1", "200", "1 ms");
        check(APP, "GET /fail", "503", "as you asked");
        check(APP, "GET /fail?status=418", "418", "as you asked");
        check(APP, "GET /fail?status=101", "503", "as you asked");
        check(APP, "GET /nowhere", "404", "try /");
        check(APP, "GET /healthz", "200", "ok");
        check(APP, "GET /large?mib=0", "200", "content-length: 0");
    }

    #[test]
    fn a_posted_body_comes_back() {
        let backends = Backends::start([0; 3]).unwrap();
        assert!(ask(&backends, APP, "POST /echo-body", "a body").ends_with("\r\n\r\na body"));
    }

    #[test]
    fn a_large_answer_is_as_long_as_asked() {
        let backends = Backends::start([0; 3]).unwrap();
        let answer = ask(&backends, APP, "GET /large?mib=2", "");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.len(), 2 << 20);
    }

    #[test]
    fn flaky_answers_every_other_time() {
        let backends = Backends::start([0; 3]).unwrap();
        let answers: Vec<bool> = (0..4).map(|_| ask(&backends, APP, "GET /flaky", "").is_empty()).collect();
        assert_eq!(answers, [true, false, true, false]);
    }

    #[test]
    fn a_cut_answer_promises_more_than_comes() {
        let backends = Backends::start([0; 3]).unwrap();
        let answer = ask(&backends, APP, "GET /cut", "");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 1000"), "{head}");
        assert_eq!(body.len(), 100);
    }

    #[test]
    fn events_come_as_they_happen() {
        let backends = Backends::start([0; 3]).unwrap();
        let mut stream = StdStream::connect(backends.addresses()[APP]).unwrap();
        stream.write_all(b"GET /stream HTTP/1.1\r\nhost: demo\r\n\r\n").unwrap();
        let mut answer = String::new();
        let mut buffer = [0; 1024];
        while !answer.contains("id: 2\n") {
            let read = stream.read(&mut buffer).unwrap();
            answer += std::str::from_utf8(&buffer[..read]).unwrap();
        }
        assert!(answer.contains("content-type: text/event-stream"), "{answer}");
        assert!(!answer.contains("id: 20\n"), "all at once: {answer}");
    }

    #[test]
    fn a_taken_port_is_named_with_the_remedy() {
        let first = Backends::start([0; 3]).unwrap();
        let port = first.addresses()[ORDERS].port();
        let error = Backends::start([0, port, 0]).unwrap_err().to_string();
        assert!(
            error.contains("`orders`") && error.contains(&format!(":{port}: ")) && error.contains("ss -ltnp"),
            "{error}"
        );
    }

    #[test]
    fn a_hanging_exchange_does_not_keep_them_from_stopping() {
        let backends = Backends::start([0; 3]).unwrap();
        let mut stream = StdStream::connect(backends.addresses()[APP]).unwrap();
        stream.write_all(b"GET /hang HTTP/1.1\r\nhost: demo\r\n\r\n").unwrap();
        drop(backends);
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}
