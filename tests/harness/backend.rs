//! Back ends that do as they are told, lawful or not, and remember what they were sent.
//!
//! Each runs on a thread of its own, so that it also answers while a test waits for armiger to stop.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::io::{Noted, SpawnLocal};
use super::message::{Content, Framing, Head, HeadSplitter, Reader, Unreadable};
use super::{until, within};

/// What a back end answers.
pub type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// The most bytes of a request body that are remembered; of longer ones only the number is.
const KEPT_MAX: usize = 1 << 20;

/// An answer of these bytes.
pub fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).expect("the test gives a valid status")
}

/// An answer whose body the test sends piece by piece: data, trailers, or an error, which cuts it. It ends when the
/// sender is dropped.
pub fn streamed(status: u16) -> (Chunks, Answer) {
    let (sender, receiver) = mpsc::channel(1);
    let body = Streamed(receiver).boxed_unsync();
    (Chunks(sender), Response::builder().status(status).body(body).expect("the test gives a valid status"))
}

/// The test's end of a [`streamed`] body.
pub struct Chunks(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Chunks {
    /// Sends data. Returns once the back end has taken what was sent before.
    pub async fn data(&self, bytes: impl Into<Bytes>) {
        within("the back end to send a chunk", self.0.send(Ok(Frame::data(bytes.into())))).await.ok();
    }

    /// Sends data until nobody has taken any for a while: its reader has stopped.
    pub async fn until_stuck(&self) {
        let chunk = Bytes::from_static(&[0; 64 << 10]);
        let send = || tokio::time::timeout(Duration::from_millis(500), self.0.send(Ok(Frame::data(chunk.clone()))));
        while send().await.is_ok() {}
    }

    /// Sends trailers.
    pub async fn trailers(&self, trailers: HeaderMap) {
        within("the back end to send trailers", self.0.send(Ok(Frame::trailers(trailers)))).await.ok();
    }

    /// Breaks the answer off.
    pub async fn cut(self) {
        within("the back end to break off", self.0.send(Err(io::Error::other("cut by the test")))).await.ok();
    }

    /// Waits until nobody wants more of the body.
    pub async fn unwanted(&self) {
        within("the back end to lose its reader", self.0.closed()).await;
    }
}

struct Streamed(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

/// A request as a back end got it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which of the back end's connections it came on, from 0.
    pub connection: usize,
    /// Its version.
    pub version: Version,
    /// Its method.
    pub method: String,
    /// Its target, as in the request line; of HTTP/2, path and query.
    pub target: String,
    /// Its header fields. HTTP/2's `:authority` is `host` here.
    pub headers: HeaderMap,
    /// The head as it came, byte for byte. Empty for HTTP/2.
    pub head: Bytes,
    /// Its body, up to 1 MiB.
    pub body: Vec<u8>,
    /// How long its body was.
    pub body_bytes: u64,
    /// The fields after its body.
    pub trailers: HeaderMap,
    /// The body came to its end.
    pub whole: bool,
}

impl Seen {
    /// The one value of a header. Panics if it is absent or there twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "`{name}` of the request that the back end got: {values:?}");
        values[0].to_str().expect("the test looks at a header of text")
    }

    /// Whether a header is there.
    pub fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    /// The head as text.
    pub fn head_text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }
}

/// A fact that a script waits for and the test brings about.
#[derive(Clone, Debug)]
pub struct Signal(watch::Sender<bool>);

impl Default for Signal {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Signal {
    /// A fact that is not yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings it about, for all who wait and who will.
    pub fn send(&self) {
        self.0.send_replace(true);
    }

    /// Waits for it.
    pub async fn wait(&self) {
        let mut receiver = self.0.subscribe();
        receiver.wait_for(|is_sent| *is_sent).await.expect("this signal is a sender itself");
    }
}

/// What a raw back end does on a connection, step by step. After the last step it closes.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Head,
    Request,
    Write(Bytes),
    Wait(Signal),
    Hang,
    Reset,
    Again,
}

