//! Keys of other proxies, and what the same is called here.

mod listeners;
mod routes;
mod upstreams;

/// What is meant by a key of another proxy.
pub(crate) struct Meant {
    /// The keys here that it stands for: that they are missing follows.
    pub(crate) keys: &'static [&'static str],
    /// What to do.
    pub(crate) hint: String,
}

/// A row: keys by which a mapping is known, words of others, the keys here that they stand for, and what to do; empty where it
/// is to write that key.
type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], &'static str);

/// All rows, of which the first that fits counts.
fn rows() -> impl Iterator<Item = &'static Row> {
    [listeners::KEYS, upstreams::KEYS, routes::KEYS].into_iter().flatten()
}

/// What a key is most likely that nobody knows, in a mapping with these keys: a name, which belongs deeper.
pub(crate) fn name(known: &[&str]) -> Option<Meant> {
    let has = |keys: &[&str]| keys.iter().all(|key| known.contains(key));
    if has(&["rename", "remove", "set", "add"]) {
        Some(Meant { keys: &["set"], hint: "write `set: {NAME: VALUE}` for a header".to_owned() })
    } else if has(&["request", "response", "claim_max"]) {
        Some(Meant {
            keys: &["request"],
            hint: "write `request: {set: {NAME: VALUE}}` for a header, or `response`".to_owned(),
        })
    } else {
        None
    }
}

/// Keys of a route that are for its `proxy`.
const SENDS: [&str; 2] = ["rewrite", "websocket"];
/// What else a route may do.
const ACTIONS: [&str; 5] = ["respond", "redirect", "aggregate", "batch", "saga_in_memory"];

/// What a key means that is none of a mapping with these keys. `is_free`: whether the mapping lacks a key.
pub(crate) fn key(name: &str, known: &[&str], is_free: impl Fn(&str) -> bool) -> Option<Meant> {
    let name = plain(name);
    let row = rows().find(|(by, words, ..)| {
        by.iter().all(|key| known.contains(key)) && words.iter().any(|word| plain(word) == name)
    });
    let (_, _, keys, hint) = row?;
    let other = ACTIONS.iter().find(|action| !is_free(action));
    let hint = match keys {
        // Of a route that does something already.
        _ if SENDS.contains(&name.as_str()) && known.contains(&"redirect") && !is_free("proxy") => {
            format!("`{name}` goes under `proxy`")
        }
        _ if SENDS.contains(&name.as_str()) && known.contains(&"redirect") && other.is_some() => {
            let other = other.copied().unwrap_or_default();
            format!("remove it: it is for `proxy`, and this route has `{other}`, which sends no path on")
        }
        [key, ..] if hint.is_empty() && is_free(key) => format!("did you mean `{key}`?"),
        [key, ..] if hint.is_empty() => format!("`{key}` is what this is called here"),
        [key] if !is_free(key) => format!("remove it, or move it into `{key}`, which stands here already; {hint}"),
        _ => (*hint).to_owned(),
    };
    Some(Meant { keys, hint })
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_proxies_are_known_where_they_may_stand() {
        let upstream = ["endpoints", "timeouts", "breaker", "pool", "retry"];
        let meant = |name: &str, is_free: bool| key(name, &upstream, |_| is_free).map(|meant| (meant.keys, meant.hint));
        assert_eq!(meant("servers", true), Some((&["endpoints"][..], "did you mean `endpoints`?".to_owned())));
        assert_eq!(meant("servers", false).unwrap().1, "`endpoints` is what this is called here");
        assert!(meant("connectTimeout", true).unwrap().1.contains("`connect`"));
        assert!(meant("banana", true).is_none());
        assert!(key("servers", &["match", "proxy"], |_| true).is_none());
    }

    /// Of two rows that are for the same mapping, or one for what the other is for too, the first is taken: a word in both would
    /// have a remedy that nobody is told.
    #[test]
    fn no_row_hides_a_word_of_another() {
        let is_within = |less: &[&str], more: &[&str]| less.iter().all(|key| more.contains(key));
        for (at, (by, words, ..)) in rows().enumerate() {
            for (other, more, ..) in rows().skip(at + 1) {
                let shared = words.iter().find(|word| more.iter().any(|other| plain(other) == plain(word)));
                assert!(shared.is_none() || !is_within(by, other), "{shared:?} of {by:?} and {other:?}");
            }
        }
    }
}
