//! A running armiger: its threads, how they start and how they end.
//!
//! - `worker-N` serve connections, each with a runtime of its own;
//! - `control` accepts, serves operators, and walks through the end;
//! - `reload` puts configurations in force;
//! - `background` does what state has to do beside requests;
//! - `access-log` writes lines; so does `messages`, which the program starts (`telemetry/messages.rs`).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{oneshot, watch};

use super::background::{self, Bell};
use super::diff::Comparison;
use super::history::History;
use super::operate::Operations;
use super::reload::{Ask, Reloader, Wake, short};
use super::status::{Applied, Origin, Status};
use super::watch::Watcher;
use super::{Checked, Options, Source, compiled, doubts, load, now, scarcity, warn_of_defaults};
use crate::config::address::ListenAddress;
use crate::config::bundle::Bundle;
use crate::config::files::Inputs;
use crate::config::issue::Report;
use crate::config::load::load_bundle;
use crate::config::{Issue, Issues, KeyPath};
use crate::keep::Keeper;
use crate::machine::Machine;
use crate::policy::Blocks;
use crate::server::admin::{self, AdminServers};
use crate::server::drain::Drain;
use crate::server::listener::{self, Listeners};
use crate::server::worker::{self, Workers};
use crate::snapshot::{Live, Snapshot};
use crate::telemetry::access_log::{self, AccessLog, Settings, Writer};
use crate::telemetry::messages::Messages;
use crate::telemetry::metrics::Metrics;

/// How long the access log's writer may take to write what it has when armiger stops.
const LOG_CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How many may ask for another configuration at once; further ones are told to come back.
const ASKS_MAX: usize = 16;

/// Why armiger did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong; the report tells where and how to mend it.
    #[error("the configuration is not usable")]
    Config(Box<Report>),
    /// An address could not be bound.
    #[error("cannot listen on {address} ({what}): {error}{}", remedy(.address, .what, .error))]
    Bind {
        /// Which one.
        address: String,
        /// The listener's name, `admin` or `probes`.
        what: String,
        /// Why.
        error: std::io::Error,
    },
    /// The system refused a thread or a runtime.
    #[error("cannot start")]
    System(#[from] std::io::Error),
}

impl From<listener::BindError> for StartError {
    fn from(error: listener::BindError) -> Self {
        let listener::BindError { name, address, error } = error;
        Self::Bind { address: address.to_string(), what: format!("listener `{name}`"), error }
    }
}

impl From<admin::BindError> for StartError {
    fn from(error: admin::BindError) -> Self {
        let admin::BindError { what, address, error } = error;
        Self::Bind { address: address.to_string(), what: what.into(), error }
    }
}

/// What the threads of the program share.
pub(super) struct Parts {
    pub(super) live: Arc<Live>,
    pub(super) metrics: Metrics,
    pub(super) machine: Machine,
    pub(super) workers: Arc<Workers>,
    pub(super) listeners: Arc<Listeners>,
    pub(super) drain: Arc<Drain>,
    pub(super) status: Status,
    pub(super) last_good: Option<PathBuf>,
    bell: Bell,
    access_log: AccessLog,
    messages: Option<Messages>,
    /// The runtime that accepts.
    pub(super) control: Handle,
    history: Mutex<History<Bundle>>,
    operators: Mutex<Operators>,
}

/// Where operators are listened to.
#[derive(Clone, Default)]
struct Operators {
    admin: Option<ListenAddress>,
    probes: Option<ListenAddress>,
}

/// Sockets that a configuration wants, bound.
pub(super) struct Prepared {
    listeners: listener::Ready,
    admin: admin::Prepared,
}

impl Parts {
    pub(super) fn history(&self) -> MutexGuard<'_, History<Bundle>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds what the snapshot wants and is not bound yet. Changes nothing else.
    pub(super) fn prepare(&self, snapshot: &Snapshot, admin: &AdminServers) -> Result<Prepared, Vec<StartError>> {
        let inside = self.control.enter();
        let listeners = self.listeners.prepare(&snapshot.listeners);
        let admin = admin.prepare(&snapshot.document);
        drop(inside);
        match (listeners, admin) {
            (Ok(listeners), Ok(admin)) => match listeners.listen() {
                Ok(listeners) => Ok(Prepared { listeners, admin }),
                Err(errors) => Err(errors.into_iter().map(StartError::from).collect()),
            },
            (listeners, admin) => {
                let listeners = listeners.err().into_iter().flatten().map(StartError::from);
                Err(listeners.chain(admin.err().map(StartError::from)).collect())
            }
        }
    }

