//! What a hop removes from what it passes on.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::inspect::{Inspected, options};
use super::kind::{ANY_HOP_BY_HOP, HOP_BY_HOP, Seen, classify};

/// Removes from a request what belongs to the hop it came over: `Connection` and what it names, the hop-by-hop names,
/// `Expect`, and underscore look-alikes of the provenance names (no sender has a lawful use for those).
///
/// `TE` stays as `trailers` when it held that. What `Connection` names is kept if armiger or the upstream relies on
/// it: `Host`, `Content-Length`, `Authorization`, `Cookie` and everything of `is_provenance`. Headers are to be added
/// after this call, so that no client can have them removed (CVE-2024-45410 is that mistake).
pub fn strip_request(headers: &mut HeaderMap, inspected: &Inspected) {
    if inspected.seen.has(ANY_HOP_BY_HOP) {
        strip_hop_by_hop(headers, inspected.seen, inspected.names_others);
        if inspected.te_trailers {
            // The map just lost `te`, so there is room.
            let _ = headers.try_insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if inspected.seen.has(Seen::LOOKALIKE) {
        remove_where(headers, |name| classify(name) == Seen::LOOKALIKE);
    }
}

/// Removes from a request's trailers what has no business there (RFC 9110 §6.5.1): what belongs to the hop or frames the
/// message, and what says who asks or where it came from, for which there are headers. A next reader may merge the two.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    const NOT_BEHIND: Seen = ANY_HOP_BY_HOP
        .with(Seen::HOST)
        .with(Seen::CONTENT_LENGTH)
        .with(Seen::AUTHORIZATION)
        .with(Seen::COOKIE)
        .with(Seen::VIA)
        .with(Seen::PROVENANCE)
        .with(Seen::LOOKALIKE);
    remove_where(trailers, |name| {
        let kind = classify(name);
        kind != Seen::NOTHING && NOT_BEHIND.has(kind)
    });
}

/// Removes from a response what belongs to the hop it came over, with the rules of `strip_request`.
///
/// `Content-Length` goes when `Transfer-Encoding` overrode it (RFC 9112 §6.3), and is kept once when it came in several
/// equal lines; zeros in front of it go, for not everybody reads those as a decimal number. `Set-Cookie`, `Date` and `Server` are never touched. A 101 needs its `Upgrade` read before.
pub fn strip_response(headers: &mut HeaderMap) {
    let mut found = Inspected::default();
    let (mut lengths, mut is_padded) = (0, false);
    for (name, value) in &*headers {
        let kind = classify(name);
        found.seen.add(kind);
        match kind {
            Seen::CONNECTION => found.note_connection(value),
            Seen::CONTENT_LENGTH => {
                lengths += 1;
                is_padded |= matches!(value.as_bytes(), [b'0', _, ..]);
            }
            _ => {}
        }
    }
    if found.seen.has(Seen::TRANSFER_ENCODING) && lengths > 0 {
        headers.remove(header::CONTENT_LENGTH);
    } else if (lengths > 1 || is_padded)
        && let Some(first) = headers.get(header::CONTENT_LENGTH).cloned()
    {
        let number = std::str::from_utf8(first.as_bytes()).ok().and_then(|digits| digits.parse::<u64>().ok());
        let _ = headers.try_insert(header::CONTENT_LENGTH, number.map_or(first, HeaderValue::from));
    }
    if found.seen.has(ANY_HOP_BY_HOP) {
        strip_hop_by_hop(headers, found.seen, found.names_others);
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap, seen: Seen, names_others: bool) {
    if seen.has(Seen::CONNECTION) {
        if names_others {
            let named: SmallVec<[HeaderValue; 2]> = headers.get_all(header::CONNECTION).iter().cloned().collect();
            named.iter().flat_map(options).for_each(|option| remove_named(headers, option));
        }
        headers.remove(header::CONNECTION);
    }
    for (bit, name) in &HOP_BY_HOP {
        if seen.has(*bit) {
            headers.remove(name);
        }
    }
}

/// Removes the header a `Connection` option names. What is no header name names nothing, and what is for all who get the
/// message is not the hop's to remove (RFC 9110 §7.6.1): without its `Cache-Control` an answer for one would be for all.
fn remove_named(headers: &mut HeaderMap, option: &[u8]) {
    const PROTECTED: Seen =
        Seen::HOST.with(Seen::CONTENT_LENGTH).with(Seen::AUTHORIZATION).with(Seen::COOKIE).with(Seen::PROVENANCE);

    if let Ok(name) = HeaderName::from_bytes(option)
        && !classify(&name).has(PROTECTED)
        && !END_TO_END.contains(&name)
    {
        headers.remove(name);
    }
}

/// What says whose an answer is, what it is and who may keep it.
static END_TO_END: [HeaderName; 12] = [
    header::SET_COOKIE,
    header::CACHE_CONTROL,
    header::VARY,
    header::EXPIRES,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::WWW_AUTHENTICATE,
    header::STRICT_TRANSPORT_SECURITY,
    header::CONTENT_SECURITY_POLICY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
];

/// Removes every header whose name fits. Collects first: a header map has no `retain`.
pub(in crate::http) fn remove_where(headers: &mut HeaderMap, fits: impl Fn(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| fits(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}
