//! Whose turn it is to send: not mine before the others of my worker have come as far.
//!
//! A worker wakes with all that arrived meanwhile, and whatever it sends may wake a peer that sleeps, which costs more than
//! the sending. If each request left as soon as it was read, a peer faster than armiger would fall asleep after every one of
//! them, to be woken by the next. So what is ready is read and decided first, all of it, and then goes out back to back: the
//! peer wakes once, and finds its work laid out. HAProxy works in such rounds too.
//!
//! Where nobody else is ready, this is one more pass through the run queue, without a system call: `yield_now` of tokio would
//! look for news of the kernel first.

use std::future::poll_fn;
use std::task::{Context, Poll};

/// Where a task stands that is about to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    is_mine: bool,
}

impl Turn {
    /// Of one that has nobody to wait for.
    pub fn mine() -> Self {
        Self { is_mine: true }
    }

    /// Of one that lets the others come first.
    pub fn behind_others() -> Self {
        Self { is_mine: false }
    }

    /// Ready once whoever was ready at the first call has been polled.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.is_mine, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Waits until the others that are ready have been polled.
pub async fn others_first() {
    let mut turn = Turn::behind_others();
    poll_fn(|cx| turn.poll(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn all_that_are_ready_decide_before_the_first_of_them_sends() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let tasks = tokio::task::LocalSet::new();
        let seen = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b", "c"] {
            let seen = seen.clone();
            tasks.spawn_local(async move {
                seen.borrow_mut().push(format!("{name} reads"));
                others_first().await;
                seen.borrow_mut().push(format!("{name} sends"));
            });
        }
        runtime.block_on(tasks);
        assert_eq!(*seen.borrow(), ["a reads", "b reads", "c reads", "a sends", "b sends", "c sends"]);
    }
}
