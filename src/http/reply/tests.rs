//! Answers whole and in pieces, lawful and not.

use bytes::BytesMut;
use http::HeaderMap;
use hyper::ext::ReasonPhrase;
use proptest::prelude::*;

use super::*;
use crate::http::framing::Violation;

const BOUNDS: HeadBounds = HeadBounds { fields_max: 6, bytes_max: 300 };

/// What a reader of pieces makes of an answer: its head, its body with the fields behind it, and the bytes left over.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    framing: Framing,
    is_last: bool,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    left: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Why {
    Head(Fault),
    Body(Violation),
    Cut,
}

fn lines(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// Reads an answer that comes in these pieces, after which the connection ends. Interim heads are passed over.
fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, asked: Asked) -> Result<Read, Why> {
    let mut pieces = pieces.into_iter();
    let mut buffer = BytesMut::new();
    let (mut head, mut spare) = (HeadReader::default(), HeaderMap::new());
    let found = loop {
        match head.read(&mut buffer, BOUNDS, asked, &mut spare).map_err(Why::Head)? {
            Some(head) if head.parts.status.is_informational() => {}
            Some(head) => break head,
            None => buffer.extend_from_slice(pieces.next().ok_or(Why::Cut)?),
        }
    };
    let mut body = BodyReader::new(found.framing);
    let mut read = Read {
        status: found.parts.status.as_u16(),
        fields: lines(&found.parts.headers),
        framing: found.framing,
        is_last: found.is_last,
        body: Vec::new(),
        trailers: Vec::new(),
        left: 0,
    };
    loop {
        match body.read(&mut buffer).map_err(Why::Body)? {
            Piece::Data(data) => {
                assert!(!data.is_empty());
                read.body.extend_from_slice(&data);
            }
            Piece::Trailers(fields) => read.trailers = lines(&fields),
            Piece::End => break,
            Piece::More => {
                assert!(buffer.is_empty(), "what is here is used up");
                match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None if body.end() => break,
                    None => return Err(Why::Cut),
                }
            }
        }
    }
    assert!(body.is_over());
    read.left = buffer.len() + pieces.map(<[u8]>::len).sum::<usize>();
    Ok(read)
}

fn whole(bytes: &[u8]) -> Result<Read, Why> {
    read([bytes], Asked::Other)
}

/// A rule that more bytes break than one may be told by another of them when they come one by one, but it is told.
fn assert_same_in_pieces(bytes: &[u8], asked: Asked) {
    let expected = read([bytes], asked);
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        let read = read([first, second], asked);
        assert_eq!(read.as_ref().ok(), expected.as_ref().ok(), "cut at {at}: {:?}", String::from_utf8_lossy(bytes));
        assert_eq!(read.is_ok(), expected.is_ok());
    }
    let one_by_one = read(bytes.chunks(1), asked);
    assert_eq!(one_by_one.as_ref().ok(), expected.as_ref().ok(), "{:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn lawful_answers_are_read_and_the_same_wherever_they_are_cut() {
    let cases: &[(&str, Asked, Framing, bool, &str, usize)] = &[
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Asked::Other, Framing::Length(2), false, "ok", 0),
        ("HTTP/1.1 200 OK\r\nContent-Length:\t2 \r\n\r\nokmore", Asked::Other, Framing::Length(2), false, "ok", 4),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Asked::Other, Framing::Length(0), false, "", 0),
        ("HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", Asked::Other, Framing::Length(0), false, "", 0),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", Asked::Other, Framing::Close, true, "to the end", 0),
        ("HTTP/1.0 200 OK\r\n\r\n", Asked::Other, Framing::Close, true, "", 0),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", Asked::Other, Framing::Length(1), true, "x", 0),
        (
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
            Asked::Other,
            Framing::Length(0),
            true,
            "",
            0,
        ),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", Asked::Other, Framing::Length(0), false, "", 0),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", Asked::Other, Framing::Length(0), false, "", 0),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Asked::Head, Framing::Length(0), false, "", 0),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Asked::Head, Framing::Length(0), false, "", 0),
        ("HTTP/1.1 200 OK\r\n\r\n", Asked::Connect, Framing::Length(0), true, "", 0),
        ("HTTP/1.1 403 No\r\ncontent-length: 1\r\n\r\nn", Asked::Connect, Framing::Length(1), false, "n", 0),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;x=\"y\"\r\nwh\r\n3\r\nole\r\n0\r\n\r\nH",
            Asked::Other,
            Framing::Chunked,
            false,
            "whole",
            1,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
            Asked::Other,
            Framing::Length(1),
            false,
            "x",
            0,
        ),
    ];
    for (text, asked, framing, is_last, body, left) in cases {
        let read = read([text.as_bytes()], *asked).unwrap_or_else(|why| panic!("{text:?}: {why:?}"));
        assert_eq!((read.framing, read.is_last), (*framing, *is_last), "{text:?}");
        assert_eq!((&*read.body, read.left), (body.as_bytes(), *left), "{text:?}");
        assert_same_in_pieces(text.as_bytes(), *asked);
    }
}

