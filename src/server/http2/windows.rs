//! How much a client may send ahead of who reads it: a window for each stream, and one for all streams of its connection.
//!
//! A client can fill every window that it is given, and a slow back end lets it. What all windows of a worker come to is bounded
//! therefore: each connection gets a quarter of what is left, down to a floor that serves, if not as fast.

use std::cell::Cell;
use std::rc::Rc;

/// The most of a stream's window. A client that must wait for each window to be opened anew is as slow as that is small: curl
/// gets through about half of one in a millisecond.
const STREAM_MOST: u32 = 1024 * 1024;

/// The most of a connection's, for each of its streams.
const STREAM_SHARE: u32 = 128 * 1024;

/// The share of a connection's window that one stream may take where it is less than the most, as a divisor: so many uploads that
/// nobody reads hold up the others on their connection.
const STREAMS_STUCK: u32 = 8;

/// The least of both.
const CONNECTION_LEAST: u32 = 128 * 1024;
const STREAM_LEAST: u32 = 32 * 1024;

/// The most that a window may be (RFC 9113 §6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// The share of what is left that a connection gets, as a divisor.
const LEFT_SHARE: usize = 4;

/// What is left for windows beyond the least ones.
pub(in crate::server) struct Windows {
    left: Cell<usize>,
}

impl Windows {
    /// `bytes` for all connections of a worker together.
    pub(in crate::server) fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(bytes) })
    }

    /// The windows of a connection with at most so many streams.
    pub(super) fn open(self: &Rc<Self>, streams_max: u32) -> Opened {
        let most = STREAM_SHARE.saturating_mul(streams_max).clamp(STREAM_MOST, WINDOW_MAX);
        let left = self.left.get();
        let share = u32::try_from(left / LEFT_SHARE).unwrap_or(u32::MAX).min(most);
        let connection = share.max(CONNECTION_LEAST);
        let taken = if share > CONNECTION_LEAST { share as usize } else { 0 };
        self.left.set(left - taken);
        let stream =
            if share == most { STREAM_MOST } else { (connection / STREAMS_STUCK).clamp(STREAM_LEAST, STREAM_MOST) };
        Opened { windows: self.clone(), taken, connection, stream }
    }
}

/// The windows of a connection, until it is closed.
pub(super) struct Opened {
    windows: Rc<Windows>,
    taken: usize,
    /// Of all streams together.
    pub(super) connection: u32,
    /// Of each stream.
    pub(super) stream: u32,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.windows.left.set(self.windows.left.get() + self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn where_memory_is_plenty_the_first_connections_get_large_windows() {
        let windows = Windows::new(64 * MIB);
        for streams_max in [100, 1] {
            let opened = windows.open(streams_max);
            assert_eq!(opened.stream, STREAM_MOST);
            assert_eq!(opened.connection, (STREAM_SHARE * streams_max).max(STREAM_MOST));
        }
        assert_eq!(Windows::new(usize::MAX).open(u32::MAX).connection, WINDOW_MAX);
    }

    #[test]
    fn all_windows_together_have_a_bound_whoever_comes_and_goes() {
        let windows = Windows::new(8 * MIB);
        let mut open: Vec<Opened> = (0..1000).map(|_| windows.open(100)).collect();
        let total: usize = open.iter().map(|opened| opened.connection as usize).sum();
        assert!(total <= 8 * MIB + 1000 * CONNECTION_LEAST as usize, "{total}");
        assert!(open.is_sorted_by_key(|opened| std::cmp::Reverse(opened.connection)));
        assert!(open.iter().all(|opened| opened.stream >= STREAM_LEAST && opened.stream <= opened.connection / 4));
        assert_eq!((open[0].connection as usize, open[999].connection), (2 * MIB, CONNECTION_LEAST));

        open.truncate(10);
        open.remove(0);
        assert!(windows.open(100).connection > CONNECTION_LEAST);
        open.clear();
        assert_eq!(windows.left.get(), 8 * MIB);
        assert_eq!(Windows::new(0).open(100).connection, CONNECTION_LEAST);
    }
}
