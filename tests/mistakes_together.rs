//! Two mistakes in one entry of a list or mapping: `armiger check` tells both, and nothing that only follows from one.

use armiger::app::{Source, check};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;

/// Where a text stands in a file that is good but for it.
#[derive(Clone, Copy, Debug)]
enum In {
    Listeners,
    Upstream,
    Provider,
    Policies,
    Route,
    /// Beside listeners and upstreams.
    Rest,
    /// It is all of the file.
    File,
}

const LISTENERS: &str = "listeners: [{name: http, address: \"127.0.0.1:0\"}]\n";
const UPSTREAMS: &str = "upstreams: {app: {endpoints: [\"http://127.0.0.1:1\"]}}\n";
const ROUTES: &str = "routes: [{name: all, match: {path: \"/{rest...}\"}, proxy: {upstream: app}}]\n";

impl In {
    fn file(self, text: &str) -> String {
        let route = |keys: String| {
            format!("{LISTENERS}{UPSTREAMS}routes:\n  - {{name: all, match: {{path: \"/{{id}}\"}}, {keys}}}\n")
        };
        match self {
            Self::Listeners => format!("listeners: [{text}]\n{UPSTREAMS}{ROUTES}"),
            Self::Upstream => format!("{LISTENERS}upstreams: {{app: {{{text}}}}}\n{ROUTES}"),
            Self::Provider => format!("{LISTENERS}{UPSTREAMS}identity: {{staff: {{{text}}}}}\n{ROUTES}"),
            Self::Policies => route(format!("policies: {{{text}}}, respond: {{}}")),
            Self::Route => route(text.to_owned()),
            Self::Rest => format!("{LISTENERS}{UPSTREAMS}{text}\n"),
            Self::File => format!("{text}\n"),
        }
    }
}

/// The paths of what is wrong with a file, in its order, each with its message.
fn told(text: String) -> Vec<(String, String)> {
    let source = Source::Text { name: "mistakes.yaml".into(), text };
    let machine = Machine { processors: 1, memory: None, files: None };
    let Err(report) = check(&source, &machine, 1, &Metrics::new(), Keeper::fresh()) else { return Vec::new() };
    report
        .marks()
        .map(|mark| {
            assert!(mark.hint.is_some_and(|hint| !hint.is_empty()), "no remedy for {mark:?}");
            (mark.path.to_owned(), mark.message.to_owned())
        })
        .collect()
}

#[test]
fn both_mistakes_of_an_entry_are_told_and_none_that_follows() {
    for (place, text, expected) in MISTAKES {
        let file = place.file(text);
        let told = told(file.clone());
        let places: Vec<&str> = told.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(places, *expected, "{file}\n{told:#?}");
    }
}

