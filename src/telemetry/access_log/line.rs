//! The forms of a line: JSON, text for people, and Apache's combined format.
//!
//! Whatever a client sends, a line is one line and a value stays in its field.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, Version, header};

use super::redact::{Shown, write_query};
use super::settings::Settings;
use crate::config::observe::{LogField, LogFormat};
use crate::telemetry::record::{AttemptRow, Enforcement, PartRow, ROWS_MAX, Record, VerdictRow, VerdictWord};
use crate::telemetry::trace::write_hex;

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

/// What stands before a text: comma, key, colon and quote as one piece.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"").as_bytes()
    };
}

/// Writes the record as a JSON object. Facts that are unset are left out, so a line is as long as there is to say.
fn write_json(out: &mut Vec<u8>, time: &[u8], record: &Record, settings: &Settings) {
    let start = out.len();
    for field in &settings.fields {
        json_fact(out, *field, time, record, settings);
    }
    // Every field begins with a comma, which the first one has in place of the brace.
    match out.get_mut(start) {
        Some(first) => *first = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

fn json_fact(out: &mut Vec<u8>, field: LogField, time: &[u8], record: &Record, settings: &Settings) {
    match field {
        LogField::Time => {
            out.extend_from_slice(b",\"time\":\"");
            out.extend_from_slice(time);
            out.push(b'"');
        }
        LogField::RequestId => {
            if let Some(id) = &record.request_id {
                // An id is letters, digits, dots, dashes and underscores: nothing to escape.
                out.extend_from_slice(b",\"request_id\":\"");
                out.extend_from_slice(id.as_bytes());
                out.push(b'"');
            }
        }
        LogField::TraceId => {
            if record.trace_id != [0; 16] {
                let mut hex = [0; 32];
                write_hex(&mut hex, &record.trace_id);
                out.extend_from_slice(b",\"trace_id\":\"");
                out.extend_from_slice(&hex);
                out.push(b'"');
            }
        }
        LogField::Client => {
            if let Some(client) = record.client {
                out.extend_from_slice(b",\"client\":\"");
                write_address(out, client);
                out.push(b'"');
            }
        }
        LogField::Method => json_word(out, key!("method"), record.method.as_str()),
        LogField::Host => {
            if !record.host().is_empty() {
                json_text(out, key!("host"), record.host());
            }
        }
        LogField::Path => json_text(out, key!("path"), record.path()),
        LogField::Query => {
            if let Some(query) = record.query() {
                out.extend_from_slice(b",\"query\":\"");
                write_query(out, query, &settings.query_keys, write_escaped);
                out.push(b'"');
            }
        }
        LogField::Protocol => match record.version {
            // Nearly all of them, in one piece.
            Version::HTTP_11 => out.extend_from_slice(b",\"protocol\":\"HTTP/1.1\""),
            version => json_word(out, key!("protocol"), protocol(version)),
        },
        LogField::Status => {
            out.extend_from_slice(b",\"status\":");
            write_status(out, record.status);
        }
        LogField::GrpcStatus => json_name(out, key!("grpc_status"), record.grpc_status),
        LogField::Route => json_name(out, key!("route"), record.route.as_deref()),
        LogField::Listener => json_name(out, key!("listener"), record.listener.as_deref()),
        LogField::Upstream => json_name(out, key!("upstream"), record.upstream.as_deref()),
        LogField::UpstreamAddr => json_name(out, key!("upstream_addr"), record.upstream_addr.as_deref()),
        LogField::Attempts => json_list(out, "attempts", &record.attempts, json_attempt),
        LogField::Parts => json_list(out, "parts", &record.parts, json_part),
        LogField::Verdicts => json_list(out, "verdicts", &record.verdicts, json_verdict),
        LogField::Reason => json_name(out, key!("reason"), record.reason),
        LogField::Fallback => json_name(out, key!("fallback"), record.fallback),
        LogField::Duration => {
            out.extend_from_slice(b",\"duration\":");
            write_seconds(out, record.duration);
        }
        LogField::UpstreamDuration => {
            if let Some(duration) = record.upstream_duration {
                out.extend_from_slice(b",\"upstream_duration\":");
                write_seconds(out, duration);
            }
        }
        LogField::BytesIn => {
            out.extend_from_slice(b",\"bytes_in\":");
            write_integer(out, record.bytes_in);
        }
        LogField::BytesOut => {
            out.extend_from_slice(b",\"bytes_out\":");
            write_integer(out, record.bytes_out);
        }
        LogField::Complete => {
            out.extend_from_slice(if record.complete { b",\"complete\":true" } else { b",\"complete\":false" });
        }
        LogField::CutBy => json_name(out, key!("cut_by"), record.cut_by.map(|by| by.as_str())),
        LogField::Headers => json_headers(out, "headers", record.headers(), &settings.headers, settings),
        LogField::ResponseHeaders => {
            let headers = record.response_headers();
            json_headers(out, "response_headers", headers, &settings.response_headers, settings);
        }
    }
}

/// The headers kept that are to be shown, each name once: the lines of one header follow each other and are joined as
/// RFC 9110 §5.3 has it.
fn json_headers<'r>(
    out: &mut Vec<u8>,
    key: &str,
    headers: impl Iterator<Item = (&'r HeaderName, &'r [u8])>,
    shown: &[Shown],
    settings: &Settings,
) {
    let mut previous = None;
    for (name, value) in headers {
        // What was kept for settings that have changed since may be no longer wanted.
        let Some(shown) = shown.iter().find(|shown| shown.name == *name) else { continue };
        if previous == Some(name) {
            if !shown.is_masked() {
                out.extend_from_slice(b", ");
                shown.write(out, value, &settings.query_keys, write_escaped);
            }
            continue;
        }
        if previous.is_none() {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":{\"");
        } else {
            out.extend_from_slice(b"\",\"");
        }
        previous = Some(name);
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b"\":\"");
        shown.write(out, value, &settings.query_keys, write_escaped);
    }
    if previous.is_some() {
        out.extend_from_slice(b"\"}");
    }
}

