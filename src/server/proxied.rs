//! The PROXY header of a connection: read in time, from those who may say who their clients are, before anything else.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::connection::LAST_WAIT;
use super::drain::Phase;
use super::worker::Shared;
use crate::http::forwarded;
use crate::http::proxy_protocol::{self, Ends, Fault, Found, Version};
use crate::snapshot::ListenerPlan;

/// How much is looked at ahead. What follows the header stays with the kernel, for TLS to read.
const AHEAD: usize = 256;

/// Whose connection it is. None: it is to be closed.
///
/// Nothing is guessed: a connection without a header, or from somebody who is not to be believed, is no connection.
pub(super) async fn ends(
    shared: &Shared,
    stream: &mut TcpStream,
    own: Ends,
    plan: &ListenerPlan,
    from: &forwarded::Trust,
) -> Option<Ends> {
    let metrics = &plan.state.metrics;
    if !from.trusts(own.source.ip()) {
        metrics.proxied("untrusted");
        tracing::debug!(peer = %own.source, listener = %plan.name, "connection from outside `proxy_protocol.from`");
        return None;
    }
    let mut timer = shared.worker.wheel.timer();
    timer.arm(plan.config.timeouts.proxy_header.get());
    let farewell = async {
        shared.reached(Phase::Closing).await;
        let mut timer = shared.worker.wheel.timer();
        timer.arm(LAST_WAIT);
        timer.expired().await;
    };
    let (outcome, ends) = tokio::select! {
        biased;
        header = header(stream, own.source) => header.map_or_else(|outcome| (outcome, None), |(outcome, told)| {
            (outcome, Some(told.unwrap_or(own)))
        }),
        () = timer.expired() => {
            shared.metrics.limit_hit("proxy_header");
            ("timeout", None)
        }
        () = farewell => ("cut", None),
    };
    metrics.proxied(outcome);
    ends
}

/// Reads the header and not a byte more: how that is counted, and whom it names.
async fn header(stream: &mut TcpStream, peer: SocketAddr) -> Result<(&'static str, Option<Ends>), &'static str> {
    let mut header = Vec::new();
    loop {
        let mut ahead = [0; AHEAD];
        let seen = stream.peek(&mut ahead).await.map_err(|_| "cut")?;
        if seen == 0 {
            return Err("cut");
        }
        let before = header.len();
        header.extend_from_slice(&ahead[..seen]);
        let found = proxy_protocol::read(&header).map_err(|fault| {
            tracing::debug!(%peer, %fault, "connection without a PROXY header");
            match fault {
                Fault::Absent => "absent",
                Fault::Malformed => "malformed",
                Fault::TooLong => "too_long",
            }
        })?;
        let length = match found {
            Found::More => header.len(),
            Found::Whole { length, .. } => length,
        };
        // They are here: this waits for nothing.
        stream.read_exact(&mut ahead[..length - before]).await.map_err(|_| "cut")?;
        header.truncate(length);
        match found {
            Found::More => {}
            Found::Whole { ends: None, .. } => return Ok(("local", None)),
            Found::Whole { version: Version::V1, ends, .. } => return Ok(("v1", ends)),
            Found::Whole { version: Version::V2, ends, .. } => return Ok(("v2", ends)),
        }
    }
}
