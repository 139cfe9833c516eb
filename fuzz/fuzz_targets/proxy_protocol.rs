//! Where a PROXY header ends is beyond doubt: however its bytes come, it is the same header, and what armiger writes is
//! read as it was meant.

#![no_main]

use armiger::http::proxy_protocol::{Found, LENGTH_MAX, Version, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let found = read(bytes);
    let Ok(Found::Whole { length, ends, .. }) = found else {
        if found == Ok(Found::More) {
            assert!(bytes.len() < LENGTH_MAX, "more is read than may be");
        }
        return;
    };
    assert!(length <= bytes.len() && length <= LENGTH_MAX);
    // What follows says nothing about it, and none of its beginnings is a header or refused.
    assert_eq!(read(&bytes[..length]), found);
    for cut in 0..length {
        assert_eq!(read(&bytes[..cut]), Ok(Found::More), "after {cut} of {length} bytes");
    }
    for version in [Version::V1, Version::V2] {
        let written = write(version, ends.as_ref());
        let Ok(Found::Whole { length, ends: again, .. }) = read(&written) else { panic!("{written:?}") };
        assert_eq!(length, written.len());
        let canonical = |ends: armiger::http::proxy_protocol::Ends| {
            let (source, destination) = (ends.source, ends.destination);
            (source.ip().to_canonical(), source.port(), destination.ip().to_canonical(), destination.port())
        };
        assert_eq!(again.map(canonical), ends.map(canonical));
    }
});
