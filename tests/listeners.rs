//! Listeners that change while they serve: no connection is lost, whatever moves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use armiger::app::{Source, check};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::snapshot::ListenerPlan;
use armiger::telemetry::metrics::Metrics;
use std::sync::Arc;

use crate::harness::{Armiger, Backend, Client, Config, DEADLINE, Load, Outcome, Script, Signal, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Listeners, as YAML, of a document that greets.
fn greeting(listeners: &str) -> String {
    Config::empty()
        .top(&format!("listeners: [{listeners}]"))
        .routes("- {name: a, match: {path: /}, respond: {body: hello}}")
        .to_string()
}

fn plans(text: impl std::fmt::Display) -> Vec<Arc<ListenerPlan>> {
    let source = Source::Text { name: "next.yaml".into(), text: text.to_string() };
    let checked = check(&source, &Machine::detect(), 2, &Metrics::new(), Keeper::fresh());
    checked.unwrap_or_else(|report| panic!("{}", report.text(false))).snapshot.listeners
}

/// What a reload does to listeners.
fn apply(armiger: &Armiger, text: impl std::fmt::Display) {
    let listeners = armiger.running().listeners();
    let ready = listeners.prepare(&plans(text)).and_then(|prepared| prepared.listen());
    listeners.commit(ready.unwrap_or_else(|errors| panic!("{errors:#?}")));
}

/// A port that was free a moment ago, on every address.
fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

#[track_caller]
fn assert_lossless(outcome: &Outcome) {
    assert_eq!(outcome.failures, [""; 0], "{outcome:#?}");
    assert_eq!(outcome.refused, 0, "{outcome:#?}");
}

#[tokio::test]
async fn a_listener_is_added_and_removed() {
    let armiger = Armiger::with(greeting("{name: http, address: '127.0.0.1:0'}")).await;
    let first = armiger.address();

    apply(&armiger, greeting("{name: http, address: '127.0.0.1:0'}, {name: more, address: '127.0.0.1:0'}"));
    let more = armiger.address_of("more");
    assert_eq!(armiger.address(), first, "port 0 keeps its number");
    assert_ne!(more, first);
    assert_eq!(Client::to(more).get("/").await.assert_status(200).text(), "hello");
    let mut idle = Client::to(more).connect().await;
    idle.get("/").await.assert_status(200).assert_no_header("connection");

    apply(&armiger, greeting("{name: http, address: '127.0.0.1:0'}"));
    Client::to(more).until_refused().await;
    assert_eq!(armiger.running().addresses().len(), 1);
    assert_eq!(armiger.get("/").await.assert_status(200).text(), "hello");
    // Its connections end with their next answer.
    idle.get("/").await.assert_status(200).assert_header("connection", "close");
    idle.closed().await;
}

#[tokio::test]
async fn a_listener_that_goes_loses_nothing() {
    for _ in 0..20 {
        let armiger =
            Armiger::with(greeting("{name: http, address: '127.0.0.1:0'}, {name: b, address: '127.0.0.1:0'}")).await;
        let address = armiger.address_of("b");
        // With the kernel, and nobody else.
        let mut clients: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();

        apply(&armiger, greeting("{name: http, address: '127.0.0.1:0'}"));

        for client in &mut clients {
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.write_all(GET.as_bytes()).unwrap();
        }
        for client in &mut clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        }
    }
}

#[tokio::test]
async fn requests_in_flight_on_a_removed_listener_are_finished() {
    let signal = Signal::new();
    let script =
        Script::new().request().wait(&signal).write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").again();
    let backend = Backend::raw(script).await;
    let with = |listeners: &str| Config::to(&backend).top(&format!("listeners: [{listeners}]"));
    let armiger = Armiger::with(with("{name: http, address: '127.0.0.1:0'}, {name: b, address: '127.0.0.1:0'}")).await;
    let client = Client::to(armiger.address_of("b"));
    let mut http1 = client.raw(GET).await;
    let mut http2 = client.connect_h2c().await;
    let mut other = http2.share();
    let asked = tokio::spawn(async move { other.get("/").await });
    backend.arrived(2).await;

    apply(&armiger, with("{name: http, address: '127.0.0.1:0'}"));
    Client::to(client.address()).until_refused().await;
    signal.send();

    http1.answer().await.assert_status(200).assert_header("connection", "close");
    within("the answer over HTTP/2", asked).await.unwrap().assert_status(200);
    http2.get("/").await.assert_status(200);
    http2.closed().await;
}

