//! `tls` of listeners and upstreams: certificates, keys, and whom to believe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::Secret;

/// How `https://` endpoints prove who they are, and how armiger does. All of it may be left out: then an endpoint's
/// certificate must be for its host, and vouched for by one of the public authorities that are built in.
///
/// Certificates and keys are read from files with `${file:…}`, as any other value: the files are watched, and what
/// changes is in force for new connections with the reload that it brings. A certificate that does not go with its key
/// refuses the reload, and the old pair stays.
///
/// ```yaml
/// upstreams:
///   ledger:
///     endpoints: [https://10.0.3.7:8443]
///     tls:
///       ca: ${file:tls/ca.pem}
///       server_name: ledger.internal
///       certificate: ${file:tls/armiger.pem}
///       key: ${file:tls/armiger.key}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// The authorities that may vouch for it, in PEM form. They take the place of those that are built in (Mozilla's).
    /// Those of the machine: `${file:/etc/ssl/certs/ca-certificates.crt}`.
    pub ca: Option<String>,
    /// The name that is asked for (SNI) and that the certificate must be for. Default: the endpoint's host.
    pub server_name: Option<String>,
    /// Names of which the certificate must hold one, whatever the endpoint's host: `ledger.internal`, or a URI such as
    /// `spiffe://example.org/ledger`. Case counts in a URI. Default: the certificate is for `server_name`.
    pub names: Vec<String>,
    /// The certificate by which armiger proves who it is, in PEM form: its own first, then those between it and the
    /// authority. Default: armiger shows none. The log warns from two weeks before its end on, and
    /// `armiger_upstream_tls_certificate_not_after_timestamp_seconds` tells when that is.
    pub certificate: Option<String>,
    /// The private key that goes with it, in PEM form, not encrypted.
    pub key: Option<Secret>,
    /// Believe any certificate. Then whoever stands on the way reads and changes everything. For trying things out only.
    pub insecure_skip_verify: bool,
}

/// TLS on a listener. HTTP/2 and HTTP/1.1 are offered (ALPN); versions 1.2 and 1.3.
///
/// Certificates and keys are read from files with `${file:…}`, as any other value: the files are watched, a renewed pair
/// is in force for new connections within a second, and one whose halves do not go together is refused while the old
/// one stays. Clients resume their sessions across reloads, unless `client_auth` asks them for certificates: each
/// connection proves them anew.
///
/// ```yaml
/// listeners:
///   - name: https
///     address: 0.0.0.0:8443
///     tls:
///       certificates:
///         - {certificate: "${file:tls/tls.crt}", key: "${file:tls/tls.key}"}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// What armiger shows. Of several, each client gets the one that holds the name it asks for (SNI), of a kind that it
    /// can check; a client that names none, or another, gets the first.
    pub certificates: Vec<CertificatePair>,
    /// Whether clients prove who they are by certificates. Default: they are not asked.
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// In PEM form: the certificate itself first, then those between it and the authority.
    pub certificate: String,
    /// In PEM form, not encrypted.
    pub key: Secret,
}

/// Certificates of clients (mutual TLS).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// The authorities that may vouch for clients, in PEM form.
    pub ca: String,
    /// What happens to a client without a certificate. One with a bad certificate is never let in.
    #[serde(default)]
    pub mode: ClientAuthMode,
    /// Certificates that their authorities have taken back, in PEM form (`-----BEGIN X509 CRL-----`), one list or more.
    /// A client is let in only if a list of its authority is among them, is not out of date, and does not name it. So renew
    /// each before its `nextUpdate`: from then on all clients of its authority are refused, as by nginx and Envoy. The log
    /// warns from the last quarter of its life on, two weeks before its end at most, and
    /// `armiger_tls_crl_next_update_timestamp_seconds` tells when that is.
    #[serde(default)]
    pub crl: Option<String>,
}

/// What happens to a client without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    /// It is not let in.
    #[default]
    Required,
    /// It is let in, and has proven nothing.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "tls1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "tls1.3")]
    Tls13,
}
