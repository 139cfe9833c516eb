//! Looking for a response, and whether it is good.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;

use super::known::read_life;
use super::tell::place_member;
use super::{NAMES_MAX, Shared, hex, locked};
use crate::policy::cache::invalid::{self, Place};
use crate::policy::cache::key::Target;
use crate::policy::cache::purge::Fate;
use crate::policy::cache::second::value::{self, Stored};
use crate::policy::cache::second::{Found, Wanted};
use crate::redis_client::{Away, transaction};
use crate::timer::Wheel;

/// When a place was told of: invalid, and stale.
type ToldAt = (Option<u64>, Option<u64>);

/// What comes of a look: clock, whether what is known stands among the times of telling, when the place was told of, names of headers,
/// value, and how long it is kept yet.
type Looked = (ClockThere, Vec<redis::Value>, Option<u64>, Option<u64>, Vec<u8>, Vec<u8>, i64);

/// Life, the number of the last purge, when something was last told, and when this life was born.
type ClockThere = (Option<String>, Option<u64>, Option<u64>, Option<u64>);

impl Shared {
    /// Looks for a value, and whatever tells whether it is good, at one moment.
    async fn look(
        &self,
        name: &[u8; 32],
        (place, told): (Place, u64),
        index: &str,
        wheel: &Wheel,
    ) -> Result<Looked, &'static str> {
        let plan = self.plan.load_full();
        let prefix = &plan.memory.prefix;
        let entry = format!("{prefix}e:{}", hex(name));
        let mut pipe = transaction();
        pipe.cmd("HMGET").arg(format!("{prefix}clock")).arg("life").arg("purges").arg("told").arg("born").ignore();
        pipe.cmd("XRANGE").arg(format!("{prefix}told")).arg(format!("{told}-0")).arg(format!("{told}-0")).ignore();
        for is_soft in [false, true] {
            pipe.cmd("ZSCORE").arg(format!("{prefix}places")).arg(place_member(place, is_soft)).ignore();
        }
        // No more of it than may be: what others put there may be of any length.
        pipe.cmd("GETRANGE").arg(format!("{prefix}v:{index}")).arg(0).arg(NAMES_MAX).ignore();
        pipe.cmd("GETRANGE").arg(&entry).arg(0).arg(plan.value_max).ignore();
        pipe.cmd("PTTL").arg(&entry).ignore().cmd("EXEC");
        let looked = self.client.ask(wheel, async |connection| match pipe.query_async::<(Looked,)>(connection).await {
            // Somebody else's, of another type: the server is well.
            Err(error) if is_about_type(&error) => Ok(None),
            looked => looked.map(|(looked,)| Some(looked)),
        });
        looked.await.map_err(|Away| "unavailable")?.ok_or("foreign")
    }

    /// Looks for a response; if it is none to use, why.
    pub(super) async fn find(&self, wanted: &Wanted<'_>, wheel: &Wheel) -> Result<Found, &'static str> {
        if self.is_untold() {
            return Err("untold");
        }
        let target = Target::of(wanted.key).ok_or("miss")?;
        let digest = target.digest();
        if locked(&self.changed).has(digest) {
            return Err("untold");
        }
        let known = self.clock().ok_or("behind")?.life;
        let told = locked(&self.witness).filter(|witness| witness.life == known).ok_or("behind")?.told;
        let place = (invalid::place(known, digest), told);
        let index = hex(&value::name(wanted.scope, wanted.key, &[], b"vary"));
        let mut vary: Vec<HeaderName> = Vec::new();
        // A second look, where the first one tells that headers choose.
        for _ in 0..2 {
            let name = value::name(wanted.scope, wanted.key, &vary, &(wanted.variant)(&vary));
            let looked = self.look(&name, place, &index, wheel).await?;
            let ((life, purges, last, born), told_at, invalid_at, stale_at, names, bytes, left) = looked;
            let names = value::read_names(&names).ok_or("foreign")?;
            if names != vary {
                vary = names;
                continue;
            }
            if bytes.is_empty() {
                return Err("miss");
            }
            let mut stored = value::read(&name, Bytes::from(bytes)).ok_or("foreign")?;
            stored.vary = vary;
            let is_told = told_at.len() == 1 || [last, born].iter().any(|at| at.unwrap_or(0) == told);
            if life.and_then(|life| read_life(&life)) != Some(known) || !is_told {
                return Err("behind");
            }
            return self.judge(stored, (known, purges.unwrap_or(0)), (invalid_at, stale_at), left, &target);
        }
        Err("miss")
    }

    /// Whether what was found is good, as far as is known here.
    fn judge(
        &self,
        mut stored: Stored,
        (life, purges): (u128, u64),
        (invalid_at, stale_at): ToldAt,
        left: i64,
        target: &Target<'_>,
    ) -> Result<Found, &'static str> {
        let clock = self.clock().ok_or("behind")?;
        if life != clock.life || purges != clock.purges {
            return Err("behind");
        }
        let ground = stored.ground;
        if ground.life != clock.life || ground.purges > purges {
            return Err("dead");
        }
        let is_later = |at: Option<u64>| at.is_some_and(|at| at / 1000 >= ground.time);
        if is_later(invalid_at) {
            return Err("dead");
        }
        let least = if is_later(stale_at) { Fate::Stale } else { Fate::Good };
        let fate = self.purges.fate(ground.purges, Some(target), &stored.tags);
        if fate == Fate::Dead {
            return Err("dead");
        }
        let left = u64::try_from(left).map(Duration::from_millis).map_err(|_| "foreign")?;
        // How long it has been there, by the clock that all share.
        stored.age += stored.keep.checked_sub(left).ok_or("foreign")?;
        Ok(Found { stored, fate: fate.max(least) })
    }
}

fn is_about_type(error: &redis::RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
        || error.to_string().contains("WRONGTYPE")
        || error.kind() == redis::ErrorKind::UnexpectedReturnType
}
