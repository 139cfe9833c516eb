//! What a policy's compile step may see: where it stands, the route's parameters, and where to put what it made.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderName;

use super::cache::second::Second;
use super::chain::Link;
use super::exposure::Exposure;
use super::rate_limit::Remote;
use super::{AnyPolicy, Chain, Stage};
use crate::config::cache::Cache;
use crate::config::identity::Provider;
use crate::config::issue::Source;
use crate::config::limits::RateLimits;
use crate::config::value::{ByteSize, Mode};
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::Challenges;
use crate::exchange::template::Params;
use crate::identity::Providers;
use crate::keep::Keep;
use crate::telemetry::metrics::{CorsMetrics, Metrics, RuleMetrics};
use crate::telemetry::record::Enforcement;

/// The surroundings of a policy block while it is compiled.
pub struct Scope<'a> {
    /// The names of the route's path parameters, in their order.
    pub params: &'a Params,
    /// What all routes have in common.
    pub plan: &'a Common<'a>,
    /// Who may vouch for callers, by name.
    pub providers: &'a Providers,
    /// What the upstream sees of callers.
    pub exposure: Exposure,
    /// The route's name.
    pub route: &'a str,
    /// How many requests its action makes of one, where the file tells.
    pub parts: u64,
    /// Where things are counted.
    pub metrics: &'a Metrics,
    /// What outlives the snapshot.
    pub keeper: &'a mut (dyn Keep + 'a),
    shared: &'a mut Shared,
    /// Where a block of this key stands in the file: on the route, or under `defaults`.
    place: &'a dyn Fn(&str) -> KeyPath,
    issues: &'a mut Issues,
    links: Vec<Link>,
    block: Option<(&'static str, KeyPath)>,
    /// Blocks that make sense only of somebody.
    needs: Vec<Need>,
    challenges: Arc<Challenges>,
    /// How many issues there were before.
    before: usize,
    reserved: Vec<HeaderName>,
    renamed: Vec<(HeaderName, KeyPath)>,
}

/// What all routes of a snapshot have in common.
pub struct Common<'a> {
    /// The snapshot's version.
    pub version: u64,
    /// The file that it comes from.
    pub source: &'a Source,
    /// Who may vouch for callers, by name.
    pub providers: &'a Providers,
    /// The same as the file has them, those too that are wrong.
    pub identity: &'a BTreeMap<String, Provider>,
    /// What limits have in common.
    pub rate_limits: &'a RateLimits,
    /// The room that caches share.
    pub cache: &'a Cache,
    /// How long a body any of the listeners takes. None: there is no listener.
    pub body_max: Option<ByteSize>,
    /// Who keeps the answers that others share.
    pub second: Option<Arc<dyn Second>>,
    /// Who keeps the buckets that others share.
    pub remote: Option<Arc<dyn Remote>>,
    /// Where things are counted.
    pub metrics: &'a Metrics,
}

