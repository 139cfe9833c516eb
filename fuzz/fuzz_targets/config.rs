//! Whatever stands in a configuration file, reading it ends, in bounded time and memory, in a document or in a report
//! that can be shown; and a document that is read compiles or is refused.

#![no_main]

use armiger::app::{Source, check};
use armiger::keep::Keeper;
use armiger::machine::Machine;
use armiger::telemetry::metrics::Metrics;
use libfuzzer_sys::fuzz_target;

/// Any machine will do.
const MACHINE: Machine = Machine { processors: 1, memory: None, files: None };

fuzz_target!(|text: &str| {
    // `${file:...}` would read the files of whoever runs this.
    if text.contains("${file:") || text.contains("${env:") {
        return;
    }
    let source = Source::Text { name: "fuzz.yaml".into(), text: text.to_owned() };
    if let Err(report) = check(&source, &MACHINE, 1, &Metrics::new(), Keeper::fresh()) {
        assert!(!report.text(false).is_empty(), "nothing compiled, and nothing is told");
        report.json();
        report.github();
    }
});
