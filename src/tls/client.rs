//! TLS to upstreams: whom armiger believes, and how it proves who it is.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::{expiry, pem, provider};
use crate::config::tls::UpstreamTls;
use crate::config::{Issue, Issues, KeyPath};

/// What handshakes with an upstream run on.
#[derive(Clone, Debug)]
pub struct Client {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// The name to ask for, if it is not the endpoint's host.
    pub server_name: Option<ServerName<'static>>,
    /// When the certificate ends by which armiger proves who it is, in seconds since 1970.
    pub end: Option<i64>,
    /// Tells two settings apart.
    pub digest: [u8; 32],
}

impl Client {
    /// Checks `settings`, which stand at `path`, and reports everything wrong with them. `alpn` is what is spoken within.
    pub fn compile(settings: &UpstreamTls, alpn: &[u8], path: &KeyPath, issues: &mut Issues) -> Option<Self> {
        let before = issues.len();
        let mut refuse = |key: &str, unfit: pem::Unfit| {
            issues.push(Issue::new(path.key(key), unfit.message).hint(unfit.hint));
        };
        let roots = match &settings.ca {
            None => Some(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
            Some(ca) => pem::authorities(ca).map_err(|unfit| refuse("ca", unfit)).ok(),
        };
        let certificates = settings
            .certificate
            .as_ref()
            .and_then(|text| pem::certificates(text).map_err(|unfit| refuse("certificate", unfit)).ok());
        let key =
            settings.key.as_ref().and_then(|text| pem::key(text.expose()).map_err(|unfit| refuse("key", unfit)).ok());
        for (given, other, key, missing) in [
            (&settings.certificate.is_some(), settings.key.is_some(), "certificate", "key"),
            (&settings.key.is_some(), settings.certificate.is_some(), "key", "certificate"),
        ] {
            if *given && !other {
                issues.push(
                    Issue::new(path.key(key), format!("has no `{missing}` beside it"))
                        .goes_by(path.key(missing))
                        .hint("give both, or neither"),
                );
            }
        }
        if let (Some(certificates), Some(key)) = (&certificates, &key)
            && let Err(error) = CertifiedKey::from_der(certificates.clone(), key.clone_key(), &provider())
        {
            let message = match error {
                rustls::Error::InconsistentKeys(_) => "is not the key of `certificate`".to_owned(),
                error => error.to_string(),
            };
            issues.push(Issue::new(path.key("key"), message).hint("see that both belong together"));
        }
        let server_name = settings.server_name.as_ref().and_then(|name| match ServerName::try_from(name.clone()) {
            Ok(name) => Some(name),
            Err(_) => {
                issues.push(
                    Issue::new(path.key("server_name"), format!("`{name}` is no name that a certificate can be for"))
                        .hint("write a name such as `app.internal`, or an address"),
                );
                None
            }
        });
        let names = names(&settings.names, &path.key("names"), issues);
        if settings.insecure_skip_verify {
            for (key, is_given) in [("ca", settings.ca.is_some()), ("names", !settings.names.is_empty())] {
                if is_given {
                    issues.push(
                        Issue::new(path.key("insecure_skip_verify"), format!("contradicts `{key}`"))
                            .hint("remove it: the certificate is checked then"),
                    );
                }
            }
        }
        if issues.len() != before {
            return None;
        }
        let mut defect = |error: &dyn std::fmt::Display, key: &str| {
            issues.push(Issue::new(path.key(key), error.to_string()).hint("see that both belong together"));
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| defect(&error, "ca"))
            .ok()?;
        let algorithms = provider().signature_verification_algorithms;
        let roots = Arc::new(roots?);
        let builder = if settings.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone { algorithms }))
        } else if names.is_empty() {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            builder.with_webpki_verifier(verifier.map_err(|error| defect(&error, "ca")).ok()?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Named { roots, names, algorithms }))
        };
        let end = certificates.as_ref().and_then(|chain| expiry::of(chain.first()?));
        let mut config = match (certificates, key) {
            (Some(certificates), Some(key)) => {
                builder.with_client_auth_cert(certificates, key).map_err(|error| defect(&error, "key")).ok()?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Some(Self { config: Arc::new(config), server_name, end, digest: digest(settings) })
    }
}

