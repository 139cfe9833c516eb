//! Requests under way at once: how many, who waits, and when a place is free again.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};

use crate::harness::{Armiger, Backend, Config, Signal, answer, streamed, within};

fn get(headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).expect("the test gives a valid request")
}

fn limited(backend: &Backend, limits: &str) -> Config {
    Config::to(backend).policies(&format!("in_flight: [{limits}]"))
}

/// A back end whose answers begin at once and end when the test says so.
async fn endless() -> (Backend, tokio::sync::mpsc::Receiver<crate::harness::Chunks>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let backend = Backend::with(move |_| {
        let (chunks, answer) = streamed(200);
        sender.try_send(chunks).expect("room for what a test does");
        answer
    })
    .await;
    (backend, receiver)
}

#[tokio::test]
async fn a_place_is_held_until_the_last_byte_is_out() {
    let (backend, mut answers) = endless().await;
    let armiger = Armiger::with(limited(&backend, "{name: one, max: 1}")).await;
    let mut first = armiger.connect().await;
    let response = first.open(get(&[])).await.expect("the head comes");
    assert_eq!(response.status(), 200);

    let refused = armiger.get("/").await;
    refused.assert_problem(429, "too-many-in-flight").assert_header("retry-after", "1");
    armiger.until_metric("armiger_limit_hits_total{limit=\"in_flight.max\"}", 1.0).await;

    let chunks = answers.recv().await.expect("the back end was asked");
    chunks.data("all").await;
    drop(chunks);
    within("the body to end", response.into_body().collect()).await.expect("whole");
    armiger.logged(|line| line["status"] == 200).await;
    let mut second = armiger.connect().await;
    assert_eq!(second.open(get(&[])).await.expect("the head comes").status(), 200);
}

/// An answer that a cache does not store is the client's alone, and so is the place.
#[tokio::test]
async fn a_place_is_held_on_a_route_with_a_cache_too() {
    let (backend, _answers) = endless().await;
    let limits = "cache: {}\nin_flight: [{name: one, max: 1}]";
    let armiger = Armiger::with(Config::to(&backend).policies(limits)).await;
    let mut first = armiger.connect().await;
    let response = first.open(get(&[])).await.expect("the head comes");
    assert_eq!(response.status(), 200);

    armiger.get("/").await.assert_problem(429, "too-many-in-flight");
    assert_eq!(backend.count(), 1);
}

