//! The listeners for operators: each page, who may see it, what bounds a caller, how they move, and the commands that
//! ask them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use armiger::app::{self, Source};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::server::admin::operator::{
    BreakerOrder, Check, Later, LimitsAsk, NoLimit, Operator, Outcome, Readiness, Told,
};
use armiger::server::admin::{AdminServers, PROBES, pages};
use armiger::snapshot::Snapshot;
use armiger::telemetry::metrics::Metrics;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::harness::{Armiger, Backend, Client, Config, Files, Response, within};

const TOKEN: &str = "0123456789abcdef";

// === a program to operate ===

/// Does what the test says, and remembers what it was asked.
struct Fake {
    snapshot: Arc<Snapshot>,
    asked: watch::Sender<Vec<String>>,
    /// What a reload or a rollback comes to. `None`: it hangs until there is one.
    outcome: watch::Sender<Option<Outcome>>,
    drained: watch::Sender<bool>,
    ready: Mutex<bool>,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            snapshot: Arc::new(snapshot("")),
            asked: watch::Sender::default(),
            outcome: watch::Sender::new(Some(Outcome::Applied(Told::message("version 2 is in force")))),
            drained: watch::Sender::default(),
            ready: Mutex::new(true),
        })
    }

    fn note(&self, what: impl Into<String>) {
        self.asked.send_modify(|asked| asked.push(what.into()));
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits until it was asked for this.
    async fn was_asked(&self, what: &str) {
        let mut asked = self.asked.subscribe();
        within(what, asked.wait_for(|asked| asked.iter().any(|one| one == what))).await.unwrap();
    }

    fn comes_to(&self, outcome: impl Into<Option<Outcome>>) {
        self.outcome.send_replace(outcome.into());
    }

    async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        outcome.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

impl Operator for Fake {
    fn live(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    fn readiness(&self) -> Readiness {
        let ready = *self.ready.lock().unwrap();
        let check = |name: &'static str, ok, detail: &str| Check { name: name.into(), ok, detail: detail.into() };
        let checks = vec![
            check("listeners", Some(true), "all are bound"),
            check("drain", Some(ready), "as the test says"),
            check("reload", None, "the last one was refused"),
        ];
        Readiness { ready, checks }
    }

    fn status(&self) -> Value {
        json!({"version": 1, "result": "applied"})
    }

    fn history(&self) -> Value {
        json!([{"version": 1}])
    }

    fn reload(&self) -> Later<'_, Outcome> {
        self.note("reload");
        Box::pin(self.outcome())
    }

    fn rollback(&self, version: u64) -> Later<'_, Outcome> {
        self.note(format!("rollback {version}"));
        Box::pin(self.outcome())
    }

    fn refresh_keys<'a>(&'a self, provider: Option<&'a str>) -> Later<'a, Outcome> {
        self.note(format!("keys of {}", provider.unwrap_or("all")));
        Box::pin(self.outcome())
    }

    fn drain(&self) {
        self.note("drain");
        *self.ready.lock().unwrap() = false;
    }

    fn draining(&self) -> Value {
        let phase = if *self.ready.lock().unwrap() { "running" } else { "announced" };
        json!({"phase": phase, "connections": 2, "in_flight": 1})
    }

    fn drained(&self) -> Later<'_, ()> {
        self.note("drained?");
        Box::pin(async {
            self.drained.subscribe().wait_for(|drained| *drained).await.unwrap();
        })
    }

    fn breaker(&self, order: &BreakerOrder<'_>) -> Outcome {
        Outcome::Applied(Told::message(format!("{order:?}")))
    }

    fn limits<'a>(&'a self, ask: LimitsAsk) -> Later<'a, Result<Value, NoLimit>> {
        Box::pin(async move { Ok(json!({"limits": [], "asked": format!("{ask:?}")})) })
    }

    fn states(&self) -> &[(&'static str, &'static str)] {
        &[("pools", "connections to endpoints"), ("large", "much")]
    }

    fn state<'a>(&'a self, what: &'a str) -> Later<'a, Option<Vec<Value>>> {
        Box::pin(async move {
            match what {
                "pools" => Some((0..250).map(|row| json!({"row": row})).collect()),
                "large" => Some((0..1000).map(|_| json!("x".repeat(2000))).collect()),
                _ => None,
            }
        })
    }
}

/// A document with these keys besides what every document has.
fn yaml(top: &str) -> String {
    Config::empty().top(top).routes("- {name: a, match: {path: /a}, respond: {}}").to_string()
}

fn snapshot(top: &str) -> Snapshot {
    try_snapshot(&yaml(top)).unwrap_or_else(|report| panic!("{report}"))
}

fn try_snapshot(text: &str) -> Result<Snapshot, String> {
    let source = Source::Text { name: "test.yaml".into(), text: text.into() };
    let checked = app::check(&source, &Machine::detect(), 1, &Metrics::new(), Keeper::fresh());
    checked.map(|checked| checked.snapshot).map_err(|report| report.text(false))
}

/// The listeners for operators of a [`Fake`].
struct Admin {
    fake: Arc<Fake>,
    servers: AdminServers,
    folder: TempDir,
}

impl Admin {
    fn new() -> Self {
        let fake = Fake::new();
        let servers = AdminServers::new(fake.clone(), Metrics::new(), &Machine::detect());
        Self { fake, servers, folder: tempfile::tempdir().unwrap() }
    }

    /// As this document has them.
    fn with(top: &str) -> Self {
        let mut admin = Self::new();
        admin.reconfigure(top).unwrap();
        admin
    }

    /// On loopback, with the token.
    fn guarded() -> Self {
        let mut admin = Self::new();
        let top = admin.with_token("127.0.0.1:0", TOKEN);
        admin.reconfigure(&top).unwrap();
        admin
    }

    /// Keys for this address and token.
    fn with_token(&self, address: &str, token: &str) -> String {
        format!("admin: {{address: \"{address}\", token: \"${{file:{}}}\"}}", self.token_file(token))
    }

    fn token_file(&self, token: &str) -> String {
        let path = self.folder.path().join(format!("token-{token}"));
        std::fs::write(&path, format!("{token}\n")).unwrap();
        path.display().to_string()
    }

