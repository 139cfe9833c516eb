//! armiger's own messages on standard error, and their level, which changes while it runs.
//!
//! Everybody writes messages with `tracing`; this file decides which are shown. Only the program installs it: whoever
//! uses the library shows the messages as they like, or not at all.
//!
//! Messages come from workers, and from the thread that answers probes and walks through the end. None of them may wait for whoever
//! reads standard error: a thread of its own writes, and what it cannot keep up with is counted and left out.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

pub use tracing_subscriber::filter::LevelFilter;

use super::access_log::write_batch;
use super::metrics::Metrics;
use crate::config::operate::LogLevel;

/// The form of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// The most bytes of messages that wait to be written.
const WAITING_MAX: usize = 1024 * 1024;

/// How long the end waits for messages to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The messages that are shown. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Messages {
    /// Those on their way.
    waiting: Option<Waiting>,
    /// What the command line says, which the configuration does not change.
    fixed: Option<LevelFilter>,
    filter: reload::Handle<LevelFilter, Registry>,
}

impl Messages {
    /// Shows messages on standard error, for the whole process.
    ///
    /// `level` is what the command line says: it stays, whatever [`apply`](Self::apply) is told. Without one it is
    /// `info` until then. Where the process shows its messages in some other way already, that way stays, and this
    /// handle changes nothing.
    pub fn install(level: Option<LevelFilter>, form: Form, is_coloured: bool) -> Self {
        let waiting = Waiting::default();
        let (subscriber, mut messages) = Self::subscriber(level, form, is_coloured, waiting.clone());
        if waiting.start(form, Box::new(io::stderr())).is_ok() {
            messages.waiting = Some(waiting);
        }
        // The failure is the case above: then the filter is gone with its subscriber.
        let _ = tracing::subscriber::set_global_default(subscriber);
        messages
    }

    fn subscriber<W>(
        level: Option<LevelFilter>,
        form: Form,
        is_coloured: bool,
        writer: W,
    ) -> (impl Subscriber + Send + Sync, Self)
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    {
        let (filter, handle) = reload::Layer::new(level.unwrap_or(LevelFilter::INFO));
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(is_coloured);
        let lines = match form {
            Form::Text => lines.with_target(false).boxed(),
            Form::Json => lines.json().boxed(),
        };
        (Registry::default().with(filter).with(lines), Self { waiting: None, fixed: level, filter: handle })
    }

    /// Counts in `metrics` what is left out from now on.
    pub fn count_in(&self, metrics: &Metrics) {
        if let Some(waiting) = &self.waiting {
            waiting.lock().metrics = Some(metrics.clone());
        }
    }

    /// Says that the end waits for others from here on: who takes nothing all the while is not waited for once more.
    pub fn end_waits(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.lock().waited_from.get_or_insert(Instant::now());
        }
    }

    /// Waits until what was said is written, though not for ever. From here on messages are written as they come.
    pub fn close(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.close(CLOSE_WAIT);
        }
    }

    /// Shows messages of this level from now on. False if they are not, because the command line gave a level.
    pub fn apply(&self, level: LogLevel) -> bool {
        let level = match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        match self.fixed {
            Some(fixed) => fixed == level,
            // Every place that writes messages looks again after a change, so none is made for nothing.
            None => {
                self.filter.with_current(|current| *current == level).unwrap_or(false)
                    || self.filter.reload(level).is_ok()
            }
        }
    }
}

/// Messages on their way to the thread that writes them.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Messages that there was no room for.
    lost: u64,
    /// Where those are counted.
    metrics: Option<Metrics>,
    /// How far the thread is that writes.
    writer: Thread,
    /// Since when the destination has what the thread writes now.
    writes_from: Option<Instant>,
    /// Since when the end waits for somebody.
    waited_from: Option<Instant>,
}

impl State {
    /// Counts messages that are lost.
    fn count(&self, lost: u64) {
        if let Some(metrics) = &self.metrics {
            metrics.messages_dropped(lost);
        }
    }

