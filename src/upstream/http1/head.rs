//! The head of a request on the wire: written, and read back to send it once more.
//!
//! Whoever may have to send a request again must keep it. A copy of the header map cost 2,000 instructions per request, and
//! is needed once in a long while; the bytes that were sent are there anyway.

use std::io::Write;

use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::http::reply::says_close;

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Delimited {
    /// By so many bytes. A request without a body says nothing of it, unless its fields do.
    Length(u64),
    /// By chunks.
    #[default]
    Chunked,
}

/// What a head says beside what it was told to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// That the connection ends with the exchange.
    pub(super) is_last: bool,
    /// Which fields follow the body.
    pub(super) has_trailer: bool,
}

/// Writes a head. What its fields say of the body's length does not count: `delimited` does.
pub(super) fn write<B>(out: &mut Vec<u8>, request: &Request<B>, delimited: Delimited) -> Said {
    /// The bytes that most heads do with. The buffer goes round: to add up what this one takes would cost each of them.
    const USUAL: usize = 1024;
    let headers = request.headers();
    let target = request.uri().path_and_query().map(|target| target.as_str());
    out.reserve(USUAL);
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    match target {
        Some(target) => {
            // `http://host?query` has a path all the same (RFC 9112 §3.2.1).
            if target.starts_with('?') {
                out.push(b'/');
            }
            out.extend_from_slice(target.as_bytes());
        }
        // Only CONNECT has a target without a path. Writing to memory does not fail.
        None => drop(write!(out, "{}", request.uri())),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut said = Said::default();
    let mut has_length = false;
    for (name, value) in headers {
        match name {
            name if *name == CONTENT_LENGTH => {
                has_length = true;
                continue;
            }
            name if *name == TRANSFER_ENCODING => continue,
            name if *name == CONNECTION => said.is_last |= says_close(value.as_bytes()),
            // Without chunks nothing can follow the body.
            name if *name == TRAILER && !matches!(delimited, Delimited::Chunked) => continue,
            name if *name == TRAILER => said.has_trailer = true,
            _ => {}
        }
        field(out, name, value);
    }
    match delimited {
        Delimited::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Delimited::Length(0) if !has_length => {}
        Delimited::Length(length) => drop(write!(out, "content-length: {length}\r\n")),
    }
    out.extend_from_slice(b"\r\n");
    said
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields behind a body, as far as they were announced.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    for (name, value) in trailers {
        if announced.contains(name) {
            field(out, name, value);
        }
    }
}

/// Reads a head that [`write()`] wrote. None if it is none.
pub(super) fn read(bytes: &[u8]) -> Option<Parts> {
    let text = bytes.strip_suffix(b"\r\n\r\n")?;
    let mut lines = lines(text);
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, rest) = first.split_once(' ')?;
    let target = rest.strip_suffix(" HTTP/1.1")?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = target.parse::<Uri>().ok()?;
    for line in lines {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        let value = value.strip_prefix(b": ")?;
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        request.headers_mut().try_append(name, value).ok()?;
    }
    Some(request.into_parts().0)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // No value has a line end within.
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_back_as_it_was() {
        let head = read(
            b"PUT /a%20b?c=d:e HTTP/1.1\r\nhost: app:80\r\nx-list: 1\r\nx-list: 2\r\nx-empty: \r\nx-odd: a: \xffb \r\n\r\n",
        );
        let head = head.unwrap();
        assert_eq!((head.method, head.uri), (Method::PUT, Uri::from_static("/a%20b?c=d:e")));
        let lines: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 5] =
            [("host", b"app:80"), ("x-list", b"1"), ("x-list", b"2"), ("x-empty", b""), ("x-odd", b"a: \xffb ")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_no_whole_head_is_none() {
        for bytes in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost\r\n\r\n", "GET /\r\n\r\n", "\r\n\r\n"] {
            assert!(read(bytes.as_bytes()).is_none(), "{bytes:?}");
        }
    }
}
