//! Keys that an issuer publishes at a URL: fetched in the background, and kept through the issuer's outages.
//!
//! Requests never fetch anything. They read the keys that are there; one that names an unknown key asks for a fetch and
//! waits for it, for a moment, with all others that do.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use http::header::{CACHE_CONTROL, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::client::{Answer, Client, Target, Terms, Trouble};
use super::key::KeySet;
use super::pace::{Pace, max_age};
use super::recent::Recent;
use super::token::object;
use super::{Defect, Refusal, jwk};
use crate::config::identity::Algorithm;
use crate::http::body::Body;
use crate::telemetry::metrics::{IdentityMetrics, KeysMetrics, Metrics, UpstreamMetrics};
use crate::upstream::background::{Awaited, Background, Desk, Ticket};

/// How long a key stays unknown that a fetch did not bring.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// The longest that a client is told to stay away.
const RETRY_AFTER_MAX: u64 = 30;

/// Bytes of a discovery document, at most.
const DISCOVERY_MAX: usize = 256 * 1024;

/// What cannot be found out now.
const UNAVAILABLE: &str = "jwks_unavailable";

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum Place {
    /// There.
    Url(Target),
    /// Where the issuer's document says.
    Discovered {
        /// The document.
        document: Target,
        /// What it must say of itself.
        issuer: String,
    },
}

/// How keys are fetched: what a snapshot says of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where they are.
    pub place: Place,
    /// What they may be used for.
    pub algorithms: Vec<Algorithm>,
    /// How old they grow.
    pub refresh: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
    /// How long requests wait.
    pub wait: Duration,
    /// How long readiness waits. `None`: it does not.
    pub start_wait: Option<Duration>,
    /// How long they serve in an outage.
    pub max_stale: Duration,
    /// Bytes of a set.
    pub bytes_max: usize,
    /// Which URLs will do.
    pub terms: Terms,
}

/// The keys of one provider, whatever snapshots name it.
pub struct Jwks {
    provider: Arc<str>,
    ticket: Ticket,
    keys: ArcSwapOption<KeySet>,
    plan: ArcSwapOption<Plan>,
    ledger: Mutex<Ledger>,
    wake: Arc<Notify>,
    /// Counts fetches that ended.
    fetched: watch::Sender<u64>,
    hasher: RandomState,
    metrics: Meters,
}

struct Meters {
    identity: IdentityMetrics,
    keys: KeysMetrics,
    upstream: UpstreamMetrics,
    all: Metrics,
}

#[derive(Default)]
struct Ledger {
    pace: Pace,
    unknown: Recent,
    validators: Option<Validators>,
    trouble: Option<Trouble>,
}

/// What makes the next fetch a question whether anything changed (RFC 9110 §13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Validators {
    url: Box<str>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Validators {
    fn of(url: &str, headers: &HeaderMap) -> Option<Self> {
        let fields: Vec<_> = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)]
            .into_iter()
            .filter_map(|(told, asked)| Some((asked, headers.get(told)?.clone())))
            .collect();
        (!fields.is_empty()).then(|| Self { url: url.into(), fields })
    }
}

/// What a fetch brought.
enum Fetched {
    Set { set: KeySet, notes: Vec<String>, validators: Option<Validators>, fresh_for: Option<Duration> },
    Unchanged { fresh_for: Option<Duration> },
}

/// What came of a fetch that an operator asked for.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// Whose keys.
    pub provider: Arc<str>,
    /// What went wrong.
    pub trouble: Option<String>,
    /// How many keys are in use.
    pub keys: usize,
}

impl Jwks {
    /// No keys yet.
    pub fn new(provider: &str, metrics: &Metrics) -> Self {
        Self {
            provider: provider.into(),
            ticket: Ticket::default(),
            keys: ArcSwapOption::empty(),
            plan: ArcSwapOption::empty(),
            ledger: Mutex::default(),
            wake: Arc::default(),
            fetched: watch::Sender::new(0),
            hasher: RandomState::new(),
            metrics: Meters {
                identity: metrics.identity(provider),
                keys: metrics.fetched_keys(provider),
                upstream: super::client::metrics(metrics, provider),
                all: metrics.clone(),
            },
        }
    }

    /// Whose keys they are.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The stamp of the keys in use.
    pub fn stamp(&self) -> Option<u64> {
        self.keys.load().as_ref().map(|keys| keys.stamp())
    }

