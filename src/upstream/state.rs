//! What all workers share of an upstream, and what of it outlives a reload.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::breaker::Watch;
use super::bulkhead::{Bulkhead, Place};
use super::hedge::Latency;
use super::retry::Budget;
use super::standing::Seat;
use crate::config::tls::UpstreamTls;
use crate::config::upstream::{self, Adaptive, Protocol, ProxyHeader};
use crate::keep::{Identity, Keeper};
use crate::tls;

/// What outlives a reload: whose connections they are, how many requests are in flight, and whose turn it is.
///
/// Held by the snapshots that name the upstream, and by the exchanges on it. With the last of them it is gone, and its
/// place goes to another upstream.
pub struct State {
    slot: Slot,
    next: AtomicUsize,
    pub(super) bulkhead: Bulkhead,
    pub(super) budget: Budget,
    pub(super) latency: Latency,
}

impl State {
    /// The state of the upstream of this name: what it was, unless `config` speaks another protocol now.
    pub fn keep(name: &str, config: &upstream::Upstream, keeper: &mut Keeper<'_>) -> Arc<Self> {
        let slots = keeper.keep(Identity::of("slots", "upstreams").untold(), Slots::default);
        keeper.keep(identity(name, config), || Self {
            slot: slots.take(),
            next: AtomicUsize::new(0),
            bulkhead: Bulkhead::default(),
            budget: Budget::default(),
            latency: Latency::default(),
        })
    }

    /// The state of something that is no upstream of the configuration, for [`Pools`](super::Pools) of its own.
    pub fn apart() -> Arc<Self> {
        let slots: Arc<Slots> = Arc::default();
        Arc::new(Self {
            slot: slots.take(),
            next: AtomicUsize::new(0),
            bulkhead: Bulkhead::default(),
            budget: Budget::default(),
            latency: Latency::default(),
        })
    }

    /// Its place in every worker's [`Pools`](super::Pools): a small number that no other living state has.
    pub fn slot(&self) -> usize {
        self.slot.number
    }

    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> usize {
        self.bulkhead.taken()
    }

    /// The next turn.
    pub(super) fn turn(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// What an exchange holds until its answer was read, and who is to hear how that ends.
pub(super) struct Stay {
    pub(super) _place: Place,
    pub(super) _seat: Option<Seat>,
    pub(super) watch: Option<Watch>,
}

/// The traits are called by their keys in the file, with the values that stand there: a report quotes them.
fn identity(name: &str, config: &upstream::Upstream) -> Identity {
    // A breaker is a state of its own, and the rest is told by the report of what changed.
    let upstream::Upstream { endpoints, protocol, proxy_protocol, tls, third_party, timeouts, pool, limits, .. } =
        config;
    Identity::of("pool", name)
        .shape("protocol", word(*protocol))
        .setting("endpoints", format_args!("[{}]", endpoints.join(", ")))
        .setting("proxy_protocol", proxy_protocol.map_or("off", form))
        .setting("tls", tls.as_ref().map_or_else(|| "none".to_owned(), secured))
        .setting("third_party", third_party)
        .setting("timeouts.connect", timeouts.connect)
        .setting("timeouts.tls", timeouts.tls)
        .setting("timeouts.first_byte", timeouts.first_byte)
        .setting("timeouts.body_idle", timeouts.body_idle)
        .setting("timeouts.tunnel_idle", timeouts.tunnel_idle)
        .setting("timeouts.idle", timeouts.idle)
        .setting("pool.connections_max", pool.connections_max)
        .setting("pool.queue_max", pool.queue_max)
        .setting("pool.queue_wait", pool.queue_wait)
        .setting("pool.age_max", pool.age_max)
        .setting("limits.in_flight_max", limits.in_flight_max)
        .setting("limits.queue_max", limits.queue_max)
        .setting("limits.queue_wait", limits.queue_wait)
        .setting("limits.adaptive", limits.adaptive.as_ref().map_or_else(|| "none".to_owned(), adaptive))
        .setting("limits.headers_max", limits.headers_max)
        .setting("limits.header_bytes_max", limits.header_bytes_max)
        .setting("limits.replay_max", limits.replay_max)
}

fn adaptive(config: &Adaptive) -> String {
    format!("min {}, tolerance {}", config.min, config.tolerance)
}

fn form(header: ProxyHeader) -> &'static str {
    match header {
        ProxyHeader::V1 => "v1",
        ProxyHeader::V2 => "v2",
    }
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http1",
        Protocol::H2c => "h2c",
        Protocol::H2 => "h2",
    }
}

