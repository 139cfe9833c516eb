//! One address of an upstream: how it is written and what it means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;
use rustls::pki_types::ServerName;

use crate::tls::client::Client;

/// The bytes that a Unix socket's path may have: `sun_path` less its final NUL (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// One address of an upstream.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The address in its one spelling, `host:port` or a socket's path: what logs show, and what tells endpoints apart.
    pub label: Arc<str>,
    /// Where to connect.
    pub address: Address,
    /// `Host` of requests that shall name the endpoint rather than what the client asked for.
    pub host: HeaderValue,
    /// The same as an authority, for HTTP/2.
    pub(super) authority: Authority,
    /// Whether TLS is spoken with it.
    pub(super) is_https: bool,
    /// Those with a higher one come only while none with a lower is fit (SRV records, RFC 2782).
    pub(super) priority: u16,
    /// What its handshakes run on. Set once the upstream's settings were checked.
    pub(super) tls: Option<EndpointTls>,
}

/// What handshakes with an endpoint run on.
#[derive(Clone, Debug)]
pub(super) struct EndpointTls {
    pub(super) client: Client,
    /// Whom to ask for.
    pub(super) name: ServerName<'static>,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP, to this address.
    Ip(SocketAddr),
    /// TCP, to whatever the name means at each new connection.
    Name {
        /// The name to look up.
        host: Box<str>,
        /// The port.
        port: u16,
    },
    /// A Unix socket at this path.
    Unix(Box<Path>),
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: &'static str,
    pub(super) hint: &'static str,
}

pub(super) const fn complaint(message: &'static str, hint: &'static str) -> Complaint {
    Complaint { message, hint }
}

const SHAPE: &str =
    "write `http://127.0.0.1:3000`, `https://name:8443`, `dns:http://name:8080` or `unix:/path/to/socket`";

impl Endpoint {
    /// Reads `http://IP:port`, `http://name:port` (port 80 if left out), the same with `https` (port 443), or
    /// `unix:/path`.
    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        if has_scheme(text, "https://") {
            return Self::tcp(&text["https://".len()..], true);
        }
        if !has_scheme(text, "http://") {
            return Err(complaint("is no endpoint", SHAPE));
        }
        Self::tcp(&text["http://".len()..], false)
    }

    /// Lets handshakes with it run on `client`.
    pub(super) fn secure(&mut self, client: &Client) -> Result<(), Complaint> {
        let own = || match &self.address {
            Address::Ip(address) => Some(ServerName::from(address.ip())),
            Address::Name { host, .. } => ServerName::try_from(host.to_string()).ok(),
            Address::Unix(_) => None,
        };
        let name = client.server_name.clone().or_else(own).ok_or(complaint(
            "has a host that no certificate can be for",
            "name one that its certificate is for under `tls.server_name`",
        ))?;
        self.tls = Some(EndpointTls { client: client.clone(), name });
        Ok(())
    }

    /// Whether connections to `other` are as good as those to this one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let secured = |endpoint: &Self| endpoint.tls.as_ref().map(|tls| tls.client.digest);
        self.label == other.label && secured(self) == secured(other)
    }

    fn unix(path: &str) -> Result<Self, Complaint> {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(complaint("names no absolute path", "write `unix:/path/to/socket`"));
        }
        if path.len() > UNIX_PATH_MAX {
            return Err(complaint("has a path of more than 107 bytes", "move the socket to a shorter path"));
        }
        Ok(Self {
            label: path.into(),
            address: Address::Unix(PathBuf::from(path).into()),
            host: HeaderValue::from_static("localhost"),
            authority: Authority::from_static("localhost"),
            is_https: false,
            priority: 0,
            tls: None,
        })
    }

    fn tcp(rest: &str, is_https: bool) -> Result<Self, Complaint> {
        let default = if is_https { 443 } else { 80 };
        if rest.contains('@') {
            return Err(complaint("contains credentials", "remove what stands before `@`"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(complaint("has more than a host and a port", "remove the path; a route may rewrite paths"));
        }
        let (host, port) = split_port(rest, default)?;
        let (shown, address) = if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').unwrap_or("");
            let ip: Ipv6Addr =
                inner.parse().map_err(|_| complaint("has an invalid IPv6 address", "write `http://[::1]:3000`"))?;
            (format!("[{ip}]"), Address::Ip(SocketAddr::new(IpAddr::V6(ip), port)))
        } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
            (ip.to_string(), Address::Ip(SocketAddr::new(IpAddr::V4(ip), port)))
        } else {
            let name = host.to_ascii_lowercase();
            if !is_name(&name) {
                return Err(complaint("has an invalid host", SHAPE));
            }
            (name.clone(), Address::Name { host: name.into(), port })
        };
        // RFC 9110 §4.2.1: the default port is left out of an authority's normal form.
        let authority = if port == default { shown.clone() } else { format!("{shown}:{port}") };
        Ok(Self {
            label: format!("{shown}:{port}").into(),
            address,
            host: HeaderValue::from_str(&authority).map_err(|_| complaint("has an invalid host", SHAPE))?,
            authority: authority.parse().map_err(|_| complaint("has an invalid host", SHAPE))?,
            is_https,
            priority: 0,
            tls: None,
        })
    }
}