impl Script {
    /// A script without steps: accept and close.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a request, body included.
    pub fn request(self) -> Self {
        self.step(Step::Request)
    }

    /// Reads a request's head and leaves its body unread.
    pub fn head(self) -> Self {
        self.step(Step::Head)
    }

    /// Writes these bytes.
    pub fn write(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Write(Bytes::copy_from_slice(bytes.as_ref())))
    }

    /// Waits for the test.
    pub fn wait(self, signal: &Signal) -> Self {
        self.step(Step::Wait(signal.clone()))
    }

    /// Does nothing more, until the peer closes.
    pub fn hang(self) -> Self {
        self.step(Step::Hang)
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Starts over, until the peer closes.
    pub fn again(self) -> Self {
        self.step(Step::Again)
    }

    fn step(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

/// A server on a free port of this machine.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Of one that was stopped: bound and not listening, so that nobody else is given its port.
    held: Option<socket2::Socket>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Notify,
}

#[derive(Default)]
struct Log {
    accepted: usize,
    closed: usize,
    requests: Vec<Seen>,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        // A poisoned lock would hide the panic that poisoned it.
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Log) -> T) -> T {
        let result = change(&mut self.log());
        self.changed.notify_waiters();
        result
    }
}

type Connected = Pin<Box<dyn Future<Output = ()>>>;

impl Backend {
    /// Answers everything with 200 and this body.
    pub async fn replies(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::with(move |_| answer(200, body.clone())).await
    }

    /// Answers with how often a target was asked for, and these headers.
    pub async fn counting(headers: &'static [(&'static str, &'static str)]) -> Self {
        let counts = Mutex::new(HashMap::<String, usize>::new());
        Self::with(move |seen| {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(seen.target.clone()).or_default();
            *count += 1;
            let mut answer = answer(200, count.to_string());
            for (name, value) in headers {
                answer.headers_mut().append(*name, value.parse().unwrap());
            }
            answer
        })
        .await
    }

    /// Answers with the request's body, streamed as it comes, and its `content-type`.
    pub async fn echo() -> Self {
        Self::serving(|request: Request<RecordedBody>| async {
            let (parts, body) = request.into_parts();
            let mut answer = Response::new(body.map_err(io::Error::other).boxed_unsync());
            if let Some(kind) = parts.headers.get("content-type") {
                answer.headers_mut().insert("content-type", kind.clone());
            }
            answer
        })
        .await
    }

    /// Reads each request whole and answers with what `reply` makes of it. Speaks HTTP/1.1 and h2c.
    pub async fn with(reply: impl Fn(&Seen) -> Answer + Send + 'static) -> Self {
        let reply = Arc::new(Mutex::new(reply));
        Self::serving(move |request: Request<RecordedBody>| {
            let reply = reply.clone();
            async move {
                let (shared, place) = request.body().record();
                // A client that breaks off within its body is not for `reply` to know.
                if request.into_body().collect().await.is_err() {
                    return answer(400, "the request broke off");
                }
                let seen = shared.log().requests[place].clone();
                let reply = reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                reply(&seen)
            }
        })
        .await
    }

