//! What operators see: the access log, metrics, request ids and traces, and the admin listener.

use std::io::{self, Write};
use std::sync::mpsc;

use armiger::app::{Options, Running, Source};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Client, Config, Response, Script, Signal, answer, within};

fn get(target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

// === the access log ===

#[tokio::test]
async fn an_exchange_is_one_line_that_says_what_happened() {
    let backend = Backend::echo().await;
    let armiger = Armiger::with(Config::to(&backend).listener("via: \"off\"")).await;

    let request = Request::post("/a//b").header("host", "shop.example.com").header("user-agent", "test/1");
    let response = armiger.request(request.body(http_body_util::Full::new(Bytes::from("12345"))).unwrap()).await;

    let lines = armiger.log_lines(1).await;
    let [line] = lines.as_slice() else { panic!("one exchange, {} lines", lines.len()) };
    for (key, expected) in [
        ("request_id", json!(response.header("x-request-id"))),
        ("client", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("host", json!("shop.example.com")),
        ("path", json!("/a/b")),
        ("protocol", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("route", json!("everything")),
        ("listener", json!("http")),
        ("upstream", json!("app")),
        ("upstream_addr", json!(backend.address().to_string())),
        ("bytes_in", json!(5)),
        ("bytes_out", json!(5)),
        ("complete", json!(true)),
        ("headers", json!({"user-agent": "test/1"})),
    ] {
        assert_eq!(line[key], expected, "`{key}` of {line:#}");
    }
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    let (whole, upstream) = (line["duration"].as_f64().unwrap(), line["upstream_duration"].as_f64().unwrap());
    assert!(0.0 < upstream && upstream <= whole && whole < 5.0, "{line:#}");
    let attempts = line["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{line:#}");
    assert_eq!((&attempts[0]["addr"], &attempts[0]["outcome"]), (&line["upstream_addr"], &json!("ok")), "{line:#}");
    for absent in ["query", "trace_id", "verdicts", "reason", "cut_by"] {
        assert_eq!(line.get(absent), None, "`{absent}` of {line:#}");
    }
}

#[tokio::test]
async fn what_may_be_secret_is_not_logged() {
    let backend = Backend::replies("ok").await;
    let log = "access_log: {query: [page], headers: [user-agent, x-tenant, authorization, cookie]}";
    let armiger = Armiger::with(Config::to(&backend).top(log)).await;

    let sent = get(
        "/a?page=2&token=s3cret&s3cret&page=3;token=s3cret",
        &[
            ("authorization", "Bearer s3cret"),
            ("cookie", "session=s3cret"),
            ("x-tenant", "blue"),
            ("x-other", "s3cret"),
        ],
    );
    armiger.request(sent).await.assert_status(200);

    let line = armiger.logged(|_| true).await;
    assert!(!line.to_string().contains("s3cret"), "{line:#}");
    assert_eq!(line["query"], "page=2&token=***&***&page=3;token=***");
    assert_eq!(line["headers"], json!({"x-tenant": "blue", "authorization": "***", "cookie": "***"}));
    assert_eq!(backend.only().await.target, "/a?page=2&token=s3cret&s3cret&page=3;token=s3cret");
}

#[tokio::test]
async fn a_refusal_is_logged_with_its_reason_and_the_verdicts() {
    let armiger = Armiger::with(Config::empty().routes(
        "
        - name: guarded
          match: {path: /a}
          policies: {ip_filter: {deny: [127.0.0.0/8]}, body_limit: {max: 1KiB}, headers: {response: {set: {x-a: b}}}}
          respond: {}
        ",
    ))
    .await;

    armiger.get("/a").await.assert_problem(403, "address-blocked");
    armiger.get("/b").await.assert_problem(404, "no-route");
    armiger.raw("GET /c HTTP/1.1\r\n\r\n").await.answer().await.assert_status(400);

    let line = armiger.logged(|line| line["status"] == 403).await;
    assert_eq!((&line["reason"], &line["route"]), (&json!("address-blocked"), &json!("guarded")));
    assert_eq!(
        line["verdicts"],
        json!([
            {"policy": "headers", "stage": "always", "verdict": "amend", "mode": "enforce"},
            {"policy": "ip_filter", "stage": "admit", "verdict": "reject", "reason": "address-blocked", "mode": "enforce"},
        ]),
    );
    assert_eq!(line.get("upstream"), None);
    let line = armiger.logged(|line| line["status"] == 404).await;
    assert_eq!((&line["reason"], line.get("route")), (&json!("no-route"), None));
    let line = armiger.logged(|line| line["status"] == 400).await;
    assert!(line["reason"].is_string() && line["request_id"].is_string(), "{line:#}");
}

#[tokio::test]
async fn each_attempt_is_told() {
    let (mut gone, there) = (Backend::replies("gone").await, Backend::replies("there").await);
    let config = Config::to_url(&format!("{}\", \"{}", gone.url(), there.url())).upstream("balance: round_robin");
    let armiger = Armiger::with(config).await;
    gone.stop();

    armiger.get("/1").await.assert_status(200);
    armiger.get("/2").await.assert_status(200);

    let line = armiger.logged(|line| line["attempts"].as_array().is_some_and(|attempts| attempts.len() == 2)).await;
    let outcomes: Vec<_> = line["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["upstream-connect", "ok"], "{line:#}");
    assert_eq!(line["upstream_addr"], there.address().to_string());
}

#[tokio::test]
async fn sampling_drops_what_is_unremarkable_and_keeps_errors_and_the_slow() {
    let signal = Signal::new();
    let wait = signal.clone();
    let backend = Backend::serving(move |request| {
        let (wait, path) = (wait.clone(), request.uri().path().to_owned());
        async move {
            if path == "/slow" {
                wait.wait().await;
            }
            answer(if path == "/error" { 500 } else { 200 }, "x")
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).top("access_log: {sample: 0.0, slow: 50ms}")).await;

    let mut connection = armiger.connect().await;
    for _ in 0..20 {
        connection.get("/plain").await.assert_status(200);
    }
    connection.get("/error").await.assert_status(500);
    let (slow, ()) = tokio::join!(connection.get("/slow"), async {
        backend.arrived(22).await;
        // The one fact that makes an exchange slow is time itself.
        let since = std::time::Instant::now();
        while since.elapsed() < std::time::Duration::from_millis(50) {
            armiger.admin().get("/livez").await;
        }
        signal.send();
    });
    slow.assert_status(200);

    armiger.logged(|line| line["path"] == "/slow").await;
    armiger.logged(|line| line["path"] == "/error" && line["status"] == 500).await;
    let lines = armiger.log_lines(2).await;
    // A debug build on a busy machine may take 50 ms for a plain one; what is logged of those is slow in truth.
    let plain: Vec<_> = lines.iter().filter(|line| line["path"] == "/plain").collect();
    assert!(plain.iter().all(|line| line["duration"].as_f64().unwrap() >= 0.05), "{plain:#?}");
}

#[tokio::test]
async fn a_cut_answer_is_logged_whatever_the_sample() {
    let cut = Script::new().request().write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart");
    let backend = Backend::raw(cut).await;
    let armiger = Armiger::with(Config::to(&backend).top("access_log: {sample: 0.0, slow: 10s}")).await;

    armiger.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.try_answer().await.unwrap_err();

    let line = armiger.logged(|_| true).await;
    assert_eq!((&line["complete"], &line["cut_by"]), (&json!(false), &json!("upstream")), "{line:#}");
    assert_eq!(line["bytes_out"], 4, "{line:#}");
}

#[tokio::test]
async fn the_log_may_be_for_people_or_off() {
    let text = Armiger::with(
        Config::empty()
            .top("access_log: {format: text}")
            .routes("- {name: a, match: {path: \"/{rest...}\"}, respond: {}}"),
    )
    .await;
    text.get("/some/path").await.assert_status(200);
    let line = text.logged(|_| true).await;
    let line = line.as_str().expect("no JSON");
    assert!(line.contains(" GET /some/path 200 ") && line.contains(" route=a "), "{line}");

    let off = Armiger::with(
        Config::empty().top("access_log: {format: \"off\"}").routes("- {name: a, match: {path: /a}, respond: {}}"),
    )
    .await;
    off.get("/a").await.assert_status(200);
    // Counted all the same.
    until_requests(&off, "a", "GET", "2xx", 1.0).await;
}

#[tokio::test]
async fn a_json_line_has_the_fields_asked_for_in_their_order() {
    let log = "access_log: {fields: [status, path, route, reason], headers: [x-tenant], query: [page]}";
    let armiger = Armiger::with(Config::empty().top(log).routes("- {name: a, match: {path: /a}, respond: {}}")).await;

    armiger.request(get("/a?page=2", &[("x-tenant", "blue")])).await.assert_status(200);

    let line = armiger.logged(|_| true).await;
    assert_eq!(line.to_string(), r#"{"status":200,"path":"/a","route":"a"}"#);
}

#[tokio::test]
async fn a_field_that_is_none_is_told_with_what_was_meant() {
    let start = |fields: &str| {
        let top = format!("access_log: {{fields: {fields}}}");
        Armiger::try_with(Config::empty().top(&top).routes("- {name: a, match: {path: /a}, respond: {}}"))
    };
    for (fields, parts) in [
        ("[time, staus]", &["unknown value `staus`", "did you mean `status`?", "access_log › fields"][..]),
        ("[time, status, time]", &["`time` stands twice", "first here"]),
        ("[]", &["names no field"]),
    ] {
        let Err(report) = start(fields).await else { panic!("{fields} is valid") };
        for part in parts {
            assert!(report.contains(part), "{part:?} is missing for {fields}:\n{report}");
        }
    }
}

#[tokio::test]
async fn headers_of_the_answer_are_logged_if_named_without_their_secrets() {
    let script = "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: https://a.example/?state=1&code=s3cret\r\n\
                  set-cookie: s3cret\r\nset-cookie: s3cret\r\nx-cache: hit\r\nx-other: s3cret\r\n\r\n";
    let backend = Backend::raw(Script::new().request().write(script)).await;
    let log = "access_log: {query: [state], response_headers: [Location, set-cookie, x-cache, x-absent, content-type]}";
    let armiger = Armiger::with(Config::to(&backend).top(log)).await;

    armiger.get("/").await.assert_status(302);
    armiger.raw("GET / HTTP/1.1\r\n\r\n").await.answer().await.assert_status(400);

    let line = armiger.logged(|line| line["status"] == 302).await;
    let want = json!({"location": "https://a.example/?state=1&code=***", "set-cookie": "***", "x-cache": "hit"});
    assert_eq!(line["response_headers"], want, "{line:#}");
    let line = armiger.logged(|line| line["status"] == 400).await;
    assert_eq!(line["response_headers"], json!({"content-type": "application/problem+json"}), "{line:#}");
}

#[tokio::test]
async fn no_form_of_the_log_shows_what_may_be_secret() {
    let secrets = [
        ("authorization", "Bearer s3cret"),
        ("proxy-authorization", "Basic s3cret"),
        ("cookie", "session=s3cret"),
        ("x-api-key", "s3cret"),
        ("x-amz-security-token", "s3cret"),
        ("referer", "https://me:s3cret@shop.example.com/cart?id=s3cret#s3cret"),
    ];
    let names: Vec<&str> = secrets.iter().map(|(name, _)| *name).collect();
    for format in ["json", "text", "combined"] {
        let log = format!("access_log: {{format: {format}, headers: [{}]}}", names.join(", "));
        let routes = "- {name: a, match: {path: /a}, respond: {headers: {set-cookie: s3cret}}}";
        let armiger = Armiger::with(Config::empty().top(&log).routes(routes)).await;

        armiger.request(get("/a?key=s3cret&s3cret", &secrets)).await.assert_status(200);

        let line = armiger.logged(|_| true).await.to_string();
        assert!(!line.contains("s3cret") && line.contains("key=***"), "{line}");
    }
}

#[tokio::test]
async fn the_log_may_be_in_apaches_combined_format() {
    let armiger = Armiger::with(
        Config::empty()
            .top("access_log: {format: combined, query: [page]}")
            .routes("- {name: a, match: {path: \"/{rest...}\"}, respond: {body: hello}}"),
    )
    .await;

    let agent = "curl/8 \"quoted\" \\ \u{e9}";
    let request = Request::get("/a//b?page=2&token=s3cret").header("referer", "https://a.example/?q=s3cret");
    let request = request.header("user-agent", http::HeaderValue::from_bytes(agent.as_bytes()).unwrap());
    armiger.request(request.body(Empty::<Bytes>::new()).unwrap()).await.assert_status(200);
    let mut h2 = armiger.connect_h2c().await;
    h2.request(Request::head("/h2").body(Empty::<Bytes>::new()).unwrap()).await.assert_status(200);
    armiger.raw("nonsense\r\n\r\n").await.answer().await.assert_status(400);

    let lines = armiger.log_lines(3).await;
    // The time stands between the only square brackets.
    let plain = |line: &Value| {
        let line = line.as_str().expect("no JSON");
        let (before, rest) = line.split_once(" [").unwrap();
        let (time, after) = rest.split_once("] ").unwrap();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert!(shape.starts_with("99/") && shape.ends_with("/9999:99:99:99 +9999") && shape.len() == 26, "{time}");
        format!("{before} {after}")
    };
    let size = lines[2].as_str().unwrap().rsplit(' ').nth(2).unwrap().to_owned();
    assert_eq!(
        lines.iter().map(plain).collect::<Vec<_>>(),
        [
            "127.0.0.1 - - \"GET /a/b?page=2&token=*** HTTP/1.1\" 200 5 \"https://a.example/?q=***\" \
             \"curl/8 \\\"quoted\\\" \\\\ \\xc3\\xa9\"\n",
            "127.0.0.1 - - \"HEAD /h2 HTTP/2.0\" 200 - \"-\" \"-\"\n",
            &format!("127.0.0.1 - - \"-\" 400 {size} \"-\" \"-\"\n"),
        ]
    );
}

/// hyper sends the body of whatever answers a HEAD on HTTP/2; a client takes that for a broken stream.
#[tokio::test]
async fn an_answer_to_head_has_no_body_on_http2_and_is_logged_as_complete() {
    let armiger = Armiger::with(Config::empty().routes("- {name: a, match: {path: /a}, respond: {body: hello}}")).await;

    let mut connection = armiger.connect_h2c().await;
    for (path, status) in [("/a", 200), ("/b", 404)] {
        let request = Request::head(path).body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(connection.request(request).await.assert_status(status).text(), "");
    }

    for line in armiger.log_lines(2).await {
        assert_eq!((&line["complete"], &line["bytes_out"]), (&json!(true), &json!(0)), "{line:#}");
    }
}

#[tokio::test]
async fn a_failure_that_grpc_hides_is_logged_whatever_the_sample() {
    let mut backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).top("access_log: {sample: 0.0, slow: 10s}")).await;
    backend.stop();

    let grpc = [("content-type", "application/grpc")];
    armiger.request(get("/", &grpc)).await.assert_status(200);

    let line = armiger.logged(|_| true).await;
    assert_eq!((&line["status"], &line["reason"]), (&json!(200), &json!("upstream-connect")), "{line:#}");
}

/// A destination that takes nothing before it is told to.
struct Stuck(mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Ends when the sender is dropped.
        while self.0.recv().is_ok() {}
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_no_request() {
    let (release, stuck) = mpsc::sync_channel(1);
    let routes = "- {name: a, match: {path: \"/{rest...}\"}, respond: {}}";
    let mut options =
        Options::new(Source::Text { name: "test.yaml".into(), text: Config::empty().routes(routes).to_string() });
    options.workers = 1;
    options.access_log = Some(Box::new(Stuck(stuck)));
    let running = Running::start(options).unwrap();
    let client = Client::to(running.address("http").unwrap());
    let admin = Client::to(running.admin().tcp().unwrap());

    // Each line is some 8 KiB, and 64 buffers of 32 KiB wait at most.
    let mut connection = client.connect().await;
    let target = format!("/{}", "x".repeat(7_000));
    let mut sent = 0;
    while series(&admin, "armiger_access_log_dropped_total").await == 0.0 {
        assert!(sent < 2_000, "nothing is dropped, so something grows");
        for _ in 0..50 {
            connection.get(&target).await.assert_status(200);
        }
        sent += 50;
    }

    drop(release);
    drop(connection);
    within("armiger to stop", tokio::task::spawn_blocking(move || running.stop())).await.unwrap();
}

// === metrics ===

async fn series(admin: &Client, name: &str) -> f64 {
    let text = admin.get("/metrics").await.text().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a value is a number"))
}

/// Waits until so many were counted: an answer is here before armiger has noted that it left.
async fn until_requests(armiger: &Armiger, route: &str, method: &str, class: &str, count: f64) {
    let labels = format!("method=\"{method}\",route=\"{route}\",status_class=\"{class}\"");
    armiger.until_metric(&format!("armiger_http_requests_total{{{labels}}}"), count).await;
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_class() {
    let backend = Backend::with(|seen| answer(if seen.target == "/bad" { 404 } else { 200 }, "1234")).await;
    let armiger = Armiger::with(Config::to(&backend)).await;

    let mut connection = armiger.connect().await;
    connection.get("/").await.assert_status(200);
    connection.get("/bad").await.assert_status(404);
    connection.post("/", "123").await.assert_status(200);
    let made_up = Request::builder().method("MADEUP").uri("/").body(Empty::<Bytes>::new()).unwrap();
    connection.request(made_up).await.assert_status(200);
    armiger.log_lines(4).await;

    until_requests(&armiger, "everything", "GET", "2xx", 1.0).await;
    until_requests(&armiger, "everything", "GET", "4xx", 1.0).await;
    until_requests(&armiger, "everything", "POST", "2xx", 1.0).await;
    // Clients cannot make up series.
    until_requests(&armiger, "everything", "other", "2xx", 1.0).await;
    for (name, value) in [
        ("armiger_http_request_bytes_total{route=\"everything\"}", 3.0),
        ("armiger_http_response_bytes_total{route=\"everything\"}", 16.0),
        ("armiger_http_request_duration_seconds_count{route=\"everything\"}", 4.0),
        ("armiger_http_requests_in_flight{route=\"everything\"}", 0.0),
        ("armiger_upstream_requests_total{outcome=\"ok\",upstream=\"app\"}", 4.0),
        ("armiger_upstream_connections_opened_total{upstream=\"app\"}", 1.0),
        ("armiger_upstream_connections_reused_total{upstream=\"app\"}", 3.0),
        ("armiger_upstream_request_duration_seconds_count{upstream=\"app\"}", 4.0),
        ("armiger_listener_connections{listener=\"http\"}", 1.0),
        ("armiger_listener_connections_accepted_total{listener=\"http\"}", 1.0),
        ("armiger_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        armiger.until_metric(name, value).await;
    }
}

#[tokio::test]
async fn what_is_in_flight_is_shown_while_it_is() {
    let signal = Signal::new();
    let backend = Backend::raw(Script::new().request().wait(&signal).write("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let armiger = Armiger::proxying(&backend).await;

    let (response, ()) = tokio::join!(armiger.get("/"), async {
        backend.arrived(1).await;
        armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 1.0).await;
        let active = "armiger_upstream_connections{state=\"active\",upstream=\"app\"}";
        armiger.until_metric(active, 1.0).await;
        signal.send();
    });

    response.assert_status(204);
    // The answer is here before armiger has noted that it left.
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 0.0).await;
}

#[tokio::test]
async fn refusals_and_failures_are_counted_by_reason() {
    let mut backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 1B}")).await;
    backend.stop();

    armiger.get("/").await.assert_problem(502, "upstream-connect");
    armiger.post("/", "12").await.assert_problem(413, "body-too-large");

    for (name, value) in [
        ("armiger_rejections_total{reason=\"upstream-connect\",route=\"everything\"}", 1.0),
        ("armiger_rejections_total{reason=\"body-too-large\",route=\"everything\"}", 1.0),
        ("armiger_upstream_requests_total{outcome=\"upstream-connect\",upstream=\"app\"}", 1.0),
        ("armiger_limit_hits_total{limit=\"body_max\"}", 1.0),
    ] {
        armiger.until_metric(name, value).await;
    }
    let verdict =
        "armiger_policy_verdicts_total{mode=\"enforce\",policy=\"body_limit\",route=\"everything\",verdict=\"reject\"}";
    armiger.until_metric(verdict, 1.0).await;
}

#[tokio::test]
async fn each_bound_of_an_upstream_is_counted_under_its_own_key() {
    for (settings, limit) in [
        ("limits: {in_flight_max: 1}", "upstreams.limits.in_flight_max"),
        ("pool: {connections_max: 1, queue_max: 0}", "upstreams.pool.queue_max"),
        ("pool: {connections_max: 1, queue_wait: 10ms}", "upstreams.pool.queue_wait"),
    ] {
        let signal = Signal::new();
        let held = Script::new().request().wait(&signal).write("HTTP/1.1 204 No Content\r\n\r\n");
        let backend = Backend::raw(held).await;
        let armiger = Armiger::with(Config::to(&backend).upstream(settings)).await;

        let (held, ()) = tokio::join!(armiger.get("/"), async {
            backend.arrived(1).await;
            armiger.get("/").await.assert_problem(503, "upstream-overloaded");
            signal.send();
        });

        held.assert_status(204);
        let text = armiger.admin().get("/metrics").await.text().to_owned();
        let hits: Vec<&str> = text.lines().filter(|line| line.starts_with("armiger_limit_hits_total{")).collect();
        assert_eq!(hits, [format!("armiger_limit_hits_total{{limit=\"{limit}\"}} 1")], "{settings}");
    }
}

/// However a try ends, the line tells where the request went, and tells of no place where it never came to.
#[tokio::test]
async fn a_line_tells_where_a_request_went_and_only_then() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let asked = json!(backend.address().to_string());
    let config = |timeout: &str| {
        let settings = "pool: {connections_max: 1, queue_wait: 10ms}";
        Config::to(&backend)
            .upstream(settings)
            .route(&format!("timeout: {timeout}\ndeadline_header: x-patience"))
            .top("drain: {delay: 0s, timeout: 50ms}")
    };
    // The route's time, and the caller's.
    for (timeout, headers) in [("100ms", &[][..]), ("20s", &[("x-patience", "100")])] {
        let armiger = Armiger::with(config(timeout)).await;
        armiger.request(get("/", headers)).await.assert_problem(504, "deadline-exceeded");
        let line = armiger.logged(|line| line["status"] == 504).await;
        assert_eq!(line["upstream_addr"], asked, "{line:#}");
        assert!(line["upstream_duration"].as_f64().is_some_and(|took| took >= 0.09), "{line:#}");
    }
    // armiger's own queue, and its end.
    let armiger = Armiger::with(config("20s")).await;
    let before = backend.count();
    let _held = armiger.raw("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.arrived(before + 1).await;
    armiger.get("/refused").await.assert_problem(503, "upstream-overloaded");
    let lines = armiger.lines();
    armiger.stop().await;
    let lines = lines();
    let line = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    assert_eq!((&line("/held")["upstream_addr"], &line("/held")["reason"]), (&asked, &json!("draining")));
    assert!(line("/held")["upstream_duration"].is_number(), "{:#}", line("/held"));
    let refused = line("/refused");
    assert_eq!((refused.get("upstream_addr"), refused.get("upstream_duration")), (None, None), "{refused:#}");
}

#[tokio::test]
async fn every_worker_shows_its_connections() {
    let armiger = Armiger::with_workers(2, Config::empty().routes("- {name: a, match: {path: /a}, respond: {}}")).await;

    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = armiger.connect().await;
        client.get("/a").await.assert_status(200);
        clients.push(client);
    }

    for worker in 0..2 {
        let name = format!("armiger_worker_connections{{worker=\"{worker}\"}}");
        armiger.until_metric(&name, 2.0).await;
    }
}

#[tokio::test]
async fn every_family_says_what_it_is_and_keeps_the_naming_rules() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;
    armiger.get("/").await.assert_status(200);

    let response = armiger.admin().get("/metrics").await;

    response.assert_status(200).assert_header("content-type", "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text();
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.len() > 10, "{text}");
    for family in families {
        let (name, kind) = family.split_once(' ').unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        let is_ours = name.starts_with("armiger_");
        assert!(is_ours || name.starts_with("process_"), "{name}");
        assert!(!is_ours || (kind == "counter") == name.ends_with("_total"), "{name} is a {kind}");
    }
}

// === reference pages ===

#[test]
fn the_pages_tell_what_the_program_has() {
    for (format, page) in
        [("metrics", "docs/metrics.md"), ("access-log", "docs/access-log.md"), ("reasons", "docs/reasons.md")]
    {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));

        let printed = Armiger::binary(&["schema", "--format", format]);

        assert!(
            text == printed.assert_code(0).stdout,
            "{page} is not current: `cargo run -- schema --format {format} > {page}` mends it"
        );
    }
}

#[tokio::test]
async fn what_is_exposed_is_what_the_page_tells() {
    let page = Armiger::binary(&["schema", "--format", "metrics"]).stdout;
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).policies("ip_filter: {deny: [10.0.0.0/8]}")).await;
    armiger.get("/").await.assert_status(200);

    let text = armiger.admin().get("/metrics").await.text().to_owned();

    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.len() > 30, "{text}");
    for family in families {
        let (name, kind) = family.split_once(' ').unwrap();
        let row = page.lines().find(|row| row.starts_with(&format!("| `{name}` | ")));
        let row = row.unwrap_or_else(|| panic!("the page does not tell of {name}"));
        assert!(row.contains(&format!(" | {kind} | ")), "{name} is a {kind}: {row}");
        let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
        let labels = sample.map_or("", |(labels, _)| labels);
        for label in labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, _)| label) {
            assert!(row.contains(&format!("`{label}`")), "{name} has the label {label}: {row}");
        }
    }
}

