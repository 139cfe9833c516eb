//! A route's policies, sorted by stage and asked in turn.

use std::borrow::Cow;
use std::sync::Arc;

use http::Response;

use super::{AnyPolicy, Stage};
use crate::config::value::Mode;
use crate::exchange::{Amendment, Challenges, Exchange, Fetch, Followups, Reason, Rejection, Verdict};
use crate::http::body::Body;
use crate::telemetry::metrics::PolicyMetrics;
use crate::telemetry::record::{Enforcement, VerdictRow, VerdictWord};

/// One compiled policy in its place.
pub struct Link {
    /// When it is asked.
    pub stage: Stage,
    /// Its key in the YAML.
    pub name: &'static str,
    /// Whether its word counts.
    pub mode: Mode,
    /// The policy.
    pub policy: AnyPolicy,
    /// Where its verdicts are counted.
    pub metrics: PolicyMetrics,
}

/// A route's policies, in the order in which they are asked.
#[derive(Default)]
pub struct Chain {
    links: Vec<Link>,
    /// Where [`Stage::Occupy`] begins: from there on only those are asked that an action is to serve.
    prepare: usize,
    /// How callers may prove who they are.
    challenges: Arc<Challenges>,
}

impl Chain {
    /// Sorts the links by stage. Within a stage the order of the table stays.
    pub fn new(mut links: Vec<Link>, challenges: Arc<Challenges>) -> Self {
        links.retain(|link| link.mode != Mode::Off);
        links.sort_by_key(|link| link.stage);
        let prepare = links.partition_point(|link| link.stage < Stage::Occupy);
        Self { links, prepare, challenges }
    }

    /// Whether a policy of this key is asked and its word counts.
    pub fn enforces(&self, name: &str) -> bool {
        self.links.iter().any(|link| link.name == name && link.mode == Mode::Enforce)
    }

    /// Whether a policy of this stage is asked and its word counts.
    pub fn enforces_at(&self, stage: Stage) -> bool {
        self.links.iter().any(|link| link.stage == stage && link.mode == Mode::Enforce)
    }

    /// Asks whether the request may go on, until a policy answers or rejects.
    pub async fn admit(&self, exchange: &mut Exchange, followups: &mut Followups) -> Result<Asked, Rejection> {
        let mut asked = ask(&self.links[..self.prepare], exchange, followups).await;
        if let Err(rejection) = &mut asked {
            self.challenge(rejection);
        }
        asked
    }

    /// A caller who should have proven who it is, is told how.
    fn challenge(&self, rejection: &mut Rejection) {
        if rejection.reason == Reason::TokenMissing {
            self.challenges.tell(rejection, None);
        }
    }

    /// Asks what the upstream must see, once armiger has written its own headers: these policies have the last word.
    pub async fn prepare(&self, exchange: &mut Exchange, followups: &mut Followups) -> Result<Asked, Rejection> {
        ask(&self.links[self.prepare..], exchange, followups).await
    }
}

/// What came of asking.
pub enum Asked {
    /// Nobody objects.
    Passed,
    /// The answer is known.
    Answered(Response<Body>),
    /// It is to be fetched.
    Fetched(Fetch),
}

/// A policy in shadow is asked like any other and its word is recorded; nothing else comes of it.
async fn ask(links: &[Link], exchange: &mut Exchange, followups: &mut Followups) -> Result<Asked, Rejection> {
    let mut fetch = None;
    for link in links {
        let verdict = link.policy.on_request(exchange).await;
        link.record(exchange, &verdict);
        if let Err(rejection) = &verdict
            && exchange.owes(rejection)
        {
            // Rare, and a future that every request would carry about.
            Box::pin(exchange.give_back(link.mode == Mode::Shadow)).await;
        }
        if link.mode == Mode::Shadow {
            match verdict {
                // What it holds is its own, and it could not count without.
                Ok(Verdict::Hold(held)) => exchange.closing.hold(held),
                Ok(Verdict::Grant(grant)) => exchange.allowance.add_shadow(grant),
                Ok(_) | Err(_) => {}
            }
            continue;
        }
        match verdict? {
            Verdict::Pass => {}
            Verdict::Amend(amendment) => {
                if let Some(change) = amendment.request {
                    change(exchange);
                }
                if let Some(followup) = amendment.response {
                    followups.push(followup);
                }
            }
            Verdict::Bound(max) => {
                if let Body::Received(received) = exchange.request.body_mut()
                    && received.limit(max)
                {
                    exchange.closing.may_refuse_body(&link.metrics, Reason::BodyTooLarge.slug());
                } else {
                    link.metrics.count(VerdictWord::Amend);
                }
            }
            Verdict::Hold(held) => exchange.closing.hold(held),
            Verdict::Grant(grant) => exchange.allowance.add(grant),
            Verdict::Identify(caller) => exchange.identify(caller),
            Verdict::Answer(response, _) => return Ok(Asked::Answered(response)),
            Verdict::Fetch(known @ Fetch { answer: Some(_), .. }) => return Ok(Asked::Fetched(known)),
            // Those that come after may still object.
            Verdict::Fetch(wanted) => fetch = Some(wanted),
        }
    }
    Ok(fetch.map_or(Asked::Passed, Asked::Fetched))
}

impl Link {
    fn record(&self, exchange: &mut Exchange, verdict: &Result<Verdict, Rejection>) {
        let (word, reason) = match verdict {
            Ok(Verdict::Pass) => (VerdictWord::Pass, None),
            Ok(Verdict::Amend(_) | Verdict::Bound(_)) => (VerdictWord::Amend, None),
            Ok(Verdict::Grant(_) | Verdict::Hold(_)) => (VerdictWord::Pass, None),
            Ok(Verdict::Identify(_)) => (VerdictWord::Pass, None),
            Ok(Verdict::Answer(..) | Verdict::Fetch(Fetch { answer: Some(_), .. })) => (VerdictWord::Answer, None),
            Ok(Verdict::Fetch(_)) => (VerdictWord::Amend, None),
            Err(rejection) => (VerdictWord::Reject, Some(rejection.reason.slug())),
        };
        let cause = match verdict {
            Ok(Verdict::Amend(Amendment { cause, .. }) | Verdict::Answer(_, cause)) => cause.map(Cow::Borrowed),
            Ok(_) => None,
            Err(rejection) => rejection.cause.clone(),
        };
        let mode = if self.mode == Mode::Shadow { Enforcement::Shadow } else { Enforcement::Enforce };
        // What that comes to is counted once it is known.
        if mode == Enforcement::Shadow || !matches!(verdict, Ok(Verdict::Bound(_))) {
            self.metrics.count(word);
        }
        exchange.closing.record.verdicts.push(VerdictRow {
            policy: self.name,
            stage: self.stage.name(),
            verdict: word,
            reason,
            cause,
            mode,
        });
    }
}
