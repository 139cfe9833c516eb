//! Forwarding: what of a request reaches the back end, what of its answer reaches the client, and when.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame};

use crate::harness::{
    Answer, Armiger, Backend, Broken, Config, Connection, Reader, Script, Signal, answer, streamed, within,
};

/// A request without a body.
fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

/// An upstream `app` whose endpoints are these.
fn to_all(backends: &[&Backend]) -> Config {
    let urls: Vec<String> = backends.iter().map(|backend| backend.url()).collect();
    Config::to_url(&urls.join("\", \""))
}

fn with_headers(mut answer: Answer, headers: &[(&'static str, &'static str)]) -> Answer {
    for (name, value) in headers {
        answer.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    answer
}

/// Waits until a metric has a value.
async fn metric_becomes(armiger: &Armiger, series: &str, value: f64) {
    let reached = async { while armiger.metric(series).await != value {} };
    within(&format!("{series} to become {value}"), reached).await;
}

// === what is forwarded ===

#[tokio::test]
async fn method_target_and_body_reach_the_backend_whatever_they_are() {
    let backend = Backend::with(|seen| answer(200, seen.method.clone())).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut connection = armiger.connect().await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
        let body = if method == "GET" { "" } else { "a body" };
        let sent = Request::builder().method(method).uri("/a/b?c=d&e=%20&f").body(Full::new(Bytes::from(body)));
        let response = connection.request(sent.unwrap()).await;

        assert_eq!(response.assert_status(200).text(), method);
        let seen = backend.requests().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, "/a/b?c=d&e=%20&f"));
        assert_eq!(seen.body, body.as_bytes());
    }
}

#[tokio::test]
async fn status_headers_and_body_of_the_answer_reach_the_client() {
    let backend = Backend::with(|_| {
        with_headers(answer(418, "short and stout"), &[("x-a", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=2")])
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger.get("/").await;

    response.assert_status(418).assert_header("x-a", "1");
    assert_eq!(response.text(), "short and stout");
    let cookies: Vec<_> = response.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}

#[tokio::test]
async fn an_error_of_the_backend_is_passed_and_not_replaced() {
    let backend = Backend::with(|_| answer(503, "down for tea")).await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger.get("/").await;

    assert_eq!(response.assert_status(503).text(), "down for tea");
    response.assert_no_header("proxy-status");
}

#[tokio::test]
async fn the_path_is_forwarded_in_its_one_form_and_the_query_as_it_came() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    for (sent, forwarded) in [
        ("/a//b/./c/../d", "/a/b/d"),
        ("/%61%7Eb", "/a~b"),
        ("/a%2fb/../c", ""),
        ("/a%20b?x=%2F..%2F&y=a//b&", "/a%20b?x=%2F..%2F&y=a//b&"),
        ("/a?", "/a?"),
        ("/", "/"),
    ] {
        let response = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;

        if forwarded.is_empty() {
            response.assert_problem(400, "bad-path");
        } else {
            response.assert_status(200);
            assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
        }
    }
}

// === streaming ===

#[tokio::test]
async fn the_first_chunk_arrives_before_the_second_is_sent_both_ways() {
    for client_is_h2 in [false, true] {
        let backend = Backend::echo().await;
        let armiger = Armiger::proxying(&backend).await;
        let mut connection = if client_is_h2 { armiger.connect_h2c().await } else { armiger.connect().await };
        let (sender, body) = streamed(200);

        let mut response = connection.open(Request::post("/").body(body.into_body()).unwrap()).await.unwrap();
        for chunk in ["one", "two", "three"] {
            sender.data(chunk).await;
            let echoed = within("the chunk to come back", response.body_mut().frame()).await.unwrap().unwrap();
            assert_eq!(echoed.into_data().unwrap(), chunk);
        }
        drop(sender);

        let rest = within("the end of the answer", response.into_body().collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), "");
        assert_eq!(backend.only().await.body, b"onetwothree");
    }
}

const PIECE: u64 = 64 * 1024;
const WHOLE: u64 = 64 << 20;

/// What may be on its way between a producer and a reader that stopped: socket buffers of two connections, at the most
/// that Linux lets them grow, and a few reads of armiger's.
const ON_THE_WAY_MAX: u64 = 32 << 20;

/// A body of [`WHOLE`] bytes that tells how many were taken from it.
struct Produced {
    left: u64,
    taken: Arc<AtomicU64>,
}

impl Produced {
    fn new(taken: &Arc<AtomicU64>) -> Self {
        Self { left: WHOLE, taken: taken.clone() }
    }
}

impl Body for Produced {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= PIECE;
        self.taken.fetch_add(PIECE, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS)))))
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_producer_and_nobody_else() {
    let counters: [Arc<AtomicU64>; 2] = Default::default();
    let taken = counters.clone();
    let backend = Backend::serving(move |request| {
        let which = usize::from(request.uri().path() == "/other");
        let body = Produced::new(&taken[which]).boxed_unsync();
        async move { Response::new(body) }
    })
    .await;
    for protocol in ["http1", "h2c"] {
        counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
        let armiger = Armiger::with(Config::to(&backend).upstream(&format!("protocol: {protocol}"))).await;

        let mut stopped = armiger.connect().await;
        let mut unread = stopped.open(request("GET", "/", &[])).await.unwrap().into_body();
        // Whoever buffers for the first takes as much for it in the time that this takes.
        let mut other = armiger.connect().await;
        let mut body = other.open(request("GET", "/other", &[])).await.unwrap().into_body();
        let mut read = 0;
        while let Some(frame) = within("more of the other answer", body.frame()).await {
            read += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
        }

        assert_eq!(read, WHOLE, "{protocol}");
        let taken = counters[0].load(Ordering::Relaxed);
        assert!(taken < ON_THE_WAY_MAX, "{protocol}: {taken} bytes were taken for a client that reads nothing");
        let mut read = 0;
        while let Some(frame) = within("more of the first answer", unread.frame()).await {
            read += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
        }
        assert_eq!(read, WHOLE, "{protocol}");
    }
}

