//! The pages that only show something. Whoever gets no other table can change nothing.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, json, text, typed};
use super::change;
use super::guard::Who;
use super::operator::{Check, LimitsAsk, NoLimit, Readiness};
use super::page::{Call, Page, bad};
use crate::config::value::HumanDuration;
use crate::exchange::identity::query_pairs;
use crate::policy::cache::view::Caches;
use crate::telemetry::metrics;

/// Rows of a state at once, unless the caller asks for another number.
const ROWS: usize = 100;

/// The most rows of a state at once.
const ROWS_MAX: usize = 1000;

/// The longest that `GET /drain?wait=` holds its answer back.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a kubelet and a scraper need: all that `probes` serves.
pub static PROBES: &[Page] = &[
    Page {
        method: Method::GET,
        path: "/livez",
        what: "whether armiger lives; nothing else makes it fail",
        who: Who::Anyone,
        keys: None,
        run: |_| Box::pin(async move { Ok(text(StatusCode::OK, "ok")) }),
    },
    Page {
        method: Method::GET,
        path: "/readyz",
        what: "whether requests are welcome: 200 or 503; ?verbose lists the checks",
        who: Who::Anyone,
        keys: None,
        run: |call| Box::pin(async move { Ok(ready(call)) }),
    },
    Page {
        method: Method::GET,
        path: "/metrics",
        what: "metrics in Prometheus' text format",
        who: Who::Scraper,
        keys: None,
        run: |call| Box::pin(async move { Ok(typed(StatusCode::OK, metrics::CONTENT_TYPE, call.metrics.render())) }),
    },
];

/// What else operators look at.
pub static READ: &[Page] = &[
    Page {
        method: Method::GET,
        path: "/",
        what: "this list",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(async move { Ok(index(call)) }),
    },
    Page {
        method: Method::GET,
        path: "/healthz",
        what: "the same as /readyz",
        who: Who::Anyone,
        keys: None,
        run: |call| Box::pin(async move { Ok(ready(call)) }),
    },
    Page {
        method: Method::GET,
        path: "/config",
        what: "the configuration in force, with its defaults, without secrets",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(async move { Ok(config(call)) }),
    },
    Page {
        method: Method::GET,
        path: "/config/status",
        what: "which version is in force and how the last reload went",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(async move { Ok(json(StatusCode::OK, &call.operator.status())) }),
    },
    Page {
        method: Method::GET,
        path: "/config/history",
        what: "the last versions, the newest first",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(async move { Ok(json(StatusCode::OK, &call.operator.history())) }),
    },
    Page {
        method: Method::GET,
        path: "/drain",
        what: "how far the drain is; ?wait=10s answers as soon as nothing is in flight any more",
        who: Who::Operator,
        keys: Some(&["wait"]),
        run: |call| Box::pin(drain(call)),
    },
    Page {
        method: Method::GET,
        path: "/state",
        what: "which live state can be seen",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(async move { Ok(states(call)) }),
    },
    Page {
        method: Method::GET,
        path: "/state/limits",
        what: "limits; ?name= shows one with its hottest keys (&most=10) and bans, and &key= the bucket of one key",
        who: Who::Operator,
        keys: Some(&["name", "key", "most"]),
        run: |call| Box::pin(limits(call)),
    },
    Page {
        method: Method::GET,
        path: "/state/{name}",
        what: "the rows of a live state; ?limit= and ?page= choose among them",
        who: Who::Operator,
        keys: Some(&["limit", "page"]),
        run: |call| Box::pin(state(call)),
    },
    Page {
        method: Method::GET,
        path: "/cache/lookup",
        what: "what is stored of ?url=, percent-encoded, or why nothing is",
        who: Who::Operator,
        keys: Some(&["url"]),
        run: |call| Box::pin(look_up(call)),
    },
];

fn ready(call: &Call<'_>) -> Answer {
    let Readiness { ready, checks } = call.operator.readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "not ready" };
    if call.query.get("verbose").is_none() {
        return if call.wants_json { json(status, &json!({"ready": ready})) } else { text(status, word) };
    }
    // The page asks for no token, but details are for those who would have passed it.
    let detail = |check: &Check| if call.is_trusted { check.detail.clone() } else { "withheld".into() };
    if call.wants_json {
        let checks: Vec<Value> =
            checks.iter().map(|check| json!({"name": check.name, "ok": check.ok, "detail": detail(check)})).collect();
        return json(status, &json!({"ready": ready, "checks": checks}));
    }
    let mut lines = String::new();
    for check in &checks {
        let mark = match check.ok {
            Some(true) => '+',
            Some(false) => '-',
            None => 'i',
        };
        lines += &format!("[{mark}] {}: {}\n", check.name, detail(check));
    }
    text(status, lines + word)
}

fn index(call: &Call<'_>) -> Answer {
    let is_served = |page: &Page| page.method == Method::GET || call.serves_changes;
    if call.wants_json {
        let row = |page: &Page| json!({"method": page.method.as_str(), "path": page.path, "what": page.what, "served": is_served(page)});
        return json(StatusCode::OK, &json!({"pages": pages().map(row).collect::<Vec<_>>()}));
    }
    let mut lines = String::new();
    for page in pages() {
        let note = if is_served(page) { "" } else { " (not served: no token)" };
        lines += &format!("{:4} {:16} {}{note}\n", page.method.as_str(), page.path, page.what);
    }
    text(StatusCode::OK, lines)
}

