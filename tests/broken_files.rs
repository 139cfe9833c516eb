//! Files that cease to be YAML somewhere, or have a second document: `armiger check` tells that, what is wrong before it, and
//! nothing that only follows from what could not be read.

use armiger::app::{Source, check};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;

const GOOD: &str = r#"admin: {address: "127.0.0.1:0"}
listeners:
  - name: http
    address: "127.0.0.1:0"
    timeouts: {keep_alive: 75s}
  - name: other
    address: "127.0.0.2:0"
identity:
  staff:
    jwt:
      issuer: "https://a.test"
      audiences: [b]
      keys: {jwks_url: "https://a.test/keys"}
upstreams:
  app:
    endpoints: ["http://127.0.0.1:1"]
    retry:
      attempts: 2
  orders:
    endpoints:
      - "http://127.0.0.1:2"
      - "http://127.0.0.1:3"
  reports: {endpoints: ["http://127.0.0.1:4"]}
defaults:
  policies:
    identity: {providers: [staff]}
routes:
  - name: one
    match: {path: "/a/{id}"}
    policies:
      roles: {any: [x]}
      headers:
        request:
          set: {x-id: "${path.id}"}
    proxy: {upstream: app}
  - name: two
    match:
      path: /b
    proxy:
      upstream: orders
  - name: three
    match: {path: /c}
    aggregate:
      parts:
        one: {upstream: app, path: /}
        two: {upstream: orders, path: /}
  - name: four
    match: {path: /d}
    respond:
      body: |
        a text
        over two lines
  - name: five
    match: {path: /e}
    redirect: {to: /a}
"#;

/// What is told of a file, a line for each: `line: message`.
fn told(text: &str) -> Vec<String> {
    let source = Source::Text { name: "broken.yaml".into(), text: text.to_owned() };
    let machine = Machine { processors: 1, memory: None, files: None };
    let Err(report) = check(&source, &machine, 1, &Metrics::new(), Keeper::fresh()) else { return Vec::new() };
    report.marks().map(|mark| format!("{}: {}", mark.line, mark.message)).collect()
}

#[test]
fn wherever_a_good_file_breaks_only_that_is_told() {
    assert_eq!(told(GOOD), [""; 0]);
    let breaks = ["\tx: 1", "\"unclosed", "  - - : [", "  key: \"a\" b", "key: \"a\" b", "   stray: {"];
    let lines: Vec<&str> = GOOD.lines().collect();
    for place in 0..=lines.len() {
        for broken in breaks {
            let text = [&lines[..place], &[broken], &lines[place..]].concat().join("\n");
            let found = told(&text);
            // Within the text over two lines, some of it is no break.
            assert!(found.len() <= 1, "{broken:?} before line {}: {found:#?}", place + 1);
        }
    }
}

#[test]
fn what_is_wrong_before_the_break_is_told_beside_it() {
    let wrong =
        GOOD.replace("keep_alive", "keepalive").replace("attempts", "atempts").replace("roles: {any", "roles: {ani");
    let broken = format!("{wrong}    proxy: {{upstream: app\n");
    assert_eq!(
        told(&broken),
        [
            "5: unknown key `keepalive`",
            "18: unknown key `atempts`",
            "31: unknown key `ani`",
            "56: this `{` is never closed"
        ]
    );
    // A part of an entry is no entry.
    let cut = GOOD.replace("    proxy: {upstream: app}\n  - name: two", "  proxy: {upstream: app}\n  - name: two");
    assert_eq!(told(&cut), ["35: a list goes on without a `-`"]);
}

#[test]
fn the_report_says_from_where_on_nothing_was_checked() {
    let source = Source::Text { name: "broken.yaml".into(), text: GOOD.replace("/d}", "/d") };
    let machine = Machine { processors: 1, memory: None, files: None };
    let report = check(&source, &machine, 1, &Metrics::new(), Keeper::fresh()).err().expect("it is broken");
    let json = report.json();
    let related = &json[0]["related"][0];
    assert_eq!(related["message"], "from here on nothing else was checked");
    // The entry that breaks, and the one before, which may have lost a part to it.
    assert_eq!(related["line"], 41);
}

#[test]
fn a_second_document_is_told_and_the_first_is_checked() {
    let wrong = GOOD.replace("keep_alive", "keepalive").replace("roles: {any", "roles: {ani");
    assert_eq!(
        told(&format!("{wrong}---\nadmin: {{adress: 1}}\npassword: [\n")),
        ["5: unknown key `keepalive`", "31: unknown key `ani`", "56: a second document begins here"]
    );
    // What the first lacks may stand in the second.
    let (first, second) = GOOD.split_once("upstreams:").expect("it has upstreams");
    assert_eq!(told(&format!("{first}---\nupstreams:{second}")), ["14: a second document begins here"]);
    assert_eq!(told(&format!("---\n# nothing\n---\n{GOOD}")), ["3: a second document begins here"]);
}

#[test]
fn what_stands_in_another_document_is_no_secret_less() {
    let source = Source::Text { name: "broken.yaml".into(), text: format!("{GOOD}--- {{password: hunter2}}\n") };
    let machine = Machine { processors: 1, memory: None, files: None };
    let report = check(&source, &machine, 1, &Metrics::new(), Keeper::fresh()).err().expect("it is broken");
    let shown = report.text(false);
    assert!(shown.contains("--- {password: ") && !shown.contains("hunter2"), "{shown}");
}
