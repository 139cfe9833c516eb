//! Which route a request finds, and which rules stand in each other's way.

use super::*;
use crate::snapshot::pattern::Is;
use http::HeaderValue;
use proptest::prelude::*;

/// `GET POST a.com *.b.com /path h:name=value q:!name c:name`, where the path is `/exact/{x}`, `^/prefix` or
/// `~/regex`, and a condition is `name`, `!name`, `name=exact`, `name=prefix*` or `name~regex`.
fn matcher(text: &str) -> Matcher {
    let mut matcher = Matcher::path(PathPattern::prefix("/").unwrap());
    for word in text.split_whitespace() {
        match word.split_at(word.len().min(2)) {
            ("h:", condition) => {
                let ValueMatch { name, is } = value_match(condition);
                matcher.headers.push(ValueMatch { name: name.parse().unwrap(), is });
            }
            ("q:", condition) => matcher.query.push(value_match(condition)),
            ("c:", condition) => matcher.cookies.push(value_match(condition)),
            _ if word.starts_with('/') => matcher.path = PathPattern::parse(word).unwrap(),
            _ if word.starts_with('^') => matcher.path = PathPattern::prefix(&word[1..]).unwrap(),
            _ if word.starts_with('~') => matcher.path = PathPattern::regex(&word[1..]).unwrap(),
            _ if word.bytes().all(|byte| byte.is_ascii_uppercase()) => matcher.methods.push(word.parse().unwrap()),
            _ => matcher.hosts.push(HostPattern::parse(word).unwrap()),
        }
    }
    matcher
}

fn value_match(text: &str) -> ValueMatch {
    let (name, is) = match text.split_once(['=', '~']) {
        None => match text.strip_prefix('!') {
            Some(name) => (name, Is::Absent),
            None => (text, Is::Present),
        },
        Some((name, regex)) if text.contains('~') => (name, Is::regex(regex).unwrap()),
        Some((name, value)) => match value.strip_suffix('*') {
            Some(prefix) => (name, Is::Prefix(prefix.into())),
            None => (name, Is::Exact(value.into())),
        },
    };
    ValueMatch { name: name.into(), is }
}

fn build(rules: &[&str]) -> Result<Router<usize>, Vec<Conflict>> {
    let rules = rules.iter().enumerate();
    Router::build(rules.map(|(target, text)| Rule { matcher: matcher(text), target }).collect())
}

struct Request {
    host: String,
    path: String,
    method: Method,
    headers: HeaderMap,
    query: Option<String>,
}

impl Request {
    fn query(&self) -> Query<'_> {
        let Self { host, path, method, headers, query } = self;
        Query { host, path, method, headers, query: query.as_deref() }
    }
}

/// The values of the parameters in `path`.
fn values<'p>(lookup: &Lookup<'_, usize>, path: &'p str) -> Vec<&'p str> {
    lookup.params.iter().map(|&(start, end)| &path[start as usize..end as usize]).collect()
}

/// `POST a.com /path?query h:name=value c:name=value`; `GET` if no method is given.
fn request(text: &str) -> Request {
    let mut request = Request {
        host: String::new(),
        path: String::new(),
        method: Method::GET,
        headers: HeaderMap::new(),
        query: None,
    };
    for word in text.split_whitespace() {
        if let Some((name, value)) = word.strip_prefix("h:").and_then(|word| word.split_once('=')) {
            request.headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        } else if let Some(cookie) = word.strip_prefix("c:") {
            request.headers.append(COOKIE, cookie.parse().unwrap());
        } else if word.starts_with(['/', '*']) {
            let (path, query) = word.split_once('?').map_or((word, None), |(path, query)| (path, Some(query)));
            request.path = path.into();
            request.query = query.map(str::to_owned);
        } else if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            request.method = word.parse().unwrap();
        } else {
            request.host = word.into();
        }
    }
    request
}

/// The position of the winning rule, or `404`, or `405 Allow`.
fn winner(router: &Router<usize>, text: &str) -> String {
    match router.find(&request(text).query()) {
        Ok(lookup) => lookup.target.to_string(),
        Err(Missed::NoRoute) => "404".into(),
        Err(Missed::Method(allowed)) => format!("405 {allowed}"),
    }
}

