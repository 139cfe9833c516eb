//! Runs the requests of a batch, each through the whole walk: the one recursion, boxed here.
//!
//! Requests are futures within the batch's own, or within the body of its answer: whoever drops that, drops them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Frame;
use http_body_util::BodyExt;

use super::{Inlet, Worker};
use crate::action::Coding;
use crate::action::batch::{self, Batch, Item};
use crate::exchange::{self, Exchange, Reason, Rejection};
use crate::http::body::{Body, BodyError};
use crate::http::problem::Form;
use crate::telemetry::trace::RequestId;
use crate::timer::Timer;

/// The media type of answers that go out one by one.
const NDJSON: &str = "application/x-ndjson";

/// The bound of all answers together.
const ANSWER_MAX: &str = "routes.batch.answer_max";

/// Answers a batch. `received` are the headers that it came with, before any policy changed them.
pub(super) async fn run(
    batch: &Batch,
    exchange: &mut Exchange,
    received: &HeaderMap,
    worker: &Rc<Worker>,
    inlet: &Rc<Inlet>,
) -> Result<Response<Body>, Rejection> {
    if Form::of(exchange.headers()) == Form::Grpc {
        return Err(Rejection::from(Reason::NotImplemented).detail("This route answers with JSON, and speaks no gRPC."));
    }
    exchange.remember_form();
    let coding = Coding::of_request(received)?;
    let body = std::mem::take(exchange.request.body_mut());
    let body = read(body, batch.body_max).await.map_err(|error| match error {
        Some(BodyError::ClientSlow) => Rejection::from(Reason::RequestTimeout),
        Some(BodyError::ClientTooSlow) => Rejection::from(Reason::RequestTooSlow),
        Some(BodyError::ClientMalformed) => Rejection::from(Reason::BadFraming),
        Some(BodyError::TooLarge) => Rejection::from(Reason::BodyTooLarge),
        Some(_) => Rejection::from(Reason::ClientClosed),
        None => Rejection { limit: Some("routes.batch.body_max"), ..Rejection::from(Reason::BodyTooLarge) },
    })?;
    let body = coding.open_request(body, batch.body_max, "routes.batch.body_max").await?;
    let items = batch.items(body, received)?;
    let accepts = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.contains(NDJSON));
    let is_streamed = batch.ndjson && received.get_all(header::ACCEPT).iter().any(accepts);
    let mut deadline = exchange.wheel.timer();
    deadline.arm_at(exchange.started + batch.deadline);
    let work = Work {
        worker: worker.clone(),
        inlet: inlet.clone(),
        batch: *batch,
        is_streamed,
        id: exchange.closing.record.request_id.clone(),
        count: items.len(),
        waiting: items.into_iter().enumerate().collect(),
        running: Vec::new(),
        deadline,
    };
    if is_streamed {
        let body = Body::Other(Box::new(Stream { work, left: batch.answer_max }));
        return Ok(Response::from_parts(batch::head(NDJSON), body));
    }
    let body = together(work).await;
    Ok(Response::from_parts(batch::head("application/json"), Body::full(body)))
}

/// All answers, in the order of their requests.
async fn together(mut work: Work) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = vec![Vec::new(); work.count];
    while let Some((place, entry)) = std::future::poll_fn(|cx| work.poll_next(cx)).await {
        entries[place] = entry;
    }
    let mut out = vec![b'['];
    let mut left = work.batch.answer_max;
    for (place, entry) in entries.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        match left.checked_sub(entry.len()) {
            Some(rest) => {
                left = rest;
                out.extend_from_slice(&entry);
            }
            // Without its id: it may be what is too long. The order tells.
            None => out.extend_from_slice(&work.refusal(place, None, too_large(ANSWER_MAX))),
        }
    }
    out.push(b']');
    out
}

fn too_large(limit: &'static str) -> Rejection {
    Rejection { limit: Some(limit), ..Reason::AnswerTooLarge.into() }
}

type Running = Pin<Box<dyn Future<Output = Vec<u8>>>>;

/// The requests of a batch that are not over.
struct Work {
    worker: Rc<Worker>,
    inlet: Rc<Inlet>,
    batch: Batch,
    is_streamed: bool,
    /// The batch's own.
    id: Option<RequestId>,
    count: usize,
    waiting: VecDeque<(usize, Item)>,
    running: Vec<(usize, Option<crate::action::Json>, Running)>,
    deadline: Timer,
}

