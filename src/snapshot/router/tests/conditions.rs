//! Conditions on headers, query and cookies, and methods.

use http::HeaderValue;
use http::header::COOKIE;

use super::*;

#[test]
fn more_conditions_win_method_first_then_headers_then_query_then_cookies() {
    check(
        &[
            "/",
            "GET /",
            "h:a=1 h:b=1 /",
            "h:a=1 q:a=1 /",
            "h:a=1 /",
            "q:a=1 c:a=1 /",
            "q:a=1 /",
            "c:a=1 /",
            "GET c:a=1 /",
        ],
        &[
            ("POST /", "0"),
            ("GET /", "1"),
            ("GET /?a=1 h:a=1 h:b=1", "1"),
            ("POST /?a=1 h:a=1 h:b=1", "2"),
            ("POST /?a=1 h:a=1", "3"),
            ("POST / h:a=1", "4"),
            ("POST /?a=1 c:a=1", "5"),
            ("POST /?a=1", "6"),
            ("POST / c:a=1", "7"),
            ("GET / c:a=1", "8"),
        ],
    );
}

#[test]
fn a_rule_whose_conditions_do_not_hold_is_passed_over() {
    check(
        &["/a/b h:x=1", "/a/{x} h:x=2", "/a/{rest...} POST", "^/", "a.com /a/b h:x=3"],
        &[
            ("/a/b h:x=1", "0"),
            ("/a/b h:x=2", "1"),
            ("POST /a/b", "2"),
            ("/a/b", "3"),
            ("a.com /a/b h:x=3", "4"),
            ("a.com /a/b h:x=1", "0"),
        ],
    );
}

#[test]
fn conditions_on_headers() {
    check(
        &["/is h:X-A=1", "/has h:x-a", "/not h:!x-a", "/begins h:x-a=v1*", "/like h:x-a~v[0-9]+"],
        &[
            ("/is h:x-a=1", "0"),
            ("/is h:x-a=12", "404"),
            ("/is", "404"),
            ("/has h:x-a=any", "1"),
            ("/has", "404"),
            ("/not", "2"),
            ("/not h:x-a=1", "404"),
            ("/begins h:x-a=v12", "3"),
            ("/begins h:x-a=v2", "404"),
            ("/like h:x-a=v77", "4"),
            ("/like h:x-a=v77x", "404"),
            ("/like h:x-a=xv77", "404"),
        ],
    );
}

#[test]
fn of_a_name_that_comes_twice_every_value_must_do() {
    check(
        &["/ h:a=1 q:a=1", "/p q:a=x*", "/c c:a=1", "/not q:!a"],
        &[
            ("/?a=1&a=1 h:a=1 h:a=1", "0"),
            ("/?a=1&a=2 h:a=1", "404"),
            ("/?a=1 h:a=1 h:a=2", "404"),
            ("/p?a=xa&b=1&a=xb", "1"),
            ("/p?a=xa&a=b", "404"),
            ("/c c:a=1 c:a=1", "2"),
            ("/c c:a=1;a=2", "404"),
            ("/not?b=1", "3"),
            ("/not?b=1&a", "404"),
        ],
    );
}

#[test]
fn queries_are_compared_decoded() {
    let router = build(&["/ q:n=a/b", "/r q:n~[äö]+", "/p q:n=%41*", "/s q:n", "/e q:n="]).unwrap();
    for (request, expected) in [
        ("/?n=a/b", "0"),
        ("/?n=a%2fb", "0"),
        ("/?%6E=a%2Fb", "0"),
        ("/?n=a+b", "404"),
        ("/?n=a%2", "404"),
        ("/r?n=%C3%A4%C3%B6", "1"),
        ("/r?n=%C3", "404"),
        // `%2541` is `%41`, decoded once.
        ("/p?n=%2541x", "2"),
        ("/p?n=%41x", "404"),
        ("/s?n", "3"),
        ("/s?m&&n=", "3"),
        ("/s?nn=1&m=n", "404"),
        ("/s", "404"),
        ("/e?n", "4"),
        ("/e?n=", "4"),
        ("/e?n=1", "404"),
    ] {
        assert_eq!(winner(&router, request), expected, "{request}");
    }
}