// === armiger's own messages ===

/// What the program says of itself on a file with this `log.level`, while an upstream fails, of which it tells at `debug`.
async fn messages(level: &str, flags: &[&str], environment: &[(&str, &str)]) -> String {
    let mut backend = Backend::replies("ok").await;
    let config = Config::to(&backend).top(&format!("log: {{level: {level}}}"));
    backend.stop();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, config.to_string()).unwrap();

    let command = ["run", "-c", path.to_str().unwrap()];
    let mut process = Armiger::spawn_in(&[&command, flags].concat(), environment);
    let line = process.stderr_line("listener=\"http\"");
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("address=")).expect("an address");
    Client::to(address.parse().unwrap()).get("/").await.assert_status(502);
    process.signal("TERM");
    process.finish().assert_code(0).stderr.clone()
}

#[tokio::test]
async fn the_file_sets_the_level_of_messages_unless_the_command_line_does() {
    let told = "upstream failed";
    for (level, flags, environment, is_told) in [
        ("debug", &[][..], &[][..], true),
        ("info", &[], &[], false),
        ("debug", &["--log-level", "info"], &[], false),
        ("error", &["--log-level", "debug"], &[], true),
        ("error", &[], &[("ARMIGER_LOG_LEVEL", "debug")], true),
    ] {
        let messages = messages(level, flags, environment).await;
        assert_eq!(messages.contains(told), is_told, "{level} {flags:?} {environment:?}: {messages}");
    }
}

