//! `routes` and `defaults`: which request, under which policies, gets which action.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::batch::Batch;
use super::saga::Saga;
use super::upstream::Class;
use super::value::{ByteSize, HumanDuration, Statuses};

/// What every route starts from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, bound = "P: Default + Serialize + serde::de::DeserializeOwned")]
#[schemars(bound = "P: Default + Serialize + JsonSchema")]
pub struct Defaults<P> {
    /// How long an exchange may take from its first byte to the last of the answer's head. Default `30s`.
    pub timeout: Option<HumanDuration>,
    /// The header of every route that does not say otherwise in which callers say how long they wait. Default: none.
    pub deadline_header: Option<String>,
    /// Policies of every route that does not say otherwise.
    pub policies: P,
}

impl<P> Defaults<P> {
    /// How long an exchange may take on a route that does not say.
    pub fn timeout(&self) -> HumanDuration {
        self.timeout.unwrap_or(HumanDuration::seconds(30))
    }
}

/// A match, its policies and one action: `proxy`, `aggregate`, `batch`, `saga_in_memory`, `respond` or
/// `redirect`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "P: Default + Serialize + serde::de::DeserializeOwned")]
#[schemars(bound = "P: Default + Serialize + JsonSchema")]
pub struct Route<P> {
    /// What logs and metrics call it. Unique.
    pub name: String,
    /// Which requests it is for.
    #[serde(rename = "match")]
    pub matches: Match,
    /// How long an exchange may take until the head of the answer is there; later is a 504 (`deadline-exceeded`).
    /// Default: `defaults.timeout`, else `30s`.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
    /// The header in which callers say how long they wait, in milliseconds, such as `x-request-timeout-ms`. It shortens
    /// `timeout` and never lengthens it; 0 is a 504 at once, and what is no number is as if it were not there. With each
    /// try the upstream of `proxy` is told in the same header what is left, be it of `timeout`; so are those of an
    /// aggregate's parts and a saga's steps, of their own time. Default: `defaults.deadline_header`, else none.
    ///
    /// A call that ends since its caller wanted no longer says nothing of the upstream: no breaker counts it.
    #[serde(default)]
    pub deadline_header: Option<String>,
    /// Whom an upstream that has too much to do turns away first: `bulk`, then `default`, then `critical`, and never
    /// `probe`. Parts of an aggregate and steps of a saga are of their route's class; what undoes a step is `critical`.
    #[serde(default)]
    pub class: Class,
    /// What is demanded of a request, and what is done to it. Asked in a fixed order, whatever the order here.
    #[serde(default)]
    pub policies: P,
    /// Send the request to an upstream.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// Ask several upstreams at once and answer with one JSON document.
    #[serde(default)]
    pub aggregate: Option<Aggregate>,
    /// Answer a list of requests in one.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// Change several upstreams in turn, and undo what was done if one of them fails.
    #[serde(default)]
    pub saga_in_memory: Option<Saga>,
    /// Answer with fixed content.
    #[serde(default)]
    pub respond: Option<Respond>,
    /// Send the client elsewhere.
    #[serde(default)]
    pub redirect: Option<Redirect>,
}

impl<P> Route<P> {
    /// How long an exchange may take.
    pub fn timeout(&self, defaults: &Defaults<P>) -> HumanDuration {
        self.timeout.unwrap_or(defaults.timeout())
    }

    /// The header in which callers say how long they wait.
    pub fn deadline_header<'a>(&'a self, defaults: &'a Defaults<P>) -> Option<&'a str> {
        self.deadline_header.as_deref().or(defaults.deadline_header.as_deref())
    }
}

/// Conditions on a request. All of those given must hold.
///
/// When several routes match, the most specific one wins, in this order: an exact host before a longer `*.suffix`
/// before any host; then the path, segment by segment from the left, a literal before a `{param}` before a prefix or
/// `{rest...}`; regular expressions last, in the order of the file; then the route that names a method, then the one
/// with more headers, more query parameters, more cookies. Two routes that remain equal are an error.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Host names: `api.example.com`, or `*.example.com` for every name below. Default: any. Without port.
    pub hosts: Vec<String>,
    /// A whole path: `/orders`, `/orders/{id}` where `{id}` is one segment, `/files/{rest...}` where the last takes
    /// all that remains behind the slash, even nothing: `/files/`, and not `/files`. `path_prefix: /files` takes both.
    pub path: Option<String>,
    /// A path and all below it: `/api` matches `/api` and `/api/x`, not `/apix`.
    pub path_prefix: Option<String>,
    /// A regular expression that the whole path must match. Asked after all other routes of the host.
    pub path_regex: Option<String>,
    /// Methods, in capitals. Default: any. `GET` also matches `HEAD`.
    pub methods: Vec<String>,
    /// Conditions on headers, by name.
    pub headers: BTreeMap<String, ValueMatch>,
    /// Conditions on query parameters, by name.
    pub query: BTreeMap<String, ValueMatch>,
    /// Conditions on cookies, by name.
    pub cookies: BTreeMap<String, ValueMatch>,
    /// Lets through what is refused elsewhere because servers read it differently from one another.
    ///
    /// The trap: the back end must then read such a path just as armiger does.
    pub path_allow: Vec<PathAllow>,
}

/// A condition on a header, query parameter or cookie. Just one of the keys.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ValueMatch {
    /// The value is this.
    pub exact: Option<String>,
    /// The value begins with this.
    pub prefix: Option<String>,
    /// The whole value matches this regular expression.
    pub regex: Option<String>,
    /// `true`: it is there, whatever its value. `false`: it is absent.
    pub present: Option<bool>,
}

