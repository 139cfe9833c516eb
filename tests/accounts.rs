//! Every exchange is accounted for once, however it ends: one line of the log, one count, nothing left in flight; and of a
//! refusal answer, log and metric tell the same.

use std::pin::Pin;
use std::task::{Context, Poll};

use armiger::exchange::Reason;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::Full;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Connection, Response, SECRET_YAML, Script, answer, streamed};

// === refusals ===

/// How the refusal of a reason is brought about: on the route of its name, or without one.
struct Refusal {
    slug: &'static str,
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    /// How often it has to be asked until it is refused.
    times: usize,
    /// Whether that takes another request that is under way.
    beside: bool,
}

const fn asked(slug: &'static str, method: &'static str, target: &'static str) -> Refusal {
    Refusal { slug, method, target, headers: &[], body: "", times: 1, beside: false }
}

const fn get(target: &'static str) -> Refusal {
    let (_, slug) = target.split_at(1);
    asked(slug, "GET", target)
}

/// Those that any client can bring about, in any form.
const REFUSALS: &[Refusal] = &[
    get("/address-blocked"),
    Refusal { body: "hello", ..asked("body-too-large", "POST", "/body-too-large") },
    get("/token-missing"),
    Refusal { headers: &[("authorization", "Bearer x.y.z")], ..get("/token-invalid") },
    Refusal { headers: &[("x-api-key", "a"), ("x-api-key", "b")], ..get("/credential-ambiguous") },
    get("/forbidden"),
    Refusal { times: 2, ..get("/rate-limited") },
    Refusal { times: 3, ..get("/banned") },
    get("/cost-too-high"),
    get("/limit-key-missing"),
    Refusal { beside: true, ..get("/too-many-in-flight") },
    Refusal { beside: true, ..get("/route-busy") },
    get("/no-route"),
    get("/method-not-allowed"),
    asked("bad-path", "GET", "/%2e%2e/a"),
    Refusal { headers: &[("content-type", "text/x"), ("content-type", "text/y")], ..get("/bad-header") },
    get("/upstream-connect"),
    get("/upstream-dns"),
    get("/upstream-reset"),
    get("/upstream-protocol"),
    get("/upstream-timeout"),
    get("/deadline-exceeded"),
    Refusal { beside: true, ..get("/upstream-overloaded") },
    get("/no-endpoint"),
    Refusal { times: 2, ..get("/breaker-open") },
    Refusal { headers: &[("cache-control", "only-if-cached")], ..get("/not-cached") },
    Refusal { headers: &[("via", "1.1 accounts")], ..get("/loop-detected") },
];

/// Those of actions that look into bodies, and speak no gRPC.
const OF_DOCUMENTS: &[Refusal] = &[
    Refusal { headers: &[("content-type", "application/json")], body: "{}", ..asked("bad-body", "POST", "/batch") },
    Refusal { headers: &[("content-type", "text/x")], body: "[]", ..asked("unsupported-media-type", "POST", "/batch") },
    get("/part-failed"),
    get("/part-timeout"),
    get("/merge-conflict"),
    get("/aggregate-too-large"),
    asked("saga-compensated", "POST", "/saga-compensated"),
    asked("saga-compensation-failed", "POST", "/saga-compensation-failed"),
];

