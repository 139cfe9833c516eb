//! Breakers: the table of states, row by row, the traps of others, and a slow and simple model to compare with.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::machine::{Machine, Ticket};
use super::window::Tally;
use super::*;
use crate::config::breaker::Failure;
use crate::telemetry::metrics::Metrics;

fn rules() -> Rules {
    Rules {
        ratio: None,
        min_requests: 1,
        consecutive: Some(3),
        window: Duration::from_secs(10),
        buckets: 10,
        open_for: Duration::from_secs(1),
        open_for_max: Duration::from_secs(4),
        multiplier: 2.0,
        jitter: 0.0,
        probes: 1,
        slow_call: None,
    }
}

/// A machine and its clock.
struct Play {
    machine: Machine,
    rules: Rules,
    now: Instant,
    changes: Vec<(State, Cause)>,
}

impl Play {
    fn new(rules: Rules) -> Self {
        let now = Instant::now();
        Self { machine: Machine::new(&rules, now, 1), rules, now, changes: Vec::new() }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn admit(&mut self) -> Result<Ticket, Refusal> {
        let (admitted, change) = self.machine.admit(&self.rules, true, self.now);
        self.note(change);
        admitted
    }

    fn settle(&mut self, mut ticket: Ticket, outcome: Outcome) -> Ticket {
        let change = self.machine.settle(&self.rules, &mut ticket, outcome, self.now);
        self.note(change);
        ticket
    }

    fn note(&mut self, change: Option<Change>) {
        self.changes.extend(change.map(|change| (change.to, change.cause)));
    }

    fn call(&mut self, outcome: Outcome) {
        let ticket = self.admit().expect("it lets calls in");
        self.settle(ticket, outcome);
    }

    fn calls(&mut self, outcomes: &str) {
        for outcome in outcomes.chars() {
            self.call(if outcome == '+' { Outcome::Success } else { Outcome::Failure });
        }
    }

    fn state(&self) -> State {
        self.machine.state()
    }
}

// === closed ===

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let mut play = Play::new(rules());
    play.calls("--+--+");
    assert_eq!(play.state(), State::Closed);
    play.calls("---");
    assert_eq!(play.changes, [(State::Open, Cause::Consecutive)]);
    assert_eq!(play.admit().unwrap_err(), Refusal::Open(Duration::from_secs(1)));
}

#[test]
fn a_ratio_counts_only_what_ended_and_needs_enough_of_it() {
    let mut play = Play::new(Rules { ratio: Some(0.5), min_requests: 4, consecutive: None, ..rules() });
    let out: Vec<_> = (0..10).map(|_| play.admit().unwrap()).collect();
    play.calls("--");
    assert_eq!(play.state(), State::Closed, "two are too few, whatever is out");
    play.calls("+-");
    assert_eq!(play.changes, [(State::Open, Cause::Ratio)]);
    for ticket in out {
        play.settle(ticket, Outcome::Success);
    }
    assert_eq!(play.state(), State::Open);
}

#[test]
fn nothing_at_all_never_opens_it() {
    let mut play = Play::new(Rules { ratio: Some(0.01), min_requests: 0, consecutive: None, ..rules() });
    play.call(Outcome::Excluded);
    assert_eq!(play.state(), State::Closed);
}

#[test]
fn what_says_nothing_of_the_upstream_does_not_count() {
    let mut play = Play::new(rules());
    play.calls("--");
    play.call(Outcome::Excluded);
    assert_eq!((play.state(), play.machine.tally().calls()), (State::Closed, 2));
    play.calls("-");
    assert_eq!(play.state(), State::Open);
}

#[test]
fn a_rolling_window_forgets() {
    let mut play = Play::new(Rules { ratio: Some(0.5), min_requests: 4, consecutive: None, ..rules() });
    play.calls("---");
    play.pass(9_999);
    assert_eq!(play.machine.tally().failures, 3);
    play.pass(1);
    play.calls("+++");
    assert_eq!(play.machine.tally(), Tally { successes: 3, failures: 0 });
}

#[test]
fn a_fixed_window_begins_a_new_generation() {
    let mut play = Play::new(Rules { buckets: 1, ..rules() });
    play.calls("--");
    let old = play.admit().unwrap();
    play.pass(10_000);
    let new = play.admit().unwrap();
    play.settle(old, Outcome::Failure);
    play.settle(new, Outcome::Failure);
    assert_eq!((play.state(), play.machine.tally().failures), (State::Closed, 1));
}