#[track_caller]
fn check(rules: &[&str], requests: &[(&str, &str)]) {
    let router = build(rules).unwrap_or_else(|conflicts| panic!("{conflicts:?}"));
    // The order of the rules must not matter, but for regular expressions.
    let backwards: Vec<_> = rules.iter().rev().copied().collect();
    let reversed = if rules.iter().any(|rule| rule.contains(" ~") || rule.starts_with('~')) {
        None
    } else {
        Some(build(&backwards).unwrap_or_else(|conflicts| panic!("{conflicts:?}")))
    };
    for (request, expected) in requests {
        assert_eq!(winner(&router, request), *expected, "{request}");
        if let Some(reversed) = &reversed {
            let expected = expected.parse::<usize>().map_or((*expected).to_owned(), |position| {
                if position < rules.len() { (rules.len() - 1 - position).to_string() } else { position.to_string() }
            });
            assert_eq!(winner(reversed, request), expected, "{request}, rules reversed");
        }
    }
}

#[test]
fn an_exact_host_wins_over_a_longer_suffix_over_a_shorter_one_over_any() {
    check(
        &["/", "*.com /", "*.a.com /", "x.a.com /"],
        &[
            ("x.a.com /", "3"),
            ("y.a.com /", "2"),
            ("x.y.a.com /", "2"),
            ("a.com /", "1"),
            ("b.a.org /", "0"),
            ("com /", "0"),
            ("/", "0"),
        ],
    );
}

#[test]
fn a_suffix_matches_any_number_of_labels_but_not_none_and_not_half_a_label() {
    check(
        &["*.a.com /"],
        &[("x.a.com /", "0"), ("z.y.x.a.com /", "0"), ("a.com /", "404"), ("xa.com /", "404"), ("/", "404")],
    );
}

#[test]
fn a_host_without_a_matching_path_falls_through_to_the_next_host() {
    check(
        &["a.com /only", "*.com /some", "/{rest...}"],
        &[("a.com /only", "0"), ("b.com /only", "2"), ("a.com /some", "1"), ("a.com /x", "2")],
    );
}

#[test]
fn a_more_specific_host_wins_whatever_the_paths() {
    check(&["/a/b/c", "a.com ^/"], &[("a.com /a/b/c", "1"), ("b.com /a/b/c", "0")]);
}

#[test]
fn paths_are_compared_segment_by_segment_from_the_left() {
    check(
        &["/a/b", "/a/{x}", "/{x}/b", "/{x}/{y}", "/a/{rest...}", "/{rest...}", "/a/{x}/{rest...}", "/a/b/{rest...}"],
        &[
            ("/a/b", "0"),
            ("/a/c", "1"),
            ("/c/b", "2"),
            ("/c/d", "3"),
            ("/a/", "4"),
            ("/a", "5"),
            ("/c/d/e", "5"),
            ("/a/c/e", "6"),
            ("/a/c/", "6"),
            ("/a/b/e", "7"),
            ("/", "5"),
        ],
    );
}

#[test]
fn the_length_of_a_rule_does_not_matter() {
    check(
        &["/{a_very_long_name_of_a_parameter}/{and_another_one}", "/a/{b}", "^/{another_very_long_name}"],
        &[("/a/b", "1"), ("/b/a", "0"), ("/b", "2")],
    );
}

#[test]
fn an_earlier_literal_wins_even_if_the_other_pattern_has_more_of_them() {
    check(&["/a/{x}/{y}", "/{x}/b/c"], &[("/a/b/c", "0"), ("/x/b/c", "1")]);
}

#[test]
fn a_search_that_fails_below_a_literal_goes_back_to_the_parameter() {
    check(
        &["/a/b/c", "/a/{x}/d", "/{x}/b/e", "/{rest...}"],
        &[("/a/b/c", "0"), ("/a/b/d", "1"), ("/a/b/e", "2"), ("/a/b/f", "3")],
    );
}

