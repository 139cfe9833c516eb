//! The page that tells what each metric means, made from what is registered.

use std::fmt::Write;

use prometheus::proto::MetricType;

use super::exchanges::{METHODS, STATUS_CLASSES};
use super::family::{DURATION_BUCKETS, Entry};

/// What the values of a label are; empty where [`page`] makes the text of the words that are counted.
const LABELS: &[(&str, &str)] = &[
    (
        "authority",
        "the common name of who made a list of certificates that were taken back, or its place among those of its listener",
    ),
    (
        "cause",
        "why a breaker's state changed: `consecutive`, `ratio`, `probe_failed`, `expired`, `healthy`, `recovered` or \
         `operator`",
    ),
    ("certificate", "the first name that a certificate holds, or its place among those of its listener"),
    (
        "class",
        "why an attempt was repeated: `unsent`, `reused_no_byte` or `policy`; whose requests were shed: `critical`, \
         `default` or `bulk`",
    ),
    ("decision", "`allow`, `deny`, or `fault` where the rule could not be told"),
    ("endpoint", "the endpoint's address; empty where the whole upstream is meant"),
    ("from", "the state that a breaker left: `closed`, `half_open` or `open`"),
    ("hash", "the hash of the configuration's content, as `GET /config/status` and the messages have it"),
    (
        "limit",
        "the bound's key. Of a listener: `connections_max`, `in_flight_max`, `headers_max`, `header_bytes_max`, \
         `header_value_bytes_max`, `target_bytes_max`, `body_max` (also for the policy `body_limit`), `body_rate_min`, `handshakes_max`, `handshake`, `proxy_header`, `request_headers`, `body_idle`, `keep_alive`, `requests_max`; of an \
         upstream: `upstreams.limits.in_flight_max`, `upstreams.limits.queue_max`, `upstreams.limits.queue_wait`, `upstreams.pool.queue_max`, `upstreams.pool.queue_wait`; of all names `dns.addresses_max`; of a \
         route: `timeout`; of an action its key within the route, such as `routes.batch.deadline`, and `mirror.in_flight_max`; of policies `rate_limit.keys_max`, `rate_limit.ban` (no room to watch one more \
         caller), `in_flight.max`, `headers.claim_max`, `compress.at_once_max`, `cache.fills_max`, `cache.refreshes_max`; of providers of identities `identity.jwt.keys.bytes_max`, \
         `identity.introspection.queue_max`, `identity.introspection.answer_max`. Three are no keys: `file_descriptors` is the process's limit of open files, `operators` how many connections \
         `admin` and `probes` have at once, `http2_flood` stands for \
         HTTP/2 connections that were ended for more resets or frames of no use than h2 puts up with",
    ),
    ("listener", "the listener's name"),
    ("method", ""),
    ("mode", "`enforce` or `shadow`"),
    ("name", "the limit's name"),
    (
        "outcome",
        "`ok` if the head of an answer came, else what went wrong: a reason such as `upstream-timeout`, or \
                 `abandoned` if nobody waited any longer; of a credential `verified`, `known` from before, or the cause \
                 that the log has, such as `jwt_expired`; of a TLS handshake `full`, `resumed`, `failed` or `timeout`; of `cors`, of \
         a saga and its steps what the metric says; of \
         a limit `granted`, `denied`, `skipped` (the request has no key), `banned`, `key_missing`, `too_costly` or \
         `store_unavailable`; of the store that limits share `ok`, `timeout`, `error` or `unavailable`",
    ),
    ("part", "the name of a part of an `aggregate`"),
    ("policy", "the policy's name"),
    ("provider", "the name of a provider of the section `identity`"),
    ("race", "`won` if the second endpoint answered first, else `lost`"),
    ("reason", "why armiger refused: the word that ends the `type` of the problem document, and stands in the log"),
    (
        "result",
        "of a reload `applied`, `refused` (the old configuration stays) or `rolled_back` (an earlier one is in force \
         again); of a lookup `ok`, `empty` (there is no such name, or no address behind it) or `failed`",
    ),
    ("route", "the route's name; `(none)` for exchanges that found none"),
    ("rule", "the rule's name, or its place in the list: `rule-1`"),
    ("rung", "what stood in: `upstream` (the other one) or `respond` (the fixed answer)"),
    ("service", "the service of a gRPC call; `other` for those that are not told apart"),
    ("state", "`active` or `idle`"),
    ("status", "the name of the call's status, such as `UNAVAILABLE`; `none` if it ended without one"),
    ("status_class", ""),
    ("step", "the name of a step of a `saga_in_memory`"),
    ("to", "the state that a breaker entered: `closed`, `half_open` or `open`"),
    ("upstream", "the upstream's name"),
    (
        "verdict",
        "`pass`, `amend`, `answer`, `reject`; in shadow mode `pass`, `would_amend`, `would_answer`, `would_reject`",
    ),
    (
        "version",
        "of `armiger_build_info` armiger's own; of `armiger_config_info` the number of the configuration, which \
                 counts up with each that is applied",
    ),
    ("worker", "the worker's number, from 0"),
];

