//! Where a request came from: which peers are believed, what they say, and what the next hop is told.
//!
//! Three steps, in this order: `clean` what an untrusted peer claims (or `clean_unvouched` for a trusted one),
//! `client_address`, `append`. The lists are read from the right, because the rightmost entry is the one the
//! nearest proxy wrote: whatever a client puts in front, however broken, cannot change how that entry is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Version;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::headers::{is_provenance, name, remove_where};

/// How many entries of a list are looked at, from the right. A longer list is cut there: the last entry read counts.
pub const ENTRIES_MAX: usize = 32;

/// The longest element of `Forwarded` that is read, in bytes. A longer one is malformed.
pub const ELEMENT_MAX: usize = 512;

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
    let peer = peer.to_canonical();
    if !trust.trusts(peer) {
        return peer;
    }
    match trust.source {
        Source::XForwardedFor => walk(peer, trust, lines(headers, &name::X_FORWARDED_FOR).flat_map(entries)),
        Source::Forwarded => walk(
            peer,
            trust,
            lines(headers, &header::FORWARDED).flat_map(elements).map(|element| element.ok()?.node?.address()),
        ),
    }
}

/// The values of a header, the last line first.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().rev().map(HeaderValue::as_bytes)
}

fn walk(peer: IpAddr, trust: &Trust, entries: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
    let mut client = peer;
    for (behind, entry) in entries.take(ENTRIES_MAX).enumerate() {
        let is_found = match trust.hops {
            Some(hops) => behind >= usize::from(hops),
            None => !trust.trusts(client),
        };
        match entry {
            Some(address) if !is_found => client = address,
            _ => break,
        }
    }
    client
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

/// One element of `Forwarded`: what one proxy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its `for` parameter.
    pub node: Option<Node>,
}

/// Who a `for` parameter names (RFC 7239 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// An address; a port is dropped.
    Address(IpAddr),
    /// `unknown`: the proxy does not know.
    Unknown,
    /// `_word`: the proxy does not tell.
    Obfuscated,
}

impl Node {
    const fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Unknown | Self::Obfuscated => None,
        }
    }
}

/// An element of `Forwarded` that is not as RFC 7239 §4 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The elements of one line of `Forwarded`, the rightmost first; empty ones are skipped. Ends after `Malformed`:
/// there is no telling where the next element would begin.
///
/// Strict: no space around `;` and `=`, no parameter twice in one element, IPv6 in brackets and quoted, no escapes in a
/// node. An element begins after the rightmost comma that leaves a well-formed one; a comma inside a quoted string
/// leaves an odd number of quotes and cannot be taken for it.
pub fn elements(line: &[u8]) -> Elements<'_> {
    Elements { rest: Some(line) }
}

/// See `elements`.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: Option<&'a [u8]>,
}

impl Iterator for Elements<'_> {
    type Item = Result<Element, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.rest?.trim_ascii_end();
        let mut end = rest.len();
        loop {
            let comma = rest[..end].iter().rposition(|byte| *byte == b',');
            let text = rest[comma.map_or(0, |comma| comma + 1)..].trim_ascii_start();
            let before = comma.map(|comma| &rest[..comma]);
            if text.is_empty() {
                // An empty element of the list, or the start of the line.
                let before = before.map(<[u8]>::trim_ascii_end);
                self.rest = before;
                rest = before?;
                end = rest.len();
                continue;
            }
            if let Some(element) = element(text) {
                self.rest = before;
                return Some(Ok(element));
            }
            match comma {
                Some(comma) if text.len() <= ELEMENT_MAX => end = comma,
                _ => {
                    self.rest = None;
                    return Some(Err(Malformed));
                }
            }
        }
    }
}