#[tokio::test]
async fn sockets_stay_through_any_number_of_reloads() {
    let (a, b) = (free_port(), free_port());
    let text = |first: &str, second: &str| {
        greeting(&format!("{{name: {first}, address: '127.0.0.1:{a}'}}, {{name: {second}, address: '127.0.0.1:{b}'}}"))
    };
    let armiger = Armiger::with_workers(2, text("http", "other")).await;
    let load = Load::on(armiger.address(), 4, 2);
    let other = Load::on(armiger.address_of("other"), 4, 2);
    load.answers(50).await;

    // Swapped, renamed, and as it was.
    for (first, second) in [("other", "http"), ("http", "new"), ("http", "other")].into_iter().cycle().take(30) {
        apply(&armiger, text(first, second));
        assert_eq!(armiger.address_of(first).port(), a);
        assert_eq!(armiger.address_of(second).port(), b);
        load.answers(10).await;
    }

    for outcome in [load.stop().await, other.stop().await] {
        assert_lossless(&outcome);
    }
}

#[tokio::test]
async fn a_listener_moves_to_addresses_that_overlap_with_its_own() {
    let port = free_port();
    let text = |ip: &str| greeting(&format!("{{name: http, address: '{ip}:{port}'}}"));
    let armiger = Armiger::with_workers(2, text("0.0.0.0")).await;
    let load = Load::on(SocketAddr::from(([127, 0, 0, 1], port)), 4, 2);
    load.answers(50).await;

    for ip in ["127.0.0.1", "0.0.0.0", "[::]", "127.0.0.1", "[::]", "0.0.0.0"] {
        apply(&armiger, text(ip));
        assert_eq!(armiger.address().port(), port);
        load.answers(50).await;
    }

    assert_lossless(&load.stop().await);
}

#[tokio::test]
async fn an_address_that_was_just_given_up_can_be_had_again() {
    let port = free_port();
    let with = greeting(&format!("{{name: http, address: '127.0.0.1:0'}}, {{name: b, address: '127.0.0.1:{port}'}}"));
    let without = greeting("{name: http, address: '127.0.0.1:0'}");
    let armiger = Armiger::with_workers(2, &with).await;
    let load = Load::on(armiger.address_of("b"), 4, 2);
    load.answers(50).await;

    apply(&armiger, &without);
    apply(&armiger, &with);
    load.answers(50).await;

    assert_lossless(&load.stop().await);
}

#[tokio::test]
async fn what_holds_for_a_request_changes_with_the_next_one() {
    let backend = Backend::replies("ok").await;
    let with = |more: &str| Config::to(&backend).listener(more);
    let armiger = Armiger::with(with("via: first")).await;
    let mut http1 = armiger.connect().await;
    let mut http2 = armiger.connect_h2c().await;
    http1.get("/").await;
    http2.get("/").await;

    apply(&armiger, with("via: second\nlimits: {body_max: 10B}"));
    http1.get("/").await.assert_no_header("connection");
    http1.post("/", "more than ten bytes").await.assert_problem(413, "body-too-large");
    http2.get("/").await;
    http2.get("/").await;

    let vias: Vec<String> = backend.requests().iter().map(|seen| seen.header("via").to_owned()).collect();
    assert_eq!(vias, ["1.1 first", "2 first", "1.1 second", "2 second", "2 second"]);
}

