//! The seats of a listener for operators: so many, and who does nothing on one makes room for whoever comes.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How long a connection may rest before it has to make room. Who connects to ask something does so at once.
const REST_LEAST: Duration = Duration::from_millis(100);

/// The connections of a listener, with a bound.
pub(super) struct Seats {
    most: usize,
    taken: Vec<Arc<Seat>>,
    connections: JoinSet<()>,
}

impl Seats {
    /// `most` of them, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), taken: Vec::new(), connections: JoinSet::new() }
    }

    /// Whether there is none for one more.
    pub(super) fn are_taken(&mut self) -> bool {
        self.free() == 0
    }

    /// For how many more there is one.
    pub(super) fn free(&mut self) -> usize {
        while self.connections.try_join_next().is_some() {}
        self.most.saturating_sub(self.connections.len())
    }

    /// Serves one more.
    pub(super) fn give<S: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(Arc<Seat>) -> S) {
        // Whoever left has let go of the seat.
        self.taken.retain(|seat| Arc::strong_count(seat) > 1);
        let seat = Arc::new(Seat::new(Instant::now()));
        self.taken.push(seat.clone());
        self.connections.spawn(serve(seat));
    }

    /// Ends when there is a seat for one more: somebody left, or whoever has rested the longest had to.
    pub(super) async fn make_room(&mut self) {
        while self.are_taken() {
            let now = Instant::now();
            let longest =
                self.taken.iter().enumerate().filter_map(|(place, seat)| Some((seat.rests_since()?, place))).min();
            let wait = match longest {
                Some((since, place)) if now.saturating_duration_since(since) >= REST_LEAST => {
                    self.taken.swap_remove(place).is_wanted.notify_one();
                    REST_LEAST
                }
                Some((since, _)) => (since + REST_LEAST).saturating_duration_since(now),
                None => REST_LEAST,
            };
            tokio::time::timeout(wait, self.connections.join_next()).await.ok();
        }
    }

    /// Ends when all have left.
    pub(super) async fn emptied(mut self) {
        while self.connections.join_next().await.is_some() {}
    }
}

/// One connection's: what it is at.
pub(super) struct Seat {
    is_wanted: Notify,
    state: Mutex<State>,
}

struct State {
    /// A page is at work for it.
    is_asked: bool,
    /// Since when there is nothing to do for it.
    rests_since: Option<Instant>,
}

impl Seat {
    fn new(now: Instant) -> Self {
        Self { is_wanted: Notify::new(), state: Mutex::new(State { is_asked: false, rests_since: Some(now) }) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A request came.
    pub(super) fn asked(&self) {
        self.change(|state| *state = State { is_asked: true, rests_since: None });
    }

    /// What is to be answered is known, and has to be written.
    pub(super) fn answered(&self) {
        self.change(|state| state.is_asked = false);
    }

    /// All that there was to write has been.
    pub(super) fn written(&self) {
        self.change(|state| {
            if !state.is_asked {
                state.rests_since.get_or_insert_with(Instant::now);
            }
        });
    }

    fn rests_since(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rests_since
    }

    /// Ends when somebody else is to have this seat.
    pub(super) async fn wanted(&self) {
        self.is_wanted.notified().await;
    }
}
