//! How long a client may be silent, send, or not read.

use super::*;

#[test]
fn silence_ends_a_connection_without_a_word() {
    run(async {
        let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
        assert_eq!(client.end().await, "", "before the first request");
        assert_eq!(client.state.violation(), None);

        let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
        client.send("\r\n").await;
        assert_eq!(client.end().await, "", "an empty line is no request");

        let mut client = Client::connect(GateTimeouts { keep_alive: SOON, ..NEVER });
        client.send(GET).await;
        assert_eq!(client.response().await.0, 200);
        assert_eq!(client.end().await, "", "between two requests");
    });
}

#[test]
fn a_head_has_one_time_however_many_bytes_come() {
    run(async {
        for before in ["", GET] {
            let mut client = Client::connect(GateTimeouts { request_headers: SOON, ..NEVER });
            client.send(before).await;
            if !before.is_empty() {
                assert_eq!(client.response().await.0, 200);
            }
            client.send("GET /").await;
            let mut ticks = tokio::time::interval(SOON / 10);
            while client.state.violation().is_none() {
                soon(ticks.tick()).await;
                let _ = client.io.write_all(b"x").await;
            }
            assert_eq!(client.state.violation(), Some(Violation::HeadTimeout));
            assert_eq!(client.response().await.0, 408);
            assert_eq!(client.requests().len(), usize::from(!before.is_empty()));
        }
    });
}

#[test]
fn a_body_that_pauses_is_a_timeout_for_the_service() {
    run(async {
        let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
        let request = post("/echo", "hello");
        client.send(&request[..request.len() - 1]).await;
        assert_eq!(client.response().await.0, 408);
        assert_eq!(client.seen.body_violation.get(), Some(Violation::BodyTimeout));
    });
}

#[test]
fn a_body_that_moves_may_take_as_long_as_it_wants() {
    run(async {
        let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
        let request = post("/echo", "slow but steady");
        let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
        client.send(head).await;
        for byte in body.as_bytes() {
            settle().await;
            tokio::time::advance(SOON / 2).await;
            client.io.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(client.response().await, (200, "slow but steady 0".to_owned()));
    });
}

#[test]
fn a_service_may_take_as_long_as_it_wants() {
    run(async {
        let mut client =
            Client::connect(GateTimeouts { request_headers: SOON, body_idle: SOON, keep_alive: SOON, ..NEVER });
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /ec").await;
        let waited = tokio::time::timeout(SOON * 4, client.response()).await;
        assert!(waited.is_err(), "{waited:?}");
        client.seen.go.notify_one();
        assert_eq!(client.response().await.1, "waited");
    });
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    run(async {
        let mut client = Client::connect_with(GateTimeouts { body_idle: SOON, ..NEVER }, 1024, "");
        client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (result, _) = soon(client.server).await.unwrap();
        assert_eq!(Violation::of(&result.unwrap_err()), Some(Violation::WriteTimeout));
        assert_eq!(client.state.violation(), Some(Violation::WriteTimeout));
        assert_eq!(client.state.refusal(), None);
    });
}
