//! Why armiger refuses, and what it then says: one row per reason.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};

use super::Exceeded;
use crate::limits::fields::{ABNORMAL_USAGE, QUOTA_EXCEEDED};

/// armiger's "no": a reason, and what the client may know beyond it.
#[derive(Debug)]
pub struct Rejection {
    /// The row of the table.
    pub reason: Reason,
    /// One sentence for the client. Never names an upstream's address, a token's defect or a configuration key.
    pub detail: Option<Cow<'static, str>>,
    /// What operators are told beyond the reason: a stable word such as `jwt_expired`, or a rule's name. Clients never see it.
    pub cause: Option<Cow<'static, str>>,
    /// Another status than the row's: the one that an upstream answered with.
    pub status: Option<StatusCode>,
    /// A better word for `Proxy-Status` than the row's.
    pub proxy_status: Option<&'static str>,
    /// The bound that was hit, if the row cannot tell; see [`Reason::limit`].
    pub limit: Option<&'static str>,
    /// What limits have to say, if they refuse.
    pub exceeded: Option<Box<Exceeded>>,
    /// Headers that belong to this answer, such as `Allow` or `Retry-After`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Rejection {
    /// Adds one sentence for the client.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Tells operators more than the client.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Cow<'static, str>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            detail: None,
            cause: None,
            status: None,
            proxy_status: None,
            limit: None,
            exceeded: None,
            headers: Vec::new(),
        }
    }
}

/// A row's fixed facts.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// HTTP status.
    pub status: StatusCode,
    /// gRPC status code, for callers that speak it.
    pub grpc: u8,
    /// The stable name in `type`, logs and metrics.
    pub slug: &'static str,
    /// `title` of the problem document (RFC 9457).
    pub title: &'static str,
    /// `error` of `Proxy-Status` (RFC 9209 §2.3), where the RFC has a word for it.
    pub proxy_status: Option<&'static str>,
    /// What it means, for operators.
    pub meaning: &'static str,
}

/// Turns rows into the enum and its facts, so that a reason without a complete row does not compile.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $Reason:ident => $status:ident, $grpc:ident, $slug:literal, $title:literal, $proxy:expr;)+) => {
        /// Why armiger refuses. The slug is stable: clients, dashboards and alerts may rely on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $Reason,)+ }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$Reason,)+];

            /// The row.
            pub const fn facts(self) -> Facts {
                match self {
                    $(Self::$Reason => Facts {
                        status: StatusCode::$status, grpc: grpc::$grpc, slug: $slug, title: $title, proxy_status: $proxy,
                        meaning: concat!($($doc),+),
                    },)+
                }
            }
        }
    };
}

/// gRPC status codes (grpc/grpc doc/statuscodes.md).
mod grpc {
    pub(super) const INVALID_ARGUMENT: u8 = 3;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const UNAUTHENTICATED: u8 = 16;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const ABORTED: u8 = 10;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
}

