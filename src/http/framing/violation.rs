//! What is wrong with a request's framing, and how it is told.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a request is refused, or why its connection ends.
///
/// Where it travels as the inner error of an [`io::Error`], [`Violation::of`] finds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A CR without LF, or an LF without CR (RFC 9112 §2.2).
    BareLineEnd,
    /// More than [`LEADING_LINES_MAX`](super::LEADING_LINES_MAX) empty lines before the request line.
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
    /// More bytes in the value of a header than allowed.
    HeaderTooLong,
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
    /// More than [`EXTENSION_BYTES_MAX`](super::EXTENSION_BYTES_MAX) bytes of chunk extensions.
    ChunkExtensionsTooLarge,
    /// Chunk data that is longer than its size says, or does not end in CRLF (RFC 9112 §7.1).
    ChunkEnd,
    /// A malformed trailer field, or one that may not be sent as a trailer (RFC 9110 §6.5.1).
    Trailer,
    /// More than [`TRAILERS_MAX`](super::TRAILERS_MAX) trailer fields or [`TRAILER_BYTES_MAX`](super::TRAILER_BYTES_MAX) bytes of them.
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
            Self::TooManyHeaders | Self::HeaderTooLong | Self::HeadTooLarge | Self::TrailersTooLarge => 431,
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
            Self::HeaderTooLong => ("header-too-long", "The value of a header is too long."),
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
