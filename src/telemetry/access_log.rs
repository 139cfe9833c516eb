//! The access log: one line per exchange, written by a thread of its own.
//!
//! A worker serialises each [`Record`] straight into its [`LogBuffer`] and hands the buffer over when it is full or on
//! [`LogBuffer::flush`]. The hand-over is a push to a bounded queue and never waits: while the destination is slow,
//! whole buffers are dropped and their lines counted in `armiger_access_log_dropped_total`. A destination that fails
//! costs lines, counted likewise, and nothing else.
//!
//! What may be secret is not written: request headers come from an allow-list, credentials are masked even if they are
//! on it, and the query is left out unless asked for, with all values masked but those of listed keys.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderName, Version, header};

use super::metrics::Metrics;
use super::record::{AttemptRow, ROWS_MAX, Record, VerdictRow};
use super::trace::write_hex;

/// A buffer of this many bytes is handed to the writer.
const HAND_OVER_AT: usize = 64 * 1024;

/// What a fresh buffer holds: a full one and the line that filled it.
const BUFFER_CAPACITY: usize = HAND_OVER_AT + 8 * 1024;

/// The most buffers that wait for the writer: with those above, some 2.5 MiB.
const QUEUE_MAX: usize = 32;

/// The most written buffers kept for reuse.
const SPARE_MAX: usize = 8;

/// What stands in place of a value that may be secret.
const MASK: &str = "***";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, for machines.
    #[default]
    Json,
    /// One short line, for people.
    Text,
    /// No lines at all.
    Off,
}

/// What a line shows.
#[derive(Clone, Debug)]
pub struct Options {
    /// How a line looks. Default JSON.
    pub format: Format,
    /// Show the query, its values masked. Default off.
    pub query: bool,
    /// The query keys whose values are shown, spelt as on the wire. Default none.
    pub query_keys: Vec<String>,
    /// The request headers shown. Default `user-agent`. Credentials are masked even if named here.
    pub headers: Vec<HeaderName>,
}

impl Default for Options {
    fn default() -> Self {
        Self { format: Format::Json, query: false, query_keys: Vec::new(), headers: vec![header::USER_AGENT] }
    }
}

/// Starts the thread that writes the log.
#[derive(Debug)]
pub struct Writer;