/// Leaves out a list of nothing.
fn json_list<T>(out: &mut Vec<u8>, key: &str, rows: &[T], write: fn(&mut Vec<u8>, &T)) {
    if rows.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":[");
    for (index, row) in rows.iter().take(ROWS_MAX).enumerate() {
        out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
        write(out, row);
        out.push(b'}');
    }
    out.push(b']');
}

fn json_attempt(out: &mut Vec<u8>, row: &AttemptRow) {
    out.extend_from_slice(b"\"addr\":\"");
    write_escaped(out, row.addr.as_bytes());
    out.push(b'"');
    json_word(out, key!("outcome"), row.outcome);
    out.extend_from_slice(b",\"ms\":");
    write_millis(out, row.duration);
}

fn json_part(out: &mut Vec<u8>, row: &PartRow) {
    out.extend_from_slice(b"\"part\":\"");
    write_escaped(out, row.part.as_bytes());
    out.push(b'"');
    json_text(out, key!("upstream"), row.upstream.as_bytes());
    if let Some(status) = row.status {
        out.extend_from_slice(b",\"status\":");
        write_integer(out, status.into());
    }
    json_text(out, key!("outcome"), row.outcome.as_bytes());
    out.extend_from_slice(b",\"ms\":");
    write_millis(out, row.duration);
}

fn json_verdict(out: &mut Vec<u8>, row: &VerdictRow) {
    out.extend_from_slice(b"\"policy\":\"");
    out.extend_from_slice(row.policy.as_bytes());
    out.push(b'"');
    json_word(out, key!("stage"), row.stage);
    if let (VerdictWord::Pass, Enforcement::Enforce, None, None) = (row.verdict, row.mode, row.reason, &row.cause) {
        // Nearly all of them, in one piece.
        return out.extend_from_slice(b",\"verdict\":\"pass\",\"mode\":\"enforce\"");
    }
    json_word(out, key!("verdict"), row.verdict.as_str(row.mode));
    if let Some(reason) = row.reason {
        json_word(out, key!("reason"), reason);
    }
    if let Some(cause) = &row.cause {
        json_text(out, key!("cause"), cause.as_bytes());
    }
    json_word(out, key!("mode"), row.mode.as_str());
}

/// A word of ours, or a token: nothing in it to escape.
fn json_word(out: &mut Vec<u8>, key: &[u8], word: &str) {
    out.extend_from_slice(key);
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

fn json_text(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    write_escaped(out, value);
    out.push(b'"');
}

/// Leaves out a name that is unset.
fn json_name(out: &mut Vec<u8>, key: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        json_text(out, key, value.as_bytes());
    }
}

