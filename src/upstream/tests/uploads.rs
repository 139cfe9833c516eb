//! Clients that send while the upstream answers.

use super::*;

#[test]
fn a_client_that_breaks_off_is_no_fault_of_the_upstreams() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (url, _) = backend(script!(
            [closed] | peer | {
                peer.head().await;
                peer.ok("").await;
                if peer.head().await.is_some() {
                    peer.gone().await;
                    closed.set(true);
                }
            }
        ))
        .await;
        let stage = Stage::new(&settings(&[&url]));
        stage.ask(get("/")).await.unwrap();
        stage.attempts();
        let (done, mut outcome) = mpsc::channel(4);
        let asking = stage.clone();
        let mut client = client(move |request, _| {
            let (stage, done) = (asking.clone(), done.clone());
            async move {
                done.try_send(stage.send(request).await.map(|_| ()).map_err(|error| (error.kind(), error.fault())))
                    .unwrap()
            }
        })
        .await;
        client
            .write_all(b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")
            .await
            .unwrap();
        let outcome = outcome.recv().await.unwrap();
        // Which of the client's faults it is, is for the framing to say.
        let Err((Kind::Client(_), Fault::Client)) = outcome else { panic!("{outcome:?}") };
        until(|| closed.get()).await;
        assert_eq!(stage.attempts().len(), 1, "no second try");
    });
}

#[test]
fn an_early_answer_is_passed_on_and_ends_the_sending() {
    run(async {
        // The second closes at once, with the client's bytes unread: what it said still counts.
        for is_rude in [false, true] {
            let closed = Rc::new(Cell::new(false));
            let (stage, connections) = stage(script!(
                [closed] | peer | {
                    peer.head().await;
                    peer.say(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
                    if !is_rude {
                        peer.gone().await;
                    }
                    closed.set(true);
                }
            ))
            .await;
            let (done, mut outcome) = mpsc::channel(4);
            let asking = stage.clone();
            let client = client(move |request, inbound| {
                let (stage, done) = (asking.clone(), done.clone());
                async move { done.try_send((stage.ask(request).await, inbound.ended.get())).unwrap() }
            })
            .await;
            let (_reading, mut writing) = client.into_split();
            spawn_local(async move {
                let _ = writing.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n").await;
                while writing.write_all(&[0; 1000]).await.is_ok() {}
            });
            let (outcome, is_sent_whole) = outcome.recv().await.unwrap();
            let (status, body) = outcome.unwrap();
            assert_eq!((status.as_u16(), &body[..]), (413, &b"big"[..]), "rude: {is_rude}");
            if !is_rude {
                until(|| closed.get() && stage.pools.connections() == 0).await;
            }
            let _ = is_sent_whole;
            assert_eq!(connections.get(), 1);
        }
    });
}

/// With the client still to send, only dropping the connection stops it.
#[test]
fn an_answer_read_to_its_end_before_the_request_was_sent_closes_the_connection() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (stage, _) = stage(script!(
            [closed] | peer | {
                peer.head().await;
                peer.ok("early").await;
                peer.gone().await;
                closed.set(true);
            }
        ))
        .await;
        let (done, mut outcome) = mpsc::channel(4);
        let asking = stage.clone();
        let mut client = client(move |request, inbound| {
            let (stage, done) = (asking.clone(), done.clone());
            async move { done.try_send((stage.ask(request).await, inbound.ended.get())).unwrap() }
        })
        .await;
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        let (outcome, is_ended) = outcome.recv().await.unwrap();
        assert_eq!(outcome.unwrap().1, "early");
        assert!(!is_ended);
        until(|| closed.get() && stage.pools.connections() == 0).await;
    });
}

#[test]
fn a_request_goes_on_behind_its_early_answer_though_nobody_reads_that() {
    run(async {
        let received = Rc::new(Cell::new(0));
        let (stage, _) = stage(script!(
            [received] | peer | {
                let head = peer.head().await.unwrap();
                assert!(head.contains("content-length: 900000\r\n"), "{head}");
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
                received.set(peer.body(900_000).await.map_or(0, |body| body.len()));
                peer.say(b"done").await;
                peer.gone().await;
            }
        ))
        .await;
        let (done, mut outcome) = mpsc::channel(4);
        let asking = stage.clone();
        let client = client(move |request, _| {
            let (stage, done) = (asking.clone(), done.clone());
            async move {
                done.try_send(stage.send(request).await.unwrap()).unwrap();
                std::future::pending().await
            }
        })
        .await;
        let (_reading, mut writing) = client.into_split();
        spawn_local(async move {
            let _ = writing.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n").await;
            for _ in 0..900 {
                let _ = writing.write_all(&[b'x'; 1000]).await;
            }
            std::future::pending::<()>().await;
        });
        let answer = outcome.recv().await.unwrap();
        until(|| received.get() == 900_000).await;
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
        assert_eq!(stage.pools.connections(), 1, "both sides are over, so the connection stays");
    });
}