/// Something in a path that is refused unless a route allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathAllow {
    /// `%2F`, a slash that separates nothing.
    EncodedSlash,
    /// `%00`.
    EncodedNul,
    /// `\` or `%5C`.
    Backslash,
    /// `;`, which some servers cut path parameters at.
    Semicolon,
}

/// Send the request to an upstream and its answer back.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The name of an upstream.
    pub upstream: String,
    /// The path that the upstream sees, with the match's parameters: `/v2/orders/{id}`. Default: the path as it came,
    /// normalised. The query is passed on.
    ///
    /// What stands there is what the path of a request may be once it is normalised: no `.`, `..` or `//`, percent-encoded in one
    /// form, and `%2F`, `%00`, `%5C` and `;` only if `path_allow` of the match names them. A request whose parameters would
    /// make something else of it is a 400 (`bad-path`).
    #[serde(default)]
    pub rewrite: Option<String>,
    /// The `Host` that the upstream sees. Default: `preserve`.
    #[serde(default)]
    pub host: Option<Host>,
    /// Whether clients may speak WebSocket with the upstream (RFC 6455), by an upgrade that it grants, or where it speaks
    /// HTTP/2 by a stream (RFC 8441); where it takes none, that is a 501 (`not-implemented`). Policies are asked of the
    /// handshake as of any other request; what follows is passed on both ways, without a time limit but
    /// `timeouts.tunnel_idle` of the upstream. `false`: the wish is taken out of the request; on
    /// a stream of HTTP/2, which is of use for nothing else, that is a 501 too, and the upstream is not asked.
    #[serde(default = "yes")]
    pub websocket: bool,
    /// What stands in while the upstream fails, for GET and HEAD. Default: nothing, and callers are told.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// Sends copies of requests to another upstream. Default: none.
    #[serde(default)]
    pub mirror: Option<Mirror>,
}

/// What stands in for an upstream that fails, for GET and HEAD without a body: after what a cache has stored of the answer
/// (`cache.stale_if_error`) comes the other upstream, then the fixed answer, then the refusal.
///
/// An upstream fails that gives no answer, is shielded by its breaker, has too much to do, or answers one of `status`. An
/// answer that stands in has `Proxy-Status: armiger; …; details="fallback-upstream"` (or `fallback-respond`), is never
/// stored by a cache, and stands as `fallback` in the access log.
///
/// ```yaml
/// proxy: {upstream: app, fallback: {upstream: replica, respond: {status: 200, body: "[]", content_type: application/json}}}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Another upstream. It is asked in the time that is left: with `timeouts.first_byte` of the first one below the
    /// route's `timeout` there is some.
    #[serde(default)]
    pub upstream: Option<String>,
    /// A fixed answer.
    #[serde(default)]
    pub respond: Option<Respond>,
    /// Statuses of an upstream that are as good as no answer. Default: 502, 503 and 504.
    #[serde(default = "failures")]
    pub status: Vec<Statuses>,
}

fn failures() -> Vec<Statuses> {
    vec![Statuses::range(502, 504)]
}

/// Sends copies of requests to another upstream, such as a new version of the service, whose answers nobody sees.
///
/// A copy never delays a request: it is left out where there are too many at once, where the request's body is too long,
/// or where the answer came before all of the body (`armiger_mirrored_requests_total`). It has what the upstream was sent,
/// and `X-Armiger-Mirror: 1`. A WebSocket has no copy. A drain waits for copies as for exchanges, up to `drain.timeout`.
///
/// The trap: whatever a copy does is done. A mirror that writes into the database of the service, or sends mail, does so a
/// second time; mirror from a route with `match: {methods: [GET]}` alone, or to a service with a database of its own.
///
/// ```yaml
/// proxy: {upstream: app, mirror: {upstream: next, share: 0.05}}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The name of an upstream.
    pub upstream: String,
    /// The share of the requests: 0.05 for one in twenty, by chance. Default: all.
    #[serde(default = "all")]
    pub share: f64,
    /// Requests with a longer body have no copy. So much memory may each copy take.
    #[serde(default = "body_max")]
    pub body_max: ByteSize,
    /// Copies that may be under way at once on the route.
    #[serde(default = "in_flight_max")]
    pub in_flight_max: u32,
}

fn all() -> f64 {
    1.0
}

fn body_max() -> ByteSize {
    ByteSize::kib(64)
}

fn in_flight_max() -> u32 {
    64
}

fn yes() -> bool {
    true
}

/// The `Host` that an upstream sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// The client's.
    #[default]
    Preserve,
    /// The endpoint's, as its URL has it.
    Upstream,
    /// This one.
    Literal(String),
}

/// A fixed answer.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Status, 200 to 599.
    #[serde(default = "ok")]
    pub status: u16,
    /// Body.
    #[serde(default)]
    pub body: String,
    /// `Content-Type`. Default: `text/plain; charset=utf-8`, if there is a body.
    #[serde(default)]
    pub content_type: Option<String>,
    /// More headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl Respond {
    /// The `Content-Type` of a body that is said nothing of.
    pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";
}

fn ok() -> u16 {
    200
}

/// Send the client elsewhere.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: a path or a URL, with the match's parameters: `https://example.com/new/{id}`. The query is passed on.
    pub to: String,
    /// 301, 302, 303, 307 or 308. Default: 308, which keeps method and body.
    #[serde(default = "permanent")]
    pub status: u16,
}

fn permanent() -> u16 {
    308
}
