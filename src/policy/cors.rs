//! `cors`: which web origins' pages may use a route (Fetch standard, "CORS protocol").

use std::collections::HashSet;
use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::{self, Guard, Weaker};
use super::{Policy, Scope, Stage};
use crate::config::Issue;
use crate::config::value::{HumanDuration, Mode};
use crate::exchange::{Exchange, Rejection, Verdict};
use crate::http::body::Body;
use crate::telemetry::metrics::{CorsMetrics, CorsWord};

/// Which web origins' pages may use a route.
///
/// A browser's preflight is answered before anything else is asked, for it carries no credentials. Every other answer
/// gets its CORS headers, refusals included: otherwise the page would see a network error and not the 401. CORS headers
/// of the upstream are replaced. A 404 or 405 of armiger itself has none, for it belongs to no route.
///
/// It refuses nobody: a page that gets no permission is stopped by its browser. So the verdict is the same for all (`amend`,
/// of a preflight `answer`), and its `cause` in the access log tells who gets none: `origin_not_allowed`, or of a
/// preflight `method_not_allowed` or `header_not_allowed`. `armiger_cors_requests_total` counts them, in shadow too.
///
/// ```yaml
/// cors: {origins: ["https://shop.example.com"], credentials: true}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cors")]
pub struct Config {
    /// Scheme, host and port of each origin, as browsers send them: `https://shop.example.com`, without a slash at the
    /// end; `https://*.example.com` for all hosts below; or just `"*"` for everybody.
    pub origins: Vec<String>,
    /// Methods that pages may use.
    #[serde(default = "safelisted_methods")]
    pub methods: Vec<String>,
    /// Request headers that pages may set; `"*"` for any. Default: only those that need no permission.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Response headers that pages may read.
    #[serde(default)]
    pub expose: Vec<String>,
    /// Whether pages may send cookies and credentials.
    ///
    /// The trap: not with `origins: ["*"]`, which would lend every site the user's session.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight.
    #[serde(default = "ten_minutes")]
    pub max_age: HumanDuration,
    /// Whether it is enforced.
    #[serde(default)]
    pub mode: Mode,
}

fn safelisted_methods() -> Vec<String> {
    ["GET", "HEAD", "POST"].map(String::from).to_vec()
}

fn ten_minutes() -> HumanDuration {
    HumanDuration::seconds(600)
}

/// What of it protects. Browsers do the protecting: each grant is one thing more that a page may do.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("what the upstream grants to web pages passes as it is"),
    Guard::at("origins", Weaker::Grows(uncovered), "pages of more origins may call"),
    Guard::at("methods", Weaker::Grows(guard::names), "pages may use more methods"),
    Guard::at("headers", Weaker::Grows(guard::names), "pages may set more headers"),
    Guard::at("expose", Weaker::Grows(guard::names), "pages may read more headers"),
    Guard::at("credentials", Weaker::When(|_, new| new == "true"), "pages may use the visitor's credentials"),
];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        let anybody = self.origins.iter().any(|origin| origin == "*");
        if self.origins.is_empty() {
            let issue = Issue::new(path.key("origins"), "names no origin").of_absence();
            scope.issue(issue.hint("list origins, or write `cors: off`"));
        }
        if anybody && self.origins.len() > 1 {
            scope.issue(
                Issue::new(path.key("origins"), "`*` makes the other origins pointless").hint("keep one or the other"),
            );
        }
        if anybody && self.credentials {
            scope.issue(
                Issue::new(path.key("credentials"), "credentials cannot be allowed to every origin")
                    .hint("list the origins, or leave `credentials` out"),
            );
        }
        let mut origins = Vec::new();
        for (place, origin) in self.origins.iter().enumerate().filter(|(_, origin)| *origin != "*") {
            match Origin::parse(origin) {
                Ok(origin) => origins.push(origin),
                Err(message) => scope.issue(
                    Issue::new(path.key("origins").index(place), message)
                        .hint("write scheme, host and port only, such as `https://shop.example.com`"),
                ),
            }
        }
        for (place, method) in self.methods.iter().enumerate() {
            let at = path.key("methods").index(place);
            if Method::from_bytes(method.as_bytes()).is_err() {
                scope.issue(Issue::new(at, format!("`{method}` is no method")).hint("write one such as `GET`"));
            } else if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
                scope.issue(
                    Issue::new(at, format!("`{method}` is not in capitals, and browsers tell methods apart by case"))
                        .hint(format!("write `{}`", method.to_ascii_uppercase())),
                );
            }
        }
        for (key, names) in [("headers", &self.headers), ("expose", &self.expose)] {
            for (place, name) in names.iter().enumerate().filter(|(_, name)| *name != "*") {
                if HeaderName::from_bytes(name.as_bytes()).is_err() {
                    scope.issue(
                        Issue::new(path.key(key).index(place), format!("`{name}` is no header name"))
                            .hint("write a name such as `x-request-id`"),
                    );
                }
            }
        }
        if self.credentials && self.expose.iter().any(|name| name == "*") {
            scope.issue(
                Issue::new(path.key("expose"), "`*` means nothing to browsers once `credentials` are allowed")
                    .hint("list the headers"),
            );
        }
        let rules = Rules {
            origins: if anybody { Origins::Anybody } else { Origins::Listed(origins) },
            methods: list(&self.methods),
            headers: if self.headers.iter().any(|name| name == "*") {
                AllowHeaders::Asked
            } else {
                AllowHeaders::Listed(list(&self.headers))
            },
            expose: list(&self.expose),
            credentials: self.credentials,
            max_age: HeaderValue::from(self.max_age.get().as_secs()),
            method_names: self.methods.clone(),
            header_names: self.headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
        };
        let metrics = scope.cors_metrics(self.mode);
        scope.add(Stage::Preflight, self.mode, Cors { rules: Arc::new(rules), metrics });
    }
}

