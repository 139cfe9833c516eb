//! How many connections and requests there are at once, and who waits.

use super::*;

#[test]
fn connections_and_the_queue_for_them_are_bounded_and_first_come_first_served() {
    run(async {
        let (stage, connections, release) = held(|settings| {
            settings.pool.connections_max = 2;
            settings.pool.queue_max = 2;
        })
        .await;
        let tasks: Vec<_> = (0..5).map(|_| ask_later(&stage)).collect();
        until(|| tasks[4].is_finished() && connections.get() == 2).await;
        assert_eq!(tasks.iter().filter(|task| task.is_finished()).count(), 1, "the fifth is refused at once");
        for turn in 0..4 {
            release.notify_one();
            until(|| tasks.iter().filter(|task| task.is_finished()).count() == 2 + turn).await;
            assert!(turn != 2 || tasks[2].is_finished(), "who came first is served first");
        }
        for (number, task) in tasks.into_iter().enumerate() {
            let outcome = task.await.unwrap();
            assert_eq!(outcome.map(|_| ()), if number == 4 { Err(Kind::QueueFull) } else { Ok(()) }, "{number}");
        }
        assert_eq!(connections.get(), 2, "those who waited got what came free");
    });
}

/// Nobody counts by endpoint where there is but one.
#[test]
fn operators_see_what_is_in_flight_at_each_endpoint_be_it_the_only_one() {
    run(async {
        let (stage, connections, release) = held(|_| ()).await;
        let tasks: Vec<_> = (0..3).map(|_| ask_later(&stage)).collect();
        until(|| connections.get() == 3).await;
        let shown = || stage.upstream().shown(Instant::now())["endpoints"][0]["in_flight"].clone();
        assert_eq!(shown(), 3);
        for task in tasks {
            release.notify_one();
            task.await.unwrap().unwrap();
        }
        assert_eq!(shown(), 0);
    });
}

#[test]
fn a_wait_too_long_is_an_error() {
    run(async {
        let (stage, _, _release) = held(|settings| {
            settings.pool.connections_max = 1;
            settings.pool.queue_wait = HumanDuration::millis(50);
        })
        .await;
        let holder = ask_later(&stage);
        until(|| stage.in_flight() == 1).await;
        yield_now().await;
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::QueueWait);
        holder.abort();
    });
}

/// One failure opens its breaker.
fn touchy(settings: &mut config::Upstream) {
    let trip = Trip { consecutive: Some(1), ..Trip::default() };
    settings.breaker = Some(Breaker { trip, ..Breaker::default() });
}

/// Others hold all that armiger may have open: that says nothing of the endpoint.
#[test]
fn a_wait_in_the_queue_says_nothing_of_the_upstream_however_it_ends() {
    run(async {
        let (stage, _, release) = held(|settings| {
            settings.pool.connections_max = 1;
            touchy(settings);
        })
        .await;
        let holder = ask_later(&stage);
        until(|| stage.in_flight() == 1).await;
        yield_now().await;
        let mut hasty = settings(&[&format!("http://{}", stage.upstream().plan.endpoints[0].label)]);
        hasty.pool.connections_max = 1;
        hasty.retry = Some(Retry { per_try: Some(HumanDuration::millis(50)), ..Retry::default() });
        touchy(&mut hasty);
        stage.reload(&hasty);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::QueueWait, "the try is over");

        let mut rows = SmallVec::new();
        let mut call = Call::new(HostRule::AsIs, Instant::now() + Duration::from_secs(30), None, &mut rows);
        call.due = Instant::now();
        let (upstream, mut request) = (stage.upstream(), get("/"));
        let given_up = tokio::time::timeout(Duration::ZERO, upstream.send(&stage.pools, call, &mut request)).await;
        assert!(given_up.is_err(), "the time that the configuration gives is over");

        let breaker = upstream.standings.breaker.as_ref().expect("it has one");
        assert_eq!(breaker.shown(Instant::now())["state"], "closed");
        release.notify_one();
        holder.await.unwrap().unwrap();
    });
}

#[test]
fn whoever_gives_up_waiting_loses_nothing_for_the_others() {
    run(async {
        let (stage, connections, release) = held(|settings| settings.pool.connections_max = 1).await;
        let holder = ask_later(&stage);
        until(|| connections.get() == 1).await;
        let (gone, next) = (ask_later(&stage), ask_later(&stage));
        until(|| stage.in_flight() == 3).await;
        gone.abort();
        release.notify_one();
        holder.await.unwrap().unwrap();
        release.notify_one();
        next.await.unwrap().unwrap();
        // Given up in the middle of an exchange: its connection closes, and its room goes to the next.
        let (holder, next) = (ask_later(&stage), ask_later(&stage));
        until(|| stage.in_flight() == 2).await;
        yield_now().await;
        holder.abort();
        until(|| connections.get() == 2).await;
        release.notify_one();
        release.notify_one();
        next.await.unwrap().unwrap();
        assert_eq!(stage.in_flight(), 0);
        assert_eq!(stage.pools.connections(), 1);
    });
}

#[test]
fn a_connection_granted_to_a_waiter_that_is_just_gone_is_not_lost() {
    run(async {
        let (stage, connections, release) = held(|settings| settings.pool.connections_max = 1).await;
        let holder = ask_later(&stage);
        until(|| connections.get() == 1).await;
        let response = {
            release.notify_one();
            let waiting = stage.ask(get("/"));
            tokio::pin!(waiting);
            // It is in the queue, and is not polled again before it is dropped.
            std::future::poll_fn(|cx| {
                assert!(waiting.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            holder.await.unwrap()
        };
        response.unwrap();
        assert_eq!(stage.in_flight(), 0);
        release.notify_one();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1, "the same connection serves on");
    });
}

#[test]
fn no_more_are_in_flight_than_allowed_and_the_count_lasts_to_the_end_of_the_body() {
    run(async {
        let (url, _) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.ok("body").await
            }
        }))
        .await;
        let mut settings = settings(&[&url]);
        settings.limits.in_flight_max = 1;
        let stage = Stage::new(&settings);
        let unread = stage.send(get("/")).await.unwrap();
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::InFlight);
        drop(unread);
        assert_eq!(stage.in_flight(), 0);
        stage.ask(get("/")).await.unwrap();
    });
}

#[test]
fn an_answer_dropped_unread_closes_its_connection() {
    run(async {
        let closed = Rc::new(Cell::new(false));
        let (stage, _) = stage(script!(
            [closed] | peer | {
                peer.request().await;
                peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nstart").await;
                peer.gone().await;
                closed.set(true);
            }
        ))
        .await;
        drop(stage.send(get("/")).await.unwrap());
        until(|| closed.get() && stage.pools.connections() == 0).await;
    });
}
