//! Tokens that only who gave them out can read: it is asked about each (RFC 7662), and its word holds for a while.
//!
//! Requests ask nobody. They look for a word that holds; else they put the question, once for all who wait for the same
//! one, and the work in the background asks. No word, no entrance.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use moka::sync::Cache;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::cache::Digest;
use super::client::{Client, Target, Trouble};
use super::token::object;
use super::verify::{Rules, text};
use super::{Defect, Refusal};
use crate::exchange::Identity;
use crate::http::body::Body;
use crate::telemetry::metrics::{IdentityMetrics, Metrics, UpstreamMetrics};
use crate::upstream::background::{Background, Desk, Ticket};

/// It cannot be found out now.
const UNAVAILABLE: &str = "introspection_unavailable";

/// The issuer says that the token is not good, or not good any more.
const INACTIVE: &str = "token_inactive";

/// How an issuer is asked: what a snapshot says of it.
pub struct Plan {
    /// Whom.
    pub target: Target,
    /// What proves who asks: `Basic …`.
    pub credential: HeaderValue,
    /// What must hold of the answer.
    pub rules: Rules,
    /// How long a good word holds.
    pub cache_for: Duration,
    /// How long a bad word holds.
    pub cache_refused_for: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions at once.
    pub in_flight_max: usize,
    /// Bytes of an answer.
    pub answer_max: usize,
}

/// What was said of a token.
#[derive(Clone, Debug)]
enum Word {
    Good(Arc<Identity>),
    /// And why.
    Bad(&'static str),
    Unknown,
}

impl Word {
    fn outcome(self) -> Result<Arc<Identity>, Refusal> {
        match self {
            Self::Good(identity) => Ok(identity),
            Self::Bad(cause) => Err(Refusal::invalid(cause)),
            Self::Unknown => Err(Refusal::unavailable(UNAVAILABLE, 1)),
        }
    }
}

#[derive(Clone)]
struct Held {
    word: Word,
    /// In seconds since 1970.
    until: i64,
    weight: u32,
}

/// What is known of one provider's tokens, whatever snapshots name it.
pub struct Introspection {
    provider: Arc<str>,
    ticket: Ticket,
    plan: ArcSwapOption<Plan>,
    words: Option<Cache<Digest, Held, foldhash::fast::RandomState>>,
    flights: Mutex<HashMap<Digest, watch::Receiver<Option<Word>>>>,
    questions: mpsc::Sender<Question>,
    asked: Mutex<Option<mpsc::Receiver<Question>>>,
    trouble: Mutex<Option<Trouble>>,
    changed: Arc<Notify>,
    identity: IdentityMetrics,
    upstream: UpstreamMetrics,
    metrics: Metrics,
}

/// A token that somebody wants to know of.
struct Question {
    digest: Digest,
    token: Box<str>,
    reply: watch::Sender<Option<Word>>,
}

impl Introspection {
    /// Nothing known yet. Words take `bytes` at most, and `queue_max` questions may wait.
    pub fn new(provider: &str, bytes: u64, queue_max: usize, metrics: &Metrics) -> Self {
        let (questions, asked) = mpsc::channel(queue_max.max(1));
        let cache = || {
            Cache::builder()
                .max_capacity(bytes)
                .weigher(|_, held: &Held| held.weight)
                .time_to_idle(Duration::from_secs(300))
                .build_with_hasher(foldhash::fast::RandomState::default())
        };
        Self {
            provider: provider.into(),
            ticket: Ticket::default(),
            plan: ArcSwapOption::empty(),
            words: (bytes > 0).then(cache),
            flights: Mutex::default(),
            questions,
            asked: Mutex::new(Some(asked)),
            trouble: Mutex::default(),
            changed: Arc::default(),
            identity: metrics.identity(provider),
            upstream: super::client::metrics(metrics, provider),
            metrics: metrics.clone(),
        }
    }

    /// The word about a token, if there is one that holds at `now`.
    pub fn known(&self, digest: &Digest, now: i64) -> Option<Result<Arc<Identity>, Refusal>> {
        let held = self.words.as_ref()?.get(digest)?;
        (now < held.until).then(|| held.word.outcome())
    }

    /// Asks about a token, or waits with those who have asked already, for `wait` at most.
    ///
    /// # Errors
    /// It is not good, or that cannot be found out now.
    pub async fn ask(&self, digest: Digest, token: &str, wait: Duration) -> Result<Arc<Identity>, Refusal> {
        let mut answer = match self.put(digest, token) {
            Some(answer) => answer,
            None => {
                self.metrics.limit_hit("identity.introspection.queue_max");
                return Word::Unknown.outcome();
            }
        };
        let word = match tokio::time::timeout(wait, answer.wait_for(Option::is_some)).await {
            Ok(Ok(word)) => word.clone(),
            // The work broke off, or takes too long.
            _ => None,
        };
        word.unwrap_or(Word::Unknown).outcome()
    }

