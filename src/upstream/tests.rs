//! Upstreams that are played byte by byte: reuse, close races, queues, and everything an upstream may do wrong.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{spawn_local, yield_now};

use super::*;
use crate::config::balance::Balance;
use crate::config::breaker::{Breaker, Trip};
use crate::config::retry::Retry;
use crate::config::upstream::{self as config, Protocol};
use crate::config::value::{ByteSize, HumanDuration};
use crate::config::{Issues, KeyPath};
use crate::http::body::{Body, BodyError, Inbound, Received};
use crate::keep::{Keeper, Kept};
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;

// --- the stage

/// Runs `future` on a worker. Nothing here may take long: what hangs fails.
fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), future).await.expect("the test hangs")
    })
}

/// Waits until `is_so`, turn by turn of the worker.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await.unwrap_err();
    }
}

trait Play: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Play for T {}

/// The upstream's end of a connection.
struct Peer {
    stream: Box<dyn Play>,
    read: Vec<u8>,
    /// Which connection it is, from 0.
    number: usize,
}

impl Peer {
    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.is_ok_and(|length| length > 0)
    }

    /// The head of the next request, or None when armiger closed.
    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                return Some(String::from_utf8(self.read.drain(..end + 4).collect()).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn body(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    /// The next request with a body of known length.
    async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head().await?;
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        let body = self.body(length).await?;
        Some((head, body))
    }

    async fn say(&mut self, bytes: &[u8]) {
        // armiger may have closed: that is for the test to see on its side.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    async fn ok(&mut self, body: &str) {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.say(answer.as_bytes()).await;
    }

    /// Waits until armiger closed.
    async fn gone(&mut self) {
        while self.fill().await {}
    }
}

type Playing = Pin<Box<dyn Future<Output = ()>>>;

/// An upstream that plays `script` on each connection. Gives its address and the count of connections so far.
async fn backend(script: impl Fn(Peer) -> Playing + 'static) -> (String, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let number = counted.replace(counted.get() + 1);
            spawn_local(script(Peer { stream: Box::new(stream), read: Vec::new(), number }));
        }
    });
    (format!("http://{address}"), count)
}

/// Makes a closure a script.
macro_rules! script {
    (|$peer:ident| $body:block) => { move |mut $peer: Peer| -> Playing { Box::pin(async move { let _ = &mut $peer; $body }) } };
    ([$($shared:ident),+] |$peer:ident| $body:block) => {
        { $(let $shared = $shared.clone();)+ move |mut $peer: Peer| -> Playing {
            $(let $shared = $shared.clone();)+ Box::pin(async move { let _ = &mut $peer; $body })
        } }
    };
}

fn settings(endpoints: &[&str]) -> config::Upstream {
    config::Upstream {
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        protocol: Protocol::Http1,
        proxy_protocol: None,
        third_party: false,
        tls: None,
        timeouts: config::Timeouts::default(),
        pool: config::Pool::default(),
        limits: config::Limits::default(),
        balance: Balance::RoundRobin,
        weights: Vec::new(),
        slow_start: None,
        ejection: None,
        retry: None,
        hedge: None,
        health: None,
        breaker: None,
    }
}

fn plan(settings: &config::Upstream) -> Plan {
    Plan::compile(settings, KeyPath::root(), &mut Issues::new()).expect("the plan compiles")
}

/// A worker with one upstream, which reloads.
struct Stage {
    upstream: RefCell<Arc<Upstream>>,
    kept: RefCell<Kept>,
    pools: Pools,
    attempts: RefCell<Vec<&'static str>>,
    metrics: Metrics,
}

impl Stage {
    fn new(settings: &config::Upstream) -> Rc<Self> {
        let wheel = Wheel::new();
        spawn_local(wheel.clone().run());
        let metrics = Metrics::new();
        let (kept, upstream) = Self::compile(settings, 1, &metrics, &Kept::default());
        Rc::new(Self {
            upstream: RefCell::new(upstream),
            kept: RefCell::new(kept),
            pools: Pools::new(wheel, 1),
            attempts: RefCell::default(),
            metrics,
        })
    }

    fn compile(settings: &config::Upstream, version: u64, metrics: &Metrics, kept: &Kept) -> (Kept, Arc<Upstream>) {
        let mut keeper = Keeper::after(kept);
        let state = State::keep("app", settings, &mut keeper);
        let plan = plan(settings);
        let standings = Standings::keep("app", &plan, &mut keeper, metrics);
        let upstream = Upstream::new("app".into(), version, plan, state, standings, metrics.upstream("app"));
        (keeper.finish().0, Arc::new(upstream))
    }

    /// Another configuration is in force for what is sent from now on. The worker is not told. Gives the old one.
    fn swap(&self, settings: &config::Upstream) -> Arc<Upstream> {
        let version = self.upstream().version + 1;
        let (kept, upstream) = Self::compile(settings, version, &self.metrics, &self.kept.borrow());
        self.kept.replace(kept);
        self.upstream.replace(upstream)
    }

    /// As [`Self::swap`], and the worker is told.
    fn reload(&self, settings: &config::Upstream) -> Arc<Upstream> {
        let old = self.swap(settings);
        self.pools.refresh(old.version + 1, &[self.upstream()]);
        old
    }

    fn upstream(&self) -> Arc<Upstream> {
        self.upstream.borrow().clone()
    }

    fn in_flight(&self) -> usize {
        self.upstream().in_flight()
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let mut rows = SmallVec::new();
        let outcome = self.send_as(HostRule::AsIs, &mut rows, request).await;
        self.attempts.borrow_mut().extend(rows.iter().map(|row| row.outcome));
        outcome
    }

    async fn send_as(
        &self,
        host: HostRule,
        attempts: &mut SmallVec<[AttemptRow; 2]>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let call = Call::new(host, Instant::now() + Duration::from_secs(30), None, attempts);
        self.upstream().send(&self.pools, call, &mut request).await
    }

    /// Sends, and reads the whole answer.
    async fn ask(&self, request: Request<Body>) -> Result<(StatusCode, Bytes), Kind> {
        let response = self.send(request).await.map_err(|error| error.kind())?;
        let status = response.status();
        let body = response.into_body().collect().await.expect("the body is whole").to_bytes();
        Ok((status, body))
    }

    fn attempts(&self) -> Vec<&'static str> {
        self.attempts.take()
    }
}

async fn stage(script: impl Fn(Peer) -> Playing + 'static) -> (Rc<Stage>, Rc<Cell<usize>>) {
    let (url, count) = backend(script).await;
    (Stage::new(&settings(&[&url])), count)
}

fn request(method: Method, target: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(target).header("host", "shop.example").body(body.into()).unwrap()
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::full(text)
    }
}

fn get(target: &str) -> Request<Body> {
    request(Method::GET, target, "")
}

fn post(body: &'static str) -> Request<Body> {
    request(Method::POST, "/", body)
}

/// A client that talks to armiger: its bytes become the body of a request, which `handle` gets.
async fn client<F: Future<Output = ()> + 'static>(
    handle: impl Fn(Request<Body>, Rc<Inbound>) -> F + 'static,
) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Rc::new(handle);
    spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = super::connect::Stream::Tcp(stream);
        let wire = hyper_util::rt::TokioIo::new(super::link::Wire::new(stream, super::link::Scratch::default()));
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let handle = handle.clone();
            async move {
                let (mut head, body) = request.into_parts();
                head.headers.remove("transfer-encoding");
                let received = Received::new(crate::http::body::Arriving::Http2(body), 1 << 20);
                let inbound = received.inbound().clone();
                handle(Request::from_parts(head, Body::Received(received)), inbound).await;
                Ok::<_, std::convert::Infallible>(Response::new(Body::Empty))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(wire, service).await;
    });
    TcpStream::connect(address).await.unwrap()
}

// --- reuse

#[test]
fn the_connection_used_last_is_used_next() {
    run(async {
        let served = Rc::new(RefCell::new(Vec::new()));
        let both = Rc::new(Notify::new());
        let (stage, _) = stage(script!(
            [served, both] | peer | {
                while let Some(head) = peer.head().await {
                    served.borrow_mut().push(peer.number);
                    if head.starts_with("GET /wait") {
                        both.notified().await;
                    }
                    peer.ok("").await;
                }
            }
        ))
        .await;
        // Two at once open two connections; the one that is over last is taken next, each time.
        let first = spawn_local({
            let stage = stage.clone();
            async move { stage.ask(get("/wait")).await }
        });
        until(|| served.borrow().len() == 1).await;
        stage.ask(get("/")).await.unwrap();
        both.notify_one();
        first.await.unwrap().unwrap();
        for _ in 0..3 {
            stage.ask(get("/")).await.unwrap();
        }
        assert_eq!(*served.borrow(), [0, 1, 0, 0, 0]);
    });
}

