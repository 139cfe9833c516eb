//! A Redis of a test's own: the real server, on a socket in a temporary folder, which keeps nothing unless it is told to.

use std::process::{Child, Command, Stdio};

use redis::FromRedisValue;
use tempfile::TempDir;

use super::{Authority, Pair, within};

/// A Redis that ends with this.
pub struct Redis {
    folder: TempDir,
    server: Option<Child>,
    guard: Option<Guard>,
}

/// What a Redis asks of its clients, and shows them.
struct Guard {
    port: u16,
    password: String,
}

impl Redis {
    /// Starts it. Fails the test if the program is missing: a test that skips itself shows nothing.
    pub async fn start() -> Self {
        let mut redis = Self { folder: tempfile::tempdir().expect("a temporary folder"), server: None, guard: None };
        redis.restart().await;
        redis
    }

    /// Starts one that is reached by TLS too, on a free port of 127.0.0.1, and that asks for a password.
    pub async fn guarded(authority: &Authority, password: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Pair { certificate, key } = authority.issue(&["127.0.0.1"]);
        for (name, text) in [("redis.crt", certificate), ("redis.key", key), ("ca.crt", authority.pem())] {
            std::fs::write(folder.path().join(name), text).expect("a temporary file");
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let guard = Guard { port: free.expect("a free port").port(), password: password.to_owned() };
        let mut redis = Self { folder, server: None, guard: Some(guard) };
        redis.restart().await;
        redis
    }

    /// From now on it starts with what it holds now.
    pub async fn remember(&self) {
        let _: String = self.ask(&["SAVE"]).await;
    }

    /// Starts it again where it was, empty, or with what it was to remember.
    pub async fn restart(&mut self) {
        self.kill();
        let folder = self.folder.path().to_str().expect("a folder with a name of text").to_owned();
        let socket = format!("{folder}/redis.sock");
        let arguments = [
            "--port",
            "0",
            "--unixsocket",
            &socket,
            "--dir",
            &folder,
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "yes",
        ];
        let mut command = Command::new("redis-server");
        command.args(arguments);
        if let Some(Guard { port, password }) = &self.guard {
            let port = port.to_string();
            let files = ["redis.crt", "redis.key", "ca.crt"].map(|name| format!("{folder}/{name}"));
            command.args(["--bind", "127.0.0.1", "--tls-port", &port, "--tls-auth-clients", "no"]);
            command.args(["--tls-cert-file", &files[0], "--tls-key-file", &files[1], "--tls-ca-cert-file", &files[2]]);
            command.args(["--requirepass", password]);
        }
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().expect("`redis-server` must be there: install the package `redis-server`"));
        within("redis to answer", async {
            while redis::Client::open(self.own_url()).and_then(|client| client.get_connection()).is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
        })
        .await;
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Where this harness finds it.
    fn own_url(&self) -> String {
        let password = self.guard.as_ref().map_or(String::new(), |guard| format!("?pass={}", guard.password));
        format!("{}{password}", self.url())
    }

    /// Where it is by TLS.
    pub fn tls_url(&self) -> String {
        let guard = self.guard.as_ref().expect("only a guarded one is reached by TLS");
        format!("rediss://127.0.0.1:{}", guard.port)
    }

    /// Where it is, for `rate_limits.redis.url`.
    pub fn url(&self) -> String {
        format!("unix://{}/redis.sock", self.folder.path().display())
    }

    /// The section that names it.
    pub fn section(&self, more: &str) -> String {
        format!("rate_limits: {{redis: {{url: \"{}\"{more}}}}}", self.url())
    }

    /// Asks it something, elsewhere, for it may take its time.
    pub async fn ask<T: FromRedisValue + Send + 'static>(&self, words: &[&str]) -> T {
        let (url, words): (String, Vec<String>) =
            (self.own_url(), words.iter().map(|word| (*word).to_owned()).collect());
        let asked = tokio::task::spawn_blocking(move || {
            let mut connection =
                redis::Client::open(url).and_then(|client| client.get_connection()).expect("redis is there");
            let mut command = redis::cmd(&words[0]);
            words[1..].iter().for_each(|word| {
                command.arg(word);
            });
            command.query(&mut connection).expect("redis answers")
        });
        asked.await.expect("no panic")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
