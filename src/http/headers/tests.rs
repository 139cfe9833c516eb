//! Tests of what is read in headers, and of what is removed.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::kind::{ANY_HOP_BY_HOP, HOP_BY_HOP, classify};
use super::*;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

fn stripped(input: &[(&str, &str)]) -> Vec<String> {
    let mut headers = map(input);
    let inspected = inspect_request(&headers).unwrap();
    strip_request(&mut headers, &inspected);
    lines(&headers)
}

#[test]
fn a_request_loses_what_belongs_to_the_hop() {
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
        "expect",
        "te",
    ] {
        assert_eq!(stripped(&[("accept", "a"), (name, "x"), ("host", "h")]), ["accept: a", "host: h"], "{name}");
    }
    assert_eq!(stripped(&[("transfer-encoding", "Chunked"), ("trailer", "x")]), ["trailer: x"]);
}

#[test]
fn a_response_loses_what_belongs_to_the_hop() {
    let mut headers = map(&[
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("upgrade", "h2c"),
        ("date", "today"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("trailer", "grpc-status"),
        ("content-length", "3"),
    ]);
    strip_response(&mut headers);
    assert_eq!(
        lines(&headers),
        ["content-length: 3", "date: today", "set-cookie: a=1", "set-cookie: b=2", "trailer: grpc-status"]
    );
}

#[test]
fn a_response_keeps_one_length_or_none_beside_chunked() {
    let mut headers = map(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
    strip_response(&mut headers);
    assert!(headers.is_empty());
    let mut headers = map(&[("content-length", "3"), ("content-length", "3")]);
    strip_response(&mut headers);
    assert_eq!(lines(&headers), ["content-length: 3"]);
    for (told, number) in [("0010", "10"), ("000", "0"), ("0", "0")] {
        let mut headers = map(&[("content-length", told)]);
        strip_response(&mut headers);
        assert_eq!(lines(&headers), [format!("content-length: {number}")]);
    }
}

#[test]
fn what_connection_names_goes_too_in_any_case_and_line() {
    let left = stripped(&[
        ("connection", "X-One ,, x-TWO"),
        ("connection", "close, x-three"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-two", "2b"),
        ("x-three", "3"),
        ("x-four", "4"),
    ]);
    assert_eq!(left, ["x-four: 4"]);
}

#[test]
fn connection_cannot_name_what_others_rely_on() {
    for name in [
        "host",
        "content-length",
        "authorization",
        "cookie",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-anything",
        "x-real-ip",
        "x-armiger-attempts",
    ] {
        let left = stripped(&[("connection", &name.to_uppercase()), (name, "1")]);
        assert_eq!(left, [format!("{name}: 1")], "{name}");
    }
}

#[test]
fn connection_cannot_name_what_is_for_all_who_get_an_answer() {
    let kept = [("cache-control", "private"), ("content-type", "text/html"), ("set-cookie", "a=1"), ("vary", "cookie")];
    let named = ("connection", "Set-Cookie, cache-control, vary, content-type, x-hop");
    let mut headers = map(&[&kept[..], &[named, ("x-hop", "1")]].concat());
    strip_response(&mut headers);
    assert_eq!(lines(&headers), kept.map(|(name, value)| format!("{name}: {value}")));
}

#[test]
fn connection_options_that_are_no_names_are_ignored() {
    assert_eq!(stripped(&[("connection", "x y, \"z\", é, @"), ("x-kept", "1")]), ["x-kept: 1"]);
}

#[test]
fn te_stays_for_trailers_alone() {
    for (value, want) in [
        ("trailers", vec!["te: trailers"]),
        ("Trailers", vec!["te: trailers"]),
        ("gzip;q=0.5, trailers", vec!["te: trailers"]),
        ("trailers ;q=1", vec!["te: trailers"]),
        ("gzip", vec![]),
        ("trailersx", vec![]),
    ] {
        assert_eq!(stripped(&[("te", value), ("connection", "TE")]), want, "{value}");
    }
}

#[test]
fn lookalikes_of_provenance_names_never_pass() {
    let left = stripped(&[
        ("x_forwarded_for", "1"),
        ("x-forwarded_for", "1"),
        ("x_real_ip", "1"),
        ("x_armiger_attempts", "1"),
        ("x-forwarded-for", "kept"),
        ("x_own_name", "kept"),
    ]);
    assert_eq!(left, ["x-forwarded-for: kept", "x_own_name: kept"]);
}

#[test]
fn provenance_names_are_known_by_family() {
    for (name, want) in [
        ("forwarded", true),
        ("x-forwarded", true),
        ("x-forwarded-client-cert", true),
        ("x-original-url", true),
        ("x-armiger-explain", true),
        ("true-client-ip", true),
        ("true_client_ip", true),
        ("x-client-ip", true),
        ("x-forwardedness", false),
        ("x-originality", false),
        ("forwarded-for", false),
        ("x-real-ip2", false),
        ("x-request-id", false),
        ("x", false),
    ] {
        assert_eq!(is_provenance(&HeaderName::from_static(name)), want, "{name}");
    }
}

#[test]
fn what_may_come_once_comes_once() {
    use HeaderFault::*;
    for (input, want) in [
        (vec![("host", "a"), ("host", "a")], Duplicate("host")),
        (vec![("authorization", "a"), ("authorization", "b")], Duplicate("authorization")),
        (vec![("content-type", "a"), ("content-type", "b")], Duplicate("content-type")),
        (vec![("content-length", "1"), ("content-length", "1")], Duplicate("content-length")),
        (vec![("content-length", "1, 1")], LengthInvalid),
        (vec![("content-length", "+1")], LengthInvalid),
        (vec![("content-length", "")], LengthInvalid),
        (vec![("content-length", "99999999999999999999")], LengthInvalid),
        (vec![("content-length", "1"), ("transfer-encoding", "chunked")], LengthAndCoding),
        (vec![("transfer-encoding", "gzip, chunked")], CodingInvalid),
        (vec![("transfer-encoding", "chunked,")], CodingInvalid),
        (vec![("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], CodingInvalid),
    ] {
        let fault = inspect_request(&map(&input)).unwrap_err();
        assert_eq!(fault, want, "{input:?}");
    }
    let lawful = [("accept", "a"), ("accept", "b"), ("cookie", "a"), ("cookie", "b"), ("content-length", "007")];
    assert!(inspect_request(&map(&lawful)).is_ok());
}

#[test]
fn an_inspection_tells_what_a_request_asks_of_the_hop() {
    let found = inspect_request(&map(&[
        ("connection", "Upgrade, CLOSE"),
        ("upgrade", "websocket"),
        ("expect", "100-Continue"),
        ("via", "1.1 x"),
    ]))
    .unwrap();
    assert!(found.connection_upgrade && !found.te_trailers);
    assert_eq!(found.upgrade.unwrap(), "websocket");
    assert!(found.seen.has(Seen::VIA) && !found.seen.has(Seen::PROVENANCE));

    let unnamed = inspect_request(&map(&[("upgrade", "websocket")])).unwrap();
    assert_eq!(unnamed.upgrade, None, "an upgrade that `connection` does not name is none");
    let twice = map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]);
    assert_eq!(inspect_request(&twice).unwrap().upgrade, None, "two wishes are none");
}

#[test]
fn a_cookie_may_have_any_name_that_can_be_found() {
    for name in ["theme", "__Host-a.b", "prefs[theme]", "a b", "a,b", "\"a\"", "é"] {
        assert!(is_cookie_name(name), "{name}");
    }
    for name in ["", "a=b", "a;b", " a", "a\t", "a\nb", "a\u{7f}"] {
        assert!(!is_cookie_name(name), "{name:?}");
    }
}

#[test]
fn cookie_crumbs_become_one_line() {
    for (input, want) in [
        (vec![("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], vec!["cookie: a=1; b=2; c=3"]),
        (vec![("cookie", "a=1; b=2")], vec!["cookie: a=1; b=2"]),
        (vec![("accept", "x"), ("accept", "y")], vec!["accept: x", "accept: y"]),
    ] {
        let mut headers = map(&input);
        let inspected = inspect_request(&headers).unwrap();
        join_cookies(&mut headers, &inspected);
        assert_eq!(lines(&headers), want);
    }
}

#[test]
fn max_forwards_is_spent_down_to_nothing() {
    for (value, goes_on, left) in
        [("2", true, "1"), ("1", true, "0"), ("0", false, "0"), ("x", true, "x"), ("+3", true, "+3")]
    {
        let mut headers = map(&[("max-forwards", value)]);
        assert_eq!(spend_max_forwards(&mut headers), goes_on, "{value}");
        assert_eq!(headers[header::MAX_FORWARDS], left);
    }
    assert!(spend_max_forwards(&mut HeaderMap::new()));
}

#[test]
fn every_hop_by_hop_name_has_its_bit() {
    for (bit, name) in &HOP_BY_HOP {
        assert_eq!(classify(name), *bit, "{name}");
        assert!(ANY_HOP_BY_HOP.has(*bit));
    }
}
