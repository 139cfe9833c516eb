//! Listeners: names and addresses of their own, whom they believe, and bounds that make sense.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{ListenerPlan, ListenerState};
use super::{name, positive};
use crate::config::foreign::network_meant;
use crate::config::listener::{ClientAddress, ForwardedHeader, Listener};
use crate::config::{Issue, Issues, KeyPath};
use crate::http::forwarded::{self, NOWHERE, Trust, Via};
use crate::keep::{Identity, Keeper};
use crate::telemetry::metrics::Metrics;
use crate::tls::server::Server;

pub(super) fn listeners(
    configs: &[Listener],
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Vec<Arc<ListenerPlan>> {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    let mut plans = Vec::with_capacity(configs.len());
    for (place, config) in configs.iter().enumerate() {
        let path = path.index(place);
        name(&config.name, "listener", &path, &mut names, issues);
        if config.address.tcp().is_none_or(|address| address.port() != 0)
            && let Some(first) = addresses.insert(config.address.clone(), path.key("address"))
        {
            issues.push(
                Issue::new(path.key("address"), format!("{} is taken by another listener", config.address))
                    .related(first, "taken here")
                    .hint("give each listener an address of its own"),
            );
        }
        if config.trusted_proxies.is_empty() && config.client_address != ClientAddress::default() {
            issues.push(
                Issue::new(path.key("client_address"), "says how trusted proxies name the client, and none is trusted")
                    .goes_by(path.key("trusted_proxies"))
                    .hint("list their networks under `trusted_proxies`, or leave `client_address` out"),
            );
        }
        let mut networks = |texts: &[String], path: KeyPath| {
            let networks = texts.iter().enumerate().filter_map(|(place, text)| {
                forwarded::parse_network(text)
                    .and_then(|network| match network.addr() {
                        NOWHERE if network.prefix_len() == network.max_prefix_len() && text != "unix" => {
                            Err(format!("`{text}` is nobody's address"))
                        }
                        _ => Ok(network),
                    })
                    .map_err(|message| {
                        issues.push(Issue::new(path.index(place), message).hint(network_meant(text).unwrap_or_else(
                            || "write a network such as `10.0.0.0/8`, an address, or `unix`".to_owned(),
                        )));
                    })
                    .ok()
            });
            networks.collect()
        };
        let balancers = config.proxy_protocol.as_ref().map(|proxy| Trust {
            proxies: networks(&proxy.from, path.key("proxy_protocol").key("from")),
            ..Trust::default()
        });
        let trust = Trust {
            proxies: networks(&config.trusted_proxies, path.key("trusted_proxies")),
            source: match config.client_address.header {
                ForwardedHeader::XForwardedFor => forwarded::Source::XForwardedFor,
                ForwardedHeader::Forwarded => forwarded::Source::Forwarded,
            },
            hops: config.client_address.hops,
        };
        let via = match config.via.as_str() {
            "off" => None,
            name => {
                let via = Via::new(name);
                if via.is_none() {
                    issues.push(
                        Issue::new(path.key("via"), format!("`{name}` cannot stand in `Via`"))
                            .hint("use letters, digits, `-`, `.` and `_`, or `off`"),
                    );
                }
                via
            }
        };
        if config.proxy_protocol.as_ref().is_some_and(|proxy| proxy.from.is_empty()) {
            issues.push(
                Issue::new(path.key("proxy_protocol").key("from"), "names nobody, so every connection would be closed")
                    .of_absence()
                    .hint("list the networks of your load balancer, or leave `proxy_protocol` out"),
            );
        }
        bounds(config, &path, issues);
        let tls = config.tls.as_ref().map(|tls| Server::compile(tls, &config.name, &path.key("tls"), keeper, issues));
        let state = keeper.keep(Identity::of("listener", &config.name), || ListenerState {
            in_flight: Arc::default(),
            metrics: metrics.listener(&config.name),
        });
        let name = config.name.as_str().into();
        plans.push(Arc::new(ListenerPlan {
            config: config.clone(),
            name,
            trust,
            balancers,
            via,
            tls: tls.flatten(),
            state,
        }));
    }
    plans
}

fn bounds(config: &Listener, path: &KeyPath, issues: &mut Issues) {
    let limits = &config.limits;
    let at = path.key("limits");
    for (key, value) in [
        ("connections_max", u64::from(limits.connections())),
        ("headers_max", u64::from(limits.headers_max)),
        ("requests_max", u64::from(limits.requests_max)),
        ("in_flight_max", u64::from(limits.in_flight_max)),
        ("streams_max", u64::from(limits.streams_max)),
        ("handshakes_max", u64::from(limits.handshakes_max)),
    ] {
        if value == 0 {
            issues.push(Issue::new(at.key(key), "is 0, so no request could pass").hint("the least is 1"));
        }
    }
    if limits.headers_max > 1000 {
        issues.push(Issue::new(at.key("headers_max"), "is too many").hint("the most is 1000"));
    }
    for (key, size, least, most) in [
        ("header_bytes_max", limits.header_bytes_max.get(), 1 << 10, 1 << 20),
        ("target_bytes_max", limits.target_bytes_max.get(), 256, 65_534),
    ] {
        if size < least || size > most {
            issues.push(
                Issue::new(at.key(key), "is out of bounds")
                    .hint(format!("choose from {least}B to {}KiB", most.div_ceil(1024))),
            );
        }
    }
    if let Some(value) = limits.header_value_bytes_max {
        let (least, most) = (256, limits.header_bytes_max);
        if value.get() < least || value > most {
            issues.push(
                Issue::new(at.key("header_value_bytes_max"), "is out of bounds")
                    .goes_by(at.key("header_bytes_max"))
                    .hint(format!(
                        "choose from {least}B to {most}, as many as `header_bytes_max` allows for all together"
                    )),
            );
        }
    }
    let timeouts = &config.timeouts;
    for (key, duration) in [
        ("proxy_header", timeouts.proxy_header),
        ("handshake", timeouts.handshake),
        ("request_headers", timeouts.request_headers),
        ("body_idle", timeouts.body_idle),
        ("body_rate", timeouts.body_rate),
        ("keep_alive", timeouts.keep_alive),
    ] {
        positive(duration.get(), &path.key("timeouts").key(key), issues);
    }
}