impl Writer {
    /// Starts writing lines as `options` say to `destination`; lines that are lost are counted in `metrics`.
    ///
    /// Fails if the thread cannot be started. It is started for [`Format::Off`] too, and sleeps until a reload switches
    /// the log on.
    pub fn start(options: Options, destination: Box<dyn Write + Send>, metrics: &Metrics) -> io::Result<AccessLog> {
        let queue = Arc::new(Queue::default());
        let (writers_queue, writers_metrics) = (Arc::clone(&queue), metrics.clone());
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&writers_queue, destination, &writers_metrics))?;
        let options = Arc::new(options);
        Ok(AccessLog(Arc::new(LogInner { options, queue, metrics: metrics.clone() })))
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
    /// What buffers start with.
    options: Arc<Options>,
    queue: Arc<Queue>,
    metrics: Metrics,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// A buffer for one worker.
    pub fn buffer(&self) -> LogBuffer {
        LogBuffer(Rc::new(RefCell::new(BufferInner {
            options: Arc::clone(&self.0.options),
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
    options: Arc<Options>,
    log: Arc<LogInner>,
    bytes: Vec<u8>,
    lines: u64,
    clock: ClockText,
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBuffer").finish_non_exhaustive()
    }
}

impl LogBuffer {
    /// Writes the record's line into the buffer. Never waits.
    pub fn write(&self, record: &Record) {
        let inner = &mut *self.0.borrow_mut();
        let options = &*inner.options;
        if options.format == Format::Off {
            return;
        }
        if inner.bytes.capacity() == 0 {
            inner.bytes.reserve(BUFFER_CAPACITY);
        }
        let time = inner.clock.at(record.time);
        match options.format {
            Format::Json => write_json(&mut inner.bytes, time, record, options),
            Format::Text => write_text(&mut inner.bytes, time, record, options),
            Format::Off => {}
        }
        inner.bytes.push(b'\n');
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

// === Lines ===

/// The time as RFC 3339 text in UTC; what changes once per second is made once per second.
struct ClockText {
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
    fn at(&mut self, time: SystemTime) -> &[u8] {
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

/// Writes the record as a JSON object. Facts that are unset are left out, so a line is as long as there is to say.
fn write_json(out: &mut Vec<u8>, time: &[u8], record: &Record, options: &Options) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(time);
    out.push(b'"');
    if let Some(id) = &record.request_id {
        // An id is letters, digits, dots, dashes and underscores: nothing to escape.
        out.extend_from_slice(b",\"request_id\":\"");
        out.extend_from_slice(id.as_bytes());
        out.push(b'"');
    }
    if record.trace_id != [0; 16] {
        let mut hex = [0; 32];
        write_hex(&mut hex, &record.trace_id);
        out.extend_from_slice(b",\"trace_id\":\"");
        out.extend_from_slice(&hex);
        out.push(b'"');
    }
    if let Some(client) = record.client {
        out.extend_from_slice(b",\"client\":\"");
        write_address(out, client);
        out.push(b'"');
    }
    json_field(out, "method", record.method.as_str().as_bytes());
    if !record.host().is_empty() {
        json_field(out, "host", record.host());
    }
    json_field(out, "path", record.path());
    if let Some(query) = record.query().filter(|_| options.query) {
        out.extend_from_slice(b",\"query\":\"");
        write_query(out, query, &options.query_keys);
        out.push(b'"');
    }
    json_field(out, "protocol", protocol(record.version).as_bytes());
    out.extend_from_slice(b",\"status\":");
    write_integer(out, u64::from(record.status));
    for (key, value) in [
        ("route", &record.route),
        ("listener", &record.listener),
        ("upstream", &record.upstream),
        ("upstream_addr", &record.upstream_addr),
    ] {
        if let Some(value) = value {
            json_field(out, key, value.as_bytes());
        }
    }
    if !record.attempts.is_empty() {
        json_list(out, "attempts", &record.attempts, json_attempt);
    }
    if !record.verdicts.is_empty() {
        json_list(out, "verdicts", &record.verdicts, json_verdict);
    }
    if let Some(reason) = record.reason {
        json_field(out, "reason", reason.as_bytes());
    }
    out.extend_from_slice(b",\"duration\":");
    write_seconds(out, record.duration);
    if let Some(duration) = record.upstream_duration {
        out.extend_from_slice(b",\"upstream_duration\":");
        write_seconds(out, duration);
    }
    out.extend_from_slice(b",\"bytes_in\":");
    write_integer(out, record.bytes_in);
    out.extend_from_slice(b",\"bytes_out\":");
    write_integer(out, record.bytes_out);
    out.extend_from_slice(if record.complete { b",\"complete\":true" } else { b",\"complete\":false" });
    if let Some(cut_by) = record.cut_by {
        json_field(out, "cut_by", cut_by.as_str().as_bytes());
    }
    if record.headers().next().is_some() {
        json_headers(out, record, options);
    }
    out.push(b'}');
}

/// The headers kept, each name once: the lines of one header follow each other and are joined as RFC 9110 §5.3 has it.
fn json_headers(out: &mut Vec<u8>, record: &Record, options: &Options) {
    out.extend_from_slice(b",\"headers\":{");
    let mut previous = None;
    for (name, value) in record.headers() {
        let shown = options.headers.contains(name) && !is_credential(name);
        if previous == Some(name) {
            if shown {
                out.extend_from_slice(b", ");
                write_escaped(out, value);
            }
            continue;
        }
        out.extend_from_slice(if previous.is_some() { b"\",\"" } else { b"\"" });
        previous = Some(name);
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b"\":\"");
        write_escaped(out, if shown { value } else { MASK.as_bytes() });
    }
    out.extend_from_slice(b"\"}");
}

fn json_list<T>(out: &mut Vec<u8>, key: &str, rows: &[T], write: fn(&mut Vec<u8>, &T)) {
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
    json_field(out, "outcome", row.outcome.as_bytes());
    out.extend_from_slice(b",\"ms\":");
    write_millis(out, row.duration);
}

fn json_verdict(out: &mut Vec<u8>, row: &VerdictRow) {
    out.extend_from_slice(b"\"policy\":\"");
    write_escaped(out, row.policy.as_bytes());
    out.push(b'"');
    json_field(out, "stage", row.stage.as_bytes());
    json_field(out, "verdict", row.verdict.as_str(row.mode).as_bytes());
    if let Some(reason) = row.reason {
        json_field(out, "reason", reason.as_bytes());
    }
    json_field(out, "mode", row.mode.as_str().as_bytes());
}

fn json_field(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":\"");
    write_escaped(out, value);
    out.push(b'"');
}

/// Writes the record as a short line: time, method, path, status, duration, and then what is worth a word.
fn write_text(out: &mut Vec<u8>, time: &[u8], record: &Record, options: &Options) {
    out.extend_from_slice(time);
    out.push(b' ');
    write_word(out, record.method.as_str().as_bytes());
    out.push(b' ');
    write_word(out, record.path());
    if let Some(query) = record.query().filter(|_| options.query) {
        out.push(b'?');
        write_query(out, query, &options.query_keys);
    }
    out.push(b' ');
    write_integer(out, u64::from(record.status));
    out.push(b' ');
    write_millis(out, record.duration);
    out.extend_from_slice(b"ms");
    for (key, value) in [
        ("route", record.route.as_deref()),
        ("upstream", record.upstream.as_deref()),
        ("at", record.upstream_addr.as_deref()),
        ("reason", record.reason),
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

/// Writes the query with every value masked but those of listed keys.
///
/// What has no key is masked whole. A semicolon separates like an ampersand, for some applications read it so and a
/// secret would hide behind the value of a listed key.
fn write_query(out: &mut Vec<u8>, query: &[u8], keys: &[String]) {
    let mut rest = query;
    loop {
        let end = memchr::memchr2(b'&', b';', rest).unwrap_or(rest.len());
        let pair = &rest[..end];
        match memchr::memchr(b'=', pair) {
            Some(at) if keys.iter().any(|key| key.as_bytes() == &pair[..at]) => write_escaped(out, pair),
            Some(at) => {
                write_escaped(out, &pair[..=at]);
                out.extend_from_slice(MASK.as_bytes());
            }
            None if pair.is_empty() => {}
            None => out.extend_from_slice(MASK.as_bytes()),
        }
        let Some((separator, next)) = rest[end..].split_first() else {
            return;
        };
        out.push(*separator);
        rest = next;
    }
}

/// Header fields whose values are credentials and never written.
fn is_credential(name: &HeaderName) -> bool {
    [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE, header::PROXY_AUTHORIZATION].contains(name)
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
fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = bytes.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(bytes.len());
    out.extend_from_slice(&bytes[..plain]);
    if plain < bytes.len() {
        write_escaped_slowly(out, &bytes[plain..]);
    }
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

fn write_integer(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    while number >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    // What is left is one digit, or nothing because the last pair took the first digit with it.
    if number > 0 || at == digits.len() {
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
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                write_integer(out, u64::from(octet));
            }
        }
        IpAddr::V6(address) => {
            write!(out, "{address}").expect("a vector takes what it is given");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::{CutBy, Enforcement, VerdictWord};
    use crate::telemetry::trace::RequestId;
    use http::{HeaderMap, HeaderValue, Method};
    use serde_json::{Value, json};
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

    fn lines(options: Options, records: &[Record]) -> String {
        let (kept, metrics) = (Kept::default(), Metrics::new());
        let log = Writer::start(options, Box::new(kept.clone()), &metrics).unwrap();
        let buffer = log.buffer();
        records.iter().for_each(|record| buffer.write(record));
        buffer.flush();
        assert!(log.close(PATIENCE));
        assert_eq!(metrics.access_log_dropped_total(), 0);
        kept.text()
    }

    fn json_of(options: Options, record: Record) -> Value {
        serde_json::from_str(&lines(options, &[record])).unwrap()
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
        record.duration = Duration::from_micros(1_002_003);
        record.upstream_duration = Some(Duration::from_nanos(999));
        record.bytes_in = u64::MAX;
        record.bytes_out = 42;
        record.cut_by = Some(CutBy::Upstream);
        let attempt = |outcome, micros| AttemptRow {
            addr: "127.0.0.1:3000".into(),
            outcome,
            duration: Duration::from_micros(micros),
        };
        record.attempts.push(attempt("reset", 1_005));
        record.attempts.push(attempt("ok", 70));
        record.verdicts.push(VerdictRow {
            policy: "cors",
            stage: "admit",
            verdict: VerdictWord::Pass,
            reason: None,
            mode: Enforcement::Enforce,
        });
        record.verdicts.push(VerdictRow {
            policy: "rate_limit",
            stage: "limit",
            verdict: VerdictWord::Reject,
            reason: Some("rate-limited"),
            mode: Enforcement::Shadow,
        });
        record
    }

    #[test]
    fn a_json_line_holds_every_fact() {
        assert_eq!(
            json_of(Options::default(), full_record()),
            json!({
                "time": "2023-11-14T22:13:20.042Z",
                "request_id": "req-1",
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "client": "192.0.2.7",
                "method": "POST",
                "host": "shop.example.com",
                "path": "/orders/1",
                "protocol": "HTTP/2",
                "status": 503,
                "route": "orders",
                "listener": "http",
                "upstream": "app",
                "upstream_addr": "127.0.0.1:3000",
                "attempts": [
                    {"addr": "127.0.0.1:3000", "outcome": "reset", "ms": 1.005},
                    {"addr": "127.0.0.1:3000", "outcome": "ok", "ms": 0.07},
                ],
                "verdicts": [
                    {"policy": "cors", "stage": "admit", "verdict": "pass", "mode": "enforce"},
                    {"policy": "rate_limit", "stage": "limit", "verdict": "would_reject", "reason": "rate-limited",
                     "mode": "shadow"},
                ],
                "reason": "rate-limited",
                "duration": 1.002003,
                "upstream_duration": 0.0,
                "bytes_in": u64::MAX,
                "bytes_out": 42,
                "complete": false,
                "cut_by": "upstream",
            })
        );
    }

    #[test]
    fn a_line_leaves_out_what_is_unset() {
        let line = lines(Options::default(), &[Record::new()]);
        assert_eq!(
            line,
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"method\":\"GET\",\"path\":\"\",\"protocol\":\"HTTP/1.1\",\
             \"status\":0,\"duration\":0.000000,\"bytes_in\":0,\"bytes_out\":0,\"complete\":false}\n"
        );
    }

    #[test]
    fn a_text_line_is_short_and_cannot_be_faked() {
        let mut record = full_record();
        record.set_path(b"/a b\n\x1b[31m status=200");
        let options = Options { format: Format::Text, ..Options::default() };
        assert_eq!(
            lines(options, &[record]),
            "2023-11-14T22:13:20.042Z POST \"/a b\\n\\u001b[31m status=200\" 503 1002.003ms route=orders upstream=app \
             at=127.0.0.1:3000 reason=rate-limited cut_by=upstream attempts=2 rate_limit=would_reject \
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
            let line = lines(Options { query: true, ..Options::default() }, &[record]);
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
    fn the_query_is_left_out_unless_asked_for_and_masked_but_for_listed_keys() {
        for (query, keys, want) in [
            ("page=2&token=secret", &["page"][..], "page=2&token=***"),
            ("page=2&token=secret", &[], "page=***&token=***"),
            ("secret", &["secret"], "***"),
            ("page=a=b", &["page"], "page=a=b"),
            ("page=1;token=secret", &["page"], "page=1;token=***"),
            ("Page=1", &["page"], "Page=***"),
            ("%70age=1", &["page"], "%70age=***"),
            ("&&=x&", &["page"], "&&=***&"),
            ("page=\"", &["page"], "page=\""),
            ("", &["page"], ""),
        ] {
            let mut record = Record::new();
            record.set_query(Some(query.as_bytes()));
            let query_keys = keys.iter().map(|key| (*key).to_owned()).collect();
            let shown = json_of(Options { query: true, query_keys, ..Options::default() }, record.clone());
            assert_eq!(shown["query"], want, "{query}");
            assert_eq!(json_of(Options::default(), record).get("query"), None);
        }
    }

    #[test]
    fn only_listed_headers_are_kept_and_credentials_are_masked() {
        let credentials = [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE, header::PROXY_AUTHORIZATION];
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("curl/8"));
        headers.insert("x-other", HeaderValue::from_static("other"));
        for name in &credentials {
            headers.insert(name, HeaderValue::from_static("hunter2"));
        }
        let mut names = vec![header::USER_AGENT, header::REFERER];
        names.extend(credentials.clone());
        let options = Options { headers: names, ..Options::default() };

        let mut record = Record::new();
        headers.iter().for_each(|(name, value)| record.push_header(name, value.as_bytes()));
        let text = lines(options, &[record]);
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap()["headers"],
            json!({"user-agent": "curl/8", "x-other": "***", "authorization": "***", "cookie": "***",
                   "set-cookie": "***", "proxy-authorization": "***"})
        );
    }

    #[test]
    fn the_lines_of_one_header_are_joined() {
        let mut record = Record::new();
        for (name, value) in [(header::VIA, "a"), (header::VIA, "b"), (header::COOKIE, "c"), (header::COOKIE, "d")] {
            record.push_header(&name, value.as_bytes());
        }
        let options = Options { headers: vec![header::VIA], ..Options::default() };
        assert_eq!(json_of(options, record)["headers"], json!({"via": "a, b", "cookie": "***"}));
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
    fn a_full_buffer_is_handed_over_without_a_flush() {
        let (begun, begins) = mpsc::sync_channel(64);
        let (permit, permits) = mpsc::sync_channel(64);
        let kept = Kept::default();
        let gate = Gate { begun, permits, kept: kept.clone() };
        let log = Writer::start(Options::default(), Box::new(gate), &Metrics::new()).unwrap();
        let buffer = log.buffer();
        let mut count = 0;
        while count == 0 || !buffer.is_empty() {
            buffer.write(&full_record());
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
        let log = Writer::start(Options::default(), Box::new(gate), &metrics).unwrap();
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
        let log = Writer::start(Options::default(), Box::new(gate), &metrics).unwrap();
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
        let log = Writer::start(Options::default(), Box::new(destination), &metrics).unwrap();
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
        let log = Writer::start(Options::default(), Box::new(Panics), &metrics).unwrap();
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
        let options = Options { format: Format::Off, ..Options::default() };
        let log = Writer::start(options, Box::new(kept.clone()), &metrics).unwrap();
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
        let log = Writer::start(Options::default(), Box::new(kept.clone()), &Metrics::new()).unwrap();
        let buffer = log.buffer();
        buffer.clone().write(&Record::new());
        drop(buffer);
        assert!(log.close(PATIENCE));
        assert_eq!(kept.text().lines().count(), 1);
    }

    #[test]
    fn a_written_buffer_is_used_again() {
        let kept = Kept::default();
        let log = Writer::start(Options::default(), Box::new(kept.clone()), &Metrics::new()).unwrap();
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
        let log = Writer::start(Options::default(), Box::new(kept.clone()), &metrics).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let buffer = log.buffer();
                    for _ in 0..200 {
                        buffer.write(&full_record());
                    }
                });
            }
        });
        assert!(log.close(PATIENCE));
        assert_eq!(metrics.access_log_dropped_total(), 0);
        assert_eq!(kept.text().lines().count(), 800);
        assert!(kept.text().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }
}
