//! Bodies of any size pass in constant memory, both ways, and a download that broke off goes on where it ended.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Armiger, Config, Files, Process, address_in};

/// How large a body is that must leave no trace in memory. `ARMIGER_TEST_MIB=4096` for a real one.
fn size() -> u64 {
    let mib = std::env::var("ARMIGER_TEST_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
    mib << 20
}

/// By how much armiger may grow meanwhile, in KiB.
const GROWTH_MAX: u64 = 24 * 1024;

/// The period of what is sent: prime, so that nothing that is left out or comes twice goes unnoticed.
const PERIOD: u64 = 65_521;

/// The byte at this place.
fn byte(place: u64) -> u8 {
    (place % PERIOD % 251) as u8
}

/// The bytes from one place to another.
struct Part {
    block: Bytes,
    at: u64,
    end: u64,
    /// Where it breaks off, if it does.
    cut: u64,
}

impl Part {
    fn new(at: u64, end: u64) -> Self {
        Self { block: (0..PERIOD).map(byte).collect::<Vec<_>>().into(), at, end, cut: u64::MAX }
    }
}

impl Body for Part {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.at >= self.cut {
            return Poll::Ready(Some(Err(std::io::ErrorKind::BrokenPipe.into())));
        }
        let from = self.at % PERIOD;
        let length = (PERIOD - from).min(self.end - self.at);
        if length == 0 {
            return Poll::Ready(None);
        }
        self.at += length;
        Poll::Ready(Some(Ok(Frame::data(self.block.slice(from as usize..(from + length) as usize)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// Reads a body that begins at this place, and says where it ended, and whether that was its end.
async fn read<B>(mut body: B, mut at: u64) -> (u64, bool)
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (at, false) };
        let Ok(data) = frame.into_data() else { continue };
        let (Some(first), Some(last)) = (data.first(), data.last()) else { continue };
        assert_eq!(*first, byte(at), "at {at}");
        at += data.len() as u64;
        assert_eq!(*last, byte(at - 1), "before {at}");
    }
    (at, true)
}

type Answer = Response<Either<Part, Full<Bytes>>>;

/// `GET /N` gets N bytes or the part of them that it asks for, and `/N/M` breaks off after M; whatever else is sent is counted.
async fn serve(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let mut numbers = request.uri().path().split('/').filter_map(|number| number.parse().ok());
    let Some(length) = numbers.next() else {
        let (count, is_whole) = read(request.into_body(), 0).await;
        return Ok(Response::new(Either::Right(Full::from(format!("{count} {is_whole}")))));
    };
    let range = range(request.headers());
    let mut part = Part::new(range.unwrap_or(0), length);
    part.cut = numbers.next().filter(|_| range.is_none()).unwrap_or(u64::MAX);
    let mut answer = Response::builder().header(header::ETAG, "\"one\"").header(header::ACCEPT_RANGES, "bytes");
    answer = answer.header(header::CONTENT_TYPE, "text/plain");
    if let Some(from) = range {
        answer = answer.status(206).header(header::CONTENT_RANGE, format!("bytes {from}-{}/{length}", length - 1));
    }
    Ok(answer.body(Either::Left(part)).unwrap())
}

fn range(headers: &HeaderMap) -> Option<u64> {
    if headers.get(header::IF_RANGE).is_some_and(|tag| tag != "\"one\"") {
        return None;
    }
    headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

async fn backend(is_http2: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let stream = TokioIo::new(listener.accept().await.unwrap().0);
            let service = hyper::service::service_fn(serve);
            tokio::spawn(async move {
                if is_http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(stream, service).await.ok();
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await.ok();
                }
            });
        }
    });
    url
}

/// Sends a request over a connection of its own, however long that takes.
async fn ask<B>(address: SocketAddr, is_http2: bool, request: Request<B>) -> Response<Incoming>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }
}

fn at(is_http2: bool, target: &str) -> http::request::Builder {
    if is_http2 {
        Request::builder().uri(format!("http://a{target}"))
    } else {
        Request::builder().uri(target).header(header::HOST, "a")
    }
}

async fn download(address: SocketAddr, is_http2: bool, size: u64) {
    let request = at(is_http2, &format!("/{size}")).body(Empty::<Bytes>::new()).unwrap();
    let answer = ask(address, is_http2, request).await;
    assert_eq!(answer.headers()[header::CONTENT_LENGTH], size.to_string());
    assert_eq!(read(answer.into_body(), 0).await, (size, true));
}

async fn upload(address: SocketAddr, is_http2: bool, size: u64) {
    let request = at(is_http2, "/upload").method("PUT").body(Part::new(0, size)).unwrap();
    let answer = ask(address, is_http2, request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), format!("{size} true"));
}

async fn in_constant_memory(is_http2: bool) {
    let protocol = if is_http2 { "protocol: h2c" } else { "protocol: http1" };
    let config = Config::to_url(&backend(is_http2).await)
        .upstream(protocol)
        .route("timeout: 1h")
        .listener("limits: {body_max: 16GiB}");
    let files = Files::of(config);
    let mut process: Process = Armiger::spawn(&["run", "--config", &files.config()]);
    let address = address_in(&process.stderr_line("listener"));
    // What every connection and every buffer takes that will be used.
    download(address, is_http2, 8 << 20).await;
    upload(address, is_http2, 8 << 20).await;
    let before = process.usage().0;
    download(address, is_http2, size()).await;
    upload(address, is_http2, size()).await;
    let peak = process.peak();
    eprintln!("{} MiB each way: {before} KiB before, {peak} KiB at the most", size() >> 20);
    assert!(peak < before + GROWTH_MAX, "{before} KiB before, {peak} KiB at the most");
}

#[tokio::test]
async fn large_bodies_pass_in_constant_memory_over_http1() {
    in_constant_memory(false).await;
}

#[tokio::test]
async fn large_bodies_pass_in_constant_memory_over_http2() {
    in_constant_memory(true).await;
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on_where_it_ended() {
    const SIZE: u64 = 4 << 20;
    for is_http2 in [false, true] {
        let protocol = if is_http2 { "protocol: h2c" } else { "protocol: http1" };
        // What a range is of must not be changed on the way.
        let config = Config::to_url(&backend(is_http2).await)
            .upstream(protocol)
            .policies("compress: {types: ['text/*'], min: 1B}");
        let armiger = Armiger::with(config).await;
        let path = format!("/{SIZE}/{}", SIZE / 2);
        let request = at(is_http2, &path).body(Empty::<Bytes>::new()).unwrap();
        let broken = ask(armiger.address(), is_http2, request).await;
        assert_eq!(broken.headers()[header::ACCEPT_RANGES], "bytes");
        let tag = broken.headers()[header::ETAG].clone();
        let (came, is_whole) = read(broken.into_body(), 0).await;
        assert!(!is_whole && came > 0 && came < SIZE, "{came} bytes");
        for (tag, status, from) in [(tag, 206, came), ("\"other\"".parse().unwrap(), 200, 0)] {
            let request = at(is_http2, &format!("/{SIZE}"))
                .header(header::RANGE, format!("bytes={came}-"))
                .header(header::IF_RANGE, tag)
                .header(header::ACCEPT_ENCODING, "gzip");
            let rest = ask(armiger.address(), is_http2, request.body(Empty::<Bytes>::new()).unwrap()).await;
            assert_eq!(rest.status(), status);
            if status == 206 {
                assert_eq!(rest.headers()[header::CONTENT_RANGE], format!("bytes {from}-{}/{SIZE}", SIZE - 1));
                assert_eq!(read(rest.into_body(), from).await, (SIZE, true));
            }
        }
    }
}
