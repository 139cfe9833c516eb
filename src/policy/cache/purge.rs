//! What was purged. A purge looks for nothing: it notes its target and the epoch that begins with it, and whatever was asked
//! for in an earlier epoch is dead when it is met, be it stored or still on its way.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::key::Target;

/// The most purges that are remembered one by one. The oldest beyond makes everything older than itself dead.
pub const RECORDS_MAX: usize = 16_384;

/// The same of prefixes, which are looked at one after the other.
const PREFIXES_MAX: usize = 128;

/// What to purge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum What {
    /// All that is stored of one URL.
    Exact {
        /// Without port.
        host: String,
        /// In normal form.
        path: String,
        /// As keys have it.
        query: Option<String>,
    },
    /// All whose path begins with this.
    Prefix {
        /// Of this host only, without port.
        host: Option<String>,
        /// In normal form.
        path: String,
    },
    /// All with this tag.
    Tag(String),
    /// All.
    All,
}

/// What became of something stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Nobody purged it.
    Good,
    /// It counts as stale.
    Stale,
    /// It must not be used any more.
    Dead,
}

/// The epochs of the last purges of one target.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    hard: u64,
    soft: u64,
}

impl Mark {
    fn note(&mut self, epoch: u64, is_soft: bool) {
        let place = if is_soft { &mut self.soft } else { &mut self.hard };
        *place = epoch;
    }

    fn of(self, epoch: u64) -> Fate {
        if self.hard > epoch {
            Fate::Dead
        } else if self.soft > epoch {
            Fate::Stale
        } else {
            Fate::Good
        }
    }

    fn last(self) -> u64 {
        self.hard.max(self.soft)
    }
}

/// All purges that still matter.
#[derive(Default)]
pub struct Purges {
    latest: AtomicU64,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    all: Mark,
    exact: HashMap<What, Mark>,
    tags: HashMap<String, Mark>,
    prefixes: Vec<(Option<String>, String, Mark)>,
    /// In the order of their epochs; a target that was purged again stands there twice.
    order: VecDeque<(u64, What)>,
}