/// The race of a closing upstream cannot be won, only made harmless.
#[test]
fn an_upstream_that_closes_when_it_likes_costs_no_error_and_no_post_runs_twice() {
    run(async {
        let posts: Rc<RefCell<HashMap<String, usize>>> = Rc::default();
        let (stage, connections) = stage(script!(
            [posts] | peer | {
                // Closes without a word after some answers, in the middle of whatever comes next.
                for _ in 0..3 + peer.number % 5 {
                    let Some((head, body)) = peer.request().await else { return };
                    if head.starts_with("POST") {
                        *posts.borrow_mut().entry(String::from_utf8(body).unwrap()).or_default() += 1;
                    }
                    peer.ok("done").await;
                }
            }
        ))
        .await;
        for _ in 0..2000 {
            stage.ask(get("/")).await.expect("a GET never fails");
        }
        let tasks: Vec<_> = (0..20)
            .map(|task| {
                let stage = stage.clone();
                spawn_local(async move {
                    let mut lost = 0;
                    for number in 0..100 {
                        stage.ask(get("/")).await.expect("a GET never fails");
                        let id = format!("{task}-{number}");
                        match stage.ask(request(Method::POST, "/", Body::full(id))).await {
                            Ok(_) => {}
                            Err(Kind::Reset) => lost += 1,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    lost
                })
            })
            .collect();
        let mut lost = 0;
        for task in tasks {
            lost += task.await.unwrap();
        }
        assert!(connections.get() > 200, "the upstream did close: {}", connections.get());
        assert!(posts.borrow().values().all(|times| *times == 1), "a POST ran twice");
        assert!(posts.borrow().len() + lost >= 2000);
        assert!(lost < 20, "{lost} POSTs were lost: a closed connection is seen before it is used");
        assert_eq!(stage.in_flight(), 0);
    });
}

#[test]
fn what_says_close_or_cannot_be_reused_is_not_reused() {
    run(async {
        for (answer, is_reused) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=0\r\n\r\nok", false),
        ] {
            let (stage, connections) = stage(script!(|peer| {
                while peer.request().await.is_some() {
                    peer.say(answer.as_bytes()).await;
                }
            }))
            .await;
            for _ in 0..2 {
                stage.ask(get("/")).await.unwrap();
            }
            assert_eq!(connections.get() == 1, is_reused, "{answer}");
            let mut closing = get("/");
            closing.headers_mut().insert("connection", "close".parse().unwrap());
            stage.ask(closing).await.unwrap();
            until(|| stage.pools.connections() == 0).await;
        }
    });
}

#[test]
fn an_idle_connection_is_closed_when_its_time_is_over() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (url, connections) = backend(script!(
            [closed] | peer | {
                while peer.request().await.is_some() {
                    peer.ok("").await;
                }
                closed.set(true);
            }
        ))
        .await;
        let mut settings = settings(&[&url]);
        settings.timeouts.idle = HumanDuration::millis(100);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        assert_eq!(stage.pools.connections(), 1);
        until(|| closed.get() && stage.pools.connections() == 0).await;
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn a_connection_is_closed_after_its_exchange_when_it_is_too_old() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.ok("").await;
            }
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.pool.age_max = HumanDuration::millis(100);
        let stage = Stage::new(&settings);
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(350) {
            stage.ask(get("/")).await.unwrap();
        }
        // Give or take a tenth, and a slow machine only makes it fewer.
        assert!((2..=4).contains(&connections.get()), "{}", connections.get());
    });
}

/// What the upstream does in the one moment in which the worker does not look: its thread gets a turn, the reactor does
/// not. Only the kernel knows of it then.
#[test]
fn what_comes_in_behind_an_idle_connection_ends_it() {
    let garbage = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for late in [Some(garbage), Some("x"), None] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (go, going) = std::sync::mpsc::sync_channel::<()>(1);
        let (did, done) = std::sync::mpsc::sync_channel::<()>(1);
        let upstream = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut kept = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                going.recv().unwrap();
                if let Some(late) = late {
                    stream.write_all(late.as_bytes()).unwrap();
                    kept.push(stream);
                } else {
                    drop(stream);
                }
                did.send(()).unwrap();
            }
        });
        run(async {
            let stage = Stage::new(&settings(&[&url]));
            stage.ask(post("x")).await.unwrap();
            go.send(()).unwrap();
            done.recv().unwrap();
            // A POST, so nothing would be tried again.
            assert_eq!(stage.ask(post("x")).await.unwrap(), (StatusCode::OK, "ok".into()), "{late:?}");
            assert_eq!(stage.attempts(), ["ok", "ok"]);
            go.send(()).unwrap();
        });
        upstream.join().unwrap();
    }
}

#[test]
fn bytes_behind_an_answer_end_the_connection() {
    run(async {
        let (stage, connections) = stage(script!(|peer| {
            while peer.request().await.is_some() {
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }))
        .await;
        for _ in 0..3 {
            assert_eq!(stage.ask(post("x")).await.unwrap().1, "ok");
        }
        assert_eq!(connections.get(), 3);
    });
}

// --- tries

/// Connections that break after the request of number `broken` on the first of them.
fn breaks_once(how: &'static str, requests: Rc<RefCell<Vec<String>>>) -> impl Fn(Peer) -> Playing {
    script!(
        [requests] | peer | {
            let mut served = 0;
            while let Some((head, body)) = peer.request().await {
                requests.borrow_mut().push(format!("{} {}", &head[..4], String::from_utf8_lossy(&body)));
                served += 1;
                if peer.number == 0 && served == 2 {
                    peer.say(how.as_bytes()).await;
                    return;
                }
                peer.ok("fine").await;
            }
        }
    )
}

#[test]
fn a_lost_request_is_repeated_only_if_that_is_safe() {
    run(async {
        let keyed = || {
            let mut keyed = post("p");
            keyed.headers_mut().insert("idempotency-key", "1".parse().unwrap());
            keyed
        };
        type Case = (&'static str, fn() -> Request<Body>, Result<(), Kind>);
        let cases: [Case; 10] = [
            ("", || get("/"), Ok(())),
            ("", || request(Method::PUT, "/", "p"), Ok(())),
            ("", || request(Method::DELETE, "/", ""), Ok(())),
            ("", keyed, Ok(())),
            ("", || post("p"), Err(Kind::Reset)),
            ("", || request(Method::PATCH, "/", "p"), Err(Kind::Reset)),
            ("H", || get("/"), Err(Kind::Incomplete)),
            ("HTTP/1.1 200 OK\r\ncontent-le", || get("/"), Err(Kind::Incomplete)),
            ("HTTP/1.1 100 Continue\r\n\r\n", || get("/"), Err(Kind::Incomplete)),
            ("nonsense\r\n\r\n", || get("/"), Err(Kind::Protocol)),
        ];
        for (how, make, expected) in cases {
            let requests = Rc::default();
            let (stage, _) = stage(breaks_once(how, Rc::clone(&requests))).await;
            stage.ask(get("/")).await.unwrap();
            stage.attempts();
            let (method, outcome) = (make().method().clone(), stage.ask(make()).await);
            assert_eq!(outcome.map(|_| ()), expected, "{method} {how:?}");
            let sent = requests.borrow().len() - 1;
            assert_eq!(sent, if expected.is_ok() { 2 } else { 1 }, "{method} {how:?}");
            if expected.is_ok() {
                assert_eq!(stage.attempts(), ["upstream-reset", "ok"]);
                let requests = requests.borrow();
                assert_eq!(requests[1], requests[2], "the second try is the first");
            }
        }
    });
}

#[test]
fn a_new_connection_that_breaks_is_not_tried_again() {
    run(async {
        let (stage, connections) = stage(script!(|peer| {
            peer.request().await;
        }))
        .await;
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_put_streamed_by_a_client_is_repeated_while_it_is_small() {
    run(async {
        for (length, is_repeated) in [(10_000, true), (80_000, false)] {
            let requests = Rc::default();
            let (stage, _) = stage(breaks_once("", Rc::clone(&requests))).await;
            stage.ask(get("/")).await.unwrap();
            let (done, outcome) = oneshot::channel();
            let done = Rc::new(Cell::new(Some(done)));
            let asking = stage.clone();
            let mut client = client(move |request, _| {
                let (stage, done) = (asking.clone(), done.clone());
                async move { done.take().unwrap().send(stage.ask(request).await).unwrap() }
            })
            .await;
            let body = "b".repeat(length);
            client
                .write_all(format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
                .await
                .unwrap();
            let outcome = outcome.await.unwrap();
            assert_eq!(outcome.is_ok(), is_repeated, "{length}: {outcome:?}");
            if is_repeated {
                assert_eq!(*requests.borrow()[2], format!("PUT  {body}"));
            }
        }
    });
}

#[test]
fn an_endpoint_that_refuses_is_passed_over_and_all_that_refuse_are_an_error() {
    run(async {
        let (good, _) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.ok("").await
            }
        }))
        .await;
        let (one, two) = (closed_port().await, closed_port().await);
        let stage = Stage::new(&settings(&[&one, &two, &good]));
        for _ in 0..6 {
            stage.ask(post("x")).await.expect("one endpoint is there");
        }
        let stage = Stage::new(&settings(&[&one, &two]));
        let error = stage.send(get("/")).await.map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.slug(), error.fault()), (Kind::Refused, "upstream-connect", Fault::Upstream));
        assert!(std::error::Error::source(&error).is_some(), "the cause is there for the log");
        assert_eq!(stage.attempts(), ["upstream-connect", "upstream-connect"]);
        assert_eq!(stage.in_flight(), 0);
    });
}

