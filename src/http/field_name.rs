//! Names of header fields from their bytes: those that most messages have are known at sight.

use http::header::InvalidHeaderName;
use http::{HeaderName, header};

/// The longest of those below, in words.
const WORDS: usize = 3;

/// A name that many fields have, eight bytes to a word.
struct Known {
    text: [u64; WORDS],
    /// The bit that makes a letter a small one, where the name has a letter: in a hyphen it would make one of a CR.
    letters: [u64; WORDS],
    name: HeaderName,
}

const fn known(text: &[u8], name: HeaderName) -> Known {
    let (mut words, mut letters) = ([0; WORDS], [0; WORDS]);
    let mut at = 0;
    while at < text.len() {
        let shift = at % 8 * 8;
        words[at / 8] |= (text[at] as u64) << shift;
        if text[at].is_ascii_lowercase() {
            letters[at / 8] |= 0x20 << shift;
        }
        at += 1;
    }
    Known { text: words, letters, name }
}

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
static OF_10: [Known; 2] = [known(b"user-agent", header::USER_AGENT), known(b"connection", header::CONNECTION)];
static OF_12: [Known; 1] = [known(b"content-type", header::CONTENT_TYPE)];
static OF_13: [Known; 3] = [
    known(b"cache-control", header::CACHE_CONTROL),
    known(b"authorization", header::AUTHORIZATION),
    known(b"last-modified", header::LAST_MODIFIED),
];
static OF_14: [Known; 1] = [known(b"content-length", header::CONTENT_LENGTH)];
static OF_15: [Known; 2] =
    [known(b"accept-encoding", header::ACCEPT_ENCODING), known(b"accept-language", header::ACCEPT_LANGUAGE)];
static OF_17: [Known; 1] = [known(b"transfer-encoding", header::TRANSFER_ENCODING)];

/// Reads a name as [`HeaderName::from_bytes`] does. That copies it, in small letters, and searches for the copy, which costs
/// three times as much as a look at the few names that nearly all fields have.
///
/// # Errors
/// It is no name.
pub fn read(bytes: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let candidates: &[Known] = match bytes.len() {
        3 => &OF_3,
        4 => &OF_4,
        6 => &OF_6,
        10 => &OF_10,
        12 => &OF_12,
        13 => &OF_13,
        14 => &OF_14,
        15 => &OF_15,
        17 => &OF_17,
        _ => return HeaderName::from_bytes(bytes),
    };
    let text = words(bytes);
    let is_it = |known: &&Known| (0..WORDS).all(|at| text[at] | known.letters[at] == known.text[at]);
    match candidates.iter().find(is_it) {
        Some(known) => Ok(known.name.clone()),
        None => HeaderName::from_bytes(bytes),
    }
}

fn words(bytes: &[u8]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter_mut().zip(whole) {
        *word = u64::from_le_bytes(*chunk);
    }
    if let Some(last) = words.get_mut(whole.len()) {
        *last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_name_is_read_in_any_case_and_no_other_is_taken_for_it() {
        for text in
            ["host", "Host", "HOST", "content-length", "Content-Length", "transfer-encoding", "x-request-id", "hose"]
        {
            assert_eq!(read(text.as_bytes()).unwrap(), text.to_ascii_lowercase().as_str());
        }
        // What differs in the bit alone that makes a letter a capital.
        for bytes in [&b"content\rlength"[..], b"content-lengt\x48\x00", b"\x08ost", b"", b"ho st"] {
            assert_eq!(read(bytes).ok(), HeaderName::from_bytes(bytes).ok(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_the_library_reads(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(read(&bytes).ok(), HeaderName::from_bytes(&bytes).ok());
        }
    }
}
