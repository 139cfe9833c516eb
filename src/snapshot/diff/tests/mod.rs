//! What is told of two documents that differ.

mod policies;
mod report;
mod routing;
mod same;
mod sections;

use std::time::Instant;

use super::super::{Snapshot, compile};
use super::*;
use crate::config::Issues;
use crate::config::load::{Environment, Partial, decode_partial};
use crate::keep::Keeper;
use crate::machine::Machine;
use crate::policy::Blocks;
use crate::telemetry::metrics::Metrics;

fn snapshot_of(yaml: &str, variables: &[(&str, &str)]) -> Snapshot {
    let environment = Environment::fixed(variables.iter().copied());
    let Partial { document, source, mut issues, outside, .. } = decode_partial::<Blocks>("x.yaml", yaml, &environment);
    let mut found = Issues::new();
    let compiled = document.and_then(|mut document| {
        document.fit(&Machine { processors: 1, memory: None, files: None });
        compile(document, &source, 1, &Metrics::new(), &mut Keeper::fresh(), &mut found)
    });
    issues.append(found);
    match compiled {
        Some(snapshot) if issues.is_empty() => Snapshot { outside, ..snapshot },
        _ => panic!("{yaml}\n{}", source.report(issues).text(false)),
    }
}

fn told(old: &str, new: &str) -> Vec<String> {
    between(&snapshot_of(old, &[]), &snapshot_of(new, &[])).text()
}

/// A document of which only this differs.
fn document(top: &str, listener: &str, upstream: &str, routes: &str) -> String {
    format!(
        "{top}\nlisteners: [{{name: http, address: 127.0.0.1:80{listener}}}]\nupstreams: {{app: {{endpoints: [http://127.0.0.1:1]{upstream}}}}}\nroutes:\n{routes}\n"
    )
}

const ROUTES: &str = "- {name: all, match: {path: '/{rest...}'}, proxy: {upstream: app}}";

#[track_caller]
fn check(old: &str, new: &str, expected: &[&str]) {
    assert_eq!(told(old, new), expected, "\n{old}\n{new}");
}

/// The routes of both sides.
#[track_caller]
fn routes(old: &str, new: &str, expected: &[&str]) {
    check(&document("", "", "", old), &document("", "", "", new), expected);
}

/// A block of the policies of the route `all`, before and after.
#[track_caller]
fn policy(old: &str, new: &str, expected: &[&str]) {
    let route = |policies: &str| {
        format!("- {{name: all, match: {{path: '/{{rest...}}'}}, policies: {{{policies}}}, proxy: {{upstream: app}}}}")
    };
    let expected: Vec<String> = expected.iter().map(|line| format!("route all: {line}")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    routes(&route(old), &route(new), &expected);
}
