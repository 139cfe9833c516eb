//! What protects, of the settings that are no policy's. A policy's own stand in its file.

use std::net::SocketAddr;

use crate::config::value::ByteSize;
use crate::policy::guard::{Guard, Weaker, beginnings, exact, names, peers};

const ELSEWHERE: Guard = Guard::at("address", Weaker::When(leaves_loopback), "other machines reach it");
const EVERYWHERE: Guard =
    Guard::at("address", Weaker::When(becomes_any), "it is reached on every address of the machine");

const LISTENER: &[Guard] = &[
    ELSEWHERE,
    EVERYWHERE,
    Guard::at("trusted_proxies", Weaker::Grows(peers), "more machines are believed about who the client is"),
    Guard::at("proxy_protocol.from", Weaker::Grows(peers), "more machines are believed about who the client is"),
    Guard::at("limits.connections_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.headers_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.header_bytes_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.header_value_bytes_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.target_bytes_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.body_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.requests_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.in_flight_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.streams_max", Weaker::Higher, "a higher bound"),
    Guard::at("limits.body_rate_min", Weaker::When(slower), "clients may be slower"),
    Guard::at("limits.handshakes_max", Weaker::Higher, "a higher bound"),
    Guard::at("http2_websocket", Weaker::When(|_, new| new == "true"), "streams may become tunnels"),
    Guard::at("tls", Weaker::Gone, "what clients send can be read on the way"),
    Guard::at("tls.client_auth", Weaker::Gone, "clients are not asked for certificates"),
    Guard::at("tls.client_auth.crl", Weaker::Gone, "certificates that were taken back are believed"),
    Guard::at("tls.client_auth.mode", Weaker::When(|_, new| new == "optional"), "clients need no certificate"),
    Guard::at("tls.min_version", Weaker::When(|_, new| new == "tls1.2"), "an older version is spoken"),
    Guard::at("timeouts.proxy_header", Weaker::Higher, "clients may take longer"),
    Guard::at("timeouts.handshake", Weaker::Higher, "clients may take longer"),
    Guard::at("timeouts.request_headers", Weaker::Higher, "clients may take longer"),
    Guard::at("timeouts.body_idle", Weaker::Higher, "clients may take longer"),
    Guard::at("timeouts.body_rate", Weaker::Higher, "clients may be slower for longer"),
    Guard::at("timeouts.keep_alive", Weaker::Higher, "clients may take longer"),
    Guard::at("via", Weaker::When(|_, new| new == "off"), "requests that come round in a loop are not noticed"),
];

const UPSTREAM: &[Guard] = &[
    Guard::at("tls.insecure_skip_verify", Weaker::When(|_, new| new == "true"), "any certificate is believed"),
    Guard::at("tls.names", Weaker::Grows(names), "more names are believed"),
    Guard::at("third_party", Weaker::When(|_, new| new == "false"), "it sees the credentials of callers"),
];

const ADMIN: &[Guard] = &[ELSEWHERE, EVERYWHERE, Guard::at("token", Weaker::Gone, "nobody is asked for a token")];

const PROBES: &[Guard] = &[ELSEWHERE, EVERYWHERE];

