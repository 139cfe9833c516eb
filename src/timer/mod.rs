//! The coarse timer wheel of a worker: deadlines for headers, requests and idle connections, ten milliseconds apart.
//!
//! A runtime timer per request costs more than the rest of a request's bookkeeping together. Deadlines that guard
//! against slow parties need no precision, so all of a worker's deadlines share one runtime timer: [`Wheel::run`]
//! wakes once per [`TICK`] while deadlines are being set, sleeps until the next occupied bucket while none is, and
//! parks when nothing is armed.
//!
//! The wheel is hashed: a deadline lies in the bucket of its tick, modulo the number of buckets. Re-arming to a later
//! time, and disarming, only store the new deadline; the entry is moved, or let go, when its old bucket comes up. Each
//! [`Timer`] owns at most one entry, so nothing piles up however often timers are armed and dropped.
//!
//! Both promises hold at any load: a timer never fires early, and it fires at most about two ticks late on a worker
//! that is not stalled. After a stall or a suspend one pass over the buckets catches up.

mod slots;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slots::{FOREVER, Slots, UNARMED};

/// The resolution of every deadline: 10 ms.
pub const TICK: Duration = Duration::from_millis(TICK_MS);

const TICK_MS: u64 = 10;
const TICK_NANOS: u32 = TICK_MS as u32 * 1_000_000;
const TICKS_PER_SECOND: u64 = 1_000 / TICK_MS;

/// A worker's timer wheel. Cloning gives another handle to the same wheel.
#[derive(Clone)]
pub struct Wheel(Rc<Shared>);

struct Shared {
    slots: RefCell<Slots>,
    /// The time of the last tick, or of the last clock read since.
    now: Cell<Instant>,
    /// The driver sleeps for more than a tick, so `now` is not being refreshed.
    asleep: Cell<bool>,
    /// A timer was armed since the last tick: deadlines are in demand, keep `now` fresh.
    touched: Cell<bool>,
    /// The driver must plan its sleep again.
    nudged: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    /// Wakers of the timers that fired, kept for its allocation.
    fired: RefCell<Vec<Waker>>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("armed", &self.armed()).finish_non_exhaustive()
    }
}

impl Wheel {
    /// An empty wheel. Its timers fire only while [`run`](Self::run) is polled.
    pub fn new() -> Self {
        let now = read_clock();
        Self(Rc::new(Shared {
            slots: RefCell::new(Slots::new(now)),
            now: Cell::new(now),
            asleep: Cell::new(true),
            touched: Cell::new(false),
            nudged: Cell::new(false),
            driver: RefCell::new(None),
            fired: RefCell::new(Vec::new()),
        }))
    }

    /// Drives the wheel; never ends. Spawn it once per wheel, on the worker's own `LocalSet`.
    pub async fn run(self) {
        let shared = self.0;
        let mut sleep = pin!(tokio::time::sleep_until(shared.now.get().into()));
        loop {
            let wake_at = shared.plan();
            if let Some(at) = wake_at {
                sleep.as_mut().reset(at.into());
            }
            poll_fn(|cx| {
                if shared.nudged.take() {
                    return Poll::Ready(());
                }
                shared.watch(cx);
                match wake_at {
                    Some(_) => sleep.as_mut().poll(cx),
                    None => Poll::Pending,
                }
            })
            .await;
            shared.advance(read_clock());
        }
    }

    /// The coarse time, without a clock read in most cases.
    ///
    /// Never ahead of the clock and never running backwards; behind it by at most one tick (10 ms) plus the time the
    /// worker has spent in other tasks since that tick fell due. While the driver sleeps for longer than a tick, the
    /// clock is read instead. Good for comparing ages; measure durations with the clock.
    pub fn now(&self) -> Instant {
        if self.0.asleep.get() { self.0.refresh(read_clock()) } else { self.0.now.get() }
    }

    /// A timer of this wheel, unarmed.
    pub fn timer(&self) -> Timer {
        let slot = self.0.slots.borrow_mut().insert();
        Timer { shared: Rc::clone(&self.0), slot }
    }

    /// How many timers are armed and have not fired.
    pub fn armed(&self) -> usize {
        self.0.slots.borrow().armed
    }
}

impl Shared {
    fn refresh(&self, now: Instant) -> Instant {
        let now = now.max(self.now.get());
        self.now.set(now);
        now
    }