/// Writes the record as a short line: time, method, path, status, duration, and then what is worth a word.
fn write_text(out: &mut Vec<u8>, time: &[u8], record: &Record, settings: &Settings) {
    out.extend_from_slice(time);
    out.push(b' ');
    write_word(out, record.method.as_str().as_bytes());
    out.push(b' ');
    write_word(out, record.path());
    if let Some(query) = record.query() {
        out.push(b'?');
        write_query(out, query, &settings.query_keys, write_escaped);
    }
    out.push(b' ');
    write_integer(out, u64::from(record.status));
    out.push(b' ');
    write_millis(out, record.duration);
    out.extend_from_slice(b"ms");
    for (key, value) in [
        ("grpc_status", record.grpc_status),
        ("route", record.route.as_deref()),
        ("upstream", record.upstream.as_deref()),
        ("at", record.upstream_addr.as_deref()),
        ("reason", record.reason),
        ("fallback", record.fallback),
        ("cut_by", record.cut_by.map(|by| by.as_str())),
    ] {
        if let Some(value) = value {
            text_field(out, key, value.as_bytes());
        }
    }
    if record.attempts.len() > 1 {
        out.extend_from_slice(b" attempts=");
        write_integer(out, record.attempts.len() as u64);
    }
    for row in record.verdicts.iter().take(ROWS_MAX).filter(|row| row.reason.is_some()) {
        text_field(out, row.policy, row.verdict.as_str(row.mode).as_bytes());
    }
    if let Some(client) = record.client {
        out.extend_from_slice(b" client=");
        write_address(out, client);
    }
    if let Some(id) = &record.request_id {
        out.extend_from_slice(b" id=");
        out.extend_from_slice(id.as_bytes());
    }
}

fn text_field(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    write_word(out, value);
}

/// Writes a value of a text line: bare if it is one plain word, else quoted, so that no value can fake a field.
fn write_word(out: &mut Vec<u8>, value: &[u8]) {
    if !value.is_empty() && value.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(value);
    } else {
        out.push(b'"');
        write_escaped(out, value);
        out.push(b'"');
    }
}

/// Writes the record in Apache's "combined" format: `%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\"`.
/// What is not known is `-`. The line differs from Apache's in what the request's first line shows: the path is the
/// normalised one, and the query is masked.
fn write_combined(out: &mut Vec<u8>, time: &[u8; ClockText::LENGTH], record: &Record, settings: &Settings) {
    match record.client {
        Some(client) => write_address(out, client),
        None => out.push(b'-'),
    }
    // Neither identd nor anybody else has named a user.
    out.extend_from_slice(b" - - [");
    write_common_time(out, time);
    out.extend_from_slice(b"] \"");
    if record.path().is_empty() {
        // The head could not be read.
        out.push(b'-');
    } else {
        write_apache(out, record.method.as_str().as_bytes());
        out.push(b' ');
        write_apache(out, record.path());
        if let Some(query) = record.query() {
            out.push(b'?');
            write_query(out, query, &settings.query_keys, write_apache);
        }
        out.push(b' ');
        // Apache writes the minor version, although HTTP/2 has none.
        let protocol = if record.version == Version::HTTP_2 { "HTTP/2.0" } else { protocol(record.version) };
        out.extend_from_slice(protocol.as_bytes());
    }
    out.extend_from_slice(b"\" ");
    for number in [u64::from(record.status), record.bytes_out] {
        if number == 0 {
            out.push(b'-');
        } else {
            write_integer(out, number);
        }
        out.push(b' ');
    }
    out.push(b'"');
    combined_header(out, &header::REFERER, record, settings);
    out.extend_from_slice(b"\" \"");
    combined_header(out, &header::USER_AGENT, record, settings);
    out.push(b'"');
}

fn combined_header(out: &mut Vec<u8>, name: &HeaderName, record: &Record, settings: &Settings) {
    let shown = settings.headers.iter().find(|shown| shown.name == *name);
    let mut values = record.headers().filter(|(kept, _)| *kept == name).map(|(_, value)| value).peekable();
    let Some(shown) = shown.filter(|_| values.peek().is_some()) else {
        out.push(b'-');
        return;
    };
    for (place, value) in values.enumerate() {
        if place > 0 {
            out.extend_from_slice(b", ");
        }
        shown.write(out, value, &settings.query_keys, write_apache);
    }
}

