//! Every rule of the framing, and that cuts change no verdict.

use std::error::Error;
use std::{fmt, io};

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes_max: 512, headers_max: 8, value_max: 480, target_max: 64 };

fn judge(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    check_head(bytes, &LIMITS)
}

/// The verdict when the bytes arrive one by one, as long as it takes.
fn judge_in_pieces(
    bytes: &[u8],
    limits: &HeadLimits,
    cuts: impl Iterator<Item = usize>,
) -> Result<Option<Head>, Violation> {
    let mut scanner = HeadScanner::default();
    for cut in cuts.chain([bytes.len()]) {
        if let Some(head) = scanner.scan(&bytes[..cut], limits)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn follow(bytes: &[u8]) -> Result<Step, Violation> {
    ChunkFollower::default().advance(bytes)
}

fn follow_in_pieces(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Step, Violation> {
    let mut follower = ChunkFollower::default();
    let mut at = 0;
    let mut is_done = false;
    for cut in cuts.chain([bytes.len()]) {
        let step = follower.advance(&bytes[at..cut])?;
        at += step.consumed;
        is_done = step.is_done;
        if is_done {
            break;
        }
        assert_eq!(at, cut, "an unfinished body takes all it is given");
    }
    Ok(Step { consumed: at, is_done })
}

#[test]
fn lawful_heads_pass_with_their_framing() {
    let cases: &[(&str, BodyFraming)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("GET / HTTP/1.0\r\n\r\n", BodyFraming::None),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("GET /p?q=/?%20a{}|^` HTTP/1.1\r\nhOsT:a\r\n\r\n", BodyFraming::None),
        ("GET /\"{}|^\\ HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("GET HTTPS://a.b:8080/p?q HTTP/1.1\r\nHost: a.b:8080\r\n\r\n", BodyFraming::None),
        ("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", BodyFraming::None),
        ("CONNECT [::1]:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", BodyFraming::None),
        ("M-SEARCH! / HTTP/1.1\r\nHost: a\r\n\r\n", BodyFraming::None),
        ("GET / HTTP/1.1\r\nHost: \t a-b_c.d:65535 \t\r\n\r\n", BodyFraming::None),
        ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", BodyFraming::None),
        ("GET / HTTP/1.1\r\nHost: [::]\r\nEmpty:\r\nBlank: \t\r\nTab: a\tb\r\n\r\n", BodyFraming::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", BodyFraming::None),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  7\t\r\n\r\n", BodyFraming::Length(7)),
        ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007\r\n\r\n", BodyFraming::Length(7)),
        ("POST / HTTP/1.0\r\nContent-Length: 9223372036854775807\r\n\r\n", BodyFraming::Length(LENGTH_MAX)),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", BodyFraming::Chunked),
        ("POST / HTTP/1.1\r\ntransfer-encoding:\tCHUNKED \r\nHost: a\r\n\r\n", BodyFraming::Chunked),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nX-Host: b\r\nTransfer-Encodings: x\r\n\r\n",
            BodyFraming::None,
        ),
    ];
    for (text, body) in cases {
        let start = text.find(|c| c != '\r' && c != '\n').unwrap();
        let expected = Ok(Some(Head { start, end: text.len(), body: *body }));
        assert_eq!(judge(text.as_bytes()), expected, "{text:?}");
        assert_eq!(judge(format!("{text}GET /next").as_bytes()), expected, "{text:?} and more");
    }
    let obs_text = b"GET / HTTP/1.1\r\nHost: a\r\nName: caf\xe9 \x80\xff\r\n\r\n";
    assert!(matches!(judge(obs_text), Ok(Some(_))));
}

#[test]
fn unlawful_heads_are_refused_with_their_reason() {
    let cases: &[(&str, Violation)] = &[
        // line ends
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BareLineEnd),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::BareLineEnd),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Violation::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Violation::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Violation::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\rB: c\r\n\r\n", Violation::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: c\rd\r\n\r\n", Violation::BareLineEnd),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Violation::BareLineEnd),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::LeadingLines),
        // request line
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
        ("\0GET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
        ("\u{16}\u{3}", Violation::Method),
        ("G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
        ("GETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Method),
        ("GET\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET /\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / HTTP/11\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / HTTP/1,1\r\nHost: a\r\n\r\n", Violation::RequestLine),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Violation::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Violation::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Violation::Version),
        // target
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /?q#f HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /<> HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /?\" HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("CONNECT [::1] HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        ("CONNECT http://a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Target),
        // header lines
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Violation::Folding),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\td\r\n\r\n", Violation::Folding),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nname\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nna me: b\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nna\0me: b\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nn\u{e9}: b\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nname[]: b\r\n\r\n", Violation::HeaderName),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: c\0\r\n\r\n", Violation::ControlByte),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: c\u{b}d\r\n\r\n", Violation::ControlByte),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: c\u{7f}d\r\n\r\n", Violation::ControlByte),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: \u{1}\r\n\r\n", Violation::ControlByte),
        // host
        ("GET / HTTP/1.1\r\n\r\n", Violation::HostMissing),
        ("GET http://a/ HTTP/1.1\r\nX: y\r\n\r\n", Violation::HostMissing),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Violation::HostRepeated),
        ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Violation::HostRepeated),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.0\r\nHost: \r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a%62\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a:+8\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", Violation::HostInvalid),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", Violation::HostInvalid),
        // lengths and codings
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{b}5\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n", Violation::LengthInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", Violation::LengthRepeated),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Violation::LengthRepeated),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Violation::CodingInvalid),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Violation::CodingUnsupported),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Violation::CodingRepeated,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            Violation::CodingRepeated,
        ),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Violation::CodingInHttp10),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            Violation::LengthAndCoding,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
            Violation::LengthAndCoding,
        ),
    ];
    for (text, violation) in cases {
        let bytes = text.as_bytes();
        assert_eq!(judge(bytes), Err(*violation), "{text:?}");
        assert_eq!(judge_in_pieces(bytes, &LIMITS, 1..bytes.len()), Err(*violation), "{text:?} byte by byte");
    }
}

