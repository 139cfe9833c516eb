//! `Cache-Status`: what the cache did, for whoever reads the answer (RFC 9211).

use std::fmt::{self, Write as _};

use bytes::Bytes;
use http::HeaderValue;
use smallvec::SmallVec;

use super::storable::Unstorable;
use crate::http::decimal::Decimal;

/// Why a request went on to the upstream (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The cache was not asked.
    Bypass,
    /// Its method is none that is stored.
    Method,
    /// Nothing is stored of this URL.
    UriMiss,
    /// Something is, but for other request headers.
    VaryMiss,
    /// What is stored is stale.
    Stale,
    /// The request demands it.
    Request,
}

impl Forward {
    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// What the cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It had it.
    Hit,
    /// It had it, stale, and that had to do.
    StaleHit(&'static str),
    /// Another armiger had it.
    Shared,
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
            Self::Shared => write!(line, "armiger; hit; ttl={ttl}; detail=shared"),
            Self::StaleHit(why) => write!(line, "armiger; hit; ttl={ttl}; detail={why}"),
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
            (Status::StaleHit("revalidating"), "armiger; hit; ttl=7; detail=revalidating"),
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
        assert_eq!(passed(Forward::Bypass, None), "armiger; fwd=bypass");
        assert_eq!(passed(Forward::UriMiss, Some(Unstorable::NoStore)), "armiger; fwd=uri-miss; detail=no_store");
    }
}