    fn reconfigure(&mut self, top: &str) -> Result<(), String> {
        let prepared = self.servers.prepare(&snapshot(top).document).map_err(|error| error.to_string())?;
        self.servers.commit(prepared);
        Ok(())
    }

    fn client(&self) -> Client {
        Client::to(self.servers.admin().unwrap().tcp().unwrap())
    }

    fn port(&self) -> u16 {
        self.servers.admin().unwrap().tcp().unwrap().port()
    }

    fn probes(&self) -> Client {
        Client::to(self.servers.probes().unwrap().tcp().unwrap())
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.client().request(request(method, path, headers)).await
    }
}

const PLAIN: &str = "admin: {address: 127.0.0.1:0}";
const BOTH: &str = "admin: {address: 127.0.0.1:0}\nprobes: {address: 127.0.0.1:0}";

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    // What to purge stands in the body.
    let body = if path == "/cache/purge" { "{\"all\": true}" } else { "" };
    request.body(Full::from(body)).unwrap()
}

/// A path that leads to the page.
fn path_of(path: &str) -> String {
    path.replace("/breakers/{name}", "/breakers/app?set=reset")
        .replace("{name}", "pools")
        .replace("/rollback", "/rollback?version=1")
        .replace("/limits/reset", "/limits/reset?name=few&key=a")
}

// === pages ===

#[tokio::test]
async fn every_page_answers_and_no_answer_is_kept_or_mistaken() {
    let admin = Admin::with(PLAIN);

    for page in pages() {
        let method = page.method.as_str();
        let response = admin.ask(method, &path_of(page.path), &[]).await;

        let expected = if (method, page.path) == ("POST", "/drain") { 202 } else { 200 };
        response
            .assert_status(expected)
            .assert_header("cache-control", "no-store")
            .assert_header("x-content-type-options", "nosniff");
        let kind = response.header("content-type");
        assert!(kind == "application/json" || kind.starts_with("text/plain"), "{}: {kind}", page.path);
        if method == "GET" {
            let head = admin.ask("HEAD", &path_of(page.path), &[]).await;
            // The probes' answers follow the drain, which is the last page.
            head.assert_status(200).assert_header("content-type", kind);
            assert!(head.body.is_empty());
        }
    }
    assert_eq!(
        admin.fake.asked(),
        ["drained?", "drained?", "reload", "rollback 1", "keys of all", "drain", "drained?"]
    );
}

#[tokio::test]
async fn pages_with_both_forms_follow_accept() {
    let admin = Admin::with(PLAIN);
    let json = &[("accept", "application/json")][..];

    let list = admin.ask("GET", "/", json).await.json();
    assert_eq!(list["pages"].as_array().unwrap().len(), pages().count());
    let first = json!({"method": "GET", "path": "/", "what": "this list", "served": true});
    assert_eq!(list["pages"][0], first);
    let text = admin.client().get("/").await.text().to_owned();
    assert_eq!(text.lines().count(), pages().count());
    assert!(text.contains("\nPOST /config/rollback "), "{text}");

    assert_eq!(admin.ask("GET", "/readyz", json).await.json(), json!({"ready": true}));
    assert_eq!(admin.client().get("/readyz").await.text(), "ready\n");
    assert_eq!(admin.ask("POST", "/reload", json).await.json()["outcome"], "applied");
    assert_eq!(admin.ask("POST", "/reload", &[]).await.text(), "version 2 is in force\n");
    assert!(admin.ask("GET", "/none", json).await.json()["error"].is_string());
}

#[tokio::test]
async fn readiness_lists_its_checks_and_what_does_not_decide() {
    let admin = Admin::with(PLAIN);

    let verbose = admin.client().get("/readyz?verbose").await;
    let lines =
        "[+] listeners: all are bound\n[+] drain: as the test says\n[i] reload: the last one was refused\nready\n";
    assert_eq!(verbose.assert_status(200).text(), lines);
    let verbose = admin.ask("GET", "/healthz?verbose", &[("accept", "application/json")]).await.json();
    assert_eq!(verbose["checks"][2], json!({"name": "reload", "ok": null, "detail": "the last one was refused"}));

    *admin.fake.ready.lock().unwrap() = false;
    for path in ["/readyz", "/healthz", "/readyz?timeout=5s"] {
        assert_eq!(admin.client().get(path).await.assert_status(503).text(), "not ready\n");
    }
    assert!(admin.client().get("/readyz?verbose").await.assert_status(503).text().contains("[-] drain"));
    admin.client().get("/livez").await.assert_status(200);
}

#[tokio::test]
async fn the_configuration_comes_with_its_version_and_hash() {
    let admin = Admin::with(PLAIN);

    let config = admin.client().get("/config").await.json();

    assert_eq!(config["version"], 1);
    assert_eq!(config["hash"].as_str().map_or(0, str::len), 64, "{config}");
    assert_eq!(config["config"]["routes"][0]["name"], "a");
}

