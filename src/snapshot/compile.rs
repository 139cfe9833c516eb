//! From what the user wrote to what runs: the only place that sees both.
//!
//! Reports everything that is wrong at once. Touches no network and starts no task, so `armiger check` is safe
//! anywhere.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, header};

use super::pattern::{HostPattern, Is, PathPattern, PatternError, ValueMatch};
use super::router::{Matcher, Router, Rule};
use super::{Document, ListenerPlan, ListenerState, Route, Snapshot};
use crate::action::{self, Action, Aggregate, Batch, Proxy, Redirect, Respond, Saga};
use crate::config::include::is_pattern;
use crate::config::issue::Source;
use crate::config::listener::{ClientAddress, ForwardedHeader, Listener};
use crate::config::load::unknown_name;
use crate::config::route::{self, PathAllow};
use crate::config::value::Mode;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::template::Params;
use crate::http::forwarded::{self, NOWHERE, Trust, Via};
use crate::http::grpc;
use crate::http::headers::{COOKIE_NAME_HINT, belongs_to_the_hop, is_cookie_name};
use crate::http::path::Held;
use crate::http::reserved::Reserved;
use crate::identity;
use crate::keep::{Identity, Keeper, Kept};
use crate::policy::cache::part;
use crate::policy::cache::second::second;
use crate::policy::scope::{Common, Headers, Shared};
use crate::policy::{Blocks, Scope, Stage, rate_limit};
use crate::telemetry::finish::Occupancy;
use crate::telemetry::metrics::Metrics;
use crate::tls::server::Server;
use crate::upstream::{Plan, Standings, State, Upstream, discovery};

/// How long an exchange may take where nobody says otherwise.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

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

// === listeners ===

