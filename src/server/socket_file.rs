//! Sockets that are files: bound where nobody listens, and removed by who bound them.
//!
//! Between the look at what is there and the moment when somebody listens, two processes could each take the other's new
//! socket for a dead one and put their own in its place. So whoever binds or removes one holds a lock on the folder meanwhile:
//! of two that start at one path, the second finds the first listening.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::address::SocketAccess;

/// Binds a non-blocking socket to a file. `backlog` connections wait until they are accepted.
///
/// # Errors
/// Somebody listens there, or the file is no socket.
pub(super) fn bind(path: &Path, access: SocketAccess, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    let _lock = Lock::of(path, LOCK_WAIT);
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
        // As many as may wait for it do so already.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "in use: another process listens there")),
    }
}

/// How long somebody else may hold the lock: it is held for a few system calls.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The same for who removes a file, where others may wait for the thread.
const LOCK_WAIT_LAST: Duration = Duration::from_millis(50);

/// The pause between two tries to have it.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The lock on the folder in which a socket is made or removed. No file is left behind, and it ends with its process.
struct Lock {
    _folder: fs::File,
}

impl Lock {
    /// None where all goes on as it can without: this folder has no locks, or is not ours to read, or somebody holds its
    /// lock for reasons of his own. Whoever may read a folder can do that, and must not keep us from starting.
    #[expect(
        clippy::disallowed_methods,
        reason = "no worker's thread: one that makes or ends listeners, and not for long"
    )]
    fn of(path: &Path, wait: Duration) -> Option<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // What is wrong with the folder the socket itself will tell.
        let folder = fs::File::open(folder).ok()?;
        let began = Instant::now();
        loop {
            match folder.try_lock() {
                Ok(()) => return Some(Self { _folder: folder }),
                Err(fs::TryLockError::WouldBlock) if began.elapsed() < wait => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::WouldBlock) => {
                    tracing::warn!(path = %path.display(), "somebody keeps a lock on the folder of a socket; going on without it");
                    return None;
                }
                Err(fs::TryLockError::Error(_)) => return None,
            }
        }
    }
}

/// The file of a socket. Removed when dropped, unless somebody has put another in its place. To be dropped before its socket: as long
/// as that is open, no other file can have the number of this one.
pub(super) struct SocketFile {
    pub(super) place: OwnFile,
}

/// Where such a file is, and which one.
#[derive(Clone)]
pub(super) struct OwnFile {
    path: PathBuf,
    identity: Identity,
}

/// Device, number and time of its making.
type Identity = (u64, u64, i64, i64);

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

fn identity(path: &Path) -> io::Result<Identity> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Without it, at worst the file stays.
        let _lock = Lock::of(&self.place.path, LOCK_WAIT_LAST);
        if self.place.is_ours()
            && let Err(error) = fs::remove_file(&self.place.path)
        {
            tracing::warn!(%error, path = %self.place.path.display(), "a socket stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn bind_here(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        bind(path, SocketAccess::Owner, 8)
    }

    /// Each is a process of its own to the lock: it belongs to the opened folder.
    #[test]
    fn of_many_who_start_at_one_path_one_listens_and_the_others_say_why_they_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        for _ in 0..100 {
            // What a process that was killed left behind, which each of them wants to remove.
            drop(UnixListener::bind(&path).unwrap());
            let barrier = Barrier::new(4);
            let outcomes: Vec<_> = thread::scope(|scope| {
                let one = || {
                    barrier.wait();
                    bind_here(&path)
                };
                let all: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let (mut bound, mut refused) = (Vec::new(), Vec::new());
            for outcome in outcomes {
                match outcome {
                    Ok(one) => bound.push(one),
                    Err(error) => refused.push(error.to_string()),
                }
            }
            assert_eq!((bound.len(), refused), (1, vec!["in use: another process listens there".to_owned(); 3]));
            assert!(UnixStream::connect(&path).is_ok(), "the one who won is the one who is reached");
            bound.into_iter().for_each(|(_socket, file)| drop(file));
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_folder_that_somebody_else_keeps_locked_is_waited_for_and_then_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let _held = Lock::of(&path, LOCK_WAIT).unwrap();
        let began = Instant::now();
        assert!(bind_here(&path).is_ok());
        assert!(began.elapsed() >= LOCK_WAIT, "who makes a socket meanwhile has time for it");
    }
}
