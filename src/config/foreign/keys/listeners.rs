//! Keys of other proxies about the file itself, listeners, and what operators ask.

use super::Row;

const POLICIES: &str =
    "what a route demands stands under its `policies`, or for all routes under `policies` of `defaults`";
const TLS: &str = "a listener speaks TLS where it has certificates: `tls: {certificates: [{certificate: …, key: …}]}`";
const VERSIONS: &str = "remove it: a listener speaks HTTP/1.1 and HTTP/2";

pub(super) const KEYS: &[Row] = &[
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
];
