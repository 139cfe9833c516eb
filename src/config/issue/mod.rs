//! What is wrong with a document: [`Issue`], told all at once, each at its place and with a remedy.

mod mask;
mod report;
mod source;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

pub(crate) use mask::Mask;
pub use report::{Mark, Report};
pub use source::Source;
pub(super) use source::{Origin, Origins};

/// How many issues are collected. A file with more has one cause that repeats.
pub const ISSUES_MAX: usize = 500;

/// One thing that is wrong, where, and what to do.
///
/// A message begins in lower case, ends without a stop, shows what the user wrote in backticks and knows no word of
/// the programming language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The key or value that is wrong.
    pub path: KeyPath,
    /// Whether the key or its value is marked.
    pub at: At,
    /// What is wrong.
    pub message: String,
    /// What to do about it. A fixed text shows nothing of any value, and is never masked.
    pub hint: Option<Cow<'static, str>>,
    /// Other places that have to do with it, each with a few words.
    pub related: Vec<(KeyPath, String)>,
    /// Bytes of the file, from those who know them. The path then is as in the file.
    span: Option<Range<usize>>,
    /// Of a value that is a text of its own: all of it, and which bytes of it are meant.
    part: Option<(String, Range<usize>)>,
    also: Vec<(Range<usize>, String)>,
    /// It is true only if what stands at these places could be read.
    goes_by: Vec<KeyPath>,
    /// Whether its remedy is about what the value seems to be, and no other is looked for.
    is_of_its_own: bool,
}

/// Which part of an entry is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl Issue {
    /// An issue with the value at a path.
    pub fn new(path: KeyPath, message: impl Into<String>) -> Self {
        Self {
            path,
            at: At::Value,
            message: message.into(),
            hint: None,
            related: Vec::new(),
            span: None,
            part: None,
            also: Vec::new(),
            goes_by: Vec::new(),
            is_of_its_own: false,
        }
    }

    /// Says that something is missing, or differs, at this place or below it. Where what stands there could not be read, which is
    /// an issue of its own, nobody knows, and a report leaves this one out.
    #[must_use]
    pub fn goes_by(mut self, path: KeyPath) -> Self {
        self.goes_by.push(path);
        self
    }

    /// The same of the place of the issue itself.
    #[must_use]
    pub fn of_absence(self) -> Self {
        let path = self.path.clone();
        self.goes_by(path)
    }

    /// The same of these keys of the place of the issue.
    #[must_use]
    pub fn of_absence_of(self, keys: &[&str]) -> Self {
        let path = self.path.clone();
        keys.iter().fold(self, |issue, key| issue.goes_by(path.key(*key)))
    }

    /// Marks the key instead of its value.
    #[must_use]
    pub fn at_key(mut self) -> Self {
        self.at = At::Key;
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As `hint`, if there is one: `.maybe_hint(suggest(name, known).map(|near| format!("did you mean `{near}`?")))`.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.map(Cow::Owned).or(self.hint);
        self
    }

    /// Says that the remedy knows what the value was taken for. Else one that looks like a variable of a shell, say, is told to be
    /// one.
    #[must_use]
    pub fn of_its_own(mut self) -> Self {
        self.is_of_its_own = true;
        self
    }

    /// Marks another place too, with a few words about its part in this.
    #[must_use]
    pub fn related(mut self, path: KeyPath, label: impl Into<String>) -> Self {
        self.related.push((path, label.into()));
        self
    }

    /// Marks these bytes of the value, whose text is this, and not all of it.
    #[must_use]
    pub fn part(mut self, text: impl Into<String>, part: Range<usize>) -> Self {
        self.part = Some((text.into(), part));
        self
    }

    /// Where it is in the file, and that the path is the file's own.
    #[must_use]
    pub(super) fn span(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Moves it from its file to where that stands among the others: `by` bytes further, and in lists by as many entries
    /// as the files before have under that key.
    #[must_use]
    pub(super) fn moved(mut self, by: usize, entries: &HashMap<String, usize>) -> Self {
        if let [Segment::Key(key), Segment::Index(index), ..] = self.path.segments.as_mut_slice() {
            *index += entries.get(key).copied().unwrap_or(0);
        }
        let shifted = |span: Range<usize>| span.start + by..span.end + by;
        self.span = self.span.map(shifted);
        self.also = self.also.into_iter().map(|(span, label)| (shifted(span), label)).collect();
        self
    }

    #[must_use]
    pub(super) fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }
}

/// All that is wrong with a document. Order does not matter: a [`Report`] sorts by place and drops repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issues {
    list: Vec<Issue>,
}

impl Issues {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one. Beyond [`ISSUES_MAX`] they are dropped.
    pub fn push(&mut self, issue: Issue) {
        if self.list.len() < ISSUES_MAX {
            self.list.push(issue);
        }
    }

