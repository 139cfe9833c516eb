//! Upstreams that speak HTTP/2.

use super::*;

/// Frames of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

impl Peer {
    pub(super) async fn preface(&mut self, settings: &[u8]) {
        self.body(24).await;
        self.say(&frame(SETTINGS, 0, 0, settings)).await;
        self.say(&frame(SETTINGS, 1, 0, &[])).await;
    }

    /// The stream of the next request.
    pub(super) async fn headers(&mut self) -> Option<u32> {
        loop {
            let head = self.body(9).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            self.body(length).await?;
            if head[3] == HEADERS {
                return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            }
        }
    }

    /// `:status: 200`, and nothing more (RFC 7541 appendix A, entry 8).
    pub(super) async fn answer(&mut self, stream: u32) {
        self.say(&frame(HEADERS, 0x5, stream, &[0x88])).await;
    }
}

#[test]
fn two_requests_share_an_http2_connection() {
    run(async {
        let seen = Rc::new(Cell::new(0));
        let (url, connections) = backend(script!(
            [seen] | peer | {
                peer.preface(&[]).await;
                let (one, two) = (peer.headers().await.unwrap(), peer.headers().await.unwrap());
                seen.set(2);
                peer.answer(two).await;
                peer.answer(one).await;
                while let Some(stream) = peer.headers().await {
                    peer.answer(stream).await;
                }
            }
        ))
        .await;
        let stage = Stage::new(&h2c(&url));
        let (one, two) = (ask_later(&stage), ask_later(&stage));
        one.await.unwrap().unwrap();
        two.await.unwrap().unwrap();
        assert_eq!(seen.get(), 2);
        stage.ask(post("x")).await.unwrap();
        assert_eq!((connections.get(), stage.pools.connections(), stage.in_flight()), (1, 1, 0));
    });
}

#[test]
fn http2_requests_carry_an_authority_and_no_host() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heard, mut requests) = mpsc::channel(4);
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(request) = connection.accept().await {
                let (request, mut respond) = request.unwrap();
                respond.send_response(Response::new(()), true).unwrap();
                heard.try_send(request.into_parts().0).unwrap();
            }
        });
        let stage = Stage::new(&h2c(&url));
        let mut request = request(Method::POST, "/a?b", "body");
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        stage.ask(request).await.unwrap();
        let heard = requests.recv().await.unwrap();
        assert_eq!(heard.uri, "http://shop.example/a?b");
        assert!(!heard.headers.contains_key("host"));
        assert_eq!(heard.headers["te"], "trailers");
        assert_eq!(heard.headers["content-length"], "4");
    });
}

#[test]
fn streams_that_were_refused_or_lie_above_a_goaway_are_sent_again_whatever_their_method() {
    run(async {
        for is_goaway in [false, true] {
            let (url, connections) = backend(script!(|peer| {
                peer.preface(&[]).await;
                let first = peer.headers().await.unwrap();
                peer.answer(first).await;
                let mut refused = peer.number > 0;
                while let Some(stream) = peer.headers().await {
                    if refused {
                        peer.answer(stream).await;
                    } else if is_goaway {
                        let payload = [first.to_be_bytes(), 0u32.to_be_bytes()].concat();
                        peer.say(&frame(GOAWAY, 0, 0, &payload)).await;
                    } else {
                        peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
                    }
                    refused = true;
                }
            }))
            .await;
            let stage = Stage::new(&h2c(&url));
            stage.ask(get("/")).await.unwrap();
            stage.attempts();
            stage.ask(post("precious")).await.unwrap_or_else(|kind| panic!("{kind:?} after goaway: {is_goaway}"));
            assert_eq!(stage.attempts(), ["upstream-reset", "ok"]);
            assert_eq!(connections.get(), if is_goaway { 2 } else { 1 });
            assert_eq!(stage.in_flight(), 0);
        }
    });
}

#[test]
fn an_http2_upstream_that_refuses_every_stream_is_an_error() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
            }
        }))
        .await;
        assert_eq!(Stage::new(&h2c(&url)).ask(get("/")).await.unwrap_err(), Kind::Reset);
    });
}

#[test]
fn a_request_that_one_endpoint_refuses_twice_goes_to_another() {
    run(async {
        let (refusing, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            let first = peer.headers().await.unwrap();
            peer.answer(first).await;
            while let Some(stream) = peer.headers().await {
                peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
            }
        }))
        .await;
        let (good, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let stage = Stage::new(&config::Upstream { endpoints: vec![refusing, good], ..h2c("") });
        for _ in 0..8 {
            stage.ask(post("precious")).await.expect("one endpoint takes it");
        }
        let attempts = stage.attempts();
        let refused = attempts.iter().filter(|outcome| **outcome == "upstream-reset").count();
        assert!(refused > 1 && attempts.len() == 8 + refused, "{attempts:?}");
    });
}

