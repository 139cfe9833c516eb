//! `batch`: the envelope of many requests in one, and of their answers. What happens in between is `proxy/batch.rs`.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, response};

use super::Surroundings;
use super::json::{self, Json, Kind, View};
use crate::config::batch as config;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::{Reason, Rejection};
use crate::http::body::Body;
use crate::http::headers::{is_provenance, name};

/// Answers many requests in one.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    items_max: usize,
    /// How many requests are under way at once.
    pub concurrency: usize,
    /// When the answer goes out, since the exchange began.
    pub deadline: Duration,
    /// The longest batch.
    pub body_max: usize,
    item_body_max: usize,
    /// The longest body of one answer.
    pub item_answer_max: usize,
    /// The longest answer.
    pub answer_max: usize,
    /// Answers may go out one by one.
    pub ndjson: bool,
}

/// One request of a batch.
pub struct Item {
    /// What the caller calls it.
    pub id: Option<Json>,
    /// The request, or why it is none.
    pub request: Result<Request<Body>, Rejection>,
}

/// Headers that are about the batch's own message, and no request in it.
const OWN: &[HeaderName] = &[
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Headers that say who calls, where from, or what belongs to a connection. Those of the batch hold, or none.
const FIXED: &[&str] = &[
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-request-id",
];

impl Batch {
    /// Compiles the action, or reports what is wrong with it.
    pub fn compile(
        config: &config::Batch,
        around: &Surroundings<'_>,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        if around.methods != ["POST"] {
            issues.push(
                Issue::new(path.clone(), "a batch is posted, and the route takes other methods")
                    .goes_by(around.methods_at.clone())
                    .hint("let it match just that one: `methods: [POST]`"),
            );
        }
        for (key, value, most) in [("items_max", config.items_max, 1000), ("concurrency", config.concurrency, 64)] {
            if !(1..=most).contains(&value) {
                issues.push(
                    Issue::new(path.key(key), format!("{value} is out of bounds"))
                        .hint(format!("choose from 1 to {most}")),
                );
            }
        }
        for (key, value) in [
            ("body_max", config.body_max),
            ("item_body_max", config.item_body_max),
            ("item_answer_max", config.item_answer_max),
            ("answer_max", config.answer_max),
        ] {
            if !(1..=256 << 20).contains(&value.get()) {
                issues.push(
                    Issue::new(path.key(key), "is out of bounds")
                        .hint("choose from 1B to 256MiB: all of it is held in memory"),
                );
            }
        }
        let deadline = config.deadline(around.timeout);
        let (is_short, is_long) = (deadline < Duration::from_millis(1), deadline > around.timeout);
        if config.deadline.is_some() && (is_short || is_long) {
            let issue = Issue::new(path.key("deadline"), "is out of bounds")
                .hint("choose from 1ms to the route's `timeout`, which ends everything");
            issues.push(if is_short { issue } else { around.timeout_at.iter().cloned().fold(issue, Issue::goes_by) });
        }
        let size = |size: crate::config::value::ByteSize| usize::try_from(size.get()).unwrap_or(usize::MAX);
        (issues.len() == before).then(|| Self {
            items_max: config.items_max.into(),
            concurrency: config.concurrency.into(),
            deadline,
            body_max: size(config.body_max),
            item_body_max: size(config.item_body_max),
            item_answer_max: size(config.item_answer_max),
            answer_max: size(config.answer_max),
            ndjson: config.ndjson,
        })
    }

    /// Reads the requests of a batch. `received` are the headers that it came with.
    ///
    /// # Errors
    /// It is no list of requests, or has too many of them. What is wrong with one of them is said in its place.
    pub fn items(&self, body: Bytes, received: &HeaderMap) -> Result<Vec<Item>, Rejection> {
        // What pages of other sites can send without being asked about is no batch: it would be one of the user's.
        if !received.get(header::CONTENT_TYPE).is_some_and(is_json) {
            return Err(Rejection::from(Reason::UnsupportedMediaType)
                .detail("A batch comes with `Content-Type: application/json`."));
        }
        let wrong = |detail: &'static str| Rejection::from(Reason::BadBody).detail(detail);
        let document = Json::check(body).map_err(|_| wrong("The batch is no JSON document."))?;
        if document.view().kind() != Kind::Array {
            return Err(wrong("The batch is no JSON array."));
        }
        let mut inherited = received.clone();
        for name in OWN {
            inherited.remove(name);
        }
        inherited.remove(&name::X_REQUEST_ID);
        inherited.remove(&name::IDEMPOTENCY_KEY);
        let mut items = Vec::new();
        for view in document.view().items() {
            if items.len() == self.items_max {
                return Err(Rejection {
                    limit: Some("routes.batch.items_max"),
                    ..Rejection::from(Reason::BodyTooLarge)
                        .detail(format!("A batch has {} requests at most.", self.items_max))
                });
            }
            items.push(Item { id: id(&document, view), request: self.request(view, &inherited) });
        }
        Ok(items)
    }

    fn request(&self, view: View<'_>, inherited: &HeaderMap) -> Result<Request<Body>, Rejection> {
        let wrong = |detail: String| Rejection::from(Reason::BadBody).detail(detail);
        if view.kind() != Kind::Object {
            return Err(wrong("A request of a batch is an object.".into()));
        }
        let (mut method, mut path, mut headers, mut body) = (None, None, None, None);
        for (key, value) in view.members() {
            match &*key.text() {
                "id" => {}
                "method" => method = Some(value),
                "path" => path = Some(value),
                "headers" => headers = Some(value),
                "body" => body = Some(value),
                // It may have been meant to protect something.
                _ => {
                    return Err(wrong("A request of a batch has `id`, `method`, `path`, `headers` and `body`.".into()));
                }
            }
        }
        let method = match method {
            None => Method::GET,
            Some(view) => text(view)
                .filter(|text| !text.bytes().any(|byte| byte.is_ascii_lowercase()))
                .and_then(|text| Method::from_bytes(text.as_bytes()).ok())
                .filter(|method| ![Method::CONNECT, Method::TRACE].contains(method))
                .ok_or_else(|| wrong("`method` is none.".into()))?,
        };
        let target = path
            .and_then(text)
            .filter(|path| path.starts_with('/') && !path.contains('#'))
            .and_then(|path| http::uri::PathAndQuery::try_from(&*path).ok())
            .ok_or_else(|| wrong("`path` is none: it begins with `/`.".into()))?;
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(target);
        *request.headers_mut() = inherited.clone();
        if let Some(given) = headers {
            if given.kind() != Kind::Object {
                return Err(wrong("`headers` is no object.".into()));
            }
            for (key, value) in given.members() {
                let (name, value) = header(&key.text(), value)
                    .ok_or_else(|| wrong("A header is a name, and a text that can stand in one.".into()))?;
                let is_fixed = FIXED.contains(&name.as_str())
                    || is_provenance(&name)
                    || name.as_str().starts_with("x-auth-request")
                    || inherited.contains_key(&name);
                if is_fixed {
                    return Err(wrong(format!("The header `{name}` is that of the batch, for all its requests.")));
                }
                request.headers_mut().insert(name, value);
            }
        }
        if let Some(view) = body.filter(|view| view.kind() != Kind::Null) {
            let kind = request.headers().get(header::CONTENT_TYPE);
            // A text that is said to be something else than JSON is sent as it is.
            let bytes = match (kind, text(view)) {
                (Some(kind), Some(text)) if !is_json(kind) => Bytes::from(text.into_owned()),
                _ => Bytes::copy_from_slice(view.bytes()),
            };
            if bytes.len() > self.item_body_max {
                return Err(Rejection {
                    limit: Some("routes.batch.item_body_max"),
                    ..Rejection::from(Reason::BodyTooLarge)
                });
            }
            let headers = request.headers_mut();
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            *request.body_mut() = Body::full(bytes);
        }
        Ok(request)
    }
}