    /// Puts a snapshot in force with all that goes by it. Nothing of it can fail.
    pub(super) fn commit(&self, prepared: Prepared, snapshot: &Arc<Snapshot>, admin: &mut AdminServers) {
        self.live.store(snapshot.clone());
        let inside = self.control.enter();
        self.listeners.commit(prepared.listeners);
        admin.commit(prepared.admin);
        drop(inside);
        *self.operators.lock().unwrap_or_else(PoisonError::into_inner) =
            Operators { admin: admin.admin().cloned(), probes: admin.probes().cloned() };
        self.access_log.apply(Settings::of(&snapshot.access_log));
        if let Some(messages) = &self.messages {
            messages.apply(snapshot.document.log.level);
        }
        self.bell.ring();
    }

    /// Waits until workers have let go of what was, and of connections that nobody needs any more.
    pub(super) fn refresh(&self) {
        self.control.block_on(self.workers.refresh());
    }
}

/// What to do about an address that could not be bound.
fn remedy(address: &str, what: &str, error: &std::io::Error) -> String {
    let key = match what {
        // A default stands nowhere in the file, where it would be looked for.
        "admin" | "probes" => format!(" (key `{what}.address`)"),
        _ => String::new(),
    };
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied if address.starts_with("unix:") => "choose a folder that armiger may write to",
        ErrorKind::AddrInUse => "stop what listens there, or choose another address",
        ErrorKind::AddrNotAvailable => "choose an address of this machine",
        ErrorKind::PermissionDenied => "choose another, a port of 1024 or more for example",
        _ => return String::new(),
    };
    format!("; {remedy}{key}")
}

/// Says at its place in the file that an address could not be bound.
pub(super) fn unbound(errors: Vec<StartError>, snapshot: &Snapshot) -> Issues {
    let mut issues = Issues::new();
    for error in errors {
        let StartError::Bind { address, what, error } = error else { continue };
        let place = snapshot.listeners.iter().position(|plan| format!("listener `{}`", plan.name) == what);
        let path = match place {
            Some(place) => KeyPath::root().key("listeners").index(place),
            None => KeyPath::root().key(what.as_str()),
        };
        issues.push(
            Issue::new(path.key("address"), format!("cannot listen on {address}: {error}"))
                .hint("choose a free address of this machine, or stop what has it"),
        );
    }
    issues
}

/// A running armiger. Ends when dropped, without `drain.delay`.
pub struct Running {
    parts: Arc<Parts>,
    wakes: SyncSender<Wake>,
    workers: Vec<JoinHandle<()>>,
    reload: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    background: Option<JoinHandle<()>>,
    over: watch::Sender<bool>,
}

/// How armiger ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Exchanges that were cut.
    pub cut: u64,
    /// Whether the configuration calls that a failure: `drain.strict`.
    pub is_strict: bool,
}

