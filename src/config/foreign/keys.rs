//! Keys of other proxies, and what the same is called here.

/// What is meant by a key of another proxy.
pub(crate) struct Meant {
    /// The keys here that it stands for: that they are missing follows.
    pub(crate) keys: &'static [&'static str],
    /// What to do.
    pub(crate) hint: String,
}

/// A row: keys by which a mapping is known, words of others, the keys here that they stand for, and what to do; empty where it
/// is to write that key.
type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], &'static str);

const RETRY: &str = "whether it is tried again is a matter of the upstream: `retry: {attempts: 2}` in `upstreams`";
const POLICIES: &str =
    "what a route demands stands under its `policies`, or for all routes under `policies` of `defaults`";
const TLS: &str = "a listener speaks TLS where it has certificates: `tls: {certificates: [{certificate: …, key: …}]}`";
const VERSIONS: &str = "remove it: a listener speaks HTTP/1.1 and HTTP/2";
const WEIGHTS: &str = "a route has one upstream; it may have several `endpoints`, and `weights` for them";
const BODY: &str = "write `policies: {body_limit: {max: 1MiB}}`";
const FILES: &str = "armiger serves no files: name an upstream that does, `proxy: {upstream: NAME}`";
const EDITS: &str = "headers are set and removed by the policy: `policies: {headers: {request: {set: {…}}}}`";
const STRIP: &str = "write `proxy: {upstream: NAME, rewrite: \"/{rest}\"}`, and take the rest by name: `match: {path: \"/api/{rest...}\"}`";
const ORDER: &str = "remove it: the most specific match wins, whatever the order";
const CALLER: &str = "who calls is proved to the policy: `policies: {identity: {providers: [NAME]}}`";
const HOST: &str =
    "which `Host` is sent on is a matter of the route: `proxy: {upstream: NAME, host: upstream}`, or `preserve`";
const OFF: &str = "write `off` in place of the settings, or leave the policy out";
const EJECTION: &str = "an endpoint that fails is left out for a while by `ejection: {consecutive: 3, base: 10s}`";
const RESOLVE: &str =
    "remove it: `http://name:port` is looked up, and `dns:http://name:port` is an endpoint for each address of a name";
const PROXY: &str = "write `proxy: {upstream: NAME}`";