// === request ids and traces ===

fn sent_on(response: &Response, backend: &Backend) -> String {
    let id = response.header("x-request-id").to_owned();
    let seen = backend.requests().pop().expect("the backend answered");
    assert_eq!(seen.header("x-request-id"), id, "answer and back end are told the same");
    id
}

#[tokio::test]
async fn a_request_id_is_made_unless_a_trusted_proxy_gave_one() {
    let backend = Backend::replies("ok").await;
    let trusting = Armiger::with(Config::to(&backend).listener("trusted_proxies: [127.0.0.1]")).await;
    let armiger = Armiger::proxying(&backend).await;

    let made = [
        sent_on(&armiger.get("/").await, &backend),
        sent_on(&armiger.request(get("/", &[("x-request-id", "from-a-client")])).await, &backend),
        sent_on(&trusting.request(get("/", &[("x-request-id", "not valid!")])).await, &backend),
        sent_on(&trusting.request(get("/", &[("x-request-id", &"x".repeat(129))])).await, &backend),
    ];
    let kept = sent_on(&trusting.request(get("/", &[("x-request-id", "edge.7_a-b")])).await, &backend);

    for id in &made {
        assert!(id.len() == 36 && id.as_bytes()[14] == b'7', "{id} is no UUIDv7");
    }
    assert!((1..made.len()).all(|at| !made[..at].contains(&made[at])), "{made:?}");
    assert_eq!(kept, "edge.7_a-b");
    assert_eq!(trusting.logged(|line| line["request_id"] == "edge.7_a-b").await["status"], 200);
}

