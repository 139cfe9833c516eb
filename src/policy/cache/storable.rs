//! Whether a response may be stored, and what of its head (RFC 9111 §3).

use http::header::{self, HeaderName};
use http::{HeaderMap, StatusCode};

use super::control::{Control, Scoped, Vary};
use super::freshness::is_understood;

/// Turns rows into an enum and the words for it, which clients, metrics and operators see: the table in `docs/cache.md` has a
/// line for each.
macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $($(#[$row:meta])* $Row:ident => $word:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name { $($(#[$row])* $Row,)+ }

        impl $Name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$Row,)+];

            /// The word for it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$Row => $word,)+ }
            }
        }
    };
}
pub(super) use words;

words! {
    /// Why a response is not stored.
    Unstorable {
        /// Its status is not understood, or is that of a part.
        Status => "status";
        /// `no-store`, or a `Cache-Control` that cannot be read.
        NoStore => "no_store";
        /// `private`.
        Private => "private";
        /// The request has credentials, its key does not cover them, and the response does not say that it is for all.
        Credentials => "credentials";
        /// It sets a cookie, or clears what a browser keeps.
        Cookie => "set_cookie";
        /// `Vary: *`, or what it varies on is not known when a request comes.
        Vary => "vary";
        /// It is a stream, or has trailers.
        Stream => "stream";
        /// Nobody says how long it is fresh.
        NoLifetime => "no_lifetime";
        /// It is longer than `entry_max`.
        TooLong => "too_long";
        /// There is no room for more fills at once.
        NoRoom => "no_room";
        /// The upstream failed.
        Failed => "failed";
        /// It was purged while it came.
        Purged => "purged";
    }
}

impl Unstorable {
    /// Whether the next response will be like this one, so that nobody need wait for it.
    pub const fn lasts(self) -> bool {
        !matches!(self, Self::Failed | Self::Purged | Self::NoRoom)
    }
}

/// Headers that are never stored: they are about one exchange, one connection or one caller (RFC 9111 §3.1).
const NEVER: [HeaderName; 17] = [
    header::SET_COOKIE,
    HeaderName::from_static("set-cookie2"),
    HeaderName::from_static("clear-site-data"),
    header::AGE,
    header::ALT_SVC,
    HeaderName::from_static("proxy-status"),
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-armiger-attempts"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHENTICATE,
    header::TRAILER,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// Beginnings of names that are never stored: what one caller has left.
const NEVER_FAMILIES: [&str; 2] = ["ratelimit", "x-ratelimit"];

static SET_COOKIE2: HeaderName = HeaderName::from_static("set-cookie2");
static CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// What of the request matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// It has credentials that its key does not cover.
    pub is_credentialed: bool,
    /// The route takes cookies out of what it stores.
    pub strips_cookies: bool,
}

/// Whether a response with this head may be stored.
///
/// # Errors
/// It may not.
pub fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    control: &Control,
    vary: &Vary,
    asked: Asked,
) -> Result<(), Unstorable> {
    let sets_cookie = || headers.contains_key(header::SET_COOKIE) || headers.contains_key(&SET_COOKIE2);
    if !is_understood(status) || headers.contains_key(header::CONTENT_RANGE) {
        Err(Unstorable::Status)
    } else if control.no_store && !control.must_understand {
        Err(Unstorable::NoStore)
    } else if control.private == Scoped::Whole {
        Err(Unstorable::Private)
    } else if asked.is_credentialed && !control.is_for_all() {
        Err(Unstorable::Credentials)
    } else if (!asked.strips_cookies && sets_cookie() && !names_cookie(control))
        || headers.contains_key(&CLEAR_SITE_DATA)
    {
        Err(Unstorable::Cookie)
    } else if *vary == Vary::Any {
        Err(Unstorable::Vary)
    } else if headers.contains_key(header::TRAILER) || is_stream(headers) {
        Err(Unstorable::Stream)
    } else {
        Ok(())
    }
}

/// The response itself keeps its cookie out of what is stored: `private="set-cookie"` (RFC 9111 §5.2.2.7).
fn names_cookie(control: &Control) -> bool {
    control.private.fields().contains(&header::SET_COOKIE) || control.no_cache.fields().contains(&header::SET_COOKIE)
}

fn is_stream(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let begins = |with: &[u8]| kind.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    kind.eq_ignore_ascii_case(b"text/event-stream")
        || begins(b"application/grpc")
        || begins(b"multipart/x-mixed-replace")
}

