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
    /// authority. Default: armiger shows none.
    pub certificate: Option<String>,
    /// The private key that goes with it, in PEM form, not encrypted.
    pub key: Option<Secret>,
    /// Believe any certificate. Then whoever stands on the way reads and changes everything. For trying things out only.
    pub insecure_skip_verify: bool,
}
