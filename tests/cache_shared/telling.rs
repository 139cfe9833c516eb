//! Purges and unsafe requests at one, which are known to all.

use super::*;

#[tokio::test]
async fn a_purge_at_one_is_one_at_all() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    let mut number = 0;
    for (what, is_purged) in [
        (json!({"tag": "u"}), true),
        (json!({"tag": "other"}), false),
        (json!({"prefix": "/a/"}), true),
        (json!({"url": "http://shop.test/a/b"}), true),
        (json!({"all": true}), true),
    ] {
        let before = get(&one, "/a/b", &[]).await.text().to_owned();
        get(&two, "/a/b", &[]).await;

        let said = purge(&one, what.clone()).await;
        assert_eq!(said["told_to_others"], true);
        number += 1;
        purges(&two, number).await;

        let after = get(&two, "/a/b", &[]).await.text().to_owned();
        assert_eq!(before != after, is_purged, "{what}: {before} and {after}");
        purges(&one, number).await;
    }
}

#[tokio::test]
async fn a_soft_purge_makes_it_stale_for_all() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    get(&one, "/a", &[]).await;
    stored(&one, 1.0).await;

    purge(&one, json!({"tag": "t", "soft": true})).await;
    purges(&two, 1).await;
    get(&two, "/a", &[]).await.assert_status(200);

    // It is not let go of: the upstream is asked whether it still holds.
    let asked = backend.received(2).await;
    assert_eq!(asked[1].header("if-none-match"), "\"a\"");
}

/// RFC 9111 §4.4, over all armigers.
#[tokio::test]
async fn an_unsafe_request_at_one_makes_it_invalid_for_all() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    get(&one, "/a", &[]).await;
    get(&one, "/b", &[]).await;
    stored(&one, 2.0).await;
    let own = get(&two, "/b", &[]).await.text().to_owned();
    assert!(status(&get(&two, "/b", &[]).await).starts_with("armiger; hit"), "it has it itself");

    post(&one, "/a").await;
    post(&one, "/b").await;
    within("it to be told", async { while state(&one).await["untold"] != 0 {} }).await;

    // What it has not itself it does not take from Redis any more.
    assert!(status(&get(&two, "/a", &[]).await).contains("fwd=uri-miss"));
    assert_eq!(looked(&two, "dead").await, 1.0);
    // What it has itself is gone once it has heard of it.
    renewed(&two, "/b", &own).await;
    // Whoever made it invalid keeps what it fetched once that was told.
    purge(&two, json!({"tag": "other"})).await;
    purges(&one, 1).await;
    let kept = get(&one, "/b", &[]).await.text().to_owned();
    purge(&two, json!({"tag": "other"})).await;
    purges(&one, 2).await;
    assert_eq!(get(&one, "/b", &[]).await.text(), kept);
}

/// What is read between two writes is from before the second one, whichever is told of last.
#[tokio::test]
async fn a_write_at_one_does_not_hide_a_write_at_another() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let one = connected(apart(&backend, &redis, "")).await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let two = connected(caching(&backend, &redis, "").listener(&address)).await;
    keep_away(&redis).await;
    post(&one, "/a").await;
    let between = get(&one, "/a", &[]).await.text().to_owned();
    assert_eq!(get(&one, "/a", &[]).await.text(), between, "it is stored again");
    post(&two, "/a").await;
    within("it to be told", async { while state(&two).await["untold"] != 0 {} }).await;

    let_in(&redis).await;

    within("it to be heard of", async { while get(&one, "/a", &[]).await.text() == between {} }).await;
}

/// Who wrote and has read it anew since keeps that when what it wrote is told: it has been gone here since before. What another
/// wrote in between counts all the same, although the last time of the place is then this one's own.
#[tokio::test]
async fn what_one_writes_and_reads_anew_it_keeps_when_that_is_told() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let one = connected(apart(&backend, &redis, "")).await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let two = connected(caching(&backend, &redis, "").listener(&address)).await;
    keep_away(&redis).await;
    for target in ["/a", "/b"] {
        get(&one, target, &[]).await;
        post(&one, target).await;
    }
    let mut renewed = Vec::new();
    for target in ["/a", "/b"] {
        renewed.push(get(&one, target, &[]).await.text().to_owned());
        assert_eq!(get(&one, target, &[]).await.text(), renewed[renewed.len() - 1], "it is stored again");
    }
    write(&two, "/b").await;

    let_in(&redis).await;

    // What is heard with this was told before.
    within("it to be told", async { while state(&one).await["untold"] != 0 {} }).await;
    purge(&two, json!({"tag": "other"})).await;
    purges(&one, 1).await;
    assert_eq!(get(&one, "/a", &[]).await.text(), renewed[0], "nobody else wrote to it");
    assert_ne!(get(&one, "/b", &[]).await.text(), renewed[1], "two wrote to it meanwhile");
    // The next one is heeded again.
    write(&two, "/a").await;
    within("it to be heard of", async { while get(&one, "/a", &[]).await.text() == renewed[0] {} }).await;
}

