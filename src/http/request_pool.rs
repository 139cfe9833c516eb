//! Boxes for requests, used again and again: a request is large, and goes through many hands.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderMap, Method, Request, Uri, Version};

use crate::http::body::Body;

/// How many a worker keeps: as many as it has records for the log.
const REQUESTS_MAX: usize = 256;

/// The most headers that a box which is kept has room for.
const HEADERS_MAX: usize = 64;

/// What a worker keeps of them. Clones share.
#[derive(Clone, Default)]
pub struct RequestPool(
    #[expect(clippy::vec_box, reason = "what moves is copied, and they are large")]
    Rc<RefCell<Vec<Box<Request<Body>>>>>,
);

impl RequestPool {
    /// A request that says nothing yet.
    pub fn take(&self) -> Box<Request<Body>> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a box back. Nothing of what was in it stays.
    pub fn give_back(&self, mut request: Box<Request<Body>>) {
        *request.method_mut() = Method::GET;
        *request.uri_mut() = Uri::default();
        *request.version_mut() = Version::default();
        if request.headers().capacity() > HEADERS_MAX {
            *request.headers_mut() = HeaderMap::new();
        }
        request.headers_mut().clear();
        request.extensions_mut().clear();
        *request.body_mut() = Body::Empty;
        // Behind all that: what is dropped may have a request of its own to give back.
        let mut kept = self.0.borrow_mut();
        if kept.len() < REQUESTS_MAX {
            kept.push(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn nothing_of_a_request_is_in_its_box_for_the_next() {
        let pool = RequestPool::default();
        let mut request = pool.take();
        *request = Request::post("http://a/b?c").version(Version::HTTP_10).body(Body::Full("secret".into())).unwrap();
        request.headers_mut().append("authorization", HeaderValue::from_static("secret"));
        request.headers_mut().append("authorization", HeaderValue::from_static("secrets"));
        request.extensions_mut().insert(7_u8);
        let before = &raw const *request;
        pool.give_back(request);
        let next = pool.take();
        assert!(std::ptr::eq(before, &raw const *next), "it is the same place");
        assert!(next.headers().capacity() > 0, "whose room for headers is used again");
        assert!(matches!(next.body(), Body::Empty));
        assert_eq!(format!("{:?}", (*next).map(|_| ())), format!("{:?}", Request::new(())));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = RequestPool::default();
        (0..2 * REQUESTS_MAX).for_each(|_| pool.give_back(Box::default()));
        assert_eq!(pool.0.borrow().len(), REQUESTS_MAX);
        let mut wide = pool.take();
        wide.headers_mut().reserve(10 * HEADERS_MAX);
        pool.give_back(wide);
        assert_eq!(pool.take().headers().capacity(), 0);
    }
}