async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

// --- bounds

/// Connections that answer when told to.
async fn held(change: impl FnOnce(&mut config::Upstream)) -> (Rc<Stage>, Rc<Cell<usize>>, Rc<Notify>) {
    let release = Rc::new(Notify::new());
    let (url, connections) = backend(script!(
        [release] | peer | {
            while peer.request().await.is_some() {
                release.notified().await;
                peer.ok("").await;
            }
        }
    ))
    .await;
    let mut settings = settings(&[&url]);
    settings.pool.queue_wait = HumanDuration::seconds(20);
    change(&mut settings);
    (Stage::new(&settings), connections, release)
}

fn ask_later(stage: &Rc<Stage>) -> tokio::task::JoinHandle<Result<(StatusCode, Bytes), Kind>> {
    let stage = stage.clone();
    spawn_local(async move { stage.ask(get("/")).await })
}

#[test]
fn connections_and_the_queue_for_them_are_bounded_and_first_come_first_served() {
    run(async {
        let (stage, connections, release) = held(|settings| {
            settings.pool.connections_max = 2;
            settings.pool.queue_max = 2;
        })
        .await;
        let tasks: Vec<_> = (0..5).map(|_| ask_later(&stage)).collect();
        until(|| tasks[4].is_finished() && connections.get() == 2).await;
        assert_eq!(tasks.iter().filter(|task| task.is_finished()).count(), 1, "the fifth is refused at once");
        for turn in 0..4 {
            release.notify_one();
            until(|| tasks.iter().filter(|task| task.is_finished()).count() == 2 + turn).await;
            assert!(turn != 2 || tasks[2].is_finished(), "who came first is served first");
        }
        for (number, task) in tasks.into_iter().enumerate() {
            let outcome = task.await.unwrap();
            assert_eq!(outcome.map(|_| ()), if number == 4 { Err(Kind::QueueFull) } else { Ok(()) }, "{number}");
        }
        assert_eq!(connections.get(), 2, "those who waited got what came free");
    });
}

#[test]
fn a_wait_too_long_is_an_error() {
    run(async {
        let (stage, _, _release) = held(|settings| {
            settings.pool.connections_max = 1;
            settings.pool.queue_wait = HumanDuration::millis(50);
        })
        .await;
        let holder = ask_later(&stage);
        until(|| stage.in_flight() == 1).await;
        yield_now().await;
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::QueueWait);
        holder.abort();
    });
}

/// One failure opens its breaker.
fn touchy(settings: &mut config::Upstream) {
    let trip = Trip { consecutive: Some(1), ..Trip::default() };
    settings.breaker = Some(Breaker { trip, ..Breaker::default() });
}

/// Others hold all that armiger may have open: that says nothing of the endpoint.
#[test]
fn a_wait_in_the_queue_says_nothing_of_the_upstream_however_it_ends() {
    run(async {
        let (stage, _, release) = held(|settings| {
            settings.pool.connections_max = 1;
            touchy(settings);
        })
        .await;
        let holder = ask_later(&stage);
        until(|| stage.in_flight() == 1).await;
        yield_now().await;
        let mut hasty = settings(&[&format!("http://{}", stage.upstream().plan.endpoints[0].label)]);
        hasty.pool.connections_max = 1;
        hasty.retry = Some(Retry { per_try: Some(HumanDuration::millis(50)), ..Retry::default() });
        touchy(&mut hasty);
        stage.reload(&hasty);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::QueueWait, "the try is over");

        let mut rows = SmallVec::new();
        let mut call = Call::new(HostRule::AsIs, Instant::now() + Duration::from_secs(30), None, &mut rows);
        call.due = Instant::now();
        let (upstream, mut request) = (stage.upstream(), get("/"));
        let given_up = tokio::time::timeout(Duration::ZERO, upstream.send(&stage.pools, call, &mut request)).await;
        assert!(given_up.is_err(), "the time that the configuration gives is over");

        let breaker = upstream.standings.breaker.as_ref().expect("it has one");
        assert_eq!(breaker.shown(Instant::now())["state"], "closed");
        release.notify_one();
        holder.await.unwrap().unwrap();
    });
}

#[test]
fn whoever_gives_up_waiting_loses_nothing_for_the_others() {
    run(async {
        let (stage, connections, release) = held(|settings| settings.pool.connections_max = 1).await;
        let holder = ask_later(&stage);
        until(|| connections.get() == 1).await;
        let (gone, next) = (ask_later(&stage), ask_later(&stage));
        until(|| stage.in_flight() == 3).await;
        gone.abort();
        release.notify_one();
        holder.await.unwrap().unwrap();
        release.notify_one();
        next.await.unwrap().unwrap();
        // Given up in the middle of an exchange: its connection closes, and its room goes to the next.
        let (holder, next) = (ask_later(&stage), ask_later(&stage));
        until(|| stage.in_flight() == 2).await;
        yield_now().await;
        holder.abort();
        until(|| connections.get() == 2).await;
        release.notify_one();
        release.notify_one();
        next.await.unwrap().unwrap();
        assert_eq!(stage.in_flight(), 0);
        assert_eq!(stage.pools.connections(), 1);
    });
}

#[test]
fn a_connection_granted_to_a_waiter_that_is_just_gone_is_not_lost() {
    run(async {
        let (stage, connections, release) = held(|settings| settings.pool.connections_max = 1).await;
        let holder = ask_later(&stage);
        until(|| connections.get() == 1).await;
        let response = {
            release.notify_one();
            let waiting = stage.ask(get("/"));
            tokio::pin!(waiting);
            // It is in the queue, and is not polled again before it is dropped.
            std::future::poll_fn(|cx| {
                assert!(waiting.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            holder.await.unwrap()
        };
        response.unwrap();
        assert_eq!(stage.in_flight(), 0);
        release.notify_one();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1, "the same connection serves on");
    });
}

#[test]
fn no_more_are_in_flight_than_allowed_and_the_count_lasts_to_the_end_of_the_body() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.ok("body").await
            }
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.limits.in_flight_max = 1;
        let stage = Stage::new(&settings);
        let unread = stage.send(get("/")).await.unwrap();
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::InFlight);
        drop(unread);
        assert_eq!(stage.in_flight(), 0);
        stage.ask(get("/")).await.unwrap();
    });
}

#[test]
fn an_answer_dropped_unread_closes_its_connection() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (stage, _) = stage(script!(
            [closed] | peer | {
                peer.request().await;
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nstart").await;
                peer.gone().await;
                closed.set(true);
            }
        ))
        .await;
        drop(stage.send(get("/")).await.unwrap());
        until(|| closed.get() && stage.pools.connections() == 0).await;
    });
}

// --- time

/// An address that never answers, as long as the streams live: a full backlog answers no further SYN.
async fn silent() -> (SocketAddr, (tokio::net::TcpListener, Vec<TcpStream>)) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // How many it takes to fill it is the kernel's choice.
    let mut backlog = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        backlog.push(stream.unwrap());
    }
    (address, (listener, backlog))
}

#[test]
fn a_connection_that_does_not_come_about_is_a_timeout() {
    run(async {
        let (address, _backlog) = silent().await;
        let mut settings = settings(&[&format!("http://{address}")]);
        settings.timeouts.connect = HumanDuration::millis(50);
        let stage = Stage::new(&settings);
        let error = stage.send(get("/")).await.map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.slug()), (Kind::ConnectTimeout, "upstream-connect-timeout"));
        assert_eq!(stage.in_flight(), 0);
    });
}

