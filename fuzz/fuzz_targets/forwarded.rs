//! A client cannot make armiger believe an address: whatever an untrusted peer writes, the peer's own address counts.
//!
//! The input's first byte chooses header, hops and peer; the rest is the header's lines, split at LF.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use armiger::http::forwarded::{Source, Trust, client_address, elements, entries, parse_network};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const UNTRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, lines)) = bytes.split_first() else { return };
    let (source, name) = match choice & 1 {
        0 => (Source::XForwardedFor, HeaderName::from_static("x-forwarded-for")),
        _ => (Source::Forwarded, HeaderName::from_static("forwarded")),
    };
    let hops = (choice & 2 != 0).then_some(choice >> 4);
    let trust = Trust { proxies: parse_network("10.0.0.0/8").into_iter().collect(), source, hops };

    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        assert!(elements(line).count() <= line.len() + 1, "more elements than bytes");
        assert!(entries(line).count() <= line.len() + 1, "more entries than bytes");
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name.clone(), value);
        }
    }

    if hops.is_none() {
        assert_eq!(client_address(UNTRUSTED, &headers, &trust), UNTRUSTED, "an untrusted peer was believed");
    }
    let believed = client_address(TRUSTED, &headers, &trust);
    // Whoever is believed was written by somebody, or is the peer.
    if headers.is_empty() {
        assert_eq!(believed, TRUSTED, "an address out of nowhere");
    }
});
