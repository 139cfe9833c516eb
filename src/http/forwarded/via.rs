//! `Via`: what this proxy adds, and whether a message came round in a loop.

use http::Version;
use http::header::{self, HeaderMap, HeaderValue};

use super::elements::is_token_byte;
use super::is_decimal;

/// The `Via` entries of this proxy (RFC 9110 §7.6.3), one per received version, made once.
///
/// The pseudonym is how a loop is found. A name that somebody chose for this proxy is its own, and seeing it once is a loop.
/// The name that every armiger has until somebody chooses is no proof: a gateway and the sidecar behind it share it.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

/// The pseudonym of an armiger that was given none.
pub const ARMIGER: &str = "armiger";

/// How often the name that all armigers share may stand in a request: more on one path is no plan but a loop.
pub(super) const SHARED_MAX: usize = 8;

impl Via {
    /// Entries of this pseudonym; `None` when it is no token (letters, digits and ``!#$%&'*+-.^_`|~``) with an optional
    /// `:port`.
    pub fn new(pseudonym: &str) -> Option<Self> {
        let (token, port) = pseudonym.split_once(':').unwrap_or((pseudonym, "0"));
        let is_lawful = !token.is_empty() && token.bytes().all(is_token_byte) && is_decimal(port);
        let entry = |version: &str| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        is_lawful.then_some(())?;
        Some(Self {
            pseudonym: pseudonym.to_owned(),
            http_10: entry("1.0")?,
            http_11: entry("1.1")?,
            http_2: entry("2")?,
        })
    }

    /// Whether `Via` says that a message came round in a loop (RFC 9110 §7.6.3).
    pub fn loops(&self, headers: &HeaderMap) -> bool {
        let enough = if self.pseudonym == ARMIGER { SHARED_MAX } else { 1 };
        via_count(headers, &self.pseudonym) >= enough
    }

    /// Adds the entry for a message received in `version`, as a line of its own: the same list, and nothing is copied.
    pub fn append(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_09 | Version::HTTP_10 => &self.http_10,
            Version::HTTP_2 => &self.http_2,
            _ => &self.http_11,
        };
        let _ = headers.try_append(header::VIA, entry.clone());
    }
}

/// How often a message passed `pseudonym`, as `Via` has it. Names are compared without case; comments are not looked at.
pub(super) fn via_count(headers: &HeaderMap, pseudonym: &str) -> usize {
    headers.get_all(header::VIA).into_iter().map(|line| via_names(line.as_bytes(), pseudonym.as_bytes())).sum()
}

pub(super) fn via_names(line: &[u8], pseudonym: &[u8]) -> usize {
    // A comment may hold commas, escapes and comments.
    let mut depth = 0_usize;
    let mut is_escaped = false;
    line.split(|byte| {
        if is_escaped {
            is_escaped = false;
        } else {
            match byte {
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                b'\\' => is_escaped = depth > 0,
                b',' => return depth == 0,
                _ => {}
            }
        }
        false
    })
    .filter(|entry| {
        let mut words = entry.split(|byte| matches!(byte, b' ' | b'\t' | b'(')).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(pseudonym))
    })
    .count()
}
