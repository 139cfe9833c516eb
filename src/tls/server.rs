//! TLS of clients: which certificate each gets, and whose certificates are believed.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::expiry::List;
use super::{expiry, pem, provider};
use crate::config::tls::{CertificatePair, ClientAuth, ClientAuthMode, ListenerTls, TlsVersion};
use crate::config::{Issue, Issues, KeyPath};
use crate::keep::{Identity, Keeper};

/// The versions from the oldest that is spoken.
const SINCE_TLS12: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const SINCE_TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// What handshakes with clients run on.
pub struct Server {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// The certificates that are shown: a name that each holds, and when it ends, in seconds since 1970.
    pub ends: Vec<(String, i64)>,
    /// The lists of certificates that were taken back.
    pub lists: Vec<List>,
    /// Who is let in, where clients are asked for certificates.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Server {
    /// Checks the settings of the listener `name`, which stand at `path`, and reports everything wrong with them.
    pub fn compile(
        settings: &ListenerTls,
        name: &str,
        path: &KeyPath,
        keeper: &mut Keeper<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        if settings.certificates.is_empty() {
            issues.push(
                Issue::new(path.key("certificates"), "names no certificate")
                    .of_absence()
                    .hint("list at least one: `- {certificate: \"${file:tls.crt}\", key: \"${file:tls.key}\"}`"),
            );
        }
        let mut shown = Shown::default();
        let mut ends = Vec::with_capacity(settings.certificates.len());
        for (place, config) in settings.certificates.iter().enumerate() {
            let Some(pair) = pair(config, &path.key("certificates").index(place), issues) else { continue };
            let names = names(&pair);
            let label = names.first().cloned().unwrap_or_else(|| format!("certificate {place}"));
            if let Some(end) = pair.cert.first().and_then(|certificate| expiry::of(certificate)) {
                ends.push((label, end));
            }
            shown.add(names, Arc::new(pair));
        }
        let mut lists = Vec::new();
        let auth = settings.client_auth.as_ref();
        let verifier = auth.map(|auth| verifier(auth, &path.key("client_auth"), &mut lists, issues));
        if issues.len() != before {
            return None;
        }
        let versions = match settings.min_version {
            TlsVersion::Tls12 => SINCE_TLS12,
            TlsVersion::Tls13 => SINCE_TLS13,
        };
        let builder = match ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions) {
            Ok(builder) => builder,
            Err(error) => {
                issues.push(Issue::new(path.key("min_version"), error.to_string()).hint("leave it out"));
                return None;
            }
        };
        let clients = match verifier {
            None => None,
            Some(verifier) => Some(verifier?),
        };
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if clients.is_some() {
            // A session that is resumed goes by the certificate of its first handshake, which may have ended or been
            // renewed since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else if let Some(ticketer) = &keeper.keep(Identity::of("tls_tickets", name).untold(), Tickets::new).0 {
            config.ticketer = ticketer.clone();
        }
        Some(Self { config: Arc::new(config), ends, lists, clients })
    }

    /// Whether a client that showed these certificates when it connected would be let in at `now`.
    pub fn lets_in(&self, shown: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some(verifier) = &self.clients else { return true };
        match shown.split_first() {
            None => !verifier.client_auth_mandatory(),
            Some((own, others)) => verifier.verify_client_cert(own, others, now).is_ok(),
        }
    }
}

/// The keys by which sessions are sealed for their clients. Outlives reloads.
struct Tickets(Option<Arc<dyn ProducesTickets>>);

impl Tickets {
    fn new() -> Self {
        Self(Ticketer::new().ok())
    }
}

fn pair(config: &CertificatePair, path: &KeyPath, issues: &mut Issues) -> Option<CertifiedKey> {
    let mut refuse = |key: &str, unfit: pem::Unfit| {
        issues.push(Issue::new(path.key(key), unfit.message).hint(unfit.hint));
    };
    let certificates = pem::certificates(&config.certificate).map_err(|unfit| refuse("certificate", unfit)).ok();
    let key = pem::key(config.key.expose()).map_err(|unfit| refuse("key", unfit)).ok();
    match CertifiedKey::from_der(certificates?, key?, &provider()) {
        Ok(pair) => Some(pair),
        Err(error) => {
            let message = match error {
                rustls::Error::InconsistentKeys(_) => "is not the key of `certificate`".to_owned(),
                error => error.to_string(),
            };
            issues.push(Issue::new(path.key("key"), message).hint("see that both belong together"));
            None
        }
    }
}

/// The names that the pair's certificate holds: hosts, in small letters.
fn names(pair: &CertifiedKey) -> Vec<String> {
    let parsed = pair.cert.first().and_then(|certificate| webpki::EndEntityCert::try_from(certificate).ok());
    parsed.map_or_else(Vec::new, |parsed| parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

/// Who is let in. What there is to say of the lists of certificates that were taken back goes `into`.
fn verifier(
    auth: &ClientAuth,
    path: &KeyPath,
    into: &mut Vec<List>,
    issues: &mut Issues,
) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut refuse =
        |key: &str, message: &str, hint: &'static str| issues.push(Issue::new(path.key(key), message).hint(hint));
    let roots = pem::authorities(&auth.ca).map_err(|unfit| refuse("ca", unfit.message, unfit.hint)).ok();
    let lists = auth.crl.as_ref().map(|text| {
        CertificateRevocationListDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|lists| !lists.is_empty())
    });
    const LIST: &str = "it begins with `-----BEGIN X509 CRL-----`";
    let lists = match lists {
        None => Vec::new(),
        Some(Some(lists)) => lists,
        Some(None) => {
            refuse("crl", "holds no list of certificates that were taken back", LIST);
            return None;
        }
    };
    into.extend(lists.iter().enumerate().filter_map(|(place, list)| List::of(list, place)));
    // A list that is out of date may leave out whoever was taken back since: as with OpenSSL, and so with nginx and Envoy,
    // it vouches for nobody.
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots?), provider())
        .with_crls(lists)
        .enforce_revocation_expiration();
    let builder = match auth.mode {
        ClientAuthMode::Required => builder,
        ClientAuthMode::Optional => builder.allow_unauthenticated(),
    };
    match builder.build() {
        Ok(verifier) => Some(verifier),
        Err(VerifierBuilderError::InvalidCrl(_)) => {
            refuse("crl", "holds a damaged list", LIST);
            None
        }
        Err(error) => {
            refuse("ca", &error.to_string(), "take certificates of authorities");
            None
        }
    }
}

