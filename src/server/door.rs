//! The listener as one of its connections knows it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::handshake::Agreed;
use super::listener::Listening;
use crate::config::listener::Listener;
use crate::exchange::{Certificate, Hop};
use crate::http::forwarded::{self, Scheme};
use crate::http::proxy_protocol::Ends;
use crate::proxy::Inlet;

/// The listener as a connection knows it: what holds for its requests is looked up anew whenever the plan has changed.
pub(super) struct Door {
    listening: Arc<Listening>,
    pub(super) ends: Ends,
    scheme: Scheme,
    certificate: Option<Rc<Certificate>>,
    /// The certificates that the client showed.
    shown: Box<[CertificateDer<'static>]>,
    version: Cell<u64>,
    inlet: RefCell<Rc<Inlet>>,
    is_outdated: Cell<bool>,
}

impl Door {
    pub(super) fn new(listening: Arc<Listening>, ends: Ends, agreed: Option<&Agreed>) -> Self {
        let scheme = if agreed.is_some() { Scheme::Https } else { Scheme::Http };
        let certificate = agreed.and_then(|agreed| agreed.certificate.clone());
        let shown = agreed.map(|agreed| agreed.shown.clone()).unwrap_or_default();
        // The number before the plan: a change in between is then seen twice, and not never.
        let version = listening.news(0).unwrap_or(0);
        let inlet = RefCell::new(Rc::new(inlet(&listening, ends, scheme, certificate.clone())));
        let is_outdated = Cell::new(listening.is_removed());
        Self { listening, ends, scheme, certificate, shown, version: Cell::new(version), inlet, is_outdated }
    }

    /// What holds for a request that comes now.
    pub(super) fn inlet(&self) -> Rc<Inlet> {
        self.look();
        self.inlet.borrow().clone()
    }

    /// Looks whether the plan has changed.
    pub(super) fn look(&self) {
        let Some(version) = self.listening.news(self.version.get()) else { return };
        self.version.set(version);
        let mut inlet = inlet(&self.listening, self.ends, self.scheme, self.certificate.clone());
        inlet.is_barred = self.is_barred(&self.inlet.borrow(), &inlet);
        let inlet = Rc::new(inlet);
        let old = self.inlet.replace(inlet.clone());
        let is_other = fixed(&old.plan.config) != fixed(&inlet.plan.config);
        self.is_outdated.set(self.is_outdated.get() || is_other || self.listening.is_removed());
    }

    /// Whether the client, which came in by `old`, would not by `new`: whom we believe counts from the next request on.
    fn is_barred(&self, old: &Inlet, new: &Inlet) -> bool {
        let asked = |inlet: &Inlet| inlet.plan.config.tls.as_ref().and_then(|tls| tls.client_auth.clone());
        let Some(tls) = new.plan.tls.as_ref().filter(|_| asked(old) != asked(new)) else { return old.is_barred };
        !tls.lets_in(&self.shown, UnixTime::now())
    }

    /// How many requests the connection may bring, as of the last look.
    pub(super) fn requests_max(&self) -> u64 {
        self.inlet.borrow().plan.config.limits.requests_max.into()
    }

    /// Whether, as of the last look, the listener is gone, or what the connection began with has changed or ended: it
    /// serves its present request and ends.
    #[expect(clippy::disallowed_methods, reason = "certificates end by the time of day")]
    pub(super) fn is_outdated(&self) -> bool {
        self.is_outdated.get() || self.certificate.as_ref().is_some_and(|shown| shown.is_over(SystemTime::now()))
    }
}

fn inlet(listening: &Listening, ends: Ends, scheme: Scheme, certificate: Option<Rc<Certificate>>) -> Inlet {
    let (plan, peer) = (listening.plan(), ends.source);
    let port = listening.address.tcp().map_or(scheme.port(), |address| address.port());
    let told = forwarded::Hop::new(peer.ip(), scheme, port);
    Inlet {
        in_flight: plan.state.in_flight.clone(),
        hop: Rc::new(Hop {
            forwarded: if plan.config.writes_forwarded() { told.with_forwarded() } else { told },
            via: plan.via.clone(),
            certificate,
        }),
        peer,
        reached: ends.destination,
        is_trusted: plan.trust.trusts(peer.ip()),
        is_barred: false,
        plan,
    }
}

/// What a connection takes from its plan once, at its start.
fn fixed(config: &Listener) -> impl PartialEq + use<> {
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    (
        (
            limits.headers_max,
            limits.header_bytes_max.get(),
            limits.header_value_bytes(),
            limits.target_bytes_max.get(),
            limits.streams_max,
            limits.body_rate_min.get(),
        ),
        (timeouts.request_headers.get(), timeouts.body_idle.get(), timeouts.body_rate.get(), timeouts.keep_alive.get()),
        config.http2_websocket,
        config.proxy_protocol.clone(),
        // A renewed certificate is for new connections; whom we believe counts for all.
        config.tls.as_ref().map(|tls| (tls.min_version, tls.client_auth.clone())),
    )
}
