//! Tests of the second level against a server that agrees with all it is told.

use std::rc::Rc;

use tokio::task::LocalSet;

use super::known::{Clock, Witness};
use super::tell::Row;
use super::*;
use crate::redis_client::agreeing::Agreeing;
use crate::upstream::Pools;
use crate::upstream::background::Job;

#[test]
fn a_purge_is_read_as_it_is_told() {
    for what in [
        What::Exact { host: "h".into(), path: "/a\"b".into(), query: None },
        What::Exact { host: "h".into(), path: "/".into(), query: Some(String::new()) },
        What::Prefix { host: None, path: "/ä".into() },
        What::Tag("t".into()),
        What::All,
    ] {
        let row = Row { by: "me".into(), soft: true, what };
        let text = serde_json::to_vec(&row).unwrap();
        assert_eq!(serde_json::from_slice::<Row>(&text).unwrap(), row);
    }
}

/// What a snapshot has of it: its client and itself, in this order.
fn compiled(previous: &crate::keep::Kept, url: &str) -> (crate::keep::Kept, Arc<Client>, Arc<Shared>) {
    let (metrics, mut issues) = (Metrics::new(), Issues::default());
    let mut keeper = Keeper::after(previous);
    let settings: Settings = serde_json::from_value(json!({"url": url, "timeout": "5s"})).unwrap();
    let counts = metrics.cache_second();
    let whose = ("caches", "cache");
    let client =
        redis_client::compile(&settings, &KeyPath::root(), whose, counts.store.clone(), &mut keeper, &mut issues)
            .unwrap();
    let memory = Memory { url: url.to_owned(), prefix: "{p}:cache:".to_owned() };
    let fates = Fates::kept(&mut keeper);
    let store = Store::kept(1 << 20, &mut keeper);
    let plan = || Plan { memory: memory.clone(), store: store.clone(), value_max: 1000, fills_max: 1000 };
    let shared = keeper.keep(Identity::of("shared", "all"), || Shared::new(client.clone(), plan(), fates, counts));
    background::employ(&mut keeper, &shared, plan());
    (keeper.finish().0, client, shared)
}

/// Redis, or who poses as it, may name any.
#[tokio::test]
async fn no_time_that_redis_names_is_too_late_to_go_on_from() {
    let (_, _, shared) = compiled(&crate::keep::Kept::default(), "redis://127.0.0.1:1");
    let read = Instant::now();
    *locked(&shared.clock) = Some(Clock { life: 1, purges: 0, changes: 0, time: u64::MAX, read });
    assert_eq!(shared.ground(read + CLOCK_MAX).map(|ground| ground.time), Some(u64::MAX));
}

/// Between a reload and the turn in which the client opens the new connection there is only the old one: by that nothing may be
/// said to, nor heard of, the memory that is meant now.
#[tokio::test]
async fn a_reload_to_another_redis_says_nothing_of_the_one_to_the_other() {
    let test = async {
        let (first, second) = (Agreeing::start().await, Agreeing::start().await);
        let wheel = Wheel::new();
        let desk = Desk { pools: Rc::new(Pools::new(wheel.clone(), 1)), wheel: wheel.clone() };
        let (kept, client, shared) = compiled(&crate::keep::Kept::default(), &first.url());
        Job::all(&kept).for_each(Job::follow);
        // Of the two only the client works: the other is led by the hand.
        let work = Job::all(&kept).next().and_then(|job| job.begin(&desk, Instant::now())).unwrap();
        tokio::task::spawn_local(work);
        first.until_up(&client).await;
        shared.purge(What::Tag("t".into()), false);
        let told = Witness { life: 1, told: 7, is_of_another: false };
        *locked(&shared.witness) = Some(told);

        let (kept, _, same) = compiled(&kept, &second.url());
        assert!(Arc::ptr_eq(&same, &shared));
        Job::all(&kept).for_each(Job::follow);

        // It comes before the client has had a turn.
        assert!(shared.tell_all(&wheel).await.is_err() && shared.catch_up(&wheel).await.is_err());
        assert!(shared.is_untold(), "the new one is to be told yet");
        let witness = locked(&shared.witness).unwrap();
        assert!(witness.is_of_another && witness.told == 7, "nothing is known of the new one");
        shared.part().await;
        assert_eq!(first.told(), 1, "the one that is left is told once, by its own connection");

        second.until_up(&client).await;
        assert!(shared.tell_all(&wheel).await.is_ok() && !shared.is_untold());
        assert_eq!((first.told(), second.told()), (1, 1));
    };
    LocalSet::new().run_until(test).await;
}
