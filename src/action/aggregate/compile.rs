//! From the configuration to a plan: who waits for whom, and everything that can be known to be wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, Method, StatusCode, header};
use serde_json::Value;

use super::fill::{BodyFilling, Filling, Mistake, Names, Source};
use super::merge;
use super::shape::{Path, Shape};
use super::{Aggregate, Fallback, Foreach, Part, When};
use crate::action::json::{Json, write_text};
use crate::config::aggregate as config;
use crate::config::aggregate::MergeMode;
use crate::config::load::unknown_name;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::identity::ClaimPath;
use crate::exchange::template::Params;
use crate::expression::{self, Condition};
use crate::http::headers::{is_credential, name};
use crate::http::path;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstream;

/// The most parts of an aggregate.
const PARTS_MAX: usize = 32;

/// What every part is told of the request: armiger's own words, and none of the client's that it did not vouch for.
pub(super) static ALWAYS: [&HeaderName; 9] = [
    &header::VIA,
    &header::FORWARDED,
    &name::X_REQUEST_ID,
    &name::TRACEPARENT,
    &name::TRACESTATE,
    &name::X_FORWARDED_FOR,
    &name::X_FORWARDED_HOST,
    &name::X_FORWARDED_PROTO,
    &name::X_FORWARDED_PORT,
];

/// See [`Surroundings::upstream`].
pub type FindUpstream<'s> = dyn Fn(&str, KeyPath, &mut Issues) -> Option<Arc<Upstream>> + 's;

/// What a route and its document have that an aggregate may need.
pub struct Surroundings<'s> {
    /// The route's name.
    pub route: &'s str,
    /// The parameters of its path.
    pub params: &'s Params,
    /// Its methods; none for any.
    pub methods: &'s [String],
    /// How long its answers may take.
    pub timeout: Duration,
    /// Where its callers say how long they wait.
    pub deadline_header: Option<HeaderName>,
    /// Whether a policy of it proves who calls.
    pub knows_caller: bool,
    /// Gives an upstream by its name, or reports at that place that there is none.
    pub upstream: &'s FindUpstream<'s>,
    /// Where parts are counted.
    pub metrics: &'s Metrics,
}

impl Aggregate {
    /// Compiles the action, or reports what is wrong with it.
    pub fn compile(
        config: &config::Aggregate,
        around: &Surroundings<'_>,
        path: &KeyPath,
        issues: &mut Issues,
    ) -> Option<Self> {
        let before = issues.len();
        let at = path.key("parts");
        if config.parts.is_empty() {
            issues
                .push(Issue::new(at.clone(), "names no part").hint("add one: `user: {upstream: users, path: /user}`"));
        } else if config.parts.len() > PARTS_MAX {
            issues.push(
                Issue::new(at.clone(), format!("has {} parts", config.parts.len()))
                    .hint(format!("the most is {PARTS_MAX}; more than that is a service of its own")),
            );
        }
        let deadline = deadline(config, around, path, issues);
        bounds(config, path, issues);
        let forward =
            headers(config.forward.as_deref().unwrap_or(&["accept-language".to_owned()]), &path.key("forward"), issues);
        let names: Vec<(&str, bool)> = config.parts.iter().map(|(name, part)| (name, part.foreach.is_some())).collect();
        let mut parts = Vec::with_capacity(names.len());
        for (name, part) in config.parts.iter() {
            let names = Names {
                params: around.params,
                parts: &names,
                family: "parts",
                has_item: part.foreach.is_some(),
                knows_caller: around.knows_caller,
            };
            let mut draft =
                Draft { mode: config.merge.mode, around, names, path: at.key(name), issues, sources: Vec::new() };
            parts.push(draft.part(name, part, &forward));
        }
        let errors_key = config.errors_as.as_deref().map(quoted);
        if config.errors_as.is_some() && config.merge.mode == MergeMode::Concat {
            issues.push(
                Issue::new(path.key("errors_as"), "a list has no keys")
                    .hint("leave it out, or use another `merge.mode`; `X-Armiger-Completed` names what is missing"),
            );
        }
        keys(config, path, issues);
        if issues.len() > before {
            return None;
        }
        let mut parts: Vec<(Part, Vec<Source>)> = parts.into_iter().collect::<Option<_>>()?;
        let named: Vec<usize> = parts
            .iter()
            .flat_map(|(_, sources)| sources)
            .filter_map(|source| if let Source::PartBody(part, _) = source { Some(*part) } else { None })
            .collect();
        named.into_iter().for_each(|part| parts[part].0.is_named = true);
        let all: Vec<&Source> = parts.iter().flat_map(|(_, sources)| sources).collect();
        let reads_request_body = all.iter().any(|source| matches!(source, Source::RequestBody(_)));
        let mut varies_by: Vec<HeaderName> = Vec::new();
        for source in &all {
            if let Source::Header(name) = source
                && !varies_by.contains(name)
            {
                varies_by.push(name.clone());
            }
        }
        let is_credential = |name: &HeaderName| is_credential(name.as_str());
        let is_private = all.iter().any(|source| match source {
            Source::Claim(_) | Source::ClientAddress => true,
            Source::Header(name) => is_credential(name),
            _ => false,
        }) || parts.iter().any(|(part, _)| part.forward.iter().any(is_credential));
        let parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
        acyclic(&parts, &at, issues);
        orderly(&parts, &at, issues);
        let is_unsafe = parts.iter().any(|part| !part.method.is_safe());
        (issues.len() == before).then_some(Self {
            parts,
            deadline,
            mode: config.merge.mode,
            on_conflict: config.merge.on_conflict,
            concurrency: config.concurrency.into(),
            errors_key,
            body_max: usize::try_from(config.body_max.get()).unwrap_or(usize::MAX),
            request_body_max: usize::try_from(config.request_body_max.get()).unwrap_or(usize::MAX),
            reads_request_body,
            varies_by,
            is_private,
            is_unsafe,
        })
    }
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_text(&mut out, text);
    out
}

