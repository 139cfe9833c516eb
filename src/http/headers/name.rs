//! Header names that `http::header` does not have. Statics, used by reference: `headers.get(&name::X_REQUEST_ID)`.

use http::header::HeaderName;

macro_rules! names {
    ($($(#[$doc:meta])* $ident:ident = $text:literal;)*) => {
        $($(#[$doc])* pub static $ident: HeaderName = HeaderName::from_static($text);)*
    };
}

names! {
    /// The addresses a request came through, the nearest last.
    X_FORWARDED_FOR = "x-forwarded-for";
    /// The scheme the client used.
    X_FORWARDED_PROTO = "x-forwarded-proto";
    /// The `Host` the client sent.
    X_FORWARDED_HOST = "x-forwarded-host";
    /// The port the client connected to.
    X_FORWARDED_PORT = "x-forwarded-port";
    /// The id that ties the log lines of one request together.
    X_REQUEST_ID = "x-request-id";
    /// What an aggregated answer lacks, if it does.
    X_ARMIGER_COMPLETED = "x-armiger-completed";
    /// W3C Trace Context §3.2.
    TRACEPARENT = "traceparent";
    /// W3C Trace Context §3.3.
    TRACESTATE = "tracestate";
    /// Hop by hop in HTTP/1.0 practice; not in any standard for HTTP/1.1.
    KEEP_ALIVE = "keep-alive";
    /// RFC 9209.
    PROXY_STATUS = "proxy-status";
    /// One key for all attempts of the same unsafe request.
    IDEMPOTENCY_KEY = "idempotency-key";
    /// How often a request was tried, where that was more than once.
    X_ARMIGER_ATTEMPTS = "x-armiger-attempts";
    /// Marks a copy for a mirror.
    X_ARMIGER_MIRROR = "x-armiger-mirror";
}
