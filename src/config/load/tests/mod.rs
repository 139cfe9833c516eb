//! Files with mistakes and what is said of each; values and secrets that must not show.

use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::config::value::{HumanDuration, Mode, Secret, Setting};

mod secrets;
mod words;

/// A policy section as the real one is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Blocks {
    rate_limit: Setting<Vec<Rate>>,
    roles: Setting<Roles>,
    token: Setting<Token>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rate {
    burst: u32,
    #[serde(default)]
    share: f64,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    every: Option<HumanDuration>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Roles {
    any: Vec<String>,
    by_status: std::collections::BTreeMap<u16, HumanDuration>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Token {
    secret: Secret,
    #[serde(default)]
    many: Vec<Secret>,
}

const VALID: &str = "\
listeners:
  - {name: http, address: 127.0.0.1:8080}
upstreams:
  app: {endpoints: [http://127.0.0.1:3000]}
routes:
  - name: all
    match: {path: \"/{rest...}\"}
    proxy: {upstream: app}
";

fn environment() -> Environment {
    Environment::fixed([("SECRET", "hunter2hunter2"), ("PORT", "9000"), ("TRUE", "true"), ("BAD", "swordfish")])
}

fn read(text: &str) -> Partial<Blocks> {
    decode_partial("armiger.yaml", text, &environment())
}

/// `line:column message | hint` of every issue.
fn issues(text: &str) -> Vec<String> {
    let partial = read(text);
    let report = partial.source.report(partial.issues);
    report
        .marks()
        .map(|mark| format!("{}:{} {} | {}", mark.line, mark.column, mark.message, mark.hint.unwrap_or("")))
        .collect()
}

/// Issues of a file that is valid but for its policies, which begin in line 10 with column 7.
fn policy_issues(lines: &str) -> Vec<String> {
    let indented: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    issues(&format!("{VALID}    policies:\n{indented}"))
}

#[test]
fn a_valid_file_is_read() {
    let loaded = read(VALID).finish().unwrap();
    assert_eq!(loaded.document.routes[0].name, "all");
    assert_eq!(loaded.document.upstreams["app"].endpoints, ["http://127.0.0.1:3000"]);
    assert_eq!(loaded.document.listeners[0].limits.headers_max, 100);
}

const BROKEN: &str = "\
listeners:
  - name: http
    adress: 127.0.0.1:8080
    timeouts: {request_headers: 10}
upstreams:
  app:
    endpoints: http://127.0.0.1:3000
    timeouts: {connect: 1sec}
  app:
    endpoints: []
routes:
  - name: one
    match: {path: /, methods: GET}
    respond: {status: ok}
  - name: two
    match: {path: /two}
    policies: {roles: {any: [a]}, rate_limit: [{burst: 0x10, mode: shadwo}]}
    timout: 1s
    respond: {}
  - name: three
    respond: {}
";

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_its_order() {
    let found = issues(BROKEN);
    let places: Vec<&str> = found.iter().map(|issue| issue.split(" | ").next().unwrap_or("")).collect();
    assert_eq!(
        places,
        [
            "3:5 unknown key `adress`",
            "4:33 `10` has no unit",
            "7:16 expected a list, found `http://127.0.0.1:3000`",
            "8:25 `1sec` is no duration",
            "9:3 the key `app` stands here twice",
            "13:31 expected a list, found `GET`",
            "14:23 expected a whole number, found `ok`",
            "17:56 expected a whole number, found `0x10`",
            "17:68 unknown value `shadwo`",
            "18:5 unknown key `timout`",
            "20:5 the key `match` is missing",
        ]
    );
}

/// Each look into one is another reading of the whole file.
#[test]
fn a_key_that_stands_there_without_end_is_looked_into_a_few_times() {
    let repeated = "  timeouts: {idle: 1}\n".repeat(100);
    let found = issues(&format!("upstreams:\n app:\n{repeated}"));
    let told = |what: &str| found.iter().filter(|issue| issue.contains(what)).count();
    assert_eq!(told("stands here twice"), 99);
    assert!((2..=10).contains(&told("no unit")), "{found:#?}");
}

#[test]
fn what_could_be_read_stays_and_paths_count_as_the_file_does() {
    let text = "\
listeners: [{name: http, address: 127.0.0.1:8080}]
upstreams:
  bad: {endpoints: 1}
  good: {endpoints: [a]}
routes:
  - broken
  - name: fine
    match: {path: /}
    proxy: {upstream: nope}
";
    let mut partial = read(text);
    let document = partial.document.as_ref().unwrap();
    assert_eq!(document.routes.len(), 1);
    assert_eq!(document.routes[0].name, "fine");
    let routes = KeyPath::root().key("routes");
    let upstreams = KeyPath::root().key("upstreams");
    assert!(partial.source.is_lost(&routes));
    assert!(!partial.source.is_lost(&routes.index(0)));
    assert!(partial.source.is_lost(&upstreams.key("bad")));
    assert!(!partial.source.is_lost(&upstreams.key("good")));
    assert!(!partial.source.is_lost(&upstreams.key("nope")));

    let at = routes.index(0).key("proxy").key("upstream");
    partial.issues.push(unknown_name(at, "upstream", "nope", ["good"]).related(upstreams, "upstreams are here"));
    let Err(report) = partial.finish() else { panic!("there are issues") };
    let mark = report.marks().find(|mark| mark.message.starts_with("unknown upstream")).unwrap();
    assert_eq!((mark.line, mark.column, mark.path), (9, 23, "routes[1].proxy.upstream"));
    assert_eq!(mark.hint, Some("there is `good`"));
    assert!(report.text(false).contains("routes[1] \"fine\" › proxy › upstream"), "{report}");
}

#[test]
fn what_must_be_there_and_is_not_is_stood_in_for_and_nothing_is_said_of_that() {
    let text = "\
listeners: [{address: nonsense, timeouts: {keep_alive: 5}}]
routes:
  - policies: {token: {}, rate_limit: [{burst: x, share: y}]}
    respond: {status: ok}
";
    assert_eq!(
        issues(text),
        [
            "1:13 the key `name` is missing | add `name: …` to this entry",
            "1:23 expected an address such as `127.0.0.1:8080` or `unix:/run/armiger.sock`, found `nonsense` \
                 | write `IP:port`, such as `127.0.0.1:8080`",
            "1:56 `5` has no unit | write `5s` for seconds, or `5ms`",
            "3:5 the keys `name` and `match` are missing | add them to this entry",
            "3:16 the key `secret` is missing | add `secret: …` under `token`",
            "3:48 expected a whole number, found `x` | write digits only, such as `10`",
            "3:58 expected a number, found `y` | write digits, such as `10` or `0.5`",
            "4:23 expected a whole number, found `ok` | write digits only, such as `10`",
        ]
    );
    let mut partial = read(text);
    let document = partial.document.as_ref().unwrap();
    assert_eq!((document.listeners.len(), document.routes.len()), (1, 1));
    let listener = KeyPath::root().key("listeners").index(0);
    let route = KeyPath::root().key("routes").index(0);
    for path in [listener.key("name"), listener.key("address"), route.key("match"), route.clone()] {
        assert!(partial.source.is_lost(&path), "{path}");
    }
    assert!(!partial.source.is_lost(&listener.key("limits")));
    let before = partial.issues.len();
    partial.issues.push(Issue::new(listener.key("name"), "is odd"));
    partial.issues.push(Issue::new(route.key("match").key("path"), "is odd"));
    partial.issues.push(Issue::new(listener.key("via"), "is like the name").related(listener.key("name"), "this"));
    partial.issues.push(Issue::new(listener.key("via"), "is odd"));
    let report = partial.source.report(partial.issues);
    assert_eq!(report.len(), before + 1);
}

#[test]
fn a_file_without_what_it_must_have_is_looked_at_all_the_same() {
    assert_eq!(
        issues("log: {level: loud}\nupstreams: {a: {endpoints: []}, b: {}}\n"),
        [
            "1:1 the keys `listeners` and `routes` are missing | add them at the top of the file",
            "1:14 unknown value `loud` | write `error`, `warn`, `info`, `debug` or `trace`",
            "2:33 the key `endpoints` is missing | add `endpoints: …` under `b`",
        ]
    );
}

#[test]
fn the_text_of_a_plain_scalar_is_taken_as_it_stands() {
    for (written, read_as) in [
        ("1.10", "1.10"),
        ("0144", "0144"),
        ("yes", "yes"),
        ("true", "true"),
        ("1_000", "1_000"),
        ("\"a\\tb\"", "a\tb"),
        ("'it''s'", "it's"),
        ("a b  # comment", "a b"),
    ] {
        let loaded = read(&VALID.replace("name: all", &format!("name: {written}"))).finish().unwrap();
        assert_eq!(loaded.document.routes[0].name, read_as);
    }
    assert_eq!(
        issues(&VALID.replace("name: all", "name: null")),
        ["6:11 expected a text, found `null` | put quotes around `null` if it is a text, or remove the key"]
    );
}

#[test]
fn an_empty_block_takes_its_defaults() {
    let loaded = read(&format!("{VALID}admin:\ndefaults:\n  policies:\n")).finish().unwrap();
    assert!(loaded.document.defaults.policies.roles.is_inherit());
}

#[test]
fn off_switches_off_and_values_from_outside_have_the_type_of_their_place() {
    let text = format!(
        "{VALID}    policies:\n      roles: off\n      token: {{secret: \"${{env:SECRET}}\"}}\n      \
             rate_limit: [{{burst: \"${{env:PORT}}\", strict: \"${{env:TRUE}}\"}}]\n"
    );
    let loaded = read(&text).finish().unwrap();
    let policies = &loaded.document.routes[0].policies;
    assert!(policies.roles.is_off());
    assert_eq!(policies.token.on().unwrap().secret.expose(), "hunter2hunter2");
    let rate = &policies.rate_limit.on().unwrap()[0];
    assert_eq!((rate.burst, rate.strict), (9000, true));
    assert!(!format!("{:?}", loaded.document).contains("hunter2"));
    assert!(!serde_json::to_string(&loaded.document).unwrap().contains("hunter2"));
}

/// It stands in the file, whatever stands around it.
#[test]
fn a_file_gives_a_value_and_is_named_for_watching() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "from-file\n").unwrap();
    let text = format!("{VALID}    policies:\n      token: {{secret: \"${{file:secret}}\"}}\n");
    let path = directory.path().join("armiger.yaml");
    std::fs::write(&path, text).unwrap();
    let loaded = load::<Blocks>(&path).unwrap();
    assert_eq!(loaded.document.routes[0].policies.token.on().unwrap().secret.expose(), "from-file");
    assert_eq!(loaded.inputs.files()[1].path, directory.path().join("secret"));
}

#[test]
fn an_unreadable_file_is_a_report_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, message) in [
        (directory.path().join("none.yaml"), "there is no such file"),
        (directory.path().to_path_buf(), "this is a directory"),
        (file("empty.yaml", b""), "the file is empty"),
        (file("latin1.yaml", b"a: 1\nb: caf\xe9\n"), "the byte 0xe9 here is not UTF-8"),
        (file("huge.yaml", &vec![b'#'; FILE_MAX + 1]), "the file is larger than 1 MiB"),
    ] {
        let report = load::<Blocks>(&path).map(|_| ()).unwrap_err();
        let mark = report.marks().next().unwrap();
        assert_eq!(mark.message, message);
        assert!(mark.hint.is_some());
        assert!(report.text(false).contains(&path.display().to_string()), "{report}");
    }
    let report = load::<Blocks>(&file("latin1.yaml", b"a: 1\nb: caf\xe9\n")).map(|_| ()).unwrap_err();
    assert_eq!(report.marks().next().map(|mark| (mark.line, mark.column)), Some((2, 7)));
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = "\
x-times: &times {connect: 2s, idle: 3s}
listeners: [{name: http, address: 127.0.0.1:8080}]
upstreams:
  a: {endpoints: &hosts [http://127.0.0.1:1], timeouts: *times}
  b: {endpoints: *hosts, timeouts: {<<: *times, idle: 9s}}
routes: []
";
    let document = read(text).finish().unwrap().document;
    assert_eq!(document.upstreams["a"].timeouts.idle, HumanDuration::seconds(3));
    assert_eq!(document.upstreams["b"].timeouts.connect, HumanDuration::seconds(2));
    assert_eq!(document.upstreams["b"].timeouts.idle, HumanDuration::seconds(9));
    assert_eq!(document.upstreams["b"].endpoints, ["http://127.0.0.1:1"]);
}

#[test]
fn a_mistake_in_an_anchored_value_is_told_once_where_it_stands() {
    let text = "\
x-times: &times {connect: 2}
listeners: [{name: http, address: 127.0.0.1:8080}]
upstreams:
  a: {endpoints: [], timeouts: *times}
  b: {endpoints: [], timeouts: *times}
routes: []
";
    assert_eq!(issues(text), ["1:27 `2` has no unit | write `2s` for seconds, or `2ms`"]);
}

#[test]
fn a_bomb_of_aliases_is_refused_at_once() {
    let mut nodes = String::from("x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let below = format!("*a{}", level - 1);
        nodes.push_str(&format!("x-a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", ")));
    }
    let text = format!("x-a: &a \"{}\"\nx-b: [{}]\n", "x".repeat(100_000), ["*a"; 1000].join(", "));
    let mut deep = String::from("x-a0: &a0 []\n");
    for level in 1..1000 {
        deep.push_str(&format!("x-a{level}: &a{level} [*a{}]\n", level - 1));
    }
    for (bomb, message) in [
        (nodes, "the file is too large from here on"),
        (text, "the file is too large from here on"),
        (deep, "lists and mappings nest too deep here"),
        ("a: &a [*a]\n".into(), "an alias stands within what it stands for"),
        (format!("a: {}", "[".repeat(10_000)), "lists and mappings nest too deep here"),
        (format!("{}a", "- ".repeat(10_000)), "lists and mappings nest too deep here"),
    ] {
        let found = issues(&bomb);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains(message), "{found:?}");
    }
}

#[test]
fn a_file_of_nothing_but_mistakes_is_told_in_bounded_time_and_text() {
    let keys: String = (0..20_000).map(|n| format!("key{n}: 1\n")).collect();
    let routes: String = (0..5_000).map(|n| format!("  - {{name: [{n}]}}\n")).collect();
    for text in [format!("{VALID}{keys}"), VALID.replace("routes:\n", &format!("routes:\n{routes}"))] {
        let partial = read(&text);
        let report = partial.source.report(partial.issues);
        assert!(report.len() >= 100);
        let shown = report.text(false);
        assert!(shown.len() < 100_000);
        let last = shown.lines().last().unwrap();
        assert!(last.contains(&format!("`--format json` shows all {}", report.len())), "{last}");
    }
}

#[test]
fn the_report_has_a_form_for_each_reader() {
    let partial = read(&VALID.replace("upstream: app}", "upstreem: app}"));
    let report = partial.source.report(partial.issues);
    assert_eq!(
        report.text(false),
        "\
error: unknown key `upstreem`
 --> armiger.yaml:8:13
  |
8 |     proxy: {upstreem: app}
  |             ^^^^^^^^
  |
  = in: routes[0] \"all\" › proxy › upstreem
  = help: did you mean `upstream`?

1 issue
"
    );
    assert!(report.text(true).contains("\u{1b}["));
    assert_eq!(
        report.json(),
        serde_json::json!([{
            "file": "armiger.yaml", "line": 8, "column": 13, "end_line": 8, "end_column": 21,
            "path": "routes[0].proxy.upstreem", "message": "unknown key `upstreem`",
            "hint": "did you mean `upstream`?", "related": [],
        }])
    );
    assert_eq!(
        report.github(),
        "::error file=armiger.yaml,line=8,endLine=8,col=13,endColumn=21::unknown key `upstreem`%0A\
             in: routes[0] \"all\" › proxy › upstreem%0Ahelp: did you mean `upstream`?\n"
    );
}

#[test]
fn nothing_in_a_message_can_end_an_annotation() {
    let partial = decode_partial::<Blocks>("a,b:c%.yaml", "\"x\\n::error::y\": 1\n", &environment());
    let github = partial.source.report(partial.issues).github();
    assert!(github.starts_with("::error file=a%2Cb%3Ac%25.yaml,line=1,"), "{github}");
    assert!(github.lines().all(|line| line.starts_with("::error file=")), "{github}");
}

mod any_file {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let partial = read(text);
        let issues = partial.issues.len();
        match partial.finish() {
            Ok(_) => assert_eq!(issues, 0),
            Err(report) => {
                assert!(!report.is_empty(), "{text:?}");
                for form in [report.text(false), report.text(true), report.github(), report.json().to_string()] {
                    assert!(!form.is_empty());
                }
                for mark in report.marks() {
                    let lines = text.split('\n').count();
                    assert!(mark.line >= 1 && mark.line <= lines && mark.column >= 1, "{text:?}");
                    assert!(!mark.message.is_empty() && !mark.message.contains('\n'), "{text:?}: {mark:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn gives_a_document_or_a_report(
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n\t{}\\[\\]:&*\"'#|>!%@$é\u{feff}]{0,6}"), 1..5)
        ) {
            let mut text = format!("{BROKEN}{}", &VALID[11..]);
            for (at, length, with) in &cuts {
                let start = (0..=at.index(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                let end = (start + length..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
                text.replace_range(start..end.min(text.len()), with);
            }
            check(&text);
        }

        #[test]
        fn or_of_lines_in_another_order(order in prop::collection::vec(0usize..24, 0..30)) {
            let lines: Vec<&str> = BROKEN.lines().chain(VALID.lines()).collect();
            let text: String = order.iter().map(|at| format!("{}\n", lines[at % lines.len()])).collect();
            check(&text);
        }

        #[test]
        fn or_is_random_text(text in any::<String>()) {
            check(&text);
        }
    }
}
