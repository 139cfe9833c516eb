//! Routes, and which of them takes a request.

use super::*;

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
            "route a: match.methods any -> [GET]",
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

/// What has no condition is any: an entry less is narrower, the last one less is as wide as can be.
#[test]
fn a_condition_that_is_dropped_lets_any_pass_and_weakens() {
    let route = |matches: &str| format!("- {{name: b, match: {{{matches}}}, respond: {{}}}}");
    let check = |old: &str, new: &str, expected: &[&str]| routes(&route(old), &route(new), expected);
    let methods = "route b: match.methods [GET] -> any (weakens protection: it takes requests of every method)";
    check("path: /b, methods: [GET]", "path: /b", &[methods]);
    check("path: /b", "path: /b, methods: [GET]", &["route b: match.methods any -> [GET]"]);
    check("path: /b, methods: [GET, PUT]", "path: /b, methods: [GET]", &["route b: match.methods - PUT"]);
    check("path: /b, methods: [GET]", "path: /b, methods: [GET, PUT]", &["route b: match.methods + PUT"]);
    check(
        "path: /b, hosts: [a.b, c.d]",
        "path: /b",
        &["route b: match.hosts [a.b, c.d] -> any (weakens protection: it takes requests for every host)"],
    );
    check(
        "path: /b, headers: {x: {exact: y}}, query: {a.b: {present: true}}, cookies: {c: {prefix: d}}",
        "path: /b",
        &[
            "route b: match.headers.x {exact: y} -> any (weakens protection: it takes requests whatever that header is)",
            "route b: match.query.a.b {present: true} -> any (weakens protection: it takes requests whatever that parameter is)",
            "route b: match.cookies.c {prefix: d} -> any (weakens protection: it takes requests whatever that cookie is)",
        ],
    );
    // What it takes of another route is told as well.
    let guarded = "\n- {name: c, match: {path: '/{x}'}, policies: {ip_filter: {allow: [10.0.0.0/8]}}, respond: {}}";
    routes(
        &format!("{}{guarded}", route("path: /b, headers: {x: {exact: y}}")),
        &format!("{}{guarded}", route("path: /b")),
        &[
            "route b: match.headers.x {exact: y} -> any (weakens protection: it takes requests whatever that header is; it takes \
           requests of `c`, without its ip_filter)",
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
