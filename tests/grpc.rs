//! gRPC by a client and a server that others wrote (tonic): every kind of call, metadata, trailers, deadlines, cancellation.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::harness::{Armiger, Backend, Config, SECRET_YAML, Script, Signer, SpawnLocal, claims, within};

/// Messages are bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// What the server has seen.
#[derive(Clone, Default)]
pub(super) struct Server {
    hanging: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    timeouts: Arc<std::sync::Mutex<Vec<String>>>,
}

struct Hanging(Server);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// Calls a function as a method of a service.
struct Method<F>(F);

macro_rules! method {
    ($Service:ident, $Request:ty, $Response:ty $(, type $Stream:ident = $Item:ty)?) => {
        impl<F, Fut> tonic::server::$Service<Bytes> for Method<F>
        where
            F: FnMut(Request<$Request>) -> Fut,
            Fut: Future<Output = Result<Response<$Response>, Status>>,
        {
            type Response = Bytes;
            $(type $Stream = $Item;)?
            type Future = Fut;

            fn call(&mut self, request: Request<$Request>) -> Fut {
                (self.0)(request)
            }
        }
    };
}

method!(UnaryService, Bytes, Bytes);
method!(ServerStreamingService, Bytes, Messages, type ResponseStream = Messages);
method!(ClientStreamingService, Streaming<Bytes>, Bytes);
method!(StreamingService, Streaming<Bytes>, Messages, type ResponseStream = Messages);

impl Server {
    async fn answer(self, request: http::Request<tonic::body::Body>) -> http::Response<tonic::body::Body> {
        let mut grpc = tonic::server::Grpc::new(Plain);
        if let Some(timeout) = request.headers().get("grpc-timeout") {
            self.timeouts.lock().unwrap().push(timeout.to_str().unwrap().to_owned());
        }
        match request.uri().path() {
            "/test.Echo/Unary" => {
                grpc.unary(
                    Method(|request: Request<Bytes>| async move {
                        let mut response = Response::new(request.get_ref().clone());
                        for key in ["x-told", "x-told-bin"] {
                            if let Some(value) = request.metadata().get(key) {
                                response.metadata_mut().insert(key, value.clone());
                            }
                        }
                        if let Some(value) = request.metadata().get_bin("x-told-bin") {
                            response.metadata_mut().insert_bin("x-told-bin", value.clone());
                        }
                        Ok(response)
                    }),
                    request,
                )
                .await
            }
            "/test.Echo/Fail" => {
                grpc.unary(
                    Method(|request: Request<Bytes>| async move {
                        let code = Code::from(i32::from(request.get_ref()[0]));
                        let mut status = Status::new(code, "weil ü und %");
                        status.metadata_mut().insert("x-why", "because".parse().unwrap());
                        Err::<Response<Bytes>, _>(status)
                    }),
                    request,
                )
                .await
            }
            "/test.Echo/Count" => {
                grpc.server_streaming(
                    Method(|request: Request<Bytes>| async move {
                        let (sender, receiver) = mpsc::channel(1);
                        let most = request.get_ref()[0];
                        tokio::spawn(async move {
                            for number in 0..most {
                                if sender.send(Ok(Bytes::from(vec![number; 1000]))).await.is_err() {
                                    return;
                                }
                            }
                            sender.send(Err(Status::new(Code::OutOfRange, "that was all"))).await.ok();
                        });
                        let messages =
                            stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
                        Ok(Response::new(Box::pin(messages) as Messages))
                    }),
                    request,
                )
                .await
            }
            "/test.Echo/Sum" => {
                grpc.client_streaming(
                    Method(|request: Request<Streaming<Bytes>>| async move {
                        let mut messages = request.into_inner();
                        let mut sum = 0;
                        while let Some(message) = messages.message().await? {
                            sum += message.len();
                        }
                        Ok(Response::new(Bytes::from(sum.to_string())))
                    }),
                    request,
                )
                .await
            }
            "/test.Echo/Chat" => {
                grpc.streaming(
                    Method(|request: Request<Streaming<Bytes>>| async move {
                        Ok(Response::new(Box::pin(request.into_inner()) as Messages))
                    }),
                    request,
                )
                .await
            }
            "/test.Echo/Hang" => {
                let server = self.clone();
                grpc.unary(
                    Method(move |_: Request<Bytes>| {
                        let server = server.clone();
                        async move {
                            server.hanging.fetch_add(1, Ordering::SeqCst);
                            server.changed.notify_waiters();
                            let _hanging = Hanging(server.clone());
                            std::future::pending::<Result<Response<Bytes>, Status>>().await
                        }
                    }),
                    request,
                )
                .await
            }
            _ => http::Response::builder()
                .header("grpc-status", "12")
                .header("content-type", "application/grpc")
                .body(tonic::body::Body::empty())
                .unwrap(),
        }
    }

