//! What stands in for an upstream that fails: each rung of the ladder, in order, and what never steps on one.

use crate::harness::{Armiger, Backend, Config, Script, answer};

const FIXED: &str = "respond: {status: 203, body: fixed}";

fn config(app: &Backend, spare: &Backend, fallback: &str) -> Config {
    Config::to(app).and("spare", spare).routes(&format!(
        "- {{name: all, match: {{path: \"/{{rest...}}\"}}, proxy: {{upstream: app, fallback: {{{fallback}}}}}}}"
    ))
}

fn told(rung: &str) -> String {
    format!(r#"armiger_fallbacks_total{{route="all",rung="{rung}"}}"#)
}

#[tokio::test]
async fn another_upstream_and_then_a_fixed_answer_stand_in() {
    let app = Backend::with(|_| answer(503, "down")).await;
    let mut spare = Backend::replies("spare").await;
    let armiger = Armiger::with(config(&app, &spare, &format!("upstream: spare, {FIXED}"))).await;

    let response = armiger.get("/a?b=c").await;

    assert_eq!(response.assert_status(200).text(), "spare");
    response.assert_header("proxy-status", "armiger; received-status=503; details=\"fallback-upstream\"");
    let seen = spare.only().await;
    assert_eq!(seen.target, "/a?b=c");
    assert!(seen.has("x-forwarded-for") && seen.has("via"));
    let line = armiger.logged(|line| line["fallback"] == "upstream").await;
    assert_eq!((&line["upstream"], &line["attempts"].as_array().unwrap().len()), (&"spare".into(), &2));
    armiger.until_metric(&told("upstream"), 1.0).await;

    spare.stop();
    let response = armiger.get("/").await;
    assert_eq!(response.assert_status(203).text(), "fixed");
    armiger.logged(|line| line["fallback"] == "respond").await;
    armiger.until_metric(&told("respond"), 1.0).await;
}

/// What came of the upstream is told as its own, with whatever was asked since in vain.
#[tokio::test]
async fn a_line_tells_of_one_upstream_and_its_endpoint() {
    let app = Backend::with(|_| answer(503, "down")).await;
    let spare = Backend::with(|_| answer(503, "down too")).await;
    for fallback in ["upstream: spare".to_owned(), format!("upstream: spare, {FIXED}")] {
        // Asked once, and not even that by the second request.
        let config = config(&app, &spare, &fallback).to_string();
        let address = format!("[\"{}\"]", spare.url());
        let broken = config.replace(&address, &format!("{address}\n    breaker: {{trip: {{consecutive: 1}}}}"));
        assert_ne!(config, broken, "{config}");
        let armiger = Armiger::with(broken).await;
        for attempts in [2, 1] {
            armiger.get("/").await;
            let line =
                armiger.logged(|line| line["attempts"].as_array().is_some_and(|all| all.len() == attempts)).await;
            let told = (&line["upstream"], &line["upstream_addr"]);
            assert_eq!(told, (&"app".into(), &app.address().to_string().into()), "{line:#}");
        }
    }
}

#[tokio::test]
async fn the_upstreams_own_answers_pass_and_so_do_refusals_that_it_has_no_part_in() {
    let app = Backend::with(|seen| answer(if seen.target == "/500" { 500 } else { 404 }, "its own")).await;
    let spare = Backend::replies("spare").await;
    let armiger = Armiger::with(config(&app, &spare, &format!("upstream: spare, {FIXED}"))).await;

    armiger.get("/500").await.assert_status(500).assert_no_header("proxy-status");
    armiger.get("/404").await.assert_status(404);

    assert_eq!(spare.count(), 0);
}

#[tokio::test]
async fn what_is_not_safe_to_ask_twice_is_not() {
    let app = Backend::raw(Script::new().request().reset()).await;
    let spare = Backend::replies("spare").await;
    let armiger = Armiger::with(config(&app, &spare, &format!("upstream: spare, {FIXED}"))).await;

    armiger.post("/", "order").await.assert_problem(502, "upstream-reset");

    assert_eq!(spare.count(), 0);
}

#[tokio::test]
async fn an_open_breaker_steps_on_the_ladder_at_once() {
    let app = Backend::with(|_| answer(500, "down")).await;
    let spare = Backend::replies("spare").await;
    let config = config(&app, &spare, "upstream: spare").upstream("breaker: {trip: {consecutive: 1}}");
    let armiger = Armiger::with(config).await;
    armiger.get("/").await.assert_status(500);

    let response = armiger.get("/").await;

    assert_eq!(response.assert_status(200).text(), "spare");
    response.assert_header("proxy-status", "armiger; error=destination_unavailable; details=\"fallback-upstream\"");
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn what_is_stored_comes_before_another_upstream() {
    let is_down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let its = is_down.clone();
    let app = Backend::with(move |_| {
        let mut answer = answer(if its.load(std::sync::atomic::Ordering::Relaxed) { 503 } else { 200 }, "stored");
        answer.headers_mut().insert("cache-control", http::HeaderValue::from_static("max-age=0"));
        answer
    })
    .await;
    let spare = Backend::with(|seen| answer(200, format!("spare for {}", seen.header("x-route")))).await;
    let routes = r#"
    - name: all
      match: {path: "/{rest...}"}
      policies:
        cache: {stale_if_error: 1h}
        headers: {request: {set: {x-route: all}}, response: {add: {x-mark: once}}}
      proxy: {upstream: app, fallback: {upstream: spare}}
    "#;
    let armiger = Armiger::with(Config::to(&app).and("spare", &spare).routes(routes)).await;
    armiger.get("/stored").await.assert_status(200);
    is_down.store(true, std::sync::atomic::Ordering::Relaxed);

    assert_eq!(armiger.get("/stored").await.assert_status(200).text(), "stored");
    assert_eq!(spare.count(), 0);

    let other = armiger.get("/other").await;
    assert_eq!(other.assert_status(200).text(), "spare for all");
    other.assert_header("x-mark", "once");
    // What stood in is not stored.
    armiger.get("/other").await.assert_status(200);
    assert_eq!(spare.count(), 2);
}

#[tokio::test]
async fn where_no_time_is_left_only_the_fixed_answer_is() {
    let app = Backend::raw(Script::new().request().hang()).await;
    let spare = Backend::replies("spare").await;
    let routes = format!(
        "- {{name: all, match: {{path: \"/{{rest...}}\"}}, timeout: 60ms, \
         proxy: {{upstream: app, fallback: {{upstream: spare, {FIXED}}}}}}}"
    );
    let armiger = Armiger::with(Config::to(&app).and("spare", &spare).routes(&routes)).await;

    let response = armiger.get("/").await;

    assert_eq!(response.assert_status(203).text(), "fixed");
    assert_eq!(spare.count(), 0);
}

#[tokio::test]
async fn what_could_not_stand_in_is_refused() {
    for (fallback, message) in [
        ("status: [503]", "names nothing that could stand in"),
        ("upstream: app", "is the upstream that failed"),
        ("upstream: nobody", "nobody"),
        ("upstream: spare, status: []", "names no status"),
    ] {
        let (app, spare) = (Backend::replies("").await, Backend::replies("").await);
        let Err(report) = Armiger::try_with(config(&app, &spare, fallback)).await else { panic!("{fallback}") };
        assert!(report.contains(message), "{report}");
    }
}
