//! A worker's connections to one endpoint: which are idle, how many may be open, and who waits for one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connect::{Stream, connect, introduce, secure, within};
use super::endpoint::Endpoint;
use super::error::{Error, Kind};
use super::http1;
use super::http2;
use super::link::Wire;
use super::pool::{Common, PoolState, Terms, Worker};
use crate::config::upstream::Protocol;
use crate::http::proxy_protocol::{Ends, Version};
use crate::telemetry::metrics::UpstreamMetrics;
use crate::timer::Timer;

/// How often idle connections are looked through. Checkout never takes one that is over its time, so this only bounds
/// how long a dead one, or one that its peer closed, keeps its socket.
const SWEEP: Duration = Duration::from_millis(500);

/// A worker's connections to one endpoint.
///
/// It outlives plans. One whose endpoint is in the plan no more, or whose upstream is gone, is **leaving**: it serves the
/// exchanges that still know of it, and keeps nothing idle.
pub(super) struct Bench {
    common: Rc<Common>,
    endpoint: Endpoint,
    /// Connections that are open or being opened: the [`Room`]s given out.
    open: Cell<usize>,
    /// HTTP/1.1 connections in nobody's use, the latest used last.
    idle: RefCell<VecDeque<Rc<http1::Connection>>>,
    /// HTTP/2 connections that take new streams.
    shared: RefCell<Vec<Rc<http2::Connection>>>,
    connecting: Cell<usize>,
    waiting: RefCell<VecDeque<oneshot::Sender<Grant>>>,
    is_leaving: Cell<bool>,
}

