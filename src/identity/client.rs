//! Asking an issuer: one request, over connections of its own and through no route, bounded in time and in bytes.
//!
//! A redirect is not followed: whoever could send one could send armiger anywhere.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body::Body as _;
use serde_json::json;
use smallvec::SmallVec;

use super::key::Unfit;
use crate::config::tls::UpstreamTls;
use crate::config::{Issues, KeyPath, upstream as upstream_config};
use crate::http::body::Body;
use crate::telemetry::metrics::{Metrics, UpstreamMetrics};
use crate::timer::Wheel;
use crate::upstream::{self, Call, HostRule, Plan, Pools, Standings, State, Upstream};

/// How armiger calls itself.
const AGENT: &str = concat!("armiger/", env!("CARGO_PKG_VERSION"));

/// Which URLs may be asked, and how.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// `http://` will do, at any address.
    pub insecure: bool,
    /// Whose certificates are believed.
    pub tls: Option<UpstreamTls>,
}

/// A URL that armiger may ask.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was written.
    pub url: Box<str>,
    /// It is on this machine: nobody is on the way.
    pub is_local: bool,
    path: PathAndQuery,
    plan: Plan,
}

impl Target {
    /// Reads `https://host[:port]/path`, and `http://` where the terms allow it or the host is a loopback address.
    pub fn parse(url: &str, terms: &Terms) -> Result<Self, Unfit> {
        const SHAPE: &str = "write a URL such as `https://id.example.com/.well-known/jwks.json`";
        let unfit = |message: &str, hint| Unfit { message: message.to_owned(), hint };
        if url.contains('#') {
            return Err(unfit("has a fragment, which no server sees", "remove what stands from `#` on"));
        }
        let uri: Uri = url.parse().map_err(|_| unfit("is no URL", SHAPE))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(unfit("is no URL", SHAPE));
        };
        if authority.as_str().contains('@') {
            return Err(unfit("contains credentials", "remove what stands before `@`"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_local = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        match scheme {
            "https" => {}
            "http" if terms.insecure || is_local => {}
            "http" => {
                return Err(unfit(
                    "is plain `http://`: whoever is on the way could say who calls",
                    "use `https://`; or write `insecure: true` beside it if the way is your own",
                ));
            }
            _ => return Err(unfit("is no URL of HTTP", SHAPE)),
        }
        // The form of a configuration, so that what others may say of their upstreams has its defaults here.
        let config = json!({
            "endpoints": [format!("{scheme}://{authority}")],
            "timeouts": {"connect": "5s", "first_byte": "60s", "body_idle": "10s"},
        });
        let mut config: upstream_config::Upstream =
            serde_json::from_value(config).map_err(|_| unfit("is no URL", SHAPE))?;
        config.tls = terms.tls.clone().filter(|_| scheme == "https");
        let mut issues = Issues::new();
        let plan = Plan::compile(&config, KeyPath::root(), &mut issues).ok_or_else(|| {
            let told: Vec<_> = issues.iter().map(|issue| format!("`{}` {}", issue.path, issue.message)).collect();
            Unfit { message: format!("cannot be asked: {}", told.join("; ")), hint: "see the reference of `upstreams`" }
        })?;
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { url: url.into(), is_local, path, plan })
    }
}

/// Why an issuer gave no answer that could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It takes too long.
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    /// The answer is too long.
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
    /// It sends us elsewhere.
    #[error("it answered with a redirect ({0}), and none is followed")]
    Redirect(u16),
    /// It answers with an error.
    #[error("it answered with the status {0}")]
    Status(u16),
    /// The answer is not what it should be.
    #[error("its answer is no good: {0}")]
    Invalid(String),
}

