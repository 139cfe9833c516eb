//! The PROXY protocol: what a load balancer says of a connection ahead of its first byte (haproxy, proxy-protocol.txt).
//!
//! A header is read strictly and within bounds: what follows it is a client's, so where it ends must be beyond doubt.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most that a header may take: of version 2, addresses and whatever else its sender tells.
pub const LENGTH_MAX: usize = 4096;

/// The most that a header of version 1 takes, with its line end.
const LINE_MAX: usize = 107;

/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// What a header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What stands before the addresses in version 2.
const FIXED: usize = SIGNATURE.len() + 4;

/// The kind of the TLV that holds a checksum over the whole header (CRC-32C).
const CHECKSUM: u8 = 0x03;

/// A form of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Who opened it.
    pub source: SocketAddr,
    /// Where it led to.
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The beginning of a header: all of it belongs to one.
    More,
    /// A header.
    Whole {
        /// How long it is.
        length: usize,
        /// Its form.
        version: Version,
        /// Whose connection it is about. None: the sender's own, or one that has no addresses.
        ends: Option<Ends>,
    },
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// They begin otherwise.
    #[error("no PROXY header")]
    Absent,
    /// It breaks the rules.
    #[error("a PROXY header that breaks the rules")]
    Malformed,
    /// It is longer than may be.
    #[error("a PROXY header that is too long")]
    TooLong,
}

/// Looks for a header at the begin of `bytes`.
///
/// # Errors
/// There is none, and none can come of it.
pub fn read(bytes: &[u8]) -> Result<Found, Fault> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if begins(SIGNATURE) {
        return binary(bytes);
    }
    if begins(WORD) {
        return line(bytes);
    }
    Err(Fault::Absent)
}

// === version 1 ===

fn line(bytes: &[u8]) -> Result<Found, Fault> {
    let within = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if bytes.len() < LINE_MAX { Ok(Found::More) } else { Err(Fault::TooLong) };
    };
    let text = within[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let rest = text.and_then(|text| text.strip_prefix("PROXY ")).ok_or(Fault::Malformed)?;
    let whole = |ends| Ok(Found::Whole { length: end + 1, version: Version::V1, ends });
    // What follows that word is to be ignored.
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return whole(None);
    }
    let ends = match *rest.split(' ').collect::<Vec<_>>() {
        ["TCP4", source, destination, from, to] => ends(address::<Ipv4Addr>, [source, destination], [from, to]),
        ["TCP6", source, destination, from, to] => ends(address::<Ipv6Addr>, [source, destination], [from, to]),
        _ => None,
    };
    whole(Some(ends.ok_or(Fault::Malformed)?))
}

fn ends(read: fn(&str) -> Option<IpAddr>, addresses: [&str; 2], ports: [&str; 2]) -> Option<Ends> {
    let end = |place: usize| Some(SocketAddr::new(read(addresses[place])?, port(ports[place])?));
    Some(Ends { source: end(0)?, destination: end(1)? })
}

fn address<T: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<T>().ok().map(Into::into)
}

/// A port in its one spelling: digits alone, and no zero ahead.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

// === version 2 ===

fn binary(bytes: &[u8]) -> Result<Found, Fault> {
    let Some((&[command, family, high, low], _)) = bytes.get(SIGNATURE.len()..).and_then(<[u8]>::split_first_chunk)
    else {
        return Ok(Found::More);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    // Told before it is all here: nobody waits for what cannot be good.
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Fault::Malformed),
    };
    if length > LENGTH_MAX {
        return Err(Fault::TooLong);
    }
    // By address family and transport: how many bytes the addresses take. Of transports there is one that a stream has.
    let taken = match family {
        0x00 => None,
        0x11 => Some(12),
        0x21 => Some(36),
        0x31 => Some(216),
        _ if is_local => None,
        _ => return Err(Fault::Malformed),
    };
    let taken = taken.filter(|_| !is_local);
    if taken.is_some_and(|taken| length < FIXED + taken) {
        return Err(Fault::Malformed);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Found::More) };
    let ends = match (taken, family) {
        (Some(_), 0x11) => Some(pair::<4>(&header[FIXED..]).ok_or(Fault::Malformed)?),
        (Some(_), 0x21) => Some(pair::<16>(&header[FIXED..]).ok_or(Fault::Malformed)?),
        _ => None,
    };
    if let Some(taken) = taken {
        tlvs(header, FIXED + taken)?;
    }
    Ok(Found::Whole { length, version: Version::V2, ends })
}