/// What an endpoint is told ahead of a connection, which is then good for nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) version: Version,
    /// The client's connection. None: it is armiger's own.
    pub(super) ends: Option<Ends>,
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
    /// An empty bench. It is leaving until it is [called](Self::stay) to stay.
    pub(super) fn new(common: &Rc<Common>, endpoint: &Endpoint) -> Rc<Self> {
        let bench = Rc::new(Self {
            common: common.clone(),
            endpoint: endpoint.clone(),
            open: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: Cell::new(0),
            waiting: RefCell::default(),
            is_leaving: Cell::new(true),
        });
        common.worker.enrol(&bench);
        bench
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.common.worker
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.common.metrics
    }

    /// What holds now for its connections, and for who waits for one.
    pub(super) fn terms(&self) -> Terms {
        self.common.terms.get()
    }

    pub(super) fn is_for(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.is_same(endpoint)
    }

    /// Keeps idle connections from now on, under the terms of now.
    pub(super) fn stay(self: &Rc<Self>) {
        self.is_leaving.set(false);
        self.settle();
    }

    /// Closes what is idle, at once; the rest after its exchange.
    pub(super) fn leave(self: &Rc<Self>) {
        self.is_leaving.set(true);
        self.settle();
    }

    /// Closes what the terms of now do not allow any more, and lets open what they allow now.
    fn settle(self: &Rc<Self>) {
        let now = self.worker().wheel.now();
        let may_idle = !self.is_leaving.get();
        let idle = self.idle.take();
        let (kept, closing): (VecDeque<_>, VecDeque<_>) =
            idle.into_iter().partition(|connection| may_idle && !connection.is_over(now));
        self.idle.replace(kept);
        drop(closing);
        while self.is_beyond() {
            let Some(oldest) = self.idle.borrow_mut().pop_front() else { break };
            drop(oldest);
        }
        self.drop_spent(now);
        self.drop_surplus();
        // Of streams, one connection may be enough for all who wait.
        while self.make_room() && !self.common.protocol.is_http2() {}
    }

    /// Whether more is open than may be, as after a reload that allows less.
    fn is_beyond(&self) -> bool {
        self.open.get() > self.terms().open_max
    }

    /// Takes no new streams on more connections than may be open: those that serve nobody go first.
    fn drop_surplus(&self) {
        let mut surplus = Vec::new();
        {
            let mut shared = self.shared.borrow_mut();
            while shared.len() > self.terms().open_max {
                let place = shared.iter().position(|connection| connection.is_idle()).unwrap_or(shared.len() - 1);
                surplus.push(shared.remove(place));
            }
        }
        drop(surplus);
    }

    /// What is open, and who waits. None of a bench that is only still known.
    pub(super) fn state(&self) -> Option<PoolState> {
        let shared = self.shared.borrow();
        let idle = self.idle.borrow().len() + shared.iter().filter(|connection| connection.is_idle()).count();
        let connecting = self.connecting.get();
        let open = self.open.get().saturating_sub(connecting);
        let waiting = self.waiting.borrow().iter().filter(|waiter| !waiter.is_closed()).count();
        let is_leaving = self.is_leaving.get();
        (!is_leaving || open + connecting + waiting > 0).then(|| PoolState {
            upstream: self.common.name.clone(),
            endpoint: self.endpoint.label.clone(),
            is_leaving,
            open,
            idle,
            active: open.saturating_sub(idle),
            connecting,
            waiting,
        })
    }

    /// A connection of which the endpoint was `told` so: an idle one unless `is_fresh` asks for a new one, a new one, or
    /// what comes free. `is_queued` says as long as it waits for that, and when it is dropped while it does.
    pub(super) async fn checkout(
        self: &Rc<Self>,
        is_fresh: bool,
        told: Option<Told>,
        is_queued: &Cell<bool>,
        timer: &mut Timer,
    ) -> Result<Checkout, Error> {
        loop {
            if let Some(line) = self.at_hand(is_fresh, told) {
                return Ok(self.reuse(line));
            }
            // What others leave idle gives way where it is good for nobody else.
            if let Some(room) = self.room(is_fresh || told.is_some()) {
                return self.open(room, told, timer).await;
            }
            match self.wait(is_queued, timer).await? {
                Grant::Failed(kind) => return Err(kind.into()),
                Grant::Room(room) => return self.open(room, told, timer).await,
                Grant::Line(loan) => match loan.take() {
                    Some(Line::Http1(connection))
                        if is_fresh
                            || connection.told() != told
                            || !connection.is_usable(self.worker().wheel.now()) =>
                    {
                        // Its room is what counts here: the new connection takes its place.
                        let Some(room) = connection.close() else { continue };
                        return self.open(room, told, timer).await;
                    }
                    Some(line) => return Ok(self.reuse(line)),
                    None => continue,
                },
            }
        }
    }

    fn reuse(&self, line: Line) -> Checkout {
        self.metrics().reused();
        if let Line::Http1(connection) = &line {
            connection.activate();
        }
        Checkout { line, is_reused: true }
    }

    fn at_hand(self: &Rc<Self>, is_fresh: bool, told: Option<Told>) -> Option<Line> {
        let now = self.worker().wheel.now();
        if self.common.protocol.is_http2() {
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
            let connection = self.pop(told)?;
            if connection.is_usable(now) {
                return Some(Line::Http1(connection));
            }
        }
    }

    /// The latest used of the idle connections of which the endpoint was `told` so.
    fn pop(&self, told: Option<Told>) -> Option<Rc<http1::Connection>> {
        let mut idle = self.idle.borrow_mut();
        let place = idle.iter().rposition(|connection| connection.told() == told)?;
        idle.remove(place)
    }

    pub(super) fn room(self: &Rc<Self>, is_fresh: bool) -> Option<Room> {
        if self.is_coming() {
            // A connection of many streams is on its way. More of them open only when it turned out too small.
            return None;
        }
        if self.open.get() < self.terms().open_max {
            self.open.set(self.open.get() + 1);
            return Some(Room(self.clone()));
        }
        if is_fresh {
            let oldest = self.idle.borrow_mut().pop_front()?;
            return oldest.close();
        }
        None
    }

    async fn open(self: &Rc<Self>, room: Room, told: Option<Told>, timer: &mut Timer) -> Result<Checkout, Error> {
        let attempt = Connecting::start(self);
        // In a box: it is rare and large, and the future of every exchange would have room for it, which is moved.
        let outcome = Box::pin(self.establish(room, told, timer)).await;
        // While `attempt` lives, nobody else opens an HTTP/2 connection: first those who waited for this one get theirs.
        match &outcome {
            Ok(Line::Http1(_)) => {}
            Ok(Line::Http2(_)) => self.share_streams(),
            Err(error) if self.common.protocol.is_http2() => self.fail_waiting(error.kind()),
            Err(_) => {}
        }
        drop(attempt);
        let line = outcome?;
        self.metrics().opened();
        Ok(Checkout { line, is_reused: false })
    }

    async fn establish(self: &Rc<Self>, room: Room, told: Option<Told>, timer: &mut Timer) -> Result<Line, Error> {
        let (worker, budget) = (self.worker(), self.terms().connect);
        let mut stream =
            connect(&self.endpoint.address, &worker.lookups, worker.files_max.get(), budget, timer).await?;
        if let Some(Told { version, ends }) = told {
            introduce(&mut stream, version, ends.as_ref(), budget, timer).await?;
        }
        let stream = match &self.endpoint.tls {
            Some(tls) => secure(stream, tls, self.terms().tls, self.common.protocol, timer).await?,
            None => stream,
        };
        self.speak(room, stream, told, timer).await
    }

    /// Makes of a new stream a connection that takes requests.
    pub(super) async fn speak(
        self: &Rc<Self>,
        room: Room,
        stream: Stream,
        told: Option<Told>,
        timer: &mut Timer,
    ) -> Result<Line, Error> {
        match self.common.protocol {
            Protocol::Http1 => Ok(Line::Http1(http1::Connection::new(room, stream, told))),
            Protocol::H2c | Protocol::H2 => {
                timer.arm(self.terms().connect);
                let wire = Wire::new(stream, self.worker().scratch.clone());
                let start = within(timer, http2::Connection::start(room, wire)).await.ok_or(Kind::ConnectTimeout)?;
                // No request was on it yet, so that any may go elsewhere.
                let connection = start.map_err(|error| Error::because(Kind::Unreachable, error))?;
                let stream = connection.stream();
                self.shared.borrow_mut().push(connection);
                Ok(Line::Http2(stream))
            }
        }
    }

    /// Whether who waits for a connection waits for the endpoint, and not for others to leave theirs.
    pub(super) fn is_coming(&self) -> bool {
        self.common.protocol.is_http2() && self.connecting.get() > 0
    }

    async fn wait(self: &Rc<Self>, is_queued: &Cell<bool>, timer: &mut Timer) -> Result<Grant, Error> {
        let (sender, receiver) = oneshot::channel();
        let terms = self.terms();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() >= terms.waiting_max {
                waiting.retain(|waiter| !waiter.is_closed());
                if waiting.len() >= terms.waiting_max {
                    return Err(Kind::QueueFull.into());
                }
            }
            waiting.push_back(sender);
        }
        let queued = self.metrics().queued();
        let began = Instant::now();
        timer.arm(terms.queue_wait);
        is_queued.set(true);
        let granted = within(timer, receiver).await;
        is_queued.set(false);
        drop(queued);
        self.metrics().queue_waited(began.elapsed());
        match granted {
            Some(Ok(grant)) => Ok(grant),
            // The sender is only dropped unused with the bench itself.
            Some(Err(_)) => Err(Kind::Reset.into()),
            None => {
                self.metrics().queue_timed_out();
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

    /// Lets one who waits open a connection, if another may be open. Says whether it may.
    fn make_room(self: &Rc<Self>) -> bool {
        let has_room =
            self.open.get() < self.terms().open_max && !self.is_coming() && !self.waiting.borrow().is_empty();
        if has_room {
            self.open.set(self.open.get() + 1);
            // Unwanted, it is dropped and asks again here; but then nobody waits any more.
            drop(self.offer(Grant::Room(Room(self.clone()))));
        }
        has_room
    }

    /// An HTTP/1.1 connection is free again.
    pub(super) fn put(self: &Rc<Self>, connection: Rc<http1::Connection>) {
        if self.is_beyond() {
            return;
        }
        let Some(Grant::Line(loan)) = self.offer(Grant::Line(Loan(Some(Line::Http1(connection))))) else { return };
        if let Some(Line::Http1(connection)) = loan.take()
            && !self.is_leaving.get()
        {
            self.idle.borrow_mut().push_back(connection);
            self.sweep_later();
        }
    }

    fn stream(&self, now: Instant) -> Option<Rc<http2::Stream>> {
        self.drop_spent(now);
        self.shared.borrow().iter().find(|connection| connection.has_room()).map(|connection| connection.stream())
    }

    /// Takes no new streams on connections that are closed, draining or too old; and keeps none that serves nobody where
    /// nothing is kept.
    fn drop_spent(&self, now: Instant) {
        let mut spent = Vec::new();
        self.shared.borrow_mut().retain(|connection| {
            let keep = connection.is_usable(now) && !(self.is_leaving.get() && connection.is_idle());
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
            let Some(stream) = self.stream(self.worker().wheel.now()) else { break };
            if self.offer(Grant::Line(Loan(Some(Line::Http2(stream))))).is_some() {
                break;
            }
        }
        self.make_room();
        if self.is_leaving.get() {
            self.drop_spent(self.worker().wheel.now());
        }
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

    fn sweep_later(&self) {
        let worker = self.worker();
        if !worker.is_sweeping.replace(true) {
            // Looking at a socket takes of a task's turn, and there may be more of them than fit one.
            tokio::task::spawn_local(tokio::task::unconstrained(sweep(self.common.worker.clone())));
        }
    }

    /// Closes what was idle too long, was closed by its peer, or belongs to an upstream that is gone. Says whether anything is idle still.
    fn sweep(self: &Rc<Self>, now: Instant) -> bool {
        if self.common.is_orphaned() {
            self.leave();
        }
        let mut over = Vec::new();
        self.idle.borrow_mut().retain(|connection| {
            let keep = !connection.is_over(now) && !connection.has_ended();
            if !keep {
                over.push(connection.clone());
            }
            keep
        });
        // Not while the list is borrowed: their room may go on to a waiter.
        drop(over);
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
        let benches = worker.benches();
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
