//! `proxy`: one upstream asked, its answer streamed back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, header};

use super::mirror::Mirror;
use super::redirect::template;
use super::{Fallback, Surroundings, rewrite};
use crate::config::upstream::Class;
use crate::config::{Issue, Issues, KeyPath, route};
use crate::exchange::template::Template;
use crate::exchange::{Exchange, Reason, Rejection};
use crate::http::body::{Body, BodyError};
use crate::http::path::Held;
use crate::http::websocket::Wish;
use crate::http::{grpc, headers, path};
use crate::upstream::{Call, HostRule, Kind, Pools, Progress, Reached, Tells, Upstream};

/// The longest that an answer may go on whose caller has proven something. Keeps points in time within their range.
const STREAM_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Sends the request to an upstream.
pub struct Proxy {
    upstream: Arc<Upstream>,
    rewrite: Option<Template>,
    /// What a path may hold that was rewritten.
    path_allow: Held,
    host: Host,
    websocket: bool,
    /// Tells the upstream what is left of the caller's time.
    deadline_header: Option<HeaderName>,
    class: Class,
    fallback: Option<Box<Fallback>>,
    mirror: Option<Mirror>,
}

enum Host {
    Preserve,
    Endpoint,
    Literal(HeaderValue),
}

impl Proxy {
    /// Compiles the action, or reports what is wrong with it.
    pub fn compile(
        config: &route::Proxy,
        around: &Surroundings<'_>,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        let upstream = (around.upstream)(&config.upstream, path.key("upstream"), issues);
        let rewrite = config.rewrite.as_ref().and_then(|text| {
            let at = path.key("rewrite");
            rewrite::check(text, around.path_allow, &at, issues);
            template(text, around.params, &at, issues)
        });
        let host = match &config.host {
            None | Some(route::Host::Preserve) => Host::Preserve,
            Some(route::Host::Upstream) => Host::Endpoint,
            Some(route::Host::Literal(text)) => match HeaderValue::from_str(text) {
                Ok(value) if text.parse::<http::uri::Authority>().is_ok() && !text.contains('@') => {
                    Host::Literal(value)
                }
                _ => {
                    issues.push(
                        Issue::new(path.key("host").key("literal"), format!("`{text}` is no host name"))
                            .hint("write a name such as `app.internal` or `app.internal:8080`"),
                    );
                    Host::Preserve
                }
            },
        };
        let mirror =
            config.mirror.as_ref().and_then(|mirror| Mirror::compile(mirror, around, &path.key("mirror"), issues));
        let deadline_header = around.deadline_header.clone();
        let fallback = config.fallback.as_ref().and_then(|fallback| {
            Fallback::compile(fallback, config, around, &path.key("fallback"), issues).map(Box::new)
        });
        let upstream = upstream?;
        (issues.len() == before).then_some(Self {
            upstream,
            rewrite,
            path_allow: around.path_allow,
            host,
            websocket: config.websocket,
            deadline_header,
            class: around.class,
            fallback,
            mirror,
        })
    }

    pub(super) fn is_third_party(&self) -> bool {
        self.upstream.plan.third_party || self.fallback.as_ref().is_some_and(|fallback| fallback.is_third_party())
    }

    pub(super) fn fallback(&self) -> Option<&Fallback> {
        self.fallback.as_deref()
    }

    /// Sends the request and passes the answer on as it comes.
    pub(super) async fn run(&self, exchange: &mut Exchange, pools: &Rc<Pools>) -> Result<Response<Body>, Rejection> {
        exchange.remember_form();
        exchange.closing.record.upstream = Some(self.upstream.name.clone());
        let target = self.target(exchange)?;
        let request = &mut exchange.request;
        *request.uri_mut() = target;
        let host = match &self.host {
            Host::Preserve => HostRule::AsIs,
            Host::Endpoint => HostRule::Endpoint,
            Host::Literal(host) => {
                request.headers_mut().insert(header::HOST, host.clone());
                HostRule::AsIs
            }
        };
        match exchange.websocket.take() {
            Some(wish) if self.websocket => {
                if !self.upstream.plan.protocol.is_http2() {
                    Wish::name_upgrade(request.headers_mut());
                }
                request.extensions_mut().insert(*wish);
            }
            // On its stream there can be nothing else. An answer to something else would be none.
            Some(_) if exchange.closing.record.method == Method::CONNECT => {
                return Err(Rejection::from(Reason::NotImplemented).detail(NO_WEBSOCKET));
            }
            Some(_) => Wish::take_out(request.headers_mut()),
            None => {}
        }
        let is_tunnel = request.extensions().get::<Wish>().is_some();
        let mut copy = self.mirror.as_ref().filter(|_| !is_tunnel).and_then(|mirror| mirror.copy(exchange, host));
        if let Some(here) = copy.take_if(|copy| copy.is_here()) {
            here.send(pools);
        }
        let request = &mut exchange.request;
        let tells = Tells {
            grpc: headers::has_rare(request.headers(), &grpc::GRPC_TIMEOUT) && grpc::is_grpc(request.headers()),
            header: self.deadline_header.as_ref(),
        };
        let key = self.upstream.key(request, exchange.client.address);
        let record = &mut exchange.closing.record;
        let call = Call::new(host, exchange.deadline, key, &mut record.attempts)
            .of_route(exchange.due, self.class, tells)
            .of_client(exchange.client.ends());
        Progress::tell(request, Reached::Nobody);
        let sent = if self.upstream.hedges(request) {
            // In a box: it is two of the other, and few upstreams have it.
            Box::pin(self.upstream.hedge(pools, call, request)).await
        } else {
            self.upstream.send(pools, call, request).await
        };
        if let Some(copy) = copy {
            copy.send(pools);
        }
        let attempts = record.attempts.len();
        let mut response = sent.map_err(|error| {
            tracing::debug!(upstream = %self.upstream.name, error = &error as &dyn std::error::Error, "upstream failed");
            let kind = error.kind();
            let rejection = Rejection {
                proxy_status: Some(kind.proxy_status()),
                limit: kind.limit(),
                ..Rejection::from(reason(kind))
            };
            let rejection = match kind {
                Kind::NoTunnel => rejection.detail(NO_WEBSOCKET),
                _ => rejection,
            };
            match error.retry_after() {
                Some(after) => rejection.header(header::RETRY_AFTER, whole_seconds(after).into()),
                None => rejection,
            }
        })?;
        // `Via` tells the version of this hop (RFC 9110 §7.6.3); what goes to the client has its own.
        let version = std::mem::replace(response.version_mut(), Version::HTTP_11);
        let headers = response.headers_mut();
        headers::strip_response(headers);
        if let Some(via) = &exchange.hop.via {
            via.append(headers, version);
        }
        if attempts > 1 {
            headers.insert(&headers::name::X_ARMIGER_ATTEMPTS, attempts.into());
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            Wish::name_upgrade(response.headers_mut());
            end_with_credential(exchange, response.body_mut());
        } else if exchange.caller.is_some() && !response.headers().contains_key(header::CONTENT_LENGTH) {
            end_with_credential(exchange, response.body_mut());
        }
        Ok(response)
    }