const KEYS: &[Row] = &[
    // The file.
    (
        &["listeners", "routes", "defaults"],
        &["server", "servers", "http", "https", "static_resources", "frontends", "frontend", "entrypoints", "apps"],
        &["listeners", "routes", "upstreams"],
        "this file has `listeners`, `upstreams` and `routes` at its top",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["listen", "bind", "port", "address"],
        &["listeners"],
        "write `listeners: [{name: http, address: 127.0.0.1:8080}]`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["backends", "backend", "clusters", "cluster", "services", "service", "targets", "origins"],
        &["upstreams"],
        "",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["server_name", "server_names", "hosts", "domains"],
        &[],
        "which hosts a route answers for stands under its match: `match: {hosts: [shop.example.com], path: /}`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["locations", "location", "rules", "routers", "paths", "virtual_hosts", "ingress", "handlers"],
        &["routes"],
        "",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["policies", "policy", "middlewares", "middleware", "filters", "plugins"],
        &[],
        POLICIES,
    ),
    (
        &["listeners", "routes", "defaults"],
        &["tls", "ssl", "certificates", "ssl_certificate", "ssl_certificate_key"],
        &[],
        "TLS is a matter of each listener: `tls: {certificates: [{certificate: …, key: …}]}`; of an upstream, `tls` and `https://`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["timeout", "timeouts"],
        &[],
        "`timeout` of a route, or of `defaults` for all, bounds the whole; other times stand under `timeouts` of listeners and upstreams",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["logging", "logs", "error_log", "log_level", "accesslog"],
        &[],
        "write `log: {level: info}` for messages, `access_log: {format: json}` for a line per request",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["metrics", "prometheus", "stats", "telemetry", "monitoring"],
        &[],
        "remove it: `/metrics` is at the address of `admin`, and of `probes`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["tracing", "opentelemetry", "otlp", "zipkin", "jaeger"],
        &[],
        "remove it: `traceparent` is passed on, and the log has its ids; armiger sends no spans",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["worker_processes", "workers", "threads", "worker_threads", "nbthread", "concurrency"],
        &[],
        "it stands on the command line: `armiger run --workers N`; by default there is one for each processor",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["resolver", "resolvers", "nameservers"],
        &["dns"],
        "write `dns: {servers: [10.0.0.53]}`; by default it is as the machine says",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["shutdown", "graceful_shutdown", "grace_period"],
        &["drain"],
        "write `drain: {timeout: 25s}`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["version", "_format_version", "schema", "user", "global", "events", "pid", "daemon"],
        &[],
        "remove it: armiger has no such key",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["apiVersion", "kind", "metadata", "spec", "data"],
        &[],
        "this is a manifest of Kubernetes: the configuration is what stands in the `data` of a ConfigMap",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["http_port", "https_port", "admin_listen", "proxy_listen"],
        &["listeners"],
        "write `listeners: [{name: http, address: 127.0.0.1:8080}]`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["endpoints"],
        &["routes", "upstreams"],
        "back ends stand in `upstreams: {NAME: {endpoints: […]}}`, paths in `routes`",
    ),
    (
        &["listeners", "routes", "defaults"],
        &["jwt", "auth", "authentication", "consumers", "providers", "issuers"],
        &["identity"],
        "who vouches for callers stands in `identity: {NAME: {jwt: {…}}}`",
    ),
    // A listener.
    (&["address", "trusted_proxies"], &["listen", "bind", "port", "addr", "socket", "host"], &["address"], ""),
    (
        &["address", "trusted_proxies"],
        &["protocol", "ssl", "https", "certificates", "certs", "tls_context", "scheme"],
        &["tls"],
        TLS,
    ),
    (&["address", "trusted_proxies"], &["http2", "h2", "http_version", "codec_type", "mode", "type"], &[], VERSIONS),
    (
        &["address", "trusted_proxies"],
        &["server_name", "server_names", "domains", "hosts", "default_backend", "routes", "filter_chains", "locations"],
        &[],
        "a listener says only where clients connect: what becomes of requests stands in `routes`, hosts under their `match`",
    ),
    (
        &["address", "trusted_proxies"],
        &["set_real_ip_from", "trusted_ips", "forwarded_headers", "real_ip", "xff_num_trusted_hops"],
        &["trusted_proxies"],
        "",
    ),
    (
        &["address", "trusted_proxies"],
        &["client_max_body_size", "max_body_size", "body_size"],
        &[],
        "write `limits: {body_max: 10MiB}`",
    ),
    // Operators.
    (
        &["address", "token"],
        &["listen", "bind", "port", "addr", "host", "socket"],
        &["address"],
        "write `address: 127.0.0.1:9901`",
    ),
    (
        &["address", "token"],
        &["password", "auth", "api_key", "secret", "user", "username"],
        &["token"],
        "write `token: \"${env:NAME}\"`",
    ),
    (
        &["address", "token"],
        &["enabled", "enable"],
        &[],
        "remove it: without the section there is an admin listener on loopback",
    ),
    (&["level"], &["file", "path", "output"], &[], "remove it: messages go to standard error"),
    (
        &["certificates", "client_auth"],
        &["cert", "certificate", "key", "cert_file", "key_file", "private_key"],
        &["certificates"],
        "write `certificates: [{certificate: …, key: …}]`",
    ),
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
    // A route.
    (
        &["match", "proxy", "policies"],
        &["location", "rule", "uri", "url", "paths", "prefix", "when", "if"],
        &["match"],
        "write `match: {path: /orders}`, or `match: {path_prefix: /api}` for all below",
    ),
    (
        &["match", "proxy", "policies"],
        &[
            "proxy_pass",
            "backend",
            "upstream",
            "cluster",
            "service",
            "route",
            "to",
            "forward",
            "target",
            "reverse_proxy",
        ],
        &["proxy"],
        PROXY,
    ),
    (
        &["match", "respond", "policies"],
        &["return", "response", "static", "direct_response", "body", "status"],
        &["respond"],
        "write `respond: {status: 200, body: ok}`",
    ),
    (&["match", "redirect", "policies"], &["rewrite"], &[], "write `proxy: {upstream: NAME, rewrite: /new}`"),
    (&["match", "redirect", "policies"], &["strip_path", "strip_prefix", "path_rewrite", "prefix_rewrite"], &[], STRIP),
    (&["match", "redirect", "policies"], &["priority", "order", "weight", "precedence"], &[], ORDER),
    (&["match", "redirect", "policies"], &["auth", "jwt", "authentication", "auth_request", "auth_basic"], &[], CALLER),
    (&["match", "redirect", "policies"], &["file_server", "root", "alias", "try_files", "index"], &[], FILES),
    (
        &["match", "redirect", "policies"],
        &["max_body_size", "client_max_body_size", "body_size", "request_body"],
        &[],
        BODY,
    ),
    (&["match", "redirect", "policies"], &["endpoint"], &["match"], "write `match: {path: /orders}`"),
    (
        &["match", "redirect", "policies"],
        &["method", "host"],
        &["match"],
        "write `match: {path: …, methods: [GET], hosts: [a.example.com]}`",
    ),
    (
        &["match", "redirect", "policies"],
        &["enabled", "disabled", "active"],
        &[],
        "remove it, and the route with it if it is to be off",
    ),
    (
        &["match", "redirect", "policies"],
        &["headers", "set_headers", "add_header", "proxy_set_header", "request_headers", "response_headers"],
        &["match", "policies"],
        "headers that a request must have go under `match`; they are set and removed by `policies: {headers: {request: {set: {…}}}}`",
    ),
    (
        &["match", "policies"],
        &["policy", "middlewares", "middleware", "filters", "filter", "plugins"],
        &["policies"],
        "",
    ),
    (&["match", "proxy", "policies"], &["retry", "retries", "num_retries", "retry_policy"], &[], RETRY),
    (
        &["match", "policies", "timeout"],
        &["timeout_ms", "timeouts", "request_timeout"],
        &["timeout"],
        "write `timeout: 5s`",
    ),
    (&["path_prefix", "path_regex"], &["prefix", "starts_with", "begins_with"], &["path_prefix"], ""),
    (&["path_prefix", "path_regex"], &["regex", "safe_regex", "path_re", "re"], &["path_regex"], ""),
    (&["path_prefix", "path_regex"], &["uri", "url", "exact", "location"], &["path"], ""),
    (&["path_prefix", "hosts"], &["server_name", "domain", "domains", "vhost", "sni"], &["hosts"], ""),
    // Actions.
    (&["upstream", "rewrite"], &["backend", "cluster", "service", "target", "to", "url", "pass"], &["upstream"], ""),
    (
        &["upstream", "rewrite"],
        &["prefix_rewrite", "strip_prefix", "strip_path", "regex_rewrite", "path", "replace_path"],
        &["rewrite"],
        "write `rewrite: \"/new/{rest}\"`, with the names of the route's path in braces",
    ),
    (&["upstream", "rewrite"], &["set_host", "preserve_host", "host_header", "host_rewrite"], &["host"], ""),
    (&["upstream", "rewrite"], &["retry", "retries", "num_retries"], &[], RETRY),
    (
        &["upstream", "rewrite"],
        &["upstreams", "weighted_clusters", "clusters", "backends", "weights", "servers"],
        &["upstream"],
        WEIGHTS,
    ),
    (
        &["upstream", "rewrite"],
        &["headers", "set_headers", "request_headers", "header_up", "add_headers", "proxy_set_header"],
        &[],
        EDITS,
    ),
    (&["to", "status"], &["url", "location", "target", "path"], &["to"], ""),
    (
        &["to", "status"],
        &["scheme", "https", "host", "https_redirect", "scheme_redirect"],
        &["to"],
        "write `to: https://HOST/{rest}`, with the names of the route's path in braces",
    ),
    (&["to", "status"], &["code", "permanent", "status_code"], &[], "write `status: 308`, or `307` for now only"),
    (&["body", "content_type"], &["code", "status_code"], &["status"], ""),
    (&["body", "content_type"], &["text", "content", "string"], &["body"], ""),
    (&["body", "content_type"], &["file", "filename", "path"], &["body"], "write `body: \"${file:/path}\"`"),
    (
        &["parts", "merge"],
        &["backends", "backend", "endpoints", "requests", "calls"],
        &["parts"],
        "write `parts: {NAME: {upstream: NAME, path: /a}}`",
    ),
    (&["upstream", "pick"], &["depends_on", "needs", "requires"], &["after"], ""),
    (&["upstream", "pick"], &["url", "uri", "endpoint"], &["path"], ""),
    // Policies.
    (
        &["cors", "rate_limit"],
        &["jwt", "auth", "authentication", "oauth", "oidc", "basic_auth", "authn"],
        &["identity"],
        "who calls is proved to the policy `identity`",
    ),
    (&["cors", "rate_limit"], &["gzip", "compression", "brotli"], &["compress"], ""),
    (
        &["cors", "rate_limit"],
        &["acl", "allow", "deny", "ip_whitelist", "ip_allow_list", "whitelist"],
        &["ip_filter"],
        "",
    ),
    (
        &["cors", "rate_limit"],
        &["breaker", "circuit_breaker", "outlier_detection", "timeouts"],
        &[],
        "it is a matter of the upstream: `breaker: {trip: {consecutive: 5}}`, `ejection`, `timeouts` in `upstreams`",
    ),
    (
        &["cors", "rate_limit"],
        &["strip_prefix", "add_prefix", "replace_path", "rewrite", "url_rewrite", "replace_path_regex"],
        &[],
        "paths are changed by the action: `proxy: {upstream: NAME, rewrite: \"/new/{rest}\"}`",
    ),
    (
        &["cors", "rate_limit"],
        &["redirect_scheme", "redirect_regex", "redirect"],
        &[],
        "write `redirect: {to: …}` as the action of a route",
    ),
    (
        &["cors", "rate_limit"],
        &["request_transformer", "response_transformer", "header", "set_headers", "custom_headers", "security_headers"],
        &["headers"],
        "write `headers: {request: {set: {…}}}`, or `response`",
    ),
    (
        &["cors", "rate_limit"],
        &["key_auth", "api_key", "api_keys", "apikey", "hmac_auth", "openid_connect"],
        &["identity"],
        "who calls is proved to the policy `identity`, by a provider of the section `identity`: `api_keys`, `jwt`, `introspection`",
    ),
    (
        &["cors", "rate_limit"],
        &["forward_auth", "ext_authz", "external_auth", "auth_request", "opa"],
        &["identity"],
        "armiger asks no other service whether it may: callers are proved by `identity`, and `rules` decide",
    ),
    (
        &["cors", "rate_limit"],
        &["request_size_limiting", "buffering", "max_body_size", "body_size", "limits"],
        &["body_limit"],
        "",
    ),
    (&["cors", "rate_limit"], &["limit_conn", "in_flight_req", "max_connections", "concurrency"], &["in_flight"], ""),
    (&["cors", "rate_limit"], &["retry", "retries"], &[], RETRY),
    (&["cors", "rate_limit"], &["proxy_cache", "http_cache"], &["cache"], ""),
    (
        &["allow", "deny", "mode"],
        &["whitelist", "allowlist", "source_range", "permit", "only", "cidrs", "networks"],
        &["allow"],
        "",
    ),
    (&["allow", "deny", "mode"], &["blacklist", "denylist", "block", "blocklist"], &["deny"], ""),
    (
        &["codings", "types"],
        &["algorithms", "encodings", "encode", "algorithm", "encoding", "gzip", "brotli"],
        &["codings"],
        "write `codings: [br, zstd, gzip]`",
    ),
    (
        &["codings", "types"],
        &["min_length", "min_size", "minimum_length", "min_content_length", "gzip_min_length"],
        &["min"],
        "",
    ),
    (
        &["codings", "types"],
        &["level", "compression_level", "quality"],
        &[],
        "remove it: the level is armiger's own choice",
    ),
    (&["codings", "types"], &["content_type", "content_types", "mime_types", "gzip_types"], &["types"], ""),
    (
        &["ttl", "stale_if_error"],
        &["key", "cache_key", "keys"],
        &[],
        "method, host, path and query are always the key; `vary_by` adds to it, and `query` says what of the query counts",
    ),
    (
        &["ttl", "stale_if_error"],
        &["zone", "valid", "max_age", "expires", "expiry", "ttl_default", "duration"],
        &["ttl"],
        "write `ttl: {default: 60s}`; what an answer says of itself comes first",
    ),
    (
        &["ttl", "stale_if_error"],
        &["methods", "statuses", "status"],
        &[],
        "answers to GET and HEAD are stored; `ttl: {404: 2s}` says how long by status",
    ),
    (&["rate", "burst"], &["second", "minute", "hour"], &["rate"], "write `rate: 100/s`, `100/m` or `100/h`"),
    (&["rate", "burst"], &["policy", "redis", "distributed"], &["store"], ""),
    (&["format", "sample", "slow"], &["json", "type", "log_format"], &["format"], ""),
    (&["cors", "rate_limit"], &["rbac", "authorization", "authz"], &["roles"], ""),
    (&["cors", "rate_limit"], &["throttle", "ratelimiting", "limit_req"], &["rate_limit"], ""),
    (
        &["rate", "burst"],
        &["rps", "limit", "requests", "requests_per_second", "requests_per_unit", "average", "period", "unit"],
        &["rate"],
        "write `rate: 100/s`",
    ),
    (&["rate", "burst"], &["key", "keys", "per", "descriptors", "zone"], &["by"], "write `by: [client_ip]`"),
    (&["origins", "credentials"], &["expose_headers", "exposed_headers"], &["expose"], ""),
    (
        &["format", "sample", "slow"],
        &["path", "file", "output"],
        &[],
        "remove it: the access log goes to standard output",
    ),
    (&["format", "sample", "slow"], &["level"], &[], "`level` is a key of `log`"),
    (
        &["allow", "deny", "mode"],
        &["if", "when", "expression", "condition", "expr"],
        &["allow", "deny"],
        "write the condition under `allow` or `deny`",
    ),
    (&["mode"], &["enabled", "enable", "disabled", "active"], &[], OFF),
    // Who vouches.
    (
        &["jwt", "mtls"],
        &["oidc", "oauth", "oauth2", "openid", "openid_connect", "jwks", "keycloak", "auth0"],
        &["jwt"],
        "write `jwt: {issuer: URL, audiences: […], keys: {discover: true}}`",
    ),
    (
        &["jwt", "mtls"],
        &["basic", "basic_auth", "users", "ldap", "htpasswd"],
        &["jwt"],
        "armiger knows no passwords: give callers keys (`api_keys`), or tokens (`jwt`)",
    ),
    (
        &["jwt", "mtls"],
        &["type", "kind"],
        &["jwt", "api_keys", "introspection", "mtls"],
        "its settings stand under the kind: `jwt: {issuer: …, keys: …}`",
    ),
    (&["jwt", "mtls"], &["api_key", "key_auth"], &["api_keys"], "write `api_keys: {keys: [{hash: …, subject: …}]}`"),
    (
        &["issuer", "keys", "leeway"],
        &["jwks_uri", "jwk_uri", "remote_jwks", "local_jwks", "jwks_file", "public_key", "jwk_url"],
        &["keys"],
        "write `keys: {jwks_url: URL}`, or `keys: {discover: true}` to ask the issuer for it",
    ),
    (
        &["jwks_url", "discover"],
        &["jwks_uri", "remote_jwks", "uri", "url", "jwk_url"],
        &["jwks_url"],
        "write `jwks_url: https://…`",
    ),
];

