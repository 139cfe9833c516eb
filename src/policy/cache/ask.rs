//! What becomes of a request: answered from what is stored, fetched for all who wait, or passed on untouched.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, header};

use super::by_head::ByHead;
use super::control::Demand;
use super::entry::{Ask, CACHE_STATUS, Entry, Head, Shelf, Whole, compact, tags};
use super::fill::{Client, Filling, Rules};
use super::flight::{Flight, Landed, Reader};
use super::freshness::Usable;
use super::key::{self, Target};
use super::purge::Fate;
use super::second::{Found, Wanted};
use super::status::{Detail, Forward, Status, not_cached, passed};
use super::storable::{Asked, Unstorable};
use super::validate::{Conditions, FOR_UPSTREAM, OF_THE_CLIENT};
use crate::exchange::fetch::{Deciding, StandsIn};
use crate::exchange::{Exchange, Fetch, Reason, Rejection, Verdict};
use crate::http::body::Body;
use crate::http::path;
use crate::upstream::{Progress, Reached};

/// How often a request waits for others before it asks for itself: each time it was another variant that came.
const WAITS_MAX: usize = 3;

/// A request that the cache may answer.
struct Request<'e> {
    exchange: &'e Exchange,
    rules: &'e Arc<Rules>,
    key: key::Bytes,
    demand: Demand,
    conditions: Conditions,
    is_head: bool,
    is_credentialed: bool,
}

/// Whose turn it is to fetch.
enum Turn {
    /// This request's.
    Lead(Arc<Flight>),
    /// Another's.
    Wait(Reader),
    /// Nobody's any more: it is stored.
    Look,
}

/// What of a request's headers a cache has to look at: found by one walk, for each look-up costs as much.
#[derive(Default)]
struct Has {
    /// It asks for a tunnel, which is no answer, under conditions that are the upstream's to judge, or for what no key tells.
    other: bool,
    /// It says what is to be done with what is stored.
    demands: bool,
    /// It says what the client has, or that it wants a part.
    conditions: bool,
    /// It may have credentials.
    unusual: bool,
}

/// Headers of nearly every request, of which none makes a difference here.
const USUAL: [HeaderName; 6] = [
    header::HOST,
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_LENGTH,
];

impl Has {
    fn of(headers: &HeaderMap) -> Self {
        let mut has = Self::default();
        for name in headers.keys().filter(|name| !USUAL.contains(name)) {
            has.unusual = true;
            has.other |= matches!(*name, header::UPGRADE | header::SEC_WEBSOCKET_KEY)
                || FOR_UPSTREAM.contains(name)
                || key::overrides(name);
            has.demands |= matches!(*name, header::CACHE_CONTROL | header::PRAGMA);
            has.conditions |= OF_THE_CLIENT.contains(name);
        }
        has
    }
}

/// Decides about a request.
pub(super) async fn ask(rules: &Arc<Rules>, exchange: &Exchange, is_shadow: bool) -> Result<Verdict, Rejection> {
    match look(rules, exchange, is_shadow) {
        Ok(verdict) => Ok(verdict),
        Err(deciding) => deciding.await,
    }
}

/// Decides at once, or says how it will be decided: in a box, which what is stored is given without, and would carry about.
pub(super) fn look<'e>(
    rules: &'e Arc<Rules>,
    exchange: &'e Exchange,
    is_shadow: bool,
) -> Result<Verdict, Deciding<'e>> {
    let (method, headers) = (exchange.request.method(), exchange.headers());
    let is_head = *method == Method::HEAD;
    if *method != Method::GET && !is_head {
        return Ok(if is_shadow { Verdict::Pass } else { unsafe_method(rules, exchange) });
    }
    let has = Has::of(headers);
    // A body makes another question.
    let is_other = has.other || !matches!(exchange.request.body(), Body::Empty);
    let demand = if rules.honours && has.demands { Demand::of(headers) } else { Demand::default() };
    let key = if is_other || demand.no_store { Err(key::NoKey) } else { rules.plan.key(exchange) };
    let Ok(key) = key else { return Ok(bypass(rules, Forward::Bypass, is_shadow)) };
    let request = Request {
        exchange,
        rules,
        key,
        demand,
        conditions: if has.conditions { Conditions::of(headers) } else { Conditions::default() },
        is_head,
        is_credentialed: (has.unusual || exchange.caller.is_some()) && rules.plan.is_credentialed(exchange),
    };
    if is_shadow {
        let found = request.find(rules.store.get(&request.key).as_deref());
        let is_fresh = |entry: &Arc<Entry>| request.usable(entry, exchange.started) == Usable::Fresh;
        return Ok(match found.filter(is_fresh) {
            Some(entry) => Verdict::answer(request.answer(&entry, exchange.started, Status::Hit)),
            None => Verdict::Pass,
        });
    }
    if let Some(answer) = request.hit() {
        return Ok(Verdict::answer(answer));
    }
    Err(Box::pin(request.decide()))
}

