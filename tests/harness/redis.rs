//! A Redis of a test's own: the real server, on a socket in a temporary folder, which keeps nothing.

use std::process::{Child, Command, Stdio};

use redis::FromRedisValue;
use tempfile::TempDir;

use super::within;

/// A Redis that ends with this.
pub struct Redis {
    folder: TempDir,
    server: Option<Child>,
}

impl Redis {
    /// Starts it. Fails the test if the program is missing: a test that skips itself shows nothing.
    pub async fn start() -> Self {
        let mut redis = Self { folder: tempfile::tempdir().expect("a temporary folder"), server: None };
        redis.restart().await;
        redis
    }

    /// Starts it again, empty, where it was.
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
        let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().expect("`redis-server` must be there: install the package `redis-server`"));
        within("redis to answer", async {
            while redis::Client::open(self.url()).and_then(|client| client.get_connection()).is_err() {
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
        let (url, words): (String, Vec<String>) = (self.url(), words.iter().map(|word| (*word).to_owned()).collect());
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