fn deadline(config: &config::Aggregate, around: &Surroundings<'_>, path: &KeyPath, issues: &mut Issues) -> Duration {
    let Some(deadline) = config.deadline.map(|deadline| deadline.get()) else { return around.timeout * 9 / 10 };
    positive(deadline, path.key("deadline"), issues);
    if deadline > around.timeout {
        issues.push(
            Issue::new(path.key("deadline"), "is later than the route's `timeout`, which ends everything")
                .hint("shorten it, or raise `timeout`"),
        );
    }
    deadline
}

fn positive(duration: Duration, path: KeyPath, issues: &mut Issues) {
    if duration < Duration::from_millis(1) {
        issues.push(Issue::new(path, "is too short").hint("the least is 1ms"));
    }
}

fn bounds(config: &config::Aggregate, path: &KeyPath, issues: &mut Issues) {
    between(config.concurrency.into(), 1, 256, path.key("concurrency"), issues);
    size(config.body_max.get(), path.key("body_max"), issues);
    size(config.request_body_max.get(), path.key("request_body_max"), issues);
}

fn between(value: u64, least: u64, most: u64, path: KeyPath, issues: &mut Issues) {
    if !(least..=most).contains(&value) {
        issues
            .push(Issue::new(path, format!("{value} is out of bounds")).hint(format!("choose from {least} to {most}")));
    }
}

fn size(value: u64, path: KeyPath, issues: &mut Issues) {
    if !(1..=256 << 20).contains(&value) {
        issues.push(Issue::new(path, "is out of bounds").hint("choose from 1B to 256MiB: all of it is held in memory"));
    }
}

/// Headers that a part may get or give: none that belongs to one connection, frames a message, or names a host.
fn headers(texts: &[String], path: &KeyPath, issues: &mut Issues) -> Vec<HeaderName> {
    let each = texts.iter().enumerate();
    each.filter_map(|(place, text)| header_name(text, path.index(place), issues)).collect()
}

fn header_name(text: &str, path: KeyPath, issues: &mut Issues) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        issues.push(Issue::new(path, format!("`{text}` is no header name")).hint("write a name such as `x-tenant`"));
        return None;
    };
    let is_own = matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
            | "accept-encoding"
            | "content-encoding"
            | "range"
            | "if-none-match"
            | "if-modified-since"
            | "if-match"
            | "if-unmodified-since"
            | "if-range"
    ) || ALWAYS.contains(&&name);
    if is_own {
        issues.push(
            Issue::new(path, format!("`{name}` cannot stand here"))
                .hint("leave it out: armiger writes it itself, or it makes no sense for a part"),
        );
        return None;
    }
    Some(name)
}

