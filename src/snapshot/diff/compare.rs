//! Two forms of one block side by side: what is different, a line for each setting, and whether it weakens anything.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use super::form::{Form, Key};
use super::{Line, Renamed};
use crate::config::issue::quote;
use crate::config::rate::HumanRate;
use crate::config::value::{ByteSize, HumanDuration};
use crate::policy::{Guard, Weaker};

/// The most entries of a list that one line names.
const ENTRIES_MAX: usize = 8;
/// About how many characters a list or mapping may take in a line.
const WIDTH_MAX: usize = 120;
/// Texts longer than this are cut, as they are everywhere.
const TEXT_MAX: usize = 60;

/// What operators may see of values: a reference in the place of what came from outside, as in `/config`.
pub(super) struct Shown<'d> {
    references: HashMap<&'d str, &'d str>,
}

impl<'d> Shown<'d> {
    /// Pairs of a value and the text that stands for it in the file.
    pub(super) fn new(outside: impl Iterator<Item = &'d (String, String)>) -> Self {
        Self { references: outside.map(|(value, reference)| (value.as_str(), reference.as_str())).collect() }
    }

    pub(super) fn text<'t>(&self, text: &'t str) -> &'t str
    where
        'd: 't,
    {
        self.references.get(text).copied().unwrap_or(text)
    }

    /// A value on one line, and not too long.
    pub(super) fn form(&self, form: &Form) -> String {
        let mut out = String::new();
        self.write(form, &mut out);
        out
    }

    fn write(&self, form: &Form, out: &mut String) {
        match form {
            Form::Nothing => out.push_str("none"),
            Form::Hidden(_) => out.push_str("***"),
            Form::Plain(text) => out.push_str(text),
            Form::Text(text) => out.push_str(&worded(self.text(text))),
            Form::List(items) => {
                out.push('[');
                for (place, item) in items.iter().enumerate() {
                    if !self.separate(place == 0, out) {
                        break;
                    }
                    self.write(item, out);
                }
                out.push(']');
            }
            Form::Map(entries) => {
                out.push('{');
                for (place, (key, value)) in entries.iter().filter(|(_, value)| !is_empty(value)).enumerate() {
                    if !self.separate(place == 0, out) {
                        break;
                    }
                    let _ = write!(out, "{}: ", worded(key));
                    self.write(value, out);
                }
                out.push('}');
            }
        }
    }

    /// Whether there is room for another item.
    fn separate(&self, is_first: bool, out: &mut String) -> bool {
        if !is_first {
            out.push_str(", ");
        }
        let fits = out.len() < WIDTH_MAX;
        if !fits {
            out.push('…');
        }
        fits
    }
}

/// A text as it is where it is one plain word; else in quotes, escaped and cut.
fn worded(text: &str) -> String {
    let is_word = !text.is_empty() && text.len() <= TEXT_MAX && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if is_word { text.to_owned() } else { quote(text) }
}

fn is_empty(form: &Form) -> bool {
    match form {
        Form::Nothing => true,
        Form::List(items) => items.is_empty(),
        Form::Map(entries) => entries.iter().all(|(_, value)| is_empty(value)),
        Form::Plain(_) | Form::Text(_) | Form::Hidden(_) => false,
    }
}

/// A block that is compared.
pub(super) struct Block<'a> {
    /// What operators may see.
    pub(super) shown: &'a Shown<'a>,
    /// What of it protects.
    pub(super) guards: &'static [Guard],
    /// What paths begin with.
    pub(super) name: &'a str,
    /// What it was.
    pub(super) old: &'a Form,
    /// What it is.
    pub(super) new: &'a Form,
    /// Where a name stands for one thing in several blocks: those that have a new name in all of them, old and new.
    pub(super) renamed: Option<&'a HashSet<(String, String)>>,
}

