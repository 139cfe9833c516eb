//! A request body that is sent again while it still comes: what has passed of it, and then the rest.

use bytes::Bytes;
use http_body::SizeHint;

use super::received::Arriving;

/// What came of a request body before, and what is still to come.
pub struct Resumed {
    ahead: Bytes,
    pub(super) rest: Arriving,
}

impl Resumed {
    /// `rest` behind what came before it.
    pub(super) fn behind(ahead: Bytes, rest: Arriving) -> Arriving {
        match rest {
            _ if ahead.is_empty() => rest,
            // What was ahead of it then is among what has passed since.
            Arriving::Resumed(resumed) => Arriving::Resumed(Box::new(Self { ahead, rest: resumed.rest })),
            rest => Arriving::Resumed(Box::new(Self { ahead, rest })),
        }
    }

    /// What came before, once.
    pub(super) fn take_ahead(&mut self) -> Option<Bytes> {
        (!self.ahead.is_empty()).then(|| std::mem::take(&mut self.ahead))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.rest.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.rest
            .size_hint()
            .exact()
            .map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest.saturating_add(self.ahead.len() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use http_body::Body as _;

    use crate::http::body::{Body, Received};
    use crate::http::inflow::{Feed, inflow};

    fn received(length: Option<u64>) -> (Feed, Received) {
        let (feed, inflow) = inflow(length);
        (feed, Received::new(Arriving::Http1(inflow), 1 << 20))
    }

    fn received_up_to(max: u64) -> (Feed, Received) {
        let (feed, inflow) = inflow(None);
        (feed, Received::new(Arriving::Http1(inflow), max))
    }

    /// What is there of it by now.
    fn here(body: &mut Body) -> String {
        let mut here = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) {
            here.extend_from_slice(frame.data_ref().expect("there are no trailers"));
        }
        String::from_utf8(here).unwrap()
    }

    fn kept(body: &mut Body, max: usize) -> std::rc::Rc<crate::http::body::Replay> {
        let Body::Received(received) = body else { panic!("it is whole") };
        received.keep(max)
    }

    #[test]
    fn a_body_begins_anew_and_goes_on_as_often_as_it_must() {
        for length in [Some(6), None] {
            let (feed, received) = received(length);
            let inbound = received.inbound().clone();
            let mut body = Body::Received(received);
            for (more, expected) in [("ab", "ab"), ("cd", "abcd"), ("", "abcd")] {
                let replay = kept(&mut body, 16);
                let (before, new) = expected.split_at(expected.len() - more.len());
                assert_eq!(here(&mut body), before);
                feed.push(Bytes::from_static(more.as_bytes()));
                assert_eq!(here(&mut body), new);
                assert!(replay.resume(&inbound).is_none(), "its reader is not gone");
                drop(body);
                body = replay.resume(&inbound).unwrap();
                assert_eq!(body.size_hint().exact(), length);
            }
            let replay = kept(&mut body, 16);
            feed.push(Bytes::from_static(b"ef"));
            assert_eq!(here(&mut body), "abcdef");
            feed.end(None);
            assert_eq!(here(&mut body), "");
            assert!(inbound.ended.get() && inbound.bytes.get() == 6, "what is sent again came once");
            drop(body);
            assert_eq!(here(&mut replay.resume(&inbound).unwrap()), "abcdef");
        }
    }

    #[test]
    fn what_grows_beyond_the_bound_does_not_begin_anew() {
        let (feed, received) = received(None);
        let inbound = received.inbound().clone();
        let mut body = Body::Received(received);
        let first = kept(&mut body, 3);
        feed.push(Bytes::from_static(b"ab"));
        here(&mut body);
        drop(body);
        let mut body = first.resume(&inbound).unwrap();
        let second = kept(&mut body, 3);
        feed.push(Bytes::from_static(b"cd"));
        assert_eq!(here(&mut body), "abcd");
        drop(body);
        assert!(second.resume(&inbound).is_none());
        assert!(!feed.has_reader());
    }

    #[test]
    fn a_body_is_sent_again_as_it_was_or_not_at_all() {
        let (feed, received) = received(None);
        let inbound = received.inbound().clone();
        let mut body = Body::Received(received);
        let replay = kept(&mut body, 16);
        feed.push(Bytes::from_static(b"ab"));
        feed.end(Some(http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))])));
        let mut cx = Context::from_waker(Waker::noop());
        let mut next = || Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(next(), Poll::Ready(Some(Ok(frame))) if frame.is_data()));
        assert!(matches!(next(), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
        drop(body);
        assert!(replay.resume(&inbound).is_none(), "its trailers have passed");
    }

    #[test]
    fn what_is_made_of_the_bytes_is_not_begun_in_their_middle() {
        struct Same;
        impl crate::http::body::Recode for Same {
            fn feed(&mut self, bytes: &[u8], _: bool) -> Result<Bytes, crate::http::body::BodyError> {
                Ok(Bytes::copy_from_slice(bytes))
            }
        }
        let (feed, mut received) = received(None);
        received.recode(Box::new(Same));
        let inbound = received.inbound().clone();
        let mut body = Body::Received(received);
        let replay = kept(&mut body, 16);
        feed.push(Bytes::from_static(b"ab"));
        assert_eq!(here(&mut body), "ab");
        drop(body);
        assert!(replay.resume(&inbound).is_none());
    }

    #[test]
    fn an_end_that_came_meanwhile_is_an_end() {
        let (feed, received) = received(None);
        let inbound = received.inbound().clone();
        let mut body = Body::Received(received);
        let replay = kept(&mut body, 3);
        assert_eq!(here(&mut body), "");
        assert!(inbound.waits.get());
        drop(body);
        feed.end(None);
        assert!(replay.resume(&inbound).unwrap().is_end_stream());
        assert!(inbound.ended.get() && !inbound.waits.get());
    }

    #[test]
    fn what_holds_of_a_body_holds_of_what_is_still_to_come() {
        let (feed, mut received) = received_up_to(6);
        let reserved = crate::http::reserved::Reserved::new([&http::HeaderName::from_static("x-user")]);
        received.reserve(std::sync::Arc::new(reserved));
        let (inbound, copy) = (received.inbound().clone(), received.copy(16));
        let mut body = Body::Received(received);
        let mut cx = Context::from_waker(Waker::noop());
        for data in ["ab", "cd"] {
            let replay = kept(&mut body, 16);
            feed.push(Bytes::from_static(data.as_bytes()));
            here(&mut body);
            drop(body);
            body = replay.resume(&inbound).unwrap();
        }
        assert_eq!(here(&mut body), "abcd");
        let trailers = [("x-user", "root"), ("x-sum", "1")];
        let trailers =
            trailers.map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        feed.end(Some(trailers.into_iter().collect()));
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!("they are here") };
        assert_eq!(frame.trailers_ref().unwrap().keys().collect::<Vec<_>>(), ["x-sum"], "nobody may say who calls");
        assert_eq!(copy.take(&inbound).unwrap(), "abcd", "each byte once");

        let (feed, received) = received_up_to(6);
        let inbound = received.inbound().clone();
        let mut body = Body::Received(received);
        let replay = kept(&mut body, 16);
        feed.push(Bytes::from_static(b"abcd"));
        here(&mut body);
        drop(body);
        let mut body = replay.resume(&inbound).unwrap();
        feed.push(Bytes::from_static(b"efg"));
        assert_eq!(here(&mut body), "abcd");
        assert_eq!(inbound.error.get(), Some(crate::http::body::BodyError::TooLarge));
    }
}