#[test]
fn limits_are_kept_to_the_byte() {
    let head = |target: usize, headers: usize, pad: usize| {
        let lines = "B: c\r\n".repeat(headers - 1);
        format!("GET /{} HTTP/1.1\r\nHost: h{}\r\n{lines}\r\n", "t".repeat(target - 1), " ".repeat(pad))
    };
    let padding = LIMITS.bytes_max - head(1, 1, 0).len();
    let cases = [
        (head(LIMITS.target_max, 1, 1), None),
        (head(LIMITS.target_max + 1, 1, 1), Some(Violation::TargetTooLong)),
        (head(LIMITS.target_max + 100, 1, 1), Some(Violation::TargetTooLong)),
        (head(1, LIMITS.headers_max, 1), None),
        (head(1, LIMITS.headers_max + 1, 1), Some(Violation::TooManyHeaders)),
        (head(1, 1, padding), None),
        (head(1, 1, padding + 1), Some(Violation::HeadTooLarge)),
        ("/".repeat(600), Some(Violation::Method)),
        ("G".repeat(600), Some(Violation::Method)),
        (format!("GET /{}", "t".repeat(600)), Some(Violation::TargetTooLong)),
        (format!("GET / HTTP/1.1\r\nHost: {}", "h".repeat(600)), Some(Violation::HeadTooLarge)),
    ];
    for (text, violation) in cases {
        let bytes = text.as_bytes();
        assert_eq!(judge(bytes).err(), violation, "{text:?}");
        assert_eq!(judge_in_pieces(bytes, &LIMITS, 1..bytes.len()).err(), violation, "{text:?} byte by byte");
    }
}

#[test]
fn a_value_is_bounded_without_the_blanks_around_it() {
    let limits = HeadLimits { value_max: 5, ..LIMITS };
    for (value, violation) in [
        ("12345", None),
        ("123456", Some(Violation::HeaderTooLong)),
        ("   12345 \t ", None),
        ("   1 3456 \t ", Some(Violation::HeaderTooLong)),
        ("", None),
        ("              ", None),
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Rather-Long-A-Name:{value}\r\n\r\n");
        let bytes = text.as_bytes();
        assert_eq!(check_head(bytes, &limits).err(), violation, "{value:?}");
        assert_eq!(judge_in_pieces(bytes, &limits, 1..bytes.len()).err(), violation, "{value:?} byte by byte");
    }
}

#[test]
fn a_target_that_the_http_crate_cannot_hold_is_too_long_whatever_the_limit() {
    let limits = HeadLimits { bytes_max: 1 << 20, target_max: 1 << 20, ..LIMITS };
    let text = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "t".repeat(65_534));
    assert_eq!(check_head(text.as_bytes(), &limits), Err(Violation::TargetTooLong));
}

#[test]
fn every_target_that_passes_is_one_that_the_http_crate_takes() {
    for b in 0..=u8::MAX {
        for target in [vec![b'/', b], vec![b'/', b'?', b], [b"http://a".as_slice(), &[b]].concat(), vec![b]] {
            let Ok(text) = std::str::from_utf8(&target) else {
                continue;
            };
            if is_target(b"GET", &target) {
                assert!(text.parse::<http::Uri>().is_ok(), "{text:?}");
            }
        }
    }
}

