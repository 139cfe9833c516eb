//! An upstream's configuration, checked and resolved.

use std::time::Duration;

use super::endpoint::Endpoint;
use crate::config::upstream::{self, Protocol};
use crate::config::value::HumanDuration;
use crate::config::{Issue, Issues, KeyPath};
use crate::tls::client::Client;

/// The least that `header_bytes_max` may be: hyper's first read.
const HEADER_BYTES_MIN: u64 = 8 * 1024;

/// What requests to an upstream run on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its addresses. At least one.
    pub endpoints: Box<[Endpoint]>,
    /// What it speaks.
    pub protocol: Protocol,
    /// To open a connection, name lookup included.
    pub connect: Duration,
    /// For the TLS handshake.
    pub tls: Duration,
    /// From the request's last byte to the answer's first.
    pub first_byte: Duration,
    /// The longest pause within an answer's body.
    pub body_idle: Duration,
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
    /// Requests in flight, over all workers.
    pub in_flight_max: usize,
    /// Header fields of an answer.
    pub headers_max: usize,
    /// Bytes of an answer's head.
    pub header_bytes_max: usize,
    /// Bytes of a request body that are kept for a second try.
    pub replay_max: usize,
    /// It is not to see credentials.
    pub third_party: bool,
}

impl Plan {
    /// Checks `config`, which stands at `path`, and reports everything wrong with it.
    pub fn compile(config: &upstream::Upstream, path: KeyPath, issues: &mut Issues) -> Option<Self> {
        let mut check = Check { issues, is_good: true };
        let mut endpoints = check.endpoints(&config.endpoints, &path.key("endpoints"));
        check.protocol(config, &endpoints, &path);
        check.secure(config, &mut endpoints, &path);
        let (timeouts, pool, limits) = (path.key("timeouts"), path.key("pool"), path.key("limits"));
        let plan = Self {
            endpoints: endpoints.into(),
            protocol: config.protocol,
            connect: check.duration(config.timeouts.connect, timeouts.key("connect")),
            tls: check.duration(config.timeouts.tls, timeouts.key("tls")),
            first_byte: check.duration(config.timeouts.first_byte, timeouts.key("first_byte")),
            body_idle: check.duration(config.timeouts.body_idle, timeouts.key("body_idle")),
            idle: check.duration(config.timeouts.idle, timeouts.key("idle")),
            connections_max: check.count(config.pool.connections_max, pool.key("connections_max")),
            queue_max: config.pool.queue_max as usize,
            queue_wait: check.duration(config.pool.queue_wait, pool.key("queue_wait")),
            age_max: check.duration(config.pool.age_max, pool.key("age_max")),
            in_flight_max: check.count(config.limits.in_flight_max, limits.key("in_flight_max")),
            headers_max: check.count(u32::from(config.limits.headers_max), limits.key("headers_max")),
            header_bytes_max: check.header_bytes(config.limits.header_bytes_max.get(), limits.key("header_bytes_max")),
            replay_max: usize::try_from(config.limits.replay_max.get()).unwrap_or(usize::MAX),
            third_party: config.third_party,
        };
        check.is_good.then_some(plan)
    }
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

    fn endpoints(&mut self, texts: &[String], path: &KeyPath) -> Vec<Endpoint> {
        if texts.is_empty() {
            self.refuse(
                Issue::new(path.clone(), "names no endpoint")
                    .hint("list at least one, such as `http://127.0.0.1:3000`"),
            );
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            match Endpoint::parse(text) {
                Err(complaint) => {
                    let message = format!("`{text}` {}", complaint.message);
                    self.refuse(Issue::new(path.index(place), message).hint(complaint.hint));
                }
                Ok(endpoint) if endpoints.iter().any(|other| other.label == endpoint.label) => {
                    let message = format!("`{text}` is listed twice");
                    self.refuse(Issue::new(path.index(place), message).hint("remove one of the two"));
                }
                Ok(endpoint) => endpoints.push(endpoint),
            }
        }
        endpoints
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
        self.refuse(Issue::new(path.key("protocol"), message).hint(hint));
    }

    fn secure(&mut self, config: &upstream::Upstream, endpoints: &mut [Endpoint], path: &KeyPath) {
        if !endpoints.iter().any(|endpoint| endpoint.is_https) {
            if config.tls.is_some() && !endpoints.is_empty() {
                self.refuse(
                    Issue::new(path.key("tls"), "is for `https://` endpoints, and there is none")
                        .hint("begin endpoints with `https://`, or remove it"),
                );
            }
            return;
        }
        let alpn: &[u8] = if config.protocol.is_http2() { b"h2" } else { b"http/1.1" };
        let settings = config.tls.clone().unwrap_or_default();
        let Some(client) = Client::compile(&settings, alpn, &path.key("tls"), self.issues) else {
            self.is_good = false;
            return;
        };
        for (place, endpoint) in endpoints.iter_mut().enumerate().filter(|(_, endpoint)| endpoint.is_https) {
            if let Err(complaint) = endpoint.secure(&client) {
                let message = format!("`{}` {}", endpoint.label, complaint.message);
                self.refuse(Issue::new(path.key("endpoints").index(place), message).hint(complaint.hint));
            }
        }
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
            tls: None,
            third_party: false,
            timeouts: Timeouts::default(),
            pool: Pool::default(),
            limits: Limits::default(),
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
    fn a_queue_of_none_is_allowed() {
        let mut none = config(&["http://app"]);
        none.pool.queue_max = 0;
        assert!(compile(&none).0.is_some());
    }
}
