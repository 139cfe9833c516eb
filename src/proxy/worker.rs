//! What a worker owns: the state that no other thread touches.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::Inlet;
use crate::http::request_pool::RequestPool;
use crate::snapshot::Reader;
use crate::telemetry::finish::{Closing, Logger};
use crate::telemetry::trace::Mint;
use crate::timer::Wheel;
use crate::upstream::{Count, Pools};

/// One thread's share of armiger.
pub struct Worker {
    /// The snapshot in force.
    pub reader: RefCell<Reader>,
    /// Connections to upstreams.
    pub pools: Rc<Pools>,
    /// Timers.
    pub wheel: Wheel,
    /// Where exchanges are logged.
    pub log: Rc<Logger>,
    /// Names for requests.
    pub ids: RefCell<Mint>,
    /// Boxes that requests lie in.
    pub requests: RequestPool,
    /// Whether armiger comes to its end. Back ends may go before it.
    pub is_draining: Cell<bool>,
    /// What must come to its end, whoever has left.
    pub unfinished: Rc<Count>,
    wall: Cell<(Instant, SystemTime)>,
}

impl Worker {
    /// A worker with these.
    pub fn new(reader: Reader, pools: Pools, wheel: Wheel, log: Rc<Logger>) -> Self {
        let (is_draining, wall) = (Cell::new(false), Cell::new(wall_clock()));
        let (ids, unfinished) = (RefCell::default(), pools.unfinished().clone());
        let pools = Rc::new(pools);
        let (reader, requests) = (RefCell::new(reader), RequestPool::default());
        Self { reader, pools, wheel, log, ids, requests, is_draining, unfinished, wall }
    }

    /// Begins the record of an exchange.
    pub(super) fn begin(&self, now: Instant, inlet: &Inlet) -> Closing {
        self.log.begin(now, self.wall(now), &inlet.plan.name)
    }

    /// The time of day at `now`. The system's clock is asked once a second, and counted on from there.
    pub(super) fn wall(&self, now: Instant) -> SystemTime {
        let (at, time) = self.wall.get();
        let since = now.saturating_duration_since(at);
        if since < Duration::from_secs(1) {
            return time + since;
        }
        let fresh = wall_clock();
        self.wall.set(fresh);
        fresh.1
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that asks for the time of day on behalf of requests")]
fn wall_clock() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}
