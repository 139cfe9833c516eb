//! What operators see, and purge.

use super::*;

async fn purge(armiger: &Armiger, order: Value) -> Response {
    armiger.admin().post("/cache/purge", order.to_string()).await
}

#[tokio::test]
async fn operators_purge_by_url_prefix_and_tag() {
    for (order, gone) in [
        (json!({"url": "http://h.test/a/1"}), &["/a/1"][..]),
        (json!({"url": ["http://h.test/a/1", "http://h.test/b"]}), &["/a/1", "/b"]),
        (json!({"prefix": "/a/"}), &["/a/1", "/a/2"]),
        (json!({"prefix": "http://h.test/a/"}), &["/a/1", "/a/2"]),
        (json!({"prefix": "http://other.test/"}), &[]),
        (json!({"tag": "t"}), &["/a/1", "/b"]),
        (json!({"all": true}), &["/a/1", "/a/2", "/b"]),
    ] {
        let backend = Backend::with({
            let counts = Mutex::new(HashMap::<String, usize>::new());
            move |seen| {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(seen.target.clone()).or_default();
                *count += 1;
                let tag = if seen.target == "/a/2" { "u" } else { "s t" };
                let headers = [("cache-control", "max-age=60"), ("surrogate-key", tag), ("vary", "x-v")];
                reply(200, &headers, count.to_string())
            }
        })
        .await;
        let armiger = caching(&backend, "{}").await;
        let host = ("host", "h.test");
        for target in ["/a/1", "/a/2", "/b"] {
            for variant in ["1", "2"] {
                let response = get(&armiger, target, &[host, ("x-v", variant)]).await;
                response.assert_no_header("surrogate-key");
            }
        }
        purge(&armiger, order.clone()).await.assert_status(200);
        for target in ["/a/1", "/a/2", "/b"] {
            for variant in ["1", "2"] {
                let response = get(&armiger, target, &[host, ("x-v", variant)]).await;
                let is_gone = response.text().parse::<usize>().unwrap() > 2;
                assert_eq!(is_gone, gone.contains(&target), "{order} {target} {variant}");
            }
        }
    }
}

#[tokio::test]
async fn a_purge_beats_a_fetch_that_is_under_way() {
    let go = Signal::new();
    let backend = numbered(&go, |number| number == 0, |number| reply(200, KEPT, number.to_string())).await;
    let armiger = caching(&backend, "{}").await;
    let client = armiger.client();
    let before = tokio::spawn(async move { client.get("/").await });
    backend.arrived(1).await;
    purge(&armiger, json!({"all": true})).await.assert_status(200);

    // Asked after the purge, it does not wait for what was asked before.
    assert_eq!(armiger.get("/").await.text(), "1");
    go.send();
    assert_eq!(before.await.unwrap().text(), "0");
    armiger.until_metric("armiger_cache_fills_total{outcome=\"purged\",route=\"everything\"}", 1.0).await;
    assert_eq!(armiger.get("/").await.text(), "1");
}

/// Whoever waited for a fetch that failed has in hand what was stored when it began to wait.
#[tokio::test]
async fn what_was_purged_while_somebody_waited_does_not_stand_in_for_an_error() {
    let go = Signal::new();
    let answer = |number| match number {
        0 => reply(200, &[("cache-control", "max-age=0, stale-if-error=60")], "old"),
        _ => reply(503, &[], "broken"),
    };
    let backend = numbered(&go, |number| number > 0, answer).await;
    let armiger = caching(&backend, "{}").await;
    let ask = || {
        let client = armiger.client();
        tokio::spawn(async move { client.request(request("GET", "/", &[("host", "h")])).await })
    };
    armiger.request(request("GET", "/", &[("host", "h")])).await;
    let leader = ask();
    backend.arrived(2).await;
    let follower = ask();
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", 2.0).await;
    purge(&armiger, json!({"all": true})).await.assert_status(200);
    go.send();

    assert_eq!((leader.await.unwrap().status, follower.await.unwrap().status), (503, 503));
    assert_eq!(backend.count(), 3, "the follower asked for itself");
}

#[tokio::test]
async fn a_soft_purge_leaves_what_may_be_used_stale() {
    let backend = Backend::counting(&[("cache-control", "max-age=60, stale-while-revalidate=60")]).await;
    let armiger = caching(&backend, "{}").await;
    armiger.get("/").await;
    purge(&armiger, json!({"all": true, "soft": true})).await.assert_status(200);
    assert_eq!(armiger.get("/").await.text(), "1");
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 2.0).await;
    assert_eq!(armiger.get("/").await.text(), "2");
}