/// What a key is most likely that nobody knows, in a mapping with these keys: a name, which belongs deeper.
pub(crate) fn name(known: &[&str]) -> Option<Meant> {
    let has = |keys: &[&str]| keys.iter().all(|key| known.contains(key));
    if has(&["rename", "remove", "set", "add"]) {
        Some(Meant { keys: &["set"], hint: "write `set: {NAME: VALUE}` for a header".to_owned() })
    } else if has(&["request", "response", "claim_max"]) {
        Some(Meant {
            keys: &["request"],
            hint: "write `request: {set: {NAME: VALUE}}` for a header, or `response`".to_owned(),
        })
    } else {
        None
    }
}

/// Keys of a route that are for its `proxy`.
const SENDS: [&str; 2] = ["rewrite", "websocket"];
/// What else a route may do.
const ACTIONS: [&str; 5] = ["respond", "redirect", "aggregate", "batch", "saga_in_memory"];

/// What a key means that is none of a mapping with these keys. `is_free`: whether the mapping lacks a key.
pub(crate) fn key(name: &str, known: &[&str], is_free: impl Fn(&str) -> bool) -> Option<Meant> {
    let name = plain(name);
    let row = KEYS.iter().find(|(by, words, ..)| {
        by.iter().all(|key| known.contains(key)) && words.iter().any(|word| plain(word) == name)
    });
    let (_, _, keys, hint) = row?;
    let other = ACTIONS.iter().find(|action| !is_free(action));
    let hint = match keys {
        // Of a route that does something already.
        _ if SENDS.contains(&name.as_str()) && known.contains(&"redirect") && !is_free("proxy") => {
            format!("`{name}` goes under `proxy`")
        }
        _ if SENDS.contains(&name.as_str()) && known.contains(&"redirect") && other.is_some() => {
            let other = other.copied().unwrap_or_default();
            format!("remove it: it is for `proxy`, and this route has `{other}`, which sends no path on")
        }
        [key, ..] if hint.is_empty() && is_free(key) => format!("did you mean `{key}`?"),
        [key, ..] if hint.is_empty() => format!("`{key}` is what this is called here"),
        [key] if !is_free(key) => format!("remove it, or move it into `{key}`, which stands here already; {hint}"),
        _ => (*hint).to_owned(),
    };
    Some(Meant { keys, hint })
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_proxies_are_known_where_they_may_stand() {
        let upstream = ["endpoints", "timeouts", "breaker", "pool", "retry"];
        let meant = |name: &str, is_free: bool| key(name, &upstream, |_| is_free).map(|meant| (meant.keys, meant.hint));
        assert_eq!(meant("servers", true), Some((&["endpoints"][..], "did you mean `endpoints`?".to_owned())));
        assert_eq!(meant("servers", false).unwrap().1, "`endpoints` is what this is called here");
        assert!(meant("connectTimeout", true).unwrap().1.contains("`connect`"));
        assert!(meant("banana", true).is_none());
        assert!(key("servers", &["match", "proxy"], |_| true).is_none());
    }

    /// Of two rows that are for the same mapping, or one for what the other is for too, the first is taken: a word in both would
    /// have a remedy that nobody is told.
    #[test]
    fn no_row_hides_a_word_of_another() {
        let is_within = |less: &[&str], more: &[&str]| less.iter().all(|key| more.contains(key));
        for (at, (by, words, ..)) in KEYS.iter().enumerate() {
            for (other, more, ..) in &KEYS[at + 1..] {
                let shared = words.iter().find(|word| more.iter().any(|other| plain(other) == plain(word)));
                assert!(shared.is_none() || !is_within(by, other), "{shared:?} of {by:?} and {other:?}");
            }
        }
    }
}