/// What may stand in for an answer to this request that could not be had in time.
pub(super) fn instead(rules: &Arc<Rules>, exchange: &Exchange) -> Option<Response<Body>> {
    if exchange.headers().keys().any(key::overrides) {
        return None;
    }
    let key = rules.plan.key(exchange).ok()?;
    let request = Request {
        exchange,
        rules,
        key,
        demand: Demand::default(),
        conditions: Conditions::default(),
        is_head: false,
        is_credentialed: rules.plan.is_credentialed(exchange),
    };
    let entry = request.find(rules.store.get(&request.key).as_deref())?;
    request.instead(&entry, Instant::now())
}

impl Request<'_> {
    /// The answer, if it is here and fresh.
    fn hit(&self) -> Option<Response<Body>> {
        let shelf = self.rules.store.get(&self.key)?;
        let (entry, fate) = self.found(&shelf)?;
        let now = self.exchange.started;
        let usable = entry.head.terms.usable(entry.head.age(now), fate == Fate::Stale, &self.demand);
        (usable == Usable::Fresh).then(|| {
            self.rules.metrics.hit();
            self.answer(entry, now, Status::Hit)
        })
    }

    async fn decide(self) -> Result<Verdict, Rejection> {
        let rules = self.rules;
        let mut now = self.exchange.started;
        let mut waits = 0;
        let mut is_alone = self.is_credentialed || self.demand.no_cache || self.demand.max_age.is_some();
        loop {
            let shelf = rules.store.get(&self.key);
            let entry = self.find(shelf.as_deref());
            let usable = entry.as_ref().map(|entry| self.usable(entry, now));
            match (&entry, usable) {
                (Some(entry), Some(Usable::Fresh)) => {
                    rules.metrics.hit();
                    return Ok(Verdict::answer(self.answer(entry, now, Status::Hit)));
                }
                (Some(entry), Some(Usable::Stale)) => {
                    rules.metrics.stale();
                    return Ok(Verdict::answer(self.answer(entry, now, Status::Told(Detail::MaxStale))));
                }
                (Some(entry), Some(Usable::WhileRevalidating)) => {
                    rules.metrics.stale();
                    let answer = self.answer(entry, now, Status::Told(Detail::Revalidating));
                    return Ok(self.refresh(entry, shelf.as_ref(), answer));
                }
                _ => {}
            }
            if self.demand.only_if_cached {
                rules.metrics.bypassed();
                return Err(Rejection::from(Reason::NotCached).header(CACHE_STATUS.clone(), not_cached()));
            }
            let forward = self.forward(entry.as_deref(), shelf.as_deref(), now);
            let passes = shelf.as_deref().and_then(|shelf| shelf.pass_until).is_some_and(|until| now < until);
            // What the client has, and the part that it wants, the upstream may know how to use; the whole answer, which others
            // could use too, would be too much to ask where it will not be stored, or for a part.
            let is_own = self.is_head
                || (entry.is_none()
                    && !self.conditions.are_none()
                    && (passes || self.is_credentialed || self.exchange.headers().contains_key(header::RANGE)));
            if is_own {
                return Ok(match entry {
                    Some(entry) => self.ask_by_head(entry, forward),
                    None => bypass(rules, forward, false),
                });
            }
            is_alone |= passes;
            if is_alone || waits >= WAITS_MAX {
                return Ok(self.fetch(self.fill(self.flight(), None, entry, forward)));
            }
            let name = self.flight_name(shelf.as_deref());
            let reader = match self.join_or_lead(&name, shelf.as_ref()) {
                Turn::Lead(flight) => {
                    let fill = self.fill(flight, Some(name), entry, forward);
                    if rules.second().is_none() {
                        return Ok(self.fetch(fill));
                    }
                    // In a box: it is large, and few routes have it.
                    return Ok(match Box::pin(self.look_elsewhere(fill)).await {
                        Ok(answer) => Verdict::answer(answer),
                        Err(fill) => self.fetch(fill),
                    });
                }
                Turn::Wait(reader) => reader,
                Turn::Look => continue,
            };
            waits += 1;
            match self.wait(reader).await {
                Some((Landed::Coming(head), reader)) => {
                    now = Instant::now();
                    if let Some(answer) = self.share(&head, reader, now, forward) {
                        return Ok(Verdict::answer(answer));
                    }
                }
                Some((Landed::Released(why), _)) => {
                    now = Instant::now();
                    is_alone = true;
                    if why == Unstorable::Failed
                        && let Some(answer) = entry.and_then(|entry| self.instead(&entry, now))
                    {
                        return Ok(Verdict::answer(answer));
                    }
                }
                // The one that fetches takes too long.
                None => {
                    now = Instant::now();
                    is_alone = true;
                }
            }
        }
    }

    /// Asks the upstream for the head alone, which tells of what is stored too.
    fn ask_by_head(&self, entry: Arc<Entry>, forward: Forward) -> Verdict {
        let rules = self.rules.clone();
        rules.metrics.bypassed();
        let asked = Asked { is_credentialed: self.is_credentialed, strips_cookies: rules.strips_cookies };
        let fates = &self.rules.store.fates;
        let (epoch, since) = (fates.purges.epoch(), fates.invalid.since(&self.key));
        let key = self.key.as_slice().into();
        let (demand, conditions) = (self.demand, self.conditions.clone());
        let fill = ByHead { rules, key, entry, forward, demand, conditions, asked, epoch, since, is_unwanted: false };
        Verdict::Fetch(Fetch { fill: Box::new(fill), answer: None })
    }

    /// What is stored for this request, and alive.
    fn find(&self, shelf: Option<&Shelf>) -> Option<Arc<Entry>> {
        self.found(shelf?).map(|(entry, _)| entry.clone())
    }

    /// The same, and what purges made of it.
    fn found<'s>(&self, shelf: &'s Shelf) -> Option<(&'s Arc<Entry>, Fate)> {
        let entry = match shelf.vary.as_slice() {
            [] => shelf.variants.first()?,
            names => shelf.find(&self.rules.plan.variant(names, self.exchange.headers()))?,
        };
        // What others got without credentials is not for one with them, unless it says so.
        if self.is_credentialed && !entry.head.terms.is_for_all {
            return None;
        }
        let fate = self.rules.fate(&self.key, entry);
        (fate != Fate::Dead).then_some((entry, fate))
    }

    fn usable(&self, entry: &Entry, now: Instant) -> Usable {
        let is_soft = self.rules.fate(&self.key, entry) == Fate::Stale;
        entry.head.terms.usable(entry.head.age(now), is_soft, &self.demand)
    }

    /// Why what is stored is no answer, `entry` being what is stored for this request.
    fn forward(&self, entry: Option<&Entry>, shelf: Option<&Shelf>, now: Instant) -> Forward {
        let Some(entry) = entry else {
            let is_alive = |entry: &Arc<Entry>| self.rules.fate(&self.key, entry) != Fate::Dead;
            let mut alive = shelf.into_iter().flat_map(|shelf| shelf.variants.iter()).filter(|entry| is_alive(entry));
            // What is purged is as if it were not there.
            return match alive.next() {
                None => Forward::UriMiss,
                Some(_) if self.is_credentialed => Forward::Miss,
                Some(_) => Forward::VaryMiss,
            };
        };
        let is_soft = self.rules.fate(&self.key, entry) == Fate::Stale;
        match entry.head.terms.usable(entry.head.age(now), is_soft, &Demand::default()) {
            Usable::Fresh => Forward::Request,
            _ => Forward::Stale,
        }
    }

    fn answer(&self, entry: &Entry, now: Instant, status: Status) -> Response<Body> {
        entry.head.answer(Whole::Here(entry.body.clone()), &self.wanted(now), status)
    }

    /// What was found, in the place of an error, if it may be. It may have been purged since.
    fn instead(&self, entry: &Entry, now: Instant) -> Option<Response<Body>> {
        self.rules.covers_error(&self.key, entry, &self.demand, now).then(|| {
            self.rules.metrics.stale();
            let mut answer = self.answer(entry, now, Status::Told(Detail::Error));
            answer.extensions_mut().insert(StandsIn);
            answer
        })
    }

    fn wanted(&self, now: Instant) -> Ask<'_> {
        let conditions = (!self.conditions.are_none()).then_some(&self.conditions);
        Ask { conditions, is_head: self.is_head, now }
    }

    /// A flight of this request's own, which nobody else knows.
    fn flight(&self) -> Arc<Flight> {
        let store = &self.rules.store;
        Flight::new(store.fates.purges.epoch(), store.fates.invalid.since(&self.key))
    }

    /// The name under which others wait for the same: the key, and the variant as far as it is known.
    fn flight_name(&self, shelf: Option<&Shelf>) -> Box<[u8]> {
        let mut name = self.key.clone();
        if let Some(shelf) = shelf {
            name.extend_from_slice(&self.rules.plan.variant(&shelf.vary, self.exchange.headers()));
        }
        name.as_slice().into()
    }

    /// Whose turn it is, `seen` being what the store had.
    fn join_or_lead(&self, name: &[u8], seen: Option<&Arc<Shelf>>) -> Turn {
        let store = &self.rules.store;
        let mut flights = self.rules.flights.lock();
        if let Some(flight) = flights.get(name)
            // Nobody waits for what was asked for before a purge.
            && store.fates.invalid.fate(flight.since) == Fate::Good
            && store.fates.purges.epoch() == flight.epoch
            && let Some(reader) = flight.join()
        {
            return Turn::Wait(reader);
        }
        // A flight is stored before it leaves the list: one may have landed since the store was asked.
        if let Some(shelf) = store.get(&self.key)
            && seen.is_none_or(|seen| !Arc::ptr_eq(seen, &shelf))
        {
            return Turn::Look;
        }
        let flight = self.flight();
        flights.insert(name.into(), flight.clone());
        Turn::Lead(flight)
    }

    async fn wait(&self, mut reader: Reader) -> Option<(Landed, Reader)> {
        let mut timer = self.exchange.wheel.timer();
        let landed = poll_fn(|cx| {
            if let Poll::Ready(landed) = reader.poll_landed(cx) {
                return Poll::Ready(Some(landed));
            }
            let expired = timer.poll_expired(cx);
            if expired.is_pending() && !timer.is_armed() {
                timer.arm(self.rules.wait);
            }
            expired.map(|()| None)
        })
        .await;
        landed.map(|landed| (landed, reader))
    }

    /// What another request fetches, if it is for this one too.
    fn share(&self, head: &Head, reader: Reader, now: Instant, forward: Forward) -> Option<Response<Body>> {
        let is_same = *self.rules.plan.variant(&head.vary, self.exchange.headers()) == *head.variant;
        if !is_same || (self.is_credentialed && !head.terms.is_for_all) {
            return None;
        }
        self.rules.metrics.collapsed();
        let status = Status::Stored { forward, is_revalidated: false, is_collapsed: true };
        Some(head.answer(reader.into_body(head), &self.wanted(now), status))
    }

    /// Has it fetched, for this request and for those that will wait.
    fn fetch(&self, mut fill: Filling) -> Verdict {
        self.rules.metrics.missed();
        let Some(reader) = fill.flight.join() else { return Verdict::Pass };
        fill.client = Some(Client { reader, conditions: self.conditions.clone(), demand: self.demand });
        Verdict::Fetch(Fetch { fill: Box::new(fill), answer: None })
    }

    /// Looks for what another armiger has fetched, on behalf of all who wait. It is then kept here too.
    async fn look_elsewhere(&self, mut fill: Filling) -> Result<Response<Body>, Filling> {
        let rules = self.rules;
        let Some(second) = rules.second() else { return Err(fill) };
        let variant = |names: &[HeaderName]| rules.plan.variant(names, self.exchange.headers());
        let wanted = Wanted { scope: &rules.scope, key: &self.key, variant: &variant };
        let Some(Found { stored, fate }) = second.get(&wanted, &self.exchange.wheel).await else { return Err(fill) };
        let now = Instant::now();
        let head = Head {
            status: stored.status,
            headers: compact(&stored.headers),
            length: Some(stored.body.len()),
            variant: variant(&stored.vary).as_slice().into(),
            vary: stored.vary,
            terms: stored.terms,
            initial_age: stored.age,
            received: now,
            received_at: self.exchange.closing.record.time,
            epoch: fill.flight.epoch,
            since: fill.flight.since,
            tags: stored.tags,
            said: Default::default(),
        };
        let entry = Arc::new(Entry::new(Arc::new(head), stored.body));
        if fate == Fate::Stale {
            entry.soften();
        }
        if self.usable(&entry, now) == Usable::Fresh {
            if !rules.store.put(&self.key, entry.clone()) {
                return Err(fill);
            }
            rules.metrics.hit();
            fill.land(&entry);
            return Ok(self.answer(&entry, now, Status::Told(Detail::Shared)));
        }
        // To be asked about, or to be used if the upstream fails.
        fill.stale.get_or_insert(entry);
        Err(fill)
    }

    /// Has it fetched behind the answer, unless somebody does so already.
    fn refresh(&self, entry: &Arc<Entry>, shelf: Option<&Arc<Shelf>>, answer: Response<Body>) -> Verdict {
        let rules = self.rules;
        let name = self.flight_name(shelf.map(|shelf| &**shelf));
        if rules.flights.lock().get(&name).is_some_and(|flight| !flight.is_over()) {
            return Verdict::answer(answer);
        }
        let Some(place) = rules.store.under_way.refresh(rules.refreshes_max) else {
            rules.metrics.limit_hit("cache.refreshes_max");
            return Verdict::answer(answer);
        };
        match self.join_or_lead(&name, shelf) {
            Turn::Lead(flight) => {
                let mut fill = self.fill(flight, Some(name), Some(entry.clone()), Forward::Stale);
                fill.refresh = Some(place);
                Verdict::Fetch(Fetch { fill: Box::new(fill), answer: Some(answer) })
            }
            Turn::Wait(_) | Turn::Look => Verdict::answer(answer),
        }
    }

    fn fill(
        &self,
        flight: Arc<Flight>,
        listed: Option<Box<[u8]>>,
        stale: Option<Arc<Entry>>,
        forward: Forward,
    ) -> Filling {
        Filling {
            rules: self.rules.clone(),
            key: self.key.as_slice().into(),
            flight,
            listed,
            stale,
            client: None,
            forward,
            is_credentialed: self.is_credentialed,
            ground: self.rules.second().and_then(|second| second.ground(Instant::now())),
            refresh: None,
            asked: HeaderMap::new(),
            is_conditional: false,
            altered: Vec::new(),
            is_settled: false,
        }
    }
}

