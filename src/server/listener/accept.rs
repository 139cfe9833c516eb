//! Accepting: as many as there is room for, and at the end all that the kernel has accepted.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::sync::watch;

use super::ending::look;
use super::listening::{Accepted, Listening, Place};
use crate::server::bound::Bound;
use crate::server::socket_file::SocketFile;
use crate::server::worker::Workers;
use crate::telemetry::metrics::Metrics;
use crate::tls::ending::{LOOK, Reminder, now};

/// How long to wait before accepting again once the process is out of file descriptors: each wait doubles.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often it is looked whether clients have left a file descriptor.
const ROOM_WAIT: Duration = Duration::from_millis(50);

/// How far apart lines are that clients have left none.
const LACKS_APART: Duration = Duration::from_secs(10);

/// How often a socket that closes tries to accept although the process is out of file descriptors.
const LAST_TRIES: usize = 100;

/// How long a socket that closes waits for handshakes that had begun: some round trips.
const SETTLE: Duration = Duration::from_millis(50);

/// Whom connections are given to, and what bounds them.
pub(super) struct Hands {
    pub(super) workers: Arc<Workers>,
    pub(super) metrics: Metrics,
    pub(super) files_max: u64,
}

impl Hands {
    /// Waits until clients have left a file descriptor for this connection. The kernel gives the lowest number that is free,
    /// so a number tells how many are taken.
    async fn room(&self, stream: &mut TcpStream, told_at: &mut Option<Instant>) {
        let number = |stream: &TcpStream| u64::try_from(stream.as_raw_fd()).unwrap_or(0);
        if number(stream) >= self.files_max {
            self.metrics.limit_hit("file_descriptors");
            let now = Instant::now();
            if told_at.is_none_or(|told| now.duration_since(told) >= LACKS_APART) {
                *told_at = Some(now);
                tracing::warn!(
                    for_clients = self.files_max,
                    "no file descriptor is left for clients: new connections wait. Raise the limit (`ulimit -n`, LimitNOFILE)"
                );
            }
        }
        while number(stream) >= self.files_max {
            tokio::time::sleep(ROOM_WAIT).await;
            if let Ok(lower) = stream.try_clone()
                && number(&lower) < number(stream)
            {
                *stream = lower;
            }
        }
    }
}

/// Accepts until it is told to leave, and then what is still in the queue.
pub(super) async fn accept(
    listening: Arc<Listening>,
    socket: Arc<Bound>,
    file: Option<SocketFile>,
    mut leave: watch::Receiver<bool>,
    hands: Hands,
) -> io::Result<()> {
    let (workers, metrics) = (&hands.workers, &hands.metrics);
    let watched = socket.watch()?;
    let give = async |stream: TcpStream, peer| {
        let place = Place::take(&listening);
        workers.give(Accepted { stream, peer, listening: listening.clone(), place }).await;
    };
    let mut back_off = BACK_OFF.0;
    let mut told_at = None;
    // The plan was announced when it came in force.
    let mut reminder = Reminder::new(now());
    let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            biased;
            // Fails without a sender, which is as good a reason to leave.
            _ = leave.wait_for(|leaves| *leaves) => break,
            _ = looks.tick() => {
                look(&mut reminder, &listening.plan());
                continue;
            }
            accepted = async {
                listening.room(metrics).await;
                watched.accept().await
            } => accepted,
        };
        match accepted {
            Ok((mut stream, peer)) => {
                back_off = BACK_OFF.0;
                tokio::select! {
                    biased;
                    _ = leave.wait_for(|leaves| *leaves) => {}
                    () = hands.room(&mut stream, &mut told_at) => {}
                }
                give(stream, peer).await;
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
    // Where this is not to be had, the moment between the last look and the close is a risk. A file is no longer found.
    if let Some(socket) = socket.tcp()
        && let Err(error) = ignore_newcomers(socket)
    {
        tracing::debug!(%error, "newcomers cannot be ignored");
    }
    drop(file);
    // Whoever is in the queue has been promised a connection, so `connections_max` does not count here.
    tokio::time::sleep(SETTLE).await;
    let mut tries = 0;
    loop {
        match socket.accept() {
            Ok((stream, peer)) => give(stream, peer).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_exhausted(&error) && tries == LAST_TRIES => return Err(error),
            // Others end, and leave their descriptors.
            Err(error) if is_exhausted(&error) => {
                tries += 1;
                tokio::time::sleep(BACK_OFF.0).await;
            }
            Err(error) => tracing::debug!(%error, "connection lost before it was accepted"),
        }
    }
}

/// Makes the kernel drop requests for new connections to this socket, unanswered. Handshakes that have begun go on.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn ignore_newcomers(socket: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;

    /// Loads the byte of the TCP header that holds its flags (RFC 9293 §3.1).
    const LOAD_FLAGS: SockFilter = SockFilter::new(0x30, 0, 0, 13);
    /// Skips one instruction unless SYN is among them.
    const UNLESS_SYN: SockFilter = SockFilter::new(0x45, 0, 1, 0x02);
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    const KEEP: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
    SockRef::from(socket).attach_filter(&[LOAD_FLAGS, UNLESS_SYN, DROP, KEEP])
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ignore_newcomers(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether accepting again at once would fail again: out of file descriptors or memory.
fn is_exhausted(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}
