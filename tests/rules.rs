//! `rules`: who may do what by expressions, what is told of a mistake in one, and of a change that lets more pass.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use serde_json::{Value, json};

use crate::harness::{Armiger, Backend, Config, Response, SECRET_YAML, Signer, claims};

const IDENTITY: &str = "identity: {providers: [staff]}";

fn section() -> String {
    format!(
        "identity: {{staff: {{jwt: {{issuer: \"https://id.test\", audiences: [api], keys: {{secret: {SECRET_YAML}}}}}}}}}"
    )
}

async fn with(backend: &Backend, policies: &str) -> Armiger {
    Armiger::with(Config::to(backend).top(&section()).policies(policies)).await
}

async fn refused(backend: &Backend, policies: &str) -> String {
    let config = Config::to(backend).top(&section()).policies(policies);
    Armiger::try_with(config).await.err().expect("must be refused")
}

async fn call(armiger: &Armiger, target: &str, changes: Value) -> Response {
    let token = Signer::secret("HS256").token(&claims(changes));
    let request = Request::get(target).header("authorization", format!("Bearer {token}"));
    armiger.request(request.body(Empty::<Bytes>::new()).expect("a valid request")).await
}

/// What the log says of the rules, enforced or in shadow.
async fn verdict(armiger: &Armiger, response: &Response, mode: &str) -> (Value, Value) {
    let id = response.header("x-request-id").to_owned();
    let line = armiger.logged(|line| line["request_id"] == *id).await;
    let rows = line["verdicts"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["policy"] == "rules" && row["mode"] == mode).unwrap_or_default();
    (row["verdict"].clone(), row["cause"].clone())
}

