//! A worker's connections: which are idle, how many may be open, and who waits for one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Upstream;
use super::connect::{Lookups, connect, within};
use super::error::{Error, Kind};
use super::http1;
use super::http2;
use super::link::{Link, Scratch, Wire};
use super::plan::Plan;
use crate::config::upstream::Protocol;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::timer::{Timer, Wheel};

/// How often idle connections are looked through. Checkout never takes one that is over its time, so this only bounds
/// how long a dead one keeps its socket.
const SWEEP: Duration = Duration::from_millis(500);

/// Everything that one worker has open to upstreams. Made once per worker; a [`Upstream::slot`] is its place here.
///
/// Dropping it closes what is idle; a connection in use closes after its exchange.
pub struct Pools {
    worker: Rc<Worker>,
    slots: RefCell<Vec<Option<Rc<Pool>>>>,
}

/// What all pools of a worker share.
pub(super) struct Worker {
    pub(super) wheel: Wheel,
    pub(super) scratch: Scratch,
    lookups: Lookups,
    /// Connection tasks that run. Nobody but this count and the connection's own handle knows of them.
    pub(super) tasks: Rc<Cell<usize>>,
    workers: usize,
    benches: RefCell<Vec<Weak<Bench>>>,
    is_sweeping: Cell<bool>,
}

/// A worker's connections to one upstream.
pub(super) struct Pool {
    plan: Arc<Plan>,
    benches: Box<[Rc<Bench>]>,
}

impl Pools {
    /// The pools of one of `workers` workers, among whom every bound of an upstream is divided.
    pub fn new(wheel: Wheel, workers: usize) -> Self {
        let worker = Worker {
            wheel,
            scratch: Scratch::default(),
            lookups: Lookups::default(),
            tasks: Rc::default(),
            workers: workers.max(1),
            benches: RefCell::default(),
            is_sweeping: Cell::new(false),
        };
        Self { worker: Rc::new(worker), slots: RefCell::default() }
    }

    /// Connections whose task runs, idle or not. 0 when everything is closed.
    pub fn connections(&self) -> usize {
        self.worker.tasks.get()
    }

    pub(super) fn wheel(&self) -> &Wheel {
        &self.worker.wheel
    }

    /// The connections to `upstream`. A slot that belonged to another plan is given over, as after a reload.
    pub(super) fn pool(&self, upstream: &Upstream) -> Rc<Pool> {
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= upstream.slot {
            slots.resize_with(upstream.slot + 1, || None);
        }
        let slot = &mut slots[upstream.slot];
        match slot {
            Some(pool) if Arc::ptr_eq(&pool.plan, &upstream.plan) => pool.clone(),
            _ => {
                let pool = Rc::new(Pool::new(upstream, &self.worker));
                if let Some(old) = slot.replace(pool.clone()) {
                    old.retire();
                }
                pool
            }
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        for pool in self.slots.take().into_iter().flatten() {
            pool.retire();
        }
    }
}

impl Pool {
    fn new(upstream: &Upstream, worker: &Rc<Worker>) -> Self {
        let plan = &upstream.plan;
        let share = |whole: usize| whole.div_ceil(worker.workers);
        let benches: Box<[_]> = (0..plan.endpoints.len())
            .map(|endpoint| {
                Rc::new(Bench {
                    worker: worker.clone(),
                    plan: plan.clone(),
                    endpoint,
                    metrics: upstream.metrics.clone(),
                    // Rounded down, or the workers together would go beyond what the user allowed.
                    open_max: (plan.connections_max / worker.workers).max(1),
                    open: Cell::new(0),
                    idle: RefCell::default(),
                    shared: RefCell::default(),
                    connecting: Cell::new(0),
                    waiting: RefCell::default(),
                    waiting_max: share(plan.queue_max),
                    is_retired: Cell::new(false),
                })
            })
            .collect();
        let mut all = worker.benches.borrow_mut();
        all.retain(|bench| bench.strong_count() > 0);
        all.extend(benches.iter().map(Rc::downgrade));
        Self { plan: plan.clone(), benches }
    }

