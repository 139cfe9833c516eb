//! Who waits for whom.

use super::*;

const CROWD: usize = 1000;

/// Asks for one URL so often at once, on ten connections, which are to be kept.
async fn crowd(armiger: &Armiger, backend: &Backend) -> (Vec<Connection>, Vec<JoinHandle<Response>>) {
    let (mut connections, mut tasks) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let connection = armiger.connect_h2c().await;
        for _ in 0..CROWD / 10 {
            let mut hand = connection.share();
            tasks.push(tokio::spawn(async move { hand.get("/hot").await }));
        }
        connections.push(connection);
    }
    armiger.until_metric("armiger_http_requests_in_flight{route=\"everything\"}", CROWD as f64).await;
    // A request is in flight before it has come to the back end.
    backend.arrived(1).await;
    (connections, tasks)
}

fn roomy(backend: &Backend) -> Config {
    Config::to(backend)
        .listener("limits: {streams_max: 200, in_flight_max: 4000}")
        .upstream("pool: {connections_max: 1100}\nlimits: {in_flight_max: 4000}")
        .policies("cache: {coalesce_wait: 1m}")
}

/// Answers upon the first signal with `one `, and upon the second with the `two` that belongs to it.
async fn in_two_pieces() -> (Backend, Signal, Signal) {
    let (first, rest) = (Signal::new(), Signal::new());
    let signals = (first.clone(), rest.clone());
    let backend = Backend::serving(move |_| {
        let (first, rest) = signals.clone();
        async move {
            first.wait().await;
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                chunks.data("one ").await;
                rest.wait().await;
                chunks.data("two").await;
            });
            answer
        }
    })
    .await;
    (backend, first, rest)
}

#[tokio::test]
async fn a_thousand_that_ask_for_one_cold_url_ask_the_upstream_once() {
    let (backend, first, rest) = in_two_pieces().await;
    let armiger = Armiger::with(roomy(&backend)).await;
    let (_connections, tasks) = crowd(&armiger, &backend).await;

    first.send();
    // Each has its head while the second part of the body has not come.
    armiger
        .until_metric("armiger_cache_requests_total{result=\"collapsed\",route=\"everything\"}", (CROWD - 1) as f64)
        .await;
    rest.send();
    for task in tasks {
        assert_eq!(task.await.expect("an answer").text(), "one two");
    }
    assert_eq!(backend.count(), 1);
}

/// Whoever waited for an answer that is none to store asks at once, and not one after the other; whoever comes later does
/// not wait.
#[tokio::test]
async fn a_thousand_that_ask_for_what_is_not_stored_ask_at_the_same_time() {
    let (first, rest) = (Signal::new(), Signal::new());
    let signals = (first.clone(), rest.clone());
    let count = Arc::new(AtomicUsize::new(0));
    let backend = Backend::serving(move |_| {
        let (first, rest) = signals.clone();
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if number == 0 {
                first.wait().await
            } else {
                rest.wait().await
            }
            reply(200, &[("cache-control", "no-store")], "own")
        }
    })
    .await;
    let armiger = Armiger::with(roomy(&backend)).await;
    let (_connections, tasks) = crowd(&armiger, &backend).await;
    assert_eq!(backend.count(), 1, "all wait for the first");

    first.send();
    // All of them are there before one of them is answered.
    backend.arrived(CROWD).await;
    rest.send();
    for task in tasks {
        assert_eq!(task.await.expect("an answer").text(), "own");
    }
    armiger.get("/hot").await.assert_status(200);
    assert_eq!(backend.count(), CROWD + 1);
}

/// Who waits must not suffer from who began.
#[tokio::test]
async fn a_fetch_goes_on_when_the_client_that_began_it_leaves() {
    let (backend, first, rest) = in_two_pieces().await;
    let armiger = caching(&backend, "{}").await;
    let gauge = "armiger_http_requests_in_flight{route=\"everything\"}";
    let leader = armiger.raw("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    backend.arrived(1).await;
    let follow = |armiger: &Armiger| {
        let client = armiger.client();
        tokio::spawn(async move { client.request(request("GET", "/", &[("host", "h")])).await })
    };
    let follower = follow(&armiger);
    armiger.until_metric(gauge, 2.0).await;
    leader.reset();
    armiger.until_metric(gauge, 1.0).await;
    first.send();
    armiger.until_metric("armiger_cache_requests_total{result=\"collapsed\",route=\"everything\"}", 1.0).await;
    rest.send();

    assert_eq!(follower.await.unwrap().text(), "one two");
    armiger.request(request("GET", "/", &[("host", "h")])).await.assert_status(200);
    assert_eq!(backend.count(), 1);
}

/// What breaks off must not look complete, and must not be stored.
#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_all_and_is_not_stored() {
    let count = Arc::new(AtomicUsize::new(0));
    let backend = Backend::serving(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if number > 0 {
                return reply(200, &[("cache-control", "max-age=60")], "whole");
            }
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                chunks.data("half").await;
                chunks.cut().await;
            });
            answer
        }
    })
    .await;
    let armiger = caching(&backend, "{}").await;
    let mut connection = armiger.connect().await;
    assert!(connection.try_request(request("GET", "/", &[])).await.is_err(), "a cut answer never looks complete");
    assert_eq!(armiger.get("/").await.text(), "whole");
}

/// Longer than `entry_max`, whether the answer says so or not.
#[tokio::test]
async fn what_is_too_long_goes_through_and_is_not_stored() {
    let long = "x".repeat(300 << 10);
    let body = long.clone();
    let backend = Backend::serving(move |request| {
        let (long, is_told) = (body.clone(), request.uri().path() == "/told");
        async move {
            if is_told {
                return reply(200, &[("cache-control", "max-age=60")], long);
            }
            let (chunks, mut answer) = streamed(200);
            answer.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            tokio::task::spawn_local(async move {
                for part in long.as_bytes().chunks(16 << 10) {
                    chunks.data(Bytes::copy_from_slice(part)).await;
                }
            });
            answer
        }
    })
    .await;
    let armiger = caching(&backend, "{entry_max: 64KiB}").await;
    for (round, target) in ["/told", "/told", "/untold", "/untold"].into_iter().enumerate() {
        let response = armiger.get(target).await;
        assert!(response.body == long, "{target}: {} bytes", response.body.len());
        assert_eq!(backend.count(), round + 1, "{target}");
    }
}
