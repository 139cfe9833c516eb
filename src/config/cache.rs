//! `cache`: the room that all caches of routes share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::redis::Redis;
use super::value::ByteSize;

/// What all caches of routes share. What is stored, and for whom, is said by the policy `cache` of a route.
///
/// ```yaml
/// cache: {memory: 256MiB}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "CacheSection")]
pub struct Cache {
    /// How much may be stored. What is asked for least makes room. Default: 128 MiB, or an eighth of the memory that the
    /// container may use, if that is less.
    ///
    /// The trap: another number is another store. A reload that changes it begins with an empty one.
    pub memory: Option<ByteSize>,
    /// How much of what is on its way from upstreams may be held at once, also while a reload gives caches another room. What does
    /// not fit goes to clients all the same, and is not stored.
    pub fills_max: ByteSize,
    /// How many stale answers may be refreshed at once behind the backs of those who got them. At least 1.
    pub refreshes_max: u32,
    /// A Redis in which the caches with `l2: redis` keep what several armigers share: what one has fetched the others need not, and a
    /// purge at one is one at all of them. Default: each armiger has what it fetched itself.
    ///
    /// The trap: armigers that share a `prefix` share answers by the names of their routes. Two that have routes of one name and
    /// different upstreams need different prefixes.
    pub redis: Option<Redis>,
    /// The longest answer that is kept there, head and body.
    pub redis_entry_max: ByteSize,
}

/// Where else answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "CacheSecond")]
pub enum Second {
    /// In the Redis of `cache.redis`.
    Redis,
}

impl Cache {
    /// The room where nobody says otherwise.
    pub const MEMORY: ByteSize = ByteSize::mib(128);

    /// How much may be stored.
    pub fn memory(&self) -> ByteSize {
        self.memory.unwrap_or(Self::MEMORY)
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            memory: None,
            fills_max: ByteSize::mib(16),
            refreshes_max: 64,
            redis: None,
            redis_entry_max: ByteSize::kib(256),
        }
    }
}
