//! What became of all that was asked for, be it stored or still on its way. It outlives stores: a reload may give another room, and what
//! began before it, such as a write that waits for its upstream, is about what is stored after it too.

use std::sync::Arc;

use super::invalid::Invalid;
use super::purge::Purges;
use crate::keep::{Identity, Keep};

/// Which of it is dead or stale.
#[derive(Default)]
pub struct Fates {
    /// What was purged.
    pub purges: Purges,
    /// What unsafe requests made invalid.
    pub invalid: Invalid,
}

impl Fates {
    /// Those of all routes. To be asked for with each snapshot, whether or not anything is stored by it: a later one may again.
    pub fn kept(keeper: &mut (dyn Keep + '_)) -> Arc<Self> {
        keeper.keep(Identity::of("cache_fates", "all routes").untold(), Self::default)
    }
}
