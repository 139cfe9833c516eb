//! Who shares what, and with whom not.

use super::*;

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