#[tokio::test]
async fn another_method_is_told_which_there_are() {
    let admin = Admin::with(PLAIN);

    for (path, allowed) in [
        ("/", "GET, HEAD"),
        ("/livez", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/state/pools", "GET, HEAD"),
        ("/drain", "GET, HEAD, POST"),
        ("/reload", "POST"),
        ("/config/rollback", "POST"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            if allowed.split(", ").all(|one| one != method) {
                admin.ask(method, path, &[]).await.assert_status(405).assert_header("allow", allowed);
            }
        }
    }
    assert!(admin.fake.asked().is_empty(), "nothing was done");
}

#[tokio::test]
async fn an_unknown_path_or_key_comes_back_with_a_hint() {
    let admin = Admin::with(PLAIN);

    for (path, status, hint) in [
        ("/livz", 404, "did you mean /livez?"),
        ("/livez/", 404, "did you mean /livez?"),
        ("/somewhere/else", 404, "GET / lists"),
        ("/state/", 404, "/state"),
        ("/state/pools/1", 404, "nothing is here"),
        ("/state/pool", 404, "there is pools, large"),
        ("/state/%2e%2e", 404, "no state is called"),
        ("/state/pools?pgae=2", 400, "this page knows limit and page"),
        ("/config?x", 400, "takes none"),
        ("/drain?wait=soon", 400, "duration"),
        ("/drain?wait=61s", 400, "at most 60s"),
    ] {
        let response = admin.client().get(path).await;
        assert!(response.assert_status(status).text().contains(hint), "{path}: {}", response.text());
    }
}

#[tokio::test]
async fn a_state_is_shown_by_pages_within_bounds() {
    let admin = Admin::with(PLAIN);

    let states = admin.client().get("/state").await.json();
    assert_eq!(states["states"][0]["path"], "/state/pools");
    let mut seen = Vec::new();
    for page in 1..=4 {
        let state = admin.client().get(&format!("/state/pools?limit=100&page={page}")).await.json();
        assert_eq!((&state["total"], &state["pages"], &state["page"]), (&json!(250), &json!(3), &json!(page)));
        seen.extend(state["rows"].as_array().unwrap().iter().map(|row| row["row"].as_u64().unwrap()));
    }
    assert_eq!(seen, (0..250).collect::<Vec<u64>>(), "each row once, in order");
    assert_eq!(admin.client().get("/state/pools").await.json()["limit"], 100);
    for query in ["limit=0", "limit=1001", "page=0", "page=-1", "page=99999999999999999999", "limit=1&limit=2"] {
        admin.client().get(&format!("/state/pools?{query}")).await.assert_status(400);
    }
}

// === what changes something ===

#[tokio::test]
async fn what_came_of_a_reload_is_its_status() {
    let admin = Admin::with(PLAIN);
    let told = || Told { text: "error: no\n".into(), json: json!([{"message": "no"}]) };

    for (outcome, status, word) in [
        (Outcome::Applied(told()), 200, "applied"),
        (Outcome::Unchanged(told()), 200, "unchanged"),
        (Outcome::Refused(told()), 422, "refused"),
        (Outcome::Conflict(told()), 409, "conflict"),
        (Outcome::Unknown(told()), 404, "unknown"),
        (Outcome::Failed(told()), 502, "failed"),
    ] {
        admin.fake.comes_to(outcome);
        for path in ["/reload", "/config/rollback?version=3"] {
            let json = admin.ask("POST", path, &[("accept", "application/json")]).await;
            assert_eq!(json.assert_status(status).json(), json!({"outcome": word, "report": [{"message": "no"}]}));
            assert_eq!(admin.ask("POST", path, &[]).await.assert_status(status).text(), "error: no\n");
        }
    }
}

#[tokio::test]
async fn a_rollback_says_once_to_which_version() {
    let admin = Admin::with(PLAIN);
    let post = async |query: &str, body: &'static str| {
        admin.client().post(&format!("/config/rollback{query}"), body).await.status
    };

    assert_eq!(post("?version=3", "").await, 200);
    assert_eq!(post("", "{\"version\": 4}\n").await, 200);
    assert_eq!(admin.fake.asked(), ["rollback 3", "rollback 4"]);
    for (query, body) in [
        ("", ""),
        ("?version=x", ""),
        ("?version=-1", ""),
        ("?version=3", "{\"version\": 3}"),
        ("", "{\"verison\": 3}"),
        ("", "3"),
        ("?verison=3", ""),
    ] {
        assert_eq!(post(query, body).await, 400, "{query} {body}");
    }
    assert_eq!(admin.fake.asked().len(), 2, "nothing else was done");
}

#[tokio::test]
async fn a_drain_is_begun_and_waited_for() {
    let admin = Admin::with(PLAIN);

    assert_eq!(admin.client().get("/drain").await.json()["drained"], false);
    let begun = admin.client().post("/drain", "").await;
    let expected = json!({"phase": "announced", "connections": 2, "in_flight": 1, "drained": false});
    assert_eq!(begun.assert_status(202).json(), expected);
    admin.client().get("/readyz").await.assert_status(503);
    let early = admin.client().get("/drain?wait=1ms").await;
    assert_eq!(early.assert_status(200).json()["drained"], false);
    let client = admin.client();
    let waiting = tokio::spawn(async move { client.get("/drain?wait=60s").await.json() });
    within("four questions", admin.fake.asked.subscribe().wait_for(|asked| asked.len() == 5)).await.unwrap();
    admin.fake.drained.send_replace(true);
    assert_eq!(waiting.await.unwrap()["drained"], true);
}

#[tokio::test]
async fn it_lives_while_a_reload_takes_its_time() {
    let admin = Admin::with(PLAIN);
    admin.fake.comes_to(None);
    let client = admin.client();
    let reload = tokio::spawn(async move { client.post("/reload", "").await });
    admin.fake.was_asked("reload").await;

    admin.client().get("/livez").await.assert_status(200);
    admin.client().get("/metrics").await.assert_status(200);

    admin.fake.comes_to(Outcome::Unchanged(Told::message("same")));
    assert_eq!(reload.await.unwrap().assert_status(200).text(), "same\n");
}

// === who may ===

#[tokio::test]
async fn with_a_token_only_probes_are_for_everyone() {
    let admin = Admin::guarded();

    for page in pages() {
        let (method, path) = (page.method.as_str(), path_of(page.path));
        let is_probe = ["/livez", "/readyz", "/healthz"].contains(&page.path);
        for (credentials, is_right) in [
            (None, false),
            (Some("Bearer 0123456789abcdeF"), false),
            (Some("Basic 0123456789abcdef"), false),
            (Some("Bearer 0123456789abcdef"), true),
            (Some("bearer 0123456789abcdef"), true),
        ] {
            let headers: Vec<_> = credentials.map(|one| ("authorization", one)).into_iter().collect();
            let response = admin.ask(method, &path, &headers).await;
            if is_probe {
                assert_ne!(response.status, 401, "{path}");
            } else if is_right {
                assert!(matches!(response.status, 200 | 202), "{path} {response:?}");
            } else {
                let challenge = response.assert_status(401).header("www-authenticate").to_owned();
                assert_eq!(challenge.contains("invalid_token"), credentials.is_some(), "{challenge}");
            }
        }
    }
    // Whether a page is there is nobody else's business either.
    admin.client().get("/none").await.assert_status(401);
    *admin.fake.ready.lock().unwrap() = true;
    assert!(admin.client().get("/readyz?verbose").await.text().contains("[i] reload: withheld"));
    let right = [("authorization", "Bearer 0123456789abcdef")];
    assert!(admin.ask("GET", "/readyz?verbose", &right).await.text().contains("[i] reload: the last"));
}

