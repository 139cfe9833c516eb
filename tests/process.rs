//! The real executable: its commands, exit codes, streams, variables and signals.

use std::io::BufRead;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Armiger, Backend, Client, Config, Finished, Process, Script, Signal, address_in, within};

/// A file that lives as long as this.
struct File {
    path: PathBuf,
    _folder: TempDir,
}

impl File {
    fn of(yaml: impl std::fmt::Display) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, yaml.to_string()).expect("a temporary file");
        Self { path, _folder: folder }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("the temporary folder has a name of text")
    }
}

fn good() -> Config {
    Config::empty().top("drain: {delay: 0s}").routes("- {name: a, match: {path: /a}, respond: {body: hello}}")
}

/// Two mistakes.
const BAD: &str = "
listeners:
  - {name: http, adress: 127.0.0.1:0}
routes:
  - {name: a, match: {path: /a}, proxy: {upstream: nowhere}}
";

fn client_of(process: &mut Process) -> Client {
    Client::to(address_in(&process.stderr_line("listener")))
}

// === check ===

/// Whoever reads the file knows it.
#[test]
fn a_secret_that_is_its_default_is_told_of_and_not_shown() {
    const OPEN: &str = "known-to-whoever-reads-the-file-of-old";
    let secret = format!("${{env:ARMIGER_TEST_OF_DEFAULTS:-{OPEN}}}");
    let file =
        File::of(good().top(&format!(
            "identity: {{staff: {{jwt: {{issuer: i, audiences: [a], keys: {{secret: \"{secret}\"}}}}}}}}"
        )));

    let told = Armiger::binary(&["check", "-c", file.path()]);
    let (check, set) = (["check", "-c", file.path()], [("ARMIGER_TEST_OF_DEFAULTS", "x".repeat(64))]);
    let silent = Armiger::binary_in(&check, &[(set[0].0, &set[0].1)]);
    let mut process = Armiger::spawn(&["run", "-c", file.path()]);
    let line = process.stderr_line("its default");

    assert!(told.assert_code(0).stderr.contains("identity.staff.jwt.keys.secret is its default"), "{told:#?}");
    assert!(!told.stderr.contains(OPEN) && !silent.assert_code(0).stderr.contains("default"), "{silent:#?}");
    assert!(line.contains("WARN") && line.contains("identity.staff.jwt.keys.secret") && !line.contains(OPEN), "{line}");
}

#[test]
fn a_good_file_is_said_to_be_so() {
    let file = File::of(good());

    let text = Armiger::binary(&["check", "--config", file.path()]);
    let json = Armiger::binary(&["check", "-c", file.path(), "--format", "json"]);
    let github = Armiger::binary(&["check", "-c", file.path(), "--format", "github"]);

    text.assert_code(0);
    assert!(text.stdout.is_empty() && text.stderr.contains("is good"), "{text:#?}");
    assert_eq!(json.assert_code(0).stdout.trim(), "[]");
    assert_eq!(github.assert_code(0).stdout, "");
}

