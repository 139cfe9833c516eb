//! What an upstream answers is read in one way: the same however its bytes are cut, and as the strict reader of the tests
//! reads it.
//!
//! The first byte says what was asked for and where the bytes are cut.

#![no_main]

use armiger::http::reply::{Asked, BodyReader, Framing, HeadBounds, HeadReader, Piece};
use bytes::BytesMut;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use message::Head;

#[path = "../../tests/harness/message.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod message;

const BOUNDS: HeadBounds = HeadBounds { fields_max: 20, bytes_max: 2048 };

/// All that is read of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    framing: Framing,
    is_last: bool,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Where it ends, if that is in the bytes.
    end: Option<usize>,
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let asked = match first % 3 {
        0 => Asked::Other,
        1 => Asked::Head,
        _ => Asked::Connect,
    };
    let whole = read(bytes, bytes.len().max(1), asked);
    assert_eq!(whole, read(bytes, 1, asked), "one by one it is another answer");
    assert_eq!(whole, read(bytes, usize::from(first / 3) + 1, asked), "in pieces it is another answer");
});

/// None where a rule is broken, or the head is not whole.
fn read(bytes: &[u8], length: usize, asked: Asked) -> Option<Answer> {
    let mut pieces = bytes.chunks(length);
    let mut buffer = BytesMut::new();
    let (mut given, mut start) = (0, 0);
    let (mut reader, mut spare) = (HeadReader::default(), HeaderMap::new());
    let head = loop {
        let head = reader.read(&mut buffer, BOUNDS, asked, &mut spare).ok()?;
        if let Some(head) = head {
            let end = given - buffer.len();
            check(&bytes[start..end], &head, asked);
            if !head.parts.status.is_informational() {
                break head;
            }
            start = end;
        } else {
            let piece = pieces.next()?;
            given += piece.len();
            buffer.extend_from_slice(piece);
        }
    };
    let mut answer = Answer {
        status: head.parts.status.as_u16(),
        headers: head.parts.headers,
        framing: head.framing,
        is_last: head.is_last,
        body: Vec::new(),
        trailers: None,
        end: None,
    };
    let mut body = BodyReader::new(head.framing);
    loop {
        match body.read(&mut buffer).ok()? {
            Piece::Data(data) => {
                assert!(!data.is_empty(), "no data is no piece");
                answer.body.extend_from_slice(&data);
            }
            Piece::Trailers(fields) => answer.trailers = Some(fields),
            Piece::End => break,
            Piece::More => {
                assert!(buffer.is_empty(), "bytes are left that are not looked at");
                let Some(piece) = pieces.next() else {
                    assert_eq!(body.end(), head.framing == Framing::Close, "a cut answer looks whole");
                    return Some(answer);
                };
                given += piece.len();
                buffer.extend_from_slice(piece);
            }
        }
    }
    answer.end = Some(given - buffer.len());
    Some(answer)
}

/// The strict reader finds the same in the bytes of a head.
fn check(bytes: &[u8], head: &armiger::http::reply::Head, asked: Asked) {
    assert!(bytes.len() <= BOUNDS.bytes_max && head.parts.headers.len() <= BOUNDS.fields_max, "a bound is passed");
    // What is no text in a reason is not for the strict reader.
    let line = bytes.iter().position(|byte| *byte == b'\r').unwrap_or(0);
    if std::str::from_utf8(&bytes[..line]).is_err() {
        return;
    }
    let strict = Head::parse(bytes).unwrap_or_else(|why| panic!("armiger reads a head that breaks: {why}"));
    assert_eq!(strict.headers, head.parts.headers, "the fields are others");
    let framing = strict.framing(message::Framing::Close);
    let framing = framing.unwrap_or_else(|why| panic!("armiger reads an ambiguous length: {why}"));
    let status = head.parts.status;
    let is_bodiless = status.is_informational() || status == 204 || status == 304 || asked == Asked::Head;
    let expected = match framing {
        _ if is_bodiless || (asked == Asked::Connect && status.is_success()) => Framing::Length(0),
        message::Framing::Length(length) => Framing::Length(length),
        message::Framing::Chunked => Framing::Chunked,
        message::Framing::None | message::Framing::Close => Framing::Close,
    };
    assert_eq!(expected, head.framing, "the body is framed in two ways");
}
