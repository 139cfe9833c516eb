//! Filling the cache: what is asked of the upstream on behalf of all who wait, and what becomes of its answer.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, response};
use http_body::Body as _;

use super::control::{Control, Demand, Vary};
use super::entry::{Ask, CACHE_STATUS, Entry, Head, Whole, compact, foreseen, tags};
use super::flight::{Flight, Reader};
use super::freshen::{Told, freshened};
use super::freshness::{Terms, Ttl, initial_age};
use super::key::{Codings, KeyPlan};
use super::purge::Fate;
use super::second::{Ground, Second};
use super::status::{Detail, Forward, Status, passed};
use super::storable::{Asked, Unstorable, judge, strip};
use super::store::Store;
use super::under_way::{Refresh, Reserved};
use super::validate::{self, Conditions, OF_THE_CLIENT, Part};
use crate::exchange::fetch::StandsIn;
use crate::exchange::{Arrival, Fill, Rejection, Settled};
use crate::http::body::{Body, BodyError};
use crate::telemetry::metrics::CacheMetrics;
use crate::timer::Wheel;

/// How long a reader who is a window behind may hold up the others.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What a route's cache goes by.
pub struct Rules {
    /// How keys are made.
    pub plan: KeyPlan,
    /// Lifetimes.
    pub ttl: Ttl,
    /// How long a stale response is used while it is being refreshed, where it says nothing of that.
    pub while_revalidate: Duration,
    /// The same, where the upstream fails.
    pub if_error: Duration,
    /// The longest body that is stored.
    pub entry_max: u64,
    /// How long nobody waits once a response was none to store.
    pub hit_for_miss: Duration,
    /// How long to wait for what another request fetches.
    pub wait: Duration,
    /// Cookies are taken out, and the rest is stored.
    pub strips_cookies: bool,
    /// Clients see the tags.
    pub keeps_tags: bool,
    /// What requests demand is heeded.
    pub honours: bool,
    /// The most bytes on their way in, of all routes.
    pub fills_max: u64,
    /// The most refreshes at once, of all routes.
    pub refreshes_max: u64,
    /// Where responses are kept.
    pub store: Arc<Store>,
    /// What is on its way.
    pub flights: Arc<Flights>,
    /// The route's rules, these and others.
    pub reigns: Arc<Reigns>,
    /// Since when the route has a cache that is enforced. `None`: it is in shadow.
    pub watches_since: Option<Instant>,
    /// What several armigers keep together, if they do.
    pub shared: Option<Arc<dyn Second>>,
    /// This route's answers are among it.
    pub is_shared: bool,
    /// The rules by which an answer is stored, in short: what others stored by other rules is none for this route.
    pub scope: [u8; 32],
    /// Where it is counted.
    pub metrics: CacheMetrics,
}

impl Rules {
    /// Whoever keeps this route's answers for others too.
    pub fn second(&self) -> Option<&Arc<dyn Second>> {
        self.shared.as_ref().filter(|_| self.is_shared)
    }

    /// What became of a response since it was asked for. Of what was stored before the route was without a cache nobody knows
    /// which unsafe requests came meanwhile.
    pub fn fate(&self, key: &[u8], entry: &Entry) -> Fate {
        match self.watches_since {
            Some(since) if entry.head.received < since => Fate::Dead,
            _ => self.store.fate(key, entry),
        }
    }

    /// Whether what is stored may be used in the place of an error, by a request with these demands.
    pub fn covers_error(&self, key: &[u8], entry: &Entry, demand: &Demand, now: Instant) -> bool {
        entry.head.terms.covers_error(entry.head.age(now), demand) && self.fate(key, entry) != Fate::Dead
    }

    /// What a response may be used for.
    ///
    /// # Errors
    /// For nothing: nobody says how long.
    pub fn terms(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        control: &Control,
        time: SystemTime,
    ) -> Result<Terms, Unstorable> {
        let lifetime = self.ttl.lifetime(status, headers, control, time).ok_or(Unstorable::NoLifetime)?;
        let terms = Terms::new(control, lifetime, self.while_revalidate, self.if_error);
        let is_of_use = !lifetime.is_zero()
            || !terms.while_revalidate.is_zero()
            || !terms.if_error.is_zero()
            || validate::has_validator(headers);
        if is_of_use { Ok(terms) } else { Err(Unstorable::NoLifetime) }
    }
}

/// The rules that a route's cache goes by: those in force, and those by which something that began before is still under way.
pub struct Reigns {
    /// When the first of them came into force. Kept for as long as there is a cache that sees what unsafe requests come.
    pub began: Instant,
    rules: Mutex<Vec<Weak<Rules>>>,
}

