//! What of it is shown, and how.

use super::*;

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
