//! One walk over the headers of a request: what matters of them is remembered, and what two readers could take differently is
//! refused.

use std::fmt;

use http::header::{HeaderMap, HeaderValue};

use super::kind::{Seen, classify};

/// What is wrong with the headers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// This header must not come twice: the next reader might take the other one.
    Duplicate(&'static str),
    /// `Content-Length` is not one decimal number (RFC 9112 §6.3).
    LengthInvalid,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1).
    LengthAndCoding,
    /// `Transfer-Encoding` is not just `chunked`.
    CodingInvalid,
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(name) => write!(f, "the header `{name}` comes more than once"),
            Self::LengthInvalid => f.write_str("`content-length` is not one decimal number"),
            Self::LengthAndCoding => f.write_str("both `content-length` and `transfer-encoding`"),
            Self::CodingInvalid => f.write_str("`transfer-encoding` is not `chunked`"),
        }
    }
}

impl std::error::Error for HeaderFault {}

/// What one walk over the headers of a request found.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// The names that matter.
    pub seen: Seen,
    /// `Connection: upgrade`.
    pub connection_upgrade: bool,
    /// The value of `Upgrade`, when `Connection` names it and it comes once. Whether to honour it is for others.
    pub upgrade: Option<HeaderValue>,
    /// `TE` holds `trailers`.
    pub te_trailers: bool,
    /// Lines.
    pub count: usize,
    /// `Connection` names something beside `close`, `keep-alive` and what is removed anyway.
    pub(super) names_others: bool,
}

impl Inspected {
    pub(super) fn note_connection(&mut self, value: &HeaderValue) {
        for option in options(value) {
            if option.eq_ignore_ascii_case(b"upgrade") {
                self.connection_upgrade = true;
            } else if ![&b"close"[..], b"keep-alive", b"te"].iter().any(|known| option.eq_ignore_ascii_case(known)) {
                self.names_others = true;
            }
        }
    }
}

/// Walks the headers of a request once: remembers what matters and refuses what two readers could take differently.
///
/// # Errors
/// A `HeaderFault`, to be answered with 400.
pub fn inspect_request(headers: &HeaderMap) -> Result<Inspected, HeaderFault> {
    let mut found = Inspected::default();
    let mut upgrade = None;
    for (name, value) in headers {
        found.count += 1;
        let kind = classify(name);
        if kind == Seen::NOTHING {
            continue;
        }
        let again = found.seen.has(kind);
        found.seen.add(kind);
        match kind {
            Seen::CONNECTION => found.note_connection(value),
            Seen::UPGRADE => upgrade = (!again).then_some(value),
            Seen::TE => found.te_trailers |= options(value).any(is_trailers),
            Seen::COOKIE if again => found.seen.add(Seen::COOKIE_CRUMBS),
            Seen::HOST if again => return Err(HeaderFault::Duplicate("host")),
            Seen::AUTHORIZATION if again => return Err(HeaderFault::Duplicate("authorization")),
            Seen::CONTENT_TYPE if again => return Err(HeaderFault::Duplicate("content-type")),
            Seen::CONTENT_LENGTH if again => return Err(HeaderFault::Duplicate("content-length")),
            Seen::CONTENT_LENGTH if !is_length(value.as_bytes()) => return Err(HeaderFault::LengthInvalid),
            Seen::TRANSFER_ENCODING if again || !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                return Err(HeaderFault::CodingInvalid);
            }
            _ => {}
        }
    }
    if found.seen.has(Seen::CONTENT_LENGTH) && found.seen.has(Seen::TRANSFER_ENCODING) {
        return Err(HeaderFault::LengthAndCoding);
    }
    if found.connection_upgrade {
        found.upgrade = upgrade.cloned();
    }
    Ok(found)
}

/// Digits alone, and few enough for 64 bits.
fn is_length(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_digit) && std::str::from_utf8(value).is_ok_and(|digits| digits.parse::<u64>().is_ok())
}

/// Whether an element of `TE` is `trailers`, with or without parameters (RFC 9110 §10.1.4).
fn is_trailers(option: &[u8]) -> bool {
    let token = option.split(|byte| *byte == b';').next().unwrap_or_default();
    token.trim_ascii_end().eq_ignore_ascii_case(b"trailers")
}

/// The elements of a comma-separated value; empty ones are skipped (RFC 9110 §5.6.1.2).
pub(super) fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}