/// It fails everybody, and is no better than one that cannot be reached, though each request may go elsewhere.
#[test]
fn an_endpoint_that_refuses_every_stream_is_taken_out() {
    run(async {
        let refuses = || {
            backend(script!(|peer| {
                peer.preface(&[]).await;
                while let Some(stream) = peer.headers().await {
                    peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
                }
            }))
        };
        let (good, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let endpoints = vec![refuses().await.0, good];
        let stage = Stage::new(&config::Upstream { endpoints, ejection: Some(Ejection::default()), ..h2c("") });
        for _ in 0..10 {
            stage.ask(post("precious")).await.expect("one endpoint takes it");
        }
        assert!(stage.upstream().standings.endpoints[0].live.is_ejected(Instant::now()));

        let trip = Trip { consecutive: Some(2), ratio: None, min_requests: 20 };
        let breaker = Some(Breaker { trip, ..Breaker::default() });
        let stage = Stage::new(&config::Upstream { endpoints: vec![refuses().await.0], breaker, ..h2c("") });
        // Of the first request its later tries count.
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::BreakerOpen);
    });
}

#[test]
fn an_endpoint_that_refuses_a_stream_now_and_then_or_one_too_many_stays() {
    run(async {
        let ejection = Some(Ejection { consecutive: 1, ..Ejection::default() });
        let (good, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let (refuses_some, _) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
                let Some(stream) = peer.headers().await else { return };
                peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
            }
        }))
        .await;
        let endpoints = vec![refuses_some, good.clone()];
        let stage = Stage::new(&config::Upstream { endpoints, ejection: ejection.clone(), ..h2c("") });
        for _ in 0..10 {
            stage.ask(get("/")).await.unwrap();
        }
        assert!(stage.attempts().contains(&"upstream-reset"));
        assert!(!stage.upstream().standings.endpoints[0].live.is_ejected(Instant::now()));

        // It takes one on each connection, and does not say so.
        let refused = Rc::new(Cell::new(0));
        let (takes_one, _) = backend(script!(
            [refused] | peer | {
                peer.preface(&[]).await;
                peer.headers().await;
                while let Some(stream) = peer.headers().await {
                    refused.set(refused.get() + 1);
                    peer.say(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes())).await;
                }
            }
        ))
        .await;
        let stage = Stage::new(&config::Upstream { endpoints: vec![takes_one, good], ejection, ..h2c("") });
        let tasks: Vec<_> = (0..10).map(|_| ask_later(&stage)).collect();
        // Four of five on the first connection, and three of them again on the second.
        until(|| refused.get() == 7 && tasks.iter().filter(|task| task.is_finished()).count() == 8).await;
        assert!(!stage.upstream().standings.endpoints[0].live.is_ejected(Instant::now()));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn an_http2_answer_that_is_reset_never_looks_complete() {
    run(async {
        // NO_ERROR is what hyper takes for an end, and it is one only behind END_STREAM.
        for (code, ends) in [(2, false), (0, false), (0, true)] {
            let (url, _) = backend(script!(|peer| {
                peer.preface(&[]).await;
                let stream = peer.headers().await.unwrap();
                peer.say(&frame(HEADERS, 0x4, stream, &[0x88])).await;
                peer.say(&frame(DATA, u8::from(ends), stream, b"half")).await;
                peer.say(&frame(RST_STREAM, 0, stream, &u32::to_be_bytes(code))).await;
                peer.headers().await;
            }))
            .await;
            let stage = Stage::new(&h2c(&url));
            let read = stage.send(get("/")).await.unwrap().into_body().collect().await;
            match ends {
                true => assert_eq!(read.unwrap().to_bytes(), "half"),
                false => assert_eq!(read.unwrap_err(), BodyError::UpstreamCut, "{code}"),
            }
        }
    });
}

#[test]
fn an_http2_stream_that_is_reset_otherwise_is_not_sent_again() {
    run(async {
        let count = Rc::new(Cell::new(0));
        let (url, _) = backend(script!(
            [count] | peer | {
                peer.preface(&[]).await;
                while let Some(stream) = peer.headers().await {
                    count.set(count.get() + 1);
                    if count.get() == 1 {
                        peer.answer(stream).await;
                    } else {
                        peer.say(&frame(RST_STREAM, 0, stream, &2u32.to_be_bytes())).await;
                    }
                }
            }
        ))
        .await;
        let stage = Stage::new(&h2c(&url));
        stage.ask(get("/")).await.unwrap();
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(stage.ask(post("x")).await.unwrap_err(), Kind::Reset);
        assert_eq!(count.get(), 3);
    });
}

