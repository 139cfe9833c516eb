//! What stands in for an upstream that fails: another upstream, then a fixed answer.
//!
//! Each is a rung of a ladder, and one is stepped on only when those before it gave nothing: the upstream, what a cache has
//! stored of it (`cache.stale_if_error`), the other upstream, the fixed answer, the refusal.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body as _;

use super::{Proxy, Respond, Surroundings};
use crate::config::value::Statuses;
use crate::config::{Issue, Issues, KeyPath, route};
use crate::exchange::{Exchange, Reason, Rejection};
use crate::http::body::Body;
use crate::http::headers::name;
use crate::upstream::Pools;

/// What stands in for an upstream that fails.
pub struct Fallback {
    proxy: Option<Box<Proxy>>,
    respond: Option<Respond>,
    statuses: Box<[Statuses]>,
}

impl Fallback {
    /// Compiles it, or reports what is wrong with it. It is `proxy`'s, which stands at `path`.
    pub(super) fn compile(
        config: &route::Fallback,
        proxy: &route::Proxy,
        around: &Surroundings<'_>,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        if config.upstream.is_none() && config.respond.is_none() {
            issues.push(
                Issue::new(path.clone(), "names nothing that could stand in")
                    .of_absence_of(&["upstream", "respond"])
                    .hint("give `upstream`, `respond` or both, or leave `fallback` out"),
            );
        }
        if config.status.is_empty() {
            let issue = Issue::new(path.key("status"), "names no status").of_absence();
            issues.push(issue.hint("leave it out for 502, 503 and 504"));
        }
        let spare = config.upstream.as_ref().and_then(|name| {
            let at = path.key("upstream");
            if *name == proxy.upstream {
                issues.push(Issue::new(at, "is the upstream that failed").hint("name another one, or leave it out"));
                return None;
            }
            (around.upstream)(name, at, issues)?;
            let config = route::Proxy { upstream: name.clone(), fallback: None, mirror: None, ..proxy.clone() };
            // What is wrong with the rest was told of the proxy itself.
            Proxy::compile(&config, around, path, &mut Issues::new()).map(Box::new)
        });
        let respond =
            config.respond.as_ref().and_then(|respond| Respond::compile(respond, &path.key("respond"), issues));
        (issues.len() == before).then(|| Self { proxy: spare, respond, statuses: config.status.clone().into() })
    }

    /// Whether what stands in is somebody else's service.
    pub(super) fn is_third_party(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.is_third_party())
    }

    /// What is kept of a request until its answer is there. None of one that nothing can stand in for: what is not safe to
    /// ask twice, and what has a body or becomes a tunnel.
    pub fn spare(&self, exchange: &Exchange) -> Option<Box<Request<Body>>> {
        let method = exchange.request.method();
        let is_safe = (*method == Method::GET || *method == Method::HEAD)
            && exchange.request.body().is_end_stream()
            && exchange.websocket.is_none();
        is_safe.then(|| Box::new(exchange.bare_request()))
    }

    /// Whether an upstream failed, so that something has to stand in.
    pub fn is_wanted(&self, outcome: &Result<Response<Body>, Rejection>) -> bool {
        match outcome {
            Ok(response) => self.statuses.iter().any(|some| some.contains(response.status().as_u16())),
            Err(rejection) => is_failure(rejection.reason),
        }
    }

    /// Has the other upstream asked for what `exchange` has as its request, and answers with that if it is any better than
    /// `outcome`; else with the fixed answer.
    pub async fn run(
        &self,
        exchange: &mut Exchange,
        pools: &Rc<Pools>,
        outcome: Result<Response<Body>, Rejection>,
    ) -> Result<Response<Body>, Rejection> {
        if let Some(proxy) = &self.proxy {
            let record = &mut exchange.closing.record;
            let (failed, before) = (record.upstream.clone(), record.attempts.len());
            record.attempts_of_upstream = Some(before..usize::MAX);
            let answer = proxy.run(exchange, pools).await;
            if let Ok(mut response) = answer
                && !self.statuses.iter().any(|some| some.contains(response.status().as_u16()))
            {
                step(exchange, &mut response, "upstream", &outcome);
                return Ok(response);
            }
            // It gave nothing: what is told is what came of the one that it stood in for.
            let record = &mut exchange.closing.record;
            (record.upstream, record.attempts_of_upstream) = (failed, Some(0..before));
        }
        match self.fixed(exchange, &outcome) {
            Some(response) => Ok(response),
            None => outcome,
        }
    }

    /// The fixed answer in the place of `outcome`, if there is one.
    pub fn fixed(
        &self,
        exchange: &mut Exchange,
        outcome: &Result<Response<Body>, Rejection>,
    ) -> Option<Response<Body>> {
        let mut response = self.respond.as_ref()?.run(&mut HeaderMap::new());
        step(exchange, &mut response, "respond", outcome);
        Some(response)
    }
}

/// Tells client, log and metrics which rung it is, and why.
fn step(
    exchange: &mut Exchange,
    response: &mut Response<Body>,
    rung: &'static str,
    outcome: &Result<Response<Body>, Rejection>,
) {
    exchange.closing.fell_back(rung);
    let why = match outcome {
        Ok(failed) => format!("received-status={}", failed.status().as_u16()),
        Err(rejection) => {
            let error = rejection.proxy_status.or(rejection.reason.facts().proxy_status);
            format!("error={}", error.unwrap_or("destination_unavailable"))
        }
    };
    if let Ok(value) = HeaderValue::try_from(format!("armiger; {why}; details=\"fallback-{rung}\"")) {
        response.headers_mut().append(&name::PROXY_STATUS, value);
    }
}

/// Whether it is the upstream that failed, or its time that is over, and not the caller's request that is refused.
fn is_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UpstreamConnect
            | Reason::NoSocket
            | Reason::UpstreamConnectTimeout
            | Reason::UpstreamDns
            | Reason::UpstreamTlsTimeout
            | Reason::UpstreamCertificate
            | Reason::UpstreamTls
            | Reason::UpstreamOverloaded
            | Reason::UpstreamReset
            | Reason::UpstreamTimeout
            | Reason::UpstreamProtocol
            | Reason::NoEndpoint
            | Reason::BreakerOpen
            | Reason::BreakerProbing
            | Reason::DeadlineExceeded
    )
}