#[tokio::test]
async fn a_refusal_names_the_request_id_too() {
    let armiger = Armiger::with(Config::empty().routes("- {name: a, match: {path: /a}, respond: {}}")).await;

    let response = armiger.get("/b").await;

    let id = response.header("x-request-id");
    assert_eq!(response.json()["request_id"], id);
    assert_eq!(response.json()["instance"], format!("urn:request:{id}"));
    armiger.logged(|line| line["request_id"] == id).await;
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_valid_trace_is_continued() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let sent = [("traceparent", parent.as_str()), ("tracestate", "a=1,b=2"), ("tracestate", "c=3")];
    armiger.request(get("/", &sent)).await.assert_status(200);

    let seen = backend.only().await;
    assert_eq!(seen.header("traceparent"), parent);
    let state: Vec<_> = seen.headers.get_all("tracestate").iter().collect();
    assert_eq!(state, ["a=1,b=2", "c=3"]);
    assert_eq!(armiger.logged(|_| true).await["trace_id"], TRACE);
}

#[tokio::test]
async fn a_broken_trace_is_restarted_and_none_is_made_up() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    for broken in [
        "nonsense".to_owned(),
        format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        format!("00-{}-00f067aa0ba902b7-01", TRACE.to_ascii_uppercase()),
        format!("ff-{TRACE}-00f067aa0ba902b7-01"),
        format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
    ] {
        armiger.request(get("/", &[("traceparent", &broken), ("tracestate", "a=1")])).await.assert_status(200);

        let seen = backend.requests().pop().unwrap();
        let parent = seen.header("traceparent");
        assert!(parent.len() == 55 && parent.starts_with("00-") && !parent.contains(TRACE), "{broken} became {parent}");
        assert!(!seen.has("tracestate"), "it belongs to another trace");
    }
    armiger.get("/none").await.assert_status(200);
    assert!(!backend.requests().pop().unwrap().has("traceparent"));
    assert_eq!(armiger.logged(|line| line["path"] == "/none").await.get("trace_id"), None);
}