/// Texts, and the places of what is wrong there.
const MISTAKES: &[(In, &str, &[&str])] = &[
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:1"}, {name: a, address: nonsense}"#,
        &["listeners[1].name", "listeners[1].address"],
    ),
    (
        In::Listeners,
        "{name: a, address: nonsense, limits: {headers_max: 0}}",
        &["listeners[0].address", "listeners[0].limits.headers_max"],
    ),
    (
        In::Listeners,
        r#"{address: "127.0.0.1:1", trusted_proxies: [zz]}"#,
        &["listeners[0]", "listeners[0].trusted_proxies[0]"],
    ),
    (In::Listeners, r#"{name: a, via: "x y"}"#, &["listeners[0]", "listeners[0].via"]),
    (
        In::Listeners,
        r#"{name: [a], address: "127.0.0.1:1", timeouts: {keep_alive: 0s}}"#,
        &["listeners[0].name", "listeners[0].timeouts.keep_alive"],
    ),
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:9901", timeouts: {keep_alive: 5}}"#,
        &["listeners[0].address", "listeners[0].timeouts.keep_alive"],
    ),
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:1"}, {address: "127.0.0.1:1"}"#,
        &["listeners[1]", "listeners[1].address"],
    ),
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:0", tls: {client_auth: {ca: x}}}"#,
        &["listeners[0].tls", "listeners[0].tls.client_auth.ca"],
    ),
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:0", tls: {certificates: [{certificate: x}]}}"#,
        &["listeners[0].tls.certificates[0]", "listeners[0].tls.certificates[0].certificate"],
    ),
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:0", tls: {certificates: [{certificate: x, key: "${env:ARMIGER_TEST_NOT_SET:-/srv}"}], client_auth: {crl: y}}}"#,
        &[
            "listeners[0].tls.certificates[0].certificate",
            "listeners[0].tls.certificates[0].key",
            "listeners[0].tls.client_auth",
            "listeners[0].tls.client_auth.crl",
        ],
    ),
    (
        In::Listeners,
        r#"{name: a, address: "127.0.0.1:0", proxy_protocol: {}, trusted_proxies: [zz]}"#,
        &["listeners[0].proxy_protocol", "listeners[0].trusted_proxies[0]"],
    ),
    (
        In::Listeners,
        r#"{}, {}, {name: a}, {address: "127.0.0.1:5"}"#,
        &["listeners[0]", "listeners[1]", "listeners[2]", "listeners[3]"],
    ),
    (In::Listeners, r#"{name: a, address: "127.0.0.1:5", tls: {}}"#, &["listeners[0].tls"]),
    (In::Listeners, r#"{name: a, address: "127.0.0.1:5", proxy_protocol: {}}"#, &["listeners[0].proxy_protocol"]),
    (
        In::Listeners,
        r#"{name: a, address: "unix:/a", trusted_proxies: [0.0.0.0, 10.1.2.3/8], proxy_protocol: {from: [0.0.0.0/32, unix]}}"#,
        &["listeners[0].trusted_proxies[0]", "listeners[0].trusted_proxies[1]", "listeners[0].proxy_protocol.from[0]"],
    ),
    (In::Upstream, "pool: {connections_max: 0}", &["upstreams.app", "upstreams.app.pool.connections_max"]),
    (
        In::Upstream,
        r#"endpoints: ["htp://x"], timeouts: {connect: 5}"#,
        &["upstreams.app.endpoints[0]", "upstreams.app.timeouts.connect"],
    ),
    (
        In::Upstream,
        "endpoints: [[a]], weights: [0, 1], retry: {attempts: 1}",
        &["upstreams.app.endpoints[0]", "upstreams.app.weights[0]", "upstreams.app.retry.attempts"],
    ),
    (
        In::Upstream,
        r#"endpoints: ["https://x"], protocol: h3, tls: {server_name: "a b"}"#,
        &["upstreams.app.protocol", "upstreams.app.tls.server_name"],
    ),
    (In::Upstream, r#"endpoints: ["http://x"], health: {interval: 0s}"#, &["upstreams.app.health.interval"]),
    (
        In::Upstream,
        r#"endpoints: ["http://x"], breaker: {trip: {ratio: 5.0}, window: {length: 5}}"#,
        &["upstreams.app.breaker.trip.ratio", "upstreams.app.breaker.window.length"],
    ),
    (
        In::Upstream,
        r#"endpoints: ["http://x"], retry: {attempts: many, when: [], per_try: 0s}"#,
        &["upstreams.app.retry.attempts", "upstreams.app.retry.when", "upstreams.app.retry.per_try"],
    ),
    (
        In::Upstream,
        r#"endpoints: ["http://x"], hedge: {percentile: 2.0, floor: 5}"#,
        &["upstreams.app.hedge.percentile", "upstreams.app.hedge.floor"],
    ),
    (
        In::Upstream,
        r#"endpoints: ["https://x"], tls: {certificate: x, ca: y}"#,
        &["upstreams.app.tls.certificate", "upstreams.app.tls.certificate", "upstreams.app.tls.ca"],
    ),
    (
        In::Provider,
        "jwt: {keys: {pem: [x]}}",
        &["identity.staff.jwt", "identity.staff.jwt", "identity.staff.jwt.keys.pem[0]"],
    ),
    (
        In::Provider,
        "jwt: {issuer: x, audiences: [a], leeway: 1h}",
        &["identity.staff.jwt", "identity.staff.jwt.leeway"],
    ),
    (
        In::Provider,
        "jwt: {issuer: [x], audiences: [a], algorithms: [nope], keys: {jwks_url: nope}}",
        &["identity.staff.jwt.issuer", "identity.staff.jwt.algorithms[0]", "identity.staff.jwt.keys.jwks_url"],
    ),
    (
        In::Provider,
        r#"introspection: {client_id: a, client_secret: "${env:ARMIGER_TEST_NOT_SET:-/srv}", audiences: [x], in_flight_max: 0}"#,
        &["identity.staff.introspection", "identity.staff.introspection.in_flight_max"],
    ),
    (
        In::Provider,
        "introspection: {url: nope, client_id: a, client_secret: plain, audiences: [x]}",
        &["identity.staff.introspection.url", "identity.staff.introspection.client_secret"],
    ),
    (
        In::Provider,
        r#"api_keys: {keys: [{subject: ""}, {hash: nope}]}"#,
        &[
            "identity.staff.api_keys.keys[0]",
            "identity.staff.api_keys.keys[0].subject",
            "identity.staff.api_keys.keys[1]",
            "identity.staff.api_keys.keys[1].hash",
        ],
    ),
    (In::Provider, "jwt: {issuer: x, audiences: [a]}", &["identity.staff.jwt"]),
    (
        In::Provider,
        r#"jwt: {issuer: x, audiences: [a], keys: {jwks_ulr: "https://x/"}}"#,
        &["identity.staff.jwt.keys.jwks_ulr"],
    ),
    (
        In::Provider,
        r#"introspection: {client_id: [a], client_secret: "${env:ARMIGER_TEST_NOT_SET:-/srv}", url: [x], any_audience: true}"#,
        &["identity.staff.introspection.client_id", "identity.staff.introspection.url"],
    ),
    (
        In::Provider,
        "api_keys: {keys: [{subject: a}, {subject: b}, {hash: [1]}]}",
        &[
            "identity.staff.api_keys.keys[0]",
            "identity.staff.api_keys.keys[1]",
            "identity.staff.api_keys.keys[2]",
            "identity.staff.api_keys.keys[2].hash",
        ],
    ),
    (
        In::Upstream,
        "protocol: h2, tls: {server_name: a}, weights: [1, 2], hedge: {}, retry: {attempts: 3}, ejection: {}",
        &["upstreams.app"],
    ),
    (
        In::Upstream,
        "endpoints: {a: b}, protocol: h2, tls: {server_name: a}, weights: [1, 2]",
        &["upstreams.app.endpoints"],
    ),
    (In::Provider, "mtls: {names: [[x]]}", &["identity.staff.mtls.names[0]"]),
    (
        In::Policies,
        r#"headers: {request: {set: {x-a: [1]}, remove: ["a b"]}}"#,
        &["routes[0].policies.headers.request.set.x-a", "routes[0].policies.headers.request.remove[0]"],
    ),
    (In::Policies, "cors: {methods: [get]}", &["routes[0].policies.cors", "routes[0].policies.cors.methods[0]"]),
    (
        In::Policies,
        "body_limit: {}, ip_filter: {allow: [zz]}",
        &["routes[0].policies.body_limit", "routes[0].policies.ip_filter.allow[0]"],
    ),
    (
        In::Policies,
        "cache: {ttl: {default: 5}, vary_by: [nope], entry_max: 1GiB}",
        &[
            "routes[0].policies.cache.ttl.default",
            "routes[0].policies.cache.vary_by[0]",
            "routes[0].policies.cache.entry_max",
        ],
    ),
    (
        In::Policies,
        "rate_limit: [{name: a, by: [nope]}]",
        &["routes[0].policies.rate_limit[0]", "routes[0].policies.rate_limit[0].by[0]"],
    ),
    (
        In::Policies,
        "rate_limit: [{rate: 1/s, burst: 0}]",
        &["routes[0].policies.rate_limit[0]", "routes[0].policies.rate_limit[0].burst"],
    ),
    (
        In::Policies,
        "rate_limit: [{name: a, rate: 1/s}, {name: a, rate: x}]",
        &["routes[0].policies.rate_limit[1].name", "routes[0].policies.rate_limit[1].rate"],
    ),
    (
        In::Policies,
        "rate_limit: [{name: a, rate: 1/s, ban: {after: 0}}]",
        &["routes[0].policies.rate_limit[0].ban", "routes[0].policies.rate_limit[0].ban.after"],
    ),
    (
        In::Policies,
        "rate_limit: [{name: a, rate: 1/s, overrides: {rates: {g: {rate: zz}, h: {rate: 1/s, burst: 0}}}}]",
        &[
            "routes[0].policies.rate_limit",
            "routes[0].policies.rate_limit[0].overrides",
            "routes[0].policies.rate_limit[0].overrides.rates.g.rate",
            "routes[0].policies.rate_limit[0].overrides.rates.h.burst",
        ],
    ),
    (
        In::Policies,
        "in_flight: [{name: a, by: [nope]}]",
        &["routes[0].policies.in_flight[0]", "routes[0].policies.in_flight[0].by[0]"],
    ),
    (
        In::Policies,
        "in_flight: [{name: a, max: 1, queue: {max: 9999999}}]",
        &["routes[0].policies.in_flight[0].queue", "routes[0].policies.in_flight[0].queue.max"],
    ),
    (
        In::Policies,
        "in_flight: [{max: 0}, {name: b, max: 1}, {name: b, max: many}]",
        &[
            "routes[0].policies.in_flight[0]",
            "routes[0].policies.in_flight[0].max",
            "routes[0].policies.in_flight[2].name",
            "routes[0].policies.in_flight[2].max",
        ],
    ),
    (
        In::Policies,
        r#"rules: [{deny: "clams.x"}, {name: [1], deny: "rols"}]"#,
        &["routes[0].policies.rules[0].deny", "routes[0].policies.rules[1].name", "routes[0].policies.rules[1].deny"],
    ),
    (
        In::Policies,
        "roles: {any: [[a]], all: [b]}, identity: {caller: nope}",
        &["routes[0].policies.roles.any[0]", "routes[0].policies.identity", "routes[0].policies.identity.caller"],
    ),
    (
        In::Policies,
        "compress: {codings: [zz], types: [nope], at_once_max: 0}",
        &[
            "routes[0].policies.compress.codings[0]",
            "routes[0].policies.compress.types[0]",
            "routes[0].policies.compress.at_once_max",
        ],
    ),
    (In::Policies, "rate_limit: [{name: a, rate: zz, cost: 5}]", &["routes[0].policies.rate_limit[0].rate"]),
    (
        In::Policies,
        "rate_limit: [{name: a, cost: 50, ipv6_prefix: 64, ban: {after: 5, within: 10s, for: zz}}]",
        &["routes[0].policies.rate_limit[0]", "routes[0].policies.rate_limit[0].ban.for"],
    ),
    (
        In::Policies,
        "in_flight: [{name: a, max: zz, queue: {max: 5, wait: 1s}}]",
        &["routes[0].policies.in_flight[0].max"],
    ),
    (
        In::Policies,
        "body_limit: {max: zz}, cache: {ttl: {default: 5s}, entry_max: 1MiB}",
        &["routes[0].policies.body_limit.max"],
    ),
    (In::Policies, "cors: {credentials: true}", &["routes[0].policies.cors"]),
    (
        In::Policies,
        r#"rate_limit: [{rate: 1/s}, {rate: 1/s}], in_flight: [{max: 1}, {max: 1}], rules: [{deny: "true"}, {deny: "false"}]"#,
        &[
            "routes[0].policies.rate_limit[0]",
            "routes[0].policies.rate_limit[1]",
            "routes[0].policies.in_flight[0]",
            "routes[0].policies.in_flight[1]",
            "routes[0].policies.rules",
        ],
    ),
    (In::Route, "proxy: {rewrite: nope}", &["routes[0].proxy", "routes[0].proxy.rewrite"]),
    (
        In::Route,
        "proxy: {upstream: [app], mirror: {share: 3.0}}",
        &["routes[0].proxy.upstream", "routes[0].proxy.mirror", "routes[0].proxy.mirror.share"],
    ),
    (
        In::Route,
        "proxy: {upstream: app, mirror: {share: 3.0}}",
        &["routes[0].proxy.mirror", "routes[0].proxy.mirror.share"],
    ),
    (
        In::Route,
        "proxy: {upstream: app, fallback: {upstream: nope, status: [99]}}",
        &["routes[0].proxy.fallback.upstream", "routes[0].proxy.fallback.status[0]"],
    ),
    (In::Route, "redirect: {status: 200}", &["routes[0].redirect", "routes[0].redirect.status"]),
    (In::Route, "timeout: 5, deadline_header: host, respond: {}", &["routes[0].timeout", "routes[0].deadline_header"]),
    (
        In::Route,
        r#"aggregate: {parts: {a: {path: nope}, b: {upstream: app, path: "/{parts.zz.body}"}}}"#,
        &["routes[0].aggregate.parts.a", "routes[0].aggregate.parts.a.path", "routes[0].aggregate.parts.b.path"],
    ),
    (
        In::Route,
        "aggregate: {parts: {a: {upstream: nope}, b: {upstream: app, path: /, after: [a, zz]}}}",
        &[
            "routes[0].aggregate.parts.a",
            "routes[0].aggregate.parts.a.upstream",
            "routes[0].aggregate.parts.b.after[1]",
        ],
    ),
    (
        In::Route,
        "aggregate: {parts: {a: {upstream: app, path: /, timeout: 5, when: nope}}}",
        &["routes[0].aggregate.parts.a.timeout", "routes[0].aggregate.parts.a.when"],
    ),
    (In::Route, "aggregate: {concurrency: 0}", &["routes[0].aggregate", "routes[0].aggregate.concurrency"]),
    (
        In::Route,
        "aggregate: {deadline: 5, errors_as: a, parts: {a: {upstream: app}}}",
        &["routes[0].aggregate.deadline", "routes[0].aggregate.parts.a", "routes[0].aggregate.parts.a"],
    ),
    (
        In::Route,
        "respond: {status: 5, headers: {connection: x, y: [1]}}",
        &["routes[0].respond.status", "routes[0].respond.headers.connection", "routes[0].respond.headers.y"],
    ),
    (
        In::Route,
        r#"policies: {identity: {providers: [staff]}, rate_limit: [{name: a, rate: 10/s, cost: 5, overrides: {claim: p, rates: {g: {rate: zz}}}}]}, respond: {}}
identity: {staff: {jwt: {issuer: x, audiences: [a], keys: {jwks_url: "https://x/"}}}"#,
        &["routes[0].policies.rate_limit[0].overrides.rates.g.rate"],
    ),
    (
        In::Route,
        "proxy: {upstream: [app], fallback: {upstream: app}, mirror: {upstream: app}}",
        &["routes[0].proxy.upstream"],
    ),
    (In::Route, "redirect: {}", &["routes[0].redirect"]),
    (In::Route, "redirect: {to: [a]}", &["routes[0].redirect.to"]),
    (
        In::Route,
        "aggregate: {errors_as: x, parts: {a: {path: /}, b: {upstream: app, path: [x], after: [a]}, c: {upstream: app, path: /, body: 5}}}",
        &["routes[0].aggregate.parts.a", "routes[0].aggregate.parts.b.path", "routes[0].aggregate.parts.c.body"],
    ),
    (
        In::Route,
        "aggregate: {merge: {mode: flat}, parts: {a: {upstream: [x], path: /}, b: {upstream: app, path: 5, cache: {}, fallback: {stale: 5s}}}}",
        &["routes[0].aggregate.parts.a.upstream", "routes[0].aggregate.parts.b.path"],
    ),
    (In::Route, "aggregate: {}", &["routes[0].aggregate"]),
    (In::Route, "proxy: {}", &["routes[0].proxy"]),
    (In::Route, "policies: {grpc_web: {}}, proxy: {upstream: [x]}", &["routes[0].proxy.upstream"]),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
probes: {address: zz}
admin: {token: "${env:ARMIGER_TEST_NOT_SET:-/srv}"}"#,
        &["probes.address", "admin.token"],
    ),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
access_log: {sample: 2.0, fields: [nope], headers: ["a b"]}"#,
        &["access_log.sample", "access_log.fields[0]", "access_log.headers[0]"],
    ),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
dns: {servers: [zz], timeout: 5}"#,
        &["dns.servers[0]", "dns.timeout"],
    ),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
rate_limits: {redis: {prefix: "", timeout: 1h}}"#,
        &["rate_limits.redis", "rate_limits.redis.prefix", "rate_limits.redis.timeout"],
    ),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