#[test]
fn an_answer_that_does_not_begin_is_a_timeout_and_closes_the_connection() {
    run(async {
        for silence in ["", "HTTP/1.1 20", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
            let closed = Rc::new(Cell::new(false));
            let (url, _) = backend(script!(
                [closed] | peer | {
                    peer.request().await;
                    peer.say(silence.as_bytes()).await;
                    peer.gone().await;
                    closed.set(true);
                }
            ))
            .await;
            let mut settings = settings(&[&url]);
            settings.timeouts.first_byte = HumanDuration::millis(50);
            let stage = Stage::new(&settings);
            assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Timeout, "{silence}");
            until(|| closed.get()).await;
        }
    });
}

#[test]
fn the_wait_for_an_answer_begins_when_the_request_is_sent_whole() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            peer.request().await;
            peer.ok("thanks").await;
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.timeouts.first_byte = HumanDuration::millis(60);
        let stage = Stage::new(&settings);
        let (done, mut outcome) = mpsc::channel(4);
        let mut client = client(move |request, _| {
            let (stage, done) = (stage.clone(), done.clone());
            async move { done.try_send(stage.ask(request).await).unwrap() }
        })
        .await;
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        for byte in b"slow" {
            // The client takes its time: longer than the upstream may.
            tokio::time::timeout(Duration::from_millis(100), outcome.recv()).await.unwrap_err();
            client.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(outcome.recv().await.unwrap().unwrap().1, "thanks");
    });
}

#[test]
fn a_pause_within_an_answer_cuts_it() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            peer.request().await;
            peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
            peer.gone().await;
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.timeouts.body_idle = HumanDuration::millis(50);
        let stage = Stage::new(&settings);
        let body = stage.send(get("/")).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap_err(), BodyError::UpstreamSlow);
        until(|| stage.pools.connections() == 0).await;
    });
}

// --- what an upstream may do wrong

#[test]
fn an_answer_that_breaks_the_rules_is_an_error_and_never_passed_on() {
    run(async {
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(101));
        let cases: &[(&str, Kind)] = &[
            ("garbage that is no HTTP at all\r\n\r\n", Kind::Protocol),
            ("\0\x01\x02\x03", Kind::Protocol),
            ("HTTP/2.0 200 OK\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 99 Low\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 1000 High\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 -20 Odd\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 000 Odd\r\ncontent-length: 0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: x\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                Kind::Protocol,
            ),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nbad header: x\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nx : y\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", Kind::Protocol),
            (&endless, Kind::HeadTooLarge),
            (&many, Kind::HeadTooLarge),
        ];
        for (answer, kind) in cases {
            let answer: Rc<str> = (*answer).into();
            let (stage, _) = stage(script!(
                [answer] | peer | {
                    peer.request().await;
                    peer.say(answer.as_bytes()).await;
                    peer.gone().await;
                }
            ))
            .await;
            assert_eq!(stage.ask(get("/")).await.unwrap_err(), *kind, "{answer:.80}");
            until(|| stage.pools.connections() == 0).await;
            assert_eq!(stage.in_flight(), 0);
        }
    });
}

#[test]
fn interim_answers_are_never_the_answer() {
    run(async {
        let (stage, _) = stage(script!(|peer| {
            peer.request().await;
            peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
            peer.ok("final").await;
            peer.gone().await;
        }))
        .await;
        assert_eq!(stage.ask(post("x")).await.unwrap(), (StatusCode::OK, "final".into()));
    });
}

#[test]
fn a_cut_answer_never_looks_whole() {
    run(async {
        for answer in [
            "content-length: 10\r\n\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
            "transfer-encoding: chunked\r\n\r\nnonsense\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalfway\r\n0\r\n\r\n",
        ] {
            let (stage, _) = stage(script!(|peer| {
                peer.request().await;
                peer.say(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).await;
            }))
            .await;
            let body = stage.send(get("/")).await.unwrap().into_body();
            assert_eq!(body.collect().await.unwrap_err(), BodyError::UpstreamCut, "{answer}");
            assert_eq!(stage.in_flight(), 0);
        }
    });
}

// --- clients that send while the upstream answers

#[test]
fn a_client_that_breaks_off_is_no_fault_of_the_upstreams() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (url, _) = backend(script!(
            [closed] | peer | {
                peer.head().await;
                peer.ok("").await;
                if peer.head().await.is_some() {
                    peer.gone().await;
                    closed.set(true);
                }
            }
        ))
        .await;
        let stage = Stage::new(&settings(&[&url]));
        stage.ask(get("/")).await.unwrap();
        stage.attempts();
        let (done, mut outcome) = mpsc::channel(4);
        let asking = stage.clone();
        let mut client = client(move |request, _| {
            let (stage, done) = (asking.clone(), done.clone());
            async move {
                done.try_send(stage.send(request).await.map(|_| ()).map_err(|error| (error.kind(), error.fault())))
                    .unwrap()
            }
        })
        .await;
        client
            .write_all(b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")
            .await
            .unwrap();
        let outcome = outcome.recv().await.unwrap();
        // Which of the client's faults it is, is for the framing to say.
        let Err((Kind::Client(_), Fault::Client)) = outcome else { panic!("{outcome:?}") };
        until(|| closed.get()).await;
        assert_eq!(stage.attempts().len(), 1, "no second try");
    });
}

#[test]
fn an_early_answer_is_passed_on_and_ends_the_sending() {
    run(async {
        // The second closes at once, with the client's bytes unread: what it said still counts.
        for is_rude in [false, true] {
            let closed = Rc::new(Cell::new(false));
            let (stage, connections) = stage(script!(
                [closed] | peer | {
                    peer.head().await;
                    peer.say(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
                    if !is_rude {
                        peer.gone().await;
                    }
                    closed.set(true);
                }
            ))
            .await;
            let (done, mut outcome) = mpsc::channel(4);
            let asking = stage.clone();
            let client = client(move |request, inbound| {
                let (stage, done) = (asking.clone(), done.clone());
                async move { done.try_send((stage.ask(request).await, inbound.ended.get())).unwrap() }
            })
            .await;
            let (_reading, mut writing) = client.into_split();
            spawn_local(async move {
                let _ = writing.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n").await;
                while writing.write_all(&[0; 1000]).await.is_ok() {}
            });
            let (outcome, is_sent_whole) = outcome.recv().await.unwrap();
            let (status, body) = outcome.unwrap();
            assert_eq!((status.as_u16(), &body[..]), (413, &b"big"[..]), "rude: {is_rude}");
            if !is_rude {
                until(|| closed.get() && stage.pools.connections() == 0).await;
            }
            let _ = is_sent_whole;
            assert_eq!(connections.get(), 1);
        }
    });
}

/// With the client still to send, only dropping the connection stops it.
#[test]
fn an_answer_read_to_its_end_before_the_request_was_sent_closes_the_connection() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (stage, _) = stage(script!(
            [closed] | peer | {
                peer.head().await;
                peer.ok("early").await;
                peer.gone().await;
                closed.set(true);
            }
        ))
        .await;
        let (done, mut outcome) = mpsc::channel(4);
        let asking = stage.clone();
        let mut client = client(move |request, inbound| {
            let (stage, done) = (asking.clone(), done.clone());
            async move { done.try_send((stage.ask(request).await, inbound.ended.get())).unwrap() }
        })
        .await;
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        let (outcome, is_ended) = outcome.recv().await.unwrap();
        assert_eq!(outcome.unwrap().1, "early");
        assert!(!is_ended);
        until(|| closed.get() && stage.pools.connections() == 0).await;
    });
}

#[test]
fn a_request_goes_on_behind_its_early_answer_though_nobody_reads_that() {
    run(async {
        let received = Rc::new(Cell::new(0));
        let (stage, _) = stage(script!(
            [received] | peer | {
                let head = peer.head().await.unwrap();
                assert!(head.contains("content-length: 900000\r\n"), "{head}");
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
                received.set(peer.body(900_000).await.map_or(0, |body| body.len()));
                peer.say(b"done").await;
                peer.gone().await;
            }
        ))
        .await;
        let (done, mut outcome) = mpsc::channel(4);
        let asking = stage.clone();
        let client = client(move |request, _| {
            let (stage, done) = (asking.clone(), done.clone());
            async move {
                done.try_send(stage.send(request).await.unwrap()).unwrap();
                std::future::pending().await
            }
        })
        .await;
        let (_reading, mut writing) = client.into_split();
        spawn_local(async move {
            let _ = writing.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n").await;
            for _ in 0..900 {
                let _ = writing.write_all(&[b'x'; 1000]).await;
            }
            std::future::pending::<()>().await;
        });
        let answer = outcome.recv().await.unwrap();
        until(|| received.get() == 900_000).await;
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
        assert_eq!(stage.pools.connections(), 1, "both sides are over, so the connection stays");
    });
}

