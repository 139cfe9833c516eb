//! `aggregate`: several upstreams asked at once, one JSON document answered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::Second;
use super::ordered::Ordered;
use super::value::{ByteSize, HumanDuration, Statuses};

/// Ask several upstreams at once and answer with one JSON document made of theirs.
///
/// The document depends on the order of `parts` and on what they say, never on who answers first. Numbers, texts and the
/// order of keys pass byte for byte.
///
/// ```yaml
/// aggregate:
///   deadline: 800ms
///   parts:
///     user:   {upstream: users, path: "/users/{path.id}", required: true, pass_status: [404]}
///     orders: {upstream: orders, path: "/orders?user={parts.user.body.id}", fallback: {static: {items: []}}}
///     ads:    {upstream: app, path: /ads, timeout: 80ms}
/// ```
///
/// `{…}` puts a value into a path, a query, a header or a body, escaped for its place: `{path.NAME}`, `{query.NAME}`,
/// `{headers.NAME}`, `{claims.NAME}`, `{request.id}`, `{request.method}`, `{request.host}`, `{request.path}`,
/// `{request.body.PATH}`, `{client.address}`, `{route.name}`, and of another part `{parts.NAME.body.PATH}`,
/// `{parts.NAME.status}`, `{parts.NAME.headers.NAME}`. A part waits for the parts that it names, and for no other. Where the
/// value is missing the part is not asked, unless there is a default: `{query.page:-1}`. `{{` and `}}` stand for braces.
///
/// The answer says in `X-Armiger-Completed` whether anything is missing, and then what: `false; missing="ads"`. Such an
/// answer is `no-store`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// When the answer goes out with what is there. No more than the route's `timeout`. Default: nine tenths of that, so that
    /// an answer with what is there can still go out.
    #[serde(default)]
    pub deadline: Option<HumanDuration>,
    /// What to ask, by name. The order is that of the document.
    pub parts: Ordered<Part>,
    /// How the parts become one document.
    #[serde(default)]
    pub merge: Merge,
    /// How many requests may be under way at once, over all parts of one answer. Default `16`.
    #[serde(default = "sixteen")]
    pub concurrency: u16,
    /// Headers of the client that each part gets. Default: `accept-language`. Trace, request id, `Via` and `X-Forwarded-*`
    /// go along always; `authorization` and `cookie` only if they stand here.
    #[serde(default)]
    pub forward: Option<Vec<String>>,
    /// A key of the document under which failures are listed, each with its part and reason, if there are any. Default: none.
    #[serde(default)]
    pub errors_as: Option<String>,
    /// The longest answer. Longer is a 502 (`aggregate-too-large`).
    #[serde(default = "ten_mib")]
    pub body_max: ByteSize,
    /// The longest request body that `{request.body…}` is looked up in. Longer is a 413.
    #[serde(default = "one_mib")]
    pub request_body_max: ByteSize,
}

impl Aggregate {
    /// When the answer goes out, on a route with this timeout.
    pub fn deadline(&self, timeout: Duration) -> Duration {
        self.deadline.unwrap_or_else(|| HumanDuration::rounded(timeout * 9 / 10)).get()
    }

    /// Headers of the client that parts get which do not say.
    pub fn forward(&self) -> Cow<'_, [String]> {
        self.forward.as_deref().map_or_else(|| vec!["accept-language".to_owned()].into(), Cow::Borrowed)
    }
}

/// How parts become one document.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Merge {
    /// The form of the document.
    pub mode: MergeMode,
    /// What happens when two parts say different things under one key. In `flat` and `deep` only.
    pub on_conflict: OnConflict,
}

/// The form of a merged document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergeMode {
    /// An object with a key for each part.
    #[default]
    Group,
    /// An object with the keys of all parts side by side. A part that is no object fails; one with `foreach` is a list, and
    /// needs a key of its own by `as`.
    Flat,
    /// The same, and objects under one key are merged in turn.
    Deep,
    /// A list of the parts; those that are lists are joined.
    Concat,
}

/// What happens when two parts say different things under one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// There is no answer: a 502 (`merge-conflict`).
    #[default]
    Error,
    /// What the part said that stands first in the file.
    First,
    /// What the part said that stands last.
    Last,
}

