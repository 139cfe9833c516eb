//! Files with mistakes and what is said of each; values and secrets that must not show.

use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::config::value::{HumanDuration, Mode, Secret, Setting};

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

#[test]
fn each_mistake_is_told_at_its_place_with_a_remedy() {
    for (policies, expected) in [
        ("roels: {}", "10:7 unknown key `roels` | did you mean `roles`?"),
        ("banana: {}", "10:7 unknown key `banana` | the keys here are `rate_limit`, `roles` and `token`"),
        ("upstreams: {}", "10:7 unknown key `upstreams` | `upstreams` goes beside `routes`, not in it"),
        ("name: x", "10:7 unknown key `name` | `name` goes beside `policies`, not in it"),
        ("roles: {any: admin}", "10:20 expected a list, found `admin` | write `[admin]`"),
        ("roles: {any: [[a]]}", "10:21 expected a text, found a list | write `a` alone, without `-` or `[ ]`"),
        (
            "roles: [admin]",
            "10:14 expected a mapping, found a list | remove the `[ ]`; the keys here are `any` and `by_status`",
        ),
        (
            "roles: [ admin ]",
            "10:14 expected a mapping, found a list | remove the `[ ]`; the keys here are `any` and `by_status`",
        ),
        (
            "roles:\n- admin",
            "10:7 expected a mapping, found a list | remove the `-`; the keys here are `any` and `by_status`",
        ),
        ("roles: {by_status: [a]}", "10:26 expected a mapping, found a list | write `name: …` instead of `[ ]`"),
        (
            "rate_limit: 5",
            "10:19 expected a list, found `5` | begin each entry with `- `; the keys here are `burst`, `share`, `strict`, `mode` and `every`",
        ),
        ("roles: on", "10:14 expected settings or `off`, found `on` | write its settings; `{}` takes all defaults"),
        (
            "roles:",
            "10:7 `roles` says nothing | write its settings, or `off`; without the key `roles` is as in `defaults`",
        ),
        ("rate_limit: {burst: 1}", "10:19 expected a list, found a mapping | put `[ ]` around it"),
        ("rate_limit: [{}]", "10:20 the key `burst` is missing | add `burst: …` to this entry"),
        ("rate_limit:\n  - share: 1", "11:11 the key `burst` is missing | add `burst: …` to this entry"),
        ("rate_limit: [{bursts: 1}]", "10:21 unknown key `bursts` | did you mean `burst`?"),
        ("rate_limit: [{burst: ten}]", "10:28 expected a whole number, found `ten` | write digits only, such as `10`"),
        ("rate_limit: [{burst: \"10\"}]", "10:28 expected a whole number, found the text `10` | remove the quotes"),
        (
            "rate_limit: [{burst: 0144}]",
            "10:28 expected a whole number, found `0144` | numbers are decimal and have no leading zero: write `144`, or `100` if octal was meant",
        ),
        (
            "rate_limit: [{burst: 0x14}]",
            "10:28 expected a whole number, found `0x14` | numbers are decimal: write `20`",
        ),
        (
            "rate_limit: [{burst: 1_000}]",
            "10:28 expected a whole number, found `1_000` | numbers have no separators: write `1000`",
        ),
        ("rate_limit: [{burst: 10.0}]", "10:28 expected a whole number, found `10.0` | write `10`"),
        ("rate_limit: [{burst: 1e3}]", "10:28 expected a whole number, found `1e3` | write `1000`"),
        ("rate_limit: [{burst: 10s}]", "10:28 expected a whole number, found `10s` | this number has no unit"),
        ("rate_limit: [{burst: -1}]", "10:28 `-1` is negative | write a number that is not negative"),
        ("rate_limit: [{burst: 4294967296}]", "10:28 `4294967296` is too large | the most is 4294967295"),
        (
            "rate_limit: [{burst: }]",
            "10:21 expected a whole number, found nothing | write a value after the colon, or remove the key",
        ),
        ("rate_limit: [{burst: 1, share: 50%}]", "10:38 expected a number, found `50%` | write a share of 1: `0.5`"),
        (
            "rate_limit: [{burst: 1, share: .nan}]",
            "10:38 expected a number, found `.nan` | write digits, such as `10` or `0.5`",
        ),
        ("rate_limit: [{burst: 1, strict: yes}]", "10:39 expected `true` or `false`, found `yes` | write `true`"),
        ("rate_limit: [{burst: 1, strict: Off}]", "10:39 expected `true` or `false`, found `Off` | write `false`"),
        (
            "rate_limit: [{burst: 1, strict: \"true\"}]",
            "10:39 expected `true` or `false`, found the text `true` | remove the quotes",
        ),
        (
            "rate_limit: [{burst: 1, mode: shadwo}]",
            "10:37 unknown value `shadwo` | did you mean `shadow`? it can be `enforce`, `shadow` or `off`",
        ),
        ("rate_limit: [{burst: 1, mode: maybe}]", "10:37 unknown value `maybe` | write `enforce`, `shadow` or `off`"),
        (
            "rate_limit: [{burst: 1, mode: [off]}]",
            "10:37 expected `enforce`, `shadow` or `off`, found a list | write one of them, without `-` or `[ ]`",
        ),
        ("rate_limit: [{burst: 1, every: 10}]", "10:38 `10` has no unit | write `10s` for seconds, or `10ms`"),
        (
            "rate_limit: [{burst: 1, every: [1s]}]",
            "10:38 expected a duration such as `10s`, found a list | write `1s` alone, without `-` or `[ ]`",
        ),
        (
            "roles: {by_status: {4o4: 1s}}",
            "10:27 expected a whole number, found `4o4` | a letter stands among the digits: write `404`",
        ),
        ("roles: {by_status: {404: 1s, 404: 2s}}", "10:36 the key `404` stands here twice | keep one of them"),
        ("roles: {}\nroles: off", "11:7 the key `roles` stands here twice | keep one of them"),
        (
            "token: {secret: abc}",
            "10:23 a secret stands in the file | write `${env:NAME}` or `${file:/path}`, and keep the secret where it cannot be read along",
        ),
        (
            "token: {secret: '${env:NONE}'}",
            "10:24 the environment variable `NONE` is not set | set it, or give a default: `${env:NONE:-…}`",
        ),
        ("roles: !x {}", "10:14 a value has a tag (`!…`) | remove the tag; put quotes around a text that needs them"),
        ("? [a]\n: 1", "10:9 a key is a list or a mapping | a key is a name; put quotes around an unusual one"),
        (
            "roles: {{ .Values.roles }}",
            "10:14 this looks like a template that was not filled in | render the template first; a text that really begins with `{{` needs quotes",
        ),
        (
            "<<: [1]",
            "10:11 `<<` takes the keys of a mapping, and this is none | write `<<: *name`, where `&name` marks a mapping above",
        ),
        ("${env:PORT}: 1", "10:7 a key cannot come from outside | only values are filled in; write the key out"),
    ] {
        assert_eq!(policy_issues(policies), [expected], "{policies}");
    }
}

