//! The locks of buckets. Here alone, so that a model check can put its own in their place (`loom/`).

pub use std::sync::{Mutex, MutexGuard};
