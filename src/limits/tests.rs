//! Stores under many callers: exact, all or nothing, bounded, and kept over changes of rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::bucket::{Drawn, Rate};
use super::store::{Ask, Levels, Plan, Store, draw};
use crate::config::rate::HumanRate;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::record::Enforcement;

fn store(keys_max: usize, now: Instant) -> Arc<Store> {
    Arc::new(Store::new(keys_max, now, Metrics::new().limit("test", Enforcement::Enforce)))
}

fn plan(rate: &str, burst: u64, version: u64) -> Plan {
    Plan::new(Rate::of(HumanRate::parse(rate).unwrap(), burst).unwrap(), version)
}

fn is_granted(levels: &Levels) -> bool {
    levels.iter().all(|level| matches!(level.drawn, Drawn::Granted { .. }))
}

/// Draws one token.
fn takes(store: &Arc<Store>, plan: &Plan, hash: u64, now: Instant) -> bool {
    is_granted(&draw(&[Ask { store, plan, hash, cost: 1 }], now))
}

fn left(store: &Arc<Store>, plan: &Plan, hash: u64, now: Instant) -> u64 {
    let (rate, lacks) = store.look(plan, hash, now).unwrap_or((plan.rate(), 0));
    rate.level(lacks, 0)
}

/// Runs `work` on so many threads at once.
fn race(threads: usize, work: impl Fn(usize) + Sync) {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
            });
        }
    });
}

#[test]
fn racing_callers_are_granted_exactly_what_is_there() {
    let now = Instant::now();
    for _ in 0..20 {
        let (store, plan, granted) = (store(1000, now), plan("1/h", 100, 1), AtomicU64::new(0));
        race(8, |_| {
            for _ in 0..50 {
                granted.fetch_add(u64::from(takes(&store, &plan, 7, now)), Ordering::Relaxed);
            }
        });
        assert_eq!(granted.into_inner(), 100);
    }
}

/// Two limits in either order, as two routes may have them: each grants what it has, and a refusal draws from neither.
#[test]
fn limits_that_are_asked_together_grant_all_or_nothing_under_a_race() {
    let now = Instant::now();
    let (wide, narrow) = ((store(1000, now), plan("1/h", 300, 1)), (store(1000, now), plan("1/h", 100, 1)));
    let granted = AtomicU64::new(0);
    race(8, |thread| {
        for _ in 0..50 {
            let mut asks = [&wide, &narrow].map(|(store, plan)| Ask { store, plan, hash: 7, cost: 1 });
            if thread % 2 == 0 {
                asks.reverse();
            }
            granted.fetch_add(u64::from(is_granted(&draw(&asks, now))), Ordering::Relaxed);
        }
    });
    assert_eq!(granted.into_inner(), 100);
    assert_eq!((left(&wide.0, &wide.1, 7, now), left(&narrow.0, &narrow.1, 7, now)), (200, 0));
}

#[test]
fn levels_come_in_the_order_of_the_requests() {
    let now = Instant::now();
    let (one, two) = (store(1000, now), store(1000, now));
    let (small, large) = (plan("1/h", 1, 1), plan("1/h", 5, 1));
    let asks =
        [Ask { store: &two, plan: &large, hash: 1, cost: 1 }, Ask { store: &one, plan: &small, hash: 1, cost: 1 }];
    let bursts: Vec<u64> = draw(&asks, now).iter().map(|level| level.rate.burst()).collect();
    assert_eq!(bursts, [5, 1]);
    let refused = draw(&asks, now);
    assert!(matches!(refused[0].drawn, Drawn::Granted { .. }) && matches!(refused[1].drawn, Drawn::Wait(_)));
    assert_eq!(left(&two, &large, 1, now), 4, "a refused request draws from none");
}

#[test]
fn keys_beyond_the_bound_share_one_bucket_and_only_full_ones_make_room() {
    let now = Instant::now();
    let (store, plan) = (store(3, now), plan("1/s", 2, 1));
    for key in 11..14 {
        assert!(takes(&store, &plan, key, now));
    }
    // Three buckets are not full. Whoever else comes shares one of two tokens.
    assert!(takes(&store, &plan, 14, now) && takes(&store, &plan, 15, now) && !takes(&store, &plan, 16, now));
    assert!(takes(&store, &plan, 11, now), "who has a bucket goes on with it");
    assert_eq!(store.len(), 4);
    // After a second 12 and 13 are full: a bucket that is dropped was like one that was never there.
    let later = now + Duration::from_secs(1);
    assert!(takes(&store, &plan, 21, later) && takes(&store, &plan, 21, later) && !takes(&store, &plan, 21, later));
    assert!(!takes(&store, &plan, 11, later) || left(&store, &plan, 11, later) == 0);
}