#[test]
fn an_answer_that_broke_off_is_one_failure_and_no_success() {
    let mut play = Play::new(rules());
    for _ in 0..2 {
        let ticket = play.admit().unwrap();
        let ticket = play.settle(ticket, Outcome::Success);
        assert_eq!(play.machine.broke_off(&play.rules, &ticket, play.now), None);
    }
    assert_eq!(play.machine.tally(), Tally { successes: 0, failures: 2 });
    let ticket = play.admit().unwrap();
    let ticket = play.settle(ticket, Outcome::Success);
    let change = play.machine.broke_off(&play.rules, &ticket, play.now).unwrap();
    assert_eq!((change.to, change.cause), (State::Open, Cause::Consecutive));
}

// === overdue ===

#[test]
fn calls_that_hang_open_it_before_any_of_them_ends() {
    let mut play = Play::new(Rules { slow_call: Some(Duration::from_millis(300)), ..rules() });
    let mut out = Vec::new();
    // 200 calls a second, none of which ends.
    while let Ok(ticket) = play.admit() {
        out.push(ticket);
        play.pass(5);
    }
    assert_eq!(play.changes, [(State::Open, Cause::Consecutive)]);
    assert!(out.len() <= 75, "{} were let in", out.len());
    for ticket in out {
        play.settle(ticket, Outcome::Success);
    }
    assert_eq!(play.state(), State::Open, "late successes are of an older generation");
}

#[test]
fn a_slow_success_is_a_failure_and_counts_once() {
    let mut play = Play::new(Rules { slow_call: Some(Duration::from_millis(300)), ..rules() });
    let early = play.admit().unwrap();
    play.pass(310);
    play.settle(early, Outcome::Success);
    assert_eq!(play.machine.tally().failures, 1);
    let early = play.admit().unwrap();
    play.pass(500);
    let other = play.admit().unwrap();
    assert_eq!(play.machine.tally().failures, 2, "seen by the next call");
    play.settle(early, Outcome::Failure);
    assert_eq!(play.machine.tally().failures, 2);
    play.settle(other, Outcome::Success);
    assert_eq!(play.machine.tally(), Tally { successes: 1, failures: 2 });
}

#[test]
fn the_time_of_a_call_whose_body_is_on_its_way_begins_with_the_end_of_that() {
    for (from, is_slow) in [(None, false), (Some(900), false), (Some(600), true)] {
        let mut play = Play::new(Rules { slow_call: Some(Duration::from_millis(300)), ..rules() });
        let began = play.now;
        let mut ticket = play.machine.admit(&play.rules, false, began).0.unwrap();
        play.pass(1000);
        assert_eq!(play.machine.tally().failures, 0, "as long as it is out it is not late");
        if let Some(from) = from {
            ticket.counts_from(began + Duration::from_millis(from));
        }
        play.settle(ticket, Outcome::Success);
        assert_eq!(play.machine.tally().failures, u32::from(is_slow), "{from:?}");
    }
}

#[test]
fn a_probe_that_hangs_reopens_it() {
    let mut play = Play::new(Rules { slow_call: Some(Duration::from_millis(300)), ..rules() });
    play.calls("---");
    play.pass(1_000);
    let probe = play.admit().unwrap();
    assert_eq!(play.admit().unwrap_err(), Refusal::Probing);
    play.pass(400);
    assert_eq!(play.admit().unwrap_err(), Refusal::Open(Duration::from_secs(2)));
    play.settle(probe, Outcome::Success);
    assert_eq!(play.state(), State::Open);
}

// === half-open ===

/// The trap of a known design: with one probe allowed, one failed probe changed nothing, and every later call was refused
/// for ever.
#[test]
fn one_failed_probe_reopens_it_and_it_is_never_stuck() {
    let mut play = Play::new(rules());
    play.calls("---");
    for open_for in [1_000, 2_000, 4_000, 4_000] {
        assert_eq!(play.admit().unwrap_err(), Refusal::Open(Duration::from_millis(open_for)));
        play.pass(open_for);
        let probe = play.admit().expect("its time is over");
        assert_eq!((play.state(), play.admit().unwrap_err()), (State::HalfOpen, Refusal::Probing));
        play.settle(probe, Outcome::Failure);
        assert_eq!(play.state(), State::Open);
    }
    play.pass(4_000);
    play.calls("+");
    assert_eq!(play.state(), State::Closed);
    play.calls("---");
    assert_eq!(play.admit().unwrap_err(), Refusal::Open(Duration::from_secs(1)), "from the beginning again");
}

#[test]
fn it_closes_after_as_many_successes_as_it_has_probes() {
    let mut play = Play::new(Rules { probes: 3, ..rules() });
    play.calls("---");
    play.pass(1_000);
    play.calls("++");
    assert_eq!(play.state(), State::HalfOpen);
    play.calls("+");
    assert_eq!(play.state(), State::Closed);
}

#[test]
fn a_probe_that_is_given_up_frees_its_place() {
    let mut play = Play::new(rules());
    play.calls("---");
    play.pass(1_000);
    for _ in 0..10 {
        let probe = play.admit().expect("the place is free");
        assert_eq!(play.admit().unwrap_err(), Refusal::Probing);
        play.settle(probe, Outcome::Excluded);
        assert_eq!(play.state(), State::HalfOpen);
    }
}

