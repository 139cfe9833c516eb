//! The action of a route: just one, and the upstreams that it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::action::{self, Action, Aggregate, Batch, Proxy, Redirect, Respond, Saga};
use crate::config::issue::Source;
use crate::config::load::unknown_name;
use crate::config::{Issue, Issues, KeyPath, foreign, route};
use crate::policy::Blocks;
use crate::upstream::Upstream;

/// The keys of a route that say what it does.
const ACTIONS: [&str; 6] = ["proxy", "aggregate", "batch", "saga_in_memory", "respond", "redirect"];

pub(super) fn action(
    config: &route::Route<Blocks>,
    around: &action::Surroundings<'_>,
    path: &KeyPath,
    issues: &mut Issues,
) -> Option<Action> {
    let given: Vec<&str> = [
        ("proxy", config.proxy.is_some()),
        ("aggregate", config.aggregate.is_some()),
        ("batch", config.batch.is_some()),
        ("saga_in_memory", config.saga_in_memory.is_some()),
        ("respond", config.respond.is_some()),
        ("redirect", config.redirect.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, is_given)| is_given.then_some(key))
    .collect();
    match given.as_slice() {
        [] => {
            issues.push(
                Issue::new(path.clone(), "says nothing about what to do")
                    .of_absence_of(&ACTIONS)
                    .hint("add one action: `proxy`, `aggregate`, `batch`, `saga_in_memory`, `respond` or `redirect`"),
            );
        }
        [first, rest @ ..] => {
            for &key in rest {
                issues.push(
                    Issue::new(path.key(key), format!("`{key}` beside `{first}`: a route does one thing"))
                        .related(path.key(*first), "the other action")
                        .hint("keep one of them"),
                );
            }
        }
    }
    let texts = [
        (config.proxy.as_ref().and_then(|proxy| proxy.rewrite.as_deref()), path.key("proxy").key("rewrite")),
        (config.redirect.as_ref().map(|redirect| redirect.to.as_str()), path.key("redirect").key("to")),
    ];
    for (text, at) in texts {
        if let Some((variable, hint)) = text.and_then(foreign::in_path) {
            issues.push(Issue::new(at, format!("`{variable}` is no variable here")).hint(hint));
        }
    }
    // Of several each is looked at all the same: it may be the one that stays.
    let proxy =
        config.proxy.as_ref().map(|proxy| Proxy::compile(proxy, around, &path.key("proxy"), issues).map(Action::Proxy));
    let aggregate = config
        .aggregate
        .as_ref()
        .map(|aggregate| Aggregate::compile(aggregate, around, &path.key("aggregate"), issues).map(Action::Aggregate));
    let batch =
        config.batch.as_ref().map(|batch| Batch::compile(batch, around, &path.key("batch"), issues).map(Action::Batch));
    let saga = config
        .saga_in_memory
        .as_ref()
        .map(|saga| Saga::compile(saga, around, &path.key("saga_in_memory"), issues).map(Action::Saga));
    let respond = config
        .respond
        .as_ref()
        .map(|respond| Respond::compile(respond, &path.key("respond"), issues).map(Action::Respond));
    let redirect = config.redirect.as_ref().map(|redirect| {
        Redirect::compile(redirect, around.params, &path.key("redirect"), issues).map(Action::Redirect)
    });
    proxy.or(aggregate).or(batch).or(saga).or(respond).or(redirect).flatten().filter(|_| given.len() == 1)
}

/// The upstream of this name. None, and an issue at that place, if there is none; none alone if it is not in order.
pub(super) fn upstream(
    name: &str,
    at: KeyPath,
    source: &Source,
    upstreams: &BTreeMap<String, Option<Arc<Upstream>>>,
    issues: &mut Issues,
) -> Option<Arc<Upstream>> {
    if let Some(upstream) = upstreams.get(name) {
        return upstream.clone();
    }
    if !source.is_lost(&KeyPath::root().key("upstreams").key(name)) {
        let mut issue = unknown_name(at, "upstream", name, upstreams.keys().map(String::as_str));
        if !upstreams.is_empty() {
            issue = issue.related(KeyPath::root().key("upstreams"), "upstreams stand here");
        }
        issues.push(issue);
    }
    None
}
