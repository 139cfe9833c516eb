//! From the list of limits to what asks them.

use std::sync::Arc;
use std::time::Instant;

use super::super::key::Key;
use super::config::{Config, Cost, Counts, Limit, Where};
use super::counted::{Bucket, Counted, Special};
use super::remote::Elsewhere;
use super::shown::Shown;
use super::{Entry, RateLimit, Scope, Stage, Taken};
use crate::config::rate::HumanRate;
use crate::config::value::Mode;
use crate::config::{Issue, KeyPath};
use crate::exchange::identity::ClaimPath;
use crate::expression::{Names, Number};
use crate::keep::Identity;
use crate::limits::ban::Penalty;
use crate::limits::bucket::Rate;
use crate::limits::fields::Told;
use crate::limits::store::{Plan, Store};
use crate::telemetry::record::Enforcement;

/// Limits that a request may be asked for: more of them is a mistake, and each takes its time.
const LIMITS_MAX: usize = 16;

/// Units that Redis counts without rounding: its scripts have numbers of 53 bits.
const REDIS_CAPACITY_MAX: u64 = 1 << 52;

/// The least and the most of `keys_max`.
const KEYS: std::ops::RangeInclusive<u32> = 1..=50_000_000;

/// The `cost` that is as many as a document has parts.
const PARTS: &str = "parts";

impl Config {
    pub(in super::super) fn compile(&self, scope: &mut Scope<'_>) {
        let path = scope.path();
        if self.0.is_empty() {
            scope.issue(
                Issue::new(path, "names no limit, so nothing would be limited")
                    .of_absence()
                    .hint("add one: `- {name: per-address, rate: 50/s, burst: 100}`, or write `rate_limit: off`"),
            );
            return;
        }
        if self.0.len() > LIMITS_MAX {
            scope.issue(
                Issue::new(path.clone(), format!("has {} limits", self.0.len()))
                    .hint(format!("the most is {LIMITS_MAX}")),
            );
        }
        for (place, limit) in self.0.iter().enumerate() {
            if let Some(first) = self.0[..place].iter().position(|known| known.name == limit.name) {
                scope.issue(
                    Issue::new(path.index(place).key("name"), format!("another limit is called `{}`", limit.name))
                        .related(path.index(first).key("name"), "first used here")
                        .hint("give each its own name"),
                );
            }
        }
        // Each stage and mode asks its own together.
        let mut groups: Vec<(Stage, Mode, Vec<Entry>)> = Vec::new();
        for (place, limit) in self.0.iter().enumerate() {
            if limit.mode == Mode::Off {
                continue;
            }
            // Of two with one name the second is only looked at.
            let is_known = self.0[..place].iter().any(|known| known.name == limit.name);
            let Some((stage, entry)) = limit.compile(&path.index(place), is_known, scope) else { continue };
            match groups.iter_mut().find(|(known, mode, _)| (*known, *mode) == (stage, limit.mode)) {
                Some((_, _, entries)) => entries.push(entry),
                None => groups.push((stage, limit.mode, vec![entry])),
            }
        }
        // What is enforced comes first: what it refuses is not counted in shadow.
        groups.sort_by_key(|(_, mode, _)| *mode == Mode::Shadow);
        for (stage, mode, entries) in groups {
            let goes_out =
                entries.iter().any(|entry| entry.counted.all().any(|(_, bucket)| bucket.elsewhere.is_some()));
            scope.add(stage, mode, RateLimit { entries: entries.into(), goes_out });
        }
    }
}

impl Limit {
    fn compile(&self, path: &KeyPath, is_known: bool, scope: &mut Scope<'_>) -> Option<(Stage, Entry)> {
        let key = Key::compile(&self.by, self.on_missing, self.ipv6_prefix, path, scope);
        let usual = self.rate(self.rate, self.burst, path, scope);
        let mut special = Vec::new();
        let overrides = self.overrides.as_ref();
        for (value, other) in overrides.iter().flat_map(|overrides| &overrides.rates) {
            let path = path.key("overrides").key("rates").key(value);
            special.extend(self.rate(other.rate, other.burst, &path, scope).map(|rate| (value.as_str(), rate)));
        }
        if overrides.is_some() {
            scope.needs_caller("overrides go by a caller's claim");
        }
        let is_good = self.check(usual, &special, path, scope);
        let cost = self.taken(path, scope);
        let (key, usual, cost) = (key?, usual?, cost?);
        if is_known || !is_good || special.len() != overrides.map_or(0, |overrides| overrides.rates.len()) {
            return None;
        }
        let reads_caller = matches!(&cost, Taken::Told(number) if number.reads().caller);
        if reads_caller {
            scope.needs_caller("what it costs depends on the caller");
        }
        let is_late = key.needs_caller() || overrides.is_some() || reads_caller;
        let stage = if is_late { Stage::Limit } else { Stage::Admit };
        let key = Arc::new(key);
        let counted = self.counted(usual, special, &key, path, scope)?;
        Some((stage, Entry { counted, key, cost }))
    }

