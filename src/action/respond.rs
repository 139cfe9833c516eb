//! `respond`: a fixed answer, made once at compile.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::config::{Issue, Issues, KeyPath, route};
use crate::http::body::Body;
use crate::http::headers::belongs_to_the_hop;

/// Answers with fixed content.
pub struct Respond {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Respond {
    /// Compiles the action, or reports what is wrong with it.
    pub fn compile(config: &route::Respond, path: &KeyPath, issues: &mut Issues) -> Option<Self> {
        let before = issues.len();
        let status = StatusCode::from_u16(config.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        if status.is_none() {
            issues.push(
                Issue::new(path.key("status"), format!("{} is no final status", config.status))
                    .hint("use a status from 200 to 599"),
            );
        }
        let bodiless = matches!(config.status, 204 | 205 | 304);
        if bodiless && !config.body.is_empty() {
            issues.push(
                Issue::new(path.key("body"), format!("a {} has no body", config.status))
                    .hint("leave `body` out, or use another status"),
            );
        }
        let mut headers = HeaderMap::new();
        if let Some(kind) = &config.content_type {
            if kind.trim().is_empty() {
                issues.push(
                    Issue::new(path.key("content_type"), "is empty")
                        .hint("write a type such as `application/json`, or leave it out"),
                );
            }
            headers.extend(value(kind, &path.key("content_type"), issues).map(|value| (header::CONTENT_TYPE, value)));
        } else if !config.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(route::Respond::CONTENT_TYPE));
        }
        for (name, text) in &config.headers {
            let at = path.key("headers").key(name);
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) if belongs_to_the_hop(&name) => {
                    issues.push(
                        Issue::new(at, format!("`{name}` cannot be set"))
                            .hint("leave it out: armiger writes it itself, for each connection"),
                    );
                }
                Ok(name) => {
                    // In place of the default `Content-Type`, not beside it.
                    if let Some(value) = value(text, &at, issues) {
                        headers.insert(name, value);
                    }
                }
                Err(_) => issues.push(
                    Issue::new(at, format!("`{name}` is no header name")).hint("write a name such as `x-served-by`"),
                ),
            }
        }
        (issues.len() == before).then(|| Self {
            status: status.unwrap_or_default(),
            headers,
            body: Bytes::copy_from_slice(config.body.as_bytes()),
        })
    }

    /// The answer. `spare` is the map of a request that nobody needs any more.
    pub(super) fn run(&self, spare: &mut HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::full(self.body.clone()));
        *response.status_mut() = self.status;
        // A map that has places costs less than a new one.
        let mut headers = std::mem::take(spare);
        headers.clear();
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        *response.headers_mut() = headers;
        response
    }
}

fn value(text: &str, at: &KeyPath, issues: &mut Issues) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(text).ok();
    if value.is_none() {
        issues.push(
            Issue::new(at.clone(), "the value has a character that no header may have")
                .hint("use printable ASCII characters, without line breaks"),
        );
    }
    value
}
