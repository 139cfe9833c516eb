//! `cache`: answers that are known already (RFC 9111).
//!
//! `ask.rs` decides about a request, `fill.rs` about a response, `by_head.rs` about that to a `HEAD`. What they go by stands in files of its own, each without
//! state and clock: `control.rs`, `freshness.rs`, `storable.rs`, `validate.rs`, `key.rs`. `store.rs` keeps entries,
//! `purge.rs` and `invalid.rs` know which are dead, whatever store they are in (`fates.rs`), `flight.rs` lets several wait for one.

mod ask;
mod by_head;
pub mod control;
pub mod entry;
mod fates;
pub mod fill;
pub mod flight;
pub mod freshen;
pub mod freshness;
pub mod invalid;
pub mod key;
pub mod part;
pub mod purge;
pub mod second;
mod shown;
pub mod status;
pub mod storable;
pub mod store;
pub mod under_way;
pub mod validate;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::exposure::IDENTITY;
use super::guard::names;
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::cache::Second;
use crate::config::value::{ByteSize, HumanDuration, Mode};
use crate::config::{Issue, KeyPath};
use crate::exchange::{Exchange, Rejection, Verdict};
use crate::keep::Identity;
use fill::{Flights, Reigns, Rules};
use freshness::Ttl;
use key::{KeyPlan, Part, QueryRule};
use store::Store;
use view::RouteCache;

/// Answers that are known already. A shared cache by RFC 9111: what the upstream's `Cache-Control` allows is stored, and
/// given to all who ask for the same, after they were found to be allowed to.
///
/// Only answers to `GET` are stored; `HEAD`, conditional requests and single ranges are answered from them. Never stored:
/// what is `private` or `no-store`, sets a cookie, varies on anything, is a stream, or has no lifetime. What is asked for with
/// credentials (`Authorization`, `Cookie` or the like that the upstream sees, or a caller known to `identity`) is stored only
/// where the answer says `public`, `s-maxage` or `must-revalidate`, or the route says by `vary_by` or `shared_across_users`
/// whom it is for.
///
/// Requests for one answer that is not there wait for one fetch, and get it as it comes. `Cache-Status` of each answer tells
/// what was done (RFC 9211). `CDN-Cache-Control` takes the place of `Cache-Control` (RFC 9213). `PUT`, `POST`, `DELETE` and
/// other unsafe methods on a route with a cache make invalid what is stored of their URL.
///
/// All routes share the room that the section `cache` gives.
///
/// ```yaml
/// cache: {ttl: {default: 10s, 404: 5s}, stale_while_revalidate: 30s, stale_if_error: 10m}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "CachePolicy")]
pub struct Config {
    /// How long answers are fresh that do not say so themselves, by status: `{200: 1m, 404: 5s}`. `default` stands for 200,
    /// 203, 204, 300, 301, 308, 404 and 410. `min` and `max` bound what answers say themselves, except that what is not fresh
    /// at all stays so. Default: nothing, and an answer that does not say how long it is fresh is not stored.
    ///
    /// A lifetime by status is refused where it would give one's answers to another: where the upstream sees of a caller what no
    /// key tells apart, or `headers` writes `${client.address}` into requests. `shared_across_users` allows it.
    pub ttl: BTreeMap<String, HumanDuration>,
    /// Whether `ttl` counts even where the answer says something else, `no-cache` included. `no-store` and `private` count
    /// all the same.
    pub ttl_overrides: bool,
    /// What else tells answers apart: `claim:NAME` (or a JSON Pointer), `header:NAME`, `cookie:NAME`. `claim:sub` is the
    /// caller, with its roles and scopes.
    ///
    /// The trap: of other claims it says nothing. Those that `headers` writes into requests must be named here too; those
    /// that the upstream itself reads out of a credential, if they change while the caller stays the same.
    pub vary_by: Vec<String>,
    /// Which parameters of the query tell answers apart. Default: all, in their order.
    ///
    /// The trap: the upstream still sees what is ignored here. If it makes use of it, one client's value is in what
    /// others get.
    pub query: Query,
    /// How long a stale answer may be used while a fresh one is fetched behind it, where the answer says nothing of that. A drain
    /// waits for what is being fetched, up to `drain.timeout`.
    pub stale_while_revalidate: HumanDuration,
    /// How long a stale answer may be used where the upstream cannot be reached, is too slow, or answers 500, 502, 503 or
    /// 504, where the answer says nothing of that.
    pub stale_if_error: HumanDuration,
    /// The longest body that is stored.
    pub entry_max: ByteSize,
    /// How long a request waits for what another one fetches, before it fetches itself.
    pub coalesce_wait: HumanDuration,
    /// How long nobody waits for others, once an answer turned out to be none to store.
    pub hit_for_miss: HumanDuration,
    /// What becomes of `Cache-Control` in requests. To honour it lets any client ask the upstream.
    pub client_directives: ClientDirectives,
    /// Whether callers get the same answer, whoever they are.
    ///
    /// The trap: if they do not, one caller sees what is another's. Say so only of a route whose upstream pays no heed to who
    /// calls.
    pub shared_across_users: bool,
    /// Whether answers that set cookies are stored, without them. Then nobody gets the cookies.
    pub strip_set_cookie: bool,
    /// Whether clients see `Surrogate-Key` and `Cache-Tag`, by whose words answers can be purged.
    pub keep_tags: bool,
    /// Where else answers are kept, for several armigers: `redis`, that of the section `cache`. What is not here is looked for there
    /// before the upstream is asked, and what was fetched goes there. While it does not answer each armiger does with its own.
    /// Default: nowhere.
    pub l2: Option<Second>,
    /// Whether it is enforced. In `shadow` nothing is stored; what was stored before is looked up, and nobody gets it.
    ///
    /// The trap: a cache that never was enforced holds nothing, so its verdicts in shadow are all `pass`.
    pub mode: Mode,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: BTreeMap::new(),
            ttl_overrides: false,
            vary_by: Vec::new(),
            query: Query::default(),
            stale_while_revalidate: HumanDuration::seconds(0),
            stale_if_error: HumanDuration::seconds(0),
            entry_max: ByteSize::mib(1),
            coalesce_wait: HumanDuration::seconds(5),
            hit_for_miss: HumanDuration::seconds(60),
            client_directives: ClientDirectives::default(),
            shared_across_users: false,
            strip_set_cookie: false,
            keep_tags: false,
            l2: None,
            mode: Mode::default(),
        }
    }
}

