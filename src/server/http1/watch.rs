//! What an HTTP/1.1 connection is watched for beside its exchanges.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::server::connection::LAST_WAIT;
use crate::server::farewell::has_unread;
use crate::server::gate::{Gate, GateState};
use crate::server::wire::Wire;
use crate::server::worker::Shared;
use crate::timer::Timer;

/// How long an HTTP/1.1 connection with nothing going on keeps the place of its exchanges.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What an HTTP/1.1 connection is watched for beside its exchanges.
pub(super) struct Watch {
    /// Goes off now and then, and asks whether the connection has been idle. Not armed anew for each exchange, which
    /// would cost each of them.
    pub(super) rest: Timer,
}

impl Watch {
    /// Ready once the connection has been idle for [`REST_AFTER`].
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>, shared: &Shared, state: &GateState) -> Poll<()> {
        let now = shared.worker.wheel.now();
        if !self.rest.is_armed() {
            let idle_since = state.idle_since();
            if idle_since.is_some_and(|since| now >= since + REST_AFTER) {
                return Poll::Ready(());
            }
            self.rest.arm_at(idle_since.unwrap_or(now) + REST_AFTER);
        }
        self.poll_timer(cx)
    }

    /// Ready once the connection has been idle for [`LAST_WAIT`], and no byte has come.
    pub(super) fn poll_last(&mut self, cx: &mut Context<'_>, shared: &Shared, gate: &Gate<Wire>) -> Poll<()> {
        let now = shared.worker.wheel.now();
        let until = gate.state().idle_since().unwrap_or(now) + LAST_WAIT;
        if now < until {
            self.rest.arm_at(until);
            return self.poll_timer(cx);
        }
        if has_unread(gate.get_ref().socket()) {
            // The reactor is about to tell.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rest.poll_expired(cx).is_ready() {
            // Expired is no longer armed: looked at again at once.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
