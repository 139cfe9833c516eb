//! Certificates of clients as a proof of who calls (mutual TLS).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, json};

use super::Refusal;
use crate::config::identity as config;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::Identity;
use crate::telemetry::metrics::IdentityMetrics;
use crate::tls::peer::Peer;

/// Whom a certificate stands for.
pub struct MtlsProvider {
    /// Its name in the configuration.
    pub name: Arc<str>,
    names: Box<[String]>,
    roles: BTreeMap<String, Box<[Box<str>]>>,
    /// Where its words are counted.
    pub metrics: IdentityMetrics,
}

impl MtlsProvider {
    /// Checks its settings, which stand at `path`.
    pub(super) fn compile(
        name: &str,
        settings: &config::Mtls,
        metrics: IdentityMetrics,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        for (place, text) in settings.names.iter().enumerate() {
            if text.is_empty() || text.find('*').is_some_and(|at| at + 1 != text.len()) {
                issues.push(
                    Issue::new(path.key("names").index(place), format!("`{text}` is no name"))
                        .hint("write a whole name, or one that ends in `*`: `spiffe://example.org/ns/shop/*`"),
                );
            }
        }
        let mut roles = BTreeMap::new();
        for (subject, held) in &settings.roles {
            roles.insert(subject.clone(), held.iter().map(|role| role.as_str().into()).collect());
        }
        (issues.len() == before).then(|| Self {
            name: name.into(),
            names: settings.names.clone().into(),
            roles,
            metrics,
        })
    }

    /// Who shows this certificate.
    ///
    /// # Errors
    /// It holds none of the names.
    pub fn identify(&self, peer: &Peer) -> Result<Identity, Refusal> {
        let Some(subject) = peer.names().find(|name| self.takes(name)) else {
            return Err(Refusal::invalid("certificate_name"));
        };
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(subject));
        claims.insert("uris".to_owned(), json!(peer.uris));
        claims.insert("hosts".to_owned(), json!(peer.hosts));
        claims.insert("fingerprint".to_owned(), json!(peer.fingerprint));
        Ok(Identity {
            provider: self.name.clone(),
            subject: subject.into(),
            roles: self.roles.get(subject).cloned().unwrap_or_default(),
            scopes: Box::default(),
            claims,
            expires: peer.ends,
        })
    }

    fn takes(&self, name: &str) -> bool {
        let fits = |listed: &String| match listed.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == listed,
        };
        self.names.is_empty() || self.names.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn provider(settings: serde_json::Value) -> (Option<MtlsProvider>, usize) {
        let settings: config::Mtls = serde_json::from_value(settings).unwrap();
        let mut issues = Issues::new();
        let metrics = Metrics::new().identity("mesh");
        let provider = MtlsProvider::compile("mesh", &settings, metrics, &KeyPath::root(), &mut issues);
        (provider, issues.len())
    }

    #[test]
    fn the_first_name_that_is_taken_is_who_calls() {
        let peer = Peer {
            uris: vec!["spiffe://other.org/x".into(), "spiffe://example.org/ns/shop/cart".into()],
            hosts: vec!["cart.test".into()],
            fingerprint: "ab".into(),
            ends: Some(7),
        };
        for (names, subject) in [
            (json!([]), Some("spiffe://other.org/x")),
            (json!(["spiffe://example.org/*"]), Some("spiffe://example.org/ns/shop/cart")),
            (json!(["cart.test"]), Some("cart.test")),
            (json!(["cart.test.other", "spiffe://example.org/ns/shop"]), None),
        ] {
            let settings = json!({"names": names, "roles": {"cart.test": ["reader", "writer"]}});
            let outcome = provider(settings).0.unwrap().identify(&peer);
            assert_eq!(outcome.as_ref().ok().map(|identity| &*identity.subject), subject);
            if let Ok(identity) = outcome {
                assert_eq!(identity.has_role("writer"), subject == Some("cart.test"));
                assert_eq!((identity.expires, identity.claims["fingerprint"].as_str()), (Some(7), Some("ab")));
            }
        }
    }

    #[test]
    fn a_star_stands_at_the_end_only() {
        assert_eq!(provider(json!({"names": ["spiffe://*/x", "a*b", ""]})).1, 3);
    }
}
