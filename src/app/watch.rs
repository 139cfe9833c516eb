//! Who says that the files may have changed: the kernel, for the directories that they stand in.
//!
//! Directories are watched and never files: an editor's rename or a ConfigMap's swap replaces the file, and a watch on
//! it would go on watching what is gone. What the kernel says is a hint and no more; a poll finds what it does not say
//! (network file systems, a full queue), see [`Times::poll`].

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::reload::Wake;
use crate::telemetry::metrics::Metrics;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Files that changed are read once they have not changed for so long.
    pub quiet: Duration,
    /// They are read after so long even if they go on changing.
    pub quiet_max: Duration,
    /// How long a file may be missing or empty before that counts: an editor may be saving it.
    pub patience: Duration,
    /// How often files are looked at without a hint.
    pub poll: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(250),
            quiet_max: Duration::from_secs(2),
            patience: Duration::from_secs(1),
            poll: Duration::from_secs(15),
        }
    }
}

/// Watches directories.
pub(super) struct Watcher {
    kernel: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, (u64, u64)>,
    failed: BTreeSet<PathBuf>,
    metrics: Metrics,
}

impl Watcher {
    /// Sends [`Wake::Changed`] whenever something happens in a directory that is to be followed.
    pub(super) fn new(sender: SyncSender<Wake>, metrics: Metrics) -> Self {
        let counted = metrics.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            match event {
                Ok(event) if is_access(event.kind) => return,
                Ok(_) => {}
                Err(error) => {
                    counted.watch_failed();
                    tracing::debug!(%error, "the watch on the configuration's directories has lost something");
                }
            }
            // Full: a hint is on its way already, or somebody is asking.
            let _ = sender.try_send(Wake::Changed);
        };
        let kernel = notify::recommended_watcher(tell).map_err(|error| {
            metrics.watch_failed();
            tracing::warn!(%error, "changes of the configuration are found by polling only");
        });
        Self { kernel: kernel.ok(), watched: BTreeMap::new(), failed: BTreeSet::new(), metrics }
    }

    /// Watches these directories and no others. One that was replaced by another of its name is watched anew.
    pub(super) fn follow(&mut self, directories: &BTreeSet<PathBuf>) {
        let Some(kernel) = &mut self.kernel else { return };
        self.watched.retain(|path, id| {
            let stays = directories.contains(path) && identity(path) == Some(*id);
            if !stays {
                // Fails for one that is gone: its watch went with it.
                let _ = kernel.unwatch(path);
            }
            stays
        });
        self.failed.retain(|path| directories.contains(path));
        for path in directories {
            if self.watched.contains_key(path) {
                continue;
            }
            match (identity(path), kernel.watch(path, RecursiveMode::NonRecursive)) {
                (Some(id), Ok(())) => {
                    self.failed.remove(path);
                    self.watched.insert(path.clone(), id);
                }
                (_, result) => {
                    self.metrics.watch_failed();
                    if self.failed.insert(path.clone()) {
                        let error = result.err().map_or_else(|| "it is gone".into(), |error| error.to_string());
                        tracing::warn!(directory = %path.display(), error, "cannot watch; polled instead");
                    }
                }
            }
        }
    }
}

/// Reading, ours included, is no change; closing after a write is.
fn is_access(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The files that are mount points of their own, as Kubernetes' `subPath` makes them: these never change, whatever
/// becomes of the ConfigMap.
pub(super) fn mount_points<'p>(files: impl IntoIterator<Item = &'p Path>) -> Vec<&'p Path> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: BTreeSet<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let is_point = |path: &&Path| {
        std::path::absolute(path).is_ok_and(|path| path.to_str().is_some_and(|path| points.contains(path)))
    };
    files.into_iter().filter(is_point).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn watching(directory: &Path) -> (Watcher, Receiver<Wake>) {
        let (sender, receiver) = sync_channel(1);
        let mut watcher = Watcher::new(sender, Metrics::new());
        watcher.follow(&BTreeSet::from([directory.to_owned()]));
        (watcher, receiver)
    }

    #[track_caller]
    fn assert_hint(receiver: &Receiver<Wake>, what: &str) {
        assert!(matches!(receiver.recv_timeout(Duration::from_secs(10)), Ok(Wake::Changed)), "{what}");
    }

    #[test]
    fn every_way_to_change_a_file_is_a_hint_and_reading_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yaml");
        fs::write(&file, "a").unwrap();
        let (_watcher, hints) = watching(directory.path());
        let changes: [(&str, &dyn Fn()); 5] = [
            ("written in place", &|| fs::write(&file, "b").unwrap()),
            ("renamed over", &|| {
                fs::write(directory.path().join("new"), "c").unwrap();
                fs::rename(directory.path().join("new"), &file).unwrap();
            }),
            ("deleted", &|| fs::remove_file(&file).unwrap()),
            ("made", &|| fs::write(&file, "d").unwrap()),
            ("linked", &|| std::os::unix::fs::symlink("config.yaml", directory.path().join("link")).unwrap()),
        ];
        for (what, change) in changes {
            change();
            assert_hint(&hints, what);
            // What follows from the same change is no proof of the next one.
            while hints.recv_timeout(Duration::from_millis(20)).is_ok() {}
        }
        fs::read(&file).unwrap();
        assert!(hints.recv_timeout(Duration::from_millis(50)).is_err(), "reading is no change");
    }

    #[test]
    fn a_directory_that_was_replaced_is_watched_anew() {
        let directory = tempfile::tempdir().unwrap();
        let watched = directory.path().join("conf");
        fs::create_dir(&watched).unwrap();
        let (mut watcher, hints) = watching(&watched);
        fs::rename(&watched, directory.path().join("old")).unwrap();
        fs::create_dir(&watched).unwrap();
        while hints.recv_timeout(Duration::from_millis(20)).is_ok() {}

        watcher.follow(&BTreeSet::from([watched.clone()]));
        fs::write(watched.join("config.yaml"), "a").unwrap();

        assert_hint(&hints, "the new directory is watched");
    }

    #[test]
    fn a_directory_that_cannot_be_watched_is_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let (mut watcher, hints) = watching(&missing);
        assert_eq!(watcher.failed, BTreeSet::from([missing.clone()]));
        fs::create_dir(&missing).unwrap();
        watcher.follow(&BTreeSet::from([missing.clone()]));
        assert!(watcher.failed.is_empty());
        fs::write(missing.join("config.yaml"), "a").unwrap();
        assert_hint(&hints, "watched once it is there");
    }

    #[test]
    fn only_a_mount_point_is_one() {
        assert_eq!(mount_points([Path::new("/proc"), Path::new("/proc/self")]), [Path::new("/proc")]);
    }
}