/// Passes a request on untouched, and says so.
fn bypass(rules: &Rules, forward: Forward, is_shadow: bool) -> Verdict {
    if is_shadow {
        return Verdict::Pass;
    }
    rules.metrics.bypassed();
    let (value, keeps_tags) = (passed(forward, None), rules.keeps_tags);
    Verdict::followup(move |response| {
        tags(response.headers_mut(), keeps_tags);
        response.headers_mut().append(&CACHE_STATUS, value);
    })
}

/// Makes invalid what is stored of the URL of an unsafe request, if that succeeds (RFC 9111 §4.4).
fn unsafe_method(rules: &Arc<Rules>, exchange: &Exchange) -> Verdict {
    let method = exchange.request.method();
    // A tunnel changes nothing by being opened.
    if method.is_safe() || *method == Method::CONNECT {
        return bypass(rules, Forward::Method, false);
    }
    rules.metrics.bypassed();
    let progress = Progress::default();
    let target = Unsafe {
        rules: rules.clone(),
        progress: progress.clone(),
        authority: exchange.host().to_ascii_lowercase(),
        path: exchange.path().to_owned(),
        query: exchange.request.uri().query().map(str::to_owned),
        is_settled: false,
    };
    let watch = move |exchange: &mut Exchange| drop(exchange.request.extensions_mut().insert(progress));
    Verdict::amend_both(watch, move |response| {
        target.settle(response);
        response.headers_mut().append(&CACHE_STATUS, passed(Forward::Method, None));
    })
}

