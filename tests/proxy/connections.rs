//! Versions and connections on both sides, and answers without a body.

use super::*;

// === answers without a body ===

#[tokio::test]
async fn a_head_request_gets_the_headers_of_a_get_and_no_body() {
    let backend = Backend::replies("0123456789").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = conversation.answer_to_head().await;
    conversation.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;

    head.assert_status(200).assert_header("content-length", "10").assert_no_header("transfer-encoding");
    assert_eq!(conversation.answer().await.text(), "0123456789");
    assert_eq!(backend.requests()[0].method, "HEAD");
}

#[tokio::test]
async fn a_204_and_a_304_have_no_body_and_the_connection_goes_on() {
    for head in ["204 No Content\r\n", "304 Not Modified\r\netag: \"a\"\r\n"] {
        let script = Script::new().request().write(format!("HTTP/1.1 {head}\r\n")).again();
        let backend = Backend::raw(script).await;
        let armiger = Armiger::proxying(&backend).await;

        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut conversation = armiger.raw(get).await;
        for _ in 0..2 {
            let response = conversation.answer().await;
            assert_eq!(response.status.to_string(), head[..3]);
            response.assert_no_header("transfer-encoding").assert_no_header("content-length");
            assert_eq!(response.headers.contains_key("etag"), response.status == 304);
            conversation.write(get).await;
        }

        conversation.answer().await;
        assert_eq!(backend.connections(), 1);
    }
}

// === versions and connections ===

#[tokio::test]
async fn an_http10_client_gets_an_answer_that_ends_with_the_connection() {
    let backend = Backend::with(|_| {
        let (chunks, answer) = streamed(200);
        tokio::task::spawn_local(async move {
            chunks.data("of unknown ").await;
            chunks.data("length").await;
        });
        answer
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nhost: a\r\n\r\n"] {
        let mut conversation = armiger.raw(request).await;
        let response = conversation.answer().await;

        response.assert_status(200).assert_no_header("transfer-encoding");
        assert_eq!(response.text(), "of unknown length");
        conversation.assert_closed().await;
    }
    assert!(backend.requests().iter().all(|seen| seen.version == Version::HTTP_11));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut first = armiger.connect().await;
    for _ in 0..5 {
        first.get("/").await.assert_status(200).assert_no_header("connection");
    }
    let mut second = armiger.connect().await;
    second.post("/", "a body").await.assert_status(200);

    assert_eq!((backend.connections(), backend.count()), (1, 6));
    armiger.until_metric("armiger_upstream_connections_reused_total{upstream=\"app\"}", 5.0).await;
    armiger.until_metric("armiger_listener_connections_accepted_total{listener=\"http\"}", 2.0).await;
}

#[tokio::test]
async fn the_connection_used_last_is_used_first() {
    let signals = [Signal::new(), Signal::new()];
    let waits = signals.clone();
    let backend = Backend::serving(move |request| {
        let wait = match request.uri().path() {
            "/0" => Some(waits[0].clone()),
            "/1" => Some(waits[1].clone()),
            _ => None,
        };
        async move {
            if let Some(wait) = wait {
                wait.wait().await;
            }
            answer(200, "ok")
        }
    })
    .await;
    let armiger = Armiger::with(Config::to(&backend).upstream("timeouts: {idle: 60s}")).await;

    let mut clients = [armiger.connect().await, armiger.connect().await];
    let [first, second] = &mut clients;
    let (one, other) = tokio::join!(first.get("/0"), async {
        backend.arrived(1).await;
        let second = second.get("/1");
        let release = async {
            backend.arrived(2).await;
            signals[0].send();
            armiger.until_metric("armiger_upstream_connections{state=\"idle\",upstream=\"app\"}", 1.0).await;
            signals[1].send();
        };
        tokio::join!(second, release).0
    });
    one.assert_status(200);
    other.assert_status(200);
    armiger.until_metric("armiger_upstream_connections{state=\"idle\",upstream=\"app\"}", 2.0).await;
    for _ in 0..3 {
        clients[0].get("/").await.assert_status(200);
        armiger.until_metric("armiger_upstream_connections{state=\"idle\",upstream=\"app\"}", 2.0).await;
    }

    let used: Vec<usize> = backend.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(used, [0, 1, 1, 1, 1]);
}

#[tokio::test]
async fn streams_of_an_http2_client_are_served_at_the_same_time() {
    let signal = Signal::new();
    let wait = signal.clone();
    let backend = Backend::serving(move |request| {
        let wait = (request.uri().path() == "/slow").then(|| wait.clone());
        async move {
            if let Some(wait) = wait {
                wait.wait().await;
            }
            answer(200, "ok")
        }
    })
    .await;
    let armiger = Armiger::proxying(&backend).await;

    let mut slow = armiger.connect_h2c().await;
    let mut quick = slow.share();
    let (slow, quick) = tokio::join!(slow.get("/slow"), async {
        backend.arrived(1).await;
        let quick = quick.get("/quick").await;
        signal.send();
        quick
    });

    assert_eq!((slow.status, slow.version), (200, Version::HTTP_2));
    assert_eq!(quick.status, 200);
    assert_eq!(backend.requests()[0].version, Version::HTTP_11);
    armiger.until_metric("armiger_listener_connections_accepted_total{listener=\"http\"}", 1.0).await;
}

#[tokio::test]
async fn an_h2c_upstream_gets_many_requests_on_one_connection() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).upstream("protocol: h2c")).await;

    let mut clients: Vec<Connection> = Vec::new();
    for _ in 0..3 {
        clients.push(armiger.connect().await);
    }
    for client in &mut clients {
        let sent = Request::post("/a?b=c").header("host", "shop.example.com").body(Full::new(Bytes::from("body")));
        client.request(sent.unwrap()).await.assert_status(200);
    }

    for seen in backend.received(3).await {
        assert_eq!((seen.version, seen.method.as_str(), seen.target.as_str()), (Version::HTTP_2, "POST", "/a?b=c"));
        assert_eq!((seen.header("host"), seen.body.as_slice()), ("shop.example.com", &b"body"[..]));
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_upstream_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut reader = Reader::new(stream);
        let head = reader.head().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nunix";
        tokio::io::AsyncWriteExt::write_all(reader.stream(), answer).await.unwrap();
        head
    });
    let armiger = Armiger::with(Config::to_url(&format!("unix:{}", path.display()))).await;

    let response = armiger.request(request("GET", "/x", &[("host", "shop.example.com")])).await;

    assert_eq!(response.assert_status(200).text(), "unix");
    let head = within("the back end", served).await.unwrap();
    assert_eq!(head.line, "GET /x HTTP/1.1");
    assert_eq!(head.headers["host"], "shop.example.com");
}

