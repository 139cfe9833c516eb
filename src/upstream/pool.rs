//! A worker's connections to all upstreams, and how they follow the configuration.
//!
//! A `Pool` belongs to an upstream's [`State`], not to a plan. It follows the plan of the newest snapshot that it hears
//! of, and never goes back: an exchange that began on an older one gets a `Lineup` of the endpoints of its own plan,
//! in which those that both plans name are the same `Bench`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{self, Rc};
use std::sync::{self, Arc};
use std::time::Duration;

use serde::Serialize;

use super::Upstream;
use super::bench::Bench;
use super::endpoint::Endpoint;
use super::http1::{LARGE_BYTES_MAX, Spare};
use super::link::Scratch;
use super::lookup::Lookups;
use super::plan::Plan;
use super::state::State;
use super::unfinished::Count;
use crate::config::upstream::Protocol;
use crate::http::reply::HeadBounds;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::timer::Wheel;

/// Everything that one worker has open to upstreams. Made once per worker; an upstream's [`State::slot`] is its place
/// here.
///
/// Dropping it closes what is idle; a connection in use closes after its exchange.
pub struct Pools {
    worker: Rc<Worker>,
    slots: RefCell<Vec<Option<Pool>>>,
    /// The snapshot that is in force, as far as this worker was [told](Self::refresh).
    version: Cell<u64>,
    unfinished: Rc<Count>,
}

/// What all pools of a worker share.
pub(super) struct Worker {
    pub(super) wheel: Wheel,
    pub(super) scratch: Scratch,
    pub(super) lookups: Lookups,
    pub(super) spare: Spare,
    /// Connections that are open.
    pub(super) open: Rc<Cell<usize>>,
    pub(super) is_sweeping: Cell<bool>,
    /// File descriptors from this number on are not for connections to upstreams.
    pub(super) files_max: Cell<u64>,
    /// What answers may hold that are read in large pieces.
    pub(super) large_reads: Cell<usize>,
    workers: usize,
    benches: RefCell<Vec<rc::Weak<Bench>>>,
}

impl Worker {
    pub(super) fn enrol(&self, bench: &Rc<Bench>) {
        let mut benches = self.benches.borrow_mut();
        if benches.len() == benches.capacity() {
            benches.retain(|bench| bench.strong_count() > 0);
        }
        benches.push(Rc::downgrade(bench));
    }

    /// Every bench that is still known, in nobody's order.
    pub(super) fn benches(&self) -> Vec<Rc<Bench>> {
        self.benches.borrow().iter().filter_map(rc::Weak::upgrade).collect()
    }
}

impl Pools {
    /// The pools of one of `workers` workers, among whom every bound of an upstream is divided.
    pub fn new(wheel: Wheel, workers: usize) -> Self {
        let worker = Worker {
            wheel,
            scratch: Scratch::default(),
            lookups: Lookups::default(),
            spare: Spare::default(),
            open: Rc::default(),
            files_max: Cell::new(u64::MAX),
            large_reads: Cell::new(LARGE_BYTES_MAX),
            workers: workers.max(1),
            benches: RefCell::default(),
            is_sweeping: Cell::new(false),
        };
        let (slots, version, unfinished) = (RefCell::default(), Cell::default(), Rc::default());
        Self { worker: Rc::new(worker), slots, version, unfinished }
    }

    /// Leaves the file descriptors from `files_max` on to others.
    pub fn leave_files(&self, files_max: u64) {
        self.worker.files_max.set(files_max);
    }

    /// Lets answers be read in large pieces as long as these hold no more than so many bytes together, read or waiting for
    /// whoever is slow to take them.
    pub fn bound_large_reads(&self, bytes: usize) {
        self.worker.large_reads.set(bytes);
        self.worker.spare.bound_large(bytes);
    }

    /// What is asked of upstreams and must come to its end, whoever has left.
    pub fn unfinished(&self) -> &Rc<Count> {
        &self.unfinished
    }

    /// Connections that are open, idle or not. 0 when everything is closed.
    pub fn connections(&self) -> usize {
        self.worker.open.get()
    }

    /// Follows the snapshot of this version, which has these upstreams: pools take their plans over, and pools of
    /// upstreams that it has not close what is idle. To be called right after a swap; without it a pool learns of a new
    /// plan with the next request, and of its end when the last exchange of the old snapshot is over.
    ///
    /// A version that is older than one heard of before says nothing.
    pub fn refresh(&self, version: u64, upstreams: &[Arc<Upstream>]) {
        if version < self.version.get() {
            return;
        }
        self.version.set(version);
        let mut slots = self.slots.borrow_mut();
        for upstream in upstreams {
            let upstream = upstream.now();
            if let Some(Some(pool)) = slots.get(upstream.state.slot())
                && pool.is_of(&upstream)
                && pool.edition() < upstream.edition()
            {
                pool.follow(&upstream, false);
            }
        }
        for slot in slots.iter_mut() {
            // Whoever did not follow is not in this snapshot. It stays as long as an exchange may still ask for it.
            if let Some(pool) = slot
                && pool.edition().0 < version
            {
                pool.leave();
                if pool.common.is_orphaned() {
                    *slot = None;
                }
            }
        }
        let used = slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        slots.truncate(used);
    }