#[test]
fn every_mistake_of_a_bad_file_is_reported_as_data() {
    let file = File::of(BAD);

    let text = Armiger::binary(&["check", "-c", file.path()]);
    let json = Armiger::binary(&["check", "-c", file.path(), "--format", "json"]);
    let github = Armiger::binary(&["check", "-c", file.path(), "--format", "github"]);

    text.assert_code(1);
    for part in ["adress", "did you mean `address`", "unknown upstream `nowhere`", ":3:", ":5:", "2 issues"] {
        assert!(text.stdout.contains(part), "{part:?} is missing: {text:#?}");
    }
    assert!(!text.stdout.contains('\u{1b}'), "no colours but at a terminal: {text:#?}");
    let issues: Value = serde_json::from_str(&json.assert_code(1).stdout).unwrap();
    let lines: Vec<&Value> = issues.as_array().unwrap().iter().map(|issue| &issue["line"]).collect();
    assert_eq!(lines, [3, 5], "{issues:#}");
    for issue in issues.as_array().unwrap() {
        assert_eq!(issue["file"], file.path());
        assert!(issue["message"].is_string() && issue["hint"].is_string() && issue["path"].is_string(), "{issue:#}");
    }
    let annotations: Vec<&str> = github.assert_code(1).stdout.lines().collect();
    assert_eq!(annotations.len(), 2, "{github:#?}");
    assert!(annotations[0].starts_with(&format!("::error file={},line=3,", file.path())), "{github:#?}");
    for finished in [text, json, github] {
        assert_eq!(finished.stderr, "");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error_too() {
    let finished = Armiger::binary(&["check", "-c", "/no/such/file.yaml"]);

    finished.assert_code(1);
    assert!(finished.stdout.contains("/no/such/file.yaml"), "{finished:#?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn a_wrong_command_line_is_told_apart_from_a_wrong_file() {
    for args in [
        &[][..],
        &["chek"],
        &["check", "--fromat", "json"],
        &["check", "--format", "xml"],
        &["run", "--workers", "many"],
        &["run", "--workers", "0"],
        &["purge", "--tag", ""],
        &["purge", "--all", "--tag", "x"],
        &["purge"],
        &["status", "--timeout", "0s"],
        &["breaker", "open", "app", "--for", "0s"],
        &["breaker", "open", ""],
        &["demo", "--port", "70000"],
        &["completions", "nosuchshell"],
    ] {
        let finished = Armiger::binary(args);

        finished.assert_code(2);
        assert!(finished.stdout.is_empty() && finished.stderr.contains("--help"), "{args:?}: {finished:#?}");

        let finished = Armiger::binary_in(args, &[("ARMIGER_LOG_FORMAT", "json")]);

        finished.assert_code(2);
        let message = only_message(&finished);
        assert!(!message.is_empty() && !message.contains('\n'), "{args:?}: {message}");
    }
    let help = Armiger::binary_in(&["--help"], &[("ARMIGER_LOG_FORMAT", "json")]);
    assert!(help.assert_code(0).stdout.contains("Usage: armiger") && help.stderr.is_empty(), "{help:#?}");
}

#[test]
fn commands_that_fail_say_so_in_the_form_asked_for() {
    let bad = File::of(BAD);
    for (args, says) in [
        (&["reload", "--admin", "127.0.0.1:1"][..], "nobody listens on"),
        (&["purge", "--all", "--admin", "127.0.0.1:1"], "nobody listens on"),
        (&["breaker", "show", "--admin", "127.0.0.1:1"], "nobody listens on"),
        (&["status", "-c", "/no/such/file.yaml"], "cannot tell from /no/such/file.yaml where the admin listener is"),
        (&["token", "mint", "-c", bad.path()], "the configuration is no good"),
        (&["demo", "--port", "0", "-c", bad.path()], "--port stands for"),
    ] {
        let finished = Armiger::binary_in(args, &[("ARMIGER_LOG_FORMAT", "json")]);

        finished.assert_code(1);
        assert!(only_message(&finished).contains(says), "{args:?}: {finished:#?}");
        let last = Armiger::binary(args).assert_code(1).stderr.lines().last().map(str::to_owned).unwrap_or_default();
        assert!(last.starts_with("armiger: ") && last.contains(says), "{args:?}: {last}");
    }
}

/// What the one line on standard error says, which is JSON as other messages are.
#[track_caller]
fn only_message(finished: &Finished) -> String {
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert!(lines.len() == 1 && finished.stdout.is_empty(), "{finished:#?}");
    let line: Value = serde_json::from_str(lines[0]).expect("JSON");
    assert_eq!(line["level"], "ERROR", "{line:#}");
    line["fields"]["message"].as_str().expect("a message").to_owned()
}

// === what is printed ===

#[test]
fn the_version_is_printed() {
    for args in [["version"], ["--version"]] {
        assert_eq!(Armiger::binary(&args).assert_code(0).stdout, "armiger 0.1.0\n");
    }
}

#[test]
fn help_is_data_and_says_what_each_command_does() {
    let help = Armiger::binary(&["--help"]);

    help.assert_code(0);
    for command in ["run", "check", "drain", "reload", "status", "keys", "schema", "demo", "completions", "version"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{help:#?}");
    }
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = Armiger::binary(&["completions", shell]);

        finished.assert_code(0);
        assert!(finished.stdout.contains("armiger") && finished.stdout.contains("completions"), "{shell}");
    }
}

#[test]
fn every_flag_has_its_variable() {
    for command in ["run", "check", "drain", "reload", "status", "schema", "demo", "completions"] {
        let help = Armiger::binary(&["help", command]);

        // A flag and its description, which ends where the next one begins.
        let help = help.assert_code(0).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let (_, options) = help.split_once("Options:").unwrap();
        let flags: Vec<&str> = options.split("--").skip(1).filter(|flag| !flag.starts_with("help")).collect();
        assert!(flags.len() >= 2, "{help}");
        for flag in flags {
            assert!(flag.contains("[env: ARMIGER_"), "--{flag} of `{command}`");
        }
    }
}

#[test]
fn variables_stand_for_flags() {
    let file = File::of(BAD);

    let check = Armiger::binary_in(&["check"], &[("ARMIGER_CONFIG", file.path()), ("ARMIGER_FORMAT", "json")]);
    let schema = Armiger::binary_in(&["schema"], &[("ARMIGER_SCHEMA_FORMAT", "markdown")]);
    let completions = Armiger::binary_in(&["completions"], &[("ARMIGER_SHELL", "fish")]);
    let flag_wins = Armiger::binary_in(&["schema", "--format", "json"], &[("ARMIGER_SCHEMA_FORMAT", "markdown")]);

    assert!(check.assert_code(1).stdout.starts_with('['), "{check:#?}");
    assert!(schema.assert_code(0).stdout.starts_with("# "), "{schema:#?}");
    assert!(completions.assert_code(0).stdout.contains("complete -c armiger"), "{completions:#?}");
    assert!(flag_wins.assert_code(0).stdout.starts_with('{'), "{flag_wins:#?}");
    let wrong = Armiger::binary_in(&["demo"], &[("ARMIGER_PORT", "x")]);
    assert!(wrong.assert_code(2).stderr.contains("--port"), "{wrong:#?}");
}

/// What of `value` the schema does not know: key paths.
fn unknown(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = root.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
        return unknown(root, schema, value, path, found);
    }
    let choices = ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()).flatten();
    let failures: Vec<Vec<String>> = choices
        .map(|choice| {
            let mut found = Vec::new();
            unknown(root, choice, value, path, &mut found);
            found
        })
        .collect();
    if let Some(least) = failures.iter().min_by_key(|found| found.len()) {
        return found.extend(least.iter().cloned());
    }
    match value {
        // Any JSON may stand here.
        Value::Object(_) if ["type", "properties", "enum", "const"].iter().all(|key| schema[*key].is_null()) => {}
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}.{key}");
                match (schema["properties"].get(key), &schema["additionalProperties"]) {
                    (Some(schema), _) => unknown(root, schema, value, &path, found),
                    (None, Value::Object(_)) => unknown(root, &schema["additionalProperties"], value, &path, found),
                    (None, _) => found.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (place, value) in items.iter().enumerate() {
                unknown(root, &schema["items"], value, &format!("{path}[{place}]"), found);
            }
        }
        _ if schema["type"] == "object" || schema["type"] == "array" => found.push(format!("{path} is no mapping")),
        _ => {}
    }
}

