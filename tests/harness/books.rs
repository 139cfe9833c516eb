//! The books: what access log and metrics tell of the same exchanges, compared once all of them are over.

use std::collections::BTreeMap;

use armiger::exchange::Reason;
use armiger::telemetry::metrics::{Metrics, RouteMetrics};
use serde_json::Value;

use super::Armiger;

/// What nothing may be left of once armiger has ended.
const GAUGES: &[&str] = &[
    "armiger_http_requests_in_flight",
    "armiger_listener_connections",
    "armiger_worker_connections",
    "armiger_upstream_queue_length",
    "armiger_upstream_waiting",
];

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

impl Armiger {
    /// Stops it, fails unless its log and its metrics tell the same, and gives the lines of the log. The log has to be in its
    /// usual form, and to leave no exchange out.
    pub async fn close_books(self) -> Vec<Value> {
        let (lines, found) = self.books().await;
        assert!(found.is_empty(), "the books do not agree:\n{}\nthe log has:\n{lines:#?}", found.join("\n"));
        lines
    }

    /// Stops it, and gives the lines of its log and whatever does not agree.
    pub async fn books(self) -> (Vec<Value>, Vec<String>) {
        let metrics = self.running().metrics().clone();
        // Series of a route leave with the last who counts in them.
        let _held = held(&metrics);
        let lines = self.lines();
        self.stop().await;
        let lines = lines();
        let found = disagreements(&lines, &metrics.render());
        (lines, found)
    }
}

/// A hand on what is counted of each route.
fn held(metrics: &Metrics) -> Vec<RouteMetrics> {
    let page = metrics.render();
    let in_flight = page.lines().filter_map(|line| line.strip_prefix("armiger_http_requests_in_flight{route=\""));
    let names = in_flight.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name);
    names.map(|name| metrics.route(name)).collect()
}

/// Numbers by what they are of.
type Counts = BTreeMap<Vec<String>, u64>;

/// What does not agree.
fn disagreements(lines: &[Value], page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut told = Told::default();
    for line in lines {
        told.add(line, &mut found);
    }
    let route = |labels: &[&str]| ["route"].iter().chain(labels).map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (name, labels, expected) in [
        ("armiger_http_requests_total", route(&["method", "status_class"]), &told.requests),
        ("armiger_http_request_duration_seconds_count", route(&[]), &told.exchanges),
        ("armiger_http_request_bytes_total", route(&[]), &told.bytes_in),
        ("armiger_http_response_bytes_total", route(&[]), &told.bytes_out),
        ("armiger_grpc_calls_total", route(&["status"]), &told.calls),
        ("armiger_answers_cut_total", route(&[]), &told.cuts),
    ] {
        let counted = counted(page, name, &labels);
        if counted != *expected {
            found.push(format!("{name} is {counted:?}, and the log has {expected:?}"));
        }
    }
    // A refusal that was cut keeps its reason, and is one of both.
    let refused = counted(page, "armiger_rejections_total", &route(&["reason"]));
    for (key, count) in &refused {
        let most = told.reasons.get(key).copied().unwrap_or(0);
        if *count > most {
            found.push(format!("{key:?} was refused {count} times, and the log has {most}"));
        }
    }
    for (key, least) in &told.refusals {
        let count = refused.get(key).copied().unwrap_or(0);
        if count < *least {
            found.push(format!("{key:?} was refused {count} times, and the log has {least}"));
        }
    }
    for gauge in GAUGES {
        found.extend(
            page.lines()
                .filter(|line| line.strip_prefix(gauge).is_some_and(|rest| rest.starts_with('{')))
                .filter(|line| !line.ends_with(" 0"))
                .map(|line| format!("left: {line}")),
        );
    }
    found
}

/// What the log tells, added up.
#[derive(Default)]
struct Told {
    requests: Counts,
    exchanges: Counts,
    bytes_in: Counts,
    bytes_out: Counts,
    calls: Counts,
    cuts: Counts,
    /// Lines with a reason.
    reasons: Counts,
    /// Those of them that were answered whole: nothing but a refusal.
    refusals: Counts,
}

impl Told {
    fn add(&mut self, line: &Value, found: &mut Vec<String>) {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        let number = |key: &str| line[key].as_u64().unwrap_or(0);
        let route = text("route").unwrap_or_else(|| "(none)".into());
        let method = text("method").filter(|method| METHODS.contains(&&**method)).unwrap_or_else(|| "other".into());
        let class = match number("status") {
            0 => "none".to_owned(),
            status => format!("{}xx", status / 100),
        };
        let add = |counts: &mut Counts, key: &[&String], by: u64| {
            if by > 0 {
                *counts.entry(key.iter().map(|part| (*part).clone()).collect()).or_default() += by;
            }
        };
        add(&mut self.requests, &[&route, &method, &class], 1);
        add(&mut self.exchanges, &[&route], 1);
        add(&mut self.bytes_in, &[&route], number("bytes_in"));
        add(&mut self.bytes_out, &[&route], number("bytes_out"));
        if let Some(status) = text("grpc_status") {
            add(&mut self.calls, &[&route, &status], 1);
        }
        let (is_whole, is_begun) = (line["complete"] == true, number("status") > 0);
        if let Some(reason) = text("reason") {
            add(&mut self.reasons, &[&route, &reason], 1);
            if is_whole {
                add(&mut self.refusals, &[&route, &reason], 1);
                if !Reason::ALL.iter().any(|row| row.slug() == reason) {
                    found.push(format!("`{reason}` is no reason to refuse: {line}"));
                }
            }
        }
        if !is_whole && is_begun {
            add(&mut self.cuts, &[&route], 1);
        }
        if is_whole == line["cut_by"].is_string() || !is_whole && !line["reason"].is_string() {
            found.push(format!("complete, or cut by somebody for a reason: {line}"));
        }
    }
}

/// The series of a family that are not 0, added up by these labels.
fn counted(page: &str, family: &str, labels: &[String]) -> Counts {
    let mut counts = Counts::new();
    for line in page.lines() {
        let Some((series, value)) = line.strip_prefix(family).and_then(|rest| rest.rsplit_once("} ")) else { continue };
        let Some(series) = series.strip_prefix('{') else { continue };
        // Names of routes and words of ours have neither comma nor quote.
        let pairs: BTreeMap<&str, &str> = series.split(',').filter_map(|pair| pair.split_once('=')).collect();
        let key = labels.iter().map(|label| pairs[&**label].trim_matches('"').to_owned()).collect();
        let value: u64 = value.parse().unwrap_or_else(|_| panic!("no count: {line}"));
        if value > 0 {
            *counts.entry(key).or_default() += value;
        }
    }
    counts
}
