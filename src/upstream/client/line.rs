//! What is done with a line to an endpoint, whichever version it speaks.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, response};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::Failure;
use crate::http::body::{Body, Feed, Inbound};
use crate::timer::Timer;
use crate::upstream::bench::Line;
use crate::upstream::plan::Plan;
use crate::upstream::state::Stay;
use crate::upstream::turns::{self, Turns};
use crate::upstream::{http1, http2};

/// The head of an answer, and its body where the line itself does not have it.
pub(super) type Begun = (response::Parts, Option<Incoming>);

pin_project! {
    /// A request on its way. hyper's future has room for a whole request, and each `async fn` around it would have that
    /// room twice: what is awaited and what is given to be awaited do not share theirs.
    #[project = SendingOn]
    enum Sending<'l, F> {
        Http1 { answer: http1::Sent<'l> },
        Http2 { #[pin] answer: F, stream: &'l http2::Stream },
    }
}

impl<F: Future<Output = http2::Sent>> Future for Sending<'_, F> {
    type Output = Result<Begun, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            SendingOn::Http1 { answer } => ready!(Pin::new(answer).poll(cx)).map(|head| (head, None)),
            SendingOn::Http2 { answer, stream } => match ready!(answer.poll(cx)) {
                Ok(response) => {
                    stream.answered();
                    let (head, body) = response.into_parts();
                    Ok((head, Some(body)))
                }
                Err(error) => Err(stream.failure(error)),
            },
        })
    }
}

impl Line {
    /// Sends what it takes out of `request`, which is of no use to anybody else then.
    pub(super) fn send(&self, request: &mut Request<Body>) -> impl Future<Output = Result<Begun, Failure>> {
        match self {
            Self::Http1(connection) => Sending::Http1 { answer: connection.send(request) },
            Self::Http2(stream) => Sending::Http2 { answer: stream.send(std::mem::take(request)), stream },
        }
    }

    pub(super) fn occupy(&self, stay: Stay) {
        match self {
            Self::Http1(connection) => connection.occupy(stay),
            Self::Http2(stream) => stream.occupy(stay),
        }
    }

    /// The body of its answer, which is `incoming` where the line does not have it.
    pub(super) fn into_feed(self, incoming: Option<Incoming>) -> Option<Feed> {
        match (self, incoming) {
            (Self::Http1(connection), _) => Some(Feed::Channel(connection)),
            (Self::Http2(stream), Some(incoming)) => Some(Feed::Stream(incoming, stream)),
            (Self::Http2(_), None) => None,
        }
    }
}

impl Line {
    /// What is left of `patience` since the socket last took bytes. Streams of HTTP/2 share theirs, so it says nothing
    /// of one of them.
    pub(in crate::upstream) fn left_of(&self, patience: Duration) -> Option<Duration> {
        match self {
            Self::Http1(connection) => {
                patience.checked_sub(connection.written_at().elapsed()).filter(|left| !left.is_zero())
            }
            Self::Http2(_) => None,
        }
    }
}

/// Waits for `answer`, but no longer than `first_byte` after the upstream got the request's last byte, or than `limit` is
/// armed for, which counts anew while the client's body is awaited.
pub(super) async fn patiently<F: Future>(
    timer: &mut Timer,
    mut limit: Option<&mut Timer>,
    plan: &Plan,
    line: &Line,
    inbound: Option<&Inbound>,
    mut answer: Pin<&mut F>,
) -> Option<F::Output> {
    let mut passed = inbound.map_or(0, |inbound| inbound.bytes.get());
    let per_try = plan.retry.as_ref().and_then(|retry| retry.per_try).unwrap_or_default();
    let mut turns = Turns::of(line, inbound);
    // A tick early does no harm: what is left is asked when it expires.
    timer.arm_coarsely(plan.first_byte);
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        if let Some(limit) = limit.as_deref_mut() {
            while limit.poll_expired(cx).is_ready() {
                let Some(left) = turns.left(per_try) else { return Poll::Ready(None) };
                limit.arm(left);
            }
        }
        // One timer per request: what moved since is asked only when it expires.
        loop {
            ready!(timer.poll_expired(cx));
            let left = line.left_of(plan.first_byte);
            let passes = inbound.map_or(0, |inbound| inbound.bytes.get());
            if let Some(left) = left {
                timer.arm(left);
            } else if turns::is_clients(inbound) || (passes > passed && matches!(line, Line::Http2(_))) {
                timer.arm(plan.first_byte);
            } else {
                return Poll::Ready(None);
            }
            passed = passes;
        }
    })
    .await;
    timer.disarm();
    outcome
}
