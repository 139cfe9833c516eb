//! Finds the rule for a request: host, then path, then method, headers, query and cookies.
//!
//! # Which rule wins
//!
//! A rule matches when **all** its conditions hold. Of the rules that match, the most specific one wins; how long its
//! text is, or where it stands in the file, does not count.
//!
//! 1. **Host**: an exact name, then `*.suffix` from the longest to the shortest, then any host.
//!    `*.example.com` matches every name below `example.com`, however deep, but not `example.com` itself.
//! 2. **Path**, segment by segment from the left: at the first segment in which two patterns differ, a literal wins
//!    over `{param}`, and `{param}` over `{rest...}` or a prefix. A pattern that ends where the path ends wins over
//!    `{rest...}` and a prefix.
//!    Regular expressions are asked after all other paths of their host, in the order of the file; the first one whose
//!    conditions hold wins, and what follows here does not apply to them.
//! 3. **Conditions**, among rules of the same host and the same path: a rule that names methods wins over one that
//!    does not; then the one with more conditions on headers, then on query parameters, then on cookies. Last, a rule
//!    that names `HEAD` answers it before one that names `GET` alone, which answers `HEAD` too.
//!
//! A rule that fits by host and path but whose other conditions do not hold is passed over, and the next in this order
//! is asked, through to the rules for any host: all conditions must match, as in the Kubernetes Gateway API. If only
//! the method stood in the way, the answer is 405 with every method that would have done in `Allow`; else it is 404.
//!
//! Two rules that can match the same request, and of which neither is more specific, are an error, and so is a rule
//! that no request can reach. Names of parameters do not make a difference: `/a/{x}` and `/a/{y}` are the same path.
//! Conditions that exclude each other do, such as two values of one header.
//!
//! ```text
//! a.example.com  /orders/{id}        1
//! *.example.com  /orders/latest      2
//! *.example.com  /orders/{id}   GET  3
//! *.example.com  /orders/{id}        4
//! *.example.com  /{rest...}          5
//! *.example.com  ~ /orders/[0-9]+    never: 5 comes first, and takes every path. This is an error
//! (any)          /orders/latest      6
//! ```
//!
//! # Paths
//!
//! The path is the normalised one, the same text that is authorised, cached and forwarded. `/orders` and `/orders/` are
//! two paths. `%2F` in a segment is no boundary. A pattern has at most
//! [`SEGMENTS_MAX`](crate::snapshot::pattern::SEGMENTS_MAX) segments; a path may have any number.
//!
//! # What a lookup costs
//!
//! Hosts and literal segments are found by hash, so the number of rules does not matter. Nothing is allocated, unless
//! a path has more than eight parameters, or a regular expression has named groups or meets an encoded value.
//!
//! Falling through makes the search go back: a node of the tree has two ways on, its literal child and its parameter
//! child. But it is a tree, so there is one way *to* each node, and it is taken at most once per host pattern that
//! fits. A lookup therefore visits at most 2^depth nodes and never more than there are: for the worst of paths, its
//! work is linear in the size of the configuration. To make 2^depth large needs 2^depth rules; the configuration is
//! trusted, a client's path is not and cannot add to it. No memo is needed, since none of the work is done twice.
//! Rules that share one host and path are asked one by one, and so are regular expressions of one host.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;

use foldhash::fast::RandomState;
use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName};
use memchr::memchr;
use regex::Regex;
use smallvec::SmallVec;

use crate::snapshot::pattern::{Coding, End, HostPattern, Methods, PathPattern, Segment, ValueMatch};

// === Rules ===

/// Conditions, and what to give to a request for which they hold.
#[derive(Clone, Debug)]
pub struct Rule<T> {
    /// Which requests.
    pub matcher: Matcher,
    /// What they get.
    pub target: T,
}

/// Conditions on a request, all of which must hold.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// One of these. Empty: any host, also none.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// One of these, where `GET` stands for `HEAD` too. Empty: any method.
    pub methods: Vec<Method>,
    /// Conditions on headers.
    pub headers: Vec<ValueMatch<HeaderName>>,
    /// Conditions on query parameters, percent-decoded, `+` being a space. Names count in their case.
    pub query: Vec<ValueMatch>,
    /// Conditions on cookies, percent-decoded and without the quotes around a value. Names count in their case.
    pub cookies: Vec<ValueMatch>,
}

