//! From what the user wrote to what runs: the only place that sees both.
//!
//! Reports everything that is wrong at once. Touches no network and starts no task, so `armiger check` is safe
//! anywhere.

mod actions;
mod listeners;
mod matches;
mod operators;
mod routes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Document, Snapshot};
use crate::config::include::is_pattern;
use crate::config::issue::Source;
use crate::config::{Issue, Issues, KeyPath};
use crate::identity;
use crate::keep::{Keeper, Kept};
use crate::policy::cache::second::second;
use crate::policy::rate_limit;
use crate::policy::scope::Common;
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Plan, Standings, State, Upstream, discovery};
use listeners::listeners;
use operators::{access_log, admin};
use routes::routes;

/// Makes the plan of a document, or tells all that is wrong with it.
///
/// `source` is the file that the document came from: what could not be read of it was reported already, and is not
/// reported again as missing. `keeper` hands over live state; what it has in the end is the snapshot's to hold.
pub fn compile(
    document: Document,
    source: &Source,
    version: u64,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<Snapshot> {
    let root = KeyPath::root();
    let listeners = listeners(&document.listeners, &root.key("listeners"), metrics, keeper, issues);
    admin(&document, &root, issues);
    access_log(&document, &root.key("access_log"), issues);
    let upstreams = upstreams(&document, &root.key("upstreams"), version, metrics, keeper, issues);
    let providers = identity::compile(&document.identity, &root.key("identity"), metrics, keeper, issues, &|path| {
        source.is_lost(path)
    });
    let remote = rate_limit::remote(&document.rate_limits, &root.key("rate_limits"), metrics, keeper, issues);
    let second = second(&document.cache, &root.key("cache"), metrics, keeper, issues);
    let plan = Common {
        version,
        source,
        providers: &providers,
        identity: &document.identity,
        rate_limits: &document.rate_limits,
        remote,
        second,
        cache: &document.cache,
        body_max: document.listeners.iter().map(|listener| listener.limits.body_max).max(),
        metrics,
    };
    let routed = routes(&document, source, &upstreams, &plan, keeper, issues);
    if document.listeners.is_empty() {
        issues.push(
            Issue::new(root.key("listeners"), "names no listener, so nobody could connect")
                .of_absence()
                .hint("add one: `- {name: http, address: 127.0.0.1:8080}`"),
        );
    }
    // What fits a pattern may come later: a sidecar may start before its routes, and outlive them.
    if document.routes.is_empty() && !document.include.iter().any(|entry| is_pattern(entry)) {
        issues.push(
            Issue::new(root.key("routes"), "names no route, so every answer would be a 404")
                .of_absence()
                .hint("add one: `- {name: all, match: {path_prefix: /}, proxy: {upstream: NAME}}`"),
        );
    }
    if !issues.is_empty() {
        return None;
    }
    let (router, reserved) = routed?;
    Some(Snapshot {
        version,
        router,
        reserved,
        listeners,
        upstreams: upstreams.into_values().flatten().collect(),
        providers: providers.into_values().flatten().collect(),
        access_log: document.access_log.clone(),
        kept: Kept::default(),
        hash: String::new(),
        document,
        outside: Vec::new(),
        defaulted: Vec::new(),
    })
}

fn upstreams(
    document: &Document,
    path: &KeyPath,
    version: u64,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> BTreeMap<String, Option<Arc<Upstream>>> {
    let names = discovery::Settings::compile(&document.dns, &KeyPath::root().key("dns"), issues);
    let mut compiled = BTreeMap::new();
    for (key, config) in &document.upstreams {
        let upstream = Plan::compile(config, path.key(key), issues).map(|plan| {
            let state = State::keep(key, config, keeper);
            let standings = Standings::keep(key, &plan, keeper, metrics);
            Upstream::new(key.as_str().into(), version, plan, state, standings, metrics.upstream(key))
                .keep(&names, keeper, metrics)
        });
        compiled.insert(key.clone(), upstream);
    }
    compiled
}

/// A wait of nothing is never meant, and one of years is no bound.
fn positive(duration: Duration, path: &KeyPath, issues: &mut Issues) {
    if duration < Duration::from_millis(1) {
        issues.push(Issue::new(path.clone(), "is too short").hint("the least is 1ms"));
    } else if duration > Duration::from_secs(24 * 3600) {
        issues.push(Issue::new(path.clone(), "is too long").hint("the most is 24h"));
    }
}

/// Checks a name, and that it is used once.
fn name(name: &str, what: &str, path: &KeyPath, seen: &mut HashMap<String, KeyPath>, issues: &mut Issues) {
    let at = path.key("name");
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 100 || !name.bytes().all(fits) {
        issues.push(
            Issue::new(at.clone(), format!("`{name}` is no {what} name"))
                .hint("use 1 to 100 letters, digits, `-`, `_` and `.`: it becomes a label of metrics"),
        );
    }
    if let Some(first) = seen.insert(name.to_owned(), at.clone()) {
        issues.push(
            Issue::new(at, format!("another {what} is called `{name}`"))
                .related(first, "first used here")
                .hint("give each its own name"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Environment, decode_partial};
    use crate::policy::Blocks;

    const LISTENERS: &str = "listeners: [{name: http, address: 127.0.0.1:0}]\n";

    /// A configuration that is applied after `previous`, and what its report says of pools.
    fn after(previous: &Kept, version: u64, upstreams: &str) -> (Option<Snapshot>, Vec<String>) {
        let routes = "routes: [{name: all, match: {path: /}, respond: {}}]";
        let text = format!("{LISTENERS}upstreams:\n{upstreams}{routes}\n");
        let partial = decode_partial::<Blocks>("test", &text, &Environment::process());
        let (mut keeper, mut issues) = (Keeper::after(previous), Issues::new());
        let document = partial.document.unwrap_or_else(|| panic!("{:?}", partial.issues));
        let snapshot = compile(document, &partial.source, version, &Metrics::new(), &mut keeper, &mut issues);
        let (kept, fates) = keeper.finish();
        let told = fates.iter().filter(|fate| fate.kind == "pool").map(ToString::to_string).collect();
        (snapshot.map(|snapshot| Snapshot { kept, ..snapshot }), told)
    }

    #[test]
    fn pools_are_kept_by_the_name_of_their_upstream_and_never_share_a_slot() {
        let (first, told) = after(
            &Kept::default(),
            1,
            "  app: {endpoints: ['http://a']}\n  old: {endpoints: ['http://b']}\n  rpc: {endpoints: ['http://c']}\n",
        );
        let first = first.unwrap();
        assert_eq!(told, ["pool app: new", "pool old: new", "pool rpc: new"]);

        // A configuration that is refused takes nothing away.
        assert!(after(&first.kept, 2, "  app: {endpoints: []}\n").0.is_none());

        let (second, told) = after(
            &first.kept,
            2,
            "  aaa: {endpoints: ['http://b']}\n  app: {endpoints: ['http://a', 'http://d'], timeouts: {idle: 2m}}\n  \
             rpc: {endpoints: ['http://c'], protocol: h2c}\n",
        );
        let second = second.unwrap();
        assert_eq!(
            told,
            [
                "pool aaa: new",
                "pool app: adjusted, endpoints [http://a] -> [http://a, http://d]; timeouts.idle 4s -> 2m",
                "pool rpc: reset, protocol http1 -> h2c",
                "pool old: dropped",
            ]
        );
        let of = |snapshot: &Snapshot, name: &str| {
            let found = snapshot.upstreams.iter().find(|upstream| &*upstream.name == name).unwrap();
            assert_eq!(found.version, snapshot.version);
            found.state.clone()
        };
        assert!(Arc::ptr_eq(&of(&first, "app"), &of(&second, "app")));
        let mut slots: Vec<_> = first.upstreams.iter().map(|upstream| upstream.state.slot()).collect();
        slots.extend(["aaa", "rpc"].map(|name| of(&second, name).slot()));
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3, 4], "as long as both snapshots live");
    }
}