#[tokio::test]
async fn other_machines_change_nothing_without_a_token() {
    let mut admin = Admin::with("admin: {address: \"0.0.0.0:0\"}");
    let client = Client::to(([127, 0, 0, 1], admin.port()).into());

    for path in ["/reload", "/drain", "/config/rollback?version=1"] {
        let refused = client.post(path, "").await;
        assert!(refused.assert_status(403).text().contains("admin.token"), "{refused:?}");
    }
    client.get("/config").await.assert_status(200);
    client.get("/drain").await.assert_status(200);
    assert!(client.get("/").await.text().contains("(not served: no token)"));
    assert_eq!(admin.fake.asked(), ["drained?"]);

    let top = admin.with_token("0.0.0.0:0", TOKEN);
    admin.reconfigure(&top).unwrap();
    let right = [("authorization", "Bearer 0123456789abcdef")];
    client.request(request("POST", "/reload", &right)).await.assert_status(200);
}

#[tokio::test]
async fn a_page_in_a_browser_neither_reads_nor_changes_anything() {
    let admin = Admin::with(PLAIN);
    let rebound = ("host", "rebound.example:9901");

    for page in pages() {
        let (method, path) = (page.method.as_str(), path_of(page.path));
        let response = admin.ask(method, &path, &[rebound]).await;
        let is_harmless = PROBES.iter().any(|probe| probe.path == page.path) || page.path == "/healthz";
        assert_eq!(response.status, if is_harmless { 200 } else { 403 }, "{method} {path}");
    }
    for header in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        for path in ["/reload", "/drain", "/config/rollback?version=1"] {
            let refused = admin.ask("POST", path, &[header]).await;
            assert!(refused.assert_status(403).text().contains("another site"), "{refused:?}");
        }
    }
    assert!(admin.fake.asked().is_empty(), "nothing was done");
    admin.ask("POST", "/reload", &[("sec-fetch-site", "same-origin")]).await.assert_status(200);
    for host in ["localhost:9901", "[::1]:9901", "127.0.0.1"] {
        admin.ask("POST", "/reload", &[("host", host)]).await.assert_status(200);
    }
}

#[tokio::test]
async fn a_request_has_one_host() {
    let admin = Admin::with(PLAIN);

    for (head, status) in [
        ("GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nhost: a\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n", 400),
        ("GET /config HTTP/1.0\r\n\r\n", 200),
        ("GET http://evil.example/config HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n", 403),
    ] {
        let mut conversation = admin.client().raw(head).await;
        assert_eq!(conversation.answer().await.status, status, "{head}");
    }
}

#[tokio::test]
async fn probes_have_three_pages_and_ask_for_nothing() {
    let mut admin = Admin::guarded();
    let top = format!("{}\nprobes: {{address: 127.0.0.1:0}}", admin.with_token("127.0.0.1:0", TOKEN));
    admin.reconfigure(&top).unwrap();
    let named = [("host", "armiger.shop.svc:9902")];

    for path in ["/livez", "/readyz", "/metrics"] {
        admin.probes().request(request("GET", path, &named)).await.assert_status(200);
    }
    let served: BTreeSet<&str> = PROBES.iter().map(|page| page.path).collect();
    for page in pages().filter(|page| !served.contains(page.path)) {
        let headers = [named[0], ("authorization", "Bearer 0123456789abcdef")];
        let response = admin.probes().request(request(page.method.as_str(), &path_of(page.path), &headers)).await;
        assert!(response.assert_status(404).text().contains("/livez"), "{} {response:?}", page.path);
    }
    admin.probes().post("/livez", "").await.assert_status(405).assert_header("allow", "GET, HEAD");
    assert!(admin.probes().get("/readyz?verbose").await.text().contains("[+] listeners: withheld"));
    assert!(admin.fake.asked().is_empty());
}

// === bounds ===

#[tokio::test]
async fn a_body_is_bounded_and_never_half_of_one() {
    let admin = Admin::with(PLAIN);

    admin.client().post("/reload", vec![b'x'; 64 * 1024]).await.assert_status(200);
    let mut conversation =
        admin.client().raw("POST /reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 65537\r\n\r\n").await;
    assert_eq!(conversation.answer().await.status, 413);
    let mut cut = admin.client().raw("POST /drain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nab").await;
    cut.finish().await;
    assert!(!matches!(cut.try_answer().await, Ok(answer) if answer.status < 400));
    assert_eq!(admin.fake.asked(), ["reload"], "what was cut short was not done");
}

