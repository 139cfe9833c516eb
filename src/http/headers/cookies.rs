//! `Cookie`: its names, and its lines as one.

use http::header::{self, HeaderMap, HeaderValue};

use super::inspect::Inspected;
use super::kind::Seen;

/// Whether a cookie of this name could be found in a request. Many are no token (RFC 6265 §4.1.1): `prefs[theme]`.
pub fn is_cookie_name(name: &str) -> bool {
    let fits = |byte: u8| !byte.is_ascii_control() && !matches!(byte, b'=' | b';');
    !name.is_empty() && name.trim_ascii() == name && name.bytes().all(fits)
}

/// What to do about a name that no cookie can be found by.
pub const COOKIE_NAME_HINT: &str = "write a name without `=`, `;`, control characters, and blanks around it";

/// Joins several lines of `Cookie` with `; ` (RFC 9113 §8.2.3), so that whoever reads the first reads all.
pub fn join_cookies(headers: &mut HeaderMap, inspected: &Inspected) {
    if !inspected.seen.has(Seen::COOKIE_CRUMBS) {
        return;
    }
    let mut joined = Vec::new();
    let mut is_sensitive = false;
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
        is_sensitive |= crumb.is_sensitive();
    }
    // Parts of lawful values make a lawful value, so neither step can fail.
    if let Ok(mut value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        value.set_sensitive(is_sensitive);
        let _ = headers.try_insert(header::COOKIE, value);
    }
}
