//! A Redis that is away, or hangs.

use super::*;

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
