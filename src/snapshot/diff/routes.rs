//! Routes side by side, each with what holds on it: its own blocks, and those of `defaults` where it has none.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::{Document, Snapshot};
use super::compare::{Block, Shown, counts_alone, listed, pairs};
use super::form::Form;
use super::takeover::{Sample, Takeover, takeover};
use super::{Change, Line, Renamed, Subject, What, by_name, guards};
use crate::policy::{Blocks, Guard};

/// A document's routes.
struct Side<'f> {
    document: &'f Document,
    routes: &'f [Form],
    /// What `defaults` says of policies.
    policies: &'f Form,
    timeout: Form,
}

impl<'f> Side<'f> {
    fn new(document: &'f Document, form: &'f Form) -> Self {
        let defaults = form.get("defaults");
        let timeout = Form::of(&document.defaults.timeout());
        Self { document, routes: form.get("routes").items(), policies: defaults.get("policies"), timeout }
    }

    fn by_name(&self) -> HashMap<&'f str, usize> {
        self.routes.iter().enumerate().map(|(place, route)| (name(route), place)).collect()
    }

    fn timeout<'s>(&'s self, route: &'s Form) -> &'s Form {
        match route.get("timeout") {
            Form::Nothing => &self.timeout,
            own => own,
        }
    }

    fn policy(&self, route: &'f Form, key: &str) -> &'f Form {
        match route.get("policies").get(key) {
            Form::Nothing => self.policies.get(key),
            own => own,
        }
    }

    /// All that a route does, whatever it is called.
    fn content(&self, route: &'f Form) -> Form {
        let entries = route.entries().iter().filter(|(key, _)| key != "name").map(|(key, value)| {
            let value = match key.as_ref() {
                "timeout" => self.timeout(route).clone(),
                "policies" => {
                    Form::List(Blocks::GUARDS.iter().map(|(key, _)| self.policy(route, key).clone()).collect())
                }
                _ => value.clone(),
            };
            (key.clone(), value)
        });
        Form::Map(entries.collect())
    }

    fn sample(&self, place: usize) -> Option<Sample> {
        Sample::of(&self.document.routes[place].matches)
    }
}

fn name(route: &Form) -> &str {
    route.get("name").text()
}

/// What changed of the routes.
pub(super) fn changes(
    (old, old_form): (&Snapshot, &Form),
    (new, new_form): (&Snapshot, &Form),
    shown: &Shown<'_>,
    changes: &mut Vec<Change>,
) {
    let (was, is) = (Side::new(&old.document, old_form), Side::new(&new.document, new_form));
    let (old_names, new_names) = (was.by_name(), is.by_name());
    let subject = |name: &str| Subject { kind: "route".into(), name: Some(name.to_owned()) };
    let gone = || was.routes.iter().enumerate().filter(|(_, route)| !new_names.contains_key(name(route)));
    let come = is.routes.iter().filter(|route| !old_names.contains_key(name(route)));
    let renamed = Renamed::find(
        gone().map(|(_, route)| (name(route), was.content(route))),
        come.map(|route| (name(route), is.content(route))),
    );
    let limits = COUNTED.map(|key| renamed_limits(key, (&was, &old_names), &is));
    let mut defaults = Defaults { was: &was, is: &is, shown, renamed: limits, lines: HashMap::new() };
    for (place, route) in is.routes.iter().enumerate() {
        let Some(&old_place) = old_names.get(name(route)) else {
            let weakens = is
                .sample(place)
                .filter(|_| !renamed.is_new(name(route)))
                .and_then(|sample| takeover(old, new, &sample))
                .filter(|takeover| takeover.to == name(route))
                .map(|takeover| takes(&takeover));
            let lines = vec![Line { path: String::new(), text: renamed.added(name(route)), weakens }];
            changes.push(Change { subject: subject(name(route)), what: What::Added, lines });
            continue;
        };
        let old_route = &was.routes[old_place];
        let mut lines = defaults.lines(old_route, route);
        let of_match = |line: &Line| line.path.starts_with("match.");
        let unmarked = lines.iter().position(|line| of_match(line) && line.weakens.is_none());
        if let Some(line) = unmarked.or_else(|| lines.iter().position(of_match)) {
            let lost = was.sample(old_place).and_then(|sample| takeover(old, new, &sample));
            let lost = lost.filter(|takeover| takeover.from == name(route)).map(|takeover| loses(&takeover));
            let taken = || is.sample(place).and_then(|sample| takeover(old, new, &sample));
            let takes = || taken().filter(|takeover| takeover.to == name(route)).map(|takeover| takes(&takeover));
            let line = &mut lines[line];
            line.weakens = match (line.weakens.take(), lost.or_else(takes)) {
                (Some(reason), Some(more)) => Some(format!("{reason}; {more}")),
                (one, other) => one.or(other),
            };
        }
        if !lines.is_empty() {
            changes.push(Change { subject: subject(name(route)), what: What::Changed, lines });
        }
    }
    for (place, route) in gone() {
        let weakens = was
            .sample(place)
            .filter(|_| !renamed.is_old(name(route)))
            .and_then(|sample| takeover(old, new, &sample))
            .filter(|takeover| takeover.from == name(route))
            .map(|takeover| loses(&takeover));
        let lines = vec![Line { path: String::new(), text: renamed.removed(name(route)), weakens }];
        changes.push(Change { subject: subject(name(route)), what: What::Removed, lines });
    }
    let lines = expressions(&old.document, &new.document);
    if !lines.is_empty() {
        changes.push(Change { subject: Subject { kind: "routes".into(), name: None }, what: What::Changed, lines });
    }
}

/// The policies whose limits count together, by name, over all routes.
const COUNTED: [&str; 2] = ["rate_limit", "in_flight"];