#[test]
fn a_key_without_room_leaves_the_other_limits_untouched() {
    let now = Instant::now();
    let (narrow, wide) = (store(1, now), store(1000, now));
    let (one, many) = (plan("1/h", 1, 1), plan("1/h", 10, 1));
    let ask = |key: u64| {
        let asks = [
            Ask { store: &wide, plan: &many, hash: 7, cost: 1 },
            Ask { store: &narrow, plan: &one, hash: key, cost: 1 },
        ];
        is_granted(&draw(&asks, now))
    };
    assert!(ask(11) && ask(12) && !ask(13) && !ask(11));
    assert_eq!(left(&wide, &many, 7, now), 8);
}

#[test]
fn another_rate_fills_the_same_bucket_from_then_on() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (store, slow, fast) = (store(1000, start), plan("1/s", 10, 1), plan("5/s", 20, 2));
    for _ in 0..10 {
        assert!(takes(&store, &slow, 7, at(0)));
    }
    // Four seconds at the old rate; then the new one begins with another key, and a second later this one is asked.
    assert!(takes(&store, &fast, 8, at(4)));
    assert_eq!(left(&store, &fast, 7, at(5)), 4 + 5);
    // An exchange that is still on the old version counts by the new one.
    assert!(takes(&store, &slow, 7, at(5)));
    assert_eq!(left(&store, &fast, 7, at(5)), 8);
    // A smaller bucket keeps what fits.
    let small = plan("1/h", 3, 3);
    assert_eq!(left(&store, &small, 7, at(5)), 3);
    assert_eq!(left(&store, &small, 99, at(5)), 3);
}

#[test]
fn what_is_given_back_can_be_drawn_again() {
    let now = Instant::now();
    let (store, plan) = (store(1000, now), plan("1/h", 1, 1));
    let level = draw(&[Ask { store: &store, plan: &plan, hash: 7, cost: 1 }], now)[0];
    assert!(!takes(&store, &plan, 7, now));
    store.give_back(level.place, 1, now + Duration::from_millis(50));
    assert!(takes(&store, &plan, 7, now + Duration::from_millis(50)));
    assert!(!takes(&store, &plan, 7, now + Duration::from_millis(50)));
}

#[test]
fn a_store_counts_on_for_years() {
    let start = Instant::now();
    let (store, plan) = (store(1000, start), plan("9973/s", 20, 1));
    for year in 0..10 {
        let now = start + Duration::from_secs(year * 366 * 86_400);
        assert_eq!((0..30).filter(|_| takes(&store, &plan, 7, now)).count(), 20, "{year}");
    }
}

#[test]
fn the_hottest_keys_come_first_and_can_be_reset() {
    let now = Instant::now();
    let (store, plan) = (store(100_000, now), plan("1/h", 100, 1));
    for key in 1..=50_u64 {
        let spread = key << 56 | key;
        assert!(is_granted(&draw(&[Ask { store: &store, plan: &plan, hash: spread, cost: key }], now)));
    }
    let hottest = store.hottest(&plan, now, 3);
    let lacks: Vec<u64> = hottest.iter().map(|(_, rate, lacks)| 100 - rate.level(*lacks, 0)).collect();
    assert_eq!(lacks, [50, 49, 48]);
    assert!(store.reset(hottest[0].0) && !store.reset(hottest[0].0));
    assert_eq!(left(&store, &plan, hottest[0].0, now), 100);
}

#[test]
fn nothing_is_counted_of_what_costs_nothing() {
    let now = Instant::now();
    let (store, plan) = (store(1000, now), plan("1/h", 1, 1));
    let levels = draw(&[Ask { store: &store, plan: &plan, hash: 7, cost: 0 }], now);
    assert!(is_granted(&levels) && store.is_empty());
    assert!(takes(&store, &plan, 7, now));
    assert!(is_granted(&draw(&[Ask { store: &store, plan: &plan, hash: 7, cost: 0 }], now)));
}

/// What `keys_max` says: 16 to 48 bytes for each key, and no more than there may be keys.
#[test]
fn many_distinct_keys_take_the_memory_that_is_stated() {
    let count: usize = std::env::var("ARMIGER_TEST_KEYS").map_or(1_000_000, |count| count.parse().unwrap());
    let now = Instant::now();
    let (small, large, plan) = (store(count / 10, now), store(count, now), plan("1/h", 10, 1));
    let mut key = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..count {
        // Spread evenly, as hashes are.
        key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let hash = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        draw(&[Ask { store: &small, plan: &plan, hash, cost: 1 }], now);
        draw(&[Ask { store: &large, plan: &plan, hash, cost: 1 }], now);
    }
    for (store, most) in [(&small, count / 10), (&large, count)] {
        let (len, bytes) = (store.len(), store.bytes());
        println!("keys_max {most}: {len} keys, {} bytes each", bytes / len);
        assert!(len > most * 95 / 100 && len <= most * 102 / 100, "{len}");
        assert!((16 * len..48 * len).contains(&bytes), "{} bytes each", bytes / len);
    }
}
