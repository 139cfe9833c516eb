//! Listeners, providers, upstreams and sections.

use super::*;

#[test]
fn listeners_are_marked_by_what_they_let_in() {
    let listener = |address: &str, rest: &str| format!("{{name: http, address: {address}{rest}}}");
    let with = |listeners: &str| {
        format!("listeners: [{listeners}]\nroutes: [{{name: a, match: {{path: /a}}, respond: {{}}}}]")
    };
    let plain = listener("127.0.0.1:80", "");
    for (new, expected) in [
        (listener("127.0.0.1:81", ""), "address 127.0.0.1:80 -> 127.0.0.1:81"),
        (
            listener("0.0.0.0:80", ""),
            "address 127.0.0.1:80 -> 0.0.0.0:80 (weakens protection: other machines reach it)",
        ),
        (
            listener("127.0.0.1:80", ", trusted_proxies: [10.0.0.0/8]"),
            "trusted_proxies + 10.0.0.0/8 (weakens protection: more machines are believed about who the client is)",
        ),
        (
            listener("127.0.0.1:80", ", limits: {connections_max: 20000}"),
            "limits.connections_max 10000 -> 20000 (weakens protection: a higher bound)",
        ),
        (listener("127.0.0.1:80", ", limits: {body_max: 1MiB}"), "limits.body_max 10MiB -> 1MiB"),
        (
            listener("127.0.0.1:80", ", timeouts: {request_headers: 20s}"),
            "timeouts.request_headers 10s -> 20s (weakens protection: clients may take longer)",
        ),
        (
            listener("127.0.0.1:80", ", via: off"),
            "via armiger -> off (weakens protection: requests that come round in a loop are not noticed)",
        ),
    ] {
        check(&with(&plain), &with(&new), &[&format!("listener http: {expected}")]);
    }
    let other = "{name: b, address: 127.0.0.1:82}";
    check(&with(&plain), &with(&format!("{other}, {plain}")), &["listener b: added, address 127.0.0.1:82"]);
    check(&with(&format!("{other}, {plain}")), &with(&plain), &["listener b: removed"]);
    check(
        &with(&plain),
        &with("{name: c, address: 127.0.0.1:80}"),
        &["listener c: added, `http` by a new name", "listener http: removed, it is now `c`"],
    );
}

