//! Bodies that pass as they come, trailers, and `Expect: 100-continue`.

use super::*;

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
