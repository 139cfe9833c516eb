//! `rules`: who may do what, by expressions over the caller and the request.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::Issue;
use crate::config::value::Mode;
use crate::exchange::{Exchange, Reason, Rejection, Verdict};
use crate::expression::{Condition, Fault, Names};
use crate::telemetry::metrics::{RuleMetrics, RuleWord};

/// How many rules a route may have.
const RULES_MAX: usize = 100;

/// Who may do what. A request that a `deny` holds for is refused; else one that an `allow` holds for passes; any other is
/// refused. Where they stand in the list does not matter.
///
/// A refusal is a 403 (`forbidden`), or a 401 (`token-missing`) where nobody has proven who calls and a rule asks who that
/// is. A rule that cannot be told, because it reads a claim that is not there, say, errs on the safe side: such a `deny`
/// refuses, such an `allow` does not allow. The log and the metric `armiger_rule_decisions_total` name the rule.
///
/// For roles and scopes alone the policies `roles` and `scopes` say the same with fewer words.
///
/// ```yaml
/// rules:
///   - {name: suspended, deny: "has(claims.suspended) && claims.suspended"}
///   - {name: own-orders, allow: "path.id in claims.orders"}
///   - {name: admins, allow: "'admin' in roles"}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "Rules")]
pub struct Config(pub Vec<Rule>);

impl Config {
    /// Writes what rules are called that were given no name.
    pub(super) fn fill(&mut self) {
        for (place, rule) in self.0.iter_mut().enumerate() {
            rule.name = Some(rule.name(place));
        }
    }
}

/// One rule: just one of `allow` and `deny`.
///
/// Expressions are in CEL; docs/expressions.md tells what they may name. They are checked when the file is read.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What the log and the metric call it. Unique on the route. Default: `rule-1` for the first one, and so on.
    pub name: Option<String>,
    /// The request may, if this holds and no `deny` does.
    pub allow: Option<String>,
    /// The request may not, if this holds.
    pub deny: Option<String>,
    /// Whether it is enforced. With rules in `shadow` the log tells what the word of all rules would be if these counted.
    pub mode: Mode,
}

impl Rule {
    /// What the log and the metric call it, at this place of the list.
    fn name(&self, place: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("rule-{}", place + 1))
    }
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("requests pass that no rule allows"),
    Guard::at("", Weaker::Entries { lets: "allow", keeps: "deny" }, "more requests pass"),
];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        if self.0.is_empty() {
            let issue = Issue::new(path, "has no rule").of_absence();
            scope.issue(issue.hint("give it one such as `- allow: \"'admin' in roles\"`, or write `rules: off`"));
            return;
        }
        if self.0.len() > RULES_MAX {
            let message = format!("has {} rules", self.0.len());
            scope.issue(Issue::new(path.clone(), message).hint(format!("the most is {RULES_MAX}")));
        }
        let mut names: HashMap<String, usize> = HashMap::new();
        let (mut enforced, mut tried) = (Rules::default(), Rules::default());
        let mut is_tried = false;
        for (place, rule) in self.0.iter().enumerate() {
            let at = path.index(place);
            let name = rule.name(place);
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > 100 || !name.bytes().all(fits) {
                scope.issue(
                    Issue::new(at.key("name"), format!("`{name}` is no rule name"))
                        .hint("use 1 to 100 letters, digits, `-`, `_` and `.`: it becomes a label of a metric"),
                );
            }
            if let Some(first) = names.insert(name.clone(), place) {
                scope.issue(
                    Issue::new(at.key("name"), format!("another rule is called `{name}`"))
                        .related(path.index(first), "first used here")
                        .hint("give each its own name"),
                );
            }
            let (key, text) = match (&rule.allow, &rule.deny) {
                (Some(text), None) => ("allow", text),
                (None, Some(text)) => ("deny", text),
                (both, _) => {
                    let message = if both.is_some() { "both allows and denies" } else { "neither allows nor denies" };
                    let issue = Issue::new(at, message).of_absence_of(&["allow", "deny"]);
                    scope.issue(issue.hint("give it `allow` or `deny`; for both write two rules"));
                    continue;
                }
            };
            let when = match Condition::compile(text, Names::of(scope.params)) {
                Ok(when) => Arc::new(when),
                Err(mistakes) => {
                    mistakes.issues(&at.key(key), text).for_each(|issue| scope.issue(issue));
                    continue;
                }
            };
            let asks = when.reads().caller;
            if asks && rule.mode != Mode::Off {
                scope.needs_caller_at(at.key(key), "the rule asks who calls");
            }
            let compiled =
                || Compiled { name: name.as_str().into(), when: when.clone(), metrics: scope.rule_metrics(&name) };
            if rule.mode == Mode::Enforce {
                enforced.add(key, asks, compiled());
            }
            if rule.mode != Mode::Off {
                is_tried |= rule.mode == Mode::Shadow;
                tried.add(key, asks, compiled());
            }
        }
        // What is said counts, also where it is no expression; and one that says nothing may have been meant to allow.
        for is_trial in [false, true] {
            let counts = |rule: &&Rule| rule.mode == Mode::Enforce || is_trial && rule.mode == Mode::Shadow;
            let mut counting = self.0.iter().filter(counts).peekable();
            if counting.peek().is_some() && counting.all(|rule| rule.deny.is_some() && rule.allow.is_none()) {
                let issue = Issue::new(path.clone(), "allows nothing, so every request would be refused").of_absence();
                let places = (0..self.0.len()).map(|place| path.index(place).key("allow"));
                scope.issue(
                    places.fold(issue, Issue::goes_by).hint(
                        "what no rule allows is refused; to refuse only what `deny` names, add `- allow: \"true\"`",
                    ),
                );
                return;
            }
        }
        // Asked first: it may allow what the enforced ones refuse.
        if is_tried {
            scope.add(Stage::Authorize, Mode::Shadow, Rules { is_counted: false, ..tried });
        }
        if !enforced.allow.is_empty() {
            scope.add(Stage::Authorize, Mode::Enforce, enforced);
        }
    }
}

