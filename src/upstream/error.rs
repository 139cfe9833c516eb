//! Why an upstream gave no answer: whose fault it is, whether another try is safe, and what it is called.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::Write;
use std::time::Duration;
use std::{fmt, io};

use super::breaker::Refusal;
use crate::http::body::{self, BodyError};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The endpoint refused the connection.
    Refused,
    /// The endpoint cannot be reached: no route, no such socket.
    Unreachable,
    /// This machine has no socket or port left for a connection.
    Exhausted,
    /// The process may have no file descriptor more for a connection.
    NoFile,
    /// The connection was not there in time.
    ConnectTimeout,
    /// The endpoint's name could not be looked up.
    Dns,
    /// The TLS handshake was not over in time.
    TlsTimeout,
    /// The endpoint's certificate is not one to believe.
    TlsCertificate,
    /// The endpoint ended the handshake with an alert, as where it wants a certificate that it did not get.
    TlsAlert,
    /// The handshake failed otherwise: not TLS, nothing in common, or another protocol within than asked for.
    Tls,
    /// More requests are in flight than `limits.in_flight_max` allows.
    InFlight,
    /// `limits.queue_max` requests wait for their turn already.
    PlaceQueue,
    /// Its turn did not come within `limits.queue_wait`, or its own time.
    PlaceWait,
    /// It waited for its turn, and one of a higher class took its place.
    Displaced,
    /// `pool.queue_max` requests wait for a connection already.
    QueueFull,
    /// No connection came free within `pool.queue_wait`.
    QueueWait,
    /// Health checks find every endpoint ill.
    NoEndpoint,
    /// The breaker is open.
    BreakerOpen,
    /// The breaker is half-open, and all its probes are out.
    BreakerProbing,
    /// The upstream broke off after the request had been sent, before the first byte of an answer.
    Reset,
    /// The upstream broke off within the head of its answer.
    Incomplete,
    /// The answer did not begin within `timeouts.first_byte`.
    Timeout,
    /// The head of the answer is longer than `limits.header_bytes_max`, or has more fields than `limits.headers_max`.
    HeadTooLarge,
    /// The answer is not HTTP, or breaks its rules.
    Protocol,
    /// The endpoint speaks HTTP/2 without streams that become tunnels, and WebSocket was asked for.
    NoTunnel,
    /// The request body ended before its end: the client's doing.
    Client(BodyError),
}

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client broke off, or broke its framing.
    Client,
    /// The upstream, or the way to it. What a breaker counts.
    Upstream,
    /// armiger's own limits or means. Says nothing about the upstream's health.
    Armiger,
}

impl Kind {
    /// Who caused it.
    pub fn fault(self) -> Fault {
        match self {
            Self::Client(_) => Fault::Client,
            Self::InFlight | Self::QueueFull | Self::QueueWait => Fault::Armiger,
            Self::Exhausted | Self::NoFile => Fault::Armiger,
            Self::PlaceQueue | Self::PlaceWait | Self::Displaced => Fault::Armiger,
            Self::NoEndpoint | Self::BreakerOpen | Self::BreakerProbing => Fault::Armiger,
            // It is as it is, and well.
            Self::NoTunnel => Fault::Armiger,
            _ => Fault::Upstream,
        }
    }

    /// Whether the upstream certainly saw nothing of the request, so that any request may be sent again.
    pub fn is_retryable(self) -> bool {
        self.is_connect() || self.is_shielded() || self.is_overload()
    }

    /// Whether it was refused since too many others were there.
    fn is_overload(self) -> bool {
        matches!(self, Self::InFlight | Self::QueueFull | Self::QueueWait)
            || matches!(self, Self::PlaceQueue | Self::PlaceWait | Self::Displaced)
    }

    /// Whether it was refused since the upstream is not well.
    pub fn is_shielded(self) -> bool {
        matches!(self, Self::NoEndpoint | Self::BreakerOpen | Self::BreakerProbing)
    }

