//! What the connections of a worker use in turn.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};

use crate::http::body::Body;
use crate::http::request_pool::RequestPool;

/// What one read may bring at most.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;

/// Heads share a piece of memory of this size: a long exchange that holds one of them holds no more than this.
const HEADS_BYTES: usize = 4 * 1024;

/// Empty header maps that a worker keeps for the next heads: about as many as it has requests under way at once.
const SPARE_MAPS: usize = 64;

/// The most headers that a map which is kept has room for.
const SPARE_HEADERS_MAX: usize = 64;

/// The most room of all buffers together that are kept.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// The most room of a buffer that is kept.
const SPARE_OUT_MAX: usize = 64 * 1024;

/// What the connections of a worker use in turn: bytes stay in it only within one poll, so a waiting connection owns none.
#[derive(Clone)]
pub struct Scratch(Rc<Shelf>);

struct Shelf {
    requests: RequestPool,
    read: RefCell<Box<[u8]>>,
    heads: RefCell<BytesMut>,
    maps: RefCell<Vec<HeaderMap>>,
    outs: RefCell<Vec<Vec<u8>>>,
    /// The room of them together.
    out_bytes: Cell<usize>,
    date: RefCell<Date>,
}

/// The time of day as HTTP writes it, made once per second.
struct Date {
    text: HeaderValue,
    until: Option<Instant>,
}

impl Scratch {
    /// A read buffer of 64 KiB, and little else. Make one per worker and clone it.
    pub fn new(requests: RequestPool) -> Self {
        Self(Rc::new(Shelf {
            requests,
            read: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            heads: RefCell::default(),
            maps: RefCell::default(),
            outs: RefCell::default(),
            out_bytes: Cell::default(),
            date: RefCell::new(Date { text: HeaderValue::from_static(""), until: None }),
        }))
    }

    /// Where to read to.
    pub(super) fn for_reading(&self) -> RefMut<'_, Box<[u8]>> {
        self.0.read.borrow_mut()
    }

    /// A head as bytes that its values may be parts of.
    pub(super) fn keep(&self, head: &[u8]) -> Bytes {
        let mut heads = self.0.heads.borrow_mut();
        if heads.capacity() < head.len() {
            heads.reserve(head.len().max(HEADS_BYTES));
        }
        heads.extend_from_slice(head);
        heads.split().freeze()
    }

    /// A request that says nothing yet.
    pub(super) fn take_request(&self) -> Box<Request<Body>> {
        let mut request = self.0.requests.take();
        if request.headers().capacity() == 0
            && let Some(map) = self.0.maps.borrow_mut().pop()
        {
            *request.headers_mut() = map;
        }
        request
    }

    /// Takes back a map that is no longer needed.
    pub fn spare_map(&self, mut map: HeaderMap) {
        let mut maps = self.0.maps.borrow_mut();
        if maps.len() < SPARE_MAPS && (1..=SPARE_HEADERS_MAX).contains(&map.capacity()) {
            map.clear();
            maps.push(map);
        }
    }

    /// A buffer to write to.
    pub(in crate::server) fn take_out(&self) -> Vec<u8> {
        let out = self.0.outs.borrow_mut().pop().unwrap_or_default();
        self.0.out_bytes.set(self.0.out_bytes.get() - out.capacity());
        out
    }

    /// Takes back a buffer whose bytes are out.
    pub(in crate::server) fn spare_out(&self, mut out: Vec<u8>) {
        let bytes = self.0.out_bytes.get() + out.capacity();
        if out.capacity() > 0 && out.capacity() <= SPARE_OUT_MAX && bytes <= SPARE_BYTES_MAX {
            out.clear();
            self.0.outs.borrow_mut().push(out);
            self.0.out_bytes.set(bytes);
        }
    }

    /// The time of day at `now`, at most a second behind.
    pub fn date(&self, now: Instant) -> HeaderValue {
        let mut date = self.0.date.borrow_mut();
        if date.until.is_none_or(|until| now >= until) {
            let time = wall_clock();
            let within = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            date.until = now.checked_add(Duration::from_secs(1) - Duration::from_nanos(within.into()));
            if let Ok(text) = HeaderValue::try_from(httpdate::fmt_http_date(time)) {
                date.text = text;
            }
        }
        date.text.clone()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new(RequestPool::default())
    }
}

#[expect(clippy::disallowed_methods, reason = "what `Date` shows is the time of day")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_connections_use_at_once_is_kept_up_to_a_bound() {
        let scratch = Scratch::default();
        let addresses = |outs: &[Vec<u8>]| outs.iter().map(|out| out.as_ptr()).collect::<Vec<_>>();
        let outs: Vec<_> = (0..SPARE_MAPS).map(|_| Vec::with_capacity(1024)).collect();
        let made = addresses(&outs);
        outs.into_iter().for_each(|out| scratch.spare_out(out));
        let again: Vec<_> = made.iter().map(|_| scratch.take_out()).collect();
        assert_eq!(addresses(&again).into_iter().rev().collect::<Vec<_>>(), made, "the last is the next");
        assert_eq!((scratch.take_out().capacity(), scratch.0.out_bytes.get()), (0, 0));

        scratch.spare_out(Vec::with_capacity(SPARE_OUT_MAX + 1));
        assert_eq!(scratch.take_out().capacity(), 0);
        (0..100).for_each(|_| scratch.spare_out(Vec::with_capacity(SPARE_OUT_MAX)));
        assert_eq!(scratch.0.outs.borrow().len(), SPARE_BYTES_MAX / SPARE_OUT_MAX);

        (0..2 * SPARE_MAPS).for_each(|_| scratch.spare_map(HeaderMap::with_capacity(8)));
        assert_eq!(scratch.0.maps.borrow().len(), SPARE_MAPS);
    }
}
