//! How many requests an upstream is given at once, and who waits for a place, over all workers.
//!
//! A place is taken without a lock. Only who finds none gets in line, behind a mutex; whoever gives a place back looks at
//! one number to learn that nobody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connect;
use super::error::{Error, Kind};
use super::gradient::{self, Gradient};
use super::state::State;
use crate::config::upstream::Class;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::timer::Timer;

/// What a place is worth with less time than this left: nothing.
const TIME_MIN: Duration = Duration::from_millis(5);

/// What holds for requests that come now.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Requests in flight, over all workers.
    pub in_flight_max: usize,
    /// Requests that may wait for a place.
    pub queue_max: usize,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// How the bound follows what the upstream bears. None: it stays where it is.
    pub adaptive: Option<gradient::Rules>,
}

/// The places of an upstream.
pub(super) struct Bulkhead {
    taken: AtomicUsize,
    /// How many are in line. Changed under the lock only.
    waiting: AtomicUsize,
    /// The bound for whoever is in line: that of who came last.
    bound: AtomicUsize,
    /// What is thought that the upstream bears.
    borne: AtomicUsize,
    line: Mutex<Line>,
    gradient: Mutex<Option<Gradient>>,
}

/// Who waits, by class.
#[derive(Default)]
struct Line {
    critical: VecDeque<Waiter>,
    default: VecDeque<Waiter>,
    bulk: VecDeque<Waiter>,
}

struct Waiter {
    /// Later a place is of no use to it.
    until: Instant,
    sender: oneshot::Sender<Place>,
}

/// Leave to be in flight, given back on drop.
pub(super) struct Place(Arc<State>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.bulkhead.give_back(&self.0);
    }
}

impl Default for Bulkhead {
    fn default() -> Self {
        Self {
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
            borne: AtomicUsize::new(usize::MAX),
            line: Mutex::default(),
            gradient: Mutex::default(),
        }
    }
}

impl Line {
    /// Those of `class`, and before them those that come first.
    fn of(&mut self, class: Class) -> &mut VecDeque<Waiter> {
        match class {
            Class::Probe | Class::Critical => &mut self.critical,
            Class::Default => &mut self.default,
            Class::Bulk => &mut self.bulk,
        }
    }

    fn len(&self) -> usize {
        self.critical.len() + self.default.len() + self.bulk.len()
    }

    /// Nobody of those waits any more.
    fn forget_gone(&mut self, now: Instant) {
        for line in [&mut self.critical, &mut self.default, &mut self.bulk] {
            line.retain(|waiter| !waiter.sender.is_closed() && waiter.until > now);
        }
    }

    /// Sends away who came last of the lowest class below `class`.
    fn displace(&mut self, class: Class) -> bool {
        let lower: &mut [&mut VecDeque<Waiter>] = match class {
            Class::Probe | Class::Critical => &mut [&mut self.bulk, &mut self.default],
            Class::Default => &mut [&mut self.bulk],
            Class::Bulk => &mut [],
        };
        lower.iter_mut().any(|line| line.pop_back().is_some())
    }
}

/// The part of the bound that a class may fill: work that can wait leaves a quarter to the rest.
fn share(class: Class, bound: usize) -> usize {
    match class {
        Class::Probe => usize::MAX,
        Class::Critical | Class::Default => bound,
        Class::Bulk => bound - bound / 4,
    }
}

