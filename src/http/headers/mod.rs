//! Header hygiene: what a hop must remove, what may stand only once, and the names the crate uses.
//!
//! Header maps are moved from one side to the other and never rebuilt. `inspect_request` walks a request's map once
//! and remembers which names that matter are there; everything after it touches only those.
//!
//! The framing of HTTP/1 is not judged here: `framing` does that on the raw bytes, before a map exists.

mod cookies;
mod credential;
mod inspect;
mod kind;
pub mod name;
mod strip;
#[cfg(test)]
mod tests;

use http::Request;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

pub use self::cookies::{COOKIE_NAME_HINT, is_cookie_name, join_cookies};
pub use self::credential::is_credential;
pub use self::inspect::{HeaderFault, Inspected, inspect_request};
pub use self::kind::{Seen, belongs_to_the_hop, is_provenance};
pub(super) use self::strip::remove_where;
pub use self::strip::{strip_request, strip_response, strip_trailers};

/// The first `Host`. Nearly all clients write it first, where it costs no look-up.
pub fn host(headers: &HeaderMap) -> Option<&HeaderValue> {
    match headers.iter().next() {
        Some((name, value)) if *name == header::HOST => Some(value),
        _ => headers.get(header::HOST),
    }
}

/// Headers of a map in which a walk costs less than a look-up.
const FEW: usize = 8;

/// Whether there is a header of this name, which few messages have.
pub fn has_rare(headers: &HeaderMap, name: &HeaderName) -> bool {
    if headers.len() <= FEW { headers.keys().any(|key| key == name) } else { headers.contains_key(name) }
}

/// Calls `each` with the lines of a header, one by one.
pub fn each_line(headers: &HeaderMap, name: &HeaderName, mut each: impl FnMut(&HeaderValue)) {
    if headers.len() > FEW {
        return headers.get_all(name).iter().for_each(each);
    }
    for (key, value) in headers {
        if key == name {
            each(value);
        }
    }
}

/// How large the header list of an HTTP/2 request is (RFC 9113 §6.5.2): 32 bytes more for each field, pseudo-fields too.
pub fn list_size<B>(request: &Request<B>) -> u64 {
    const EACH: usize = 32;
    let uri = request.uri();
    // The four of every request, `CONNECT` aside: their names have 29 bytes.
    let pseudo = 4 * EACH
        + 29
        + request.method().as_str().len()
        + uri.scheme_str().map_or(0, str::len)
        + uri.authority().map_or(0, |authority| authority.as_str().len())
        + uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + EACH);
    (pseudo + fields.sum::<usize>()) as u64
}

/// Takes one from `Max-Forwards` (RFC 9110 §7.6.2) and says whether the request may go on. For `OPTIONS` and `TRACE`
/// alone; other methods ignore it. Absent or not a number: it may.
pub fn spend_max_forwards(headers: &mut HeaderMap) -> bool {
    let Entry::Occupied(mut entry) = headers.entry(header::MAX_FORWARDS) else {
        return true;
    };
    let left = entry.get().to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match left.and_then(|text| text.parse::<u32>().ok()) {
        Some(0) => return false,
        Some(left) => {
            entry.insert(HeaderValue::from(left - 1));
        }
        None => {}
    }
    true
}
