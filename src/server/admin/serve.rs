//! Connections of the admin listener: how many, how long, and which page answers.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::answer::{Answer, Refusal, wants_json};
use super::change::CHANGE;
use super::guard::{Guard, Who, lawful_host};
use super::operator::Operator;
use super::page::{Call, Page, Query};
use super::patient::Patient;
use super::read::{PROBES, READ};
use super::seat::{Seat, Seats};
use super::socket::Acceptor;
use crate::config::issue::suggest;
use crate::telemetry::metrics::Metrics;

/// The most connections at once, if there are file descriptors. Probes and a scraper need a handful.
pub(super) const CONNECTIONS_MAX: u32 = 64;

/// How metrics name that.
const LIMIT: &str = "operators";

/// How long a request's head may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;

/// The most bytes of a request's body.
const BODY_MAX: usize = 64 * 1024;

/// How long a listener that closes lets answers finish that were asked for.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// How long to wait before accepting again once that failed.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How answers of `admin` name what gives them, so that `armiger status` and its like notice that they ask somebody else.
pub const SERVER_ADMIN: &str = "armiger-admin";
/// The same of `probes`.
pub const SERVER_PROBES: &str = "armiger-probes";

/// What a listener has to show, and to whom.
pub(super) struct Site {
    operator: Arc<dyn Operator>,
    metrics: Metrics,
    /// The tables whose pages it serves.
    tables: Vec<&'static [Page]>,
    is_admin: bool,
    /// Replaced by a reload, while connections are open.
    guard: ArcSwap<Guard>,
}

impl Site {
    /// Everything.
    pub(super) fn admin(operator: Arc<dyn Operator>, metrics: Metrics, guard: Guard) -> Self {
        Self {
            operator,
            metrics,
            tables: vec![PROBES, READ, CHANGE],
            is_admin: true,
            guard: ArcSwap::from_pointee(guard),
        }
    }

    /// Only what is fit for everyone.
    pub(super) fn probes(operator: Arc<dyn Operator>, metrics: Metrics) -> Self {
        Self { operator, metrics, tables: vec![PROBES], is_admin: false, guard: ArcSwap::default() }
    }

    /// Asks for this token from the next request on.
    pub(super) fn set_guard(&self, guard: Guard) {
        self.guard.store(Arc::new(guard));
    }

    /// Answers a request.
    async fn answer(&self, request: Request<Incoming>, peer: &str) -> Answer {
        let wants_json = wants_json(request.headers());
        let answer = self.page(request, peer, wants_json).await;
        let mut answer = answer.unwrap_or_else(|refusal| refusal.answer(wants_json));
        let server = if self.is_admin { SERVER_ADMIN } else { SERVER_PROBES };
        answer.headers_mut().insert(header::SERVER, HeaderValue::from_static(server));
        answer
    }

    async fn page(&self, request: Request<Incoming>, peer: &str, wants_json: bool) -> Result<Answer, Refusal> {
        let guard = self.guard.load_full();
        lawful_host(&request)?;
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let path = request.uri().path();
        let found: Vec<(&Page, &str)> = self.pages().filter_map(|page| Some((page, page.matches(path)?))).collect();
        // Who may see no page is not told which there are. `probes` has nothing to hide.
        if self.is_admin {
            guard.admit(found.first().map_or(Who::Operator, |(page, _)| page.who), &request)?;
        }
        if found.is_empty() {
            return Err(self.unknown(path));
        }
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let Some((page, name)) = found.iter().find(|(page, _)| page.method == method) else {
            return Err(wrong_method(&found));
        };
        let query = Query::parse(request.uri().query());
        if let Some(keys) = page.keys {
            query.check(keys).map_err(|refusal| match (path, query.get("url")) {
                ("/state/cache", Some(_)) => refusal.hint("what is stored of one URL tells `/cache/lookup?url=`"),
                _ => refusal,
            })?;
        }
        let is_change = page.method != Method::GET;
        let body = if is_change {
            if !guard.serves_changes() {
                return Err(Guard::changes_refusal());
            }
            guard.same_site(&request)?;
            let body = whole(body).await?;
            // Of whom or what: the upstream of a breaker. What the page does tells more of it.
            let name = (!name.is_empty()).then_some(*name);
            tracing::info!(page = page.path, name, peer, "an operator asks");
            body
        } else {
            Bytes::new()
        };
        let call = Call {
            operator: &*self.operator,
            metrics: &self.metrics,
            query,
            name,
            body,
            wants_json,
            is_trusted: self.is_admin && guard.trusts(request.headers()),
            serves_changes: guard.serves_changes(),
        };
        (page.run)(&call).await
    }