impl Block<'_> {
    /// The changes of a block that is in force whenever it is there.
    pub(super) fn lines(&self) -> Vec<Line> {
        Walk { block: self, protects: true, lines: Vec::new() }.finish()
    }

    /// The changes of a policy's block, which may be absent, switched off, or in shadow.
    pub(super) fn policy_lines(&self) -> Vec<Line> {
        let line = |text: String, weakens| vec![Line { path: self.name.to_owned(), text, weakens }];
        match (is_given(self.old), is_given(self.new)) {
            (false, false) => Vec::new(),
            (false, true) => line(format!("added {}", self.shown.form(self.new)), None),
            (true, false) => {
                let text = if *self.new == Form::Nothing { "removed" } else { "switched off" };
                line(text.into(), self.gone().filter(|_| is_enforced(self.old)))
            }
            (true, true) => {
                let protects = is_enforced(self.old) && is_enforced(self.new);
                Walk { block: self, protects, lines: Vec::new() }.finish()
            }
        }
    }

    /// What is so when a policy no longer holds.
    fn gone(&self) -> Option<String> {
        let guard = self.guards.iter().find(|guard| guard.path.is_empty() && matches!(guard.weaker, Weaker::Gone))?;
        Some(guard.reason.to_owned())
    }
}

/// Whether a limit counts for each route by itself.
pub(super) fn counts_alone(limit: &Form) -> bool {
    limit.get("scope").text() == "route"
}

fn is_given(policy: &Form) -> bool {
    !matches!(policy, Form::Nothing) && policy.text() != "off"
}

fn is_enforced(policy: &Form) -> bool {
    is_given(policy) && matches!(policy.get("mode").text(), "" | "enforce")
}

struct Walk<'b> {
    block: &'b Block<'b>,
    /// Whether the block protects, before and after: what is only counted has nothing to weaken.
    protects: bool,
    lines: Vec<Line>,
}