/// `docs/metrics.md`.
pub(super) fn page(entries: &[Entry]) -> String {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.name);
    let mut page = String::from(HEAD);
    for entry in &entries {
        let kind = match entry.kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            _ => "untyped",
        };
        let labels: Vec<String> = entry.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        let unit = if entry.unit.is_empty() { "–" } else { entry.unit };
        let _ = writeln!(page, "| `{}` | {kind} | {labels} | {unit} | {} |", entry.name, entry.help);
    }
    page.push_str("\n## Labels\n\n| label | its values |\n| --- | --- |\n");
    for (label, meaning) in LABELS.iter().filter(|(label, _)| entries.iter().any(|entry| entry.labels.contains(label)))
    {
        let meaning = match *label {
            "method" => format!(
                "{}; `other` is every other one. Of gRPC, the name of the method that was called",
                words(&METHODS[..METHODS.len() - 1])
            ),
            "status_class" => format!("{}; `none` if no status was sent", words(&STATUS_CLASSES[1..])),
            _ => (*meaning).to_owned(),
        };
        let _ = writeln!(page, "| `{label}` | {meaning} |");
    }
    let bounds: Vec<String> = DURATION_BUCKETS.iter().map(ToString::to_string).collect();
    let _ = write!(page, "\n## Histograms\n\nAll have the same upper bounds, in seconds: {}.\n", bounds.join(", "));
    page
}

fn words(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

const HEAD: &str = "\
# Metrics

<!-- Made from the source (`src/telemetry/metrics/`): edit that. -->

`GET /metrics` on the `admin` listener, and on `probes` if there is one, in Prometheus' text format.

Label values are names of the configuration and words of the code: nothing that a client sends, so nobody can make up
series. Methods of gRPC are named once a service has answered calls of them as only who has them does, and 256 at most.
The series of a route, policy, upstream or listener leave when the last configuration that has it is gone, and
what has the same name in the next one goes on counting. A series that never counted anything may be absent: read it as
0. After some dozen words a label counts all further ones as `other`.

The `process_*` metrics are read from `/proc`, and absent where there is none.

## What to watch

| to learn | ask |
| --- | --- |
| failures per route | `sum by (route) (rate(armiger_http_requests_total{status_class=\"5xx\"}[5m]))` |
| whose failures they are | `sum by (route, reason) (rate(armiger_rejections_total[5m]))` has those of armiger's own making |
| which upstream breaks answers off | `sum by (upstream) (rate(armiger_upstream_answers_cut_total[5m]))` |
| a bound that is too tight | `rate(armiger_limit_hits_total{limit!=\"keep_alive\",limit!=\"requests_max\"}[5m]) > 0`: those two end connections in the course of things |
| an edit that was refused | `armiger_config_last_reload_successful == 0` |
| what a policy in shadow would do | `sum by (route, policy) (rate(armiger_policy_verdicts_total{verdict=\"would_reject\"}[5m]))` |
| whom `cors` in shadow would give no permission | `sum by (route, outcome) (rate(armiger_cors_requests_total{mode=\"shadow\",outcome=~\".*_not_allowed\"}[5m]))` |
| lines missing in the log | `rate(armiger_access_log_dropped_total[5m]) > 0`, `rate(armiger_messages_dropped_total[5m]) > 0` |
| a certificate or a CRL that ends | `armiger_tls_certificate_not_after_timestamp_seconds - time() < 7 * 86400`, `armiger_upstream_tls_certificate_not_after_timestamp_seconds - time() < 7 * 86400`, `armiger_tls_crl_next_update_timestamp_seconds - time() < 86400` |

## Every metric

| metric | type | labels | unit | meaning |
| --- | --- | --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use regex::Regex;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn every_metric_and_every_label_is_told() {
        let metrics = Metrics::new();
        let page = metrics.reference();
        for entry in &metrics.0.catalogue.entries {
            assert!(page.contains(&format!("| `{}` | ", entry.name)), "{}", entry.name);
            for label in entry.labels {
                assert!(page.contains(&format!("\n| `{label}` | ")), "{label} of {}", entry.name);
            }
        }
        assert!(LABELS.is_sorted_by_key(|(label, _)| *label));
    }

    /// By the source: whatever a bound is counted under stands in the page.
    #[test]
    fn every_bound_that_is_counted_is_told() {
        fn files(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files(&path, found);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    found.push(path);
                }
            }
        }
        let (_, told) = LABELS.iter().find(|(label, _)| *label == "limit").unwrap();
        let counted = Regex::new(r#"(?:limit_hit\(|limit: Some\()"([a-z0-9_.]+)"\)|fn limit\(self\)[^}]*"#).unwrap();
        let word = Regex::new(r#""([a-z0-9_.]+)""#).unwrap();
        let (mut sources, mut count) = (Vec::new(), 0);
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
        for path in sources {
            let source = std::fs::read_to_string(&path).unwrap();
            for name in counted.find_iter(&source).flat_map(|found| word.captures_iter(found.as_str())) {
                count += 1;
                // Of actions one stands for all.
                let is_told = name[1].starts_with("routes.") || told.contains(&format!("`{}`", &name[1]));
                assert!(is_told, "{} of {}", &name[1], path.display());
            }
        }
        assert!(count > 20, "the source counts bounds: {count}");
    }

    #[test]
    fn what_the_page_asks_prometheus_for_is_there() {
        let metrics = Metrics::new();
        let page = metrics.reference();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for name in page.split(|c| !is_name(c)).filter(|word| word.starts_with("armiger_")) {
            assert!(metrics.0.catalogue.entries.iter().any(|entry| entry.name == name), "{name}");
        }
    }
}
