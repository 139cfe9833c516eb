//! One connection: which protocol it speaks, and its exchanges until it ends.
//!
//! How armiger's end ([`Phase`]) comes to a connection, so that no request is lost:
//! - `LameDuck`: the next answer asks the client to close, by `Connection: close` or GOAWAY. An idle HTTP/1.1 connection
//!   is left alone, for a request may be on its way.
//! - `Closing`: the same, and a connection that is idle, or has never sent a byte, is closed after [`LAST_WAIT`] unless
//!   the kernel has bytes of it by then. Whoever closes then reads on for a while, so that the client sees an end and no
//!   reset. A request that crosses with that end cannot be served; HTTP/1.1 has no way to (RFC 9112 §9.5).
//! - `Forced`: cut, by a reset.
//!
//! A connection of a listener that was removed, or whose fixed settings have changed, ends in the same way with its next
//! answer; until then, and if none comes until its keep-alive time is over, it rests.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::door::Door;
use super::drain::Phase;
use super::farewell::{has_unread, part};
use super::gate::LINGER_TIME;
use super::handshake::{self, Agreed};
use super::listener::Accepted;
use super::wire::Wire;
use super::worker::Shared;
use super::{http1, http2, proxied};
use crate::http::proxy_protocol::Ends;
use crate::snapshot::ListenerPlan;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an idle connection may still bring a request when armiger ends. Its client may have just had an answer that
/// did not ask it to close.
pub(super) const LAST_WAIT: Duration = Duration::from_millis(500);

/// Serves a connection until it ends.
pub(super) async fn serve(shared: &Rc<Shared>, accepted: Accepted) {
    let Accepted { stream, peer, listening, place } = accepted;
    // Without it a small answer may wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "connection could not be watched"),
    };
    let plan = listening.plan();
    // A socket that is gone has no address; it will be found out soon.
    let mut stream = stream;
    let reached = listening.address.tcp().unwrap_or(peer);
    let mut ends = Ends { source: peer, destination: stream.local_addr().unwrap_or(reached) };
    if let Some(from) = &plan.balancers {
        match Box::pin(proxied::ends(shared, &mut stream, ends, &plan, from)).await {
            Some(told) => ends = told,
            None => return,
        }
    }
    let (mut stream, agreed) = match &plan.tls {
        None => (Wire::Tcp(stream), None),
        Some(tls) => {
            let shaken = Box::pin(handshake::shake(shared, stream, &listening, &plan, &tls.config, ends.source)).await;
            let Some((stream, agreed)) = shaken else { return };
            (stream, Some(agreed))
        }
    };
    let door = Rc::new(Door::new(listening, ends, agreed.as_ref()));
    match open(shared, &mut stream, &plan, agreed).await {
        Some((Protocol::Http1, prefix)) => http1::serve(shared, stream, prefix, door).await,
        Some((Protocol::Http2, prefix)) => http2::serve(shared, stream, prefix, door).await,
        None => {}
    }
    drop(place);
}

enum Protocol {
    Http1,
    Http2,
}

/// Waits for the first bytes and tells from them what the client speaks. Nothing is allocated as long as it is silent.
async fn open(
    shared: &Shared,
    stream: &mut Wire,
    plan: &ListenerPlan,
    agreed: Option<Agreed>,
) -> Option<(Protocol, Vec<u8>)> {
    let mut timer = shared.worker.wheel.timer();
    timer.arm(plan.config.timeouts.request_headers.get());
    let mut prefix = Vec::new();
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            read = read_some(stream, &mut prefix) => if read.ok()? == 0 { return None },
            // A client that has connected is about to ask.
            () = shared.reached(Phase::Closing), if !is_closing => {
                is_closing = true;
                if prefix.is_empty() {
                    timer.arm(LAST_WAIT);
                }
                continue;
            }
            () = shared.reached(Phase::Forced), if is_closing => return None,
            () = timer.expired() => {
                if is_closing && has_unread(stream.socket()) {
                    timer.arm(LAST_WAIT);
                    continue;
                }
                if is_closing && prefix.is_empty() {
                    part(shared, stream, LINGER_TIME).await;
                    return None;
                }
                shared.metrics.limit_hit("request_headers");
                return None;
            }
        }
        match &agreed {
            Some(Agreed { is_http2: true, .. }) => return Some((Protocol::Http2, prefix)),
            Some(Agreed { is_http2: false, .. }) => return Some((Protocol::Http1, prefix)),
            None => {}
        }
        if prefix.starts_with(PREFACE) {
            return Some((Protocol::Http2, prefix));
        }
        if !PREFACE.starts_with(&prefix) {
            return Some((Protocol::Http1, prefix));
        }
    }
}

/// Reads what has come, and says how much that was.
fn read_some(stream: &mut Wire, into: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>> {
    poll_fn(|cx| {
        let mut bytes = [0; 2048];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        into.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}