/// What routes of a snapshot share by its name.
#[derive(Default)]
pub struct Shared(HashMap<(&'static str, String), SharedRow>);

struct SharedRow {
    settings: String,
    path: KeyPath,
    thing: Arc<dyn Any + Send + Sync>,
}

impl<'a> Scope<'a> {
    /// A scope for the policies of one route.
    pub fn new(
        route: &'a str,
        params: &'a Params,
        plan: &'a Common<'a>,
        keeper: &'a mut (dyn Keep + 'a),
        shared: &'a mut Shared,
        place: &'a dyn Fn(&str) -> KeyPath,
        issues: &'a mut Issues,
    ) -> Self {
        let (providers, metrics) = (plan.providers, plan.metrics);
        let before = issues.len();
        let (links, needs) = (Vec::new(), Vec::new());
        let (reserved, renamed) = (Vec::new(), Vec::new());
        Self {
            params,
            plan,
            providers,
            exposure: Exposure::default(),
            route,
            parts: 1,
            metrics,
            keeper,
            shared,
            place,
            issues,
            links,
            block: None,
            needs,
            challenges: Arc::default(),
            before,
            reserved,
            renamed,
        }
    }

    /// What goes by this name on every route that names it with the same `settings`: made once.
    ///
    /// # Errors
    /// Another route says something else of it: its place.
    pub fn share<T: Any + Send + Sync>(
        &mut self,
        kind: &'static str,
        name: &str,
        settings: String,
        path: &KeyPath,
        make: impl FnOnce(&mut Self) -> T,
    ) -> Result<Arc<T>, KeyPath> {
        let key = (kind, name.to_owned());
        if let Some(row) = self.shared.0.get(&key) {
            let thing = row.thing.clone().downcast().ok().filter(|_| row.settings == settings);
            return thing.ok_or_else(|| row.path.clone());
        }
        let thing = Arc::new(make(self));
        self.shared.0.insert(key, SharedRow { settings, path: path.clone(), thing: thing.clone() });
        Ok(thing)
    }

    /// Compiles one block in its place.
    pub(super) fn within(&mut self, key: &'static str, compile: impl FnOnce(&mut Self)) {
        self.block = Some((key, (self.place)(key)));
        compile(self);
        self.block = None;
    }

    /// The place of the block that is being compiled.
    pub fn path(&self) -> KeyPath {
        self.block.as_ref().map_or_else(KeyPath::root, |(_, path)| path.clone())
    }

    /// Reports something wrong in the block.
    pub fn issue(&mut self, issue: Issue) {
        self.issues.push(issue);
    }

    /// Puts a compiled policy into its place in the chain.
    pub fn add(&mut self, stage: Stage, mode: Mode, policy: impl Into<AnyPolicy>) {
        let name = self.block.as_ref().map_or("", |(key, _)| key);
        let metrics = self.metrics.policy(self.route, name, enforcement(mode));
        self.links.push(Link { stage, name, mode, policy: policy.into(), metrics });
    }

    /// The block makes sense only if it is known who calls. `why` says so: "roles are a caller's".
    pub fn needs_caller(&mut self, why: &'static str) {
        self.needs_caller_at(self.path(), why);
    }

    /// The same of one of its settings.
    pub fn needs_caller_at(&mut self, path: KeyPath, why: &'static str) {
        let block = self.block.as_ref().map_or("", |(key, _)| key);
        self.needs.push(Need { block, path, why });
    }

    /// How callers may prove on this route who they are.
    pub fn challenges(&mut self, challenges: Arc<Challenges>) {
        self.challenges = challenges;
    }

    /// Only armiger may write this header of a request: what clients send is removed on every route.
    pub fn reserve(&mut self, name: HeaderName) {
        self.reserved.push(name);
    }

    /// What a client sends under another name comes under this one. `path`: where that is said.
    pub fn renames(&mut self, to: HeaderName, path: KeyPath) {
        self.renamed.push((to, path));
    }

    /// Where is counted what `cors` finds.
    pub fn cors_metrics(&self, mode: Mode) -> CorsMetrics {
        self.metrics.cors(self.route, enforcement(mode))
    }

    /// Where decisions of a rule are counted.
    pub fn rule_metrics(&self, rule: &str) -> RuleMetrics {
        self.metrics.rule(self.route, rule)
    }

    /// Whether nothing is wrong with the route's policies so far.
    pub fn is_fine(&self) -> bool {
        self.issues.len() == self.before
    }

    /// The chain of what was added, and what it says of headers. `own`: where the route's own blocks stand.
    pub fn finish(self, own: &KeyPath) -> (Chain, Headers) {
        let off: Vec<_> = self.links.iter().filter(|link| link.mode == Mode::Off).map(|link| link.name).collect();
        let chain = Chain::new(self.links, self.challenges);
        if !chain.enforces_at(Stage::Authenticate) {
            let identity = (self.place)("identity");
            let is_off = |need: &Need| off.contains(&need.block);
            // One mistake, however many go without.
            let mut needs = self.needs.into_iter().filter(|need| !is_off(need));
            if let Some(Need { path, why, .. }) = needs.next() {
                let issue = Issue::new(path, format!("{why}, and this route knows none"))
                    .goes_by(identity)
                    // One that cannot be read is as if it were not there.
                    .goes_by(own.key("identity"))
                    .hint("add `identity` here or under `defaults`, enforced, or switch off what needs it");
                self.issues.push(needs.fold(issue, |issue, need| issue.related(need.path, need.why)));
            }
        }
        (chain, Headers { reserved: self.reserved, renamed: self.renamed })
    }
}

/// What makes sense only where it is known who calls.
struct Need {
    /// The block that needs it, which may be switched off.
    block: &'static str,
    path: KeyPath,
    why: &'static str,
}

/// What a route's policies say of headers that concerns all routes.
#[derive(Debug, Default)]
pub struct Headers {
    /// Names that only armiger may write.
    pub reserved: Vec<HeaderName>,
    /// Names under which something comes that a client sends, and where that is said.
    pub renamed: Vec<(HeaderName, KeyPath)>,
}

fn enforcement(mode: Mode) -> Enforcement {
    if mode == Mode::Shadow { Enforcement::Shadow } else { Enforcement::Enforce }
}
