//! What an edit costs: the time of a reload, and what the traffic beside it notices.
//!
//! ```text
//! cargo bench --bench reload -- [ROUTES [SECONDS]]
//! ```
//!
//! Starts armiger on a file of so many routes (5,000) in front of a back end, asks it a few thousand times a second, first
//! without and then with an edit per second, and prints the reload's duration and the latencies of both.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use armiger::app::{Options, Running, Source};

/// Connections that ask, and how long each rests after an answer.
const CONNECTIONS: usize = 4;
const REST: Duration = Duration::from_millis(1);

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn main() {
    // `cargo bench` and `cargo test --benches` add arguments of their own.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let routes = numbers.next().unwrap_or(5000);
    let seconds = numbers.next().unwrap_or(10);

    let backend = backend();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.yaml");
    let edit = |number: u64| {
        let new = folder.path().join("new.yaml");
        std::fs::write(&new, config(routes, number, backend)).expect("a temporary file");
        std::fs::rename(&new, &file).expect("a temporary file");
    };
    edit(0);
    let mut options = Options::new(Source::File(file.clone()));
    options.access_log = Some(Box::new(std::io::sink()));
    options.workers = 1;
    let running = Running::start(options).expect("the configuration is good");
    let address = running.address("http").expect("it has a listener");

    let quiet = measure(address, Duration::from_secs(seconds), || {});
    let before = reloads(&running);
    let mut number = 0;
    let edited = measure(address, Duration::from_secs(seconds), || {
        number += 1;
        edit(number);
    });
    let after = reloads(&running);

    println!("{routes} routes, {number} edits in {seconds} s, {CONNECTIONS} connections");
    println!("without edits: {quiet}");
    println!("with edits:    {edited}");
    let (count, sum) = (after.0 - before.0, after.1 - before.1);
    println!(
        "reloads: {count}, {:.0} ms each from the end of the wait for quiet to the swap",
        sum / count as f64 * 1e3
    );
    running.stop();
}

fn config(routes: u64, number: u64, backend: SocketAddr) -> String {
    let mut text = format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nlisteners:\n  - {{name: http, address: \"127.0.0.1:0\"}}\n\
         upstreams:\n  app: {{endpoints: [\"http://{backend}\"]}}\ndefaults: {{timeout: {}s}}\nroutes:\n",
        number % 50 + 1
    );
    for route in 0..routes {
        let _ = writeln!(
            text,
            "  - {{name: r{route}, match: {{path: \"/{}/{route}/{{id}}\"}}, proxy: {{upstream: app}}}}",
            route % 97
        );
    }
    text
}

/// How many reloads there were, and how long they took together.
fn reloads(running: &Running) -> (u64, f64) {
    let text = running.metrics().render();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or(0.0)
    };
    (value("armiger_config_reload_duration_seconds_count") as u64, value("armiger_config_reload_duration_seconds_sum"))
}

struct Latencies(Vec<Duration>);

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |share: f64| {
            let place = ((self.0.len() as f64 * share) as usize).min(self.0.len() - 1);
            self.0[place].as_secs_f64() * 1e3
        };
        write!(
            f,
            "{} requests, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, most {:.2} ms",
            self.0.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}

/// The latencies of a while, with something done once a second.
fn measure(address: SocketAddr, how_long: Duration, mut each_second: impl FnMut()) -> Latencies {
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let is_over = is_over.clone();
            thread::spawn(move || client(address, &is_over))
        })
        .collect();
    let end = Instant::now() + how_long;
    while Instant::now() < end {
        each_second();
        thread::park_timeout(Duration::from_secs(1));
    }
    is_over.store(true, Ordering::Relaxed);
    let mut all: Vec<Duration> =
        clients.into_iter().flat_map(|client| client.join().expect("no request fails")).collect();
    all.sort();
    Latencies(all)
}

fn client(address: SocketAddr, is_over: &AtomicBool) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).expect("armiger listens");
    stream.set_nodelay(true).expect("a connected socket takes options");
    let mut latencies = Vec::new();
    let mut buffer = [0; 4096];
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream.write_all(b"GET /7/7/x HTTP/1.1\r\nhost: a\r\n\r\n").expect("armiger reads");
        let length = stream.read(&mut buffer).expect("armiger answers");
        let answer = &buffer[..length];
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(answer));
        latencies.push(began.elapsed());
        thread::park_timeout(REST);
    }
    latencies
}

/// A back end that answers every head at once.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) && stream.write_all(ANSWER).is_ok() {}
            });
        }
    });
    address
}