/// Which parameters of the query tell answers apart.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "CacheQuery")]
pub struct Query {
    /// All but these.
    pub ignore: Vec<String>,
    /// None but these.
    pub only: Vec<String>,
    /// Whether the order of differently named parameters does not matter.
    pub sort: bool,
}

/// What becomes of `Cache-Control` in requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientDirectives {
    /// It counts (RFC 9111 §5.2.1).
    #[default]
    Honour,
    /// It does not.
    Ignore,
}

/// What of it protects: who gets whose answer.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("every request reaches the upstream"),
    Guard::at(
        "shared_across_users",
        Weaker::When(|_, new| new == "true"),
        "callers get the same answers, whoever they are",
    ),
    Guard::at("vary_by", Weaker::Denies(names), "callers that differ in it get the same answers"),
];

/// The longest lifetime, and the longest that anything stale is used.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let rules = self.rules(scope, &[], "");
        scope.add(Stage::Answer, self.mode, Cache { rules, is_shadow: self.mode == Mode::Shadow });
    }

    /// What a cache goes by that is called as the scope's route is. `own`: headers that tell answers apart, whoever asks; `accepts`: what
    /// else makes other answers of them.
    fn rules(&self, scope: &mut Scope<'_>, own: &[HeaderName], accepts: &str) -> Arc<Rules> {
        let path = scope.path();
        let ttl = self.ttl(scope);
        let mut parts = Vec::with_capacity(self.vary_by.len() + own.len());
        for (place, text) in self.vary_by.iter().enumerate() {
            match Part::parse(text) {
                Some(part) => parts.push(part),
                None => scope.issue(
                    Issue::new(
                        path.key("vary_by").index(place),
                        format!("`{text}` is nothing that tells answers apart"),
                    )
                    .hint("write `claim:sub`, `header:x-tenant` or `cookie:theme`"),
                ),
            }
        }
        if !self.query.ignore.is_empty() && !self.query.only.is_empty() {
            scope.issue(
                Issue::new(path.key("query").key("only"), "`only` beside `ignore`: one says all")
                    .hint("keep one of them"),
            );
        }
        for (key, duration) in [
            ("stale_while_revalidate", self.stale_while_revalidate),
            ("stale_if_error", self.stale_if_error),
            ("hit_for_miss", self.hit_for_miss),
            ("coalesce_wait", self.coalesce_wait),
        ] {
            if duration.get() > LIFETIME_MAX {
                scope.issue(Issue::new(path.key(key), "is too long").hint("the most is 8784h, a year"));
            }
        }
        if self.entry_max.get() == 0 {
            scope.issue(
                Issue::new(path.key("entry_max"), "is 0B, so nothing could be stored")
                    .hint("name a size such as `1MiB`, or take `cache` off this route"),
            );
        }
        let (memory, fills_max) = (scope.plan.cache.memory().get(), scope.plan.cache.fills_max.get());
        let empty = [("memory", memory), ("fills_max", fills_max)].into_iter().find(|(_, room)| *room == 0);
        if let Some((room, _)) = empty {
            scope.issue(
                Issue::new(path.clone(), format!("has no room to store anything: `cache.{room}` is 0B"))
                    .goes_by(KeyPath::root().key("cache").key(room))
                    .hint(format!("raise `{room}` in the section `cache`, or take `cache` off this route")),
            );
        } else if self.entry_max.get() > memory.min(fills_max) {
            scope.issue(
                Issue::new(path.key("entry_max"), "is more than there is room for")
                    .of_absence()
                    .goes_by(KeyPath::root().key("cache").key("memory"))
                    .goes_by(KeyPath::root().key("cache").key("fills_max"))
                    .hint("lower it, or raise `memory` or `fills_max` in the section `cache`"),
            );
        }
        let exposure = scope.exposure.clone();
        let names_claims = parts.iter().any(|part| matches!(part, Part::Subject | Part::Claim(..)));
        if names_claims && !exposure.identifies && !self.shared_across_users {
            scope.needs_caller("`vary_by` names claims, which are a caller's");
        }
        let covers_caller = covers(&parts, exposure.strips_credential, &exposure.claims);
        let gives_lifetime = ttl.default.is_some() || !ttl.by_status.is_empty();
        if exposure.identifies && gives_lifetime && !covers_caller && !self.shared_across_users {
            scope.issue(
                Issue::new(path.key("ttl"), "would give one caller's answers to another: the upstream sees who calls")
                    .goes_by(path.key("vary_by"))
                    .goes_by(path.key("shared_across_users"))
                    .hint(
                        "add `vary_by: [claim:sub]`, and each claim that the route writes into headers; or, if all callers get the same, `shared_across_users: true`; or leave \
                         `ttl` out, so that answers that say `public` are stored and no others",
                    ),
            );
        }
        // The address is no part of any key: what a route writes is not known when a cache is asked.
        if exposure.address && gives_lifetime && !self.shared_across_users {
            scope.issue(
                Issue::new(
                    path.key("ttl"),
                    "would give one client's answers to another: `headers` writes `${client.address}` into requests",
                )
                .goes_by(path.key("shared_across_users"))
                .hint(
                    "take the address out of `headers`, whose upstream has it in `x-forwarded-for` all the same; or, if all clients get \
                     the same, `shared_across_users: true`; or leave `ttl` out, so that what is stored is for the upstream to say",
                ),
            );
        }
        parts.extend(own.iter().cloned().map(Part::Header));
        // Also for whom it is: what was stored under a laxer word must not be found under a stricter one.
        let audience = (self.shared_across_users, covers_caller, exposure.strips_credential);
        let mut definition = format!("{:?}|{:?}|{audience:?}", self.vary_by, self.query);
        if !own.is_empty() {
            definition.push_str(&format!("|{own:?}|{accepts}"));
        }
        // A variant is written without them, and would be read as one of other headers.
        let mut withheld: Vec<String> = exposure.hidden.iter().map(HeaderName::to_string).collect();
        withheld.sort_unstable();
        if !withheld.is_empty() {
            definition.push_str(&format!("|{withheld:?}"));
        }
        let plan = KeyPlan {
            id: id(scope.route, &definition),
            query: QueryRule {
                ignore: self.query.ignore.clone(),
                only: self.query.only.clone(),
                sort: self.query.sort,
            },
            parts,
            covers_caller,
            is_shared: self.shared_across_users,
            hidden: exposure.hidden,
            written: exposure.written,
            credentials: scope.providers.values().flatten().filter_map(|provider| provider.header().cloned()).collect(),
        };
        let identity = Identity::of("cache", scope.route)
            .shape("vary_by", json!(self.vary_by))
            .shape("query.ignore", json!(self.query.ignore))
            .shape("query.only", json!(self.query.only))
            .shape("query.sort", self.query.sort)
            .shape("shared_across_users", self.shared_across_users)
            .shape("tells callers apart", covers_caller)
            .shape("credential withheld from the upstream", exposure.strips_credential)
            .shape("headers that tell answers apart", json!(own.iter().map(HeaderName::as_str).collect::<Vec<_>>()))
            .shape("what is accepted", if own.is_empty() { "" } else { accepts })
            .shape("headers withheld from the upstream", json!(withheld))
            .setting("ttl", json!(self.ttl))
            .setting("stale_while_revalidate", format!("{:?}", self.stale_while_revalidate.get()))
            .setting("stale_if_error", format!("{:?}", self.stale_if_error.get()));
        let flights = scope.keeper.keep(identity, Flights::default);
        let (now, is_shadow) = (Instant::now(), self.mode == Mode::Shadow);
        // Not kept over a shadow, in which nobody looks what unsafe requests make invalid.
        let reigns = match is_shadow {
            true => Arc::new(Reigns::from(now)),
            false => scope.keeper.keep(Identity::of("cache_reigns", scope.route).untold(), || Reigns::from(now)),
        };
        let store = Store::kept(memory, scope.keeper);
        if self.l2.is_some() && scope.plan.cache.redis.is_none() {
            scope.issue(
                Issue::new(path.key("l2"), "the section `cache` names no Redis")
                    .goes_by(KeyPath::root().key("cache").key("redis"))
                    .hint("add `cache: {redis: {url: \"redis://HOST:6379\"}}`, or leave it out"),
            );
        }
        let by = format!("{plan:?}|{}|{}", self.strip_set_cookie, self.keep_tags);
        let rules = Arc::new(Rules {
            plan,
            ttl,
            while_revalidate: self.stale_while_revalidate.get(),
            if_error: self.stale_if_error.get(),
            entry_max: self.entry_max.get(),
            hit_for_miss: self.hit_for_miss.get(),
            wait: self.coalesce_wait.get(),
            strips_cookies: self.strip_set_cookie,
            keeps_tags: self.keep_tags,
            honours: self.client_directives == ClientDirectives::Honour,
            fills_max,
            refreshes_max: u64::from(scope.plan.cache.refreshes_max),
            store,
            flights,
            reigns: reigns.clone(),
            watches_since: (!is_shadow).then_some(reigns.began),
            shared: scope.plan.second.clone(),
            is_shared: self.l2.is_some(),
            scope: Sha256::digest(by).into(),
            metrics: scope.metrics.cache(scope.route),
        });
        reigns.begin(&rules);
        scope.keeper.attach(RouteCache { route: scope.route.into(), rules: rules.clone() });
        rules
    }

    fn ttl(&self, scope: &mut Scope<'_>) -> Ttl {
        let path = scope.path().key("ttl");
        let mut ttl = Ttl { overrides: self.ttl_overrides, ..Ttl::default() };
        for (key, duration) in &self.ttl {
            let given = duration.get();
            if given > LIFETIME_MAX {
                scope.issue(Issue::new(path.key(key), "is too long").hint("the most is 8784h, a year"));
            }
            match key.as_str() {
                "default" => ttl.default = Some(given),
                "min" => ttl.min = Some(given),
                "max" => ttl.max = Some(given),
                status => match status.parse().ok().and_then(|status| http::StatusCode::from_u16(status).ok()) {
                    Some(status) if freshness::is_understood(status) => {
                        ttl.by_status.insert(status.as_u16(), given);
                    }
                    _ => scope.issue(
                        Issue::new(path.key(key), format!("`{key}` is no status that is stored"))
                            .hint("use statuses such as 200 and 404, or `default`, `min`, `max`"),
                    ),
                },
            }
        }
        if let (Some(min), Some(max)) = (ttl.min, ttl.max)
            && min > max
        {
            scope.issue(Issue::new(path.key("min"), "is more than `max`").hint("lower it, or raise `max`"));
        }
        if self.ttl_overrides && ttl.default.is_none() && ttl.by_status.is_empty() {
            scope.issue(
                Issue::new(scope.path().key("ttl_overrides"), "lets `ttl` count, which gives no lifetime")
                    .goes_by(path)
                    .hint("add `ttl: {default: 10s}`, or leave it out"),
            );
        }
        ttl
    }
}