#[test]
fn who_may_vouch_for_callers_is_marked_by_whom_it_lets_in() {
    let jwt = |issuer: &str, audiences: &str, keys: &str, more: &str| {
        format!("jwt: {{issuer: {issuer}, {audiences}, keys: {{{keys}}}{more}}}")
    };
    let plain = |keys: &str, more: &str| jwt("https://id", "audiences: [a]", keys, more);
    let url = "jwks_url: https://id/k";
    let asked =
        |more: &str| format!("introspection: {{url: https://id/i, client_id: c, client_secret: '${{env:S}}'{more}}}");
    let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let key = |digit: &str, more: &str| format!("{{hash: '{}', subject: s{more}}}", hash(digit));
    let keys = |keys: &[String]| format!("api_keys: {{keys: [{}]}}", keys.join(", "));
    for (old, new, expected) in [
        (
            plain(url, ""),
            jwt("https://id", "audiences: [a, A]", url, ""),
            "jwt.audiences + A (weakens protection: tokens for other services are accepted)",
        ),
        (
            plain(url, ", algorithms: [RS256]"),
            plain(url, ", algorithms: [RS256, ES256]"),
            "jwt.algorithms + ES256 (weakens protection: more algorithms are accepted)",
        ),
        (
            plain(url, ", algorithms: [RS256]"),
            plain(url, ""),
            "jwt.algorithms - RS256 (weakens protection: more algorithms are accepted)",
        ),
        (plain(url, ""), plain(url, ", algorithms: [RS256]"), "jwt.algorithms + RS256"),
        (
            plain(url, ""),
            jwt("https://other", "audiences: [a]", url, ""),
            "jwt.issuer https://id -> https://other (weakens protection: somebody else is believed about who calls)",
        ),
        (
            plain(url, ""),
            plain("jwks_url: https://other/k", ""),
            "jwt.keys.jwks_url https://id/k -> https://other/k (weakens protection: keys come from elsewhere)",
        ),
        (
            plain(url, ""),
            plain(&format!("{url}, insecure: true"), ""),
            "jwt.keys.insecure false -> true (weakens protection: whoever is on the way may say who calls)",
        ),
        (
            plain(url, ""),
            plain(&format!("{url}, max_stale: 48h"), ""),
            "jwt.keys.max_stale 24h -> 48h (weakens protection: keys that were taken back are good for longer)",
        ),
        (
            plain(url, ""),
            plain(url, ", leeway: 60s"),
            "jwt.leeway 30s -> 60s (weakens protection: tokens are good for longer)",
        ),
        (plain(url, ""), plain(url, ", leeway: 5s"), "jwt.leeway 30s -> 5s"),
        (
            plain(url, ", max_age: 1h"),
            plain(url, ""),
            "jwt.max_age 60m -> none (weakens protection: tokens are good for longer)",
        ),
        (plain(url, ""), plain(url, ", max_age: 1h"), "jwt.max_age none -> 60m"),
        (
            plain(url, ", required_claims: [x, y]"),
            plain(url, ", required_claims: [x]"),
            "jwt.required_claims - y (weakens protection: tokens need fewer claims)",
        ),
        (
            asked(", any_audience: true"),
            asked(", any_audience: true").replace("/i,", "/j,"),
            "introspection.url https://id/i -> https://id/j (weakens protection: somebody else is believed about who calls)",
        ),
        (
            asked(", any_audience: true, issuer: x"),
            asked(", any_audience: true"),
            "introspection.issuer x -> none (weakens protection: any issuer is believed about who calls)",
        ),
        (
            keys(&[key("1", "")]),
            keys(&[key("1", ""), key("2", "")]),
            &*format!(
                "api_keys.keys + {{hash: `{}…`, subject: s}} (weakens protection: more keys are accepted)",
                &hash("2")[..60]
            ),
        ),
        (
            keys(&[key("1", ""), key("2", "")]),
            keys(&[key("1", "")]),
            &*format!("api_keys.keys - {{hash: `{}…`, subject: s}}", &hash("2")[..60]),
        ),
        (
            "mtls: {names: ['spiffe://a/b']}".to_owned(),
            "mtls: {names: ['spiffe://a/b', 'spiffe://a/*']}".to_owned(),
            "mtls.names + spiffe://a/* (weakens protection: more certificates are accepted)",
        ),
        (
            "mtls: {names: ['spiffe://a/*']}".to_owned(),
            "mtls: {names: ['spiffe://a/*', 'spiffe://a/b']}".to_owned(),
            "mtls.names + spiffe://a/b",
        ),
    ] {
        let of = |provider: &str| {
            snapshot_of(&document(&format!("identity: {{staff: {{{provider}}}}}"), "", "", ROUTES), &[("S", "secret")])
        };
        assert_eq!(between(&of(&old), &of(&new)).text(), [format!("provider staff: {expected}")]);
    }
    let of = |providers: &str| document(&format!("identity: {{{providers}}}"), "", "", ROUTES);
    check(
        &of(&format!("staff: {{{}}}", plain(url, ""))),
        &of(&format!("staff: {{{}}}", jwt("https://id", "any_audience: true", url, ""))),
        &[
            "provider staff: jwt.audiences - a",
            "provider staff: jwt.any_audience false -> true (weakens protection: tokens for any service are accepted)",
        ],
    );
    check(
        &of(&format!("staff: {{{}}}", plain(url, ""))),
        &of(&format!("staff: {{{}}}, mesh: {{mtls: {{names: [x]}}}}", plain(url, ""))),
        &["provider mesh: added {mtls: {names: [x]}}"],
    );
    check(
        &of("mesh: {mtls: {names: [x]}}"),
        &of(&format!("mesh: {{{}}}", keys(&[key("1", "")]))),
        &[
            &format!(
                "provider mesh: api_keys added {{header: x-api-key, bearer: false, keys: [{{hash: `{}…`, subject: s}}]}}",
                &hash("1")[..60]
            ),
            "provider mesh: mtls removed (weakens protection: callers prove in another way who they are)",
        ],
    );
}

#[test]
fn upstreams_and_sections_are_told() {
    let of = |top: &str, upstream: &str| document(top, "", upstream, ROUTES);
    check(
        &document("", "", "", ROUTES).replace("[http://127.0.0.1:1]", "[http://127.0.0.1:1, http://127.0.0.1:2]"),
        &document("", "", ", pool: {queue_max: 5}", ROUTES),
        &["upstream app: endpoints - http://127.0.0.1:2", "upstream app: pool.queue_max 1024 -> 5"],
    );
    check(&of("", ""), &of("", "}, b: {endpoints: [http://b:1]"), &["upstream b: added, endpoints [http://b:1]"]);
    check(
        &of("admin: {address: 127.0.0.1:1}", ""),
        &of(
            "admin: {address: 10.0.0.1:1}\nprobes: {address: 0.0.0.0:2}\ndrain: {delay: 0s}\nlog: {level: debug}\naccess_log: {query: [q], headers: []}",
            "",
        ),
        &[
            "admin: address 127.0.0.1:1 -> 10.0.0.1:1 (weakens protection: other machines reach it)",
            "probes: added {address: 0.0.0.0:2}",
            "drain: delay 5s -> 0s",
            "log: level info -> debug",
            "access_log: headers - user-agent",
            "access_log: query + q",
        ],
    );
    check(&of("probes: {address: 127.0.0.1:2}", ""), &of("", ""), &["probes: removed"]);
}
