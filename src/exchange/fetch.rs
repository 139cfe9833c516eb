//! What a policy may not do itself, since no policy sends a request: have the route's answer fetched, for this exchange, for
//! others that wait for the same, or for those to come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, Request, Response};

use super::{Exchange, Rejection, Verdict};
use crate::config::value::HumanDuration;
use crate::http::body::Body;
use crate::timer::Wheel;

/// Something to fetch. The pipeline runs the rest of the route for it on an errand of its own, which outlives the exchange
/// that asked as long as somebody wants it.
pub struct Fetch {
    /// Who takes what is fetched.
    pub fill: Box<dyn Fill>,
    /// What the exchange is answered meanwhile. `None`: it waits for what the fill gives it.
    pub answer: Option<Response<Body>>,
}

/// Who takes what is fetched. Dropped before it is settled, nothing came of it.
pub trait Fill {
    /// Makes the request one whose answer is also for others.
    fn ask(&mut self, request: &mut Request<Body>);

    /// These headers go to the upstream, after all policies had their say.
    fn sent(&mut self, headers: &HeaderMap);

    /// The exchange that asked is gone.
    fn left(&mut self);

    /// Ready when nobody wants it any more.
    fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Takes what came.
    fn settle(self: Box<Self>, outcome: Result<Response<Body>, Rejection>, arrival: Arrival) -> Settled;
}

/// When an answer came.
pub struct Arrival {
    /// Now.
    pub now: Instant,
    /// The same, by the time of day.
    pub time: SystemTime,
    /// How long it took since the request was sent.
    pub delay: Duration,
    /// The worker's timers.
    pub wheel: Wheel,
}

/// What comes of it.
pub struct Settled {
    /// What the exchange that asked is answered, if it waits.
    pub answer: Option<Result<Response<Body>, Rejection>>,
    /// What is still to be done, such as reading the answer's body for those who wait.
    pub rest: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// A decision that has to wait.
pub type Deciding<'a> = Pin<Box<dyn Future<Output = Result<Verdict, Rejection>> + 'a>>;

/// Answers that are known already, for an action that asks for something itself.
pub trait Known: Send + Sync {
    /// What becomes of such a request: at once, or after a wait.
    ///
    /// # Errors
    /// None: it has to wait.
    fn ask<'a>(&'a self, exchange: &'a Exchange) -> Result<Verdict, Deciding<'a>>;

    /// What may stand in for an answer that could not be had.
    fn instead(&self, exchange: &Exchange) -> Option<Response<Body>>;
}

/// Marks an answer, among its extensions, that stands in for one that could not be had.
#[derive(Clone, Copy, Debug)]
pub struct StandsIn;

/// What a part of an action sends, as far as its cache must know.
pub struct Sends<'a> {
    /// What the cache is called.
    pub name: &'a str,
    /// Headers that it writes itself.
    pub headers: &'a [HeaderName],
    /// Headers of the client that go along.
    pub forward: &'a [HeaderName],
    /// Which answers it accepts, in a form that differs where they do.
    pub accepts: &'a str,
    /// How long what is stale may stand in for what cannot be had.
    pub stale: HumanDuration,
}