// === the admin listener ===

#[tokio::test]
async fn probes_tell_that_armiger_lives_and_is_ready() {
    let armiger = Armiger::with(Config::empty().routes("- {name: a, match: {path: /a}, respond: {}}")).await;
    let admin = armiger.admin();

    admin.get("/livez").await.assert_status(200);
    admin.get("/readyz").await.assert_status(200);
    assert!(admin.get("/").await.assert_status(200).text().contains("/metrics"));
    admin.get("/nothing").await.assert_status(404);
    admin.post("/readyz", "x").await.assert_status(405).assert_header("allow", "GET, HEAD");
    // What operators see is not for clients.
    armiger.get("/metrics").await.assert_problem(404, "no-route");
}

#[tokio::test]
async fn the_running_configuration_is_shown_with_its_version() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {first_byte: 7s}").route("timeout: 3s")).await;

    let response = armiger.admin().get("/config").await;

    response.assert_status(200).assert_header("content-type", "application/json");
    let config: Value = response.json();
    assert_eq!(config["version"], 1);
    let config = &config["config"];
    assert_eq!(config["upstreams"]["app"]["endpoints"], json!([backend.url()]));
    assert_eq!(config["upstreams"]["app"]["timeouts"]["first_byte"], "7s");
    assert_eq!(config["upstreams"]["app"]["timeouts"]["connect"], "1s", "defaults are part of what is in force");
    assert_eq!((&config["routes"][0]["name"], &config["routes"][0]["timeout"]), (&json!("everything"), &json!("3s")));
    assert_eq!(config["listeners"][0]["limits"]["headers_max"], 100);
}

