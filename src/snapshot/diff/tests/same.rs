//! What is no change.

use super::*;

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