/// A part of an aggregate: a request, what of its answer is taken, and what happens without.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The name of an upstream.
    pub upstream: String,
    /// Method. One that changes something may only stand on a route whose methods all do, and two such parts need an order:
    /// see `after`.
    #[serde(default = "get")]
    pub method: String,
    /// Path and query, with values in `{…}`. A value in the path is one segment of it: a slash, `..` or nothing cannot be
    /// placed, and the part fails.
    pub path: String,
    /// Headers, with values in `{…}`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers of the client that this part gets, in place of the aggregate's `forward`.
    #[serde(default)]
    pub forward: Option<Vec<String>>,
    /// The JSON body to send. A text in it that is one `{…}` becomes the value itself, number or object; others are filled in.
    #[serde(default)]
    pub body: Option<Value>,
    /// Parts that must be over before this one begins, beside those it names.
    #[serde(default)]
    pub after: Vec<String>,
    /// A condition, in CEL (docs/expressions.md): the part is asked only where it holds, and is nothing that is missing where it
    /// does not. Beside what rules may name there is `parts.NAME.status` and `parts.NAME.body`: the part waits for those. One
    /// that cannot be told, because it reads what is not there, fails the part: ask before by `has(claims.plan)`.
    #[serde(default)]
    pub when: Option<String>,
    /// Without it there is no answer: the others are given up, and the client gets a 502 or 504 that names the part.
    #[serde(default)]
    pub required: bool,
    /// Statuses of a required part that the client gets as they are, such as 404.
    #[serde(default)]
    pub pass_status: Vec<u16>,
    /// Statuses that count as an answer, such as `404` or `200-299`. Default: 200 to 299. One without a body is `null`.
    #[serde(default)]
    pub accept: Vec<Statuses>,
    /// How long this part may take, its fallback upstream not counted. Default: until the aggregate's deadline.
    #[serde(default)]
    pub timeout: Option<HumanDuration>,
    /// The longest answer of this part.
    #[serde(default = "one_mib")]
    pub body_max: ByteSize,
    /// A list, such as `parts.orders.body.items` or `request.body.ids`. The part is asked once for each of its entries, `{item}`
    /// or `{item.PATH}`, and becomes the list of the answers, in that order.
    #[serde(default)]
    pub foreach: Option<String>,
    /// How many entries `foreach` may have. More, and the part fails.
    #[serde(default = "fifty")]
    pub items_max: u16,
    /// How many entries are asked for at once.
    #[serde(default = "four")]
    pub items_concurrency: u16,
    /// Keep its answers, and ask no more often than they say. Of `GET` only. Default: each answer is fetched.
    #[serde(default)]
    pub cache: Option<PartCache>,
    /// What to do instead where the part fails.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// `null` stands where the part would, or one entry of its `foreach`, when it is missing. Default: it is left out.
    #[serde(default)]
    pub null_on_error: bool,
    /// Take only what stands here in the answer: `data`, `data.items` or `/data/items`. Where nothing does the part fails.
    #[serde(default)]
    pub unwrap: Option<String>,
    /// Keep only what stands at these places: `id`, `owner.name`, `items.*.id` for each entry of a list, or as JSON Pointer
    /// `/owner/name`. A dot within a key is written `\.`.
    #[serde(default)]
    pub pick: Vec<String>,
    /// Leave out what stands at these places.
    #[serde(default)]
    pub omit: Vec<String>,
    /// New names of keys, by their places: `{"items.*.sku": article}`. Places are those before.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Another key than the part's name, in `group`. In the other modes: wrap the part in an object with this one key.
    #[serde(default, rename = "as")]
    pub wrap_as: Option<String>,
    /// Ask it for the sake of other parts only, and leave it out of the document.
    #[serde(default)]
    pub hidden: bool,
    /// Headers of the part's answer that the client gets, if there is one. `set-cookie` only if it stands here.
    #[serde(default)]
    pub expose: Vec<String>,
}

/// Answers of a part that are known already, by the rules of the policy `cache`: what the answer's `Cache-Control` allows is kept,
/// those who ask for the same at once wait for one request, and `POST /cache/purge` purges by tag, by path, or by
/// `http://UPSTREAM/path`. In logs and metrics its route is called `ROUTE/PART`. Answers that are no accepted JSON are not
/// kept as if they were.
///
/// The target that the part asks for tells answers apart, and so does each of its `headers`: what is filled in from claims there is
/// never another caller's. Of what the part gets by `forward` the upstream says in `Vary` what it goes by; what may
/// tell who calls, as `authorization` does, must be named in `vary_by`, or nothing is kept but what says `public`, `s-maxage` or
/// `must-revalidate`.
///
/// ```yaml
/// ads: {upstream: ads, path: /ads, cache: {ttl: {default: 10s}}, fallback: {stale: 1h}}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PartCache {
    /// How long answers are fresh that do not say so themselves, by status, as in the policy `cache`: `{default: 10s, 404: 5s}`.
    pub ttl: BTreeMap<String, HumanDuration>,
    /// Whether `ttl` counts even where the answer says something else. `no-store` and `private` count all the same.
    pub ttl_overrides: bool,
    /// What else tells answers apart: `claim:NAME`, `header:NAME`, `cookie:NAME`.
    pub vary_by: Vec<String>,
    /// How long a stale answer may be used while a fresh one is fetched behind it, where the answer says nothing of that.
    pub stale_while_revalidate: HumanDuration,
    /// Whether callers get the same answer, whoever they are.
    ///
    /// The trap: if they do not, one caller sees what is another's.
    pub shared_across_users: bool,
    /// Where else answers are kept: `redis`, that of the section `cache`. Default: nowhere.
    pub l2: Option<Second>,
}

impl Default for PartCache {
    fn default() -> Self {
        Self {
            ttl: BTreeMap::new(),
            ttl_overrides: false,
            vary_by: Vec::new(),
            stale_while_revalidate: HumanDuration::seconds(0),
            shared_across_users: false,
            l2: None,
        }
    }
}

/// What stands in for a part that failed, in this order.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fallback {
    /// What `cache` has of it, for so long after that was fresh, unless the answer says something else in `stale-if-error`:
    /// where the upstream cannot be reached, is too slow, answers 500, 502, 503 or 504, or what is no JSON. Nothing is missing then;
    /// `X-Armiger-Completed` names the part as `stale`, and the document is `no-store`.
    pub stale: Option<HumanDuration>,
    /// Another upstream that is asked the same. For methods that change nothing.
    pub upstream: Option<String>,
    /// A fixed value, taken as it is: `unwrap`, `pick`, `omit` and `rename` do nothing to it.
    #[serde(rename = "static")]
    pub fixed: Option<Value>,
    /// The fixed value is as good as an answer: nothing is missing. The answer is `no-store` all the same.
    pub counts_as_complete: bool,
}

fn get() -> String {
    "GET".into()
}

fn four() -> u16 {
    4
}

fn sixteen() -> u16 {
    16
}

fn fifty() -> u16 {
    50
}

fn one_mib() -> ByteSize {
    ByteSize::mib(1)
}

fn ten_mib() -> ByteSize {
    ByteSize::mib(10)
}