/// Whether all that an upstream sees of a caller is in the key. A caller's name tells its credential, of which the key then has
/// the roles and scopes too; but claims change while the name stays, and those that the route writes count by themselves.
fn covers(parts: &[Part], strips_credential: bool, claims: &[String]) -> bool {
    let names_caller = parts.contains(&Part::Subject);
    let has = |claim: &String| {
        let is_of_name = names_caller && (claim == "sub" || claim == IDENTITY);
        is_of_name || parts.iter().any(|part| matches!(part, Part::Claim(name, _) if **name == **claim))
    };
    (names_caller || strips_credential) && claims.iter().all(has)
}

/// The number of a definition of keys: the same wherever this configuration runs.
fn id(route: &str, definition: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(route.len().to_le_bytes());
    hash.update(route);
    hash.update(definition);
    hash.finalize().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Answers from what is stored, and has stored what is not.
pub struct Cache {
    rules: Arc<Rules>,
    is_shadow: bool,
}

impl Policy for Cache {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        ask::ask(&self.rules, exchange, self.is_shadow).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_covered_by_its_name_or_by_all_that_the_upstream_sees() {
        let parts = |texts: &[&str]| texts.iter().map(|text| Part::parse(text).unwrap()).collect::<Vec<_>>();
        let claims = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (vary_by, strips, seen, expected) in [
            (&["claim:sub"][..], false, &[][..], true),
            (&["claim:sub"], false, &["plan"], false),
            (&["claim:sub"], true, &["plan"], false),
            (&["claim:sub", "claim:plan"], false, &["plan"], true),
            (&["claim:sub"], false, &["sub", IDENTITY], true),
            (&["claim:plan"], false, &["plan"], false),
            (&["claim:plan"], true, &["plan"], true),
            (&["claim:plan"], true, &["plan", "org"], false),
            (&[], true, &[], true),
            (&[], false, &[], false),
            (&["header:x-plan"], true, &["plan"], false),
            (&["claim:plan"], true, &[IDENTITY], false),
        ] {
            assert_eq!(covers(&parts(vary_by), strips, &claims(seen)), expected, "{vary_by:?} {strips} {seen:?}");
        }
    }

    #[test]
    fn definitions_differ_by_route_and_by_what_they_say() {
        let ids = [id("a", "b"), id("ab", ""), id("a", ""), id("b", "b")];
        assert!(ids.iter().enumerate().all(|(place, id)| !ids[..place].contains(id)));
        assert_eq!(id("a", "b"), ids[0]);
    }
}