#[test]
fn a_plus_in_a_query_is_a_space_and_in_a_cookie_a_plus() {
    let condition = |value: &str| vec![ValueMatch { name: "n".to_owned(), is: Is::Exact(value.into()) }];
    let query = Matcher { query: condition("a b"), ..matcher("/q") };
    let cookie = Matcher { cookies: condition("a+b"), ..matcher("/c") };
    let rules = [query, cookie].into_iter().enumerate();
    let router = Router::build(rules.map(|(target, matcher)| Rule { matcher, target }).collect()).unwrap();

    assert_eq!(winner(&router, "/q?n=a+b"), "0");
    assert_eq!(winner(&router, "/q?n=a%20b"), "0");
    assert_eq!(winner(&router, "/q?n=a%2Bb"), "404");
    assert_eq!(winner(&router, "/c c:n=a+b"), "1");
    assert_eq!(winner(&router, "/c c:n=a%2Bb"), "1");
}

#[test]
fn cookies_are_found_among_others_without_their_quotes() {
    let router = build(&["/ c:b=2"]).unwrap();
    for (line, found) in [
        ("a=1; b=2; c=3", true),
        ("b=2", true),
        ("b=\"2\"", true),
        ("a=1;b=2", true),
        (" b = 2 ", true),
        ("b=%32", true),
        ("ab=2", false),
        ("B=2", false),
        ("b=2x", false),
        ("b", false),
        ("a=b=2", false),
        ("", false),
    ] {
        let mut request = request("/");
        request.headers.insert(COOKIE, HeaderValue::from_static(line));
        assert_eq!(router.find(&request.query()).is_ok(), found, "{line}");
    }
}

#[test]
fn a_method_that_no_rule_takes_is_405_with_all_that_would_do() {
    check(
        &["/a GET", "/a POST", "/{x} PUT", "^/ PURGE", "/h DELETE h:x=1", "/b h:x"],
        &[
            ("DELETE /a", "405 GET, HEAD, POST, PUT, PURGE"),
            ("DELETE /c", "405 PUT, PURGE"),
            ("DELETE /c/d", "405 PURGE"),
            ("PUT /a", "2"),
            ("PURGE /a", "3"),
            // The rule for DELETE would not do: its header is missing.
            ("GET /h", "405 PUT, PURGE"),
            ("GET /h h:x=1", "405 PUT, DELETE, PURGE"),
            ("BREW /b h:x=1", "5"),
        ],
    );
    check(&["/a GET"], &[("POST /b", "404"), ("POST /a", "405 GET, HEAD")]);
    check(
        &["a.com /a GET", "*.com /a PUT", "/a POST"],
        &[("a.com DELETE /a", "405 GET, HEAD, POST, PUT"), ("x.a.com DELETE /a", "405 POST, PUT")],
    );
    check(&["~/a+ GET"], &[("POST /aa", "405 GET, HEAD"), ("POST /b", "404")]);
}

#[test]
fn a_wrong_method_and_a_missing_header_are_404() {
    check(&["/a GET h:x=1"], &[("POST /a", "404"), ("POST /a h:x=1", "405 GET, HEAD"), ("GET /a", "404")]);
}

#[test]
fn get_answers_head_unless_another_rule_names_head() {
    check(&["/a GET", "/a POST"], &[("HEAD /a", "0"), ("GET /a", "0"), ("POST /a", "1")]);
    check(&["/a GET", "/a HEAD"], &[("HEAD /a", "1"), ("GET /a", "0")]);
    check(&["/a HEAD"], &[("GET /a", "405 HEAD")]);
    check(&["/a POST", "/{x}"], &[("HEAD /a", "1")]);
}

#[test]
fn methods_are_told_apart_by_case() {
    let router = build(&["/a GET"]).unwrap();
    let mut request = request("/a");
    request.method = Method::from_bytes(b"get").unwrap();
    assert!(matches!(router.find(&request.query()), Err(Missed::Method(_))));
}
