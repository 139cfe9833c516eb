//! The files that a document came from: [`Source`] finds the place of an issue in them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::super::lookalike;
use super::super::yaml::decode::Turn;
use super::super::yaml::secrecy::{STARS, united};
use super::super::yaml::tree::{Content, Entry, Node, NodeId, Style, Tree, first_line_end};
use super::mask::Mask;
use super::report::Located;
use super::{At, Issue, Issues, KeyPath, Report, Segment, is_simple, quoted};

/// The names and texts of a configuration's files, and where each key and value stands.
///
/// The texts are laid one after the other, so that a range of bytes says which file it is in. A document may lack entries that
/// could not be decoded, or have others in their place. Paths for issues count as the document does; this knows what is
/// missing and counts as the file does.
#[derive(Clone, Debug)]
pub struct Source {
    origins: Origins,
    text: Arc<str>,
    tree: Option<Arc<Tree>>,
    /// Keys and values that could not be decoded.
    lost: HashSet<NodeId>,
    /// Keys of mappings that unknown ones probably stand for.
    misspelt: HashSet<(NodeId, String)>,
    /// Keys of mappings whose value in the document is none of the file's.
    stood_in: HashMap<NodeId, Vec<&'static str>>,
    /// Whether a mapping has a key several times, of which the document has the first value, or the chosen one.
    is_repeated: bool,
    /// Of such keys: those whose values the document has.
    chosen: HashSet<NodeId>,
    /// What came from outside and is not shown.
    mask: Arc<Mask>,
    /// Some of the files could not be read, and what stands in them is not known.
    is_partial: bool,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) name: Arc<str>,
    /// Its bytes among those of all files.
    pub(crate) span: Range<usize>,
    /// Whether the tree has its keys and values. A file that is not YAML has none.
    pub(crate) is_read: bool,
}

/// All files, in the order of their texts. At least one.
#[derive(Clone, Debug)]
pub(crate) struct Origins(Arc<[Origin]>);

impl Origins {
    pub(crate) fn new(main: Origin, others: impl IntoIterator<Item = Origin>) -> Self {
        Self(std::iter::once(main).chain(others).collect())
    }

    pub(super) fn main(&self) -> &Origin {
        &self.0[0]
    }

    /// The file that a byte belongs to.
    pub(super) fn of(&self, at: usize) -> &Origin {
        &self.0[self.0.partition_point(|origin| origin.span.start <= at).max(1) - 1]
    }

    fn are_many(&self) -> bool {
        self.0.len() > 1
    }
}

