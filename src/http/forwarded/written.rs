//! `Forwarded` (RFC 7239), as it is written.

use http::header::{self, HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::elements::{ELEMENT_MAX, is_token_byte, well_formed};
use super::lines;

/// What an element tells of a connection: the peer, as `X-Forwarded-For` has it, and the scheme.
pub(super) fn element(address: &HeaderValue, proto: &HeaderValue) -> Box<str> {
    let [address, proto] = [address, proto].map(|value| String::from_utf8_lossy(value.as_bytes()));
    // Colons are no part of a token (RFC 7239 §6).
    let node = if address.contains(':') { format!("\"[{address}]\"") } else { address.into_owned() };
    format!("for={node};proto={proto}").into()
}

/// Adds an element at the end of `Forwarded`, which becomes one line. What stands ahead of a malformed element goes: a
/// quoted string that does not end there would take in what is written behind it, for some readers.
pub(super) fn append(headers: &mut HeaderMap, element: &str, host: Option<&HeaderValue>) {
    let mut kept: SmallVec<[&[u8]; 4]> = SmallVec::new();
    for line in lines(headers, &header::FORWARDED) {
        let (end, is_whole) = well_formed(line);
        if !end.is_empty() {
            kept.push(end);
        }
        if !is_whole {
            break;
        }
    }
    let mut list = Vec::with_capacity(128);
    for line in kept.into_iter().rev() {
        list.extend_from_slice(line);
        list.extend_from_slice(b", ");
    }
    let start = list.len();
    list.extend_from_slice(element.as_bytes());
    if let Some(host) = host {
        let before = list.len();
        list.extend_from_slice(b";host=");
        write_value(&mut list, host.as_bytes());
        if list.len() - start > ELEMENT_MAX {
            // Or nobody would read who asked.
            list.truncate(before);
        }
    }
    // Parts of lawful values make a lawful value.
    if let Ok(list) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        // Full at 32,768 names, which no request that passed the limits has.
        let _ = headers.try_insert(header::FORWARDED, list);
    }
}

/// Writes a token as it is, and anything else as a quoted string (RFC 9110 §5.6.4).
fn write_value(list: &mut Vec<u8>, value: &[u8]) {
    if !value.is_empty() && value.iter().all(|byte| is_token_byte(*byte)) {
        return list.extend_from_slice(value);
    }
    list.push(b'"');
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            list.push(b'\\');
        }
        list.push(*byte);
    }
    list.push(b'"');
}
