//! What is counted about answers that are made of several: parts, sagas and their steps.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use super::Metrics;
use super::family::{Family, Held, Series, SlugCounters};

impl Metrics {
    /// The handles of a part of a route's answer.
    pub fn part(&self, route: &str, part: &str) -> PartMetrics {
        let families = &self.0.families;
        let key = [route, part];
        PartMetrics(self.0.parts.get(&key, || PartSeries {
            key: key.map(str::to_owned),
            outcomes_family: families.parts.clone(),
            duration_family: families.part_duration.clone(),
            outcomes: SlugCounters::new(&families.parts, &key),
            duration: families.part_duration.series(&key),
        }))
    }

    /// The handle of a route's sagas.
    pub fn saga(&self, route: &str) -> SagaMetrics {
        let family = &self.0.families.sagas;
        SagaMetrics(self.0.sagas.get(&[route], || SagaSeries {
            route: route.to_owned(),
            family: family.clone(),
            outcomes: SlugCounters::new(family, &[route]),
        }))
    }

    /// The handles of a step of a route's sagas.
    pub fn saga_step(&self, route: &str, step: &str) -> SagaStepMetrics {
        let families = &self.0.families;
        let key = [route, step];
        SagaStepMetrics(self.0.saga_steps.get(&key, || SagaStepSeries {
            key: key.map(str::to_owned),
            families: [families.saga_steps.clone(), families.saga_compensations.clone()],
            steps: SlugCounters::new(&families.saga_steps, &key),
            compensations: SlugCounters::new(&families.saga_compensations, &key),
        }))
    }
}

/// What is counted about a part of a route's answer.
#[derive(Clone)]
pub struct PartMetrics(Arc<Held<PartSeries>>);

pub(super) struct PartSeries {
    /// Route and part.
    key: [String; 2],
    outcomes_family: Family<IntCounter>,
    duration_family: Family<Histogram>,
    outcomes: SlugCounters,
    duration: Histogram,
}

impl Series for PartSeries {
    fn leave(&self) {
        let key = [self.key[0].as_str(), self.key[1].as_str()];
        self.outcomes_family.remove(&key);
        self.duration_family.remove(&key);
    }
}

impl fmt::Debug for PartMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PartMetrics").field(&self.0.series.key).finish()
    }
}

impl PartMetrics {
    /// Counts a part that is over, by what came of it.
    pub fn ended(&self, outcome: &'static str, duration: Duration) {
        self.0.series.outcomes.add(outcome, 1);
        self.0.series.duration.observe(duration.as_secs_f64());
    }
}

/// What is counted about the sagas of a route.
#[derive(Clone)]
pub struct SagaMetrics(Arc<Held<SagaSeries>>);

pub(super) struct SagaSeries {
    route: String,
    family: Family<IntCounter>,
    outcomes: SlugCounters,
}

impl Series for SagaSeries {
    fn leave(&self) {
        self.family.remove(&[&self.route]);
    }
}

impl SagaMetrics {
    /// Counts a saga that is over.
    pub fn ended(&self, outcome: &'static str) {
        self.0.series.outcomes.add(outcome, 1);
    }
}

/// What is counted about a step of a route's sagas.
#[derive(Clone)]
pub struct SagaStepMetrics(Arc<Held<SagaStepSeries>>);

pub(super) struct SagaStepSeries {
    /// Route and step.
    key: [String; 2],
    families: [Family<IntCounter>; 2],
    steps: SlugCounters,
    compensations: SlugCounters,
}

impl Series for SagaStepSeries {
    fn leave(&self) {
        let key = [self.key[0].as_str(), self.key[1].as_str()];
        self.families.iter().for_each(|family| family.remove(&key));
    }
}

impl SagaStepMetrics {
    /// Counts a step that was begun, by how far it came.
    pub fn ended(&self, outcome: &'static str) {
        self.0.series.steps.add(outcome, 1);
    }

    /// Counts what came of its compensation.
    pub fn compensated(&self, is_done: bool) {
        self.0.series.compensations.add(if is_done { "done" } else { "failed" }, 1);
    }
}
