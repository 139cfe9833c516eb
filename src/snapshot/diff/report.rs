//! Changes as a text for people and as JSON: equal lines of several things are one line, and there is an end to it.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::{Change, Changes, Line, Subject, What};

/// The most lines of the text.
const TEXT_LINES_MAX: usize = 200;
/// The most lines of the JSON.
const JSON_LINES_MAX: usize = 1000;
/// The most names that begin a line of the text.
const TEXT_NAMES_MAX: usize = 3;
/// The most names of a line of the JSON.
const JSON_NAMES_MAX: usize = 100;

/// One line, and all the things that it is about.
struct Told<'c> {
    subjects: Vec<&'c Subject>,
    what: What,
    line: &'c Line,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What changed of each thing.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// Whether a change weakens protection.
    pub fn weakens(&self) -> bool {
        self.0.iter().flat_map(|change| &change.lines).any(|line| line.weakens.is_some())
    }

    /// The changes, one a line, such as
    ///
    /// ```text
    /// route orders: ip_filter removed (weakens protection: every address may use the route)
    /// routes a, b, c and 12 more: cors.origins + https://x
    /// ```
    ///
    /// At most 200 lines, what weakens protection before anything else; then the last one tells how many more.
    pub fn text(&self) -> Vec<String> {
        let told = self.told();
        let (told, left) = bounded(told, TEXT_LINES_MAX);
        let mut lines: Vec<String> = told.iter().map(Told::text).collect();
        if let Some(first) = left.first() {
            let weakens = if first.line.weakens.is_some() { ", some of which weaken protection" } else { "" };
            lines.push(format!("and {} more changes{weakens}", left.len()));
        }
        lines
    }

    /// The changes as `{"lines": [{"kind", "names", "more", "what", "path", "text", "weakens"}], "weakens", "left_out"}`.
    ///
    /// `more` is the number of things beyond the first 100 names, `weakens` how many lines tell of a weaker protection,
    /// `left_out` how many lines there are beyond the first 1000.
    pub fn json(&self) -> Value {
        let told = self.told();
        let weakens = told.iter().filter(|told| told.line.weakens.is_some()).count();
        let (told, left) = bounded(told, JSON_LINES_MAX);
        json!({
            "lines": told.iter().map(Told::json).collect::<Vec<_>>(),
            "weakens": weakens,
            "left_out": left.len(),
        })
    }

    /// Equal lines together, each where it comes first.
    fn told(&self) -> Vec<Told<'_>> {
        let mut places: HashMap<(&str, What, &Line), usize> = HashMap::new();
        let mut told: Vec<Told<'_>> = Vec::new();
        for change in &self.0 {
            for line in &change.lines {
                let place = *places.entry((&change.subject.kind, change.what, line)).or_insert(told.len());
                if place == told.len() {
                    told.push(Told { subjects: Vec::new(), what: change.what, line });
                }
                told[place].subjects.push(&change.subject);
            }
        }
        told
    }
}

/// The first so many, in their order, and the rest. What weakens protection is among the first.
fn bounded(told: Vec<Told<'_>>, max: usize) -> (Vec<Told<'_>>, Vec<Told<'_>>) {
    if told.len() <= max {
        return (told, Vec::new());
    }
    let weakens = told.iter().filter(|told| told.line.weakens.is_some()).count();
    let (mut weaker, mut others) = (max.min(weakens), max - max.min(weakens));
    let (first, mut left): (Vec<_>, Vec<_>) = told.into_iter().partition(|told| {
        let room = if told.line.weakens.is_some() { &mut weaker } else { &mut others };
        let fits = *room > 0;
        *room -= usize::from(fits);
        fits
    });
    left.sort_by_key(|told| told.line.weakens.is_none());
    (first, left)
}

impl Told<'_> {
    fn names(&self, max: usize) -> (Vec<&str>, usize) {
        let names: Vec<&str> = self.subjects.iter().filter_map(|subject| subject.name.as_deref()).collect();
        let more = names.len().saturating_sub(max);
        (names.into_iter().take(max).collect(), more)
    }

    fn text(&self) -> String {
        let (names, more) = self.names(TEXT_NAMES_MAX);
        let kind = self.subjects.first().map_or("", |subject| &subject.kind);
        let mut out = kind.to_owned();
        if names.len() > 1 {
            out.push('s');
        }
        for (place, name) in names.iter().enumerate() {
            let separator = match place {
                0 => " ",
                place if place + 1 == names.len() && more == 0 => " and ",
                _ => ", ",
            };
            let _ = write!(out, "{separator}{name}");
        }
        if more > 0 {
            let _ = write!(out, " and {more} more");
        }
        let _ = write!(out, ": {}", self.line);
        out
    }

    fn json(&self) -> Value {
        let (names, more) = self.names(JSON_NAMES_MAX);
        json!({
            "kind": self.subjects.first().map(|subject| &subject.kind),
            "names": names,
            "more": more,
            "what": self.what.word(),
            "path": self.line.path,
            "text": self.line.text,
            "weakens": self.line.weakens,
        })
    }
}