cache: {memory: 1B, redis: {timeout: 1h}}"#,
        &["cache.redis", "cache.redis.timeout"],
    ),
    (
        In::Rest,
        r#"identity: {staff: {jwt: {audiences: [a], keys: {jwks_url: "https://x/"}}}}
routes: [{name: a, match: {path: /}, policies: {identity: {providers: [staff, nope]}, roles: {any: [a]}}, respond: {}}]"#,
        &["identity.staff.jwt", "routes[0].policies.identity.providers[1]"],
    ),
    (In::Rest, "routes: [{match: {path: /}, proxy: {upstream: nope}}]", &["routes[0]", "routes[0].proxy.upstream"]),
    (In::Rest, "routes: [{name: a, proxy: {upstream: nope}}]", &["routes[0]", "routes[0].proxy.upstream"]),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a}, respond: {}}, {name: a, respond: {}}]",
        &["routes[1]", "routes[1].name"],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: /a, respond: {status: 5}}]",
        &["routes[0].match", "routes[0].respond.status"],
    ),
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: /a, methods: [[x]], hosts: ["a b"], headers: {x: {exat: 1}}}, respond: {}}]"#,
        &["routes[0].match.methods[0]", "routes[0].match.hosts[0]", "routes[0].match.headers.x.exat"],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a}, respond: {}}, {name: b, match: {path: /a}, proxy: {upstrem: app}}]",
        &["routes[1].match", "routes[1].proxy.upstrem"],
    ),
    (
        In::Rest,
        "routes: [{match: {path: /a}, respond: {}}, {name: b, match: {path: /a}, respond: {}}]",
        &["routes[0]", "routes[1].match"],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a, methods: [POST]}, saga_in_memory: {in_flight_max: 0}}]",
        &["routes[0].saga_in_memory", "routes[0].saga_in_memory.in_flight_max"],
    ),
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: /a, methods: [POST]}, saga_in_memory: {steps: {one: {path: nope, compensate: {upstream: zz}}, two: {upstream: app, path: "/{steps.one.body.x}", timeout: 5, compensate: off}}}}]"#,
        &[
            "routes[0].saga_in_memory.steps.one",
            "routes[0].saga_in_memory.steps.one.path",
            "routes[0].saga_in_memory.steps.one.compensate",
            "routes[0].saga_in_memory.steps.one.compensate.upstream",
            "routes[0].saga_in_memory.steps.two.timeout",
        ],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a, methods: [POST]}, batch: {items_max: 0, deadline: 5}}]",
        &["routes[0].batch.items_max", "routes[0].batch.deadline"],
    ),
    (
        In::Rest,
        r#"identity: {a: {jwt: {audiences: [a], keys: {jwks_url: "https://x/"}}}, b: {jwt: {issuer: [y], audiences: [a], keys: {jwks_url: "https://x/"}}}}
routes: [{name: a, match: {path: /}, policies: {identity: {providers: [a, b]}}, respond: {}}]"#,
        &["identity.a.jwt", "identity.b.jwt.issuer"],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a, methods: [POST]}, saga_in_memory: {steps: {one: {upstream: app, path: [x], compensate: {}}, two: {path: /, compensate: off}}}}]",
        &[
            "routes[0].saga_in_memory.steps.one.path",
            "routes[0].saga_in_memory.steps.one.compensate",
            "routes[0].saga_in_memory.steps.two",
        ],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a, methods: [POST]}, saga_in_memory: {}}]",
        &["routes[0].saga_in_memory"],
    ),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
