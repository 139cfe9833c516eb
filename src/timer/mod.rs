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

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The resolution of every deadline: 10 ms.
pub const TICK: Duration = Duration::from_millis(TICK_MS);

const TICK_MS: u64 = 10;
const TICK_NANOS: u32 = TICK_MS as u32 * 1_000_000;
const TICKS_PER_SECOND: u64 = 1_000 / TICK_MS;

/// Buckets of the wheel; 4,096 ticks are 41 s, so that the usual deadlines are looked at once.
const BUCKETS: u64 = 4_096;

/// The index that stands for "no entry".
const NIL: u32 = u32::MAX;

/// The tick at which an unarmed timer is due.
const UNARMED: u64 = u64::MAX;

/// The latest tick a timer can be armed for; stands for deadlines the clock cannot express.
const FOREVER: u64 = u64::MAX - 1;

/// Entries that stay allocated when the last timer is gone; a burst's memory is given back.
const SPARE_ENTRIES: usize = 1_024;

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

/// One timer's place in the wheel.
struct Entry {
    /// The tick at which the timer expires; `UNARMED` without a deadline.
    due: u64,
    /// The tick whose bucket holds the entry; never later than `due`. Meaningful while `linked`.
    queued: u64,
    previous: u32,
    /// The next entry of the bucket, or of the free list.
    next: u32,
    linked: bool,
    expired: bool,
    waker: Option<Waker>,
}

impl Entry {
    const FREE: Entry =
        Entry { due: UNARMED, queued: 0, previous: NIL, next: NIL, linked: false, expired: false, waker: None };
}

/// The wheel without a runtime: entries, buckets and a time that is handed in.
struct Slots {
    epoch: Instant,
    /// Every tick up to this one has been worked off.
    current: u64,
    /// The first entry of each bucket.
    heads: Box<[u32]>,
    entries: Vec<Entry>,
    free: u32,
    live: usize,
    armed: usize,
}

