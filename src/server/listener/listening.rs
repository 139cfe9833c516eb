//! A socket that listens: its plan, and the places that its connections take.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::ending::announce;
use crate::config::address::ListenAddress;
use crate::server::socket_file::OwnFile;
use crate::snapshot::ListenerPlan;
use crate::telemetry::metrics::{self, Metrics};

/// How far apart lines are about certificates that were refused.
const REFUSALS_APART: Duration = Duration::from_secs(1);

/// A bound socket, and what all workers share about its connections.
pub struct Listening {
    /// Where it really listens: port 0 has become a number.
    pub address: ListenAddress,
    /// Of a socket that is a file.
    place: Option<OwnFile>,
    pub(super) plan: ArcSwap<ListenerPlan>,
    version: AtomicU64,
    is_removed: AtomicBool,
    taken: AtomicUsize,
    freed: Notify,
    handshakes: AtomicUsize,
    /// Certificates of clients that were no good.
    refusals: Mutex<Refusals>,
}

/// Certificates of clients that were no good: anybody can show such, so that not each has a line of its own.
#[derive(Default)]
struct Refusals {
    told_at: Option<Instant>,
    untold: u64,
}

impl Listening {
    pub(super) fn new(address: ListenAddress, place: Option<OwnFile>, plan: Arc<ListenerPlan>) -> Arc<Self> {
        announce(&plan);
        Arc::new(Self {
            address,
            place,
            plan: ArcSwap::new(plan),
            version: AtomicU64::new(1),
            is_removed: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            freed: Notify::new(),
            handshakes: AtomicUsize::new(0),
            refusals: Mutex::default(),
        })
    }

    /// A client showed no certificate, or one that is no good. A second has one line at most, which counts the others.
    pub(in crate::server) fn refused_certificate(&self, listener: &str, peer: SocketAddr, why: &rustls::Error) {
        let now = Instant::now();
        let others = {
            // Nothing in here panics half-way.
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.told_at.is_some_and(|told| now.duration_since(told) < REFUSALS_APART) {
                refusals.untold += 1;
                return;
            }
            refusals.told_at = Some(now);
            std::mem::take(&mut refusals.untold)
        };
        let others = (others > 0).then_some(others);
        tracing::info!(listener, %peer, %why, others, "a client's certificate is refused");
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<ListenerPlan> {
        self.plan.load_full()
    }

    /// The number of the present plan, if it is another than `seen`. It also changes when the listener is removed. For a
    /// look per request: one relaxed load as long as nothing is new.
    pub fn news(&self, seen: u64) -> Option<u64> {
        let version = self.version.load(Ordering::Relaxed);
        if version == seen {
            return None;
        }
        // Pairs with the release in `changed`: what belongs to that number is seen from here on.
        fence(Ordering::Acquire);
        Some(version)
    }

    /// Whether the configuration no longer has it.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// Leave for one more TLS handshake, while fewer than `max` go on.
    pub(in crate::server) fn handshake(self: &Arc<Self>, max: u32) -> Option<Handshake> {
        let before = self.handshakes.fetch_add(1, Ordering::Relaxed);
        let place = Handshake(self.clone());
        (before < max as usize).then_some(place)
    }

    pub(super) fn follow(&self, plan: Arc<ListenerPlan>) {
        announce(&plan);
        if let Some(place) = &self.place
            && let Err(error) = place.set_access(plan.config.socket_access)
        {
            tracing::warn!(listener = %plan.name, %error, "the socket keeps its mode");
        }
        self.plan.store(plan);
        self.changed();
    }

    pub(super) fn remove(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
        self.changed();
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
        // `connections_max` may have grown.
        self.freed.notify_one();
    }

    /// Waits for room for one more connection.
    pub(super) async fn room(&self, metrics: &Metrics) {
        let mut is_told = false;
        loop {
            let max = self.plan.load().config.limits.connections() as usize;
            if self.taken.load(Ordering::Acquire) < max {
                return;
            }
            if !std::mem::replace(&mut is_told, true) {
                metrics.limit_hit("connections_max");
            }
            // One that was freed since the look has left its word.
            self.freed.notified().await;
        }
    }
}

/// A TLS handshake that goes on.
pub(in crate::server) struct Handshake(Arc<Listening>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place among those of its listener, given back on drop.
pub struct Place {
    listening: Arc<Listening>,
    _counted: metrics::InFlight,
}

impl Place {
    pub(super) fn take(listening: &Arc<Listening>) -> Self {
        listening.taken.fetch_add(1, Ordering::AcqRel);
        Self { listening: listening.clone(), _counted: listening.plan.load().state.metrics.accepted() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listening.taken.fetch_sub(1, Ordering::AcqRel);
        self.listening.freed.notify_one();
    }
}

/// A connection on its way to a worker.
pub struct Accepted {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// Who opened it.
    pub peer: SocketAddr,
    /// The listener that it came in by.
    pub listening: Arc<Listening>,
    /// Its place among the listener's connections.
    pub place: Place,
}
