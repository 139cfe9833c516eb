//! `headers`: what is set, added, renamed and removed on the way in and on the way out.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::value::{ByteSize, Hidden, Mode};
use crate::config::{Issue, KeyPath, foreign};
use crate::exchange::template::{Made, Template};
use crate::exchange::{Exchange, Reason, Rejection, Verdict};
use crate::http::headers::{belongs_to_the_hop, is_credential};

/// What is changed on headers: `request` on those that the upstream sees, `response` on those that the client sees,
/// refusals included.
///
/// Within each, `rename` comes first, then `remove`, then `set`, then `add`.
///
/// ```yaml
/// headers:
///   request:
///     set: {x-order: "${path.id}", x-client: "${client.address}"}
///     remove: [cookie]
///   response:
///     remove: [x-powered-by]
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Headers")]
pub struct Config {
    /// On the request, after all other policies had their say.
    pub request: Edits,
    /// On the response.
    pub response: Edits,
    /// The longest value that a claim may make of a header of the request. With a longer one the request is refused
    /// with a 431 (`headers-too-large`).
    pub claim_max: ByteSize,
    /// Whether it is enforced.
    pub mode: Mode,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            request: Edits::default(),
            response: Edits::default(),
            claim_max: ByteSize::kib(4),
            mode: Mode::default(),
        }
    }
}

/// Changes to one set of headers.
///
/// Values are text with `${path.NAME}` (a parameter of the route's path, percent-encoded as it came), `${request.id}`,
/// `${request.method}`, `${request.host}`, `${request.path}`, `${client.address}`, `${route.name}` in it; `$${` stands
/// for `${`. What nginx, Envoy, HAProxy, Caddy and Go's templates fill in (`$remote_addr`, `%REQ(X)%`, `%[src]`,
/// `{http.request.host}`, `{{ … }}`) is refused; to send it as it stands, double its first sign: `$$remote_addr`,
/// `%%REQ(X)%`, `%%[src]`, `{{http.request.host}`, `{{{ … }}`. A value that comes from the environment or a file, `${env:NAME}`,
/// stands for itself, save that `${client.address}` and the like are filled in there too.
///
/// On a request they may also name who calls: `${claims.NAME}`, `${claims./json/pointer}`, `${identity.subject}`,
/// `${identity.provider}`, `${identity.roles}` (with commas), `${identity.scopes}` (with spaces). A header that is set so is
/// armiger's alone: whatever clients send under its name, or one that back ends could take for it (`X_User` for `x-user`),
/// is removed on every route. Only visible ASCII passes as it is: `%`, spaces and all else are percent-encoded, or written
/// as `${claims.name|base64url}`, `|rfc8187` (RFC 8187) or `|json` says, the last also for lists and maps. A claim that is
/// not there, or is a list or a map without `|json`, leaves no header, and so does everything of a caller where nobody
/// proves who calls. A caller without roles or scopes has none, and that is known: `${identity.roles}` is then the empty
/// text, the header is there, and what else stands in it too.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "HeaderEdits")]
pub struct Edits {
    /// Old name to new name; what stood under the new name is replaced. Nothing happens where the old one is absent.
    pub rename: BTreeMap<String, String>,
    /// Names.
    pub remove: Vec<String>,
    /// Name to value; what stood there is replaced.
    #[serde(serialize_with = "masked")]
    pub set: BTreeMap<String, String>,
    /// Name to value; what stands there stays.
    #[serde(serialize_with = "masked")]
    pub add: BTreeMap<String, String>,
}

/// Shows the edits without what may be a credential: `/config` asks for no password.
fn masked<S: Serializer>(values: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        values.iter().map(|(name, value)| {
            (name, if is_credential(name) { Shown::Not(Hidden(value)) } else { Shown::As(value) })
        }),
    )
}

/// What of it protects: a header that is removed or set is not what the other side sent.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("headers that it removed or set are as they come"),
    Guard::at("request.remove", kept_from_upstream(), "the upstream sees what clients send"),
    Guard::at("request.set", kept_from_upstream(), "the upstream sees what clients send"),
    Guard::at(
        "response.remove",
        Weaker::Loses { among: &["response.remove", "response.set"], of: |_| true },
        "clients see what the upstream sends",
    ),
    Guard::at(
        "response.set",
        Weaker::Loses { among: &["response.set", "response.add"], of: |name| PROTECTIVE.contains(&name) },
        "browsers are no longer told to protect the page",
    ),
];

const fn kept_from_upstream() -> Weaker {
    Weaker::Loses { among: &["request.remove", "request.set"], of: |_| true }
}

/// Headers by which browsers protect a page.
const PROTECTIVE: [&str; 9] = [
    "content-security-policy",
    "cross-origin-embedder-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
];

