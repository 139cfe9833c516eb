//! `armiger diff`: what a reload would change, told by meaning, by the real executable on real files.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Armiger, Finished};

const OLD: &str = "
listeners:
  - {name: http, address: 127.0.0.1:8080}
  - {name: side, address: 127.0.0.1:8081}
upstreams:
  app: {endpoints: [http://127.0.0.1:3000, http://127.0.0.1:3001]}
defaults:
  policies:
    cors: {origins: [https://shop.example.com]}
routes:
  - {name: orders, match: {path_prefix: /orders}, policies: {ip_filter: {allow: [10.0.0.0/8]}}, proxy: {upstream: app}}
  - {name: users, match: {path: '/users/{id}'}, proxy: {upstream: app}}
  - {name: old, match: {path: /old}, respond: {body: hello}}
";

const NEW: &str = "
listeners:
  - {name: http, address: 127.0.0.1:8080, limits: {connections_max: 20000}}
upstreams:
  app: {endpoints: [http://127.0.0.1:3000]}
defaults:
  policies:
    cors: {origins: [https://shop.example.com, https://x]}
routes:
  - {name: users, match: {path: '/users/{id}'}, proxy: {upstream: app}}
  - {name: orders, match: {path_prefix: /orders}, proxy: {upstream: app}}
";

/// Two files that live as long as this.
struct Files(TempDir);

impl Files {
    fn of(old: &str, new: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, yaml) in [("old.yaml", old), ("new.yaml", new)] {
            std::fs::write(folder.path().join(name), yaml).expect("a temporary file");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("the temporary folder has a name of text").to_owned()
    }

    fn diff(&self, flags: &[&str], environment: &[(&str, &str)]) -> Finished {
        let (old, new) = (self.path("old.yaml"), self.path("new.yaml"));
        let args: Vec<&str> = ["diff", &old, &new].into_iter().chain(flags.iter().copied()).collect();
        Armiger::binary_in(&args, environment)
    }
}

#[test]
fn changes_are_told_by_meaning_with_what_weakens_and_what_becomes_of_live_state() {
    let finished = Files::of(OLD, NEW).diff(&[], &[]);

    finished.assert_code(0);
    let lines: Vec<&str> = finished.stdout.lines().filter(|line| !line.starts_with("live state: ")).collect();
    assert_eq!(
        lines,
        [
            "listener http: limits.connections_max 10000 -> 20000 (weakens protection: a higher bound)",
            "listener side: removed",
            "upstream app: endpoints - http://127.0.0.1:3001",
            "routes users and orders: cors.origins + https://x (weakens protection: pages of more origins may call)",
            "route orders: ip_filter removed (weakens protection: every address may use the route)",
            "route old: removed",
        ]
    );
    assert!(finished.stdout.contains("\nlive state: listener side: dropped\n"), "{finished:#?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let finished = Files::of(OLD, &format!("# another comment\n{OLD}")).diff(&["--exit-code"], &[]);

    assert_eq!(finished.assert_code(0).stdout, "no change\n");
}

#[test]
fn a_script_learns_from_the_exit_code_whether_anything_changes_or_weakens() {
    let stricter = NEW.replace("connections_max: 20000", "connections_max: 5");
    for (old, new, code) in [(OLD, OLD, 0), (NEW, &stricter, 3), (OLD, NEW, 4)] {
        Files::of(old, new).diff(&["--exit-code"], &[]).assert_code(code);
        Files::of(old, new).diff(&[], &[]).assert_code(0);
    }
    let help = Armiger::binary(&["diff", "--help"]);
    assert!(help.stdout.contains("Exit with 3 if anything changes, and with 4"), "{help:#?}");
}

#[test]
fn a_program_gets_the_same_as_data() {
    let finished = Files::of(OLD, NEW).diff(&["--format", "json"], &[]);

    let report: Value = serde_json::from_str(&finished.assert_code(0).stdout).unwrap();
    assert_eq!(report["changes"]["weakens"], 3);
    assert_eq!(report["changes"]["left_out"], 0);
    let lines = report["changes"]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        lines[3],
        json!({
            "kind": "route", "names": ["users", "orders"], "more": 0, "what": "changed",
            "path": "cors.origins", "text": "+ https://x", "weakens": "pages of more origins may call",
        })
    );
    let state = report["state"].as_array().unwrap();
    assert!(
        state.contains(
            &json!({"kind": "listener", "name": "side", "what": "dropped", "text": "listener side: dropped"})
        ),
        "{report:#}"
    );
}

#[test]
fn a_bad_file_is_reported_instead_whichever_it_is() {
    let bad = OLD.replace("upstream: app", "upstream: nowhere");
    for (old, new, named) in [(&*bad, NEW, "old.yaml"), (OLD, &*bad, "new.yaml")] {
        let text = Files::of(old, new).diff(&["--exit-code"], &[]);
        let json = Files::of(old, new).diff(&["--format", "json"], &[]);

        text.assert_code(1);
        assert!(text.stdout.contains("unknown upstream `nowhere`") && text.stdout.contains(named), "{text:#?}");
        let issues: Value = serde_json::from_str(&json.assert_code(1).stdout).unwrap();
        assert_eq!(issues.as_array().map(Vec::len), Some(2), "{json:#?}");
    }
    let missing = Armiger::binary(&["diff", "/no/such/old.yaml", "/no/such/new.yaml"]);
    missing.assert_code(1);
    assert!(missing.stdout.contains("/no/such/old.yaml"), "{missing:#?}");
}

#[test]
fn a_secret_that_changes_is_told_and_never_shown() {
    let yaml = |file: &str| {
        format!(
            "
listeners: [{{name: http, address: 127.0.0.1:8080}}]
upstreams: {{app: {{endpoints: ['http://${{env:HOST}}:1']}}}}
routes:
  - name: all
    match: {{path: '/{{rest...}}'}}
    policies: {{headers: {{request: {{set: {{authorization: 'Bearer ${{file:{file}}}', x-plain: '${{env:PLAIN}}'}}}}}}}}
    proxy: {{upstream: app}}
"
        )
    };
    let files = Files::of(&yaml("one.txt"), &yaml("two.txt").replace("${env:PLAIN}", "plain"));
    std::fs::write(files.path("one.txt"), "swordfish").unwrap();
    std::fs::write(files.path("two.txt"), "barracuda").unwrap();
    let environment = [("HOST", "hidden.example"), ("PLAIN", "moonlight")];

    for flags in [&[][..], &["--format", "json"]] {
        let finished = files.diff(flags, &environment);

        finished.assert_code(0);
        assert!(finished.stdout.contains("changed"), "{finished:#?}");
        for secret in ["swordfish", "barracuda", "hidden.example", "moonlight"] {
            assert!(!finished.stdout.contains(secret) && !finished.stderr.contains(secret), "{finished:#?}");
        }
    }
    assert_eq!(
        files.diff(&[], &environment).stdout,
        "route all: headers.request.set.authorization changed\n\
         route all: headers.request.set.x-plain ${env:PLAIN} -> plain\n"
    );
}

#[test]
fn what_a_part_keeps_for_all_callers_weakens_whatever_the_part_is_called() {
    let of = |cache: &str| {
        format!(
            "listeners: [{{name: http, address: \"127.0.0.1:0\"}}]\nupstreams: {{app: {{endpoints: [\"http://127.0.0.1:1\"]}}}}\n\
             routes: [{{name: page, match: {{path: /, methods: [GET]}}, aggregate: {{parts: {{\"user-7\": {{upstream: app, path: /, cache: {cache}}}}}}}}}]\n"
        )
    };
    for (old, new, is_weaker) in [
        ("{}", "{shared_across_users: true}", true),
        ("{shared_across_users: true}", "{}", false),
        ("{vary_by: [\"header:x-a\", \"header:x-b\"]}", "{vary_by: [\"header:x-a\"]}", true),
        ("{vary_by: [\"header:x-a\"]}", "{vary_by: [\"header:x-a\", \"header:x-b\"]}", false),
    ] {
        let told = Files::of(&of(old), &of(new)).diff(&["--exit-code"], &[]);
        told.assert_code(if is_weaker { 4 } else { 3 });
        assert_eq!(told.stdout.contains("weakens protection: callers"), is_weaker, "{told:#?}");
    }
}