impl Reigns {
    /// None yet.
    pub fn from(began: Instant) -> Self {
        Self { began, rules: Mutex::default() }
    }

    /// These are among them from now on, for as long as they are of use.
    pub fn begin(&self, rules: &Arc<Rules>) {
        let mut reigns = self.lock();
        reigns.retain(|rules| rules.strong_count() > 0);
        reigns.push(Arc::downgrade(rules));
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Rules>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Rules>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is on its way to a route's cache, by key. As many as requests in flight and refreshes, at most.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<Box<[u8]>, Arc<Flight>>>);

impl Flights {
    /// The flights, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for the fill itself: the exchange that began it.
pub struct Client {
    /// Its place among those who wait.
    pub reader: Reader,
    /// What it has already.
    pub conditions: Conditions,
    /// What it demands.
    pub demand: Demand,
}

/// An answer that is asked for to be stored.
pub struct Filling {
    /// The route's rules.
    pub rules: Arc<Rules>,
    /// The key.
    pub key: Box<[u8]>,
    /// Where others wait.
    pub flight: Arc<Flight>,
    /// The name under which others find the flight.
    pub listed: Option<Box<[u8]>>,
    /// What is stored, and may be asked about.
    pub stale: Option<Arc<Entry>>,
    /// Who began it. `None`: a refresh.
    pub client: Option<Client>,
    /// Why it is asked for.
    pub forward: Forward,
    /// The request has credentials that the key does not cover.
    pub is_credentialed: bool,
    /// As of when it is asked for, in the terms of what is shared.
    pub ground: Option<Ground>,
    /// A refresh's place.
    pub refresh: Option<Refresh>,
    /// Headers of the request as it came.
    pub asked: HeaderMap,
    /// The upstream was asked whether what is stored is still good.
    pub is_conditional: bool,
    /// Headers that the upstream saw, and that differ from those of the request.
    pub altered: Vec<HeaderName>,
    /// It was released, or its head is known.
    pub is_settled: bool,
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.unlist();
        if !self.is_settled {
            self.flight.release(Unstorable::Failed);
        }
    }
}

impl Fill for Filling {
    fn ask(&mut self, request: &mut Request<Body>) {
        debug_assert!(matches!(request.body(), Body::Empty), "what others get too is asked for without a body");
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        self.asked = headers.clone();
        for name in &OF_THE_CLIENT {
            headers.remove(name);
        }
        if self.client.is_none() {
            headers.remove(header::CACHE_CONTROL);
            headers.remove(header::PRAGMA);
        }
        self.is_conditional = self.stale.as_ref().is_some_and(|stale| validate::ask(&stale.head.headers, headers));
    }

    fn sent(&mut self, headers: &HeaderMap) {
        let differs = |name: &&HeaderName| {
            let (before, after) = (self.asked.get_all(*name), headers.get_all(*name));
            !OF_THE_CLIENT.contains(name) && before.iter().ne(after.iter())
        };
        self.altered = headers.keys().filter(differs).cloned().collect();
    }

    fn left(&mut self) {
        self.client = None;
    }

    fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.refresh.is_some() { Poll::Pending } else { self.flight.poll_deserted(cx) }
    }

    fn settle(self: Box<Self>, outcome: Result<Response<Body>, Rejection>, arrival: Arrival) -> Settled {
        let response = match outcome {
            Ok(response) => response,
            Err(rejection) if rejection.reason.status().is_server_error() => {
                self.rules.metrics.filled(Unstorable::Failed.word());
                return match self.instead_of_error(arrival.now, Status::Told(Detail::Error)) {
                    Some(answer) => self.released(Unstorable::Failed, Some(Ok(answer))),
                    None => self.released(Unstorable::Failed, Some(Err(rejection))),
                };
            }
            Err(rejection) => return self.released(Unstorable::Failed, Some(Err(rejection))),
        };
        let status = response.status();
        if self.is_conditional && status == StatusCode::NOT_MODIFIED {
            return self.revalidated(response.headers(), &arrival);
        }
        if matches!(status.as_u16(), 500 | 502 | 503 | 504)
            && let Some(answer) = self.instead_of_error(arrival.now, Status::Covers(status))
        {
            self.rules.metrics.filled(Unstorable::Failed.word());
            return self.released(Unstorable::Failed, Some(Ok(answer)));
        }
        self.fetched(response, arrival)
    }
}

impl Filling {
    fn unlist(&mut self) {
        if let Some(name) = self.listed.take() {
            let mut flights = self.rules.flights.lock();
            // Another may have taken its place: after a purge nobody waits for what began before.
            if flights.get(&name).is_some_and(|known| Arc::ptr_eq(known, &self.flight)) {
                flights.remove(&name);
            }
        }
    }