/// A value as `/config` has it.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'v> {
    As(&'v str),
    Not(Hidden<'v>),
}

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        let claim_max = usize::try_from(self.claim_max.get()).unwrap_or(usize::MAX);
        if !(1..=CLAIM_MAX).contains(&claim_max) {
            scope.issue(
                Issue::new(path.key("claim_max"), format!("{} is out of bounds", self.claim_max))
                    .hint("choose from 1B to 64KiB"),
            );
        }
        let request = self.request.compile(&path.key("request"), scope, claim_max);
        let response = self.response.compile(&path.key("response"), scope, claim_max);
        self.reserve(&request, &path, scope);
        if self.request.is_empty() && self.response.is_empty() {
            scope.issue(Issue::new(path, "changes nothing").of_absence_of(&["request", "response"]).hint(
                "give `set`, `add`, `remove` or `rename` under `request` or `response`, or write `headers: off`",
            ));
            return;
        }
        // The response's half is asked first, so that it also has its word on what later policies refuse.
        if !response.is_empty() {
            scope.add(Stage::Always, self.mode, Headers::Response(Arc::new(response)));
        }
        if !request.is_empty() {
            scope.add(Stage::Prepare, self.mode, Headers::Request(Arc::new(request)));
        }
    }
}

/// The longest that `claim_max` may be.
const CLAIM_MAX: usize = 64 * 1024;

impl Config {
    /// What clients must not be able to send, if this is enforced; and what they must not bring under such a name.
    fn reserve(&self, request: &Plan, path: &KeyPath, scope: &mut Scope<'_>) {
        if self.mode != Mode::Enforce {
            return;
        }
        for (name, value) in request.set.iter().chain(&request.add) {
            if value.asks_caller() {
                scope.reserve(name.clone());
            }
        }
        for (from, to) in &request.rename {
            scope.renames(to.clone(), path.key("request").key("rename").key(from.as_str()));
        }
    }
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.rename.is_empty() && self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    fn compile(&self, path: &KeyPath, scope: &mut Scope<'_>, claim_max: usize) -> Plan {
        let mut plan = Plan { claim_max, ..Plan::default() };
        let is_request = path.to_string().ends_with("request");
        for (from, to) in &self.rename {
            let at = path.key("rename").key(from);
            if let (Some(from), Some(to)) = (name(from, &at, scope), name(to, &at, scope)) {
                plan.rename.push((from, to));
            }
        }
        for (place, text) in self.remove.iter().enumerate() {
            plan.remove.extend(name(text, &path.key("remove").index(place), scope));
        }
        for (key, values, compiled) in [("set", &self.set, &mut plan.set), ("add", &self.add, &mut plan.add)] {
            let mut names: BTreeMap<String, &String> = BTreeMap::new();
            for (text, template) in values {
                let at = path.key(key).key(text);
                if let Some(first) = names.insert(text.to_ascii_lowercase(), text) {
                    scope.issue(
                        Issue::new(at.clone(), format!("`{text}` and `{first}` are one header: case does not count"))
                            .hint("keep one of them"),
                    );
                }
                let Some(name) = name(text, &at, scope) else { continue };
                let Some(value) = value(template, &at, scope) else { continue };
                if value.asks_caller() && is_request {
                    scope.needs_caller_at(at, "the value names who calls");
                } else if value.asks_caller() {
                    scope.issue(
                        Issue::new(at, "names who calls, which is not known yet when answers are prepared for")
                            .hint("set it under `request`, for the upstream to see"),
                    );
                    continue;
                }
                compiled.push((name, value));
            }
        }
        plan
    }
}

/// A header name that may be changed. Those that frame the message belong to each hop.
fn name(text: &str, at: &KeyPath, scope: &mut Scope<'_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        scope.issue(
            Issue::new(at.clone(), format!("`{text}` is no header name"))
                .hint("use letters, digits and hyphens, such as `x-request-source`"),
        );
        return None;
    };
    let hint = match name.as_str() {
        "host" => "set `proxy.host` of the route instead",
        _ if belongs_to_the_hop(&name) => "leave it out: it belongs to each connection and armiger writes it itself",
        _ => return Some(name),
    };
    scope.issue(Issue::new(at.clone(), format!("`{text}` cannot be changed")).hint(hint));
    None
}

fn value(text: &str, at: &KeyPath, scope: &mut Scope<'_>) -> Option<Value> {
    // What comes from outside stands for itself: a secret may have anything in it.
    let sent = match scope.plan.source.is_filled_in(at) {
        true => Ok(text.into()),
        false => foreign::in_header(text),
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(variables) => {
            for (message, hint) in variables {
                scope.issue(Issue::new(at.clone(), message).hint(hint).of_its_own());
            }
            return None;
        }
    };
    let template = match Template::value(&sent, scope.params) {
        Ok(template) => template,
        Err(errors) => {
            let issues = errors.into_iter().map(|error| Issue::new(at.clone(), error.message).maybe_hint(error.hint));
            issues.for_each(|issue| scope.issue(issue));
            // In names of claims there may be anything.
            if !text.chars().all(|sign| sign == '\t' || !sign.is_ascii_control()) {
                scope.issue(no_value(at));
            }
            return None;
        }
    };
    let Some(constant) = template.constant() else {
        if !template.fixed().all(|text| HeaderValue::from_str(text).is_ok()) {
            scope.issue(no_value(at));
            return None;
        }
        return Some(Value::Made(template));
    };
    let value = HeaderValue::from_str(constant).ok();
    if value.is_none() {
        scope.issue(no_value(at));
    }
    value.map(Value::Fixed)
}

