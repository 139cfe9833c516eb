//! Keys of other proxies about upstreams.

use super::Row;

const HOST: &str =
    "which `Host` is sent on is a matter of the route: `proxy: {upstream: NAME, host: upstream}`, or `preserve`";
const EJECTION: &str = "an endpoint that fails is left out for a while by `ejection: {consecutive: 3, base: 10s}`";
const RESOLVE: &str =
    "remove it: `http://name:port` is looked up, and `dns:http://name:port` is an endpoint for each address of a name";

pub(super) const KEYS: &[Row] = &[
    // An upstream.
    (
        &["endpoints", "breaker"],
        &[
            "servers",
            "server",
            "hosts",
            "host",
            "url",
            "urls",
            "targets",
            "target",
            "nodes",
            "address",
            "addresses",
            "load_assignment",
            "backends",
        ],
        &["endpoints"],
        "",
    ),
    (
        &["endpoints", "timeouts"],
        &[
            "timeout",
            "timeout_ms",
            "connect_timeout",
            "read_timeout",
            "send_timeout",
            "proxy_read_timeout",
            "proxy_connect_timeout",
            "idle_timeout",
            "response_timeout",
        ],
        &[],
        "times stand under `timeouts`: `connect`, `first_byte`, `body_idle`, `idle`; `timeout` of a route bounds the whole",
    ),
    (
        &["endpoints", "retry"],
        &["retries", "max_retries", "num_retries", "retry_policy", "attempts"],
        &[],
        "write `retry: {attempts: 2}`",
    ),
    (&["endpoints", "health"], &["healthcheck", "health_check", "health_checks", "check", "probe"], &["health"], ""),
    (
        &["endpoints", "balance"],
        &["load_balancing", "load_balancer", "lb_policy", "lb", "algorithm", "strategy", "sticky"],
        &["balance"],
        "",
    ),
    (
        &["endpoints", "pool"],
        &["max_connections", "connections_max", "keepalive", "connection_pool", "max_conns", "connect_pool"],
        &[],
        "write `pool: {connections_max: …}`; requests at once are bounded by `limits: {in_flight_max: …}`",
    ),
    (&["endpoints", "breaker"], &["circuit_breaker", "circuit_breakers"], &["breaker"], ""),
    (
        &["endpoints", "ejection"],
        &["outlier_detection", "passive_health", "max_fails", "fail_timeout"],
        &["ejection"],
        EJECTION,
    ),
    (
        &["endpoints", "ejection"],
        &["type", "discovery_type", "resolve", "dns", "dns_lookup_family", "service_discovery"],
        &[],
        RESOLVE,
    ),
    (
        &["endpoints", "ejection"],
        &["host_header", "pass_host_header", "preserve_host", "host_rewrite", "upstream_vhost"],
        &[],
        HOST,
    ),
    (
        &["endpoints", "ejection"],
        &["backup", "fallback", "failover"],
        &[],
        "what stands in for an upstream is a matter of the route: `proxy: {upstream: NAME, fallback: {upstream: OTHER}}`",
    ),
    (
        &["endpoints", "ejection"],
        &["ssl", "scheme", "ssl_verify"],
        &["tls"],
        "begin endpoints with `https://`; how certificates are checked stands under `tls`",
    ),
    // Parts of an upstream.
    (&["connect", "first_byte"], &["total", "overall", "timeout"], &[], "`timeout` of a route bounds the whole"),
    (&["connect", "first_byte"], &["keepalive", "keep_alive", "pool"], &["idle"], ""),
    (
        &["attempts", "per_try"],
        &["retries", "num_retries", "max_retries", "tries", "count", "max", "limit"],
        &["attempts"],
        "write `attempts: 3`: tries in all, the first included",
    ),
    (
        &["attempts", "per_try"],
        &["retry_on", "on", "conditions", "proxy_next_upstream", "statuses", "retriable_status_codes"],
        &["when"],
        "write `when: [connect, reset, timeout, 502-504]`",
    ),
    (
        &["attempts", "per_try"],
        &["retry_back_off", "delay", "wait", "interval", "initial_interval"],
        &["backoff"],
        "write `backoff: {base: 25ms, max: 1s}`",
    ),
    (
        &["rise", "fall"],
        &["uri", "url", "endpoint", "http_path", "http_health_check"],
        &["path"],
        "write `path: /healthz`",
    ),
    (&["rise", "fall"], &["unhealthy_threshold", "fails", "failures", "max_fails", "failure_threshold"], &["fall"], ""),
    (&["rise", "fall"], &["healthy_threshold", "passes", "successes", "success_threshold"], &["rise"], ""),
    (&["rise", "fall"], &["expected_status", "expected_statuses", "match", "codes", "http_statuses"], &["status"], ""),
    (
        &["rise", "fall"],
        &["enabled", "active", "port", "type"],
        &[],
        "write `path: /healthz`; each endpoint is asked where it is, and `health: {}` is on",
    ),
    (
        &["trip", "open_for"],
        &[
            "threshold",
            "failures",
            "max_failures",
            "consecutive_failures",
            "error_threshold",
            "expression",
            "max_errors",
        ],
        &["trip"],
        "write `trip: {consecutive: 5}`, or a share: `trip: {ratio: 0.5, min_requests: 20}`",
    ),
    (
        &["trip", "open_for"],
        &[
            "timeout",
            "sleep_window",
            "reset_timeout",
            "recovery_time",
            "recovery_duration",
            "fallback_duration",
            "interval",
        ],
        &["open_for"],
        "write `open_for: {base: 10s}` for how long it stays open; when a call is too slow says `failure: {slow_call: 2s}`",
    ),
    (
        &["trip", "open_for"],
        &["max_connections", "max_requests", "max_pending_requests", "max_retries"],
        &[],
        "that is no breaker here: write `limits: {in_flight_max: …}` and `pool: {connections_max: …}` in the upstream",
    ),
    (
        &["in_flight_max", "adaptive"],
        &["max_requests", "max_concurrency", "concurrency", "max_in_flight"],
        &["in_flight_max"],
        "",
    ),
    (
        &["in_flight_max", "adaptive"],
        &["max_connections", "max_conns", "connections_max"],
        &[],
        "write `pool: {connections_max: …}` in the upstream",
    ),
    (&["in_flight_max", "adaptive"], &["max_pending_requests", "max_queue", "queue", "backlog"], &["queue_max"], ""),
    (
        &["connections_max", "age_max"],
        &["max", "size", "max_size", "max_connections", "max_conns"],
        &["connections_max"],
        "",
    ),
    (
        &["connections_max", "age_max"],
        &["max_idle", "idle", "idle_timeout", "keepalive_timeout", "max_idle_conns"],
        &[],
        "how long connections wait for the next request says `timeouts: {idle: …}` in the upstream",
    ),
    (
        &["consecutive", "share_max"],
        &["max_ejection_percent", "max_percent"],
        &["share_max"],
        "write a share of 1: `share_max: 0.5`",
    ),
    (
        &["percentile", "floor"],
        &["delay", "after", "timeout", "wait", "min"],
        &["floor"],
        "write `floor: 100ms`: sooner than this no second endpoint is asked",
    ),
    (
        &["url", "prefix"],
        &["host", "hosts", "addr", "address", "addresses", "port", "server", "endpoint", "db", "database"],
        &["url"],
        "write `url: \"redis://HOST:6379\"`, with `/1` behind it for another database",
    ),
    (&["memory", "redis"], &["size", "max_size", "limit", "max_memory", "capacity"], &["memory"], ""),
    (&["servers", "ttl_min"], &["resolver", "resolvers", "nameservers", "server"], &["servers"], ""),
    (&["delay", "strict"], &["grace", "grace_period", "period", "wait"], &["timeout"], ""),
    (
        &["server_name", "insecure_skip_verify"],
        &["skip_verify", "insecure", "verify", "ssl_verify", "tls_skip_verify"],
        &[],
        "certificates are checked unless `insecure_skip_verify: true`",
    ),
    (&["server_name", "insecure_skip_verify"], &["sni", "servername", "hostname"], &["server_name"], ""),
    (&["server_name", "insecure_skip_verify"], &["ca_file", "ca_cert", "root_ca", "trusted_ca"], &["ca"], ""),
    (
        &["first_byte", "body_idle"],
        &["read", "response", "send", "request", "write"],
        &[],
        "`first_byte` bounds the wait for an answer, `body_idle` a pause within it",
    ),
];