    /// What is open to each endpoint, and who waits for it: for operators. Upstreams that this worker was never asked
    /// for are not listed; endpoints that were removed are, as long as an exchange uses them.
    pub fn states(&self) -> Vec<PoolState> {
        PoolState::merge([self.worker.benches().iter().filter_map(|bench| bench.state()).collect()])
    }

    /// Places in use or between such.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Benches that are still known.
    #[cfg(test)]
    pub(super) fn benches(&self) -> usize {
        self.worker.benches().len()
    }

    pub(super) fn wheel(&self) -> &Wheel {
        &self.worker.wheel
    }

    /// The benches for an exchange on `upstream`, in the order of its plan's endpoints.
    pub(super) fn lineup(&self, upstream: &Upstream) -> Rc<Lineup> {
        if let Some(Some(pool)) = self.slots.borrow().get(upstream.state.slot()) {
            let lineup = pool.lineup.borrow();
            // Each upstream of each snapshot has a plan of its own.
            if Arc::ptr_eq(&lineup.plan, &upstream.plan) {
                return lineup.clone();
            }
        }
        self.catch_up(upstream)
    }

    /// The pool has not heard of this plan yet, or has heard of a newer one.
    #[cold]
    fn catch_up(&self, upstream: &Upstream) -> Rc<Lineup> {
        // Nobody will tell whether a snapshot that was replaced is still in use: nothing is kept for it.
        let is_leaving = upstream.version < self.version.get();
        let place = upstream.state.slot();
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= place {
            slots.resize_with(place + 1, || None);
        }
        match &slots[place] {
            Some(pool) if pool.is_of(upstream) => {
                if upstream.edition() > pool.edition() {
                    pool.follow(upstream, is_leaving)
                } else {
                    Rc::new(pool.line_up(upstream))
                }
            }
            _ => {
                let pool = Pool::new(upstream, &self.worker, is_leaving);
                let lineup = pool.lineup.borrow().clone();
                if let Some(old) = slots[place].replace(pool) {
                    old.leave();
                }
                lineup
            }
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        for pool in self.slots.take().into_iter().flatten() {
            pool.leave();
        }
    }
}

/// A worker's connections to one upstream.
struct Pool {
    common: Rc<Common>,
    /// What the newest plan that was heard of makes of it.
    lineup: RefCell<Rc<Lineup>>,
    /// Also those that only older plans name, as long as somebody uses them.
    benches: RefCell<Vec<rc::Weak<Bench>>>,
}

/// What the benches of a pool have in common.
pub(super) struct Common {
    pub(super) worker: Rc<Worker>,
    pub(super) name: Arc<str>,
    pub(super) metrics: UpstreamMetrics,
    pub(super) protocol: Protocol,
    pub(super) terms: Cell<Terms>,
    owner: sync::Weak<State>,
}

impl Common {
    /// Whether no snapshot and no exchange knows of the upstream any more.
    pub(super) fn is_orphaned(&self) -> bool {
        self.owner.strong_count() == 0
    }
}

/// The benches for a plan's endpoints, in their order.
pub(super) struct Lineup {
    plan: Arc<Plan>,
    edition: (u64, u64),
    benches: Box<[Rc<Bench>]>,
}

impl Lineup {
    pub(super) fn bench(&self, endpoint: usize) -> &Rc<Bench> {
        &self.benches[endpoint]
    }
}

/// What holds for a pool's connections, and for who waits for one: the part of the newest plan that is not an exchange's
/// own. The bounds are one worker's share.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) connect: Duration,
    pub(super) tls: Duration,
    pub(super) idle: Duration,
    pub(super) age_max: Duration,
    pub(super) open_max: usize,
    pub(super) waiting_max: usize,
    pub(super) queue_wait: Duration,
    pub(super) heads: HeadBounds,
}

impl Terms {
    fn of(plan: &Plan, workers: usize) -> Self {
        Self {
            connect: plan.connect,
            tls: plan.tls,
            idle: plan.idle,
            age_max: plan.age_max,
            // Rounded down, or the workers together would go beyond what the user allowed.
            open_max: (plan.connections_max / workers).max(1),
            waiting_max: plan.queue_max.div_ceil(workers),
            queue_wait: plan.queue_wait,
            heads: HeadBounds { fields_max: plan.headers_max, bytes_max: plan.header_bytes_max },
        }
    }
}

