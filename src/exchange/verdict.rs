//! A policy's word on a request.

use std::any::Any;

use http::Response;
use smallvec::SmallVec;

use super::allowance::Grant;
use super::{Caller, Exchange, Fetch};
use crate::http::body::Body;

/// What a policy says, unless it rejects.
///
/// A policy sees the exchange and cannot change it. What it wants changed stands in its verdict, and is done only if
/// the policy is enforced: so `mode: shadow` is free of side effects by construction.
pub enum Verdict {
    /// No objection.
    Pass,
    /// No objection, and something to change.
    Amend(Amendment),
    /// No objection to a body of as many bytes, which is still to come: that it has more is a refusal when they do.
    Bound(u64),
    /// No objection, and this is who calls.
    Identify(Caller),
    /// No objection, and this was drawn from limits.
    Grant(Box<Grant>),
    /// No objection, and this is held until the exchange is over.
    Hold(Box<dyn Any>),
    /// The answer is known; nothing further is asked. Beside it, what operators are told of it.
    Answer(Response<Body>, Option<&'static str>),
    /// The answer is to be fetched for more than this exchange, or has been and is to be fetched anew.
    Fetch(Fetch),
}

/// The policy's last word on the response, whatever it is: upstream answer, local answer, rejection.
pub type Followup = Box<dyn FnOnce(&mut Response<Body>)>;

/// A change of the request.
pub type Change = Box<dyn FnOnce(&mut Exchange)>;

/// What a policy changes.
#[derive(Default)]
pub struct Amendment {
    /// On the request, now.
    pub request: Option<Change>,
    /// On the response, later.
    pub response: Option<Followup>,
    /// What operators are told of it, such as `origin_not_allowed`.
    pub cause: Option<&'static str>,
}

impl Verdict {
    /// An answer of which there is nothing more to tell.
    pub fn answer(response: Response<Body>) -> Self {
        Self::Answer(response, None)
    }

    /// Changes the request.
    pub fn amend(change: impl FnOnce(&mut Exchange) + 'static) -> Self {
        Self::Amend(Amendment { request: Some(Box::new(change)), ..Amendment::default() })
    }

    /// Changes the request, and has a word on the response.
    pub fn amend_both(
        request: impl FnOnce(&mut Exchange) + 'static,
        response: impl FnOnce(&mut Response<Body>) + 'static,
    ) -> Self {
        let (request, response) = (Some(Box::new(request) as Change), Some(Box::new(response) as Followup));
        Self::Amend(Amendment { request, response, cause: None })
    }

    /// Has a word on the response.
    pub fn followup(change: impl FnOnce(&mut Response<Body>) + 'static) -> Self {
        Self::followup_because(None, change)
    }

    /// The same, and operators are told of it.
    pub fn followup_because(cause: Option<&'static str>, change: impl FnOnce(&mut Response<Body>) + 'static) -> Self {
        Self::Amend(Amendment { request: None, response: Some(Box::new(change)), cause })
    }
}

/// The follow-ups of one exchange. Run in reverse order; dropped unrun when the client goes away.
#[derive(Default)]
pub struct Followups(SmallVec<[Followup; 4]>);

impl Followups {
    /// Adds one.
    pub fn push(&mut self, followup: Followup) {
        self.0.push(followup);
    }

    /// Lets each have its word, the last one first.
    pub fn run(self, response: &mut Response<Body>) {
        for followup in self.0.into_iter().rev() {
            followup(response);
        }
    }
}
