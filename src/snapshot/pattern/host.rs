//! Hosts: the form they are compared in, and patterns of them.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use super::PatternError;
use crate::http::framing::HOST_BYTES_MAX;

/// Brings a `Host` or `:authority` into the form that hosts are compared in: lower case, without port and without the
/// root's trailing dot. IPv6 addresses keep their brackets and take their canonical form (RFC 5952).
///
/// `None` for what is no plain host: empty, with userinfo, spaces, empty labels, a port that is no number, or
/// characters other than letters, digits, `-`, `_` and `.` (RFC 3986 §3.2.2 would allow more, no name in use has them).
pub fn normalise_host(raw: &str) -> Option<Cow<'_, str>> {
    if raw.starts_with('[') {
        return normalise_address(raw);
    }
    // One pass: this runs for every request.
    let (mut end, mut all, mut last) = (raw.len(), 0, DOT);
    for (place, byte) in raw.bytes().enumerate() {
        let kind = KINDS[usize::from(byte)];
        if kind == COLON {
            end = place;
            break;
        }
        // No label is empty.
        if kind == 0 || kind & last & DOT != 0 {
            return None;
        }
        all |= kind;
        last = kind;
    }
    let (mut host, port) = raw.split_at(end);
    let has_capitals = all & CAPITAL != 0;
    if last == DOT {
        // Only the root's dot may end it, and only behind a name.
        host = host.strip_suffix('.')?;
    }
    if host.len() > HOST_BYTES_MAX || !port_is_valid(port) {
        return None;
    }
    Some(if has_capitals { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

const PLAIN: u8 = 1;
const CAPITAL: u8 = 2;
const DOT: u8 = 4;
const COLON: u8 = 8;

/// What a byte is in a host; 0 is for those that are in none.
static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => PLAIN,
            b'A'..=b'Z' => CAPITAL,
            b'.' => DOT,
            b':' => COLON,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

fn normalise_address(raw: &str) -> Option<Cow<'_, str>> {
    let (host, port) = raw.split_at(raw.find(']')? + 1);
    if !port_is_valid(port) {
        return None;
    }
    let address: Ipv6Addr = host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    let canonical = format!("[{address}]");
    Some(if canonical == host { Cow::Borrowed(host) } else { Cow::Owned(canonical) })
}

/// Nothing, or `:` and a port. An empty port is legal: `example.com:` (RFC 3986 §3.2.3).
fn port_is_valid(after: &str) -> bool {
    let Some(port) = after.strip_prefix(':') else { return after.is_empty() };
    let mut number = 0;
    port.bytes().all(|byte| {
        number = number * 10 + u32::from(byte.wrapping_sub(b'0'));
        byte.is_ascii_digit() && number <= u32::from(u16::MAX)
    })
}

/// The hosts that a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name or address, as [`normalise_host`] gives it.
    Exact(String),
    /// Every name below this one, by one label or more. `*.example.com` is held as `example.com` and matches
    /// `a.example.com` and `a.b.example.com`, not `example.com` itself, as in the Kubernetes Gateway API.
    Suffix(String),
}

