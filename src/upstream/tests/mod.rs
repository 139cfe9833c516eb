//! Upstreams that are played byte by byte: the stage on which they are, and the tests by what they are about.

mod bounds;
mod faults;
mod http2;
mod reloads;
mod requests;
mod reuse;
mod timeouts;
mod tries;
mod uploads;

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
use crate::config::balance::{Balance, Ejection};
use crate::config::breaker::{Breaker, Trip};
use crate::config::retry::Retry;
use crate::config::upstream::{self as config, Protocol};
use crate::config::value::{ByteSize, HumanDuration};
use crate::config::{Issues, KeyPath};
use crate::http::body::{Body, BodyError, Inbound, Received};
use crate::keep::{Keeper, Kept};
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;

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
use script;

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

async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

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

fn h2c(url: &str) -> config::Upstream {
    let mut settings = settings(&[url]);
    settings.protocol = Protocol::H2c;
    settings
}
