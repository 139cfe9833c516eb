//! Places for requests, used again and again: a request is large, and goes through many hands.

use std::cell::RefCell;
use std::rc::Rc;

use http::{HeaderMap, Method, Request, Uri, Version};

use super::body::Body;

/// How many a worker keeps: as many as it has records for the log.
const PLACES_MAX: usize = 256;

/// The most headers that a place which is kept has room for.
const HEADERS_MAX: usize = 64;

/// What a worker keeps of them. Clones share.
#[derive(Clone, Default)]
pub struct Places(
    #[expect(clippy::vec_box, reason = "what moves is copied, and they are large")]
    Rc<RefCell<Vec<Box<Request<Body>>>>>,
);

impl Places {
    /// A request that says nothing yet.
    pub fn take(&self) -> Box<Request<Body>> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a place back. Nothing of what was in it stays.
    pub fn give_back(&self, mut place: Box<Request<Body>>) {
        *place.method_mut() = Method::GET;
        *place.uri_mut() = Uri::default();
        *place.version_mut() = Version::default();
        if place.headers().capacity() > HEADERS_MAX {
            *place.headers_mut() = HeaderMap::new();
        }
        place.headers_mut().clear();
        place.extensions_mut().clear();
        *place.body_mut() = Body::Empty;
        // Behind all that: what is dropped may have a request of its own to give back.
        let mut places = self.0.borrow_mut();
        if places.len() < PLACES_MAX {
            places.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn nothing_of_a_request_is_in_its_place_for_the_next() {
        let places = Places::default();
        let mut request = places.take();
        *request = Request::post("http://a/b?c").version(Version::HTTP_10).body(Body::Full("secret".into())).unwrap();
        request.headers_mut().append("authorization", HeaderValue::from_static("secret"));
        request.headers_mut().append("authorization", HeaderValue::from_static("secrets"));
        request.extensions_mut().insert(7_u8);
        let before = &raw const *request;
        places.give_back(request);
        let next = places.take();
        assert!(std::ptr::eq(before, &raw const *next), "it is the same place");
        assert!(next.headers().capacity() > 0, "whose room for headers is used again");
        assert!(matches!(next.body(), Body::Empty));
        assert_eq!(format!("{:?}", (*next).map(|_| ())), format!("{:?}", Request::new(())));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let places = Places::default();
        (0..2 * PLACES_MAX).for_each(|_| places.give_back(Box::default()));
        assert_eq!(places.0.borrow().len(), PLACES_MAX);
        let mut wide = places.take();
        wide.headers_mut().reserve(10 * HEADERS_MAX);
        places.give_back(wide);
        assert_eq!(places.take().headers().capacity(), 0);
    }
}
