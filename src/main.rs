//! The `armiger` program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// A burst's memory goes back to the system within seconds; the system's allocator keeps it (ARCHITECTURE.md,
/// "Decisions").
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    armiger::cli::main()
}
