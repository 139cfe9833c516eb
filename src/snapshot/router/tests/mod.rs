//! Which route a request finds, and which rules stand in each other's way.

mod conditions;
mod conflicts;
mod hosts;
mod model;
mod paths;
mod size;

use http::header::COOKIE;

use super::*;
use crate::snapshot::pattern::Is;

/// `GET POST a.com *.b.com /path h:name=value q:!name c:name`, where the path is `/exact/{x}`, `^/prefix` or
/// `~/regex`, and a condition is `name`, `!name`, `name=exact`, `name=prefix*` or `name~regex`.
fn matcher(text: &str) -> Matcher {
    let mut matcher = Matcher::path(PathPattern::prefix("/").unwrap());
    for word in text.split_whitespace() {
        match word.split_at(word.len().min(2)) {
            ("h:", condition) => {
                let ValueMatch { name, is } = value_match(condition);
                matcher.headers.push(ValueMatch { name: name.parse().unwrap(), is });
            }
            ("q:", condition) => matcher.query.push(value_match(condition)),
            ("c:", condition) => matcher.cookies.push(value_match(condition)),
            _ if word.starts_with('/') => matcher.path = PathPattern::parse(word).unwrap(),
            _ if word.starts_with('^') => matcher.path = PathPattern::prefix(&word[1..]).unwrap(),
            _ if word.starts_with('~') => matcher.path = PathPattern::regex(&word[1..]).unwrap(),
            _ if word.bytes().all(|byte| byte.is_ascii_uppercase()) => matcher.methods.push(word.parse().unwrap()),
            _ => matcher.hosts.push(HostPattern::parse(word).unwrap()),
        }
    }
    matcher
}

fn value_match(text: &str) -> ValueMatch {
    let (name, is) = match text.split_once(['=', '~']) {
        None => match text.strip_prefix('!') {
            Some(name) => (name, Is::Absent),
            None => (text, Is::Present),
        },
        Some((name, regex)) if text.contains('~') => (name, Is::regex(regex).unwrap()),
        Some((name, value)) => match value.strip_suffix('*') {
            Some(prefix) => (name, Is::Prefix(prefix.into())),
            None => (name, Is::Exact(value.into())),
        },
    };
    ValueMatch { name: name.into(), is }
}

fn build(rules: &[&str]) -> Result<Router<usize>, Vec<Conflict>> {
    let rules = rules.iter().enumerate();
    Router::build(rules.map(|(target, text)| Rule { matcher: matcher(text), target }).collect())
}

struct Request {
    host: String,
    path: String,
    method: Method,
    headers: HeaderMap,
    query: Option<String>,
}

impl Request {
    fn query(&self) -> Query<'_> {
        let Self { host, path, method, headers, query } = self;
        Query { host, path, method, headers, query: query.as_deref() }
    }
}

/// The values of the parameters in `path`.
fn values<'p>(lookup: &Lookup<'_, usize>, path: &'p str) -> Vec<&'p str> {
    lookup.params.iter().map(|&(start, end)| &path[start as usize..end as usize]).collect()
}

/// `POST a.com /path?query h:name=value c:name=value`; `GET` if no method is given.
fn request(text: &str) -> Request {
    let mut request = Request {
        host: String::new(),
        path: String::new(),
        method: Method::GET,
        headers: HeaderMap::new(),
        query: None,
    };
    for word in text.split_whitespace() {
        if let Some((name, value)) = word.strip_prefix("h:").and_then(|word| word.split_once('=')) {
            request.headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        } else if let Some(cookie) = word.strip_prefix("c:") {
            request.headers.append(COOKIE, cookie.parse().unwrap());
        } else if word.starts_with(['/', '*']) {
            let (path, query) = word.split_once('?').map_or((word, None), |(path, query)| (path, Some(query)));
            request.path = path.into();
            request.query = query.map(str::to_owned);
        } else if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            request.method = word.parse().unwrap();
        } else {
            request.host = word.into();
        }
    }
    request
}

/// The position of the winning rule, or `404`, or `405 Allow`.
fn winner(router: &Router<usize>, text: &str) -> String {
    match router.find(&request(text).query()) {
        Ok(lookup) => lookup.target.to_string(),
        Err(Missed::NoRoute) => "404".into(),
        Err(Missed::Method(allowed)) => format!("405 {allowed}"),
    }
}

#[track_caller]
fn check(rules: &[&str], requests: &[(&str, &str)]) {
    let router = build(rules).unwrap_or_else(|conflicts| panic!("{conflicts:?}"));
    // The order of the rules must not matter, but for regular expressions.
    let backwards: Vec<_> = rules.iter().rev().copied().collect();
    let reversed = if rules.iter().any(|rule| rule.contains(" ~") || rule.starts_with('~')) {
        None
    } else {
        Some(build(&backwards).unwrap_or_else(|conflicts| panic!("{conflicts:?}")))
    };
    for (request, expected) in requests {
        assert_eq!(winner(&router, request), *expected, "{request}");
        if let Some(reversed) = &reversed {
            let expected = expected.parse::<usize>().map_or((*expected).to_owned(), |position| {
                if position < rules.len() { (rules.len() - 1 - position).to_string() } else { position.to_string() }
            });
            assert_eq!(winner(reversed, request), expected, "{request}, rules reversed");
        }
    }
}