impl Work {
    /// The next answer that is there.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Vec<u8>)>> {
        if self.waiting.is_empty() && self.running.is_empty() {
            return Poll::Ready(None);
        }
        let is_late = self.deadline.poll_expired(cx).is_ready();
        if is_late {
            // All that are left say so, one after the other.
            self.deadline.arm(std::time::Duration::ZERO);
            let late = self.running.pop().map(|(place, id, running)| {
                self.worker.log.give_up(Reason::DeadlineExceeded.slug(), running);
                (place, id)
            });
            let late = late.or_else(|| self.waiting.pop_front().map(|(place, item)| (place, item.id)));
            let rejection = Rejection { limit: Some("routes.batch.deadline"), ..Reason::DeadlineExceeded.into() };
            return Poll::Ready(late.map(|(place, id)| (place, self.refusal(place, id.as_ref(), rejection))));
        }
        while self.running.len() < self.batch.concurrency
            && let Some((place, item)) = self.waiting.pop_front()
        {
            match item.request {
                Ok(request) => {
                    let running = self.begin(place, item.id.clone(), request);
                    self.running.push((place, item.id, running));
                }
                Err(rejection) => {
                    return Poll::Ready(Some((place, self.refusal(place, item.id.as_ref(), rejection))));
                }
            }
        }
        let ended =
            self.running.iter_mut().enumerate().find_map(|(at, (place, _, running))| match running.as_mut().poll(cx) {
                Poll::Ready(bytes) => Some((at, *place, bytes)),
                Poll::Pending => None,
            });
        let Some((at, place, bytes)) = ended else { return Poll::Pending };
        drop(self.running.swap_remove(at));
        Poll::Ready(Some((place, bytes)))
    }

    fn begin(&self, place: usize, id: Option<crate::action::Json>, request: Request<Body>) -> Running {
        let (worker, inlet) = (self.worker.clone(), self.inlet.clone());
        let (within, index, max) = (self.id_of(place), self.index(place), self.batch.item_answer_max);
        let is_head = *request.method() == Method::HEAD;
        Box::pin(async move {
            let response = super::answer(worker.clone(), inlet, Box::new(request), Some(within.clone())).await;
            let (head, mut body) = response.into_parts();
            match read(&mut body, max).await {
                // On a connection the codec would see to it.
                Ok(_) if is_head => batch::entry(id.as_ref(), index, &head, Bytes::new()),
                Ok(body) => batch::entry(id.as_ref(), index, &head, body),
                // Cut short, it is none.
                Err(Some(_)) => refusal(&worker, &within, id.as_ref(), index, Reason::UpstreamReset.into()),
                Err(None) => {
                    worker.log.give_up(Reason::AnswerTooLarge.slug(), body);
                    refusal(&worker, &within, id.as_ref(), index, too_large("routes.batch.item_answer_max"))
                }
            }
        })
    }

    /// The id of a request: the batch's, and its place.
    fn id_of(&self, place: usize) -> RequestId {
        let outer = self.id.as_ref().map_or("", RequestId::as_str);
        HeaderValue::try_from(format!("{outer}.{place}"))
            .ok()
            .and_then(|id| RequestId::from_inbound(&id))
            .or_else(|| self.id.clone())
            .unwrap_or_else(|| RequestId::new(std::time::UNIX_EPOCH))
    }

    fn index(&self, place: usize) -> Option<usize> {
        self.is_streamed.then_some(place)
    }

    fn refusal(&self, place: usize, id: Option<&crate::action::Json>, rejection: Rejection) -> Vec<u8> {
        refusal(&self.worker, &self.id_of(place), id, self.index(place), rejection)
    }
}

/// What stands in the place of a request that has no answer of its own.
fn refusal(
    worker: &Worker,
    within: &RequestId,
    id: Option<&crate::action::Json>,
    index: Option<usize>,
    rejection: Rejection,
) -> Vec<u8> {
    if let Some(limit) = rejection.limit {
        worker.log.limit_hit(limit);
    }
    let (head, body) = exchange::refusal(rejection, Form::Json, within.as_str()).into_parts();
    let body = match body {
        Body::Full(bytes) => bytes,
        _ => Bytes::new(),
    };
    batch::entry(id, index, &head, body)
}

/// Reads a body to its end. An error without a cause: it is too long.
async fn read<B>(mut body: B, max: usize) -> Result<Bytes, Option<BodyError>>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    if body.size_hint().lower() > max as u64 {
        return Err(None);
    }
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Some)?.into_data() else { continue };
        if out.len() + data.len() > max {
            return Err(None);
        }
        out.extend_from_slice(&data);
    }
    Ok(out.freeze())
}

/// Answers, one per line, as they come.
struct Stream {
    work: Work,
    /// How many bytes may still go out.
    left: usize,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.work.poll_next(cx).map(|next| {
            let (place, entry) = next?;
            let mut line = match this.left.checked_sub(entry.len()) {
                Some(left) => {
                    this.left = left;
                    entry
                }
                None => this.work.refusal(place, None, too_large(ANSWER_MAX)),
            };
            line.push(b'\n');
            Some(Ok(Frame::data(line.into())))
        })
    }
}
