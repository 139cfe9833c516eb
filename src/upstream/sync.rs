//! The lock of breakers. Here alone, so that a model check can put its own in its place (`loom/`).

pub(super) use std::sync::{Mutex, MutexGuard};
