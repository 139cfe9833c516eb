//! Which path wins, and what its parameters are.

use super::*;

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
