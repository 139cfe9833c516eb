//! One exchange after the other: requests in their order, and the connection in between.

use super::*;

#[test]
fn a_connection_serves_one_request_after_the_other() {
    run(async {
        let mut client = Client::connect(NEVER);
        for _ in 0..3 {
            client.send(GET).await;
            assert_eq!(client.response().await, (200, " 0".to_owned()));
            client.send(&post("/echo", "hello")).await;
            assert_eq!(client.response().await, (200, "hello 0".to_owned()));
            client.send(&post_chunked("/echo", "2\r\nab\r\n1;x\r\nc\r\n0\r\nT: v\r\n\r\n")).await;
            assert_eq!(client.response().await, (200, "abc 1".to_owned()));
        }
        assert_eq!(client.state.requests(), 9);
        assert!(client.state.bytes_written() > 0);
        drop(client.io);
        assert!(client.server.await.unwrap().0.is_ok());
    });
}

#[test]
fn an_answer_that_was_waited_for_goes_out_once_the_others_that_are_ready_have_read() {
    run(async {
        for (path, is_at_once) in [("/wait", false), ("/early", true)] {
            let mut client = Client::connect_with(NEVER, 1 << 16, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            yield_now().await;
            client.seen.go.notify_one();
            let (state, seen) = (client.state.clone(), client.seen.clone());
            // It comes behind the connection, which is ready before.
            let other = spawn_local(async move { (seen.taken.get(), state.bytes_written() > 0) });
            // Where its body arrived is free for what the others read.
            assert_eq!(other.await.unwrap(), (1, is_at_once), "{path}");
            assert!(client.response().await.1.contains(if is_at_once { "early" } else { "waited" }));
        }
    });
}

#[test]
fn a_connection_that_waits_holds_no_buffer() {
    run(async {
        let (mut client, io) = duplex(1024);
        client.write_all(&GET.as_bytes()[20..]).await.unwrap();
        let (limits, state) = (HeadLimits::default(), Rc::new(GateState::default()));
        let prefix = GET.as_bytes()[..20].to_vec();
        let mut gate = Gate::new(io, prefix, limits, NEVER, &Wheel::new(), &Scratch::default(), state);
        let entered = poll_fn(|cx| gate.poll_head(cx)).await.unwrap();
        assert_eq!(entered.request.uri(), "/echo");
        assert_eq!(gate.held_capacity(), 0);
    });
}

#[test]
fn bytes_that_were_read_before_count_and_are_served() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1 << 16, &GET[..10]);
        client.send(&GET[10..]).await;
        assert_eq!(client.response().await.0, 200);
        assert_eq!(client.state.bytes_read(), GET.len() as u64);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let stream = [
        &post("/echo", "one"),
        "\r\n",
        GET,
        &post_chunked("/echo", "3\r\ntwo\r\n0\r\n\r\n"),
        &post("/echo", "three"),
        GET,
    ]
    .concat();
    let bodies = ["one 0", " 0", "two 0", "three 0", " 0"];
    run(async {
        for split in 0..stream.len() {
            let mut client = Client::connect(NEVER);
            client.send(&stream[..split]).await;
            settle().await;
            client.send(&stream[split..]).await;
            for body in bodies {
                assert_eq!(client.response().await, (200, body.to_owned()), "split at {split}");
            }
        }
        let mut client = Client::connect(NEVER);
        client.send_in_bytes(&stream).await;
        for body in bodies {
            assert_eq!(client.response().await, (200, body.to_owned()), "byte by byte");
        }
    });
}

#[test]
fn a_large_head_passes() {
    run(async {
        let mut client = Client::connect(NEVER);
        let head = format!("GET /echo HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(7500)).repeat(4));
        client.send(&head).await;
        assert_eq!(client.response().await.0, 200);
        client.send_in_bytes(GET).await;
        assert_eq!(client.response().await.0, 200);
    });
}

#[test]
fn a_large_body_passes_and_the_request_behind_it_is_served() {
    run(async {
        let mut client = Client::connect_with(NEVER, 300_000, "");
        let body = "z".repeat(200_000);
        client.send(&format!("{}{GET}", post("/echo", &body))).await;
        assert_eq!(client.response().await.1.len(), 200_002);
        assert_eq!(client.response().await, (200, " 0".to_owned()));
    });
}

#[test]
fn the_next_head_waits_until_the_exchange_is_over() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send(&format!("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n{GET}BAD\0")).await;
        settle().await;
        assert_eq!(client.requests(), ["GET /wait"]);
        assert_eq!(client.state.requests(), 1);
        assert_eq!(client.state.violation(), None, "what waits is not judged yet");
        client.seen.go.notify_one();
        assert_eq!(client.response().await, (200, "waited".to_owned()));
        assert_eq!(client.response().await, (200, " 0".to_owned()));
    });
}

#[test]
fn a_client_that_pipelines_without_end_is_not_read_without_end() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1024, "");
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let flood = GET.repeat(4000);
        let mut sent = 0;
        let mut fill = async || {
            while let Ok(n) = tokio::time::timeout(SOON, client.io.write(&flood.as_bytes()[sent..])).await {
                sent += n.unwrap();
            }
        };
        fill().await;
        assert!(client.state.bytes_read() < 40_000, "{}", client.state.bytes_read());
        client.seen.go.notify_one();
        assert_eq!(client.response().await.1, "waited");
        for _ in 0..100 {
            assert_eq!(client.response().await.1, " 0");
        }
    });
}
