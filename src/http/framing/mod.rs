//! The strict rules of HTTP/1.1 request framing, without any IO: where a request's head ends, how its body is
//! delimited, and everything that is refused because two readers could take it in two ways.
//!
//! [`HeadScanner`] judges a head while it arrives, [`ChunkFollower`] follows a chunked body without changing it. Both give
//! the same verdict however the bytes are cut into reads. `server::gate` asks them of what clients send.
//!
//! Where RFC 9112 leaves a choice, the stricter reading is taken:
//! - an empty `Host` is refused (as nginx does), also where RFC 9112 §3.2 would let a client send one;
//! - a `Host` is a name of letters, digits, `-` and `_` without an empty label, or an address, for RFC 3986 §3.2.2 allows bytes
//!   that no name in use has; and a port, once announced by its colon, must be there;
//! - two `Content-Length` lines are refused even when they agree (RFC 9112 §6.3 lets a recipient merge them);
//! - HTTP/1.x versions other than 1.0 and 1.1 are refused.

mod chunks;
#[cfg(test)]
mod tests;
mod violation;

use memchr::memchr2;

pub use chunks::{ChunkFollower, EXTENSION_BYTES_MAX, Part, Step, TRAILER_BYTES_MAX, TRAILERS_MAX};
pub use violation::Violation;

/// The longest method. The longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
pub const METHOD_MAX: usize = 32;

/// The longest host, without the dot of the root (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 255;

/// Empty lines that are skipped before a request line (RFC 9112 §2.2 asks for at least one).
pub const LEADING_LINES_MAX: u8 = 2;

/// The longest target that the `http` crate can hold: it keeps offsets in 16 bits.
const TARGET_REPRESENTABLE: usize = u16::MAX as usize - 1;

/// What a request line holds besides method and target: two spaces, the version, CRLF.
const REQUEST_LINE_REST: usize = 1 + 1 + 8 + 2;

/// How large a request head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of request line and headers together, with the empty line that ends them. More is a 431.
    pub bytes_max: usize,
    /// Header lines. More is a 431.
    pub headers_max: usize,
    /// Bytes of one header's value, without the blanks around it. More is a 431.
    pub value_max: usize,
    /// Bytes of the request target; at most 65,534 count. More is a 414.
    pub target_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes_max: 32 * 1024, headers_max: 100, value_max: 16 * 1024, target_max: 8 * 1024 }
    }
}

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body: neither `Content-Length` nor `Transfer-Encoding` (RFC 9112 §6.3), or a length of 0.
    None,
    /// This many bytes, at least 1.
    Length(u64),
    /// Chunks; follow them with a [`ChunkFollower`].
    Chunked,
}

/// A complete and lawful request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the request line begins: behind the empty lines that were skipped.
    pub start: usize,
    /// Where the head ends and the body, or the next head, begins.
    pub end: usize,
    /// How the body is delimited.
    pub body: BodyFraming,
}

/// Judges `bytes` from their beginning: `None` when they hold no complete head yet.
///
/// For bytes that arrive in pieces keep a [`HeadScanner`].
///
/// # Errors
/// The first rule that the bytes break.
pub fn check_head(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Head>, Violation> {
    HeadScanner::default().scan(bytes, limits)
}

/// Judges a head line by line while it arrives, and looks at each byte once.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    /// Where the line that is not finished yet begins.
    line: usize,
    /// Up to where that line has been searched for its end.
    searched: usize,
    /// Where the request line begins.
    start: usize,
    headers: usize,
    skipped_lines: u8,
    has_request_line: bool,
    is_http10: bool,
    has_host: bool,
    is_chunked: bool,
    length: Option<u64>,
}