    /// What a request takes.
    fn taken(&self, path: &KeyPath, scope: &mut Scope<'_>) -> Option<Taken> {
        match &self.cost {
            Cost::Tokens(tokens) => Some(Taken::Always(*tokens)),
            Cost::Expression(text) if text == PARTS => Some(Taken::Always(scope.parts)),
            Cost::Expression(text) => match Number::compile(text, Names::of(scope.params)) {
                Ok(number) => Some(Taken::Told(number)),
                Err(mistakes) => {
                    mistakes.issues(&path.key("cost"), text).for_each(|issue| scope.issue(issue));
                    None
                }
            },
        }
    }

    /// A rate that can be counted.
    fn rate(&self, rate: HumanRate, burst: Option<u64>, path: &KeyPath, scope: &mut Scope<'_>) -> Option<Rate> {
        let (at, tokens) = match burst {
            Some(burst) => (path.key("burst"), burst),
            None => (path.key("rate"), rate.count()),
        };
        if tokens == 0 {
            scope.issue(Issue::new(at, "is 0, so no request could pass").hint("the least is 1"));
            return None;
        }
        let known = match &self.cost {
            Cost::Tokens(cost) => Some(*cost),
            Cost::Expression(text) => (text == PARTS).then_some(scope.parts),
        };
        if let Some(cost) = known
            && cost > tokens
        {
            scope.issue(
                Issue::new(path.key("cost"), format!("{cost} is more than the bucket ever holds, which is {tokens}"))
                    .goes_by(path.key("burst"))
                    .goes_by(path.key("rate"))
                    .hint("raise `burst`, or lower `cost`"),
            );
            return None;
        }
        let counted = Rate::of(rate, tokens);
        if counted.is_none() {
            scope.issue(
                Issue::new(at, format!("a bucket of {tokens} takes too long to fill at {rate} to be counted"))
                    .hint("lower `burst`, or raise `rate`"),
            );
        }
        counted
    }

