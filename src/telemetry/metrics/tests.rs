//! Counting through handles, and what the exposition shows of it.

use std::sync::Weak;
use std::time::{Duration, UNIX_EPOCH};

use http::{Method, StatusCode};
use prometheus::proto::MetricType;

use super::family::{Entry, SLUGS_MAX, lock};
use super::*;
use crate::telemetry::record::{Enforcement, VerdictWord};

/// The exposition's value of a series, spelt as it is exposed.
fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let text = metrics.render();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

#[track_caller]
fn check(metrics: &Metrics, series: &str, want: &str) {
    assert_eq!(value(metrics, series).as_deref(), Some(want), "{series}\n{}", metrics.render());
}

fn finish(route: &RouteMetrics, method: &str, status: Option<u16>) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let status = status.map(|status| StatusCode::from_u16(status).unwrap());
    route.finished(&method, status, Duration::from_millis(2), 10, 20);
}

#[test]
fn requests_are_counted_by_method_and_status_class() {
    for (method, status, labels) in [
        ("GET", Some(200), r#"method="GET",route="r",status_class="2xx""#),
        ("HEAD", Some(304), r#"method="HEAD",route="r",status_class="3xx""#),
        ("POST", Some(404), r#"method="POST",route="r",status_class="4xx""#),
        ("PUT", Some(503), r#"method="PUT",route="r",status_class="5xx""#),
        ("DELETE", Some(101), r#"method="DELETE",route="r",status_class="1xx""#),
        ("PATCH", None, r#"method="PATCH",route="r",status_class="none""#),
        ("OPTIONS", Some(999), r#"method="OPTIONS",route="r",status_class="5xx""#),
        ("CONNECT", Some(200), r#"method="CONNECT",route="r",status_class="2xx""#),
        ("TRACE", Some(405), r#"method="TRACE",route="r",status_class="4xx""#),
        ("PROPFIND", Some(200), r#"method="other",route="r",status_class="2xx""#),
        ("get", Some(200), r#"method="other",route="r",status_class="2xx""#),
    ] {
        let metrics = Metrics::new();
        let route = metrics.route("r");
        finish(&route, method, status);
        check(&metrics, &format!("armiger_http_requests_total{{{labels}}}"), "1");
        assert_eq!(metrics.render().matches("armiger_http_requests_total{").count(), 1, "{method}");
    }
}

#[test]
fn an_exchange_leaves_duration_bytes_and_flight() {
    let metrics = Metrics::new();
    let route = metrics.route("r");
    let flight = route.enter();
    check(&metrics, r#"armiger_http_requests_in_flight{route="r"}"#, "1");
    finish(&route, "GET", Some(200));
    drop(flight);
    check(&metrics, r#"armiger_http_requests_in_flight{route="r"}"#, "0");
    check(&metrics, r#"armiger_http_request_bytes_total{route="r"}"#, "10");
    check(&metrics, r#"armiger_http_response_bytes_total{route="r"}"#, "20");
    check(&metrics, r#"armiger_http_request_duration_seconds_count{route="r"}"#, "1");
    check(&metrics, r#"armiger_http_request_duration_seconds_sum{route="r"}"#, "0.002");
    check(&metrics, r#"armiger_http_request_duration_seconds_bucket{route="r",le="0.001"}"#, "0");
    check(&metrics, r#"armiger_http_request_duration_seconds_bucket{route="r",le="0.0025"}"#, "1");
}

#[test]
fn a_route_of_the_next_snapshot_goes_on_counting_and_the_last_one_takes_the_series_along() {
    let metrics = Metrics::new();
    let old = metrics.route("r");
    old.rejected("no-route");
    finish(&old, "GET", Some(200));
    let new = metrics.route("r");
    finish(&new, "GET", Some(200));
    drop(old);
    check(&metrics, r#"armiger_http_requests_total{method="GET",route="r",status_class="2xx"}"#, "2");
    check(&metrics, r#"armiger_rejections_total{reason="no-route",route="r"}"#, "1");
    let other = metrics.route("other");
    drop(new);
    let text = metrics.render();
    assert!(!text.contains(r#"route="r""#), "{text}");
    assert!(text.contains(r#"route="other""#), "{text}");
    drop(other);
    drop(metrics.route("r"));
    assert!(!metrics.render().contains("route="));
}

#[test]
fn a_name_taken_up_while_it_is_dropped_stays() {
    let metrics = Metrics::new();
    let old = metrics.route("r");
    finish(&old, "GET", Some(200));
    // What a successor finds between the end of the last handle and the end of its drop: an entry that is dead.
    lock(&metrics.0.routes.0).insert(vec!["r".to_owned()], Weak::new());
    let new = metrics.route("r");
    drop(old);
    finish(&new, "GET", Some(200));
    check(&metrics, r#"armiger_http_requests_total{method="GET",route="r",status_class="2xx"}"#, "2");
    drop(new);
    assert!(!metrics.render().contains("route="));
    assert!(lock(&metrics.0.routes.0).is_empty());
}

#[test]
fn threads_may_take_up_and_drop_a_name_at_once() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2_000).for_each(|_| metrics.route("r").rejected("no-route")));
        }
    });
    assert!(!metrics.render().contains("route="), "the last one takes the series along");
    assert!(lock(&metrics.0.routes.0).is_empty());
}

#[test]
fn names_that_run_together_are_kept_apart() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.policy("a", "bc", Enforcement::Enforce), metrics.policy("ab", "c", Enforcement::Enforce));
    one.count(VerdictWord::Pass);
    two.count(VerdictWord::Pass);
    two.count(VerdictWord::Pass);
    let series = |route, policy| {
        format!(r#"armiger_policy_verdicts_total{{mode="enforce",policy="{policy}",route="{route}",verdict="pass"}}"#)
    };
    check(&metrics, &series("a", "bc"), "1");
    check(&metrics, &series("ab", "c"), "2");
    drop(one);
    assert_eq!(value(&metrics, &series("a", "bc")), None);
    check(&metrics, &series("ab", "c"), "2");
}

#[test]
fn every_verdict_has_its_series() {
    let metrics = Metrics::new();
    let policy = metrics.policy("r", "roles", Enforcement::Shadow);
    for word in VerdictWord::ALL {
        policy.count(word);
        let series = format!(
            r#"armiger_policy_verdicts_total{{mode="shadow",policy="roles",route="r",verdict="{}"}}"#,
            word.as_str(Enforcement::Shadow)
        );
        check(&metrics, &series, "1");
    }
}

#[test]
fn hostile_names_are_escaped() {
    let metrics = Metrics::new();
    let _route = metrics.route("a\"b\\c\nd");
    check(&metrics, r#"armiger_http_requests_in_flight{route="a\"b\\c\nd"}"#, "0");
}

#[test]
fn the_words_of_a_label_are_bounded() {
    let metrics = Metrics::new();
    let route = metrics.route("r");
    for count in 0..2 * SLUGS_MAX {
        // Each word is a leaked string, as good as a literal.
        route.rejected(format!("reason-{count}").leak());
    }
    route.rejected("reason-0");
    assert_eq!(metrics.render().matches("armiger_rejections_total{").count(), SLUGS_MAX);
    check(&metrics, r#"armiger_rejections_total{reason="reason-0",route="r"}"#, "2");
    check(&metrics, r#"armiger_rejections_total{reason="other",route="r"}"#, (SLUGS_MAX + 1).to_string().as_str());
}

#[test]
fn an_upstream_counts_attempts_connections_retries_and_waits() {
    let metrics = Metrics::new();
    let upstream = metrics.upstream("app");
    upstream.attempted("ok");
    upstream.attempted("reset");
    upstream.attempted("ok");
    upstream.responded(Duration::from_millis(3));
    upstream.opened();
    upstream.reused();
    upstream.retried(RetryClass::Unsent);
    upstream.retried(RetryClass::ReusedNoByte);
    upstream.queue_waited(Duration::from_millis(3));
    upstream.queue_timed_out();
    upstream.answer_cut();
    let guards = [upstream.active(), upstream.idle(), upstream.idle(), upstream.queued()];
    for (series, want) in [
        (r#"armiger_upstream_requests_total{outcome="ok",upstream="app"}"#, "2"),
        (r#"armiger_upstream_requests_total{outcome="reset",upstream="app"}"#, "1"),
        (r#"armiger_upstream_answers_cut_total{upstream="app"}"#, "1"),
        (r#"armiger_upstream_request_duration_seconds_count{upstream="app"}"#, "1"),
        (r#"armiger_upstream_connections{state="active",upstream="app"}"#, "1"),
        (r#"armiger_upstream_connections{state="idle",upstream="app"}"#, "2"),
        (r#"armiger_upstream_connections_opened_total{upstream="app"}"#, "1"),
        (r#"armiger_upstream_connections_reused_total{upstream="app"}"#, "1"),
        (r#"armiger_upstream_retries_total{class="unsent",upstream="app"}"#, "1"),
        (r#"armiger_upstream_retries_total{class="reused_no_byte",upstream="app"}"#, "1"),
        (r#"armiger_upstream_queue_wait_seconds_count{upstream="app"}"#, "1"),
        (r#"armiger_upstream_queue_timeouts_total{upstream="app"}"#, "1"),
        (r#"armiger_upstream_queue_length{upstream="app"}"#, "1"),
    ] {
        check(&metrics, series, want);
    }
    drop(guards);
    check(&metrics, r#"armiger_upstream_connections{state="idle",upstream="app"}"#, "0");
    drop(upstream);
    assert!(!metrics.render().contains("upstream="));
}

#[test]
fn listeners_and_workers_count_connections() {
    let metrics = Metrics::new();
    let (listener, worker) = (metrics.listener("http"), metrics.worker(1));
    let open = (listener.accepted(), worker.accepted());
    drop(listener.accepted());
    assert_eq!((listener.connections(), worker.connections()), (1, 1));
    check(&metrics, r#"armiger_listener_connections{listener="http"}"#, "1");
    check(&metrics, r#"armiger_listener_connections_accepted_total{listener="http"}"#, "2");
    check(&metrics, r#"armiger_worker_connections{worker="1"}"#, "1");
    check(&metrics, r#"armiger_worker_connections_accepted_total{worker="1"}"#, "1");
    drop((open, listener));
    assert!(!metrics.render().contains("listener="));
}

#[test]
fn the_process_wide_figures_are_there() {
    let metrics = Metrics::new();
    metrics.limit_hit("connections_max");
    metrics.access_log_dropped(3);
    metrics.reload_applied(UNIX_EPOCH + Duration::from_millis(1_500));
    for (series, want) in [
        (r#"armiger_limit_hits_total{limit="connections_max"}"#, "1"),
        ("armiger_access_log_dropped_total", "3"),
        ("armiger_config_last_reload_successful", "1"),
        ("armiger_config_last_reload_success_timestamp_seconds", "1.5"),
        (r#"armiger_config_reloads_total{result="applied"}"#, "1"),
        ("armiger_draining", "0"),
        ("armiger_config_generations", "0"),
        (concat!("armiger_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), "1"),
    ] {
        check(&metrics, series, want);
    }
    metrics.reload_refused();
    check(&metrics, "armiger_config_last_reload_successful", "0");
    check(&metrics, "armiger_config_last_reload_success_timestamp_seconds", "1.5");
}

#[test]
fn a_reload_leaves_its_result_its_duration_and_the_configuration_in_force() {
    let metrics = Metrics::new();
    let series = |version, hash| format!(r#"armiger_config_info{{hash="{hash}",version="{version}"}}"#);
    metrics.config_in_force(1, "abc");
    check(&metrics, &series(1, "abc"), "1");
    metrics.config_in_force(2, "def");
    metrics.config_in_force(2, "def");
    check(&metrics, &series(2, "def"), "1");
    assert_eq!(value(&metrics, &series(1, "abc")), None, "one configuration is in force");
    metrics.reload_refused();
    metrics.reload_rolled_back(UNIX_EPOCH + Duration::from_secs(9));
    metrics.reload_took(Duration::from_millis(20));
    metrics.watch_failed();
    let (old, new) = (metrics.generation(), metrics.generation());
    for (series, want) in [
        (r#"armiger_config_reloads_total{result="rolled_back"}"#, "1"),
        ("armiger_config_last_reload_successful", "1"),
        ("armiger_config_last_reload_success_timestamp_seconds", "9"),
        ("armiger_config_reload_duration_seconds_count", "1"),
        ("armiger_config_watch_errors_total", "1"),
        ("armiger_config_generations", "2"),
    ] {
        check(&metrics, series, want);
    }
    drop(old);
    check(&metrics, "armiger_config_generations", "1");
    drop(new);
}

#[test]
fn the_end_and_the_means_of_the_process_are_told() {
    let metrics = Metrics::new();
    assert_eq!(value(&metrics, "armiger_memory_limit_bytes"), None, "no limit is no limit of 0");
    metrics.memory_limit(128 << 20);
    metrics.draining(true);
    metrics.exchange_cut();
    check(&metrics, "armiger_memory_limit_bytes", "134217728");
    check(&metrics, "armiger_draining", "1");
    check(&metrics, "armiger_exchanges_cut_total", "1");
    assert_eq!(metrics.exchanges_cut_total(), 1);
    metrics.draining(false);
    check(&metrics, "armiger_draining", "0");
}

#[test]
fn two_armigers_share_nothing() {
    let (one, two) = (Metrics::new(), Metrics::new());
    one.access_log_dropped(1);
    assert_eq!((one.access_log_dropped_total(), two.access_log_dropped_total()), (1, 0));
}

/// The rules of `promtool check metrics` (prometheus/client_golang, testutil/promlint), and our own on units.
#[test]
fn every_family_keeps_the_naming_rules_and_says_its_unit_and_meaning() {
    let metrics = Metrics::new();
    let no_base_units = ["milliseconds", "ms", "microseconds", "us", "minutes", "hours", "days", "kb", "kib", "mb"];
    let types = ["counter", "gauge", "histogram", "summary"];
    for Entry { name, kind, labels, unit, help } in &metrics.0.catalogue.entries {
        assert!(help.ends_with('.') && help.len() > 20, "{name}: {help}");
        assert!(name.starts_with("armiger_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        let words: Vec<&str> = name.split('_').collect();
        assert!(!words.iter().any(|word| no_base_units.contains(word) || types.contains(word)), "{name}");
        let is_counter = *kind == MetricType::COUNTER;
        assert_eq!(words.ends_with(&["total"]), is_counter, "{name} is a {kind:?}");
        for suffix in ["_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(suffix), "{name}: a histogram would take the name");
        }
        for base in ["seconds", "bytes"] {
            let stem = name.strip_suffix("_total").unwrap_or(name);
            let of_process = *name == "process_start_time_seconds";
            assert_eq!(stem.ends_with(base), *unit == base || (of_process && base == "seconds"), "{name}: {unit}");
        }
        if name.ends_with("_info") || unit.is_empty() {
            assert_eq!(*kind, MetricType::GAUGE, "{name}");
        } else {
            assert!(help.contains(&format!("in {unit}")), "{name}: the help does not say `in {unit}`: {help}");
        }
        assert!(!labels.iter().any(|label| ["le", "quantile", "job", "instance"].contains(label)), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let metrics = Metrics::new();
    for series in [
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
    ] {
        let figure: f64 = value(&metrics, series).expect(series).parse().unwrap();
        assert!(figure > 0.0, "{series} {figure}");
    }
    assert!(value(&metrics, "process_cpu_seconds_total").is_some());
}