/// Two addresses of `N` bytes, and their ports.
fn pair<const N: usize>(bytes: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (to, _) = rest.split_first_chunk()?;
    let end = |address: &[u8; N], port: &[u8; 2]| SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port));
    Some(Ends { source: end(source, from), destination: end(destination, to) })
}

/// Walks over what else is told, which must end where the header does. A checksum must be right.
fn tlvs(header: &[u8], mut at: usize) -> Result<(), Fault> {
    while at < header.len() {
        let (&[kind, high, low], _) = header[at..].split_first_chunk().ok_or(Fault::Malformed)?;
        let (begin, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        let value = header.get(begin..begin + length).ok_or(Fault::Malformed)?;
        if kind == CHECKSUM {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| Fault::Malformed)?);
            let rest = &header[begin + length..];
            // Counted with its own place empty.
            if crc32c([&header[..begin], &[0; 4], rest]) != told {
                return Err(Fault::Malformed);
            }
        }
        at = begin + length;
    }
    Ok(())
}

/// The checksum of RFC 4960 Appendix B. Bit by bit: headers are short, and few have one.
fn crc32c<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.into_iter().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

// === written ===

/// The header that tells of `ends`; without them, that the connection is the sender's own.
pub fn write(version: Version, ends: Option<&Ends>) -> Vec<u8> {
    let ends = ends.map(|ends| (ends.source.ip().to_canonical(), ends.destination.ip().to_canonical(), ends));
    match version {
        Version::V1 => {
            let mut line = String::from("PROXY ");
            let (kind, source, destination, ends) = match ends {
                None => return b"PROXY UNKNOWN\r\n".to_vec(),
                Some((IpAddr::V4(source), IpAddr::V4(destination), ends)) => {
                    ("TCP4", IpAddr::V4(source), IpAddr::V4(destination), ends)
                }
                Some((source, destination, ends)) => {
                    ("TCP6", IpAddr::V6(six(source)), IpAddr::V6(six(destination)), ends)
                }
            };
            let (from, to) = (ends.source.port(), ends.destination.port());
            // Writing to a string cannot fail.
            let _ = write!(line, "{kind} {source} {destination} {from} {to}\r\n");
            line.into_bytes()
        }
        Version::V2 => {
            let mut header = SIGNATURE.to_vec();
            let ports =
                |ends: &Ends| [ends.source.port().to_be_bytes(), ends.destination.port().to_be_bytes()].concat();
            match ends {
                None => header.extend([0x20, 0x00, 0, 0]),
                Some((IpAddr::V4(source), IpAddr::V4(destination), ends)) => {
                    header.extend([0x21, 0x11, 0, 12]);
                    header.extend([source.octets(), destination.octets()].concat());
                    header.extend(ports(ends));
                }
                Some((source, destination, ends)) => {
                    header.extend([0x21, 0x21, 0, 36]);
                    header.extend([six(source).octets(), six(destination).octets()].concat());
                    header.extend(ports(ends));
                }
            }
            header
        }
    }
}

