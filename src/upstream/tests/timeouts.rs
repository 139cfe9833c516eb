//! How long anything may take.

use super::*;

#[test]
fn a_connection_that_does_not_come_about_is_a_timeout() {
    run(async {
        let (address, _backlog) = silent().await;
        let mut settings = settings(&[&format!("http://{address}")]);
        settings.timeouts.connect = HumanDuration::millis(50);
        let stage = Stage::new(&settings);
        let error = stage.send(get("/")).await.map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.slug()), (Kind::ConnectTimeout, "upstream-connect-timeout"));
        assert_eq!(stage.in_flight(), 0);
    });
}

#[test]
fn an_answer_that_does_not_begin_is_a_timeout_and_closes_the_connection() {
    run(async {
        for silence in ["", "HTTP/1.1 20", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
            let closed = Rc::new(Cell::new(false));
            let (url, _) = backend(script!(
                [closed] | peer | {
                    peer.request().await;
                    peer.say(silence.as_bytes()).await;
                    peer.gone().await;
                    closed.set(true);
                }
            ))
            .await;
            let mut settings = settings(&[&url]);
            settings.timeouts.first_byte = HumanDuration::millis(50);
            let stage = Stage::new(&settings);
            assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Timeout, "{silence}");
            until(|| closed.get()).await;
        }
    });
}

#[test]
fn the_wait_for_an_answer_begins_when_the_request_is_sent_whole() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            peer.request().await;
            peer.ok("thanks").await;
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.timeouts.first_byte = HumanDuration::millis(60);
        let stage = Stage::new(&settings);
        let (done, mut outcome) = mpsc::channel(4);
        let mut client = client(move |request, _| {
            let (stage, done) = (stage.clone(), done.clone());
            async move { done.try_send(stage.ask(request).await).unwrap() }
        })
        .await;
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        for byte in b"slow" {
            // The client takes its time: longer than the upstream may.
            tokio::time::timeout(Duration::from_millis(100), outcome.recv()).await.unwrap_err();
            client.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(outcome.recv().await.unwrap().unwrap().1, "thanks");
    });
}

#[test]
fn a_pause_within_an_answer_cuts_it() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            peer.request().await;
            peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
            peer.gone().await;
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.timeouts.body_idle = HumanDuration::millis(50);
        let stage = Stage::new(&settings);
        let body = stage.send(get("/")).await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap_err(), BodyError::UpstreamSlow);
        until(|| stage.pools.connections() == 0).await;
    });
}
