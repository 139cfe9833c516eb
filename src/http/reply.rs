//! The strict rules of HTTP/1.1 answers, without any IO: where an answer's head ends, what stands in it, how its body is
//! delimited, and everything that is refused because two readers could take it in two ways.
//!
//! [`HeadReader`] reads a head while it arrives, [`BodyReader`] takes the body out of what follows. Both come to the same
//! result however the bytes are cut into reads.
//!
//! Where RFC 9112 leaves a choice, the stricter reading is taken:
//! - every line ends with CR LF, the status line is the first, and no line goes on with the next;
//! - two `Content-Length` lines are refused even when they agree, and so is one beside a `Transfer-Encoding`;
//! - no coding but a single `chunked` is taken, and none from HTTP/1.0;
//! - a byte behind an answer belongs to no answer.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;
use memchr::memchr;
use smallvec::SmallVec;

use super::field_name;
use super::framing::{ChunkFollower, LENGTH_MAX, Violation};

/// How large the head of an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// Header lines.
    pub fields_max: usize,
    /// Bytes of status line and headers together, with the empty line that ends them.
    pub bytes_max: usize,
}

/// What is wrong with the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is larger than allowed.
    #[error("the head is too large")]
    TooLarge,
    /// A line that ends with LF alone.
    #[error("a line does not end with CR LF")]
    LineEnd,
    /// The first line is not `HTTP/1.0` or `HTTP/1.1`, a status of three digits, and perhaps a reason.
    #[error("the first line is no status line")]
    StatusLine,
    /// A line that is not a name, a colon and a value.
    #[error("a line is no header field")]
    Field,
    /// A `Content-Length` that is repeated or no number below 2^63.
    #[error("Content-Length is repeated or invalid")]
    Length,
    /// A `Transfer-Encoding` that is not `chunked` alone, or stands beside a length or in HTTP/1.0.
    #[error("Transfer-Encoding is not chunked alone")]
    Coding,
}

/// What was asked for, as far as it decides how the answer is read (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// An answer to `HEAD` has no body.
    Head,
    /// A positive answer to `CONNECT` has no end.
    Connect,
    /// Everything else.
    #[default]
    Other,
}

/// The head of an answer, perhaps of an interim one.
#[derive(Debug)]
pub struct Head {
    /// What it says.
    pub parts: response::Parts,
    /// How the body after it is delimited.
    pub framing: Framing,
    /// Whether the connection carries no other exchange after this one.
    pub is_last: bool,
}

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All bytes up to the end of the connection.
    Close,
}

/// So many lines need no allocation.
const LINES_INLINE: usize = 32;

/// Reads a head line by line while it arrives, and looks at each byte once.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Where each line that is here has its LF.
    ends: SmallVec<[usize; LINES_INLINE]>,
    /// Up to where the bytes were searched for one.
    searched: usize,
}

impl HeadReader {
    /// Goes on where the last call stopped, with `buffer` grown meanwhile. Takes a head that is whole out of it, and is new
    /// then. The fields come in `spare`, which is empty.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn read(
        &mut self,
        buffer: &mut BytesMut,
        bounds: HeadBounds,
        asked: Asked,
        spare: &mut HeaderMap,
    ) -> Result<Option<Head>, Fault> {
        let Some(end) = self.scan(buffer, bounds)? else { return Ok(None) };
        let bytes = buffer.split_to(end).freeze();
        let head = parse(&bytes, &self.ends, asked, std::mem::take(spare))?;
        self.reset();
        Ok(Some(head))
    }

    /// Forgets what it saw.
    pub fn reset(&mut self) {
        self.ends.clear();
        self.searched = 0;
    }

    /// Where the head ends.
    fn scan(&mut self, bytes: &[u8], bounds: HeadBounds) -> Result<Option<usize>, Fault> {
        const START: &[u8] = b"HTTP/1.";
        // What is no HTTP is told at its first bytes, not after a timeout.
        if self.ends.is_empty() && !bytes.iter().zip(START).all(|(byte, expected)| byte == expected) {
            return Err(Fault::StatusLine);
        }
        let mut start = self.ends.last().map_or(0, |end| end + 1);
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + found;
            if end >= bounds.bytes_max {
                return Err(Fault::TooLarge);
            }
            if end == 0 || bytes[end - 1] != b'\r' {
                return Err(Fault::LineEnd);
            }
            self.searched = end + 1;
            if end - 1 == start {
                return Ok(Some(end + 1));
            }
            start = end + 1;
            self.ends.push(end);
            // The first is the status line.
            if self.ends.len() > bounds.fields_max + 1 {
                return Err(Fault::TooLarge);
            }
        }
        self.searched = bytes.len();
        // At least one more byte has to come.
        if bytes.len() >= bounds.bytes_max { Err(Fault::TooLarge) } else { Ok(None) }
    }
}