/// A client that breaks off costs its stream, and not the connection that others share.
#[test]
fn an_upload_that_breaks_off_leaves_the_http2_connection_to_others() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[]).await;
            // The first is never answered.
            peer.headers().await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let stage = Stage::new(&h2c(&url));
        let (done, mut outcome) = mpsc::channel(1);
        let asking = stage.clone();
        let mut client = client(move |request, _| {
            let (stage, done) = (asking.clone(), done.clone());
            async move { done.try_send(stage.send(request).await.map(|_| ()).map_err(|error| error.kind())).unwrap() }
        })
        .await;
        client
            .write_all(b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")
            .await
            .unwrap();
        let outcome = outcome.recv().await.unwrap();
        let Err(Kind::Client(_)) = outcome else { panic!("{outcome:?}") };
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_new_http2_connection_that_breaks_is_not_tried_again() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[]).await;
            peer.headers().await;
        }))
        .await;
        assert_eq!(Stage::new(&h2c(&url)).ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(connections.get(), 1);
    });
}

/// No request was on it: another endpoint may be asked, whatever the method.
#[test]
fn an_http2_connection_that_breaks_before_it_began_did_not_come_about() {
    run(async {
        let stage = Stage::new(&h2c("http://127.0.0.1:1"));
        let lineup = stage.pools.lineup(&stage.upstream());
        let bench = lineup.bench(0);
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        drop(far);
        let (room, mut timer) = (bench.room(false).unwrap(), stage.pools.wheel().timer());
        let begun = bench.speak(room, super::connect::Stream::Unix(near), None, &mut timer).await;
        let error = begun.map(|_| ()).unwrap_err();
        // And not by chance because it took too long.
        assert_eq!(error.kind(), Kind::Unreachable, "{error:?}");
    });
}

#[test]
fn who_waits_for_anothers_http2_connection_opens_it_if_the_other_gives_up() {
    run(async {
        let (address, _backlog) = silent().await;
        let mut settings = h2c(&format!("http://{address}"));
        settings.timeouts.connect = HumanDuration::millis(200);
        let stage = Stage::new(&settings);
        let opening = ask_later(&stage);
        let waiting: Vec<_> = (0..10).map(|_| ask_later(&stage)).collect();
        until(|| stage.in_flight() == 11).await;
        opening.abort();
        for waiting in waiting {
            // One opens and all learn of it: one after the other they would wait in vain.
            assert_eq!(waiting.await.unwrap().unwrap_err(), Kind::ConnectTimeout);
        }
    });
}

#[test]
fn a_vanished_http2_connection_is_replaced() {
    run(async {
        let closed = Rc::new(Cell::new(0));
        let (url, connections) = backend(script!(
            [closed] | peer | {
                peer.preface(&[]).await;
                let stream = peer.headers().await.unwrap();
                peer.answer(stream).await;
                if peer.number > 0 {
                    peer.gone().await;
                }
                closed.set(closed.get() + 1);
            }
        ))
        .await;
        let stage = Stage::new(&h2c(&url));
        stage.ask(post("x")).await.unwrap();
        until(|| closed.get() == 1).await;
        stage.ask(post("x")).await.unwrap();
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn more_requests_than_streams_open_more_connections_or_wait() {
    run(async {
        // SETTINGS_MAX_CONCURRENT_STREAMS = 2
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[0, 3, 0, 0, 0, 2]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let mut settings = h2c(&url);
        settings.pool.connections_max = 3;
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        let tasks: Vec<_> = (0..50).map(|_| ask_later(&stage)).collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!((1..=3).contains(&connections.get()), "{}", connections.get());
        assert_eq!(stage.in_flight(), 0);
    });
}

#[test]
fn an_http2_connection_that_cannot_be_had_fails_everybody_who_waits_for_it() {
    run(async {
        let url = closed_port().await;
        let stage = Stage::new(&h2c(&url));
        let tasks: Vec<_> = (0..10).map(|_| ask_later(&stage)).collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap_err(), Kind::Refused);
        }
        let (url, _) = backend(script!(|peer| { peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n").await })).await;
        let error = Stage::new(&h2c(&url)).ask(get("/")).await.unwrap_err();
        assert!(matches!(error, Kind::Protocol | Kind::Reset), "{error:?}");
    });
}

#[test]
fn limits_hold_for_the_sum_of_all_workers() {
    let mut limits = settings(&["http://127.0.0.1:1"]);
    limits.limits.replay_max = ByteSize::kib(1);
    let (_, upstream) = Stage::compile(&limits, 1, &Metrics::new(), &Kept::default());
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&upstream);
}
