//! What is told of two documents that differ.

use std::time::Instant;

use super::super::{Snapshot, compile};
use super::*;
use crate::config::Issues;
use crate::config::load::{Environment, Partial, decode_partial};
use crate::keep::Keeper;
use crate::machine::Machine;
use crate::policy::Blocks;
use crate::telemetry::metrics::Metrics;

fn snapshot_of(yaml: &str, variables: &[(&str, &str)]) -> Snapshot {
    let environment = Environment::fixed(variables.iter().copied());
    let Partial { document, source, mut issues, outside, .. } = decode_partial::<Blocks>("x.yaml", yaml, &environment);
    let mut found = Issues::new();
    let compiled = document.and_then(|mut document| {
        document.fit(&Machine { processors: 1, memory: None, files: None });
        compile(document, &source, 1, &Metrics::new(), &mut Keeper::fresh(), &mut found)
    });
    issues.append(found);
    match compiled {
        Some(snapshot) if issues.is_empty() => Snapshot { outside, ..snapshot },
        _ => panic!("{yaml}\n{}", source.report(issues).text(false)),
    }
}

fn told(old: &str, new: &str) -> Vec<String> {
    between(&snapshot_of(old, &[]), &snapshot_of(new, &[])).text()
}

/// A document of which only this differs.
fn document(top: &str, listener: &str, upstream: &str, routes: &str) -> String {
    format!(
        "{top}\nlisteners: [{{name: http, address: 127.0.0.1:80{listener}}}]\nupstreams: {{app: {{endpoints: [http://127.0.0.1:1]{upstream}}}}}\nroutes:\n{routes}\n"
    )
}

const ROUTES: &str = "- {name: all, match: {path: '/{rest...}'}, proxy: {upstream: app}}";

#[track_caller]
fn check(old: &str, new: &str, expected: &[&str]) {
    assert_eq!(told(old, new), expected, "\n{old}\n{new}");
}

/// The routes of both sides.
#[track_caller]
fn routes(old: &str, new: &str, expected: &[&str]) {
    check(&document("", "", "", old), &document("", "", "", new), expected);
}

