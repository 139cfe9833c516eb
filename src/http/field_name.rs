//! Names of header fields from their bytes: those that most messages have are known at sight.

use http::header::InvalidHeaderName;
use http::{HeaderName, header};

/// The longest of those below.
const LONGEST: usize = 17;

/// A name that many fields have.
struct Known {
    text: Words,
    /// The bit that makes a letter a small one, where the name has a letter: in a hyphen it would make one of a CR.
    letters: Words,
    name: HeaderName,
}

/// A name as its first and its last eight bytes, which overlap, and of the longest the one between them. Of a name with less
/// than eight, its first and last four in one.
type Words = [u64; 3];

const fn known(text: &[u8], name: HeaderName) -> Known {
    let mut letters = [0; LONGEST];
    let mut at = 0;
    while at < text.len() {
        letters[at] = if text[at].is_ascii_lowercase() { 0x20 } else { 0 };
        at += 1;
    }
    Known { text: words(text), letters: words(letters.split_at(text.len()).0), name }
}

/// The words of 3 to [`LONGEST`] bytes.
const fn words(bytes: &[u8]) -> Words {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            let between = if bytes.len() > 16 { bytes[8] } else { 0 };
            [u64::from_le_bytes(*first), u64::from_le_bytes(*last), between as u64]
        }
        _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                [u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32, 0, 0]
            }
            _ => [bytes[0] as u64 | (bytes[1] as u64) << 8 | (bytes[2] as u64) << 16, 0, 0],
        },
    }
}

// Those of one length stand together, the most frequent first.
static OF_3: [Known; 2] = [known(b"via", header::VIA), known(b"age", header::AGE)];
static OF_4: [Known; 4] = [
    known(b"host", header::HOST),
    known(b"date", header::DATE),
    known(b"vary", header::VARY),
    known(b"etag", header::ETAG),
];
static OF_6: [Known; 4] = [
    known(b"accept", header::ACCEPT),
    known(b"cookie", header::COOKIE),
    known(b"server", header::SERVER),
    known(b"origin", header::ORIGIN),
];
static OF_7: [Known; 3] =
    [known(b"referer", header::REFERER), known(b"expires", header::EXPIRES), known(b"upgrade", header::UPGRADE)];
static OF_8: [Known; 2] = [known(b"location", header::LOCATION), known(b"if-match", header::IF_MATCH)];
static OF_10: [Known; 3] = [
    known(b"user-agent", header::USER_AGENT),
    known(b"connection", header::CONNECTION),
    known(b"set-cookie", header::SET_COOKIE),
];
static OF_11: [Known; 1] = [known(b"traceparent", HeaderName::from_static("traceparent"))];
static OF_12: [Known; 2] =
    [known(b"content-type", header::CONTENT_TYPE), known(b"x-request-id", HeaderName::from_static("x-request-id"))];
static OF_13: [Known; 5] = [
    known(b"cache-control", header::CACHE_CONTROL),
    known(b"authorization", header::AUTHORIZATION),
    known(b"last-modified", header::LAST_MODIFIED),
    known(b"accept-ranges", header::ACCEPT_RANGES),
    known(b"if-none-match", header::IF_NONE_MATCH),
];
static OF_14: [Known; 3] = [
    known(b"content-length", header::CONTENT_LENGTH),
    known(b"sec-fetch-dest", HeaderName::from_static("sec-fetch-dest")),
    known(b"sec-fetch-mode", HeaderName::from_static("sec-fetch-mode")),
];
static OF_15: [Known; 3] = [
    known(b"accept-encoding", header::ACCEPT_ENCODING),
    known(b"accept-language", header::ACCEPT_LANGUAGE),
    known(b"x-forwarded-for", HeaderName::from_static("x-forwarded-for")),
];
static OF_16: [Known; 2] = [
    known(b"content-encoding", header::CONTENT_ENCODING),
    known(b"x-forwarded-host", HeaderName::from_static("x-forwarded-host")),
];
static OF_17: [Known; 3] = [
    known(b"transfer-encoding", header::TRANSFER_ENCODING),
    known(b"if-modified-since", header::IF_MODIFIED_SINCE),
    known(b"x-forwarded-proto", HeaderName::from_static("x-forwarded-proto")),
];

/// Where a line has its colon. A name is short: to search for its end with what is made for long texts costs twice as much.
#[inline]
pub fn end(line: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const COLONS: u64 = ONES * b':' as u64;
    let (words, rest) = line.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let differs = u64::from_le_bytes(*word) ^ COLONS;
        // The upper bit of each byte that is a colon, and perhaps of some above the first.
        let found = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte == b':')?;
    Some(words.len() * 8 + at)
}

/// Reads a name as [`HeaderName::from_bytes`] does. That copies it, in small letters, and searches for the copy, which costs
/// many times as much as a look at the few names that nearly all fields have.
///
/// # Errors
/// It is no name.
#[inline]
pub fn read(bytes: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let candidates: &[Known] = match bytes.len() {
        3 => &OF_3,
        4 => &OF_4,
        6 => &OF_6,
        7 => &OF_7,
        8 => &OF_8,
        10 => &OF_10,
        11 => &OF_11,
        12 => &OF_12,
        13 => &OF_13,
        14 => &OF_14,
        15 => &OF_15,
        16 => &OF_16,
        LONGEST => &OF_17,
        _ => return HeaderName::from_bytes(bytes),
    };
    let [first, last, between] = words(bytes);
    for Known { text, letters, name } in candidates {
        if first | letters[0] == text[0] && last | letters[1] == text[1] && between | letters[2] == text[2] {
            return Ok(name.clone());
        }
    }
    HeaderName::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_name_is_read_in_any_case_and_no_other_is_taken_for_it() {
        let texts =
            ["host", "HOST", "Content-Length", "Transfer-Encoding", "X-Request-ID", "via", "hose", "x-any-other"];
        for text in texts {
            assert_eq!(read(text.as_bytes()).unwrap(), text.to_ascii_lowercase().as_str());
        }
        // What differs in the bit alone that makes a letter a capital.
        for bytes in [
            &b"content\rlength"[..],
            b"content-lengt\x48\x00",
            b"transferMencoding",
            b"transfer\renCoding",
            b"\x08ost",
            b"",
            b"ho st",
        ] {
            assert_eq!(read(bytes).ok(), HeaderName::from_bytes(bytes).ok(), "{bytes:?}");
        }
    }

    /// Each name with one byte changed: what is not compared would show here.
    #[test]
    fn every_byte_of_a_known_name_counts() {
        let all =
            [&OF_3[..], &OF_4, &OF_6, &OF_7, &OF_8, &OF_10, &OF_11, &OF_12, &OF_13, &OF_14, &OF_15, &OF_16, &OF_17];
        for known in all.into_iter().flatten() {
            let text = known.name.as_str().as_bytes();
            assert_eq!(read(text).unwrap(), known.name);
            assert_eq!(read(&text.to_ascii_uppercase()).unwrap(), known.name);
            for at in 0..text.len() {
                for byte in 0..=255 {
                    let mut changed = text.to_vec();
                    changed[at] = byte;
                    assert_eq!(read(&changed).ok(), HeaderName::from_bytes(&changed).ok(), "{changed:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_colon_ends_a_name(line in "[:;9a\u{80}-\u{ff}]{0,30}") {
            prop_assert_eq!(end(line.as_bytes()), line.find(':'));
        }

        #[test]
        fn it_reads_what_the_library_reads(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(read(&bytes).ok(), HeaderName::from_bytes(&bytes).ok());
        }
    }
}
