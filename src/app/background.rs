//! The thread `background`: whatever state works beside requests, on one runtime with timers and connections of its own.
//!
//! It follows the snapshot in force: hands each state its plan, and begins what has not begun. It ends when armiger has
//! drained, or ends; states may have a last word then.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::server::drain::Drain;
use crate::snapshot::Live;
use crate::timer::Wheel;
use crate::upstream::Pools;
use crate::upstream::background::{Desk, Job};

/// How long the last words of states may take.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// Tells the thread that another snapshot is in force.
#[derive(Clone, Default)]
pub(super) struct Bell(Arc<Notify>);

impl Bell {
    /// Another snapshot is in force.
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }
}

/// Starts the thread, which begins with the snapshot in force.
pub(super) fn start(
    live: Arc<Live>,
    bell: Bell,
    drain: Arc<Drain>,
    ended: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("background".into()).spawn(move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, run(&live, &bell, &drain, ended));
        drop(tasks);
        // A name lookup that hangs must not hold up the end.
        runtime.shutdown_background();
    })
}

async fn run(live: &Live, bell: &Bell, drain: &Drain, mut ended: watch::Receiver<bool>) {
    let wheel = Wheel::new();
    tokio::task::spawn_local(wheel.clone().run());
    let desk = Desk { pools: Rc::new(Pools::new(wheel.clone(), 1)), wheel };
    let mut works = JoinSet::new();
    loop {
        let snapshot = live.load();
        for job in Job::all(&snapshot.kept) {
            job.follow();
            if let Some(work) = job.begin(&desk, Instant::now()) {
                works.spawn_local(work);
            }
        }
        desk.pools.refresh(snapshot.version, &snapshot.upstreams);
        drop(snapshot);
        tokio::select! {
            () = bell.0.notified() => {}
            Some(done) = works.join_next() => {
                if let Err(error) = done {
                    tracing::error!(%error, "work in the background broke off");
                }
            }
            () = drain.over() => break,
            // Fails only once nobody is there to say so.
            _ = ended.wait_for(|is_over| *is_over) => break,
        }
    }
    works.shutdown().await;
    let snapshot = live.load();
    for job in Job::all(&snapshot.kept) {
        works.spawn_local(job.finish(&desk));
    }
    // What is not over then is dropped with the set.
    let _ = tokio::time::timeout(FINISH_MAX, async { while works.join_next().await.is_some() {} }).await;
}