/// Where a path leads.
struct Place<'s> {
    /// The path as in the file.
    path: KeyPath,
    /// The path as a person reads it.
    words: String,
    /// The key on the last step, if it led into a mapping.
    key: Option<&'s Node>,
    node: &'s Node,
    /// How many steps of the path are there.
    known: usize,
    /// Whether all of the path is there.
    whole: bool,
    /// Whether it leads through a value of a repeated key that is not the first.
    is_other: bool,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let main = Origin { name: name.into(), span: 0..text.len(), is_read: true };
        Self::joined(Origins::new(main, []), text.into())
    }

    /// Of several files, whose texts stand one after the other with a line break between two.
    pub(crate) fn joined(origins: Origins, text: Arc<str>) -> Self {
        Self {
            origins,
            text,
            tree: None,
            lost: HashSet::new(),
            misspelt: HashSet::new(),
            stood_in: HashMap::new(),
            is_repeated: false,
            chosen: HashSet::new(),
            mask: Arc::default(),
            is_partial: false,
        }
    }

    /// Not all of the files could be read.
    pub(crate) fn partial(mut self, is_partial: bool) -> Self {
        self.is_partial = is_partial;
        self
    }

    pub(crate) fn decoded(
        mut self,
        tree: Tree,
        lost: HashSet<NodeId>,
        misspelt: HashSet<(NodeId, String)>,
        stood_in: HashMap<NodeId, Rc<[&'static str]>>,
    ) -> Self {
        self.tree = Some(Arc::new(tree));
        self.lost = lost;
        self.misspelt = misspelt;
        self.stood_in = stood_in.into_iter().map(|(node, keys)| (node, keys.to_vec())).collect();
        self
    }

    /// A mapping has a key several times.
    pub(crate) fn repeated(mut self, is_repeated: bool) -> Self {
        self.is_repeated = is_repeated;
        self
    }

    /// The same files, of which another document has other values of repeated keys.
    pub(crate) fn turned<T>(&self, turn: Turn<T>) -> (T, Self) {
        let Turn { value, chosen, lost, misspelt, stood_in } = turn;
        let stood_in = stood_in.into_iter().map(|(node, keys)| (node, keys.to_vec())).collect();
        (value, Self { lost, misspelt, stood_in, chosen, ..self.clone() })
    }

    /// Keeps values from outside out of every issue.
    pub(crate) fn masked(mut self, mask: Mask) -> Self {
        self.mask = Arc::new(mask);
        self
    }

    /// Puts stars in place of what must not be shown: secrets that stand in the file.
    pub(crate) fn conceal(mut self, spans: &[Range<usize>]) -> Self {
        if spans.is_empty() {
            return self;
        }
        let spans = united(spans.to_vec());
        let mut spans = spans.iter().peekable();
        let mut hidden = |at: usize| {
            while spans.next_if(|span| span.end <= at).is_some() {}
            spans.peek().is_some_and(|span| span.start <= at)
        };
        // As many bytes as before, so that all spans stay true.
        let text: String = self
            .text
            .char_indices()
            .map(|(at, c)| match c {
                '\n' | '\r' => c.to_string(),
                _ if hidden(at) => "*".repeat(c.len_utf8()),
                _ => c.to_string(),
            })
            .collect();
        self.text = text.into();
        self
    }

    /// Whether a text stands in the files, where it may be shown.
    pub(crate) fn shows(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    /// Whether a key is not shown.
    fn hides(&self, key: &Node) -> bool {
        let shown = self.text.get(key.span.clone()).unwrap_or_default();
        shown.len() > 1 && shown.bytes().all(|byte| byte == b'*') && key.text() != shown
    }

    /// The main file's name, as it was given.
    pub fn name(&self) -> &str {
        &self.origins.main().name
    }

    /// Whether something at this path, or below it, stands in the file but could not be decoded, or stands there under a key
    /// that is misspelt, or that the document has another value of.
    ///
    /// The semantic pass asks before it reports that something is missing: an upstream with a mistake in it is not an
    /// unknown upstream.
    pub fn is_lost(&self, path: &KeyPath) -> bool {
        let Some(tree) = &self.tree else { return true };
        if self.is_whole() && !self.is_partial {
            return false;
        }
        match self.place(&tree.root, path, true) {
            // A file that could not be read may have more of what stands at the top.
            place if self.is_partial && (path.segments().len() < 2 || place.known < 2 && !place.whole) => true,
            place if place.whole => self.any_lost(place.node),
            place => self.ends_at_a_loss(&place, path) || self.is_repeated && leads(&tree.root, path.segments()),
        }
    }

    /// Whether the value at this path came from the environment or another file, in part at least.
    pub fn is_filled_in(&self, path: &KeyPath) -> bool {
        let Some(tree) = &self.tree else { return false };
        let place = self.place(&tree.root, path, true);
        place.whole && place.node.scalar().is_some_and(|scalar| scalar.reference.is_some())
    }

    /// Whether the document has at this path a value that nobody wrote there, since what was written could not be read. All
    /// that can be wrong with it follows from that.
    fn is_invented(&self, tree: &Tree, path: &KeyPath) -> bool {
        let place = self.place(&tree.root, path, true);
        !place.whole && self.ends_at_a_loss(&place, path)
    }

    /// Whether everything could be decoded.
    fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.misspelt.is_empty() && self.stood_in.is_empty() && !self.is_repeated
    }

    /// Of a path that leads nowhere: whether that is since what stands there could not be decoded.
    fn ends_at_a_loss(&self, place: &Place<'_>, path: &KeyPath) -> bool {
        match path.segments().get(place.known) {
            // Not in the decoded document; perhaps it is in the file.
            Some(Segment::Key(key)) => {
                let is_lost = |entry: &Entry| self.lost.contains(&entry.key.id) || self.lost.contains(&entry.value.id);
                place.node.entry(key).is_some_and(is_lost)
                    || self.misspelt.contains(&(place.node.id, key.clone()))
                    || self.stood_in.get(&place.node.id).is_some_and(|keys| keys.contains(&key.as_str()))
            }
            _ => self.lost.contains(&place.node.id),
        }
    }

    fn any_lost(&self, node: &Node) -> bool {
        self.lost.contains(&node.id)
            || self.stood_in.contains_key(&node.id)
            || match &node.content {
                Content::Scalar(_) => false,
                Content::List(items) => items.iter().any(|item| self.any_lost(item)),
                Content::Mapping(entries) => {
                    entries.iter().any(|entry| self.lost.contains(&entry.key.id) || self.any_lost(&entry.value))
                }
            }
    }

    /// Brings issues into the order of the file, each with its place, and drops repetitions, and what only seems so since
    /// something could not be read.
    pub fn report(&self, issues: Issues) -> Report {
        let cut = issues.len() >= super::ISSUES_MAX;
        let known = issues.list.into_iter().filter(|issue| !self.follows(issue));
        let mut located: Vec<Located> = known.map(|issue| self.locate(issue)).collect();
        located.sort_by(|a, b| (a.span.start, a.span.end, &a.message).cmp(&(b.span.start, b.span.end, &b.message)));
        // An aliased value is decoded once per alias, and is wrong each time.
        located.dedup_by(|a, b| a.span == b.span && (a.message == b.message || a.is_lookalike && b.is_lookalike));
        Report::new(self.origins.clone(), Arc::clone(&self.text), located, cut)
    }

    /// The same of those issues alone that are in other values of repeated keys than the first: what else is wrong is told
    /// of the document with the first ones, or follows from their absence.
    pub fn report_others(&self, issues: Issues) -> Report {
        let is_other = |issue: &Issue| match &self.tree {
            Some(tree) => self.place(&tree.root, &issue.path, true).is_other,
            None => false,
        };
        let mut others = Issues::new();
        issues.list.into_iter().filter(is_other).for_each(|issue| others.push(issue));
        self.report(others)
    }

    /// Whether it only seems so, since something could not be read.
    fn follows(&self, issue: &Issue) -> bool {
        if issue.goes_by.iter().any(|path| self.is_lost(path)) {
            return true;
        }
        // What was said in reading is of the file, and not of what became of it.
        let Some(tree) = self.tree.as_ref().filter(|_| issue.span.is_none() && !self.is_whole()) else { return false };
        let places = std::iter::once(&issue.path).chain(issue.related.iter().map(|(path, _)| path));
        places.into_iter().any(|path| self.is_invented(tree, path))
    }

    fn locate(&self, issue: Issue) -> Located {
        let is_read = issue.span.as_ref().is_none_or(|span| self.origins.of(span.start).is_read);
        let tree = self.tree.as_ref().filter(|_| is_read);
        let place = tree.map(|tree| self.place(&tree.root, &issue.path, issue.span.is_none()));
        let about = place.as_ref().filter(|place| place.whole).and_then(|place| place.node.scalar());
        let mask = |text: String| self.mask.apply(text, about, &self.text);
        let message = mask(issue.message);
        let hint = issue.hint.map(|hint| match hint {
            Cow::Borrowed(fixed) => fixed.to_owned(),
            Cow::Owned(hint) => mask(hint),
        });
        // A value that is not what it seems has a remedy of its own.
        let marked = place.as_ref().filter(|place| place.whole).and_then(|place| {
            let key = place
                .key
                .filter(|key| issue.span.as_ref() == Some(&key.span) || issue.span.is_none() && issue.at == At::Key);
            match key {
                Some(key) => key.scalar(),
                None => about.filter(|_| issue.span.as_ref().is_none_or(|span| *span == place.node.span)),
            }
        });
        let marked = marked.filter(|scalar| !scalar.is_outside());
        let seems = marked.filter(|_| !issue.is_of_its_own).and_then(|scalar| lookalike::remedy(&scalar.text));
        let is_lookalike = seems.is_some();
        let hint = seems.or(hint);
        let (Some(tree), Some(place)) = (tree, place) else {
            let span = issue.span.unwrap_or(0..0);
            let mut words = String::new();
            issue.path.segments().iter().for_each(|segment| add_words(&mut words, segment, None));
            return Located::new(span, issue.path.to_string(), words, message, hint, issue.also);
        };
        let span = match issue.span {
            Some(span) => self.one_line(span),
            None => {
                let part = issue.part.filter(|_| place.whole);
                let part = part.and_then(|(text, part)| self.part(&place.node.span, &text, part));
                part.unwrap_or_else(|| self.mark(&place, issue.at))
            }
        };
        let mut related: Vec<(Range<usize>, String)> =
            issue.also.into_iter().map(|(span, label)| (self.one_line(span), label)).collect();
        for (path, label) in issue.related {
            let other = self.place(&tree.root, &path, true);
            related.push((self.mark(&other, At::Key), mask(label)));
        }
        related.retain(|(other, _)| *other != span);
        let mut located = Located::new(span, place.path.to_string(), place.words, message, hint, related);
        located.is_lookalike = is_lookalike;
        located
    }

    /// The bytes to underline for the end of a path.
    fn mark(&self, place: &Place<'_>, at: At) -> Range<usize> {
        // Of a path that leads nowhere, the nearest thing that exists is marked: its key says more than its value.
        let at = if place.whole { at } else { At::Key };
        let block = match &place.node.content {
            Content::Scalar(scalar) => scalar.style == Style::Absent,
            _ => !matches!(self.text.as_bytes().get(place.node.span.start), Some(b'{' | b'[' | b'*')),
        };
        match place.key {
            Some(key) if at == At::Key || block => self.one_line(key.span.clone()),
            _ => self.one_line(head(place.node)),
        }
    }

    /// Bytes of a value's text as bytes of the file, if that line of it stands in the file as it is.
    fn part(&self, value: &Range<usize>, text: &str, part: Range<usize>) -> Option<Range<usize>> {
        let start = text.get(..part.start)?.rfind('\n').map_or(0, |before| before + 1);
        let line = text[start..].lines().next()?;
        let indent = line.len() - line.trim_start().len();
        let (line, start) = (line.trim(), start + indent);
        let at = value.start + self.text.get(value.clone())?.find(line).filter(|_| !line.is_empty())?;
        let from = part.start.checked_sub(start)?.min(line.len());
        let to = part.end.saturating_sub(start).clamp(from, line.len());
        Some(at + from..at + to)
    }

    fn one_line(&self, span: Range<usize>) -> Range<usize> {
        let end = first_line_end(&self.text, &span);
        span.start..end.max(span.start)
    }

    /// Which entry of its own file's list an item is: those of other files may stand before it.
    fn in_file(&self, before: &[Node], item: &Node) -> usize {
        if !self.origins.are_many() {
            return before.len();
        }
        let file = &self.origins.of(item.span.start).span;
        before.iter().filter(|other| self.origins.of(other.span.start).span == *file).count()
    }

    /// Follows a path as far as it leads. `decoded`: positions in lists count without what could not be decoded.
    fn place<'s>(&'s self, root: &'s Node, path: &KeyPath, decoded: bool) -> Place<'s> {
        let mut place = Place {
            path: KeyPath::root(),
            words: String::new(),
            key: None,
            node: root,
            known: 0,
            whole: true,
            is_other: false,
        };
        let is_there = |node: &Node| !decoded || !self.lost.contains(&node.id);
        for (position, segment) in path.segments().iter().enumerate() {
            let next = match (segment, &place.node.content) {
                (Segment::Index(index), Content::List(items)) => {
                    items.iter().enumerate().filter(|(_, item)| is_there(item)).nth(*index).map(|(original, item)| {
                        let before = &items[..original];
                        (Segment::Index(if position == 1 { self.in_file(before, item) } else { original }), None, item)
                    })
                }
                // Of a key that stands there twice the first counts, or the one that the document has.
                (Segment::Key(key), Content::Mapping(entries)) => {
                    let mut same = entries.iter().filter(|entry| entry.key.text() == key).peekable();
                    let first = same.peek().copied();
                    let chosen = same.find(|entry| self.chosen.contains(&entry.key.id)).or(first);
                    let chosen = chosen.filter(|entry| is_there(&entry.key) && is_there(&entry.value));
                    chosen.map(|entry| {
                        place.is_other |= first.is_some_and(|first| first.key.id != entry.key.id);
                        (segment.clone(), Some(&entry.key), &entry.value)
                    })
                }
                _ => None,
            };
            let Some((segment, key, node)) = next else {
                place.whole = false;
                // Shown all the same: `routes[0].proxy.upstream` tells more than `routes[0]`.
                for rest in &path.segments()[position..] {
                    let rest = match rest {
                        Segment::Key(key) => Segment::Key(self.mask.apply(key.clone(), None, &self.text)),
                        index => index.clone(),
                    };
                    add_words(&mut place.words, &rest, None);
                    place.path.push(rest);
                }
                return place;
            };
            let segment = if key.is_some_and(|key| self.hides(key)) { Segment::Key(STARS.into()) } else { segment };
            add_words(&mut place.words, &segment, Some(node));
            place.path.push(segment);
            place.key = key;
            place.node = node;
            place.known += 1;
        }
        place
    }
}