/// In a group no two parts may have one key.
fn keys(config: &config::Aggregate, path: &KeyPath, issues: &mut Issues) {
    if config.merge.mode != MergeMode::Group {
        return;
    }
    let mut seen: HashMap<&str, KeyPath> = HashMap::new();
    if let Some(key) = &config.errors_as {
        seen.insert(key, path.key("errors_as"));
    }
    for (name, part) in config.parts.iter().filter(|(_, part)| !part.hidden) {
        let at = path.key("parts").key(name);
        let (key, at) = match &part.wrap_as {
            Some(key) => (key.as_str(), at.key("as")),
            None => (name, at),
        };
        if let Some(first) = seen.insert(key, at.clone()) {
            issues.push(
                Issue::new(at, format!("the document would have the key `{key}` twice"))
                    .related(first, "first here")
                    .hint("give it another key by `as`"),
            );
        }
    }
}

/// Parts that wait for each other would wait for ever.
fn acyclic(parts: &[Part], path: &KeyPath, issues: &mut Issues) {
    let mut is_done = vec![false; parts.len()];
    loop {
        let ready: Vec<usize> = (0..parts.len())
            .filter(|place| !is_done[*place] && parts[*place].parents.iter().all(|parent| is_done[*parent]))
            .collect();
        if ready.is_empty() {
            break;
        }
        ready.into_iter().for_each(|place| is_done[place] = true);
    }
    let Some(first) = is_done.iter().position(|is_done| !is_done) else { return };
    // Whoever is not done waits for one that is not done either: following them leads into the circle.
    let next = |place: usize| parts[place].parents.iter().copied().find(|parent| !is_done[*parent]).unwrap_or(place);
    let mut walk = vec![first];
    let circle = loop {
        let step = next(*walk.last().unwrap_or(&first));
        if let Some(start) = walk.iter().position(|place| *place == step) {
            break walk.split_off(start);
        }
        walk.push(step);
    };
    let name = |place: usize| &*parts[place].name;
    let mut text = format!("`{}` waits for ", name(circle[0]));
    for place in &circle[1..] {
        text.push_str(&format!("`{}`, which waits for ", name(*place)));
    }
    text.push_str(if circle.len() == 1 { "itself" } else { "the first" });
    issues.push(
        Issue::new(path.key(name(circle[0])), text)
            .hint("let one of them begin without the others: by a default, or another source"),
    );
}

/// Parts that change something must not race each other.
fn orderly(parts: &[Part], path: &KeyPath, issues: &mut Issues) {
    let reaches = |from: usize, to: usize| {
        let (mut open, mut seen) = (vec![from], vec![false; parts.len()]);
        while let Some(place) = open.pop() {
            if place == to {
                return true;
            }
            if !std::mem::replace(&mut seen[place], true) {
                open.extend(&parts[place].parents);
            }
        }
        false
    };
    let changing: Vec<usize> = (0..parts.len()).filter(|place| !parts[*place].method.is_safe()).collect();
    for (at, second) in changing.iter().enumerate() {
        for first in &changing[..at] {
            if !reaches(*second, *first) && !reaches(*first, *second) {
                let (first, second) = (&*parts[*first].name, &*parts[*second].name);
                issues.push(
                    Issue::new(path.key(second), format!("`{second}` and `{first}` change something, in no order"))
                        .related(path.key(first), "the other one")
                        .hint(format!("say it: `after: [{first}]`")),
                );
            }
        }
    }
}

/// The parts that an expression names: `parts.user`, `parts['user']`. None where `parts` stands alone. What stands within a text
/// counts too, and does no harm but a wait.
fn named_parts(text: &str) -> Vec<Option<&str>> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, word) in text.match_indices("parts") {
        let (before, rest) = (&text[..at], &text[at + word.len()..]);
        if before.ends_with(|c: char| is_word(c) || c == '.') || rest.starts_with(is_word) {
            continue;
        }
        let rest = rest.trim_start();
        let name = if let Some(rest) = rest.strip_prefix('.') {
            let rest = rest.trim_start();
            Some(&rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())])
        } else {
            let quoted = rest.strip_prefix('[').map(str::trim_start);
            quoted.and_then(|rest| {
                let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
                rest[1..].split(quote).next()
            })
        };
        found.push(name.filter(|name| !name.is_empty()));
    }
    found
}

/// A part while it is compiled.
struct Draft<'d, 'i> {
    mode: MergeMode,
    around: &'d Surroundings<'d>,
    names: Names<'d>,
    path: KeyPath,
    issues: &'i mut Issues,
    sources: Vec<Source>,
}

