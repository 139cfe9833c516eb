//! Rate limits that several armigers share over Redis: exact together, and no request suffers when it fails.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Armiger, Authority, Backend, Config, Files, Redis, SECRET_YAML, Signer, claims, within};

/// With time enough for a machine that is busy: what is late is counted by each armiger for itself.
fn limited(backend: &Backend, redis: &Redis, limits: &str) -> Config {
    waiting(backend, redis, ", timeout: 4s", limits)
}

fn waiting(backend: &Backend, redis: &Redis, more: &str, limits: &str) -> Config {
    Config::to(backend).top(&redis.section(more)).policies(&format!("rate_limit: [{limits}]"))
}

const UP: &str = "armiger_rate_limit_store_up";

/// armiger, once it has reached its Redis.
async fn connected(config: Config) -> Armiger {
    let armiger = Armiger::with(config).await;
    armiger.until_metric(UP, 1.0).await;
    armiger
}

/// Requests on several connections at once, and the statuses that came.
async fn burst(armiger: &Armiger, connections: usize, each: usize) -> Vec<u16> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let client = armiger.client();
        tasks.spawn(async move {
            let mut connection = client.connect().await;
            let mut statuses = Vec::new();
            for _ in 0..each {
                statuses.push(connection.get("/").await.status);
            }
            statuses
        });
    }
    tasks.join_all().await.concat()
}