/// Which certificate a client gets.
#[derive(Debug, Default)]
struct Shown {
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Vec<Arc<CertifiedKey>>,
}

impl Shown {
    fn add(&mut self, names: Vec<String>, pair: Arc<CertifiedKey>) {
        // For a client that asks for none of the names: the first, and its like of another kind of key.
        if self.first.is_empty() || names.iter().any(|name| self.is_of_first(name)) {
            self.first.push(pair.clone());
        }
        for name in names {
            self.by_name.entry(name).or_default().push(pair.clone());
        }
    }

    fn is_of_first(&self, name: &str) -> bool {
        let holders = self.by_name.get(name).and_then(|pairs| pairs.first());
        holders.zip(self.first.first()).is_some_and(|(holder, first)| Arc::ptr_eq(holder, first))
    }

    /// The certificates for a name, most fitting first.
    fn find(&self, name: &str) -> &[Arc<CertifiedKey>] {
        let name = name.to_ascii_lowercase();
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pairs = hello.server_name().map_or(self.first.as_slice(), |name| self.find(name));
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        pairs.iter().find(fits).or(pairs.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    fn compile(settings: Value) -> (Option<Server>, Vec<String>) {
        let mut settings: ListenerTls = serde_json::from_value(settings).unwrap();
        // A secret is never read from where it would stand in plain text.
        for pair in &mut settings.certificates {
            pair.key = crate::config::value::Secret::new(pair.key.expose());
        }
        let mut issues = Issues::new();
        let server = Server::compile(&settings, "x", &KeyPath::root(), &mut Keeper::fresh(), &mut issues);
        assert_eq!(server.is_some(), issues.is_empty());
        (server, issues.iter().map(|issue| format!("{}: {}", issue.path, issue.message)).collect())
    }

    #[test]
    fn every_mistake_is_told() {
        let ((one, its_key), (other, _)) = (pem(&["a.test"]), pem(&["b.test"]));
        let good = json!({"certificate": one, "key": its_key});
        assert!(compile(json!({"certificates": [good]})).0.is_some());
        for (settings, told) in [
            (json!({"certificates": []}), vec!["certificates: names no certificate"]),
            (
                json!({"certificates": [{"certificate": other, "key": its_key}, {"certificate": "x", "key": "y"}]}),
                vec![
                    "certificates[0].key: is not the key of `certificate`",
                    "certificates[1].certificate: holds no certificate",
                    "certificates[1].key: holds no private key",
                ],
            ),
            (json!({"certificates": [good], "client_auth": {"ca": "x"}}), vec!["client_auth.ca: holds no certificate"]),
            (
                json!({"certificates": [good], "client_auth": {"ca": one, "crl": "x"}}),
                vec!["client_auth.crl: holds no list of certificates that were taken back"],
            ),
        ] {
            assert_eq!(compile(settings).1, told);
        }
    }

    #[test]
    fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
        let mut shown = Shown::default();
        let mut add = |held: &[&str]| {
            let (certificate, key) = pem(held);
            let config = CertificatePair { certificate, key: crate::config::value::Secret::new(key) };
            let pair = Arc::new(pair(&config, &KeyPath::root(), &mut Issues::new()).unwrap());
            shown.add(names(&pair), pair.clone());
            pair
        };
        let (first, wild, exact) = (add(&["a.test", "A2.test"]), add(&["*.b.test"]), add(&["x.b.test"]));
        for (name, pair) in [
            ("a.test", &first),
            ("a2.TEST", &first),
            ("y.b.test", &wild),
            ("x.b.test", &exact),
            ("z.y.b.test", &first),
            ("b.test", &first),
            ("other", &first),
        ] {
            assert!(Arc::ptr_eq(&shown.find(name)[0], pair), "{name}");
        }
    }

    #[test]
    fn sessions_are_resumed_across_reloads_unless_clients_are_asked_for_certificates() {
        let ((one, key), (ca, _)) = (pem(&["a.test"]), pem(&["ca.test"]));
        let settings = |auth: Value| -> ListenerTls {
            serde_json::from_value(json!({"certificates": [{"certificate": one, "key": key}], "client_auth": auth}))
                .unwrap()
        };
        let mut kept = crate::keep::Kept::default();
        let mut compiled = |auth: Value| {
            let mut keeper = Keeper::after(&kept);
            let server =
                Server::compile(&settings(auth), "x", &KeyPath::root(), &mut keeper, &mut Issues::new()).unwrap();
            kept = keeper.finish().0;
            server.config
        };
        let first = compiled(Value::Null).ticketer.clone();
        assert!(first.enabled() && Arc::ptr_eq(&first, &compiled(Value::Null).ticketer));
        for mode in ["required", "optional"] {
            let asking = compiled(json!({"ca": ca, "mode": mode}));
            assert!(!asking.ticketer.enabled() && !asking.session_storage.can_cache());
            assert_eq!(asking.send_tls13_tickets, 0);
        }
    }
}
