//! What this armiger knows of the memory that it shares, and how a script is told of it.

use std::time::Instant;

use redis::{Script, ScriptInvocation};

use super::Memory;

/// Times of telling that are kept at least: who knows none of them was away for long, and begins another life. Fifty armigers that
/// each tell something in every tenth of a second take 17 minutes for so many. A time takes 14 to 27 bytes: 14 MB at most.
pub(super) const TIMES_MAX: usize = 1 << 19;

/// What is known of the shared memory.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    /// Places are by it too, so that it is told to no client.
    pub(super) life: u128,
    /// All purges up to this one are known.
    pub(super) purges: u64,
    /// All places that were told of up to this time are known; in microseconds.
    pub(super) changes: u64,
    /// Its time, in milliseconds, when it was read here.
    pub(super) time: u64,
    pub(super) read: Instant,
}

/// The last that is known to have been told, here or by others.
#[derive(Clone, Copy)]
pub(super) struct Witness {
    pub(super) life: u128,
    /// When, in microseconds.
    pub(super) told: u64,
    /// It is of a memory that was left.
    pub(super) is_of_another: bool,
}

/// What is known of it, as scripts are told.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) witness: Option<Witness>,
    pub(super) clock: Option<Clock>,
}

pub(super) fn read_life(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}

/// A script, and what is known.
pub(super) fn asking<'s>(script: &'s Script, memory: &Memory, Known { witness, clock }: Known) -> ScriptInvocation<'s> {
    let mut invocation = script.prepare_invoke();
    for key in ["clock", "purges", "places", "told"] {
        invocation.key(format!("{}{key}", memory.prefix));
    }
    invocation.arg(witness.map(|witness| format!("{:032x}", witness.life)).unwrap_or_default());
    invocation.arg(witness.map_or(0, |witness| witness.told));
    invocation.arg(clock.map_or(0, |clock| clock.purges)).arg(clock.map_or(0, |clock| clock.changes));
    invocation.arg(TIMES_MAX);
    invocation
}