impl Walk<'_> {
    fn finish(mut self) -> Vec<Line> {
        let (old, new) = (self.block.old, self.block.new);
        self.values("", None, old, new);
        self.lines
    }

    fn push(&mut self, path: &str, text: String, weakens: Option<String>) {
        self.lines.push(Line { path: joined(self.block.name, path), text, weakens });
    }

    /// `within`: the path of the mapping and the key in it.
    fn values(&mut self, path: &str, within: Option<(&str, &str)>, old: &Form, new: &Form) {
        if old == new {
            return;
        }
        match (old, new) {
            (Form::Map(olds), Form::Map(news)) => {
                for (key, old, new) in pairs(olds, news) {
                    self.values(&joined(path, key), Some((path, key)), old, new);
                }
            }
            (Form::List(olds), Form::List(news)) => self.lists(path, olds, news),
            _ => {
                let weakens = self.weakens(path, within, old, new);
                let text = match new {
                    Form::Nothing if self.any(path, within).is_some() => {
                        format!("{} -> any", self.block.shown.form(old))
                    }
                    new => self.change(old, new),
                };
                self.push(path, text, weakens);
            }
        }
    }

    fn change(&self, old: &Form, new: &Form) -> String {
        let is_told = |form: &Form| form.is_single() && !matches!(form, Form::Hidden(_));
        let shown = |form| self.block.shown.form(form);
        match (old, new) {
            (Form::Nothing, Form::Hidden(_)) => "added".into(),
            (Form::Nothing, new) if !is_told(new) => format!("added {}", shown(new)),
            (old, Form::Nothing) if !is_told(old) => "removed".into(),
            _ => {
                let (was, is) = (shown(old), shown(new));
                // Only what is not shown is different: a secret, what came from outside, the end of something long.
                if was == is { "changed".into() } else { format!("{was} -> {is}") }
            }
        }
    }

    fn weakens(&self, path: &str, within: Option<(&str, &str)>, old: &Form, new: &Form) -> Option<String> {
        if path == "mode" && is_enforced(self.block.old) && !is_enforced(self.block.new) {
            return self.block.gone();
        }
        let path = &generic(path);
        let weaker = |guard: &Guard| match guard.weaker {
            Weaker::Gone => guard.is_at(path) && *new == Form::Nothing,
            Weaker::Higher => guard.is_at(path) && measure(old).zip(measure(new)).is_some_and(|(old, new)| new > old),
            Weaker::When(is_weaker) => guard.is_at(path) && is_weaker(old.text(), new.text()),
            Weaker::Loses { among, of } => {
                *new == Form::Nothing
                    && within.is_some_and(|(map, key)| guard.is_at(map) && self.is_lost(key, among, of))
            }
            Weaker::Grows(_)
            | Weaker::Allows(_)
            | Weaker::Any
            | Weaker::Denies(_)
            | Weaker::Entries { .. }
            | Weaker::Ordered => false,
        };
        self.guard(weaker).or_else(|| self.any(path, within).filter(|_| *new == Form::Nothing))
    }

    /// What is so where a condition is gone, if that leaves any value.
    fn any(&self, path: &str, within: Option<(&str, &str)>) -> Option<String> {
        let is_it = |guard: &Guard| guard.is_at(path) || within.is_some_and(|(map, _)| guard.is_at(map));
        self.guard(|guard| matches!(guard.weaker, Weaker::Any) && is_it(guard))
    }

    fn guard(&self, weaker: impl Fn(&Guard) -> bool) -> Option<String> {
        let guards = self.block.guards.iter().filter(|guard| self.protects && !guard.path.is_empty());
        guards.into_iter().find(|guard| weaker(guard)).map(|guard| guard.reason.to_owned())
    }

    fn is_lost(&self, name: &str, among: &[&str], of: fn(&str) -> bool) -> bool {
        let is_it = |other: &str| other.eq_ignore_ascii_case(name);
        let still = among.iter().any(|path| {
            let names = self.block.new.at(path);
            names.entries().iter().any(|(key, _)| is_it(key)) || names.items().iter().any(|item| is_it(item.text()))
        });
        !still && of(&name.to_ascii_lowercase())
    }

    fn is_ordered(&self, path: &str) -> bool {
        self.block.guards.iter().any(|guard| guard.is_at(path) && matches!(guard.weaker, Weaker::Ordered))
    }

    fn lists(&mut self, path: &str, olds: &[Form], news: &[Form]) {
        let all = || olds.iter().chain(news);
        let entries = self.block.guards.iter().find_map(|guard| match guard.weaker {
            Weaker::Entries { lets, keeps } if guard.is_at(path) => Some((lets, keeps, guard.reason)),
            _ => None,
        });
        if let Some((lets, keeps, reason)) = entries {
            self.entries(path, (olds, news), (lets, keeps), reason);
        } else if all().all(Form::is_single) && !self.is_ordered(path) {
            self.sets(path, olds, news);
        } else if all().all(|item| !item.get("name").text().is_empty()) {
            let named = |items: &[Form]| -> Vec<(Key, Form)> {
                items.iter().map(|item| (item.get("name").text().to_owned().into(), item.clone())).collect()
            };
            let (olds, news) = (named(olds), named(news));
            let both = pairs(&olds, &news);
            let mut renamed = Renamed::among(&both);
            if let Some(everywhere) = self.block.renamed {
                let is_alone = |old: &str| olds.iter().any(|(key, limit)| key == old && counts_alone(limit));
                renamed.keep(|old, new| is_alone(old) || everywhere.contains(&(old.to_owned(), new.to_owned())));
            }
            for (name, old, new) in both {
                // It protects as before, but what is known of it goes by its name.
                if *old == Form::Nothing && renamed.is_new(name) {
                    self.push(&format!("{path}[{name}]"), format!("{}, and begins anew", renamed.added(name)), None);
                    continue;
                }
                if *new == Form::Nothing && renamed.is_old(name) {
                    self.push(&format!("{path}[{name}]"), renamed.removed(name), None);
                    continue;
                }
                // An entry may have a mode of its own, and then protects by that.
                let protects = self.protects;
                self.protects &= *old == Form::Nothing || is_enforced(old);
                self.values(&format!("{path}[{name}]"), None, old, new);
                self.protects = protects;
            }
        } else if olds.len() == news.len() && !all().any(Form::is_single) {
            for (place, (old, new)) in olds.iter().zip(news).enumerate() {
                self.values(&format!("{path}[{place}]"), None, old, new);
            }
        } else {
            let shown = |items: &[Form]| self.block.shown.form(&Form::List(items.to_vec()));
            let (was, is) = (shown(olds), shown(news));
            self.push(path, if was == is { "changed".into() } else { format!("{was} -> {is}") }, None);
        }
    }

    /// A list in which each entry lets through or keeps out.
    fn entries(&mut self, path: &str, (olds, news): (&[Form], &[Form]), (lets, keeps): (&str, &str), reason: &str) {
        let has = |items: &[Form], key: &str, item: &Form| {
            items.iter().any(|other| is_enforced(other) && other.get(key) == item.get(key))
        };
        let weakens = |item: &Form, key: &str, others: &[Form]| {
            let counts = self.protects && is_enforced(item) && *item.get(key) != Form::Nothing;
            (counts && !has(others, key, item)).then(|| reason.to_owned())
        };
        let (removed, added) = (without(olds, news), without(news, olds));
        let gone = removed.into_iter().map(|item| ("- ", item, weakens(item, keeps, news)));
        let come = added.into_iter().map(|item| ("+ ", item, weakens(item, lets, olds)));
        let lines: Vec<_> = gone
            .chain(come)
            .map(|(sign, item, weak)| (format!("{sign}{}", self.block.shown.form(item)), weak))
            .collect();
        if lines.is_empty() {
            self.push(path, "another order".into(), None);
        }
        for (text, weak) in lines {
            self.push(path, text, weak);
        }
    }

    fn sets(&mut self, path: &str, olds: &[Form], news: &[Form]) {
        // An entry less is narrower, but the last one is not.
        if (olds.is_empty() || news.is_empty())
            && let Some(reason) = self.any(path, None)
        {
            let shown = |items: &[Form]| match items {
                [] => "any".to_owned(),
                items => self.block.shown.form(&Form::List(items.to_vec())),
            };
            let text = format!("{} -> {}", shown(olds), shown(news));
            return self.push(path, text, Some(reason).filter(|_| news.is_empty()));
        }
        let (removed, added) = (without(olds, news), without(news, olds));
        let texts = |items: &[Form]| items.iter().map(|item| item.text().to_owned()).collect::<Vec<_>>();
        let (old_texts, new_texts) = (texts(olds), texts(news));
        let of = |texts: &[String], uncovered: fn(&[&str], &[&str]) -> Vec<bool>, entries: &[&Form]| {
            let by: Vec<&str> = texts.iter().map(String::as_str).collect();
            uncovered(&entries.iter().map(|entry| entry.text()).collect::<Vec<_>>(), &by)
        };
        let (mut weak_added, mut weak_removed) = (vec![false; added.len()], vec![false; removed.len()]);
        let reason = self.guard(|guard| guard.is_at(path));
        for guard in self.block.guards.iter().filter(|guard| reason.is_some() && guard.is_at(path)) {
            match guard.weaker {
                Weaker::Grows(uncovered) => weak_added = of(&old_texts, uncovered, &added),
                Weaker::Allows(_) if olds.is_empty() => {}
                Weaker::Allows(uncovered) => {
                    weak_added = of(&old_texts, uncovered, &added);
                    weak_removed.fill(news.is_empty());
                }
                Weaker::Denies(uncovered) => weak_removed = of(&new_texts, uncovered, &removed),
                Weaker::Loses { among, of } => {
                    weak_removed = removed.iter().map(|entry| self.is_lost(entry.text(), among, of)).collect();
                }
                Weaker::Gone
                | Weaker::Higher
                | Weaker::When(_)
                | Weaker::Any
                | Weaker::Entries { .. }
                | Weaker::Ordered => {}
            }
        }
        let shown = |entries: &[&Form], weak: Vec<bool>| -> Vec<(String, bool)> {
            entries.iter().map(|entry| self.block.shown.form(entry)).zip(weak).collect()
        };
        let (removed, added) = (shown(&removed, weak_removed), shown(&added, weak_added));
        // What looks the same on both sides came from outside, and another value came.
        let names = |entries: &[(String, bool)]| entries.iter().map(|(text, _)| text.clone()).collect::<HashSet<_>>();
        let (gone, come) = (names(&removed), names(&added));
        let mut told: [(&str, Vec<String>, bool); 6] = [
            ("- ", Vec::new(), false),
            ("- ", Vec::new(), true),
            ("+ ", Vec::new(), false),
            ("+ ", Vec::new(), true),
            ("", Vec::new(), false),
            ("", Vec::new(), true),
        ];
        let weak_come: HashSet<&str> = added.iter().filter(|(_, weak)| *weak).map(|(text, _)| text.as_str()).collect();
        for (text, weak) in &removed {
            let both = come.contains(text);
            let is_weak = *weak || (both && weak_come.contains(text.as_str()));
            told[usize::from(both) * 4 + usize::from(is_weak)].1.push(text.clone());
        }
        for (text, weak) in added.iter().filter(|(text, _)| !gone.contains(text)) {
            told[2 + usize::from(*weak)].1.push(text.clone());
        }
        for (sign, entries, is_weak) in told {
            let Some(listed) = listed(&entries) else { continue };
            let text = if sign.is_empty() { format!("{listed} changed") } else { format!("{sign}{listed}") };
            self.push(path, text, reason.clone().filter(|_| is_weak));
        }
    }
}

