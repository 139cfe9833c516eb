//! `listeners`: the addresses that clients connect to, and the bounds of what a connection may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{ListenAddress, SocketAccess};
use super::tls::ListenerTls;
use super::value::{ByteSize, HumanDuration};

/// One address that armiger accepts connections on.
///
/// Speaks HTTP/1.1, and HTTP/2 to clients that begin with its preface (h2c with prior knowledge); with `tls`, what
/// client and armiger agree on.
///
/// ```yaml
/// listeners:
///   - name: http
///     address: 0.0.0.0:8080
///     trusted_proxies: [10.0.0.0/8]
/// ```
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What logs and metrics call it. Unique.
    pub name: String,
    /// `IP:port`; `0.0.0.0` for every IPv4 address of the machine, `[::]` for every address. Port 0 takes a free one.
    /// Or `unix:/path`, a socket that is a file of this machine: what a dead process left there is replaced, and the file
    /// goes when the listener does.
    ///
    /// A client that comes by a file has no address: it counts as `0.0.0.0` for `ip_filter` and for limits by
    /// `client_ip`, which all such clients then share, and is `unknown` in `X-Forwarded-For`. A proxy of this machine may
    /// name them, see `trusted_proxies`.
    pub address: ListenAddress,
    /// Who may connect to a socket that is a file. Its folder must let them in, too.
    #[serde(default)]
    pub socket_access: SocketAccess,
    /// TLS, and the certificates for it. Default: clear text.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Networks, or `unix` for whoever comes by a socket that is a file, whose `X-Forwarded-*`, `Forwarded` and
    /// `X-Request-Id` headers are believed. Default: none, and whatever a client sends in those headers is removed.
    /// Whoever comes by a file is in no network, not even in `0.0.0.0/0`.
    ///
    /// The trap: behind an ingress or a load balancer every request seems to come from that one address until its
    /// network stands here, so address rules would block or allow everybody at once.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// Connections begin with a header of the PROXY protocol, by which a load balancer that passes bytes through says
    /// whose they are. Default: they do not.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Which header of a trusted proxy names the client.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Whether upstreams are told who asked by `Forwarded` (RFC 7239) too: an element with `for` (the peer), `proto` and
    /// `host` is put at the end of what trusted proxies wrote; where `client_address.header` is `x_forwarded_for`, they are not
    /// believed in it, and it stands alone. `X-Forwarded-*` are written in any case. Default: where
    /// `client_address.header` is `forwarded`.
    ///
    /// A list that is not as RFC 7239 says is passed on from behind its last mistake.
    #[serde(default)]
    pub forwarded: Option<bool>,
    /// Whether HTTP/2 clients may speak WebSocket on a stream (RFC 8441). It reaches back ends in the way that they speak,
    /// as it does from HTTP/1.1 clients; see `proxy.websocket`.
    #[serde(default)]
    pub http2_websocket: bool,
    /// What a client may ask for before it is refused.
    #[serde(default)]
    pub limits: Limits,
    /// How long a client may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The name that armiger gives itself in `Via`, by which it also notices a request that came round in a loop
    /// (508). `off` writes no `Via` and notices no loop.
    ///
    /// Every armiger is called `armiger` until it is given a name here, so that name must stand in `Via` eight times
    /// before it is taken for a loop: a gateway and the sidecar behind it are none. A name of its own is noticed at once;
    /// two on one path must not share it.
    #[serde(default = "via")]
    pub via: String,
}

fn via() -> String {
    "armiger".into()
}

impl Listener {
    /// Whether upstreams are told by `Forwarded` too.
    pub fn writes_forwarded(&self) -> bool {
        self.forwarded.unwrap_or(self.client_address.header == ForwardedHeader::Forwarded)
    }
}

/// Who says ahead of each connection, by the PROXY protocol (version 1 or 2), which client it is of.
///
/// That client counts as the one who connected: its address is what rules and limits see and what `X-Forwarded-For`
/// gets, and `trusted_proxies` are asked whether *it* is to be believed. A header that says that the connection is the
/// balancer's own (`LOCAL`, `UNKNOWN`), as its health checks do, leaves the address as it is.
///
/// A connection from elsewhere, without the header or with one that breaks the rules is closed without a word, and
/// counted in `armiger_proxy_headers_total`. With `tls`, the header comes before the handshake.
///
/// The trap: every client must send the header, so that nobody can pass for another by leaving it out. Probes and
/// clients that come directly need a listener of their own.
///
/// ```yaml
/// proxy_protocol: {from: [10.0.0.0/8]}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Networks or addresses whose word is believed; `unix` for whoever comes by a socket that is a file.
    pub from: Vec<String>,
}

/// How the client's address is found behind trusted proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAddress {
    /// The header to read; the other one is removed, so that a client cannot smuggle an address through it. `forwarded` is
    /// also written, see `forwarded` of the listener.
    pub header: ForwardedHeader,
    /// Count this many entries from the right instead of walking to the first address that no trusted proxy has.
    /// For a chain of fixed length whose addresses are not known.
    pub hops: Option<u8>,
}

