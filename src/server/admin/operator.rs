//! What the admin listener asks of the program: the app answers.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::snapshot::Snapshot;
use crate::upstream::breaker::Force;

/// An answer that takes its time.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin listener asks of the program.
///
/// Every method is called on the thread that answers `/livez`, so none of them may block: what takes long happens
/// elsewhere and is waited for. Dropping such a future only ends the waiting (the caller hung up); the work goes on.
pub trait Operator: Send + Sync {
    /// The snapshot in force.
    fn live(&self) -> Arc<Snapshot>;

    /// Whether requests are welcome, and why.
    fn readiness(&self) -> Readiness;

    /// What is in force and how the last reload went: the body of `GET /config/status`.
    fn status(&self) -> Value;

    /// The last versions: the body of `GET /config/history`.
    fn history(&self) -> Value;

    /// Reads the configuration again and puts it in force if it is good.
    fn reload(&self) -> Later<'_, Outcome>;

    /// Puts an earlier version in force.
    fn rollback(&self, version: u64) -> Later<'_, Outcome>;

    /// Fetches the keys of this provider now, or of all that fetch keys, and tells what came of it.
    fn refresh_keys<'a>(&'a self, provider: Option<&'a str>) -> Later<'a, Outcome>;

    /// Begins to drain. Asked again, it does nothing more.
    fn drain(&self);

    /// How far the drain is: an object with `phase`, `connections` and `in_flight`.
    fn draining(&self) -> Value;

    /// Ready once armiger drains and nothing is in flight any more. Never ready while it does not drain.
    fn drained(&self) -> Later<'_, ()>;

    /// Overrides the breakers of an upstream, or of one of its endpoints or routes, or lets them start afresh.
    fn breaker(&self, order: &BreakerOrder<'_>) -> Outcome;

    /// The live state that can be shown: names for `/state/NAME`, each with a line that says what it is.
    fn states(&self) -> &[(&'static str, &'static str)];

    /// What is known of limits, or what came of a change of one.
    fn limits<'a>(&'a self, ask: LimitsAsk) -> Later<'a, Result<Value, NoLimit>>;

    /// The rows of a state, without secrets, in an order that stays the same while they do. `None`: there is no state of
    /// this name.
    fn state<'a>(&'a self, what: &'a str) -> Later<'a, Option<Vec<Value>>>;
}

/// What an operator wants of breakers.
#[derive(Clone, Copy, Debug)]
pub struct BreakerOrder<'a> {
    /// Whose.
    pub upstream: &'a str,
    /// Of this endpoint only.
    pub endpoint: Option<&'a str>,
    /// Of what this route sends there only.
    pub route: Option<&'a str>,
    /// To be held like this for so long; `None`: to start afresh.
    pub force: Option<(Force, Duration)>,
}

/// What operators ask of limits.
#[derive(Clone, Debug)]
pub enum LimitsAsk {
    /// Which there are.
    All,
    /// One of them, with so many of the keys that lack most.
    One(String, usize),
    /// The bucket of a key, given by its parts.
    Key(String, Vec<String>),
    /// To fill it, and to let the key in again if it is kept out.
    Reset(String, Vec<String>),
}

/// Why there is no answer about a limit.
#[derive(Clone, Debug)]
pub enum NoLimit {
    /// None is called so; these are there.
    Unknown(Vec<String>),
    /// Its key has other parts.
    BadKey(String),
}

/// Whether requests are welcome.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// The answer of `/readyz`.
    pub ready: bool,
    /// What it was taken from, and what else is good to know.
    pub checks: Vec<Check>,
}

/// One line of `/readyz?verbose`.
#[derive(Clone, Debug)]
pub struct Check {
    /// Which: `listeners`.
    pub name: Cow<'static, str>,
    /// Whether it allows traffic. `None`: good to know, whatever it says.
    pub ok: Option<bool>,
    /// In words.
    pub detail: String,
}

/// What came of a reload or a rollback.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Another configuration is in force: 200.
    Applied(Told),
    /// It was in force already: 200.
    Unchanged(Told),
    /// It is wrong, and nothing changed: 422.
    Refused(Told),
    /// Not now, as armiger drains or another change is on its way: 409.
    Conflict(Told),
    /// There is no such version, or no such provider: 404.
    Unknown(Told),
    /// Somebody else, who had to be asked, gave no good answer: 502.
    Failed(Told),
}

/// The same twice.
#[derive(Clone, Debug)]
pub struct Told {
    /// For people: lines.
    pub text: String,
    /// For programs.
    pub json: Value,
}

impl Told {
    /// A sentence that stands for itself in both forms.
    pub fn message(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { json: serde_json::json!({ "message": text }), text }
    }
}