fn no_value(at: &KeyPath) -> Issue {
    Issue::new(at.clone(), "the value has a character that no header may have")
        .hint("use printable ASCII characters, without line breaks")
}

enum Value {
    Fixed(HeaderValue),
    Made(Template),
}

impl Value {
    fn asks_caller(&self) -> bool {
        matches!(self, Self::Made(template) if template.asks_caller())
    }

    /// `None` if what the request brings cannot stand in a header.
    fn of(&self, exchange: &Exchange, claim_max: usize) -> Result<Option<HeaderValue>, Rejection> {
        match self {
            Self::Fixed(value) => Ok(Some(value.clone())),
            Self::Made(template) if !template.asks_caller() => {
                Ok(HeaderValue::try_from(template.render(exchange)).ok())
            }
            Self::Made(template) => match template.make(exchange, claim_max) {
                Made::Value(value) => Ok(HeaderValue::try_from(value).ok()),
                Made::Absent => Ok(None),
                Made::TooLong => Err(Rejection {
                    limit: Some("headers.claim_max"),
                    ..Rejection::from(Reason::HeadersTooLarge).cause("claim_max")
                }),
            },
        }
    }
}

/// Compiled edits.
#[derive(Default)]
pub struct Plan {
    rename: Vec<(HeaderName, HeaderName)>,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    claim_max: usize,
}

/// The values of a plan for one exchange.
type Values = Vec<Option<HeaderValue>>;

impl Plan {
    fn is_empty(&self) -> bool {
        self.rename.is_empty() && self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    fn values(&self, exchange: &Exchange) -> Result<Values, Rejection> {
        self.set.iter().chain(&self.add).map(|(_, value)| value.of(exchange, self.claim_max)).collect()
    }

    fn apply(&self, headers: &mut HeaderMap, values: Values) {
        for (from, to) in &self.rename {
            let moved: Vec<HeaderValue> = headers.get_all(from).iter().cloned().collect();
            if !moved.is_empty() {
                headers.remove(from);
                headers.remove(to);
                for value in moved {
                    headers.append(to.clone(), value);
                }
            }
        }
        for name in &self.remove {
            headers.remove(name);
        }
        let mut values = values.into_iter();
        for (name, _) in &self.set {
            // A value that cannot be written leaves nothing behind: the client's own copy must not take its place.
            match values.next().flatten() {
                Some(value) => headers.insert(name.clone(), value),
                None => headers.remove(name),
            };
        }
        for (name, _) in &self.add {
            if let Some(value) = values.next().flatten() {
                headers.append(name.clone(), value);
            }
        }
    }
}

/// Changes headers on the way in or on the way out.
pub enum Headers {
    /// Those that the upstream sees.
    Request(Arc<Plan>),
    /// Those that the client sees.
    Response(Arc<Plan>),
}

impl Policy for Headers {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        Ok(match self {
            Self::Request(plan) => {
                let values = plan.values(exchange)?;
                let plan = plan.clone();
                Verdict::amend(move |exchange| plan.apply(exchange.request.headers_mut(), values))
            }
            Self::Response(plan) => {
                let values = plan.values(exchange)?;
                let plan = plan.clone();
                Verdict::followup(move |response| plan.apply(response.headers_mut(), values))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(text: &'static str) -> Value {
        Value::Fixed(HeaderValue::from_static(text))
    }

    #[test]
    fn rename_remove_set_add_happen_in_this_order() {
        let plan = Plan {
            rename: vec![(HeaderName::from_static("old"), HeaderName::from_static("new"))],
            remove: vec![HeaderName::from_static("gone")],
            set: vec![(HeaderName::from_static("gone"), fixed("again"))],
            add: vec![(HeaderName::from_static("new"), fixed("more"))],
            claim_max: 0,
        };
        let mut headers = HeaderMap::new();
        headers.insert("old", HeaderValue::from_static("kept"));
        headers.insert("new", HeaderValue::from_static("replaced"));
        headers.insert("gone", HeaderValue::from_static("x"));
        plan.apply(&mut headers, vec![Some(HeaderValue::from_static("again")), Some(HeaderValue::from_static("more"))]);
        let all: Vec<&str> = headers.get_all("new").iter().filter_map(|value| value.to_str().ok()).collect();
        assert_eq!(all, ["kept", "more"]);
        assert_eq!(headers.get("gone").map(HeaderValue::as_bytes), Some(b"again".as_slice()));
        assert!(!headers.contains_key("old"));
    }

    #[test]
    fn a_value_that_cannot_be_written_leaves_no_copy_of_the_clients() {
        let plan = Plan { set: vec![(HeaderName::from_static("x-user"), fixed("unused"))], ..Plan::default() };
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("forged"));
        plan.apply(&mut headers, vec![None]);
        assert!(!headers.contains_key("x-user"));
    }
}
