//! Mirrors: copies of requests for another upstream, which change nothing for anybody else.

use std::time::Duration;

use super::harness::{Armiger, Backend, Config, Script, Signal, answer, within};

fn to(backend: &Backend, mirror: &Backend, more: &str) -> Config {
    let route = format!(
        "- {{name: all, match: {{path: \"/{{rest...}}\"}}, proxy: {{upstream: app, mirror: {{upstream: next{more}}}}}}}"
    );
    Config::to(backend).and("next", mirror).routes(&route)
}

async fn until_counted(armiger: &Armiger, outcome: &str, count: f64) {
    let series = format!("armiger_mirrored_requests_total{{outcome=\"{outcome}\",route=\"all\"}}");
    within(&format!("{count} copies that are {outcome}"), async { while armiger.metric(&series).await != count {} })
        .await;
}

#[tokio::test]
async fn a_copy_is_what_the_upstream_was_sent_and_its_answer_nobodys() {
    let backend = Backend::replies("ok").await;
    let mirror = Backend::with(|_| answer(500, "never seen")).await;
    let armiger = Armiger::with(to(&backend, &mirror, "")).await;
    for (place, is_http2) in [false, true].into_iter().enumerate() {
        let mut connection = if is_http2 { armiger.connect_h2c().await } else { armiger.connect().await };
        assert_eq!(connection.get("/a?b=c").await.assert_status(200).text(), "ok");
        assert_eq!(connection.post("/d", "a body").await.assert_status(200).text(), "ok");
        let copies = mirror.received(2 * (place + 1)).await;
        let requests = backend.received(2 * (place + 1)).await;
        for request in &requests[2 * place..] {
            let copy = copies[2 * place..].iter().find(|copy| copy.target == request.target).expect("a copy");
            assert_eq!((&copy.method, &copy.body), (&request.method, &request.body));
            assert_eq!(copy.header("x-armiger-mirror"), "1");
            assert!(!request.has("x-armiger-mirror"));
            for name in ["host", "x-request-id", "x-forwarded-for", "via"] {
                assert_eq!(copy.header(name), request.header(name));
            }
        }
    }
    until_counted(&armiger, "answered", 4.0).await;
    // Nothing of it is an exchange of its own.
    assert_eq!(armiger.log_lines(4).await.len(), 4);
}

#[tokio::test]
async fn a_mirror_that_hangs_or_is_down_delays_nobody_and_copies_are_bounded() {
    let backend = Backend::replies("ok").await;
    let hanging = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(to(&backend, &hanging, ", in_flight_max: 1")).await;
    for _ in 0..10 {
        armiger.post("/", "x").await.assert_status(200);
    }
    until_counted(&armiger, "dropped_busy", 9.0).await;
    armiger.until_metric("armiger_limit_hits_total{limit=\"mirror.in_flight_max\"}", 9.0).await;

    let mut down = Backend::replies("").await;
    down.stop();
    let armiger = Armiger::with(to(&backend, &down, "")).await;
    armiger.get("/").await.assert_status(200);
    until_counted(&armiger, "failed", 1.0).await;
    armiger.stop().await;
}

#[tokio::test]
async fn a_mirror_that_never_answers_is_given_up_at_the_routes_timeout() {
    let backend = Backend::replies("ok").await;
    let hanging = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(to(&backend, &hanging, "").top("defaults: {timeout: 200ms}")).await;
    armiger.get("/").await.assert_status(200);
    until_counted(&armiger, "timeout", 1.0).await;
}

#[tokio::test]
async fn a_body_that_is_too_long_passes_without_a_copy() {
    let (backend, mirror) = (Backend::echo().await, Backend::replies("").await);
    let armiger = Armiger::with(to(&backend, &mirror, ", body_max: 1KiB")).await;
    let body = vec![b'x'; 100_000];
    assert_eq!(armiger.post("/", body.clone()).await.assert_status(200).body.len(), body.len());
    // Of unknown length.
    let mut raw = armiger.raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    raw.write(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048))).await.answer().await.assert_status(200);
    until_counted(&armiger, "dropped_body", 2.0).await;
    assert_eq!(mirror.count(), 0);
}

#[tokio::test]
async fn only_the_share_is_copied() {
    let (backend, mirror) = (Backend::replies("ok").await, Backend::replies("").await);
    let armiger = Armiger::with(to(&backend, &mirror, ", share: 0.5, in_flight_max: 1000")).await;
    let mut connection = armiger.connect().await;
    for _ in 0..200 {
        connection.get("/").await.assert_status(200);
    }
    mirror.received(50).await;
    assert!(mirror.count() < 150, "{} of 200", mirror.count());
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let backend = Backend::replies("ok").await;
    for (more, complaint) in [
        (", share: 0.0", "is no share of the requests"),
        (", share: 1.5", "is no share of the requests"),
        (", in_flight_max: 0", "would send no copy"),
    ] {
        let report = Armiger::try_with(to(&backend, &backend, more)).await.err().expect("a report");
        assert!(report.contains(complaint), "{report}");
    }
    let config = Config::to(&backend)
        .upstream("third_party: true")
        .route("")
        .routes("- {name: all, match: {path: /}, proxy: {upstream: app, mirror: {upstream: app}}}");
    let report = Armiger::try_with(config).await.err().expect("a report");
    assert!(report.contains("credentials of callers"), "{report}");
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_copies() {
    let (backend, signal) = (Backend::replies("ok").await, Signal::new());
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let slow = Backend::raw(Script::new().request().wait(&signal).write(reply)).await;
    let armiger = Armiger::with(to(&backend, &slow, "").top("drain: {delay: 0s, timeout: 1h}")).await;
    armiger.get("/").await.assert_status(200);
    slow.received(1).await;

    armiger.running().drain().begin();

    let over = armiger.running().drain().over();
    let too_early = tokio::time::timeout(Duration::from_millis(500), over).await;
    assert!(too_early.is_err(), "armiger ended before the copy was over");
    signal.send();
    within("the end", armiger.running().drain().over()).await;
    assert_eq!(armiger.stop().await.cut, 0);
}

#[tokio::test]
async fn the_end_of_armiger_waits_for_a_copy_no_longer_than_for_exchanges() {
    let backend = Backend::replies("ok").await;
    let hanging = Backend::raw(Script::new().request().hang()).await;
    let armiger = Armiger::with(to(&backend, &hanging, "").top("drain: {delay: 0s, timeout: 100ms}")).await;
    armiger.get("/").await.assert_status(200);
    hanging.received(1).await;

    armiger.running().drain().begin();

    within("the end", armiger.running().drain().over()).await;
    hanging.closed(1).await;
}