#[tokio::test]
async fn operators_see_what_is_stored_and_why_something_is_not() {
    let backend = Backend::with(|seen| match seen.target.as_str() {
        "/a?b=1&c=2" => reply(200, &[("cache-control", "max-age=60"), ("cache-tag", "t")], "four"),
        _ => reply(200, &[("cache-control", "no-store")], "none"),
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    for target in ["/a?b=1&c=2", "/a?b=1&c=2", "/none"] {
        get(&armiger, target, &[("host", "h.test")]).await;
    }

    let rows = armiger.admin().get("/state/cache").await.assert_status(200).json();
    assert_eq!(rows["rows"][0]["keys"], 2, "{rows:#}");
    let row = &rows["rows"][1];
    assert_eq!((&row["route"], &row["hit"], &row["miss"]), (&json!("everything"), &json!(1), &json!(2)), "{rows:#}");
    let look =
        async |url: &str| armiger.admin().get(&format!("/cache/lookup?url={url}")).await.assert_status(200).json();
    let stored = look("http://h.test/a%3Fb=1%26c=2").await;
    let row = &stored["stored"][0];
    assert_eq!((&row["state"], &row["bytes"], &row["tags"]), (&json!("fresh"), &json!(4), &json!(["t"])), "{stored:#}");
    assert_eq!(row["host"], "h.test", "a path alone is looked up for all hosts: {stored:#}");
    let elsewhere = look("http://other.test/a%3Fb=1%26c=2").await;
    assert_eq!((&elsewhere["stored"], &elsewhere["hosts"]), (&json!([]), &json!(["h.test"])), "{elsewhere:#}");
    let none = look("/none").await;
    assert_eq!((&none["stored"][0]["state"], &none["stored"][0]["why"]), (&json!("not_stored"), &json!("no_store")));
    let other = look("/other").await;
    assert_eq!((&other["stored"], other["hint"].is_string()), (&json!([]), true));
    // Why what callers get is stored for nobody.
    for _ in 0..2 {
        get(&armiger, "/a?mine", &[("host", "h.test"), ("authorization", "Bearer a")]).await;
    }
    let mine = look("/a%3Fmine").await;
    assert_eq!((&mine["stored"][0]["why"], &mine["stored"][0]["hit_for_miss"]), (&json!("no_store"), &json!(0)));
    for order in [
        json!({}),
        json!({"url": "/a"}),
        json!({"url": "x/a"}),
        json!({"url": "http://h:99999/a"}),
        json!({"prefix": "x"}),
        json!({"tag": "a b"}),
        json!({"tag": ["a", "b,c"]}),
        json!({"tag": ""}),
        json!({"tag": "a", "all": true}),
        json!({"urls": "x"}),
    ] {
        assert_eq!(purge(&armiger, order.clone()).await.status, 400, "{order}");
    }
    // Whoever looks where the rows are is told where one URL is looked up.
    let astray = armiger.admin().get("/state/cache?url=/a").await;
    assert_eq!(astray.status, 400);
    assert!(astray.text().contains("/cache/lookup?url="), "{}", astray.text());
}

/// Who looks up why one gets another answer than others sees for which requests each is, and not who asked.
#[tokio::test]
async fn a_look_at_a_url_tells_its_variants_apart_and_nobodys_credentials() {
    let vary = [("cache-control", "public, max-age=60"), ("vary", "accept-language, x-plan")];
    let backend = Backend::with(move |_| reply(200, &vary, "x")).await;
    let armiger = caching(&backend, "{vary_by: [\"header:x-shop\"]}").await;
    for (language, plan, shop) in [("de", "gold", "1"), ("en", "iron", "1"), ("en", "gold", "2")] {
        get(&armiger, "/a", &[("accept-language", language), ("x-plan", plan), ("x-shop", shop)]).await;
    }
    armiger.until_metric("armiger_cache_fills_total{outcome=\"stored\",route=\"everything\"}", 3.0).await;

    let stored = armiger.admin().get("/cache/lookup?url=/a").await.assert_status(200).json();

    let rows = stored["stored"].as_array().unwrap();
    let languages = |language: &str| rows.iter().filter(|row| row["request"]["accept-language"] == language).count();
    assert_eq!((rows.len(), languages("de"), languages("en")), (3, 1, 2), "{stored:#}");
    let of = |pointer: &str| {
        let all = rows.iter().map(|row| row.pointer(pointer).unwrap().as_str().unwrap());
        all.collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!((of("/request/x-plan/hash"), of("/key")), (2, 2), "{stored:#}");
    let text = stored.to_string();
    assert!(!text.contains("gold") && !text.contains("iron"), "{text}");
}

#[tokio::test]
async fn a_cache_without_room_is_told_so() {
    let backend = Backend::replies("").await;
    for room in ["memory", "fills_max"] {
        let config = Config::to(&backend).top(&format!("cache: {{{room}: 0B}}")).policies("cache: {}");
        let Err(report) = Armiger::try_with(config).await else { panic!("it is accepted") };
        assert!(report.contains(&format!("has no room to store anything: `cache.{room}` is 0B")), "{report}");
        assert!(!report.contains("entry_max"), "{report}");
    }
}
