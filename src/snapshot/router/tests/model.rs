//! The tree against a model that asks every rule.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::*;

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
