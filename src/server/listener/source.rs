//! Where a listener's socket comes from: it is there already, or is bound, beside one that is about to leave if it must be.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::listening::Listening;
use crate::config::address::ListenAddress;
use crate::server::bound::Bound;
use crate::server::socket_file::{self, SocketFile};
use crate::snapshot::ListenerPlan;

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Where a listener's socket comes from.
pub(super) enum Source {
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

impl Source {
    /// Binds what a plan asks for.
    pub(super) fn of(plan: &ListenerPlan, going: &[Arc<Bound>]) -> io::Result<Self> {
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

pub(super) fn listen_beside(socket: Socket, rivals: &[Arc<Bound>]) -> io::Result<TcpListener> {
    sharing(&socket, rivals, || socket.listen(BACKLOG))?;
    Ok(socket.into())
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
