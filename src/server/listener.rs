//! A listening socket: binding it, accepting on it, and giving each connection to the least busy worker.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::worker::Workers;
use crate::snapshot::ListenerPlan;
use crate::telemetry::metrics::{self, Metrics};

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// How long to wait before accepting again once the process is out of file descriptors: each wait doubles.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A bound socket, and what all workers share about its connections.
pub struct Listening {
    /// The plan.
    pub plan: Arc<ListenerPlan>,
    /// Where it really listens: port 0 has become a number.
    pub address: SocketAddr,
    socket: Mutex<Option<TcpListener>>,
    places: Arc<Semaphore>,
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
    pub place: (OwnedSemaphorePermit, metrics::InFlight),
}

impl Listening {
    /// Binds the socket.
    ///
    /// # Errors
    /// The address is taken, or is not this machine's.
    pub fn bind(plan: &Arc<ListenerPlan>) -> io::Result<Arc<Self>> {
        let socket = bind(plan.config.address)?;
        Ok(Arc::new(Self {
            plan: plan.clone(),
            address: socket.local_addr()?,
            socket: Mutex::new(Some(socket)),
            places: Arc::new(Semaphore::new(plan.config.limits.connections_max as usize)),
        }))
    }

    /// Accepts until the future is dropped. To be run once, inside a runtime.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub async fn accept(self: Arc<Self>, workers: Arc<Workers>, metrics: Metrics) -> io::Result<()> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(socket) = socket else { return Ok(()) };
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let mut back_off = BACK_OFF.0;
        loop {
            if self.places.available_permits() == 0 {
                metrics.limit_hit("connections_max");
            }
            let Ok(permit) = self.places.clone().acquire_owned().await else { return Ok(()) };
            match socket.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((stream, peer)) => {
                    back_off = BACK_OFF.0;
                    let place = (permit, self.plan.state.metrics.accepted());
                    workers.give(Accepted { stream, peer, listening: self.clone(), place }).await;
                }
                Err(error) if is_exhausted(&error) => {
                    metrics.limit_hit("file_descriptors");
                    tracing::warn!(%error, wait = ?back_off, "cannot accept");
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
                // The connection was gone before it was accepted.
                Err(error) => tracing::debug!(%error, "connection lost before it was accepted"),
            }
        }
    }
}

/// Binds a non-blocking listening socket.
///
/// # Errors
/// The address is taken, or is not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether accepting again at once would fail again: out of file descriptors or memory.
fn is_exhausted(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}