#[test]
fn a_prefix_ends_at_a_segment() {
    check(
        &["^/api"],
        &[
            ("/api", "0"),
            ("/api/", "0"),
            ("/api/x", "0"),
            ("/api/x/y", "0"),
            ("/apix", "404"),
            ("/ap", "404"),
            ("/x/api", "404"),
            ("/api%2Fx", "404"),
            ("/", "404"),
        ],
    );
    check(&["^/api/"], &[("/api", "0"), ("/api/x", "0"), ("/apix", "404")]);
    check(&["^/"], &[("/", "0"), ("/a", "0"), ("/a/b", "0"), ("*", "404"), ("a.com", "404")]);
    check(&["^/t/{id}"], &[("/t", "404"), ("/t/", "404"), ("/t/1", "0"), ("/t/1/", "0"), ("/t/1/x", "0")]);
}

#[test]
fn the_longer_prefix_wins_and_the_whole_path_wins_over_both() {
    check(
        &["^/", "^/a", "^/a/b", "/a", "/a/", "/a/b"],
        &[
            ("/", "0"),
            ("/b", "0"),
            ("/a", "3"),
            ("/a/", "4"),
            ("/a/c", "1"),
            ("/a/b", "5"),
            ("/a/b/", "2"),
            ("/a/b/c", "2"),
        ],
    );
}

#[test]
fn a_tail_takes_the_empty_rest_but_not_the_path_without_its_slash() {
    check(&["/files/{rest...}"], &[("/files/", "0"), ("/files/a/b/", "0"), ("/files", "404"), ("/filesx", "404")]);
    check(&["/{rest...}"], &[("/", "0"), ("/a/b", "0")]);
}

#[test]
fn a_parameter_takes_one_segment_that_is_not_empty() {
    check(
        &["/a/{x}", "/b/{x}/"],
        &[
            ("/a/1", "0"),
            ("/a/", "404"),
            ("/a", "404"),
            ("/a/1/", "404"),
            ("/a/1/2", "404"),
            ("/b/1/", "1"),
            ("/b/1", "404"),
            ("/b//", "404"),
        ],
    );
}

#[test]
fn an_encoded_slash_is_no_boundary() {
    check(
        &["/a/{x}", "/a/{x}/{y}", "/a/b%2Fc"],
        &[("/a/x%2Fy", "0"), ("/a/x/y", "1"), ("/a/b%2Fc", "2"), ("/a/b/c", "1")],
    );
}

#[test]
fn regular_expressions_come_last_and_in_the_order_of_the_file() {
    check(
        &["~/[a-z]+", "~/[a-z0-9]+", "/abc", "/{x}/y", "~/.*", "~/[a-z]+/z", "h.com ~/only"],
        &[
            ("/abc", "2"),
            ("/abd", "0"),
            ("/ab1", "1"),
            ("/ab/y", "3"),
            // `/.*` stands before.
            ("/ab/z", "4"),
            ("h.com /only", "6"),
            ("h.com /abc", "2"),
        ],
    );
}

#[test]
fn a_regular_expression_matches_the_whole_path() {
    check(
        &["~/a|/b", "~^/c$"],
        &[("/a", "0"), ("/b", "0"), ("/ab", "404"), ("/x/b", "404"), ("/c", "1"), ("/c/", "404")],
    );
}

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

fn conflicts(rules: &[&str]) -> Vec<(usize, usize, ConflictKind)> {
    let conflicts = build(rules).err().unwrap_or_default();
    conflicts.iter().map(|conflict| (conflict.first, conflict.second, conflict.kind)).collect()
}

