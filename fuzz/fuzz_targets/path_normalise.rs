//! A path has one normal form, which is normal itself and means to a simple-minded server what it means to armiger.

#![no_main]

use armiger::http::path::normalise;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let Ok(normal) = normalise(raw) else { return };
    let path = normal.path.as_ref();

    let again = normalise(path).unwrap_or_else(|error| panic!("{path:?} is normal, yet {error:?}"));
    assert_eq!(again.path, path, "the normal form of a normal form is itself");

    assert!(path.starts_with('/') && path.is_ascii(), "{path:?}");
    assert!(!path.bytes().any(|byte| byte <= b' ' || matches!(byte, 0x7f | b'?' | b'#')), "{path:?}");
    assert!(!path.contains("//"), "{path:?}");

    // A server that decodes first and splits afterwards must find no way up either.
    let decoded = decoded(path);
    let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\' | b';'));
    assert!(!segments.any(is_dots), "{path:?} has a way up when decoded");

    if normal.held.is_empty() {
        // `%3B` decodes to a `;` that separates nothing; a bare one does for some servers.
        assert!(!path.contains(';'), "{path:?} holds a `;` that nobody was told of");
        assert!(!decoded.iter().any(|byte| matches!(byte, b'\\' | 0)), "{path:?} holds what nobody was told of");
        let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
        assert_eq!(slashes(&decoded), slashes(path.as_bytes()), "{path:?} hides a slash");
    }
});

/// As a simple-minded server decodes. A normal path has two hex digits behind each percent sign.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = path.bytes();
    let mut out = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit =
                    || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).expect("two hex digits");
                u8::try_from(digit() * 16 + digit()).expect("two hex digits are a byte")
            }
            _ => byte,
        });
    }
    out
}
