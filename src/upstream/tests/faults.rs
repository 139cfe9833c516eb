//! What an upstream may do wrong.

use super::*;

#[test]
fn an_answer_that_breaks_the_rules_is_an_error_and_never_passed_on() {
    run(async {
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(101));
        let cases: &[(&str, Kind)] = &[
            ("garbage that is no HTTP at all\r\n\r\n", Kind::Protocol),
            ("\0\x01\x02\x03", Kind::Protocol),
            ("HTTP/2.0 200 OK\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 99 Low\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 1000 High\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 -20 Odd\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 000 Odd\r\ncontent-length: 0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\na", Kind::Protocol),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: x\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                Kind::Protocol,
            ),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nbad header: x\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nx : y\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n", Kind::Protocol),
            ("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", Kind::Protocol),
            (&endless, Kind::HeadTooLarge),
            (&many, Kind::HeadTooLarge),
        ];
        for (answer, kind) in cases {
            let answer: Rc<str> = (*answer).into();
            let (stage, _) = stage(script!(
                [answer] | peer | {
                    peer.request().await;
                    peer.say(answer.as_bytes()).await;
                    peer.gone().await;
                }
            ))
            .await;
            assert_eq!(stage.ask(get("/")).await.unwrap_err(), *kind, "{answer:.80}");
            until(|| stage.pools.connections() == 0).await;
            assert_eq!(stage.in_flight(), 0);
        }
    });
}

#[test]
fn interim_answers_are_never_the_answer() {
    run(async {
        let (stage, _) = stage(script!(|peer| {
            peer.request().await;
            peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
            peer.ok("final").await;
            peer.gone().await;
        }))
        .await;
        assert_eq!(stage.ask(post("x")).await.unwrap(), (StatusCode::OK, "final".into()));
    });
}

#[test]
fn a_cut_answer_never_looks_whole() {
    run(async {
        for answer in [
            "content-length: 10\r\n\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
            "transfer-encoding: chunked\r\n\r\nnonsense\r\n",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalfway\r\n0\r\n\r\n",
        ] {
            let (stage, _) = stage(script!(|peer| {
                peer.request().await;
                peer.say(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).await;
            }))
            .await;
            let body = stage.send(get("/")).await.unwrap().into_body();
            assert_eq!(body.collect().await.unwrap_err(), BodyError::UpstreamCut, "{answer}");
            assert_eq!(stage.in_flight(), 0);
        }
    });
}
