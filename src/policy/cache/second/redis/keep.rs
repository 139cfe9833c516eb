//! Keeping a response for the others.

use std::time::{Duration, Instant};

use super::{NAMES_MAX, Shared, hex};
use crate::policy::cache::entry::Entry;
use crate::policy::cache::second::{Ground, value};
use crate::redis_client::{Away, transaction};
use crate::timer::Wheel;

/// How long a response is kept at most.
const KEEP_MAX: Duration = Duration::from_secs(24 * 3600);

impl Shared {
    /// Keeps it; or why not.
    pub(super) async fn keep(
        &self,
        (scope, key): (&[u8; 32], &[u8]),
        entry: &Entry,
        ground: Ground,
        wheel: &Wheel,
    ) -> Result<(), &'static str> {
        let (head, age) = (&entry.head, entry.head.age(Instant::now()));
        let longest = head.terms.lifetime + head.terms.while_revalidate.max(head.terms.if_error);
        let keep = longest.saturating_sub(age).min(KEEP_MAX);
        if keep < Duration::from_secs(1) {
            return Err("short");
        }
        let name = value::name(scope, key, &head.vary, &head.variant);
        let plan = self.plan.load_full();
        let mut room = plan.store.under_way.reserve(plan.fills_max);
        if entry.body.len() > plan.value_max || !room.grow(entry.body.len() as u64) {
            return Err("too_long");
        }
        let written = value::write(&name, entry, ground, age, keep);
        if written.len() > plan.value_max {
            return Err("too_long");
        }
        let prefix = &plan.memory.prefix;
        let index = format!("{prefix}v:{}", hex(&value::name(scope, key, &[], b"vary")));
        let millis = keep.as_millis() as u64;
        let mut pipe = transaction();
        pipe.cmd("SET").arg(format!("{prefix}e:{}", hex(&name))).arg(written);
        pipe.arg("PX").arg(millis).ignore();
        if head.vary.is_empty() {
            pipe.cmd("DEL").arg(index).ignore();
        } else {
            let names = value::write_names(&head.vary);
            if names.len() > NAMES_MAX {
                return Err("too_long");
            }
            pipe.cmd("SET").arg(index).arg(names).arg("PX").arg(millis).ignore();
        }
        pipe.cmd("EXEC");
        let asked = self.client.ask(wheel, async |connection| pipe.query_async::<()>(connection).await);
        asked.await.map_err(|Away| "unavailable")
    }
}
