//! From the configuration to a plan. Steps follow each other as they stand in the file and name earlier ones only, so there
//! is no circle to be found: what would be one names a step that does not come before.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::{Compensation, Saga, Step, Undo};
use crate::action::fill::{Names, STEPS, Source};
use crate::action::outgoing::{Draft, Surroundings, Wording, between, headers, is_name, positive, size, statuses};
use crate::config::saga as config;
use crate::config::value::Setting;
use crate::config::{Issue, Issues, KeyPath};

/// The most steps of a saga.
const STEPS_MAX: usize = 16;

impl Saga {
    /// Compiles the action, or reports what is wrong with it.
    pub fn compile(
        config: &config::Saga,
        around: &Surroundings<'_>,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        let at = path.key("steps");
        if config.steps.is_empty() {
            issues.push(
                Issue::new(at.clone(), "names no step")
                    .of_absence()
                    .hint("add one: `reserve: {upstream: stock, path: /reservations, compensate: {…}}`"),
            );
        } else if config.steps.len() > STEPS_MAX {
            issues.push(
                Issue::new(at.clone(), format!("has {} steps", config.steps.len()))
                    .hint(format!("the most is {STEPS_MAX}; more than that belongs to a workflow engine")),
            );
        }
        let is_safe = |text: &String| Method::from_bytes(text.as_bytes()).is_ok_and(|method| method.is_safe());
        if around.methods.is_empty() || around.methods.iter().any(is_safe) {
            issues.push(
                Issue::new(path.clone(), "changes something, and the route takes methods that must not")
                    .goes_by(around.methods_at.clone())
                    .hint("let the route match such methods only: `methods: [POST]`"),
            );
        }
        let deadline = config.deadline(around.timeout);
        if config.deadline.is_some() {
            positive(deadline, path.key("deadline"), issues);
        }
        // So that there is time left to say what came of it.
        let patience = around.timeout * 19 / 20;
        if config.deadline.is_some() && deadline > patience {
            let issue =
                Issue::new(path.key("deadline"), "leaves no time to undo what was done before the route's `timeout`")
                    .hint("shorten it, or raise `timeout`; half of that is a good measure");
            issues.push(around.timeout_at.iter().cloned().fold(issue, Issue::goes_by));
        }
        between(config.in_flight_max.into(), 1, 100_000, path.key("in_flight_max"), issues);
        size(config.request_body_max.get(), path.key("request_body_max"), issues);
        let compensation = compensation(&config.compensation, &path.key("compensation"), issues);
        let forward = headers(&config.forward, &path.key("forward"), issues);
        let names: Vec<(&str, bool)> = config.steps.iter().map(|(name, _)| (name, false)).collect();
        let mut steps = Vec::with_capacity(names.len());
        let mut reads_request_body = false;
        for (place, (name, step)) in config.steps.iter().enumerate() {
            let mut compiling = Compiling { around, names: &names, place, path: at.key(name), steps: &at, issues };
            let compiled = compiling.step(name, step, &forward);
            if let Some((step, reads_body)) = compiled {
                reads_request_body |= reads_body;
                steps.push(step);
            }
        }
        if issues.len() > before {
            return None;
        }
        Some(Self {
            steps,
            deadline,
            patience,
            compensation,
            places: around.sagas.clone().unwrap_or_default(),
            in_flight_max: config.in_flight_max,
            class: around.class,
            deadline_header: around.deadline_header.clone(),
            request_body_max: usize::try_from(config.request_body_max.get()).unwrap_or(usize::MAX),
            reads_request_body,
            metrics: around.metrics.saga(around.route),
        })
    }
}

fn compensation(config: &config::Compensation, path: &KeyPath, issues: &mut Issues) -> Compensation {
    between(config.attempts.into(), 1, 100, path.key("attempts"), issues);
    for (key, duration) in [("per_try", config.per_try), ("backoff", config.backoff), ("timeout", config.timeout)] {
        positive(duration.get(), path.key(key), issues);
        if duration.get().as_secs() > 600 {
            issues
                .push(Issue::new(path.key(key), "is too long").hint("the most is 10m: nobody waits longer in memory"));
        }
    }
    Compensation {
        attempts: config.attempts.into(),
        per_try: config.per_try.get(),
        backoff: config.backoff.get(),
        timeout: config.timeout.get(),
    }
}

/// A step while it is compiled.
struct Compiling<'c, 'i> {
    around: &'c Surroundings<'c>,
    /// All steps.
    names: &'c [(&'c str, bool)],
    place: usize,
    path: KeyPath,
    /// Where all of them stand.
    steps: &'c KeyPath,
    issues: &'i mut Issues,
}

