//! Keys of other proxies about routes, actions, policies and providers.

use super::Row;

const RETRY: &str = "whether it is tried again is a matter of the upstream: `retry: {attempts: 2}` in `upstreams`";
const WEIGHTS: &str = "a route has one upstream; it may have several `endpoints`, and `weights` for them";
const BODY: &str = "write `policies: {body_limit: {max: 1MiB}}`";
const FILES: &str = "armiger serves no files: name an upstream that does, `proxy: {upstream: NAME}`";
const EDITS: &str = "headers are set and removed by the policy: `policies: {headers: {request: {set: {…}}}}`";
const STRIP: &str = "write `proxy: {upstream: NAME, rewrite: \"/{rest}\"}`, and take the rest by name: `match: {path: \"/api/{rest...}\"}`";
const ORDER: &str = "remove it: the most specific match wins, whatever the order";
const CALLER: &str = "who calls is proved to the policy: `policies: {identity: {providers: [NAME]}}`";
const OFF: &str = "write `off` in place of the settings, or leave the policy out";
const PROXY: &str = "write `proxy: {upstream: NAME}`";

pub(super) const KEYS: &[Row] = &[
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