/// A header that names the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, what most load balancers write.
    #[default]
    XForwardedFor,
    /// `Forwarded` of RFC 7239.
    Forwarded,
}

/// Bounds per listener and per connection. Each refusal is counted in `armiger_limit_hits_total`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections. Beyond it new ones wait in the kernel's queue until one closes. Default: 10000, but no more
    /// than half of the control group's memory limit carries at 32 KiB each, and no fewer than 64: a container with
    /// 128 MiB gets 2048. Listeners that leave it out share the memory evenly. Whatever stands here, clients never take
    /// the last quarter of the file descriptors that the process may have, nor the last 16.
    pub connections_max: Option<u32>,
    /// Header fields of one request; more is a 431. At most 1000.
    pub headers_max: u16,
    /// Bytes of request line and headers together; more is a 431. On HTTP/2 each field counts 32 bytes more (RFC 9113
    /// §6.5.2); there, above twice as much, the 431 is a bare one that is neither logged nor counted.
    pub header_bytes_max: ByteSize,
    /// Bytes of the value of one header; more is a 431 (`header-too-long`). Several lines of `Cookie` count as one. Default:
    /// 16KiB, or `header_bytes_max` where that is less, which is also the most; the least is 256B.
    ///
    /// The trap: it bounds tokens too, whatever an identity provider's `token_max` is; and Kerberos tickets can be longer.
    pub header_value_bytes_max: Option<ByteSize>,
    /// Bytes of the request target; more is a 414.
    pub target_bytes_max: ByteSize,
    /// Bytes of a request body; more is a 413. A route's `body_limit` lowers it.
    pub body_max: ByteSize,
    /// Requests on one connection before it is closed after the answer. Spreads load after a scale-up.
    pub requests_max: u32,
    /// Requests in flight on this listener; more is a 503 at once.
    pub in_flight_max: u32,
    /// Streams that one HTTP/2 connection may have open.
    pub streams_max: u32,
    /// Bytes per second that a client must send of a body, and take of an answer, on average over
    /// `timeouts.body_rate`; slower is a 408 (`request-too-slow`), or the end of the answer. `0B` lets everybody take
    /// their time.
    ///
    /// Only while armiger waits for the client: an upstream that is silent, or does not read, makes nobody slow. Bodies
    /// of gRPC are streams, and never too slow. On HTTP/2, what a client takes is bounded by `body_idle` for each piece of
    /// 64 KiB.
    pub body_rate_min: ByteSize,
    /// TLS handshakes that may go on at once; whoever comes then is cut off.
    pub handshakes_max: u32,
}

impl Limits {
    /// Open connections, where neither the user nor the machine named a number.
    pub const CONNECTIONS_MAX: u32 = 10_000;

    /// Open connections.
    pub fn connections(&self) -> u32 {
        self.connections_max.unwrap_or(Self::CONNECTIONS_MAX)
    }

    /// Bytes of the value of one header.
    pub fn header_value_bytes(&self) -> u64 {
        let told = self.header_value_bytes_max.unwrap_or(ByteSize::kib(16));
        told.get().min(self.header_bytes_max.get())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: None,
            headers_max: 100,
            header_bytes_max: ByteSize::kib(32),
            header_value_bytes_max: None,
            target_bytes_max: ByteSize::kib(8),
            body_max: ByteSize::mib(10),
            requests_max: 100_000,
            in_flight_max: 10_000,
            streams_max: 100,
            body_rate_min: ByteSize::bytes(240),
            handshakes_max: 1000,
        }
    }
}

/// How long a client may take. Each expiry is counted in `armiger_limit_hits_total`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From the connection to the end of its PROXY header, where there is one. Later is cut off.
    pub proxy_header: HumanDuration,
    /// From the connection, or its PROXY header, to the end of the TLS handshake. Later is cut off.
    pub handshake: HumanDuration,
    /// From the first byte of a request to the end of its headers; a new connection has as long for its first byte.
    /// Later is a 408.
    pub request_headers: HumanDuration,
    /// The longest pause within a request body, and the longest that a client may read nothing of an answer. The stream of
    /// a caller of gRPC may pause for as long as its call lasts.
    pub body_idle: HumanDuration,
    /// How long a client is waited for, in sum, before it is asked whether it keeps up `limits.body_rate_min`.
    pub body_rate: HumanDuration,
    /// How long a connection may stay open with nothing going on.
    pub keep_alive: HumanDuration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            proxy_header: HumanDuration::seconds(5),
            handshake: HumanDuration::seconds(5),
            request_headers: HumanDuration::seconds(10),
            body_idle: HumanDuration::seconds(30),
            body_rate: HumanDuration::seconds(10),
            keep_alive: HumanDuration::seconds(75),
        }
    }
}
