//! The only folder that knows everyone: a configuration becomes a running armiger, and another one while it runs.

mod background;
pub mod diff;
mod history;
mod operate;
mod reload;
mod running;
pub mod signals;
mod status;
pub mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::Issues;
use crate::config::files::Inputs;
use crate::config::issue::{self, Report};
use crate::config::load::{Environment, Partial, decode_partial, load_stable};
use crate::keep::{Fate, Keeper};
use crate::machine::Machine;
use crate::policy::Blocks;
use crate::snapshot::{Document, Snapshot, compile};
use crate::telemetry::messages::Messages;
use crate::telemetry::metrics::Metrics;
pub use running::{Running, StartError, Stopped};
use watch::Times;

/// How often reading starts over because a file was changed meanwhile. What goes on changing for so long is read again at
/// the next hint in any case.
const READ_TRIES: usize = 5;

/// File descriptors for all but connections: sockets that listen, operators, files, runtimes.
const FILES_OWN: u64 = 64;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file. It is watched, with all that it includes.
    File(PathBuf),
    /// Text, with a name for messages.
    Text {
        /// What messages call it.
        name: String,
        /// The YAML.
        text: String,
    },
}

/// How to start.
pub struct Options {
    /// Where the configuration comes from.
    pub source: Source,
    /// How many workers serve. 0: as many as `machine` has processors.
    pub workers: usize,
    /// What there is to use: bounds that the configuration leaves out are fitted to it.
    pub machine: Machine,
    /// Where the access log goes. `None`: standard output.
    pub access_log: Option<Box<dyn Write + Send>>,
    /// armiger's own messages, whose level the configuration sets. `None`: whoever uses the library sees to them.
    pub messages: Option<Messages>,
    /// A directory in which the last accepted configuration is kept, to start from when the file is no good.
    pub last_good: Option<PathBuf>,
    /// How files are watched.
    pub times: Times,
}

impl Options {
    /// Everything else as usual.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            workers: 0,
            machine: Machine::detect(),
            access_log: None,
            messages: None,
            last_good: None,
            times: Times::default(),
        }
    }
}

/// A configuration without a mistake, compiled.
pub struct Checked {
    /// What requests would run on.
    pub snapshot: Snapshot,
    /// What would become of live state.
    pub fates: Vec<Fate>,
    /// The files, for issues that are found later.
    pub source: issue::Source,
    /// What was read.
    pub inputs: Inputs,
}

/// Loads a configuration, fits it to the machine and compiles it: all of `armiger check`. Touches no network and starts
/// nothing.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn check(
    source: &Source,
    machine: &Machine,
    version: u64,
    metrics: &Metrics,
    keeper: Keeper<'_>,
) -> Result<Checked, Box<Report>> {
    compiled(load(source), machine, version, metrics, keeper)
}

fn load(source: &Source) -> Partial<Blocks> {
    match source {
        Source::File(path) => load_stable(path, READ_TRIES).0,
        Source::Text { name, text } => decode_partial(name, text, &Environment::process()),
    }
}

fn compiled(
    partial: Partial<Blocks>,
    machine: &Machine,
    version: u64,
    metrics: &Metrics,
    mut keeper: Keeper<'_>,
) -> Result<Checked, Box<Report>> {
    let Partial { document, source, mut issues, inputs, outside, defaulted, others } = partial;
    let compiled = document.and_then(|mut document| {
        document.fit(machine);
        let mut found = Issues::new();
        let compiled = compile(document, &source, version, metrics, &mut keeper, &mut found);
        issues.append(found);
        compiled
    });
    match compiled {
        Some(snapshot) if issues.is_empty() => {
            let (kept, fates) = keeper.finish();
            let hash = inputs.content_hash().to_owned();
            Ok(Checked { snapshot: Snapshot { outside, defaulted, kept, hash, ..snapshot }, fates, source, inputs })
        }
        _ => {
            let mut report = source.report(issues);
            others.into_iter().for_each(|(document, source)| report.add(meaning(document, &source, machine)));
            Err(Box::new(report))
        }
    }
}

/// What is wrong with other values of repeated keys, in a document that never runs.
fn meaning(mut document: Document, source: &issue::Source, machine: &Machine) -> Report {
    document.fit(machine);
    let mut found = Issues::new();
    compile(document, source, 0, &Metrics::new(), &mut Keeper::fresh(), &mut found);
    source.report_others(found)
}

/// What to tell operators where all connections that a configuration allows are more than the file descriptors that there
/// are. None: they are not.
pub fn scarcity(snapshot: &Snapshot, machine: &Machine) -> Option<String> {
    let files = machine.files?;
    let document = &snapshot.document;
    let clients: u64 = document.listeners.iter().map(|listener| u64::from(listener.limits.connections())).sum();
    let pools = document.upstreams.values();
    let upstreams: u64 =
        pools.map(|upstream| u64::from(upstream.pool.connections_max) * upstream.endpoints.len() as u64).sum();
    (clients + upstreams + FILES_OWN > files).then(|| {
        format!(
            "up to {clients} connections of clients and {upstreams} to upstreams are allowed, and {files} file descriptors: raise \
             that limit (`ulimit -n`, LimitNOFILE, `nofile` of the container), or lower `limits.connections_max` or \
             `pool.connections_max`"
        )
    })
}

/// What of a configuration may be other than was meant, though it makes sense.
pub fn doubts(snapshot: &Snapshot) -> Vec<String> {
    let routes = snapshot.document.routes.iter();
    let named = routes.flat_map(|route| route.matches.methods.iter().map(|method| (&route.name, method)));
    let doubt = |(route, method): (&String, &String)| {
        let known = near_method(method)?;
        let (route, method) = (issue::quote(route), issue::quote(method));
        Some(format!("route {route} is for the method {method}, which no standard has: did you mean `{known}`?"))
    };
    named.filter_map(doubt).collect()
}

/// The method of HTTP (RFC 9110, RFC 5789) that is a letter away, or is the same but for capitals.
fn near_method(name: &str) -> Option<&'static str> {
    const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    /// Longer ones are near to none.
    const LENGTH_MAX: usize = 8;
    if name.len() > LENGTH_MAX || METHODS.contains(&name) {
        return None;
    }
    let is_near = |known: &&str| known.eq_ignore_ascii_case(name) || strsim::damerau_levenshtein(known, name) == 1;
    METHODS.into_iter().find(is_near)
}

/// Tells operators of secrets that whoever reads the configuration knows.
fn warn_of_defaults(snapshot: &Snapshot) {
    for secret in &snapshot.defaulted {
        tracing::warn!(%secret, "a secret is its default, which stands in the file: set the variable");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time of day when an operator did something, for reports and metrics"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_near_to_one_that_is_a_letter_away() {
        for (name, near) in [
            ("GTE", Some("GET")),
            ("get", Some("GET")),
            ("POTS", Some("POST")),
            ("OPTION", Some("OPTIONS")),
            ("GET", None),
            ("PUT", None),
            ("PURGE", None),
            ("REPORT", None),
            ("COPY", None),
            ("OPTIONSXX", None),
        ] {
            assert_eq!(near_method(name), near, "{name}");
        }
    }
}
