//! `config.example.yaml`: it loads, compiles and serves, and each route does what its comment says. And the reference
//! in `docs/` is the one that this program prints.

use armiger::demo::backends::Backends;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};

use crate::harness::{Armiger, Broken, within};

const SHOP: &str = "https://shop.example.com";

/// The example in front of the demo's back ends, all on free ports.
struct Example {
    armiger: Armiger,
    app: String,
    _backends: Backends,
}

impl Example {
    async fn start() -> Self {
        let backends = Backends::start([0; 3]).expect("free ports");
        let mut text = armiger::demo::EXAMPLE.to_owned();
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "the example does not name {from} any more");
            text = text.replace(from, to);
        };
        for (port, address) in armiger::demo::backends::PORTS.iter().zip(backends.addresses()) {
            replace(&format!("127.0.0.1:{port}"), &address.to_string());
        }
        replace("127.0.0.1:8080", "127.0.0.1:0");
        replace("127.0.0.1:9901", "127.0.0.1:0");
        let app = backends.addresses()[2].to_string();
        Self { armiger: Armiger::with(text).await, app, _backends: backends }
    }
}

fn get(target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

#[tokio::test]
async fn health_is_answered_by_armiger_itself_and_without_cors() {
    let example = Example::start().await;

    let response = example.armiger.request(get("/healthz", &[("origin", SHOP)])).await;

    assert_eq!(response.assert_status(200).assert_no_header("access-control-allow-origin").text(), "ok\n");
    let line = example.armiger.logged(|line| line["route"] == "health").await;
    assert_eq!(line.get("upstream"), None);
}

#[tokio::test]
async fn a_user_comes_from_a_rewritten_path() {
    let example = Example::start().await;

    let response = example.armiger.get("/users/7").await;

    response
        .assert_status(200)
        .assert_header("cache-control", "private, max-age=10")
        .assert_no_header("server")
        .assert_no_header("x-powered-by");
    assert_eq!(response.json()["name"], "Radia Perlman");
    example.armiger.get("/users/none").await.assert_status(404);
    example.armiger.post("/users/7", "x").await.assert_problem(405, "method-not-allowed");
    example.armiger.get("/users/7/more").await.assert_problem(404, "no-route");
}

#[tokio::test]
async fn orders_are_a_path_and_all_below_it() {
    let example = Example::start().await;

    assert_eq!(example.armiger.get("/orders").await.assert_status(200).json()["total"], 4);
    assert_eq!(example.armiger.get("/orders?user=1").await.assert_status(200).json()["total"], 2);
    assert_eq!(example.armiger.get("/orders/1001").await.assert_status(200).json()["id"], "1001");
    example.armiger.get("/ordersx").await.assert_problem(404, "no-route");
    example.armiger.post("/orders", vec![b'x'; 64 * 1024 + 1]).await.assert_problem(413, "body-too-large");

    // In shadow it refuses nobody, and tells whom it would.
    let line = example.armiger.logged(|line| line["path"] == "/orders/1001").await;
    let verdicts = line["verdicts"].as_array().unwrap();
    let filter = verdicts.iter().find(|row| row["policy"] == "ip_filter").unwrap();
    assert_eq!((&filter["verdict"], &filter["mode"]), (&"would_reject".into(), &"shadow".into()), "{line:#}");
}

#[tokio::test]
async fn the_app_sees_the_rest_of_the_path_and_its_own_host() {
    let example = Example::start().await;

    let echo = example.armiger.request(get("/app/echo?x=1&y", &[("host", "shop.example.com")])).await;

    let seen = echo.assert_status(200).json();
    assert_eq!((&seen["path"], &seen["query"]), (&"/echo".into(), &"x=1&y".into()), "{seen:#}");
    assert_eq!(seen["headers"]["host"], example.app, "{seen:#}");
    assert_eq!(seen["headers"]["x-forwarded-host"], "shop.example.com", "{seen:#}");
    assert_eq!(seen["headers"].get("x-beta"), None, "{seen:#}");
    assert!(example.armiger.get("/app/").await.assert_status(200).text().contains("hello"));
}

#[tokio::test]
async fn those_who_send_a_header_get_the_beta() {
    let example = Example::start().await;

    let sent = get("/app/echo", &[("x-channel", "beta"), ("host", "shop.example.com")]);
    let seen = example.armiger.request(sent).await.assert_status(200).json();
    let late = example.armiger.request(get("/app/slow?ms=4000", &[("x-channel", "beta")])).await;

    assert_eq!((&seen["headers"]["x-beta"], &seen["headers"]["host"]), (&"1".into(), &"shop.example.com".into()));
    late.assert_problem(504, "deadline-exceeded");
}

#[tokio::test]
async fn pages_of_the_shop_may_call_and_others_may_not() {
    let example = Example::start().await;
    let ask = |origin: &str| {
        Request::options("/orders")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "content-type")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };

    let granted = example.armiger.request(ask(SHOP)).await;
    let refused = example.armiger.request(ask("https://evil.example")).await;
    let marked = example.armiger.request(get("/orders", &[("origin", SHOP)])).await;

    granted
        .assert_status(204)
        .assert_header("access-control-allow-origin", SHOP)
        .assert_header("access-control-allow-methods", "GET, POST, PUT")
        .assert_header("access-control-allow-headers", "content-type")
        .assert_header("access-control-allow-credentials", "true");
    refused.assert_no_header("access-control-allow-origin");
    marked.assert_status(200).assert_header("access-control-allow-origin", SHOP);
}