/// The clock stands still but for what is waited for, so the time is exactly what the listener allows.
#[tokio::test(start_paused = true)]
async fn whoever_is_slow_is_cut_off() {
    let admin = Admin::with(PLAIN);
    let address = admin.servers.admin().unwrap().tcp().unwrap();
    let body = "POST /reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\na";
    for (sent, seconds, status) in [
        ("", 10, None),
        ("GET /livez HTTP/1.1\r\nhost: loc", 10, None),
        (body, 10, Some("408")),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", 10, Some("200")),
    ] {
        let start = tokio::time::Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        let passed = start.elapsed();
        assert!(
            passed >= Duration::from_secs(seconds) && passed < Duration::from_secs(seconds + 1),
            "{sent:?}: {passed:?}"
        );
        let answer = String::from_utf8(answer).unwrap();
        match status {
            None => assert!(!answer.starts_with("HTTP/1.1 2"), "{sent:?}: {answer}"),
            Some(status) => assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{sent:?}: {answer}"),
        }
    }
    assert!(admin.fake.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_nothing_is_cut_off() {
    let admin = Admin::with(PLAIN);
    let mut stream = TcpStream::connect(admin.servers.admin().unwrap().tcp().unwrap()).await.unwrap();
    let asked = 20;
    for _ in 0..asked {
        let head = "GET /state/large?limit=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    let mut answers = Vec::new();
    // Ends with a reset or an end; before either, what the kernel had taken.
    stream.read_to_end(&mut answers).await.ok();
    assert!(answers.len() < asked * 2_000_000, "{} bytes came", answers.len());
}

#[tokio::test]
async fn the_65th_connection_takes_the_place_of_the_one_that_has_rested_the_longest() {
    let admin = Admin::with(BOTH);
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut connection = admin.client().connect().await;
        connection.get("/livez").await.assert_status(200);
        held.push(connection);
    }
    held[0].get("/livez").await.assert_status(200);

    admin.client().get("/livez").await.assert_status(200);

    held[1].closed().await;
    held[0].get("/livez").await.assert_status(200);
}

#[tokio::test]
async fn whoever_is_at_work_keeps_its_place_and_others_wait() {
    let admin = Admin::with(BOTH);
    let head = "POST /reload HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut connection = admin.client().raw(head).await;
        connection.answer().await.assert_status(100);
        held.push(connection);
    }

    let client = admin.client();
    let mut waiting = tokio::spawn(async move { client.get("/livez").await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "one too many was served");
    admin.probes().get("/livez").await.assert_status(200);
    held.pop();
    waiting.await.unwrap().assert_status(200);
}

/// Kubelets and scrapers come with a connection of their own each time.
#[tokio::test]
async fn whoever_asks_all_the_time_keeps_nobody_out() {
    let mut admin = Admin::new();
    let machine = Machine { files: Some(128), ..Machine::detect() };
    admin.servers = AdminServers::new(admin.fake.clone(), Metrics::new(), &machine);
    admin.reconfigure(PLAIN).unwrap();
    assert_eq!(machine.operators_max(64), 2);
    let asked = Arc::new(watch::Sender::new(0));
    let askers: Vec<_> = (0..2)
        .map(|_| {
            let (client, asked) = (admin.client(), asked.clone());
            tokio::spawn(async move {
                loop {
                    let mut connection = client.connect().await;
                    while !connection.get("/livez").await.assert_status(200).headers.contains_key("connection") {
                        asked.send_modify(|asked| *asked += 1);
                    }
                }
            })
        })
        .collect();
    within("both to ask", asked.subscribe().wait_for(|asked| *asked > 100)).await.unwrap();

    for _ in 0..3 {
        within("a seat", admin.client().get("/livez")).await.assert_status(200);
    }

    askers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn whoever_takes_no_answer_keeps_nobody_out() {
    let mut admin = Admin::new();
    let machine = Machine { files: Some(128), ..Machine::detect() };
    admin.servers = AdminServers::new(admin.fake.clone(), Metrics::new(), &machine);
    admin.reconfigure(PLAIN).unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(admin.servers.admin().unwrap().tcp().unwrap()).await.unwrap();
        for _ in 0..20 {
            stream.write_all(b"GET /state/large?limit=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        }
        held.push(stream);
    }

    let came = std::time::Instant::now();
    within("a seat", admin.client().get("/livez")).await.assert_status(200);
    assert!(came.elapsed() < Duration::from_secs(8), "{:?}", came.elapsed());
}

// === moving ===

#[tokio::test]
async fn they_move_without_losing_an_answer() {
    let mut admin = Admin::with(BOTH);
    let (old, old_probes) = (admin.client(), admin.probes());
    let mut kept = old.connect().await;
    kept.get("/livez").await.assert_status(200);
    admin.fake.comes_to(None);
    let asking = tokio::spawn(async move { old.post("/reload", "").await });
    admin.fake.was_asked("reload").await;

    admin.reconfigure(BOTH).unwrap();
    kept.get("/livez").await.assert_status(200);
    assert_eq!(admin.client().get("/livez").await.status, 200, "the same wish keeps the same port");

    // No probes any more, and admin is another address of loopback.
    admin.reconfigure("admin: {address: 127.0.0.2:0}").unwrap();
    admin.client().get("/livez").await.assert_status(200);
    kept.closed().await;
    assert!(admin.servers.probes().is_none());
    admin.fake.comes_to(Outcome::Applied(Told::message("moved")));
    assert_eq!(asking.await.unwrap().assert_status(200).text(), "moved\n", "what was asked is answered");
    old.until_refused().await;
    old_probes.until_refused().await;
}

#[tokio::test]
async fn what_cannot_be_bound_changes_nothing() {
    let mut admin = Admin::with(BOTH);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (admin_was, probes_was) = (admin.client(), admin.probes());

    let top = format!("admin: {{address: 127.0.0.2:0}}\nprobes: {{address: {}}}", taken.local_addr().unwrap());
    let error = admin.reconfigure(&top).unwrap_err();

    assert!(error.contains("(probes)") && error.contains("in use"), "{error}");
    for client in [admin_was, probes_was] {
        client.get("/livez").await.assert_status(200);
    }
}

#[tokio::test]
async fn an_address_widens_narrows_and_changes_hands() {
    let mut admin = Admin::with("admin: {address: 127.0.0.1:0}");
    let port = admin.port();
    for address in ["0.0.0.0", "127.0.0.1"] {
        admin.reconfigure(&format!("admin: {{address: \"{address}:{port}\"}}")).unwrap();
        Client::to(([127, 0, 0, 1], port).into()).get("/config").await.assert_status(200);
    }

    // What was admin's is the probes' now.
    admin.reconfigure(&format!("admin: {{address: 127.0.0.1:0}}\nprobes: {{address: 127.0.0.1:{port}}}")).unwrap();
    assert_ne!(admin.port(), port);
    within("the pages of the other listener", async {
        while Client::to(([127, 0, 0, 1], port).into()).get("/config").await.status != 404 {}
    })
    .await;
    admin.client().get("/config").await.assert_status(200);
}

#[tokio::test]
async fn a_new_token_counts_from_the_next_request_on() {
    let mut admin = Admin::guarded();
    let mut connection = admin.client().connect().await;
    let ask = |token: &str| request("GET", "/config", &[("authorization", format!("Bearer {token}").as_str())]);
    connection.request(ask(TOKEN)).await.assert_status(200);

    let top = admin.with_token("127.0.0.1:0", "fedcba9876543210");
    admin.reconfigure(&top).unwrap();

    connection.request(ask(TOKEN)).await.assert_status(401);
    connection.request(ask("fedcba9876543210")).await.assert_status(200);
}

// === a socket that is a file ===

async fn over_unix(path: &Path, head: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer over the socket", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn admin_can_be_a_file() {
    let mut admin = Admin::new();
    let path = admin.folder.path().join("admin.sock");
    // What a process that was killed left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    admin.reconfigure(&format!("admin: {{address: \"unix:{}\"}}", path.display())).unwrap();
    let answer = over_unix(&path, "POST /reload HTTP/1.1\r\nhost: whatever").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "no browser can come here: {answer}");

    let mut other = Admin::new();
    let error = other.reconfigure(&format!("admin: {{address: \"unix:{}\"}}", path.display())).unwrap_err();
    assert!(error.contains("in use") && error.contains("unix:"), "{error}");
    admin.reconfigure(PLAIN).unwrap();
    assert!(!path.exists(), "it goes with its listener");
}

// === the document ===

#[test]
fn addresses_must_not_clash_and_tokens_must_be_some() {
    let listener = "127.0.0.1:8080";
    let files = Files::none();
    files.write("short", "fifteen bytes..");
    files.write("spaced", "two words of some length");
    let token = |name: &str| format!("admin: {{token: \"${{file:{}}}\"}}", files.path(name).display());
    for (top, said) in [
        (format!("admin: {{address: {listener}}}"), "127.0.0.1:8080 is taken by `admin`"),
        (format!("probes: {{address: {listener}}}"), "127.0.0.1:8080 is taken by `probes`"),
        ("probes: {address: 0.0.0.0:8080}".into(), "127.0.0.1:8080 is taken by `probes`"),
        ("probes: {address: 127.0.0.1:9901}".into(), "127.0.0.1:9901 is taken by `admin`"),
        ("admin: {address: localhost:9901}".into(), "names are not looked up here: write `127.0.0.1:9901`"),
        ("admin: {address: \"unix:admin.sock\"}".into(), "write the whole path"),
        ("admin: {token: plain-text-that-is-long-enough}".into(), "secret"),
        (token("short"), "too short"),
        (token("spaced"), "no `Authorization: Bearer` can hold"),
    ] {
        let admin = if top.starts_with("admin") { "" } else { "admin: {address: 127.0.0.1:9901}\n" };
        let text = format!(
            "{admin}{top}\nlisteners:\n  - {{name: http, address: {listener}}}\nroutes:\n  - {{name: a, match: {{path: /a}}, respond: {{}}}}\n"
        );
        let report = try_snapshot(&text).err().unwrap_or_else(|| panic!("{top} was taken"));
        assert!(report.contains(said), "{top}: {report}");
    }
}

// === commands ===

/// Runs the executable while this test's listeners answer it.
async fn run(args: &[&str], environment: &[(&str, &str)]) -> crate::harness::Finished {
    let args: Vec<String> = args.iter().map(|one| (*one).to_owned()).collect();
    let environment: Vec<(String, String)> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let running = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Armiger::binary_in(&args, &environment)
    });
    within("the command", running).await.unwrap()
}

fn told(admin: &Admin) -> String {
    admin.servers.admin().unwrap().to_string()
}

#[tokio::test]
async fn a_reload_is_asked_for_and_its_report_printed() {
    let admin = Admin::with(PLAIN);

    let done = run(&["reload", "--admin", &told(&admin)], &[]).await;
    assert_eq!(done.assert_code(0).stdout, "version 2 is in force\n");
    admin.fake.comes_to(Outcome::Refused(Told::message("error: no")));
    let refused = run(&["reload"], &[("ARMIGER_ADMIN", &told(&admin))]).await;
    assert_eq!(refused.assert_code(1).stdout, "error: no\n");
    assert_eq!(admin.fake.asked(), ["reload", "reload"]);
}

#[tokio::test]
async fn a_command_notices_that_it_asks_somebody_else() {
    let admin = Admin::with(BOTH);
    let other = Backend::replies("{\"drained\": true}").await;
    let raw = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_http = raw.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = raw.accept().await.unwrap();
            stream.write_all(b"-ERR unknown command 'GET'\r\n").await.ok();
            let mut rest = Vec::new();
            tokio::spawn(async move { stream.read_to_end(&mut rest).await });
        }
    });
    let (other, probes) = (other.address(), admin.servers.probes().unwrap().tcp().unwrap());
    for command in [
        &["status"][..],
        &["reload"],
        &["drain"],
        &["drain", "--wait"],
        &["keys", "refresh"],
        &["breaker", "show"],
        &["breaker", "open", "app"],
        &["purge", "--all"],
    ] {
        for (address, who) in
            [(other, "something else"), (probes, "armiger's `probes` listener"), (no_http, "no HTTP/1.1")]
        {
            let finished = run(&[command, &["--admin", &address.to_string()]].concat(), &[]).await;
            let said =
                format!("what answers on {address} is {who}, not armiger's admin listener: name its `admin.address`");
            assert!(finished.assert_code(1).stderr.contains(&said), "{command:?}: {finished:#?}");
            assert_eq!(finished.stdout, "", "{command:?}");
        }
    }
    assert_eq!(admin.fake.asked(), [""; 0]);
}