#[test]
fn rules_that_match_the_same_with_equal_rank_are_a_tie() {
    for rules in [
        ["/a", "/a"],
        ["/a/{x}", "/a/{y}"],
        ["/a/{x...}", "/a/{y...}"],
        ["^/a", "^/a/"],
        ["^/a", "/a/{rest...}"],
        ["^/", "/{rest...}"],
        ["/a GET", "/a GET POST"],
        ["/a HEAD", "/a GET HEAD"],
        ["/a PURGE", "/a PURGE"],
        ["/a h:x=1", "/a h:y=1"],
        ["/a h:x=1", "/a h:X=1"],
        ["/a h:x", "/a h:x=1"],
        ["/a h:x=v*", "/a h:x=v1"],
        ["/a h:x=v*", "/a h:x=v1*"],
        ["/a h:x~v.*", "/a h:x=v1"],
        ["/a h:x~v.*", "/a h:x~w.*"],
        ["/a h:x~v.*", "/a h:x=w*"],
        ["/a q:x=1", "/a q:y=1"],
        ["/a c:x=1", "/a c:y=1"],
        ["/a q:x=1 h:x=1", "/a q:x=1 h:y=2"],
        ["a.com /", "a.com b.com /"],
        ["*.a.com /", "*.a.com /"],
    ] {
        assert_eq!(conflicts(&rules), [(0, 1, ConflictKind::Tie)], "{rules:?}");
    }
}

#[test]
fn rules_that_exclude_each_other_or_differ_in_rank_are_no_tie() {
    for rules in [
        ["/a", "/a/"],
        ["/a/{x}", "/a/b"],
        ["/a/{x}", "/{x}/a"],
        ["/a/{x}", "/a/{x...}"],
        ["^/a", "/a"],
        ["/a GET", "/a POST"],
        ["/a GET", "/a HEAD"],
        ["/a GET", "/a"],
        ["/a h:x=1", "/a h:x=2"],
        ["/a h:x=1", "/a h:!x"],
        ["/a h:x", "/a h:!x"],
        ["/a h:x=v1*", "/a h:x=v2*"],
        ["/a h:x=v1*", "/a h:x=v2"],
        ["/a h:x~v1.*", "/a h:x=v2"],
        ["/a q:x=1", "/a q:x=2"],
        ["/a c:x=1", "/a c:x=2"],
        ["/a h:x=1 q:x=1", "/a h:y=1 q:x=2"],
        ["/a h:x=1", "/a h:x=1 h:y=1"],
        ["a.com /", "b.com /"],
        ["a.com /", "*.com /"],
        ["*.a.com /", "*.com /"],
        ["a.com /", "/"],
        ["~/a.*", "~/.*b"],
    ] {
        assert_eq!(conflicts(&rules), [], "{rules:?}");
    }
}

#[test]
fn all_conflicts_are_listed_each_once() {
    assert_eq!(
        conflicts(&["/a", "a.com b.com /b", "/a", "/c", "b.com a.com /b", "/a"]),
        [(0, 2, ConflictKind::Tie), (1, 4, ConflictKind::Tie), (0, 5, ConflictKind::Tie)]
    );
    assert_eq!(conflicts(&["a.com a.com /"]), [], "a host that is listed twice is no conflict");
}

#[test]
fn a_rule_that_another_takes_everything_from_is_unreachable() {
    for (rules, hidden) in [
        (["/a h:x=1*", "/a h:x h:x=1*"], Some((1, 0))),
        (["/a h:x h:x=1*", "/a h:x=12"], Some((0, 1))),
        (["/a h:x=12", "/a h:x h:x=1*"], Some((1, 0))),
        (["^/a h:x h:x=1*", "/a/{rest...} h:x=12"], Some((0, 1))),
        // The bare `/a` is left to it.
        (["/a/{rest...} h:x h:x=1*", "^/a h:x=12"], None),
        (["/a GET h:x", "/a GET q:y"], None),
        (["~/a", "~/a"], Some((0, 1))),
        (["~/a h:x=1", "~/a"], None),
        (["~/a GET", "~/a"], None),
        (["~/a", "~/a GET"], Some((0, 1))),
        (["a.com ~/a", "~/a"], None),
        (["^/", "~/a"], Some((0, 1))),
        (["~/a", "/{rest...}"], Some((1, 0))),
        (["~/a", "/{rest...} GET"], None),
        (["a.com b.com ~/a", "a.com ^/"], None),
        (["a.com b.com ~/a", "a.com b.com ^/"], Some((1, 0))),
        (["~/api/v[0-9]/x", "^/api"], Some((1, 0))),
        (["~^/api/v[0-9]/x$", "/api/{rest...}"], Some((1, 0))),
        (["~/api/?.*", "^/api"], None),
        (["~/apis/.*", "^/api"], None),
        (["~/api/a|/b", "^/api"], None),
        (["~(?i)/api/a", "^/api"], None),
        (["~/ap+i/a", "^/api"], None),
    ] {
        let expected: Vec<_> =
            hidden.into_iter().map(|(first, second)| (first, second, ConflictKind::Unreachable)).collect();
        assert_eq!(conflicts(&rules), expected, "{rules:?}");
    }
}

