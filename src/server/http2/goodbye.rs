//! When to say goodbye on an HTTP/2 connection.

use std::task::Context;
use std::time::{Duration, Instant};

use crate::timer::{Timer, Wheel};

/// How long a goodbye waits for answers that are on their way. Not every client takes what comes behind a GOAWAY: python-h2, and httpx
/// with it, gives up all streams there.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long nothing is open before it is said: what comes in one read with the end of an answer spoils that answer for the same
/// clients.
const QUIET: Duration = Duration::from_millis(100);

/// Waits for a moment in which a goodbye meets no answer.
pub(super) struct Goodbye {
    wheel: Wheel,
    timer: Timer,
    /// When it is said at the latest, and whether nothing was open when it was last looked at.
    end: Option<(Instant, bool)>,
}

impl Goodbye {
    pub(super) fn new(wheel: &Wheel) -> Self {
        Self { wheel: wheel.clone(), timer: wheel.timer(), end: None }
    }

    /// Whether the moment has come, once there is a reason to go. `is_open`: whether a stream is.
    pub(super) fn is_due(&mut self, is_open: bool, cx: &mut Context<'_>) -> bool {
        let Some((end, was_quiet)) = self.end else {
            self.timer.arm(if is_open { PATIENCE } else { QUIET });
            self.end = Some((self.wheel.now() + PATIENCE, !is_open));
            return self.timer.poll_expired(cx).is_ready();
        };
        if was_quiet == is_open {
            match is_open {
                true => self.timer.arm_at(end),
                false => self.timer.arm(QUIET),
            }
            self.end = Some((end, !is_open));
        }
        self.timer.poll_expired(cx).is_ready()
    }
}
