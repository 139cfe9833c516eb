//! The head of an answer, or of an interim one.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;
use memchr::memchr;
use smallvec::SmallVec;

use super::trimmed;
use crate::http::field_name;
use crate::http::framing::LENGTH_MAX;

/// How large the head of an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// Header lines.
    pub fields_max: usize,
    /// Bytes of status line and headers together, with the empty line that ends them.
    pub bytes_max: usize,
}

/// What is wrong with the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is larger than allowed.
    #[error("the head is too large")]
    TooLarge,
    /// A line that ends with LF alone.
    #[error("a line does not end with CR LF")]
    LineEnd,
    /// The first line is not `HTTP/1.0` or `HTTP/1.1`, a status of three digits, and perhaps a reason.
    #[error("the first line is no status line")]
    StatusLine,
    /// A line that is not a name, a colon and a value.
    #[error("a line is no header field")]
    Field,
    /// A `Content-Length` that is repeated or no number below 2^63.
    #[error("Content-Length is repeated or invalid")]
    Length,
    /// A `Transfer-Encoding` that is not `chunked` alone, or stands beside a length or in HTTP/1.0.
    #[error("Transfer-Encoding is not chunked alone")]
    Coding,
}

/// What was asked for, as far as it decides how the answer is read (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// An answer to `HEAD` has no body.
    Head,
    /// A positive answer to `CONNECT` has no end.
    Connect,
    /// Everything else.
    #[default]
    Other,
}

/// The head of an answer, perhaps of an interim one.
#[derive(Debug)]
pub struct Head {
    /// What it says.
    pub parts: response::Parts,
    /// How the body after it is delimited.
    pub framing: Framing,
    /// Whether the connection carries no other exchange after this one.
    pub is_last: bool,
}

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All bytes up to the end of the connection.
    Close,
}

/// So many lines need no allocation.
const LINES_INLINE: usize = 32;

/// Reads a head line by line while it arrives, and looks at each byte once.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Where each line that is here has its LF.
    ends: SmallVec<[usize; LINES_INLINE]>,
    /// Up to where the bytes were searched for one.
    searched: usize,
}

impl HeadReader {
    /// Goes on where the last call stopped, with `buffer` grown meanwhile. Takes a head that is whole out of it, and is new
    /// then. The fields come in `spare`, which is empty.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn read(
        &mut self,
        buffer: &mut BytesMut,
        bounds: HeadBounds,
        asked: Asked,
        spare: &mut HeaderMap,
    ) -> Result<Option<Head>, Fault> {
        let Some(end) = self.scan(buffer, bounds)? else { return Ok(None) };
        let bytes = buffer.split_to(end).freeze();
        let head = parse(&bytes, &self.ends, asked, std::mem::take(spare))?;
        self.reset();
        Ok(Some(head))
    }

    /// Forgets what it saw.
    pub fn reset(&mut self) {
        self.ends.clear();
        self.searched = 0;
    }

    /// Where the head ends.
    fn scan(&mut self, bytes: &[u8], bounds: HeadBounds) -> Result<Option<usize>, Fault> {
        const START: &[u8] = b"HTTP/1.";
        // What is no HTTP is told at its first bytes, not after a timeout.
        if self.ends.is_empty() && !bytes.iter().zip(START).all(|(byte, expected)| byte == expected) {
            return Err(Fault::StatusLine);
        }
        let mut start = self.ends.last().map_or(0, |end| end + 1);
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + found;
            if end >= bounds.bytes_max {
                return Err(Fault::TooLarge);
            }
            if end == 0 || bytes[end - 1] != b'\r' {
                return Err(Fault::LineEnd);
            }
            self.searched = end + 1;
            if end - 1 == start {
                return Ok(Some(end + 1));
            }
            start = end + 1;
            self.ends.push(end);
            // The first is the status line.
            if self.ends.len() > bounds.fields_max + 1 {
                return Err(Fault::TooLarge);
            }
        }
        self.searched = bytes.len();
        // At least one more byte has to come.
        if bytes.len() >= bounds.bytes_max { Err(Fault::TooLarge) } else { Ok(None) }
    }
}

/// Reads a head whose lines end there.
fn parse(bytes: &Bytes, ends: &[usize], asked: Asked, mut fields: HeaderMap) -> Result<Head, Fault> {
    let Some((&first, rest)) = ends.split_first() else { return Err(Fault::StatusLine) };
    let (version, status, reason) = status_line(&bytes[..first - 1]).ok_or(Fault::StatusLine)?;
    let (mut length, mut is_chunked) = (None, false);
    let mut is_last = version == Version::HTTP_10;
    fields.try_reserve(rest.len()).map_err(|_| Fault::TooLarge)?;
    let mut start = first + 1;
    for &end in rest {
        let line = &bytes[start..end - 1];
        let colon = field_name::end(line).ok_or(Fault::Field)?;
        let name = field_name::read(&line[..colon]).map_err(|_| Fault::Field)?;
        let (from, to) = trimmed(line, colon + 1);
        let value = &line[from..to];
        if name == CONTENT_LENGTH {
            if length.is_some() {
                return Err(Fault::Length);
            }
            length = Some(number(value).ok_or(Fault::Length)?);
        } else if name == TRANSFER_ENCODING {
            if is_chunked || version == Version::HTTP_10 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Coding);
            }
            is_chunked = true;
        } else if name == CONNECTION {
            is_last |= says_close(value);
        }
        // It refuses control bytes, a CR within a line among them.
        let value = HeaderValue::from_maybe_shared(bytes.slice(start + from..start + to)).map_err(|_| Fault::Field)?;
        fields.try_append(name, value).map_err(|_| Fault::TooLarge)?;
        start = end + 1;
    }
    let is_connected = asked == Asked::Connect && status.is_success();
    let framing = match length {
        Some(_) if is_chunked => return Err(Fault::Coding),
        _ if is_bodiless(status) || asked == Asked::Head || is_connected => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None if is_chunked => Framing::Chunked,
        None => Framing::Close,
    };
    let mut parts = Response::new(()).into_parts().0;
    (parts.version, parts.status, parts.headers) = (version, status, fields);
    if !reason.is_empty() && status.canonical_reason().is_none_or(|canonical| canonical.as_bytes() != reason) {
        let reason = ReasonPhrase::try_from(reason).map_err(|_| Fault::StatusLine)?;
        parts.extensions.insert(reason);
    }
    let is_last = is_last || is_connected || framing == Framing::Close;
    Ok(Head { parts, framing, is_last })
}

/// RFC 9110 §6.4.1. What follows a 101 is no HTTP.
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Version, status and reason (RFC 9112 §4). The blank before a reason that is not there may be missing too.
fn status_line(line: &[u8]) -> Option<(Version, StatusCode, &[u8])> {
    let (version, rest) = line.strip_prefix(b"HTTP/1.")?.split_first()?;
    let version = match version {
        b'1' => Version::HTTP_11,
        b'0' => Version::HTTP_10,
        _ => return None,
    };
    let (digits, rest) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] => reason,
        _ => return None,
    };
    let is_text = reason.iter().all(|&byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t');
    // Takes three digits from 100.
    let status = StatusCode::from_bytes(digits).ok()?;
    is_text.then_some((version, status, reason))
}

fn number(digits: &[u8]) -> Option<u64> {
    // 19 digits cannot overflow 64 bits.
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (number <= LENGTH_MAX).then_some(number)
}

/// Whether `close` is among the options of a `Connection` line.
pub fn says_close(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}