/// Writes bytes as Apache does (`ap_escape_logitem`): quote and backslash behind a backslash, some controls by their
/// letter, all else that is no visible ASCII as `\xhh`.
fn write_apache(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x0b => out.extend_from_slice(b"\\v"),
            0x20..=0x7e => out.push(*byte),
            _ => {
                let mut escape = *b"\\x00";
                write_hex(&mut escape[2..], &[*byte]);
                out.extend_from_slice(&escape);
            }
        }
    }
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Writes the time as the common log format has it: `10/Oct/2000:13:55:36 +0000`.
fn write_common_time(out: &mut Vec<u8>, time: &[u8; ClockText::LENGTH]) {
    let month = usize::from(time[5] - b'0') * 10 + usize::from(time[6] - b'0');
    out.extend_from_slice(&time[8..10]);
    out.push(b'/');
    out.extend_from_slice(MONTHS[(month + 11) % 12]);
    out.push(b'/');
    out.extend_from_slice(&time[..4]);
    out.push(b':');
    out.extend_from_slice(&time[11..ClockText::SECONDS_LENGTH]);
    out.extend_from_slice(b" +0000");
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "unknown",
    }
}

// === Values ===

/// True for bytes that a JSON string holds as they are: visible ASCII but quote and backslash, and the space.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        table[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    table
};

/// Writes bytes as the inside of a JSON string (RFC 8259 §7).
///
/// Invalid UTF-8 becomes U+FFFD. DEL and the C1 controls are escaped as well, for a log is read on terminals.
#[inline]
fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = plain(bytes);
    out.extend_from_slice(&bytes[..plain]);
    if plain < bytes.len() {
        write_escaped_slowly(out, &bytes[plain..]);
    }
}

/// How many bytes at the beginning a JSON string holds as they are.
fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let at = 8 * words.iter().take_while(|word| are_plain(u64::from_le_bytes(**word))).count();
    // The rest with what stands before it is one more.
    if at + rest.len() == bytes.len() && bytes.last_chunk().is_some_and(|word| are_plain(u64::from_le_bytes(*word))) {
        return bytes.len();
    }
    at + bytes[at..].iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(bytes.len() - at)
}

/// Whether all bytes of a word are plain, as [`PLAIN`] has it.
const fn are_plain(word: u64) -> bool {
    /// This byte in every place.
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    /// Its upper bits tell whether any byte is none. That it borrows from the byte above matters only where one is.
    const fn less(word: u64, than: u8) -> u64 {
        word.wrapping_sub(all(than)) & !word
    }
    let is_control = less(word, 0x20);
    let is_quote = less(word ^ all(b'"'), 1);
    let is_backslash = less(word ^ all(b'\\'), 1);
    let is_above = word.wrapping_add(all(1)) | word;
    (is_control | is_quote | is_backslash | is_above) & all(0x80) == 0
}

#[cold]
fn write_escaped_slowly(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                // Every control character is below U+00A0, so two hex digits are enough.
                character if character.is_control() => {
                    let mut escape = *b"\\u0000";
                    write_hex(&mut escape[4..], &[character as u8]);
                    out.extend_from_slice(&escape);
                }
                character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// The decimal digits of every number below one hundred, two each.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// The decimal digits of every byte with a dot behind them, and how many that are.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (ones, tens, hundreds) = (octet % 10, octet / 10 % 10, octet / 100);
        let (digits, count) = &mut octets[octet];
        if octet >= 100 {
            digits[*count as usize] = b'0' + hundreds as u8;
            *count += 1;
        }
        if octet >= 10 {
            digits[*count as usize] = b'0' + tens as u8;
            *count += 1;
        }
        digits[*count as usize] = b'0' + ones as u8;
        // With the dot, which is there already.
        *count += 2;
        octet += 1;
    }
    octets
};

