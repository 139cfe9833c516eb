//! A line for people.

use super::values::{write_address, write_escaped, write_integer, write_millis};
use crate::telemetry::access_log::redact::write_query;
use crate::telemetry::access_log::settings::Settings;
use crate::telemetry::record::{ROWS_MAX, Record};

/// Writes the record as a short line: time, method, path, status, duration, and then what is worth a word.
pub(super) fn write_text(out: &mut Vec<u8>, time: &[u8], record: &Record, settings: &Settings) {
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
        ("at", record.last_asked().map(|last| &*last.addr)),
        ("reason", record.reason),
        ("cause", record.last_cause()),
        ("fallback", record.fallback),
        ("cut_by", record.cut_by.map(|by| by.as_str())),
        ("upload_cut", record.upload_cut.then_some("true")),
    ] {
        if let Some(value) = value {
            text_field(out, key, value.as_bytes());
        }
    }
    if record.attempts.len() > 1 {
        out.extend_from_slice(b" attempts=");
        write_integer(out, record.attempts.len() as u64);
    }
    for row in record.verdicts.iter().take(ROWS_MAX).filter(|row| row.reason.is_some() || row.cause.is_some()) {
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
