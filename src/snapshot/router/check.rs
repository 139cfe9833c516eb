//! Rules that cannot stand together: ties, and those that no request can reach.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;

use smallvec::SmallVec;

use super::Router;
use super::condition::{Compiled, Rank};
use super::tree::{Tail, Tree};

/// Two rules that cannot stand together. Rules are named by their position in the list given to [`Router::build`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conflict {
    /// For a tie the earlier one in the list; else the one that takes all requests of the second.
    pub first: usize,
    /// For a tie the later one in the list; else the one that is never reached.
    pub second: usize,
    /// What is wrong about them.
    pub kind: ConflictKind,
}

/// Why two rules cannot stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Both can match the same request, and neither is more specific.
    Tie,
    /// The second matches no request that the first does not get.
    Unreachable,
}

impl ConflictKind {
    /// What is wrong, said of the second one.
    pub fn message(self) -> &'static str {
        match self {
            Self::Tie => "matches the same requests as another route, and neither is more specific",
            Self::Unreachable => "is never reached: another route takes every request that it matches",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Tie => "remove one, or give one of them a host, methods or another condition",
            Self::Unreachable => {
                "remove it, or narrow the other one; regular expressions are asked last, so a catch-all beside them \
                 must be one too, `/.*`, and stand after them"
            }
        }
    }
}

impl<T> Router<T> {
    /// Puts the rules of each node into their order, and lists those that cannot stand together.
    pub(super) fn sort_and_check(&mut self) -> Vec<Conflict> {
        let mut check = Check { rules: &self.rules, ties: HashSet::new(), hidden: HashMap::new() };
        let trees = self.exact.values_mut().chain(self.suffix.values_mut()).chain([&mut self.any]);
        let mut places = vec![0_usize; self.rules.len()];
        for tree in trees {
            for node in &mut tree.nodes {
                node.ends.sort_by_key(|&rule| check.order(rule));
                node.tails.sort_by_key(|tail| check.order(tail.rule));
                check.group(node.ends.iter().map(|&rule| Tail { rule, is_prefix: false }));
                check.group(node.tails.iter().copied());
                for rule in node.ends.iter().copied().chain(node.tails.iter().map(|tail| tail.rule)) {
                    places[rule as usize] += 1;
                }
            }
            check.regexes(tree);
            for &rule in &tree.regexes {
                places[rule as usize] += 1;
            }
        }
        check.conflicts(&places)
    }
}

/// Looks for ties and for rules that are hidden by others.
struct Check<'c, T> {
    rules: &'c [Compiled<T>],
    ties: HashSet<(u32, u32)>,
    /// By rule: one that hides it, and under how many hosts it is hidden.
    hidden: HashMap<u32, (u32, usize)>,
}

impl<T> Check<'_, T> {
    fn rule(&self, rule: u32) -> &Compiled<T> {
        &self.rules[rule as usize]
    }

    /// Smallest first.
    fn order(&self, rule: u32) -> (Reverse<(Rank, bool)>, u32) {
        let compiled = self.rule(rule);
        (Reverse((compiled.rank(), compiled.names_head())), rule)
    }

    /// Compares the rules of one host and path, which are in their order.
    fn group(&mut self, rules: impl Iterator<Item = Tail>) {
        let mut before: SmallVec<[Tail; 8]> = SmallVec::new();
        for later in rules {
            let rule = self.rule(later.rule);
            let mut hidden_by = None;
            let mut tied_to = None;
            for &earlier in &before {
                let other = self.rule(earlier.rule);
                if other.rank() == rule.rank() {
                    if !other.is_disjoint(rule) {
                        tied_to = Some(earlier.rule);
                        break;
                    }
                } else if hidden_by.is_none()
                    // `/a/{rest...}` does not take the bare `/a` of a prefix away.
                    && (earlier.is_prefix || !later.is_prefix)
                    && other.covers(rule)
                {
                    hidden_by = Some(earlier.rule);
                }
            }
            if let Some(other) = tied_to {
                self.ties.insert((other.min(later.rule), other.max(later.rule)));
            } else if let Some(other) = hidden_by {
                self.hide(later.rule, other);
            }
            before.push(later);
        }
    }

    /// Looks for expressions that never get a request: after an equal one, or below a prefix or `{rest...}`.
    fn regexes(&mut self, tree: &Tree) {
        let mut first_of: HashMap<&str, Vec<u32>> = HashMap::new();
        for &later in &tree.regexes {
            let rule = &self.rules[later as usize];
            let same = first_of.entry(rule.path.as_str()).or_default();
            let tails = tree.literal_nodes(rule.path.regex_literal_prefix()).flat_map(|node| &node.tails);
            let hidden_by = tails
                .map(|tail| tail.rule)
                .chain(same.iter().copied())
                .find(|&earlier| self.rules[earlier as usize].covers(rule));
            if let Some(earlier) = hidden_by {
                self.hide(later, earlier);
            }
            same.push(later);
        }
    }

    fn hide(&mut self, rule: u32, by: u32) {
        self.hidden.entry(rule).or_insert((by, 0)).1 += 1;
    }

    /// `places`: by rule, under how many hosts it is. One that some host still reaches is not in the way.
    fn conflicts(self, places: &[usize]) -> Vec<Conflict> {
        let ties = self.ties.into_iter().map(|(first, second)| (first, second, ConflictKind::Tie));
        let hidden = self
            .hidden
            .into_iter()
            .filter(|(rule, (_, hosts))| *hosts == places[*rule as usize])
            .map(|(rule, (by, _))| (by, rule, ConflictKind::Unreachable));
        let mut conflicts: Vec<Conflict> = ties
            .chain(hidden)
            .map(|(first, second, kind)| Conflict { first: first as usize, second: second as usize, kind })
            .collect();
        conflicts.sort_by_key(|conflict| (conflict.second, conflict.first, conflict.kind));
        conflicts
    }
}

impl fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}
