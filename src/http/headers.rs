//! Header hygiene: what a hop must remove, what may stand only once, and the names the crate uses.
//!
//! Header maps are moved from one side to the other and never rebuilt. `inspect_request` walks a request's map once
//! and remembers which names that matter are there; everything after it touches only those.
//!
//! The framing of HTTP/1 is not judged here: `framing` does that on the raw bytes, before a map exists.

use std::fmt;

use http::Request;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Header names that `http::header` does not have. Statics, used by reference: `headers.get(&name::X_REQUEST_ID)`.
pub mod name {
    use http::header::HeaderName;

    macro_rules! names {
        ($($(#[$doc:meta])* $ident:ident = $text:literal;)*) => {
            $($(#[$doc])* pub static $ident: HeaderName = HeaderName::from_static($text);)*
        };
    }

    names! {
        /// The addresses a request came through, the nearest last.
        X_FORWARDED_FOR = "x-forwarded-for";
        /// The scheme the client used.
        X_FORWARDED_PROTO = "x-forwarded-proto";
        /// The `Host` the client sent.
        X_FORWARDED_HOST = "x-forwarded-host";
        /// The port the client connected to.
        X_FORWARDED_PORT = "x-forwarded-port";
        /// The id that ties the log lines of one request together.
        X_REQUEST_ID = "x-request-id";
        /// What an aggregated answer lacks, if it does.
        X_ARMIGER_COMPLETED = "x-armiger-completed";
        /// W3C Trace Context §3.2.
        TRACEPARENT = "traceparent";
        /// W3C Trace Context §3.3.
        TRACESTATE = "tracestate";
        /// Hop by hop in HTTP/1.0 practice; not in any standard for HTTP/1.1.
        KEEP_ALIVE = "keep-alive";
        /// RFC 9209.
        PROXY_STATUS = "proxy-status";
        /// One key for all attempts of the same unsafe request.
        IDEMPOTENCY_KEY = "idempotency-key";
        /// How often a request was tried, where that was more than once.
        X_ARMIGER_ATTEMPTS = "x-armiger-attempts";
        /// Marks a copy for a mirror.
        X_ARMIGER_MIRROR = "x-armiger-mirror";
    }
}

/// Words in the names of headers that carry credentials.
const CREDENTIAL_WORDS: [&str; 13] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "credential",
    "api-key",
    "api_key",
    "apikey",
    "access-key",
    "x-auth",
    "session",
    "jwt",
];

/// Whether a header of this name, in any case, may carry a credential: its value is then shown nowhere.
///
/// Goes by words in the name, for nobody knows all names: `x-api-key` and `x-amz-security-token` are meant, and a
/// harmless `x-session-count` is hidden with them.
pub fn is_credential(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    CREDENTIAL_WORDS.iter().any(|word| lower.contains(word))
}

/// Which of the names that matter a map holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u32);

macro_rules! seen {
    ($($(#[$doc:meta])* $ident:ident = $bit:literal;)*) => {
        impl Seen {
            $($(#[$doc])* pub const $ident: Self = Self(1 << $bit);)*
        }
    };
}

seen! {
    /// `Connection`.
    CONNECTION = 0;
    /// `Keep-Alive`.
    KEEP_ALIVE = 1;
    /// `Proxy-Connection`.
    PROXY_CONNECTION = 2;
    /// `Proxy-Authenticate`.
    PROXY_AUTHENTICATE = 3;
    /// `Proxy-Authorization`.
    PROXY_AUTHORIZATION = 4;
    /// `TE`.
    TE = 5;
    /// `Transfer-Encoding`.
    TRANSFER_ENCODING = 6;
    /// `Upgrade`.
    UPGRADE = 7;
    /// `HTTP2-Settings`.
    HTTP2_SETTINGS = 8;
    /// `Expect`.
    EXPECT = 9;
    /// `Host`.
    HOST = 10;
    /// `Authorization`.
    AUTHORIZATION = 11;
    /// `Content-Type`.
    CONTENT_TYPE = 12;
    /// `Content-Length`.
    CONTENT_LENGTH = 13;
    /// `Cookie`.
    COOKIE = 14;
    /// More than one line of `Cookie`.
    COOKIE_CRUMBS = 15;
    /// `Trailer`.
    TRAILER = 16;
    /// `Via`.
    VIA = 17;
    /// `Max-Forwards`.
    MAX_FORWARDS = 18;
    /// One of the names that say where a request came from: see `is_provenance`.
    PROVENANCE = 19;
    /// The same, spelled with an underscore.
    LOOKALIKE = 20;
    /// `Accept`.
    ACCEPT = 21;
    /// `traceparent`.
    TRACEPARENT = 22;
}

impl Seen {
    const NOTHING: Self = Self(0);

    /// Whether any of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Removed on every hop whatever the value (RFC 9110 §7.6.1, behind `Connection` itself). `Trailer` is not among them:
/// trailers are forwarded, and only those that `Trailer` announces are written.
static HOP_BY_HOP: [(Seen, HeaderName); 9] = [
    (Seen::KEEP_ALIVE, HeaderName::from_static("keep-alive")),
    (Seen::PROXY_CONNECTION, HeaderName::from_static("proxy-connection")),
    (Seen::PROXY_AUTHENTICATE, header::PROXY_AUTHENTICATE),
    (Seen::PROXY_AUTHORIZATION, header::PROXY_AUTHORIZATION),
    (Seen::TE, header::TE),
    (Seen::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
    (Seen::UPGRADE, header::UPGRADE),
    (Seen::HTTP2_SETTINGS, HeaderName::from_static("http2-settings")),
    (Seen::EXPECT, header::EXPECT),
];

const ANY_HOP_BY_HOP: Seen = Seen::CONNECTION
    .with(Seen::KEEP_ALIVE)
    .with(Seen::PROXY_CONNECTION)
    .with(Seen::PROXY_AUTHENTICATE)
    .with(Seen::PROXY_AUTHORIZATION)
    .with(Seen::TE)
    .with(Seen::TRANSFER_ENCODING)
    .with(Seen::UPGRADE)
    .with(Seen::HTTP2_SETTINGS)
    .with(Seen::EXPECT);

/// What one name is to a hop. By length first: most headers are none of these and are done after one comparison.
fn classify(name: &HeaderName) -> Seen {
    let text = name.as_str();
    let found = match (text.len(), text) {
        (2, "te") => Seen::TE,
        (3, "via") => Seen::VIA,
        (4, "host") => Seen::HOST,
        (6, "accept") => Seen::ACCEPT,
        (6, "cookie") => Seen::COOKIE,
        (6, "expect") => Seen::EXPECT,
        (7, "upgrade") => Seen::UPGRADE,
        (7, "trailer") => Seen::TRAILER,
        (10, "connection") => Seen::CONNECTION,
        (10, "keep-alive") => Seen::KEEP_ALIVE,
        (11, "traceparent") => Seen::TRACEPARENT,
        (12, "content-type") => Seen::CONTENT_TYPE,
        (12, "max-forwards") => Seen::MAX_FORWARDS,
        (13, "authorization") => Seen::AUTHORIZATION,
        (14, "content-length") => Seen::CONTENT_LENGTH,
        (14, "http2-settings") => Seen::HTTP2_SETTINGS,
        (16, "proxy-connection") => Seen::PROXY_CONNECTION,
        (17, "transfer-encoding") => Seen::TRANSFER_ENCODING,
        (18, "proxy-authenticate") => Seen::PROXY_AUTHENTICATE,
        (19, "proxy-authorization") => Seen::PROXY_AUTHORIZATION,
        _ => Seen::NOTHING,
    };
    if found != Seen::NOTHING || !matches!(text.as_bytes().first(), Some(b'x' | b'f' | b't')) {
        return found;
    }
    match provenance(text.as_bytes()) {
        Some(Spelling::Exact) => Seen::PROVENANCE,
        Some(Spelling::Underscored) => Seen::LOOKALIKE,
        None => Seen::NOTHING,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Exact,
    Underscored,
}

/// Whether a name says where a request came from, and how it is spelled.
fn provenance(name: &[u8]) -> Option<Spelling> {
    const NAMES: [&[u8]; 4] = [b"forwarded", b"x-real-ip", b"x-client-ip", b"true-client-ip"];
    const FAMILIES: [&[u8]; 3] = [b"x-forwarded", b"x-armiger", b"x-original"];

    let begins =
        |known: &[u8]| name.len() >= known.len() && name.iter().zip(known).all(|(a, b)| same_to_a_gateway(*a, *b));
    let is_named = NAMES.iter().any(|known| name.len() == known.len() && begins(known));
    let is_kin = || {
        let after = |family: &[u8]| name.get(family.len()).copied();
        FAMILIES.iter().any(|family| begins(family) && matches!(after(family), None | Some(b'-' | b'_')))
    };
    (is_named || is_kin()).then(|| if name.contains(&b'_') { Spelling::Underscored } else { Spelling::Exact })
}

/// Gateways of the CGI family (RFC 3875 §4.1.18: `-` becomes `_`) cannot tell these two apart.
const fn same_to_a_gateway(a: u8, b: u8) -> bool {
    a == b || matches!((a, b), (b'_', b'-') | (b'-', b'_'))
}

/// Whether a name says where a request came from, and so is believed from trusted peers alone: `Forwarded`,
/// `X-Forwarded-*`, `X-Real-IP`, `X-Client-IP`, `True-Client-IP`, `X-Original-*`, `X-Armiger-*`, or one of them with
/// underscores.
pub fn is_provenance(name: &HeaderName) -> bool {
    classify(name).has(Seen::PROVENANCE.with(Seen::LOOKALIKE))
}

/// Whether a header belongs to each hop, which writes it itself: what frames a message, or is about its connection (RFC 9110
/// §7.6.1). Nobody can set or name one in a configuration.
pub fn belongs_to_the_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
    )
}

/// What is wrong with the headers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// This header must not come twice: the next reader might take the other one.
    Duplicate(&'static str),
    /// `Content-Length` is not one decimal number (RFC 9112 §6.3).
    LengthInvalid,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1).
    LengthAndCoding,
    /// `Transfer-Encoding` is not just `chunked`.
    CodingInvalid,
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(name) => write!(f, "the header `{name}` comes more than once"),
            Self::LengthInvalid => f.write_str("`content-length` is not one decimal number"),
            Self::LengthAndCoding => f.write_str("both `content-length` and `transfer-encoding`"),
            Self::CodingInvalid => f.write_str("`transfer-encoding` is not `chunked`"),
        }
    }
}

impl std::error::Error for HeaderFault {}

/// What one walk over the headers of a request found.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// The names that matter.
    pub seen: Seen,
    /// `Connection: upgrade`.
    pub connection_upgrade: bool,
    /// The value of `Upgrade`, when `Connection` names it and it comes once. Whether to honour it is for others.
    pub upgrade: Option<HeaderValue>,
    /// `TE` holds `trailers`.
    pub te_trailers: bool,
    /// Lines.
    pub count: usize,
    /// `Connection` names something beside `close`, `keep-alive` and what is removed anyway.
    names_others: bool,
}

impl Inspected {
    fn note_connection(&mut self, value: &HeaderValue) {
        for option in options(value) {
            if option.eq_ignore_ascii_case(b"upgrade") {
                self.connection_upgrade = true;
            } else if ![&b"close"[..], b"keep-alive", b"te"].iter().any(|known| option.eq_ignore_ascii_case(known)) {
                self.names_others = true;
            }
        }
    }
}

/// Walks the headers of a request once: remembers what matters and refuses what two readers could take differently.
///
/// # Errors
/// A `HeaderFault`, to be answered with 400.
pub fn inspect_request(headers: &HeaderMap) -> Result<Inspected, HeaderFault> {
    let mut found = Inspected::default();
    let mut upgrade = None;
    for (name, value) in headers {
        found.count += 1;
        let kind = classify(name);
        if kind == Seen::NOTHING {
            continue;
        }
        let again = found.seen.has(kind);
        found.seen.add(kind);
        match kind {
            Seen::CONNECTION => found.note_connection(value),
            Seen::UPGRADE => upgrade = (!again).then_some(value),
            Seen::TE => found.te_trailers |= options(value).any(is_trailers),
            Seen::COOKIE if again => found.seen.add(Seen::COOKIE_CRUMBS),
            Seen::HOST if again => return Err(HeaderFault::Duplicate("host")),
            Seen::AUTHORIZATION if again => return Err(HeaderFault::Duplicate("authorization")),
            Seen::CONTENT_TYPE if again => return Err(HeaderFault::Duplicate("content-type")),
            Seen::CONTENT_LENGTH if again => return Err(HeaderFault::Duplicate("content-length")),
            Seen::CONTENT_LENGTH if !is_length(value.as_bytes()) => return Err(HeaderFault::LengthInvalid),
            Seen::TRANSFER_ENCODING if again || !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                return Err(HeaderFault::CodingInvalid);
            }
            _ => {}
        }
    }
    if found.seen.has(Seen::CONTENT_LENGTH) && found.seen.has(Seen::TRANSFER_ENCODING) {
        return Err(HeaderFault::LengthAndCoding);
    }
    if found.connection_upgrade {
        found.upgrade = upgrade.cloned();
    }
    Ok(found)
}

/// Digits alone, and few enough for 64 bits.
fn is_length(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_digit) && std::str::from_utf8(value).is_ok_and(|digits| digits.parse::<u64>().is_ok())
}

/// Whether an element of `TE` is `trailers`, with or without parameters (RFC 9110 §10.1.4).
fn is_trailers(option: &[u8]) -> bool {
    let token = option.split(|byte| *byte == b';').next().unwrap_or_default();
    token.trim_ascii_end().eq_ignore_ascii_case(b"trailers")
}

/// The elements of a comma-separated value; empty ones are skipped (RFC 9110 §5.6.1.2).
fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

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
pub(super) fn remove_where(headers: &mut HeaderMap, fits: impl Fn(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| fits(name)).cloned().collect();
    for name in names {
        headers.remove(name);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    fn stripped(input: &[(&str, &str)]) -> Vec<String> {
        let mut headers = map(input);
        let inspected = inspect_request(&headers).unwrap();
        strip_request(&mut headers, &inspected);
        lines(&headers)
    }

    #[test]
    fn a_request_loses_what_belongs_to_the_hop() {
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "upgrade",
            "http2-settings",
            "expect",
            "te",
        ] {
            assert_eq!(stripped(&[("accept", "a"), (name, "x"), ("host", "h")]), ["accept: a", "host: h"], "{name}");
        }
        assert_eq!(stripped(&[("transfer-encoding", "Chunked"), ("trailer", "x")]), ["trailer: x"]);
    }

    #[test]
    fn a_response_loses_what_belongs_to_the_hop() {
        let mut headers = map(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("upgrade", "h2c"),
            ("date", "today"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("trailer", "grpc-status"),
            ("content-length", "3"),
        ]);
        strip_response(&mut headers);
        assert_eq!(
            lines(&headers),
            ["content-length: 3", "date: today", "set-cookie: a=1", "set-cookie: b=2", "trailer: grpc-status"]
        );
    }

    #[test]
    fn a_response_keeps_one_length_or_none_beside_chunked() {
        let mut headers = map(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        strip_response(&mut headers);
        assert!(headers.is_empty());
        let mut headers = map(&[("content-length", "3"), ("content-length", "3")]);
        strip_response(&mut headers);
        assert_eq!(lines(&headers), ["content-length: 3"]);
        for (told, number) in [("0010", "10"), ("000", "0"), ("0", "0")] {
            let mut headers = map(&[("content-length", told)]);
            strip_response(&mut headers);
            assert_eq!(lines(&headers), [format!("content-length: {number}")]);
        }
    }

    #[test]
    fn what_connection_names_goes_too_in_any_case_and_line() {
        let left = stripped(&[
            ("connection", "X-One ,, x-TWO"),
            ("connection", "close, x-three"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-two", "2b"),
            ("x-three", "3"),
            ("x-four", "4"),
        ]);
        assert_eq!(left, ["x-four: 4"]);
    }

    #[test]
    fn connection_cannot_name_what_others_rely_on() {
        for name in [
            "host",
            "content-length",
            "authorization",
            "cookie",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-anything",
            "x-real-ip",
            "x-armiger-attempts",
        ] {
            let left = stripped(&[("connection", &name.to_uppercase()), (name, "1")]);
            assert_eq!(left, [format!("{name}: 1")], "{name}");
        }
    }

    #[test]
    fn connection_cannot_name_what_is_for_all_who_get_an_answer() {
        let kept =
            [("cache-control", "private"), ("content-type", "text/html"), ("set-cookie", "a=1"), ("vary", "cookie")];
        let named = ("connection", "Set-Cookie, cache-control, vary, content-type, x-hop");
        let mut headers = map(&[&kept[..], &[named, ("x-hop", "1")]].concat());
        strip_response(&mut headers);
        assert_eq!(lines(&headers), kept.map(|(name, value)| format!("{name}: {value}")));
    }

    #[test]
    fn connection_options_that_are_no_names_are_ignored() {
        assert_eq!(stripped(&[("connection", "x y, \"z\", é, @"), ("x-kept", "1")]), ["x-kept: 1"]);
    }

    #[test]
    fn te_stays_for_trailers_alone() {
        for (value, want) in [
            ("trailers", vec!["te: trailers"]),
            ("Trailers", vec!["te: trailers"]),
            ("gzip;q=0.5, trailers", vec!["te: trailers"]),
            ("trailers ;q=1", vec!["te: trailers"]),
            ("gzip", vec![]),
            ("trailersx", vec![]),
        ] {
            assert_eq!(stripped(&[("te", value), ("connection", "TE")]), want, "{value}");
        }
    }

    #[test]
    fn lookalikes_of_provenance_names_never_pass() {
        let left = stripped(&[
            ("x_forwarded_for", "1"),
            ("x-forwarded_for", "1"),
            ("x_real_ip", "1"),
            ("x_armiger_attempts", "1"),
            ("x-forwarded-for", "kept"),
            ("x_own_name", "kept"),
        ]);
        assert_eq!(left, ["x-forwarded-for: kept", "x_own_name: kept"]);
    }

    #[test]
    fn provenance_names_are_known_by_family() {
        for (name, want) in [
            ("forwarded", true),
            ("x-forwarded", true),
            ("x-forwarded-client-cert", true),
            ("x-original-url", true),
            ("x-armiger-explain", true),
            ("true-client-ip", true),
            ("true_client_ip", true),
            ("x-client-ip", true),
            ("x-forwardedness", false),
            ("x-originality", false),
            ("forwarded-for", false),
            ("x-real-ip2", false),
            ("x-request-id", false),
            ("x", false),
        ] {
            assert_eq!(is_provenance(&HeaderName::from_static(name)), want, "{name}");
        }
    }

    #[test]
    fn what_may_come_once_comes_once() {
        use HeaderFault::*;
        for (input, want) in [
            (vec![("host", "a"), ("host", "a")], Duplicate("host")),
            (vec![("authorization", "a"), ("authorization", "b")], Duplicate("authorization")),
            (vec![("content-type", "a"), ("content-type", "b")], Duplicate("content-type")),
            (vec![("content-length", "1"), ("content-length", "1")], Duplicate("content-length")),
            (vec![("content-length", "1, 1")], LengthInvalid),
            (vec![("content-length", "+1")], LengthInvalid),
            (vec![("content-length", "")], LengthInvalid),
            (vec![("content-length", "99999999999999999999")], LengthInvalid),
            (vec![("content-length", "1"), ("transfer-encoding", "chunked")], LengthAndCoding),
            (vec![("transfer-encoding", "gzip, chunked")], CodingInvalid),
            (vec![("transfer-encoding", "chunked,")], CodingInvalid),
            (vec![("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], CodingInvalid),
        ] {
            let fault = inspect_request(&map(&input)).unwrap_err();
            assert_eq!(fault, want, "{input:?}");
        }
        let lawful = [("accept", "a"), ("accept", "b"), ("cookie", "a"), ("cookie", "b"), ("content-length", "007")];
        assert!(inspect_request(&map(&lawful)).is_ok());
    }

    #[test]
    fn an_inspection_tells_what_a_request_asks_of_the_hop() {
        let found = inspect_request(&map(&[
            ("connection", "Upgrade, CLOSE"),
            ("upgrade", "websocket"),
            ("expect", "100-Continue"),
            ("via", "1.1 x"),
        ]))
        .unwrap();
        assert!(found.connection_upgrade && !found.te_trailers);
        assert_eq!(found.upgrade.unwrap(), "websocket");
        assert!(found.seen.has(Seen::VIA) && !found.seen.has(Seen::PROVENANCE));

        let unnamed = inspect_request(&map(&[("upgrade", "websocket")])).unwrap();
        assert_eq!(unnamed.upgrade, None, "an upgrade that `connection` does not name is none");
        let twice = map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]);
        assert_eq!(inspect_request(&twice).unwrap().upgrade, None, "two wishes are none");
    }

    #[test]
    fn a_cookie_may_have_any_name_that_can_be_found() {
        for name in ["theme", "__Host-a.b", "prefs[theme]", "a b", "a,b", "\"a\"", "é"] {
            assert!(is_cookie_name(name), "{name}");
        }
        for name in ["", "a=b", "a;b", " a", "a\t", "a\nb", "a\u{7f}"] {
            assert!(!is_cookie_name(name), "{name:?}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        for (input, want) in [
            (vec![("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], vec!["cookie: a=1; b=2; c=3"]),
            (vec![("cookie", "a=1; b=2")], vec!["cookie: a=1; b=2"]),
            (vec![("accept", "x"), ("accept", "y")], vec!["accept: x", "accept: y"]),
        ] {
            let mut headers = map(&input);
            let inspected = inspect_request(&headers).unwrap();
            join_cookies(&mut headers, &inspected);
            assert_eq!(lines(&headers), want);
        }
    }

    #[test]
    fn max_forwards_is_spent_down_to_nothing() {
        for (value, goes_on, left) in
            [("2", true, "1"), ("1", true, "0"), ("0", false, "0"), ("x", true, "x"), ("+3", true, "+3")]
        {
            let mut headers = map(&[("max-forwards", value)]);
            assert_eq!(spend_max_forwards(&mut headers), goes_on, "{value}");
            assert_eq!(headers[header::MAX_FORWARDS], left);
        }
        assert!(spend_max_forwards(&mut HeaderMap::new()));
    }

    #[test]
    fn every_hop_by_hop_name_has_its_bit() {
        for (bit, name) in &HOP_BY_HOP {
            assert_eq!(classify(name), *bit, "{name}");
            assert!(ANY_HOP_BY_HOP.has(*bit));
        }
    }
}