/// A block of the policies of the route `all`, before and after.
#[track_caller]
fn policy(old: &str, new: &str, expected: &[&str]) {
    let route = |policies: &str| {
        format!("- {{name: all, match: {{path: '/{{rest...}}'}}, policies: {{{policies}}}, proxy: {{upstream: app}}}}")
    };
    let expected: Vec<String> = expected.iter().map(|line| format!("route all: {line}")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    routes(&route(old), &route(new), &expected);
}

// === nothing ===

#[test]
fn what_means_the_same_is_no_change() {
    let two =
        "- {name: a, match: {path: /a, methods: [GET, PUT]}, respond: {}}\n- {name: b, match: {path: /b}, respond: {}}";
    let turned = "- {name: b, match: {path: /b}, respond: {status: 200}}\n- {match: {methods: [PUT, GET], path: /a}, name: a, timeout: 30s, respond: {}}";
    routes(two, turned, &[]);
    policy(
        "ip_filter: {allow: [10.0.0.0/8, 127.0.0.1]}",
        "ip_filter: {mode: enforce, allow: [127.0.0.1, 10.0.0.0/8], deny: []}",
        &[],
    );
    check(
        &document("", "", "", ROUTES),
        &document("drain: {delay: 5s}", ", via: armiger", ", protocol: http1", ROUTES),
        &[],
    );
}

#[test]
fn a_block_that_moves_to_the_defaults_is_no_change() {
    let block = "policies: {ip_filter: {deny: [10.0.0.0/8]}}";
    let routes = |own: &str| {
        format!(
            "- {{name: a, match: {{path: /a}}{own}, respond: {{}}}}\n- {{name: b, match: {{path: /b}}{own}, respond: {{}}}}"
        )
    };
    let own = document("", "", "", &routes(&format!(", timeout: 5s, {block}")));
    check(&own, &document(&format!("defaults: {{timeout: 5s, {block}}}"), "", "", &routes("")), &[]);
    check(
        &own,
        &document(&format!("defaults: {{timeout: 5000ms, {block}}}"), "", "", &routes(&format!(", {block}"))),
        &[],
    );
}

// === policies ===

#[test]
fn policies_come_and_go() {
    policy("", "body_limit: {max: 1KiB}", &["body_limit added {max: 1KiB, mode: enforce}"]);
    policy(
        "ip_filter: {allow: [10.0.0.0/8]}",
        "",
        &["ip_filter removed (weakens protection: every address may use the route)"],
    );
    policy(
        "ip_filter: {allow: [10.0.0.0/8]}",
        "ip_filter: off",
        &["ip_filter switched off (weakens protection: every address may use the route)"],
    );
    policy("ip_filter: off", "", &[]);
    policy("ip_filter: {allow: [10.0.0.0/8], mode: shadow}", "", &["ip_filter removed"]);
}

#[test]
fn a_limit_that_only_looks_is_weaker() {
    policy(
        "rate_limit: [{name: a, rate: 1/s}]",
        "rate_limit: [{name: a, rate: 1/s, cost: 0}]",
        &["rate_limit[a].cost 1 -> 0 (weakens protection: callers may make more requests)"],
    );
}

#[test]
fn a_limit_by_another_name_protects_as_before() {
    policy(
        "rate_limit: [{name: a, rate: 1/s}]",
        "rate_limit: [{name: b, rate: 1/s}]",
        &["rate_limit[b] added, `a` by a new name, and begins anew", "rate_limit[a] removed, it is now `b`"],
    );
    policy(
        "in_flight: [{name: a, max: 5}, {name: c, max: 6}]",
        "in_flight: [{name: b, max: 5}, {name: c, max: 6}]",
        &["in_flight[b] added, `a` by a new name, and begins anew", "in_flight[a] removed, it is now `b`"],
    );
}

#[test]
fn a_limit_of_several_routes_is_renamed_only_if_it_is_in_all_of_them() {
    let of = |name: &str, policy: &str| {
        format!("- {{name: {name}, match: {{path: /{name}}}, policies: {{{policy}}}, proxy: {{upstream: app}}}}\n")
    };
    for (policy, entry, reason) in [
        ("rate_limit", "rate: 1/s", "callers may make as many requests as they like"),
        ("in_flight", "max: 5", "callers may have as many requests under way as they like"),
    ] {
        let limit = |name: &str| format!("{policy}: [{{name: {name}, {entry}}}]");
        let both = |x: &str, y: &str| document("", "", "", &(of("x", &limit(x)) + &of("y", &limit(y))));
        for (x, y) in [("l", "m"), ("n", "m")] {
            let told = told(&both("l", "l"), &both(x, y));
            let line = format!("{policy}[l] removed (weakens protection: {reason})");
            assert!(told.iter().any(|told| told.ends_with(&line)), "{told:#?}");
            assert!(!told.iter().any(|line| line.contains("by a new name")), "{told:#?}");
        }
        for (old, new) in [(both("l", "l"), both("m", "m")), (both("l", "k"), both("m", "k"))] {
            let told = told(&old, &new);
            assert!(told.iter().any(|line| line.contains("`l` by a new name")), "{told:#?}");
            assert!(!told.iter().any(|line| line.contains("weakens")), "{told:#?}");
        }
        if policy == "rate_limit" {
            let alone = |x: &str, y: &str| both(&format!("{x}, scope: route"), &format!("{y}, scope: route"));
            let told = told(&alone("l", "l"), &alone("l", "m"));
            assert!(!told.iter().any(|line| line.contains("weakens")), "each route has its own: {told:#?}");
        }
        // A route that has come has it still.
        let come = both("m", "m") + &of("z", &limit("l"));
        assert!(told(&both("l", "l"), &come).iter().any(|line| line.contains("weakens")));
    }
}

#[test]
fn a_policy_that_is_no_longer_enforced_weakens() {
    let mode = |mode: &str| format!("body_limit: {{max: 1KiB, mode: {mode}}}");
    for (old, new, expected) in [
        (
            "enforce",
            "shadow",
            "body_limit.mode enforce -> shadow (weakens protection: bodies are bounded by the listener alone)",
        ),
        (
            "enforce",
            "off",
            "body_limit.mode enforce -> off (weakens protection: bodies are bounded by the listener alone)",
        ),
        ("shadow", "off", "body_limit.mode shadow -> off"),
        ("shadow", "enforce", "body_limit.mode shadow -> enforce"),
    ] {
        policy(&mode(old), &mode(new), &[expected]);
    }
    // What was only counted had nothing to weaken.
    policy(
        "body_limit: {max: 1KiB, mode: shadow}",
        "body_limit: {max: 2KiB, mode: shadow}",
        &["body_limit.max 1KiB -> 2KiB"],
    );
}

#[test]
fn each_setting_of_a_policy_that_protects_is_marked_when_it_weakens() {
    let wider = "(weakens protection: more addresses may use the route)";
    policy(
        "body_limit: {max: 1KiB}",
        "body_limit: {max: 1MiB}",
        &["body_limit.max 1KiB -> 1MiB (weakens protection: longer bodies pass)"],
    );
    policy("body_limit: {max: 1MiB}", "body_limit: {max: 1023KiB}", &["body_limit.max 1MiB -> 1023KiB"]);
    for (old, new, expected) in [
        ("allow: [10.0.0.0/8]", "allow: [10.0.0.0/8, 11.0.0.0/8]", vec![format!("allow + 11.0.0.0/8 {wider}")]),
        (
            "allow: [10.0.0.0/8]",
            "allow: [10.1.0.0/16]",
            vec!["allow - 10.0.0.0/8".into(), "allow + 10.1.0.0/16".into()],
        ),
        (
            "allow: [10.1.0.0/16]",
            "allow: [10.0.0.0/8]",
            vec!["allow - 10.1.0.0/16".into(), format!("allow + 10.0.0.0/8 {wider}")],
        ),
        (
            "allow: [10.0.0.0/8], deny: [10.9.0.0/16]",
            "deny: [10.9.0.0/16]",
            vec![format!("allow - 10.0.0.0/8 {wider}")],
        ),
        ("deny: [10.9.0.0/16]", "allow: [10.0.0.0/8], deny: [10.9.0.0/16]", vec!["allow + 10.0.0.0/8".into()]),
        ("deny: [10.0.0.0/8, 11.0.0.0/8]", "deny: [10.0.0.0/8]", vec![format!("deny - 11.0.0.0/8 {wider}")]),
        ("deny: [10.1.0.0/16]", "deny: [10.0.0.0/8]", vec!["deny - 10.1.0.0/16".into(), "deny + 10.0.0.0/8".into()]),
    ] {
        let expected: Vec<String> = expected.iter().map(|line| format!("ip_filter.{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        policy(&format!("ip_filter: {{{old}}}"), &format!("ip_filter: {{{new}}}"), &expected);
    }
    let cors = |rest: &str| format!("cors: {{{rest}}}");
    let grown = "(weakens protection: pages of more origins may call)";
    for (old, new, expected) in [
        ("origins: ['https://a']", "origins: ['https://a', 'https://x']", format!("cors.origins + https://x {grown}")),
        (
            "origins: ['https://*.a.b', 'https://c']",
            "origins: ['https://*.a.b', 'https://x.a.b', 'https://c']",
            "cors.origins + https://x.a.b".into(),
        ),
        (
            "origins: ['https://a']",
            "origins: ['https://a'], credentials: true",
            "cors.credentials false -> true (weakens protection: pages may use the visitor's credentials)".into(),
        ),
        (
            "origins: ['https://a'], credentials: true",
            "origins: ['https://a']",
            "cors.credentials true -> false".into(),
        ),
        (
            "origins: ['https://a'], methods: [GET]",
            "origins: ['https://a'], methods: [GET, PUT]",
            "cors.methods + PUT (weakens protection: pages may use more methods)".into(),
        ),
        ("origins: ['https://a'], max_age: 5s", "origins: ['https://a'], max_age: 6s", "cors.max_age 5s -> 6s".into()),
    ] {
        policy(&cors(old), &cors(new), &[&expected]);
    }
    policy(&cors("origins: ['*']"), &cors("origins: ['https://a']"), &["cors.origins - *", "cors.origins + https://a"]);
}

#[test]
fn a_header_that_is_no_longer_removed_or_set_weakens() {
    let seen = "(weakens protection: the upstream sees what clients send)";
    let headers = |side: &str| format!("headers: {{request: {{set: {{x-a: '1'}}}}, {side}}}");
    for (old, new, expected) in [
        (
            "request: {remove: [cookie, x-user], set: {x-b: a}}",
            "request: {remove: [x-user], set: {x-b: a}}",
            vec![format!("request.remove - cookie {seen}")],
        ),
        (
            "request: {remove: [X-User]}",
            "request: {set: {x-user: me}}",
            vec!["request.remove - X-User".into(), "request.set.x-user none -> me".into()],
        ),
        (
            "request: {set: {x-user: a b, x-b: a}}",
            "request: {set: {x-b: c}}",
            vec!["request.set.x-b a -> c".into(), format!("request.set.x-user `a b` -> none {seen}")],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|line| format!("headers.{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        policy(&format!("headers: {{{old}}}"), &format!("headers: {{{new}}}"), &expected);
    }
    policy(
        &headers("response: {set: {x-frame-options: DENY, cache-control: no-store}, remove: [server]}"),
        &headers("response: {remove: []}"),
        &[
            "headers.response.remove - server (weakens protection: clients see what the upstream sends)",
            "headers.response.set.cache-control no-store -> none",
            "headers.response.set.x-frame-options DENY -> none (weakens protection: browsers are no longer told to protect the page)",
        ],
    );
}

#[test]
fn a_change_of_the_defaults_is_told_for_the_routes_that_it_reaches() {
    let routes: String = (0..20)
        .map(|n| {
            let own = if n == 3 { ", timeout: 2s, policies: {cors: off}" } else { "" };
            format!("- {{name: r{n}, match: {{path: /{n}}}{own}, respond: {{}}}}\n")
        })
        .collect();
    let defaults = |rest: &str| document(&format!("defaults: {{{rest}}}"), "", "", &routes);
    check(
        &defaults("policies: {cors: {origins: ['https://a']}}"),
        &defaults("timeout: 3s, policies: {cors: {origins: ['https://a', 'https://b']}}"),
        &[
            "routes r0, r1, r2 and 16 more: timeout 30s -> 3s",
            "routes r0, r1, r2 and 16 more: cors.origins + https://b (weakens protection: pages of more origins may call)",
        ],
    );
}

// === routes ===

#[test]
fn routes_come_go_and_change() {
    let a = "- {name: a, match: {path: /a}, proxy: {upstream: app}}";
    let b = "- {name: b, match: {path: /b, headers: {x: {exact: '1'}}}, respond: {body: \"ok\\n\"}}";
    routes(a, &format!("{a}\n{b}"), &["route b: added"]);
    routes(&format!("{a}\n{b}"), a, &["route b: removed"]);
    routes(
        a,
        "- {name: c, match: {path: /a}, proxy: {upstream: app}}",
        &["route c: added, `a` by a new name", "route a: removed, it is now `c`"],
    );
    routes(
        a,
        "- {name: a, match: {path_prefix: /a, methods: [GET]}, timeout: 1s, proxy: {upstream: app, rewrite: '/x y'}}"
            .replace("/x y", "/x")
            .as_str(),
        &[
            "route a: match.path /a -> none",
            "route a: match.path_prefix none -> /a",
            "route a: match.methods + GET",
            "route a: timeout 30s -> 1s",
            "route a: proxy.rewrite none -> /x",
        ],
    );
    routes(
        b,
        "- {name: b, match: {path: /b, headers: {x: {present: true}, y: {exact: z}}}, redirect: {to: /c}}",
        &[
            "route b: match.headers.x.exact 1 -> none",
            "route b: match.headers.x.present none -> true",
            "route b: match.headers.y added {exact: z}",
            "route b: respond removed",
            "route b: redirect added {to: /c, status: 308}",
        ],
    );
    routes(
        a,
        "- {name: a, match: {path: /a, path_allow: [semicolon]}, proxy: {upstream: app, host: {literal: x.y}}}",
        &[
            "route a: match.path_allow + semicolon (weakens protection: paths pass that servers read differently from one another)",
            "route a: proxy.host added {literal: x.y}",
        ],
    );
}

#[test]
fn only_the_order_of_regular_expressions_counts() {
    let regex = |name: &str, host: &str| {
        format!("- {{name: {name}, match: {{hosts: [{host}], path_regex: '/{name}.*'}}, respond: {{}}}}\n")
    };
    let list = |names: &[(&str, &str)]| names.iter().map(|(name, host)| regex(name, host)).collect::<String>();
    routes(
        &list(&[("a", "x"), ("b", "x"), ("c", "x"), ("d", "x")]),
        &list(&[("a", "x"), ("c", "x"), ("b", "x"), ("e", "x"), ("d", "x")]),
        &["route e: added", "routes: order of regular expressions of x: b, c -> c, b"],
    );
    routes(&list(&[("a", "x"), ("b", "y")]), &list(&[("b", "y"), ("a", "x")]), &[]);
}

#[test]
fn a_route_that_takes_requests_past_a_policy_weakens() {
    let all = "- {name: all, match: {path: '/{rest...}'}, respond: {}}\n";
    let inside = "- {name: inside, match: {path: '/in/{x}', hosts: ['*.a.b'], methods: [PUT], headers: {x: {exact: '1'}}, query: {q: {prefix: y}}}, policies: {ip_filter: {allow: [10.0.0.0/8]}}, respond: {}}\n";
    let lost = "(weakens protection: `all` takes its requests, without its ip_filter)";
    routes(&format!("{all}{inside}"), all, &[&format!("route inside: removed {lost}")]);
    routes(inside, all, &["route all: added", &format!("route inside: removed {lost}")]);
    let moved = inside.replace("/in/", "/on/");
    routes(
        &format!("{all}{inside}"),
        &format!("{all}{moved}"),
        &[&format!("route inside: match.path /in/{{x}} -> /on/{{x}} {lost}")],
    );
    // The other way round: a hole is cut into what is guarded.
    let guarded = all.replace("respond", "policies: {ip_filter: {allow: [10.0.0.0/8]}}, respond");
    let hole = "- {name: hole, match: {path: /open}, respond: {}}\n";
    routes(
        &guarded,
        &format!("{guarded}{hole}"),
        &["route hole: added (weakens protection: it takes requests of `all`, without its ip_filter)"],
    );
    let filtered = hole.replace("respond", "policies: {ip_filter: {deny: [10.0.0.0/8]}}, respond");
    routes(&guarded, &format!("{guarded}{filtered}"), &["route hole: added"]);
    // Nobody takes them.
    routes(&format!("{hole}{inside}"), hole, &["route inside: removed"]);
}

// === the rest ===

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

// === values that are not shown ===

#[test]
fn what_came_from_outside_is_told_and_not_shown() {
    let yaml = "
listeners: [{name: http, address: 127.0.0.1:80}]
upstreams: {app: {endpoints: ['${env:URL}', 'http://${env:HOST}:1']}}
routes:
- name: a
  match: {path: /a}
  policies: {headers: {request: {set: {authorization: '${env:TOKEN}', x-plain: 'is ${env:PLAIN}'}}}}
  proxy: {upstream: app, host: {literal: '${env:HOST}'}}
";
    let old = [("URL", "http://oldurl:1"), ("HOST", "oldhost"), ("TOKEN", "oldtoken"), ("PLAIN", "oldplain")];
    let new = [("URL", "http://newurl:1"), ("HOST", "newhost"), ("TOKEN", "newtoken"), ("PLAIN", "newplain")];
    let changes = between(&snapshot_of(yaml, &old), &snapshot_of(yaml, &new));
    assert_eq!(
        changes.text(),
        [
            "upstream app: endpoints ${env:URL}, http://${env:HOST}:1 changed",
            "route a: headers.request.set.authorization changed",
            "route a: headers.request.set.x-plain changed",
            "route a: proxy.host.literal changed",
        ]
    );
    let all = format!("{changes:?} {}", changes.json());
    for (_, value) in old.iter().chain(&new) {
        assert!(!all.contains(value), "{value} in {all}");
    }
    assert!(between(&snapshot_of(yaml, &old), &snapshot_of(yaml, &old)).is_empty());
    let literal = yaml.replace("${env:URL}", "http://oldurl:1");
    assert!(
        between(&snapshot_of(yaml, &old), &snapshot_of(&literal, &old)).is_empty(),
        "where it came from is no change"
    );
    // The new file names no variable, and what the old one had of it is still not shown.
    let moved = yaml.replace("'${env:URL}', ", "");
    let changes = between(&snapshot_of(yaml, &old), &snapshot_of(&moved, &old));
    assert_eq!(changes.text(), ["upstream app: endpoints - ${env:URL}"]);
}

#[test]
fn a_secret_that_changes_comes_or_goes_is_told() {
    use crate::config::value::Secret;
    #[derive(serde::Serialize)]
    struct Admin {
        token: Option<Secret>,
    }
    let admin = |token: Option<&str>| Form::of(&Admin { token: token.map(Secret::new) });
    let shown = Shown::new([].iter());
    for (old, new, expected) in [
        (Some("oldsecret"), Some("newsecret"), Some("token changed")),
        (None, Some("newsecret"), Some("token added")),
        (Some("oldsecret"), None, Some("token removed (weakens protection: nobody is asked for a token)")),
        (Some("oldsecret"), Some("oldsecret"), None),
    ] {
        let change = changed("admin".into(), None, (&admin(old), &admin(new)), &shown);
        let lines: Vec<String> = change.iter().flat_map(|change| &change.lines).map(ToString::to_string).collect();
        assert_eq!(lines, expected.into_iter().collect::<Vec<_>>());
    }
}

// === lists of blocks, for policies to come ===

#[test]
fn lists_of_blocks_are_told_by_name_or_place_and_others_whole() {
    let of = |value: serde_json::Value| Form::of(&value);
    let shown = Shown::new([].iter());
    for (old, new, expected) in [
        (
            serde_json::json!([{"name": "a", "rate": 1}, {"name": "b"}]),
            serde_json::json!([{"name": "b"}, {"name": "a", "rate": 2}]),
            "x[a].rate 1 -> 2",
        ),
        (serde_json::json!([{"rate": 1}]), serde_json::json!([{"rate": 2}]), "x[0].rate 1 -> 2"),
        (serde_json::json!([{"rate": 1}]), serde_json::json!([]), "x [{rate: 1}] -> []"),
        (serde_json::json!(["a", "a"]), serde_json::json!(["a"]), "x - a"),
    ] {
        let (old, new) = (of(serde_json::json!({ "x": old })), of(serde_json::json!({ "x": new })));
        let lines = Block { shown: &shown, guards: &[], name: "", old: &old, new: &new, renamed: None }.lines();
        assert_eq!(lines.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
    let include = |files: &[&str]| Form::of(files);
    let change = changed("include".into(), None, (&include(&["a", "b"]), &include(&["b", "a"])), &shown);
    assert_eq!(change.map(|change| change.lines[0].to_string()).as_deref(), Some("[a, b] -> [b, a]"));
}

// === the report ===

#[test]
fn the_text_ends_and_what_weakens_stands_in_it() {
    let routes = |max: u32, to: &str| -> String {
        (0..300)
            .map(|n| {
                let policies =
                    if n >= 299 { format!("policies: {{body_limit: {{max: {max}KiB}}}}, ") } else { String::new() };
                format!("- {{name: r{n}, match: {{path: /{n}}}, {policies}redirect: {{to: /{to}{n}}}}}\n")
            })
            .collect()
    };
    let changes = between(
        &snapshot_of(&document("", "", "", &routes(1, "a")), &[]),
        &snapshot_of(&document("", "", "", &routes(2, "b")), &[]),
    );
    let text = changes.text();
    assert_eq!(text.len(), 201);
    assert_eq!(text[0], "route r0: redirect.to /a0 -> /b0");
    assert_eq!(text[199], "route r299: body_limit.max 1KiB -> 2KiB (weakens protection: longer bodies pass)");
    assert_eq!(text[200], "and 101 more changes");
    let json = changes.json();
    assert_eq!((&json["weakens"], &json["left_out"]), (&1.into(), &0.into()));
    assert_eq!(json["lines"].as_array().map(Vec::len), Some(301));
    assert_eq!(
        json["lines"][0],
        serde_json::json!({"kind": "route", "names": ["r0"], "more": 0, "what": "changed", "path": "redirect.to", "text": "/a0 -> /b0", "weakens": null})
    );
    assert!(changes.weakens());
}

/// All routes change, all names change, all go: none of it may take more than a glance at each.
#[test]
fn five_thousand_routes_are_compared_in_one_go() {
    let routes = |from: usize, max: u32| -> String {
        (from..from + 5000)
            .map(|n| format!("- {{name: r{n}, match: {{path: '/{n}/{{id}}'}}, policies: {{body_limit: {{max: {max}KiB}}}}, proxy: {{upstream: app}}}}\n"))
            .collect()
    };
    let of = |defaults: &str, routes: &str| snapshot_of(&document(defaults, "", "", routes), &[]);
    let defaults = "defaults: {policies: {cors: {origins: ['https://a']}}}";
    let old = of("", &routes(0, 1));
    for (new, lines) in [
        (of(defaults, &routes(0, 2)), 2),
        (of("", &routes(5000, 2)), 2),
        (of("", &routes(0, 1).replace("name: r", "name: s")), 201),
    ] {
        let start = Instant::now();
        let changes = between(&old, &new);
        let text = changes.text();
        let took = start.elapsed();
        assert_eq!(text.len(), lines, "{text:#?}");
        println!("5000 routes compared in {took:?}");
        // Without optimisation; a quadratic walk would take minutes.
        assert!(took.as_secs() < 5, "{took:?}");
    }
}