/// Whether a path leads somewhere, by whichever value of a repeated key.
fn leads(node: &Node, path: &[Segment]) -> bool {
    let Some((step, rest)) = path.split_first() else { return true };
    match (step, &node.content) {
        (Segment::Key(key), Content::Mapping(entries)) => {
            entries.iter().any(|entry| entry.key.text() == key && leads(&entry.value, rest))
        }
        (Segment::Index(index), Content::List(items)) => items.get(*index).is_some_and(|item| leads(item, rest)),
        _ => false,
    }
}

/// The part of a node that stands for all of it: of a mapping within a list, its first key.
fn head(node: &Node) -> Range<usize> {
    match &node.content {
        Content::Mapping(entries) => match entries.first() {
            Some(entry) if entry.key.span.start == node.span.start => entry.key.span.clone(),
            _ => node.span.clone(),
        },
        _ => node.span.clone(),
    }
}

/// `routes[2] "orders" › proxy › upstream`.
fn add_words(words: &mut String, segment: &Segment, node: Option<&Node>) {
    match segment {
        Segment::Index(index) => {
            words.push_str(&format!("[{index}]"));
            let name = node.and_then(|node| node.entry("name")).and_then(|entry| entry.value.scalar());
            if let Some(name) = name.filter(|name| !name.text.is_empty()) {
                words.push(' ');
                words.push_str(&quoted(name.shown()));
            }
        }
        Segment::Key(key) => {
            if !words.is_empty() {
                words.push_str(" › ");
            }
            if is_simple(key) { words.push_str(key) } else { words.push_str(&quoted(key)) }
        }
    }
}