/// A comma-separated header value; `None` for an empty list.
fn list(items: &[String]) -> Option<HeaderValue> {
    (!items.is_empty()).then(|| HeaderValue::try_from(items.join(", ")).ok()).flatten()
}

/// One allowed origin.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Exact(String),
    /// Scheme with `://`, and the host's end with its leading dot.
    Below(String, String),
}

impl Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, host)) = text.split_once("://") else {
            return Err(format!("`{text}` has no scheme"));
        };
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return Err(format!("`{text}` is no origin"));
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("`{text}` has capitals, which no browser sends"));
        }
        match host.strip_prefix('*') {
            None if host.contains('*') => Err(format!("`{text}` has `*` elsewhere than in front of the host")),
            None => Ok(Self::Exact(text.into())),
            Some(end) if end.starts_with('.') && end.len() > 1 && !end.contains('*') => {
                Ok(Self::Below(format!("{scheme}://"), end.into()))
            }
            Some(_) => Err(format!("`{text}` needs a dot after `*`")),
        }
    }

    fn is(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == origin,
            Self::Below(scheme, end) => origin
                .strip_prefix(scheme.as_str())
                .and_then(|host| host.strip_suffix(end.as_str()))
                .is_some_and(|label| !label.is_empty() && !label.contains(['/', '@', ':'])),
        }
    }
}

/// Tells of each origin whether none of the others covers it.
fn uncovered(entries: &[&str], by: &[&str]) -> Vec<bool> {
    let by: HashSet<&str> = by.iter().copied().collect();
    let covered = |entry: &str| {
        let Some((scheme, host)) = entry.split_once("://") else { return false };
        let ends = host.match_indices('.').map(|(dot, _)| &host[dot..]);
        // A port belongs to the end too, as it does where origins are compared.
        by.contains(entry) || ends.map(|end| format!("{scheme}://*{end}")).any(|below| by.contains(below.as_str()))
    };
    entries.iter().map(|entry| !by.contains("*") && !covered(entry)).collect()
}

enum Origins {
    Anybody,
    Listed(Vec<Origin>),
}

enum AllowHeaders {
    Listed(Option<HeaderValue>),
    /// Whatever the preflight asks for.
    Asked,
}

struct Rules {
    origins: Origins,
    methods: Option<HeaderValue>,
    headers: AllowHeaders,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
    method_names: Vec<String>,
    /// In lower case.
    header_names: Vec<String>,
}

/// Tells browsers which origins may use the route.
pub struct Cors {
    rules: Arc<Rules>,
    metrics: CorsMetrics,
}

impl Policy for Cors {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let origin = exchange.headers().get(header::ORIGIN);
        if exchange.is_preflight() {
            let granted = self.rules.grant(origin);
            let word = self.rules.judge(granted.as_ref(), exchange.headers());
            self.metrics.count(word);
            return Ok(Verdict::Answer(self.rules.preflight(granted, exchange.headers()), word.cause()));
        }
        let granted = self.rules.grant(origin);
        let word = match (origin, &granted) {
            (None, _) => CorsWord::NoOrigin,
            // Browsers name the origin of a page to its own site too, where the method is neither GET nor HEAD.
            (Some(own), None) if is_own(own, exchange.host()) => CorsWord::NoOrigin,
            (Some(_), None) => CorsWord::Origin,
            (Some(_), Some(_)) => CorsWord::Allowed,
        };
        self.metrics.count(word);
        let rules = self.rules.clone();
        Ok(Verdict::followup_because(word.cause(), move |response| rules.mark(response, granted)))
    }
}

