//! What a name is to a hop: hop by hop, there once at most, about where a request came from, or none of its business.

use http::header::{self, HeaderName};

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
    pub(super) const NOTHING: Self = Self(0);

    /// Whether any of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Removed on every hop whatever the value (RFC 9110 §7.6.1, behind `Connection` itself). `Trailer` is not among them:
/// trailers are forwarded, and only those that `Trailer` announces are written.
pub(super) static HOP_BY_HOP: [(Seen, HeaderName); 9] = [
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

pub(super) const ANY_HOP_BY_HOP: Seen = Seen::CONNECTION
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
pub(super) fn classify(name: &HeaderName) -> Seen {
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
