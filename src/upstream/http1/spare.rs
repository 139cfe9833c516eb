//! A worker's buffers that no connection uses.

use std::cell::RefCell;

use bytes::BytesMut;

use super::large::Large;
use super::receiving::READ;

/// Requests that are under way at once, and whose buffers are kept. More, and they are made anew.
const SENDING_MAX: usize = 64;

/// Answers that are here in part at once. What is waited for has no buffer.
const RECEIVING_MAX: usize = 16;

/// A worker's buffers that no connection uses. The one used last is used next: it is likely to be in the CPU's cache.
#[derive(Default)]
pub(in crate::upstream) struct Spare {
    sending: RefCell<Vec<Vec<u8>>>,
    receiving: RefCell<Vec<BytesMut>>,
    pub(super) large: Large,
}

impl Spare {
    /// Bounds what is held in large rooms at once.
    pub(in crate::upstream) fn bound_large(&self, bytes: usize) {
        self.large.bound(bytes);
    }

    /// Room for a request.
    pub(super) fn for_sending(&self) -> Vec<u8> {
        self.sending.borrow_mut().pop().unwrap_or_default()
    }

    /// Room for what there is to read.
    pub(super) fn for_receiving(&self) -> BytesMut {
        self.receiving.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes the room of a request back.
    pub(super) fn sent(&self, mut room: Vec<u8>) {
        let mut kept = self.sending.borrow_mut();
        // One that was granted but not used has none.
        if room.capacity() > 0 && kept.len() < SENDING_MAX {
            room.clear();
            kept.push(room);
        }
    }

    /// Takes the room of an answer back.
    pub(super) fn received(&self, mut room: BytesMut) {
        let mut kept = self.receiving.borrow_mut();
        if kept.len() < RECEIVING_MAX {
            room.clear();
            // From its start again, if nobody has any of it any more: the same few lines are written to each time. What somebody
            // has stays untouched, and the rest is used up first.
            let _is_all = room.try_reclaim(READ);
            kept.push(room);
        }
    }

    /// What is left for large rooms.
    #[cfg(test)]
    pub(super) fn large_left(&self) -> usize {
        self.large.left()
    }

    /// How many rooms for answers are in nobody's use.
    #[cfg(test)]
    pub(super) fn rooms(&self) -> usize {
        self.receiving.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_into_last_is_read_into_next_from_its_start() {
        let spare = Spare::default();
        let mut room = spare.for_receiving();
        room.reserve(READ);
        room.extend_from_slice(b"an answer");
        let start = room.as_ptr();
        drop(room.split());
        assert_ne!(room.as_ptr(), start);
        spare.received(room);
        let room = spare.for_receiving();
        assert_eq!((room.as_ptr(), room.len()), (start, 0));
        assert!(room.capacity() >= READ);
    }

    #[test]
    fn what_somebody_still_has_is_not_written_over() {
        let spare = Spare::default();
        let mut room = BytesMut::with_capacity(READ);
        room.extend_from_slice(b"an answer");
        let held = room.split().freeze();
        spare.received(room);
        let mut room = spare.for_receiving();
        room.extend_from_slice(b"another 1");
        assert_eq!(held, b"an answer"[..]);
    }

    #[test]
    fn only_so_many_are_kept() {
        let spare = Spare::default();
        for _ in 0..2 * SENDING_MAX {
            spare.sent(Vec::with_capacity(8));
            spare.received(BytesMut::with_capacity(8));
            spare.sent(Vec::new());
        }
        assert_eq!((spare.sending.borrow().len(), spare.receiving.borrow().len()), (SENDING_MAX, RECEIVING_MAX));
    }
}
