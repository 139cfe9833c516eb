//! One part of an exchange: its requests, its fallback, what of its answer is taken.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use smallvec::SmallVec;

use super::Part;
use super::answer::Freshness;
use super::merge;
use super::run::Run;
use crate::action::call::{self, Failed, Reply, Whose};
use crate::action::errand::{Broken, PartCall, accepts};
use crate::action::fill::{Known, Unfilled};
use crate::action::json::{Fault, Json, Kind as Form, View};
use crate::action::shape::Writer;
use crate::exchange::fetch::{Known as KnownAnswers, StandsIn};
use crate::exchange::{Exchange, Reason, Rejection, Verdict};
use crate::http::body::Body;
use crate::telemetry::record::{AttemptRow, PartRow, ROWS_MAX};
use crate::upstream::{Kind, Tells, Upstream};

/// What came of a part.
pub(super) enum Outcome {
    /// It answered.
    Said(Box<Said>),
    /// Its condition does not hold.
    NotAsked,
    /// It failed, and its fixed value stands in.
    Fixed(Failure),
    /// It failed, and nothing stands in.
    Missing(Failure),
}

/// What a part answered.
pub(super) struct Said {
    /// As the document has it.
    pub(super) shaped: Json,
    /// As the upstream sent it, for the parts that name it; of `foreach` the list.
    pub(super) raw: Json,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) freshness: Freshness,
    /// An entry of its list is missing.
    pub(super) lacks: Option<Failure>,
    /// It is old: nothing newer could be had.
    pub(super) is_stale: bool,
}

/// Why a part has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The word for logs and metrics, and for the client.
    pub(super) outcome: &'static str,
    /// The status, if it was that.
    pub(super) status: Option<StatusCode>,
    /// What the upstream did, if it gave no answer.
    pub(super) kind: Option<Kind>,
    /// It was not there in time.
    pub(super) is_late: bool,
}

impl Failure {
    pub(super) fn of(outcome: &'static str) -> Self {
        Self { outcome, status: None, kind: None, is_late: false }
    }
}

/// Words for what went wrong with a part, beside the slugs of upstreams.
pub(super) mod word {
    pub(in super::super) const OK: &str = "ok";
    pub(in super::super) const ABANDONED: &str = "abandoned";
    pub(super) const STALE: &str = "stale";
    pub(super) const NOT_ASKED: &str = "not-asked";
    pub(in super::super) const CONDITION: &str = "part-condition";
    pub(in super::super) const DEADLINE: &str = "deadline-exceeded";
    pub(super) const TIMEOUT: &str = "part-timeout";
    pub(super) const STATUS: &str = "part-status";
    pub(super) const NOT_JSON: &str = "part-not-json";
    pub(super) const TOO_DEEP: &str = "part-too-deep";
    pub(super) const TOO_LARGE: &str = "part-too-large";
    pub(super) const TOO_MANY: &str = "part-too-many-items";
    pub(super) const CODING: &str = "part-coding";
    pub(super) const FORM: &str = "part-form";
    pub(super) const VALUE_MISSING: &str = "part-value-missing";
    pub(super) const UNPLACEABLE: &str = "part-value-unplaceable";
}

impl From<Unfilled> for Failure {
    fn from(unfilled: Unfilled) -> Self {
        Self::of(match unfilled {
            Unfilled::Missing => word::VALUE_MISSING,
            Unfilled::Unplaceable => word::UNPLACEABLE,
        })
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Upstream(kind) => {
                let is_late = matches!(kind, Kind::Timeout | Kind::ConnectTimeout);
                Self { kind: Some(kind), is_late, ..Self::of(kind.slug()) }
            }
            Failed::Body(error) => {
                let is_late = error == crate::http::body::BodyError::UpstreamSlow;
                Self { is_late, ..Self::of(if is_late { "upstream-timeout" } else { "upstream-reset" }) }
            }
            Failed::TooLarge => Self::of(word::TOO_LARGE),
            Failed::Coding => Self::of(word::CODING),
        }
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Failed(failed) => failed.into(),
            Broken::Fault(status, fault) => fault_of(status, fault),
        }
    }
}