/// Of `identity`. Keys and secrets are not here: whoever changes one in time protects.
const PROVIDER: &[Guard] = &[
    Guard::at("jwt", Weaker::Gone, VOUCHES),
    Guard::at("jwt.issuer", ANOTHER, "somebody else is believed about who calls"),
    Guard::at("jwt.more_issuers", Weaker::Grows(exact), "more issuers are believed about who calls"),
    Guard::at("jwt.audiences", Weaker::Grows(exact), "tokens for other services are accepted"),
    Guard::at("jwt.any_audience", ON, "tokens for any service are accepted"),
    Guard::at("jwt.algorithms", Weaker::Allows(exact), "more algorithms are accepted"),
    Guard::at("jwt.types", Weaker::Grows(names), "more kinds of tokens are accepted"),
    Guard::at("jwt.leeway", Weaker::Higher, "tokens are good for longer"),
    Guard::at("jwt.without_expiry", ON, "tokens are accepted that never end"),
    Guard::at("jwt.max_lifetime", Weaker::Gone, "tokens are good for longer"),
    Guard::at("jwt.max_lifetime", Weaker::Higher, "tokens are good for longer"),
    Guard::at("jwt.max_age", Weaker::Gone, "tokens are good for longer"),
    Guard::at("jwt.max_age", Weaker::Higher, "tokens are good for longer"),
    Guard::at("jwt.required_claims", Weaker::Denies(exact), "tokens need fewer claims"),
    Guard::at("jwt.keys.jwks_url", ANOTHER, "keys come from elsewhere"),
    Guard::at("jwt.keys.discover", ON, "the issuer says whose keys are believed"),
    Guard::at("jwt.keys.insecure", ON, "whoever is on the way may say who calls"),
    Guard::at("jwt.keys.refresh", Weaker::Higher, "keys that were taken back are good for longer"),
    Guard::at("jwt.keys.max_stale", Weaker::Higher, "keys that were taken back are good for longer"),
    Guard::at("jwt.keys.tls.insecure_skip_verify", ON, "whoever is on the way may say who calls"),
    Guard::at("jwt.keys.tls.names", Weaker::Grows(names), "more names are believed"),
    Guard::at("introspection", Weaker::Gone, VOUCHES),
    Guard::at("introspection.url", ANOTHER, "somebody else is believed about who calls"),
    Guard::at("introspection.issuer", ANOTHER, "somebody else is believed about who calls"),
    Guard::at("introspection.issuer", Weaker::Gone, "any issuer is believed about who calls"),
    Guard::at("introspection.audiences", Weaker::Grows(exact), "tokens for other services are accepted"),
    Guard::at("introspection.any_audience", ON, "tokens for any service are accepted"),
    Guard::at("introspection.leeway", Weaker::Higher, "tokens are good for longer"),
    Guard::at("introspection.required_claims", Weaker::Denies(exact), "tokens need fewer claims"),
    Guard::at("introspection.cache_for", Weaker::Higher, "tokens that were taken back are good for longer"),
    Guard::at("introspection.insecure", ON, "whoever is on the way may say who calls"),
    Guard::at("introspection.tls.insecure_skip_verify", ON, "whoever is on the way may say who calls"),
    Guard::at("introspection.tls.names", Weaker::Grows(names), "more names are believed"),
    Guard::at("api_keys", Weaker::Gone, VOUCHES),
    Guard::at("api_keys.keys", Weaker::Entries { lets: "hash", keeps: "" }, "more keys are accepted"),
    Guard::at("mtls", Weaker::Gone, VOUCHES),
    Guard::at("mtls.names", Weaker::Allows(beginnings), "more certificates are accepted"),
];

const VOUCHES: &str = "callers prove in another way who they are";

/// A text is there that was not, or another in its place.
const ANOTHER: Weaker = Weaker::When(|_, new| !new.is_empty());

/// It is switched on.
const ON: Weaker = Weaker::When(|_, new| new == "true");

const ROUTE: &[Guard] = &[
    Guard::at("match.hosts", Weaker::Any, "it takes requests for every host"),
    Guard::at("match.methods", Weaker::Any, "it takes requests of every method"),
    Guard::at("match.headers", Weaker::Any, "it takes requests whatever that header is"),
    Guard::at("match.query", Weaker::Any, "it takes requests whatever that parameter is"),
    Guard::at("match.cookies", Weaker::Any, "it takes requests whatever that cookie is"),
    Guard::at("match.path_allow", Weaker::Grows(names), "paths pass that servers read differently from one another"),
    Guard::at("proxy.mirror.upstream", ANOTHER, "one more service sees requests, and the credentials of callers"),
    Guard::at("aggregate.parts.*.cache.shared_across_users", ON, "callers get the same answers, whoever they are"),
    Guard::at(
        "aggregate.parts.*.cache.vary_by",
        Weaker::Denies(names),
        "callers that differ in it get the same answers",
    ),
];

const INCLUDE: &[Guard] = &[Guard::ordered("")];

/// The guards of a section, by what the report calls it.
pub(super) fn of(kind: &str) -> &'static [Guard] {
    match kind {
        "listener" => LISTENER,
        "upstream" => UPSTREAM,
        "include" => INCLUDE,
        "admin" => ADMIN,
        "probes" => PROBES,
        "route" => ROUTE,
        "provider" => PROVIDER,
        _ => &[],
    }
}

fn slower(old: &str, new: &str) -> bool {
    let rate = |text: &str| ByteSize::parse(text).map_or(0, ByteSize::get);
    rate(new) < rate(old)
}

