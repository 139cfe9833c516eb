//! A part's answer that is fetched for more than one exchange: what is asked, and who sees that it is.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, Request, Response, StatusCode, header};

use super::call::{self, Failed, Whose};
use super::json::{Fault, Json};
use crate::config::upstream::Class;
use crate::config::value::Statuses;
use crate::exchange::{Exchange, Fetch, Reason, Rejection};
use crate::http::body::Body;
use crate::upstream::{Pools, Tells, Upstream};

/// Who has answers fetched that others may get too: no action may, for it ends with its exchange.
pub trait Errands {
    /// An exchange for a part's request, on behalf of this one.
    fn exchange(&self, of: &Exchange, request: Request<Body>, until: Instant) -> Exchange;

    /// Has the answer to such an exchange fetched.
    fn fetch<'f>(
        &'f self,
        exchange: &'f mut Exchange,
        fetch: Fetch,
        call: PartCall,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Rejection>> + 'f>>;
}

/// Why a call came to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Broken {
    /// There is no answer.
    Failed(Failed),
    /// It is no document.
    Fault(StatusCode, Fault),
}

/// What a part asks of its upstream. Only whole documents come of it: nothing else is to be kept in the place of one.
pub struct PartCall {
    pub(super) upstream: Arc<Upstream>,
    pub(super) class: Class,
    /// Tells the upstream what is left of the time.
    pub(super) deadline_header: Option<HeaderName>,
    pub(super) accept: Vec<Statuses>,
    pub(super) body_max: usize,
    /// Told to whoever waits, for a rejection says less.
    pub(super) broken: Rc<Cell<Option<Broken>>>,
}

impl PartCall {
    /// Asks.
    ///
    /// # Errors
    /// Nothing came of it, or nothing that is of use.
    pub async fn run(&self, exchange: &mut Exchange, pools: &Pools) -> Result<Response<Body>, Rejection> {
        self.ask(exchange, pools).await.map_err(|broken| {
            self.broken.set(Some(broken));
            // What stands for all failures of upstreams: the cache then uses what it has.
            Reason::PartFailed.into()
        })
    }

    async fn ask(&self, exchange: &mut Exchange, pools: &Pools) -> Result<Response<Body>, Broken> {
        let request = std::mem::take(&mut *exchange.request);
        let (deadline, due) = (exchange.deadline, exchange.due);
        let tells = Tells { grpc: false, header: self.deadline_header.as_ref() };
        let whose = Whose { client: exchange.client, deadline, due, tells, class: self.class };
        let attempts = &mut exchange.closing.record.attempts;
        let wanted = |status| accepts(&self.accept, status);
        let reply = call::send(&self.upstream, pools, whose, attempts, request, self.body_max, wanted);
        let reply = reply.await.map_err(Broken::Failed)?;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        // Of another status the body was left, and of this one it was decoded.
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        if wanted(reply.status) && !reply.body.is_empty() {
            let document = Json::check(reply.body).map_err(|fault| Broken::Fault(reply.status, fault))?;
            *response.body_mut() = Body::full(document.bytes().clone());
        }
        Ok(response)
    }
}

/// Whether a status counts as an answer.
pub(super) fn accepts(accept: &[Statuses], status: StatusCode) -> bool {
    let is_among = || accept.iter().any(|statuses| statuses.contains(status.as_u16()));
    if accept.is_empty() { status.is_success() } else { is_among() }
}