probes: {}"#,
        &["probes"],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /}, policies: {rate_limit: [{name: a, rate: 1/s, store: redis}], cache: {ttl: {default: 5s}, l2: redis}}, respond: {}}]\nrate_limits: {redis: {}}\ncache: {redis: {}}",
        &["rate_limits.redis", "cache.redis"],
    ),
    (
        In::Rest,
        r#"routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
drain: {timeout: 5}
log: {level: nope}
foo: 1"#,
        &["drain.timeout", "log.level", "foo"],
    ),
    (
        In::File,
        r#"upstreams: {app: {endpoints: ["http://127.0.0.1:1"]}}
routes: [{name: a, match: {path: /}, proxy: {upstream: nope}}]"#,
        &["", "routes[0].proxy.upstream"],
    ),
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {a: {endpoints: ["htp://x"]}}"#,
        &["", "upstreams.a.endpoints[0]"],
    ),
    (
        In::File,
        r#"listeners: [{name: a, address: "127.0.0.1:9901"}]
admin: {adress: "127.0.0.1:9902"}
upstreams: {app: {endpoints: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]"#,
        &["admin.adress"],
    ),
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {app: 5}
routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]"#,
        &["upstreams.app"],
    ),
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {app: {endpoints: ["htp://x"]}}
routes: [{name: a, match: {path: /}, proxy: {upstream: app, rewrite: nope, mirror: {upstream: zz, share: 9.0}}}]"#,
        &[
            "upstreams.app.endpoints[0]",
            "routes[0].proxy.rewrite",
            "routes[0].proxy.mirror.upstream",
            "routes[0].proxy.mirror.share",
        ],
    ),
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {app: {endpoint: ["http://x"]}}
routes: [{name: all, match: {path: /x}, proxy: {upstream: app, fallback: {upstream: app}}}]"#,
        &["upstreams.app.endpoint", "routes[0].proxy.fallback.upstream"],
    ),
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {app: {protocol: http1}}
routes: [{name: all, match: {path: /x}, policies: {grpc_web: {}}, proxy: {upstream: app}}]"#,
        &["upstreams.app"],
    ),
    // A deadline that is compared with a timeout, and that one cannot be read.
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {app: {endpoints: ["http://127.0.0.1:1"]}}
defaults: {timeout: soon}
routes:
  - {name: a, match: {path: /a, methods: [POST]}, timeout: 1, saga_in_memory: {deadline: 40s, steps: {one: {upstream: app, path: /, compensate: off}}}}
  - {name: b, match: {path: /b, methods: [POST]}, batch: {deadline: 40s}}
  - {name: c, match: {path: /c}, timeout: {}, aggregate: {deadline: 40s, parts: {one: {upstream: app, path: /}}}}
  - {name: d, match: {path: /d, methods: [POST]}, timeout: 0s, batch: {}}
  - {name: e, match: {path: /e, methods: [POST]}, timeout: 0s, saga_in_memory: {steps: {one: {upstream: app, path: /, compensate: off}}}}"#,
        &["defaults.timeout", "routes[0].timeout", "routes[2].timeout", "routes[3].timeout", "routes[4].timeout"],
    ),
    (In::Policies, "rules: [{name: a}, {name: b, deny: \"true\"}]", &["routes[0].policies.rules[0]"]),
    // Whoever calls, or by which method, cannot be read.
    (In::Policies, "identity: nope, roles: {any: [a]}, scopes: {any: [b]}", &["routes[0].policies.identity"]),
    (
        In::Route,
        r#"policies: {identity: nope}, aggregate: {parts: {a: {upstream: app, path: /, cache: {vary_by: ["claim:sub"]}}}}"#,
        &["routes[0].policies.identity"],
    ),
    (
        In::Rest,
        r#"defaults: {policies: {identity: nope}}
routes: [{name: a, match: {path: /a}, aggregate: {parts: {a: {upstream: app, path: /, cache: {vary_by: ["claim:sub"]}}}}}]"#,
        &["defaults.policies.identity"],
    ),
    // Where nobody says who calls, that is the cause.
    (
        In::Route,
        r#"aggregate: {parts: {a: {upstream: app, path: /, cache: {vary_by: ["claim:sub"]}}}}"#,
        &["routes[0].aggregate.parts.a.cache"],
    ),
    (
        In::Rest,
        "routes: [{name: a, match: {path: /a, methods: post}, batch: {items_max: 0}}]",
        &["routes[0].match.methods", "routes[0].batch.items_max"],
    ),
    // More than one thing said of one.
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: /a, path_regex: "("}, proxy: {upstream: app, rewrite: "/{id}"}}]"#,
        &["routes[0].match.path_regex", "routes[0].match.path_regex"],
    ),
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: a, path_prefix: b}, respond: {}}, {name: b, match: {path: a, path_regex: "/x("}, respond: {}}]"#,
        &[
            "routes[0].match.path",
            "routes[0].match.path_prefix",
            "routes[0].match.path_prefix",
            "routes[1].match.path",
            "routes[1].match.path_regex",
            "routes[1].match.path_regex",
        ],
    ),
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: /a, headers: {x-a: {exact: b, regex: "("}}}, respond: {}}]"#,
        &["routes[0].match.headers.x-a", "routes[0].match.headers.x-a.regex"],
    ),
    // What a repeated key holds is looked at all the same.
    (
        In::Upstream,
        r#"endpoints: ["http://x"], timeouts: {connect: 5}, timeouts: {idle: 7, nope: 1}, timeouts: {connect: 1s, idle: 9}"#,
        &[
            "upstreams.app.timeouts.connect",
            "upstreams.app.timeouts",
            "upstreams.app.timeouts.idle",
            "upstreams.app.timeouts.nope",
            "upstreams.app.timeouts",
            "upstreams.app.timeouts.idle",
        ],
    ),
    (
        In::Upstream,
        r#"endpoints: ["http://x"], endpoints: 5, retry: {attempts: 3, attempts: many}"#,
        &[
            "upstreams.app.endpoints",
            "upstreams.app.endpoints",
            "upstreams.app.retry.attempts",
            "upstreams.app.retry.attempts",
        ],
    ),
    // Within what is itself behind a key that stands there before, and in what stands before one.
    (
        In::Upstream,
        r#"endpoints: ["http://x"], timeouts: {idle: 1s, idle: x}, timeouts: {connect: 1s, connect: 2, connect: y}"#,
        &[
            "upstreams.app.timeouts.idle",
            "upstreams.app.timeouts.idle",
            "upstreams.app.timeouts",
            "upstreams.app.timeouts.connect",
            "upstreams.app.timeouts.connect",
            "upstreams.app.timeouts.connect",
            "upstreams.app.timeouts.connect",
        ],
    ),
    // What the second has, nobody misses; and what the first has is not missing in the second.
    (
        In::File,
        r#"listeners: [{name: http, address: "127.0.0.1:0"}]
upstreams: {app: {endpoints: ["http://x"]}}
upstreams: {other: {endpoints: ["http://x"]}, third: {}}
routes: [{name: a, match: {path: /a}, proxy: {upstream: other}}, {name: b, match: {path: /b}, proxy: {upstream: nope}}]"#,
        &["upstreams", "upstreams.third", "routes[1].proxy.upstream"],
    ),
    (
        In::Route,
        "proxy: {upstream: app, mirror: {share: 0.5, upstream: app}, mirror: {}}",
        &["routes[0].proxy.mirror", "routes[0].proxy.mirror"],
    ),
    // Bounds that nothing can reach.
    (In::Policies, "body_limit: {max: 11MiB}", &["routes[0].policies.body_limit.max"]),
    (In::Policies, "body_limit: {max: 11MiB, mode: shadow}", &["routes[0].policies.body_limit.max"]),
    (In::Policies, "body_limit: {max: 11MiB, mode: off}", &[]),
    (In::Policies, "body_limit: {max: 10MiB}", &[]),
    (
        In::File,
        r#"listeners: [{name: a, address: "127.0.0.1:0"}, {name: b, address: "127.0.0.1:0", limits: {body_max: 20MiB}}]
routes: [{name: a, match: {path: /a}, policies: {body_limit: {max: 11MiB}}, respond: {}}]"#,
        &[],
    ),
    (
        In::File,
        r#"listeners: [{name: a, address: "127.0.0.1:0"}, {name: b, address: "127.0.0.1:0", limits: {body_max: plenty}}]
routes: [{name: a, match: {path: /a}, policies: {body_limit: {max: 11MiB}}, respond: {}}]"#,
        &["listeners[1].limits.body_max"],
    ),
    (
        In::Rest,
        r#"defaults: {policies: {body_limit: {max: 11MiB}}}
routes: [{name: a, match: {path: /a}, respond: {}}, {name: b, match: {path: /b}, respond: {}}]"#,
        &["defaults.policies.body_limit.max"],
    ),
    // Rewrites to what no request's path may be.
    (In::Route, r#"proxy: {upstream: app, rewrite: "/../{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/{id}/../x"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a/./{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a//{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a%2f{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a%2F{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a%00"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a;x={id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: '/a\b'}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a/..;/{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/%61/{id}"}"#, &["routes[0].proxy.rewrite"]),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/%{id}"}"#, &["routes[0].proxy.rewrite"]),
    (
        In::Route,
        r#"proxy: {upstream: app, rewrite: "/../{nope}"}"#,
        &["routes[0].proxy.rewrite", "routes[0].proxy.rewrite"],
    ),
    (In::Route, r#"proxy: {upstream: app, rewrite: "/a%C3%B6/{id}.json/..."}"#, &[]),
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: "/{x}", path_allow: [encoded_slash, semicolon]}, proxy: {upstream: app, rewrite: "/g%2Fh;v=1/{x}"}}]"#,
        &[],
    ),
    // The second value of a key that stands twice.
    (
        In::Route,
        r#"proxy: {upstream: app, rewrite: /a}, proxy: {upstream: app, rewrite: "/{nope}//"}"#,
        &["routes[0].proxy", "routes[0].proxy.rewrite", "routes[0].proxy.rewrite"],
    ),
    (
        In::Upstream,
        r#"endpoints: ["http://127.0.0.1:1"], pool: {connections_max: 1}, pool: {connections_max: 0}, endpoints: ["x"]"#,
        &[
            "upstreams.app.pool",
            "upstreams.app.pool.connections_max",
            "upstreams.app.endpoints",
            "upstreams.app.endpoints[0]",
        ],
    ),
    (
        In::Rest,
        r#"upstreams: {other: {endpoints: ["http://127.0.0.1:1"], pool: {connections_max: 0}}}
routes: [{name: all, match: {path: /}, proxy: {upstream: other}}, {name: b, match: {path: /b}, proxy: {upstream: app}}]"#,
        &["upstreams", "upstreams.other.pool.connections_max"],
    ),
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: /a}, proxy: {upstream: app}}]
routes: [{name: b, match: {path: /b}, match: {path: nope}, policies: {rules: [{allow: "claims.sub = 'a'"}]}, respond: {status: 999}}]"#,
        &[
            "routes",
            "routes[0].match",
            "routes[0].match.path",
            "routes[0].policies.rules[0].allow",
            "routes[0].respond.status",
        ],
    ),
    // What the second value needs stands in the first.
    (
        In::Rest,
        r#"identity: {staff: {jwt: {issuer: a, audiences: [b], algorithms: [RS256], keys: {jwks_url: "https://a.test/k"}}}}
routes: [{name: a, match: {path: /a}, policies: {identity: {providers: [staff]}}, policies: {roles: {any: [a]}}, respond: {}}]"#,
        &["routes[0].policies"],
    ),
    // All of a template and of a path.
    (
        In::Rest,
        r#"routes: [{name: a, match: {path: "/x y//{id"}, proxy: {upstream: app, rewrite: "v2/ {}"}}]"#,
        &[
            "routes[0].match.path",
            "routes[0].match.path",
            "routes[0].match.path",
            "routes[0].proxy.rewrite",
            "routes[0].proxy.rewrite",
        ],
    ),
    (
        In::Route,
        r#"policies: {headers: {request: {set: {x-a: "${nope} ${path.no} ${", x-b: "\x01 ${path.id}"}}}}, respond: {}"#,
        &[
            "routes[0].policies.headers.request.set.x-a",
            "routes[0].policies.headers.request.set.x-a",
            "routes[0].policies.headers.request.set.x-a",
            "routes[0].policies.headers.request.set.x-b",
        ],
    ),
];
