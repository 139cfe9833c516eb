//! The access log: one line per exchange, written by a thread of its own.
//!
//! A worker serialises each [`Record`](super::record::Record) straight into its [`LogBuffer`] and hands the buffer over when
//! it is full or on [`LogBuffer::flush`]. The hand-over is a push to a bounded queue and never waits: while the destination is slow,
//! whole buffers are dropped and their lines counted in `armiger_access_log_dropped_total`. A destination that fails
//! costs lines, counted likewise, and nothing else.
//!
//! What may be secret is not written: headers come from an allow-list, credentials are masked even if they are on it,
//! and so are all values of the query but those of listed keys.
//!
//! [`Settings`] say what a line shows. [`AccessLog::apply`] replaces them while exchanges are in flight: each worker
//! follows when its next exchange begins, at the price of one atomic load per exchange.

mod buffer;
mod line;
mod queue;
mod redact;
mod reference;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::metrics::Metrics;
pub use buffer::LogBuffer;
pub(super) use queue::write_batch;
use queue::{Queue, lock, write_all};
pub use reference::reference;
pub use settings::Settings;

/// Starts the thread that writes the log.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Starts writing lines as `settings` say to `destination`; lines that are lost are counted in `metrics`.
    ///
    /// Fails if the thread cannot be started. It is started for a log that is off too, and sleeps until a reload
    /// switches the log on.
    pub fn start(settings: Settings, destination: Box<dyn Write + Send>, metrics: &Metrics) -> io::Result<AccessLog> {
        let queue = Arc::new(Queue::default());
        let (writers_queue, writers_metrics) = (Arc::clone(&queue), metrics.clone());
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&writers_queue, destination, &writers_metrics))?;
        let settings = ArcSwap::from_pointee(settings);
        Ok(AccessLog(Arc::new(LogInner { settings, queue, metrics: metrics.clone() })))
    }
}

/// The destination used outside of tests.
pub fn stdout() -> Box<dyn Write + Send> {
    Box::new(io::stdout())
}

/// A running access log. Cloning gives another handle to the same log.
#[derive(Clone)]
pub struct AccessLog(Arc<LogInner>);

struct LogInner {
    settings: ArcSwap<Settings>,
    queue: Arc<Queue>,
    metrics: Metrics,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Replaces the settings. A worker follows when its next exchange begins; an exchange that is in flight then is
    /// logged as the new settings say, with what the old ones kept of it.
    pub fn apply(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    /// A buffer for one worker.
    pub fn buffer(&self) -> LogBuffer {
        LogBuffer::new(&self.0)
    }

    /// Lets the writer finish what was handed over and end; true if it did within `deadline`.
    ///
    /// Flush the workers' buffers first: lines handed over later are dropped and counted. A writer that hangs in its
    /// destination is left behind, for the process is about to end.
    pub fn close(&self, deadline: Duration) -> bool {
        let until = Instant::now().checked_add(deadline);
        let queue = &self.0.queue;
        let mut state = lock(&queue.state);
        state.closed = true;
        queue.changed.notify_all();
        while !state.ended {
            let left = until.map_or(deadline, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                // What the writer will not come to is lost, and says so.
                let lines = state.batches.drain(..).map(|batch| batch.lines).sum();
                self.0.metrics.access_log_dropped(lines);
                return false;
            }
            state = queue.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for LogInner {
    fn drop(&mut self) {
        // Nobody can hand anything over any more, so the thread must not outlive the log for ever.
        lock(&self.queue.state).closed = true;
        self.queue.changed.notify_all();
    }
}