#[test]
fn an_address_says_what_to_write() {
    for (address, expected) in [
        ("localhost:8080", "names are not looked up here: write `127.0.0.1:8080`"),
        (":8080", "write `0.0.0.0:8080`, or `127.0.0.1:8080` for this machine alone"),
        ("8080", "write `0.0.0.0:8080`, or `127.0.0.1:8080` for this machine alone"),
        ("127.0.0.1", "add the port: `127.0.0.1:8080`, `[::1]:8080`"),
        ("web", "write `IP:port`, such as `127.0.0.1:8080`"),
    ] {
        let text = VALID.replace("127.0.0.1:8080", &format!("'{address}'"));
        let expected = format!(
            "2:27 expected an address such as `127.0.0.1:8080` or `unix:/run/armiger.sock`, found the text `{address}` | {expected}"
        );
        assert_eq!(issues(&text), [expected]);
    }
}

#[test]
fn a_choice_with_a_value_is_read_and_its_misuse_told() {
    let with = |host: &str| VALID.replace("upstream: app}", &format!("upstream: app, host: {host}}}"));
    for host in ["preserve", "upstream", "{literal: example.com}"] {
        assert_eq!(issues(&with(host)), [""; 0], "{host}");
    }
    for (host, expected) in [
        ("literal", "8:34 `literal` needs a value | write `literal: …` below the key"),
        ("{preserve: 1}", "8:34 `preserve` takes no value | write `preserve` alone"),
        ("{literal: [a]}", "8:44 expected a text, found a list | write `a` alone, without `-` or `[ ]`"),
        (
            "{literl: a}",
            "8:35 unknown key `literl` | did you mean `literal`? it can be `preserve`, `upstream` or `literal`",
        ),
        (
            "{literal: a, preserve: b}",
            "8:34 expected `preserve`, `upstream` or `literal`, found a mapping | give just one of them",
        ),
    ] {
        assert_eq!(issues(&with(host)), [expected], "{host}");
    }
}

