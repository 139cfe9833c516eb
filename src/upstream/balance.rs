//! Which endpoint is next.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use http::{HeaderName, Request};

use crate::config::balance::{self, HashKey};

/// So many endpoints are all looked at.
const FEW: usize = 8;

/// How endpoints share requests.
#[derive(Clone, Debug)]
pub struct Plan {
    way: Way,
    weights: Box<[u32]>,
    /// Whose turn it is, round by round.
    turns: Box<[u32]>,
}

#[derive(Clone, Debug)]
enum Way {
    LeastRequests,
    RoundRobin,
    Random,
    Hash(Key),
}

#[derive(Clone, Debug)]
enum Key {
    ClientAddress,
    Path,
    Header(HeaderName),
}

impl Plan {
    /// As a configuration says, which was found good. One weight for each endpoint.
    pub fn of(config: &balance::Balance, weights: Box<[u32]>) -> Self {
        let way = match config {
            balance::Balance::LeastRequests => Way::LeastRequests,
            balance::Balance::RoundRobin => Way::RoundRobin,
            balance::Balance::Random => Way::Random,
            balance::Balance::Hash(HashKey::ClientAddress) => Way::Hash(Key::ClientAddress),
            balance::Balance::Hash(HashKey::Path) => Way::Hash(Key::Path),
            balance::Balance::Hash(HashKey::Header(name)) => match HeaderName::try_from(name) {
                Ok(name) => Way::Hash(Key::Header(name)),
                Err(_) => Way::LeastRequests,
            },
        };
        let turns = if matches!(way, Way::RoundRobin) { schedule(&weights) } else { Box::default() };
        Self { way, weights, turns }
    }

    /// The same for other endpoints.
    pub(super) fn with(&self, weights: Box<[u32]>) -> Self {
        let turns = if matches!(self.way, Way::RoundRobin) { schedule(&weights) } else { Box::default() };
        Self { way: self.way.clone(), weights, turns }
    }

    /// One for each endpoint.
    pub(super) fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// What makes a request like others, if that counts.
    pub(crate) fn key<B>(&self, request: &Request<B>, client: IpAddr) -> Option<u64> {
        let Way::Hash(key) = &self.way else { return None };
        let mut hasher = DefaultHasher::new();
        match key {
            Key::ClientAddress => client.hash(&mut hasher),
            Key::Path => request.uri().path().hash(&mut hasher),
            Key::Header(name) => request.headers().get(name)?.as_bytes().hash(&mut hasher),
        }
        Some(hasher.finish())
    }

    /// The next among the endpoints that are `allowed`. `load` is what one has in flight, and the share of its weight that
    /// it may have, from 0 to 1.
    pub(super) fn choose(
        &self,
        allowed: &dyn Fn(usize) -> bool,
        load: &dyn Fn(usize) -> (usize, f64),
        label: &dyn Fn(usize) -> u64,
        turn: &dyn Fn() -> usize,
        key: Option<u64>,
    ) -> Option<usize> {
        match (&self.way, key) {
            (Way::LeastRequests, _) if self.weights.len() <= FEW => self.least_of_all(allowed, load),
            (Way::LeastRequests, _) => {
                let first = self.by_chance(allowed, load, None)?;
                let Some(second) = self.by_chance(allowed, load, Some(first)) else { return Some(first) };
                let burden = |place: usize| {
                    let (in_flight, share) = load(place);
                    (in_flight as f64 + 1.0) / (f64::from(self.weights[place]) * share)
                };
                Some(if burden(second) < burden(first) { second } else { first })
            }
            (Way::RoundRobin, _) => {
                let place = *self.turns.get(turn() % self.turns.len().max(1))? as usize;
                let is_warm = || load(place).1 >= 1.0 || fastrand::f64() < load(place).1;
                if allowed(place) && is_warm() {
                    return Some(place);
                }
                // Whoever is next would bear all that this one does not take.
                self.by_chance(allowed, load, None)
            }
            (Way::Hash(_), Some(key)) => {
                let score = |place: usize| {
                    let mut hasher = DefaultHasher::new();
                    (key, label(place)).hash(&mut hasher);
                    // A number between 0 and 1, whose logarithm by weight gives each its share (rendezvous hashing).
                    let luck = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
                    -f64::from(self.weights[place]) / luck.ln()
                };
                let places = (0..self.weights.len()).filter(|place| allowed(*place));
                places.map(|place| (place, score(place))).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
            }
            (Way::Random | Way::Hash(_), _) => self.by_chance(allowed, load, None),
        }
    }

