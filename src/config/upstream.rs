//! `upstreams`: the services behind armiger and how they are reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balance::{Balance, Ejection};
use super::breaker::Breaker;
use super::health::Health;
use super::retry::{Hedge, Retry};
use super::tls::UpstreamTls;
use super::value::{ByteSize, HumanDuration};

/// A named service behind armiger.
///
/// ```yaml
/// upstreams:
///   app:
///     endpoints: [http://127.0.0.1:3000]
///     timeouts: {connect: 1s, first_byte: 15s}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it listens: `http://IP:port`, `http://name:port` (looked up at each new connection, and one endpoint
    /// however many addresses it has), or `unix:/path/to/socket`; `https://` for TLS. Several share the requests.
    ///
    /// `dns:http://name:port` is as many endpoints as the name has addresses, asked for again and again;
    /// `dns:http://_service._tcp.name` those that the SRV records of that name tell, with their ports, weights and
    /// priorities. How they are found stands under `dns`.
    pub endpoints: Vec<String>,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Says ahead of each connection which client it is for, by the PROXY protocol: `v1` (text) or `v2` (binary).
    /// Default: nothing is said.
    ///
    /// A connection then serves requests of that one client, so fewer are used again: count with one connection for
    /// each that clients have. With `https://` the header comes before the handshake. For HTTP/1.1 only.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyHeader>,
    /// Whom to believe at `https://` endpoints, and how armiger proves who it is.
    #[serde(default)]
    pub tls: Option<UpstreamTls>,
    /// It belongs to somebody else: what callers prove who they are with is not for it. Credentials that the policy
    /// `identity` took are removed on the way there, unless the route's `identity.credential` says `forward`.
    #[serde(default)]
    pub third_party: bool,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The connections that armiger keeps to it.
    #[serde(default)]
    pub pool: Pool,
    /// How much it is given at once.
    #[serde(default)]
    pub limits: Limits,
    /// How its endpoints share the requests: `least_requests`, `round_robin`, `random`, or `{hash: client_address}`,
    /// `{hash: path}`, `{hash: {header: x-user}}`.
    #[serde(default)]
    pub balance: Balance,
    /// How much each endpoint bears, in their order, from 1 to 100; of a `dns:` endpoint, each of its addresses. Default:
    /// all the same.
    #[serde(default)]
    pub weights: Vec<u8>,
    /// How long an endpoint that is new or back takes until it bears its whole share. Default: no time.
    #[serde(default)]
    pub slow_start: Option<HumanDuration>,
    /// Takes endpoints out for a while that fail again and again. Default: none.
    #[serde(default)]
    pub ejection: Option<Ejection>,
    /// Sends requests again that failed. Default: only what a closing connection did not take.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// Asks a second endpoint when the first takes long. Default: nobody does.
    #[serde(default)]
    pub hedge: Option<Hedge>,
    /// Asks its endpoints whether they are well. Default: nobody asks.
    #[serde(default)]
    pub health: Option<Health>,
    /// Keeps calls from it while it fails. Default: none.
    #[serde(default)]
    pub breaker: Option<Breaker>,
}

/// The protocol of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in clear text, with prior knowledge. What gRPC servers speak.
    H2c,
    /// HTTP/2 over TLS. An endpoint that does not agree to it (ALPN) is not spoken to.
    H2,
}

impl Protocol {
    /// Whether requests share connections, each on a stream of its own.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// A form of the PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How long an upstream may take. Each expiry has a reason of its own in the answer, the log and the metrics.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To open a connection, name lookup included. Later is a 502 (`upstream-connect-timeout`), after the other
    /// endpoints were tried.
    pub connect: HumanDuration,
    /// For the TLS handshake. Later is a 502 (`upstream-tls-timeout`), after the other endpoints were tried.
    pub tls: HumanDuration,
    /// From the request's last byte to the answer's first. Later is a 504 (`upstream-timeout`).
    pub first_byte: HumanDuration,
    /// The longest pause within an answer's body. Later cuts the answer visibly: the client never takes it for
    /// complete (`upstream-idle` in the log and in `armiger_answers_cut_total`).
    pub body_idle: HumanDuration,
    /// How long a WebSocket may be silent both ways. Longer cuts it (`idle`, likewise).
    pub tunnel_idle: HumanDuration,
    /// How long an unused connection is kept.
    ///
    /// The trap: it must be shorter than the back end's own keep-alive, or armiger sends requests into connections
    /// that the back end is just closing. Node.js closes after 5s.
    pub idle: HumanDuration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: HumanDuration::seconds(1),
            tls: HumanDuration::seconds(2),
            first_byte: HumanDuration::seconds(15),
            body_idle: HumanDuration::seconds(30),
            tunnel_idle: HumanDuration::seconds(3600),
            idle: HumanDuration::seconds(4),
        }
    }
}