#[tokio::test]
async fn a_backend_that_stops_reading_stops_the_client() {
    let signal = Signal::new();
    let wait = signal.clone();
    let backend = Backend::serving(move |request| {
        let wait = wait.clone();
        async move {
            if request.uri().path() == "/stopped" {
                wait.wait().await;
            }
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            answer(200, "read")
        }
    })
    .await;
    let limits = "limits: {body_max: 1GiB}";
    let armiger = Armiger::with(Config::to(&backend).listener(limits)).await;
    let (stopped_taken, other_taken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));

    let sent = Request::post("/stopped").body(Produced::new(&stopped_taken)).unwrap();
    let mut stopped = armiger.connect().await;
    let stopped = tokio::spawn(async move { stopped.request(sent).await });
    backend.arrived(1).await;
    let other = armiger.request(Request::post("/other").body(Produced::new(&other_taken)).unwrap()).await;

    other.assert_status(200);
    let taken = stopped_taken.load(Ordering::Relaxed);
    assert!(taken < ON_THE_WAY_MAX, "{taken} bytes were taken from a client whose back end reads nothing");
    signal.send();
    within("the stopped upload to go on", stopped).await.unwrap().assert_status(200);
    assert_eq!(backend.requests()[0].body_bytes, WHOLE);
}

