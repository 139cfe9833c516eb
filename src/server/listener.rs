//! Listening sockets, which change while connections come in: bound, handed on to the next plan, and closed so that no
//! connection is lost that the kernel has accepted.
//!
//! A socket is known by its address, whatever its listener is called. A reload first [`prepare`](Listeners::prepare)s,
//! which binds what is missing and changes nothing else, then [`commit`](Listeners::commit)s, which cannot fail.
//!
//! A socket is closed in three steps, for the kernel accepts on its own and resets what it has accepted when the socket
//! closes: it is told to ignore those who knock from now on (who knock again a second later, and then find the
//! successor or nobody), what has been accepted is taken over, and only then it closes.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::bound::Bound;
use super::socket_file::{self, OwnFile, SocketFile};
use super::worker::Workers;
use crate::config::address::ListenAddress;
use crate::snapshot::ListenerPlan;
use crate::telemetry::metrics::{self, Metrics};

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// How long to wait before accepting again once the process is out of file descriptors: each wait doubles.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often it is looked whether clients have left a file descriptor.
const ROOM_WAIT: Duration = Duration::from_millis(50);

/// How far apart lines are that clients have left none.
const LACKS_APART: Duration = Duration::from_secs(10);

/// How often a socket that closes tries to accept although the process is out of file descriptors.
const LAST_TRIES: usize = 100;

/// How far apart lines are about certificates that were refused.
const REFUSALS_APART: Duration = Duration::from_secs(1);

/// How long a socket that closes waits for handshakes that had begun: some round trips.
const SETTLE: Duration = Duration::from_millis(50);

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener `{name}` cannot listen on {address}: {error}")]
pub struct BindError {
    /// The listener.
    pub name: Arc<str>,
    /// The address, as in the configuration.
    pub address: ListenAddress,
    /// Why.
    pub error: io::Error,
}