fn has_scheme(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

fn split_port(text: &str, default: u16) -> Result<(&str, u16), Complaint> {
    let host_end = if text.starts_with('[') {
        text.find(']').map_or(text.len(), |at| at + 1)
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, port) = text.split_at(host_end);
    if port.is_empty() {
        return Ok((host, default));
    }
    let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(port) if port > 0 => Ok((host, port)),
        _ => Err(complaint("has an invalid port", "the port is a number from 1 to 65535")),
    }
}

/// A name that a resolver can be asked for (RFC 1123 §2.1, and the underscore that container networks use).
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // A last label of digits alone is a mistyped address: `127.0.0.256`.
    let is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && !is_number && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &str, label: &str, host: &str) {
        let endpoint = Endpoint::parse(text).unwrap_or_else(|no| panic!("{text}: {}", no.message));
        assert_eq!(&*endpoint.label, label, "{text}");
        assert_eq!(endpoint.host, host, "{text}");
    }

    #[test]
    fn an_endpoint_is_a_url_of_host_and_port_or_a_unix_socket() {
        reads("http://127.0.0.1:3000", "127.0.0.1:3000", "127.0.0.1:3000");
        reads("http://127.0.0.1", "127.0.0.1:80", "127.0.0.1");
        reads("HTTP://App.Internal:8080", "app.internal:8080", "app.internal:8080");
        reads("http://app_1", "app_1:80", "app_1");
        reads("http://[::1]:3000", "[::1]:3000", "[::1]:3000");
        reads("http://[0:0:0:0:0:0:0:1]", "[::1]:80", "[::1]");
        reads("unix:/run/app.sock", "/run/app.sock", "localhost");
        reads("https://App.Internal", "app.internal:443", "app.internal");
        reads("https://[::1]:8443", "[::1]:8443", "[::1]:8443");
        reads("https://app:80", "app:80", "app:80");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_a_reason() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        for (text, message) in [
            ("https://", "has an invalid host"),
            ("https+unix:/run/app.sock", "is no endpoint"),
            ("app:3000", "is no endpoint"),
            ("", "is no endpoint"),
            ("ftp://app", "is no endpoint"),
            ("http://", "has an invalid host"),
            ("http://:80", "has an invalid host"),
            ("http://user:secret@app", "contains credentials"),
            ("http://app/", "has more than a host and a port"),
            ("http://app/v1", "has more than a host and a port"),
            ("http://app?x", "has more than a host and a port"),
            ("http://app:0", "has an invalid port"),
            ("http://app:", "has an invalid port"),
            ("http://app:+80", "has an invalid port"),
            ("http://app:65536", "has an invalid port"),
            ("http://app:80:80", "has an invalid port"),
            ("http://127.0.0.256:80", "has an invalid host"),
            ("http://-app", "has an invalid host"),
            ("http://a..b", "has an invalid host"),
            ("http://ap p", "has an invalid host"),
            ("http://[::1:80", "has an invalid IPv6 address"),
            ("http://[fe80::1%eth0]:80", "has an invalid IPv6 address"),
            ("http://[::1]x", "has an invalid port"),
            ("unix:", "names no absolute path"),
            ("unix:run/app.sock", "names no absolute path"),
            (&long, "has a path of more than 107 bytes"),
        ] {
            match Endpoint::parse(text) {
                Err(no) => assert_eq!(no.message, message, "{text}"),
                Ok(endpoint) => panic!("{text} was read as {}", endpoint.label),
            }
        }
    }
}
