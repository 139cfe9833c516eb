//! What a request costs that the cache answers: 1 KiB under eight headers, fresh.
//!
//! `cargo bench --bench cache`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use armiger::app::{self, Source};
use armiger::exchange::{Client, Exchange, Followups, Hop};
use armiger::http::body::Body;
use armiger::http::forwarded::{self, Scheme};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::policy::cache::entry::{Entry, Head, compact};
use armiger::policy::cache::freshness::Terms;
use armiger::policy::cache::view::RouteCache;
use armiger::policy::chain::Asked;
use armiger::snapshot::router::Query;
use armiger::telemetry::access_log::{Settings, Writer};
use armiger::telemetry::finish::Logger;
use armiger::telemetry::metrics::Metrics;
use armiger::timer::Wheel;
use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

fn hits(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let log = Writer::start(Settings::default(), Box::new(std::io::sink()), &metrics).expect("the writer starts");
    let logger = Rc::new(Logger::new(log.buffer(), &metrics));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let text = "listeners: [{name: http, address: 127.0.0.1:0}]\n\
                routes: [{name: all, match: {path: /a}, policies: {cache: {}}, respond: {}}]\n";
    let source = Source::Text { name: "bench.yaml".into(), text: text.into() };
    let checked = app::check(&source, &Machine::detect(), 1, &metrics, Keeper::fresh());
    let snapshot = checked.unwrap_or_else(|report| panic!("{report}")).snapshot;
    let headers = HeaderMap::new();
    let query = Query { host: "", path: "/a", method: &Method::GET, headers: &headers, query: None };
    let route = snapshot.router.find(&query).expect("the route matches").target.clone();
    let rules = snapshot.kept.attached::<RouteCache>().next().expect("the route has a cache").rules.clone();
    let key = rules.plan.key(&exchange(&logger)).expect("the request has a key");
    rules.store.put(&key, entry(rules.store.fates.invalid.since(&key)));

    criterion.bench_function("cache/key", |bencher| {
        let exchange = exchange(&logger);
        bencher.iter(|| black_box(rules.plan.key(&exchange).is_ok()));
    });
    criterion.bench_function("cache/hit", |bencher| {
        bencher.iter_batched(
            || exchange(&logger),
            |mut exchange| {
                let mut followups = Followups::default();
                let asked = runtime.block_on(route.chain.admit(&mut exchange, &mut followups));
                assert!(matches!(asked, Ok(Asked::Answered(_))), "it is stored");
                (exchange, asked.is_ok())
            },
            BatchSize::SmallInput,
        );
    });
}

fn entry(since: armiger::policy::cache::invalid::Since) -> Arc<Entry> {
    let headers: HeaderMap = [
        ("content-type", "application/json"),
        ("cache-control", "max-age=3600"),
        ("etag", "\"33a64df551425fcc\""),
        ("date", "Sat, 28 Nov 2026 02:00:00 GMT"),
        ("last-modified", "Fri, 27 Nov 2026 02:00:00 GMT"),
        ("vary", "accept-encoding"),
        ("x-content-type-options", "nosniff"),
        ("via", "1.1 armiger"),
    ]
    .into_iter()
    .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
    .collect();
    let head = Head {
        status: StatusCode::OK,
        headers: compact(&headers),
        length: Some(1024),
        vary: Vec::new(),
        variant: Box::default(),
        terms: Terms { lifetime: Duration::from_secs(3600), ..Terms::default() },
        initial_age: Duration::ZERO,
        received: Instant::now(),
        received_at: SystemTime::UNIX_EPOCH,
        epoch: 0,
        since,
        tags: Box::default(),
        said: Default::default(),
    };
    Arc::new(Entry::new(Arc::new(head), Bytes::from(vec![b'x'; 1024])))
}

fn exchange(logger: &Rc<Logger>) -> Exchange {
    let (now, peer) = (Instant::now(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let request = Request::get("/a").header("host", "api.example.com").header("accept", "*/*");
    Exchange {
        request: Box::new(request.body(Body::Empty).expect("a lawful request")),
        client: Client {
            peer: SocketAddr::new(peer, 4711),
            reached: SocketAddr::new(peer, 80),
            address: peer,
            is_trusted: false,
        },
        normal_path: None,
        params: Default::default(),
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

criterion_group!(benches, hits);
criterion_main!(benches);