#[tokio::test]
async fn what_a_connection_began_with_changes_with_the_next_connection() {
    let armiger = Armiger::with(greeting("{name: http, address: '127.0.0.1:0'}")).await;
    for change in [
        "limits: {headers_max: 10}",
        "limits: {header_value_bytes_max: 1KiB}",
        "timeouts: {keep_alive: 30s}",
        "limits: {streams_max: 7}",
    ] {
        let mut http1 = armiger.connect().await;
        let mut http2 = armiger.connect_h2c().await;
        http1.get("/").await.assert_no_header("connection");
        http2.get("/").await.assert_status(200);

        apply(&armiger, greeting(&format!("{{name: http, address: '127.0.0.1:0', {change}}}")));

        http1.get("/").await.assert_status(200).assert_header("connection", "close");
        http1.closed().await;
        http2.get("/").await.assert_status(200);
        http2.closed().await;
        armiger.connect().await.get("/").await.assert_no_header("connection");
    }
}

#[tokio::test]
async fn the_bound_on_connections_changes_at_once() {
    let with =
        |max: u32| greeting(&format!("{{name: http, address: '127.0.0.1:0', limits: {{connections_max: {max}}}}}"));
    let armiger = Armiger::with(with(2)).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = armiger.connect().await;
        connection.get("/").await.assert_status(200);
        open.push(connection);
    }
    let mut waiting = armiger.raw(GET).await;
    let reached = async { while armiger.metric("armiger_limit_hits_total{limit=\"connections_max\"}").await == 0.0 {} };
    within("the bound to be reached", reached).await;

    apply(&armiger, with(3));

    waiting.answer().await.assert_status(200);
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_and_changes_nothing() {
    let taken = [Backend::replies("here first").await, Backend::replies("here too").await];
    let armiger = Armiger::with(greeting("{name: http, address: '127.0.0.1:0'}")).await;
    let (first, port) = (armiger.address(), free_port());

    let listeners = armiger.running().listeners();
    let next = plans(greeting(&format!(
        "{{name: x, address: '{}'}}, {{name: y, address: '127.0.0.1:{port}'}}, {{name: z, address: '{}'}}",
        taken[0].address(),
        taken[1].address()
    )));
    let Err(errors) = listeners.prepare(&next) else { panic!("two addresses are taken") };

    let named: Vec<_> = errors.iter().map(|error| (&*error.name, error.address.tcp().unwrap())).collect();
    assert_eq!(named, [("x", taken[0].address()), ("z", taken[1].address())]);
    assert_eq!(listeners.addresses(), [("http".into(), first.into())]);
    assert_eq!(armiger.get("/").await.assert_status(200).text(), "hello");
    assert!(Client::to(SocketAddr::from(([127, 0, 0, 1], port))).is_refused().await, "what was bound is let go");

    // What is prepared and then dropped leaves nothing either, also where it overlaps.
    let wide = greeting(&format!("{{name: http, address: '0.0.0.0:{}'}}", first.port()));
    drop(listeners.prepare(&plans(&wide)).unwrap());
    for _ in 0..20 {
        assert_eq!(armiger.get("/").await.assert_status(200).text(), "hello");
    }
    // An address beside others is taken before anything is in force: what might fail has not failed by then.
    let ready = listeners.prepare(&plans(&wide)).unwrap().listen().unwrap();
    drop(TcpStream::connect(("127.0.0.2", first.port())).expect("it listens"));
    drop(ready);
    assert!(Client::to(SocketAddr::from(([127, 0, 0, 2], first.port()))).is_refused().await);
    let stranger = TcpListener::bind(("0.0.0.0", first.port()));
    assert!(stranger.is_err(), "the port is shared with nobody");
}

#[tokio::test]
async fn once_it_ends_no_listener_opens_any_more() {
    let armiger =
        Armiger::with(greeting("{name: http, address: '127.0.0.1:0'}").replace("admin:", "drain: {delay: 0s}\nadmin:"))
            .await;
    let listeners = armiger.running().listeners().clone();
    let prepared = listeners.prepare(&plans(greeting("{name: late, address: '127.0.0.1:0'}"))).unwrap();
    let idle = armiger.raw("").await;

    let address = armiger.address();
    armiger.running().drain().begin();
    Client::to(address).until_refused().await;
    listeners.commit(prepared.listen().unwrap());

    assert_eq!(listeners.addresses(), []);
    drop(idle);
    within("the end", armiger.running().drain().over()).await;
}
