//! A request that an action makes itself: from the configuration to a plan, and from that to a request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use serde_json::Value;

use super::fill::{BodyFilling, Filling, Known, Mistake, Names, Source, Unfilled};
use crate::config::aggregate::PartCache;
use crate::config::upstream::Class;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::fetch::{Known as KnownAnswers, Sends};
use crate::exchange::template::Params;
use crate::http::body::Body;
use crate::http::headers::{self, belongs_to_the_hop, name};
use crate::http::path::{self as http_path, Held};
use crate::telemetry::finish::Occupancy;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstream;

/// What every upstream is told of the request: armiger's own words, and none of the client's that it did not vouch for.
static ALWAYS: [&HeaderName; 9] = [
    &header::VIA,
    &header::FORWARDED,
    &name::X_REQUEST_ID,
    &name::TRACEPARENT,
    &name::TRACESTATE,
    &name::X_FORWARDED_FOR,
    &name::X_FORWARDED_HOST,
    &name::X_FORWARDED_PROTO,
    &name::X_FORWARDED_PORT,
];

/// A request, but for the values in it.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    target: Filling,
    pub(super) headers: Vec<(HeaderName, Filling)>,
    /// Headers of the client that go along.
    pub(super) forward: Vec<HeaderName>,
    body: Option<BodyFilling>,
}

impl Outgoing {
    /// Fills it in.
    pub(super) fn request(&self, known: &Known<'_>) -> Result<Request<Body>, Unfilled> {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.target(known)?;
        let received = known.exchange.headers();
        let headers = request.headers_mut();
        for name in ALWAYS.iter().copied().chain(&self.forward) {
            for value in received.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, filling) in &self.headers {
            headers.insert(name, filling.header(known)?);
        }
        if let Some(filling) = &self.body {
            let body = filling.render(known)?;
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
            *request.body_mut() = Body::full(body);
        }
        Ok(request)
    }
}

/// Whether what is taken from here tells who calls.
pub(super) fn is_of_caller(source: &Source) -> bool {
    match source {
        Source::Claim(_) | Source::ClientAddress => true,
        Source::Header(name) => is_credential(name),
        _ => false,
    }
}

/// Whether a header of this name is a credential.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    headers::is_credential(name.as_str())
}

// === compile ===

/// See [`Surroundings::upstream`].
pub type FindUpstream<'s> = dyn Fn(&str, KeyPath, &mut Issues) -> Option<Arc<Upstream>> + 's;

/// See [`Surroundings::cache`].
pub type MakeCache<'s> = dyn Fn(&PartCache, &Sends<'_>, KeyPath, &mut Issues) -> Option<Arc<dyn KnownAnswers>> + 's;

/// What a route and its document have that an action may need.
pub struct Surroundings<'s> {
    /// The route's name.
    pub route: &'s str,
    /// The parameters of its path.
    pub params: &'s Params,
    /// What the paths of its requests may hold.
    pub path_allow: Held,
    /// Its methods; none for any.
    pub methods: &'s [String],
    /// Where they stand.
    pub methods_at: KeyPath,
    /// Where `timeout` may be said: by the route, or by the defaults.
    pub timeout_at: [KeyPath; 2],
    /// How long its answers may take.
    pub timeout: Duration,
    /// Where its callers say how long they wait.
    pub deadline_header: Option<HeaderName>,
    /// Whom upstreams turn away first.
    pub class: Class,
    /// Whether a policy of it proves who calls.
    pub knows_caller: bool,
    /// Gives an upstream by its name, or reports at that place that there is none.
    pub upstream: &'s FindUpstream<'s>,
    /// Makes the cache of a part, or reports what is wrong with it.
    pub cache: &'s MakeCache<'s>,
    /// Where parts are counted.
    pub metrics: &'s Metrics,
    /// The sagas of the route that are under way, if it is one.
    pub sagas: Option<Arc<Occupancy>>,
    /// The copies of its requests that are under way, if it has a mirror.
    pub copies: Option<Arc<Occupancy>>,
}

pub(super) fn positive(duration: Duration, path: KeyPath, issues: &mut Issues) {
    if duration < Duration::from_millis(1) {
        issues.push(Issue::new(path, "is too short").hint("the least is 1ms"));
    }
}

