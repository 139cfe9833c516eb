//! Policies that come, go and weaken.

use super::*;

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
