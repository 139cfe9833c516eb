//! Authorities, certificates, and TLS in front of a back end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Backend, Connection, until, within};

/// Vouches for certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM form.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new one, which nobody knows.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The list of certificates that it has taken back: those with these numbers.
    pub fn revoking(&self, numbers: &[u64]) -> String {
        self.revoking_until(2090, numbers)
    }

    /// The same, of which the next one is due at the begin of this year.
    pub fn revoking_until(&self, year: i32, numbers: &[u64]) -> String {
        let revoked = numbers.iter().map(|number| RevokedCertParams {
            serial_number: (*number).into(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// A certificate for these names: hosts, addresses, URIs.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    /// The same, of which the test changes something.
    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn san(name: &str) -> SanType {
    if name.contains("://") {
        SanType::URI(name.try_into().unwrap())
    } else if let Ok(address) = name.parse() {
        SanType::IpAddress(address)
    } else {
        SanType::DnsName(name.try_into().unwrap())
    }
}

impl Pair {
    /// The certificates, for rustls.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    /// The key, for rustls.
    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// What a server that shows it runs on. `clients`: who must vouch for clients, which then show a certificate too.
    pub fn server(&self, alpn: &[&str], clients: Option<&Authority>) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots(authority)),
                    Arc::new(default_provider()),
                );
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(self.chain(), self.private()).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// A store of just this authority.
pub fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authority.pem().as_bytes()).map(Result::unwrap));
    roots
}

/// Connects by TLS.
pub struct Dialler {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Authority {
    /// A client that believes this authority, asks for `name`, and shows `pair`.
    pub fn dialler(&self, name: &str, alpn: &[&str], pair: Option<&Pair>) -> Dialler {
        self.dialler_of(name, alpn, pair, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    /// The same, of these versions.
    pub fn dialler_of(
        &self,
        name: &str,
        alpn: &[&str],
        pair: Option<&Pair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Dialler {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots(self));
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.private()).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Dialler { connector: Arc::new(config).into(), name: name.to_owned().try_into().unwrap() }
    }
}

impl Dialler {
    /// Speaks TLS with `address`.
    pub async fn dial(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.dial_over(TcpStream::connect(address).await?).await
    }

    /// Speaks TLS on a connection that is open.
    pub async fn dial_over(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        self.over(stream).await
    }

    /// The same on any stream.
    pub async fn over<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        within("a TLS handshake", self.connector.connect(self.name.clone(), stream)).await
    }

    /// Opens a connection that speaks what was agreed on.
    pub async fn connect(&self, address: SocketAddr) -> Connection {
        let stream = self.dial(address).await.unwrap_or_else(|error| panic!("no TLS with {address}: {error}"));
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Connection::over(stream, is_http2, address).await
    }
}

/// A handshake as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub name: Option<String>,
    pub alpn: Option<String>,
    pub is_resumed: bool,
    pub client_certificates: usize,
}

/// TLS in front of a back end that speaks none.
pub struct Front {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Handshake>>>,
    changed: Arc<Notify>,
    task: AbortHandle,
}

impl Front {
    /// Takes TLS off what goes to `backend`.
    pub async fn of(backend: &Backend, config: ServerConfig) -> Self {
        Self::to(backend.address(), config).await
    }

    /// Takes TLS off what goes to the address `behind`.
    pub async fn to(behind: SocketAddr, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, changed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (noted, notify) = (seen.clone(), changed.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, noted, notify) = (acceptor.clone(), noted.clone(), notify.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    noted.lock().unwrap().push(Handshake {
                        name: session.server_name().map(ToOwned::to_owned),
                        alpn: session.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()),
                        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        client_certificates: session.peer_certificates().map_or(0, <[_]>::len),
                    });
                    notify.notify_waiters();
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    // Either side may break off: that is for the test to see.
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { address, seen, changed, task: task.abort_handle() }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The handshakes that came to their end so far.
    pub fn seen(&self) -> Vec<Handshake> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for `n` handshakes.
    pub async fn shaken(&self, n: usize) -> Vec<Handshake> {
        let look = || Some(self.seen()).filter(|seen| seen.len() >= n);
        within("handshakes with the back end", until(&self.changed, look)).await
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}