    fn put(&self, digest: Digest, token: &str) -> Option<watch::Receiver<Option<Word>>> {
        match lock(&self.flights).entry(digest) {
            Entry::Occupied(flight) => Some(flight.get().clone()),
            Entry::Vacant(place) => {
                let (reply, answer) = watch::channel(None);
                self.questions.try_send(Question { digest, token: token.into(), reply }).ok()?;
                place.insert(answer.clone());
                Some(answer)
            }
        }
    }

    /// Its name in the configuration.
    pub fn provider(&self) -> Arc<str> {
        self.provider.clone()
    }

    /// For operators.
    pub fn shown(&self) -> Value {
        let plan = self.plan.load_full();
        json!({
            "provider": &*self.provider,
            "kind": "introspection",
            "url": plan.as_ref().map(|plan| plan.target.url.to_string()),
            "words": self.words.as_ref().map_or(0, Cache::entry_count),
            "in_flight": lock(&self.flights).len(),
            "last_error": lock(&self.trouble).as_ref().map(ToString::to_string),
        })
    }

    /// What an answer says, and how long that holds.
    fn judge(&self, plan: &Plan, answer: &Result<bytes::Bytes, Trouble>, now: i64) -> (Word, Duration) {
        let word = match answer {
            Err(trouble) => {
                self.note(Some(trouble));
                return (Word::Unknown, Duration::ZERO);
            }
            Ok(body) => read(body, plan, &self.provider, now),
        };
        match word {
            Ok(word) => {
                self.note(None);
                let holds = if matches!(word, Word::Good(_)) { plan.cache_for } else { plan.cache_refused_for };
                (word, holds)
            }
            Err(trouble) => {
                self.note(Some(&trouble));
                (Word::Unknown, Duration::ZERO)
            }
        }
    }

    /// Tells when the issuer stops answering, and when it answers again, once each.
    fn note(&self, trouble: Option<&Trouble>) {
        self.identity.fetched(trouble.map_or("ok", Trouble::word));
        if matches!(trouble, Some(Trouble::TooLarge(_))) {
            self.metrics.limit_hit("identity.introspection.answer_max");
        }
        let before = std::mem::replace(&mut *lock(&self.trouble), trouble.cloned());
        match (before, trouble) {
            (None, Some(trouble)) => {
                tracing::warn!(provider = %self.provider, %trouble, "tokens cannot be asked about: requests get a 503");
            }
            (Some(_), None) => tracing::info!(provider = %self.provider, "tokens can be asked about again"),
            _ => {}
        }
    }

    /// Gives the word to all who wait, and keeps it for as long as it holds.
    fn settle(&self, flight: &mut Flight, length: usize, word: Word, holds: Duration, now: i64) {
        let until = now.saturating_add(i64::try_from(holds.as_secs()).unwrap_or(i64::MAX));
        let until = match &word {
            Word::Good(identity) => identity.expires.map_or(until, |end| end.min(until)),
            _ => until,
        };
        if let Some(words) = self.words.as_ref().filter(|_| until > now) {
            let weight = u32::try_from(512 + 4 * length).unwrap_or(u32::MAX);
            words.insert(flight.digest, Held { word: word.clone(), until, weight });
        }
        // Who comes from here on did not wait for this word, which may hold for no time at all.
        if let Some(reply) = flight.land(self) {
            reply.send_replace(Some(word));
        }
    }
}

/// What the issuer says of a token (RFC 7662 §2.2).
fn read(body: &[u8], plan: &Plan, provider: &Arc<str>, now: i64) -> Result<Word, Trouble> {
    let invalid = |why: &str| Trouble::Invalid(why.to_owned());
    let members = object(body).map_err(|_| invalid("it is no JSON object"))?;
    match members.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(Word::Bad(INACTIVE)),
        _ => return Err(invalid("it has no `active` that is true or false")),
    }
    let issued_by = |members: &serde_json::Map<String, Value>| match (&plan.rules.issuers[..], text(members, "iss")?) {
        ([], _) => Ok(()),
        (_, Some(issuer)) if plan.rules.is_issuer(issuer) => Ok(()),
        _ => Err(Defect::Issuer),
    };
    let judged = issued_by(&members).and_then(|()| plan.rules.accept(provider, members, now));
    Ok(judged.map_or_else(|defect| Word::Bad(defect.code()), |identity| Word::Good(Arc::new(identity))))
}

