//! A Redis that lost something, or has not been heard for long.

use super::*;

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
