//! armiger's end: announced, without hurry, and no request lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use armiger::server::drain::Phase;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tempfile::TempDir;

use crate::harness::{
    Armiger, Backend, Broken, Client, Config, DEADLINE, Load, Process, Script, Signal, answer, streamed, within,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn hello(drain: &str) -> Config {
    Config::empty().top(&format!("drain: {drain}")).routes("- {name: a, match: {path: /}, respond: {body: hello}}")
}

async fn reaches(armiger: &Armiger, phase: Phase) {
    let mut phases = armiger.running().drain().subscribe();
    let reached = phases.wait_for(|now| *now >= phase);
    within("the next phase of the drain", reached).await.expect("the drain lives as long as armiger");
}

// === lame duck ===

#[tokio::test]
async fn while_it_is_announced_everybody_is_served_and_asked_to_close() {
    let armiger = Armiger::with(hello("{delay: 1h}")).await;
    let mut idle = armiger.connect().await;
    idle.get("/").await.assert_status(200).assert_no_header("connection");
    armiger.admin().get("/readyz").await.assert_status(200);

    assert!(armiger.running().drain().begin());

    armiger.admin().get("/readyz").await.assert_status(503);
    armiger.admin().get("/livez").await.assert_status(200);
    let gauge = async { while armiger.metric("armiger_draining").await != 1.0 {} };
    within("the gauge", gauge).await;
    // New connections, and refusals of all kinds.
    armiger.get("/").await.assert_status(200).assert_header("connection", "close");
    armiger.get("/nowhere").await.assert_problem(404, "no-route").assert_header("connection", "close");
    armiger.raw("BAD\r\n\r\n").await.answer().await.assert_status(400).assert_header("connection", "close");
    // The idle connection is still there, and ends with its next answer.
    idle.get("/").await.assert_status(200).assert_header("connection", "close");
    idle.closed().await;

    assert_eq!(armiger.running().drain().phase(), Phase::LameDuck);
    assert!(!armiger.running().drain().is_over_for_reload());
    armiger.running().drain().hurry();
}

#[tokio::test]
async fn an_http2_client_is_told_goodbye_but_not_before_its_first_request() {
    let armiger = Armiger::with(hello("{delay: 1h}")).await;
    let mut used = armiger.connect_h2c().await;
    used.get("/").await.assert_status(200);
    let mut unused = armiger.connect_h2c().await;

    armiger.running().drain().begin();

    used.closed().await;
    unused.get("/").await.assert_status(200);
    unused.closed().await;
    let mut new = armiger.connect_h2c().await;
    new.get("/").await.assert_status(200).assert_no_header("connection");
    new.closed().await;
    armiger.running().drain().hurry();
}

/// python-h2, and httpx with it, takes nothing that comes behind a GOAWAY, or in one read with it.
#[tokio::test]
async fn an_http2_client_gets_its_answer_before_goodbye() {
    const REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
        \0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a";
    const END_OF_DATA: (u8, u8) = (0, 1);
    const GOAWAY: u8 = 7;
    let frames = |mut said: &[u8]| {
        let mut frames = Vec::new();
        while let Some((&[high, middle, low, kind, flags, ..], rest)) = said.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let Some(next) = rest.get(length..) else { break };
            frames.push((kind, flags));
            said = next;
        }
        frames
    };
    let (chunks, reply) = streamed(200);
    let reply = std::sync::Mutex::new(Some(reply));
    let backend = Backend::with(move |_| reply.lock().unwrap().take().unwrap_or_else(|| answer(200, "ok"))).await;
    let armiger = Armiger::with_workers(1, Config::to(&backend).top("drain: {delay: 1h}")).await;
    let mut client = armiger.raw(REQUEST).await;
    backend.arrived(1).await;
    armiger.running().drain().begin();
    let seen = async { while !armiger.get("/").await.headers.contains_key("connection") {} };
    within("the worker to know", seen).await;

    drop(chunks);

    let mut said = Vec::new();
    while !frames(&said).contains(&END_OF_DATA) {
        said.extend(client.some().await);
    }
    assert!(frames(&said).iter().all(|(kind, _)| *kind != GOAWAY), "{:?}", frames(&said));
    while frames(&said).iter().all(|(kind, _)| *kind != GOAWAY) {
        said.extend(client.some().await);
    }
    armiger.running().drain().hurry();
}