impl Matcher {
    /// Conditions on nothing but the path.
    pub fn path(path: PathPattern) -> Self {
        Self {
            hosts: Vec::new(),
            path,
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
        }
    }
}

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

// === The request, and what is found ===

/// What a request is routed by.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The host as [`normalise_host`](super::pattern::normalise_host) gives it, empty if there is none.
    pub host: &'a str,
    /// The normalised path.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers, cookies among them.
    pub headers: &'a HeaderMap,
    /// What follows the `?`.
    pub query: Option<&'a str>,
}

/// Where the values of the parameters stand in the path, as byte offsets `(start, end)`.
pub type Ranges = SmallVec<[(u32, u32); 8]>;

/// The rule for a request.
#[derive(Clone, Debug)]
pub struct Lookup<'r, T> {
    /// What the rule gives.
    pub target: &'r T,
    /// The values of its parameters, in the order of [`PathPattern::names`].
    pub params: Ranges,
}

/// No rule is for the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// 404.
    NoRoute,
    /// 405: rules match in all but the method.
    Method(AllowedMethods),
}

/// The methods with which a request would have found a rule. Its `Display` is the value of `Allow`.
pub type AllowedMethods = Methods;

// === The router ===

/// All rules, ready to be asked. See the [module](self) for which of them wins.
// Not `matchit`, although it is fast: it gives the one best pattern for a path. We need the next best as well when a
// header or a method does not fit, and prefixes that match their own bare path.
#[derive(Debug)]
pub struct Router<T> {
    rules: Vec<Compiled<T>>,
    exact: HashMap<Box<str>, Tree, RandomState>,
    suffix: HashMap<Box<str>, Tree, RandomState>,
    any: Tree,
}

/// A rule as it is asked at request time.
#[derive(Debug)]
struct Compiled<T> {
    methods: Option<Methods>,
    headers: Box<[ValueMatch<HeaderName>]>,
    query: Box<[ValueMatch]>,
    cookies: Box<[ValueMatch]>,
    path: PathPattern,
    target: T,
}

/// The paths of one host pattern.
#[derive(Debug)]
struct Tree {
    /// The root is the first.
    nodes: Vec<Node>,
    /// Rules with a regular expression, in the order of the file.
    regexes: Vec<u32>,
}

/// A place in the tree: the segments on the way to it have been matched.
#[derive(Debug, Default)]
struct Node {
    literals: Children,
    param: Option<u32>,
    /// Rules whose pattern ends here, most specific first.
    ends: Vec<u32>,
    /// Rules that take what remains from here, most specific first.
    tails: Vec<Tail>,
}

#[derive(Clone, Copy, Debug)]
struct Tail {
    rule: u32,
    /// A prefix: it needs nothing to remain, not even a slash, and captures nothing.
    is_prefix: bool,
}

/// The literal children of a node, by segment.
#[derive(Debug)]
enum Children {
    /// So few that comparing beats hashing.
    Few(Vec<(Box<str>, u32)>),
    Many(HashMap<Box<str>, u32, RandomState>),
}

const FEW_CHILDREN_MAX: usize = 6;
const ROOT: u32 = 0;