/// Takes out of a head what must not be stored.
pub fn strip(headers: &mut HeaderMap, control: &Control) {
    for name in NEVER.iter().chain(control.private.fields()).chain(control.no_cache.fields()) {
        headers.remove(name);
    }
    let of_family = |name: &&HeaderName| NEVER_FAMILIES.iter().any(|family| name.as_str().starts_with(family));
    let names: Vec<HeaderName> = headers.keys().filter(of_family).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn of(status: u16, list: &[(&'static str, &'static str)], asked: Asked) -> Result<(), Unstorable> {
        let headers = headers(list);
        let status = StatusCode::from_u16(status).unwrap();
        judge(status, &headers, &Control::of(&headers), &Vary::of(&headers), asked)
    }

    #[test]
    fn only_what_is_for_others_too_is_stored() {
        use Unstorable::*;
        for (rfc, status, list, expected) in [
            ("9111 §3", 200, &[][..], Ok(())),
            ("9111 §3", 404, &[], Ok(())),
            ("9111 §3.3: a part is no response", 206, &[], Err(Status)),
            ("9110 §14.4", 200, &[("content-range", "bytes 0-1/2")], Err(Status)),
            ("9111 §4.3.4: no response of its own", 304, &[], Err(Status)),
            ("9111 §3: not understood", 299, &[], Err(Status)),
            ("9111 §3: a caller's own", 401, &[("cache-control", "max-age=9")], Err(Status)),
            ("9111 §5.2.2.5", 200, &[("cache-control", "no-store, max-age=9")], Err(NoStore)),
            ("9111 §5.2: cannot be read", 200, &[("cache-control", "private=\"x")], Err(NoStore)),
            ("9111 §5.2.2.3", 200, &[("cache-control", "must-understand, no-store, max-age=9")], Ok(())),
            ("9111 §5.2.2.3", 299, &[("cache-control", "must-understand, max-age=9")], Err(Status)),
            ("9111 §5.2.2.7", 200, &[("cache-control", "private")], Err(Private)),
            ("9111 §5.2.2.7: fields", 200, &[("cache-control", "private=\"x-a\"")], Ok(())),
            ("9111 §7.3", 200, &[("set-cookie", "a=1")], Err(Cookie)),
            ("9111 §7.3", 200, &[("set-cookie2", "a=1")], Err(Cookie)),
            (
                "9111 §5.2.2.7: the cookie alone",
                200,
                &[("set-cookie", "a=1"), ("cache-control", "private=\"set-cookie\"")],
                Ok(()),
            ),
            ("clear-site-data", 200, &[("clear-site-data", "\"*\"")], Err(Cookie)),
            ("9111 §4.1", 200, &[("vary", "*")], Err(Vary)),
            ("html, server-sent events", 200, &[("content-type", "Text/Event-Stream; charset=utf-8")], Err(Stream)),
            ("grpc", 200, &[("content-type", "application/grpc+proto")], Err(Stream)),
            ("9110 §6.5", 200, &[("trailer", "x-sum")], Err(Stream)),
        ] {
            assert_eq!(of(status, list, Asked::default()), expected, "RFC {rfc}: {status} {list:?}");
        }
        let strips_cookies = Asked { strips_cookies: true, ..Asked::default() };
        assert_eq!(of(200, &[("set-cookie", "a=1")], strips_cookies), Ok(()));
    }

    /// RFC 9111 §3.5.
    #[test]
    fn what_was_asked_for_with_credentials_is_stored_only_where_it_says_that_it_is_for_all() {
        let asked = Asked { is_credentialed: true, ..Asked::default() };
        for (line, expected) in [
            ("max-age=9", false),
            ("max-age=9, proxy-revalidate", false),
            ("max-age=9, public", true),
            ("s-maxage=9", true),
            ("max-age=9, must-revalidate", true),
            ("public, private", false),
            ("public, no-store", false),
        ] {
            assert_eq!(of(200, &[("cache-control", line)], asked).is_ok(), expected, "{line}");
        }
    }

    /// RFC 9111 §3.1.
    #[test]
    fn what_belongs_to_one_exchange_is_not_stored() {
        let mut all = headers(&[
            ("content-type", "text/plain"),
            ("etag", "\"1\""),
            ("set-cookie", "a=1"),
            ("age", "3"),
            ("alt-svc", "h3"),
            ("ratelimit", "x"),
            ("ratelimit-policy", "x"),
            ("x-ratelimit-remaining", "1"),
            ("x-request-id", "r"),
            ("x-armiger-attempts", "2"),
            ("traceparent", "t"),
            ("proxy-status", "p"),
            ("x-mine", "secret"),
            ("x-checked", "secret"),
            ("cache-control", "max-age=9, private=\"x-mine\", no-cache=\"x-checked\""),
        ]);
        let control = Control::of(&all);
        strip(&mut all, &control);
        let left: Vec<&str> = all.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["content-type", "etag", "cache-control"]);
    }
}