/// Whoever asks what is in force is not told that it is nothing.
#[tokio::test]
async fn what_was_left_out_shows_as_what_holds_in_its_place() {
    let config = r#"
admin: {address: 127.0.0.1:0}
listeners:
  - {name: http, address: 127.0.0.1:0, limits: {header_bytes_max: 8KiB}}
  - {name: other, address: 127.0.0.1:0, client_address: {header: forwarded}, trusted_proxies: [10.0.0.0/8]}
identity:
  shared: {jwt: {issuer: i, audiences: [a], keys: {secret: "${env:S:-0123456789abcdef0123456789abcdef}"}}}
  fetched: {jwt: {issuer: j, audiences: [a], keys: {jwks_url: "https://127.0.0.1:1/", required_at_start: false}}}
  found: {jwt: {issuer: "https://127.0.0.1:1", audiences: [a], algorithms: [ES256], scopes_claim: s, keys: {discover: true, required_at_start: false}}}
  secured: {introspection: {url: "https://127.0.0.1:1/", audiences: [a], client_id: a, client_secret: "${env:S:-0123456789}"}}
  asked: {introspection: {url: "http://127.0.0.1:1/", insecure: true, audiences: [a], client_id: a, client_secret: "${env:S:-0123456789}"}}
upstreams:
  app: {endpoints: ["http://127.0.0.1:1"], timeouts: {first_byte: 7s}, retry: {}}
  secured: {endpoints: ["https://127.0.0.1:1"]}
defaults:
  deadline_header: x-wait-ms
  policies:
    rate_limit: [{name: q, rate: 5/s, overrides: {claim: plan, rates: {gold: {rate: 9/s}}}}]
    rules: [{allow: "true"}]
    identity: {providers: [asked]}
routes:
  - {name: proxy, match: {path: /a}, proxy: {upstream: app, fallback: {respond: {body: x}}}}
  - {name: own, match: {path: /own}, timeout: 2s, deadline_header: x-own, policies: {rules: off}, proxy: {upstream: app, host: upstream}}
  - {name: respond, match: {path: /b}, respond: {body: x}}
  - {name: aggregate, match: {path: /c}, aggregate: {parts: {a: {upstream: app, path: /}}}}
  - {name: batch, match: {path: /d, methods: [POST]}, batch: {}}
  - name: saga
    match: {path: /e, methods: [POST]}
    saga_in_memory: {forward: [x-a], steps: {one: {upstream: app, path: /, compensate: {path: /}}}}
  - {name: hasty, match: {path: /h}, timeout: 1ms, aggregate: {parts: {a: {upstream: app, path: /, accept: [418]}}}}
"#;
    let armiger = Armiger::with(config).await;

    let shown = armiger.admin().get("/config").await.assert_status(200).json();

    for (pointer, expected) in [
        ("/listeners/0/limits/header_value_bytes_max", json!("8KiB")),
        ("/listeners/1/limits/header_value_bytes_max", json!("16KiB")),
        ("/listeners/0/forwarded", json!(false)),
        ("/listeners/1/forwarded", json!(true)),
        ("/identity/asked/introspection/scopes_claim", json!("scope")),
        ("/identity/asked/introspection/tls", json!(null)),
        ("/identity/secured/introspection/tls/insecure_skip_verify", json!(false)),
        ("/identity/shared/jwt/algorithms", json!(["HS256"])),
        ("/identity/shared/jwt/scopes_claim", json!(["scope", "scp"])),
        ("/identity/shared/jwt/keys/tls", json!(null)),
        ("/identity/fetched/jwt/algorithms/9", json!("EdDSA")),
        ("/identity/fetched/jwt/keys/tls/insecure_skip_verify", json!(false)),
        ("/identity/found/jwt/algorithms", json!(["ES256"])),
        ("/identity/found/jwt/scopes_claim", json!("s")),
        ("/identity/found/jwt/keys/tls/insecure_skip_verify", json!(false)),
        ("/dns/servers", json!(["system"])),
        ("/cache/memory", json!("128MiB")),
        ("/upstreams/app/retry/per_try", json!("7s")),
        ("/defaults/policies/rate_limit/0/burst", json!(5)),
        ("/defaults/policies/rules/0/name", json!("rule-1")),
        ("/upstreams/app/tls", json!(null)),
        ("/upstreams/secured/tls/server_name", json!(null)),
        ("/defaults/timeout", json!("30s")),
        ("/routes/0/timeout", json!("30s")),
        ("/routes/1/timeout", json!("2s")),
        ("/routes/0/deadline_header", json!("x-wait-ms")),
        ("/routes/1/deadline_header", json!("x-own")),
        ("/routes/0/policies/rate_limit/0/burst", json!(5)),
        ("/routes/0/policies/rate_limit/0/overrides/rates/gold/burst", json!(9)),
        ("/routes/0/policies/rules/0/name", json!("rule-1")),
        ("/routes/1/policies/rate_limit/0/name", json!("q")),
        ("/routes/0/proxy/host", json!("preserve")),
        ("/routes/1/proxy/host", json!("upstream")),
        ("/routes/0/proxy/fallback/respond/content_type", json!("text/plain; charset=utf-8")),
        ("/routes/2/respond/content_type", json!("text/plain; charset=utf-8")),
        ("/routes/3/aggregate/deadline", json!("27s")),
        ("/routes/3/aggregate/forward", json!(["accept-language"])),
        ("/routes/3/aggregate/parts/a/forward", json!(["accept-language"])),
        ("/routes/3/aggregate/parts/a/timeout", json!("27s")),
        ("/routes/3/aggregate/parts/a/accept", json!(["200-299"])),
        ("/routes/6/aggregate/deadline", json!("1ms")),
        ("/routes/6/aggregate/parts/a/accept", json!([418])),
        ("/routes/4/batch/deadline", json!("27s")),
        ("/routes/5/saga_in_memory/deadline", json!("15s")),
        ("/routes/5/saga_in_memory/steps/one/forward", json!(["x-a"])),
        ("/routes/5/saga_in_memory/steps/one/timeout", json!("15s")),
        ("/routes/5/saga_in_memory/steps/one/accept", json!(["200-299"])),
        ("/routes/5/saga_in_memory/steps/one/compensate/accept", json!(["200-299", 404, 410])),
        ("/routes/5/saga_in_memory/steps/one/compensate/upstream", json!("app")),
        ("/routes/5/saga_in_memory/steps/one/compensate/forward", json!(["x-a"])),
    ] {
        let found = shown["config"].pointer(pointer).unwrap_or_else(|| panic!("no {pointer}: {shown:#}"));
        assert_eq!(*found, expected, "{pointer}");
    }
}