    /// Until when an end that comes to messages at `now` waits for them.
    fn waits_until(&self, now: Instant, wait: Duration) -> Instant {
        let hangs_from = self.writes_from.zip(self.waited_from).map(|(writes, waited)| writes.max(waited));
        hangs_from.unwrap_or(now) + wait
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Thread {
    /// There is none: who says something writes it.
    #[default]
    None,
    Writes,
    /// It ends once all is written.
    Closes,
    /// It hangs, and is left behind.
    Left,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, form: Form, destination: Box<dyn Write + Send>) -> io::Result<()> {
        self.lock().writer = Thread::Writes;
        let own = self.clone();
        let thread = thread::Builder::new().name("messages".into()).spawn(move || own.write_all(form, destination));
        if thread.is_err() {
            self.lock().writer = Thread::None;
        }
        thread.map(drop)
    }

    /// Takes a message. Never waits for who reads them.
    fn push(&self, message: &[u8]) {
        let mut state = self.lock();
        match state.writer {
            Thread::None => {
                drop(state);
                // That nobody can read it is no reason to end.
                let _ = io::stderr().write_all(message);
            }
            Thread::Left => {}
            // A message longer than all that is one too many by itself is said all the same.
            Thread::Writes | Thread::Closes
                if !state.bytes.is_empty() && state.bytes.len() + message.len() > WAITING_MAX =>
            {
                state.lost += 1;
                state.count(1);
            }
            Thread::Writes | Thread::Closes => {
                state.bytes.extend_from_slice(message);
                drop(state);
                self.0.changed.notify_all();
            }
        }
    }

    /// The thread.
    fn write_all(&self, form: Form, mut destination: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        let mut torn = false;
        loop {
            let mut state = self.lock();
            state.writes_from = None;
            while state.bytes.is_empty() && state.lost == 0 {
                if state.writer != Thread::Writes {
                    state.writer = Thread::None;
                    self.0.changed.notify_all();
                    return;
                }
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut batch, &mut state.bytes);
            let lost = std::mem::take(&mut state.lost);
            state.writes_from = Some(Instant::now());
            drop(state);
            if lost > 0 {
                batch.extend_from_slice(lack(form, lost).as_bytes());
            }
            // That it cannot be written is no reason to end, and there is nowhere to say why: its lines are counted.
            let lines = memchr::memchr_iter(b'\n', &batch).count() as u64;
            if let Err((lost, _)) = write_batch(destination.as_mut(), &batch, lines, &mut torn) {
                self.lock().count(lost);
            }
            batch.clear();
        }
    }

    fn close(&self, wait: Duration) {
        let mut state = self.lock();
        let until = state.waits_until(Instant::now(), wait);
        if state.writer == Thread::Writes {
            state.writer = Thread::Closes;
            self.0.changed.notify_all();
        }
        while state.writer == Thread::Closes {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.writer = Thread::Left;
                return;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Says that messages were left out.
fn lack(form: Form, lost: u64) -> String {
    const WHY: &str = "messages were left out: nobody took those before from standard error";
    match form {
        Form::Json => line("WARN", &serde_json::json!({"message": WHY, "count": lost})) + "\n",
        Form::Text => format!("{}  WARN {WHY} count={lost}\n", timestamp()),
    }
}

impl Write for Waiting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Waiting {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Says something to people, on standard error. That nobody can read it is no reason to end.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A message of a program that does not run, or not yet, as a line of JSON, whatever level is shown.
pub fn line(level: &str, fields: &serde_json::Value) -> String {
    serde_json::json!({"timestamp": timestamp(), "level": level, "fields": fields, "target": "armiger"}).to_string()
}

fn timestamp() -> String {
    jiff::Timestamp::from_microsecond(since_epoch()).map_or_else(|_| String::new(), |now| now.to_string())
}

#[expect(clippy::disallowed_methods, reason = "the time of day of a message")]
fn since_epoch() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// One message per level, and which of them are shown.
    fn shown(kept: &Kept) -> Vec<&'static str> {
        tracing::error!("said");
        tracing::warn!("said");
        tracing::info!("said");
        tracing::debug!("said");
        tracing::trace!("said");
        let text = kept.take();
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        levels.into_iter().filter(|level| text.contains(level)).collect()
    }

    #[test]
    fn the_level_changes_while_messages_are_written() {
        let kept = Kept::default();
        let (subscriber, messages) = Messages::subscriber(None, Form::Text, false, kept.clone());
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(shown(&kept), ["ERROR", "WARN", "INFO"]);
            for (level, want) in [
                (LogLevel::Debug, &["ERROR", "WARN", "INFO", "DEBUG"][..]),
                (LogLevel::Error, &["ERROR"]),
                (LogLevel::Error, &["ERROR"]),
                (LogLevel::Trace, &["ERROR", "WARN", "INFO", "DEBUG", "TRACE"]),
                (LogLevel::Warn, &["ERROR", "WARN"]),
                (LogLevel::Info, &["ERROR", "WARN", "INFO"]),
            ] {
                assert!(messages.apply(level));
                assert_eq!(shown(&kept), want, "{level:?}");
            }
        });
        assert!(!messages.apply(LogLevel::Debug), "nobody is there to show them");
    }

    /// Whoever reads: takes what comes once the test lets it.
    struct Reader(Arc<Mutex<()>>, Kept);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _may = self.0.lock().unwrap();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_reads_and_what_was_left_out_is_counted() {
        let (may, kept, waiting) = (Arc::new(Mutex::new(())), Kept::default(), Waiting::default());
        let held = may.lock().unwrap();
        waiting.start(Form::Json, Box::new(Reader(may.clone(), kept.clone()))).unwrap();
        let message = [[b'x'; 1023].as_slice(), b"\n"].concat();
        let said = 5 * WAITING_MAX / message.len();
        for _ in 0..said {
            waiting.push(&message);
        }
        assert!(waiting.lock().bytes.len() <= WAITING_MAX, "what waits is bounded");

        drop(held);
        waiting.close(Duration::from_secs(10));
        waiting.push(b"directly\n");
        let text = kept.take();
        let whole = text.lines().filter(|line| line.as_bytes() == &message[..1023]).count();
        let lost: u64 = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .map(|line| line["fields"]["count"].as_u64().unwrap())
            .sum();
        assert!(lost > 0 && whole as u64 + lost == said as u64, "{whole} of {said}, {lost} lost");
        assert!(!text.contains("directly"));
    }

    /// Takes so many bytes, and then is full.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (waiting, metrics) = (Waiting::default(), Metrics::new());
        waiting.lock().metrics = Some(metrics.clone());
        // All are there before the thread is.
        waiting.lock().bytes.extend_from_slice(b"one\ntwo\nthree\n");
        waiting.start(Form::Text, Box::new(Full(6))).unwrap();
        waiting.close(Duration::from_secs(10));
        assert!(metrics.render().contains("armiger_messages_dropped_total 2\n"), "{}", metrics.render());
    }