    /// The keys in use, if one of them is the one that is meant.
    pub fn keys_that_have(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<KeySet>> {
        self.keys.load_full().filter(|keys| keys.has(id, algorithm))
    }

    /// The keys in use, if one of them is the one that is meant; else those that a fetch brings, if one comes in time.
    ///
    /// # Errors
    /// There is no such key, or it cannot be found out.
    pub async fn keys_with(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Instant,
        wait: Duration,
    ) -> Result<Arc<KeySet>, Refusal> {
        // Looked at before the keys: a fetch that ends in between is not waited for again.
        let mut fetched = self.fetched.subscribe();
        let hash = self.hasher.hash_one((id, algorithm));
        {
            let mut ledger = self.ledger();
            // Looked at again under the lock, under which alone they change: a fetch that has just ended may have brought
            // the key, and it is no reason to refuse that the next one may not begin yet.
            if let Some(keys) = self.keys_that_have(id, algorithm) {
                return Ok(keys);
            }
            if ledger.unknown.holds(hash, now) && !ledger.pace.is_failing() {
                return Err(Defect::KeyUnknown.into());
            }
            let is_coming = ledger.pace.want(now);
            if !is_coming {
                return Err(self.refusal(&ledger, now));
            }
        }
        self.wake.notify_one();
        let has_ended = tokio::time::timeout(wait, fetched.changed()).await.is_ok();
        if let Some(keys) = self.keys_that_have(id, algorithm) {
            return Ok(keys);
        }
        let mut ledger = self.ledger();
        if !has_ended {
            return Err(Refusal::unavailable(UNAVAILABLE, 1));
        }
        if !ledger.pace.is_failing() {
            ledger.unknown.note(hash, now + UNKNOWN_FOR);
        }
        Err(self.refusal(&ledger, now))
    }

    /// While the issuer cannot be asked, a key that is not known may be a new one.
    fn refusal(&self, ledger: &Ledger, now: Instant) -> Refusal {
        if !ledger.pace.is_failing() && self.keys.load().is_some() {
            return Defect::KeyUnknown.into();
        }
        let refresh = self.plan.load().as_ref().map_or(Duration::ZERO, |plan| plan.refresh);
        let pause = ledger.pace.due(now, refresh).saturating_duration_since(now);
        Refusal::unavailable(UNAVAILABLE, (pause.as_secs() + 1).min(RETRY_AFTER_MAX))
    }

    /// Has them fetched now, and tells what came of it.
    pub async fn refresh(&self) -> Refreshed {
        let mut fetched = self.fetched.subscribe();
        self.ledger().pace.tell();
        self.wake.notify_one();
        let longest =
            self.plan.load().as_ref().map_or(Duration::ZERO, |plan| plan.timeout * 2) + Duration::from_secs(1);
        let has_ended = tokio::time::timeout(longest, fetched.changed()).await.is_ok();
        let trouble = match (&self.ledger().trouble, has_ended) {
            (Some(trouble), _) => Some(trouble.to_string()),
            (None, false) => Some("no answer yet".into()),
            (None, true) => None,
        };
        Refreshed {
            provider: self.provider.clone(),
            trouble,
            keys: self.keys.load().as_ref().map_or(0, |keys| keys.len()),
        }
    }

    /// For operators.
    pub fn shown(&self, now: Instant) -> Value {
        let (keys, plan, ledger) = (self.keys.load_full(), self.plan.load_full(), self.ledger());
        let pause =
            plan.as_ref().map(|plan| ledger.pace.due(now, plan.refresh).saturating_duration_since(now).as_secs());
        json!({
            "provider": &*self.provider,
            "kind": "jwks",
            "url": plan.as_ref().map(|plan| plan.place.url().to_owned()),
            "keys": keys.as_ref().map_or_else(|| json!([]), |keys| keys.json()),
            "age_seconds": ledger.pace.good().map(|good| now.saturating_duration_since(good).as_secs()),
            "next_fetch_seconds": pause,
            "failures": ledger.pace.failures(),
            "last_error": ledger.trouble.as_ref().map(ToString::to_string),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in here panics half-way.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === the work ===

    /// When there is something to do. Takes keys out of use that are too old.
    fn next(&self, now: Instant) -> Option<Instant> {
        let plan = self.plan.load_full()?;
        let ledger = self.ledger();
        let due = ledger.pace.due(now, plan.refresh);
        let Some(end) = ledger.pace.good().map(|good| good + plan.max_stale).filter(|_| self.keys.load().is_some())
        else {
            return Some(due);
        };
        if now >= end {
            drop(ledger);
            self.keys.store(None);
            self.metrics.keys.in_use(0);
            tracing::error!(
                provider = %self.provider,
                "no key was confirmed within `max_stale`: those known are used no longer, and requests get a 503"
            );
            return Some(due);
        }
        Some(due.min(end))
    }

    /// What is needed for a fetch, if one is due.
    fn begin(&self, now: Instant) -> Option<Errand> {
        let plan = self.plan.load_full()?;
        let mut ledger = self.ledger();
        if ledger.pace.due(now, plan.refresh) > now {
            return None;
        }
        ledger.pace.begin(now);
        // Nothing can be unchanged for whoever has nothing.
        let validators = ledger.validators.clone().filter(|_| self.keys.load().is_some());
        Some(Errand { plan, validators, metrics: self.metrics.upstream.clone() })
    }

    /// Whoever waits for a fetch that broke off with the work is told, and another one is due in a while.
    fn resume(&self, now: Instant) {
        let has_broken_off = self.ledger().pace.is_fetching();
        if has_broken_off {
            self.settle(Err(Trouble::Invalid("armiger failed over it".into())), now, fastrand::f64());
        }
    }

    fn settle(&self, outcome: Result<Fetched, Trouble>, now: Instant, chance: f64) {
        let mut ledger = self.ledger();
        let was_failing = ledger.pace.is_failing();
        match outcome {
            Ok(fetched) => {
                let (word, fresh_for) = match fetched {
                    Fetched::Unchanged { fresh_for } => ("unchanged", fresh_for),
                    Fetched::Set { set, notes, validators, fresh_for } => {
                        ledger.validators = validators;
                        (self.replace(&mut ledger, set, &notes), fresh_for)
                    }
                };
                ledger.pace.succeeded(now, fresh_for, chance);
                ledger.trouble = None;
                self.metrics.identity.fetched(word);
                self.metrics.keys.confirmed(wall_seconds());
                if was_failing {
                    tracing::info!(provider = %self.provider, "keys can be fetched again");
                }
            }
            Err(trouble) => {
                ledger.pace.failed(now, chance);
                self.metrics.identity.fetched(trouble.word());
                self.metrics.keys.stale();
                if matches!(trouble, Trouble::TooLarge(_)) {
                    self.metrics.all.limit_hit("identity.jwt.keys.bytes_max");
                }
                if !was_failing {
                    let known = self.keys.load().as_ref().map_or(0, |keys| keys.len());
                    tracing::warn!(provider = %self.provider, %trouble, known, "keys cannot be fetched; those known serve on");
                }
                ledger.trouble = Some(trouble);
            }
        }
        drop(ledger);
        self.fetched.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Puts a set in use. What it has not is good for nothing from now on.
    fn replace(&self, ledger: &mut Ledger, set: KeySet, notes: &[String]) -> &'static str {
        let is_same = self.keys.load().as_ref().is_some_and(|keys| keys.stamp() == set.stamp());
        if is_same {
            return "unchanged";
        }
        ledger.unknown.clear();
        let ids: Vec<_> = set.shown().map(|(id, _)| id.unwrap_or("-").escape_default().to_string()).collect();
        tracing::info!(provider = %self.provider, keys = set.len(), ids = ids.join(" "), "keys in use");
        for note in notes {
            tracing::warn!(provider = %self.provider, "passed over: {}", note.escape_default());
        }
        self.metrics.keys.in_use(set.len());
        self.keys.store(Some(Arc::new(set)));
        "ok"
    }
}

impl Background for Jwks {
    type Plan = Plan;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, plan: &Arc<Plan>) {
        self.plan.store(Some(plan.clone()));
        self.wake.notify_one();
    }

    async fn work(state: Weak<Self>, desk: Desk) {
        if let Some(jwks) = state.upgrade() {
            jwks.resume(Instant::now());
        }
        while let Some((wake, next)) = state.upgrade().map(|jwks| (jwks.wake.clone(), jwks.next(Instant::now()))) {
            let now = Instant::now();
            match next {
                Some(at) if at <= now => {}
                Some(at) => {
                    tokio::select! {
                        () = wake.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                    continue;
                }
                None => {
                    wake.notified().await;
                    continue;
                }
            }
            let Some(errand) = state.upgrade().and_then(|jwks| jwks.begin(now)) else { continue };
            let outcome = errand.run(&desk).await;
            let Some(jwks) = state.upgrade() else { return };
            jwks.settle(outcome, Instant::now(), fastrand::f64());
        }
    }

    fn awaited(&self, plan: &Plan) -> Option<Awaited> {
        let keys = self.keys.load().as_ref().map(|keys| keys.len());
        let detail = match (keys, &self.ledger().trouble) {
            (Some(keys), None) => format!("{keys} in use"),
            (Some(keys), Some(trouble)) => format!("{keys} in use, but {trouble}"),
            (None, Some(trouble)) => trouble.to_string(),
            (None, None) => "not fetched yet".into(),
        };
        Some(Awaited {
            name: format!("keys {}", self.provider),
            is_there: keys.is_some(),
            wait: plan.start_wait?,
            detail,
        })
    }
}

impl Place {
    /// The URL that the configuration names.
    pub fn url(&self) -> &str {
        match self {
            Self::Url(target) | Self::Discovered { document: target, .. } => &target.url,
        }
    }
}

/// One fetch: all that it needs, so that it holds nothing while it waits.
struct Errand {
    plan: Arc<Plan>,
    validators: Option<Validators>,
    metrics: UpstreamMetrics,
}

impl Errand {
    async fn run(&self, desk: &Desk) -> Result<Fetched, Trouble> {
        let plan = &*self.plan;
        let target = match &plan.place {
            Place::Url(target) => target.clone(),
            Place::Discovered { document, issuer } => {
                let answer = self.ask(desk, document, None, DISCOVERY_MAX).await?;
                discovered(&answer.body, issuer, &plan.terms, document.is_local).map_err(Trouble::Invalid)?
            }
        };
        let validators = self.validators.as_ref().filter(|validators| validators.url == target.url);
        let answer = self.ask(desk, &target, validators, plan.bytes_max).await?;
        let fresh_for = answer.headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).and_then(max_age);
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(Fetched::Unchanged { fresh_for });
        }
        let text = std::str::from_utf8(&answer.body).map_err(|_| Trouble::Invalid("it is no text".into()))?;
        let mut notes = Vec::new();
        let set = jwk::read(text, &plan.algorithms, &mut notes)
            .map_err(|useless| Trouble::Invalid(useless.0.escape_default().to_string()))?;
        Ok(Fetched::Set { set, notes, validators: Validators::of(&target.url, &answer.headers), fresh_for })
    }

    async fn ask(
        &self,
        desk: &Desk,
        target: &Target,
        validators: Option<&Validators>,
        bytes_max: usize,
    ) -> Result<Answer, Trouble> {
        let mut request = Request::new(Body::Empty);
        for (name, value) in validators.iter().flat_map(|validators| &validators.fields) {
            request.headers_mut().insert(name, value.clone());
        }
        Client::new(&desk.wheel, target, self.metrics.clone(), self.plan.timeout, bytes_max).ask(request).await
    }
}

/// Where the issuer's document is (OpenID Connect Discovery §4.1).
pub fn document_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

/// What a discovery document says of the keys, if it is this issuer's own (§4.3). One from elsewhere (`is_local`: it is not)
/// does not send us to a loopback address.
fn discovered(document: &[u8], issuer: &str, terms: &Terms, is_local: bool) -> Result<Target, String> {
    let members = object(document).map_err(|_| "the discovery document is no JSON object".to_owned())?;
    let text = |name: &str| match members.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(format!("the discovery document has no `{name}`")),
    };
    let named = text("issuer")?;
    if named != issuer {
        return Err(format!("the discovery document is of another issuer, \"{}\"", named.escape_default()));
    }
    let told = |why: &str| format!("`jwks_uri` of the discovery document {why}");
    let target = Target::parse(text("jwks_uri")?, terms).map_err(|unfit| told(&unfit.message))?;
    if target.is_local && !is_local && !terms.insecure {
        return Err(told("leads to this machine, and the issuer is elsewhere"));
    }
    Ok(target)
}

#[expect(clippy::disallowed_methods, reason = "the time of day of a fetch, for a metric")]
fn wall_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery_document_speaks_for_its_own_issuer_only() {
        let issuer = "https://id.test/realm";
        let good = |more: &str| format!(r#"{{"issuer":"{issuer}","jwks_uri":"http://127.0.0.1:1/keys"{more}}}"#);
        assert_eq!(
            &*discovered(good("").as_bytes(), issuer, &Terms::default(), true).unwrap().url,
            "http://127.0.0.1:1/keys"
        );
        let refused =
            |text: &str, is_local| discovered(text.as_bytes(), issuer, &Terms::default(), is_local).unwrap_err();
        assert!(refused(&good(""), false).contains("leads to this machine"), "keys from a neighbour of armiger's");
        for (attack, text, told) in [
            ("another issuer", good("").replace("/realm", "/other"), "another issuer, \"https://id.test/other\""),
            ("a slash more", good("").replace("/realm", "/realm/"), "another issuer, \"https://id.test/realm/\""),
            ("another case", good("").replace("id.test", "ID.test"), "another issuer, \"https://ID.test/realm\""),
            ("issuer twice", good(r#","issuer":"https://evil""#), "is no JSON object"),
            ("no issuer", good("").replace("issuer", "owner"), "has no `issuer`"),
            ("no keys", good("").replace("jwks_uri", "jwks"), "has no `jwks_uri`"),
            ("plain http", good("").replace("127.0.0.1:1", "evil.test"), "plain `http://`"),
            ("a file", good("").replace("http://127.0.0.1:1", "file://"), "no URL"),
            ("HTML", "<html>".into(), "is no JSON object"),
        ] {
            assert!(refused(&text, true).contains(told), "{attack}: {}", refused(&text, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_breaks_off_with_the_work_is_an_outage_and_no_end() {
        let (jwks, now) = (Jwks::new("staff", &Metrics::new()), Instant::now());
        let target = Target::parse("http://127.0.0.1:1/", &Terms::default()).unwrap();
        jwks.follow(&Arc::new(Plan {
            place: Place::Url(target),
            algorithms: Algorithm::ALL.to_vec(),
            refresh: Duration::from_secs(600),
            timeout: Duration::from_secs(10),
            wait: Duration::from_secs(1),
            start_wait: None,
            max_stale: Duration::from_secs(3600),
            bytes_max: 1024,
            terms: Terms::default(),
        }));
        assert!(jwks.begin(now).is_some() && jwks.begin(now).is_some(), "it breaks off in the midst");
        let wait = Duration::from_secs(3600);
        let waiting = jwks.keys_with(Some("one"), Algorithm::ES256, now, wait);
        let (refusal, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            jwks.resume(now);
        });
        assert_eq!(refusal.err().map(|refusal| refusal.cause), Some(UNAVAILABLE));
        let due = jwks.next(now).expect("it has a plan");
        assert!((1..=2).contains(&(due - now).as_secs()), "it is tried again soon, and not at once");
        jwks.resume(now);
        assert_eq!(jwks.ledger().pace.failures(), 1, "what did not break off is no failure");
    }

    #[test]
    fn an_outage_is_told_when_it_begins_and_when_it_ends() {
        use tracing_subscriber::fmt::MakeWriter;

        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);

        impl std::io::Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        impl MakeWriter<'_> for Kept {
            type Writer = Self;

            fn make_writer(&self) -> Self {
                self.clone()
            }
        }

        let (kept, jwks, now) = (Kept::default(), Jwks::new("staff", &Metrics::new()), Instant::now());
        let set = || {
            let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
            let set = jwk::read(keys, &Algorithm::ALL, &mut Vec::new()).unwrap();
            Fetched::Set { set, notes: Vec::new(), validators: None, fresh_for: None }
        };
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(kept.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for outcome in [
                Ok(set()),
                Err(Trouble::Status(500)),
                Err(Trouble::Unreachable("refused".into())),
                Err(Trouble::TooLarge(9)),
                Ok(set()),
                Ok(set()),
                Err(Trouble::Redirect(302)),
            ] {
                jwks.settle(outcome, now, 0.0);
            }
        });
        let told = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        for (words, count) in [
            ("keys in use provider=staff keys=1", 1),
            ("keys cannot be fetched; those known serve on provider=staff", 2),
            ("keys can be fetched again", 1),
            ("status 500", 1),
            ("refused", 0),
        ] {
            assert_eq!(told.matches(words).count(), count, "{words}\n{told}");
        }
    }

    #[test]
    fn the_document_is_where_the_standard_says() {
        assert_eq!(document_url("https://id.test"), "https://id.test/.well-known/openid-configuration");
        assert_eq!(document_url("https://id.test/a/"), "https://id.test/a/.well-known/openid-configuration");
    }
}
