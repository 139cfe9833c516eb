//! A worker: a thread with a runtime of its own, whose state no other thread touches.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot};

use super::connection;
use super::drain::{Drain, Phase};
use super::gate::Scratch;
use super::http2::Windows;
use super::listener::Accepted;
use crate::proxy::Worker;
use crate::snapshot::Live;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::finish::Logger;
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;
use crate::upstream::Pools;
use crate::upstream::pool::PoolState;

/// Connections that may wait for their worker to take them.
const HANDOVER_MAX: usize = 1024;

/// How long a worker may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// How many tasks are polled before the worker looks for news, if there are that many: a round of [`crate::turn`] with 64
/// connections, each of which is polled twice, is not cut in its midst. Most polls take some microseconds; one that compresses
/// or checks a signature takes more, and timers wait for as many.
const POLLS_PER_ROUND: u32 = 128;

/// How long a line of the access log may wait for company.
const LOG_DELAY: Duration = Duration::from_millis(100);

/// How long connections have to notice that they are cut, so that they can tell their clients by a reset.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// What every worker is made of.
#[derive(Clone)]
pub struct Parts {
    /// The snapshot in force.
    pub live: Arc<Live>,
    /// Metrics.
    pub metrics: Metrics,
    /// The writer of the access log.
    pub access_log: AccessLog,
    /// How many workers there are.
    pub count: usize,
    /// How many file descriptors may be open for one more connection to an upstream, if that is bounded.
    pub files_max: Option<u64>,
    /// How many bytes a worker may hold of answers that it reads in large pieces.
    pub large_reads: usize,
    /// How many bytes the HTTP/2 clients of a worker may send ahead of who reads them, beyond a least of each.
    pub upload_windows: usize,
    /// How armiger ends.
    pub drain: Arc<Drain>,
}

/// The running workers, from the point of view of those who accept.
pub struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

struct Handle {
    sender: mpsc::Sender<Message>,
    open: Arc<AtomicUsize>,
}

/// What other threads tell a worker.
enum Message {
    /// Serve this connection.
    Serve(Box<Accepted>, Open),
    /// Another snapshot is in force: let go of the old one, be there requests or not, and say so.
    Refresh(oneshot::Sender<()>),
    /// Tell what is open to upstreams.
    Pools(oneshot::Sender<Vec<PoolState>>),
    /// No connection comes after this one's.
    Last,
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
            let (sender, mut receiver) = mpsc::channel(HANDOVER_MAX);
            let open = Arc::new(AtomicUsize::new(0));
            let (parts, counted) = (parts.clone(), open.clone());
            let (begun, has_begun) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(format!("worker-{place}")).spawn(move || {
                // Not a `LocalSet` on a runtime of the usual kind: that is a scheduler within another one, and each turn goes
                // through both.
                let options = LocalOptions::default();
                let mut builder = Builder::new_current_thread();
                let runtime = match builder.enable_all().event_interval(POLLS_PER_ROUND).build_local(options) {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(begun.send(Err(error))),
                };
                // Who started the worker waits for it.
                let _ = begun.send(Ok(()));
                let log = Rc::new(Logger::new(parts.access_log.buffer(), &parts.metrics));
                runtime.block_on(run(place, &parts, log.clone(), &mut receiver, counted));
                // What was not over is now. A name lookup that hangs must not hold up the end.
                runtime.shutdown_background();
                log.flush();
                parts.drain.count_cut(log.cuts());
                // Whoever waits for the worker's end waits for this.
                drop(receiver);
            })?;
            has_begun.recv().map_err(io::Error::other)??;
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
        // Fails once the worker has ended, and the connection is closed.
        let _ = least.sender.send(Message::Serve(Box::new(accepted), open)).await;
    }

    /// Lets every worker look at the snapshot that is in force now, and waits until each has let go of the old one. One
    /// that is very busy is not waited for longer than a second.
    pub async fn refresh(&self) {
        let mut done = Vec::with_capacity(self.handles.len());
        for handle in &self.handles {
            let (reply, answer) = oneshot::channel();
            // Fails once the worker has ended, and then it holds nothing.
            let _ = handle.sender.send(Message::Refresh(reply)).await;
            done.push(tokio::time::timeout(ANSWER_WAIT, answer));
        }
        for answer in done {
            let _ = answer.await;
        }
    }

    /// What is open to upstreams, over all workers. One that does not answer in time, as it is over or very busy, is left
    /// out.
    pub async fn pools(&self) -> Vec<PoolState> {
        let mut answers = Vec::with_capacity(self.handles.len());
        for handle in &self.handles {
            let (reply, answer) = oneshot::channel();
            if handle.sender.try_send(Message::Pools(reply)).is_ok() {
                answers.push(tokio::time::timeout(ANSWER_WAIT, answer));
            }
        }
        let mut states = Vec::with_capacity(answers.len());
        for answer in answers {
            if let Ok(Ok(state)) = answer.await {
                states.push(state);
            }
        }
        PoolState::merge(states)
    }

    /// Tells the workers that no connection comes any more, and waits until all have ended: each ends with its last
    /// connection, or when what is left is cut.
    pub async fn finish(&self) {
        for handle in &self.handles {
            // Fails once the worker has ended.
            let _ = handle.sender.send(Message::Last).await;
        }
        for handle in &self.handles {
            handle.sender.closed().await;
        }
    }
}