    pub(super) fn bench(&self, endpoint: usize) -> &Rc<Bench> {
        &self.benches[endpoint]
    }

    fn retire(&self) {
        self.benches.iter().for_each(|bench| bench.retire());
    }
}

/// A worker's connections to one endpoint.
pub(super) struct Bench {
    pub(super) worker: Rc<Worker>,
    pub(super) plan: Arc<Plan>,
    pub(super) endpoint: usize,
    pub(super) metrics: UpstreamMetrics,
    open_max: usize,
    /// Connections that are open or being opened: the [`Room`]s given out.
    open: Cell<usize>,
    /// HTTP/1.1 connections in nobody's use, the latest used last.
    idle: RefCell<VecDeque<Rc<http1::Connection>>>,
    /// HTTP/2 connections that take new streams.
    shared: RefCell<Vec<Rc<http2::Connection>>>,
    connecting: Cell<usize>,
    waiting: RefCell<VecDeque<oneshot::Sender<Grant>>>,
    waiting_max: usize,
    is_retired: Cell<bool>,
}

/// A connection for one exchange.
pub(super) enum Line {
    Http1(Rc<http1::Connection>),
    Http2(Rc<http2::Stream>),
}

/// Leave to have one more connection open. Passed to who waits when it is dropped.
pub(super) struct Room(Rc<Bench>);

/// What a waiter gets. Dropped, as when the waiter is gone, it goes to the next or back to the bench.
enum Grant {
    Line(Loan),
    Room(Room),
    /// The connection that several were waiting for did not come about.
    Failed(Kind),
}

/// A line on its way to a waiter.
struct Loan(Option<Line>);

impl Loan {
    fn take(mut self) -> Option<Line> {
        self.0.take()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // A stream of HTTP/2 gives itself back.
        if let Some(Line::Http1(connection)) = self.0.take() {
            connection.put_back();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let bench = &self.0;
        bench.open.set(bench.open.get() - 1);
        bench.make_room();
    }
}

/// Where a line came from.
pub(super) struct Checkout {
    pub(super) line: Line,
    /// It has carried a request before, so it may be closing.
    pub(super) is_reused: bool,
}

impl Bench {
    /// A connection: an idle one unless `is_fresh` asks for a new one, a new one, or what comes free.
    pub(super) async fn checkout(self: &Rc<Self>, is_fresh: bool, timer: &mut Timer) -> Result<Checkout, Error> {
        loop {
            if let Some(line) = self.at_hand(is_fresh) {
                return Ok(self.reuse(line));
            }
            if let Some(room) = self.room(is_fresh) {
                return self.open(room, timer).await;
            }
            match self.wait(timer).await? {
                Grant::Failed(kind) => return Err(kind.into()),
                Grant::Room(room) => return self.open(room, timer).await,
                Grant::Line(loan) => match loan.take() {
                    Some(Line::Http1(connection)) if is_fresh || !connection.is_usable(self.worker.wheel.now()) => {
                        // Its room is what counts here: the new connection takes its place.
                        let Some(room) = connection.close() else { continue };
                        return self.open(room, timer).await;
                    }
                    Some(line) => return Ok(self.reuse(line)),
                    None => continue,
                },
            }
        }
    }

    fn reuse(&self, line: Line) -> Checkout {
        self.metrics.reused();
        if let Line::Http1(connection) = &line {
            connection.activate();
        }
        Checkout { line, is_reused: true }
    }

    fn at_hand(self: &Rc<Self>, is_fresh: bool) -> Option<Line> {
        let now = self.worker.wheel.now();
        if self.plan.protocol == Protocol::H2c {
            // A stream that was refused or lost took its connection's room with it: what still has room is as good
            // as new.
            return self.stream(now).map(Line::Http2);
        }
        if is_fresh {
            return None;
        }
        loop {
            // Dropped where it is not usable, which closes it. Never while the list is borrowed: its room may go on
            // to a waiter.
            let connection = self.idle.borrow_mut().pop_back()?;
            if connection.is_usable(now) {
                return Some(Line::Http1(connection));
            }
        }
    }

