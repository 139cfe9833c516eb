//! Buffers, their hand-over, and destinations that are slow or fail.

use std::collections::VecDeque;
use std::sync::{Mutex, mpsc};

use serde_json::Value;

use super::buffer::{BUFFER_CAPACITY, HAND_OVER_AT};
use super::queue::{QUEUE_MAX, write_batch};
use super::*;
use crate::config::observe::{AccessLog as AccessLogConfig, LogFormat};
use crate::telemetry::record::Record;

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
