//! HTTP/1.1 messages read byte by byte and strictly, by the book of RFC 9112 and by no library: what armiger sends must
//! mean one thing to every reader, so this one forgives nothing.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a message could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// The stream ended before the first byte.
    Closed,
    /// The stream ended within the head.
    CutInHead(Vec<u8>),
    /// The stream ended within the body; what came of it.
    CutInBody(Vec<u8>),
    /// The connection was reset; what had come of the message.
    Reset(Vec<u8>),
    /// The grammar is broken.
    Malformed(String),
}

/// How long a body is, by the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection closes. Answers only.
    Close,
}

/// A message's head.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request line or status line.
    pub line: String,
    /// Header fields.
    pub headers: HeaderMap,
    /// As it came, with the empty line.
    pub bytes: Vec<u8>,
}

impl Head {
    /// Reads a head that ends with an empty line.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = bytes.strip_suffix(b"\r\n\r\n").ok_or("the head does not end with an empty line")?;
        let mut lines = Vec::new();
        let mut rest = text;
        while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
            lines.push(&rest[..end]);
            rest = &rest[end + 2..];
        }
        lines.push(rest);
        let mut headers = HeaderMap::new();
        for line in &lines {
            if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                return Err(format!("CR, LF or NUL within a line: {:?}", String::from_utf8_lossy(line)));
            }
        }
        for line in &lines[1..] {
            let shown = String::from_utf8_lossy(line);
            let colon = line.iter().position(|byte| *byte == b':').ok_or(format!("no colon: {shown:?}"))?;
            // `from_bytes` refuses blanks in and around a name, and the folded lines of old.
            let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| format!("no header name: {shown:?}"))?;
            let value = line[colon + 1..].trim_ascii();
            let value = HeaderValue::from_bytes(value).map_err(|_| format!("no header value: {shown:?}"))?;
            headers.append(name, value);
        }
        let line = String::from_utf8(lines[0].to_vec()).map_err(|_| "the first line is not text")?;
        Ok(Self { line, headers, bytes: bytes.to_vec() })
    }

    /// How long the body is. `Err` where two readers might disagree.
    pub fn framing(&self, without: Framing) -> Result<Framing, String> {
        let lengths: Vec<_> = self.headers.get_all("content-length").iter().collect();
        let codings: Vec<_> = self.headers.get_all("transfer-encoding").iter().collect();
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(without),
            ([length], []) => {
                let digits = length.as_bytes();
                if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                    return Err(format!("Content-Length is no number: {length:?}"));
                }
                let number = length.to_str().ok().and_then(|text| text.parse().ok());
                number.map(Framing::Length).ok_or(format!("Content-Length is too big: {length:?}"))
            }
            ([], [coding]) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            ([], _) => Err(format!("transfer codings other than one `chunked`: {codings:?}")),
            (_, []) => Err(format!("several Content-Length: {lengths:?}")),
            _ => Err("both Content-Length and Transfer-Encoding".into()),
        }
    }

    /// Method, target and version of a request line.
    pub fn request_line(&self) -> Result<(String, String), String> {
        let parts: Vec<&str> = self.line.split(' ').collect();
        match parts.as_slice() {
            [method, target, "HTTP/1.1" | "HTTP/1.0"] if !method.is_empty() && !target.is_empty() => {
                Ok(((*method).into(), (*target).into()))
            }
            _ => Err(format!("no request line: {:?}", self.line)),
        }
    }

    /// Status of a status line.
    pub fn status(&self) -> Result<u16, String> {
        let line = self.line.as_bytes();
        let is_one = line.len() >= 13
            && (line.starts_with(b"HTTP/1.1 ") || line.starts_with(b"HTTP/1.0 "))
            && line[9..12].iter().all(u8::is_ascii_digit)
            && line[12] == b' ';
        let status = is_one.then(|| self.line[9..12].parse().ok()).flatten();
        status.filter(|status| (100..600).contains(status)).ok_or(format!("no status line: {:?}", self.line))
    }
}

/// A body, read whole.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Its bytes, without the framing.
    pub bytes: Vec<u8>,
    /// The fields after a chunked body.
    pub trailers: HeaderMap,
}