/// The two ends of a header are of one family.
fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    const FOUR: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x1f, 0x90, 0, 80];

    #[test]
    fn a_line_is_read_to_its_end_and_no_further() {
        for (text, ends) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 8080 80\r\n", Some(of("192.0.2.1:8080", "192.0.2.2:80"))),
            ("PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", Some(of("[2001:db8::1]:65535", "[::1]:0"))),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN whatever it is 1\r\n", None),
        ] {
            let bytes = format!("{text}GET / HTTP/1.1\r\n\r\n").into_bytes();
            let whole = Found::Whole { length: text.len(), version: Version::V1, ends };
            assert_eq!(read(&bytes), Ok(whole), "{text}");
            for cut in 0..text.len() {
                assert_eq!(read(&bytes[..cut]), Ok(Found::More), "{text:?} after {cut} bytes");
            }
        }
    }

    #[test]
    fn a_line_that_two_readers_could_read_differently_is_none() {
        for text in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080 80\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080 80 \r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 8080 80\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 8080 80\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 8080 80\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 8080 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 08080 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +8080 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 80800 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080\r\n",
            "PROXY TCP4 ::1 ::1 8080 80\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 8080 80\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 8080 80\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 8080 80\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1\r192.0.2.2 8080 80\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Err(Fault::Malformed), "{text:?}");
        }
        for text in ["GET / HTTP/1.1\r\n", "proxy TCP4", "PROXYTCP4", "\r\n\r\n\0\r\nQUIT\r", "\x16\x03\x01"] {
            assert_eq!(read(text.as_bytes()), Err(Fault::Absent), "{text:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(LINE_MAX));
        assert_eq!(read(long.as_bytes()), Err(Fault::TooLong));
        assert_eq!(read(&long.as_bytes()[..LINE_MAX - 1]), Ok(Found::More));
        // The longest lawful one has just room.
        let six = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY TCP6 {six} {six} 65535 65535\r\n");
        assert!(matches!(read(longest.as_bytes()), Ok(Found::Whole { ends: Some(_), .. })));
    }

    #[test]
    fn a_binary_header_has_addresses_or_is_the_senders_own() {
        let six = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
        for (header, ends) in [
            (v2(0x21, 0x11, &FOUR), Some(of("192.0.2.1:8080", "192.0.2.2:80"))),
            (v2(0x21, 0x21, &six), Some(of("[::1]:1", "[::2]:2"))),
            (v2(0x21, 0x31, &[b'/'; 216]), None),
            (v2(0x21, 0x00, b"whatever"), None),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &FOUR), None),
            (v2(0x20, 0x99, b"?"), None),
        ] {
            let length = header.len();
            let bytes = [&header[..], b"GET /"].concat();
            assert_eq!(read(&bytes), Ok(Found::Whole { length, version: Version::V2, ends }), "{header:x?}");
            for cut in 0..length {
                assert_eq!(read(&bytes[..cut]), Ok(Found::More), "{header:x?} after {cut} bytes");
            }
        }
        for header in [
            v2(0x31, 0x11, &FOUR),
            v2(0x22, 0x11, &FOUR),
            v2(0x21, 0x12, &FOUR),
            v2(0x21, 0x13, &FOUR),
            v2(0x21, 0x41, &FOUR),
            v2(0x21, 0x11, &FOUR[..11]),
            v2(0x21, 0x21, &FOUR),
            v2(0x21, 0x31, &[0; 215]),
        ] {
            assert_eq!(read(&header), Err(Fault::Malformed), "{header:x?}");
        }
        assert_eq!(read(&v2(0x21, 0x11, &[0; LENGTH_MAX])[..FIXED]), Err(Fault::TooLong), "told by its length alone");
    }

    #[test]
    fn what_else_is_told_ends_where_the_header_does_and_a_checksum_is_right() {
        let with = |tlvs: &[u8]| v2(0x21, 0x11, &[&FOUR[..], tlvs].concat());
        for tlvs in [&[0x04, 0, 0][..], &[0x01, 0, 2, b'h', b'2', 0x20, 0, 5, 1, 0, 0, 0, 0], &[0xE0, 0, 1, 9]] {
            assert!(matches!(read(&with(tlvs)), Ok(Found::Whole { ends: Some(_), .. })), "{tlvs:x?}");
        }
        for tlvs in [&[0x04][..], &[0x04, 0], &[0x04, 0, 1], &[0x04, 0xff, 0xff, 0], &[0x03, 0, 3, 0, 0, 0]] {
            assert_eq!(read(&with(tlvs)), Err(Fault::Malformed), "{tlvs:x?}");
        }
        assert_eq!(crc32c([b"123456789"]), 0xE306_9283);
        let mut header = with(&[0x03, 0, 4, 0, 0, 0, 0, 0x04, 0, 1, 7]);
        assert_eq!(read(&header), Err(Fault::Malformed));
        let sum = crc32c([&header]).to_be_bytes();
        let at = FIXED + FOUR.len() + 3;
        header[at..at + 4].copy_from_slice(&sum);
        assert!(matches!(read(&header), Ok(Found::Whole { ends: Some(_), .. })));
    }

    #[test]
    fn what_is_written_is_read_as_it_was_meant() {
        for version in [Version::V1, Version::V2] {
            for (source, destination, read_source) in [
                ("192.0.2.1:8080", "192.0.2.2:80", "192.0.2.1:8080"),
                ("[2001:db8::1]:1", "[::1]:2", "[2001:db8::1]:1"),
                ("[::ffff:192.0.2.1]:1", "192.0.2.2:80", "192.0.2.1:1"),
            ] {
                let header = write(version, Some(&of(source, destination)));
                let whole = Found::Whole { length: header.len(), version, ends: Some(of(read_source, destination)) };
                assert_eq!(read(&header), Ok(whole));
            }
            // Families are mixed where the far side knows one of them only in the other's words.
            let header = write(version, Some(&of("192.0.2.1:1", "[::1]:2")));
            let Ok(Found::Whole { ends: Some(ends), .. }) = read(&header) else { panic!("{header:?}") };
            assert_eq!(ends.source.ip().to_canonical(), "192.0.2.1".parse::<IpAddr>().unwrap());
            let header = write(version, None);
            assert_eq!(read(&header), Ok(Found::Whole { length: header.len(), version, ends: None }));
        }
    }
}
