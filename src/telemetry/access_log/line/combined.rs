//! A line in Apache's combined format.

use http::{HeaderName, Version, header};

use super::ClockText;
use super::values::{protocol, write_address, write_integer};
use crate::telemetry::access_log::redact::write_query;
use crate::telemetry::access_log::settings::Settings;
use crate::telemetry::record::Record;
use crate::telemetry::trace::write_hex;

/// Writes the record in Apache's "combined" format: `%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\"`.
/// What is not known is `-`. The line differs from Apache's in what the request's first line shows: the path is the
/// normalised one, and the query is masked.
pub(super) fn write_combined(out: &mut Vec<u8>, time: &[u8; ClockText::LENGTH], record: &Record, settings: &Settings) {
    match record.client {
        Some(client) => write_address(out, client),
        None => out.push(b'-'),
    }
    // Neither identd nor anybody else has named a user.
    out.extend_from_slice(b" - - [");
    write_common_time(out, time);
    out.extend_from_slice(b"] \"");
    if record.path().is_empty() {
        // The head could not be read, not even its first line.
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

#[cfg(test)]
mod tests {
    use super::*;

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