    /// The others are told that there is nothing for them.
    fn released(mut self, why: Unstorable, answer: Option<Result<Response<Body>, Rejection>>) -> Settled {
        self.unlist();
        self.flight.release(why);
        self.is_settled = true;
        Settled { answer: answer.filter(|_| self.client.is_some()), rest: None }
    }

    /// What is stored, in the place of an error.
    fn instead_of_error(&self, now: Instant, status: Status) -> Option<Response<Body>> {
        let stale = self.stale.as_ref()?;
        let demand = self.client.as_ref().map(|client| client.demand).unwrap_or_default();
        self.rules.covers_error(&self.key, stale, &demand, now).then(|| {
            self.rules.metrics.stale();
            let mut answer = self.answer(stale, now, status);
            answer.extensions_mut().insert(StandsIn);
            answer
        })
    }

    fn answer(&self, entry: &Entry, now: Instant, status: Status) -> Response<Body> {
        let conditions = self.client.as_ref().map(|client| &client.conditions);
        entry.head.answer(Whole::Here(entry.body.clone()), &Ask { conditions, is_head: false, now }, status)
    }

    /// The upstream says that what is stored is still good (RFC 9111 §4.3.4).
    fn revalidated(mut self, told: &HeaderMap, arrival: &Arrival) -> Settled {
        let Some(stale) = self.stale.take() else { return self.released(Unstorable::Failed, None) };
        let status = Status::Stored { forward: self.forward, is_revalidated: true, is_collapsed: false };
        let when = Told {
            now: arrival.now,
            time: arrival.time,
            delay: arrival.delay,
            epoch: self.flight.epoch,
            since: self.flight.since,
        };
        let freshened = match validate::is_about(&stale.head.headers, told) {
            true => freshened(&self.rules, &stale, told, self.demanded(), &when),
            false => Err(Unstorable::Failed),
        };
        let entry = match freshened {
            Ok(entry) => entry,
            // Good for who asked, and no more.
            Err(why) => {
                self.rules.metrics.filled(why.word());
                // What callers with credentials are told says nothing of what others would be.
                if why != Unstorable::Credentials {
                    self.rules.store.remove(&self.key, &stale);
                }
                let mut answer = self.answer(&stale, arrival.now, Status::Checked(self.forward, why));
                self.add_cookies(told, &mut answer);
                return self.released(why, Some(Ok(answer)));
            }
        };
        let is_kept = self.rules.store.put(&self.key, entry.clone());
        self.rules.metrics.filled(if is_kept { "revalidated" } else { Unstorable::Purged.word() });
        let mut answer = self.answer(&entry, arrival.now, status);
        self.add_cookies(told, &mut answer);
        self.land(&entry);
        let answer = self.client.is_some().then_some(Ok(answer));
        if !is_kept || self.ground.is_none() {
            return Settled { answer, rest: None };
        }
        let wheel = arrival.wheel.clone();
        Settled { answer, rest: Some(Box::pin(async move { self.share(&entry, &wheel).await })) }
    }

    /// Cookies that a 304 sets are for who asked, and for nobody else.
    fn add_cookies(&self, told: &HeaderMap, answer: &mut Response<Body>) {
        if !self.rules.strips_cookies {
            let cookies = told.get_all(header::SET_COOKIE).iter().cloned();
            answer.headers_mut().extend(cookies.map(|cookie| (header::SET_COOKIE, cookie)));
        }
    }

    /// All who wait get what another armiger fetched.
    pub fn land(&mut self, entry: &Entry) {
        self.flight.begin(entry.head.clone());
        self.flight.push(entry.body.clone());
        self.flight.end(Ok(()));
        self.is_settled = true;
        self.unlist();
    }

    /// Keeps it for other armigers too.
    async fn share(&self, entry: &Entry, wheel: &Wheel) {
        if let (Some(second), Some(ground)) = (self.rules.second(), self.ground) {
            second.put(&self.rules.scope, &self.key, entry, ground, wheel).await;
        }
    }

    fn demanded(&self) -> Asked {
        Asked { is_credentialed: self.is_credentialed, strips_cookies: self.rules.strips_cookies }
    }

