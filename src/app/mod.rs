//! The only file that knows everyone: a configuration becomes a running armiger.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Issues;
use crate::config::issue::Report;
use crate::config::load::{Environment, Partial, decode_partial, load_partial};
use crate::config::observe::LogFormat;
use crate::keep::Keeper;
use crate::policy::Blocks;
use crate::server::admin::Admin;
use crate::server::listener::{self, Listening};
use crate::server::worker::{Parts, Workers};
use crate::snapshot::{Live, Snapshot, compile};
use crate::telemetry::access_log::{self, AccessLog, Format, Writer};
use crate::telemetry::finish::Keeps;
use crate::telemetry::metrics::Metrics;

/// How long the access log's writer may take to write what it has when armiger stops.
const LOG_CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
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
    /// How many workers serve. 0: as many as the machine, or its control group, gives processors.
    pub workers: usize,
    /// Where the access log goes. `None`: standard output.
    pub access_log: Option<Box<dyn Write + Send>>,
}

impl Options {
    /// Everything else as usual.
    pub fn new(source: Source) -> Self {
        Self { source, workers: 0, access_log: None }
    }
}

/// Why armiger did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong; the report tells where and how to mend it.
    #[error("the configuration is not usable")]
    Config(Box<Report>),
    /// An address could not be bound.
    #[error("cannot listen on {address} ({what}): {error}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// The listener's name, or `admin`.
        what: String,
        /// Why.
        error: std::io::Error,
    },
    /// The system refused a thread or a runtime.
    #[error("cannot start")]
    System(#[from] std::io::Error),
}

/// Loads and compiles a configuration: all of `armiger check`. Touches no network and starts nothing.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn check(
    source: &Source,
    version: u64,
    metrics: &Metrics,
    mut keeper: Keeper<'_>,
) -> Result<Snapshot, Box<Report>> {
    let partial = match source {
        Source::File(path) => load_partial::<Blocks>(path),
        Source::Text { name, text } => decode_partial::<Blocks>(name, text, &Environment::process()),
    };
    let Partial { document, source, mut issues, files: _, outside } = partial;
    let compiled = document.and_then(|document| {
        let mut found = Issues::new();
        let compiled = compile(document, &source, version, metrics, &mut keeper, &mut found);
        issues.append(found);
        compiled
    });
    match compiled {
        Some(snapshot) if issues.is_empty() => Ok(Snapshot { outside, kept: keeper.finish().0, ..snapshot }),
        _ => Err(Box::new(source.report(issues))),
    }
}

/// A running armiger. Stops when dropped.
pub struct Running {
    addresses: Vec<(Arc<str>, SocketAddr)>,
    admin: SocketAddr,
    stopping: watch::Sender<bool>,
    ready: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    access_log: AccessLog,
}

impl Running {
    /// Starts: everything that can fail fails here.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(options: Options) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let snapshot = Arc::new(check(&options.source, 1, &metrics, Keeper::fresh()).map_err(StartError::Config)?);
        let listening = snapshot
            .listeners
            .iter()
            .map(|plan| {
                Listening::bind(plan).map_err(|error| StartError::Bind {
                    address: plan.config.address,
                    what: format!("listener `{}`", plan.name),
                    error,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let admin_address = snapshot.document.admin.address;
        let admin_socket = listener::bind(admin_address).map_err(|error| StartError::Bind {
            address: admin_address,
            what: "admin".into(),
            error,
        })?;
        let admin_address = admin_socket.local_addr()?;

        let (lines, keeps) = log_settings(&snapshot);
        let access_log = Writer::start(lines, options.access_log.unwrap_or_else(access_log::stdout), &metrics)?;
        let (stopping, stop) = watch::channel(false);
        let live = Arc::new(Live::new(snapshot));
        let parts = Parts {
            live: live.clone(),
            metrics: metrics.clone(),
            access_log: access_log.clone(),
            keeps,
            count: if options.workers == 0 { processors() } else { options.workers },
            stopping: stop.clone(),
        };
        metrics.started(now());
        let (workers, mut threads) = Workers::start(&parts)?;
        let ready = Arc::new(AtomicBool::new(true));
        let addresses = listening.iter().map(|one| (one.plan.name.clone(), one.address)).collect();
        let admin = Arc::new(Admin { live, metrics: metrics.clone(), ready: ready.clone() });
        threads.push(control(listening, workers, metrics, admin, admin_socket, stop)?);
        Ok(Self { addresses, admin: admin_address, stopping, ready, threads, access_log })
    }

    /// Where the listener of this name listens.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(known, _)| **known == *name).map(|(_, address)| *address)
    }

    /// Every listener's name and address.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.addresses.iter().map(|(name, address)| (&**name, *address))
    }

    /// Where the admin listener listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Stops accepting, lets exchanges finish for a while, writes the log out.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ready.store(false, Ordering::Relaxed);
        self.stopping.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread panicked");
            }
        }
        self.access_log.close(LOG_CLOSE_WAIT);
    }
}

/// The thread that accepts and serves the admin listener.
fn control(
    listening: Vec<Arc<Listening>>,
    workers: Arc<Workers>,
    metrics: Metrics,
    admin: Arc<Admin>,
    admin_socket: std::net::TcpListener,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for one in listening {
                tasks.spawn(one.accept(workers.clone(), metrics.clone()));
            }
            tasks.spawn(admin.serve(admin_socket));
            let ended = async {
                while let Some(ended) = tasks.join_next().await {
                    tracing::error!(?ended, "a listener ended");
                }
            };
            tokio::select! {
                () = ended => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            tasks.shutdown().await;
        });
    })
}

#[expect(clippy::disallowed_methods, reason = "the time of day at the start, for a metric")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a line shows, and what is kept of an exchange for it.
fn log_settings(snapshot: &Snapshot) -> (access_log::Options, Keeps) {
    let config = &snapshot.access_log;
    let headers: Vec<HeaderName> =
        config.headers.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    let lines = access_log::Options {
        format: match config.format {
            LogFormat::Json => Format::Json,
            LogFormat::Text => Format::Text,
            LogFormat::Off => Format::Off,
        },
        query: true,
        query_keys: config.query.clone(),
        headers: headers.clone(),
    };
    let keeps = Keeps {
        is_on: config.format != LogFormat::Off,
        sample: config.sample,
        slow: config.slow.get(),
        headers,
        query: true,
    };
    (lines, keeps)
}

/// SIGTERM and Ctrl-C. From [`StopSignals::listen`] on they no longer end the process.
pub struct StopSignals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens. To be done before armiger starts: whoever sees that it serves may already stop it.
    ///
    /// # Errors
    /// The system does not let us listen for signals.
    pub fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(inside);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Waits for one, and tells which came.
    pub fn wait(self) -> &'static str {
        let Self { runtime, mut terminate, mut interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        })
    }
}
