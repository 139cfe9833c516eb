//! The seats of a listener for operators: so many. Where all are taken, room is made for whoever comes: by who does nothing, else by
//! who takes no answer, else by who was there the longest, once it has been answered.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How long a connection may rest before it has to make room. Who connects to ask something does so at once.
const REST_LEAST: Duration = Duration::from_millis(100);

/// The least time between two looks for a seat.
const LOOK_LEAST: Duration = Duration::from_millis(10);

/// How long a connection may take nothing of its answer before it has to make room.
const STUCK_LEAST: Duration = Duration::from_secs(1);

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

    /// Ends when there is a seat for one more: somebody left, or had to.
    pub(super) async fn make_room(&mut self) {
        let begun = Instant::now();
        while self.are_taken() {
            let now = Instant::now();
            let wait = self.ask_for_room(now, now.saturating_duration_since(begun));
            tokio::time::timeout(wait, self.connections.join_next()).await.ok();
        }
    }

    /// Has somebody go, for one who has `waited`. How long that, or the chance to ask somebody, is waited for.
    fn ask_for_room(&self, now: Instant, waited: Duration) -> Duration {
        // Who was told is on its way, unless something was asked just then.
        if self.taken.iter().any(|seat| seat.is_told()) {
            return REST_LEAST;
        }
        let mut wait = REST_LEAST;
        for (since, least) in [(Seat::rests_since as fn(&Seat) -> _, REST_LEAST), (Seat::stuck_since, STUCK_LEAST)] {
            let longest = self.taken.iter().filter_map(|seat| Some((since(seat)?, seat))).min_by_key(|one| one.0);
            let Some((since, seat)) = longest else { continue };
            let left = (since + least).saturating_duration_since(now);
            if left.is_zero() && seat.tell() {
                return REST_LEAST;
            }
            wait = wait.min(left.max(LOOK_LEAST));
        }
        // Nobody has rested in all this time: all are at work, or ask again and again. Whoever was answered may come back, behind
        // those who wait.
        if waited >= REST_LEAST
            && let Some(seat) = self.taken.iter().find(|seat| seat.may_be_last())
        {
            seat.make_last();
        }
        wait
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
    /// It was answered before.
    is_answered: bool,
    /// Since when there is nothing to do for it.
    rests_since: Option<Instant>,
    /// Since when it has taken nothing of what there is to write.
    stuck_since: Option<Instant>,
    /// Somebody else is to have this seat.
    is_told: bool,
    /// Somebody else is to have it after the next answer.
    is_last: bool,
}

impl Seat {
    fn new(now: Instant) -> Self {
        let state = State {
            is_asked: false,
            is_answered: false,
            rests_since: Some(now),
            stuck_since: None,
            is_told: false,
            is_last: false,
        };
        Self { told: Notify::new(), state: Mutex::new(state) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request came.
    pub(super) fn asked(&self) {
        self.change(|state| {
            state.is_asked = true;
            state.rests_since = None;
            state.is_told = false;
        });
    }

    /// What is to be answered is known, and has to be written.
    pub(super) fn answered(&self) {
        self.change(|state| {
            state.is_asked = false;
            state.is_answered = true;
        });
    }

    /// All that there was to write has been.
    pub(super) fn written(&self) {
        self.change(|state| {
            state.stuck_since = None;
            if !state.is_asked {
                state.rests_since.get_or_insert_with(Instant::now);
            }
        });
    }

    /// Something was written, or `!moves`: it could not be.
    pub(super) fn writes(&self, moves: bool) {
        self.change(|state| match moves {
            true => state.stuck_since = None,
            false => {
                state.stuck_since.get_or_insert_with(Instant::now);
            }
        });
    }

    fn rests_since(&self) -> Option<Instant> {
        self.change(|state| state.rests_since)
    }

    fn stuck_since(&self) -> Option<Instant> {
        self.change(|state| state.stuck_since)
    }

    fn is_told(&self) -> bool {
        self.change(|state| state.is_told)
    }

    /// Tells whoever rests here, or takes no answer, to go. Whether somebody does.
    fn tell(&self) -> bool {
        let is_told = self.change(|state| {
            state.is_told = state.rests_since.is_some() || state.stuck_since.is_some();
            state.is_told
        });
        if is_told {
            self.told.notify_one();
        }
        is_told
    }

    fn may_be_last(&self) -> bool {
        self.change(|state| state.is_answered && !state.is_last)
    }

    fn make_last(&self) {
        self.change(|state| state.is_last = true);
    }

    /// Whether the answer that is on its way is the last one here.
    pub(super) fn is_last(&self) -> bool {
        self.change(|state| state.is_last)
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

    #[tokio::test]
    async fn who_was_there_the_longest_goes_after_its_answer_where_nobody_rests() {
        let mut seats = Seats::new(3);
        let leave = Arc::new(Notify::new());
        for _ in 0..3 {
            let leave = leave.clone();
            seats.give(|seat| async move {
                leave.notified().await;
                drop(seat);
            });
        }
        let [first, second, third] = [0, 1, 2].map(|place: usize| seats.taken[place].clone());
        for seat in [&first, &second, &third] {
            seat.asked();
        }
        let last = || [&first, &second, &third].map(|seat| seat.is_last());
        seats.ask_for_room(Instant::now(), REST_LEAST);
        assert_eq!(last(), [false; 3], "the first question of each is answered before anybody has to go");
        for seat in [&second, &third] {
            seat.answered();
            seat.written();
            seat.asked();
        }
        seats.ask_for_room(Instant::now(), REST_LEAST / 2);
        assert_eq!(last(), [false; 3], "somebody may rest soon");
        seats.ask_for_room(Instant::now(), REST_LEAST);
        assert_eq!(last(), [false, true, false]);
        seats.ask_for_room(Instant::now(), REST_LEAST * 2);
        assert_eq!(last(), [false, true, true], "who does not get its answer is not waited for");
    }

    #[tokio::test]
    async fn who_takes_no_answer_goes_before_those_who_ask() {
        let mut seats = Seats::new(2);
        for _ in 0..2 {
            seats.give(|seat| async move { seat.wanted().await });
        }
        let [first, second] = [0, 1].map(|place: usize| seats.taken[place].clone());
        for seat in [&first, &second] {
            seat.asked();
            seat.answered();
        }
        second.writes(false);
        seats.ask_for_room(Instant::now(), REST_LEAST);
        assert!(!second.is_told(), "it may be slow");
        second.writes(true);
        second.writes(false);
        seats.ask_for_room(Instant::now() + STUCK_LEAST, REST_LEAST);
        assert!(second.is_told() && !first.is_told());
    }
}