/// An answer of this status is no document.
fn fault_of(status: StatusCode, fault: Fault) -> Failure {
    Failure {
        status: Some(status),
        ..Failure::of(match fault {
            Fault::Grammar => word::NOT_JSON,
            Fault::Depth => word::TOO_DEEP,
        })
    }
}

/// A part's line in the log, written when it is over, however it ends.
struct Row<'r, 'e> {
    run: &'r Run<'e>,
    part: &'r Part,
    upstream: &'r Upstream,
    began: Instant,
    status: Option<StatusCode>,
    outcome: Option<&'static str>,
}

impl<'r, 'e> Row<'r, 'e> {
    fn begin(run: &'r Run<'e>, part: &'r Part, upstream: &'r Upstream) -> Self {
        Self { run, part, upstream, began: Instant::now(), status: None, outcome: None }
    }
}

impl Drop for Row<'_, '_> {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(self.run.ending.get());
        let duration = self.began.elapsed();
        self.part.metrics.ended(outcome, duration);
        // Nobody else holds the exchange while a part ends; if somebody did, a line would be missing and no more.
        let Ok(mut exchange) = self.run.exchange.try_borrow_mut() else { return };
        let rows = &mut exchange.closing.record.parts;
        if rows.len() < ROWS_MAX {
            rows.push(PartRow {
                part: self.part.name.clone(),
                upstream: self.upstream.name.clone(),
                status: self.status.map(|status| status.as_u16()),
                outcome,
                duration,
            });
        }
    }
}

/// The tries of one request, handed to the log when it is over, however it ends.
struct Tries<'r, 'e> {
    run: &'r Run<'e>,
    rows: SmallVec<[AttemptRow; 2]>,
}

impl Drop for Tries<'_, '_> {
    fn drop(&mut self) {
        let Ok(mut exchange) = self.run.exchange.try_borrow_mut() else { return };
        let attempts = &mut exchange.closing.record.attempts;
        let room = ROWS_MAX.saturating_sub(attempts.len());
        attempts.extend(self.rows.drain(..).take(room));
    }
}

/// Asks a part, and if need be what stands in for it.
pub(super) async fn ask(run: &Run<'_>, part: &Part) -> Outcome {
    let failure = match run.wants(part) {
        Ok(false) => {
            Row::begin(run, part, &part.upstream).outcome = Some(word::NOT_ASKED);
            return Outcome::NotAsked;
        }
        Ok(true) => match attempt(run, part, &part.upstream).await {
            Ok(said) => return Outcome::Said(Box::new(said)),
            Err(failure) => failure,
        },
        Err(_) => {
            let failure = Failure::of(word::CONDITION);
            Row::begin(run, part, &part.upstream).outcome = Some(failure.outcome);
            return part.without(failure);
        }
    };
    // A status that the client is to see is no failure to be covered.
    let is_passed = failure.status.is_some_and(|status| part.pass_status.contains(&status));
    if !is_passed {
        // What the service says of itself holds, such as that there is no such thing any more, or that it is nobody's to see.
        let may_stand_in = failure.status.is_none_or(|status| matches!(status.as_u16(), 500 | 502 | 503 | 504))
            || matches!(failure.outcome, word::NOT_JSON | word::TOO_DEEP);
        if may_stand_in && let Some(said) = stale(run, part) {
            return Outcome::Said(Box::new(said));
        }
        if let Some(other) = &part.fallback.upstream
            && let Ok(said) = attempt(run, part, other).await
        {
            return Outcome::Said(Box::new(said));
        }
        return part.without(failure);
    }
    Outcome::Missing(failure)
}

