//! Requests on the wire: what goes out, in how many pieces, and what comes of a body that lies.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::receiving::{READ, Receiving};
use super::sending::Sending;
use super::{Age, Spare, announced_idle};
use crate::http::body::{Body, BodyError};
use crate::http::reply::{Asked, HeadBounds};
use crate::timer::Wheel;
use crate::upstream::connect::Stream;
use crate::upstream::error::Error;

/// A body of these frames, with a pause before each frame that is None.
struct Frames {
    frames: VecDeque<Option<Frame<Bytes>>>,
    length: Option<u64>,
    /// How many were taken.
    taken: Rc<RefCell<usize>>,
}

impl Frames {
    fn body(length: Option<u64>, frames: impl IntoIterator<Item = Option<Frame<Bytes>>>) -> (Body, Rc<RefCell<usize>>) {
        let taken = Rc::<RefCell<usize>>::default();
        let frames = Self { frames: frames.into_iter().collect(), length, taken: taken.clone() };
        (Body::Other(Box::new(frames)), taken)
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.pop_front() {
            None => Poll::Ready(None),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Some(frame)) => {
                *self.taken.borrow_mut() += 1;
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn data(bytes: impl Into<Bytes>) -> Option<Frame<Bytes>> {
    Some(Frame::data(bytes.into()))
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

fn asking(body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/a?b".parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("app"));
    request
}

/// Sends a request, and gives what the peer got, read by read.
async fn send(mut request: Request<Body>) -> (Result<(), Error>, Vec<Vec<u8>>, Sending) {
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut near = Stream::Unix(near);
    let mut sending = Sending::new(Instant::now());
    sending.begin(&request);
    let wheel = Wheel::new();
    let reading = async {
        let mut reads = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length @ 1..) = far.read(&mut buffer).await {
            reads.push(buffer[..length].to_vec());
        }
        reads
    };
    let writing = async {
        let sent = poll_fn(|cx| sending.poll(request.body_mut(), &mut near, &wheel, cx)).await;
        drop(near);
        sent
    };
    let (sent, reads) = tokio::join!(writing, reading);
    (sent, reads, sending)
}

const HEAD: &str = "POST /a?b HTTP/1.1\r\nhost: app\r\n";

fn text(reads: &[Vec<u8>]) -> String {
    String::from_utf8(reads.concat()).unwrap()
}

#[test]
fn a_head_and_a_small_body_go_out_as_one() {
    run(async {
        for (body, sent) in [
            (Body::Empty, format!("{HEAD}\r\n")),
            (Body::full("four"), format!("{HEAD}content-length: 4\r\n\r\nfour")),
            (Frames::body(Some(4), [data("fo"), data("ur")]).0, format!("{HEAD}content-length: 4\r\n\r\nfour")),
            (
                Frames::body(None, [data("one"), data(""), data("0123456789abcdef")]).0,
                format!("{HEAD}transfer-encoding: chunked\r\n\r\n3\r\none\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"),
            ),
        ] {
            let request = asking(body);
            let (outcome, reads, sending) = send(request).await;
            outcome.unwrap();
            assert_eq!((text(&reads), reads.len()), (sent, 1));
            assert!(sending.is_sent());
        }
    });
}

#[test]
fn what_the_fields_say_of_the_length_does_not_count() {
    run(async {
        for (body, framing) in [
            (Body::full("four"), "content-length: 4\r\n\r\nfour"),
            (Frames::body(None, [data("x")]).0, "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
            (Body::Empty, "content-length: 0\r\n\r\n"),
        ] {
            let mut request = asking(body);
            request.headers_mut().insert("content-length", HeaderValue::from_static("7"));
            request.headers_mut().append("content-length", HeaderValue::from_static("8"));
            request.headers_mut().insert("transfer-encoding", HeaderValue::from_static("gzip"));
            let (_, reads, _) = send(request).await;
            assert_eq!(text(&reads), format!("{HEAD}{framing}"));
        }
    });
}

#[test]
fn large_bodies_go_out_whole_whatever_the_socket_takes_at_once() {
    run(async {
        let large = |byte: u8| Bytes::from(vec![byte; 900_000]);
        let plain = [large(b'a'), large(b'b')].concat();
        let request = asking(Frames::body(Some(1_800_000), [data(large(b'a')), None, data(large(b'b'))]).0);
        let (outcome, reads, _) = send(request).await;
        outcome.unwrap();
        let sent = reads.concat();
        assert!(reads.len() > 2, "it takes more than one write");
        assert_eq!(sent[HEAD.len()..], [b"content-length: 1800000\r\n\r\n".as_slice(), &plain].concat());

        let request = asking(Frames::body(None, [data(large(b'a')), data("s"), None, data(large(b'b'))]).0);
        let (outcome, reads, _) = send(request).await;
        outcome.unwrap();
        let mut expected = b"transfer-encoding: chunked\r\n\r\ndbba0\r\n".to_vec();
        expected.extend(large(b'a'));
        expected.extend(b"\r\n1\r\ns\r\ndbba0\r\n");
        expected.extend(large(b'b'));
        expected.extend(b"\r\n0\r\n\r\n");
        assert_eq!(reads.concat()[HEAD.len()..], expected);
    });
}

#[test]
fn fields_behind_a_body_go_out_where_they_were_announced_and_may_stand_there() {
    run(async {
        let mut trailers = HeaderMap::new();
        for (name, value) in [("x-sum", "7"), ("x-other", "1"), ("content-length", "9"), ("authorization", "me")] {
            trailers.insert(name, HeaderValue::from_static(value));
        }
        let frames = [data("x"), Some(Frame::trailers(trailers))];
        let mut request = asking(Frames::body(None, frames).0);
        request.headers_mut().insert("trailer", HeaderValue::from_static("X-Sum, content-length, authorization"));
        let (outcome, reads, _) = send(request).await;
        outcome.unwrap();
        assert!(text(&reads).ends_with("\r\n\r\n1\r\nx\r\n0\r\nx-sum: 7\r\n\r\n"), "{}", text(&reads));
    });
}

#[test]
fn a_body_that_is_not_as_long_as_was_said_is_never_sent_as_whole() {
    run(async {
        for (frames, most) in [(vec![data("abc"), None, data("def")], "abc"), (vec![data("abc"), None], "abc")] {
            let request = asking(Frames::body(Some(5), frames).0);
            let (outcome, reads, sending) = send(request).await;
            outcome.unwrap_err();
            assert!(!sending.is_sent() && !sending.is_under_way());
            assert_eq!(text(&reads), format!("{HEAD}content-length: 5\r\n\r\n{most}"));
        }
    });
}

#[test]
fn nothing_is_read_of_a_body_that_the_socket_does_not_take() {
    run(async {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut near = Stream::Unix(near);
        let frames = (0..1000).map(|_| data(vec![b'x'; 100_000]));
        let (body, taken) = Frames::body(None, frames);
        let mut request = asking(body);
        let mut sending = Sending::new(Instant::now());
        sending.begin(&request);
        let wheel = Wheel::new();
        let is_pending =
            poll_fn(|cx| Poll::Ready(sending.poll(request.body_mut(), &mut near, &wheel, cx).is_pending())).await;
        assert!(is_pending && *taken.borrow() < 20, "{}", taken.borrow());
    });
}

#[test]
fn a_request_of_which_the_socket_took_nothing_is_given_back() {
    run(async {
        for (body, is_given) in [
            (Body::full("four"), true),
            (Body::full(vec![b'x'; 100_000]), true),
            (Body::Empty, true),
            (Frames::body(None, [data("x")]).0, false),
        ] {
            let length = http_body::Body::size_hint(&body).exact();
            let (near, far) = UnixStream::pair().unwrap();
            drop(far);
            let mut near = Stream::Unix(near);
            let mut request = asking(body);
            let mut sending = Sending::new(Instant::now());
            sending.begin(&request);
            let wheel = Wheel::new();
            poll_fn(|cx| sending.poll(request.body_mut(), &mut near, &wheel, cx)).await.unwrap();
            assert!(!sending.is_sent() && !sending.is_under_way());
            let given = sending.unsent();
            assert_eq!(given.is_some(), is_given);
            if let Some(given) = given {
                assert_eq!((given.method(), given.uri().path()), (&Method::POST, "/a"));
                assert_eq!(http_body::Body::size_hint(given.body()).exact(), length);
            }
        }
    });
}

// --- how long a connection is kept

#[test]
fn a_connection_is_kept_shorter_than_the_peer_announces() {
    for (value, kept) in [
        ("timeout=5", Some(4000)),
        ("timeout=5, max=100", Some(4000)),
        ("max=100, Timeout = 2", Some(1000)),
        ("timeout=1", Some(500)),
        ("timeout=0", Some(0)),
        ("max=100", None),
        ("timeout=soon", None),
        ("", None),
    ] {
        assert_eq!(announced_idle(value.as_bytes()), kept.map(Duration::from_millis), "{value}");
    }
}

#[test]
fn ages_differ_by_a_tenth_at_most_and_go_by_the_bound_that_holds_now() {
    let now = Instant::now();
    for _ in 0..1000 {
        let age = Age::since(now);
        for max in [Duration::from_secs(100), Duration::from_secs(10)] {
            assert!(!age.is_over(now + max.mul_f64(0.899), max), "{}", age.share);
            assert!(age.is_over(now + max.mul_f64(1.101), max), "{}", age.share);
        }
    }
}

const BOUNDS: HeadBounds = HeadBounds { fields_max: 100, bytes_max: 1 << 20 };

/// An answer that comes over a socket, and whoever reads it.
struct Coming {
    near: Stream,
    far: UnixStream,
    receiving: Receiving,
    spare: Rc<Spare>,
}

impl Coming {
    async fn begin(head: &str) -> Self {
        Self::begin_with(head, Rc::default()).await
    }

    async fn begin_with(head: &str, spare: Rc<Spare>) -> Self {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(head.as_bytes()).await.unwrap();
        let mut receiving = Receiving::new();
        receiving.begin(Asked::Other, HeaderMap::new());
        let mut coming = Self { near: Stream::Unix(near), far, receiving, spare };
        let Coming { near, receiving, spare, .. } = &mut coming;
        poll_fn(|cx| receiving.poll_head(near, spare, BOUNDS, cx)).await.unwrap();
        coming
    }

    async fn piece(&mut self, text: &str) -> Bytes {
        self.far.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.unwrap();
        self.next().await.unwrap()
    }

    async fn next(&mut self) -> Option<Bytes> {
        let Self { near, receiving, spare, .. } = self;
        poll_fn(|cx| receiving.poll_frame(near, spare, cx)).await.map(|frame| frame.unwrap().into_data().unwrap())
    }

    /// Nothing more is there now.
    fn waits(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.receiving.poll_frame(&mut self.near, &self.spare, &mut cx).is_pending()
    }
}

#[test]
fn what_is_waited_for_holds_no_room_but_where_pieces_of_it_are_kept() {
    run(async {
        let mut coming = Coming::begin("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(coming.piece("gone").await, "gone");
        assert!(coming.waits());
        assert_eq!(coming.spare.rooms(), 1, "others may read into it");

        let kept = coming.piece("kept").await;
        assert!(coming.waits());
        assert_eq!(coming.spare.rooms(), 0);
        let mut end = kept.as_ptr_range().end;
        for number in 0..100 {
            let next = coming.piece(&number.to_string()).await;
            assert!(coming.waits());
            assert!(next.as_ptr_range().start.addr() - end.addr() < 10, "they stand in one room");
            end = next.as_ptr_range().end;
        }
        assert_eq!(kept, "kept");
        drop(kept);
        assert!(coming.waits());
        assert_eq!(coming.spare.rooms(), 1);
    });
}

#[test]
fn a_large_answer_is_read_into_a_room_of_its_own_that_nobody_keeps() {
    const LENGTH: usize = 8 << 20;
    run(async {
        let mut coming = Coming::begin(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        let (mut far, _) = UnixStream::pair().unwrap();
        std::mem::swap(&mut far, &mut coming.far);
        (0..3).for_each(|_| coming.spare.received(BytesMut::with_capacity(READ)));
        let reading = async {
            let mut length = 0;
            while let Some(data) = coming.next().await {
                length += data.len();
            }
            length
        };
        let body = vec![b'x'; LENGTH];
        let (written, length) = tokio::join!(far.write_all(&body), reading);
        written.unwrap();
        assert_eq!(length, LENGTH);
        assert!(coming.spare.rooms() >= 2, "{} of 3 are left", coming.spare.rooms());
        let left = coming.spare.rooms();
        coming.receiving.give_room_to(&coming.spare);
        assert_eq!(coming.spare.rooms(), left);
    });
}

#[test]
fn readers_that_are_slow_hold_large_pieces_within_a_bound() {
    const BOUND: usize = 1 << 20;
    const LENGTH: usize = 4 << 20;
    run(async {
        let spare = Rc::new(Spare::default());
        spare.bound_large(BOUND);
        let body = vec![b'x'; LENGTH];
        let mut held = Vec::new();
        for _ in 0..16 {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * LENGTH);
            let mut coming = Coming::begin_with(&head, spare.clone()).await;
            let (mut far, _) = UnixStream::pair().unwrap();
            std::mem::swap(&mut far, &mut coming.far);
            let reading = async {
                let (mut length, mut last) = (0, Bytes::new());
                while length < LENGTH {
                    last = coming.next().await.unwrap();
                    length += last.len();
                }
                last
            };
            let (written, last) = tokio::join!(far.write_all(&body), reading);
            written.unwrap();
            held.push((far, last, coming));
        }
        let bytes: usize = held.iter().map(|(_, last, coming)| last.len() + coming.receiving.room()).sum();
        assert!(bytes <= BOUND + held.len() * 2 * READ, "{bytes}");
        assert!(spare.large_left() < BOUND / 2, "none was read in large pieces");

        // A piece that waits for its reader counts after its answer is over.
        held.iter_mut().for_each(|(_, _, coming)| coming.receiving.give_room_to(&spare));
        assert!(spare.large_left() < BOUND);
        held.clear();
        assert_eq!(spare.large_left(), BOUND);
    });
}

#[test]
fn the_room_of_a_large_head_is_kept_for_nobody() {
    run(async {
        let head = |length| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "y".repeat(length));
        for (length, kept) in [(1000, 1), (100_000, 0)] {
            let mut coming = Coming::begin(&head(length)).await;
            coming.receiving.give_room_to(&coming.spare);
            assert_eq!(coming.spare.rooms(), kept, "{length}");
        }
    });
}