impl HeadScanner {
    /// Goes on where the last call stopped. `bytes` is everything since the scanner was new, so it only grows.
    /// Once a head or a violation is found, the scanner is done: go on with a new one.
    ///
    /// # Errors
    /// The first rule that the bytes break, however they were cut into calls.
    pub fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<Head>, Violation> {
        loop {
            self.check_first_byte(bytes)?;
            let Some(found) = bytes.get(self.searched..).and_then(|rest| memchr2(b'\r', b'\n', rest)) else {
                self.searched = bytes.len();
                return self.check_size(bytes, bytes.len(), limits).map(|()| None);
            };
            let at = self.searched + found;
            if bytes[at] == b'\n' {
                self.check_size(bytes, at, limits)?;
                return Err(Violation::BareLineEnd);
            }
            let Some(&next) = bytes.get(at + 1) else {
                self.searched = at;
                return self.check_size(bytes, bytes.len(), limits).map(|()| None);
            };
            self.check_size(bytes, at + 1, limits)?;
            if next != b'\n' {
                return Err(Violation::BareLineEnd);
            }
            let line = &bytes[self.line..at];
            self.line = at + 2;
            self.searched = at + 2;
            match (self.has_request_line, line.is_empty()) {
                (false, true) => {
                    self.skipped_lines += 1;
                    if self.skipped_lines > LEADING_LINES_MAX {
                        return Err(Violation::LeadingLines);
                    }
                    self.start = self.line;
                }
                (false, false) => self.request_line(line, limits)?,
                (true, false) => self.header(line, limits)?,
                (true, true) => return self.finish(&bytes[self.start..self.line]).map(Some),
            }
        }
    }

    /// Bytes of empty lines before the head: with no more than these, no request has begun.
    pub fn leading(&self) -> usize {
        self.start
    }

    // A TLS or other binary client on a plain port is told at its first byte, not after a timeout.
    fn check_first_byte(&self, bytes: &[u8]) -> Result<(), Violation> {
        match bytes.get(self.line) {
            Some(&b) if !self.has_request_line && !is(b, TOKEN) && b != b'\r' && b != b'\n' => Err(Violation::Method),
            _ => Ok(()),
        }
    }

    /// Refuses when the byte at `position` is one too many. With the length of the bytes so far as the position it asks
    /// whether the head, which needs at least one more byte, can still be lawful.
    fn check_size(&self, bytes: &[u8], position: usize, limits: &HeadLimits) -> Result<(), Violation> {
        if !self.has_request_line {
            let line_max = METHOD_MAX + target_max(limits) + REQUEST_LINE_REST;
            if line_max < limits.bytes_max - limits.bytes_max.min(self.line) {
                if position - self.line < line_max {
                    return Ok(());
                }
                let method = &bytes[self.line..self.line + METHOD_MAX + 1];
                return Err(if method.contains(&b' ') { Violation::TargetTooLong } else { Violation::Method });
            }
        }
        if position < limits.bytes_max { Ok(()) } else { Err(Violation::HeadTooLarge) }
    }

