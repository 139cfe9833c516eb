//! armiger's own messages on standard error, and their level, which changes while it runs.
//!
//! Everybody writes messages with `tracing`; this file decides which are shown. Only the program installs it: whoever
//! uses the library shows the messages as they like, or not at all.

use std::fmt;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

pub use tracing_subscriber::filter::LevelFilter;

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

/// The messages that are shown. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Messages {
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
        let (subscriber, messages) = Self::subscriber(level, form, is_coloured, io::stderr);
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
        (Registry::default().with(filter).with(lines), Self { fixed: level, filter: handle })
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

/// Says something to people, on standard error. That nobody can read it is no reason to end.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A message of a program that does not run, or not yet, as a line of JSON, whatever level is shown.
pub fn line(level: &str, fields: &serde_json::Value) -> String {
    let timestamp =
        jiff::Timestamp::from_microsecond(since_epoch()).map_or_else(|_| String::new(), |now| now.to_string());
    serde_json::json!({"timestamp": timestamp, "level": level, "fields": fields, "target": "armiger"}).to_string()
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
