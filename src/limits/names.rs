//! What keys are called that were refused lately, so that operators see whom a limit hits. A bounded few: buckets
//! themselves know hashes only.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Names that are kept of one limit.
const NAMES_MAX: usize = 1024;

/// The longest name that is kept whole, in bytes.
const NAME_MAX: usize = 256;

/// Names by hash, the oldest of which makes room.
#[derive(Default)]
pub struct Names(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    names: HashMap<u64, Box<str>>,
    order: VecDeque<u64>,
}

impl Names {
    /// Takes a name down, unless it is known.
    pub fn note(&self, hash: u64, name: impl FnOnce() -> String) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.names.contains_key(&hash) {
            return;
        }
        if inner.order.len() >= NAMES_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.names.remove(&oldest);
        }
        let mut name = name();
        if name.len() > NAME_MAX {
            let end = (0..=NAME_MAX).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
            name.truncate(end);
            name.push('…');
        }
        inner.names.insert(hash, name.into());
        inner.order.push_back(hash);
    }

    /// What this key is called, if it is known.
    pub fn get(&self, hash: u64) -> Option<String> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.names.get(&hash).map(|name| name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_names_are_kept() {
        let names = Names::default();
        for hash in 0..NAMES_MAX as u64 + 10 {
            names.note(hash, || format!("caller {hash}"));
        }
        assert_eq!(names.get(9), None);
        assert_eq!(names.get(10).as_deref(), Some("caller 10"));
        names.note(10, || panic!("it is known"));
        names.note(1 << 40, || "ü".repeat(NAME_MAX));
        assert_eq!(names.get(1 << 40).map(|name| name.len()), Some(NAME_MAX + 3));
    }
}
