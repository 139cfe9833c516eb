//! A request as it goes to an endpoint: its framing, its target, and the host that it names.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use http_body::Body as _;

use crate::config::upstream::Protocol;
use crate::http::body::Body;
use crate::http::headers;
use crate::upstream::HostRule;
use crate::upstream::endpoint::Endpoint;

/// Gives the request the framing that its body has, whatever its headers say.
pub(super) fn prepare(request: &mut Request<Body>, protocol: Protocol) {
    if request.body().is_end_stream() {
        *request.body_mut() = Body::Empty;
    }
    let length = request.body().size_hint().exact();
    let headers = request.headers_mut();
    // One walk, for hardly any has one of them, and each look-up costs as much.
    if length.is_some() && !headers.keys().any(|name| matches!(*name, TRANSFER_ENCODING | CONTENT_LENGTH)) {
        return;
    }
    headers.remove(TRANSFER_ENCODING);
    match length {
        Some(length) => {
            let told = headers.get(CONTENT_LENGTH);
            // `0010` is lawful and says the same; but not everybody reads it as a decimal number.
            if told.is_some_and(|told| !is_number(told.as_bytes(), length)) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            // hyper drops a body of unknown length from GET and HEAD unless it is told to send it.
            if protocol == Protocol::Http1 {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
    }
}

/// Whether these are the digits of `number`, and no more.
fn is_number(digits: &[u8], number: u64) -> bool {
    let value = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    value == Some(number) && (!matches!(digits[0], b'0' | b'+') || digits.len() == 1)
}

/// Addresses the request to `endpoint`: the form of its target, and `Host` or `:authority`.
pub(super) fn address(request: &mut Request<Body>, endpoint: &Endpoint, rule: HostRule, protocol: Protocol) {
    let is_told = headers::host(request.headers()).is_some();
    if rule == HostRule::Endpoint || !is_told {
        let host = match request.uri().authority() {
            Some(authority) if rule == HostRule::AsIs => HeaderValue::from_str(authority.as_str()).ok(),
            _ => None,
        };
        request.headers_mut().insert(HOST, host.unwrap_or_else(|| endpoint.host.clone()));
    }
    let path = || PathAndQuery::from_static("/");
    match protocol {
        Protocol::Http1 => {
            *request.version_mut() = Version::HTTP_11;
            if request.uri().authority().is_some() {
                let path = request.uri().path_and_query().cloned().unwrap_or_else(path);
                *request.uri_mut() = Uri::from(path);
            }
        }
        Protocol::H2c | Protocol::H2 => {
            *request.version_mut() = Version::HTTP_2;
            // RFC 9113 §8.3.1: `:authority` takes the place of `Host`.
            let host = request.headers_mut().remove(HOST);
            let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(if endpoint.is_https { Scheme::HTTPS } else { Scheme::HTTP });
            parts.authority = Some(authority.unwrap_or_else(|| endpoint.authority.clone()));
            parts.path_and_query.get_or_insert_with(path);
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
    }
}