impl HostPattern {
    /// Reads `api.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`.
    ///
    /// # Errors
    /// A port, a wildcard that is not the whole first label, or what is no host name.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if text == "*" {
            return Err(PatternError::new("`*` is no host", "leave the host out to match any"));
        }
        if name.contains('*') {
            return Err(PatternError::new(
                format!("`{text}` has a `*` that is not its whole first label"),
                "write `*.example.com`, which matches every name below `example.com`",
            ));
        }
        if text.contains("://") || text.contains('/') {
            return Err(PatternError::new(format!("`{text}` is more than a host"), "write the name alone"));
        }
        if !name.is_ascii() {
            return Err(PatternError::new(
                format!("`{text}` is not ASCII"),
                "write the name as it is sent, in Punycode: `xn--...`",
            ));
        }
        let Some(host) = normalise_host(name) else {
            return Err(PatternError::new(
                format!("`{text}` is no host name"),
                "write `api.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`",
            ));
        };
        let colon = if name.starts_with('[') { name.contains("]:") } else { name.contains(':') };
        if colon {
            return Err(PatternError::new(
                format!("`{text}` has a port"),
                "leave the port out: hosts are compared without it",
            ));
        }
        match wildcard {
            true if host.starts_with('[') => {
                Err(PatternError::new(format!("`{text}` puts a wildcard before an address"), "write the address alone"))
            }
            true => Ok(Self::Suffix(host.into_owned())),
            false => Ok(Self::Exact(host.into_owned())),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(host) => write!(f, "*.{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised_or_refused() {
        for (raw, expected) in [
            ("a.com", Some("a.com")),
            ("A.Com", Some("a.com")),
            ("a.com.", Some("a.com")),
            ("a.com:80", Some("a.com")),
            ("a.com.:80", Some("a.com")),
            ("a.com:", Some("a.com")),
            ("a_b.svc-1", Some("a_b.svc-1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("[::1]", Some("[::1]")),
            ("[::1]:80", Some("[::1]")),
            ("[0:0::0:1]", Some("[::1]")),
            ("[2001:DB8::A]", Some("[2001:db8::a]")),
            ("", None),
            (".", None),
            (":80", None),
            ("a..com", None),
            (".a.com", None),
            ("a.com..", None),
            ("user@a.com", None),
            ("user:pass@a.com", None),
            ("a b", None),
            (" a.com", None),
            ("a.com:x", None),
            ("a.com:65536", None),
            ("a.com:+80", None),
            ("a.com:80:80", None),
            ("a.com/b", None),
            ("a%2ecom", None),
            ("a,b", None),
            ("ä.com", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[::1]80", None),
            ("[fe80::1%25eth0]", None),
            ("[a.com]", None),
            ("]", None),
        ] {
            assert_eq!(normalise_host(raw).as_deref(), expected, "{raw}");
        }
        assert!(normalise_host(&"a".repeat(256)).is_none());
        assert!(matches!(normalise_host("a.com:80"), Some(Cow::Borrowed(_))), "nothing is copied without need");
    }

    #[test]
    fn host_patterns_are_read() {
        for (text, expected) in [
            ("a.com", HostPattern::Exact("a.com".into())),
            ("A.com.", HostPattern::Exact("a.com".into())),
            ("*.A.com", HostPattern::Suffix("a.com".into())),
            ("[::1]", HostPattern::Exact("[::1]".into())),
        ] {
            assert_eq!(HostPattern::parse(text).as_ref(), Ok(&expected), "{text}");
        }
        assert_eq!(HostPattern::parse("*.a.com").unwrap().to_string(), "*.a.com");
    }

    #[test]
    fn host_patterns_are_refused_with_a_way_out() {
        for (text, message, hint) in [
            ("*", "`*` is no host", "leave the host out"),
            ("a.*", "`a.*` has a `*`", "`*.example.com`"),
            ("*a.com", "`*a.com` has a `*`", "`*.example.com`"),
            ("*.*.com", "`*.*.com` has a `*`", "`*.example.com`"),
            ("a.com:80", "`a.com:80` has a port", "leave the port out"),
            ("[::1]:80", "`[::1]:80` has a port", "leave the port out"),
            ("http://a.com", "`http://a.com` is more than a host", "name alone"),
            ("a.com/x", "`a.com/x` is more than a host", "name alone"),
            ("köln.de", "`köln.de` is not ASCII", "xn--"),
            ("*.[::1]", "`*.[::1]` puts a wildcard before an address", "address alone"),
            ("", "`` is no host name", "write"),
            ("a b", "`a b` is no host name", "write"),
            ("*.", "`*.` is no host name", "write"),
        ] {
            let error = HostPattern::parse(text).unwrap_err();
            assert!(error.message().starts_with(message), "{text}: {error}");
            assert!(error.hint().contains(hint), "{text}: {error}");
        }
    }
}