impl<T> Router<T> {
    /// Compiles rules.
    ///
    /// # Errors
    /// All ties and all unreachable rules. Of each tied rule its first tie within a path is listed, not each pair:
    /// a thousand copies of one rule are a thousand conflicts and not half a million.
    pub fn build(rules: Vec<Rule<T>>) -> Result<Self, Vec<Conflict>> {
        let mut router = Self {
            rules: Vec::with_capacity(rules.len()),
            exact: HashMap::default(),
            suffix: HashMap::default(),
            any: Tree::new(),
        };
        for (index, Rule { matcher, target }) in rules.into_iter().enumerate() {
            // Four billion rules do not fit into memory.
            let index = u32::try_from(index).expect("there are fewer than 2^32 rules");
            let hosts: HashSet<HostPattern> = matcher.hosts.into_iter().collect();
            if hosts.is_empty() {
                router.any.insert(index, &matcher.path);
            }
            for host in hosts {
                let (trees, name) = match host {
                    HostPattern::Exact(name) => (&mut router.exact, name),
                    HostPattern::Suffix(name) => (&mut router.suffix, name),
                };
                trees.entry(name.into()).or_insert_with(Tree::new).insert(index, &matcher.path);
            }
            router.rules.push(Compiled {
                methods: (!matcher.methods.is_empty()).then(|| matcher.methods.iter().collect()),
                headers: matcher.headers.into(),
                query: matcher.query.into(),
                cookies: matcher.cookies.into(),
                path: matcher.path,
                target,
            });
        }
        let conflicts = router.sort_and_check();
        if conflicts.is_empty() { Ok(router) } else { Err(conflicts) }
    }

    /// Finds the rule for a request.
    ///
    /// # Errors
    /// [`Missed`], when no rule's conditions all hold.
    pub fn find(&self, query: &Query<'_>) -> Result<Lookup<'_, T>, Missed> {
        let mut ranges = Ranges::new();
        let mut method_was_wrong = false;
        let found = self.each_candidate(query.host, query.path, &mut ranges, &mut |rule| {
            if !rule.allows(query.method) {
                method_was_wrong = true;
                return false;
            }
            rule.conditions_hold(query)
        });
        match found {
            Some(rule) => Ok(Lookup { target: &self.rules[rule as usize].target, params: ranges }),
            None if method_was_wrong => Err(self.missed_by_method(query)),
            None => Err(Missed::NoRoute),
        }
    }

    /// Walks once more for the methods that would have done: only a request that is refused pays for them.
    fn missed_by_method(&self, query: &Query<'_>) -> Missed {
        let mut allowed = Methods::default();
        self.each_candidate(query.host, query.path, &mut Ranges::new(), &mut |rule| {
            if let Some(methods) = &rule.methods
                && rule.conditions_hold(query)
            {
                allowed.add(methods);
            }
            false
        });
        if allowed.is_empty() { Missed::NoRoute } else { Missed::Method(allowed) }
    }

    /// Shows `accept` the rules that fit by host and path, most specific first, until it takes one. Then `ranges` are
    /// that rule's parameters.
    fn each_candidate(
        &self,
        host: &str,
        path: &str,
        ranges: &mut Ranges,
        accept: &mut impl FnMut(&Compiled<T>) -> bool,
    ) -> Option<u32> {
        // `*` of `OPTIONS *` and the empty path of `CONNECT` are no paths.
        if !path.starts_with('/') || u32::try_from(path.len()).is_err() {
            return None;
        }
        let mut walk = Walk { rules: &self.rules, nodes: &[], path, ranges, accept };
        let mut found = ControlFlow::Continue(());
        if !self.exact.is_empty()
            && let Some(tree) = self.exact.get(host)
        {
            found = walk.tree(tree);
        }
        let mut below = if self.suffix.is_empty() { "" } else { host };
        while let (ControlFlow::Continue(()), Some(dot)) = (&found, memchr(b'.', below.as_bytes())) {
            below = &below[dot + 1..];
            if let Some(tree) = self.suffix.get(below) {
                found = walk.tree(tree);
            }
        }
        if found.is_continue() {
            found = walk.tree(&self.any);
        }
        found.break_value()
    }
}

/// The search of one path.
struct Walk<'w, T, F> {
    rules: &'w [Compiled<T>],
    nodes: &'w [Node],
    path: &'w str,
    /// The parameters on the way to the current node. Left as they are when a rule is taken.
    ranges: &'w mut Ranges,
    accept: &'w mut F,
}

