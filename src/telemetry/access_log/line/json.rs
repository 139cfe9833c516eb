//! A line as a JSON object.

use http::{HeaderName, Version};

use super::values::{protocol, write_address, write_escaped, write_integer, write_millis, write_seconds, write_status};
use crate::config::observe::LogField;
use crate::telemetry::access_log::redact::{Shown, write_query};
use crate::telemetry::access_log::settings::Settings;
use crate::telemetry::record::{AttemptRow, Enforcement, PartRow, ROWS_MAX, Record, VerdictRow, VerdictWord};
use crate::telemetry::trace::write_hex;

/// What stands before a text: comma, key, colon and quote as one piece.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"").as_bytes()
    };
}

/// Writes the record as a JSON object. Facts that are unset are left out, so a line is as long as there is to say.
pub(super) fn write_json(out: &mut Vec<u8>, time: &[u8], record: &Record, settings: &Settings) {
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
        LogField::UpstreamAddr => {
            json_name(out, key!("upstream_addr"), record.last_asked().map(|last| &*last.addr));
        }
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
            if let Some(last) = record.last_asked() {
                out.extend_from_slice(b",\"upstream_duration\":");
                write_seconds(out, last.duration);
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
        LogField::UploadCut => {
            if record.upload_cut {
                out.extend_from_slice(b",\"upload_cut\":true");
            }
        }
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
    if let Some(status) = row.status {
        out.extend_from_slice(b",\"status\":");
        write_status(out, status);
    }
    json_name(out, key!("cause"), row.cause.as_deref());
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
