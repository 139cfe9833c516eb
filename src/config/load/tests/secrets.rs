//! What no message and no excerpt shows: values from outside the file, and secrets in it.

use super::*;

#[test]
fn a_value_from_outside_never_shows_in_a_message() {
    for policies in [
        "rate_limit: [{burst: \"${env:BAD}\"}]",
        "rate_limit: [{burst: 1, share: \"${env:BAD}\"}]",
        "rate_limit: [{burst: 1, strict: \"${env:BAD}\"}]",
        "rate_limit: [{burst: 1, mode: \"${env:BAD}\"}]",
        "rate_limit: [{burst: 1, every: \"${env:BAD}\"}]",
        "rate_limit: [{burst: 1, every: \"9${env:BAD}\"}]",
        "rate_limit: \"${env:BAD}\"",
        "roles: \"${env:BAD}\"",
        "roles: {any: \"${env:BAD}\"}",
        "roles: {by_status: \"${env:BAD}\"}",
        "token: {secret: [\"${env:BAD}\"]}",
    ] {
        let indented = format!("{VALID}    policies:\n      {policies}\n");
        let partial = read(&indented);
        let report = partial.source.report(partial.issues);
        assert_eq!(report.len(), 1, "{policies}");
        let all = format!("{}{}{}", report.text(false), report.json(), report.github());
        assert!(!all.contains("swordfish") && !all.contains("fish"), "{all}");
    }
}

#[test]
fn a_message_names_the_reference_that_a_value_came_from() {
    let environment = Environment::fixed([("ST", "5xx"), ("N", "10"), ("LONG", "hunter2 hunter3"), ("env", "env")]);
    for (policies, expected) in [
        ("rate_limit: [{burst: 1, mode: \"${env:ST}\"}]", "unknown value `${env:ST}`"),
        ("rate_limit: [{burst: 1, mode: \"a${env:LONG}\"}]", "unknown value `a${env:LONG}`"),
        ("rate_limit: [{burst: 1, mode: \"${env:env}\"}]", "unknown value `${env:env}`"),
        ("rate_limit: [{burst: 1, every: \"${env:N}\"}]", "`${env:N}` has no unit"),
        ("rate_limit: [{burst: 1, every: \"${env:ST}\"}]", "`${env:ST}` is no duration"),
        ("rate_limit: [{burst: 1, every: \"1${env:env}\"}]", "`1${env:env}` is no duration"),
        ("rate_limit: [{burst: \"${env:LONG}\"}]", "expected a whole number, found `${env:LONG}`"),
        ("rate_limit: [{burst: \"${env:NO:-many}\"}]", "expected a whole number, found `${env:NO:-many}`"),
        ("roles: {any: \"${env:LONG}\"}", "expected a list, found `${env:LONG}`"),
        ("roles: \"${env:ST}\"", "expected a mapping, found `${env:ST}`"),
        ("rate_limit: [{burst: 1, every: \"127.0.0.1:${env:LONG}\"}]", "`127.0.0.1:${env:LONG}` is no duration"),
    ] {
        let text = format!("{VALID}    policies:\n      {policies}\n");
        let partial = decode_partial::<Blocks>("armiger.yaml", &text, &environment);
        let report = partial.source.report(partial.issues);
        let told: Vec<_> = report.marks().collect();
        assert_eq!(told.len(), 1, "{policies}");
        assert_eq!(told[0].message, expected);
        let hint = told[0].hint.unwrap_or_default();
        assert!(!hint.is_empty() && !["5xx", "`10", "hunter"].iter().any(|value| hint.contains(value)), "{hint}");
    }
}

