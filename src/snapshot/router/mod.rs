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

mod check;
mod condition;
#[cfg(test)]
mod tests;
mod tree;
mod walk;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use foldhash::fast::RandomState;
use http::Method;
use http::header::{HeaderMap, HeaderName};
use memchr::memchr;
use smallvec::SmallVec;

use crate::snapshot::pattern::{HostPattern, Methods, PathPattern, ValueMatch};
pub use check::{Conflict, ConflictKind};
use condition::Compiled;
use tree::Tree;
use walk::Walk;

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
