//! The harness against itself: back ends and clients, with nothing between them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};

use super::{Backend, Broken, Client, Script, Signal, answer, at_most, streamed};

fn client(backend: &Backend) -> Client {
    Client::to(backend.address())
}

#[tokio::test]
async fn a_backend_answers_and_remembers_what_it_got() {
    let backend = Backend::with(|request| answer(201, format!("{} {}", request.method, request.target))).await;

    let mut connection = client(&backend).connect().await;
    let request = Request::post("/a?b=c").header("x-a", "1").body(Full::new(Bytes::from("body"))).unwrap();
    let response = connection.request(request).await;
    connection.get("/second").await.assert_status(201);

    assert_eq!(response.assert_status(201).text(), "POST /a?b=c");
    let seen = backend.received(2).await;
    assert_eq!((seen[0].header("x-a"), seen[0].body.as_slice(), seen[0].connection), ("1", &b"body"[..], 0));
    assert!(seen[0].head_text().starts_with("POST /a?b=c HTTP/1.1\r\n"), "{}", seen[0].head_text());
    assert!(seen[1].head_text().starts_with("GET /second HTTP/1.1\r\n"), "{}", seen[1].head_text());
    assert_eq!((backend.connections(), backend.count()), (1, 2));
}

#[tokio::test]
async fn a_backend_speaks_http2_to_those_who_begin_with_its_preface() {
    let backend =
        Backend::with(|request| answer(200, format!("{:?} {}", request.version, request.header("host")))).await;

    let mut connection = client(&backend).connect_h2c().await;
    let mut other = connection.share();
    let request = Request::get("/").header("host", "shop.example.com").body(Full::<Bytes>::default()).unwrap();

    assert_eq!(connection.request(request).await.text(), "HTTP/2.0 shop.example.com");
    other.get("/").await.assert_status(200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn echo_streams_both_ways() {
    let backend = Backend::echo().await;
    let (sender, body) = streamed(200);
    let request = Request::post("/").body(body.into_body()).unwrap();

    let mut connection = client(&backend).connect().await;
    let mut answer = connection.open(request).await.unwrap();
    sender.data("one").await;
    let first = answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one");
    backend.arrived(1).await;
    sender.data("two").await;
    drop(sender);

    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "two");
    assert_eq!(backend.only().await.body, b"onetwo");
}

#[tokio::test]
async fn trailers_pass_over_http2() {
    let backend = Backend::echo().await;
    let (sender, body) = streamed(200);
    let mut connection = client(&backend).connect_h2c().await;
    let mut answer = connection.open(Request::post("/").body(body.into_body()).unwrap()).await.unwrap();

    sender.trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())])).await;
    drop(sender);

    let last = answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(last.trailers_ref().unwrap()["x-sum"], "7");
    assert_eq!(backend.only().await.trailers["x-sum"], "7");
}

#[tokio::test]
async fn a_script_is_followed_to_the_byte() {
    let signal = Signal::new();
    let script = Script::new()
        .request()
        .write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .wait(&signal)
        .write("HTTP/1.1 204 No Content\r\n\r\n");
    let backend = Backend::raw(script).await;

    let mut conversation = client(&backend).raw("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(conversation.answer().await.text(), "ok");
    signal.send();
    conversation.answer().await.assert_status(204);
    conversation.assert_closed().await;

    let seen = backend.only().await;
    assert_eq!((seen.body.as_slice(), seen.header("host")), (&b"abc"[..], "a"));
    backend.closed(1).await;
}

#[tokio::test]
async fn a_script_differs_by_connection_and_repeats() {
    let backend = Backend::raw_each(|number| match number {
        0 => Script::new().request(),
        _ => Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").again(),
    })
    .await;

    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert!(matches!(client(&backend).raw(get).await.try_answer().await, Err(Broken::Closed)));
    let mut second = client(&backend).raw(get).await;
    second.answer().await.assert_status(200);
    second.write(get).await.write(get).await.answers(2).await;

    assert_eq!(backend.received(4).await.iter().map(|seen| seen.connection).collect::<Vec<_>>(), [0, 1, 1, 1]);
}

#[tokio::test]
async fn a_reset_is_not_an_end() {
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let reset = Backend::raw(Script::new().request().reset()).await;
    assert!(matches!(client(&reset).raw(get).await.try_answer().await, Err(Broken::Reset)));

    let cut = Backend::raw(Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")).await;
    let broken = client(&cut).raw(get).await.try_answer().await;
    assert!(matches!(&broken, Err(Broken::CutInBody(response)) if response.body == "part"), "{broken:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    let backend = Backend::raw(Script::new().head().hang()).await;
    let conversation = client(&backend).raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n").await;
    assert!(!backend.arrived(1).await[0].whole);

    conversation.reset();

    backend.closed(1).await;
}

#[tokio::test]
async fn a_streamed_answer_can_be_cut() {
    let (chunks, body) = streamed(200);
    let body = std::sync::Mutex::new(Some(body));
    let backend = Backend::with(move |_| body.lock().unwrap().take().unwrap()).await;

    let mut conversation = client(&backend).raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    chunks.data("abc").await;
    // The first chunk leaves before the cut is taken, for the body holds one at a time.
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("abc") {
        received.extend(conversation.some().await);
    }
    chunks.cut().await;

    assert_eq!(conversation.rest().await, b"");
    assert!(!String::from_utf8_lossy(&received).ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn a_panic_of_a_backend_fails_its_test() {
    let mut backend = Backend::with(|_| panic!("on purpose")).await;
    let broken = client(&backend).raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.try_answer().await;
    assert!(broken.is_err());

    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| backend.stop()));

    assert!(stopped.is_err());
}

#[tokio::test]
async fn a_stopped_backend_refuses() {
    let mut backend = Backend::replies("ok").await;
    client(&backend).get("/").await.assert_status(200).assert_no_header("x-a");

    backend.stop();

    assert!(client(&backend).is_refused().await);
}

#[tokio::test]
#[should_panic(expected = "in vain for the sun")]
async fn a_wait_has_an_end() {
    at_most(Duration::from_millis(1), "the sun", std::future::pending::<()>()).await;
}