#[tokio::test]
async fn a_back_end_that_is_gone_first_is_a_503() {
    let mut backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).top("drain: {delay: 1h}")).await;
    backend.stop();
    armiger.get("/").await.assert_problem(502, "upstream-connect");

    armiger.running().drain().begin();

    let seen = async {
        loop {
            let answer = armiger.get("/").await;
            if answer.status != 502 {
                return answer;
            }
        }
    };
    let answer = within("the worker to know", seen).await;
    answer.assert_problem(503, "draining").assert_header("connection", "close");
    answer.assert_header("proxy-status", "armiger; error=connection_refused");
    armiger.running().drain().hurry();
}

#[tokio::test]
async fn clients_in_a_closed_loop_lose_nothing() {
    let backend = Backend::replies("ok").await;
    for delay in ["300ms", "0s"] {
        let armiger =
            Armiger::with_workers(2, Config::to(&backend).top(&format!("drain: {{delay: {delay}, timeout: 4s}}")))
                .await;
        let load = Load::on(armiger.address(), 8, 4);
        load.answers(200).await;

        armiger.running().drain().begin();

        let outcome = load.ended().await;
        assert_eq!(outcome.failures, [""; 0], "{outcome:#?}");
        assert_eq!(outcome.refused, 12, "all ask until nobody listens: {outcome:#?}");
        assert!(outcome.asked_to_close >= 12, "{outcome:#?}");
        assert_eq!(armiger.stop().await.cut, 0);
    }
}

/// What ends the wait is heard within it too.
#[tokio::test]
async fn a_delay_that_nobody_needs_any_more_is_cut_short() {
    let armiger = Armiger::with(hello("{delay: 1h}")).await;
    let drain = armiger.running().drain();
    assert!(drain.begin());
    let gauge = async { while armiger.metric("armiger_draining").await != 1.0 {} };
    within("the gauge", gauge).await;
    assert!(!drain.begin_without_delay(), "it had begun");
    within("the end", drain.over()).await;
}

// === closing ===

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads an answer `hello` and what its head says of the connection.
fn hears_close(stream: &mut TcpStream) -> Option<bool> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"hello") {
        let mut more = [0; 1024];
        match stream.read(&mut more) {
            Ok(length) if length > 0 => bytes.extend_from_slice(&more[..length]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).contains("connection: close"))
}

#[tokio::test]
async fn a_request_that_races_with_the_close_of_an_idle_connection_is_served() {
    for round in 0..30 {
        let armiger = Armiger::with(hello("{delay: 0s}")).await;
        let mut clients: Vec<TcpStream> = (0..20).map(|_| connected(armiger.address())).collect();
        for client in &mut clients {
            client.write_all(GET.as_bytes()).unwrap();
            assert_eq!(hears_close(client), Some(false));
        }

        // All of it is with the kernel before armiger hears of its end.
        for client in &mut clients {
            client.write_all(GET.as_bytes()).unwrap();
        }
        armiger.running().drain().begin();

        for client in &mut clients {
            assert!(hears_close(client).is_some(), "round {round}");
        }
        drop(clients);
        assert_eq!(armiger.stop().await.cut, 0);
    }
}

#[tokio::test]
async fn a_request_that_races_with_the_end_of_the_last_wait_is_served() {
    let armiger = Armiger::with_workers(2, hello("{delay: 0s}")).await;
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connected(armiger.address())).collect();
    for client in &mut clients {
        client.write_all(GET.as_bytes()).unwrap();
        assert_eq!(hears_close(client), Some(false));
    }
    // Long enough for hyper to have been sent away, and for the connection to be closed at once.
    tokio::time::sleep(Duration::from_millis(1300)).await;

    // Each in another order to the other.
    for (place, client) in clients.iter_mut().enumerate() {
        if place == 50 {
            armiger.running().drain().begin();
        }
        client.set_nonblocking(true).unwrap();
        let is_open = client.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
        if place < 50 {
            assert!(is_open, "idle connections stay until the end");
        }
        client.write_all(GET.as_bytes()).ok();
    }

    for client in &mut clients[..50] {
        assert!(hears_close(client).is_some());
    }
    drop(clients);
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn connections_that_the_kernel_has_accepted_are_served() {
    for _ in 0..20 {
        let armiger = Armiger::with(hello("{delay: 0s}")).await;
        let mut clients: Vec<TcpStream> = (0..50).map(|_| connected(armiger.address())).collect();
        armiger.running().drain().begin();
        for client in &mut clients {
            client.write_all(GET.as_bytes()).unwrap();
        }

        for client in &mut clients {
            assert!(hears_close(client).is_some());
        }
        drop(clients);
        assert_eq!(armiger.stop().await.cut, 0);
    }
}

