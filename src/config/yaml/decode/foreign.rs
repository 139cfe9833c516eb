//! Words of other proxies, and what the same is called here.

/// What is meant by a key of another proxy.
pub(super) struct Meant {
    /// The keys here that it stands for: that they are missing follows.
    pub(super) keys: &'static [&'static str],
    /// What to do.
    pub(super) hint: String,
}

/// A row: keys by which a mapping is known, words of others, the keys here that they stand for, and what to do; empty where it
/// is to write that key.
type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], &'static str);

const RETRY: &str = "whether it is tried again is a matter of the upstream: `retry: {attempts: 2}` in `upstreams`";
const POLICIES: &str =
    "what a route demands stands under its `policies`, or for all routes under `policies` of `defaults`";
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
    // A listener.
    (&["address", "trusted_proxies"], &["listen", "bind", "port", "addr", "socket", "host"], &["address"], ""),
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
        &["max_connections", "connections_max", "keepalive", "connection_pool", "max_conns", "max_fails"],
        &[],
        "write `pool: {connections_max: …}`; requests at once are bounded by `limits: {in_flight_max: …}`",
    ),
    (&["endpoints", "breaker"], &["circuit_breaker", "circuit_breakers"], &["breaker"], ""),
    (&["endpoints", "ejection"], &["outlier_detection", "passive_health"], &["ejection"], ""),
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
    (&["to", "status"], &["url", "location", "target", "path"], &["to"], ""),
    (&["to", "status"], &["code", "permanent", "status_code"], &[], "write `status: 308`, or `307` for now only"),
    (&["body", "content_type"], &["code", "status_code"], &["status"], ""),
    (&["body", "content_type"], &["text", "content", "string"], &["body"], ""),
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
        &[],
        "write the condition under `allow` or `deny`",
    ),
];

/// What a key means that is none of a mapping with these keys. `is_free`: whether the mapping lacks a key.
pub(super) fn key(name: &str, known: &[&str], is_free: impl Fn(&str) -> bool) -> Option<Meant> {
    let name = plain(name);
    let row = KEYS.iter().find(|(by, words, ..)| {
        by.iter().all(|key| known.contains(key)) && words.iter().any(|word| plain(word) == name)
    });
    let (_, _, keys, hint) = row?;
    let hint = match keys {
        [key, ..] if hint.is_empty() && is_free(key) => format!("did you mean `{key}`?"),
        [key, ..] if hint.is_empty() => format!("`{key}` is what this is called here"),
        _ => (*hint).to_owned(),
    };
    Some(Meant { keys, hint })
}

const H2: &str = "write `h2c` for HTTP/2 in plain text, or `h2` for HTTP/2 over TLS";
const LEAST: &str = "did you mean `least_requests`?";

/// By a value that is known: words of others, and what to do.
const VALUES: &[(&str, &[&str], &str)] = &[
    ("h2c", &["http2", "http/2", "http2.0", "http/2.0", "grpc", "h2_prior_knowledge", "2", "h2-prior-knowledge"], H2),
    (
        "h2c",
        &["http", "https", "tls"],
        "whether it is TLS stands before the endpoints, `http://` or `https://`; this is `http1`, `h2c` or `h2`",
    ),
    ("least_requests", &["leastconn", "least_conn", "least_connections", "least_request", "p2c", "ewma"], LEAST),
    (
        "least_requests",
        &["ip_hash", "source", "consistent_hash", "ring_hash", "maglev", "uri"],
        "write `balance: {hash: client_address}`, or `hash: path`",
    ),
    ("client_address", &["client_ip", "ip", "source_ip", "remote_addr", "source"], "did you mean `client_address`?"),
    ("RS256", &["none"], "a token without a signature proves nothing: name the algorithms that your issuer signs with"),
    ("json", &["clf", "common", "apache", "nginx", "text"], "did you mean `combined`?"),
    (
        "warn",
        &["verbose", "notice", "warning", "fatal", "critical", "crit", "off"],
        "write `error`, `warn`, `info`, `debug` or `trace`",
    ),
];

/// What to do about a value that is none of these.
pub(crate) fn value(name: &str, known: &[&str]) -> Option<String> {
    let name = name.to_lowercase();
    let row = VALUES.iter().find(|(by, words, _)| known.contains(by) && words.contains(&name.as_str()));
    row.map(|(.., hint)| (*hint).to_owned())
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
        assert!(value("http2", &["http1", "h2c", "h2"]).unwrap().contains("h2c"));
        assert!(value("http2", &["json"]).is_none());
    }

    #[test]
    fn no_row_stands_twice() {
        for (at, (by, words, ..)) in KEYS.iter().enumerate() {
            for (other, more, ..) in &KEYS[at + 1..] {
                let shared = words.iter().find(|word| more.contains(word) && other == by);
                assert!(shared.is_none(), "{shared:?} of {by:?}");
            }
        }
    }
}
