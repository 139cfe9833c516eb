//! What goes on beside requests: how state that outlives configurations works in the background.
//!
//! Compile only makes the state and leaves a [`Job`] with the snapshot ([`employ`]). Once the snapshot is in force, the
//! app's thread `background` hands the state its [`Plan`](Background::Plan) and, unless that is under way already, begins
//! its work. The work ends as soon as the state is gone, in the midst of a wait too: so a reload neither doubles nor
//! leaks it. Work that panics is begun anew.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Pools;
use crate::keep::{Keeper, Kept};
use crate::timer::Wheel;

/// State with something to do beside requests. Kept by a [`Keeper`].
pub trait Background: Send + Sync + 'static {
    /// What of the configuration its work goes by. Replaced with each snapshot, while the work goes on.
    type Plan: Send + Sync + 'static;

    /// Its leave to work.
    fn ticket(&self) -> &Ticket;

    /// Takes over the plan of the snapshot that came into force. Before the work begins, and after each reload; on the
    /// thread that works.
    fn follow(&self, plan: &Arc<Self::Plan>);

    /// The work. It holds the state for as long as it looks at it, and never over an `.await` that may last. If it panics it
    /// is called again: what it left half done it must find.
    fn work(state: Weak<Self>, desk: Desk) -> impl Future<Output = ()> + 'static;

    /// What is left to do once armiger has come to its end, when the work was given up and no request can come any more. It has
    /// a moment, and no more.
    fn finish(state: Arc<Self>, desk: Desk) -> impl Future<Output = ()> + 'static {
        drop((state, desk));
        std::future::ready(())
    }

    /// Whether requests must wait for it at the start, and how it goes. `None`: it is nobody's concern.
    fn awaited(&self, plan: &Self::Plan) -> Option<Awaited> {
        let _ = plan;
        None
    }
}

/// What work in the background may use. On the thread that works.
#[derive(Clone)]
pub struct Desk {
    /// Timers.
    pub wheel: Wheel,
    /// Connections to upstreams: not those of any worker.
    pub pools: Rc<Pools>,
}

/// Leave to work in the background: a field of the state that works, so that one ends with the other.
pub struct Ticket {
    begun: OnceLock<Instant>,
    alive: watch::Sender<()>,
}

impl Default for Ticket {
    fn default() -> Self {
        Self { begun: OnceLock::new(), alive: watch::Sender::new(()) }
    }
}

/// Something that requests wait for when armiger starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// What `/readyz?verbose` calls it.
    pub name: String,
    /// Whether it is there.
    pub is_there: bool,
    /// How long readiness waits for it, from when the work began.
    pub wait: Duration,
    /// In words.
    pub detail: String,
}

/// State that is to work, and by which plan: what a snapshot knows of it.
pub struct Job(Box<dyn Employed>);

trait Employed: Send + Sync {
    fn follow(&self);
    fn begin(&self, desk: &Desk, now: Instant) -> Option<Work>;
    fn finish(&self, desk: &Desk) -> Work;
    fn awaited(&self, now: Instant) -> Option<(Awaited, bool)>;
}

/// Work that has begun.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Of<T: Background>(Arc<T>, Arc<T::Plan>);

/// The first and the longest pause before work is begun anew.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Works until the work is done. If it panics it is begun anew, after a pause that grows while that goes on.
pub async fn anew<W: Future<Output = ()>>(mut begin: impl FnMut() -> W) {
    let mut pause = PAUSE.0;
    loop {
        let begun = tokio::time::Instant::now();
        let mut work = Box::pin(begin());
        // Nothing of it is used again but what is made to be found half done.
        let is_done = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(turn) => turn.map(|()| true),
            Err(_) => Poll::Ready(false),
        });
        if is_done.await {
            return;
        }
        if begun.elapsed() >= PAUSE.1 {
            pause = PAUSE.0;
        }
        tracing::error!(?pause, "work in the background broke off, and is begun anew");
        drop(work);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Has `state` work by `plan` from when this snapshot is in force. Starts nothing.
pub fn employ<T: Background>(keeper: &mut Keeper<'_>, state: &Arc<T>, plan: T::Plan) {
    keeper.attach(Job(Box::new(Of(state.clone(), Arc::new(plan)))));
}

impl Job {
    /// All of a snapshot.
    pub fn all(kept: &Kept) -> impl Iterator<Item = &Self> {
        kept.attached()
    }

    /// Hands the state its plan.
    pub fn follow(&self) {
        self.0.follow();
    }

    /// The work, if it has not begun before.
    pub fn begin(&self, desk: &Desk, now: Instant) -> Option<Work> {
        self.0.begin(desk, now)
    }

    /// What is left to do at the end.
    pub fn finish(&self, desk: &Desk) -> Work {
        self.0.finish(desk)
    }

    /// What requests wait for, and whether they still do at `now`.
    pub fn awaited(&self, now: Instant) -> Option<(Awaited, bool)> {
        self.0.awaited(now)
    }
}

impl<T: Background> Employed for Of<T> {
    fn follow(&self) {
        self.0.follow(&self.1);
    }

    fn begin(&self, desk: &Desk, now: Instant) -> Option<Work> {
        let Ticket { begun, alive } = self.0.ticket();
        begun.set(now).ok()?;
        let mut alive = alive.subscribe();
        let (state, desk) = (Arc::downgrade(&self.0), desk.clone());
        let work = anew(move || T::work(state.clone(), desk.clone()));
        Some(Box::pin(async move {
            let mut work = pin!(work);
            tokio::select! {
                () = &mut work => {}
                // Nothing is ever sent: it ends with the state.
                _ = alive.changed() => {}
            }
        }))
    }

    fn finish(&self, desk: &Desk) -> Work {
        Box::pin(T::finish(self.0.clone(), desk.clone()))
    }

