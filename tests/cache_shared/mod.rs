//! The second level of caches: what one armiger fetched the others need not, a purge at one is one at all, and no request suffers
//! when Redis fails.

mod loss;
mod outage;
mod reload;
mod sharing;
mod telling;
mod truth;

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

async fn post(armiger: &Armiger, target: &str) {
    let change = Request::post(target).header("host", HOST).body(Full::<Bytes>::from("x")).unwrap();
    armiger.request(change).await.assert_status(200);
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

/// The same, with keys of their own.
fn named(backend: &Backend, redis: &Redis, prefix: &str) -> Config {
    let section = format!("cache: {{redis: {{url: \"{}\", timeout: 2s, prefix: {prefix}}}}}", redis.url());
    Config::to(backend).top(&section).policies("cache: {l2: redis}")
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
