//! A Redis for tests that agrees with all that it is told, and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::Client;

/// It ends with the test.
pub struct Agreeing {
    port: u16,
    asked: Arc<AtomicUsize>,
    told: Arc<AtomicUsize>,
}

impl Agreeing {
    /// Starts it, as a task of the thread.
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (asked, told) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (asked.clone(), told.clone());
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::task::spawn_local(answer(stream, counts.clone()));
            }
        });
        Self { port, asked, told }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many scripts it was to run.
    pub fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }

    /// Waits until somebody has come.
    pub async fn until_asked(&self) {
        while self.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the client goes by a connection to it.
    pub async fn until_up(&self, client: &Client) {
        self.until_asked().await;
        while !client.is_up() {
            tokio::task::yield_now().await;
        }
    }
}

async fn answer(stream: TcpStream, (asked, told): (Arc<AtomicUsize>, Arc<AtomicUsize>)) {
    let mut stream = BufReader::new(stream);
    while let Some(words) = read(&mut stream).await {
        asked.fetch_add(1, Ordering::SeqCst);
        let reply = match words[0].as_str() {
            "PING" => "+PONG\r\n",
            "EVALSHA" => {
                told.fetch_add(1, Ordering::SeqCst);
                "*3\r\n$1\r\n1\r\n:8\r\n*0\r\n"
            }
            // As to a user who may not.
            "MULTI" => "-NOPERM this user has no permissions to run the 'multi' command\r\n",
            "EXEC" => "-ERR EXEC without MULTI\r\n",
            _ => "+OK\r\n",
        };
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The words of a command.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = number(stream, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; number(stream, '$').await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned());
    }
    (!words.is_empty()).then_some(words)
}

async fn number(stream: &mut BufReader<TcpStream>, before: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(before)?.parse().ok()
}