#[test]
fn parameters_stand_in_the_order_of_their_names_and_keep_their_encoding() {
    let router =
        build(&["/t/{tenant}/f/{rest...}", "/t/{x}/y", "^/p/{id}", "~/v(?<major>[0-9]+)(?<minor>\\.[0-9]+)?/(.*)"])
            .unwrap();
    let params = |text: &str| {
        let request = request(text);
        let lookup = router.find(&request.query()).unwrap();
        let names = router.rules[*lookup.target].path.names().iter();
        let list: Vec<_> =
            names.zip(values(&lookup, &request.path)).map(|(name, value)| format!("{name}={value}")).collect();
        list.join(",")
    };
    assert_eq!(params("/t/a%2Fb/f/c/d"), "tenant=a%2Fb,rest=c/d");
    assert_eq!(params("/t/a/f/"), "tenant=a,rest=");
    assert_eq!(params("/t/a/y"), "x=a");
    assert_eq!(params("/p/1"), "id=1");
    assert_eq!(params("/p/1/2/3"), "id=1");
    assert_eq!(params("/v1.2/x"), "major=1,minor=.2");
    assert_eq!(params("/v1/x"), "major=1,minor=");
}

#[test]
fn parameters_of_a_branch_that_failed_are_forgotten() {
    let router = build(&["h.com ~/(?<g>.*) h:no", "/{a}/{b}/c", "/{x}/{rest...} h:no", "/{y...}"]).unwrap();
    let request = request("h.com /1/2/d");
    let lookup = router.find(&request.query()).unwrap();
    assert_eq!((*lookup.target, values(&lookup, &request.path)), (3, vec!["1/2/d"]));
}

