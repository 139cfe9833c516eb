//! When the certificate ends by which armiger proves to an upstream who it is, as operators are told.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::background::{self, Background, Desk, Ticket};
use crate::keep::{Identity, Keeper};
use crate::telemetry::metrics::{CertificateMetrics, Metrics};
use crate::tls::ending::{EXPIRES_SOON, Ending, LOOK, Reminder, now};

/// A certificate that an upstream is shown, whichever it is at the time.
pub(super) struct Certificate {
    upstream: Arc<str>,
    ticket: Ticket,
    watched: Mutex<Option<(Arc<Terms>, Reminder)>>,
}

/// The one of a snapshot.
pub(super) struct Terms {
    end: i64,
    metrics: CertificateMetrics,
}

/// Tells of the end of the certificate that the upstream of this name is shown, once the snapshot is in force.
pub(super) fn watch(upstream: &Arc<str>, end: i64, keeper: &mut Keeper<'_>, metrics: &Metrics) {
    let state = keeper.keep(Identity::of("certificate", &**upstream).untold(), || Certificate {
        upstream: upstream.clone(),
        ticket: Ticket::default(),
        watched: Mutex::default(),
    });
    background::employ(keeper, &state, Terms { end, metrics: metrics.upstream_certificate(upstream) });
}

impl Certificate {
    fn warn(&self, end: i64, now: i64) {
        let upstream = &*self.upstream;
        match Ending::of(end, EXPIRES_SOON, now) {
            Ending::Later => {}
            Ending::Soon { days } => {
                tracing::warn!(upstream, days, "the certificate that the upstream is shown ends soon");
            }
            Ending::Over => tracing::warn!(upstream, "the certificate that the upstream is shown is out of date"),
        }
    }

    fn look(&self, now: i64) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((terms, reminder)) = &mut *watched else { return };
        if reminder.is_due(std::iter::once(terms.end), now) {
            self.warn(terms.end, now);
        }
    }
}

impl Background for Certificate {
    type Plan = Terms;

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn follow(&self, terms: &Arc<Terms>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.as_ref().is_some_and(|(before, _)| Arc::ptr_eq(before, terms)) {
            return;
        }
        let now = now();
        terms.metrics.ends(terms.end);
        self.warn(terms.end, now);
        *watched = Some((terms.clone(), Reminder::new(now)));
    }

    async fn work(state: Weak<Self>, _: Desk) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(state) = state.upgrade() else { return };
            state.look(now());
        }
    }
}
