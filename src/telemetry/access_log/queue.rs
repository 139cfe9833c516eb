//! Buffers on their way to the writer's thread, and what that does with them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::buffer::BUFFER_CAPACITY;
use crate::telemetry::metrics::Metrics;

/// The most buffers that wait for the writer: with those above, some 2.5 MiB.
pub(super) const QUEUE_MAX: usize = 32;

/// The most written buffers kept for reuse.
const SPARE_MAX: usize = 8;

/// Buffers on their way to the writer and back.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) state: Mutex<QueueState>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct QueueState {
    pub(super) batches: VecDeque<Batch>,
    pub(super) spare: Vec<Vec<u8>>,
    /// Nothing more is taken.
    pub(super) closed: bool,
    /// The writer is gone.
    pub(super) ended: bool,
}

pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

impl Queue {
    /// Takes the bytes and leaves an empty buffer, or leaves them alone and says no. Never waits for the destination:
    /// the lock is held for moves only.
    pub(super) fn push(&self, bytes: &mut Vec<u8>, lines: u64) -> bool {
        let mut state = lock(&self.state);
        if state.closed || state.ended || state.batches.len() >= QUEUE_MAX {
            return false;
        }
        let spare = state.spare.pop().unwrap_or_default();
        state.batches.push_back(Batch { bytes: std::mem::replace(bytes, spare), lines });
        drop(state);
        self.changed.notify_all();
        true
    }

    /// The next batch; `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<Batch> {
        let mut state = lock(&self.state);
        loop {
            if let Some(batch) = state.batches.pop_front() {
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut state = lock(&self.state);
        if state.spare.len() < SPARE_MAX && bytes.capacity() <= 2 * BUFFER_CAPACITY {
            state.spare.push(bytes);
        }
    }
}

/// Only moves happen under the lock, which leave the queue whole.
pub(super) fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that the writer is gone, even if a destination panics.
struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).ended = true;
        self.0.changed.notify_all();
    }
}

/// The writer's thread: writes batches until the queue is closed and empty.
pub(super) fn write_all(queue: &Queue, mut destination: Box<dyn Write + Send>, metrics: &Metrics) {
    let ending = Ending(queue);
    let mut torn = false;
    let mut failing = false;
    while let Some(Batch { bytes, lines }) = queue.pop() {
        match write_batch(destination.as_mut(), &bytes, lines, &mut torn) {
            Ok(()) => failing = false,
            Err((lost, error)) => {
                metrics.access_log_dropped(lost);
                // Once per failure, not per batch: the counter tells the rest.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "access log cannot be written");
                }
            }
        }
        queue.give_back(bytes);
    }
    drop(ending);
}

/// Writes a batch; an error comes with the number of lines that were not written whole.
///
/// `torn` tells that the destination stands in the middle of a line, which the next batch then ends first.
pub(in crate::telemetry) fn write_batch(
    destination: &mut dyn Write,
    bytes: &[u8],
    lines: u64,
    torn: &mut bool,
) -> Result<(), (u64, io::Error)> {
    if *torn {
        write_some(destination, b"\n").map_err(|(_, error)| (lines, error))?;
        *torn = false;
    }
    write_some(destination, bytes).map_err(|(written, error)| {
        *torn = written > 0 && bytes[written - 1] != b'\n';
        (memchr::memchr_iter(b'\n', &bytes[written..]).count() as u64, error)
    })?;
    // Bytes that the destination took and could not pass on are gone, and how many they are it does not say.
    destination.flush().map_err(|error| (lines, error))
}

/// `Write::write_all` that tells how far it came.
fn write_some(destination: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match destination.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}