#[test]
fn a_late_answer_of_an_older_generation_changes_nothing() {
    let mut play = Play::new(rules());
    let late = [play.admit().unwrap(), play.admit().unwrap()];
    play.calls("---");
    play.settle(late[0], Outcome::Success);
    assert_eq!(play.state(), State::Open);
    play.pass(1_000);
    let probe = play.admit().unwrap();
    play.settle(late[1], Outcome::Failure);
    assert_eq!((play.state(), play.admit().unwrap_err()), (State::HalfOpen, Refusal::Probing));
    play.settle(probe, Outcome::Success);
    assert_eq!(play.state(), State::Closed);
}

#[test]
fn a_health_check_shortens_the_open_time_and_never_closes_it() {
    let mut play = Play::new(rules());
    play.calls("---");
    let change = play.machine.hurry(&play.rules, play.now).unwrap();
    assert_eq!((change.to, change.cause), (State::HalfOpen, Cause::Healthy));
    let probe = play.admit().unwrap();
    assert_eq!(play.admit().unwrap_err(), Refusal::Probing);
    assert_eq!(play.machine.hurry(&play.rules, play.now), None);
    play.settle(probe, Outcome::Failure);
    assert_eq!(play.admit().unwrap_err(), Refusal::Open(Duration::from_secs(2)));
}

#[test]
fn the_open_time_varies_within_its_bounds() {
    let rules = Rules { jitter: 0.1, ..rules() };
    let mut seen = Vec::new();
    for seed in 0..200 {
        let now = Instant::now();
        let mut machine = Machine::new(&rules, now, seed);
        for _ in 0..3 {
            let mut ticket = machine.admit(&rules, true, now).0.unwrap();
            machine.settle(&rules, &mut ticket, Outcome::Failure, now);
        }
        let Err(Refusal::Open(left)) = machine.admit(&rules, true, now).0 else { panic!("it is open") };
        assert!((900..=1_100).contains(&left.as_millis()), "{left:?}");
        seen.push(left);
    }
    assert!(seen.iter().max().unwrap().as_millis() - seen.iter().min().unwrap().as_millis() > 150);
}

// === operators, reloads, callers ===

#[test]
fn an_operator_overrides_it_for_a_while_only() {
    let mut play = Play::new(rules());
    play.machine.override_until(Force::Open, play.now + Duration::from_secs(5));
    assert_eq!(play.admit().unwrap_err(), Refusal::Open(Duration::from_secs(5)));
    play.pass(5_000);
    play.calls("+");

    play.machine.override_until(Force::Closed, play.now + Duration::from_secs(5));
    play.calls("------");
    play.pass(5_000);
    assert_eq!(play.state(), State::Closed);
    play.calls("-");
    assert_eq!(play.state(), State::Open, "what it saw meanwhile counts");

    play.machine.reset(play.now);
    play.calls("--+");
    assert_eq!(play.state(), State::Closed);
}

#[test]
fn other_rules_hold_from_the_next_call_on_and_what_was_seen_stays() {
    let mut play = Play::new(rules());
    play.calls("--");
    play.rules = Rules { window: Duration::from_secs(5), buckets: 5, consecutive: Some(5), ..rules() };
    play.calls("--");
    assert_eq!((play.state(), play.machine.tally().failures), (State::Closed, 4));
    play.calls("-");
    assert_eq!(play.state(), State::Open);
    // A bound for slow calls comes while probes are out.
    play.pass(1_000);
    let probe = play.admit().unwrap();
    play.rules = Rules { slow_call: Some(Duration::from_secs(1)), ..rules() };
    assert!(play.admit().is_ok(), "the probe that is out is not waited for");
    play.settle(probe, Outcome::Failure);
    assert_eq!(play.state(), State::HalfOpen);
}

#[test]
fn just_as_many_probes_as_allowed_pass_a_thousand_racing_callers() {
    let rules = Rules { probes: 3, open_for: Duration::ZERO, ..rules() };
    let plan = Plan { scope: Scope::Upstream, rules: Arc::new(rules), judge: Arc::new(Judge::of(&Failure::default())) };
    let metrics = Metrics::new();
    let breaker = Arc::new(Breaker::new("app", Of::All, &plan.rules, &metrics, Instant::now()));
    let admit = || breaker.admit(&plan, true, Instant::now());
    for _ in 0..3 {
        admit().unwrap().settle(Outcome::Failure, Instant::now());
    }
    let (admitted, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let permits: Vec<_> = (0..125).filter_map(|_| admit().ok()).collect();
                admitted.fetch_add(permits.len(), Ordering::Relaxed);
                barrier.wait();
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 3);
    // All were dropped, so their places are free.
    assert!(admit().is_ok());
}

