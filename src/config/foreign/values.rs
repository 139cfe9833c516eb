//! Values of other proxies, and what the same is called here: those that are one of a few, and those that stand alone where keys
//! and values are asked for.

use super::quoted;

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
    (
        "least_requests",
        &["type", "policy", "strategy", "algorithm", "method", "name"],
        "write the word alone: `balance: least_requests`, `round_robin` or `random`; or `balance: {hash: client_address}`",
    ),
    ("client_address", &["client_ip", "ip", "source_ip", "remote_addr", "source"], "did you mean `client_address`?"),
    ("RS256", &["none"], "a token without a signature proves nothing: name the algorithms that your issuer signs with"),
    ("json", &["clf", "common", "apache", "nginx", "text"], "did you mean `combined`?"),
    (
        "warn",
        &["verbose", "notice", "warning", "fatal", "critical", "crit", "off"],
        "write `error`, `warn`, `info`, `debug` or `trace`",
    ),
    (
        "shadow",
        &[
            "dry_run",
            "dryrun",
            "dry-run",
            "report_only",
            "report-only",
            "log",
            "monitor",
            "audit",
            "detect",
            "permissive",
        ],
        "did you mean `shadow`?",
    ),
    ("shadow", &["on", "true", "block", "deny", "enabled", "enforced", "strict"], "did you mean `enforce`?"),
    ("br", &["brotli"], "did you mean `br`?"),
    ("br", &["deflate"], "browsers that take `deflate` take `gzip` too"),
    ("preserve", &["$host", "$http_host", "{host}", "true", "pass"], "did you mean `preserve`?"),
    ("upstream", &["$proxy_host", "false", "auto"], "did you mean `upstream`?"),
];

/// What to do about a value that is none of these.
pub(crate) fn value(name: &str, known: &[&str]) -> Option<String> {
    if known.contains(&"literal") && name.contains('.') {
        return Some(format!("write `{{literal: {}}}`", quoted(name)));
    }
    let name = name.to_lowercase();
    let row = VALUES.iter().find(|(by, words, _)| known.contains(by) && words.contains(&name.as_str()));
    row.map(|(.., hint)| (*hint).to_owned())
}

/// A row: keys by which a mapping is known, whether a value is of this kind, and what to do.
type Alone = (&'static [&'static str], fn(&str) -> bool, &'static str);

/// By keys that are known together: what a value that stands alone in place of a mapping of them is most likely. `@`: the value.
const ALONE: &[Alone] = &[
    (
        &["upstream", "rewrite"],
        is_url,
        "write `proxy: {upstream: NAME}`, and the address under `endpoints` in `upstreams`",
    ),
    (&["upstream", "rewrite"], is_name, "write `{upstream: @}`"),
    (&["status", "content_type"], is_number, "write `{status: @}`"),
    (&["status", "content_type"], is_any, "write `{body: @}`"),
    (&["to", "status"], is_any, "write `{to: @}`"),
    (
        &["path", "path_prefix"],
        |text| text.starts_with('/'),
        "write `{path: @}`, or `{path_prefix: @}` for all below too",
    ),
    (&["exact", "regex"], is_any, "write `{exact: @}`"),
    (&["providers", "caller"], is_name, "write `{providers: [@]}`"),
    (&["rate", "burst", "name"], |text| text.contains('/'), "write `[{name: NAME, rate: @}]`"),
    (&["max", "queue", "name"], is_number, "write `[{name: NAME, max: @}]`"),
    (&["max", "mode"], is_size, "write `{max: @}`"),
    (&["max", "mode"], is_any, "write `{max: 1MiB}`"),
    (&["codings", "types"], is_any, "write `{codings: [@]}`, or `{}` for all that armiger knows"),
    (&["attempts", "per_try"], is_number, "write `{attempts: @}`: tries in all, the first included"),
    (&["path", "interval", "rise"], |text| text.starts_with('/'), "write `{path: @}`"),
    (&["path", "interval", "rise"], |text| text == "true", "write `{path: /healthz}`, or whatever is asked for"),
    (&["certificates", "client_auth"], |text| text == "true", "write `{certificates: [{certificate: …, key: …}]}`"),
    (
        &["server_name", "insecure_skip_verify"],
        |text| text == "true",
        "TLS is spoken to endpoints that begin with `https://`; write `{}` or leave `tls` out",
    ),
    (&["delay", "strict"], is_time, "write `{timeout: @}`"),
    (&["level"], is_name, "write `{level: @}`"),
    (&["address"], is_number, "write `{address: 127.0.0.1:@}`"),
    (&["address", "token"], is_number, "write `{address: 127.0.0.1:@}`"),
    (&["address"], |text| text.parse::<std::net::SocketAddr>().is_ok(), "write `{address: @}`"),
    (&["format", "sample"], |text| matches!(text, "off" | "false" | "no"), "write `{format: off}`"),
    (&["format", "sample"], |text| matches!(text, "on" | "true" | "yes"), "write `{format: json}`, or leave it out"),
    (
        &["format", "sample"],
        |text| text.starts_with('/'),
        "the access log goes to standard output; write `{format: json}`",
    ),
    (&["format", "sample"], is_name, "write `{format: @}`"),
    (&["from"], |text| text == "true", "write `{from: [10.0.0.0/8]}`, with the networks of those who send the header"),
    (&["url", "prefix"], is_any, "write `{url: …}`"),
    (&["ttl_min", "servers"], is_name, "write `{servers: [@]}`"),
    (&["redis", "memory"], is_size, "write `{memory: @}`"),
    (&["redis", "memory"], is_url, "write `{redis: {url: …}}`"),
    (&["allow", "deny", "name"], is_any, "write `{name: NAME, allow: …}`, with the expression"),
    (&["trip", "open_for"], is_number, "write `{trip: {consecutive: @}}`"),
    (&["any", "all", "mode"], is_name, "write `{any: [@]}`"),
    (&["mode", "on_conflict"], is_name, "write `{mode: @}`"),
];