/// `[ pair ] *( ";" [ pair ] )` with `pair = token "=" ( token / quoted-string )`.
fn element(mut text: &[u8]) -> Option<Element> {
    if text.len() > ELEMENT_MAX {
        return None;
    }
    let mut names: SmallVec<[&[u8]; 4]> = SmallVec::new();
    let mut node = None;
    loop {
        if !matches!(text.first(), None | Some(b';')) {
            let (name, after_name) = split_token(text)?;
            let (value, after_value) = value(after_name.strip_prefix(b"=")?)?;
            if names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return None;
            }
            names.push(name);
            if name.eq_ignore_ascii_case(b"for") {
                node = Some(self::node(value)?);
            }
            text = after_value;
        }
        match text.split_first() {
            None => return Some(Element { node }),
            Some((b';', rest)) => text = rest,
            Some(_) => return None,
        }
    }
}

/// The token at the start and what follows it (RFC 9110 §5.6.2).
fn split_token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = text.iter().take_while(|byte| is_token_byte(**byte)).count();
    (length > 0).then(|| text.split_at(length))
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// The token or the inside of the quoted string at the start (RFC 9110 §5.6.4), and what follows it.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return split_token(text);
    };
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some((&quoted[..at], &quoted[at + 1..])),
            b'\\' if quoted.get(at + 1).is_some_and(|byte| is_quotable(*byte)) => at += 2,
            b'\\' => return None,
            byte if is_quotable(*byte) => at += 1,
            _ => return None,
        }
    }
}

const fn is_quotable(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// `nodename [ ":" node-port ]` (RFC 7239 §6).
fn node(text: &[u8]) -> Option<Node> {
    let text = std::str::from_utf8(text).ok()?;
    if text.starts_with('[') {
        let address = bracketed(text, is_node_port)?;
        return Some(Node::Address(IpAddr::V6(address).to_canonical()));
    }
    let name = match text.split_once(':') {
        Some((name, port)) => is_node_port(port).then_some(name)?,
        None => text,
    };
    if name.eq_ignore_ascii_case("unknown") {
        Some(Node::Unknown)
    } else if is_obfuscated(name) {
        Some(Node::Obfuscated)
    } else {
        Some(Node::Address(IpAddr::V4(name.parse().ok()?)))
    }
}

fn is_node_port(port: &str) -> bool {
    (port.len() <= 5 && is_decimal(port)) || is_obfuscated(port)
}

fn is_obfuscated(word: &str) -> bool {
    word.strip_prefix('_').is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    })
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
}

