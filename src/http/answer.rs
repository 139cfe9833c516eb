//! The head of an HTTP/1.1 answer as bytes, and how its body is framed (RFC 9112 §6).

use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::decimal::Decimal;
use super::trailers::announced;

/// What of a request decides how its answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// By HTTP/1.0: no chunks, and the connection lives on only if the client wishes so.
    pub is_http10: bool,
    /// By HEAD: no body.
    pub is_head: bool,
    /// The connection may serve another request.
    pub keeps_alive: bool,
    /// The client reads trailers.
    pub takes_trailers: bool,
}

/// How long the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// Nobody knows yet.
    Unknown,
}

/// How a body is delimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No byte of it goes out.
    None,
    /// So many bytes are still to go out.
    Length(u64),
    /// Chunks, and these trailers if they come.
    Chunked(Vec<HeaderName>),
    /// The end of the connection ends it.
    UntilClose,
}

/// The most bytes of a chunk's size and the line end behind it.
const CHUNK_SIZE_MAX: usize = 18;

/// The bytes of a head that most do with.
const HEAD_USUAL: usize = 1024;

/// Writes the head, and says how the body follows and whether the connection ends with it.
///
/// What `head` says of length and transfer coding is not believed where there is a body to go by: two readers of one
/// answer must find the same end.
pub fn write_head(
    out: &mut Vec<u8>,
    head: &mut Parts,
    length: Length,
    asked: Asked,
    date: &HeaderValue,
) -> (Framing, bool) {
    let mut length = length;
    let mut is_last = !asked.keeps_alive;
    if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
        // An interim answer is no answer; nobody here gives one.
        head.status = StatusCode::INTERNAL_SERVER_ERROR;
        head.headers.clear();
        (length, is_last) = (Length::None, true);
    }
    let is_bodiless =
        head.status.is_informational() || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // What most take, and the buffer goes round: to add up what this one takes would cost each of them.
    out.reserve(HEAD_USUAL);
    status_line(out, head, asked);
    let framing = body(&head.headers, length, asked, is_bodiless);
    let mut has_date = false;
    let mut says_close = false;
    for (name, value) in &head.headers {
        match *name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            // Announced is what may come: nothing without chunks, or to a client that reads none.
            header::TRAILER if !matches!(&framing, Framing::Chunked(announced) if !announced.is_empty()) => continue,
            header::CONNECTION if has_token(value, b"close") => (is_last, says_close) = (true, true),
            header::DATE => has_date = true,
            _ => {}
        }
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    match &framing {
        Framing::Length(length) => write_length(out, *length),
        Framing::Chunked(_) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::UntilClose => is_last = true,
        // What a GET would have brought, as far as that is known (RFC 9110 §8.6).
        Framing::None if asked.is_head && !is_bodiless => match (told_length(&head.headers), length) {
            (Some(told), _) => write_length(out, told),
            (None, Length::Known(known)) if known > 0 => write_length(out, known),
            _ => {}
        },
        Framing::None if !is_bodiless => out.extend_from_slice(b"content-length: 0\r\n"),
        Framing::None => {}
    }
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        if is_last && !says_close && !asked.is_http10 {
            out.extend_from_slice(b"connection: close\r\n");
        } else if !is_last && asked.is_http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
    }
    if !has_date {
        line(out, b"date", date.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    (framing, is_last)
}

fn status_line(out: &mut Vec<u8>, head: &Parts, asked: Asked) {
    if head.status == StatusCode::OK && !asked.is_http10 && head.extensions.is_empty() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if asked.is_http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    match head.extensions.get::<hyper::ext::ReasonPhrase>() {
        Some(phrase) => out.extend_from_slice(phrase.as_bytes()),
        None => out.extend_from_slice(head.status.canonical_reason().unwrap_or("<none>").as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

fn body(headers: &HeaderMap, length: Length, asked: Asked, is_bodiless: bool) -> Framing {
    if asked.is_head || is_bodiless {
        return Framing::None;
    }
    match length {
        Length::None | Length::Known(0) => Framing::None,
        Length::Known(length) => Framing::Length(length),
        Length::Unknown => match told_length(headers) {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None if asked.is_http10 => Framing::UntilClose,
            None => Framing::Chunked(if asked.takes_trailers { announced(headers) } else { Vec::new() }),
        },
    }
}

/// The length that the headers tell, if they tell one.
fn told_length(headers: &HeaderMap) -> Option<u64> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let value = lines.next()?.as_bytes();
    let is_number = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let is_only = lines.all(|other| other.as_bytes() == value);
    (is_number && is_only).then(|| value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Whether a list of tokens holds this one.
pub fn has_token(value: &HeaderValue, token: &[u8]) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

/// Writes what stands before the data of a chunk.
pub fn write_chunk_size(out: &mut Vec<u8>, size: usize) {
    let mut digits = [b'\n'; CHUNK_SIZE_MAX];
    let mut at = CHUNK_SIZE_MAX - 2;
    digits[at] = b'\r';
    let mut left = size;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes the end of a chunked body, with those of the trailers that were `announced`.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)) {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    line(out, b"content-length", Decimal::of(length).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    const KEEPS: Asked = Asked { is_http10: false, is_head: false, keeps_alive: true, takes_trailers: false };

    /// The head but for status line and date, how the body follows, and whether the connection ends.
    fn written(status: u16, headers: &[(&str, &str)], length: Length, asked: Asked) -> (String, Framing, bool) {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        let (framing, is_last) =
            write_head(&mut out, &mut head, length, asked, &HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
        let text = String::from_utf8(out).unwrap();
        let (first, rest) = text.split_once("\r\n").unwrap();
        let version = if asked.is_http10 { "HTTP/1.0" } else { "HTTP/1.1" };
        assert!(first.starts_with(&format!("{version} ")), "{first}");
        let rest = rest.strip_suffix("date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n").expect("a date at the end");
        (rest.replace("\r\n", "|"), framing, is_last)
    }

    #[test]
    fn a_body_is_framed_by_its_length_or_by_chunks() {
        let cases = [
            (200, Length::Known(5), KEEPS, "content-length: 5|", Framing::Length(5), false),
            (200, Length::None, KEEPS, "content-length: 0|", Framing::None, false),
            (200, Length::Known(0), KEEPS, "content-length: 0|", Framing::None, false),
            (200, Length::Unknown, KEEPS, "transfer-encoding: chunked|", Framing::Chunked(vec![]), false),
            (204, Length::None, KEEPS, "", Framing::None, false),
            (204, Length::Known(5), KEEPS, "", Framing::None, false),
            (304, Length::Unknown, KEEPS, "", Framing::None, false),
            (101, Length::None, KEEPS, "", Framing::None, false),
            (200, Length::Unknown, Asked { is_http10: true, ..KEEPS }, "", Framing::UntilClose, true),
            (200, Length::Known(5), Asked { is_head: true, ..KEEPS }, "content-length: 5|", Framing::None, false),
            (200, Length::Unknown, Asked { is_head: true, ..KEEPS }, "", Framing::None, false),
        ];
        for (status, length, asked, head, framing, is_last) in cases {
            let expected = (head.to_owned(), framing, is_last);
            assert_eq!(written(status, &[], length, asked), expected, "{status} {length:?} {asked:?}");
        }
    }

    #[test]
    fn what_headers_say_of_the_framing_is_believed_only_where_the_body_says_nothing() {
        let told = [("content-length", "7"), ("transfer-encoding", "gzip, chunked")];
        assert_eq!(written(200, &told, Length::Known(5), KEEPS).0, "content-length: 5|");
        assert_eq!(written(200, &told, Length::Unknown, KEEPS).1, Framing::Length(7));
        assert_eq!(written(200, &told, Length::Unknown, Asked { is_head: true, ..KEEPS }).0, "content-length: 7|");
        assert_eq!(written(200, &told, Length::None, KEEPS).0, "content-length: 0|");
        assert_eq!(written(204, &told, Length::None, KEEPS).0, "");
        for twice in [["7", "8"], ["x", "x"], ["", ""]] {
            let headers = twice.map(|value| ("content-length", value));
            assert_eq!(written(200, &headers, Length::Unknown, KEEPS).1, Framing::Chunked(vec![]), "{twice:?}");
        }
    }

    #[test]
    fn the_client_is_told_whether_the_connection_lives_on() {
        let old = Asked { is_http10: true, ..KEEPS };
        let cases = [
            (KEEPS, &[][..], "", false),
            (Asked { keeps_alive: false, ..KEEPS }, &[], "connection: close|", true),
            (KEEPS, &[("connection", "close")], "connection: close|", true),
            (old, &[], "connection: keep-alive|", false),
            (old, &[("connection", "close")], "connection: close|", true),
            (Asked { keeps_alive: false, ..old }, &[], "", true),
        ];
        for (asked, headers, connection, is_last) in cases {
            let (head, _, ends) = written(200, headers, Length::None, asked);
            assert_eq!((head.replace("content-length: 0|", "").as_str(), ends), (connection, is_last), "{asked:?}");
        }
    }

    #[test]
    fn an_interim_answer_is_no_answer() {
        assert_eq!(written(100, &[("x", "y")], Length::Known(5), KEEPS).0, "content-length: 0|connection: close|");
    }

    #[test]
    fn trailers_go_to_those_who_read_them_and_only_what_was_announced() {
        let announced = [("trailer", "X-Sum, content-length"), ("trailer", "x-more")];
        let asked = Asked { takes_trailers: true, ..KEEPS };
        let (head, framing, _) = written(200, &announced, Length::Unknown, asked);
        assert_eq!(head, "trailer: X-Sum, content-length|trailer: x-more|transfer-encoding: chunked|");
        let Framing::Chunked(names) = framing else { panic!("chunks") };
        let trailers = HeaderMap::from_iter([
            (HeaderName::from_static("x-sum"), HeaderValue::from_static("1")),
            (header::CONTENT_LENGTH, HeaderValue::from_static("9")),
            (HeaderName::from_static("x-other"), HeaderValue::from_static("2")),
        ]);
        let mut out = Vec::new();
        write_last_chunk(&mut out, Some(&trailers), &names);
        assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
        assert_eq!(written(200, &announced, Length::Unknown, KEEPS).1, Framing::Chunked(vec![]));
        assert_eq!(written(200, &announced, Length::Known(1), asked).0, "content-length: 1|");
    }

    #[test]
    fn a_chunk_tells_its_size_in_hexadecimal() {
        for size in [1, 15, 16, 255, 4096, usize::MAX] {
            let mut out = Vec::new();
            write_chunk_size(&mut out, size);
            assert_eq!(out, format!("{size:x}\r\n").as_bytes());
        }
    }
}
