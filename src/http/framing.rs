//! The strict rules of HTTP/1.1 request framing, without any IO: where a request's head ends, how its body is
//! delimited, and everything that is refused because two readers could take it in two ways.
//!
//! [`HeadScanner`] judges a head while it arrives, [`ChunkFollower`] follows a chunked body without changing it. Both give
//! the same verdict however the bytes are cut into reads. `server::gate` asks them of what clients send.
//!
//! Where RFC 9112 leaves a choice, the stricter reading is taken:
//! - an empty `Host` is refused (as nginx does), also where RFC 9112 §3.2 would let a client send one;
//! - a `Host` may hold no comma and no percent sign, and a port, once announced by its colon, must be there;
//! - two `Content-Length` lines are refused even when they agree (RFC 9112 §6.3 lets a recipient merge them);
//! - HTTP/1.x versions other than 1.0 and 1.1 are refused.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;

use memchr::memchr2;

/// The longest method. The longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
pub const METHOD_MAX: usize = 32;

/// Empty lines that are skipped before a request line (RFC 9112 §2.2 asks for at least one).
pub const LEADING_LINES_MAX: u8 = 2;

/// Bytes of chunk extensions in one whole body. Nobody uses them but those who smuggle with them (CVE-2025-55315), or who
/// make a body of one byte per chunk cost many.
pub const EXTENSION_BYTES_MAX: u32 = 8 * 1024;

/// Fields in one trailer section.
pub const TRAILERS_MAX: u16 = 64;

/// Bytes of one trailer section.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;

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
    /// Bytes of the request target; at most 65,534 count. More is a 414.
    pub target_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes_max: 32 * 1024, headers_max: 100, target_max: 8 * 1024 }
    }
}

/// Why a request is refused, or why its connection ends.
///
/// Where it travels as the inner error of an [`io::Error`], [`Violation::of`] finds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A CR without LF, or an LF without CR (RFC 9112 §2.2).
    BareLineEnd,
    /// More than [`LEADING_LINES_MAX`] empty lines before the request line.
    LeadingLines,
    /// A control byte other than HTAB in the head (RFC 9110 §5.5).
    ControlByte,
    /// The request line is not `method SP target SP version` (RFC 9112 §3).
    RequestLine,
    /// The method is not a token, or too long (RFC 9110 §9.1).
    Method,
    /// The target has a byte that does not belong there, or a form that its method does not have (RFC 9112 §3.2).
    Target,
    /// The target is longer than allowed.
    TargetTooLong,
    /// A version other than HTTP/1.0 and HTTP/1.1 (RFC 9110 §2.5).
    Version,
    /// A header line whose name is not a token directly followed by a colon (RFC 9112 §5.1).
    HeaderName,
    /// A header line that continues the one before it (RFC 9112 §5.2).
    Folding,
    /// More header lines than allowed.
    TooManyHeaders,
    /// More bytes in the head than allowed.
    HeadTooLarge,
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    HostMissing,
    /// More than one `Host` (RFC 9112 §3.2).
    HostRepeated,
    /// A `Host` that is not `host [":" port]` (RFC 9110 §7.2).
    HostInvalid,
    /// A `Content-Length` that is not a number below 2^63 (RFC 9110 §8.6).
    LengthInvalid,
    /// More than one `Content-Length`.
    LengthRepeated,
    /// A `Transfer-Encoding` that does not end in `chunked` exactly once (RFC 9112 §6.3).
    CodingInvalid,
    /// A well-formed `Transfer-Encoding` with a coding besides `chunked` (RFC 9112 §6.1).
    CodingUnsupported,
    /// More than one `Transfer-Encoding` line.
    CodingRepeated,
    /// `Transfer-Encoding` in HTTP/1.0 (RFC 9112 §6.1).
    CodingInHttp10,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.3).
    LengthAndCoding,
    /// A chunk size that is not 1 to 16 hexadecimal digits for a number below 2^63 (RFC 9112 §7.1).
    ChunkSize,
    /// A malformed chunk extension (RFC 9112 §7.1.1).
    ChunkExtension,
    /// More than [`EXTENSION_BYTES_MAX`] bytes of chunk extensions.
    ChunkExtensionsTooLarge,
    /// Chunk data that is longer than its size says, or does not end in CRLF (RFC 9112 §7.1).
    ChunkEnd,
    /// A malformed trailer field, or one that may not be sent as a trailer (RFC 9110 §6.5.1).
    Trailer,
    /// More than [`TRAILERS_MAX`] trailer fields or [`TRAILER_BYTES_MAX`] bytes of them.
    TrailersTooLarge,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The body paused for too long.
    BodyTimeout,
    /// The client read nothing of the response for too long.
    WriteTimeout,
    /// The client read the response too slowly.
    WriteTooSlow,
}

