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
    for (name, file) in [
        ("mistakes_of_form", include_str!("configs/mistakes_of_form.yaml")),
        ("mistakes_of_meaning", include_str!("configs/mistakes_of_meaning.yaml")),
    ] {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, told(file));
        });
    }
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
        "listeners: [{name: http, address: \"127.0.0.1:0\"}]\nroutes: [{name: a, match: {path: /}, respond: {}}]\n\
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

#[test]
fn a_bound_of_nothing_an_empty_list_and_a_name_that_nothing_has_are_told() {
    let told = told(
        "
listeners: [{name: http, address: \"127.0.0.1:0\", timeouts: {proxy_header: 0s, body_rate: 0s}}]
cache: {refreshes_max: 0, redis_entry_max: 0B, redis: {url: \"redis://127.0.0.1:1\", username: \"\"}}
upstreams:
  app:
    endpoints: [\"http://127.0.0.1:1\"]
    breaker: {trip: {min_requests: 0, ratio: 0.5}}
    ejection: {share_max: 0}
    retry: {budget: {ratio: 0, min_per_second: 0}}
identity: {staff: {jwt: {issuer: a, audiences: [b], keys: {jwks_url: \"https://a.test/k\"}, types: [], required_claims: [\"\"]}}}
routes:
  - name: a
    match: {path: /a, cookies: {\"a=b\": {present: true}}}
    policies:
      identity: {providers: [staff], from: {cookie: \"a=b\"}}
      roles: {any: [\"\", a]}
      cache: {entry_max: 0B}
      rate_limit: [{name: l, rate: 1/s, by: [\"cookie:a;b\"]}]
      in_flight: [{name: q, max: 1, queue: {max: 0, wait: 1s}}]
    respond: {content_type: \"\"}
  - {name: b, match: {path: /b}, aggregate: {errors_as: \"\", parts: {one: {upstream: app, path: /}}}}
  - {name: c, match: {path: /c}, aggregate: {parts: {one: {upstream: app, path: /, as: \"\"}}}}
",
    );
    assert_eq!(
        told,
        "\
listeners[0].timeouts.proxy_header: is too short
listeners[0].timeouts.body_rate: is too short
cache.refreshes_max: is 0, so what is stale would never be refreshed
cache.redis_entry_max: is 0B, so nothing could be kept there
cache.redis.username: is empty
upstreams.app.breaker.trip.min_requests: a share of `0` requests says nothing
upstreams.app.ejection.share_max: `0` would let nothing be ejected
upstreams.app.retry.budget: lets nothing be tried again
identity.staff.jwt.types: names no type, so every token would be refused
identity.staff.jwt.required_claims[0]: is empty
routes[0].match.cookies[\"a=b\"]: `a=b` is no cookie name
routes[0].policies.identity.from.cookie: is no name of one
routes[0].policies.roles.any[0]: is empty
routes[0].policies.cache.entry_max: is 0B, so nothing could be stored
routes[0].policies.rate_limit[0].by[0]: `a;b` is no cookie name
routes[0].policies.in_flight[0].queue.max: is 0, so nobody could wait
routes[0].respond.content_type: is empty
routes[1].aggregate.errors_as: is empty
routes[2].aggregate.parts.one.as: is empty
"
    );
    assert_eq!(
        self::told("listeners: [{name: http, address: \"127.0.0.1:0\"}]\nroutes: []\n"),
        "routes: names no route, so every answer would be a 404\n"
    );
}

#[test]
fn what_makes_sense_is_not_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let listeners = "listeners: [{name: http, address: \"127.0.0.1:0\"}]\n";
    let rest = "\
cache: {redis_entry_max: 0B}
upstreams:
  app:
    endpoints: [\"http://127.0.0.1:1\"]
    breaker:
      trip: {consecutive: 5, min_requests: 0}
      failure: {status: [], grpc: [], connect: false, timeout: false, reset: false}
routes:
  - name: a
    match: {path: /a, cookies: {\"prefs[theme]\": {present: true}}}
    policies: {rate_limit: [{name: l, rate: 1/s, cost: 0, by: [\"cookie:prefs[theme]\"]}]}
    proxy: {upstream: app}
";
    // Files with routes may come later.
    for text in [rest, "include: [\"conf.d/*.yaml\"]\nroutes: []\n"] {
        std::fs::create_dir_all(folder.path().join("conf.d")).expect("a folder");
        std::fs::write(&path, format!("{listeners}{text}")).expect("a temporary file");
        Armiger::binary(&["check", "-c", path.to_str().expect("a name of text")]).assert_code(0);
    }
    // What is named must be there, so no routes come with it later.
    std::fs::write(folder.path().join("more.yaml"), "upstreams: {}\n").expect("a temporary file");
    std::fs::write(&path, format!("include: [more.yaml]\n{listeners}routes: []\n")).expect("a temporary file");
    Armiger::binary(&["check", "-c", path.to_str().expect("a name of text")]).assert_code(1);
}

#[test]
fn one_mistake_is_told_once_however_many_it_concerns() {
    let told = of_routes(
        "  - name: a
    match: {path: /a}
    policies:
      roles: {any: [x]}
      scopes: {any: [y]}
      rate_limit: [{name: l, rate: 1/s, by: [\"claim:sub\"]}]
      headers: {request: {set: {x-a: \"${claims.sub}\"}}}
    saga_in_memory:
      steps:
        one: {upstream: app, path: /x, compensate: {path: /u}}
        two: {upstream: app, path: /y, compensate: {path: /u}}
",
    );
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].ends_with(", and this route knows none"), "{told:#?}");
    assert_eq!(told[1], "routes[0].saga_in_memory: changes something, and the route takes methods that must not");
}

/// They would reach upstreams as they stand here. What comes from outside may have anything in it.
#[test]
fn variables_of_other_proxies_are_no_values_of_headers() {
    let told = of_routes(
        "  - name: a
    match: {path: /a}
    policies:
      headers:
        request:
          set: {x-a: $remote_addr, x-b: \"%DOWNSTREAM_REMOTE_ADDRESS%\", x-c: \"$5\", x-d: \"100%\", x-e: \"%20\"}
          add: {x-f: \"a {{ .Foo }}\", x-h: \"${env:ARMIGER_NOBODYS_SECRET:-a$args}\"}
        response: {set: {x-g: $http_x}}
    respond: {}
",
    );
    let at = "routes[0].policies.headers";
    assert_eq!(
        told,
        format!(
            "{at}.request.set.x-a: `$remote_addr` is no variable here\n\
             {at}.request.set.x-b: `%DOWNSTREAM_REMOTE_ADDRESS%` is no variable here\n\
             {at}.request.add.x-f: `{{{{ .Foo }}}}` is no variable here\n\
             {at}.response.set.x-g: `$http_x` is no variable here\n"
        )
    );
}

#[test]
fn a_secret_beside_the_keys_that_it_belongs_to_is_told_where_to_go_and_not_shown() {
    let told = told(
        "listeners: [{name: http, address: \"127.0.0.1:0\"}]\nroutes: [{name: a, match: {path: /}, respond: {}}]\n\
         identity: {staff: {jwt: {issuer: a, audiences: [b], secret: hunter2}}, \
         other: {api_keys: {keys: [hunter2]}}}\n",
    );
    assert_eq!(
        told,
        "identity.staff.jwt.secret: unknown key `secret`\nidentity.other.api_keys.keys[0]: expected a mapping, found `***`\n"
    );
}

#[test]
fn what_may_be_a_secret_in_the_place_of_another_setting_is_not_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    let rest =
        "listeners: [{name: http, address: \"127.0.0.1:0\"}]\nroutes: [{name: a, match: {path: /}, respond: {}}]\n";
    for (text, place) in [
        ("admin: hunter2", "admin"),
        ("admin: [hunter2]", "admin"),
        (
            "identity: {staff: {jwt: {issuer: a, audiences: [b], keys: {secret: \"${env:HOME}\", secret_encoding: hunter2}}}}",
            "identity.staff.jwt.keys.secret_encoding",
        ),
        (
            "identity: {staff: {jwt: {issuer: a, audiences: [b], keys: {secret: \"${env:HOME}\", secret_encoding: [hunter2]}}}}",
            "identity.staff.jwt.keys.secret_encoding",
        ),
        ("rate_limits: {redis: hunter2}", "rate_limits.redis"),
        ("cache: {redis: hunter2}", "cache.redis"),
    ] {
        std::fs::write(&path, format!("{rest}{text}\n")).expect("a temporary file");
        for format in ["text", "json", "github"] {
            let path = path.to_str().expect("a name of text");
            let finished = Armiger::binary(&["check", "-c", path, "--format", format]);
            finished.assert_code(1);
            let all = format!("{}{}", finished.stdout, finished.stderr);
            assert!(!all.contains("hunter2") && (format != "json" || all.contains(place)), "{text}: {all}");
        }
    }
}
