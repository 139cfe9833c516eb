//! One request in flight: what policies ask about and actions work on.

pub mod allowance;
pub mod fetch;
pub mod identity;
mod reference;
pub mod rejection;
pub mod template;
pub mod verdict;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use smallvec::SmallVec;

pub use allowance::{Allowance, Exceeded, Grant};
pub use fetch::{Arrival, Fetch, Fill, Settled};
pub use identity::{Caller, Challenges, Identity, Place};
pub use reference::reference;
pub use rejection::{Reason, Rejection};
pub use verdict::{Amendment, Followup, Followups, Verdict};

use crate::http::body::{Body, Inbound};
use crate::http::problem::{self, Problem};
use crate::http::proxy_protocol::Ends;
use crate::http::websocket::Wish;
use crate::http::{forwarded, headers as fields};
use crate::limits::fields::VIOLATED;
use crate::telemetry::finish::Closing;
use crate::telemetry::trace::{RequestId, TraceContext};
use crate::timer::Wheel;
use crate::tls::peer::Peer;

/// How much of a route's timeout an errand may take, in hundredths: the rest is for answering without it.
const ERRAND_SHARE: u32 = 95;

/// Who sent the request, as far as addresses tell.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Who opened the connection.
    pub peer: SocketAddr,
    /// Where that connection led to.
    pub reached: SocketAddr,
    /// The client: the peer, or whom trusted proxies name.
    pub address: IpAddr,
    /// The peer is a trusted proxy.
    pub is_trusted: bool,
}

impl Client {
    /// The two ends of the client's connection, as far as they are known: where others name the client, it has no port.
    pub fn ends(&self) -> Ends {
        let is_peer = self.peer.ip().to_canonical() == self.address;
        let source = SocketAddr::new(self.address, if is_peer { self.peer.port() } else { 0 });
        Ends { source, destination: self.reached }
    }
}

/// What the next hop is told about the connection that a request came over.
#[derive(Debug)]
pub struct Hop {
    /// Peer, scheme and port.
    pub forwarded: forwarded::Hop,
    /// Our name in `Via`; none to write no `Via`.
    pub via: Option<forwarded::Via>,
    /// The certificate that the client showed, if it was believed.
    pub certificate: Option<Rc<Certificate>>,
}

/// A client's certificate, and who it was found to stand for.
#[derive(Debug)]
pub struct Certificate {
    /// What it says.
    pub peer: Peer,
    found: RefCell<Option<(Arc<str>, Arc<Identity>)>>,
}

impl Certificate {
    /// A certificate that nobody has asked about.
    pub fn new(peer: Peer) -> Self {
        Self { peer, found: RefCell::default() }
    }

    /// Whether it has ended at `now`.
    pub fn is_over(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.peer.ends.is_some_and(|end| i64::try_from(now).is_ok_and(|now| now >= end))
    }

    /// Who it stands for by the word of `provider`, which is asked once.
    ///
    /// # Errors
    /// What the provider says.
    pub fn stands_for<E>(
        &self,
        provider: &Arc<str>,
        ask: impl FnOnce(&Peer) -> Result<Identity, E>,
    ) -> Result<Arc<Identity>, E> {
        if let Some((known, identity)) = &*self.found.borrow()
            && Arc::ptr_eq(known, provider)
        {
            return Ok(identity.clone());
        }
        let identity = Arc::new(ask(&self.peer)?);
        self.found.replace(Some((provider.clone(), identity.clone())));
        Ok(identity)
    }
}

/// Members of a problem document.
pub type Members = serde_json::Map<String, serde_json::Value>;

/// Where the route's path parameters stand in the path.
pub type Ranges = SmallVec<[(u32, u32); 8]>;

/// A request and all that is known of it.
pub struct Exchange {
    /// Method, target, headers and body. After `proxy/intake.rs` the headers are end-to-end ones only.
    ///
    /// In a box that is used again: an exchange is moved about, and this is most of it.
    pub request: Box<Request<Body>>,
    /// Who sent it.
    pub client: Client,
    /// The normalised path, where it differs from the target's.
    pub normal_path: Option<String>,
    /// Parameters of the route's path, as ranges of [`Exchange::path`].
    pub params: Ranges,
    /// When it arrived.
    pub started: Instant,
    /// When the head of the answer must be there.
    pub deadline: Instant,
    /// The same by the route's word alone: `deadline` is sooner where the caller waits no longer.
    pub due: Instant,
    /// What is known of the request body while an upstream reads it.
    pub inbound: Option<Rc<Inbound>>,
    /// The worker's timers.
    pub wheel: Wheel,
    /// The caller's trace, continued, or restarted where it was invalid.
    pub trace: Option<TraceContext>,
    /// The connection that it came over.
    pub hop: Rc<Hop>,
    /// Who calls, once that is proven.
    pub caller: Option<Caller>,
    /// What limits granted so far.
    pub allowance: Allowance,
    /// The wish to speak WebSocket, if the request has it.
    pub websocket: Option<Box<Wish>>,
    /// The form of a refusal, once it is known: at the latest when the request itself is given away.
    pub form: Option<problem::Form>,
    /// What will be logged and counted when the last byte is out, or the client gone.
    pub closing: Closing,
}

impl Exchange {
    /// The normalised path: what was routed is what policies see and what upstreams get.
    pub fn path(&self) -> &str {
        self.normal_path.as_deref().unwrap_or_else(|| self.request.uri().path())
    }

    /// The path parameter at a place that compile found, in its percent-encoded form.
    pub fn param(&self, place: usize) -> &str {
        let Some((start, end)) = self.params.get(place) else { return "" };
        self.path().get(*start as usize..*end as usize).unwrap_or("")
    }

