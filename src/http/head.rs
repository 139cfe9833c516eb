//! From the bytes of a request head that [`framing`](super::framing) found lawful to what it says.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, uri};
use memchr::memchr;

use super::answer::{Asked, has_token};
use super::field_name;
use super::framing::Violation;

/// What a request head says of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// How it is to be answered.
    pub asked: Asked,
    /// The client waits for a word before it sends the body (RFC 9110 §10.1.1).
    pub expects: bool,
}

/// What the request line says behind the target, with the blank before it.
const VERSION_LENGTH: usize = " HTTP/1.1".len();

/// Reads a head that was found lawful, from the request line to the empty line that ends it, into `request`, which has no
/// headers. The values are parts of `bytes`.
///
/// # Errors
/// The types of the `http` crate do not take it, or the head was not lawful after all.
pub fn parse<B>(bytes: &Bytes, request: &mut Request<B>) -> Result<Arrived, Violation> {
    let line = memchr(b'\r', bytes).ok_or(Violation::RequestLine)?;
    let method = memchr(b' ', &bytes[..line]).ok_or(Violation::RequestLine)?;
    let target = line.checked_sub(VERSION_LENGTH).filter(|end| *end > method).ok_or(Violation::RequestLine)?;
    let is_http10 = bytes[target..line].ends_with(b"0");
    *request.uri_mut() = target_of(bytes, method + 1, target)?;
    *request.method_mut() = Method::from_bytes(&bytes[..method]).map_err(|_| Violation::Method)?;
    *request.version_mut() = if is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    let is_head = *request.method() == Method::HEAD;
    let mut asked = Asked { is_http10, is_head, keeps_alive: !is_http10, takes_trailers: false };
    let headers = request.headers_mut();
    let mut expects = false;
    let (mut says_close, mut says_keep) = (false, false);
    let mut at = line + 2;
    while bytes.get(at).is_some_and(|first| *first != b'\r') {
        let rest = &bytes[at..];
        let line = &rest[..memchr(b'\r', rest).ok_or(Violation::BareLineEnd)?];
        let colon = field_name::end(line).ok_or(Violation::HeaderName)?;
        let name = field_name::read(&line[..colon]).map_err(|_| Violation::HeaderName)?;
        let (mut start, mut end) = (colon + 1, line.len());
        while start < end && is_blank(line[start]) {
            start += 1;
        }
        while start < end && is_blank(line[end - 1]) {
            end -= 1;
        }
        let value =
            HeaderValue::from_maybe_shared(bytes.slice(at + start..at + end)).map_err(|_| Violation::ControlByte)?;
        at += line.len() + 2;
        match name {
            header::CONNECTION => {
                says_close |= has_token(&value, b"close");
                says_keep |= has_token(&value, b"keep-alive");
            }
            header::EXPECT => expects = !is_http10 && value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            header::TE => asked.takes_trailers |= has_token(&value, b"trailers"),
            _ => {}
        }
        headers.try_append(name, value).map_err(|_| Violation::TooManyHeaders)?;
    }
    asked.keeps_alive = !says_close && (!is_http10 || says_keep);
    Ok(Arrived { asked, expects })
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn target_of(bytes: &Bytes, start: usize, end: usize) -> Result<Uri, Violation> {
    let target = bytes.slice(start..end);
    if target.first() != Some(&b'/') {
        return Uri::from_maybe_shared(target).map_err(|_| Violation::Target);
    }
    // The usual form, without the look for a scheme.
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target).map_err(|_| Violation::Target)?);
    Uri::from_parts(parts).map_err(|_| Violation::Target)
}

/// Reads a trailer section that was found lawful, without the empty line that ends it.
pub fn parse_trailers(bytes: &[u8]) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = memchr(b':', line) else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        trailers.try_append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?).ok()?;
    }
    Some(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::{HeadLimits, check_head};
    use proptest::prelude::*;

    fn request_of(text: &str) -> Request<()> {
        let mut request = Request::default();
        parse(&Bytes::copy_from_slice(text.as_bytes()), &mut request).unwrap();
        request
    }

    fn read(text: &str) -> Arrived {
        parse(&Bytes::copy_from_slice(text.as_bytes()), &mut Request::new(())).unwrap()
    }

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let request = request_of("POST /a?b HTTP/1.1\r\nHost: a\r\nX:\t 1 2 \t\r\nx: 3\r\nempty:\r\n\r\n");
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/a?b"));
        assert_eq!(request.version(), Version::HTTP_11);
        assert_eq!(request.headers().get_all("x").iter().collect::<Vec<_>>(), ["1 2", "3"]);
        assert_eq!(request.headers()["empty"], "");
        let absolute = request_of("GET http://b:1/p HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(absolute.uri().authority().map(|authority| authority.as_str()), Some("b:1"));
        assert_eq!(request_of("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").uri().path(), "*");
    }

    #[test]
    fn a_connection_lives_on_by_default_since_http11() {
        for (version, connection, keeps_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: foo, Close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let arrived = read(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n"));
            assert_eq!(arrived.asked.keeps_alive, keeps_alive, "{version} {connection:?}");
        }
    }

    #[test]
    fn what_a_client_expects_and_takes_is_seen() {
        let arrived = read("HEAD / HTTP/1.1\r\nHost: a\r\nTE: deflate, Trailers\r\nExpect: 100-Continue\r\n\r\n");
        assert!(arrived.expects && arrived.asked.takes_trailers && arrived.asked.is_head);
        assert!(!read("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects, "HTTP/1.0 knows no 100");
    }

    #[test]
    fn trailers_are_read_as_they_are_written() {
        let trailers = parse_trailers(b"A: 1 \r\nb:2\r\nb:\t3\r\n").unwrap();
        assert_eq!(trailers["a"], "1");
        assert_eq!(trailers.get_all("b").iter().collect::<Vec<_>>(), ["2", "3"]);
    }

    proptest! {
        /// What the gate lets pass can be read: nobody is let in only to be refused behind it.
        #[test]
        fn every_lawful_head_can_be_read(
            target in "(/[!-~]{0,12}|http://[a-z]{1,4}(:[0-9]{1,4})?/[!-~]{0,8}|\\*)",
            name in "[!-~]{1,6}",
            value in "[ -~\\t\u{80}-\u{ff}]{0,12}",
        ) {
            let text = format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n{name}:{value}\r\n\r\n");
            if let Ok(Some(head)) = check_head(text.as_bytes(), &HeadLimits::default()) {
                let head = Bytes::copy_from_slice(&text.as_bytes()[head.start..head.end]);
                let arrived = parse(&head, &mut Request::new(()));
                prop_assert!(arrived.is_ok(), "{text:?} {:?}", arrived.err());
            }
        }
    }
}