impl Violation {
    /// The status of the refusal. [`Violation::WriteTimeout`] and [`Violation::WriteTooSlow`] have one too, though no client
    /// will read it.
    pub fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::TooManyHeaders | Self::HeadTooLarge | Self::TrailersTooLarge => 431,
            Self::CodingUnsupported => 501,
            Self::Version => 505,
            Self::HeadTimeout | Self::BodyTimeout | Self::WriteTimeout | Self::WriteTooSlow => 408,
            _ => 400,
        }
    }

    /// A stable name in kebab-case, for logs, metrics and problem types.
    pub fn slug(self) -> &'static str {
        self.words().0
    }

    /// One sentence for the client. It repeats nothing of what the client sent.
    pub fn detail(self) -> &'static str {
        self.words().1
    }

    /// Finds the violation in an error that passed through hyper or a body, looking into every source.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(violation) = error.downcast_ref::<Self>() {
                return Some(*violation);
            }
            // `io::Error::source` skips the error that it carries and answers with the source of that one.
            let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match carried {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        None
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BareLineEnd => ("bare-line-end", "A line must end with CR LF, and neither may stand alone."),
            Self::LeadingLines => ("leading-lines", "There are too many empty lines before the request line."),
            Self::ControlByte => ("control-byte", "The request head contains a control byte."),
            Self::RequestLine => ("request-line", "The request line is not a method, a target and a version."),
            Self::Method => ("method-invalid", "The method is not a token or is too long."),
            Self::Target => ("target-invalid", "The request target is malformed or does not fit the method."),
            Self::TargetTooLong => ("target-too-long", "The request target is too long."),
            Self::Version => ("version-unsupported", "Only HTTP/1.0 and HTTP/1.1 are spoken in this form."),
            Self::HeaderName => ("header-name", "A header line does not begin with a valid name and a colon."),
            Self::Folding => ("header-folding", "A header line must not begin with white space."),
            Self::TooManyHeaders => ("headers-too-many", "The request has too many header lines."),
            Self::HeadTooLarge => ("head-too-large", "The request line and headers are too large."),
            Self::HostMissing => ("host-missing", "The request has no Host header."),
            Self::HostRepeated => ("host-repeated", "The request has more than one Host header."),
            Self::HostInvalid => ("host-invalid", "The Host header is not a host with an optional port."),
            Self::LengthInvalid => ("content-length-invalid", "Content-Length is not a valid number."),
            Self::LengthRepeated => ("content-length-repeated", "The request has more than one Content-Length header."),
            Self::CodingInvalid => ("transfer-encoding-invalid", "Transfer-Encoding must be chunked and nothing else."),
            Self::CodingUnsupported => {
                ("transfer-encoding-unsupported", "Only the chunked transfer coding is supported.")
            }
            Self::CodingRepeated => {
                ("transfer-encoding-repeated", "The request has more than one Transfer-Encoding header.")
            }
            Self::CodingInHttp10 => ("transfer-encoding-in-http10", "HTTP/1.0 has no Transfer-Encoding."),
            Self::LengthAndCoding => {
                ("length-and-transfer-encoding", "The request has both Content-Length and Transfer-Encoding.")
            }
            Self::ChunkSize => ("chunk-size", "A chunk size is not a valid hexadecimal number."),
            Self::ChunkExtension => ("chunk-extension", "A chunk extension is malformed."),
            Self::ChunkExtensionsTooLarge => ("chunk-extensions-too-large", "The chunk extensions are too large."),
            Self::ChunkEnd => ("chunk-end", "The data of a chunk does not end where its size says."),
            Self::Trailer => ("trailer-invalid", "A trailer field is malformed or not allowed in a trailer."),
            Self::TrailersTooLarge => ("trailers-too-large", "The trailer section is too large."),
            Self::HeadTimeout => ("head-timeout", "The request line and headers did not arrive in time."),
            Self::BodyTimeout => ("body-timeout", "The request body paused for too long."),
            Self::WriteTimeout => ("write-timeout", "The response was not read in time."),
            Self::WriteTooSlow => ("write-too-slow", "The response was read too slowly."),
        }
    }

    fn kind(self) -> io::ErrorKind {
        match self.status() {
            408 => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::InvalidData,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl Error for Violation {}

impl From<Violation> for io::Error {
    fn from(violation: Violation) -> Self {
        Self::new(violation.kind(), violation)
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
            let end = bytes.iter().position(|&b| !is(b, HOST)).unwrap_or(bytes.len());
            (end > 0, &bytes[end..])
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
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
            )
        {
            classes[i] |= HOST;
        }
        i += 1;
    }
    classes
};

fn is(b: u8, class: u8) -> bool {
    CLASSES[usize::from(b)] & class != 0
}

/// How far a [`ChunkFollower`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that belong to the body: all of them unless the body ended before.
    pub consumed: usize,
    /// Whether the body is over, trailers and final empty line included.
    pub is_done: bool,
}