/// The limits that no route has by the old name any more, and all that had them have by the same new one. Else routes
/// that shared what a limit lets through get as much each.
fn renamed_limits(
    key: &str,
    (was, old_names): (&Side<'_>, &HashMap<&str, usize>),
    is: &Side<'_>,
) -> HashSet<(String, String)> {
    let mut taken: HashMap<String, Option<String>> = HashMap::new();
    let mut still = HashSet::new();
    for route in is.routes {
        let new = is.policy(route, key);
        still.extend(new.items().iter().filter(|limit| !counts_alone(limit)).map(name));
        let Some(&place) = old_names.get(name(route)) else { continue };
        let old = was.policy(&was.routes[place], key);
        if old == new {
            continue;
        }
        let (olds, news) = (by_name(old), by_name(new));
        let both = pairs(&olds, &news);
        let renamed = Renamed::among(&both);
        for (old, form, _) in &both {
            if **form == Form::Nothing || counts_alone(form) {
                continue;
            }
            let new = renamed.by_old.get(old).map(|new| (*new).to_owned());
            let other = taken.entry((*old).to_owned()).or_insert_with(|| new.clone());
            if *other != new {
                *other = None;
            }
        }
    }
    let whole = taken.into_iter().filter(|(old, _)| !still.contains(old.as_str()));
    whole.filter_map(|(old, new)| Some((old, new?))).collect()
}

fn takes(takeover: &Takeover<'_>) -> String {
    format!("it takes requests of `{}`, without its {}", takeover.from, takeover.without.join(", "))
}

fn loses(takeover: &Takeover<'_>) -> String {
    format!("`{}` takes its requests, without its {}", takeover.to, takeover.without.join(", "))
}

/// Compares routes of one name, and what `defaults` says only once.
struct Defaults<'f> {
    was: &'f Side<'f>,
    is: &'f Side<'f>,
    shown: &'f Shown<'f>,
    /// The limits that have a new name in all routes, as [`COUNTED`].
    renamed: [HashSet<(String, String)>; COUNTED.len()],
    /// Of each policy, the changes where both sides inherit it.
    lines: HashMap<&'static str, Vec<Line>>,
}

impl<'f> Defaults<'f> {
    fn lines(&mut self, old: &'f Form, new: &'f Form) -> Vec<Line> {
        let mut lines = Vec::new();
        for (key, was, is) in pairs(old.entries(), new.entries()) {
            match key {
                "name" => {}
                "timeout" => lines.extend(self.block("timeout", self.was.timeout(old), self.is.timeout(new))),
                "policies" => {
                    for &(key, guards) in Blocks::GUARDS {
                        self.policy(key, guards, old, new, &mut lines);
                    }
                }
                key => lines.extend(self.block(key, was, is)),
            }
        }
        lines
    }

    /// A part of the route. Guards count from the route, so the part stands in its place.
    fn block(&self, key: &str, old: &Form, new: &Form) -> Vec<Line> {
        if old == new {
            return Vec::new();
        }
        let within = |form: &Form| Form::Map(vec![(key.to_owned().into(), form.clone())]);
        let (old, new) = (within(old), within(new));
        Block { shown: self.shown, guards: guards::of("route"), name: "", old: &old, new: &new, renamed: None }.lines()
    }

    fn policy(
        &mut self,
        key: &'static str,
        guards: &'static [Guard],
        old: &'f Form,
        new: &'f Form,
        lines: &mut Vec<Line>,
    ) {
        let inherits = |route: &Form| *route.get("policies").get(key) == Form::Nothing;
        let (was, is) = (self.was.policy(old, key), self.is.policy(new, key));
        let shown = self.shown;
        let renamed = COUNTED.iter().position(|counted| *counted == key).map(|place| &self.renamed[place]);
        let compare = || Block { shown, guards, name: key, old: was, new: is, renamed }.policy_lines();
        if inherits(old) && inherits(new) {
            lines.extend_from_slice(self.lines.entry(key).or_insert_with(compare));
        } else if was != is {
            lines.extend(compare());
        }
    }
}

/// Regular expressions of one host are asked in the order of the file.
fn expressions(old: &Document, new: &Document) -> Vec<Line> {
    let (was, is) = (expressions_by_host(old), expressions_by_host(new));
    let mut lines = Vec::new();
    for (host, news) in &is {
        let Some(olds) = was.get(host) else { continue };
        let both = |one: &[&str], other: &[&str]| -> Vec<String> {
            let other: HashSet<&str> = other.iter().copied().collect();
            one.iter().filter(|name| other.contains(*name)).map(|name| (*name).to_owned()).collect()
        };
        let (olds, news) = (both(olds, news), both(news, olds));
        let Some(first) = olds.iter().zip(&news).position(|(old, new)| old != new) else { continue };
        let same = olds.iter().rev().zip(news.iter().rev()).take_while(|(old, new)| old == new).count();
        let part = |names: &[String]| listed(&names[first..names.len() - same]).unwrap_or_default();
        let of = if host.is_empty() { String::new() } else { format!(" of {host}") };
        let text = format!("order of regular expressions{of}: {} -> {}", part(&olds), part(&news));
        lines.push(Line { path: String::new(), text, weakens: None });
    }
    lines
}

/// The names of routes with a regular expression, by host; that of no host is empty.
fn expressions_by_host(document: &Document) -> BTreeMap<String, Vec<&str>> {
    let mut by_host: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for route in document.routes.iter().filter(|route| route.matches.path_regex.is_some()) {
        let hosts: HashSet<String> = route.matches.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        if hosts.is_empty() {
            by_host.entry(String::new()).or_default().push(&route.name);
        }
        for host in hosts {
            by_host.entry(host).or_default().push(&route.name);
        }
    }
    by_host
}