fn listeners(
    configs: &[Listener],
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Vec<Arc<ListenerPlan>> {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    let mut plans = Vec::with_capacity(configs.len());
    for (place, config) in configs.iter().enumerate() {
        let path = path.index(place);
        name(&config.name, "listener", &path, &mut names, issues);
        if config.address.tcp().is_none_or(|address| address.port() != 0)
            && let Some(first) = addresses.insert(config.address.clone(), path.key("address"))
        {
            issues.push(
                Issue::new(path.key("address"), format!("{} is taken by another listener", config.address))
                    .related(first, "taken here")
                    .hint("give each listener an address of its own"),
            );
        }
        if config.trusted_proxies.is_empty() && config.client_address != ClientAddress::default() {
            issues.push(
                Issue::new(path.key("client_address"), "says how trusted proxies name the client, and none is trusted")
                    .goes_by(path.key("trusted_proxies"))
                    .hint("list their networks under `trusted_proxies`, or leave `client_address` out"),
            );
        }
        let mut networks = |texts: &[String], path: KeyPath| {
            let networks = texts.iter().enumerate().filter_map(|(place, text)| {
                forwarded::parse_network(text)
                    .and_then(|network| match network.addr() {
                        NOWHERE if network.prefix_len() == network.max_prefix_len() && text != "unix" => {
                            Err(format!("`{text}` is nobody's address"))
                        }
                        _ => Ok(network),
                    })
                    .map_err(|message| {
                        issues.push(
                            Issue::new(path.index(place), message)
                                .hint("write a network such as `10.0.0.0/8`, an address, or `unix`"),
                        );
                    })
                    .ok()
            });
            networks.collect()
        };
        let balancers = config.proxy_protocol.as_ref().map(|proxy| Trust {
            proxies: networks(&proxy.from, path.key("proxy_protocol").key("from")),
            ..Trust::default()
        });
        let trust = Trust {
            proxies: networks(&config.trusted_proxies, path.key("trusted_proxies")),
            source: match config.client_address.header {
                ForwardedHeader::XForwardedFor => forwarded::Source::XForwardedFor,
                ForwardedHeader::Forwarded => forwarded::Source::Forwarded,
            },
            hops: config.client_address.hops,
        };
        let via = match config.via.as_str() {
            "off" => None,
            name => {
                let via = Via::new(name);
                if via.is_none() {
                    issues.push(
                        Issue::new(path.key("via"), format!("`{name}` cannot stand in `Via`"))
                            .hint("use letters, digits, `-`, `.` and `_`, or `off`"),
                    );
                }
                via
            }
        };
        if config.proxy_protocol.as_ref().is_some_and(|proxy| proxy.from.is_empty()) {
            issues.push(
                Issue::new(path.key("proxy_protocol").key("from"), "names nobody, so every connection would be closed")
                    .of_absence()
                    .hint("list the networks of your load balancer, or leave `proxy_protocol` out"),
            );
        }
        bounds(config, &path, issues);
        let tls = config.tls.as_ref().map(|tls| Server::compile(tls, &config.name, &path.key("tls"), keeper, issues));
        let state = keeper.keep(Identity::of("listener", &config.name), || ListenerState {
            in_flight: Arc::default(),
            metrics: metrics.listener(&config.name),
        });
        let name = config.name.as_str().into();
        plans.push(Arc::new(ListenerPlan {
            config: config.clone(),
            name,
            trust,
            balancers,
            via,
            tls: tls.flatten(),
            state,
        }));
    }
    plans
}

fn bounds(config: &Listener, path: &KeyPath, issues: &mut Issues) {
    let limits = &config.limits;
    let at = path.key("limits");
    for (key, value) in [
        ("connections_max", u64::from(limits.connections())),
        ("headers_max", u64::from(limits.headers_max)),
        ("requests_max", u64::from(limits.requests_max)),
        ("in_flight_max", u64::from(limits.in_flight_max)),
        ("streams_max", u64::from(limits.streams_max)),
        ("handshakes_max", u64::from(limits.handshakes_max)),
    ] {
        if value == 0 {
            issues.push(Issue::new(at.key(key), "is 0, so no request could pass").hint("the least is 1"));
        }
    }
    if limits.headers_max > 1000 {
        issues.push(Issue::new(at.key("headers_max"), "is too many").hint("the most is 1000"));
    }
    for (key, size, least, most) in [
        ("header_bytes_max", limits.header_bytes_max.get(), 1 << 10, 1 << 20),
        ("target_bytes_max", limits.target_bytes_max.get(), 256, 65_534),
    ] {
        if size < least || size > most {
            issues.push(
                Issue::new(at.key(key), "is out of bounds")
                    .hint(format!("choose from {least}B to {}KiB", most.div_ceil(1024))),
            );
        }
    }
    let timeouts = &config.timeouts;
    for (key, duration) in [
        ("proxy_header", timeouts.proxy_header),
        ("handshake", timeouts.handshake),
        ("request_headers", timeouts.request_headers),
        ("body_idle", timeouts.body_idle),
        ("body_rate", timeouts.body_rate),
        ("keep_alive", timeouts.keep_alive),
    ] {
        positive(duration.get(), &path.key("timeouts").key(key), issues);
    }
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

/// The fewest bytes that the admin listener's token may have: no fewer can be called a secret.
const TOKEN_LEAST: usize = 16;

/// The listeners for operators: addresses of their own, and a token that can be sent and is none to guess.
fn admin(document: &Document, root: &KeyPath, issues: &mut Issues) {
    let admin = &document.admin.address;
    let told = (root.key("admin"), "admin listens here, on 127.0.0.1:9901 unless told otherwise");
    if let Some(probes) = &document.probes
        && admin.clashes(&probes.address.into())
    {
        issues.push(
            Issue::new(root.key("probes").key("address"), format!("{} is taken by `admin`", probes.address))
                .related(told.0.clone(), told.1)
                .goes_by(told.0.key("address"))
                .hint("give one of them another port"),
        );
    }
    for (place, listener) in document.listeners.iter().enumerate() {
        let address = &listener.address;
        let at = || root.key("listeners").index(place).key("address");
        if admin.clashes(address) {
            issues.push(
                Issue::new(at(), format!("{address} is taken by `admin`"))
                    .related(told.0.clone(), told.1)
                    .goes_by(told.0.key("address"))
                    .hint("give one of them another port"),
            );
        }
        if document.probes.as_ref().is_some_and(|probes| address.clashes(&probes.address.into())) {
            issues.push(
                Issue::new(at(), format!("{address} is taken by `probes`"))
                    .related(root.key("probes").key("address"), "taken here")
                    .hint("give one of them another port"),
            );
        }
    }
    let Some(token) = document.admin.token.as_ref().map(|token| token.expose()) else { return };
    let at = root.key("admin").key("token");
    if token.len() < TOKEN_LEAST {
        issues.push(
            Issue::new(at, format!("a token of {} bytes is too short", token.len()))
                .hint(format!("the least is {TOKEN_LEAST}; `openssl rand -hex 32` makes a good one")),
        );
    } else if !is_bearer(token) {
        issues.push(
            Issue::new(at, "the token has a character that no `Authorization: Bearer` can hold")
                .hint("use letters, digits and `-._~+/`, with `=` at the end only; `openssl rand -hex 32` makes one"),
        );
    }
}

/// Whether it can stand in `Authorization: Bearer` (`b64token`, RFC 6750 §2.1).
fn is_bearer(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(fits)
}

fn access_log(document: &Document, path: &KeyPath, issues: &mut Issues) {
    let log = &document.access_log;
    if !(0.0..=1.0).contains(&log.sample) {
        issues
            .push(Issue::new(path.key("sample"), format!("{} is no share", log.sample)).hint("choose from 0.0 to 1.0"));
    }
    for (place, name) in log.query.iter().enumerate() {
        let is_credential = |route: &route::Route<Blocks>| {
            let policies = route.policies.or(&document.defaults.policies);
            policies.identity.on().and_then(|identity| identity.from.query.as_ref()) == Some(name)
        };
        if document.routes.iter().any(is_credential) {
            issues.push(
                Issue::new(
                    path.key("query").index(place),
                    format!("shows a credential: `{name}` is where callers send it"),
                )
                .hint("remove it: whoever reads the log could call as they do"),
            );
        }
    }
    for (key, names) in [("headers", &log.headers), ("response_headers", &log.response_headers)] {
        for (place, text) in names.iter().enumerate() {
            if HeaderName::from_bytes(text.as_bytes()).is_err() {
                issues.push(
                    Issue::new(path.key(key).index(place), format!("`{text}` is no header name"))
                        .hint("write a name such as `x-tenant`"),
                );
            }
        }
    }
    let at = path.key("fields");
    if log.fields.is_empty() {
        issues.push(
            Issue::new(at.clone(), "names no field, so lines would say nothing")
                .of_absence()
                .hint("leave it out to have them all, or write `format: \"off\"`"),
        );
    }
    for (place, field) in log.fields.iter().enumerate() {
        if let Some(first) = log.fields[..place].iter().position(|known| known == field) {
            issues.push(
                Issue::new(at.index(place), format!("`{}` stands twice", field.facts().name))
                    .related(at.index(first), "first here")
                    .hint("keep one of them"),
            );
        }
    }
}

// === upstreams ===

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

// === routes ===

fn routes(
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
        let timeout = config.timeout.or(document.defaults.timeout).map_or(TIMEOUT, |timeout| timeout.get());
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
    let (text, owner) = match &config.deadline_header {
        Some(text) => (text, path.clone()),
        None => (document.defaults.deadline_header.as_ref()?, KeyPath::root().key("defaults")),
    };
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

/// The keys of a route that say what it does.
const ACTIONS: [&str; 6] = ["proxy", "aggregate", "batch", "saga_in_memory", "respond", "redirect"];

fn action(
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
fn upstream(
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

// === matches ===

fn matcher(
    config: &route::Match,
    pattern: Option<PathPattern>,
    source: &Source,
    path: &KeyPath,
    issues: &mut Issues,
) -> Option<Matcher> {
    let before = issues.len();
    let hosts = config
        .hosts
        .iter()
        .enumerate()
        .filter_map(|(place, text)| taken(HostPattern::parse(text), || path.key("hosts").index(place), issues));
    let hosts = hosts.collect();
    let mut methods = Vec::with_capacity(config.methods.len());
    for (place, text) in config.methods.iter().enumerate() {
        let at = path.key("methods").index(place);
        match Method::from_bytes(text.as_bytes()) {
            Ok(_) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => issues.push(
                Issue::new(at, format!("`{text}` is not in capitals, and methods are told apart by case"))
                    .hint(format!("write `{}`", text.to_ascii_uppercase())),
            ),
            Ok(method) if method == Method::CONNECT || method == Method::TRACE => {
                issues.push(Issue::new(at, format!("{method} is never passed on")).hint("leave it out"));
            }
            Ok(method) => methods.push(method),
            Err(_) => issues.push(Issue::new(at, format!("`{text}` is no method")).hint("write one such as `GET`")),
        }
    }
    let mut headers = Vec::with_capacity(config.headers.len());
    let mut names: HashMap<String, &String> = HashMap::new();
    for (text, is) in &config.headers {
        let at = path.key("headers").key(text);
        if let Some(first) = names.insert(text.to_ascii_lowercase(), text) {
            issues.push(
                Issue::new(at.clone(), format!("`{text}` and `{first}` are one header: case does not count"))
                    .hint("keep one of them"),
            );
        }
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => headers.extend(value_match(name, is, &at, issues)),
            Err(_) => issues
                .push(Issue::new(at, format!("`{text}` is no header name")).hint("write a name such as `x-tenant`")),
        }
    }
    let values = |key: &str, given: &BTreeMap<String, route::ValueMatch>, issues: &mut Issues| {
        let at = path.key(key);
        given.iter().filter_map(|(name, is)| value_match(name.clone(), is, &at.key(name), issues)).collect()
    };
    let query = values("query", &config.query, issues);
    for name in config.cookies.keys().filter(|name| !is_cookie_name(name)) {
        issues.push(
            Issue::new(path.key("cookies").key(name), format!("`{name}` is no cookie name")).hint(COOKIE_NAME_HINT),
        );
    }
    let cookies = values("cookies", &config.cookies, issues);
    // With a condition less it would seem to match what another route does.
    let is_whole = !source.is_lost(path);
    let path = pattern?;
    (is_whole && issues.len() == before).then_some(Matcher { hosts, path, methods, headers, query, cookies })
}

fn path_pattern(config: &route::Match, path: &KeyPath, issues: &mut Issues) -> Option<PathPattern> {
    let given = [("path", &config.path), ("path_prefix", &config.path_prefix), ("path_regex", &config.path_regex)];
    let mut given = given.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
    let one = |key: &str, text: &str, issues: &mut Issues| {
        let parsed = match key {
            "path" => PathPattern::parse(text),
            "path_prefix" => PathPattern::prefix(text),
            _ => PathPattern::regex(text),
        };
        taken(parsed, || path.key(key), issues)
    };
    let Some((key, text)) = given.next() else {
        issues.push(
            Issue::new(path.clone(), "names no path")
                .of_absence_of(&["path", "path_prefix", "path_regex"])
                .hint("add `path`, `path_prefix` or `path_regex`; `path: \"/{rest...}\"` takes every path"),
        );
        return None;
    };
    let pattern = one(key, text, issues);
    let mut is_alone = true;
    for (other, text) in given {
        is_alone = false;
        issues.push(
            Issue::new(path.key(other), format!("`{other}` beside `{key}`: a match has one path"))
                .related(path.key(key), "the other one")
                .hint("keep one of them"),
        );
        // It may be the one that stays.
        one(other, text, issues);
    }
    pattern.filter(|_| is_alone)
}

fn value_match<N>(name: N, config: &route::ValueMatch, path: &KeyPath, issues: &mut Issues) -> Option<ValueMatch<N>> {
    let given = [
        ("exact", config.exact.is_some()),
        ("prefix", config.prefix.is_some()),
        ("regex", config.regex.is_some()),
        ("present", config.present.is_some()),
    ];
    let given: Vec<&str> = given.into_iter().filter_map(|(key, is_given)| is_given.then_some(key)).collect();
    if given.len() != 1 {
        let message = if given.is_empty() { "says nothing about the value" } else { "says more than one thing" };
        let issue = Issue::new(path.clone(), message);
        let issue =
            if given.is_empty() { issue.of_absence_of(&["exact", "prefix", "regex", "present"]) } else { issue };
        issues.push(issue.hint("give just one of `exact`, `prefix`, `regex` and `present`"));
        // It may be the one that stays.
        if let Some(text) = &config.regex {
            taken(Is::regex(text), || path.key("regex"), issues);
        }
        return None;
    }
    let is = if let Some(text) = &config.exact {
        Is::Exact(text.clone())
    } else if let Some(text) = &config.prefix {
        Is::Prefix(text.clone())
    } else if let Some(text) = &config.regex {
        taken(Is::regex(text), || path.key("regex"), issues)?
    } else if config.present == Some(true) {
        Is::Present
    } else {
        Is::Absent
    };
    Some(ValueMatch { name, is })
}

/// The value, or an issue at its place.
fn taken<T>(result: Result<T, PatternError>, at: impl FnOnce() -> KeyPath, issues: &mut Issues) -> Option<T> {
    result.map_err(|error| issues.push(Issue::new(at(), error.message()).hint(error.hint().to_owned()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Environment, decode_partial};

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