async fn attempt(run: &Run<'_>, part: &Part, upstream: &Upstream) -> Result<Said, Failure> {
    let mut row = Row::begin(run, part, upstream);
    let outcome = in_time(run, part, async {
        match &part.foreach {
            None => single(run, part, upstream, None).await,
            Some(_) => each(run, part, upstream).await,
        }
    })
    .await;
    let (word, status) = match &outcome {
        Ok(said) => (said.word(), Some(said.status)),
        Err(failure) => (failure.outcome, failure.status),
    };
    (row.outcome, row.status) = (Some(word), status);
    outcome
}

/// Ends it when the part's own time is over. The aggregate's is watched over by the run.
async fn in_time(
    run: &Run<'_>,
    part: &Part,
    work: impl Future<Output = Result<Said, Failure>>,
) -> Result<Said, Failure> {
    let Some(timeout) = part.timeout else { return work.await };
    let mut timer = run.wheel.timer();
    timer.arm(timeout);
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        timer.poll_expired(cx).map(|()| Err(Failure { is_late: true, ..Failure::of(word::TIMEOUT) }))
    })
    .await
}

/// One request and its answer.
async fn single(run: &Run<'_>, part: &Part, upstream: &Upstream, item: Option<View<'_>>) -> Result<Said, Failure> {
    let request = request(run, part, item)?;
    let (reply, is_stale) = match &part.cache {
        // What the other one says is not kept: it is asked when this one fails.
        Some(cache) if std::ptr::eq(upstream, &*part.upstream) => known(run, part, &**cache, request).await?,
        _ => (sent(run, part, upstream, request).await?, false),
    };
    said(run, part, reply, is_stale)
}

/// Sends a request.
async fn sent(run: &Run<'_>, part: &Part, upstream: &Upstream, request: Request<Body>) -> Result<Reply, Failure> {
    // Never closed: it lives as long as the run.
    let _turn = run.turns.acquire().await.map_err(|_| Failure::of(word::ABANDONED))?;
    let mut tries = Tries { run, rows: SmallVec::new() };
    let due = until(run, part);
    let tells = Tells { grpc: false, header: run.aggregate.deadline_header.as_ref() };
    let whose = Whose { client: run.client, deadline: due.min(run.deadline), due, tells, class: run.class };
    let tries = &mut tries.rows;
    let reply = call::send(upstream, run.pools, whose, tries, request, part.body_max, |status| part.accepts(status));
    Ok(reply.await?)
}

/// When a part's answer must be there.
fn until(run: &Run<'_>, part: &Part) -> Instant {
    part.timeout.map_or(run.until, |timeout| run.until.min(Instant::now() + timeout))
}

/// What is known already, or fetched for all who want it. Whether it stands in for what could not be had.
async fn known(
    run: &Run<'_>,
    part: &Part,
    cache: &dyn KnownAnswers,
    request: Request<Body>,
) -> Result<(Reply, bool), Failure> {
    let mut asked = asked(run, part, request);
    let verdict = match cache.ask(&asked) {
        Ok(verdict) => Ok(verdict),
        Err(deciding) => deciding.await,
    };
    let answer = match verdict {
        Ok(Verdict::Answer(answer, _)) => Ok(answer),
        Ok(Verdict::Fetch(fetch)) => {
            let broken = Rc::new(Cell::new(None));
            let call = PartCall {
                upstream: part.upstream.clone(),
                class: run.class,
                deadline_header: run.aggregate.deadline_header.clone(),
                accept: part.accept.clone(),
                body_max: part.body_max,
                broken: broken.clone(),
            };
            let mut tries = Tries { run, rows: SmallVec::new() };
            // Who has an answer and no more than begins what others will want waits for nobody.
            let _turn = match &fetch.answer {
                Some(_) => {
                    asked.due = asked.started + part.timeout.unwrap_or(run.aggregate.deadline);
                    None
                }
                None => Some(run.turns.acquire().await.map_err(|_| Failure::of(word::ABANDONED))?),
            };
            let answer = run.errands.fetch(&mut asked, fetch, call).await;
            tries.rows = std::mem::take(&mut asked.closing.record.attempts);
            answer.map_err(|rejection| broken.take().map_or_else(|| refused(part, &rejection), Failure::from))
        }
        // It is none that a cache has to do with.
        Ok(_) => return Ok((sent(run, part, &part.upstream, *asked.request).await?, false)),
        Err(rejection) => Err(refused(part, &rejection)),
    };
    let (reply, is_stale) = whole(answer?, part.body_max).await?;
    Ok((reply, is_stale))
}

