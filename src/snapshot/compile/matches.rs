//! The match of a route: one path, and conditions that a request can meet.

use std::collections::{BTreeMap, HashMap};

use http::{HeaderName, Method};

use super::super::pattern::{HostPattern, Is, PathPattern, PatternError, ValueMatch};
use super::super::router::Matcher;
use crate::config::issue::Source;
use crate::config::{Issue, Issues, KeyPath, route};
use crate::http::headers::{COOKIE_NAME_HINT, is_cookie_name};

pub(super) fn matcher(
    config: &route::Match,
    pattern: Option<PathPattern>,
    source: &Source,
    path: &KeyPath,
    issues: &mut Issues,
) -> Option<Matcher> {
    let before = issues.len();
    let hosts = config
        .hosts
        .iter()
        .enumerate()
        .filter_map(|(place, text)| taken(HostPattern::parse(text), || path.key("hosts").index(place), issues));
    let hosts = hosts.collect();
    let mut methods = Vec::with_capacity(config.methods.len());
    for (place, text) in config.methods.iter().enumerate() {
        let at = path.key("methods").index(place);
        match Method::from_bytes(text.as_bytes()) {
            Ok(_) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => issues.push(
                Issue::new(at, format!("`{text}` is not in capitals, and methods are told apart by case"))
                    .hint(format!("write `{}`", text.to_ascii_uppercase())),
            ),
            Ok(method) if method == Method::CONNECT || method == Method::TRACE => {
                issues.push(Issue::new(at, format!("{method} is never passed on")).hint("leave it out"));
            }
            Ok(_) if matches!(text.as_str(), "*" | "ANY" | "ALL") => issues.push(
                Issue::new(at, format!("`{text}` is no method")).hint("leave `methods` out: then any method matches"),
            ),
            Ok(_) if text.contains('|') => issues.push(
                Issue::new(at, format!("`{text}` is no method"))
                    .hint(format!("write one entry for each: `{}`", text.replace('|', "`, `"))),
            ),
            Ok(method) => methods.push(method),
            Err(_) => issues.push(Issue::new(at, format!("`{text}` is no method")).hint("write one such as `GET`")),
        }
    }
    let mut headers = Vec::with_capacity(config.headers.len());
    let mut names: HashMap<String, &String> = HashMap::new();
    for (text, is) in &config.headers {
        let at = path.key("headers").key(text);
        if let Some(first) = names.insert(text.to_ascii_lowercase(), text) {
            issues.push(
                Issue::new(at.clone(), format!("`{text}` and `{first}` are one header: case does not count"))
                    .hint("keep one of them"),
            );
        }
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => headers.extend(value_match(name, is, &at, issues)),
            Err(_) => issues
                .push(Issue::new(at, format!("`{text}` is no header name")).hint("write a name such as `x-tenant`")),
        }
    }
    let values = |key: &str, given: &BTreeMap<String, route::ValueMatch>, issues: &mut Issues| {
        let at = path.key(key);
        given.iter().filter_map(|(name, is)| value_match(name.clone(), is, &at.key(name), issues)).collect()
    };
    let query = values("query", &config.query, issues);
    for name in config.cookies.keys().filter(|name| !is_cookie_name(name)) {
        issues.push(
            Issue::new(path.key("cookies").key(name), format!("`{name}` is no cookie name")).hint(COOKIE_NAME_HINT),
        );
    }
    let cookies = values("cookies", &config.cookies, issues);
    // With a condition less it would seem to match what another route does.
    let is_whole = !source.is_lost(path);
    let path = pattern?;
    (is_whole && issues.len() == before).then_some(Matcher { hosts, path, methods, headers, query, cookies })
}

pub(super) fn path_pattern(config: &route::Match, path: &KeyPath, issues: &mut Issues) -> Option<PathPattern> {
    let given = [("path", &config.path), ("path_prefix", &config.path_prefix), ("path_regex", &config.path_regex)];
    let mut given = given.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
    let one = |key: &str, text: &str, issues: &mut Issues| {
        let parsed = match key {
            "path" => PathPattern::read(text),
            "path_prefix" => PathPattern::read_prefix(text),
            _ => PathPattern::regex(text).map_err(|error| vec![error]),
        };
        parsed.map_err(|wrong| wrong.iter().for_each(|error| issues.push(told(error, path.key(key))))).ok()
    };
    let Some((key, text)) = given.next() else {
        issues.push(
            Issue::new(path.clone(), "names no path")
                .of_absence_of(&["path", "path_prefix", "path_regex"])
                .hint("add `path`, `path_prefix` or `path_regex`; `path: \"/{rest...}\"` takes every path"),
        );
        return None;
    };
    let pattern = one(key, text, issues);
    let mut is_alone = true;
    for (other, text) in given {
        is_alone = false;
        issues.push(
            Issue::new(path.key(other), format!("`{other}` beside `{key}`: a match has one path"))
                .related(path.key(key), "the other one")
                .hint("keep one of them"),
        );
        // It may be the one that stays.
        one(other, text, issues);
    }
    pattern.filter(|_| is_alone)
}

fn value_match<N>(name: N, config: &route::ValueMatch, path: &KeyPath, issues: &mut Issues) -> Option<ValueMatch<N>> {
    let given = [
        ("exact", config.exact.is_some()),
        ("prefix", config.prefix.is_some()),
        ("regex", config.regex.is_some()),
        ("present", config.present.is_some()),
    ];
    let given: Vec<&str> = given.into_iter().filter_map(|(key, is_given)| is_given.then_some(key)).collect();
    if given.len() != 1 {
        let message = if given.is_empty() { "says nothing about the value" } else { "says more than one thing" };
        let issue = Issue::new(path.clone(), message);
        let issue =
            if given.is_empty() { issue.of_absence_of(&["exact", "prefix", "regex", "present"]) } else { issue };
        issues.push(issue.hint("give just one of `exact`, `prefix`, `regex` and `present`"));
        // It may be the one that stays.
        if let Some(text) = &config.regex {
            taken(Is::regex(text), || path.key("regex"), issues);
        }
        return None;
    }
    let is = if let Some(text) = &config.exact {
        Is::Exact(text.clone())
    } else if let Some(text) = &config.prefix {
        Is::Prefix(text.clone())
    } else if let Some(text) = &config.regex {
        taken(Is::regex(text), || path.key("regex"), issues)?
    } else if config.present == Some(true) {
        Is::Present
    } else {
        Is::Absent
    };
    Some(ValueMatch { name, is })
}

/// The value, or an issue at its place.
fn taken<T>(result: Result<T, PatternError>, at: impl FnOnce() -> KeyPath, issues: &mut Issues) -> Option<T> {
    result.map_err(|error| issues.push(told(&error, at()))).ok()
}

fn told(error: &PatternError, at: KeyPath) -> Issue {
    Issue::new(at, error.message()).hint(error.hint().to_owned())
}
