//! Several that wait for one answer: each gets it as it comes, or all are told at once that it is none for them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::entry::{Head, Whole};
use super::invalid::Since;
use super::storable::Unstorable;
use crate::http::body::{Body, BodyError};

/// How far readers of an answer that is not stored may be apart, in bytes.
const WINDOW: usize = 256 << 10;

/// An answer on its way, and those who wait for it. Shared by all workers.
pub struct Flight {
    /// The epoch of purges in which it began.
    pub epoch: u64,
    /// The same, of unsafe requests.
    pub since: Since,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    chunks: VecDeque<Bytes>,
    /// Chunks that were let go of in front of `chunks`.
    gone: usize,
    /// Bytes in `chunks`.
    held: usize,
    end: Option<Result<(), BodyError>>,
    seats: Vec<Option<Seat>>,
    /// Who reads the answer.
    pump: Option<Waker>,
    /// All of it is held, to be stored.
    is_whole: bool,
}

enum Stage {
    Asking,
    Coming(Arc<Head>),
    Released(Unstorable),
}

struct Seat {
    next: usize,
    waker: Option<Waker>,
    is_outrun: bool,
}

/// What those who wait are told.
#[derive(Clone)]
pub enum Landed {
    /// Its head. The body follows.
    Coming(Arc<Head>),
    /// It is none for others.
    Released(Unstorable),
}

impl Flight {
    /// One that begins in these epochs.
    pub fn new(epoch: u64, since: Since) -> Arc<Self> {
        let state = State {
            stage: Stage::Asking,
            chunks: VecDeque::new(),
            gone: 0,
            held: 0,
            end: None,
            seats: Vec::new(),
            pump: None,
            is_whole: true,
        };
        Arc::new(Self { epoch, since, state: Mutex::new(state) })
    }

