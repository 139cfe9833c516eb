//! What a call's end says of the upstream.

use http::response::Parts;
use http::{HeaderMap, StatusCode};

use super::machine::Outcome;
use crate::config::breaker::Failure;
use crate::config::value::Statuses;
use crate::upstream::error::{Fault, Kind};

/// Tells failures from what says nothing of the upstream.
#[derive(Clone, Debug)]
pub struct Judge {
    statuses: Box<[Statuses]>,
    /// A bit for each status of gRPC.
    grpc: u32,
    connect: bool,
    timeout: bool,
    reset: bool,
}

impl Judge {
    /// As a configuration says.
    pub fn of(config: &Failure) -> Self {
        Self {
            statuses: config.status.clone().into(),
            grpc: config.grpc.iter().fold(0, |bits, status| bits | 1 << status.number()),
            connect: config.connect,
            timeout: config.timeout,
            reset: config.reset,
        }
    }

    /// What the head of an answer says.
    pub(in crate::upstream) fn of_head(&self, head: &Parts) -> Outcome {
        if self.counts(head.status) {
            return Outcome::Failure;
        }
        if head.status.is_client_error() {
            return Outcome::Answered;
        }
        if self.fails(&head.headers) { Outcome::Failure } else { Outcome::Success }
    }

    /// What an error says.
    pub(in crate::upstream) fn of_error(&self, kind: Kind) -> Outcome {
        let counts = match kind {
            _ if kind.fault() != Fault::Upstream => false,
            Kind::Timeout => self.timeout,
            _ if kind.is_connect() => self.connect,
            _ => self.reset,
        };
        if counts { Outcome::Failure } else { Outcome::Excluded }
    }

    /// Whether these fields, of the head or after the body, say that a call of gRPC failed.
    pub(in crate::upstream) fn fails(&self, fields: &HeaderMap) -> bool {
        // Only answers of gRPC have it, and a look-up that finds nothing is cheap.
        let status = self.grpc_status(fields);
        status.is_some_and(|status| self.grpc & 1_u32.checked_shl(status).unwrap_or(0) != 0)
    }

    /// Whether a body that is cut counts.
    pub(in crate::upstream) fn counts_cuts(&self) -> bool {
        self.reset
    }

    fn grpc_status(&self, fields: &HeaderMap) -> Option<u32> {
        if self.grpc == 0 {
            return None;
        }
        fields.get("grpc-status")?.to_str().ok()?.parse().ok()
    }

    fn counts(&self, status: StatusCode) -> bool {
        self.statuses.iter().any(|some| some.contains(status.as_u16()))
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;
    use crate::http::body::BodyError;

    #[track_caller]
    fn heads(judge: &Judge, status: u16, grpc: Option<&str>, outcome: Outcome) {
        let mut response = Response::builder().status(status);
        if let Some(grpc) = grpc {
            response = response.header("grpc-status", grpc);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        assert_eq!(judge.of_head(&head), outcome, "{status} {grpc:?}");
    }

    #[test]
    fn an_answer_is_judged_by_its_status_and_that_of_grpc() {
        let judge = Judge::of(&Failure::default());
        for status in [200, 204, 302, 501, 505] {
            heads(&judge, status, None, Outcome::Success);
        }
        for status in [500, 502, 503, 504] {
            heads(&judge, status, None, Outcome::Failure);
        }
        // What clients do says no more of the service than that it is there.
        for status in [400, 401, 404, 429, 499] {
            heads(&judge, status, None, Outcome::Answered);
        }
        for (status, outcome) in [
            ("0", Outcome::Success),
            ("5", Outcome::Success),
            ("14", Outcome::Failure),
            ("13", Outcome::Failure),
            ("77", Outcome::Success),
            ("x", Outcome::Success),
        ] {
            heads(&judge, 200, Some(status), outcome);
        }
    }

    #[test]
    fn an_error_is_judged_by_whose_it_is_and_its_class() {
        let judge = Judge::of(&Failure { timeout: false, ..Failure::default() });
        for (kind, outcome) in [
            (Kind::Refused, Outcome::Failure),
            (Kind::Dns, Outcome::Failure),
            (Kind::ConnectTimeout, Outcome::Failure),
            (Kind::Reset, Outcome::Failure),
            (Kind::Protocol, Outcome::Failure),
            (Kind::Timeout, Outcome::Excluded),
            (Kind::Exhausted, Outcome::Excluded),
            (Kind::NoFile, Outcome::Excluded),
            (Kind::QueueWait, Outcome::Excluded),
            (Kind::Client(BodyError::ClientCut), Outcome::Excluded),
        ] {
            assert_eq!(judge.of_error(kind), outcome, "{kind:?}");
        }
    }
}