impl Bulkhead {
    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Requests in line.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The bound of now.
    pub(super) fn bound(&self, bounds: &Bounds) -> usize {
        match bounds.adaptive {
            None => bounds.in_flight_max,
            Some(_) => self.borne.load(Ordering::Relaxed).min(bounds.in_flight_max),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing in here panics half-way.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, most: usize) -> bool {
        let taken = |taken| if taken < most { Some(taken + 1) } else { None };
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok()
    }

    fn give_back(&self, state: &Arc<State>) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
        // Whoever gets in line counts itself before it looks for a place once more, so one of the two sees the other.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve(state);
        }
    }

    /// Gives free places to who waits.
    fn serve(&self, state: &Arc<State>) {
        let now = Instant::now();
        let bound = self.bound.load(Ordering::Relaxed);
        let mut line = self.line();
        line.forget_gone(now);
        let mut left = None;
        for class in [Class::Critical, Class::Default, Class::Bulk] {
            while left.is_none()
                && !line.of(class).is_empty()
                && self.take(share(class, bound))
                && let Some(waiter) = line.of(class).pop_front()
            {
                // Whoever has gone meanwhile leaves it.
                left = waiter.sender.send(Place(state.clone())).err();
            }
        }
        self.waiting.store(line.len(), Ordering::SeqCst);
        drop(line);
        // Not before the lock is free: whoever gives a place back looks for who waits.
        drop(left);
    }

    /// A place for a request of `class`, if one is free now.
    pub(super) fn at_once(state: &Arc<State>, bounds: &Bounds, class: Class) -> Option<Place> {
        let own = &state.bulkhead;
        // Nobody overtakes who waits already, but for a class that comes first.
        let is_first = class < Class::Default || own.waiting.load(Ordering::Relaxed) == 0;
        (is_first && own.take(share(class, own.bound(bounds)))).then(|| Place(state.clone()))
    }

    /// A place for a request of `class`, as soon as one is free.
    pub(super) async fn wait(
        state: &Arc<State>,
        bounds: &Bounds,
        class: Class,
        deadline: Instant,
        timer: &mut Timer,
        metrics: &UpstreamMetrics,
    ) -> Result<Place, Error> {
        let own = &state.bulkhead;
        let got = match own.get_in_line(state, bounds, class, deadline) {
            Ok(Waits::Served(place)) => Ok(place),
            Ok(Waits::Until(receiver, wait)) => {
                let until = Instant::now() + wait;
                let _waits = metrics.waits_for_place();
                timer.arm(wait);
                let place = connect::within(timer, receiver).await;
                own.leave_line();
                match place {
                    Some(Ok(place)) => Ok(place),
                    Some(Err(_)) if Instant::now() < until => Err(Kind::Displaced),
                    Some(Err(_)) | None => Err(Kind::PlaceWait),
                }
            }
            Err(kind) => Err(kind),
        };
        got.map_err(|kind| {
            metrics.shed(class.word());
            kind.into()
        })
    }

    fn get_in_line(&self, state: &Arc<State>, bounds: &Bounds, class: Class, deadline: Instant) -> Result<Waits, Kind> {
        let bound = self.bound(bounds);
        if bounds.queue_max == 0 {
            // With nobody in line there was nobody to be overtaken.
            return Err(Kind::InFlight);
        }
        let now = Instant::now();
        let wait = bounds.queue_wait.min(deadline.saturating_duration_since(now).saturating_sub(TIME_MIN));
        if wait.is_zero() {
            return Err(Kind::PlaceWait);
        }
        let mut line = self.line();
        line.forget_gone(now);
        if line.len() >= bounds.queue_max && !line.displace(class) {
            self.waiting.store(line.len(), Ordering::SeqCst);
            return Err(Kind::PlaceQueue);
        }
        let (sender, receiver) = oneshot::channel();
        line.of(class).push_back(Waiter { until: now + wait, sender });
        self.bound.store(bound, Ordering::Relaxed);
        self.waiting.store(line.len(), Ordering::SeqCst);
        let is_alone = line.len() == 1;
        if is_alone && self.take(share(class, bound)) {
            line.of(class).pop_back();
            self.waiting.store(0, Ordering::SeqCst);
            return Ok(Waits::Served(Place(state.clone())));
        }
        drop(line);
        if !is_alone {
            // A place may have come free before anybody was counted.
            self.serve(state);
        }
        Ok(Waits::Until(receiver, wait))
    }

    /// Whoever waited is served or gave up.
    fn leave_line(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let mut line = self.line();
            line.forget_gone(Instant::now());
            self.waiting.store(line.len(), Ordering::SeqCst);
        }
    }

    /// A call took so long until its answer began.
    pub(super) fn took(&self, bounds: &Bounds, time: Duration, now: Instant, metrics: &UpstreamMetrics) {
        let Some(rules) = &bounds.adaptive else { return };
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        let gradient = gradient.get_or_insert_with(|| Gradient::new(rules, bounds.in_flight_max, now));
        if let Some(limit) = gradient.note(rules, bounds.in_flight_max, time, self.taken(), now) {
            self.borne.store(limit, Ordering::Relaxed);
            self.bound.store(limit, Ordering::Relaxed);
            metrics.bears(limit);
        }
    }
}

enum Waits {
    Served(Place),
    Until(oneshot::Receiver<Place>, Duration),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::timer::Wheel;

    struct Stage {
        state: Arc<State>,
        bounds: Bounds,
        wheel: Wheel,
        metrics: UpstreamMetrics,
    }

    impl Stage {
        fn new(in_flight_max: usize, queue_max: usize) -> Self {
            let wheel = Wheel::new();
            tokio::task::spawn_local(wheel.clone().run());
            let queue_wait = Duration::from_secs(60);
            let bounds = Bounds { in_flight_max, queue_max, queue_wait, adaptive: None };
            Self { state: State::apart(), bounds, wheel, metrics: Metrics::new().upstream("app") }
        }