impl Pool {
    fn new(upstream: &Upstream, worker: &Rc<Worker>, is_leaving: bool) -> Self {
        let common = Rc::new(Common {
            worker: worker.clone(),
            name: upstream.name.clone(),
            metrics: upstream.metrics.clone(),
            protocol: upstream.plan.protocol,
            terms: Cell::new(Terms::of(&upstream.plan, worker.workers)),
            owner: Arc::downgrade(&upstream.state),
        });
        let benches: Box<[_]> = upstream.plan.endpoints.iter().map(|endpoint| Bench::new(&common, endpoint)).collect();
        if !is_leaving {
            benches.iter().for_each(Bench::stay);
        }
        Self {
            common,
            benches: RefCell::new(benches.iter().map(Rc::downgrade).collect()),
            lineup: RefCell::new(Rc::new(Lineup { plan: upstream.plan.clone(), edition: upstream.edition(), benches })),
        }
    }

    /// A place may have been another's: then that one's state is gone.
    fn is_of(&self, upstream: &Upstream) -> bool {
        std::ptr::eq(self.common.owner.as_ptr(), Arc::as_ptr(&upstream.state))
    }

    fn edition(&self) -> (u64, u64) {
        self.lineup.borrow().edition
    }

    /// Takes a newer plan over. Endpoints that stay keep their connections, and whoever waits for one.
    fn follow(&self, upstream: &Upstream, is_leaving: bool) -> Rc<Lineup> {
        let lineup = Rc::new(self.line_up(upstream));
        self.common.terms.set(Terms::of(&upstream.plan, self.common.worker.workers));
        let old = self.lineup.replace(lineup.clone());
        let benches: Vec<_> = self.benches.borrow().iter().filter_map(rc::Weak::upgrade).collect();
        for bench in &benches {
            if is_leaving || !lineup.benches.iter().any(|named| Rc::ptr_eq(named, bench)) {
                bench.leave();
            } else {
                bench.stay();
            }
        }
        // Benches that nobody uses end here.
        drop((old, benches));
        self.benches.borrow_mut().retain(|bench| bench.strong_count() > 0);
        lineup
    }

    /// The benches for the endpoints of `upstream`'s plan, whichever snapshot it is of. New ones are leaving.
    fn line_up(&self, upstream: &Upstream) -> Lineup {
        let latest = self.lineup.borrow().clone();
        let benches = upstream.plan.endpoints.iter().enumerate().map(|(place, endpoint)| {
            // Most often nothing moved.
            let same_place = latest.benches.get(place).filter(|bench| bench.is_for(endpoint));
            same_place.cloned().unwrap_or_else(|| self.bench(endpoint))
        });
        Lineup { edition: upstream.edition(), plan: upstream.plan.clone(), benches: benches.collect() }
    }

    fn bench(&self, endpoint: &Endpoint) -> Rc<Bench> {
        let mut benches = self.benches.borrow_mut();
        let known = benches.iter().filter_map(rc::Weak::upgrade).find(|bench| bench.is_for(endpoint));
        known.unwrap_or_else(|| {
            let bench = Bench::new(&self.common, endpoint);
            benches.retain(|bench| bench.strong_count() > 0);
            benches.push(Rc::downgrade(&bench));
            bench
        })
    }

    /// Nobody new will come: closes what is idle.
    fn leave(&self) {
        self.lineup.borrow().benches.iter().for_each(Bench::leave);
    }
}

/// What is open to an endpoint, and who waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolState {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint's address: `host:port`, or a socket's path.
    pub endpoint: Arc<str>,
    /// Whether the configuration in force does not name it: it serves what is in flight, and then it is gone.
    pub is_leaving: bool,
    /// Open connections.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
    /// Those of them that carry an exchange.
    pub active: usize,
    /// Connections that are being opened.
    pub connecting: usize,
    /// Exchanges that wait for a connection.
    pub waiting: usize,
}

impl PoolState {
    /// Sums what several workers say: one row for each endpoint, in the order of the names.
    pub fn merge(workers: impl IntoIterator<Item = Vec<Self>>) -> Vec<Self> {
        let mut rows: BTreeMap<_, Self> = BTreeMap::new();
        for state in workers.into_iter().flatten() {
            rows.entry((state.upstream.clone(), state.endpoint.clone(), state.is_leaving))
                .and_modify(|row| {
                    row.open += state.open;
                    row.idle += state.idle;
                    row.active += state.active;
                    row.connecting += state.connecting;
                    row.waiting += state.waiting;
                })
                .or_insert(state);
        }
        rows.into_values().collect()
    }
}
