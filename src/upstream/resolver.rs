//! Asking name servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::name::{Found, Question};
use crate::config::discovery::Dns;
use crate::config::value::HumanDuration;
use crate::config::{Issue, Issues, KeyPath};

/// Whom to ask, and for how long an answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// None: those of the system.
    servers: Box<[SocketAddr]>,
    pub(super) ttl_min: Duration,
    pub(super) ttl_max: Duration,
    timeout: Duration,
    pub(super) addresses_max: usize,
    pub(super) ready_wait: Duration,
}

impl Settings {
    /// Checks `config`, which stands at `path`, and reports everything wrong with it.
    pub fn compile(config: &Dns, path: &KeyPath, issues: &mut Issues) -> Self {
        let mut time = |time: HumanDuration, key: &'static str| {
            if time.get().is_zero() {
                issues.push(
                    Issue::new(path.key(key), "`0s` is too short")
                        .hint("every wait needs an end and a beginning: name a time"),
                );
            }
            time.get()
        };
        let (ttl_min, ttl_max) = (time(config.ttl_min, "ttl_min"), time(config.ttl_max, "ttl_max"));
        let timeout = time(config.timeout, "timeout");
        if ttl_max < ttl_min {
            issues.push(
                Issue::new(path.key("ttl_max"), format!("is less than `ttl_min`, {}", config.ttl_min))
                    .related(path.key("ttl_min"), "the least")
                    .hint("choose no less than `ttl_min`"),
            );
        }
        if config.addresses_max == 0 {
            issues.push(Issue::new(path.key("addresses_max"), "`0` would find nobody").hint("the least is 1"));
        }
        let at = path.key("servers");
        let mut servers = Vec::with_capacity(config.servers.len());
        let is_system = config.servers.as_slice() == [Dns::SYSTEM];
        for (place, text) in config.servers.iter().enumerate().filter(|_| !is_system) {
            match text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53))) {
                Ok(server) if server.port() > 0 => servers.push(server),
                _ => issues.push(Issue::new(at.index(place), format!("`{text}` is no address of a server")).hint(
                    match text.as_str() {
                        Dns::SYSTEM => "write it alone, or take it out",
                        _ => "write an address such as `10.96.0.10` or `127.0.0.1:5353`",
                    },
                )),
            }
        }
        Self {
            servers: servers.into(),
            ttl_min,
            ttl_max,
            timeout,
            addresses_max: usize::from(config.addresses_max),
            ready_wait: config.ready_wait.get(),
        }
    }
}

/// What a name server told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// In order, and none twice.
    pub(super) found: Vec<Found>,
    pub(super) ttl: Duration,
}

/// Why there is no answer to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no such name, or nothing behind it.
    #[cfg_attr(not(feature = "dns"), expect(dead_code, reason = "there is nobody to tell it"))]
    Empty(String),
    /// Nobody told.
    Failed(String),
}

impl Trouble {
    /// For metrics.
    pub(super) fn slug(&self) -> &'static str {
        match self {
            Self::Empty(_) => "empty",
            Self::Failed(_) => "failed",
        }
    }

    pub(super) fn words(&self) -> &str {
        match self {
            Self::Empty(words) | Self::Failed(words) => words,
        }
    }
}

/// Whether an address can be one of a server.
#[cfg(any(feature = "dns", test))]
fn is_usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

#[cfg(feature = "dns")]
pub(super) use asked::Resolver;

