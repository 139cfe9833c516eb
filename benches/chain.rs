//! What a chain of policies costs per exchange: none, one, three.
//!
//! `cargo bench --bench chain`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use armiger::app::{self, Source};
use armiger::exchange::{Client, Exchange, Followups, Hop};
use armiger::http::body::Body;
use armiger::http::forwarded::{self, Scheme};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::snapshot::Route;
use armiger::snapshot::router::Query;
use armiger::telemetry::access_log::{Settings, Writer};
use armiger::telemetry::finish::Logger;
use armiger::telemetry::metrics::Metrics;
use armiger::timer::Wheel;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method, Request};

const CHAINS: [(&str, &str); 3] = [
    ("no policy", "{}"),
    ("ip_filter", "{ip_filter: {allow: [10.0.0.0/8, 127.0.0.0/8]}}"),
    (
        "ip_filter, cors, headers",
        "{ip_filter: {allow: [10.0.0.0/8, 127.0.0.0/8]}, cors: {origins: [\"https://shop.example.com\"]}, \
         headers: {request: {set: {x-order: \"${path.id}\"}}, response: {remove: [server]}}}",
    ),
];

fn chains(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let log = Writer::start(Settings::default(), Box::new(std::io::sink()), &metrics).expect("the writer starts");
    let logger = Rc::new(Logger::new(log.buffer(), &metrics));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = criterion.benchmark_group("chain");
    for (name, policies) in CHAINS {
        let route = route(policies, &metrics);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || exchange(&logger),
                |mut exchange| {
                    let mut followups = Followups::default();
                    runtime.block_on(async {
                        let admitted = route.chain.admit(&mut exchange, &mut followups).await;
                        black_box(admitted.is_ok());
                        let prepared = route.chain.prepare(&mut exchange, &mut followups).await;
                        black_box(prepared.is_ok());
                    });
                    (exchange, followups)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn route(policies: &str, metrics: &Metrics) -> Arc<Route> {
    let text = format!(
        "listeners: [{{name: http, address: 127.0.0.1:0}}]\n\
         routes: [{{name: orders, match: {{path: \"/orders/{{id}}\"}}, policies: {policies}, respond: {{}}}}]\n"
    );
    let source = Source::Text { name: "bench.yaml".into(), text };
    let snapshot = app::check(&source, &Machine::detect(), 1, metrics, Keeper::fresh());
    let snapshot = snapshot.unwrap_or_else(|report| panic!("{report}")).snapshot;
    let headers = HeaderMap::new();
    let query = Query { host: "", path: "/orders/7", method: &Method::GET, headers: &headers, query: None };
    snapshot.router.find(&query).expect("the route matches").target.clone()
}

fn exchange(logger: &Rc<Logger>) -> Exchange {
    let (now, peer) = (Instant::now(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let request = Request::get("/orders/7").header("host", "api.example.com").header("accept", "*/*");
    Exchange {
        request: Box::new(request.body(Body::Empty).expect("a lawful request")),
        client: Client {
            peer: SocketAddr::new(peer, 4711),
            reached: SocketAddr::new(peer, 80),
            address: peer,
            is_trusted: false,
        },
        normal_path: None,
        params: [(8, 9)].into_iter().collect(),
        started: now,
        deadline: now,
        due: now,
        inbound: None,
        wheel: Wheel::new(),
        trace: None,
        hop: Rc::new(Hop { forwarded: forwarded::Hop::new(peer, Scheme::Http, 8080), via: None, certificate: None }),
        caller: None,
        allowance: Default::default(),
        websocket: None,
        form: None,
        closing: logger.begin(now, UNIX_EPOCH, &Arc::from("http")),
    }
}

criterion_group!(benches, chains);
criterion_main!(benches);
