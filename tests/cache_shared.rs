//! The second level of caches: what one armiger fetched the others need not, a purge at one is one at all, and no request suffers
//! when Redis fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use serde_json::{Value, json};

use crate::harness::{
    Armiger, Backend, Config, Files, Redis, Response, SECRET_YAML, Signal, Signer, answer, claims, within,
};

/// With time enough for a machine that is busy: what is late is none.
fn caching(backend: &Backend, redis: &Redis, policy: &str) -> Config {
    let section = format!("cache: {{redis: {{url: \"{}\", timeout: 2s}}}}", redis.url());
    Config::to(backend).top(&section).policies(&format!("cache: {{l2: redis{policy}}}"))
}

const UP: &str = "armiger_cache_store_up";

/// armiger, once it has reached its Redis and knows what was purged.
async fn connected(config: Config) -> Armiger {
    let armiger = Armiger::with(config).await;
    armiger.until_metric(UP, 1.0).await;
    within("the log of purges", async { while state(&armiger).await["purges"].is_null() {} }).await;
    armiger
}

/// Two armigers on one port, as replicas are: the upstream is told of the port, so what it answers may depend on it.
async fn two(config: impl Fn() -> Config) -> (Armiger, Armiger) {
    let one = connected(config()).await;
    let two = connected(config().listener(&format!("address: 127.0.0.2:{}", one.address().port()))).await;
    (one, two)
}

async fn state(armiger: &Armiger) -> Value {
    armiger.admin().get("/state/cache").await.assert_status(200).json()["rows"][0]["shared"].clone()
}

async fn purges(armiger: &Armiger, number: u64) {
    within("a purge to be known", async { while state(armiger).await["purges"] != number {} }).await;
}