// --- the form of requests

#[test]
fn requests_have_the_form_that_the_upstream_expects() {
    run(async {
        let heads = Rc::new(RefCell::new(Vec::new()));
        let (url, _) = backend(script!(
            [heads] | peer | {
                while let Some((head, _)) = peer.request().await {
                    heads.borrow_mut().push(head);
                    peer.ok("").await;
                }
            }
        ))
        .await;
        let stage = Stage::new(&settings(&[&url]));
        let port = url.rsplit(':').next().unwrap();
        let mut absolute = get("http://other.example/a?b");
        absolute.headers_mut().remove("host");
        let mut bare = get("/bare");
        bare.headers_mut().remove("host");
        *bare.version_mut() = http::Version::HTTP_3;
        let mut lying = post("true");
        lying.headers_mut().insert("content-length", "9".parse().unwrap());
        let mut padded = post("true");
        padded.headers_mut().insert("content-length", "0004".parse().unwrap());
        let mut lying_empty = get("/empty");
        lying_empty.headers_mut().insert("content-length", "9".parse().unwrap());
        let asterisk = request(Method::OPTIONS, "*", "");
        for request in [get("/a?b"), absolute, bare, lying, padded, lying_empty, asterisk] {
            stage.ask(request).await.unwrap();
        }
        drop(stage.send_as(HostRule::Endpoint, &mut SmallVec::new(), get("/")).await.unwrap());
        assert_eq!(
            *heads.borrow(),
            [
                "GET /a?b HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned(),
                "GET /a?b HTTP/1.1\r\nhost: other.example\r\n\r\n".to_owned(),
                format!("GET /bare HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n"),
                "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\n\r\n".to_owned(),
                "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\n\r\n".to_owned(),
                "GET /empty HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "OPTIONS * HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned(),
                format!("GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n"),
            ]
        );
    });
}

#[test]
fn a_get_with_a_body_of_unknown_length_keeps_it() {
    run(async {
        let (stage, _) = stage(script!(|peer| {
            let head = peer.head().await.unwrap();
            assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
            let body = peer.body("4\r\nbody\r\n0\r\n\r\n".len()).await.unwrap();
            peer.ok(std::str::from_utf8(&body).unwrap()).await;
        }))
        .await;
        let (done, mut outcome) = mpsc::channel(4);
        let mut client = client(move |request, _| {
            let (stage, done) = (stage.clone(), done.clone());
            async move { done.try_send(stage.ask(request).await).unwrap() }
        })
        .await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(outcome.recv().await.unwrap().unwrap().1, "4\r\nbody\r\n0\r\n\r\n");
    });
}

#[test]
fn a_unix_socket_and_a_name_serve_as_well() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Peer { stream: Box::new(stream), read: Vec::new(), number: 0 };
            while peer.request().await.is_some() {
                peer.ok("unix").await;
            }
        });
        let stage = Stage::new(&settings(&[&format!("unix:{}", path.display())]));
        for _ in 0..2 {
            assert_eq!(stage.ask(get("/")).await.unwrap().1, "unix");
        }
        assert_eq!(stage.pools.connections(), 1);

        let stage = Stage::new(&settings(&[&format!("unix:{}/none", folder.path().display())]));
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Unreachable);

        let (url, _) = backend(script!(|peer| {
            peer.request().await;
            peer.ok("name").await;
        }))
        .await;
        let port = url.rsplit(':').next().unwrap();
        let stage = Stage::new(&settings(&[&format!("http://localhost:{port}")]));
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "name");
    });
}

/// A socket says that its queue is full where TCP would be silent: both are waited for.
#[test]
fn a_unix_socket_whose_queue_is_full_is_asked_again() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(socket.into()).unwrap();
        let mut before = Vec::new();
        while let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
            before.push(stream);
        }

        let mut settings = settings(&[&format!("unix:{}", path.display())]);
        settings.timeouts.connect = HumanDuration::millis(50);
        let stage = Stage::new(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::ConnectTimeout, "nobody accepts");

        settings.timeouts.connect = HumanDuration::seconds(20);
        let stage = Stage::new(&settings);
        let asked = stage.ask(get("/"));
        tokio::pin!(asked);
        assert!(tokio::time::timeout(Duration::from_millis(30), asked.as_mut()).await.is_err(), "it is waited for");
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                spawn_local(async move {
                    let mut peer = Peer { stream: Box::new(stream), read: Vec::new(), number: 0 };
                    while peer.request().await.is_some() {
                        peer.ok("unix").await;
                    }
                });
            }
        });
        assert_eq!(asked.await.unwrap().1, "unix");
    });
}

// --- HTTP/2

/// Frames of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

impl Peer {
    async fn preface(&mut self, settings: &[u8]) {
        self.body(24).await;
        self.say(&frame(SETTINGS, 0, 0, settings)).await;
        self.say(&frame(SETTINGS, 1, 0, &[])).await;
    }

    /// The stream of the next request.
    async fn headers(&mut self) -> Option<u32> {
        loop {
            let head = self.body(9).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            self.body(length).await?;
            if head[3] == HEADERS {
                return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            }
        }
    }

    /// `:status: 200`, and nothing more (RFC 7541 appendix A, entry 8).
    async fn answer(&mut self, stream: u32) {
        self.say(&frame(HEADERS, 0x5, stream, &[0x88])).await;
    }
}

fn h2c(url: &str) -> config::Upstream {
    let mut settings = settings(&[url]);
    settings.protocol = Protocol::H2c;
    settings
}

#[test]
fn two_requests_share_an_http2_connection() {
    run(async {
        let seen = Rc::new(Cell::new(0));
        let (url, connections) = backend(script!(
            [seen] | peer | {
                peer.preface(&[]).await;
                let (one, two) = (peer.headers().await.unwrap(), peer.headers().await.unwrap());
                seen.set(2);
                peer.answer(two).await;
                peer.answer(one).await;
                while let Some(stream) = peer.headers().await {
                    peer.answer(stream).await;
                }
            }
        ))
        .await;
        let stage = Stage::new(&h2c(&url));
        let (one, two) = (ask_later(&stage), ask_later(&stage));
        one.await.unwrap().unwrap();
        two.await.unwrap().unwrap();
        assert_eq!(seen.get(), 2);
        stage.ask(post("x")).await.unwrap();
        assert_eq!((connections.get(), stage.pools.connections(), stage.in_flight()), (1, 1, 0));
    });
}

#[test]
fn http2_requests_carry_an_authority_and_no_host() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heard, mut requests) = mpsc::channel(4);
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(request) = connection.accept().await {
                let (request, mut respond) = request.unwrap();
                respond.send_response(Response::new(()), true).unwrap();
                heard.try_send(request.into_parts().0).unwrap();
            }
        });
        let stage = Stage::new(&h2c(&url));
        let mut request = request(Method::POST, "/a?b", "body");
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        stage.ask(request).await.unwrap();
        let heard = requests.recv().await.unwrap();
        assert_eq!(heard.uri, "http://shop.example/a?b");
        assert!(!heard.headers.contains_key("host"));
        assert_eq!(heard.headers["te"], "trailers");
        assert_eq!(heard.headers["content-length"], "4");
    });
}

#[test]
fn streams_that_were_refused_or_lie_above_a_goaway_are_sent_again_whatever_their_method() {
    run(async {
        for is_goaway in [false, true] {
            let (url, connections) = backend(script!(|peer| {
                peer.preface(&[]).await;
                let first = peer.headers().await.unwrap();
                peer.answer(first).await;
                let mut refused = peer.number > 0;
                while let Some(stream) = peer.headers().await {
                    if refused {
                        peer.answer(stream).await;
                    } else if is_goaway {
                        let payload = [first.to_be_bytes(), 0u32.to_be_bytes()].concat();
                        peer.say(&frame(GOAWAY, 0, 0, &payload)).await;
                    } else {
                        peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
                    }
                    refused = true;
                }
            }))
            .await;
            let stage = Stage::new(&h2c(&url));
            stage.ask(get("/")).await.unwrap();
            stage.attempts();
            stage.ask(post("precious")).await.unwrap_or_else(|kind| panic!("{kind:?} after goaway: {is_goaway}"));
            assert_eq!(stage.attempts(), ["upstream-reset", "ok"]);
            assert_eq!(connections.get(), if is_goaway { 2 } else { 1 });
            assert_eq!(stage.in_flight(), 0);
        }
    });
}

