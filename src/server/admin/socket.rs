//! Sockets of the admin listener: TCP, or a file. Whoever moves binds the new one while the old one still accepts.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::address::{ListenAddress, SocketAccess};
use crate::server::socket_file::{self, SocketFile};

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;

/// A bound socket. A file is removed when it is dropped.
pub(super) struct Bound {
    /// What the configuration asked for.
    pub(super) wanted: ListenAddress,
    /// Where it really listens: port 0 has become a number.
    pub(super) address: ListenAddress,
    // Goes before the socket.
    file: Option<SocketFile>,
    socket: Listener,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Binds a new socket. `ours` are this process's, which may stand in the way of one another: on the same port, one
    /// of them on every address and one on a single one.
    ///
    /// # Errors
    /// The address is taken, is not this machine's, or is a file that is no socket.
    pub(super) fn bind<'b>(
        wanted: &ListenAddress,
        access: SocketAccess,
        ours: impl Iterator<Item = &'b Self>,
    ) -> io::Result<Self> {
        match wanted {
            ListenAddress::Tcp(address) => {
                let socket = match tcp(*address, false) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        beside(*address, ours.filter(|bound| bound.address.clashes(wanted))).ok_or(error)?
                    }
                    bound => bound?,
                };
                let address = ListenAddress::Tcp(socket.local_addr()?);
                Ok(Self { wanted: wanted.clone(), address, socket: Listener::Tcp(socket), file: None })
            }
            ListenAddress::Unix(path) => {
                let (socket, file) = socket_file::bind(path, access, BACKLOG)?;
                let (wanted, address) = (wanted.clone(), wanted.clone());
                Ok(Self { wanted, address, socket: Listener::Unix(socket), file: Some(file) })
            }
        }
    }

    /// Lets others connect to the file, or no longer.
    ///
    /// # Errors
    /// The file is gone, or is somebody else's.
    pub(super) fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.place.set_access(access))
    }

    /// A hand on the socket for a runtime, to be made inside it.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub(super) fn acceptor(&self) -> io::Result<Acceptor> {
        match &self.socket {
            Listener::Tcp(socket) => tokio::net::TcpListener::from_std(socket.try_clone()?).map(Acceptor::Tcp),
            Listener::Unix(socket) => tokio::net::UnixListener::from_std(socket.try_clone()?).map(Acceptor::Unix),
        }
    }
}

/// A bound socket in a runtime.
pub(super) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection of either kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection, and who opened it.
type Accepted = (Box<dyn Duplex>, String);

impl Acceptor {
    /// The next connection, and who opened it.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => over_tcp(socket.accept().await?),
            Self::Unix(socket) => over_unix(socket.accept().await?.0),
        }
    }

    /// Closes the socket, and gives the connections that the kernel has made for it already: closing would reset them.
    pub(super) fn close(self, most: usize) -> Vec<Accepted> {
        let next: Box<dyn FnMut() -> io::Result<Accepted>> = match self {
            Self::Tcp(socket) => {
                let Ok(socket) = socket.into_std() else { return Vec::new() };
                Box::new(move || {
                    let (stream, peer) = socket.accept()?;
                    stream.set_nonblocking(true)?;
                    over_tcp((tokio::net::TcpStream::from_std(stream)?, peer))
                })
            }
            Self::Unix(socket) => {
                let Ok(socket) = socket.into_std() else { return Vec::new() };
                Box::new(move || {
                    let (stream, _) = socket.accept()?;
                    stream.set_nonblocking(true)?;
                    over_unix(tokio::net::UnixStream::from_std(stream)?)
                })
            }
        };
        // The first failure is that there is none any more: the socket does not block.
        std::iter::repeat_with(next).take(most).map_while(Result::ok).collect()
    }
}

fn over_tcp((stream, peer): (tokio::net::TcpStream, SocketAddr)) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    Ok((Box::new(stream), peer.to_string()))
}

fn over_unix(stream: tokio::net::UnixStream) -> io::Result<Accepted> {
    let peer = stream.peer_cred().map_or_else(|_| "unix".into(), |peer| format!("uid {}", peer.uid()));
    Ok((Box::new(stream), peer))
}

fn tcp(address: SocketAddr, is_shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds where sockets of this process are in the way: they share the port for as long as that takes. If somebody else's
/// is there too, it fails all the same.
fn beside<'b>(address: SocketAddr, ours: impl Iterator<Item = &'b Bound>) -> Option<std::net::TcpListener> {
    let sockets: Vec<SockRef<'_>> = ours
        .filter_map(|bound| match &bound.socket {
            Listener::Tcp(socket) => Some(SockRef::from(socket)),
            Listener::Unix(_) => None,
        })
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let share = |is_shared| sockets.iter().try_for_each(|socket| socket.set_reuse_port(is_shared));
    let bound = share(true).and_then(|()| tcp(address, true));
    // From here on nobody else may join, be it another process of the same user.
    let closed = share(false).is_ok();
    let socket = bound.ok()?;
    (closed && SockRef::from(&socket).set_reuse_port(false).is_ok()).then_some(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::{fs, iter};

    use super::*;

    fn bind(wanted: &str) -> io::Result<Bound> {
        Bound::bind(&ListenAddress::parse(wanted).unwrap(), SocketAccess::Owner, iter::empty())
    }

    #[test]
    fn a_socket_is_a_file_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let bound = bind(&format!("unix:{}", path.display())).unwrap();
        let mode = || fs::symlink_metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        bound.set_access(SocketAccess::Group).unwrap();
        assert_eq!(mode(), 0o660);
        // What somebody else has put there is not ours to open, nor to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let before = mode();
        assert!(bound.set_access(SocketAccess::Group).is_err());
        assert_eq!(mode(), before);
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_socket_goes_with_who_bound_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let bound = bind(&format!("unix:{}", path.display())).unwrap();
        assert!(path.exists());
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_what_lives_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let wanted = format!("unix:{}", path.display());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind, as a killed process does");
        let bound = bind(&wanted).unwrap();
        assert_eq!(bind(&wanted).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists(), "the one who could not have it must not remove it");
        drop(bound);

        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&wanted).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_another_process_has_replaced_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let bound = bind(&format!("unix:{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn one_address_and_every_address_of_a_port_can_follow_each_other() {
        let one = bind("127.0.0.1:0").unwrap();
        let port = one.address.tcp().unwrap().port();
        let any = ListenAddress::parse(&format!("0.0.0.0:{port}")).unwrap();
        assert!(bind(&any.to_string()).is_err(), "the port is taken");
        let all = Bound::bind(&any, SocketAccess::Owner, iter::once(&one)).unwrap();
        assert!(bind(&any.to_string()).is_err() && bind(&one.address.to_string()).is_err(), "nobody else may join");
        drop(one);
        Bound::bind(
            &ListenAddress::parse(&format!("127.0.0.1:{port}")).unwrap(),
            SocketAccess::Owner,
            iter::once(&all),
        )
        .unwrap();
    }
}