/// The exchange of a part with its cache.
fn asked(run: &Run<'_>, part: &Part, mut request: Request<Body>) -> Exchange {
    let headers = request.headers_mut();
    // The last that is written before it goes out, see `call.rs`: whatever varies on it is known to.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // By this name it is purged. On its way it gets the endpoint's.
    headers.extend(HeaderValue::from_str(&part.upstream.name).ok().map(|name| (header::HOST, name)));
    run.errands.exchange(&run.exchange.borrow(), request, until(run, part))
}

/// Why there is no answer, where nobody says more.
fn refused(part: &Part, rejection: &Rejection) -> Failure {
    match rejection.reason {
        Reason::DeadlineExceeded if part.timeout.is_some() => Failure { is_late: true, ..Failure::of(word::TIMEOUT) },
        reason => Failure { is_late: reason.status() == StatusCode::GATEWAY_TIMEOUT, ..Failure::of(reason.slug()) },
    }
}

/// An answer, read to its end. Whether it stands in for what could not be had.
async fn whole(answer: Response<Body>, max: usize) -> Result<(Reply, bool), Failure> {
    let (head, body) = answer.into_parts();
    let is_stale = head.extensions.get::<StandsIn>().is_some();
    let body = call::read(body, max).await?;
    Ok((Reply { status: head.status, headers: head.headers, body }, is_stale))
}

/// What is stored of a part, where there is nothing newer in time.
pub(super) fn stale(run: &Run<'_>, part: &Part) -> Option<Said> {
    let cache = part.cache.as_deref().filter(|_| part.fallback.stale && part.foreach.is_none())?;
    let request = request(run, part, None).ok()?;
    let asked = asked(run, part, request);
    let (head, body) = cache.instead(&asked)?.into_parts();
    // As the store has it: whole.
    let Body::Full(body) = body else { return None };
    let reply = Reply { status: head.status, headers: head.headers, body };
    let said = said(run, part, reply, true).ok()?;
    let mut row = Row::begin(run, part, &part.upstream);
    (row.outcome, row.status) = (Some(word::STALE), Some(said.status));
    drop(row);
    Some(said)
}

/// What a part makes of an answer.
fn said(run: &Run<'_>, part: &Part, reply: Reply, is_stale: bool) -> Result<Said, Failure> {
    let status = reply.status;
    let fails = |outcome| Failure { status: Some(status), ..Failure::of(outcome) };
    if !part.accepts(status) {
        return Err(fails(word::STATUS));
    }
    // A status that says so, or that has no body by its nature.
    let is_empty = reply.body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304);
    let raw = if is_empty { Json::null() } else { Json::check(reply.body).map_err(|fault| fault_of(status, fault))? };
    let shaped = if is_empty { raw.clone() } else { part.shape.apply(&raw).ok_or(fails(word::FORM))? };
    if part.foreach.is_none()
        && !part.hidden
        && !merge::fits(run.aggregate.mode, part.key.is_some(), shaped.view().kind())
    {
        return Err(fails(word::FORM));
    }
    let mut freshness = Freshness::default();
    freshness.add(&reply.headers);
    Ok(Said { shaped, raw, status, headers: reply.headers, freshness, lacks: None, is_stale })
}

impl Said {
    fn word(&self) -> &'static str {
        match self.lacks {
            Some(failure) => failure.outcome,
            None if self.is_stale => word::STALE,
            None => word::OK,
        }
    }
}

type Work<'w> = Pin<Box<dyn Future<Output = Result<Said, Failure>> + 'w>>;