#[tokio::test]
async fn a_silent_connection_is_closed_with_an_end() {
    let armiger = Armiger::with(hello("{delay: 0s}")).await;
    let mut silent = armiger.raw("").await;
    let mut idle = armiger.raw(GET).await;
    idle.answer().await;

    armiger.running().drain().begin();

    silent.assert_closed().await;
    idle.assert_closed().await;
    drop((silent, idle));
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn what_is_pipelined_behind_the_last_answer_does_not_take_it_away() {
    let armiger = Armiger::with(hello("{delay: 1h}")).await;
    armiger.running().drain().begin();
    let seen = async { while !armiger.get("/").await.headers.contains_key("connection") {} };
    within("the worker to know", seen).await;

    for _ in 0..50 {
        let mut client = armiger.raw(GET.repeat(100)).await;
        client.answer().await.assert_status(200).assert_header("connection", "close");
        client.assert_closed().await;
    }
    armiger.running().drain().hurry();
}

#[tokio::test]
async fn slow_downloads_and_uploads_are_finished() {
    let (chunks, reply) = streamed(200);
    let reply = std::sync::Mutex::new(Some(reply));
    let backend = Backend::with(move |seen| match seen.method.as_str() {
        "GET" => reply.lock().unwrap().take().unwrap(),
        _ => answer(200, format!("{} bytes", seen.body_bytes)),
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).top("drain: {delay: 0s}")).await;
    let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let mut downloader = armiger.connect_h2c().await;
    let download = downloader.open(request).await.unwrap();
    let mut upload = armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345").await;
    backend.arrived(2).await;

    armiger.running().drain().begin();
    reaches(&armiger, Phase::Closing).await;
    assert!(armiger.running().drain().is_over_for_reload());

    upload.write("67890").await;
    let uploaded = upload.answer().await;
    uploaded.assert_status(200).assert_header("connection", "close");
    assert_eq!(uploaded.text(), "10 bytes");
    let rest = tokio::spawn(download.into_body().collect());
    for _ in 0..10 {
        chunks.data(vec![7; 100_000]).await;
    }
    drop((chunks, upload));
    let whole = within("the whole download", rest).await.unwrap().unwrap().to_bytes();
    assert_eq!(whole.len(), 1_000_000);
    downloader.closed().await;
    assert_eq!(armiger.stop().await.cut, 0);
}

/// Its answer began before the end was in sight, so its client does not know that it should not ask again.
#[tokio::test]
async fn the_client_of_a_long_answer_may_ask_once_more() {
    let (chunks, reply) = streamed(200);
    let reply = std::sync::Mutex::new(Some(reply));
    let backend = Backend::with(move |_| reply.lock().unwrap().take().unwrap_or_else(|| answer(200, "again"))).await;
    let armiger = Armiger::with(Config::to(&backend).top("drain: {delay: 0s}")).await;
    let mut client = armiger.raw(GET).await;
    backend.arrived(1).await;
    chunks.data("first").await;
    assert!(String::from_utf8_lossy(&client.some().await).starts_with("HTTP/1.1 200"));

    armiger.running().drain().begin();
    reaches(&armiger, Phase::Closing).await;
    drop(chunks);
    let mut seen = Vec::new();
    while !seen.ends_with(b"0\r\n\r\n") {
        seen.extend(client.some().await);
    }
    client.write(GET).await;

    client.answer().await.assert_status(200).assert_header("connection", "close");
    client.assert_closed().await;
    drop(client);
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn with_nothing_open_it_ends_as_soon_as_the_delay_is_over() {
    let armiger = Armiger::with(hello("{delay: 300ms, timeout: 1h}")).await;
    armiger.get("/").await.assert_status(200);
    let begun = Instant::now();

    armiger.running().drain().begin();
    armiger.running().drain().begin();

    within("the end", armiger.running().drain().over()).await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn the_rest_of_a_body_that_nobody_reads_holds_nothing_up() {
    let armiger = Armiger::with(hello("{delay: 0s, timeout: 1h}")).await;
    let mut client = armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n").await;
    client.answer().await.assert_status(200);

    armiger.running().drain().begin();

    within("the end", armiger.running().drain().over()).await;
    assert_eq!(client.rest().await, b"", "an end, and no reset");
    assert_eq!(armiger.stop().await.cut, 0);
}

// === forced ===

#[tokio::test]
async fn what_is_left_when_the_time_is_over_is_cut_counted_and_logged() {
    let signal = Signal::new();
    let head = "HTTP/1.1 200 OK\r\n\r\nthe beginning";
    let backend = Backend::raw(Script::new().request().write(head).wait(&signal)).await;
    let armiger = Armiger::with(Config::to(&backend).top("drain: {delay: 0s, timeout: 100ms, strict: false}")).await;
    let mut http1 = armiger.raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    http1.some().await;
    let mut http2 = armiger.connect_h2c().await;
    let answer = http2.open(Request::get("/").body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let idle = armiger.raw("").await;

    armiger.running().drain().begin();
    let cut = http1.try_answer().await;
    assert!(matches!(cut, Err(Broken::Reset)), "what ends with the connection must not look whole: {cut:?}");
    answer.into_body().collect().await.unwrap_err();
    for line in armiger.log_lines(2).await {
        assert_eq!((&line["cut_by"], &line["complete"]), (&"deadline".into(), &false.into()), "{line:#}");
    }
    let stopped = armiger.stop().await;

    assert_eq!((stopped.cut, stopped.is_strict), (2, false));
    drop(idle);
}

fn run(config: impl std::fmt::Display) -> (Process, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("config.yaml");
    std::fs::write(&path, config.to_string()).unwrap();
    (Armiger::spawn(&["run", "--workers", "2", "--config", path.to_str().unwrap()]), folder)
}

fn client_of(process: &mut Process) -> Client {
    let line = process.stderr_line("listener");
    let at = line.find("127.0.0.1:").unwrap();
    Client::to(line[at..].trim_end().parse().unwrap())
}

#[tokio::test]
async fn a_second_signal_cuts_and_the_exit_code_tells() {
    for (strict, code) in [(true, 3), (false, 0)] {
        let signal = Signal::new();
        let backend = Backend::raw(Script::new().request().wait(&signal)).await;
        let (mut process, _folder) = run(Config::to(&backend).top(&format!("drain: {{delay: 1h, strict: {strict}}}")));
        let client = client_of(&mut process);
        let mut cut = client.raw(GET).await;
        backend.arrived(1).await;

        process.signal("TERM");
        process.stderr_line("draining");
        process.signal("INT");

        assert!(matches!(cut.try_answer().await, Err(Broken::Reset | Broken::Closed)));
        let finished = process.finish();
        finished.assert_code(code);
        assert!(finished.stderr.contains("exchange cut route=\"everything\" age="), "{finished:#?}");
        assert!(finished.stdout.contains("\"cut_by\":\"deadline\""), "{finished:#?}");
    }
}

#[tokio::test]
async fn a_second_signal_with_nothing_in_flight_is_no_failure() {
    let (mut process, _folder) = run(hello("{delay: 1h}"));
    let client = client_of(&mut process);
    let idle = client.raw("").await;

    process.signal("TERM");
    process.stderr_line("draining");
    client.get("/").await.assert_status(200);
    process.signal("TERM");

    process.finish().assert_code(0);
    drop(idle);
}

/// How many deploys there are. More by hand: `ARMIGER_TEST_DRAINS=50 cargo test --test main -- deploys`.
fn drains() -> u32 {
    std::env::var("ARMIGER_TEST_DRAINS").map_or(3, |text| text.parse().expect("ARMIGER_TEST_DRAINS is a number"))
}

#[tokio::test]
async fn deploys_under_load_fail_no_request_and_cut_no_download() {
    let mut answered = 0;
    for _ in 0..drains() {
        let (chunks, long) = streamed(200);
        let long = std::sync::Mutex::new(Some(long));
        let backend = Backend::with(move |seen| match seen.target.as_str() {
            "/long" => long.lock().expect("no panic here").take().expect("one download"),
            _ => answer(200, "ok"),
        });
        let backend = backend.await;
        let (mut process, _folder) = run(Config::to(&backend).top("drain: {delay: 300ms, timeout: 10s}"));
        let client = client_of(&mut process);
        let mut download = client.connect().await;
        let request = Request::get("/long").body(Empty::<Bytes>::new()).expect("a valid request");
        let download = download.open(request).await.expect("the download begins");
        chunks.data(vec![b'x'; 100_000]).await;
        let download = tokio::spawn(download.into_body().collect());
        let load = Load::on(client.address(), 6, 3);
        load.answers(200).await;

        process.signal("TERM");

        let outcome = load.ended().await;
        assert_eq!((outcome.failed, outcome.refused), (0, 9), "{outcome:#?}");
        // Nobody is listened to any more, and the download goes on.
        chunks.data(vec![b'y'; 100_000]).await;
        drop(chunks);
        let body = within("the download", download).await.expect("no panic").expect("it is whole").to_bytes();
        assert_eq!(body.len(), 200_000);
        process.finish().assert_code(0);
        answered += outcome.answered;
    }
    eprintln!("{} drains, {answered} requests, none failed", drains());
}