    /// Reads each request whole and answers, in its own time, with what `reply` makes of it.
    pub async fn seen<F, Fut>(reply: F) -> Self
    where
        F: Fn(Seen) -> Fut + Send + 'static,
        Fut: Future<Output = Answer> + 'static,
    {
        let reply = std::sync::Arc::new(Mutex::new(reply));
        Self::serving(move |request: Request<RecordedBody>| {
            let reply = reply.clone();
            async move {
                let (shared, place) = request.body().record();
                if request.into_body().collect().await.is_err() {
                    return answer(400, "the request broke off");
                }
                let seen = shared.log().requests[place].clone();
                let answer = (reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner))(seen);
                answer.await
            }
        })
        .await
    }

    /// Answers with what `serve` makes of each request, whose body it may read or not. Speaks HTTP/1.1 and h2c.
    pub async fn serving<F, Fut>(serve: F) -> Self
    where
        F: Fn(Request<RecordedBody>) -> Fut + Send + 'static,
        Fut: Future<Output = Answer> + 'static,
    {
        Self::start(move |listener, shared, stop| {
            let serve = std::rc::Rc::new(serve);
            accept(listener, shared, stop, move |stream, number, shared| {
                Box::pin(serve_connection(stream, number, shared, serve.clone()))
            })
        })
    }

    /// Follows `script` on every connection.
    pub async fn raw(script: Script) -> Self {
        Self::raw_each(move |_| script.clone()).await
    }

    /// Follows on each connection, counted from 0, what `script` gives for it.
    pub async fn raw_each(script: impl Fn(usize) -> Script + Send + 'static) -> Self {
        Self::start(move |listener, shared, stop| {
            accept(listener, shared, stop, move |stream, number, shared| {
                Box::pin(follow(script(number), stream, number, shared))
            })
        })
    }

    /// Answers everything with 200 and this body, at the port of `other` on `127.0.0.{last}`.
    pub async fn twin(other: &Self, last: u8, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::with_twin(other, last, move |_| answer(200, body.clone())).await
    }

    /// Answers with what `reply` makes of each request, at the port of `other` on `127.0.0.{last}`.
    pub async fn with_twin(other: &Self, last: u8, reply: impl Fn(&Seen) -> Answer + Send + 'static) -> Self {
        let address = SocketAddr::from(([127, 0, 0, last], other.address.port()));
        let reply = Arc::new(Mutex::new(reply));
        Self::start_at(address, move |listener, shared, stop| {
            let serve = std::rc::Rc::new(move |request: Request<RecordedBody>| {
                let reply = reply.clone();
                async move {
                    let (shared, place) = request.body().record();
                    if request.into_body().collect().await.is_err() {
                        return answer(400, "the request broke off");
                    }
                    let seen = shared.log().requests[place].clone();
                    let reply = reply.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    reply(&seen)
                }
            });
            accept(listener, shared, stop, move |stream, number, shared| {
                Box::pin(serve_connection(stream, number, shared, serve.clone()))
            })
        })
    }

    fn start<Run, Fut>(run: Run) -> Self
    where
        Run: FnOnce(TcpListener, Arc<Shared>, oneshot::Receiver<()>) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), run)
    }

    fn start_at<Run, Fut>(address: SocketAddr, run: Run) -> Self
    where
        Run: FnOnce(TcpListener, Arc<Shared>, oneshot::Receiver<()>) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        let listener = std::net::TcpListener::bind(address).expect("a free port on loopback");
        listener.set_nonblocking(true).expect("sockets can be non-blocking");
        // A crowd comes at once: of what the backlog has no room for, the kernel lets each wait for seconds.
        socket2::SockRef::from(&listener).listen(4096).expect("a longer backlog");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let for_thread = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be built");
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = TcpListener::from_std(listener).expect("a listener that does not block");
                run(listener, for_thread, stopped).await;
            });
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread), held: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the configuration wants it: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.shared.log().accepted
    }

    /// How many requests began to come.
    pub fn count(&self) -> usize {
        self.shared.log().requests.len()
    }

    /// All requests that have begun to come.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.log().requests.clone()
    }

    /// Waits until `n` requests came whole, and gives all that came.
    pub async fn received(&self, n: usize) -> Vec<Seen> {
        let what = format!("the back end to receive {n} whole requests");
        self.requests_when(&what, |requests| requests.iter().filter(|seen| seen.whole).count() >= n).await
    }

    /// Waits until the heads of `n` requests came, and gives all that came.
    pub async fn arrived(&self, n: usize) -> Vec<Seen> {
        let what = format!("the heads of {n} requests to reach the back end");
        self.requests_when(&what, |requests| requests.len() >= n).await
    }

    /// The one request that came.
    pub async fn only(&self) -> Seen {
        let mut requests = self.received(1).await;
        assert_eq!(requests.len(), 1, "the back end was to get one request: {requests:#?}");
        requests.remove(0)
    }

    /// Waits until `n` of its connections are closed, by whichever side.
    pub async fn closed(&self, n: usize) {
        let found = || (self.shared.log().closed >= n).then_some(());
        within(&format!("{n} connections of the back end to close"), until(&self.shared.changed, found)).await;
    }

    async fn requests_when(&self, what: &str, is_enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let found = || {
            let log = self.shared.log();
            is_enough(&log.requests).then(|| log.requests.clone())
        };
        within(what, until(&self.shared.changed, found)).await
    }

    /// Stops it: from now on its port refuses connections, and open ones are gone.
    pub fn stop(&mut self) {
        // The receiver is gone when the thread has panicked, which `join` tells.
        self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = ended
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
        self.held = hold(self.address).ok();
    }
}