#[test]
fn fields_are_kept_as_they_are_but_for_the_case_of_names_and_the_blanks_around_values() {
    let bytes = b"HTTP/1.1 200 OK\r\nX-A: \t one  two\t \r\nset-cookie:a\r\nSet-Cookie: b\r\nx-empty:\r\nx-odd: caf\xe9:\t\x80\r\ncontent-length: 0\r\n\r\n";
    let read = whole(bytes).unwrap();
    let expected: [(&str, &[u8]); 6] = [
        ("x-a", b"one  two"),
        ("set-cookie", b"a"),
        ("set-cookie", b"b"),
        ("x-empty", b""),
        ("x-odd", b"caf\xe9:\t\x80"),
        ("content-length", b"0"),
    ];
    let fields: Vec<_> = read.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(fields, expected);
    assert_same_in_pieces(bytes, Asked::Other);
}

#[test]
fn a_reason_of_ones_own_is_kept_and_the_usual_one_is_not() {
    for (reason, kept) in [("OK", None), ("", None), ("Fine, caf\u{e9}", Some("Fine, caf\u{e9}"))] {
        let mut buffer = BytesMut::from(format!("HTTP/1.1 200 {reason}\r\n\r\n").as_bytes());
        let head = HeadReader::default().read(&mut buffer, BOUNDS, Asked::Other, &mut HeaderMap::new());
        let parts = head.unwrap().unwrap().parts;
        let found = parts.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
        assert_eq!(found, kept.map(str::as_bytes));
    }
}

#[test]
fn fields_behind_the_chunks_are_read() {
    let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7 \r\nx-sum:8\r\n\r\n";
    let read = whole(text.as_bytes()).unwrap();
    assert_eq!(read.trailers, [("x-sum".to_owned(), b"7".to_vec()), ("x-sum".to_owned(), b"8".to_vec())]);
    assert_same_in_pieces(text.as_bytes(), Asked::Other);
}

#[test]
fn heads_that_break_a_rule_are_refused_with_the_reason() {
    let cases: &[(&str, Fault)] = &[
        ("SSH-2.0-x", Fault::StatusLine),
        ("<", Fault::StatusLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::StatusLine),
        (" HTTP/1.1 200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.2 200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1  200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1\t200 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 099 Low\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 200\tOK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 200 O\0K\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 200 O\rK\r\n\r\n", Fault::StatusLine),
        ("HTTP/1.1 200 OK\n", Fault::LineEnd),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\n", Fault::LineEnd),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\n", Fault::LineEnd),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\n: x\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx : y\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx: y\r\n z: folded\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx: y\r\n\tfolded\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx: a\r\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx: \0\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx: \x7f\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\nx(y): z\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\n\r\r\n\r\n", Fault::Field),
        ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0x1\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775808\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ncontent-length: 00000000000000000001\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\n", Fault::Length),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: x\r\n\r\n", Fault::Length),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n", Fault::Coding),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n", Fault::Coding),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Fault::Coding),
    ];
    for (text, fault) in cases {
        for bytes in [text.to_string(), format!("HTTP/1.1 100 Continue\r\n\r\n{text}")] {
            assert_eq!(whole(bytes.as_bytes()), Err(Why::Head(*fault)), "{bytes:?}");
            assert_same_in_pieces(bytes.as_bytes(), Asked::Other);
        }
    }
}

#[test]
fn heads_are_bounded_to_the_byte_and_the_field() {
    let long = |length: usize| {
        let rest = length - "HTTP/1.1 200 OK\r\nx: \r\n\r\n".len();
        format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(rest))
    };
    let many = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
    for (bytes, fits) in [(long(300), true), (long(301), false), (many(6), true), (many(7), false)] {
        let read = whole(bytes.as_bytes());
        assert_eq!(read.is_ok(), fits, "{bytes:?}: {read:?}");
        if !fits {
            assert_eq!(read, Err(Why::Head(Fault::TooLarge)), "{bytes:?}");
        }
        assert_same_in_pieces(bytes.as_bytes(), Asked::Other);
    }
    // What cannot fit any more is refused before it ends.
    for bytes in ["HTTP/1.1 200 ".to_owned() + &"y".repeat(287), many(7)] {
        let bytes = bytes.strip_suffix("\r\n").unwrap_or(&bytes);
        assert_eq!(whole(bytes.as_bytes()), Err(Why::Head(Fault::TooLarge)), "{bytes:?}");
    }
}