/// A question that is being asked. However that ends, nobody waits for it any more afterwards.
struct Flight {
    digest: Digest,
    /// Until it has landed.
    reply: Option<watch::Sender<Option<Word>>>,
    state: Weak<Introspection>,
}

impl Flight {
    /// Lets nobody join any more, once.
    fn land(&mut self, state: &Introspection) -> Option<watch::Sender<Option<Word>>> {
        let reply = self.reply.take()?;
        lock(&state.flights).remove(&self.digest);
        Some(reply)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            self.land(&state);
        }
    }
}

impl Background for Introspection {
    type Plan = Plan;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, plan: &Arc<Plan>) {
        self.plan.store(Some(plan.clone()));
        self.changed.notify_one();
    }

    async fn work(state: Weak<Self>, desk: Desk) {
        let newest = || state.upgrade().and_then(|state| Some(Line::new(state.plan.load_full()?, &state, &desk)));
        let Some((mut asked, changed)) =
            state.upgrade().and_then(|state| Some((Asked::of(&state)?, state.changed.clone())))
        else {
            return;
        };
        let mut flights = JoinSet::new();
        let mut line = newest();
        loop {
            let most = line.as_ref().map_or(0, |line| line.plan.in_flight_max);
            tokio::select! {
                Some(_) = flights.join_next() => {}
                () = changed.notified() => line = newest(),
                question = asked.next(), if flights.len() < most => {
                    let (Some(Question { digest, token, reply }), Some(line)) = (question, &line) else { return };
                    let (line, mut flight) = (line.clone(), Flight { digest, reply: Some(reply), state: state.clone() });
                    flights.spawn_local(async move { line.ask(&token, &mut flight).await });
                }
            }
        }
    }
}

/// Where questions come in. Given back when the work ends, for the one that is begun after it.
struct Asked {
    questions: Option<mpsc::Receiver<Question>>,
    state: Weak<Introspection>,
}

impl Asked {
    fn of(state: &Arc<Introspection>) -> Option<Self> {
        let questions = lock(&state.asked).take()?;
        Some(Self { questions: Some(questions), state: Arc::downgrade(state) })
    }

    async fn next(&mut self) -> Option<Question> {
        self.questions.as_mut()?.recv().await
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            *lock(&state.asked) = self.questions.take();
        }
    }
}

/// The way to an issuer, as one plan has it.
#[derive(Clone)]
struct Line {
    plan: Arc<Plan>,
    client: Rc<Client>,
}

impl Line {
    fn new(plan: Arc<Plan>, state: &Introspection, desk: &Desk) -> Self {
        let client = Client::new(&desk.wheel, &plan.target, state.upstream.clone(), plan.timeout, plan.answer_max);
        Self { client: Rc::new(client), plan }
    }

    async fn ask(&self, token: &str, flight: &mut Flight) {
        let body = format!("token={}&token_type_hint=access_token", form_encoded(token));
        let answer = self.client.ask(self.request(body)).await.map(|answer| answer.body);
        let Some(state) = flight.state.upgrade() else { return };
        let now = wall_seconds();
        let (word, holds) = state.judge(&self.plan, &answer, now);
        state.settle(flight, token.len(), word, holds, now);
    }

    fn request(&self, body: String) -> Request<Body> {
        let mut request = Request::new(Body::full(body));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.plan.credential.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request
    }
}

