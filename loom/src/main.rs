//! A model check of limits and breakers under threads: every order in which threads can take the locks of
//! `src/limits/store.rs` and `src/upstream/breaker/mod.rs` is gone through. In each of them buckets grant what they have, all
//! or nothing; no more probes are out than may be, and none keeps its place; and nobody waits for ever.
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

#[path = "../../src/upstream"]
mod upstream {
    pub mod breaker;

    pub mod sync {
        pub use loom::sync::{Mutex, MutexGuard};
    }

    pub mod error {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            Timeout,
            Refused,
            Reset,
        }

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            Upstream,
        }

        impl Kind {
            pub fn fault(self) -> Fault {
                Fault::Upstream
            }

            pub fn is_connect(self) -> bool {
                self == Self::Refused
            }
        }
    }
}

// What those files name of others.
mod config {
    pub mod breaker {
        #[derive(Clone, Copy, Debug)]
        pub enum Scope {
            Upstream,
        }

        pub struct Failure {
            pub status: Vec<super::value::Statuses>,
            pub grpc: Vec<GrpcStatus>,
            pub connect: bool,
            pub timeout: bool,
            pub reset: bool,
        }

        pub struct GrpcStatus;

        impl GrpcStatus {
            pub fn number(&self) -> u8 {
                14
            }
        }
    }

    pub mod value {
        #[derive(Clone, Debug)]
        pub struct Statuses;

        impl Statuses {
            pub fn contains(&self, _: u16) -> bool {
                false
            }
        }
    }

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

        pub struct Metrics;

        impl Metrics {
            pub fn breaker(&self, _: &str, _: &str, _: &str) -> BreakerMetrics {
                BreakerMetrics
            }
        }

        pub struct BreakerMetrics;

