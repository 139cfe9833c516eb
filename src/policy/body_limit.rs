//! `body_limit`: how long a request body may be on a route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::value::{ByteSize, Mode};
use crate::config::{Issue, KeyPath};
use crate::exchange::{Exchange, Reason, Rejection, Verdict};
use crate::http::body::Body;

/// How long a request body may be. Longer is a 413: at once if the request announces its length, else when the bound
/// is crossed.
///
/// The listener's `limits.body_max` holds as well; the lower of the two counts. A bound above that of every listener would do
/// nothing, and is a mistake.
///
/// ```yaml
/// body_limit: {max: 1MiB}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BodyLimit")]
pub struct Config {
    /// The most bytes. `0B` allows no body at all.
    pub max: ByteSize,
    /// Whether it is enforced. In shadow only requests that announce their length are judged: to see that another one
    /// is too long, it would have to be cut.
    #[serde(default)]
    pub mode: Mode,
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] =
    &[Guard::gone("bodies are bounded by the listener alone"), Guard::at("max", Weaker::Higher, "longer bodies pass")];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        if let Some(most) = scope.plan.body_max.filter(|most| self.max > *most && self.mode != Mode::Off) {
            let listeners = KeyPath::root().key("listeners");
            scope.issue(
                Issue::new(scope.path().key("max"), format!("no listener takes a body of more than {most}"))
                    .related(listeners.clone(), "`limits.body_max` of a listener counts as well")
                    .goes_by(listeners)
                    .hint("raise `limits.body_max` of a listener too, or lower this one"),
            );
        }
        scope.add(Stage::Admit, self.mode, BodyLimit { max: self.max.get() });
    }
}

/// Refuses bodies that are too long.
pub struct BodyLimit {
    max: u64,
}

impl Policy for BodyLimit {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let received = match exchange.request.body() {
            Body::Received(received) => received,
            // One of a batch's requests: its body is here.
            Body::Full(bytes) if bytes.len() as u64 > self.max => return Err(Reason::BodyTooLarge.into()),
            _ => return Ok(Verdict::Pass),
        };
        match received.announced() {
            Some(length) if length > self.max => Err(Reason::BodyTooLarge.into()),
            Some(_) => Ok(Verdict::Pass),
            None => Ok(Verdict::Bound(self.max)),
        }
    }
}