#[test]
fn what_keeps_a_command_from_asking_is_told_with_a_way_around() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (broken, empty) = (file("broken.yaml", "listeners: [\n"), file("token", "\n"));
    for command in [&["breaker", "show"][..], &["purge", "--all"], &["status"], &["reload"]] {
        let finished = Armiger::binary(&[command, &["-c", &broken]].concat());
        let last = finished.assert_code(1).stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("armiger: ") && last.contains("name it with --admin"), "{finished:#?}");
        assert!(finished.stderr.contains("-->") && finished.stdout.is_empty(), "{finished:#?}");
    }
    let finished = Armiger::binary(&["status", "--admin", "127.0.0.1:1", "--token-file", &empty]);
    assert!(finished.assert_code(1).stderr.contains("is empty"), "{finished:#?}");
}

/// As `run` does: who is where armiger's `config.yaml` is need not say again what stands in it.
#[tokio::test]
async fn a_command_asks_where_the_configuration_at_hand_says() {
    let admin = Admin::with(PLAIN);
    let folder = tempfile::tempdir().unwrap();
    let status = async |text: Option<String>| {
        if let Some(text) = text {
            std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        }
        let at = folder.path().to_owned();
        let running = tokio::task::spawn_blocking(move || Armiger::binary_at(&at, &["status"]));
        within("the command", running).await.unwrap()
    };

    let found = status(Some(format!("admin: {{address: {}}}", told(&admin)))).await;
    found.assert_code(0);
    assert!(found.stdout.contains("readiness"), "{found:#?}");

    let gone = status(Some("admin: {address: 127.0.0.1:1}".into())).await;
    gone.assert_code(1);
    assert!(gone.stderr.contains("127.0.0.1:1:"), "{gone:#?}");
    assert!(gone.stderr.contains("--admin") && gone.stderr.contains("-c"), "{gone:#?}");

    // A file that is being edited keeps nobody from asking. Whoever listens on that port says what becomes of it.
    let broken = status(Some("admin: [\n".into())).await;
    let said =
        "armiger: warning: config.yaml has mistakes that hide where the admin listener is, so 127.0.0.1:9901 is asked";
    assert!(broken.stderr.starts_with(said), "{broken:#?}");
}

