//! Listening sockets, which change while connections come in: bound, handed on to the next plan, and closed so that no
//! connection is lost that the kernel has accepted.
//!
//! A socket is known by its address, whatever its listener is called. A reload first [`prepare`](Listeners::prepare)s,
//! which binds what is missing and changes nothing else, then [`commit`](Listeners::commit)s, which cannot fail.
//!
//! A socket is closed in three steps, for the kernel accepts on its own and resets what it has accepted when the socket
//! closes: it is told to ignore those who knock from now on (who knock again a second later, and then find the
//! successor or nobody), what has been accepted is taken over, and only then it closes.

mod accept;
mod ending;
mod listening;
mod source;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bound::Bound;
use super::socket_file::SocketFile;
use super::worker::Workers;
use crate::config::address::ListenAddress;
use crate::snapshot::ListenerPlan;
use crate::telemetry::metrics::Metrics;
use accept::{Hands, accept};
pub use listening::{Accepted, Listening, Place};
pub use source::bind;
use source::{Source, listen_beside};

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener `{name}` cannot listen on {address}: {error}")]
pub struct BindError {
    /// The listener.
    pub name: Arc<str>,
    /// The address, as in the configuration.
    pub address: ListenAddress,
    /// Why.
    pub error: io::Error,
}

/// All listening sockets of one armiger.
pub struct Listeners {
    workers: Arc<Workers>,
    metrics: Metrics,
    runtime: Handle,
    /// File descriptors from this number on are not for clients.
    files_max: u64,
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    /// In the order of the plans.
    open: Vec<Open>,
    /// Being closed.
    leaving: Vec<Open>,
    is_stopped: bool,
}

/// A socket with the task that accepts on it, which owns it.
struct Open {
    listening: Arc<Listening>,
    socket: Weak<Bound>,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Everything that a set of plans needs is bound. Dropped, it closes what was bound for it.
pub struct Prepared(Vec<(Arc<ListenerPlan>, Source)>);

/// Everything that a set of plans needs listens. Dropped, it closes what was bound for it.
pub struct Ready(Vec<(Arc<ListenerPlan>, Taken)>);

/// A listener's socket, as it is when nothing can go wrong any more.
enum Taken {
    /// It listens already.
    Open(Arc<Listening>),
    /// Connections wait in its queue.
    Bound(Bound, Option<SocketFile>, ListenAddress),
}

impl Listeners {
    /// None yet. Accepting happens on `runtime`. Clients may take `files_max` file descriptors, if that is bounded.
    pub fn new(workers: Arc<Workers>, metrics: Metrics, runtime: Handle, files_max: Option<u64>) -> Arc<Self> {
        let files_max = files_max.unwrap_or(u64::MAX);
        Arc::new(Self { workers, metrics, runtime, files_max, sockets: Mutex::default() })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        // Nothing panics under this lock.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds every address that is not bound yet, and changes nothing else. To be followed by [`Prepared::listen`] and
    /// [`Listeners::commit`], or dropped, before the next one.
    ///
    /// A socket whose address stays is handed on, whatever its listener is called. Port 0 is known by the listener's
    /// name, so it keeps its number.
    ///
    /// # Errors
    /// Every address that cannot be bound.
    pub fn prepare(&self, plans: &[Arc<ListenerPlan>]) -> Result<Prepared, Vec<BindError>> {
        let sockets = self.sockets();
        let mut free: Vec<&Open> = sockets.open.iter().collect();
        let mut sources: Vec<Option<Source>> = plans.iter().map(|_| None).collect();
        // Numbers first: a number is meant, a name only stands in for one.
        for by_name in [false, true] {
            for (plan, source) in plans.iter().zip(&mut sources) {
                let wanted = &plan.config.address;
                if wanted.tcp().is_some_and(|address| address.port() == 0) != by_name {
                    continue;
                }
                let is_same = |open: &&Open| match by_name {
                    false => open.listening.address == *wanted,
                    true => {
                        let plan_now = open.listening.plan.load();
                        plan_now.name == plan.name && plan_now.config.address == *wanted
                    }
                };
                if let Some(place) = free.iter().position(is_same) {
                    *source = Some(Source::Open(free.swap_remove(place).listening.clone()));
                }
            }
        }
        let going: Vec<Arc<Bound>> =
            free.into_iter().chain(&sockets.leaving).filter_map(|open| open.socket.upgrade()).collect();
        let mut errors = Vec::new();
        let mut prepared = Vec::with_capacity(plans.len());
        for (plan, source) in plans.iter().zip(sources) {
            match source.map_or_else(|| Source::of(plan, &going), Ok) {
                Ok(source) => prepared.push((plan.clone(), source)),
                Err(error) => {
                    errors.push(BindError { name: plan.name.clone(), address: plan.config.address.clone(), error });
                }
            }
        }
        if errors.is_empty() { Ok(Prepared(prepared)) } else { Err(errors) }
    }

    /// Puts everything in force. What is not among the plans is closed, without a reset for anybody; its connections end
    /// with their next answer, or when their keep-alive time is over.
    ///
    /// Does nothing once [`Listeners::stop_accepting`] was called.
    pub fn commit(&self, ready: Ready) {
        let mut sockets = self.sockets();
        if sockets.is_stopped {
            return;
        }
        let mut before = std::mem::take(&mut sockets.open);
        for (plan, taken) in ready.0 {
            let (socket, file, address) = match taken {
                Taken::Open(listening) => {
                    listening.follow(plan);
                    let place = before.iter().position(|open| Arc::ptr_eq(&open.listening, &listening));
                    sockets.open.extend(place.map(|place| before.swap_remove(place)));
                    continue;
                }
                Taken::Bound(socket, file, address) => (socket, file, address),
            };
            let place = file.as_ref().map(|file| file.place.clone());
            let open = self.open(Listening::new(address, place, plan), socket, file);
            sockets.open.push(open);
        }
        sockets.leaving.retain(|open| !open.task.is_finished());
        for open in before {
            open.listening.remove();
            open.leave.send_replace(true);
            sockets.leaving.push(open);
        }
    }

    /// Each listener's name and where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<(Arc<str>, ListenAddress)> {
        let sockets = self.sockets();
        sockets
            .open
            .iter()
            .map(|open| (open.listening.plan.load().name.clone(), open.listening.address.clone()))
            .collect()
    }