/// Replicas are replaced one after the other: those that stay hear what the one that goes made invalid last.
#[tokio::test]
async fn what_is_untold_is_told_before_the_end() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    let first = get(&two, "/a", &[]).await.text().to_owned();
    post(&one, "/a").await;
    drop(one);
    within("it to be heard of", async { while get(&two, "/a", &[]).await.text() == first {} }).await;
}

/// Nobody knows what became of it, so that all ask whether what they have still holds.
#[tokio::test]
async fn an_unsafe_request_whose_client_left_makes_it_stale_for_all() {
    let (go, redis) = (Signal::new(), Redis::start().await);
    let wait = go.clone();
    let backend = Backend::serving(move |asked| {
        let go = wait.clone();
        async move {
            if asked.method() == http::Method::POST {
                go.wait().await;
            }
            let mut reply = answer(200, "x");
            for (name, value) in FRESH {
                reply.headers_mut().append(*name, value.parse().unwrap());
            }
            reply
        }
    })
    .await;
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    get(&two, "/a", &[]).await;
    stored(&two, 1.0).await;
    let client = one.raw("POST /a HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n").await;
    backend.arrived(2).await;
    client.reset();

    within("it to be heard of", async { while status(&get(&two, "/a", &[]).await).starts_with("armiger; hit") {} })
        .await;

    let asked = backend.received(3).await;
    assert_eq!(asked[2].header("if-none-match"), "\"a\"", "what it has itself is not let go of");
    go.send();
}

/// Which URLs share a place nobody can compute who knows the program alone.
#[tokio::test]
async fn places_are_others_in_each_deployment() {
    let backend = counting(FRESH).await;
    let mut all = Vec::new();
    for _ in 0..2 {
        let redis = Redis::start().await;
        let one = connected(caching(&backend, &redis, "")).await;
        for target in ["/a", "/b", "/c"] {
            post(&one, target).await;
        }
        within("it to be told", async { while state(&one).await["untold"] != 0 {} }).await;
        let mut places: Vec<String> = redis.ask(&["ZRANGE", "{armiger}:cache:places", "0", "-1"]).await;
        places.sort();
        all.push(places);
    }
    assert_ne!(all[0], all[1]);
}

/// However many unsafe requests there are, the rest of what is shared is of use, and nobody falls behind.
#[tokio::test]
async fn many_unsafe_requests_leave_others_in_peace() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    let bodies = shelve(&one, 5).await;
    let mut connection = one.connect().await;
    for number in 0..1500 {
        let change =
            Request::post(format!("/changed/{number}")).header("host", HOST).body(Empty::<Bytes>::new()).unwrap();
        connection.request(change).await.assert_status(200);
    }
    within("it to be told", async { while state(&one).await["untold"] != 0 {} }).await;

    assert_eq!(state(&two).await["purges"], 0);
    let mut shared = 0;
    for number in 0..5 {
        shared += u32::from(held(&two, number, &bodies).await);
    }
    // One in 44 has the place of something that was changed.
    assert!(shared >= 3, "{shared} of 5: what was not changed is shared all the same");
    assert_eq!((looked(&two, "hit").await, looked(&two, "behind").await), (f64::from(shared), 0.0));
    let places: usize = redis.ask(&["ZCARD", "{armiger}:cache:places"]).await;
    assert!((1400..=1500).contains(&places), "{places} places for 1500 URLs");
    let keys: usize = redis.ask(&["DBSIZE"]).await;
    assert!(keys <= 8, "{keys} keys: none for each change");
}

/// What is told while Redis is away is told when it is back; and where Redis lost what it was told, all of it is as if purged.
#[tokio::test]
async fn what_was_made_invalid_is_never_forgotten() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    post(&one, "/a").await;
    within("it to be told", async { while state(&one).await["untold"] != 0 {} }).await;
    let first = get(&two, "/b", &[]).await.text().to_owned();

    let gone: usize = redis.ask(&["DEL", "{armiger}:cache:places"]).await;
    assert_eq!(gone, 1);
    two.until_metric(r#"armiger_cache_shared_lookups_total{outcome="gap"}"#, 1.0).await;
    assert_ne!(get(&two, "/b", &[]).await.text(), first);
}