#[test]
fn an_http2_upstream_that_refuses_every_stream_is_an_error() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
            }
        }))
        .await;
        assert_eq!(Stage::new(&h2c(&url)).ask(get("/")).await.unwrap_err(), Kind::Reset);
    });
}

#[test]
fn an_http2_answer_that_is_reset_never_looks_complete() {
    run(async {
        // NO_ERROR is what hyper takes for an end, and it is one only behind END_STREAM.
        for (code, ends) in [(2, false), (0, false), (0, true)] {
            let (url, _) = backend(script!(|peer| {
                peer.preface(&[]).await;
                let stream = peer.headers().await.unwrap();
                peer.say(&frame(HEADERS, 0x4, stream, &[0x88])).await;
                peer.say(&frame(DATA, u8::from(ends), stream, b"half")).await;
                peer.say(&frame(RST_STREAM, 0, stream, &u32::to_be_bytes(code))).await;
                peer.headers().await;
            }))
            .await;
            let stage = Stage::new(&h2c(&url));
            let read = stage.send(get("/")).await.unwrap().into_body().collect().await;
            match ends {
                true => assert_eq!(read.unwrap().to_bytes(), "half"),
                false => assert_eq!(read.unwrap_err(), BodyError::UpstreamCut, "{code}"),
            }
        }
    });
}

#[test]
fn an_http2_stream_that_is_reset_otherwise_is_not_sent_again() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let (url, _) = backend(script!(
            [count] | peer | {
                peer.preface(&[]).await;
                while let Some(stream) = peer.headers().await {
                    count.set(count.get() + 1);
                    if count.get() == 1 {
                        peer.answer(stream).await;
                    } else {
                        peer.say(&frame(RST_STREAM, 0, stream, &2u32.to_be_bytes())).await;
                    }
                }
            }
        ))
        .await;
        let stage = Stage::new(&h2c(&url));
        stage.ask(get("/")).await.unwrap();
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(stage.ask(post("x")).await.unwrap_err(), Kind::Reset);
        assert_eq!(count.get(), 3);
    });
}

#[test]
fn a_new_http2_connection_that_breaks_is_not_tried_again() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[]).await;
            peer.headers().await;
        }))
        .await;
        assert_eq!(Stage::new(&h2c(&url)).ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(connections.get(), 1);
    });
}

/// No request was on it: another endpoint may be asked, whatever the method.
#[test]
fn an_http2_connection_that_breaks_before_it_began_did_not_come_about() {
    run(async {
        let stage = Stage::new(&h2c("http://127.0.0.1:1"));
        let lineup = stage.pools.lineup(&stage.upstream());
        let bench = lineup.bench(0);
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        drop(far);
        let (room, mut timer) = (bench.room(false).unwrap(), stage.pools.wheel().timer());
        let begun = bench.speak(room, super::connect::Stream::Unix(near), None, &mut timer).await;
        let error = begun.map(|_| ()).unwrap_err();
        // And not by chance because it took too long.
        assert_eq!(error.kind(), Kind::Unreachable, "{error:?}");
    });
}

#[test]
fn who_waits_for_anothers_http2_connection_opens_it_if_the_other_gives_up() {
    run(async {
        let (address, _backlog) = silent().await;
        let mut settings = h2c(&format!("http://{address}"));
        settings.timeouts.connect = HumanDuration::millis(200);
        let stage = Stage::new(&settings);
        let opening = ask_later(&stage);
        let waiting: Vec<_> = (0..10).map(|_| ask_later(&stage)).collect();
        until(|| stage.in_flight() == 11).await;
        opening.abort();
        for waiting in waiting {
            // One opens and all learn of it: one after the other they would wait in vain.
            assert_eq!(waiting.await.unwrap().unwrap_err(), Kind::ConnectTimeout);
        }
    });
}

