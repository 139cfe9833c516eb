//! Tests of what is believed, read and told of where a request came from.

use http::Version;
use proptest::prelude::*;

use super::elements::well_formed;
use super::via::{SHARED_MAX, via_count, via_names};
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
fn forwarded_tells_the_scheme_as_the_believed_proxy_next_to_the_client_saw_it() {
    let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
    for (list, want) in [
        ("for=198.51.100.1;proto=https", https),
        ("for=198.51.100.1;Proto=\"HTTPS\"", https),
        ("for=198.51.100.1;proto=https, for=10.0.0.3;proto=http", https),
        ("for=198.51.100.1, for=10.0.0.3;proto=http", http),
        // Whoever names nobody still saw the scheme.
        ("for=_hidden;proto=https, for=10.0.0.3;proto=http", https),
        ("proto=https", https),
        // What the client wrote itself counts for nothing.
        ("for=6.6.6.6;proto=https, for=198.51.100.1;proto=http", http),
        ("for=6.6.6.6;proto=https, for=198.51.100.1", None),
        ("proto=https, for=unknown", None),
        ("for=198.51.100.1;proto=ftp", None),
        ("for=198.51.100.1", None),
        ("", None),
    ] {
        let headers = map(&[("forwarded", list)]);
        assert_eq!(client(ip("10.0.0.1"), &headers, &trust(Source::Forwarded, None)).1, want, "{list}");
        assert_eq!(client(ip("192.0.2.1"), &headers, &trust(Source::Forwarded, None)).1, None, "{list}");
        assert_eq!(client(ip("10.0.0.1"), &headers, &trust(Source::XForwardedFor, None)).1, None, "{list}");
    }
}

#[test]
fn an_element_is_read_to_the_letter() {
    let address = |text| Ok(Element { node: Some(Node::Address(ip(text))), scheme: None });
    let node = |node| Ok(Element { node, scheme: None });
    for (line, want) in [
        ("for=192.0.2.43", vec![address("192.0.2.43")]),
        ("for=\"192.0.2.43:47011\"", vec![address("192.0.2.43")]),
        ("for=\"[2001:db8::17]\"", vec![address("2001:db8::17")]),
        ("for=\"[2001:db8::17]:_port\"", vec![address("2001:db8::17")]),
        ("for=unknown", vec![node(Some(Node::Unknown))]),
        ("for=\"UNKNOWN:80\"", vec![node(Some(Node::Unknown))]),
        ("for=_SEVKISEK", vec![node(Some(Node::Obfuscated))]),
        ("for=\"_a.b-c:_p\"", vec![node(Some(Node::Obfuscated))]),
        ("proto=http;host=\"a,b;c\\\"d\"", vec![Ok(Element { node: None, scheme: Some(Scheme::Http) })]),
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
        ["x-forwarded-for: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.9", "x-forwarded-port: 80", "x-forwarded-proto: http",]
    );
}

#[test]
fn the_next_hop_is_told_by_an_element_of_forwarded_where_that_is_asked_for() {
    let told = |hop: &Hop, before: &[&str], host: Option<&str>| {
        let mut headers = map(&before.iter().map(|line| ("forwarded", *line)).collect::<Vec<_>>());
        append(&mut headers, hop, host.map(|host| HeaderValue::from_str(host).unwrap()).as_ref());
        let lines: Vec<_> = headers.get_all(header::FORWARDED).iter().map(|line| line.to_str().unwrap()).collect();
        assert!(lines.len() < 2, "{lines:?}");
        lines.concat()
    };
    let plain = Hop::new(ip("192.0.2.9"), Scheme::Http, 80);
    assert_eq!(told(&plain, &["for=1.1.1.1"], Some("a")), "for=1.1.1.1");
    let hop = plain.with_forwarded();
    for (before, host, want) in [
        (&[][..], None, "for=192.0.2.9;proto=http"),
        (&[], Some("shop.example"), "for=192.0.2.9;proto=http;host=shop.example"),
        (&[], Some("shop.example:80"), "for=192.0.2.9;proto=http;host=\"shop.example:80\""),
        (&[], Some("[2001:db8::1]"), "for=192.0.2.9;proto=http;host=\"[2001:db8::1]\""),
        (&[], Some("a\"b\\c"), "for=192.0.2.9;proto=http;host=\"a\\\"b\\\\c\""),
        (&[], Some(""), "for=192.0.2.9;proto=http;host=\"\""),
        (
            &["for=1.1.1.1", " , ", "for=2.2.2.2 ,for=_x"],
            None,
            "for=1.1.1.1, for=2.2.2.2 ,for=_x, for=192.0.2.9;proto=http",
        ),
        (&["for=1.1.1.1", "for=\"2.2.2.2, for=_x"], None, "for=_x, for=192.0.2.9;proto=http"),
        (&["junk"], None, "for=192.0.2.9;proto=http"),
    ] {
        assert_eq!(told(&hop, before, host), want, "{before:?} {host:?}");
    }
    // Whom nobody can read says nothing: rather without the host.
    assert_eq!(told(&hop, &[], Some(&"h".repeat(ELEMENT_MAX))), "for=192.0.2.9;proto=http");
    let hop = Hop::new(ip("2001:db8::17"), Scheme::Https, 443).with_forwarded();
    assert_eq!(told(&hop, &[], None), "for=\"[2001:db8::17]\";proto=https");
    let hop = Hop::new(NOWHERE, Scheme::Http, 80).with_forwarded();
    assert_eq!(told(&hop, &[], None), "for=unknown;proto=http");
}

#[test]
fn via_is_added_with_the_received_version() {
    let via = Via::new("armiger").unwrap();
    let mut headers = map(&[("via", "1.0 fred")]);
    via.append(&mut headers, Version::HTTP_11);
    via.append(&mut headers, Version::HTTP_2);
    via.append(&mut headers, Version::HTTP_10);
    assert_eq!(lines_of(&headers), ["via: 1.0 armiger", "via: 1.0 fred", "via: 1.1 armiger", "via: 2 armiger"]);
    for (pseudonym, want) in
        [("shop-1", true), ("h:80", true), ("", false), ("a b", false), ("a,b", false), ("a:x", false), ("é", false)]
    {
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
        let scheme = address.is_none().then_some(Scheme::Http);
        let element = Element { node: address.map(Node::Address), scheme };
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
        append(&mut headers, &Hop::new(address, Scheme::Http, 80).with_forwarded(), None);
        // All of what is passed on is readable.
        let (_, is_whole) = well_formed(headers[header::FORWARDED].as_bytes());
        prop_assert!(is_whole);
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