    /// The `Host` that the client asked for, as it wrote it.
    pub fn host(&self) -> &str {
        host_of(self.request.headers(), self.request.uri())
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The id that logs, answers and upstreams share.
    pub fn request_id(&self) -> &str {
        self.closing.record.request_id.as_ref().map_or("", RequestId::as_str)
    }

    /// The route's name; empty as long as none was found.
    pub fn route_name(&self) -> &str {
        self.closing.record.route.as_deref().unwrap_or("")
    }

    /// Whether a browser asks if it may ask (Fetch standard, "CORS-preflight request").
    pub fn is_preflight(&self) -> bool {
        *self.request.method() == Method::OPTIONS
            && self.headers().contains_key(header::ORIGIN)
            && self.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// An exchange for an errand: it sends `request` on behalf of this one, and is neither logged nor counted as one.
    pub fn errand(&self, request: Request<Body>, closing: Closing, now: Instant) -> Self {
        let deadline = now + ERRAND_SHARE * self.due.saturating_duration_since(self.started) / 100;
        Self {
            request: Box::new(request),
            client: self.client,
            normal_path: self.normal_path.clone(),
            params: self.params.clone(),
            started: now,
            deadline,
            due: deadline,
            inbound: None,
            wheel: self.wheel.clone(),
            trace: self.trace,
            hop: self.hop.clone(),
            caller: self.caller.clone(),
            allowance: Allowance::default(),
            websocket: None,
            form: None,
            closing,
        }
    }

    /// Whether something was drawn from limits that is to be given back on this refusal: one by a limit.
    pub fn owes(&self, rejection: &Rejection) -> bool {
        rejection.exceeded.is_some() && self.allowance.has_drawn()
    }

    /// Gives back what was drawn from limits; where one in shadow would have refused, from those in shadow alone.
    pub async fn give_back(&mut self, is_shadow: bool) {
        let (now, wheel) = (Instant::now(), self.wheel.clone());
        match is_shadow {
            true => self.allowance.give_back_shadow(now, &wheel).await,
            false => self.allowance.give_back(now, &wheel).await,
        }
    }

    /// The request without its body, which whoever asks for a stored answer has not.
    pub fn bare_request(&self) -> Request<Body> {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = self.request.method().clone();
        *request.uri_mut() = self.request.uri().clone();
        *request.version_mut() = self.request.version();
        *request.headers_mut() = self.request.headers().clone();
        request
    }

    /// Remembers the form of a refusal before the request is given away.
    pub fn remember_form(&mut self) {
        if self.form.is_none() {
            self.form = Some(problem::Form::of(self.headers()));
        }
    }

    /// The answer that a rejection makes: problem+json, plain text, or gRPC trailers-only.
    pub fn refuse(&mut self, mut rejection: Rejection) -> Response<Body> {
        let form = self.form.unwrap_or_else(|| problem::Form::of(self.headers()));
        if rejection.reason == Reason::ClientClosed {
            self.closing.left();
        } else {
            self.closing.rejected(rejection.reason.slug(), rejection.status.unwrap_or(rejection.reason.status()));
        }
        if let Some(limit) = rejection.limit.or(rejection.reason.limit()) {
            self.closing.limit_hit(limit);
        }
        if let Some(exceeded) = &mut rejection.exceeded {
            let readings = std::mem::take(&mut exceeded.readings);
            self.allowance.add(Box::new(Grant { readings, ..Grant::default() }));
        }
        render(rejection, form, self.request_id(), self.closing.members.as_deref())
    }
}

/// Renders a rejection.
pub fn refusal(rejection: Rejection, form: problem::Form, request_id: &str) -> Response<Body> {
    render(rejection, form, request_id, None)
}

fn render(rejection: Rejection, form: problem::Form, request_id: &str, members: Option<&Members>) -> Response<Body> {
    let facts = rejection.reason.facts();
    let exceeded = rejection.exceeded.as_deref();
    let names: Vec<&str> = exceeded.iter().flat_map(|it| &it.names).map(|told| &*told.name).collect();
    let mut response = problem::render(
        &Problem {
            status: rejection.status.unwrap_or(facts.status),
            grpc: facts.grpc,
            slug: facts.slug,
            title: facts.title,
            detail: rejection.detail.as_deref(),
            kind: rejection.reason.kind(),
            members,
            list: (!names.is_empty()).then_some((VIOLATED, &names[..])),
            request_id,
        },
        form,
    );
    let headers = response.headers_mut();
    if let Some(error) = rejection.proxy_status.or(facts.proxy_status)
        && let Ok(value) = HeaderValue::try_from(format!("armiger; error={error}"))
    {
        headers.insert(&crate::http::headers::name::PROXY_STATUS, value);
    }
    if let Some(seconds) = exceeded.and_then(Exceeded::seconds) {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if form == problem::Form::Grpc
        && let Some(exceeded) = exceeded
    {
        // Milliseconds after which a client's library tries again by itself; negative: not at all (gRPC A6).
        let value = exceeded.millis().map_or(HeaderValue::from_static("-1"), HeaderValue::from);
        headers.insert("grpc-retry-pushback-ms", value);
    }
    for (name, value) in rejection.headers {
        headers.append(name, value);
    }
    response
}

/// The host that a request asks for: the target's authority (absolute form, or HTTP/2's `:authority`), else `Host`.
pub fn host_of<'a>(headers: &'a HeaderMap, uri: &'a http::Uri) -> &'a str {
    match uri.authority() {
        Some(authority) => authority.as_str(),
        None => fields::host(headers).and_then(|host| host.to_str().ok()).unwrap_or(""),
    }
}