/// A Unix socket is reached by this machine only, as is what is not there.
fn is_local(address: &str) -> bool {
    address.parse::<SocketAddr>().map_or(true, |address| address.ip().to_canonical().is_loopback())
}

fn leaves_loopback(old: &str, new: &str) -> bool {
    is_local(old) && !is_local(new)
}

fn becomes_any(old: &str, new: &str) -> bool {
    let is_any = |text: &str| text.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    !is_any(old) && is_any(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reference;
    use crate::policy::Blocks;

    /// What the entries of a list are.
    fn entries<'v>(root: &'v serde_json::Value, at: &'v serde_json::Value) -> &'v serde_json::Value {
        let blocks = [at].into_iter().chain(at["anyOf"].as_array().into_iter().flatten());
        let mut resolved = blocks.map(|block| match block["$ref"].as_str() {
            Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("a reference of the schema"),
            None => block,
        });
        resolved.find_map(|block| block.get("items")).unwrap_or(&serde_json::Value::Null)
    }

    /// Whether a schema has a property of this path, through references.
    fn has<'v>(root: &'v serde_json::Value, mut at: &'v serde_json::Value, path: &str) -> bool {
        for key in path.split('.').map(|key| key.strip_suffix("[]").unwrap_or(key)) {
            if at["items"].is_object() || key.is_empty() {
                at = entries(root, at);
            }
            if key.is_empty() {
                continue;
            }
            let blocks = [at].into_iter().chain(at["anyOf"].as_array().into_iter().flatten());
            let resolved = blocks.map(|block| match block["$ref"].as_str() {
                Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("a reference of the schema"),
                None => block,
            });
            let step = |block: &'v serde_json::Value| match key {
                "*" => block.get("additionalProperties"),
                key => block["properties"].get(key),
            };
            let Some(found) = resolved.into_iter().find_map(step) else { return false };
            at = found;
        }
        true
    }

    #[test]
    fn every_policy_says_what_of_it_protects_and_every_guard_stands_for_a_setting() {
        let schema = reference::schema::<Blocks>();
        let routes = schema["properties"]["routes"]["items"].clone();
        for (key, guards) in Blocks::GUARDS {
            let is_gone = |guard: &&Guard| matches!(guard.weaker, Weaker::Gone) && guard.path.is_empty();
            let of_block: Vec<_> = guards.iter().filter(is_gone).collect();
            assert!(
                matches!(of_block[..], [Guard { weaker: Weaker::Gone, .. }]),
                "{key}: one `Guard::gone` says what is so without the policy"
            );
            for guard in guards.iter().filter(|guard| !guard.path.is_empty()) {
                let path = format!("policies.{key}.{}", guard.path);
                assert!(has(&schema, &routes, &path), "{path} is no setting");
            }
        }
        for (kind, block) in [
            ("route", &routes),
            ("listener", &schema["properties"]["listeners"]["items"]),
            ("probes", &schema["properties"]["probes"]),
            ("upstream", &schema["properties"]["upstreams"]["additionalProperties"]),
            ("provider", &schema["properties"]["identity"]["additionalProperties"]),
        ] {
            for guard in of(kind) {
                assert!(has(&schema, block, guard.path), "{kind}: {} is no setting", guard.path);
            }
        }
        assert!(!has(&schema, &routes, "policies.cors.orgins"));
    }

    #[test]
    fn an_address_is_wider_off_loopback_and_when_it_stands_for_all() {
        for (old, new, elsewhere, everywhere) in [
            ("127.0.0.1:80", "127.0.0.2:81", false, false),
            ("127.0.0.1:80", "10.0.0.1:80", true, false),
            ("127.0.0.1:80", "0.0.0.0:80", true, true),
            ("[::1]:80", "[::]:80", true, true),
            ("[::ffff:127.0.0.1]:80", "[::1]:80", false, false),
            ("10.0.0.1:80", "0.0.0.0:80", false, true),
            ("0.0.0.0:80", "10.0.0.1:80", false, false),
            ("0.0.0.0:80", "[::]:80", false, false),
            ("unix:/run/admin", "10.0.0.1:80", true, false),
            ("10.0.0.1:80", "unix:/run/admin", false, false),
        ] {
            let found = (leaves_loopback(old, new), becomes_any(old, new));
            assert_eq!(found, (elsewhere, everywhere), "{old} -> {new}");
        }
    }
}
