//! The breaker's state machine: closed, open, half-open. Pure: the time comes as an argument, and so does luck.
//!
//! Each admission carries the **generation** it belongs to. Every change of state begins a new one, and what comes back
//! from an older one changes nothing: a call that hung before the breaker opened says nothing of the service it has now.

use std::time::{Duration, Instant};

use super::overdue::Overdue;
use super::window::{Tally, Window};

/// What a breaker goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The share of failures in the window from which on it opens.
    pub ratio: Option<f64>,
    /// The calls that must have counted before `ratio` says anything.
    pub min_requests: u32,
    /// The failures in a row that open it.
    pub consecutive: Option<u32>,
    /// How long a call is remembered.
    pub window: Duration,
    /// The parts of the window; one is a window that is emptied as a whole.
    pub buckets: usize,
    /// How long it stays open at first.
    pub open_for: Duration,
    /// The most that this grows to.
    pub open_for_max: Duration,
    /// What it grows by each time that a probe fails.
    pub multiplier: f64,
    /// The share of the time that luck adds or takes.
    pub jitter: f64,
    /// The probes that may be out at once, and must all end well.
    pub probes: u32,
    /// A call that takes longer has failed, be it over or not.
    pub slow_call: Option<Duration>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// The upstream failed.
    Failure,
    /// It says that the upstream is there, and no more: half-open it is a success, else it does not count.
    Answered,
    /// It says nothing about the upstream.
    Excluded,
}

/// Whether calls pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They do.
    Closed,
    /// None does.
    Open,
    /// A few may try.
    HalfOpen,
}

impl State {
    /// The word in logs, metrics and at the admin listener.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// The number in metrics: the higher, the less passes.
    pub fn number(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    Ratio,
    /// A probe failed.
    ProbeFailed,
    /// The time was over.
    Expired,
    /// A health check says that the service is back.
    Healthy,
    /// Every probe ended well.
    Recovered,
    /// An operator said so.
    Operator,
}

impl Cause {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::Ratio => "ratio",
            Self::ProbeFailed => "probe_failed",
            Self::Expired => "expired",
            Self::Healthy => "healthy",
            Self::Recovered => "recovered",
            Self::Operator => "operator",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// What had counted.
    pub tally: Tally,
    /// How long it stays open, if it does.
    pub open_for: Duration,
}

/// Why a call may not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The breaker is open for so long.
    Open(Duration),
    /// It is half-open, and all its probes are out.
    Probing,
}

impl Refusal {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Probing => "probing",
        }
    }

    /// When it may be worth asking again.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::Open(left) => left,
            // Soon: probes that end well close it.
            Self::Probing => Duration::ZERO,
        }
    }
}

/// An admission, to be handed back with the call's outcome.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    generation: u64,
    /// From when on the upstream's time counts. None: that is not known.
    since: Option<Instant>,
    slice: Option<u64>,
    is_probe: bool,
    /// Once it counted as a success: the failures in a row that it ended, and which success it was, from 1.
    ended: u32,
    success: u64,
}

impl Ticket {
    /// The upstream's time of a call that had none begins at `at`.
    pub fn counts_from(&mut self, at: Instant) {
        self.since.get_or_insert(at);
    }
}

/// What an operator says against the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Nothing passes.
    Open,
    /// Everything passes.
    Closed,
}

impl Force {
    /// The word for it, in the log and for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    state: State,
    generation: u64,
    window: Window,
    overdue: Option<Overdue>,
    failures_in_row: u32,
    successes: u64,
    /// When the open time is over.
    until: Instant,
    /// Since when it is in this state.
    since: Instant,
    /// The open time that comes next, before luck.
    open_for: Duration,
    /// In the half-open state: probes that are out, and probes that ended well.
    probing: u32,
    passed: u32,
    forced: Option<(Force, Instant)>,
    /// An override whose time was over, until somebody is told.
    lapsed: Option<Force>,
    random: fastrand::Rng,
}

/// What a machine is at.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// What holds for callers.
    pub state: State,
    /// What it would be without an override.
    pub own: State,
    /// For how long it has been that.
    pub since: Duration,
    /// How long what holds stays open.
    pub retry_after: Option<Duration>,
    /// What counted within the window.
    pub tally: Tally,
    /// Failures since the last success.
    pub failures_in_row: u32,
    /// Probes that are out.
    pub probing: u32,
    /// What an operator says, and for how long.
    pub forced: Option<(Force, Duration)>,
}