    /// The path and query that the upstream sees. Nothing is rebuilt where the client's own target will do.
    fn target(&self, exchange: &Exchange) -> Result<Uri, Rejection> {
        let uri = exchange.request.uri();
        let received = uri.path_and_query();
        let path = match (&self.rewrite, &exchange.normal_path) {
            (None, None) => {
                let target = received.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
                return Ok(Uri::from(target));
            }
            (Some(rewrite), _) => {
                let path = rewrite.render(exchange);
                // An empty `{rest}` may leave two slashes together: what is forwarded is in normal form too.
                let normal = path::normalise(&path).map_err(|_| Reason::BadPath)?;
                // What is harmless in a request may be a dot segment, or hold a separator, beside other text: nobody asked for
                // the path that this leads to.
                let climbs = segments(&normal.path) != segments(&path);
                if climbs || !normal.held.minus(self.path_allow).is_empty() {
                    return Err(Reason::BadPath.into());
                }
                normal.path.into_owned()
            }
            (None, Some(path)) => path.clone(),
        };
        let target = match received.and_then(PathAndQuery::query) {
            Some(query) => path + "?" + query,
            None => path,
        };
        PathAndQuery::try_from(target).map(Uri::from).map_err(|_| Reason::BadPath.into())
    }
}

const NO_WEBSOCKET: &str = "The service does not speak WebSocket.";

/// How many segments with something in them a path has.
fn segments(path: &str) -> usize {
    path.split('/').filter(|segment| !segment.is_empty()).count()
}

/// An answer without an end of its own goes on no longer than what the caller has proven.
fn end_with_credential(exchange: &Exchange, body: &mut Body) {
    let Some(caller) = exchange.caller.as_ref().filter(|caller| caller.ends_streams) else { return };
    let Some(until) = caller.identity.expires else { return };
    let until = UNIX_EPOCH + Duration::from_secs(until.try_into().unwrap_or(0));
    let left = until.duration_since(exchange.closing.record.time).unwrap_or_default().min(STREAM_MAX);
    let mut end = exchange.wheel.timer();
    end.arm_at(exchange.started + left);
    match body {
        Body::Reply(reply) => reply.ends_with(end),
        Body::Tunnel(tunnel) => tunnel.end = Some(end),
        Body::Empty | Body::Full(_) | Body::Received(_) | Body::Other(_) | Body::Encoded(_) => {}
    }
}

/// Rounded up, for one who comes too early is refused again; and never 0, which means at once.
fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// What a client is told of an upstream's failure.
pub(super) fn reason(kind: Kind) -> Reason {
    match kind {
        Kind::Refused | Kind::Unreachable => Reason::UpstreamConnect,
        Kind::Exhausted | Kind::NoFile => Reason::NoSocket,
        Kind::ConnectTimeout => Reason::UpstreamConnectTimeout,
        Kind::Dns => Reason::UpstreamDns,
        Kind::TlsTimeout => Reason::UpstreamTlsTimeout,
        Kind::TlsCertificate => Reason::UpstreamCertificate,
        Kind::TlsAlert | Kind::Tls => Reason::UpstreamTls,
        Kind::InFlight | Kind::QueueFull | Kind::QueueWait => Reason::UpstreamOverloaded,
        Kind::PlaceQueue | Kind::PlaceWait | Kind::Displaced => Reason::UpstreamOverloaded,
        Kind::NoEndpoint => Reason::NoEndpoint,
        Kind::BreakerOpen => Reason::BreakerOpen,
        Kind::BreakerProbing => Reason::BreakerProbing,
        Kind::Reset | Kind::Incomplete => Reason::UpstreamReset,
        Kind::Timeout => Reason::UpstreamTimeout,
        Kind::HeadTooLarge | Kind::Protocol => Reason::UpstreamProtocol,
        Kind::NoTunnel => Reason::NotImplemented,
        Kind::Client(BodyError::TooLarge) => Reason::BodyTooLarge,
        Kind::Client(BodyError::ClientSlow) => Reason::RequestTimeout,
        Kind::Client(BodyError::ClientTooSlow) => Reason::RequestTooSlow,
        Kind::Client(BodyError::ClientMalformed) => Reason::BadFraming,
        Kind::Client(_) => Reason::ClientClosed,
    }
}
