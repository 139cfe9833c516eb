//! How a connection ends: clients that leave, heads that are refused, tunnels.

use super::*;

#[test]
fn a_client_that_goes_away_ends_its_exchange_at_once() {
    run(async {
        for more in ["", GET, "GET /ec"] {
            let mut client = Client::connect(NEVER);
            client.send(&format!("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n{more}")).await;
            settle().await;
            assert_eq!(client.seen.aborted.get(), 0);
            client.io.shutdown().await.unwrap();
            let (result, _) = soon(client.server).await.unwrap();
            assert!(matches!(result, Err(Broken::ClientGone)));
            assert_eq!(client.seen.aborted.get(), 1, "with {more:?} behind");
        }
    });
}

#[test]
fn an_answer_is_over_once_it_has_left_and_not_when_it_is_written_down() {
    const HELD: usize = 64;
    run(async {
        for leaves in [false, true] {
            // The pipe takes no more of it.
            let mut client = Client::connect_with(NEVER, HELD, "");
            client.send(GET).await;
            settle().await;
            assert_eq!(client.seen.ended.get(), 0);
            if !leaves {
                assert_eq!(client.response().await.0, 200);
                settle().await;
                assert_eq!((client.seen.ended.get(), client.seen.lost.get()), (1, None));
                continue;
            }
            client.io.shutdown().await.unwrap();
            drop(client.io);
            let (result, gate) = soon(client.server).await.unwrap();
            assert!(result.is_err());
            assert_eq!((client.seen.ended.get(), client.seen.lost.get()), (1, Some(gate.unsent())));
            assert!(gate.unsent() > 0);
        }
    });
}

#[test]
fn a_refused_head_is_answered_by_us_and_reaches_nobody() {
    let cases = [
        ("GET /echo HTTP/1.1\r\n\r\n", 400, Violation::HostMissing),
        ("GET /echo HTTP/1.1\nHost: a\n\n", 400, Violation::BareLineEnd),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, Violation::Version),
        ("\u{16}\u{3}\u{1}", 400, Violation::Method),
    ];
    run(async {
        for (text, status, violation) in cases {
            for before in ["", GET] {
                let mut client = Client::connect(NEVER);
                client.send(&format!("{before}{text}{GET}")).await;
                if !before.is_empty() {
                    assert_eq!(client.response().await.0, 200);
                }
                assert_eq!(client.end().await, format!("HTTP/1.1 {status} refused\r\nContent-Length: 0\r\n\r\n"));
                assert_eq!(client.state.violation(), Some(violation));
                assert_eq!(client.requests().len(), usize::from(!before.is_empty()));
            }
        }
    });
}

#[test]
fn a_response_is_delivered_whole_before_the_refusal_of_what_was_pipelined_behind_it() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1024, "");
        client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\nBAD\r\n\r\n").await;
        settle().await;
        assert_eq!(client.response().await.1.len(), 1 << 20);
        assert!(client.end().await.starts_with("HTTP/1.1 400 refused"));
    });
}

#[test]
fn a_refused_client_that_still_sends_is_drained() {
    run(async {
        let mut client = Client::connect_with(NEVER, 1024, "");
        client.send(&format!("BAD\r\n\r\n{}", "x".repeat(500_000))).await;
        assert!(client.response().await.0 == 400);
        drop(client.io);
        soon(client.server).await.unwrap().0.unwrap();
    });
}

#[test]
fn a_head_that_is_cut_ends_without_a_word() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send(&GET[..20]).await;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.end().await, "");
        assert!(client.requests().is_empty());
    });
}

#[test]
fn the_bytes_behind_an_upgrade_are_kept_unread_for_the_tunnel() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0\x01\n").await;
        let (result, gate) = soon(client.server).await.unwrap();
        result.unwrap();
        assert!(client.state.is_tunnel());
        let (mut io, rest) = gate.into_parts();
        assert_eq!(rest, b"\0\x01\n");
        client.io.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        io.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    });
}