/// `Authorization` of who asks (RFC 6749 §2.3.1). `None`: there is nothing to prove it by.
pub fn credential(id: &str, secret: &str) -> Option<HeaderValue> {
    if id.is_empty() || secret.is_empty() {
        return None;
    }
    let pair = STANDARD.encode(format!("{}:{}", form_encoded(id), form_encoded(secret)));
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// As a value of `application/x-www-form-urlencoded`.
pub fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "the time of day of an answer, which speaks of such times")]
fn wall_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::client::Terms;
    use super::*;
    use crate::exchange::identity::ClaimPath;

    const NOW: i64 = 1_800_000_000;

    fn plan() -> Plan {
        Plan {
            target: Target::parse("http://127.0.0.1:1/introspect", &Terms::default()).unwrap(),
            credential: credential("armiger", "a secret").unwrap(),
            rules: Rules {
                issuers: vec!["https://id".into()],
                audiences: Some(vec!["api".into()]),
                algorithms: Vec::new(),
                types: Vec::new(),
                leeway: 30,
                expires: false,
                max_lifetime: None,
                max_age: None,
                required: vec![ClaimPath::new("client_id")],
                roles: ClaimPath::new("roles"),
                scopes: vec![ClaimPath::new("scope")],
            },
            cache_for: Duration::from_secs(60),
            cache_refused_for: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            in_flight_max: 1,
            answer_max: 1024,
        }
    }

    fn word(answer: &str) -> String {
        match read(answer.as_bytes(), &plan(), &"opaque".into(), NOW) {
            Ok(Word::Good(identity)) => {
                format!("good: {} {:?} {:?}", identity.subject, identity.roles, identity.scopes)
            }
            Ok(Word::Bad(cause)) => cause.to_owned(),
            Ok(Word::Unknown) => "unknown".to_owned(),
            Err(trouble) => trouble.to_string(),
        }
    }

    #[test]
    fn an_answer_is_held_to_the_rules_of_a_token() {
        let good = json!({
            "active": true, "iss": "https://id", "aud": "api", "sub": "ada", "client_id": "app", "scope": "read write",
            "roles": ["clerk"], "exp": NOW + 100, "nbf": NOW - 100,
        });
        assert_eq!(word(&good.to_string()), r#"good: ada ["clerk"] ["read", "write"]"#);
        for (attack, member, value, told) in [
            ("revoked", "active", json!(false), INACTIVE),
            (
                "active as a text",
                "active",
                json!("true"),
                "its answer is no good: it has no `active` that is true or false",
            ),
            (
                "active as a number",
                "active",
                json!(1),
                "its answer is no good: it has no `active` that is true or false",
            ),
            ("ended", "exp", json!(NOW - 30), "jwt_expired"),
            ("an end as a text", "exp", json!("2100"), "jwt_claim_type"),
            ("not begun", "nbf", json!(NOW + 31), "jwt_not_yet_valid"),
            ("another audience", "aud", json!(["other"]), "jwt_audience"),
            ("no audience", "aud", Value::Null, "jwt_claim_type"),
            ("another issuer", "iss", json!("https://id/"), "jwt_issuer"),
            ("no member that must be there", "client_id", Value::Null, "jwt_claim_missing"),
            ("roles of another kind", "roles", json!({"clerk": true}), "jwt_claim_type"),
        ] {
            let mut answer = good.clone();
            answer[member] = value;
            assert_eq!(word(&answer.to_string()), told, "{attack}");
        }
        let twice = good.to_string().replacen('{', r#"{"active":false,"#, 1);
        for (attack, answer) in
            [("a member twice", twice.as_str()), ("HTML", "<html>"), ("nothing", ""), ("a list", "[]")]
        {
            assert_eq!(word(answer), "its answer is no good: it is no JSON object", "{attack}");
        }
    }

    #[test]
    fn who_comes_after_a_word_that_holds_for_no_time_asks_anew() {
        let state = Arc::new(Introspection::new("opaque", 1 << 20, 8, &Metrics::new()));
        let mut questions = Asked::of(&state).expect("they come in");
        let mut put = || {
            let answer = state.put([7; 32], "token");
            let question = questions.questions.as_mut().and_then(|questions| questions.try_recv().ok());
            (answer.expect("there is room"), question.map(|Question { digest, reply, .. }| (digest, reply)))
        };
        let ((first, question), (joined, none)) = (put(), put());
        assert!(none.is_none(), "who comes meanwhile waits for the same");
        let (digest, reply) = question.expect("the first is asked");
        let mut flight = Flight { digest, reply: Some(reply), state: Arc::downgrade(&state) };
        state.settle(&mut flight, 5, Word::Bad(INACTIVE), Duration::ZERO, NOW);
        assert!(first.borrow().is_some() && joined.borrow().is_some());

        let (_, question) = put();
        assert!(question.is_some(), "the next one asks anew, although the task of the first is not over");
        drop(flight);
        assert!(put().1.is_none(), "the end of the first takes nothing from the second");
    }

    #[test]
    fn questions_go_on_to_the_work_that_comes_after_one_that_broke_off() {
        let state = Arc::new(Introspection::new("opaque", 0, 8, &Metrics::new()));
        let asked = Asked::of(&state).expect("they come in");
        assert!(Asked::of(&state).is_none(), "one at a time");
        drop(asked);
        assert!(Asked::of(&state).is_some());
    }

    #[test]
    fn credentials_and_tokens_are_encoded_for_their_place() {
        assert_eq!(form_encoded("a b&token=c+d/=ü~"), "a%20b%26token%3Dc%2Bd%2F%3D%C3%BC~");
        assert_eq!(credential("a:b", "c d").unwrap(), format!("Basic {}", STANDARD.encode("a%3Ab:c%20d")));
        assert!(credential("", "x").is_none() && credential("x", "").is_none());
    }
}
