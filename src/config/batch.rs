//! `batch`: many requests in one.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{ByteSize, HumanDuration};

/// Answer a list of requests in one: each goes through its own route and policies, as the caller of the batch.
///
/// The body is a JSON array of `{id, method, path, headers, body}`, of which only `path` must be there; the answer a 200 with an
/// array of `{id, status, headers, body}` in the same order. Rate limits, identity and everything else count for each request as
/// if it had come alone. A request cannot say who calls or where from: `Authorization`, `Cookie`, `Host` and the like are those
/// of the batch. A batch within a batch is refused. A batch comes with `Content-Type: application/json`, or is a 415: what any
/// web page can make a browser send is none.
///
/// ```yaml
/// - name: batch
///   match: {path: /_batch, methods: [POST]}
///   batch: {items_max: 20}
/// ```
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// How many requests a batch may have. More is a 413. Default `20`.
    pub items_max: u16,
    /// How many of them are under way at once. Default `4`.
    pub concurrency: u16,
    /// When the answer goes out; what is not there by then is a 504 in its place. Default: nine tenths of the route's
    /// `timeout`.
    pub deadline: Option<HumanDuration>,
    /// The longest batch, compressed and as it was before. Longer is a 413, and so is what grows to more than 64 KiB and a
    /// hundred times its size. Of `Content-Encoding` it may have one of gzip, br, zstd and deflate; another is a 415.
    pub body_max: ByteSize,
    /// The longest body of one request. Longer is a 413 in its place.
    pub item_body_max: ByteSize,
    /// The longest body of one answer. Longer is a 502 in its place. `items_max` times this is what a batch may hold in memory.
    pub item_answer_max: ByteSize,
    /// The longest answer. What does not fit any more is a 502 in its place.
    pub answer_max: ByteSize,
    /// Callers that accept `application/x-ndjson` get each answer as soon as it is there, one per line, in the order in which
    /// they end. `index` then tells which is which.
    pub ndjson: bool,
}

impl Batch {
    /// When the answer goes out, on a route with this timeout.
    pub fn deadline(&self, timeout: Duration) -> Duration {
        self.deadline.unwrap_or_else(|| HumanDuration::rounded(timeout * 9 / 10)).get()
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            items_max: 20,
            concurrency: 4,
            deadline: None,
            body_max: ByteSize::mib(1),
            item_body_max: ByteSize::kib(64),
            item_answer_max: ByteSize::mib(1),
            answer_max: ByteSize::mib(10),
            ndjson: false,
        }
    }
}
