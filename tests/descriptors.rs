//! File descriptors: the limit is raised as far as it goes, clients never take the last ones, and a lack of them is told as
//! what it is.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Armiger, Backend, Client, Config, Files, Process, RawConversation, Script, address_in, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn config(backend: &Backend) -> Config {
    Config::to(backend).listener("timeouts: {request_headers: 1m, keep_alive: 1m}")
}

/// Keeps no connection for later: each request needs a descriptor.
async fn backend() -> Backend {
    Backend::raw(Script::new().request().write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"))
        .await
}

struct Stage {
    process: Process,
    client: Client,
    admin: Client,
    files: Files,
}

impl Stage {
    fn set(backend: &Backend, limit: &str) -> Self {
        let files = Files::of(config(backend));
        let mut process = Armiger::spawn_limited(&["run", "-c", &files.config(), "--workers", "1"], limit);
        let client = Client::to(address_in(&process.stderr_line("listener")));
        let admin = Client::to(address_in(&process.stderr_line("admin listening")));
        Self { process, client, admin, files }
    }

    /// Silent connections, open until they are dropped.
    async fn silent(&self, count: usize) -> Vec<TcpStream> {
        let mut silent = Vec::new();
        for _ in 0..count {
            silent.push(TcpStream::connect(self.client.address()).await.expect("the kernel accepts"));
        }
        silent
    }

    async fn assert_hit(&self) {
        let metrics = self.admin.get("/metrics").await;
        assert!(metrics.text().contains("armiger_limit_hits_total{limit=\"file_descriptors\"}"), "{}", metrics.text());
    }
}

/// What is known is not said again with each edit, but other numbers are news.
#[tokio::test]
async fn too_few_descriptors_are_told_once() {
    let backend = backend().await;
    let mut stage = Stage::set(&backend, "-n 64");
    stage.process.stderr_line("ulimit -n");
    stage.files.replace("config.yaml", config(&backend).route("timeout: 7s"));
    stage.process.stderr_line("version=2");
    stage.files.replace("config.yaml", config(&backend).upstream("pool: {connections_max: 77}"));
    stage.process.stderr_line("and 77 to upstreams");
    stage.process.signal("TERM");
    let finished = stage.process.finish();
    assert_eq!(finished.stderr.matches("ulimit -n").count(), 2, "{finished:#?}");
}

#[tokio::test]
async fn silent_clients_never_take_the_last_descriptors() {
    let backend = backend().await;
    let mut stage = Stage::set(&backend, "-n 64");
    let told = stage.process.stderr_line("file descriptors");
    assert!(told.contains("WARN") && told.contains("ulimit -n") && told.contains("connections_max"), "{told}");

    let mut served = stage.client.raw(GET).await;
    served.answer().await.assert_status(200);
    let silent = stage.silent(100).await;
    stage.process.stderr_line("no file descriptor is left for clients");
    stage.assert_hit().await;

    // Operators are heard, whoever is in is served, and an edit is read.
    stage.admin.get("/livez").await.assert_status(200);
    served.write(GET).await.answer().await.assert_status(200);
    stage.files.replace("config.yaml", config(&backend).route("timeout: 7s"));
    stage.process.stderr_line("version=2");

    // Nobody was sent away: who waits comes in as others leave.
    let mut waiting: RawConversation = stage.client.raw(GET).await;
    drop(silent);
    waiting.answer().await.assert_status(200);
}

#[tokio::test]
async fn connections_to_upstreams_never_take_the_last_descriptors() {
    let backend = Backend::raw(Script::new().request().hang()).await;
    let mut stage = Stage::set(&backend, "-n 64");
    // Each request needs a connection to the upstream, and the client has one.
    let client = stage.client.connect_h2c().await;
    let mut asked = JoinSet::new();
    for _ in 0..64 {
        let mut client = client.share();
        asked.spawn(async move { client.get("/").await });
    }
    let refused = within("a refusal", asked.join_next()).await.unwrap().unwrap();
    refused.assert_problem(503, "no-socket").assert_header("proxy-status", "armiger; error=proxy_internal_error");

    stage.admin.get("/livez").await.assert_status(200);
    stage.assert_hit().await;
    stage.files.replace("config.yaml", config(&backend).route("timeout: 7s"));
    stage.process.stderr_line("version=2");
}

#[tokio::test]
async fn idle_operators_never_take_the_descriptors_of_others() {
    let backend = backend().await;
    let mut stage = Stage::set(&backend, "-n 128");
    let mut served = stage.client.raw(GET).await;
    served.answer().await.assert_status(200);

    // Who is at work keeps its place.
    let mut slow = stage.admin.raw("POST /reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n").await;
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(TcpStream::connect(stage.admin.address()).await.expect("the kernel accepts"));
    }
    let _silent = stage.silent(150).await;
    stage.process.stderr_line("no file descriptor is left for clients");

    stage.admin.get("/livez").await.assert_status(200);
    let metrics = stage.admin.get("/metrics").await;
    assert!(metrics.text().contains("armiger_limit_hits_total{limit=\"operators\"}"), "{}", metrics.text());
    served.write(GET).await.answer().await.assert_status(200);
    stage.files.replace("config.yaml", config(&backend).route("timeout: 7s"));
    stage.process.stderr_line("version=2");
    slow.write("{}").await.answer().await.assert_status(200);
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let backend = backend().await;
    let stage = Stage::set(&backend, "-S -n 64");

    let _silent = stage.silent(100).await;
    stage.client.raw(GET).await.answer().await.assert_status(200);

    let metrics = stage.admin.get("/metrics").await;
    assert!(!metrics.text().contains("limit=\"file_descriptors\""), "{}", metrics.text());
}

#[tokio::test]
async fn without_a_descriptor_neither_the_upstream_nor_the_configuration_is_to_blame() {
    let backend = backend().await;
    let mut stage = Stage::set(&backend, "-n 256");
    let mut conversation = stage.client.raw(GET).await;
    conversation.answer().await.assert_status(200);

    stage.limit(4);
    let refusal = conversation.write(GET).await.answer().await;
    refusal.assert_problem(503, "no-socket").assert_header("proxy-status", "armiger; error=proxy_internal_error");
    stage.files.replace("config.yaml", config(&backend).route("timeout: 7s"));
    stage.process.stderr_line("no file descriptor is left");

    stage.limit(256);
    stage.process.signal("HUP");
    stage.process.stderr_line("version=2");
    conversation.write(GET).await.answer().await.assert_status(200);
    stage.process.signal("TERM");
    let finished = stage.process.finish();
    assert!(!finished.stderr.contains("was refused"), "{finished:#?}");
}

impl Stage {
    /// Lowers what the process may open from now on, or raises it.
    fn limit(&self, files: u64) {
        let process = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).expect("a process");
        let limit = Rlimit { current: Some(files), maximum: Some(256) };
        prlimit(Some(process), Resource::Nofile, limit).expect("the limit of one's own child may be changed");
    }
}