    /// Whether no connection came about.
    pub fn is_connect(self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable | Self::ConnectTimeout | Self::Dns)
            || matches!(self, Self::Exhausted | Self::NoFile)
            || self.is_tls()
    }

    /// Whether the connection was there, and TLS did not come about.
    fn is_tls(self) -> bool {
        matches!(self, Self::TlsTimeout | Self::TlsCertificate | Self::TlsAlert | Self::Tls)
    }

    /// The stable name: the reason's slug, in logs and metrics.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Refused | Self::Unreachable => "upstream-connect",
            Self::Exhausted | Self::NoFile => "no-socket",
            Self::ConnectTimeout => "upstream-connect-timeout",
            Self::Dns => "upstream-dns",
            Self::TlsTimeout => "upstream-tls-timeout",
            Self::TlsCertificate => "upstream-certificate",
            Self::TlsAlert | Self::Tls => "upstream-tls",
            Self::InFlight | Self::QueueFull | Self::QueueWait => "upstream-overloaded",
            Self::PlaceQueue | Self::PlaceWait | Self::Displaced => "upstream-overloaded",
            Self::NoEndpoint => "no-endpoint",
            Self::BreakerOpen => "breaker-open",
            Self::BreakerProbing => "breaker-probing",
            Self::Reset | Self::Incomplete => "upstream-reset",
            Self::Timeout => "upstream-timeout",
            Self::HeadTooLarge | Self::Protocol => "upstream-protocol",
            Self::NoTunnel => "not-implemented",
            Self::Client(BodyError::TooLarge) => "body-too-large",
            Self::Client(BodyError::ClientSlow) => "request-timeout",
            Self::Client(BodyError::ClientTooSlow) => "request-too-slow",
            Self::Client(BodyError::ClientMalformed) => "bad-framing",
            Self::Client(_) => "client-closed",
        }
    }

    /// Whether armiger itself had no place, no socket or no use for a connection, so that no endpoint heard of it.
    pub fn asks_nobody(self) -> bool {
        matches!(self, Self::Exhausted | Self::NoFile | Self::QueueFull | Self::QueueWait | Self::NoTunnel)
    }

    /// The bound that was hit: its key in the configuration, without the upstream's name.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Self::InFlight => Some("upstreams.limits.in_flight_max"),
            Self::PlaceQueue | Self::Displaced => Some("upstreams.limits.queue_max"),
            Self::PlaceWait => Some("upstreams.limits.queue_wait"),
            Self::QueueFull => Some("upstreams.pool.queue_max"),
            Self::QueueWait => Some("upstreams.pool.queue_wait"),
            Self::NoFile => Some("file_descriptors"),
            _ => None,
        }
    }

    /// The `error` of `Proxy-Status` (RFC 9209 §2.3).
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::Refused => "connection_refused",
            Self::Unreachable => "destination_unavailable",
            Self::Exhausted | Self::NoFile => "proxy_internal_error",
            Self::ConnectTimeout => "connection_timeout",
            Self::Dns => "dns_error",
            Self::TlsTimeout => "connection_timeout",
            Self::TlsCertificate => "tls_certificate_error",
            Self::TlsAlert => "tls_alert_received",
            Self::Tls => "tls_protocol_error",
            Self::InFlight | Self::QueueFull | Self::QueueWait => "connection_limit_reached",
            Self::PlaceQueue | Self::PlaceWait | Self::Displaced => "connection_limit_reached",
            Self::NoEndpoint | Self::BreakerOpen | Self::BreakerProbing => "destination_unavailable",
            Self::Reset => "connection_terminated",
            Self::Incomplete => "http_response_incomplete",
            Self::Timeout => "http_response_timeout",
            Self::HeadTooLarge => "http_response_header_section_size",
            Self::Protocol => "http_protocol_error",
            Self::NoTunnel => "http_upgrade_failed",
            Self::Client(_) => "http_request_error",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Refused => "the endpoint refused the connection",
            Self::Unreachable => "the endpoint cannot be reached",
            Self::Exhausted => "no socket or port is left for a connection",
            Self::NoFile => "no file descriptor is left for a connection",
            Self::ConnectTimeout => "the connection was not there in time",
            Self::Dns => "the endpoint's name could not be looked up",
            Self::TlsTimeout => "the TLS handshake was not over in time",
            Self::TlsCertificate => "the endpoint's certificate is not one to believe",
            Self::TlsAlert => "the endpoint refused the TLS handshake",
            Self::Tls => "the TLS handshake failed",
            Self::InFlight => "too many requests are in flight",
            Self::PlaceQueue => "too many requests wait for their turn",
            Self::PlaceWait => "the request's turn did not come in time",
            Self::Displaced => "a request that comes first took its place",
            Self::QueueFull => "too many requests wait for a connection",
            Self::QueueWait => "no connection came free in time",
            Self::NoEndpoint => "no endpoint is well",
            Self::BreakerOpen => "the breaker is open",
            Self::BreakerProbing => "the breaker is half-open, and its probes are out",
            Self::Reset => "the upstream broke off before it answered",
            Self::Incomplete => "the upstream broke off within the head of its answer",
            Self::Timeout => "the answer did not begin in time",
            Self::HeadTooLarge => "the head of the answer is too large",
            Self::Protocol => "the answer breaks the rules of HTTP",
            Self::NoTunnel => "the endpoint does not take WebSocket over HTTP/2",
            Self::Client(_) => "the request body ended before its end",
        }
    }
}