/// Reads a head whose lines end there.
fn parse(bytes: &Bytes, ends: &[usize], asked: Asked, mut fields: HeaderMap) -> Result<Head, Fault> {
    let Some((&first, rest)) = ends.split_first() else { return Err(Fault::StatusLine) };
    let (version, status, reason) = status_line(&bytes[..first - 1]).ok_or(Fault::StatusLine)?;
    let (mut length, mut is_chunked) = (None, false);
    let mut is_last = version == Version::HTTP_10;
    fields.try_reserve(rest.len()).map_err(|_| Fault::TooLarge)?;
    let mut start = first + 1;
    for &end in rest {
        let line = &bytes[start..end - 1];
        let colon = field_name::end(line).ok_or(Fault::Field)?;
        let name = field_name::read(&line[..colon]).map_err(|_| Fault::Field)?;
        let (from, to) = trimmed(line, colon + 1);
        let value = &line[from..to];
        if name == CONTENT_LENGTH {
            if length.is_some() {
                return Err(Fault::Length);
            }
            length = Some(number(value).ok_or(Fault::Length)?);
        } else if name == TRANSFER_ENCODING {
            if is_chunked || version == Version::HTTP_10 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Coding);
            }
            is_chunked = true;
        } else if name == CONNECTION {
            is_last |= says_close(value);
        }
        // It refuses control bytes, a CR within a line among them.
        let value = HeaderValue::from_maybe_shared(bytes.slice(start + from..start + to)).map_err(|_| Fault::Field)?;
        fields.try_append(name, value).map_err(|_| Fault::TooLarge)?;
        start = end + 1;
    }
    let is_connected = asked == Asked::Connect && status.is_success();
    let framing = match length {
        Some(_) if is_chunked => return Err(Fault::Coding),
        _ if is_bodiless(status) || asked == Asked::Head || is_connected => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None if is_chunked => Framing::Chunked,
        None => Framing::Close,
    };
    let mut parts = Response::new(()).into_parts().0;
    (parts.version, parts.status, parts.headers) = (version, status, fields);
    if !reason.is_empty() && status.canonical_reason().is_none_or(|canonical| canonical.as_bytes() != reason) {
        let reason = ReasonPhrase::try_from(reason).map_err(|_| Fault::StatusLine)?;
        parts.extensions.insert(reason);
    }
    let is_last = is_last || is_connected || framing == Framing::Close;
    Ok(Head { parts, framing, is_last })
}

/// RFC 9110 §6.4.1. What follows a 101 is no HTTP.
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Version, status and reason (RFC 9112 §4). The blank before a reason that is not there may be missing too.
fn status_line(line: &[u8]) -> Option<(Version, StatusCode, &[u8])> {
    let (version, rest) = line.strip_prefix(b"HTTP/1.")?.split_first()?;
    let version = match version {
        b'1' => Version::HTTP_11,
        b'0' => Version::HTTP_10,
        _ => return None,
    };
    let (digits, rest) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let reason = match rest {
        [] => rest,
        [b' ', reason @ ..] => reason,
        _ => return None,
    };
    let is_text = reason.iter().all(|&byte| (byte >= b' ' && byte != 0x7f) || byte == b'\t');
    // Takes three digits from 100.
    let status = StatusCode::from_bytes(digits).ok()?;
    is_text.then_some((version, status, reason))
}

/// Where the value begins and ends that follows `from`, without the blanks around it.
fn trimmed(line: &[u8], mut from: usize) -> (usize, usize) {
    let mut to = line.len();
    let is_blank = |byte: u8| byte == b' ' || byte == b'\t';
    while from < to && is_blank(line[from]) {
        from += 1;
    }
    while from < to && is_blank(line[to - 1]) {
        to -= 1;
    }
    (from, to)
}

