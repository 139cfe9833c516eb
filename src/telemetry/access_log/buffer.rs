//! A worker's end of the access log: lines gather here until they are handed over.

use std::cell::{Ref, RefCell};
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::line::{self, ClockText};
use super::{LogInner, Settings};
use crate::telemetry::record::Record;

/// A buffer of this many bytes is handed to the writer.
pub(super) const HAND_OVER_AT: usize = 64 * 1024;

/// What a fresh buffer holds: a full one and the line that filled it.
pub(super) const BUFFER_CAPACITY: usize = HAND_OVER_AT + 8 * 1024;

/// A worker's buffer. Cloning gives another handle to the same buffer.
///
/// Flushes itself when the last handle is dropped.
#[derive(Clone)]
pub struct LogBuffer(Rc<RefCell<BufferInner>>);

struct BufferInner {
    /// What lines are written by.
    settings: Arc<Settings>,
    /// Where newer ones appear.
    newest: Cache<Handle, Arc<Settings>>,
    log: Arc<LogInner>,
    bytes: Vec<u8>,
    lines: u64,
    clock: ClockText,
}

/// The log, in the form that a [`Cache`] needs.
struct Handle(Arc<LogInner>);

impl Deref for Handle {
    type Target = ArcSwap<Settings>;

    fn deref(&self) -> &ArcSwap<Settings> {
        &self.0.settings
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBuffer").finish_non_exhaustive()
    }
}

impl LogBuffer {
    pub(super) fn new(log: &Arc<LogInner>) -> Self {
        Self(Rc::new(RefCell::new(BufferInner {
            settings: log.settings.load_full(),
            newest: Cache::new(Handle(Arc::clone(log))),
            log: Arc::clone(log),
            bytes: Vec::new(),
            lines: 0,
            clock: ClockText::default(),
        })))
    }

    /// Follows the log's settings, if they were replaced. For the begin of an exchange: one atomic load.
    pub fn follow(&self) {
        let inner = &mut *self.0.borrow_mut();
        let newest = inner.newest.load();
        if !Arc::ptr_eq(newest, &inner.settings) {
            inner.settings = Arc::clone(newest);
        }
    }

    /// The settings that it followed last.
    pub fn settings(&self) -> Ref<'_, Settings> {
        Ref::map(self.0.borrow(), |inner| &*inner.settings)
    }

    /// Writes the record's line into the buffer. Never waits.
    pub fn write(&self, record: &Record) {
        let inner = &mut *self.0.borrow_mut();
        if !inner.settings.is_on() {
            return;
        }
        if inner.bytes.capacity() == 0 {
            inner.bytes.reserve(BUFFER_CAPACITY);
        }
        line::write(&mut inner.bytes, &mut inner.clock, record, &inner.settings);
        inner.lines += 1;
        if inner.bytes.len() >= HAND_OVER_AT {
            inner.flush();
        }
    }

    /// Hands what is buffered to the writer. Never waits; call it every 100 ms or so, or when the worker is idle.
    pub fn flush(&self) {
        self.0.borrow_mut().flush();
    }

    /// Whether nothing is buffered, so that no flush is due.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().lines == 0
    }
}

impl BufferInner {
    fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        if !self.log.queue.push(&mut self.bytes, self.lines) {
            self.log.metrics.access_log_dropped(self.lines);
            self.bytes.clear();
        }
        self.lines = 0;
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        self.flush();
    }
}