/// An upstream gave no answer.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error whose kind says all.
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, retry_after: None, source: None }
    }

    /// An error that may be over after a while.
    pub(super) fn until(kind: Kind, retry_after: Option<Duration>) -> Self {
        Self { kind, retry_after, source: None }
    }

    /// An error with the cause for the log.
    pub(super) fn because(kind: Kind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, retry_after: None, source: Some(source.into()) }
    }

    /// What went wrong in a TLS handshake.
    pub(super) fn from_handshake(error: io::Error) -> Self {
        let kind = tls_kind(&error).unwrap_or(Kind::Tls);
        Self::because(kind, error)
    }

    /// What hyper's error means once the request was handed over for good.
    pub(super) fn from_exchange(error: hyper::Error) -> Self {
        // What h2 itself refuses to read is a fault in the upstream's frames.
        let is_fault = error.is_parse() || body::cause::<h2::Error>(&error).is_some_and(h2::Error::is_library);
        let kind = tls_kind(&error).unwrap_or(if is_fault { Kind::Protocol } else { Kind::Reset });
        Self::because(kind, error)
    }

    /// What an error of the connection means once it was used. `has_begun` says whether a byte of the answer had come.
    pub(super) fn from_io(error: io::Error, has_begun: bool) -> Self {
        let kind = match tls_kind(&error) {
            _ if has_begun => Kind::Incomplete,
            // With TLS 1.3 an endpoint says only after the handshake what it thinks of armiger's certificate.
            Some(kind) => kind,
            None => Kind::Reset,
        };
        Self::because(kind, error)
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the log is told beyond the slug: of the kind, or the cause with what caused that. None where the client was it.
    pub(super) fn cause(&self) -> Option<Cow<'static, str>> {
        if self.fault() == Fault::Client {
            return None;
        }
        if self.source.is_none() {
            return Some(Cow::Borrowed(self.kind.sentence()));
        }
        let mut text = Short(String::new());
        let mut next = self.source();
        while let Some(error) = next {
            let colon = if text.0.is_empty() { "" } else { ": " };
            if write!(text, "{colon}{error}").is_err() {
                break;
            }
            next = error.source();
        }
        Some(Cow::Owned(text.0))
    }

    /// When another request may be worth its while, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Who caused it.
    pub fn fault(&self) -> Fault {
        self.kind.fault()
    }

    /// Whether the upstream certainly saw nothing of the request.
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// The stable name.
    pub fn slug(&self) -> &'static str {
        self.kind.slug()
    }

    /// The `error` of `Proxy-Status` (RFC 9209 §2.3).
    pub fn proxy_status(&self) -> &'static str {
        self.kind.proxy_status()
    }
}

/// The most bytes of a cause in the log.
const CAUSE_MAX: usize = 200;

/// A text of [`CAUSE_MAX`] bytes at most. What is longer is cut off, and nobody writes on.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut kept = text.len().min(CAUSE_MAX - self.0.len());
        while !text.is_char_boundary(kept) {
            kept -= 1;
        }
        self.0.push_str(&text[..kept]);
        if kept < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// What `error` says of TLS.
fn tls_kind(error: &(dyn StdError + 'static)) -> Option<Kind> {
    let io = body::cause::<io::Error>(error)?.get_ref()?;
    Some(match io.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(_) => Kind::TlsCertificate,
        rustls::Error::AlertReceived(_) => Kind::TlsAlert,
        _ => Kind::Tls,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.sentence())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Open(_) => Kind::BreakerOpen,
            Refusal::Probing => Kind::BreakerProbing,
        };
        Self { kind, retry_after: Some(refusal.retry_after()), source: None }
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(source: &str) -> String {
        Error::because(Kind::Protocol, source).cause().unwrap().into_owned()
    }

    #[test]
    fn a_cause_is_told_within_bounds() {
        assert_eq!(told("short"), "short");
        assert_eq!(told(&"x".repeat(500)), "x".repeat(200));
        // No character is cut in two.
        assert_eq!(told(&format!("x{}", "\u{20ac}".repeat(100))), format!("x{}", "\u{20ac}".repeat(66)));
    }

    #[test]
    fn a_cause_is_told_with_what_caused_it_and_a_bare_kind_as_such() {
        let deep = Error::because(Kind::Dns, Error::because(Kind::Timeout, "nobody is there"));
        assert_eq!(deep.cause().unwrap(), "the answer did not begin in time: nobody is there");
        assert_eq!(Error::new(Kind::HeadTooLarge).cause().unwrap(), "the head of the answer is too large");
        assert_eq!(Error::new(Kind::Client(BodyError::TooLarge)).cause(), None);
    }
}