    /// What of the response makes it one to store.
    fn judged(
        &self,
        parts: &response::Parts,
        body: &Body,
        control: &Control,
        time: SystemTime,
    ) -> Result<(Terms, Vec<HeaderName>, Reserved), Unstorable> {
        let vary = Vary::of(&parts.headers);
        judge(parts.status, &parts.headers, control, &vary, self.demanded())?;
        let mut names = foreseen(vary).ok_or(Unstorable::Vary)?;
        let plan = &self.rules.plan;
        // A coded body is for those who take its coding, whether the upstream says so or not.
        let is_coded = parts.headers.get(header::CONTENT_ENCODING).is_some_and(Codings::are_told_apart);
        if is_coded && !names.contains(&header::ACCEPT_ENCODING) && !self.altered.contains(&header::ACCEPT_ENCODING) {
            names.push(header::ACCEPT_ENCODING);
            names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        }
        let is_foreseen =
            |name: &HeaderName| plan.hidden.contains(name) || (plan.foresees(name) && !self.altered.contains(name));
        let takes = || Codings::of(&self.asked).take(parts.headers.get(header::CONTENT_ENCODING));
        if !names.iter().all(is_foreseen) || (names.contains(&header::ACCEPT_ENCODING) && !takes()) {
            return Err(Unstorable::Vary);
        }
        let terms = self.rules.terms(parts.status, &parts.headers, control, time)?;
        let hint = body.size_hint();
        if hint.lower() > self.rules.entry_max {
            return Err(Unstorable::TooLong);
        }
        let mut reserved = self.rules.store.under_way.reserve(self.rules.fills_max);
        if !reserved.grow(hint.lower()) {
            self.rules.metrics.limit_hit("cache.fills_max");
            return Err(Unstorable::NoRoom);
        }
        Ok((terms, names, reserved))
    }

    /// A response of its own.
    fn fetched(mut self, response: Response<Body>, arrival: Arrival) -> Settled {
        let (mut parts, body) = response.into_parts();
        let control = Control::of(&parts.headers);
        let (terms, names, reserved) = match self.judged(&parts, &body, &control, arrival.time) {
            Ok(judged) => judged,
            Err(why) => return self.unstorable(parts, body, why, arrival.now),
        };
        let tags = tags(&mut parts.headers, self.rules.keeps_tags);
        if !parts.headers.contains_key(header::DATE)
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(arrival.time))
        {
            // RFC 9110 §6.6.1.
            parts.headers.insert(header::DATE, date);
        }
        let initial_age = initial_age(&parts.headers, arrival.time, arrival.delay);
        let mut headers = parts.headers.clone();
        strip(&mut headers, &control);
        let head = Arc::new(Head {
            status: parts.status,
            length: body.size_hint().exact().and_then(|length| usize::try_from(length).ok()),
            variant: self.rules.plan.variant(&names, &self.asked).as_slice().into(),
            vary: names,
            terms,
            initial_age,
            headers: compact(&headers),
            received: arrival.now,
            received_at: arrival.time,
            epoch: self.flight.epoch,
            since: self.flight.since,
            tags,
            said: Default::default(),
        });
        self.flight.begin(head.clone());
        self.is_settled = true;
        let status = Status::Stored { forward: self.forward, is_revalidated: false, is_collapsed: false };
        let answer =
            self.client.take().map(|client| Ok(self.first_answer(client, parts.headers, &head, arrival.now, status)));
        let rest = pump(self, body, head, reserved, arrival.wheel);
        Settled { answer, rest: Some(Box::pin(rest)) }
    }

    /// The answer to who began it: with what of the head is not for others.
    fn first_answer(
        &self,
        client: Client,
        mut own: HeaderMap,
        head: &Head,
        now: Instant,
        status: Status,
    ) -> Response<Body> {
        let Client { reader, conditions, .. } = client;
        let part = conditions.part(head.status, &head.headers, None, head.received_at, true);
        let ask = Ask { conditions: Some(&conditions), is_head: false, now };
        let mut answer = head.answer(reader.into_body(head), &ask, status);
        if part == Part::Whole {
            if self.rules.strips_cookies {
                own.remove(header::SET_COOKIE);
            }
            own.append(&CACHE_STATUS, status.value(head.ttl(now)));
            *answer.headers_mut() = own;
        }
        answer
    }

    /// A response that is not stored: for who began it alone.
    fn unstorable(self, mut parts: response::Parts, body: Body, why: Unstorable, now: Instant) -> Settled {
        self.rules.metrics.filled(why.word());
        // What callers with credentials get says nothing of what others would.
        if why.lasts() && !self.is_credentialed {
            let stale = self.stale.as_ref().filter(|_| !parts.status.is_server_error());
            self.rules.store.pass(&self.key, stale, now + self.rules.hit_for_miss, why);
        } else if why.lasts() {
            self.rules.store.tell(&self.key, why);
        }
        tags(&mut parts.headers, self.rules.keeps_tags);
        parts.headers.append(&CACHE_STATUS, passed(self.forward, Some(why)));
        self.released(why, Some(Ok(Response::from_parts(parts, body))))
    }
}