/// Runs the executable beside a `config.yaml` with this text.
async fn beside(text: &str, args: &[&str]) -> crate::harness::Finished {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    let args: Vec<String> = args.iter().map(|one| (*one).to_owned()).collect();
    let running = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Armiger::binary_at(folder.path(), &args)
    });
    within("the command", running).await.unwrap()
}

/// Which would be another armiger, if there is one on the port that is the default.
#[tokio::test]
async fn what_changes_something_is_not_asked_of_an_armiger_that_is_guessed() {
    for command in [
        &["reload"][..],
        &["drain"],
        &["drain", "--wait"],
        &["keys", "refresh"],
        &["breaker", "open", "app"],
        &["breaker", "close", "app"],
        &["breaker", "reset", "app"],
        &["purge", "--all"],
    ] {
        for text in [
            "admin: {address: \"127.0.0.1:${env:NOPE}\"}",
            "admin: {address: localhost:9999}",
            "admin: {addres: \"127.0.0.1:9999\"}",
            "admn: {address: \"127.0.0.1:9999\"}",
            "admin: [\n",
            "include: [nowhere/*.yaml, nowhere.yaml]",
        ] {
            let refused = beside(text, command).await;
            let last = refused.assert_code(1).stderr.lines().last().unwrap_or_default();
            let said = "armiger: cannot tell from config.yaml where the admin listener is: name it with --admin";
            assert!(last.starts_with(said), "{command:?}, {text}: {refused:#?}");
        }
    }
}

/// Such as by a variable that armiger has and the shell of an operator has not.
#[tokio::test]
async fn a_token_that_cannot_be_read_does_not_hide_the_address() {
    let admin = Admin::with(PLAIN);
    let text = format!("admin: {{address: \"{}\", token: \"${{env:NOPE}}\"}}", told(&admin));

    let asked = beside(&text, &["drain"]).await;
    let warning = format!("mistakes that hide what `admin.token` is, so {} is asked without", told(&admin));
    assert!(asked.assert_code(0).stderr.contains(&warning), "{asked:#?}");
    assert_eq!(admin.fake.asked().first().map(String::as_str), Some("drain"));
    let refused = beside(&text, &["drain", "-c", "config.yaml"]).await;
    let said = "armiger: cannot tell from config.yaml what `admin.token` is: name its file with --token-file";
    assert_eq!(refused.assert_code(1).stderr.lines().last(), Some(said), "{refused:#?}");

    let guarded = Admin::guarded();
    let files = Files::none();
    files.write("token", TOKEN);
    let text = format!("admin: {{address: \"{}\", token: \"${{env:NOPE}}\"}}", told(&guarded));
    let refused = beside(&text, &["drain"]).await;
    assert!(refused.assert_code(1).stderr.contains("--token-file FILE"), "{refused:#?}");
    let token = files.path("token").display().to_string();
    for named in [&[][..], &["-c", "config.yaml"]] {
        let asked = beside(&text, &[&["drain", "--token-file", &token], named].concat()).await;
        assert_eq!(asked.assert_code(0).stderr, "", "{asked:#?}");
    }
}

#[tokio::test]
async fn a_warning_of_a_command_is_in_the_form_that_was_asked_for() {
    let admin = Admin::with(PLAIN);
    let text = format!("admin: {{address: \"{}\", token: \"${{env:NOPE}}\"}}", told(&admin));
    for (text, what) in [("admin: [\n", "where the admin listener is"), (&text, "what `admin.token` is")] {
        let finished = beside(text, &["status", "--log-format", "json"]).await;
        let first = finished.stderr.lines().next().unwrap_or_default();
        let line: Value = serde_json::from_str(first).unwrap_or_else(|_| panic!("{finished:#?}"));
        assert_eq!(line["level"], "WARN");
        assert!(line["fields"]["message"].as_str().is_some_and(|message| message.contains(what)), "{finished:#?}");
    }
}

#[tokio::test]
async fn keys_are_fetched_of_all_or_of_one_provider() {
    let admin = Admin::with(PLAIN);
    let address = told(&admin);

    run(&["keys", "refresh", "--admin", &address], &[]).await.assert_code(0);
    let of =
        async |provider: &str| run(&["keys", "refresh", "--provider", provider], &[("ARMIGER_ADMIN", &address)]).await;
    of("the staff/ö+1&x").await.assert_code(0);
    admin.fake.comes_to(Outcome::Failed(Told::message("staff: 1 keys in use as before, for it is away")));
    let failed = of("staff").await;
    assert_eq!(failed.assert_code(1).stdout, "staff: 1 keys in use as before, for it is away\n");
    admin.fake.comes_to(Outcome::Unknown(Told::message("no provider `x` fetches keys")));
    let unknown = of("x").await;
    assert!(unknown.assert_code(1).stderr.contains("no provider `x` fetches keys"), "{unknown:#?}");
    assert_eq!(
        admin.fake.asked(),
        ["keys of all", "keys of the staff/ö+1&x", "keys of staff", "keys of x"],
        "a name comes as it is"
    );
}

#[tokio::test]
async fn breakers_are_overruled_by_upstream_endpoint_or_route() {
    let admin = Admin::with(PLAIN);
    let address = told(&admin);
    let breaker = async |args: &[&str]| run(&[&["breaker"], args, &["--admin", &address]].concat(), &[]).await;

    for (args, asked) in [
        (
            &["open", "app", "--for", "2m"][..],
            "upstream: \"app\", endpoint: None, route: None, force: Some((Open, 120s))",
        ),
        (
            &["close", "app", "--endpoint", "[::1]:80"],
            "upstream: \"app\", endpoint: Some(\"[::1]:80\"), route: None, force: Some((Closed, 300s))",
        ),
        (&["reset", "app", "--route", "a&b"], "upstream: \"app\", endpoint: None, route: Some(\"a&b\"), force: None"),
    ] {
        let done = breaker(args).await;
        assert_eq!(done.assert_code(0).stdout, format!("BreakerOrder {{ {asked} }}\n"));
    }
    breaker(&["reset", "app", "--route", "a", "--endpoint", "b"]).await.assert_code(2);
    let wrong = breaker(&["open", "app", "--for", "25h"]).await;
    assert!(wrong.assert_code(1).stderr.contains("at most 24h"), "{wrong:#?}");
}

