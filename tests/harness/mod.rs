//! What a test may use: armiger on a free port, back ends that do as they are told, a client that reads strictly.
//!
//! A test is three sentences: a back end that does this, armiger with that YAML, a client that sees the other.
//!
//! ```ignore
//! let backend = Backend::replies("ok").await;
//! let armiger = Armiger::with(Config::to(&backend).policies("body_limit: {max: 1KiB}")).await;
//!
//! armiger.post("/", vec![0; 2048]).await.assert_problem(413, "body-too-large");
//!
//! assert_eq!(backend.count(), 0);
//! ```
//!
//! Real sockets, no fixed ports, no sleeps: a test waits on facts (`backend.received(3)`, `armiger.logged(...)`), and
//! every wait ends with a message after [`DEADLINE`]. A back end that panics fails its test when it is dropped.

#![allow(dead_code, unused_imports, reason = "a harness offers what the next test needs")]

mod armiger;
mod backend;
mod books;
mod client;
mod dns;
mod files;
mod io;
mod issuer;
mod live;
mod load;
mod message;
mod pki;
#[cfg(feature = "redis")]
mod redis;
mod selftest;
mod token;

use std::future::Future;
use std::panic::Location;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::Notify;

pub use armiger::{Armiger, Config, Finished, Process, address_in};
pub use backend::{Answer, Backend, Chunks, Script, Seen, Signal, answer, streamed};
pub use client::{Broken, Client, Connection, Incoming, RawConversation, Response};
pub use dns::{Dns, Mood};
pub use files::Files;
pub use io::SpawnLocal;
pub use issuer::Issuer;
pub use load::{Load, Outcome};
pub use message::{HeadSplitter, Reader};
pub use pki::{Authority, Dialler, Front, Handshake, Pair, roots};
#[cfg(feature = "redis")]
pub use redis::Redis;
pub use token::{SECRET, SECRET_YAML, Signer, claims, now};

/// How long anything in a test may take: long enough for a thousand connections beside other work.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Waits for `future`, or fails the test with what it waited for.
#[track_caller]
pub fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    at_most(DEADLINE, what, future)
}

#[track_caller]
fn at_most<F: Future>(limit: Duration, what: &str, future: F) -> impl Future<Output = F::Output> {
    let place = Location::caller();
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("waited {limit:?} in vain for {what} ({place})"),
        }
    }
}

/// Waits until `look` finds something. Whoever changes what it looks at calls `changed.notify_waiters()`.
pub async fn until<T>(changed: &Notify, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let mut notified = pin!(changed.notified());
        // Enabled before the look, so that a change between the look and the wait is not missed.
        notified.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        notified.await;
    }
}
