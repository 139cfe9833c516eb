//! Many rules and long paths cost no more than they must.

use super::*;

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