reasons! {
    /// The message breaks HTTP/1.1's framing (RFC 9112): two readers could read it differently.
    BadFraming => BAD_REQUEST, INTERNAL, "bad-framing", "The request is malformed", Some("http_request_error");
    /// A header that may stand once stands twice, or has a value that cannot be.
    BadHeader => BAD_REQUEST, INTERNAL, "bad-header", "A request header is malformed", Some("http_request_error");
    /// The body is not what the route takes.
    BadBody => BAD_REQUEST, INVALID_ARGUMENT, "bad-body", "The request body is malformed", Some("http_request_error");
    /// No `Host`, several, or one that is no host name.
    BadHost => BAD_REQUEST, INTERNAL, "bad-host", "The request names no valid host", Some("http_request_error");
    /// A path that servers read differently from one another, or that leads above the root.
    BadPath => BAD_REQUEST, INTERNAL, "bad-path", "The path is not allowed", Some("http_request_error");
    /// `ip_filter` refused the client's address.
    AddressBlocked => FORBIDDEN, PERMISSION_DENIED, "address-blocked", "Access from this address is not allowed",
        Some("http_request_denied");
    /// The request carries its credential in two places, or twice in one.
    CredentialAmbiguous => BAD_REQUEST, INVALID_ARGUMENT, "credential-ambiguous",
        "The request carries more than one credential", Some("http_request_error");
    /// There is no credential where one is needed.
    TokenMissing => UNAUTHORIZED, UNAUTHENTICATED, "token-missing", "This needs a credential", Some("http_request_denied");
    /// The credential is not good. What is wrong with it stands in the log.
    TokenInvalid => UNAUTHORIZED, UNAUTHENTICATED, "token-invalid", "The credential is not valid",
        Some("http_request_denied");
    /// The certificate that the connection began with has ended, or whoever shows it is no longer let in.
    CertificateOver => MISDIRECTED_REQUEST, UNAUTHENTICATED, "certificate-over",
        "The certificate of this connection is no longer good", Some("http_request_denied");
    /// Who calls is known, and may not.
    Forbidden => FORBIDDEN, PERMISSION_DENIED, "forbidden", "The caller may not do this", Some("http_request_denied");
    /// Whether the credential is good cannot be found out now.
    IdentityUnavailable => SERVICE_UNAVAILABLE, UNAVAILABLE, "identity-unavailable",
        "The credential cannot be checked at the moment", Some("destination_unavailable");
    /// A limit is used up for now.
    RateLimited => TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, "rate-limited", "Too many requests", Some("http_request_denied");
    /// The caller kept hitting a limit, and is kept out for a while.
    Banned => TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, "banned", "Too many requests for too long",
        Some("http_request_denied");
    /// The request costs more than its limit ever grants at once.
    CostTooHigh => PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED, "cost-too-high", "The request costs more than is ever granted",
        Some("http_request_denied");
    /// The caller has as many requests under way as it may.
    TooManyInFlight => TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, "too-many-in-flight", "Too many requests at once",
        Some("http_request_denied");
    /// As many requests are under way on the route as may be.
    RouteBusy => SERVICE_UNAVAILABLE, UNAVAILABLE, "route-busy", "Too many requests at once",
        Some("connection_limit_reached");
    /// What a limit counts with does not answer.
    LimitUnavailable => SERVICE_UNAVAILABLE, UNAVAILABLE, "limit-unavailable", "Whether this is too much cannot be told now",
        Some("destination_unavailable");
    /// The request lacks what its limit counts by.
    LimitKeyMissing => FORBIDDEN, PERMISSION_DENIED, "limit-key-missing", "The request does not say whom it counts for",
        Some("http_request_denied");
    /// No route matches.
    NoRoute => NOT_FOUND, UNIMPLEMENTED, "no-route", "There is nothing at this address",
        Some("http_request_error");
    /// Routes match, but none with this method. TRACE and CONNECT are refused on every route.
    MethodNotAllowed => METHOD_NOT_ALLOWED, UNIMPLEMENTED, "method-not-allowed", "The method is not allowed here",
        Some("http_request_error");
    /// The client took too long to send its request.
    RequestTimeout => REQUEST_TIMEOUT, DEADLINE_EXCEEDED, "request-timeout", "The request took too long to arrive",
        Some("http_request_error");
    /// The client sent its body more slowly than `body_rate_min` allows.
    RequestTooSlow => REQUEST_TIMEOUT, DEADLINE_EXCEEDED, "request-too-slow", "The request came too slowly",
        Some("http_request_error");
    /// The body is longer than `body_max` or `body_limit` allows.
    BodyTooLarge => PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED, "body-too-large", "The request body is too large",
        Some("http_request_error");
    /// The body is of a media type that the route does not take.
    UnsupportedMediaType => UNSUPPORTED_MEDIA_TYPE, INVALID_ARGUMENT, "unsupported-media-type",
        "The media type of the request is not taken here", Some("http_request_error");
    /// The target is longer than `target_bytes_max`.
    TargetTooLong => URI_TOO_LONG, INVALID_ARGUMENT, "target-too-long", "The request target is too long",
        Some("http_request_error");
    /// More headers, or more bytes of them, than `headers_max` and `header_bytes_max` allow.
    HeadersTooLarge => REQUEST_HEADER_FIELDS_TOO_LARGE, RESOURCE_EXHAUSTED, "headers-too-large",
        "The request headers are too large", Some("http_request_error");
    /// The value of a header is longer than `header_value_bytes_max` allows.
    HeaderTooLong => REQUEST_HEADER_FIELDS_TOO_LARGE, RESOURCE_EXHAUSTED, "header-too-long",
        "A request header is too long", Some("http_request_error");
    /// A version of HTTP that armiger does not speak.
    BadVersion => HTTP_VERSION_NOT_SUPPORTED, UNIMPLEMENTED, "bad-version", "This version of HTTP is not supported",
        Some("http_request_error");
    /// The client went away within its request.
    ClientClosed => BAD_REQUEST, INTERNAL, "client-closed", "The request ended too early", Some("http_request_error");
    /// armiger failed. A defect: please report it.
    Internal => INTERNAL_SERVER_ERROR, INTERNAL, "internal", "Internal error", Some("proxy_internal_error");
    /// The request asks for something that armiger does not do, such as an unknown transfer coding.
    NotImplemented => NOT_IMPLEMENTED, UNIMPLEMENTED, "not-implemented", "The request asks for something unsupported",
        Some("http_request_error");
    /// The upstream refused the connection, or cannot be reached.
    UpstreamConnect => BAD_GATEWAY, UNAVAILABLE, "upstream-connect", "The service could not be reached",
        Some("destination_unavailable");
    /// This machine gives armiger no socket for a connection to the upstream: no port, no file descriptor. Nothing is said of
    /// the upstream.
    NoSocket => SERVICE_UNAVAILABLE, UNAVAILABLE, "no-socket", "The service cannot be asked at the moment",
        Some("proxy_internal_error");
    /// The connection to the upstream was not there in time.
    UpstreamConnectTimeout => BAD_GATEWAY, UNAVAILABLE, "upstream-connect-timeout", "The service could not be reached in time",
        Some("connection_timeout");
    /// The upstream's name could not be looked up.
    UpstreamDns => BAD_GATEWAY, UNAVAILABLE, "upstream-dns", "The service could not be found", Some("dns_error");
    /// The upstream refused the TLS handshake, or it failed.
    UpstreamTls => BAD_GATEWAY, UNAVAILABLE, "upstream-tls", "The service could not be reached securely",
        Some("tls_protocol_error");
    /// The upstream's certificate is not one to believe.
    UpstreamCertificate => BAD_GATEWAY, UNAVAILABLE, "upstream-certificate", "The service could not be trusted",
        Some("tls_certificate_error");
    /// The TLS handshake with the upstream was not over in time.
    UpstreamTlsTimeout => BAD_GATEWAY, UNAVAILABLE, "upstream-tls-timeout", "The service could not be reached in time",
        Some("connection_timeout");
    /// The upstream broke off before it answered.
    UpstreamReset => BAD_GATEWAY, UNAVAILABLE, "upstream-reset", "The service broke off", Some("connection_terminated");
    /// The upstream's answer is not HTTP, or breaks its rules.
    UpstreamProtocol => BAD_GATEWAY, UNAVAILABLE, "upstream-protocol", "The service gave an invalid answer",
        Some("http_protocol_error");
    /// Too many requests are in flight on this listener.
    Overloaded => SERVICE_UNAVAILABLE, UNAVAILABLE, "overloaded", "Too many requests at once",
        Some("connection_limit_reached");
    /// The upstream's queue is full, or the wait for a connection was too long.
    UpstreamOverloaded => SERVICE_UNAVAILABLE, UNAVAILABLE, "upstream-overloaded", "The service is overloaded",
        Some("connection_limit_reached");
    /// Health checks find every endpoint of the upstream ill.
    NoEndpoint => SERVICE_UNAVAILABLE, UNAVAILABLE, "no-endpoint", "The service is not available",
        Some("destination_unavailable");
    /// The upstream failed too often, and is left alone for a while.
    BreakerOpen => SERVICE_UNAVAILABLE, UNAVAILABLE, "breaker-open", "The service is failing and is left alone for a while",
        Some("destination_unavailable");
    /// The upstream failed too often, and a few requests are finding out whether it is back.
    BreakerProbing => SERVICE_UNAVAILABLE, UNAVAILABLE, "breaker-probing", "The service is just being tried again",
        Some("destination_unavailable");
    /// A part without which there is no answer failed.
    PartFailed => BAD_GATEWAY, UNAVAILABLE, "part-failed", "A part of the answer failed", Some("http_protocol_error");
    /// Two parts say different things under one key.
    MergeConflict => BAD_GATEWAY, INTERNAL, "merge-conflict", "Parts of the answer contradict each other",
        Some("proxy_internal_error");
    /// The parts together are longer than `aggregate.body_max` allows.
    AggregateTooLarge => BAD_GATEWAY, INTERNAL, "aggregate-too-large", "The answer is too large",
        Some("http_response_body_size");
    /// A part without which there is no answer was not there in time.
    PartTimeout => GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "part-timeout", "A part of the answer was not there in time",
        Some("http_response_timeout");
    /// An answer within a batch is longer than allowed, or does not fit any more.
    AnswerTooLarge => BAD_GATEWAY, INTERNAL, "answer-too-large", "The answer is too large",
        Some("http_response_body_size");
    /// A step of a saga failed, and whatever was done before is undone.
    SagaCompensated => BAD_GATEWAY, ABORTED, "saga-compensated", "A step failed, and whatever was done is undone",
        Some("http_protocol_error");
    /// A step of a saga failed, and not all that was done could be undone. Somebody must look at it.
    SagaUnresolved => INTERNAL_SERVER_ERROR, INTERNAL, "saga-compensation-failed",
        "A step failed, and not all that was done could be undone", Some("proxy_internal_error");
    /// A step of a saga failed, and what was done is still being undone.
    SagaCompensating => GATEWAY_TIMEOUT, ABORTED, "saga-compensating", "A step failed, and what was done is being undone",
        Some("http_response_timeout");
    /// armiger is about to end, and the upstream has ended already.
    Draining => SERVICE_UNAVAILABLE, UNAVAILABLE, "draining", "The service is going away",
        Some("destination_unavailable");
    /// The upstream did not begin its answer in time.
    UpstreamTimeout => GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "upstream-timeout", "The service did not answer in time",
        Some("http_response_timeout");
    /// The route's `timeout` was over.
    DeadlineExceeded => GATEWAY_TIMEOUT, DEADLINE_EXCEEDED, "deadline-exceeded", "The answer was not there in time",
        Some("http_response_timeout");
    /// The request takes a stored answer only (`only-if-cached`), and there is none.
    NotCached => GATEWAY_TIMEOUT, UNAVAILABLE, "not-cached", "There is no stored answer",
        Some("proxy_internal_response");
    /// The request has been here before (RFC 9110 §7.6.3).
    LoopDetected => LOOP_DETECTED, INTERNAL, "loop-detected", "The request went round in a loop",
        Some("proxy_loop_detected");
}

