//! The part of a request body that has passed, so that it can be sent again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::Body;
use super::received::{Inbound, Received};

/// The part of a request body that has passed, for a second try.
pub struct Replay {
    kept: RefCell<BytesMut>,
    max: usize,
    overflowed: Cell<bool>,
    /// What is still to come, once who read it is gone.
    rest: RefCell<Option<Box<Received>>>,
}

impl Replay {
    pub(super) fn new(max: usize) -> Rc<Self> {
        let (kept, overflowed, rest) = (RefCell::new(BytesMut::new()), Cell::new(false), RefCell::default());
        Rc::new(Self { kept, max, overflowed, rest })
    }

    /// More of it has passed.
    pub(super) fn push(&self, data: &Bytes) {
        if self.overflowed.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        if kept.len() + data.len() > self.max {
            drop(kept);
            self.overflow();
        } else {
            kept.extend_from_slice(data);
        }
    }

    /// It cannot be had again.
    pub(super) fn overflow(&self) {
        self.overflowed.set(true);
        self.kept.take();
    }

    /// Whether what has passed did not fit.
    pub(super) fn is_overflowed(&self) -> bool {
        self.overflowed.get()
    }

    /// What is still to come, for who resumes it.
    pub(super) fn leave(&self, rest: Received) {
        self.rest.replace(Some(Box::new(rest)));
    }

    /// The whole body, if it was read to its end and fitted.
    pub fn take(&self, inbound: &Inbound) -> Option<Bytes> {
        (inbound.ended.get() && !self.overflowed.get()).then(|| self.kept.take().freeze())
    }

    /// The body from its beginning, if what has passed fitted: all of it, or what has passed and then what is still to come, which
    /// whoever read it before reads no more.
    pub fn resume(&self, inbound: &Inbound) -> Option<Body> {
        if let Some(whole) = self.take(inbound) {
            return Some(Body::full(whole));
        }
        let rest = *self.rest.take().filter(|_| !self.overflowed.get())?;
        Some(Body::Received(rest.behind(self.kept.take().freeze())))
    }
}
