//! The head of a request that hyper wrote, read back to send it once more.
//!
//! Whoever may have to send a request again must keep it, for hyper takes it for good. A copy of the header map cost 2,000
//! instructions per request, and is needed once in a long while; the bytes that hyper makes of it cost a tenth.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};

/// Reads a head. None if it is none that hyper would write.
pub(super) fn read(bytes: &[u8]) -> Option<Parts> {
    let text = bytes.strip_suffix(b"\r\n\r\n")?;
    let mut lines = lines(text);
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, rest) = first.split_once(' ')?;
    let target = rest.strip_suffix(" HTTP/1.1")?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = target.parse::<Uri>().ok()?;
    for line in lines {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        let value = value.strip_prefix(b": ")?;
        let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        request.headers_mut().try_append(name, value).ok()?;
    }
    Some(request.into_parts().0)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // No value has a line end within.
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_back_as_it_was() {
        let head = read(
            b"PUT /a%20b?c=d:e HTTP/1.1\r\nhost: app:80\r\nx-list: 1\r\nx-list: 2\r\nx-empty: \r\nx-odd: a: \xffb \r\n\r\n",
        );
        let head = head.unwrap();
        assert_eq!((head.method, head.uri), (Method::PUT, Uri::from_static("/a%20b?c=d:e")));
        let lines: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let expected: [(&str, &[u8]); 5] =
            [("host", b"app:80"), ("x-list", b"1"), ("x-list", b"2"), ("x-empty", b""), ("x-odd", b"a: \xffb ")];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_no_whole_head_is_none() {
        for bytes in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost\r\n\r\n", "GET /\r\n\r\n", "\r\n\r\n"] {
            assert!(read(bytes.as_bytes()).is_none(), "{bytes:?}");
        }
    }
}