#[tokio::test]
async fn a_purge_needs_a_target() {
    let admin = Admin::with(PLAIN);
    let address = told(&admin);

    run(&["purge", "--soft", "--admin", &address], &[]).await.assert_code(2);
    let some = run(&["purge", "--prefix", "/a", "--tag", "a", "--tag", "b", "--soft", "--admin", &address], &[]).await;
    let answer: Value = serde_json::from_str(&some.assert_code(0).stdout).unwrap();
    assert_eq!(answer, json!({"targets": 3, "soft": true}));
    let all = run(&["purge", "--all", "--tag", "a", "--admin", &address], &[]).await;
    assert!(all.assert_code(2).stderr.contains("cannot be used with"), "whoever means all that has a tag: {all:#?}");
    let wrong = run(&["purge", "--url", "nowhere", "--admin", &address], &[]).await;
    assert!(wrong.assert_code(1).stderr.contains("is no URL: write `http://host/path`"), "{wrong:#?}");
}

#[tokio::test]
async fn a_drain_is_waited_for() {
    let admin = Admin::with(PLAIN);
    let address = told(&admin);

    let begun = run(&["drain", "--admin", &address], &[]).await;
    assert!(begun.assert_code(0).stdout.contains("\"announced\""), "{begun:#?}");
    let late = run(&["drain", "--wait", "--timeout", "200ms", "--admin", &address], &[]).await;
    assert!(late.assert_code(1).stderr.contains("still not drained") && late.stderr.contains("200ms"), "{late:#?}");

    let mut asked = admin.fake.asked.subscribe();
    let before = asked.borrow().len();
    let waiting = tokio::spawn(async move { run(&["drain", "--wait", "--admin", &address], &[]).await });
    within("the command to wait", asked.wait_for(|asked| asked.len() >= before + 3)).await.unwrap();
    admin.fake.drained.send_replace(true);
    let drained = waiting.await.unwrap();
    assert!(drained.assert_code(0).stdout.contains("\"drained\":true"), "{drained:#?}");
}

#[tokio::test]
async fn a_drain_is_over_when_the_process_is_gone() {
    let admin = Admin::with(PLAIN);
    let address = told(&admin);

    let gone = address.clone();
    let mut asked = admin.fake.asked.subscribe();
    let waiting = tokio::spawn(async move { run(&["drain", "--wait", "--admin", &gone], &[]).await });
    within("the command to wait", asked.wait_for(|asked| asked.len() >= 3)).await.unwrap();
    // As the process ends: the answer that is waited for breaks off.
    drop(admin);
    waiting.await.unwrap().assert_code(0);

    let nobody = run(&["drain", "--wait", "--admin", &address], &[]).await;
    assert!(nobody.assert_code(1).stderr.contains("nobody listens"), "{nobody:#?}");
}

#[tokio::test]
async fn the_configuration_and_a_file_name_the_token() {
    let mut admin = Admin::new();
    let socket = format!("unix:{}", admin.folder.path().join("admin.sock").display());
    let top = admin.with_token(&socket, TOKEN);
    admin.reconfigure(&top).unwrap();
    // What is wrong elsewhere does not matter.
    let config = admin.folder.path().join("config.yaml");
    std::fs::write(&config, format!("{}nonsense: 1\n", yaml(&top))).unwrap();
    let config = config.to_str().unwrap();
    let (right, wrong) = (admin.token_file(TOKEN), admin.token_file("fedcba9876543210"));

    let status = run(&["status", "--config", config], &[]).await;
    let told: Value = serde_json::from_str(&status.assert_code(0).stdout).unwrap();
    assert_eq!((&told["readiness"]["ready"], &told["config"]["version"]), (&json!(true), &json!(1)));
    assert_eq!(told["readiness"]["checks"][0]["detail"], "all are bound", "the token counts there too");
    assert_eq!(told["drain"]["phase"], "running");
    run(&["reload"], &[("ARMIGER_CONFIG", config)]).await.assert_code(0);
    run(&["reload", "--admin", &socket, "--token-file", &right], &[]).await.assert_code(0);
    let without = run(&["reload", "--admin", &socket], &[("ARMIGER_CONFIG", config)]).await;
    assert!(without.assert_code(1).stderr.contains("401") && without.stderr.contains("--token-file"), "{without:#?}");
    let refused = run(&["reload", "--config", config, "--token-file", &wrong], &[]).await;
    assert!(refused.assert_code(1).stderr.contains("not the token"), "{refused:#?}");
    let lost = run(&["status", "--config", "/no/such/file.yaml"], &[]).await;
    assert!(lost.assert_code(1).stderr.contains("no such file"), "{lost:#?}");
    for args in [&["status", "--admin", "nowhere"][..], &["status", "--timeout", "soon"]] {
        run(args, &[]).await.assert_code(2);
    }
}

// === the program ===

#[tokio::test]
async fn the_program_serves_probes_too() {
    let armiger = Armiger::with(
        Config::empty().top("probes: {address: 127.0.0.1:0}").routes("- {name: a, match: {path: /a}, respond: {}}"),
    )
    .await;

    armiger.admin().get("/readyz?verbose").await.assert_status(200);
    armiger.probes().get("/metrics").await.assert_status(200);
    armiger.stop().await;
}

// === the reference ===

#[test]
fn the_reference_has_each_page_and_no_other() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md")).unwrap();
    let written: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let served: Vec<String> = pages().map(|page| format!("{} {}", page.method, page.path)).collect();

    assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), written.len(), "each page stands there once");
    let written: BTreeSet<String> = written.into_iter().map(str::to_owned).collect();
    assert_eq!(written, served.iter().cloned().collect());
}