impl Machine {
    /// A closed breaker that has seen nothing. `seed` is its luck.
    pub fn new(rules: &Rules, now: Instant, seed: u64) -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            window: Window::new(rules.window, rules.buckets, now),
            overdue: rules.slow_call.map(|after| Overdue::new(after, now)),
            failures_in_row: 0,
            successes: 0,
            until: now,
            since: now,
            open_for: Duration::ZERO,
            probing: 0,
            passed: 0,
            forced: None,
            lapsed: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether a call may go out at `now`, and what changed. One that is not `is_timed` has no time yet: see
    /// [`Ticket::counts_from`].
    pub fn admit(&mut self, rules: &Rules, is_timed: bool, now: Instant) -> (Result<Ticket, Refusal>, Option<Change>) {
        let mut change = self.look(rules, now);
        match self.force(now) {
            Some((Force::Open, left)) => return (Err(Refusal::Open(left)), change),
            Some((Force::Closed, _)) => return (Ok(self.ticket(false, is_timed, now)), change),
            None => {}
        }
        if self.state == State::Open {
            let left = self.until.saturating_duration_since(now);
            if !left.is_zero() {
                return (Err(Refusal::Open(left)), change);
            }
            change = Some(self.change(State::HalfOpen, Cause::Expired, now));
        }
        if self.state == State::HalfOpen {
            if self.probing + self.passed >= rules.probes {
                return (Err(Refusal::Probing), change);
            }
            self.probing += 1;
        }
        (Ok(self.ticket(self.state == State::HalfOpen, is_timed, now)), change)
    }

    /// A call that was admitted ended.
    pub fn settle(&mut self, rules: &Rules, ticket: &mut Ticket, outcome: Outcome, now: Instant) -> Option<Change> {
        if ticket.generation != self.generation {
            return None;
        }
        let is_first = match (ticket.slice, &mut self.overdue) {
            (Some(slice), Some(overdue)) => overdue.end(slice),
            _ => true,
        };
        if ticket.is_probe {
            self.probing = self.probing.saturating_sub(1);
        }
        if !is_first {
            // It was late, and counted as such.
            return self.look(rules, now);
        }
        let took = ticket.since.map(|since| now.saturating_duration_since(since));
        let is_slow = rules.slow_call.zip(took).is_some_and(|(slow, took)| took >= slow);
        let change = self.look(rules, now);
        // The look may have begun another generation.
        if change.is_some() || ticket.generation != self.generation {
            return change;
        }
        match outcome {
            Outcome::Excluded => None,
            Outcome::Answered if self.state != State::HalfOpen && !is_slow => None,
            Outcome::Success | Outcome::Answered if !is_slow => self.succeed(ticket, rules, now),
            Outcome::Success | Outcome::Answered | Outcome::Failure => self.fail(1, rules, now),
        }
    }

    /// The answer of a call that had counted as a success broke off: it is a failure, and not a second call.
    pub fn broke_off(&mut self, rules: &Rules, ticket: &Ticket, now: Instant) -> Option<Change> {
        let change = self.look(rules, now);
        if ticket.success == 0 || ticket.generation != self.generation {
            return change;
        }
        self.window.take_back_success();
        if ticket.success == self.successes {
            // No other ended well since, so the row of failures was never broken.
            self.failures_in_row = self.failures_in_row.saturating_add(ticket.ended);
        }
        change.or_else(|| self.fail(1, rules, now))
    }

    /// A health check succeeded: an open breaker need not wait any longer before it tries.
    pub fn hurry(&mut self, rules: &Rules, now: Instant) -> Option<Change> {
        let change = self.look(rules, now);
        if self.state != State::Open || self.force(now).is_some() {
            return change;
        }
        self.until = now;
        Some(self.change(State::HalfOpen, Cause::Healthy, now))
    }

    /// An operator overrides it until `until`.
    pub fn override_until(&mut self, force: Force, until: Instant) {
        self.forced = Some((force, until));
    }

    /// An operator lets it start afresh.
    pub fn reset(&mut self, now: Instant) -> Option<Change> {
        self.forced = None;
        self.open_for = Duration::ZERO;
        let is_change = self.state != State::Closed;
        let change = self.change(State::Closed, Cause::Operator, now);
        is_change.then_some(change)
    }

    /// What it is at.
    pub fn sight(&mut self, now: Instant) -> Sight {
        let forced = self.force(now);
        let left = match forced {
            Some((_, left)) => left,
            None => self.until.saturating_duration_since(now),
        };
        let state = self.holds();
        Sight {
            state,
            own: self.state,
            since: now.saturating_duration_since(self.since),
            retry_after: (state == State::Open).then_some(left),
            tally: self.window.total(),
            failures_in_row: self.failures_in_row,
            probing: self.probing,
            forced,
        }
    }