/// Reads messages off a stream.
pub struct Reader<S> {
    stream: S,
    ahead: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    /// Reads `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// The stream, to write to.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream. What was read ahead is lost.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// Reads more; 0 at the end.
    async fn more(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer).await?;
        self.ahead.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    /// Reads a head.
    pub async fn head(&mut self) -> Result<Head, Unreadable> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.ahead, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.ahead.drain(..end + 4).collect();
                return Head::parse(&bytes).map_err(Unreadable::Malformed);
            }
            match self.more().await {
                Ok(0) if self.ahead.is_empty() => return Err(Unreadable::Closed),
                Ok(0) => return Err(Unreadable::CutInHead(std::mem::take(&mut self.ahead))),
                Ok(_) => {}
                Err(_) => return Err(Unreadable::Reset(std::mem::take(&mut self.ahead))),
            }
        }
    }

    /// Reads a body.
    pub async fn body(&mut self, framing: Framing) -> Result<Content, Unreadable> {
        let mut content = Content::default();
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.exactly(length, &mut content.bytes).await?,
            Framing::Chunked => loop {
                let line = self.line(&content.bytes).await?;
                let size = chunk_size(&line).map_err(Unreadable::Malformed)?;
                if size == 0 {
                    content.trailers = self.trailers(&content.bytes).await?;
                    break;
                }
                self.exactly(size, &mut content.bytes).await?;
                let end = self.line(&content.bytes).await?;
                if !end.is_empty() {
                    return Err(Unreadable::Malformed(format!("{:?} after a chunk", String::from_utf8_lossy(&end))));
                }
            },
            Framing::Close => content.bytes = self.rest().await?,
        }
        Ok(content)
    }

    /// Reads until the stream ends.
    pub async fn rest(&mut self) -> Result<Vec<u8>, Unreadable> {
        loop {
            match self.more().await {
                Ok(0) => return Ok(std::mem::take(&mut self.ahead)),
                Ok(_) => {}
                Err(_) => return Err(Unreadable::Reset(std::mem::take(&mut self.ahead))),
            }
        }
    }

    /// Reads until at least one byte is there, and takes all that are.
    pub async fn some(&mut self) -> Result<Vec<u8>, Unreadable> {
        if self.ahead.is_empty() {
            match self.more().await {
                Ok(0) => return Err(Unreadable::Closed),
                Ok(_) => {}
                Err(_) => return Err(Unreadable::Reset(Vec::new())),
            }
        }
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Reads so many bytes to the end of `out`.
    async fn exactly(&mut self, length: u64, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        let mut left = length;
        loop {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.ahead.len());
            out.extend(self.ahead.drain(..take));
            left -= take as u64;
            if left == 0 {
                return Ok(());
            }
            self.more_of_body(out).await?;
        }
    }

    /// Reads a line that ends with CR LF, without them.
    async fn line(&mut self, body: &[u8]) -> Result<Vec<u8>, Unreadable> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return match line.strip_suffix(b"\r\n") {
                    Some(line) if !line.contains(&b'\r') => Ok(line.to_vec()),
                    _ => Err(Unreadable::Malformed(format!("bare CR or LF: {:?}", String::from_utf8_lossy(&line)))),
                };
            }
            self.more_of_body(body).await?;
        }
    }

    async fn trailers(&mut self, body: &[u8]) -> Result<HeaderMap, Unreadable> {
        let mut block = b"trailers\r\n".to_vec();
        loop {
            let line = self.line(body).await?;
            block.extend_from_slice(&line);
            block.extend_from_slice(b"\r\n");
            if line.is_empty() {
                return Head::parse(&block).map(|head| head.headers).map_err(Unreadable::Malformed);
            }
        }
    }

    async fn more_of_body(&mut self, body: &[u8]) -> Result<(), Unreadable> {
        match self.more().await {
            Ok(0) => Err(Unreadable::CutInBody(body.to_vec())),
            Ok(_) => Ok(()),
            Err(_) => Err(Unreadable::Reset(body.to_vec())),
        }
    }
}

/// The size of a chunk. A proxy has no business sending chunk extensions, so they are refused.
fn chunk_size(line: &[u8]) -> Result<u64, String> {
    let shown = String::from_utf8_lossy(line);
    if line.is_empty() || line.len() > 16 || !line.iter().all(u8::is_ascii_hexdigit) {
        return Err(format!("no chunk size: {shown:?}"));
    }
    u64::from_str_radix(&shown, 16).map_err(|_| format!("no chunk size: {shown:?}"))
}

/// Picks the heads out of a stream of requests, in constant memory: what a back end was sent, byte for byte.
#[derive(Debug, Default)]
pub struct HeadSplitter {
    state: State,
    heads: std::collections::VecDeque<Bytes>,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Length(u64),
    ChunkSize(Vec<u8>),
    Chunk(u64),
    Trailer(Vec<u8>),
    /// The framing is not clear, so nothing after it is either.
    Lost,
}