    fn pages(&self) -> impl Iterator<Item = &'static Page> {
        self.tables.iter().copied().flatten()
    }

    fn unknown(&self, path: &str) -> Refusal {
        let near = suggest(path, self.pages().map(|page| page.path));
        let hint = match near {
            Some(near) => format!("did you mean {near}?"),
            None if self.is_admin => "GET / lists what there is".to_owned(),
            None => self.pages().map(|page| page.path).collect::<Vec<_>>().join(", ") + " are all there is",
        };
        Refusal::new(StatusCode::NOT_FOUND, format!("nothing is here; {hint}"))
    }
}

fn wrong_method(found: &[(&Page, &str)]) -> Refusal {
    let mut allowed = Vec::new();
    for (page, _) in found {
        allowed.push(page.method.as_str());
        if page.method == Method::GET {
            allowed.push("HEAD");
        }
    }
    let allowed = allowed.join(", ");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("this page takes {allowed}")).header(header::ALLOW, allowed)
}

/// The whole body: what was cut short must not be acted upon.
async fn whole(body: Incoming) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the most is {BODY_MAX} bytes"));
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => {
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long").header(header::CONNECTION, "close"))
        }
    }
}

/// Accepts until `stop` says so, then lets what was asked for finish.
pub(super) async fn accept(acceptor: Acceptor, site: Arc<Site>, most: usize, stop: watch::Receiver<bool>) {
    let mut seats = Seats::new(most);
    let mut stopped = pin!(stopped(stop.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = stopped.as_mut() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if seats.are_taken() {
                    site.metrics.limit_hit(LIMIT);
                    tokio::select! {
                        () = seats.make_room() => {}
                        // One more for the moments that are left.
                        () = stopped.as_mut() => {}
                    }
                }
                seats.give(|seat| serve(stream, peer, site.clone(), seat, stop.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "the admin listener cannot accept");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    for (stream, peer) in acceptor.close(seats.free()) {
        seats.give(|seat| serve(stream, peer, site.clone(), seat, stop.clone()));
    }
    // What is left then ends with the seats.
    tokio::time::timeout(CLOSE_WAIT, seats.emptied()).await.ok();
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // Fails when nobody is left to say so: then it is time too.
    stop.wait_for(|stop| *stop).await.ok();
}

async fn serve<S>(stream: S, peer: String, site: Arc<Site>, seat: Arc<Seat>, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let is_fresh = AtomicBool::new(true);
    let (site, peer, is_fresh, seat, stopping) = (&*site, &*peer, &is_fresh, &seat, &stop);
    let service = service_fn(|request: Request<Incoming>| async move {
        is_fresh.store(false, Ordering::Relaxed);
        seat.asked();
        let mut answer = site.answer(request, peer).await;
        seat.answered();
        if *stopping.borrow() || seat.is_last() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(answer)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, seat.clone())), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        // First: what has come is asked before anybody is told to go.
        biased;
        served = connection.as_mut() => served,
        () = seat.wanted() => return,
        () = stopped(stop.clone()) => {
            // Of a new connection the first request is on its way, and hyper would not wait for it.
            if !is_fresh.load(Ordering::Relaxed) {
                connection.as_mut().graceful_shutdown();
            }
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, peer, "an admin connection broke");
    }
}
