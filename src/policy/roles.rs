//! `roles`: what a caller must be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::exact;
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::Issue;
use crate::config::value::Mode;
use crate::exchange::{Exchange, Identity, Reason, Rejection, Verdict};

/// Which roles a caller must have, and must not. Others get a 403; who proves nothing gets a 401.
///
/// The provider's `roles_claim` says where in the token they stand. Names count byte for byte.
///
/// ```yaml
/// roles: {any: [orders.read, admin], none: [suspended]}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Roles")]
pub struct Config {
    /// At least one of these.
    pub any: Vec<String>,
    /// Each of these.
    pub all: Vec<String>,
    /// None of these.
    pub none: Vec<String>,
    /// Whether it is enforced.
    pub mode: Mode,
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("callers of any role may use the route"),
    Guard::at("any", Weaker::Allows(exact), "callers of more roles may use the route"),
    Guard::at("all", Weaker::Denies(exact), "callers need fewer roles"),
    Guard::at("none", Weaker::Denies(exact), "callers of more roles may use the route"),
];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        scope.needs_caller("roles are a caller's");
        if self.any.is_empty() && self.all.is_empty() && self.none.is_empty() {
            scope.issue(
                Issue::new(scope.path(), "names no role, so it would let everybody in")
                    .of_absence_of(&["any", "all", "none"])
                    .hint("list roles under `any`, `all` or `none`, or write `roles: off`"),
            );
            return;
        }
        for (key, list) in [("any", &self.any), ("all", &self.all), ("none", &self.none)] {
            for (place, _) in list.iter().enumerate().filter(|(_, role)| role.is_empty()) {
                scope.issue(
                    Issue::new(scope.path().key(key).index(place), "is empty")
                        .hint("name a role, or take it out of the list"),
                );
            }
        }
        let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        let roles = Roles { any: boxed(&self.any), all: boxed(&self.all), none: boxed(&self.none) };
        scope.add(Stage::Authorize, self.mode, roles);
    }
}

/// Refuses callers without the right roles.
pub struct Roles {
    any: Box<[Box<str>]>,
    all: Box<[Box<str>]>,
    none: Box<[Box<str>]>,
}

impl Policy for Roles {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let identity = exchange.identity()?;
        if self.allows(identity) { Ok(Verdict::Pass) } else { Err(Rejection::from(Reason::Forbidden).cause("roles")) }
    }
}

impl Roles {
    fn allows(&self, identity: &Identity) -> bool {
        (self.any.is_empty() || self.any.iter().any(|role| identity.has_role(role)))
            && self.all.iter().all(|role| identity.has_role(role))
            && !self.none.iter().any(|role| identity.has_role(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_is_a_demand_of_its_own() {
        let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect::<Box<[Box<str>]>>();
        for (any, all, none, held, allowed) in [
            (&["a", "b"][..], &[][..], &[][..], &["b"][..], true),
            (&["a", "b"], &[], &[], &["c"], false),
            (&["a"], &[], &[], &["A"], false),
            (&["a"], &[], &[], &[], false),
            (&[], &["a", "b"], &[], &["b", "a", "c"], true),
            (&[], &["a", "b"], &[], &["a"], false),
            (&[], &[], &["x"], &[], true),
            (&[], &[], &["x"], &["x"], false),
            (&["a"], &["b"], &["x"], &["a", "b"], true),
            (&["a"], &["b"], &["x"], &["a", "b", "x"], false),
        ] {
            let roles = Roles { any: boxed(any), all: boxed(all), none: boxed(none) };
            let identity = Identity { roles: boxed(held), ..Identity::default() };
            assert_eq!(roles.allows(&identity), allowed, "any {any:?} all {all:?} none {none:?} held {held:?}");
        }
    }
}
