//! The fields behind a body: which a head announces, and which may stand there.

use http::{HeaderMap, HeaderName, header};

/// The fields that a head announces for behind its body (RFC 9110 §6.6.2), as far as they may stand there.
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::TRAILER).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).filter(may_trail).collect()
}

/// Whether a field may stand behind a body: none that frames, routes, authenticates or describes the message (RFC 9110
/// §6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONNECTION
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::EXPECT
            | header::HOST
            | header::MAX_FORWARDS
            | header::PROXY_AUTHORIZATION
            | header::RANGE
            | header::SET_COOKIE
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_may_not_trail_is_not_announced() {
        let mut headers = HeaderMap::new();
        headers.append(header::TRAILER, HeaderValue::from_static("X-Sum, Authorization,, no name"));
        headers.append(header::TRAILER, HeaderValue::from_static("cookie , grpc-status"));
        assert_eq!(announced(&headers), ["x-sum", "grpc-status"]);
    }
}
