//! From the configuration to a plan: who waits for whom, and everything that can be known to be wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::merge;
use super::{Aggregate, Fallback, Foreach, Part, When};
use crate::action::fill::{Names, Source};
use crate::action::json::{Json, Kind, write_text};
use crate::action::outgoing::{
    Draft, Outgoing, Surroundings, Wording, between, headers, is_credential, is_name, is_of_caller, positive, size,
    statuses,
};
use crate::action::shape::{Path, Shape};
use crate::config::aggregate as config;
use crate::config::aggregate::MergeMode;
use crate::config::load::unknown_name;
use crate::config::value::HumanDuration;
use crate::config::{Issue, Issues, KeyPath};
use crate::exchange::fetch::{Known, Sends};
use crate::exchange::identity::ClaimPath;
use crate::expression::{self, Condition};

/// The most parts of an aggregate.
const PARTS_MAX: usize = 32;

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
            issues.push(
                Issue::new(at.clone(), "names no part")
                    .of_absence()
                    .hint("add one: `user: {upstream: users, path: /user}`"),
            );
        } else if config.parts.len() > PARTS_MAX {
            issues.push(
                Issue::new(at.clone(), format!("has {} parts", config.parts.len()))
                    .hint(format!("the most is {PARTS_MAX}; more than that is a service of its own")),
            );
        }
        let deadline = deadline(config, around, path, issues);
        bounds(config, path, issues);
        let forward = headers(&config.forward(), &path.key("forward"), issues);
        let names: Vec<(&str, bool)> = config.parts.iter().map(|(name, part)| (name, part.foreach.is_some())).collect();
        let (mut parts, mut waits) = (Vec::with_capacity(names.len()), Vec::with_capacity(names.len()));
        for (name, part) in config.parts.iter() {
            let names = Names {
                params: around.params,
                parts: &names,
                family: "parts",
                has_item: part.foreach.is_some(),
                knows_caller: around.knows_caller,
            };
            let mut draft = Draft { around, names, path: at.key(name), parts: &at, issues, sources: Vec::new() };
            let compiled = draft.part(name, part, config.merge.mode, &forward);
            let sources = std::mem::take(&mut draft.sources);
            // Known of one with mistakes too, so that all who wait for each other are told at once.
            waits.push(Waits { name, parents: draft.parents(part, &sources), is_safe: is_safe(&part.method) });
            parts.push(compiled.map(|part| (part, sources)));
        }
        acyclic(&waits, &at, issues);
        orderly(&waits, &at, issues);
        if config.errors_as.as_deref() == Some("") {
            issues.push(
                Issue::new(path.key("errors_as"), "is empty").hint("write a key such as `errors`, or leave it out"),
            );
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
        for ((part, _), waits) in parts.iter_mut().zip(waits) {
            part.parents = waits.parents;
        }
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
        let is_private = all.iter().any(|source| is_of_caller(source))
            || parts.iter().any(|(part, _)| part.outgoing.forward.iter().any(is_credential));
        let parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
        let is_unsafe = parts.iter().any(|part| !part.outgoing.method.is_safe());
        Some(Self {
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
            class: around.class,
            deadline_header: around.deadline_header.clone(),
        })
    }
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_text(&mut out, text);
    out
}

fn deadline(config: &config::Aggregate, around: &Surroundings<'_>, path: &KeyPath, issues: &mut Issues) -> Duration {
    let deadline = config.deadline(around.timeout);
    if config.deadline.is_none() {
        return deadline;
    }
    positive(deadline, path.key("deadline"), issues);
    if deadline > around.timeout {
        let issue = Issue::new(path.key("deadline"), "is later than the route's `timeout`, which ends everything")
            .hint("shorten it, or raise `timeout`");
        issues.push(around.timeout_at.iter().cloned().fold(issue, Issue::goes_by));
    }
    deadline
}

fn bounds(config: &config::Aggregate, path: &KeyPath, issues: &mut Issues) {
    between(config.concurrency.into(), 1, 256, path.key("concurrency"), issues);
    size(config.body_max.get(), path.key("body_max"), issues);
    size(config.request_body_max.get(), path.key("request_body_max"), issues);
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

/// What is known of a part's place among the others.
struct Waits<'c> {
    name: &'c str,
    /// For whom.
    parents: Vec<usize>,
    is_safe: bool,
}

fn is_safe(method: &str) -> bool {
    Method::from_bytes(method.as_bytes()).is_ok_and(|method| method.is_safe())
}

