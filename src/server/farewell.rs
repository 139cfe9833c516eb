//! How a connection sees armiger's end coming, and how it parts from its client.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;

use super::drain::Phase;
use super::gate::{LINGER_BYTES_MAX, LINGER_TIME};
use super::wire::Wire;
use super::worker::Shared;

/// How far armiger's end has come, as far as a connection has looked.
pub(super) struct Lookout {
    phase: Phase,
    is_looking: bool,
}

impl Lookout {
    pub(super) fn new() -> Self {
        Self { phase: Phase::Serving, is_looking: false }
    }

    /// Looks, and is woken by the next change.
    pub(super) fn poll<'s>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &'s Shared,
        mut moved_on: Pin<&mut Notified<'s>>,
    ) -> Phase {
        let phase = shared.phase();
        // Polled once, to be woken; after that the flag tells as well, and costs nothing.
        if !self.is_looking || phase != self.phase {
            (self.phase, self.is_looking) = (phase, true);
            moved_on.set(shared.moved_on());
            // Nothing moves while this runs, so it is pending.
            let _ = moved_on.poll(cx);
        }
        phase
    }
}

/// Whether bytes have come that nobody has read. The kernel is asked: the reactor may not have turned since.
pub(super) fn has_unread(stream: &TcpStream) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|length| length > 0)
}

/// Closes so that a client that is still sending sees an end and no reset: waits for its end as long as it says something
/// every [`LINGER_TIME`], and no longer than `most`.
pub(super) async fn part(shared: &Shared, stream: &mut Wire, most: Duration) {
    let mut timer = shared.worker.wheel.timer();
    let now = shared.worker.wheel.now();
    let end = now + most;
    timer.arm_at(end.min(now + LINGER_TIME));
    let shut_down = tokio::select! {
        biased;
        shut_down = stream.shutdown() => shut_down,
        // TLS has a word to say, and the client may not take it.
        () = timer.expired() => return,
        () = shared.reached(Phase::Forced) => return,
    };
    if shut_down.is_err() {
        return;
    }
    let mut left = LINGER_BYTES_MAX;
    let mut bytes = [0; 2048];
    while left > 0 {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut bytes) => read,
            () = timer.expired() => return,
            () = shared.reached(Phase::Forced) => return,
        };
        match read {
            Ok(length) if length > 0 => {
                left = left.saturating_sub(length);
                timer.arm_at(end.min(shared.worker.wheel.now() + LINGER_TIME));
            }
            _ => return,
        }
    }
}

/// Ends a connection with a reset once it is dropped: what is cut must not look complete.
pub(super) fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
