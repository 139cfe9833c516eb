//! Following: what others told, and whether the memory still knows what was told before.

use std::time::Instant;

use super::known::{Clock, TIMES_MAX, Witness, read_life};
use super::tell::Row;
use super::{PLACES_TOLD, Shared, locked};
use crate::policy::cache::invalid::{self, Place};
use crate::policy::cache::purge::What;
use crate::redis_client::Away;
use crate::timer::Wheel;

/// Purges that are read at once.
const BATCH: usize = 500;

/// What comes of following: the time there, its life, when something was last told, the number of the last purge, and up to when
/// places are known; purges with their numbers; places, each with its time, and whether there are more; and why another life
/// began, if one did.
type Followed = ((u64, String, u64, u64, u64), Vec<(String, Vec<u8>)>, Vec<(u32, u64)>, bool, String);

impl Shared {
    /// Follows the log, and what is told of places, to the end. What this told itself counts too where another told of the place shortly
    /// before: nothing but the last time is left of that.
    pub(super) async fn catch_up(&self, wheel: &Wheel) -> Result<(), Away> {
        loop {
            let known = self.clock();
            let from = known.map_or(0, |clock| clock.purges) + 1;
            let (new, before) = (life(), *locked(&self.witness));
            let followed = self.run::<Followed>(&self.follow, wheel, |invocation| {
                invocation.arg(&new).arg(from).arg(BATCH);
                invocation.arg(known.map_or_else(|| "+inf".to_owned(), |clock| clock.changes.to_string()));
                invocation.arg(2 * PLACES_TOLD);
            });
            let ((time, born, told, last, changes), rows, places, are_more, why) = followed.await?;
            let read = Instant::now();
            if born == new && before.is_some_and(|witness| !witness.is_of_another) {
                self.begun_anew(&why);
            }
            let born = read_life(&born).ok_or(Away)?;
            *locked(&self.witness) = Some(Witness { life: born, told, is_of_another: false });
            if known.is_some_and(|known| known.life != born) {
                // Another memory than before: from its beginning.
                self.forget();
                continue;
            }
            if known.is_none() {
                // In this order: whoever sees the purge sees the secret.
                self.fates.invalid.reseed(born);
                // What others told before this listened is not known: what was kept here meanwhile may be purged.
                self.fates.purges.purge(What::All, false);
            }
            self.heed(&places);
            let is_more = rows.len() == BATCH;
            let mut at = known.map(|known| known.purges);
            for (id, row) in rows {
                let number: u64 = id.split('-').next().and_then(|number| number.parse().ok()).ok_or(Away)?;
                match at {
                    Some(at) if at + 1 != number => self.lost(number - 1),
                    Some(_) => {}
                    None => self.purges.begin(number - 1),
                }
                self.apply(number, &row);
                at = Some(number);
            }
            let at = match at {
                // The log is shorter than it should be: something let go of it.
                Some(at) if !is_more && at < last => {
                    self.lost(last);
                    last
                }
                Some(at) => at,
                None => {
                    self.purges.begin(last);
                    last
                }
            };
            *locked(&self.clock) = Some(Clock { life: born, purges: at, changes, time, read });
            locked(&self.changed).read(changes);
            if !is_more && !are_more {
                return Ok(());
            }
        }
    }

    /// Takes over what was told of places. What this told itself it heeded before, and may have fetched anew since.
    fn heed(&self, places: &[(u32, u64)]) {
        let changed = locked(&self.changed);
        let others = places.iter().filter(|(member, at)| !changed.is_own(*member, *at));
        self.fates.invalid.invalidate(others.map(|(member, _)| (*member as Place, *member > u32::from(Place::MAX))));
    }

    /// What this knew of stands there no more, so that it began another life.
    fn begun_anew(&self, why: &str) {
        if why == "away" {
            tracing::warn!(
                kept = TIMES_MAX,
                "more was told while this was away than redis keeps times of: nothing is read of what it holds from before"
            );
            return self.metrics.came("away");
        }
        tracing::warn!("redis lost what it was told: nothing is read of what it holds from before");
        self.metrics.came("lost");
    }

    /// Takes a purge from the log.
    fn apply(&self, number: u64, row: &[u8]) {
        let Ok(row) = serde_json::from_slice::<Row>(row) else {
            // Of a version to come: what it is about cannot be told.
            return self.lost(number);
        };
        if row.by != self.own {
            self.fates.purges.purge(row.what.clone(), row.soft);
        }
        self.purges.note_at(row.what, number, row.soft);
    }

    /// Purges up to this one may have been missed.
    fn lost(&self, number: u64) {
        tracing::warn!("purges of other armigers may have been missed: all that is cached here is purged");
        self.fates.purges.purge(What::All, false);
        self.purges.begin(number);
        self.metrics.came("gap");
    }

    /// Another memory is there: what was purged in between is not known.
    fn forget(&self) {
        self.lost(0);
        *locked(&self.clock) = None;
    }
}

/// The life of a memory that has none yet.
fn life() -> String {
    format!("{:032x}", invalid::secret())
}
