//! Routes: each with its match, its policies and its action, and all of them in one router.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderName, header};

use super::super::router::{Router, Rule};
use super::super::{Document, Route};
use super::actions::{action, upstream};
use super::matches::{matcher, path_pattern};
use super::{name, positive};
use crate::action;
use crate::config::issue::Source;
use crate::config::route::{self, PathAllow};
use crate::config::value::Mode;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::template::Params;
use crate::http::grpc;
use crate::http::headers::belongs_to_the_hop;
use crate::http::path::Held;
use crate::http::reserved::Reserved;
use crate::keep::{Identity, Keeper};
use crate::policy::cache::part;
use crate::policy::scope::{Common, Headers, Shared};
use crate::policy::{Blocks, Scope, Stage};
use crate::telemetry::finish::Occupancy;
use crate::upstream::Upstream;

pub(super) fn routes(
    document: &Document,
    source: &Source,
    upstreams: &BTreeMap<String, Option<Arc<Upstream>>>,
    plan: &Common<'_>,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<(Router<Arc<Route>>, Arc<Reserved>)> {
    let metrics = plan.metrics;
    let generation = Arc::new(metrics.generation());
    let mut shared = Shared::default();
    let mut names = HashMap::new();
    let mut rules = Vec::with_capacity(document.routes.len());
    // The rule's place differs from the route's once a route did not compile.
    let mut places = Vec::with_capacity(document.routes.len());
    let mut headers = Headers::default();
    for (place, config) in document.routes.iter().enumerate() {
        let path = KeyPath::root().key("routes").index(place);
        name(&config.name, "route", &path, &mut names, issues);
        let pattern = path_pattern(&config.matches, &path.key("match"), issues);
        let params = pattern.as_ref().map_or_else(Params::unknown, |pattern| Params::known(pattern.names()));
        let matcher = matcher(&config.matches, pattern, source, &path.key("match"), issues);
        let place = |key: &str| {
            let owner = if config.policies.gives(key) { path.clone() } else { KeyPath::root().key("defaults") };
            owner.key("policies").key(key)
        };
        let mut scope = Scope::new(&config.name, &params, plan, keeper, &mut shared, &place, issues);
        let parts = config.aggregate.as_ref().map(|aggregate| aggregate.parts.len());
        let steps = config.saga_in_memory.as_ref().map(|saga| saga.steps.len());
        scope.parts = parts.or(steps).map_or(1, |parts| parts.max(1) as u64);
        let policies = config.policies.or(&document.defaults.policies);
        policies.compile(&mut scope);
        let policies_at = path.key("policies");
        let (chain, said) = scope.finish(&policies_at);
        headers.reserved.extend(said.reserved);
        headers.renamed.extend(said.renamed);
        let timeout = config.timeout(&document.defaults).get();
        let timeout_at =
            if config.timeout.is_some() { path.key("timeout") } else { KeyPath::root().key("defaults").key("timeout") };
        positive(timeout, &timeout_at, issues);
        let deadline_header = deadline_header(config, document, &path, issues);
        let sagas = config
            .saga_in_memory
            .is_some()
            .then(|| keeper.keep(Identity::of("saga", &config.name), Occupancy::default));
        let copies = config
            .proxy
            .as_ref()
            .is_some_and(|proxy| proxy.mirror.is_some())
            .then(|| keeper.keep(Identity::of("mirror", &config.name), Occupancy::default));
        let (exposure, keeping) = (policies.exposure(), RefCell::new(&mut *keeper));
        let around = action::Surroundings {
            route: &config.name,
            params: &params,
            path_allow: allowed(&config.matches.path_allow),
            methods: &config.matches.methods,
            methods_at: path.key("match").key("methods"),
            timeout_at: [path.clone(), KeyPath::root().key("defaults")].map(|owner| owner.key("timeout")),
            timeout,
            deadline_header: deadline_header.clone(),
            class: config.class,
            knows_caller: chain.enforces_at(Stage::Authenticate) || source.is_lost(&place("identity")),
            upstream: &|name, at, issues| {
                let found = upstream(name, at, source, upstreams, issues)?;
                Some(found.of_route(&config.name, &mut keeping.borrow_mut(), metrics))
            },
            cache: &|config, sends, path, issues| {
                let keeper = &mut **keeping.borrow_mut();
                let identity_at = [policies_at.clone(), place("identity")];
                let around = part::Around { plan, exposure: &exposure, keeper, path, identity_at };
                part::compile(config, sends, around, issues)
            },
            metrics,
            sagas,
            copies,
        };
        let action = action(config, &around, &path, issues);
        let name = config.proxy.as_ref().map_or("", |proxy| &proxy.upstream);
        let speaks_http1 = |upstream: &Arc<Upstream>| !upstream.plan.protocol.is_http2();
        if config.policies.grpc_web.on().is_some_and(|block| block.mode != Mode::Off)
            && upstreams.get(name).and_then(Option::as_ref).is_some_and(speaks_http1)
        {
            issues.push(
                Issue::new(
                    path.key("policies").key("grpc_web"),
                    "translates to gRPC, and the upstream speaks HTTP/1.1",
                )
                .related(path.key("proxy").key("upstream"), "this one")
                .goes_by(KeyPath::root().key("upstreams").key(name).key("protocol"))
                .hint("write `protocol: h2c` (or `h2` over TLS) there, or switch this off"),
            );
        }
        let Some(matcher) = matcher else { continue };
        places.push(path);
        let Some(action) = action else {
            rules.push(Rule { matcher, target: None });
            continue;
        };
        let route = Route {
            name: config.name.as_str().into(),
            answers_preflight: chain.enforces("cors"),
            chain,
            action,
            timeout,
            deadline_header,
            path_allow: allowed(&config.matches.path_allow),
            metrics: metrics.route(&config.name),
            generation: generation.clone(),
        };
        rules.push(Rule { matcher, target: Some(Arc::new(route)) });
    }
    let reserved = reserved(&headers, issues);
    match Router::build(rules) {
        Ok(router) => Some((router.complete()?, reserved)),
        Err(conflicts) => {
            for conflict in conflicts {
                let (first, second) = (&places[conflict.first], &places[conflict.second]);
                issues.push(
                    Issue::new(second.key("match"), conflict.kind.message())
                        .related(first.key("match"), "the other one")
                        .hint(conflict.kind.hint()),
                );
            }
            None
        }
    }
}