#[test]
fn the_schema_is_draft_2020_12_and_knows_the_example() {
    let finished = Armiger::binary(&["schema"]);
    let schema: Value = serde_json::from_str(&finished.assert_code(0).stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let example: Value = serde_saphyr::from_str(armiger::demo::EXAMPLE).unwrap();

    let mut found = Vec::new();
    unknown(&schema, &schema, &example, "", &mut found);
    assert_eq!(found, [""; 0]);

    // The walk above finds what is misspelt, wherever it stands.
    for (pointer, key) in [
        ("/listeners/0/limits", ".listeners[0].limits.typo"),
        ("/upstreams/app/timeouts", ".upstreams.app.timeouts.typo"),
        ("/routes/1/policies/headers/request", ".routes[1].policies.headers.request.typo"),
        ("/routes/1/match", ".routes[1].match.typo"),
    ] {
        let mut misspelt = example.clone();
        misspelt.pointer_mut(pointer).unwrap()["typo"] = 1.into();
        let mut found = Vec::new();
        unknown(&schema, &schema, &misspelt, "", &mut found);
        assert_eq!(found, [key]);
    }
}

#[test]
fn every_key_of_the_schema_says_what_it_does() {
    let finished = Armiger::binary(&["schema", "--format", "json"]);
    let schema: Value = serde_json::from_str(&finished.assert_code(0).stdout).unwrap();

    let kinds = schema["$defs"].as_object().unwrap().iter();
    let undescribed: Vec<String> = kinds
        .filter_map(|(kind, schema)| Some((kind, schema["properties"].as_object()?)))
        .flat_map(|(kind, properties)| properties.iter().map(move |(key, property)| (kind, key, property)))
        .filter(|(_, _, property)| property.get("description").is_none())
        .map(|(kind, key, _)| format!("{kind}.{key}"))
        .collect();

    assert!(undescribed.is_empty(), "{undescribed:?}");
}

// === run ===

#[tokio::test]
async fn it_runs_until_it_is_told_to_stop() {
    for signal in ["TERM", "INT"] {
        let file = File::of(good());
        let mut process = Armiger::spawn(&["run", "--config", file.path(), "--workers", "1"]);

        let client = client_of(&mut process);
        assert_eq!(client.get("/a").await.assert_status(200).text(), "hello");
        let admin = Client::to(address_in(&process.stderr_line("admin listening")));
        admin.get("/readyz").await.assert_status(200);
        let line = process.stdout_line("\"path\":\"/a\"");
        process.signal(signal);
        let finished = process.finish();

        finished.assert_code(0);
        assert!(finished.stderr.contains(&format!("SIG{signal}")), "{finished:#?}");
        assert_eq!(finished.stdout, line, "standard output is the access log and nothing else");
        serde_json::from_str::<Value>(&line).unwrap();
        assert!(client.is_refused().await);
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_end() {
    let signal = Signal::new();
    let script = Script::new().request().wait(&signal).write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
    let backend = Backend::raw(script).await;
    let file = File::of(Config::to(&backend).top("drain: {delay: 0s}"));
    let mut process = Armiger::spawn(&["run", "-c", file.path()]);
    let client = client_of(&mut process);

    let mut idle = client.raw("").await;
    let mut conversation = client.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.arrived(1).await;
    process.signal("TERM");
    process.stderr_line("stopping");
    idle.assert_closed().await;
    signal.send();
    let response = conversation.answer().await;
    conversation.assert_closed().await;
    let finished = process.finish();

    assert_eq!(response.assert_status(200).assert_header("connection", "close").text(), "done");
    finished.assert_code(0);
    assert!(finished.stdout.contains("\"status\":200"), "its line is written too: {finished:#?}");
}

#[test]
fn a_bad_file_does_not_run() {
    let file = File::of(BAD);

    let finished = Armiger::binary(&["run", "-c", file.path()]);

    finished.assert_code(1);
    assert!(finished.stdout.is_empty() && finished.stderr.contains("did you mean `address`"), "{finished:#?}");
    assert_eq!(finished.stderr.lines().last(), Some("armiger: the configuration is not usable"));
}

/// On Linux what is written to `/dev/full` fails, as on a disk that is full.
#[test]
fn a_message_that_nobody_can_read_changes_nothing() {
    let file = File::of(BAD);
    for args in [["run", "-c", file.path()], ["status", "--admin", "127.0.0.1:1"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_armiger"));
        let status = command.args(args).stdout(std::process::Stdio::null()).stderr(full).status().unwrap();

        assert_eq!(status.code(), Some(1), "{args:?}");
    }
}

/// As where whoever collects logs hangs: probes are answered and the end comes all the same.
#[tokio::test]
async fn a_standard_error_that_nobody_reads_holds_nobody_up() {
    let file = File::of(good());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_armiger"))
        .args(["run", "-c", file.path(), "--workers", "1"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let admin = Client::to(address_in(&lines.find(|line| line.contains("admin listening")).unwrap()));

    // What changes something is logged: in all more than a pipe holds, and than is kept for one.
    let targets: Vec<String> = (0..10).map(|_| format!("/{}", "x".repeat(3000))).collect();
    for _ in 0..60 {
        let body = serde_json::json!({"prefix": targets}).to_string();
        within("the purge", admin.post("/cache/purge", body)).await.assert_status(200);
    }
    within("the probe", admin.get("/livez")).await.assert_status(200);
    let metrics = admin.get("/metrics").await;
    let dropped = metrics.text().lines().find_map(|line| line.strip_prefix("armiger_messages_dropped_total "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() > 0, "what is left out is counted");

    let told = std::process::Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let ended = within("the end", tokio::task::spawn_blocking(move || child.wait())).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    drop(lines);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = Backend::replies("here first").await;
    let listener = File::of(good().listener(&format!("address: {}", taken.address())));
    let admin = File::of(good().top(&format!("admin: {{address: \"{}\"}}", taken.address())));

    for (file, what) in [(&listener, "listener `http`"), (&admin, "admin")] {
        let path = file.path().to_owned();
        let finished = tokio::task::spawn_blocking(move || Armiger::binary(&["run", "-c", &path])).await.unwrap();

        finished.assert_code(1);
        assert!(finished.stdout.is_empty(), "{finished:#?}");
        assert_eq!(finished.stderr.lines().count(), 1, "the reason and nothing else: {finished:#?}");
        for part in [taken.address().to_string().as_str(), what, "in use"] {
            assert!(finished.stderr.contains(part), "{part:?} is missing: {finished:#?}");
        }
    }
}

#[tokio::test]
async fn messages_have_a_form_and_a_level() {
    let file = File::of(good());
    let environment = [("ARMIGER_CONFIG", file.path()), ("ARMIGER_LOG_FORMAT", "json"), ("ARMIGER_WORKERS", "2")];

    let mut json = Armiger::spawn_in(&["run"], &environment);
    let line = json.stderr_line("admin listening");
    json.signal("TERM");
    json.finish().assert_code(0);
    let message: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&message["level"], &message["fields"]["message"]), (&"INFO".into(), &"admin listening".into()));

    let environment = [("ARMIGER_CONFIG", file.path()), ("ARMIGER_LOG_LEVEL", "error")];
    let taken = Backend::replies("here first").await;
    let silent = File::of(good().listener(&format!("address: {}", taken.address())));
    let finished = Armiger::binary_in(&["run", "-c", silent.path()], &environment);
    assert!(finished.assert_code(1).stderr.starts_with("armiger: cannot listen"), "{finished:#?}");
    assert!(finished.stderr.contains("; stop what listens there, or choose another address"), "{finished:#?}");
    // An address by default stands nowhere in the file.
    let second = File::of(good().top(&format!("admin: {{address: \"{}\"}}", taken.address())));
    let finished = Armiger::binary_in(&["run", "-c", second.path()], &environment);
    assert!(finished.assert_code(1).stderr.contains("another address (key `admin.address`)"), "{finished:#?}");

    // Why it does not start has the form of all other messages, at any level.
    let bad = File::of(BAD);
    for (file, says) in [(&silent, "cannot listen on"), (&bad, "the configuration is not usable")] {
        for level in ["info", "off"] {
            let environment = [("ARMIGER_LOG_FORMAT", "json"), ("ARMIGER_LOG_LEVEL", level)];
            let finished = Armiger::binary_in(&["run", "-c", file.path()], &environment);
            let lines: Vec<&str> = finished.assert_code(1).stderr.lines().collect();
            assert_eq!(lines.len(), 1, "{finished:#?}");
            let message: Value = serde_json::from_str(lines[0]).unwrap();
            assert_eq!(message["level"], "ERROR");
            assert!(message["fields"]["message"].as_str().is_some_and(|text| text.starts_with(says)), "{message}");
            let issues = message["fields"]["issues"].as_array().map_or(0, Vec::len);
            assert_eq!(issues > 0, says.ends_with("usable"), "{message}");
        }
    }
}

// === demo ===

#[test]
fn a_port_that_the_demo_cannot_give_is_not_ignored() {
    let file = File::of(good());

    let finished = Armiger::binary(&["demo", "--port", "0", "--config", file.path()]);

    finished.assert_code(1);
    assert!(finished.stderr.contains("--port stands for the port of 127.0.0.1:8080"), "{finished:#?}");
}

/// The demo's back ends have fixed ports, for `--config` to name them. Where they are taken, by another demo on the same
/// machine, it must say so and how to go on.
#[tokio::test]
async fn the_demo_serves_the_example_until_ctrl_c() {
    let mut process = Armiger::spawn(&["demo", "--port", "0"]);
    let first = process.stderr_line("127.0.0.1:");
    if first.contains("cannot listen") {
        assert!(first.contains("7001") || first.contains("7002") || first.contains("7003") || first.contains("9901"));
        process.finish().assert_code(1);
        return;
    }

    let address = address_in(&first);
    process.stderr_line(&format!("curl -i http://{address}/users/7"));
    let client = Client::to(address);
    assert_eq!(client.get("/users/7").await.assert_status(200).json()["id"], "7");
    assert_eq!(client.get("/app/echo?x=1").await.assert_status(200).json()["path"], "/echo");
    let batch = process.stderr_line("/batch");
    assert!(batch.contains("-H 'content-type: application/json'"), "{batch}");
    let line = process.stdout_line("/users/7");
    assert!(line.contains(" GET /users/7 200 "), "lines for people: {line}");
    process.signal("INT");
    let finished = process.finish();

    finished.assert_code(0);
    assert!(finished.stderr.contains("stopping"), "{finished:#?}");
    assert!(client.is_refused().await);
}

// === what operators do ===

#[tokio::test]
async fn orders_at_a_shell_are_done_and_told_in_the_log_with_whom_they_are_about() {
    let (one, other) = (Backend::replies("one").await, Backend::replies("other").await);
    let config = Config::to_url(&format!("{}\", \"{}", one.url(), other.url()))
        .top("drain: {delay: 0s}")
        .upstream("breaker: {scope: endpoint, trip: {consecutive: 1}}")
        .policies("cache: {ttl: {default: 1m}}");
    let file = File::of(config);
    let mut process = Armiger::spawn(&["run", "--config", file.path(), "--workers", "1"]);
    let admin = address_in(&process.stderr_line("admin listening")).to_string();
    let run = async |args: &[&str]| {
        let args: Vec<String> = args.iter().chain(&["--admin", admin.as_str()]).map(ToString::to_string).collect();
        let run = move || Armiger::binary(&args.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };

    let endpoint = one.address().to_string();
    let opened = run(&["breaker", "open", "app", "--endpoint", &endpoint, "--for", "1m"]).await;
    assert_eq!(opened.assert_code(0).stdout, "1 breaker of `app` held open for 60s\n");
    let shown = run(&["breaker", "show", "app"]).await;
    let shown: Value = serde_json::from_str(&shown.assert_code(0).stdout).expect("JSON");
    let rows: Vec<_> =
        shown.as_array().expect("a list").iter().map(|row| (&row["endpoint"], &row["forced"]["state"])).collect();
    assert!(rows.contains(&(&endpoint.as_str().into(), &"open".into())) && rows.len() == 2, "{shown:#}");
    assert!(run(&["breaker", "show", "nobody"]).await.assert_code(1).stderr.contains("there is app"));
    let asked = process.stderr_line("an operator asks");
    assert!(asked.contains("/breakers/{name}") && asked.contains("app"), "{asked}");

    run(&["purge", "--url", "http://h.test/a?token=hunter2", "--tag", "shoes"]).await.assert_code(0);
    let purged = process.stderr_line("cache purged");
    assert!(
        purged.contains("http://h.test/a?***") && purged.contains("shoes") && !purged.contains("hunter2"),
        "{purged}"
    );

    process.signal("TERM");
    process.finish().assert_code(0);
}

#[tokio::test]
async fn an_edit_that_is_refused_is_told_once_though_somebody_asks_for_it() {
    let file = File::of(good());
    let mut process = Armiger::spawn(&["run", "--config", file.path(), "--workers", "1"]);
    let admin = address_in(&process.stderr_line("admin listening")).to_string();

    std::fs::write(file.path(), BAD).unwrap();
    process.stderr_line("the configuration was refused");
    let asked = tokio::task::spawn_blocking(move || Armiger::binary(&["reload", "--admin", &admin])).await.unwrap();
    process.stderr_line("is refused as before");
    process.signal("TERM");
    let finished = process.finish();

    assert!(asked.assert_code(1).stdout.contains("did you mean `address`"), "whoever asks is told: {asked:#?}");
    assert_eq!(finished.stderr.matches("did you mean `address`").count(), 1, "{finished:#?}");
}

#[tokio::test]
async fn only_what_goes_down_is_a_warning() {
    let backend = Backend::with(|_| crate::harness::answer(200, "")).await;
    let config = Config::to_url(&format!("{}\", \"http://127.0.0.1:1", backend.url()))
        .top("drain: {delay: 0s}")
        .upstream("health: {path: /, interval: 100ms, interval_ill: 100ms}");
    let file = File::of(config);
    let mut process = Armiger::spawn(&["run", "--config", file.path(), "--workers", "1"]);

    let well = process.stderr_line("is_well=true");
    assert!(well.contains("INFO") && well.contains(&backend.address().to_string()), "{well}");
    let ill = process.stderr_line("is_well=false");
    assert!(ill.contains("WARN") && ill.contains("127.0.0.1:1"), "{ill}");

    process.signal("TERM");
    process.finish().assert_code(0);
}

/// Standard output is data, so what is to be known besides stands on standard error, in whatever form the data is.
#[test]
fn check_tells_of_a_secret_that_is_its_default_in_each_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let text = "listeners: [{name: http, address: \"127.0.0.1:0\"}]\nadmin: {address: \"127.0.0.1:0\", token: \"${env:UNSET:-hunter2hunter2hunter2}\"}\n\
                routes: [{name: a, match: {path: /}, respond: {}}]\n";
    std::fs::write(&path, text).unwrap();
    for (format, data) in [("text", ""), ("json", "[]\n"), ("github", "")] {
        let finished = Armiger::binary(&["check", "--config", path.to_str().unwrap(), "--format", format]);
        assert_eq!(finished.assert_code(0).stdout, data, "{format}");
        assert!(finished.stderr.contains("admin.token is its default"), "{format}: {finished:#?}");
        assert!(!finished.stderr.contains("hunter2"), "{format}: {finished:#?}");
    }
}

#[test]
fn check_warns_of_what_may_be_other_than_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let text = |admin: &str, method: &str| {
        format!(
            "listeners: [{{name: http, address: \"127.0.0.1:0\"}}]\nadmin: {{address: \"{admin}:0\"}}\n\
             routes: [{{name: a, match: {{path: /, methods: [{method}]}}, respond: {{}}}}]\n"
        )
    };
    let check = |text: String| {
        std::fs::write(&path, text).unwrap();
        Armiger::binary(&["check", "-c", path.to_str().unwrap()])
    };
    let finished = check(text("0.0.0.0", "GTE"));
    let stderr = &finished.assert_code(0).stderr;
    assert!(stderr.contains("warning: other machines can reach the admin listener and no `admin.token`"), "{stderr}");
    assert!(stderr.contains("warning: route `a` is for the method `GTE`, which no standard has: did you mean `GET`?"));
    let finished = check(text("127.0.0.1", "PURGE"));
    assert!(!finished.assert_code(0).stderr.contains("warning"), "{finished:#?}");
}

#[test]
fn a_file_without_its_flag_is_answered_with_the_flag() {
    for form in ["text", "json"] {
        let finished = Armiger::binary(&["--log-format", form, "check", "my.yaml"]);
        assert!(
            finished.assert_code(2).stderr.contains("write `-c my.yaml` to name the configuration"),
            "{finished:#?}"
        );
    }
    let finished = Armiger::binary(&["check", "--fast"]);
    assert!(!finished.assert_code(2).stderr.contains("write `-c"), "{finished:#?}");
}
