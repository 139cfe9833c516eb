//! When a request is sent again, and when not.

use super::*;

/// Connections that break after the request of number `broken` on the first of them.
fn breaks_once(how: &'static str, requests: Rc<RefCell<Vec<String>>>) -> impl Fn(Peer) -> Playing {
    script!(
        [requests] | peer | {
            let mut served = 0;
            while let Some((head, body)) = peer.request().await {
                requests.borrow_mut().push(format!("{} {}", &head[..4], String::from_utf8_lossy(&body)));
                served += 1;
                if peer.number == 0 && served == 2 {
                    peer.say(how.as_bytes()).await;
                    return;
                }
                peer.ok("fine").await;
            }
        }
    )
}

#[test]
fn a_lost_request_is_repeated_only_if_that_is_safe() {
    run(async {
        let keyed = || {
            let mut keyed = post("p");
            keyed.headers_mut().insert("idempotency-key", "1".parse().unwrap());
            keyed
        };
        type Case = (&'static str, fn() -> Request<Body>, Result<(), Kind>);
        let cases: [Case; 10] = [
            ("", || get("/"), Ok(())),
            ("", || request(Method::PUT, "/", "p"), Ok(())),
            ("", || request(Method::DELETE, "/", ""), Ok(())),
            ("", keyed, Ok(())),
            ("", || post("p"), Err(Kind::Reset)),
            ("", || request(Method::PATCH, "/", "p"), Err(Kind::Reset)),
            ("H", || get("/"), Err(Kind::Incomplete)),
            ("HTTP/1.1 200 OK\r\ncontent-le", || get("/"), Err(Kind::Incomplete)),
            ("HTTP/1.1 100 Continue\r\n\r\n", || get("/"), Err(Kind::Incomplete)),
            ("nonsense\r\n\r\n", || get("/"), Err(Kind::Protocol)),
        ];
        for (how, make, expected) in cases {
            let requests = Rc::default();
            let (stage, _) = stage(breaks_once(how, Rc::clone(&requests))).await;
            stage.ask(get("/")).await.unwrap();
            stage.attempts();
            let (method, outcome) = (make().method().clone(), stage.ask(make()).await);
            assert_eq!(outcome.map(|_| ()), expected, "{method} {how:?}");
            let sent = requests.borrow().len() - 1;
            assert_eq!(sent, if expected.is_ok() { 2 } else { 1 }, "{method} {how:?}");
            if expected.is_ok() {
                assert_eq!(stage.attempts(), ["upstream-reset", "ok"]);
                let requests = requests.borrow();
                assert_eq!(requests[1], requests[2], "the second try is the first");
            }
        }
    });
}

#[test]
fn a_new_connection_that_breaks_is_not_tried_again() {
    run(async {
        let (stage, connections) = stage(script!(|peer| {
            peer.request().await;
        }))
        .await;
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Reset);
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_put_streamed_by_a_client_is_repeated_while_it_is_small() {
    run(async {
        for (length, is_repeated) in [(10_000, true), (80_000, false)] {
            let requests = Rc::default();
            let (stage, _) = stage(breaks_once("", Rc::clone(&requests))).await;
            stage.ask(get("/")).await.unwrap();
            let (done, outcome) = oneshot::channel();
            let done = Rc::new(Cell::new(Some(done)));
            let asking = stage.clone();
            let mut client = client(move |request, _| {
                let (stage, done) = (asking.clone(), done.clone());
                async move { done.take().unwrap().send(stage.ask(request).await).unwrap() }
            })
            .await;
            let body = "b".repeat(length);
            client
                .write_all(format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
                .await
                .unwrap();
            let outcome = outcome.await.unwrap();
            assert_eq!(outcome.is_ok(), is_repeated, "{length}: {outcome:?}");
            if is_repeated {
                assert_eq!(*requests.borrow()[2], format!("PUT  {body}"));
            }
        }
    });
}

#[test]
fn an_endpoint_that_refuses_is_passed_over_and_all_that_refuse_are_an_error() {
    run(async {
        let (good, _) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.ok("").await
            }
        }))
        .await;
        let (one, two) = (closed_port().await, closed_port().await);
        let stage = Stage::new(&settings(&[&one, &two, &good]));
        for _ in 0..6 {
            stage.ask(post("x")).await.expect("one endpoint is there");
        }
        let stage = Stage::new(&settings(&[&one, &two]));
        let error = stage.send(get("/")).await.map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.slug(), error.fault()), (Kind::Refused, "upstream-connect", Fault::Upstream));
        assert!(std::error::Error::source(&error).is_some(), "the cause is there for the log");
        assert_eq!(stage.attempts(), ["upstream-connect", "upstream-connect"]);
        assert_eq!(stage.in_flight(), 0);
    });
}
