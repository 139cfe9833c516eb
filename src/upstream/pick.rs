//! Where a try goes: the endpoints that may be asked, the balance among them, and the breakers' leave.

use std::sync::Arc;
use std::time::Instant;

use super::Upstream;
use super::breaker::{self, Breaker, Refusal};
use super::error::{Error, Kind};
use super::standing::Seat;
use super::tries::{Tried, has as is_in, push};

/// Where a try goes, and what it holds.
pub(super) struct Pick<'u> {
    pub(super) place: usize,
    pub(super) leave: Option<breaker::Permit<'u>>,
    /// Where there is but one endpoint, nobody asks how much it has to do.
    pub(super) seat: Option<Seat>,
}

impl Upstream {
    /// The endpoint for the next try: `at`, if that is settled; else one that was not tried yet, if there is one. `own` is
    /// the breaker that all calls of this kind have in common.
    pub(super) fn pick<'u>(
        &'u self,
        own: Option<&'u Arc<Breaker>>,
        at: Option<usize>,
        tried: &Tried,
        key: Option<u64>,
        is_timed: bool,
        now: Instant,
    ) -> Result<Pick<'u>, Error> {
        let Self { plan, standings, .. } = self;
        let own = match (&plan.breaker, own) {
            (Some(rules), Some(breaker)) => Some(breaker.admit(rules, is_timed, now)?),
            _ => None,
        };
        let endpoints = &standings.endpoints;
        if plan.endpoints.len() == 1 && !self.is_ill(0) {
            let leave = match (own, self.admit_at(0, is_timed, now)) {
                (Some(own), _) => Some(own),
                (None, admitted) => admitted?,
            };
            return Ok(Pick { place: 0, leave, seat: None });
        }
        let mut refused = Tried::new();
        let mut soonest: Option<Refusal> = None;
        loop {
            let Some(place) =
                at.filter(|place| !is_in(&refused, *place)).or_else(|| self.choose(tried, &refused, key, now))
            else {
                return Err(match soonest {
                    Some(refusal) => refusal.into(),
                    None => Error::until(Kind::NoEndpoint, plan.health.as_ref().map(|health| health.interval_ill)),
                });
            };
            if own.is_some() {
                return Ok(Pick { place, leave: own, seat: endpoints.get(place).map(|one| Seat::take(&one.live)) });
            }
            match self.admit_at(place, is_timed, now) {
                Ok(leave) => {
                    return Ok(Pick { place, leave, seat: endpoints.get(place).map(|one| Seat::take(&one.live)) });
                }
                Err(refusal) => {
                    let is_sooner = soonest.is_none_or(|other| refusal.retry_after() < other.retry_after());
                    soonest = if is_sooner { Some(refusal) } else { soonest };
                    push(&mut refused, place);
                }
            }
        }
    }

    /// Whether health checks keep the endpoint at `place` out. What they found counts only as long as the plan has them:
    /// the state is shared with plans that have none, and compiling one that is refused must change nothing.
    pub(super) fn is_ill(&self, place: usize) -> bool {
        self.plan.health.is_some() && self.standings.was_ill(place)
    }

    fn admit_at(&self, place: usize, is_timed: bool, now: Instant) -> Result<Option<breaker::Permit<'_>>, Refusal> {
        let breaker = self.standings.endpoints.get(place).and_then(|standing| standing.breaker.as_ref());
        match (&self.plan.breaker, breaker) {
            (Some(rules), Some(breaker)) => breaker.admit(rules, is_timed, now).map(Some),
            _ => Ok(None),
        }
    }

    /// One of the endpoints that are fit, but for those in `refused`. Those that were tried, and those that are out, come
    /// only when nobody else is left.
    fn choose(&self, tried: &Tried, refused: &Tried, key: Option<u64>, now: Instant) -> Option<usize> {
        let endpoints = &self.standings.endpoints;
        let live = |place: usize| &endpoints[place].live;
        let is_possible = |place: usize| !is_in(refused, place) && !self.is_ill(place);
        let load = |place: usize| (live(place).in_flight(), live(place).share(self.plan.slow_start, now));
        let label = |place: usize| endpoints[place].label;
        let turn = || self.state.turn();
        let of_all = |allowed: &dyn Fn(usize) -> bool| self.plan.balance.choose(allowed, &load, &label, &turn, key);
        let has = |place: usize, priority: u16| self.plan.endpoints[place].priority == priority;
        let among = |allowed: &dyn Fn(usize) -> bool| match &*self.plan.priorities {
            [] | [_] => of_all(allowed),
            all => all.iter().find_map(|priority| of_all(&|place| has(place, *priority) && allowed(place))),
        };
        among(&|place| is_possible(place) && !is_in(tried, place) && !live(place).is_ejected(now))
            .or_else(|| among(&|place| is_possible(place) && !live(place).is_ejected(now)))
            .or_else(|| among(&is_possible))
    }

    /// Whether an endpoint is left that is fit and was not tried.
    pub(super) fn has_another(&self, tried: &Tried, now: Instant) -> bool {
        let mut endpoints = self.standings.endpoints.iter().enumerate();
        endpoints.any(|(place, one)| !is_in(tried, place) && !self.is_ill(place) && !one.live.is_ejected(now))
    }
}
