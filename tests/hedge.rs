//! Asking twice at once: when, whom, from which budget, and that one answer is all that a client ever gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Armiger, Backend, Config, Signal, answer};

const ROUTES: &str = "- {name: all, match: {path: \"/{rest...}\"}, timeout: 20s, proxy: {upstream: app}}";

/// A back end that answers at once, or once it is told to while `is_slow`.
async fn moody(name: &'static str, release: &Signal, is_slow: &Arc<AtomicBool>) -> Backend {
    let (release, is_slow) = (release.clone(), is_slow.clone());
    Backend::seen(move |seen| {
        let (release, is_slow) = (release.clone(), is_slow.clone());
        async move {
            if is_slow.load(Ordering::Relaxed) && seen.target == "/slow" {
                release.wait().await;
            }
            answer(200, name)
        }
    })
    .await
}

async fn before(backends: &[&Backend], keys: &str) -> Armiger {
    let endpoints: Vec<String> = backends.iter().map(|backend| backend.url()).collect();
    let top = format!(
        "upstreams: {{app: {{endpoints: {}, balance: round_robin, hedge: {{floor: 150ms}}, {keys}}}}}",
        serde_json::json!(endpoints)
    );
    let armiger = Armiger::with(Config::empty().top(&top).routes(ROUTES)).await;
    // So many that it is known what is late.
    let mut connection = armiger.connect().await;
    for _ in 0..60 {
        connection.get("/").await.assert_status(200);
    }
    armiger
}

fn hedges(race: &str) -> String {
    format!(r#"armiger_upstream_hedges_total{{race="{race}",upstream="app"}}"#)
}

#[tokio::test]
async fn who_answers_first_is_the_answer_and_the_other_try_is_ended() {
    let (release, is_slow, never) = (Signal::new(), Arc::new(AtomicBool::new(true)), Arc::default());
    let slow = moody("slow", &release, &is_slow).await;
    let fast = moody("fast", &release, &never).await;
    let armiger = before(&[&slow, &fast], "").await;
    let (at_slow, at_fast) = (slow.count(), fast.count());

    for _ in 0..4 {
        assert_eq!(armiger.get("/slow").await.assert_status(200).text(), "fast");
    }

    // In turn, second tries too: each came to the slow one first, and then to the other.
    assert_eq!((slow.count() - at_slow, fast.count() - at_fast), (4, 4));
    armiger.until_metric(&hedges("won"), 4.0).await;
    let line = armiger.logged(|line| line["attempts"].as_array().is_some_and(|tries| tries.len() == 2)).await;
    let outcomes: Vec<_> = line["attempts"].as_array().unwrap().iter().map(|row| row["outcome"].clone()).collect();
    assert_eq!(outcomes, ["abandoned", "ok"]);
    assert_eq!(line["upstream_addr"], fast.address().to_string());
    let second = fast.requests().into_iter().find(|seen| seen.has("x-armiger-attempts")).unwrap();
    assert_eq!(second.header("x-armiger-attempts"), "2");
    // The connections of those that lost are closed.
    slow.closed(4).await;
    let state = armiger.admin().get("/state/upstreams").await.json();
    assert_eq!(state["rows"][0]["in_flight"], 0);
}

#[tokio::test]
async fn what_is_not_safe_is_never_asked_twice() {
    let (release, is_slow, never) = (Signal::new(), Arc::new(AtomicBool::new(true)), Arc::default());
    let slow = moody("slow", &release, &is_slow).await;
    let fast = moody("fast", &release, &never).await;
    let armiger = before(&[&slow, &fast], "").await;
    let slow_before = slow.count();
    let mut asked = Vec::new();
    for _ in 0..2 {
        let client = armiger.client();
        asked.push(tokio::spawn(
            async move { client.post("/slow", "order").await.assert_status(200).text().to_owned() },
        ));
    }
    slow.arrived(slow_before + 1).await;
    // One of them hangs. Once a request that came later was asked twice, this one would have been.
    while armiger.metric(&hedges("won")).await == 0.0 {
        armiger.get("/slow").await.assert_status(200);
    }
    release.send();
    for asked in asked {
        asked.await.unwrap();
    }
    let posts = |backend: &Backend| backend.requests().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(posts(&slow) + posts(&fast), 2);
}

#[tokio::test]
async fn without_budget_or_another_endpoint_nobody_asks_twice() {
    let (release, is_slow) = (Signal::new(), Arc::new(AtomicBool::new(true)));
    let one = moody("one", &release, &is_slow).await;
    let other = moody("other", &release, &is_slow).await;
    let spent = "retry: {attempts: 2, when: [503], budget: {ratio: 0.000001, min_per_second: 0}}";
    for (backends, keys) in [(&[&one][..], ""), (&[&one, &other], spent)] {
        let armiger = before(backends, keys).await;
        let before: usize = backends.iter().map(|backend| backend.count()).sum();
        let mut asked = Vec::new();
        // A purse is never quite empty at first: what is in it is spent on these.
        for _ in 0..3 {
            let client = armiger.client();
            asked.push(tokio::spawn(async move { client.get("/slow").await.status }));
        }
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let after: usize = backends.iter().map(|backend| backend.count()).sum();
        assert!(after - before <= if backends.len() == 1 { 3 } else { 4 }, "{} more", after - before);
        release.send();
        for asked in asked {
            assert_eq!(asked.await.unwrap(), 200);
        }
    }
}