    /// Adds all of another collection.
    pub fn append(&mut self, other: Issues) {
        for issue in other.list {
            self.push(issue);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Each of them, as they came.
    pub fn iter(&self) -> std::slice::Iter<'_, Issue> {
        self.list.iter()
    }
}

impl<'i> IntoIterator for &'i Issues {
    type Item = &'i Issue;
    type IntoIter = std::slice::Iter<'i, Issue>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Where something stands in a document: keys, and positions in lists, from the top.
///
/// ```
/// use armiger::config::KeyPath;
///
/// let path = KeyPath::root().key("routes").index(2).key("proxy").key("upstream");
/// assert_eq!(path.to_string(), "routes[2].proxy.upstream");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyPath {
    segments: Vec<Segment>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Into a mapping.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

impl KeyPath {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The value of a key.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// An entry of a list, from 0. In a path for an issue: its position in the decoded list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The steps from the top.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = Vec::with_capacity(self.segments.len() + 1);
        segments.extend_from_slice(&self.segments);
        segments.push(segment);
        Self { segments }
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    pub(super) fn pop(&mut self) {
        self.segments.pop();
    }

    pub(super) fn without_last_index(mut self) -> Self {
        while let Some(Segment::Index(_)) = self.segments.last() {
            self.segments.pop();
        }
        self
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.segments.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if is_simple(key) && position == 0 => f.write_str(key)?,
                Segment::Key(key) if is_simple(key) => write!(f, ".{key}")?,
                Segment::Key(key) => write!(f, "[{}]", quoted(key))?,
            }
        }
        Ok(())
    }
}

/// Whether a key needs no quotes in a path.
fn is_simple(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'))
}

/// A name in double quotes, on one line.
fn quoted(name: &str) -> String {
    format!("\"{}\"", shown(name))
}

/// What the user wrote, in backticks, on one line, and not too long.
pub fn quote(text: &str) -> String {
    format!("`{}`", shown(text))
}

/// Text for a message: without line breaks, control characters and marks that turn the direction of writing.
fn shown(text: &str) -> String {
    const LENGTH_MAX: usize = 60;
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LENGTH_MAX {
            out.push('…');
            break;
        }
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The known name that was probably meant, if one is near.
///
/// Near is: the same but for capitals, `-` and `_`; a letter or two away, by the length of the name; or one that the
/// name only adds a word to.
pub fn suggest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' ', '.'], "");
    // Distance takes the product of both lengths.
    if name.len() > 100 {
        return None;
    }
    let wanted = plain(name);
    let allowed = match wanted.chars().count() {
        0 => return None,
        1..=2 => 0,
        3..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let other = plain(candidate);
        let mut distance = strsim::damerau_levenshtein(&wanted, &other);
        // `upstream_name` for `upstream`, `first_byte_timeout` for `first_byte`.
        let longer = wanted.len().min(other.len()) >= 4 && (wanted.starts_with(&other) || other.starts_with(&wanted))
            // `allow_origins` for `origins`.
            || other.len() >= 6 && name.to_lowercase().ends_with(&format!("_{}", candidate.to_lowercase()));
        if longer {
            distance = distance.min(3);
        }
        if (distance <= allowed || longer) && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_one_would_write_it() {
        let path = KeyPath::root().key("upstreams").key("my app").key("endpoints").index(1);
        assert_eq!(path.to_string(), "upstreams[\"my app\"].endpoints[1]");
        assert_eq!(KeyPath::root().to_string(), "");
    }

    #[test]
    fn the_name_that_was_meant_is_suggested() {
        let known = ["endpoints", "protocol", "timeouts", "first_byte", "RS256", "json"];
        for (name, meant) in [
            ("endpoint", Some("endpoints")),
            ("Timeouts", Some("timeouts")),
            ("time-outs", Some("timeouts")),
            ("timeuots", Some("timeouts")),
            ("firstbyte", Some("first_byte")),
            ("first_byte_timeout", Some("first_byte")),
            ("max_endpoints", Some("endpoints")),
            ("RS255", Some("RS256")),
            ("JSON", Some("json")),
            ("banana", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(suggest(name, known).as_deref(), meant, "{name}");
        }
    }

    #[test]
    fn a_quoted_text_stays_on_its_line() {
        assert_eq!(quote("a\nb\u{1b}[31m"), "`a\\nb\\u{1b}[31m`");
        assert_eq!(quote(&"x".repeat(100)).chars().count(), 63);
    }

    #[test]
    fn more_issues_than_anyone_reads_are_not_kept() {
        let mut issues = Issues::new();
        for _ in 0..ISSUES_MAX + 10 {
            issues.push(Issue::new(KeyPath::root(), "x"));
        }
        assert_eq!(issues.len(), ISSUES_MAX);
    }
}
