//! `Cache-Status`: what the cache did, for whoever reads the answer (RFC 9211).

use std::fmt::{self, Write as _};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::storable::{Unstorable, words};
use crate::http::decimal::Decimal;

words! {
    /// Why a request went on to the upstream (RFC 9211 §2.2).
    Forward {
        /// The cache was not asked.
        Bypass => "bypass";
        /// Its method is none that is stored.
        Method => "method";
        /// Nothing is stored of this URL.
        UriMiss => "uri-miss";
        /// Something is, but for other request headers.
        VaryMiss => "vary-miss";
        /// Something is, and it is not for who asks with credentials.
        Miss => "miss";
        /// What is stored is stale.
        Stale => "stale";
        /// What is stored is fresh, and the request demands more.
        Request => "request";
    }
}

words! {
    /// What is said beyond that, in `detail` (RFC 9211 §2.8). Beside it stands why a response is not stored.
    Detail {
        /// Another armiger had it.
        Shared => "shared";
        /// It is stale, and a fresh one is fetched behind it.
        Revalidating => "revalidating";
        /// It is stale, and the request takes it so.
        MaxStale => "max-stale";
        /// It is stale, and the upstream failed.
        Error => "error";
        /// Nothing is stored, and the request wants nothing else.
        NotCached => "not_cached";
    }
}

/// What the cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It had it.
    Hit,
    /// It had it, and more is to be said of that.
    Told(Detail),
    /// It had it, stale, and the upstream answered with this error.
    Covers(StatusCode),
    /// The upstream said that it is still good, and that it is not to be stored any more.
    Checked(Forward, Unstorable),
    /// It was fetched and is stored.
    Stored {
        /// Why it was fetched.
        forward: Forward,
        /// The upstream said that what was stored is still good.
        is_revalidated: bool,
        /// Another request fetched it.
        is_collapsed: bool,
    },
}

impl Status {
    /// As a header, of a response that is fresh for so many seconds yet.
    pub fn value(self, ttl: i64) -> HeaderValue {
        let mut line = Line::default();
        // Writing into it does not fail.
        let _ = match self {
            // Nearly every one, without the formatting machinery.
            Self::Hit => {
                let beginning: &[u8] = if ttl < 0 { b"armiger; hit; ttl=-" } else { b"armiger; hit; ttl=" };
                let seconds = Decimal::of(ttl.unsigned_abs());
                let mut text = Vec::with_capacity(beginning.len() + seconds.as_bytes().len());
                text.extend_from_slice(beginning);
                text.extend_from_slice(seconds.as_bytes());
                return HeaderValue::from_maybe_shared(Bytes::from(text))
                    .unwrap_or(HeaderValue::from_static("armiger"));
            }
            Self::Told(detail) => write!(line, "armiger; hit; ttl={ttl}; detail={}", detail.word()),
            Self::Covers(status) => {
                let detail = Detail::Error.word();
                write!(line, "armiger; fwd=stale; fwd-status={}; ttl={ttl}; detail={detail}", status.as_u16())
            }
            Self::Checked(forward, why) => {
                write!(line, "armiger; fwd={}; fwd-status=304; detail={}", forward.word(), why.word())
            }
            Self::Stored { forward, is_revalidated, is_collapsed } => {
                let status = if is_revalidated { "; fwd-status=304" } else { "" };
                let collapsed = if is_collapsed { "; collapsed" } else { "" };
                write!(line, "armiger; fwd={}{status}; stored{collapsed}; ttl={ttl}", forward.word())
            }
        };
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&line.0)).unwrap_or(HeaderValue::from_static("armiger"))
    }
}

/// What is said of a response that is not stored.
pub fn passed(forward: Forward, why: Option<Unstorable>) -> HeaderValue {
    let text = match why {
        Some(why) => format!("armiger; fwd={}; detail={}", forward.word(), why.word()),
        None => format!("armiger; fwd={}", forward.word()),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("armiger"))
}

/// What is said where nothing is stored, and the upstream is not to be asked.
pub fn not_cached() -> HeaderValue {
    HeaderValue::try_from(format!("armiger; detail={}", Detail::NotCached.word()))
        .unwrap_or(HeaderValue::from_static("armiger"))
}

#[derive(Default)]
struct Line(SmallVec<[u8; 96]>);

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_was_done() {
        let forward = Forward::Stale;
        for (status, expected) in [
            (Status::Hit, "armiger; hit; ttl=7"),
            (Status::Told(Detail::Revalidating), "armiger; hit; ttl=7; detail=revalidating"),
            (Status::Covers(StatusCode::BAD_GATEWAY), "armiger; fwd=stale; fwd-status=502; ttl=7; detail=error"),
            (Status::Checked(forward, Unstorable::NoStore), "armiger; fwd=stale; fwd-status=304; detail=no_store"),
            (
                Status::Stored { forward: Forward::UriMiss, is_revalidated: false, is_collapsed: true },
                "armiger; fwd=uri-miss; stored; collapsed; ttl=7",
            ),
            (
                Status::Stored { forward, is_revalidated: true, is_collapsed: false },
                "armiger; fwd=stale; fwd-status=304; stored; ttl=7",
            ),
        ] {
            assert_eq!(status.value(7), expected);
        }
        assert_eq!(not_cached(), "armiger; detail=not_cached");
        assert_eq!(passed(Forward::Bypass, None), "armiger; fwd=bypass");
        assert_eq!(passed(Forward::UriMiss, Some(Unstorable::NoStore)), "armiger; fwd=uri-miss; detail=no_store");
    }

    /// Whoever debugs by these words finds each of them in the manual, and none that is not said.
    #[test]
    fn the_manual_has_a_line_for_each_word() {
        let manual = include_str!("../../../docs/cache.md");
        let told = |heading: &str| -> Vec<&str> {
            let rows = manual.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
            rows.map_while(|line| line.strip_prefix("| `")?.split('`').next()).collect()
        };
        let details = Detail::ALL.iter().map(|detail| detail.word());
        let words: Vec<&str> = details.chain(Unstorable::ALL.iter().map(|why| why.word())).collect();
        assert_eq!(told("| `detail` | Means |"), words);
        assert_eq!(told("| `fwd` | Why |"), Forward::ALL.iter().map(|forward| forward.word()).collect::<Vec<_>>());
    }
}