/// A part of a chunked body, see [`ChunkFollower::part`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes of the input that belong to the body.
    pub consumed: usize,
    /// Those of them that are data.
    pub data: Range<usize>,
    /// Whether the body is over, trailers and final empty line included.
    pub is_done: bool,
}

/// Follows a chunked body (RFC 9112 §7.1) to its end.
#[derive(Clone, Debug)]
pub struct ChunkFollower {
    place: Place,
    /// The size that is being read, then what is left of the chunk's data.
    left: u64,
    size_digits: u8,
    extension_bytes: u32,
    trailers: u16,
    trailer_bytes: u32,
    /// The name of the trailer that is being read, as far as it can be one of those refused.
    name: [u8; NAME_MAX],
    name_len: u8,
}

/// As long as the longest of [`NOT_IN_TRAILERS`].
const NAME_MAX: usize = 17;

/// Fields that frame or route a message and have no business behind it (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [&[u8]; 5] = [b"transfer-encoding", b"content-length", b"host", b"connection", b"trailer"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size,
    // Blanks behind a size or an extension: lawful only when a semicolon follows (RFC 9112 §7.1.1, BWS).
    BeforeSemicolon,
    ExtensionStart,
    ExtensionName,
    AfterExtensionName,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Default for ChunkFollower {
    fn default() -> Self {
        Self {
            place: Place::Size,
            left: 0,
            size_digits: 0,
            extension_bytes: 0,
            trailers: 0,
            trailer_bytes: 0,
            name: [0; NAME_MAX],
            name_len: 0,
        }
    }
}