    /// The one with the least to do of a few, by chance where several have as little. Two by chance could both be busy while
    /// a third is not, and one that hangs would now and then be one of them.
    fn least_of_all(&self, allowed: &dyn Fn(usize) -> bool, load: &dyn Fn(usize) -> (usize, f64)) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        // What those weigh together that have as little to do.
        let mut weight = 0.0;
        for place in (0..self.weights.len()).filter(|place| allowed(*place)) {
            let (in_flight, share) = load(place);
            let own = f64::from(self.weights[place]) * share;
            // Nobody is burdened by what it has not got: at rest all are alike, and chance goes by weight.
            let burden = in_flight as f64 / own;
            match best {
                Some((_, least)) if burden > least => {}
                Some((_, least)) if burden == least => {
                    weight += own;
                    if fastrand::f64() * weight < own {
                        best = Some((place, burden));
                    }
                }
                _ => {
                    weight = own;
                    best = Some((place, burden));
                }
            }
        }
        best.map(|(place, _)| place)
    }

    /// One by chance, as often as the weights say.
    fn by_chance(
        &self,
        allowed: &dyn Fn(usize) -> bool,
        load: &dyn Fn(usize) -> (usize, f64),
        but: Option<usize>,
    ) -> Option<usize> {
        let weight = |place: usize| {
            if but == Some(place) || !allowed(place) { 0.0 } else { f64::from(self.weights[place]) * load(place).1 }
        };
        let total: f64 = (0..self.weights.len()).map(weight).sum();
        if total <= 0.0 {
            return None;
        }
        let mut left = fastrand::f64() * total;
        let mut last = None;
        for place in 0..self.weights.len() {
            let weight = weight(place);
            if weight > 0.0 {
                last = Some(place);
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

/// Turns by weight, spread as evenly as they go: each round everybody gains its weight, and the richest pays for all.
fn schedule(weights: &[u32]) -> Box<[u32]> {
    let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let mut purses = vec![0_i64; weights.len()];
    let turns = (0..total).map(|_| {
        purses.iter_mut().zip(weights).for_each(|(purse, weight)| *purse += i64::from(*weight));
        let richest = (0..purses.len()).rev().max_by_key(|place| purses[*place]).unwrap_or(0);
        purses[richest] -= total;
        u32::try_from(richest).unwrap_or(0)
    });
    turns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(way: balance::Balance, weights: &[u32]) -> Plan {
        Plan::of(&way, weights.into())
    }

    /// How often each is chosen of so many times.
    fn shares(plan: &Plan, times: usize, allowed: &[usize], in_flight: &[usize]) -> Vec<usize> {
        let mut shares = vec![0; in_flight.len()];
        for turn in 0..times {
            let chosen = plan.choose(
                &|place| allowed.contains(&place),
                &|place| (in_flight[place], 1.0),
                &|place| place as u64,
                &|| turn,
                Some(turn as u64),
            );
            shares[chosen.expect("one is allowed")] += 1;
        }
        shares
    }

    #[test]
    fn turns_are_by_weight_and_evenly_spread() {
        assert_eq!(*schedule(&[3, 1]), [0, 0, 1, 0]);
        assert_eq!(*schedule(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(*schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        let plan = plan(balance::Balance::RoundRobin, &[2, 1, 1]);
        assert_eq!(shares(&plan, 400, &[0, 1, 2], &[0, 0, 0]), [200, 100, 100]);
        assert_eq!(shares(&plan, 400, &[1], &[0, 0, 0]), [0, 400, 0]);
    }

    #[test]
    fn the_turns_of_one_that_is_out_go_to_all_others_by_weight() {
        let plan = plan(balance::Balance::RoundRobin, &[1, 1, 2, 1]);
        let shares = shares(&plan, 5_000, &[1, 2, 3], &[0; 4]);
        let of = |weight: usize| weight * 1_250 - 125..weight * 1_250 + 125;
        assert!(of(1).contains(&shares[1]) && of(2).contains(&shares[2]) && of(1).contains(&shares[3]), "{shares:?}");
    }

    #[test]
    fn chance_goes_by_weight() {
        let plan = plan(balance::Balance::Random, &[3, 1]);
        let shares = shares(&plan, 4_000, &[0, 1], &[0, 0]);
        assert!((2_700..3_300).contains(&shares[0]), "{shares:?}");
    }

    #[test]
    fn least_requests_shuns_the_busy_and_never_asks_the_busiest() {
        let plan = plan(balance::Balance::LeastRequests, &[1, 1, 1]);
        assert_eq!(shares(&plan, 1_000, &[0, 1, 2], &[9, 0, 1])[0], 0);
        assert_eq!(shares(&plan, 1_000, &[0, 1, 2], &[9, 0, 1]), [0, 1_000, 0], "of a few all are looked at");
        let idle = shares(&plan, 3_000, &[0, 1, 2], &[0, 0, 0]);
        assert!(idle.iter().all(|share| (850..1_150).contains(share)), "{idle:?}");
        let many = self::plan(balance::Balance::LeastRequests, &[1; 12]);
        let mut busy = [0; 12];
        busy[3] = 9;
        assert_eq!(shares(&many, 1_000, &(0..12).collect::<Vec<_>>(), &busy)[3], 0);
        // Twice the weight bears twice the load.
        let plan = self::plan(balance::Balance::LeastRequests, &[2, 1]);
        assert_eq!(shares(&plan, 100, &[0, 1], &[3, 2]), [100, 0]);
        assert_eq!(shares(&plan, 100, &[1], &[0, 50]), [0, 100]);
    }

    #[test]
    fn what_is_alike_stays_together_and_only_what_must_moves() {
        let plan = plan(balance::Balance::Hash(HashKey::Path), &[1, 1, 1]);
        let chosen = |allowed: &[usize]| -> Vec<usize> {
            (0..3_000_u64)
                .map(|key| {
                    let allowed = |place| allowed.contains(&place);
                    let label = |place| place as u64;
                    plan.choose(&allowed, &|_| (0, 1.0), &label, &|| 0, Some(key)).expect("one is allowed")
                })
                .collect()
        };
        let (all, two) = (chosen(&[0, 1, 2]), chosen(&[0, 2]));
        for place in 0..3 {
            let share = all.iter().filter(|chosen| **chosen == place).count();
            assert!((900..1_100).contains(&share), "{place}: {share}");
        }
        assert!(all.iter().zip(&two).all(|(all, two)| *all == 1 || all == two));
    }

    #[test]
    fn nobody_is_chosen_where_nobody_is_allowed() {
        for way in [balance::Balance::LeastRequests, balance::Balance::RoundRobin, balance::Balance::Random] {
            let plan = plan(way, &[1, 1]);
            assert_eq!(plan.choose(&|_| false, &|_| (0, 1.0), &|_| 0, &|| 5, None), None);
            assert_eq!(plan.with(Box::default()).choose(&|_| true, &|_| (0, 1.0), &|_| 0, &|| 5, None), None);
        }
    }

    #[test]
    fn a_cold_endpoint_gets_a_share_of_its_share() {
        for way in [balance::Balance::LeastRequests, balance::Balance::RoundRobin, balance::Balance::Random] {
            let plan = plan(way.clone(), &[1, 1]);
            let chosen = |turn| plan.choose(&|_| true, &|place| (0, [1.0, 0.1][place]), &|_| 0, &|| turn, None);
            let cold = (0..4_000).filter(|turn| chosen(*turn) == Some(1)).count();
            assert!(cold < 700, "{way:?}: {cold}");
        }
    }
}
