//! The hostile client: what two readers could read in two ways reaches no upstream, and nobody is waited for for ever.

mod bodies;
mod heads;
mod hops;
mod lawful;
mod paths;
mod patience;
mod words;

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{Armiger, Backend, Broken, Config, RawConversation, Script, Signal, answer, streamed, within};

/// What must never be answered, and never be seen by a back end.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A back end that reads strictly, fails its test on whatever is ambiguous, and answers everything with `ok`.
async fn strict() -> Backend {
    Backend::raw(Script::new().request().write(OK).again()).await
}

/// Writes byte by byte, each in a packet of its own as far as the kernel cares.
async fn dribble(conversation: &mut RawConversation, bytes: impl AsRef<[u8]>) {
    for byte in bytes.as_ref().chunks(1) {
        conversation.write(byte).await;
        tokio::task::yield_now().await;
    }
}

/// Fails unless the one thing the back end ever sees is the request that this sends now.
async fn assert_untouched(armiger: &Armiger, backend: &Backend) {
    armiger.get("/witness").await.assert_status(200);
    assert_eq!(backend.only().await.target, "/witness");
}

/// Fails unless the request is refused so, and the connection closed.
async fn assert_refused(conversation: &mut RawConversation, shown: &str, status: u16, slug: &str) {
    let refusal = match conversation.try_answer().await {
        Ok(refusal) => refusal,
        Err(why) => panic!("no refusal but {why:?} to {shown:?}"),
    };
    assert_eq!(refusal.status, status, "{shown:?}: {refusal:#?}");
    refusal
        .assert_problem(status, slug)
        .assert_header("connection", "close")
        .assert_header("cache-control", "no-store");
    assert_eq!(refusal.json()["request_id"], refusal.header("x-request-id"), "{shown:?}");
    let rest = conversation.rest().await;
    assert!(rest.is_empty(), "{shown:?} is followed by {:?}", String::from_utf8_lossy(&rest));
}