/// `a, b and 3 more`, if there is any.
pub(super) fn listed(names: &[impl AsRef<str>]) -> Option<String> {
    let first = names.first()?;
    let mut out = first.as_ref().to_owned();
    for name in names.iter().take(ENTRIES_MAX).skip(1) {
        let _ = write!(out, ", {}", name.as_ref());
    }
    if let Some(more @ 1..) = names.len().checked_sub(ENTRIES_MAX) {
        let _ = write!(out, " and {more} more");
    }
    Some(out)
}

/// The entries of either, in the order of the new one, then what is only in the old one.
pub(super) fn pairs<'f>(olds: &'f [(Key, Form)], news: &'f [(Key, Form)]) -> Vec<(&'f str, &'f Form, &'f Form)> {
    // Keys of one type stand in one order: most often nothing has to be looked up.
    if olds.len() == news.len() && olds.iter().zip(news).all(|((old, _), (new, _))| old == new) {
        return olds.iter().zip(news).map(|((key, old), (_, new))| (key.as_ref(), old, new)).collect();
    }
    let index = |entries: &'f [(Key, Form)]| -> HashMap<&'f str, &'f Form> {
        entries.iter().map(|(key, form)| (key.as_ref(), form)).collect()
    };
    let (was, is) = (index(olds), index(news));
    let both = news.iter().map(|(key, new)| (key.as_ref(), *was.get(key.as_ref()).unwrap_or(&&Form::Nothing), new));
    let gone = olds.iter().filter(|(key, _)| !is.contains_key(key.as_ref()));
    both.chain(gone.map(|(key, old)| (key.as_ref(), old, &Form::Nothing))).collect()
}

