//! A load that does not pause: connections that ask, read the answer and ask again, as a well-behaved client does. What it
//! counts as a failure, a user would have seen.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    tasks: JoinSet<Outcome>,
}

struct Shared {
    is_over: AtomicBool,
    answered: AtomicUsize,
    changed: Notify,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whole answers that were as they should be.
    pub answered: usize,
    /// Connections that ended because an answer, or GOAWAY, asked for it.
    pub asked_to_close: usize,
    /// Clients that ended because nobody listened any more.
    pub refused: usize,
    /// What went wrong, the first of it in words.
    pub failures: Vec<String>,
    /// How often something went wrong.
    pub failed: usize,
}

/// Says what is wrong with an answer: its status and body.
pub type Check = fn(u16, &[u8]) -> Result<(), String>;

impl Load {
    /// No connection yet.
    pub fn new() -> Self {
        let shared = Shared { is_over: AtomicBool::new(false), answered: AtomicUsize::new(0), changed: Notify::new() };
        Self { shared: Arc::new(shared), tasks: JoinSet::new() }
    }

    /// So many clients of each kind that GET `/` and want a 200.
    pub fn on(address: SocketAddr, http1: usize, http2: usize) -> Self {
        let is_ok = |status: u16, _: &[u8]| if status == 200 { Ok(()) } else { Err(format!("status {status}")) };
        Self::new().http1(address, http1, "/", is_ok).h2c(address, http2, "/", is_ok)
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
    pub fn count(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    pub async fn answers(&self, answers: usize) {
        let goal = self.count() + answers;
        let reached = until(&self.shared.changed, || (self.count() >= goal).then_some(()));
        within(&format!("{answers} more answers under load"), reached).await;
    }

    /// Stops asking, waits for the answers that are due, and tells what came of it all.
    pub async fn stop(self) -> Outcome {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// Waits until every client has found the address closed.
    pub async fn ended(mut self) -> Outcome {
        let mut all = Outcome::default();
        while let Some(outcome) = within("the load to end", self.tasks.join_next()).await {
            let outcome = outcome.expect("a client under load does not panic");
            all.answered += outcome.answered;
            all.asked_to_close += outcome.asked_to_close;
            all.refused += outcome.refused;
            all.failed += outcome.failed;
            all.failures.extend(outcome.failures);
        }
        all.failures.truncate(FAILURES_MAX);
        all
    }
}

impl Outcome {
    /// Fails the test unless every single request was answered as it should be.
    #[track_caller]
    pub fn assert_flawless(&self) -> &Self {
        assert!(self.answered > 0, "the load never got an answer: {self:?}");
        assert_eq!((self.failed, self.refused), (0, 0), "{self:#?}");
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

async fn run(shared: Arc<Shared>, target: Target) -> Outcome {
    let mut outcome = Outcome::default();
    let mut sender = None;
    while !shared.is_over.load(Ordering::Relaxed) {
        let mut line = match sender.take() {
            Some(line) => line,
            None => match connect(target).await {
                Ok(Some(line)) => line,
                // A listener that is about to close took it, and said so before anything was asked.
                Ok(None) => continue,
                Err(_) => {
                    outcome.refused += 1;
                    break;
                }
            },
        };
        match ask(&mut line, target).await {
            Ok(Asked::Answered { status, body, is_last }) => {
                match (target.check)(status, &body) {
                    Ok(()) => outcome.answered += 1,
                    Err(what) => outcome.fail(what),
                }
                shared.answered.fetch_add(1, Ordering::Relaxed);
                shared.changed.notify_waiters();
                sender = (!is_last).then_some(line);
                outcome.asked_to_close += usize::from(is_last);
            }
            Ok(Asked::NeverSent) => outcome.asked_to_close += 1,
            Err(error) => outcome.fail(error),
        }
    }
    outcome
}

/// `Err`: nobody listens.
async fn connect(target: Target) -> std::io::Result<Option<Sender>> {
    let stream = within("a connection or its refusal", TcpStream::connect(target.address)).await?;
    stream.set_nodelay(true)?;
    if target.version == Version::HTTP_2 {
        let Ok((sender, connection)) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await else {
            return Ok(None);
        };
        tokio::spawn(connection);
        return Ok(Some(Sender::Http2(sender)));
    }
    let Ok((sender, connection)) = http1::handshake(TokioIo::new(stream)).await else { return Ok(None) };
    tokio::spawn(connection);
    Ok(Some(Sender::Http1(sender)))
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