    fn room(self: &Rc<Self>, is_fresh: bool) -> Option<Room> {
        if self.plan.protocol == Protocol::H2c && self.connecting.get() > 0 {
            // A connection of many streams is on its way. More of them open only when it turned out too small.
            return None;
        }
        if self.open.get() < self.open_max {
            self.open.set(self.open.get() + 1);
            return Some(Room(self.clone()));
        }
        if is_fresh {
            let oldest = self.idle.borrow_mut().pop_front()?;
            return oldest.close();
        }
        None
    }

    async fn open(self: &Rc<Self>, room: Room, timer: &mut Timer) -> Result<Checkout, Error> {
        let attempt = Connecting::start(self);
        let outcome = self.establish(room, timer).await;
        // While `attempt` lives, nobody else opens an HTTP/2 connection: first those who waited for this one get theirs.
        match &outcome {
            Ok(Line::Http1(_)) => {}
            Ok(Line::Http2(_)) => self.share_streams(),
            Err(error) if self.plan.protocol == Protocol::H2c => self.fail_waiting(error.kind()),
            Err(_) => {}
        }
        drop(attempt);
        let line = outcome?;
        self.metrics.opened();
        Ok(Checkout { line, is_reused: false })
    }

    async fn establish(self: &Rc<Self>, room: Room, timer: &mut Timer) -> Result<Line, Error> {
        let stream =
            connect(&self.plan.endpoints[self.endpoint].address, &self.worker.lookups, self.plan.connect, timer)
                .await?;
        let link = Link::new(stream, self.worker.wheel.now());
        let wire = Wire::new(link.clone(), self.worker.wheel.clone(), self.worker.scratch.clone());
        let broken = |error: hyper::Error| Error::because(Kind::Reset, error);
        match self.plan.protocol {
            Protocol::Http1 => Ok(Line::Http1(http1::Connection::start(room, link, wire).await.map_err(broken)?)),
            Protocol::H2c => {
                timer.arm(self.plan.connect);
                let start = within(timer, http2::Connection::start(room, wire)).await.ok_or(Kind::ConnectTimeout)?;
                let connection = start.map_err(broken)?;
                let stream = connection.stream();
                self.shared.borrow_mut().push(connection);
                Ok(Line::Http2(stream))
            }
        }
    }

    async fn wait(self: &Rc<Self>, timer: &mut Timer) -> Result<Grant, Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() >= self.waiting_max {
                waiting.retain(|waiter| !waiter.is_closed());
                if waiting.len() >= self.waiting_max {
                    return Err(Kind::QueueFull.into());
                }
            }
            waiting.push_back(sender);
        }
        let queued = self.metrics.queued();
        let began = Instant::now();
        timer.arm(self.plan.queue_wait);
        let granted = within(timer, receiver).await;
        drop(queued);
        self.metrics.queue_waited(began.elapsed());
        match granted {
            Some(Ok(grant)) => Ok(grant),
            // The sender is only dropped unused with the bench itself.
            Some(Err(_)) => Err(Kind::Reset.into()),
            None => {
                self.metrics.queue_timed_out();
                Err(Kind::QueueWait.into())
            }
        }
    }

    /// Gives `grant` to whoever waits longest, or back.
    fn offer(&self, mut grant: Grant) -> Option<Grant> {
        loop {
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else { return Some(grant) };
            match waiter.send(grant) {
                Ok(()) => return None,
                Err(back) => grant = back,
            }
        }
    }

    /// Lets one who waits open a connection, if another may be open.
    fn make_room(self: &Rc<Self>) {
        let is_coming = self.plan.protocol == Protocol::H2c && self.connecting.get() > 0;
        if self.open.get() < self.open_max && !is_coming && !self.waiting.borrow().is_empty() {
            self.open.set(self.open.get() + 1);
            // Unwanted, it is dropped and asks again here; but then nobody waits any more.
            drop(self.offer(Grant::Room(Room(self.clone()))));
        }
    }