/// An unsafe request under way. Where an upstream may have it and does not answer, or its client leaves before that, nobody
/// knows whether it succeeded: what is stored of its URL is then stale. It is not dead, or whoever may send such requests could
/// take from others what stands in for errors, without ever being let to change anything.
struct Unsafe {
    rules: Arc<Rules>,
    progress: Progress,
    /// The host, and the port if it is named.
    authority: String,
    path: String,
    query: Option<String>,
    is_settled: bool,
}

impl Unsafe {
    fn settle(mut self, response: &Response<Body>) {
        self.is_settled = true;
        let status = response.status();
        match self.progress.reached() {
            // What stands in for an answer says nothing of it.
            Reached::Nobody => return,
            Reached::Upstream => return self.invalidate(&self.path, self.query.as_deref(), true),
            Reached::Answer | Reached::Unknown => {}
        }
        if !status.is_success() && !status.is_redirection() {
            return;
        }
        self.invalidate(&self.path, self.query.as_deref(), false);
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let place = response.headers().get(name);
            if let Some((path, query)) = place.and_then(|place| of_this_host(place, &self.authority, &self.path)) {
                self.invalidate(&path, query.as_deref(), false);
            }
        }
    }

    fn invalidate(&self, path: &str, query: Option<&str>, is_soft: bool) {
        // A reload may have come since this request did: then queries may have another form, and others be told.
        for rules in self.rules.reigns.all() {
            let query = key::counted_query(&rules.plan, query);
            let target = Target { host: key::bare_host(&self.authority), path, query: query.as_deref() };
            let digest = target.digest();
            rules.store.fates.invalid.change(digest, is_soft);
            if let Some(shared) = &rules.shared {
                shared.invalidate(digest, is_soft);
            }
        }
    }
}