impl Slots {
    fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            current: 0,
            heads: vec![NIL; BUCKETS as usize].into_boxed_slice(),
            entries: Vec::new(),
            free: NIL,
            live: 0,
            armed: 0,
        }
    }

    fn entry(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// The first tick that is not before `at`: firing then is never early.
    fn tick_at_or_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        let whole = since.as_secs().saturating_mul(TICKS_PER_SECOND);
        whole.saturating_add(u64::from(since.subsec_nanos().div_ceil(TICK_NANOS))).min(FOREVER)
    }

    /// The last tick that is not after `now`.
    fn tick_at_or_before(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        since.as_secs().saturating_mul(TICKS_PER_SECOND) + u64::from(since.subsec_nanos() / TICK_NANOS)
    }

    fn time_of(&self, tick: u64) -> Instant {
        self.epoch + Duration::from_secs(tick / TICKS_PER_SECOND) + TICK * (tick % TICKS_PER_SECOND) as u32
    }

    fn insert(&mut self) -> u32 {
        self.live += 1;
        if self.free == NIL {
            self.entries.push(Entry::FREE);
            return u32::try_from(self.entries.len() - 1).expect("fewer than four billion timers fit into memory");
        }
        let slot = self.free;
        self.free = std::mem::replace(&mut self.entry_mut(slot).next, NIL);
        slot
    }

    /// Frees the entry; the waker is the caller's to drop, outside of any borrow.
    fn remove(&mut self, slot: u32) -> Option<Waker> {
        self.disarm(slot);
        self.unlink(slot);
        let free = self.free;
        let gone = std::mem::replace(self.entry_mut(slot), Entry { next: free, ..Entry::FREE });
        self.free = slot;
        self.live -= 1;
        if self.live == 0 && self.entries.len() > SPARE_ENTRIES {
            self.entries = Vec::new();
            self.free = NIL;
        }
        gone.waker
    }

    /// Sets the deadline; gives the waker back if it has passed already.
    fn arm(&mut self, slot: u32, due: u64) -> Option<Waker> {
        let (current, farthest) = (self.current, self.farthest());
        let entry = self.entry_mut(slot);
        let was_armed = entry.due != UNARMED;
        if due <= current {
            entry.due = UNARMED;
            entry.expired = true;
            let waker = entry.waker.take();
            self.armed -= usize::from(was_armed);
            return waker;
        }
        entry.due = due;
        entry.expired = false;
        let stays = entry.linked && entry.queued <= due;
        self.armed += usize::from(!was_armed);
        if !stays {
            self.unlink(slot);
            self.link(slot, due.min(farthest));
        }
        None
    }

    /// Takes the deadline back. The entry stays in its bucket, where the next arming most often finds it in place.
    fn disarm(&mut self, slot: u32) {
        let entry = self.entry_mut(slot);
        let was_armed = std::mem::replace(&mut entry.due, UNARMED) != UNARMED;
        entry.expired = false;
        self.armed -= usize::from(was_armed);
    }

    /// The last tick that has a bucket of its own; later deadlines wait there and are moved on.
    fn farthest(&self) -> u64 {
        self.current.saturating_add(BUCKETS - 1)
    }

    fn link(&mut self, slot: u32, tick: u64) {
        let bucket = bucket_of(tick);
        let head = std::mem::replace(&mut self.heads[bucket], slot);
        if head != NIL {
            self.entry_mut(head).previous = slot;
        }
        let entry = self.entry_mut(slot);
        entry.queued = tick;
        entry.previous = NIL;
        entry.next = head;
        entry.linked = true;
    }

    fn unlink(&mut self, slot: u32) {
        let entry = self.entry_mut(slot);
        if !entry.linked {
            return;
        }
        entry.linked = false;
        let (previous, next, bucket) = (entry.previous, entry.next, bucket_of(entry.queued));
        if previous == NIL {
            self.heads[bucket] = next;
        } else {
            self.entry_mut(previous).next = next;
        }
        if next != NIL {
            self.entry_mut(next).previous = previous;
        }
    }

    /// Moves the time on, collecting the wakers of what expired. Visits each bucket at most once.
    fn advance(&mut self, now: Instant, fired: &mut Vec<Waker>) {
        let target = self.tick_at_or_before(now);
        if target <= self.current {
            return;
        }
        let first = self.current + 1;
        let last = target.min(self.farthest());
        // Set before the walk, so that entries which move on are placed ahead of the new time.
        self.current = target;
        for tick in first..=last {
            // The list is taken off first: an entry that moves on may land in this very bucket.
            let mut slot = std::mem::replace(&mut self.heads[bucket_of(tick)], NIL);
            while slot != NIL {
                let farthest = self.farthest();
                let entry = self.entry_mut(slot);
                let next = entry.next;
                entry.linked = false;
                if entry.due <= target {
                    entry.due = UNARMED;
                    entry.expired = true;
                    fired.extend(entry.waker.take());
                    self.armed -= 1;
                } else if entry.due != UNARMED {
                    let due = entry.due;
                    self.link(slot, due.min(farthest));
                }
                slot = next;
            }
        }
    }

    /// The next tick whose bucket holds an entry.
    fn next_occupied(&self) -> Option<u64> {
        let first = self.current.saturating_add(1);
        (first..=self.farthest()).find(|tick| self.heads[bucket_of(*tick)] != NIL)
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct CountedWake(AtomicUsize);

    impl Wake for CountedWake {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A wheel whose time is moved by hand.
    struct ByHand {
        wheel: Wheel,
        start: Instant,
        wakes: Arc<CountedWake>,
        waker: Waker,
    }

    impl ByHand {
        fn new() -> Self {
            let wheel = Wheel::new();
            let start = wheel.0.slots.borrow().epoch;
            let wakes = Arc::new(CountedWake::default());
            let waker = Waker::from(Arc::clone(&wakes));
            Self { wheel, start, wakes, waker }
        }

        fn timer_at_ms(&self, ms: u64) -> Timer {
            let mut timer = self.wheel.timer();
            timer.arm_at(self.start + Duration::from_millis(ms));
            timer
        }

        fn at_ms(&self, ms: u64) -> &Self {
            self.wheel.0.advance(self.start + Duration::from_millis(ms));
            self
        }

        fn is_expired(&self, timer: &mut Timer) -> bool {
            timer.poll_expired(&mut Context::from_waker(&self.waker)).is_ready()
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }

        fn linked(&self) -> usize {
            let slots = self.wheel.0.slots.borrow();
            slots.entries.iter().filter(|entry| entry.linked).count()
        }
    }

    #[test]
    fn a_timer_fires_never_early_and_within_a_tick_of_the_wheel() {
        // deadline, last advance at which it must wait, first advance at which it must have fired
        let wheel_span = BUCKETS * TICK_MS;
        for (deadline, waits, fires) in [
            (1, 9, 10),
            (10, 9, 10),
            (11, 19, 20),
            (30_000, 29_999, 30_000),
            (wheel_span - 10, wheel_span - 11, wheel_span - 10),
            (wheel_span, wheel_span - 1, wheel_span),
            (wheel_span + 10, wheel_span + 9, wheel_span + 10),
            (10 * wheel_span + 5, 10 * wheel_span + 5, 10 * wheel_span + 10),
        ] {
            let time = ByHand::new();
            let mut timer = time.timer_at_ms(deadline);
            assert!(!time.at_ms(waits).is_expired(&mut timer), "{deadline} ms at {waits} ms");
            assert!(timer.is_armed());
            assert!(time.at_ms(fires).is_expired(&mut timer), "{deadline} ms at {fires} ms");
            assert_eq!(time.wakes(), 1, "{deadline} ms");
            assert!(!timer.is_armed());
        }
    }

    #[test]
    fn small_steps_and_one_leap_agree() {
        let time = ByHand::new();
        let mut timer = time.timer_at_ms(123_456);
        for ms in (0..123_460).step_by(7) {
            assert!(!time.at_ms(ms.min(123_455)).is_expired(&mut timer), "at {ms} ms");
        }
        assert!(time.at_ms(123_460).is_expired(&mut timer));
    }

    #[test]
    fn a_deadline_in_the_past_expires_at_once_and_wakes_who_waits() {
        let time = ByHand::new();
        time.at_ms(1_000);
        let mut timer = time.wheel.timer();
        assert!(!time.is_expired(&mut timer));
        timer.arm_at(time.start + Duration::from_millis(500));
        assert_eq!(time.wakes(), 1);
        assert!(time.is_expired(&mut timer));
        assert!(time.is_expired(&mut timer), "stays expired until armed anew");
        timer.disarm();
        assert!(!time.is_expired(&mut timer));
    }

    #[test]
    fn a_timer_armed_later_fires_at_the_later_time_and_is_moved_lazily() {
        let time = ByHand::new();
        let mut timer = time.timer_at_ms(100);
        timer.arm_at(time.start + Duration::from_millis(5_000));
        assert_eq!(time.wheel.0.slots.borrow().entry(timer.slot).queued, 10, "still in its old bucket");
        assert!(!time.at_ms(4_999).is_expired(&mut timer));
        assert_eq!(time.wheel.0.slots.borrow().entry(timer.slot).queued, 500);
        assert!(time.at_ms(5_000).is_expired(&mut timer));
    }

    #[test]
    fn a_timer_armed_sooner_fires_at_the_sooner_time() {
        let time = ByHand::new();
        let mut timer = time.timer_at_ms(30_000);
        timer.arm_at(time.start + Duration::from_millis(50));
        assert!(!time.at_ms(49).is_expired(&mut timer));
        assert!(time.at_ms(50).is_expired(&mut timer));
        timer.arm_at(time.start + Duration::from_millis(200));
        assert!(!time.at_ms(199).is_expired(&mut timer));
        assert!(time.at_ms(200).is_expired(&mut timer));
    }

    #[test]
    fn a_disarmed_timer_never_fires_and_leaves_its_bucket() {
        let time = ByHand::new();
        let mut timer = time.timer_at_ms(100);
        timer.disarm();
        assert!(!timer.is_armed());
        assert_eq!(time.wheel.armed(), 0);
        assert!(!time.at_ms(60_000).is_expired(&mut timer));
        assert_eq!((time.linked(), time.wakes()), (0, 0));
    }

    #[test]
    fn dropped_timers_leave_nothing_behind() {
        let time = ByHand::new();
        for _ in 0..60_000 {
            drop(time.timer_at_ms(30_000));
        }
        assert_eq!((time.linked(), time.wheel.armed()), (0, 0));
        assert_eq!(time.wheel.0.slots.borrow().entries.len(), 1, "the one entry is used again");
    }

    #[test]
    fn a_burst_of_timers_gives_its_memory_back() {
        let time = ByHand::new();
        let burst: Vec<_> = (0..10_000).map(|_| time.timer_at_ms(30_000)).collect();
        assert_eq!(time.wheel.armed(), 10_000);
        drop(burst);
        assert_eq!(time.wheel.0.slots.borrow().entries.capacity(), 0);
        let mut timer = time.timer_at_ms(50);
        assert!(time.at_ms(50).is_expired(&mut timer));
    }

    #[test]
    fn neighbours_in_a_bucket_survive_the_loss_of_any_of_them() {
        for lost in 0..3 {
            let time = ByHand::new();
            let mut timers: Vec<_> = (0..3).map(|_| time.timer_at_ms(100)).collect();
            drop(timers.remove(lost));
            time.at_ms(100);
            assert!(timers.iter_mut().all(|timer| time.is_expired(timer)), "without {lost}");
        }
    }

    #[test]
    fn a_long_stall_is_caught_up_in_one_pass() {
        let time = ByHand::new();
        let mut due: Vec<_> = (1..2_000).map(|n| time.timer_at_ms(n * 997)).collect();
        let mut far = time.timer_at_ms(365 * 24 * 3_600_000);
        time.at_ms(24 * 3_600_000);
        assert!(due.iter_mut().all(|timer| time.is_expired(timer)));
        assert!(!time.is_expired(&mut far));
        let slots = time.wheel.0.slots.borrow();
        assert_eq!((slots.armed, slots.current), (1, 24 * 360_000));
    }

    #[test]
    fn a_deadline_beyond_the_clock_never_comes() {
        let time = ByHand::new();
        let mut timer = time.wheel.timer();
        timer.arm(Duration::MAX);
        assert!(timer.is_armed());
        assert!(!time.at_ms(1_000 * 24 * 3_600_000).is_expired(&mut timer));
    }

    #[test]
    fn random_operations_agree_with_a_naive_model() {
        let mut random = fastrand::Rng::with_seed(7);
        let time = ByHand::new();
        let mut timers: Vec<(Timer, Option<u64>)> = (0..50).map(|_| (time.wheel.timer(), None)).collect();
        let mut now = 0;
        for step in 0..20_000 {
            let index = random.usize(..timers.len());
            let (timer, due) = &mut timers[index];
            match random.u8(..10) {
                0..5 => {
                    let span = if random.bool() { 200 } else { 120_000 };
                    let at = now + random.u64(1..span);
                    timer.arm_at(time.start + Duration::from_millis(at));
                    *due = Some(at);
                }
                5 => {
                    timer.disarm();
                    *due = None;
                }
                6 => timers[index] = (time.wheel.timer(), None),
                _ => {
                    let span = if random.u8(..20) == 0 { 90_000 } else { 60 };
                    now += random.u64(1..span);
                    time.at_ms(now);
                }
            }
            let armed = timers.iter().filter(|(timer, _)| timer.is_armed()).count();
            assert_eq!(time.wheel.armed(), armed, "step {step}");
            for (timer, due) in &mut timers {
                let want = due.is_some_and(|due| due.div_ceil(TICK_MS) <= now / TICK_MS);
                assert_eq!(time.is_expired(timer), want, "step {step}, due {due:?}, now {now}");
            }
        }
    }

    #[test]
    fn the_waker_is_cloned_only_for_another_task() {
        let time = ByHand::new();
        let mut timer = time.timer_at_ms(100);
        let before = Arc::strong_count(&time.wakes);
        for _ in 0..5 {
            assert!(!time.is_expired(&mut timer));
        }
        assert_eq!(Arc::strong_count(&time.wakes), before + 1);
        drop(timer);
        assert_eq!(Arc::strong_count(&time.wakes), before);
    }

    #[test]
    fn the_driver_plans_one_tick_ahead_under_load_else_to_the_next_bucket_else_parks() {
        let time = ByHand::new();
        let plan = || time.wheel.0.plan().map(|at| (at - time.start).as_millis());
        assert_eq!(plan(), None);
        assert!(time.wheel.0.asleep.get());
        let mut timer = time.timer_at_ms(30_000);
        assert!(!time.wheel.0.asleep.get() && time.wheel.0.nudged.get(), "arming wakes the driver");
        assert_eq!(plan(), Some(10));
        assert!(!time.wheel.0.asleep.get());
        time.at_ms(10);
        assert_eq!(plan(), Some(30_000));
        assert!(time.wheel.0.asleep.get());
        timer.disarm();
        assert_eq!(plan(), None);
    }

    #[test]
    fn the_coarse_time_never_runs_backwards() {
        let time = ByHand::new();
        let ahead = time.start + Duration::from_secs(3_600);
        time.wheel.0.advance(ahead);
        assert_eq!(time.wheel.now(), ahead);
        time.wheel.timer().arm(Duration::from_secs(1));
        assert_eq!(time.wheel.now(), ahead);
    }

    fn on_a_worker<F: Future>(test: impl FnOnce(Wheel) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let wheel = Wheel::new();
            tokio::task::spawn_local(wheel.clone().run());
            tokio::time::timeout(Duration::from_secs(30), test(wheel)).await.expect("the wheel must turn")
        })
    }

    #[test]
    fn the_driver_fires_timers_on_a_runtime_and_never_early() {
        on_a_worker(|wheel| async move {
            for ms in [0, 1, 25, 60] {
                let after = Duration::from_millis(ms);
                let started = Instant::now();
                let mut timer = wheel.timer();
                timer.arm(after);
                timer.expired().await;
                assert!(started.elapsed() >= after, "{ms} ms fired after {:?}", started.elapsed());
            }
        });
    }

    #[test]
    fn the_driver_is_woken_from_a_long_sleep_by_a_sooner_timer() {
        on_a_worker(|wheel| async move {
            let mut far = wheel.timer();
            far.arm(Duration::from_secs(3_600));
            while !wheel.0.asleep.get() {
                tokio::task::yield_now().await;
            }
            let mut near = wheel.timer();
            near.arm(Duration::from_millis(15));
            near.expired().await;
            assert!(far.is_armed());
        });
    }

    #[test]
    fn the_driver_parks_without_armed_timers_and_the_time_stays_true() {
        on_a_worker(|wheel| async move {
            let mut timer = wheel.timer();
            timer.arm(Duration::from_millis(5));
            timer.expired().await;
            while !wheel.0.asleep.get() {
                tokio::task::yield_now().await;
            }
            let before = Instant::now();
            assert!(wheel.now() >= before, "a parked wheel reads the clock");
            assert!(wheel.0.plan().is_none());
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_fires_within_two_ticks_and_an_idle_wheel_lets_the_clock_rest() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let wheel = Wheel::new();
                tokio::task::spawn_local(wheel.clone().run());
                let started = read_clock();
                for ms in [0, 3, 10, 995, 30_000, 75_001, 3_600_000] {
                    let (after, armed_at) = (Duration::from_millis(ms), read_clock());
                    let mut timer = wheel.timer();
                    timer.arm(after);
                    timer.expired().await;
                    let late = (read_clock() - armed_at).checked_sub(after).expect("never early");
                    assert!(late <= 2 * TICK, "{ms} ms fired {late:?} late");
                    tokio::time::advance(Duration::from_millis(7)).await;
                }
                assert!(read_clock() - started > Duration::from_secs(3_700));
            })
            .await;
    }
}
