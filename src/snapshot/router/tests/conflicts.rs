//! Rules that are a tie, and rules that nothing reaches.

use super::*;

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
