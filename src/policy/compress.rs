//! `compress`: answers in a content coding that the client takes.

use std::any::Any;
use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Guard, Policy, Scope, Stage};
use crate::config::Issue;
use crate::config::value::{ByteSize, Mode};
use crate::exchange::{Exchange, Rejection, Verdict};
use crate::http::body::Body;
use crate::http::encoded::{self, Encoded};
use crate::telemetry::finish::Occupancy;
use crate::telemetry::metrics::Metrics;

/// Compresses answers for clients that take it (`Accept-Encoding`, by its weights). What the back end has sent so far
/// always goes out, so streams stay streams.
///
/// Left alone are: what is compressed already or forbids it (`no-transform`), parts of ranges, events
/// (`text/event-stream`), gRPC, answers to HEAD, and what is small. What is compressed has a weak `ETag`, and all that
/// could be says `Vary: Accept-Encoding`.
///
/// The trap: where a secret and something that the caller chose stand in one answer, its compressed length gives the
/// secret away to who can make many requests and see their size (BREACH). Switch it off for such answers.
///
/// ```yaml
/// compress: {min: 1KiB}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "CompressPolicy")]
pub struct Config {
    /// The codings, the preferred first where the client has no preference.
    pub codings: Vec<Coding>,
    /// Media types that are compressed: `application/json`, or `text/*` for all of a kind.
    pub types: Vec<String>,
    /// Answers that are known to be shorter are left alone.
    pub min: ByteSize,
    /// Answers that are compressed at once on a route; more go out as they are. Each takes up to 1 MiB of memory.
    pub at_once_max: u32,
    /// Whether it is enforced. In `shadow` nothing is compressed.
    pub mode: Mode,
}

impl Default for Config {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/json",
            "application/problem+json",
            "application/ld+json",
            "application/graphql-response+json",
            "application/javascript",
            "application/xml",
            "application/wasm",
            "application/x-ndjson",
            "application/manifest+json",
            "image/svg+xml",
        ];
        Self {
            codings: vec![Coding::Br, Coding::Zstd, Coding::Gzip],
            types: types.map(str::to_owned).to_vec(),
            min: ByteSize::kib(1),
            at_once_max: 256,
            mode: Mode::default(),
        }
    }
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// Brotli.
    Br,
    /// Zstandard.
    Zstd,
    /// gzip.
    Gzip,
}

impl Coding {
    fn coding(self) -> encoded::Coding {
        match self {
            Self::Br => encoded::Coding::Brotli,
            Self::Zstd => encoded::Coding::Zstd,
            Self::Gzip => encoded::Coding::Gzip,
        }
    }
}

/// What of it protects: nothing but the machine.
pub(super) const GUARDS: &[Guard] = &[Guard::gone("answers take more of the network")];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        for (key, is_empty) in [("codings", self.codings.is_empty()), ("types", self.types.is_empty())] {
            if is_empty {
                let issue = Issue::new(path.key(key), "names nothing").of_absence();
                scope.issue(issue.hint("leave it out, or write `compress: off`"));
            }
        }
        for (place, coding) in self.codings.iter().enumerate() {
            if self.codings[..place].contains(coding) {
                scope.issue(Issue::new(path.key("codings").index(place), "is named twice").hint("remove one of them"));
            }
        }
        if self.at_once_max == 0 {
            scope.issue(Issue::new(path.key("at_once_max"), "is 0").hint("write `compress: off`"));
        }
        for (place, text) in self.types.iter().enumerate() {
            let is_type = text.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
            if !is_type || text.contains([' ', ';', ',']) {
                scope.issue(
                    Issue::new(path.key("types").index(place), format!("`{text}` is no media type"))
                        .hint("write a type such as `application/json`, or `text/*`"),
                );
            }
        }
        let compress = Compress(Arc::new(Rules {
            codings: self.codings.iter().map(|coding| coding.coding()).collect(),
            types: self.types.iter().map(|text| text.to_ascii_lowercase()).collect(),
            min: self.min.get(),
            at_once_max: self.at_once_max,
            at_once: Arc::default(),
            metrics: scope.metrics.clone(),
        }));
        scope.add(Stage::Always, self.mode, compress);
    }
}

/// Compresses answers.
pub struct Compress(Arc<Rules>);

struct Rules {
    codings: Box<[encoded::Coding]>,
    types: Box<[String]>,
    min: u64,
    at_once_max: u32,
    at_once: Arc<Occupancy>,
    metrics: Metrics,
}

impl Policy for Compress {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        let rules = self.0.clone();
        let is_head = *exchange.request.method() == Method::HEAD;
        let coding = preferred(exchange.headers(), &rules.codings).filter(|_| !is_head);
        Ok(Verdict::followup(move |response| rules.apply(response, coding)))
    }
}

