//! The one path by which a configuration comes into force: whole or not at all.
//!
//! A thread of its own, for loading and compiling may take a while: looked at are the files when the kernel hints that
//! they changed, now and then without a hint, and whenever somebody asks (SIGHUP, `POST /reload`, a rollback). All of
//! them go the same way: read what belongs together, compile it, build everything that can fail, swap one pointer,
//! retire what was.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::diff::Comparison;
use super::history::Version;
use super::running::{Parts, unbound};
use super::status::{self, Applied, Origin};
use super::watch::{self, Times, Watcher};
use super::{Checked, READ_TRIES, compiled, doubts, now, scarcity, warn_of_defaults};
use crate::config::bundle::Bundle;
use crate::config::files::{Fingerprint, Inputs};
use crate::config::issue::Report;
use crate::config::load::{Partial, load_bundle, load_stable};
use crate::keep::Keeper;
use crate::policy::Blocks;
use crate::server::admin::AdminServers;

/// Hints that come within this time of each other are one.
const HINTS_TOGETHER: Duration = Duration::from_millis(50);

/// How many lines of a report go to the log. `GET /config/status` has all.
const LINES_MAX: usize = 50;

/// What makes the thread look.
pub(super) enum Wake {
    /// Files may have changed.
    Changed,
    /// Somebody asks, and waits for what comes of it.
    Ask(Ask, oneshot::Sender<Outcome>),
    /// armiger ends.
    Stop,
}

/// What may be asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// Read the files, and put them in force if they differ from what is.
    Reload,
    /// Put this version in force again.
    Rollback(u64),
}

/// What came of it.
pub(super) enum Outcome {
    /// It is in force.
    Applied(Arc<Applied>),
    /// It is what was in force already.
    Unchanged(Arc<Applied>),
    /// It is wrong; what was in force stays.
    Refused(Box<Report>),
    /// There is no such version to go back to.
    Unknown(String),
    /// It cannot be done, whatever the files say.
    Impossible(String),
}

/// The thread's state.
pub(super) struct Reloader {
    parts: Arc<Parts>,
    admin: AdminServers,
    /// The main file. `None`: the configuration is a text that nobody can change.
    path: Option<PathBuf>,
    /// What was read last, applied or refused.
    inputs: Inputs,
    /// What is in force.
    in_force: Fingerprint,
    watcher: Watcher,
    times: Times,
    asks: VecDeque<(Ask, oneshot::Sender<Outcome>)>,
    /// What was refused last, and why, as the log has it.
    refused: Option<(Fingerprint, String)>,
}

impl Reloader {
    /// Follows the files at `path`, of which `inputs` were read last, used or not.
    pub(super) fn new(
        parts: Arc<Parts>,
        admin: AdminServers,
        path: Option<PathBuf>,
        inputs: Inputs,
        in_force: Fingerprint,
        times: Times,
        watcher: Watcher,
    ) -> Self {
        let mut reloader =
            Self { parts, admin, path, inputs, in_force, watcher, times, asks: VecDeque::new(), refused: None };
        reloader.follow();
        let files: Vec<&std::path::Path> = reloader.inputs.files().iter().map(|file| &*file.path).collect();
        for file in watch::mount_points(files) {
            tracing::warn!(
                file = %file.display(),
                "is a mount point of its own, as `subPath` makes it: it will never change. Mount its directory instead"
            );
        }
        reloader
    }

    /// Looks whenever there is reason to, until armiger ends.
    pub(super) fn run(mut self, wakes: &Receiver<Wake>) {
        self.look_on(wakes);
        let control = self.parts.control.clone();
        control.block_on(self.admin.close());
    }