/// A request for each entry of a list, so many at once, and their answers in its order.
async fn each(run: &Run<'_>, part: &Part, upstream: &Upstream) -> Result<Said, Failure> {
    let Some(foreach) = &part.foreach else { return Err(Failure::of(word::FORM)) };
    let list = {
        let exchange = run.exchange.borrow();
        let said = |place| run.said(place);
        let known =
            Known { exchange: &exchange, request_body: run.request_body.as_ref(), said: &said, item: None, saga: None };
        let view = foreach.list.list(&known)?;
        let mut list = Vec::new();
        for item in view.items() {
            if list.len() == foreach.items_max {
                exchange.closing.limit_hit("routes.aggregate.parts.items_max");
                return Err(Failure::of(word::TOO_MANY));
            }
            list.push(Json::made(item.bytes().to_vec()));
        }
        list
    };
    let mut answers: Vec<Option<Result<Said, Failure>>> = list.iter().map(|_| None).collect();
    let mut running: Vec<(usize, Work<'_>)> = Vec::new();
    let mut next = 0;
    let mut length = 0;
    std::future::poll_fn(|cx| {
        loop {
            while next < list.len() && running.len() < foreach.concurrency {
                running.push((next, Box::pin(single(run, part, upstream, Some(list[next].view())))));
                next += 1;
            }
            let mut ended = None;
            running.retain_mut(|(place, work)| match work.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(answer) => {
                    match &answer {
                        Ok(said) => length += said.shaped.bytes().len(),
                        Err(failure) if !part.null_on_error => ended = Some(*failure),
                        Err(_) => {}
                    }
                    answers[*place] = Some(answer);
                    false
                }
            });
            if let Some(failure) = ended {
                return Poll::Ready(Err(failure));
            }
            if length > run.aggregate.body_max {
                return Poll::Ready(Err(Failure::of(word::TOO_LARGE)));
            }
            if running.is_empty() && next == list.len() {
                return Poll::Ready(Ok(()));
            }
            if running.len() == foreach.concurrency || next == list.len() {
                return Poll::Pending;
            }
        }
    })
    .await?;
    let (mut shaped, mut raw) = (Vec::with_capacity(length + list.len() + 2), Vec::new());
    let (mut shaped_list, mut raw_list) = (Writer::array(&mut shaped), Writer::array(&mut raw));
    let (mut freshness, mut headers, mut lacks) = (Freshness::default(), HeaderMap::new(), None);
    let (mut status, mut is_stale) = (StatusCode::OK, false);
    for answer in answers.into_iter().flatten() {
        match answer {
            Ok(said) => {
                shaped_list.next().extend_from_slice(said.shaped.bytes());
                if part.is_named {
                    raw_list.next().extend_from_slice(said.raw.bytes());
                }
                freshness.add(&said.headers);
                is_stale |= said.is_stale;
                (headers, status) = (said.headers, said.status);
            }
            Err(failure) => {
                shaped_list.next().extend_from_slice(b"null");
                if part.is_named {
                    raw_list.next().extend_from_slice(b"null");
                }
                lacks = lacks.or(Some(failure));
            }
        }
    }
    shaped_list.end();
    raw_list.end();
    let shaped = Json::made(shaped);
    if !part.hidden && !merge::fits(run.aggregate.mode, part.key.is_some(), Form::Array) {
        return Err(Failure::of(word::FORM));
    }
    Ok(Said { shaped, raw: Json::made(raw), status, headers, freshness, lacks, is_stale })
}

/// Makes the request of a part.
fn request(run: &Run<'_>, part: &Part, item: Option<View<'_>>) -> Result<Request<Body>, Failure> {
    let exchange = run.exchange.borrow();
    let said = |place| run.said(place);
    let known = Known { exchange: &exchange, request_body: run.request_body.as_ref(), said: &said, item, saga: None };
    Ok(part.outgoing.request(&known)?)
}

impl Part {
    fn accepts(&self, status: StatusCode) -> bool {
        accepts(&self.accept, status)
    }
}