#[test]
fn a_vanished_http2_connection_is_replaced() {
    run(async {
        let closed = Rc::new(Cell::new(0));
        let (url, connections) = backend(script!(
            [closed] | peer | {
                peer.preface(&[]).await;
                let stream = peer.headers().await.unwrap();
                peer.answer(stream).await;
                if peer.number > 0 {
                    peer.gone().await;
                }
                closed.set(closed.get() + 1);
            }
        ))
        .await;
        let stage = Stage::new(&h2c(&url));
        stage.ask(post("x")).await.unwrap();
        until(|| closed.get() == 1).await;
        stage.ask(post("x")).await.unwrap();
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn more_requests_than_streams_open_more_connections_or_wait() {
    run(async {
        // SETTINGS_MAX_CONCURRENT_STREAMS = 2
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[0, 3, 0, 0, 0, 2]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let mut settings = h2c(&url);
        settings.pool.connections_max = 3;
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        let tasks: Vec<_> = (0..50).map(|_| ask_later(&stage)).collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!((1..=3).contains(&connections.get()), "{}", connections.get());
        assert_eq!(stage.in_flight(), 0);
    });
}

#[test]
fn an_http2_connection_that_cannot_be_had_fails_everybody_who_waits_for_it() {
    run(async {
        let url = closed_port().await;
        let stage = Stage::new(&h2c(&url));
        let tasks: Vec<_> = (0..10).map(|_| ask_later(&stage)).collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap_err(), Kind::Refused);
        }
        let (url, _) = backend(script!(|peer| { peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n").await })).await;
        let error = Stage::new(&h2c(&url)).ask(get("/")).await.unwrap_err();
        assert!(matches!(error, Kind::Protocol | Kind::Reset), "{error:?}");
    });
}

#[test]
fn limits_hold_for_the_sum_of_all_workers() {
    let mut limits = settings(&["http://127.0.0.1:1"]);
    limits.limits.replay_max = ByteSize::kib(1);
    let (_, upstream) = Stage::compile(&limits, 1, &Metrics::new(), &Kept::default());
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&upstream);
}

// --- reloads

/// Answers with `name`, to `/wait` only when told to. Gives its address and the count of connections so far.
async fn named(name: &'static str) -> (String, Rc<Cell<usize>>, Rc<Semaphore>) {
    let release = Rc::new(Semaphore::new(0));
    let (url, connections) = backend(script!(
        [release] | peer | {
            while let Some((head, _)) = peer.request().await {
                if head.starts_with("GET /wait") {
                    release.acquire().await.unwrap().forget();
                }
                peer.ok(name).await;
            }
        }
    ))
    .await;
    (url, connections, release)
}

fn wait_later(stage: &Rc<Stage>) -> tokio::task::JoinHandle<Result<(StatusCode, Bytes), Kind>> {
    let stage = stage.clone();
    spawn_local(async move { stage.ask(get("/wait")).await })
}

/// What an exchange of a snapshot that was replaced gets.
async fn ask_as(stage: &Stage, upstream: &Upstream) -> Bytes {
    let mut rows = SmallVec::new();
    let call = Call::new(HostRule::AsIs, Instant::now() + Duration::from_secs(30), None, &mut rows);
    let response = upstream.send(&stage.pools, call, &mut get("/")).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Rows as `endpoint's place open idle active connecting waiting`, those of leaving ones with an exclamation mark.
fn rows(stage: &Stage, endpoints: &[&str]) -> Vec<String> {
    let row = |state: PoolState| {
        let place = endpoints.iter().position(|url| url.ends_with(&*state.endpoint)).unwrap();
        let mark = if state.is_leaving { "!" } else { "" };
        assert_eq!(&*state.upstream, "app");
        let PoolState { open, idle, active, connecting, waiting, .. } = state;
        format!("{place}{mark} {open} {idle} {active} {connecting} {waiting}")
    };
    let mut rows: Vec<_> = stage.pools.states().into_iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn a_connection_serves_on_over_reloads_whether_the_worker_is_told_or_not() {
    run(async {
        let (url, connections, _) = named("a").await;
        let mut settings = settings(&[&url]);
        let stage = Stage::new(&settings);
        for seconds in 1..20 {
            stage.ask(get("/")).await.unwrap();
            settings.timeouts.first_byte = HumanDuration::seconds(seconds);
            if seconds % 2 == 0 {
                stage.reload(&settings)
            } else {
                stage.swap(&settings)
            };
        }
        stage.ask(get("/")).await.unwrap();
        assert_eq!((connections.get(), stage.pools.connections()), (1, 1));
        assert_eq!(rows(&stage, &[&url]), ["0 1 1 0 0 0"]);
    });
}

#[test]
fn requests_in_flight_and_the_turn_are_counted_on_over_a_reload() {
    run(async {
        let ((a, to_a, release), (b, to_b, _)) = (named("a").await, named("b").await);
        let mut settings = settings(&[&a, &b]);
        let stage = Stage::new(&settings);
        let waiting = wait_later(&stage);
        until(|| to_a.get() == 1).await;
        settings.limits.in_flight_max = 1;
        let old = stage.reload(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::InFlight);
        settings.limits.in_flight_max = 2;
        stage.reload(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "b", "a had its turn");
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        assert_eq!((to_b.get(), stage.in_flight(), old.in_flight()), (1, 0, 0));
    });
}

#[test]
fn an_endpoint_that_left_closes_at_once_what_is_idle_and_the_rest_after_its_exchange() {
    run(async {
        let ((a, to_a, _), (b, to_b, release)) = (named("a").await, named("b").await);
        let all: [&str; 2] = [&a, &b];
        let stage = Stage::new(&settings(&all));
        stage.ask(get("/")).await.unwrap();
        let waiting = wait_later(&stage);
        until(|| to_b.get() == 1).await;
        stage.ask(get("/")).await.unwrap();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(rows(&stage, &all), ["0 1 1 0 0 0", "1 2 1 1 0 0"]);
        stage.reload(&settings(&[&a]));
        assert_eq!(rows(&stage, &all), ["0 1 1 0 0 0", "1! 1 0 1 0 0"]);
        until(|| stage.pools.connections() == 2).await;
        stage.ask(get("/")).await.unwrap();
        release.add_permits(1);
        assert_eq!(waiting.await.unwrap().unwrap().1, "b");
        assert_eq!(rows(&stage, &all), ["0 1 1 0 0 0"]);
        until(|| stage.pools.connections() == 1).await;
        assert_eq!((to_a.get(), to_b.get()), (1, 2));
    });
}

#[test]
fn an_endpoint_that_comes_back_has_its_connections_again() {
    run(async {
        let ((a, _, _), (b, to_b, release)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&b]));
        let waiting = wait_later(&stage);
        until(|| to_b.get() == 1).await;
        stage.reload(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        stage.reload(&settings(&[&b]));
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(to_b.get(), 1);
        until(|| stage.pools.connections() == 1).await;
    });
}

#[test]
fn an_exchange_of_a_replaced_snapshot_reaches_its_endpoints_and_leaves_the_pool_as_it_is() {
    run(async {
        let ((a, to_a, _), (b, to_b, _)) = (named("a").await, named("b").await);
        for is_told in [true, false] {
            let stage = Stage::new(&settings(&[&b]));
            stage.ask(get("/")).await.unwrap();
            let old = if is_told { stage.reload(&settings(&[&a])) } else { stage.swap(&settings(&[&a])) };
            let before = (to_a.get(), to_b.get());
            for _ in 0..3 {
                assert_eq!(stage.ask(get("/")).await.unwrap().1, "a");
                assert_eq!(ask_as(&stage, &old).await, "b");
            }
            // One connection serves the new plan all along; for the old one nothing is kept.
            assert_eq!((to_a.get(), to_b.get()), (before.0 + 1, before.1 + 3));
            assert_eq!(rows(&stage, &[&a, &b]), ["0 1 1 0 0 0"]);
            until(|| stage.pools.connections() == 1).await;
        }
    });
}

#[test]
fn an_endpoint_that_both_plans_name_shares_its_connections_between_them() {
    run(async {
        let ((a, to_a, _), (b, ..)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        let old = stage.reload(&settings(&[&b, &a]));
        for _ in 0..2 {
            assert_eq!(ask_as(&stage, &old).await, "a");
            stage.ask(get("/")).await.unwrap();
        }
        assert_eq!(to_a.get(), 1);
    });
}

#[test]
fn another_protocol_begins_afresh() {
    run(async {
        let (url, connections, release) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        stage.ask(get("/")).await.unwrap();
        let waiting = wait_later(&stage);
        until(|| stage.in_flight() == 1).await;
        yield_now().await;
        stage.ask(get("/")).await.unwrap();
        let old = stage.reload(&h2c(&url));
        assert_ne!(old.state.slot(), stage.upstream().state.slot());
        until(|| stage.pools.connections() == 1).await;
        assert_eq!(ask_as(&stage, &old).await, "a", "what runs on the old snapshot goes on");
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        until(|| stage.pools.connections() == 0).await;
        assert_eq!(connections.get(), 3);
    });
}

#[test]
fn who_waits_gets_a_connection_when_a_reload_allows_more() {
    run(async {
        let (stage, connections, release) = held(|settings| settings.pool.connections_max = 1).await;
        let tasks: Vec<_> = (0..4).map(|_| ask_later(&stage)).collect();
        until(|| connections.get() == 1 && stage.in_flight() == 4).await;
        let mut more = settings(&[&format!("http://{}", stage.upstream().plan.endpoints[0].label)]);
        more.pool.connections_max = 3;
        stage.reload(&more);
        until(|| connections.get() == 3).await;
        for _ in 0..4 {
            release.notify_one();
            yield_now().await;
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(connections.get(), 3);
    });
}

#[test]
fn who_waits_for_an_endpoint_that_left_is_served_there() {
    run(async {
        let ((a, ..), (b, to_b, release)) = (named("a").await, named("b").await);
        let mut one = settings(&[&b]);
        one.pool.connections_max = 1;
        one.pool.queue_wait = HumanDuration::seconds(20);
        let stage = Stage::new(&one);
        let tasks: Vec<_> = (0..3).map(|_| wait_later(&stage)).collect();
        until(|| to_b.get() == 1 && stage.in_flight() == 3).await;
        one.endpoints = vec![a.clone()];
        stage.reload(&one);
        assert_eq!(rows(&stage, &[&a, &b]), ["0 0 0 0 0 0", "1! 1 0 1 0 2"]);
        for (served, task) in tasks.into_iter().enumerate() {
            assert_eq!(to_b.get(), 1, "{served}");
            release.add_permits(1);
            assert_eq!(task.await.unwrap().unwrap().1, "b");
        }
        until(|| stage.pools.connections() == 0).await;
    });
}

#[test]
fn new_bounds_hold_for_connections_that_are_open_already() {
    run(async {
        type Change = fn(&mut config::Upstream);
        let cases: [(&str, Change, usize); 7] = [
            ("nothing", |_| {}, 3),
            ("connections_max", |settings| settings.pool.connections_max = 1, 1),
            ("idle", |settings| settings.timeouts.idle = HumanDuration::millis(1), 0),
            ("age_max", |settings| settings.pool.age_max = HumanDuration::millis(1), 0),
            ("headers_max", |settings| settings.limits.headers_max = 200, 3),
            ("header_bytes_max", |settings| settings.limits.header_bytes_max = ByteSize::kib(128), 3),
            ("replay_max", |settings| settings.limits.replay_max = ByteSize::kib(1), 3),
        ];
        for (name, change, left) in cases {
            let (url, connections, release) = named("a").await;
            let mut settings = settings(&[&url]);
            let stage = Stage::new(&settings);
            // Three idle, and two in use.
            let tasks: Vec<_> = (0..5).map(|_| wait_later(&stage)).collect();
            until(|| connections.get() == 5).await;
            release.add_permits(3);
            until(|| tasks.iter().filter(|task| task.is_finished()).count() == 3).await;
            tokio::time::timeout(Duration::from_millis(30), std::future::pending::<()>()).await.unwrap_err();
            change(&mut settings);
            stage.reload(&settings);
            let kept = stage.pools.states()[0].idle;
            // Of five that are open, two in use are more than one alone: no idle one may stay.
            assert_eq!(kept, if name == "connections_max" { 0 } else { left }, "{name}");
            release.add_permits(2);
            for task in tasks {
                task.await.unwrap().unwrap();
            }
            if name == "idle" {
                continue;
            }
            let kept = if left == 3 { 5 } else { left };
            assert_eq!(stage.pools.states()[0].idle, kept, "{name}, of those that were in use");
        }
    });
}

#[test]
fn new_bounds_on_heads_hold_for_the_next_answer_of_an_open_connection() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.say(b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\ncontent-length: 0\r\n\r\n").await;
            }
        }))
        .await;
        let mut settings = settings(&[&url]);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        settings.limits.headers_max = 2;
        stage.reload(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::HeadTooLarge);
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_longer_time_to_idle_holds_for_connections_that_are_open_already() {
    run(async {
        let (url, connections, _) = named("a").await;
        let mut settings = settings(&[&url]);
        settings.timeouts.idle = HumanDuration::millis(200);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        settings.timeouts.idle = HumanDuration::seconds(60);
        stage.reload(&settings);
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn an_upstream_that_left_closes_what_is_idle_without_a_request() {
    run(async {
        let (url, connections, release) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        let waiting = wait_later(&stage);
        until(|| connections.get() == 1).await;
        stage.ask(get("/")).await.unwrap();
        stage.pools.refresh(2, &[]);
        assert_eq!(rows(&stage, &[&url]), ["0! 1 0 1 0 0"]);
        until(|| stage.pools.connections() == 1).await;
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "a", "exchanges of the old snapshot go on");
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        until(|| stage.pools.connections() == 0).await;
        assert!(stage.pools.states().is_empty());
        // A snapshot that is not in force any more says nothing.
        stage.pools.refresh(1, &[stage.upstream()]);
        stage.ask(get("/")).await.unwrap();
        until(|| stage.pools.connections() == 0).await;
    });
}

#[test]
fn an_exchange_of_a_replaced_snapshot_keeps_nothing_even_if_it_is_the_first_of_its_upstream() {
    run(async {
        let (url, ..) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        stage.pools.refresh(2, &[]);
        stage.ask(get("/")).await.unwrap();
        until(|| stage.pools.connections() == 0).await;
        // Whereas the snapshot in force has it kept.
        stage.swap(&settings(&[&url]));
        stage.ask(get("/")).await.unwrap();
        assert_eq!(rows(&stage, &[&url]), ["0 1 1 0 0 0"]);
    });
}

#[test]
fn what_is_idle_of_an_upstream_that_nobody_knows_any_more_is_closed_though_nobody_says_so() {
    run(async {
        let ((a, ..), (b, ..)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        let slot = stage.upstream().state.slot();
        let began = std::time::Instant::now();
        stage.kept.replace(Kept::default());
        drop(stage.swap(&settings(&[&b])));
        until(|| stage.pools.connections() == 0).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(stage.upstream().state.slot(), slot);
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "b");
    });
}

#[test]
fn a_slot_that_another_upstream_got_serves_that_one_and_closes_what_it_had() {
    run(async {
        let ((a, ..), (b, ..)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        stage.kept.replace(Kept::default());
        drop(stage.swap(&settings(&[&b])));
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "b");
        until(|| stage.pools.connections() == 1).await;
        assert_eq!(rows(&stage, &[&a, &b]), ["1 1 1 0 0 0"]);
    });
}

#[test]
fn a_thousand_reloads_under_load_fail_nothing_and_leave_nothing_behind() {
    run(async {
        let mut urls = Vec::new();
        for _ in 0..4 {
            urls.push(named("a").await.0);
        }
        let stage = Stage::new(&settings(&[&urls[0]]));
        let is_over = Rc::new(Cell::new(false));
        let load: Vec<_> = (0..4)
            .map(|_| {
                let (stage, is_over) = (stage.clone(), is_over.clone());
                spawn_local(async move {
                    let mut served = 0;
                    while !is_over.get() {
                        stage.ask(get("/")).await.expect("no request fails");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for round in 0..1000_usize {
            let named = [&*urls[round % 4], &*urls[(round + 1 + round % 3) % 4]];
            let mut next = settings(&named);
            next.pool.connections_max = 1 + round as u32 % 5;
            next.limits.headers_max = 100 + u16::from(round % 7 == 0);
            // In vain: all go on what is in force.
            let old = if round % 3 == 0 { stage.swap(&next) } else { stage.reload(&next) };
            ask_as(&stage, &old).await;
        }
        is_over.set(true);
        for task in load {
            assert!(task.await.unwrap() > 100);
        }
        stage.reload(&settings(&[&urls[0]]));
        until(|| stage.pools.connections() <= 4).await;
        let benches = stage.pools.benches();
        assert_eq!((stage.in_flight(), benches), (0, 1));
        stage.pools.refresh(u64::MAX, &[]);
        until(|| stage.pools.connections() == 0).await;
        assert!(stage.pools.states().is_empty());
    });
}

#[test]
fn slots_of_pools_shrink_with_the_upstreams() {
    run(async {
        let (url, ..) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        let mut kept = Kept::default();
        for version in 2..200 {
            let mut keeper = Keeper::after(&kept);
            let upstreams: Vec<_> = ["app", &format!("app-{version}")]
                .into_iter()
                .map(|name| {
                    let settings = settings(&[&url]);
                    let state = State::keep(name, &settings, &mut keeper);
                    let standings = Standings::default();
                    let metrics = stage.metrics.upstream(name);
                    Arc::new(Upstream::new(name.into(), version, plan(&settings), state, standings, metrics))
                })
                .collect();
            kept = keeper.finish().0;
            stage.pools.refresh(version, &upstreams);
            for upstream in &upstreams {
                ask_as(&stage, upstream).await;
            }
        }
        assert!(stage.pools.slots() <= 3, "{}", stage.pools.slots());
        drop(kept);
        stage.pools.refresh(200, &[]);
        assert_eq!(stage.pools.slots(), 0);
        until(|| stage.pools.connections() == 0).await;
    });
}

#[test]
fn an_http2_connection_serves_on_over_a_reload_and_ends_after_its_last_stream() {
    run(async {
        let release = Rc::new(Notify::new());
        let seen = Rc::new(Cell::new(0));
        let (url, connections) = backend(script!(
            [release, seen] | peer | {
                // SETTINGS_MAX_CONCURRENT_STREAMS = 2
                peer.preface(&[0, 3, 0, 0, 0, 2]).await;
                while let Some(stream) = peer.headers().await {
                    seen.set(seen.get() + 1);
                    if seen.get() == 3 {
                        release.notified().await;
                    }
                    peer.answer(stream).await;
                }
            }
        ))
        .await;
        let (other, ..) = named("other").await;
        let mut settings = h2c(&url);
        settings.pool.connections_max = 1;
        settings.pool.queue_wait = HumanDuration::seconds(20);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        settings.timeouts.first_byte = HumanDuration::seconds(20);
        stage.reload(&settings);
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1);
        // Two streams are in use, and three wait for one.
        let tasks: Vec<_> = (0..5).map(|_| ask_later(&stage)).collect();
        until(|| seen.get() == 3 && stage.in_flight() == 5).await;
        assert_eq!(rows(&stage, &[&url]), ["0 1 0 1 0 3"]);
        settings.endpoints = vec![other.clone()];
        stage.reload(&settings);
        assert_eq!(rows(&stage, &[&url, &other]), ["0! 1 0 1 0 3", "1 0 0 0 0 0"]);
        release.notify_one();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        until(|| stage.pools.connections() == 0).await;
        assert_eq!(connections.get(), 1, "those who waited got streams of the connection that was there");
        assert_eq!(rows(&stage, &[&url, &other]), ["1 0 0 0 0 0"]);
    });
}

#[test]
fn an_idle_http2_connection_of_an_endpoint_that_left_closes_at_once() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let stage = Stage::new(&h2c(&url));
        stage.ask(get("/")).await.unwrap();
        assert_eq!(rows(&stage, &[&url]), ["0 1 1 0 0 0"]);
        let old = stage.reload(&h2c("http://127.0.0.1:1"));
        until(|| stage.pools.connections() == 0).await;
        // Fewer may be open: whichever serves nobody goes.
        ask_as(&stage, &old).await;
        until(|| stage.pools.connections() == 0).await;
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn the_rows_of_several_workers_are_one_for_each_endpoint() {
    let row = |upstream: &str, endpoint: &str, is_leaving, open| PoolState {
        upstream: upstream.into(),
        endpoint: endpoint.into(),
        is_leaving,
        open,
        idle: 1,
        active: open - 1,
        connecting: 2,
        waiting: 3,
    };
    let merged = PoolState::merge([
        vec![row("users", "b:80", false, 1), row("app", "a:80", false, 2)],
        vec![],
        vec![row("app", "a:80", true, 7), row("app", "a:80", false, 5)],
    ]);
    let sum = PoolState { idle: 2, active: 5, connecting: 4, waiting: 6, ..row("app", "a:80", false, 7) };
    assert_eq!(merged, [sum, row("app", "a:80", true, 7), row("users", "b:80", false, 1)]);
    assert_eq!(
        serde_json::to_string(&merged[2]).unwrap(),
        r#"{"upstream":"users","endpoint":"b:80","is_leaving":false,"open":1,"idle":1,"active":0,"connecting":2,"waiting":3}"#
    );
}
