//! Whose turn it is while a request is on its way: the client's, whose body is awaited, or the upstream's.

use std::time::{Duration, Instant};

use super::bench::Line;
use crate::http::body::Inbound;

/// Since when it is the upstream's turn alone, in a try that began then. None: the client's body is not whole.
pub(super) fn since(inbound: Option<&Inbound>, began: Instant) -> Option<Instant> {
    let Some(inbound) = inbound else { return Some(began) };
    inbound.ended.get().then(|| inbound.ended_at.get().map_or(began, |at| at.max(began)))
}

/// Whether nothing but the client's body is waited for.
pub(super) fn is_clients(inbound: Option<&Inbound>) -> bool {
    inbound.is_some_and(|inbound| !inbound.ended.get() && inbound.waits.get())
}

/// The time that a try has: from when the client's body is there, and no pause of the upstream's in taking that may be longer.
pub(super) struct Turns<'t> {
    line: &'t Line,
    inbound: Option<&'t Inbound>,
    /// What of the body had passed when this was asked last.
    passed: u64,
}

impl<'t> Turns<'t> {
    pub(super) fn of(line: &'t Line, inbound: Option<&'t Inbound>) -> Self {
        // Of a body that is sent again something has passed before.
        Self { line, inbound, passed: inbound.map_or(0, |inbound| inbound.bytes.get()) }
    }

    /// What is left of `time`, which is over since it was last asked for. None: the upstream has used it up.
    pub(super) fn left(&mut self, time: Duration) -> Option<Duration> {
        let inbound = self.inbound?;
        if inbound.ended.get() {
            let left = time.checked_sub(inbound.ended_at.get()?.elapsed())?;
            return (!left.is_zero()).then_some(left);
        }
        let passes = inbound.bytes.get();
        let has_passed = passes > std::mem::replace(&mut self.passed, passes);
        if inbound.waits.get() {
            return Some(time);
        }
        self.line.left_of(time).or_else(|| (has_passed && matches!(self.line, Line::Http2(_))).then_some(time))
    }
}
