//! Who may ask the admin listener for what: the token, and protection from browsers.
//!
//! A page that somebody's browser shows can make that browser send requests to loopback. It cannot send `Authorization`
//! (there are no CORS headers here to allow it), but it can POST a form across sites, and, by a DNS name of its own that
//! it points to 127.0.0.1 (DNS rebinding), even read answers. The former shows in `Sec-Fetch-Site` and `Origin`, the
//! latter in `Host`.

use std::hint::black_box;
use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, Version, header};
use sha2::{Digest, Sha256};

use super::answer::Refusal;
use crate::config::operate::Admin;

/// Who may see a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Whoever connects: probes.
    Anyone,
    /// Whoever has the token, by whatever name the listener is called: Prometheus knows it by a name.
    Scraper,
    /// Whoever has the token; where there is none, whoever is no page of a strange name in a browser.
    Operator,
}

/// What a listener asks of its callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// The token's SHA-256: two digests are compared in a time that tells nothing of either.
    token: Option<[u8; 32]>,
    /// Other machines may reach the listener.
    is_exposed: bool,
    /// The listener is a file, which no browser can be led to.
    is_file: bool,
}

impl Guard {
    /// As the configuration has it.
    pub(super) fn of(admin: &Admin) -> Self {
        Self {
            token: admin.token.as_ref().map(|token| Sha256::digest(token.expose()).into()),
            is_exposed: admin.address.is_exposed(),
            is_file: admin.address.path().is_some(),
        }
    }

    /// Whether pages that change something are served: not to other machines without a token.
    pub(super) fn serves_changes(&self) -> bool {
        self.token.is_some() || !self.is_exposed
    }

    /// Why they are not.
    pub(super) fn changes_refusal() -> Refusal {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "other machines can reach this listener and no token protects it, so it changes nothing: set \
             `admin.token`, or move `admin.address` to loopback or `unix:`, and give `probes` what others need",
        )
    }

    /// Whether the caller is an operator as far as can be known: one with the token, or one that needs none.
    pub(super) fn trusts(&self, headers: &HeaderMap) -> bool {
        self.token.is_none_or(|token| holds(headers, &token))
    }

    /// Refuses those who may not see a page.
    pub(super) fn admit<B>(&self, who: Who, request: &Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        match (who, &self.token) {
            (Who::Anyone, _) | (Who::Scraper, None) => Ok(()),
            (_, Some(token)) if holds(headers, token) => Ok(()),
            (_, Some(_)) => Err(unauthorized(headers)),
            (Who::Operator, None) if self.is_file || is_called_by_address(request) => Ok(()),
            (Who::Operator, None) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "a web page could have come here by a DNS name of its own: call this listener by its IP address or as \
                 localhost, or set `admin.token`",
            )),
        }
    }

    /// Refuses to change anything for a page of another site.
    pub(super) fn same_site<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        let refusal = || {
            Refusal::new(
                StatusCode::FORBIDDEN,
                "a page of another site sent this request; send it from a shell, such as `armiger reload`",
            )
        };
        if let Some(site) = headers.get("sec-fetch-site") {
            // `none`: the user's own doing, such as an address typed in.
            let own = [&b"same-origin"[..], b"none"].contains(&site.as_bytes());
            return if own { Ok(()) } else { Err(refusal()) };
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
        let is_own = origin.is_some_and(|origin| host(request).is_some_and(|host| host.eq_ignore_ascii_case(origin)));
        if is_own { Ok(()) } else { Err(refusal()) }
    }
}

/// A request names its host once (RFC 9112 §3.2); HTTP/1.0 need not.
pub(super) fn lawful_host<B>(request: &Request<B>) -> Result<(), Refusal> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts == 1 || (hosts == 0 && request.version() < Version::HTTP_11) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, format!("a request has one `Host` and this one has {hosts}")))
}

fn holds(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let Some(given) = line.to_str().ok().and_then(bearer) else { return false };
    let given: [u8; 32] = Sha256::digest(given).into();
    let differences = given.iter().zip(token).fold(0, |found, (given, right)| black_box(found | (given ^ right)));
    differences == 0
}

/// What follows `Bearer`, whose case does not count (RFC 9110 §11.1).
fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

fn unauthorized(headers: &HeaderMap) -> Refusal {
    // RFC 6750 §3.1: no error code for a request without credentials.
    let (message, challenge) = if headers.contains_key(header::AUTHORIZATION) {
        ("this is not the token of `admin.token`", "Bearer realm=\"armiger\", error=\"invalid_token\"")
    } else {
        ("send `Authorization: Bearer` with the token of `admin.token`", "Bearer realm=\"armiger\"")
    };
    Refusal::new(StatusCode::UNAUTHORIZED, message).header(header::WWW_AUTHENTICATE, challenge)
}

/// The host as a browser would have it. Of a target in absolute form, the target's (RFC 9112 §3.2.2).
fn host<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