impl Draft<'_, '_> {
    fn part(&mut self, name: &str, config: &config::Part, forward: &[HeaderName]) -> Option<(Part, Vec<Source>)> {
        let before = self.issues.len();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > 100 || !name.bytes().all(fits) {
            self.issue(
                &self.path.clone(),
                format!("`{name}` is no part name"),
                "use 1 to 100 letters, digits, `-` and `_`",
            );
        }
        let upstream = (self.around.upstream)(&config.upstream, self.path.key("upstream"), self.issues);
        let method = self.method(config);
        let target = self.target(config);
        let own_headers = self.headers(config);
        let forward = match &config.forward {
            Some(own) => headers(own, &self.path.key("forward"), self.issues),
            None => forward.to_vec(),
        };
        let body = config.body.as_ref().and_then(|body| self.body(body, method.as_ref()));
        let foreach = self.foreach(config);
        let when = self.when(config);
        let fallback = self.fallback(config, method.as_ref());
        let shape = self.shape(config);
        let expose = headers(&config.expose, &self.path.key("expose"), self.issues);
        self.numbers(config);
        let statuses = |key: &str, texts: &[u16], least: u16, issues: &mut Issues| -> Vec<StatusCode> {
            let at = self.path.key(key);
            let each = texts.iter().enumerate();
            each.filter_map(|(place, text)| {
                let status = StatusCode::from_u16(*text).ok().filter(|status| (least..600).contains(&status.as_u16()));
                if status.is_none() {
                    issues.push(
                        Issue::new(at.index(place), format!("{text} is none that can stand here"))
                            .hint(format!("choose from {least} to 599")),
                    );
                }
                status
            })
            .collect()
        };
        let pass_status = statuses("pass_status", &config.pass_status, 400, self.issues);
        let accept = statuses("accept", &config.accept, 200, self.issues);
        if !config.pass_status.is_empty() && !config.required {
            self.issue(
                &self.path.key("pass_status"),
                "is for parts without which there is no answer",
                "add `required: true`, or leave it out",
            );
        }
        if config.hidden && config.wrap_as.is_some() {
            self.issue(&self.path.key("as"), "a hidden part has no place in the document", "keep one of them");
        }
        let parents = self.parents(config);
        let key = match (self.mode, &config.wrap_as) {
            (_, Some(key)) => Some(quoted(key)),
            (MergeMode::Group, None) => Some(quoted(name)),
            (_, None) => None,
        };
        if let Some(fixed) = fallback.as_ref().and_then(|fallback| fallback.fixed.as_ref())
            && !config.hidden
            && !merge::fits(self.mode, key.is_some(), fixed.view().kind())
        {
            self.issue(
                &self.path.key("fallback").key("static"),
                "is no object, and only objects can lie side by side",
                "write an object, or give the part a key by `as`",
            );
        }
        if self.issues.len() > before {
            return None;
        }
        let part = Part {
            name: name.into(),
            key,
            upstream: upstream?,
            method: method?,
            target: target?,
            headers: own_headers,
            forward,
            body,
            parents,
            is_named: false,
            when,
            required: config.required,
            pass_status,
            accept,
            timeout: config.timeout.map(|timeout| timeout.get()),
            body_max: usize::try_from(config.body_max.get()).unwrap_or(usize::MAX),
            foreach,
            fallback: fallback.unwrap_or_default(),
            null_on_error: config.null_on_error,
            shape,
            hidden: config.hidden,
            expose,
            metrics: self.around.metrics.part(self.around.route, name),
        };
        Some((part, std::mem::take(&mut self.sources)))
    }

    fn issue(&mut self, path: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        self.issues.push(Issue::new(path.clone(), message.into()).hint(hint.into()));
    }

    fn mistake(&mut self, path: &KeyPath, mistake: Mistake) {
        let mut issue = Issue::new(path.clone(), mistake.message);
        if let Some(hint) = mistake.hint {
            issue = issue.hint(hint);
        }
        self.issues.push(issue);
    }

