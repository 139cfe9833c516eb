//! What the machine gives: processors and memory, as the control group cuts them down for a container.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What one open connection may hold, in bytes.
///
/// 24 KiB were measured right after a burst, on connections whose exchange was over; the rest is room for an exchange
/// that still runs, its head and its share of an upstream connection.
const CONNECTION_BYTES: u64 = 32 << 10;

/// The share of the memory that connections may take together, as a divisor. The other half is for the program, the
/// configuration (twice while it is replaced), upstream connections and metrics.
const CONNECTIONS_SHARE: u64 = 2;

/// The share of the memory that caches may take together, as a divisor.
const CACHE_SHARE: u64 = 8;

/// The share of the memory that answers read in large pieces may take together, as a divisor, and the most of it for one
/// worker: 64 downloads at full speed.
const LARGE_READS_SHARE: u64 = 16;
const LARGE_READS_MOST: u64 = 16 << 20;

/// The share of the memory that HTTP/2 clients may fill with what they send ahead of who reads it, as a divisor, and the most of
/// it for one worker.
const UPLOAD_WINDOWS_SHARE: u64 = 8;
const UPLOAD_WINDOWS_MOST: u64 = 64 << 20;

/// Connections that are allowed however small the memory is: fewer would be no proxy.
const CONNECTIONS_LEAST: u32 = 64;

/// The share of the file descriptors that clients' connections leave to others, as a divisor, and the least of it.
const RESERVED_SHARE: u64 = 4;
const RESERVED_LEAST: u64 = 16;

/// The share of the file descriptors that connections to upstreams leave to operators and files, as a divisor, the least of
/// it and the most: operators, a reload and the log need few, however many there are.
const KEPT_SHARE: u64 = 16;
const KEPT_LEAST: u64 = 8;
const KEPT_MOST: u64 = 256;

/// The share of those that the connections of each of the two listeners for operators may take, as a divisor. The other half
/// is for files, and for who waits at these listeners.
const OPERATORS_SHARE: u64 = 4;

/// The most that is read of a control group's file. The kernel's are far shorter.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A limit of so many bytes is none: version 1 writes the largest number that a page counter holds, which differs between
/// kernels, and no machine has an exbibyte.
const UNLIMITED: u64 = 1 << 60;

/// What armiger may use of the machine that it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors, at least 1: those that the process may run on, or the control group's quota if that is less.
    pub processors: usize,
    /// The control group's memory limit in bytes. `None`: no limit but the machine's own.
    pub memory: Option<u64>,
    /// How many file descriptors the process may have open. `None`: no limit.
    pub files: Option<u64>,
}

impl Machine {
    /// Asks the system. What it does not tell counts as not limited.
    pub fn detect() -> Self {
        Self {
            // On Linux this is the smaller of the affinity mask and the control group's CPU quota, of version 2 and 1,
            // rounded down and at least 1 (documentation of `available_parallelism`, "Limitations"), so `cpu.max` needs
            // no reader of our own. A container without a CPU limit has no quota: it is told all of the node's.
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_limit(Path::new("/")),
            files: getrlimit(Resource::Nofile).current,
        }
    }

    /// Raises the soft limit of open files to the hard one. The soft one is for programs that use select(2), which cannot
    /// take larger descriptors; there is none of that here, and no child process.
    ///
    /// # Errors
    /// The system refused.
    pub fn raise_files() -> io::Result<()> {
        let limit = getrlimit(Resource::Nofile);
        Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
    }

    /// The most file descriptors that may be open for a client's connection to be served. What is above is for connections
    /// to upstreams, for operators and for files: clients alone can never take the last one.
    pub fn client_files(&self) -> Option<u64> {
        self.files.map(|files| files.saturating_sub((files / RESERVED_SHARE).max(RESERVED_LEAST)).max(1))
    }

    /// The most file descriptors that may be open for a connection to an upstream to be made. What is above is for operators
    /// and files: requests alone can never take the last one.
    pub fn upstream_files(&self) -> Option<u64> {
        self.files.map(|files| files.saturating_sub(kept(files)).max(1))
    }

    /// How many connections each of the two listeners for operators may have: `most`, or as many as leave half of what is kept
    /// for operators and files to files.
    pub fn operators_max(&self, most: u32) -> u32 {
        let Some(files) = self.files else { return most };
        u32::try_from(kept(files) / OPERATORS_SHARE).unwrap_or(u32::MAX).min(most)
    }

    /// How many connections each of so many listeners may have open where the user named no number: `most`, or as many
    /// as half of the memory carries, but never fewer than 64.
    pub fn connections_max(&self, most: u32, listeners: usize) -> u32 {
        let Some(memory) = self.memory else { return most };
        let places = memory / CONNECTIONS_SHARE / CONNECTION_BYTES / listeners.max(1) as u64;
        u32::try_from(places).unwrap_or(u32::MAX).max(CONNECTIONS_LEAST).min(most)
    }
}