/// Whether a page of this origin asks its own site.
fn is_own(origin: &HeaderValue, host: &str) -> bool {
    let Some((scheme, authority)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    // Of an origin the usual port is left out.
    host.strip_suffix(port).unwrap_or(host).eq_ignore_ascii_case(authority)
}

impl Rules {
    /// What `Access-Control-Allow-Origin` says to this origin.
    fn grant(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let origin = origin?;
        match &self.origins {
            Origins::Anybody => Some(HeaderValue::from_static("*")),
            Origins::Listed(listed) => {
                let text = origin.to_str().ok()?;
                listed.iter().any(|allowed| allowed.is(text)).then(|| origin.clone())
            }
        }
    }

    /// What the browser will make of the answer to this preflight (Fetch standard, "CORS-preflight fetch").
    fn judge(&self, granted: Option<&HeaderValue>, asked: &HeaderMap) -> CorsWord {
        if granted.is_none() {
            return CorsWord::Origin;
        }
        let text = |name| asked.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        // With credentials `*` is a name like any other.
        let has =
            |names: &[String], name: &str| names.iter().any(|known| known == name || known == "*" && !self.credentials);
        let method = text(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !matches!(method, "GET" | "HEAD" | "POST") && !has(&self.method_names, method) {
            return CorsWord::Method;
        }
        let mut wanted =
            text(header::ACCESS_CONTROL_REQUEST_HEADERS).split(',').map(|name| name.trim().to_ascii_lowercase());
        let is_refused = |name: String| !name.is_empty() && !has(&self.header_names, &name);
        match self.headers {
            AllowHeaders::Listed(_) if wanted.any(is_refused) => CorsWord::Header,
            _ => CorsWord::Allowed,
        }
    }

    fn preflight(&self, granted: Option<HeaderValue>, asked: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        let is_granted = granted.is_some();
        self.mark(&mut response, granted);
        if !is_granted {
            return response;
        }
        let headers = response.headers_mut();
        if let Some(methods) = &self.methods {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
        }
        let allowed = match &self.headers {
            AllowHeaders::Listed(listed) => listed.clone(),
            AllowHeaders::Asked => {
                headers.append(header::VARY, HeaderValue::from_static("access-control-request-headers"));
                asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned()
            }
        };
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        response
    }

    /// Writes the CORS headers of any answer.
    fn mark(&self, response: &mut Response<Body>, granted: Option<HeaderValue>) {
        let headers = response.headers_mut();
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            headers.remove(name);
        }
        // The answer depends on the origin only if it is reflected; with `*` a cache may share it.
        if matches!(self.origins, Origins::Listed(_)) {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(granted) = granted else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, granted);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &str, origin: &str, expected: bool) {
        assert_eq!(Origin::parse(allowed).expect("origin").is(origin), expected, "{allowed} and {origin}");
    }

    #[test]
    fn an_origin_matches_whole_and_a_wildcard_only_below_its_dot() {
        check("https://a.example", "https://a.example", true);
        check("https://a.example", "http://a.example", false);
        check("https://a.example", "https://a.example.evil", false);
        check("https://*.a.example", "https://x.a.example", true);
        check("https://*.a.example", "https://x.y.a.example", true);
        check("https://*.a.example", "https://a.example", false);
        check("https://*.a.example", "https://evila.example", false);
        check("https://*.a.example", "https://evil/.a.example", false);
        check("https://*.a.example", "http://x.a.example", false);
        check("https://*.a.example:8443", "https://x.a.example:8443", true);
    }

    #[test]
    fn an_origin_is_covered_by_itself_by_what_is_below_and_by_a_star() {
        for (entry, by, expected) in [
            ("https://a.b", &["https://a.b"][..], false),
            ("https://x.y.a.b", &["https://*.a.b"], false),
            ("https://*.x.a.b", &["https://*.a.b"], false),
            ("https://a.b", &["https://*.a.b"], true),
            ("http://x.a.b", &["https://*.a.b"], true),
            ("https://x.a.b:1", &["https://*.a.b"], true),
            ("https://*.a.b", &["https://x.a.b"], true),
            ("https://a.b", &["*"], false),
            ("*", &["https://a.b"], true),
        ] {
            assert_eq!(uncovered(&[entry], by), [expected], "{entry} by {by:?}");
        }
    }

    #[test]
    fn what_is_no_origin_is_told() {
        for text in [
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.*.example",
            "https://*a.example",
            "https://A.example",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