    fn look_on(&mut self, wakes: &Receiver<Wake>) {
        let mut next_poll = Instant::now() + self.times.poll;
        loop {
            while let Some((ask, reply)) = self.asks.pop_front() {
                let outcome = match ask {
                    Ask::Reload => self.reload(),
                    Ask::Rollback(version) => self.roll_back(version),
                };
                // Whoever asked may have gone; what was asked for is done all the same.
                let _ = reply.send(outcome);
            }
            match wakes.recv_timeout(next_poll.saturating_duration_since(Instant::now())) {
                Ok(Wake::Ask(ask, reply)) => self.asks.push_back((ask, reply)),
                Ok(Wake::Changed) => {
                    if self.gather(wakes).is_none() {
                        return;
                    }
                    self.follow();
                    if self.inputs.is_unchanged() {
                        // Some other file in the directory, or a change too quick for the file system's clock: the next
                        // poll, which comes soon, reads to be sure.
                        next_poll = next_poll.min(Instant::now() + self.times.patience);
                    } else if self.look(wakes).is_none() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    next_poll = Instant::now() + self.times.poll;
                    self.follow();
                    let is_same = self.inputs.is_unchanged() && self.inputs.has_same_content();
                    if !is_same && self.look(wakes).is_none() {
                        return;
                    }
                }
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Reads files that changed, once they have come to rest. `None`: armiger ends.
    fn look(&mut self, wakes: &Receiver<Wake>) -> Option<()> {
        if self.path.is_none() {
            return Some(());
        }
        let (begun, seen) = (Instant::now(), self.inputs.fingerprint().clone());
        loop {
            self.settle(wakes, begun)?;
            let read_at = Instant::now();
            let Some(partial) = self.read() else { return Some(()) };
            if partial.inputs.is_starved() {
                return Some(());
            }
            if self.inputs.is_incomplete() && begun.elapsed() < self.times.patience && self.asks.is_empty() {
                // An editor that cuts or deletes a file is about to write it.
                continue;
            }
            if *self.inputs.fingerprint() == self.in_force {
                self.unchanged(seen != self.in_force);
            } else if *self.inputs.fingerprint() != seen {
                self.apply(partial, Origin::Files, read_at);
            }
            return Some(());
        }
    }

    /// Takes further hints together with the first. A directory with much going on costs a few looks a second and no more.
    fn gather(&mut self, wakes: &Receiver<Wake>) -> Option<()> {
        let until = Instant::now() + self.times.quiet.min(HINTS_TOGETHER);
        loop {
            match wakes.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Wake::Changed) => {}
                Ok(Wake::Ask(ask, reply)) => {
                    self.asks.push_back((ask, reply));
                    return Some(());
                }
                Err(RecvTimeoutError::Timeout) => return Some(()),
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits until the files have not changed for a while.
    fn settle(&mut self, wakes: &Receiver<Wake>, begun: Instant) -> Option<()> {
        let (mut last, mut since) = (self.inputs.look_again(), Instant::now());
        loop {
            let left = self.times.quiet.saturating_sub(since.elapsed());
            if left.is_zero() || begun.elapsed() >= self.times.quiet_max {
                return Some(());
            }
            match wakes.recv_timeout(left) {
                Ok(Wake::Ask(ask, reply)) => {
                    self.asks.push_back((ask, reply));
                    return Some(());
                }
                Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            }
            let now = self.inputs.look_again();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// Reads the files, whatever they are. `None`: there are none.
    fn read(&mut self) -> Option<Partial<Blocks>> {
        let (partial, is_stable) = load_stable::<Blocks>(self.path.as_ref()?, READ_TRIES);
        if !is_stable {
            tracing::warn!("the configuration's files change faster than they can be read");
        }
        if partial.inputs.is_starved() {
            // It says nothing of the files. They still differ from what was read before, so that the next poll tries again.
            tracing::warn!("the configuration's files could not be read: no file descriptor is left. Tried again soon");
            self.parts.metrics.watch_failed();
            return Some(partial);
        }
        self.inputs = partial.inputs.clone();
        self.follow();
        Some(partial)
    }

    fn follow(&mut self) {
        if self.path.is_none() {
            return;
        }
        let directories = self.inputs.watched().into_iter().collect();
        self.watcher.follow(&directories);
        self.parts.status.watching(directories.iter().map(|path| path.display().to_string()).collect());
    }

    // === what may be asked for ===

    fn reload(&mut self) -> Outcome {
        let begun = Instant::now();
        let seen = self.inputs.fingerprint().clone();
        let Some(partial) = self.read() else {
            return Outcome::Impossible("the configuration is part of the program: there is no file to read".into());
        };
        if partial.inputs.is_starved() {
            return Outcome::Impossible("the files could not be read: no file descriptor is left".into());
        }
        if *self.inputs.fingerprint() == self.in_force {
            tracing::info!("reload asked for: unchanged");
            self.unchanged(seen != self.in_force);
            return Outcome::Unchanged(self.parts.status.in_force());
        }
        self.apply(partial, Origin::Files, begun)
    }

    /// The files are what is in force. `was_other`: they were not, for a while.
    fn unchanged(&mut self, was_other: bool) {
        self.refused = None;
        if was_other {
            tracing::info!("the configuration's files are what is in force again");
            self.parts.status.mended();
            self.parts.metrics.reload_mended();
        }
    }

    fn roll_back(&mut self, version: u64) -> Outcome {
        let begun = Instant::now();
        let found = self.parts.history().files(version);
        match found {
            Err(why) => Outcome::Unknown(why),
            Ok(bundle) => self.apply(load_bundle(&bundle), Origin::Rollback(version), begun),
        }
    }

    // === the path ===

    fn apply(&mut self, partial: Partial<Blocks>, origin: Origin, begun: Instant) -> Outcome {
        let parts = self.parts.clone();
        if parts.drain.is_over_for_reload() {
            const WHY: &str = "armiger drains and listens no longer, so the configuration stays as it is: start armiger anew, and \
                the files are in force";
            // A signal or an edit has nobody else who is told.
            tracing::warn!("{WHY}");
            return Outcome::Impossible(WHY.into());
        }
        let fingerprint = partial.inputs.fingerprint().clone();
        let old = parts.live.load();
        let checked = compiled(partial, &parts.machine, old.version + 1, &parts.metrics, Keeper::after(&old.kept));
        let Checked { snapshot, fates, source, inputs } = match checked {
            Ok(checked) => checked,
            Err(report) => return self.refuse(fingerprint, report),
        };
        let snapshot = Arc::new(snapshot);
        let prepared = match parts.prepare(&snapshot, &self.admin) {
            Ok(prepared) => prepared,
            Err(errors) => return self.refuse(fingerprint, Box::new(source.report(unbound(errors, &snapshot)))),
        };

        // From here on nothing can fail.
        parts.commit(prepared, &snapshot, &mut self.admin);
        self.in_force = fingerprint;
        self.refused = None;
        let applied = Arc::new(Applied {
            version: snapshot.version,
            hash: snapshot.hash.clone(),
            time: now(),
            origin,
            took: begun.elapsed(),
            comparison: Comparison::of(&old, &snapshot, fates),
        });
        parts.tell(&applied, inputs.bundle());
        // What was said of the one before is known.
        if let Some(scarcity) = scarcity(&snapshot, &parts.machine)
            && super::scarcity(&old, &parts.machine).as_ref() != Some(&scarcity)
        {
            tracing::warn!("{scarcity}");
        }
        warn_of_defaults(&snapshot);
        let known = doubts(&old);
        doubts(&snapshot).iter().filter(|doubt| !known.contains(doubt)).for_each(|doubt| tracing::warn!("{doubt}"));
        parts.refresh();
        // The last one to hold a large snapshot takes a while to take it apart. Better here than on a worker.
        drop(old);
        Outcome::Applied(applied)
    }

    fn refuse(&mut self, fingerprint: Fingerprint, report: Box<Report>) -> Outcome {
        let refused = (fingerprint, report.text(false));
        if self.refused.as_ref() == Some(&refused) {
            // Whoever asks sees the report, and the log has it.
            tracing::info!("the configuration is refused as before, and the one in force stays");
        } else {
            tracing::error!("the configuration was refused, and the one in force stays:\n{}", refused.1);
            self.refused = Some(refused);
        }
        self.parts.metrics.reload_refused();
        self.parts.status.refused(now(), report.clone());
        Outcome::Refused(report)
    }
}

impl Parts {
    /// Says what came into force to everybody who wants to know.
    fn tell(&self, applied: &Arc<Applied>, bundle: &Bundle) {
        self.metrics.reload_took(applied.took);
        match applied.origin {
            Origin::Rollback(_) => self.metrics.reload_rolled_back(applied.time),
            Origin::Files | Origin::LastGood => self.metrics.reload_applied(applied.time),
        }
        let lines = applied.comparison.lines();
        tracing::info!(
            version = applied.version,
            hash = short(&applied.hash),
            origin = %applied.origin,
            changes = lines.len(),
            took = ?applied.took,
            "the configuration is in force"
        );
        for line in lines.iter().take(LINES_MAX) {
            tracing::info!("  {line}");
        }
        if lines.len() > LINES_MAX {
            tracing::info!("  and {} more: see GET /config/status", lines.len() - LINES_MAX);
        }
        self.note(applied, lines, bundle);
    }

    /// Notes what is in force, for those who ask later and for later starts.
    pub(super) fn note(&self, applied: &Arc<Applied>, changes: Vec<String>, bundle: &Bundle) {
        self.metrics.config_in_force(applied.version, &applied.hash);
        self.status.applied(applied.clone());
        self.history().push(Version {
            version: applied.version,
            hash: applied.hash.clone(),
            time: status::time(applied.time),
            origin: applied.origin.to_string(),
            changes,
            bytes: bundle.len(),
            files: Some(Arc::new(bundle.clone())),
        });
        if let Some(directory) = &self.last_good
            && applied.origin != Origin::LastGood
            && !bundle.is_empty()
            && let Err(error) = bundle.save(directory)
        {
            tracing::warn!(%error, directory = %directory.display(), "cannot keep the configuration for `--last-good`");
        }
    }
}

/// Enough of a hash to tell it from another.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