impl Purges {
    /// The epoch that it is now.
    pub fn epoch(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// Purges. What is asked for from now on is of a later epoch.
    pub fn purge(&self, what: What, is_soft: bool) {
        let mut records = self.records();
        let epoch = self.latest.load(Ordering::Relaxed) + 1;
        records.note(what, epoch, is_soft);
        // Published last: whoever sees the epoch finds its record.
        self.latest.store(epoch, Ordering::Release);
    }

    /// Notes a purge that somebody else numbered: later than all before.
    pub fn note_at(&self, what: What, epoch: u64, is_soft: bool) {
        let mut records = self.records();
        records.note(what, epoch, is_soft);
        self.latest.store(epoch, Ordering::Release);
    }

    /// Begins anew at `epoch`: of purges before nothing is known, so that all that was asked for before it is dead.
    pub fn begin(&self, epoch: u64) {
        let mut records = self.records();
        *records = Records { all: Mark { hard: epoch, soft: 0 }, ..Records::default() };
        self.latest.store(epoch, Ordering::Release);
    }

    /// What became of something that was asked for at `epoch`.
    pub fn fate(&self, epoch: u64, target: Option<&Target<'_>>, tags: &[Box<str>]) -> Fate {
        if self.epoch() == epoch { Fate::Good } else { self.records().fate(epoch, target, tags) }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    fn note(&mut self, what: What, epoch: u64, is_soft: bool) {
        match &what {
            What::All => {
                self.all.note(epoch, is_soft);
                if !is_soft {
                    // All that the records are about is dead.
                    self.exact.clear();
                    self.tags.clear();
                    self.prefixes.clear();
                    self.order.clear();
                }
                return;
            }
            What::Exact { .. } => self.exact.entry(what.clone()).or_default().note(epoch, is_soft),
            What::Tag(tag) => self.tags.entry(tag.clone()).or_default().note(epoch, is_soft),
            What::Prefix { host, path } => {
                match self.prefixes.iter_mut().find(|(known, begin, _)| known == host && begin == path) {
                    Some((_, _, mark)) => mark.note(epoch, is_soft),
                    None => {
                        let mut mark = Mark::default();
                        mark.note(epoch, is_soft);
                        self.prefixes.push((host.clone(), path.clone(), mark));
                    }
                }
            }
        }
        self.order.push_back((epoch, what));
        while self.order.len() > RECORDS_MAX || self.prefixes.len() > PREFIXES_MAX {
            self.forget_oldest();
        }
    }

    /// Lets go of the oldest record. What it is about is older than it, so that all that is older is declared dead instead.
    fn forget_oldest(&mut self) {
        let Some((epoch, what)) = self.order.pop_front() else { return };
        let is_last = |mark: Option<&Mark>| mark.is_some_and(|mark| mark.last() == epoch);
        let is_gone = match &what {
            What::Exact { .. } => is_last(self.exact.get(&what)) && self.exact.remove(&what).is_some(),
            What::Tag(tag) => is_last(self.tags.get(tag)) && self.tags.remove(tag).is_some(),
            What::Prefix { host, path } => {
                let place = self
                    .prefixes
                    .iter()
                    .position(|(known, begin, mark)| known == host && begin == path && mark.last() == epoch);
                place.map(|place| self.prefixes.remove(place)).is_some()
            }
            What::All => false,
        };
        if is_gone {
            self.all.hard = self.all.hard.max(epoch);
        }
    }

    fn fate(&self, epoch: u64, target: Option<&Target<'_>>, tags: &[Box<str>]) -> Fate {
        let mut fate = self.all.of(epoch);
        for tag in tags {
            fate = fate.max(self.tags.get(&**tag).map_or(Fate::Good, |mark| mark.of(epoch)));
        }
        let Some(target) = target else { return fate };
        if !self.exact.is_empty() {
            let what = What::Exact {
                host: target.host.to_owned(),
                path: target.path.to_owned(),
                query: target.query.map(str::to_owned),
            };
            fate = fate.max(self.exact.get(&what).map_or(Fate::Good, |mark| mark.of(epoch)));
        }
        for (host, path, mark) in &self.prefixes {
            if host.as_deref().is_none_or(|host| host == target.host) && target.path.starts_with(&**path) {
                fate = fate.max(mark.of(epoch));
            }
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(path: &str) -> What {
        What::Exact { host: "h".into(), path: path.into(), query: None }
    }

    fn target(path: &str) -> Target<'_> {
        Target { host: "h", path, query: None }
    }

    #[test]
    fn a_purge_is_about_what_was_asked_for_before_it() {
        let purges = Purges::default();
        let before = purges.epoch();
        purges.purge(exact("/a"), false);
        let after = purges.epoch();
        assert_eq!(purges.fate(before, Some(&target("/a")), &[]), Fate::Dead);
        assert_eq!(purges.fate(before, Some(&target("/b")), &[]), Fate::Good);
        assert_eq!(purges.fate(after, Some(&target("/a")), &[]), Fate::Good);
        let other = Target { query: Some("x"), ..target("/a") };
        assert_eq!(purges.fate(before, Some(&other), &[]), Fate::Good);
    }

    #[test]
    fn prefixes_tags_and_all_are_each_about_their_own() {
        for (what, path, tags, expected) in [
            (What::Prefix { host: None, path: "/a/".into() }, "/a/b", &[][..], Fate::Dead),
            (What::Prefix { host: None, path: "/a/".into() }, "/a", &[], Fate::Good),
            (What::Prefix { host: Some("h".into()), path: "/".into() }, "/x", &[], Fate::Dead),
            (What::Prefix { host: Some("other".into()), path: "/".into() }, "/x", &[], Fate::Good),
            (What::Tag("t".into()), "/x", &["s", "t"], Fate::Dead),
            (What::Tag("t".into()), "/x", &["T"], Fate::Good),
            (What::All, "/x", &[], Fate::Dead),
        ] {
            let purges = Purges::default();
            purges.purge(what.clone(), false);
            let tags: Vec<Box<str>> = tags.iter().map(|tag| Box::from(*tag)).collect();
            assert_eq!(purges.fate(0, Some(&target(path)), &tags), expected, "{what:?} {path}");
        }
    }

    #[test]
    fn a_soft_purge_makes_stale_and_a_hard_one_stays_hard() {
        let purges = Purges::default();
        purges.purge(What::Tag("t".into()), true);
        assert_eq!(purges.fate(0, None, &["t".into()]), Fate::Stale);
        purges.purge(What::Tag("t".into()), false);
        purges.purge(What::Tag("t".into()), true);
        assert_eq!(purges.fate(0, None, &["t".into()]), Fate::Dead);
        assert_eq!(purges.fate(2, None, &["t".into()]), Fate::Stale);
    }

    /// However many purges there are, none is ever forgotten and memory stays bounded.
    #[test]
    fn the_oldest_records_become_one() {
        let purges = Purges::default();
        purges.purge(exact("/first"), false);
        for number in 0..2 * RECORDS_MAX {
            purges.purge(What::Tag(number.to_string()), false);
        }
        let records = purges.records();
        assert!(records.order.len() <= RECORDS_MAX && records.tags.len() <= RECORDS_MAX && records.exact.is_empty());
        drop(records);
        assert_eq!(purges.fate(0, Some(&target("/first")), &[]), Fate::Dead);
        assert_eq!(purges.fate(0, None, &["0".into()]), Fate::Dead);
        let last = (2 * RECORDS_MAX - 1).to_string();
        assert_eq!(purges.fate(purges.epoch() - 1, None, &[last.into()]), Fate::Dead);
        assert_eq!(purges.fate(purges.epoch() - 1, None, &["0".into()]), Fate::Good);
    }

    #[test]
    fn prefixes_are_few() {
        let purges = Purges::default();
        for number in 0..2 * PREFIXES_MAX {
            purges.purge(What::Prefix { host: None, path: format!("/{number}/") }, false);
        }
        assert!(purges.records().prefixes.len() <= PREFIXES_MAX);
        assert_eq!(purges.fate(0, Some(&target("/0/x")), &[]), Fate::Dead);
    }
}
