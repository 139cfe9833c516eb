//! An upstream's configuration, checked and resolved.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::balance;
use super::breaker;
use super::bulkhead::Bounds;
use super::endpoint::{Endpoint, complaint};
use super::gradient;
use super::health;
use super::hedge;
use super::name::Name;
use super::retry;
use super::standing::Ejection;
use crate::config::balance::{self as balance_config, Balance, HashKey};
use crate::config::breaker::{Breaker, Failure};
use crate::config::health::{By, Health};
use crate::config::retry::{Hedge, Retry};
use crate::config::upstream::{self, Protocol};
use crate::config::value::HumanDuration;
use crate::config::{Issue, Issues, KeyPath};
use crate::http::proxy_protocol::Version;
use crate::tls::client::Client;

/// The least that `header_bytes_max` may be: hyper's first read.
const HEADER_BYTES_MIN: u64 = 8 * 1024;

/// What requests to an upstream run on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its addresses. At least one, unless it has names.
    pub endpoints: Box<[Endpoint]>,
    /// Names that more of them stand behind.
    pub names: Box<[Name]>,
    /// The priorities that endpoints have, in order.
    pub(super) priorities: SmallVec<[u16; 1]>,
    /// What it speaks.
    pub protocol: Protocol,
    /// How it is told which client a connection is for, if it is.
    pub proxy_protocol: Option<Version>,
    /// To open a connection, name lookup included.
    pub connect: Duration,
    /// For the TLS handshake.
    pub tls: Duration,
    /// From the request's last byte to the answer's first.
    pub first_byte: Duration,
    /// The longest pause within an answer's body.
    pub body_idle: Duration,
    /// How long a tunnel may be silent.
    pub tunnel_idle: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// Connections per endpoint, over all workers.
    pub connections_max: usize,
    /// Requests that may wait for a connection, over all workers.
    pub queue_max: usize,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// How old a connection may grow, give or take a tenth.
    pub age_max: Duration,
    /// How many requests it is given at once.
    pub bounds: Bounds,
    /// Header fields of an answer.
    pub headers_max: usize,
    /// Bytes of an answer's head.
    pub header_bytes_max: usize,
    /// Bytes of a request body that are kept for a second try.
    pub replay_max: usize,
    /// It is not to see credentials.
    pub third_party: bool,
    /// What its breakers go by, if it has any.
    pub breaker: Option<breaker::Plan>,
    /// What counts as failure.
    pub judge: Arc<breaker::Judge>,
    /// How its endpoints share requests.
    pub balance: balance::Plan,
    /// How long an endpoint takes to bear its whole share.
    pub slow_start: Option<Duration>,
    /// When endpoints are taken out.
    pub ejection: Option<Ejection>,
    /// Which tries are followed by another.
    pub retry: Option<retry::Plan>,
    /// When a second endpoint is asked.
    pub hedge: Option<hedge::Plan>,
    /// How its endpoints are asked whether they are well.
    pub health: Option<health::Plan>,
    /// When the certificate ends that armiger shows it, in seconds since 1970.
    pub certificate_end: Option<i64>,
}

