//! Work of a worker that its end waits for, though no connection does.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Counts work that the end of its worker waits for.
#[derive(Default)]
pub struct Count {
    under_way: Cell<usize>,
    ended: Notify,
}

/// Work that is under way until this is dropped.
pub struct Unfinished(Rc<Count>);

impl Count {
    /// Begins some.
    pub fn begin(self: &Rc<Self>) -> Unfinished {
        self.under_way.set(self.under_way.get() + 1);
        Unfinished(self.clone())
    }

    /// Whether none is under way.
    pub fn is_none(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Ready after some has ended.
    pub async fn one_ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.ended.notify_one();
    }
}