#[test]
fn a_value_from_outside_never_shows_in_what_is_found_later() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("key"), "line one of it\nline two of it\n").unwrap();
    let long = "x1".repeat(100);
    let environment =
        Environment::fixed([("S3CR", "hunter2secret"), ("LONG", &long), ("N", "42"), ("ODD", "a\tfishy")])
            .directory(directory.path());
    let text = "\
listeners: [{name: http, address: 127.0.0.1:8080}]
upstreams:
  app: {endpoints: [\"${env:S3CR}\", \"http://${env:S3CR}/\", \"${env:LONG}\", \"${env:N}\", \"${env:ODD}\", \"${file:key}\", \"${env:NO:-fallback}\"]}
routes: []
";
    let Partial { document, source, mut issues, .. } = decode_partial::<Blocks>("c.yaml", text, &environment);
    let endpoints = document.unwrap().upstreams["app"].endpoints.clone();
    let path = KeyPath::root().key("upstreams").key("app").key("endpoints");
    for (index, endpoint) in endpoints.iter().enumerate() {
        issues.push(
            Issue::new(path.index(index), format!("{} is no endpoint", quote(endpoint)))
                .hint(format!("write `http://{endpoint}`; not {}", quote(&format!("a {}", endpoint.to_uppercase()))))
                .related(KeyPath::root().key("routes"), format!("{endpoint} is here")),
        );
        issues.push(unknown_name(path.index(index).key(endpoint), "upstream", endpoint, ["some"]));
        issues.push(unknown_name(path.index(index), "name", "near", [endpoint.as_str()]));
    }
    let report = source.report(issues);
    assert_eq!(report.len(), 3 * endpoints.len());
    for form in [report.text(false), report.text(true), report.json().to_string(), report.github()] {
        for secret in ["hunter2", "HUNTER2", "x1x1", "X1X1", "`42`", "fishy", "line one", "line two"] {
            assert!(!form.contains(secret), "{secret} in {form}");
        }
        assert!(form.contains("`${env:S3CR}` is no endpoint"), "{form}");
        assert!(form.contains("`http://${env:S3CR}/` is no endpoint"), "{form}");
    }
}

#[test]
fn a_secret_in_plain_text_is_refused_and_not_shown() {
    for (token, shown) in [
        ("{secret: hunter2hunter2}", "token: {secret: **************}"),
        ("{secret: [hunter2]}", "token: {secret: *********}"),
        ("{secrt: hunter2}", "token: {secrt: *******}"),
        ("{Secret: {a: hunter2}}", "token: {Secret: ************}"),
        ("{many: hunter2}", "token: {many: *******}"),
        ("{many: {a: hunter2}}", "token: {many: ************}"),
        ("{many: [], secret: \"${env:SECRET}\", secrt: hunter2}", "secrt: *******"),
        ("hunter2", "token: *******"),
        ("[hunter2]", "token: *********"),
        ("{many: [], api_key: hunter2}", "token: {many: [], api_key: *******}"),
        ("{many: [], many: hunter2, secret: \"${env:SECRET}\", secret: hunter2}", "${env:SECRET}\", secret: *******"),
    ] {
        let partial = read(&format!("{VALID}    policies:\n      token: {token}\n"));
        let report = partial.source.report(partial.issues);
        assert!(!report.is_empty());
        let all = format!("{}{}{}", report.text(false), report.json(), report.github());
        assert!(!all.contains("hunter2"), "{all}");
        assert!(all.contains(shown), "{all}");
    }
}

#[test]
fn what_is_secret_by_its_name_is_not_shown_by_what_is_wrong_beside_it() {
    for line in [
        "roles: {any: x, passwd: hunter2}",
        "roles: {any: x, headers: {X-Api-Key: hunter2, other: y}}",
        "roles: {by_status: {token: hunter2}}",
        "roles: {by_status: {access-token: [hunter2], 1: x}}",
        "roles: {any: x, password: hunter2",
        "roles: {any: [x}, clientSecret: hunter2",
    ] {
        let partial = read(&format!("{VALID}    policies:\n      {line}\n"));
        let report = partial.source.report(partial.issues);
        let all = format!("{}{}{}", report.text(false), report.json(), report.github());
        assert!(!report.is_empty() && !all.contains("hunter2") && all.contains("*******"), "{all}");
    }
    // Found later, by somebody who does not know what stands where.
    let text = VALID.replace("[http://127.0.0.1:3000]", "[\"http://one\"], x-token: hunter2secret");
    let Partial { source, .. } = read(&text);
    let mut issues = Issues::new();
    let path = KeyPath::root().key("upstreams").key("app");
    issues.push(Issue::new(path, "`hunter2secret` is no name").hint("not `hunter2secret`".to_owned()));
    let shown = source.report(issues).text(false);
    assert!(shown.contains("`***` is no name") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_in_or_around_a_reference_that_cannot_be_filled_in_is_not_shown() {
    for value in [
        "${env:X:-hunter2",
        "${ENV:X:-hunter2}",
        "${enw:X:-hunter2}",
        "${X:-hunter2}",
        "${X:hunter2}",
        "${env:A B:-hunter2}",
        "${env::-hunter2}",
        "${env:X:hunter2}",
        "hunter2-${env:UNSET}",
        "hunter2-${file:/missing}",
        "${env:UNSET},hunter2",
        "${env:UNSET}#hunter2",
        "${env:UNSET}}hunter2",
        "${file:/missing}]hunter2",
        "${file:/missing:-hunter2}",
        "${env:X:-hunter2${env:Y}}",
        "${env:X-hunter2}",
        "${env hunter2}${env:Y",
    ] {
        for quoted in [format!("\"{value}\""), value.to_owned()] {
            let partial = read(&format!("{VALID}    policies:\n      token: {{secret: {quoted}}}\n"));
            let report = partial.source.report(partial.issues);
            let all = format!("{}{}{}", report.text(false), report.json(), report.github());
            assert!(!report.is_empty() && !all.contains("hunter"), "{quoted}: {all}");
        }
    }
}

#[test]
fn what_is_a_secret_in_some_places_is_not_shown_where_it_cannot_be_filled_in() {
    for line in ["hash: \"hunter2-${env:UNSET}\"", "key: \"${env:K:-hunter2\""] {
        let partial = read(&format!("{VALID}    policies:\n      token: {{{line}}}\n"));
        let report = partial.source.report(partial.issues);
        let all = format!("{}{}{}", report.text(false), report.json(), report.github());
        assert!(!report.is_empty() && !all.contains("hunter"), "{line}: {all}");
    }
}

#[test]
fn the_default_of_a_secret_is_one_and_is_not_shown() {
    for (policies, in_force) in [
        ("token: {secret: \"${env:NO:-hunter2}\", nope: 1}", true),
        ("token: {secret: \"a${env:NO:-hunter2}\", nope: 1}", true),
        ("token: {secret: \"${env:SECRET:-hunter3}\", nope: 1}", false),
        ("roles: {by_status: {access-token: \"${env:NO:-hunter2}\", 1: x}}", false),
        ("roles: {any: x, headers: {X-Api-Key: \"${env:NO:-hunter2}\"}}", false),
    ] {
        let partial = read(&format!("{VALID}    policies:\n      {policies}\n"));
        let defaulted: Vec<String> = partial.defaulted.iter().map(ToString::to_string).collect();
        assert_eq!(defaulted, if in_force { vec!["routes[0].policies.token.secret"] } else { vec![] }, "{policies}");
        assert!(partial.outside.iter().all(|(_, reference)| !reference.contains("hunter")), "{:?}", partial.outside);
        let path = KeyPath::root().key("routes").index(0).key("policies").key("token").key("secret");
        let mut issues = partial.issues;
        issues.push(Issue::new(path, "`hunter2` is too short"));
        let report = partial.source.report(issues);
        let all = format!("{}{}{}", report.text(false), report.json(), report.github());
        assert!(!report.is_empty() && !all.contains("hunter"), "{all}");
    }
    for policies in ["token: {secret: \"${env:NO:-}\"}", "token: {secret: \"${env:SECRET}$${env:A:-b}\"}"] {
        let partial = read(&format!("{VALID}    policies:\n      {policies}\n"));
        assert!(partial.defaulted.is_empty(), "{policies}");
    }
}

#[test]
fn as_much_as_is_no_secret_is_shown() {
    let text = "\
admin: {address: \"127.0.0.1:1\", address: \"127.0.0.1:2\"}
x: {key: hunter2, other: {key: /etc/a.key}}
listeners: [{name: http, address: 127.0.0.1:8080}]
routes:
  - name: a
    match: {path: /}
    respond: {status: \"${path.id\", body: \"${env:A-hunter2\", tpye: x}
";
    let partial = read(text);
    let shown = partial.source.report(partial.issues).text(false);
    for kept in ["address: \"127.0.0.1:2\"}", "/etc/a.key", "status: \"${path.id\", "] {
        assert!(shown.contains(kept), "{kept}: {shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}