impl Default for State {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

impl HeadSplitter {
    /// The next head, if it has come whole.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.heads.pop_front()
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Head(head) => {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        let head = std::mem::take(head);
                        let framing = Head::parse(&head).and_then(|head| head.framing(Framing::None));
                        self.heads.push_back(head.into());
                        self.state = match framing {
                            Ok(Framing::None | Framing::Length(0)) => State::default(),
                            Ok(Framing::Length(length)) => State::Length(length),
                            Ok(Framing::Chunked) => State::ChunkSize(Vec::new()),
                            Ok(Framing::Close) | Err(_) => State::Lost,
                        };
                    }
                }
                State::Length(left) | State::Chunk(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= take as u64;
                    if *left == 0 {
                        self.state = match self.state {
                            State::Chunk(_) => State::ChunkSize(Vec::new()),
                            _ => State::default(),
                        };
                    }
                    bytes = &bytes[take..];
                    continue;
                }
                State::ChunkSize(line) => {
                    line.push(byte);
                    if line.ends_with(b"\r\n") {
                        self.state = match chunk_size(&line[..line.len() - 2]) {
                            Ok(0) => State::Trailer(Vec::new()),
                            Ok(size) => State::Chunk(size.saturating_add(2)),
                            Err(_) => State::Lost,
                        };
                    }
                }
                State::Trailer(line) => {
                    line.push(byte);
                    if line == b"\r\n" {
                        self.state = State::default();
                    } else if line.ends_with(b"\r\n") {
                        line.clear();
                    }
                }
                State::Lost => return,
            }
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(framing: Framing, bytes: &[u8]) -> Result<Content, Unreadable> {
        Reader::new(bytes).body(framing).await
    }

    #[tokio::test]
    async fn a_chunked_body_is_read_with_its_trailers() {
        let content = body(Framing::Chunked, b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\n").await.unwrap();
        assert_eq!(content.bytes, b"abc0123456789");
        assert_eq!(content.trailers["x-sum"], "7");
    }

    #[tokio::test]
    async fn lenient_chunks_are_refused() {
        for bytes in [
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3;x\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n",
            " 3\r\nabc\r\n",
        ] {
            let result = body(Framing::Chunked, bytes.as_bytes()).await;
            assert!(matches!(result, Err(Unreadable::Malformed(_))), "{bytes:?}: {result:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_body_is_no_body() {
        for (framing, bytes) in [(Framing::Length(5), "abc"), (Framing::Chunked, "3\r\nabc\r\n")] {
            let result = body(framing, bytes.as_bytes()).await;
            assert!(matches!(&result, Err(Unreadable::CutInBody(part)) if part == b"abc"), "{bytes:?}: {result:?}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for headers in [
            "content-length: 1\r\ncontent-length: 1",
            "content-length: 1, 1",
            "content-length: +1",
            "content-length:",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        ] {
            let head = Head::parse(format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()).unwrap();
            assert!(head.framing(Framing::None).is_err(), "{headers:?}");
        }
    }

    #[test]
    fn a_malformed_head_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\nname : x\r\n\r\n",
            "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
            "GET / HTTP/1.1\r\nname: a\rb\r\n\r\n",
            "GET / HTTP/1.1\nname: a\r\n\r\n",
            "GET / HTTP/1.1\r\nname\r\n\r\n",
        ] {
            assert!(Head::parse(head.as_bytes()).is_err(), "{head:?}");
        }
        for line in ["HTTP/1.1 200", "HTTP/1.1 20 OK", "HTTP/2 200 OK", "HTTP/1.1 099 x", "HTTP/1.1 600 x"] {
            let head = Head::parse(format!("{line}\r\n\r\n").as_bytes()).unwrap();
            assert!(head.status().is_err(), "{line:?}");
        }
    }

    #[test]
    fn heads_are_found_however_the_stream_is_cut() {
        let stream =
            b"POST /1 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcPOST /2 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
            2\r\nab\r\n0\r\nx: y\r\n\r\nGET /3 HTTP/1.1\r\n\r\nGET /4 HTTP/1.1\r\n\r\n";
        for size in 1..stream.len() {
            let mut splitter = HeadSplitter::default();
            stream.chunks(size).for_each(|part| splitter.feed(part));
            let mut targets = Vec::new();
            while let Some(head) = splitter.pop() {
                targets.push(Head::parse(&head).unwrap().request_line().unwrap().1);
            }
            assert_eq!(targets, ["/1", "/2", "/3", "/4"], "in parts of {size}");
        }
    }
}
