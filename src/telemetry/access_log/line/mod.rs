//! The forms of a line: JSON, text for people, and Apache's combined format.
//!
//! Whatever a client sends, a line is one line and a value stays in its field.

mod combined;
mod json;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::time::{SystemTime, UNIX_EPOCH};

use self::combined::write_combined;
use self::json::write_json;
use self::text::write_text;
use super::settings::Settings;
use crate::config::observe::LogFormat;
use crate::telemetry::record::Record;

/// Writes the record's line, its end included; nothing if the log is off.
pub(super) fn write(out: &mut Vec<u8>, clock: &mut ClockText, record: &Record, settings: &Settings) {
    let time = clock.at(record.time);
    match settings.format {
        LogFormat::Json => write_json(out, time, record, settings),
        LogFormat::Text => write_text(out, time, record, settings),
        LogFormat::Combined => write_combined(out, time, record, settings),
        LogFormat::Off => return,
    }
    out.push(b'\n');
}

/// The time as RFC 3339 text in UTC; what changes once per second is made once per second.
pub(super) struct ClockText {
    second: u64,
    text: [u8; ClockText::LENGTH],
}

impl Default for ClockText {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl ClockText {
    const LENGTH: usize = 24;
    const SECONDS_LENGTH: usize = 19;

    /// Times before 1970 or after 9999 are shown as the nearest second that can be.
    fn at(&mut self, time: SystemTime) -> &[u8; Self::LENGTH] {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second {
            self.second = since.as_secs();
            let seconds = i64::try_from(self.second).unwrap_or(i64::MAX);
            let shown = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string();
            if let Some(text) = shown.as_bytes().first_chunk::<{ Self::SECONDS_LENGTH }>() {
                self.text[..Self::SECONDS_LENGTH].copy_from_slice(text);
            }
        }
        let mut millis = since.subsec_millis();
        for digit in self.text[20..23].iter_mut().rev() {
            *digit = b'0' + (millis % 10) as u8;
            millis /= 10;
        }
        &self.text
    }
}