// === the model ===

/// What the machine should do, as slowly and simply as one can say it: all samples are kept, and counted each time.
struct Model {
    rules: Rules,
    state: State,
    generation: usize,
    began: Instant,
    samples: Vec<(Instant, bool)>,
    until: Instant,
    openings: u32,
    probing: u32,
}

impl Model {
    fn new(rules: &Rules, now: Instant) -> Self {
        Self {
            rules: rules.clone(),
            state: State::Closed,
            generation: 0,
            began: now,
            samples: Vec::new(),
            until: now,
            openings: 0,
            probing: 0,
        }
    }

    fn turn(&mut self, state: State, now: Instant) {
        (self.state, self.began, self.probing) = (state, now, 0);
        self.generation += 1;
        self.samples.clear();
    }

    fn bucket(&self, at: Instant) -> u128 {
        (at - self.began).as_nanos() / (self.rules.window / self.rules.buckets as u32).as_nanos()
    }

    fn roll(&mut self, now: Instant) {
        if self.rules.buckets == 1 && self.state == State::Closed && self.bucket(now) > 0 {
            self.turn(State::Closed, now);
        }
    }

    fn admit(&mut self, now: Instant) -> Option<usize> {
        self.roll(now);
        if self.state == State::Open {
            if now < self.until {
                return None;
            }
            self.turn(State::HalfOpen, now);
        }
        if self.state == State::HalfOpen {
            if self.probing + self.samples.len() as u32 >= self.rules.probes {
                return None;
            }
            self.probing += 1;
        }
        Some(self.generation)
    }

    fn settle(&mut self, generation: usize, outcome: Outcome, now: Instant) {
        if generation == self.generation && self.state == State::HalfOpen {
            self.probing -= 1;
        }
        if generation == self.generation {
            self.roll(now);
        }
        if generation != self.generation || outcome == Outcome::Excluded {
            return;
        }
        self.samples.push((now, outcome == Outcome::Success));
        let recent = |at: &Instant| self.bucket(now) - self.bucket(*at) < self.rules.buckets as u128;
        let counted: Vec<bool> =
            self.samples.iter().filter(|(at, _)| recent(at)).map(|(_, is_good)| *is_good).collect();
        let failures = counted.iter().filter(|is_good| !**is_good).count();
        let in_row = self.samples.iter().rev().take_while(|(_, is_good)| !is_good).count() as u32;
        let is_bad = match self.state {
            State::HalfOpen => outcome == Outcome::Failure,
            _ => {
                let ratio = failures as f64 / counted.len().max(1) as f64;
                outcome == Outcome::Failure
                    && (self.rules.consecutive.is_some_and(|most| in_row >= most)
                        || (counted.len() as u32 >= self.rules.min_requests
                            && self.rules.ratio.is_some_and(|most| ratio >= most)))
            }
        };
        if is_bad {
            let open_for = self.rules.open_for * 2_u32.pow(self.openings.min(10));
            self.openings += 1;
            self.turn(State::Open, now);
            self.until = now + open_for.min(self.rules.open_for_max);
        } else if self.state == State::HalfOpen && self.samples.len() as u32 == self.rules.probes {
            self.openings = 0;
            self.turn(State::Closed, now);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Admit,
    Settle(usize, Outcome),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Failure),
        4 => Just(Outcome::Success),
        1 => Just(Outcome::Excluded),
    ];
    prop_oneof![
        2 => (0_u64..1500).prop_map(Step::Pass),
        5 => Just(Step::Admit),
        5 => (0_usize..8, outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
    ]
}

proptest! {
    #[test]
    fn the_machine_does_what_the_model_does(
        steps in proptest::collection::vec(step(), 1..400),
        ratio in proptest::option::of(0.1_f64..1.0),
        consecutive in proptest::option::of(1_u32..6),
        min_requests in 1_u32..8,
        is_rolling in any::<bool>(),
        probes in 1_u32..4,
    ) {
        let buckets = if is_rolling { 10 } else { 1 };
        let rules = Rules { ratio, consecutive, min_requests, buckets, probes, ..rules() };
        let mut play = Play::new(rules.clone());
        let mut model = Model::new(&rules, play.now);
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Pass(millis) => play.pass(millis),
                Step::Admit => {
                    let (admitted, expected) = (play.admit(), model.admit(play.now));
                    prop_assert_eq!(admitted.is_ok(), expected.is_some());
                    out.extend(admitted.ok().zip(expected));
                }
                Step::Settle(which, outcome) if !out.is_empty() => {
                    let (ticket, generation) = out.swap_remove(which % out.len());
                    play.settle(ticket, outcome);
                    model.settle(generation, outcome, play.now);
                }
                Step::Settle(..) => {}
            }
            prop_assert_eq!(play.state(), model.state);
        }
    }
}
