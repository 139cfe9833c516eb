//! Sockets that are files: bound where nobody listens, and removed by who bound them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::operate::SocketAccess;

/// Binds a non-blocking socket to a file. `backlog` connections wait until they are accepted.
///
/// # Errors
/// Somebody listens there, or the file is no socket.
pub(super) fn bind(path: &Path, access: SocketAccess, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::own(path)?;
    // Between bind and listen nobody can connect, whatever the mode that the file was made with.
    file.place.set_access(access)?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

/// Removes the socket that a process left behind when it died. One that somebody listens on stays, and so does every
/// other kind of file: the bind that follows fails on them.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there and is no socket"));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Whoever listens may have no room for another connection, and that must not keep us waiting.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// The file of a socket. Removed when dropped, unless somebody has put another in its place.
pub(super) struct SocketFile {
    pub(super) place: OwnFile,
}

/// Where such a file is, and which one.
#[derive(Clone)]
pub(super) struct OwnFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn own(path: &Path) -> io::Result<Self> {
        Ok(Self { place: OwnFile { path: path.into(), identity: identity(path)? } })
    }
}

impl OwnFile {
    /// Whether what is there is still the same file.
    fn is_ours(&self) -> bool {
        identity(&self.path).is_ok_and(|found| found == self.identity)
    }

    /// Lets others connect to the file, or no longer.
    ///
    /// # Errors
    /// The file is gone, or somebody has put another in its place, which is not ours to open.
    pub(super) fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        if !self.is_ours() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file is gone, or another is in its place"));
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(access.mode()))
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.place.is_ours()
            && let Err(error) = fs::remove_file(&self.place.path)
        {
            tracing::warn!(%error, path = %self.place.path.display(), "a socket stays behind");
        }
    }
}
