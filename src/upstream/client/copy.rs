//! Whether a request can be sent twice, and the copy to do it with.

use std::rc::Rc;

use bytes::Bytes;
use http::{Request, request};

use crate::http::body::{Body, Inbound, Replay};
use crate::http::headers::name;
use crate::upstream::plan::Plan;

/// What is needed to send a request again.
pub(super) struct Copy {
    /// Where only the end of a reused HTTP/1.1 connection is feared, that connection keeps it.
    head: Option<Box<request::Parts>>,
    body: CopiedBody,
}

enum CopiedBody {
    Here(Bytes),
    Passing(Rc<Replay>, Rc<Inbound>),
}

impl Copy {
    /// None if the body cannot be had twice. Without a head, that which the connection keeps has to do.
    pub(super) fn of(
        request: &mut Request<Body>,
        inbound: Option<&Rc<Inbound>>,
        plan: &Plan,
        with_head: bool,
    ) -> Option<Self> {
        let max = plan.replay_max;
        let body = match (request.body_mut(), inbound) {
            (Body::Empty, _) => CopiedBody::Here(Bytes::new()),
            (Body::Full(bytes), _) => CopiedBody::Here(bytes.clone()),
            (Body::Received(received), Some(inbound)) => {
                if received.size_hint().lower() > max as u64 {
                    return None;
                }
                CopiedBody::Passing(received.keep(max), inbound.clone())
            }
            _ => return None,
        };
        let head = with_head.then(|| {
            let mut head = Request::new(());
            *head.method_mut() = request.method().clone();
            *head.uri_mut() = request.uri().clone();
            *head.headers_mut() = request.headers().clone();
            Box::new(head.into_parts().0)
        });
        Some(Self { head, body })
    }

    /// The request with the head that was copied, or with the one that was `kept`.
    pub(super) fn restore(self, kept: Option<Box<request::Parts>>) -> Option<Request<Body>> {
        let head = self.head.or(kept)?;
        let body = match self.body {
            CopiedBody::Here(bytes) => Body::full(bytes),
            CopiedBody::Passing(replay, inbound) => replay.resume(&inbound)?,
        };
        Some(Request::from_parts(*head, body))
    }
}

/// What is known of it while it is read, if a client sends it.
pub(in crate::upstream) fn inbound_of(body: &Body) -> Option<Rc<Inbound>> {
    match body {
        Body::Received(received) => Some(received.inbound().clone()),
        _ => None,
    }
}

/// Whether doing it twice is as good as once (RFC 9110 §9.2.2), by its method or by the client's word.
pub(super) fn is_idempotent(request: &Request<Body>) -> bool {
    request.method().is_idempotent() || request.headers().contains_key(&name::IDEMPOTENCY_KEY)
}