/// The text of a text, and of nothing else.
fn text(view: View<'_>) -> Option<Cow<'_, str>> {
    if view.kind() == Kind::Text { view.text() } else { None }
}

fn id(document: &Json, view: View<'_>) -> Option<Json> {
    view.get("id").filter(|id| matches!(id.kind(), Kind::Text | Kind::Plain)).map(|id| Json::within(document, id))
}

fn header(name: &str, value: View<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let value = HeaderValue::from_str(&value.text()?).ok()?;
    Some((name, value))
}

/// Whether a media type is JSON (RFC 8259 §11, RFC 6839 §3.1).
fn is_json(kind: &HeaderValue) -> bool {
    let essence = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// An answer in a batch, as JSON. `index` is told where the order does not tell it; the text then has no line break in it.
pub fn entry(id: Option<&Json>, index: Option<usize>, head: &response::Parts, body: Bytes) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 256);
    out.push(b'{');
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id.bytes());
        out.push(b',');
    }
    if let Some(index) = index {
        out.extend_from_slice(format!("\"index\":{index},").as_bytes());
    }
    out.extend_from_slice(b"\"status\":");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b",\"headers\":{");
    for (place, name) in head.headers.keys().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::write_text(&mut out, name.as_str());
        out.push(b':');
        let lines: Vec<_> =
            head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        match lines.as_slice() {
            [one] => json::write_text(&mut out, one),
            // Lines of `Set-Cookie` cannot be joined.
            lines => {
                for (place, line) in lines.iter().enumerate() {
                    out.push(if place == 0 { b'[' } else { b',' });
                    json::write_text(&mut out, line);
                }
                out.push(b']');
            }
        }
    }
    out.push(b'}');
    if !body.is_empty() {
        let is_json = head.headers.get(header::CONTENT_TYPE).is_some_and(is_json);
        let json = if is_json { Json::check(body.clone()).ok() } else { None };
        out.extend_from_slice(b",\"body\":");
        match (json, std::str::from_utf8(&body)) {
            (Some(json), _) => {
                let from = out.len();
                out.extend_from_slice(json.bytes());
                if index.is_some() {
                    // In JSON a line break stands between values only.
                    out[from..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                }
            }
            (None, Ok(text)) => json::write_text(&mut out, text),
            (None, Err(_)) => {
                json::write_text(&mut out, &STANDARD.encode(&body));
                out.extend_from_slice(b",\"encoding\":\"base64\"");
            }
        }
    }
    out.push(b'}');
    out
}

/// The head of a batch's answer.
pub fn head(kind: &'static str) -> response::Parts {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = StatusCode::OK;
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    head
}