#[tokio::test]
async fn trailers_pass_both_ways_on_http1() {
    let script = Script::new().request().write(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-down\r\n\r\n2\r\nok\r\n0\r\nx-down: 2\r\n\r\n",
    );
    let backend = Backend::raw(script.again()).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger
        .raw(
            "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-up\r\n\r\n\
             2\r\nhi\r\n0\r\nx-up: 1\r\n\r\n",
        )
        .await;
    let response = conversation.answer().await;

    assert_eq!(response.assert_status(200).text(), "ok");
    assert_eq!(response.trailers["x-down"], "2");
    let seen = backend.only().await;
    assert_eq!((seen.body.as_slice(), &seen.trailers["x-up"]), (&b"hi"[..], &HeaderValue::from_static("1")));
    // Trailers are an end like any other: for the log, and for the connection that they came by.
    assert_eq!(armiger.logged(|line| line["method"] == "POST").await["complete"], true);
    conversation.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    conversation.answer().await.assert_status(200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn trailers_are_announced_only_where_they_can_follow() {
    let script = Script::new().request().write(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-down\r\n\r\n2\r\nok\r\n0\r\nx-down: 2\r\nx-other: 3\r\n\r\n",
    );
    let backend = Backend::raw(script.again()).await;
    let armiger = Armiger::proxying(&backend).await;

    // A client that does not say that it reads them, and a request without a body.
    let response = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\ntrailer: x-up\r\n\r\n").await.answer().await;
    assert_eq!(response.assert_status(200).assert_no_header("trailer").text(), "ok");
    assert!(response.trailers.is_empty(), "{response:#?}");
    assert!(!backend.only().await.has("trailer"));
    // Nobody announced the other one.
    let response = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n").await.answer().await;
    assert_eq!(response.assert_header("trailer", "x-down").trailers.len(), 1, "{response:#?}");
}

#[tokio::test]
async fn armiger_invents_no_server() {
    let backend = Backend::with(|seen| {
        let mut answer = answer(200, "ok");
        if seen.target == "/named" {
            answer.headers_mut().insert("server", HeaderValue::from_static("back end"));
        }
        answer
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).routes(
        "
        - {name: back, match: {path: \"/{rest...}\"}, proxy: {upstream: app}}
        - {name: own, match: {path: /own}, respond: {body: hi}}
        - {name: elsewhere, match: {path: /elsewhere}, redirect: {to: /own}}
        ",
    ))
    .await;
    for path in ["/", "/own", "/elsewhere", "/%00"] {
        armiger.get(path).await.assert_no_header("server");
        armiger.connect_h2c().await.get(path).await.assert_no_header("server");
    }
    armiger.get("/named").await.assert_header("server", "back end");
}

#[tokio::test]
async fn trailers_pass_both_ways_on_http2() {
    let backend = Backend::echo().await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;
    let (sender, body) = streamed(200);
    let mut connection = armiger.connect_h2c().await;

    let sent = Request::post("/").header("te", "trailers").body(body.into_body()).unwrap();
    let mut response = connection.open(sent).await.unwrap();
    sender.data("data").await;
    let first = within("the data", response.body_mut().frame()).await.unwrap().unwrap();
    // What it may not say in a header it may not say behind the body.
    let said =
        ["x-forwarded-for", "x_forwarded_for", "forwarded", "x-real-ip", "authorization", "cookie", "via", "x-sum"];
    sender.trailers(said.map(|name| (name.parse().unwrap(), "7".parse().unwrap())).into_iter().collect()).await;
    drop(sender);
    let last = within("the trailers", response.body_mut().frame()).await.unwrap().unwrap();

    assert_eq!(first.into_data().unwrap(), "data");
    assert_eq!(last.trailers_ref().unwrap()["x-sum"], "7");
    let seen = backend.only().await;
    assert_eq!((seen.version, &seen.trailers["x-sum"]), (Version::HTTP_2, &HeaderValue::from_static("7")));
    assert_eq!(seen.trailers.len(), 1, "{:?}", seen.trailers);
    assert_eq!(seen.header("te"), "trailers");
}

// === Expect: 100-continue ===

#[tokio::test]
async fn a_100_is_sent_when_the_body_will_be_read() {
    let backend = Backend::replies("thanks").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation =
        armiger.raw("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    conversation.answer().await.assert_status(100);
    conversation.write("body").await;
    let response = conversation.answer().await;

    assert_eq!(response.assert_status(200).text(), "thanks");
    let seen = backend.only().await;
    assert_eq!(seen.body, b"body");
    assert!(!seen.has("expect"), "each hop has an expectation of its own");
}

#[tokio::test]
async fn no_100_is_sent_where_the_request_is_refused() {
    let backend = Backend::replies("never").await;
    for (policy, status, slug) in
        [("body_limit: {max: 3B}", 413, "body-too-large"), ("ip_filter: {deny: [127.0.0.0/8]}", 403, "address-blocked")]
    {
        let armiger = Armiger::with(Config::to(&backend).policies(policy)).await;

        let mut conversation =
            armiger.raw("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;

        conversation.answer().await.assert_problem(status, slug);
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn no_100_is_sent_where_the_upstream_cannot_be_reached() {
    let mut backend = Backend::replies("never").await;
    let armiger = Armiger::proxying(&backend).await;
    backend.stop();

    let mut conversation =
        armiger.raw("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;

    conversation.answer().await.assert_problem(502, "upstream-connect");
}

// === answers without a body ===

#[tokio::test]
async fn a_head_request_gets_the_headers_of_a_get_and_no_body() {
    let backend = Backend::replies("0123456789").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = conversation.answer_to_head().await;
    conversation.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;

    head.assert_status(200).assert_header("content-length", "10").assert_no_header("transfer-encoding");
    assert_eq!(conversation.answer().await.text(), "0123456789");
    assert_eq!(backend.requests()[0].method, "HEAD");
}

#[tokio::test]
async fn a_204_and_a_304_have_no_body_and_the_connection_goes_on() {
    for head in ["204 No Content\r\n", "304 Not Modified\r\netag: \"a\"\r\n"] {
        let script = Script::new().request().write(format!("HTTP/1.1 {head}\r\n")).again();
        let backend = Backend::raw(script).await;
        let armiger = Armiger::proxying(&backend).await;

        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut conversation = armiger.raw(get).await;
        for _ in 0..2 {
            let response = conversation.answer().await;
            assert_eq!(response.status.to_string(), head[..3]);
            response.assert_no_header("transfer-encoding").assert_no_header("content-length");
            assert_eq!(response.headers.contains_key("etag"), response.status == 304);
            conversation.write(get).await;
        }

        conversation.answer().await;
        assert_eq!(backend.connections(), 1);
    }
}

// === versions and connections ===

#[tokio::test]
async fn an_http10_client_gets_an_answer_that_ends_with_the_connection() {
    let backend = Backend::with(|_| {
        let (chunks, answer) = streamed(200);
        tokio::task::spawn_local(async move {
            chunks.data("of unknown ").await;
            chunks.data("length").await;
        });
        answer
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\n\r\n"] {
        let mut conversation = armiger.raw(request).await;
        let response = conversation.answer().await;

        response.assert_status(200).assert_no_header("transfer-encoding");
        assert_eq!(response.text(), "of unknown length");
        conversation.assert_closed().await;
    }
    assert!(backend.requests().iter().all(|seen| seen.version == Version::HTTP_11));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut first = armiger.connect().await;
    for _ in 0..5 {
        first.get("/").await.assert_status(200).assert_no_header("connection");
    }
    let mut second = armiger.connect().await;
    second.post("/", "a body").await.assert_status(200);

    assert_eq!((backend.connections(), backend.count()), (1, 6));
    assert_eq!(armiger.metric("armiger_upstream_connections_reused_total{upstream=\"app\"}").await, 5.0);
    assert_eq!(armiger.metric("armiger_listener_connections_accepted_total{listener=\"http\"}").await, 2.0);
}

#[tokio::test]
async fn the_connection_used_last_is_used_first() {
    let signals = [Signal::new(), Signal::new()];
    let waits = signals.clone();
    let backend = Backend::serving(move |request| {
        let wait = match request.uri().path() {
            "/0" => Some(waits[0].clone()),
            "/1" => Some(waits[1].clone()),
            _ => None,
        };
        async move {
            if let Some(wait) = wait {
                wait.wait().await;
            }
            answer(200, "ok")
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {idle: 60s}")).await;

    let mut clients = [armiger.connect().await, armiger.connect().await];
    let [first, second] = &mut clients;
    let (one, other) = tokio::join!(first.get("/0"), async {
        backend.arrived(1).await;
        let second = second.get("/1");
        let release = async {
            backend.arrived(2).await;
            signals[0].send();
            metric_becomes(&armiger, "armiger_upstream_connections{state=\"idle\",upstream=\"app\"}", 1.0).await;
            signals[1].send();
        };
        tokio::join!(second, release).0
    });
    one.assert_status(200);
    other.assert_status(200);
    metric_becomes(&armiger, "armiger_upstream_connections{state=\"idle\",upstream=\"app\"}", 2.0).await;
    for _ in 0..3 {
        clients[0].get("/").await.assert_status(200);
        metric_becomes(&armiger, "armiger_upstream_connections{state=\"idle\",upstream=\"app\"}", 2.0).await;
    }

    let used: Vec<usize> = backend.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(used, [0, 1, 1, 1, 1]);
}

#[tokio::test]
async fn streams_of_an_http2_client_are_served_at_the_same_time() {
    let signal = Signal::new();
    let wait = signal.clone();
    let backend = Backend::serving(move |request| {
        let wait = (request.uri().path() == "/slow").then(|| wait.clone());
        async move {
            if let Some(wait) = wait {
                wait.wait().await;
            }
            answer(200, "ok")
        }
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let mut slow = armiger.connect_h2c().await;
    let mut quick = slow.share();
    let (slow, quick) = tokio::join!(slow.get("/slow"), async {
        backend.arrived(1).await;
        let quick = quick.get("/quick").await;
        signal.send();
        quick
    });

    assert_eq!((slow.status, slow.version), (200, Version::HTTP_2));
    assert_eq!(quick.status, 200);
    assert_eq!(backend.requests()[0].version, Version::HTTP_11);
    assert_eq!(armiger.metric("armiger_listener_connections_accepted_total{listener=\"http\"}").await, 1.0);
}

#[tokio::test]
async fn an_h2c_upstream_gets_many_requests_on_one_connection() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;

    let mut clients: Vec<Connection> = Vec::new();
    for _ in 0..3 {
        clients.push(armiger.connect().await);
    }
    for client in &mut clients {
        let sent = Request::post("/a?b=c").header("host", "shop.example.com").body(Full::new(Bytes::from("body")));
        client.request(sent.unwrap()).await.assert_status(200);
    }

    for seen in backend.received(3).await {
        assert_eq!((seen.version, seen.method.as_str(), seen.target.as_str()), (Version::HTTP_2, "POST", "/a?b=c"));
        assert_eq!((seen.header("host"), seen.body.as_slice()), ("shop.example.com", &b"body"[..]));
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_upstream_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut reader = Reader::new(stream);
        let head = reader.head().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nunix";
        tokio::io::AsyncWriteExt::write_all(reader.stream(), answer).await.unwrap();
        head
    });
    let armiger = Armiger::with(Config::to_url(&format!("unix:{}", path.display()))).await;

    let response = armiger.request(request("GET", "/x", &[("host", "shop.example.com")])).await;

    assert_eq!(response.assert_status(200).text(), "unix");
    let head = within("the back end", served).await.unwrap();
    assert_eq!(head.line, "GET /x HTTP/1.1");
    assert_eq!(head.headers["host"], "shop.example.com");
}

#[tokio::test]
async fn several_endpoints_share_the_requests_in_turn() {
    let backends = [Backend::replies("a").await, Backend::replies("b").await, Backend::replies("c").await];
    let config = to_all(&[&backends[0], &backends[1], &backends[2]]).upstream("balance: round_robin");
    let armiger = Armiger::with(config).await;

    let mut connection = armiger.connect().await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(connection.get("/").await.text().to_owned());
    }

    assert_eq!(answers[..3], answers[3..]);
    assert!(backends.iter().all(|backend| backend.count() == 2), "{answers:?}");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let (mut gone, there) = (Backend::replies("gone").await, Backend::replies("there").await);
    let armiger = Armiger::with(to_all(&[&gone, &there])).await;
    gone.stop();

    for _ in 0..4 {
        // A POST too: nothing of it was sent.
        assert_eq!(armiger.post("/", "body").await.assert_status(200).text(), "there");
    }
}

#[tokio::test]
async fn several_workers_share_the_connections() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with_workers(3, Config::to(&backend)).await;

    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = armiger.connect().await;
        client.get("/").await.assert_status(200);
        clients.push(client);
    }

    // Each worker has connections of its own to the upstream, and one serves all that its clients ask in turn.
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn the_last_request_that_a_connection_may_carry_closes_it() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {requests_max: 2}")).await;

    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut conversation = armiger.raw([get, get, get].concat()).await;

    conversation.answer().await.assert_status(200).assert_no_header("connection");
    conversation.answer().await.assert_status(200).assert_header("connection", "close");
    conversation.assert_closed().await;
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn the_last_request_that_an_http2_connection_may_carry_closes_it() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {requests_max: 2}")).await;

    let mut connection = armiger.connect_h2c().await;
    connection.get("/").await.assert_status(200);
    connection.get("/").await.assert_status(200);

    connection.closed().await;
}

#[tokio::test]
async fn a_client_that_asks_to_close_is_obeyed() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;

    conversation.answer().await.assert_status(200).assert_header("connection", "close");
    conversation.assert_closed().await;
    armiger.get("/").await.assert_status(200);
    assert_eq!(backend.connections(), 1, "the upstream's connection is not the client's to close");
}

// === the host ===

#[tokio::test]
async fn the_host_is_kept_or_the_endpoints_or_a_literal_one() {
    for upstream in ["protocol: http1", "protocol: h2c"] {
        let backend = Backend::replies("ok").await;
        let endpoint = backend.address().to_string();
        for (host, expected) in [
            ("", "shop.example.com"),
            (", host: preserve", "shop.example.com"),
            (", host: upstream", endpoint.as_str()),
            (", host: {literal: \"app.internal:8080\"}", "app.internal:8080"),
        ] {
            let route = format!("- {{name: all, match: {{path: \"/{{rest...}}\"}}, proxy: {{upstream: app{host}}}}}");
            let armiger = Armiger::with(Config::to(&backend).upstream(upstream).routes(&route)).await;

            armiger.request(request("GET", "/", &[("host", "shop.example.com")])).await.assert_status(200);

            let seen = backend.requests().pop().unwrap();
            assert_eq!(seen.header("host"), expected, "{upstream}{host}");
            assert_eq!(seen.header("x-forwarded-host"), "shop.example.com", "{upstream}{host}");
        }
    }
}

#[tokio::test]
async fn an_absolute_target_counts_and_not_the_host_beside_it() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET http://real.example.com/a?b HTTP/1.1\r\nhost: other\r\n\r\n").await;

    conversation.answer().await.assert_status(200);
    let seen = backend.only().await;
    assert_eq!((seen.target.as_str(), seen.header("host")), ("/a?b", "real.example.com"));
}

// === rewrites ===

#[tokio::test]
async fn a_rewritten_path_has_the_matchs_parameters_and_the_query() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - {name: order, match: {path: \"/orders/{id}/{part}\"}, proxy: {upstream: app, rewrite: \"/v2/{part}/of/{id}\"}}
        - {name: files, match: {path: \"/files/{rest...}\"}, proxy: {upstream: app, rewrite: \"/{rest}\"}}
        - {name: fixed, match: {path_prefix: /old}, proxy: {upstream: app, rewrite: /new}}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (sent, forwarded) in [
        ("/orders/7/items?x=1&x=2", "/v2/items/of/7?x=1&x=2"),
        ("/orders/a%20b/%C3%BC", "/v2/%C3%BC/of/a%20b"),
        ("/files/a/b/c.txt", "/a/b/c.txt"),
        ("/files/", "/"),
        ("/files/a/../b?q", "/b?q"),
        ("/old/anything?a=/../b", "/new?a=/../b"),
    ] {
        armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await.assert_status(200);

        assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
    }
}

/// What a client sends never chooses another path than the one that the rewrite says.
#[tokio::test]
async fn a_rewrite_never_climbs_by_what_a_client_sent() {
    let backend = Backend::replies("ok").await;
    let routes = "
        - {name: one, match: {path: \"/one/{id}\"}, proxy: {upstream: app, rewrite: \"/v1/{id}/open\"}}
        - name: cut
          match: {path_regex: \"/cut(?<a>[^/]*)/(?<b>.*)\"}
          proxy: {upstream: app, rewrite: \"/v1/{a}/.{b}\"}
        - name: slash
          match: {path_regex: \"/slash/(?<a>.)(?<b>..)(?<c>.*)\"}
          proxy: {upstream: app, rewrite: \"/v1/{a}2F{c}\"}
        - name: dots
          match: {path_regex: \"/dots/(?<a>.)(?<b>..)(?<c>.*)\"}
          proxy: {upstream: app, rewrite: \"/v1/{a}2e{a}2E/{c}\"}
    ";
    let armiger = Armiger::with(Config::to(&backend).routes(routes)).await;

    for (sent, answer) in [
        ("/one/%2e%2e", 404),
        ("/one/..", 404),
        ("/one/..%2fx", 400),
        ("/cut../x", 400),
        ("/cut%2e%2E/x", 400),
        ("/cut./x", 400),
        ("/cuta/.", 400),
        // Put together of two that are harmless.
        ("/slash/%3Bx", 400),
        ("/dots/%3Bx", 400),
    ] {
        let answered = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;
        answered.assert_status(answer);
    }
    assert!(backend.requests().is_empty());
    for (sent, forwarded) in [("/one/..a", "/v1/..a/open"), ("/cutb/c", "/v1/b/.c"), ("/cut/c", "/v1/.c")] {
        let answered = armiger.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\n\r\n")).await.answer().await;
        answered.assert_status(200);
        assert_eq!(backend.requests().pop().unwrap().target, forwarded, "{sent}");
    }
}

// === headers of the hop ===

#[tokio::test]
async fn the_backend_is_told_who_asked_and_how() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let response = armiger
        .request(request(
            "GET",
            "/",
            &[
                ("host", "shop.example.com"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-prefix", "/x"),
                ("x_forwarded_for", "192.0.2.2"),
                ("forwarded", "for=192.0.2.3"),
                ("x-real-ip", "192.0.2.4"),
                ("true-client-ip", "192.0.2.5"),
            ],
        ))
        .await;

    response.assert_status(200).assert_header("via", "1.1 armiger");
    let seen = backend.only().await;
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-host"), "shop.example.com");
    assert_eq!(seen.header("x-forwarded-port"), armiger.address().port().to_string());
    assert_eq!(seen.header("via"), "1.1 armiger");
    for name in ["x-forwarded-prefix", "x_forwarded_for", "forwarded", "x-real-ip", "true-client-ip"] {
        assert!(!seen.has(name), "{name} of a client that nobody trusts: {seen:#?}");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_added_to() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.0/8]")).await;

    let sent = [
        ("host", "inner"),
        ("x-forwarded-for", "192.0.2.1, 192.0.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example.com"),
        ("via", "1.0 edge"),
    ];
    armiger.request(request("GET", "/", &sent)).await.assert_status(200);

    let seen = backend.only().await;
    assert_eq!(seen.header("x-forwarded-for"), "192.0.2.1, 192.0.2.2, 127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "https");
    assert_eq!(seen.header("x-forwarded-host"), "shop.example.com");
    let via: Vec<_> = seen.headers.get_all("via").iter().collect();
    assert_eq!(via, ["1.0 edge", "1.1 armiger"]);
}

#[tokio::test]
async fn a_listener_that_reads_forwarded_writes_it_too() {
    let backend = Backend::replies("ok").await;
    let reads = "client_address: {header: forwarded}\ntrusted_proxies: ";
    let host = ("host", "Shop.example.com:8080");
    let own = "for=127.0.0.1;proto=http;host=\"Shop.example.com:8080\"";
    for (listener, sent, told) in [
        // Of one that is trusted the list goes on.
        (
            format!("{reads}[127.0.0.0/8]"),
            "for=192.0.2.1;proto=https",
            Some(format!("for=192.0.2.1;proto=https, {own}")),
        ),
        (format!("{reads}[127.0.0.0/8]"), "for=192.0.2.1;proto=http", Some(format!("for=192.0.2.1;proto=http, {own}"))),
        (format!("{reads}[127.0.0.0/8]"), "", Some(own.to_owned())),
        // What nobody can read to its end would swallow what is written behind it.
        (format!("{reads}[127.0.0.0/8]"), "for=\"x, for=192.0.2.1", Some(format!("for=192.0.2.1, {own}"))),
        // A stranger's goes first.
        (format!("{reads}[10.0.0.0/8]"), "for=192.0.2.1", Some(own.to_owned())),
        // Reading and writing are two things.
        (format!("forwarded: false\n{reads}[127.0.0.0/8]"), "for=192.0.2.1", Some("for=192.0.2.1".to_owned())),
        ("forwarded: true".to_owned(), "for=192.0.2.1", Some(own.to_owned())),
        ("forwarded: true\ntrusted_proxies: [127.0.0.0/8]".to_owned(), "for=192.0.2.1", Some(own.to_owned())),
        (String::new(), "for=192.0.2.1", None),
    ] {
        let armiger = Armiger::with(Config::to(&backend).listener(&listener)).await;
        let headers = [host, ("forwarded", sent), ("x-forwarded-proto", "https")];
        armiger.request(request("GET", "/", &headers[..])).await.assert_status(200);

        let seen = backend.requests().pop().unwrap();
        let lines: Vec<_> = seen.headers.get_all("forwarded").iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(lines, Vec::from_iter(told.as_deref()), "{listener}: {sent}");
        // Back ends that know the other headers still have them.
        assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1", "{listener}");
        assert_eq!(seen.header("x-forwarded-host"), "Shop.example.com:8080", "{listener}");
        // By `Forwarded`, where it tells; `X-Forwarded-Proto` may be the client's own.
        let is_kept = listener.contains("[127.0.0.0/8]") && !sent.ends_with("proto=http");
        let proto = if is_kept || sent.contains("proto=https") { "https" } else { "http" };
        assert_eq!(seen.header("x-forwarded-proto"), proto, "{listener}");
    }
}

#[tokio::test]
async fn via_has_the_version_and_a_name_of_choice_or_is_off() {
    let backend = Backend::replies("ok").await;
    for (via, expected) in [("via: edge-7", Some("2 edge-7")), ("via: \"off\"", None)] {
        let armiger = Armiger::with(Config::to(&backend).listener(via)).await;

        let response = armiger.connect_h2c().await.get("/").await;

        let seen = backend.requests().pop().unwrap();
        assert_eq!(seen.headers.get("via").map(|via| via.to_str().unwrap()), expected);
        // The answer came by HTTP/1.1.
        assert_eq!(response.headers.get("via").map(|via| via.to_str().unwrap()), expected.map(|_| "1.1 edge-7"),);
    }

    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;
    armiger.get("/").await.assert_status(200).assert_header("via", "2 armiger");
}

#[tokio::test]
async fn a_request_that_has_been_here_before_is_refused() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("via: edge-7")).await;

    let response = armiger.request(request("GET", "/", &[("via", "1.1 edge, 1.1 edge-7")])).await;

    response.assert_problem(508, "loop-detected");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_gateway_and_a_sidecar_are_no_loop_and_a_loop_is_one() {
    let backend = Backend::replies("ok").await;
    let sidecar = Armiger::proxying(&backend).await;
    let gateway = Armiger::with(Config::to_url(&format!("http://{}", sidecar.address()))).await;

    gateway.get("/").await.assert_status(200);
    assert_eq!(backend.only().await.headers.get_all("via").iter().count(), 2);

    let round_and_round = ["1.1 armiger"; 8].join(", ");
    gateway.request(request("GET", "/", &[("via", &round_and_round)])).await.assert_problem(508, "loop-detected");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn what_belongs_to_a_hop_ends_with_it() {
    let backend = Backend::raw(Script::new().request().write(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\n\
         proxy-authenticate: Basic\r\nx-end: 2\r\n\r\nok",
    ))
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger
        .raw(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-own, authorization, x-forwarded-for\r\nx-own: 1\r\n\
             keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authorization: Basic eA==\r\nte: gzip\r\n\
             upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\nauthorization: Bearer x\r\nx-end: 1\r\n\r\n",
        )
        .await;
    let response = conversation.answer().await;

    let seen = backend.only().await;
    for name in [
        "x-own",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        assert!(!seen.has(name), "{name} of the client reached the back end: {}", seen.head_text());
    }
    assert_eq!(seen.header("authorization"), "Bearer x", "`connection` cannot take this one away");
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1", "`connection` cannot take this one away");
    assert_eq!(seen.header("x-end"), "1");
    response.assert_status(200).assert_header("x-end", "2");
    for name in ["x-mine", "keep-alive", "proxy-authenticate", "connection"] {
        response.assert_no_header(name);
    }
}

#[tokio::test]
async fn cookie_crumbs_of_http2_become_one_line() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let sent = request("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    armiger.connect_h2c().await.request(sent).await.assert_status(200);

    assert_eq!(backend.only().await.header("cookie"), "a=1; b=2; c=3");
}

// === actions without an upstream ===

#[tokio::test]
async fn a_fixed_answer_is_as_the_file_has_it() {
    let routes = "
        - name: text
          match: {path: /text}
          respond: {body: \"hello\\n\"}
        - name: json
          match: {path: /json}
          respond: {status: 203, content_type: application/json, body: '{\"a\": 1}', headers: {x-a: one}}
        - {name: page, match: {path: /page}, respond: {body: p, headers: {content-type: text/html}}}
        - {name: empty, match: {path: /empty}, respond: {status: 204}}
    ";
    let armiger = Armiger::with(Config::empty().routes(routes)).await;

    let text = armiger.get("/text").await;
    assert_eq!(text.assert_status(200).assert_header("content-type", "text/plain; charset=utf-8").text(), "hello\n");
    let json = armiger.get("/json").await;
    json.assert_status(203).assert_header("content-type", "application/json").assert_header("x-a", "one");
    assert_eq!(json.json()["a"], 1);
    let page = armiger.get("/page").await;
    let kinds: Vec<_> = page.headers.get_all("content-type").iter().collect();
    assert_eq!(kinds, ["text/html"], "in place of the default");
    let empty = armiger.raw("GET /empty HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await;
    empty.assert_status(204).assert_no_header("content-length").assert_no_header("content-type");
    let mut head = armiger.raw("HEAD /text HTTP/1.1\r\nhost: a\r\n\r\n").await;
    head.answer_to_head().await.assert_status(200).assert_header("content-length", "6");
}

#[tokio::test]
async fn an_answer_of_armigers_own_leaves_no_body_unread_between_requests() {
    let armiger = Armiger::with(Config::empty().routes("- {name: a, match: {path: /a}, respond: {body: ok}}")).await;

    let mut conversation = armiger
        .raw("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\nGET /evil HTTP/1.1\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;

    // Either the body is drained, and the next answer is that of `/a`, or the connection ends.
    conversation.answer().await.assert_status(200);
    match conversation.try_answer().await {
        Ok(second) => {
            second.assert_status(200);
        }
        Err(Broken::Closed | Broken::Reset) => {}
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_redirect_has_the_parameters_and_the_query() {
    let routes = "
        - {name: default, match: {path: \"/old/{id}\"}, redirect: {to: \"/new/{id}\"}}
        - {name: away, match: {path: \"/away/{rest...}\"}, redirect: {to: \"https://example.com/{rest}?from=here\", status: 302}}
    ";
    let armiger = Armiger::with(Config::empty().routes(routes)).await;

    armiger.get("/old/7?a=b").await.assert_status(308).assert_header("location", "/new/7?a=b");
    armiger.get("/away/a/b").await.assert_status(302).assert_header("location", "https://example.com/a/b?from=here");
    armiger.get("/away/a?x=1").await.assert_header("location", "https://example.com/a?from=here&x=1");
    armiger.post("/old/%0d%0ax", "body").await.assert_status(308).assert_header("location", "/new/%0D%0Ax");
}

#[tokio::test]
async fn options_of_the_whole_server_and_methods_of_no_use_end_at_armiger() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    armiger.raw("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await.assert_status(204);
    armiger.request(request("TRACE", "/", &[])).await.assert_problem(405, "method-not-allowed");

    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn max_forwards_counts_down_for_options_and_ends_at_armiger() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    armiger.request(request("OPTIONS", "/a", &[("max-forwards", "0")])).await.assert_status(204);
    assert_eq!(backend.count(), 0);

    armiger.request(request("OPTIONS", "/a", &[("max-forwards", "2")])).await.assert_status(200);
    armiger.request(request("GET", "/a", &[("max-forwards", "0")])).await.assert_status(200);
    let left: Vec<_> = backend.requests().iter().map(|seen| seen.header("max-forwards").to_owned()).collect();
    assert_eq!(left, ["1", "0"], "other methods take no notice of it (RFC 9110 §7.6.2)");
}

// === early ends ===

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_over() {
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    let backend = Backend::raw(Script::new().head().write(head).hang()).await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation =
        armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nthe beginning of it").await;
    let response = conversation.answer().await;

    assert_eq!(response.assert_status(403).text(), "no");
    conversation.assert_closed().await;
    // What the client still owes cannot come, so the upstream's connection is of no more use.
    backend.closed(1).await;
}

#[tokio::test]
async fn an_early_answer_ends_the_upload_of_an_http2_client_too() {
    let backend = Backend::serving(|_| async { answer(413, "too much") }).await;
    let armiger = Armiger::proxying(&backend).await;
    let (sender, body) = streamed(200);

    let mut connection = armiger.connect_h2c().await;
    let mut other = connection.share();
    let response = connection.open(Request::post("/").body(body.into_body()).unwrap()).await.unwrap();

    assert_eq!(response.status(), 413);
    let body = within("the rest of the answer", response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "too much");
    sender.unwanted().await;
    other.get("/").await.assert_status(413);
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_cancels_the_call() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::proxying(&backend).await;

    let conversation = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.received(1).await;
    drop(conversation);

    backend.closed(1).await;
    let line = armiger.logged(|line| line["path"] == "/").await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"client".into()), "{line:#}");
}

#[tokio::test]
async fn a_client_that_gives_up_reading_cancels_the_call() {
    for protocol in ["http1", "h2c"] {
        let (chunks, body) = streamed(200);
        let body = Mutex::new(Some(body));
        let backend = Backend::with(move |_| body.lock().unwrap().take().unwrap()).await;
        let armiger = Armiger::with(Config::to(&backend).upstream(&format!("protocol: {protocol}"))).await;

        let mut connection = armiger.connect().await;
        let mut response = connection.open(request("GET", "/", &[])).await.unwrap();
        chunks.data("the first").await;
        within("the first chunk", response.body_mut().frame()).await.unwrap().unwrap();
        drop((response, connection));

        chunks.unwanted().await;
    }
}

#[tokio::test]
async fn a_reset_stream_cancels_its_call_and_no_other() {
    let signal = Signal::new();
    let wait = signal.clone();
    let (chunks, body) = streamed(200);
    let body = Arc::new(Mutex::new(Some(body)));
    let backend = Backend::serving(move |request| {
        let (wait, body) = (wait.clone(), body.clone());
        async move {
            if *request.method() == Method::GET {
                return body.lock().unwrap().take().unwrap();
            }
            wait.wait().await;
            answer(200, "the other")
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;

    let mut connection = armiger.connect_h2c().await;
    let mut other = connection.share();
    let response = connection.open(request("GET", "/", &[])).await.unwrap();
    let (other, ()) = tokio::join!(other.post("/", "body"), async {
        backend.arrived(2).await;
        drop(response);
        chunks.unwanted().await;
        signal.send();
    });

    assert_eq!(other.assert_status(200).text(), "the other");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_never_looks_complete() {
    for head in ["content-length: 9\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let backend = Backend::raw(Script::new().request().write(format!("HTTP/1.1 200 OK\r\n{head}"))).await;
        let armiger = Armiger::proxying(&backend).await;

        let broken = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.try_answer().await;
        let by_h2 = armiger.connect_h2c().await.try_request(request("GET", "/", &[])).await;

        assert!(matches!(&broken, Err(Broken::CutInBody(response)) if response.body == "part"), "{broken:?}");
        assert!(by_h2.is_err(), "{by_h2:?}");
        let line = armiger.logged(|line| line["protocol"] == "HTTP/1.1").await;
        assert_eq!((&line["complete"], &line["cut_by"]), (&false.into(), &"upstream".into()), "{line:#}");
    }
}

/// A close with unread input makes a reset, which takes with it what the client has not read.
#[tokio::test]
async fn an_answer_that_is_cut_takes_none_before_it_along() {
    const LENGTH: usize = 300_000;
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n{}", "w".repeat(LENGTH));
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart";
    let backend = Backend::raw(Script::new().request().write(whole).request().write(cut)).await;
    let armiger = Armiger::proxying(&backend).await;
    let gets = ["/whole", "/cut"].map(|path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).concat();
    let post = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n{}", "p".repeat(70_000));

    let mut client = armiger.raw(gets + &post).await;
    armiger.logged(|line| line["path"] == "/cut").await;

    let whole = client.try_answer().await.is_ok_and(|whole| whole.body.len() == LENGTH);
    assert!(whole, "the answer ahead of it was lost");
    let broken = client.try_answer().await;
    assert!(matches!(&broken, Err(Broken::CutInBody(response)) if response.body == "part"), "{broken:?}");
}

/// An idle connection gives its room back after a second; its client must not notice.
#[tokio::test]
async fn a_connection_that_rested_serves_its_next_request() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {idle: 1500ms}")).await;
    let mut connection = armiger.connect().await;
    connection.get("/first").await.assert_status(200);

    // Rest has no outward sign; what is waited for is the idle connection to the back end being closed, which takes
    // longer than the second after which the client's connection rests.
    within("the idle upstream connection to close", backend.closed(1)).await;
    connection.get("/second").await.assert_status(200);

    assert_eq!(backend.received(2).await.len(), 2);
}