    fn request_line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Violation> {
        let method_len = line.iter().position(|&b| !is(b, TOKEN)).unwrap_or(line.len());
        if method_len == 0 || method_len > METHOD_MAX {
            return Err(Violation::Method);
        }
        let (method, rest) = line.split_at(method_len);
        let Some((b' ', rest)) = rest.split_first() else {
            // A blank or nothing is a question of form; any other byte makes the method no token.
            let is_form = matches!(rest.first(), None | Some(b'\t'));
            return Err(if is_form { Violation::RequestLine } else { Violation::Method });
        };
        let target_len = rest.iter().position(|&b| b == b' ').ok_or(Violation::RequestLine)?;
        let (target, version) = rest.split_at(target_len);
        if target.is_empty() {
            return Err(Violation::RequestLine);
        }
        if target.len() > target_max(limits) {
            return Err(Violation::TargetTooLong);
        }
        self.is_http10 = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Violation::Version);
            }
            _ => return Err(Violation::RequestLine),
        };
        self.has_request_line = true;
        if is_target(method, target) { Ok(()) } else { Err(Violation::Target) }
    }

    fn header(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Violation> {
        self.headers += 1;
        if self.headers > limits.headers_max {
            return Err(Violation::TooManyHeaders);
        }
        let name_len = line.iter().position(|&b| !is(b, TOKEN)).ok_or(Violation::HeaderName)?;
        let (name, rest) = line.split_at(name_len);
        match rest.first() {
            Some(b':') if !name.is_empty() => {}
            Some(b' ' | b'\t') if name.is_empty() => return Err(Violation::Folding),
            _ => return Err(Violation::HeaderName),
        }
        // What is no longer as a whole has no blanks to be looked for.
        if rest.len() > limits.value_max && trim(&rest[1..]).len() > limits.value_max {
            return Err(Violation::HeaderTooLong);
        }
        // The length alone clears nearly every header of a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(trim(&rest[1..])),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(trim(&rest[1..])),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(trim(&rest[1..])),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.has_host {
            return Err(Violation::HostRepeated);
        }
        self.has_host = true;
        if is_authority(value) { Ok(()) } else { Err(Violation::HostInvalid) }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.length.is_some() {
            return Err(Violation::LengthRepeated);
        }
        // 19 digits cannot overflow 64 bits.
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err(Violation::LengthInvalid);
        }
        let length = value.iter().fold(0_u64, |sum, &b| sum * 10 + u64::from(b - b'0'));
        if length > LENGTH_MAX {
            return Err(Violation::LengthInvalid);
        }
        self.length = Some(length);
        if self.is_chunked { Err(Violation::LengthAndCoding) } else { Ok(()) }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.is_http10 {
            return Err(Violation::CodingInHttp10);
        }
        if self.is_chunked {
            return Err(Violation::CodingRepeated);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(if is_unsupported_coding(value) {
                Violation::CodingUnsupported
            } else {
                Violation::CodingInvalid
            });
        }
        self.is_chunked = true;
        if self.length.is_some() { Err(Violation::LengthAndCoding) } else { Ok(()) }
    }

    fn finish(&self, head: &[u8]) -> Result<Head, Violation> {
        if has_control(head) {
            return Err(Violation::ControlByte);
        }
        if !self.has_host && !self.is_http10 {
            return Err(Violation::HostMissing);
        }
        let body = match self.length {
            _ if self.is_chunked => BodyFraming::Chunked,
            None | Some(0) => BodyFraming::None,
            Some(length) => BodyFraming::Length(length),
        };
        Ok(Head { start: self.start, end: self.line, body })
    }
}

/// The end of what an `i64` holds, so that no reader behind us overflows.
pub(super) const LENGTH_MAX: u64 = i64::MAX as u64;

fn target_max(limits: &HeadLimits) -> usize {
    limits.target_max.min(TARGET_REPRESENTABLE)
}

