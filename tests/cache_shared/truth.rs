//! Many at random, of whom none gets what is another's or was purged.

use super::*;

/// What no answer may be older than: for each target, the number of the first that was asked for after it was purged everywhere.
type Floors = std::cell::RefCell<std::collections::HashMap<String, usize>>;

/// Whether a purge is about a target.
type IsMeant = Box<dyn Fn(&String) -> bool>;

/// Says in its body for whom it is, and how many came before it. What is for all says so; what it varies on depends on the target.
async fn truthful(count: std::sync::Arc<AtomicUsize>) -> Backend {
    Backend::with(move |seen| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let mut random = fastrand::Rng::with_seed(number as u64);
        let (control, whose) = [
            ("max-age=60", "one"),
            ("private, max-age=60", "one"),
            ("no-store", "one"),
            ("max-age=60, public", "all"),
            ("s-maxage=60", "all"),
            ("max-age=1, stale-while-revalidate=60", "one"),
            ("max-age=60, must-revalidate", "all"),
        ][random.usize(..7)];
        let of = |name: &str| seen.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (vary, chosen) = match seen.target.as_bytes().last() {
            Some(b'0') => ("x-flavour", of("x-flavour")),
            Some(b'1') => ("accept-language, x-flavour", format!("{}{}", of("accept-language"), of("x-flavour"))),
            _ => ("accept-encoding", String::new()),
        };
        let mut reply = answer(200, format!("{whose}|{}|{chosen}|{}|{number}", of("authorization"), seen.target));
        let tag = format!("t{}", &seen.target[seen.target.len() - 1..]);
        for (name, value) in [("cache-control", control), ("vary", vary), ("surrogate-key", &tag)] {
            reply.headers_mut().append(name, value.parse().unwrap());
        }
        reply
    })
    .await
}

/// Asks until it is done, and checks each answer against what it must not be.
async fn ask_at_random(armiger: &Armiger, seed: u64, floors: &Floors, is_done: &std::cell::Cell<bool>) -> usize {
    let (mut random, mut connection, mut asked) = (fastrand::Rng::with_seed(seed), armiger.connect().await, 0);
    while !is_done.get() {
        let target = format!("/{}/{}", ["own", "any"][random.usize(..2)], random.u8(..3));
        let caller = format!("c{}", random.u8(..3));
        let (flavour, language) = (["f", "g"][random.usize(..2)], ["de", "en"][random.usize(..2)]);
        let floor = floors.borrow().get(&target).copied().unwrap_or(0);
        let request = Request::get(&target).header("host", HOST).header("authorization", &caller);
        let request = request.header("x-flavour", flavour).header("accept-language", language);
        let response = connection.request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        let parts: Vec<&str> = response.assert_status(200).text().split('|').collect();
        let chosen = match target.as_bytes().last() {
            Some(b'0') => flavour.to_owned(),
            Some(b'1') => format!("{language}{flavour}"),
            _ => String::new(),
        };
        let said = status(&response);
        assert_eq!(parts[2..4], [&*chosen, &*target], "{said}");
        // Where the key has the caller, what is for all is for the caller all the same.
        assert!(
            parts[1] == caller || parts[0] == "all" && target.starts_with("/any"),
            "{caller} got {parts:?}: {said}"
        );
        let number: usize = parts[4].parse().unwrap();
        assert!(number >= floor, "{target}: {number} is from before what was purged at {floor}: {said}");
        asked += 1;
    }
    asked
}

/// Random callers, `Vary`, purges and unsafe requests at two armigers with one Redis, which comes back with older data in the
/// midst of it, against a model that knows only what nobody may ever get.
#[tokio::test]
async fn what_is_shared_never_reaches_another_caller_nor_comes_back_once_purged() {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let (backend, mut redis) = (truthful(count.clone()).await, Redis::start().await);
    let route = |name: &str, more: &str| {
        format!(
            "- {{name: {name}, match: {{path: \"/{name}/{{rest...}}\"}}, policies: {{cache: {{l2: redis{more}}}}}, proxy: {{upstream: app}}}}"
        )
    };
    let routes = [route("own", ", vary_by: [\"header:authorization\"]"), route("any", "")].join("\n");
    let section = format!("cache: {{redis: {{url: \"{}\", timeout: 2s}}}}", redis.url());
    let (one, two) = two(|| Config::to(&backend).top(&section).routes(&routes)).await;
    let (floors, is_done) = (Floors::default(), std::cell::Cell::new(false));
    let targets = || ["own", "any"].iter().flat_map(|route| (0..3).map(move |number| format!("/{route}/{number}")));
    let lost = async || looked(&one, "lost").await + looked(&two, "lost").await;

    let driver = async {
        let (mut random, mut known) = (fastrand::Rng::with_seed(5), 0);
        for step in 0..24 {
            if step == 6 {
                redis.remember().await;
            }
            if step == 12 {
                // What was purged since it was told to remember it has again.
                redis.restart().await;
                within("another life", async { while lost().await == 0.0 {} }).await;
                purges(&one, 0).await;
                purges(&two, 0).await;
                known = 0;
            }
            let armiger = [&one, &two][random.usize(..2)];
            let (number, mark) = (random.u8(..3), count.load(Ordering::SeqCst));
            let ends = format!("/{number}");
            let (order, is_meant): (Value, IsMeant) = match random.u8(..5) {
                0 => (json!({"all": true}), Box::new(|_| true)),
                1 => (json!({"tag": format!("t{number}")}), Box::new(move |target| target.ends_with(&ends))),
                2 => (json!({"prefix": "/any/"}), Box::new(|target| target.starts_with("/any/"))),
                3 => (
                    json!({"url": format!("http://{HOST}/own/{number}")}),
                    Box::new(move |target| *target == format!("/own{ends}")),
                ),
                _ => {
                    write(armiger, &format!("/own{ends}")).await;
                    // Whoever knows of this knows of that.
                    (json!({"tag": "other"}), Box::new(move |target| *target == format!("/own{ends}")))
                }
            };
            assert_eq!(purge(armiger, order).await["told_to_others"], true);
            known += 1;
            purges(&one, known).await;
            purges(&two, known).await;
            floors.borrow_mut().extend(targets().filter(|target| is_meant(target)).map(|target| (target, mark)));
        }
        is_done.set(true);
    };
    let ((), asked_one, asked_two) =
        tokio::join!(driver, ask_at_random(&one, 1, &floors, &is_done), ask_at_random(&two, 2, &floors, &is_done));

    assert_eq!(lost().await, 1.0);
    let hits = looked(&one, "hit").await + looked(&two, "hit").await;
    assert!(hits > 0.0, "{hits} of {} were found with the other", asked_one + asked_two);
    assert!(backend.count() < asked_one + asked_two, "nothing was ever stored");
}
