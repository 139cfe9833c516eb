//! A worker: a thread with a runtime of its own, whose state no other thread touches.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;

use super::connection;
use super::gate::Scratch;
use super::listener::Accepted;
use crate::proxy::Worker;
use crate::snapshot::Live;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::finish::{Keeps, Logger};
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;
use crate::upstream::Pools;

/// Connections that may wait for their worker to take them.
const HANDOVER_MAX: usize = 1024;

/// How long a line of the access log may wait for company.
const LOG_DELAY: Duration = Duration::from_millis(100);

/// How long connections may take to end once armiger stops.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// What every worker is made of.
#[derive(Clone)]
pub struct Parts {
    /// The snapshot in force.
    pub live: Arc<Live>,
    /// Metrics.
    pub metrics: Metrics,
    /// The writer of the access log.
    pub access_log: AccessLog,
    /// What the access log keeps.
    pub keeps: Keeps,
    /// How many workers there are.
    pub count: usize,
    /// Turns true when armiger stops.
    pub stopping: watch::Receiver<bool>,
}

/// The running workers, from the point of view of those who accept.
pub struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

struct Handle {
    sender: mpsc::Sender<(Accepted, Open)>,
    open: Arc<AtomicUsize>,
}

/// Counts a connection as open on its worker until it is dropped, be it by a panic.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread or its runtime could not be had.
    pub fn start(parts: &Parts) -> io::Result<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let mut handles = Vec::with_capacity(parts.count);
        let mut threads = Vec::with_capacity(parts.count);
        for place in 0..parts.count {
            let (sender, receiver) = mpsc::channel(HANDOVER_MAX);
            let open = Arc::new(AtomicUsize::new(0));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (parts, counted) = (parts.clone(), open.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{place}")).spawn(move || {
                LocalSet::new().block_on(&runtime, run(place, parts, receiver, counted));
                // A name lookup that hangs must not hold up the end.
                runtime.shutdown_background();
            })?;
            handles.push(Handle { sender, open });
            threads.push(thread);
        }
        Ok((Arc::new(Self { handles, next: AtomicUsize::new(0) }), threads))
    }

    /// Gives a connection to the worker with the fewest open ones; among equals, in turn.
    pub async fn give(&self, accepted: Accepted) {
        let from = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.handles.len()).map(|place| &self.handles[(from + place) % self.handles.len()]);
        let Some(least) = in_turn.min_by_key(|handle| handle.open.load(Ordering::Relaxed)) else { return };
        let open = Open::new(&least.open);
        // Fails once the worker stops, and the connection is closed.
        let _ = least.sender.send((accepted, open)).await;
    }
}

/// What the connections of a worker share beyond [`Worker`].
pub(super) struct Shared {
    pub(super) worker: Rc<Worker>,
    pub(super) scratch: Scratch,
    pub(super) metrics: Metrics,
    stopping: Cell<bool>,
    stop: Notify,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Waits until armiger stops.
    pub(super) async fn stopped(&self) {
        let stop = self.stop.notified();
        if !self.stopping.get() {
            stop.await;
        }
    }
}

async fn run(place: usize, parts: Parts, mut receiver: mpsc::Receiver<(Accepted, Open)>, open: Arc<AtomicUsize>) {
    let metrics = parts.metrics.worker(place);
    let wheel = Wheel::new();
    tokio::task::spawn_local(wheel.clone().run());
    let log = Rc::new(Logger::new(parts.access_log.buffer(), parts.keeps.clone(), &parts.metrics));
    tokio::task::spawn_local(flush(log.clone()));
    let pools = Pools::new(wheel.clone(), parts.count);
    let worker = Rc::new(Worker::new(parts.live.reader(), pools, wheel, log.clone()));
    let shared = Rc::new(Shared {
        worker,
        scratch: Scratch::new(),
        metrics: parts.metrics.clone(),
        stopping: Cell::new(false),
        stop: Notify::new(),
    });
    let mut stopping = parts.stopping.clone();
    let emptied = Rc::new(Notify::new());
    loop {
        let accepted = tokio::select! {
            accepted = receiver.recv() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some((accepted, open)) = accepted else { break };
        let shared = shared.clone();
        let guards = (Ending(emptied.clone()), open, metrics.accepted());
        tokio::task::spawn_local(async move {
            let _guards = guards;
            connection::serve(&shared, accepted).await;
        });
    }
    receiver.close();
    while let Ok(unserved) = receiver.try_recv() {
        drop(unserved);
    }
    shared.stopping.set(true);
    shared.stop.notify_waiters();
    let ended = async {
        while open.load(Ordering::Relaxed) > 0 {
            emptied.notified().await;
        }
    };
    if tokio::time::timeout(STOP_WAIT, ended).await.is_err() {
        tracing::warn!(connections = open.load(Ordering::Relaxed), "connections cut: they did not end in time");
        log.cut();
    }
    log.flush();
}

/// Wakes who waits for the connections to end.
struct Ending(Rc<Notify>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Hands the log over soon after a line was written. An idle worker is not woken.
async fn flush(log: Rc<Logger>) {
    loop {
        log.written().await;
        tokio::time::sleep(LOG_DELAY).await;
        log.flush();
    }
}
