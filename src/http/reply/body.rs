//! The body of an answer, as its head delimits it.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use super::{Framing, trimmed};
use crate::http::framing::{ChunkFollower, Violation};

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
