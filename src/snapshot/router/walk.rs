//! The search of one path in the tree of a host pattern.

use std::ops::ControlFlow;

use memchr::memchr;
use regex::Regex;

use super::Ranges;
use super::condition::Compiled;
use super::tree::{Node, ROOT, Tree};
use crate::snapshot::pattern::End;

/// The search of one path.
pub(super) struct Walk<'w, T, F> {
    pub(super) rules: &'w [Compiled<T>],
    pub(super) nodes: &'w [Node],
    pub(super) path: &'w str,
    /// The parameters on the way to the current node. Left as they are when a rule is taken.
    pub(super) ranges: &'w mut Ranges,
    pub(super) accept: &'w mut F,
}

impl<'w, T, F: FnMut(&Compiled<T>) -> bool> Walk<'w, T, F> {
    pub(super) fn tree(&mut self, tree: &'w Tree) -> ControlFlow<u32> {
        self.nodes = &tree.nodes;
        self.node(ROOT, 0)?;
        for &rule in &tree.regexes {
            self.regex(rule)?;
        }
        ControlFlow::Continue(())
    }

    /// Searches from `node` on. `at` is where the path goes on: at a slash, or at its end.
    ///
    /// No deeper than patterns are, so at most [`SEGMENTS_MAX`](crate::snapshot::pattern::SEGMENTS_MAX) calls.
    fn node(&mut self, node: u32, at: usize) -> ControlFlow<u32> {
        let node = &self.nodes[node as usize];
        let len = self.path.len();
        if at == len {
            for &rule in &node.ends {
                self.offer(rule)?;
            }
            for tail in node.tails.iter().filter(|tail| tail.is_prefix) {
                self.offer(tail.rule)?;
            }
            return ControlFlow::Continue(());
        }
        let start = at + 1;
        if node.param.is_some() || !node.literals.is_empty() {
            let end = memchr(b'/', &self.path.as_bytes()[start..]).map_or(len, |slash| start + slash);
            if let Some(child) = node.literals.get(&self.path[start..end]) {
                self.node(child, end)?;
            }
            if let Some(child) = node.param.filter(|_| start < end) {
                self.ranges.push(range(start, end));
                self.node(child, end)?;
                self.ranges.pop();
            }
        }
        for &tail in &node.tails {
            if tail.is_prefix {
                self.offer(tail.rule)?;
            } else {
                self.ranges.push(range(start, len));
                self.offer(tail.rule)?;
                self.ranges.pop();
            }
        }
        ControlFlow::Continue(())
    }

    fn regex(&mut self, rule: u32) -> ControlFlow<u32> {
        let path = &self.rules[rule as usize].path;
        let End::Regex(regex) = &path.end else {
            return ControlFlow::Continue(());
        };
        if path.names().is_empty() {
            if regex.is_match(self.path) {
                self.offer(rule)?;
            }
        } else if let Some(ranges) = captures(regex, self.path) {
            *self.ranges = ranges;
            self.offer(rule)?;
            self.ranges.clear();
        }
        ControlFlow::Continue(())
    }

    fn offer(&mut self, rule: u32) -> ControlFlow<u32> {
        if (self.accept)(&self.rules[rule as usize]) {
            return ControlFlow::Break(rule);
        }
        ControlFlow::Continue(())
    }
}

/// The named groups of `regex` in `path`; one that took no part is empty.
fn captures(regex: &Regex, path: &str) -> Option<Ranges> {
    let groups = regex.captures(path)?;
    let is_named = regex.capture_names().enumerate().filter(|(_, name)| name.is_some());
    Some(
        is_named
            .map(|(group, _)| groups.get(group).map_or((0, 0), |group| range(group.start(), group.end())))
            .collect(),
    )
}

fn range(start: usize, end: usize) -> (u32, u32) {
    let offset = |at| u32::try_from(at).expect("a path of 4 GiB was turned away before the walk");
    (offset(start), offset(end))
}
