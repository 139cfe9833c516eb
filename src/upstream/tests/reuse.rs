//! Which connection is used again, and which is not.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::*;

#[test]
fn a_connection_is_taken_once_the_others_that_are_ready_have_read() {
    run(async {
        let (stage, connections) = stage(script!(|peer| {
            while peer.head().await.is_some() {
                peer.ok("").await;
            }
        }))
        .await;
        let is_idle = |count: usize| {
            let line = format!("armiger_upstream_connections{{state=\"idle\",upstream=\"app\"}} {count}\n");
            stage.metrics.render().contains(&line)
        };
        stage.ask(get("/")).await.unwrap();
        assert!(is_idle(1));
        let mut asked = pin!(stage.ask(get("/")));
        poll_fn(|cx| {
            assert!(asked.as_mut().poll(cx).is_pending());
            assert!(is_idle(1), "not before the others");
            Poll::Ready(())
        })
        .await;
        asked.await.unwrap();
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn the_connection_used_last_is_used_next() {
    run(async {
        let served = Rc::new(RefCell::new(Vec::new()));
        let both = Rc::new(Notify::new());
        let (stage, _) = stage(script!(
            [served, both] | peer | {
                while let Some(head) = peer.head().await {
                    served.borrow_mut().push(peer.number);
                    if head.starts_with("GET /wait") {
                        both.notified().await;
                    }
                    peer.ok("").await;
                }
            }
        ))
        .await;
        // Two at once open two connections; the one that is over last is taken next, each time.
        let first = spawn_local({
            let stage = stage.clone();
            async move { stage.ask(get("/wait")).await }
        });
        until(|| served.borrow().len() == 1).await;
        stage.ask(get("/")).await.unwrap();
        both.notify_one();
        first.await.unwrap().unwrap();
        for _ in 0..3 {
            stage.ask(get("/")).await.unwrap();
        }
        assert_eq!(*served.borrow(), [0, 1, 0, 0, 0]);
    });
}

/// The race of a closing upstream cannot be won, only made harmless.
#[test]
fn an_upstream_that_closes_when_it_likes_costs_no_error_and_no_post_runs_twice() {
    run(async {
        let posts: Rc<RefCell<HashMap<String, usize>>> = Rc::default();
        let (stage, connections) = stage(script!(
            [posts] | peer | {
                // Closes without a word after some answers, in the middle of whatever comes next.
                for _ in 0..3 + peer.number % 5 {
                    let Some((head, body)) = peer.request().await else { return };
                    if head.starts_with("POST") {
                        *posts.borrow_mut().entry(String::from_utf8(body).unwrap()).or_default() += 1;
                    }
                    peer.ok("done").await;
                }
            }
        ))
        .await;
        for _ in 0..2000 {
            stage.ask(get("/")).await.expect("a GET never fails");
        }
        let tasks: Vec<_> = (0..20)
            .map(|task| {
                let stage = stage.clone();
                spawn_local(async move {
                    let mut lost = 0;
                    for number in 0..100 {
                        stage.ask(get("/")).await.expect("a GET never fails");
                        let id = format!("{task}-{number}");
                        match stage.ask(request(Method::POST, "/", Body::full(id))).await {
                            Ok(_) => {}
                            Err(Kind::Reset) => lost += 1,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    lost
                })
            })
            .collect();
        let mut lost = 0;
        for task in tasks {
            lost += task.await.unwrap();
        }
        assert!(connections.get() > 200, "the upstream did close: {}", connections.get());
        assert!(posts.borrow().values().all(|times| *times == 1), "a POST ran twice");
        assert!(posts.borrow().len() + lost >= 2000);
        assert!(lost < 20, "{lost} POSTs were lost: a closed connection is seen before it is used");
        assert_eq!(stage.in_flight(), 0);
    });
}

#[test]
fn what_says_close_or_cannot_be_reused_is_not_reused() {
    run(async {
        for (answer, is_reused) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=0\r\n\r\nok", false),
        ] {
            let (stage, connections) = stage(script!(|peer| {
                while peer.request().await.is_some() {
                    peer.say(answer.as_bytes()).await;
                }
            }))
            .await;
            for _ in 0..2 {
                stage.ask(get("/")).await.unwrap();
            }
            assert_eq!(connections.get() == 1, is_reused, "{answer}");
            let mut closing = get("/");
            closing.headers_mut().insert("connection", "close".parse().unwrap());
            stage.ask(closing).await.unwrap();
            until(|| stage.pools.connections() == 0).await;
        }
    });
}

#[test]
fn an_idle_connection_is_closed_when_its_time_is_over() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (url, connections) = backend(script!(
            [closed] | peer | {
                while peer.request().await.is_some() {
                    peer.ok("").await;
                }
                closed.set(true);
            }
        ))
        .await;
        let mut settings = settings(&[&url]);
        settings.timeouts.idle = HumanDuration::millis(100);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        assert_eq!(stage.pools.connections(), 1);
        until(|| closed.get() && stage.pools.connections() == 0).await;
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn a_connection_is_closed_after_its_exchange_when_it_is_too_old() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.ok("").await;
            }
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.pool.age_max = HumanDuration::millis(100);
        let stage = Stage::new(&settings);
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(350) {
            stage.ask(get("/")).await.unwrap();
        }
        // Give or take a tenth, and a slow machine only makes it fewer.
        assert!((2..=4).contains(&connections.get()), "{}", connections.get());
    });
}

/// What the upstream does in the one moment in which the worker does not look: its thread gets a turn, the reactor does
/// not. Only the kernel knows of it then.
#[test]
fn what_comes_in_behind_an_idle_connection_ends_it() {
    let garbage = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for late in [Some(garbage), Some("x"), None] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (go, going) = std::sync::mpsc::sync_channel::<()>(1);
        let (did, done) = std::sync::mpsc::sync_channel::<()>(1);
        let upstream = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut kept = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                going.recv().unwrap();
                if let Some(late) = late {
                    stream.write_all(late.as_bytes()).unwrap();
                    kept.push(stream);
                } else {
                    drop(stream);
                }
                did.send(()).unwrap();
            }
        });
        run(async {
            let stage = Stage::new(&settings(&[&url]));
            stage.ask(post("x")).await.unwrap();
            go.send(()).unwrap();
            done.recv().unwrap();
            // A POST, so nothing would be tried again.
            assert_eq!(stage.ask(post("x")).await.unwrap(), (StatusCode::OK, "ok".into()), "{late:?}");
            assert_eq!(stage.attempts(), ["ok", "ok"]);
            go.send(()).unwrap();
        });
        upstream.join().unwrap();
    }
}

#[test]
fn bytes_behind_an_answer_end_the_connection() {
    run(async {
        let (stage, connections) = stage(script!(|peer| {
            while peer.request().await.is_some() {
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }))
        .await;
        for _ in 0..3 {
            assert_eq!(stage.ask(post("x")).await.unwrap().1, "ok");
        }
        assert_eq!(connections.get(), 3);
    });
}