    /// What holds for callers: what an operator says or, where nobody does, its state.
    pub(super) fn holds(&self) -> State {
        match self.forced {
            Some((Force::Open, _)) => State::Open,
            Some((Force::Closed, _)) => State::Closed,
            None => self.state,
        }
    }

    /// Whether an operator overrides it, as far as anybody asked.
    pub(super) fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// An override whose time was over since this was asked last.
    pub(super) fn take_lapsed(&mut self) -> Option<Force> {
        self.lapsed.take()
    }

    /// The state, and what counts.
    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn tally(&self) -> Tally {
        self.window.total()
    }

    fn force(&mut self, now: Instant) -> Option<(Force, Duration)> {
        let (force, until) = self.forced?;
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            self.forced = None;
            self.lapsed = Some(force);
            return None;
        }
        Some((force, left))
    }

    fn ticket(&mut self, is_probe: bool, is_timed: bool, now: Instant) -> Ticket {
        let slice = self.overdue.as_mut().filter(|_| is_timed).map(|overdue| overdue.start(now));
        let since = is_timed.then_some(now);
        Ticket { generation: self.generation, since, slice, is_probe, ended: 0, success: 0 }
    }

    /// Takes the rules of now, forgets what is too old, and counts what became late.
    fn look(&mut self, rules: &Rules, now: Instant) -> Option<Change> {
        self.window.reshape(rules.window, rules.buckets, now);
        if self.overdue.as_ref().map(Overdue::after) != rules.slow_call {
            // Calls that are out are not watched any more: theirs was another bound. Their slices are of the old one.
            self.overdue = rules.slow_call.map(|after| Overdue::new(after, now));
            self.generation += 1;
            self.probing = 0;
        }
        if self.window.advance(now) && self.state == State::Closed {
            self.begin(now);
        }
        let late = self.overdue.as_mut().map_or(0, |overdue| overdue.late(now));
        if late == 0 { None } else { self.fail(late, rules, now) }
    }

    fn succeed(&mut self, ticket: &mut Ticket, rules: &Rules, now: Instant) -> Option<Change> {
        self.successes += 1;
        (ticket.success, ticket.ended) = (self.successes, std::mem::take(&mut self.failures_in_row));
        self.window.add(Tally { successes: 1, failures: 0 });
        if self.state != State::HalfOpen {
            return None;
        }
        self.passed += 1;
        if self.passed < rules.probes {
            return None;
        }
        self.open_for = Duration::ZERO;
        Some(self.change(State::Closed, Cause::Recovered, now))
    }

    fn fail(&mut self, count: u32, rules: &Rules, now: Instant) -> Option<Change> {
        self.failures_in_row = self.failures_in_row.saturating_add(count);
        self.window.add(Tally { successes: 0, failures: count });
        if matches!(self.force(now), Some((Force::Closed, _))) {
            return None;
        }
        let cause = match self.state {
            State::Open => return None,
            State::HalfOpen => Cause::ProbeFailed,
            State::Closed => self.trips(rules)?,
        };
        Some(self.open(cause, rules, now))
    }

    fn trips(&self, rules: &Rules) -> Option<Cause> {
        let tally = self.window.total();
        if rules.consecutive.is_some_and(|most| self.failures_in_row >= most) {
            return Some(Cause::Consecutive);
        }
        let is_known = tally.calls() >= rules.min_requests.max(1);
        rules.ratio.filter(|most| is_known && tally.ratio() >= *most).map(|_| Cause::Ratio)
    }

    fn open(&mut self, cause: Cause, rules: &Rules, now: Instant) -> Change {
        self.open_for = if self.open_for.is_zero() { rules.open_for } else { self.open_for.mul_f64(rules.multiplier) };
        self.open_for = self.open_for.min(rules.open_for_max);
        let luck = 1.0 + rules.jitter * (2.0 * self.random.f64() - 1.0);
        let open_for = self.open_for.mul_f64(luck);
        let change = Change { open_for, ..self.change(State::Open, cause, now) };
        self.until = now + open_for;
        change
    }

    fn change(&mut self, to: State, cause: Cause, now: Instant) -> Change {
        let change = Change { from: self.state, to, cause, tally: self.window.total(), open_for: Duration::ZERO };
        self.state = to;
        self.since = now;
        self.begin(now);
        change
    }

    /// A new generation: nothing counts that came before.
    fn begin(&mut self, now: Instant) {
        self.generation += 1;
        self.window.clear(now);
        self.overdue = self.overdue.as_ref().map(|overdue| Overdue::new(overdue.after(), now));
        (self.failures_in_row, self.probing, self.passed) = (0, 0, 0);
    }
}
