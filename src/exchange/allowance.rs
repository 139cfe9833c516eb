//! What a request drew from limits: to tell the client of it, and to give it back if another limit refuses.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use smallvec::SmallVec;

use crate::limits::bucket::Rate;
use crate::limits::fields::{self, Reading};
use crate::limits::store::{Place, Store};
use crate::timer::Wheel;

/// Tokens that were drawn from a bucket.
pub struct Draw {
    /// From which.
    pub from: From,
    /// How many.
    pub cost: u64,
    /// How long they take to fill again, in microseconds.
    pub micros: u64,
}

/// A bucket that was drawn from.
pub enum From {
    /// One of this process.
    Here(Arc<Store>, Place),
    /// One that others share.
    Elsewhere(Arc<dyn Lender>, Loan),
}

/// A store that is not in this process.
pub trait Lender: Send + Sync {
    /// Gives back what was drawn. A failure is no reason to fail a request.
    fn give_back<'a>(
        &'a self,
        loans: &'a [(&'a Loan, u64)],
        wheel: &'a Wheel,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>>;
}

/// What a [`Lender`] must know to take something back.
#[derive(Clone, Debug)]
pub struct Loan {
    /// The bucket's key.
    pub key: Arc<str>,
    /// The rate that it was counted in.
    pub rate: Rate,
    /// When it would have been full without the draw, in microseconds by the lender's clock.
    pub from: u64,
}

/// What the limits of one stage granted together.
#[derive(Default)]
pub struct Grant {
    /// What was drawn.
    pub draws: SmallVec<[Draw; 2]>,
    /// What the client is told.
    pub readings: SmallVec<[Reading; 2]>,
    /// What was drawn in shadow, of which nobody is told.
    pub shadow: Vec<Draw>,
}

/// What all limits of a request granted so far.
///
/// In a box: most requests have none of it, and what an exchange is made of is moved about.
#[derive(Default)]
pub struct Allowance(Option<Box<Grant>>);

impl Allowance {
    /// Takes note of a grant.
    pub fn add(&mut self, grant: Box<Grant>) {
        match &mut self.0 {
            None => self.0 = Some(grant),
            Some(whole) => {
                whole.draws.extend(grant.draws);
                whole.readings.extend(grant.readings);
                whole.shadow.extend(grant.shadow);
            }
        }
    }

    /// Takes note of what limits in shadow granted.
    pub fn add_shadow(&mut self, mut grant: Box<Grant>) {
        grant.shadow.extend(grant.draws.drain(..));
        grant.readings.clear();
        self.add(grant);
    }

    /// Gives back what was drawn: a limit refuses, and a refused request draws from none.
    pub async fn give_back(&mut self, now: Instant, wheel: &Wheel) {
        self.give_back_shadow(now, wheel).await;
        let Some(grant) = &mut self.0 else { return };
        give_back(&grant.draws, now, wheel).await;
        for (draw, reading) in grant.draws.drain(..).zip(&mut grant.readings) {
            reading.remaining += draw.cost;
            reading.reset = reading.reset.saturating_sub(draw.micros / 1_000_000);
        }
    }

    /// Gives back what was drawn in shadow: a limit in shadow would have refused.
    pub async fn give_back_shadow(&mut self, now: Instant, wheel: &Wheel) {
        let Some(grant) = &mut self.0 else { return };
        give_back(&std::mem::take(&mut grant.shadow), now, wheel).await;
    }

    /// Whether anything was drawn.
    pub fn has_drawn(&self) -> bool {
        self.0.as_ref().is_some_and(|grant| !grant.draws.is_empty() || !grant.shadow.is_empty())
    }

    /// Tells the client.
    pub fn write_to(&mut self, headers: &mut HeaderMap) {
        if let Some(grant) = &mut self.0 {
            fields::write(&mut grant.readings, headers);
        }
    }
}

/// Gives back what was drawn.
pub async fn give_back(draws: &[Draw], now: Instant, wheel: &Wheel) {
    let mut loans: SmallVec<[(&Loan, u64); 2]> = SmallVec::new();
    let mut lender = None;
    for draw in draws {
        match &draw.from {
            From::Here(store, place) => store.give_back(*place, draw.cost, now),
            // There is one such store.
            From::Elsewhere(from, loan) => {
                lender = Some(from);
                loans.push((loan, draw.cost));
            }
        }
    }
    if let Some(lender) = lender {
        lender.give_back(&loans, wheel).await;
    }
}

/// Why a limit refused.
#[derive(Debug)]
pub struct Exceeded {
    /// Microseconds until the request would be granted, as far as the limits that were asked can tell. `None`: it never
    /// will be.
    pub wait: Option<u64>,
    /// The limits that refused.
    pub names: SmallVec<[Arc<fields::Told>; 2]>,
    /// The level of each limit that was asked.
    pub readings: SmallVec<[Reading; 2]>,
}

impl Exceeded {
    /// Whole seconds after which it is granted: at least one.
    pub fn seconds(&self) -> Option<u64> {
        self.wait.map(|micros| micros.div_ceil(1_000_000).max(1))
    }

    /// Whole milliseconds after which it is granted.
    pub fn millis(&self) -> Option<u64> {
        self.wait.map(|micros| micros.div_ceil(1000).max(1))
    }
}