#[test]
fn bodies_that_break_a_rule_or_break_off_are_never_whole() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases: &[(&str, Why)] = &[
        ("", Why::Cut),
        ("4\r\npart", Why::Cut),
        ("4\r\npart\r\n", Why::Cut),
        ("4\r\npart\r\n0", Why::Cut),
        ("4\r\npart\r\n0\r\n", Why::Cut),
        ("4\r\npart\r\n0\r\nx: y\r\n", Why::Cut),
        ("4\r\npart0\r\n\r\n", Why::Body(Violation::ChunkEnd)),
        ("4\r\npartly\r\n", Why::Body(Violation::ChunkEnd)),
        ("4\npart\r\n0\r\n\r\n", Why::Body(Violation::ChunkSize)),
        ("4\r\npart\n0\r\n\r\n", Why::Body(Violation::ChunkEnd)),
        ("-1\r\n", Why::Body(Violation::ChunkSize)),
        ("0x4\r\npart\r\n0\r\n\r\n", Why::Body(Violation::ChunkSize)),
        ("\r\n", Why::Body(Violation::ChunkSize)),
        ("8000000000000000\r\n", Why::Body(Violation::ChunkSize)),
        ("4;\r\npart\r\n0\r\n\r\n", Why::Body(Violation::ChunkExtension)),
        ("0\r\nno colon\r\n\r\n", Why::Body(Violation::Trailer)),
        ("0\r\nx: y\n\r\n", Why::Body(Violation::Trailer)),
        ("0\r\ncontent-length: 5\r\n\r\n", Why::Body(Violation::Trailer)),
    ];
    for (body, why) in cases {
        let bytes = format!("{head}{body}");
        assert_eq!(whole(bytes.as_bytes()).as_ref(), Err(why), "{body:?}");
        assert_same_in_pieces(bytes.as_bytes(), Asked::Other);
    }
    assert_eq!(whole(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok"), Err(Why::Cut));
    let floods = ["x: y\r\n".repeat(65), format!("x: {}", "y".repeat(9000))];
    for flood in floods {
        let bytes = format!("{head}0\r\n{flood}");
        assert_eq!(whole(bytes.as_bytes()), Err(Why::Body(Violation::TrailersTooLarge)));
    }
    let extensions = format!("{head}1;{}\r\n", "x".repeat(9000));
    assert_eq!(whole(extensions.as_bytes()), Err(Why::Body(Violation::ChunkExtensionsTooLarge)));
}

#[test]
fn what_broke_stays_broken() {
    let mut body = BodyReader::new(Framing::Chunked);
    let mut buffer = BytesMut::from("nonsense\r\n0\r\n\r\n");
    assert!(body.read(&mut buffer).is_err());
    buffer.clear();
    buffer.extend_from_slice(b"0\r\n\r\n");
    assert!(body.read(&mut buffer).is_err());
    assert!(!body.end() && !body.is_over());
}

proptest! {
    #[test]
    fn any_lawful_answer_is_read_as_it_was_meant_wherever_it_is_cut(
        interim in 0_usize..3,
        fields in prop::collection::vec(("[a-z][a-z0-9-]{0,8}", "[!-~]([ -~]{0,8}[!-~])?"), 0..4),
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
        trailer in prop::option::of("[!-~]{1,9}"),
        kind in 0..3,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assume!(fields.iter().all(|(name, _)| !matches!(&**name, "connection" | "content-length" | "transfer-encoding")));
        let body = chunks.concat();
        let mut bytes = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(interim);
        bytes.extend(b"HTTP/1.1 200 OK\r\n");
        for (name, value) in &fields {
            bytes.extend(format!("{name}: {value}\r\n").as_bytes());
        }
        match kind {
            0 => {
                bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend(&body);
                bytes.extend(b"behind");
            }
            1 => {
                bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in &chunks {
                    bytes.extend(format!("{:X}\r\n", chunk.len()).as_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n");
                if let Some(trailer) = &trailer {
                    bytes.extend(format!("x-end: {trailer}\r\n").as_bytes());
                }
                bytes.extend(b"\r\nbehind");
            }
            _ => {
                bytes.extend(b"\r\n");
                bytes.extend(&body);
            }
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut from = 0;
        let mut pieces = Vec::new();
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        let read = read(pieces, Asked::Other).unwrap();
        prop_assert_eq!(&read.body, &body);
        prop_assert_eq!(read.left, if kind == 2 { 0 } else { "behind".len() });
        let framing = usize::from(kind != 2);
        prop_assert_eq!(read.fields.len(), fields.len() + framing);
        for (name, value) in &fields {
            prop_assert!(read.fields.contains(&(name.clone(), value.clone().into_bytes())));
        }
        let expected = trailer.filter(|_| kind == 1);
        prop_assert_eq!(read.trailers.first().map(|(_, value)| value.clone()), expected.map(String::into_bytes));
    }

    #[test]
    fn no_bytes_make_it_panic_and_all_cuts_read_alike(
        bytes in prop::collection::vec(prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"content-length: 3\r\n".to_vec()),
            Just(b"transfer-encoding: chunked\r\n".to_vec()),
            Just(b"2\r\nab\r\n".to_vec()),
            Just(b"0\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ], 0..8).prop_map(|pieces| pieces.concat()),
    ) {
        assert_same_in_pieces(&bytes, Asked::Other);
    }
}
