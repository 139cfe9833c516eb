//! The paths of one host pattern, as a tree of segments.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use memchr::memchr;

use crate::snapshot::pattern::{End, PathPattern, Segment};

/// The paths of one host pattern.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root is the first.
    pub(super) nodes: Vec<Node>,
    /// Rules with a regular expression, in the order of the file.
    pub(super) regexes: Vec<u32>,
}

/// A place in the tree: the segments on the way to it have been matched.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) literals: Children,
    pub(super) param: Option<u32>,
    /// Rules whose pattern ends here, most specific first.
    pub(super) ends: Vec<u32>,
    /// Rules that take what remains from here, most specific first.
    pub(super) tails: Vec<Tail>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) rule: u32,
    /// A prefix: it needs nothing to remain, not even a slash, and captures nothing.
    pub(super) is_prefix: bool,
}

/// The literal children of a node, by segment.
#[derive(Debug)]
pub(super) enum Children {
    /// So few that comparing beats hashing.
    Few(Vec<(Box<str>, u32)>),
    Many(HashMap<Box<str>, u32, RandomState>),
}

const FEW_CHILDREN_MAX: usize = 6;
pub(super) const ROOT: u32 = 0;

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()], regexes: Vec::new() }
    }

    pub(super) fn insert(&mut self, rule: u32, path: &PathPattern) {
        let is_prefix = match path.end {
            End::Regex(_) => return self.regexes.push(rule),
            End::Exact => None,
            End::Tail => Some(false),
            End::Prefix => Some(true),
        };
        let mut node = ROOT;
        for segment in &path.segments {
            node = self.child(node, segment);
        }
        let node = &mut self.nodes[node as usize];
        match is_prefix {
            None => node.ends.push(rule),
            Some(is_prefix) => node.tails.push(Tail { rule, is_prefix }),
        }
    }

    /// The child of `parent` for `segment`, made if there is none.
    fn child(&mut self, parent: u32, segment: &Segment) -> u32 {
        let new = u32::try_from(self.nodes.len()).expect("there are fewer than 2^32 segments");
        let parent = &mut self.nodes[parent as usize];
        let child = match segment {
            Segment::Param => *parent.param.get_or_insert(new),
            Segment::Literal(text) => match parent.literals.get(text) {
                Some(known) => known,
                None => {
                    parent.literals.insert(text.clone(), new);
                    new
                }
            },
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// The nodes for the leading segments of `text` that a slash follows, from the root on.
    pub(super) fn literal_nodes<'t>(&'t self, text: &'t str) -> impl Iterator<Item = &'t Node> {
        let mut next = Some((ROOT, text));
        std::iter::from_fn(move || {
            let (node, rest) = next?;
            let node = &self.nodes[node as usize];
            next = rest.strip_prefix('/').and_then(|rest| {
                let slash = memchr(b'/', rest.as_bytes())?;
                Some((node.literals.get(&rest[..slash])?, &rest[slash..]))
            });
            Some(node)
        })
    }
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Children {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Few(children) if children.is_empty())
    }

    pub(super) fn get(&self, segment: &str) -> Option<u32> {
        match self {
            Self::Few(children) => children.iter().find(|(text, _)| **text == *segment).map(|(_, child)| *child),
            Self::Many(children) => children.get(segment).copied(),
        }
    }

    pub(super) fn insert(&mut self, segment: Box<str>, child: u32) {
        if let Self::Few(children) = self
            && children.len() == FEW_CHILDREN_MAX
        {
            *self = Self::Many(children.drain(..).collect());
        }
        match self {
            Self::Few(children) => children.push((segment, child)),
            Self::Many(children) => {
                children.insert(segment, child);
            }
        }
    }
}