impl Trouble {
    /// One word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Slow(_) => "timeout",
            Self::TooLarge(_) => "too_large",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// A good answer.
pub struct Answer {
    /// 200, or 304 if that was asked for.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// All of its body.
    pub body: Bytes,
}

/// Asks one URL, and keeps the connections for the next time. For the thread that works in the background.
pub struct Client {
    pools: Pools,
    upstream: Upstream,
    path: PathAndQuery,
    timeout: Duration,
    bytes_max: usize,
}

impl Client {
    /// Asks `target` for a provider. Answers take no longer than `timeout` and have no more than `bytes_max` bytes.
    pub fn new(wheel: &Wheel, target: &Target, metrics: UpstreamMetrics, timeout: Duration, bytes_max: usize) -> Self {
        Self {
            // State and pools of its own: no upstream of the configuration shares them.
            pools: Pools::new(wheel.clone(), 1),
            upstream: Upstream::new(
                "identity".into(),
                0,
                target.plan.clone(),
                State::apart(),
                Standings::apart(&target.plan),
                metrics,
            ),
            path: target.path.clone(),
            timeout,
            bytes_max,
        }
    }

    /// Sends a request, whose target and common fields are seen to here.
    pub async fn ask(&self, mut request: Request<Body>) -> Result<Answer, Trouble> {
        *request.uri_mut() = Uri::from(self.path.clone());
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Trouble::Slow(self.timeout)),
        }
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Answer, Trouble> {
        let is_conditional = request.headers().contains_key(http::header::IF_NONE_MATCH)
            || request.headers().contains_key(http::header::IF_MODIFIED_SINCE);
        let mut attempts = SmallVec::new();
        let deadline = Instant::now() + self.timeout;
        let call = Call::new(HostRule::Endpoint, deadline, None, &mut attempts);
        let response = self.upstream.send(&self.pools, call, &mut request).await.map_err(unreachable)?;
        let (head, mut body) = response.into_parts();
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if is_conditional => {
                return Ok(Answer { status: head.status, headers: head.headers, body: Bytes::new() });
            }
            status if status.is_redirection() => return Err(Trouble::Redirect(status.as_u16())),
            status => return Err(Trouble::Status(status.as_u16())),
        }
        if let Some(coding) = head.headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
            return Err(Trouble::Invalid(format!("it has the coding {coding:?}, which was not asked for")));
        }
        let mut bytes = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|error| Trouble::Unreachable(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                // Whoever announces more is not waited for.
                let most = body.size_hint().lower().saturating_add((bytes.len() + data.len()) as u64);
                if most > self.bytes_max as u64 {
                    return Err(Trouble::TooLarge(self.bytes_max));
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(Answer { status: head.status, headers: head.headers, body: bytes.freeze() })
    }
}

fn unreachable(error: upstream::Error) -> Trouble {
    Trouble::Unreachable(error.to_string())
}

/// Where the connections to an issuer are counted: beside those to upstreams, by a name that none of them has.
pub fn metrics(metrics: &Metrics, provider: &str) -> UpstreamMetrics {
    metrics.upstream(&format!("identity/{provider}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_or_by_word() {
        for (url, insecure, complaint) in [
            ("http://127.0.0.1:8200/jwks", false, None),
            ("http://[::1]:8200/jwks?set=1", false, None),
            ("http://id.example.com/jwks", true, None),
            (
                "http://id.example.com/jwks",
                false,
                Some("is plain `http://`: whoever is on the way could say who calls"),
            ),
            ("http://localhost/jwks", false, Some("is plain `http://`: whoever is on the way could say who calls")),
            ("http://me:secret@127.0.0.1/", true, Some("contains credentials")),
            ("http://127.0.0.1/#keys", true, Some("has a fragment, which no server sees")),
            ("ftp://127.0.0.1/", true, Some("is no URL of HTTP")),
            ("/jwks", true, Some("is no URL")),
            ("id.example.com", true, Some("is no URL")),
            ("", true, Some("is no URL")),
        ] {
            let told = Target::parse(url, &Terms { insecure, tls: None }).map(|target| target.url.to_string());
            match complaint {
                None => assert_eq!(told.unwrap(), url),
                Some(complaint) => assert_eq!(told.unwrap_err().message, complaint, "{url}"),
            }
        }
    }
}