        async fn ask(&self, class: Class) -> Result<Place, Kind> {
            let deadline = Instant::now() + Duration::from_secs(3600);
            let mut timer = self.wheel.timer();
            if let Some(place) = Bulkhead::at_once(&self.state, &self.bounds, class) {
                return Ok(place);
            }
            Bulkhead::wait(&self.state, &self.bounds, class, deadline, &mut timer, &self.metrics)
                .await
                .map_err(|error| error.kind())
        }

        /// Asks in a task of its own, and waits until that is in line.
        async fn in_line(self: &std::rc::Rc<Self>, class: Class) -> tokio::task::JoinHandle<Result<Place, Kind>> {
            let (stage, before) = (self.clone(), self.state.bulkhead.waiting());
            let asked = tokio::task::spawn_local(async move { stage.ask(class).await });
            while self.state.bulkhead.waiting() == before && !asked.is_finished() {
                tokio::task::yield_now().await;
            }
            asked
        }
    }

    async fn on_stage<F: Future>(work: impl FnOnce() -> F) -> F::Output {
        tokio::task::LocalSet::new().run_until(async { work().await }).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_that_can_wait_leaves_room_and_probes_need_none() {
        on_stage(|| async {
            let stage = Stage::new(4, 0);
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(stage.ask(Class::Bulk).await.expect("three of four are for anybody"));
            }
            assert_eq!(stage.ask(Class::Bulk).await.err(), Some(Kind::InFlight));
            held.push(stage.ask(Class::Default).await.expect("the fourth"));
            assert_eq!(stage.ask(Class::Critical).await.err(), Some(Kind::InFlight));
            held.push(stage.ask(Class::Probe).await.expect("a probe is never refused"));
            assert_eq!(stage.state.bulkhead.taken(), 5);
            held.clear();
            assert_eq!(stage.state.bulkhead.taken(), 0);
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_matters_more_comes_first_and_displaces_what_matters_less() {
        on_stage(|| async {
            let stage = std::rc::Rc::new(Stage::new(1, 2));
            let held = stage.ask(Class::Default).await.expect("the only place");
            let bulk = stage.in_line(Class::Bulk).await;
            let default = stage.in_line(Class::Default).await;
            assert_eq!(stage.ask(Class::Bulk).await.err(), Some(Kind::PlaceQueue), "nobody is below it");
            let asks = stage.clone();
            let critical = tokio::task::spawn_local(async move { asks.ask(Class::Critical).await });
            assert_eq!(bulk.await.expect("no panic").err(), Some(Kind::Displaced));
            drop(held);
            let held = critical.await.expect("no panic").expect("it comes first");
            assert!(!default.is_finished());
            drop(held);
            assert!(default.await.expect("no panic").is_ok());
            assert_eq!((stage.state.bulkhead.taken(), stage.state.bulkhead.waiting()), (0, 0));
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn whoever_gives_up_leaves_its_place_to_the_next() {
        on_stage(|| async {
            let stage = std::rc::Rc::new(Stage::new(1, 9));
            let held = stage.ask(Class::Default).await.expect("the only place");
            let first = stage.in_line(Class::Default).await;
            let second = stage.in_line(Class::Default).await;
            first.abort();
            assert!(first.await.is_err());
            drop(held);
            assert!(second.await.expect("no panic").is_ok());
            assert_eq!((stage.state.bulkhead.taken(), stage.state.bulkhead.waiting()), (0, 0));
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_waits_longer_than_it_has_time() {
        on_stage(|| async {
            let stage = Stage::new(1, 9);
            let _held = stage.ask(Class::Default).await.expect("the only place");
            let mut timer = stage.wheel.timer();
            for left in [Duration::ZERO, Duration::from_millis(4), Duration::from_millis(25)] {
                let deadline = Instant::now() + left;
                let asked =
                    Bulkhead::wait(&stage.state, &stage.bounds, Class::Critical, deadline, &mut timer, &stage.metrics);
                assert_eq!(asked.await.err().map(|error| error.kind()), Some(Kind::PlaceWait), "{left:?}");
            }
            assert_eq!(stage.state.bulkhead.waiting(), 0);
        })
        .await;
    }

    #[test]
    fn a_thousand_racing_callers_never_hold_more_than_the_bound() {
        let state = State::apart();
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if state.bulkhead.take(5) {
                            most.fetch_max(state.bulkhead.taken(), Ordering::Relaxed);
                            drop(Place(state.clone()));
                        }
                    }
                });
            }
        });
        assert!(most.load(Ordering::Relaxed) <= 5);
        assert_eq!(state.bulkhead.taken(), 0);
    }
}