impl Machine {
    /// How much may be stored where the user named no number: `most`, or an eighth of the memory.
    pub fn cache_bytes(&self, most: u64) -> u64 {
        self.memory.map_or(most, |memory| (memory / CACHE_SHARE).min(most))
    }

    /// How many bytes answers may hold that one of so many workers reads in large pieces: 16 MiB, or its part of a sixteenth
    /// of the memory. Beyond it, answers are read in pieces for which there is room in what a connection may hold.
    pub fn large_reads(&self, workers: usize) -> usize {
        self.per_worker(workers, LARGE_READS_SHARE, LARGE_READS_MOST)
    }

    /// How many bytes the HTTP/2 clients of one of so many workers may send ahead of who reads them: 64 MiB, or its part of an
    /// eighth of the memory.
    pub fn upload_windows(&self, workers: usize) -> usize {
        self.per_worker(workers, UPLOAD_WINDOWS_SHARE, UPLOAD_WINDOWS_MOST)
    }

    /// `most`, or the part that one of so many workers has of a share of the memory.
    fn per_worker(&self, workers: usize, share: u64, most: u64) -> usize {
        let part = |memory: u64| memory / share / workers.max(1) as u64;
        let bytes = self.memory.map_or(most, |memory| part(memory).min(most));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// How many of the file descriptors are for operators and files alone.
fn kept(files: u64) -> u64 {
    (files / KEPT_SHARE).clamp(KEPT_LEAST, KEPT_MOST)
}

/// The memory limit in bytes that holds for this process: the least of its control group and those above.
///
/// `root` is the file system's root, so that tests can give one of their own. Both versions are asked, for on a hybrid
/// machine the memory controller may belong to either.
fn memory_limit(root: &Path) -> Option<u64> {
    let groups = read(&root.join("proc/self/cgroup"))?;
    let tree = root.join("sys/fs/cgroup");
    groups
        .lines()
        .filter_map(|line| {
            let (controllers, group) = membership(line)?;
            if controllers.is_empty() {
                // On a hybrid machine version 2 is mounted beside the controllers of version 1.
                let mounts = [tree.clone(), tree.join("unified")];
                mounts.iter().filter_map(|mount| least(mount, group, "memory.max")).min()
            } else if controllers.split(',').any(|controller| controller == "memory") {
                least(&tree.join("memory"), group, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

/// The controllers and the group's path in a line of `/proc/self/cgroup`, `ID:CONTROLLERS:PATH` (cgroups(7)). Version 2
/// has the ID 0 and no controllers.
fn membership(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

/// The least limit in the files of this name, from the group up to where its tree is mounted.
///
/// A container often sees its own group mounted as the root while the path still names the host's: then only the last
/// step finds a file.
fn least(mount: &Path, group: &str, file: &str) -> Option<u64> {
    // `..` stands for groups outside of the namespace, which cannot be seen.
    let steps = Path::new(group).components().filter(|step| matches!(step, Component::Normal(_)));
    let group: PathBuf = std::iter::once(mount.as_os_str()).chain(steps.map(|step| step.as_os_str())).collect();
    let groups = group.ancestors().take_while(|group| group.starts_with(mount));
    groups.filter_map(|group| limit(&read(&group.join(file))?)).min()
}

/// A limit as the kernel writes it: bytes, or `max` for none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit that a file system with these files tells.
    fn limit_of(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files.iter().chain(&[("proc/self/cgroup", groups)]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        memory_limit(root.path())
    }

    #[test]
    fn the_least_limit_on_the_way_up_holds() {
        let pod = "sys/fs/cgroup/kubepods/pod1/memory.max";
        let container = "sys/fs/cgroup/kubepods/pod1/abc/memory.max";
        let groups = "0::/kubepods/pod1/abc\n";
        for (files, limit) in [
            (&[(container, "134217728\n"), (pod, "268435456\n")][..], Some(128 << 20)),
            (&[(container, "268435456\n"), (pod, "134217728\n")], Some(128 << 20)),
            (&[(container, "max\n"), (pod, "134217728\n")], Some(128 << 20)),
            (&[(container, "max\n"), (pod, "max\n")], None),
            (&[], None),
            // Above the mount is no control group.
            (&[("sys/fs/memory.max", "1\n")], None),
        ] {
            assert_eq!(limit_of(groups, files), limit, "{files:?}");
        }
    }

    #[test]
    fn a_container_finds_its_limit_however_its_group_is_named() {
        let file = ("sys/fs/cgroup/memory.max", "134217728\n");
        for groups in ["0::/\n", "0::/kubepods/pod1/abc\n", "0::/../../other\n", "0::/../..\n"] {
            assert_eq!(limit_of(groups, &[file]), Some(128 << 20), "{groups:?}");
        }
    }

    #[test]
    fn version_1_and_hybrid_machines_tell_too() {
        const NONE: &str = "9223372036854771712\n";
        let mount = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        let own = "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes";
        let unified = "sys/fs/cgroup/unified/docker/abc/memory.max";
        for (groups, files, limit) in [
            ("5:memory:/docker/abc\n", &[(own, "67108864\n"), (mount, NONE)][..], Some(64 << 20)),
            ("5:memory:/docker/abc\n", &[(mount, "67108864\n")], Some(64 << 20)),
            ("5:cpu,memory:/docker/abc\n", &[(own, "67108864\n")], Some(64 << 20)),
            ("5:memory:/docker/abc\n", &[(own, NONE), (mount, NONE)], None),
            ("5:name=memory:/docker/abc\n4:cpu:/\n", &[(own, "1048576\n")], None),
            ("5:memory:/\n0::/docker/abc\n", &[(mount, NONE), (unified, "67108864\n")], Some(64 << 20)),
        ] {
            assert_eq!(limit_of(groups, files), limit, "{groups:?} {files:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_counts_as_no_limit() {
        for text in ["", "\n", "-1", "12 KiB", "0x10", "99999999999999999999999", "1\n2"] {
            assert_eq!(limit_of("0::/\n", &[("sys/fs/cgroup/memory.max", text)]), None, "{text:?}");
        }
        for groups in ["", "\n", "::", "0:", "0", "nonsense", "0::\n:::", "0::/a\0b\n"] {
            assert_eq!(limit_of(groups, &[]), None, "{groups:?}");
        }
        assert_eq!(memory_limit(Path::new("/nowhere")), None);
    }

    #[test]
    fn connections_fit_into_half_of_the_memory() {
        for (memory, listeners, connections) in [
            (None, 1, 10_000),
            (None, 5, 10_000),
            (Some(8 << 30), 1, 10_000),
            (Some(128 << 20), 1, 2048),
            (Some(128 << 20), 2, 1024),
            (Some(128 << 20), 0, 2048),
            (Some(32 << 20), 1, 512),
            (Some(1 << 20), 1, 64),
            (Some(128 << 20), 1000, 64),
            (Some(0), 1, 64),
            (Some(u64::MAX), 1, 10_000),
        ] {
            let machine = Machine { processors: 1, memory, files: None };
            assert_eq!(machine.connections_max(10_000, listeners), connections, "{memory:?} {listeners}");
        }
        let machine = Machine { processors: 1, memory: Some(1 << 20), files: None };
        assert_eq!(machine.connections_max(10, 1), 10, "never more than the most");
    }

    #[test]
    fn what_is_read_ahead_takes_a_small_share_of_the_memory() {
        for (memory, workers, down, up) in [
            (None, 1, 16 << 20, 64 << 20),
            (None, 64, 16 << 20, 64 << 20),
            (Some(128 << 20), 2, 4 << 20, 8 << 20),
            (Some(128 << 20), 0, 8 << 20, 16 << 20),
            (Some(u64::MAX), 1, 16 << 20, 64 << 20),
            (Some(0), 1, 0, 0),
        ] {
            let machine = Machine { processors: 1, memory, files: None };
            assert_eq!(machine.large_reads(workers), down, "{memory:?} {workers}");
            assert_eq!(machine.upload_windows(workers), up, "{memory:?} {workers}");
        }
    }

    #[test]
    fn clients_upstreams_and_operators_leave_file_descriptors_to_others() {
        for (files, clients, upstreams, operators) in [
            (None, None, None, 64),
            (Some(1_048_576), Some(786_432), Some(1_048_320), 64),
            (Some(4096), Some(3072), Some(3840), 64),
            (Some(1024), Some(768), Some(960), 16),
            (Some(128), Some(96), Some(120), 2),
            (Some(64), Some(48), Some(56), 2),
            (Some(32), Some(16), Some(24), 2),
            (Some(8), Some(1), Some(1), 2),
            (Some(0), Some(1), Some(1), 2),
        ] {
            let machine = Machine { processors: 1, memory: None, files };
            assert_eq!((machine.client_files(), machine.upstream_files()), (clients, upstreams), "{files:?}");
            assert_eq!(machine.operators_max(64), operators, "{files:?}");
        }
    }

    #[test]
    fn this_machine_has_a_processor() {
        let machine = Machine::detect();

        assert!(machine.processors >= 1, "{machine:?}");
        assert!(machine.memory.is_none_or(|bytes| bytes > 1 << 20), "{machine:?}");
    }
}
