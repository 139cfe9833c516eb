//! What operators see of the caches, and how they purge.

use std::sync::Arc;

use serde_json::{Value, json};

use super::fill::Rules;
use super::key::{Target, bare_host, counted_query, definition};
use super::purge::{Fate, What};
use super::shown;
use crate::http::path;
use crate::keep::Kept;

/// A route's cache, as a snapshot's note of it.
pub struct RouteCache {
    /// The route's name.
    pub route: Arc<str>,
    /// Its rules.
    pub rules: Arc<Rules>,
}

/// The caches of a snapshot.
#[derive(Clone, Default)]
pub struct Caches(Vec<(Arc<str>, Arc<Rules>)>);

/// What to purge, as operators say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// URLs, each with all that is stored of it.
    pub urls: Vec<String>,
    /// Beginnings of paths, or of URLs.
    pub prefixes: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// All.
    pub is_all: bool,
    /// It is not let go of, but stale.
    pub is_soft: bool,
}

impl Caches {
    /// Those of a snapshot.
    pub fn of(kept: &Kept) -> Self {
        Self(kept.attached::<RouteCache>().map(|note| (note.route.clone(), note.rules.clone())).collect())
    }

    /// Purges. How many targets were named: what is stored under them is not counted, for nobody looks for it.
    ///
    /// # Errors
    /// One of them is none; then nothing was purged.
    pub fn purge(&self, order: &Order) -> Result<usize, String> {
        let mut targets = Vec::new();
        for url in &order.urls {
            if !url.starts_with('/') && !url.contains("://") {
                return Err(format!("`{}` is no URL: write `http://host/path`", url.escape_default()));
            }
            let (host, path, query) = split(url)?;
            let host =
                host.ok_or_else(|| format!("`{}` names no host: write `http://host/path`", url.escape_default()))?;
            // Each route has its own form of a query.
            for (_, rules) in &self.0 {
                let query = counted_query(&rules.plan, query.as_deref());
                targets.push(What::Exact { host: host.clone(), path: path.clone(), query });
            }
        }
        for prefix in &order.prefixes {
            let (host, path, query) = split(prefix)?;
            if query.is_some() {
                return Err(format!("`{prefix}` has a query: a prefix is of the path"));
            }
            targets.push(What::Prefix { host, path });
        }
        targets.extend(order.tags.iter().cloned().map(What::Tag));
        if order.is_all {
            targets.push(What::All);
        }
        targets.dedup();
        if let Some((_, rules)) = self.0.first() {
            for target in &targets {
                rules.store.fates.purges.purge(target.clone(), order.is_soft);
                if let Some(shared) = &rules.shared {
                    shared.purge(target.clone(), order.is_soft);
                }
            }
        }
        Ok(order.urls.len() + order.prefixes.len() + order.tags.len() + usize::from(order.is_all))
    }

    /// Waits, for a moment, until other armigers can know of what was purged. Whether they can; `None`: there are none.
    pub async fn told(&self) -> Option<bool> {
        let (_, rules) = self.0.first()?;
        Some(rules.shared.as_ref()?.told().await)
    }

    /// One row for all routes together, and one for each.
    pub fn rows(&self) -> Vec<Value> {
        let Some((_, first)) = self.0.first() else { return Vec::new() };
        let usage = first.store.usage();
        let mut rows = vec![json!({
            "route": null,
            "keys": usage.keys,
            "bytes": usage.bytes,
            "bytes_max": usage.capacity,
            "fills_bytes": usage.filling,
            "fills_bytes_max": first.fills_max,
            "refreshes": usage.refreshing,
            "epoch": first.store.fates.purges.epoch(),
            "shared": first.shared.as_ref().map(|shared| shared.shown()),
        })];
        rows.extend(self.0.iter().map(|(route, rules)| {
            let counts = rules.metrics.counts();
            let asked: u64 = counts.iter().map(|(_, count)| count).sum();
            let served: u64 = counts
                .iter()
                .filter(|(word, _)| matches!(*word, "hit" | "stale" | "collapsed"))
                .map(|(_, count)| count)
                .sum();
            let ratio =
                if asked == 0 { Value::Null } else { json!((served as f64 / asked as f64 * 1000.0).round() / 1000.0) };
            let mut row = json!({"route": &**route, "hit_ratio": ratio, "flights": rules.flights.lock().len()});
            for (word, count) in counts {
                row[word] = json!(count);
            }
            row
        }));
        rows
    }

