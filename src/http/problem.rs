//! A refusal in the form that its caller understands: problem+json (RFC 9457), plain text, or gRPC trailers-only.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::Body;
use super::grpc;

/// What a refusal says.
#[derive(Debug)]
pub struct Problem<'a> {
    /// HTTP status, for callers that do not speak gRPC.
    pub status: StatusCode,
    /// gRPC status code, for those that do.
    pub grpc: u8,
    /// The stable name, the end of `type`.
    pub slug: &'static str,
    /// What kind of refusal this is, in words.
    pub title: &'static str,
    /// What the client may know beyond it.
    pub detail: Option<&'a str>,
    /// Another `type` than the one that ends with the slug: one that is registered.
    pub kind: Option<&'static str>,
    /// A member of its own: its name, and its list of texts.
    pub list: Option<(&'static str, &'a [&'a str])>,
    /// More members.
    pub members: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// The id that the log line has too.
    pub request_id: &'a str,
}

/// The forms of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/problem+json`.
    Json,
    /// `text/plain`, for a caller whose `Accept` leaves no room for JSON.
    Text,
    /// Status 200 with `grpc-status` in the headers ("trailers-only").
    Grpc,
}

impl Form {
    /// The form for the sender of these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        if grpc::is_grpc(headers) {
            return Self::Grpc;
        }
        let mut lines = headers.get_all(header::ACCEPT).iter().peekable();
        if lines.peek().is_none() || lines.any(accepts_json) { Self::Json } else { Self::Text }
    }
}

fn accepts_json(accept: &HeaderValue) -> bool {
    let Ok(accept) = accept.to_str() else { return true };
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or("");
        let refused = parts.any(|part| {
            part.strip_prefix("q=")
                .is_some_and(|q| q.trim_start_matches('0').trim_start_matches('.').trim_matches('0').is_empty())
        });
        let is = |known: &str| kind.eq_ignore_ascii_case(known);
        let is_json = kind.as_bytes().last_chunk::<5>().is_some_and(|end| end.eq_ignore_ascii_case(b"+json"));
        let fits = is("*/*") || is("application/*") || is("application/json") || is_json;
        fits && !refused
    })
}

/// Renders it. Never to be cached: the next request may well succeed.
pub fn render(problem: &Problem<'_>, form: Form) -> Response<Body> {
    let (status, kind, body) = match form {
        Form::Json => (problem.status, "application/problem+json", json(problem)),
        Form::Text => (problem.status, "text/plain; charset=utf-8", text(problem)),
        Form::Grpc => (StatusCode::OK, "application/grpc", String::new()),
    };
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if form == Form::Grpc {
        headers.insert("grpc-status", HeaderValue::from(u16::from(problem.grpc)));
        let message = problem.detail.unwrap_or(problem.title);
        if let Ok(message) = HeaderValue::try_from(grpc_message(message)) {
            headers.insert("grpc-message", message);
        }
    }
    response
}

fn json(problem: &Problem<'_>) -> String {
    let mut document = serde_json::Map::new();
    let own = || format!("urn:armiger:{}", problem.slug);
    document.insert("type".into(), problem.kind.map_or_else(own, str::to_owned).into());
    document.insert("title".into(), problem.title.into());
    document.insert("status".into(), problem.status.as_u16().into());
    if let Some(detail) = problem.detail {
        document.insert("detail".into(), detail.into());
    }
    if let Some((name, list)) = problem.list {
        document.insert(name.into(), list.into());
    }
    for (name, value) in problem.members.into_iter().flatten() {
        document.insert(name.clone(), value.clone());
    }
    document.insert("instance".into(), format!("urn:request:{}", problem.request_id).into());
    document.insert("request_id".into(), problem.request_id.into());
    serde_json::Value::Object(document).to_string()
}

fn text(problem: &Problem<'_>) -> String {
    let mut text = format!("{} {}: {}\n", problem.status.as_u16(), problem.slug, problem.title);
    if let Some(detail) = problem.detail {
        text.push_str(detail);
        text.push('\n');
    }
    text.push_str("request ");
    text.push_str(problem.request_id);
    text.push('\n');
    text
}

/// Percent-encodes what `grpc-message` cannot hold (gRPC over HTTP/2, "Responses").
fn grpc_message(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &'static str, value: &'static str, form: Form) {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        assert_eq!(Form::of(&headers), form, "{name}: {value}");
    }

    #[test]
    fn the_form_follows_what_the_caller_speaks() {
        check("content-type", "application/grpc", Form::Grpc);
        check("content-type", "application/grpc+proto", Form::Grpc);
        check("content-type", "application/grpc ;charset=utf-8", Form::Grpc);
        check("content-type", "application/grpc-web", Form::Json);
        check("accept", "text/html", Form::Text);
        check("accept", "text/html, */*;q=0.1", Form::Json);
        check("accept", "text/html, */*;q=0", Form::Text);
        check("accept", "text/html, */*;q=0.000", Form::Text);
        check("accept", "application/problem+json", Form::Json);
        assert_eq!(Form::of(&HeaderMap::new()), Form::Json);
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(grpc_message("100% ü"), "100%25 %C3%BC");
    }
}
