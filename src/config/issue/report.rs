//! Issues for people and for machines: as text with the lines of the file, as JSON, as annotations of a pull request.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::{ISSUES_MAX, Origin, Origins};

/// How many issues are shown as text. The rest is counted.
const SHOWN_MAX: usize = 50;

/// What is wrong with a configuration, in the order of its files and of their lines.
///
/// As an error it shows what [`text`](Self::text) shows, without colours.
#[derive(Clone, Debug)]
pub struct Report {
    origins: Origins,
    /// Of all files.
    text: Arc<str>,
    issues: Vec<Located>,
    /// More were found than are kept.
    cut: bool,
}

/// An issue that has its place.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) span: Range<usize>,
    path: String,
    words: String,
    pub(super) message: String,
    hint: Option<String>,
    /// Whether it is wrong since it is not what it seems: then whatever else is said of it follows.
    pub(super) is_lookalike: bool,
    related: Vec<(Range<usize>, String)>,
}

impl Located {
    pub(super) fn new(
        span: Range<usize>,
        path: String,
        words: String,
        message: String,
        hint: Option<String>,
        related: Vec<(Range<usize>, String)>,
    ) -> Self {
        Self { span, path, words, message, hint, is_lookalike: false, related }
    }
}

/// One issue of a report, for tests and for those who show it in their own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark<'r> {
    /// The file's name.
    pub file: &'r str,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key path: `routes[2].proxy.upstream`.
    pub path: &'r str,
    /// What is wrong.
    pub message: &'r str,
    /// What to do about it.
    pub hint: Option<&'r str>,
}

impl Report {
    pub(super) fn new(origins: Origins, text: Arc<str>, issues: Vec<Located>, cut: bool) -> Self {
        Self { origins, text, issues, cut }
    }

    /// Adds what another report tells of the same files.
    pub fn add(&mut self, other: Self) {
        self.issues.extend(other.issues);
        self.issues.sort_by(|a, b| (a.span.start, a.span.end, &a.message).cmp(&(b.span.start, b.span.end, &b.message)));
        self.issues.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        self.cut |= other.cut || self.issues.len() > ISSUES_MAX;
        self.issues.truncate(ISSUES_MAX);
    }

    /// The main file's name.
    pub fn name(&self) -> &str {
        &self.origins.main().name
    }

    /// How many issues there are.
    pub fn len(&self) -> usize {
        self.issues.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.issues.is_empty()
    }

