//! `Forwarded` (RFC 7239), read to the letter.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::{Scheme, bracketed, is_decimal};

/// The longest element of `Forwarded` that is read, in bytes. A longer one is malformed.
pub const ELEMENT_MAX: usize = 512;

/// One element of `Forwarded`: what one proxy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its `for` parameter.
    pub node: Option<Node>,
    /// Its `proto` parameter, if that is a scheme of HTTP.
    pub scheme: Option<Scheme>,
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
    pub(super) const fn address(self) -> Option<IpAddr> {
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

/// What stands behind the last malformed element of a line, without blanks around it, and whether that is all of the line.
pub(super) fn well_formed(line: &[u8]) -> (&[u8], bool) {
    let mut elements = elements(line);
    let mut start = line.len();
    let is_whole = loop {
        match elements.next() {
            // Every rest begins where the line does, and ends at the comma before what was read.
            Some(Ok(_)) => start = elements.rest.map_or(0, |rest| rest.len() + 1),
            Some(Err(Malformed)) => break false,
            None => break true,
        }
    };
    (line[start..].trim_ascii(), is_whole)
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
    let (mut node, mut scheme) = (None, None);
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
            } else if name.eq_ignore_ascii_case(b"proto") {
                scheme = Scheme::of(value);
            }
            text = after_value;
        }
        match text.split_first() {
            None => return Some(Element { node, scheme }),
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

pub(super) const fn is_token_byte(byte: u8) -> bool {
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
