//! Where the tries of one request stand, and what follows one that failed.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Upstream;
use super::error::Error;
use super::retry::{self, Course, Spent};
use crate::telemetry::metrics::RetryClass;

/// How often a request is sent again because nothing of it was processed. Bounds an HTTP/2 upstream that refuses every
/// stream.
const UNSENT_MAX: usize = 3;

/// The endpoints that a request was tried at.
pub(super) type Tried = SmallVec<[u32; 4]>;

pub(super) fn push(tried: &mut Tried, place: usize) {
    if !has(tried, place) {
        tried.push(u32::try_from(place).unwrap_or(u32::MAX));
    }
}

pub(super) fn has(tried: &Tried, place: usize) -> bool {
    tried.iter().any(|known| *known as usize == place)
}

/// Where the tries of one request stand.
pub(super) struct Tries<'p> {
    /// Where it was tried.
    pub(super) tried: Tried,
    /// Where it goes next, if that is settled.
    pub(super) at: Option<usize>,
    /// Its way through the plan for retries, if there is one.
    pub(super) course: Option<Course<'p>>,
    /// How many tries found no connection.
    unreached: usize,
    /// How many had a connection that took nothing of it.
    unsent: usize,
    /// Whether nothing but a new connection will do.
    pub(super) is_fresh: bool,
    /// Whether doing it twice is as good as once.
    may_redo: bool,
    /// Whether it may be sent again when the connection ends that it was sent on.
    pub(super) may_repeat: bool,
}

impl Tries<'_> {
    /// Of a request that may be sent twice or not. `shuns`: where it is tried already.
    pub(super) fn new(may_redo: bool, shuns: Option<usize>) -> Self {
        let mut tried = Tried::new();
        if let Some(place) = shuns {
            push(&mut tried, place);
        }
        Self { tried, at: None, course: None, unreached: 0, unsent: 0, is_fresh: false, may_redo, may_repeat: may_redo }
    }

    /// Whether a request of which nothing was taken may have met a connection that was just ending: not a new one, nor
    /// one after the other.
    pub(super) fn may_be_race(&self, is_reused: bool) -> bool {
        is_reused && self.unsent == 0
    }

    /// Whether the plan for retries may allow another try.
    pub(super) fn may_try_again(&self) -> bool {
        self.may_redo && self.course.as_ref().is_some_and(Course::is_open)
    }
}

impl Upstream {
    /// How long to wait before another try where there was no connection. `None`: that was the last. `is_cut`: the time of the
    /// try was over in armiger's own queue, or on the way.
    pub(super) fn unreached(
        &self,
        tries: &mut Tries<'_>,
        place: usize,
        error: &Error,
        is_cut: bool,
    ) -> Option<Duration> {
        tries.unreached += 1;
        push(&mut tries.tried, place);
        if !error.kind().is_connect() && !is_cut {
            return None;
        }
        if tries.unreached < self.plan.endpoints.len() {
            self.metrics.retried(RetryClass::Unsent);
            return Some(Duration::ZERO);
        }
        self.again(tries, None, |retry| retry.wants_error(error.kind()))
    }

    /// How long to wait before another try where a connection gave no answer, and where that goes. `None`: that was the last.
    /// `class`: why it may be sent again whatever the plan for retries says.
    pub(super) fn unanswered(
        &self,
        tries: &mut Tries<'_>,
        place: usize,
        is_reused: bool,
        error: &Error,
        class: Option<RetryClass>,
    ) -> Option<Duration> {
        tries.is_fresh = true;
        match class {
            Some(RetryClass::Unsent) => {
                let may_be_race = tries.may_be_race(is_reused);
                tries.unsent += 1;
                if tries.unsent > UNSENT_MAX {
                    return None;
                }
                if may_be_race {
                    tries.at = Some(place);
                } else {
                    // Not even a new connection took it: as good as not reached. Nor did a second of HTTP/2, which is seldom a
                    // new one: an endpoint that refuses streams would have all of the tries.
                    push(&mut tries.tried, place);
                }
                self.metrics.retried(RetryClass::Unsent);
                Some(Duration::ZERO)
            }
            Some(class) => {
                tries.at = Some(place);
                self.metrics.retried(class);
                Some(Duration::ZERO)
            }
            None => {
                push(&mut tries.tried, place);
                let may_redo = tries.may_redo;
                self.again(tries, None, |retry| may_redo && retry.wants_error(error.kind()))
            }
        }
    }

    /// How long to wait before another try by the plan for retries, if there is to be one.
    pub(super) fn again(
        &self,
        tries: &mut Tries<'_>,
        asked: Option<Duration>,
        wants: impl FnOnce(&retry::Plan) -> bool,
    ) -> Option<Duration> {
        let (Some(course), Some(retry)) = (&mut tries.course, &self.plan.retry) else { return None };
        if !wants(retry) {
            return None;
        }
        let now = Instant::now();
        let is_elsewhere = self.has_another(&tries.tried, now);
        let wait = match course.next(is_elsewhere, asked, now) {
            Ok(wait) => wait,
            Err(Spent::Budget) => {
                self.metrics.retry_budget_spent();
                return None;
            }
            Err(Spent::Other) => return None,
        };
        self.metrics.retried(RetryClass::Policy);
        Some(wait)
    }
}
