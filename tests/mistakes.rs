//! `armiger check` on a file with mistakes of all kinds: one run tells all of them, and none that is none.

use serde_json::Value;

use crate::harness::{Armiger, Authority, Pair};

/// Checks a file that may name `a.crt`, `a.key` and `b.key`: the places and messages that are told, a line for each.
fn told(yaml: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a temporary file");
    let (Pair { certificate, key }, other) = (authority.issue(&["a.test"]), authority.issue(&["b.test"]));
    write("a.crt", &certificate);
    write("a.key", &key);
    write("b.key", &other.key);
    write("config.yaml", yaml);
    let path = folder.path().join("config.yaml");
    let path = path.to_str().expect("the temporary folder has a name of text");
    let finished = Armiger::binary(&["check", "--config", path, "--format", "json"]);
    finished.assert_code(1);
    let issues: Vec<Value> = serde_json::from_str(&finished.stdout).expect("JSON");
    let line = |issue: &Value| {
        let text = |key: &str| issue[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("hint").is_empty(), "no remedy in {issue:#}");
        format!("{}: {}\n", text("path"), text("message"))
    };
    issues.iter().map(line).collect()
}

/// What `told` tells of routes in an otherwise good file.
fn of_routes(routes: &str) -> String {
    told(&format!(
        "listeners: [{{name: http, address: \"127.0.0.1:0\"}}]\nupstreams: {{app: {{endpoints: [\"http://127.0.0.1:1\"]}}}}\n\
         routes:\n{routes}"
    ))
}

#[test]
fn one_run_tells_all_mistakes_of_a_file() {
    let file = include_str!("configs/mistakes.yaml");
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("mistakes", told(file));
    });
}

#[test]
fn nothing_is_said_to_be_missing_where_what_stands_there_is_wrong_itself() {
    for (routes, expected) in [
        ("policies: {rate_limit: [{name: a, rat: 1/s}]}, respond: {}", "policies.rate_limit[0].rat: unknown key `rat`"),
        ("policies: {in_flight: [{name: a, max: many}]}, respond: {}", "policies.in_flight[0].max: "),
        ("policies: {ip_filter: {allow: [[1]]}}, respond: {}", "policies.ip_filter.allow[0]: "),
        ("policies: {cors: {origins: [{a: b}]}}, respond: {}", "policies.cors.origins[0]: "),
        ("policies: {roles: {any: [a]}, identity: {provders: [x]}}, respond: {}", "policies.identity.provders: "),
        ("respnd: {}", "respnd: unknown key `respnd`"),
    ] {
        let told = of_routes(&format!("  - {{name: a, match: {{path: /a}}, {routes}}}\n"));
        let told: Vec<&str> = told.lines().collect();
        let is_only = told.iter().all(|line| !line.contains("names no") && !line.contains("knows none"));
        assert!(is_only && told.iter().any(|line| line.contains(expected)), "{routes}: {told:#?}");
    }
    let told = told(
        "listeners: [{name: http, address: \"127.0.0.1:0\"}]\nroutes: []\n\
         upstreams: {app: {endpoints: [\"http://127.0.0.1:1\"], retry: {attempts: 2, when: [conect]}}}\n",
    );
    assert_eq!(told, "upstreams.app.retry.when[0]: `conect` is nothing to try again for\n");
}

#[test]
fn parts_that_wait_for_each_other_are_told_beside_other_mistakes() {
    let told = of_routes(
        "  - name: a
    match: {path: /a, methods: [GET]}
    aggregate:
      parts:
        one: {upstream: nowhere, path: \"/{parts.two.body.x}/{path.nope}\"}
        two: {upstream: app, path: \"/{parts.one.body.x}\"}
        three: {upstream: app, path: /, after: [four]}
        four: {upstream: app, path: /, after: [three]}
        five: {upstream: app, path: /, after: [four]}
",
    );
    assert_eq!(
        told,
        "routes[0].aggregate.parts.one: `one` waits for `two`, which waits for the first\n\
         routes[0].aggregate.parts.one.upstream: unknown upstream \"nowhere\"\n\
         routes[0].aggregate.parts.one.path: the route's path has no parameter `nope`\n\
         routes[0].aggregate.parts.three: `three` waits for `four`, which waits for the first\n"
            .replace('"', "`")
    );
}