/// The four forms of RFC 9112 §3.2.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if method == b"CONNECT" {
        return is_authority(target) && target.contains(&b':') && !target.ends_with(b"]");
    }
    match target {
        [b'/', ..] => is_path_and_query(target),
        b"*" => method == b"OPTIONS",
        _ => {
            let Some(rest) = strip_scheme(target) else { return false };
            let authority_len = rest.iter().position(|&b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(authority_len);
            is_authority(authority) && is_path_and_query(path)
        }
    }
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// Visible ASCII without `#` and without what `http::Uri` does not take, so that no request gets past this gate only to be
/// refused behind it.
fn is_path_and_query(bytes: &[u8]) -> bool {
    let query = bytes.iter().position(|&b| !is(b, PATH)).unwrap_or(bytes.len());
    match bytes[query..].split_first() {
        None => true,
        Some((b'?', query)) => is_query(query),
        Some(_) => false,
    }
}

/// The method that a head begins with, lawful or not: its first word, if that could be one.
pub fn method_of(head: &[u8]) -> Option<&[u8]> {
    let start = head.iter().position(|&b| b != b'\r' && b != b'\n')?;
    let line = &head[start..];
    let end = line.iter().take(METHOD_MAX + 1).position(|&b| !is(b, TOKEN))?;
    (end > 0 && line[end] == b' ').then(|| &line[..end])
}

/// The path that a head asks for, lawful or not, as far as it is there: what begins with a slash behind the method.
pub fn path_of(head: &[u8]) -> Option<&[u8]> {
    let start = head.iter().position(|&b| b != b'\r' && b != b'\n')?;
    let target = head[start..].get(method_of(head)?.len() + 1..).filter(|target| target.starts_with(b"/"))?;
    let end = target.iter().position(|b| matches!(b, b'?' | b'#' | b' ' | b'\r' | b'\n'));
    Some(&target[..end.unwrap_or(target.len())])
}

/// Whether a query holds nothing but what belongs in one. HTTP/2 has no gate, and `http::Uri` takes more.
pub fn is_query(query: &[u8]) -> bool {
    query.iter().all(|&b| is(b, QUERY))
}

/// `host [":" port]` (RFC 9110 §7.2) without user information.
fn is_authority(bytes: &[u8]) -> bool {
    let (host_is_valid, rest) = match bytes {
        [b'[', inner @ ..] => {
            let Some(end) = inner.iter().position(|&b| b == b']') else {
                return false;
            };
            let address = std::str::from_utf8(&inner[..end]).ok().and_then(|a| a.parse::<std::net::Ipv6Addr>().ok());
            (address.is_some(), &inner[end + 1..])
        }
        _ => {
            // One pass: this runs for every request.
            let (mut end, mut last, mut is_whole) = (0, b'.', true);
            while let Some(&b) = bytes.get(end).filter(|&&b| is(b, HOST)) {
                // No label is empty.
                is_whole &= b != b'.' || last != b'.';
                (end, last) = (end + 1, b);
            }
            let name = end - usize::from(last == b'.' && end > 0);
            (is_whole && (1..=HOST_BYTES_MAX).contains(&name), &bytes[end..])
        }
    };
    let port_is_valid = match rest {
        [] => true,
        [b':', port @ ..] => is_port(port),
        _ => false,
    };
    host_is_valid && port_is_valid
}

fn is_port(digits: &[u8]) -> bool {
    (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0_u32, |sum, &b| sum * 10 + u32::from(b - b'0')) <= u32::from(u16::MAX)
}

/// A list of codings that we could follow to its end if we knew them: tokens, `chunked` last and only there. Everything
/// else has no reliable end (RFC 9112 §6.3), which is the client's fault and not a lack of ours.
fn is_unsupported_coding(value: &[u8]) -> bool {
    let mut codings = value.split(|&b| b == b',').map(trim).rev();
    codings.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"))
        && codings.all(|coding| {
            !coding.is_empty() && coding.iter().all(|&b| is(b, TOKEN)) && !coding.eq_ignore_ascii_case(b"chunked")
        })
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a head whose line ends are known to be right holds any other control byte than HTAB.
fn has_control(bytes: &[u8]) -> bool {
    // No early exit within a block: the compiler then tests its 16 bytes at once.
    let (blocks, rest) = bytes.as_chunks::<16>();
    let any = |block: &[u8]| {
        block
            .iter()
            .fold(false, |any, &b| any | ((b < b' ') & (b != b'\t') & (b != b'\r') & (b != b'\n')) | (b == 0x7f))
    };
    blocks.iter().any(|block| any(block)) || any(rest)
}

// What a byte may be part of.
const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            )
        {
            classes[i] |= TOKEN;
        }
        if matches!(b, 0x21 | 0x22 | 0x24..=0x3b | 0x3d | 0x40..=0x5f | 0x61..=0x7e) {
            classes[i] |= PATH;
        }
        if matches!(b, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e) {
            classes[i] |= QUERY;
        }
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_') {
            classes[i] |= HOST;
        }
        i += 1;
    }
    classes
};

fn is(b: u8, class: u8) -> bool {
    CLASSES[usize::from(b)] & class != 0
}