impl Plan {
    /// Checks `config`, which stands at `path`, and reports everything wrong with it.
    pub fn compile(config: &upstream::Upstream, path: KeyPath, issues: &mut Issues) -> Option<Self> {
        let mut check = Check { issues, is_good: true };
        let (mut endpoints, names) = check.endpoints(&config.endpoints, &path.key("endpoints"));
        check.protocol(config, &endpoints, &path);
        let certificate_end = check.secure(config, &mut endpoints, &path);
        let (timeouts, pool, limits) = (path.key("timeouts"), path.key("pool"), path.key("limits"));
        let breaker = config.breaker.as_ref().map(|config| check.breaker(config, &path.key("breaker")));
        let weight = |place: usize| u32::from(config.weights.get(place).copied().unwrap_or(1).max(1));
        let (mut fixed, mut behind, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (endpoint, name)) in endpoints.into_iter().zip(names).enumerate() {
            match name {
                Some(name) => behind.push(name.settled(endpoint, weight(place))),
                None => {
                    fixed.push(endpoint);
                    weights.push(weight(place));
                }
            }
        }
        let plan = Self {
            endpoints: fixed.into(),
            names: behind.into(),
            priorities: SmallVec::from_buf([0]),
            protocol: config.protocol,
            proxy_protocol: check.proxy_protocol(config, &path),
            connect: check.duration(config.timeouts.connect, timeouts.key("connect")),
            tls: check.duration(config.timeouts.tls, timeouts.key("tls")),
            first_byte: check.duration(config.timeouts.first_byte, timeouts.key("first_byte")),
            body_idle: check.duration(config.timeouts.body_idle, timeouts.key("body_idle")),
            tunnel_idle: check.duration(config.timeouts.tunnel_idle, timeouts.key("tunnel_idle")),
            idle: check.duration(config.timeouts.idle, timeouts.key("idle")),
            connections_max: check.count(config.pool.connections_max, pool.key("connections_max")),
            queue_max: config.pool.queue_max as usize,
            queue_wait: check.duration(config.pool.queue_wait, pool.key("queue_wait")),
            age_max: check.duration(config.pool.age_max, pool.key("age_max")),
            bounds: check.bounds(&config.limits, &limits),
            headers_max: check.count(u32::from(config.limits.headers_max), limits.key("headers_max")),
            header_bytes_max: check.header_bytes(config.limits.header_bytes_max.get(), limits.key("header_bytes_max")),
            replay_max: usize::try_from(config.limits.replay_max.get()).unwrap_or(usize::MAX),
            third_party: config.third_party,
            judge: breaker
                .as_ref()
                .map_or_else(|| Arc::new(breaker::Judge::of(&Failure::default())), |breaker| breaker.judge.clone()),
            breaker,
            balance: check.balance(config, weights.into(), &path),
            slow_start: config.slow_start.map(|time| check.duration(time, path.key("slow_start"))),
            ejection: config.ejection.as_ref().map(|config| check.ejection(config, &path.key("ejection"))),
            retry: config.retry.as_ref().map(|config| check.retry(config, &path.key("retry"))),
            hedge: config.hedge.as_ref().map(|hedge| check.hedge(hedge, config.retry.as_ref(), &path.key("hedge"))),
            health: config
                .health
                .as_ref()
                .map(|health| check.health(health, config.protocol, &path.key("protocol"), &path.key("health"))),
            certificate_end,
        };
        check.is_good.then_some(plan)
    }

    /// The same for these endpoints.
    pub(super) fn with(&self, endpoints: Vec<Endpoint>, weights: Box<[u32]>) -> Self {
        let mut priorities: SmallVec<[u16; 1]> = endpoints.iter().map(|endpoint| endpoint.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        Self { endpoints: endpoints.into(), priorities, balance: self.balance.with(weights), ..self.clone() }
    }
}

/// Whether it stands there already: a name beside an address that is looked up is another thing.
fn is_listed(endpoint: &Endpoint, name: Option<&Name>, endpoints: &[Endpoint], names: &[Option<Name>]) -> bool {
    endpoints.iter().zip(names).any(|(other, other_name)| match (name, other_name) {
        (Some(name), Some(other)) => name.label == other.label,
        (None, None) => endpoint.label == other.label,
        _ => false,
    })
}

struct Check<'i> {
    issues: &'i mut Issues,
    is_good: bool,
}

