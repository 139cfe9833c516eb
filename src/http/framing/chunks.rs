//! Where a chunked body ends (RFC 9112 §7.1), without changing it.

use std::ops::Range;

use super::{LENGTH_MAX, TOKEN, Violation, is};

/// Bytes of chunk extensions in one whole body. Nobody uses them but those who smuggle with them (CVE-2025-55315), or who
/// make a body of one byte per chunk cost many.
pub const EXTENSION_BYTES_MAX: u32 = 8 * 1024;

/// Fields in one trailer section.
pub const TRAILERS_MAX: u16 = 64;

/// Bytes of one trailer section.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// How far a [`ChunkFollower`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that belong to the body: all of them unless the body ended before.
    pub consumed: usize,
    /// Whether the body is over, trailers and final empty line included.
    pub is_done: bool,
}

/// A part of a chunked body, see [`ChunkFollower::part`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes of the input that belong to the body.
    pub consumed: usize,
    /// Those of them that are data.
    pub data: Range<usize>,
    /// Whether the body is over, trailers and final empty line included.
    pub is_done: bool,
}

/// Follows a chunked body (RFC 9112 §7.1) to its end.
#[derive(Clone, Debug)]
pub struct ChunkFollower {
    place: Place,
    /// The size that is being read, then what is left of the chunk's data.
    left: u64,
    size_digits: u8,
    extension_bytes: u32,
    trailers: u16,
    trailer_bytes: u32,
    /// The name of the trailer that is being read, as far as it can be one of those refused.
    name: [u8; NAME_MAX],
    name_len: u8,
}

/// As long as the longest of [`NOT_IN_TRAILERS`].
const NAME_MAX: usize = 17;

/// Fields that frame or route a message and have no business behind it (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [&[u8]; 5] = [b"transfer-encoding", b"content-length", b"host", b"connection", b"trailer"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Size,
    // Blanks behind a size or an extension: lawful only when a semicolon follows (RFC 9112 §7.1.1, BWS).
    BeforeSemicolon,
    ExtensionStart,
    ExtensionName,
    AfterExtensionName,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Default for ChunkFollower {
    fn default() -> Self {
        Self {
            place: Place::Size,
            left: 0,
            size_digits: 0,
            extension_bytes: 0,
            trailers: 0,
            trailer_bytes: 0,
            name: [0; NAME_MAX],
            name_len: 0,
        }
    }
}