impl Drop for Unsafe {
    fn drop(&mut self) {
        if !self.is_settled && self.progress.reached() != Reached::Nobody {
            self.invalidate(&self.path, self.query.as_deref(), true);
        }
    }
}

/// Path and query of a reference, if it leads to the same host and port: nobody else's answers are to be made invalid. The
/// scheme is not asked for: TLS may end in front of this.
fn of_this_host(reference: &HeaderValue, authority: &str, base: &str) -> Option<(String, Option<String>)> {
    let text = reference.to_str().ok()?.split('#').next()?;
    let uri: Uri = match text {
        text if text.starts_with("//") || text.contains("://") => {
            let text = text.strip_prefix("//").map_or_else(|| text.to_owned(), |rest| format!("http://{rest}"));
            text.parse().ok()?
        }
        text if text.starts_with('/') => text.parse().ok()?,
        text => format!("{}/{text}", base.rsplit_once('/').map_or("", |(folder, _)| folder)).parse().ok()?,
    };
    let is_same = uri.authority().is_none_or(|named| {
        let is_host = key::bare_host(named.as_str()).eq_ignore_ascii_case(key::bare_host(authority));
        is_host && named_port(named.as_str()) == named_port(authority)
    });
    let path = path::normalise(uri.path()).ok()?.path.into_owned();
    is_same.then(|| (path, uri.query().map(str::to_owned)))
}

/// The port, unless it is one that goes without saying.
fn named_port(authority: &str) -> Option<&str> {
    let port = authority.get(key::bare_host(authority).len()..)?.rsplit_once(':')?.1;
    (!matches!(port, "" | "80" | "443")).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_to_the_same_host_make_anything_invalid() {
        let of = |text: &'static str| of_this_host(&HeaderValue::from_static(text), "h.test:80", "/a/b");
        let found = |path: &str, query: Option<&str>| Some((path.to_owned(), query.map(str::to_owned)));
        assert_eq!(of("/c?d=1#e"), found("/c", Some("d=1")));
        assert_eq!(of("https://H.test/c"), found("/c", None));
        // RFC 9111 §4.4: another origin.
        assert_eq!(of("http://h.test:81/c"), None);
        assert_eq!(of("//h.test/c"), found("/c", None));
        assert_eq!(of("../c"), found("/c", None));
        assert_eq!(of("c"), found("/a/c", None));
        assert_eq!(of("http://other.test/c"), None);
        assert_eq!(of("//other.test/c"), None);
    }
}
