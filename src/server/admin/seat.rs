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
                self.taken.iter().filter_map(|seat| Some((seat.rests_since()?, seat))).min_by_key(|rest| rest.0);
            let wait = match longest {
                // Who was told is on its way, unless something was asked just then.
                _ if self.taken.iter().any(|seat| seat.is_told()) => REST_LEAST,
                Some((since, seat)) if now.saturating_duration_since(since) >= REST_LEAST => {
                    seat.tell();
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
    told: Notify,
    state: Mutex<State>,
}

struct State {
    /// A page is at work for it.
    is_asked: bool,
    /// Since when there is nothing to do for it.
    rests_since: Option<Instant>,
    /// Somebody else is to have this seat.
    is_told: bool,
}

impl Seat {
    fn new(now: Instant) -> Self {
        let state = State { is_asked: false, rests_since: Some(now), is_told: false };
        Self { told: Notify::new(), state: Mutex::new(state) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request came.
    pub(super) fn asked(&self) {
        self.change(|state| *state = State { is_asked: true, rests_since: None, is_told: false });
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
        self.change(|state| state.rests_since)
    }

    fn is_told(&self) -> bool {
        self.change(|state| state.is_told)
    }

    /// Tells whoever rests here to go. Whether somebody does.
    fn tell(&self) -> bool {
        let is_told = self.change(|state| {
            state.is_told = state.rests_since.is_some();
            state.is_told
        });
        if is_told {
            self.told.notify_one();
        }
        is_told
    }

    /// Ends when somebody else is to have this seat, and nothing was asked since it was told.
    pub(super) async fn wanted(&self) {
        while !self.is_told() {
            self.told.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Seats that rest, whose connections say when they are to go and do once they may.
    fn resting(seats: &mut Seats, told: &Arc<Mutex<Vec<usize>>>, may_go: &Arc<Notify>) {
        for number in 0..seats.most {
            let (told, may_go) = (told.clone(), may_go.clone());
            seats.give(|seat| async move {
                seat.wanted().await;
                told.lock().unwrap().push(number);
                may_go.notified().await;
            });
        }
    }

    #[tokio::test]
    async fn one_goes_for_one_who_comes_however_long_it_takes_to_go() {
        let (told, may_go) = (Arc::default(), Arc::default());
        let mut seats = Seats::new(3);
        resting(&mut seats, &told, &may_go);
        // Long enough for each of them to have rested, and to be looked at again.
        tokio::time::timeout(REST_LEAST * 4, seats.make_room()).await.unwrap_err();
        assert_eq!(*told.lock().unwrap(), [0]);
        may_go.notify_one();
        seats.make_room().await;
        assert_eq!((seats.free(), &*told.lock().unwrap()), (1, &vec![0]));
    }

    #[tokio::test]
    async fn whoever_asks_just_then_stays() {
        let seat = Seat::new(Instant::now());
        assert!(seat.tell());
        seat.asked();
        assert_eq!(seat.wanted().now_or_never(), None);
        assert!(!seat.tell(), "it does not rest");
        seat.answered();
        seat.written();
        assert!(seat.tell());
        assert_eq!(seat.wanted().now_or_never(), Some(()));
    }
}
