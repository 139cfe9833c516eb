//! What large rooms to read into may hold together, for all answers of a worker.
//!
//! A room grows because reads fill it, which says nothing of whether the client takes what was read: it may stop at any time,
//! and what it was to get waits in memory. A few hundred such clients would hold more than a small container has, if each had
//! a large room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// How much large rooms hold together if nobody says: 64 of the largest.
pub(in crate::upstream) const LARGE_BYTES_MAX: usize = 16 << 20;

/// What is left for large rooms. It is counted by one thread; others only give back, when they are done with a piece.
#[derive(Clone, Debug)]
pub(super) struct Large(Arc<AtomicUsize>);

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(LARGE_BYTES_MAX)))
    }
}

impl Large {
    /// Bounds what large rooms hold together. To be called before there is one.
    pub(super) fn bound(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// A grant to hold a room of so many bytes, if as many are left.
    pub(super) fn grant(&self, bytes: usize) -> Option<Arc<Grant>> {
        let rest = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
        Some(Arc::new(Grant { left: self.clone(), bytes }))
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A large room. It lives as long as whoever reads into it and the pieces that were read.
#[derive(Debug)]
pub(super) struct Grant {
    left: Large,
    bytes: usize,
}

impl Grant {
    /// `piece` of the room, which holds the whole room as long as it lives.
    pub(super) fn piece(self: &Arc<Self>, piece: Bytes) -> Bytes {
        Bytes::from_owner(Piece { bytes: piece, _grant: self.clone() })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.left.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

struct Piece {
    bytes: Bytes,
    _grant: Arc<Grant>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_counts_until_its_last_piece_is_gone() {
        let large = Large::default();
        large.bound(100);
        let grant = large.grant(60).unwrap();
        assert!(large.grant(60).is_none());
        let piece = grant.piece(Bytes::from_static(b"piece"));
        drop(grant);
        assert!(large.grant(60).is_none());
        assert_eq!(piece, "piece");
        drop(piece);
        assert_eq!(large.left(), 100);
        assert!(large.grant(100).is_some());
    }
}