/// The items of one list that another does not have, each as often as it is missing.
fn without<'f>(items: &'f [Form], others: &[Form]) -> Vec<&'f Form> {
    let mut left: HashMap<&Form, usize> = HashMap::new();
    others.iter().for_each(|other| *left.entry(other).or_default() += 1);
    let is_missing = |item: &&Form| match left.get_mut(*item) {
        Some(count @ 1..) => {
            *count -= 1;
            false
        }
        _ => true,
    };
    items.iter().filter(is_missing).collect()
}

/// A number, a size in bytes, a duration in seconds or a rate in a second.
fn measure(form: &Form) -> Option<f64> {
    let text = form.text();
    let size = || ByteSize::parse(text).ok().map(|size| size.get() as f64);
    let duration = || HumanDuration::parse(text).ok().map(|duration| duration.get().as_secs_f64());
    let rate = || HumanRate::parse(text).ok().map(HumanRate::per_second);
    match form {
        Form::Plain(text) => text.parse().ok(),
        Form::Text(_) => size().or_else(duration).or_else(rate),
        Form::Nothing | Form::Hidden(_) | Form::List(_) | Form::Map(_) => None,
    }
}

/// A path as guards have it: whatever the entry of a list is called.
fn generic(path: &str) -> Cow<'_, str> {
    let mut rest = path;
    let mut out = String::new();
    while let Some((before, (_, after))) =
        rest.split_once('[').and_then(|(before, inside)| Some((before, inside.split_once(']')?)))
    {
        out += before;
        out += "[]";
        rest = after;
    }
    if out.is_empty() { Cow::Borrowed(path) } else { Cow::Owned(out + rest) }
}

fn joined(path: &str, key: &str) -> String {
    match (path, key) {
        (path, key) if key.starts_with('[') => format!("{path}{key}"),
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        (path, key) => format!("{path}.{key}"),
    }
}