/// Writes a status, which most often has three digits.
fn write_status(out: &mut Vec<u8>, status: u16) {
    let [tens, ones] = PAIRS[usize::from(status % 100)];
    match status / 100 {
        hundreds @ 1..=9 => out.extend_from_slice(&[b'0' + hundreds as u8, tens, ones]),
        _ => write_integer(out, status.into()),
    }
}

fn write_integer(out: &mut Vec<u8>, mut number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    while number >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    // What is left is one digit, or nothing because the last pair took the first digit with it.
    if number > 0 {
        at -= 1;
        digits[at] = b'0' + number as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a fraction of a million after its whole part: six digits.
fn write_micros(out: &mut Vec<u8>, micros: u32) {
    out.push(b'.');
    for pair in [micros / 10_000, micros / 100 % 100, micros % 100] {
        out.extend_from_slice(&PAIRS[pair as usize]);
    }
}

/// Writes seconds with six decimals.
fn write_seconds(out: &mut Vec<u8>, duration: Duration) {
    write_integer(out, duration.as_secs());
    write_micros(out, duration.subsec_micros());
}

/// Writes milliseconds with three decimals.
fn write_millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    write_integer(out, micros / 1_000);
    let rest = (micros % 1_000) as u32;
    out.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8]);
    out.extend_from_slice(&PAIRS[(rest % 100) as usize]);
}