#[tokio::test]
async fn deny_beats_allow_and_what_nothing_allows_is_refused() {
    let backend = Backend::replies("ok").await;
    let policies = format!(
        "{IDENTITY}\nrules:
  - {{name: own, allow: \"request.path.endsWith('/' + subject) || query.all == 'yes'\"}}
  - {{name: suspended, deny: \"has(claims.suspended) && claims.suspended\"}}
  - allow: \"'admin' in roles\""
    );
    let armiger = with(&backend, &policies).await;
    for (target, changes, cause) in [
        ("/u/ada", json!({"sub": "ada"}), None),
        ("/u/ada?all=yes", json!({"sub": "bob"}), None),
        ("/u/ada", json!({"sub": "bob", "roles": ["admin"]}), None),
        ("/u/ada", json!({"sub": "ada", "suspended": false}), None),
        ("/u/ada", json!({"sub": "bob"}), Some("own:absent")),
        ("/u/ada?all=no", json!({"sub": "bob"}), Some("default")),
        ("/u/ada?all=yes&all=yes", json!({"sub": "bob"}), Some("own:ambiguous")),
        ("/u/ada", json!({"sub": "ada", "roles": ["admin"], "suspended": true}), Some("suspended")),
        // Not a yes or no: it cannot be told, and so it is refused.
        ("/u/ada", json!({"sub": "ada", "roles": ["admin"], "suspended": "yes"}), Some("suspended:types")),
    ] {
        let response = call(&armiger, target, changes.clone()).await;
        match cause {
            None => drop(response.assert_status(200)),
            Some(cause) => {
                response.assert_problem(403, "forbidden").assert_no_header("www-authenticate");
                assert!(!response.text().contains("own"), "{}", response.text());
                assert_eq!(verdict(&armiger, &response, "enforce").await, (json!("reject"), json!(cause)), "{changes}");
            }
        }
    }
    let decided = async |labels: &str| {
        armiger
            .metric(&format!("armiger_rule_decisions_total{{decision=\"{labels},route=\"everything\",rule=\"own\"}}"))
            .await
    };
    assert_eq!((decided("allow\"").await, decided("fault\"").await), (3.0, 3.0));
}

#[tokio::test]
async fn nobody_is_asked_who_they_are_where_a_rule_wants_to_know() {
    let backend = Backend::replies("ok").await;
    let rules = "rules: [{allow: \"method == 'GET' && request.path == '/open'\"}, {allow: \"has(claims.sub)\"}]";
    let armiger = with(&backend, &format!("identity: {{providers: [staff], caller: optional}}\n{rules}")).await;
    armiger.get("/open").await.assert_status(200);
    let response = armiger.get("/other").await;
    response.assert_problem(401, "token-missing").assert_header("www-authenticate", "Bearer realm=\"armiger\"");
    call(&armiger, "/other", json!({"sub": "ada"})).await.assert_status(200);
    // A route that knows nobody may have rules that ask for nobody.
    let armiger = with(&backend, "rules: [{allow: \"client_ip == '127.0.0.1' && !('x-no' in headers)\"}]").await;
    armiger.get("/").await.assert_status(200);
    let request = Request::get("/").header("x-no", "").body(Empty::<Bytes>::new()).expect("a valid request");
    armiger.request(request).await.assert_problem(403, "forbidden");
    let grpc = Request::get("/").header("x-no", "").header("content-type", "application/grpc");
    let response = armiger.request(grpc.body(Empty::<Bytes>::new()).expect("a valid request")).await;
    response.assert_status(200).assert_header("grpc-status", "7");
}

#[tokio::test]
async fn a_rule_in_shadow_tells_what_it_would_do() {
    let backend = Backend::replies("ok").await;
    let policies = format!(
        "{IDENTITY}\nrules: [{{allow: \"true\"}}, {{name: paid, deny: \"claims.plan != 'paid'\", mode: shadow}}, \
         {{allow: \"nothing.here\", mode: \"off\"}}]"
    );
    let told = refused(&backend, &policies).await;
    assert!(told.contains("`nothing` is nothing that is known here"), "a rule that is off must still be one\n{told}");
    let armiger = with(&backend, &policies.replace("nothing.here", "has(claims.x)")).await;
    for (plan, expected) in [("paid", (json!("pass"), Value::Null)), ("free", (json!("would_reject"), json!("paid")))] {
        let response = call(&armiger, "/", json!({"plan": plan})).await;
        response.assert_status(200);
        assert_eq!(verdict(&armiger, &response, "shadow").await, expected);
        assert_eq!(verdict(&armiger, &response, "enforce").await.0, "pass");
    }
}

#[tokio::test]
async fn mistakes_are_told_where_they_stand() {
    let backend = Backend::replies("ok").await;
    let report = refused(
        &backend,
        &format!(
            "{IDENTITY}\nrules:
  - allow: \"'admin' in rols\"
  - {{deny: 'path.order == 1'}}
  - allow: |
      method == 'GET'
        && subject > 1
  - {{name: x, allow: \"true\", deny: \"false\"}}
  - {{name: \"a b\"}}
  - {{name: x, allow: \"size(roles)\"}}
  - allow: \"host.matches('(')\""
        ),
    )
    .await;
    for part in [
        "`rols` is nothing that is known here",
        "did you mean `roles`?",
        "the route's path has no parameter `order`",
        "a text cannot be compared with a whole number",
        "both allows and denies",
        "neither allows nor denies",
        "`a b` is no rule name",
        "another rule is called `x`",
        "is a whole number, and not true or false",
        "is no regular expression",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    // The word itself is marked, and not the whole expression.
    let marked = |line: &str, word: &str| {
        let mut lines = report.lines().skip_while(|shown| !shown.contains(line));
        let (Some(shown), Some(marks)) = (lines.next(), lines.next()) else { panic!("{line} is not shown\n{report}") };
        let (start, end) = (marks.find('^').unwrap_or(0), marks.rfind('^').unwrap_or(0));
        assert_eq!(shown.get(start..=end), Some(word), "{report}");
    };
    marked("allow: \"'admin' in rols\"", "rols");
    marked("deny: 'path.order == 1'", "order");
    marked("&& subject > 1", ">");
    for (policies, part) in [
        ("rules: [{allow: \"'admin' in roles\"}]", "the rule asks who calls, and this route knows none"),
        ("rules: []", "has no rule"),
        ("rules: [{deny: \"method == 'PUT'\"}]", "allows nothing, so every request would be refused"),
    ] {
        let report = refused(&backend, policies).await;
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn a_change_that_lets_more_pass_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let diff = |old: &str, new: &str| {
        for (name, rules) in [("old.yaml", old), ("new.yaml", new)] {
            let text = format!(
                "listeners: [{{name: http, address: 127.0.0.1:8080}}]\n\
                 routes: [{{name: all, match: {{path: /}}, policies: {{rules: {rules}}}, respond: {{}}}}]\n"
            );
            std::fs::write(folder.path().join(name), text).expect("a temporary file");
        }
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        Armiger::binary_in(&["diff", &path("old.yaml"), &path("new.yaml")], &[]).stdout
    };
    const OLD: &str = "[{allow: 'method == \"GET\"'}, {deny: 'host == \"a\"'}]";
    for (new, weakens) in [
        ("[{allow: 'method == \"GET\"'}, {deny: 'host == \"a\"'}, {deny: 'host == \"b\"'}]", false),
        ("[{deny: 'host == \"a\"'}, {allow: 'method == \"GET\"'}]", false),
        ("[{allow: 'method == \"GET\"', name: get}, {deny: 'host == \"a\"'}]", false),
        ("[{allow: 'method == \"GET\"'}]", true),
        ("[{allow: 'method == \"GET\"'}, {deny: 'host == \"a\"', mode: shadow}]", true),
        ("[{allow: 'method == \"GET\"'}, {allow: 'true'}, {deny: 'host == \"a\"'}]", true),
        ("\"off\"", true),
    ] {
        let told = diff(OLD, new);
        assert_eq!(told.contains("weakens protection"), weakens, "{new}\n{told}");
        assert!(told.contains("rules"), "{told}");
    }
}
