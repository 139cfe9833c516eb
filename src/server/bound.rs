//! A bound socket of a listener: TCP, or a file.
//!
//! A connection is a `TcpStream` either way. It is no more than a descriptor, and nothing is asked of it but what both kinds
//! do alike: read, write, peek, shut down. What only TCP has (no delay, a reset at the close) fails on the other, and may.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::http::forwarded::NOWHERE;

/// A connection, non-blocking, and who opened it.
pub(super) type Opened = (TcpStream, SocketAddr);

/// A bound socket that does not block.
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// The next connection of those that the kernel has made.
    pub(super) fn accept(&self) -> io::Result<Opened> {
        let (stream, peer) = match self {
            Self::Tcp(socket) => socket.accept()?,
            Self::Unix(socket) => over_file(socket.accept()?.0),
        };
        stream.set_nonblocking(true)?;
        Ok((stream, peer))
    }

    /// A hand on it for a runtime, to be made inside it.
    pub(super) fn watch(&self) -> io::Result<Watched> {
        match self {
            Self::Tcp(socket) => tokio::net::TcpListener::from_std(socket.try_clone()?).map(Watched::Tcp),
            Self::Unix(socket) => tokio::net::UnixListener::from_std(socket.try_clone()?).map(Watched::Unix),
        }
    }

    /// The socket, if it has an address.
    pub(super) fn tcp(&self) -> Option<&TcpListener> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Unix(_) => None,
        }
    }
}

/// A bound socket in a runtime.
pub(super) enum Watched {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Watched {
    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Opened> {
        match self {
            Self::Tcp(socket) => socket.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))),
            Self::Unix(socket) => socket.accept().await.and_then(|(stream, _)| Ok(over_file(stream.into_std()?))),
        }
    }
}

fn over_file(stream: UnixStream) -> Opened {
    (TcpStream::from(OwnedFd::from(stream)), SocketAddr::new(NOWHERE, 0))
}
