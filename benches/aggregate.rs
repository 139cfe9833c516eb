//! What an aggregate costs: how much later than its slowest part it answers, and what of a processor it takes beside as many
//! separate requests.
//!
//! ```text
//! cargo bench --bench aggregate -- [REQUESTS]
//! ```
//!
//! Starts armiger in front of a back end that answers 2 KiB of JSON, at once or after 50 ms, and asks one after the other. The
//! processor's time is that of armiger's one worker thread, as the kernel counts it (`/proc/self/task/*/schedstat`). Last, the
//! same documents are merged in memory, without a network.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use armiger::action::aggregate::merge::{Share, merge};
use armiger::action::json::Json;
use armiger::app::{Options, Running, Source};
use armiger::config::aggregate::{MergeMode, OnConflict};

/// How long a slow part takes.
const SLOW: Duration = Duration::from_millis(50);

const PARTS: usize = 5;

fn main() {
    // `cargo bench` and `cargo test --benches` add arguments of their own.
    let requests = std::env::args().find_map(|argument| argument.parse::<usize>().ok()).unwrap_or(400);
    let backend = backend();
    let mut options = Options::new(Source::Text { name: "bench".into(), text: config(backend) });
    options.access_log = Some(Box::new(std::io::sink()));
    options.workers = 1;
    let running = Running::start(options).expect("the configuration is good");
    let mut client = Client::to(running.address("http").expect("it has a listener"));

    let mut direct = Client::to(backend);
    let mut late: Vec<Duration> = (0..requests).map(|_| client.get("/slow")).collect();
    let mut one: Vec<Duration> = (0..requests).map(|_| direct.get("/slow/p0")).collect();
    println!("{PARTS} parts of {SLOW:?}, {requests} aggregates one after the other:");
    println!("  aggregate: {}", quantiles(&mut late));
    println!("  one part, asked directly: {}", quantiles(&mut one));

    let rounds = 10 * requests;
    let (mut together, mut apart) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        together.push(processor_time(|| (0..rounds).for_each(|_| client.fetch("/fast"))) / rounds as u32);
        apart.push(
            processor_time(|| {
                for _ in 0..rounds {
                    (0..PARTS).for_each(|part| client.fetch(&format!("/fast/p{part}")));
                }
            }) / rounds as u32,
        );
    }
    println!("processor time of the worker, {PARTS} documents of 2 KiB, least of five rounds of {rounds}:");
    println!("  one aggregate: {:?}", together.iter().min().unwrap_or(&Duration::ZERO));
    println!("  {PARTS} separate requests: {:?}", apart.iter().min().unwrap_or(&Duration::ZERO));

    let document = bytes::Bytes::from(document("x"));
    let parts: Vec<Json> = (0..PARTS).map(|_| Json::check(document.clone()).expect("it is JSON")).collect();
    let keys: Vec<String> = (0..PARTS).map(|part| format!("\"p{part}\"")).collect();
    let least = |work: &dyn Fn()| {
        let round = || {
            let began = Instant::now();
            (0..1000).for_each(|_| work());
            began.elapsed() / 1000
        };
        (0..20).map(|_| round()).min().unwrap_or_default()
    };
    println!("check one document of {} bytes: {:?}", document.len(), least(&|| drop(Json::check(document.clone()))));
    for (name, mode) in [("group", MergeMode::Group), ("flat", MergeMode::Flat), ("deep", MergeMode::Deep)] {
        let shares: Vec<Share<'_>> = parts
            .iter()
            .zip(&keys)
            .map(|(part, key)| Share { key: (mode == MergeMode::Group).then_some(key.as_bytes()), value: part.view() })
            .collect();
        println!("merge {PARTS}, {name}: {:?}", least(&|| drop(merge(mode, OnConflict::Last, &shares))));
    }
    running.stop();
}

fn config(backend: SocketAddr) -> String {
    let parts = |kind: &str| -> String {
        (0..PARTS).map(|part| format!("        p{part}: {{upstream: app, path: /{kind}/p{part}}}\n")).collect()
    };
    format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nlisteners:\n  - {{name: http, address: \"127.0.0.1:0\"}}\n\
         upstreams:\n  app: {{endpoints: [\"http://{backend}\"]}}\nroutes:\n  \
         - name: slow\n    match: {{path: /slow}}\n    aggregate:\n      parts:\n{}  \
         - name: fast\n    match: {{path: /fast}}\n    aggregate:\n      parts:\n{}  \
         - name: rest\n    match: {{path: \"/{{rest...}}\"}}\n    proxy: {{upstream: app}}\n",
        parts("slow"),
        parts("fast")
    )
}

/// About 2 KiB of JSON.
fn document(name: &str) -> String {
    let item = |number: usize| {
        format!(
            "{{\"id\":{},\"name\":\"{name} {number}\",\"price\":{number}.90,\"tags\":[\"a\",\"b\"],\"ok\":true}}",
            9_007_199_254_740_993 + number
        )
    };
    let items: Vec<String> = (0..26).map(item).collect();
    format!("{{\"items\":[{}],\"total\":26}}", items.join(","))
}

fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reading).lines();
    let body = document("part");
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    while let Some(Ok(first)) = lines.next() {
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        if first.contains("/slow") {
            // This thread is the back end's, and has nothing else to do.
            #[expect(clippy::disallowed_methods, reason = "a slow back end is what is measured")]
            thread::sleep(SLOW);
        }
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Self(BufReader::new(stream))
    }

    /// How long it took.
    fn get(&mut self, path: &str) -> Duration {
        let began = Instant::now();
        self.fetch(path);
        began.elapsed()
    }

    fn fetch(&mut self, path: &str) {
        self.0.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).expect("it reads");
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("it answers");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            assert!(!line.starts_with("HTTP/1.1") || line.contains("200"), "{line}");
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the whole body");
    }
}

/// What of a processor armiger's worker took for `work`.
fn processor_time(work: impl FnOnce()) -> Duration {
    let now = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
        let of_worker = |path: &std::path::Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("worker-"))
        };
        let taken: u64 = tasks
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| of_worker(path))
            .filter_map(|path| std::fs::read_to_string(path.join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum();
        Duration::from_nanos(taken)
    };
    let before = now();
    work();
    now() - before
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", at(0.5), at(0.99), at(1.0))
}