    fn awaited(&self, now: Instant) -> Option<(Awaited, bool)> {
        let awaited = self.0.awaited(&self.1)?;
        let begun = self.0.ticket().begun.get();
        let is_over = begun.is_some_and(|begun| now.saturating_duration_since(*begun) >= awaited.wait);
        let waits = !awaited.is_there && !is_over;
        Some((awaited, waits))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use tokio::task::{JoinSet, LocalSet};

    use super::*;
    use crate::keep::Identity;

    /// Counts its turns; each follows a knock.
    #[derive(Default)]
    struct Clerk {
        ticket: Ticket,
        plan: AtomicUsize,
        turns: AtomicUsize,
        knock: Arc<Notify>,
    }

    impl Background for Clerk {
        type Plan = usize;

        fn ticket(&self) -> &Ticket {
            &self.ticket
        }

        fn follow(&self, plan: &Arc<usize>) {
            self.plan.store(**plan, Ordering::Relaxed);
        }

        async fn work(state: Weak<Self>, _: Desk) {
            while let Some(knock) = state.upgrade().map(|clerk| clerk.knock.clone()) {
                knock.notified().await;
                let Some(clerk) = state.upgrade() else { return };
                clerk.turns.fetch_add(1, Ordering::Relaxed);
            }
        }

        fn awaited(&self, _: &usize) -> Option<Awaited> {
            let is_there = self.turns.load(Ordering::Relaxed) > 0;
            Some(Awaited { name: "clerk".into(), is_there, wait: Duration::from_secs(5), detail: String::new() })
        }
    }

    fn compiled(previous: &Kept, plan: usize) -> (Kept, Arc<Clerk>) {
        let mut keeper = Keeper::after(previous);
        let state = keeper.keep(Identity::of("clerk", "one"), Clerk::default);
        employ(&mut keeper, &state, plan);
        (keeper.finish().0, state)
    }

    fn desk() -> Desk {
        let wheel = Wheel::new();
        Desk { pools: Rc::new(Pools::new(wheel.clone(), 1)), wheel }
    }

    #[test]
    fn compiling_begins_nothing() {
        let (kept, clerk) = compiled(&Kept::default(), 7);
        assert!(clerk.ticket.begun.get().is_none() && clerk.plan.load(Ordering::Relaxed) == 0);
        assert_eq!(Job::all(&kept).count(), 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reload_hands_over_a_plan_and_doubles_nothing_and_the_work_ends_with_its_state() {
        let (desk, now, mut tasks) = (desk(), Instant::now(), JoinSet::new());
        LocalSet::new()
            .run_until(async {
                let mut kept = Kept::default();
                for plan in 1..4 {
                    let (next, clerk) = compiled(&kept, plan);
                    for job in Job::all(&next) {
                        job.follow();
                        job.begin(&desk, now).map(|work| tasks.spawn_local(work));
                    }
                    assert_eq!(clerk.plan.load(Ordering::Relaxed), plan);
                    kept = next;
                }
                assert_eq!(tasks.len(), 1);
                drop(kept);
                // It waits for a knock that never comes.
                assert!(tasks.join_next().await.expect("the work").is_ok());
            })
            .await;
    }

    #[test]
    fn requests_wait_for_what_is_awaited_and_no_longer_than_was_said() {
        let (kept, clerk) = compiled(&Kept::default(), 1);
        let job = Job::all(&kept).next().expect("one");
        let (now, waits) = (Instant::now(), |now| job.awaited(now).expect("it is awaited").1);
        assert!(waits(now + Duration::from_secs(100)), "it has not begun");
        let work = job.begin(&desk(), now);
        assert!(work.is_some() && waits(now) && waits(now + Duration::from_millis(4999)));
        assert!(!waits(now + Duration::from_secs(5)));
        clerk.turns.fetch_add(1, Ordering::Relaxed);
        assert!(!waits(now));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_is_begun_anew_after_pauses_that_grow_and_shrink_again() {
        // So many seconds it works well before it panics each time.
        let lives = [0, 0, 0, 0, 0, 0, 0, 0, 100, 0];
        let (begun, ticks) = (std::cell::RefCell::new(Vec::new()), tokio::time::Instant::now());
        anew(|| {
            begun.borrow_mut().push(ticks.elapsed().as_secs());
            let life = lives.get(begun.borrow().len() - 1).copied();
            async move {
                tokio::time::sleep(Duration::from_secs(life.unwrap_or(0))).await;
                assert!(life.is_none(), "for the test");
            }
        })
        .await;
        let begun = begun.into_inner();
        let pauses: Vec<u64> = begun.windows(2).zip(lives).map(|(pair, life)| pair[1] - pair[0] - life).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn state_that_is_gone_is_not_worked_for_anew() {
        /// Panics at each turn.
        #[derive(Default)]
        struct Broken(Ticket);

        impl Background for Broken {
            type Plan = ();

            fn ticket(&self) -> &Ticket {
                &self.0
            }

            fn follow(&self, _: &Arc<()>) {}

            async fn work(_: Weak<Self>, _: Desk) {
                panic!("for the test");
            }
        }

        let mut keeper = Keeper::fresh();
        let state = keeper.keep(Identity::of("broken", "one"), Broken::default);
        employ(&mut keeper, &state, ());
        let kept = keeper.finish().0;
        let mut work = Job::all(&kept).next().and_then(|job| job.begin(&desk(), Instant::now())).expect("it begins");
        let long = Duration::from_secs(3600);
        assert!(tokio::time::timeout(long, &mut work).await.is_err(), "it is tried again and again");
        drop((state, kept));
        assert!(tokio::time::timeout(long, work).await.is_ok());
    }
}