    /// Waits with the others. `None`: it is too late to see all of it.
    pub fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        if !state.is_whole {
            return None;
        }
        let place = state.seats.iter().position(Option::is_none).unwrap_or(state.seats.len());
        let seat = Some(Seat { next: 0, waker: None, is_outrun: false });
        match state.seats.get_mut(place) {
            Some(free) => *free = seat,
            None => state.seats.push(seat),
        }
        Some(Reader { flight: self.clone(), place, left: None })
    }

    /// The head is here.
    pub fn begin(&self, head: Arc<Head>) {
        self.change(|state| state.stage = Stage::Coming(head));
    }

    /// It is none for others. Where its head is known already, it breaks off.
    pub fn release(&self, why: Unstorable) {
        self.change(|state| match state.stage {
            Stage::Asking => state.stage = Stage::Released(why),
            Stage::Coming(_) if state.end.is_none() => state.end = Some(Err(BodyError::UpstreamCut)),
            Stage::Coming(_) | Stage::Released(_) => {}
        });
    }

    /// More of the body.
    pub fn push(&self, chunk: Bytes) {
        self.change(|state| {
            state.held += chunk.len();
            state.chunks.push_back(chunk);
        });
    }

    /// The body is over.
    pub fn end(&self, end: Result<(), BodyError>) {
        self.change(|state| state.end = Some(end));
    }

    /// It will not be stored after all: nobody joins any more, and what all have read is let go of.
    pub fn loosen(&self) {
        self.change(|state| {
            state.is_whole = false;
            state.trim();
        });
    }

    /// All chunks of a body that is held whole.
    pub fn chunks(&self) -> Vec<Bytes> {
        self.state().chunks.iter().cloned().collect()
    }

    /// Holds the chunks of a body that is here whole as parts of `whole`, which has the same bytes.
    pub fn exchange(&self, whole: &Bytes) {
        let mut state = self.state();
        let mut at = 0;
        for chunk in &mut state.chunks {
            let end = at + chunk.len();
            if end <= whole.len() {
                *chunk = whole.slice(at..end);
            }
            at = end;
        }
    }

    /// Whether all of it has come, or nothing more will.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.end.is_some() || matches!(state.stage, Stage::Released(_))
    }

    /// Ready when nobody reads it.
    pub fn poll_deserted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.seats.iter().all(Option::is_none) {
            return Poll::Ready(());
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Ready when the slowest reader is not too far behind.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_whole || state.held <= WINDOW {
            return Poll::Ready(());
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Lets the readers go who are the furthest behind: the others need not wait for them. Where there are no others, nobody.
    pub fn outrun(&self) {
        self.change(|state| {
            let places = || state.seats.iter().flatten().filter(|seat| !seat.is_outrun).map(|seat| seat.next);
            let (slowest, fastest) = (places().min(), places().max());
            if slowest == fastest {
                return;
            }
            for seat in state.seats.iter_mut().flatten().filter(|seat| Some(seat.next) == slowest) {
                seat.is_outrun = true;
            }
            state.trim();
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all readers, outside of the lock.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let wakers: Vec<Waker> = state.seats.iter_mut().flatten().filter_map(|seat| seat.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn wait(&mut self, cx: &Context<'_>) {
        if !self.pump.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.pump = Some(cx.waker().clone());
        }
    }

    fn trim(&mut self) {
        if self.is_whole {
            return;
        }
        let slowest = self.seats.iter().flatten().filter(|seat| !seat.is_outrun).map(|seat| seat.next).min();
        let keep_from = slowest.unwrap_or(usize::MAX);
        while self.gone < keep_from
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.gone += 1;
            self.held -= chunk.len();
        }
    }
}

/// One who waits for an answer, and then reads its body.
pub struct Reader {
    flight: Arc<Flight>,
    place: usize,
    left: Option<u64>,
}

impl Reader {
    /// The body of the response with this head, as it comes.
    pub fn into_body(mut self, head: &Head) -> Whole {
        if head.length == Some(0) {
            return Whole::Here(Bytes::new());
        }
        self.left = head.length.map(|length| length as u64);
        Whole::Coming(Body::Other(Box::new(self)))
    }

    /// Ready when it is known whether there is something to read.
    pub fn poll_landed(&mut self, cx: &mut Context<'_>) -> Poll<Landed> {
        let mut state = self.flight.state();
        match &state.stage {
            Stage::Coming(head) => Poll::Ready(Landed::Coming(head.clone())),
            Stage::Released(why) => Poll::Ready(Landed::Released(*why)),
            Stage::Asking => {
                if let Some(seat) = state.seats.get_mut(self.place).and_then(Option::as_mut) {
                    seat.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut guard = self.flight.state();
        let state = &mut *guard;
        let Some(seat) = state.seats.get_mut(self.place).and_then(Option::as_mut) else { return Poll::Ready(None) };
        if seat.is_outrun {
            return Poll::Ready(Some(Err(BodyError::Outrun)));
        }
        if let Some(chunk) = state.chunks.get(seat.next - state.gone) {
            let chunk = chunk.clone();
            seat.next += 1;
            state.trim();
            let pump = if state.is_whole { None } else { state.pump.take() };
            drop(guard);
            if let Some(pump) = pump {
                pump.wake();
            }
            self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                seat.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.flight.state();
        let seat = state.seats.get(self.place).and_then(Option::as_ref);
        let is_read = seat.is_none_or(|seat| !seat.is_outrun && seat.next - state.gone >= state.chunks.len());
        is_read && state.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        state.seats[self.place] = None;
        state.trim();
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cache::invalid::Invalid;

    fn read(reader: &mut Reader) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        http_body::Body::poll_frame(Pin::new(reader), &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn only_who_holds_up_others_is_let_go() {
        let flight = Flight::new(0, Invalid::default().since(b""));
        let (mut slow, mut quick) = (flight.join().unwrap(), flight.join().unwrap());
        flight.push(Bytes::from_static(b"a"));
        flight.loosen();
        flight.outrun();
        assert!(matches!(read(&mut quick), Poll::Ready(Some(Ok(_)))), "none is ahead of the other");
        flight.outrun();
        assert!(matches!(read(&mut slow), Poll::Ready(Some(Err(BodyError::Outrun)))));

        flight.push(Bytes::from_static(b"b"));
        flight.outrun();
        assert!(matches!(read(&mut quick), Poll::Ready(Some(Ok(_)))), "alone it may be slow");
    }
}
