//! Clients: requests by hyper over HTTP/1.1 and h2c, and raw bytes whose answers are read strictly.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
pub use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::message::{Content, Framing, Reader, Unreadable};
use super::within;

type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// Asks one address.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    address: SocketAddr,
}

impl Client {
    /// Asks `address`.
    pub fn to(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Whom it asks.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// GETs a path on a connection of its own.
    pub async fn get(&self, path: &str) -> Response {
        self.connect().await.get(path).await
    }

    /// POSTs a body on a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Response {
        self.connect().await.post(path, body).await
    }

    /// Sends a request on a connection of its own. `host` is added where it is missing.
    pub async fn request<B>(&self, request: Request<B>) -> Response
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        self.connect().await.request(request).await
    }

    /// Opens a connection that speaks HTTP/1.1.
    pub async fn connect(&self) -> Connection {
        Connection::over(self.tcp().await, false, self.address).await
    }

    /// Opens a connection that speaks HTTP/2 in clear text, with prior knowledge.
    pub async fn connect_h2c(&self) -> Connection {
        Connection::over(self.tcp().await, true, self.address).await
    }

    /// Opens a connection and writes these bytes.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> RawConversation {
        let mut conversation = RawConversation { reader: Reader::new(self.tcp().await) };
        conversation.write(bytes).await;
        conversation
    }

    /// Whether nobody listens at the address.
    pub async fn is_refused(&self) -> bool {
        within("a connection or its refusal", TcpStream::connect(self.address)).await.is_err()
    }

    /// Waits until nobody listens at the address any more: workers close their sockets after an edit is in force.
    pub async fn until_refused(&self) {
        within("the listener to close", async {
            while !self.is_refused().await {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn tcp(&self) -> TcpStream {
        let connected = within("a connection", TcpStream::connect(self.address)).await;
        let stream = connected.unwrap_or_else(|error| panic!("nobody listens on {}: {error}", self.address));
        stream.set_nodelay(true).expect("a connected socket takes options");
        stream
    }
}

/// A connection that is kept alive. Closes when dropped.
pub struct Connection {
    sender: Sender,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

enum Sender {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Speaks HTTP over a stream to `address` that is there already.
    pub async fn over<S>(stream: S, is_http2: bool, address: SocketAddr) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        if is_http2 {
            let shaken = within("the HTTP/2 handshake", http2::handshake(TokioExecutor::new(), io)).await;
            let (sender, connection) = shaken.expect("the server speaks HTTP/2");
            let task = tokio::spawn(async move {
                connection.await.ok();
            });
            return Self { sender: Sender::Http2(sender), address, task };
        }
        let shaken = within("the HTTP/1.1 handshake", http1::handshake(io)).await;
        let (sender, connection) = shaken.expect("HTTP/1.1 needs no handshake");
        let task = tokio::spawn(async move {
            connection.with_upgrades().await.ok();
        });
        Self { sender: Sender::Http1(sender), address, task }
    }

    /// GETs a path.
    pub async fn get(&mut self, path: &str) -> Response {
        self.request(Request::get(path).body(Full::default()).expect("the test gives a valid path")).await
    }

    /// POSTs a body.
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Response {
        self.request(Request::post(path).body(Full::new(body.into())).expect("the test gives a valid path")).await
    }

    /// Sends a request and reads the whole answer. `host` is added where it is missing.
    #[track_caller]
    pub fn request<B>(&mut self, request: Request<B>) -> impl Future<Output = Response>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let what = format!("{} {}", request.method(), request.uri());
        async move { self.try_request(request).await.unwrap_or_else(|error| panic!("no whole answer to {what}: {error:?}")) }
    }

    /// Sends a request and reads the whole answer; the error tells where it broke off.
    pub async fn try_request<B>(&mut self, request: Request<B>) -> Result<Response, hyper::Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let answer = self.open(request).await?;
        let (parts, body) = answer.into_parts();
        let collected = within("the rest of an answer's body", body.collect()).await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Response {
            status: parts.status.as_u16(),
            version: parts.version,
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    /// Sends a request and gives the answer's head, with its body still to come.
    pub async fn open<B>(&mut self, request: Request<B>) -> Result<http::Response<Incoming>, hyper::Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (mut parts, body) = request.into_parts();
        let what = format!("the answer to {} {}", parts.method, parts.uri);
        let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
        let host = host.map_or_else(|| self.address.to_string(), str::to_owned);
        let body = body.map_err(io::Error::other).boxed_unsync();
        match &mut self.sender {
            Sender::Http1(sender) => {
                parts.headers.insert("host", host.parse().expect("the test gives a valid host"));
                within("the connection to take a request", sender.ready()).await?;
                within(&what, sender.send_request(Request::from_parts(parts, body))).await
            }
            Sender::Http2(sender) => {
                parts.headers.remove("host");
                if parts.uri.authority().is_none() {
                    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
                    parts.uri = format!("http://{host}{target}").parse().expect("the test gives a valid target");
                }
                within("the connection to take a request", sender.ready()).await?;
                within(&what, sender.send_request(Request::from_parts(parts, body))).await
            }
        }
    }

    /// A second hand on the same HTTP/2 connection, for requests at the same time.
    pub fn share(&self) -> Connection {
        let Sender::Http2(sender) = &self.sender else { panic!("an HTTP/1.1 connection takes one request at a time") };
        // Dropping this hand must not close the connection, so its task is a stand-in.
        Connection { sender: Sender::Http2(sender.clone()), address: self.address, task: tokio::spawn(async {}) }
    }

    /// Waits until the other side has closed.
    pub async fn closed(&mut self) {
        within("the server to close the connection", &mut self.task).await.ok();
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its version.
    pub version: Version,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The fields after its body.
    pub trailers: HeaderMap,
}

impl Response {
    /// Fails unless the status is this one.
    #[track_caller]
    pub fn assert_status(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "status of {self:#?}");
        self
    }

    /// Fails unless a header has this one value.
    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) -> &Self {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(values.len() == 1 && values[0] == value, "`{name}` is {values:?} and not {value:?} in {self:#?}");
        self
    }

    /// Fails if a header is there.
    #[track_caller]
    pub fn assert_no_header(&self, name: &str) -> &Self {
        assert!(!self.headers.contains_key(name), "`{name}` is there in {self:#?}");
        self
    }

    /// Fails unless this is armiger's refusal for that reason, told as problem+json (RFC 9457).
    #[track_caller]
    pub fn assert_problem(&self, status: u16, slug: &str) -> &Self {
        self.assert_status(status).assert_header("content-type", "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:armiger:{slug}"), "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "no title in {problem:#}");
        assert!(self.header("proxy-status").starts_with("armiger; error="), "who refuses says so in {self:#?}");
        self
    }

    /// The one value of a header.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "`{name}` is {values:?} in {self:#?}");
        values[0].to_str().expect("the test looks at a header of text")
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_else(|_| panic!("the body is no text: {self:#?}"))
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("the body is no JSON ({error}): {self:#?}"))
    }
}