impl<'c> Compiling<'c, '_> {
    /// A request of the step. It may name the `known` first steps.
    fn draft(&mut self, path: KeyPath, known: usize) -> Draft<'c, '_> {
        let names = Names {
            params: self.around.params,
            parts: &self.names[..known],
            family: STEPS,
            has_item: false,
            knows_caller: self.around.knows_caller,
        };
        Draft { around: self.around, names, path, parts: self.steps, issues: self.issues, sources: Vec::new() }
    }

    /// The step, and whether it reads the request's body.
    fn step(&mut self, name: &str, config: &config::Step, forward: &[HeaderName]) -> Option<(Step, bool)> {
        let path = self.path.clone();
        if !is_name(name) {
            self.issue(&path, format!("`{name}` is no step name"), "use 1 to 100 letters, digits, `-` and `_`");
        }
        let upstream = (self.around.upstream)(&config.upstream, path.key("upstream"), self.issues);
        let wording = Wording {
            method: &config.method,
            path: &config.path,
            headers: &config.headers,
            forward: config.forward.as_deref(),
            body: config.body.as_ref(),
        };
        let place = self.place;
        let mut draft = self.draft(path.clone(), place);
        let outgoing = draft.outgoing(&wording, forward);
        let mut sources = std::mem::take(&mut draft.sources);
        let accept = config.accept.clone();
        let pass_status = statuses(&config.pass_status, 400, &path.key("pass_status"), self.issues);
        if let Some(timeout) = config.timeout {
            positive(timeout.get(), path.key("timeout"), self.issues);
        }
        size(config.body_max.get(), path.key("body_max"), self.issues);
        // Of a request with mistakes too: what undoes it is looked at all the same.
        let changes = Method::from_bytes(config.method.as_bytes()).is_ok_and(|method| !method.is_safe());
        let undo = match &config.compensate {
            Setting::On(undo) => {
                if !changes {
                    let issue = Issue::new(path.key("compensate"), "the step changes nothing that could be undone");
                    let issue = issue.goes_by(path.key("method"));
                    self.issues.push(issue.hint("leave it out, or give the step the method that it has"));
                }
                let (undo, more) = self.undo(name, config, undo, upstream.as_ref(), forward)?;
                sources.extend(more);
                Some(undo)
            }
            Setting::Inherit if changes => {
                self.issues.push(
                    Issue::new(path.clone(), "changes something, and does not say how that is undone")
                        .goes_by(path.key("compensate"))
                        .goes_by(path.key("method"))
                        .hint("add `compensate`, or `compensate: off` if it need not be"),
                );
                None
            }
            Setting::Inherit | Setting::Off => None,
        };
        let reads_body = sources.iter().any(|source| matches!(source, Source::RequestBody(_)));
        let step = Step {
            name: name.into(),
            upstream: upstream?,
            outgoing: outgoing?,
            accept,
            pass_status,
            timeout: config.timeout.map(|timeout| timeout.get()),
            body_max: usize::try_from(config.body_max.get()).unwrap_or(usize::MAX),
            undo,
            metrics: self.around.metrics.saga_step(self.around.route, name),
        };
        Some((step, reads_body))
    }

    fn undo(
        &mut self,
        name: &str,
        step: &config::Step,
        config: &config::Compensate,
        own: Option<&Arc<crate::upstream::Upstream>>,
        forward: &[HeaderName],
    ) -> Option<(Undo, Vec<Source>)> {
        let path = self.path.key("compensate");
        let upstream = match &config.upstream {
            Some(name) => (self.around.upstream)(name, path.key("upstream"), self.issues),
            None => own.cloned(),
        };
        let wording = Wording {
            method: &config.method,
            path: &config.path,
            headers: &config.headers,
            forward: config.forward.as_deref().or(step.forward.as_deref()),
            body: config.body.as_ref(),
        };
        let known = self.place + 1;
        let mut draft = self.draft(path.clone(), known);
        let outgoing = draft.outgoing(&wording, forward);
        let sources = std::mem::take(&mut draft.sources);
        let accept = config.accept.clone();
        let name = format!("{name}-compensate").into();
        Some((Undo { name, upstream: upstream?, outgoing: outgoing?, accept }, sources))
    }

    fn issue(&mut self, path: &KeyPath, message: impl Into<String>, hint: &str) {
        self.issues.push(Issue::new(path.clone(), message.into()).hint(hint.to_owned()));
    }
}
