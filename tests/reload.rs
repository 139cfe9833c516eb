//! Edits while traffic flows: what comes into force, what survives, what is refused, and that nobody notices.

use std::fmt::Display;
use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::harness::{Armiger, Backend, Client, Config, Files, Load, Response, address_in, streamed, within};

/// armiger on a file, and the file.
async fn on(yaml: impl Display) -> (Files, Armiger) {
    let files = Files::of(yaml);
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    (files, armiger)
}

/// One route `a` that answers with this.
fn answering(body: impl Display) -> Config {
    Config::empty().routes(&format!("- {{name: a, match: {{path: /a}}, respond: {{body: \"{body}\"}}}}"))
}

/// POSTs to the admin listener, as a program does.
async fn ask(armiger: &Armiger, path: &str) -> Response {
    let request = http::Request::post(path).header("accept", "application/json");
    armiger.admin().request(request.body(Full::<Bytes>::default()).unwrap()).await
}

/// The lines of a report: of `changes`, each with its subject.
fn told(report: &Value, what: &str) -> String {
    report[what].to_string()
}

// === edits ===

#[tokio::test]
async fn an_edit_comes_into_force_however_it_is_saved() {
    let (files, armiger) = on(answering("1")).await;
    armiger.get("/a").await.assert_status(200);
    type Save = fn(&Files, Config);
    let ways: [(&str, Save); 3] = [
        ("written in place", |files, yaml| files.write("config.yaml", yaml)),
        ("renamed over", |files, yaml| files.replace("config.yaml", yaml)),
        ("deleted and made again", |files, yaml| files.recreate("config.yaml", yaml)),
    ];
    let mut version = 1;
    for (how, save) in ways.iter().cycle().take(9) {
        version += 1;
        save(&files, answering(version));
        armiger.in_force(version).await;
        assert_eq!(armiger.get("/a").await.text(), version.to_string(), "{how}");
    }
}

#[tokio::test]
async fn a_config_map_is_followed_and_never_seen_half() {
    let files = Files::none();
    let backend = Backend::echo().await;
    let generation = |number: usize| {
        let main = Config::to(&backend).top("include: [more.yaml]").route(&format!("timeout: {}s", number + 1));
        let main = main.policies(&format!(
            "headers: {{response: {{set: {{x-main: \"{number}\", x-secret: \"${{file:word}}\"}}}}}}"
        ));
        let more = format!(
            "routes:\n  - {{name: more, match: {{path: /more}}, respond: {{body: \"{number} ${{file:word}}\"}}}}\n"
        );
        [("config.yaml", main.to_string()), ("more.yaml", more), ("word", number.to_string())]
    };
    files.swap(1, &generation(1));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    for number in 2..=12 {
        files.swap(number, &generation(number));
        armiger.in_force(number as u64).await;
        let more = armiger.get("/more").await;
        assert_eq!(more.text(), format!("{number} {number}"));
        armiger
            .get("/")
            .await
            .assert_header("x-main", &number.to_string())
            .assert_header("x-secret", &number.to_string());
    }
    let history = armiger.admin().get("/config/history").await.json();
    assert_eq!(history["versions"].as_array().map_or(0, Vec::len), 12, "no version in between: {history:#}");
}

#[tokio::test]
async fn a_secret_that_changes_alone_is_a_change() {
    let files = Files::of(answering("${file:word}"));
    files.write("word", "one");
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    assert_eq!(armiger.get("/a").await.text(), "one");

    files.replace("word", "two");
    armiger.in_force(2).await;

    assert_eq!(armiger.get("/a").await.text(), "two");
    let report = armiger.status().await["in_force"].to_string();
    assert!(!report.contains("two"), "what comes from a file is not shown: {report}");
}

#[tokio::test]
async fn equal_content_is_silence() {
    let (files, armiger) = on(answering("1")).await;
    files.replace("config.yaml", answering("1"));
    files.write("config.yaml", answering("1"));
    files.write("unrelated.txt", "x");

    let answer = ask(&armiger, "/reload").await;

    assert_eq!(answer.assert_status(200).json()["outcome"], "unchanged");
    assert_eq!(armiger.status().await["in_force"]["version"], 1);
    assert_eq!(armiger.metric("armiger_config_reloads_total{result=\"applied\"}").await, 0.0);
}

