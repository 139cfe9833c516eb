//! A model check of limits under threads: every order in which threads can take the locks of `src/limits/store.rs` is gone
//! through, and in each of them buckets grant what they have, all or nothing, and nobody waits for ever.
//!
//! `just loom`

// What is checked is what runs: the files themselves, over locks of loom.
#[path = "../../src/limits"]
mod limits {
    pub mod ban;
    pub mod bucket;
    pub mod names;
    pub mod store;
    pub mod table;

    pub mod sync {
        pub use loom::sync::{Mutex, MutexGuard};
    }
}

// What those files name of others.
mod config {
    pub mod rate {
        #[derive(Clone, Copy)]
        pub struct HumanRate;

        impl HumanRate {
            pub fn count(self) -> u64 {
                1
            }

            pub fn period(self) -> std::time::Duration {
                std::time::Duration::from_secs(1)
            }
        }
    }
}

mod telemetry {
    pub mod metrics {
        pub struct LimitMetrics;

        impl LimitMetrics {
            pub fn keys(&self, _: i64) {}
            pub fn bound_hit(&self, _: &'static str) {}
        }
    }
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use limits::bucket::{Drawn, Rate};
use limits::store::{Ask, Levels, Plan, Store, draw};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

/// A limit: its buckets, and how they fill.
type Limit = (Arc<Store>, Arc<Plan>);

fn limit(keys_max: usize, burst: u64, now: Instant) -> Limit {
    (Arc::new(Store::new(keys_max, now, telemetry::metrics::LimitMetrics)), plan(burst, 1))
}

/// One an hour, from this version on.
fn plan(burst: u64, version: u64) -> Arc<Plan> {
    Arc::new(Plan::new(Rate::new(1, Duration::from_secs(3600), burst).expect("it can be counted"), version))
}

fn ask((store, plan): &Limit, hash: u64) -> Ask<'_> {
    Ask { store, plan, hash, cost: 1 }
}

fn is_granted(levels: &Levels) -> bool {
    levels.iter().all(|level| matches!(level.drawn, Drawn::Granted { .. }))
}

fn left((store, plan): &Limit, hash: u64, now: Instant) -> u64 {
    let (rate, lacks) = store.look(plan, hash, now).unwrap_or((plan.rate(), 0));
    rate.level(lacks, 0)
}

/// Runs `work` in so many threads, and tells how many of them were granted.
fn race(threads: usize, work: impl Fn(usize) -> bool + Send + Sync + 'static) -> u64 {
    let (work, granted) = (Arc::new(work), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..threads)
        .map(|thread| {
            let (work, granted) = (work.clone(), granted.clone());
            thread::spawn(move || granted.fetch_add(u64::from(work(thread)), Ordering::Relaxed))
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    granted.load(Ordering::Relaxed)
}

/// Three callers of a bucket of two.
fn a_bucket_grants_what_it_has() {
    let now = Instant::now();
    let one = limit(8, 2, now);
    let raced = one.clone();
    assert_eq!(race(3, move |_| is_granted(&draw(&[ask(&raced, 7)], now))), 2);
    assert_eq!(left(&one, 7, now), 0);
}

/// Two limits, which one caller names in one order and the other in the other.
fn limits_in_either_order_grant_all_or_nothing() {
    let now = Instant::now();
    let (wide, narrow) = (limit(8, 2, now), limit(8, 1, now));
    let raced = (wide.clone(), narrow.clone());
    let granted = race(2, move |thread| {
        let mut asks = [ask(&raced.0, 7), ask(&raced.1, 7)];
        if thread == 1 {
            asks.reverse();
        }
        is_granted(&draw(&asks, now))
    });
    assert_eq!((granted, left(&wide, 7, now), left(&narrow, 7, now)), (1, 1, 0));
}

/// Room for one key, and two that come: one of them shares the bucket of those that find none.
fn keys_without_room_are_granted_what_their_bucket_has() {
    let now = Instant::now();
    let (small, wide) = (limit(1, 1, now), limit(8, 9, now));
    let raced = (small.clone(), wide.clone());
    // Each key has a token of its own, or of the bucket that is shared: of three keys two are granted.
    let granted = race(3, move |thread| is_granted(&draw(&[ask(&raced.1, 7), ask(&raced.0, 11 + thread as u64)], now)));
    assert_eq!((granted, left(&wide, 7, now)), (2, 7));
}

/// A caller draws while another's draw is given back.
fn what_is_given_back_is_granted_once() {
    let now = Instant::now();
    let one = limit(8, 1, now);
    let place = draw(&[ask(&one, 7)], now)[0].place;
    let raced = one.clone();
    let granted = race(3, move |thread| {
        if thread == 0 {
            raced.0.give_back(place, 1, now);
            return false;
        }
        is_granted(&draw(&[ask(&raced, 7)], now))
    });
    assert!(granted <= 1);
    assert_eq!(left(&one, 7, now), 1 - granted);
}

/// A reload makes a bucket larger while callers of both versions draw from it.
fn a_reload_gives_nothing_away() {
    let now = Instant::now();
    let old = limit(8, 2, now);
    let new = (old.0.clone(), plan(3, 2));
    assert!(is_granted(&draw(&[ask(&old, 7)], now)));
    let raced = (old, new.clone());
    let granted = race(3, move |thread| {
        let limit = if thread == 0 { &raced.1 } else { &raced.0 };
        is_granted(&draw(&[ask(limit, 7)], now))
    });
    // One token was left, and a change of rate adds none.
    assert_eq!((granted, left(&new, 7, now)), (1, 0));
}

/// What operators ask goes on beside callers.
fn a_look_at_all_keys_and_a_reset_hold_up_nobody() {
    let now = Instant::now();
    let one = limit(8, 1, now);
    let raced = one.clone();
    let granted = race(3, move |thread| {
        if thread == 0 {
            let hottest = raced.0.hottest(&raced.1, now, 10);
            assert!(hottest.len() <= 1);
            raced.0.reset(7);
            return false;
        }
        is_granted(&draw(&[ask(&raced, 7)], now))
    });
    assert!((1..=2).contains(&granted));
}

fn main() {
    let models: [(&str, fn()); 6] = [
        ("a bucket grants what it has", a_bucket_grants_what_it_has),
        ("limits in either order grant all or nothing", limits_in_either_order_grant_all_or_nothing),
        ("keys without room are granted what their bucket has", keys_without_room_are_granted_what_their_bucket_has),
        ("what is given back is granted once", what_is_given_back_is_granted_once),
        ("a reload gives nothing away", a_reload_gives_nothing_away),
        ("a look at all keys and a reset hold up nobody", a_look_at_all_keys_and_a_reset_hold_up_nobody),
    ];
    for (name, model) in models {
        let orders = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = orders.clone();
        loom::model(move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            model();
        });
        println!("{name}: {} orders", orders.load(std::sync::atomic::Ordering::Relaxed));
    }
}
