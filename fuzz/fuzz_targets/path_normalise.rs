//! A path has one normal form, which is normal itself and means to a simple-minded server what it means to armiger.

#![no_main]

use armiger::http::path::{Held, decode, normalise};
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
    let decoded = decode(path).unwrap_or_else(|| panic!("{path:?} is normal, yet cannot be decoded"));
    let splits = |letter: char| matches!(letter, '/' | '\\' | ';');
    let dots = |segment: &str| matches!(segment, "." | "..");
    assert!(!decoded.split(splits).any(dots), "{path:?} is {decoded:?} when decoded");

    if normal.held.is_empty() {
        assert!(!decoded.contains(['\\', ';', '\0']), "{path:?} holds what nobody was told of");
        assert_eq!(decoded.matches('/').count(), path.matches('/').count(), "{path:?} hides a slash");
    }
    assert!(Held::NONE.is_empty());
});