#[test]
fn lawful_chunked_bodies_end_where_they_should() {
    let cases = [
        "0\r\n\r\n",
        "0000000000000000\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "00005\r\nhello\r\n0\r\n\r\n",
        "5;a\r\nhello\r\n0;b=c;d=\"e f\\\" \\\\ ;\";g\r\n\r\n",
        "5 ; a = b\t;c\r\nhello\r\n0\r\n\r\n",
        "3\r\n\r\n\n\r\n0\r\n\r\n",
        "0\r\nExpires: never\r\nX:\r\nA-Rather-Long-Name-For-A-Trailer: \t caf\u{e9}\r\n\r\n",
    ];
    let hexadecimal = format!("aB\r\n{}\r\n0\r\n\r\n", "x".repeat(0xab));
    for text in cases.into_iter().chain([hexadecimal.as_str()]) {
        let bytes = text.to_owned();
        let expected = Ok(Step { consumed: bytes.len(), is_done: true });
        assert_eq!(follow(bytes.as_bytes()), expected, "{text:?}");
        assert_eq!(follow(format!("{bytes}GET /").as_bytes()), expected, "{text:?} and more");
        assert_eq!(follow_in_pieces(bytes.as_bytes(), 1..bytes.len()), expected, "{text:?} byte by byte");
    }
}

#[test]
fn unlawful_chunked_bodies_are_refused_with_their_reason() {
    let cases: &[(&str, Violation)] = &[
        ("\r\n", Violation::ChunkSize),
        (" 5\r\nhello\r\n", Violation::ChunkSize),
        ("0x5\r\nhello\r\n", Violation::ChunkSize),
        ("+5\r\nhello\r\n", Violation::ChunkSize),
        ("-5\r\nhello\r\n", Violation::ChunkSize),
        ("g\r\n", Violation::ChunkSize),
        (";a\r\n", Violation::ChunkSize),
        ("5\0\r\nhello\r\n", Violation::ChunkSize),
        ("5\nhello\r\n", Violation::ChunkSize),
        ("00000000000000005\r\nhello\r\n", Violation::ChunkSize),
        ("8000000000000000\r\n", Violation::ChunkSize),
        ("10000000000000005\r\nhello\r\n", Violation::ChunkSize),
        ("5\rhello\r\n", Violation::BareLineEnd),
        ("5 \r\nhello\r\n", Violation::ChunkExtension),
        ("5 5\r\nhello\r\n", Violation::ChunkExtension),
        ("5;\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a\nhello\r\n", Violation::ChunkExtension),
        ("5;a\rhello\r\n", Violation::BareLineEnd),
        ("5;\nhello\r\n", Violation::ChunkExtension),
        ("5;a=\r\nhello\r\n", Violation::ChunkExtension),
        ("5;=b\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a=b c\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a \r\nhello\r\n", Violation::ChunkExtension),
        ("5;a\0\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a=\"b\r\n\"\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a=\"b\n\"\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a=\"\0\"\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a=\"\\\r\"\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a=\"b\"c\r\nhello\r\n", Violation::ChunkExtension),
        ("5;a,b\r\nhello\r\n", Violation::ChunkExtension),
        ("5\r\nhello0\r\n\r\n", Violation::ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd),
        ("5\r\nhello\r0\r\n\r\n", Violation::ChunkEnd),
        ("5\r\nhello!\r\n0\r\n\r\n", Violation::ChunkEnd),
        ("5\r\nhell\r\n0\r\n\r\n", Violation::ChunkEnd),
        ("0\r\n\n", Violation::Trailer),
        ("0\r\n\rX", Violation::BareLineEnd),
        ("0\r\nX: y\n\r\n", Violation::Trailer),
        ("0\r\nX: y\rZ: a\r\n\r\n", Violation::BareLineEnd),
        ("0\r\nX: y\0\r\n\r\n", Violation::Trailer),
        ("0\r\nX: y\u{7f}\r\n\r\n", Violation::Trailer),
        ("0\r\n X: y\r\n\r\n", Violation::Trailer),
        ("0\r\nX : y\r\n\r\n", Violation::Trailer),
        ("0\r\nX\r\n\r\n", Violation::Trailer),
        ("0\r\n: y\r\n\r\n", Violation::Trailer),
        ("0\r\nX: y\r\n z\r\n\r\n", Violation::Trailer),
        ("0\r\ncontent-Length: 5\r\n\r\n", Violation::Trailer),
        ("0\r\nTRANSFER-ENCODING: chunked\r\n\r\n", Violation::Trailer),
        ("0\r\nHost: b\r\n\r\n", Violation::Trailer),
        ("0\r\nX: y\r\nHost: b\r\n\r\n", Violation::Trailer),
    ];
    for (text, violation) in cases {
        let bytes = text.as_bytes();
        assert_eq!(follow(bytes).err(), Some(*violation), "{text:?}");
        assert_eq!(follow_in_pieces(bytes, 1..bytes.len()).err(), Some(*violation), "{text:?} byte by byte");
    }
}