    /// On a thread of its own, whose tasks stay there.
    pub(super) async fn start() -> (Self, String) {
        let (server, listener) = (Self::default(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let serving = server.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, serving.serve(listener));
        });
        (server, url)
    }

    async fn serve(self, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let serving = self.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let answer = serving.clone().answer(request.map(tonic::body::Body::new));
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = hyper::server::conn::http2::Builder::new(SpawnLocal);
                // A client that goes away ends it.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    /// Calls that came with a deadline.
    pub(super) fn deadlines(&self) -> usize {
        self.timeouts.lock().unwrap().len()
    }

    pub(super) async fn until_hanging(&self, count: usize) {
        let look = || (self.hanging.load(Ordering::SeqCst) == count).then_some(());
        within(&format!("{count} hanging calls"), super::harness::until(&self.changed, look)).await;
    }
}

type Client = tonic::client::Grpc<Channel>;

async fn start(change: impl FnOnce(Config) -> Config) -> (Server, Armiger, Client) {
    let (server, url) = Server::start().await;
    let armiger = Armiger::with(change(Config::to_url(&url).upstream("protocol: h2c"))).await;
    let client = client(&armiger).await;
    (server, armiger, client)
}

async fn client(armiger: &Armiger) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", armiger.address())).unwrap();
    let channel = within("a channel", endpoint.connect()).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    within("the channel", client.ready()).await.unwrap();
    client
}

fn at(path: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(path)
}

async fn unary(client: &mut Client, path: &'static str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    client.ready().await.unwrap();
    within(path, client.unary(request, at(path), Plain)).await
}

fn request(bytes: impl Into<Bytes>) -> Request<Bytes> {
    Request::new(bytes.into())
}

#[tokio::test]
async fn unary_calls_carry_messages_metadata_and_every_status() {
    let (_, _armiger, mut client) = start(|config| config).await;
    for size in [0, 1, 100_000, 3_000_000] {
        let answer = unary(&mut client, "/test.Echo/Unary", request(vec![7; size])).await.unwrap();
        assert_eq!(answer.get_ref().len(), size);
    }
    let mut asked = request("hi");
    asked.metadata_mut().insert("x-told", "a word".parse().unwrap());
    asked.metadata_mut().insert_bin("x-told-bin", MetadataValue::from_bytes(&[0, 255, 10]));
    let answer = unary(&mut client, "/test.Echo/Unary", asked).await.unwrap();
    assert_eq!(answer.metadata().get("x-told").unwrap(), "a word");
    assert_eq!(answer.metadata().get_bin("x-told-bin").unwrap().to_bytes().unwrap(), [0, 255, 10][..]);
    for code in 1..=16 {
        let status = unary(&mut client, "/test.Echo/Fail", request(vec![code])).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::from(i32::from(code)), "weil ü und %"));
        assert_eq!(status.metadata().get("x-why").unwrap(), "because");
    }
}

#[tokio::test]
async fn streams_pass_message_by_message_both_ways() {
    let (_, _armiger, mut client) = start(|config| config).await;
    let answer = client.server_streaming(request(vec![50]), at("/test.Echo/Count"), Plain).await.unwrap();
    let mut messages = answer.into_inner();
    for number in 0..50 {
        assert_eq!(within("a message", messages.message()).await.unwrap().unwrap()[..], [number; 1000]);
    }
    let status = within("the status", messages.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "that was all"));

    client.ready().await.unwrap();
    let many = stream::iter((0..200).map(|size| Bytes::from(vec![1; size * 10])));
    let sum =
        within("the sum", client.client_streaming(Request::new(many), at("/test.Echo/Sum"), Plain)).await.unwrap();
    assert_eq!(sum.get_ref()[..], *b"199000");

    client.ready().await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let words =
        stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| Some((receiver.recv().await?, receiver)));
    let calling = client.streaming(Request::new(words), at("/test.Echo/Chat"), Plain);
    let mut chat = within("the head, before any message", calling).await.unwrap().into_inner();
    for word in ["one", "two", "three"] {
        sender.send(Bytes::from(word)).await.unwrap();
        assert_eq!(within("an echo", chat.next()).await.unwrap().unwrap(), word);
    }
    drop(sender);
    assert!(within("the end", chat.next()).await.is_none());
}