async fn stored(armiger: &Armiger, times: f64) {
    armiger.until_metric(r#"armiger_cache_shared_stores_total{outcome="stored"}"#, times).await;
}

async fn looked(armiger: &Armiger, outcome: &str) -> f64 {
    armiger.metric(&format!(r#"armiger_cache_shared_lookups_total{{outcome="{outcome}"}}"#)).await
}

async fn purge(armiger: &Armiger, what: Value) -> Value {
    let request = Request::post("/cache/purge").body(Full::from(what.to_string())).unwrap();
    armiger.admin().request(request).await.assert_status(200).json()
}

const HOST: &str = "shop.test";

async fn get(armiger: &Armiger, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::get(target).header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    armiger.request(request.body(Empty::<Bytes>::new()).unwrap()).await
}

fn status(response: &Response) -> &str {
    response.header("cache-status")
}

/// Asks until something else is answered than what was: what made it invalid elsewhere was heard of.
async fn renewed(armiger: &Armiger, target: &str, old: &str) {
    let got = within("something else", async {
        loop {
            let got = get(armiger, target, &[]).await.text().to_owned();
            if got != old {
                return got;
            }
        }
    });
    assert!(got.await.starts_with(&format!("{target} ")));
}

/// What the one fetches the other need not.
async fn assert_they_share(one: &Armiger, other: &Armiger) {
    let stores = one.metric(r#"armiger_cache_shared_stores_total{outcome="stored"}"#).await;
    get(one, "/new", &[]).await;
    stored(one, stores + 1.0).await;
    assert!(status(&get(other, "/new", &[]).await).contains("shared"));
}

/// Counts what it answers, with these headers.
async fn counting(headers: &'static [(&'static str, &'static str)]) -> Backend {
    let count = AtomicUsize::new(0);
    Backend::with(move |seen| {
        let mut reply = answer(200, format!("{} {}", seen.target, count.fetch_add(1, Ordering::Relaxed)));
        for (name, value) in headers {
            reply.headers_mut().append(*name, value.parse().unwrap());
        }
        reply
    })
    .await
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=600"), ("surrogate-key", "t u"), ("etag", "\"a\"")];

#[tokio::test]
async fn what_one_has_fetched_the_other_need_not() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    let first = get(&one, "/a", &[]).await;
    stored(&one, 1.0).await;

    let second = get(&two, "/a", &[]).await;

    assert_eq!(second.text(), first.text());
    assert!(
        status(&second).contains("; hit; ttl=") && status(&second).contains("detail=shared"),
        "{}",
        status(&second)
    );
    second.assert_header("etag", "\"a\"").assert_no_header("surrogate-key");
    assert!(second.headers.contains_key("age"));
    // From here on it has it itself.
    assert!(!status(&get(&two, "/a", &[]).await).contains("shared"));
    get(&two, "/a", &[("if-none-match", "\"a\"")]).await.assert_status(304);
    assert_eq!((backend.count(), looked(&two, "hit").await), (1, 1.0));
    // Neither URL nor headers stand in the names.
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    assert!(keys.iter().all(|key| key.starts_with("{armiger}:cache:") && !key.contains("/a")), "{keys:?}");
    let entry = keys.iter().find(|key| key.contains(":e:")).unwrap();
    let left: i64 = redis.ask(&["PTTL", entry]).await;
    assert!((500_000..=600_000).contains(&left), "{left}");
}

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

async fn post(armiger: &Armiger, target: &str) {
    let change = Request::post(target).header("host", HOST).body(Full::<Bytes>::from("x")).unwrap();
    armiger.request(change).await.assert_status(200);
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

/// One of two that share: it comes to Redis as a user of its own, who may be kept away.
fn apart(backend: &Backend, redis: &Redis, more: &str) -> Config {
    let redis = format!(
        "{{url: \"{}\", timeout: 2s, username: one, password: \"${{env:ARMIGER_TEST_UNSET:-secret}}\"}}",
        redis.url()
    );
    Config::to(backend).top(&format!("cache: {{redis: {redis}{more}}}")).policies("cache: {l2: redis}")
}

async fn let_in(redis: &Redis) {
    let _: String = redis.ask(&["ACL", "SETUSER", "one", "on", ">secret", "~*", "+@all"]).await;
}

async fn keep_away(redis: &Redis) {
    let _: String = redis.ask(&["ACL", "SETUSER", "one", "-@all", "+ping"]).await;
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

/// The same, with keys of their own.
fn named(backend: &Backend, redis: &Redis, prefix: &str) -> Config {
    let section = format!("cache: {{redis: {{url: \"{}\", timeout: 2s, prefix: {prefix}}}}}", redis.url());
    Config::to(backend).top(&section).policies("cache: {l2: redis}")
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

/// A replica that took the place of its leader may not have heard the last of it.
#[tokio::test]
async fn a_redis_that_lost_the_last_changes_is_noticed() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    write(&one, "/a").await;
    // Whatever is told is heard together with what was told before.
    purge(&one, json!({"tag": "other"})).await;
    purges(&two, 1).await;

    let _: i64 = redis.ask(&["HSET", "{armiger}:cache:clock", "changes", "1"]).await;

    two.until_metric(r#"armiger_cache_shared_lookups_total{outcome="gap"}"#, 1.0).await;
}

/// The bodies of `/a/0` and so on, which are shared from now on.
async fn shelve(armiger: &Armiger, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    for number in 0..count {
        bodies.push(get(armiger, &format!("/a/{number}"), &[]).await.text().to_owned());
    }
    stored(armiger, count as f64).await;
    bodies
}

/// What of those a caller gets now; and it is an answer, whatever happens.
async fn held(armiger: &Armiger, number: usize, bodies: &[String]) -> bool {
    let got = get(armiger, &format!("/a/{number}"), &[]).await;
    got.assert_status(200).text() == bodies[number]
}

async fn write(armiger: &Armiger, target: &str) {
    post(armiger, target).await;
    within("it to be told", async { while state(armiger).await["untold"] != 0 {} }).await;
}

/// A restart with older data, or a replica that took the place of its leader: what the Redis forgot its armigers have not.
#[tokio::test]
async fn what_was_purged_does_not_come_back_with_an_older_redis() {
    for is_purged in [true, false] {
        let (backend, mut redis) = (counting(FRESH).await, Redis::start().await);
        let (one, two) = two(|| caching(&backend, &redis, "")).await;
        let bodies = shelve(&one, 60).await;
        redis.remember().await;
        if is_purged {
            purge(&one, json!({"tag": "t"})).await;
        } else {
            for number in 0..60 {
                post(&one, &format!("/a/{number}")).await;
            }
            write(&one, "/x").await;
            purge(&one, json!({"tag": "other"})).await;
        }
        purges(&two, 1).await;

        redis.restart().await;

        let mut numbers = 0..60;
        let lost = async || looked(&one, "lost").await + looked(&two, "lost").await;
        // Also while they are about to find it again.
        while lost().await == 0.0 {
            let Some(number) = numbers.next().filter(|number| *number < 40) else { break };
            assert!(!held(if number % 2 == 0 { &one } else { &two }, number, &bodies).await, "/a/{number}");
        }
        for armiger in [&one, &two] {
            armiger.until_metric(UP, 1.0).await;
            purges(armiger, 0).await;
        }
        for number in numbers {
            assert!(!held(if number % 2 == 0 { &one } else { &two }, number, &bodies).await, "/a/{number}");
        }
        // One of them began another life, in which they share as before.
        assert_eq!(lost().await, 1.0);
        let kept: usize = redis.ask(&["EXISTS", "{armiger}:cache:purges"]).await;
        assert_eq!(kept, 0);
        assert_they_share(&one, &two).await;
    }
}

/// Who comes first may know of nothing, and tell something itself, so that the numbers are what they were.
#[tokio::test]
async fn what_a_newcomer_tells_does_not_hide_what_an_older_redis_lost() {
    let (backend, mut redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let one = connected(apart(&backend, &redis, "")).await;
    let bodies = shelve(&one, 3).await;
    redis.remember().await;
    write(&one, "/x").await;
    purge(&one, json!({"tag": "t"})).await;
    purges(&one, 1).await;
    // It knows of no user, so that one has to stay away.
    redis.restart().await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let newcomer = connected(caching(&backend, &redis, "").listener(&address)).await;
    for target in ["/y", "/z"] {
        write(&newcomer, target).await;
    }
    purge(&newcomer, json!({"tag": "other"})).await;
    purges(&newcomer, 1).await;
    assert!(held(&newcomer, 0, &bodies).await, "nobody there knows better");

    let_in(&redis).await;

    one.until_metric(r#"armiger_cache_shared_lookups_total{outcome="lost"}"#, 1.0).await;
    assert!(!held(&one, 1, &bodies).await);
    purges(&newcomer, 0).await;
    assert!(!held(&newcomer, 0, &bodies).await && !held(&newcomer, 2, &bodies).await);
    assert_eq!((looked(&newcomer, "lost").await, looked(&one, "lost").await), (0.0, 1.0));
}

/// As if others told so many things more.
async fn tell_of(redis: &Redis, mut count: usize) {
    let script = "local told = tonumber(redis.call('HGET', KEYS[1], 'told'))
        for at = told + 1, told + ARGV[1] do redis.call('XADD', KEYS[2], string.format('%.0f', at) .. '-0', 't', '') end
        return redis.call('HSET', KEYS[1], 'told', string.format('%.0f', told + ARGV[1]))";
    while count > 0 {
        let part = count.min(20_000);
        let part_text = part.to_string();
        let words = ["EVAL", script, "2", "{armiger}:cache:clock", "{armiger}:cache:told", &part_text];
        let _: i64 = redis.ask(&words).await;
        count -= part;
    }
}

/// Who is away for a quarter of an hour while fifty others are busy finds what is shared as it was. Times of telling are kept for
/// so long, and no longer: beyond that nobody can tell whether something was lost, and that is told as what it is.
#[tokio::test]
async fn who_was_away_for_long_empties_nothing_and_for_very_long_says_so() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let one = connected(apart(&backend, &redis, "")).await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let two = connected(caching(&backend, &redis, "").listener(&address)).await;
    // What it knows of is not the birth of this life, which is always known.
    purge(&one, json!({"tag": "other"})).await;
    purges(&two, 1).await;
    let bodies = shelve(&two, 1).await;
    for (count, away) in [(450_000, 0.0), (600_000, 1.0)] {
        let errors = one.metric(r#"armiger_cache_store_requests_total{outcome="error"}"#).await;
        keep_away(&redis).await;
        one.until_metric_beyond(r#"armiger_cache_store_requests_total{outcome="error"}"#, errors + 1.0).await;
        tell_of(&redis, count).await;
        // Each telling lets go of some thousands of those beyond the bound.
        for _ in 0..60 {
            purge(&two, json!({"tag": "other"})).await;
        }

        let_in(&redis).await;

        if away == 0.0 {
            purges(&one, 61).await;
            assert!(held(&two, 0, &bodies).await && held(&one, 0, &bodies).await, "what is shared is as it was");
        }
        one.until_metric(r#"armiger_cache_shared_lookups_total{outcome="away"}"#, away).await;
        assert_eq!(looked(&one, "lost").await, 0.0);
    }
    let times: usize = redis.ask(&["XLEN", "{armiger}:cache:told"]).await;
    assert!(times < 1000, "{times} times are of the life that is over");
}

/// A Redis that was emptied, where a newcomer came first, holds nothing that anybody would have to begin another life for.
#[tokio::test]
async fn an_empty_redis_is_taken_as_whoever_came_first_left_it() {
    let (backend, mut redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let one = connected(apart(&backend, &redis, "")).await;
    purge(&one, json!({"tag": "t"})).await;
    purges(&one, 1).await;
    redis.restart().await;
    let address = format!("address: 127.0.0.2:{}", one.address().port());
    let newcomer = connected(caching(&backend, &redis, "").listener(&address)).await;
    let bodies = shelve(&newcomer, 1).await;

    let_in(&redis).await;

    purges(&one, 0).await;
    assert!(held(&one, 0, &bodies).await);
    assert_eq!((looked(&one, "lost").await, looked(&newcomer, "lost").await), (0.0, 0.0));
}

/// Nothing can be told to a replica, nor can another life begin there: requests do not notice, and nothing is read.
#[tokio::test]
async fn a_redis_that_takes_no_writes_is_read_by_nobody_who_knows_better() {
    let (backend, mut redis) = (counting(FRESH).await, Redis::start().await);
    let_in(&redis).await;
    let one = connected(apart(&backend, &redis, "")).await;
    let bodies = shelve(&one, 20).await;
    redis.remember().await;
    purge(&one, json!({"tag": "t"})).await;
    purges(&one, 1).await;
    redis.restart().await;
    let _: String = redis.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let errors = one.metric(r#"armiger_cache_store_requests_total{outcome="error"}"#).await;

    let_in(&redis).await;

    one.until_metric_beyond(r#"armiger_cache_store_requests_total{outcome="error"}"#, errors + 3.0).await;
    for number in 0..10 {
        assert!(!held(&one, number, &bodies).await, "/a/{number}");
    }
    post(&one, "/a/0").await;
    assert_eq!((looked(&one, "lost").await, state(&one).await["untold"].as_u64()), (0.0, Some(1)));
    let _: String = redis.ask(&["REPLICAOF", "NO", "ONE"]).await;
    one.until_metric(r#"armiger_cache_shared_lookups_total{outcome="lost"}"#, 1.0).await;
    for number in 10..20 {
        assert!(!held(&one, number, &bodies).await, "/a/{number}");
    }
    within("it to be told", async { while state(&one).await["untold"] != 0 {} }).await;
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

#[tokio::test]
async fn what_headers_chose_is_for_those_who_send_them() {
    let (backend, redis) =
        (counting(&[("cache-control", "max-age=600"), ("vary", "accept-language")]).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    let german = get(&one, "/a", &[("accept-language", "de")]).await;
    let english = get(&one, "/a", &[("accept-language", "en")]).await;
    stored(&one, 2.0).await;

    for (language, expected) in [("de", &german), ("en", &english)] {
        let got = get(&two, "/a", &[("accept-language", language)]).await;
        assert_eq!((got.text(), status(&got).contains("shared")), (expected.text(), true), "{language}");
    }
    assert!(!status(&get(&two, "/a", &[("accept-language", "fr")]).await).contains("shared"));
    assert_eq!(backend.count(), 3);
}

/// The identity rule holds over all armigers: one caller never gets what is another's.
#[tokio::test]
async fn callers_do_not_meet_on_the_second_level() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let jwt = format!("{{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}");
    let config = |policy: &str| {
        caching(&backend, &redis, policy)
            .top(&format!("identity: {{staff: {{jwt: {jwt}}}}}"))
            .policies("identity: {providers: [staff]}")
    };
    let own = || config(", vary_by: [\"claim:sub\"]");
    let (one, two) = two(own).await;
    let token = |sub: &str| format!("Bearer {}", Signer::secret("HS256").token(&claims(json!({"sub": sub}))));
    let (ada, bob) = (token("ada"), token("bob"));
    let first = get(&one, "/me", &[("authorization", &ada)]).await;
    stored(&one, 1.0).await;

    let of_bob = get(&two, "/me", &[("authorization", &bob)]).await;
    let of_ada = get(&two, "/me", &[("authorization", &ada)]).await;

    assert_ne!(of_bob.text(), first.text());
    assert_eq!((of_ada.text(), status(&of_ada).contains("shared")), (first.text(), true));
    // An armiger with other rules does not take what these stored.
    let address = format!("address: 127.0.0.3:{}", one.address().port());
    let other = connected(config(", vary_by: [\"claim:sub\"], shared_across_users: true").listener(&address)).await;
    assert!(!status(&get(&other, "/me", &[("authorization", &ada)]).await).contains("shared"));
    let keys: Vec<String> = redis.ask(&["KEYS", "*:e:*"]).await;
    for key in keys {
        let value: Vec<u8> = redis.ask(&["GET", &key]).await;
        assert!(!value.windows(3).any(|word| word == b"ada" || word == b"bob"), "no caller is named in Redis");
    }
}

/// What no answer may be older than: for each target, the number of the first that was asked for after it was purged everywhere.
type Floors = std::cell::RefCell<std::collections::HashMap<String, usize>>;

/// Whether a purge is about a target.
type IsMeant = Box<dyn Fn(&String) -> bool>;

/// Says in its body for whom it is, and how many came before it. What is for all says so; what it varies on depends on the target.
async fn truthful(count: std::sync::Arc<AtomicUsize>) -> Backend {
    Backend::with(move |seen| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let mut random = fastrand::Rng::with_seed(number as u64);
        let (control, whose) = [
            ("max-age=60", "one"),
            ("private, max-age=60", "one"),
            ("no-store", "one"),
            ("max-age=60, public", "all"),
            ("s-maxage=60", "all"),
            ("max-age=1, stale-while-revalidate=60", "one"),
            ("max-age=60, must-revalidate", "all"),
        ][random.usize(..7)];
        let of = |name: &str| seen.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (vary, chosen) = match seen.target.as_bytes().last() {
            Some(b'0') => ("x-flavour", of("x-flavour")),
            Some(b'1') => ("accept-language, x-flavour", format!("{}{}", of("accept-language"), of("x-flavour"))),
            _ => ("accept-encoding", String::new()),
        };
        let mut reply = answer(200, format!("{whose}|{}|{chosen}|{}|{number}", of("authorization"), seen.target));
        let tag = format!("t{}", &seen.target[seen.target.len() - 1..]);
        for (name, value) in [("cache-control", control), ("vary", vary), ("surrogate-key", &tag)] {
            reply.headers_mut().append(name, value.parse().unwrap());
        }
        reply
    })
    .await
}

/// Asks until it is done, and checks each answer against what it must not be.
async fn ask_at_random(armiger: &Armiger, seed: u64, floors: &Floors, is_done: &std::cell::Cell<bool>) -> usize {
    let (mut random, mut connection, mut asked) = (fastrand::Rng::with_seed(seed), armiger.connect().await, 0);
    while !is_done.get() {
        let target = format!("/{}/{}", ["own", "any"][random.usize(..2)], random.u8(..3));
        let caller = format!("c{}", random.u8(..3));
        let (flavour, language) = (["f", "g"][random.usize(..2)], ["de", "en"][random.usize(..2)]);
        let floor = floors.borrow().get(&target).copied().unwrap_or(0);
        let request = Request::get(&target).header("host", HOST).header("authorization", &caller);
        let request = request.header("x-flavour", flavour).header("accept-language", language);
        let response = connection.request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        let parts: Vec<&str> = response.assert_status(200).text().split('|').collect();
        let chosen = match target.as_bytes().last() {
            Some(b'0') => flavour.to_owned(),
            Some(b'1') => format!("{language}{flavour}"),
            _ => String::new(),
        };
        let said = status(&response);
        assert_eq!(parts[2..4], [&*chosen, &*target], "{said}");
        // Where the key has the caller, what is for all is for the caller all the same.
        assert!(
            parts[1] == caller || parts[0] == "all" && target.starts_with("/any"),
            "{caller} got {parts:?}: {said}"
        );
        let number: usize = parts[4].parse().unwrap();
        assert!(number >= floor, "{target}: {number} is from before what was purged at {floor}: {said}");
        asked += 1;
    }
    asked
}

/// Random callers, `Vary`, purges and unsafe requests at two armigers with one Redis, which comes back with older data in the
/// midst of it, against a model that knows only what nobody may ever get.
#[tokio::test]
async fn what_is_shared_never_reaches_another_caller_nor_comes_back_once_purged() {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let (backend, mut redis) = (truthful(count.clone()).await, Redis::start().await);
    let route = |name: &str, more: &str| {
        format!(
            "- {{name: {name}, match: {{path: \"/{name}/{{rest...}}\"}}, policies: {{cache: {{l2: redis{more}}}}}, proxy: {{upstream: app}}}}"
        )
    };
    let routes = [route("own", ", vary_by: [\"header:authorization\"]"), route("any", "")].join("\n");
    let section = format!("cache: {{redis: {{url: \"{}\", timeout: 2s}}}}", redis.url());
    let (one, two) = two(|| Config::to(&backend).top(&section).routes(&routes)).await;
    let (floors, is_done) = (Floors::default(), std::cell::Cell::new(false));
    let targets = || ["own", "any"].iter().flat_map(|route| (0..3).map(move |number| format!("/{route}/{number}")));
    let lost = async || looked(&one, "lost").await + looked(&two, "lost").await;

    let driver = async {
        let (mut random, mut known) = (fastrand::Rng::with_seed(5), 0);
        for step in 0..24 {
            if step == 6 {
                redis.remember().await;
            }
            if step == 12 {
                // What was purged since it was told to remember it has again.
                redis.restart().await;
                within("another life", async { while lost().await == 0.0 {} }).await;
                purges(&one, 0).await;
                purges(&two, 0).await;
                known = 0;
            }
            let armiger = [&one, &two][random.usize(..2)];
            let (number, mark) = (random.u8(..3), count.load(Ordering::SeqCst));
            let ends = format!("/{number}");
            let (order, is_meant): (Value, IsMeant) = match random.u8(..5) {
                0 => (json!({"all": true}), Box::new(|_| true)),
                1 => (json!({"tag": format!("t{number}")}), Box::new(move |target| target.ends_with(&ends))),
                2 => (json!({"prefix": "/any/"}), Box::new(|target| target.starts_with("/any/"))),
                3 => (
                    json!({"url": format!("http://{HOST}/own/{number}")}),
                    Box::new(move |target| *target == format!("/own{ends}")),
                ),
                _ => {
                    write(armiger, &format!("/own{ends}")).await;
                    // Whoever knows of this knows of that.
                    (json!({"tag": "other"}), Box::new(move |target| *target == format!("/own{ends}")))
                }
            };
            assert_eq!(purge(armiger, order).await["told_to_others"], true);
            known += 1;
            purges(&one, known).await;
            purges(&two, known).await;
            floors.borrow_mut().extend(targets().filter(|target| is_meant(target)).map(|target| (target, mark)));
        }
        is_done.set(true);
    };
    let ((), asked_one, asked_two) =
        tokio::join!(driver, ask_at_random(&one, 1, &floors, &is_done), ask_at_random(&two, 2, &floors, &is_done));

    assert_eq!(lost().await, 1.0);
    let hits = looked(&one, "hit").await + looked(&two, "hit").await;
    assert!(hits > 0.0, "{hits} of {} were found with the other", asked_one + asked_two);
    assert!(backend.count() < asked_one + asked_two, "nothing was ever stored");
}

#[tokio::test]
async fn what_is_damaged_or_nobodys_is_a_miss_and_never_a_wrong_body() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let one = connected(caching(&backend, &redis, "")).await;
    get(&one, "/a", &[]).await;
    get(&one, "/b", &[]).await;
    stored(&one, 2.0).await;
    let keys: Vec<String> = redis.ask(&["KEYS", "*:e:*"]).await;
    let (first, second): (Vec<u8>, Vec<u8>) =
        (redis.ask(&["GET", &keys[0]]).await, redis.ask(&["GET", &keys[1]]).await);
    assert_ne!(first, second);

    let mut number = 1;
    let mut next = async || {
        number += 1;
        let address = format!("address: 127.0.0.{number}:{}", one.address().port());
        connected(caching(&backend, &redis, "").listener(&address)).await
    };
    for damage in [
        vec!["SETRANGE", &keys[0], "100", "x"],
        vec!["SET", &keys[0], "OK", "PX", "60000"],
        vec!["COPY", &keys[1], &keys[0], "REPLACE"],
        vec!["PERSIST", &keys[0]],
    ] {
        let _: redis::Value = redis.ask(&damage).await;
        let two = next().await;
        for path in ["/a", "/b"] {
            let got = get(&two, path, &[]).await;
            assert!(got.text().starts_with(path), "{damage:?}: {path} got {}", got.text());
        }
        // What it fetched anew is there again; the next damage is done to that.
        stored(&two, 1.0).await;
        assert_eq!((looked(&two, "foreign").await, looked(&two, "hit").await), (1.0, 1.0), "{damage:?}");
    }
    let _: redis::Value = redis.ask(&["DEL", &keys[0]]).await;
    let _: redis::Value = redis.ask(&["LPUSH", &keys[0], "a list"]).await;
    let two = next().await;
    for path in ["/a", "/b"] {
        get(&two, path, &[]).await.assert_status(200);
    }
    assert_eq!((looked(&two, "foreign").await, two.metric(UP).await), (1.0, 1.0));
}

#[tokio::test]
async fn an_outage_is_a_miss_and_no_error_and_a_new_redis_is_an_empty_one() {
    let (backend, mut redis) = (counting(FRESH).await, Redis::start().await);
    let (one, two) = two(|| caching(&backend, &redis, "")).await;
    let first = get(&one, "/a", &[]).await;
    stored(&one, 1.0).await;

    redis.kill();
    for target in ["/a", "/b", "/c", "/d", "/e"] {
        get(&two, target, &[]).await.assert_status(200);
    }
    assert_eq!(get(&one, "/a", &[]).await.text(), first.text(), "it has its own");
    two.until_metric(UP, 0.0).await;
    // A purge that cannot be told is one here all the same, and is told later.
    assert_eq!(purge(&one, json!({"tag": "t"})).await["told_to_others"], false);
    assert_ne!(get(&one, "/a", &[]).await.text(), first.text());
    let kept = get(&two, "/a", &[]).await.text().to_owned();

    redis.restart().await;
    one.until_metric(UP, 1.0).await;
    purges(&two, 1).await;

    renewed(&two, "/a", &kept).await;
    assert_they_share(&one, &two).await;
}

#[tokio::test]
async fn a_redis_that_hangs_holds_up_few_requests_and_none_for_long() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let section = format!("cache: {{redis: {{url: \"{}\", timeout: 50ms}}}}", redis.url());
    let config = Config::to(&backend).top(&section).policies("cache: {l2: redis}");
    let armiger = connected(config).await;
    let hanging = redis.ask::<redis::Value>(&["DEBUG", "SLEEP", "3"]);
    let asking = async {
        let began = Instant::now();
        for number in 0..40 {
            get(&armiger, &format!("/{number}"), &[]).await.assert_status(200);
        }
        began.elapsed()
    };

    let (took, _) = tokio::join!(asking, hanging);

    assert!(took < Duration::from_millis(2_500), "{took:?}");
    armiger.until_metric(UP, 1.0).await;
}

#[tokio::test]
async fn a_log_that_lost_its_beginning_is_as_if_all_was_purged() {
    let (backend, redis) = (counting(FRESH).await, Redis::start().await);
    let armiger = connected(caching(&backend, &redis, "")).await;
    let first = get(&armiger, "/a", &[]).await.text().to_owned();
    stored(&armiger, 1.0).await;

    // Somebody purged, and the log did not keep it.
    let _: i64 = redis.ask(&["HINCRBY", "{armiger}:cache:clock", "purges", "1"]).await;
    purges(&armiger, 1).await;

    assert_ne!(get(&armiger, "/a", &[]).await.text(), first);
    assert_eq!(looked(&armiger, "gap").await, 1.0);
}

#[tokio::test]
async fn a_level_that_is_nowhere_is_a_mistake() {
    let backend = Backend::replies("").await;
    let Err(report) = Armiger::try_with(Config::to(&backend).policies("cache: {l2: redis}")).await else {
        panic!("it is accepted")
    };
    assert!(report.contains("the section `cache` names no Redis"), "{report}");
    let config = Config::to(&backend).top("cache: {redis: {url: \"http://x\"}}").policies("cache: {l2: redis}");
    let Err(report) = Armiger::try_with(config).await else { panic!("it is accepted") };
    assert!(report.contains("is no address of a Redis"), "{report}");
}
