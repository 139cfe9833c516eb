//! A name that endpoints stand behind: how it is written, and what an answer makes of it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::endpoint::{Address, Complaint, Endpoint, complaint};

/// The most that an endpoint's weight comes to, whatever an answer says: turns are dealt out by weight.
const WEIGHT_MAX: u32 = 100;

/// A name that endpoints stand behind.
#[derive(Clone, Debug)]
pub struct Name {
    /// How it is written, less scheme: what operators see.
    pub label: Arc<str>,
    pub(super) question: Question,
    /// How much each of its addresses bears.
    pub(super) weight: u32,
    /// What every endpoint behind it is like, but for its address.
    template: Endpoint,
}

/// What a name server is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// The addresses of a host.
    Addresses { host: Box<str>, port: u16 },
    /// Who offers a service (RFC 2782): hosts, ports, weights and priorities.
    Services(Box<str>),
}

/// One address of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) priority: u16,
    pub(super) address: SocketAddr,
    /// By an SRV record; of an address alone it is 1.
    pub(super) weight: u16,
}

impl Name {
    /// Reads what stands after `dns:`.
    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
        const SHAPE: &str = "write `dns:http://name:8080` or `dns:http://_http._tcp.name`";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(complaint("names nobody to ask for", SHAPE));
        };
        let whole = Endpoint::parse(text)?;
        let Address::Name { host, port } = &whole.address else {
            return Err(complaint("has an address already", "leave `dns:` out"));
        };
        if !host.starts_with('_') {
            let question = Question::Addresses { host: host.clone(), port: *port };
            return Ok(Self { label: whole.label.clone(), question, weight: 1, template: whole });
        }
        let domain = host
            .split_once('.')
            .and_then(|(_, rest)| rest.strip_prefix("_tcp."))
            .ok_or(complaint("begins as the name of a service, and is none", "such names are `_service._tcp.name`"))?;
        if rest.contains(':') {
            return Err(complaint("is a service with a port", "remove the port: the records of a service tell it"));
        }
        // Certificates and `Host` are for the domain that offers the service, not for the host that an answer names.
        let template = Endpoint::parse(&format!("{scheme}://{domain}"))?;
        Ok(Self { label: (&**host).into(), question: Question::Services(host.clone()), weight: 1, template })
    }

    /// What its endpoints are like.
    pub(super) fn template(&self) -> &Endpoint {
        &self.template
    }

    /// The same with what was settled of its template, and how much each address bears.
    pub(super) fn settled(self, template: Endpoint, weight: u32) -> Self {
        Self { template, weight, ..self }
    }

    /// The endpoint at an address.
    pub(super) fn endpoint(&self, found: Found) -> Endpoint {
        let mut endpoint = self.template.clone();
        endpoint.label = found.address.to_string().into();
        endpoint.address = Address::Ip(found.address);
        endpoint.priority = found.priority;
        if matches!(self.question, Question::Services(_)) {
            let default = if endpoint.is_https { 443 } else { 80 };
            let port = found.address.port();
            if port != default
                && let Ok(authority) = format!("{}:{port}", endpoint.authority.host()).parse()
            {
                endpoint.authority = authority;
                if let Ok(host) = HeaderValue::from_str(endpoint.authority.as_str()) {
                    endpoint.host = host;
                }
            }
        }
        endpoint
    }

    /// How much each of these addresses bears, of which no two names think the same scale.
    pub(super) fn weights(&self, found: &[Found]) -> impl Iterator<Item = f64> {
        // RFC 2782: a weight of 0 is to have a small chance beside others.
        let of = |one: &Found| f64::from(one.weight).max(0.1);
        let mean = found.iter().map(of).sum::<f64>() / found.len().max(1) as f64;
        let own = f64::from(self.weight);
        found.iter().map(move |one| own * of(one) / mean)
    }
}

/// Whole weights in these proportions, none more than [`WEIGHT_MAX`]: as small as they go, or nearly in proportion.
pub(super) fn proportions(weights: &[f64]) -> Box<[u32]> {
    let most = weights.iter().copied().fold(0.0, f64::max);
    let least = weights.iter().copied().fold(f64::INFINITY, f64::min);
    if most <= 0.0 {
        return weights.iter().map(|_| 1).collect();
    }
    let max = f64::from(WEIGHT_MAX);
    let is_whole = |scale: f64| weights.iter().all(|weight| (weight * scale - (weight * scale).round()).abs() < 1e-6);
    let scales = (1..=WEIGHT_MAX).map(|units| f64::from(units) / least);
    let exact = scales.take_while(|scale| most * scale <= max + 1e-6).find(|scale| is_whole(*scale));
    let scale = exact.unwrap_or(max / most);
    weights.iter().map(|weight| ((weight * scale).round() as u32).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str, priority: u16, weight: u16) -> Found {
        Found { address: address.parse().unwrap(), priority, weight }
    }

    #[test]
    fn a_name_is_asked_for_addresses_and_one_of_a_service_for_its_records() {
        let name = Name::parse("http://Orders.default.svc:8080").unwrap();
        assert_eq!(name.question, Question::Addresses { host: "orders.default.svc".into(), port: 8080 });
        let endpoint = name.endpoint(found("10.0.0.7:8080", 0, 1));
        assert_eq!((&*endpoint.label, endpoint.host.to_str().unwrap()), ("10.0.0.7:8080", "orders.default.svc:8080"));

        let name = Name::parse("https://_http._tcp.orders.svc").unwrap();
        assert_eq!(name.question, Question::Services("_http._tcp.orders.svc".into()));
        let endpoint = name.endpoint(found("[::1]:8443", 3, 1));
        assert_eq!((&*endpoint.label, endpoint.host.to_str().unwrap()), ("[::1]:8443", "orders.svc:8443"));
        assert_eq!((endpoint.priority, endpoint.address), (3, Address::Ip("[::1]:8443".parse().unwrap())));
        assert_eq!(name.endpoint(found("10.0.0.7:443", 0, 1)).host, "orders.svc");
    }

    #[test]
    fn what_no_server_can_be_asked_for_is_refused() {
        for (text, message) in [
            ("orders:8080", "names nobody to ask for"),
            ("unix:/run/app.sock", "names nobody to ask for"),
            ("http://127.0.0.1:80", "has an address already"),
            ("http://_http.orders", "begins as the name of a service, and is none"),
            ("http://_http._udp.orders", "begins as the name of a service, and is none"),
            ("http://_http._tcp.orders:80", "is a service with a port"),
            ("http://a b", "has an invalid host"),
        ] {
            assert_eq!(Name::parse(text).unwrap_err().message, message, "{text}");
        }
    }

    #[test]
    fn weights_keep_their_proportions_and_stay_small() {
        assert!(proportions(&[]).is_empty());
        assert_eq!(*proportions(&[3.0, 3.0]), [1, 1]);
        assert_eq!(*proportions(&[90.0, 10.0]), [9, 1]);
        assert_eq!(*proportions(&[60_000.0, 30_000.0]), [2, 1]);
        assert_eq!(*proportions(&[1.0, 0.0001]), [100, 1]);
        let name = Name::parse("http://_http._tcp.orders").unwrap();
        let all = [found("10.0.0.1:80", 0, 30), found("10.0.0.2:80", 0, 10), found("10.0.0.3:80", 0, 0)];
        assert_eq!(*proportions(&name.weights(&all[..2]).collect::<Vec<_>>()), [3, 1]);
        let small = proportions(&name.weights(&all).collect::<Vec<_>>());
        assert_eq!(*small, [100, 33, 1]);
    }
}