    fn method(&mut self, config: &config::Part) -> Option<Method> {
        let at = self.path.key("method");
        let text = &config.method;
        match Method::from_bytes(text.as_bytes()) {
            Ok(_) if text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                self.issue(
                    &at,
                    format!("`{text}` is not in capitals"),
                    format!("write `{}`", text.to_ascii_uppercase()),
                );
                None
            }
            Ok(method) if [Method::CONNECT, Method::TRACE, Method::HEAD].contains(&method) => {
                self.issue(&at, format!("{method} brings no document"), "use another method");
                None
            }
            Ok(method) => {
                let is_safe = |text: &String| Method::from_bytes(text.as_bytes()).is_ok_and(|method| method.is_safe());
                let methods = self.around.methods;
                if !method.is_safe() && (methods.is_empty() || methods.iter().any(is_safe)) {
                    self.issue(
                        &at,
                        format!("{method} changes something, and the route takes methods that must not"),
                        "let the route match such methods only: `methods: [POST]`",
                    );
                }
                Some(method)
            }
            Err(_) => {
                self.issue(&at, format!("`{text}` is no method"), "write `GET` or `POST`");
                None
            }
        }
    }

    fn filling(&mut self, text: &str, path: &KeyPath) -> Option<Filling> {
        match Filling::parse(text, &self.names) {
            Ok(filling) => {
                self.sources.extend(filling.sources().cloned());
                Some(filling)
            }
            Err(mistake) => {
                self.mistake(path, mistake);
                None
            }
        }
    }

    fn target(&mut self, config: &config::Part) -> Option<Filling> {
        let at = self.path.key("path");
        if !config.path.starts_with('/') {
            self.issue(&at, "does not begin with `/`", "write path and query only; where to is the upstream's to know");
            return None;
        }
        let filling = self.filling(&config.path, &at)?;
        let sample = filling.sample();
        let end = sample.find('?').unwrap_or(sample.len());
        let is_normal = path::normalise(&sample[..end]).is_ok_and(|normal| normal.path == sample[..end]);
        if !is_normal || sample.contains('#') || PathAndQuery::try_from(sample.as_str()).is_err() {
            self.issue(
                &at,
                "is not in the one form that paths have here",
                "write no `//`, `..` or `#`, and percent-encode what cannot stand in a URL",
            );
            return None;
        }
        Some(filling)
    }

    fn headers(&mut self, config: &config::Part) -> Vec<(HeaderName, Filling)> {
        let mut own = Vec::with_capacity(config.headers.len());
        for (text, value) in &config.headers {
            let at = self.path.key("headers").key(text);
            let name = header_name(text, at.clone(), self.issues);
            let filling = self.filling(value, &at);
            if let Some(filling) = &filling
                && http::HeaderValue::from_str(&filling.sample()).is_err()
            {
                self.issue(&at, "has characters that cannot stand in a header", "leave them out");
            }
            own.extend(name.zip(filling));
        }
        own
    }

    fn body(&mut self, body: &Value, method: Option<&Method>) -> Option<BodyFilling> {
        let at = self.path.key("body");
        if method.is_some_and(|method| method == Method::GET) {
            self.issue(&at, "a GET has no body", "use another `method`, or leave it out");
        }
        match BodyFilling::parse(body, &self.names) {
            Ok(filling) => {
                self.sources.extend(filling.sources().cloned());
                Some(filling)
            }
            Err(mistake) => {
                self.mistake(&at, mistake);
                None
            }
        }
    }

    fn foreach(&mut self, config: &config::Part) -> Option<Foreach> {
        let text = config.foreach.as_ref()?;
        let at = self.path.key("foreach");
        let list = match self.names.source(text.trim_start_matches('{').trim_end_matches('}')) {
            Ok(source @ (Source::PartBody(..) | Source::RequestBody(_))) => source,
            Ok(_) => {
                self.issue(
                    &at,
                    format!("`{text}` is no list"),
                    "name one: `parts.orders.body.items`, `request.body.ids`",
                );
                return None;
            }
            Err(mistake) => {
                self.mistake(&at, mistake);
                return None;
            }
        };
        self.sources.push(list.clone());
        Some(Foreach { list, items_max: config.items_max.into(), concurrency: config.items_concurrency.into() })
    }

    fn when(&mut self, config: &config::Part) -> Option<When> {
        let text = config.when.as_ref()?;
        let at = self.path.key("when");
        let names = expression::Names { params: self.around.params, extra: &["parts"] };
        let holds = match Condition::compile(text, names) {
            Ok(holds) => holds,
            Err(mistake) => {
                self.issues.push(mistake.issue(at, text));
                return None;
            }
        };
        if holds.reads().caller && !self.around.knows_caller {
            self.issue(
                &at,
                "asks who calls, and this route knows nobody",
                "add the policy `identity` here or under `defaults`, enforced",
            );
        }
        let mut parts = Vec::new();
        for name in named_parts(text) {
            match name.and_then(|name| self.names.parts.iter().position(|(known, _)| *known == name)) {
                Some(part) => parts.push(part),
                None => {
                    let known = self.names.parts.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
                    let what =
                        name.map_or("names no part after `parts`".into(), |name| format!("there is no part `{name}`"));
                    self.issue(&at, what, format!("write `parts.NAME.body`; there are {known}"));
                }
            }
        }
        parts.sort_unstable();
        parts.dedup();
        self.sources.extend(parts.iter().map(|part| Source::PartBody(*part, Path::whole())));
        // Whether a part is there tells what it was made dependent on.
        let reads = holds.reads();
        self.sources.extend(reads.headers.iter().cloned().map(Source::Header));
        self.sources.extend(reads.caller.then(|| Source::Claim(ClaimPath::new("sub"))));
        self.sources.extend(reads.address.then_some(Source::ClientAddress));
        Some(When { holds, parts })
    }

    fn fallback(&mut self, config: &config::Part, method: Option<&Method>) -> Option<Fallback> {
        let given = config.fallback.as_ref()?;
        let at = self.path.key("fallback");
        if given.upstream.is_none() && given.fixed.is_none() {
            self.issue(&at, "says nothing", "give it `upstream` or `static`");
        }
        if given.counts_as_complete && given.fixed.is_none() {
            self.issue(&at.key("counts_as_complete"), "is about `static`, which is not there", "leave it out");
        }
        if given.upstream.is_some() && method.is_some_and(|method| !method.is_safe()) {
            self.issue(
                &at.key("upstream"),
                "a request that changes something is not sent to another place: the first may have done it",
                "use `static`, or nothing",
            );
        }
        let upstream =
            given.upstream.as_ref().and_then(|name| (self.around.upstream)(name, at.key("upstream"), self.issues));
        let fixed = given.fixed.as_ref().map(Json::of);
        Some(Fallback { upstream, fixed, counts_as_complete: given.counts_as_complete })
    }

    fn place(&mut self, text: &str, path: &KeyPath) -> Option<Path> {
        match Path::parse(text) {
            Ok(place) if place.is_empty() => {
                self.issue(path, "is the whole answer", "write a place such as `data.items`");
                None
            }
            Ok(place) => Some(place),
            Err(why) => {
                self.issue(
                    path,
                    format!("`{text}` {why}"),
                    "write a place such as `data.items.*.id`, or `/data/items`",
                );
                None
            }
        }
    }

    fn shape(&mut self, config: &config::Part) -> Shape {
        let mut shape = Shape::default();
        if let Some(text) = &config.unwrap {
            let at = self.path.key("unwrap");
            if let Some(place) = self.place(text, &at) {
                if place.is_many() {
                    self.issue(&at, "is more than one place", "unwrap the list, and `pick` from its entries");
                }
                shape.unwrapping(place);
            }
        }
        for (index, text) in config.pick.iter().enumerate() {
            let at = self.path.key("pick").index(index);
            if let Some(place) = self.place(text, &at) {
                shape.picking(&place);
            }
        }
        for (index, text) in config.omit.iter().enumerate() {
            let at = self.path.key("omit").index(index);
            if let Some(place) = self.place(text, &at) {
                shape.omitting(&place);
            }
        }
        for (text, name) in &config.rename {
            let at = self.path.key("rename").key(text);
            if let Some(place) = self.place(text, &at) {
                if !place.ends_with_a_key() {
                    self.issue(&at, "is an entry of a list, which has no name", "name a key");
                }
                shape.renaming(&place, name);
            }
        }
        shape
    }

    fn numbers(&mut self, config: &config::Part) {
        if let Some(timeout) = config.timeout {
            positive(timeout.get(), self.path.key("timeout"), self.issues);
        }
        size(config.body_max.get(), self.path.key("body_max"), self.issues);
        between(config.items_max.into(), 1, 1000, self.path.key("items_max"), self.issues);
        between(config.items_concurrency.into(), 1, 64, self.path.key("items_concurrency"), self.issues);
    }

    fn parents(&mut self, config: &config::Part) -> Vec<usize> {
        let mut parents: Vec<usize> = self.sources.iter().filter_map(Source::part).collect();
        for (place, name) in config.after.iter().enumerate() {
            match self.names.parts.iter().position(|(known, _)| known == name) {
                Some(parent) => parents.push(parent),
                None => {
                    let known = self.names.parts.iter().map(|(known, _)| *known);
                    self.issues.push(unknown_name(self.path.key("after").index(place), "part", name, known));
                }
            }
        }
        parents.sort_unstable();
        parents.dedup();
        parents
    }
}