#[test]
fn what_yaml_refuses_is_told_in_plain_words() {
    for (text, expected) in [
        ("a: b: c\n", "1:5 a second `: ` in one line, or a key that is indented too deep"),
        ("a:\n\tb: 1\n", "2:1 a tab where YAML allows spaces only"),
        ("a:\n  - name: http\n\taddress: x\n", "3:1 a tab where YAML allows spaces only"),
        ("a:\n  b: 1\n\n  \tc: 1\n", "4:3 a tab where YAML allows spaces only"),
        ("a:\n  b: 1\n\tc: 1\n", "3:1 a tab where YAML allows spaces only"),
        ("a:\n  - b\n\t- c\n", "3:1 a tab where YAML allows spaces only"),
        ("- a\n-\tb: 1\n\tc: 2\n", "3:1 a tab where YAML allows spaces only"),
        ("a: [1,\n\t2\nb: 3\n", "3:2 a `:` here fits nothing before it"),
        ("a: \"b\0c\"\n", "1:6 a NUL character stands here"),
        ("a: b\u{1}c\n", "1:5 the control character `\\u{1}` stands here"),
        ("a: {x: [1}\n", "1:8 this `[` is closed by `}`"),
        ("a: [1, 2\nb: 3\n", "2:2 a `:` here fits nothing before it"),
        ("a: [1, 2", "1:4 this `[` is never closed"),
        ("a: \"x\nb: 1\n", "1:4 a quote that begins here is never closed"),
        ("a:\n  b: 1\n c: 2\n", "3:2 this is indented differently from the block that it is in"),
        ("a:\n  - b\n  c: 1\n", "3:3 a list goes on without a `-`"),
        ("a: @x\n", "1:4 a text cannot begin with `@`"),
        ("a: [*.example.com]\n", "1:5 an alias (`*name`) whose `&name` is nowhere above"),
        ("a: b\nfoo\nc: d\n", "2:1 a line that is neither `key: value` nor a list entry"),
        ("a: {x: ${env:A}}\n", "1:9 a `${…}` within `{ }` or `[ ]` needs quotes"),
        ("x-a: 1\n---\nb: 1\n", "2:1 a second document begins here"),
        ("%YAML 1.2\n---\na: 1\n", "1:1 a `%` directive"),
        ("", "1:1 the file is empty"),
        ("\u{feff} \n", "1:1 the file is empty"),
        ("# only this\n", "1:1 the file says nothing"),
        ("é: [\u{fc}, }\n", "1:4 this `[` is closed by `}`"),
    ] {
        let found = issues(text);
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        assert!(found[0].starts_with(&format!("{expected} | ")), "{text:?}: {found:?}");
        assert!(!found[0].ends_with("| "), "{text:?} has no remedy");
    }
}

