//! What a token costs: the arithmetic of a bucket, and draws from one limit and from three together.
//!
//! `cargo bench --bench token_bucket`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use armiger::limits::bucket::Rate;
use armiger::limits::store::{Ask, Plan, Store, draw};
use armiger::telemetry::metrics::Metrics;
use armiger::telemetry::record::Enforcement;
use criterion::{Criterion, criterion_group, criterion_main};

/// A limit that grants whatever comes.
fn limit(keys_max: usize, now: Instant) -> (Arc<Store>, Plan) {
    let rate = Rate::new(1_000_000_000, Duration::from_secs(1), 1_000_000_000).expect("it can be counted");
    let metrics = Metrics::new().limit("bench", Enforcement::Enforce);
    (Arc::new(Store::new(keys_max, now, metrics)), Plan::new(rate, 1))
}

fn buckets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token bucket");
    let rate = Rate::new(1000, Duration::from_secs(60), 50).expect("it can be counted");
    group.bench_function("arithmetic", |bencher| {
        let mut micros = 0;
        bencher.iter(|| {
            micros += 1;
            black_box(rate.draw(black_box(0), rate.at(micros), 1))
        });
    });
    let start = Instant::now();
    let limits: Vec<(Arc<Store>, Plan)> = (0..3).map(|_| limit(250_000, start)).collect();
    for (name, count) in [("one limit", 1), ("three limits", 3)] {
        let asks: Vec<Ask<'_>> =
            limits.iter().take(count).map(|(store, plan)| Ask { store, plan, hash: 7 << 56 | 7, cost: 1 }).collect();
        let mut now = start;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                now += Duration::from_micros(1);
                black_box(draw(&asks, now))
            });
        });
    }
    let (store, _) = limit(250_000, start);
    let spent = Plan::new(Rate::new(1, Duration::from_secs(3600), 1).expect("it can be counted"), 1);
    group.bench_function("refused", |bencher| {
        bencher.iter(|| black_box(draw(&[Ask { store: &store, plan: &spent, hash: 7, cost: 1 }], start)));
    });
    let (store, _) = limit(250_000, start);
    let slow = Plan::new(Rate::new(1, Duration::from_secs(3600), 10).expect("it can be counted"), 1);
    let mut key = 1_u64;
    group.bench_function("a key that nobody has seen, of 250,000", |bencher| {
        bencher.iter(|| {
            key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let hash = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            black_box(draw(&[Ask { store: &store, plan: &slow, hash, cost: 1 }], start))
        });
    });
    group.finish();
}

criterion_group!(benches, buckets);
criterion_main!(benches);