#[tokio::test]
async fn the_shown_configuration_keeps_credentials_to_itself() {
    let backend = Backend::replies("ok").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "s3cret").unwrap();
    let policies = format!(
        "headers: {{request: {{set: {{authorization: \"Bearer ${{file:{}}}\", x-plain: shown}}, add: {{X-Api-Key: s3cret}}}}}}",
        path.display()
    );
    let armiger = Armiger::with(Config::to(&backend).policies(&policies)).await;

    armiger.get("/").await.assert_status(200);
    let shown = armiger.admin().get("/config").await;

    let seen = backend.only().await;
    assert_eq!((seen.header("authorization"), seen.header("x-api-key")), ("Bearer s3cret", "s3cret"));
    assert!(!shown.text().contains("s3cret"), "{}", shown.text());
    let request = &shown.json()["config"]["routes"][0]["policies"]["headers"]["request"];
    assert_eq!(request["set"], json!({"authorization": "***", "x-plain": "shown"}));
    assert_eq!(request["add"], json!({"X-Api-Key": "***"}));
}

/// A header's name does not tell whether its value is a secret; where the value came from does.
#[tokio::test]
async fn what_came_from_outside_shows_as_its_reference() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("tenant"), "hush-hush\n").unwrap();
    let backend = Backend::replies("ok").await;
    let config = Config::to(&backend).policies("headers: {request: {set: {x-tenant: \"t ${file:tenant}\"}}}");
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let armiger = Armiger::from_file(file).await;

    armiger.get("/").await.assert_status(200);
    let shown = armiger.admin().get("/config").await;

    assert_eq!(backend.only().await.header("x-tenant"), "t hush-hush");
    assert!(!shown.text().contains("hush-hush"), "{}", shown.text());
    assert!(shown.text().contains("t ${file:tenant}"), "{}", shown.text());
}

#[tokio::test]
async fn a_configuration_that_was_applied_says_so() {
    let backend = Backend::replies("ok").await;

    let armiger = Armiger::proxying(&backend).await;

    armiger.until_metric("armiger_config_last_reload_successful", 1.0).await;
    assert!(armiger.metric("armiger_config_last_reload_success_timestamp_seconds").await > 1.7e9);
}
