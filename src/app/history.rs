//! The configurations that were in force, the latest last, each ready to be put in force again.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

/// How many are kept.
const VERSIONS_MAX: usize = 20;

/// How many bytes of files are kept for going back. The oldest are given up first; they stay in the list.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A configuration that was put in force.
pub(super) struct Version<B> {
    /// Its number.
    pub(super) version: u64,
    /// The hash of its files.
    pub(super) hash: String,
    /// When, in RFC 3339.
    pub(super) time: String,
    /// Where it came from: `file`, `rollback to 3`, `last good`.
    pub(super) origin: String,
    /// What it changed, a line each.
    pub(super) changes: Vec<String>,
    /// Its files, as long as there is room for them.
    pub(super) files: Option<Arc<B>>,
    /// How large they are.
    pub(super) bytes: usize,
}

/// The versions that were in force.
pub(super) struct History<B>(VecDeque<Version<B>>);

impl<B> History<B> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn push(&mut self, version: Version<B>) {
        if self.0.len() == VERSIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(version);
        let mut room = BYTES_MAX;
        for version in self.0.iter_mut().rev() {
            match room.checked_sub(version.bytes) {
                Some(left) if version.files.is_some() => room = left,
                _ => version.files = None,
            }
        }
    }

    /// The files of a version. `Err` tells why there are none.
    pub(super) fn files(&self, version: u64) -> Result<Arc<B>, String> {
        let found = self.0.iter().find(|known| known.version == version);
        let known = || self.0.iter().filter(|known| known.files.is_some()).map(|known| known.version.to_string());
        match found.map(|found| &found.files) {
            Some(Some(files)) => Ok(files.clone()),
            Some(None) => Err(format!("the files of version {version} were given up to save memory")),
            None => Err(format!("there is no version {version}; there is {}", known().collect::<Vec<_>>().join(", "))),
        }
    }

    /// For operators, the latest first.
    pub(super) fn shown(&self) -> Value {
        let shown = |known: &Version<B>| {
            json!({
                "version": known.version,
                "hash": known.hash,
                "time": known.time,
                "origin": known.origin,
                "can_roll_back": known.files.is_some(),
                "changes": known.changes,
            })
        };
        self.0.iter().rev().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u64, bytes: usize) -> Version<&'static str> {
        Version {
            version,
            hash: "ab".into(),
            time: "2026-01-01T00:00:00Z".into(),
            origin: "file".into(),
            changes: Vec::new(),
            files: Some(Arc::new("text")),
            bytes,
        }
    }

    #[test]
    fn the_last_twenty_are_kept() {
        let mut history = History::new();
        (1..=25).for_each(|number| history.push(version(number, 1)));
        assert!(history.files(25).is_ok() && history.files(6).is_ok());
        assert!(history.files(5).unwrap_err().starts_with("there is no version 5; there is 6, 7, "));
        assert_eq!(history.shown().as_array().unwrap().len(), 20);
        assert_eq!(history.shown()[0]["version"], 25);
    }

    #[test]
    fn large_files_of_old_versions_are_given_up() {
        let mut history = History::new();
        (1..=3).for_each(|number| history.push(version(number, BYTES_MAX / 2)));
        assert!(history.files(3).is_ok() && history.files(2).is_ok());
        assert!(history.files(1).unwrap_err().contains("given up"));
        assert_eq!(history.shown()[2]["can_roll_back"], false);
    }
}