pub(super) fn between(value: u64, least: u64, most: u64, path: KeyPath, issues: &mut Issues) {
    if !(least..=most).contains(&value) {
        issues
            .push(Issue::new(path, format!("{value} is out of bounds")).hint(format!("choose from {least} to {most}")));
    }
}

pub(super) fn size(value: u64, path: KeyPath, issues: &mut Issues) {
    if !(1..=256 << 20).contains(&value) {
        issues.push(Issue::new(path, "is out of bounds").hint("choose from 1B to 256MiB: all of it is held in memory"));
    }
}

/// Headers that an upstream may get or give: none that belongs to one connection, frames a message, or names a host.
pub(super) fn headers(texts: &[String], path: &KeyPath, issues: &mut Issues) -> Vec<HeaderName> {
    let each = texts.iter().enumerate();
    each.filter_map(|(place, text)| header_name(text, path.index(place), issues)).collect()
}

fn header_name(text: &str, path: KeyPath, issues: &mut Issues) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        issues.push(Issue::new(path, format!("`{text}` is no header name")).hint("write a name such as `x-tenant`"));
        return None;
    };
    let is_own = matches!(
        name.as_str(),
        "host"
            | "accept-encoding"
            | "content-encoding"
            | "range"
            | "if-none-match"
            | "if-modified-since"
            | "if-match"
            | "if-unmodified-since"
            | "if-range"
    ) || belongs_to_the_hop(&name)
        || ALWAYS.contains(&&name);
    if is_own {
        issues.push(
            Issue::new(path, format!("`{name}` cannot stand here"))
                .hint("leave it out: armiger writes it itself, or it makes no sense here"),
        );
        return None;
    }
    Some(name)
}

/// Statuses of `least` to 599.
pub(super) fn statuses(texts: &[u16], least: u16, path: &KeyPath, issues: &mut Issues) -> Vec<StatusCode> {
    let each = texts.iter().enumerate();
    each.filter_map(|(place, text)| {
        let status = StatusCode::from_u16(*text).ok().filter(|status| (least..600).contains(&status.as_u16()));
        if status.is_none() {
            issues.push(
                Issue::new(path.index(place), format!("{text} is none that can stand here"))
                    .hint(format!("choose from {least} to 599")),
            );
        }
        status
    })
    .collect()
}

/// Whether this can be the name of a part or step.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 100 && name.bytes().all(fits)
}

/// A request while it is compiled.
pub(super) struct Draft<'d, 'i> {
    pub(super) around: &'d Surroundings<'d>,
    pub(super) names: Names<'d>,
    pub(super) path: KeyPath,
    /// Where all parts or steps stand.
    pub(super) parts: &'d KeyPath,
    pub(super) issues: &'i mut Issues,
    /// What it takes values from.
    pub(super) sources: Vec<Source>,
}

/// What the file says of a request.
pub(super) struct Wording<'c> {
    pub(super) method: &'c str,
    pub(super) path: &'c str,
    pub(super) headers: &'c BTreeMap<String, String>,
    pub(super) forward: Option<&'c [String]>,
    pub(super) body: Option<&'c Value>,
}

impl Draft<'_, '_> {
    /// Compiles a request. `forward` is what goes along where it says nothing of that.
    pub(super) fn outgoing(&mut self, wording: &Wording<'_>, forward: &[HeaderName]) -> Option<Outgoing> {
        let method = self.method(wording.method);
        let target = self.target(wording.path);
        let own_headers = self.headers(wording.headers);
        let forward = match wording.forward {
            Some(own) => headers(own, &self.path.key("forward"), self.issues),
            None => forward.to_vec(),
        };
        let body = wording.body.and_then(|body| self.body(body, method.as_ref()));
        Some(Outgoing { method: method?, target: target?, headers: own_headers, forward, body })
    }

    pub(super) fn issue(&mut self, path: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        self.issues.push(Issue::new(path.clone(), message.into()).hint(hint.into()));
    }