    /// What is stored of a URL, or why nothing is. Looks at every key, so not to be done where others wait.
    ///
    /// # Errors
    /// It is no URL.
    pub fn look_up(&self, url: &str) -> Result<Value, String> {
        /// The most that is told of one URL.
        const KEYS_MAX: usize = 100;

        let (host, path, query) = split(url)?;
        let Some((_, first)) = self.0.first() else { return Ok(json!({"url": url, "stored": []})) };
        let store = &first.store;
        let route_of = |key: &[u8]| {
            let id = definition(key)?;
            self.0.iter().find(|(_, rules)| rules.plan.id == id)
        };
        let is_of = |key: &[u8], host: Option<&str>| {
            let Some(target) = Target::of(key) else { return false };
            let Some((_, rules)) = route_of(key) else { return false };
            host.is_none_or(|host| host == target.host)
                && target.path == path
                && target.query == counted_query(&rules.plan, query.as_deref()).as_deref()
        };
        let now = std::time::Instant::now();
        let mut stored = Vec::new();
        for (key, shelf) in store.list(KEYS_MAX, |key| is_of(key, host.as_deref())) {
            let Some((route, rules)) = route_of(&key) else { continue };
            let route = &**route;
            let host = Target::of(&key).map(|target| target.host);
            let digest = shown::hash(b"key", &key, store.secret);
            for entry in &shelf.variants {
                let head = &entry.head;
                let fate = match rules.fate(&key, entry) {
                    Fate::Good if head.ttl(now) > 0 => "fresh",
                    Fate::Good => "stale",
                    Fate::Stale => "soft_purged",
                    Fate::Dead => "purged",
                };
                stored.push(json!({
                    "route": route,
                    "host": host,
                    "status": head.status.as_u16(),
                    "state": fate,
                    "age": head.age(now).as_secs(),
                    "ttl": head.ttl(now),
                    "bytes": entry.body.len(),
                    "key": &digest,
                    "vary": head.vary.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
                    "request": shown::request(&rules.plan, &head.vary, &head.variant, store.secret),
                    "tags": head.tags,
                    "stale_while_revalidate": head.terms.while_revalidate.as_secs(),
                    "stale_if_error": head.terms.if_error.as_secs(),
                }));
            }
            if let Some(why) = shelf.why {
                let left = shelf.pass_until.map_or(0, |until| until.saturating_duration_since(now).as_secs());
                stored.push(json!({"route": route, "host": host, "key": &digest, "state": "not_stored", "why": why.word(), "hit_for_miss": left}));
            }
        }
        if stored.is_empty() && host.is_some() {
            let others = store.list(KEYS_MAX, |key| is_of(key, None));
            let mut hosts: Vec<&str> = others.iter().filter_map(|(key, _)| Some(Target::of(key)?.host)).collect();
            hosts.sort_unstable();
            hosts.dedup();
            if !hosts.is_empty() {
                let hint = "nothing is known of it under this host, but under those of `hosts`";
                return Ok(json!({"url": url, "stored": stored, "hosts": hosts, "hint": hint}));
            }
        }
        if stored.is_empty() {
            let hint = "nobody asked for it by GET on a route with a cache, or it was let go of for want of room; \
                        Cache-Status of an answer tells more";
            return Ok(json!({"url": url, "stored": stored, "hint": hint}));
        }
        Ok(json!({"url": url, "stored": stored}))
    }
}

/// Host (without port), path in normal form, and query.
fn split(url: &str) -> Result<(Option<String>, String, Option<String>), String> {
    let wrong = |why: &str| format!("`{}` {why}", url.escape_default());
    let (host, target) = match url.split_once("://") {
        Some((scheme, rest)) => {
            if !matches!(scheme, "http" | "https") {
                return Err(wrong("is neither http nor https"));
            }
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (host, target) = rest.split_at(at);
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
                _ => (host, None),
            };
            if name.is_empty() {
                return Err(wrong("names no host"));
            }
            if host.contains('@') || host.parse::<http::uri::Authority>().is_err() {
                return Err(wrong("has a host that no request could have"));
            }
            if port.is_some_and(|port| port.parse::<u16>().is_err()) {
                return Err(wrong("has a port that there is not: the most is 65535"));
            }
            (Some(bare_host(host).to_ascii_lowercase()), target)
        }
        None if url.starts_with('/') => (None, url),
        None => return Err(wrong("is neither a URL nor a path: write `http://host/path` or `/path`")),
    };
    let (raw, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let normal =
        path::normalise(if raw.is_empty() { "/" } else { raw }).map_err(|_| wrong("has a path that is refused"))?;
    Ok((host, normal.path.into_owned(), query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_requests_are() {
        let of =
            |url| split(url).map(|(host, path, query)| (host.unwrap_or_default(), path, query.unwrap_or_default()));
        let parts = |host: &str, path: &str, query: &str| Ok((host.to_owned(), path.to_owned(), query.to_owned()));
        assert_eq!(of("http://H.test:80/a/../b?c=d"), parts("h.test", "/b", "c=d"));
        assert_eq!(of("https://h.test"), parts("h.test", "/", ""));
        assert_eq!(of("/a?b"), parts("", "/a", "b"));
        assert_eq!(of("http://[::1]:80/a"), parts("[::1]", "/a", ""));
        for wrong in ["http://h:99999/x", "http://h:/x", "http://h:a/x", "http://u@h/x", "http://h h/x", "http://:80/x"]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(of("ftp://h/").is_err() && of("a/b").is_err() && of("http:///a").is_err());
    }
}