impl<'w, T, F: FnMut(&Compiled<T>) -> bool> Walk<'w, T, F> {
    fn tree(&mut self, tree: &'w Tree) -> ControlFlow<u32> {
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

// === Conditions ===

/// What tells rules of the same host and path apart, as the module's text has it.
type Rank = (bool, usize, usize, usize);

impl<T> Compiled<T> {
    fn rank(&self) -> Rank {
        (self.methods.is_some(), self.headers.len(), self.query.len(), self.cookies.len())
    }

    fn allows(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.allows(method))
    }

    fn names_head(&self) -> bool {
        self.methods.as_ref().is_some_and(|methods| methods.names(&Method::HEAD))
    }

    /// Whether all but host, path and method fit.
    fn conditions_hold(&self, query: &Query<'_>) -> bool {
        let header = |condition: &ValueMatch<HeaderName>| {
            let values = query.headers.get_all(&condition.name).into_iter();
            condition.is.holds(values.map(http::HeaderValue::as_bytes), Coding::Plain)
        };
        self.headers.iter().all(header)
            && self.query.iter().all(|condition| {
                condition.is.holds(query_values(query.query.unwrap_or_default(), &condition.name), Coding::Form)
            })
            && self
                .cookies
                .iter()
                .all(|condition| condition.is.holds(cookie_values(query.headers, &condition.name), Coding::Percent))
    }

    /// Whether no request satisfies the conditions of both, but for a `HEAD` that only one of them names: that one
    /// comes first.
    fn is_disjoint(&self, other: &Self) -> bool {
        let methods_differ = match (&self.methods, &other.methods) {
            (Some(one), Some(two)) => !one.share(two),
            _ => false,
        };
        methods_differ
            || ValueMatch::are_disjoint(&self.headers, &other.headers)
            || ValueMatch::are_disjoint(&self.query, &other.query)
            || ValueMatch::are_disjoint(&self.cookies, &other.cookies)
    }

    /// Whether each request that satisfies the conditions of `other`, path aside, satisfies these too.
    fn covers(&self, other: &Self) -> bool {
        let methods_cover = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(one), Some(two)) => one.cover(two),
        };
        methods_cover
            && ValueMatch::cover(&self.headers, &other.headers)
            && ValueMatch::cover(&self.query, &other.query)
            && ValueMatch::cover(&self.cookies, &other.cookies)
    }
}

/// The values of the query parameter `name`, still encoded.
fn query_values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a [u8]> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Coding::Form.is(key.as_bytes(), name).then_some(value.as_bytes())
    })
}

/// The values of the cookie `name`, still encoded, without their quotes (RFC 6265 §4.1.1).
fn cookie_values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let crumbs = headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    crumbs.filter_map(move |crumb| {
        let equals = memchr(b'=', crumb)?;
        let value = crumb[equals + 1..].trim_ascii();
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (crumb[..equals].trim_ascii() == name.as_bytes()).then_some(unquoted.unwrap_or(value))
    })
}

// === Building and checking ===

impl Tree {
    fn new() -> Self {
        Self { nodes: vec![Node::default()], regexes: Vec::new() }
    }

    fn insert(&mut self, rule: u32, path: &PathPattern) {
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
    fn literal_nodes<'t>(&'t self, text: &'t str) -> impl Iterator<Item = &'t Node> {
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
    fn is_empty(&self) -> bool {
        matches!(self, Self::Few(children) if children.is_empty())
    }

    fn get(&self, segment: &str) -> Option<u32> {
        match self {
            Self::Few(children) => children.iter().find(|(text, _)| **text == *segment).map(|(_, child)| *child),
            Self::Many(children) => children.get(segment).copied(),
        }
    }

    fn insert(&mut self, segment: Box<str>, child: u32) {
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

impl<T> Router<Option<T>> {
    /// The same with all targets. None if one is missing: its rule was checked against the others, and nothing more.
    pub fn complete(self) -> Option<Router<T>> {
        let Self { rules, exact, suffix, any } = self;
        let each = rules.into_iter().map(|rule| {
            let Compiled { methods, headers, query, cookies, path, target } = rule;
            Some(Compiled { methods, headers, query, cookies, path, target: target? })
        });
        Some(Router { rules: each.collect::<Option<_>>()?, exact, suffix, any })
    }
}

impl<T> Router<T> {
    /// Puts the rules of each node into their order, and lists those that cannot stand together.
    fn sort_and_check(&mut self) -> Vec<Conflict> {
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

#[cfg(test)]
mod tests;
