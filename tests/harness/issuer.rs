//! An issuer that answers as a test has it answer, and may be told otherwise at any time.

use std::sync::{Arc, Mutex};

use super::backend::{Answer, Backend, Seen, Signal, answer};

type Reply = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// An issuer: a back end whose answer the test may change.
pub struct Issuer {
    backend: Backend,
    script: Arc<Mutex<(Reply, Option<Signal>)>>,
}

impl Issuer {
    /// Answers with this status and body.
    pub async fn says(status: u16, body: impl ToString) -> Self {
        let script = Arc::new(Mutex::new((reply(status, body), None)));
        let shared = script.clone();
        let backend = Backend::seen(move |seen| {
            let (reply, gate): (Reply, Option<Signal>) = shared.lock().expect("no test panics in here").clone();
            async move {
                if let Some(gate) = gate {
                    gate.wait().await;
                }
                reply(&seen)
            }
        })
        .await;
        Self { backend, script }
    }

    /// Answers so from now on.
    pub fn now_says(&self, status: u16, body: impl ToString) {
        self.now(reply(status, body));
    }

    /// Answers with what `reply` makes of each request from now on.
    pub fn now_replies(&self, reply: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        self.now(Arc::new(reply));
    }

    fn now(&self, reply: Reply) {
        *self.script.lock().expect("no test panics in here") = (reply, None);
    }

    /// Holds answers back until the signal.
    pub fn waits_for(&self, signal: &Signal) {
        self.script.lock().expect("no test panics in here").1 = Some(signal.clone());
    }
}

impl std::ops::Deref for Issuer {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

fn reply(status: u16, body: impl ToString) -> Reply {
    let body = body.to_string();
    Arc::new(move |_| answer(status, body.clone()))
}
