//! A load that does not pause: connections that ask, read the answer and ask again, as a well-behaved client does. What it
//! counts as a failure, a user would have seen.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{until, within};

/// How many failures are kept in words.
const FAILURES_MAX: usize = 20;

/// Connections under load. Ends when dropped.
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Tally>,
}

struct Shared {
    is_over: AtomicBool,
    answered: AtomicU64,
    changed: Notify,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Tally {
    /// Whole answers that were as they should be.
    pub answered: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// What went wrong, the first of it in words.
    pub failures: Vec<String>,
    /// How often something went wrong.
    pub failed: u64,
}

/// Says what is wrong with an answer: its status and body.
pub type Check = fn(u16, &[u8]) -> Result<(), String>;

impl Load {
    /// No connection yet.
    pub fn new() -> Self {
        let shared = Shared { is_over: AtomicBool::new(false), answered: AtomicU64::new(0), changed: Notify::new() };
        Self { shared: Arc::new(shared), tasks: JoinSet::new() }
    }

    /// So many HTTP/1.1 connections that GET `path`.
    pub fn http1(mut self, address: SocketAddr, connections: usize, path: &'static str, check: Check) -> Self {
        for _ in 0..connections {
            self.tasks.spawn(run(self.shared.clone(), Target { address, path, check, version: Version::HTTP_11 }));
        }
        self
    }

    /// So many HTTP/2 connections in clear text that GET `path`, one stream at a time.
    pub fn h2c(mut self, address: SocketAddr, connections: usize, path: &'static str, check: Check) -> Self {
        for _ in 0..connections {
            self.tasks.spawn(run(self.shared.clone(), Target { address, path, check, version: Version::HTTP_2 }));
        }
        self
    }

    /// How many answers there are so far.
    pub fn count(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    pub async fn progress(&self, answers: u64) {
        let goal = self.count() + answers;
        let reached = until(&self.shared.changed, || (self.count() >= goal).then_some(()));
        within(&format!("{answers} more answers under load"), reached).await;
    }

    /// Ends it, and tells what came of it.
    pub async fn stop(mut self) -> Tally {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        while let Some(tally) = within("the load to end", self.tasks.join_next()).await {
            let tally = tally.expect("a client under load does not panic");
            all.answered += tally.answered;
            all.connections += tally.connections;
            all.failed += tally.failed;
            all.failures.extend(tally.failures);
        }
        all.failures.truncate(FAILURES_MAX);
        all
    }
}

impl Tally {
    /// Fails the test unless every single request was answered as it should be.
    #[track_caller]
    pub fn assert_flawless(&self) -> &Self {
        assert!(self.answered > 0, "the load never got an answer: {self:?}");
        assert_eq!(self.failed, 0, "{self:#?}");
        self
    }

    fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(what.into());
        }
    }
}

#[derive(Clone, Copy)]
struct Target {
    address: SocketAddr,
    path: &'static str,
    check: Check,
    version: Version,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

async fn run(shared: Arc<Shared>, target: Target) -> Tally {
    let mut tally = Tally::default();
    let mut sender = None;
    while !shared.is_over.load(Ordering::Relaxed) {
        let mut line = match sender.take() {
            Some(line) => line,
            None => match connect(target).await {
                Ok(line) => {
                    tally.connections += 1;
                    line
                }
                Err(error) => {
                    tally.fail(format!("no connection: {error}"));
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        match ask(&mut line, target).await {
            Ok(Asked::Answered { status, body, is_last }) => {
                match (target.check)(status, &body) {
                    Ok(()) => tally.answered += 1,
                    Err(what) => tally.fail(what),
                }
                shared.answered.fetch_add(1, Ordering::Relaxed);
                shared.changed.notify_waiters();
                sender = (!is_last).then_some(line);
            }
            Ok(Asked::NeverSent) => {}
            Err(error) => tally.fail(error),
        }
    }
    tally
}

async fn connect(target: Target) -> Result<Sender, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    if target.version == Version::HTTP_2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Sender::Http1(sender))
}

enum Asked {
    Answered {
        status: u16,
        body: Bytes,
        /// The connection takes no more requests.
        is_last: bool,
    },
    /// The connection was closed before anything of the request went out, or said that it would not look at it
    /// (RFC 9113 §6.8): no user sees that, for every client asks again elsewhere.
    NeverSent,
}

async fn ask(sender: &mut Sender, target: Target) -> Result<Asked, String> {
    let request = |uri: String| {
        let builder = Request::get(uri).version(target.version);
        builder.header("host", target.address.to_string()).body(Full::default()).expect("the test gives a valid path")
    };
    let sent = match sender {
        Sender::Http1(sender) => {
            if sender.ready().await.is_err() {
                return Ok(Asked::NeverSent);
            }
            sender.try_send_request(request(target.path.to_owned())).await
        }
        Sender::Http2(sender) => {
            if sender.ready().await.is_err() {
                return Ok(Asked::NeverSent);
            }
            let mut request = request(format!("http://{}{}", target.address, target.path));
            request.headers_mut().remove("host");
            sender.try_send_request(request).await
        }
    };
    let answer = match sent {
        Ok(answer) => answer,
        Err(mut error) => {
            let was_sent = error.take_message().is_none();
            if was_sent && !is_refused(error.error()) {
                return Err(format!("no answer: {:?}", error.error()));
            }
            return Ok(Asked::NeverSent);
        }
    };
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| format!("a cut answer: {error:?}"))?.to_bytes();
    let is_last = head.headers.get("connection").is_some_and(|value| value == "close");
    Ok(Asked::Answered { status: head.status.as_u16(), body, is_last })
}

/// Whether an HTTP/2 server says that it did not look at the request.
fn is_refused(error: &hyper::Error) -> bool {
    let reason = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    reason.is_some_and(|error| {
        error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
    })
}