/// A bound socket, and what all workers share about its connections.
pub struct Listening {
    /// Where it really listens: port 0 has become a number.
    pub address: ListenAddress,
    /// Of a socket that is a file.
    place: Option<OwnFile>,
    plan: ArcSwap<ListenerPlan>,
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
    fn new(address: ListenAddress, place: Option<OwnFile>, plan: Arc<ListenerPlan>) -> Arc<Self> {
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
    pub(super) fn refused_certificate(&self, listener: &str, peer: SocketAddr, why: &rustls::Error) {
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
    pub(super) fn handshake(self: &Arc<Self>, max: u32) -> Option<Handshake> {
        let before = self.handshakes.fetch_add(1, Ordering::Relaxed);
        let place = Handshake(self.clone());
        (before < max as usize).then_some(place)
    }

    fn follow(&self, plan: Arc<ListenerPlan>) {
        announce(&plan);
        if let Some(place) = &self.place
            && let Err(error) = place.set_access(plan.config.socket_access)
        {
            tracing::warn!(listener = %plan.name, %error, "the socket keeps its mode");
        }
        self.plan.store(plan);
        self.changed();
    }

    fn remove(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
        self.changed();
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
        // `connections_max` may have grown.
        self.freed.notify_one();
    }

    /// Waits for room for one more connection.
    async fn room(&self, metrics: &Metrics) {
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
pub(super) struct Handshake(Arc<Listening>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How often operators are told again while armiger runs.
const TOLD_AGAIN: Duration = Duration::from_secs(12 * 3600);

/// How long before a certificate's end operators are told.
const EXPIRES_SOON: i64 = 14 * 24 * 3600;

/// Tells when the certificates of a plan that comes in force end.
#[expect(clippy::disallowed_methods, reason = "certificates end by the time of day")]
fn announce(plan: &ListenerPlan) {
    let ends = plan.tls.as_ref().map_or(&[][..], |tls| &tls.ends);
    plan.state.metrics.certificates(ends);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
    for (certificate, end) in ends {
        match Ending::of(*end, now) {
            Ending::Later => {}
            Ending::Soon { days } => {
                tracing::warn!(listener = %plan.name, %certificate, days, "certificate ends soon");
            }
            Ending::Over => tracing::warn!(listener = %plan.name, %certificate, "certificate is out of date"),
        }
    }
}

/// What operators are told of a certificate's end.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing yet.
    Later,
    /// That it ends in so many whole days.
    Soon { days: i64 },
    /// That it has ended.
    Over,
}

impl Ending {
    /// Of a certificate whose last second is `end`, both since 1970.
    fn of(end: i64, now: i64) -> Self {
        match end.saturating_sub(now) {
            ..=0 => Self::Over,
            left @ ..=EXPIRES_SOON => Self::Soon { days: left / (24 * 3600) },
            _ => Self::Later,
        }
    }
}

/// A connection's place among those of its listener, given back on drop.
pub struct Place {
    listening: Arc<Listening>,
    _counted: metrics::InFlight,
}

impl Place {
    fn take(listening: &Arc<Listening>) -> Self {
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

/// All listening sockets of one armiger.
pub struct Listeners {
    workers: Arc<Workers>,
    metrics: Metrics,
    runtime: Handle,
    /// File descriptors from this number on are not for clients.
    files_max: u64,
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    /// In the order of the plans.
    open: Vec<Open>,
    /// Being closed.
    leaving: Vec<Open>,
    is_stopped: bool,
}

/// A socket with the task that accepts on it, which owns it.
struct Open {
    listening: Arc<Listening>,
    socket: Weak<Bound>,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Everything that a set of plans needs is bound. Dropped, it closes what was bound for it.
pub struct Prepared(Vec<(Arc<ListenerPlan>, Source)>);

/// Everything that a set of plans needs listens. Dropped, it closes what was bound for it.
pub struct Ready(Vec<(Arc<ListenerPlan>, Taken)>);

/// A listener's socket, as it is when nothing can go wrong any more.
enum Taken {
    /// It listens already.
    Open(Arc<Listening>),
    /// Connections wait in its queue.
    Bound(Bound, Option<SocketFile>, ListenAddress),
}

/// Where a listener's socket comes from.
enum Source {
    /// It listens already.
    Open(Arc<Listening>),
    /// It was bound, and connections wait in its queue.
    Bound(TcpListener, SocketAddr),
    /// The same of one that is a file.
    File(UnixListener, SocketFile, ListenAddress),
    /// It was bound beside sockets that are about to leave and overlap with it (`0.0.0.0:80` and `127.0.0.1:80`). It
    /// must not listen before it is in force: it would take connections away from them.
    Beside(Socket, SocketAddr, Vec<Arc<Bound>>),
}

impl Listeners {
    /// None yet. Accepting happens on `runtime`. Clients may take `files_max` file descriptors, if that is bounded.
    pub fn new(workers: Arc<Workers>, metrics: Metrics, runtime: Handle, files_max: Option<u64>) -> Arc<Self> {
        let files_max = files_max.unwrap_or(u64::MAX);
        Arc::new(Self { workers, metrics, runtime, files_max, sockets: Mutex::default() })
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        // Nothing panics under this lock.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds every address that is not bound yet, and changes nothing else. To be followed by [`Prepared::listen`] and
    /// [`Listeners::commit`], or dropped, before the next one.
    ///
    /// A socket whose address stays is handed on, whatever its listener is called. Port 0 is known by the listener's
    /// name, so it keeps its number.
    ///
    /// # Errors
    /// Every address that cannot be bound.
    pub fn prepare(&self, plans: &[Arc<ListenerPlan>]) -> Result<Prepared, Vec<BindError>> {
        let sockets = self.sockets();
        let mut free: Vec<&Open> = sockets.open.iter().collect();
        let mut sources: Vec<Option<Source>> = plans.iter().map(|_| None).collect();
        // Numbers first: a number is meant, a name only stands in for one.
        for by_name in [false, true] {
            for (plan, source) in plans.iter().zip(&mut sources) {
                let wanted = &plan.config.address;
                if wanted.tcp().is_some_and(|address| address.port() == 0) != by_name {
                    continue;
                }
                let is_same = |open: &&Open| match by_name {
                    false => open.listening.address == *wanted,
                    true => {
                        let plan_now = open.listening.plan.load();
                        plan_now.name == plan.name && plan_now.config.address == *wanted
                    }
                };
                if let Some(place) = free.iter().position(is_same) {
                    *source = Some(Source::Open(free.swap_remove(place).listening.clone()));
                }
            }
        }
        let going: Vec<Arc<Bound>> =
            free.into_iter().chain(&sockets.leaving).filter_map(|open| open.socket.upgrade()).collect();
        let mut errors = Vec::new();
        let mut prepared = Vec::with_capacity(plans.len());
        for (plan, source) in plans.iter().zip(sources) {
            match source.map_or_else(|| Source::of(plan, &going), Ok) {
                Ok(source) => prepared.push((plan.clone(), source)),
                Err(error) => {
                    errors.push(BindError { name: plan.name.clone(), address: plan.config.address.clone(), error });
                }
            }
        }
        if errors.is_empty() { Ok(Prepared(prepared)) } else { Err(errors) }
    }

    /// Puts everything in force. What is not among the plans is closed, without a reset for anybody; its connections end
    /// with their next answer, or when their keep-alive time is over.
    ///
    /// Does nothing once [`Listeners::stop_accepting`] was called.
    pub fn commit(&self, ready: Ready) {
        let mut sockets = self.sockets();
        if sockets.is_stopped {
            return;
        }
        let mut before = std::mem::take(&mut sockets.open);
        for (plan, taken) in ready.0 {
            let (socket, file, address) = match taken {
                Taken::Open(listening) => {
                    listening.follow(plan);
                    let place = before.iter().position(|open| Arc::ptr_eq(&open.listening, &listening));
                    sockets.open.extend(place.map(|place| before.swap_remove(place)));
                    continue;
                }
                Taken::Bound(socket, file, address) => (socket, file, address),
            };
            let place = file.as_ref().map(|file| file.place.clone());
            let open = self.open(Listening::new(address, place, plan), socket, file);
            sockets.open.push(open);
        }
        sockets.leaving.retain(|open| !open.task.is_finished());
        for open in before {
            open.listening.remove();
            open.leave.send_replace(true);
            sockets.leaving.push(open);
        }
    }

    /// Each listener's name and where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<(Arc<str>, ListenAddress)> {
        let sockets = self.sockets();
        sockets
            .open
            .iter()
            .map(|open| (open.listening.plan.load().name.clone(), open.listening.address.clone()))
            .collect()
    }

    /// Closes every socket, for good, and waits until what the kernel had accepted is with its worker.
    pub async fn stop_accepting(&self) {
        let (open, leaving) = {
            let mut sockets = self.sockets();
            sockets.is_stopped = true;
            (std::mem::take(&mut sockets.open), std::mem::take(&mut sockets.leaving))
        };
        for one in &open {
            one.leave.send_replace(true);
        }
        for one in open.into_iter().chain(leaving) {
            if let Err(error) = one.task.await {
                tracing::error!(%error, "a listener ended");
            }
        }
    }

    fn open(&self, listening: Arc<Listening>, socket: Bound, file: Option<SocketFile>) -> Open {
        let socket = Arc::new(socket);
        let (leave, leaving) = watch::channel(false);
        let held = Arc::downgrade(&socket);
        let hands = Hands { workers: self.workers.clone(), metrics: self.metrics.clone(), files_max: self.files_max };
        let accepting = accept(listening.clone(), socket, file, leaving, hands);
        let task = self.runtime.spawn(async move {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "cannot accept");
            }
        });
        Open { listening, socket: held, leave, task }
    }
}

impl Prepared {
    /// Listens where that had to wait. From here on connections come to where they will be served: to be called when
    /// nothing else can go wrong, right before [`Listeners::commit`].
    ///
    /// # Errors
    /// Every address that cannot be had after all: another process did the same at this moment.
    pub fn listen(self) -> Result<Ready, Vec<BindError>> {
        let mut errors = Vec::new();
        let mut ready = Vec::with_capacity(self.0.len());
        for (plan, source) in self.0 {
            match source {
                Source::Open(listening) => ready.push((plan, Taken::Open(listening))),
                Source::Bound(socket, address) => {
                    ready.push((plan, Taken::Bound(Bound::Tcp(socket), None, address.into())));
                }
                Source::File(socket, file, address) => {
                    ready.push((plan, Taken::Bound(Bound::Unix(socket), Some(file), address)));
                }
                Source::Beside(socket, address, rivals) => match listen_beside(socket, &rivals) {
                    Ok(socket) => ready.push((plan, Taken::Bound(Bound::Tcp(socket), None, address.into()))),
                    Err(error) => errors.push(BindError { name: plan.name.clone(), address: address.into(), error }),
                },
            }
        }
        if errors.is_empty() { Ok(Ready(ready)) } else { Err(errors) }
    }
}

impl Source {
    /// Binds what a plan asks for.
    fn of(plan: &ListenerPlan, going: &[Arc<Bound>]) -> io::Result<Self> {
        match &plan.config.address {
            ListenAddress::Tcp(address) => Self::bind(*address, going),
            ListenAddress::Unix(path) => {
                let (socket, file) = socket_file::bind(path, plan.config.socket_access, BACKLOG)?;
                Ok(Self::File(socket, file, plan.config.address.clone()))
            }
        }
    }

    /// Binds an address, beside those that are about to go if it must be.
    fn bind(address: SocketAddr, going: &[Arc<Bound>]) -> io::Result<Self> {
        let error = match bind(address) {
            Ok(socket) => {
                let address = socket.local_addr()?;
                return Ok(Self::Bound(socket, address));
            }
            Err(error) => error,
        };
        let is_rival = |socket: &&Arc<Bound>| {
            let other = socket.tcp().and_then(|socket| socket.local_addr().ok());
            address.port() != 0 && other.is_some_and(|other| other.port() == address.port())
        };
        let rivals: Vec<_> = going.iter().filter(is_rival).cloned().collect();
        if error.kind() != io::ErrorKind::AddrInUse || rivals.is_empty() {
            return Err(error);
        }
        let socket = unbound(address)?;
        sharing(&socket, &rivals, || socket.bind(&address.into()))?;
        Ok(Self::Beside(socket, address, rivals))
    }
}

/// Does what only sockets may do that share their port. They share it no longer than that takes, so that no other
/// process can come in between.
fn sharing(socket: &Socket, rivals: &[Arc<Bound>], act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let share = |shares: bool| {
        socket.set_reuse_port(shares)?;
        let mut rivals = rivals.iter().filter_map(|rival| rival.tcp());
        rivals.try_for_each(|rival| SockRef::from(rival).set_reuse_port(shares))
    };
    let done = share(true).and_then(|()| act());
    share(false)?;
    done
}

fn listen_beside(socket: Socket, rivals: &[Arc<Bound>]) -> io::Result<TcpListener> {
    sharing(&socket, rivals, || socket.listen(BACKLOG))?;
    Ok(socket.into())
}

/// Whom connections are given to, and what bounds them.
struct Hands {
    workers: Arc<Workers>,
    metrics: Metrics,
    files_max: u64,
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
async fn accept(
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
    // The first time is over: the plan was announced when it came in force.
    let mut again = tokio::time::interval_at(tokio::time::Instant::now() + TOLD_AGAIN, TOLD_AGAIN);
    loop {
        let accepted = tokio::select! {
            biased;
            // Fails without a sender, which is as good a reason to leave.
            _ = leave.wait_for(|leaves| *leaves) => break,
            _ = again.tick() => {
                announce(&listening.plan());
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

/// Binds a non-blocking listening socket.
///
/// # Errors
/// The address is taken, or is not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether accepting again at once would fail again: out of file descriptors or memory.
fn is_exhausted(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_of_a_certificates_end_from_two_weeks_before_it_and_for_good() {
        const DAY: i64 = 24 * 3600;
        let now = 1_800_000_000_i64;
        for (left, told) in [
            (EXPIRES_SOON + 1, Ending::Later),
            (i64::MAX, Ending::Later),
            (EXPIRES_SOON, Ending::Soon { days: 14 }),
            (2 * DAY - 1, Ending::Soon { days: 1 }),
            (1, Ending::Soon { days: 0 }),
            (0, Ending::Over),
            (-1, Ending::Over),
            (i64::MIN, Ending::Over),
        ] {
            assert_eq!(Ending::of(now.saturating_add(left), now), told, "{left} seconds before");
        }
        // Told again and again, it is told on each day.
        let again = i64::try_from(TOLD_AGAIN.as_secs()).unwrap();
        let told: Vec<_> = (0..=28).map(|round| Ending::of(now + EXPIRES_SOON, now + round * again)).collect();
        let days: Vec<_> =
            told.iter().filter_map(|told| if let Ending::Soon { days } = told { Some(*days) } else { None }).collect();
        assert_eq!((days.first(), days.last(), told.last()), (Some(&14), Some(&0), Some(&Ending::Over)));
        assert!(days.windows(2).all(|pair| pair[0] - pair[1] <= 1), "{days:?}");
    }
}