/// The connections kept to an upstream. Each worker has its own, so the bounds are divided among the workers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Open connections per endpoint, in use or not.
    ///
    /// The trap: of HTTP/1.1 a WebSocket or a stream of events has one for as long as it lasts. So many of them, and every
    /// other request waits for `queue_wait` and is a 503.
    pub connections_max: u32,
    /// Requests that may wait for a connection when all are in use; more is a 503 (`upstream-overloaded`).
    pub queue_max: u32,
    /// How long one may wait; longer is a 503.
    pub queue_wait: HumanDuration,
    /// How old a connection may grow before it is closed after its current request, give or take a tenth, so that
    /// connections do not all end together.
    pub age_max: HumanDuration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            connections_max: 256,
            queue_max: 1024,
            queue_wait: HumanDuration::seconds(1),
            age_max: HumanDuration::seconds(600),
        }
    }
}

/// Bounds on what an upstream sends and is given.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests in flight, over all workers. More wait, if `queue_max` lets them; else it is a 503
    /// (`upstream-overloaded`) at once. Requests of `class: bulk` fill three quarters of it and leave the rest to others.
    /// A WebSocket or a stream of events is one until it ends.
    pub in_flight_max: u32,
    /// Requests that may wait until one in flight is over. They come by the `class` of their route and then by who came
    /// first; when all places to wait are taken, one of a higher class sends away who came last of a lower.
    pub queue_max: u32,
    /// How long one may wait, and never longer than its deadline leaves; longer is a 503.
    pub queue_wait: HumanDuration,
    /// Lets the bound follow what the upstream bears, below `in_flight_max`. Default: it stays where it is.
    pub adaptive: Option<Adaptive>,
    /// Header fields of an answer; more is a 502.
    pub headers_max: u16,
    /// Bytes of an answer's status line and headers; more is a 502. At least 8KiB.
    pub header_bytes_max: ByteSize,
    /// Bytes of a request body that are kept so that it can be sent again. A longer body is never sent twice.
    pub replay_max: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_max: 1024,
            queue_max: 0,
            queue_wait: HumanDuration::millis(100),
            adaptive: None,
            headers_max: 100,
            header_bytes_max: ByteSize::kib(64),
            replay_max: ByteSize::kib(64),
        }
    }
}

/// A bound that follows how long answers take: it falls while they take longer than when there is little to do, and
/// rises while they do not. Nobody is refused to find out.
///
/// ```yaml
/// limits: {in_flight_max: 500, queue_max: 100, adaptive: {min: 10}}
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptive {
    /// It never falls below this.
    pub min: u32,
    /// Answers may take so many times the shortest before it falls.
    ///
    /// The trap: where some requests take a hundred times as long as others, their mixture decides. Give such their own
    /// upstream.
    pub tolerance: f64,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { min: 8, tolerance: 2.0 }
    }
}

/// Who is shed first when an upstream has too much to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Never shed, and never waits: what asks whether the service lives. It is counted, and goes beyond every bound.
    Probe,
    /// Comes first, and sends others away who wait.
    Critical,
    /// Everything else.
    #[default]
    Default,
    /// What can wait until later: it fills three quarters of a bound, and is the first to be sent away.
    Bulk,
}

impl Class {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Critical => "critical",
            Self::Default => "default",
            Self::Bulk => "bulk",
        }
    }
}
