//! What is told over a reload.

use super::*;

#[tokio::test]
async fn what_is_untold_outlives_a_reload() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let files = Files::of(apart(&backend, &redis, "").to_string());
    let one = Armiger::watching(files.config().into()).await;
    within("the log of purges", async { while state(&one).await["purges"].is_null() {} }).await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let two = connected(caching(&backend, &redis, "").listener(&address)).await;
    let first = get(&two, "/a", &[]).await.text().to_owned();
    keep_away(&redis).await;
    post(&one, "/a").await;
    for (number, more) in [(2, ", fills_max: 20MiB"), (3, ", memory: 100MiB"), (4, ", redis_entry_max: 100KiB")] {
        files.replace("config.yaml", apart(&backend, &redis, more).to_string());
        one.in_force(number).await;
    }
    assert_eq!(state(&one).await["untold"], 1);

    let_in(&redis).await;

    within("it to be heard of", async { while get(&two, "/a", &[]).await.text() == first {} }).await;
    // What follows is followed by the store that is in force.
    let kept = get(&one, "/b", &[]).await.text().to_owned();
    post(&two, "/b").await;
    within("it to be heard of", async { while get(&one, "/b", &[]).await.text() == kept {} }).await;
}

/// Answers what is asked for safely, with how often it was written, and what is not only upon the signal.
async fn written(go: &Signal) -> Backend {
    let (wait, writes) = (go.clone(), std::sync::Arc::new(AtomicUsize::new(0)));
    Backend::serving(move |asked| {
        let (go, writes) = (wait.clone(), writes.clone());
        async move {
            if asked.method() == http::Method::POST {
                go.wait().await;
                writes.fetch_add(1, Ordering::SeqCst);
            }
            let mut reply = answer(200, writes.load(Ordering::SeqCst).to_string());
            reply.headers_mut().append("cache-control", "max-age=600".parse().unwrap());
            reply
        }
    })
    .await
}

/// Another room for what is kept here, or a Redis where there was none: what was stored since is from before the write.
#[tokio::test]
async fn a_write_over_a_reload_is_told_of_by_the_new_configuration() {
    for has_redis in [true, false] {
        let (go, redis) = (Signal::new(), Redis::start().await);
        let backend = written(&go).await;
        let before = if has_redis { caching(&backend, &redis, "") } else { Config::to(&backend).policies("cache: {}") };
        let files = Files::of(before.to_string());
        let armiger = Armiger::watching(files.config().into()).await;
        let write = armiger.raw(&format!("POST /a HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n")).await;
        backend.arrived(1).await;
        let section = format!("cache: {{memory: 80MiB, redis: {{url: \"{}\", timeout: 2s}}}}", redis.url());
        let config = Config::to(&backend).top(&section).policies("cache: {l2: redis}");
        files.replace("config.yaml", config.to_string());
        armiger.in_force(2).await;
        within("the log of purges", async { while state(&armiger).await["purges"].is_null() {} }).await;
        assert_eq!(get(&armiger, "/a", &[]).await.text(), "0");
        stored(&armiger, 1.0).await;

        go.send();

        within("the write to count", async { while get(&armiger, "/a", &[]).await.text() == "0" {} }).await;
        drop(write);
    }
}

/// Who stays with the one, and who has the other already, hears of it.
#[tokio::test]
async fn a_reload_that_names_another_redis_tells_both_what_was_not_told() {
    for is_elsewhere in [true, false] {
        let (backend, first) = (counting(FRESH).await, Redis::start().await);
        let second = if is_elsewhere { Some(Redis::start().await) } else { None };
        let [before, after] = [(&first, "before"), (second.as_ref().unwrap_or(&first), "after")]
            .map(|(redis, prefix)| named(&backend, redis, prefix));
        let files = Files::of(before.to_string());
        let one = Armiger::watching(files.config().into()).await;
        within("the log of purges", async { while state(&one).await["purges"].is_null() {} }).await;
        let address = |number: u8| format!("address: 127.0.0.{number}:{}", one.address().port());
        let others =
            [connected(before.listener(&address(2))).await, connected(after.clone().listener(&address(3))).await];
        let mut held = Vec::new();
        for (armiger, target) in [(0, "/a"), (0, "/b"), (1, "/a"), (1, "/b")] {
            held.push((armiger, target, get(&others[armiger], target, &[]).await.text().to_owned()));
        }
        let _: String = first.ask(&["CLIENT", "PAUSE", "400", "WRITE"]).await;
        post(&one, "/a").await;

        let order = json!({"url": "http://shop.test/b"});
        let reload = async {
            files.replace("config.yaml", after.to_string());
            one.in_force(2).await;
        };
        tokio::join!(purge(&one, order), reload);

        for (armiger, target, body) in held {
            let renewed = async { while get(&others[armiger], target, &[]).await.text() == body {} };
            within("it to be heard of", renewed).await;
        }
        assert_eq!(one.metric("armiger_cache_shared_untold_total").await, 0.0);
        assert_eq!(looked(&one, "lost").await, 0.0);
    }
}

#[tokio::test]
async fn what_a_redis_that_is_left_cannot_be_told_is_counted() {
    let (backend, first, second) = (counting(FRESH).await, Redis::start().await, Redis::start().await);
    let_in(&first).await;
    let files = Files::of(apart(&backend, &first, "").to_string());
    let one = Armiger::watching(files.config().into()).await;
    within("the log of purges", async { while state(&one).await["purges"].is_null() {} }).await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let two = connected(caching(&backend, &second, "").listener(&address)).await;
    let body = get(&two, "/a", &[]).await.text().to_owned();
    keep_away(&first).await;
    post(&one, "/a").await;
    post(&one, "/b").await;

    files.replace("config.yaml", caching(&backend, &second, "").to_string());
    one.in_force(2).await;

    within("it to be heard of", async { while get(&two, "/a", &[]).await.text() == body {} }).await;
    one.until_metric("armiger_cache_shared_untold_total", 2.0).await;
    assert_eq!(state(&one).await["untold"], 0);
}

/// What was purged by way of one Redis another one may still hold.
#[tokio::test]
async fn what_was_purged_before_a_reload_is_not_read_from_the_redis_that_it_names() {
    let (backend, first, second) = (counting(FRESH).await, Redis::start().await, Redis::start().await);
    let files = Files::of(caching(&backend, &first, "").to_string());
    let one = Armiger::watching(files.config().into()).await;
    within("the log of purges", async { while state(&one).await["purges"].is_null() {} }).await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let two = connected(caching(&backend, &second, "").listener(&address)).await;
    let bodies = shelve(&two, 20).await;
    assert_eq!(purge(&one, json!({"tag": "t"})).await["told_to_others"], true);
    purges(&one, 1).await;

    files.replace("config.yaml", caching(&backend, &second, "").to_string());
    one.in_force(2).await;

    for number in 0..10 {
        assert!(!held(&one, number, &bodies).await, "/a/{number}");
    }
    two.until_metric(r#"armiger_cache_shared_lookups_total{outcome="gap"}"#, 1.0).await;
    for number in 10..20 {
        let armiger = if number % 2 == 0 { &one } else { &two };
        assert!(!held(armiger, number, &bodies).await, "/a/{number}");
    }
}