/// Certificates are long, and keys are secret: enough of a digest to see that they are others.
fn secured(tls: &UpstreamTls) -> String {
    let digest = tls::client::digest(tls);
    digest[..4].iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Gives out places, the lowest free one first, so that their numbers stay small however many upstreams come and go.
#[derive(Default)]
struct Slots(Mutex<Places>);

#[derive(Default)]
struct Places {
    free: BinaryHeap<Reverse<usize>>,
    /// The first that was never given out.
    next: usize,
}

/// A place, given back on drop.
struct Slot {
    number: usize,
    slots: Arc<Slots>,
}

impl Slots {
    fn take(self: &Arc<Self>) -> Slot {
        let mut places = self.lock();
        let number = places.free.pop().map_or(places.next, |Reverse(number)| number);
        places.next = places.next.max(number + 1);
        Slot { number, slots: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().free.push(Reverse(self.number));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::keep::{Fate, Kept, What};

    fn config(value: Value) -> upstream::Upstream {
        serde_json::from_value(value).unwrap()
    }

    fn keep(previous: &Kept, config: &upstream::Upstream) -> (Kept, Vec<Fate>, Arc<State>) {
        let mut keeper = Keeper::after(previous);
        let state = State::keep("app", config, &mut keeper);
        let (kept, fates) = keeper.finish();
        (kept, fates, state)
    }

    #[test]
    fn a_report_quotes_what_changed_as_it_stands_in_the_file() {
        let (kept, fates, first) = keep(&Kept::default(), &config(json!({"endpoints": ["http://127.0.0.1:3000"]})));
        assert_eq!(fates[0].to_string(), "pool app: new");
        for (next, is_kept, told) in [
            (json!({"endpoints": ["http://127.0.0.1:3000"], "timeouts": {"connect": "1s"}}), true, "pool app: kept"),
            (
                json!({"endpoints": ["http://127.0.0.1:3000", "unix:/run/app.sock"]}),
                true,
                "pool app: adjusted, endpoints [http://127.0.0.1:3000] -> [http://127.0.0.1:3000, unix:/run/app.sock]",
            ),
            (
                json!({
                    "endpoints": ["http://127.0.0.1:3000"],
                    "timeouts": {"connect": "250ms"},
                    "pool": {"age_max": "5m"},
                    "limits": {"replay_max": "1MiB"},
                }),
                true,
                "pool app: adjusted, timeouts.connect 1s -> 250ms; pool.age_max 10m -> 5m; \
                 limits.replay_max 64KiB -> 1MiB",
            ),
            (
                json!({"endpoints": ["http://127.0.0.1:3000"], "protocol": "h2c", "pool": {"queue_max": 1}}),
                false,
                "pool app: reset, protocol http1 -> h2c",
            ),
        ] {
            let (_, fates, state) = keep(&kept, &config(next));
            assert_eq!(fates[0].to_string(), told);
            assert_eq!(Arc::ptr_eq(&state, &first), is_kept, "{told}");
        }
        let (_, fates) = Keeper::after(&kept).finish();
        assert_eq!(fates.iter().map(ToString::to_string).collect::<Vec<_>>(), ["pool app: dropped"]);
    }

    #[test]
    fn every_key_of_an_upstream_is_told_when_it_changes() {
        let first = config(json!({"endpoints": ["http://127.0.0.1:3000"]}));
        let (kept, ..) = keep(&Kept::default(), &first);
        let whole = serde_json::to_value(&first).unwrap();
        let mut keys = Vec::new();
        for (key, value) in whole.as_object().unwrap() {
            if ["breaker", "balance", "weights", "slow_start", "ejection", "retry", "hedge", "health"]
                .contains(&key.as_str())
            {
                continue;
            }
            match value.as_object() {
                Some(inner) => keys.extend(inner.keys().map(|inner| format!("{key}.{inner}"))),
                None => keys.push(key.clone()),
            }
        }
        assert_eq!(keys.len(), 22);
        for key in keys {
            let mut changed = whole.clone();
            let value = changed.pointer_mut(&format!("/{}", key.replace('.', "/"))).unwrap();
            *value = match (&*value, key.as_str()) {
                (_, "protocol") => json!("h2c"),
                (_, "limits.adaptive") => json!({"min": 3}),
                (_, "proxy_protocol") => json!("v1"),
                (_, "tls") => json!({"server_name": "app.test"}),
                (Value::Bool(_), _) => json!(true),
                (Value::Array(_), _) => json!(["http://127.0.0.1:3001"]),
                (Value::Number(_), _) => json!(7),
                (Value::String(text), _) if text.ends_with('B') => json!("9KiB"),
                _ => json!("77s"),
            };
            let (_, fates, _) = keep(&kept, &config(changed));
            match &fates[0].what {
                What::Adjusted(reasons) | What::Reset(reasons) => {
                    assert_eq!(reasons.iter().map(|reason| reason.name).collect::<Vec<_>>(), [key]);
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn places_of_upstreams_that_are_gone_are_used_again() {
        let any = config(json!({"endpoints": ["http://127.0.0.1:3000"]}));
        let mut kept = Kept::default();
        // One that stays, and one that is another each time; of the old ones, as many live as have exchanges left.
        let mut straggler = None;
        for round in 0..10_000 {
            let mut keeper = Keeper::after(&kept);
            let stays = State::keep("app", &any, &mut keeper);
            let comes = State::keep(&format!("app-{round}"), &any, &mut keeper);
            kept = keeper.finish().0;
            assert_eq!(stays.slot(), 0);
            assert!((1..4).contains(&comes.slot()), "{}", comes.slot());
            assert!(straggler.as_ref().is_none_or(|old: &Arc<State>| old.slot() != comes.slot()));
            straggler = Some(comes);
        }
    }

    #[test]
    fn another_protocol_gets_another_place_while_the_old_one_lives() {
        let (kept, _, old) = keep(&Kept::default(), &config(json!({"endpoints": ["http://a"]})));
        let (_, _, new) = keep(&kept, &config(json!({"endpoints": ["http://a"], "protocol": "h2c"})));
        assert_ne!(old.slot(), new.slot());
    }
}
