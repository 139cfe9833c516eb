//! A memory that a reload left: it is told what it was not told yet, so that those who stay with it hear of it.

use std::collections::VecDeque;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;

use super::known::{Known, asking};
use super::tell::{Told, changed, purged};
use super::{Memory, PLACES_TOLD, Shared, TELL_WAIT, locked};
use crate::policy::cache::invalid::Digest;
use crate::policy::cache::purge::What;
use crate::telemetry::metrics::SecondMetrics;

/// A memory that a reload left, with what it was not told.
pub(super) struct Left {
    memory: Memory,
    known: Known,
    connection: Option<Arc<MultiplexedConnection>>,
    purges: VecDeque<(What, bool)>,
    changed: Vec<(Digest, bool)>,
    metrics: SecondMetrics,
}

impl Shared {
    /// Leaves a memory for another one. What is not told yet is to be told to both.
    pub(super) fn leave(&self, memory: &Memory) {
        let purges = locked(&self.untold).clone();
        let changed = locked(&self.changed).leave();
        let connection = self.client.leave();
        let left = Left {
            memory: memory.clone(),
            known: self.known(),
            connection,
            purges,
            changed,
            metrics: self.metrics.clone(),
        };
        if left.len() > 0 {
            *locked(&self.left) = Some(left);
        }
        // The witness stays: what was purged by way of the one must not be read from the other.
        if let Some(witness) = &mut *locked(&self.witness) {
            witness.is_of_another = true;
        }
        *locked(&self.clock) = None;
        self.bell.notify_one();
    }

    /// Tells a memory that was left what it was not told, as far as that takes no long time.
    pub(super) async fn part(&self) {
        let Some(mut left) = locked(&self.left).take() else { return };
        // What is not told then is reported by its drop.
        let _ = tokio::time::timeout(TELL_WAIT, self.tell_left(&mut left)).await;
    }

    async fn tell_left(&self, left: &mut Left) -> Option<()> {
        let mut connection = left.connection.as_deref()?.clone();
        while let Some(purge) = left.purges.front() {
            let mut invocation = asking(&self.tell, &left.memory, left.known);
            purged(&self.own, purge, &mut invocation);
            invocation.invoke_async::<Told>(&mut connection).await.ok()??;
            left.purges.pop_front();
        }
        let life = left.known.clock?.life;
        while !left.changed.is_empty() {
            let rest = left.changed.len().saturating_sub(PLACES_TOLD);
            let mut invocation = asking(&self.tell, &left.memory, left.known);
            changed(life, &left.changed[rest..], &mut invocation);
            invocation.invoke_async::<Told>(&mut connection).await.ok()??;
            left.changed.truncate(rest);
        }
        Some(())
    }
}

impl Left {
    fn len(&self) -> usize {
        self.purges.len() + self.changed.len()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        report(&self.memory, self.len(), &self.metrics);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let untold = locked(&self.untold).len() + locked(&self.changed).len();
        report(&self.plan.load().memory, untold, &self.metrics);
    }
}

/// Reports what a memory will not be told any more.
fn report(memory: &Memory, untold: usize, metrics: &SecondMetrics) {
    if untold > 0 {
        let url = &memory.url;
        tracing::warn!(
            url,
            untold,
            "redis was not told of all purges and unsafe requests: who stays with it may not know"
        );
        metrics.untold(untold);
    }
}