#[tokio::test]
async fn this_machine_may_ask_the_internal_route() {
    let example = Example::start().await;

    let response = example.armiger.get("/internal").await;

    response.assert_status(200).assert_header("content-type", "application/json");
    assert!(response.json()["who"].is_string());
}

#[tokio::test]
async fn customers_have_moved() {
    let example = Example::start().await;

    let response = example.armiger.get("/customers/7?x=1").await;

    response.assert_status(308).assert_header("location", "/users/7?x=1");
}

#[tokio::test]
async fn what_the_tour_shows_is_so() {
    let example = Example::start().await;
    let armiger = &example.armiger;

    armiger.get("/nowhere").await.assert_problem(404, "no-route");
    armiger.get("/app/fail?status=503").await.assert_status(503).assert_no_header("proxy-status");
    assert_eq!(armiger.get("/app/large?mib=2").await.assert_status(200).body.len(), 2 << 20);
    let cut = armiger.raw("GET /app/cut HTTP/1.1\r\nhost: a\r\n\r\n").await.try_answer().await;
    assert!(matches!(cut, Err(Broken::CutInBody(_))), "{cut:?}");
    let mut connection = armiger.connect().await;
    let mut events = connection.open(get("/app/stream", &[])).await.unwrap();
    let first = within("the first event", events.body_mut().frame()).await.unwrap().unwrap();
    let first = first.into_data().unwrap();
    assert!(first.starts_with(b"event: tick\nid: 1\n") && !first.ends_with(b"id: 20"), "{first:?}");
    // The value of a query key is shown only where the file names it.
    let line = armiger.logged(|line| line["path"] == "/app/fail").await;
    assert_eq!(line["query"], "status=503");
    let line = armiger.logged(|line| line["path"] == "/app/large").await;
    assert_eq!(line["query"], "mib=***");
    let config = armiger.admin().get("/config").await;
    assert_eq!(config.assert_status(200).json()["config"]["routes"][0]["name"], "health");
}

#[test]
fn the_reference_is_the_one_that_the_program_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));

    let printed = Armiger::binary(&["schema", "--format", "markdown"]);

    assert!(
        page == printed.assert_code(0).stdout,
        "docs/configuration.md is not current: `cargo run -- schema --format markdown > docs/configuration.md` mends it"
    );
}

#[tokio::test]
async fn the_dashboard_is_honest_about_a_slow_and_a_failing_part() {
    let example = Example::start().await;

    let page = example.armiger.get("/dashboard/7").await;

    page.assert_status(200)
        .assert_header("x-armiger-completed", "false; missing=\"ads, news\"")
        .assert_header("cache-control", "no-store");
    let document = page.json();
    assert_eq!(document["user"], serde_json::json!({"id": "7", "name": "Radia Perlman"}));
    assert_eq!(document["orders"], serde_json::json!({"total": 1, "items": [{"what": "spanning tree, potted"}]}));
    assert_eq!((&document["ads"], document.get("news")), (&serde_json::json!([]), None));
    assert_eq!(document["errors"][1]["reason"], "part-timeout");
    let none = example.armiger.get("/dashboard/none").await;
    assert!(none.assert_problem(404, "part-failed").text().contains("`user`"));
}

#[tokio::test]
async fn a_batch_is_many_requests_in_one() {
    let example = Example::start().await;

    let body = Bytes::from_static(br#"[{"path":"/users/7"},{"id":2,"path":"/nowhere"}]"#);
    let request = Request::post("/batch").header("content-type", "application/json");
    let batch = example.armiger.request(request.body(Full::new(body)).expect("a valid request")).await;

    let answers = batch.assert_status(200).json();
    assert_eq!((&answers[0]["status"], &answers[0]["body"]["name"]), (&200.into(), &"Radia Perlman".into()));
    assert_eq!((&answers[1]["id"], &answers[1]["status"]), (&2.into(), &404.into()));
}

#[tokio::test]
async fn a_saga_undoes_what_was_done_and_says_so() {
    let example = Example::start().await;

    let response = example.armiger.post("/checkout/7", "").await;

    let document = response.assert_problem(402, "saga-compensated").json();
    assert_eq!(
        (&document["steps"][0]["outcome"], &document["steps"][0]["compensation"]),
        (&"done".into(), &"done".into())
    );
    assert_eq!((&document["steps"][1]["outcome"], &document["steps"][1]["status"]), (&"failed".into(), &402.into()));
}