#[cfg(feature = "dns")]
mod asked {
    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
    };
    use hickory_resolver::lookup::Lookup;
    use hickory_resolver::net::NetError;
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::rr::{Name, RData, RecordType};

    use super::{Duration, Found, IpAddr, Question, Settings, SocketAddr, Told, Trouble, is_usable};

    /// The hosts of a service that are looked up.
    const HOSTS_MAX: usize = 64;

    /// Asks name servers. Made anew after a failure, so that it learns of other servers of the system.
    #[derive(Default)]
    pub(in super::super) struct Resolver(Option<(Settings, TokioResolver)>);

    impl Resolver {
        /// What `question` is answered with.
        pub(in super::super) async fn ask(
            &mut self,
            question: &Question,
            settings: &Settings,
        ) -> Result<Told, Trouble> {
            let resolver = match self.0.take().filter(|(made_by, _)| made_by == settings) {
                Some((_, resolver)) => resolver,
                None => make(settings).map_err(trouble)?,
            };
            let told = ask(&resolver, question).await;
            if !matches!(told, Err(Trouble::Failed(_))) {
                self.0 = Some((settings.clone(), resolver));
            }
            told
        }
    }

    fn make(settings: &Settings) -> Result<TokioResolver, NetError> {
        let mut builder = if settings.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = settings.servers.iter().map(|server| {
                let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let ways = ways.map(|mut way| {
                    way.port = server.port();
                    way
                });
                NameServerConfig::new(server.ip(), true, ways.into())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(ResolverOpts::default())
        };
        let options = builder.options_mut();
        options.timeout = settings.timeout;
        options.attempts = 2;
        // When to ask again is decided elsewhere.
        options.cache_size = 0;
        // A host with addresses of both kinds is one endpoint, not two.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        builder.build()
    }

    async fn ask(resolver: &TokioResolver, question: &Question) -> Result<Told, Trouble> {
        let (mut found, mut ttl) = (Vec::new(), Duration::MAX);
        match question {
            Question::Addresses { host, port } => {
                let (addresses, holds) = addresses(resolver, Name::from_utf8(host)).await?;
                ttl = holds;
                found.extend(addresses.map(|ip| of(ip, *port, 0, 1)));
            }
            Question::Services(name) => {
                let lookup = resolver.lookup(&**name, RecordType::SRV).await.map_err(trouble)?;
                ttl = ttl.min(least(&lookup));
                let records = lookup.answers().iter().filter_map(|record| match &record.data {
                    // RFC 2782: the root says that the service is not offered.
                    RData::SRV(record) if !record.target.is_root() => Some(record.clone()),
                    _ => None,
                });
                for record in records.take(HOSTS_MAX) {
                    match addresses(resolver, Ok(record.target.clone())).await {
                        Ok((addresses, holds)) => {
                            ttl = ttl.min(holds);
                            found.extend(addresses.map(|ip| of(ip, record.port, record.priority, record.weight)));
                        }
                        // A host of several that is gone, or not there yet.
                        Err(Trouble::Empty(_)) => {}
                        Err(failed) => return Err(failed),
                    }
                }
            }
        }
        found.retain(|one: &Found| is_usable(one.address.ip()) && one.address.port() > 0);
        found.sort_unstable();
        found.dedup_by_key(|one| one.address);
        if found.is_empty() { Err(Trouble::Empty("no address is behind it".into())) } else { Ok(Told { found, ttl }) }
    }

    fn of(ip: IpAddr, port: u16, priority: u16, weight: u16) -> Found {
        Found { priority, address: SocketAddr::new(ip, port), weight }
    }

    async fn addresses(
        resolver: &TokioResolver,
        name: Result<Name, hickory_resolver::proto::ProtoError>,
    ) -> Result<(impl Iterator<Item = IpAddr>, Duration), Trouble> {
        let name = name.map_err(|error| Trouble::Failed(error.to_string()))?;
        let lookup = resolver.lookup_ip(name).await.map_err(trouble)?;
        let ttl = least(lookup.as_lookup());
        Ok((lookup.iter().collect::<Vec<_>>().into_iter(), ttl))
    }

    /// The shortest TTL of an answer, aliases on the way included.
    fn least(lookup: &Lookup) -> Duration {
        let ttl = lookup.answers().iter().map(|record| record.ttl).min();
        Duration::from_secs(u64::from(ttl.unwrap_or(0)))
    }

    fn trouble(error: NetError) -> Trouble {
        if error.is_no_records_found() {
            let words = if error.is_nx_domain() { "there is no such name" } else { "no address is behind it" };
            Trouble::Empty(words.into())
        } else {
            Trouble::Failed(error.to_string())
        }
    }
}

/// Asks nobody: `dns:` endpoints are refused where this is all there is.
#[cfg(not(feature = "dns"))]
#[derive(Default)]
pub(super) struct Resolver(());

#[cfg(not(feature = "dns"))]
impl Resolver {
    /// There is nobody to ask.
    pub(super) async fn ask(&mut self, _: &Question, _: &Settings) -> Result<Told, Trouble> {
        Err(Trouble::Failed("this armiger was built without `dns`".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_dns_is_reported() {
        let told = |config: serde_json::Value| {
            let mut issues = Issues::new();
            let settings =
                Settings::compile(&serde_json::from_value(config).unwrap(), &KeyPath::root().key("dns"), &mut issues);
            (settings, issues.len())
        };
        let (settings, issues) = told(serde_json::json!({"servers": ["10.96.0.10", "[::1]:5353"]}));
        assert_eq!(issues, 0);
        assert_eq!(*settings.servers, ["10.96.0.10:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
        let wrong = serde_json::json!({
            "servers": ["ns.internal", "127.0.0.1:0"], "ttl_min": "2m", "timeout": "0s", "addresses_max": 0,
        });
        assert_eq!(told(wrong).1, 5);
    }

    #[test]
    fn what_is_nobodys_address_is_left_out() {
        for (address, expected) in [("10.0.0.1", true), ("0.0.0.0", false), ("::", false), ("224.0.0.1", false)] {
            assert_eq!(is_usable(address.parse().unwrap()), expected, "{address}");
        }
    }
}