/// What asks for the place then is an errand, which knows nothing of what its exchange drew.
#[tokio::test]
async fn who_finds_no_place_draws_from_no_limit_on_a_route_with_a_cache_too() {
    for cache in ["", "cache: {}\n"] {
        let (backend, _answers) = endless().await;
        let limits = "rate_limit: [{name: few, rate: 1/h, burst: 3}]\nin_flight: [{name: one, max: 1}]";
        let armiger = Armiger::with(Config::to(&backend).policies(&format!("{cache}{limits}"))).await;
        let mut first = armiger.connect().await;
        let response = first.open(get(&[])).await.expect("the head comes");
        assert_eq!(response.status(), 200);

        for number in 0..4 {
            let refused = armiger.get(&format!("/{number}")).await;
            refused.assert_problem(429, "too-many-in-flight");
            assert!(refused.header("ratelimit").contains("\"few\";r=2;"), "{cache}{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back() {
    let (backend, _answers) = endless().await;
    let armiger = Armiger::with(limited(&backend, "{name: one, max: 1, by: [route]}")).await;
    let mut first = armiger.connect().await;
    let response = first.open(get(&[])).await.expect("the head comes");
    armiger.get("/").await.assert_problem(503, "route-busy").assert_header("retry-after", "1");

    drop((response, first));
    armiger.logged(|line| line["cut_by"] == "client").await;

    let mut second = armiger.connect().await;
    assert_eq!(second.open(get(&[])).await.expect("the head comes").status(), 200);
}

#[tokio::test]
async fn who_waits_gets_the_next_place_and_the_queue_is_bounded() {
    let (backend, mut answers) = endless().await;
    let armiger = Armiger::with(limited(&backend, "{name: one, max: 1, queue: {max: 1, wait: 4s}}")).await;
    let mut first = armiger.connect().await;
    let response = first.open(get(&[])).await.expect("the head comes");
    let chunks = answers.recv().await.expect("the back end was asked");
    let mut second = armiger.connect().await;
    let waiting = tokio::spawn(async move { second.open(get(&[])).await.expect("the head comes").status() });
    // One waits; whoever comes then is refused at once. Which of the two comes first is not known.
    let refused = within("the queue to be full", async {
        loop {
            let client = armiger.client();
            let mut asked = tokio::spawn(async move { client.get("/").await });
            tokio::select! {
                response = &mut asked => break response.expect("no panic"),
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => asked.abort(),
            }
        }
    })
    .await;
    refused.assert_problem(429, "too-many-in-flight");
    drop(chunks);
    drop(response);
    assert_eq!(within("the next one", waiting).await.expect("no panic"), 200);
}

#[tokio::test]
async fn a_wait_ends_with_its_time_or_with_the_routes() {
    let (backend, _answers) = endless().await;
    let config = limited(&backend, "{name: one, max: 1, queue: {max: 5, wait: 50ms}}");
    let armiger = Armiger::with(config).await;
    let mut first = armiger.connect().await;
    let _held = first.open(get(&[])).await.expect("the head comes");
    armiger.get("/").await.assert_problem(429, "too-many-in-flight");

    let config = limited(&backend, "{name: one, max: 1, queue: {max: 5, wait: 1h}}").route("timeout: 100ms");
    let armiger = Armiger::with(config).await;
    let mut first = armiger.connect().await;
    let _held = first.open(get(&[])).await.expect("the head comes");
    armiger.get("/").await.assert_problem(504, "deadline-exceeded");
}

/// Who is refused here was not served, and a refused request draws from no limit.
#[tokio::test]
async fn who_finds_no_place_draws_from_no_rate_limit() {
    let (backend, _answers) = endless().await;
    let config = limited(&backend, "{name: one, max: 1}").policies("rate_limit: [{name: few, rate: 1/h, burst: 5}]");
    let armiger = Armiger::with(config).await;
    let mut first = armiger.connect().await;
    let _held = first.open(get(&[])).await.expect("the head comes");
    for _ in 0..8 {
        let refused = armiger.get("/").await;
        refused.assert_problem(429, "too-many-in-flight").assert_header("ratelimit", "\"few\";r=4;t=3600");
    }
}

#[tokio::test]
async fn each_caller_has_its_places_and_shadow_refuses_nobody() {
    let hold = Signal::new();
    let backend = Backend::serving({
        let hold = hold.clone();
        move |_| {
            let hold = hold.clone();
            async move {
                hold.wait().await;
                answer(200, "ok")
            }
        }
    })
    .await;
    let limits = "{name: caller, max: 1, by: [\"header:x-key\"]}, {name: tried, max: 1, by: [constant], mode: shadow}";
    let armiger = Armiger::with(limited(&backend, limits)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for key in ["a", "b", "c"] {
        let client = armiger.client();
        tasks.spawn(async move { client.request(get(&[("x-key", key)])).await.status });
    }
    backend.received(3).await;
    armiger.request(get(&[("x-key", "a")])).await.assert_problem(429, "too-many-in-flight");
    hold.send();
    assert_eq!(tasks.join_all().await, [200, 200, 200]);
    let shadow = "armiger_policy_verdicts_total{mode=\"shadow\",policy=\"in_flight\",route=\"everything\",verdict=\"would_reject\"}";
    armiger.until_metric(shadow, 2.0).await;
}

#[tokio::test]
async fn mistakes_are_told() {
    let backend = Backend::replies("ok").await;
    let limits = "{name: \"a b\", max: 0}, {name: b, max: 1, by: [nobody], queue: {max: 1, wait: 0s}}, {name: c, max: 1}, {name: c, max: 2}";
    let report = Armiger::try_with(limited(&backend, limits)).await.err().expect("must be refused");
    for part in [
        "no limit name",
        "is 0, so no request could pass",
        "nothing to count by",
        "no time at all",
        "another limit is called `c`",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
}
