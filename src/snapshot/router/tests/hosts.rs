//! Which host wins, and what a request falls through to.

use super::*;

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
