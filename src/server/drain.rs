//! How armiger ends: announced, without hurry, and so that no request is lost.
//!
//! [`Drain`] says which [`Phase`] it is, to everybody; [`Drain::drive`] walks the phases. What a phase means to a
//! connection stands in `connection.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::listener::Listeners;
use super::worker::Workers;
use crate::config::operate;
use crate::telemetry::metrics::Metrics;

/// How far the end has come. Only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No end in sight.
    Serving,
    /// Readiness fails, but connections are still accepted: balancers learn late. Each answer asks its client to close.
    LameDuck,
    /// Nothing is accepted any more, idle connections are closed, exchanges finish. Configurations are frozen.
    Closing,
    /// What is left is cut.
    Forced,
}

/// The end of one armiger, shared by all who take part.
pub struct Drain {
    phase: watch::Sender<Phase>,
    is_over: watch::Sender<bool>,
    is_undelayed: watch::Sender<bool>,
    metrics: Metrics,
    cut: AtomicU64,
}

impl Drain {
    /// No end in sight.
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Serving),
            is_over: watch::Sender::new(false),
            is_undelayed: watch::Sender::new(false),
            metrics: metrics.clone(),
            cut: AtomicU64::new(0),
        })
    }

    /// Begins the end: readiness fails from now on. Whether it had not begun before.
    pub fn begin(&self) -> bool {
        self.advance(Phase::LameDuck)
    }

    /// Begins the end, without `drain.delay`: nobody has to learn of it. Where it has begun, what is left of the delay is
    /// not waited for. Exchanges finish all the same.
    pub fn begin_without_delay(&self) -> bool {
        self.is_undelayed.send_replace(true);
        self.begin()
    }

    /// Cuts what is left, at once.
    pub fn hurry(&self) {
        self.advance(Phase::Forced);
    }

    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Follows the phases.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Whether configurations are frozen: there is nothing left that a new one could be for.
    pub fn is_over_for_reload(&self) -> bool {
        self.phase() >= Phase::Closing
    }

    /// Waits until [`Drain::drive`] has come to its end.
    pub async fn over(&self) {
        // Fails only without a sender, and this is the sender.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }

    /// Exchanges that were cut so far.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn count_cut(&self, exchanges: u64) {
        self.cut.fetch_add(exchanges, Ordering::Relaxed);
    }

    /// Waits for [`Drain::begin`], then walks the phases until every worker has ended. `config` is asked when the end
    /// begins, so that the configuration then in force counts. To be run once, on the runtime that accepts.
    pub async fn drive(&self, config: impl Fn() -> operate::Drain, listeners: &Listeners, workers: &Workers) {
        self.reached(Phase::LameDuck).await;
        self.metrics.draining(true);
        let config = config();
        let delay = if *self.is_undelayed.borrow() { Duration::ZERO } else { config.delay.get() };
        tracing::info!(?delay, timeout = ?config.timeout.get(), "draining: answers ask their clients to close");
        let mut undelayed = self.is_undelayed.subscribe();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            // Fails only without a sender, and this is the sender.
            _ = undelayed.wait_for(|is_undelayed| *is_undelayed) => {}
            () = self.reached(Phase::Forced) => {}
        }
        self.advance(Phase::Closing);
        tracing::info!("no longer accepting connections");
        // Still here when the time is over: nothing that the kernel has accepted may be lost on the way to its worker.
        let finish = async {
            listeners.stop_accepting().await;
            workers.finish().await;
        };
        tokio::pin!(finish);
        let is_finished = tokio::select! {
            () = &mut finish => true,
            () = self.reached(Phase::Forced) => {
                tracing::warn!("told to hurry: what is left is cut");
                false
            }
            () = tokio::time::sleep(config.timeout.get()) => {
                tracing::warn!(timeout = ?config.timeout.get(), "`drain.timeout` is over: what is left is cut");
                false
            }
        };
        if !is_finished {
            self.advance(Phase::Forced);
            finish.await;
        }
        tracing::info!(cut = self.cut(), "drained");
        self.is_over.send_replace(true);
    }

    /// The same where nothing has begun, since the start broke off: nobody was let in, and there is nothing to tell.
    pub async fn undo(&self, listeners: &Listeners, workers: &Workers) {
        self.reached(Phase::LameDuck).await;
        self.advance(Phase::Forced);
        listeners.stop_accepting().await;
        workers.finish().await;
        self.is_over.send_replace(true);
    }

    async fn reached(&self, phase: Phase) {
        // Fails only without a sender, and this is the sender.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn advance(&self, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let is_later = to > *phase;
            *phase = to.max(*phase);
            is_later
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_begins_once_and_only_moves_on() {
        let drain = Drain::new(&Metrics::new());
        assert_eq!(drain.phase(), Phase::Serving);
        assert!(drain.begin() && !drain.begin());
        assert_eq!((drain.phase(), drain.is_over_for_reload()), (Phase::LameDuck, false));
        drain.hurry();
        assert!(!drain.begin() && !drain.advance(Phase::Closing));
        assert_eq!((drain.phase(), drain.is_over_for_reload()), (Phase::Forced, true));
    }
}