#[test]
fn a_thousand_literals_of_one_node_are_all_found() {
    let rules: Vec<_> = (0..1000).map(|number| format!("/a/r{number}/{{id}}")).collect();
    let router = build(&rules.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert_eq!(router.rules.len(), 1000);
    for number in 0..1000 {
        assert_eq!(winner(&router, &format!("/a/r{number}/7")), number.to_string());
    }
    assert_eq!(winner(&router, "/a/r1000/7"), "404");
}

/// Each level has both ways on, and no path through is complete: a search without bound would take 2^63 steps.
#[test]
fn a_path_that_misses_everywhere_costs_no_more_than_the_tree_is_large() {
    const DEPTH: usize = 63;
    let pattern = |at: usize| -> String {
        let segments = (0..DEPTH).map(|level| if level == at { "/{x}" } else { "/a" });
        segments.chain(["/end"]).collect()
    };
    let rules: Vec<_> = (0..DEPTH).map(pattern).collect();
    let router = build(&rules.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let miss = "/a".repeat(DEPTH) + "/miss";

    assert_eq!(winner(&router, &miss), "404");
    assert_eq!(winner(&router, &("/a".repeat(DEPTH) + "/end")), (DEPTH - 1).to_string());
}

/// All 2^10 patterns of `a` and `{x}`: whatever the path, a rule is asked at most once.
#[test]
fn a_full_tree_offers_each_rule_at_most_once() {
    const DEPTH: u32 = 10;
    let pattern = |bits: u32| -> String {
        (0..DEPTH)
            .map(|level| if bits >> level & 1 == 0 { "/a".to_owned() } else { format!("/{{x{level}}}") })
            .collect()
    };
    let rules: Vec<_> = (0..1 << DEPTH).map(|bits| pattern(bits) + " h:never").collect();
    let router = build(&rules.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let mut offers = 0;
    let path = "/a".repeat(DEPTH as usize);
    let found = router.each_candidate("", &path, &mut Ranges::new(), &mut |_| {
        offers += 1;
        false
    });
    assert!(found.is_none());
    assert_eq!(offers, 1 << DEPTH);
}

#[test]
fn a_path_of_many_segments_or_a_very_long_one_is_only_a_path() {
    let router = build(&["/a/{x}", "^/deep", "a.com /"]).unwrap();
    assert_eq!(winner(&router, &format!("/deep{}", "/x".repeat(100_000))), "1");
    assert_eq!(winner(&router, &format!("/a/{}", "x".repeat(100_000))), "0");
    assert_eq!(winner(&router, &format!("{}a.com /", "x.".repeat(100_000))), "404");
    for path in ["", "a", "*", "a/b"] {
        let mut request = request("/");
        request.path = path.into();
        assert_eq!(router.find(&request.query()).err(), Some(Missed::NoRoute), "{path}");
    }
}

// === The model ===

/// A rule as the model reads it: as text.
#[derive(Clone, Debug)]
struct Spec {
    hosts: Vec<&'static str>,
    path: String,
    methods: Vec<&'static str>,
    conditions: Vec<(char, &'static str, &'static str)>,
}

impl Spec {
    fn text(&self) -> String {
        let conditions = self.conditions.iter().map(|(kind, name, value)| match *value {
            "absent" => format!("{kind}:!{name}"),
            "present" => format!("{kind}:{name}"),
            value => format!("{kind}:{name}={value}"),
        });
        let words = self.hosts.iter().chain(&self.methods).map(|word| (*word).to_owned());
        words.chain([self.path.clone()]).chain(conditions).collect::<Vec<_>>().join(" ")
    }

    /// How specific the hosts are for `host`; greater is better.
    fn host_rank(&self, host: &str) -> Option<usize> {
        if self.hosts.is_empty() {
            return Some(0);
        }
        let rank = |pattern: &&str| match pattern.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix).then_some(suffix.len()),
            None => (*pattern == host).then_some(usize::MAX),
        };
        self.hosts.iter().filter_map(rank).max()
    }

    /// One number for each segment, and what the parameters are.
    fn path_rank(&self, path: &str) -> Option<(Vec<u8>, Vec<String>)> {
        const LITERAL: u8 = 9;
        const PARAM: u8 = 8;
        const ENDED: u8 = 7;
        const TAIL: u8 = 6;
        const REGEX: u8 = 0;
        if self.path.starts_with('~') {
            let matches = match self.path.as_str() {
                "~/a/.*" => path.starts_with("/a/"),
                "~/[ab]" => path == "/a" || path == "/b",
                "~/.*b" => path.ends_with('b'),
                other => panic!("the model does not know {other}"),
            };
            return matches.then(|| (vec![REGEX], vec![]));
        }
        let pattern = self.path.trim_start_matches('^');
        let is_prefix = self.path.starts_with('^');
        let mut wanted: Vec<_> = pattern[1..].split('/').collect();
        if is_prefix && wanted.last() == Some(&"") {
            wanted.pop();
        }
        let given: Vec<_> = path[1..].split('/').collect();
        let (mut rank, mut params) = (vec![], vec![]);
        for (position, segment) in wanted.iter().enumerate() {
            if segment.ends_with("...}") {
                params.push(given.get(position..).filter(|rest| !rest.is_empty())?.join("/"));
                rank.push(TAIL);
                return Some((rank, params));
            }
            let have = given.get(position)?;
            if segment.starts_with('{') {
                if have.is_empty() {
                    return None;
                }
                params.push((*have).to_owned());
                rank.push(PARAM);
            } else if have == segment {
                rank.push(LITERAL);
            } else {
                return None;
            }
        }
        if !is_prefix && given.len() > wanted.len() {
            return None;
        }
        rank.push(if is_prefix { TAIL } else { ENDED });
        Some((rank, params))
    }

    fn count(&self, kind: char) -> usize {
        self.conditions.iter().filter(|(of, ..)| *of == kind).count()
    }

    fn allows(&self, method: &str) -> bool {
        let has = |name| self.methods.contains(&name);
        self.methods.is_empty() || has(method) || (method == "HEAD" && has("GET"))
    }

    fn conditions_hold(&self, given: &[(char, &str, &str)]) -> bool {
        self.conditions.iter().all(|(kind, name, wanted)| {
            let value = given.iter().find(|(of, is, _)| of == kind && is == name).map(|(.., value)| *value);
            match *wanted {
                "absent" => value.is_none(),
                "present" => value.is_some(),
                wanted => match wanted.strip_suffix('*') {
                    Some(prefix) => value.is_some_and(|value| value.starts_with(prefix)),
                    None => value == Some(wanted),
                },
            }
        })
    }
}

/// The winner, its parameters and, if there is none, the methods that would do.
type Outcome = (Option<(usize, Vec<String>)>, Vec<String>);

fn model(specs: &[Spec], host: &str, path: &str, method: &str, given: &[(char, &str, &str)]) -> Outcome {
    let mut best: Option<(_, usize, Vec<String>)> = None;
    let mut allowed = HashSet::new();
    for (position, spec) in specs.iter().enumerate() {
        let (Some(host), Some((path, params))) = (spec.host_rank(host), spec.path_rank(path)) else {
            continue;
        };
        if !spec.conditions_hold(given) {
            continue;
        }
        if !spec.allows(method) {
            allowed.extend(["GET", "HEAD", "POST"].into_iter().filter(|method| spec.allows(method)));
            continue;
        }
        let is_regex = spec.path.starts_with('~');
        let conditions = (!spec.methods.is_empty(), spec.count('h'), spec.count('q'), spec.count('c'));
        let conditions = if is_regex { (false, 0, 0, 0) } else { conditions };
        let names_head = !is_regex && method == "HEAD" && spec.methods.contains(&"HEAD");
        let file_order = Reverse(if is_regex { position } else { 0 });
        let rank = (host, path, conditions, names_head, file_order);
        match &best {
            Some((best_rank, ..)) if *best_rank > rank => {}
            Some((best_rank, other, _)) => {
                assert!(*best_rank != rank, "{other} and {position} tie, and build did not say so");
                best = Some((rank, position, params));
            }
            None => best = Some((rank, position, params)),
        }
    }
    let mut allowed: Vec<_> = allowed.into_iter().map(str::to_owned).collect();
    allowed.sort();
    match best {
        Some((_, position, params)) => (Some((position, params)), vec![]),
        None => (None, allowed),
    }
}

fn a_path_pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof![3 => Just("/a"), 2 => Just("/b"), 3 => Just("/{}")];
    let segments = prop::collection::vec(segment, 0..4);
    let end = prop_oneof![4 => Just(""), 2 => Just("/"), 2 => Just("/{rest...}"), 3 => Just("^")];
    let path = (segments, end).prop_map(|(segments, end)| {
        let named = segments.iter().enumerate();
        let path: String = named.map(|(at, segment)| segment.replace("{}", &format!("{{p{at}}}"))).collect();
        match end {
            "^" if path.is_empty() => "^/".to_owned(),
            "^" => format!("^{path}"),
            "" if path.is_empty() => "/".to_owned(),
            end => path + end,
        }
    });
    let regex = prop::sample::select(vec!["~/a/.*", "~/[ab]", "~/.*b"]).prop_map(str::to_owned);
    prop_oneof![9 => path, 1 => regex]
}

