//! What a gate tells the owner of its connection.

use std::cell::Cell;
use std::time::Instant;

use crate::http::framing::Violation;

/// What the gate, the service on its connection and whoever watches the connection tell each other.
#[derive(Debug, Default)]
pub struct GateState {
    pub(super) is_tunnel: Cell<bool>,
    pub(super) violation: Cell<Option<Violation>>,
    pub(super) refusal: Cell<Option<Violation>>,
    pub(super) says_close: Cell<bool>,
    pub(super) rested: Cell<bool>,
    pub(super) idle_since: Cell<Option<Instant>>,
    pub(super) requests: Cell<u64>,
    pub(super) bytes_read: Cell<u64>,
    pub(super) bytes_written: Cell<u64>,
}

impl GateState {
    /// Says that the present answer announces the end of the connection. The client is then waited for: it may have sent a
    /// next request before it knew, and unread bytes would make of the close a reset, which can take the answer with it
    /// (RFC 9112 §9.6).
    pub fn say_close(&self) {
        self.says_close.set(true);
    }

    /// Says that the connection leaves HTTP with the present answer (101): what the client sends from now on is kept
    /// unread for [`Gate::into_parts`](super::Gate::into_parts).
    pub fn become_tunnel(&self) {
        self.is_tunnel.set(true);
    }

    /// Whether [`GateState::become_tunnel`] was called.
    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.get()
    }

    /// The violation that ended the read or the write side, if one did.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// A violation in a head, which the service knows nothing of and which waits for [`Gate::refuse`](super::Gate::refuse).
    pub fn refusal(&self) -> Option<Violation> {
        self.refusal.get()
    }

    /// Whether it ended since nothing was going on for too long.
    pub fn has_rested(&self) -> bool {
        self.rested.get()
    }

    /// Since when, by the coarse clock, nothing has been going on: the last answer is out, and no byte of a next request
    /// in.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// Requests that were let in.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Bytes read from the client, those before [`Gate::new`](super::Gate::new) included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// Bytes written to the client.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.get()
    }
}
