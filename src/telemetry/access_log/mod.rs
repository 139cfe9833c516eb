//! The access log: one line per exchange, written by a thread of its own.
//!
//! A worker serialises each [`Record`] straight into its [`LogBuffer`] and hands the buffer over when it is full or on
//! [`LogBuffer::flush`]. The hand-over is a push to a bounded queue and never waits: while the destination is slow,
//! whole buffers are dropped and their lines counted in `armiger_access_log_dropped_total`. A destination that fails
//! costs lines, counted likewise, and nothing else.
//!
//! What may be secret is not written: headers come from an allow-list, credentials are masked even if they are on it,
//! and so are all values of the query but those of listed keys.
//!
//! [`Settings`] say what a line shows. [`AccessLog::apply`] replaces them while exchanges are in flight: each worker
//! follows when its next exchange begins, at the price of one atomic load per exchange.

mod line;
mod redact;
mod reference;
mod settings;

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};

use super::metrics::Metrics;
use super::record::Record;
use line::ClockText;
pub use reference::reference;
pub use settings::Settings;

/// A buffer of this many bytes is handed to the writer.
const HAND_OVER_AT: usize = 64 * 1024;

/// What a fresh buffer holds: a full one and the line that filled it.
const BUFFER_CAPACITY: usize = HAND_OVER_AT + 8 * 1024;

/// The most buffers that wait for the writer: with those above, some 2.5 MiB.
const QUEUE_MAX: usize = 32;

/// The most written buffers kept for reuse.
const SPARE_MAX: usize = 8;

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
        LogBuffer(Rc::new(RefCell::new(BufferInner {
            settings: self.0.settings.load_full(),
            newest: Cache::new(Handle(Arc::clone(&self.0))),
            log: Arc::clone(&self.0),
            bytes: Vec::new(),
            lines: 0,
            clock: ClockText::default(),
        })))
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

// === Queue ===

/// Buffers on their way to the writer and back.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    batches: VecDeque<Batch>,
    spare: Vec<Vec<u8>>,
    /// Nothing more is taken.
    closed: bool,
    /// The writer is gone.
    ended: bool,
}

struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

impl Queue {
    /// Takes the bytes and leaves an empty buffer, or leaves them alone and says no. Never waits for the destination:
    /// the lock is held for moves only.
    fn push(&self, bytes: &mut Vec<u8>, lines: u64) -> bool {
        let mut state = lock(&self.state);
        if state.closed || state.ended || state.batches.len() >= QUEUE_MAX {
            return false;
        }
        let spare = state.spare.pop().unwrap_or_default();
        state.batches.push_back(Batch { bytes: std::mem::replace(bytes, spare), lines });
        drop(state);
        self.changed.notify_all();
        true
    }

    /// The next batch; `None` once the queue is closed and empty.
    fn pop(&self) -> Option<Batch> {
        let mut state = lock(&self.state);
        loop {
            if let Some(batch) = state.batches.pop_front() {
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut state = lock(&self.state);
        if state.spare.len() < SPARE_MAX && bytes.capacity() <= 2 * BUFFER_CAPACITY {
            state.spare.push(bytes);
        }
    }
}

/// Only moves happen under the lock, which leave the queue whole.
fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that the writer is gone, even if a destination panics.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).ended = true;
        self.0.changed.notify_all();
    }
}

/// The writer's thread: writes batches until the queue is closed and empty.
fn write_all(queue: &Queue, mut destination: Box<dyn Write + Send>, metrics: &Metrics) {
    let ending = Ending(queue);
    let mut torn = false;
    let mut failing = false;
    while let Some(Batch { bytes, lines }) = queue.pop() {
        match write_batch(destination.as_mut(), &bytes, lines, &mut torn) {
            Ok(()) => failing = false,
            Err((lost, error)) => {
                metrics.access_log_dropped(lost);
                // Once per failure, not per batch: the counter tells the rest.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "access log cannot be written");
                }
            }
        }
        queue.give_back(bytes);
    }
    drop(ending);
}

/// Writes a batch; an error comes with the number of lines that were not written whole.
///
/// `torn` tells that the destination stands in the middle of a line, which the next batch then ends first.
fn write_batch(destination: &mut dyn Write, bytes: &[u8], lines: u64, torn: &mut bool) -> Result<(), (u64, io::Error)> {
    if *torn {
        write_some(destination, b"\n").map_err(|(_, error)| (lines, error))?;
        *torn = false;
    }
    write_some(destination, bytes).map_err(|(written, error)| {
        *torn = written > 0 && bytes[written - 1] != b'\n';
        (memchr::memchr_iter(b'\n', &bytes[written..]).count() as u64, error)
    })?;
    // Bytes that the destination took and could not pass on are gone, and how many they are it does not say.
    destination.flush().map_err(|error| (lines, error))
}