    fn check(&self, usual: Option<Rate>, special: &[(&str, Rate)], path: &KeyPath, scope: &mut Scope<'_>) -> bool {
        let has_redis = scope.plan.rate_limits.redis.is_some();
        let mut is_good = true;
        let mut wrong = |issue| {
            scope.issue(issue);
            is_good = false;
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.name.is_empty() || self.name.len() > 100 || !self.name.bytes().all(fits) {
            wrong(
                Issue::new(path.key("name"), format!("`{}` is no limit name", self.name))
                    .hint("use 1 to 100 letters, digits, `-`, `_` and `.`: clients and metrics are told it"),
            );
        }
        if !KEYS.contains(&self.keys_max) {
            let (least, most) = (KEYS.start(), KEYS.end());
            wrong(Issue::new(path.key("keys_max"), "is out of bounds").hint(format!("choose from {least} to {most}")));
        }
        if let Some(overrides) = self.overrides.as_ref().filter(|overrides| overrides.rates.is_empty()) {
            wrong(
                Issue::new(path.key("overrides").key("rates"), format!("names no value of `{}`", overrides.claim))
                    .of_absence()
                    .hint("write `rates: {gold: {rate: 5000/m}}`, or leave `overrides` out"),
            );
        }
        if self.store == Where::Redis && !has_redis {
            wrong(
                Issue::new(path.key("store"), "there is no Redis to keep it in")
                    .goes_by(KeyPath::root().key("rate_limits").key("redis"))
                    .hint("add `rate_limits: {redis: {url: \"redis://HOST:6379\"}}`, or write `store: local`"),
            );
        }
        let rates = special.iter().map(|(value, rate)| (path.key("overrides").key("rates").key(*value), *rate));
        for (at, rate) in usual.map(|rate| (path.clone(), rate)).into_iter().chain(rates) {
            if self.store == Where::Redis && rate.capacity() > REDIS_CAPACITY_MAX {
                wrong(
                    Issue::new(at.key("burst"), "a bucket of this size is too large for Redis to count")
                        .hint("lower `burst`, or give a rate in a shorter time: `10/s` instead of `36000/h`"),
                );
            }
        }
        if !(0.001..=1.0).contains(&self.local_share) {
            wrong(
                Issue::new(path.key("local_share"), format!("{} is no share", self.local_share))
                    .hint("choose from 0.001 to 1.0"),
            );
        }
        if let Some(ban) = &self.ban {
            let at = path.key("ban");
            if ban.after == 0 {
                wrong(Issue::new(at.key("after"), "is 0").hint("the least is 1: a ban with the first refusal"));
            }
            for (key, duration) in [("within", ban.within), ("for", ban.r#for)] {
                if duration.get().is_zero() {
                    wrong(Issue::new(at.key(key), "is no time at all").hint("the least is 1ms"));
                }
            }
        }
        is_good
    }

    /// The limit, together with other routes that name it.
    fn counted(
        &self,
        usual: Rate,
        special: Vec<(&str, Rate)>,
        key: &Arc<Key>,
        path: &KeyPath,
        scope: &mut Scope<'_>,
    ) -> Option<Arc<Counted>> {
        let name = match self.scope {
            Counts::Policy => self.name.clone(),
            Counts::Route => format!("{}/{}", scope.route, self.name),
        };
        let kind = if self.mode == Mode::Shadow { "limit in shadow" } else { "limit" };
        // Tokens that a request takes may differ from route to route.
        let alike = Self { cost: Cost::default(), ..self.clone() };
        let settings = serde_json::to_string(&alike).unwrap_or_default();
        let mut is_new = false;
        let shared = scope.share(kind, &name, settings, path, |scope| {
            is_new = true;
            self.made(&name, usual, special, scope)
        });
        let counted = shared
            .map_err(|first| {
                scope.issue(
                    Issue::new(path.clone(), format!("the limit `{name}` says something else here"))
                        .related(first.clone(), "first said here")
                        .goes_by(first)
                        .of_absence()
                        .hint("say the same, give it another name, or write `scope: route` to count each route for itself"),
                );
            })
            .ok()?;
        if is_new {
            let mode = if self.mode == Mode::Shadow { Enforcement::Shadow } else { Enforcement::Enforce };
            scope.keeper.attach(Shown { counted: counted.clone(), key: key.clone(), settings: self.clone(), mode });
        }
        Some(counted)
    }

    fn made(&self, name: &str, usual: Rate, special: Vec<(&str, Rate)>, scope: &mut Scope<'_>) -> Counted {
        let usual = self.bucket(name, None, usual, scope);
        let buckets: Vec<_> = special
            .into_iter()
            .map(|(value, rate)| (value.into(), self.bucket(name, Some(value), rate, scope)))
            .collect();
        let special = self
            .overrides
            .as_ref()
            .map(|overrides| Special { claim: ClaimPath::new(&overrides.claim), buckets: buckets.into() });
        let penalty =
            self.ban.as_ref().map(|ban| Penalty { after: ban.after, within: ban.within.get(), lasts: ban.r#for.get() });
        Counted { name: name.into(), penalty, usual, special }
    }

    fn bucket(&self, name: &str, value: Option<&str>, rate: Rate, scope: &mut Scope<'_>) -> Bucket {
        let mode = if self.mode == Mode::Shadow { Enforcement::Shadow } else { Enforcement::Enforce };
        let metrics = scope.metrics.limit(&self.name, mode);
        let kind = if mode == Enforcement::Shadow { "limit in shadow" } else { "limit" };
        let kept_as = value.map_or_else(|| name.to_owned(), |value| format!("{name} [{value}]"));
        let (human, burst) = match value.and_then(|value| self.overrides.as_ref()?.rates.get(value)) {
            Some(other) => (other.rate, rate.burst()),
            None => (self.rate, rate.burst()),
        };
        let elsewhere = self.elsewhere(&kept_as, rate, scope);
        // What stands in for buckets elsewhere grants a share of them.
        let here = if elsewhere.is_some() { rate.share((self.local_share * 1000.0).round() as u64) } else { rate };
        let identity = Identity::of(kind, kept_as)
            .shape("by", self.by.join(", "))
            .shape("ipv6_prefix", self.ipv6_prefix)
            .shape("keys_max", self.keys_max)
            .setting("rate", human)
            .setting("burst", burst);
        let keys_max = self.keys_max as usize;
        let store = scope.keeper.keep(identity, || Store::new(keys_max, Instant::now(), metrics));
        let told = Arc::new(Told::new(&self.name, rate.burst(), rate.window(), scope.plan.rate_limits));
        Bucket { store, plan: Plan::new(here, scope.plan.version), told, elsewhere }
    }

    fn elsewhere(&self, name: &str, rate: Rate, scope: &Scope<'_>) -> Option<Elsewhere> {
        if self.store == Where::Local {
            return None;
        }
        let remote = scope.plan.remote.clone()?;
        let settings = scope.plan.rate_limits.redis.as_ref()?;
        // What is tried in shadow draws from buckets of its own: it must not use up what is enforced under the same name.
        let apart = if self.mode == Mode::Shadow { "shadow:" } else { "" };
        // All in one slot of a cluster, for a request draws from several.
        let prefix = format!("{{{}}}:{apart}{name}:", settings.prefix).into();
        Some(Elsewhere { remote, prefix, rate, on_error: self.on_error })
    }
}
