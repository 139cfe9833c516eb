//! What a request drew from limits: to tell the client of it, and to give it back if another limit refuses.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use smallvec::SmallVec;

use crate::limits::fields::{self, Reading};
use crate::limits::store::{Place, Store};

/// Tokens that were drawn from a bucket.
pub struct Draw {
    /// From where.
    pub store: Arc<Store>,
    /// Which bucket.
    pub place: Place,
    /// How many.
    pub cost: u64,
}

/// What the limits of one stage granted together.
#[derive(Default)]
pub struct Grant {
    /// What was drawn.
    pub draws: SmallVec<[Draw; 2]>,
    /// What the client is told.
    pub readings: SmallVec<[Reading; 2]>,
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
            }
        }
    }

    /// Gives back what was drawn: a limit refuses, and a refused request draws from none.
    pub fn give_back(&mut self, now: Instant) {
        let Some(grant) = &mut self.0 else { return };
        for (draw, reading) in grant.draws.drain(..).zip(&mut grant.readings) {
            draw.store.give_back(draw.place, draw.cost, now);
            reading.remaining += draw.cost;
        }
    }

    /// Tells the client.
    pub fn write_to(&mut self, headers: &mut HeaderMap) {
        if let Some(grant) = &mut self.0 {
            fields::write(&mut grant.readings, headers);
        }
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
