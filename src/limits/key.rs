//! Whose bucket it is: a key of typed parts, fed into whatever makes something of it.
//!
//! A user called `10.0.0.1` and the address 10.0.0.1 are two keys, since each part says what it is.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// What a part of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The client's address, or the network that it is in.
    Address = 1,
    /// A claim that is text.
    Claim = 2,
    /// A claim that is a number, `true` or `false`.
    ClaimValue = 3,
    /// A header.
    Header = 4,
    /// A cookie.
    Cookie = 5,
    /// A parameter of the path.
    Param = 6,
    /// The route.
    Route = 7,
    /// Nothing that differs: all requests together.
    Constant = 8,
    /// The address, in the place of a part that is missing.
    Fallback = 9,
}

/// What takes the parts of a key, one by one.
pub trait Sink {
    /// A part: what it is, what it is called, and its value.
    fn part(&mut self, kind: Kind, name: &str, value: &[u8]);
}

/// For buckets: 64 bits, by a seed of the store.
impl Sink for DefaultHasher {
    fn part(&mut self, kind: Kind, _: &str, value: &[u8]) {
        // The length keeps parts apart.
        self.write_u64((value.len() as u64) << 8 | kind as u64);
        self.write(value);
    }
}

/// For stores that several processes share.
impl Sink for Sha256 {
    fn part(&mut self, kind: Kind, _: &str, value: &[u8]) {
        self.update(((value.len() as u64) << 8 | kind as u64).to_le_bytes());
        self.update(value);
    }
}

/// For operators: what it is called. What may be a credential is told as a digest.
#[derive(Default)]
pub struct Label(String);

impl Label {
    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl Sink for Label {
    fn part(&mut self, kind: Kind, name: &str, value: &[u8]) {
        let out = &mut self.0;
        if !out.is_empty() {
            out.push_str(", ");
        }
        let _ = match kind {
            Kind::Address => write!(out, "client_ip={}", Network(value)),
            Kind::Fallback => write!(out, "fallback:ip={}", Network(value)),
            Kind::Claim | Kind::ClaimValue => write!(out, "claim:{name}={}", value.escape_ascii()),
            Kind::Param => write!(out, "path:{name}={}", value.escape_ascii()),
            Kind::Route => write!(out, "route={}", value.escape_ascii()),
            Kind::Constant => write!(out, "constant"),
            Kind::Header | Kind::Cookie => {
                let digest = Sha256::digest(value);
                let what = if kind == Kind::Header { "header" } else { "cookie" };
                write!(out, "{what}:{name}=sha256:")
                    .and_then(|()| digest.iter().take(6).try_for_each(|byte| write!(out, "{byte:02x}")))
            }
        };
    }
}

/// The bytes of an address, as a part has them.
struct Network<'v>(&'v [u8]);

impl std::fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Ok(bytes) = <[u8; 4]>::try_from(self.0) {
            return IpAddr::from(bytes).fmt(f);
        }
        let Some((bits, bytes)) = self.0.split_last() else { return Ok(()) };
        let mut whole = [0; 16];
        whole[..bytes.len().min(16)].copy_from_slice(&bytes[..bytes.len().min(16)]);
        write!(f, "{}/{bits}", IpAddr::from(whole))
    }
}

/// Gives an address as a part: IPv4 whole, of IPv6 the first `bits`, for whoever has one address has the whole network.
pub fn address(kind: Kind, address: IpAddr, bits: u8, sink: &mut impl Sink) {
    match address.to_canonical() {
        IpAddr::V4(address) => sink.part(kind, "", &address.octets()),
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            let mut bytes = [0; 17];
            bytes[..16].copy_from_slice(&(u128::from(address) & mask).to_be_bytes());
            bytes[16] = bits;
            sink.part(kind, "", &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[(Kind, &str)]) -> u64 {
        let mut hasher = DefaultHasher::new();
        parts.iter().for_each(|(kind, value)| hasher.part(*kind, "", value.as_bytes()));
        hasher.finish()
    }

    fn of(text: &str, bits: u8) -> (u64, String) {
        let (mut hasher, mut label) = (DefaultHasher::new(), Label::default());
        address(Kind::Address, text.parse().unwrap(), bits, &mut hasher);
        address(Kind::Address, text.parse().unwrap(), bits, &mut label);
        (hasher.finish(), label.into_text())
    }

    #[test]
    fn parts_are_kept_apart_by_kind_and_length() {
        let keys = [
            hash(&[(Kind::Claim, "10.0.0.1")]),
            hash(&[(Kind::Header, "10.0.0.1")]),
            hash(&[(Kind::Claim, "1"), (Kind::Claim, "23")]),
            hash(&[(Kind::Claim, "12"), (Kind::Claim, "3")]),
            hash(&[(Kind::Claim, "123")]),
            hash(&[(Kind::ClaimValue, "123")]),
            hash(&[(Kind::Claim, "")]),
            hash(&[]),
        ];
        let different: std::collections::HashSet<u64> = keys.into_iter().collect();
        assert_eq!(different.len(), keys.len());
    }

    #[test]
    fn who_has_an_address_of_ipv6_has_its_network() {
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:1", 64));
        assert_ne!(of("2001:db8::1", 64).0, of("2001:db8:0:1::1", 64).0);
        assert_ne!(of("2001:db8::1", 128).0, of("2001:db8::2", 128).0);
        assert_eq!(of("2001:db8::1", 56).1, "client_ip=2001:db8::/56");
        assert_eq!(of("::ffff:10.0.0.1", 64), of("10.0.0.1", 64));
        assert_ne!(of("10.0.0.1", 64).0, of("10.0.0.2", 64).0);
    }

    #[test]
    fn operators_see_no_credential() {
        let mut label = Label::default();
        label.part(Kind::Claim, "sub", b"alice");
        label.part(Kind::Header, "x-api-key", b"hunter2");
        let text = label.into_text();
        assert!(text.starts_with("claim:sub=alice, header:x-api-key=sha256:") && !text.contains("hunter2"), "{text}");
    }
}