impl Check<'_> {
    fn refuse(&mut self, issue: Issue) {
        self.is_good = false;
        self.issues.push(issue);
    }

    /// Each endpoint, and the name that it is a pattern of if it stands behind one.
    fn endpoints(&mut self, texts: &[String], path: &KeyPath) -> (Vec<Endpoint>, Vec<Option<Name>>) {
        if texts.is_empty() {
            self.refuse(
                Issue::new(path.clone(), "names no endpoint")
                    .of_absence()
                    .hint("list at least one, such as `http://127.0.0.1:3000`"),
            );
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(texts.len());
        let mut names: Vec<Option<Name>> = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            let parsed = match text.strip_prefix("dns:") {
                Some(_) if cfg!(not(feature = "dns")) => Err(complaint(
                    "is for an armiger that was built with `dns`",
                    "leave `dns:` out, or build with the feature `dns`",
                )),
                Some(name) => Name::parse(name).map(|name| (name.template().clone(), Some(name))),
                None => Endpoint::parse(text).map(|endpoint| (endpoint, None)),
            };
            match parsed {
                Err(complaint) => {
                    let message = format!("`{text}` {}", complaint.message);
                    self.refuse(Issue::new(path.index(place), message).hint(complaint.hint));
                }
                Ok((endpoint, name)) if is_listed(&endpoint, name.as_ref(), &endpoints, &names) => {
                    let message = format!("`{text}` is listed twice");
                    self.refuse(Issue::new(path.index(place), message).hint("remove one of the two"));
                }
                Ok((endpoint, name)) => {
                    endpoints.push(endpoint);
                    names.push(name);
                }
            }
        }
        (endpoints, names)
    }

    /// What is spoken goes with the scheme of every endpoint.
    fn protocol(&mut self, config: &upstream::Upstream, endpoints: &[Endpoint], path: &KeyPath) {
        let is_secured = |endpoint: &Endpoint| endpoint.is_https;
        let (message, hint) = match config.protocol {
            Protocol::H2 if !endpoints.iter().all(is_secured) => {
                ("`h2` is spoken over TLS", "begin every endpoint with `https://`, or write `h2c`")
            }
            Protocol::H2c if endpoints.iter().any(is_secured) => {
                ("`h2c` is spoken in clear text", "write `h2`, or begin every endpoint with `http://`")
            }
            _ => return,
        };
        self.refuse(Issue::new(path.key("protocol"), message).goes_by(path.key("endpoints")).hint(hint));
    }

    fn proxy_protocol(&mut self, config: &upstream::Upstream, path: &KeyPath) -> Option<Version> {
        let version = config.proxy_protocol?;
        if config.protocol.is_http2() {
            self.refuse(
                Issue::new(
                    path.key("proxy_protocol"),
                    "says for which client a connection is, and HTTP/2's are for all",
                )
                .related(path.key("protocol"), "spoken here")
                .hint("leave it out: the client stands in `X-Forwarded-For`; or write `protocol: http1`"),
            );
        }
        Some(match version {
            upstream::ProxyHeader::V1 => Version::V1,
            upstream::ProxyHeader::V2 => Version::V2,
        })
    }

    /// Has endpoints spoken to over TLS, and tells when the certificate ends that they are shown.
    fn secure(&mut self, config: &upstream::Upstream, endpoints: &mut [Endpoint], path: &KeyPath) -> Option<i64> {
        let has_secured = endpoints.iter().any(|endpoint| endpoint.is_https);
        // One that could not be read may have been meant to be one.
        if !has_secured && config.tls.is_some() && endpoints.len() == config.endpoints.len() {
            self.refuse(
                Issue::new(path.key("tls"), "is for `https://` endpoints, and there is none")
                    .goes_by(path.key("endpoints"))
                    .hint("begin endpoints with `https://`, or remove it"),
            );
        }
        if !has_secured && config.tls.is_none() {
            return None;
        }
        let alpn: &[u8] = if config.protocol.is_http2() { b"h2" } else { b"http/1.1" };
        let settings = config.tls.clone().unwrap_or_default();
        let Some(client) = Client::compile(&settings, alpn, &path.key("tls"), self.issues) else {
            self.is_good = false;
            return None;
        };
        for (place, endpoint) in endpoints.iter_mut().enumerate().filter(|(_, endpoint)| endpoint.is_https) {
            if let Err(complaint) = endpoint.secure(&client) {
                let message = format!("`{}` {}", endpoint.label, complaint.message);
                self.refuse(Issue::new(path.key("endpoints").index(place), message).hint(complaint.hint));
            }
        }
        client.end
    }

    fn duration(&mut self, duration: HumanDuration, path: KeyPath) -> Duration {
        if duration.get().is_zero() {
            self.refuse(
                Issue::new(path, "`0s` is too short").hint("every wait needs an end and a beginning: name a time"),
            );
        }
        duration.get()
    }

    fn count(&mut self, count: u32, path: KeyPath) -> usize {
        if count == 0 {
            self.refuse(Issue::new(path, "`0` would let nothing through").hint("the least is 1"));
        }
        count as usize
    }

    fn bounds(&mut self, config: &upstream::Limits, path: &KeyPath) -> Bounds {
        let in_flight_max = self.count(config.in_flight_max, path.key("in_flight_max"));
        let adaptive = config.adaptive.as_ref().map(|config| {
            let in_flight_max_at = path.key("in_flight_max");
            let path = path.key("adaptive");
            let min = self.count(config.min, path.key("min"));
            if min > in_flight_max {
                let issue = Issue::new(path.key("min"), format!("{min} is more than `in_flight_max`"));
                let issue = issue.goes_by(path.key("min")).goes_by(in_flight_max_at);
                self.refuse(issue.hint("choose no more than `in_flight_max`"));
            }
            if !(1.0..=100.0).contains(&config.tolerance) {
                let issue = Issue::new(path.key("tolerance"), format!("{} is out of range", config.tolerance));
                self.refuse(issue.hint("choose from 1.0 to 100.0, such as `2.0`"));
            }
            gradient::Rules { min, tolerance: config.tolerance }
        });
        Bounds {
            in_flight_max,
            queue_max: config.queue_max as usize,
            queue_wait: self.duration(config.queue_wait, path.key("queue_wait")),
            adaptive,
        }
    }

    fn share(&mut self, share: f64, path: KeyPath) -> f64 {
        if !(0.0..=1.0).contains(&share) {
            self.refuse(Issue::new(path, format!("{share} is no share")).hint("choose from 0.0 to 1.0"));
        }
        share
    }

    /// The same where 0 has been refused in words of its own.
    fn share_above_none(&mut self, share: f64, path: KeyPath) {
        if !(0.0..=1.0).contains(&share) {
            self.refuse(Issue::new(path, format!("{share} is no share")).hint("choose more than 0 and at most 1"));
        }
    }

    fn balance(&mut self, config: &upstream::Upstream, of_fixed: Box<[u32]>, path: &KeyPath) -> balance::Plan {
        let (weights, count) = (&config.weights, config.endpoints.len());
        let at = path.key("weights");
        if !weights.is_empty() && weights.len() != count {
            let message = format!("has {} weights for {count} endpoints", weights.len());
            self.refuse(
                Issue::new(at.clone(), message)
                    .related(path.key("endpoints"), "the endpoints")
                    .goes_by(path.key("endpoints"))
                    .of_absence()
                    .hint("give one weight for each endpoint, in their order"),
            );
        }
        for (place, weight) in weights.iter().enumerate() {
            if !(1..=100).contains(weight) {
                self.refuse(
                    Issue::new(at.index(place), format!("{weight} is out of range"))
                        .hint("choose from 1 to 100; an endpoint that is to get nothing is left out"),
                );
            }
        }
        if let Balance::Hash(HashKey::Header(name)) = &config.balance
            && http::HeaderName::from_bytes(name.as_bytes()).is_err()
        {
            let at = path.key("balance").key("hash").key("header");
            self.refuse(Issue::new(at, format!("`{name}` is no header name")).hint("write a name such as `x-user`"));
        }
        balance::Plan::of(&config.balance, of_fixed)
    }

    fn ejection(&mut self, config: &balance_config::Ejection, path: &KeyPath) -> Ejection {
        self.count(config.consecutive, path.key("consecutive"));
        let base = self.duration(config.base, path.key("base"));
        let max = config.max.get();
        if max < base {
            let issue = Issue::new(path.key("max"), format!("is less than `base`, {}", config.base));
            let issue = issue.of_absence().goes_by(path.key("base"));
            self.refuse(issue.related(path.key("base"), "the first time").hint("choose no less than `base`"));
        }
        let share_max = config.share_max;
        if share_max == 0.0 {
            let issue = Issue::new(path.key("share_max"), "`0` would let nothing be ejected");
            self.refuse(issue.hint("choose more than 0, such as `0.5`; or leave `ejection` out"));
        } else {
            self.share_above_none(share_max, path.key("share_max"));
        }
        Ejection { consecutive: config.consecutive, base, max, share_max }
    }

    fn retry(&mut self, config: &Retry, path: &KeyPath) -> retry::Plan {
        if !(2..=10).contains(&config.attempts) {
            let issue = Issue::new(path.key("attempts"), format!("{} is out of range", config.attempts));
            self.refuse(issue.hint("choose from 2 to 10, the first try included; or leave `retry` out"));
        }
        if config.when.is_empty() {
            let issue = Issue::new(path.key("when"), "names nothing to try again for").of_absence();
            self.refuse(issue.hint("list conditions such as `connect`, `reset` and `503`; or leave `retry` out"));
        }
        if let Some(per_try) = config.per_try {
            self.duration(per_try, path.key("per_try"));
        }
        let backoff = path.key("backoff");
        let base = self.duration(config.backoff.base, backoff.key("base"));
        if config.backoff.max.get() < base {
            let issue = Issue::new(backoff.key("max"), format!("is less than `base`, {}", config.backoff.base));
            let issue = issue.of_absence().goes_by(backoff.key("base"));
            self.refuse(issue.related(backoff.key("base"), "the first bound").hint("choose no less than `base`"));
        }
        let budget = path.key("budget");
        let ratio = self.share(config.budget.ratio, budget.key("ratio"));
        if ratio == 0.0 && config.budget.min_per_second == 0 {
            let issue = Issue::new(budget, "lets nothing be tried again").of_absence();
            self.refuse(issue.hint("raise `ratio` or `min_per_second`; or leave `retry` out"));
        }
        retry::Plan::of(config)
    }

    fn hedge(&mut self, config: &Hedge, retry: Option<&Retry>, path: &KeyPath) -> hedge::Plan {
        if !(0.5..=0.999).contains(&config.percentile) {
            let issue = Issue::new(path.key("percentile"), format!("{} is out of range", config.percentile));
            self.refuse(issue.hint("choose from 0.5 to 0.999, such as `0.95`"));
        }
        let purse = retry.map_or_else(|| retry::Plan::of(&Retry::default()), retry::Plan::of);
        hedge::Plan { percentile: config.percentile, floor: self.duration(config.floor, path.key("floor")), purse }
    }

    fn health(&mut self, config: &Health, protocol: Protocol, protocol_at: &KeyPath, path: &KeyPath) -> health::Plan {
        for (key, time) in
            [("interval", config.interval), ("interval_ill", config.interval_ill), ("timeout", config.timeout)]
        {
            self.duration(time, path.key(key));
        }
        self.count(config.rise, path.key("rise"));
        self.count(config.fall, path.key("fall"));
        if !config.path.starts_with('/') || config.path.parse::<http::uri::PathAndQuery>().is_err() {
            let issue = Issue::new(path.key("path"), format!("`{}` is no path", config.path));
            self.refuse(issue.hint("write a path such as `/healthz`"));
        }
        if let Some(host) = &config.host
            && (host.parse::<http::uri::Authority>().is_err() || host.contains('@'))
        {
            let issue = Issue::new(path.key("host"), format!("`{host}` is no host name"));
            self.refuse(issue.hint("write a name such as `app.internal`"));
        }
        if config.status.is_empty() {
            let issue = Issue::new(path.key("status"), "names no status, so nobody could be well").of_absence();
            self.refuse(issue.hint("leave it out for 200-299"));
        }
        if config.by == By::Grpc && !protocol.is_http2() {
            let issue = Issue::new(path.key("by"), "`grpc` needs HTTP/2").goes_by(protocol_at.clone());
            self.refuse(issue.hint("write `protocol: h2c` or `protocol: h2` for the upstream"));
        }
        if config.service.len() > 127 {
            let issue = Issue::new(path.key("service"), "is longer than 127 bytes");
            self.refuse(issue.hint("write the service's name, such as `shop.Orders`"));
        }
        health::Plan::of(config)
    }

    fn breaker(&mut self, config: &Breaker, path: &KeyPath) -> breaker::Plan {
        let (trip, window, open_for) = (path.key("trip"), path.key("window"), path.key("open_for"));
        let failure = path.key("failure");
        if config.trip.consecutive.is_none() && config.trip.ratio.is_none() {
            self.refuse(
                Issue::new(trip.clone(), "says nothing that opens the breaker")
                    .of_absence_of(&["consecutive", "ratio"])
                    .hint("give `consecutive`, `ratio` or both"),
            );
        }
        if let Some(most) = config.trip.consecutive {
            self.count(most, trip.key("consecutive"));
        }
        if let Some(ratio) = config.trip.ratio {
            if ratio == 0.0 {
                let issue = Issue::new(trip.key("ratio"), "`0` would open it on healthy upstreams");
                self.refuse(issue.hint("choose more than 0, such as `0.5`"));
            } else {
                self.share_above_none(ratio, trip.key("ratio"));
            }
        }
        if config.trip.min_requests == 0 && config.trip.ratio.is_some() {
            let issue = Issue::new(trip.key("min_requests"), "a share of `0` requests says nothing");
            self.refuse(issue.hint("the least is 1; the more, the less a few failures count"));
        }
        let buckets = config.window.buckets;
        if !(1..=60).contains(&buckets) {
            self.refuse(
                Issue::new(window.key("buckets"), format!("{buckets} is out of range")).hint("choose from 1 to 60"),
            );
        }
        let length = self.duration(config.window.length, window.key("length"));
        let base = self.duration(config.open_for.base, open_for.key("base"));
        let max = config.open_for.max.get();
        if max < base {
            let issue = Issue::new(open_for.key("max"), format!("is less than `base`, {}", config.open_for.base));
            let issue = issue.of_absence().goes_by(open_for.key("base"));
            self.refuse(issue.related(open_for.key("base"), "the first time").hint("choose no less than `base`"));
        }
        let multiplier = config.open_for.multiplier;
        if !(1.0..=10.0).contains(&multiplier) {
            let issue = Issue::new(open_for.key("multiplier"), format!("{multiplier} is out of range"));
            self.refuse(issue.hint("choose from 1.0 to 10.0"));
        }
        let slow_call = config.failure.slow_call.map(|slow| {
            let at = failure.key("slow_call");
            if slow.get() >= length && !length.is_zero() {
                let issue = Issue::new(at.clone(), "is no shorter than the window, so it would be forgotten first");
                let issue = issue.goes_by(window.key("length"));
                self.refuse(issue.related(window.key("length"), "the window").hint("choose less than `window.length`"));
            }
            self.duration(slow, at)
        });
        let rules = breaker::Rules {
            ratio: config.trip.ratio,
            min_requests: config.trip.min_requests,
            consecutive: config.trip.consecutive,
            window: length,
            buckets: usize::from(buckets),
            open_for: base,
            open_for_max: max,
            multiplier,
            jitter: self.share(config.open_for.jitter, open_for.key("jitter")),
            probes: u32::try_from(self.count(config.half_open.max_requests, path.key("half_open").key("max_requests")))
                .unwrap_or(u32::MAX),
            slow_call,
        };
        breaker::Plan {
            scope: config.scope,
            rules: Arc::new(rules),
            judge: Arc::new(breaker::Judge::of(&config.failure)),
        }
    }

    fn header_bytes(&mut self, bytes: u64, path: KeyPath) -> usize {
        // hyper takes the bound of HTTP/2 as 32 bits.
        if !(HEADER_BYTES_MIN..=u64::from(u32::MAX)).contains(&bytes) {
            self.refuse(Issue::new(path, format!("{bytes} bytes are out of range")).hint("the least is 8KiB"));
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::UpstreamTls;
    use crate::config::upstream::{Limits, Pool, Timeouts, Upstream};
    use crate::config::value::ByteSize;

    fn config(endpoints: &[&str]) -> Upstream {
        Upstream {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            protocol: Protocol::Http1,
            proxy_protocol: None,
            tls: None,
            third_party: false,
            timeouts: Timeouts::default(),
            pool: Pool::default(),
            limits: Limits::default(),
            breaker: None,
            balance: Balance::default(),
            weights: Vec::new(),
            slow_start: None,
            ejection: None,
            retry: None,
            hedge: None,
            health: None,
        }
    }

    fn compile(config: &Upstream) -> (Option<Plan>, usize) {
        let mut issues = Issues::new();
        let plan = Plan::compile(config, KeyPath::root().key("upstreams").key("app"), &mut issues);
        (plan, issues.len())
    }

    #[test]
    fn the_defaults_compile() {
        let (plan, issues) = compile(&config(&["http://127.0.0.1:3000", "unix:/run/app.sock"]));
        assert_eq!(issues, 0);
        assert_eq!(plan.unwrap().endpoints.len(), 2);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut wrong = config(&["ftp://app", "http://app", "http://APP:80", "nonsense"]);
        wrong.timeouts.connect = HumanDuration::seconds(0);
        wrong.pool.connections_max = 0;
        wrong.limits.header_bytes_max = ByteSize::kib(7);
        let (plan, issues) = compile(&wrong);
        assert!(plan.is_none());
        assert_eq!(issues, 6);
    }

    #[test]
    fn what_is_spoken_goes_with_the_scheme() {
        for (endpoints, protocol, tls, is_good) in [
            (&["https://app"][..], Protocol::Http1, None, true),
            (&["https://app", "http://other"], Protocol::Http1, None, true),
            (&["https://app"], Protocol::H2, None, true),
            (&["https://app", "http://other"], Protocol::H2, None, false),
            (&["https://app"], Protocol::H2c, None, false),
            (&["http://app"], Protocol::H2, None, false),
            (&["http://app"], Protocol::Http1, Some(UpstreamTls::default()), false),
        ] {
            let mut settings = config(endpoints);
            (settings.protocol, settings.tls) = (protocol, tls);
            let (plan, issues) = compile(&settings);
            assert_eq!((plan.is_some(), issues), (is_good, usize::from(!is_good)), "{endpoints:?} {protocol:?}");
        }
    }

    #[test]
    fn an_upstream_without_endpoints_is_refused() {
        let (plan, issues) = compile(&config(&[]));
        assert!(plan.is_none());
        assert_eq!(issues, 1);
    }

    #[test]
    fn every_mistake_of_retries_and_balance_is_reported() {
        let of = |value: serde_json::Value| {
            let mut whole = serde_json::to_value(config(&["http://a", "http://b"])).unwrap();
            whole.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            compile(&serde_json::from_value(whole).unwrap()).1
        };
        assert_eq!(of(serde_json::json!({"weights": [1, 0, 101], "balance": {"hash": {"header": "x y"}}})), 4);
        assert_eq!(of(serde_json::json!({"ejection": {"consecutive": 0, "max": "1s", "share_max": 1.5}})), 3);
        let retry = serde_json::json!({
            "attempts": 1, "when": [], "per_try": "0s", "backoff": {"base": "2s", "max": "1s"}, "budget": {"ratio": 2.0},
        });
        assert_eq!(of(serde_json::json!({"retry": retry, "slow_start": "0s"})), 6);
    }

    #[test]
    fn every_mistake_of_a_breaker_is_reported() {
        let mut wrong = config(&["http://app"]);
        wrong.breaker = Some(
            serde_json::from_value(serde_json::json!({
                "trip": {"min_requests": 5},
                "window": {"length": "1s", "buckets": 0},
                "open_for": {"base": "10s", "max": "1s", "multiplier": 0.5, "jitter": 2.0},
                "half_open": {"max_requests": 0},
                "failure": {"slow_call": "1s"},
            }))
            .unwrap(),
        );
        assert_eq!(compile(&wrong).1, 7);
        wrong.breaker =
            Some(serde_json::from_value(serde_json::json!({"trip": {"consecutive": 0, "ratio": 0.0}})).unwrap());
        assert_eq!(compile(&wrong).1, 2);
    }

    #[test]
    fn a_share_needs_requests_and_a_breaker_for_operators_alone_no_failure() {
        let mut one = config(&["http://app"]);
        let mut mistakes = |breaker: serde_json::Value| {
            one.breaker = Some(serde_json::from_value(breaker).unwrap());
            compile(&one).1
        };
        assert_eq!(mistakes(serde_json::json!({"trip": {"min_requests": 0, "ratio": 0.5}})), 1);
        assert_eq!(mistakes(serde_json::json!({"trip": {"min_requests": 0, "consecutive": 5}})), 0);
        let nothing = serde_json::json!({"status": [], "grpc": [], "connect": false, "timeout": false, "reset": false});
        assert_eq!(mistakes(serde_json::json!({"trip": {"consecutive": 5}, "failure": nothing})), 0);
    }

    #[test]
    fn a_queue_of_none_is_allowed() {
        let mut none = config(&["http://app"]);
        none.pool.queue_max = 0;
        assert!(compile(&none).0.is_some());
    }
}
