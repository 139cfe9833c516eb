//! Values as bytes of a line: texts with what must be escaped, numbers, durations, addresses.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use http::Version;

use crate::telemetry::trace::write_hex;

pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "unknown",
    }
}

/// True for bytes that a JSON string holds as they are: visible ASCII but quote and backslash, and the space.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        table[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    table
};

/// Writes bytes as the inside of a JSON string (RFC 8259 §7).
///
/// Invalid UTF-8 becomes U+FFFD. DEL and the C1 controls are escaped as well, for a log is read on terminals.
#[inline]
pub(super) fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = plain(bytes);
    out.extend_from_slice(&bytes[..plain]);
    if plain < bytes.len() {
        write_escaped_slowly(out, &bytes[plain..]);
    }
}

/// How many bytes at the beginning a JSON string holds as they are.
fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let at = 8 * words.iter().take_while(|word| are_plain(u64::from_le_bytes(**word))).count();
    // The rest with what stands before it is one more.
    if at + rest.len() == bytes.len() && bytes.last_chunk().is_some_and(|word| are_plain(u64::from_le_bytes(*word))) {
        return bytes.len();
    }
    at + bytes[at..].iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(bytes.len() - at)
}

/// Whether all bytes of a word are plain, as [`PLAIN`] has it.
const fn are_plain(word: u64) -> bool {
    /// This byte in every place.
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    /// Its upper bits tell whether any byte is none. That it borrows from the byte above matters only where one is.
    const fn less(word: u64, than: u8) -> u64 {
        word.wrapping_sub(all(than)) & !word
    }
    let is_control = less(word, 0x20);
    let is_quote = less(word ^ all(b'"'), 1);
    let is_backslash = less(word ^ all(b'\\'), 1);
    let is_above = word.wrapping_add(all(1)) | word;
    (is_control | is_quote | is_backslash | is_above) & all(0x80) == 0
}

#[cold]
fn write_escaped_slowly(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                // Every control character is below U+00A0, so two hex digits are enough.
                character if character.is_control() => {
                    let mut escape = *b"\\u0000";
                    write_hex(&mut escape[4..], &[character as u8]);
                    out.extend_from_slice(&escape);
                }
                character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// The decimal digits of every number below one hundred, two each.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// The decimal digits of every byte with a dot behind them, and how many that are.
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (ones, tens, hundreds) = (octet % 10, octet / 10 % 10, octet / 100);
        let (digits, count) = &mut octets[octet];
        if octet >= 100 {
            digits[*count as usize] = b'0' + hundreds as u8;
            *count += 1;
        }
        if octet >= 10 {
            digits[*count as usize] = b'0' + tens as u8;
            *count += 1;
        }
        digits[*count as usize] = b'0' + ones as u8;
        // With the dot, which is there already.
        *count += 2;
        octet += 1;
    }
    octets
};

/// Writes a status, which most often has three digits.
pub(super) fn write_status(out: &mut Vec<u8>, status: u16) {
    let [tens, ones] = PAIRS[usize::from(status % 100)];
    match status / 100 {
        hundreds @ 1..=9 => out.extend_from_slice(&[b'0' + hundreds as u8, tens, ones]),
        _ => write_integer(out, status.into()),
    }
}

pub(super) fn write_integer(out: &mut Vec<u8>, mut number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    while number >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    // What is left is one digit, or nothing because the last pair took the first digit with it.
    if number > 0 {
        at -= 1;
        digits[at] = b'0' + number as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a fraction of a million after its whole part: six digits.
pub(super) fn write_micros(out: &mut Vec<u8>, micros: u32) {
    out.push(b'.');
    for pair in [micros / 10_000, micros / 100 % 100, micros % 100] {
        out.extend_from_slice(&PAIRS[pair as usize]);
    }
}

/// Writes seconds with six decimals.
pub(super) fn write_seconds(out: &mut Vec<u8>, duration: Duration) {
    write_integer(out, duration.as_secs());
    write_micros(out, duration.subsec_micros());
}

/// Writes milliseconds with three decimals.
pub(super) fn write_millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    write_integer(out, micros / 1_000);
    let rest = (micros % 1_000) as u32;
    out.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8]);
    out.extend_from_slice(&PAIRS[(rest % 100) as usize]);
}

/// Writes an address; an IPv4 address without the formatting machinery, for nearly all are.
pub(super) fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            // In one piece: three digits and a dot for each, at most.
            let mut text = [0; 4 * 4];
            let mut length = 0;
            for octet in address.octets() {
                let (digits, count) = OCTETS[usize::from(octet)];
                text[length..length + 4].copy_from_slice(&digits);
                length += usize::from(count);
            }
            out.extend_from_slice(&text[..length - 1]);
        }
        IpAddr::V6(address) => {
            write!(out, "{address}").expect("a vector takes what it is given");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_at_once_are_as_plain_as_each_of_them() {
        for byte in 0..=255 {
            for place in 0..8 {
                for other in [b' ', b'a', b'~', 0x7f, 0x1f, b'"', b'\\', 0x80, 0xff] {
                    let mut word = [other; 8];
                    word[place] = byte;
                    let is_plain = word.iter().all(|byte| PLAIN[usize::from(*byte)]);
                    assert_eq!(are_plain(u64::from_le_bytes(word)), is_plain, "{word:?}");
                }
            }
        }
    }

    #[test]
    fn integers_and_durations_are_exact() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        for number in (0..1_000).chain((0..20).flat_map(|power| [10_u64.pow(power) - 1, 10_u64.pow(power)])) {
            assert_eq!(text(&|out| write_integer(out, number)), number.to_string());
        }
        assert_eq!(text(&|out| write_integer(out, u64::MAX)), u64::MAX.to_string());
        for (micros, seconds, millis) in [
            (0, "0.000000", "0.000"),
            (1, "0.000001", "0.001"),
            (123_456, "0.123456", "123.456"),
            (60_000_070, "60.000070", "60000.070"),
        ] {
            let duration = Duration::from_micros(micros);
            assert_eq!(text(&|out| write_seconds(out, duration)), seconds);
            assert_eq!(text(&|out| write_millis(out, duration)), millis);
        }
        for address in ["0.0.0.0", "255.10.9.100", "2001:db8::1"] {
            assert_eq!(text(&|out| write_address(out, address.parse().unwrap())), address);
        }
    }
}