impl Running {
    /// Starts: everything that can fail fails here.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(options: Options) -> Result<Self, StartError> {
        let begun = Instant::now();
        let metrics = Metrics::new();
        if let Some(bytes) = options.machine.memory {
            metrics.memory_limit(bytes);
        }
        let First { checked, origin, seen, refused } = first(&options, &metrics)?;
        let Checked { snapshot, inputs, .. } = checked;
        let scarcity = scarcity(&snapshot, &options.machine);
        let snapshot = Arc::new(snapshot);
        if let Some(messages) = &options.messages {
            messages.apply(snapshot.document.log.level);
            messages.count_in(&metrics);
        }

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let control = runtime.handle().clone();
        let drain = Drain::new(&metrics);
        let destination = options.access_log.unwrap_or_else(access_log::stdout);
        let access_log = Writer::start(Settings::of(&snapshot.access_log), destination, &metrics)?;
        let live = Arc::new(Live::new(snapshot.clone()));
        let count = if options.workers == 0 { options.machine.processors } else { options.workers };
        let (workers, threads) = Workers::start(&worker::Parts {
            live: live.clone(),
            metrics: metrics.clone(),
            access_log: access_log.clone(),
            count,
            files_max: options.machine.upstream_files(),
            large_reads: options.machine.large_reads(count),
            upload_windows: options.machine.upload_windows(count),
            drain: drain.clone(),
        })?;
        let applied = Arc::new(Applied {
            version: snapshot.version,
            hash: snapshot.hash.clone(),
            time: now(),
            origin,
            took: begun.elapsed(),
            comparison: Comparison::default(),
        });
        let parts = Arc::new(Parts {
            live,
            listeners: Listeners::new(
                workers.clone(),
                metrics.clone(),
                control.clone(),
                options.machine.client_files(),
            ),
            metrics: metrics.clone(),
            machine: options.machine,
            workers,
            drain,
            status: Status::new(applied.clone()),
            last_good: options.last_good,
            bell: Bell::default(),
            access_log,
            messages: options.messages,
            control,
            history: Mutex::new(History::new()),
            operators: Mutex::default(),
        });
        let (wakes, woken) = sync_channel(ASKS_MAX);
        let (over, ended) = watch::channel(false);
        let mut running = Self {
            parts: parts.clone(),
            wakes: wakes.clone(),
            workers: threads,
            reload: None,
            control: None,
            background: None,
            over,
        };