    /// Closes every socket, for good, and waits until what the kernel had accepted is with its worker.
    pub async fn stop_accepting(&self) {
        let (open, leaving) = {
            let mut sockets = self.sockets();
            sockets.is_stopped = true;
            (std::mem::take(&mut sockets.open), std::mem::take(&mut sockets.leaving))
        };
        for one in &open {
            one.leave.send_replace(true);
        }
        for one in open.into_iter().chain(leaving) {
            if let Err(error) = one.task.await {
                tracing::error!(%error, "a listener ended");
            }
        }
    }

    fn open(&self, listening: Arc<Listening>, socket: Bound, file: Option<SocketFile>) -> Open {
        let socket = Arc::new(socket);
        let (leave, leaving) = watch::channel(false);
        let held = Arc::downgrade(&socket);
        let hands = Hands { workers: self.workers.clone(), metrics: self.metrics.clone(), files_max: self.files_max };
        let accepting = accept(listening.clone(), socket, file, leaving, hands);
        let task = self.runtime.spawn(async move {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "cannot accept");
            }
        });
        Open { listening, socket: held, leave, task }
    }
}

impl Prepared {
    /// Listens where that had to wait. From here on connections come to where they will be served: to be called when
    /// nothing else can go wrong, right before [`Listeners::commit`].
    ///
    /// # Errors
    /// Every address that cannot be had after all: another process did the same at this moment.
    pub fn listen(self) -> Result<Ready, Vec<BindError>> {
        let mut errors = Vec::new();
        let mut ready = Vec::with_capacity(self.0.len());
        for (plan, source) in self.0 {
            match source {
                Source::Open(listening) => ready.push((plan, Taken::Open(listening))),
                Source::Bound(socket, address) => {
                    ready.push((plan, Taken::Bound(Bound::Tcp(socket), None, address.into())));
                }
                Source::File(socket, file, address) => {
                    ready.push((plan, Taken::Bound(Bound::Unix(socket), Some(file), address)));
                }
                Source::Beside(socket, address, rivals) => match listen_beside(socket, &rivals) {
                    Ok(socket) => ready.push((plan, Taken::Bound(Bound::Tcp(socket), None, address.into()))),
                    Err(error) => errors.push(BindError { name: plan.name.clone(), address: address.into(), error }),
                },
            }
        }
        if errors.is_empty() { Ok(Ready(ready)) } else { Err(errors) }
    }
}
