//! Secrets that stand in a file with mistakes: whatever is wrong, and wherever, nothing of them is told.

use armiger::app::{Source, check};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;

/// The secret, in two halves: none of them may show.
const SECRET: &str = "hunter2/Q7x+Vb9";
const HALVES: [&str; 2] = ["hunter2", "Q7x+Vb9"];

const GOOD: &str = "listeners: [{name: http, address: \"127.0.0.1:0\"}]
upstreams: {app: {endpoints: [\"http://127.0.0.1:1\"]}}
";

/// Where a value may stand, `@`, that is a secret by the name of its key, by its type or by its form; and where a mistake stands
/// beside it, `!`.
const PLACES: &[&str] = &[
    "admin: {address: \"127.0.0.1:9\", token: @ !}",
    "admin: {token: @ !}",
    "admin:\n  token: @\n  !",
    "identity: {a: {jwt: {issuer: a, audiences: [b], algorithms: [HS256], keys: {secret: @ !}}}}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], algorithms: [HS256], keys: {secrets: [@] !}}}}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], algorithms: [HS256], keys: {secrets: @ !}}}}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], secret: @ !}}}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], keys: @ !}}}",
    "identity: {a: {introspection: {url: \"https://a.test\", client_id: a, client_secret: @ !}}}",
    "identity: {a: {introspection: {url: \"https://a.test\", client_id: a, client_secrt: @ !}}}",
    "identity: {a: {api_keys: {keys: [{hash: @, subject: a !}]}}}",
    "identity: {a: {api_keys: {keys: [@] !}}}",
    "rate_limits: {redis: {url: \"redis://127.0.0.1:1\", password: @ !}}",
    "cache: {redis: {url: \"redis://127.0.0.1:1\", passwort: @ !}}",
    "upstreams: {b: {endpoints: [\"https://a.test\"], tls: {certificate: x, key: @ !}}}",
    "my_password: @\nnope: [!]",
    "x: {api_key: @ !}",
    "x:\n  - clientSecret: @\n    !",
    "x: {X-Auth-Token: [@, @] !}",
    "routes: [{name: a, match: {path: /, headers: {x-token: {exact: @ !}}}, respond: {}}]",
    "routes: [{name: a, match: {path: /}, policies: {headers: {request: {set: {Authorization: @ !}}}}, respond: {}}]",
    "routes: [{name: a, match: {path: /}, respond: {headers: {x-api-token: @ !}}}]",
    // Below a key that says it, and that nobody knows or that takes no such thing.
    "api_key: {a: @ !}",
    "api_key: {a: {b: [c, @ !]}}",
    "redis: {password: {b: @ !}}",
    "cache: {redis: {url: \"redis://127.0.0.1:1\", password: {b: @ !}}}",
    "cache: {redis: {url: \"redis://127.0.0.1:1\", password: [{b: {c: @ !}}]}}",
    "redis: {passwort: @ !}",
    "x: {tokne: {a: @ !}}",
    "my_passwords:\n  a:\n    b: @\n    !",
    "x: {keys: [{kid: a, value: @ !}]}",
    "x: {key: {a: @ !}}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], keys: [{value: @ !}]}}}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], keys: {secrets: [{a: @ !}]}}}}",
    "identity: {a: {api_keys: {keys: [{value: @, subject: a !}]}}}",
    "identity: {a: {api_keys: {values: [@] !}}}",
    "routes: [{name: a, match: {path: /, headers: {x-token: {is: @ !}}}, respond: {}}]",
    "routes: [{name: a, match: {path: /}, policies: {basic_auth: {users: {bob: @ !}}}, respond: {}}]",
];

/// The same within a text in double quotes, where it stands before the host of a URL.
const URLS: &[&str] = &[
    "rate_limits: {redis: {url: \"redis://u:@@127.0.0.1:1\" !}}",
    "cache: {redis: \"redis://u:@@127.0.0.1:1\" !}",
    "upstreams: {b: {endpoints: [\"http://u:@@127.0.0.1:1\"] !}}",
    "backend_url: \"redis://u:@@host\"\nnope: [!]",
    "x: {y: \"https://u:@@host/path\" !}",
    "identity: {a: {jwt: {issuer: a, audiences: [b], keys: {jwks_url: \"https://u:@@a.test/k\" !}}}}",
    "identity: {a: {jwt: {issuer: \"https://@@a.test\", audiences: [b] !}}}",
    "cache: {redis: {url: \"redis://u: @@127.0.0.1:1\" !}}",
    "cache: {redis: {url: \"redis://u:1/@@127.0.0.1:1\" !}}",
    "cache: {redis: {url: \"redis:/u:@@127.0.0.1:1\" !}}",
    "cache: {redis: {url: \"u:@@127.0.0.1:1\" !}}",
    "x: {y: \"https://token/@@host/path\" !}",
    "x: {y: \"https://u:@ @host/path\" !}",
    "x: {y: \"https://u:@@ host/path\" !}",
];

/// How it may be written: `§`.
const FORMS: &[&str] = &[
    "§",
    "\"§\"",
    "'§'",
    "\"§",
    "'§",
    "\"${env:UNSET:-§}\"",
    "'${env:UNSET:-§}'",
    "\"x${env:UNSET:-§}\"",
    "\"${env:UNSET:-§}x\"",
    "\"${env:UNSET-§}\"",
    "\"${UNSET-§}\"",
    "\"${UNSET:-§}\"",
    "\"${UNSET?§}\"",
    "\"${UNSET:§}\"",
    "\"${§}\"",
    "\"$§\"",
    "\"$(§)\"",
    "\"{{ § }}\"",
    "\"${ENV:UNSET:-§}\"",
    "\"${env:UNSET:-§\"",
    "\"${env:UNSET:-${env:X:-§}}\"",
    "\"${file:/missing/x:-§}\"",
    "\"§${env:UNSET}\"",
    "\"${env:UNSET}§\"",
    "\"§${file:/missing/x}\"",
    "${env:UNSET:-§}",
    "${env:UNSET}§",
    "[§]",
    "[\"${env:UNSET:-§}\"]",
    "[§",
    "\"§ §\"",
    "!!str §",
    "!§",
    "&a §",
    "*§",
    "§ §",
    "§#§",
    "§, §",
    "\"§\" §",
    "\"§\\q§\"",
    "|\n      §",
    "\"a\n      §\"",
    "\t§",
    "@§",
    "%§",
    "“§”",
];

/// What else may be wrong beside it. With a comma before it on the line of a mapping in braces.
const MISTAKES: &[&str] =
    &["", ", oops: 1", ", oops: [1", ", oops: \"1", ", *x", ", a: b: c", "}", ", name: ${X}", ", ? a"];

/// What must be seen all the same.
#[test]
fn what_is_no_secret_is_shown_though_a_name_above_says_so() {
    for (text, seen) in [
        ("upstreams: {auth-token: {endpoints: [\"http://127.0.0.1:1\"], timeout: 5s, protocol: h3}}", "protocol: h3"),
        ("identity: {a: {api_keys: {header: \"x key\", keys: []}}}", "x key"),
        ("identity: {a: {api_keys: {kyes: []}}}", "api_keys: {kyes:"),
        (
            "identity: {a: {jwt: {issuer: a, audiences: [b], algorithms: [HS999], keys: {secret: \"${env:S}\"}}}}",
            "HS999",
        ),
        ("routes: [{name: a, match: {path: \"/users/@me\"}, respond: {status: 999}}]", "/users/@me"),
        ("my_password: {a: hunter2}", "my_password: "),
    ] {
        let all = shown(&format!("{GOOD}{text}\n"));
        let lines: Vec<&str> = all.lines().filter(|line| line.contains(" | ")).collect();
        assert!(lines.iter().any(|line| line.contains(seen)), "{text}\n{all}");
    }
}

#[test]
fn a_secret_in_a_comment_is_not_told() {
    let mut told = Vec::new();
    for comment in ["password: §", "the token = §", "{secret: §}", "was redis://u:§@host", "u:§@host"] {
        keeps(&format!("{GOOD}nope: 1 # {}\n", comment.replace('§', SECRET)), &mut told);
    }
    assert!(told.is_empty(), "{}:\n{}", told.len(), told.join("\n----\n"));
}

/// A key may be one that is called by what it opens.
#[test]
fn a_secret_that_stands_as_a_key_is_not_told() {
    let mut told = Vec::new();
    for text in [
        "identity: {a: {api_keys: {keys: [{§}]}}}",
        "identity: {a: {api_keys: {keys: {§: {subject: a}}}}}",
        "identity: {a: {api_keys: {keys: [{§: billing}]}}}",
        "identity: {a: {api_keys: {§: billing}}}",
        "identity: {a: {jwt: {issuer: a, keys: [{§}]}}}",
        "cache: {redis: {password: {§: 1}}}",
        "api_key: {§: a}",
        "x: {keys: [{§}]}",
    ] {
        keeps(&format!("{GOOD}{}\n", text.replace('§', "hunter2/Q7x+Vb9")), &mut told);
        keeps(&format!("{GOOD}{}\n", text.replace('§', "hunter2Q7xyVb9AbC")), &mut told);
    }
    assert!(told.is_empty(), "{}:\n{}", told.len(), told.join("\n----\n"));
}

/// Every text that anybody is shown of a configuration.
fn shown(text: &str) -> String {
    let source = Source::Text { name: "secrets.yaml".into(), text: text.to_owned() };
    let machine = Machine { processors: 1, memory: None, files: None };
    match check(&source, &machine, 1, &Metrics::new(), Keeper::fresh()) {
        Ok(checked) => {
            let defaulted: Vec<String> = checked.snapshot.defaulted.iter().map(ToString::to_string).collect();
            // What stands in plain text for headers is no secret there.
            let config = if text.contains("headers") { String::new() } else { checked.snapshot.shown().to_string() };
            format!("{config}\n{defaulted:?}")
        }
        Err(report) => format!("{}\n{}\n{}\n{}", report.text(false), report.text(true), report.json(), report.github()),
    }
}

fn keeps(text: &str, told: &mut Vec<String>) {
    let all = shown(text);
    if HALVES.iter().any(|half| all.contains(half)) {
        told.push(format!(
            "{text}\n{}",
            all.lines()
                .filter(|line| HALVES.iter().any(|half| line.contains(half)))
                .take(3)
                .collect::<Vec<_>>()
                .join("\n")
        ));
    }
}

#[test]
fn no_secret_is_ever_told() {
    let mut told = Vec::new();
    let mut count = 0;
    // Each place with each form, and the mistakes in turn.
    let mut mistakes = MISTAKES.iter().cycle();
    let mut check = |place: &str, form: &str| {
        let is_line = place.contains("\n  !") || place.contains("\n    !");
        let mistake =
            mistakes.next().map_or("", |mistake| if is_line { mistake.trim_start_matches(", ") } else { mistake });
        let text = place.replace('!', mistake).replace('\u{1}', form).replace('§', SECRET);
        keeps(&format!("{GOOD}{text}\n"), &mut told);
        count += 1;
    };
    for form in FORMS {
        PLACES.iter().for_each(|place| check(&place.replace('@', "\u{1}"), form));
        // Within quotes that are there already.
        if !form.contains(['"', '\'', '\n', '\t', ' ', '#', '{', '[', '@']) || form.starts_with("\"${") {
            URLS.iter().for_each(|place| check(&place.replacen('@', "\u{1}", 1), form.trim_matches('"')));
        }
    }
    assert!(told.is_empty(), "{} of {count}:\n{}", told.len(), told.join("\n----\n"));
}

/// A key without a space behind its colon is one word with its value.
#[test]
fn a_secret_that_hangs_on_its_name_is_not_told() {
    let mut told = Vec::new();
    for name in ["secret", "token", "password", "client_secret", "x-api-key", "Authorization"] {
        for text in [
            format!("identity: {{a: {{jwt: {{issuer: a, audiences: [b], keys: {{{name}:{SECRET}}}}}}}}}"),
            format!("identity:\n  a:\n    introspection:\n      {name}:{SECRET}"),
            format!("identity:\n  a:\n    introspection:\n      url: nope\n      {name}:{SECRET}\n      nope: 1"),
            format!("admin: {{{name}:{SECRET}, nope: 1}}"),
            format!("admin:\n  {name}:{SECRET}"),
            format!("x: [{name}:{SECRET}]\nnope: ["),
            format!("x:\n- {name}:{SECRET}\n- [\nb: 1"),
            format!("{name}={SECRET}"),
            format!("admin:\n  {name} = {SECRET}"),
            format!("admin:\n  {name}={SECRET}\n  x: 1"),
        ] {
            keeps(&format!("{GOOD}{text}\n"), &mut told);
        }
    }
    assert!(told.is_empty(), "{}:\n{}", told.len(), told.join("\n----\n"));
}

/// Whoever forgets a colon makes of the name and its value one text, or of the file no YAML.
#[test]
fn a_secret_before_which_a_colon_is_missing_is_not_told() {
    let mut told = Vec::new();
    for name in ["secret", "token", "password", "client_secret", "x-api-key", "Authorization"] {
        for text in [
            format!("admin:\n  address: 127.0.0.1:9\n  {name} {SECRET}"),
            format!("admin:\n  {name} {SECRET}\n  address: 127.0.0.1:9"),
            format!("admin:\n  address: 127.0.0.1:9\n  {name} \"{SECRET}\""),
            format!("admin:\n  address: 127.0.0.1:9\n  {name}\t{SECRET}\n  x: 1"),
            format!("admin:\n  address: 127.0.0.1:9\n  \"{name}\" {SECRET}\n  x: 1"),
            format!("admin:\n  address: 127.0.0.1:9\n  {name} |\n    {SECRET}\n  x: 1"),
            format!("admin: {{address: \"127.0.0.1:9\", {name} {SECRET}}}"),
            format!("admin: {{{name} {SECRET}, nope: 1}}"),
            format!("admin: {{{name} {SECRET}, nope: \"1"),
            format!("x:\n  - {name} {SECRET}\n  nope: 1"),
            format!("{name} {SECRET}"),
            format!("cache: {{redis: {{url \"redis://u:{SECRET}@127.0.0.1:1\"}}}}"),
        ] {
            keeps(&format!("{GOOD}{text}\n"), &mut told);
        }
    }
    assert!(told.is_empty(), "{}:\n{}", told.len(), told.join("\n----\n"));
    let shown = shown(&format!("{GOOD}admin:\n  a: 1\n  token ${{env:X}} # a limit, token bucket\n"));
    assert!(shown.contains("token ${env:X} # a limit, token bucket"), "what is no secret is shown: {shown}");
}