        let operations = Arc::new(Operations::new(parts.clone(), wakes.clone()));
        let mut admin = AdminServers::new(operations, metrics.clone(), &parts.machine);
        let prepared = match parts.prepare(&snapshot, &admin) {
            Ok(prepared) => prepared,
            Err(mut errors) => {
                // Nobody walks through an end that begins before the beginning.
                running.control = Some(control_thread(runtime, &parts, ended, false)?);
                return Err(errors.swap_remove(0));
            }
        };
        parts.commit(prepared, &snapshot, &mut admin);
        let (live, bell, drain) = (parts.live.clone(), parts.bell.clone(), parts.drain.clone());
        running.background = Some(background::start(live, bell, drain, ended.clone())?);
        metrics.started(now());
        parts.note(&applied, Vec::new(), inputs.bundle());
        tracing::info!(version = applied.version, hash = short(&applied.hash), origin = %origin, "the configuration is in force");
        if let Some(scarcity) = scarcity {
            tracing::warn!("{scarcity}");
        }
        warn_of_defaults(&snapshot);
        doubts(&snapshot).iter().for_each(|doubt| tracing::warn!("{doubt}"));
        if let Some(report) = refused {
            metrics.reload_refused();
            parts.status.refused(now(), report);
        }
        running.control = Some(control_thread(runtime, &parts, ended, true)?);
        let path = match options.source {
            Source::File(path) => Some(path),
            Source::Text { .. } => None,
        };
        let watcher = Watcher::new(wakes, metrics);
        let reloader = Reloader::new(parts, admin, path, seen, inputs.fingerprint().clone(), options.times, watcher);
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || reloader.run(&woken))?;
        running.reload = Some(thread);
        Ok(running)
    }

    /// Where the listener of this name listens.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses().into_iter().find(|(known, _)| **known == *name).and_then(|(_, address)| address.tcp())
    }

    /// Every listener's name and address.
    pub fn addresses(&self) -> Vec<(Arc<str>, ListenAddress)> {
        self.parts.listeners.addresses()
    }

    /// Where the admin listener listens.
    pub fn admin(&self) -> ListenAddress {
        self.operators().admin.expect("the admin listener is up before anybody can ask")
    }

    /// Where the listener for probes listens, if there is one.
    pub fn probes(&self) -> Option<ListenAddress> {
        self.operators().probes
    }

    fn operators(&self) -> Operators {
        self.parts.operators.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// The listening sockets.
    pub fn listeners(&self) -> &Arc<Listeners> {
        &self.parts.listeners
    }

    /// The end: to begin it, and to follow it.
    pub fn drain(&self) -> &Arc<Drain> {
        &self.parts.drain
    }

    /// Looks at the files again, as SIGHUP asks for. What comes of it is logged.
    pub fn reload(&self) {
        let (reply, _) = oneshot::channel();
        if self.wakes.try_send(Wake::Ask(Ask::Reload, reply)).is_err() {
            tracing::warn!("too many are asking for another configuration already");
        }
    }

    /// Waits until armiger has come to its end, which it begins without `drain.delay` if nobody has.
    pub fn stop(mut self) -> Stopped {
        self.finish();
        Stopped { cut: self.parts.drain.cut(), is_strict: self.parts.live.load().document.drain.strict }
    }

    fn finish(&mut self) {
        if self.control.is_none() {
            // The start broke off before there was anybody to walk through the end.
            self.parts.drain.hurry();
        }
        self.parts.drain.begin_without_delay();
        self.workers.drain(..).for_each(join);
        // It looks as soon as it has done what it is at.
        let _ = self.wakes.send(Wake::Stop);
        self.reload.take().into_iter().for_each(join);
        self.over.send_replace(true);
        self.background.take().into_iter().for_each(join);
        self.control.take().into_iter().for_each(join);
        if let Some(messages) = &self.parts.messages {
            messages.end_waits();
        }
        self.parts.access_log.close(LOG_CLOSE_WAIT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread panicked");
    }
}

/// The configuration to start with.
struct First {
    checked: Checked,
    origin: Origin,
    /// What the source was read from, used or not.
    seen: Inputs,
    /// Why the source is not used.
    refused: Option<Box<Report>>,
}

/// What the source says, or the last good one.
fn first(options: &Options, metrics: &Metrics) -> Result<First, StartError> {
    let partial = load(&options.source);
    let seen = partial.inputs.clone();
    let report = match compiled(partial, &options.machine, 1, metrics, Keeper::fresh()) {
        Ok(checked) => return Ok(First { checked, origin: Origin::Files, seen, refused: None }),
        Err(report) => report,
    };
    let Some(directory) = &options.last_good else { return Err(StartError::Config(report)) };
    let bundle = match Bundle::open(directory) {
        Ok(Some(bundle)) => bundle,
        Ok(None) => return Err(StartError::Config(report)),
        Err(error) => {
            tracing::error!(%error, "there is no last good configuration to start from");
            return Err(StartError::Config(report));
        }
    };
    match compiled(load_bundle::<Blocks>(&bundle), &options.machine, 1, metrics, Keeper::fresh()) {
        Ok(checked) => {
            tracing::error!(
                "the configuration is not usable, and armiger starts from the last good one in {}:\n{}",
                directory.display(),
                report.text(false)
            );
            Ok(First { checked, origin: Origin::LastGood, seen, refused: Some(report) })
        }
        Err(other) => {
            tracing::error!("the last good configuration is not usable either:\n{}", other.text(false));
            Err(StartError::Config(report))
        }
    }
}

/// The thread that accepts, serves operators, and walks through the end.
fn control_thread(
    runtime: Runtime,
    parts: &Arc<Parts>,
    mut ended: watch::Receiver<bool>,
    is_up: bool,
) -> std::io::Result<JoinHandle<()>> {
    let parts = parts.clone();
    std::thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async {
            if is_up {
                parts.drain.drive(|| parts.live.load().document.drain.clone(), &parts.listeners, &parts.workers).await;
            } else {
                parts.drain.undo(&parts.listeners, &parts.workers).await;
            }
            // Drained by request, the process stays until it is told to go: a supervisor would start it anew.
            let _ = ended.wait_for(|is_over| *is_over).await;
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_listen_at_a_file_is_told_of_no_port() {
        for (address, hint) in
            [("unix:/run/a.sock", "a folder that armiger may write to"), ("127.0.0.1:80", "a port of 1024")]
        {
            let error = ErrorKind::PermissionDenied.into();
            let told = StartError::Bind { address: address.into(), what: "admin".into(), error }.to_string();
            assert!(told.contains(hint), "{told}");
        }
    }
}