/// An edit is most often seen before anybody asks for it.
#[tokio::test]
async fn a_reload_behind_an_edit_that_was_seen_tells_what_is_in_force_since_when() {
    let (files, armiger) = on(answering("1")).await;
    files.replace("config.yaml", answering("2"));
    armiger.in_force(2).await;
    let in_force = armiger.status().await["in_force"].clone();

    let answer = ask(&armiger, "/reload").await.assert_status(200).json();

    assert_eq!(answer["outcome"], "unchanged");
    for key in ["version", "time", "origin"] {
        assert_eq!(answer["report"][key], in_force[key], "{key}");
    }
}

// === refusals ===

#[tokio::test]
async fn a_bad_edit_changes_nothing_and_says_so_everywhere() {
    let (files, armiger) = on(answering("1")).await;
    let before = armiger.status().await["in_force"].clone();

    files.replace("config.yaml", answering("2").top("acess_log: {}"));
    let after = armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;

    assert_eq!(after["in_force"], before, "version and hash stay");
    let text = after["last_reload"]["text"].as_str().unwrap();
    for part in ["unknown key `acess_log`", "did you mean `access_log`", "config.yaml:1:1"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert_eq!(armiger.get("/a").await.text(), "1");
    assert_eq!(armiger.metric("armiger_config_last_reload_successful").await, 0.0);
    armiger.admin().get("/readyz").await.assert_status(200);

    files.replace("config.yaml", answering("3"));
    armiger.in_force(2).await;
    assert_eq!(armiger.get("/a").await.text(), "3");
    armiger.until_metric("armiger_config_last_reload_successful", 1.0).await;
}

#[tokio::test]
async fn a_bad_edit_that_is_taken_back_is_forgotten() {
    let (files, armiger) = on(answering("1")).await;
    files.replace("config.yaml", "routes: [");
    armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;

    files.replace("config.yaml", answering("1"));
    let status = armiger.until_status(|status| status["last_reload"]["result"] == "applied").await;

    assert_eq!(status["in_force"]["version"], 1);
    armiger.until_metric("armiger_config_last_reload_successful", 1.0).await;
}

#[tokio::test]
async fn an_address_that_is_taken_refuses_the_whole_edit() {
    let taken = Backend::replies("here first").await;
    let (files, armiger) = on(answering("1")).await;
    let more = format!(
        "listeners:\n  - {{name: http, address: \"127.0.0.1:0\"}}\n  - {{name: second, address: \"{}\"}}",
        taken.address()
    );

    files.replace("config.yaml", answering("2").top(&more));
    let status = armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;

    let text = status["last_reload"]["text"].as_str().unwrap();
    assert!(text.contains("in use") && text.contains("config.yaml:3:"), "{text}");
    assert_eq!(armiger.get("/a").await.text(), "1");
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing() {
    let (files, armiger) = on(answering("1")).await;
    files.remove("config.yaml");
    armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;
    assert_eq!(armiger.get("/a").await.text(), "1");
    files.write("config.yaml", answering("2"));
    armiger.in_force(2).await;
}

// === what survives ===

#[tokio::test]
async fn connections_on_both_sides_and_counts_outlive_an_edit() {
    let backend = Backend::echo().await;
    let (files, armiger) = on(Config::to(&backend)).await;
    let mut connection = armiger.connect().await;
    let mut h2c = armiger.connect_h2c().await;
    connection.get("/").await.assert_status(200);
    h2c.get("/").await.assert_status(200);

    for version in 2..=6 {
        files.replace("config.yaml", Config::to(&backend).route(&format!("timeout: {version}s")));
        armiger.in_force(version).await;
        connection.get("/").await.assert_status(200);
        h2c.get("/").await.assert_status(200);
    }

    assert_eq!(backend.connections(), 1, "one connection to the back end served all of it");
    let counted =
        armiger.metric("armiger_http_requests_total{method=\"GET\",route=\"everything\",status_class=\"2xx\"}");
    assert_eq!(counted.await, 12.0);
    armiger.until_metric("armiger_listener_connections_accepted_total{listener=\"http\"}", 2.0).await;
    let state = told(&armiger.status().await["in_force"], "state");
    assert!(state.contains("\"pool\"") && state.contains("\"kept\"") && !state.contains("\"reset\""), "{state}");
}

#[tokio::test]
async fn an_exchange_ends_on_what_it_began_with() {
    let (chunks, answer) = streamed(200);
    let answer = std::sync::Mutex::new(Some(answer));
    let slow = Backend::with(move |_| answer.lock().unwrap().take().expect("one request")).await;
    let (files, armiger) = on(Config::to(&slow)).await;
    let mut connection = armiger.connect().await;
    let request = http::Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let response = connection.open(request).await.unwrap();
    chunks.data("before ").await;

    files.replace("config.yaml", answering("2"));
    armiger.in_force(2).await;
    // The old one is still in use.
    armiger.until_metric("armiger_config_generations", 2.0).await;
    chunks.data("after").await;
    drop(chunks);

    let body = within("the rest", response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "before after");
    armiger.until_metric("armiger_config_generations", 1.0).await;
}

#[tokio::test]
async fn what_cannot_go_on_starts_afresh_and_the_report_says_why() {
    let backend = Backend::echo().await;
    let (files, armiger) = on(Config::to(&backend)).await;
    armiger.get("/").await.assert_status(200);

    files.replace("config.yaml", Config::to(&backend).upstream("protocol: h2c").upstream("timeouts: {first_byte: 3s}"));
    armiger.in_force(2).await;

    armiger.get("/").await.assert_status(200);
    assert_eq!(backend.connections(), 2);
    let state = told(&armiger.status().await["in_force"], "state");
    assert!(state.contains("\"reset\"") && state.contains("protocol http1 -> h2c"), "{state}");
}

#[tokio::test]
async fn connections_to_an_endpoint_that_left_are_closed() {
    let (left, stays) = (Backend::echo().await, Backend::echo().await);
    let (files, armiger) = on(Config::to(&left)).await;
    armiger.get("/").await.assert_status(200);

    files.replace("config.yaml", Config::to(&stays));
    armiger.in_force(2).await;

    left.closed(1).await;
    armiger.get("/").await.assert_status(200);
    assert_eq!(stays.connections(), 1);
}

// === the report, history, rollback ===

#[tokio::test]
async fn the_report_tells_what_changed_by_meaning() {
    let backend = Backend::echo().await;
    let (files, armiger) = on(Config::to(&backend).policies("ip_filter: {allow: [127.0.0.0/8]}")).await;

    files.replace("config.yaml", Config::to(&backend).policies("cors: {origins: [\"https://x.example.com\"]}"));
    armiger.in_force(2).await;

    let changes = told(&armiger.status().await["in_force"], "changes");
    for part in ["everything", "ip_filter", "weakens", "https://x.example.com"] {
        assert!(changes.contains(part), "{part:?} is missing in {changes}");
    }
}

#[tokio::test]
async fn an_earlier_version_can_be_put_in_force_again() {
    let (files, armiger) = on(answering("1")).await;
    files.replace("config.yaml", answering("2"));
    armiger.in_force(2).await;

    ask(&armiger, "/config/rollback?version=1").await.assert_status(200);
    assert_eq!(armiger.get("/a").await.text(), "1");
    assert_eq!(armiger.status().await["in_force"]["version"], 3);
    assert_eq!(armiger.status().await["in_force"]["origin"], "rollback to 1");

    // It stays until somebody asks for the files, or changes them.
    let answer = ask(&armiger, "/reload").await;
    assert_eq!(answer.assert_status(200).json()["outcome"], "applied");
    assert_eq!(armiger.get("/a").await.text(), "2");
    ask(&armiger, "/config/rollback?version=77").await.assert_status(404);
    let history = armiger.admin().get("/config/history").await.json();
    let versions: Vec<_> = history["versions"].as_array().unwrap().iter().map(|one| one["version"].clone()).collect();
    assert_eq!(versions, [4, 3, 2, 1]);
}

#[tokio::test]
async fn the_access_log_changes_with_the_very_next_exchange() {
    let with = |log: &str| answering("1").top(&format!("access_log: {log}"));
    let (files, armiger) = on(with("{fields: [path, status]}")).await;
    armiger.get("/a?first").await;
    let line = armiger.logged(|line| line["path"] == "/a").await;
    assert_eq!(line.as_object().map_or(0, serde_json::Map::len), 2, "{line}");

    files.replace("config.yaml", with("{fields: [path, query], query: [seen]}"));
    armiger.in_force(2).await;
    armiger.get("/a?seen=1&other=2").await;
    let line = armiger.logged(|line| line.get("query").is_some()).await;
    assert_eq!(line["query"], "seen=1&other=***");

    files.replace("config.yaml", with("{format: \"off\"}"));
    armiger.in_force(3).await;
    armiger.get("/a?silent").await;
    files.replace("config.yaml", with("{fields: [status]}"));
    armiger.in_force(4).await;
    armiger.get("/a?last").await;
    let lines = armiger.log_lines(3).await;
    assert_eq!(lines.len(), 3, "nothing was logged while it was off: {lines:?}");
    assert_eq!(lines[2].to_string(), "{\"status\":200}");
}

// === listeners ===

#[tokio::test]
async fn listeners_come_and_go_live() {
    let listeners = |names: &[&str]| {
        let lines: Vec<_> =
            names.iter().map(|name| format!("  - {{name: {name}, address: \"127.0.0.1:0\"}}")).collect();
        answering("ok").top(&format!("listeners:\n{}", lines.join("\n")))
    };
    let (files, armiger) = on(listeners(&["http"])).await;
    let first = armiger.address();

    files.replace("config.yaml", listeners(&["http", "second"]));
    armiger.in_force(2).await;
    assert_eq!(armiger.address(), first, "what stays keeps its address");
    let second = armiger.address_of("second");
    Client::to(second).get("/a").await.assert_status(200);

    files.replace("config.yaml", listeners(&["http"]));
    armiger.in_force(3).await;
    Client::to(second).until_refused().await;
    armiger.get("/a").await.assert_status(200);
}

// === the process ===

/// Nobody has to learn of its end.
fn at_once(config: Config) -> Config {
    config.top("drain: {delay: 0s}")
}

#[tokio::test]
async fn a_signal_and_the_command_ask_for_a_look_too() {
    let files = Files::of(at_once(answering("1")));
    let mut process = Armiger::spawn(&["run", "-c", &files.config()]);
    process.stderr_line("admin listening");
    process.signal("HUP");
    process.stderr_line("unchanged");
    files.replace("config.yaml", at_once(answering("2")));
    process.stderr_line("version=2 ");
    process.signal("TERM");
    process.finish().assert_code(0);
}

#[test]
fn who_wants_a_reload_at_the_end_is_told_what_to_do() {
    let files = Files::of(at_once(answering("1")));
    let mut process = Armiger::spawn(&["run", "-c", &files.config()]);
    let admin = address_in(&process.stderr_line("admin listening")).to_string();
    Armiger::binary(&["drain", "--wait", "--admin", &admin]).assert_code(0);

    files.replace("config.yaml", at_once(answering("2")));
    let line = process.stderr_line("the configuration stays as it is");
    assert!(line.contains("WARN") && line.contains("start armiger anew"), "{line}");
    let asked = Armiger::binary(&["reload", "--admin", &admin]);
    assert!(asked.assert_code(1).stdout.contains("start armiger anew"), "{asked:#?}");

    process.signal("TERM");
    process.finish().assert_code(0);
}

#[tokio::test]
async fn the_level_of_messages_changes_live_unless_the_command_line_says_it() {
    for (flags, is_live) in [(&[][..], true), (&["--log-level", "info"][..], false)] {
        // Bound and not listening: nobody answers there, and nobody else gets the port.
        let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let nobody = held.local_addr().unwrap().as_socket().unwrap();
        let proxying = || at_once(Config::to_url(&format!("http://{nobody}")));
        let files = Files::of(proxying());
        let config = files.config();
        let mut process = Armiger::spawn(&[&["run", "-c", &config], flags].concat());
        let address = address_in(&process.stderr_line("listener"));
        files.replace("config.yaml", proxying().top("log: {level: debug}"));
        process.stderr_line("version=2 ");
        // The cause of a failure is worth a message to who looks for it.
        Client::to(address).get("/").await.assert_status(502);
        if is_live {
            process.stderr_line(" DEBUG ");
        }
        process.signal("TERM");
        let finished = process.finish();
        assert_eq!(finished.stderr.contains(" DEBUG "), is_live, "{flags:?} {finished:#?}");
    }
}

#[tokio::test]
async fn the_last_good_configuration_starts_where_the_file_does_not() {
    let files = Files::of(at_once(answering("1")));
    let kept = files.path("kept").to_str().unwrap().to_owned();
    fs::create_dir(files.path("kept")).unwrap();
    let arguments = ["run", "-c", &files.config(), "--last-good", &kept];
    let mut process = Armiger::spawn(&arguments);
    process.stderr_line("admin listening");
    process.signal("TERM");
    process.finish().assert_code(0);

    files.write("config.yaml", "routes: [");
    let mut process = Armiger::spawn(&arguments);
    process.stderr_line("starts from the last good one");
    process.stderr_line("admin listening");
    process.signal("TERM");
    process.finish().assert_code(0);
    Armiger::binary(&arguments[..3]).assert_code(1);
}

// === under load ===

/// How many edits the storm has. More by hand: `ARMIGER_TEST_SWAPS=1000 cargo test --test main -- storm`.
fn swaps() -> u64 {
    std::env::var("ARMIGER_TEST_SWAPS").map_or(60, |text| text.parse().expect("ARMIGER_TEST_SWAPS is a number"))
}

#[tokio::test]
async fn a_storm_of_edits_loses_no_request_and_mixes_nothing() {
    let backend = Backend::replies("ok").await;
    let files = Files::none();
    // The header and the body are of one generation, or a request saw two configurations.
    let generation = |number: u64, is_good: bool| {
        let routes = format!(
            "- {{name: all, match: {{path: \"/{{rest...}}\"}}, proxy: {{upstream: app}}}}\n\
             - {{name: both, match: {{path: /both}}, respond: {{body: \"{number} ${{file:word}}\"}}}}\n"
        );
        let mut main = Config::to(&backend).routes(&routes).top(&format!("access_log: {{sample: 0.{number:04}}}"));
        if number.is_multiple_of(3) {
            main = main.upstream("timeouts: {first_byte: 9s}");
        }
        let main = if is_good { main.to_string() } else { format!("{main}nonsense: true\n") };
        [("config.yaml", main), ("word", number.to_string())]
    };
    files.swap(1, &generation(1, true));
    let armiger = Armiger::watching(files.path("config.yaml")).await;
    let address = armiger.address();
    let proxied = |status: u16, body: &[u8]| match (status, body) {
        (200, b"ok") => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let unmixed = |status: u16, body: &[u8]| {
        let text = String::from_utf8_lossy(body);
        match text.split_once(' ') {
            Some((main, word)) if status == 200 && main == word => Ok(()),
            _ => Err(format!("{status} {text:?}")),
        }
    };
    let load = Load::new()
        .http1(address, 3, "/x", proxied)
        .http1(address, 1, "/both", unmixed)
        .h2c(address, 2, "/x", proxied)
        .h2c(address, 1, "/both", unmixed);
    load.answers(100).await;
    let mut version = 1;

    for number in 2..=swaps() {
        let is_good = number % 5 != 0;
        files.swap(number as usize, &generation(number, is_good));
        if is_good {
            version += 1;
            armiger.in_force(version).await;
        } else {
            armiger.until_status(|status| status["last_reload"]["result"] == "refused").await;
        }
        load.answers(5).await;
    }

    load.stop().await.assert_flawless();
    armiger.until_metric("armiger_config_generations", 1.0).await;
}

/// The same on the real process, whose waits are the real ones.
#[tokio::test]
async fn a_process_stays_as_it_is_under_edits() {
    let backend = Backend::replies("ok").await;
    let files = Files::none();
    let config =
        |number: u64| Config::to(&backend).top("drain: {delay: 0s}").route(&format!("timeout: {}s", number % 7 + 2));
    files.swap(1, &[("config.yaml", config(1).to_string())]);
    let mut process = Armiger::spawn(&["run", "-c", &files.config()]);
    let address = address_in(&process.stderr_line("listener"));
    let load = Load::on(address, 2, 1);
    load.answers(100).await;
    let edits = if std::env::var_os("ARMIGER_TEST_SWAPS").is_some() { swaps() } else { 8 };

    let mut flat = None;
    let mut slowest = Duration::ZERO;
    for number in 2..=edits {
        let saved = Instant::now();
        files.swap(number as usize, &[("config.yaml", config(number).to_string())]);
        process.stderr_line(&format!("version={number} "));
        slowest = slowest.max(saved.elapsed());
        load.answers(5).await;
        // What is held from the first edits on is no leak.
        if number == edits / 2 {
            flat = Some(process.usage());
        }
    }

    let (memory, descriptors) = process.usage();
    let (memory_before, descriptors_before) = flat.expect("half of the edits were made");
    load.stop().await.assert_flawless();
    eprintln!("{edits} edits: at most {slowest:?} each, {memory} KiB after {memory_before} KiB");
    assert!(slowest < Duration::from_secs(1), "an edit took {slowest:?}");
    assert!(memory <= memory_before + memory_before / 20 + 1024, "{memory} KiB after {memory_before} KiB");
    assert!(descriptors <= descriptors_before + 2, "{descriptors} descriptors after {descriptors_before}");
    process.signal("TERM");
    process.finish().assert_code(0);
}