/// A rule, compiled.
struct Compiled {
    name: Box<str>,
    when: Arc<Condition>,
    metrics: RuleMetrics,
}

/// Refuses what a rule denies, and what none allows.
pub struct Rules {
    deny: Vec<Compiled>,
    allow: Vec<Compiled>,
    /// Whether one of them asks who calls.
    asks: bool,
    /// Whether decisions are counted by rule: those of a trial are not.
    is_counted: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { deny: Vec::new(), allow: Vec::new(), asks: false, is_counted: true }
    }
}

impl Policy for Rules {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let cause = match self.decide(exchange) {
            Ok(()) => return Ok(Verdict::Pass),
            Err(cause) => cause,
        };
        let reason = match exchange.identity() {
            Err(_) if self.asks => Reason::TokenMissing,
            _ => Reason::Forbidden,
        };
        Err(Rejection::from(reason).cause(cause))
    }
}

impl Rules {
    fn add(&mut self, key: &str, asks: bool, rule: Compiled) {
        self.asks |= asks;
        if key == "deny" { self.deny.push(rule) } else { self.allow.push(rule) }
    }

    /// # Errors
    /// The rule that refuses, and what is wrong with it if it could not be told; `default` if none allows.
    fn decide(&self, exchange: &Exchange) -> Result<(), String> {
        for rule in &self.deny {
            match rule.when.holds(exchange) {
                Ok(false) => {}
                Ok(true) => {
                    self.count(rule, RuleWord::Deny);
                    return Err(rule.name.to_string());
                }
                Err(fault) => {
                    self.count(rule, RuleWord::Fault);
                    return Err(rule.at_fault(fault));
                }
            }
        }
        let mut wrong = None;
        for rule in &self.allow {
            match rule.when.holds(exchange) {
                Ok(false) => {}
                Ok(true) => {
                    self.count(rule, RuleWord::Allow);
                    return Ok(());
                }
                Err(fault) => {
                    self.count(rule, RuleWord::Fault);
                    wrong = wrong.or(Some((rule, fault)));
                }
            }
        }
        Err(wrong.map_or_else(|| "default".to_owned(), |(rule, fault)| rule.at_fault(fault)))
    }

    fn count(&self, rule: &Compiled, word: RuleWord) {
        if self.is_counted {
            rule.metrics.count(word);
        }
    }
}

impl Compiled {
    fn at_fault(&self, fault: Fault) -> String {
        format!("{}:{}", self.name, fault.code())
    }
}
