//! The form in which requests reach an upstream.

use super::*;

#[test]
fn requests_have_the_form_that_the_upstream_expects() {
    run(async {
        let heads = Rc::new(RefCell::new(Vec::new()));
        let (url, _) = backend(script!(
            [heads] | peer | {
                while let Some((head, _)) = peer.request().await {
                    heads.borrow_mut().push(head);
                    peer.ok("").await;
                }
            }
        ))
        .await;
        let stage = Stage::new(&settings(&[&url]));
        let port = url.rsplit(':').next().unwrap();
        let mut absolute = get("http://other.example/a?b");
        absolute.headers_mut().remove("host");
        let mut bare = get("/bare");
        bare.headers_mut().remove("host");
        *bare.version_mut() = http::Version::HTTP_3;
        let mut lying = post("true");
        lying.headers_mut().insert("content-length", "9".parse().unwrap());
        let mut padded = post("true");
        padded.headers_mut().insert("content-length", "0004".parse().unwrap());
        let mut lying_empty = get("/empty");
        lying_empty.headers_mut().insert("content-length", "9".parse().unwrap());
        let asterisk = request(Method::OPTIONS, "*", "");
        for request in [get("/a?b"), absolute, bare, lying, padded, lying_empty, asterisk] {
            stage.ask(request).await.unwrap();
        }
        drop(stage.send_as(HostRule::Endpoint, &mut SmallVec::new(), get("/")).await.unwrap());
        assert_eq!(
            *heads.borrow(),
            [
                "GET /a?b HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned(),
                "GET /a?b HTTP/1.1\r\nhost: other.example\r\n\r\n".to_owned(),
                format!("GET /bare HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n"),
                "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\n\r\n".to_owned(),
                "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\n\r\n".to_owned(),
                "GET /empty HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "OPTIONS * HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_owned(),
                format!("GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n"),
            ]
        );
    });
}

#[test]
fn a_get_with_a_body_of_unknown_length_keeps_it() {
    run(async {
        let (stage, _) = stage(script!(|peer| {
            let head = peer.head().await.unwrap();
            assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
            let body = peer.body("4\r\nbody\r\n0\r\n\r\n".len()).await.unwrap();
            peer.ok(std::str::from_utf8(&body).unwrap()).await;
        }))
        .await;
        let (done, mut outcome) = mpsc::channel(4);
        let mut client = client(move |request, _| {
            let (stage, done) = (stage.clone(), done.clone());
            async move { done.try_send(stage.ask(request).await).unwrap() }
        })
        .await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(outcome.recv().await.unwrap().unwrap().1, "4\r\nbody\r\n0\r\n\r\n");
    });
}

#[test]
fn a_unix_socket_and_a_name_serve_as_well() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Peer { stream: Box::new(stream), read: Vec::new(), number: 0 };
            while peer.request().await.is_some() {
                peer.ok("unix").await;
            }
        });
        let stage = Stage::new(&settings(&[&format!("unix:{}", path.display())]));
        for _ in 0..2 {
            assert_eq!(stage.ask(get("/")).await.unwrap().1, "unix");
        }
        assert_eq!(stage.pools.connections(), 1);

        let stage = Stage::new(&settings(&[&format!("unix:{}/none", folder.path().display())]));
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::Unreachable);

        let (url, _) = backend(script!(|peer| {
            peer.request().await;
            peer.ok("name").await;
        }))
        .await;
        let port = url.rsplit(':').next().unwrap();
        let stage = Stage::new(&settings(&[&format!("http://localhost:{port}")]));
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "name");
    });
}

/// A socket says that its queue is full where TCP would be silent: both are waited for.
#[test]
fn a_unix_socket_whose_queue_is_full_is_asked_again() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(socket.into()).unwrap();
        let mut before = Vec::new();
        while let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
            before.push(stream);
        }

        let mut settings = settings(&[&format!("unix:{}", path.display())]);
        settings.timeouts.connect = HumanDuration::millis(50);
        let stage = Stage::new(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::ConnectTimeout, "nobody accepts");

        settings.timeouts.connect = HumanDuration::seconds(20);
        let stage = Stage::new(&settings);
        let asked = stage.ask(get("/"));
        tokio::pin!(asked);
        assert!(tokio::time::timeout(Duration::from_millis(30), asked.as_mut()).await.is_err(), "it is waited for");
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                spawn_local(async move {
                    let mut peer = Peer { stream: Box::new(stream), read: Vec::new(), number: 0 };
                    while peer.request().await.is_some() {
                        peer.ok("unix").await;
                    }
                });
            }
        });
        assert_eq!(asked.await.unwrap().1, "unix");
    });
}