        impl BreakerMetrics {
            pub fn state(&self, _: i64, _: bool) {}
            pub fn changed(&self, _: &'static str, _: &'static str, _: &'static str) {}
            pub fn refused(&self, _: &'static str) {}
            pub fn ratio(&self, _: f64) {}
        }
    }
}

use std::sync::Arc;
use std::time::{Duration, Instant};

use limits::bucket::{Drawn, Rate};
use limits::store::{Ask, Levels, Plan, Store, draw};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use upstream::breaker::{Breaker, Judge, Of, Outcome, Plan as Going, Rules};

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

// === breakers ===

/// A breaker that is half-open, lets two probes out, and stays open for an hour once one fails.
fn half_open() -> (Arc<Breaker>, Arc<Going>) {
    let rules = Rules {
        ratio: None,
        min_requests: 1,
        consecutive: Some(1),
        window: HOUR,
        buckets: 1,
        open_for: HOUR,
        open_for_max: HOUR,
        multiplier: 1.0,
        jitter: 0.0,
        probes: 2,
        slow_call: None,
    };
    let failure =
        config::breaker::Failure { status: Vec::new(), grpc: Vec::new(), connect: true, timeout: true, reset: true };
    let (rules, judge) = (Arc::new(rules), Arc::new(Judge::of(&failure)));
    let now = Instant::now();
    let breaker = Arc::new(Breaker::new("app", Of::All, &rules, &telemetry::metrics::Metrics, now));
    let going = Arc::new(Going { scope: config::breaker::Scope::Upstream, rules, judge });
    breaker.admit(&going, false, now).expect("it is closed").settle(Outcome::Failure, now);
    assert!(breaker.admit(&going, false, now).is_err(), "it is open");
    breaker.hurry(&going.rules, now);
    (breaker, going)
}

const HOUR: Duration = Duration::from_secs(3600);

/// What it is, and how many probes are out by its own count.
fn sight(breaker: &Breaker) -> (String, u64) {
    let shown = breaker.shown(Instant::now());
    let word = shown["state"].as_str().unwrap_or_default().to_owned();
    (word, shown["probing"].as_u64().unwrap_or(u64::MAX))
}

/// How many probes may go out now.
fn room((breaker, going): &(Arc<Breaker>, Arc<Going>)) -> usize {
    let now = Instant::now();
    let out: Vec<_> = (0..3).map_while(|_| breaker.admit(going, false, now).ok()).collect();
    out.len()
}

/// Three callers, who all give up.
fn no_more_probes_are_out_than_may_be_and_each_that_is_dropped_frees_its_place() {
    let one = half_open();
    // Of the standard library: loom need not go through the orders of what only counts.
    let (raced, out) = (one.clone(), std::sync::atomic::AtomicU64::new(0));
    let admitted = race(3, move |_| {
        let Ok(permit) = raced.0.admit(&raced.1, false, Instant::now()) else { return false };
        assert!(out.fetch_add(1, Ordering::Relaxed) < 2);
        loom::thread::yield_now();
        out.fetch_sub(1, Ordering::Relaxed);
        drop(permit);
        true
    });
    assert!(admitted >= 2);
    assert_eq!((sight(&one.0), room(&one)), (("half_open".to_owned(), 0), 2));
}

/// A probe fails while one gives up and another ends well.
fn a_probe_that_fails_opens_it_whatever_comes_of_the_others() {
    let one = half_open();
    let raced = one.clone();
    // Who fails is let in first.
    let failing = thread::spawn({
        let (breaker, going) = one.clone();
        move || {
            let now = Instant::now();
            breaker.admit(&going, false, now).map(|permit| permit.settle(Outcome::Failure, now)).is_ok()
        }
    });
    race(2, move |thread| {
        let now = Instant::now();
        let Ok(permit) = raced.0.admit(&raced.1, false, now) else { return false };
        if thread == 0 {
            permit.settle(Outcome::Success, now);
        }
        true
    });
    let has_failed = failing.join().expect("it does not panic");
    let (word, probing) = sight(&one.0);
    assert_eq!((word.as_str(), probing), (if has_failed { "open" } else { "half_open" }, 0));
    // Never stuck: once it may try again, all places are there.
    one.0.hurry(&one.1.rules, Instant::now());
    assert!(room(&one) >= if has_failed { 2 } else { 1 });
}

/// Two end well while a third gives up.
fn as_many_as_it_takes_that_end_well_close_it() {
    let one = half_open();
    let raced = one.clone();
    let passed = race(3, move |thread| {
        let now = Instant::now();
        let Ok(permit) = raced.0.admit(&raced.1, false, now) else { return false };
        if thread == 0 {
            return false;
        }
        permit.settle(Outcome::Success, now);
        true
    });
    assert_eq!(sight(&one.0), (if passed == 2 { "closed" } else { "half_open" }.to_owned(), 0));
}

/// An operator resets it while probes end: what they say is of a time that is over.
fn a_reset_beside_probes_leaves_it_closed() {
    let one = half_open();
    let raced = one.clone();
    let early = one.0.admit(&one.1, false, Instant::now()).expect("there is room");
    race(2, move |thread| {
        if thread == 0 {
            raced.0.reset(Instant::now());
            return false;
        }
        raced.0.admit(&raced.1, false, Instant::now()).is_ok()
    });
    early.settle(Outcome::Failure, Instant::now());
    assert_eq!(sight(&one.0), ("closed".to_owned(), 0));
}

fn main() {
    let models: [(&str, fn()); 10] = [
        ("a bucket grants what it has", a_bucket_grants_what_it_has),
        ("limits in either order grant all or nothing", limits_in_either_order_grant_all_or_nothing),
        ("keys without room are granted what their bucket has", keys_without_room_are_granted_what_their_bucket_has),
        ("what is given back is granted once", what_is_given_back_is_granted_once),
        ("a reload gives nothing away", a_reload_gives_nothing_away),
        ("a look at all keys and a reset hold up nobody", a_look_at_all_keys_and_a_reset_hold_up_nobody),
        (
            "no more probes are out than may be, and each that is dropped frees its place",
            no_more_probes_are_out_than_may_be_and_each_that_is_dropped_frees_its_place,
        ),
        (
            "a probe that fails opens it, whatever comes of the others",
            a_probe_that_fails_opens_it_whatever_comes_of_the_others,
        ),
        ("as many as it takes that end well close it", as_many_as_it_takes_that_end_well_close_it),
        ("a reset beside probes leaves it closed", a_reset_beside_probes_leaves_it_closed),
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
