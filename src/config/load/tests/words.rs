//! What is said of each mistake, where, and what to do about it.

use super::*;

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
fn a_text_in_the_place_of_a_list_of_mappings_is_told_what_an_entry_has() {
    assert_eq!(
        issues("listeners: http\nroutes: []\n"),
        ["1:12 expected a list, found `http` | begin each entry with `- `; the keys here are `name`, `address`, \
                 `socket_access`, `tls`, `trusted_proxies`, `proxy_protocol`, `client_address`, `forwarded`, `http2_websocket`, `limits`, \
                 `timeouts` and `via`"]
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
