//! Asking the upstream for a head alone, which tells of what is stored too (RFC 9111 §4.3.5).

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response, StatusCode};

use super::control::Demand;
use super::entry::{Ask, CACHE_STATUS, Entry, Whole, tags};
use super::fill::Rules;
use super::freshen::{Told, freshened};
use super::invalid::Since;
use super::status::{Detail, Forward, Status, passed};
use super::storable::{Asked, Unstorable};
use super::validate::{self, Conditions};
use crate::exchange::fetch::StandsIn;
use crate::exchange::{Arrival, Fill, Rejection, Settled};
use crate::http::body::Body;

/// A `HEAD` on its way to the upstream, of which something is stored that may not be used as it is. For its client alone.
pub struct ByHead {
    /// The route's rules.
    pub rules: Arc<Rules>,
    /// The key.
    pub key: Box<[u8]>,
    /// What is stored.
    pub entry: Arc<Entry>,
    /// Why the upstream is asked.
    pub forward: Forward,
    /// What the client demands.
    pub demand: Demand,
    /// What it has already.
    pub conditions: Conditions,
    /// What of the request decides on what is stored.
    pub asked: Asked,
    /// The epoch of purges in which it is asked.
    pub epoch: u64,
    /// The same, of unsafe requests.
    pub since: Since,
    /// The client is gone.
    pub is_unwanted: bool,
}

impl Fill for ByHead {
    /// It is its client's alone, and goes out as it came.
    fn ask(&mut self, _: &mut Request<Body>) {}

    fn sent(&mut self, _: &HeaderMap) {}

    fn left(&mut self) {
        self.is_unwanted = true;
    }

    fn poll_unwanted(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.is_unwanted { Poll::Ready(()) } else { Poll::Pending }
    }

    fn settle(self: Box<Self>, outcome: Result<Response<Body>, Rejection>, arrival: Arrival) -> Settled {
        let instead = match &outcome {
            Ok(response) if matches!(response.status().as_u16(), 500 | 502 | 503 | 504) => {
                self.instead(&arrival, Status::Covers(response.status()))
            }
            Err(rejection) if rejection.reason.status().is_server_error() => {
                self.instead(&arrival, Status::Told(Detail::Error))
            }
            Ok(_) | Err(_) => None,
        };
        let answer = match (instead, outcome) {
            (Some(answer), _) => Ok(answer),
            (None, Ok(response)) => Ok(self.told(response, &arrival)),
            (None, Err(rejection)) => Err(rejection),
        };
        Settled { answer: Some(answer), rest: None }
    }
}

impl ByHead {
    /// What is stored, in the place of an error.
    fn instead(&self, arrival: &Arrival, status: Status) -> Option<Response<Body>> {
        self.rules.covers_error(&self.key, &self.entry, &self.demand, arrival.now).then(|| {
            self.rules.metrics.stale();
            let ask = Ask { conditions: Some(&self.conditions), is_head: true, now: arrival.now };
            let mut answer = self.entry.head.answer(Whole::Here(self.entry.body.clone()), &ask, status);
            answer.extensions_mut().insert(StandsIn);
            answer
        })
    }

    /// The upstream's answer, and what it says of what is stored.
    fn told(&self, mut response: Response<Body>, arrival: &Arrival) -> Response<Body> {
        let (rules, entry, told) = (&self.rules, &self.entry, response.headers());
        let confirmed = match response.status() {
            StatusCode::OK => validate::confirms(&entry.head.headers, entry.body.len(), told),
            _ => None,
        };
        if confirmed == Some(true) {
            let when = Told {
                now: arrival.now,
                time: arrival.time,
                delay: arrival.delay,
                epoch: self.epoch,
                since: self.since,
            };
            match freshened(rules, entry, told, self.asked, &when) {
                // The answer may come late, and be older than what has been fetched since.
                Ok(fresh) => rules.store.replace(&self.key, entry, fresh),
                Err(Unstorable::Credentials) => {}
                Err(_) => rules.store.remove(&self.key, entry),
            }
        } else if confirmed == Some(false) {
            entry.soften();
        }
        tags(response.headers_mut(), rules.keeps_tags);
        response.headers_mut().append(&CACHE_STATUS, passed(self.forward, None));
        response
    }
}