impl Reason {
    /// The stable name.
    pub const fn slug(self) -> &'static str {
        self.facts().slug
    }

    /// The registered `type` of its problem document, where there is one. Else it is armiger's own, which ends with the
    /// slug.
    pub const fn kind(self) -> Option<&'static str> {
        match self {
            Self::RateLimited => Some(QUOTA_EXCEEDED),
            Self::Banned => Some(ABNORMAL_USAGE),
            _ => None,
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        self.facts().status
    }

    /// The configured bound that this refusal enforces, if there is just one. A bound of a listener goes by its key.
    pub const fn limit(self) -> Option<&'static str> {
        match self {
            Self::RequestTooSlow => Some("body_rate_min"),
            Self::BodyTooLarge => Some("body_max"),
            Self::TargetTooLong => Some("target_bytes_max"),
            Self::HeadersTooLarge => Some("headers_max"),
            Self::HeaderTooLong => Some("header_value_bytes_max"),
            Self::Overloaded => Some("in_flight_max"),
            Self::DeadlineExceeded => Some("timeout"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_word_for_proxy_status() {
        for reason in Reason::ALL {
            assert!(reason.facts().proxy_status.is_some(), "{reason:?}");
        }
    }

    #[test]
    fn slugs_are_unique_and_in_the_order_of_the_enum() {
        let mut seen = std::collections::HashSet::new();
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert!(seen.insert(reason.slug()), "{} stands twice", reason.slug());
            assert!(reason.slug().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", reason.slug());
        }
    }
}