/// Reads the answer's body for all who wait, and stores it in the end.
async fn pump(mut fill: Filling, mut body: Body, head: Arc<Head>, reserved: Reserved, wheel: Wheel) {
    // Given up with the rest of the fill where its task is dropped, and then the readers are told.
    let mut guard = Ending { flight: fill.flight.clone(), is_over: false };
    let (mut reserved, announced) = (Some(reserved), head.length);
    let (mut read, mut is_refused) = (0_u64, None);
    loop {
        let is_refresh = fill.refresh.is_some();
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Pending if !is_refresh => fill.flight.poll_deserted(cx).map(|()| Err(())),
            polled => polled.map(Ok),
        });
        let Ok(frame) = frame.await else {
            fill.rules.metrics.filled("deserted");
            return;
        };
        match frame {
            None => break,
            Some(Err(error)) => {
                fill.unlist();
                fill.rules.metrics.filled(Unstorable::Failed.word());
                guard.end(Err(error));
                return;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    read += data.len() as u64;
                    let is_unannounced = announced.is_none_or(|announced| read > announced as u64);
                    if let Some(room) = &mut reserved
                        && let Err(why) = grow(room, data.len(), is_unannounced, read, &fill.rules)
                    {
                        // From here on it is passed on, and let go of.
                        (reserved, is_refused) = (None, Some(why));
                        fill.unlist();
                        fill.rules.store.pass(&fill.key, None, wheel.now() + fill.rules.hit_for_miss, why);
                        fill.flight.loosen();
                    }
                    fill.flight.push(data);
                }
                // Trailers: what stands in them cannot be had again.
                Err(_) => (reserved, is_refused) = (None, Some(Unstorable::Stream)),
            },
        }
        if announced.is_some_and(|announced| read == announced as u64) || body.is_end_stream() {
            break;
        }
        if reserved.is_none() {
            room(&fill.flight, &wheel).await;
        }
    }
    let is_whole = announced.is_none_or(|announced| announced as u64 == read);
    let mut kept = None;
    let outcome = match is_refused {
        Some(why) => why.word(),
        None if !is_whole => Unstorable::Failed.word(),
        None => {
            let chunks = fill.flight.chunks();
            // In an allocation of its own, or it would keep the buffers that it was read into.
            let whole = Bytes::from(chunks.concat().into_boxed_slice());
            // What slow readers still hold is then what the store holds.
            fill.flight.exchange(&whole);
            let entry = Arc::new(Entry::new(head, whole));
            match fill.rules.store.put(&fill.key, entry.clone()) {
                true => {
                    kept = Some(entry);
                    "stored"
                }
                false => Unstorable::Purged.word(),
            }
        }
    };
    fill.rules.metrics.filled(outcome);
    // Stored first: whoever comes between the two finds it.
    fill.unlist();
    guard.end(Ok(()));
    if let Some(entry) = kept {
        // Nobody waits for this: all of it is with who asked.
        fill.share(&entry, &wheel).await;
    }
}

/// Room for more of a body.
fn grow(room: &mut Reserved, by: usize, is_unannounced: bool, read: u64, rules: &Rules) -> Result<(), Unstorable> {
    if read > rules.entry_max {
        Err(Unstorable::TooLong)
    } else if is_unannounced && !room.grow(by as u64) {
        rules.metrics.limit_hit("cache.fills_max");
        Err(Unstorable::NoRoom)
    } else {
        Ok(())
    }
}

/// Waits for the slowest reader, but not for ever.
async fn room(flight: &Flight, wheel: &Wheel) {
    let mut timer = wheel.timer();
    poll_fn(|cx| {
        loop {
            if flight.poll_room(cx).is_ready() {
                return Poll::Ready(());
            }
            if timer.poll_expired(cx).is_ready() {
                flight.outrun();
                timer.arm(STALL_MAX);
            } else {
                if !timer.is_armed() {
                    timer.arm(STALL_MAX);
                }
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Tells the readers of a flight how it ended, be it by a drop.
struct Ending {
    flight: Arc<Flight>,
    is_over: bool,
}

impl Ending {
    fn end(&mut self, end: Result<(), BodyError>) {
        self.is_over = true;
        self.flight.end(end);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.is_over {
            self.flight.end(Err(BodyError::UpstreamCut));
        }
    }
}