/// A name that a certificate may hold.
#[derive(Debug)]
enum Name {
    Host(ServerName<'static>),
    Uri(String),
}

fn names(texts: &[String], path: &KeyPath, issues: &mut Issues) -> Vec<Name> {
    let mut names = Vec::with_capacity(texts.len());
    for (place, text) in texts.iter().enumerate() {
        if text.contains("://") {
            names.push(Name::Uri(text.clone()));
        } else if let Ok(name) = ServerName::try_from(text.clone()) {
            names.push(Name::Host(name));
        } else {
            issues.push(
                Issue::new(path.index(place), format!("`{text}` is no name that a certificate can be for"))
                    .hint("write a name such as `app.internal`, or a URI such as `spiffe://example.org/app`"),
            );
        }
    }
    names
}

/// Tells two settings apart without showing a secret.
pub fn digest(settings: &UpstreamTls) -> [u8; 32] {
    let UpstreamTls { ca, server_name, names, certificate, key, insecure_skip_verify } = settings;
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    for text in [ca.as_deref(), server_name.as_deref(), certificate.as_deref(), key.as_ref().map(|key| key.expose())] {
        add(&[u8::from(text.is_some())]);
        add(text.unwrap_or_default().as_bytes());
    }
    add(&[u8::from(*insecure_skip_verify)]);
    names.iter().for_each(|name| add(name.as_bytes()));
    digest.finalize().into()
}

/// Believes a certificate that an authority vouches for and that holds one of these names.
#[derive(Debug)]
struct Named {
    roots: Arc<RootCertStore>,
    names: Vec<Name>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, self.algorithms.all)?;
        let parsed = webpki::EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let is_held = |name: &Name| match name {
            Name::Host(name) => verify_server_name(&certificate, name).is_ok(),
            Name::Uri(uri) => parsed.valid_uri_names().any(|held| held == uri),
        };
        if !self.names.iter().any(is_held) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Believes whatever certificate comes, as long as the peer has its key.
#[derive(Debug)]
struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn refused(settings: Value) -> Vec<String> {
        let settings: UpstreamTls = serde_json::from_value(settings).unwrap();
        let mut issues = Issues::new();
        let compiled = Client::compile(&settings, b"http/1.1", &KeyPath::root().key("tls"), &mut issues);
        assert_eq!(compiled.is_none(), !issues.is_empty());
        issues.iter().map(|issue| format!("{}: {}", issue.path, issue.message)).collect()
    }

    #[test]
    fn every_mistake_is_told() {
        assert!(refused(json!({})).is_empty());
        assert!(refused(json!({"server_name": "10.0.0.1", "names": ["a.test", "spiffe://b.test/c"]})).is_empty());
        for (settings, told) in [
            (json!({"ca": "x"}), vec!["tls.ca: holds no certificate"]),
            (
                json!({"certificate": "x", "server_name": "a b", "names": ["-"]}),
                vec![
                    "tls.certificate: holds no certificate",
                    "tls.certificate: has no `key` beside it",
                    "tls.server_name: `a b` is no name that a certificate can be for",
                    "tls.names[0]: `-` is no name that a certificate can be for",
                ],
            ),
            (
                json!({"insecure_skip_verify": true, "names": ["a.test"]}),
                vec!["tls.insecure_skip_verify: contradicts `names`"],
            ),
        ] {
            assert_eq!(refused(settings), told);
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let pair = || rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (one, other) = (pair(), pair());
        let settings = |key: String| UpstreamTls {
            certificate: Some(one.cert.pem()),
            key: Some(crate::config::value::Secret::new(key)),
            ..UpstreamTls::default()
        };
        let compile = |settings: UpstreamTls| {
            let mut issues = Issues::new();
            let client = Client::compile(&settings, b"h2", &KeyPath::root(), &mut issues);
            (client.map(|client| client.digest), issues.iter().map(|issue| issue.message.clone()).collect::<Vec<_>>())
        };
        let (good, issues) = compile(settings(one.signing_key.serialize_pem()));
        assert!(good.is_some() && issues.is_empty());
        let (bad, issues) = compile(settings(other.signing_key.serialize_pem()));
        assert!(bad.is_none());
        assert_eq!(issues, ["is not the key of `certificate`"]);
    }
}