    /// An HTTP/1.1 connection is free again.
    pub(super) fn put(self: &Rc<Self>, connection: Rc<http1::Connection>) {
        if self.is_retired.get() {
            return;
        }
        let Some(Grant::Line(loan)) = self.offer(Grant::Line(Loan(Some(Line::Http1(connection))))) else { return };
        if let Some(Line::Http1(connection)) = loan.take() {
            self.idle.borrow_mut().push_back(connection);
            self.sweep_later();
        }
    }

    /// An HTTP/1.1 connection closed by itself.
    pub(super) fn forget_idle(&self, connection: &Rc<http1::Connection>) {
        let removed = {
            let mut idle = self.idle.borrow_mut();
            let place = idle.iter().position(|other| Rc::ptr_eq(other, connection));
            place.and_then(|place| idle.remove(place))
        };
        drop(removed);
    }

    fn stream(&self, now: Instant) -> Option<Rc<http2::Stream>> {
        self.drop_spent(now);
        self.shared.borrow().iter().find(|connection| connection.has_room()).map(|connection| connection.stream())
    }

    /// Takes no new streams on connections that are closed, draining or too old.
    fn drop_spent(&self, now: Instant) {
        let mut spent = Vec::new();
        self.shared.borrow_mut().retain(|connection| {
            let keep = connection.is_usable(now);
            if !keep {
                spent.push(connection.clone());
            }
            keep
        });
        drop(spent);
    }

    /// Gives what streams there are to who waits, and lets another connection open if that is not enough.
    pub(super) fn share_streams(self: &Rc<Self>) {
        while !self.waiting.borrow().is_empty() {
            let Some(stream) = self.stream(self.worker.wheel.now()) else { break };
            if self.offer(Grant::Line(Loan(Some(Line::Http2(stream))))).is_some() {
                break;
            }
        }
        self.make_room();
        if self.shared.borrow().iter().any(|connection| connection.is_idle()) {
            self.sweep_later();
        }
    }

    fn fail_waiting(&self, kind: Kind) {
        let waiting = self.waiting.take();
        for waiter in waiting {
            // A waiter that is gone needs no word.
            let _ = waiter.send(Grant::Failed(kind));
        }
    }

    fn retire(&self) {
        self.is_retired.set(true);
        drop(self.idle.take());
        drop(self.shared.take());
    }

    fn sweep_later(&self) {
        let worker = &self.worker;
        if !worker.is_sweeping.replace(true) {
            tokio::task::spawn_local(sweep(worker.clone()));
        }
    }

    /// Closes what was idle too long. Says whether anything is idle still.
    fn sweep(&self, now: Instant) -> bool {
        loop {
            let is_over = self.idle.borrow().front().is_some_and(|connection| connection.is_over(now));
            if !is_over {
                break;
            }
            // Not dropped while the list is borrowed.
            let over = self.idle.borrow_mut().pop_front();
            drop(over);
        }
        self.drop_spent(now);
        !self.idle.borrow().is_empty() || self.shared.borrow().iter().any(|connection| connection.is_idle())
    }
}

impl Room {
    pub(super) fn bench(&self) -> &Rc<Bench> {
        &self.0
    }
}

/// Counts a connection that is being opened, until it is there or given up.
struct Connecting(Rc<Bench>);

impl Connecting {
    fn start(bench: &Rc<Bench>) -> Self {
        bench.connecting.set(bench.connecting.get() + 1);
        Self(bench.clone())
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.set(self.0.connecting.get() - 1);
        self.0.make_room();
    }
}

/// Runs while anything is idle.
async fn sweep(worker: Rc<Worker>) {
    let mut timer = worker.wheel.timer();
    loop {
        timer.arm(SWEEP);
        timer.expired().await;
        let now = worker.wheel.now();
        let benches: Vec<_> = worker.benches.borrow().iter().filter_map(Weak::upgrade).collect();
        let mut is_needed = false;
        for bench in benches {
            is_needed |= bench.sweep(now);
        }
        if !is_needed {
            worker.is_sweeping.set(false);
            return;
        }
    }
}