/// Whoever listens to a stream has nothing to say for hours.
#[tokio::test]
async fn a_caller_may_be_silent_in_its_own_stream() {
    let (_, _armiger, mut client) = start(|config| config.listener("timeouts: {body_idle: 200ms}")).await;
    let (sender, receiver) = mpsc::channel(1);
    let words =
        stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| Some((receiver.recv().await?, receiver)));
    let calling = client.streaming(Request::new(words), at("/test.Echo/Chat"), Plain);
    let mut chat = within("the head", calling).await.unwrap().into_inner();
    for word in ["one", "two"] {
        sender.send(Bytes::from(word)).await.unwrap();
        assert_eq!(within("an echo", chat.next()).await.unwrap().unwrap(), word);
        // The silence itself, several times what other bodies may pause.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    drop(sender);
    assert!(within("the end", chat.next()).await.is_none());
}

#[tokio::test]
async fn a_deadline_is_obeyed_shrunk_and_ends_the_call_behind() {
    let (server, armiger, mut client) = start(|config| config.route("timeout: 20s")).await;
    // tonic would keep the time itself.
    let call =
        http::Request::post("/test.Echo/Hang").header("content-type", "application/grpc").header("te", "trailers");
    let call = call.header("grpc-timeout", "150m").body(http_body_util::Full::from("\0\0\0\0\x02hi")).unwrap();
    let answer = armiger.connect_h2c().await.request(call).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "4"));
    server.until_hanging(0).await;
    let mut asked = request("hi");
    asked.metadata_mut().insert("grpc-timeout", "9S".parse().unwrap());
    unary(&mut client, "/test.Echo/Unary", asked).await.unwrap();
    let told = server.timeouts.lock().unwrap().clone();
    for (told, most) in told.iter().zip([150_000, 9_000_000]) {
        let micros: u64 = told.strip_suffix('u').expect("in microseconds").parse().unwrap();
        assert!(micros <= most && micros > most / 2, "{told} of {most}");
    }
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn the_routes_timeout_is_a_deadline_too() {
    let (server, _armiger, mut client) = start(|config| config.route("timeout: 200ms")).await;
    let status = unary(&mut client, "/test.Echo/Hang", request("hi")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    server.until_hanging(0).await;
    assert!(server.timeouts.lock().unwrap().is_empty(), "no deadline is made up for the service");
}

/// Nor does a caller that says nothing, of a service that waits for it, keep the call beyond that.
#[tokio::test]
async fn the_routes_timeout_bounds_a_caller_that_never_speaks() {
    let settings = |config: Config| config.listener("timeouts: {body_idle: 50ms}").route("timeout: 300ms");
    let (server, armiger, mut client) = start(settings).await;
    let silent = Request::new(stream::pending::<Bytes>());
    let status = client.streaming(silent, at("/test.Echo/Hang"), Plain).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    server.until_hanging(0).await;
    let line = armiger.logged(|line| line["grpc_status"] == "DEADLINE_EXCEEDED").await;
    assert!(line["duration"].as_f64().is_some_and(|took| took >= 0.3), "{line:#}");
}

#[tokio::test]
async fn a_client_that_cancels_ends_the_call_behind() {
    let (server, armiger, mut client) = start(|config| config).await;
    let call = tokio::spawn(async move { client.unary(request("hi"), at("/test.Echo/Hang"), Plain).await });
    server.until_hanging(1).await;
    call.abort();
    server.until_hanging(0).await;
    // It is a call for all that: one that ended without a status.
    armiger.logged(|line| line["grpc_status"] == "none" && line["status"] == 0).await;
}

#[tokio::test]
async fn an_answer_that_is_no_grpc_ends_a_call_without_a_status() {
    let page = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\ndown";
    let backend = Backend::raw(Script::new().request().write(page).hang()).await;
    let armiger = Armiger::with(Config::to(&backend)).await;
    let mut client = client(&armiger).await;
    unary(&mut client, "/test.Echo/Unary", request("hi")).await.unwrap_err();
    armiger.logged(|line| line["grpc_status"] == "none" && line["status"] == 503).await;
    let series = r#"armiger_grpc_calls_total{route="everything",status="none"}"#;
    armiger.until_metric(series, 1.0).await;
}

#[tokio::test]
async fn what_armiger_refuses_is_a_grpc_status() {
    let (_, url) = Server::start().await;
    let armiger =
        Armiger::with(Config::to_url(&url).upstream("protocol: h2c").and_url("nobody", "http://127.0.0.1:1").routes(
            r#"
            - {name: down, match: {path: /test.Down/Call}, proxy: {upstream: nobody}}
            - name: small
              match: {path: /test.Echo/Unary}
              policies: {body_limit: {max: 1KiB}}
              proxy: {upstream: app}
            - name: blocked
              match: {path: /test.Blocked/Call}
              policies: {ip_filter: {deny: ["127.0.0.0/8"]}}
              proxy: {upstream: app}
            "#,
        ))
        .await;
    let mut client = client(&armiger).await;
    for (path, size, code) in [
        ("/test.Nowhere/Call", 1, Code::Unimplemented),
        ("/test.Down/Call", 1, Code::Unavailable),
        ("/test.Blocked/Call", 1, Code::PermissionDenied),
        ("/test.Echo/Unary", 5000, Code::ResourceExhausted),
    ] {
        let status = unary(&mut client, path, request(vec![0; size])).await.unwrap_err();
        assert_eq!(status.code(), code, "{path}: {status}");
    }
}

#[tokio::test]
async fn who_proves_nothing_is_unauthenticated_and_who_may_not_is_denied() {
    let staff = format!(
        "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}}}"
    );
    let (_, _armiger, mut client) =
        start(|config| config.top(&staff).policies("identity: {providers: [staff]}\nroles: {any: [clerk]}")).await;
    let token = |roles: &[&str]| {
        let token = Signer::secret("HS256").token(&claims(serde_json::json!({ "roles": roles })));
        Some(format!("Bearer {token}"))
    };
    for (authorization, code) in [
        (None, Code::Unauthenticated),
        (Some("Bearer a.b.c".to_owned()), Code::Unauthenticated),
        (token(&["guest"]), Code::PermissionDenied),
        (token(&["clerk"]), Code::Ok),
    ] {
        let mut asked = request("hi");
        if let Some(text) = &authorization {
            asked.metadata_mut().insert("authorization", text.parse().unwrap());
        }
        let told =
            unary(&mut client, "/test.Echo/Unary", asked).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(told, code, "{authorization:?}");
    }
}

#[tokio::test]
async fn statuses_are_counted_and_a_failure_is_one_in_the_log() {
    let (_, armiger, mut client) = start(|config| config).await;
    unary(&mut client, "/test.Echo/Unary", request("hi")).await.unwrap();
    unary(&mut client, "/test.Echo/Fail", request(vec![13])).await.unwrap_err();
    client.ready().await.unwrap();
    let answer = client.server_streaming(request(vec![1]), at("/test.Echo/Count"), Plain).await.unwrap();
    let mut messages = answer.into_inner();
    while let Ok(Some(_)) = within("a message", messages.message()).await {}
    // Whoever makes up names makes no series.
    for path in ["/test.Echo/Made", "/made.Up/Up"] {
        unary(&mut client, path, request("")).await.unwrap_err();
    }
    for (status, count) in [("OK", 1.0), ("INTERNAL", 1.0), ("OUT_OF_RANGE", 1.0), ("UNIMPLEMENTED", 2.0)] {
        armiger.logged(|line| line["grpc_status"] == status && line["status"] == 200).await;
        let series = format!(r#"armiger_grpc_calls_total{{route="everything",status="{status}"}}"#);
        within(&series, async {
            while armiger.metric(&series).await != count {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
        .await;
    }
    for (service, method, status, count) in [
        ("test.Echo", "Unary", "OK", 1.0),
        ("test.Echo", "Fail", "INTERNAL", 1.0),
        ("test.Echo", "Count", "OUT_OF_RANGE", 1.0),
        ("other", "other", "UNIMPLEMENTED", 2.0),
    ] {
        let labels = format!(r#"{{method="{method}",service="{service}",status="{status}"}}"#);
        armiger.until_metric(&format!("armiger_grpc_method_calls_total{labels}"), count).await;
    }
    let metrics = armiger.admin().get("/metrics").await;
    assert!(!metrics.text().contains("Made") && !metrics.text().contains("made.Up"));
}
