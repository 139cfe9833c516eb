//! The tests: one binary, one file per capability. `cargo test --test main routing::` runs one of them.

mod config;
mod harness;
mod tidy;