/// The header in which callers of a route say how long they wait.
fn deadline_header(
    config: &route::Route<Blocks>,
    document: &Document,
    path: &KeyPath,
    issues: &mut Issues,
) -> Option<HeaderName> {
    let text = config.deadline_header(&document.defaults)?;
    let owner = if config.deadline_header.is_some() { path.clone() } else { KeyPath::root().key("defaults") };
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    // What armiger writes itself, and what frames a message, says something else already.
    let is_taken = |name: &HeaderName| {
        [header::HOST, header::AUTHORIZATION, header::COOKIE].contains(name)
            || belongs_to_the_hop(name)
            || *name == grpc::GRPC_TIMEOUT
    };
    if name.as_ref().is_none_or(is_taken) {
        issues.push(
            Issue::new(owner.key("deadline_header"), format!("`{text}` is no name for such a header"))
                .hint("write a name such as `x-request-timeout-ms`; `grpc-timeout` is obeyed as it is"),
        );
        return None;
    }
    name
}

/// The headers that only armiger may write: no route may let a client's text come under such a name.
fn reserved(headers: &Headers, issues: &mut Issues) -> Arc<Reserved> {
    let reserved = Reserved::new(&headers.reserved);
    for (name, path) in headers.renamed.iter().filter(|(name, _)| reserved.holds(name.as_str())) {
        issues.push(
            Issue::new(
                path.clone(),
                format!("a client could write `{name}`, which a route sets from what it knows of the caller"),
            )
            .hint("rename to another name"),
        );
    }
    Arc::new(reserved)
}

fn allowed(list: &[PathAllow]) -> Held {
    let one = |allow: &PathAllow| match allow {
        PathAllow::EncodedSlash => Held::ENCODED_SLASH,
        PathAllow::EncodedNul => Held::ENCODED_NUL,
        PathAllow::Backslash => Held::BACKSLASH,
        PathAllow::Semicolon => Held::SEMICOLON,
    };
    list.iter().map(one).collect()
}