    /// When the driver has to wake next; `None` parks it until a timer is armed.
    fn plan(&self) -> Option<Instant> {
        let slots = self.slots.borrow();
        let busy = self.touched.take();
        let next = if slots.armed == 0 {
            None
        } else if busy {
            Some(slots.current.saturating_add(1))
        } else {
            slots.next_occupied()
        };
        self.asleep.set(next.is_none_or(|tick| tick > slots.current.saturating_add(1)));
        next.map(|tick| slots.time_of(tick))
    }

    /// Remembers whom to wake when the plan changes.
    fn watch(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let old = driver.replace(cx.waker().clone());
            drop(driver);
            // A waker may run foreign code when it goes: no borrow may be open then.
            drop(old);
        }
    }

    /// Puts the driver back to one wake per tick after a timer was armed.
    fn touch(&self) {
        self.touched.set(true);
        if self.asleep.replace(false) {
            self.nudged.set(true);
            let driver = self.driver.borrow().clone();
            if let Some(waker) = driver {
                waker.wake();
            }
        }
    }

    /// Fires what is due at `now` and wakes the tasks that wait.
    fn advance(&self, now: Instant) {
        let now = self.refresh(now);
        let mut fired = self.fired.take();
        self.slots.borrow_mut().advance(now, &mut fired);
        // Woken only now: a waker may come back to the wheel.
        for waker in fired.drain(..) {
            waker.wake();
        }
        self.fired.replace(fired);
    }
}

/// One deadline, to be armed again and again. Dropping it disarms it.
pub struct Timer {
    shared: Rc<Shared>,
    slot: u32,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("armed", &self.is_armed()).finish_non_exhaustive()
    }
}

impl Timer {
    /// Arms the timer to expire `after` from now, whatever it was armed for before.
    ///
    /// Reads the clock: counting from the coarse time would fire early on a worker that has not ticked for a while.
    /// Use [`arm_at`](Self::arm_at) where a fresh time is at hand.
    pub fn arm(&mut self, after: Duration) {
        let now = self.shared.refresh(read_clock());
        let due = match now.checked_add(after) {
            Some(at) => self.shared.slots.borrow().tick_at_or_after(at),
            None => FOREVER,
        };
        self.arm_tick(due);
    }

    /// As [`arm`](Self::arm), from the coarse time and so a tick early at most: no clock read, for times so long that it
    /// does not matter.
    pub fn arm_coarsely(&mut self, after: Duration) {
        let now = if self.shared.asleep.get() { self.shared.refresh(read_clock()) } else { self.shared.now.get() };
        match now.checked_add(after) {
            Some(at) => self.arm_at(at),
            None => self.arm_tick(FOREVER),
        }
    }

    /// Arms the timer to expire at `at`, whatever it was armed for before. A time in the past expires at once.
    pub fn arm_at(&mut self, at: Instant) {
        let due = self.shared.slots.borrow().tick_at_or_after(at);
        self.arm_tick(due);
    }

    fn arm_tick(&mut self, due: u64) {
        let waiting = self.shared.slots.borrow_mut().arm(self.slot, due);
        self.shared.touch();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Takes the deadline back: the timer stays pending until it is armed again.
    pub fn disarm(&mut self) {
        self.shared.slots.borrow_mut().disarm(self.slot);
    }

    /// True from arming until the timer expires or is disarmed.
    pub fn is_armed(&self) -> bool {
        self.shared.slots.borrow().entry(self.slot).due != UNARMED
    }

    /// Ready once the deadline has passed, and again on every call until the timer is armed anew or disarmed.
    ///
    /// Pending while unarmed or not due. The task is remembered in either case, so arming after the poll is enough
    /// to be woken; the waker is cloned only when it would not wake the same task as the one remembered.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.shared.slots.borrow_mut();
        let entry = slots.entry_mut(self.slot);
        if entry.expired {
            return Poll::Ready(());
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let old = entry.waker.replace(cx.waker().clone());
            drop(slots);
            drop(old);
        }
        Poll::Pending
    }

    /// Waits until the deadline has passed; for ever while unarmed.
    pub async fn expired(&mut self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let waker = self.shared.slots.borrow_mut().remove(self.slot);
        drop(waker);
    }
}

/// The runtime's clock, which tests may pause.
fn read_clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
