//! What changed between two configurations, by meaning and not by line: the report of a reload and of `armiger diff`.
//!
//! Compared is what holds: a route's policies are its own over `defaults`, so a block that moves there is no change.
//! Names say what is the same thing. The order of the file does not count, but among regular expressions. Values are
//! shown as `/config` shows them; that a secret, or a value from outside, is another one is told without either.

mod compare;
mod form;
mod guards;
mod report;
mod routes;
mod takeover;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display, Formatter};

use super::Snapshot;
use compare::{Block, Shown, pairs};
use form::{Form, Key};

/// What changed, in the order of the document: sections, listeners, upstreams, routes; of each the new one's order, and
/// then what is no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<Change>);

/// What changed of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The thing.
    pub subject: Subject,
    /// What became of it.
    pub what: What,
    /// What there is to say: at least one line, and of what was added or removed just one.
    pub lines: Vec<Line>,
}

/// A thing that has a name, or a section of the document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// `listener`, `upstream`, `provider`, `route`, or a key of the document, such as `admin`.
    pub kind: Cow<'static, str>,
    /// What the user calls it. A section has no name. Never masked: names are in every log line and metric.
    pub name: Option<String>,
}

/// What became of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// It is new.
    Added,
    /// It is no more.
    Removed,
    /// It is another than before.
    Changed,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The setting, `cors.origins`; empty for the whole thing.
    pub path: String,
    /// What is so with it: `+ https://x`, `1s -> 2s`, `removed`.
    pub text: String,
    /// Why this weakens protection, if it does.
    pub weakens: Option<String>,
}

impl What {
    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let space = if self.path.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}", self.path, self.text)?;
        match &self.weakens {
            Some(reason) => write!(f, " (weakens protection: {reason})"),
            None => Ok(()),
        }
    }
}

/// What changed from one configuration to the next. Takes time in proportion to their size.
pub fn between(old: &Snapshot, new: &Snapshot) -> Changes {
    let (was, is) = (Form::of(&old.document), Form::of(&new.document));
    // What one of them has from outside is not shown of the other either.
    let shown = Shown::new(old.outside.iter().chain(&new.outside));
    let mut changes = Vec::new();
    for (key, section) in is.entries() {
        let before = was.get(key);
        match key.as_ref() {
            "listeners" => things("listener", "address", (before, section), &shown, &mut changes),
            "upstreams" => things("upstream", "endpoints", (before, section), &shown, &mut changes),
            "identity" => things("provider", "", (before, section), &shown, &mut changes),
            // Told by what it means for routes.
            "defaults" => {}
            "routes" => routes::changes((old, &was), (new, &is), &shown, &mut changes),
            _ => changes.extend(changed(key.clone(), None, (before, section), &shown)),
        }
    }
    Changes(changes)
}

/// What changed of a section, or of a thing that is there before and after.
fn changed(kind: Key, name: Option<&str>, (old, new): (&Form, &Form), shown: &Shown<'_>) -> Option<Change> {
    let lines = Block { shown, guards: guards::of(&kind), name: "", old, new, renamed: None }.lines();
    let what = match (old, new) {
        (Form::Nothing, _) => What::Added,
        (_, Form::Nothing) => What::Removed,
        _ => What::Changed,
    };
    let subject = Subject { kind, name: name.map(str::to_owned) };
    (!lines.is_empty()).then_some(Change { subject, what, lines })
}

/// What changed of things that have names. `told` is the key of them that tells most; empty: all of them does.
fn things(
    kind: &'static str,
    told: &'static str,
    (old, new): (&Form, &Form),
    shown: &Shown<'_>,
    changes: &mut Vec<Change>,
) {
    let (olds, news) = (by_name(old), by_name(new));
    let both = pairs(&olds, &news);
    let renamed = Renamed::among(&both);
    for (name, old, new) in both {
        let (what, text) = match (old, new) {
            (Form::Nothing, _) if renamed.is_new(name) => (What::Added, renamed.added(name)),
            (Form::Nothing, new) if told.is_empty() => (What::Added, format!("added {}", shown.form(new))),
            (Form::Nothing, new) => (What::Added, format!("added, {told} {}", shown.form(new.get(told)))),
            (_, Form::Nothing) => (What::Removed, renamed.removed(name)),
            both => {
                changes.extend(changed(kind.into(), Some(name), both, shown));
                continue;
            }
        };
        let subject = Subject { kind: kind.into(), name: Some(name.to_owned()) };
        let lines = vec![Line { path: String::new(), text, weakens: None }];
        changes.push(Change { subject, what, lines });
    }
}

/// All of a thing but its name.
fn content(thing: &Form) -> Form {
    Form::Map(thing.entries().iter().filter(|(key, _)| key != "name").cloned().collect())
}

/// The entries of a mapping, or those of a list by their `name`.
fn by_name(form: &Form) -> Vec<(Key, Form)> {
    let items = form.items().iter().map(|item| (item.get("name").text().to_owned().into(), item.clone()));
    form.entries().iter().cloned().chain(items).collect()
}

/// Things that are the same by another name.
struct Renamed<'n> {
    by_old: HashMap<&'n str, &'n str>,
    by_new: HashMap<&'n str, &'n str>,
}

impl<'n> Renamed<'n> {
    /// Finds them among those that are gone and those that have come, each with all but its name.
    fn find(gone: impl Iterator<Item = (&'n str, Form)>, come: impl Iterator<Item = (&'n str, Form)>) -> Self {
        let mut by_content: HashMap<Form, VecDeque<&'n str>> = HashMap::new();
        gone.for_each(|(name, content)| by_content.entry(content).or_default().push_back(name));
        let mut found = Self { by_old: HashMap::new(), by_new: HashMap::new() };
        for (new, content) in come {
            if let Some(old) = by_content.get_mut(&content).and_then(VecDeque::pop_front) {
                found.by_old.insert(old, new);
                found.by_new.insert(new, old);
            }
        }
        found
    }

    /// Finds them among pairs of what was and what is.
    fn among(both: &[(&'n str, &Form, &Form)]) -> Self {
        Self::find(
            both.iter().filter(|(.., new)| **new == Form::Nothing).map(|(name, old, _)| (*name, content(old))),
            both.iter().filter(|(_, old, _)| **old == Form::Nothing).map(|(name, _, new)| (*name, content(new))),
        )
    }

    /// Keeps those whose old and new name are such.
    fn keep(&mut self, is_kept: impl Fn(&str, &str) -> bool) {
        self.by_old.retain(|old, new| is_kept(old, new));
        self.by_new.retain(|new, old| is_kept(old, new));
    }

    fn is_old(&self, name: &str) -> bool {
        self.by_old.contains_key(name)
    }

    fn is_new(&self, name: &str) -> bool {
        self.by_new.contains_key(name)
    }

    fn added(&self, name: &str) -> String {
        let old = self.by_new.get(name);
        old.map_or_else(|| "added".into(), |old| format!("added, `{}` by a new name", old))
    }

    fn removed(&self, name: &str) -> String {
        let new = self.by_old.get(name);
        new.map_or_else(|| "removed".into(), |new| format!("removed, it is now `{}`", new))
    }
}
