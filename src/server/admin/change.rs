//! The pages that change something: only by POST, and never for a page of another site.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, Refusal, json, text};
use super::guard::Who;
use super::operator::{BreakerOrder, LimitsAsk, Outcome, Told};
use super::page::{Call, Page, bad};
use super::read::{answer_of, decoded, drained_within, parts};
use crate::config::value::HumanDuration;
use crate::policy::cache::view::{Caches, Order};
use crate::upstream::breaker::Force;

/// What operators do.
pub static CHANGE: &[Page] = &[
    Page {
        method: Method::POST,
        path: "/reload",
        what: "read the configuration again and put it in force if it is good",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(async move { Ok(outcome(call, call.operator.reload().await)) }),
    },
    Page {
        method: Method::POST,
        path: "/config/rollback",
        what: "put an earlier version in force: ?version=N, or {\"version\": N}",
        who: Who::Operator,
        keys: Some(&["version"]),
        run: |call| Box::pin(rollback(call)),
    },
    Page {
        method: Method::POST,
        path: "/jwks/refresh",
        what: "fetch the keys of providers now: of all, or of ?provider=NAME",
        who: Who::Operator,
        keys: Some(&["provider"]),
        run: |call| {
            Box::pin(async move {
                let provider = call.query.get("provider").map(decoded);
                Ok(outcome(call, call.operator.refresh_keys(provider.as_deref()).await))
            })
        },
    },
    Page {
        method: Method::POST,
        path: "/breakers/{name}",
        what: "override an upstream's breakers: ?set=force-open|force-closed|reset, &for=5m, &endpoint= or &route=",
        who: Who::Operator,
        keys: Some(&["set", "for", "endpoint", "route"]),
        run: |call| Box::pin(async move { breaker(call) }),
    },
    Page {
        method: Method::POST,
        path: "/state/limits/reset",
        what: "fill the bucket of ?name= and &key=, and lift its ban",
        who: Who::Operator,
        keys: Some(&["name", "key"]),
        run: |call| Box::pin(reset(call)),
    },
    Page {
        method: Method::POST,
        path: "/drain",
        what: "begin to drain; the process stays until it is told to go",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(drain(call)),
    },
    Page {
        method: Method::POST,
        path: "/cache/purge",
        what: "purge what is stored: {\"url\": …}, {\"prefix\": …}, {\"tag\": …} or {\"all\": true}; with \"soft\": true it is stale",
        who: Who::Operator,
        keys: Some(&[]),
        run: |call| Box::pin(purge(call)),
    },
];

/// The most targets of one purge.
const TARGETS_MAX: usize = 1000;

/// One text, or several.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Texts {
    #[default]
    None,
    One(String),
    Some(Vec<String>),
}

impl From<Texts> for Vec<String> {
    fn from(texts: Texts) -> Self {
        match texts {
            Texts::None => Self::new(),
            Texts::One(text) => vec![text],
            Texts::Some(texts) => texts,
        }
    }
}

async fn purge(call: &Call<'_>) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[serde(default)]
        url: Texts,
        #[serde(default)]
        prefix: Texts,
        #[serde(default)]
        tag: Texts,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        soft: bool,
    }

    let wanted: Wanted = serde_json::from_slice(&call.body).map_err(|error| {
        bad(format!("the body is not {{\"url\": …}}, {{\"prefix\": …}}, {{\"tag\": …}} or {{\"all\": true}}: {error}"))
    })?;
    let order = Order {
        urls: wanted.url.into(),
        prefixes: wanted.prefix.into(),
        tags: wanted.tag.into(),
        is_all: wanted.all,
        is_soft: wanted.soft,
    };
    let targets = order.urls.len() + order.prefixes.len() + order.tags.len();
    if targets == 0 && !order.is_all {
        return Err(bad("say what to purge: `url`, `prefix`, `tag`, or `all`"));
    }
    // Whoever means all that has a tag would lose all that there is.
    if targets > 0 && order.is_all {
        return Err(bad("`all` is everything, whatever else is named: leave out `all`, or the rest"));
    }
    if targets > TARGETS_MAX {
        return Err(bad(format!("{targets} targets are too many: at most {TARGETS_MAX} at once")));
    }
    if order.tags.iter().any(String::is_empty) {
        return Err(bad("a tag is empty: write a word of `Surrogate-Key` or `Cache-Tag`"));
    }
    // A tag is a word of a list of words: as one that no answer can have, it would purge nothing and say that it did.
    if let Some(tag) = order.tags.iter().find(|tag| tag.contains(|c: char| c == ',' || c.is_whitespace())) {
        return Err(bad(format!(
            "the tag `{}` has a blank or a comma: give several tags one by one",
            tag.escape_default()
        )));
    }
    let caches = Caches::of(&call.operator.live().kept);
    let targets = caches.purge(&order).map_err(bad)?;
    let (urls, prefixes, tags) = (told(&order.urls), told(&order.prefixes), told(&order.tags));
    tracing::info!(targets, ?urls, ?prefixes, ?tags, soft = order.is_soft, all = order.is_all, "cache purged");
    let mut answer = json!({"targets": targets, "soft": order.is_soft});
    if let Some(is_told) = caches.told().await {
        answer["told_to_others"] = is_told.into();
    }
    Ok(json(StatusCode::OK, &answer))
}