impl Rules {
    fn apply(&self, response: &mut Response<Body>, coding: Option<encoded::Coding>) {
        if !self.fits(response) {
            return;
        }
        let headers = response.headers_mut();
        let is_told = |line: &HeaderValue| {
            let names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names.into_iter().any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"))
        };
        if !headers.get_all(VARY).iter().any(is_told) {
            headers.append(VARY, HeaderValue::from_static("accept-encoding"));
        }
        let Some(coding) = coding else { return };
        let Some(place) = self.at_once.take(self.at_once_max) else {
            return self.metrics.limit_hit("compress.at_once_max");
        };
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        headers.remove(CONTENT_LENGTH);
        // What was said of the bytes as they were.
        headers.remove(ACCEPT_RANGES);
        for name in OF_THE_BYTES {
            headers.remove(name);
        }
        if let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"))
            && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
        {
            headers.insert(ETAG, weak);
        }
        let guard: Box<dyn Any> = Box::new(place);
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = Body::Encoded(Box::new(Encoded::new(body, coding, Some(guard))));
    }

    /// Whether an answer may be compressed at all.
    fn fits(&self, response: &Response<Body>) -> bool {
        let (status, headers) = (response.status(), response.headers());
        let is_other =
            matches!(status, StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
                || status.is_informational();
        let is_coded = headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity");
        let forbids = headers.get_all(CACHE_CONTROL).iter().any(|line| {
            line.as_bytes()
                .split(|byte| *byte == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
        });
        let told = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = response.body().size_hint().exact().filter(|length| *length > 0).or(told);
        !is_other
            && !is_coded
            && !forbids
            && !headers.contains_key(CONTENT_RANGE)
            && length.is_none_or(|length| length >= self.min.max(1))
            && headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|text| self.takes(text))
    }

    fn takes(&self, content_type: &str) -> bool {
        let kind = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if kind == "text/event-stream" || kind.starts_with("application/grpc") {
            return false;
        }
        self.types.iter().any(|listed| match listed.strip_suffix('*') {
            Some(start) => kind.starts_with(start),
            None => kind == *listed,
        })
    }
}

/// Digests of the bytes as they were (RFC 9530, RFC 3230, RFC 1864).
const OF_THE_BYTES: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The coding that the client likes best (RFC 9110 §12.5.3); among equals, the first of `codings`. None: as it is.
fn preferred(headers: &HeaderMap, codings: &[encoded::Coding]) -> Option<encoded::Coding> {
    let mut wildcard = None;
    let mut weights = [None; 3];
    let mut identity = None;
    for line in headers.get_all(ACCEPT_ENCODING) {
        for item in line.to_str().ok()?.split(',') {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight(parameters);
            let name = name.trim();
            if name == "*" {
                wildcard = Some(weight);
            } else if name.eq_ignore_ascii_case("identity") {
                identity = Some(weight);
            } else if let Some(place) = codings.iter().position(|coding| {
                name.eq_ignore_ascii_case(coding.name())
                    || coding.name() == "gzip" && name.eq_ignore_ascii_case("x-gzip")
            }) {
                weights[place] = Some(weight);
            }
        }
    }
    let mut best: Option<(u16, encoded::Coding)> = None;
    for (place, coding) in codings.iter().enumerate() {
        let weight = weights[place].or(wildcard).unwrap_or(0);
        if weight > 0 && best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, *coding));
        }
    }
    // Who says that it prefers the answer as it is gets it so.
    best.filter(|(weight, _)| identity.is_none_or(|identity| identity <= *weight)).map(|(_, coding)| coding)
}

/// A weight in thousandths (RFC 9110 §12.4.2). What is no weight is none.
fn weight(parameters: &str) -> u16 {
    let Some(text) = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    }) else {
        return 1000;
    };
    match text.parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::encoded::Coding::{Brotli, Gzip, Zstd};

    #[test]
    fn the_client_decides_by_its_weights_and_the_order_among_equals() {
        for (accepted, coding) in [
            ("gzip, br, zstd", Some(Brotli)),
            ("gzip", Some(Gzip)),
            ("X-GZIP", Some(Gzip)),
            ("gzip;q=1.0, br;q=0.5", Some(Gzip)),
            ("gzip;q=0.5, zstd;q=0.500", Some(Zstd)),
            ("br;q=0, *", Some(Zstd)),
            ("*;q=0", None),
            ("*", Some(Brotli)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("identity;q=0", None),
            ("gzip;q=0", None),
            ("gzip;q=nonsense", None),
            ("deflate", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(preferred(&headers, &[Brotli, Zstd, Gzip]), coding, "{accepted}");
        }
        assert_eq!(preferred(&HeaderMap::new(), &[Brotli]), None);
    }
}
