//! `ip_filter`: which addresses may use a route.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::networks as uncovered;
use super::{Guard, Policy, Scope, Stage, Weaker};
use crate::config::foreign::network_meant;
use crate::config::value::Mode;
use crate::config::{Issue, KeyPath};
use crate::exchange::{Exchange, Reason, Rejection, Verdict};

/// Which addresses may use a route. Others get a 403.
///
/// The address is the client's: the peer's, or behind `trusted_proxies` the one that they name.
///
/// ```yaml
/// ip_filter: {allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.9.0.0/16]}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "IpFilter")]
pub struct Config {
    /// Networks or addresses that may. Default: all that `deny` does not name.
    pub allow: Vec<String>,
    /// Networks or addresses that may not, even if `allow` names them.
    pub deny: Vec<String>,
    /// Whether it is enforced.
    pub mode: Mode,
}

/// What of it protects.
pub(super) const GUARDS: &[Guard] = &[
    Guard::gone("every address may use the route"),
    Guard::at("allow", Weaker::Allows(uncovered), "more addresses may use the route"),
    Guard::at("deny", Weaker::Denies(uncovered), "more addresses may use the route"),
];

impl Config {
    pub(super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        if self.allow.is_empty() && self.deny.is_empty() {
            scope.issue(
                Issue::new(path, "names no network, so it would let everybody in")
                    .of_absence_of(&["allow", "deny"])
                    .hint("list networks under `allow` or `deny`, or write `ip_filter: off`"),
            );
            return;
        }
        let allow = networks(&self.allow, &path.key("allow"), scope);
        let deny = networks(&self.deny, &path.key("deny"), scope);
        scope.add(Stage::Admit, self.mode, IpFilter { allow, deny });
    }
}

fn networks(texts: &[String], path: &KeyPath, scope: &mut Scope<'_>) -> Vec<IpNet> {
    let mut networks = Vec::with_capacity(texts.len());
    for (place, text) in texts.iter().enumerate() {
        match crate::http::forwarded::parse_network(text) {
            Ok(network) => networks.push(network),
            Err(message) => scope.issue(Issue::new(path.index(place), message).hint(
                network_meant(text).unwrap_or_else(|| "write a network such as `10.0.0.0/8`, or an address".to_owned()),
            )),
        }
    }
    networks
}

/// Refuses addresses that may not use the route.
pub struct IpFilter {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Policy for IpFilter {
    async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
        if self.allows(exchange.client.address) { Ok(Verdict::Pass) } else { Err(Reason::AddressBlocked.into()) }
    }
}

impl IpFilter {
    fn allows(&self, address: IpAddr) -> bool {
        // `::ffff:10.0.0.1` is 10.0.0.1: a dual-stack listener sees IPv4 clients in this form.
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allow: &[&str], deny: &[&str], address: &str, allowed: bool) {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("network")).collect();
        let filter = IpFilter { allow: parse(allow), deny: parse(deny) };
        assert_eq!(filter.allows(address.parse().expect("address")), allowed, "{address}");
    }

    #[test]
    fn deny_wins_over_allow_and_an_empty_allow_lets_the_rest_in() {
        check(&["10.0.0.0/8"], &[], "10.1.2.3", true);
        check(&["10.0.0.0/8"], &[], "11.1.2.3", false);
        check(&["10.0.0.0/8"], &["10.9.0.0/16"], "10.9.0.1", false);
        check(&[], &["10.9.0.0/16"], "192.0.2.1", true);
    }

    #[test]
    fn an_ipv4_client_on_a_dual_stack_listener_is_an_ipv4_client() {
        check(&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true);
        check(&[], &["10.0.0.0/8"], "::ffff:10.1.2.3", false);
    }
}