    /// Each issue with its file, line and column.
    pub fn marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let lines = self.lines();
        self.issues.iter().map(move |issue| {
            let (line, column) = self.position(&lines, issue.span.start);
            let file = &self.origins.of(issue.span.start).name;
            Mark { file, line, column, path: &issue.path, message: &issue.message, hint: issue.hint.as_deref() }
        })
    }

    /// For a terminal or a log: each issue with the lines it is about, its path and its remedy, then their number.
    /// The caller decides about colours.
    pub fn text(&self, coloured: bool) -> String {
        let renderer = if coloured { Renderer::styled().hyperlink(false) } else { Renderer::plain() };
        let renderer = renderer.term_width(120);
        let mut out = String::new();
        for issue in self.issues.iter().take(SHOWN_MAX) {
            let mut group: Group<'_> = Group::with_title(Level::ERROR.primary_title(&issue.message));
            let origin = self.origins.of(issue.span.start);
            if origin.span.is_empty() {
                // Of a file that could not be read there is nothing to show but the name.
                group = group.element(annotate_snippets::Origin::path(&*origin.name));
            } else {
                let marked = AnnotationKind::Primary.span(self.visible(origin, &issue.span));
                group = group.element(self.snippet(origin, issue).annotation(marked));
            }
            // Related places in other files, each file once, in their order.
            let others: BTreeMap<usize, &Origin> = issue
                .related
                .iter()
                .map(|(span, _)| self.origins.of(span.start))
                .filter(|other| other.span != origin.span && !other.span.is_empty())
                .map(|other| (other.span.start, other))
                .collect();
            for other in others.into_values() {
                group = group.element(self.snippet(other, issue));
            }
            if !issue.words.is_empty() {
                group = group.element(Level::NOTE.with_name("in").message(&issue.words));
            }
            if let Some(hint) = &issue.hint {
                group = group.element(Level::HELP.message(hint));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        let shown = self.issues.len().min(SHOWN_MAX);
        let _ = match self.issues.len() {
            1 => writeln!(out, "1 issue"),
            all if all > shown || self.cut => {
                let more = if self.cut { " or more" } else { "" };
                let _ = write!(out, "{all}{more} issues");
                // All that are kept, when there are more than that.
                match all > shown {
                    true => writeln!(out, ", of which the first {shown} are shown; `--format json` shows all {all}"),
                    false => writeln!(out),
                }
            }
            all => writeln!(out, "{all} issues"),
        };
        out
    }

    /// A file with the places of it that an issue is related to.
    fn snippet<'s>(&'s self, origin: &'s Origin, issue: &'s Located) -> Snippet<'s, annotate_snippets::Annotation<'s>> {
        let here = issue.related.iter().filter(|(span, _)| self.origins.of(span.start).span == origin.span);
        let marked =
            here.map(|(span, label)| AnnotationKind::Context.span(self.visible(origin, span)).label(label.as_str()));
        Snippet::source(&self.text[origin.span.clone()]).path(&*origin.name).annotations(marked)
    }

    /// For programs: an array of `{file, line, column, end_line, end_column, path, message, hint, related}`. Lines
    /// and columns count from 1, columns in characters; the end is the first character after. `hint` may be null.
    /// `related` has a `file` of its own in each entry.
    pub fn json(&self) -> Value {
        let lines = self.lines();
        let place = |span: &Range<usize>| {
            let (line, column) = self.position(&lines, span.start);
            let (end_line, end_column) = self.position(&lines, span.end);
            (line, column, end_line, end_column)
        };
        let issues = self.issues.iter().map(|issue| {
            let (line, column, end_line, end_column) = place(&issue.span);
            let related: Vec<Value> = issue
                .related
                .iter()
                .map(|(span, message)| {
                    let (line, column, end_line, end_column) = place(span);
                    json!({
                        "file": &*self.origins.of(span.start).name,
                        "line": line, "column": column, "end_line": end_line, "end_column": end_column,
                        "message": message,
                    })
                })
                .collect();
            json!({
                "file": &*self.origins.of(issue.span.start).name,
                "line": line, "column": column, "end_line": end_line, "end_column": end_column,
                "path": issue.path, "message": issue.message, "hint": issue.hint, "related": related,
            })
        });
        Value::Array(issues.collect())
    }

    /// For GitHub Actions: an `::error` command per issue, which marks the line in the pull request.
    pub fn github(&self) -> String {
        let lines = self.lines();
        let mut out = String::new();
        for issue in &self.issues {
            let (line, column) = self.position(&lines, issue.span.start);
            let (end_line, end_column) = self.position(&lines, issue.span.end);
            let mut message = issue.message.clone();
            if !issue.words.is_empty() {
                let _ = write!(message, "\nin: {}", issue.words);
            }
            for (span, label) in &issue.related {
                let (line, column) = self.position(&lines, span.start);
                let _ = write!(message, "\n{label}: {}:{line}:{column}", self.origins.of(span.start).name);
            }
            if let Some(hint) = &issue.hint {
                let _ = write!(message, "\nhelp: {hint}");
            }
            let _ = writeln!(
                out,
                "::error file={},line={line},endLine={end_line},col={column},endColumn={end_column}::{}",
                escape_property(&self.origins.of(issue.span.start).name),
                escape_data(&message),
            );
        }
        out
    }

    /// Where each line begins.
    fn lines(&self) -> Vec<usize> {
        std::iter::once(0).chain(self.text.match_indices('\n').map(|(at, _)| at + 1)).collect()
    }

    /// Line and column within the file.
    fn position(&self, lines: &[usize], at: usize) -> (usize, usize) {
        let number = |at: usize| lines.partition_point(|start| *start <= at).max(1);
        let start = lines[number(at) - 1];
        // A file begins on a line of its own.
        let line = number(at) - number(self.origins.of(at).span.start) + 1;
        let before = self.text.get(start..at).unwrap_or("");
        // A byte-order mark is no character of the first line.
        let column = before.chars().filter(|c| *c != '\u{feff}').count();
        (line, column + 1)
    }

    /// A span that the renderer can underline: within the text of its file, on boundaries of characters.
    fn visible(&self, origin: &Origin, span: &Range<usize>) -> Range<usize> {
        let text = &self.text[origin.span.clone()];
        let within = |at: usize| {
            let at = at.saturating_sub(origin.span.start).min(text.len());
            (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
        };
        let start = within(span.start);
        start..within(span.end).max(start)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text(false).trim_end())
    }
}

impl std::error::Error for Report {}

/// As GitHub's own toolkit does it, or a message could end the command and begin another.
fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}
