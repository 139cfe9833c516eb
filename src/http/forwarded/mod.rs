//! Where a request came from: which peers are believed, what they say, and what the next hop is told.
//!
//! Three steps, in this order: `clean` what an untrusted peer claims (or `clean_unvouched` for a trusted one),
//! `client_address`, `append`. The lists are read from the right, because the rightmost entry is the one the
//! nearest proxy wrote: whatever a client puts in front, however broken, cannot change how that entry is read.

mod elements;
#[cfg(test)]
mod tests;
mod via;
mod written;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

pub use self::elements::{ELEMENT_MAX, Element, Elements, Malformed, Node, elements};
pub use self::via::{ARMIGER, Via};
use super::headers::{is_provenance, name, remove_where};

/// How many entries of a list are looked at, from the right. A longer list is cut there: the last entry read counts.
pub const ENTRIES_MAX: usize = 32;

/// The header in which trusted peers name the client. One, not both: an attacker would write the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Which peers are believed about the client. The default believes nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The networks of the proxies in front. IPv4 as IPv4: IPv4-mapped addresses are unmapped before the comparison.
    pub proxies: Vec<IpNet>,
    /// The header they name the client in.
    pub source: Source,
    /// How many proxies are in front, the peer counted: the client is that many entries from the right (0 is the peer
    /// itself). For proxies whose addresses are not known beforehand; the peer must be in `proxies` all the same.
    /// `None` walks to the rightmost address that is not in `proxies`, which is safer.
    pub hops: Option<u8>,
}

impl Trust {
    /// Whether this peer is believed. One without an address is in no network: it is believed where it is named.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        match peer.to_canonical() {
            NOWHERE => self.proxies.contains(&IpNet::from(NOWHERE)),
            peer => self.proxies.iter().any(|network| network.contains(&peer)),
        }
    }
}

/// What stands for a peer without an address: one that came by a socket that is a file. No packet comes from it.
pub const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Reads a network (`10.0.0.0/8`), a single address, or `unix` for [`NOWHERE`].
///
/// # Errors
/// What is wrong with the text, in words for its author.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    if text == "unix" {
        return Ok(IpNet::from(NOWHERE));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let network: IpNet = text.parse().map_err(|_| format!("`{text}` is no network"))?;
    if network.addr() == network.network() {
        return Ok(network);
    }
    // `10.1.2.3/8` may be meant as either; taking the wrong one blocks or trusts too many.
    Err(format!("`{text}` names an address within the network {}", network.trunc()))
}

/// The address of the client: the peer, unless a trusted peer names another.
///
/// The walk ends at the first malformed or anonymous entry, at the end of the list and after `ENTRIES_MAX` entries;
/// the last address read counts then. IPv4-mapped addresses come back as IPv4.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trust: &Trust) -> IpAddr {
    client(peer, headers, trust).0
}

/// The address of the client, as [`client_address`] says, and the scheme that it used by the word of the believed elements
/// of `Forwarded`, the one nearest to it that tells.
pub fn client(peer: IpAddr, headers: &HeaderMap, trust: &Trust) -> (IpAddr, Option<Scheme>) {
    let peer = peer.to_canonical();
    if !trust.trusts(peer) {
        return (peer, None);
    }
    match trust.source {
        Source::XForwardedFor => walk(
            peer,
            trust,
            lines(headers, &name::X_FORWARDED_FOR).flat_map(entries).map(|entry| Some((Some(entry?), None))),
        ),
        Source::Forwarded => walk(
            peer,
            trust,
            lines(headers, &header::FORWARDED).flat_map(elements).map(|element| {
                let Element { node, scheme } = element.ok()?;
                Some((node.and_then(Node::address), scheme))
            }),
        ),
    }
}

/// Tells back ends of a client's scheme by `X-Forwarded-Proto`, which they know. What came in it goes: a proxy that writes
/// `Forwarded` hands it through as the client sent it.
pub fn tell_scheme(headers: &mut HeaderMap, scheme: Scheme) {
    // Full at 32,768 names, which no request that passed the limits has.
    let _ = headers.try_insert(&name::X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
}

/// The values of a header, the last line first.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().rev().map(HeaderValue::as_bytes)
}

/// Each entry, if it is well-formed, tells an address, unless it is anonymous, and perhaps a scheme.
fn walk(
    peer: IpAddr,
    trust: &Trust,
    entries: impl Iterator<Item = Option<(Option<IpAddr>, Option<Scheme>)>>,
) -> (IpAddr, Option<Scheme>) {
    let (mut client, mut scheme) = (peer, None);
    for (behind, entry) in entries.take(ENTRIES_MAX).enumerate() {
        let is_found = match trust.hops {
            Some(hops) => behind >= usize::from(hops),
            None => !trust.trusts(client),
        };
        let Some((address, told)) = entry.filter(|_| !is_found) else { break };
        scheme = told.or(scheme);
        let Some(address) = address else { break };
        client = address;
    }
    (client, scheme)
}