impl ChunkFollower {
    /// Follows the body over `bytes` as [`advance`](Self::advance) does, but no further than to the end of the first data
    /// in them. What is of the trailer section is added to `trailers`, up to the empty line that ends it.
    ///
    /// # Errors
    /// The first rule that the bytes break, however they were cut into calls.
    pub fn part(&mut self, bytes: &[u8], trailers: &mut Vec<u8>) -> Result<Part, Violation> {
        let mut at = 0;
        while at < bytes.len() && self.place != Place::Done {
            if self.place == Place::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= here as u64;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                return Ok(Part { consumed: at + here, data: at..at + here, is_done: false });
            }
            self.place = self.step(bytes[at])?;
            if matches!(self.place, Place::TrailerName | Place::TrailerValue | Place::TrailerLf)
                || self.place == Place::TrailerStart && !trailers.is_empty()
            {
                trailers.push(bytes[at]);
            }
            at += 1;
        }
        Ok(Part { consumed: at, data: at..at, is_done: self.place == Place::Done })
    }

    /// Follows the body over `bytes`, which go on where those of the last call ended. Chunk data is skipped, not looked at.
    ///
    /// # Errors
    /// The first rule that the bytes break, however they were cut into calls.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        let mut at = 0;
        while at < bytes.len() && self.place != Place::Done {
            if self.place == Place::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= here as u64;
                at += here;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
            } else {
                self.place = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(Step { consumed: at, is_done: self.place == Place::Done })
    }

    fn step(&mut self, b: u8) -> Result<Place, Violation> {
        match self.place {
            Place::Size => match (b, self.size_digits) {
                (b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F', _) => self.size_digit(b),
                (_, 0) => Err(Violation::ChunkSize),
                (b'\r', _) => Ok(Place::SizeLf),
                (b';', _) => self.extension(Place::ExtensionStart),
                (b' ' | b'\t', _) => self.extension(Place::BeforeSemicolon),
                _ => Err(Violation::ChunkSize),
            },
            Place::BeforeSemicolon
            | Place::ExtensionStart
            | Place::ExtensionName
            | Place::AfterExtensionName
            | Place::ValueStart
            | Place::Value
            | Place::Quoted
            | Place::QuotedPair
            | Place::AfterQuoted => {
                let next = self.extension_step(b).ok_or(Violation::ChunkExtension)?;
                if next == Place::SizeLf { Ok(next) } else { self.extension(next) }
            }
            Place::SizeLf if b != b'\n' => Err(Violation::BareLineEnd),
            Place::SizeLf => {
                self.size_digits = 0;
                Ok(if self.left == 0 { Place::TrailerStart } else { Place::Data })
            }
            Place::DataCr if b == b'\r' => Ok(Place::DataLf),
            Place::DataLf if b == b'\n' => Ok(Place::Size),
            Place::DataCr | Place::DataLf => Err(Violation::ChunkEnd),
            Place::TrailerStart if b == b'\r' => Ok(Place::EndLf),
            Place::TrailerStart => {
                self.trailers += 1;
                self.name_len = 0;
                if self.trailers > TRAILERS_MAX {
                    return Err(Violation::TrailersTooLarge);
                }
                self.trailer_name(b)
            }
            Place::TrailerName if b == b':' => {
                let name = self.name.get(..usize::from(self.name_len)).unwrap_or_default();
                if NOT_IN_TRAILERS.contains(&name) {
                    Err(Violation::Trailer)
                } else {
                    self.trailer(Place::TrailerValue)
                }
            }
            Place::TrailerName => self.trailer_name(b),
            Place::TrailerValue => match b {
                b'\r' => Ok(Place::TrailerLf),
                b'\t' | b' '..=0x7e | 0x80.. => self.trailer(Place::TrailerValue),
                _ => Err(Violation::Trailer),
            },
            Place::TrailerLf if b == b'\n' => Ok(Place::TrailerStart),
            Place::EndLf if b == b'\n' => Ok(Place::Done),
            Place::TrailerLf | Place::EndLf => Err(Violation::BareLineEnd),
            // `advance` handles both without looking at a byte.
            Place::Data | Place::Done => Ok(self.place),
        }
    }

    fn size_digit(&mut self, b: u8) -> Result<Place, Violation> {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            _ => (b | 0x20) - b'a' + 10,
        };
        self.size_digits += 1;
        // Sixteen digits fit 64 bits, so the shift loses nothing.
        if self.size_digits > 16 {
            return Err(Violation::ChunkSize);
        }
        self.left = self.left << 4 | u64::from(digit);
        if self.left > LENGTH_MAX { Err(Violation::ChunkSize) } else { Ok(Place::Size) }
    }

    fn extension_step(&self, b: u8) -> Option<Place> {
        let is_blank = matches!(b, b' ' | b'\t');
        let is_token = is(b, TOKEN);
        match (self.place, b) {
            (Place::ExtensionStart, _) if is_token => Some(Place::ExtensionName),
            (Place::ExtensionStart, _) if is_blank => Some(Place::ExtensionStart),
            (Place::ExtensionName, _) if is_token => Some(Place::ExtensionName),
            (Place::ExtensionName | Place::AfterExtensionName, b'=') => Some(Place::ValueStart),
            (Place::ExtensionName | Place::AfterExtensionName, _) if is_blank => Some(Place::AfterExtensionName),
            (Place::ValueStart, b'"') => Some(Place::Quoted),
            (Place::ValueStart, _) if is_blank => Some(Place::ValueStart),
            (Place::ValueStart | Place::Value, _) if is_token => Some(Place::Value),
            (Place::Quoted, b'"') => Some(Place::AfterQuoted),
            (Place::Quoted, b'\\') => Some(Place::QuotedPair),
            (Place::Quoted | Place::QuotedPair, b'\t' | b' '..=0x7e | 0x80..) => Some(Place::Quoted),
            (Place::ExtensionName | Place::Value | Place::AfterQuoted, b'\r') => Some(Place::SizeLf),
            (
                Place::BeforeSemicolon
                | Place::ExtensionName
                | Place::AfterExtensionName
                | Place::Value
                | Place::AfterQuoted,
                b';',
            ) => Some(Place::ExtensionStart),
            (Place::BeforeSemicolon | Place::Value | Place::AfterQuoted, _) if is_blank => Some(Place::BeforeSemicolon),
            _ => None,
        }
    }

    fn extension(&mut self, next: Place) -> Result<Place, Violation> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err(Violation::ChunkExtensionsTooLarge) } else { Ok(next) }
    }

    fn trailer_name(&mut self, b: u8) -> Result<Place, Violation> {
        if !is(b, TOKEN) {
            return Err(Violation::Trailer);
        }
        // One more than fits marks a name as longer than any that is refused.
        if let Some(slot) = self.name.get_mut(usize::from(self.name_len)) {
            *slot = b.to_ascii_lowercase();
        }
        self.name_len = (self.name_len + 1).min(NAME_MAX as u8 + 1);
        self.trailer(Place::TrailerName)
    }

    fn trailer(&mut self, next: Place) -> Result<Place, Violation> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX { Err(Violation::TrailersTooLarge) } else { Ok(next) }
    }
}