impl Hop {
    /// A connection of `peer` to our `port`.
    pub fn new(peer: IpAddr, scheme: Scheme, port: u16) -> Self {
        let peer = peer.to_canonical();
        let address = match peer {
            // As RFC 7239 §6.2 has it.
            NOWHERE => HeaderValue::from_static("unknown"),
            peer => HeaderValue::try_from(peer.to_string()).expect("an address is ASCII"),
        };
        let proto = HeaderValue::from_static(scheme.as_str());
        Self { address, proto, port: HeaderValue::from(port) }
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
/// `X-Forwarded-Proto`, `-Host` (the `host` of the request) and `-Port` where they are absent.
///
/// Claims of an untrusted peer must be gone before: `clean`.
pub fn append(headers: &mut HeaderMap, hop: &Hop, host: Option<&HeaderValue>) {
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

/// The `Via` entries of this proxy (RFC 9110 §7.6.3), one per received version, made once.
///
/// The pseudonym is how a loop is found. A name that somebody chose for this proxy is its own, and seeing it once is a loop.
/// The name that every armiger has until somebody chooses is no proof: a gateway and the sidecar behind it share it.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

/// The pseudonym of an armiger that was given none.
pub const ARMIGER: &str = "armiger";

/// How often the name that all armigers share may stand in a request: more on one path is no plan but a loop.
const SHARED_MAX: usize = 8;

impl Via {
    /// Entries of this pseudonym; `None` when it is no token (letters, digits and ``!#$%&'*+-.^_`|~``) with an optional
    /// `:port`.
    pub fn new(pseudonym: &str) -> Option<Self> {
        let (token, port) = pseudonym.split_once(':').unwrap_or((pseudonym, "0"));
        let is_lawful = !token.is_empty() && token.bytes().all(is_token_byte) && is_decimal(port);
        let entry = |version: &str| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        is_lawful.then_some(())?;
        Some(Self {
            pseudonym: pseudonym.to_owned(),
            http_10: entry("1.0")?,
            http_11: entry("1.1")?,
            http_2: entry("2")?,
        })
    }

    /// Whether `Via` says that a message came round in a loop (RFC 9110 §7.6.3).
    pub fn loops(&self, headers: &HeaderMap) -> bool {
        let enough = if self.pseudonym == ARMIGER { SHARED_MAX } else { 1 };
        via_count(headers, &self.pseudonym) >= enough
    }

    /// Adds the entry for a message received in `version`, as a line of its own: the same list, and nothing is copied.
    pub fn append(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_09 | Version::HTTP_10 => &self.http_10,
            Version::HTTP_2 => &self.http_2,
            _ => &self.http_11,
        };
        let _ = headers.try_append(header::VIA, entry.clone());
    }
}

/// How often a message passed `pseudonym`, as `Via` has it. Names are compared without case; comments are not looked at.
fn via_count(headers: &HeaderMap, pseudonym: &str) -> usize {
    headers.get_all(header::VIA).into_iter().map(|line| via_names(line.as_bytes(), pseudonym.as_bytes())).sum()
}

fn via_names(line: &[u8], pseudonym: &[u8]) -> usize {
    // A comment may hold commas, escapes and comments.
    let mut depth = 0_usize;
    let mut is_escaped = false;
    line.split(|byte| {
        if is_escaped {
            is_escaped = false;
        } else {
            match byte {
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                b'\\' => is_escaped = depth > 0,
                b',' => return depth == 0,
                _ => {}
            }
        }
        false
    })
    .filter(|entry| {
        let mut words = entry.split(|byte| matches!(byte, b' ' | b'\t' | b'(')).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(pseudonym))
    })
    .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn lines_of(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    fn trust(source: Source, hops: Option<u8>) -> Trust {
        let proxies = ["10.0.0.0/8", "fd00::/8"].into_iter().map(|network| network.parse().unwrap()).collect();
        Trust { proxies, source, hops }
    }

    #[test]
    fn a_peer_is_trusted_by_network_mapped_or_not() {
        let trust = trust(Source::default(), None);
        for (peer, want) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::1", true),
            ("11.0.0.1", false),
            ("::ffff:11.0.0.1", false),
            ("::10.1.2.3", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(trust.trusts(ip(peer)), want, "{peer}");
        }
        assert!(!Trust::default().trusts(ip("127.0.0.1")), "nobody is trusted unless named");
    }

    #[test]
    fn a_peer_without_an_address_is_in_no_network() {
        let trust = |texts: &[&str]| Trust {
            proxies: texts.iter().map(|text| parse_network(text).unwrap()).collect(),
            ..Trust::default()
        };
        for (texts, want) in [
            (&["0.0.0.0/0", "::/0"][..], false),
            (&["0.0.0.0/8"], false),
            (&["unix"], true),
            (&["10.0.0.0/8", "unix"], true),
        ] {
            assert_eq!(trust(texts).trusts(NOWHERE), want, "{texts:?}");
            assert_eq!(trust(texts).trusts(ip("::ffff:0.0.0.0")), want, "{texts:?}");
        }
        assert!(trust(&["0.0.0.0/0"]).trusts(ip("192.0.2.1")) && !trust(&["unix"]).trusts(ip("192.0.2.1")));
    }

    #[test]
    fn the_client_is_the_rightmost_untrusted_address() {
        for (peer, list, want) in [
            ("192.0.2.9", vec!["198.51.100.1"], "192.0.2.9"),
            ("::ffff:192.0.2.9", vec![], "192.0.2.9"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", vec!["::ffff:198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", vec!["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", vec!["6.6.6.6, 198.51.100.1, 10.0.0.2,10.0.0.3"], "198.51.100.1"),
            ("10.0.0.1", vec!["198.51.100.1, 10.0.0.2", "10.0.0.3"], "198.51.100.1"),
            ("10.0.0.1", vec!["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", vec!["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", vec!["198.51.100.1, , 10.0.0.2,"], "198.51.100.1"),
            ("10.0.0.1", vec!["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", vec!["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", vec!["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", vec!["[2001:db8::1]"], "2001:db8::1"),
            // Malformed: the last good one.
            ("10.0.0.1", vec!["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec!["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.01"], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.1:"], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.1:+1"], "10.0.0.1"),
            ("10.0.0.1", vec!["198.51.100.1:99999"], "10.0.0.1"),
            ("10.0.0.1", vec!["[2001:db8::1]x"], "10.0.0.1"),
            ("10.0.0.1", vec!["[2001:db8::1]:+1"], "10.0.0.1"),
            ("10.0.0.1", vec!["[2001:db8::1]:"], "10.0.0.1"),
            ("10.0.0.1", vec!["2001:db8::1%eth0"], "10.0.0.1"),
            ("10.0.0.1", vec!["[198.51.100.1]"], "10.0.0.1"),
            ("10.0.0.1", vec!["\"198.51.100.1\""], "10.0.0.1"),
        ] {
            let pairs: Vec<_> = list.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let client = client_address(ip(peer), &map(&pairs), &trust(Source::XForwardedFor, None));
            assert_eq!(client, ip(want), "{peer} {list:?}");
        }
    }

    #[test]
    fn the_client_is_so_many_hops_away() {
        let list = [("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3")];
        for (peer, hops, want) in [
            ("10.0.0.1", 0, "10.0.0.1"),
            ("10.0.0.1", 1, "3.3.3.3"),
            ("10.0.0.1", 2, "2.2.2.2"),
            ("10.0.0.1", 3, "1.1.1.1"),
            ("10.0.0.1", 9, "1.1.1.1"),
            ("192.0.2.9", 2, "192.0.2.9"),
        ] {
            let client = client_address(ip(peer), &map(&list), &trust(Source::XForwardedFor, Some(hops)));
            assert_eq!(client, ip(want), "{peer} {hops}");
        }
        let broken = map(&[("x-forwarded-for", "1.1.1.1, x, 3.3.3.3")]);
        assert_eq!(client_address(ip("10.0.0.1"), &broken, &trust(Source::XForwardedFor, Some(3))), ip("3.3.3.3"));
    }

    #[test]
    fn a_list_is_read_so_far_and_no_further() {
        let long = |count: usize| format!("198.51.100.1{}", ", 10.0.0.7".repeat(count));
        let found = |list: &str| {
            client_address(ip("10.0.0.1"), &map(&[("x-forwarded-for", list)]), &trust(Source::default(), None))
        };
        assert_eq!(found(&long(ENTRIES_MAX - 1)), ip("198.51.100.1"));
        assert_eq!(found(&long(ENTRIES_MAX)), ip("10.0.0.7"));
    }

    #[test]
    fn only_the_configured_header_is_believed() {
        let headers = map(&[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=198.51.100.1")]);
        let peer = ip("10.0.0.1");
        assert_eq!(client_address(peer, &headers, &trust(Source::Forwarded, None)), ip("198.51.100.1"));
        assert_eq!(client_address(peer, &headers, &trust(Source::XForwardedFor, None)), ip("6.6.6.6"));
        for (source, left) in
            [(Source::Forwarded, "forwarded: for=198.51.100.1"), (Source::XForwardedFor, "x-forwarded-for: 6.6.6.6")]
        {
            let mut headers = headers.clone();
            clean_unvouched(&mut headers, source);
            assert_eq!(lines_of(&headers), [left]);
        }
    }

    #[test]
    fn forwarded_names_the_client_too() {
        for (list, want) in [
            (vec!["for=198.51.100.1"], "198.51.100.1"),
            (vec!["For=198.51.100.1;proto=http;by=10.0.0.1"], "198.51.100.1"),
            (vec!["proto=https;for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (vec!["for=6.6.6.6, for=198.51.100.1, for=10.0.0.3"], "198.51.100.1"),
            (vec!["for=198.51.100.1", "for=10.0.0.3"], "198.51.100.1"),
            (vec!["for=198.51.100.1, for=unknown, for=10.0.0.3"], "10.0.0.3"),
            (vec!["for=198.51.100.1, for=_hidden"], "10.0.0.1"),
            (vec!["for=198.51.100.1, proto=https"], "10.0.0.1"),
            (vec!["for=\"[::ffff:198.51.100.1]\""], "198.51.100.1"),
            // What the client wrote cannot swallow what the proxy wrote.
            (vec!["for=\"6.6.6.6, for=198.51.100.1"], "198.51.100.1"),
            (vec!["\\\"\\, for=198.51.100.1"], "198.51.100.1"),
            (vec!["for=6.6.6.6;host=\"x", "for=198.51.100.1"], "198.51.100.1"),
        ] {
            let pairs: Vec<_> = list.iter().map(|line| ("forwarded", *line)).collect();
            let client = client_address(ip("10.0.0.1"), &map(&pairs), &trust(Source::Forwarded, None));
            assert_eq!(client, ip(want), "{list:?}");
        }
    }

    #[test]
    fn an_element_is_read_to_the_letter() {
        let address = |text| Ok(Element { node: Some(Node::Address(ip(text))) });
        let node = |node| Ok(Element { node });
        for (line, want) in [
            ("for=192.0.2.43", vec![address("192.0.2.43")]),
            ("for=\"192.0.2.43:47011\"", vec![address("192.0.2.43")]),
            ("for=\"[2001:db8::17]\"", vec![address("2001:db8::17")]),
            ("for=\"[2001:db8::17]:_port\"", vec![address("2001:db8::17")]),
            ("for=unknown", vec![node(Some(Node::Unknown))]),
            ("for=\"UNKNOWN:80\"", vec![node(Some(Node::Unknown))]),
            ("for=_SEVKISEK", vec![node(Some(Node::Obfuscated))]),
            ("for=\"_a.b-c:_p\"", vec![node(Some(Node::Obfuscated))]),
            ("proto=http;host=\"a,b;c\\\"d\"", vec![node(None)]),
            (";;for=192.0.2.43;", vec![address("192.0.2.43")]),
            ("", vec![]),
            (" , ,\t", vec![]),
            (",for=192.0.2.1 ,, for=192.0.2.2,", vec![address("192.0.2.2"), address("192.0.2.1")]),
            ("host=\"x, for=6.6.6.6\", for=192.0.2.1", vec![address("192.0.2.1"), node(None)]),
            ("bad element, for=192.0.2.1", vec![address("192.0.2.1"), Err(Malformed)]),
            ("for=[2001:db8::17]", vec![Err(Malformed)]),
            ("for=\"2001:db8::17\"", vec![Err(Malformed)]),
            ("for=192.0.2.43:80", vec![Err(Malformed)]),
            ("for=\"192.0.2.43:800000\"", vec![Err(Malformed)]),
            ("for=\"192.0.2.43:\"", vec![Err(Malformed)]),
            ("for=\"[192.0.2.43]\"", vec![Err(Malformed)]),
            ("for=\"192.0.2.4\\3\"", vec![Err(Malformed)]),
            ("for=192.0.2.043", vec![Err(Malformed)]),
            ("for=name", vec![Err(Malformed)]),
            ("for=_", vec![Err(Malformed)]),
            ("for=", vec![Err(Malformed)]),
            ("for", vec![Err(Malformed)]),
            ("=x", vec![Err(Malformed)]),
            ("for =192.0.2.43", vec![Err(Malformed)]),
            ("for=192.0.2.43; proto=http", vec![Err(Malformed)]),
            ("for=192.0.2.43;FOR=192.0.2.44", vec![Err(Malformed)]),
            ("x=1;X=2", vec![Err(Malformed)]),
            ("for=\"192.0.2.43", vec![Err(Malformed)]),
            ("for=\"192.0.2.43\"x", vec![Err(Malformed)]),
        ] {
            assert_eq!(elements(line.as_bytes()).collect::<Vec<_>>(), want, "{line}");
        }
        let long = format!("for=192.0.2.1;x={}", "y".repeat(ELEMENT_MAX));
        assert_eq!(elements(long.as_bytes()).next(), Some(Err(Malformed)));
    }

    #[test]
    fn an_untrusted_peer_says_nothing_about_the_client() {
        let mut headers = map(&[
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-host", "h"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-prefix", "/p"),
            ("x-forwarded-server", "s"),
            ("x-forwarded-user", "u"),
            ("x-forwarded-client-cert", "c"),
            ("x-real-ip", "1.1.1.1"),
            ("x-client-ip", "1.1.1.1"),
            ("true-client-ip", "1.1.1.1"),
            ("x-original-url", "/admin"),
            ("x-original-forwarded-for", "1.1.1.1"),
            ("x-armiger-attempts", "1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("host", "kept"),
            ("x-request-id", "kept"),
        ]);
        clean(&mut headers);
        assert_eq!(lines_of(&headers), ["host: kept", "x-request-id: kept"]);
        clean(&mut headers);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn the_next_hop_is_told_the_peer_and_what_the_client_used() {
        let hop = Hop::new(ip("::ffff:192.0.2.9"), Scheme::Https, 8443);
        let host = HeaderValue::from_static("shop.example");
        let mut headers = HeaderMap::new();
        append(&mut headers, &hop, Some(&host));
        assert_eq!(
            lines_of(&headers),
            [
                "x-forwarded-for: 192.0.2.9",
                "x-forwarded-host: shop.example",
                "x-forwarded-port: 8443",
                "x-forwarded-proto: https",
            ]
        );

        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", ""),
            ("x-forwarded-for", "2.2.2.2, 3.3.3.3"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "80"),
        ]);
        append(&mut headers, &hop, None);
        assert_eq!(
            lines_of(&headers),
            [
                "x-forwarded-for: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.9",
                "x-forwarded-port: 80",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn via_is_added_with_the_received_version() {
        let via = Via::new("armiger").unwrap();
        let mut headers = map(&[("via", "1.0 fred")]);
        via.append(&mut headers, Version::HTTP_11);
        via.append(&mut headers, Version::HTTP_2);
        via.append(&mut headers, Version::HTTP_10);
        assert_eq!(lines_of(&headers), ["via: 1.0 armiger", "via: 1.0 fred", "via: 1.1 armiger", "via: 2 armiger"]);
        for (pseudonym, want) in [
            ("shop-1", true),
            ("h:80", true),
            ("", false),
            ("a b", false),
            ("a,b", false),
            ("a:x", false),
            ("é", false),
        ] {
            assert_eq!(Via::new(pseudonym).is_some(), want, "{pseudonym}");
        }
    }

    #[test]
    fn a_loop_is_found_by_our_own_name_alone() {
        for (lines, want) in [
            (vec!["1.1 armiger"], true),
            (vec!["1.1 fred, HTTP/1.1  ARMIGER (x), 1.0 y"], true),
            (vec!["1.1 fred", "2 armiger"], true),
            (vec!["1.1 fred (a, b \\) c), 1.1 armiger"], true),
            (vec!["1.1 armiger(x)"], true),
            (vec!["1.1 fred (\\( ), 1.1 armiger"], true),
            (vec!["1.1 fred (\\), 1.1 armiger)"], false),
            (vec![], false),
            (vec!["1.1 armiger2, 1.1 armiger.example"], false),
            (vec!["1.1 fred (see, 1.1 armiger)"], false),
            (vec!["1.1 fred (\\(, 1.1 armiger)"], false),
            (vec!["armiger", "1.1, armiger"], false),
        ] {
            let pairs: Vec<_> = lines.iter().map(|line| ("via", *line)).collect();
            assert_eq!(via_count(&map(&pairs), "armiger") > 0, want, "{lines:?}");
        }
        let looped = |via: &str, times: usize| {
            let line = vec![format!("1.1 {via}"); times].join(", ");
            Via::new(via).unwrap().loops(&map(&[("via", &line)]))
        };
        assert!(looped("edge-7", 1), "a name of its own");
        assert!(!looped(ARMIGER, SHARED_MAX - 1) && looped(ARMIGER, SHARED_MAX), "the name that all share");
    }

    /// A well-formed element, and whether its text has traps inside a quoted string.
    fn any_element() -> impl Strategy<Value = (String, Element)> {
        let trap = prop_oneof![
            "[a-z ,;=]{0,8}",
            Just(", for=6.6.6.6".to_owned()),
            Just(", for=6.6.6.6;x=\\\"".to_owned()),
            Just("\\\\".to_owned()),
            Just("x=\\\", for=6.6.6.6;y=\\\"z\\\"".to_owned()),
        ];
        (any::<Option<IpAddr>>(), trap, any::<bool>()).prop_map(|(address, trap, is_first)| {
            let address = address.map(|address| address.to_canonical());
            let node = match address {
                Some(IpAddr::V4(address)) => format!("for={address}"),
                Some(IpAddr::V6(address)) => format!("for=\"[{address}]:80\""),
                None => "proto=http".to_owned(),
            };
            let element = Element { node: address.map(Node::Address) };
            (if is_first { format!("{node};host=\"{trap}\"") } else { format!("host=\"{trap}\";{node}") }, element)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn well_formed_elements_are_found_where_they_are(list in prop::collection::vec(any_element(), 0..5)) {
            let line = list.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(", ");
            let want: Vec<_> = list.iter().rev().map(|(_, element)| Ok(*element)).collect();
            prop_assert_eq!(elements(line.as_bytes()).collect::<Vec<_>>(), want, "{}", line);
        }

        #[test]
        fn nothing_in_front_changes_what_the_nearest_proxy_wrote(
            front in prop_oneof!["[ -~]{0,40}", "[a-z0-9=\";,\\\\ ]{0,40}"],
            address in any::<IpAddr>(),
        ) {
            prop_assume!(address.to_canonical() != NOWHERE);
            let mut headers = map(&[("x-forwarded-for", &front), ("forwarded", &front)]);
            append(&mut headers, &Hop::new(address, Scheme::Http, 80), None);
            let element = match address.to_canonical() {
                IpAddr::V4(address) => format!("for={address}"),
                IpAddr::V6(address) => format!("for=\"[{address}]\""),
            };
            append_to_list(&mut headers, &header::FORWARDED, &HeaderValue::try_from(element).unwrap());
            for source in [Source::XForwardedFor, Source::Forwarded] {
                let nearest = trust(source, Some(1));
                prop_assert_eq!(client_address(ip("10.0.0.1"), &headers, &nearest), address.to_canonical());
            }
        }

        #[test]
        fn no_bytes_make_it_panic_or_name_a_client_for_an_untrusted_peer(
            line in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(elements(&line).count() <= line.len());
            prop_assert!(entries(&line).count() <= line.len());
            via_names(&line, b"armiger");
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let mut headers = HeaderMap::new();
                headers.insert(header::FORWARDED, value.clone());
                headers.insert(&name::X_FORWARDED_FOR, value);
                for source in [Source::XForwardedFor, Source::Forwarded] {
                    let peer = ip("192.0.2.9");
                    prop_assert_eq!(client_address(peer, &headers, &trust(source, None)), peer);
                    client_address(ip("10.0.0.1"), &headers, &trust(source, None));
                }
            }
        }

        #[test]
        fn the_walk_passes_trusted_addresses_alone(list in prop::collection::vec(0..3_u8, 0..6)) {
            let entries: Vec<_> = list.iter().enumerate().map(|(index, kind)| match kind {
                0 => format!("10.0.0.{}", index + 10),
                1 => format!("192.0.2.{}", index + 10),
                _ => "junk".to_owned(),
            }).collect();
            let client = client_address(
                ip("10.0.0.1"),
                &map(&[("x-forwarded-for", &entries.join(","))]),
                &trust(Source::XForwardedFor, None),
            );
            // Said the other way round: the trusted run at the right, and one more if that is an address.
            let run = list.iter().rev().take_while(|kind| **kind == 0).count();
            let is_named = list.iter().rev().nth(run) == Some(&1);
            let want = match run + usize::from(is_named) {
                0 => ip("10.0.0.1"),
                steps => ip(&entries[entries.len() - steps]),
            };
            prop_assert_eq!(client, want);
        }
    }
}