/// `Write::write_all` that tells how far it came.
fn write_some(destination: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match destination.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

// === Buffer ===

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::observe::{AccessLog as AccessLogConfig, LogFormat};
    use serde_json::Value;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A destination that keeps what it is given.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A destination that lets one write pass per permit, and says when it begins one.
    struct Gate {
        begun: mpsc::SyncSender<()>,
        permits: mpsc::Receiver<()>,
        kept: Kept,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            let _ = self.permits.recv();
            self.kept.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A destination that does what its script says, then takes everything.
    struct Scripted {
        script: VecDeque<io::Result<usize>>,
        kept: Kept,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.script.pop_front().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.kept.write(&bytes[..count])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record() -> Record {
        let mut record = Record::new();
        record.set_path(b"/orders/1");
        record.status = 200;
        record
    }

    #[test]
    fn a_full_buffer_is_handed_over_without_a_flush() {
        let (begun, begins) = mpsc::sync_channel(64);
        let (permit, permits) = mpsc::sync_channel(64);
        let kept = Kept::default();
        let gate = Gate { begun, permits, kept: kept.clone() };
        let log = Writer::start(Settings::default(), Box::new(gate), &Metrics::new()).unwrap();
        let buffer = log.buffer();
        let mut count = 0;
        while count == 0 || !buffer.is_empty() {
            buffer.write(&record());
            count += 1;
        }
        begins.recv_timeout(PATIENCE).expect("the writer has begun");
        drop(permit);
        assert!(log.close(PATIENCE));
        assert!(kept.0.lock().unwrap().len() >= HAND_OVER_AT);
        assert_eq!(kept.text().lines().count(), count);
    }

    #[test]
    fn a_blocked_destination_costs_whole_buffers_and_every_lost_line_is_counted() {
        let (begun, begins) = mpsc::sync_channel(64);
        let (permit, permits) = mpsc::sync_channel(64);
        let kept = Kept::default();
        let gate = Gate { begun, permits, kept: kept.clone() };
        let metrics = Metrics::new();
        let log = Writer::start(Settings::default(), Box::new(gate), &metrics).unwrap();
        let buffer = log.buffer();
        let hand_over = |lines: usize| {
            (0..lines).for_each(|_| buffer.write(&Record::new()));
            buffer.flush();
        };
        hand_over(1);
        begins.recv_timeout(PATIENCE).expect("the writer hangs in its first batch");
        (0..QUEUE_MAX).for_each(|_| hand_over(2));
        assert_eq!(metrics.access_log_dropped_total(), 0);
        hand_over(3);
        hand_over(4);
        assert_eq!(metrics.access_log_dropped_total(), 7);
        drop(permit);
        assert!(log.close(PATIENCE));
        assert_eq!(kept.text().lines().count(), 1 + 2 * QUEUE_MAX);
        hand_over(5);
        assert_eq!(metrics.access_log_dropped_total(), 12, "a closed log takes nothing");
    }

    #[test]
    fn closing_gives_up_at_its_deadline_and_counts_what_is_lost() {
        let (begun, begins) = mpsc::sync_channel(64);
        let (_permit, permits) = mpsc::sync_channel(64);
        let metrics = Metrics::new();
        let gate = Gate { begun, permits, kept: Kept::default() };
        let log = Writer::start(Settings::default(), Box::new(gate), &metrics).unwrap();
        let buffer = log.buffer();
        buffer.write(&Record::new());
        buffer.flush();
        begins.recv_timeout(PATIENCE).expect("the writer hangs in its first batch");
        buffer.write(&Record::new());
        buffer.flush();
        assert!(!log.close(Duration::from_millis(10)));
        assert_eq!(metrics.access_log_dropped_total(), 1);
    }

    #[test]
    fn a_failing_destination_costs_lines_and_the_next_line_starts_afresh() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        for (script, lost, want) in [
            (vec![Err(broken())], 2, "c\nd\n"),
            (vec![Ok(0)], 2, "c\nd\n"),
            (vec![Ok(2), Err(broken())], 1, "a\nc\nd\n"),
            (vec![Ok(3), Err(broken())], 1, "a\nb\nc\nd\n"),
            (vec![Ok(1), Err(broken())], 2, "a\nc\nd\n"),
            (vec![Err(broken()), Err(broken())], 4, ""),
            (vec![Ok(1), Err(broken()), Err(broken())], 4, "a"),
            (vec![Err(io::ErrorKind::Interrupted.into()), Ok(1)], 0, "a\nb\nc\nd\n"),
        ] {
            let shown = format!("{script:?}");
            let kept = Kept::default();
            let mut destination = Scripted { script: script.into(), kept: kept.clone() };
            let mut torn = false;
            let mut lines = 0;
            for batch in [b"a\nb\n", b"c\nd\n"] {
                if let Err((count, _)) = write_batch(&mut destination, batch, 2, &mut torn) {
                    lines += count;
                }
            }
            assert_eq!((lines, kept.text().as_str()), (lost, want), "{shown}");
        }
    }

    #[test]
    fn a_broken_pipe_is_counted_and_ends_nothing() {
        let broken = || Err(io::Error::from(io::ErrorKind::BrokenPipe));
        let kept = Kept::default();
        let metrics = Metrics::new();
        let destination = Scripted { script: [broken(), broken()].into(), kept: kept.clone() };
        let log = Writer::start(Settings::default(), Box::new(destination), &metrics).unwrap();
        let buffer = log.buffer();
        for _ in 0..3 {
            buffer.write(&Record::new());
            buffer.flush();
        }
        assert!(log.close(PATIENCE));
        assert_eq!(metrics.access_log_dropped_total(), 2);
        assert_eq!(kept.text().lines().count(), 1);
    }

    #[test]
    fn a_destination_that_panics_does_not_hang_the_end() {
        struct Panics;
        impl Write for Panics {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                std::panic::resume_unwind(Box::new("no"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let metrics = Metrics::new();
        let log = Writer::start(Settings::default(), Box::new(Panics), &metrics).unwrap();
        let buffer = log.buffer();
        buffer.write(&Record::new());
        buffer.flush();
        assert!(log.close(PATIENCE));
        buffer.write(&Record::new());
        buffer.flush();
        assert!(metrics.access_log_dropped_total() >= 1);
    }

    #[test]
    fn a_log_that_is_off_writes_and_counts_nothing() {
        let kept = Kept::default();
        let metrics = Metrics::new();
        let settings = Settings::of(&AccessLogConfig { format: LogFormat::Off, ..Default::default() });
        let log = Writer::start(settings, Box::new(kept.clone()), &metrics).unwrap();
        let buffer = log.buffer();
        buffer.write(&Record::new());
        assert!(buffer.is_empty());
        buffer.flush();
        assert!(log.close(PATIENCE));
        assert_eq!((kept.text().as_str(), metrics.access_log_dropped_total()), ("", 0));
    }

    #[test]
    fn the_last_handle_of_a_buffer_flushes_it() {
        let kept = Kept::default();
        let log = Writer::start(Settings::default(), Box::new(kept.clone()), &Metrics::new()).unwrap();
        let buffer = log.buffer();
        buffer.clone().write(&Record::new());
        drop(buffer);
        assert!(log.close(PATIENCE));
        assert_eq!(kept.text().lines().count(), 1);
    }

    #[test]
    fn a_written_buffer_is_used_again() {
        let kept = Kept::default();
        let log = Writer::start(Settings::default(), Box::new(kept.clone()), &Metrics::new()).unwrap();
        let buffer = log.buffer();
        buffer.write(&Record::new());
        buffer.write(&Record::new());
        buffer.flush();
        assert!(log.close(PATIENCE));
        assert_eq!(lock(&log.0.queue.state).spare.len(), 1);
        assert!(lock(&log.0.queue.state).spare[0].capacity() >= BUFFER_CAPACITY);
        assert_eq!(kept.text().lines().count(), 2);
    }

    #[test]
    fn workers_share_a_log_line_by_line() {
        let kept = Kept::default();
        let metrics = Metrics::new();
        let log = Writer::start(Settings::default(), Box::new(kept.clone()), &metrics).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let buffer = log.buffer();
                    for _ in 0..200 {
                        buffer.write(&record());
                    }
                });
            }
        });
        assert!(log.close(PATIENCE));
        assert_eq!(metrics.access_log_dropped_total(), 0);
        assert_eq!(kept.text().lines().count(), 800);
        assert!(kept.text().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }

    #[test]
    fn settings_are_replaced_while_exchanges_are_in_flight() {
        let kept = Kept::default();
        let log = Writer::start(Settings::default(), Box::new(kept.clone()), &Metrics::new()).unwrap();
        let (busy, idle) = (log.buffer(), log.buffer());
        let of = |format| Settings::of(&AccessLogConfig { format, ..Default::default() });

        log.apply(of(LogFormat::Combined));
        // An exchange that is in flight ends as it began, until its worker begins another one.
        busy.write(&record());
        busy.follow();
        busy.write(&record());
        log.apply(of(LogFormat::Off));
        busy.follow();
        busy.write(&record());
        log.apply(of(LogFormat::Text));
        busy.follow();
        busy.follow();
        busy.write(&record());
        busy.flush();
        idle.write(&record());
        idle.follow();
        idle.write(&record());
        idle.flush();
        assert!(log.close(PATIENCE));

        let text = kept.text();
        let forms: Vec<&str> = text
            .lines()
            .map(|line| match line.as_bytes()[0] {
                b'{' => "json",
                b'-' => "combined",
                _ => "text",
            })
            .collect();
        assert_eq!(forms, ["json", "combined", "text", "json", "text"], "{text}");
        assert_eq!(log.buffer().settings().headers().count(), 0, "a new buffer begins with the newest");
    }

    #[test]
    fn settings_that_were_replaced_are_let_go() {
        let log = Writer::start(Settings::default(), Box::new(io::sink()), &Metrics::new()).unwrap();
        let buffer = log.buffer();
        let old = Arc::downgrade(&log.0.settings.load_full());
        log.apply(Settings::default());
        buffer.follow();
        assert_eq!(old.strong_count(), 0);
    }
}
