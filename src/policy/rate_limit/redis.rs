//! Buckets in a Redis that several armigers share. What is asked stands here and in the script; how Redis is reached, in
//! `redis_client`.

use std::pin::Pin;
use std::sync::Arc;

use redis::Script;

use super::remote::{Away, Remote, RemoteAsk, RemoteLevel, RemoteLevels};
use crate::config::redis::Redis as Settings;
use crate::config::{Issues, KeyPath};
use crate::exchange::allowance::{Lender, Loan};
use crate::keep::Keeper;
use crate::redis_client::{self, Client};
use crate::telemetry::metrics::Metrics;
use crate::timer::Wheel;

/// Buckets elsewhere.
struct Buckets {
    client: Arc<Client>,
    script: Script,
}

/// Compiles the section, which stands at `path`. Touches no network.
pub fn compile(
    settings: &Settings,
    path: &KeyPath,
    metrics: &Metrics,
    keeper: &mut Keeper<'_>,
    issues: &mut Issues,
) -> Option<Arc<dyn Remote>> {
    let whose = ("limits", "rate_limits");
    let client = redis_client::compile(settings, path, whose, metrics.limit_store(), keeper, issues)?;
    Some(Arc::new(Buckets { client, script: Script::new(include_str!("draw.lua")) }))
}

impl Buckets {
    /// Runs the script, within the time that a request waits.
    async fn run(&self, what: &str, rows: &[(Arc<str>, [u64; 5])], wheel: &Wheel) -> Result<Vec<i64>, Away> {
        let mut invocation = self.script.prepare_invoke();
        rows.iter().for_each(|(key, _)| {
            invocation.key(&**key);
        });
        invocation.arg(what);
        rows.iter().flat_map(|(_, numbers)| numbers).for_each(|number| {
            invocation.arg(*number);
        });
        let asked = self.client.ask(wheel, async |connection| invocation.invoke_async::<Vec<i64>>(connection).await);
        asked.await.map_err(|redis_client::Away| Away)
    }
}

impl Remote for Buckets {
    fn draw<'a>(
        &'a self,
        asks: &'a [RemoteAsk],
        wheel: &'a Wheel,
    ) -> Pin<Box<dyn Future<Output = Result<RemoteLevels, Away>> + 'a>> {
        Box::pin(async move {
            let rows: Vec<_> = asks
                .iter()
                .map(|ask| {
                    let (per_micro, per_token) = ask.rate.units();
                    (ask.key.clone(), [per_micro, per_token, ask.rate.capacity(), ask.cost, 0])
                })
                .collect();
            let answer = self.run("draw", &rows, wheel).await?;
            let number = |place: usize| answer.get(place).and_then(|number| u64::try_from(*number).ok()).ok_or(Away);
            let (is_granted, now) = (number(0)? == 1, number(1)?);
            let mut levels = RemoteLevels::new();
            for (place, ask) in asks.iter().enumerate() {
                let lacks = number(place + 2)?;
                let (per_micro, per_token) = ask.rate.units();
                let wanted = ask.cost.saturating_mul(per_token);
                // Of a grant it is what is lacking after, of a refusal what was before.
                let before = if is_granted { lacks.saturating_sub(wanted) } else { lacks };
                let drawn = ask.rate.draw(before, 0, ask.cost);
                let loan = Loan { key: ask.key.clone(), rate: ask.rate, from: now + before / per_micro };
                levels.push(RemoteLevel { lacks, drawn, loan });
            }
            Ok(levels)
        })
    }

    fn lender(self: Arc<Self>) -> Arc<dyn Lender> {
        self
    }
}

impl Lender for Buckets {
    fn give_back<'a>(
        &'a self,
        loans: &'a [(&'a Loan, u64)],
        wheel: &'a Wheel,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let row = |(loan, cost): &(&Loan, u64)| {
                let (per_micro, per_token) = loan.rate.units();
                (loan.key.clone(), [per_micro, per_token, loan.rate.capacity(), *cost, loan.from])
            };
            let rows: Vec<_> = loans.iter().map(row).collect();
            let _ = self.run("give", &rows, wheel).await;
        })
    }
}