    pub(super) fn mistake(&mut self, path: &KeyPath, mistake: Mistake) {
        let issue = Issue::new(path.clone(), mistake.message).maybe_hint(mistake.hint);
        self.issues.push(match mistake.missing {
            Some(part) => issue.goes_by(self.parts.key(part)),
            None => issue,
        });
    }

    fn method(&mut self, text: &str) -> Option<Method> {
        let at = self.path.key("method");
        match Method::from_bytes(text.as_bytes()) {
            Ok(_) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                self.issue(
                    &at,
                    format!("`{text}` is not in capitals"),
                    format!("write `{}`", text.to_ascii_uppercase()),
                );
                None
            }
            Ok(method) if [Method::CONNECT, Method::TRACE, Method::HEAD].contains(&method) => {
                self.issue(&at, format!("{method} brings no document"), "use another method");
                None
            }
            Ok(method) => {
                let is_safe = |text: &String| Method::from_bytes(text.as_bytes()).is_ok_and(|method| method.is_safe());
                let methods = self.around.methods;
                // Of a saga it is told once, and not of each step.
                let is_told = self.around.sagas.is_some();
                if !is_told && !method.is_safe() && (methods.is_empty() || methods.iter().any(is_safe)) {
                    self.issues.push(
                        Issue::new(
                            at.clone(),
                            format!("{method} changes something, and the route takes methods that must not"),
                        )
                        .goes_by(at)
                        .goes_by(self.around.methods_at.clone())
                        .hint("let the route match such methods only: `methods: [POST]`"),
                    );
                }
                Some(method)
            }
            Err(_) => {
                self.issue(&at, format!("`{text}` is no method"), "write `GET` or `POST`");
                None
            }
        }
    }

    pub(super) fn filling(&mut self, text: &str, path: &KeyPath) -> Option<Filling> {
        let (filling, mistakes) = Filling::parse(text, &self.names);
        // Also of one with mistakes: whom it waits for is known all the same.
        self.sources.extend(filling.sources().cloned());
        let is_good = mistakes.is_empty();
        mistakes.into_iter().for_each(|mistake| self.mistake(path, mistake));
        is_good.then_some(filling)
    }

    fn target(&mut self, path: &str) -> Option<Filling> {
        let at = self.path.key("path");
        let begins_well = path.starts_with('/');
        if !begins_well {
            self.issue(&at, "does not begin with `/`", "write path and query only; where to is the upstream's to know");
        }
        let filling = self.filling(path, &at).filter(|_| begins_well)?;
        let sample = filling.sample();
        let end = sample.find('?').unwrap_or(sample.len());
        let is_normal = http_path::normalise(&sample[..end]).is_ok_and(|normal| normal.path == sample[..end]);
        if !is_normal || sample.contains('#') || PathAndQuery::try_from(sample.as_str()).is_err() {
            self.issue(
                &at,
                "is not in the one form that paths have here",
                "write no `//`, `..` or `#`, and percent-encode what cannot stand in a URL",
            );
            return None;
        }
        Some(filling)
    }

    fn headers(&mut self, headers: &BTreeMap<String, String>) -> Vec<(HeaderName, Filling)> {
        let mut own = Vec::with_capacity(headers.len());
        for (text, value) in headers {
            let at = self.path.key("headers").key(text);
            let name = header_name(text, at.clone(), self.issues);
            let filling = self.filling(value, &at);
            if let Some(filling) = &filling
                && HeaderValue::from_str(&filling.sample()).is_err()
            {
                self.issue(&at, "has characters that cannot stand in a header", "leave them out");
            }
            own.extend(name.zip(filling));
        }
        own
    }

    fn body(&mut self, body: &Value, method: Option<&Method>) -> Option<BodyFilling> {
        let at = self.path.key("body");
        if method.is_some_and(|method| method == Method::GET) {
            let issue = Issue::new(at.clone(), "a GET has no body").goes_by(self.path.key("method"));
            self.issues.push(issue.hint("use another `method`, or leave it out"));
        }
        let (filling, mistakes) = BodyFilling::parse(body, &self.names);
        self.sources.extend(filling.sources().cloned());
        let is_good = mistakes.is_empty();
        mistakes.into_iter().for_each(|mistake| self.mistake(&at, mistake));
        is_good.then_some(filling)
    }
}