fn number(digits: &[u8]) -> Option<u64> {
    // 19 digits cannot overflow 64 bits.
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (number <= LENGTH_MAX).then_some(number)
}

/// Whether `close` is among the options of a `Connection` line.
pub fn says_close(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// What comes next of a body.
#[derive(Debug)]
pub enum Piece {
    /// Some of its data, never none.
    Data(Bytes),
    /// The fields behind it, and with them its end.
    Trailers(HeaderMap),
    /// Its end.
    End,
    /// What is here is used up.
    More,
}

/// Takes the body of an answer out of the bytes that follow its head.
#[derive(Debug, Default)]
pub struct BodyReader(Place);

#[derive(Debug, Default)]
enum Place {
    /// Its head is not here yet.
    Awaited,
    Length(u64),
    Chunks(Chunks),
    Close,
    Broken,
    #[default]
    Over,
}

#[derive(Debug, Default)]
struct Chunks {
    follower: ChunkFollower,
    /// What is here of the fields behind the last chunk.
    trailers: Vec<u8>,
}

impl BodyReader {
    /// Of an answer that has not begun.
    pub fn awaited() -> Self {
        Self(Place::Awaited)
    }

    /// Of an answer whose body is framed that way.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => Place::Over,
            Framing::Length(length) => Place::Length(length),
            Framing::Chunked => Place::Chunks(Chunks::default()),
            Framing::Close => Place::Close,
        })
    }

    /// Whether its head is here.
    pub fn has_begun(&self) -> bool {
        !matches!(self.0, Place::Awaited)
    }

    /// Whether nothing more belongs to it.
    pub fn is_over(&self) -> bool {
        matches!(self.0, Place::Over)
    }

    /// How many bytes of it are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self.0 {
            Place::Length(left) => Some(left),
            Place::Over => Some(0),
            _ => None,
        }
    }

    /// Takes what comes next out of `buffer`.
    ///
    /// # Errors
    /// The first rule that the bytes break. Everything after it is an error too.
    pub fn read(&mut self, buffer: &mut BytesMut) -> Result<Piece, Violation> {
        match &mut self.0 {
            Place::Over => Ok(Piece::End),
            Place::Broken => Err(Violation::ChunkEnd),
            _ if buffer.is_empty() => Ok(Piece::More),
            Place::Awaited => Ok(Piece::More),
            Place::Close => Ok(Piece::Data(buffer.split().freeze())),
            Place::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= here as u64;
                if *left == 0 {
                    self.0 = Place::Over;
                }
                Ok(Piece::Data(buffer.split_to(here).freeze()))
            }
            Place::Chunks(chunks) => {
                let read = chunks.read(buffer);
                match &read {
                    Ok(Piece::End | Piece::Trailers(_)) => self.0 = Place::Over,
                    Ok(_) => {}
                    Err(_) => self.0 = Place::Broken,
                }
                read
            }
        }
    }

    /// The connection ended. Says whether that is the body's end, which it is then.
    pub fn end(&mut self) -> bool {
        if matches!(self.0, Place::Close) {
            self.0 = Place::Over;
        }
        self.is_over()
    }
}

impl Chunks {
    fn read(&mut self, buffer: &mut BytesMut) -> Result<Piece, Violation> {
        // The follower bounds the trailers.
        let part = self.follower.part(buffer, &mut self.trailers)?;
        if !part.data.is_empty() {
            buffer.advance(part.data.start);
            return Ok(Piece::Data(buffer.split_to(part.data.len()).freeze()));
        }
        buffer.advance(part.consumed);
        if part.is_done { trailers(&std::mem::take(&mut self.trailers)) } else { Ok(Piece::More) }
    }
}

/// Reads a trailer section that a [`ChunkFollower`] let pass.
fn trailers(section: &[u8]) -> Result<Piece, Violation> {
    let mut fields = HeaderMap::new();
    for line in section.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let colon = memchr(b':', line).ok_or(Violation::Trailer)?;
        let (from, to) = trimmed(line, colon + 1);
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Violation::Trailer)?;
        let value = HeaderValue::from_bytes(&line[from..to]).map_err(|_| Violation::Trailer)?;
        fields.try_append(name, value).map_err(|_| Violation::TrailersTooLarge)?;
    }
    Ok(if fields.is_empty() { Piece::End } else { Piece::Trailers(fields) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
}