/// The entries of a line of `X-Forwarded-For`, the rightmost first; `None` for a malformed one.
///
/// The header has no standard. Read are addresses as every proxy writes them, and with the port some add:
/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`. Empty entries are skipped.
pub fn entries(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    line.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).map(entry)
}

fn entry(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = match text.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) if text.starts_with('[') => bracketed(text, is_port)?.into(),
        Err(_) => {
            let (address, port) = text.split_once(':')?;
            is_port(port).then(|| address.parse::<Ipv4Addr>().ok())??.into()
        }
    };
    Some(address.to_canonical())
}

/// `[IPv6]` with an optional `:port`.
fn bracketed(text: &str, is_port: impl Fn(&str) -> bool) -> Option<Ipv6Addr> {
    let (address, rest) = text.strip_prefix('[')?.split_once(']')?;
    let is_complete = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    is_complete.then(|| address.parse().ok())?
}

fn is_port(text: &str) -> bool {
    // `parse` alone would take `+80`.
    is_decimal(text) && text.parse::<u16>().is_ok()
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Removes everything an untrusted peer says about where a request came from: see `is_provenance`. One pass, and no
/// allocation, when there is none of it; `Seen`(super::headers::Seen) knows beforehand.
pub fn clean(headers: &mut HeaderMap) {
    remove_where(headers, is_provenance);
}

/// Removes what a trusted peer passed on without having written it: the list that is not its `Source`. Proxies extend
/// the one they know and hand through the other as the client sent it.
pub fn clean_unvouched(headers: &mut HeaderMap, source: Source) {
    match source {
        Source::XForwardedFor => headers.remove(header::FORWARDED),
        Source::Forwarded => headers.remove(&name::X_FORWARDED_FOR),
    };
}

/// The scheme a client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// The scheme of this name, in any case of letters.
    fn of(name: &[u8]) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| name.eq_ignore_ascii_case(scheme.as_str().as_bytes()))
    }

    /// As in a URI.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that it has where none is told.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What the next hop is told about the connection a request came over. Made once per connection: its values are then
/// shared by every request on it.
#[derive(Clone, Debug)]
pub struct Hop {
    address: HeaderValue,
    proto: HeaderValue,
    port: HeaderValue,
    /// What stands ahead of the host in an element of `Forwarded`; none to write no `Forwarded`.
    element: Option<Box<str>>,
}

impl Hop {
    /// A connection of `peer` to our `port`. The next hop is told by `X-Forwarded-*`.
    pub fn new(peer: IpAddr, scheme: Scheme, port: u16) -> Self {
        let peer = peer.to_canonical();
        let address = match peer {
            // As RFC 7239 §6.2 has it.
            NOWHERE => HeaderValue::from_static("unknown"),
            peer => HeaderValue::try_from(peer.to_string()).expect("an address is ASCII"),
        };
        let proto = HeaderValue::from_static(scheme.as_str());
        Self { address, proto, port: HeaderValue::from(port), element: None }
    }

    /// Tells the next hop by `Forwarded` (RFC 7239) too.
    #[must_use]
    pub fn with_forwarded(mut self) -> Self {
        self.element = Some(written::element(&self.address, &self.proto));
        self
    }

    /// The scheme that the client used.
    pub fn proto(&self) -> &[u8] {
        self.proto.as_bytes()
    }

    /// The port that it connected to.
    pub fn port(&self) -> &[u8] {
        self.port.as_bytes()
    }
}

/// Tells the next hop where the request came from: the peer at the end of `X-Forwarded-For`, on one line, and
/// `X-Forwarded-Proto`, `-Host` (the `host` of the request) and `-Port` where they are absent; and all but the port in an
/// element of `Forwarded`, where that is written.
///
/// Claims of an untrusted peer must be gone before: `clean`.
pub fn append(headers: &mut HeaderMap, hop: &Hop, host: Option<&HeaderValue>) {
    if let Some(element) = &hop.element {
        written::append(headers, element, host);
    }
    // The usual case: nobody has said anything, so there is nothing to look for.
    if !headers.keys().any(|name| name.as_str().starts_with("x-forwarded-")) {
        // As below.
        let _ = headers.try_append(&name::X_FORWARDED_FOR, hop.address.clone());
        let _ = headers.try_append(&name::X_FORWARDED_PROTO, hop.proto.clone());
        let _ = headers.try_append(&name::X_FORWARDED_PORT, hop.port.clone());
        if let Some(host) = host {
            let _ = headers.try_append(&name::X_FORWARDED_HOST, host.clone());
        }
        return;
    }
    append_to_list(headers, &name::X_FORWARDED_FOR, &hop.address);
    insert_if_absent(headers, &name::X_FORWARDED_PROTO, &hop.proto);
    insert_if_absent(headers, &name::X_FORWARDED_PORT, &hop.port);
    if let Some(host) = host {
        insert_if_absent(headers, &name::X_FORWARDED_HOST, host);
    }
}

/// Adds an entry at the end of a comma-separated list, which becomes one line: some readers look at one line alone.
fn append_to_list(headers: &mut HeaderMap, name: &HeaderName, entry: &HeaderValue) {
    // Full at 32,768 names, which no request that passed the limits has.
    let mut present = match headers.try_entry(name) {
        Ok(Entry::Occupied(present)) => present,
        Ok(Entry::Vacant(absent)) => {
            let _ = absent.try_insert(entry.clone());
            return;
        }
        Err(_) => return,
    };
    let mut list = Vec::with_capacity(128);
    for line in present.iter().filter(|line| !line.is_empty()).chain([entry]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(line.as_bytes());
    }
    // Parts of lawful values make a lawful value.
    if let Ok(list) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        present.insert(list);
    }
}

fn insert_if_absent(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    if let Ok(Entry::Vacant(entry)) = headers.try_entry(name) {
        // As above.
        let _ = entry.try_insert(value.clone());
    }
}