/// Writes an address; an IPv4 address without the formatting machinery, for nearly all are.
fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            // In one piece: three digits and a dot for each, at most.
            let mut text = [0; 4 * 4];
            let mut length = 0;
            for octet in address.octets() {
                let (digits, count) = OCTETS[usize::from(octet)];
                text[length..length + 4].copy_from_slice(&digits);
                length += usize::from(count);
            }
            out.extend_from_slice(&text[..length - 1]);
        }
        IpAddr::V6(address) => {
            write!(out, "{address}").expect("a vector takes what it is given");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::observe::{AccessLog, FieldType};
    use crate::telemetry::record::CutBy;
    use crate::telemetry::trace::RequestId;
    use http::{HeaderValue, Method};
    use serde_json::{Value, json};

    fn config() -> AccessLog {
        AccessLog::default()
    }

    fn everything() -> AccessLog {
        AccessLog { response_headers: vec!["location".into()], ..config() }
    }

    fn lines(config: AccessLog, records: &[Record]) -> String {
        let (mut out, mut clock, settings) = (Vec::new(), ClockText::default(), Settings::of(&config));
        records.iter().for_each(|record| write(&mut out, &mut clock, record, &settings));
        String::from_utf8(out).unwrap()
    }

    fn json_of(config: AccessLog, record: Record) -> Value {
        serde_json::from_str(&lines(config, &[record])).unwrap()
    }

    fn full_record() -> Record {
        let mut record = Record::new();
        record.time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_042);
        record.request_id = RequestId::from_inbound(&HeaderValue::from_static("req-1"));
        record.trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        record.client = Some([192, 0, 2, 7].into());
        record.method = Method::POST;
        record.version = Version::HTTP_2;
        record.status = 503;
        record.set_host(b"shop.example.com");
        record.set_path(b"/orders/1");
        record.set_query(Some(b"page=2&token=secret"));
        record.route = Some("orders".into());
        record.listener = Some("http".into());
        record.upstream = Some("app".into());
        record.upstream_addr = Some("127.0.0.1:3000".into());
        record.reason = Some("rate-limited");
        record.grpc_status = Some("UNAVAILABLE");
        record.fallback = Some("respond");
        record.duration = Duration::from_micros(1_002_003);
        record.upstream_duration = Some(Duration::from_nanos(999));
        record.bytes_in = u64::MAX;
        record.bytes_out = 42;
        record.cut_by = Some(CutBy::Upstream);
        record.push_header(&header::USER_AGENT, b"curl/8");
        record.push_response_header(&header::LOCATION, b"/a");
        let attempt = |outcome, micros| AttemptRow {
            addr: "127.0.0.1:3000".into(),
            outcome,
            duration: Duration::from_micros(micros),
        };
        record.attempts.push(attempt("reset", 1_005));
        record.attempts.push(attempt("ok", 70));
        for (part, status) in [("user", Some(200)), ("ads", None)] {
            record.parts.push(PartRow {
                part: part.into(),
                upstream: "app".into(),
                status,
                outcome: if status.is_some() { "ok" } else { "part-timeout" },
                duration: Duration::from_micros(1_500),
            });
        }
        record.verdicts.push(VerdictRow {
            policy: "cors",
            stage: "admit",
            verdict: VerdictWord::Pass,
            reason: None,
            cause: None,
            mode: Enforcement::Enforce,
        });
        record.verdicts.push(VerdictRow {
            policy: "rate_limit",
            stage: "limit",
            verdict: VerdictWord::Reject,
            reason: Some("rate-limited"),
            cause: Some("per-caller".into()),
            mode: Enforcement::Shadow,
        });
        record
    }

    #[test]
    fn eight_bytes_at_once_are_as_plain_as_each_of_them() {
        for byte in 0..=255 {
            for place in 0..8 {
                for other in [b' ', b'a', b'~', 0x7f, 0x1f, b'"', b'\\', 0x80, 0xff] {
                    let mut word = [other; 8];
                    word[place] = byte;
                    let is_plain = word.iter().all(|byte| PLAIN[usize::from(*byte)]);
                    assert_eq!(are_plain(u64::from_le_bytes(word)), is_plain, "{word:?}");
                }
            }
        }
    }

    #[test]
    fn a_json_line_holds_every_fact() {
        assert_eq!(
            json_of(everything(), full_record()),
            json!({
                "time": "2023-11-14T22:13:20.042Z",
                "request_id": "req-1",
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "client": "192.0.2.7",
                "method": "POST",
                "host": "shop.example.com",
                "path": "/orders/1",
                "query": "page=***&token=***",
                "protocol": "HTTP/2",
                "status": 503,
                "grpc_status": "UNAVAILABLE",
                "route": "orders",
                "listener": "http",
                "upstream": "app",
                "upstream_addr": "127.0.0.1:3000",
                "attempts": [
                    {"addr": "127.0.0.1:3000", "outcome": "reset", "ms": 1.005},
                    {"addr": "127.0.0.1:3000", "outcome": "ok", "ms": 0.07},
                ],
                "parts": [
                    {"part": "user", "upstream": "app", "status": 200, "outcome": "ok", "ms": 1.5},
                    {"part": "ads", "upstream": "app", "outcome": "part-timeout", "ms": 1.5},
                ],
                "verdicts": [
                    {"policy": "cors", "stage": "admit", "verdict": "pass", "mode": "enforce"},
                    {"policy": "rate_limit", "stage": "limit", "verdict": "would_reject", "reason": "rate-limited",
                     "cause": "per-caller", "mode": "shadow"},
                ],
                "reason": "rate-limited",
                "fallback": "respond",
                "duration": 1.002003,
                "upstream_duration": 0.0,
                "bytes_in": u64::MAX,
                "bytes_out": 42,
                "complete": false,
                "cut_by": "upstream",
                "headers": {"user-agent": "curl/8"},
                "response_headers": {"location": "/a"},
            })
        );
    }

    #[test]
    fn a_text_line_is_short_and_cannot_be_faked() {
        let mut record = full_record();
        record.set_path(b"/a b\n\x1b[31m status=200");
        let config = AccessLog { format: LogFormat::Text, ..config() };
        assert_eq!(
            lines(config, &[record]),
            "2023-11-14T22:13:20.042Z POST \"/a b\\n\\u001b[31m status=200\"?page=***&token=*** 503 1002.003ms \
             grpc_status=UNAVAILABLE route=orders upstream=app \
             at=127.0.0.1:3000 reason=rate-limited fallback=respond cut_by=upstream attempts=2 rate_limit=would_reject \
             client=192.0.2.7 id=req-1\n"
        );
    }

    #[test]
    fn hostile_strings_stay_in_their_field_and_come_back_whole() {
        let every_byte: Vec<u8> = (0..=255).collect();
        for hostile in [
            &b"/plain"[..],
            b"",
            b"\"}{\"status\":200",
            b"\\\" \\u0000 \\",
            b"\0\x01\x1f\x7f\r\n\t\x0c\x08",
            "caf\u{e9} \u{2028} \u{1f980} \u{85}\u{9b}".as_bytes(),
            b"\xff\xfe/ok",
            b"cut \xe2\x82",
            b"\xc3\x28 \xed\xa0\x80",
            &every_byte,
        ] {
            let mut record = Record::new();
            record.set_path(hostile);
            record.set_host(hostile);
            record.set_query(Some(hostile));
            record.push_header(&header::USER_AGENT, hostile);
            record.route = Some(String::from_utf8_lossy(hostile).into());
            let line = lines(config(), &[record]);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(!line.trim_end().contains(char::is_control), "{line}");
            let parsed: Value = serde_json::from_str(&line).unwrap();
            let want = String::from_utf8_lossy(hostile);
            assert_eq!(parsed["path"], want.as_ref());
            assert_eq!(parsed["route"], want.as_ref());
            assert_eq!(parsed["headers"]["user-agent"], want.as_ref());
            assert_eq!(parsed["status"], 0);
        }
    }

    #[test]
    fn integers_and_durations_are_exact() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        for number in (0..1_000).chain((0..20).flat_map(|power| [10_u64.pow(power) - 1, 10_u64.pow(power)])) {
            assert_eq!(text(&|out| write_integer(out, number)), number.to_string());
        }
        assert_eq!(text(&|out| write_integer(out, u64::MAX)), u64::MAX.to_string());
        for (micros, seconds, millis) in [
            (0, "0.000000", "0.000"),
            (1, "0.000001", "0.001"),
            (123_456, "0.123456", "123.456"),
            (60_000_070, "60.000070", "60000.070"),
        ] {
            let duration = Duration::from_micros(micros);
            assert_eq!(text(&|out| write_seconds(out, duration)), seconds);
            assert_eq!(text(&|out| write_millis(out, duration)), millis);
        }
        for address in ["0.0.0.0", "255.10.9.100", "2001:db8::1"] {
            assert_eq!(text(&|out| write_address(out, address.parse().unwrap())), address);
        }
    }

    #[test]
    fn the_time_follows_the_record_through_the_second_cache() {
        let mut clock = ClockText::default();
        for (millis, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (999, "1970-01-01T00:00:00.999Z"),
            (1_000, "1970-01-01T00:00:01.000Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (253_402_207_200_000, "9999-12-30T22:00:00.000Z"),
        ] {
            let shown = clock.at(UNIX_EPOCH + Duration::from_millis(millis)).to_vec();
            assert_eq!(String::from_utf8(shown).unwrap(), want);
        }
        for extreme in [UNIX_EPOCH - Duration::from_secs(5), UNIX_EPOCH + Duration::from_secs(1 << 40)] {
            assert_eq!(clock.at(extreme).len(), ClockText::LENGTH);
        }
    }

    #[test]
    fn every_field_is_as_its_row_says() {
        let parse = |line: &str| serde_json::from_str::<serde_json::Map<String, Value>>(line).unwrap();
        let full = parse(&lines(everything(), &[full_record()]));
        let names: Vec<&str> = LogField::ALL.iter().map(|field| field.facts().name).collect();
        assert_eq!(full.keys().collect::<Vec<_>>(), names, "all fields, in order");
        let bare = parse(&lines(everything(), &[Record::new()]));
        for facts in LogField::ALL.iter().map(|field| field.facts()) {
            let value = &full[facts.name];
            let is_kind = match facts.kind {
                FieldType::Text => value.is_string(),
                FieldType::Integer => value.is_u64(),
                FieldType::Number => value.is_f64(),
                FieldType::Boolean => value.is_boolean(),
                FieldType::List => value.is_array(),
                FieldType::Mapping => value.is_object(),
            };
            assert!(is_kind, "{}: {value}", facts.name);
            assert_eq!(bare.contains_key(facts.name), facts.left_out.is_empty(), "{}", facts.name);
        }
    }

    #[test]
    fn a_line_leaves_out_what_is_unset() {
        let line = lines(config(), &[Record::new()]);
        assert_eq!(
            line,
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"method\":\"GET\",\"path\":\"\",\"protocol\":\"HTTP/1.1\",\
             \"status\":0,\"duration\":0.000000,\"bytes_in\":0,\"bytes_out\":0,\"complete\":false}\n"
        );
    }

    #[test]
    fn fields_stand_in_the_order_asked_for() {
        for (fields, want) in [
            (&[LogField::Status, LogField::Path][..], "{\"status\":503,\"path\":\"/orders/1\"}\n"),
            (&[LogField::TraceId, LogField::Complete], "{\"complete\":false}\n"),
            (&[LogField::TraceId], "{}\n"),
        ] {
            let mut record = full_record();
            record.trace_id = [0; 16];
            let before = full_record();
            let config = AccessLog { fields: fields.to_vec(), ..config() };
            // Behind another line, whose end must stay as it is.
            let text = lines(config, &[before, record]);
            let (_, second) = text.split_once('\n').unwrap();
            assert_eq!(second, want);
        }
    }

    #[test]
    fn the_query_is_masked_but_for_listed_keys() {
        let mut record = Record::new();
        record.set_query(Some(b"page=\"2&token=secret"));
        for (keys, want) in [(&["page"][..], "page=\"2&token=***"), (&[], "page=***&token=***")] {
            let query: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            for format in [LogFormat::Json, LogFormat::Text, LogFormat::Combined] {
                let text = lines(AccessLog { format, query: query.clone(), ..config() }, &[record.clone()]);
                assert!(!text.contains("secret"), "{text}");
            }
            assert_eq!(json_of(AccessLog { query, ..config() }, record.clone())["query"], want);
        }
    }

    #[test]
    fn only_listed_headers_are_shown_and_credentials_are_masked() {
        let mut record = Record::new();
        let mut record_response = Record::new();
        for name in ["user-agent", "x-other", "authorization", "x-api-key", "cookie", "cookie", "via", "via"] {
            let name = HeaderName::from_static(name);
            record.push_header(&name, b"value");
            record_response.push_response_header(&name, b"value");
        }
        let names: Vec<String> =
            ["user-agent", "Authorization", "X-Api-Key", "cookie", "via", "x-absent"].map(String::from).to_vec();
        let want = json!({"user-agent": "value", "authorization": "***", "x-api-key": "***", "cookie": "***",
                          "via": "value, value"});
        let config = AccessLog { headers: names.clone(), response_headers: names, ..config() };
        let shown = json_of(config.clone(), record);
        assert_eq!((&shown["headers"], shown.get("response_headers")), (&want, None));
        assert_eq!(json_of(config, record_response)["response_headers"], want);
    }

    #[test]
    fn a_combined_line_is_apaches() {
        let combined = |record: &Record| {
            lines(AccessLog { format: LogFormat::Combined, ..config() }, std::slice::from_ref(record))
        };
        let mut record = full_record();
        record.push_header(&header::REFERER, b"https://shop.example.com/cart?id=7");
        assert_eq!(
            combined(&record),
            "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"POST /orders/1?page=***&token=*** HTTP/2.0\" 503 42 \
             \"https://shop.example.com/cart?id=***\" \"curl/8\"\n"
        );
        assert_eq!(combined(&Record::new()), "- - - [01/Jan/1970:00:00:00 +0000] \"-\" - - \"-\" \"-\"\n");

        let every_byte: Vec<u8> = (0..=255).collect();
        let mut record = Record::new();
        record.set_path(b"/\"\n");
        record.push_header(&header::USER_AGENT, &every_byte);
        let line = combined(&record);
        assert!(line.contains(" \"GET /\\\"\\n HTTP/1.1\" "), "{line}");
        let controls = r#"\x00\x01\x02\x03\x04\x05\x06\x07\b\t\n\v\x0c\r\x0e\x0f\x10"#;
        let mut agent = controls.to_owned();
        (0x11..=0x1f).for_each(|byte| agent.push_str(&format!("\\x{byte:02x}")));
        for byte in 0x20..=0x7e_u8 {
            if matches!(byte, b'"' | b'\\') {
                agent.push('\\');
            }
            agent.push(byte.into());
        }
        (0x7f..=0xff).for_each(|byte| agent.push_str(&format!("\\x{byte:02x}")));
        assert!(line.ends_with(&format!(" \"{agent}\"\n")), "{line}");
    }

    #[test]
    fn the_common_time_knows_every_month() {
        let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        for (place, name) in names.iter().enumerate() {
            let text = format!("2024-{:02}-09T01:02:03.000Z", place + 1);
            let mut out = Vec::new();
            write_common_time(&mut out, text.as_bytes().first_chunk().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), format!("09/{name}/2024:01:02:03 +0000"));
        }
    }
}
