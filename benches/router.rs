//! The router: a lookup must cost the same among 10,000 routes as among 100, and 10,000 must compile in under a second.

use std::hint::black_box;

use armiger::snapshot::pattern::{HostPattern, PathPattern};
use armiger::snapshot::router::{Matcher, Query, Router, Rule};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method};

const SIZES: [usize; 3] = [100, 1_000, 10_000];

/// How many different requests are asked in turn, however many routes there are. Fewer would keep the few routes
/// asked for in the processor's first cache and hide what the others cost.
const REQUESTS: usize = 100;

/// `/api/v1/resource17/{id}` and `/api/v1/resource17/{id}/items`, for one or two methods each.
fn one_host(count: usize) -> Vec<Rule<usize>> {
    let rule = |number: usize| {
        let (resource, kind) = (number / 4, number % 4);
        let path = match kind {
            0 | 1 => format!("/api/v1/resource{resource}/{{id}}"),
            2 => format!("/api/v1/resource{resource}/{{id}}/items/{{item}}"),
            _ => format!("/api/v1/resource{resource}"),
        };
        let methods = if kind == 1 { vec![Method::PUT, Method::DELETE] } else { vec![Method::GET] };
        let path = PathPattern::parse(&path).expect("the pattern is right");
        Rule { matcher: Matcher { methods, ..Matcher::path(path) }, target: number }
    };
    (0..count).map(rule).collect()
}

/// The same, ten to a host.
fn many_hosts(count: usize) -> Vec<Rule<usize>> {
    let mut rules = one_host(count);
    for (number, rule) in rules.iter_mut().enumerate() {
        let host = format!("tenant{}.example.com", number / 10);
        rule.matcher.hosts = vec![HostPattern::parse(&host).expect("the host is right")];
    }
    rules
}

/// `(host, method, path)`, each for a route of its own, spread over all of them.
fn requests(count: usize) -> Vec<(String, Method, String)> {
    let request = |at: usize| {
        // All four of a resource, so that the mix of short and long paths is the same for each size.
        let number = at / 4 * (4 * count / REQUESTS) + at % 4;
        let (resource, kind) = (number / 4, number % 4);
        let path = match kind {
            0 | 1 => format!("/api/v1/resource{resource}/0f8b7a"),
            2 => format!("/api/v1/resource{resource}/0f8b7a/items/17"),
            _ => format!("/api/v1/resource{resource}"),
        };
        let method = if kind == 1 { Method::PUT } else { Method::GET };
        (format!("tenant{}.example.com", number / 10), method, path)
    };
    (0..REQUESTS).map(request).collect()
}

fn build(rules: Vec<Rule<usize>>) -> Router<usize> {
    Router::build(rules).expect("no two rules are in each other's way")
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    let headers = HeaderMap::new();
    for size in SIZES {
        let requests = requests(size);
        let dead_ends: Vec<_> = requests.iter().map(|(_, _, path)| format!("{path}/none")).collect();
        let query = |host, method, path| Query { host, path, method, headers: &headers, query: None };

        let router = build(one_host(size));
        group.bench_function(BenchmarkId::new("one_host", size), |bencher| {
            bencher.iter(|| {
                for (host, method, path) in &requests {
                    let found = router.find(black_box(&query(host, method, path)));
                    black_box(&found.expect("each request has its route").target);
                }
            });
        });

        group.bench_function(BenchmarkId::new("no_route", size), |bencher| {
            bencher.iter(|| {
                for path in &dead_ends {
                    black_box(router.find(black_box(&query("", &Method::GET, path))).is_err());
                }
            });
        });

        let router = build(many_hosts(size));
        group.bench_function(BenchmarkId::new("ten_to_a_host", size), |bencher| {
            bencher.iter(|| {
                for (host, method, path) in &requests {
                    let found = router.find(black_box(&query(host, method, path)));
                    black_box(&found.expect("each request has its route").target);
                }
            });
        });
    }
    group.finish();
}

fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(20);
    for size in SIZES {
        // With the parsing of the patterns, as a reload does it.
        group.bench_function(BenchmarkId::new("one_host", size), |bencher| bencher.iter(|| build(one_host(size))));
        group.bench_function(BenchmarkId::new("ten_to_a_host", size), |bencher| {
            bencher.iter(|| build(many_hosts(size)))
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, compile);
criterion_main!(benches);
