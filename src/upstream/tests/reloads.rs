//! What lives on over a reload, and what does not.

use super::*;

/// Answers with `name`, to `/wait` only when told to. Gives its address and the count of connections so far.
async fn named(name: &'static str) -> (String, Rc<Cell<usize>>, Rc<Semaphore>) {
    let release = Rc::new(Semaphore::new(0));
    let (url, connections) = backend(script!(
        [release] | peer | {
            while let Some((head, _)) = peer.request().await {
                if head.starts_with("GET /wait") {
                    release.acquire().await.unwrap().forget();
                }
                peer.ok(name).await;
            }
        }
    ))
    .await;
    (url, connections, release)
}

fn wait_later(stage: &Rc<Stage>) -> tokio::task::JoinHandle<Result<(StatusCode, Bytes), Kind>> {
    let stage = stage.clone();
    spawn_local(async move { stage.ask(get("/wait")).await })
}

/// What an exchange of a snapshot that was replaced gets.
async fn ask_as(stage: &Stage, upstream: &Upstream) -> Bytes {
    let mut rows = SmallVec::new();
    let call = Call::new(HostRule::AsIs, Instant::now() + Duration::from_secs(30), None, &mut rows);
    let response = upstream.send(&stage.pools, call, &mut get("/")).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Rows as `endpoint's place open idle active connecting waiting`, those of leaving ones with an exclamation mark.
fn rows(stage: &Stage, endpoints: &[&str]) -> Vec<String> {
    let row = |state: PoolState| {
        let place = endpoints.iter().position(|url| url.ends_with(&*state.endpoint)).unwrap();
        let mark = if state.is_leaving { "!" } else { "" };
        assert_eq!(&*state.upstream, "app");
        let PoolState { open, idle, active, connecting, waiting, .. } = state;
        format!("{place}{mark} {open} {idle} {active} {connecting} {waiting}")
    };
    let mut rows: Vec<_> = stage.pools.states().into_iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn a_connection_serves_on_over_reloads_whether_the_worker_is_told_or_not() {
    run(async {
        let (url, connections, _) = named("a").await;
        let mut settings = settings(&[&url]);
        let stage = Stage::new(&settings);
        for seconds in 1..20 {
            stage.ask(get("/")).await.unwrap();
            settings.timeouts.first_byte = HumanDuration::seconds(seconds);
            if seconds % 2 == 0 {
                stage.reload(&settings)
            } else {
                stage.swap(&settings)
            };
        }
        stage.ask(get("/")).await.unwrap();
        assert_eq!((connections.get(), stage.pools.connections()), (1, 1));
        assert_eq!(rows(&stage, &[&url]), ["0 1 1 0 0 0"]);
    });
}

#[test]
fn requests_in_flight_and_the_turn_are_counted_on_over_a_reload() {
    run(async {
        let ((a, to_a, release), (b, to_b, _)) = (named("a").await, named("b").await);
        let mut settings = settings(&[&a, &b]);
        let stage = Stage::new(&settings);
        let waiting = wait_later(&stage);
        until(|| to_a.get() == 1).await;
        settings.limits.in_flight_max = 1;
        let old = stage.reload(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::InFlight);
        settings.limits.in_flight_max = 2;
        stage.reload(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "b", "a had its turn");
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        assert_eq!((to_b.get(), stage.in_flight(), old.in_flight()), (1, 0, 0));
    });
}

#[test]
fn an_endpoint_that_left_closes_at_once_what_is_idle_and_the_rest_after_its_exchange() {
    run(async {
        let ((a, to_a, _), (b, to_b, release)) = (named("a").await, named("b").await);
        let all: [&str; 2] = [&a, &b];
        let stage = Stage::new(&settings(&all));
        stage.ask(get("/")).await.unwrap();
        let waiting = wait_later(&stage);
        until(|| to_b.get() == 1).await;
        stage.ask(get("/")).await.unwrap();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(rows(&stage, &all), ["0 1 1 0 0 0", "1 2 1 1 0 0"]);
        stage.reload(&settings(&[&a]));
        assert_eq!(rows(&stage, &all), ["0 1 1 0 0 0", "1! 1 0 1 0 0"]);
        until(|| stage.pools.connections() == 2).await;
        stage.ask(get("/")).await.unwrap();
        release.add_permits(1);
        assert_eq!(waiting.await.unwrap().unwrap().1, "b");
        assert_eq!(rows(&stage, &all), ["0 1 1 0 0 0"]);
        until(|| stage.pools.connections() == 1).await;
        assert_eq!((to_a.get(), to_b.get()), (1, 2));
    });
}

#[test]
fn an_endpoint_that_comes_back_has_its_connections_again() {
    run(async {
        let ((a, _, _), (b, to_b, release)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&b]));
        let waiting = wait_later(&stage);
        until(|| to_b.get() == 1).await;
        stage.reload(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        stage.reload(&settings(&[&b]));
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(to_b.get(), 1);
        until(|| stage.pools.connections() == 1).await;
    });
}

#[test]
fn an_exchange_of_a_replaced_snapshot_reaches_its_endpoints_and_leaves_the_pool_as_it_is() {
    run(async {
        let ((a, to_a, _), (b, to_b, _)) = (named("a").await, named("b").await);
        for is_told in [true, false] {
            let stage = Stage::new(&settings(&[&b]));
            stage.ask(get("/")).await.unwrap();
            let old = if is_told { stage.reload(&settings(&[&a])) } else { stage.swap(&settings(&[&a])) };
            let before = (to_a.get(), to_b.get());
            for _ in 0..3 {
                assert_eq!(stage.ask(get("/")).await.unwrap().1, "a");
                assert_eq!(ask_as(&stage, &old).await, "b");
            }
            // One connection serves the new plan all along; for the old one nothing is kept.
            assert_eq!((to_a.get(), to_b.get()), (before.0 + 1, before.1 + 3));
            assert_eq!(rows(&stage, &[&a, &b]), ["0 1 1 0 0 0"]);
            until(|| stage.pools.connections() == 1).await;
        }
    });
}

#[test]
fn an_endpoint_that_both_plans_name_shares_its_connections_between_them() {
    run(async {
        let ((a, to_a, _), (b, ..)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        let old = stage.reload(&settings(&[&b, &a]));
        for _ in 0..2 {
            assert_eq!(ask_as(&stage, &old).await, "a");
            stage.ask(get("/")).await.unwrap();
        }
        assert_eq!(to_a.get(), 1);
    });
}

#[test]
fn another_protocol_begins_afresh() {
    run(async {
        let (url, connections, release) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        stage.ask(get("/")).await.unwrap();
        let waiting = wait_later(&stage);
        until(|| stage.in_flight() == 1).await;
        yield_now().await;
        stage.ask(get("/")).await.unwrap();
        let old = stage.reload(&h2c(&url));
        assert_ne!(old.state.slot(), stage.upstream().state.slot());
        until(|| stage.pools.connections() == 1).await;
        assert_eq!(ask_as(&stage, &old).await, "a", "what runs on the old snapshot goes on");
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        until(|| stage.pools.connections() == 0).await;
        assert_eq!(connections.get(), 3);
    });
}

#[test]
fn who_waits_gets_a_connection_when_a_reload_allows_more() {
    run(async {
        let (stage, connections, release) = held(|settings| settings.pool.connections_max = 1).await;
        let tasks: Vec<_> = (0..4).map(|_| ask_later(&stage)).collect();
        until(|| connections.get() == 1 && stage.in_flight() == 4).await;
        let mut more = settings(&[&format!("http://{}", stage.upstream().plan.endpoints[0].label)]);
        more.pool.connections_max = 3;
        stage.reload(&more);
        until(|| connections.get() == 3).await;
        for _ in 0..4 {
            release.notify_one();
            yield_now().await;
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(connections.get(), 3);
    });
}

#[test]
fn who_waits_for_an_endpoint_that_left_is_served_there() {
    run(async {
        let ((a, ..), (b, to_b, release)) = (named("a").await, named("b").await);
        let mut one = settings(&[&b]);
        one.pool.connections_max = 1;
        one.pool.queue_wait = HumanDuration::seconds(20);
        let stage = Stage::new(&one);
        let tasks: Vec<_> = (0..3).map(|_| wait_later(&stage)).collect();
        until(|| to_b.get() == 1 && stage.in_flight() == 3).await;
        one.endpoints = vec![a.clone()];
        stage.reload(&one);
        assert_eq!(rows(&stage, &[&a, &b]), ["0 0 0 0 0 0", "1! 1 0 1 0 2"]);
        for (served, task) in tasks.into_iter().enumerate() {
            assert_eq!(to_b.get(), 1, "{served}");
            release.add_permits(1);
            assert_eq!(task.await.unwrap().unwrap().1, "b");
        }
        until(|| stage.pools.connections() == 0).await;
    });
}

#[test]
fn new_bounds_hold_for_connections_that_are_open_already() {
    run(async {
        type Change = fn(&mut config::Upstream);
        let cases: [(&str, Change, usize); 7] = [
            ("nothing", |_| {}, 3),
            ("connections_max", |settings| settings.pool.connections_max = 1, 1),
            ("idle", |settings| settings.timeouts.idle = HumanDuration::millis(1), 0),
            ("age_max", |settings| settings.pool.age_max = HumanDuration::millis(1), 0),
            ("headers_max", |settings| settings.limits.headers_max = 200, 3),
            ("header_bytes_max", |settings| settings.limits.header_bytes_max = ByteSize::kib(128), 3),
            ("replay_max", |settings| settings.limits.replay_max = ByteSize::kib(1), 3),
        ];
        for (name, change, left) in cases {
            let (url, connections, release) = named("a").await;
            let mut settings = settings(&[&url]);
            let stage = Stage::new(&settings);
            // Three idle, and two in use.
            let tasks: Vec<_> = (0..5).map(|_| wait_later(&stage)).collect();
            until(|| connections.get() == 5).await;
            release.add_permits(3);
            until(|| tasks.iter().filter(|task| task.is_finished()).count() == 3).await;
            tokio::time::timeout(Duration::from_millis(30), std::future::pending::<()>()).await.unwrap_err();
            change(&mut settings);
            stage.reload(&settings);
            let kept = stage.pools.states()[0].idle;
            // Of five that are open, two in use are more than one alone: no idle one may stay.
            assert_eq!(kept, if name == "connections_max" { 0 } else { left }, "{name}");
            release.add_permits(2);
            for task in tasks {
                task.await.unwrap().unwrap();
            }
            if name == "idle" {
                continue;
            }
            let kept = if left == 3 { 5 } else { left };
            assert_eq!(stage.pools.states()[0].idle, kept, "{name}, of those that were in use");
        }
    });
}

#[test]
fn new_bounds_on_heads_hold_for_the_next_answer_of_an_open_connection() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            while peer.request().await.is_some() {
                peer.say(b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\ncontent-length: 0\r\n\r\n").await;
            }
        }))
        .await;
        let mut settings = settings(&[&url]);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        settings.limits.headers_max = 2;
        stage.reload(&settings);
        assert_eq!(stage.ask(get("/")).await.unwrap_err(), Kind::HeadTooLarge);
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_longer_time_to_idle_holds_for_connections_that_are_open_already() {
    run(async {
        let (url, connections, _) = named("a").await;
        let mut settings = settings(&[&url]);
        settings.timeouts.idle = HumanDuration::millis(200);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        settings.timeouts.idle = HumanDuration::seconds(60);
        stage.reload(&settings);
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn an_upstream_that_left_closes_what_is_idle_without_a_request() {
    run(async {
        let (url, connections, release) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        let waiting = wait_later(&stage);
        until(|| connections.get() == 1).await;
        stage.ask(get("/")).await.unwrap();
        stage.pools.refresh(2, &[]);
        assert_eq!(rows(&stage, &[&url]), ["0! 1 0 1 0 0"]);
        until(|| stage.pools.connections() == 1).await;
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "a", "exchanges of the old snapshot go on");
        release.add_permits(1);
        waiting.await.unwrap().unwrap();
        until(|| stage.pools.connections() == 0).await;
        assert!(stage.pools.states().is_empty());
        // A snapshot that is not in force any more says nothing.
        stage.pools.refresh(1, &[stage.upstream()]);
        stage.ask(get("/")).await.unwrap();
        until(|| stage.pools.connections() == 0).await;
    });
}

#[test]
fn an_exchange_of_a_replaced_snapshot_keeps_nothing_even_if_it_is_the_first_of_its_upstream() {
    run(async {
        let (url, ..) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        stage.pools.refresh(2, &[]);
        stage.ask(get("/")).await.unwrap();
        until(|| stage.pools.connections() == 0).await;
        // Whereas the snapshot in force has it kept.
        stage.swap(&settings(&[&url]));
        stage.ask(get("/")).await.unwrap();
        assert_eq!(rows(&stage, &[&url]), ["0 1 1 0 0 0"]);
    });
}

#[test]
fn what_is_idle_of_an_upstream_that_nobody_knows_any_more_is_closed_though_nobody_says_so() {
    run(async {
        let ((a, ..), (b, ..)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        let slot = stage.upstream().state.slot();
        let began = std::time::Instant::now();
        stage.kept.replace(Kept::default());
        drop(stage.swap(&settings(&[&b])));
        until(|| stage.pools.connections() == 0).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(stage.upstream().state.slot(), slot);
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "b");
    });
}

#[test]
fn a_slot_that_another_upstream_got_serves_that_one_and_closes_what_it_had() {
    run(async {
        let ((a, ..), (b, ..)) = (named("a").await, named("b").await);
        let stage = Stage::new(&settings(&[&a]));
        stage.ask(get("/")).await.unwrap();
        stage.kept.replace(Kept::default());
        drop(stage.swap(&settings(&[&b])));
        assert_eq!(stage.ask(get("/")).await.unwrap().1, "b");
        until(|| stage.pools.connections() == 1).await;
        assert_eq!(rows(&stage, &[&a, &b]), ["1 1 1 0 0 0"]);
    });
}

#[test]
fn a_thousand_reloads_under_load_fail_nothing_and_leave_nothing_behind() {
    run(async {
        let mut urls = Vec::new();
        for _ in 0..4 {
            urls.push(named("a").await.0);
        }
        let stage = Stage::new(&settings(&[&urls[0]]));
        let is_over = Rc::new(Cell::new(false));
        let load: Vec<_> = (0..4)
            .map(|_| {
                let (stage, is_over) = (stage.clone(), is_over.clone());
                spawn_local(async move {
                    let mut served = 0;
                    while !is_over.get() {
                        stage.ask(get("/")).await.expect("no request fails");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for round in 0..1000_usize {
            let named = [&*urls[round % 4], &*urls[(round + 1 + round % 3) % 4]];
            let mut next = settings(&named);
            next.pool.connections_max = 1 + round as u32 % 5;
            next.limits.headers_max = 100 + u16::from(round % 7 == 0);
            // In vain: all go on what is in force.
            let old = if round % 3 == 0 { stage.swap(&next) } else { stage.reload(&next) };
            ask_as(&stage, &old).await;
        }
        is_over.set(true);
        for task in load {
            assert!(task.await.unwrap() > 100);
        }
        stage.reload(&settings(&[&urls[0]]));
        until(|| stage.pools.connections() <= 4).await;
        let benches = stage.pools.benches();
        assert_eq!((stage.in_flight(), benches), (0, 1));
        stage.pools.refresh(u64::MAX, &[]);
        until(|| stage.pools.connections() == 0).await;
        assert!(stage.pools.states().is_empty());
    });
}

#[test]
fn slots_of_pools_shrink_with_the_upstreams() {
    run(async {
        let (url, ..) = named("a").await;
        let stage = Stage::new(&settings(&[&url]));
        let mut kept = Kept::default();
        for version in 2..200 {
            let mut keeper = Keeper::after(&kept);
            let upstreams: Vec<_> = ["app", &format!("app-{version}")]
                .into_iter()
                .map(|name| {
                    let settings = settings(&[&url]);
                    let state = State::keep(name, &settings, &mut keeper);
                    let standings = Standings::default();
                    let metrics = stage.metrics.upstream(name);
                    Arc::new(Upstream::new(name.into(), version, plan(&settings), state, standings, metrics))
                })
                .collect();
            kept = keeper.finish().0;
            stage.pools.refresh(version, &upstreams);
            for upstream in &upstreams {
                ask_as(&stage, upstream).await;
            }
        }
        assert!(stage.pools.slots() <= 3, "{}", stage.pools.slots());
        drop(kept);
        stage.pools.refresh(200, &[]);
        assert_eq!(stage.pools.slots(), 0);
        until(|| stage.pools.connections() == 0).await;
    });
}

#[test]
fn an_http2_connection_serves_on_over_a_reload_and_ends_after_its_last_stream() {
    run(async {
        let release = Rc::new(Notify::new());
        let seen = Rc::new(Cell::new(0));
        let (url, connections) = backend(script!(
            [release, seen] | peer | {
                // SETTINGS_MAX_CONCURRENT_STREAMS = 2
                peer.preface(&[0, 3, 0, 0, 0, 2]).await;
                while let Some(stream) = peer.headers().await {
                    seen.set(seen.get() + 1);
                    if seen.get() == 3 {
                        release.notified().await;
                    }
                    peer.answer(stream).await;
                }
            }
        ))
        .await;
        let (other, ..) = named("other").await;
        let mut settings = h2c(&url);
        settings.pool.connections_max = 1;
        settings.pool.queue_wait = HumanDuration::seconds(20);
        let stage = Stage::new(&settings);
        stage.ask(get("/")).await.unwrap();
        settings.timeouts.first_byte = HumanDuration::seconds(20);
        stage.reload(&settings);
        stage.ask(get("/")).await.unwrap();
        assert_eq!(connections.get(), 1);
        // Two streams are in use, and three wait for one.
        let tasks: Vec<_> = (0..5).map(|_| ask_later(&stage)).collect();
        until(|| seen.get() == 3 && stage.in_flight() == 5).await;
        assert_eq!(rows(&stage, &[&url]), ["0 1 0 1 0 3"]);
        settings.endpoints = vec![other.clone()];
        stage.reload(&settings);
        assert_eq!(rows(&stage, &[&url, &other]), ["0! 1 0 1 0 3", "1 0 0 0 0 0"]);
        release.notify_one();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        until(|| stage.pools.connections() == 0).await;
        assert_eq!(connections.get(), 1, "those who waited got streams of the connection that was there");
        assert_eq!(rows(&stage, &[&url, &other]), ["1 0 0 0 0 0"]);
    });
}

#[test]
fn an_idle_http2_connection_of_an_endpoint_that_left_closes_at_once() {
    run(async {
        let (url, connections) = backend(script!(|peer| {
            peer.preface(&[]).await;
            while let Some(stream) = peer.headers().await {
                peer.answer(stream).await;
            }
        }))
        .await;
        let stage = Stage::new(&h2c(&url));
        stage.ask(get("/")).await.unwrap();
        assert_eq!(rows(&stage, &[&url]), ["0 1 1 0 0 0"]);
        let old = stage.reload(&h2c("http://127.0.0.1:1"));
        until(|| stage.pools.connections() == 0).await;
        // Fewer may be open: whichever serves nobody goes.
        ask_as(&stage, &old).await;
        until(|| stage.pools.connections() == 0).await;
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn the_rows_of_several_workers_are_one_for_each_endpoint() {
    let row = |upstream: &str, endpoint: &str, is_leaving, open| PoolState {
        upstream: upstream.into(),
        endpoint: endpoint.into(),
        is_leaving,
        open,
        idle: 1,
        active: open - 1,
        connecting: 2,
        waiting: 3,
    };
    let merged = PoolState::merge([
        vec![row("users", "b:80", false, 1), row("app", "a:80", false, 2)],
        vec![],
        vec![row("app", "a:80", true, 7), row("app", "a:80", false, 5)],
    ]);
    let sum = PoolState { idle: 2, active: 5, connecting: 4, waiting: 6, ..row("app", "a:80", false, 7) };
    assert_eq!(merged, [sum, row("app", "a:80", true, 7), row("users", "b:80", false, 1)]);
    assert_eq!(
        serde_json::to_string(&merged[2]).unwrap(),
        r#"{"upstream":"users","endpoint":"b:80","is_leaving":false,"open":1,"idle":1,"active":0,"connecting":2,"waiting":3}"#
    );
}
