//! `redirect`: another address for the client to ask.

use http::{HeaderValue, Response, StatusCode, header};

use crate::config::{Issue, Issues, KeyPath, route};
use crate::exchange::template::{Params, Template};
use crate::exchange::{Exchange, Reason, Rejection};
use crate::http::body::Body;

/// Sends the client elsewhere.
pub struct Redirect {
    status: StatusCode,
    to: Template,
}

impl Redirect {
    /// Compiles the action, or reports what is wrong with it.
    pub fn compile(config: &route::Redirect, params: &Params, path: &KeyPath, issues: &mut Issues) -> Option<Self> {
        let before = issues.len();
        if !matches!(config.status, 301 | 302 | 303 | 307 | 308) {
            issues.push(
                Issue::new(path.key("status"), format!("{} is no redirect that keeps its word", config.status))
                    .hint("use 308 or 307, which keep the method, or 301, 302, 303"),
            );
        }
        let at = path.key("to");
        // `//host` and `/\host` lead browsers to another host, and a parameter within the host would let a link decide.
        let is_local = config.to.starts_with('/') && !config.to.starts_with("//") && !config.to.starts_with("/\\");
        let is_url = ["http://", "https://"].iter().any(|scheme| {
            config.to.strip_prefix(scheme).is_some_and(|rest| {
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                !host.is_empty() && !host.contains('{')
            })
        });
        if !is_local && !is_url {
            issues.push(
                Issue::new(at.clone(), "is neither a path nor a URL with a fixed host")
                    .hint("write `/new/{id}` or `https://example.com/new/{id}`"),
            );
        }
        if HeaderValue::from_str(&config.to).is_err() {
            issues
                .push(Issue::new(at.clone(), "has characters that cannot stand in a URL").hint("percent-encode them"));
        }
        let to = template(&config.to, params, &at, issues)?;
        (issues.len() == before).then(|| Self { status: StatusCode::from_u16(config.status).unwrap_or_default(), to })
    }

    /// The answer.
    pub(super) fn run(&self, exchange: &Exchange) -> Result<Response<Body>, Rejection> {
        let mut to = self.to.render(exchange);
        // A group of a regular expression may begin with a slash, which makes another host of `/{rest}`.
        if to.starts_with("//") {
            return Err(Reason::BadPath.into());
        }
        if let Some(query) = exchange.request.uri().query() {
            to.push(if to.contains('?') { '&' } else { '?' });
            to.push_str(query);
        }
        let location = HeaderValue::try_from(to).map_err(|_| Reason::BadPath)?;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::LOCATION, location);
        Ok(response)
    }
}

/// Compiles a path template, or reports what is wrong with it.
pub(super) fn template(text: &str, params: &Params, at: &KeyPath, issues: &mut Issues) -> Option<Template> {
    Template::path(text, params)
        .map_err(|errors| {
            let each = errors.into_iter().map(|error| Issue::new(at.clone(), error.message).maybe_hint(error.hint));
            each.for_each(|issue| issues.push(issue));
        })
        .ok()
}