/// Keeps an address from whoever asks for any port, and not from a listener that asks for just this one.
fn hold(address: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: oneshot::Receiver<()>,
    serve: impl Fn(TcpStream, usize, Arc<Shared>) -> Connected,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                stream.set_nodelay(true).expect("a connected socket takes options");
                let number = shared.change(|log| {
                    log.accepted += 1;
                    log.accepted - 1
                });
                let work = serve(stream, number, shared.clone());
                let shared = shared.clone();
                connections.spawn_local(async move {
                    work.await;
                    shared.change(|log| log.closed += 1);
                });
            }
            Some(ended) = connections.join_next() => pass_on_panic(ended),
            _ = &mut stop => break,
        }
    }
    while let Some(ended) = connections.try_join_next() {
        pass_on_panic(ended);
    }
}

fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

// === lawful back ends, by hyper ===

async fn serve_connection<F, Fut>(mut stream: TcpStream, number: usize, shared: Arc<Shared>, serve: std::rc::Rc<F>)
where
    F: Fn(Request<RecordedBody>) -> Fut + 'static,
    Fut: Future<Output = Answer> + 'static,
{
    // Three bytes tell HTTP/2's preface from any method of HTTP/1.
    let mut ahead = [0; 3];
    if stream.read_exact(&mut ahead).await.is_err() {
        return;
    }
    let is_h2 = &ahead == b"PRI";
    let heads = Arc::new(Mutex::new(HeadSplitter::default()));
    let ahead = Bytes::copy_from_slice(&ahead);
    let io = TokioIo::new(Noted { stream, ahead, heads: (!is_h2).then(|| heads.clone()) });
    let service = service_fn(move |request: Request<Incoming>| {
        let head = heads.lock().expect("no panic while heads are split").pop().unwrap_or_default();
        let answer = serve(record(request, number, &shared, head));
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    // How a connection ended is for the test to see in what came and what did not.
    if is_h2 {
        hyper::server::conn::http2::Builder::new(SpawnLocal).serve_connection(io, service).await.ok();
    } else {
        hyper::server::conn::http1::Builder::new().half_close(false).serve_connection(io, service).await.ok();
    }
}

fn record(request: Request<Incoming>, connection: usize, shared: &Arc<Shared>, head: Bytes) -> Request<RecordedBody> {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers.clone();
    if parts.version == Version::HTTP_2
        && let Some(authority) = parts.uri.authority()
    {
        headers.insert("host", authority.as_str().parse().expect("an authority can stand in a header"));
    }
    let target = match parts.version {
        Version::HTTP_2 => parts.uri.path_and_query().map_or_else(|| "*".into(), ToString::to_string),
        _ => parts.uri.to_string(),
    };
    let whole = body.is_end_stream();
    let seen = Seen {
        connection,
        version: parts.version,
        method: parts.method.to_string(),
        target,
        headers,
        head,
        body: Vec::new(),
        body_bytes: 0,
        trailers: HeaderMap::new(),
        whole,
    };
    let place = shared.change(|log| {
        log.requests.push(seen);
        log.requests.len() - 1
    });
    Request::from_parts(parts, RecordedBody { incoming: body, shared: shared.clone(), place })
}

/// A request body that is remembered while it is read.
pub struct RecordedBody {
    incoming: Incoming,
    shared: Arc<Shared>,
    place: usize,
}

impl RecordedBody {
    fn record(&self) -> (Arc<Shared>, usize) {
        (self.shared.clone(), self.place)
    }
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        let is_end = this.incoming.is_end_stream();
        this.shared.change(|log| {
            let seen = &mut log.requests[this.place];
            match &frame {
                None => seen.whole = true,
                Some(Err(_)) => {}
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        let room = KEPT_MAX.saturating_sub(seen.body.len());
                        seen.body.extend_from_slice(&data[..data.len().min(room)]);
                        seen.body_bytes += data.len() as u64;
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        seen.trailers = trailers.clone();
                    }
                    seen.whole |= is_end;
                }
            }
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

// === back ends that follow a script ===

async fn follow(script: Script, stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let mut reader = Reader::new(stream);
    let mut steps = script.0.iter().cycle();
    let mut left = script.0.len();
    while left > 0
        && let Some(step) = steps.next()
    {
        left -= 1;
        match step {
            Step::Head | Step::Request => {
                let Some((head, framing)) = read_head(&mut reader, number, &shared).await else { return };
                if matches!(step, Step::Request) && !read_body(&mut reader, framing, head, &shared).await {
                    return;
                }
            }
            Step::Write(bytes) => {
                if reader.stream().write_all(bytes).await.is_err() {
                    return;
                }
            }
            Step::Wait(signal) => tokio::select! {
                () = signal.wait() => {}
                // Whatever else arrives is none of this step's business, but an end is.
                () = end_of(reader.stream()) => return,
            },
            Step::Hang => {
                reader.rest().await.ok();
                return;
            }
            Step::Reset => {
                let stream = reader.into_stream();
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket takes options");
                return;
            }
            Step::Again => left = script.0.len(),
        }
    }
    // Closing with bytes unread would be a reset, which a script says in so many words when it is meant.
    let stream = reader.stream();
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 4096];
        while matches!(stream.try_read(&mut rest), Ok(1..)) {}
    }
}

/// Ends when the peer closes or resets.
async fn end_of(stream: &TcpStream) {
    if matches!(stream.peek(&mut [0; 1]).await, Ok(1..)) {
        // Bytes are there that nobody is to read now, so an end behind them cannot be seen.
        std::future::pending::<()>().await;
    }
}

async fn read_head(reader: &mut Reader<TcpStream>, connection: usize, shared: &Shared) -> Option<(usize, Framing)> {
    let head = match reader.head().await {
        Ok(head) => head,
        Err(Unreadable::Malformed(why)) => panic!("a back end got a malformed request: {why}"),
        Err(_) => return None,
    };
    let (method, target) = request_line(&head);
    let framing =
        head.framing(Framing::None).unwrap_or_else(|why| panic!("a back end got an ambiguous request: {why}"));
    let version = if head.line.ends_with("1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
    let seen = Seen {
        connection,
        version,
        method,
        target,
        headers: head.headers,
        head: head.bytes.into(),
        body: Vec::new(),
        body_bytes: 0,
        trailers: HeaderMap::new(),
        whole: framing == Framing::None,
    };
    let place = shared.change(|log| {
        log.requests.push(seen);
        log.requests.len() - 1
    });
    Some((place, framing))
}

fn request_line(head: &Head) -> (String, String) {
    head.request_line().unwrap_or_else(|why| panic!("a back end got a malformed request: {why}"))
}

async fn read_body(reader: &mut Reader<TcpStream>, framing: Framing, place: usize, shared: &Shared) -> bool {
    let Content { bytes, trailers } = match reader.body(framing).await {
        Ok(content) => content,
        Err(Unreadable::Malformed(why)) => panic!("a back end got a malformed body: {why}"),
        Err(_) => return false,
    };
    shared.change(|log| {
        let seen = &mut log.requests[place];
        seen.body_bytes = bytes.len() as u64;
        seen.body = bytes;
        seen.trailers = trailers;
        seen.whole = true;
    });
    true
}
