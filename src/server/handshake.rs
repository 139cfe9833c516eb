//! The TLS handshake with a client: in time, not too many at once, and what it came to.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::connection::LAST_WAIT;
use super::drain::Phase;
use super::listener::Listening;
use super::wire::Wire;
use super::worker::Shared;
use crate::exchange::Certificate;
use crate::snapshot::ListenerPlan;
use crate::tls::peer::Peer;

/// What the client and armiger agreed on.
pub(super) struct Agreed {
    /// To speak HTTP/2.
    pub(super) is_http2: bool,
    /// What the client's certificate says, if it showed one.
    pub(super) certificate: Option<Rc<Certificate>>,
    /// What it showed: its certificate and those that lead to its authority.
    pub(super) shown: Box<[CertificateDer<'static>]>,
}

/// What is wrong with the certificate that the client showed, or did not show, if that is why the handshake failed.
fn certificate_fault(error: &io::Error) -> Option<&rustls::Error> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented).then_some(error)
}

/// Speaks TLS with a client, or closes its connection.
pub(super) async fn shake(
    shared: &Shared,
    stream: TcpStream,
    listening: &Arc<Listening>,
    plan: &ListenerPlan,
    config: &Arc<ServerConfig>,
    peer: SocketAddr,
) -> Option<(Wire, Agreed)> {
    let metrics = &plan.state.metrics;
    let mut timer = shared.worker.wheel.timer();
    timer.arm(plan.config.timeouts.handshake.get());
    let farewell = async {
        shared.reached(Phase::Closing).await;
        let mut timer = shared.worker.wheel.timer();
        timer.arm(LAST_WAIT);
        timer.expired().await;
    };
    // A client that says nothing takes no place among the handshakes.
    let is_silent = tokio::select! {
        biased;
        readable = stream.readable() => return match readable {
            Ok(()) => Box::pin(async {
                let Some(_place) = listening.handshake(plan.config.limits.handshakes_max) else {
                    shared.metrics.limit_hit("handshakes_max");
                    return None;
                };
                let accepting = TlsAcceptor::from(config.clone()).accept(stream);
                let accepted = tokio::select! {
                    biased;
                    accepted = accepting => accepted,
                    () = timer.expired() => {
                        shared.metrics.limit_hit("handshake");
                        metrics.shaken("timeout");
                        return None;
                    }
                    () = shared.reached(Phase::Forced) => return None,
                };
                let stream = match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        match certificate_fault(&error) {
                            Some(why) => listening.refused_certificate(&plan.name, peer, why),
                            None => tracing::debug!(%error, "TLS handshake failed"),
                        }
                        metrics.shaken("failed");
                        return None;
                    }
                };
                let session = stream.get_ref().1;
                let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
                metrics.shaken(if is_resumed { "resumed" } else { "full" });
                let shown = session.peer_certificates().unwrap_or_default();
                let certificate = shown.first().map(|first| Rc::new(Certificate::new(Peer::of(first))));
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                let agreed = Agreed { is_http2, certificate, shown: shown.into() };
                Some((Wire::Tls(Box::new(stream)), agreed))
            })
            .await,
            Err(_) => None,
        },
        () = timer.expired() => true,
        () = farewell => false,
    };
    if is_silent {
        shared.metrics.limit_hit("handshake");
        metrics.shaken("timeout");
    }
    None
}