fn a_condition() -> impl Strategy<Value = (char, &'static str, &'static str)> {
    let value = prop::sample::select(vec!["1", "12", "2", "1*", "present", "absent"]);
    (prop::sample::select(vec!['h', 'q', 'c']), prop::sample::select(vec!["x", "y"]), value)
}

fn a_spec() -> impl Strategy<Value = Spec> {
    let hosts = prop::sample::subsequence(vec!["a.com", "x.a.com", "*.a.com", "*.com"], 0..3);
    let methods = prop::sample::subsequence(vec!["GET", "HEAD", "POST"], 0..3);
    let conditions = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(a_condition(), 0..3)];
    (hosts, a_path_pattern(), methods, conditions).prop_map(|(hosts, path, methods, conditions)| Spec {
        hosts,
        path,
        methods,
        conditions,
    })
}

fn a_request() -> impl Strategy<Value = (&'static str, String, &'static str, Vec<(char, &'static str, &'static str)>)> {
    let host = prop::sample::select(vec!["", "a.com", "x.a.com", "y.x.a.com", "b.com", "com"]);
    let segment = prop::sample::select(vec!["/a", "/b", "/c"]);
    let path = (prop::collection::vec(segment, 0..5), any::<bool>()).prop_map(|(segments, slash)| {
        let path = segments.concat();
        if slash || path.is_empty() { path + "/" } else { path }
    });
    let method = prop::sample::select(vec!["GET", "HEAD", "POST"]);
    let value = prop::sample::select(vec!["1", "12", "2", "3"]);
    let given = (prop::sample::select(vec!['h', 'q', 'c']), prop::sample::select(vec!["x", "y"]), value);
    let given = prop::collection::vec(given, 0..4).prop_map(|mut given| {
        given.sort();
        given.dedup_by_key(|(kind, name, _)| (*kind, *name));
        given
    });
    (host, path, method, given)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_tree_agrees_with_asking_every_rule(
        mut specs in prop::collection::vec(a_spec(), 1..16),
        requests in prop::collection::vec(a_request(), 1..24),
    ) {
        let router = loop {
            let texts: Vec<_> = specs.iter().map(Spec::text).collect();
            match build(&texts.iter().map(String::as_str).collect::<Vec<_>>()) {
                Ok(router) => break router,
                Err(conflicts) => {
                    let seconds: HashSet<_> = conflicts.iter().map(|conflict| conflict.second).collect();
                    let mut position = 0..;
                    specs.retain(|_| !seconds.contains(&position.next().unwrap()));
                }
            }
        };
        for (host, path, method, given) in &requests {
            let of = |kind: char| {
                given.iter().filter(move |(of, ..)| *of == kind).map(|(_, name, value)| format!("{name}={value}"))
            };
            let mut words = vec![(*host).to_owned(), (*method).to_owned(), format!("{path}?{}", of('q').collect::<Vec<_>>().join("&"))];
            words.extend(of('h').map(|header| format!("h:{header}")));
            words.push(format!("c:{}", of('c').collect::<Vec<_>>().join(";")));
            let request = request(&words.join(" "));
            let outcome: Outcome = match router.find(&request.query()) {
                Ok(lookup) => {
                    let params = values(&lookup, path).into_iter().map(str::to_owned).collect();
                    (Some((*lookup.target, params)), vec![])
                }
                Err(Missed::NoRoute) => (None, vec![]),
                Err(Missed::Method(allowed)) => {
                    (None, allowed.iter().map(|method| method.to_string()).collect())
                }
            };
            prop_assert_eq!(outcome, model(&specs, host, path, method, given), "{} {} {} {:?}", method, host, path, given);
        }
    }

    #[test]
    fn a_rule_called_unreachable_is_never_found(
        specs in prop::collection::vec(a_spec(), 2..12),
        requests in prop::collection::vec(a_request(), 1..24),
    ) {
        let texts: Vec<_> = specs.iter().map(Spec::text).collect();
        let Err(conflicts) = build(&texts.iter().map(String::as_str).collect::<Vec<_>>()) else { return Ok(()) };
        for conflict in conflicts.iter().filter(|conflict| conflict.kind == ConflictKind::Unreachable) {
            let pair = [specs[conflict.first].clone(), specs[conflict.second].clone()];
            for (host, path, method, given) in &requests {
                // The rule may be hidden by another one under another host, so only hosts of the first count.
                if pair[0].host_rank(host) == pair[1].host_rank(host) && pair[0].host_rank(host).is_some() {
                    let (found, _) = model(&pair, host, path, method, given);
                    prop_assert!(found.is_none_or(|(position, _)| position == 0), "{:?}", pair);
                }
            }
        }
    }
}
