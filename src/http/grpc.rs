//! gRPC over HTTP/2 as a proxy sees it: deadlines and statuses.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

/// How long the caller waits (gRPC over HTTP/2, "Requests").
pub static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What came of a call.
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether a message is gRPC: `application/grpc` and its kin, but not gRPC-Web, which is another protocol.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.first().is_none_or(|byte| matches!(byte, b'+' | b';' | b' ')))
}

/// How long the caller of a call waits, if it says so.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(&GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The value that says how long a caller waits still, in the finest unit that it fits.
pub fn timeout_value(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let (number, unit) = match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= MOST => (micros, 'u'),
        (_, millis) if millis <= MOST => (millis, 'm'),
        (_, millis) => ((millis / 1000).min(MOST), 'S'),
    };
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or_else(|_| HeaderValue::from_static("0u"))
}

/// What headers or trailers say of a call's outcome: the name of its status (grpc/grpc doc/statuscodes.md).
pub fn status(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(&GRPC_STATUS)?.to_str().ok()?;
    Some(value.parse::<usize>().ok().and_then(|code| STATUSES.get(code)).copied().unwrap_or("UNKNOWN"))
}

const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Whether a status shows that the service has such a method: who makes one up hears another, or one of who stands before
/// the service.
pub fn is_of_a_method(status: &str) -> bool {
    const OF_A_METHOD: [&str; 9] = [
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "INTERNAL",
        "DATA_LOSS",
    ];
    OF_A_METHOD.contains(&status)
}

/// The service and the method that a path names.
pub fn method(path: &str) -> Option<(&str, &str)> {
    const LENGTH_MAX: usize = 128;
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let is_name = |name: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        (1..=LENGTH_MAX).contains(&name.len()) && name.bytes().all(is_letter)
    };
    (is_name(service) && is_name(method)).then_some((service, method))
}

/// Whether a status says that the service failed, as a 5xx does.
pub fn is_failure(status: &str) -> bool {
    matches!(status, "UNKNOWN" | "DEADLINE_EXCEEDED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn a_timeout_is_a_number_of_at_most_eight_digits_and_a_unit() {
        for (value, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("5000000n", Some(5)),
            ("999999999m", None),
            ("m", None),
            ("5", None),
            ("-5m", None),
            ("5s", None),
            ("", None),
        ] {
            assert_eq!(timeout(&headers("grpc-timeout", value)), millis.map(Duration::from_millis), "{value}");
        }
        for (left, value) in [(90_000, "90000000u"), (100_000, "100000m"), (100_000_000_000, "99999999S"), (0, "0u")] {
            assert_eq!(timeout_value(Duration::from_millis(left)), value);
        }
    }

    #[test]
    fn a_path_names_service_and_method_or_is_none_of_grpc() {
        assert_eq!(method("/a.b.Greeter/SayHello"), Some(("a.b.Greeter", "SayHello")));
        let long = format!("/a/{}", "x".repeat(129));
        for path in ["/a", "/a/", "//b", "a/b", "/a/b/c", "/a/b%20", "/a/b\"", "", &long] {
            assert_eq!(method(path), None, "{path}");
        }
        assert!(STATUSES.iter().filter(|status| is_of_a_method(status)).count() == 9);
    }

    #[test]
    fn statuses_have_names_and_grpc_web_is_not_grpc() {
        for (value, name) in [("0", "OK"), ("16", "UNAUTHENTICATED"), ("17", "UNKNOWN"), ("x", "UNKNOWN")] {
            assert_eq!(status(&headers("grpc-status", value)), Some(name));
        }
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&headers("content-type", kind)), expected, "{kind}");
        }
    }
}
