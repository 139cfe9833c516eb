//! The cache of a part: the same rules as on a route, for what an action asks for itself.

use std::sync::Arc;

use http::{HeaderName, Response};

use super::fill::Rules;
use super::key::{Part, may_be_credential};
use super::{Config, ask};
use crate::config::aggregate::PartCache;
use crate::config::{Issues, KeyPath};
use crate::exchange::fetch::{Deciding, Known, Sends};
use crate::exchange::template::Params;
use crate::exchange::{Exchange, Verdict};
use crate::http::body::Body;
use crate::http::headers::name;
use crate::keep::Keep;
use crate::policy::Scope;
use crate::policy::exposure::Exposure;
use crate::policy::scope::{Common, Shared};

/// What the route of a part has that its cache may need.
pub struct Around<'a> {
    /// What all routes have in common.
    pub plan: &'a Common<'a>,
    /// What upstreams see of the route's callers.
    pub exposure: &'a Exposure,
    /// What outlives the snapshot.
    pub keeper: &'a mut (dyn Keep + 'a),
    /// The place of the block.
    pub path: KeyPath,
    /// Where the route's own policies stand, and where it has its `identity` from: here or in the defaults.
    pub identity_at: [KeyPath; 2],
}

/// Compiles it, or reports what is wrong with it.
pub fn compile(
    config: &PartCache,
    sends: &Sends<'_>,
    around: Around<'_>,
    issues: &mut Issues,
) -> Option<Arc<dyn Known>> {
    let Around { plan, exposure, keeper, path, identity_at: [policies, identity] } = around;
    let config = Config {
        ttl: config.ttl.clone(),
        ttl_overrides: config.ttl_overrides,
        vary_by: config.vary_by.clone(),
        stale_while_revalidate: config.stale_while_revalidate,
        stale_if_error: sends.stale,
        shared_across_users: config.shared_across_users,
        l2: config.l2,
        ..Config::default()
    };
    let own = own(sends, exposure);
    let named: Vec<Part> = config.vary_by.iter().filter_map(|text| Part::parse(text)).collect();
    let names_claims = named.iter().any(|part| matches!(part, Part::Subject | Part::Claim(..)));
    let is_told = |name: &HeaderName| own.contains(name) || named.contains(&Part::Header(name.clone()));
    let sees_caller = sends.forward.iter().any(|name| may_tell_caller(name) && !is_told(name));
    let (params, place) =
        (Params::known(&[]), |key: &str| if key == "identity" { identity.clone() } else { path.clone() });
    let mut shared = Shared::default();
    let mut scope = Scope::new(sends.name, &params, plan, keeper, &mut shared, &place, issues);
    scope.exposure = Exposure {
        identifies: exposure.identifies && (sees_caller || names_claims),
        strips_credential: !sees_caller,
        // Claims that the part itself fills in stand in what is told apart.
        ..Exposure::default()
    };
    let mut rules = None;
    // Where the route knows no callers, somebody in front may: what is forwarded and may tell them tells answers apart.
    let mut apart = own.clone();
    apart.extend(sends.forward.iter().filter(|name| may_be_credential(name).is_none() && !is_told(name)).cloned());
    scope.within("cache", |scope| rules = Some(config.rules(scope, &apart, sends.accepts)));
    let is_fine = scope.is_fine();
    // Who calls is for the route to say, and not for the part.
    scope.finish(&policies);
    let known: Arc<dyn Known> = Arc::new(PartAnswers { rules: rules? });
    is_fine.then_some(known)
}

/// The headers that tell answers apart, whoever asks: those that the part writes, those that its route wrote before it forwards
/// them, and the host that upstreams build links of.
fn own(sends: &Sends<'_>, exposure: &Exposure) -> Vec<HeaderName> {
    let mut own = vec![name::X_FORWARDED_HOST.clone()];
    let written = sends.forward.iter().filter(|name| exposure.written.contains(name));
    for name in sends.headers.iter().chain(written) {
        if !own.contains(name) {
            own.push(name.clone());
        }
    }
    own
}

/// Whether a header that a client sends may say who it is. Any may that not every browser sends: a provider may look for keys in it.
fn may_tell_caller(name: &HeaderName) -> bool {
    may_be_credential(name).unwrap_or(true)
}

/// What is known of a part.
struct PartAnswers {
    rules: Arc<Rules>,
}

impl Known for PartAnswers {
    fn ask<'a>(&'a self, exchange: &'a Exchange) -> Result<Verdict, Deciding<'a>> {
        ask::look(&self.rules, exchange, false)
    }

    fn instead(&self, exchange: &Exchange) -> Option<Response<Body>> {
        ask::instead(&self.rules, exchange)
    }
}