impl ChunkFollower {
    /// Follows the body over `bytes` as [`advance`](Self::advance) does, but no further than to the end of the first data
    /// in them. What is of the trailer section is added to `trailers`, up to the empty line that ends it.
    ///
    /// # Errors
    /// The first rule that the bytes break, however they were cut into calls.
    pub fn part(&mut self, bytes: &[u8], trailers: &mut Vec<u8>) -> Result<Part, Violation> {
        let mut at = 0;
        while at < bytes.len() && self.place != Place::Done {
            if self.place == Place::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= here as u64;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                return Ok(Part { consumed: at + here, data: at..at + here, is_done: false });
            }
            self.place = self.step(bytes[at])?;
            if matches!(self.place, Place::TrailerName | Place::TrailerValue | Place::TrailerLf)
                || self.place == Place::TrailerStart && !trailers.is_empty()
            {
                trailers.push(bytes[at]);
            }
            at += 1;
        }
        Ok(Part { consumed: at, data: at..at, is_done: self.place == Place::Done })
    }

    /// Follows the body over `bytes`, which go on where those of the last call ended. Chunk data is skipped, not looked at.
    ///
    /// # Errors
    /// The first rule that the bytes break, however they were cut into calls.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        let mut at = 0;
        while at < bytes.len() && self.place != Place::Done {
            if self.place == Place::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= here as u64;
                at += here;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
            } else {
                self.place = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(Step { consumed: at, is_done: self.place == Place::Done })
    }

    fn step(&mut self, b: u8) -> Result<Place, Violation> {
        match self.place {
            Place::Size => match (b, self.size_digits) {
                (b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', _) => self.size_digit(b),
                (_, 0) => Err(Violation::ChunkSize),
                (b'\r', _) => Ok(Place::SizeLf),
                (b';', _) => self.extension(Place::ExtensionStart),
                (b' ' | b'\t', _) => self.extension(Place::BeforeSemicolon),
                _ => Err(Violation::ChunkSize),
            },
            Place::BeforeSemicolon
            | Place::ExtensionStart
            | Place::ExtensionName
            | Place::AfterExtensionName
            | Place::ValueStart
            | Place::Value
            | Place::Quoted
            | Place::QuotedPair
            | Place::AfterQuoted => {
                let next = self.extension_step(b).ok_or(Violation::ChunkExtension)?;
                if next == Place::SizeLf { Ok(next) } else { self.extension(next) }
            }
            Place::SizeLf if b != b'\n' => Err(Violation::BareLineEnd),
            Place::SizeLf => {
                self.size_digits = 0;
                Ok(if self.left == 0 { Place::TrailerStart } else { Place::Data })
            }
            Place::DataCr if b == b'\r' => Ok(Place::DataLf),
            Place::DataLf if b == b'\n' => Ok(Place::Size),
            Place::DataCr | Place::DataLf => Err(Violation::ChunkEnd),
            Place::TrailerStart if b == b'\r' => Ok(Place::EndLf),
            Place::TrailerStart => {
                self.trailers += 1;
                self.name_len = 0;
                if self.trailers > TRAILERS_MAX {
                    return Err(Violation::TrailersTooLarge);
                }
                self.trailer_name(b)
            }
            Place::TrailerName if b == b':' => {
                let name = self.name.get(..usize::from(self.name_len)).unwrap_or_default();
                if NOT_IN_TRAILERS.contains(&name) {
                    Err(Violation::Trailer)
                } else {
                    self.trailer(Place::TrailerValue)
                }
            }
            Place::TrailerName => self.trailer_name(b),
            Place::TrailerValue => match b {
                b'\r' => Ok(Place::TrailerLf),
                b'\t' | b' '..=0x7e | 0x80.. => self.trailer(Place::TrailerValue),
                _ => Err(Violation::Trailer),
            },
            Place::TrailerLf if b == b'\n' => Ok(Place::TrailerStart),
            Place::EndLf if b == b'\n' => Ok(Place::Done),
            Place::TrailerLf | Place::EndLf => Err(Violation::BareLineEnd),
            // `advance` handles both without looking at a byte.
            Place::Data | Place::Done => Ok(self.place),
        }
    }

    fn size_digit(&mut self, b: u8) -> Result<Place, Violation> {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            _ => (b | 0x20) - b'a' + 10,
        };
        self.size_digits += 1;
        // Sixteen digits fit 64 bits, so the shift loses nothing.
        if self.size_digits > 16 {
            return Err(Violation::ChunkSize);
        }
        self.left = self.left << 4 | u64::from(digit);
        if self.left > LENGTH_MAX { Err(Violation::ChunkSize) } else { Ok(Place::Size) }
    }

    fn extension_step(&self, b: u8) -> Option<Place> {
        let is_blank = matches!(b, b' ' | b'\t');
        let is_token = is(b, TOKEN);
        match (self.place, b) {
            (Place::ExtensionStart, _) if is_token => Some(Place::ExtensionName),
            (Place::ExtensionStart, _) if is_blank => Some(Place::ExtensionStart),
            (Place::ExtensionName, _) if is_token => Some(Place::ExtensionName),
            (Place::ExtensionName | Place::AfterExtensionName, b'=') => Some(Place::ValueStart),
            (Place::ExtensionName | Place::AfterExtensionName, _) if is_blank => Some(Place::AfterExtensionName),
            (Place::ValueStart, b'"') => Some(Place::Quoted),
            (Place::ValueStart, _) if is_blank => Some(Place::ValueStart),
            (Place::ValueStart | Place::Value, _) if is_token => Some(Place::Value),
            (Place::Quoted, b'"') => Some(Place::AfterQuoted),
            (Place::Quoted, b'\\') => Some(Place::QuotedPair),
            (Place::Quoted | Place::QuotedPair, b'\t' | b' '..=0x7e | 0x80..) => Some(Place::Quoted),
            (Place::ExtensionName | Place::Value | Place::AfterQuoted, b'\r') => Some(Place::SizeLf),
            (
                Place::BeforeSemicolon
                | Place::ExtensionName
                | Place::AfterExtensionName
                | Place::Value
                | Place::AfterQuoted,
                b';',
            ) => Some(Place::ExtensionStart),
            (Place::BeforeSemicolon | Place::Value | Place::AfterQuoted, _) if is_blank => Some(Place::BeforeSemicolon),
            _ => None,
        }
    }

    fn extension(&mut self, next: Place) -> Result<Place, Violation> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err(Violation::ChunkExtensionsTooLarge) } else { Ok(next) }
    }

    fn trailer_name(&mut self, b: u8) -> Result<Place, Violation> {
        if !is(b, TOKEN) {
            return Err(Violation::Trailer);
        }
        // One more than fits marks a name as longer than any that is refused.
        if let Some(slot) = self.name.get_mut(usize::from(self.name_len)) {
            *slot = b.to_ascii_lowercase();
        }
        self.name_len = (self.name_len + 1).min(NAME_MAX as u8 + 1);
        self.trailer(Place::TrailerName)
    }

    fn trailer(&mut self, next: Place) -> Result<Place, Violation> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX { Err(Violation::TrailersTooLarge) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 512, headers_max: 8, target_max: 64 };

    fn judge(bytes: &[u8]) -> Result<Option<Head>, Violation> {
        check_head(bytes, &LIMITS)
    }

    /// The verdict when the bytes arrive one by one, as long as it takes.
    fn judge_in_pieces(
        bytes: &[u8],
        limits: &HeadLimits,
        cuts: impl Iterator<Item = usize>,
    ) -> Result<Option<Head>, Violation> {
        let mut scanner = HeadScanner::default();
        for cut in cuts.chain([bytes.len()]) {
            if let Some(head) = scanner.scan(&bytes[..cut], limits)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    fn follow(bytes: &[u8]) -> Result<Step, Violation> {
        ChunkFollower::default().advance(bytes)
    }

    fn follow_in_pieces(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Step, Violation> {
        let mut follower = ChunkFollower::default();
        let mut at = 0;
        let mut is_done = false;
        for cut in cuts.chain([bytes.len()]) {
            let step = follower.advance(&bytes[at..cut])?;
            at += step.consumed;
            is_done = step.is_done;
            if is_done {
                break;
            }
            assert_eq!(at, cut, "an unfinished body takes all it is given");
        }
        Ok(Step { consumed: at, is_done })
    }

    #[test]
    fn lawful_heads_pass_with_their_framing() {
        let cases: &[(&str, BodyFraming)] = &[
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("GET / HTTP/1.0\r\n\r\n", BodyFraming::None),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("GET /p?q=/?%20a{}|^` HTTP/1.1\r\nhOsT:a\r\n\r\n", BodyFraming::None),
            ("GET /\"{}|^\\ HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("GET HTTPS://a.b:8080/p?q HTTP/1.1\r\nHost: a.b:8080\r\n\r\n", BodyFraming::None),
            ("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", BodyFraming::None),
            ("CONNECT [::1]:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", BodyFraming::None),
            ("M-SEARCH! / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
            ("GET / HTTP/1.1\r\nHost: \t a-b_c.d:65535 \t\r\n\r\n", BodyFraming::None),
            ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", BodyFraming::None),
            ("GET / HTTP/1.1\r\nHost: [::]\r\nEmpty:\r\nBlank: \t\r\nTab: a\tb\r\n\r\n", BodyFraming::None),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", BodyFraming::None),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  7\t\r\n\r\n", BodyFraming::Length(7)),
            ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007\r\n\r\n", BodyFraming::Length(7)),
            ("POST / HTTP/1.0\r\nContent-Length: 9223372036854775807\r\n\r\n", BodyFraming::Length(LENGTH_MAX)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", BodyFraming::Chunked),
            ("POST / HTTP/1.1\r\ntransfer-encoding:\tCHUNKED \r\nHost: a\r\n\r\n", BodyFraming::Chunked),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nX-Host: b\r\nTransfer-Encodings: x\r\n\r\n",
                BodyFraming::None,
            ),
        ];
        for (text, body) in cases {
            let start = text.find(|c| c != '\r' && c != '\n').unwrap();
            let expected = Ok(Some(Head { start, end: text.len(), body: *body }));
            assert_eq!(judge(text.as_bytes()), expected, "{text:?}");
            assert_eq!(judge(format!("{text}GET /next").as_bytes()), expected, "{text:?} and more");
        }
        let obs_text = b"GET / HTTP/1.1\r\nHost: a\r\nName: caf\xe9 \x80\xff\r\n\r\n";
        assert!(matches!(judge(obs_text), Ok(Some(_))));
    }

    #[test]
    fn unlawful_heads_are_refused_with_their_reason() {
        let cases: &[(&str, Violation)] = &[
            // line ends
            ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BareLineEnd),
            ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BareLineEnd),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", Violation::BareLineEnd),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Violation::BareLineEnd),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", Violation::BareLineEnd),
            ("GET / HTTP/1.1\r\nHost: a\r\rB: c\r\n\r\n", Violation::BareLineEnd),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: c\rd\r\n\r\n", Violation::BareLineEnd),
            ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Violation::BareLineEnd),
            ("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::LeadingLines),
            // request line
            (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
            ("\0GET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
            ("\u{16}\u{3}", Violation::Method),
            ("G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
            ("GETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
            ("GET\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET /\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/11\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/1,1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Violation::Version),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Violation::Version),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Violation::Version),
            // target
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /?q#f HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /<> HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /?\" HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("CONNECT [::1] HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            ("CONNECT http://a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
            // header lines
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Violation::Folding),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\td\r\n\r\n", Violation::Folding),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\nname\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\nna me: b\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\nna\0me: b\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\nn\u{e9}: b\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\nname[]: b\r\n\r\n", Violation::HeaderName),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: c\0\r\n\r\n", Violation::ControlByte),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: c\u{b}d\r\n\r\n", Violation::ControlByte),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: c\u{7f}d\r\n\r\n", Violation::ControlByte),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: \u{1}\r\n\r\n", Violation::ControlByte),
            // host
            ("GET / HTTP/1.1\r\n\r\n", Violation::HostMissing),
            ("GET http://a/ HTTP/1.1\r\nX: y\r\n\r\n", Violation::HostMissing),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Violation::HostRepeated),
            ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Violation::HostRepeated),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.0\r\nHost: \r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a%62\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a:+8\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", Violation::HostInvalid),
            ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", Violation::HostInvalid),
            // lengths and codings
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{b}5\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n", Violation::LengthInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", Violation::LengthRepeated),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Violation::LengthRepeated),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Violation::CodingInvalid),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Violation::CodingUnsupported),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Violation::CodingRepeated,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
                Violation::CodingRepeated,
            ),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Violation::CodingInHttp10),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                Violation::LengthAndCoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
                Violation::LengthAndCoding,
            ),
        ];
        for (text, violation) in cases {
            let bytes = text.as_bytes();
            assert_eq!(judge(bytes), Err(*violation), "{text:?}");
            assert_eq!(judge_in_pieces(bytes, &LIMITS, 1..bytes.len()), Err(*violation), "{text:?} byte by byte");
        }
    }

    #[test]
    fn limits_are_kept_to_the_byte() {
        let head = |target: usize, headers: usize, pad: usize| {
            let lines = "B: c\r\n".repeat(headers - 1);
            format!("GET /{} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", "t".repeat(target - 1), "h".repeat(pad))
        };
        let padding = LIMITS.bytes_max - head(1, 1, 0).len();
        let cases = [
            (head(LIMITS.target_max, 1, 1), None),
            (head(LIMITS.target_max + 1, 1, 1), Some(Violation::TargetTooLong)),
            (head(LIMITS.target_max + 100, 1, 1), Some(Violation::TargetTooLong)),
            (head(1, LIMITS.headers_max, 1), None),
            (head(1, LIMITS.headers_max + 1, 1), Some(Violation::TooManyHeaders)),
            (head(1, 1, padding), None),
            (head(1, 1, padding + 1), Some(Violation::HeadTooLarge)),
            ("/".repeat(600), Some(Violation::Method)),
            ("G".repeat(600), Some(Violation::Method)),
            (format!("GET /{}", "t".repeat(600)), Some(Violation::TargetTooLong)),
            (format!("GET / HTTP/1.1\r\nHost: {}", "h".repeat(600)), Some(Violation::HeadTooLarge)),
        ];
        for (text, violation) in cases {
            let bytes = text.as_bytes();
            assert_eq!(judge(bytes).err(), violation, "{text:?}");
            assert_eq!(judge_in_pieces(bytes, &LIMITS, 1..bytes.len()).err(), violation, "{text:?} byte by byte");
        }
    }

    #[test]
    fn a_target_that_the_http_crate_cannot_hold_is_too_long_whatever_the_limit() {
        let limits = HeadLimits { bytes_max: 1 << 20, headers_max: 8, target_max: 1 << 20 };
        let text = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "t".repeat(65_534));
        assert_eq!(check_head(text.as_bytes(), &limits), Err(Violation::TargetTooLong));
    }

    #[test]
    fn every_target_that_passes_is_one_that_the_http_crate_takes() {
        for b in 0..=u8::MAX {
            for target in [vec![b'/', b], vec![b'/', b'?', b], [b"http://a".as_slice(), &[b]].concat(), vec![b]] {
                let Ok(text) = std::str::from_utf8(&target) else {
                    continue;
                };
                if is_target(b"GET", &target) {
                    assert!(text.parse::<http::Uri>().is_ok(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn lawful_chunked_bodies_end_where_they_should() {
        let cases = [
            "0\r\n\r\n",
            "0000000000000000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "00005\r\nhello\r\n0\r\n\r\n",
            "5;a\r\nhello\r\n0;b=c;d=\"e f\\\" \\\\ ;\";g\r\n\r\n",
            "5 ; a = b\t;c\r\nhello\r\n0\r\n\r\n",
            "3\r\n\r\n\n\r\n0\r\n\r\n",
            "0\r\nExpires: never\r\nX:\r\nA-Rather-Long-Name-For-A-Trailer: \t caf\u{e9}\r\n\r\n",
        ];
        let hexadecimal = format!("aB\r\n{}\r\n0\r\n\r\n", "x".repeat(0xab));
        for text in cases.into_iter().chain([hexadecimal.as_str()]) {
            let bytes = text.to_owned();
            let expected = Ok(Step { consumed: bytes.len(), is_done: true });
            assert_eq!(follow(bytes.as_bytes()), expected, "{text:?}");
            assert_eq!(follow(format!("{bytes}GET /").as_bytes()), expected, "{text:?} and more");
            assert_eq!(follow_in_pieces(bytes.as_bytes(), 1..bytes.len()), expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn unlawful_chunked_bodies_are_refused_with_their_reason() {
        let cases: &[(&str, Violation)] = &[
            ("\r\n", Violation::ChunkSize),
            (" 5\r\nhello\r\n", Violation::ChunkSize),
            ("0x5\r\nhello\r\n", Violation::ChunkSize),
            ("+5\r\nhello\r\n", Violation::ChunkSize),
            ("-5\r\nhello\r\n", Violation::ChunkSize),
            ("g\r\n", Violation::ChunkSize),
            (";a\r\n", Violation::ChunkSize),
            ("5\0\r\nhello\r\n", Violation::ChunkSize),
            ("5\nhello\r\n", Violation::ChunkSize),
            ("00000000000000005\r\nhello\r\n", Violation::ChunkSize),
            ("8000000000000000\r\n", Violation::ChunkSize),
            ("10000000000000005\r\nhello\r\n", Violation::ChunkSize),
            ("5\rhello\r\n", Violation::BareLineEnd),
            ("5 \r\nhello\r\n", Violation::ChunkExtension),
            ("5 5\r\nhello\r\n", Violation::ChunkExtension),
            ("5;\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a\nhello\r\n", Violation::ChunkExtension),
            ("5;a\rhello\r\n", Violation::BareLineEnd),
            ("5;\nhello\r\n", Violation::ChunkExtension),
            ("5;a=\r\nhello\r\n", Violation::ChunkExtension),
            ("5;=b\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a=b c\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a \r\nhello\r\n", Violation::ChunkExtension),
            ("5;a\0\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a=\"b\r\n\"\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a=\"b\n\"\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a=\"\0\"\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a=\"\\\r\"\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a=\"b\"c\r\nhello\r\n", Violation::ChunkExtension),
            ("5;a,b\r\nhello\r\n", Violation::ChunkExtension),
            ("5\r\nhello0\r\n\r\n", Violation::ChunkEnd),
            ("5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd),
            ("5\r\nhello\r0\r\n\r\n", Violation::ChunkEnd),
            ("5\r\nhello!\r\n0\r\n\r\n", Violation::ChunkEnd),
            ("5\r\nhell\r\n0\r\n\r\n", Violation::ChunkEnd),
            ("0\r\n\n", Violation::Trailer),
            ("0\r\n\rX", Violation::BareLineEnd),
            ("0\r\nX: y\n\r\n", Violation::Trailer),
            ("0\r\nX: y\rZ: a\r\n\r\n", Violation::BareLineEnd),
            ("0\r\nX: y\0\r\n\r\n", Violation::Trailer),
            ("0\r\nX: y\u{7f}\r\n\r\n", Violation::Trailer),
            ("0\r\n X: y\r\n\r\n", Violation::Trailer),
            ("0\r\nX : y\r\n\r\n", Violation::Trailer),
            ("0\r\nX\r\n\r\n", Violation::Trailer),
            ("0\r\n: y\r\n\r\n", Violation::Trailer),
            ("0\r\nX: y\r\n z\r\n\r\n", Violation::Trailer),
            ("0\r\ncontent-Length: 5\r\n\r\n", Violation::Trailer),
            ("0\r\nTRANSFER-ENCODING: chunked\r\n\r\n", Violation::Trailer),
            ("0\r\nHost: b\r\n\r\n", Violation::Trailer),
            ("0\r\nX: y\r\nHost: b\r\n\r\n", Violation::Trailer),
        ];
        for (text, violation) in cases {
            let bytes = text.as_bytes();
            assert_eq!(follow(bytes).err(), Some(*violation), "{text:?}");
            assert_eq!(follow_in_pieces(bytes, 1..bytes.len()).err(), Some(*violation), "{text:?} byte by byte");
        }
    }

    #[test]
    fn chunk_overhead_is_bounded_over_the_whole_body() {
        let max = EXTENSION_BYTES_MAX as usize;
        let body = |chunks: usize| "1;ab\r\nx\r\n".repeat(chunks);
        assert!(follow(body(max / 3).as_bytes()).is_ok());
        assert_eq!(follow(body(max / 3 + 1).as_bytes()), Err(Violation::ChunkExtensionsTooLarge));

        let trailers = |count: usize| format!("0\r\n{}\r\n", "a:b\r\n".repeat(count));
        assert!(follow(trailers(usize::from(TRAILERS_MAX)).as_bytes()).is_ok());
        assert_eq!(follow(trailers(usize::from(TRAILERS_MAX) + 1).as_bytes()), Err(Violation::TrailersTooLarge));
        let long = format!("0\r\na:{}\r\n\r\n", "b".repeat(TRAILER_BYTES_MAX as usize));
        assert_eq!(follow(long.as_bytes()), Err(Violation::TrailersTooLarge));
    }

    #[test]
    fn two_pipelined_requests_are_cut_at_the_same_places_wherever_the_reads_end() {
        let first = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = "3;x=\"y\"\r\nabc\r\n0\r\nT: v\r\n\r\n";
        let second = "\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n";
        let stream = [first, body, second].concat().into_bytes();
        for split in 0..stream.len() {
            let head = judge_in_pieces(&stream, &LIMITS, std::iter::once(split)).unwrap().unwrap();
            assert_eq!((head.end, head.body), (first.len(), BodyFraming::Chunked), "split at {split}");
            let rest = &stream[head.end..];
            let cut = split.saturating_sub(head.end).min(rest.len());
            let step = follow_in_pieces(rest, std::iter::once(cut)).unwrap();
            assert_eq!(step, Step { consumed: body.len(), is_done: true }, "split at {split}");
            let rest = &rest[step.consumed..];
            let cut = split.saturating_sub(first.len() + body.len()).min(rest.len());
            let head = judge_in_pieces(rest, &LIMITS, std::iter::once(cut)).unwrap().unwrap();
            assert_eq!((head.start, head.end, head.body), (2, second.len(), BodyFraming::None), "split at {split}");
        }
    }

    #[test]
    fn a_violation_is_found_in_whatever_carries_it() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outer")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let carried = || io::Error::from(Violation::ChunkEnd);
        assert_eq!(Violation::of(&Violation::ChunkEnd), Some(Violation::ChunkEnd));
        assert_eq!(Violation::of(&carried()), Some(Violation::ChunkEnd));
        assert_eq!(Violation::of(&Outer(carried())), Some(Violation::ChunkEnd));
        assert_eq!(Violation::of(&io::Error::other(Outer(carried()))), Some(Violation::ChunkEnd));
        assert_eq!(Violation::of(&io::Error::other("else")), None);
        assert_eq!(Violation::of(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
    }

    /// Pieces of requests, lawful and not, that a random text is put together from.
    fn head_piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST /a?b HTTP/1.0\r\n", "Host: a\r\n", "Content-Length: 3\r\n",
                "Transfer-Encoding: chunked\r\n", "X: y\r\n", "\r\n", "\r\n\r\n", "GET ", " HTTP/1.1", "\r", "\n", " ", ":", "\0",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
            1 => (1..80_usize).prop_map(|n| vec![b'a'; n]),
        ]
    }

    fn chunk_piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "1\r\nx\r\n", "3;a=b\r\nxyz\r\n", "0\r\n", "\r\n", "0\r\n\r\n", "X: y\r\n", "2", ";q=\"", "\"", "\r", "\n", " ", "\0",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ]
    }

    proptest! {
        #[test]
        fn a_heads_verdict_does_not_depend_on_the_reads(
            pieces in prop::collection::vec(head_piece(), 0..10),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let limits = HeadLimits { bytes_max: 200, headers_max: 3, target_max: 20 };
            let bytes = pieces.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let whole = check_head(&bytes, &limits);
            prop_assert_eq!(judge_in_pieces(&bytes, &limits, cuts.into_iter()), whole);
            prop_assert_eq!(judge_in_pieces(&bytes, &limits, 1..bytes.len().max(1)), whole);
        }

        #[test]
        fn a_chunked_bodys_verdict_does_not_depend_on_the_reads(
            pieces in prop::collection::vec(chunk_piece(), 0..10),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes = pieces.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let whole = follow(&bytes);
            prop_assert_eq!(follow_in_pieces(&bytes, cuts.into_iter()), whole);
            prop_assert_eq!(follow_in_pieces(&bytes, 1..bytes.len().max(1)), whole);
        }
    }
}
