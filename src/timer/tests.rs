//! The wheel by hand and on a runtime.

use super::slots::BUCKETS;
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
