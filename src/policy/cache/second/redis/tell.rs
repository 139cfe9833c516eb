//! Telling: of purges, in their order, and of what unsafe requests made invalid, many at a time.

use std::collections::{BTreeMap, BTreeSet};

use redis::ScriptInvocation;
use serde::{Deserialize, Serialize};

use super::known::{Clock, Witness, read_life};
use super::{PLACES_TOLD, Shared, locked};
use crate::policy::cache::invalid::{self, Digest, PLACES, Place};
use crate::policy::cache::purge::{RECORDS_MAX, What};
use crate::redis_client::Away;
use crate::timer::Wheel;

/// Targets to tell the others of. Not their places: those are by a secret that may not be known yet.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) waiting: BTreeSet<(Digest, bool)>,
    /// On their way, and told again if that fails.
    leaving: BTreeSet<(Digest, bool)>,
    /// When this was the last to tell of a place, of those that nobody else told of since it had read what was told. Here that was
    /// heeded before it was told.
    own: BTreeMap<u32, u64>,
}

/// A purge in the log.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) by: String,
    pub(super) soft: bool,
    pub(super) what: What,
}

/// What comes of telling: life, when it was told, and the places that others told of shortly before. Nothing: there is something to
/// be read first.
pub(super) type Told = Option<(String, u64, Vec<u32>)>;

impl Shared {
    /// Tells what is untold, as far as it can.
    pub(super) async fn tell_all(&self, wheel: &Wheel) -> Result<(), Away> {
        loop {
            let Some(purge) = locked(&self.untold).front().cloned() else { break };
            let told = self.run(&self.tell, wheel, |invocation| purged(&self.own, &purge, invocation));
            if self.heard(told.await?)?.is_none() {
                return Ok(());
            }
            // Only this tells, and what comes meanwhile stands behind; unless all of it became one purge.
            let mut untold = locked(&self.untold);
            if untold.front() == Some(&purge) {
                untold.pop_front();
            }
        }
        self.all_told.notify_waiters();
        loop {
            // As long as nobody has read what life it has nobody knows where they stand.
            let Some(Clock { life, .. }) = self.clock() else { return Ok(()) };
            let leaving = locked(&self.changed).set_out();
            if leaving.is_empty() {
                return Ok(());
            }
            let told = self.run(&self.tell, wheel, |invocation| changed(life, &leaving, invocation));
            let Some((at, hidden)) = self.heard(told.await?)? else { return Ok(()) };
            let told = leaving.iter().map(|change| member(life, change)).filter(|member| !hidden.contains(member));
            locked(&self.changed).arrived(told, at);
        }
    }

    /// When what was told was told, and of which places this hides when others told of them. If it was not heard there is something
    /// to be read first.
    fn heard(&self, told: Told) -> Result<Option<(u64, Vec<u32>)>, Away> {
        let Some((life, told, hidden)) = told else { return Ok(None) };
        *locked(&self.witness) = Some(Witness { life: read_life(&life).ok_or(Away)?, told, is_of_another: false });
        Ok(Some((told, hidden)))
    }
}

impl Changed {
    pub(super) fn has(&self, digest: Digest) -> bool {
        [false, true].iter().any(|is_soft| {
            let change = (digest, *is_soft);
            self.waiting.contains(&change) || self.leaving.contains(&change)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.leaving.len()
    }

    /// What is to be told next, on its way from now on.
    fn set_out(&mut self) -> Vec<(Digest, bool)> {
        // What did not arrive the last time.
        self.waiting.append(&mut self.leaving);
        while self.leaving.len() < PLACES_TOLD
            && let Some(change) = self.waiting.pop_first()
        {
            self.leaving.insert(change);
        }
        self.leaving.iter().copied().collect()
    }

    /// What was on its way is told; of these places by nobody else shortly before.
    fn arrived(&mut self, places: impl Iterator<Item = u32>, at: u64) {
        self.leaving.clear();
        self.own.extend(places.map(|member| (member, at)));
    }

    /// Whether what was told of a place at that time was told here, and hides nothing that others told.
    pub(super) fn is_own(&self, member: u32, at: u64) -> bool {
        self.own.get(&member) == Some(&at)
    }

    /// What was told up to then is read.
    pub(super) fn read(&mut self, changes: u64) {
        self.own.retain(|_, at| *at > changes);
    }

    /// All that another memory is to be told anew; of that nothing is its own.
    pub(super) fn leave(&mut self) -> Vec<(Digest, bool)> {
        self.own.clear();
        self.waiting.append(&mut self.leaving);
        self.waiting.iter().copied().collect()
    }
}

/// What tells of a purge.
pub(super) fn purged(own: &str, (what, is_soft): &(What, bool), invocation: &mut ScriptInvocation<'_>) {
    let row = Row { by: own.to_owned(), soft: *is_soft, what: what.clone() };
    invocation.arg("purge").arg(serde_json::to_vec(&row).unwrap_or_default()).arg(RECORDS_MAX);
}

/// What tells of targets, by the life that their places are by.
pub(super) fn changed(life: u128, changed: &[(Digest, bool)], invocation: &mut ScriptInvocation<'_>) {
    invocation.arg("changed");
    for change in changed {
        invocation.arg(member(life, change));
    }
}

/// What stands for the place of a target among those that were told of.
fn member(life: u128, change: &(Digest, bool)) -> u32 {
    place_member(invalid::place(life, change.0), change.1)
}

/// The same of a place.
pub(super) fn place_member(place: Place, is_soft: bool) -> u32 {
    u32::from(place) + if is_soft { PLACES as u32 } else { 0 }
}