#[tokio::test]
async fn several_endpoints_share_the_requests_in_turn() {
    let backends = [Backend::replies("a").await, Backend::replies("b").await, Backend::replies("c").await];
    let config = to_all(&[&backends[0], &backends[1], &backends[2]]).upstream("balance: round_robin");
    let armiger = Armiger::with(config).await;

    let mut connection = armiger.connect().await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(connection.get("/").await.text().to_owned());
    }

    assert_eq!(answers[..3], answers[3..]);
    assert!(backends.iter().all(|backend| backend.count() == 2), "{answers:?}");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let (mut gone, there) = (Backend::replies("gone").await, Backend::replies("there").await);
    let armiger = Armiger::with(to_all(&[&gone, &there])).await;
    gone.stop();

    for _ in 0..4 {
        // A POST too: nothing of it was sent.
        assert_eq!(armiger.post("/", "body").await.assert_status(200).text(), "there");
    }
}

#[tokio::test]
async fn several_workers_share_the_connections() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with_workers(3, Config::to(&backend)).await;

    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = armiger.connect().await;
        client.get("/").await.assert_status(200);
        clients.push(client);
    }

    // Each worker has connections of its own to the upstream, and one serves all that its clients ask in turn.
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn the_last_request_that_a_connection_may_carry_closes_it() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {requests_max: 2}")).await;

    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut conversation = armiger.raw([get, get, get].concat()).await;

    conversation.answer().await.assert_status(200).assert_no_header("connection");
    conversation.answer().await.assert_status(200).assert_header("connection", "close");
    conversation.assert_closed().await;
    assert_eq!(backend.count(), 2);
    armiger.until_metric("armiger_limit_hits_total{limit=\"requests_max\"}", 1.0).await;
}

#[tokio::test]
async fn the_last_request_that_an_http2_connection_may_carry_closes_it() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::with(Config::to(&backend).listener("limits: {requests_max: 2}")).await;

    let mut connection = armiger.connect_h2c().await;
    connection.get("/").await.assert_status(200);
    connection.get("/").await.assert_status(200);

    connection.closed().await;
    armiger.until_metric("armiger_limit_hits_total{limit=\"requests_max\"}", 1.0).await;
}

#[tokio::test]
async fn a_client_that_asks_to_close_is_obeyed() {
    let backend = Backend::replies("ok").await;
    let armiger = Armiger::proxying(&backend).await;

    let mut conversation = armiger.raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;

    conversation.answer().await.assert_status(200).assert_header("connection", "close");
    conversation.assert_closed().await;
    armiger.get("/").await.assert_status(200);
    assert_eq!(backend.connections(), 1, "the upstream's connection is not the client's to close");
}
