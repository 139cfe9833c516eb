//! `scopes`: what a caller must have been allowed to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::exact;
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::Issue;
use crate::config::value::Mode;
use crate::exchange::{Exchange, Reason, Rejection, Verdict};

/// Which scopes (RFC 6749 §3.3) a caller's token must have. Others get a 403; who proves nothing gets a 401.
///
/// ```yaml
/// scopes: {all: [orders:read]}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Scopes")]
pub struct Config {
    /// At least one of these.
    pub any: Vec<String>,
    /// Each of these.
    pub all: Vec<String>,
    /// Whether it is enforced.
    pub mode: Mode,
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("callers of any scope may use the route"),
    Guard::at("any", Weaker::Allows(exact), "callers of more scopes may use the route"),
    Guard::at("all", Weaker::Denies(exact), "callers need fewer scopes"),
];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        scope.needs_caller("scopes are a caller's");
        if self.any.is_empty() && self.all.is_empty() {
            scope.issue(
                Issue::new(path, "names no scope, so it would let everybody in")
                    .of_absence_of(&["any", "all"])
                    .hint("list scopes under `any` or `all`, or write `scopes: off`"),
            );
            return;
        }
        for (key, list) in [("any", &self.any), ("all", &self.all)] {
            for (place, text) in list.iter().enumerate().filter(|(_, text)| text.contains(' ') || text.is_empty()) {
                scope.issue(
                    Issue::new(path.key(key).index(place), format!("`{text}` is no scope"))
                        .hint("a scope has no spaces: list several one by one"),
                );
            }
        }
        let boxed = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        scope.add(Stage::Authorize, self.mode, Scopes { any: boxed(&self.any), all: boxed(&self.all) });
    }
}

/// Refuses callers without the right scopes.
pub struct Scopes {
    any: Box<[Box<str>]>,
    all: Box<[Box<str>]>,
}

impl Policy for Scopes {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let identity = exchange.identity()?;
        let is_any = self.any.is_empty() || self.any.iter().any(|scope| identity.has_scope(scope));
        if is_any && self.all.iter().all(|scope| identity.has_scope(scope)) {
            Ok(Verdict::Pass)
        } else {
            Err(Rejection::from(Reason::Forbidden).cause("scopes"))
        }
    }
}