fn granted(statuses: &[u16]) -> usize {
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

#[tokio::test]
async fn two_armigers_grant_together_exactly_what_the_limit_says() {
    let (backend, redis) = (Backend::replies("ok").await, Redis::start().await);
    let limits = "{name: few, rate: 1/h, burst: 60, store: redis}, {name: more, rate: 1/h, burst: 100, by: [constant], store: redis}";
    let config = || limited(&backend, &redis, limits);
    let (one, two) = (connected(config()).await, connected(config()).await);

    let (first, second) = tokio::join!(burst(&one, 5, 20), burst(&two, 5, 20));

    let (first, second) = (granted(&first), granted(&second));
    assert_eq!(first + second, 60, "{first} and {second}");
    assert_eq!(backend.count(), 60);
    let refused = one.get("/").await;
    refused.assert_status(429).assert_header("retry-after", "3600");
    assert!(refused.header("ratelimit").contains("\"more\";r=40;"), "a refused request draws from none: {refused:?}");
}

/// What is tried uses up nothing of what is enforced under the same name.
#[tokio::test]
async fn a_limit_in_shadow_has_buckets_of_its_own() {
    let (backend, redis) = (Backend::replies("ok").await, Redis::start().await);
    let limit =
        |more: &str| limited(&backend, &redis, &format!("{{name: few, rate: 1/h, burst: 2, store: redis{more}}}"));
    let tried = connected(limit(", mode: shadow")).await;
    let enforced = connected(limit("")).await;
    for _ in 0..3 {
        tried.get("/").await.assert_status(200);
    }
    enforced.get("/").await.assert_status(200).assert_header("ratelimit", "\"few\";r=1;t=3600");
    let mut keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    keys.sort();
    assert!(
        matches!(&keys[..], [one, other] if one.starts_with("{armiger}:few:") && other.starts_with("{armiger}:shadow:few:")),
        "{keys:?}"
    );
}

#[tokio::test]
async fn what_redis_holds_is_in_one_slot_and_goes_by_itself() {
    let (backend, redis) = (Backend::replies("ok").await, Redis::start().await);
    let armiger = connected(limited(&backend, &redis, "{name: few, rate: 1/m, burst: 2, store: redis}")).await;
    armiger.get("/").await.assert_status(200).assert_header("ratelimit", "\"few\";r=1;t=60");
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    assert_eq!(keys.len(), 1);
    assert!(keys[0].starts_with("{armiger}:few:") && !keys[0].contains("127.0.0.1"), "{keys:?}");
    let left: i64 = redis.ask(&["PTTL", &keys[0]]).await;
    assert!((50_000..=60_002).contains(&left), "{left}");
}

/// A limit by claim refuses: what was drawn before the caller was known is given back, wherever it is.
#[tokio::test]
async fn what_another_limit_refuses_is_given_back_to_redis() {
    let (backend, redis) = (Backend::replies("ok").await, Redis::start().await);
    let jwt = format!("{{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}");
    let limits = "{name: address, rate: 1/h, burst: 9, store: redis}, {name: here, rate: 1/h, burst: 9}, \
                  {name: caller, rate: 1/h, burst: 1, by: [\"claim:sub\"], store: redis}";
    let config = limited(&backend, &redis, limits)
        .top(&format!("identity: {{staff: {{jwt: {jwt}}}}}"))
        .policies("identity: {providers: [staff]}");
    let armiger = connected(config).await;
    let token = Signer::secret("HS256").token(&claims(json!({"sub": "a"})));
    let call = async || {
        let request = http::Request::get("/").header("authorization", format!("Bearer {token}"));
        armiger.request(request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()).await
    };
    call().await.assert_status(200);
    for _ in 0..3 {
        let refused = call().await;
        refused.assert_status(429);
        let told = refused.header("ratelimit");
        assert!(told.contains("\"address\";r=8;") && told.contains("\"here\";r=8;"), "{told}");
    }
}

#[tokio::test]
async fn a_changed_rate_fills_the_same_bucket_and_the_client_outlives_the_reload() {
    let (backend, redis) = (Backend::replies("ok").await, Redis::start().await);
    let files = Files::of(limited(&backend, &redis, "{name: few, rate: 1/h, burst: 2, store: redis}"));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    armiger.until_metric(UP, 1.0).await;
    armiger.get("/").await.assert_status(200);
    armiger.get("/").await.assert_status(200);
    let clients = async || {
        let list: String = redis.ask(&["CLIENT", "LIST"]).await;
        list.lines().filter(|line| line.contains("lib-name=redis-rs") && !line.contains("cmd=client")).count()
    };
    let before = clients().await;
    for (version, burst) in [(2, 5), (3, 6), (4, 7)] {
        files.write(
            "config.yaml",
            limited(&backend, &redis, &format!("{{name: few, rate: 2/h, burst: {burst}, store: redis}}")),
        );
        armiger.in_force(version).await;
        armiger.get("/").await.assert_status(429).assert_header("retry-after", "1800");
    }
    assert_eq!(clients().await, before, "one client, whatever is edited");
}

#[tokio::test]
async fn without_redis_a_limit_counts_here_lets_pass_or_refuses() {
    let (backend, mut redis) = (Backend::replies("ok").await, Redis::start().await);
    redis.kill();
    let limit =
        |more: &str| limited(&backend, &redis, &format!("{{name: few, rate: 1/h, burst: 4, store: redis{more}}}"));
    let armiger = Armiger::with(limit("")).await;
    assert_eq!(granted(&burst(&armiger, 2, 5).await), 4);
    let armiger = Armiger::with(limit(", local_share: 0.5")).await;
    assert_eq!(granted(&burst(&armiger, 2, 5).await), 2);
    let armiger = Armiger::with(limit(", on_error: allow")).await;
    assert_eq!(granted(&burst(&armiger, 2, 5).await), 10);
    let armiger = Armiger::with(limit(", on_error: deny")).await;
    armiger.get("/").await.assert_problem(503, "limit-unavailable").assert_header("retry-after", "1");
}

/// Killed, paused and started again under load: every request is answered in time, none with a 5xx, and the limit is shared
/// again afterwards.
#[tokio::test]
async fn redis_may_end_pause_and_come_back_without_a_failed_or_stuck_request() {
    let (backend, mut redis) = (Backend::replies("ok").await, Redis::start().await);
    let armiger =
        connected(waiting(&backend, &redis, "", "{name: many, rate: 1000000/s, burst: 1000000, store: redis}")).await;
    let client = armiger.client();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, stop) = (client, stop.clone());
        load.spawn(async move {
            let mut connection = client.connect().await;
            let (mut count, mut slowest) = (0_u64, Duration::ZERO);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let begun = Instant::now();
                let response = connection.get("/").await;
                response.assert_status(200);
                slowest = slowest.max(begun.elapsed());
                count += 1;
            }
            (count, slowest)
        });
    }
    for _ in 0..2 {
        redis.kill();
        armiger.until_metric(UP, 0.0).await;
        redis.restart().await;
        armiger.until_metric(UP, 1.0).await;
    }
    // It sleeps within a command, and answers nobody.
    redis.ask::<String>(&["DEBUG", "SLEEP", "1"]).await;
    within("the limit to be shared again", async {
        let asked = "armiger_rate_limit_store_requests_total{outcome=\"ok\"}";
        armiger.until_metric(UP, 1.0).await;
        let before = armiger.metric(asked).await;
        while armiger.metric(asked).await <= before {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for (count, slowest) in load.join_all().await {
        assert!(count > 10, "{count}");
        // 20 ms are what a request waits; the rest is for a machine that is busy.
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    }
    let timeouts = armiger.metric("armiger_rate_limit_store_requests_total{outcome=\"timeout\"}").await;
    assert!(timeouts >= 1.0, "it did sleep");
}

/// By TLS and with a password; and to whoever cannot show that it is the right one, nothing is told.
#[tokio::test]
async fn redis_is_reached_by_tls_with_a_password_and_by_nothing_less() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (backend, redis) =
        (Backend::replies("ok").await, Redis::guarded(&authority, "a-password-for-tests-alone").await);
    let config = |password: &str, authority: &Authority| {
        let authority = serde_json::to_string(&authority.pem()).expect("text");
        let url = redis.tls_url();
        let password = format!("\"${{env:ARMIGER_TEST_NOT_SET:-{password}}}\"");
        let section = format!("{{url: \"{url}\", password: {password}, ca: {authority}, timeout: 4s}}");
        Config::to(&backend)
            .top(&format!("rate_limits: {{redis: {section}}}"))
            .policies("rate_limit: [{name: few, rate: 1/h, burst: 6, store: redis}]")
    };
    let good = || config("a-password-for-tests-alone", &authority);
    let (one, two) = (connected(good()).await, connected(good()).await);
    let (first, second) = tokio::join!(burst(&one, 2, 5), burst(&two, 2, 5));
    assert_eq!(granted(&first) + granted(&second), 6);
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    assert_eq!(keys.len(), 1, "{keys:?}");

    // Each counts for itself, for it is not let in, or does not go in.
    for (password, authority) in [("another-password", &authority), ("a-password-for-tests-alone", &stranger)] {
        let armiger = Armiger::with(config(password, authority)).await;
        assert_eq!(granted(&burst(&armiger, 2, 5).await), 6);
        assert_eq!(armiger.metric(UP).await, 0.0);
    }
}

#[tokio::test]
async fn mistakes_are_told() {
    let backend = Backend::replies("ok").await;
    let told = async |config: Config| Armiger::try_with(config).await.err().expect("must be refused");
    let limits = "rate_limit: [{name: a, rate: 1/h, store: redis, local_share: 2.0}]";
    let report = told(Config::to(&backend).policies(limits)).await;
    assert!(report.contains("there is no Redis to keep it in") && report.contains("2 is no share"), "{report}");
    let section = "rate_limits: {redis: {url: \"http://x\", timeout: 1h, prefix: \"a{b}\", ca: x}}";
    let report = told(Config::to(&backend).top(section)).await;
    for part in ["is no address of a Redis", "is out of bounds", "cannot begin a key", "goes with no server"] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    let section = "rate_limits: {redis: {url: \"redis://:hunter2@127.0.0.1:1\"}}";
    let report = told(Config::to(&backend).top(section)).await;
    assert!(report.contains("holds a credential") && !report.contains("hunter2"), "{report}");
    let jwt = format!("{{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}");
    let overrides = "{claim: plan, rates: {gold: {rate: 1/h, burst: 2000000}}}";
    let section =
        format!("rate_limits: {{redis: {{url: \"redis://127.0.0.1:1\"}}}}\nidentity: {{staff: {{jwt: {jwt}}}}}");
    let limits = format!(
        "rate_limit: [{{name: a, rate: 1/h, store: redis, overrides: {overrides}}}]\nidentity: {{providers: [staff]}}"
    );
    let report = told(Config::to(&backend).top(&section).policies(&limits)).await;
    assert!(report.contains("too large for Redis to count") && report.contains("rates › gold"), "{report}");
}
