//! What a reload from one configuration to another would change: all of `armiger diff`.

use serde_json::{Value, json};

use super::{Source, check};
use crate::config::issue::{Mask, Report};
use crate::keep::{Fate, Keeper, What};
use crate::machine::Machine;
use crate::snapshot::Snapshot;
use crate::snapshot::diff::{self, Changes};
use crate::telemetry::metrics::Metrics;

/// What changes, and what becomes of live state.
#[derive(Default)]
pub struct Comparison {
    /// What changes, by meaning.
    pub changes: Changes,
    /// Of each live state its kind, its name, what becomes of it, and all of it in words.
    state: Vec<(Fate, String)>,
}

/// Checks both and compares them. Touches no network and starts nothing.
///
/// # Errors
/// Everything that is wrong with the first one that is not usable.
pub fn compare(old: &Source, new: &Source, machine: &Machine) -> Result<Comparison, Box<Report>> {
    let metrics = Metrics::new();
    let old = check(old, machine, 1, &metrics, Keeper::fresh())?.snapshot;
    let new = check(new, machine, 2, &metrics, Keeper::after(&old.kept))?;
    Ok(Comparison::of(&old, &new.snapshot, new.fates))
}

impl Comparison {
    /// Compares two snapshots. `fates`: what becomes of the old one's live state.
    pub(super) fn of(old: &Snapshot, new: &Snapshot, fates: Vec<Fate>) -> Self {
        let mask = Mask::new(old.outside.iter().chain(&new.outside));
        let state = fates.into_iter().map(|fate| {
            // What state depends on may have come from outside, and the state does not know it.
            let reasons = fate.what.reasons().iter().map(|reason| mask.apply(reason.to_string(), None, ""));
            let reasons = reasons.collect::<Vec<_>>().join("; ");
            let separator = if reasons.is_empty() { "" } else { ", " };
            let loss = fate.loss.iter().map(|loss| format!(", {loss}")).collect::<String>();
            let text = format!("{} {}: {}{separator}{reasons}{loss}", fate.kind, fate.name, fate.what.word());
            (fate, text)
        });
        let state = state.collect();
        Self { changes: diff::between(old, new), state }
    }

    /// Live state that does not simply go on, in words.
    fn told(&self) -> impl Iterator<Item = String> {
        let told = self.state.iter().filter(|(fate, _)| !matches!(fate.what, What::New | What::Kept));
        told.map(|(_, text)| format!("live state: {text}"))
    }

    /// A line for each change, then one for each state that does not simply go on.
    pub fn lines(&self) -> Vec<String> {
        self.changes.text().into_iter().chain(self.told()).collect()
    }

    /// The lines, or `no change`.
    pub fn text(&self) -> String {
        let mut lines = self.lines();
        if lines.is_empty() {
            lines.push("no change".into());
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// `{"changes": …, "state": [{"kind", "name", "what", "text"}]}`; the changes are as [`Changes::json`] has them.
    pub fn json(&self) -> Value {
        let state = self
            .state
            .iter()
            .map(|(fate, text)| json!({"kind": fate.kind, "name": fate.name, "what": fate.what.word(), "text": text}));
        json!({"changes": self.changes.json(), "state": state.collect::<Vec<_>>()})
    }
}