/// Whether the caller used an IP address or `localhost`, which no name service of a stranger can answer for. A browser
/// always sends a host, so a request without one is not from a browser.
fn is_called_by_address<B>(request: &Request<B>) -> bool {
    let Some(host) = host(request) else { return !request.headers().contains_key(header::HOST) };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // RFC 6761 §6.3: names below `localhost` are loopback, whatever a name service says.
    ip.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::ListenAddress;
    use crate::config::value::Secret;

    const TOKEN: &str = "0123456789abcdef";

    fn guard(address: &str, token: Option<&str>) -> Guard {
        let admin = Admin {
            address: ListenAddress::parse(address).unwrap(),
            token: token.map(Secret::new),
            ..Admin::default()
        };
        Guard::of(&admin)
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::get("/config");
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn the_token_is_asked_for_whole_and_once() {
        let guard = guard("127.0.0.1:1", Some(TOKEN));
        for (headers, expected) in [
            (&[("authorization", "Bearer 0123456789abcdef")][..], 200),
            (&[("authorization", "bEARER 0123456789abcdef")], 200),
            (&[("authorization", "Bearer  0123456789abcdef")], 200),
            (&[], 401),
            (&[("authorization", "Bearer 0123456789abcde")], 401),
            (&[("authorization", "Bearer 0123456789abcdef0")], 401),
            (&[("authorization", "Bearer")], 401),
            (&[("authorization", "Bearer ")], 401),
            (&[("authorization", "Basic 0123456789abcdef")], 401),
            (&[("authorization", "0123456789abcdef")], 401),
            (&[("authorization", "Bearer 0123456789abcdef"), ("authorization", "Bearer 0123456789abcdef")], 401),
        ] {
            for who in [Who::Operator, Who::Scraper] {
                let status =
                    guard.admit(who, &request(headers)).map_or_else(|refusal| refusal.status.as_u16(), |()| 200);
                assert_eq!(status, expected, "{headers:?}");
            }
            assert_eq!(guard.admit(Who::Anyone, &request(headers)), Ok(()));
            assert_eq!(guard.trusts(request(headers).headers()), expected == 200);
        }
        let challenge = |headers| guard.admit(Who::Operator, &request(headers)).unwrap_err().header.unwrap().1;
        assert_eq!(challenge(&[]), "Bearer realm=\"armiger\"");
        assert!(challenge(&[("authorization", "Bearer x")]).contains("invalid_token"));
    }

    #[test]
    fn a_name_that_a_stranger_may_have_made_up_is_refused() {
        for (host, is_fine) in [
            ("127.0.0.1:9901", true),
            ("10.0.0.1", true),
            ("[::1]:9901", true),
            ("localhost:9901", true),
            ("LocalHost.", true),
            ("armiger.localhost:9901", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example:9901", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("2130706433", false),
            ("", false),
        ] {
            let request = request(&[("host", host)]);
            let plain = guard("127.0.0.1:9901", None);
            assert_eq!(plain.admit(Who::Operator, &request).is_ok(), is_fine, "{host}");
            assert!(plain.admit(Who::Scraper, &request).is_ok() && plain.admit(Who::Anyone, &request).is_ok());
            assert!(guard("unix:/run/a.sock", None).admit(Who::Operator, &request).is_ok());
        }
        let absolute = Request::get("http://evil.example/config").header("host", "127.0.0.1").body(()).unwrap();
        assert!(guard("127.0.0.1:9901", None).admit(Who::Operator, &absolute).is_err());
        // No page of a stranger has the token, so names do not matter where there is one.
        let named = request(&[("host", "admin.internal"), ("authorization", "Bearer 0123456789abcdef")]);
        assert!(guard("127.0.0.1:9901", Some(TOKEN)).admit(Who::Operator, &named).is_ok());
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let guard = guard("127.0.0.1:9901", None);
        for (name, value, is_fine) in [
            ("x-none", "x", true),
            ("sec-fetch-site", "cross-site", false),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("origin", "https://evil.example", false),
            ("origin", "null", false),
            ("origin", "http://127.0.0.1:9901", true),
            ("origin", "http://127.0.0.1:9902", false),
        ] {
            let request = request(&[("host", "127.0.0.1:9901"), (name, value)]);
            assert_eq!(guard.same_site(&request).is_ok(), is_fine, "{name}: {value}");
        }
    }

    #[test]
    fn nothing_is_changed_for_other_machines_without_a_token() {
        for (address, token, changes) in [
            ("127.0.0.1:1", None, true),
            ("unix:/run/a.sock", None, true),
            ("0.0.0.0:1", None, false),
            ("[::]:1", None, false),
            ("0.0.0.0:1", Some(TOKEN), true),
        ] {
            assert_eq!(guard(address, token).serves_changes(), changes, "{address}");
        }
    }
}
