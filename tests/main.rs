//! The tests: one binary, one file per capability. `cargo test --test main routing::` runs one of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails best where it stands")]

mod config;
mod example;
mod harness;
mod hostile;
mod observe;
mod policies;
mod process;
mod proxy;
mod routing;
mod tidy;
mod upstream_faults;