#[test]
fn chunk_overhead_is_bounded_over_the_whole_body() {
    let max = EXTENSION_BYTES_MAX as usize;
    let body = |chunks: usize| "1;ab\r\nx\r\n".repeat(chunks);
    assert!(follow(body(max / 3).as_bytes()).is_ok());
    assert_eq!(follow(body(max / 3 + 1).as_bytes()), Err(Violation::ChunkExtensionsTooLarge));

    let trailers = |count: usize| format!("0\r\n{}\r\n", "a:b\r\n".repeat(count));
    assert!(follow(trailers(usize::from(TRAILERS_MAX)).as_bytes()).is_ok());
    assert_eq!(follow(trailers(usize::from(TRAILERS_MAX) + 1).as_bytes()), Err(Violation::TrailersTooLarge));
    let long = format!("0\r\na:{}\r\n\r\n", "b".repeat(TRAILER_BYTES_MAX as usize));
    assert_eq!(follow(long.as_bytes()), Err(Violation::TrailersTooLarge));
}

#[test]
fn two_pipelined_requests_are_cut_at_the_same_places_wherever_the_reads_end() {
    let first = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "3;x=\"y\"\r\nabc\r\n0\r\nT: v\r\n\r\n";
    let second = "\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = [first, body, second].concat().into_bytes();
    for split in 0..stream.len() {
        let head = judge_in_pieces(&stream, &LIMITS, std::iter::once(split)).unwrap().unwrap();
        assert_eq!((head.end, head.body), (first.len(), BodyFraming::Chunked), "split at {split}");
        let rest = &stream[head.end..];
        let cut = split.saturating_sub(head.end).min(rest.len());
        let step = follow_in_pieces(rest, std::iter::once(cut)).unwrap();
        assert_eq!(step, Step { consumed: body.len(), is_done: true }, "split at {split}");
        let rest = &rest[step.consumed..];
        let cut = split.saturating_sub(first.len() + body.len()).min(rest.len());
        let head = judge_in_pieces(rest, &LIMITS, std::iter::once(cut)).unwrap().unwrap();
        assert_eq!((head.start, head.end, head.body), (2, second.len(), BodyFraming::None), "split at {split}");
    }
}

#[test]
fn a_violation_is_found_in_whatever_carries_it() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let carried = || io::Error::from(Violation::ChunkEnd);
    assert_eq!(Violation::of(&Violation::ChunkEnd), Some(Violation::ChunkEnd));
    assert_eq!(Violation::of(&carried()), Some(Violation::ChunkEnd));
    assert_eq!(Violation::of(&Outer(carried())), Some(Violation::ChunkEnd));
    assert_eq!(Violation::of(&io::Error::other(Outer(carried()))), Some(Violation::ChunkEnd));
    assert_eq!(Violation::of(&io::Error::other("else")), None);
    assert_eq!(Violation::of(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
}

/// Pieces of requests, lawful and not, that a random text is put together from.
fn head_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /a?b HTTP/1.0\r\n", "Host: a\r\n", "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n", "X: y\r\n", "\r\n", "\r\n\r\n", "GET ", " HTTP/1.1", "\r", "\n", " ", ":", "\0",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
        1 => (1..80_usize).prop_map(|n| vec![b'a'; n]),
    ]
}

fn chunk_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "1\r\nx\r\n", "3;a=b\r\nxyz\r\n", "0\r\n", "\r\n", "0\r\n\r\n", "X: y\r\n", "2", ";q=\"", "\"", "\r", "\n", " ", "\0",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}

proptest! {
    #[test]
    fn a_heads_verdict_does_not_depend_on_the_reads(
        pieces in prop::collection::vec(head_piece(), 0..10),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let limits = HeadLimits { bytes_max: 200, headers_max: 3, value_max: 12, target_max: 20 };
        let bytes = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = check_head(&bytes, &limits);
        prop_assert_eq!(judge_in_pieces(&bytes, &limits, cuts.into_iter()), whole);
        prop_assert_eq!(judge_in_pieces(&bytes, &limits, 1..bytes.len().max(1)), whole);
    }

    #[test]
    fn a_chunked_bodys_verdict_does_not_depend_on_the_reads(
        pieces in prop::collection::vec(chunk_piece(), 0..10),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = follow(&bytes);
        prop_assert_eq!(follow_in_pieces(&bytes, cuts.into_iter()), whole);
        prop_assert_eq!(follow_in_pieces(&bytes, 1..bytes.len().max(1)), whole);
    }
}