/// What to write where a mapping with these keys is asked for and a value stands alone.
pub(crate) fn alone(text: &str, known: &[&str]) -> Option<String> {
    let fits = |(by, is_it, _): &&Alone| {
        // Of one key, it is the only one.
        by.iter().all(|key| known.contains(key)) && (by.len() > 1 || known.len() == 1) && is_it(text)
    };
    ALONE.iter().find(fits).map(|(.., hint)| hint.replace('@', &quoted(text)))
}

/// By keys that are known together: the one that a list in place of a mapping of them is most likely.
const LISTED: &[(&[&str], &str)] = &[
    (&["allow", "deny", "mode"], "allow"),
    (&["any", "all", "mode"], "any"),
    (&["providers", "caller"], "providers"),
    (&["codings", "types"], "codings"),
    (&["origins", "credentials"], "origins"),
    (&["certificates", "client_auth"], "certificates"),
    (&["ttl_min", "servers"], "servers"),
    (&["header", "bearer", "keys"], "keys"),
];

/// The key of a mapping with these keys that a list in its place goes under.
pub(crate) fn listed(known: &[&str]) -> Option<&'static str> {
    // A rule has `allow` and `deny` too, and they take no list.
    let fits = |(by, _): &&(&[&str], &str)| by.iter().all(|key| known.contains(key)) && !known.contains(&"name");
    LISTED.iter().find(fits).map(|(_, key)| *key)
}

/// What to do about a list or mapping that stands under a key which takes a single value.
pub(crate) fn whole(key: &str) -> Option<&'static str> {
    Some(match key {
        "endpoints" => "write each as one text, `http://HOST:PORT`; weights stand under `weights`, beside `endpoints`",
        "address" => "write it as one text: `127.0.0.1:8080`",
        "upstream" => "name one upstream; it may have several `endpoints`, and `weights` for them",
        "path" | "path_prefix" => "write a route for each path, or one `path_regex` for all: `/(a|b)`",
        "rewrite" => {
            "write the new path as one text: `rewrite: \"/new/{rest}\"`, with the names of the route's path in braces"
        }
        "timeout" => "write one time, for the whole exchange; others stand under `timeouts` of an upstream",
        "rate" => "write it as one text: `100/s`",
        "to" => "write where to as one text: `https://HOST/{rest}`, with the names of the route's path in braces",
        _ => return None,
    })
}

/// What to write where a mapping of names and values is asked for under this key and a value stands alone.
pub(crate) fn by_name(key: &str, text: &str) -> Option<String> {
    match key {
        "ttl" => {
            Some(format!("write `{{default: {}}}`", if is_number(text) { format!("{text}s") } else { quoted(text) }))
        }
        _ => None,
    }
}

fn is_any(_: &str) -> bool {
    true
}

fn is_url(text: &str) -> bool {
    text.contains("://")
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !matches!(text, "true" | "false" | "yes" | "no" | "on" | "off")
        && !text.contains(char::is_whitespace)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_time(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && text.ends_with(['s', 'm', 'h'])
}

fn is_size(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && text.ends_with('B')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_stands_alone_is_told_its_key() {
        for (text, known, expected) in [
            ("app", &["upstream", "rewrite", "host"][..], "write `{upstream: app}`"),
            ("404", &["status", "body", "content_type"], "write `{status: 404}`"),
            ("a: b", &["status", "body", "content_type"], "write `{body: \"a: b\"}`"),
            ("9901", &["address"], "write `{address: 127.0.0.1:9901}`"),
            ("read", &["any", "all", "mode"], "write `{any: [read]}`"),
            ("deep", &["mode", "on_conflict"], "write `{mode: deep}`"),
        ] {
            assert_eq!(alone(text, known).as_deref(), Some(expected));
        }
        assert_eq!(alone("x", &["address", "level"]), None);
        assert_eq!(
            (listed(&["allow", "deny", "mode"]), listed(&["name", "allow", "deny", "mode"])),
            (Some("allow"), None)
        );
        assert!(value("http2", &["http1", "h2c", "h2"]).unwrap().contains("h2c"));
        assert!(value("http2", &["json"]).is_none());
        assert_eq!(value("a.test", &["preserve", "literal"]).as_deref(), Some("write `{literal: a.test}`"));
    }
}