/// All that the admin listener has, in the order of its list.
pub fn pages() -> impl Iterator<Item = &'static Page> {
    let (first, rest) = READ.split_at(1);
    first.iter().chain(PROBES).chain(rest).chain(change::CHANGE)
}

fn config(call: &Call<'_>) -> Answer {
    let snapshot = call.operator.live();
    json(StatusCode::OK, &json!({"version": snapshot.version, "hash": snapshot.hash, "config": snapshot.shown()}))
}

async fn drain(call: &Call<'_>) -> Result<Answer, Refusal> {
    let wait = match call.query.get("wait") {
        None => Duration::ZERO,
        Some(text) => match HumanDuration::parse(text) {
            Ok(wait) if wait.get() <= WAIT_MAX => wait.get(),
            _ => return Err(bad(format!("`wait` is a duration such as `10s`, at most {}s", WAIT_MAX.as_secs()))),
        },
    };
    Ok(json(StatusCode::OK, &drained_within(call, wait).await))
}

/// How far the drain is, once it is over or `wait` has passed.
pub(super) async fn drained_within(call: &Call<'_>, wait: Duration) -> Value {
    let is_drained = tokio::time::timeout(wait, call.operator.drained()).await.is_ok();
    let mut told = call.operator.draining();
    if let Value::Object(told) = &mut told {
        told.insert("drained".into(), is_drained.into());
    }
    told
}

async fn look_up(call: &Call<'_>) -> Result<Answer, Refusal> {
    let url = call.query.get("url").map(|url| format!("={url}")).unwrap_or_default();
    let Some(url) = query_pairs(&url).next().and_then(|(_, url)| url).map(std::borrow::Cow::into_owned) else {
        return Ok(json(
            StatusCode::OK,
            &json!({"stored": [], "hint": "say which: ?url=http://host/path, percent-encoded"}),
        ));
    };
    let caches = Caches::of(&call.operator.live().kept);
    // It looks at every key, and `/livez` must not wait for that.
    let found = tokio::task::spawn_blocking(move || caches.look_up(&url)).await;
    let found = found.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the look-up failed"))?;
    Ok(json(StatusCode::OK, &found.map_err(bad)?))
}

fn states(call: &Call<'_>) -> Answer {
    let row = |(name, what): &(&str, &str)| json!({"name": name, "path": format!("/state/{name}"), "what": what});
    json(StatusCode::OK, &json!({"states": call.operator.states().iter().map(row).collect::<Vec<_>>()}))
}

async fn limits(call: &Call<'_>) -> Result<Answer, Refusal> {
    let most = call.query.number("most", 10, 1, ROWS_MAX)?;
    let ask = match (call.query.get("name"), call.query.get("key")) {
        (None, None) => LimitsAsk::All,
        (Some(name), None) => LimitsAsk::One(decoded(name), most),
        (Some(name), Some(key)) => LimitsAsk::Key(decoded(name), parts(key)?),
        (None, Some(_)) => return Err(bad("say of which limit: ?name=NAME&key=KEY")),
    };
    answer_of(call.operator.limits(ask).await)
}

/// What came of a question about limits.
pub(super) fn answer_of(answer: Result<Value, NoLimit>) -> Result<Answer, Refusal> {
    match answer {
        Ok(told) => Ok(json(StatusCode::OK, &told)),
        Err(NoLimit::BadKey(message)) => Err(bad(message)),
        Err(NoLimit::Unknown(names)) => {
            let message = match names.is_empty() {
                true => "there is no limit".to_owned(),
                false => format!("no limit is called so; there is {}", names.join(", ")),
            };
            Err(Refusal::new(StatusCode::NOT_FOUND, message))
        }
    }
}

/// The parts of a key: the text itself, or a list of them in JSON.
pub(super) fn parts(key: &str) -> Result<Vec<String>, Refusal> {
    let text = decoded(key);
    if !text.starts_with('[') {
        return Ok(vec![text]);
    }
    serde_json::from_str(&text).map_err(|_| bad("a key of several parts is a JSON list of texts: key=[\"a\",\"b\"]"))
}

/// A value of the query without its percent-encoding, which keys of callers may need.
pub(super) fn decoded(text: &str) -> String {
    // With an equals sign of its own ahead, for the key may have one.
    let pair = format!("={text}");
    let value = query_pairs(&pair).next().and_then(|(_, value)| value.map(std::borrow::Cow::into_owned));
    value.unwrap_or_else(|| text.to_owned())
}

async fn state(call: &Call<'_>) -> Result<Answer, Refusal> {
    let limit = call.query.number("limit", ROWS, 1, ROWS_MAX)?;
    let page = call.query.number("page", 1, 1, 1_000_000)?;
    let Some(rows) = call.operator.state(call.name).await else {
        let names: Vec<&str> = call.operator.states().iter().map(|(name, _)| *name).collect();
        let hint = match names.as_slice() {
            [] => "there is none".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        let message = format!("no state is called `{}`; {hint}", call.name.escape_default());
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    };
    let total = rows.len();
    let shown: Vec<Value> = rows.into_iter().skip((page - 1) * limit).take(limit).collect();
    let told = json!({
        "state": call.name,
        "total": total,
        "page": page,
        "pages": total.div_ceil(limit),
        "limit": limit,
        "rows": shown,
    });
    Ok(json(StatusCode::OK, &told))
}
