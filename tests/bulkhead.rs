//! How much an upstream is given at once: who waits for a turn, who is sent away for whom, and who never is.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::harness::{Armiger, Backend, Config, Response, Signal, answer, within};

const ROUTES: &str = r#"
- {name: critical, match: {path: /critical}, class: critical, timeout: 20s, proxy: {upstream: app}}
- {name: bulk, match: {path: /bulk}, class: bulk, timeout: 20s, proxy: {upstream: app}}
- {name: probe, match: {path: /probe}, class: probe, proxy: {upstream: app}}
- {name: page, match: {path: /page}, class: probe, aggregate: {parts: {a: {upstream: app, path: /json}}}}
- {name: brief, match: {path: /brief}, timeout: 80ms, proxy: {upstream: app}}
- {name: all, match: {path: "/{rest...}"}, timeout: 20s, proxy: {upstream: app}}
"#;

/// A back end that answers with the path, `/held` not before the signal.
async fn slow() -> (Backend, Signal) {
    let release = Signal::new();
    let held = release.clone();
    let backend = Backend::seen(move |seen| {
        let held = held.clone();
        async move {
            if seen.target.starts_with("/held") {
                held.wait().await;
            }
            answer(200, if seen.target == "/json" { "{}".to_owned() } else { seen.target })
        }
    })
    .await;
    (backend, release)
}

async fn before(backend: &Backend, limits: &str) -> Armiger {
    Armiger::with(Config::to(backend).upstream(&format!("limits: {{{limits}}}")).routes(ROUTES)).await
}

fn ask(armiger: &Armiger, path: &'static str) -> JoinHandle<Response> {
    let client = armiger.client();
    tokio::spawn(async move { client.get(path).await })
}

async fn end(asked: JoinHandle<Response>) -> Response {
    within("an answer", asked).await.expect("no panic")
}

const WAITING: &str = r#"armiger_upstream_waiting{upstream="app"}"#;

fn shed(class: &str) -> String {
    format!(r#"armiger_upstream_shed_total{{class="{class}",upstream="app"}}"#)
}

#[tokio::test]
async fn who_waits_gets_the_next_turn_and_the_line_is_bounded() {
    let (backend, release) = slow().await;
    let armiger = before(&backend, "in_flight_max: 1, queue_max: 1, queue_wait: 20s").await;
    let held = ask(&armiger, "/held");
    backend.received(1).await;
    let waits = ask(&armiger, "/waits");
    armiger.until_metric(WAITING, 1.0).await;

    armiger.get("/third").await.assert_problem(503, "upstream-overloaded");

    armiger.until_metric(r#"armiger_limit_hits_total{limit="upstreams.limits.queue_max"}"#, 1.0).await;
    armiger.until_metric(&shed("default"), 1.0).await;
    let row = armiger.admin().get("/state/upstreams").await.json()["rows"][0].clone();
    assert_eq!((&row["in_flight"], &row["waiting"], &row["in_flight_bound"]), (&1.into(), &1.into(), &1.into()));
    release.send();
    end(held).await.assert_status(200);
    assert_eq!(end(waits).await.text(), "/waits");
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn what_matters_more_is_served_before_and_sends_others_away() {
    let (backend, release) = slow().await;
    let armiger = before(&backend, "in_flight_max: 1, queue_max: 2, queue_wait: 20s").await;
    let held = ask(&armiger, "/held");
    backend.received(1).await;
    let bulk = ask(&armiger, "/bulk");
    armiger.until_metric(WAITING, 1.0).await;
    let other = ask(&armiger, "/other");
    armiger.until_metric(WAITING, 2.0).await;

    let critical = ask(&armiger, "/critical");

    end(bulk).await.assert_problem(503, "upstream-overloaded");
    // A probe asks whether the service lives, and is told by the service.
    armiger.get("/probe").await.assert_status(200);
    release.send();
    for asked in [held, critical, other] {
        end(asked).await.assert_status(200);
    }
    let order: Vec<_> = backend.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(order, ["/held", "/probe", "/critical", "/other"]);
    armiger.until_metric(&shed("bulk"), 1.0).await;
    assert_eq!(armiger.metric(&shed("critical")).await, 0.0);
}

#[tokio::test]
async fn a_part_is_of_the_class_of_its_route() {
    let (backend, release) = slow().await;
    let armiger = before(&backend, "in_flight_max: 1").await;
    let held = ask(&armiger, "/held");
    backend.received(1).await;
    armiger.get("/other").await.assert_problem(503, "upstream-overloaded");

    assert_eq!(armiger.get("/page").await.assert_status(200).text(), r#"{"a":{}}"#);

    release.send();
    end(held).await.assert_status(200);
}

#[tokio::test]
async fn a_wait_ends_with_its_time_or_with_the_routes_and_with_its_client() {
    let (backend, release) = slow().await;
    let armiger = before(&backend, "in_flight_max: 1, queue_max: 9, queue_wait: 60ms").await;
    let held = ask(&armiger, "/held");
    backend.received(1).await;
    armiger.get("/late").await.assert_problem(503, "upstream-overloaded");
    armiger.until_metric(r#"armiger_limit_hits_total{limit="upstreams.limits.queue_wait"}"#, 1.0).await;
    release.send();
    end(held).await.assert_status(200);

    let (backend, release) = slow().await;
    let armiger = before(&backend, "in_flight_max: 1, queue_max: 9, queue_wait: 20s").await;
    let held = ask(&armiger, "/held");
    backend.received(1).await;
    // It gives up a little before its route does, so that its caller is told why.
    armiger.get("/brief").await.assert_problem(503, "upstream-overloaded");
    let leaves = ask(&armiger, "/leaves");
    armiger.until_metric(WAITING, 1.0).await;
    leaves.abort();
    armiger.until_metric(WAITING, 0.0).await;
    release.send();
    end(held).await.assert_status(200);
    armiger.get("/next").await.assert_status(200);
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_bound_follows_what_the_upstream_bears() {
    // One call takes 2 ms; of many at once each takes as long as all of them together.
    let busy = std::sync::Arc::new(tokio::sync::Semaphore::new(2));
    let backend = Backend::seen(move |_| {
        let busy = busy.clone();
        async move {
            let _turn = busy.acquire().await.expect("never closed");
            tokio::time::sleep(Duration::from_millis(2)).await;
            answer(200, "")
        }
    })
    .await;
    let limits = "in_flight_max: 64, queue_max: 1000, queue_wait: 20s, adaptive: {min: 2, tolerance: 1.5}";
    let armiger = before(&backend, limits).await;
    let bound = r#"armiger_upstream_in_flight_bound{upstream="app"}"#;
    let client = armiger.client();
    let mut load: Vec<JoinHandle<()>> = Vec::new();
    for _ in 0..40 {
        load.push(tokio::spawn(async move {
            let mut connection = client.connect().await;
            loop {
                connection.get("/").await.assert_status(200);
            }
        }));
    }
    let fell = async {
        // Of 64 that may be in flight, far fewer are.
        while !(2.0..=24.0).contains(&armiger.metric(bound).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the bound to fall", fell).await;
    load.iter().for_each(JoinHandle::abort);
    assert_eq!(armiger.metric(&shed("default")).await, 0.0, "nobody is refused to find out");
}
