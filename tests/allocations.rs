//! The ledger of the hot path: what a plain proxied request allocates on its worker.
//!
//! A binary of its own, for it replaces the global allocator. Threads of the test itself, client and back end, do not
//! count; what remains is armiger, with its ends of HTTP/1.1. The bound is what was measured (0.1), and room
//! for a log buffer now and then: a change that puts an allocation on the path fails here.

#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use armiger::app::{Options, Running, Source};
use armiger::config::identity::{Algorithm, Encoding};
use armiger::identity::mint::Signer;

/// Allocations per plain proxied GET, keep-alive on both sides, access log on, in the steady state.
///
/// The buffers of both ends and the map of the fields go round: what a request leaves is what the next one uses.
const PER_REQUEST_MAX: f64 = 0.5;

/// Allocations that a known token may cost beyond that, with what is asked of its caller.
const KNOWN_TOKEN_MAX: f64 = 0.5;

/// The same of a GET that is answered from the cache. The answer's own head, of which each has a copy, most of all.
const PER_HIT_MAX: f64 = 4.6;

const ROUNDS: u64 = 2_000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: hands everything to the system's allocator and only counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if !IS_OURS.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers every request head with the same bytes.
fn back_end() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        IS_OURS.set(true);
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                IS_OURS.set(true);
                let mut bytes = [0; 4096];
                let mut seen = 0;
                while let Ok(length) = stream.read(&mut bytes[seen..]) {
                    seen += length;
                    if length == 0 {
                        return;
                    }
                    if bytes[..seen].ends_with(b"\r\n\r\n") {
                        seen = 0;
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
                        stream.write_all(answer).expect("the answer goes out");
                    }
                }
            });
        }
    });
    address
}

fn ask(stream: &mut TcpStream, more: &str) {
    let request = format!(
        "GET /orders/7?x=1 HTTP/1.1\r\nhost: api.example.com\r\nuser-agent: ledger\r\naccept: */*\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the request goes out");
    let mut answer = [0; 2048];
    let mut seen = 0;
    while !answer[..seen].ends_with(b"\r\n\r\nok") {
        let length = stream.read(&mut answer[seen..]).expect("an answer comes");
        assert!(length > 0, "cut: {}", String::from_utf8_lossy(&answer[..seen]));
        seen += length;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..seen]));
}

/// Allocations per request in the steady state, with these sections and policies, and these lines in the head.
fn per_request(sections: &str, policies: &str, more: &str) -> f64 {
    // The counter is everybody's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    IS_OURS.set(true);
    let text = format!(
        "listeners: [{{name: http, address: 127.0.0.1:0}}]\n\
         admin: {{address: 127.0.0.1:0}}\n\
         upstreams: {{app: {{endpoints: [\"http://{}\"]}}}}\n\
         {sections}\n\
         routes: [{{name: all, match: {{path: \"/{{rest...}}\"}}, policies: {policies}, proxy: {{upstream: app}}}}]\n",
        back_end()
    );
    let options = Options {
        workers: 1,
        access_log: Some(Box::new(std::io::sink())),
        ..Options::new(Source::Text { name: "ledger.yaml".into(), text })
    };
    let running = Running::start(options).expect("armiger starts");
    let mut stream = TcpStream::connect(running.address("http").expect("the listener")).expect("connects");
    for _ in 0..ROUNDS {
        ask(&mut stream, more);
    }

    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..ROUNDS {
        ask(&mut stream, more);
    }
    let each = (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / ROUNDS as f64;
    running.stop();
    each
}

#[test]
fn a_plain_request_allocates_no_more_than_the_ledger_says() {
    let each = per_request("", "{}", "");

    println!("{each:.2} allocations per request");
    assert!(each <= PER_REQUEST_MAX, "{each:.2} allocations per request, the ledger allows {PER_REQUEST_MAX}");
}

#[test]
fn a_hit_of_the_cache_allocates_no_more_than_the_ledger_says() {
    let each = per_request("", "{cache: {ttl: {default: 1h}}}", "");

    println!("{each:.2} allocations per hit");
    assert!(each <= PER_HIT_MAX, "{each:.2} allocations per hit, the ledger allows {PER_HIT_MAX}");
}

/// The signature was checked once; from then on a token costs a look-up, roles and rules a comparison.
#[test]
fn a_known_token_allocates_next_to_nothing() {
    const SECRET: &str = "a-secret-for-the-ledger-that-is-long-enough";
    let signer = Signer::secret(SECRET, Encoding::Text, &[Algorithm::HS256]).expect("a secret");
    let claims = serde_json::json!({
        "iss": "i", "aud": "a", "sub": "ada", "exp": 4_000_000_000_i64, "roles": ["user"], "orders": ["7"], "plan": "paid",
    });
    let token = signer.token(None, claims.as_object().expect("an object")).expect("signs");
    let sections = format!(
        "identity: {{staff: {{jwt: {{issuer: i, audiences: [a], algorithms: [HS256], \
         keys: {{secret: \"${{env:ARMIGER_TEST_NOT_SET:-{SECRET}}}\"}}}}}}}}"
    );
    let more = format!("authorization: Bearer {token}\r\n");
    let plain = per_request("", "{}", &more);

    for (policies, most) in [
        ("{identity: {providers: [staff]}, roles: {any: [user]}}", KNOWN_TOKEN_MAX),
        (
            "{identity: {providers: [staff]}, rules: [{allow: \"'admin' in roles || claims.plan == 'paid' && '7' in claims.orders\"}]}",
            KNOWN_TOKEN_MAX,
        ),
    ] {
        let extra = per_request(&sections, policies, &more) - plain;
        println!("{extra:.2} allocations more: {policies}");
        assert!(
            extra <= most,
            "{extra:.2} allocations more than a plain request, the ledger allows {most}: {policies}"
        );
    }
}