#[test]
fn the_whole_file_may_be_wrong() {
    for (text, expected) in [
        ("just text", "1:1 expected a mapping, found `just text`"),
        ("- a\n", "1:1 expected a mapping, found a list"),
        ("{}", "1:1 the keys `listeners` and `routes` are missing | add them at the top of the file"),
        ("upstreams: {}", "1:1 the keys `listeners` and `routes` are missing"),
        ("routes: []", "1:1 the key `listeners` is missing | add `listeners: …` at the top of the file"),
    ] {
        let found = issues(text);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with(expected), "{text:?}: {found:?}");
    }
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
fn a_path_that_leads_nowhere_is_marked_at_what_is_nearest() {
    let loaded = read(VALID).finish().unwrap();
    let mut issues = Issues::new();
    issues.push(Issue::new(KeyPath::root().key("upstreams").key("app").key("pool").key("queue_max"), "x"));
    issues.push(Issue::new(KeyPath::root().key("routes").index(0), "y"));
    issues.push(Issue::new(KeyPath::root().key("routes").index(0).key("name"), "z"));
    issues.push(Issue::new(KeyPath::root().key("routes").index(0).key("name"), "z"));
    issues.push(Issue::new(KeyPath::root().key("routes").index(0).key("name"), "k").at_key());
    let report = loaded.report(issues);
    let places: Vec<_> = report.marks().map(|mark| (mark.line, mark.column, mark.message)).collect();
    assert_eq!(places, [(4, 3, "x"), (6, 5, "k"), (6, 5, "y"), (6, 11, "z")]);
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
fn a_key_of_the_match_beside_it_is_told_where_to_go() {
    let route = "  - name: all\n    path: /x\n    methods: [GET]\n    headers: {}\n    respond: {}\n";
    let text = format!("listeners: [{{name: http, address: 127.0.0.1:8080}}]\nroutes:\n{route}");
    assert_eq!(
        issues(&text),
        [
            "4:5 unknown key `path` | `path` goes under `match`",
            "5:5 unknown key `methods` | `methods` goes under `match`",
            "6:5 unknown key `headers` | headers that a request must have go under `match`; they are set and removed by `policies: {headers: {request: {set: {…}}}}`",
        ]
    );
}

#[test]
fn a_habit_of_other_formats_is_told_what_to_write_here() {
    let file = |upstreams: &str, route: &str| {
        format!(
            "listeners: [{{name: http, address: 127.0.0.1:8080}}]\n{upstreams}\nroutes:\n  - {{name: all, {route}}}\n"
        )
    };
    let good = "upstreams: {app: {endpoints: [http://127.0.0.1:1]}}";
    for (upstreams, route, expected) in [
        (good, "match: {path: /, methods: \"GET, POST\"}, respond: {}", "write `[GET, POST]`"),
        (good, "match: {path: /}, proxy: {upstream: app, host: a.test}", "write `{literal: a.test}`"),
        (
            "upstreams:\n  endpoints: [http://127.0.0.1:1]",
            "match: {path: /}, respond: {}",
            "`endpoints` is a key of such a mapping: indent it deeper, below the name that it belongs to",
        ),
        (
            "server_name: a.test",
            "match: {path: /}, respond: {}",
            "which hosts a route answers for stands under its match: `match: {hosts: [shop.example.com], path: /}`",
        ),
    ] {
        let found = issues(&file(upstreams, route));
        assert!(found.len() == 1 && found[0].ends_with(&format!(" | {expected}")), "{expected}: {found:#?}");
    }
}

#[test]
fn a_tab_is_told_of_the_key_that_it_stands_below() {
    for (text, path) in [
        ("listeners:\n  - name: http\n\taddress: x\n", "listeners"),
        ("upstreams:\n\tapp: {}\n", "upstreams"),
        ("upstreams:\n  app:\n    protocol: h2c\n\tendpoints: []\n", "upstreams.app"),
        ("upstreams:\n  app: \"a\n\tb", "upstreams.app"),
    ] {
        let partial = read(text);
        let report = partial.source.report(partial.issues);
        let broken = report.marks().next().unwrap();
        assert_eq!(broken.path, path, "{text:?}: {broken:?}");
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

#[test]
fn a_text_in_the_place_of_a_list_of_mappings_is_told_what_an_entry_has() {
    assert_eq!(
        issues("listeners: http\nroutes: []\n"),
        ["1:12 expected a list, found `http` | begin each entry with `- `; the keys here are `name`, `address`, \
                 `socket_access`, `tls`, `trusted_proxies`, `proxy_protocol`, `client_address`, `forwarded`, `http2_websocket`, `limits`, \
                 `timeouts` and `via`"]
    );
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

/// It stands in the file, whatever stands around it.
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
