//! Endpoints behind names: who gets requests as answers change, fail or do not come, and what holds until then.

use std::net::IpAddr;
use std::time::Duration;

use http::Request;
use http_body_util::Empty;

use crate::harness::{Armiger, Backend, Config, Dns, Files, Mood, answer, streamed, within};

const ROUTES: &str = "- {name: all, match: {path: \"/{rest...}\"}, proxy: {upstream: app, host: upstream}}";
const NAME: &str = "orders.test";

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// armiger before `orders.test`, at the port of `backend`.
fn config(dns: &Dns, backend: &Backend, keys: &str, dns_keys: &str) -> Config {
    let port = backend.address().port();
    let top = format!(
        "{}upstreams: {{app: {{endpoints: [\"dns:http://{NAME}:{port}\"], balance: round_robin, {keys}}}}}",
        dns.section(dns_keys)
    );
    Config::empty().top(&top).routes(ROUTES)
}

const ENDPOINTS: &str = r#"armiger_dns_endpoints{upstream="app"}"#;

fn lookups(result: &str) -> String {
    format!(r#"armiger_dns_lookups_total{{result="{result}",upstream="app"}}"#)
}

/// Who answers the next requests.
async fn answers(armiger: &Armiger, times: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..times {
        answers.push(armiger.get("/").await.assert_status(200).text().to_owned());
    }
    answers.sort();
    answers
}

#[tokio::test]
async fn requests_go_to_the_addresses_that_a_name_has_and_follow_it() {
    let dns = Dns::start();
    let one = Backend::replies("one").await;
    let two = Backend::twin(&one, 2, "two").await;
    dns.tells(NAME, 0, &[ip(1)]);
    let armiger = Armiger::with(config(&dns, &one, "timeouts: {idle: 100ms}", "")).await;
    armiger.until_metric(ENDPOINTS, 1.0).await;
    assert_eq!(answers(&armiger, 2).await, ["one", "one"]);

    dns.tells(NAME, 0, &[ip(1), ip(2)]);
    armiger.until_metric(ENDPOINTS, 2.0).await;
    assert_eq!(answers(&armiger, 4).await, ["one", "one", "two", "two"]);

    dns.tells(NAME, 0, &[ip(2)]);
    armiger.until_metric(ENDPOINTS, 1.0).await;
    assert_eq!(answers(&armiger, 3).await, ["two", "two", "two"]);
    // What was open to an address that is gone is closed.
    one.closed(one.connections()).await;
    assert!(two.requests().iter().all(|seen| seen.header("host") == format!("{NAME}:{}", one.address().port())));
    let state = armiger.admin().get("/state/upstreams").await.json();
    let row = &state["rows"][0];
    assert_eq!(row["endpoints"][0]["endpoint"], format!("127.0.0.2:{}", one.address().port()));
    assert_eq!((&row["names"][0]["addresses"], &row["names"][0]["failures_in_row"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn what_is_in_flight_at_an_address_that_goes_is_finished() {
    let dns = Dns::start();
    let (chunks, taken) = tokio::sync::mpsc::channel(8);
    let old = Backend::serving(move |_| {
        let (sender, answer) = streamed(200);
        chunks.try_send(sender).ok();
        async { answer }
    })
    .await;
    let _new = Backend::twin(&old, 2, "new").await;
    dns.tells(NAME, 0, &[ip(1)]);
    let armiger = Armiger::with(config(&dns, &old, "", "")).await;
    armiger.until_metric(ENDPOINTS, 1.0).await;
    let mut connection = armiger.connect().await;
    let request = Request::get("/").header("host", "app").body(Empty::<bytes::Bytes>::new()).unwrap();
    let (mut taken, response) = (taken, connection.open(request).await.unwrap());
    let chunks = taken.recv().await.unwrap();
    chunks.data("begun ").await;

    dns.tells(NAME, 0, &[ip(2)]);
    let moved = async {
        while armiger.get("/").await.text() != "new" {
            tokio::task::yield_now().await;
        }
    };
    // Requests of before the answer are still held by the old one, which does not end them. The first look-up may have begun
    // before, the second is counted before it is heeded, the third begins after that.
    armiger.until_metric(&lookups("ok"), armiger.metric(&lookups("ok")).await + 3.0).await;
    within("the new address to answer", moved).await;
    chunks.data("and done").await;
    drop(chunks);

    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "begun and done");
}

#[tokio::test]
async fn the_last_good_answer_holds_through_whatever_a_server_does() {
    let dns = Dns::start();
    let backend = Backend::replies("ok").await;
    dns.tells(NAME, 0, &[ip(1)]);
    let armiger = Armiger::with(config(&dns, &backend, "", ", ttl_max: 40ms")).await;
    armiger.until_metric(ENDPOINTS, 1.0).await;
    for trouble in ["nobody", "nothing", "failure", "silence"] {
        let result = match trouble {
            "nobody" => {
                dns.forgets(NAME);
                "empty"
            }
            "nothing" => {
                dns.tells(NAME, 0, &[]);
                "empty"
            }
            "failure" => {
                dns.is(Mood::Failing);
                "failed"
            }
            _ => {
                dns.is(Mood::Silent);
                "failed"
            }
        };
        let before = armiger.metric(&lookups(result)).await;
        armiger.until_metric_beyond(&lookups(result), before + 1.0).await;
        assert_eq!(armiger.get("/").await.text(), "ok", "{trouble}");
        armiger.until_metric(ENDPOINTS, 1.0).await;
    }
    let state = armiger.admin().get("/state/upstreams").await.json();
    assert!(state["rows"][0]["names"][0]["trouble"].is_string(), "{state:#}");
    dns.tells(NAME, 0, &[ip(1), ip(2)]);
    dns.is(Mood::Well);
    armiger.until_metric(ENDPOINTS, 2.0).await;
}

#[tokio::test]
async fn a_service_tells_ports_weights_and_who_comes_first() {
    let dns = Dns::start();
    let (main, other, spare) =
        (Backend::replies("main").await, Backend::replies("other").await, Backend::replies("spare").await);
    let port = |backend: &Backend| backend.address().port();
    dns.tells("host.test", 0, &[ip(1)]);
    let service = "_http._tcp.orders.test";
    let spares = (9, 0, port(&spare), "host.test");
    dns.offers(service, &[(1, 30, port(&main), "host.test"), (1, 10, port(&other), "host.test"), spares]);
    let top = format!(
        "{}upstreams: {{app: {{endpoints: [\"dns:http://{service}\"], balance: round_robin}}}}",
        dns.section("")
    );
    let armiger = Armiger::with(Config::empty().top(&top).routes(ROUTES)).await;
    armiger.until_metric(ENDPOINTS, 3.0).await;
    assert_eq!(answers(&armiger, 8).await, [["main"; 6].as_slice(), &["other"; 2]].concat());

    // Of the first nobody is left, so the next ones come.
    drop((main, other));
    assert_eq!(answers(&armiger, 2).await, ["spare", "spare"]);

    dns.offers(service, &[spares]);
    armiger.until_metric(ENDPOINTS, 1.0).await;
    assert_eq!(answers(&armiger, 1).await, ["spare"]);
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_a_datagram_is_fetched_by_tcp() {
    let dns = Dns::start();
    let backend = Backend::replies("ok").await;
    dns.tells(NAME, 0, &[ip(1)]);
    dns.is_long(NAME);

    let armiger = Armiger::with(config(&dns, &backend, "", "")).await;

    armiger.get("/").await.assert_status(200);
    assert!(dns.by_tcp() > 0);
}

#[tokio::test]
async fn answers_survive_a_reload_and_so_does_asking() {
    let dns = Dns::start();
    let one = Backend::replies("one").await;
    let _two = Backend::twin(&one, 2, "two").await;
    dns.tells(NAME, 0, &[ip(1)]);
    let files = Files::of(config(&dns, &one, "", ""));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    armiger.until_metric(ENDPOINTS, 1.0).await;
    let before = armiger.status().await["in_force"]["version"].as_u64().unwrap();

    dns.is(Mood::Silent);
    files.write("config.yaml", config(&dns, &one, "timeouts: {first_byte: 3s}", ""));
    armiger.in_force(before + 1).await;

    assert_eq!(answers(&armiger, 2).await, ["one", "one"]);
    dns.tells(NAME, 0, &[ip(2)]);
    dns.is(Mood::Well);
    let followed = async {
        while armiger.get("/").await.text() != "two" {
            tokio::task::yield_now().await;
        }
    };
    within("the new address to be found", followed).await;
}

#[tokio::test]
async fn a_name_that_a_reload_brings_has_requests_wait_for_its_first_answer() {
    let dns = Dns::start();
    let backend = Backend::replies("ok").await;
    dns.tells(NAME, 0, &[ip(1)]);
    let other = format!("{}upstreams: {{app: {{endpoints: [\"{}\"]}}}}", dns.section(""), backend.url());
    let files = Files::of(Config::empty().top(&other).routes(ROUTES));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    let before = armiger.status().await["in_force"]["version"].as_u64().unwrap();

    files.write("config.yaml", config(&dns, &backend, "", ""));
    armiger.in_force(before + 1).await;

    armiger.get("/").await.assert_status(200);
}

#[tokio::test]
async fn before_any_answer_callers_are_told_and_the_pod_is_not_ready() {
    let dns = Dns::start();
    let backend = Backend::replies("ok").await;
    dns.is(Mood::Silent);
    let keys = "timeouts: {connect: 50ms}";
    let armiger = Armiger::with(config(&dns, &backend, keys, ", ready_wait: 1h")).await;
    armiger.admin().get("/readyz").await.assert_status(503);

    let refusal = armiger.get("/").await;

    refusal.assert_problem(502, "upstream-dns").assert_header("proxy-status", "armiger; error=dns_error");
    dns.tells(NAME, 0, &[ip(1)]);
    dns.is(Mood::Well);
    let ready = async {
        while armiger.admin().get("/readyz").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    within("armiger to be ready", ready).await;
    armiger.until_metric(ENDPOINTS, 1.0).await;
    armiger.get("/").await.assert_status(200);
}

#[tokio::test]
async fn a_name_is_asked_for_by_its_ttl_within_bounds() {
    let (often, seldom) = (Dns::start(), Dns::start());
    let backend = Backend::replies("ok").await;
    often.tells(NAME, 3600, &[ip(1)]);
    seldom.tells(NAME, 3600, &[ip(1)]);
    let one = Armiger::with(config(&often, &backend, "", ", ttl_max: 30ms")).await;
    let other = Armiger::with(config(&seldom, &backend, "", ", ttl_max: 1h")).await;
    other.until_metric(ENDPOINTS, 1.0).await;
    one.until_metric(ENDPOINTS, 1.0).await;

    often.until_asked(NAME, 5).await;

    assert_eq!(seldom.asked(NAME), 1);
}

#[tokio::test]
async fn new_addresses_are_asked_for_their_health_and_start_slowly() {
    let dns = Dns::start();
    let one = Backend::replies("one").await;
    let two = Backend::with_twin(
        &one,
        2,
        |seen| {
            if seen.target == "/healthz" { answer(503, "") } else { answer(200, "two") }
        },
    )
    .await;
    dns.tells(NAME, 0, &[ip(1)]);
    let health = "slow_start: 1h, health: {interval: 20ms, interval_ill: 10ms, start: ill}";
    let armiger = Armiger::with(config(&dns, &one, health, "")).await;
    let healthy = |last: u8| {
        format!(r#"armiger_endpoint_healthy{{endpoint="{}:{}",upstream="app"}}"#, ip(last), one.address().port())
    };
    armiger.until_metric(&healthy(1), 1.0).await;

    dns.tells(NAME, 0, &[ip(1), ip(2)]);

    armiger.until_metric(&healthy(2), 0.0).await;
    assert_eq!(answers(&armiger, 4).await, ["one"; 4]);
    assert!(two.requests().iter().all(|seen| seen.target == "/healthz"));
}

#[tokio::test]
async fn no_more_addresses_are_taken_than_may_be() {
    let dns = Dns::start();
    let backend = Backend::replies("ok").await;
    dns.tells(NAME, 0, &[ip(3), ip(1), ip(2)]);

    let armiger = Armiger::with(config(&dns, &backend, "", ", addresses_max: 1")).await;

    armiger.until_metric(ENDPOINTS, 1.0).await;
    armiger.get("/").await.assert_status(200);
    assert!(armiger.metric(r#"armiger_limit_hits_total{limit="dns.addresses_max"}"#).await > 0.0);
}

#[tokio::test]
async fn names_and_addresses_may_stand_side_by_side() {
    let dns = Dns::start();
    let (one, fixed) = (Backend::replies("one").await, Backend::replies("fixed").await);
    dns.tells(NAME, 0, &[ip(1)]);
    let top = format!(
        "{}upstreams: {{app: {{endpoints: [\"dns:http://{NAME}:{}\", \"{}\"], balance: round_robin, weights: [1, 3]}}}}",
        dns.section(""),
        one.address().port(),
        fixed.url(),
    );
    let armiger = Armiger::with(Config::empty().top(&top).routes(ROUTES)).await;
    armiger.until_metric(ENDPOINTS, 2.0).await;

    assert_eq!(answers(&armiger, 8).await, [["fixed"; 6].as_slice(), &["one"; 2]].concat());

    tokio::time::timeout(Duration::from_secs(5), dns.until_asked(NAME, 1)).await.unwrap();
}

#[tokio::test]
async fn breakers_of_addresses_that_a_reload_ends_are_told_and_one_that_is_refused_ends_none() {
    let dns = Dns::start();
    let backend = Backend::replies("ok").await;
    let _twin = Backend::twin(&backend, 2, "two").await;
    dns.tells(NAME, 0, &[ip(1)]);
    let files = Files::of(config(&dns, &backend, "breaker: {scope: endpoint}", ""));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    armiger.until_metric(ENDPOINTS, 1.0).await;
    let address = format!("127.0.0.1:{}", backend.address().port());
    let order = format!("/breakers/app?set=force-open&for=2m&endpoint={address}");
    armiger.admin().post(&order, "").await.assert_status(200);

    files.write("config.yaml", config(&dns, &backend, "weights: [0]", ""));
    armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;
    dns.tells(NAME, 0, &[ip(1), ip(2)]);
    armiger.until_metric(ENDPOINTS, 2.0).await;
    let state = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(state["rows"][0]["endpoints"][0]["breaker"]["forced"]["state"], "open", "{state:#}");

    files.write("config.yaml", config(&dns, &backend, "timeouts: {first_byte: 3s}", ""));
    armiger.in_force(2).await;
    let told = armiger.status().await["in_force"]["state"].to_string();
    let expected = format!("breaker app {address}: dropped, with the override that held it open for 1");
    assert!(told.contains(&expected), "{told}");
    assert!(told.contains(&format!("breaker app 127.0.0.2:{}: dropped", backend.address().port())), "{told}");

    // With the upstream go its names, and all that they stood for.
    files.write("config.yaml", config(&dns, &backend, "breaker: {scope: endpoint}", ""));
    armiger.in_force(3).await;
    files.write("config.yaml", Config::to(&backend));
    armiger.in_force(4).await;
    let told = armiger.status().await["in_force"]["state"].to_string();
    assert!(told.contains(&format!("breaker app {address}: dropped")), "{told}");
}