    #[test]
    fn the_end_does_not_wait_for_who_reads_nothing() {
        let (may, waiting) = (Arc::new(Mutex::new(())), Waiting::default());
        let held = may.lock().unwrap();
        waiting.start(Form::Text, Box::new(Reader(may.clone(), Kept::default()))).unwrap();
        waiting.push(b"said\n");
        waiting.close(Duration::from_millis(10));
        assert_eq!(waiting.lock().writer, Thread::Left);
        waiting.push(b"never\n");
        drop(held);
    }

    #[test]
    fn who_took_nothing_while_the_end_waited_for_others_is_not_waited_for_again() {
        let (begin, wait) = (Instant::now(), Duration::from_secs(2));
        let now = begin + wait;
        for (writes_from, waited_from, until) in [
            (Some(begin), Some(begin), now),
            (Some(begin), Some(begin + wait / 2), now + wait / 2),
            (Some(begin + wait / 2), Some(begin), now + wait / 2),
            (None, Some(begin), now + wait),
            (Some(begin), None, now + wait),
        ] {
            let state = State { writes_from, waited_from, ..State::default() };
            assert_eq!(state.waits_until(now, wait), until, "{state:?}");
        }
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let kept = Kept::default();
        let (subscriber, messages) = Messages::subscriber(Some(LevelFilter::WARN), Form::Json, false, kept.clone());
        tracing::subscriber::with_default(subscriber, || {
            assert!(!messages.apply(LogLevel::Trace));
            assert!(messages.apply(LogLevel::Warn));
            assert_eq!(shown(&kept), ["ERROR", "WARN"]);
        });
    }

    #[test]
    fn a_line_has_the_form_of_the_other_messages() {
        let kept = Kept::default();
        let (subscriber, _messages) = Messages::subscriber(None, Form::Json, false, kept.clone());
        tracing::subscriber::with_default(subscriber, || tracing::error!(address = "a", "failed"));
        let keys = |text: &str| {
            let line: serde_json::Value = serde_json::from_str(text).unwrap();
            let mut keys: Vec<String> = line.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            (keys, line["timestamp"].as_str().unwrap().ends_with('Z'), line["level"].clone())
        };
        assert_eq!(keys(&line("ERROR", &serde_json::json!({"message": "failed"}))), keys(&kept.take()));
    }

    #[test]
    fn a_message_has_the_form_asked_for() {
        for (form, begins) in [(Form::Json, "{\"timestamp\""), (Form::Text, "20")] {
            let kept = Kept::default();
            let (subscriber, _messages) = Messages::subscriber(None, form, false, kept.clone());
            tracing::subscriber::with_default(subscriber, || tracing::info!(address = "a", "listening"));
            let text = kept.take();
            assert!(text.starts_with(begins) && text.contains("listening"), "{text}");
        }
    }
}
