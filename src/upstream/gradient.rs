//! How much an upstream bears at once, by how long its answers take compared with when it has little to do.
//!
//! Nobody is refused to learn what "little to do" is: the shortest time is kept, and rises only while there is room.

use std::time::{Duration, Instant};

/// What goes into one step.
const WINDOW: Duration = Duration::from_millis(100);
const SAMPLES_MIN: u32 = 10;

/// How much of a step is taken at once.
const PACE: f64 = 0.2;

/// How the shortest time follows a service that has grown slower.
const DRIFT: f64 = 0.1;

/// What a bound goes by that follows the upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// It never falls below this.
    pub min: usize,
    /// Answers may take so many times the shortest time before the bound falls.
    pub tolerance: f64,
}

/// What was learnt so far.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    /// The average of the best window, in seconds.
    shortest: Option<f64>,
    since: Instant,
    sum: f64,
    count: u32,
    most_in_flight: usize,
}

impl Gradient {
    pub(super) fn new(rules: &Rules, max: usize, now: Instant) -> Self {
        // It begins with some room and finds the rest.
        let limit = (rules.min * 4).clamp(rules.min, max.max(rules.min)) as f64;
        Self { limit, shortest: None, since: now, sum: 0.0, count: 0, most_in_flight: 0 }
    }

    /// A call took `time` while so many were in flight. Gives the bound where that made another one.
    pub(super) fn note(
        &mut self,
        rules: &Rules,
        max: usize,
        time: Duration,
        in_flight: usize,
        now: Instant,
    ) -> Option<usize> {
        self.sum += time.as_secs_f64();
        self.count += 1;
        self.most_in_flight = self.most_in_flight.max(in_flight);
        if self.count < SAMPLES_MIN || now.saturating_duration_since(self.since) < WINDOW {
            return None;
        }
        let average = (self.sum / f64::from(self.count)).max(1e-6);
        let most_in_flight = self.most_in_flight as f64;
        (self.sum, self.count, self.most_in_flight, self.since) = (0.0, 0, 0, now);
        let has_room = most_in_flight * 2.0 <= self.limit || self.limit < rules.min as f64 + 1.0;
        let shortest = match self.shortest {
            None => average,
            Some(shortest) if average < shortest => average,
            Some(shortest) if has_room => shortest + DRIFT * (average - shortest),
            Some(shortest) => shortest,
        };
        self.shortest = Some(shortest);
        let gradient = (rules.tolerance * shortest / average).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + self.limit.sqrt();
        let next = self.limit + PACE * (wanted - self.limit);
        // A bound that nobody comes near says nothing of what is above it.
        let next = if most_in_flight * 2.0 <= self.limit { next.min(self.limit) } else { next };
        self.limit = next.clamp(rules.min as f64, max.max(rules.min) as f64);
        Some(self.limit as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { min: 4, tolerance: 1.5 };

    /// Seconds of a service that answers `capacity` calls at once within 10 ms, and lets others wait.
    fn serve(gradient: &mut Gradient, now: &mut Instant, seconds: u32, capacity: usize, offered: usize) -> usize {
        let mut limit = gradient.limit as usize;
        for _ in 0..seconds * 100 {
            let in_flight = offered.min(limit);
            let time = Duration::from_millis(10).mul_f64((in_flight as f64 / capacity as f64).max(1.0));
            *now += Duration::from_millis(10);
            for _ in 0..in_flight {
                limit = gradient.note(&RULES, 1000, time, in_flight, *now).unwrap_or(limit);
            }
        }
        limit
    }

    #[test]
    fn the_bound_settles_a_little_above_what_the_upstream_bears() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(&RULES, 1000, now);
        let limit = serve(&mut gradient, &mut now, 30, 50, 1000);
        assert!((50..=110).contains(&limit), "{limit}");
        // Half of it breaks away.
        let limit = serve(&mut gradient, &mut now, 30, 25, 1000);
        assert!((25..=60).contains(&limit), "{limit}");
        let limit = serve(&mut gradient, &mut now, 30, 100, 1000);
        assert!((90..=210).contains(&limit), "{limit}");
    }

    #[test]
    fn a_bound_that_nobody_comes_near_does_not_grow() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(&RULES, 1000, now);
        assert_eq!(serve(&mut gradient, &mut now, 10, 50, 3), 16);
    }

    #[test]
    fn it_never_leaves_its_bounds_and_learns_of_a_service_that_grew_slower() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(&RULES, 20, now);
        for time in [1, 10_000, 1] {
            for _ in 0..20_000 {
                now += Duration::from_millis(10);
                let limit = gradient.note(&RULES, 20, Duration::from_millis(time), 20, now);
                assert!(limit.is_none_or(|limit| (4..=20).contains(&limit)));
            }
            assert!(gradient.limit > 10.0, "{time} is normal by now: {}", gradient.limit);
        }
    }
}
