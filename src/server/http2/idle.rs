//! An HTTP/2 connection that answers nobody.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::timer::Timer;

/// Watches for a connection that answers nobody.
pub(super) struct Idle {
    pub(super) timer: Timer,
    /// What is waited for, and how much had been written when that began.
    pub(super) waits: Option<(Wait, u64)>,
}

/// What a connection that answers nobody waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// That its client takes what is left for it.
    Sending,
    /// Another request, or that the client closes.
    Resting,
}

impl Idle {
    /// Ready once nobody was answered for so long. As long as bytes leave for which a client is waited for, the time begins
    /// anew; pings that are sent while it rests are none.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, wait: Wait, max: Duration, written: u64) -> Poll<()> {
        if self.waits.is_none_or(|(before, _)| before != wait) {
            self.waits = Some((wait, written));
            self.timer.arm(max);
        }
        ready!(self.timer.poll_expired(cx));
        if wait == Wait::Resting || self.waits.is_some_and(|(_, before)| before == written) {
            return Poll::Ready(());
        }
        self.waits = Some((wait, written));
        self.timer.arm(max);
        self.timer.poll_expired(cx)
    }

    /// Somebody is being answered.
    pub(super) fn end(&mut self) {
        if self.waits.take().is_some() {
            self.timer.disarm();
        }
    }
}