/// Parts that wait for each other would wait for ever.
fn acyclic(parts: &[Waits<'_>], path: &KeyPath, issues: &mut Issues) {
    let mut is_done = vec![false; parts.len()];
    loop {
        let ready: Vec<usize> = (0..parts.len())
            .filter(|place| !is_done[*place] && parts[*place].parents.iter().all(|parent| is_done[*parent]))
            .collect();
        if ready.is_empty() {
            let Some(first) = is_done.iter().position(|is_done| !is_done) else { return };
            // Who waits for those is not at fault.
            circle(first, parts, &is_done, path, issues).into_iter().for_each(|place| is_done[place] = true);
        }
        ready.into_iter().for_each(|place| is_done[place] = true);
    }
}

/// Follows who waits for whom from a part that waits for ever, until the walk bites its tail: reports those, and gives them.
fn circle(first: usize, parts: &[Waits<'_>], is_done: &[bool], path: &KeyPath, issues: &mut Issues) -> Vec<usize> {
    let next = |place: usize| parts[place].parents.iter().copied().find(|parent| !is_done[*parent]).unwrap_or(place);
    let mut walk = vec![first];
    let circle = loop {
        let step = next(*walk.last().unwrap_or(&first));
        if let Some(start) = walk.iter().position(|place| *place == step) {
            break walk.split_off(start);
        }
        walk.push(step);
    };
    let name = |place: usize| parts[place].name;
    let mut text = format!("`{}` waits for ", name(circle[0]));
    for place in &circle[1..] {
        text.push_str(&format!("`{}`, which waits for ", name(*place)));
    }
    text.push_str(if circle.len() == 1 { "itself" } else { "the first" });
    issues.push(
        Issue::new(path.key(name(circle[0])), text)
            .hint("let one of them begin without the others: by a default, or another source"),
    );
    circle
}

/// Parts that change something must not race each other.
fn orderly(parts: &[Waits<'_>], path: &KeyPath, issues: &mut Issues) {
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
    let changing: Vec<usize> = (0..parts.len()).filter(|place| !parts[*place].is_safe).collect();
    for (at, second) in changing.iter().enumerate() {
        for first in &changing[..at] {
            if !reaches(*second, *first) && !reaches(*first, *second) {
                let (first, second) = (parts[*first].name, parts[*second].name);
                issues.push(
                    Issue::new(path.key(second), format!("`{second}` and `{first}` change something, in no order"))
                        .related(path.key(first), "the other one")
                        .goes_by(path.key(second).key("after"))
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

impl Draft<'_, '_> {
    fn part(&mut self, name: &str, config: &config::Part, mode: MergeMode, forward: &[HeaderName]) -> Option<Part> {
        let before = self.issues.len();
        if !is_name(name) {
            self.issue(
                &self.path.clone(),
                format!("`{name}` is no part name"),
                "use 1 to 100 letters, digits, `-` and `_`",
            );
        }
        let upstream = (self.around.upstream)(&config.upstream, self.path.key("upstream"), self.issues);
        let wording = Wording {
            method: &config.method,
            path: &config.path,
            headers: &config.headers,
            forward: config.forward.as_deref(),
            body: config.body.as_ref(),
        };
        let outgoing = self.outgoing(&wording, forward);
        let foreach = self.foreach(config);
        if foreach.is_some() && !config.hidden && !merge::fits(mode, config.wrap_as.is_some(), Kind::Array) {
            let form = if mode == MergeMode::Flat { "flat" } else { "deep" };
            self.issue(
                &self.path.key("foreach"),
                format!("makes a list, and in `{form}` only objects lie side by side"),
                "give the list a key by `as`, or choose another `merge.mode`: `group`, or `concat` for one list of all",
            );
        }
        let when = self.when(config);
        let fallback = self.fallback(config);
        let cache = self.cache(name, config, outgoing.as_ref());
        let shape = self.shape(config);
        let expose = headers(&config.expose, &self.path.key("expose"), self.issues);
        self.numbers(config);
        let pass_status = statuses(&config.pass_status, 400, &self.path.key("pass_status"), self.issues);
        let accept = config.accept.clone();
        if !config.pass_status.is_empty() && !config.required {
            self.issues.push(
                Issue::new(self.path.key("pass_status"), "is for parts without which there is no answer")
                    .goes_by(self.path.key("required"))
                    .hint("add `required: true`, or leave it out"),
            );
        }
        if config.wrap_as.as_deref() == Some("") {
            self.issue(&self.path.key("as"), "is empty", "write the key that it gets in the document, or leave it out");
        }
        if config.hidden && config.wrap_as.is_some() {
            self.issue(&self.path.key("as"), "a hidden part has no place in the document", "keep one of them");
        }
        let key = match (mode, &config.wrap_as) {
            (_, Some(key)) => Some(quoted(key)),
            (MergeMode::Group, None) => Some(quoted(name)),
            (_, None) => None,
        };
        if let Some(fixed) = fallback.as_ref().and_then(|fallback| fallback.fixed.as_ref())
            && !config.hidden
            && !merge::fits(mode, key.is_some(), fixed.view().kind())
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
        Some(Part {
            name: name.into(),
            key,
            upstream: upstream?,
            outgoing: outgoing?,
            parents: Vec::new(),
            is_named: false,
            when,
            required: config.required,
            pass_status,
            accept,
            timeout: config.timeout.map(|timeout| timeout.get()),
            body_max: usize::try_from(config.body_max.get()).unwrap_or(usize::MAX),
            foreach,
            cache,
            fallback: fallback.unwrap_or_default(),
            null_on_error: config.null_on_error,
            shape,
            hidden: config.hidden,
            expose,
            metrics: self.around.metrics.part(self.around.route, name),
        })
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
            Err(mistakes) => {
                mistakes.issues(&at, text).for_each(|issue| self.issues.push(issue));
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
                    let issue = Issue::new(at.clone(), what);
                    self.issues.push(
                        name.map_or(issue.clone(), |name| issue.goes_by(self.parts.key(name)))
                            .hint(format!("write `parts.NAME.body`; there are {known}")),
                    );
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

    fn cache(&mut self, name: &str, config: &config::Part, outgoing: Option<&Outgoing>) -> Option<Arc<dyn Known>> {
        let given = config.cache.as_ref()?;
        let at = self.path.key("cache");
        if config.method != "GET" {
            self.issue(&at, format!("answers to {} are not stored", config.method), "leave it out: it is for `GET`");
            return None;
        }
        // Of a request with mistakes nothing is known, and the settings beside it are still looked at.
        let headers: Vec<HeaderName> =
            outgoing.iter().flat_map(|outgoing| &outgoing.headers).map(|(name, _)| name.clone()).collect();
        let sends = Sends {
            name: &format!("{}/{name}", self.around.route),
            headers: &headers,
            forward: outgoing.map_or(&[], |outgoing| &outgoing.forward),
            accepts: &format!("{:?}", config.accept),
            stale: config.fallback.as_ref().and_then(|fallback| fallback.stale).unwrap_or(HumanDuration::seconds(0)),
        };
        (self.around.cache)(given, &sends, at, self.issues)
    }

    fn fallback(&mut self, config: &config::Part) -> Option<Fallback> {
        let given = config.fallback.as_ref()?;
        let at = self.path.key("fallback");
        if given.stale.is_none() && given.upstream.is_none() && given.fixed.is_none() {
            let issue = Issue::new(at.clone(), "says nothing").of_absence_of(&["stale", "upstream", "static"]);
            self.issues.push(issue.hint("give it `stale`, `upstream` or `static`"));
        }
        if let Some(stale) = given.stale {
            if config.cache.is_none() {
                let issue = Issue::new(at.key("stale"), "is about what `cache` has, which is not there");
                self.issues.push(issue.goes_by(self.path.key("cache")).hint("add `cache: {}`"));
            }
            positive(stale.get(), at.key("stale"), self.issues);
        }
        if given.counts_as_complete && given.fixed.is_none() {
            let issue = Issue::new(at.key("counts_as_complete"), "is about `static`, which is not there");
            self.issues.push(issue.goes_by(at.key("static")).hint("leave it out"));
        }
        if given.upstream.is_some() && !is_safe(&config.method) {
            self.issue(
                &at.key("upstream"),
                "a request that changes something is not sent to another place: the first may have done it",
                "use `static`, or nothing",
            );
        }
        let upstream =
            given.upstream.as_ref().and_then(|name| (self.around.upstream)(name, at.key("upstream"), self.issues));
        let fixed = given.fixed.as_ref().map(Json::of);
        Some(Fallback { stale: given.stale.is_some(), upstream, fixed, counts_as_complete: given.counts_as_complete })
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

    fn parents(&mut self, config: &config::Part, sources: &[Source]) -> Vec<usize> {
        let mut parents: Vec<usize> = sources.iter().filter_map(Source::part).collect();
        for (place, name) in config.after.iter().enumerate() {
            match self.names.parts.iter().position(|(known, _)| known == name) {
                Some(parent) => parents.push(parent),
                None => {
                    let known = self.names.parts.iter().map(|(known, _)| *known);
                    self.issues.push(
                        unknown_name(self.path.key("after").index(place), "part", name, known)
                            .goes_by(self.parts.key(name)),
                    );
                }
            }
        }
        parents.sort_unstable();
        parents.dedup();
        parents
    }
}
