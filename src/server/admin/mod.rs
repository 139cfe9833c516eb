//! The listeners for operators: `admin`, which has every page, and `probes`, which has three.
//!
//! What they show and do they ask of an [`Operator`], which the app is. Pages that show and pages that change something
//! stand in two tables, `read.rs` and `change.rs`.

mod answer;
mod change;
mod guard;
pub mod operator;
mod page;
mod patient;
mod read;
mod seat;
mod serve;
mod socket;

use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::address::{ListenAddress, SocketAccess};
use crate::machine::Machine;
use crate::snapshot::Document;
use crate::telemetry::metrics::Metrics;
use guard::Guard;
pub use operator::Operator;
pub use page::Page;
pub use read::{PROBES, pages};
use serve::{CONNECTIONS_MAX, Site};
pub use serve::{SERVER_ADMIN, SERVER_PROBES};
use socket::Bound;

/// What is to be known of an admin listener that other machines reach and that asks for no token.
pub const UNPROTECTED: &str =
    "other machines can reach the admin listener and no `admin.token` protects it: it changes nothing";

/// Why a listener for operators does not come up.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what}): {error}")]
pub struct BindError {
    /// `admin` or `probes`.
    pub what: &'static str,
    /// Where it should have been.
    pub address: ListenAddress,
    /// Why.
    pub error: io::Error,
}

/// The listeners for operators, as a configuration has them. Moves with a reload.
pub struct AdminServers {
    operator: Arc<dyn Operator>,
    metrics: Metrics,
    /// How many connections each may have.
    connections_max: usize,
    admin: Option<Served>,
    probes: Option<Served>,
    /// The accept loops, of listeners that close too.
    loops: JoinSet<()>,
}

/// A listener that serves.
struct Served {
    bound: Arc<Bound>,
    site: Arc<Site>,
    stop: watch::Sender<bool>,
}

/// Sockets that a configuration wants, bound. Dropped, those that are new close again.
pub struct Prepared {
    admin: (Arc<Bound>, SocketAccess, Guard),
    probes: Option<Arc<Bound>>,
}

impl Prepared {
    /// Where `admin` is to listen: port 0 has become a number.
    pub fn admin(&self) -> &ListenAddress {
        &self.admin.0.address
    }

    /// Where `probes` is to listen, if it is wanted.
    pub fn probes(&self) -> Option<&ListenAddress> {
        self.probes.as_ref().map(|bound| &bound.address)
    }
}

impl AdminServers {
    /// None yet. Each will have as many connections as `machine` has file descriptors for.
    pub fn new(operator: Arc<dyn Operator>, metrics: Metrics, machine: &Machine) -> Self {
        let connections_max = machine.operators_max(CONNECTIONS_MAX) as usize;
        Self { operator, metrics, connections_max, admin: None, probes: None, loops: JoinSet::new() }
    }

    /// Binds what the document wants and is not bound yet. Changes nothing of what is served.
    ///
    /// # Errors
    /// An address is taken, or is not this machine's.
    pub fn prepare(&self, document: &Document) -> Result<Prepared, BindError> {
        let mut free: Vec<&Arc<Bound>> =
            [&self.admin, &self.probes].into_iter().flatten().map(|one| &one.bound).collect();
        let mut take = |what, served: &Option<Served>, wanted: ListenAddress, access| {
            let own = served.as_ref().map(|served| &served.bound);
            let fits = |bound: &&Arc<Bound>| {
                // Port 0 of the other listener is a port of its own.
                let is_own = own.is_some_and(|own| Arc::ptr_eq(own, bound));
                bound.wanted == wanted && (is_own || wanted.tcp().is_none_or(|address| address.port() != 0))
            };
            if let Some(place) = free.iter().position(fits) {
                return Ok(free.remove(place).clone());
            }
            let ours = [&self.admin, &self.probes].into_iter().flatten().map(|one| &*one.bound);
            let bound = Bound::bind(&wanted, access, ours);
            bound.map(Arc::new).map_err(|error| BindError { what, address: wanted, error })
        };
        let admin = &document.admin;
        let bound = take("admin", &self.admin, admin.address.clone(), admin.socket_access)?;
        let probes = match &document.probes {
            Some(probes) => Some(take("probes", &self.probes, probes.address.into(), SocketAccess::default())?),
            None => None,
        };
        Ok(Prepared { admin: (bound, admin.socket_access, Guard::of(admin)), probes })
    }

    /// Serves on what was prepared, and on nothing else any more: listeners that are not wanted stop accepting, and end
    /// once they have answered what was asked. To be called inside a runtime.
    pub fn commit(&mut self, prepared: Prepared) {
        while self.loops.try_join_next().is_some() {}
        let Prepared { admin: (bound, access, guard), probes } = prepared;
        if !guard.serves_changes() {
            tracing::warn!(
                address = %bound.address,
                "{UNPROTECTED}"
            );
        }
        if let Err(error) = bound.set_access(access) {
            tracing::warn!(%error, address = %bound.address, "the admin socket keeps its mode");
        }
        match &self.admin {
            Some(served) if Arc::ptr_eq(&served.bound, &bound) => served.site.set_guard(guard),
            _ => {
                let site = Site::admin(self.operator.clone(), self.metrics.clone(), guard);
                let served = self.serve(bound, site);
                retire(self.admin.replace(served));
            }
        }
        match (probes, &self.probes) {
            (Some(bound), Some(served)) if Arc::ptr_eq(&served.bound, &bound) => {}
            (Some(bound), _) => {
                let served = self.serve(bound, Site::probes(self.operator.clone(), self.metrics.clone()));
                retire(self.probes.replace(served));
            }
            (None, _) => retire(self.probes.take()),
        }
    }

    fn serve(&mut self, bound: Arc<Bound>, site: Site) -> Served {
        let (stop, stopped) = watch::channel(false);
        let site = Arc::new(site);
        match bound.acceptor() {
            Ok(acceptor) => {
                self.loops.spawn(serve::accept(acceptor, site.clone(), self.connections_max, stopped));
            }
            // The socket is bound and listens, so only a lack of file descriptors can be the reason.
            Err(error) => tracing::error!(%error, address = %bound.address, "cannot accept operators"),
        }
        Served { bound, site, stop }
    }

    /// Where `admin` listens, once it does.
    pub fn admin(&self) -> Option<&ListenAddress> {
        self.admin.as_ref().map(|served| &served.bound.address)
    }

    /// Where `probes` listens, if it does.
    pub fn probes(&self) -> Option<&ListenAddress> {
        self.probes.as_ref().map(|served| &served.bound.address)
    }

    /// Stops accepting, answers what was asked, closes the sockets. Takes three seconds at most.
    pub async fn close(mut self) {
        retire(self.admin.take());
        retire(self.probes.take());
        while self.loops.join_next().await.is_some() {}
    }
}

/// Lets a listener close.
fn retire(served: Option<Served>) {
    if let Some(served) = served {
        served.stop.send_replace(true);
    }
}