/// What the connections of a worker share beyond [`Worker`].
pub(super) struct Shared {
    pub(super) worker: Rc<Worker>,
    pub(super) scratch: Scratch,
    pub(super) metrics: Metrics,
    pub(super) windows: Rc<Windows>,
    phase: Cell<Phase>,
    moved_on: Notify,
}

impl Shared {
    /// How far armiger's end has come.
    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Ready when armiger's end has moved on from the phase that it has when this is called.
    pub(super) fn moved_on(&self) -> Notified<'_> {
        self.moved_on.notified()
    }

    /// Waits until armiger's end has come so far.
    pub(super) async fn reached(&self, phase: Phase) {
        loop {
            let moved_on = self.moved_on.notified();
            if self.phase.get() >= phase {
                return;
            }
            moved_on.await;
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.worker.is_draining.set(phase >= Phase::LameDuck);
        self.moved_on.notify_waiters();
    }
}

async fn run(
    place: usize,
    parts: &Parts,
    log: Rc<Logger>,
    receiver: &mut mpsc::Receiver<Message>,
    open: Arc<AtomicUsize>,
) {
    let metrics = parts.metrics.worker(place);
    let wheel = Wheel::new();
    tokio::task::spawn_local(wheel.clone().run());
    tokio::task::spawn_local(flush(log.clone()));
    let pools = Pools::new(wheel.clone(), parts.count);
    parts.files_max.into_iter().for_each(|files_max| pools.leave_files(files_max));
    pools.bound_large_reads(parts.large_reads);
    let worker = Rc::new(Worker::new(parts.live.reader(), pools, wheel, log.clone()));
    let shared = Rc::new(Shared {
        scratch: Scratch::new(worker.requests.clone()),
        worker,
        metrics: parts.metrics.clone(),
        windows: Windows::new(parts.upload_windows),
        phase: Cell::new(Phase::Serving),
        moved_on: Notify::new(),
    });
    let mut phases = parts.drain.subscribe();
    // The end may have begun before this thread did.
    phases.mark_changed();
    let emptied = Rc::new(Notify::new());
    let (mut is_last, mut is_alone) = (false, false);
    // Not counted while connections may still be on their way here.
    let unfinished = shared.worker.unfinished.clone();
    while !is_last || open.load(Ordering::Relaxed) > 0 || !unfinished.is_none() {
        let message = tokio::select! {
            message = receiver.recv(), if !is_alone => match message {
                Some(message) => message,
                None => {
                    is_alone = true;
                    Message::Last
                }
            },
            // The sender is among `parts`.
            _ = phases.changed() => {
                let phase = *phases.borrow_and_update();
                shared.enter(phase);
                if phase == Phase::Forced {
                    break;
                }
                continue;
            }
            () = emptied.notified() => continue,
            // Nobody is woken for it before that.
            () = unfinished.one_ended(), if is_last => continue,
        };
        match message {
            Message::Serve(accepted, open) => {
                let shared = shared.clone();
                let guards = (Ending(emptied.clone()), open, metrics.accepted());
                tokio::task::spawn_local(async move {
                    let _guards = guards;
                    connection::serve(&shared, *accepted).await;
                });
            }
            Message::Refresh(reply) => {
                let worker = &shared.worker;
                let snapshot = worker.reader.borrow_mut().load().clone();
                worker.pools.refresh(snapshot.version, &snapshot.upstreams);
                // Whoever waits may have given up.
                let _ = reply.send(());
            }
            // Whoever asked may have gone.
            Message::Pools(reply) => drop(reply.send(shared.worker.pools.states())),
            Message::Last => is_last = true,
        }
    }
    if open.load(Ordering::Relaxed) > 0 {
        log.cut();
        let ended = async {
            loop {
                while let Ok(unserved) = receiver.try_recv() {
                    drop(unserved);
                }
                if open.load(Ordering::Relaxed) == 0 {
                    return;
                }
                emptied.notified().await;
            }
        };
        // Who has not noticed by then is dropped with its task.
        let _ = tokio::time::timeout(CUT_WAIT, ended).await;
    }
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