/// Targets as the log shows them: the first few, without queries, which may hold what is nobody's to read.
fn told(targets: &[String]) -> Vec<String> {
    const TOLD_MAX: usize = 10;
    let shown = |target: &String| match target.split_once('?') {
        Some((path, _)) => format!("{path}?***"),
        None => target.clone(),
    };
    let mut all: Vec<String> = targets.iter().take(TOLD_MAX).map(shown).collect();
    if targets.len() > TOLD_MAX {
        all.push(format!("and {} more", targets.len() - TOLD_MAX));
    }
    all
}

/// How long a breaker is held unless the caller says so, and at most.
const FORCE: Duration = Duration::from_secs(300);
const FORCE_MAX: Duration = Duration::from_secs(24 * 3600);

fn breaker(call: &Call<'_>) -> Result<Answer, Refusal> {
    let lasts = match call.query.get("for").map(HumanDuration::parse) {
        None => FORCE,
        Some(Ok(lasts)) if !lasts.get().is_zero() && lasts.get() <= FORCE_MAX => lasts.get(),
        Some(_) => return Err(bad("`for` is a duration such as `5m`, at most 24h")),
    };
    let force = match call.query.get("set") {
        Some("force-open") => Some((Force::Open, lasts)),
        Some("force-closed") => Some((Force::Closed, lasts)),
        Some("reset") => None,
        _ => return Err(bad("say what: ?set=force-open, ?set=force-closed or ?set=reset")),
    };
    let (endpoint, route) = (call.query.get("endpoint").map(decoded), call.query.get("route").map(decoded));
    if endpoint.is_some() && route.is_some() {
        return Err(bad("a breaker is an endpoint's or a route's: give `endpoint` or `route`"));
    }
    let upstream = decoded(call.name);
    let order = BreakerOrder { upstream: &upstream, endpoint: endpoint.as_deref(), route: route.as_deref(), force };
    Ok(outcome(call, call.operator.breaker(&order)))
}

async fn reset(call: &Call<'_>) -> Result<Answer, Refusal> {
    let (Some(name), Some(key)) = (call.query.get("name"), call.query.get("key")) else {
        return Err(bad("say which: ?name=NAME&key=KEY"));
    };
    let ask = LimitsAsk::Reset(decoded(name), parts(key)?);
    answer_of(call.operator.limits(ask).await)
}

async fn rollback(call: &Call<'_>) -> Result<Answer, Refusal> {
    let version = version(call)?;
    Ok(outcome(call, call.operator.rollback(version).await))
}

/// The version that is asked for, in the query or the body.
fn version(call: &Call<'_>) -> Result<u64, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        version: u64,
    }

    let in_query = call.query.get("version");
    let is_without_body = call.body.iter().all(u8::is_ascii_whitespace);
    match (in_query, is_without_body) {
        (Some(text), true) => {
            text.parse().map_err(|_| bad("`version` is a whole number, as `/config/history` lists it"))
        }
        (None, false) => serde_json::from_slice(&call.body)
            .map(|wanted: Wanted| wanted.version)
            .map_err(|error| bad(format!("the body is not {{\"version\": N}}: {error}"))),
        (Some(_), false) => Err(bad("give the version once: as ?version=N, or in the body")),
        (None, true) => Err(bad("say which version: ?version=N; `/config/history` lists them")),
    }
}

async fn drain(call: &Call<'_>) -> Result<Answer, Refusal> {
    call.operator.drain();
    Ok(json(StatusCode::ACCEPTED, &drained_within(call, Duration::ZERO).await))
}

fn outcome(call: &Call<'_>, outcome: Outcome) -> Answer {
    let (status, word, Told { text: lines, json: report }) = match outcome {
        Outcome::Applied(told) => (StatusCode::OK, "applied", told),
        Outcome::Unchanged(told) => (StatusCode::OK, "unchanged", told),
        Outcome::Refused(told) => (StatusCode::UNPROCESSABLE_ENTITY, "refused", told),
        Outcome::Conflict(told) => (StatusCode::CONFLICT, "conflict", told),
        Outcome::Unknown(told) => (StatusCode::NOT_FOUND, "unknown", told),
        Outcome::Failed(told) => (StatusCode::BAD_GATEWAY, "failed", told),
    };
    if call.wants_json { json(status, &json!({"outcome": word, "report": report})) } else { text(status, lines) }
}