/// Those of HTTP/1.1's own grammar, where `LONG` is too long for its place.
const OF_BYTES: &[(&str, &str)] = &[
    ("bad-framing", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("bad-host", "GET / HTTP/1.1\r\n\r\n"),
    ("bad-version", "GET / HTTP/3.0\r\nhost: a\r\n\r\n"),
    ("not-implemented", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n"),
    ("target-too-long", "GET /LONG HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("header-too-long", "GET / HTTP/1.1\r\nhost: a\r\na: LONG\r\n\r\n"),
    (
        "headers-too-large",
        "GET / HTTP/1.1\r\nhost: a\r\na: 1\r\na: 2\r\na: 3\r\na: 4\r\na: 5\r\na: 6\r\na: 7\r\na: 8\r\na: 9\r\n\r\n",
    ),
    (
        "request-timeout",
        "POST /batch HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n[",
    ),
];

/// Brought about elsewhere, as each takes a stage of its own: the file that does.
const ELSEWHERE: &[(&str, &str)] = &[
    ("answer-too-large", "here, within a batch"),
    ("overloaded", "here, by a listener of its own"),
    ("client-closed", "here, by clients that leave"),
    ("draining", "drain.rs"),
    ("certificate-over", "tls.rs"),
    ("upstream-tls", "tls.rs"),
    ("upstream-certificate", "tls.rs"),
    ("upstream-tls-timeout", "tls.rs"),
    ("upstream-connect-timeout", "upstream_faults.rs"),
    ("no-socket", "descriptors.rs"),
    ("identity-unavailable", "introspection.rs"),
    ("limit-unavailable", "rate_limit_shared.rs"),
    ("request-too-slow", "slow_clients.rs"),
    ("breaker-probing", "a matter of moments: src/upstream/breaker"),
    ("saga-compensating", "saga.rs"),
    ("internal", "a defect"),
];

#[test]
fn every_reason_has_its_place_here() {
    let named = REFUSALS.iter().chain(OF_DOCUMENTS).map(|refusal| refusal.slug);
    let mut named: Vec<&str> = named.chain(OF_BYTES.iter().chain(ELSEWHERE).map(|(slug, _)| *slug)).collect();
    let mut reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.slug()).collect();
    named.sort_unstable();
    reasons.sort_unstable();
    assert_eq!(named, reasons);
}

/// A route for each reason, called after it.
const ROUTES: &str = r#"
- {name: address-blocked, match: {path: /address-blocked}, policies: {ip_filter: {deny: [127.0.0.0/8]}}, respond: {}}
- {name: body-too-large, match: {path: /body-too-large}, policies: {body_limit: {max: 1B}}, respond: {}}
- {name: token-missing, match: {path: /token-missing}, policies: {identity: {providers: [staff]}}, respond: {}}
- {name: token-invalid, match: {path: /token-invalid}, policies: {identity: {providers: [staff]}}, respond: {}}
- {name: credential-ambiguous, match: {path: /credential-ambiguous}, policies: {identity: {providers: [keys]}}, respond: {}}
- {name: forbidden, match: {path: /forbidden}, policies: {rules: [{allow: "true"}, {deny: "true"}]}, respond: {}}
- name: rate-limited
  match: {path: /rate-limited}
  policies: {rate_limit: [{name: rate, rate: 1/h, burst: 1, by: [constant]}]}
  respond: {}
- name: banned
  match: {path: /banned}
  policies: {rate_limit: [{name: ban, rate: 1/h, burst: 1, by: [constant], ban: {after: 1, within: 1h, for: 1h}}]}
  respond: {}
- name: cost-too-high
  match: {path: /cost-too-high}
  policies: {rate_limit: [{name: cost, rate: 1/h, burst: 1, by: [constant], cost: "9 * size(method)"}]}
  respond: {}
- name: limit-key-missing
  match: {path: /limit-key-missing}
  policies: {rate_limit: [{name: key, rate: 1/h, by: ["header:x-none"], on_missing: deny}]}
  respond: {}
- name: too-many-in-flight
  match: {path: /too-many-in-flight}
  policies: {in_flight: [{name: one, max: 1}]}
  proxy: {upstream: hangs}
- name: route-busy
  match: {path: /route-busy}
  policies: {in_flight: [{name: busy, max: 1, by: [route]}]}
  proxy: {upstream: hangs}
- {name: method-not-allowed, match: {path: /method-not-allowed, methods: [PUT]}, respond: {}}
- {name: bad-header, match: {path: /bad-header}, proxy: {upstream: well}}
- {name: upstream-connect, match: {path: /upstream-connect}, proxy: {upstream: gone}}
- {name: upstream-dns, match: {path: /upstream-dns}, proxy: {upstream: nobody}}
- {name: upstream-reset, match: {path: /upstream-reset}, proxy: {upstream: resets}}
- {name: upstream-protocol, match: {path: /upstream-protocol}, proxy: {upstream: babbles}}
- {name: upstream-timeout, match: {path: /upstream-timeout}, proxy: {upstream: late}}
- {name: deadline-exceeded, match: {path: /deadline-exceeded}, timeout: 50ms, proxy: {upstream: hangs}}
- {name: upstream-overloaded, match: {path: /upstream-overloaded}, proxy: {upstream: narrow}}
- {name: no-endpoint, match: {path: /no-endpoint}, proxy: {upstream: ill}}
- {name: breaker-open, match: {path: /breaker-open}, proxy: {upstream: broken}}
- {name: not-cached, match: {path: /not-cached}, policies: {cache: {}}, proxy: {upstream: well}}
- {name: loop-detected, match: {path: /loop-detected}, proxy: {upstream: well}}
- {name: batch, match: {path: /batch, methods: [POST]}, batch: {item_answer_max: 64B, deadline: 200ms}}
- name: part-failed
  match: {path: /part-failed}
  aggregate: {parts: {a: {upstream: well, path: /500, required: true}}}
- name: part-timeout
  match: {path: /part-timeout}
  aggregate: {parts: {a: {upstream: hangs, path: /, required: true, timeout: 20ms}}}
- name: merge-conflict
  match: {path: /merge-conflict}
  aggregate: {merge: {mode: flat}, parts: {a: {upstream: well, path: /}, b: {upstream: well, path: /other}}}
- name: aggregate-too-large
  match: {path: /aggregate-too-large}
  aggregate: {body_max: 64B, parts: {a: {upstream: well, path: /}, b: {upstream: well, path: /}}}
- name: saga-compensated
  match: {path: /saga-compensated, methods: [POST]}
  saga_in_memory:
    steps:
      a: {upstream: well, path: /, compensate: {method: DELETE, path: /undo}}
      b: {upstream: well, path: /400, compensate: {method: DELETE, path: /}}
- name: saga-compensation-failed
  match: {path: /saga-compensation-failed, methods: [POST]}
  saga_in_memory:
    steps:
      a: {upstream: well, path: /, compensate: {method: DELETE, path: /400}}
      b: {upstream: well, path: /400, compensate: {method: DELETE, path: /}}
- {name: long, match: {path: /long}, proxy: {upstream: well}}
- {name: hangs, match: {path: /hangs}, proxy: {upstream: hangs}}
"#;

/// Back ends, each with a fault of its own.
struct Backends {
    well: Backend,
    hangs: Backend,
    gone: Backend,
    resets: Backend,
    babbles: Backend,
}

impl Backends {
    async fn new() -> Self {
        let well = Backend::with(|seen| match seen.target.as_str() {
            "/500" | "/breaker-open" => answer(500, "{}"),
            "/400" => answer(400, "{}"),
            "/other" => answer(200, "{\"key\":\"another\"}"),
            _ => answer(200, "{\"key\":\"of some length, so that twice or in a batch it is too long for its bound\"}"),
        })
        .await;
        let mut gone = Backend::replies("").await;
        gone.stop();
        Self {
            well,
            hangs: Backend::raw(Script::new().request().hang()).await,
            gone,
            resets: Backend::raw(Script::new().request().reset()).await,
            babbles: Backend::raw(Script::new().request().write("no HTTP at all\r\n\r\n")).await,
        }
    }

    fn config(&self) -> Config {
        let [well, hangs, gone, resets, babbles] =
            [&self.well, &self.hangs, &self.gone, &self.resets, &self.babbles].map(Backend::url);
        let hash = armiger::identity::api_key::hash("a-key-that-nobody-could-guess");
        Config::empty()
            .top(&format!(
                "
                identity:
                  staff: {{jwt: {{issuer: i, audiences: [a], keys: {{secret: {SECRET_YAML}}}}}}}
                  keys: {{api_keys: {{header: x-api-key, keys: [{{hash: \"{hash}\", subject: s}}]}}}}
                upstreams:
                  well: {{endpoints: [\"{well}\"]}}
                  hangs: {{endpoints: [\"{hangs}\"]}}
                  gone: {{endpoints: [\"{gone}\"]}}
                  resets: {{endpoints: [\"{resets}\"]}}
                  babbles: {{endpoints: [\"{babbles}\"]}}
                  nobody: {{endpoints: [\"http://nobody.invalid:3000\"], timeouts: {{connect: 500ms}}}}
                  late: {{endpoints: [\"{hangs}\"], timeouts: {{first_byte: 50ms}}}}
                  narrow: {{endpoints: [\"{hangs}\"], limits: {{in_flight_max: 1}}}}
                  ill: {{endpoints: [\"{hangs}\"], health: {{path: /, start: ill}}}}
                  broken: {{endpoints: [\"{well}\"], breaker: {{trip: {{consecutive: 1}}, open_for: {{base: 1m}}}}}}
                "
            ))
            .listener("via: accounts")
            .listener("timeouts: {body_idle: 300ms}")
            .listener("limits: {target_bytes_max: 256B, header_value_bytes_max: 256B, headers_max: 8}")
            .routes(ROUTES)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Http1,
    Http2,
    Grpc,
}

impl Form {
    async fn connect(self, armiger: &Armiger) -> Connection {
        if self == Self::Http1 { armiger.connect().await } else { armiger.connect_h2c().await }
    }
}

async fn ask(connection: &mut Connection, refusal: &Refusal, form: Form) -> Response {
    let mut request = Request::builder().method(refusal.method).uri(refusal.target);
    for (name, value) in refusal.headers {
        request = request.header(*name, *value);
    }
    if form == Form::Grpc && refusal.slug != "bad-header" {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    connection.request(request.body(Full::new(Bytes::from(refusal.body))).unwrap()).await
}

/// Where answer, log and table do not tell the same of a refusal.
async fn mismatches(armiger: &Armiger, response: &Response, slug: &str, form: Form) -> Vec<String> {
    let reason = Reason::ALL.iter().find(|reason| reason.slug() == slug).expect("a reason");
    let facts = reason.facts();
    let id = response.header("x-request-id");
    let line = armiger.logged(|line| line["request_id"] == id).await;
    let word = response.headers.get("proxy-status").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let word = word.strip_prefix("armiger; error=").unwrap_or_default();
    let mut expected = vec![
        ("reason of the line", line["reason"].clone(), json!(slug)),
        ("status of the line", line["status"].clone(), json!(response.status)),
        ("complete", line["complete"].clone(), json!(true)),
        ("bytes_out", line["bytes_out"].clone(), json!(response.body.len())),
    ];
    // What is known better than the row knows it stands in its place.
    if !["connection_refused", "connection_terminated", "http_response_incomplete"].contains(&word) {
        expected.push(("error of Proxy-Status", json!(word), json!(facts.proxy_status)));
    }
    if form == Form::Grpc && slug != "bad-header" {
        expected.push(("status", json!(response.status), json!(200)));
        let told = response.headers.get("grpc-status").and_then(|value| value.to_str().ok());
        expected.push(("grpc-status", json!(told), json!(facts.grpc.to_string())));
        expected.push(("grpc_status of the line", json!(line["grpc_status"].is_string()), json!(true)));
    } else {
        let kind = reason.kind().map_or(format!("urn:armiger:{slug}"), str::to_owned);
        expected.push(("status", json!(response.status), json!(facts.status.as_u16())));
        let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        expected.push(("type", problem["type"].clone(), json!(kind)));
    }
    expected.retain(|(_, told, due)| told != due);
    expected
        .iter()
        .map(|(what, told, due)| format!("{slug} {form:?}: {what} is {told}, and not {due}: {line}"))
        .collect()
}

#[tokio::test]
async fn a_refusal_is_told_alike_by_answer_log_and_metric_in_each_form() {
    let backends = Backends::new().await;
    let mut wrong = Vec::new();
    for form in [Form::Http1, Form::Http2, Form::Grpc] {
        let armiger = Armiger::with(backends.config()).await;
        let mut connection = form.connect(&armiger).await;
        let mut count = 0;
        let of_documents: &[Refusal] = if form == Form::Grpc { &[] } else { OF_DOCUMENTS };
        for refusal in REFUSALS.iter().chain(of_documents) {
            let beside = if refusal.beside {
                let raw = armiger.raw(format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", refusal.target)).await;
                let in_flight = format!("armiger_http_requests_in_flight{{route=\"{}\"}}", refusal.slug);
                armiger.until_metric(&in_flight, 1.0).await;
                let asked = backends.hangs.arrived(1).await.len();
                assert!(asked > 0);
                count += 1;
                Some(raw)
            } else {
                None
            };
            let mut last = None;
            for _ in 0..refusal.times {
                last = Some(ask(&mut connection, refusal, form).await);
                count += 1;
            }
            let last = last.expect("asked once at least");
            wrong.extend(mismatches(&armiger, &last, refusal.slug, form).await);
            let route = if ["no-route", "bad-path", "method-not-allowed", "loop-detected", "bad-header"]
                .contains(&refusal.slug)
            {
                "(none)"
            } else {
                &refusal.target[1..]
            };
            let refused = format!("armiger_rejections_total{{reason=\"{}\",route=\"{route}\"}}", refusal.slug);
            let counted = armiger.metric(&refused).await;
            if counted != 1.0 {
                wrong.push(format!("{form:?}: {refused} is {counted}"));
            }
            drop(beside);
        }
        if form == Form::Http1 {
            for (slug, bytes) in OF_BYTES {
                let response = armiger.raw(bytes.replace("LONG", &"a".repeat(300))).await.answer().await;
                count += 1;
                wrong.extend(mismatches(&armiger, &response, slug, form).await);
            }
        }
        drop(connection);
        let (lines, found) = armiger.books().await;
        wrong.extend(found.iter().map(|found| format!("{form:?}: {found}")));
        if lines.len() != count {
            wrong.push(format!("{form:?}: {count} exchanges, and {} lines", lines.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_listener_that_has_enough_says_so_in_the_same_way() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {in_flight_max: 1}")).await;
    let first = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.arrived(1).await;

    let refused = armiger.get("/").await;

    assert_eq!(mismatches(&armiger, &refused, "overloaded", Form::Http1).await, [""; 0]);
    drop(first);
    assert_eq!(armiger.close_books().await.len(), 2);
}

// === requests within a batch ===

#[tokio::test]
async fn what_armiger_gives_up_within_a_batch_is_not_put_down_to_the_client() {
    let backends = Backends::new().await;
    let armiger = Armiger::with(backends.config()).await;
    let request = Request::post("/batch").header("content-type", "application/json");
    let body = r#"[{"id":"long","path":"/long"},{"id":"late","path":"/hangs"}]"#;

    let response = armiger.request(request.body(Full::new(Bytes::from(body))).unwrap()).await;

    let entries = response.assert_status(200).json();
    assert_eq!((&entries[0]["status"], &entries[1]["status"]), (&json!(502), &json!(504)), "{entries:#}");
    let lines = armiger.close_books().await;
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (route, slug) in [("long", "answer-too-large"), ("hangs", "deadline-exceeded")] {
        let line = lines.iter().find(|line| line["route"] == route).expect("a line");
        assert_eq!((&line["reason"], &line["cut_by"]), (&json!(slug), &json!("deadline")), "{line:#}");
    }
}

// === ends ===

type Run<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A way in which exchanges end, and what the log tells of each: status, reason, and who cut it.
struct End {
    name: &'static str,
    backend: fn() -> Pin<Box<dyn Future<Output = Backend>>>,
    config: &'static str,
    run: for<'a> fn(&'a Armiger, &'a Backend) -> Run<'a>,
    lines: &'static [(u16, &'static str, &'static str)],
}

/// A back end that follows a script, on each of its connections.
macro_rules! script {
    ($($step:tt)*) => { || Box::pin(Backend::raw(Script::new()$($step)*)) };
}

macro_rules! run {
    (|$armiger:ident, $backend:ident| $run:expr) => {
        |$armiger, $backend| {
            Box::pin(async move {
                let _ = &$backend;
                $run
            })
        }
    };
}

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn well() -> Backend {
    Backend::replies("ok").await
}

/// Answers with a part of a body, and no more.
async fn halting() -> Backend {
    Backend::raw(Script::new().request().write(HALF).hang()).await
}

fn request(method: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri("/").body(Full::default()).unwrap()
}

/// A body that begins, and goes no further.
struct Halting(bool);

impl Body for Halting {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
    }
}

/// A call of gRPC.
async fn call(armiger: &Armiger) -> Result<Response, hyper::Error> {
    let call = Request::post("/test.Echo/Call").header("content-type", "application/grpc").header("te", "trailers");
    armiger.connect_h2c().await.try_request(call.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap()).await
}

/// A service of gRPC: a message, then its status as a trailer, or nothing.
async fn service(status: Option<&'static str>) -> Backend {
    Backend::serving(move |_| async move {
        let (chunks, mut answer) = streamed(200);
        answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        tokio::task::spawn_local(async move {
            chunks.data(Bytes::from_static(&[0; 5])).await;
            match status {
                Some(status) => {
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        HeaderValue::from_static(status),
                    )]);
                    chunks.trailers(trailers).await;
                }
                None => chunks.cut().await,
            }
        });
        answer
    })
    .await
}

fn ends() -> Vec<End> {
    let end = |name, backend, run, lines| End { name, backend, config: "", run, lines };
    let ends_of_calls = |name, backend, lines| End {
        config: "protocol: h2c",
        ..end(name, backend, run!(|armiger, _backend| drop(call(armiger).await)), lines)
    };
    vec![
        end(
            "a whole answer",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                armiger.get("/").await.assert_status(200);
                armiger.connect_h2c().await.get("/").await.assert_status(200);
            }),
            &[(200, "", ""), (200, "", "")],
        ),
        end(
            "two requests in one write",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                armiger.raw(format!("{GET}{GET}")).await.answers(2).await;
            }),
            &[(200, "", ""), (200, "", "")],
        ),
        end(
            "HEAD",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                armiger.connect().await.request(request("HEAD")).await.assert_status(200);
                armiger.connect_h2c().await.request(request("HEAD")).await.assert_status(200);
            }),
            &[(200, "", ""), (200, "", "")],
        ),
        end(
            "204",
            script!(.request().write("HTTP/1.1 204 No Content\r\n\r\n").again()),
            run!(|armiger, _backend| {
                armiger.get("/").await.assert_status(204);
                armiger.connect_h2c().await.get("/").await.assert_status(204);
            }),
            &[(204, "", ""), (204, "", "")],
        ),
        end(
            "304",
            script!(.request().write("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n").again()),
            run!(|armiger, _backend| {
                armiger.get("/").await.assert_status(304);
                armiger.connect_h2c().await.get("/").await.assert_status(304);
            }),
            &[(304, "", ""), (304, "", "")],
        ),
        end(
            "OPTIONS *",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                armiger.raw("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await.answer().await.assert_status(204);
            }),
            &[(204, "", "")],
        ),
        end(
            "interim answers",
            script!(.request().write(format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{WHOLE}")).again()),
            run!(|armiger, _backend| {
                let mut raw = armiger.raw(GET).await;
                while raw.answer().await.status < 200 {}
                armiger.connect_h2c().await.get("/").await.assert_status(200);
            }),
            &[(200, "", ""), (200, "", "")],
        ),
        end(
            "an interim answer of ours",
            || Box::pin(Backend::echo()),
            run!(|armiger, _backend| {
                let mut raw = armiger
                    .raw("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
                    .await;
                raw.answer().await.assert_status(100);
                raw.write("hi").await.answer().await.assert_status(200);
            }),
            &[(200, "", "")],
        ),
        end(
            "an answer ahead of the body",
            script!(.head().write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").hang()),
            run!(|armiger, _backend| {
                let mut raw = armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\npart").await;
                raw.answer().await.assert_status(200);
            }),
            &[(200, "", "")],
        ),
        end(
            "the client leaves within a head",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                armiger.raw("GET / HTTP/1.1\r\nho").await.reset();
                armiger.raw("GET / HTTP/1.1\r\nho").await.finish().await.rest().await;
            }),
            &[],
        ),
        end(
            "the client leaves within its body",
            script!(.head().hang()),
            run!(|armiger, backend| {
                let raw = armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\npart").await;
                backend.arrived(1).await;
                raw.reset();
            }),
            &[(0, "client-closed", "client")],
        ),
        end(
            "the client leaves before the answer",
            script!(.request().hang()),
            run!(|armiger, backend| {
                let raw = armiger.raw(GET).await;
                backend.arrived(1).await;
                raw.reset();
            }),
            &[(0, "client-closed", "client")],
        ),
        end(
            "the client leaves within the answer",
            || Box::pin(halting()),
            run!(|armiger, _backend| {
                let mut raw = armiger.raw(GET).await;
                raw.some().await;
                raw.reset();
            }),
            &[(200, "client-closed", "client")],
        ),
        end(
            "the client leaves between two requests",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                let mut raw = armiger.raw(GET).await;
                raw.answer().await;
                raw.reset();
            }),
            &[(200, "", "")],
        ),
        end(
            "a stream is reset before the answer",
            script!(.request().hang()),
            run!(|armiger, backend| {
                let mut connection = armiger.connect_h2c().await;
                let mut other = connection.share();
                tokio::select! {
                    _ = connection.try_request(request("GET")) => panic!("nobody answers"),
                    _ = backend.arrived(1) => {}
                }
                // The stream is reset, and its connection goes on.
                armiger.log_lines(1).await;
                drop(other.request(request("GET")));
            }),
            &[(0, "client-closed", "client")],
        ),
        end(
            "a stream is reset within its body",
            script!(.head().hang()),
            run!(|armiger, backend| {
                let mut connection = armiger.connect_h2c().await;
                let request = Request::post("/").body(Halting(false)).unwrap();
                tokio::select! {
                    _ = connection.try_request(request) => panic!("nobody answers"),
                    _ = backend.arrived(1) => {}
                }
                armiger.log_lines(1).await;
            }),
            &[(0, "client-closed", "client")],
        ),
        end(
            "a stream is reset within the answer",
            || Box::pin(halting()),
            run!(|armiger, _backend| {
                let mut connection = armiger.connect_h2c().await;
                let answer = connection.open(request("GET")).await.unwrap();
                drop(answer);
                armiger.log_lines(1).await;
            }),
            &[(200, "client-closed", "client")],
        ),
        end(
            "a connection ends with two streams",
            script!(.request().hang()),
            run!(|armiger, backend| {
                let mut connection = armiger.connect_h2c().await;
                let mut other = connection.share();
                tokio::select! {
                    _ = connection.try_request(request("GET")) => panic!("nobody answers"),
                    _ = other.try_request(request("GET")) => panic!("nobody answers"),
                    _ = backend.arrived(2) => drop(connection),
                }
            }),
            &[(0, "client-closed", "client"), (0, "client-closed", "client")],
        ),
        end(
            "the upstream cuts its answer",
            script!(.request().write(HALF)),
            run!(|armiger, _backend| {
                armiger.raw(GET).await.try_answer().await.unwrap_err();
                armiger.connect_h2c().await.try_request(request("GET")).await.unwrap_err();
            }),
            &[(200, "upstream-cut", "upstream"), (200, "upstream-cut", "upstream")],
        ),
        End {
            config: "timeouts: {body_idle: 50ms}",
            ..end(
                "the upstream pauses within its answer",
                || Box::pin(halting()),
                run!(|armiger, _backend| {
                    armiger.raw(GET).await.try_answer().await.unwrap_err();
                    armiger.connect_h2c().await.try_request(request("GET")).await.unwrap_err();
                }),
                &[(200, "upstream-idle", "deadline"), (200, "upstream-idle", "deadline")],
            )
        },
        end(
            "a request that goes wrong behind the head of its answer",
            script!(.head().write(HALF).hang()),
            run!(|armiger, _backend| {
                let mut raw =
                    armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
                raw.some().await;
                raw.write("no chunk\r\n").await.rest().await;
            }),
            &[(200, "bad-framing", "client")],
        ),
        end(
            "armiger ends first",
            || Box::pin(halting()),
            run!(|armiger, _backend| {
                let mut raw = armiger.raw(GET).await;
                raw.some().await;
                tokio::spawn(async move { raw.rest().await });
            }),
            &[(200, "draining", "deadline")],
        ),
        end(
            "a tunnel that the client ends",
            script!(.request().write(GRANTED).hang()),
            run!(|armiger, _backend| {
                let mut raw = armiger.raw(UPGRADE).await;
                raw.some().await;
                raw.reset();
            }),
            &[(101, "client-closed", "client")],
        ),
        end(
            "a tunnel that the upstream ends",
            script!(.request().write(GRANTED)),
            run!(|armiger, _backend| {
                armiger.raw(UPGRADE).await.rest().await;
            }),
            &[(101, "", "")],
        ),
        end(
            "a tunnel that is refused",
            || Box::pin(well()),
            run!(|armiger, _backend| {
                armiger.raw(UPGRADE).await.answer().await.assert_status(200);
            }),
            &[(200, "", "")],
        ),
        ends_of_calls("a call that succeeds", || Box::pin(service(Some("0"))), &[(200, "", "")]),
        ends_of_calls("a call that fails", || Box::pin(service(Some("13"))), &[(200, "", "")]),
        ends_of_calls("a call that is cut", || Box::pin(service(None)), &[(200, "upstream-cut", "upstream")]),
    ]
}

const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nab";

const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn each_exchange_is_one_line_and_one_count_however_it_ends() {
    let mut wrong = Vec::new();
    for end in ends() {
        let backend = (end.backend)().await;
        let config = Config::to(&backend).upstream(end.config).top("drain: {delay: 0s, timeout: 300ms}");
        let armiger = Armiger::with(config).await;
        (end.run)(&armiger, &backend).await;
        armiger.log_lines(if end.name == "armiger ends first" { 0 } else { end.lines.len() }).await;
        let (lines, found) = armiger.books().await;
        wrong.extend(found.iter().map(|found| format!("{}: {found}", end.name)));
        let text = |line: &Value, key: &str| line[key].as_str().unwrap_or("").to_owned();
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line["status"].as_u64().unwrap_or(0), text(line, "reason"), text(line, "cut_by")))
            .collect();
        let expected: Vec<_> = end
            .lines
            .iter()
            .map(|(status, reason, by)| (u64::from(*status), (*reason).to_owned(), (*by).to_owned()))
            .collect();
        if told != expected {
            wrong.push(format!("{}: {told:?}, and not {expected:?}", end.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
