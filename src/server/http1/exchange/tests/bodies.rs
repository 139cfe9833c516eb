//! Bodies that nobody reads, that break the rules or break off, and answers that come before them.

use super::*;

#[test]
fn an_early_answer_never_makes_a_request_of_the_body() {
    run(async {
        let evil = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8000);
        let chunks = format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len());
        for request in [post("/early", &evil), post_chunked("/early", &chunks)] {
            for step in [request.len(), 100_000, 4096, 100] {
                let mut client = Client::connect(NEVER);
                for piece in request.as_bytes().chunks(step) {
                    // The server may have closed already.
                    if soon(client.io.write_all(piece)).await.is_err() {
                        break;
                    }
                }
                let _ = soon(client.io.write_all(GET.as_bytes())).await;
                assert_eq!(client.response().await, (403, "early".to_owned()));
                assert_eq!(client.end().await, "");
                assert_eq!(client.requests(), ["POST /early"], "in pieces of {step}");
            }
        }
    });
}

#[test]
fn a_small_body_that_nobody_reads_is_drained_and_the_connection_goes_on() {
    run(async {
        let mut client = Client::connect(NEVER);
        client.send(&post("/early", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        client.send(GET).await;
        assert_eq!(client.response().await, (403, "early".to_owned()));
        assert_eq!(client.response().await, (200, " 0".to_owned()));
        assert_eq!(client.requests(), ["POST /early", "GET /echo"]);
    });
}

#[test]
fn the_small_rest_of_a_body_that_nobody_reads_is_waited_for_once() {
    run(async {
        let request = post("/early", &"x".repeat(1000));
        let mut client = Client::connect(GateTimeouts { body_idle: SOON, ..NEVER });
        client.send(&request[..request.len() - 900]).await;
        assert_eq!(client.response().await, (403, "early".to_owned()));
        client.send(&request[request.len() - 900..]).await;
        client.send(GET).await;
        assert_eq!(client.response().await, (200, " 0".to_owned()));

        // A byte now and then makes that no longer.
        let began = tokio::time::Instant::now();
        client.send(&request[..request.len() - 900]).await;
        assert_eq!(client.response().await, (403, "early".to_owned()));
        for _ in 0..100 {
            let _ = client.io.write_all(b"x").await;
            tokio::time::sleep(SOON / 10).await;
        }
        assert_eq!(client.end().await, "");
        assert!(began.elapsed() < 20 * SOON, "{:?}", began.elapsed());
    });
}

#[test]
fn an_answer_behind_which_nothing_can_be_read_says_so() {
    let large = "x".repeat(DRAINED + 200);
    let expecting = "POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let ending = [&post("/early", &large)[..200], &post_chunked("/early", "5\r\nhello\r\n"), expecting];
    let going_on = [
        post("/early", "hello"),
        // Not here yet, and waited for.
        post("/early", "hello").replace("hello", ""),
        post_chunked("/early", "5\r\nhello\r\n0\r\n\r\n"),
    ];
    run(async {
        let answer = async |request: &str| {
            let mut client = Client::connect(NEVER);
            client.send(request).await;
            settle().await;
            let mut text = vec![0; 4096];
            let length = soon(client.io.read(&mut text)).await.unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        for request in ending {
            assert!(answer(request).await.contains("\r\nconnection: close\r\n"), "{request:?}");
        }
        for request in &going_on {
            assert!(!answer(request).await.contains("connection:"), "{request:?}");
        }
    });
}

#[test]
fn a_bad_chunk_reaches_the_service_as_its_violation_and_ends_the_connection() {
    let cases = [
        ("5\nhello\r\n0\r\n\r\n", Violation::ChunkSize),
        ("5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd),
        ("0\r\nContent-Length: 5\r\n\r\n", Violation::Trailer),
    ];
    run(async {
        for (body, violation) in cases {
            for is_slow in [false, true] {
                let mut client = Client::connect(NEVER);
                let request = post_chunked("/echo", body);
                let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
                client.send(head).await;
                if is_slow {
                    settle().await;
                }
                client.send(&format!("{body}{GET}")).await;
                assert_eq!(client.response().await.0, 400);
                assert_eq!(client.end().await, "");
                assert_eq!(client.seen.body_violation.get(), Some(violation));
                assert_eq!(client.requests().len(), 1);
                assert_eq!(client.state.refusal(), None, "the service has answered");
            }
        }
    });
}

#[test]
fn a_body_that_is_cut_is_an_error_and_not_an_end() {
    run(async {
        for request in [post("/echo", "hello"), post_chunked("/echo", "5\r\nhello\r\n0\r\n\r\n")] {
            let mut client = Client::connect(NEVER);
            client.send(&request[..request.len() - 1]).await;
            client.io.shutdown().await.unwrap();
            let (result, _) = soon(client.server).await.unwrap();
            assert!(matches!(result, Err(Broken::ClientGone)), "it has gone");
            assert_eq!(client.seen.aborted.get(), 1);
        }
    });
}
