//! Opening a connection to an endpoint: name lookup, every address it gives, and the time that all of it may take.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixSocket, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::{Address, EndpointTls};
use super::error::{Error, Kind};
use super::lookup::Lookups;
use crate::config::upstream::Protocol;
use crate::http::proxy_protocol::{self, Ends, Version};
use crate::http::tunnel::Duplex;
use crate::timer::Timer;

/// A connected socket, and TLS on it.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether it is open and has nothing to read: the one state in which a request may be sent.
    ///
    /// Asks the kernel. tokio learns of a close, or of bytes that nobody asked for, only when the reactor turns next, and
    /// until then a request would go into a dead connection, or take those bytes for its answer.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Tcp(stream) => is_silent(&SockRef::from(&*stream)),
            Self::Unix(stream) => is_silent(&SockRef::from(&*stream)),
            Self::Tls(stream) => is_quiet_within(stream),
        }
    }

    /// Whether something came that nobody has read, as far as the reactor saw: most often the end. Asks nobody.
    pub(super) fn has_news(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(&mut cx).is_ready(),
            Self::Unix(stream) => stream.poll_read_ready(&mut cx).is_ready(),
            Self::Tls(stream) => stream.get_ref().0.poll_read_ready(&mut cx).is_ready(),
        }
    }
}

impl Duplex for Stream {
    fn cut(&mut self) {
        let socket = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            // Knows of no reset.
            Self::Unix(_) => return,
        };
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // A socket keeps nothing back.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn is_silent(socket: &SockRef<'_>) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    matches!(socket.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether nothing but TLS's own messages waits to be read. A server sends tickets for later sessions after the
/// handshake, and they may still lie unread when the connection is to be used again.
fn is_quiet_within(stream: &mut TlsStream<TcpStream>) -> bool {
    /// Messages of TLS's own that are read at most. More is no ticket any more.
    const RECORDS_MAX: usize = 16;
    let (socket, session) = stream.get_mut();
    for _ in 0..RECORDS_MAX {
        let is_clean = |state: rustls::IoState| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed();
        if !session.process_new_packets().is_ok_and(is_clean) {
            return false;
        }
        let socket = SockRef::from(&*socket);
        if is_silent(&socket) {
            return true;
        }
        // Read past tokio, which has not seen the bytes yet.
        if !session.read_tls(&mut &*socket).is_ok_and(|length| length > 0) {
            return false;
        }
    }
    false
}

/// Says which client a new connection is for, ahead of everything else.
pub(super) async fn introduce(
    stream: &mut Stream,
    version: Version,
    ends: Option<&Ends>,
    budget: Duration,
    timer: &mut Timer,
) -> Result<(), Error> {
    let header = proxy_protocol::write(version, ends);
    let mut left = &header[..];
    let writing = poll_fn(|cx| {
        while !left.is_empty() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => left = &left[length..],
            }
        }
        Poll::Ready(Ok(()))
    });
    timer.arm(budget);
    within(timer, writing).await.ok_or(Kind::ConnectTimeout)?.map_err(unreachable)
}

/// Speaks TLS on a new connection, within `budget`.
pub(super) async fn secure(
    stream: Stream,
    tls: &EndpointTls,
    budget: Duration,
    protocol: Protocol,
    timer: &mut Timer,
) -> Result<Stream, Error> {
    let Stream::Tcp(socket) = stream else { return Ok(stream) };
    let connector = TlsConnector::from(tls.client.config.clone());
    timer.arm(budget);
    let secured = within(timer, connector.connect(tls.name.clone(), socket)).await.ok_or(Kind::TlsTimeout)?;
    let secured = secured.map_err(Error::from_handshake)?;
    // No silent step down: what the endpoint did not agree to is not spoken.
    if protocol.is_http2() && secured.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(Error::because(Kind::Tls, "the endpoint did not agree to HTTP/2"));
    }
    Ok(Stream::Tls(Box::new(secured)))
}

/// Waits for `future`, but no longer than `timer` was armed for.
pub(super) async fn within<F: Future>(timer: &mut Timer, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let outcome = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.poll_expired(cx).map(|()| None),
    })
    .await;
    timer.disarm();
    outcome
}

/// Connects to `address` within `budget`. Of the file descriptors only those below `files_max` are for that.
pub(super) async fn connect(
    address: &Address,
    lookups: &Lookups,
    files_max: u64,
    budget: Duration,
    timer: &mut Timer,
) -> Result<Stream, Error> {
    let (host, port) = match address {
        Address::Ip(address) => return tcp(*address, files_max, budget, timer).await,
        Address::Unix(path) => return unix(path, files_max, budget, timer).await,
        Address::Name { host, port } => (host, *port),
    };
    let end = Instant::now() + budget;
    timer.arm(budget);
    let found = within(timer, lookups.find(host, port)).await.ok_or(Kind::Dns)?;
    let addresses = found.map_err(|error| Error::because(Kind::Dns, error))?;
    let mut last = Error::new(Kind::Dns);
    for (tried, address) in addresses.iter().enumerate() {
        // Each address gets its share of what is left, so that one that never answers does not starve the rest.
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match tcp(*address, files_max, share, timer).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tcp(address: SocketAddr, files_max: u64, budget: Duration, timer: &mut Timer) -> Result<Stream, Error> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(unreachable)?;
    has_room(&socket, files_max)?;
    timer.arm(budget);
    let stream = within(timer, socket.connect(address)).await.ok_or(Kind::ConnectTimeout)?.map_err(unreachable)?;
    // Requests leave in one piece: waiting for more to send (RFC 896) only adds delay.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(Stream::Tcp(stream))
}

/// A socket whose queue is full says so at once, where one of TCP would be silent: it is asked again until its time is over.
async fn unix(path: &Path, files_max: u64, budget: Duration, timer: &mut Timer) -> Result<Stream, Error> {
    const AGAIN: Duration = Duration::from_millis(10);
    let end = Instant::now() + budget;
    loop {
        let socket = UnixSocket::new_stream().map_err(unreachable)?;
        has_room(&socket, files_max)?;
        timer.arm(end.saturating_duration_since(Instant::now()));
        match within(timer, socket.connect(path)).await.ok_or(Kind::ConnectTimeout)? {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected.map(Stream::Unix).map_err(unreachable),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::because(Kind::ConnectTimeout, "its queue of connections is full"));
        }
        timer.arm(left.min(AGAIN));
        timer.expired().await;
    }
}

/// Refuses a socket whose descriptor is one of the last. The kernel gives the lowest number that is free, so that a number
/// tells how many are taken.
fn has_room(socket: &impl AsRawFd, files_max: u64) -> Result<(), Error> {
    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
    if number < files_max { Ok(()) } else { Err(Error::new(Kind::NoFile)) }
}

fn unreachable(error: io::Error) -> Error {
    // errno(3): EMFILE and ENFILE have no `ErrorKind` of their own.
    const NO_FILE_LEFT: [i32; 2] = [23, 24];
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => Kind::Refused,
        io::ErrorKind::TimedOut => Kind::ConnectTimeout,
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => Kind::Exhausted,
        _ if error.raw_os_error().is_some_and(|code| NO_FILE_LEFT.contains(&code)) => Kind::NoFile,
        _ => Kind::Unreachable,
    };
    Error::because(kind, error)
}