/// Why an answer on a raw connection is none.
#[derive(Debug)]
pub enum Broken {
    /// The connection closed before a byte of it.
    Closed,
    /// The connection was reset before its head was whole.
    Reset,
    /// It ended within the head.
    CutInHead(String),
    /// Its head came, but not all of its body: the connection ended or was reset. `body` is what came.
    CutInBody(Box<Response>),
    /// It breaks the grammar of HTTP/1.1.
    Malformed(String),
}

/// A raw connection: bytes out, answers in.
pub struct RawConversation {
    reader: Reader<TcpStream>,
}

impl RawConversation {
    /// Writes more bytes. A peer that has closed may refuse them: what it answered is still to be read.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        within("the server to read", self.reader.stream().write_all(bytes.as_ref())).await.ok();
        self
    }

    /// Closes this side for writing.
    pub async fn finish(&mut self) -> &mut Self {
        self.reader.stream().shutdown().await.ok();
        self
    }

    /// Reads the next answer, an interim one included.
    #[track_caller]
    pub fn answer(&mut self) -> impl Future<Output = Response> {
        let place = Location::caller();
        async move { self.try_answer().await.unwrap_or_else(|why| panic!("no answer at {place}: {why:?}")) }
    }

    /// Reads the next `n` answers.
    pub async fn answers(&mut self, n: usize) -> Vec<Response> {
        let mut answers = Vec::with_capacity(n);
        for _ in 0..n {
            answers.push(self.answer().await);
        }
        answers
    }

    /// Reads the next answer to a HEAD request, which has no body whatever its headers say.
    pub async fn answer_to_head(&mut self) -> Response {
        self.read(true).await.unwrap_or_else(|why| panic!("no answer: {why:?}"))
    }

    /// Reads the next answer, or tells how it broke.
    pub async fn try_answer(&mut self) -> Result<Response, Broken> {
        self.read(false).await
    }

    /// Reads bytes as they are until the server closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        match within("the server to close the connection", self.reader.rest()).await {
            Ok(bytes) | Err(Unreadable::Reset(bytes)) => bytes,
            Err(other) => panic!("{other:?} while reading without a grammar"),
        }
    }

    /// Reads the bytes that are there, at least one.
    pub async fn some(&mut self) -> Vec<u8> {
        within("the server to send something", self.reader.some()).await.unwrap_or_default()
    }

    /// Fails unless the server closes without another byte.
    #[track_caller]
    pub fn assert_closed(&mut self) -> impl Future<Output = ()> {
        let place = Location::caller();
        async move {
            let rest = self.rest().await;
            assert!(rest.is_empty(), "more than an end at {place}: {:?}", String::from_utf8_lossy(&rest));
        }
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let stream = self.reader.into_stream();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket takes options");
    }

    async fn read(&mut self, to_head: bool) -> Result<Response, Broken> {
        let head = within("the head of an answer", self.reader.head()).await.map_err(|why| match why {
            Unreadable::Closed => Broken::Closed,
            Unreadable::CutInHead(bytes) => Broken::CutInHead(String::from_utf8_lossy(&bytes).into_owned()),
            Unreadable::Reset(_) => Broken::Reset,
            Unreadable::Malformed(why) => Broken::Malformed(why),
            Unreadable::CutInBody(_) => Broken::Malformed("a body within a head".into()),
        })?;
        let status = head.status().map_err(Broken::Malformed)?;
        let has_no_body = to_head || status < 200 || matches!(status, 204 | 304);
        // The framing must make sense even where no body follows it.
        let framing = head.framing(Framing::Close).map_err(Broken::Malformed)?;
        let framing = if has_no_body { Framing::None } else { framing };
        let version = if head.line.starts_with("HTTP/1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut response =
            Response { status, version, headers: head.headers, body: Bytes::new(), trailers: HeaderMap::new() };
        match within("the body of an answer", self.reader.body(framing)).await {
            Ok(Content { bytes, trailers }) => {
                response.body = bytes.into();
                response.trailers = trailers;
                Ok(response)
            }
            Err(Unreadable::Malformed(why)) => Err(Broken::Malformed(why)),
            Err(Unreadable::CutInBody(bytes) | Unreadable::Reset(bytes) | Unreadable::CutInHead(bytes)) => {
                response.body = bytes.into();
                Err(Broken::CutInBody(Box::new(response)))
            }
            Err(Unreadable::Closed) => Err(Broken::CutInBody(Box::new(response))),
        }
    }
}
